/* SPDX-License-Identifier: MIT */
/*
 * The guest of guest.h with a kernel in it that unassisted mode takes for one: text, constants and data in the image window, a direct
 * map without execution, exception handlers in the text. It is locked at its first user instruction.
 */
#ifndef GW_TESTS_HEKI_KERNEL_H
#define GW_TESTS_HEKI_KERNEL_H

#include "guest.h"

#define K_PDPT		0x18000u
#define K_PD		0x19000u
#define K_PT		0x1a000u
#define K_TEXT		0x22000u	/* two pages; handlers first */
#define K_CODE		0x23000u	/* the second: what a test runs */
#define K_RODATA	0x24000u
#define K_DATA		0x25000u
#define K_IMAGE		0xffffffff81000000ull		/* K_TEXT is here, and so on up to K_DATA */
#define K_VA(gpa)	(K_IMAGE + (gpa) - K_TEXT)
#define K_LATE		0xffffffffc0000000ull	/* the module area: kernel_map_late() */
#define K_DIRECT	0xffff888000000000ull

void kernel_open(struct guest *g, const struct gw_heki_policy *p);	/* p->flags gets UNASSISTED */
void kernel_open_with(struct guest *g, const struct gw_heki_policy *p, unsigned flags);	/* of the rig */
void kernel_open_unlocked(struct guest *g);					/* the same without a policy */
/* The first user instruction: locked; then in the kernel, by an exception. */
void kernel_make_again(struct guest *g);	/* the image, when it is gone */
void kernel_lock(struct guest *g);
/* Code at K_CODE, at CPL 0, with the stack's top back. */
void kernel_again(struct guest *g);
/* The direct map of the page becomes writable in the guest's tables, as an attacker makes it. */
void kernel_open_direct(struct guest *g, uint64_t gpa);
/* 2 MiB of constants at @gpa, behind the image: entry @index, from 9 on, of its page directory. */
void kernel_map_large(struct guest *g, unsigned index, uint64_t gpa);
/* What page @index of the module area maps, as a PTE. */
void kernel_map_late(struct guest *g, unsigned index, uint64_t pte);
/* Attributes of one page: GW_HEKI_N*. */
uint64_t kernel_attributes(struct guest *g, uint64_t gpa);

#endif
