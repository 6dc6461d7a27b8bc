/* SPDX-License-Identifier: MIT */
/*
 * CLI, STI, PUSHF, POPF, CLAC, STAC: flags that have guards. Who may change what depends on CPL, IOPL and, in virtual-8086 mode
 * and at CPL 3, on CR4.VME and CR4.PVI. Source: Intel SDM vol. 2, the tables of CLI, STI and POPF.
 */
#include "cpu/align.h"
#include "cpu/sys/sys_private.h"

/* Does CLI/STI at this level act on VIF instead of IF? */
static bool acts_on_vif(const struct vcpu *c)
{
	return c->v86 ? c->acc.cr4 & CR4_VME : c->acc.cpl == 3 && c->acc.cr4 & CR4_PVI;
}

static bool may_set_if(const struct vcpu *c)
{
	return c->acc.cpl <= sys_iopl(c);
}

void sys_cli(struct vcpu *c, const struct cpu_op *o)
{
	if (likely(may_set_if(c))) {
		c->eflags &= ~FLAG_IF;
	} else if (acts_on_vif(c)) {
		c->eflags &= ~FLAG_VIF;
	} else {
		cpu_raise_error(c, o, VEC_GP, 0);
		return;
	}
	CPU_NEXT(c, o);
}

void sys_sti(struct vcpu *c, const struct cpu_op *o)
{
	if (likely(may_set_if(c))) {
		if (!(c->eflags & FLAG_IF)) {
			c->shadow = CPU_SHADOW_STI;
			c->eflags |= FLAG_IF;
			sys_if_opened(c);
		}
	} else if (acts_on_vif(c) && !(c->eflags & FLAG_VIP)) {
		c->eflags |= FLAG_VIF;
	} else {
		cpu_raise_error(c, o, VEC_GP, 0);
		return;
	}
	CPU_NEXT(c, o);
}

static bool push(struct vcpu *c, const struct cpu_op *o, uint64_t v)
{
	struct sys_frame f;
	struct sys_stack s;

	if (likely(sys_mode64(c) && o->opsize == 8)) {
		if (unlikely(!cpu_canonical(c, c->gpr[RSP] - 8))) {
			cpu_raise_error(c, o, VEC_SS, 0);
			return false;
		}
		if (!cpu_st64(c, o, c->gpr[RSP] - 8, v))
			return false;
		c->gpr[RSP] -= 8;
		return true;
	}
	sys_begin(c, o);
	sys_stack_current(c, &s);
	if (!sys_frame_judge(c, &s, &v, 1, o->opsize, &f))
		return false;
	sys_frame_commit(c, &f);
	sys_set_sp(c, s.mask, f.sp);
	return true;
}

void sys_pushf(struct vcpu *c, const struct cpu_op *o)
{
	uint32_t v = cpu_eflags(c) & ~(FLAG_VM | FLAG_RF);

	if (unlikely(c->v86) && sys_iopl(c) < 3) {
		if (!(c->acc.cr4 & CR4_VME) || o->opsize != 2) {
			cpu_raise_error(c, o, VEC_GP, 0);
			return;
		}
		v = (v & ~FLAG_IF) | FLAG_IOPL | (v & FLAG_VIF ? FLAG_IF : 0);
	}
	if (push(c, o, v))
		CPU_NEXT(c, o);
}

#define POPF_ALWAYS	(FLAGS_ARITH | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_AC | FLAG_ID)

/* Virtual-8086 mode with IOPL < 3 and VME: IF goes to VIF; a pending virtual interrupt or TF is for the monitor. */
static bool popf_vme(struct vcpu *c, uint32_t v)
{
	uint32_t mask = (FLAGS_ARITH | FLAG_DF | FLAG_NT | FLAG_TF) & 0xffff, old = cpu_eflags(c);

	if ((v & FLAG_IF && old & FLAG_VIP) || v & FLAG_TF)
		return cpu_fault(c, VEC_GP, 0);
	old = (old & ~(mask | FLAG_VIF)) | (v & mask) | (v & FLAG_IF ? FLAG_VIF : 0);
	cpu_set_eflags(c, old);
	return true;
}

void sys_popf(struct vcpu *c, const struct cpu_op *o)
{
	uint32_t mask = POPF_ALWAYS, old = cpu_eflags(c);
	uint64_t v, sp = c->gpr[RSP], sp_mask = sys_stack_mask(c);
	bool ac;

	sys_begin(c, o);
	if (unlikely(c->v86) && sys_iopl(c) < 3 && (!(c->acc.cr4 & CR4_VME) || o->opsize != 2)) {
		cpu_fault(c, VEC_GP, 0);
		return;
	}
	if (!sys_stack_read(c, o, 0, o->opsize, 1, &v))
		return;
	if (unlikely(c->v86) && sys_iopl(c) < 3) {
		if (popf_vme(c, (uint32_t)v)) {
			sys_set_sp(c, sp_mask, sp + o->opsize);
			CPU_NEXT(c, o);
		}
		return;
	}
	if (may_set_if(c))
		mask |= FLAG_IF;
	if (c->acc.cpl == 0)
		mask |= FLAG_IOPL;
	if (o->opsize == 2)
		mask &= 0xffff;
	else
		old &= ~FLAG_RF;
	cpu_set_eflags(c, (old & ~mask) | ((uint32_t)v & mask));
	sys_set_sp(c, sp_mask, sp + o->opsize);
	ac = c->eflags & FLAG_AC;
	if (unlikely(ac != c->acc.ac)) {
		c->acc.ac = ac;
		acc_mode_changed(&c->acc);
	}
	sys_if_opened(c);
	c->rip = cpu_op_next_rip(c, o);
	/* The dispatcher must see TF and AC; else the common case goes on without it. */
	if (unlikely(cpu_flags_stop(c)))
		return;
	CPU_CHAIN_RIP(c);
}

static bool smap_flag_allowed(struct vcpu *c, const struct cpu_op *o)
{
	if (likely(c->acc.cpl == 0))
		return true;
	cpu_raise(c, o, VEC_UD);
	return false;
}

static bool set_ac(struct vcpu *c, const struct cpu_op *o, bool ac)
{
	if (!smap_flag_allowed(c, o))
		return false;
	c->eflags = ac ? c->eflags | FLAG_AC : c->eflags & ~FLAG_AC;
	c->acc.ac = ac;
	acc_mode_changed(&c->acc);
	return true;
}

void sys_clac(struct vcpu *c, const struct cpu_op *o)
{
	if (set_ac(c, o, false))
		CPU_NEXT(c, o);
}

void sys_stac(struct vcpu *c, const struct cpu_op *o)
{
	if (set_ac(c, o, true))
		CPU_NEXT(c, o);
}
