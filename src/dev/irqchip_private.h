/* SPDX-License-Identifier: MIT */
/*
 * What the files of dev/ share. Everything here runs with dev_irqchip.lock held unless it says otherwise.
 *
 * How an interrupt flows: a line (routing.c) reaches a PIC or IOAPIC pin; the IOAPIC, an MSI or a LAPIC's ICR makes a struct
 * dev_msg; msg.c finds the LAPICs it names; lapic.c accepts it into IRR or events and recomputes the pending word. An EOI
 * flows back: lapic.c -> ioapic.c (or pic.c) -> dev_irq_acked() -> PIT and resample irqfds.
 */
#ifndef GW_DEV_IRQCHIP_PRIVATE_H
#define GW_DEV_IRQCHIP_PRIVATE_H

#include <pthread.h>

#include "dev/ioapic.h"
#include "dev/irqchip.h"
#include "dev/lapic.h"
#include "dev/pic.h"
#include "dev/pit.h"

#define NSEC_PER_SEC		1000000000ull
#define DEV_MIN_PERIOD_NS	200000ull	/* KVM's min_timer_period_us: a guest cannot ask for an interrupt storm */

/* Register numbers: page offset >> 4, which is also the x2APIC MSR minus 0x800. */
enum apic_reg {
	APIC_ID = 0x02, APIC_LVR = 0x03, APIC_TPR = 0x08, APIC_APR = 0x09, APIC_PPR = 0x0a, APIC_EOI = 0x0b,
	APIC_LDR = 0x0d, APIC_DFR = 0x0e, APIC_SPIV = 0x0f, APIC_ISR = 0x10, APIC_TMR = 0x18, APIC_IRR = 0x20,
	APIC_ESR = 0x28, APIC_LVTCMCI = 0x2f, APIC_ICR = 0x30, APIC_ICR2 = 0x31, APIC_LVTT = 0x32, APIC_LVTTHMR = 0x33,
	APIC_LVTPC = 0x34, APIC_LVT0 = 0x35, APIC_LVT1 = 0x36, APIC_LVTERR = 0x37, APIC_TMICT = 0x38, APIC_TMCCT = 0x39,
	APIC_TDCR = 0x3e, APIC_SELF_IPI = 0x3f, APIC_N_REGS = 0x40,
};

#define APIC_LVT_MASKED		0x10000u
#define APIC_LVT_MODE		0x700u
#define APIC_SPIV_ENABLE	0x100u
#define APIC_SPIV_DIRECTED_EOI	0x1000u
#define APIC_LVR_DIRECTED_EOI	(1u << 24)

enum dev_delivery {
	DEV_DM_FIXED, DEV_DM_LOWEST, DEV_DM_SMI, DEV_DM_REMOTE_READ, DEV_DM_NMI, DEV_DM_INIT, DEV_DM_SIPI, DEV_DM_EXTINT,
};

enum dev_shorthand { DEV_SH_NONE, DEV_SH_SELF, DEV_SH_ALL, DEV_SH_OTHERS };

struct dev_msg {
	uint32_t dest;
	uint8_t vector;
	enum dev_delivery mode;
	enum dev_shorthand shorthand;
	bool is_logical;
	bool is_level;
	bool is_assert;
	bool is_redirectable;	/* MSI redirection hint: one of the destinations, as in lowest priority */
	bool is_rtc;		/* count an EOI owed by each target */
};

struct dev_lapic {
	struct dev_lapic_word word;	/* first: dev_lapic_pending() */
	struct dev_irqchip *chip;
	unsigned index;
	uint32_t id;
	bool is_bsp;
	struct dev_lapic_features features;
	_Atomic uint64_t base;

	uint32_t regs[APIC_N_REGS];	/* APR, PPR and TMCCT are computed; ICR2 holds the high half in x2APIC mode too */
	uint32_t events;		/* enum dev_pending without INTR */
	uint8_t n_nmi;
	uint8_t sipi_vector;
	uint32_t n_arbitrated;		/* lowest-priority messages won */
	int rtc_vector;			/* EOI owed for an RTC tick; -1 none */
	bool is_pv_eoi_armed;

	/* Timer. Count modes: running iff target_ns. Deadline mode: running iff tsc_deadline. */
	struct dev_timer timer;
	uint64_t period_ns;
	uint64_t target_ns;
	uint64_t tsc_deadline;
	uint32_t tsc_khz;
};
_Static_assert(offsetof(struct dev_lapic, word) == 0, "dev_lapic_pending reads the front");

struct dev_routing {
	int32_t gsi_of[KVM_NR_IRQCHIPS][DEV_IOAPIC_PINS];	/* which GSI drives a pin, -1 none; slave pins are 0..7 */
	uint32_t n_gsi;
	uint32_t *first;			/* n_gsi + 1 indexes into entry[] */
	struct kvm_irq_routing_entry *entry;	/* by gsi */
};

struct dev_irqchip {
	pthread_mutex_t lock;
	enum dev_irqchip_mode mode;
	uint32_t n_split_pins;
	const struct dev_irqchip_ops *ops;
	void *opaque;
	struct dev_timers *timers;

	uint64_t bus_cycle_ns;
	/* EOI broadcasts that a guest may suppress: as KVM always had it in split mode, offered and not done; done; not offered. */
	enum { DIRECTED_EOI_QUIRK, DIRECTED_EOI_DONE, DIRECTED_EOI_NONE } directed_eoi;
	bool has_32bit_ids;		/* KVM_X2APIC_API_USE_32BIT_IDS */
	bool has_broadcast_quirk;	/* a device's 0xff reaches x2APIC-mode targets too */
	bool has_lint0_quirk;
	bool has_mmio_hole_quirk;

	unsigned n_lapics;		/* one past the highest index */
	struct dev_lapic *lapic[DEV_MAX_VCPUS];
	struct dev_routing *routing;
	uint16_t n_resample[DEV_MAX_GSI];
	struct dev_pic pic;
	struct dev_ioapic ioapic;
	struct dev_pit *pit;
};

static inline void dev_lock(struct dev_irqchip *chip) { pthread_mutex_lock(&chip->lock); }
static inline void dev_unlock(struct dev_irqchip *chip) { pthread_mutex_unlock(&chip->lock); }

/* --- routing.c --- */
int dev_routing_create(struct dev_routing **out, enum dev_irqchip_mode mode, bool has_32bit_ids,
		       const struct kvm_irq_routing_entry *entries, uint32_t n);
int dev_routing_create_default(struct dev_routing **out, enum dev_irqchip_mode mode);
void dev_routing_destroy(struct dev_routing *routing);
int dev_irq_set_line_locked(struct dev_irqchip *chip, enum dev_irq_source source, uint32_t gsi, bool level, bool want_status);
/* The guest acknowledged (EOI) or unmasked a pin of KVM_IRQCHIP_*. */
void dev_irq_acked(struct dev_irqchip *chip, unsigned irqchip, unsigned pin);
void dev_irq_unmasked(struct dev_irqchip *chip, unsigned irqchip, unsigned pin);
/* Split: does the client want to know of EOIs of this level vector? */
bool dev_irq_wants_eoi_exit(const struct dev_irqchip *chip, uint8_t vector);

/* --- msg.c --- */
/* -1: nobody is named; else the number of LAPICs that took it. @source: the sending LAPIC, NULL for devices. */
int dev_msg_deliver(struct dev_irqchip *chip, const struct dev_lapic *source, const struct dev_msg *msg);
bool dev_msg_matches(const struct dev_irqchip *chip, const struct dev_lapic *source, const struct dev_lapic *target,
		     const struct dev_msg *msg);

/* --- lapic.c --- */
static inline uint64_t lapic_base(const struct dev_lapic *l)
{
	return atomic_load_explicit(&l->base, memory_order_relaxed);
}
static inline bool lapic_is_hw_enabled(const struct dev_lapic *l) { return lapic_base(l) & DEV_APIC_BASE_ENABLE; }
static inline bool lapic_is_x2(const struct dev_lapic *l)
{
	return (lapic_base(l) & (DEV_APIC_BASE_ENABLE | DEV_APIC_BASE_X2APIC)) ==
	       (DEV_APIC_BASE_ENABLE | DEV_APIC_BASE_X2APIC);
}
static inline bool lapic_is_sw_enabled(const struct dev_lapic *l) { return l->regs[APIC_SPIV] & APIC_SPIV_ENABLE; }

/* Bit sets of 256 vectors: ISR, TMR, IRR. */
static inline bool lapic_test(const struct dev_lapic *l, enum apic_reg set, uint8_t v)
{
	return l->regs[set + v / 32] & BIT(v % 32);
}
int lapic_highest(const struct dev_lapic *l, enum apic_reg set);
uint32_t lapic_ppr(const struct dev_lapic *l);
int lapic_set_base(struct dev_lapic *l, uint64_t value, bool host);
void lapic_eoi(struct dev_lapic *l);
/* Take a message that names this LAPIC. 1 taken, 0 dropped. */
int lapic_accept(struct dev_lapic *l, const struct dev_msg *msg);
/* An event of the LAPIC's own: through the LVT entry, if that is open. */
void lapic_deliver_local(struct dev_lapic *l, enum apic_reg lvt);
/* Recompute the pending word; kicks for new bits. After any change to IRR, ISR, TPR, base or events. */
void lapic_update(struct dev_lapic *l);
/* The PIC's output, or who listens to it, may have changed. */
void dev_extint_update(struct dev_irqchip *chip);

/* --- lapic_regs.c --- */
void lapic_mmio(struct dev_lapic *l, unsigned offset, unsigned len, void *data, bool is_write);
uint32_t lapic_version(const struct dev_lapic *l);
uint32_t lapic_x2_ldr(const struct dev_lapic *l);

/* --- lapic_timer.c --- */
dev_timer_fn lapic_timer_fn;
void lapic_timer_stop(struct dev_lapic *l);		/* and forget: TMICT, deadline */
void lapic_timer_write_count(struct dev_lapic *l, uint32_t count);
void lapic_timer_write_divider(struct dev_lapic *l, uint32_t value);
void lapic_timer_write_lvt(struct dev_lapic *l, uint32_t value);
void lapic_timer_write_deadline(struct dev_lapic *l, uint64_t tsc);
uint64_t lapic_timer_read_deadline(const struct dev_lapic *l);
uint32_t lapic_timer_current(const struct dev_lapic *l);
void lapic_timer_restore(struct dev_lapic *l, uint32_t current);
void lapic_timer_rearm_deadline(struct dev_lapic *l);

#endif
