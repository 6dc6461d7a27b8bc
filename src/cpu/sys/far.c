/* SPDX-License-Identifier: MIT */
/*
 * Far JMP, CALL and RET: code segments, call gates of 16, 32 and 64 bits with stack switch and parameters, task gates and TSSs.
 * Source: Intel SDM vol. 2 "CALL", "JMP", "RET"; vol. 3 "Call Gates".
 */
#include "cpu/sys/iret.h"

struct far_target { uint16_t sel; uint64_t off; };

static struct far_target far_immediate(const struct cpu_op *o)
{
	return (struct far_target){ (uint16_t)o->insn->imm2, sys_truncate(o->insn->imm, o->opsize) };
}

/* ---- code segments --------------------------------------------------------------------------------------------------------------- */

/* A direct transfer to a code segment at the same level. */
static bool code_judge(struct vcpu *c, uint16_t sel, struct sys_desc *d)
{
	unsigned rpl = sel & 3, cpl = c->acc.cpl;

	if (desc_is_conforming(d) ? desc_dpl(d) > cpl : rpl > cpl || desc_dpl(d) != cpl)
		return cpu_fault(c, VEC_GP, sel_error(sel, 0));
	if (sys_long(c) && desc_l(d) && desc_db(d))
		return cpu_fault(c, VEC_GP, sel_error(sel, 0));
	return desc_p(d) || cpu_fault(c, VEC_NP, sel_error(sel, 0));
}

static bool real_target_judge(struct vcpu *c, uint64_t off)
{
	return off <= c->seg[SEG_CS].limit || cpu_fault(c, VEC_GP, 0);
}

static void jump_to(struct vcpu *c, uint64_t rip)
{
	c->rip = rip;
	cpu_state_changed(c);
}

static void jmp_code(struct vcpu *c, const struct far_target *t, struct sys_desc *d)
{
	if (!code_judge(c, t->sel, d) || !sys_target_judge(c, d, t->off, 0) || !sys_desc_touch(c, d))
		return;
	sys_set_cs(c, t->sel, d, c->acc.cpl);
	jump_to(c, t->off);
}

static void call_code(struct vcpu *c, const struct cpu_op *o, const struct far_target *t, struct sys_desc *d)
{
	uint64_t v[2] = { c->seg[SEG_CS].sel, cpu_op_next_rip(c, o) };
	struct sys_frame f;
	struct sys_stack s;

	if (!code_judge(c, t->sel, d))
		return;
	sys_stack_current(c, &s);
	if (!sys_frame_judge(c, &s, v, 2, o->opsize, &f) || !sys_target_judge(c, d, t->off, 0) || !sys_desc_touch(c, d))
		return;
	sys_frame_commit(c, &f);
	sys_set_sp(c, s.mask, f.sp);
	sys_set_cs(c, t->sel, d, c->acc.cpl);
	jump_to(c, t->off);
}

/* ---- call gates -------------------------------------------------------------------------------------------------------------------- */

struct call_gate {
	uint16_t sel;
	uint64_t off;
	unsigned size;		/* of what is pushed: 2, 4, 8 */
	unsigned params;
	struct sys_desc cs;
};

static bool gate_judge(struct vcpu *c, uint16_t gsel, struct sys_desc *g, bool call, struct call_gate *out)
{
	unsigned cpl = c->acc.cpl, rpl = gsel & 3;
	bool conforming;

	if (desc_dpl(g) < cpl || rpl > desc_dpl(g))
		return cpu_fault(c, VEC_GP, sel_error(gsel, 0));
	if (!desc_p(g))
		return cpu_fault(c, VEC_NP, sel_error(gsel, 0));
	out->sel = gate_sel(g);
	out->params = g->raw >> 32 & 31;
	out->off = gate_offset(g);
	out->size = 4;
	if (desc_type(g) == DT_CALL16) {
		out->off &= 0xffff;
		out->size = 2;
	}
	if (sys_long(c)) {
		if (!sys_desc_read_high(c, gsel, VEC_GP, 0, g))
			return false;
		if (g->high >> 40 & 0x1f)
			return cpu_fault(c, VEC_GP, sel_error(gsel, 0));
		out->off = gate_offset64(g);
		out->size = 8;
		out->params = 0;
	}
	if (sel_is_null(out->sel))
		return cpu_fault(c, VEC_GP, 0);
	if (!sys_desc_read(c, out->sel, VEC_GP, 0, &out->cs))
		return false;
	conforming = desc_is_conforming(&out->cs);
	if (!desc_is_code(&out->cs) || desc_dpl(&out->cs) > cpl || (!call && !conforming && desc_dpl(&out->cs) != cpl))
		return cpu_fault(c, VEC_GP, sel_error(out->sel, 0));
	if (sys_long(c) && (!desc_l(&out->cs) || desc_db(&out->cs)))
		return cpu_fault(c, VEC_GP, sel_error(out->sel, 0));
	return desc_p(&out->cs) || cpu_fault(c, VEC_NP, sel_error(out->sel, 0));
}

static void jmp_gate(struct vcpu *c, uint16_t gsel, struct sys_desc *g)
{
	struct call_gate t;

	if (!gate_judge(c, gsel, g, false, &t) || !sys_target_judge(c, &t.cs, t.off, 0) || !sys_desc_touch(c, &t.cs))
		return;
	sys_set_cs(c, t.sel, &t.cs, c->acc.cpl);
	jump_to(c, t.off);
}

static void call_gate_same(struct vcpu *c, const struct cpu_op *o, struct call_gate *t)
{
	uint64_t v[2] = { c->seg[SEG_CS].sel, cpu_op_next_rip(c, o) };
	struct sys_frame f;
	struct sys_stack s;

	sys_stack_current(c, &s);
	if (sys_long(c) && !s.flat) {
		/* From compatibility mode the frame goes where 64-bit mode finds it. */
		s.flat = true;
		s.mask = ~0ull;
	}
	if (!sys_frame_judge(c, &s, v, 2, t->size, &f) || !sys_target_judge(c, &t->cs, t->off, 0) || !sys_desc_touch(c, &t->cs))
		return;
	sys_frame_commit(c, &f);
	sys_set_sp(c, s.mask, f.sp);
	sys_set_cs(c, t->sel, &t->cs, c->acc.cpl);
	jump_to(c, t->off);
}

/* The inner stack: legacy ones bring a segment, 64-bit ones a null selector. */
static bool inner_stack(struct vcpu *c, unsigned cpl, struct cpu_seg *seg, struct sys_desc *d, struct sys_stack *s)
{
	uint16_t sel;

	if (!sys_tss_stack(c, cpl, 0, 0, &sel, &s->sp))
		return false;
	s->user = false;
	s->ss = seg;
	if (sys_long(c)) {
		s->flat = true;
		s->mask = ~0ull;
		s->error = 0;
		*seg = (struct cpu_seg){ .sel = sel, .unusable = 1, .dpl = (uint8_t)cpl };
		return true;
	}
	if (!sys_ss_judge(c, sel, cpl, VEC_TS, 0, d))
		return false;
	sys_seg_fill(seg, sel, d);
	seg->type |= 1;
	s->flat = false;
	s->mask = seg->db ? 0xffffffff : 0xffff;
	s->error = sel_error(sel, 0);
	return true;
}

static void call_gate_inner(struct vcpu *c, const struct cpu_op *o, struct call_gate *t)
{
	unsigned cpl = desc_dpl(&t->cs), n = 0;
	struct sys_desc ssd = { .raw = BIT64(40) };
	uint64_t v[35], param;
	struct cpu_seg ss;
	struct sys_frame f;
	struct sys_stack s;

	if (!inner_stack(c, cpl, &ss, &ssd, &s))
		return;
	v[n++] = c->seg[SEG_SS].sel;
	v[n++] = c->gpr[RSP];
	/* Parameters keep their order: the one highest in memory is pushed first. */
	for (unsigned i = t->params; i > 0; i--) {
		if (!sys_stack_read(c, o, (i - 1) * t->size, t->size, 1, &param))
			return;
		v[n++] = param;
	}
	v[n++] = c->seg[SEG_CS].sel;
	v[n++] = cpu_op_next_rip(c, o);
	if (!sys_frame_judge(c, &s, v, n, t->size, &f) || !sys_target_judge(c, &t->cs, t->off, 0) ||
	    !sys_desc_touch(c, &ssd) || !sys_desc_touch(c, &t->cs))
		return;
	sys_frame_commit(c, &f);
	if (s.flat)
		c->gpr[RSP] = f.sp;
	else
		c->gpr[RSP] = (uint32_t)((s.sp & ~s.mask) | f.sp);
	c->seg[SEG_SS] = ss;
	sys_set_cs(c, t->sel, &t->cs, cpl);
	jump_to(c, t->off);
}

static void call_gate(struct vcpu *c, const struct cpu_op *o, uint16_t gsel, struct sys_desc *g)
{
	struct call_gate t;

	if (!gate_judge(c, gsel, g, true, &t))
		return;
	if (!desc_is_conforming(&t.cs) && desc_dpl(&t.cs) < c->acc.cpl)
		call_gate_inner(c, o, &t);
	else
		call_gate_same(c, o, &t);
}

/* ---- dispatch on the descriptor ------------------------------------------------------------------------------------------------------ */

static void task(struct vcpu *c, const struct cpu_op *o, uint16_t sel, struct sys_desc *d, enum sys_task_why why)
{
	if (desc_dpl(d) < c->acc.cpl || desc_dpl(d) < (sel & 3u)) {
		cpu_fault(c, VEC_GP, sel_error(sel, 0));
		return;
	}
	if (desc_type(d) == DT_TASK) {
		if (!desc_p(d)) {
			cpu_fault(c, VEC_NP, sel_error(sel, 0));
			return;
		}
		sys_task_gate(c, d, why, cpu_op_next_rip(c, o), NULL, 0);
	} else {
		sys_task_switch(c, sel, why, cpu_op_next_rip(c, o), NULL, 0);
	}
}

static void far_protected(struct vcpu *c, const struct cpu_op *o, const struct far_target *t, bool call)
{
	struct sys_desc d;

	if (sel_is_null(t->sel)) {
		cpu_fault(c, VEC_GP, 0);
		return;
	}
	if (!sys_desc_read(c, t->sel, VEC_GP, 0, &d))
		return;
	if (desc_is_code(&d)) {
		if (call)
			call_code(c, o, t, &d);
		else
			jmp_code(c, t, &d);
		return;
	}
	switch (desc_s(&d) ? 0 : desc_type(&d)) {
	case DT_CALL:
	case DT_CALL16:
		if (desc_type(&d) == DT_CALL16 && sys_long(c))
			break;
		if (call)
			call_gate(c, o, t->sel, &d);
		else
			jmp_gate(c, t->sel, &d);
		return;
	case DT_TASK:
	case DT_TSS:
	case DT_TSS16:
	case DT_TSS_BUSY:
	case DT_TSS16_BUSY:
		if (sys_long(c))
			break;
		task(c, o, t->sel, &d, call ? TASK_CALL : TASK_JMP);
		return;
	default:
		break;
	}
	cpu_fault(c, VEC_GP, sel_error(t->sel, 0));
}

static void far_jmp(struct vcpu *c, const struct cpu_op *o, const struct far_target *t)
{
	if (c->protected_mode) {
		far_protected(c, o, t, false);
		return;
	}
	if (!real_target_judge(c, t->off))
		return;
	sys_seg_real(c, SEG_CS, t->sel);
	jump_to(c, t->off);
}

static void far_call(struct vcpu *c, const struct cpu_op *o, const struct far_target *t)
{
	uint64_t v[2] = { c->seg[SEG_CS].sel, cpu_op_next_rip(c, o) };
	struct sys_frame f;
	struct sys_stack s;

	if (c->protected_mode) {
		far_protected(c, o, t, true);
		return;
	}
	sys_stack_current(c, &s);
	if (!sys_frame_judge(c, &s, v, 2, o->opsize, &f) || !real_target_judge(c, t->off))
		return;
	sys_frame_commit(c, &f);
	sys_set_sp(c, s.mask, f.sp);
	sys_seg_real(c, SEG_CS, t->sel);
	jump_to(c, t->off);
}

void sys_jmp_far(struct vcpu *c, const struct cpu_op *o)
{
	struct far_target t = far_immediate(o);

	sys_begin(c, o);
	far_jmp(c, o, &t);
}

void sys_call_far(struct vcpu *c, const struct cpu_op *o)
{
	struct far_target t = far_immediate(o);

	sys_begin(c, o);
	far_call(c, o, &t);
}

void sys_jmp_far_ind(struct vcpu *c, const struct cpu_op *o)
{
	struct far_target t;

	sys_begin(c, o);
	if (sys_far_pointer(c, o, &t.sel, &t.off))
		far_jmp(c, o, &t);
}

void sys_call_far_ind(struct vcpu *c, const struct cpu_op *o)
{
	struct far_target t;

	sys_begin(c, o);
	if (sys_far_pointer(c, o, &t.sel, &t.off))
		far_call(c, o, &t);
}

/* ---- RET ------------------------------------------------------------------------------------------------------------------------------- */

static void ret_real(struct vcpu *c, const struct cpu_op *o, unsigned release)
{
	uint64_t v[2], sp = c->gpr[RSP], mask = sys_stack_mask(c);

	if (!sys_stack_read(c, o, 0, o->opsize, 2, v) || !real_target_judge(c, v[0]))
		return;
	sys_set_sp(c, mask, sp + 2u * o->opsize + release);
	sys_seg_real(c, SEG_CS, (uint16_t)v[1]);
	jump_to(c, v[0]);
}

static void ret_protected(struct vcpu *c, const struct cpu_op *o, unsigned release)
{
	uint64_t v[4], sp = c->gpr[RSP], mask = sys_stack_mask(c);
	struct cpu_seg ss = c->seg[SEG_SS];
	struct sys_desc cs;
	unsigned cpl;
	bool outer;

	if (!sys_stack_read(c, o, 0, o->opsize, 2, v) || !sys_return_cs_judge(c, (uint16_t)v[1], &cs))
		return;
	cpl = v[1] & 3;
	outer = cpl > c->acc.cpl;
	if (outer && (!sys_stack_read(c, o, 2u * o->opsize + release, o->opsize, 2, &v[2]) ||
		      !sys_return_ss_judge(c, (uint16_t)v[3], cpl, sys_long(c) && desc_l(&cs), &ss)))
		return;
	if (!sys_target_judge(c, &cs, v[0], 0) || !sys_desc_touch(c, &cs))
		return;
	sys_set_cs(c, (uint16_t)v[1], &cs, cpl);
	if (outer) {
		c->seg[SEG_SS] = ss;
		if (sys_long(c) && desc_l(&cs))
			c->gpr[RSP] = v[2] + release;
		else
			sys_set_sp(c, ss.db ? 0xffffffff : 0xffff, v[2] + release);
		sys_seg_drop_inner(c, cpl);
	} else {
		sys_set_sp(c, mask, sp + 2u * o->opsize + release);
	}
	jump_to(c, v[0]);
}

void sys_ret_far(struct vcpu *c, const struct cpu_op *o)
{
	unsigned release = o->insn->imm & 0xffff;

	sys_begin(c, o);
	if (o->insn->imm_off == 0)
		release = 0;
	if (c->protected_mode)
		ret_protected(c, o, release);
	else
		ret_real(c, o, release);
}
