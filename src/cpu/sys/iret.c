/* SPDX-License-Identifier: MIT */
/*
 * IRET in every mode, and the returning half it shares with RETF: judging CS and SS of an outer level.
 * Source: Intel SDM vol. 2 "IRET/IRETD/IRETQ" and "RET", whose labels the functions follow.
 */
#include "cpu/align.h"
#include "cpu/sys/iret.h"

/* ---- flags ------------------------------------------------------------------------------------------------------------------ */

/* Bits an IRET at privilege @cpl with @opsize takes from the image. */
static uint32_t iret_mask(const struct vcpu *c, unsigned opsize)
{
	uint32_t mask = FLAGS_ARITH | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_RF | FLAG_AC | FLAG_ID;

	if (c->acc.cpl <= sys_iopl(c))
		mask |= FLAG_IF;
	if (c->acc.cpl == 0)
		mask |= FLAG_IOPL | FLAG_VIF | FLAG_VIP;
	return opsize == 2 ? mask & 0xffff : mask;
}

static void take_flags(struct vcpu *c, uint32_t v, uint32_t mask)
{
	/* RF ends with the instruction whatever the image's width; with nothing armed there is nothing it could suppress. */
	if (!cpu_debug_armed(c))
		mask &= ~FLAG_RF;
	cpu_set_eflags(c, (cpu_eflags(c) & ~(mask | FLAG_RF)) | (v & mask));
}

static void returned(struct vcpu *c, uint64_t rip)
{
	c->rip = rip;
	c->ev.nmi.masked = false;
	cpu_state_changed(c);
	if (unlikely(c->ev.nmi.pending))
		acc_attend(&c->acc, ACC_ATT_EVENT);
	sys_if_opened(c);
}

/* ---- real and virtual-8086 mode ------------------------------------------------------------------------------------------------- */

static void iret_real(struct vcpu *c, const struct cpu_op *o, uint32_t mask)
{
	uint64_t v[3], sp = c->gpr[RSP], sp_mask = sys_stack_mask(c);

	if (!sys_stack_read(c, o, 0, o->opsize, 3, v))
		return;
	if (v[0] > c->seg[SEG_CS].limit) {
		cpu_fault(c, VEC_GP, 0);
		return;
	}
	sys_set_sp(c, sp_mask, sp + 3u * o->opsize);
	sys_seg_real(c, SEG_CS, (uint16_t)v[1]);
	take_flags(c, (uint32_t)v[2], o->opsize == 2 ? mask & 0xffff : mask);
	returned(c, v[0]);
}

/* IOPL < 3 with VME: the image's IF goes to VIF. */
static void iret_vme(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t v[3], sp = c->gpr[RSP], sp_mask = sys_stack_mask(c);
	uint32_t image;

	if (!sys_stack_read(c, o, 0, 2, 3, v))
		return;
	image = (uint32_t)v[2];
	if ((image & FLAG_IF && c->eflags & FLAG_VIP) || image & FLAG_TF) {
		cpu_fault(c, VEC_GP, 0);
		return;
	}
	sys_set_sp(c, sp_mask, sp + 6);
	sys_seg_real(c, SEG_CS, (uint16_t)v[1]);
	take_flags(c, image, (FLAGS_ARITH | FLAG_TF | FLAG_DF | FLAG_NT) & 0xffff);
	c->eflags = image & FLAG_IF ? c->eflags | FLAG_VIF : c->eflags & ~FLAG_VIF;
	returned(c, v[0]);
}

#define IRET_REAL_MASK	(FLAGS_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_AC | FLAG_ID)

static void iret_v86(struct vcpu *c, const struct cpu_op *o)
{
	if (sys_iopl(c) == 3)
		iret_real(c, o, IRET_REAL_MASK & ~FLAG_IOPL);
	else if (c->acc.cr4 & CR4_VME && o->opsize == 2)
		iret_vme(c, o);
	else
		cpu_fault(c, VEC_GP, 0);
}

/* RETURN-TO-VIRTUAL-8086-MODE: v[0..8] are EIP, CS, EFLAGS, ESP, SS, ES, DS, FS, GS. */
static void iret_to_v86(struct vcpu *c, const struct cpu_op *o)
{
	static const uint8_t order[] = { SEG_CS, SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS };
	static const uint8_t at[] = { 1, 4, 5, 6, 7, 8 };
	uint64_t v[9];

	if (!sys_stack_read(c, o, 0, 4, 9, v))
		return;
	if ((v[0] & 0xffffffff) > 0xffff) {
		cpu_fault(c, VEC_GP, 0);
		return;
	}
	cpu_set_eflags(c, (uint32_t)v[2] & (IRET_REAL_MASK | FLAG_VM | FLAG_VIF | FLAG_VIP));
	c->gpr[RSP] = (uint32_t)v[3];
	c->v86 = true;		/* for sys_seg_real */
	for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
		sys_seg_real(c, order[i], (uint16_t)v[at[i]]);
	returned(c, v[0]);
}

/* ---- what IRET and RETF share ----------------------------------------------------------------------------------------------------- */

bool sys_return_cs_judge(struct vcpu *c, uint16_t sel, struct sys_desc *cs)
{
	unsigned rpl = sel & 3;

	if (sel_is_null(sel))
		return cpu_fault(c, VEC_GP, 0);
	if (!sys_desc_read(c, sel, VEC_GP, 0, cs))
		return false;
	if (!desc_is_code(cs) || rpl < c->acc.cpl || (desc_is_conforming(cs) ? desc_dpl(cs) > rpl : desc_dpl(cs) != rpl))
		return cpu_fault(c, VEC_GP, sel_error(sel, 0));
	if (sys_long(c) && desc_l(cs) && desc_db(cs))
		return cpu_fault(c, VEC_GP, sel_error(sel, 0));
	return desc_p(cs) || cpu_fault(c, VEC_NP, sel_error(sel, 0));
}

bool sys_return_ss_judge(struct vcpu *c, uint16_t sel, unsigned cpl, bool to64, struct cpu_seg *ss)
{
	struct sys_desc d;

	if (sel_is_null(sel)) {
		if (!to64 || cpl == 3 || (sel & 3u) != cpl)
			return cpu_fault(c, VEC_GP, 0);
		sys_seg_null(ss, sel);
		ss->dpl = (uint8_t)cpl;
		return true;
	}
	if (!sys_ss_judge(c, sel, cpl, VEC_GP, 0, &d) || !sys_desc_touch(c, &d))
		return false;
	sys_seg_fill(ss, sel, &d);
	return true;
}

/* ---- protected and long mode ---------------------------------------------------------------------------------------------------- */

/* Return without VM and NT: same level, outer level, and every return from 64-bit mode. */
static void iret_protected(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t v[5], sp = c->gpr[RSP], sp_mask = sys_stack_mask(c);
	bool pops_ss = sys_mode64(c), outer, to64;
	uint32_t mask = iret_mask(c, o->opsize);
	struct cpu_seg ss = c->seg[SEG_SS];
	struct sys_desc cs;
	unsigned cpl;

	if (!sys_stack_read(c, o, 0, o->opsize, 3, v))
		return;
	if (!sys_long(c) && o->opsize == 4 && v[2] & FLAG_VM && c->acc.cpl == 0) {
		iret_to_v86(c, o);
		return;
	}
	if (!sys_return_cs_judge(c, (uint16_t)v[1], &cs))
		return;
	cpl = v[1] & 3;
	outer = cpl > c->acc.cpl;
	to64 = sys_long(c) && desc_l(&cs);
	if (outer || pops_ss) {
		if (!sys_stack_read(c, o, 3u * o->opsize, o->opsize, 2, &v[3]) ||
		    !sys_return_ss_judge(c, (uint16_t)v[4], cpl, to64, &ss))
			return;
	}
	if (!sys_target_judge(c, &cs, v[0], 0) || !sys_desc_touch(c, &cs))
		return;
	take_flags(c, (uint32_t)v[2], mask);
	sys_set_cs(c, (uint16_t)v[1], &cs, cpl);
	if (outer || pops_ss) {
		c->seg[SEG_SS] = ss;
		if (to64)
			c->gpr[RSP] = v[3];
		else
			sys_set_sp(c, ss.db ? 0xffffffff : 0xffff, v[3]);
	} else {
		sys_set_sp(c, sp_mask, sp + 3u * o->opsize);
	}
	if (outer)
		sys_seg_drop_inner(c, cpl);
	returned(c, v[0]);
}

static void iret_task(struct vcpu *c, const struct cpu_op *o)
{
	const struct cpu_seg *tr = &c->seg[SEG_TR];
	uint16_t link;

	if (!cpu_sys_read(c, sys_linear(c, tr->base), 2, &link))
		return;
	if (sys_task_switch(c, link, TASK_IRET, cpu_op_next_rip(c, o), NULL, 0))
		c->ev.nmi.masked = false;
}

void sys_iret(struct vcpu *c, const struct cpu_op *o)
{
	sys_begin(c, o);
	if (!(c->acc.cr0 & CR0_PE)) {
		iret_real(c, o, IRET_REAL_MASK);
	} else if (c->v86) {
		iret_v86(c, o);
	} else if (unlikely(c->eflags & FLAG_NT)) {
		if (sys_long(c))
			cpu_fault(c, VEC_GP, 0);
		else
			iret_task(c, o);
	} else {
		iret_protected(c, o);
	}
	/* An IRET that faults has unblocked NMIs all the same. */
	if (unlikely(c->stop && c->ev.exception.pending && c->ev.nmi.masked)) {
		c->ev.nmi.masked = false;
		if (c->ev.nmi.pending)
			acc_attend(&c->acc, ACC_ATT_EVENT);
	}
	if (likely(!c->stop && !cpu_flags_stop(c)))
		CPU_CHAIN_RIP(c);
}
