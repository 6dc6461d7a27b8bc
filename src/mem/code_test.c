/* SPDX-License-Identifier: MIT */
/* Code records: one per host page, stable, the same for every thread; dropping a range touches exactly that range. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mem/mem.h"

static const uint8_t *page(uint64_t n)
{
	return (const uint8_t *)(uintptr_t)(0x7f0000000000ull + n * GW_PAGE_SIZE);
}

static void records_are_by_page_and_stable(void **state)
{
	struct mem_code_map *m;
	struct mem_code *first;

	assert_int_equal(mem_code_map_new(&m), 0);
	assert_null(mem_code_find(m, page(0)));
	first = mem_code_of(m, page(0));
	assert_non_null(first);
	assert_ptr_equal(mem_code_of(m, page(0) + 4095), first);
	assert_ptr_not_equal(mem_code_of(m, page(1)), first);
	/* Enough chunks to make hash chains. */
	for (uint64_t i = 0; i < 20000; i++)
		atomic_store(&mem_code_of(m, page(i * 512 + i % 512))->lines, i);
	for (uint64_t i = 1; i < 20000; i++)
		assert_int_equal(atomic_load(&mem_code_find(m, page(i * 512 + i % 512))->lines), i);
	assert_ptr_equal(mem_code_find(m, page(0)), first);
	assert_null(mem_code_find(m, page(20001ull * 512)));
	mem_code_map_free(m);
}

static void dropping_takes_exactly_the_range(void **state)
{
	struct mem_code_map *m;

	assert_int_equal(mem_code_map_new(&m), 0);
	for (uint64_t i = 0; i < 2048; i++)
		if (i < 512 || i >= 1024)	/* a chunk in the middle was never used */
			atomic_store(&mem_code_of(m, page(i))->lines, 5);
	mem_code_drop(m, page(500), 1000 * GW_PAGE_SIZE);
	for (uint64_t i = 0; i < 2048; i++) {
		struct mem_code *r = mem_code_find(m, page(i));
		bool inside = i >= 500 && i < 1500;

		assert_int_equal(r == NULL, i >= 512 && i < 1024);
		if (r) {
			assert_int_equal(atomic_load(&r->lines), inside ? 0 : 5);
			assert_int_equal(atomic_load(&r->gen), inside ? 2 : 0);
		}
	}
	mem_code_map_free(m);
}

static struct mem_code_map *shared;
static struct mem_code *seen[2][4000];

static void *create_thread(void *which)
{
	unsigned me = *(unsigned *)which;

	for (uint64_t i = 0; i < 4000; i++) {
		uint64_t n = me ? 3999 - i : i;

		seen[me][n] = mem_code_of(shared, page(n * 512));
	}
	return NULL;
}

static void threads_get_the_same_record(void **state)
{
	unsigned which[2] = { 0, 1 };
	pthread_t t[2];

	assert_int_equal(mem_code_map_new(&shared), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&t[i], NULL, create_thread, &which[i]), 0);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	assert_memory_equal(seen[0], seen[1], sizeof(seen[0]));
	mem_code_map_free(shared);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		{ "records are by host page and never move", records_are_by_page_and_stable, NULL, NULL, NULL },
		{ "dropping takes exactly the range", dropping_takes_exactly_the_range, NULL, NULL, NULL },
		{ "threads get the same record", threads_get_the_same_record, NULL, NULL, NULL },
	};

	return cmocka_run_group_tests_name("mem-code", tests, NULL, NULL);
}
