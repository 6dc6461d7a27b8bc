/* SPDX-License-Identifier: MIT */
/*
 * GSIs: which pins or message each one drives, and the way back from a pin to its GSI for acknowledgements. A table is
 * immutable; KVM_SET_GSI_ROUTING builds a new one, checks it whole, and swaps.
 * Source: KVM's API document, KVM_SET_GSI_ROUTING, KVM_IRQ_LINE_STATUS, KVM_SIGNAL_MSI.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dev/irqchip_private.h"

static bool is_entry_valid(const struct kvm_irq_routing_entry *e, enum dev_irqchip_mode mode, bool has_32bit_ids)
{
	if (e->gsi >= DEV_MAX_GSI)
		return false;
	if (e->type == KVM_IRQ_ROUTING_MSI)
		return !(e->flags & ~KVM_MSI_VALID_DEVID) && !(has_32bit_ids && (e->u.msi.address_hi & 0xff));
	if (e->type != KVM_IRQ_ROUTING_IRQCHIP || e->flags || mode == DEV_IRQCHIP_SPLIT)
		return false;
	if (e->u.irqchip.irqchip == KVM_IRQCHIP_IOAPIC)
		return e->u.irqchip.pin < DEV_IOAPIC_PINS;
	return e->u.irqchip.irqchip <= KVM_IRQCHIP_PIC_SLAVE && e->u.irqchip.pin < 8;
}

/* A GSI may drive one pin on each chip, or be one message. */
static bool may_share_gsi(const struct kvm_irq_routing_entry *a, const struct kvm_irq_routing_entry *b)
{
	return a->type == KVM_IRQ_ROUTING_IRQCHIP && b->type == KVM_IRQ_ROUTING_IRQCHIP &&
	       a->u.irqchip.irqchip != b->u.irqchip.irqchip;
}

/* Place @e at the end of its GSI's run; first[gsi] is the run's start, n_used its length so far. */
static int place(struct dev_routing *r, uint32_t *n_used, const struct kvm_irq_routing_entry *e)
{
	struct kvm_irq_routing_entry *run = &r->entry[r->first[e->gsi]];

	for (uint32_t i = 0; i < n_used[e->gsi]; i++) {
		if (!may_share_gsi(&run[i], e))
			return -EINVAL;
	}
	run[n_used[e->gsi]++] = *e;
	if (e->type == KVM_IRQ_ROUTING_IRQCHIP)
		r->gsi_of[e->u.irqchip.irqchip][e->u.irqchip.pin] = (int32_t)e->gsi;
	return 0;
}

int dev_routing_create(struct dev_routing **out, enum dev_irqchip_mode mode, bool has_32bit_ids,
		       const struct kvm_irq_routing_entry *entries, uint32_t n)
{
	struct dev_routing *r;
	uint32_t *n_used;
	int err = 0;

	if (n > DEV_MAX_GSI)
		return -EINVAL;
	for (uint32_t i = 0; i < n; i++) {
		if (!is_entry_valid(&entries[i], mode, has_32bit_ids))
			return -EINVAL;
	}
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++)
		r->n_gsi = entries[i].gsi >= r->n_gsi ? entries[i].gsi + 1 : r->n_gsi;
	memset(r->gsi_of, 0xff, sizeof(r->gsi_of));
	r->first = calloc(r->n_gsi + 1, sizeof(*r->first));
	r->entry = calloc(n + 1, sizeof(*r->entry));
	n_used = calloc(r->n_gsi + 1, sizeof(*n_used));
	if (!r->first || !r->entry || !n_used) {
		err = -ENOMEM;
		goto free_routing;
	}
	for (uint32_t i = 0; i < n; i++)
		r->first[entries[i].gsi + 1]++;
	for (uint32_t gsi = 0; gsi < r->n_gsi; gsi++)
		r->first[gsi + 1] += r->first[gsi];
	for (uint32_t i = 0; i < n && !err; i++)
		err = place(r, n_used, &entries[i]);
free_routing:
	free(n_used);
	if (err)
		dev_routing_destroy(r);
	else
		*out = r;
	return err;
}

int dev_routing_create_default(struct dev_routing **out, enum dev_irqchip_mode mode)
{
	struct kvm_irq_routing_entry e[16 + DEV_IOAPIC_PINS];
	uint32_t n = 0;

	memset(e, 0, sizeof(e));
	for (uint32_t gsi = 0; gsi < DEV_IOAPIC_PINS && mode == DEV_IRQCHIP_FULL; gsi++) {
		e[n].gsi = gsi;
		e[n].type = KVM_IRQ_ROUTING_IRQCHIP;
		e[n].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
		e[n++].u.irqchip.pin = gsi;
		if (gsi >= 16)
			continue;
		e[n].gsi = gsi;
		e[n].type = KVM_IRQ_ROUTING_IRQCHIP;
		e[n].u.irqchip.irqchip = gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
		e[n++].u.irqchip.pin = gsi & 7;
	}
	return dev_routing_create(out, mode, false, e, n);
}

void dev_routing_destroy(struct dev_routing *r)
{
	if (!r)
		return;
	free(r->first);
	free(r->entry);
	free(r);
}

int dev_irq_set_routing(struct dev_irqchip *chip, const struct kvm_irq_routing_entry *entries, uint32_t n)
{
	struct dev_routing *new_routing, *old;
	bool has_32bit_ids;
	int err;

	dev_lock(chip);
	has_32bit_ids = chip->has_32bit_ids;
	dev_unlock(chip);
	err = dev_routing_create(&new_routing, chip->mode, has_32bit_ids, entries, n);
	if (err)
		return err;
	dev_lock(chip);
	old = chip->routing;
	chip->routing = new_routing;
	dev_unlock(chip);
	dev_routing_destroy(old);
	return 0;
}

/* --- lines and messages ------------------------------------------------------------------------------------------ */

static int deliver_msi(struct dev_irqchip *chip, uint32_t lo, uint32_t hi, uint32_t data)
{
	struct dev_msg msg = {
		.dest = lo >> 12 & 0xff,
		.vector = (uint8_t)data,
		.mode = (enum dev_delivery)(data >> 8 & 7),
		.is_logical = lo >> 2 & 1,
		.is_redirectable = lo >> 3 & 1,
		.is_level = data >> 15 & 1,
		.is_assert = true,
	};

	if (chip->has_32bit_ids)
		msg.dest |= hi & 0xffffff00;
	return dev_msg_deliver(chip, NULL, &msg);
}

static int drive_route(struct dev_irqchip *chip, const struct kvm_irq_routing_entry *e, enum dev_irq_source source,
		       bool level, bool want_status)
{
	unsigned pin = e->u.irqchip.pin;

	if (e->type == KVM_IRQ_ROUTING_MSI)
		return level ? deliver_msi(chip, e->u.msi.address_lo, e->u.msi.address_hi, e->u.msi.data) : -1;
	if (e->u.irqchip.irqchip == KVM_IRQCHIP_IOAPIC)
		return dev_ioapic_set_line(chip, pin, source, level, want_status);
	return dev_pic_set_line(chip, pin + 8 * e->u.irqchip.irqchip, source, level);
}

int dev_irq_set_line_locked(struct dev_irqchip *chip, enum dev_irq_source source, uint32_t gsi, bool level, bool want_status)
{
	const struct dev_routing *r = chip->routing;
	int result = -1;

	if (gsi >= r->n_gsi)
		return -1;
	for (uint32_t i = r->first[gsi]; i < r->first[gsi + 1]; i++) {
		int one = drive_route(chip, &r->entry[i], source, level, want_status);

		if (one >= 0)
			result = one + (result < 0 ? 0 : result);
	}
	return result;
}

int dev_irq_set_line(struct dev_irqchip *chip, enum dev_irq_source source, uint32_t gsi, bool level, bool want_status)
{
	int result;

	if ((unsigned)source >= DEV_N_IRQ_SOURCES)
		return -1;
	dev_lock(chip);
	result = dev_irq_set_line_locked(chip, source, gsi, level, want_status);
	dev_unlock(chip);
	return result;
}

int dev_irq_msi(struct dev_irqchip *chip, uint64_t address, uint32_t data)
{
	int result;

	dev_lock(chip);
	if (chip->has_32bit_ids && (address >> 32 & 0xff))
		result = -EINVAL;
	else
		result = deliver_msi(chip, (uint32_t)address, (uint32_t)(address >> 32), data);
	dev_unlock(chip);
	return result;
}

/* --- the way back ------------------------------------------------------------------------------------------------ */

static int32_t gsi_of(const struct dev_irqchip *chip, unsigned irqchip, unsigned pin)
{
	return chip->routing->gsi_of[irqchip][pin];
}

void dev_irq_acked(struct dev_irqchip *chip, unsigned irqchip, unsigned pin)
{
	int32_t gsi = gsi_of(chip, irqchip, pin);

	if (gsi < 0)
		return;
	if (gsi == 0 && chip->pit)
		dev_pit_acked(chip->pit);
	if (chip->n_resample[gsi]) {
		dev_irq_set_line_locked(chip, DEV_IRQ_RESAMPLE, (uint32_t)gsi, false, false);
		if (chip->ops->eoi_ack)
			chip->ops->eoi_ack(chip->opaque, (uint32_t)gsi);
	}
}

void dev_irq_unmasked(struct dev_irqchip *chip, unsigned irqchip, unsigned pin)
{
	if (gsi_of(chip, irqchip, pin) == 0 && chip->pit)
		dev_pit_unmasked(chip->pit);
}

int dev_irq_set_resample(struct dev_irqchip *chip, uint32_t gsi, int delta)
{
	int err = 0, n;

	if (gsi >= DEV_MAX_GSI || chip->mode != DEV_IRQCHIP_FULL)
		return -EINVAL;
	dev_lock(chip);
	n = chip->n_resample[gsi] + delta;
	if (n < 0 || n > UINT16_MAX) {
		err = -EINVAL;
	} else {
		chip->n_resample[gsi] = (uint16_t)n;
		if (!n)
			dev_irq_set_line_locked(chip, DEV_IRQ_RESAMPLE, gsi, false, false);
	}
	dev_unlock(chip);
	return err;
}

bool dev_irq_wants_eoi_exit(const struct dev_irqchip *chip, uint8_t vector)
{
	const struct dev_routing *r = chip->routing;
	uint32_t n_gsi = chip->n_split_pins < r->n_gsi ? chip->n_split_pins : r->n_gsi;

	for (uint32_t i = 0; i < r->first[n_gsi]; i++) {
		const struct kvm_irq_routing_entry *e = &r->entry[i];

		if (e->type == KVM_IRQ_ROUTING_MSI && (e->u.msi.data & 0x8000) && (uint8_t)e->u.msi.data == vector)
			return true;
	}
	return false;
}

/* --- KVM's PV interrupts ----------------------------------------------------------------------------------------- */

void dev_irq_pv_kick(struct dev_irqchip *chip, uint32_t apic_id)
{
	struct dev_msg msg = { .mode = DEV_DM_REMOTE_READ, .is_assert = true };

	dev_lock(chip);
	for (unsigned i = 0; i < chip->n_lapics; i++) {
		struct dev_lapic *l = chip->lapic[i];

		if (l && l->id == apic_id && lapic_is_hw_enabled(l))
			lapic_accept(l, &msg);
	}
	dev_unlock(chip);
}

int64_t dev_irq_pv_send_ipi(struct dev_irqchip *chip, uint64_t lo, uint64_t hi, uint32_t min, uint64_t icr,
			    unsigned mask_bits)
{
	unsigned __int128 set = (mask_bits == 32 ? (uint32_t)lo : lo) | (unsigned __int128)hi << mask_bits;
	struct dev_msg msg = {
		.vector = (uint8_t)icr,
		.mode = (enum dev_delivery)(icr >> 8 & 7),
		.is_assert = icr >> 14 & 1,
		.is_level = icr >> 15 & 1,
	};
	int64_t n = 0;

	if (icr & 0xc0800)
		return -22;
	dev_lock(chip);
	for (unsigned i = 0; i < chip->n_lapics; i++) {
		struct dev_lapic *l = chip->lapic[i];
		uint64_t bit = l ? (uint64_t)l->id - min : 0;

		if (l && l->id >= min && bit < 2 * mask_bits && (set >> bit & 1) && lapic_is_hw_enabled(l))
			n += lapic_accept(l, &msg);
	}
	dev_unlock(chip);
	return n;
}
