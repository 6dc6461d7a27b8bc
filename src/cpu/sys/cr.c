/* SPDX-License-Identifier: MIT */
/*
 * Control registers: which values and transitions are legal, and what a change entails. Also EFER's activation, XCR0, INVLPG and
 * INVPCID. Source: Intel SDM vol. 3 "Control Registers", "Initializing IA-32e Mode"; vol. 2 "MOV - Move to/from Control Registers".
 */
#include "cpu/host/fpu.h"
#include "cpu/sys/sys_private.h"

#define CR0_KNOWN (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)

bool cpu_canonical(const struct vcpu *c, uint64_t a)
{
	int64_t top = (int64_t)a >> (c->acc.cr4 & CR4_LA57 ? 56 : 47);

	return top == 0 || top == -1;
}

bool sys_canonical_base(const struct vcpu *c, uint64_t a)
{
	int64_t top = (int64_t)a >> (c->cr4_allowed & CR4_LA57 ? 56 : 47);

	return top == 0 || top == -1;
}

/* ---- validity of values ----------------------------------------------------------------------------------------------------- */

bool cpu_cr0_valid(uint64_t v)
{
	if (v >> 32)
		return false;
	return !(v & CR0_NW && !(v & CR0_CD)) && !(v & CR0_PG && !(v & CR0_PE));
}

bool cpu_cr3_valid(const struct vcpu *c, uint64_t v)
{
	return !(v & ~(BIT64(c->acc.maxphyaddr) - 1));
}

bool cpu_cr4_valid(const struct vcpu *c, uint64_t v)
{
	return !(v & ~c->cr4_allowed);
}

bool cpu_efer_valid(const struct vcpu *c, uint64_t v)
{
	return !(v & ~(sys_efer_allowed(c) | EFER_LMA));
}

/* ---- changes ------------------------------------------------------------------------------------------------------------------ */

static bool uses_pdptrs(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	return cr0 & CR0_PG && cr4 & CR4_PAE && !(efer & EFER_LMA);
}

/* PAE paging keeps its four top entries in the processor. They are loaded under the paging state that is to come. */
static bool load_pdptrs(struct vcpu *c, uint64_t cr3)
{
	uint64_t pdptr[4];

	if (!acc_load_pdptrs(&c->acc, cr3, pdptr))
		return cpu_fault(c, VEC_GP, 0);
	for (unsigned i = 0; i < 4; i++)
		c->acc.pdptr[i] = pdptr[i];
	return true;
}

static void paging_changed(struct vcpu *c, uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	uint64_t old_cr0 = c->acc.cr0, old_cr4 = c->acc.cr4, old_efer = c->acc.efer;

	c->acc.cr0 = cr0;
	c->acc.cr4 = cr4;
	c->acc.efer = efer;
	acc_paging_changed(&c->acc, old_cr0, old_cr4, old_efer);
	cpu_state_changed(c);
	cpu_ring_put(&c->ring, RING_CR, c->stats.insns, c->rip, cr0, cr4);
}

void sys_set_efer(struct vcpu *c, uint64_t v)
{
	paging_changed(c, c->acc.cr0, c->acc.cr4, v);
}

static bool set_cr0(struct vcpu *c, uint64_t v)
{
	uint64_t old = c->acc.cr0, efer = c->acc.efer;
	enum cpu_ext_answer a = sys_ext(c, CPU_EXT_CR, 0, v);

	if (unlikely(a != CPU_EXT_ALLOW))
		return a == CPU_EXT_DISCARD;
	if (!cpu_cr0_valid(v))
		return cpu_fault(c, VEC_GP, 0);
	v = (v & CR0_KNOWN) | CR0_ET;
	if (v & CR0_PG && !(old & CR0_PG)) {
		if (efer & EFER_LME) {
			if (!(c->acc.cr4 & CR4_PAE) || c->seg[SEG_CS].l)
				return cpu_fault(c, VEC_GP, 0);
			efer |= EFER_LMA;
		}
	} else if (!(v & CR0_PG) && old & CR0_PG) {
		if (sys_mode64(c) || c->acc.cr4 & CR4_PCIDE)
			return cpu_fault(c, VEC_GP, 0);
		efer &= ~EFER_LMA;
	}
	if (uses_pdptrs(v, c->acc.cr4, efer) && (v ^ old) & (CR0_PG | CR0_CD | CR0_NW) && !load_pdptrs(c, c->acc.cr3))
		return false;
	if (v == old)
		return true;
	if (!((v ^ old) & ~(CR0_TS | CR0_MP | CR0_EM | CR0_NE))) {
		c->acc.cr0 = v;		/* nothing that addresses depend on */
		cpu_fpu_gates(c);
		return true;
	}
	paging_changed(c, v, c->acc.cr4, efer);
	return true;
}

static bool set_cr3(struct vcpu *c, uint64_t v)
{
	bool keep = false;

	if (c->acc.cr4 & CR4_PCIDE) {
		keep = v & CR3_NOFLUSH;
		v &= ~CR3_NOFLUSH;
	}
	if (sys_long(c) && !cpu_cr3_valid(c, v))
		return cpu_fault(c, VEC_GP, 0);
	if (unlikely(atomic_load_explicit(&c->ext_wants, memory_order_relaxed) & CPU_EXT_WANTS_CR3)) {
		enum cpu_ext_answer a = sys_ext(c, CPU_EXT_CR3, 3, v);

		if (a != CPU_EXT_ALLOW)
			return a == CPU_EXT_DISCARD;
	}
	if (uses_pdptrs(c->acc.cr0, c->acc.cr4, c->acc.efer) && !load_pdptrs(c, v))
		return false;
	c->acc.cr3 = v;
	acc_flush_cr3(&c->acc, keep);
	return true;
}

static bool set_cr4(struct vcpu *c, uint64_t v)
{
	uint64_t old = c->acc.cr4;
	enum cpu_ext_answer a = sys_ext(c, CPU_EXT_CR, 4, v);

	if (unlikely(a != CPU_EXT_ALLOW))
		return a == CPU_EXT_DISCARD;
	if (!cpu_cr4_valid(c, v))
		return cpu_fault(c, VEC_GP, 0);
	if (sys_long(c)) {
		if (!(v & CR4_PAE) || (v ^ old) & CR4_LA57)
			return cpu_fault(c, VEC_GP, 0);
	}
	if (v & CR4_PCIDE && !(old & CR4_PCIDE) && (!sys_long(c) || c->acc.cr3 & CR3_PCID_MASK))
		return cpu_fault(c, VEC_GP, 0);
	if (uses_pdptrs(c->acc.cr0, v, c->acc.efer) && (v ^ old) & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) {
		/* Judged with the new bits; put back if it fails. */
		c->acc.cr4 = v;
		if (!load_pdptrs(c, c->acc.cr3)) {
			c->acc.cr4 = old;
			return false;
		}
		c->acc.cr4 = old;
	}
	if (v != old)
		paging_changed(c, c->acc.cr0, v, c->acc.efer);
	return true;
}

static bool set_cr8(struct vcpu *c, uint64_t v)
{
	if (v > 15)
		return cpu_fault(c, VEC_GP, 0);
	c->env->set_cr8(c, (uint8_t)v);
	return true;
}

/* ---- instructions ---------------------------------------------------------------------------------------------------------------- */

static bool cr_exists(unsigned n)
{
	return n == 0 || n == 2 || n == 3 || n == 4 || n == 8;
}

void sys_mov_from_cr(struct vcpu *c, const struct cpu_op *o)
{
	unsigned n = o->insn->reg;
	uint64_t v;

	if (!cr_exists(n)) {
		cpu_raise(c, o, VEC_UD);
		return;
	}
	if (!sys_need_cpl0(c, o))
		return;
	switch (n) {
	case 0: v = c->acc.cr0; break;
	case 2: v = c->acc.cr2; break;
	case 3: v = c->acc.cr3; break;
	case 4: v = c->acc.cr4; break;
	default: v = c->env->get_cr8(c);
	}
	sys_set_reg(c, o->insn->rm, o->opsize, v);
	CPU_NEXT(c, o);
}

void sys_mov_to_cr(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t v = sys_truncate(c->gpr[o->insn->rm], o->opsize);
	unsigned n = o->insn->reg;
	bool ok = true;

	if (!cr_exists(n)) {
		cpu_raise(c, o, VEC_UD);
		return;
	}
	if (!sys_need_cpl0(c, o))
		return;
	sys_begin(c, o);
	switch (n) {
	case 0: ok = set_cr0(c, v); break;
	case 2: c->acc.cr2 = v; break;
	case 3: ok = set_cr3(c, v); break;
	case 4: ok = set_cr4(c, v); break;
	default: ok = set_cr8(c, v);
	}
	if (ok)
		c->rip = cpu_op_next_rip(c, o);
}

void sys_clts(struct vcpu *c, const struct cpu_op *o)
{
	enum cpu_ext_answer a;

	if (!sys_need_cpl0(c, o))
		return;
	sys_begin(c, o);
	a = sys_ext(c, CPU_EXT_CR, 0, c->acc.cr0 & ~CR0_TS);
	if (unlikely(a == CPU_EXT_FAULT || a == CPU_EXT_LEAVE))
		return;
	if (likely(a == CPU_EXT_ALLOW)) {
		c->acc.cr0 &= ~CR0_TS;
		cpu_fpu_gates(c);
	}
	CPU_NEXT(c, o);
}

/* The memory form stores two bytes; the register form as much of CR0 as fits. */
void sys_smsw(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t la;

	if (c->acc.cr4 & CR4_UMIP && c->acc.cpl) {
		cpu_raise_error(c, o, VEC_GP, 0);
		return;
	}
	if (!o->insn->has_mem)
		sys_set_reg(c, o->insn->rm, o->opsize, c->acc.cr0);
	else if (!cpu_la(c, o, 2, ACC_W, &la) || !cpu_st16(c, o, la, (uint16_t)c->acc.cr0))
		return;
	CPU_NEXT(c, o);
}

/* LMSW changes PE, MP, EM and TS, and cannot clear PE. */
void sys_lmsw(struct vcpu *c, const struct cpu_op *o)
{
	uint16_t v = (uint16_t)c->gpr[o->insn->rm];
	uint64_t la;

	if (!sys_need_cpl0(c, o))
		return;
	if (o->insn->has_mem && (!cpu_la(c, o, 2, ACC_R, &la) || !cpu_ld16(c, o, la, &v)))
		return;
	sys_begin(c, o);
	if (set_cr0(c, (c->acc.cr0 & ~(CR0_MP | CR0_EM | CR0_TS)) | (v & 15)))
		c->rip = cpu_op_next_rip(c, o);
}

/* INVLPG of a non-canonical address does nothing, and segment limits do not count. */
void sys_invlpg(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t la = cpu_ea(c, o) + c->seg_base[o->seg];

	if (!sys_need_cpl0(c, o))
		return;
	if (!sys_mode64(c))
		la = (uint32_t)la;
	if (cpu_canonical(c, la))
		acc_flush_page(&c->acc, GVA(la));
	CPU_NEXT(c, o);
}

void sys_invpcid(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t type = sys_truncate(c->gpr[o->insn->reg], o->opsize), desc[2], la;
	struct cpu_ref r;
	bool bad;

	if (!sys_need_cpl0(c, o))
		return;
	if (!cpu_la(c, o, 16, ACC_R, &la) || !cpu_ref_get(c, o, la, 16, ACC_R, &r) || !cpu_ref_load(c, o, &r, desc))
		return;
	bad = type > 3 || desc[0] >> 12;
	if (type <= 1 && desc[0] && !(c->acc.cr4 & CR4_PCIDE))
		bad = true;
	if (type == 0 && !sys_canonical_base(c, desc[1]))
		bad = true;
	if (bad) {
		cpu_raise_error(c, o, VEC_GP, 0);
		return;
	}
	acc_flush_pcid(&c->acc, (unsigned)type, (uint16_t)desc[0], GVA(desc[1]));
	CPU_NEXT(c, o);
}

/* ---- XCR0 ---------------------------------------------------------------------------------------------------------------------------- */

static bool osxsave_on(struct vcpu *c, const struct cpu_op *o)
{
	if (likely(c->acc.cr4 & CR4_OSXSAVE))
		return true;
	cpu_raise(c, o, VEC_UD);
	return false;
}

void sys_xgetbv(struct vcpu *c, const struct cpu_op *o)
{
	uint32_t n = (uint32_t)c->gpr[RCX];
	uint64_t v = c->fpu.xcr0;

	if (!osxsave_on(c, o))
		return;
	/* XINUSE (1) may name a component that happens to be in its initial state: all enabled ones are taken as in use. */
	if (n != 0 && !(n == 1 && c->features[ISA_XGETBV1])) {
		cpu_raise_error(c, o, VEC_GP, 0);
		return;
	}
	c->gpr[RAX] = (uint32_t)v;
	c->gpr[RDX] = v >> 32;
	CPU_NEXT(c, o);
}

void sys_xsetbv(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t v = (uint32_t)c->gpr[RAX] | c->gpr[RDX] << 32;

	if (!osxsave_on(c, o) || !sys_need_cpl0(c, o))
		return;
	if ((uint32_t)c->gpr[RCX] != 0 || !cpu_xcr0_valid(c, v)) {
		cpu_raise_error(c, o, VEC_GP, 0);
		return;
	}
	if (unlikely(atomic_load_explicit(&c->ext_wants, memory_order_relaxed) & CPU_EXT_WANTS_XCR0)) {
		enum cpu_ext_answer a;

		sys_begin(c, o);
		a = sys_ext(c, CPU_EXT_XCR0, 0, v);
		if (a == CPU_EXT_DISCARD)
			CPU_NEXT(c, o);
		if (a != CPU_EXT_ALLOW)
			return;
	}
	c->fpu.xcr0 = v;
	cpu_fpu_gates(c);
	CPU_NEXT(c, o);
}
