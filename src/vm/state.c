/* SPDX-License-Identifier: MIT */
/*
 * The rest of a vCPU's state as the client saves and restores it: events, MP state, FPU, XCRs, LAPIC, machine check; and
 * interrupts and NMIs that it injects.
 */
#include <errno.h>
#include <string.h>

#include "cpu/host/fpu.h"
#include "cpu/sys/sys.h"
#include "vm/vm.h"

/* ---- VCPU_EVENTS ------------------------------------------------------------------------------------------------------- */

static bool is_soft(const struct vcpu *c)
{
	return c->ev.exception.soft || c->ev.exception.vector == VEC_BP || c->ev.exception.vector == VEC_OF;
}

void vm_get_events(struct vm_vcpu *v, struct kvm_vcpu_events *e)
{
	const struct vcpu *c = &v->c;

	vm_vcpu_collect_events(v);
	memset(e, 0, sizeof(*e));
	/* INT3 and INTO are executed again rather than injected: RIP still points at them. */
	if (!is_soft(c)) {
		bool injected = c->ev.exception.injected || !v->vm->is_exception_payload;

		e->exception.injected = c->ev.exception.pending && injected;
		e->exception.pending = c->ev.exception.pending && !injected;
	}
	e->exception.nr = c->ev.exception.vector;
	e->exception.has_error_code = c->ev.exception.has_error;
	e->exception.error_code = c->ev.exception.error;
	e->exception_has_payload = c->ev.exception.has_payload;
	e->exception_payload = c->ev.exception.payload;
	e->interrupt.injected = c->ev.interrupt.injected && !c->ev.interrupt.soft;
	e->interrupt.nr = c->ev.interrupt.vector;
	e->interrupt.shadow = (c->shadow & CPU_SHADOW_MOVSS ? KVM_X86_SHADOW_INT_MOV_SS : 0) |
			      (c->shadow & CPU_SHADOW_STI ? KVM_X86_SHADOW_INT_STI : 0);
	e->nmi.injected = c->ev.nmi.injected;
	e->nmi.pending = c->ev.nmi.pending;
	e->nmi.masked = c->ev.nmi.masked;
	e->smi.smm = c->ev.in_smm;
	e->smi.pending = c->ev.smi_pending;
	e->smi.smm_inside_nmi = c->ev.smm_inside_nmi;
	e->smi.latched_init = c->ev.in_smm && v->lapic && dev_lapic_pending(v->lapic) & DEV_PEND_INIT;
	e->flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM;
	if (v->vm->is_exception_payload)
		e->flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
	if (v->vm->is_triple_fault_event) {
		e->triple_fault.pending = c->ev.triple_fault;
		e->flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	}
}

static int check_events(struct vm_vcpu *v, const struct kvm_vcpu_events *e)
{
	const uint32_t known = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR | KVM_VCPUEVENT_VALID_SHADOW |
			       KVM_VCPUEVENT_VALID_SMM | KVM_VCPUEVENT_VALID_PAYLOAD | KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	bool has_payload = e->flags & KVM_VCPUEVENT_VALID_PAYLOAD;

	if (e->flags & ~known || (has_payload && !v->vm->is_exception_payload))
		return -EINVAL;
	if (e->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT && !v->vm->is_triple_fault_event)
		return -EINVAL;
	if ((e->exception.injected || (has_payload && e->exception.pending)) && (e->exception.nr > 31 || e->exception.nr == VEC_NMI))
		return -EINVAL;
	if (has_payload && e->exception.pending && e->exception.injected)
		return -EINVAL;
	if (e->flags & KVM_VCPUEVENT_VALID_SMM && !vm_has_smm(v->vm) && (e->smi.smm || e->smi.pending || e->smi.smm_inside_nmi || e->smi.latched_init))
		return -EINVAL;
	if (e->flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR && v->vm->irqchip && e->sipi_vector > 255)
		return -EINVAL;
	return 0;
}

static void set_smm(struct vm_vcpu *v, const struct kvm_vcpu_events *e)
{
	struct dev_lapic_events init = { .is_init = true };

	if (v->c.ev.in_smm != !!e->smi.smm)
		cpu_smm_set(&v->c, e->smi.smm);
	v->c.ev.smi_pending = e->smi.pending;
	if (!e->smi.smm)
		return;
	v->c.ev.smm_inside_nmi = e->smi.smm_inside_nmi;
	if (!v->lapic)
		return;
	dev_lapic_take_events(v->lapic, DEV_PEND_INIT, &(struct dev_lapic_events){ 0 });
	if (e->smi.latched_init)
		dev_lapic_post_events(v->lapic, &init);
}

int vm_set_events(struct vm_vcpu *v, const struct kvm_vcpu_events *e)
{
	struct vcpu *c = &v->c;
	bool has_payload = e->flags & KVM_VCPUEVENT_VALID_PAYLOAD;
	int err = check_events(v, e);

	if (err)
		return err;
	vm_vcpu_collect_events(v);
	c->ev.exception.pending = e->exception.injected || (has_payload && e->exception.pending);
	c->ev.exception.injected = e->exception.injected;
	c->ev.exception.vector = e->exception.nr;
	c->ev.exception.has_error = e->exception.has_error_code;
	c->ev.exception.error = e->exception.error_code;
	c->ev.exception.has_payload = has_payload && e->exception_has_payload;
	c->ev.exception.payload = has_payload ? e->exception_payload : 0;
	c->ev.exception.soft = c->ev.exception.icebp = false;
	c->ev.interrupt.injected = e->interrupt.injected;
	c->ev.interrupt.vector = e->interrupt.nr;
	c->ev.interrupt.soft = e->interrupt.soft;
	if (e->flags & KVM_VCPUEVENT_VALID_SHADOW)
		c->shadow = (e->interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS ? CPU_SHADOW_MOVSS : 0) |
			    (e->interrupt.shadow & KVM_X86_SHADOW_INT_STI ? CPU_SHADOW_STI : 0);
	c->ev.nmi.injected = e->nmi.injected;
	if (e->flags & KVM_VCPUEVENT_VALID_NMI_PENDING)
		c->ev.nmi.pending = e->nmi.pending < 2 ? e->nmi.pending : 2;
	c->ev.nmi.masked = e->nmi.masked;
	if (e->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT)
		c->ev.triple_fault = e->triple_fault.pending;
	if (e->flags & KVM_VCPUEVENT_VALID_SMM)
		set_smm(v, e);
	if (e->flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR)
		v->sipi_vector = (uint8_t)e->sipi_vector;
	return 0;
}

/* ---- MP state ---------------------------------------------------------------------------------------------------------- */

void vm_get_mp_state(struct vm_vcpu *v, struct kvm_mp_state *s)
{
	/* INIT and SIPI that have arrived but not been looked at belong to what is saved. */
	vm_vcpu_accept_events(v);
	s->mp_state = v->mp_state;
}

int vm_set_mp_state(struct vm_vcpu *v, const struct kvm_mp_state *s)
{
	struct dev_lapic_events sipi = { .is_sipi = true, .sipi_vector = v->sipi_vector };

	/* What would reset the vCPU cannot be latched beside SMM in one state. */
	if ((s->mp_state == KVM_MP_STATE_INIT_RECEIVED || s->mp_state == KVM_MP_STATE_SIPI_RECEIVED) &&
	    (v->c.ev.in_smm || v->c.ev.smi_pending))
		return -EINVAL;
	switch (s->mp_state) {
	case KVM_MP_STATE_RUNNABLE:
		break;
	case KVM_MP_STATE_UNINITIALIZED:
	case KVM_MP_STATE_INIT_RECEIVED:
	case KVM_MP_STATE_HALTED:
	case KVM_MP_STATE_SIPI_RECEIVED:
		if (!v->lapic)
			return -EINVAL;
		break;
	default:
		return -EINVAL;
	}
	if (s->mp_state == KVM_MP_STATE_SIPI_RECEIVED) {
		v->mp_state = KVM_MP_STATE_INIT_RECEIVED;
		dev_lapic_post_events(v->lapic, &sipi);
		return 0;
	}
	v->mp_state = s->mp_state;
	v->c.halted = s->mp_state == KVM_MP_STATE_HALTED;
	return 0;
}

/* ---- FPU --------------------------------------------------------------------------------------------------------------- */

/* The 512-byte FXSAVE64 image against struct kvm_fpu. */
static void from_image(const uint8_t *image, struct kvm_fpu *f)
{
	memset(f, 0, sizeof(*f));
	memcpy(&f->fcw, image, 2);
	memcpy(&f->fsw, image + 2, 2);
	f->ftwx = image[4];
	memcpy(&f->last_opcode, image + 6, 2);
	memcpy(&f->last_ip, image + 8, 8);
	memcpy(&f->last_dp, image + 16, 8);
	memcpy(&f->mxcsr, image + 24, 4);
	memcpy(f->fpr, image + 32, sizeof(f->fpr));
	memcpy(f->xmm, image + 160, sizeof(f->xmm));
}

static void to_image(const struct kvm_fpu *f, uint8_t *image)
{
	memcpy(image, &f->fcw, 2);
	memcpy(image + 2, &f->fsw, 2);
	image[4] = f->ftwx;
	memcpy(image + 6, &f->last_opcode, 2);
	memcpy(image + 8, &f->last_ip, 8);
	memcpy(image + 16, &f->last_dp, 8);
	/* KVM takes MXCSR from here only by XSAVE: what does not exist is dropped rather than refused. */
	memcpy(image + 24, &(uint32_t){ f->mxcsr & cpu_mxcsr_mask() }, 4);
	memcpy(image + 32, f->fpr, sizeof(f->fpr));
	memcpy(image + 160, f->xmm, sizeof(f->xmm));
}

void vm_get_fpu(struct vm_vcpu *v, struct kvm_fpu *f)
{
	uint8_t image[512];

	cpu_fpu_get(&v->c, image);
	from_image(image, f);
}

int vm_set_fpu(struct vm_vcpu *v, const struct kvm_fpu *f)
{
	uint8_t image[512];

	cpu_fpu_get(&v->c, image);
	to_image(f, image);
	return cpu_fpu_set(&v->c, image);
}

void vm_get_xsave(struct vm_vcpu *v, uint8_t area[4096])
{
	cpu_xsave_get(&v->c, area, 4096);
}

int vm_set_xsave(struct vm_vcpu *v, const uint8_t area[4096])
{
	return cpu_xsave_set(&v->c, area, 4096);
}

int vm_get_xcrs(struct vm_vcpu *v, struct kvm_xcrs *x)
{
	memset(x, 0, sizeof(*x));
	x->nr_xcrs = 1;
	x->xcrs[0].value = v->c.fpu.xcr0;
	return 0;
}

int vm_set_xcrs(struct vm_vcpu *v, const struct kvm_xcrs *x)
{
	/* A guest without XSAVE has an XCR0 all the same, which must be 1. */
	if (x->nr_xcrs > KVM_MAX_XCRS || x->flags)
		return -EINVAL;
	for (unsigned i = 0; i < x->nr_xcrs; i++) {
		/* Only XCR0 exists; others are not looked at. */
		if (x->xcrs[i].xcr)
			continue;
		if (!cpu_xcr0_valid(&v->c, x->xcrs[i].value))
			return -EINVAL;
		v->c.fpu.xcr0 = x->xcrs[i].value;
		cpu_fpu_gates(&v->c);
		break;
	}
	return 0;
}

/* ---- LAPIC, interrupts ------------------------------------------------------------------------------------------------- */

int vm_get_lapic(struct vm_vcpu *v, struct kvm_lapic_state *s)
{
	return v->lapic ? dev_lapic_get_state(v->lapic, s) : -EINVAL;
}

int vm_set_lapic(struct vm_vcpu *v, const struct kvm_lapic_state *s)
{
	return v->lapic ? dev_lapic_set_state(v->lapic, s) : -EINVAL;
}

int vm_interrupt(struct vm_vcpu *v, uint32_t irq)
{
	if (irq >= KVM_NR_INTERRUPTS)
		return -EINVAL;
	if (!v->vm->irqchip) {
		v->c.ev.interrupt.injected = true;
		v->c.ev.interrupt.soft = false;
		v->c.ev.interrupt.vector = (uint8_t)irq;
		return 0;
	}
	if (!v->vm->is_split)
		return -ENXIO;
	if (v->user_vector >= 0)
		return -EEXIST;
	v->user_vector = (int)irq;
	return 0;
}

void vm_nmi(struct vm_vcpu *v)
{
	atomic_fetch_add(&v->n_nmi, 1);
	vm_vcpu_kick(v, ACC_ATT_EVENT);
}

int vm_smi(struct vm_vcpu *v)
{
	if (!vm_has_smm(v->vm))
		return -ENOTTY;
	atomic_store(&v->is_smi, true);
	vm_vcpu_kick(v, ACC_ATT_EVENT);
	return 0;
}

/* ---- machine check ----------------------------------------------------------------------------------------------------- */

#define MAX_BANKS	32u
#define MCG_CTL_P	BIT64(8)
#define MCI_VAL		BIT64(63)
#define MCI_OVER	BIT64(62)
#define MCI_UC		BIT64(61)

int vm_setup_mce(struct vm_vcpu *v, uint64_t cap)
{
	unsigned banks = cap & 0xff;

	if (!banks || banks > MAX_BANKS || cap & ~(VM_MCE_CAP_SUPPORTED | 0xff | 0xff0000))
		return -EINVAL;
	v->c.msr.mcg_cap = cap;
	if (cap & MCG_CTL_P)
		v->c.msr.mcg_ctl = ~0ull;
	for (unsigned i = 0; i < banks; i++)
		v->c.msr.mc_bank[i * 4] = ~0ull;
	return 0;
}

int vm_set_mce(struct vm_vcpu *v, const struct kvm_x86_mce *mce)
{
	struct vcpu *c = &v->c;
	uint64_t *bank;

	if (mce->bank >= (c->msr.mcg_cap & 0xff) || mce->bank >= MAX_BANKS || !(mce->status & MCI_VAL))
		return -EINVAL;
	bank = &c->msr.mc_bank[mce->bank * 4];
	/* Reporting switched off: it is not seen at all. */
	if (mce->status & MCI_UC && (c->msr.mcg_ctl != ~0ull && c->msr.mcg_cap & MCG_CTL_P))
		return 0;
	if (mce->status & MCI_UC && bank[0] != ~0ull)
		return 0;
	if (mce->status & MCI_UC) {
		/* One while the last is not handled, or with machine checks off, is a shutdown. */
		if (c->msr.mcg_status & 4 || !(c->acc.cr4 & CR4_MCE)) {
			c->ev.triple_fault = true;
			return 0;
		}
		bank[1] = mce->status | (bank[1] & MCI_VAL ? MCI_OVER : 0);
		bank[2] = mce->addr;
		bank[3] = mce->misc;
		c->msr.mcg_status = mce->mcg_status;
		c->ev.exception.pending = true;
		c->ev.exception.vector = VEC_MC;
		c->ev.exception.has_error = c->ev.exception.has_payload = c->ev.exception.soft = c->ev.exception.icebp = false;
	} else if (!(bank[1] & MCI_VAL) || !(bank[1] & MCI_UC)) {
		bank[1] = mce->status | (bank[1] & MCI_VAL ? MCI_OVER : 0);
		bank[2] = mce->addr;
		bank[3] = mce->misc;
	} else {
		bank[1] |= MCI_OVER;
	}
	return 0;
}
