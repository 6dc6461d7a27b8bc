/* SPDX-License-Identifier: MIT */
/*
 * ROL ROR RCL RCR SHL SHR SAR, SHLD SHRD. The host shifts by CL with the guest's flags loaded: a count of zero then leaves
 * them alone, and counts beyond what the manual defines do what the host does.
 */
#include "cpu/interp/rmw.h"

/* ---- rotates and shifts ----------------------------------------------------------------------------------------------------- */

#define VALUE(op, bits, sfx)												\
static inline uint##bits##_t do_##op##bits(uint##bits##_t d, uint8_t count, uint16_t *cc)				\
{															\
	uint16_t f = *cc;												\
															\
	__asm__(CC_RESTORE #op #sfx " %%cl, %[d]" CC_SAVE : [d] "+&r" (d), "+&a" (f) : "c" (count) : "cc");		\
	*cc = f;													\
	return d;													\
}															\
static inline void at_##op##bits(uint8_t *p, uint8_t count, uint16_t *cc)						\
{															\
	uint16_t f = *cc;												\
															\
	__asm__ volatile(CC_RESTORE #op #sfx " %%cl, %[d]" CC_SAVE							\
			 : [d] "+m" (*(int_u##bits *)p), "+&a" (f) : "c" (count) : "cc", "memory");			\
	*cc = f;													\
}

#define SHIFT(op, bits, sfx)												\
VALUE(op, bits, sfx)													\
INT_FN(op##bits##_ri)													\
{															\
	W##bits(c, o->rm, do_##op##bits(R##bits(c, o->rm), (uint8_t)o->imm, &c->cc));					\
	CPU_NEXT(c, o);													\
}															\
INT_FN(op##bits##_rc)													\
{															\
	W##bits(c, o->rm, do_##op##bits(R##bits(c, o->rm), (uint8_t)c->gpr[RCX], &c->cc));				\
	CPU_NEXT(c, o);													\
}															\
INT_RMW(op, bits, mi, (uint8_t)o->imm)											\
INT_RMW(op, bits, mc, (uint8_t)c->gpr[RCX])

#define SIZES(op) SHIFT(op, 8, b) SHIFT(op, 16, w) SHIFT(op, 32, l) SHIFT(op, 64, q)
SIZES(rol)
SIZES(ror)
SIZES(rcl)
SIZES(rcr)
SIZES(shl)
SIZES(shr)
SIZES(sar)

/* By a constant other than zero: the flags that come out do not depend on those that went in. */
#define BY_CONSTANT(op, bits, sfx)											\
INT_FN(op##bits##_rk)													\
{															\
	uint##bits##_t d = R##bits(c, o->rm);										\
	uint16_t f;													\
															\
	__asm__(#op #sfx " %%cl, %[d]" CC_SAVE : [d] "+r" (d), "=&a" (f) : "c" ((uint8_t)o->imm) : "cc");		\
	c->cc = f;													\
	W##bits(c, o->rm, d);												\
	CPU_NEXT(c, o);													\
}
BY_CONSTANT(shl, 32, l)
BY_CONSTANT(shl, 64, q)
BY_CONSTANT(shr, 32, l)
BY_CONSTANT(shr, 64, q)
BY_CONSTANT(sar, 32, l)
BY_CONSTANT(sar, 64, q)

struct shift_row { cpu_fn *ri[N_SZ], *rc[N_SZ], *mi[N_SZ][N_ADDR], *mc[N_SZ][N_ADDR], *rk[2]; };

#define FOUR(op, post) { op##8##post, op##16##post, op##32##post, op##64##post }
#define BY_ADDR(name) { name##_b, name##_f, name##_s }
#define FOUR_ADDR(op, form) { BY_ADDR(op##8_##form), BY_ADDR(op##16_##form), BY_ADDR(op##32_##form), BY_ADDR(op##64_##form) }
#define ROW(op) .ri = FOUR(op, _ri), .rc = FOUR(op, _rc), .mi = FOUR_ADDR(op, mi), .mc = FOUR_ADDR(op, mc)
enum { S_ROL, S_ROR, S_RCL, S_RCR, S_SHL, S_SHR, S_SAR };
static const struct shift_row rows[] = {
	[S_ROL] = { ROW(rol) }, [S_ROR] = { ROW(ror) }, [S_RCL] = { ROW(rcl) }, [S_RCR] = { ROW(rcr) },
	[S_SHL] = { ROW(shl), .rk = { shl32_rk, shl64_rk } }, [S_SHR] = { ROW(shr), .rk = { shr32_rk, shr64_rk } },
	[S_SAR] = { ROW(sar), .rk = { sar32_rk, sar64_rk } },
};
static const uint8_t row_of_op[N_INSN_OPS] = {
	[I_ROL] = S_ROL, [I_ROR] = S_ROR, [I_RCL] = S_RCL, [I_RCR] = S_RCR, [I_SHL] = S_SHL, [I_SHR] = S_SHR, [I_SAR] = S_SAR,
};

static bool count_is_never_zero(const struct cpu_op *o)
{
	return o->imm & (o->opsize == 8 ? 63 : 31);
}

bool int_lower_shift(const struct insn *in, struct cpu_op *o)
{
	const struct shift_row *row = &rows[row_of_op[in->op]];
	enum int_kind kind = int_operand(in, 0, o->opsize, &o->rm), by = int_operand(in, 1, 1, &o->reg);
	enum int_size sz = int_size(o->opsize);

	if (insn_rows[in->row].opnd[1] == OE_ONE)
		o->imm = 1;
	if (kind == K_REG && by == K_IMM && sz >= SZ32 && row->rk[0] && count_is_never_zero(o))
		o->fn = row->rk[sz - SZ32];
	else if (kind == K_REG)
		o->fn = by == K_CL ? row->rc[sz] : row->ri[sz];
	else if (kind == K_MEM)
		o->fn = by == K_CL ? row->mc[sz][int_addr_of(o)] : row->mi[sz][int_addr_of(o)];
	return o->fn;
}

/* ---- double shifts ------------------------------------------------------------------------------------------------------------------ */

#define COUNT(o, c) ((o)->aux ? (uint8_t)(c)->gpr[RCX] : (uint8_t)(o)->imm)

#define DOUBLE(op, bits, sfx)												\
static inline uint##bits##_t do_##op##bits(uint##bits##_t d, uint##bits##_t s, uint8_t count, uint16_t *cc)		\
{															\
	uint16_t f = *cc;												\
															\
	__asm__(CC_RESTORE #op #sfx " %%cl, %[s], %[d]" CC_SAVE								\
		: [d] "+&r" (d), "+&a" (f) : [s] "r" (s), "c" (count) : "cc");						\
	*cc = f;													\
	return d;													\
}															\
INT_FN(op##bits##_r)													\
{															\
	W##bits(c, o->rm, do_##op##bits(R##bits(c, o->rm), R##bits(c, o->reg), COUNT(o, c), &c->cc));			\
	CPU_NEXT(c, o);													\
}															\
INT_RMW_SLOW(op, bits, op##bits##_m, INT_LA_RW(bits), R##bits(c, o->reg), COUNT(o, c))
DOUBLE(shld, 16, w)
DOUBLE(shld, 32, l)
DOUBLE(shld, 64, q)
DOUBLE(shrd, 16, w)
DOUBLE(shrd, 32, l)
DOUBLE(shrd, 64, q)

#define THREE(op, post) { NULL, op##16##post, op##32##post, op##64##post }
static cpu_fn *const double_fn[2][2][N_SZ] = {	/* [SHRD][memory] */
	{ THREE(shld, _r), THREE(shld, _m) }, { THREE(shrd, _r), THREE(shrd, _m) },
};

bool int_lower_shiftd(const struct insn *in, struct cpu_op *o)
{
	uint8_t none;

	enum int_form form = int_form(in, o, o->opsize, o->opsize);

	if (form != FORM_RR && form != FORM_MR)
		return false;
	o->aux = int_operand(in, 2, 1, &none) == K_CL;
	o->fn = double_fn[in->op == I_SHRD][form == FORM_MR][int_size(o->opsize)];
	return o->fn;
}
