/* SPDX-License-Identifier: MIT */
/* SETcc and CMOVcc. A CMOVcc from memory reads it, and one with a 32-bit register clears its upper half, whatever the condition. */
#include "cpu/interp/interp_private.h"

#define CONDITION(n)													\
INT_FN(set##n##_r) { W8(c, o->rm, int_cond(c->cc, n)); CPU_NEXT(c, o); }						\
INT_FN(cmov16_##n##_rr) { W16(c, o->rm, int_cond(c->cc, n) ? R16(c, o->reg) : R16(c, o->rm)); CPU_NEXT(c, o); }	\
INT_FN(cmov32_##n##_rr) { W32(c, o->rm, int_cond(c->cc, n) ? R32(c, o->reg) : R32(c, o->rm)); CPU_NEXT(c, o); }	\
INT_FN(cmov64_##n##_rr) { W64(c, o->rm, int_cond(c->cc, n) ? R64(c, o->reg) : R64(c, o->rm)); CPU_NEXT(c, o); }
INT_CONDS(CONDITION)

INT_SLOW(set_m)
{
	return int_store8(c, o, int_cond(c->cc, o->aux));
}

#define CMOV_FAST(bits, A)												\
INT_FN(cmov##bits##_rm_##A)												\
{															\
	const uint8_t *p = acc_probe_r(&c->acc, int_la_##A(c, o), bits / 8);						\
	uint##bits##_t v;												\
															\
	if (unlikely(!p))												\
		return cmov##bits##_rm_s(c, o);										\
	c->cur = o;													\
	v = *(const volatile int_u##bits *)p;									\
	W##bits(c, o->reg, int_cond(c->cc, o->aux) ? v : R##bits(c, o->reg));						\
	CPU_NEXT(c, o);													\
}
#define CMOV(bits)													\
INT_SLOW(cmov##bits##_rm_s)												\
{															\
	uint##bits##_t v;												\
															\
	if (!int_load##bits(c, o, &v))											\
		return false;												\
	W##bits(c, o->reg, int_cond(c->cc, o->aux) ? v : R##bits(c, o->reg));						\
	return true;													\
}															\
CMOV_FAST(bits, b)													\
CMOV_FAST(bits, f)
CMOV(16)
CMOV(32)
CMOV(64)

#define SET_ENTRY(n) set##n##_r,
#define CMOV16_ENTRY(n) cmov16_##n##_rr,
#define CMOV32_ENTRY(n) cmov32_##n##_rr,
#define CMOV64_ENTRY(n) cmov64_##n##_rr,
#define BY_ADDR(bits) { cmov##bits##_rm_b, cmov##bits##_rm_f, cmov##bits##_rm_s }
static cpu_fn *const set_r[16] = { INT_CONDS(SET_ENTRY) };
static cpu_fn *const cmov_rr[N_SZ][16] = {
	[SZ16] = { INT_CONDS(CMOV16_ENTRY) }, [SZ32] = { INT_CONDS(CMOV32_ENTRY) }, [SZ64] = { INT_CONDS(CMOV64_ENTRY) },
};
static cpu_fn *const cmov_rm[N_SZ][N_ADDR] = { [SZ16] = BY_ADDR(16), [SZ32] = BY_ADDR(32), [SZ64] = BY_ADDR(64) };

static bool lower_set(const struct insn *in, struct cpu_op *o)
{
	enum int_kind kind = int_operand(in, 0, 1, &o->rm);

	o->fn = kind == K_REG ? set_r[o->aux] : kind == K_MEM ? set_m : NULL;
	return o->fn;
}

bool int_lower_cond(const struct insn *in, struct cpu_op *o)
{
	enum int_size sz = int_size(o->opsize);
	enum int_form form;

	o->aux = in->bytes[in->opc_off] & 15;
	if (in->op == I_SETCC)
		return lower_set(in, o);
	form = int_form(in, o, o->opsize, o->opsize);
	o->fn = form == FORM_RR ? cmov_rr[sz][o->aux] : form == FORM_RM ? cmov_rm[sz][int_addr_of(o)] : NULL;
	return o->fn;
}
