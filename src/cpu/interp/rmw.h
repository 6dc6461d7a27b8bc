/* SPDX-License-Identifier: MIT */
/*
 * Handlers that read, change and write the explicit memory operand, for the families that only differ in what they compute.
 *
 * A family gives do_<op><bits>(value, arguments, cc), which returns the new value; at_<op><bits>(p, arguments, cc) and
 * lock_<op><bits>(p, arguments, cc), which let the host do it in place. The arguments stand last in each macro; they are
 * expressions of c and o, evaluated after the operand was read. Nothing is committed, flags included, before the store cannot
 * fail any more.
 */
#ifndef GW_CPU_INTERP_RMW_H
#define GW_CPU_INTERP_RMW_H

#include "cpu/interp/interp_private.h"

/* The usual address. BT and its kin compute their own. */
#define INT_LA_RW(bits)	cpu_la(c, o, bits / 8, ACC_RW, &la)

#define INT_RMW_SLOW(op, bits, name, LA, ...)										\
INT_SLOW(name)														\
{															\
	uint16_t cc = c->cc;												\
	struct cpu_ref r;												\
	uint##bits##_t d;												\
	uint64_t la;													\
															\
	if (!(LA) || !cpu_ref_get(c, o, la, bits / 8, ACC_RW, &r) || !int_get##bits(c, o, &r, &d))			\
		return false;												\
	int_put##bits(c, o, &r, do_##op##bits(d, ##__VA_ARGS__, &cc));							\
	c->cc = cc;													\
	return true;													\
}

#define INT_RMW_LOCK(op, bits, name, LA, ...)										\
INT_SLOW(name)														\
{															\
	uint16_t cc = c->cc;												\
	struct int_lock l;												\
	uint##bits##_t d;												\
	uint64_t la;													\
	bool ok = true;													\
															\
	if (!(LA) || !int_lock_begin(c, o, la, bits / 8, &l))								\
		return false;												\
	if (likely(l.p)) {												\
		lock_##op##bits(l.p, ##__VA_ARGS__, &cc);								\
	} else if ((ok = cpu_ref_load(c, o, &l.ref, &d))) {								\
		d = do_##op##bits(d, ##__VA_ARGS__, &cc);								\
		cpu_ref_store(c, o, &l.ref, &d);									\
	}														\
	int_lock_end(c, &l);												\
	if (ok)														\
		c->cc = cc;												\
	return ok;													\
}

#define INT_RMW_FAST_A(op, bits, form, A, ...)										\
INT_FN(op##bits##_##form##_##A)												\
{															\
	uint8_t *p = acc_probe_w(&c->acc, int_la_##A(c, o), bits / 8);							\
															\
	if (unlikely(!p))												\
		return op##bits##_##form##_s(c, o);									\
	c->cur = o;													\
	at_##op##bits(p, ##__VA_ARGS__, &c->cc);									\
	CPU_NEXT(c, o);													\
}

/* The plain forms by kind of address (enum int_addr): <op><bits>_<form>_s, _b and _f. */
#define INT_RMW(op, bits, form, ...)											\
INT_RMW_SLOW(op, bits, op##bits##_##form##_s, INT_LA_RW(bits), ##__VA_ARGS__)						\
INT_RMW_FAST_A(op, bits, form, b, ##__VA_ARGS__)									\
INT_RMW_FAST_A(op, bits, form, f, ##__VA_ARGS__)

#endif
