/* SPDX-License-Identifier: MIT */
/* Names for addresses, from a file in the form of System.map or /proc/kallsyms: "address type name [module]" a line. */
#ifndef TOOL_SYMBOLS_H
#define TOOL_SYMBOLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"

struct symbols { struct symbol { uint64_t address; const char *name; } *list; size_t n; char *text; };

/* Trailing NUL bytes are no error: a guest may have written the file to a disk. */
int symbols_read(struct symbols *s, const char *path, struct err *err);
void symbols_free(struct symbols *s);

/* "name+0x12", or "" where nothing is near; @s may be empty. Returns @buf. */
const char *symbols_name(const struct symbols *s, uint64_t address, char *buf, size_t size);

#endif
