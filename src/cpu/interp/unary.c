/* SPDX-License-Identifier: MIT */
/*
 * INC DEC NEG NOT on registers and memory. INC and DEC keep CF, NOT keeps everything: all run with the guest's flags loaded.
 */
#include "cpu/interp/rmw.h"

#define VALUE(op, bits, sfx)												\
static inline uint##bits##_t do_##op##bits(uint##bits##_t d, uint16_t *cc)						\
{															\
	uint16_t f = *cc;												\
															\
	__asm__(CC_RESTORE #op #sfx " %[d]" CC_SAVE : [d] "+&r" (d), "+&a" (f) : : "cc");				\
	*cc = f;													\
	return d;													\
}															\
static inline void at_##op##bits(uint8_t *p, uint16_t *cc)								\
{															\
	uint16_t f = *cc;												\
															\
	__asm__ volatile(CC_RESTORE #op #sfx " %[d]" CC_SAVE								\
			 : [d] "+m" (*(int_u##bits *)p), "+&a" (f) : : "cc", "memory");				\
	*cc = f;													\
}															\
static inline void lock_##op##bits(uint8_t *p, uint16_t *cc)								\
{															\
	uint16_t f = *cc;												\
															\
	__asm__ volatile(CC_RESTORE "lock; " #op #sfx " %[d]" CC_SAVE							\
			 : [d] "+m" (*(int_u##bits *)p), "+&a" (f) : : "cc", "memory");				\
	*cc = f;													\
}

#define UNARY(op, bits, sfx)												\
VALUE(op, bits, sfx)													\
INT_FN(op##bits##_r)													\
{															\
	W##bits(c, o->rm, do_##op##bits(R##bits(c, o->rm), &c->cc));							\
	CPU_NEXT(c, o);													\
}															\
INT_RMW(op, bits, m)													\
INT_RMW_LOCK(op, bits, op##bits##_m_lock, INT_LA_RW(bits))

#define SIZES(op) UNARY(op, 8, b) UNARY(op, 16, w) UNARY(op, 32, l) UNARY(op, 64, q)
SIZES(inc)
SIZES(dec)
SIZES(neg)
SIZES(not)

struct unary_row { cpu_fn *r[N_SZ], *m[N_SZ][N_ADDR], *lock[N_SZ]; };

#define FOUR(op, post) { op##8##post, op##16##post, op##32##post, op##64##post }
#define BY_ADDR(name) { name##_m_b, name##_m_f, name##_m_s }
#define ROW(op) { FOUR(op, _r), { BY_ADDR(op##8), BY_ADDR(op##16), BY_ADDR(op##32), BY_ADDR(op##64) }, FOUR(op, _m_lock) }
static const struct unary_row rows[] = { ROW(inc), ROW(dec), ROW(neg), ROW(not) };

bool int_lower_unary(const struct insn *in, struct cpu_op *o)
{
	const struct unary_row *row = &rows[in->op == I_INC ? 0 : in->op == I_DEC ? 1 : in->op == I_NEG ? 2 : 3];
	enum int_size sz = int_size(o->opsize);

	switch (int_operand(in, 0, o->opsize, &o->rm)) {
	case K_REG:
		o->fn = row->r[sz];
		return true;
	case K_MEM:
		o->fn = o->flags & OP_LOCK ? row->lock[sz] : row->m[sz][int_addr_of(o)];
		return true;
	default:
		return false;
	}
}
