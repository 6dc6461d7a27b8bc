/* SPDX-License-Identifier: MIT */
/*
 * A 16550A UART. Sending takes no time: a byte written is a byte sent, so the transmitter is always empty.
 * Received bytes come from serial_receive (any thread). Everything is under the device's own lock.
 */
#ifndef TOOL_SERIAL_H
#define TOOL_SERIAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "bus.h"

#define SERIAL_COM1_PORT	0x3f8u
#define SERIAL_COM1_IRQ		4u
#define SERIAL_FIFO		16u

struct serial {
	pthread_mutex_t lock;
	struct irq_line irq;
	/* Takes the bytes the guest sends. Called with the lock held; must not call back. */
	void (*send)(void *opaque, const uint8_t *data, size_t len);
	void *opaque;

	uint8_t ier, lcr, mcr, scratch;
	uint8_t fcr;			/* bit 0: FIFOs on; bits 7:6 trigger level */
	uint16_t divisor;
	bool overrun;			/* LSR.OE until read */
	bool thr_empty_pending;		/* THRE interrupt not yet seen by IIR read or THR write */
	uint8_t msr_delta;
	uint8_t fifo[SERIAL_FIFO];
	unsigned fifo_head, fifo_count;
	int level;			/* of the interrupt line, to change it only when it changes */
};

extern const struct bus_ops serial_ops;

void serial_init(struct serial *s, const struct irq_line *irq, void (*send)(void *, const uint8_t *, size_t), void *opaque);

/* How many bytes the guest's UART can take now. */
size_t serial_room(struct serial *s);

/* Gives the guest at most serial_room() bytes; returns how many it took. */
size_t serial_receive(struct serial *s, const uint8_t *data, size_t len);

#endif
