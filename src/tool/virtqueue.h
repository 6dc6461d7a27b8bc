/* SPDX-License-Identifier: MIT */
/*
 * Split virtqueues, the device's side. The guest owns the rings and everything in them; each field is read once, checked,
 * and only the copy is used. A chain has at most as many descriptors as the queue, every buffer lies in RAM, and readable
 * buffers come before writable ones; anything else breaks the queue, and the device asks for a reset.
 *
 * No locks here: a queue belongs to its device, which has one.
 */
#ifndef TOOL_VIRTQUEUE_H
#define TOOL_VIRTQUEUE_H

#include <stdbool.h>
#include <sys/uio.h>

#include "ram.h"

#define VIRTQUEUE_MAX 256u

struct virtqueue {
	const struct ram *ram;
	/* Set by the driver through the transport. */
	uint16_t size;			/* 1..VIRTQUEUE_MAX, a power of two */
	bool ready;
	uint64_t descriptors, available, used;	/* guest physical */
	/* Ours. */
	uint16_t next_available, next_used;
	bool broken;
};

/* One request: what the driver lets us read, then what it lets us write. Host pointers into guest RAM. */
struct chain {
	uint16_t head;
	unsigned n_readable, n_writable;
	bool is_denied;		/* buffers that may not be written are left out: fail the request */
	struct iovec readable[VIRTQUEUE_MAX], writable[VIRTQUEUE_MAX];
};

/* The driver set ready: are size, addresses and alignment usable? If not the queue is broken from the start. */
void virtqueue_start(struct virtqueue *q);
void virtqueue_reset(struct virtqueue *q);

/* Next request: 1 got one, 0 none, -1 the queue is broken (now or before). */
int virtqueue_pop(struct virtqueue *q, struct chain *chain);

/* Gives a request back; @written bytes were put into its writable part, from its start. */
void virtqueue_push(struct virtqueue *q, const struct chain *chain, uint32_t written);

/* Does the driver want an interrupt for what was pushed? */
bool virtqueue_wants_interrupt(const struct virtqueue *q);

size_t iov_length(const struct iovec *iov, unsigned n);
/* Copies from or to the first bytes and cuts them off; returns how many there were. */
size_t iov_take(struct iovec *iov, unsigned *n, void *to, size_t len);
size_t iov_give(struct iovec *iov, unsigned *n, const void *from, size_t len);
/* Cuts the list to its first len bytes (len <= its length). */
void iov_truncate(struct iovec *iov, unsigned *n, size_t len);

#endif
