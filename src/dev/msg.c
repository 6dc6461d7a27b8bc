/* SPDX-License-Identifier: MIT */
/*
 * Interrupt messages on their way to LAPICs: who is named, and which one of several takes a lowest-priority message.
 * Source: Intel SDM vol. 3 "Advanced Programmable Interrupt Controller", "Determining IPI Destination".
 *
 * KVM's rules where they differ from hardware: a device's destination 0xff also reaches LAPICs in x2APIC mode (its broadcast
 * quirk); a vCPU whose id does not fit in 8 bits is reached by that id even in xAPIC mode; two LAPICs may have the same id.
 */
#include "dev/irqchip_private.h"

#define BROADCAST8	0xffu
#define BROADCAST32	0xffffffffu

static bool matches_physical(const struct dev_lapic *l, uint32_t dest)
{
	if (lapic_is_x2(l))
		return dest == l->regs[APIC_ID] || dest == BROADCAST32;
	return dest == l->regs[APIC_ID] >> 24 || dest == BROADCAST8 || (l->id > 0xff && dest == l->id);
}

static bool matches_logical(const struct dev_lapic *l, uint32_t dest)
{
	uint32_t ldr = l->regs[APIC_LDR];

	if (lapic_is_x2(l))
		return dest == BROADCAST32 || ((ldr >> 16) == (dest >> 16) && (ldr & dest & 0xffff));
	if (dest == BROADCAST8)
		return true;
	ldr >>= 24;
	switch (l->regs[APIC_DFR] >> 28) {
	case 0xf:	/* flat */
		return ldr & dest;
	case 0x0:	/* cluster */
		return (ldr >> 4) == (dest >> 4) && (ldr & dest & 0xf);
	default:
		return false;
	}
}

bool dev_msg_matches(const struct dev_irqchip *chip, const struct dev_lapic *source, const struct dev_lapic *target,
		     const struct dev_msg *msg)
{
	uint32_t dest = msg->dest;

	switch (msg->shorthand) {
	case DEV_SH_SELF:
		return target == source;
	case DEV_SH_ALL:
		return true;
	case DEV_SH_OTHERS:
		return target != source;
	case DEV_SH_NONE:
		break;
	}
	if (!source && dest == BROADCAST8 && chip->has_broadcast_quirk && lapic_is_x2(target))
		dest = BROADCAST32;
	return msg->is_logical ? matches_logical(target, dest) : matches_physical(target, dest);
}

/* A broadcast to one arbitrary CPU makes no sense; it goes to all, as KVM has it. */
static bool picks_one(const struct dev_msg *msg)
{
	if (msg->mode != DEV_DM_LOWEST && !msg->is_redirectable)
		return false;
	return msg->is_logical || msg->shorthand != DEV_SH_NONE || (msg->dest != BROADCAST8 && msg->dest != BROADCAST32);
}

int dev_msg_deliver(struct dev_irqchip *chip, const struct dev_lapic *source, const struct dev_msg *msg)
{
	bool one = picks_one(msg);
	struct dev_lapic *best = NULL;
	int result = -1;

	for (unsigned i = 0; i < chip->n_lapics; i++) {
		struct dev_lapic *l = chip->lapic[i];

		if (!l || !lapic_is_hw_enabled(l) || !dev_msg_matches(chip, source, l, msg))
			continue;
		if (!one)
			result = (result < 0 ? 0 : result) + lapic_accept(l, msg);
		else if (lapic_is_sw_enabled(l) && (!best || l->n_arbitrated < best->n_arbitrated))
			best = l;
	}
	return best ? lapic_accept(best, msg) : result;
}
