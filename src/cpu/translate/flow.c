/* SPDX-License-Identifier: MIT */
/*
 * Ends of units: near branches. Direct ones become links, computed ones look in the jump cache of their mode. What a transfer
 * commits besides RIP (a pushed address, RSP) is committed when the target is known: a cached target was reached before, so it
 * is canonical; every other one is the handler's.
 */
#include "cpu/translate/compile.h"

uint64_t tr_next_rip(const struct tr_insn *t)
{
	return t->rip + t->in.len;
}

bool tr_has_edge(const struct tr_insn *t, unsigned i)
{
	switch (t->kind) {
	case TK_JCC:
	case TK_LOOP:
	case TK_JCXZ:
		return true;
	case TK_JMP:
	case TK_CALL:
		return i == 0;
	default:
		return i == 1 && t->kind < TK_JCC && t->kind != TK_BAIL;
	}
}

/* Edge 0 is the branch taken, edge 1 what follows the block. */
uint64_t tr_edge_rip(const struct tr_compiler *x, unsigned i)
{
	const struct tr_insn *t = &x->insn[x->n - 1];

	return tr_next_rip(t) + (i ? 0 : t->in.imm);
}

/* Flags to c->cc if the target wants them, then the jump that links patch. */
void tr_edge_to(struct tr_compiler *x, unsigned i)
{
	struct tr_link *l = &x->u->link[i];

	if (!x->is_marked)
		tr_flags_mark(x);
	tr_flags_pay(x);
	if (x->edge_live[i] && !x->in_mem)
		tr_flags_save(x, x->edge_live[i]);
	l->rip = tr_edge_rip(x, i);
	l->from = x->u;
	l->at = e_jmp(&x->e);
}

/* Flags to c->cc if the target wants them; what was counted and is not executed is taken back. */
void tr_exits_out_of_line(struct tr_compiler *x)
{
	for (unsigned i = 0; i < x->n_exits; i++) {
		const struct tr_exit *exit = &x->exit[i];
		struct tr_link *l = &x->u->link[2 + i];

		e_patch_here(&x->e, exit->at);
		tr_flags_mark_exit(x, exit);
		if (exit->live && !exit->in_mem)
			tr_flags_save(x, exit->live);
		e_alu_i(&x->e, true, 0, RM_VCPU(tr_left), (int32_t)(x->n - exit->k - 1));
		l->rip = exit->rip;
		l->from = x->u;
		l->at = e_jmp(&x->e);
	}
}

/* Inside the unit: the other way goes on here. */
static void conditional_exit(struct tr_compiler *x, const struct tr_insn *t)
{
	struct tr_exit *exit = &x->exit[t->exit - 1];
	unsigned cc = t->in.bytes[t->in.opc_off] & 15;

	tr_flags_need(x, t, HR_9);
	if (x->owes)
		exit->live = TF_ALL;
	exit->in_mem = x->in_mem;
	exit->mem_exact = x->mem_exact;
	exit->at = e_jcc(&x->e, t->is_inverted ? cc ^ 1 : cc);
}

static void conditional(struct tr_compiler *x, const struct tr_insn *t)
{
	struct tr_link *l = &x->u->link[0];
	unsigned cc = t->in.bytes[t->in.opc_off] & 15;
	bool in_mem, in_host;
	uint32_t at;

	tr_flags_pay(x);
	in_mem = x->in_mem;
	tr_flags_need(x, t, HR_9);
	in_host = x->in_host;
	tr_flags_mark(x);
	at = e_jcc(&x->e, cc);
	tr_edge_to(x, 1);
	if (x->edge_live[0] && !in_mem) {
		e_patch_here(&x->e, at);
		x->in_mem = in_mem;
		x->in_host = in_host;
		tr_edge_to(x, 0);
	} else {
		l->rip = tr_edge_rip(x, 0);
		l->from = x->u;
		l->at = at;
	}
}

/* LOOP and JRCXZ touch no flags. */
static void counted(struct tr_compiler *x, const struct tr_insn *t)
{
	bool in_mem;
	uint8_t *from;

	tr_flags_pay(x);
	in_mem = x->in_mem;
	tr_flags_mark(x);
	if (t->kind == TK_LOOP)
		e_lea(&x->e, true, HR_CX, rm_mem(HR_CX, -1));
	e1(&x->e, 0xe3);
	e1(&x->e, 0);
	from = x->e.p;
	tr_edge_to(x, t->kind == TK_LOOP ? 0 : 1);
	from[-1] = (uint8_t)(x->e.p - from);
	x->in_mem = in_mem;
	tr_edge_to(x, t->kind == TK_LOOP ? 1 : 0);
}

static struct tr_addr stack(int32_t disp)
{
	return (struct tr_addr){ .base = HR_15, .disp = disp };
}

/* Store the return address at the host address @m; @scratch holds it if it is no immediate. */
static void store_return(struct tr_compiler *x, const struct tr_insn *t, struct tr_rm m, unsigned scratch)
{
	uint64_t ret = tr_next_rip(t);

	if ((uint64_t)(int64_t)(int32_t)ret == ret) {
		struct tr_enc q = { .w = true, .opcode = 0xc7, .rm = m, .n_imm = 4 };

		memcpy(q.imm, &ret, 4);
		tr_may_fault(x);
		e_put(&x->e, &q);
		return;
	}
	e_mov_i(&x->e, scratch, ret);
	tr_may_fault(x);
	e_store(&x->e, m, scratch);
}

static void call(struct tr_compiler *x, const struct tr_insn *t)
{
	store_return(x, t, tr_stack(x, t, -8, true), HR_9);
	e_lea(&x->e, true, HR_15, rm_mem(HR_15, -8));
	tr_edge_to(x, 0);
}

/* The target in r9; its entry's address goes to r11, or r10 + r11 point to the cache's entry. */
static void look_up(struct tr_compiler *x)
{
	struct translator *k = x->k;

	tr_group_end(x);
	e_op(&x->e, false, 0x8b, HR_10, rm_reg(HR_9));
	e_alu_i(&x->e, false, 4, rm_reg(HR_10), (1 << TR_JUMP_BITS) - 1);
	e_shift_i(&x->e, false, 4, HR_10, 4);
	e_lea_near(&x->e, HR_11, k, k->jump[x->mode]);
	e_op(&x->e, true, 0x3b, HR_9, rm_sib(HR_11, HR_10, 0, 0));
	tr_slow_if(x, CC_NE);
}

static struct tr_rm found_target(void)
{
	return rm_sib(HR_11, HR_10, 0, offsetof(struct tr_jump, host));
}

static void jump_through(struct tr_compiler *x, struct tr_rm m)
{
	e_op(&x->e, false, 0xff, 4, m);
}

/* The target of an indirect branch into r9. */
static void load_target(struct tr_compiler *x, const struct tr_insn *t)
{
	if (t->in.has_mem) {
		struct tr_rm m = tr_operand(x, t, 8, false);

		tr_may_fault(x);
		e_load(&x->e, HR_9, m);
	} else {
		unsigned reg = tr_reg(x, t->in.rm, HR_9);

		if (reg != HR_9)
			e_mov(&x->e, HR_9, reg);
	}
}

static void jump_indirect(struct tr_compiler *x, const struct tr_insn *t)
{
	tr_flags_spill(x, t);
	load_target(x, t);
	look_up(x);
	jump_through(x, found_target());
}

static void call_indirect(struct tr_compiler *x, const struct tr_insn *t)
{
	tr_flags_spill(x, t);
	load_target(x, t);
	look_up(x);
	e_load(&x->e, HR_11, found_target());
	store_return(x, t, tr_probe(x, stack(-8), 8, true, HR_9), HR_9);
	e_lea(&x->e, true, HR_15, rm_mem(HR_15, -8));
	jump_through(x, rm_reg(HR_11));
}

static void ret(struct tr_compiler *x, const struct tr_insn *t)
{
	struct tr_rm m;
	int32_t release = 8;

	if (t->row->opnd[0] != OE_NONE)
		release += (int32_t)t->in.imm;
	tr_flags_spill(x, t);
	m = tr_stack(x, t, 0, false);
	tr_may_fault(x);
	e_load(&x->e, HR_9, m);
	look_up(x);
	e_lea(&x->e, true, HR_15, rm_mem(HR_15, release));
	jump_through(x, found_target());
}

void tr_flow(struct tr_compiler *x, const struct tr_insn *t)
{
	switch (t->kind) {
	case TK_JCC:
		(t->exit ? conditional_exit : conditional)(x, t);
		break;
	case TK_LOOP:
	case TK_JCXZ:
		counted(x, t);
		break;
	case TK_JMP:
		tr_edge_to(x, 0);
		break;
	case TK_CALL:
		call(x, t);
		break;
	case TK_JMP_IND:
		jump_indirect(x, t);
		break;
	case TK_CALL_IND:
		call_indirect(x, t);
		break;
	default:
		ret(x, t);
	}
}
