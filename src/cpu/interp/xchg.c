/* SPDX-License-Identifier: MIT */
/*
 * XCHG, XADD, CMPXCHG, CMPXCHG8B and CMPXCHG16B. With memory all of them ask for the right to write, whether they will or not.
 *
 * The host's instruction works on whole 64-bit copies of the registers, so that what a 32-bit form does to the upper halves
 * (which differs between the outcomes of CMPXCHG) is what the host does.
 */
#include "cpu/interp/interp_private.h"

/* ---- XCHG: locked by nature ---------------------------------------------------------------------------------------------- */

#define XCHG_FAST(bits, A)												\
INT_FN(xchg##bits##_mr_##A)												\
{															\
	uint8_t *p = acc_probe_w(&c->acc, int_la_##A(c, o), bits / 8);							\
															\
	if (unlikely(!p))												\
		return xchg##bits##_mr_s(c, o);										\
	c->cur = o;													\
	W##bits(c, o->reg, host_xchg##bits(p, R##bits(c, o->reg)));							\
	CPU_NEXT(c, o);													\
}

#define XCHG(bits, sfx)													\
static inline uint##bits##_t host_xchg##bits(uint8_t *p, uint##bits##_t v)						\
{															\
	__asm__ volatile("xchg" #sfx " %[v], %[m]" : [v] "+r" (v), [m] "+m" (*(int_u##bits *)p) : : "memory");	\
	return v;													\
}															\
INT_FN(xchg##bits##_rr)													\
{															\
	uint##bits##_t d = R##bits(c, o->rm), s = R##bits(c, o->reg);							\
															\
	W##bits(c, o->reg, d);												\
	W##bits(c, o->rm, s);												\
	CPU_NEXT(c, o);													\
}															\
INT_SLOW(xchg##bits##_mr_s)												\
{															\
	uint##bits##_t s = R##bits(c, o->reg), d;									\
	struct int_lock l;												\
	uint64_t la;													\
	bool ok = true;													\
															\
	if (!cpu_la(c, o, bits / 8, ACC_RW, &la) || !int_lock_begin(c, o, la, bits / 8, &l))				\
		return false;												\
	if (l.p)													\
		d = host_xchg##bits(l.p, s);										\
	else if ((ok = cpu_ref_load(c, o, &l.ref, &d)))									\
		cpu_ref_store(c, o, &l.ref, &s);									\
	int_lock_end(c, &l);												\
	if (ok)														\
		W##bits(c, o->reg, d);											\
	return ok;													\
}															\
XCHG_FAST(bits, b)													\
XCHG_FAST(bits, f)
XCHG(8, b)
XCHG(16, w)
XCHG(32, l)
XCHG(64, q)

/* ---- XADD and CMPXCHG: host_opbits works at an address, with or without lock -------------------------------------------------- */

#define XADD_AT(bits, sfx, name, lock)											\
static inline void name##bits(uint8_t *p, uint##bits##_t *s, uint16_t *cc)						\
{															\
	uint16_t f;													\
															\
	__asm__ volatile(lock "xadd" #sfx " %[s], %[d]" CC_SAVE								\
			 : [d] "+m" (*(int_u##bits *)p), [s] "+r" (*s), "=&a" (f) : : "cc", "memory");		\
	*cc = f;													\
}
#define XADD(bits, sfx)													\
XADD_AT(bits, sfx, xadd_plain, "")											\
XADD_AT(bits, sfx, xadd_lock, "lock; ")											\
INT_FN(xadd##bits##_rr)													\
{															\
	uint##bits##_t d = R##bits(c, o->rm), s = R##bits(c, o->reg);							\
	uint16_t f;													\
															\
	__asm__("xadd" #sfx " %[s], %[d]" CC_SAVE : [d] "+&r" (d), [s] "+&r" (s), "=&a" (f) : : "cc");		\
	c->cc = f;													\
	W##bits(c, o->reg, s);												\
	W##bits(c, o->rm, d);												\
	CPU_NEXT(c, o);													\
}															\
INT_SLOW(xadd##bits##_mr)												\
{															\
	uint##bits##_t s = R##bits(c, o->reg), d;									\
	uint16_t cc = c->cc;												\
	struct cpu_ref r;												\
															\
	if (!int_rmw##bits(c, o, &r, &d))										\
		return false;												\
	xadd_plain##bits((uint8_t *)&d, &s, &cc);									\
	int_put##bits(c, o, &r, d);											\
	W##bits(c, o->reg, s);												\
	c->cc = cc;													\
	return true;													\
}															\
INT_SLOW(xadd##bits##_mr_lock)												\
{															\
	uint##bits##_t s = R##bits(c, o->reg), d;									\
	uint16_t cc = c->cc;												\
	struct int_lock l;												\
	uint64_t la;													\
	bool ok = true;													\
															\
	if (!cpu_la(c, o, bits / 8, ACC_RW, &la) || !int_lock_begin(c, o, la, bits / 8, &l))				\
		return false;												\
	if (likely(l.p)) {												\
		xadd_lock##bits(l.p, &s, &cc);										\
	} else if ((ok = cpu_ref_load(c, o, &l.ref, &d))) {								\
		xadd_plain##bits((uint8_t *)&d, &s, &cc);								\
		cpu_ref_store(c, o, &l.ref, &d);									\
	}														\
	int_lock_end(c, &l);												\
	if (ok) {													\
		W##bits(c, o->reg, s);											\
		c->cc = cc;												\
	}														\
	return ok;													\
}
XADD(8, b)
XADD(16, w)
XADD(32, l)
XADD(64, q)

/* @mod picks the register's width in the asm text; the accumulator goes out before LAHF takes AH. */
#define CMPXCHG_AT(bits, sfx, mod, name, lock)										\
static inline void name##bits(uint8_t *p, uint64_t *acc, uint64_t s, uint16_t *cc)					\
{															\
	uint64_t a = *acc, out;												\
															\
	__asm__ volatile(lock "cmpxchg" #sfx " %" #mod "[s], %[d]\n\tmovq %%rax, %[out]" CC_SAVE			\
			 : [d] "+m" (*(int_u##bits *)p), "+&a" (a), [out] "=&r" (out) : [s] "r" (s) : "cc", "memory"); \
	*acc = out;													\
	*cc = (uint16_t)a;												\
}
#define CMPXCHG(bits, sfx, mod)												\
CMPXCHG_AT(bits, sfx, mod, cmpxchg_plain, "")										\
CMPXCHG_AT(bits, sfx, mod, cmpxchg_lock, "lock; ")									\
INT_FN(cmpxchg##bits##_rr)												\
{															\
	uint64_t d = bits == 8 ? R8(c, o->rm) : R64(c, o->rm), a = c->gpr[RAX], out;					\
	uint64_t s = bits == 8 ? R8(c, o->reg) : R64(c, o->reg);							\
															\
	__asm__("cmpxchg" #sfx " %" #mod "[s], %" #mod "[d]\n\tmovq %%rax, %[out]" CC_SAVE				\
		: [d] "+&r" (d), "+&a" (a), [out] "=&r" (out) : [s] "r" (s) : "cc");					\
	c->cc = (uint16_t)a;												\
	c->gpr[RAX] = out;												\
	if (bits == 8)													\
		W8(c, o->rm, d);											\
	else														\
		W64(c, o->rm, d);											\
	CPU_NEXT(c, o);													\
}															\
INT_SLOW(cmpxchg##bits##_mr)												\
{															\
	uint64_t s = bits == 8 ? R8(c, o->reg) : R64(c, o->reg), acc = c->gpr[RAX];					\
	uint##bits##_t d;												\
	uint16_t cc;													\
	struct cpu_ref r;												\
															\
	if (!int_rmw##bits(c, o, &r, &d))										\
		return false;												\
	cmpxchg_plain##bits((uint8_t *)&d, &acc, s, &cc);								\
	int_put##bits(c, o, &r, d);											\
	c->gpr[RAX] = acc;												\
	c->cc = cc;													\
	return true;													\
}															\
INT_SLOW(cmpxchg##bits##_mr_lock)											\
{															\
	uint64_t s = bits == 8 ? R8(c, o->reg) : R64(c, o->reg), acc = c->gpr[RAX], la;					\
	uint16_t cc = c->cc;												\
	struct int_lock l;												\
	uint##bits##_t d;												\
	bool ok = true;													\
															\
	if (!cpu_la(c, o, bits / 8, ACC_RW, &la) || !int_lock_begin(c, o, la, bits / 8, &l))				\
		return false;												\
	if (likely(l.p)) {												\
		cmpxchg_lock##bits(l.p, &acc, s, &cc);									\
	} else if ((ok = cpu_ref_load(c, o, &l.ref, &d))) {								\
		cmpxchg_plain##bits((uint8_t *)&d, &acc, s, &cc);							\
		cpu_ref_store(c, o, &l.ref, &d);									\
	}														\
	int_lock_end(c, &l);												\
	if (ok) {													\
		c->gpr[RAX] = acc;											\
		c->cc = cc;												\
	}														\
	return ok;													\
}
CMPXCHG(8, b, b)
CMPXCHG(16, w, w)
CMPXCHG(32, l, k)
CMPXCHG(64, q, q)

#define FOUR(op, post) { op##8##post, op##16##post, op##32##post, op##64##post }
#define BY_ADDR(name) { name##_b, name##_f, name##_s }
static cpu_fn *const xchg_rr[N_SZ] = FOUR(xchg, _rr);
static cpu_fn *const xchg_mr[N_SZ][N_ADDR] = { BY_ADDR(xchg8_mr), BY_ADDR(xchg16_mr), BY_ADDR(xchg32_mr), BY_ADDR(xchg64_mr) };
/* [register, memory, locked memory] */
static cpu_fn *const xadd_fn[3][N_SZ] = { FOUR(xadd, _rr), FOUR(xadd, _mr), FOUR(xadd, _mr_lock) };
static cpu_fn *const cmpxchg_fn[3][N_SZ] = { FOUR(cmpxchg, _rr), FOUR(cmpxchg, _mr), FOUR(cmpxchg, _mr_lock) };

bool int_lower_xchg(const struct insn *in, struct cpu_op *o)
{
	enum int_form form = int_form(in, o, o->opsize, o->opsize);
	enum int_size sz = int_size(o->opsize);

	o->fn = form == FORM_RR ? xchg_rr[sz] : form == FORM_MR ? xchg_mr[sz][int_addr_of(o)] : NULL;
	return o->fn;
}

static bool lower_3(const struct insn *in, struct cpu_op *o, cpu_fn *const fn[3][N_SZ])
{
	enum int_form form = int_form(in, o, o->opsize, o->opsize);

	if (form != FORM_RR && form != FORM_MR)
		return false;
	o->fn = fn[form == FORM_RR ? 0 : o->flags & OP_LOCK ? 2 : 1][int_size(o->opsize)];
	return true;
}

bool int_lower_xadd(const struct insn *in, struct cpu_op *o)
{
	return lower_3(in, o, xadd_fn);
}

bool int_lower_cmpxchg(const struct insn *in, struct cpu_op *o)
{
	return lower_3(in, o, cmpxchg_fn);
}

/* ---- CMPXCHG8B, CMPXCHG16B: only ZF changes --------------------------------------------------------------------------------------- */

struct pair { uint64_t lo, hi; };

#define WIDE_AT(bytes, name, lock)											\
static inline bool name##bytes(uint8_t *p, uint64_t *a, uint64_t *d, uint64_t b, uint64_t cx)				\
{															\
	bool equal;													\
															\
	__asm__ volatile(lock "cmpxchg" #bytes "b %[m]\n\tsetz %[z]"							\
			 : [m] "+m" (*(struct pair *)p), "+a" (*a), "+d" (*d), [z] "=q" (equal)				\
			 : "b" (b), "c" (cx) : "cc", "memory");								\
	return equal;													\
}
WIDE_AT(8, wide_plain, "")
WIDE_AT(8, wide_lock, "lock; ")
WIDE_AT(16, wide_plain, "")
WIDE_AT(16, wide_lock, "lock; ")

static bool wide(unsigned bytes, bool lock, uint8_t *p, uint64_t *a, uint64_t *d, uint64_t b, uint64_t cx)
{
	if (bytes == 8)
		return lock ? wide_lock8(p, a, d, b, cx) : wide_plain8(p, a, d, b, cx);
	return lock ? wide_lock16(p, a, d, b, cx) : wide_plain16(p, a, d, b, cx);
}

INT_SLOW(cmpxchg_wide)
{
	uint64_t a = c->gpr[RAX], d = c->gpr[RDX], la;
	unsigned bytes = o->aux;
	_Alignas(16) uint8_t copy[16];
	bool ok = true, equal = false;
	struct int_lock l;

	if (!cpu_la(c, o, bytes, ACC_RW, &la))
		return false;
	if (bytes == 16 && la & 15) {
		cpu_raise_error(c, o, VEC_GP, 0);
		return false;
	}
	if (!int_lock_begin(c, o, la, bytes, &l))
		return false;
	if (likely(l.p)) {
		equal = wide(bytes, o->flags & OP_LOCK, l.p, &a, &d, c->gpr[RBX], c->gpr[RCX]);
	} else if ((ok = cpu_ref_load(c, o, &l.ref, copy))) {
		equal = wide(bytes, false, copy, &a, &d, c->gpr[RBX], c->gpr[RCX]);
		cpu_ref_store(c, o, &l.ref, copy);
	}
	int_lock_end(c, &l);
	if (!ok)
		return false;
	c->gpr[RAX] = a;
	c->gpr[RDX] = d;
	c->cc = (uint16_t)((c->cc & ~CC_ZF) | (equal ? CC_ZF : 0));
	return true;
}

bool int_lower_cmpxchg8b(const struct insn *in, struct cpu_op *o)
{
	o->aux = in->op == I_CMPXCHG16B ? 16 : 8;
	o->fn = cmpxchg_wide;
	return in->has_mem;
}
