/* SPDX-License-Identifier: MIT */
/*
 * The local APIC's core: life, APIC_BASE, accepting messages, priorities, acknowledge and EOI, pending events, saved state.
 * Registers as the guest sees them are in lapic_regs.c, the timer in lapic_timer.c.
 *
 * Invariant: whenever the chip's lock is dropped, word.pending says exactly what dev_lapic_ack() and the events would give.
 * Source: Intel SDM vol. 3 "Advanced Programmable Interrupt Controller"; KVM_GET_LAPIC in KVM's API document.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dev/irqchip_private.h"

#define BASE_MODE	(DEV_APIC_BASE_ENABLE | DEV_APIC_BASE_X2APIC)
#define BASE_RESERVED	0x2ffull
#define MAX_NMIS	2	/* one in service's shadow, one waiting: KVM's limit */

/* --- priorities and the pending word ----------------------------------------------------------------------------- */

int lapic_highest(const struct dev_lapic *l, enum apic_reg set)
{
	for (int i = 7; i >= 0; i--) {
		uint32_t bits = l->regs[(unsigned)set + (unsigned)i];

		if (bits)
			return i * 32 + 31 - __builtin_clz(bits);
	}
	return -1;
}

static void set_vector(struct dev_lapic *l, enum apic_reg set, uint8_t v, bool value)
{
	if (value)
		l->regs[set + v / 32] |= BIT(v % 32);
	else
		l->regs[set + v / 32] &= ~BIT(v % 32);
}

uint32_t lapic_ppr(const struct dev_lapic *l)
{
	int isr = lapic_highest(l, APIC_ISR);
	uint32_t in_service = isr < 0 ? 0 : (uint32_t)isr & 0xf0;
	uint32_t tpr = l->regs[APIC_TPR] & 0xff;

	return (tpr & 0xf0) >= in_service ? tpr : in_service;
}

/* The IRR vector that may interrupt now. Software disable holds back nothing that is already in IRR. */
static int deliverable(const struct dev_lapic *l)
{
	int irr = lapic_is_hw_enabled(l) ? lapic_highest(l, APIC_IRR) : -1;

	return irr >= 0 && ((uint32_t)irr & 0xf0) > (lapic_ppr(l) & 0xf0) ? irr : -1;
}

static bool accepts_extint(const struct dev_lapic *l)
{
	if (!lapic_is_hw_enabled(l))
		return true;
	return (l->regs[APIC_LVT0] & (APIC_LVT_MASKED | APIC_LVT_MODE)) == (unsigned)DEV_DM_EXTINT << 8;
}

/* The PIC has one INTR wire: the first LAPIC that listens gets it, in practice the BSP. */
static bool sees_pic(const struct dev_lapic *l)
{
	const struct dev_irqchip *chip = l->chip;

	if (chip->mode != DEV_IRQCHIP_FULL || !chip->pic.output || !accepts_extint(l))
		return false;
	for (unsigned i = 0; i < l->index; i++) {
		if (chip->lapic[i] && accepts_extint(chip->lapic[i]))
			return false;
	}
	return true;
}

void lapic_update(struct dev_lapic *l)
{
	uint32_t old = atomic_load_explicit(&l->word.pending, memory_order_relaxed);
	uint32_t now = l->events;

	if (deliverable(l) >= 0 || sees_pic(l))
		now |= DEV_PEND_INTR;
	if (now == old)
		return;
	atomic_store_explicit(&l->word.pending, now, memory_order_seq_cst);
	if (now & ~old)
		l->chip->ops->kick(l->chip->opaque, l->index);
}

void dev_extint_update(struct dev_irqchip *chip)
{
	for (unsigned i = 0; i < chip->n_lapics; i++) {
		if (chip->lapic[i])
			lapic_update(chip->lapic[i]);
	}
}

/* --- accepting --------------------------------------------------------------------------------------------------- */

static int accept_vector(struct dev_lapic *l, const struct dev_msg *msg)
{
	if ((msg->is_level && !msg->is_assert) || !lapic_is_sw_enabled(l))
		return 0;
	set_vector(l, APIC_TMR, msg->vector, msg->is_level);
	set_vector(l, APIC_IRR, msg->vector, true);
	if (l->is_pv_eoi_armed)
		l->events |= DEV_PEND_PV_EOI;	/* the EOI that would let this in may be just a cleared byte by now */
	if (msg->is_rtc && l->rtc_vector < 0) {
		l->rtc_vector = msg->vector;
		l->chip->ioapic.n_rtc_pending++;
	}
	return 1;
}

static int accept_event(struct dev_lapic *l, const struct dev_msg *msg)
{
	switch (msg->mode) {
	case DEV_DM_SMI:
		if (!l->features.has_smm)
			return 0;
		l->events |= DEV_PEND_SMI;
		return 1;
	case DEV_DM_REMOTE_READ:	/* reused by KVM for its PV kick */
		l->events |= DEV_PEND_UNHALT;
		return 1;
	case DEV_DM_NMI:
		l->n_nmi += l->n_nmi < MAX_NMIS;
		l->events |= DEV_PEND_NMI;
		return 1;
	case DEV_DM_INIT:
		if (msg->is_level && !msg->is_assert)
			return 0;	/* INIT level de-assert: arbitration ids only */
		l->events = (l->events & ~(uint32_t)DEV_PEND_SIPI) | DEV_PEND_INIT;
		return 1;
	case DEV_DM_SIPI:
		l->sipi_vector = msg->vector;
		l->events |= DEV_PEND_SIPI;
		return 1;
	default:
		return 0;	/* ExtINT: only the PIC's wire makes one */
	}
}

int lapic_accept(struct dev_lapic *l, const struct dev_msg *msg)
{
	int result;

	if (msg->mode == DEV_DM_LOWEST)
		l->n_arbitrated++;
	if (msg->mode == DEV_DM_FIXED || msg->mode == DEV_DM_LOWEST)
		result = accept_vector(l, msg);
	else
		result = accept_event(l, msg);
	lapic_update(l);
	return result;
}

void lapic_deliver_local(struct dev_lapic *l, enum apic_reg lvt)
{
	uint32_t entry = l->regs[lvt];
	struct dev_msg msg = {
		.vector = (uint8_t)entry,
		.mode = lvt == APIC_LVTT ? DEV_DM_FIXED : (enum dev_delivery)(entry >> 8 & 7),
		.is_assert = true,
	};

	if (lapic_is_hw_enabled(l) && !(entry & APIC_LVT_MASKED))
		lapic_accept(l, &msg);
}

/* --- acknowledge and EOI ----------------------------------------------------------------------------------------- */

int dev_lapic_ack(struct dev_lapic *l)
{
	int vector;

	dev_lock(l->chip);
	if (sees_pic(l)) {
		vector = dev_pic_ack(l->chip);
	} else {
		vector = deliverable(l);
		if (vector >= 0) {
			set_vector(l, APIC_IRR, (uint8_t)vector, false);
			set_vector(l, APIC_ISR, (uint8_t)vector, true);
		}
	}
	lapic_update(l);
	dev_unlock(l->chip);
	return vector;
}

bool dev_lapic_has_injectable(struct dev_lapic *l)
{
	return dev_lapic_pending(l) & DEV_PEND_INTR;
}

bool dev_lapic_accepts_extint(struct dev_lapic *l)
{
	bool accepts;

	if (!l)
		return true;
	dev_lock(l->chip);
	accepts = accepts_extint(l);
	dev_unlock(l->chip);
	return accepts;
}

bool dev_lapic_is_enabled(struct dev_lapic *l)
{
	bool is_enabled;

	dev_lock(l->chip);
	is_enabled = lapic_is_hw_enabled(l) && lapic_is_sw_enabled(l);
	dev_unlock(l->chip);
	return is_enabled;
}

void dev_lapic_raise(struct dev_lapic *l, uint8_t vector)
{
	struct dev_msg msg = { .mode = DEV_DM_FIXED, .vector = vector, .is_assert = true };

	dev_lock(l->chip);
	lapic_accept(l, &msg);
	dev_unlock(l->chip);
}

/* The guest writes to the client's IOAPIC itself. As it may read that it can, where the client has not asked for it, but is not believed. */
static bool is_broadcast_suppressed(const struct dev_lapic *l)
{
	return l->chip->directed_eoi == DIRECTED_EOI_DONE && l->regs[APIC_SPIV] & APIC_SPIV_DIRECTED_EOI;
}

void lapic_eoi(struct dev_lapic *l)
{
	struct dev_irqchip *chip = l->chip;
	int vector = lapic_highest(l, APIC_ISR);
	bool is_level;

	l->is_pv_eoi_armed = false;
	if (vector < 0)
		return;
	set_vector(l, APIC_ISR, (uint8_t)vector, false);
	is_level = lapic_test(l, APIC_TMR, (uint8_t)vector);
	if (chip->mode == DEV_IRQCHIP_FULL)
		dev_ioapic_eoi(chip, l, (uint8_t)vector, is_level);
	else if (is_level && !is_broadcast_suppressed(l) && dev_irq_wants_eoi_exit(chip, (uint8_t)vector) && chip->ops->eoi_exit)
		chip->ops->eoi_exit(chip->opaque, l->index, (uint8_t)vector);
	lapic_update(l);
}

/* An IOAPIC pin with this vector may wait for the EOI: its guest must write the register. */
static bool ioapic_uses_vector(const struct dev_irqchip *chip, uint8_t vector)
{
	for (unsigned pin = 0; pin < DEV_IOAPIC_PINS; pin++) {
		if ((uint8_t)chip->ioapic.redir[pin] == vector)
			return true;
	}
	return false;
}

bool dev_lapic_pv_eoi_arm(struct dev_lapic *l)
{
	bool armed;
	int isr;

	dev_lock(l->chip);
	isr = lapic_highest(l, APIC_ISR);
	armed = isr >= 0 && lapic_is_hw_enabled(l) && lapic_highest(l, APIC_IRR) < 0 &&
		!lapic_test(l, APIC_TMR, (uint8_t)isr) &&
		!(l->chip->mode == DEV_IRQCHIP_FULL && ioapic_uses_vector(l->chip, (uint8_t)isr));
	l->is_pv_eoi_armed = armed;
	dev_unlock(l->chip);
	return armed;
}

void dev_lapic_pv_eoi_sync(struct dev_lapic *l, bool guest_cleared)
{
	dev_lock(l->chip);
	l->events &= ~(uint32_t)DEV_PEND_PV_EOI;
	if (l->is_pv_eoi_armed && guest_cleared)
		lapic_eoi(l);
	l->is_pv_eoi_armed = false;
	lapic_update(l);
	dev_unlock(l->chip);
}

/* --- events ------------------------------------------------------------------------------------------------------ */

static void read_events(const struct dev_lapic *l, struct dev_lapic_events *ev)
{
	*ev = (struct dev_lapic_events){
		.n_nmi = l->n_nmi,
		.is_init = l->events & DEV_PEND_INIT,
		.is_sipi = l->events & DEV_PEND_SIPI,
		.is_smi = l->events & DEV_PEND_SMI,
		.is_unhalt = l->events & DEV_PEND_UNHALT,
		.sipi_vector = l->sipi_vector,
	};
}

void dev_lapic_take_events(struct dev_lapic *l, uint32_t mask, struct dev_lapic_events *ev)
{
	mask &= DEV_PEND_NMI | DEV_PEND_INIT | DEV_PEND_SIPI | DEV_PEND_SMI | DEV_PEND_UNHALT;
	dev_lock(l->chip);
	read_events(l, ev);
	ev->n_nmi = mask & DEV_PEND_NMI ? ev->n_nmi : 0;
	ev->is_init &= !!(mask & DEV_PEND_INIT);
	ev->is_sipi &= !!(mask & DEV_PEND_SIPI);
	ev->is_smi &= !!(mask & DEV_PEND_SMI);
	ev->is_unhalt &= !!(mask & DEV_PEND_UNHALT);
	l->events &= ~mask;
	if (mask & DEV_PEND_NMI)
		l->n_nmi = 0;
	lapic_update(l);
	dev_unlock(l->chip);
}

void dev_lapic_peek_events(struct dev_lapic *l, struct dev_lapic_events *ev)
{
	dev_lock(l->chip);
	read_events(l, ev);
	dev_unlock(l->chip);
}

void dev_lapic_post_events(struct dev_lapic *l, const struct dev_lapic_events *ev)
{
	static const enum dev_delivery modes[] = { DEV_DM_INIT, DEV_DM_SIPI, DEV_DM_SMI, DEV_DM_REMOTE_READ };
	const bool posted[] = { ev->is_init, ev->is_sipi, ev->is_smi, ev->is_unhalt };
	unsigned n_nmi = ev->n_nmi < MAX_NMIS ? ev->n_nmi : MAX_NMIS;

	dev_lock(l->chip);
	for (unsigned i = 0; i < ARRAY_SIZE(modes); i++) {
		if (posted[i])
			accept_event(l, &(struct dev_msg){ .mode = modes[i], .vector = ev->sipi_vector });
	}
	while (n_nmi--)
		accept_event(l, &(struct dev_msg){ .mode = DEV_DM_NMI });
	lapic_update(l);
	dev_unlock(l->chip);
}

/* --- APIC_BASE and CR8 ------------------------------------------------------------------------------------------- */

/* Modes of the two enable bits: 0 disabled, ENABLE xAPIC, both x2APIC; x2APIC alone does not exist. */
static bool is_transition_legal(uint64_t from, uint64_t to)
{
	from &= BASE_MODE;
	to &= BASE_MODE;
	if (from == BASE_MODE && to == DEV_APIC_BASE_ENABLE)
		return false;
	return !(from == 0 && to == BASE_MODE);
}

static void enter_mode(struct dev_lapic *l, uint64_t from, uint64_t to)
{
	if ((from & BASE_MODE) == BASE_MODE)
		l->regs[APIC_LDR] = 0;	/* an x2APIC's is derived and means nothing elsewhere */
	if ((to & BASE_MODE) == BASE_MODE) {
		l->regs[APIC_ID] = l->id;
		l->regs[APIC_LDR] = lapic_x2_ldr(l);
	} else if (to & DEV_APIC_BASE_ENABLE) {
		l->regs[APIC_ID] = l->id << 24;
	}
}

int lapic_set_base(struct dev_lapic *l, uint64_t value, bool host)
{
	uint64_t old = lapic_base(l), reserved = BASE_RESERVED;

	if (l->features.maxphyaddr < 64)
		reserved |= ~0ull << l->features.maxphyaddr;
	if (!l->features.has_x2apic)
		reserved |= DEV_APIC_BASE_X2APIC;
	if ((value & reserved) || (value & BASE_MODE) == DEV_APIC_BASE_X2APIC)
		return -EINVAL;
	if (!host && !is_transition_legal(old, value))
		return -EINVAL;
	atomic_store_explicit(&l->base, value, memory_order_relaxed);
	if ((old ^ value) & BASE_MODE)
		enter_mode(l, old, value);
	lapic_update(l);
	dev_extint_update(l->chip);
	return 0;
}

uint64_t dev_lapic_base(const struct dev_lapic *l)
{
	return lapic_base(l);
}

uint8_t dev_lapic_cr8(struct dev_lapic *l)
{
	uint8_t cr8;

	dev_lock(l->chip);
	cr8 = (l->regs[APIC_TPR] >> 4) & 15;
	dev_unlock(l->chip);
	return cr8;
}

void dev_lapic_set_cr8(struct dev_lapic *l, uint8_t cr8)
{
	dev_lock(l->chip);
	l->regs[APIC_TPR] = (uint32_t)(cr8 & 15) << 4;
	lapic_update(l);
	dev_unlock(l->chip);
}

/* --- life -------------------------------------------------------------------------------------------------------- */

static void forget_rtc(struct dev_lapic *l)
{
	if (l->rtc_vector >= 0)
		l->chip->ioapic.n_rtc_pending--;
	l->rtc_vector = -1;
}

static void reset_registers(struct dev_lapic *l)
{
	static const uint8_t lvts[] = {
		APIC_LVTT, APIC_LVTTHMR, APIC_LVTPC, APIC_LVT0, APIC_LVT1, APIC_LVTERR,
	};
	uint32_t id = l->regs[APIC_ID];

	lapic_timer_stop(l);
	memset(l->regs, 0, sizeof(l->regs));
	l->regs[APIC_ID] = id;
	l->regs[APIC_LVR] = lapic_version(l);
	l->regs[APIC_LDR] = lapic_is_x2(l) ? lapic_x2_ldr(l) : 0;
	l->regs[APIC_DFR] = ~0u;
	l->regs[APIC_SPIV] = 0xff;
	for (unsigned i = 0; i < ARRAY_SIZE(lvts); i++)
		l->regs[lvts[i]] = APIC_LVT_MASKED;
	if (l->features.has_cmci)
		l->regs[APIC_LVTCMCI] = APIC_LVT_MASKED;
	/* The BIOS's virtual wire, which KVM sets up itself. */
	if (l->is_bsp && l->chip->has_lint0_quirk)
		l->regs[APIC_LVT0] = (unsigned)DEV_DM_EXTINT << 8;
	l->n_arbitrated = 0;
	l->is_pv_eoi_armed = false;
	l->n_nmi = 0;
	l->events &= ~(uint32_t)(DEV_PEND_PV_EOI | DEV_PEND_NMI | DEV_PEND_UNHALT);
	forget_rtc(l);
}

static void reset_locked(struct dev_lapic *l)
{
	atomic_store_explicit(&l->base, DEV_APIC_DEFAULT_BASE | DEV_APIC_BASE_ENABLE | (l->is_bsp ? DEV_APIC_BASE_BSP : 0),
			      memory_order_relaxed);
	l->events = 0;
	l->regs[APIC_ID] = l->id << 24;
	reset_registers(l);
	lapic_update(l);
	dev_extint_update(l->chip);
}

void dev_lapic_reset(struct dev_lapic *l)
{
	dev_lock(l->chip);
	reset_locked(l);
	dev_unlock(l->chip);
}

void dev_lapic_init(struct dev_lapic *l)
{
	dev_lock(l->chip);
	reset_registers(l);
	lapic_update(l);
	dev_extint_update(l->chip);
	dev_unlock(l->chip);
}

int dev_lapic_create(struct dev_lapic **out, struct dev_irqchip *chip, unsigned vcpu_index, uint32_t apic_id, bool is_bsp)
{
	struct dev_lapic *l;
	int err = 0;

	if (vcpu_index >= DEV_MAX_VCPUS)
		return -EINVAL;
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->chip = chip;
	l->index = vcpu_index;
	l->id = apic_id;
	l->is_bsp = is_bsp;
	l->features.maxphyaddr = 36;
	l->tsc_khz = 1000000;
	l->rtc_vector = -1;
	dev_timer_init(&l->timer, lapic_timer_fn);
	dev_lock(chip);
	if (chip->lapic[vcpu_index]) {
		err = -EEXIST;
	} else {
		chip->lapic[vcpu_index] = l;
		if (chip->n_lapics <= vcpu_index)
			chip->n_lapics = vcpu_index + 1;
		reset_locked(l);
	}
	dev_unlock(chip);
	if (err)
		free(l);
	else
		*out = l;
	return err;
}

void dev_lapic_destroy(struct dev_lapic *l)
{
	struct dev_irqchip *chip;

	if (!l)
		return;
	chip = l->chip;
	dev_lock(chip);
	lapic_timer_stop(l);
	forget_rtc(l);
	chip->lapic[l->index] = NULL;
	dev_extint_update(chip);
	dev_unlock(chip);
	/* A callback already under way finds the timer stopped and arms nothing. */
	dev_timer_cancel_sync(chip->timers, &l->timer);
	free(l);
}

void dev_lapic_set_features(struct dev_lapic *l, const struct dev_lapic_features *f)
{
	dev_lock(l->chip);
	if (f->has_cmci && !l->features.has_cmci)
		l->regs[APIC_LVTCMCI] = APIC_LVT_MASKED;
	l->features = *f;
	l->regs[APIC_LVR] = lapic_version(l);
	dev_unlock(l->chip);
}

/* --- saved state ------------------------------------------------------------------------------------------------- */

static uint32_t page_read(const struct kvm_lapic_state *s, unsigned reg)
{
	uint32_t v;

	memcpy(&v, &s->regs[reg << 4], sizeof(v));
	return v;
}

static void page_write(struct kvm_lapic_state *s, unsigned reg, uint32_t v)
{
	memcpy(&s->regs[reg << 4], &v, sizeof(v));
}

int dev_lapic_get_state(struct dev_lapic *l, struct kvm_lapic_state *state)
{
	memset(state, 0, sizeof(*state));
	dev_lock(l->chip);
	for (unsigned i = 0; i < APIC_N_REGS; i++)
		page_write(state, i, l->regs[i]);
	page_write(state, APIC_PPR, lapic_ppr(l));
	page_write(state, APIC_TMCCT, lapic_timer_current(l));
	if (lapic_is_x2(l) && !l->chip->has_32bit_ids)
		page_write(state, APIC_ID, l->id << 24);
	dev_unlock(l->chip);
	return 0;
}

int dev_lapic_set_state(struct dev_lapic *l, const struct kvm_lapic_state *state)
{
	bool is_x2;

	dev_lock(l->chip);
	is_x2 = lapic_is_x2(l);
	if (is_x2 && l->chip->has_32bit_ids && page_read(state, APIC_ID) != l->id) {
		dev_unlock(l->chip);
		return -EINVAL;
	}
	for (unsigned i = 0; i < APIC_N_REGS; i++)
		l->regs[i] = page_read(state, i);
	l->regs[APIC_LVR] = lapic_version(l);
	if (is_x2) {
		l->regs[APIC_ID] = l->id;
		l->regs[APIC_LDR] = lapic_x2_ldr(l);
	}
	l->is_pv_eoi_armed = false;
	l->events &= ~(uint32_t)DEV_PEND_PV_EOI;
	lapic_timer_restore(l, page_read(state, APIC_TMCCT));
	if (l->chip->mode == DEV_IRQCHIP_FULL)
		dev_ioapic_rtc_restore(l->chip);
	lapic_update(l);
	dev_extint_update(l->chip);
	dev_unlock(l->chip);
	return 0;
}
