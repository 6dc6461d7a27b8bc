/* SPDX-License-Identifier: MIT */
/*
 * Unpacking of compressed kernels and modules, by the libraries that own the formats: gzip (zlib), xz (liblzma), zstd
 * (libzstd) and the legacy LZ4 frame that the kernel build writes (liblz4). The format is taken from the first bytes.
 * Input is hostile: what comes out is bounded by the caller.
 */
#ifndef TOOL_UNPACK_H
#define TOOL_UNPACK_H

#include <stdbool.h>

#include "blob.h"

/* Name of the compression these bytes begin with, or NULL. Includes formats that unpack() refuses. */
const char *unpack_format(const uint8_t *in, size_t size);

/*
 * Unpacks into a fresh blob of at most @max bytes. Up to 4 bytes after the end of the compressed stream are ignored: the
 * kernel build appends the unpacked size there. @what names the thing in errors.
 */
int unpack(struct blob *out, const uint8_t *in, size_t size, size_t max, const char *what, struct err *err);

#endif
