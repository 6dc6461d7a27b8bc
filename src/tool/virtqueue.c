/* SPDX-License-Identifier: MIT */
/* See virtqueue.h. Layouts: Virtual I/O Device (VIRTIO) 1.2, "Split Virtqueues". */
#include "virtqueue.h"

#include <string.h>

#include "bytes.h"

#define DESC_NEXT		1u
#define DESC_WRITE		2u
#define DESC_INDIRECT		4u
#define AVAIL_NO_INTERRUPT	1u

struct descriptor {
	uint64_t address;
	uint32_t length;
	uint16_t flags, next;
};

_Static_assert(sizeof(struct descriptor) == 16, "as the specification draws it");

void virtqueue_reset(struct virtqueue *q)
{
	*q = (struct virtqueue){ .ram = q->ram, .size = VIRTQUEUE_MAX };
}

/* Rings are addressed once, here; the memory behind stays ours for the life of the machine. */
static uint8_t *available_ring(const struct virtqueue *q)
{
	return ram_at(q->ram, q->available, 6 + 2ull * q->size);
}

static uint8_t *used_ring(const struct virtqueue *q)
{
	return ram_at(q->ram, q->used, 6 + 8ull * q->size);
}

static uint8_t *descriptor_table(const struct virtqueue *q)
{
	return ram_at(q->ram, q->descriptors, 16ull * q->size);
}

void virtqueue_start(struct virtqueue *q)
{
	q->ready = true;
	q->next_available = q->next_used = 0;
	q->broken = !q->size || q->size > VIRTQUEUE_MAX || (q->size & (q->size - 1)) ||
		    (q->descriptors & 15) || (q->available & 1) || (q->used & 3) ||
		    !descriptor_table(q) || !available_ring(q) || !used_ring(q);
}

/* Adds one buffer to the chain; false: not allowed. */
static bool add_buffer(const struct virtqueue *q, struct chain *chain, const struct descriptor *d)
{
	void *host = ram_at(q->ram, d->address, d->length);

	if (!host || (d->flags & DESC_INDIRECT))	/* indirect tables are not offered */
		return false;
	if (d->flags & DESC_WRITE && !ram_writable_at(q->ram, d->address, d->length)) {
		chain->is_denied = true;
		return true;
	}
	if (d->flags & DESC_WRITE) {
		chain->writable[chain->n_writable++] = (struct iovec){ host, d->length };
		return true;
	}
	if (chain->n_writable)
		return false;
	chain->readable[chain->n_readable++] = (struct iovec){ host, d->length };
	return true;
}

static bool walk_chain(const struct virtqueue *q, struct chain *chain)
{
	const uint8_t *table = descriptor_table(q);
	unsigned at = chain->head, n;

	/* At most size steps: a longer chain has a loop. */
	for (n = 0; n < q->size; n++) {
		struct descriptor d;

		if (at >= q->size)
			return false;
		/* The guest may change it under us: one copy. */
		memcpy(&d, table + 16 * at, sizeof(d));
		if (!add_buffer(q, chain, &d))
			return false;
		if (!(d.flags & DESC_NEXT))
			return true;
		at = d.next;
	}
	return false;
}

int virtqueue_pop(struct virtqueue *q, struct chain *chain)
{
	uint8_t *ring;
	uint16_t index, waiting;

	if (!q->ready || q->broken)
		return q->broken ? -1 : 0;
	ring = available_ring(q);
	/* Acquire: entries and descriptors were written before the index that announces them. */
	index = __atomic_load_n((uint16_t *)(void *)(ring + 2), __ATOMIC_ACQUIRE);
	waiting = (uint16_t)(index - q->next_available);
	if (!waiting)
		return 0;
	chain->head = get16(ring + 4 + 2 * (q->next_available % q->size));
	chain->n_readable = chain->n_writable = 0;
	chain->is_denied = false;
	if (waiting > q->size || !walk_chain(q, chain)) {
		q->broken = true;
		return -1;
	}
	q->next_available++;
	return 1;
}

void virtqueue_push(struct virtqueue *q, const struct chain *chain, uint32_t written)
{
	uint8_t *ring = ram_writable_at(q->ram, q->used, 6 + 8ull * q->size), *entry;

	if (!ring) {
		q->broken = true;
		return;
	}
	entry = ring + 4 + 8 * (q->next_used % q->size);
	put32(entry, chain->head);
	put32(entry + 4, written);
	q->next_used++;
	/* Release: the entry and the data before the index. */
	__atomic_store_n((uint16_t *)(void *)(ring + 2), q->next_used, __ATOMIC_RELEASE);
}

bool virtqueue_wants_interrupt(const struct virtqueue *q)
{
	/* The driver sets the flag before it looks at the index once more: order our index before our look at the flag. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return !(__atomic_load_n((uint16_t *)(void *)available_ring(q), __ATOMIC_RELAXED) & AVAIL_NO_INTERRUPT);
}

size_t iov_length(const struct iovec *iov, unsigned n)
{
	size_t sum = 0;

	/* At most VIRTQUEUE_MAX lengths of 32 bits: no overflow. */
	while (n--)
		sum += iov[n].iov_len;
	return sum;
}

static size_t move_bytes(struct iovec *iov, unsigned *n, void *to, const void *from, size_t len)
{
	size_t done = 0, part;
	unsigned used = 0;

	while (done < len && used < *n) {
		struct iovec *v = &iov[used];

		part = v->iov_len < len - done ? v->iov_len : len - done;
		if (to)
			memcpy((uint8_t *)to + done, v->iov_base, part);
		else
			memcpy(v->iov_base, (const uint8_t *)from + done, part);
		v->iov_base = (uint8_t *)v->iov_base + part;
		v->iov_len -= part;
		done += part;
		if (!v->iov_len)
			used++;
	}
	memmove(iov, iov + used, (*n - used) * sizeof(*iov));
	*n -= used;
	return done;
}

size_t iov_take(struct iovec *iov, unsigned *n, void *to, size_t len)
{
	return move_bytes(iov, n, to, NULL, len);
}

size_t iov_give(struct iovec *iov, unsigned *n, const void *from, size_t len)
{
	return move_bytes(iov, n, NULL, from, len);
}

void iov_truncate(struct iovec *iov, unsigned *n, size_t len)
{
	unsigned i;

	for (i = 0; i < *n && len; i++) {
		if (iov[i].iov_len > len)
			iov[i].iov_len = len;
		len -= iov[i].iov_len;
	}
	*n = i;
}
