/* SPDX-License-Identifier: MIT */
/*
 * Guest-physical memory: slots, their backing, the dirty log, and the per-host-page record of decoded code.
 *
 * A map is an immutable, sorted snapshot of slots. vCPUs read the current snapshot without locks between two safe points;
 * mem_map_publish() swaps it and the caller (vm/) then makes every vCPU forget before the old one is freed.
 */
#ifndef GW_MEM_MEM_H
#define GW_MEM_MEM_H

#include <stdatomic.h>

#include "base/types.h"

#define MEM_READONLY	BIT(0)
#define MEM_LOG_DIRTY	BIT(1)

struct mem_dirty;	/* one slot's dirty bitmap, private to mem/ */

struct mem_slot {
	uint32_t id;			/* KVM's slot number, address space in the upper half */
	uint32_t flags;			/* MEM_* */
	struct gfn first;
	uint64_t n_pages;
	uint8_t *hva;			/* client's mapping of the first page */
	struct mem_dirty *dirty;	/* NULL: no logging */
};

struct mem_map {
	unsigned n;
	unsigned generation;
	struct mem_slot slot[];		/* sorted by first */
};

/* The slot that holds @gfn in @map, NULL if none. */
const struct mem_slot *mem_slot_of_gfn(const struct mem_map *map, struct gfn gfn);

static inline uint8_t *mem_slot_hva(const struct mem_slot *s, struct gpa gpa)
{
	return s->hva + (gpa.v - (s->first.v << GW_PAGE_SHIFT));
}

/* Build a new map = @old with slot @id replaced by @s, or deleted when s->n_pages is 0. -EEXIST overlap, -ENOMEM, -EINVAL, -ENOENT. */
int mem_map_change(const struct mem_map *old, const struct mem_slot *s, struct mem_map **out);
void mem_map_free(struct mem_map *map);

/* Dirty log. mark is lock-free and may be called from any thread. */
int mem_dirty_new(uint64_t n_pages, bool all_ones, struct mem_dirty **out);
void mem_dirty_free(struct mem_dirty *d);
void mem_dirty_mark(struct mem_dirty *d, uint64_t page_in_slot);
/* Copies the bitmap out (n_pages rounded up to 64 bits) and clears what was copied when @clear. */
void mem_dirty_fetch(struct mem_dirty *d, uint64_t *bitmap, bool clear);
/* Clears the bits set in @bitmap, starting at page @first (multiple of 64). */
void mem_dirty_clear(struct mem_dirty *d, uint64_t first, uint64_t n, const uint64_t *bitmap);

/*
 * Code marks, by host page so that aliases in several slots agree. A set line bit says: some vCPU holds decoded instructions
 * from these 64 bytes. `gen` changes whenever a marked line was written; a block decoded under another gen is dead.
 */
struct mem_code {
	_Atomic uint64_t lines;
	_Atomic uint32_t gen;
};

struct mem_code_map;
int mem_code_map_new(struct mem_code_map **out);
void mem_code_map_free(struct mem_code_map *m);
/* The record of the page at @hva; created on first use. NULL: out of memory. Never moves or goes away while the map lives. */
struct mem_code *mem_code_of(struct mem_code_map *m, const uint8_t *hva);
/* The same without creating. */
struct mem_code *mem_code_find(struct mem_code_map *m, const uint8_t *hva);

#endif
