/* SPDX-License-Identifier: MIT */
/*
 * The VM's set of interrupt controllers: life, options, and the guest's accesses to the right one.
 */
#include "dev/irqchip.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dev/irqchip_private.h"

#define LAPIC_PAGE_SIZE		0x1000
#define MAX_BUS_CYCLE_NS	(1ull << 22)	/* the longest count is 2^32 * 128 cycles and must stay below 2^62 ns */

#define QUIRK_LINT0_REENABLED	(1ull << 0)
#define QUIRK_LAPIC_MMIO_HOLE	(1ull << 2)

int dev_irqchip_create(struct dev_irqchip **out, enum dev_irqchip_mode mode, uint32_t n_pins,
		       const struct dev_irqchip_ops *ops, void *opaque, struct dev_timers *timers)
{
	struct dev_irqchip *chip;
	int err;

	if (mode == DEV_IRQCHIP_SPLIT && n_pins > DEV_MAX_GSI)
		return -EINVAL;
	chip = calloc(1, sizeof(*chip));
	if (!chip)
		return -ENOMEM;
	err = dev_routing_create_default(&chip->routing, mode);
	if (err) {
		free(chip);
		return err;
	}
	chip->mode = mode;
	chip->n_split_pins = mode == DEV_IRQCHIP_SPLIT ? n_pins : 0;
	chip->ops = ops;
	chip->opaque = opaque;
	chip->timers = timers;
	chip->bus_cycle_ns = 1;
	chip->has_broadcast_quirk = true;
	chip->has_lint0_quirk = true;
	chip->has_mmio_hole_quirk = true;
	pthread_mutex_init(&chip->lock, NULL);
	dev_pic_reset(&chip->pic);
	dev_ioapic_reset(chip);
	*out = chip;
	return 0;
}

void dev_irqchip_destroy(struct dev_irqchip *chip)
{
	if (!chip)
		return;
	dev_pit_destroy(chip->pit);
	for (unsigned i = 0; i < chip->n_lapics; i++)
		dev_lapic_destroy(chip->lapic[i]);
	/* Nobody EOIs any more, so nothing arms it again. */
	dev_timer_cancel_sync(chip->timers, &chip->ioapic.storm_timer);
	dev_routing_destroy(chip->routing);
	pthread_mutex_destroy(&chip->lock);
	free(chip);
}

enum dev_irqchip_mode dev_irqchip_mode(const struct dev_irqchip *chip)
{
	return chip->mode;
}

int dev_irqchip_set_x2apic_api(struct dev_irqchip *chip, uint64_t flags)
{
	const uint64_t enable = KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST, disable = KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST;

	if (flags & ~(KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK | enable | disable))
		return -EINVAL;
	/* Our own IOAPIC has no EOI register for the guest to write instead. */
	if (flags & enable && (flags & disable || chip->mode != DEV_IRQCHIP_SPLIT))
		return -EINVAL;
	dev_lock(chip);
	if (flags & (enable | disable))
		chip->directed_eoi = flags & enable ? DIRECTED_EOI_DONE : DIRECTED_EOI_NONE;
	/* Options are only ever added, as in KVM. */
	if (flags & KVM_X2APIC_API_USE_32BIT_IDS)
		chip->has_32bit_ids = true;
	if (flags & KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK)
		chip->has_broadcast_quirk = false;
	dev_unlock(chip);
	return 0;
}

int dev_irqchip_set_bus_cycle_ns(struct dev_irqchip *chip, uint64_t ns)
{
	if (!ns || ns > MAX_BUS_CYCLE_NS)
		return -EINVAL;
	dev_lock(chip);
	chip->bus_cycle_ns = ns;
	dev_unlock(chip);
	return 0;
}

void dev_irqchip_disable_quirks(struct dev_irqchip *chip, uint64_t quirks)
{
	dev_lock(chip);
	if (quirks & QUIRK_LINT0_REENABLED)
		chip->has_lint0_quirk = false;
	if (quirks & QUIRK_LAPIC_MMIO_HOLE)
		chip->has_mmio_hole_quirk = false;
	dev_unlock(chip);
}

/* --- guest accesses ---------------------------------------------------------------------------------------------- */

/* In x2APIC mode, or disabled, the page is a hole: ones and nothing, unless the client gave that quirk up. */
static bool lapic_page(struct dev_lapic *l, uint64_t gpa, unsigned len, void *data, bool is_write)
{
	uint64_t base = lapic_base(l) & ~(uint64_t)GW_PAGE_MASK;

	if (gpa < base || gpa - base >= LAPIC_PAGE_SIZE)
		return false;
	if (lapic_is_hw_enabled(l) && !lapic_is_x2(l)) {
		lapic_mmio(l, (unsigned)(gpa - base), len, data, is_write);
		return true;
	}
	if (!l->chip->has_mmio_hole_quirk)
		return false;
	if (!is_write)
		memset(data, 0xff, len);
	return true;
}

bool dev_mmio(struct dev_irqchip *chip, struct dev_lapic *lapic, struct gpa gpa, unsigned len, void *data, bool is_write)
{
	bool handled;

	if (!len || len > 8)
		return false;
	dev_lock(chip);
	handled = (lapic && lapic_page(lapic, gpa.v, len, data, is_write)) ||
		  (chip->mode == DEV_IRQCHIP_FULL && dev_ioapic_mmio(chip, gpa.v, len, data, is_write));
	dev_unlock(chip);
	return handled;
}

bool dev_pio(struct dev_irqchip *chip, uint16_t port, unsigned len, void *data, bool is_write)
{
	bool handled;

	if (chip->mode != DEV_IRQCHIP_FULL || !len || len > 8)
		return false;
	dev_lock(chip);
	handled = dev_pic_pio(chip, port, len, data, is_write) ||
		  (chip->pit && dev_pit_pio(chip->pit, port, len, data, is_write));
	dev_unlock(chip);
	return handled;
}

/* --- state ------------------------------------------------------------------------------------------------------- */

int dev_irqchip_get(struct dev_irqchip *chip, struct kvm_irqchip *state)
{
	int err = 0;

	if (chip->mode != DEV_IRQCHIP_FULL)
		return -ENXIO;
	memset(&state->chip, 0, sizeof(state->chip));
	dev_lock(chip);
	switch (state->chip_id) {
	case KVM_IRQCHIP_PIC_MASTER:
	case KVM_IRQCHIP_PIC_SLAVE:
		dev_pic_get(&chip->pic, state->chip_id, &state->chip.pic);
		break;
	case KVM_IRQCHIP_IOAPIC:
		dev_ioapic_get(&chip->ioapic, &state->chip.ioapic);
		break;
	default:
		err = -EINVAL;
		break;
	}
	dev_unlock(chip);
	return err;
}

int dev_irqchip_set(struct dev_irqchip *chip, const struct kvm_irqchip *state)
{
	int err = 0;

	if (chip->mode != DEV_IRQCHIP_FULL)
		return -ENXIO;
	dev_lock(chip);
	switch (state->chip_id) {
	case KVM_IRQCHIP_PIC_MASTER:
	case KVM_IRQCHIP_PIC_SLAVE:
		dev_pic_set(chip, state->chip_id, &state->chip.pic);
		break;
	case KVM_IRQCHIP_IOAPIC:
		dev_ioapic_set(chip, &state->chip.ioapic);
		break;
	default:
		err = -EINVAL;
		break;
	}
	dev_unlock(chip);
	return err;
}
