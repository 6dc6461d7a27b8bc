/* SPDX-License-Identifier: MIT */
/*
 * Recognises a kernel image, places it in guest memory and says how to enter it.
 *
 * Images: bzImage (its payload is unpacked here and loaded as ELF, or with DECOMPRESS_GUEST the kernel unpacks itself),
 * and plain ELF (vmlinux). No relocation is done: an ELF runs at its own addresses.
 * Every offset and length of the file is checked; the file may be anything.
 */
#ifndef TOOL_KERNEL_H
#define TOOL_KERNEL_H

#include <stdbool.h>

#include "blob.h"
#include "ram.h"

enum kernel_protocol {
	PROTOCOL_AUTO,
	PROTOCOL_LINUX64,	/* 64-bit boot protocol: long mode, boot_params in RSI */
	PROTOCOL_PVH,		/* 32-bit protected mode, hvm_start_info in EBX */
};

enum kernel_decompress {
	DECOMPRESS_HOST,
	DECOMPRESS_GUEST,
};

#define KERNEL_FILE_MAX		(512ull << 20)
#define KERNEL_UNPACKED_MAX	(1024ull << 20)

/* The setup header's place in boot_params and in the bzImage (Linux x86 boot protocol, "The Real-Mode Kernel Header"). */
#define SETUP_HEADER		0x1f1u
#define SETUP_HEADER_END	0x290u

struct kernel {
	enum kernel_protocol protocol;
	uint64_t entry;			/* guest physical */
	uint64_t start, end;		/* what the kernel occupies or will unpack itself over */
	uint64_t initrd_max;		/* last byte an initrd may have */
	uint32_t cmdline_max;		/* bytes, without the final 0 */
	uint8_t header[SETUP_HEADER_END - SETUP_HEADER];	/* setup header of a bzImage, else a made-up one */
};

int kernel_load(struct kernel *kernel, const struct blob *file, const struct ram *ram, enum kernel_protocol protocol,
		enum kernel_decompress decompress, struct err *err);

#endif
