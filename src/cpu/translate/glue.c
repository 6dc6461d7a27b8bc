/* SPDX-License-Identifier: MIT */
/*
 * The routines between C and translated code, emitted once in front of the units: in, out, and the calls to callout.c.
 *
 * Going out writes all guest registers to c->gpr[] and the instruction count to c->stats; coming back reads them. The host's
 * stack is 16-byte aligned while units run.
 */
#include "cpu/translate/emit.h"

static void guest_registers(struct tr_emit *e, bool store)
{
	for (unsigned g = 0; g < 16; g++) {
		struct tr_rm slot = rm_gs(offsetof(struct vcpu, gpr) + 8 * g);

		if (tr_home[g] == HR_NONE)
			continue;
		if (store)
			e_store(e, slot, tr_home[g]);
		else
			e_load(e, tr_home[g], slot);
	}
}

/* insns = poll_at - left; translated += left_was - left. Uses rax and r10, after the guest's registers are stored. */
static void count_out(struct tr_emit *e, struct translator *k)
{
	e_load(e, HR_10, RM_VCPU(tr_left));
	e_load(e, HR_AX, RM_VCPU(poll_at));
	e_op(e, true, 0x2b, HR_AX, rm_reg(HR_10));
	e_store(e, RM_VCPU(stats.insns), HR_AX);
	e_load(e, HR_AX, RM_VCPU(tr_left_was));
	e_op(e, true, 0x2b, HR_AX, rm_reg(HR_10));
	e_mov_i(e, HR_10, (uint64_t)(uintptr_t)&k->stats.insns);
	e_op(e, true, 0x01, HR_AX, rm_mem(HR_10, 0));
}

static void count_in(struct tr_emit *e)
{
	e_load(e, HR_AX, RM_VCPU(poll_at));
	e_op(e, true, 0x2b, HR_AX, RM_VCPU(stats.insns));
	e_store(e, RM_VCPU(tr_left), HR_AX);
	e_store(e, RM_VCPU(tr_left_was), HR_AX);
}

/* C's registers that must be kept. Seven words with the return address: the eighth aligns. */
static const uint8_t kept[] = { HR_BP, HR_BX, HR_12, HR_13, HR_14, HR_15 };

static void push(struct tr_emit *e, unsigned r)
{
	e_put(e, &(struct tr_enc){ .opcode = 0x50, .no_modrm = true, .rm = rm_reg(r) });
}

static void pop(struct tr_emit *e, unsigned r)
{
	e_put(e, &(struct tr_enc){ .opcode = 0x58, .no_modrm = true, .rm = rm_reg(r) });
}

/* void enter(struct vcpu *c, void *code) */
static void emit_enter(struct tr_emit *e)
{
	for (unsigned i = 0; i < sizeof(kept); i++)
		push(e, kept[i]);
	e_alu_i(e, true, 5, rm_reg(HR_SP), 8);
	e_mov(e, HR_11, HR_SI);
	count_in(e);
	guest_registers(e, false);
	e_op(e, false, 0xff, 4, rm_reg(HR_11));
}

/* Registers are stored. To c->tr_tail, an operation of the interpreter, as if the dispatcher had called it; or back to C. */
static void emit_leave(struct tr_emit *e, struct vcpu *c)
{
	uint32_t to_c;

	e_alu_i(e, true, 0, rm_reg(HR_SP), 8);
	for (unsigned i = sizeof(kept); i-- > 0;)
		pop(e, kept[i]);
	e_load(e, HR_SI, RM_VCPU(tr_tail));
	e_op(e, true, 0x85, HR_SI, rm_reg(HR_SI));
	to_c = e_jcc(e, CC_E);
	e_mov_i(e, HR_DI, (uint64_t)(uintptr_t)c);
	e_op(e, false, 0xff, 4, RM_VCPU(tr_tail_fn));
	e_patch_here(e, to_c);
	e1(e, 0xc3);
}

static void call_c(struct tr_emit *e, struct vcpu *c, uint64_t fn)
{
	e_mov_i(e, HR_DI, (uint64_t)(uintptr_t)c);
	e_op(e, false, 0x8b, HR_SI, rm_reg(HR_9));
	e_mov_i(e, HR_AX, fn);
	e_op(e, false, 0xff, 2, rm_reg(HR_AX));
}

/* Called: r9 says which instruction. Returns when it is done, else leaves. */
static void emit_one(struct tr_emit *e, struct vcpu *c, struct translator *k, uint32_t leave)
{
	uint32_t stop;

	guest_registers(e, true);
	count_out(e, k);
	e_alu_i(e, true, 5, rm_reg(HR_SP), 8);
	call_c(e, c, (uint64_t)(uintptr_t)tr_one);
	e_alu_i(e, true, 0, rm_reg(HR_SP), 8);
	e1(e, 0x84);	/* test al, al */
	e1(e, 0xc0);
	stop = e_jcc(e, CC_E);
	count_in(e);
	guest_registers(e, false);
	e1(e, 0xc3);
	e_patch_here(e, stop);
	e_alu_i(e, true, 0, rm_reg(HR_SP), 8);
	e_jmp_to(e, leave);
}

/* Jumped to: r9 says where from. @fn says where to go on. */
static uint32_t emit_ask(struct tr_emit *e, struct vcpu *c, struct translator *k, uint64_t (*fn)(struct vcpu *, uint32_t), uint32_t leave)
{
	uint32_t start = e_here(e), stop;

	guest_registers(e, true);
	count_out(e, k);
	call_c(e, c, (uint64_t)(uintptr_t)fn);
	e_op(e, true, 0x85, HR_AX, rm_reg(HR_AX));
	stop = e_jcc(e, CC_E);
	e_mov(e, HR_11, HR_AX);
	count_in(e);
	guest_registers(e, false);
	e_op(e, false, 0xff, 4, rm_reg(HR_11));
	e_patch(e, stop, leave);
	return start;
}

void tr_emit_routines(struct vcpu *c, struct translator *k)
{
	struct tr_emit e = { .p = k->rw + 16, .start = k->rw };
	uint32_t leave = e_here(&e);

	emit_leave(&e, c);
	k->at.enter = e_here(&e);
	emit_enter(&e);
	k->at.one = e_here(&e);
	emit_one(&e, c, k, leave);
	k->at.edge = emit_ask(&e, c, k, tr_edge, leave);
	k->at.entry = emit_ask(&e, c, k, tr_entry, leave);
	k->at.stale = emit_ask(&e, c, k, tr_stale, leave);
	k->at.bail = emit_ask(&e, c, k, tr_bail, leave);
	k->at.indirect = emit_ask(&e, c, k, tr_indirect, leave);
	k->first = k->used = (e_here(&e) + 63) & ~63u;
	tr_serialize();
}
