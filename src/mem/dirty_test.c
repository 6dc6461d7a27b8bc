/* SPDX-License-Identifier: MIT */
/* The dirty log: sizes that are no multiple of 64, both ways of clearing, and no bit lost between threads. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mem/mem.h"

static unsigned count(const uint64_t *words, unsigned n)
{
	unsigned c = 0;

	for (unsigned i = 0; i < n; i++)
		c += (unsigned)__builtin_popcountll(words[i]);
	return c;
}

static void marks_are_fetched(void **state)
{
	struct mem_dirty *d;
	uint64_t words[3];

	assert_int_equal(mem_dirty_new(130, false, &d), 0);
	mem_dirty_mark(d, 0);
	mem_dirty_mark(d, 63);
	mem_dirty_mark(d, 129);
	mem_dirty_mark(d, 129);
	assert_true(mem_dirty_test(d, 129));
	assert_false(mem_dirty_test(d, 128));
	mem_dirty_fetch(d, words, false);
	assert_true(words[0] == (1ull | 1ull << 63) && words[1] == 0 && words[2] == 2);
	mem_dirty_fetch(d, words, true);
	assert_int_equal(count(words, 3), 3);
	mem_dirty_fetch(d, words, true);
	assert_int_equal(count(words, 3), 0);
	mem_dirty_free(d);
}

static void all_ones_stop_at_the_end(void **state)
{
	static const unsigned sizes[] = { 1, 63, 64, 65, 128, 1000 };

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		uint64_t words[16];
		struct mem_dirty *d;

		assert_int_equal(mem_dirty_new(sizes[i], true, &d), 0);
		mem_dirty_fetch(d, words, false);
		assert_int_equal(count(words, (sizes[i] + 63) / 64), sizes[i]);
		mem_dirty_free(d);
	}
}

static void clearing_takes_only_what_was_asked(void **state)
{
	uint64_t ask[2] = { 0xff00, ~0ull }, words[4];
	struct mem_dirty *d;

	assert_int_equal(mem_dirty_new(200, true, &d), 0);
	mem_dirty_clear(d, 64, 70, ask);	/* bits 8..15 of word 1, bits 0..5 of word 2 */
	mem_dirty_fetch(d, words, false);
	assert_true(words[0] == ~0ull && words[1] == ~0xff00ull && words[2] == ~0x3full && words[3] == 0xff);
	mem_dirty_clear(d, 192, 64, (uint64_t[]){ ~0ull });	/* runs over the end */
	mem_dirty_clear(d, 256, 64, ask);			/* begins behind it */
	mem_dirty_clear(d, 3, 64, ask);				/* not a multiple of 64: refused */
	mem_dirty_fetch(d, words, false);
	assert_true(words[0] == ~0ull && words[3] == 0);
	mem_dirty_free(d);
}

static void absurd_sizes_are_refused(void **state)
{
	struct mem_dirty *d = NULL;

	assert_int_equal(mem_dirty_new(~0ull, true, &d), -ENOMEM);
	assert_int_equal(mem_dirty_new(1ull << 62, false, &d), -ENOMEM);
	assert_null(d);
}

#define THREAD_PAGES 4096u
struct marker { struct mem_dirty *d; unsigned first; };

static void *mark_thread(void *arg)
{
	struct marker *m = arg;

	for (unsigned i = m->first; i < THREAD_PAGES; i += 2)
		mem_dirty_mark(m->d, i);
	return NULL;
}

static void no_mark_is_lost_between_threads(void **state)
{
	for (unsigned round = 0; round < 50; round++) {
		uint64_t words[THREAD_PAGES / 64], all[THREAD_PAGES / 64] = { 0 };
		struct mem_dirty *d;
		struct marker m[2];
		pthread_t t[2];
		bool last = false;

		assert_int_equal(mem_dirty_new(THREAD_PAGES, false, &d), 0);
		for (unsigned i = 0; i < 2; i++) {
			m[i] = (struct marker){ d, i };
			assert_int_equal(pthread_create(&t[i], NULL, mark_thread, &m[i]), 0);
		}
		for (unsigned n = 0; !last; n++) {
			if (n == 3) {
				pthread_join(t[0], NULL);
				pthread_join(t[1], NULL);
				last = true;
			}
			mem_dirty_fetch(d, words, true);
			for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
				assert_true((all[i] & words[i]) == 0);
				all[i] |= words[i];
			}
		}
		assert_int_equal(count(all, ARRAY_SIZE(all)), THREAD_PAGES);
		mem_dirty_free(d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		{ "marks are fetched, and cleared if asked", marks_are_fetched, NULL, NULL, NULL },
		{ "a log that starts all ones has no bit past the end", all_ones_stop_at_the_end, NULL, NULL, NULL },
		{ "clearing takes only what was asked", clearing_takes_only_what_was_asked, NULL, NULL, NULL },
		{ "absurd sizes are ENOMEM", absurd_sizes_are_refused, NULL, NULL, NULL },
		{ "no mark is lost between threads", no_mark_is_lost_between_threads, NULL, NULL, NULL },
	};

	return cmocka_run_group_tests_name("mem-dirty", tests, NULL, NULL);
}
