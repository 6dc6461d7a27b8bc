/* SPDX-License-Identifier: MIT */
/*
 * Fast system calls: SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS, and the FS/GS base instructions. Vendors differ: AMD has SYSCALL
 * in legacy and compatibility mode and no SYSENTER in long mode; Intel checks SYSRET's target where AMD lets the fetch fault.
 * Source: Intel SDM vol. 2, AMD APM vol. 3, the pages of these instructions.
 */
#include "cpu/align.h"
#include "cpu/sys/sys_private.h"

static void load_flat(struct vcpu *c, uint16_t cs, uint16_t ss, unsigned cpl, bool l)
{
	sys_seg_flat(&c->seg[SEG_CS], (uint16_t)((cs & ~3u) | cpl), true, cpl, l);
	sys_seg_flat(&c->seg[SEG_SS], (uint16_t)((ss & ~3u) | cpl), false, cpl, false);
}

/* ---- SYSCALL, SYSRET --------------------------------------------------------------------------------------------------------- */

void sys_syscall(struct vcpu *c, const struct cpu_op *o)
{
	uint16_t cs = (uint16_t)(c->msr.star >> 32 & 0xfffc);
	uint32_t flags = cpu_eflags(c);

	if (!(c->acc.efer & EFER_SCE) || (!sys_mode64(c) && !cpu_is_amd(c))) {
		cpu_raise(c, o, VEC_UD);
		return;
	}
	if (sys_long(c)) {
		c->gpr[RCX] = cpu_op_next_rip(c, o);
		c->gpr[R11] = flags & ~FLAG_RF;
		c->rip = sys_mode64(c) ? c->msr.lstar : c->msr.cstar;
		load_flat(c, cs, (uint16_t)(cs + 8), 0, true);
		cpu_set_eflags(c, flags & ~((uint32_t)c->msr.sfmask | FLAG_RF));
	} else {
		if (!c->protected_mode) {
			cpu_raise(c, o, VEC_UD);
			return;
		}
		c->gpr[RCX] = (uint32_t)cpu_op_next_rip(c, o);
		c->rip = (uint32_t)c->msr.star;
		load_flat(c, cs, (uint16_t)(cs + 8), 0, false);
		cpu_set_eflags(c, flags & ~(FLAG_VM | FLAG_IF | FLAG_RF));
	}
	/* A single step is due by the TF that SFMASK left. */
	if (!(c->eflags & FLAG_TF))
		sys_debug_no_step(c);
	cpu_state_changed(c);
	if (likely(!(c->eflags & FLAG_TF)))
		CPU_CHAIN_RIP(c);
}

#define SYSRET_FLAGS	0x3c7fd7u

void sys_sysret(struct vcpu *c, const struct cpu_op *o)
{
	uint16_t base = (uint16_t)(c->msr.star >> 48);
	bool to64 = o->opsize == 8;

	if (!(c->acc.efer & EFER_SCE) || (!sys_mode64(c) && !cpu_is_amd(c))) {
		cpu_raise(c, o, VEC_UD);
		return;
	}
	if (!sys_need_cpl0(c, o))
		return;
	if (to64 && !cpu_canonical(c, c->gpr[RCX]) && !cpu_is_amd(c)) {
		cpu_raise_error(c, o, VEC_GP, 0);
		return;
	}
	c->rip = to64 ? c->gpr[RCX] : (uint32_t)c->gpr[RCX];
	if (sys_long(c))
		cpu_set_eflags(c, (uint32_t)c->gpr[R11] & SYSRET_FLAGS);
	else
		c->eflags |= FLAG_IF;
	load_flat(c, (uint16_t)(to64 ? base + 16 : base), (uint16_t)(base + 8), 3, to64);
	cpu_state_changed(c);
	sys_if_opened(c);
	/* Unlike IRET and POPF, SYSRET traps at once when it brings TF. */
	if (unlikely(c->eflags & FLAG_TF)) {
		sys_debug_step_due(c);
		return;
	}
	if (likely(!cpu_flags_stop(c)))
		CPU_CHAIN_RIP(c);
}

/* ---- SYSENTER, SYSEXIT --------------------------------------------------------------------------------------------------------- */

static bool sysenter_exists(struct vcpu *c, const struct cpu_op *o)
{
	if (!sys_long(c) || !cpu_is_amd(c))
		return true;
	cpu_raise(c, o, VEC_UD);
	return false;
}

void sys_sysenter(struct vcpu *c, const struct cpu_op *o)
{
	uint16_t cs = (uint16_t)c->msr.sysenter_cs;
	bool l = sys_long(c);

	if (!sysenter_exists(c, o))
		return;
	if (!(c->acc.cr0 & CR0_PE) || sel_is_null(cs)) {
		cpu_raise_error(c, o, VEC_GP, 0);
		return;
	}
	c->eflags &= ~(FLAG_VM | FLAG_IF | FLAG_RF);
	c->gpr[RSP] = l ? c->msr.sysenter_esp : (uint32_t)c->msr.sysenter_esp;
	c->rip = l ? c->msr.sysenter_eip : (uint32_t)c->msr.sysenter_eip;
	load_flat(c, cs, (uint16_t)((cs & ~3u) + 8), 0, l);
	cpu_state_changed(c);
}

void sys_sysexit(struct vcpu *c, const struct cpu_op *o)
{
	uint16_t base = (uint16_t)(c->msr.sysenter_cs & ~3ull);
	bool to64 = o->opsize == 8;

	if (!sysenter_exists(c, o))
		return;
	if (!c->protected_mode || sel_is_null((uint16_t)c->msr.sysenter_cs)) {
		cpu_raise_error(c, o, VEC_GP, 0);
		return;
	}
	if (!sys_need_cpl0(c, o))
		return;
	if (to64 && (!cpu_canonical(c, c->gpr[RCX]) || !cpu_canonical(c, c->gpr[RDX]))) {
		cpu_raise_error(c, o, VEC_GP, 0);
		return;
	}
	c->rip = to64 ? c->gpr[RDX] : (uint32_t)c->gpr[RDX];
	c->gpr[RSP] = to64 ? c->gpr[RCX] : (uint32_t)c->gpr[RCX];
	load_flat(c, (uint16_t)(base + (to64 ? 32 : 16)), (uint16_t)(base + (to64 ? 40 : 24)), 3, to64);
	cpu_state_changed(c);
}

/* ---- FS and GS bases ------------------------------------------------------------------------------------------------------------ */

static void set_base(struct vcpu *c, unsigned seg, uint64_t base)
{
	c->seg[seg].base = base;
	c->seg_base[seg] = base;
}

void sys_swapgs(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t base = c->seg[SEG_GS].base;

	if (!sys_need_cpl0(c, o))
		return;
	set_base(c, SEG_GS, c->msr.kernel_gs_base);
	c->msr.kernel_gs_base = base;
	CPU_NEXT(c, o);
}

static bool fsgsbase_on(struct vcpu *c, const struct cpu_op *o)
{
	if (likely(c->acc.cr4 & CR4_FSGSBASE))
		return true;
	cpu_raise(c, o, VEC_UD);
	return false;
}

static bool read_base(struct vcpu *c, const struct cpu_op *o, unsigned seg)
{
	if (!fsgsbase_on(c, o))
		return false;
	sys_set_reg(c, o->insn->rm, o->opsize, c->seg[seg].base);
	return true;
}

static bool write_base(struct vcpu *c, const struct cpu_op *o, unsigned seg)
{
	uint64_t v = sys_truncate(c->gpr[o->insn->rm], o->opsize);

	if (!fsgsbase_on(c, o))
		return false;
	if (!sys_canonical_base(c, v)) {
		cpu_raise_error(c, o, VEC_GP, 0);
		return false;
	}
	set_base(c, seg, v);
	return true;
}

void sys_rdfsbase(struct vcpu *c, const struct cpu_op *o)
{
	if (read_base(c, o, SEG_FS))
		CPU_NEXT(c, o);
}

void sys_rdgsbase(struct vcpu *c, const struct cpu_op *o)
{
	if (read_base(c, o, SEG_GS))
		CPU_NEXT(c, o);
}

void sys_wrfsbase(struct vcpu *c, const struct cpu_op *o)
{
	if (write_base(c, o, SEG_FS))
		CPU_NEXT(c, o);
}

void sys_wrgsbase(struct vcpu *c, const struct cpu_op *o)
{
	if (write_base(c, o, SEG_GS))
		CPU_NEXT(c, o);
}
