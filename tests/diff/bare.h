/* SPDX-License-Identifier: MIT */
/*
 * A vCPU with nothing around it: plain memory in one slot, no devices, no MSRs, no interrupts; the host's own CPUID; 64-bit paging
 * with tables at fixed places. What the tests share that run user code in the engine itself, below the ioctls.
 */
#ifndef GW_TESTS_DIFF_BARE_H
#define GW_TESTS_DIFF_BARE_H

#include "cpu/vcpu.h"

#define BARE_PML4	0x1000u
#define BARE_PDPT	0x2000u
#define BARE_PD		0x3000u
#define BARE_USER	(PTE_P | PTE_W | PTE_U | PTE_A | PTE_D)

struct bare {
	struct vcpu c;		/* first: as aligned as the whole */
	uint8_t *ram;
	size_t size;
	struct mem_code_map *code;
	struct acc_vm *vm;
};

/* @b: zeroed, aligned to a page. @size: of memory, which is zero. Paging is on; the upper tables map nothing yet. 0 or -errno. */
int bare_init(struct bare *b, size_t size);
void bare_fini(struct bare *b);
/* A new one with a page of code at @code and one of data at @data, the user's: at these places in its memory. NULL: no memory. */
#define BARE_CODE	0x10000u
#define BARE_DATA	0x20000u
struct bare *bare_pages(size_t size, uint64_t code, uint64_t data);

/* The entry for @la in @table of @level (3: PML4, 0: PT). */
void bare_pte(struct bare *b, uint32_t table, uint64_t la, unsigned level, uint64_t value);
/* PML4 and PDPT for addresses below 1 GiB, and a page table at @table for the 2 MiB around @la. */
void bare_table(struct bare *b, uint32_t table, uint64_t la);

/* As Linux runs user code, at CPL 3: 64-bit, or compatibility mode. GS.base is DIFF_GS_BASE. */
void bare_user_mode(struct vcpu *c, bool is_64);
/* 64-bit code at CPL 0. */
void bare_kernel_mode(struct vcpu *c);
/* The instruction at c->rip by itself, as the dispatcher executes what is special. Inside acc_enter() and the rest. */
void bare_step_alone(struct vcpu *c);

#endif
