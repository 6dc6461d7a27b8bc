/* SPDX-License-Identifier: MIT */
/*
 * Near transfers: Jcc, JMP, CALL, RET, LOOP and JrCXZ. Constant targets go through the links of the block (CPU_CHAIN),
 * computed ones through the jump cache.
 *
 * What a transfer commits besides RIP (a pushed address, RCX) is committed only when the target is known to be in the limit.
 */
#include "cpu/interp/interp_private.h"

/* ---- Jcc, JMP ------------------------------------------------------------------------------------------------------------ */

#define JCC(n)														\
INT_FN(jump_if_##n)													\
{															\
	if (int_cond(c->cc, n))												\
		CPU_CHAIN(c, o, true);											\
	else														\
		CPU_CHAIN(c, o, false);											\
}
INT_CONDS(JCC)

INT_FN(jmp)
{
	CPU_CHAIN(c, o, true);
}

static uint64_t reg_target(const struct vcpu *c, const struct cpu_op *o)
{
	uint64_t t = c->gpr[o->rm];

	return o->opsize == 8 ? t : o->opsize == 4 ? (uint32_t)t : (uint16_t)t;
}

/* A branch target of the operand size from memory. */
static bool load_target(struct vcpu *c, const struct cpu_op *o, uint64_t *t)
{
	uint32_t v32;
	uint16_t v16;

	if (o->opsize == 8)
		return int_load64(c, o, t);
	if (o->opsize == 4) {
		if (!int_load32(c, o, &v32))
			return false;
		*t = v32;
		return true;
	}
	if (!int_load16(c, o, &v16))
		return false;
	*t = v16;
	return true;
}

INT_FN(jmp_r)
{
	if (!cpu_jump(c, o, reg_target(c, o)))
		return;
	CPU_CHAIN_RIP(c);
}

static INT_NOINLINE bool jump_through_memory(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t t;

	return load_target(c, o, &t) && cpu_jump(c, o, t);
}

INT_FN(jmp_m)
{
	if (!jump_through_memory(c, o))
		return;
	CPU_CHAIN_RIP(c);
}

/* ---- CALL ------------------------------------------------------------------------------------------------------------------ */

/* Where the return address goes: SP after the push and its linear address. */
static bool push_place(struct vcpu *c, const struct cpu_op *o, uint64_t *sp, uint64_t *la)
{
	*sp = (c->gpr[RSP] - o->opsize) & int_sp_mask(c);
	return int_stack_la(c, o, *sp, o->opsize, ACC_W, la);
}

static INT_NOINLINE bool call_slow(struct vcpu *c, const struct cpu_op *o, uint64_t target)
{
	uint64_t sp, la, ret = cpu_op_next_rip(c, o);
	struct cpu_ref r;

	if (!push_place(c, o, &sp, &la) || !cpu_ref_get(c, o, la, o->opsize, ACC_W, &r) || !cpu_jump(c, o, target))
		return false;
	cpu_ref_store(c, o, &r, &ret);
	int_set_stack_reg(c, RSP, sp);
	return true;
}

static uint64_t constant_target(const struct vcpu *c, const struct cpu_op *o)
{
	uint64_t t = c->gpr[GPR_RIP] + o->imm;

	return o->opsize == 2 ? (uint16_t)t : t & c->rip_mask;
}

static INT_NOINLINE bool call_constant_slow(struct vcpu *c, const struct cpu_op *o)
{
	return call_slow(c, o, constant_target(c, o));
}

/* The link of the block is as good after the general way as after the fast one. */
static INT_NOINLINE void call_s(struct vcpu *c, const struct cpu_op *o)
{
	if (!call_constant_slow(c, o))
		return;
	CPU_CHAIN(c, o, true);
}

INT_FN(call64)
{
	uint64_t sp = c->gpr[RSP] - 8;
	uint8_t *p = acc_probe_w(&c->acc, sp, 8);

	if (unlikely(!p || int_target_faults(c, o)))
		return call_s(c, o);
	c->cur = o;
	*(volatile int_u64 *)p = c->gpr[GPR_RIP] + o->off + o->len;
	c->gpr[RSP] = sp;
	CPU_CHAIN(c, o, true);
}

static INT_NOINLINE bool call_reg_slow(struct vcpu *c, const struct cpu_op *o)
{
	return call_slow(c, o, reg_target(c, o));
}

static INT_NOINLINE void call_r_s(struct vcpu *c, const struct cpu_op *o)
{
	if (!call_reg_slow(c, o))
		return;
	CPU_CHAIN_RIP(c);
}

INT_FN(call64_r)
{
	uint64_t sp = c->gpr[RSP] - 8;
	uint8_t *p = acc_probe_w(&c->acc, sp, 8);

	if (unlikely(!p))
		return call_r_s(c, o);
	if (!cpu_jump(c, o, c->gpr[o->rm]))
		return;
	c->cur = o;
	*(volatile int_u64 *)p = c->gpr[GPR_RIP] + o->off + o->len;
	c->gpr[RSP] = sp;
	CPU_CHAIN_RIP(c);
}

/* Both operands are judged before either is touched. The address is computed with the old SP. */
static INT_NOINLINE bool call_through_memory(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t sp, target = 0, ret = cpu_op_next_rip(c, o);
	struct cpu_want w[2] = {
		{ .len = o->opsize, .rights = ACC_R, .stage = ACC_FINAL, .stack = o->flags & OP_STACK },
		{ .len = o->opsize, .rights = ACC_W, .stage = ACC_FINAL, .stack = true },
	};
	struct cpu_ref r[2];
	const uint8_t *s;
	uint8_t *p;

	if (!cpu_la(c, o, o->opsize, ACC_R, &w[0].gva) || !push_place(c, o, &sp, &w[1].gva))
		return false;
	s = acc_probe_r(&c->acc, w[0].gva, o->opsize);
	p = acc_probe_w(&c->acc, w[1].gva, o->opsize);
	if (likely(s && p && o->opsize == 8)) {
		c->cur = o;
		if (!cpu_jump(c, o, *(const volatile int_u64 *)s))
			return false;
		*(volatile int_u64 *)p = ret;
		c->gpr[RSP] = sp;
		return true;
	}
	if (!cpu_refs(c, o, w, 2, r) || !cpu_ref_load(c, o, &r[0], &target) || !cpu_jump(c, o, target))
		return false;
	cpu_ref_store(c, o, &r[1], &ret);
	int_set_stack_reg(c, RSP, sp);
	return true;
}

INT_FN(call_m)
{
	if (!call_through_memory(c, o))
		return;
	CPU_CHAIN_RIP(c);
}

/* ---- RET: imm is what is taken off the stack besides the address ------------------------------------------------------------- */

static INT_NOINLINE bool ret_slow(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t sp = c->gpr[RSP] & int_sp_mask(c), la, target = 0;
	struct cpu_ref r;

	if (!int_stack_la(c, o, sp, o->opsize, ACC_R, &la) || !cpu_ref_get(c, o, la, o->opsize, ACC_R, &r) ||
	    !cpu_ref_load(c, o, &r, &target) || !cpu_jump(c, o, target))
		return false;
	int_set_stack_reg(c, RSP, sp + o->opsize + o->imm);
	return true;
}

static INT_NOINLINE void ret_s(struct vcpu *c, const struct cpu_op *o)
{
	if (!ret_slow(c, o))
		return;
	CPU_CHAIN_RIP(c);
}

INT_FN(ret64)
{
	const uint8_t *p = acc_probe_r(&c->acc, c->gpr[RSP], 8);

	if (unlikely(!p))
		return ret_s(c, o);
	c->cur = o;
	if (!cpu_jump(c, o, *(const volatile int_u64 *)p))
		return;
	c->gpr[RSP] += 8 + o->imm;
	CPU_CHAIN_RIP(c);
}

/* ---- LOOP, JrCXZ: the counter has the address size ------------------------------------------------------------------------------ */

static inline void set_counter(struct vcpu *c, const struct cpu_op *o, uint64_t v)
{
	if (o->admask == 0xffff)
		W16(c, RCX, v);
	else
		c->gpr[RCX] = v & o->admask;
}

/* 0: LOOP; 1: LOOPE; 2: LOOPNE. */
INT_FN(loop)
{
	uint64_t n = (c->gpr[RCX] - 1) & o->admask;
	bool taken = n && (o->aux == 0 || !(c->cc & CC_ZF) == (o->aux == 2));

	if (taken && unlikely(int_target_faults(c, o)) && !cpu_jump(c, o, constant_target(c, o)))
		return;
	set_counter(c, o, n);
	CPU_CHAIN(c, o, taken);
}

INT_FN(jcxz)
{
	CPU_CHAIN(c, o, !(c->gpr[RCX] & o->admask));
}

/* ---- lowering ----------------------------------------------------------------------------------------------------------------------- */

#define JCC_ENTRY(n) jump_if_##n,
static cpu_fn *const jcc[16] = { INT_CONDS(JCC_ENTRY) };

static bool lower_constant(const struct insn *in, struct cpu_op *o)
{
	bool mode64 = in->mode == INSN_MODE_64;

	/* Relative to the block's start, as the links want it. */
	o->imm = in->imm + o->off + o->len;
	switch (in->op) {
	case I_JCC:
		o->fn = jcc[in->bytes[in->opc_off] & 15];
		return true;
	case I_JMP_NEAR:
		o->fn = jmp;
		return true;
	case I_CALL_NEAR:
		o->flags |= OP_STACK;
		o->fn = mode64 && o->opsize == 8 ? call64 : call_s;
		return true;
	case I_JCXZ:
		o->fn = jcxz;
		return true;
	default:
		o->aux = in->op == I_LOOPE ? 1 : in->op == I_LOOPNE ? 2 : 0;
		o->fn = loop;
		return true;
	}
}

static bool lower_indirect(const struct insn *in, struct cpu_op *o)
{
	bool fast = in->mode == INSN_MODE_64 && o->opsize == 8;
	enum int_kind kind = int_operand(in, 0, o->opsize, &o->rm);

	if (in->op == I_JMP_IND) {
		o->fn = kind == K_REG ? jmp_r : kind == K_MEM ? jmp_m : NULL;
	} else if (kind == K_REG) {
		o->flags |= OP_STACK;
		o->fn = fast ? call64_r : call_r_s;
	} else if (kind == K_MEM) {
		o->fn = call_m;
	}
	return o->fn;
}

bool int_lower_branch(const struct insn *in, struct cpu_op *o)
{
	if (in->op == I_JMP_IND || in->op == I_CALL_IND)
		return lower_indirect(in, o);
	if (in->op != I_RET_NEAR)
		return lower_constant(in, o);
	o->flags |= OP_STACK;
	if (insn_rows[in->row].opnd[0] == OE_NONE)
		o->imm = 0;
	o->fn = in->mode == INSN_MODE_64 && o->opsize == 8 ? ret64 : ret_s;
	return true;
}
