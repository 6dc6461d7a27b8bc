/* SPDX-License-Identifier: MIT */
/*
 * ELF executables (64-bit x86-64, or 32-bit i386 for PVH) into guest memory by their program headers' physical addresses.
 */
#ifndef TOOL_ELF_LOAD_H
#define TOOL_ELF_LOAD_H

#include <stdbool.h>

#include "blob.h"
#include "ram.h"

struct elf_image {
	bool is_64;
	uint64_t entry;		/* guest physical */
	uint64_t start, end;	/* of all loaded segments */
	bool has_pvh;
	uint64_t pvh_entry;	/* XEN_ELFNOTE_PHYS32_ENTRY */
};

bool elf_recognised(const uint8_t *data, size_t size);
int elf_load(struct elf_image *image, const uint8_t *data, size_t size, const struct ram *ram, struct err *err);

#endif
