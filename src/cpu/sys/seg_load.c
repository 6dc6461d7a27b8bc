/* SPDX-License-Identifier: MIT */
/*
 * Loading segment registers: MOV, POP, LDS and friends, LLDT, LTR; asking about selectors: LAR, LSL, VERR, VERW, ARPL.
 * Source: Intel SDM vol. 2, the pages of these instructions; the order of checks is theirs.
 */
#include "cpu/sys/sys_private.h"

/* ---- rules ---------------------------------------------------------------------------------------------------------------- */

bool sys_ss_judge(struct vcpu *c, uint16_t sel, unsigned cpl, unsigned vector, unsigned ext, struct sys_desc *d)
{
	if (sel_is_null(sel))
		return cpu_fault(c, vector, ext);
	if (!sys_desc_read(c, sel, vector, ext, d))
		return false;
	if ((sel & 3u) != cpl || !desc_is_writable(d) || desc_dpl(d) != cpl)
		return cpu_fault(c, vector, sel_error(sel, ext));
	if (!desc_p(d))
		return cpu_fault(c, VEC_SS, sel_error(sel, ext));
	return true;
}

bool sys_data_judge(struct vcpu *c, unsigned seg, uint16_t sel, struct sys_desc *d, bool *null)
{
	unsigned rpl = sel & 3, cpl = c->acc.cpl;

	*null = sel_is_null(sel);
	if (seg == SEG_SS) {
		if (!*null)
			return sys_ss_judge(c, sel, cpl, VEC_GP, 0, d);
		return (sys_mode64(c) && cpl != 3 && rpl == cpl) || cpu_fault(c, VEC_GP, 0);
	}
	if (*null)
		return true;
	if (!sys_desc_read(c, sel, VEC_GP, 0, d))
		return false;
	/* Data, or code that can be read. */
	if (!desc_s(d) || (desc_is_code(d) && !(desc_type(d) & 2)))
		return cpu_fault(c, VEC_GP, sel_error(sel, 0));
	if (!desc_is_conforming(d) && (rpl > desc_dpl(d) || cpl > desc_dpl(d)))
		return cpu_fault(c, VEC_GP, sel_error(sel, 0));
	if (!desc_p(d))
		return cpu_fault(c, VEC_NP, sel_error(sel, 0));
	return true;
}

bool sys_seg_load(struct vcpu *c, unsigned seg, uint16_t sel)
{
	struct sys_desc d;
	bool null;

	if (!c->protected_mode) {
		sys_seg_real(c, seg, sel);
		cpu_state_changed(c);
		return true;
	}
	if (!sys_data_judge(c, seg, sel, &d, &null))
		return false;
	if (null) {
		sys_seg_null(&c->seg[seg], sel);
	} else {
		if (!sys_desc_touch(c, &d))
			return false;
		sys_seg_fill(&c->seg[seg], sel, &d);
	}
	cpu_state_changed(c);
	return true;
}

/* ---- MOV, POP, PUSH, far pointers -------------------------------------------------------------------------------------------- */

static void loaded(struct vcpu *c, unsigned seg)
{
	if (seg == SEG_SS)
		c->shadow = CPU_SHADOW_MOVSS;
}

static bool mov_to_seg(struct vcpu *c, const struct cpu_op *o, uint16_t sel)
{
	unsigned seg = o->insn->reg & 7;

	if (seg == SEG_CS || seg > SEG_GS) {
		cpu_raise(c, o, VEC_UD);
		return false;
	}
	sys_begin(c, o);
	if (!sys_seg_load(c, seg, sel))
		return false;
	loaded(c, seg);
	return true;
}

void sys_mov_to_seg_reg(struct vcpu *c, const struct cpu_op *o)
{
	if (mov_to_seg(c, o, (uint16_t)c->gpr[o->insn->rm]))
		CPU_NEXT(c, o);
}

void sys_mov_to_seg_mem(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t la;
	uint16_t sel;

	if (cpu_la(c, o, 2, ACC_R, &la) && cpu_ld16(c, o, la, &sel) && mov_to_seg(c, o, sel))
		CPU_NEXT(c, o);
}

void sys_mov_from_seg_reg(struct vcpu *c, const struct cpu_op *o)
{
	unsigned seg = o->insn->reg & 7;

	if (seg > SEG_GS) {
		cpu_raise(c, o, VEC_UD);
		return;
	}
	sys_set_reg(c, o->insn->rm, o->opsize, c->seg[seg].sel);
	CPU_NEXT(c, o);
}

void sys_mov_from_seg_mem(struct vcpu *c, const struct cpu_op *o)
{
	unsigned seg = o->insn->reg & 7;
	uint64_t la;

	if (seg > SEG_GS) {
		cpu_raise(c, o, VEC_UD);
		return;
	}
	if (!cpu_la(c, o, 2, ACC_W, &la) || !cpu_st16(c, o, la, c->seg[seg].sel))
		return;
	CPU_NEXT(c, o);
}

/* Only the selector's two bytes are read, whatever the operand size moves SP by. */
void sys_pop_seg(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t mask = sys_stack_mask(c), sp = c->gpr[RSP], v;
	unsigned seg = o->insn->reg & 7;

	sys_begin(c, o);
	if (!sys_stack_read(c, o, 0, 2, 1, &v) || !sys_seg_load(c, seg, (uint16_t)v))
		return;
	sys_set_sp(c, mask, sp + o->opsize);
	loaded(c, seg);
	CPU_NEXT(c, o);
}

void sys_push_seg(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t v = c->seg[o->insn->reg & 7].sel;
	struct sys_frame f;
	struct sys_stack s;

	sys_begin(c, o);
	sys_stack_current(c, &s);
	/* With a 32-bit operand only 16 bits are written and the rest of the slot keeps its contents (SDM "PUSH"). */
	s.sp -= o->opsize - (o->opsize == 8 ? 8u : 2u);
	if (!sys_frame_judge(c, &s, &v, 1, o->opsize == 8 ? 8 : 2, &f))
		return;
	sys_frame_commit(c, &f);
	sys_set_sp(c, s.mask, f.sp);
	CPU_NEXT(c, o);
}

static unsigned far_ptr_seg(const struct cpu_op *o)
{
	switch (o->iop) {
	case I_LES: return SEG_ES;
	case I_LDS: return SEG_DS;
	case I_LSS: return SEG_SS;
	case I_LFS: return SEG_FS;
	default: return SEG_GS;
	}
}

bool sys_far_pointer(struct vcpu *c, const struct cpu_op *o, uint16_t *sel, uint64_t *off)
{
	unsigned len = o->opsize + 2u;
	uint8_t buf[10];
	struct cpu_ref r;
	uint64_t la;

	if (!cpu_la(c, o, len, ACC_R, &la) || !cpu_ref_get(c, o, la, len, ACC_R, &r) || !cpu_ref_load(c, o, &r, buf))
		return false;
	*off = 0;
	__builtin_memcpy(off, buf, o->opsize);
	__builtin_memcpy(sel, buf + o->opsize, 2);
	return true;
}

void sys_load_far_ptr(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t off;
	uint16_t sel;

	sys_begin(c, o);
	if (!sys_far_pointer(c, o, &sel, &off) || !sys_seg_load(c, far_ptr_seg(o), sel))
		return;
	sys_set_reg(c, o->insn->reg, o->opsize, off);
	CPU_NEXT(c, o);
}

/* ---- r/m16 operands ----------------------------------------------------------------------------------------------------------- */

static bool get_rm16(struct vcpu *c, const struct cpu_op *o, uint16_t *v)
{
	uint64_t la;

	if (!o->insn->has_mem) {
		*v = (uint16_t)c->gpr[o->insn->rm];
		return true;
	}
	return cpu_la(c, o, 2, ACC_R, &la) && cpu_ld16(c, o, la, v);
}

static bool put_rm16(struct vcpu *c, const struct cpu_op *o, uint16_t v)
{
	uint64_t la;

	if (!o->insn->has_mem) {
		sys_set_reg(c, o->insn->rm, o->opsize, v);
		return true;
	}
	return cpu_la(c, o, 2, ACC_W, &la) && cpu_st16(c, o, la, v);
}

/* UMIP: user code may not ask where the tables are. */
static bool umip_allows(struct vcpu *c, const struct cpu_op *o)
{
	if (likely(!(c->acc.cr4 & CR4_UMIP) || c->acc.cpl == 0))
		return true;
	cpu_raise_error(c, o, VEC_GP, 0);
	return false;
}

/* What follows from the answer to a question about the instruction: only true goes on with it. */
static bool answered(struct vcpu *c, const struct cpu_op *o, enum cpu_ext_answer a)
{
	if (a == CPU_EXT_DISCARD) {
		c->rip = cpu_op_next_rip(c, o);
		c->stop = true;
	}
	return a == CPU_EXT_ALLOW;
}

/* A monitor may want to know of whoever looks at the tables or changes them. @which: 1 IDTR 2 GDTR 3 LDTR 4 TR. */
static bool asked(struct vcpu *c, const struct cpu_op *o, unsigned which, bool load)
{
	struct cpu_ext_insn x = { .kind = CPU_EXT_TABLE, .length = o->len, .a = which, .b = load };

	if (likely(!sys_ext_wants(c, CPU_EXT_TABLE)))
		return true;
	sys_begin(c, o);
	return answered(c, o, sys_ext_insn(c, &x));
}

void sys_sldt(struct vcpu *c, const struct cpu_op *o)
{
	if (umip_allows(c, o) && asked(c, o, 3, false) && put_rm16(c, o, c->seg[SEG_LDTR].sel))
		CPU_NEXT(c, o);
}

void sys_str(struct vcpu *c, const struct cpu_op *o)
{
	if (umip_allows(c, o) && asked(c, o, 4, false) && put_rm16(c, o, c->seg[SEG_TR].sel))
		CPU_NEXT(c, o);
}

/* ---- LDT and task register -------------------------------------------------------------------------------------------------- */

/* A descriptor of LDT or TSS: 16 bytes in long mode, with a canonical base. */
static bool read_system(struct vcpu *c, uint16_t sel, struct sys_desc *d)
{
	if (sel & 4)
		return cpu_fault(c, VEC_GP, sel_error(sel, 0));
	return sys_desc_read(c, sel, VEC_GP, 0, d) && (!sys_long(c) || sys_desc_read_high(c, sel, VEC_GP, 0, d));
}

static bool is_ldt(const struct vcpu *c, unsigned type)
{
	return type == DT_LDT;
}

static bool is_free_tss(const struct vcpu *c, unsigned type)
{
	return type == DT_TSS || (type == DT_TSS16 && !sys_long(c));
}

/* The descriptor that LLDT or LTR loads, and its whole base. False: faulted. */
static bool take_system(struct vcpu *c, uint16_t sel, bool (*is_right)(const struct vcpu *, unsigned), struct sys_desc *d, uint64_t *base)
{
	if (!read_system(c, sel, d))
		return false;
	if (desc_s(d) || !is_right(c, desc_type(d)))
		return cpu_fault(c, VEC_GP, sel_error(sel, 0));
	if (!desc_p(d))
		return cpu_fault(c, VEC_NP, sel_error(sel, 0));
	*base = desc_base(d);
	if (!sys_long(c))
		return true;
	*base |= d->high << 32;
	/* The type field of the upper half must be clear. */
	if (!sys_canonical_base(c, *base) || d->high >> 40 & 0x1f)
		return cpu_fault(c, VEC_GP, sel_error(sel, 0));
	return true;
}

static void set_system(struct vcpu *c, enum x86_seg n, uint16_t sel, const struct sys_desc *d, uint64_t base)
{
	sys_seg_fill(&c->seg[n], sel, d);
	c->seg[n].base = base;
	c->seg_base[n] = base;
}

void sys_lldt(struct vcpu *c, const struct cpu_op *o)
{
	struct sys_desc d;
	uint64_t base;
	uint16_t sel;

	if (!sys_need_cpl0(c, o) || !asked(c, o, 3, true) || !get_rm16(c, o, &sel))
		return;
	sys_begin(c, o);
	if (!answered(c, o, sys_ext(c, CPU_EXT_LDTR, 0, sel)))
		return;
	if (sel_is_null(sel))
		c->seg[SEG_LDTR] = (struct cpu_seg){ .sel = sel, .unusable = 1, .type = DT_LDT };
	else if (take_system(c, sel, is_ldt, &d, &base))
		set_system(c, SEG_LDTR, sel, &d, base);
	else
		return;
	CPU_NEXT(c, o);
}

void sys_ltr(struct vcpu *c, const struct cpu_op *o)
{
	struct sys_desc d;
	uint64_t base;
	uint16_t sel;
	uint8_t access;

	if (!sys_need_cpl0(c, o) || !asked(c, o, 4, true) || !get_rm16(c, o, &sel))
		return;
	sys_begin(c, o);
	if (!answered(c, o, sys_ext(c, CPU_EXT_TR, 0, sel)))
		return;
	if (sel_is_null(sel)) {
		cpu_fault(c, VEC_GP, 0);
		return;
	}
	if (!take_system(c, sel, is_free_tss, &d, &base))
		return;
	d.raw |= BIT64(41);	/* busy */
	access = (uint8_t)(d.raw >> 40);
	if (!cpu_sys_write(c, sys_linear(c, d.addr + 5), 1, &access))
		return;
	set_system(c, SEG_TR, sel, &d, base);
	CPU_NEXT(c, o);
}

/* ---- LAR, LSL, VERR, VERW, ARPL ----------------------------------------------------------------------------------------------- */

static void set_zf(struct vcpu *c, bool zf)
{
	c->cc = (uint16_t)(zf ? c->cc | CC_ZF : c->cc & ~CC_ZF);
}

/* Types of system descriptors that LAR and LSL show: legacy, long mode. One bit a type. */
#define LAR_LEGACY	(BIT(1) | BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(9) | BIT(11) | BIT(12))
#define LAR_LONG	(BIT(2) | BIT(9) | BIT(11) | BIT(12))
#define LSL_LEGACY	(BIT(1) | BIT(2) | BIT(3) | BIT(9) | BIT(11))
#define LSL_LONG	(BIT(2) | BIT(9) | BIT(11))

/* Finds the descriptor if the program may see it. *seen false: ZF := 0. Returns false only for faults of reading. */
static bool look(struct vcpu *c, uint16_t sel, unsigned types, struct sys_desc *d, bool *seen)
{
	unsigned rpl = sel & 3;

	*seen = false;
	if (sel_is_null(sel) || !sys_desc_locate(c, sel, 8, &d->addr))
		return true;
	if (!cpu_sys_read(c, d->addr, 8, &d->raw))
		return false;
	if (!desc_s(d)) {
		if (!(types >> desc_type(d) & 1))
			return true;
		if (sys_long(c) && desc_type(d) != DT_TASK && !sys_desc_locate(c, sel, 16, &d->addr))
			return true;
	}
	if (!(desc_is_code(d) && desc_is_conforming(d)) && (c->acc.cpl > desc_dpl(d) || rpl > desc_dpl(d)))
		return true;
	*seen = true;
	return true;
}

static bool lar_lsl(struct vcpu *c, const struct cpu_op *o, bool limit)
{
	unsigned types = limit ? (sys_long(c) ? LSL_LONG : LSL_LEGACY) : (sys_long(c) ? LAR_LONG : LAR_LEGACY);
	struct sys_desc d;
	uint16_t sel;
	bool seen;

	if (!get_rm16(c, o, &sel))
		return false;
	sys_begin(c, o);
	if (!look(c, sel, types, &d, &seen))
		return false;
	set_zf(c, seen);
	if (seen)
		sys_set_reg(c, o->insn->reg, o->opsize, limit ? desc_limit(&d) : d.raw >> 32 & 0x00ffff00);
	return true;
}

void sys_lar(struct vcpu *c, const struct cpu_op *o)
{
	if (lar_lsl(c, o, false))
		CPU_NEXT(c, o);
}

void sys_lsl(struct vcpu *c, const struct cpu_op *o)
{
	if (lar_lsl(c, o, true))
		CPU_NEXT(c, o);
}

static bool verify(struct vcpu *c, const struct cpu_op *o, bool write)
{
	struct sys_desc d;
	uint16_t sel;
	bool seen;

	if (!get_rm16(c, o, &sel))
		return false;
	sys_begin(c, o);
	if (!look(c, sel, 0, &d, &seen))
		return false;
	if (seen)
		seen = write ? desc_is_writable(&d) : desc_is_data(&d) || desc_type(&d) & 2;
	set_zf(c, seen);
	return true;
}

void sys_verr(struct vcpu *c, const struct cpu_op *o)
{
	if (verify(c, o, false))
		CPU_NEXT(c, o);
}

void sys_verw(struct vcpu *c, const struct cpu_op *o)
{
	if (verify(c, o, true))
		CPU_NEXT(c, o);
}

void sys_arpl(struct vcpu *c, const struct cpu_op *o)
{
	uint16_t src = (uint16_t)c->gpr[o->insn->reg], dst;
	struct cpu_ref r;
	bool raise;
	uint64_t la;

	if (!o->insn->has_mem) {
		dst = (uint16_t)c->gpr[o->insn->rm];
		raise = (dst & 3) < (src & 3);
		if (raise)
			sys_set_reg(c, o->insn->rm, 2, (dst & ~3u) | (src & 3));
	} else {
		/* Processors write only what they change: a read-only selector that needs no change is no fault. */
		if (!cpu_la(c, o, 2, ACC_R, &la) || !cpu_ref_get(c, o, la, 2, ACC_R, &r) || !cpu_ref_load(c, o, &r, &dst))
			return;
		raise = (dst & 3) < (src & 3);
		if (raise) {
			dst = (uint16_t)((dst & ~3u) | (src & 3));
			if (!cpu_la(c, o, 2, ACC_RW, &la) || !cpu_ref_get(c, o, la, 2, ACC_RW, &r))
				return;
			cpu_ref_store(c, o, &r, &dst);
		}
	}
	set_zf(c, raise);
	CPU_NEXT(c, o);
}

/* ---- descriptor-table registers ------------------------------------------------------------------------------------------------- */

static bool store_table(struct vcpu *c, const struct cpu_op *o, const struct cpu_table *t)
{
	unsigned size = sys_mode64(c) ? 10 : 6;
	uint8_t buf[10];
	struct cpu_ref r;
	uint64_t la;

	if (!umip_allows(c, o) || !asked(c, o, t == &c->idtr ? 1 : 2, false) || !cpu_la(c, o, size, ACC_W, &la) || !cpu_ref_get(c, o, la, size, ACC_W, &r))
		return false;
	__builtin_memcpy(buf, &t->limit, 2);
	__builtin_memcpy(buf + 2, &t->base, 8);
	cpu_ref_store(c, o, &r, buf);
	return true;
}

void sys_sgdt(struct vcpu *c, const struct cpu_op *o)
{
	if (store_table(c, o, &c->gdtr))
		CPU_NEXT(c, o);
}

void sys_sidt(struct vcpu *c, const struct cpu_op *o)
{
	if (store_table(c, o, &c->idtr))
		CPU_NEXT(c, o);
}

static bool load_table(struct vcpu *c, const struct cpu_op *o, struct cpu_table *t, unsigned reg)
{
	unsigned size = sys_mode64(c) ? 10 : 6;
	uint64_t la, base = 0;
	uint8_t buf[10];
	uint16_t limit;
	struct cpu_ref r;
	enum cpu_ext_answer a;

	if (!sys_need_cpl0(c, o) || !asked(c, o, t == &c->idtr ? 1 : 2, true) || !cpu_la(c, o, size, ACC_R, &la) ||
	    !cpu_ref_get(c, o, la, size, ACC_R, &r) || !cpu_ref_load(c, o, &r, buf))
		return false;
	__builtin_memcpy(&base, buf + 2, size - 2);
	if (sys_mode64(c)) {
		if (!sys_canonical_base(c, base)) {
			cpu_raise_error(c, o, VEC_GP, 0);
			return false;
		}
	} else if (o->opsize == 2) {
		base &= 0xffffff;
	}
	__builtin_memcpy(&limit, buf, 2);
	sys_begin(c, o);
	a = sys_ext(c, reg, limit, base);
	if (unlikely(a != CPU_EXT_ALLOW))
		return a == CPU_EXT_DISCARD;
	*t = (struct cpu_table){ base, limit };
	return true;
}

void sys_lgdt(struct vcpu *c, const struct cpu_op *o)
{
	if (load_table(c, o, &c->gdtr, CPU_EXT_GDTR))
		CPU_NEXT(c, o);
}

void sys_lidt(struct vcpu *c, const struct cpu_op *o)
{
	if (load_table(c, o, &c->idtr, CPU_EXT_IDTR))
		CPU_NEXT(c, o);
}
