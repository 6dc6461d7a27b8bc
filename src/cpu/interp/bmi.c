/* SPDX-License-Identifier: MIT */
/* BMI1, BMI2 (VEX forms on general registers) and ADX, by the host's instructions. Not offered where the host has them not. */
#include "cpu/interp/interp_private.h"

/* A handler pair from `static inline void do_opbits(c, o, v)`: @v is what ModRM.rm names. */
#define HANDLERS(op, bits)												\
INT_FN(op##bits##_r)													\
{															\
	do_##op##bits(c, o, R##bits(c, o->rm));										\
	CPU_NEXT(c, o);													\
}															\
INT_SLOW(op##bits##_m)													\
{															\
	uint##bits##_t v;												\
															\
	if (!int_load##bits(c, o, &v))											\
		return false;												\
	do_##op##bits(c, o, v);												\
	return true;													\
}

/* Flags come out: destination @D, sources @A (in AT&T's order, the one that may be memory on hardware) and @B. */
#define WITH_FLAGS(op, bits, D, A, B)											\
static inline void do_##op##bits(struct vcpu *c, const struct cpu_op *o, uint##bits##_t v)				\
{															\
	uint##bits##_t d;												\
	uint16_t f = c->cc;												\
															\
	__asm__(CC_RESTORE #op " %[a], %[b], %[d]" CC_SAVE								\
		: [d] "=&r" (d), "+&a" (f) : [a] "r" ((uint##bits##_t)(A)), [b] "r" ((uint##bits##_t)(B)) : "cc");	\
	W##bits(c, D, d);												\
	c->cc = f;													\
}															\
HANDLERS(op, bits)
#define UNARY_FLAGS(op, bits)												\
static inline void do_##op##bits(struct vcpu *c, const struct cpu_op *o, uint##bits##_t v)				\
{															\
	uint##bits##_t d;												\
	uint16_t f = c->cc;												\
															\
	__asm__(CC_RESTORE #op " %[v], %[d]" CC_SAVE : [d] "=&r" (d), "+&a" (f) : [v] "r" (v) : "cc");		\
	W##bits(c, o->vvvv, d);												\
	c->cc = f;													\
}															\
HANDLERS(op, bits)
#define NO_FLAGS(op, bits, A, B)											\
static inline void do_##op##bits(struct vcpu *c, const struct cpu_op *o, uint##bits##_t v)				\
{															\
	uint##bits##_t d;												\
															\
	__asm__(#op " %[a], %[b], %[d]" : [d] "=r" (d) : [a] "r" ((uint##bits##_t)(A)), [b] "r" ((uint##bits##_t)(B)));	\
	W##bits(c, o->reg, d);												\
}															\
HANDLERS(op, bits)

#define VVVV(bits) R##bits(c, o->vvvv)
#define BOTH(bits)													\
WITH_FLAGS(andn, bits, o->reg, v, VVVV(bits))										\
WITH_FLAGS(bzhi, bits, o->reg, VVVV(bits), v)										\
WITH_FLAGS(bextr, bits, o->reg, VVVV(bits), v)										\
UNARY_FLAGS(blsr, bits)													\
UNARY_FLAGS(blsmsk, bits)												\
UNARY_FLAGS(blsi, bits)													\
NO_FLAGS(pext, bits, v, VVVV(bits))											\
NO_FLAGS(pdep, bits, v, VVVV(bits))											\
NO_FLAGS(shlx, bits, VVVV(bits), v)											\
NO_FLAGS(sarx, bits, VVVV(bits), v)											\
NO_FLAGS(shrx, bits, VVVV(bits), v)											\
static inline void do_rorx##bits(struct vcpu *c, const struct cpu_op *o, uint##bits##_t v)				\
{															\
	unsigned n = o->imm & (bits - 1);										\
															\
	W##bits(c, o->reg, n ? v >> n | v << (bits - n) : v);								\
}															\
HANDLERS(rorx, bits)
BOTH(32)
BOTH(64)

/* MULX: low half to vvvv, high half to reg; the high half wins when they are one register. */
static inline void do_mulx32(struct vcpu *c, const struct cpu_op *o, uint32_t v)
{
	uint64_t product = (uint64_t)v * R32(c, RDX);

	W32(c, o->vvvv, product);
	W32(c, o->reg, product >> 32);
}
HANDLERS(mulx, 32)

static inline void do_mulx64(struct vcpu *c, const struct cpu_op *o, uint64_t v)
{
	uint64_t lo, hi;

	__asm__("mulq %[v]" : "=a" (lo), "=d" (hi) : "a" (c->gpr[RDX]), [v] "r" (v) : "cc");
	W64(c, o->vvvv, lo);
	W64(c, o->reg, hi);
}
HANDLERS(mulx, 64)

enum { B_ANDN, B_BEXTR, B_BLSI, B_BLSMSK, B_BLSR, B_BZHI, B_PDEP, B_PEXT, B_MULX, B_RORX, B_SARX, B_SHLX, B_SHRX };
#define PAIR(op) { { op##32_r, op##64_r }, { op##32_m, op##64_m } }
static cpu_fn *const bmi_fn[][2][2] = {		/* [operation][memory][64] */
	[B_ANDN] = PAIR(andn), [B_BEXTR] = PAIR(bextr), [B_BLSI] = PAIR(blsi), [B_BLSMSK] = PAIR(blsmsk), [B_BLSR] = PAIR(blsr),
	[B_BZHI] = PAIR(bzhi), [B_PDEP] = PAIR(pdep), [B_PEXT] = PAIR(pext), [B_MULX] = PAIR(mulx), [B_RORX] = PAIR(rorx),
	[B_SARX] = PAIR(sarx), [B_SHLX] = PAIR(shlx), [B_SHRX] = PAIR(shrx),
};
static const uint8_t row_of_op[N_INSN_OPS] = {
	[I_ANDN] = B_ANDN, [I_BEXTR] = B_BEXTR, [I_BLSI] = B_BLSI, [I_BLSMSK] = B_BLSMSK, [I_BLSR] = B_BLSR, [I_BZHI] = B_BZHI,
	[I_PDEP] = B_PDEP, [I_PEXT] = B_PEXT, [I_MULX] = B_MULX, [I_RORX] = B_RORX, [I_SARX] = B_SARX, [I_SHLX] = B_SHLX,
	[I_SHRX] = B_SHRX,
};

static bool host_has(unsigned row)
{
	bool bmi1 = row == B_ANDN || row == B_BEXTR || row == B_BLSI || row == B_BLSMSK || row == B_BLSR;

	return bmi1 ? __builtin_cpu_supports("bmi") : __builtin_cpu_supports("bmi2");
}

bool int_lower_bmi(const struct insn *in, struct cpu_op *o)
{
	unsigned row = row_of_op[in->op];

	if (!host_has(row))
		return false;
	o->fn = bmi_fn[row][in->has_mem][o->opsize == 8];
	return true;
}

/* ---- ADCX, ADOX: one flag in and out, the rest stays; written without the host's instructions --------------------------------- */

#define ADX(op, bits, FLAG)												\
static inline void do_##op##bits(struct vcpu *c, const struct cpu_op *o, uint##bits##_t v)				\
{															\
	uint##bits##_t d = R##bits(c, o->reg), sum = (uint##bits##_t)(d + v), all;					\
	bool carry = c->cc & (FLAG), out = sum < d;									\
															\
	all = (uint##bits##_t)(sum + carry);										\
	out |= all < sum;												\
	W##bits(c, o->reg, all);											\
	c->cc = (uint16_t)((c->cc & ~(FLAG)) | (out ? (FLAG) : 0));							\
}															\
HANDLERS(op, bits)
ADX(adcx, 32, CC_CF)
ADX(adcx, 64, CC_CF)
ADX(adox, 32, CC_OF)
ADX(adox, 64, CC_OF)

bool int_lower_adx(const struct insn *in, struct cpu_op *o)
{
	static cpu_fn *const fn[2][2][2] = { PAIR(adcx), PAIR(adox) };

	o->fn = fn[in->op == I_ADOX][in->has_mem][o->opsize == 8];
	return true;
}
