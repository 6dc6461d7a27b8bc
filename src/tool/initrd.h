/* SPDX-License-Identifier: MIT */
/*
 * The initrd that `guestward boot` builds when none is given: a static busybox, the kernel's own virtio modules, an /init
 * script, and either a command to run or a short tour of the machine. Everything is made here, in memory.
 */
#ifndef TOOL_INITRD_H
#define TOOL_INITRD_H

#include <stdbool.h>

#include "blob.h"

struct initrd_plan {
	const char *busybox;		/* host path of a static busybox */
	const char *modules;		/* lib/modules/VERSION on the host, or NULL */
	const char *first_module;	/* a module's file on the host, loaded before all others, or NULL */
	bool disks;			/* modules for disks and ext4 too */
	const char *const *files;	/* HOST[:GUEST] */
	unsigned n_files;
	char *const *command;		/* NULL-terminated; NULL: the tour */
	bool plain;			/* input or output is not a terminal: bytes pass as they are, and Ctrl-D is the end */
	bool asks_lock;			/* --protect: says through power.h that the kernel may be locked, before the command */
};

int initrd_build(struct blob *out, const struct initrd_plan *plan, struct err *err);

/* Appends the arguments, quoted for sh. -1: out of memory. For tests. */
int shell_quote(struct blob *out, char *const *arguments);

#endif
