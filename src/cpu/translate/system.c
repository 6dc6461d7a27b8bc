/* SPDX-License-Identifier: MIT */
/*
 * System instructions that kernels execute all the time, without leaving translated code: the interrupt and SMAP flags, SWAPGS,
 * PUSHF, the time-stamp counter. Each looks at what its handler looks at first (cpu/sys: flags.c, syscall.c, sysmisc.c); where
 * the answer is not the common one, the interpreter goes on from the instruction.
 */
#include "cpu/translate/compile.h"

#include "isa/x86.h"

static void alu_byte_i(struct tr_emit *e, unsigned n, struct tr_rm rm, uint8_t v)
{
	e_put(e, &(struct tr_enc){ .opcode = 0x80, .reg = (uint8_t)n, .rm = rm, .n_imm = 1, .imm = { v } });
}

static void mov_byte_i(struct tr_emit *e, struct tr_rm rm, uint8_t v)
{
	e_put(e, &(struct tr_enc){ .opcode = 0xc6, .rm = rm, .n_imm = 1, .imm = { v } });
}

/* TEST of a 32-bit field. */
static void test_i(struct tr_emit *e, struct tr_rm rm, uint32_t mask)
{
	struct tr_enc q = { .opcode = 0xf7, .rm = rm, .n_imm = 4 };

	memcpy(q.imm, &mask, 4);
	e_put(e, &q);
}

static void need_cpl0(struct tr_compiler *x)
{
	alu_byte_i(&x->e, 7, RM_VCPU(acc.cpl), 0);
	tr_slow_if(x, CC_NE);
}

static void cli(struct tr_compiler *x)
{
	need_cpl0(x);
	e_alu_i(&x->e, false, 4, RM_VCPU(eflags), (int32_t)~FLAG_IF);
}

/*
 * The shadow of STI matters only if the unit that follows is left before its first instruction: tr_sti_rip says there that it
 * is due. Something that waits to be injected goes the long way.
 */
static void sti(struct tr_compiler *x, const struct tr_insn *t)
{
	struct tr_emit *e = &x->e;
	uint32_t is_set;

	need_cpl0(x);
	test_i(e, RM_VCPU(eflags), FLAG_IF);
	is_set = e_jcc(e, CC_NE);
	alu_byte_i(e, 7, RM_VCPU(intr_blocked), 0);
	tr_slow_if(x, CC_NE);
	e_alu_i(e, false, 1, RM_VCPU(eflags), FLAG_IF);
	e_mov_i(e, HR_9, tr_next_rip(t));
	e_store(e, RM_VCPU(tr_sti_rip), HR_9);
	e_patch_here(e, is_set);
}

/* From here on the unit is in the other mode. */
static void set_ac(struct tr_compiler *x, bool ac)
{
	struct tr_emit *e = &x->e;

	need_cpl0(x);
	test_i(e, RM_VCPU(acc.cr4), CR4_SMAP);
	tr_slow_if(x, CC_E);
	x->mode = ac ? ACC_MODE_KERNEL_AC : ACC_MODE_KERNEL;
	e_alu_i(e, false, ac ? 1 : 4, RM_VCPU(eflags), (int32_t)(ac ? FLAG_AC : ~FLAG_AC));
	mov_byte_i(e, RM_VCPU(acc.ac), ac);
	mov_byte_i(e, RM_VCPU(acc.mode), x->mode);
	e_mov_i(e, HR_9, (uint64_t)(uintptr_t)&x->c->acc.tlb[x->mode]);
	e_store(e, RM_VCPU(acc.cur), HR_9);
}

static void swapgs(struct tr_compiler *x)
{
	struct tr_rm seg_base = rm_gs(offsetof(struct vcpu, seg_base) + 8 * SEG_GS);
	struct tr_rm base = rm_gs(offsetof(struct vcpu, seg) + sizeof(struct cpu_seg) * SEG_GS + offsetof(struct cpu_seg, base));
	struct tr_emit *e = &x->e;

	need_cpl0(x);
	e_load(e, HR_9, base);
	e_load(e, HR_10, RM_VCPU(msr.kernel_gs_base));
	e_store(e, RM_VCPU(msr.kernel_gs_base), HR_9);
	e_store(e, base, HR_10);
	e_store(e, seg_base, HR_10);
}

/* As cpu_eflags() makes them; arithmetic flags are in c->cc, for the instruction needs them all. */
static void pushf(struct tr_compiler *x)
{
	struct tr_emit *e = &x->e;
	struct tr_rm m;

	e_op_0f(e, false, 0xb7, HR_9, RM_VCPU(cc));
	e_op(e, false, 0x8b, HR_10, rm_reg(HR_9));
	e_shift_i(e, false, 5, HR_9, 8);
	e_alu_i(e, false, 4, rm_reg(HR_9), FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF);
	e_alu_i(e, false, 4, rm_reg(HR_10), 1);
	e_shift_i(e, false, 4, HR_10, 11);
	e_op(e, false, 0x0b, HR_9, rm_reg(HR_10));
	e_op(e, false, 0x0b, HR_9, RM_VCPU(eflags));
	e_alu_i(e, false, 4, rm_reg(HR_9), (int32_t)~(FLAG_VM | FLAG_RF));
	m = tr_probe(x, (struct tr_addr){ .base = HR_15, .disp = -8 }, 8, true, HR_11);
	tr_may_fault(x);
	e_store(e, m, HR_9);
	e_lea(e, true, HR_15, rm_mem(HR_15, -8));
}

/* Without scaling the guest's counter is the host's and an offset. */
static void rdtsc(struct tr_compiler *x, bool with_aux)
{
	static const uint8_t rdtsc[] = { 0x0f, 0x31 }, rdtscp[] = { 0x0f, 0x01, 0xf9 };
	struct tr_emit *e = &x->e;

	test_i(e, RM_VCPU(acc.cr4), CR4_TSD);
	tr_slow_if(x, CC_NE);
	e_load(e, HR_9, RM_VCPU(tsc_offset));
	e_op(e, true, 0x85, HR_9, rm_reg(HR_9));
	tr_slow_if(x, CC_E);
	memcpy(e->p, with_aux ? rdtscp : rdtsc, with_aux ? sizeof(rdtscp) : sizeof(rdtsc));
	e->p += with_aux ? sizeof(rdtscp) : sizeof(rdtsc);
	e_shift_i(e, true, 4, HR_DX, 32);
	e_op(e, true, 0x0b, HR_DX, rm_reg(HR_AX));
	e_op(e, true, 0x03, HR_DX, rm_mem(HR_9, 0));
	e_op(e, false, 0x8b, HR_AX, rm_reg(HR_DX));
	e_shift_i(e, true, 5, HR_DX, 32);
	if (with_aux)
		e_op(e, false, 0x8b, HR_CX, RM_VCPU(msr.tsc_aux));
}

void tr_system(struct tr_compiler *x, const struct tr_insn *t)
{
	bool by_level = t->in.op != I_PUSHF && t->in.op != I_RDTSC && t->in.op != I_RDTSCP;

	tr_flags_spill(x, t);
	x->in_host = false;
	x->now->is_bail = by_level;
	if (by_level && x->mode == ACC_MODE_USER) {
		tr_slow_if(x, -1);
		return;
	}
	switch (t->in.op) {
	case I_CLI:
		cli(x);
		break;
	case I_STI:
		sti(x, t);
		break;
	case I_STAC:
	case I_CLAC:
		set_ac(x, t->in.op == I_STAC);
		break;
	case I_SWAPGS:
		swapgs(x);
		break;
	case I_PUSHF:
		pushf(x);
		break;
	default:
		rdtsc(x, t->in.op == I_RDTSCP);
	}
}
