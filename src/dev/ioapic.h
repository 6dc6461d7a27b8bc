/* SPDX-License-Identifier: MIT */
/*
 * The 82093AA-like IOAPIC with 24 pins, version 0x11. Not for vm/: use irqchip.h. Runs with the chip's lock held.
 *
 * irr bit: the line is high. delivered bit: an edge was sent and the line has not fallen yet; saved state leaves such pins
 * out of irr so that restoring does not send the edge twice. RTC (pin 8): ticks asked for with status are tracked until every
 * LAPIC that got one has EOIed.
 */
#ifndef GW_DEV_IOAPIC_H
#define GW_DEV_IOAPIC_H

#include "dev/irqchip.h"

#define DEV_IOAPIC_PINS		KVM_IOAPIC_NUM_PINS
#define DEV_IOAPIC_RTC_PIN	8

struct dev_ioapic {
	uint64_t base;
	uint32_t select, id, irr, delivered;
	uint64_t redir[DEV_IOAPIC_PINS];
	uint32_t line_sources[DEV_IOAPIC_PINS];	/* bit per enum dev_irq_source */
	uint32_t n_redelivered[DEV_IOAPIC_PINS];	/* level interrupts in a row that came back at EOI */
	uint32_t n_rtc_pending;			/* LAPICs with an rtc_vector */
	struct dev_timer storm_timer;
};

void dev_ioapic_reset(struct dev_irqchip *chip);
int dev_ioapic_set_line(struct dev_irqchip *chip, unsigned pin, enum dev_irq_source source, bool level, bool want_status);

/* A LAPIC EOIed this vector; level: its TMR bit was set. */
void dev_ioapic_eoi(struct dev_irqchip *chip, struct dev_lapic *lapic, uint8_t vector, bool is_level);

bool dev_ioapic_mmio(struct dev_irqchip *chip, uint64_t gpa, unsigned len, void *data, bool is_write);

void dev_ioapic_get(const struct dev_ioapic *ioapic, struct kvm_ioapic_state *state);
void dev_ioapic_set(struct dev_irqchip *chip, const struct kvm_ioapic_state *state);

/* Recount which LAPICs still owe an EOI for the RTC, after their state or ours was replaced. */
void dev_ioapic_rtc_restore(struct dev_irqchip *chip);

#endif
