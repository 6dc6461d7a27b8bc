/* SPDX-License-Identifier: MIT */
/*
 * System management mode: entry by an SMI, and RSM. SDM vol. 3 "System Management Mode"; AMD APM vol. 2 "System-Management Mode"
 * for the two layouts of the state-save area: the 64-bit one when CPUID has long mode, else the 32-bit one, as KVM chooses.
 *
 * In SMM the processor sees another set of memory slots (access/, acc_set_space()). Everything that can be refused is refused
 * before anything changes; a state that RSM cannot load, or a save area that is no memory, is a shutdown.
 *
 * As in KVM: no I/O restart, no automatic HLT restart (the guest goes on behind its HLT).
 */
#include <string.h>

#include "cpu/host/fpu.h"
#include "cpu/sys/sys_private.h"

#define SAVE_AT		0xfe00u		/* from SMBASE */
#define SAVE_FIRST	0x7e00u		/* what the manuals call its first byte */
#define SAVE_SIZE	512u
#define REVISION_64	0x00020064u
#define REVISION_32	0x00020000u
#define REVISION_BASE	0x00020000u	/* the bit that says: SMBASE may be changed */

struct area { uint8_t b[SAVE_SIZE]; };

static void put(struct area *a, unsigned at, unsigned size, uint64_t v) { memcpy(&a->b[at - SAVE_FIRST], &v, size); }

static uint64_t get(const struct area *a, unsigned at, unsigned size)
{
	uint64_t v = 0;

	memcpy(&v, &a->b[at - SAVE_FIRST], size);
	return v;
}

static bool has_long_mode(const struct vcpu *c)
{
	return sys_cpuid_bit(c, 0x80000001, 0, CPUID_EDX, 29);
}

/* The save area in the present space. False: it is not all plain memory that may be touched. */
static bool transfer(struct vcpu *c, struct area *a, unsigned rights)
{
	uint64_t gpa = (uint32_t)(c->msr.smbase + SAVE_AT);

	for (unsigned done = 0; done < SAVE_SIZE;) {
		unsigned n = GW_PAGE_SIZE - (unsigned)((gpa + done) & GW_PAGE_MASK);
		struct acc_request rq = { .cpu = &c->acc, .rights = (uint8_t)rights, .stage = ACC_FINAL, .origin = ACC_ENGINE, .by_gpa = true,
					  .gpa = GPA(gpa + done) };
		struct acc_result res = { 0 };

		n = n < SAVE_SIZE - done ? n : SAVE_SIZE - done;
		rq.len = (uint16_t)n;
		if (acc_check(&rq, &res) != ACC_ALLOW)
			return false;
		if (rights == ACC_R) {
			memcpy(a->b + done, res.hva, n);
		} else {
			memcpy(res.hva, a->b + done, n);
			acc_store_done(c->acc.vm, res.hva, n);
		}
		done += n;
	}
	return true;
}

/* ---- segments ---------------------------------------------------------------------------------------------------------- */

/* As the second word of a descriptor has them, without base and limit. */
static uint32_t attributes_of(const struct cpu_seg *s)
{
	return (uint32_t)s->g << 23 | (uint32_t)s->db << 22 | (uint32_t)s->l << 21 | (uint32_t)s->avl << 20 |
	       (uint32_t)(s->present && !s->unusable) << 15 | (uint32_t)s->dpl << 13 | (uint32_t)s->s << 12 | (uint32_t)s->type << 8;
}

static void fill_seg(struct cpu_seg *s, uint16_t sel, uint64_t base, uint32_t limit, uint32_t a)
{
	*s = (struct cpu_seg){
		.sel = sel, .base = base, .limit = limit, .g = a >> 23 & 1, .db = a >> 22 & 1, .l = a >> 21 & 1, .avl = a >> 20 & 1,
		.present = a >> 15 & 1, .dpl = a >> 13 & 3, .s = a >> 12 & 1, .type = a >> 8 & 15, .unusable = !(a >> 15 & 1),
	};
}

/* Where each register is: the 64-bit layout's sixteen bytes; the 32-bit layout's selector, and flags, limit and base. */
static const struct { uint8_t seg; uint16_t at64, sel32, at32; } places[] = {
	{ SEG_ES, 0x7e00, 0x7fa8, 0x7f84 }, { SEG_CS, 0x7e10, 0x7fac, 0x7f90 }, { SEG_SS, 0x7e20, 0x7fb0, 0x7f9c },
	{ SEG_DS, 0x7e30, 0x7fb4, 0x7f2c }, { SEG_FS, 0x7e40, 0x7fb8, 0x7f38 }, { SEG_GS, 0x7e50, 0x7fbc, 0x7f44 },
	{ SEG_LDTR, 0x7e70, 0x7fc0, 0x7f78 }, { SEG_TR, 0x7e90, 0x7fc4, 0x7f5c },
};

/* ---- the 64-bit layout --------------------------------------------------------------------------------------------------- */

static void put_table(struct area *a, unsigned at, const struct cpu_table *t)
{
	put(a, at + 4, 4, t->limit);
	put(a, at + 8, 8, t->base);
}

static struct cpu_table get_table(const struct area *a, unsigned at)
{
	return (struct cpu_table){ .limit = (uint16_t)get(a, at + 4, 4), .base = get(a, at + 8, 8) };
}

static void save64(const struct vcpu *c, struct area *a)
{
	for (unsigned i = 0; i < 16; i++)
		put(a, 0x7ff8 - i * 8, 8, c->gpr[i]);
	put(a, 0x7f78, 8, c->rip);
	put(a, 0x7f70, 8, cpu_eflags(c));
	put(a, 0x7f68, 8, c->dr6);
	put(a, 0x7f60, 8, c->dr7);
	put(a, 0x7f58, 8, c->acc.cr0);
	put(a, 0x7f50, 8, c->acc.cr3);
	put(a, 0x7f48, 8, c->acc.cr4);
	put(a, 0x7f00, 4, c->msr.smbase);
	put(a, 0x7efc, 4, REVISION_64);
	put(a, 0x7ed0, 8, c->acc.efer);
	put(a, 0x7ecb, 1, (c->shadow & CPU_SHADOW_MOVSS ? 1 : 0) | (c->shadow & CPU_SHADOW_STI ? 2 : 0));
	put_table(a, 0x7e80, &c->idtr);
	put_table(a, 0x7e60, &c->gdtr);
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		const struct cpu_seg *s = &c->seg[places[i].seg];

		put(a, places[i].at64, 2, s->sel);
		put(a, places[i].at64 + 2, 2, attributes_of(s) >> 8);
		put(a, places[i].at64 + 4, 4, s->limit);
		put(a, places[i].at64 + 8, 8, s->base);
	}
}

/* What RSM will make of the processor, judged before it is committed. */
struct state {
	uint64_t gpr[16], rip, eflags, dr6, dr7, cr0, cr3, cr4, efer;
	struct cpu_table gdtr, idtr;
	struct cpu_seg seg[N_SEGS];
	uint32_t revision, smbase;
	uint8_t shadow;
};

static void load64(const struct area *a, struct state *s)
{
	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = get(a, 0x7ff8 - i * 8, 8);
	s->rip = get(a, 0x7f78, 8);
	s->eflags = get(a, 0x7f70, 4);
	s->dr6 = get(a, 0x7f68, 4);
	s->dr7 = get(a, 0x7f60, 4);
	s->cr0 = get(a, 0x7f58, 8);
	s->cr3 = get(a, 0x7f50, 8);
	s->cr4 = get(a, 0x7f48, 8);
	s->efer = get(a, 0x7ed0, 8) & ~EFER_LMA;
	s->smbase = (uint32_t)get(a, 0x7f00, 4);
	s->revision = (uint32_t)get(a, 0x7efc, 4);
	s->shadow = (uint8_t)get(a, 0x7ecb, 1);
	s->idtr = get_table(a, 0x7e80);
	s->gdtr = get_table(a, 0x7e60);
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		unsigned at = places[i].at64;

		fill_seg(&s->seg[places[i].seg], (uint16_t)get(a, at, 2), get(a, at + 8, 8), (uint32_t)get(a, at + 4, 4),
			 (uint32_t)get(a, at + 2, 2) << 8);
	}
}

/* ---- the 32-bit layout --------------------------------------------------------------------------------------------------- */

static void save32(const struct vcpu *c, struct area *a)
{
	for (unsigned i = 0; i < 8; i++)
		put(a, 0x7fd0 + i * 4, 4, c->gpr[i]);
	put(a, 0x7ffc, 4, c->acc.cr0);
	put(a, 0x7ff8, 4, c->acc.cr3);
	put(a, 0x7ff4, 4, cpu_eflags(c));
	put(a, 0x7ff0, 4, c->rip);
	put(a, 0x7fcc, 4, c->dr6);
	put(a, 0x7fc8, 4, c->dr7);
	put(a, 0x7f74, 4, c->gdtr.base);
	put(a, 0x7f70, 4, c->gdtr.limit);
	put(a, 0x7f58, 4, c->idtr.base);
	put(a, 0x7f54, 4, c->idtr.limit);
	put(a, 0x7f14, 4, c->acc.cr4);
	put(a, 0x7f18, 1, (c->shadow & CPU_SHADOW_MOVSS ? 1 : 0) | (c->shadow & CPU_SHADOW_STI ? 2 : 0));
	put(a, 0x7efc, 4, REVISION_32);
	put(a, 0x7ef8, 4, c->msr.smbase);
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		const struct cpu_seg *s = &c->seg[places[i].seg];

		put(a, places[i].sel32, 4, s->sel);
		put(a, places[i].at32, 4, attributes_of(s));
		put(a, places[i].at32 + 4, 4, s->limit);
		put(a, places[i].at32 + 8, 4, s->base);
	}
}

static void load32(const struct area *a, struct state *s)
{
	for (unsigned i = 0; i < 8; i++)
		s->gpr[i] = get(a, 0x7fd0 + i * 4, 4);
	s->cr0 = get(a, 0x7ffc, 4);
	s->cr3 = get(a, 0x7ff8, 4);
	s->eflags = get(a, 0x7ff4, 4);
	s->rip = get(a, 0x7ff0, 4);
	s->dr6 = get(a, 0x7fcc, 4);
	s->dr7 = get(a, 0x7fc8, 4);
	s->gdtr = (struct cpu_table){ .base = get(a, 0x7f74, 4), .limit = (uint16_t)get(a, 0x7f70, 4) };
	s->idtr = (struct cpu_table){ .base = get(a, 0x7f58, 4), .limit = (uint16_t)get(a, 0x7f54, 4) };
	s->cr4 = get(a, 0x7f14, 4);
	s->shadow = (uint8_t)get(a, 0x7f18, 1);
	s->revision = (uint32_t)get(a, 0x7efc, 4);
	s->smbase = (uint32_t)get(a, 0x7ef8, 4);
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		unsigned at = places[i].at32;

		fill_seg(&s->seg[places[i].seg], (uint16_t)get(a, places[i].sel32, 2), get(a, at + 8, 4), (uint32_t)get(a, at + 4, 4),
			 (uint32_t)get(a, at, 4));
	}
}

/* ---- in and out ------------------------------------------------------------------------------------------------------------ */

static void paging_changed(struct vcpu *c, uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	acc_paging_changed(&c->acc, cr0, cr4, efer);
	acc_flush_all(&c->acc);
	cpu_state_changed(c);
	cpu_fpu_gates(c);
}

void cpu_smm_set(struct vcpu *c, bool in_smm)
{
	c->ev.in_smm = in_smm;
	if (!in_smm)
		c->ev.smm_inside_nmi = false;
	acc_set_space(&c->acc, in_smm);
}

static void shut_down(struct vcpu *c)
{
	c->ev.triple_fault = true;
	c->stop = true;
}

void cpu_smi(struct vcpu *c)
{
	uint64_t cr0 = c->acc.cr0, cr4 = c->acc.cr4, efer = c->acc.efer;
	struct area a = { { 0 } };

	for (unsigned i = 0; c->exts && i < c->exts->n; i++)
		if (c->exts->ext[i].ops->smi)
			c->exts->ext[i].ops->smi(c->exts->ext[i].state, &c->acc);
	if (has_long_mode(c))
		save64(c, &a);
	else
		save32(c, &a);
	acc_set_space(&c->acc, 1);
	if (!transfer(c, &a, ACC_W)) {
		acc_set_space(&c->acc, 0);
		c->ev.smi_pending = false;
		shut_down(c);
		return;
	}
	c->ev.smi_pending = false;
	c->msr.smi_count++;
	cpu_smm_set(c, true);
	/* NMIs are held off; RSM must know whether they were before. */
	c->ev.smm_inside_nmi = c->ev.nmi.masked;
	c->ev.nmi.masked = true;
	c->eflags = FLAG_FIXED;
	c->cc = cpu_cc_of_flags(0);
	c->rip = 0x8000;
	c->shadow = 0;
	c->halted = false;
	c->acc.cr0 &= ~(CR0_PE | CR0_EM | CR0_TS | CR0_PG);
	c->acc.cr4 = 0;
	c->acc.efer = 0;
	c->dr7 = 0x400;
	c->idtr = (struct cpu_table){ 0 };
	for (unsigned i = SEG_ES; i <= SEG_GS; i++)
		c->seg[i] = (struct cpu_seg){ .limit = 0xffffffff, .type = 3, .s = 1, .present = 1, .g = 1 };
	c->seg[SEG_CS].sel = (uint16_t)(c->msr.smbase >> 4);
	c->seg[SEG_CS].base = c->msr.smbase;
	paging_changed(c, cr0, cr4, efer);
}

static bool is_loadable(const struct vcpu *c, struct state *s)
{
	if (!cpu_cr0_valid(s->cr0) || !cpu_cr4_valid(c, s->cr4) || !cpu_efer_valid(c, s->efer))
		return false;
	if (s->efer & EFER_LME && s->cr0 & CR0_PG) {
		if (!(s->cr4 & CR4_PAE) || !cpu_cr3_valid(c, s->cr3 & ~CR3_NOFLUSH))
			return false;
		s->efer |= EFER_LMA;
	}
	return true;
}

#define EFLAGS_KNOWN (FLAGS_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM | FLAG_AC | FLAG_VIF | \
		      FLAG_VIP | FLAG_ID)

static bool commit(struct vcpu *c, const struct state *s)
{
	uint64_t cr0 = c->acc.cr0, cr4 = c->acc.cr4, efer = c->acc.efer;

	/* The handler's own copy of NMI blocking ends with it, unless it came in the middle of one. */
	if (!c->ev.smm_inside_nmi)
		c->ev.nmi.masked = false;
	cpu_smm_set(c, false);
	memcpy(c->gpr, s->gpr, sizeof(s->gpr));
	c->rip = s->rip;
	cpu_set_eflags(c, (uint32_t)s->eflags & EFLAGS_KNOWN);
	c->dr6 = (s->dr6 & ~0x1000ull) | 0xffff0ff0;
	c->dr7 = (s->dr7 & 0xffff2bff) | 0x400;
	c->acc.cr0 = s->cr0 | CR0_ET;
	c->acc.cr3 = s->cr3 & ~CR3_NOFLUSH;
	c->acc.cr4 = s->cr4;
	c->acc.efer = s->efer;
	c->gdtr = s->gdtr;
	c->idtr = s->idtr;
	memcpy(c->seg, s->seg, sizeof(c->seg));
	if (s->revision & REVISION_BASE)
		c->msr.smbase = s->smbase;
	c->shadow = (s->shadow & 1 ? CPU_SHADOW_MOVSS : 0) | (s->shadow & 2 ? CPU_SHADOW_STI : 0);
	paging_changed(c, cr0, cr4, efer);
	/* INIT, SMI and NMI that waited. */
	acc_attend(&c->acc, ACC_ATT_EVENT);
	if (!(s->cr0 & CR0_PG) || !(s->cr4 & CR4_PAE) || s->efer & EFER_LMA)
		return true;
	return acc_load_pdptrs(&c->acc, s->cr3, c->acc.pdptr);
}

void sys_rsm(struct vcpu *c, const struct cpu_op *o)
{
	struct state s = { { 0 } };
	enum cpu_ext_answer answer;
	struct area a;

	sys_begin(c, o);
	if (!c->ev.in_smm) {
		cpu_raise(c, o, VEC_UD);
		return;
	}
	if (!transfer(c, &a, ACC_R)) {
		shut_down(c);
		return;
	}
	if (has_long_mode(c))
		load64(&a, &s);
	else
		load32(&a, &s);
	if (!is_loadable(c, &s)) {
		shut_down(c);
		return;
	}
	/* The save area is the guest's to write: what rooms pin is asked about here, too. */
	c->ev.leaving_smm = true;
	answer = sys_ext(c, CPU_EXT_CR, 0, s.cr0);
	if (answer == CPU_EXT_ALLOW)
		answer = sys_ext(c, CPU_EXT_CR, 4, s.cr4);
	if (answer == CPU_EXT_ALLOW)
		answer = sys_ext(c, CPU_EXT_MSR, 0xc0000080, s.efer);
	c->ev.leaving_smm = false;
	if (answer == CPU_EXT_DISCARD)
		shut_down(c);
	if (answer == CPU_EXT_ALLOW && !commit(c, &s))
		shut_down(c);
	else
		c->stop = true;	/* whatever was decoded or translated belongs to another processor */
}
