/* SPDX-License-Identifier: MIT */
/*
 * The routines between C and translated code, emitted once in front of the units: in, out, and the calls to callout.c.
 *
 * Going out writes all guest registers to c->gpr[] and the instruction count to c->stats; coming back reads them. The host's
 * stack is 16-byte aligned while units run.
 */
#include "cpu/host/host_private.h"
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
static void count_out(struct tr_emit *e)
{
	e_load(e, HR_10, RM_VCPU(tr_left));
	e_load(e, HR_AX, RM_VCPU(poll_at));
	e_op(e, true, 0x2b, HR_AX, rm_reg(HR_10));
	e_store(e, RM_VCPU(stats.insns), HR_AX);
	e_load(e, HR_AX, RM_VCPU(tr_left_was));
	e_op(e, true, 0x2b, HR_AX, rm_reg(HR_10));
	e_op(e, true, 0x01, HR_AX, RM_VCPU(stats.tr_insns));
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

/* ---- vector registers --------------------------------------------------------------------------------------------------------- */

/*
 * They are live in the host's registers from the first vector instruction of translated code until the next way out. Before
 * they are taken the gates are looked at, so that no vector instruction after it needs to; gates change in C only.
 */
static void low_halves(struct tr_emit *e, bool store)
{
	for (unsigned n = 0; n < 16; n++)
		e_op_0f(e, false, store ? 0x29 : 0x28, n, rm_gs(offsetof(struct vcpu, fpu.area) + XMM_OF(n)));
}

static void high_halves(struct tr_emit *e, bool store)
{
	for (unsigned n = 0; n < 16; n++) {
		struct tr_enc q = { .vex = true, .vex_l = 1, .pp = 1, .map = 3, .opcode = store ? 0x19 : 0x18, .reg = (uint8_t)n,
				    .vvvv = store ? 0 : (uint8_t)n, .rm = rm_gs(offsetof(struct vcpu, fpu.area) + YMM_OF(n)), .n_imm = 1, .imm = { 1 } };

		e_put(e, &q);
	}
}

static void byte_i(struct tr_emit *e, unsigned opcode, unsigned n, struct tr_rm rm, uint8_t v)
{
	e_put(e, &(struct tr_enc){ .opcode = (uint8_t)opcode, .reg = (uint8_t)n, .rm = rm, .n_imm = 1, .imm = { v } });
}

static void compare_byte(struct tr_emit *e, struct tr_rm rm, uint8_t v) { byte_i(e, 0x80, 7, rm, v); }
static void set_byte(struct tr_emit *e, struct tr_rm rm, uint8_t v) { byte_i(e, 0xc6, 0, rm, v); }

/* CF: an instruction must go to its handler. Uses r9. */
static uint32_t emit_load_vec(struct tr_emit *e, struct vcpu *c, unsigned level)
{
	uint32_t start = e_here(e), closed[4], skip = 0;
	unsigned n = 0;

	compare_byte(e, RM_VCPU(fpu_nm), 0);
	closed[n++] = e_jcc(e, CC_NE);
	compare_byte(e, RM_VCPU(sse_ud), 0);
	closed[n++] = e_jcc(e, CC_NE);
	e_mov_i(e, HR_9, (uint64_t)(uintptr_t)&c->host->unmasked);
	compare_byte(e, rm_mem(HR_9, 0), 0);
	closed[n++] = e_jcc(e, CC_NE);
	if (level == 2) {
		compare_byte(e, RM_VCPU(avx_ud), 0);
		closed[n++] = e_jcc(e, CC_NE);
		compare_byte(e, RM_VCPU(tr_vec), 1);
		skip = e_jcc(e, CC_E);
	}
	low_halves(e, false);
	if (level == 2) {
		e_patch_here(e, skip);
		high_halves(e, false);
	}
	set_byte(e, RM_VCPU(tr_vec), (uint8_t)level);
	e1(e, 0xf8);	/* clc */
	e1(e, 0xc3);
	for (unsigned i = 0; i < n; i++)
		e_patch_here(e, closed[i]);
	e1(e, 0xf9);	/* stc */
	e1(e, 0xc3);
	return start;
}

static uint32_t emit_save_vec(struct tr_emit *e)
{
	uint32_t start = e_here(e), done, low = 0;

	compare_byte(e, RM_VCPU(tr_vec), 0);
	done = e_jcc(e, CC_E);
	low_halves(e, true);
	if (host_has_avx()) {
		compare_byte(e, RM_VCPU(tr_vec), 2);
		low = e_jcc(e, CC_NE);
		high_halves(e, true);
		e1(e, 0xc5);	/* vzeroupper */
		e1(e, 0xf8);
		e1(e, 0x77);
		e_patch_here(e, low);
	}
	set_byte(e, RM_VCPU(tr_vec), 0);
	e_patch_here(e, done);
	e1(e, 0xc3);
	return start;
}

/* ---- predictions ---------------------------------------------------------------------------------------------------------------- */

/* Called with r9 at the struct tr_site of a probe that guessed wrong: is that often? Uses r10. */
static uint32_t emit_miss(struct tr_emit *e)
{
	struct tr_rm left = rm_mem(HR_9, offsetof(struct tr_site, left)), score = rm_mem(HR_9, offsetof(struct tr_site, score));
	struct tr_enc again = { .opcode = 0xc7, .rm = score, .n_imm = 4, .imm = { TR_SITE_SCORE } };
	uint32_t start = e_here(e), seldom, out[3];

	e_op(e, false, 0x8b, HR_10, left);
	e_op(e, false, 0x2b, HR_10, RM_VCPU(tr_left));
	out[0] = e_jcc(e, CC_S);	/* counted anew meanwhile */
	e_op(e, false, 0x3b, HR_10, rm_mem(HR_9, offsetof(struct tr_site, quick)));
	seldom = e_jcc(e, CC_A);
	e_op(e, false, 0xff, 1, score);
	out[1] = e_jcc(e, CC_G);
	e_store(e, RM_VCPU(tr_often), HR_9);
	out[2] = e_jmp(e);
	e_patch_here(e, seldom);
	e_put(e, &again);
	for (unsigned i = 0; i < 3; i++)
		e_patch_here(e, out[i]);
	e_op(e, false, 0x8b, HR_10, RM_VCPU(tr_left));
	e_op(e, false, 0x89, HR_10, left);
	e1(e, 0xc3);
	return start;
}

/* ---- calls ----------------------------------------------------------------------------------------------------------------------- */

static void call_c(struct tr_emit *e, struct vcpu *c, uint64_t fn)
{
	e_mov_i(e, HR_DI, (uint64_t)(uintptr_t)c);
	e_op(e, false, 0x8b, HR_SI, rm_reg(HR_9));
	e_mov_i(e, HR_AX, fn);
	e_op(e, false, 0xff, 2, rm_reg(HR_AX));
}

/* Called: r9 says which instruction. Returns when it is done, else leaves. */
static void emit_one(struct tr_emit *e, struct vcpu *c, const struct translator *k, uint32_t leave)
{
	uint32_t stop;

	guest_registers(e, true);
	e_call_to(e, k->at.save_vec);
	count_out(e);
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
static uint32_t emit_ask(struct tr_emit *e, struct vcpu *c, const struct translator *k, uint64_t (*fn)(struct vcpu *, uint32_t), uint32_t leave)
{
	uint32_t start = e_here(e), stop;

	guest_registers(e, true);
	e_call_to(e, k->at.save_vec);
	count_out(e);
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
	k->at.save_vec = emit_save_vec(&e);
	k->at.load_vec[1] = emit_load_vec(&e, c, 1);
	k->at.load_vec[2] = host_has_avx() ? emit_load_vec(&e, c, 2) : k->at.load_vec[1];
	k->at.miss = emit_miss(&e);
	k->at.one = e_here(&e);
	emit_one(&e, c, k, leave);
	k->at.edge = emit_ask(&e, c, k, tr_edge, leave);
	k->at.entry = emit_ask(&e, c, k, tr_entry, leave);
	k->at.stale = emit_ask(&e, c, k, tr_stale, leave);
	k->at.bail = emit_ask(&e, c, k, tr_bail, leave);
	k->at.indirect = emit_ask(&e, c, k, tr_indirect, leave);
	k->at.resume = emit_ask(&e, c, k, tr_resume, leave);
	k->first = k->used = (e_here(&e) + 63) & ~63u;
	host_serialize();
}
