/* SPDX-License-Identifier: MIT */
/*
 * MUL IMUL DIV IDIV. A division is done by the host only when the quotient is known to fit; otherwise #DE.
 */
#include "cpu/interp/interp_private.h"

/* ---- operand: a register, or loaded ------------------------------------------------------------------------------------------ */

/*
 * @name##_r and @name##_m from an inline function `bool name(c, o, v)`, which commits and says whether to go on. GCC has no
 * address of a local in the register form, so it stays a jump to the next handler.
 */
#define ONE_OPERAND(name, bits)												\
INT_FN(name##bits##_r)													\
{															\
	if (unlikely(!name##bits(c, o, R##bits(c, o->rm))))								\
		return;													\
	CPU_NEXT(c, o);													\
}															\
INT_SLOW(name##bits##_m)												\
{															\
	uint##bits##_t v;												\
															\
	return int_load##bits(c, o, &v) && name##bits(c, o, v);								\
}

/* ---- MUL, IMUL: accumulator by operand ---------------------------------------------------------------------------------------------- */

/* The product leaves RAX before LAHF takes AH. */
#define WIDE_MUL(op, bits, sfx, W)											\
static inline bool op##bits(struct vcpu *c, const struct cpu_op *o, uint##bits##_t v)					\
{															\
	uint64_t a = c->gpr[RAX], d, lo;										\
															\
	__asm__(#op #sfx " %[v]\n\tmovq %%rax, %[lo]" CC_SAVE								\
		: "+&a" (a), "=&d" (d), [lo] "=&r" (lo) : [v] "r" (v) : "cc");						\
	c->cc = (uint16_t)a;												\
	W(c, RAX, lo);													\
	W(c, RDX, d);													\
	return true;													\
}															\
ONE_OPERAND(op, bits)

#define WIDE_MUL8(op)													\
static inline bool op##8(struct vcpu *c, const struct cpu_op *o, uint8_t v)						\
{															\
	uint64_t a = c->gpr[RAX], lo;											\
															\
	__asm__(#op "b %[v]\n\tmovq %%rax, %[lo]" CC_SAVE : "+&a" (a), [lo] "=&r" (lo) : [v] "r" (v) : "cc");		\
	c->cc = (uint16_t)a;												\
	W16(c, RAX, lo);												\
	return true;													\
}															\
ONE_OPERAND(op, 8)

WIDE_MUL8(mul)
WIDE_MUL(mul, 16, w, W16)
WIDE_MUL(mul, 32, l, W32)
WIDE_MUL(mul, 64, q, W64)
WIDE_MUL8(imul)
WIDE_MUL(imul, 16, w, W16)
WIDE_MUL(imul, 32, l, W32)
WIDE_MUL(imul, 64, q, W64)

/* ---- IMUL with two and three operands --------------------------------------------------------------------------------------------------- */

#define IMUL_FAST(bits, name, other, A)											\
INT_FN(imul##bits##_##name##_##A)											\
{															\
	const uint8_t *p = acc_probe_r(&c->acc, int_la_##A(c, o), bits / 8);						\
															\
	if (unlikely(!p))												\
		return imul##bits##_##name##_s(c, o);									\
	c->cur = o;													\
	W##bits(c, o->reg, product##bits(*(const volatile int_u##bits *)p, other, &c->cc));				\
	CPU_NEXT(c, o);													\
}
#define IMUL_MEMORY(bits, name, other)											\
INT_SLOW(imul##bits##_##name##_s)											\
{															\
	uint##bits##_t v;												\
															\
	if (!int_load##bits(c, o, &v))											\
		return false;												\
	W##bits(c, o->reg, product##bits(v, other, &c->cc));								\
	return true;													\
}															\
IMUL_FAST(bits, name, other, b)												\
IMUL_FAST(bits, name, other, f)

/* rr: reg <- reg * rm; rri: reg <- rm * imm; and the same from memory. */
#define IMUL(bits, sfx)													\
static inline uint##bits##_t product##bits(uint##bits##_t d, uint##bits##_t s, uint16_t *cc)				\
{															\
	uint16_t f;													\
															\
	__asm__("imul" #sfx " %[s], %[d]" CC_SAVE : [d] "+r" (d), "=&a" (f) : [s] "r" (s) : "cc");			\
	*cc = f;													\
	return d;													\
}															\
INT_FN(imul##bits##_rr)													\
{															\
	W##bits(c, o->reg, product##bits(R##bits(c, o->rm), R##bits(c, o->reg), &c->cc));				\
	CPU_NEXT(c, o);													\
}															\
INT_FN(imul##bits##_rri)												\
{															\
	W##bits(c, o->reg, product##bits(R##bits(c, o->rm), (uint##bits##_t)o->imm, &c->cc));				\
	CPU_NEXT(c, o);													\
}															\
IMUL_MEMORY(bits, rm, R##bits(c, o->reg))										\
IMUL_MEMORY(bits, rmi, (uint##bits##_t)o->imm)
IMUL(16, w)
IMUL(32, l)
IMUL(64, q)

/* ---- DIV, IDIV ---------------------------------------------------------------------------------------------------------------------------- */

static bool divide_error(struct vcpu *c, const struct cpu_op *o)
{
	cpu_raise(c, o, VEC_DE);
	return false;
}

/* The host's division of hi:lo, known to fit; the guest's flags go in because the host may leave some of them alone. */
#define HOST_DIV(op, bits, sfx)												\
static inline void host_##op##bits(struct vcpu *c, uint##bits##_t v, uint64_t *lo, uint64_t *hi)			\
{															\
	uint64_t a = *lo, d = *hi, f = c->cc;										\
															\
	__asm__("xchgq %%rax, %[f]\n\t" CC_RESTORE "movq %[f], %%rax\n\t" #op #sfx " %[v]\n\tmovq %%rax, %[f]" CC_SAVE \
		: "+&a" (a), "+&d" (d), [f] "+&r" (f) : [v] "r" (v) : "cc");						\
	c->cc = (uint16_t)a;												\
	*lo = f;													\
	*hi = d;													\
}
HOST_DIV(div, 16, w)
HOST_DIV(div, 32, l)
HOST_DIV(div, 64, q)
HOST_DIV(idiv, 16, w)
HOST_DIV(idiv, 32, l)
HOST_DIV(idiv, 64, q)

/* The byte forms divide AX: quotient to AL, remainder to AH. */
#define HOST_DIV8(op)													\
static inline uint16_t host_##op##8(struct vcpu *c, uint8_t v)								\
{															\
	uint64_t a = c->gpr[RAX], f = c->cc;										\
															\
	__asm__("xchgq %%rax, %[f]\n\t" CC_RESTORE "movq %[f], %%rax\n\t" #op "b %[v]\n\tmovq %%rax, %[f]" CC_SAVE	\
		: "+&a" (a), [f] "+&r" (f) : [v] "r" (v) : "cc");							\
	c->cc = (uint16_t)a;												\
	return (uint16_t)f;												\
}
HOST_DIV8(div)
HOST_DIV8(idiv)

static inline bool div8(struct vcpu *c, const struct cpu_op *o, uint8_t v)
{
	if (R8(c, OFF_AH) >= v)		/* also v == 0 */
		return divide_error(c, o);
	W16(c, RAX, host_div8(c, v));
	return true;
}

static inline bool idiv8(struct vcpu *c, const struct cpu_op *o, uint8_t v)
{
	int n = (int16_t)R16(c, RAX), d = (int8_t)v;

	if (!d || n / d != (int8_t)(n / d))
		return divide_error(c, o);
	W16(c, RAX, host_idiv8(c, v));
	return true;
}

#define DIV(bits)													\
static inline bool div##bits(struct vcpu *c, const struct cpu_op *o, uint##bits##_t v)					\
{															\
	uint64_t lo = c->gpr[RAX], hi = c->gpr[RDX];									\
															\
	if (unlikely((uint##bits##_t)hi >= v))										\
		return divide_error(c, o);										\
	host_div##bits(c, v, &lo, &hi);											\
	W##bits(c, RAX, lo);												\
	W##bits(c, RDX, hi);												\
	return true;													\
}
DIV(16)
DIV(32)
DIV(64)

/* Does the quotient of the signed @hi:@lo by @v fit? Wider arithmetic first for the narrow sizes. */
static inline bool fits16(uint64_t hi, uint64_t lo, uint16_t v)
{
	int64_t n = (int32_t)((uint32_t)(uint16_t)hi << 16 | (uint16_t)lo), d = (int16_t)v;

	return d && n / d == (int16_t)(n / d);
}

static inline bool fits32(uint64_t hi, uint64_t lo, uint32_t v)
{
	int64_t n = (int64_t)(hi << 32 | (uint32_t)lo), d = (int32_t)v;

	if (likely(n == (int32_t)n))
		return d && !(n == INT32_MIN && d == -1);
	/* The one quotient that even 64 bits do not hold. */
	return d && !(n == INT64_MIN && d == -1) && n / d == (int32_t)(n / d);
}

/* Magnitudes: the quotient fits if |n| / |d| <= 2^63 - 1, or 2^63 when it is negative. */
static inline bool fits64(uint64_t hi, uint64_t lo, uint64_t v)
{
	bool negative = (int64_t)(hi ^ v) < 0;
	uint64_t d = (int64_t)v < 0 ? 0 - v : v, q, rem;

	/* A dividend that is itself one word: only the smallest by -1 does not fit. */
	if (likely(hi == (uint64_t)((int64_t)lo >> 63)))
		return v && !(lo == (uint64_t)INT64_MIN && v == ~0ull);
	if ((int64_t)hi < 0) {
		lo = 0 - lo;
		hi = ~hi + !lo;
	}
	if (hi >= d)
		return false;
	__asm__("divq %[d]" : "=a" (q), "=d" (rem) : "a" (lo), "d" (hi), [d] "r" (d) : "cc");
	return q <= (uint64_t)INT64_MAX + negative;
}

#define IDIV(bits)													\
static inline bool idiv##bits(struct vcpu *c, const struct cpu_op *o, uint##bits##_t v)					\
{															\
	uint64_t lo = c->gpr[RAX], hi = c->gpr[RDX];									\
															\
	if (unlikely(!fits##bits(hi, lo, v)))										\
		return divide_error(c, o);										\
	host_idiv##bits(c, v, &lo, &hi);										\
	W##bits(c, RAX, lo);												\
	W##bits(c, RDX, hi);												\
	return true;													\
}
IDIV(16)
IDIV(32)
IDIV(64)

#define DIV_HANDLERS(bits) ONE_OPERAND(div, bits) ONE_OPERAND(idiv, bits)
INT_SCALARS(DIV_HANDLERS)

/* ---- lowering --------------------------------------------------------------------------------------------------------------------------------- */

#define FOUR(op, post) { op##8##post, op##16##post, op##32##post, op##64##post }
enum { D_MUL, D_IMUL, D_DIV, D_IDIV };
static cpu_fn *const one_operand[4][2][N_SZ] = {	/* [operation][memory] */
	[D_MUL] = { FOUR(mul, _r), FOUR(mul, _m) }, [D_IMUL] = { FOUR(imul, _r), FOUR(imul, _m) },
	[D_DIV] = { FOUR(div, _r), FOUR(div, _m) }, [D_IDIV] = { FOUR(idiv, _r), FOUR(idiv, _m) },
};
#define BY_ADDR(name) { name##_b, name##_f, name##_s }
static cpu_fn *const imul_rr[2][N_SZ] = {		/* [immediate] */
	{ NULL, imul16_rr, imul32_rr, imul64_rr }, { NULL, imul16_rri, imul32_rri, imul64_rri },
};
static cpu_fn *const imul_rm[2][N_SZ][N_ADDR] = {
	{ { NULL }, BY_ADDR(imul16_rm), BY_ADDR(imul32_rm), BY_ADDR(imul64_rm) },
	{ { NULL }, BY_ADDR(imul16_rmi), BY_ADDR(imul32_rmi), BY_ADDR(imul64_rmi) },
};

/* reg, r/m [, imm] */
static bool lower_imul(const struct insn *in, struct cpu_op *o)
{
	bool imm = insn_rows[in->row].opnd[2] != OE_NONE;
	enum int_size sz = int_size(o->opsize);

	/* Plain numbers of ModRM are already where the handlers look. */
	o->fn = in->has_mem ? imul_rm[imm][sz][int_addr_of(o)] : imul_rr[imm][sz];
	return o->fn;
}

bool int_lower_muldiv(const struct insn *in, struct cpu_op *o)
{
	unsigned row = in->op == I_MUL ? D_MUL : in->op == I_IMUL ? D_IMUL : in->op == I_DIV ? D_DIV : D_IDIV;
	enum int_kind kind;

	if (insn_rows[in->row].opnd[1] != OE_NONE)
		return lower_imul(in, o);
	kind = int_operand(in, 0, o->opsize, &o->rm);
	if (kind != K_REG && kind != K_MEM)
		return false;
	o->fn = one_operand[row][kind == K_MEM][int_size(o->opsize)];
	return o->fn;
}
