/* SPDX-License-Identifier: MIT */
/*
 * AAA AAS AAM AAD DAA DAS: absent from 64-bit mode, so no host instruction to lean on. Source: the "Operation" sections of the
 * Intel SDM vol. 2; flags it leaves undefined are those of the last addition or of the result.
 */
#include "cpu/interp/interp_private.h"

/* SF, ZF and PF of @v; no other. */
static uint16_t flags_of(uint8_t v)
{
	return (uint16_t)(CC_FIXED | (v & 0x80 ? CC_SF : 0) | (v ? 0 : CC_ZF) | (__builtin_parity(v) ? 0 : CC_PF));
}

/* AAA and AAS carry from AL into AH; the addition is of 16 bits, as since the 286. */
static void ascii_adjust(struct vcpu *c, int sign)
{
	bool adjust = (R8(c, OFF_AL) & 0x0f) > 9 || c->cc & CC_AF;

	if (adjust)
		W16(c, RAX, R16(c, RAX) + sign * 0x106);
	W8(c, OFF_AL, R8(c, OFF_AL) & 0x0f);
	c->cc = (uint16_t)(flags_of(R8(c, OFF_AL)) | (adjust ? CC_AF | CC_CF : 0));
}

INT_FN(aaa) { ascii_adjust(c, 1); CPU_NEXT(c, o); }
INT_FN(aas) { ascii_adjust(c, -1); CPU_NEXT(c, o); }

static void decimal_adjust(struct vcpu *c, bool subtract)
{
	uint8_t old = R8(c, OFF_AL), al = old;
	bool cf = c->cc & CC_CF, low = (old & 0x0f) > 9 || c->cc & CC_AF, high = old > 0x99 || cf, carry = high;

	if (low) {
		/* The borrow of the low digit sets CF for DAS; for DAA it cannot carry unless the high digit does. */
		carry |= subtract ? old < 6 : old > 0xf9;
		al = (uint8_t)(subtract ? al - 6 : al + 6);
	}
	if (high)
		al = (uint8_t)(subtract ? al - 0x60 : al + 0x60);
	W8(c, OFF_AL, al);
	c->cc = (uint16_t)(flags_of(al) | (carry ? CC_CF : 0) | (low ? CC_AF : 0));
}

INT_FN(daa) { decimal_adjust(c, false); CPU_NEXT(c, o); }
INT_FN(das) { decimal_adjust(c, true); CPU_NEXT(c, o); }

INT_FN(aam)
{
	uint8_t base = (uint8_t)o->imm, al = R8(c, OFF_AL);

	if (!base) {
		cpu_raise(c, o, VEC_DE);
		return;
	}
	W16(c, RAX, (al / base) << 8 | al % base);
	c->cc = flags_of(al % base);
	CPU_NEXT(c, o);
}

INT_FN(aad)
{
	uint8_t al = (uint8_t)(R8(c, OFF_AL) + R8(c, OFF_AH) * (uint8_t)o->imm);

	W16(c, RAX, al);
	c->cc = flags_of(al);
	CPU_NEXT(c, o);
}

bool int_lower_bcd(const struct insn *in, struct cpu_op *o)
{
	o->fn = in->op == I_AAA ? aaa : in->op == I_AAS ? aas : in->op == I_DAA ? daa : in->op == I_DAS ? das :
		in->op == I_AAM ? aam : aad;
	return true;
}
