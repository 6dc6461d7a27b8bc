/* SPDX-License-Identifier: MIT */
/*
 * The last events of a vCPU: a ring of fixed records, always on, printed when a VM dies and by `guestward dump`.
 */
#ifndef GW_CPU_RING_H
#define GW_CPU_RING_H

#include <stdint.h>

#define CPU_RING_SIZE	64u

enum cpu_ring_kind { RING_NONE, RING_EXCEPTION, RING_INTERRUPT, RING_EXIT, RING_CR, RING_MSR, RING_PIO, RING_MMIO, RING_HYPERCALL, RING_RIGHTS, RING_MODE, RING_N };

struct cpu_ring_entry {
	uint64_t insns;		/* instruction count of the vCPU */
	uint64_t rip;
	uint64_t a, b;		/* vector and error code, port and value, ...: by kind */
	uint8_t kind;
};

struct cpu_ring {
	struct cpu_ring_entry e[CPU_RING_SIZE];
	unsigned next;
};

static inline void cpu_ring_put(struct cpu_ring *r, enum cpu_ring_kind kind, uint64_t insns, uint64_t rip, uint64_t a, uint64_t b)
{
	r->e[r->next++ % CPU_RING_SIZE] = (struct cpu_ring_entry){ insns, rip, a, b, (uint8_t)kind };
}

#endif
