/* SPDX-License-Identifier: MIT */
/*
 * The two 8259A of a PC with ELCR. Not for vm/: use irqchip.h. Everything here runs with the chip's lock held.
 *
 * State is kvm_pic_state itself, one per chip, so that save and restore cannot forget anything; elcr_mask is ours.
 */
#ifndef GW_DEV_PIC_H
#define GW_DEV_PIC_H

#include "dev/irqchip.h"

struct dev_pic {
	struct kvm_pic_state chip[2];	/* master, slave */
	uint32_t line_sources[16];	/* bit per enum dev_irq_source */
	bool output;			/* INTR pin of the master */
};

void dev_pic_reset(struct dev_pic *pic);

/* @pin 0..15. Same result convention as dev_irq_set_line. */
int dev_pic_set_line(struct dev_irqchip *chip, unsigned pin, enum dev_irq_source source, bool level);

/* INTA: the vector; a request that went away gives the spurious vector of IRQ 7 (or 15). Only with output high. */
uint8_t dev_pic_ack(struct dev_irqchip *chip);

bool dev_pic_pio(struct dev_irqchip *chip, uint16_t port, unsigned len, void *data, bool is_write);

void dev_pic_get(const struct dev_pic *pic, unsigned which, struct kvm_pic_state *state);
void dev_pic_set(struct dev_irqchip *chip, unsigned which, const struct kvm_pic_state *state);

#endif
