/* SPDX-License-Identifier: MIT */
/*
 * REP MOVS and REP STOS upwards within one page on each side: one probe for all bytes, then the host's own instruction on host
 * addresses. Everything else (page crossers, DF, more than a page, misses) is the handler's, which works page by page.
 */
#include "cpu/translate/compile.h"

#include "isa/x86.h"

#define INDEX_MASK	((ACC_TLB_SIZE - 1) << 4)

static unsigned log2_of(unsigned size)
{
	return size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : 3;
}

/* Offset of the entry for the page of @pointer into @index; @last, the address of the last byte, is destroyed. */
static void probe_range(struct tr_compiler *x, unsigned pointer, unsigned last, unsigned index, size_t tlb)
{
	struct tr_emit *e = &x->e;

	e_op(e, false, 0x8b, index, rm_reg(pointer));
	e_shift_i(e, false, 5, index, GW_PAGE_SHIFT - 4);
	e_alu_i(e, false, 4, rm_reg(index), INDEX_MASK);
	e_op(e, true, 0x33, last, rm_gs_at(tlb + offsetof(struct acc_tlb_entry, tag), index));
	e_alu_i(e, true, 7, rm_reg(last), GW_PAGE_MASK);
	tr_slow_if(x, CC_A);
}

static size_t tlb_of(const struct tr_compiler *x, bool write)
{
	return offsetof(struct vcpu, acc.tlb) + sizeof(struct acc_tlb) * x->mode + (write ? offsetof(struct acc_tlb, w) : offsetof(struct acc_tlb, r));
}

static void repeat(struct tr_emit *e, const struct tr_insn *t)
{
	if (t->in.opsize == 2)
		e1(e, 0x66);
	e1(e, 0xf3);
	if (t->in.opsize == 8)
		e1(e, 0x48);
	e1(e, t->in.bytes[t->in.opc_off]);
}

void tr_string(struct tr_compiler *x, const struct tr_insn *t)
{
	bool is_movs = t->in.op == I_MOVS;
	unsigned shift = log2_of(t->in.opsize);
	struct tr_emit *e = &x->e;
	struct tr_enc down = { .opcode = 0xf7, .rm = RM_VCPU(eflags), .n_imm = 4 };
	uint32_t none, df = FLAG_DF;

	memcpy(down.imm, &df, 4);
	tr_flags_spill(x, t);
	x->in_host = false;
	if (!x->k->tlb) {
		tr_slow_if(x, -1);
		return;
	}
	e_op(e, true, 0x85, HR_CX, rm_reg(HR_CX));
	none = e_jcc(e, CC_E);
	e_put(e, &down);
	tr_slow_if(x, CC_NE);
	e_alu_i(e, true, 7, rm_reg(HR_CX), (int32_t)(GW_PAGE_SIZE >> shift));
	tr_slow_if(x, CC_A);
	e_lea(e, true, HR_11, rm_sib(HR_DI, HR_CX, shift, -1));
	probe_range(x, HR_DI, HR_11, HR_10, tlb_of(x, true));
	if (is_movs) {
		e_lea(e, true, HR_9, rm_sib(HR_SI, HR_CX, shift, -1));
		probe_range(x, HR_SI, HR_9, HR_11, tlb_of(x, false));
		e_load(e, HR_9, rm_gs_at(tlb_of(x, false) + offsetof(struct acc_tlb_entry, addend), HR_11));
	}
	e_load(e, HR_10, rm_gs_at(tlb_of(x, true) + offsetof(struct acc_tlb_entry, addend), HR_10));
	e_op(e, true, 0x01, HR_10, rm_reg(HR_DI));
	if (is_movs)
		e_op(e, true, 0x01, HR_9, rm_reg(HR_SI));
	x->now->moved = is_movs ? 2 : 1;
	tr_may_fault(x);
	repeat(e, t);
	tr_string_back(e, x->now->moved);
	e_patch_here(e, none);
}

/* The pointers as the guest has them; also when a fault came between two elements. */
void tr_string_back(struct tr_emit *e, unsigned moved)
{
	e_op(e, true, 0x29, HR_10, rm_reg(HR_DI));
	if (moved == 2)
		e_op(e, true, 0x29, HR_9, rm_reg(HR_SI));
}
