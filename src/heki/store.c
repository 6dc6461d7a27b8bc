/* SPDX-License-Identifier: MIT */
/* The permission store: see store.h. Level 0 nodes hold bytes of 1024 frames, levels 1 to 3 words. */
#include "heki/store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BITS		10u
#define FANOUT		(1u << BITS)
#define LEVELS		4u
#define SHIFT(level)	((level) * BITS)

struct store_node {
	struct store_node *next;	/* in a list of its transaction */
	uint64_t txn;			/* that made it */
	uint32_t level;
	bool is_dead;			/* made and replaced in the same transaction */
	union {
		store_word child[FANOUT];
		uint8_t value[FANOUT];
	} u;
};

static size_t node_size(unsigned level)
{
	return offsetof(struct store_node, u) + (level ? sizeof(store_word) * FANOUT : FANOUT);
}

static inline bool is_uniform(store_word w) { return w & 1; }
static inline store_word uniform(uint8_t v) { return (store_word)v << 1 | 1; }
static inline uint8_t value_of(store_word w) { return (uint8_t)(w >> 1); }
static inline struct store_node *node_of(store_word w) { return (struct store_node *)w; }

static inline unsigned index_at(uint64_t frame, unsigned level)
{
	return (unsigned)(frame >> SHIFT(level)) & (FANOUT - 1);
}

void store_init(struct store *s)
{
	atomic_init(&s->root, uniform(0));
	atomic_init(&s->bytes, 0);
	s->next_txn = 1;
}

static void free_tree(store_word w)
{
	struct store_node *n;

	if (is_uniform(w))
		return;
	n = node_of(w);
	for (unsigned i = 0; n->level && i < FANOUT; i++)
		free_tree(n->u.child[i]);
	free(n);
}

void store_fini(struct store *s)
{
	free_tree(atomic_load(&s->root));
	store_init(s);
}

uint8_t store_get(const struct store *s, uint64_t frame)
{
	store_word w = store_root(s);

	if (unlikely(frame >= STORE_FRAMES))
		return 0;
	while (!is_uniform(w)) {
		const struct store_node *n = node_of(w);

		if (!n->level)
			return n->u.value[index_at(frame, 0)];
		w = n->u.child[index_at(frame, n->level)];
	}
	return value_of(w);
}

/* ---- runs ---------------------------------------------------------------------------------------------------------------- */

static uint8_t next_in_leaf(const struct store_node *n, uint64_t *frame, uint64_t *len)
{
	unsigned i = index_at(*frame, 0), end;

	while (i < FANOUT && !n->u.value[i])
		i++;
	if (i == FANOUT)
		return 0;
	for (end = i + 1; end < FANOUT && n->u.value[end] == n->u.value[i]; end++)
		;
	*frame = (*frame & ~(uint64_t)(FANOUT - 1)) + i;
	*len = end - i;
	return n->u.value[i];
}

/* @w covers the 2^shift frames around *frame. */
static uint8_t next_in(store_word w, unsigned shift, uint64_t *frame, uint64_t *len)
{
	uint64_t start = *frame & ~((1ull << shift) - 1);
	const struct store_node *n;

	if (is_uniform(w)) {
		*len = start + (1ull << shift) - *frame;
		return value_of(w);
	}
	n = node_of(w);
	if (!n->level)
		return next_in_leaf(n, frame, len);
	for (unsigned i = index_at(*frame, n->level); i < FANOUT; i++) {
		uint64_t at = start + ((uint64_t)i << SHIFT(n->level));
		uint64_t from = *frame > at ? *frame : at;
		uint8_t v = next_in(n->u.child[i], SHIFT(n->level), &from, len);

		if (v) {
			*frame = from;
			return v;
		}
	}
	return 0;
}

uint8_t store_next(store_word root, uint64_t *frame, uint64_t *n)
{
	return *frame >= STORE_FRAMES ? 0 : next_in(root, STORE_FRAME_BITS, frame, n);
}

/* ---- transactions ---------------------------------------------------------------------------------------------------------- */

void store_begin(struct store *s, struct store_txn *t)
{
	*t = (struct store_txn){ .s = s, .root = atomic_load(&s->root), .id = s->next_txn++, .bytes = atomic_load(&s->bytes) };
}

/* The node under *w, ours to change: copied, or made from a uniform word. NULL: no memory. */
static struct store_node *own(struct store_txn *t, store_word *w, unsigned level)
{
	struct store_node *old = is_uniform(*w) ? NULL : node_of(*w), *n;

	if (old && old->txn == t->id)
		return old;
	n = malloc(node_size(level));
	if (!n)
		return NULL;
	if (old) {
		memcpy(n, old, node_size(level));
		old->next = t->replaced;
		t->replaced = old;
	} else {
		t->bytes += node_size(level);
		if (level)
			for (unsigned i = 0; i < FANOUT; i++)
				n->u.child[i] = *w;
		else
			memset(n->u.value, value_of(*w), FANOUT);
	}
	n->level = level;
	n->txn = t->id;
	n->is_dead = false;
	n->next = t->fresh;
	t->fresh = n;
	*w = (store_word)n;
	return n;
}

/* One word again, if all entries became equal. */
static void collapse(struct store_txn *t, store_word *w)
{
	struct store_node *n = node_of(*w);

	if (n->level) {
		for (unsigned i = 0; i < FANOUT; i++)
			if (!is_uniform(n->u.child[i]) || n->u.child[i] != n->u.child[0])
				return;
		*w = n->u.child[0];
	} else {
		if (memcmp(n->u.value, n->u.value + 1, FANOUT - 1))
			return;
		*w = uniform(n->u.value[0]);
	}
	n->is_dead = true;
	t->bytes -= node_size(n->level);
}

struct change {
	uint64_t first, last;
	uint8_t (*fn)(uint8_t old, void *arg);
	void *arg;
};

static int update(struct store_txn *t, store_word *w, unsigned shift, uint64_t start, const struct change *c)
{
	uint64_t end = start + ((1ull << shift) - 1);
	unsigned level = shift / BITS - 1, lo, hi;
	struct store_node *n;

	if (is_uniform(*w)) {
		uint8_t v = c->fn(value_of(*w), c->arg);

		if (v == value_of(*w))
			return 0;
		if (c->first <= start && end <= c->last) {
			*w = uniform(v);
			return 0;
		}
	}
	n = own(t, w, level);
	if (!n)
		return -ENOMEM;
	lo = c->first > start ? index_at(c->first, level) : 0;
	hi = c->last < end ? index_at(c->last, level) : FANOUT - 1;
	for (unsigned i = lo; i <= hi; i++) {
		int err;

		if (!level) {
			n->u.value[i] = c->fn(n->u.value[i], c->arg);
			continue;
		}
		err = update(t, &n->u.child[i], SHIFT(level), start + ((uint64_t)i << SHIFT(level)), c);
		if (err)
			return err;
	}
	collapse(t, w);
	return 0;
}

int store_update(struct store_txn *t, uint64_t first, uint64_t n, uint8_t (*fn)(uint8_t old, void *arg), void *arg)
{
	struct change c = { .first = first, .last = first + n - 1, .fn = fn, .arg = arg };

	if (!n || first >= STORE_FRAMES || n > STORE_FRAMES - first)
		return -EINVAL;
	return update(t, &t->root, STORE_FRAME_BITS, 0, &c);
}

bool store_any(const struct store_txn *t, uint64_t first, uint64_t n, uint8_t mask)
{
	uint64_t frame = first, len;
	uint8_t v;

	while (frame < first + n && (v = store_next(t->root, &frame, &len)) != 0) {
		if (frame >= first + n)
			return false;
		if (v & mask)
			return true;
		frame += len;
	}
	return false;
}

static void free_list(struct store_node *n, bool only_dead)
{
	while (n) {
		struct store_node *next = n->next;

		if (!only_dead || n->is_dead)
			free(n);
		n = next;
	}
}

struct store_node *store_commit(struct store_txn *t)
{
	free_list(t->fresh, true);
	atomic_store_explicit(&t->s->bytes, t->bytes, memory_order_relaxed);
	atomic_store_explicit(&t->s->root, t->root, memory_order_release);
	return t->replaced;
}

void store_abort(struct store_txn *t)
{
	free_list(t->fresh, false);
}

void store_reclaim(struct store_node *replaced)
{
	free_list(replaced, false);
}
