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
#define MEM_GMEM	BIT(2)	/* has a guest_memfd; constant for the slot's life */
#define MEM_GMEM_ONLY	BIT(3)	/* and shared accesses go there too */

struct mem_dirty;	/* one slot's dirty bitmap, private to mem/ */
struct mem_gmem;	/* gmem.h */
struct mem_kinds;

struct mem_slot {
	uint32_t id;			/* KVM's slot number, address space in the upper half */
	uint32_t flags;			/* MEM_* */
	struct gfn first;
	uint64_t n_pages;
	uint8_t *hva;			/* client's mapping of the first page */
	struct mem_dirty *dirty;	/* NULL: no logging */
	struct mem_gmem *gmem;		/* with MEM_GMEM: the slot's own reference */
	uint64_t gmem_page;		/* the file's page that is the first of the slot */
	uint8_t *gmem_hva;		/* where the engine sees it */
};

struct mem_map {
	unsigned n;
	unsigned generation;
	/* Handed on from map to map. */
	struct mem_kinds *kinds;	/* private or shared, by frame; NULL: all shared. Not owned */
	bool is_kind_asked;		/* the guest says in its translations which kind it wants; false: it takes what is there */
	bool is_strict;			/* a page is not to be populated on both sides */
	struct mem_slot slot[];		/* sorted by first */
};

/* The slot that holds @gfn in @map, NULL if none. */
const struct mem_slot *mem_slot_of_gfn(const struct mem_map *map, struct gfn gfn);

static inline uint8_t *mem_slot_hva(const struct mem_slot *s, struct gpa gpa)
{
	return s->hva + (gpa.v - (s->first.v << GW_PAGE_SHIFT));
}

static inline uint8_t *mem_slot_gmem_hva(const struct mem_slot *s, struct gpa gpa)
{
	return s->gmem_hva + (gpa.v - (s->first.v << GW_PAGE_SHIFT));
}

/* Is this host address memory of the slot, on either side? *@offset: how far into the slot. */
static inline bool mem_slot_has_hva(const struct mem_slot *s, uintptr_t hva, uint64_t *offset)
{
	uint64_t len = s->n_pages << GW_PAGE_SHIFT;

	*offset = hva - (uintptr_t)s->hva;
	if (*offset < len)
		return true;
	*offset = hva - (uintptr_t)s->gmem_hva;
	return s->gmem_hva && *offset < len;
}

/*
 * Build a new map = @old (NULL: empty) with slot s->id created, moved, re-flagged, or deleted when s->n_pages is 0. The rules of
 * KVM_SET_USER_MEMORY_REGION that need the other slots, in its order: -EINVAL deleting what is not there, or an existing slot
 * with another size, hva, MEM_READONLY or MEM_GMEM, or that is asked to have a guest_memfd again; -EEXIST overlap; -ENOMEM. Also -EINVAL for what the ioctl must have refused already
 * (unaligned hva, wrap). @old stays as it is; *out is written only on success. Maps do not own s->dirty.
 */
int mem_map_change(const struct mem_map *old, const struct mem_slot *s, struct mem_map **out);
void mem_map_free(struct mem_map *map);

/*
 * The file behind the client's mapping [hva, hva + len) at byte @at: a new descriptor of it, read-only if @read_only, that the caller
 * closes. *first, *n: bytes of the range, around @at, that lie in the file in one piece; *offset: where *first is in it.
 * -EOPNOTSUPP: not mapped shared from a file that this process has open.
 */
int mem_file_of(const uint8_t *hva, uint64_t len, uint64_t at, bool read_only, uint64_t *first, uint64_t *n, uint64_t *offset);

/* Dirty log. mark is lock-free and may be called from any thread. */
int mem_dirty_new(uint64_t n_pages, bool all_ones, struct mem_dirty **out);
void mem_dirty_free(struct mem_dirty *d);
bool mem_dirty_mark(struct mem_dirty *d, uint64_t page_in_slot);	/* true: this call set the bit */
bool mem_dirty_test(const struct mem_dirty *d, uint64_t page_in_slot);
/*
 * Copies the bitmap out (n_pages rounded up to 64 bits) and clears what was copied when @clear. After clearing, here or by
 * mem_dirty_clear(), the caller makes the vCPUs forget ACC_W on the slot before it answers the client: a store that was
 * allowed before the bit was cleared is then finished, and the next one marks again.
 */
void mem_dirty_fetch(struct mem_dirty *d, uint64_t *bitmap, bool clear);
/* Clears the bits set in @bitmap, starting at page @first (multiple of 64). */
void mem_dirty_clear(struct mem_dirty *d, uint64_t first, uint64_t n, const uint64_t *bitmap);

/*
 * Code marks, by host page so that aliases in several slots agree. A set line bit says: some vCPU holds decoded instructions
 * from these 64 bytes. `gen` changes whenever a marked line was written; a block decoded under another gen is dead. It is odd
 * while lines are being cleared (access/code.c).
 */
struct mem_code {
	_Atomic uint64_t lines;
	_Atomic uint64_t writers;	/* access/: vCPUs (index mod 64) that may remember W on the page */
	_Atomic uint32_t gen;
	_Atomic uint32_t emptied;	/* access/: times lines went to 0 */
};

struct mem_code_map;
int mem_code_map_new(struct mem_code_map **out);
void mem_code_map_free(struct mem_code_map *m);
/* The record of the page at @hva; created on first use. NULL: out of memory. Never moves or goes away while the map lives. */
struct mem_code *mem_code_of(struct mem_code_map *m, const uint8_t *hva);
/* The same without creating. */
struct mem_code *mem_code_find(struct mem_code_map *m, const uint8_t *hva);
/* Every record of [hva, hva + len) gets another gen and no lines: the client may do with this memory what it wants. */
void mem_code_drop(struct mem_code_map *m, const uint8_t *hva, uint64_t len);
/* A count that moves after any record's gen has changed. Whoever changes a gen adds to it. */
_Atomic uint64_t *mem_code_changes(struct mem_code_map *m);

#endif
