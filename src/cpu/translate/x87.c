/* SPDX-License-Identifier: MIT */
/*
 * x87 instructions as they are: the guest's x87 state is the host's while it is live (c->fpu.x87_live). The first of a unit looks
 * whether it is, and whether the gate is open; its handler makes it so. Instruction and operand pointers are noted after each, as
 * the handlers do (cpu/host/lower.c), for the host's own point into our code. What is pending raises #MF in the host, and so the
 * handler runs.
 */
#include "cpu/host/host_private.h"
#include "cpu/translate/compile.h"

static bool keeps_pointers(unsigned op)
{
	return op != I_FLDCW && op != I_FNSTCW && op != I_FNSTSW;
}

static void compare_byte(struct tr_emit *e, struct tr_rm rm, uint8_t v)
{
	e_put(e, &(struct tr_enc){ .opcode = 0x80, .reg = 7, .rm = rm, .n_imm = 1, .imm = { v } });
}

static void need_live(struct tr_compiler *x)
{
	if (x->x87)
		return;
	compare_byte(&x->e, RM_VCPU(fpu_nm), 0);
	tr_slow_if(x, CC_NE);
	compare_byte(&x->e, RM_VCPU(fpu.x87_live), 0);
	tr_slow_if(x, CC_E);
	x->x87 = true;
}

/* r11 holds the operand's effective address, if there is one. */
static void note_pointers(struct tr_compiler *x, const struct tr_insn *t)
{
	uint16_t fop = (uint16_t)((t->in.bytes[t->in.opc_off] & 7) << 8 | t->in.modrm);
	struct tr_emit *e = &x->e;

	e_mov_i(e, HR_9, (uint64_t)(uintptr_t)x->c->host);
	e_mov_i(e, HR_10, t->rip);
	e_store(e, rm_mem(HR_9, offsetof(struct cpu_host, fip)), HR_10);
	e_put(e, &(struct tr_enc){ .p66 = true, .opcode = 0xc7, .rm = rm_mem(HR_9, offsetof(struct cpu_host, fop)), .n_imm = 2,
				   .imm = { (uint8_t)fop, (uint8_t)(fop >> 8) } });
	if (t->in.has_mem)
		e_store(e, rm_mem(HR_9, offsetof(struct cpu_host, fdp)), HR_11);
}

void tr_x87(struct tr_compiler *x, const struct tr_insn *t)
{
	struct tr_enc q = { .map = 4, .opcode = t->in.bytes[t->in.opc_off], .reg = t->in.modrm >> 3 & 7, .rm = rm_reg(t->in.modrm & 7) };
	struct tr_addr a = { .is_const = false };

	if (!x->x87 || t->in.has_mem) {
		tr_flags_spill(x, t);
		x->in_host = false;
	}
	/* A fault of the instruction itself finds its flags there. */
	x->now->save = (tr_live_before(t) || x->owes) && !x->in_mem;
	need_live(x);
	if (t->in.has_mem) {
		a = tr_address(x, t);
		q.rm = tr_probe(x, a, t->in.memsize, t->row->mem != M_R, HR_11);
	}
	tr_flags_need(x, t, HR_11);
	tr_may_fault(x);
	e_put(&x->e, &q);
	tr_flags_done(x, t);
	if (!keeps_pointers(t->in.op))
		return;
	if (a.is_const)
		e_mov_i(&x->e, HR_11, a.la);
	else if (t->in.has_mem)
		e_lea(&x->e, true, HR_11, rm_mem(a.base, a.disp));
	note_pointers(x, t);
}
