/* SPDX-License-Identifier: MIT */
/*
 * One slot's dirty log: a bit per 4 KiB page, set by whoever allows a write, taken by the client. Bits past the end stay 0.
 * Not here: who must forget W after bits were cleared (access/), when logging starts and stops (vm/).
 */
#include <errno.h>
#include <stdlib.h>

#include "mem/mem.h"

#define MAX_PAGES	(1ull << 36)	/* KVM's largest slot has fewer than 2^31 */

struct mem_dirty {
	uint64_t n_pages;
	_Atomic uint64_t word[];
};

static uint64_t n_words(uint64_t n_pages)
{
	return n_pages / 64 + (n_pages % 64 != 0);
}

/* The valid bits of word @i. */
static uint64_t word_mask(uint64_t n_pages, uint64_t i)
{
	uint64_t left = n_pages - i * 64;

	return left >= 64 ? ~0ull : BIT64(left) - 1;
}

int mem_dirty_new(uint64_t n_pages, bool all_ones, struct mem_dirty **out)
{
	uint64_t words = n_words(n_pages);
	struct mem_dirty *d;

	if (n_pages > MAX_PAGES)
		return -ENOMEM;
	d = calloc(1, sizeof(*d) + words * sizeof(d->word[0]));
	if (!d)
		return -ENOMEM;
	d->n_pages = n_pages;
	for (uint64_t i = 0; all_ones && i < words; i++)
		atomic_init(&d->word[i], word_mask(n_pages, i));
	*out = d;
	return 0;
}

void mem_dirty_free(struct mem_dirty *d)
{
	free(d);
}

bool mem_dirty_mark(struct mem_dirty *d, uint64_t page)
{
	_Atomic uint64_t *w = &d->word[page / 64];
	uint64_t bit = BIT64(page % 64);

	/* Most writes hit a page that is dirty already: do not take the line exclusive for that. */
	if (atomic_load_explicit(w, memory_order_relaxed) & bit)
		return false;
	return !(atomic_fetch_or(w, bit) & bit);
}

bool mem_dirty_test(const struct mem_dirty *d, uint64_t page)
{
	return atomic_load_explicit(&d->word[page / 64], memory_order_relaxed) >> (page % 64) & 1;
}

void mem_dirty_fetch(struct mem_dirty *d, uint64_t *bitmap, bool clear)
{
	for (uint64_t i = 0; i < n_words(d->n_pages); i++) {
		bitmap[i] = atomic_load(&d->word[i]);
		if (clear && bitmap[i])
			bitmap[i] = atomic_exchange(&d->word[i], 0);
	}
}

void mem_dirty_clear(struct mem_dirty *d, uint64_t first, uint64_t n, const uint64_t *bitmap)
{
	if (first % 64 || first >= d->n_pages)
		return;
	if (n > d->n_pages - first)
		n = d->n_pages - first;
	for (uint64_t i = 0; i < n_words(n); i++) {
		uint64_t bits = bitmap[i] & word_mask(n, i);

		if (bits)
			atomic_fetch_and(&d->word[first / 64 + i], ~bits);
	}
}
