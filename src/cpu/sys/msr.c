/* SPDX-License-Identifier: MIT */
/*
 * RDMSR, WRMSR and their ioctl twins: the table first, then the machine around us (APIC, clocks, paravirtual MSRs, filters).
 */
#include "cpu/sys/msr.h"

static const struct msr_row *find(uint32_t index)
{
	for (unsigned i = 0; i < n_msr_rows; i++)
		if (index >= msr_rows[i].first && index <= msr_rows[i].last)
			return &msr_rows[i];
	return NULL;
}

/* Rows that fast paths of kernels use most stand first, so a linear search is short for them. */
static bool offered(const struct vcpu *c, const struct msr_row *row)
{
	return !row->leaf || sys_cpuid_bit(c, row->leaf, row->subleaf, row->reg, row->bit);
}

bool cpu_msr_owned(const struct vcpu *c, uint32_t index)
{
	return find(index) != NULL;
}

int cpu_msr_get(struct vcpu *c, uint32_t index, uint64_t *value, bool host)
{
	const struct msr_row *row = find(index);

	*value = 0;
	if (!row)
		return c->env->rdmsr(c, index, value);
	if (!offered(c, row))
		return host ? 0 : 1;
	return row->get ? row->get(c, row, index, value, host) : 1;
}

int cpu_msr_set(struct vcpu *c, uint32_t index, uint64_t value, bool host)
{
	const struct msr_row *row = find(index);

	if (!row)
		return c->env->wrmsr(c, index, value);
	if (!offered(c, row))
		return host && !value ? 0 : 1;
	return row->set ? row->set(c, row, index, value, host) : 1;
}

/* What env or a row said, as the end of the instruction. True: done. */
static bool finish(struct vcpu *c, const struct cpu_op *o, int result)
{
	if (likely(result == 0))
		return true;
	if (result == 2)
		cpu_stop(c, o, CPU_EXIT_MSR);
	else
		cpu_raise_error(c, o, VEC_GP, 0);
	return false;
}

/* What the client wants to say before and after the processor does. */
static int guest_get(struct vcpu *c, uint32_t index, uint64_t *v)
{
	int r = c->env->msr_first ? c->env->msr_first(c, index, false, v) : 0;

	if (r)
		return r == 3 ? 0 : r;
	r = cpu_msr_get(c, index, v, false);
	return r == 1 && c->env->msr_refused ? c->env->msr_refused(c, index, false, 0) : r;
}

static int guest_set(struct vcpu *c, uint32_t index, uint64_t v)
{
	int r = c->env->msr_first ? c->env->msr_first(c, index, true, &v) : 0;

	if (r)
		return r == 3 ? 0 : r;
	r = cpu_msr_set(c, index, v, false);
	return r == 1 && c->env->msr_refused ? c->env->msr_refused(c, index, true, v) : r;
}

void sys_rdmsr(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t v;

	if (!sys_need_cpl0(c, o))
		return;
	sys_begin(c, o);
	if (!finish(c, o, guest_get(c, (uint32_t)c->gpr[RCX], &v)))
		return;
	c->gpr[RAX] = (uint32_t)v;
	c->gpr[RDX] = v >> 32;
	CPU_NEXT(c, o);
}

void sys_wrmsr(struct vcpu *c, const struct cpu_op *o)
{
	uint32_t index = (uint32_t)c->gpr[RCX];
	uint64_t v = (uint32_t)c->gpr[RAX] | c->gpr[RDX] << 32;
	enum cpu_ext_answer a;

	if (!sys_need_cpl0(c, o))
		return;
	sys_begin(c, o);
	a = sys_ext(c, CPU_EXT_MSR, index, v);
	if (unlikely(a == CPU_EXT_FAULT || a == CPU_EXT_LEAVE))
		return;
	if (likely(a == CPU_EXT_ALLOW) && !finish(c, o, guest_set(c, index, v)))
		return;
	CPU_NEXT(c, o);
}
