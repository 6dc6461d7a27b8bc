/* SPDX-License-Identifier: MIT */
/*
 * A run of bytes in memory that we own: a file read in, an unpacked kernel, an initrd being built.
 * A file is read, not mapped: a file that shrinks while it is mapped would kill us with SIGBUS.
 */
#ifndef TOOL_BLOB_H
#define TOOL_BLOB_H

#include <stddef.h>
#include <stdint.h>

#include "err.h"

struct blob {
	uint8_t *data;
	size_t size;
	size_t capacity;
};

/* Reads a whole file (or pipe) of at most max bytes; @what names it in the error ("kernel"). */
int blob_read(struct blob *blob, const char *path, size_t max, const char *what, struct err *err);

/* Makes room for @extra more bytes after size without changing size. -1: out of memory, nothing changed. */
int blob_reserve(struct blob *blob, size_t extra);

/* Appends a copy. -1: out of memory, nothing changed. */
int blob_append(struct blob *blob, const void *data, size_t size);

void blob_free(struct blob *blob);

#endif
