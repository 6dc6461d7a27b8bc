/* SPDX-License-Identifier: MIT */
/* MXCSR in memory, clearing of upper halves, random numbers: what needs C but little of it. */
#include <cpuid.h>
#include <string.h>
#include <sys/random.h>

#include "cpu/host/host_private.h"

static bool do_ldmxcsr(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t la;
	uint32_t v;

	if (!host_gate_open(c, o) || !cpu_la(c, o, 4, ACC_R, &la) || !cpu_ld32(c, o, la, &v))
		return false;
	if (v & ~cpu_mxcsr_mask()) {
		cpu_raise_error(c, o, VEC_GP, 0);
		return false;
	}
	host_mxcsr_set(c, v);
	return true;
}

static bool do_stmxcsr(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t la;

	return host_gate_open(c, o) && cpu_la(c, o, 4, ACC_W, &la) && cpu_st32(c, o, la, host_mxcsr_get(c));
}

/* Outside 64-bit mode YMM8-15 do not exist and keep what they hold. */
static bool do_vzero(struct vcpu *c, const struct cpu_op *o)
{
	unsigned bytes = c->mode == INSN_MODE_64 ? 256 : 128;

	if (!host_gate_open(c, o))
		return false;
	if (o->iop == I_VZEROALL)
		memset(c->fpu.area + FX_XMM, 0, bytes);
	memset(c->fpu.area + CPU_XSAVE_AVX, 0, bytes);
	return true;
}

static bool has_rdrand(void)
{
	static int known;	/* 0 unknown, 1 yes, 2 no; the same for all threads */
	unsigned a, b, c, d;

	if (!known)
		known = __get_cpuid(1, &a, &b, &c, &d) && c & bit_RDRND ? 1 : 2;
	return known == 1;
}

/* The guest's RDRAND and RDSEED: the host's RDRAND, or the kernel's generator. */
static bool random_value(uint64_t *v)
{
	for (unsigned i = 0; has_rdrand() && i < 10; i++) {
		bool ok;

		__asm__ volatile("rdrand %0" : "=r"(*v), "=@ccc"(ok));
		if (ok)
			return true;
	}
	return getrandom(v, sizeof(*v), GRND_NONBLOCK) == sizeof(*v);
}

static void op_random(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t v = 0;
	bool ok = random_value(&v);

	if (!ok)
		v = 0;
	if (o->opsize == 2)
		memcpy(&c->gpr[o->rm], &v, 2);
	else
		c->gpr[o->rm] = o->opsize == 4 ? (uint32_t)v : v;
	c->cc = cpu_cc_of_flags(ok ? FLAG_CF : 0);
	CPU_NEXT(c, o);
}

static void op_ldmxcsr(struct vcpu *c, const struct cpu_op *o)
{
	if (unlikely(!do_ldmxcsr(c, o)))
		return;
	CPU_NEXT(c, o);
}

static void op_stmxcsr(struct vcpu *c, const struct cpu_op *o)
{
	if (unlikely(!do_stmxcsr(c, o)))
		return;
	CPU_NEXT(c, o);
}

static void op_vzero(struct vcpu *c, const struct cpu_op *o)
{
	if (unlikely(!do_vzero(c, o)))
		return;
	CPU_NEXT(c, o);
}

bool host_lower_misc(const struct insn *in, struct cpu_op *o)
{
	o->aux = in->has_vex ? GATE_AVX : GATE_SSE;
	switch (in->op) {
	case I_LDMXCSR:
	case I_VLDMXCSR:
		o->fn = op_ldmxcsr;
		break;
	case I_STMXCSR:
	case I_VSTMXCSR:
		o->fn = op_stmxcsr;
		break;
	case I_VZEROALL:
	case I_VZEROUPPER:
		o->fn = op_vzero;
		break;
	case I_RDRAND:
	case I_RDSEED:
		o->fn = op_random;
		break;
	default:
		return false;
	}
	o->ptr = NULL;
	return true;
}
