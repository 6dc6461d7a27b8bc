/* SPDX-License-Identifier: MIT */
/* Alignment checking at CPL 3. See align.c. */
#ifndef GW_CPU_ALIGN_H
#define GW_CPU_ALIGN_H

#include "cpu/vcpu.h"
#include "isa/insn.h"
#include "isa/x86.h"

static inline bool cpu_checks_alignment(const struct vcpu *c)
{
	return c->eflags & FLAG_AC && c->acc.cpl == 3 && c->acc.cr0 & CR0_AM;
}

/* Does EFLAGS say that instructions run one at a time? Whoever may have set it goes to the dispatcher. */
static inline bool cpu_flags_stop(const struct vcpu *c)
{
	return c->eflags & (FLAG_TF | FLAG_AC) && (c->eflags & FLAG_TF || cpu_checks_alignment(c));
}

/* The memory operands of @in, which is at c->rip. */
bool cpu_is_aligned(const struct vcpu *c, const struct insn *in);

#endif
