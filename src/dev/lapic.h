/* SPDX-License-Identifier: MIT */
/*
 * A local APIC as KVM models it: xAPIC page, x2APIC MSRs, timer, IPIs; and the place where a vCPU's pending events wait.
 *
 * The vCPU asks dev_lapic_pending() at block boundaries: one relaxed load, no lock. A bit there is a hint to call the taking
 * function, which decides under the lock. The word changes without the vCPU's doing; ops->kick comes only when a bit is new,
 * so a vCPU that found INTR while it could not take it (IF=0, shadow) must look again by itself when it can.
 *
 * mp_state, SMM, NMI blocking and KVM_INTERRUPT queues are the vCPU's, not ours. It drops a SIPI unless INIT_RECEIVED.
 */
#ifndef GW_DEV_LAPIC_H
#define GW_DEV_LAPIC_H

#include <stdatomic.h>

#include "dev/irqchip.h"

#define DEV_APIC_DEFAULT_BASE	0xfee00000ull
#define DEV_APIC_BASE_BSP	0x100ull
#define DEV_APIC_BASE_X2APIC	0x400ull
#define DEV_APIC_BASE_ENABLE	0x800ull

enum dev_pending {
	DEV_PEND_INTR = 1 << 0,		/* dev_lapic_ack() would give a vector (if the CPU can take one) */
	DEV_PEND_NMI = 1 << 1,
	DEV_PEND_INIT = 1 << 2,
	DEV_PEND_SIPI = 1 << 3,
	DEV_PEND_SMI = 1 << 4,
	DEV_PEND_UNHALT = 1 << 5,	/* PV kick: leave HLT once */
	DEV_PEND_PV_EOI = 1 << 6,	/* call dev_lapic_pv_eoi_sync() */
};

/* The only part of a LAPIC that is read without the lock. */
struct dev_lapic_word { _Atomic uint32_t pending; };

static inline uint32_t dev_lapic_pending(const struct dev_lapic *lapic)
{
	return atomic_load_explicit(&((const struct dev_lapic_word *)(const void *)lapic)->pending, memory_order_acquire);
}

/* Address of that word, for generated code. */
static inline const _Atomic uint32_t *dev_lapic_pending_word(const struct dev_lapic *lapic)
{
	return &((const struct dev_lapic_word *)(const void *)lapic)->pending;
}

/*
 * dev_lapic_create - one per vCPU, in power-on state
 *
 * @vcpu_index   dense, for ops; also the order of lowest-priority ties. @apic_id is KVM's vcpu_id.
 * 0; -EINVAL index out of range; -EEXIST; -ENOMEM.
 */
int dev_lapic_create(struct dev_lapic **out, struct dev_irqchip *chip, unsigned vcpu_index, uint32_t apic_id, bool is_bsp);
void dev_lapic_destroy(struct dev_lapic *lapic);	/* the vCPU no longer runs; NULL is fine */

void dev_lapic_reset(struct dev_lapic *lapic);		/* power-on: also APIC_BASE, ID, pending events */
void dev_lapic_init(struct dev_lapic *lapic);		/* INIT: keeps APIC_BASE and ID, drops NMIs and PV unhalt */

/* What guest CPUID says; after KVM_SET_CPUID2. Defaults before: x2apic and tsc_deadline off, 36 address bits, no CMCI. */
struct dev_lapic_features {
	bool has_x2apic;
	bool has_tsc_deadline;
	bool has_cmci;			/* KVM_X86_SETUP_MCE with MCG_CMCI_P */
	bool has_smm;			/* else SMIs are dropped wherever they come from, as by KVM without SMM */
	uint8_t maxphyaddr;
};
void dev_lapic_set_features(struct dev_lapic *lapic, const struct dev_lapic_features *f);

/* The guest's TSC frequency; call again, or dev_lapic_tsc_moved, when rate or offset change: deadlines are re-armed. */
void dev_lapic_set_tsc_khz(struct dev_lapic *lapic, uint32_t khz);
void dev_lapic_tsc_moved(struct dev_lapic *lapic);

/* --- registers --------------------------------------------------------------------------------------------------- */

/*
 * MSRs 0x1B, 0x6E0 and 0x800..0x8FF. @host: by ioctl (any valid APIC_BASE, no mode-transition rules).
 * 0, or -EINVAL: #GP for a guest, "stop here" for an ioctl. A refused write changes nothing.
 */
int dev_lapic_read_msr(struct dev_lapic *lapic, uint32_t msr, bool host, uint64_t *value);
int dev_lapic_write_msr(struct dev_lapic *lapic, uint32_t msr, bool host, uint64_t value);

/* APIC_BASE as in MSR 0x1B: kvm_run.apic_base and sregs. The enable bit is CPUID.1:EDX.APIC. Lock-free read. */
uint64_t dev_lapic_base(const struct dev_lapic *lapic);

/* CR8 = TPR[7:4]. A guest value above 15 is #GP, the caller's. */
uint8_t dev_lapic_cr8(struct dev_lapic *lapic);
void dev_lapic_set_cr8(struct dev_lapic *lapic, uint8_t cr8);

/* KVM_GET_LAPIC, KVM_SET_LAPIC. Set: after APIC_BASE. -EINVAL: x2APIC with 32-bit ids and another id. */
int dev_lapic_get_state(struct dev_lapic *lapic, struct kvm_lapic_state *state);
int dev_lapic_set_state(struct dev_lapic *lapic, const struct kvm_lapic_state *state);

/* --- taking interrupts and events -------------------------------------------------------------------------------- */

/* The vector to inject now, committed (IRR -> ISR, or the PIC's INTA cycle); -1 if none. Only call when it will be injected. */
int dev_lapic_ack(struct dev_lapic *lapic);

/* Would dev_lapic_ack() give one? For HLT and ready_for_interrupt_injection. */
bool dev_lapic_has_injectable(struct dev_lapic *lapic);

/* Is LINT0 open for ExtINT (or the LAPIC disabled, or NULL: none)? For KVM_INTERRUPT and exit 7 without a PIC here. */
bool dev_lapic_accepts_extint(struct dev_lapic *lapic);

/* Enabled by both its switches? */
bool dev_lapic_is_enabled(struct dev_lapic *lapic);
/* An edge of the hypervisor's own, to this LAPIC alone. */
void dev_lapic_raise(struct dev_lapic *lapic, uint8_t vector);

struct dev_lapic_events {
	uint8_t n_nmi;		/* 0..2 */
	bool is_init, is_sipi, is_smi, is_unhalt;	/* handle INIT before SIPI */
	uint8_t sipi_vector;
};

/* Take (clear) the events named by @mask of DEV_PEND_NMI | INIT | SIPI | SMI | UNHALT. What is not in the mask stays pending. */
void dev_lapic_take_events(struct dev_lapic *lapic, uint32_t mask, struct dev_lapic_events *ev);
/* Look without taking (KVM_GET_VCPU_EVENTS, GET_MP_STATE). */
void dev_lapic_peek_events(struct dev_lapic *lapic, struct dev_lapic_events *ev);
/* Add events (KVM_NMI, KVM_SMI, SET_MP_STATE of SIPI_RECEIVED, SET_VCPU_EVENTS); NMIs saturate at 2; INIT drops a SIPI. */
void dev_lapic_post_events(struct dev_lapic *lapic, const struct dev_lapic_events *ev);

/*
 * PV EOI (MSR 0x4B564D04), all on the vCPU's own thread; the flag byte in guest memory is the caller's to read and write.
 * arm: may the flag be set now, before running on? If true the caller stores 1 and later must call sync with what it finds,
 * after clearing the flag: on DEV_PEND_PV_EOI, before every ack, EOI-visible ioctl and return to the client.
 */
bool dev_lapic_pv_eoi_arm(struct dev_lapic *lapic);
void dev_lapic_pv_eoi_sync(struct dev_lapic *lapic, bool guest_cleared);

#endif
