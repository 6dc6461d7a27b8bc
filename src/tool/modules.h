/* SPDX-License-Identifier: MIT */
/*
 * Kernel modules for the initrd: finds them in a lib/modules/VERSION tree, unpacks them, and puts every module behind what
 * it depends on. Dependencies come from the modules' own records (.modinfo, "depends="): the package a kernel comes in has
 * no modules.dep, which is made only where the kernel is installed.
 */
#ifndef TOOL_MODULES_H
#define TOOL_MODULES_H

#include "blob.h"

#define MODULES_MAX 64u

struct module {
	char *name;		/* as the kernel names it: '_' for '-' */
	struct blob image;	/* ELF, unpacked */
};

struct modules {
	struct module list[MODULES_MAX];	/* in load order */
	unsigned n;
};

/*
 * Adds @wanted (NULL-terminated) and what they need. A module that is not in the tree is taken to be built into the kernel.
 */
int modules_collect(struct modules *modules, const char *directory, const char *const *wanted, struct err *err);
/* Adds the module in this file, and nothing that it needs. */
int modules_add_file(struct modules *modules, const char *path, struct err *err);
void modules_free(struct modules *modules);

/* The "depends=" record of a module's ELF image (a comma-separated list, not terminated by 0 inside @length), or NULL. */
const char *module_depends(const uint8_t *image, size_t size, size_t *length);

#endif
