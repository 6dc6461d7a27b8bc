/* SPDX-License-Identifier: MIT */
/*
 * System instructions that are a few lines each: clocks, counters, processor id, random numbers, protection keys, HLT, cache
 * control, hypercalls.
 */
#include <string.h>
#include <sys/random.h>

#include "cpu/sys/sys_private.h"

static bool tsc_allowed(struct vcpu *c, const struct cpu_op *o)
{
	if (likely(!(c->acc.cr4 & CR4_TSD) || c->acc.cpl == 0))
		return true;
	cpu_raise_error(c, o, VEC_GP, 0);
	return false;
}

static void read_tsc(struct vcpu *c)
{
	uint64_t t = c->env->tsc(c);

	c->gpr[RAX] = (uint32_t)t;
	c->gpr[RDX] = t >> 32;
}

void sys_rdtsc(struct vcpu *c, const struct cpu_op *o)
{
	if (!tsc_allowed(c, o))
		return;
	read_tsc(c);
	CPU_NEXT(c, o);
}

void sys_rdtscp(struct vcpu *c, const struct cpu_op *o)
{
	if (!tsc_allowed(c, o))
		return;
	read_tsc(c);
	c->gpr[RCX] = (uint32_t)c->msr.tsc_aux;
	CPU_NEXT(c, o);
}

/* No counters are offered: whatever the index, it does not exist. */
void sys_rdpmc(struct vcpu *c, const struct cpu_op *o)
{
	cpu_raise_error(c, o, VEC_GP, 0);
}

void sys_rdpid(struct vcpu *c, const struct cpu_op *o)
{
	sys_set_reg(c, o->insn->rm, o->opsize, (uint32_t)c->msr.tsc_aux);
	CPU_NEXT(c, o);
}

/* The host's generator; CF says whether there was a number. */
void sys_random(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t v = 0;
	bool ok = getrandom(&v, sizeof(v), GRND_NONBLOCK) == (ssize_t)sizeof(v);

	sys_set_reg(c, o->insn->rm, o->opsize, ok ? v : 0);
	c->cc = cpu_cc_of_flags(ok ? FLAG_CF : 0);
	CPU_NEXT(c, o);
}

static bool pke_on(struct vcpu *c, const struct cpu_op *o)
{
	if (!(c->acc.cr4 & CR4_PKE)) {
		cpu_raise(c, o, VEC_UD);
		return false;
	}
	if ((uint32_t)c->gpr[RCX]) {
		cpu_raise_error(c, o, VEC_GP, 0);
		return false;
	}
	return true;
}

void sys_rdpkru(struct vcpu *c, const struct cpu_op *o)
{
	if (!pke_on(c, o))
		return;
	c->gpr[RAX] = c->acc.pkru;
	c->gpr[RDX] = 0;
	CPU_NEXT(c, o);
}

void sys_wrpkru(struct vcpu *c, const struct cpu_op *o)
{
	if (!pke_on(c, o))
		return;
	if ((uint32_t)c->gpr[RDX]) {
		cpu_raise_error(c, o, VEC_GP, 0);
		return;
	}
	if (c->acc.pkru != (uint32_t)c->gpr[RAX]) {
		c->acc.pkru = (uint32_t)c->gpr[RAX];
		acc_keys_changed(&c->acc);
	}
	CPU_NEXT(c, o);
}

void sys_hlt(struct vcpu *c, const struct cpu_op *o)
{
	if (!sys_need_cpl0(c, o))
		return;
	c->halted = true;
	cpu_stop_after(c, o, CPU_EXIT_HLT);
}

/* There are no caches to write back that the guest could tell from memory. */
void sys_wbinvd(struct vcpu *c, const struct cpu_op *o)
{
	if (!sys_need_cpl0(c, o))
		return;
	CPU_NEXT(c, o);
}

void sys_serialize(struct vcpu *c, const struct cpu_op *o)
{
	CPU_NEXT(c, o);
}

void sys_vmcall(struct vcpu *c, const struct cpu_op *o)
{
	sys_begin(c, o);
	switch (c->env->hypercall(c, o->insn->op == I_VMMCALL)) {
	case CPU_HC_DONE:
		CPU_NEXT(c, o);
	case CPU_HC_UD:
		cpu_raise(c, o, VEC_UD);
		return;
	case CPU_HC_EXIT:
		if (!c->stop)		/* else it raised an exception, or set an exit of its own */
			cpu_stop(c, o, CPU_EXIT_HYPERCALL);
	}
}
