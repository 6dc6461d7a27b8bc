/* SPDX-License-Identifier: MIT */
/*
 * The guest's memory and its map, as on a PC: RAM from 0 to at most 3.25 GiB, a hole for devices up to 4 GiB, the rest of
 * RAM above. Fixed places used by the loader and the devices are here too, so that one page shows the whole layout.
 */
#ifndef TOOL_RAM_H
#define TOOL_RAM_H

#include <stdbool.h>
#include <stdint.h>

#include "err.h"

/* Below 1 MiB: what the loader leaves for the kernel. Everything from LOW_TABLES to LOW_TABLES_END is written by us. */
#define ADDR_GDT		0x1000ull
#define ADDR_TSS		0x2000ull
#define ADDR_PVH_INFO		0x6000ull	/* hvm_start_info, module list, memory map: one page */
#define ADDR_BOOT_PARAMS	0x7000ull	/* one page */
#define ADDR_PAGE_TABLES	0x9000ull	/* PML4, PDPT, 4 page directories: 6 pages */
#define ADDR_CMDLINE		0x20000ull
#define ADDR_CMDLINE_END	0x30000ull
#define ADDR_EBDA		0x9fc00ull	/* RAM ends here for the kernel, as on a PC */
#define ADDR_ACPI		0xe0000ull	/* RSDP first: also found by the scan of 0xe0000-0xfffff */
#define ADDR_ACPI_END		0x100000ull
#define ADDR_KERNEL_MIN		0x100000ull

/* The device hole. */
#define RAM_LOW_MAX		0xd0000000ull
#define ADDR_VIRTIO		0xd0000000ull	/* VIRTIO_STRIDE bytes per device */
#define VIRTIO_STRIDE		0x1000ull
#define ADDR_CONTROL		0xd0100000ull	/* see power.h */
#define ADDR_IOAPIC		0xfec00000ull
#define ADDR_LAPIC		0xfee00000ull
#define ADDR_IDENTITY_MAP	0xfffbc000ull	/* KVM on Intel keeps these four pages for real mode */
#define ADDR_KVM_TSS		0xfffbd000ull
#define RAM_HIGH_START		0x100000000ull

#define RAM_MIN			(16ull << 20)
#define RAM_MAX			(1ull << 40)

struct ram {
	/* May a device write there? NULL: everywhere. */
	bool (*may_write)(void *opaque, uint64_t gpa, uint64_t len);
	void *opaque;
	uint8_t *host;		/* one mapping: low part first, high part right behind it */
	int fd;			/* the file it is, if it is to be shared; -1 */
	uint64_t size;
	uint64_t low;		/* bytes below the hole */
};

/*
 * Reserves @size bytes of zeroed memory (not touched until the guest does). Shared: a file that stays open, so that a monitor may map
 * it (GW_MON_OP_MAP).
 */
int ram_create(struct ram *ram, uint64_t size, struct err *err);
int ram_create_shared(struct ram *ram, uint64_t size, struct err *err);
void ram_destroy(struct ram *ram);

/* Host address of [gpa, gpa + len), or NULL unless all of it is RAM on one side of the hole. */
void *ram_at(const struct ram *ram, uint64_t gpa, uint64_t len);
/* For a device's write: NULL also where the guest's memory is closed to it. */
void *ram_writable_at(const struct ram *ram, uint64_t gpa, uint64_t len);

#endif
