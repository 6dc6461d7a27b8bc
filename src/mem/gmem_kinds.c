/* SPDX-License-Identifier: MIT */
/*
 * Private or shared, for each of 2^52 frames: a tree of six levels whose entries are either one kind for all they cover or a
 * node below. A range of one kind costs at most a path of nodes at each end, whatever its length.
 *
 * Level 0 is a leaf of 512 bits; an entry of level l covers 2^(9 l) frames. Only the writer, under the VM's lock, changes entries;
 * readers follow them as they find them. A node taken out of the tree waits in `dead` until nobody can still stand in it.
 */
#include <errno.h>
#include <stdlib.h>

#include "mem/gmem.h"

#define BITS		9u
#define FANOUT		(1u << BITS)
#define TOP		5u		/* the root's entries: 2^45 frames each, 128 of them */
#define FRAMES		(1ull << 52)

#define UNIFORM_SHARED	0ul
#define UNIFORM_PRIVATE	2ul
#define IS_UNIFORM(e)	((e) <= UNIFORM_PRIVATE)

/* Readers never look here, so a node can be listed while some still stand in it. */
struct head { struct head *next_dead; unsigned level; };
struct leaf { struct head head; _Atomic uint64_t word[FANOUT / 64]; };
struct node { struct head head; _Atomic uintptr_t e[FANOUT]; };

struct mem_kinds {
	struct node root;
	struct head *dead;	/* roots of subtrees that nobody new can reach */
	uint64_t bytes;
};

int mem_kinds_new(struct mem_kinds **out)
{
	struct mem_kinds *k = calloc(1, sizeof(*k));

	if (!k)
		return -ENOMEM;
	k->bytes = sizeof(*k);
	*out = k;
	return 0;
}

/* @level of what @e points to; a leaf is 0. */
static void free_below(struct mem_kinds *k, uintptr_t e, unsigned level)
{
	if (IS_UNIFORM(e))
		return;
	for (unsigned i = 0; level && i < FANOUT; i++)
		free_below(k, atomic_load_explicit(&((struct node *)e)->e[i], memory_order_relaxed), level - 1);
	k->bytes -= level ? sizeof(struct node) : sizeof(struct leaf);
	free((void *)e);
}

void mem_kinds_free(struct mem_kinds *k)
{
	if (!k)
		return;
	mem_kinds_retire(k);
	for (unsigned i = 0; i < FANOUT; i++)
		free_below(k, atomic_load(&k->root.e[i]), TOP - 1);
	free(k);
}

uint64_t mem_kinds_bytes(const struct mem_kinds *k)
{
	return k->bytes;
}

static unsigned index_at(uint64_t gfn, unsigned level)
{
	return gfn >> BITS * level & (FANOUT - 1);
}

/* ---- reading ------------------------------------------------------------------------------------------------------------- */

/* The kind at @gfn, and the level whose entry said so. */
static bool look(const struct mem_kinds *k, uint64_t gfn, unsigned *level)
{
	uintptr_t e = atomic_load_explicit(&((struct mem_kinds *)k)->root.e[index_at(gfn, TOP)], memory_order_acquire);
	unsigned l = TOP;

	while (l > 1 && !IS_UNIFORM(e))
		e = atomic_load_explicit(&((struct node *)e)->e[index_at(gfn, --l)], memory_order_acquire);
	*level = l;
	if (IS_UNIFORM(e))
		return e == UNIFORM_PRIVATE;
	*level = 0;
	return atomic_load_explicit(&((struct leaf *)e)->word[gfn / 64 % (FANOUT / 64)], memory_order_acquire) >> (gfn % 64) & 1;
}

bool mem_kinds_is_private(const struct mem_kinds *k, struct gfn gfn)
{
	unsigned level;

	return gfn.v < FRAMES && look(k, gfn.v, &level);
}

uint64_t mem_kinds_run(const struct mem_kinds *k, uint64_t gfn, uint64_t end, bool *is_private)
{
	unsigned level;

	*is_private = look(k, gfn, &level);
	while (gfn < end && look(k, gfn, &level) == *is_private)
		gfn = ((gfn >> BITS * level) + 1) << BITS * level;
	return gfn < end ? gfn : end;
}

/* ---- changing ------------------------------------------------------------------------------------------------------------ */

/* Something to stand where @value stood for everything: of @level. 0: no memory. */
static uintptr_t expand(struct mem_kinds *k, uintptr_t value, unsigned level)
{
	struct leaf *leaf;
	struct node *node;

	if (!level) {
		leaf = calloc(1, sizeof(*leaf));
		for (unsigned i = 0; leaf && i < FANOUT / 64; i++)
			atomic_init(&leaf->word[i], value == UNIFORM_PRIVATE ? ~0ull : 0);
		k->bytes += leaf ? sizeof(*leaf) : 0;
		return (uintptr_t)leaf;
	}
	node = calloc(1, sizeof(*node));
	for (unsigned i = 0; node && i < FANOUT; i++)
		atomic_init(&node->e[i], value);
	k->bytes += node ? sizeof(*node) : 0;
	return (uintptr_t)node;
}

/* Nodes down to the leaf of @gfn, as far as its neighbours at @edge are not in the same range anyway. */
static int split_at(struct mem_kinds *k, uint64_t gfn)
{
	_Atomic uintptr_t *at = &k->root.e[index_at(gfn, TOP)];

	/* On a boundary of an entry nothing below it is divided. */
	for (unsigned l = TOP; l > 0 && gfn & ((1ull << BITS * l) - 1); l--) {
		uintptr_t e = atomic_load(at);

		if (IS_UNIFORM(e)) {
			e = expand(k, e, l - 1);
			if (!e)
				return -ENOMEM;
			atomic_store_explicit(at, e, memory_order_release);
		}
		if (l == 1)
			return 0;
		at = &((struct node *)e)->e[index_at(gfn, l - 1)];
	}
	return 0;
}

int mem_kinds_reserve(struct mem_kinds *k, struct gfn first, uint64_t n)
{
	int err = split_at(k, first.v);

	return err || first.v + n == FRAMES ? err : split_at(k, first.v + n);
}

static void bury(struct mem_kinds *k, uintptr_t e, unsigned level)
{
	struct head *h = (struct head *)e;

	if (IS_UNIFORM(e))
		return;
	h->level = level;
	h->next_dead = k->dead;
	k->dead = h;
}

void mem_kinds_retire(struct mem_kinds *k)
{
	while (k->dead) {
		struct head *h = k->dead;

		k->dead = h->next_dead;
		free_below(k, (uintptr_t)h, h->level);
	}
}

static void set_bits(struct leaf *leaf, unsigned first, unsigned end, bool is_private)
{
	for (unsigned i = first; i < end;) {
		unsigned stop = (i | 63) + 1 < end ? (i | 63) + 1 : end;
		uint64_t mask = (stop - i == 64 ? ~0ull : BIT64(stop - i) - 1) << (i % 64);

		if (is_private)
			atomic_fetch_or(&leaf->word[i / 64], mask);
		else
			atomic_fetch_and(&leaf->word[i / 64], ~mask);
		i = stop;
	}
}

/* Within the node at @level (its entries cover 2^(9 level)): frames [first, end), which begin inside it. */
static void set_in(struct mem_kinds *k, struct node *node, unsigned level, uint64_t first, uint64_t end, bool is_private)
{
	uint64_t span = 1ull << BITS * level;

	while (first < end) {
		_Atomic uintptr_t *at = &node->e[index_at(first, level)];
		uint64_t stop = (first & ~(span - 1)) + span;
		uintptr_t e = atomic_load(at);

		if (stop > end)
			stop = end;
		if (stop - first == span) {
			atomic_store_explicit(at, is_private ? UNIFORM_PRIVATE : UNIFORM_SHARED, memory_order_release);
			bury(k, e, level - 1);
		} else if (level == 1) {
			set_bits((struct leaf *)e, first % FANOUT, first % FANOUT + (unsigned)(stop - first), is_private);
		} else {
			set_in(k, (struct node *)e, level - 1, first, stop, is_private);
		}
		first = stop;
	}
}

void mem_kinds_set(struct mem_kinds *k, struct gfn first, uint64_t n, bool is_private)
{
	set_in(k, &k->root, TOP, first.v, first.v + n, is_private);
}
