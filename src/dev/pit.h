/* SPDX-License-Identifier: MIT */
/*
 * The 8254 with port 0x61. Not for vm/: use irqchip.h. Runs with the chip's lock held.
 *
 * Nothing ticks: counts and outputs are computed from the time of loading. Only channel 0 has a timer, for IRQ 0. Counting is
 * binary; the BCD bit is stored and reported but not obeyed, as in KVM.
 */
#ifndef GW_DEV_PIT_H
#define GW_DEV_PIT_H

#include "dev/irqchip.h"

#define DEV_PIT_HZ	1193182ull

struct dev_pit {
	struct dev_irqchip *chip;
	struct kvm_pit_channel_state channel[3];
	bool is_speaker_claimed;	/* port 0x61 is ours */
	bool is_speaker_on;
	bool is_hpet_legacy;		/* IRQ 0 belongs to an HPET of the client: channel 0 raises nothing */
	bool reinject;
	bool is_acked;			/* the guest has acknowledged the last tick (reinject only) */
	uint32_t n_owed;		/* ticks not acknowledged yet, the one in flight included */
	uint64_t next_ns;		/* channel 0's next tick; 0: none */
	uint64_t period_ns;		/* 0: one-shot */
	struct dev_timer timer;
};

bool dev_pit_pio(struct dev_pit *pit, uint16_t port, unsigned len, void *data, bool is_write);

/* The guest acknowledged GSI 0. */
void dev_pit_acked(struct dev_pit *pit);
/* The guest unmasked GSI 0: forget what it could not have acknowledged. */
void dev_pit_unmasked(struct dev_pit *pit);

void dev_pit_destroy(struct dev_pit *pit);	/* without the lock: waits for the timer */

#endif
