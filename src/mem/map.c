/* SPDX-License-Identifier: MIT */
/*
 * The memory map: an immutable, sorted array of slots. A change builds a new array; who uses the old one is not our business.
 *
 * Invariants of a map: sorted by first; no two slots overlap; no id twice; n_pages > 0; hva page-aligned (access/ keeps flags
 * in the low bits); first + n_pages does not wrap.
 */
#include <errno.h>
#include <stdlib.h>

#include "mem/mem.h"

#define GFN_LIMIT	(1ull << 52)	/* frames of a 64-bit address */

const struct mem_slot *mem_slot_of_gfn(const struct mem_map *map, struct gfn gfn)
{
	unsigned lo = 0, hi = map->n;

	while (lo < hi) {
		unsigned mid = lo + (hi - lo) / 2;
		const struct mem_slot *s = &map->slot[mid];

		if (gfn.v < s->first.v)
			hi = mid;
		else if (gfn.v - s->first.v >= s->n_pages)
			lo = mid + 1;
		else
			return s;
	}
	return NULL;
}

static const struct mem_slot *slot_of_id(const struct mem_map *map, uint32_t id)
{
	for (unsigned i = 0; map && i < map->n; i++)
		if (map->slot[i].id == id)
			return &map->slot[i];
	return NULL;
}

static bool overlap(const struct mem_slot *a, const struct mem_slot *b)
{
	return a->first.v < b->first.v + b->n_pages && b->first.v < a->first.v + a->n_pages;
}

/* The request against the slots there are, in the order in which KVM looks. */
static int check_change(const struct mem_map *old, const struct mem_slot *s)
{
	const struct mem_slot *was = slot_of_id(old, s->id);

	if (s->n_pages == 0)
		return was ? 0 : -EINVAL;
	if (((uintptr_t)s->hva & GW_PAGE_MASK) || s->first.v >= GFN_LIMIT || s->n_pages > GFN_LIMIT - s->first.v)
		return -EINVAL;
	/* What has a guest_memfd stays as it is until it is deleted. */
	if (was && ((was->flags | s->flags) & MEM_GMEM))
		return -EINVAL;
	if (was && (was->n_pages != s->n_pages || was->hva != s->hva || ((was->flags ^ s->flags) & MEM_READONLY)))
		return -EINVAL;
	for (unsigned i = 0; old && i < old->n; i++)
		if (old->slot[i].id != s->id && overlap(&old->slot[i], s))
			return -EEXIST;
	return 0;
}

int mem_map_change(const struct mem_map *old, const struct mem_slot *s, struct mem_map **out)
{
	unsigned n_old = old ? old->n : 0;
	struct mem_map *map;
	bool placed = s->n_pages == 0;
	int err = check_change(old, s);

	if (err)
		return err;
	map = malloc(sizeof(*map) + (n_old + 1) * sizeof(map->slot[0]));
	if (!map)
		return -ENOMEM;
	map->n = 0;
	map->generation = (old ? old->generation : 0) + 1;
	map->kinds = old ? old->kinds : NULL;
	map->is_kind_asked = old && old->is_kind_asked;
	map->is_strict = old && old->is_strict;
	for (unsigned i = 0; i < n_old; i++) {
		if (old->slot[i].id == s->id)
			continue;
		if (!placed && s->first.v < old->slot[i].first.v) {
			map->slot[map->n++] = *s;
			placed = true;
		}
		map->slot[map->n++] = old->slot[i];
	}
	if (!placed)
		map->slot[map->n++] = *s;
	*out = map;
	return 0;
}

void mem_map_free(struct mem_map *map)
{
	free(map);
}
