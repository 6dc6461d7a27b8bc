/* SPDX-License-Identifier: MIT */
/*
 * Addresses of operands and the inline TLB probe. A hit means that every guard allows the access silently (access.h); a miss
 * goes the slow way of the instruction. The probe is that of acc_probe(): the last byte's page against the entry which the
 * first byte selects, so that page-crossers miss.
 */
#include "cpu/translate/compile.h"

size_t tr_tlb_offset(const struct tr_compiler *x, bool write)
{
	size_t tlb = offsetof(struct vcpu, acc.tlb) + sizeof(struct acc_tlb) * x->mode;

	return tlb + (write ? offsetof(struct acc_tlb, w) : offsetof(struct acc_tlb, r));
}

#define INDEX_MASK	((ACC_TLB_SIZE - 1) << 4)
#define INDEX_SHIFT	(GW_PAGE_SHIFT - 4)

static bool fits_imm32(uint64_t v)
{
	return (uint64_t)(int64_t)(int32_t)v == v;
}

static struct tr_addr in_register(unsigned reg, int32_t disp)
{
	return (struct tr_addr){ .base = (uint8_t)reg, .disp = disp };
}

/* base + index + displacement as one host operand; spilled registers are loaded into r9 and r10. */
static struct tr_rm sum(struct tr_compiler *x, const struct insn *in)
{
	struct tr_rm m = { .kind = RM_MEM, .base = HR_NONE, .index = HR_NONE, .scale = in->scale, .disp = (int32_t)in->disp };

	if (in->base < 16)
		m.base = (uint8_t)tr_reg(x, in->base, HR_9);
	if (in->index < 16)
		m.index = (uint8_t)tr_reg(x, in->index, m.base == HR_10 ? HR_9 : HR_10);
	return m;
}

static bool is_constant(const struct insn *in)
{
	return in->base == GPR_RIP || (in->base == GPR_ZERO && in->index == GPR_ZERO);
}

static uint64_t constant(const struct tr_insn *t)
{
	uint64_t la = (uint64_t)t->in.disp;

	if (t->in.base == GPR_RIP)
		la += tr_next_rip(t);
	return t->in.adsize == 4 ? (uint32_t)la : la;
}

struct tr_addr tr_address(struct tr_compiler *x, const struct tr_insn *t)
{
	const struct insn *in = &t->in;
	bool is_based = in->seg == SEG_FS || in->seg == SEG_GS;

	if (is_constant(in)) {
		if (!is_based)
			return (struct tr_addr){ .is_const = true, .la = constant(t) };
		e_mov_i(&x->e, HR_9, constant(t));
	} else if (!is_based && in->index >= 16 && in->adsize == 8) {
		return in_register(tr_reg(x, in->base, HR_9), (int32_t)in->disp);
	} else {
		e_lea(&x->e, in->adsize == 8, HR_9, sum(x, in));
	}
	if (is_based) {
		e_load(&x->e, HR_10, rm_gs(offsetof(struct vcpu, seg_base) + 8 * in->seg));
		e_lea(&x->e, true, HR_9, rm_sib(HR_9, HR_10, 0, 0));
	}
	return in_register(HR_9, 0);
}

/* A 32-bit LEA truncates as the address size does, and as the operand size does. */
void tr_lea(struct tr_compiler *x, const struct tr_insn *t)
{
	unsigned home = tr_home[t->in.reg], to = home == HR_NONE ? HR_9 : home;

	if (is_constant(&t->in))
		e_mov_i(&x->e, to, t->in.opsize == 8 ? constant(t) : (uint32_t)constant(t));
	else
		e_lea(&x->e, t->in.opsize == 8 && t->in.adsize == 8, to, sum(x, &t->in));
	if (home == HR_NONE) {
		e_store(&x->e, rm_gs(offsetof(struct vcpu, gpr) + 8 * t->in.reg), to);
		tr_held_set(x, to, t->in.reg);
	}
}

/* The entry of a constant address is known now. */
static struct tr_rm probe_constant(struct tr_compiler *x, uint64_t la, unsigned size, bool write)
{
	size_t entry = tr_tlb_offset(x, write) + 16 * (la >> GW_PAGE_SHIFT & (ACC_TLB_SIZE - 1));
	uint64_t page = la & ~GW_PAGE_MASK;
	bool is_near = fits_imm32(la);

	if ((la & GW_PAGE_MASK) + size > GW_PAGE_SIZE) {
		tr_slow_if(x, -1);
		return rm_mem(HR_9, 0);
	}
	if (is_near) {
		e_alu_i(&x->e, true, 7, rm_gs(entry + offsetof(struct acc_tlb_entry, tag)), (int32_t)page);
	} else {
		e_mov_i(&x->e, HR_9, page);
		e_op(&x->e, true, 0x39, HR_9, rm_gs(entry + offsetof(struct acc_tlb_entry, tag)));
	}
	tr_slow_if(x, CC_NE);
	e_load(&x->e, HR_10, rm_gs(entry + offsetof(struct acc_tlb_entry, addend)));
	return is_near ? rm_mem(HR_10, (int32_t)la) : rm_sib(HR_9, HR_10, 0, (int32_t)(la - page));
}

/* Offset of the entry for base + disp into r10. */
static void index_of(struct tr_emit *e, unsigned base, int32_t disp)
{
	if (disp)
		e_lea(e, false, HR_10, rm_mem(base, disp));
	else
		e_op(e, false, 0x8b, HR_10, rm_reg(base));
	e_shift_i(e, false, 5, HR_10, INDEX_SHIFT);
	e_alu_i(e, false, 4, rm_reg(HR_10), INDEX_MASK);
}

static struct tr_rm tag_at_r10(size_t tlb) { return rm_gs_at(tlb + offsetof(struct acc_tlb_entry, tag), HR_10); }
static struct tr_rm addend_at_r10(size_t tlb) { return rm_gs_at(tlb + offsetof(struct acc_tlb_entry, addend), HR_10); }

/*
 * The offset of the first byte in the page of the entry at r10: "above" is another page, or not room for all bytes. Without a register for
 * it the address becomes the offset.
 */
static void compare(struct tr_emit *e, size_t tlb, unsigned base, int32_t disp, unsigned size, unsigned tmp)
{
	if (disp)
		e_lea(e, true, tmp, rm_mem(base, disp));
	else if (tmp != base)
		e_mov(e, tmp, base);
	e_op(e, true, 0x33, tmp, tag_at_r10(tlb));
	e_alu_i(e, true, 7, rm_reg(tmp), (int32_t)(GW_PAGE_SIZE - size));
}

void tr_index_and_compare(struct tr_emit *e, size_t tlb, unsigned base, unsigned size, unsigned tmp)
{
	index_of(e, base, 0);
	compare(e, tlb, base, 0, size, tmp);
}

/*
 * Against the entry that this place hit last. A wrong guess does not hit, whatever slot it is: a page has one slot. For empty slots see
 * struct acc_tlb_entry.
 */
static void predicted(struct tr_compiler *x, struct tr_addr a, unsigned size, size_t tlb, unsigned tmp)
{
	struct tr_site_code *p = &x->site[x->n_sites++];
	struct tr_site *s = &x->k->site[x->k->n_sites++];
	struct tr_emit *e = &x->e;

	*s = (struct tr_site){ .score = TR_SITE_SCORE, .quick = TR_SITE_QUICK(x->n), .id = TR_ID(x->u->index, x->at) };
	*p = (struct tr_site_code){ .slow = x->now, .site = s, .base = a.base, .tmp = (uint8_t)tmp, .disp = a.disp, .size = size, .tlb = tlb };
	x->now->n_sites++;
	e_near32(e, 0x8b, HR_10, x->k, &s->index);
	compare(e, tlb, a.base, a.disp, size, tmp);
	p->miss = e_jcc(e, CC_A);
	p->back = e_here(e);
	if (tmp == a.base)
		e_op(e, true, 0x33, tmp, tag_at_r10(tlb));
}

static bool may_predict(const struct tr_compiler *x)
{
	return x->k->n_sites < TR_MAX_SITES && x->n_sites < MAX_UNIT_SITES && !(x->b->unpredicted >> x->at & 1);
}

void tr_probe_range(struct tr_compiler *x, unsigned span, size_t tlb)
{
	x->in_host = false;
	tr_held_drop(x, HR_10);
	if (may_predict(x)) {
		predicted(x, in_register(HR_11, 0), span, tlb, HR_9);
	} else {
		tr_index_and_compare(&x->e, tlb, HR_11, span, HR_9);
		tr_slow_if(x, CC_A);
	}
	e_op(&x->e, true, 0x03, HR_11, addend_at_r10(tlb));
}

void tr_probe_addend(struct tr_compiler *x, unsigned base, int32_t disp, unsigned span, size_t tlb)
{
	x->in_host = false;
	tr_held_drop(x, HR_10);
	if (may_predict(x)) {
		predicted(x, in_register(base, disp), span, tlb, HR_9);
	} else {
		index_of(&x->e, base, disp);
		compare(&x->e, tlb, base, disp, span, HR_9);
		tr_slow_if(x, CC_A);
	}
	e_load(&x->e, HR_10, addend_at_r10(tlb));
}

/* Tell the routine which place it is; it takes r9, which may hold something. */
static void call_miss(struct tr_compiler *x, const struct tr_site_code *p)
{
	struct tr_emit *e = &x->e;
	bool in_r11 = p->tmp == HR_11, is_taken = p->base == HR_9 || in_r11;

	if (p->tmp == p->base)
		e_op(e, true, 0x33, HR_9, tag_at_r10(p->tlb));
	if (is_taken && in_r11)
		e_mov(e, HR_11, HR_9);
	else if (is_taken)
		e_store(e, RM_VCPU(tr_tmp), HR_9);
	e_lea_near(e, HR_9, x->k, p->site);
	e_call_to(e, x->k->at.miss);
	if (is_taken && in_r11)
		e_mov(e, HR_9, HR_11);
	else if (is_taken)
		e_load(e, HR_9, RM_VCPU(tr_tmp));
}

void tr_sites_out_of_line(struct tr_compiler *x)
{
	struct tr_emit *e = &x->e;

	for (unsigned i = 0; i < x->n_sites; i++) {
		struct tr_site_code *p = &x->site[i];

		e_patch_here(e, p->miss);
		call_miss(x, p);
		index_of(e, p->base, p->disp);
		e_near32(e, 0x89, HR_10, x->k, &p->site->index);
		compare(e, p->tlb, p->base, p->disp, p->size, p->tmp);
		e_patch(e, e_jcc(e, CC_BE), p->back);
		p->slow->at[p->slow->n++] = e_jmp(e);
	}
}

struct tr_rm tr_probe(struct tr_compiler *x, struct tr_addr a, unsigned size, bool write, unsigned tmp)
{
	size_t tlb = tr_tlb_offset(x, write);
	struct tr_emit *e = &x->e;

	x->in_host = false;
	tr_held_drop(x, HR_10);
	if (!x->k->tlb) {
		tr_slow_if(x, -1);
		return rm_mem(HR_9, 0);
	}
	if (a.is_const)
		return probe_constant(x, a.la, size, write);
	if (a.disp > INT32_MAX - 64) {
		e_lea(e, true, HR_9, rm_mem(a.base, a.disp));
		a = in_register(HR_9, 0);
	}
	/* The address in r9 needs another register to be compared in: r11, if that is free. */
	if (a.base == HR_9 && tmp == HR_9) {
		if (!x->group.active || !may_predict(x)) {
			tmp = HR_11;
		} else if (a.disp) {
			e_lea(e, true, HR_9, rm_mem(HR_9, a.disp));
			a.disp = 0;
		}
	}
	if (tmp == HR_11)
		tr_group_end(x);
	if (may_predict(x)) {
		predicted(x, a, size, tlb, tmp);
	} else {
		index_of(e, a.base, a.disp);
		compare(e, tlb, a.base, a.disp, size, tmp);
		tr_slow_if(x, CC_A);
	}
	e_load(e, HR_10, addend_at_r10(tlb));
	return rm_sib(a.base, HR_10, 0, a.disp);
}

struct tr_rm tr_operand(struct tr_compiler *x, const struct tr_insn *t, unsigned size, bool write)
{
	int32_t disp = (int32_t)t->in.disp;
	struct tr_rm m;

	if (tr_is_simple(&t->in) && tr_group_has(x, t->in.base, disp, size, write, &m)) {
		tr_flags_defer(x, t);
		return m;
	}
	tr_flags_spill(x, t);
	if (tr_is_simple(&t->in) && tr_group_begin(x, t->in.base, disp, size, write, &m))
		return m;
	return tr_probe(x, tr_address(x, t), size, write, HR_9);
}

struct tr_rm tr_stack(struct tr_compiler *x, const struct tr_insn *t, int32_t disp, bool write)
{
	struct tr_rm m;

	if (tr_group_has(x, RSP, disp, 8, write, &m)) {
		tr_flags_defer(x, t);
		return m;
	}
	tr_flags_spill(x, t);
	if (tr_group_begin(x, RSP, disp, 8, write, &m))
		return m;
	return tr_probe(x, in_register(HR_15, disp), 8, write, HR_9);
}
