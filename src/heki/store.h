/* SPDX-License-Identifier: MIT */
/*
 * The permission store: one attribute byte per frame, 0 where there is no entry. A radix tree of 1024-way nodes in which any
 * subtree of equal entries is a single tagged word, so its size follows the number of ranges, not the guest's memory.
 *
 * Trees are immutable once published. A writer builds the next one in a transaction that copies only the nodes it changes;
 * readers see either the old or the new tree. Old nodes are freed by the caller when no reader can have them any more.
 */
#ifndef GW_HEKI_STORE_H
#define GW_HEKI_STORE_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/types.h"

#define STORE_FRAME_BITS	40	/* 52-bit guest-physical addresses */
#define STORE_FRAMES		(1ull << STORE_FRAME_BITS)

typedef uintptr_t store_word;		/* child: pointer to a node, or value << 1 | 1 */
struct store_node;

struct store {
	_Atomic store_word root;
	_Atomic uint64_t bytes;
	uint64_t next_txn;
};

struct store_txn {
	struct store *s;
	store_word root;
	uint64_t id;
	struct store_node *fresh, *replaced;	/* made here; no longer part of the tree */
	uint64_t bytes;
};

void store_init(struct store *s);
void store_fini(struct store *s);

/* Lock-free. 0: no entry (also beyond STORE_FRAMES). */
uint8_t store_get(const struct store *s, uint64_t frame);
/* The first run of equal non-zero entries at or after *frame: sets *frame and *n. 0: none. Runs end at node boundaries. */
uint8_t store_next(store_word root, uint64_t *frame, uint64_t *n);
static inline store_word store_root(const struct store *s) { return atomic_load_explicit(&s->root, memory_order_acquire); }

/* One transaction at a time: the caller's lock. */
void store_begin(struct store *s, struct store_txn *t);
/* new = fn(old, arg) for every frame of the run. -ENOMEM: abort the transaction. */
int store_update(struct store_txn *t, uint64_t first, uint64_t n, uint8_t (*fn)(uint8_t old, void *arg), void *arg);
/* Is any entry of the run, as the transaction would leave it, one with a bit of @mask? */
bool store_any(const struct store_txn *t, uint64_t first, uint64_t n, uint8_t mask);
/* Publish. Returns what store_reclaim() may free when no reader uses the old tree. */
struct store_node *store_commit(struct store_txn *t);
void store_abort(struct store_txn *t);
void store_reclaim(struct store_node *replaced);

#endif
