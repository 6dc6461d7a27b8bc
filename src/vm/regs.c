/* SPDX-License-Identifier: MIT */
/*
 * General and system registers as KVM_GET/SET_REGS, SREGS and SREGS2 show them, and KVM_TRANSLATE.
 *
 * SET_SREGS is judged as a whole before anything changes: what the client sees after an error is what it saw before.
 */
#include <errno.h>
#include <string.h>

#include "cpu/host/fpu.h"
#include "cpu/sys/sys.h"
#include "vm/vm.h"

/* ---- REGS -------------------------------------------------------------------------------------------------------------- */

void vm_get_regs(struct vm_vcpu *v, struct kvm_regs *r)
{
	const uint64_t *g = v->c.gpr;

	*r = (struct kvm_regs){
		.rax = g[RAX], .rbx = g[RBX], .rcx = g[RCX], .rdx = g[RDX], .rsi = g[RSI], .rdi = g[RDI], .rsp = g[RSP], .rbp = g[RBP],
		.r8 = g[R8], .r9 = g[R9], .r10 = g[R10], .r11 = g[R11], .r12 = g[R12], .r13 = g[R13], .r14 = g[R14], .r15 = g[R15],
		.rip = v->c.rip, .rflags = cpu_eflags(&v->c),
	};
}

#define RFLAGS_KNOWN (FLAGS_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM | FLAG_AC | FLAG_VIF | \
		      FLAG_VIP | FLAG_ID)

static bool is_reset_segment(const struct vcpu *c)
{
	return !(c->acc.cr0 & (CR0_PE | CR0_PG)) && c->seg[SEG_CS].sel == 0xf000 && c->seg[SEG_CS].base == 0xffff0000;
}

/* Clients set RIP and CS by two calls. */
static void look_for_reset(struct vm_vcpu *v)
{
	if (v->is_placed && v->c.rip == 0xfff0 && is_reset_segment(&v->c))
		vm_heki_reset(v);
}

void vm_set_regs(struct vm_vcpu *v, const struct kvm_regs *r)
{
	struct vcpu *c = &v->c;
	uint64_t *g = c->gpr;

	g[RAX] = r->rax; g[RBX] = r->rbx; g[RCX] = r->rcx; g[RDX] = r->rdx;
	g[RSI] = r->rsi; g[RDI] = r->rdi; g[RSP] = r->rsp; g[RBP] = r->rbp;
	g[R8] = r->r8; g[R9] = r->r9; g[R10] = r->r10; g[R11] = r->r11;
	g[R12] = r->r12; g[R13] = r->r13; g[R14] = r->r14; g[R15] = r->r15;
	c->rip = r->rip;
	cpu_set_eflags(c, (uint32_t)r->rflags & RFLAGS_KNOWN);
	/* As KVM does: the registers of an exception that was about to be delivered are not these, unless the client restored it. */
	c->ev.exception.pending = c->ev.exception.pending && c->ev.exception.injected;
	cpu_state_changed(c);
	look_for_reset(v);
}

/* ---- segments ---------------------------------------------------------------------------------------------------------- */

static void get_seg(const struct cpu_seg *s, struct kvm_segment *k)
{
	*k = (struct kvm_segment){
		.base = s->base, .limit = s->limit, .selector = s->sel, .type = s->type, .present = s->present, .dpl = s->dpl,
		.db = s->db, .s = s->s, .l = s->l, .g = s->g, .avl = s->avl, .unusable = s->unusable,
	};
}

static void set_seg(struct cpu_seg *s, const struct kvm_segment *k)
{
	*s = (struct cpu_seg){
		.base = k->base, .limit = k->limit, .sel = k->selector, .type = k->type & 15, .present = k->present & 1,
		.dpl = k->dpl & 3, .db = k->db & 1, .s = k->s & 1, .l = k->l & 1, .g = k->g & 1, .avl = k->avl & 1,
		.unusable = k->unusable & 1,
	};
}

static void get_table(const struct cpu_table *t, struct kvm_dtable *k)
{
	*k = (struct kvm_dtable){ .base = t->base, .limit = t->limit };
}

/* SREGS and SREGS2 begin alike: up to and including apic_base. */
_Static_assert(offsetof(struct kvm_sregs, interrupt_bitmap) == offsetof(struct kvm_sregs2, flags), "common part");

/* All bytes of it. */
static void get_common(struct vm_vcpu *v, struct kvm_sregs2 *s)
{
	struct vcpu *c = &v->c;

	get_seg(&c->seg[SEG_CS], &s->cs);
	get_seg(&c->seg[SEG_DS], &s->ds);
	get_seg(&c->seg[SEG_ES], &s->es);
	get_seg(&c->seg[SEG_FS], &s->fs);
	get_seg(&c->seg[SEG_GS], &s->gs);
	get_seg(&c->seg[SEG_SS], &s->ss);
	get_seg(&c->seg[SEG_TR], &s->tr);
	get_seg(&c->seg[SEG_LDTR], &s->ldt);
	get_table(&c->gdtr, &s->gdt);
	get_table(&c->idtr, &s->idt);
	s->cr0 = c->acc.cr0;
	s->cr2 = c->acc.cr2;
	s->cr3 = c->acc.cr3;
	s->cr4 = c->acc.cr4;
	s->cr8 = vm_get_cr8(v);
	s->efer = c->acc.efer;
	s->apic_base = vm_get_apic_base(v);
}

void vm_get_sregs(struct vm_vcpu *v, struct kvm_sregs *s)
{
	get_common(v, (struct kvm_sregs2 *)(void *)s);
	memset(s->interrupt_bitmap, 0, sizeof(s->interrupt_bitmap));
	if (v->c.ev.interrupt.injected && !v->c.ev.interrupt.soft)
		s->interrupt_bitmap[v->c.ev.interrupt.vector / 64] |= BIT64(v->c.ev.interrupt.vector % 64);
}

static bool uses_pdptrs(const struct kvm_sregs2 *s)
{
	return s->cr0 & CR0_PG && s->cr4 & CR4_PAE && !(s->efer & EFER_LMA);
}

void vm_get_sregs2(struct vm_vcpu *v, struct kvm_sregs2 *s)
{
	get_common(v, s);
	s->flags = 0;
	memset(s->pdptrs, 0, sizeof(s->pdptrs));
	if (!uses_pdptrs(s))
		return;
	memcpy(s->pdptrs, v->c.acc.pdptr, sizeof(s->pdptrs));
	s->flags |= KVM_SREGS2_FLAGS_PDPTRS_VALID;
}

/* ---- setting ----------------------------------------------------------------------------------------------------------- */

static bool is_valid(struct vm_vcpu *v, const struct kvm_sregs2 *s)
{
	const struct vcpu *c = &v->c;

	if (s->efer & EFER_LME && s->cr0 & CR0_PG) {
		if (!(s->cr4 & CR4_PAE) || !(s->efer & EFER_LMA) || !cpu_cr3_valid(c, s->cr3 & ~CR3_NOFLUSH))
			return false;
	} else if (s->efer & EFER_LMA || s->cs.l) {
		return false;
	}
	return cpu_cr4_valid(c, s->cr4) && cpu_cr0_valid(s->cr0) && cpu_efer_valid(c, s->efer);
}

static void commit_segs(struct vcpu *c, const struct kvm_sregs2 *s)
{
	set_seg(&c->seg[SEG_CS], &s->cs);
	set_seg(&c->seg[SEG_DS], &s->ds);
	set_seg(&c->seg[SEG_ES], &s->es);
	set_seg(&c->seg[SEG_FS], &s->fs);
	set_seg(&c->seg[SEG_GS], &s->gs);
	set_seg(&c->seg[SEG_SS], &s->ss);
	set_seg(&c->seg[SEG_TR], &s->tr);
	set_seg(&c->seg[SEG_LDTR], &s->ldt);
	c->gdtr = (struct cpu_table){ s->gdt.base, s->gdt.limit };
	c->idtr = (struct cpu_table){ s->idt.base, s->idt.limit };
}

/* Nothing here fails. @pdptrs: given by the client, else read from guest memory where paging uses them. */
static void commit(struct vm_vcpu *v, const struct kvm_sregs2 *s, const __u64 *pdptrs)
{
	struct vcpu *c = &v->c;
	uint64_t old_cr0 = c->acc.cr0, old_cr4 = c->acc.cr4, old_efer = c->acc.efer, found[4] = { 0 };

	commit_segs(c, s);
	vm_set_cr8(v, s->cr8 & 15);
	c->acc.cr0 = s->cr0 | CR0_ET;
	c->acc.cr2 = s->cr2;
	c->acc.cr3 = s->cr3;
	c->acc.cr4 = s->cr4;
	c->acc.efer = s->efer;
	acc_paging_changed(&c->acc, old_cr0, old_cr4, old_efer);
	acc_flush_all(&c->acc);
	if (uses_pdptrs(s)) {
		if (pdptrs) {
			memcpy(found, pdptrs, sizeof(found));
		} else {
			acc_enter(&c->acc);
			acc_load_pdptrs(&c->acc, s->cr3, found);
			acc_leave(&c->acc);
		}
		memcpy(c->acc.pdptr, found, sizeof(c->acc.pdptr));
	}
	/* An older KVM's client leaves the BSP in UNINITIALIZED-like real mode at the reset vector and expects it to run. */
	if (v->is_bsp && c->rip == 0xfff0 && s->cs.selector == 0xf000 && s->cs.base == 0xffff0000 && !(s->cr0 & CR0_PE))
		v->mp_state = KVM_MP_STATE_RUNNABLE;
	cpu_state_changed(c);
	cpu_fpu_gates(c);
}

static int set_common(struct vm_vcpu *v, const struct kvm_sregs2 *s, const __u64 *pdptrs)
{
	bool was_reset = is_reset_segment(&v->c);

	if (!is_valid(v, s))
		return -EINVAL;
	/* The one part that may still refuse, and the only one it changes. */
	if (vm_set_apic_base(v, s->apic_base))
		return -EINVAL;
	commit(v, s, pdptrs);
	heki_vcpu_registers_set(v->vm->heki, &v->c.acc);
	if (!was_reset)
		v->is_placed = is_reset_segment(&v->c);
	look_for_reset(v);
	return 0;
}

int vm_set_sregs(struct vm_vcpu *v, const struct kvm_sregs *s)
{
	struct kvm_sregs2 all = { 0 };
	int err;

	memcpy(&all, s, offsetof(struct kvm_sregs, interrupt_bitmap));
	err = set_common(v, &all, NULL);
	if (err)
		return err;
	for (unsigned i = 0; i < KVM_NR_INTERRUPTS; i++) {
		if (!(s->interrupt_bitmap[i / 64] >> i % 64 & 1))
			continue;
		v->c.ev.interrupt.injected = true;
		v->c.ev.interrupt.soft = false;
		v->c.ev.interrupt.vector = (uint8_t)i;
		break;
	}
	return 0;
}

int vm_set_sregs2(struct vm_vcpu *v, const struct kvm_sregs2 *s)
{
	bool given = s->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID;

	if (s->flags & ~(uint64_t)KVM_SREGS2_FLAGS_PDPTRS_VALID)
		return -EINVAL;
	if (given && !uses_pdptrs(s))
		return -EINVAL;
	return set_common(v, s, given ? s->pdptrs : NULL);
}

/* ---- TRANSLATE --------------------------------------------------------------------------------------------------------- */

int vm_translate(struct vm_vcpu *v, struct kvm_translation *t)
{
	struct acc_request rq = { .cpu = &v->c.acc, .gva = GVA(t->linear_address), .len = 1, .rights = ACC_R, .stage = ACC_IMPLICIT,
				  .origin = ACC_IOCTL };
	struct acc_result res;

	acc_enter(&v->c.acc);
	t->valid = acc_translate(&rq, &res) == ACC_ALLOW;
	acc_leave(&v->c.acc);
	t->physical_address = t->valid ? rq.gpa.v : ~0ull;
	t->writeable = 1;
	t->usermode = 0;
	memset(t->pad, 0, sizeof(t->pad));
	return 0;
}
