/* SPDX-License-Identifier: MIT */
/*
 * The in-kernel interrupt controllers of one VM: PIC pair, IOAPIC, PIT, GSI routing and one LAPIC per vCPU (lapic.h), as KVM
 * models them. "No irqchip" is no struct dev_irqchip at all; split has LAPICs and routing only.
 *
 * ONE mutex protects everything here. Every public function of dev/ takes it itself; the functions of pic.h, ioapic.h and
 * pit.h are called with it held. Locks above it: none of ours is held while a caller's lock is taken, except that the ops
 * below run with it held. Order: dev_irqchip.lock -> timer queue lock.
 *
 * Sources: Intel SDM vol. 3 "Advanced Programmable Interrupt Controller"; Intel 82093AA I/O APIC, 8259A and 8254 data sheets;
 * KVM's API document for IRQ_LINE, GSI routing, irqchip and PIT state.
 */
#ifndef GW_DEV_IRQCHIP_H
#define GW_DEV_IRQCHIP_H

#include <guestward/kvm.h>

#include "base/types.h"
#include "dev/timer.h"

#define DEV_MAX_VCPUS	1024
#define DEV_MAX_GSI	4096	/* KVM_CAP_IRQ_ROUTING */

struct dev_irqchip;
struct dev_lapic;

enum dev_irqchip_mode { DEV_IRQCHIP_FULL, DEV_IRQCHIP_SPLIT };

/* Who holds a line high; the line is the OR of all. */
enum dev_irq_source { DEV_IRQ_USER, DEV_IRQ_RESAMPLE, DEV_IRQ_PIT, DEV_N_IRQ_SOURCES };

/*
 * Calls out. All run with the chip's lock held: they must not block and must not call dev/ functions (they would deadlock).
 * May come from any thread: another vCPU's, an ioctl's, the timer thread, and the vCPU's own.
 */
struct dev_irqchip_ops {
	/* Something new in dev_lapic_pending() of this vCPU: wake it if it sleeps, make it look if it runs. Never NULL. */
	void (*kick)(void *opaque, unsigned vcpu_index);
	/* The guest's TSC as RDTSC would give it now. Never NULL. */
	uint64_t (*read_tsc)(void *opaque, unsigned vcpu_index);
	/* Split: this vCPU EOIed a level vector of a reserved pin; KVM_EXIT_IOAPIC_EOI before its next instruction. It is the
	 * vCPU's own thread. NULL in full mode. */
	void (*eoi_exit)(void *opaque, unsigned vcpu_index, uint8_t vector);
	/* A GSI registered by dev_irq_set_resample() was acknowledged and its RESAMPLE line has been lowered: signal the
	 * resamplefd(s). NULL: none are ever registered. */
	void (*eoi_ack)(void *opaque, uint32_t gsi);
};

/*
 * dev_irqchip_create - KVM_CREATE_IRQCHIP or KVM_CAP_SPLIT_IRQCHIP
 *
 * @n_pins   split: GSIs below it belong to the client's IOAPIC (KVM_CAP_SPLIT_IRQCHIP args[0]); full: ignored.
 * @timers   outlives the chip.
 *
 * Full installs KVM's default routing. 0; -ENOMEM; -EINVAL n_pins > DEV_MAX_GSI.
 */
int dev_irqchip_create(struct dev_irqchip **out, enum dev_irqchip_mode mode, uint32_t n_pins,
		       const struct dev_irqchip_ops *ops, void *opaque, struct dev_timers *timers);

/* All vCPU threads have stopped; destroys what LAPICs are left. NULL is fine. */
void dev_irqchip_destroy(struct dev_irqchip *chip);

enum dev_irqchip_mode dev_irqchip_mode(const struct dev_irqchip *chip);

/* KVM_CAP_X2APIC_API args[0]. -EINVAL: unknown bits, both of the suppress-EOI bits, or to enable that without split mode. */
int dev_irqchip_set_x2apic_api(struct dev_irqchip *chip, uint64_t flags);

/* KVM_CAP_X86_APIC_BUS_CYCLES_NS; before any vCPU (the caller checks). -EINVAL 0 or so large that a count overflows. */
int dev_irqchip_set_bus_cycle_ns(struct dev_irqchip *chip, uint64_t ns);

/* KVM_X86_QUIRK_LINT0_REENABLED (bit 0) and _LAPIC_MMIO_HOLE (bit 2) of KVM_CAP_DISABLE_QUIRKS2; other bits ignored. */
void dev_irqchip_disable_quirks(struct dev_irqchip *chip, uint64_t quirks);

/* --- lines and messages ------------------------------------------------------------------------------------------ */

/*
 * dev_irq_set_line - KVM_IRQ_LINE, KVM_IRQ_LINE_STATUS, irqfd
 *
 * @want_status   true for IRQ_LINE_STATUS: an RTC tick (IOAPIC pin 8) that the guest has not EOIed everywhere is then
 *                coalesced instead of delivered again, as in KVM.
 *
 * Returns > 0: delivered to that many; 0: coalesced (already pending); < 0: masked, unrouted or ignored. Any gsi is legal.
 * An edge-triggered irqfd is two calls, 1 then 0. MSI routes fire on level 1.
 */
int dev_irq_set_line(struct dev_irqchip *chip, enum dev_irq_source source, uint32_t gsi, bool level, bool want_status);

/* KVM_SIGNAL_MSI: > 0 delivered, 0 blocked by the guest, -1 (as in KVM: EPERM) nobody has that id; -EINVAL bad address_hi
 * under 32-bit ids. The caller checks flags. */
int dev_irq_msi(struct dev_irqchip *chip, uint64_t address, uint32_t data);

/*
 * dev_irq_set_routing - KVM_SET_GSI_ROUTING: replace the whole table
 *
 * -EINVAL: n > DEV_MAX_GSI, gsi or pin out of range, type other than IRQCHIP or MSI, flags, one gsi twice on a chip or beside
 * an MSI, IRQCHIP routes in split mode. -ENOMEM. On error the old table stands.
 */
int dev_irq_set_routing(struct dev_irqchip *chip, const struct kvm_irq_routing_entry *entries, uint32_t n);

/* Add (+1) or drop (-1) interest in acknowledgements of a GSI (resample irqfd). Dropping the last lowers its RESAMPLE line. */
int dev_irq_set_resample(struct dev_irqchip *chip, uint32_t gsi, int delta);

/* KVM_HC_KICK_CPU: wake the halted vCPU with this APIC id (delivery mode 3). */
void dev_irq_pv_kick(struct dev_irqchip *chip, uint32_t apic_id);

/*
 * KVM_HC_SEND_IPI: bit i of lo:hi is APIC id min + i; @mask_bits is 32 or 64, the width of lo and of hi in the caller's mode.
 * Returns the number of vCPUs reached, or -22 (KVM_EINVAL, a guest number) for destination or shorthand bits in @icr.
 */
int64_t dev_irq_pv_send_ipi(struct dev_irqchip *chip, uint64_t lo, uint64_t hi, uint32_t min, uint64_t icr,
			    unsigned mask_bits);

/* --- guest accesses ---------------------------------------------------------------------------------------------- */

/*
 * One access by a vCPU. Reads fill data, writes read it; len 1..8 is whatever the guest did. Returns true when a device here
 * handled it (also when it ignored it); false: ask the next bus, then exit. @lapic is the accessing vCPU's.
 */
bool dev_mmio(struct dev_irqchip *chip, struct dev_lapic *lapic, struct gpa gpa, unsigned len, void *data, bool is_write);
bool dev_pio(struct dev_irqchip *chip, uint16_t port, unsigned len, void *data, bool is_write);

/* --- state ------------------------------------------------------------------------------------------------------- */

/* KVM_GET_IRQCHIP, KVM_SET_IRQCHIP by state->chip_id. -EINVAL unknown chip_id, -ENXIO in split mode. */
int dev_irqchip_get(struct dev_irqchip *chip, struct kvm_irqchip *state);
int dev_irqchip_set(struct dev_irqchip *chip, const struct kvm_irqchip *state);

/* KVM_CREATE_PIT2: -EEXIST, -EINVAL flags other than KVM_PIT_SPEAKER_DUMMY, -ENOENT in split mode, -ENOMEM. */
int dev_pit_create(struct dev_irqchip *chip, uint32_t flags);
/* KVM_GET/SET_PIT2, KVM_GET/SET_PIT, KVM_REINJECT_CONTROL: -ENXIO without a PIT. */
int dev_pit_get2(struct dev_irqchip *chip, struct kvm_pit_state2 *state);
int dev_pit_set2(struct dev_irqchip *chip, const struct kvm_pit_state2 *state);
int dev_pit_get(struct dev_irqchip *chip, struct kvm_pit_state *state);
int dev_pit_set(struct dev_irqchip *chip, const struct kvm_pit_state *state);
int dev_pit_set_reinject(struct dev_irqchip *chip, bool reinject);

#endif
