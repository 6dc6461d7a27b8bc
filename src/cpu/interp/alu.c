/* SPDX-License-Identifier: MIT */
/*
 * ADD OR ADC SBB AND SUB XOR CMP TEST, and INC DEC NEG NOT: one handler per operation, form and size. The host's own
 * instruction computes value and flags, so that flags the manual leaves undefined are the host's too.
 *
 * On memory the instruction works at the host address itself; with a lock prefix where the guest has one.
 */
#include "cpu/interp/rmw.h"

#define W_YES(bits, c, n, v)	W##bits(c, n, v)
#define W_NO(bits, c, n, v)	((void)(v))

/* ---- the operations on values: do_OPbits(d, s, cc) ------------------------------------------------------------------- */

#define VALUE_PLAIN(op, bits, sfx)											\
static inline uint##bits##_t do_##op##bits(uint##bits##_t d, uint##bits##_t s, uint16_t *cc)				\
{															\
	uint16_t f;													\
															\
	__asm__(#op #sfx " %[s], %[d]" CC_SAVE : [d] "+r" (d), "=&a" (f) : [s] "r" (s) : "cc");			\
	*cc = f;													\
	return d;													\
}															\
static inline void at_##op##bits(uint8_t *p, uint##bits##_t s, uint16_t *cc)						\
{															\
	uint16_t f;													\
															\
	__asm__ volatile(#op #sfx " %[s], %[d]" CC_SAVE								\
			 : [d] "+m" (*(int_u##bits *)p), "=&a" (f) : [s] "r" (s) : "cc", "memory");			\
	*cc = f;													\
}															\
static inline void lock_##op##bits(uint8_t *p, uint##bits##_t s, uint16_t *cc)						\
{															\
	uint16_t f;													\
															\
	__asm__ volatile("lock; " #op #sfx " %[s], %[d]" CC_SAVE							\
			 : [d] "+m" (*(int_u##bits *)p), "=&a" (f) : [s] "r" (s) : "cc", "memory");			\
	*cc = f;													\
}

#define VALUE_CARRY(op, bits, sfx)											\
static inline uint##bits##_t do_##op##bits(uint##bits##_t d, uint##bits##_t s, uint16_t *cc)				\
{															\
	uint16_t f = *cc;												\
															\
	__asm__(CC_RESTORE #op #sfx " %[s], %[d]" CC_SAVE : [d] "+&r" (d), "+&a" (f) : [s] "r" (s) : "cc");		\
	*cc = f;													\
	return d;													\
}															\
static inline void at_##op##bits(uint8_t *p, uint##bits##_t s, uint16_t *cc)						\
{															\
	uint16_t f = *cc;												\
															\
	__asm__ volatile(CC_RESTORE #op #sfx " %[s], %[d]" CC_SAVE							\
			 : [d] "+m" (*(int_u##bits *)p), "+&a" (f) : [s] "r" (s) : "cc", "memory");			\
	*cc = f;													\
}															\
static inline void lock_##op##bits(uint8_t *p, uint##bits##_t s, uint16_t *cc)						\
{															\
	uint16_t f = *cc;												\
															\
	__asm__ volatile(CC_RESTORE "lock; " #op #sfx " %[s], %[d]" CC_SAVE						\
			 : [d] "+m" (*(int_u##bits *)p), "+&a" (f) : [s] "r" (s) : "cc", "memory");			\
	*cc = f;													\
}

/* CMP and TEST: nothing is written but flags. The value returned is for the uniform shape only. */
#define VALUE_TEST(op, bits, sfx)											\
static inline uint##bits##_t do_##op##bits(uint##bits##_t d, uint##bits##_t s, uint16_t *cc)				\
{															\
	uint16_t f;													\
															\
	__asm__(#op #sfx " %[s], %[d]" CC_SAVE : "=&a" (f) : [d] "r" (d), [s] "r" (s) : "cc");			\
	*cc = f;													\
	return d;													\
}

/* ---- the handlers ---------------------------------------------------------------------------------------------------------- */

#define ON_REGISTERS(op, bits, W)											\
INT_FN(op##bits##_rr)													\
{															\
	W_##W(bits, c, o->rm, do_##op##bits(R##bits(c, o->rm), R##bits(c, o->reg), &c->cc));				\
	CPU_NEXT(c, o);													\
}															\
INT_FN(op##bits##_ri)													\
{															\
	W_##W(bits, c, o->rm, do_##op##bits(R##bits(c, o->rm), (uint##bits##_t)o->imm, &c->cc));			\
	CPU_NEXT(c, o);													\
}

#define FROM_MEMORY_FAST(op, bits, W, A)										\
INT_FN(op##bits##_rm_##A)												\
{															\
	const uint8_t *p = acc_probe_r(&c->acc, int_la_##A(c, o), bits / 8);						\
															\
	if (unlikely(!p))												\
		return op##bits##_rm_s(c, o);										\
	c->cur = o;													\
	W_##W(bits, c, o->reg, do_##op##bits(R##bits(c, o->reg), *(const volatile int_u##bits *)p, &c->cc));		\
	CPU_NEXT(c, o);													\
}
#define FROM_MEMORY(op, bits, W)											\
INT_SLOW(op##bits##_rm_s)												\
{															\
	uint##bits##_t s;												\
															\
	if (!int_load##bits(c, o, &s))											\
		return false;												\
	W_##W(bits, c, o->reg, do_##op##bits(R##bits(c, o->reg), s, &c->cc));						\
	return true;													\
}															\
FROM_MEMORY_FAST(op, bits, W, b)											\
FROM_MEMORY_FAST(op, bits, W, f)

#define TO_MEMORY(op, bits, form, src)											\
INT_RMW(op, bits, form, src)												\
INT_RMW_LOCK(op, bits, op##bits##_##form##_lock, INT_LA_RW(bits), src)

/* CMP and TEST with memory as the first operand only read it. */
#define TEST_MEMORY_FAST(op, bits, form, src, A)									\
INT_FN(op##bits##_##form##_##A)												\
{															\
	const uint8_t *p = acc_probe_r(&c->acc, int_la_##A(c, o), bits / 8);						\
															\
	if (unlikely(!p))												\
		return op##bits##_##form##_s(c, o);									\
	c->cur = o;													\
	do_##op##bits(*(const volatile int_u##bits *)p, src, &c->cc);						\
	CPU_NEXT(c, o);													\
}
#define TEST_MEMORY(op, bits, form, src)										\
INT_SLOW(op##bits##_##form##_s)												\
{															\
	uint##bits##_t d;												\
															\
	if (!int_load##bits(c, o, &d))											\
		return false;												\
	do_##op##bits(d, src, &c->cc);											\
	return true;													\
}															\
TEST_MEMORY_FAST(op, bits, form, src, b)										\
TEST_MEMORY_FAST(op, bits, form, src, f)

#define WRITES(op, bits, sfx, VALUE)											\
VALUE(op, bits, sfx)													\
ON_REGISTERS(op, bits, YES)												\
FROM_MEMORY(op, bits, YES)												\
TO_MEMORY(op, bits, mr, R##bits(c, o->reg))										\
TO_MEMORY(op, bits, mi, (uint##bits##_t)o->imm)

#define TESTS(op, bits, sfx, VALUE)											\
VALUE(op, bits, sfx)													\
ON_REGISTERS(op, bits, NO)												\
FROM_MEMORY(op, bits, NO)												\
TEST_MEMORY(op, bits, mr, R##bits(c, o->reg))										\
TEST_MEMORY(op, bits, mi, (uint##bits##_t)o->imm)

#define SIZES(M, op, VALUE) M(op, 8, b, VALUE) M(op, 16, w, VALUE) M(op, 32, l, VALUE) M(op, 64, q, VALUE)
SIZES(WRITES, add, VALUE_PLAIN)
SIZES(WRITES, or,  VALUE_PLAIN)
SIZES(WRITES, and, VALUE_PLAIN)
SIZES(WRITES, sub, VALUE_PLAIN)
SIZES(WRITES, xor, VALUE_PLAIN)
SIZES(WRITES, adc, VALUE_CARRY)
SIZES(WRITES, sbb, VALUE_CARRY)
SIZES(TESTS, cmp, VALUE_TEST)
SIZES(TESTS, test, VALUE_TEST)

/* XOR of a register with itself: ZF and PF, what hosts leave in AF. */
INT_FN(zero32)
{
	c->gpr[o->rm] = 0;
	c->cc = CC_ZF | CC_PF | CC_FIXED;
	CPU_NEXT(c, o);
}

struct alu_row {
	cpu_fn *rr[N_SZ], *ri[N_SZ];
	cpu_fn *rm[N_SZ][N_ADDR], *mr[N_SZ][N_ADDR], *mi[N_SZ][N_ADDR];
	cpu_fn *mr_lock[N_SZ], *mi_lock[N_SZ];
};

#define FOUR(pre, post) { pre##8##post, pre##16##post, pre##32##post, pre##64##post }
#define BY_ADDR(name) { name##_b, name##_f, name##_s }
#define FOUR_ADDR(op, form) { BY_ADDR(op##8_##form), BY_ADDR(op##16_##form), BY_ADDR(op##32_##form), BY_ADDR(op##64_##form) }
#define TEST_ROW(op)	.rr = FOUR(op, _rr), .ri = FOUR(op, _ri), .rm = FOUR_ADDR(op, rm), .mr = FOUR_ADDR(op, mr), .mi = FOUR_ADDR(op, mi)
#define WRITE_ROW(op)	TEST_ROW(op), .mr_lock = FOUR(op, _mr_lock), .mi_lock = FOUR(op, _mi_lock)

enum { A_ADD, A_OR, A_ADC, A_SBB, A_AND, A_SUB, A_XOR, A_CMP, A_TEST };
static const struct alu_row rows[] = {
	[A_ADD] = { WRITE_ROW(add) }, [A_OR] = { WRITE_ROW(or) }, [A_ADC] = { WRITE_ROW(adc) }, [A_SBB] = { WRITE_ROW(sbb) },
	[A_AND] = { WRITE_ROW(and) }, [A_SUB] = { WRITE_ROW(sub) }, [A_XOR] = { WRITE_ROW(xor) }, [A_CMP] = { TEST_ROW(cmp) },
	[A_TEST] = { TEST_ROW(test) },
};
static const uint8_t row_of_op[N_INSN_OPS] = {
	[I_ADD] = A_ADD, [I_OR] = A_OR, [I_ADC] = A_ADC, [I_SBB] = A_SBB, [I_AND] = A_AND, [I_SUB] = A_SUB, [I_XOR] = A_XOR,
	[I_CMP] = A_CMP, [I_TEST] = A_TEST,
};

bool int_lower_alu(const struct insn *in, struct cpu_op *o)
{
	const struct alu_row *row = &rows[row_of_op[in->op]];
	enum int_size sz = int_size(o->opsize);
	enum int_addr addr = int_addr_of(o);

	switch (int_form(in, o, o->opsize, o->opsize)) {
	case FORM_RR:
		o->fn = row->rr[sz];
		if (in->op == I_XOR && o->rm == o->reg && sz >= SZ32)
			o->fn = zero32;
		return true;
	case FORM_RI:
		o->fn = row->ri[sz];
		return true;
	case FORM_RM:
		o->fn = row->rm[sz][addr];
		return true;
	case FORM_MR:
		o->fn = o->flags & OP_LOCK ? row->mr_lock[sz] : row->mr[sz][addr];
		return true;
	case FORM_MI:
		o->fn = o->flags & OP_LOCK ? row->mi_lock[sz] : row->mi[sz][addr];
		return true;
	default:
		return false;
	}
}
