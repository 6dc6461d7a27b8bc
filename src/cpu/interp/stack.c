/* SPDX-License-Identifier: MIT */
/*
 * PUSH, POP (registers, immediates, memory), PUSHA, POPA, ENTER, LEAVE. SP changes after the access.
 *
 * The 64-bit forms on a register have a fast handler; everything else computes SP by the size of the stack segment.
 */
#include <string.h>

#include "cpu/interp/interp_private.h"

/* ---- PUSH ------------------------------------------------------------------------------------------------------------------ */

/* Push @v with the operand size, by the general way. */
static bool push(struct vcpu *c, const struct cpu_op *o, uint64_t v)
{
	uint64_t sp = (c->gpr[RSP] - o->opsize) & int_sp_mask(c), la;
	struct cpu_ref r;

	if (!int_stack_la(c, o, sp, o->opsize, ACC_W, &la) || !cpu_ref_get(c, o, la, o->opsize, ACC_W, &r))
		return false;
	cpu_ref_store(c, o, &r, &v);
	int_set_stack_reg(c, RSP, sp);
	return true;
}

INT_SLOW(push_r) { return push(c, o, c->gpr[o->rm]); }
INT_SLOW(push_i) { return push(c, o, o->imm); }

INT_FN(push64_r)
{
	uint64_t sp = c->gpr[RSP] - 8;
	uint8_t *p = acc_probe_w(&c->acc, sp, 8);

	if (unlikely(!p))
		return push_r(c, o);
	c->cur = o;
	*(volatile int_u64 *)p = c->gpr[o->rm];
	c->gpr[RSP] = sp;
	CPU_NEXT(c, o);
}

INT_FN(push64_i)
{
	uint64_t sp = c->gpr[RSP] - 8;
	uint8_t *p = acc_probe_w(&c->acc, sp, 8);

	if (unlikely(!p))
		return push_i(c, o);
	c->cur = o;
	*(volatile int_u64 *)p = o->imm;
	c->gpr[RSP] = sp;
	CPU_NEXT(c, o);
}

/* The source is addressed with the old SP. */
INT_SLOW(push_m)
{
	uint64_t sp = (c->gpr[RSP] - o->opsize) & int_sp_mask(c), v = 0;
	struct cpu_want w[2] = {
		{ .len = o->opsize, .rights = ACC_R, .stage = ACC_FINAL, .stack = o->flags & OP_STACK },
		{ .len = o->opsize, .rights = ACC_W, .stage = ACC_FINAL, .stack = true },
	};
	struct cpu_ref r[2];
	const uint8_t *s;
	uint8_t *p;

	if (!cpu_la(c, o, o->opsize, ACC_R, &w[0].gva) || !int_stack_la(c, o, sp, o->opsize, ACC_W, &w[1].gva))
		return false;
	s = acc_probe_r(&c->acc, w[0].gva, o->opsize);
	p = acc_probe_w(&c->acc, w[1].gva, o->opsize);
	if (likely(s && p && o->opsize == 8)) {
		c->cur = o;
		*(volatile int_u64 *)p = *(const volatile int_u64 *)s;
		c->gpr[RSP] = sp;
		return true;
	}
	if (!cpu_refs(c, o, w, 2, r) || !cpu_ref_load(c, o, &r[0], &v))
		return false;
	cpu_ref_store(c, o, &r[1], &v);
	int_set_stack_reg(c, RSP, sp);
	return true;
}

/* ---- POP -------------------------------------------------------------------------------------------------------------------- */

static void set_reg(struct vcpu *c, unsigned n, unsigned size, uint64_t v)
{
	if (size == 2)
		W16(c, n, v);
	else
		c->gpr[n] = v;		/* the upper half of a 32-bit value is zero already */
}

/* The value at @sp, of the operand size. */
static bool stack_load(struct vcpu *c, const struct cpu_op *o, uint64_t sp, uint64_t *v)
{
	struct cpu_ref r;
	uint64_t la;

	*v = 0;
	return int_stack_la(c, o, sp, o->opsize, ACC_R, &la) && cpu_ref_get(c, o, la, o->opsize, ACC_R, &r) &&
	       cpu_ref_load(c, o, &r, v);
}

/* POP of SP itself: the value wins over the increment. */
INT_SLOW(pop_r)
{
	uint64_t sp = c->gpr[RSP] & int_sp_mask(c), v;

	if (!stack_load(c, o, sp, &v))
		return false;
	int_set_stack_reg(c, RSP, sp + o->opsize);
	set_reg(c, o->rm, o->opsize, v);
	return true;
}

INT_FN(pop64_r)
{
	uint64_t sp = c->gpr[RSP], v;
	const uint8_t *p = acc_probe_r(&c->acc, sp, 8);

	if (unlikely(!p))
		return pop_r(c, o);
	c->cur = o;
	v = *(const volatile int_u64 *)p;
	c->gpr[RSP] = sp + 8;
	c->gpr[o->rm] = v;
	CPU_NEXT(c, o);
}

/* The destination is addressed with SP after the pop; SP goes back if anything is refused. */
INT_SLOW(pop_m)
{
	uint64_t old = c->gpr[RSP], sp = old & int_sp_mask(c), v = 0;
	struct cpu_want w[2] = {
		{ .len = o->opsize, .rights = ACC_R, .stage = ACC_FINAL, .stack = true },
		{ .len = o->opsize, .rights = ACC_W, .stage = ACC_FINAL, .stack = o->flags & OP_STACK },
	};
	struct cpu_ref r[2];
	bool ok;

	if (!int_stack_la(c, o, sp, o->opsize, ACC_R, &w[0].gva))
		return false;
	int_set_stack_reg(c, RSP, sp + o->opsize);
	ok = cpu_la(c, o, o->opsize, ACC_W, &w[1].gva) && cpu_refs(c, o, w, 2, r) && cpu_ref_load(c, o, &r[0], &v);
	if (!ok) {
		c->gpr[RSP] = old;
		return false;
	}
	cpu_ref_store(c, o, &r[1], &v);
	return true;
}

/* ---- PUSHA, POPA: eight registers ------------------------------------------------------------------------------------------------ */

/* May the operand size be stored at @sp? */
static bool may_push(struct vcpu *c, const struct cpu_op *o, uint64_t sp)
{
	struct cpu_ref r;
	uint64_t la;

	return int_stack_la(c, o, sp & int_sp_mask(c), o->opsize, ACC_W, &la) && cpu_ref_get(c, o, la, o->opsize, ACC_W, &r);
}

/* Words that have been judged, lowest address first. */
static bool store_words(struct vcpu *c, const struct cpu_op *o, uint64_t sp, const uint8_t *buf, unsigned n)
{
	struct cpu_ref r;
	uint64_t la;

	for (unsigned i = 0; i < n; i++) {
		if (!int_stack_la(c, o, (sp + i * o->opsize) & int_sp_mask(c), o->opsize, ACC_W, &la) ||
		    !cpu_ref_get(c, o, la, o->opsize, ACC_W, &r))
			return false;
		cpu_ref_store(c, o, &r, buf + i * o->opsize);
	}
	return true;
}

INT_SLOW(pusha)
{
	unsigned n = o->opsize;
	uint64_t sp = (c->gpr[RSP] - 8 * n) & int_sp_mask(c);
	uint8_t buf[32];

	/* Lowest address first: DI SI BP SP BX DX CX AX, SP as it was before. */
	for (unsigned i = 0; i < 8; i++)
		memcpy(buf + i * n, &c->gpr[7 - i], n);
	for (unsigned i = 8; i-- > 0;)	/* as pushes would come */
		if (!may_push(c, o, sp + i * n))
			return false;
	if (!store_words(c, o, sp, buf, 8))
		return false;
	int_set_stack_reg(c, RSP, sp);
	return true;
}

INT_SLOW(popa)
{
	unsigned n = o->opsize;
	uint64_t sp = c->gpr[RSP] & int_sp_mask(c), v[8];

	for (unsigned i = 0; i < 8; i++)
		if (!stack_load(c, o, (sp + i * n) & int_sp_mask(c), &v[i]))
			return false;
	for (unsigned i = 0; i < 8; i++)
		if (7 - i != RSP)
			set_reg(c, 7 - i, n, v[i]);
	int_set_stack_reg(c, RSP, sp + 8 * n);
	return true;
}

/* ---- ENTER, LEAVE ---------------------------------------------------------------------------------------------------------------- */

#define MAX_LEVEL	31u

/*
 * The frame grows downwards: old BP, then level - 1 pointers copied from the old frame, then the new frame pointer. All reads
 * come before the first store, but are judged between the pushes, in the order of the manual; a store at the final SP must be
 * possible, though none is done.
 * Source: Intel SDM vol. 2 "ENTER - Make Stack Frame for Procedure Parameters".
 */
INT_SLOW(enter)
{
	unsigned n = o->opsize, level = o->aux & MAX_LEVEL, words = level ? level + 1 : 1;
	uint64_t mask = int_sp_mask(c), sp = c->gpr[RSP] & mask, frame = (sp - n) & mask, bp = c->gpr[RBP], last;
	uint8_t buf[(MAX_LEVEL + 1) * 8];	/* lowest address first */

	memcpy(buf + (words - 1) * n, &bp, n);
	if (!may_push(c, o, frame))
		return false;
	for (unsigned i = 1; i < level; i++) {
		uint64_t v;

		if (!stack_load(c, o, (bp - i * n) & mask, &v) || !may_push(c, o, (frame - i * n) & mask))
			return false;
		/* The old frame may lie where the new one grows: then it is the pushed bytes that are copied. */
		for (unsigned b = 0; b < n; b++) {
			uint64_t into = (bp - i * n + b - (frame - (i - 1) * n)) & mask;

			if (into < i * n)
				memcpy((uint8_t *)&v + b, buf + (words - i) * n + into, 1);
		}
		memcpy(buf + (words - 1 - i) * n, &v, n);
	}
	if (level)
		memcpy(buf, &frame, n);
	sp = (sp - words * n) & mask;
	last = (sp - (o->imm & 0xffff)) & mask;
	if ((level && !may_push(c, o, sp)) || !may_push(c, o, last) || !store_words(c, o, sp, buf, words))
		return false;
	set_reg(c, RBP, n, n == 4 ? (uint32_t)frame : frame);
	int_set_stack_reg(c, RSP, last);
	return true;
}

INT_SLOW(leave)
{
	uint64_t sp = c->gpr[RBP] & int_sp_mask(c), v;

	if (!stack_load(c, o, sp, &v))
		return false;
	int_set_stack_reg(c, RSP, sp + o->opsize);
	set_reg(c, RBP, o->opsize, v);
	return true;
}

INT_FN(leave64)
{
	uint64_t sp = c->gpr[RBP];
	const uint8_t *p = acc_probe_r(&c->acc, sp, 8);

	if (unlikely(!p))
		return leave(c, o);
	c->cur = o;
	c->gpr[RBP] = *(const volatile int_u64 *)p;
	c->gpr[RSP] = sp + 8;
	CPU_NEXT(c, o);
}

/* ---- lowering ----------------------------------------------------------------------------------------------------------------------- */

static bool lower_push(const struct insn *in, struct cpu_op *o, bool fast)
{
	switch (int_operand(in, 0, o->opsize, &o->rm)) {
	case K_REG:
		o->fn = fast ? push64_r : push_r;
		break;
	case K_IMM:
		o->fn = fast ? push64_i : push_i;
		break;
	case K_MEM:
		o->fn = push_m;		/* OP_STACK stays what the source's segment says */
		return true;
	default:
		return false;
	}
	o->flags |= OP_STACK;
	return true;
}

static bool lower_pop(const struct insn *in, struct cpu_op *o, bool fast)
{
	if (int_operand(in, 0, o->opsize, &o->rm) == K_MEM) {
		o->fn = pop_m;
		return true;
	}
	o->flags |= OP_STACK;
	o->fn = fast ? pop64_r : pop_r;
	return true;
}

bool int_lower_stack(const struct insn *in, struct cpu_op *o)
{
	bool fast = in->mode == INSN_MODE_64 && o->opsize == 8;

	if (in->op == I_PUSH)
		return lower_push(in, o, fast);
	if (in->op == I_POP)
		return lower_pop(in, o, fast);
	o->flags |= OP_STACK;
	switch (in->op) {
	case I_PUSHA:
		o->fn = pusha;
		return true;
	case I_POPA:
		o->fn = popa;
		return true;
	case I_ENTER:
		o->aux = (uint8_t)in->imm2;
		o->fn = enter;
		return true;
	case I_LEAVE:
		o->fn = fast ? leave64 : leave;
		return true;
	default:
		return false;
	}
}
