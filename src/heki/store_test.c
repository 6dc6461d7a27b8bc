/* SPDX-License-Identifier: MIT */
/* The store against an array of bytes: random runs, aborted transactions, failing allocations' neighbours, memory by ranges. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "heki/store.h"

#define FRAMES	5000u		/* more than four leaves */

static uint8_t set_fn(uint8_t old, void *arg)
{
	return *(uint8_t *)arg;
}

static uint8_t xor_fn(uint8_t old, void *arg)
{
	return old ^ *(uint8_t *)arg;
}

static int put(struct store *s, uint64_t first, uint64_t n, uint8_t v)
{
	struct store_txn t;
	int err;

	store_begin(s, &t);
	err = store_update(&t, first, n, set_fn, &v);
	if (err)
		store_abort(&t);
	else
		store_reclaim(store_commit(&t));
	return err;
}

static void empty_has_nothing(void **state)
{
	uint64_t frame = 0, n;
	struct store s;

	store_init(&s);
	assert_int_equal(store_get(&s, 0), 0);
	assert_int_equal(store_get(&s, STORE_FRAMES - 1), 0);
	assert_int_equal(store_get(&s, ~0ull), 0);
	assert_int_equal(store_next(store_root(&s), &frame, &n), 0);
	store_fini(&s);
}

static void follows_an_array(void **state)
{
	static uint8_t model[FRAMES];
	const uint64_t base = (1ull << 30) - 2000;	/* across a node of level 2 */
	struct store s;

	store_init(&s);
	srand(1);
	for (unsigned round = 0; round < 600; round++) {
		unsigned first = (unsigned)rand() % FRAMES, n = 1 + (unsigned)rand() % (FRAMES - first);
		uint8_t v = (uint8_t)(rand() % 4 * 0x55);
		bool keep = rand() % 4, flip = rand() % 3 == 0;
		struct store_txn t;

		if (n > 40 && rand() % 2)
			n = 1 + n % 40;
		store_begin(&s, &t);
		assert_int_equal(store_update(&t, base + first, n, flip ? xor_fn : set_fn, &v), 0);
		if (!keep) {
			store_abort(&t);
		} else {
			store_reclaim(store_commit(&t));
			for (unsigned i = first; i < first + n; i++)
				model[i] = flip ? model[i] ^ v : v;
		}
		for (unsigned i = 0; i < FRAMES; i++)
			assert_int_equal(store_get(&s, base + i), model[i]);
		assert_int_equal(store_get(&s, base - 1), 0);
		assert_int_equal(store_get(&s, base + FRAMES), 0);
	}
	store_fini(&s);
}

static void runs_cover_what_is_there(void **state)
{
	uint64_t frame = 0, n, total = 0;
	struct store s;

	store_init(&s);
	put(&s, 5, 10, 1);
	put(&s, 15, 3, 2);
	put(&s, 1ull << 35, 1ull << 20, 3);
	assert_int_equal(store_next(store_root(&s), &frame, &n), 1);
	assert_int_equal(frame, 5);
	assert_int_equal(n, 10);
	frame += n;
	assert_int_equal(store_next(store_root(&s), &frame, &n), 2);
	assert_int_equal(frame, 15);
	assert_int_equal(n, 3);
	for (frame += n; store_next(store_root(&s), &frame, &n) == 3; frame += n)
		total += n;
	assert_int_equal(total, 1ull << 20);
	store_fini(&s);
}

static void sees_bits_of_the_transaction(void **state)
{
	struct store_txn t;
	struct store s;
	uint8_t v = 0x10;

	store_init(&s);
	store_begin(&s, &t);
	assert_false(store_any(&t, 0, STORE_FRAMES, 0xff));
	assert_int_equal(store_update(&t, 100, 4, set_fn, &v), 0);
	assert_true(store_any(&t, 103, 1, 0x10));
	assert_true(store_any(&t, 0, 101, 0x10));
	assert_false(store_any(&t, 0, 100, 0x10));
	assert_false(store_any(&t, 104, 1000, 0x10));
	assert_false(store_any(&t, 100, 4, 0x20));
	store_abort(&t);
	store_fini(&s);
}

static void refuses_what_is_outside(void **state)
{
	struct store s;

	store_init(&s);
	assert_int_equal(put(&s, 0, 0, 1), -EINVAL);
	assert_int_equal(put(&s, STORE_FRAMES, 1, 1), -EINVAL);
	assert_int_equal(put(&s, STORE_FRAMES - 1, 2, 1), -EINVAL);
	assert_int_equal(put(&s, 1, ~0ull, 1), -EINVAL);
	assert_int_equal(put(&s, STORE_FRAMES - 1, 1, 1), 0);
	assert_int_equal(store_get(&s, STORE_FRAMES - 1), 1);
	store_fini(&s);
}

/* Size follows ranges, not frames; and goes back to nothing. */
static void memory_follows_ranges(void **state)
{
	uint64_t one;
	struct store s;

	store_init(&s);
	put(&s, 0, STORE_FRAMES, 3);
	assert_int_equal(atomic_load(&s.bytes), 0);
	put(&s, 0, STORE_FRAMES, 0);
	put(&s, 1234, 1, 1);
	one = atomic_load(&s.bytes);
	assert_true(one > 0 && one < 32768);
	put(&s, 0, 1ull << 24, 1);	/* 64 GiB */
	assert_true(atomic_load(&s.bytes) < 2 * one);
	put(&s, 0, STORE_FRAMES, 0);
	assert_int_equal(atomic_load(&s.bytes), 0);
	assert_int_equal(store_root(&s), 1);
	store_fini(&s);
}

/* An old tree stays whole for its readers until it is reclaimed. */
static void old_tree_stays(void **state)
{
	struct store_node *replaced;
	uint64_t frame = 0, n;
	struct store_txn t;
	store_word before;
	struct store s;
	uint8_t v = 7;

	store_init(&s);
	put(&s, 10, 5, 1);
	before = store_root(&s);
	store_begin(&s, &t);
	assert_int_equal(store_update(&t, 0, 3000, set_fn, &v), 0);
	replaced = store_commit(&t);
	assert_int_equal(store_next(before, &frame, &n), 1);
	assert_int_equal(frame, 10);
	assert_int_equal(n, 5);
	assert_int_equal(store_get(&s, 10), 7);
	store_reclaim(replaced);
	store_fini(&s);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		{ "an empty store has no entry anywhere", empty_has_nothing, NULL, NULL, NULL },
		{ "random runs, kept and aborted, follow a plain array", follows_an_array, NULL, NULL, NULL },
		{ "runs are reported whole or in pieces, none lost", runs_cover_what_is_there, NULL, NULL, NULL },
		{ "a transaction sees its own changes", sees_bits_of_the_transaction, NULL, NULL, NULL },
		{ "runs outside the address space are refused", refuses_what_is_outside, NULL, NULL, NULL },
		{ "memory follows the number of ranges", memory_follows_ranges, NULL, NULL, NULL },
		{ "readers keep the old tree until it is reclaimed", old_tree_stays, NULL, NULL, NULL },
	};

	return _cmocka_run_group_tests("store", tests, ARRAY_SIZE(tests), NULL, NULL);
}
