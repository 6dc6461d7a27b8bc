/* SPDX-License-Identifier: MIT */
/* One row of the MSR table: msr_rows.c has the rows, msr.c looks them up. */
#ifndef GW_CPU_SYS_MSR_H
#define GW_CPU_SYS_MSR_H

#include "cpu/sys/sys_private.h"

struct msr_row {
	uint32_t first, last;
	/* 0, or 1: #GP(0). @host: the client asks. NULL set: read-only. NULL get: write-only. */
	int (*get)(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t *v, bool host);
	int (*set)(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host);
	uint32_t off;		/* of the first one's field in struct vcpu, for the plain accessors */
	uint64_t arg;		/* constant value, or writable bits: what the accessor wants */
	/* CPUID bit it needs (guest sees #GP without; the client reads 0 and may write 0). 0: none. */
	uint32_t leaf;
	uint8_t subleaf, reg, bit;
};

extern const struct msr_row msr_rows[];
extern const unsigned n_msr_rows;

#endif
