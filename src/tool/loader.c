/* SPDX-License-Identifier: MIT */
/*
 * See loader.h. Layouts: "The Linux/x86 Boot Protocol" (64-bit boot protocol), "The zero page", and Xen's
 * "x86/HVM direct boot ABI" for PVH.
 */
#include "loader.h"

#include <stdbool.h>
#include <string.h>

#include "bytes.h"

enum e820_type { E820_RAM = 1, E820_RESERVED = 2 };

struct e820 {
	uint64_t start, size;
	enum e820_type type;
};

#define E820_MAX 8u

enum {	/* offsets in boot_params */
	BP_ACPI_RSDP = 0x070,
	BP_E820_ENTRIES = 0x1e8,
	BP_VID_MODE = 0x1fa,
	BP_LOADER = 0x210,
	BP_RAMDISK_IMAGE = 0x218,
	BP_RAMDISK_SIZE = 0x21c,
	BP_CMDLINE = 0x228,
	BP_E820_TABLE = 0x2d0,
};

#define LOADER_UNKNOWN	0xffu
#define PVH_MAGIC	0x336ec578u

#define CR0_PE		(1ull << 0)
#define CR0_ET		(1ull << 4)
#define CR0_PG		(1ull << 31)
#define CR4_PAE		(1ull << 5)
#define EFER_LME	(1ull << 8)
#define EFER_LMA	(1ull << 10)
#define PTE_P_RW	3ull
#define PTE_LARGE	(1ull << 7)
#define RFLAGS_ONE	2ull

#define SEL_CODE	0x10u
#define SEL_DATA	0x18u
#define SEL_TSS		0x20u

int loader_place_initrd(struct loader *l, const struct blob *initrd, struct err *err)
{
	uint64_t limit = l->kernel->initrd_max + 1, at;
	void *to;

	if (!initrd->size)
		return 0;
	if (limit > l->ram->low)
		limit = l->ram->low;
	if (initrd->size > limit)
		return err_set(err, "the initrd (%zu MiB) does not fit into memory; use a larger --memory", initrd->size >> 20);
	at = (limit - initrd->size) & ~0xfffull;
	/* A kernel that is entered somewhere above does not happen: kernels are loaded where the file says, in low RAM. */
	to = ram_at(l->ram, at, initrd->size);
	if (at < l->kernel->end || !to)
		return err_set(err, "kernel and initrd (%zu MiB) do not fit into %llu MiB of memory; use a larger --memory",
			       initrd->size >> 20, (unsigned long long)(l->ram->size >> 20));
	memcpy(to, initrd->data, initrd->size);
	l->initrd = at;
	l->initrd_size = initrd->size;
	return 0;
}

static unsigned memory_map(const struct ram *ram, struct e820 map[E820_MAX])
{
	unsigned n = 0;

	map[n++] = (struct e820){ 0, ADDR_EBDA, E820_RAM };
	map[n++] = (struct e820){ ADDR_EBDA, 0xa0000 - ADDR_EBDA, E820_RESERVED };
	map[n++] = (struct e820){ ADDR_ACPI, ADDR_ACPI_END - ADDR_ACPI, E820_RESERVED };
	map[n++] = (struct e820){ ADDR_KERNEL_MIN, ram->low - ADDR_KERNEL_MIN, E820_RAM };
	if (ram->size > ram->low)
		map[n++] = (struct e820){ RAM_HIGH_START, ram->size - ram->low, E820_RAM };
	return n;
}

/* Flat segments and a TSS: what both protocols ask for, under the selectors Linux uses itself. */
static void write_gdt(uint8_t *gdt, bool long_mode)
{
	memset(gdt, 0, 0x30);
	put64(gdt + SEL_CODE, long_mode ? 0x00af9b000000ffffull : 0x00cf9b000000ffffull);
	put64(gdt + SEL_DATA, 0x00cf93000000ffffull);
	put64(gdt + SEL_TSS, 0x00008b0000000067ull | ADDR_TSS << 16);
	put64(gdt + SEL_TSS + 8, 0);
}

/* The first 4 GiB, virtual = physical, in 2 MiB pages. */
static void write_page_tables(uint8_t *pml4)
{
	uint64_t at = ADDR_PAGE_TABLES;
	uint8_t *pdpt = pml4 + 0x1000, *directories = pml4 + 0x2000;
	uint64_t i;

	memset(pml4, 0, 0x2000);
	put64(pml4, (at + 0x1000) | PTE_P_RW);
	for (i = 0; i < 4; i++)
		put64(pdpt + i * 8, (at + 0x2000 + i * 0x1000) | PTE_P_RW);
	for (i = 0; i < 2048; i++)
		put64(directories + i * 8, i << 21 | PTE_LARGE | PTE_P_RW);
}

static void write_boot_params(const struct loader *l, uint8_t *bp)
{
	struct e820 map[E820_MAX];
	unsigned i, n = memory_map(l->ram, map);

	memset(bp, 0, 0x1000);
	memcpy(bp + SETUP_HEADER, l->kernel->header, sizeof(l->kernel->header));
	put64(bp + BP_ACPI_RSDP, l->rsdp);
	put16(bp + BP_VID_MODE, 0xffff);
	bp[BP_LOADER] = LOADER_UNKNOWN;
	put32(bp + BP_RAMDISK_IMAGE, (uint32_t)l->initrd);
	put32(bp + BP_RAMDISK_SIZE, (uint32_t)l->initrd_size);
	put32(bp + BP_CMDLINE, (uint32_t)ADDR_CMDLINE);
	bp[BP_E820_ENTRIES] = (uint8_t)n;
	for (i = 0; i < n; i++) {
		uint8_t *e = bp + BP_E820_TABLE + i * 20;

		put64(e, map[i].start);
		put64(e + 8, map[i].size);
		put32(e + 16, map[i].type);
	}
}

static void write_pvh_info(const struct loader *l, uint8_t *info)
{
	struct e820 map[E820_MAX];
	unsigned i, n = memory_map(l->ram, map);
	const uint64_t modules = ADDR_PVH_INFO + 0x100, memmap = ADDR_PVH_INFO + 0x200;

	memset(info, 0, 0x1000);
	put32(info, PVH_MAGIC);
	put32(info + 4, 1);
	put32(info + 12, l->initrd_size ? 1 : 0);
	put64(info + 16, l->initrd_size ? modules : 0);
	put64(info + 24, ADDR_CMDLINE);
	put64(info + 32, l->rsdp);
	put64(info + 40, memmap);
	put32(info + 48, n);
	put64(info + 0x100, l->initrd);
	put64(info + 0x108, l->initrd_size);
	for (i = 0; i < n; i++) {
		uint8_t *e = info + 0x200 + i * 24;

		put64(e, map[i].start);
		put64(e + 8, map[i].size);
		put32(e + 16, map[i].type);
	}
}

int loader_write(const struct loader *l, const char *cmdline, struct err *err)
{
	size_t len = strlen(cmdline), max = ADDR_CMDLINE_END - ADDR_CMDLINE - 1;
	bool linux64 = l->kernel->protocol == PROTOCOL_LINUX64;

	if (max > l->kernel->cmdline_max)
		max = l->kernel->cmdline_max;
	if (len > max)
		return err_set(err, "the command line has %zu bytes; this kernel takes %zu", len, max);
	/* RAM_MIN is above all of these addresses. */
	memcpy(ram_at(l->ram, ADDR_CMDLINE, len + 1), cmdline, len + 1);
	write_gdt(ram_at(l->ram, ADDR_GDT, 0x1000), linux64);
	memset(ram_at(l->ram, ADDR_TSS, 0x1000), 0, 0x1000);
	if (linux64) {
		write_page_tables(ram_at(l->ram, ADDR_PAGE_TABLES, 0x6000));
		write_boot_params(l, ram_at(l->ram, ADDR_BOOT_PARAMS, 0x1000));
	} else {
		write_pvh_info(l, ram_at(l->ram, ADDR_PVH_INFO, 0x1000));
	}
	return 0;
}

void loader_entry_state(const struct kernel *kernel, struct kvm_regs *regs, struct kvm_sregs *sregs)
{
	bool linux64 = kernel->protocol == PROTOCOL_LINUX64;
	struct kvm_segment code = {
		.base = 0, .limit = 0xffffffff, .selector = SEL_CODE, .type = 11, .present = 1, .dpl = 0,
		.db = !linux64, .s = 1, .l = linux64, .g = 1,
	};
	struct kvm_segment data = {
		.base = 0, .limit = 0xffffffff, .selector = SEL_DATA, .type = 3, .present = 1, .dpl = 0,
		.db = 1, .s = 1, .l = 0, .g = 1,
	};

	sregs->cs = code;
	sregs->ds = sregs->es = sregs->ss = sregs->fs = sregs->gs = data;
	sregs->tr = (struct kvm_segment){
		.base = ADDR_TSS, .limit = 0x67, .selector = SEL_TSS, .type = 11, .present = 1,
	};
	sregs->ldt = (struct kvm_segment){ .type = 2, .unusable = 1 };
	sregs->gdt.base = ADDR_GDT;
	sregs->gdt.limit = 0x2f;
	sregs->idt.base = 0;
	sregs->idt.limit = 0;
	sregs->cr0 = CR0_PE | CR0_ET;
	sregs->cr4 = 0;
	sregs->efer = 0;
	if (linux64) {
		sregs->cr0 |= CR0_PG;
		sregs->cr3 = ADDR_PAGE_TABLES;
		sregs->cr4 = CR4_PAE;
		sregs->efer = EFER_LME | EFER_LMA;
	}
	*regs = (struct kvm_regs){ .rip = kernel->entry, .rflags = RFLAGS_ONE };
	if (linux64)
		regs->rsi = ADDR_BOOT_PARAMS;
	else
		regs->rbx = ADDR_PVH_INFO;
}
