/* SPDX-License-Identifier: MIT */
/*
 * Writes a cpio archive in the "newc" form, which Linux takes as initramfs. In memory, in the order of the calls; parents
 * before children is the caller's business. Failure is kept in `failed` and asked for once, at the end.
 */
#ifndef TOOL_CPIO_H
#define TOOL_CPIO_H

#include <stdbool.h>

#include "blob.h"

struct cpio {
	struct blob out;
	uint32_t inode;
	bool failed;		/* out of memory, or a file of 4 GiB and more */
};

/* Paths without a leading slash. */
void cpio_directory(struct cpio *c, const char *path);
void cpio_file(struct cpio *c, const char *path, unsigned permissions, const void *data, size_t size);
void cpio_symlink(struct cpio *c, const char *path, const char *target);
void cpio_char_device(struct cpio *c, const char *path, unsigned permissions, unsigned major, unsigned minor);
void cpio_finish(struct cpio *c);

#endif
