/* SPDX-License-Identifier: MIT */
/* The map: KVM's rules for changes, as rows; lookups against a linear search; snapshots stay as they were. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mem/mem.h"

#define A	((uint8_t *)0x10000000)
#define B	((uint8_t *)0x20000000)

/* Every row starts from slots 0: [0x100, 0x200) at A, 1: [0x200, 0x300) at B read-only, 2: [0x1000, 0x1001) at A. */
static const struct row {
	const char *name;
	struct mem_slot change;
	int err;
	unsigned n;	/* slots afterwards */
} rows[] = {
	{ "a new slot in a gap is added", { 7, 0, { 0x300 }, 0x10, A, NULL }, 0, 4 },
	{ "a new slot before all others is added", { 7, 0, { 0 }, 0x100, A, NULL }, 0, 4 },
	{ "a new slot behind all others is added", { 7, 0, { 0x1001 }, 1, A, NULL }, 0, 4 },
	{ "one page of overlap at the start is EEXIST", { 7, 0, { 0xff }, 2, A, NULL }, -EEXIST, 3 },
	{ "one page of overlap at the end is EEXIST", { 7, 0, { 0x2ff }, 2, A, NULL }, -EEXIST, 3 },
	{ "a slot around another is EEXIST", { 7, 0, { 0xfff }, 3, A, NULL }, -EEXIST, 3 },
	{ "a slot inside another is EEXIST", { 7, 0, { 0x180 }, 1, A, NULL }, -EEXIST, 3 },
	{ "the same host memory in two slots is fine", { 7, 0, { 0x400 }, 0x100, A, NULL }, 0, 4 },
	{ "size 0 deletes", { 1, 0, { 0 }, 0, NULL, NULL }, 0, 2 },
	{ "size 0 deletes, whatever the other fields say", { 0, MEM_READONLY, { 0x1000 }, 0, B, NULL }, 0, 2 },
	{ "deleting what is not there is EINVAL", { 7, 0, { 0 }, 0, NULL, NULL }, -EINVAL, 3 },
	{ "another size of an existing slot is EINVAL", { 0, 0, { 0x100 }, 0x101, A, NULL }, -EINVAL, 3 },
	{ "another host address of an existing slot is EINVAL", { 0, 0, { 0x100 }, 0x100, B, NULL }, -EINVAL, 3 },
	{ "making a slot read-only is EINVAL", { 0, MEM_READONLY, { 0x100 }, 0x100, A, NULL }, -EINVAL, 3 },
	{ "the size is looked at before the overlap", { 0, 0, { 0x200 }, 0x101, A, NULL }, -EINVAL, 3 },
	{ "moving a slot works", { 0, 0, { 0x5000 }, 0x100, A, NULL }, 0, 3 },
	{ "moving a slot over its own old place works", { 0, 0, { 0x80 }, 0x100, A, NULL }, 0, 3 },
	{ "moving a slot onto another is EEXIST", { 0, 0, { 0x101 }, 0x100, A, NULL }, -EEXIST, 3 },
	{ "logging may be switched on", { 1, MEM_READONLY | MEM_LOG_DIRTY, { 0x200 }, 0x100, B, NULL }, 0, 3 },
	{ "the same again changes nothing", { 0, 0, { 0x100 }, 0x100, A, NULL }, 0, 3 },
	{ "an unaligned host address is EINVAL", { 7, 0, { 0x300 }, 1, A + 8, NULL }, -EINVAL, 3 },
	{ "frames beyond 64 bits are EINVAL", { 7, 0, { 0xfffffffffffff }, 2, A, NULL }, -EINVAL, 3 },
	{ "the last frame is legal", { 7, 0, { 0xfffffffffffff }, 1, A, NULL }, 0, 4 },
	{ "more frames than there are is EINVAL", { 7, 0, { 0x300 }, ~0ull, A, NULL }, -EINVAL, 3 },
};

static struct mem_map *add(struct mem_map *old, struct mem_slot s)
{
	struct mem_map *map;

	assert_int_equal(mem_map_change(old, &s, &map), 0);
	mem_map_free(old);
	return map;
}

static struct mem_map *three_slots(void)
{
	struct mem_map *map = add(NULL, (struct mem_slot){ 2, 0, { 0x1000 }, 1, A, NULL });

	map = add(map, (struct mem_slot){ 0, 0, { 0x100 }, 0x100, A, NULL });
	return add(map, (struct mem_slot){ 1, MEM_READONLY, { 0x200 }, 0x100, B, NULL });
}

static void check_sound(const struct mem_map *map)
{
	for (unsigned i = 0; i < map->n; i++) {
		assert_true(map->slot[i].n_pages > 0);
		if (i)
			assert_true(map->slot[i - 1].first.v + map->slot[i - 1].n_pages <= map->slot[i].first.v);
		for (unsigned j = 0; j < i; j++)
			assert_int_not_equal(map->slot[i].id, map->slot[j].id);
	}
}

static void check_row(void **state)
{
	const struct row *row = *state;
	struct mem_map *old = three_slots(), *map = NULL;
	size_t size = sizeof(*old) + old->n * sizeof(old->slot[0]);
	struct mem_map *copy = malloc(size);

	memcpy(copy, old, size);
	assert_int_equal(mem_map_change(old, &row->change, &map), row->err);
	assert_memory_equal(old, copy, size);
	if (row->err) {
		assert_null(map);
	} else {
		check_sound(map);
		assert_int_equal(map->n, row->n);
		assert_int_equal(map->generation, old->generation + 1);
		if (row->change.n_pages)
			assert_memory_equal(mem_slot_of_gfn(map, row->change.first), &row->change, sizeof(row->change));
	}
	mem_map_free(map);
	mem_map_free(old);
	free(copy);
}

static const struct mem_slot *linear_search(const struct mem_map *map, uint64_t gfn)
{
	for (unsigned i = 0; i < map->n; i++)
		if (gfn >= map->slot[i].first.v && gfn - map->slot[i].first.v < map->slot[i].n_pages)
			return &map->slot[i];
	return NULL;
}

static void lookups_agree(void **state)
{
	struct mem_map *map = add(NULL, (struct mem_slot){ 0, 0, { 3 }, 2, A, NULL });
	uint64_t s = 12345;

	for (unsigned i = 1; i < 200; i++) {
		struct mem_slot slot = { i, 0, { 0 }, 1, A, NULL };
		struct mem_map *more;

		s = s * 6364136223846793005ull + 1442695040888963407ull;
		slot.first.v = s >> 54;
		slot.n_pages = (s >> 40 & 7) + 1;
		if (mem_map_change(map, &slot, &more) == 0) {
			mem_map_free(map);
			map = more;
		}
		check_sound(map);
	}
	assert_true(map->n > 20);
	for (uint64_t gfn = 0; gfn < 1100; gfn++)
		assert_ptr_equal(mem_slot_of_gfn(map, GFN(gfn)), linear_search(map, gfn));
	assert_null(mem_slot_of_gfn(map, GFN(~0ull)));
	mem_map_free(map);
}

static void empty_map_has_nothing(void **state)
{
	struct mem_map *map = add(NULL, (struct mem_slot){ 0, 0, { 3 }, 2, A, NULL });

	map = add(map, (struct mem_slot){ .id = 0 });
	assert_int_equal(map->n, 0);
	assert_null(mem_slot_of_gfn(map, GFN(3)));
	mem_map_free(map);
}

int main(void)
{
	struct CMUnitTest tests[ARRAY_SIZE(rows) + 2] = {
		{ "lookups agree with a linear search", lookups_agree, NULL, NULL, NULL },
		{ "a map without slots has nothing", empty_map_has_nothing, NULL, NULL, NULL },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		tests[i + 2] = (struct CMUnitTest){ .name = rows[i].name, .test_func = check_row, .initial_state = (void *)(uintptr_t)&rows[i] };
	return cmocka_run_group_tests_name("mem-map", tests, NULL, NULL);
}
