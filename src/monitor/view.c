/* SPDX-License-Identifier: MIT */
/*
 * Views: what may be done with each frame, and which frame is shown instead. A radix tree of 1024-way nodes; a subtree of equal
 * entries is one tagged word, so that a change of a range costs what its edges cost.
 *
 * Readers (check(), on any vCPU) take no lock: every word is atomic, and a node that was replaced lives until everything has been
 * forgotten, which waits for readers. Writers hold monitor.lock.
 */
#include <errno.h>
#include <stdlib.h>

#include "monitor/private.h"

#define BITS	10
#define FAN	(1u << BITS)
#define LEVELS	4		/* 40 bits of frame number */
#define FRAMES	(1ull << (BITS * LEVELS))

struct mon_node {
	_Atomic uint64_t w[FAN];
	struct mon_node *next;
};

static uint64_t leaf(uint64_t entry) { return entry << 1 | 1; }
static struct mon_node *node_of(uint64_t w) { return w & 1 ? NULL : (struct mon_node *)(uintptr_t)w; }

uint8_t mon_rights(unsigned type)
{
	static const uint8_t rights[] = {
		[GW_MON_N] = 0, [GW_MON_R] = ACC_R, [GW_MON_W] = ACC_W, [GW_MON_RW] = ACC_RW, [GW_MON_X] = ACC_X,
		[GW_MON_RX] = ACC_R | ACC_X, [GW_MON_WX] = ACC_W | ACC_X, [GW_MON_RWX] = ACC_RW | ACC_X,
		[GW_MON_RX2RW] = ACC_R | ACC_X, [GW_MON_N2RWX] = 0,
	};

	return type < sizeof(rights) ? rights[type] : 0;
}

uint64_t view_get(const struct mon_view *v, uint64_t gfn)
{
	uint64_t w = atomic_load_explicit(&v->root, memory_order_acquire);

	if (gfn >= FRAMES)
		return 0;
	for (int shift = BITS * (LEVELS - 1); !(w & 1); shift -= BITS)
		w = atomic_load_explicit(&node_of(w)->w[gfn >> shift & (FAN - 1)], memory_order_acquire);
	return w >> 1;
}

static void retire(struct monitor *m, uint64_t w)
{
	struct mon_node *n = node_of(w);

	if (!n)
		return;
	for (unsigned i = 0; i < FAN; i++)
		retire(m, atomic_load_explicit(&n->w[i], memory_order_relaxed));
	n->next = m->retired;
	m->retired = n;
}

void view_reclaim(struct monitor *m)
{
	struct mon_node *n = m->retired, *next;

	for (m->retired = NULL; n; n = next) {
		next = n->next;
		free(n);
	}
}

/* A uniform word becomes a node of equal ones. */
static struct mon_node *split(_Atomic uint64_t *slot, uint64_t w)
{
	struct mon_node *n = node_of(w);

	if (n)
		return n;
	n = aligned_alloc(64, (sizeof(*n) + 63) & ~(size_t)63);
	if (!n)
		return NULL;
	for (unsigned i = 0; i < FAN; i++)
		atomic_init(&n->w[i], w);
	n->next = NULL;
	atomic_store_explicit(slot, (uint64_t)(uintptr_t)n, memory_order_release);
	return n;
}

/* [first, last] relative to the subtree at @slot, which spans 2^bits frames. */
static int set(struct monitor *m, _Atomic uint64_t *slot, unsigned bits, uint64_t first, uint64_t last, uint64_t entry)
{
	uint64_t w = atomic_load_explicit(slot, memory_order_relaxed);
	unsigned below = bits - BITS;
	struct mon_node *n;

	if (w == leaf(entry))
		return 0;
	if (first == 0 && last == (1ull << bits) - 1) {
		atomic_store_explicit(slot, leaf(entry), memory_order_release);
		retire(m, w);
		return 0;
	}
	n = split(slot, w);
	if (!n)
		return -ENOMEM;
	for (uint64_t i = first >> below; i <= last >> below; i++) {
		uint64_t base = i << below, top = base + (1ull << below) - 1;
		uint64_t from = first > base ? first - base : 0, to = (last < top ? last : top) - base;
		int err;

		if (below) {
			err = set(m, &n->w[i], below, from, to, entry);
			if (err)
				return err;
		} else {
			atomic_store_explicit(&n->w[i], leaf(entry), memory_order_release);
		}
	}
	return 0;
}

int view_set(struct monitor *m, struct mon_view *v, uint64_t first, uint64_t n, uint64_t entry)
{
	if (!n)
		return 0;
	if (first >= FRAMES || n > FRAMES - first)
		return -EINVAL;
	atomic_fetch_add(&m->change, 1);
	return set(m, &v->root, BITS * LEVELS, first, first + n - 1, entry);
}

void view_clear(struct monitor *m, struct mon_view *v)
{
	uint64_t w = atomic_load(&v->root);

	atomic_store(&v->root, leaf(0));
	atomic_fetch_add(&m->change, 1);
	retire(m, w);
}
