/* SPDX-License-Identifier: MIT */
/* Kinds against a flat model; every store against the same rows; who is told of what and when. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "mem/gmem.h"

/* ---- kinds ----------------------------------------------------------------------------------------------------------------- */

static void convert(struct mem_kinds *k, uint64_t first, uint64_t n, bool is_private)
{
	assert_int_equal(mem_kinds_reserve(k, GFN(first), n), 0);
	mem_kinds_set(k, GFN(first), n, is_private);
	mem_kinds_retire(k);
}

static void kinds_follow_a_model(void **state)
{
	static uint8_t model[4096];	/* frames around a 1 GiB boundary */
	const uint64_t base = (1ull << 18) * 7 - 2048;
	struct mem_kinds *k;
	unsigned seed = 1;

	assert_int_equal(mem_kinds_new(&k), 0);
	for (unsigned round = 0; round < 3000; round++) {
		uint64_t first = (unsigned)rand_r(&seed) % 4096, n = 1 + (unsigned)rand_r(&seed) % (round % 3 ? 20 : 4096 - first);
		bool is_private = rand_r(&seed) & 1;

		n = n > 4096 - first ? 4096 - first : n;
		memset(model + first, is_private, n);
		convert(k, base + first, n, is_private);
		for (unsigned i = 0; i < 4096; i += round % 64 ? 37 : 1)
			assert_int_equal(mem_kinds_is_private(k, GFN(base + i)), model[i]);
		assert_false(mem_kinds_is_private(k, GFN(base - 1)));
		assert_false(mem_kinds_is_private(k, GFN(base + 4096)));
	}
	for (uint64_t at = 0; at < 4096;) {
		bool is_private;
		uint64_t end = mem_kinds_run(k, base + at, base + 4096, &is_private) - base;

		for (uint64_t i = at; i < end; i++)
			assert_int_equal(model[i], is_private);
		assert_true(end == 4096 || model[end] != is_private);
		at = end;
	}
	mem_kinds_free(k);
}

static void the_whole_space_costs_nothing(void **state)
{
	struct mem_kinds *k;
	uint64_t empty;

	assert_int_equal(mem_kinds_new(&k), 0);
	empty = mem_kinds_bytes(k);
	convert(k, 0, 1ull << 52, true);
	assert_true(mem_kinds_is_private(k, GFN(0)) && mem_kinds_is_private(k, GFN((1ull << 52) - 1)));
	assert_int_equal(mem_kinds_bytes(k), empty);
	convert(k, 12345, 1, false);
	assert_false(mem_kinds_is_private(k, GFN(12345)));
	assert_true(mem_kinds_bytes(k) < empty + 5 * 4200);
	convert(k, 0, 1ull << 52, false);
	assert_int_equal(mem_kinds_bytes(k), empty);	/* what nobody needs any more is given back */
	mem_kinds_free(k);
}

static void uniform_memory_is_cheap(void **state)
{
	const uint64_t frames = (1ull << 40) >> GW_PAGE_SHIFT;	/* 1 TiB, from an odd frame */
	struct mem_kinds *k;

	assert_int_equal(mem_kinds_new(&k), 0);
	convert(k, 3, frames, true);
	assert_true(mem_kinds_bytes(k) < (1ull << 40) / 1000000);
	convert(k, 3, frames, false);
	mem_kinds_free(k);
}

static void beyond_the_last_frame_all_is_shared(void **state)
{
	struct mem_kinds *k;

	assert_int_equal(mem_kinds_new(&k), 0);
	convert(k, 0, 1ull << 52, true);
	assert_false(mem_kinds_is_private(k, GFN(1ull << 52)));
	assert_false(mem_kinds_is_private(k, GFN(~0ull)));
	mem_kinds_free(k);
}

/* ---- stores ---------------------------------------------------------------------------------------------------------------- */

static struct told { unsigned begins, ends; uint64_t page, n; bool was_busy; const uint8_t *watch; uint8_t at_begin, at_end; } told;

static void begin(void *opaque, struct mem_gmem *g, uint64_t page, uint64_t n)
{
	struct told *t = opaque;

	t->begins++;
	t->page = page;
	t->n = n;
	t->was_busy = mem_gmem_is_busy(g, page) && !mem_gmem_is_busy(g, page + n) && (!page || !mem_gmem_is_busy(g, page - 1));
	t->at_begin = t->watch ? *t->watch : 0;
}

static void end(void *opaque, struct mem_gmem *g, uint64_t page, uint64_t n)
{
	struct told *t = opaque;

	assert_true(t->page == page && t->n == n);
	t->ends++;
	t->at_end = t->watch ? *t->watch : 0;
}

static const struct mem_gmem_user user = { begin, end };
static const struct mem_backing_ops *const stores[] = { &mem_backing_anonymous, &mem_backing_huge, &mem_backing_file };
#define P GW_PAGE_SIZE

static struct mem_gmem *make(const struct mem_backing_ops *ops, uint64_t n)
{
	int fd = ops == &mem_backing_file ? memfd_create("test", 0) : -1;
	struct mem_gmem *g;

	if (fd >= 0)
		assert_int_equal(ftruncate(fd, (off_t)(n * P)), 0);
	memset(&told, 0, sizeof(told));
	assert_int_equal(mem_gmem_new(ops, n, 0, fd, &user, &told, &g), 0);
	return g;
}

static void bytes_stay_until_punched(void **state)
{
	const struct mem_backing_ops *ops = *state;
	struct mem_gmem *g = make(ops, 16);
	uint8_t *a, *b;

	assert_int_equal(mem_gmem_bind(g, 4, 4, &a), 0);
	assert_int_equal(a[0], 0);
	memset(a, 0xaa, 4 * P);
	/* Another life of the same pages, elsewhere. */
	mem_gmem_unbind(g, 4, 4, a);
	assert_int_equal(mem_gmem_bind(g, 3, 6, &b), 0);
	assert_int_equal(b[P], 0xaa);
	assert_int_equal(b[P - 1], 0);
	assert_int_equal(b[5 * P - 1], 0xaa);
	assert_int_equal(b[5 * P], 0);
	told.watch = b + P;
	assert_int_equal(mem_gmem_punch(g, 4, 1), 0);
	assert_int_equal(b[P], 0);
	assert_int_equal(b[2 * P], 0xaa);
	assert_true(told.begins == 1 && told.ends == 1 && told.page == 4 && told.n == 1 && told.was_busy);
	assert_int_equal(told.at_begin, 0xaa);	/* told before anything goes */
	assert_int_equal(told.at_end, 0);	/* and after it went */
	assert_false(mem_gmem_is_busy(g, 4));
	/* Present pages are untouched by allocation. */
	assert_int_equal(mem_gmem_allocate(g, 4, 2), 0);
	assert_int_equal(b[2 * P], 0xaa);
	told.watch = NULL;
	mem_gmem_unbind(g, 3, 6, b);
	mem_gmem_put(g);
}

static void presence_is_seen_and_looking_allocates_nothing(void **state)
{
	struct mem_gmem *g = make(*state, 2048);
	uint8_t vec[2048], *a;
	unsigned n = 0;

	assert_int_equal(mem_gmem_resident(g, 0, 2048, vec), 0);
	assert_int_equal(vec[7], 0);
	assert_int_equal(mem_gmem_bind(g, 0, 2048, &a), 0);
	assert_int_equal(mem_gmem_resident(g, 0, 2048, vec), 0);
	for (unsigned i = 0; i < 2048; i++)
		n += vec[i];
	assert_int_equal(n, 0);
	a[700 * P] = 1;
	assert_int_equal(mem_gmem_allocate(g, 900, 3), 0);
	assert_int_equal(mem_gmem_resident(g, 0, 2048, vec), 0);
	assert_true(vec[700] && vec[900] && vec[902] && !vec[2047]);
	assert_int_equal(mem_gmem_punch(g, 0, 2048), 0);
	assert_int_equal(mem_gmem_resident(g, 0, 2048, vec), 0);
	for (unsigned i = 0; i < 2048; i++)
		assert_int_equal(vec[i], 0);
	mem_gmem_unbind(g, 0, 2048, a);
	mem_gmem_put(g);
}

static void no_page_is_bound_twice(void **state)
{
	struct mem_gmem *g = make(*state, 16);
	uint8_t *a, *b;

	assert_int_equal(mem_gmem_bind(g, 4, 4, &a), 0);
	assert_int_equal(mem_gmem_bind(g, 7, 1, &b), -EINVAL);
	assert_int_equal(mem_gmem_bind(g, 0, 16, &b), -EINVAL);
	assert_int_equal(mem_gmem_bind(g, 0, 5, &b), -EINVAL);
	assert_int_equal(mem_gmem_bind(g, 8, 9, &b), -EINVAL);	/* past the end */
	assert_int_equal(mem_gmem_bind(g, ~0ull - 1, 4, &b), -EINVAL);
	assert_int_equal(mem_gmem_bind(g, 8, 8, &b), 0);
	a[4 * P - 1] = 7;
	b[0] = 8;
	assert_int_equal(mem_gmem_punch(g, 7, 2), 0);	/* across the two */
	assert_true(a[4 * P - 1] == 0 && b[0] == 0);
	mem_gmem_unbind(g, 4, 4, a);
	assert_int_equal(mem_gmem_bind(g, 0, 5, &a), 0);
	mem_gmem_unbind(g, 0, 5, a);
	mem_gmem_unbind(g, 8, 8, b);
	mem_gmem_put(g);
}

static void past_the_end_is_nothing(void **state)
{
	struct mem_gmem *g = make(*state, 16);

	assert_int_equal(mem_gmem_punch(g, 16, 4), 0);
	assert_int_equal(mem_gmem_punch(g, 1ull << 50, 4), 0);
	assert_int_equal(told.begins, 0);	/* nobody is disturbed */
	assert_int_equal(mem_gmem_punch(g, 14, 100), 0);
	assert_true(told.begins == 1 && told.ends == 1 && told.n == 2);
	assert_int_equal(mem_gmem_allocate(g, 15, 2), -EINVAL);
	assert_int_equal(mem_gmem_allocate(g, ~0ull, 2), -EINVAL);
	mem_gmem_put(g);
}

static void a_closed_file_is_empty(void **state)
{
	struct mem_gmem *g = make(*state, 16);
	uint8_t vec[16], *a, *b;

	assert_int_equal(mem_gmem_bind(g, 0, 4, &a), 0);
	a[0] = 1;
	mem_gmem_close(g);
	assert_true(told.begins == 1 && told.ends == 1 && told.n == 16);
	mem_gmem_close(g);
	assert_int_equal(told.begins, 1);
	assert_int_equal(mem_gmem_resident(g, 0, 16, vec), 0);
	assert_int_equal(vec[0], 0);
	assert_int_equal(mem_gmem_bind(g, 8, 4, &b), -EINVAL);
	assert_int_equal(mem_gmem_punch(g, 0, 4), 0);
	mem_gmem_put(g);		/* the file's; the slot still has its own */
	mem_gmem_unbind(g, 0, 4, a);
}

/* Only what says so is secret; it is left out of core dumps and of children. */
static void a_secret_store_has_no_descriptor_and_is_not_dumped(void **state)
{
	const struct mem_backing_ops *ops = *state;
	struct mem_gmem *g = make(ops, 1024);
	char line[256], want[32];
	bool in_it = false, dumped = true, inherited = true;
	uint8_t *a;
	FILE *f;

	assert_int_equal(mem_gmem_bind(g, 0, 1024, &a), 0);
	if (!ops->is_secret) {
		mem_gmem_unbind(g, 0, 1024, a);
		mem_gmem_put(g);
		return;
	}
	assert_int_equal(g->fd, -1);
	snprintf(want, sizeof(want), "%lx-", (unsigned long)(uintptr_t)a);
	f = fopen("/proc/self/smaps", "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, want, strlen(want)))
			in_it = true;
		if (in_it && !strncmp(line, "VmFlags:", 8)) {
			dumped = !strstr(line, " dd");
			inherited = !strstr(line, " dc");
			break;
		}
	}
	fclose(f);
	assert_true(in_it);
	assert_false(dumped);
	assert_false(inherited);
	mem_gmem_unbind(g, 0, 1024, a);
	mem_gmem_put(g);
}

static void a_tebibyte_costs_nothing(void **state)
{
	struct mem_gmem *g = make(*state, (1ull << 40) / P);
	uint8_t *a;

	assert_int_equal(mem_gmem_bind(g, 0, (1ull << 40) / P, &a), 0);
	a[(1ull << 40) - 1] = 5;
	assert_int_equal(mem_gmem_punch(g, 0, (1ull << 40) / P), 0);
	assert_int_equal(a[(1ull << 40) - 1], 0);
	mem_gmem_unbind(g, 0, (1ull << 40) / P, a);
	mem_gmem_put(g);
}

int main(void)
{
	static const struct { const char *name; CMUnitTestFunction fn; } each[] = {
		{ "bytes stay until punched", bytes_stay_until_punched },
		{ "presence is seen, and looking allocates nothing", presence_is_seen_and_looking_allocates_nothing },
		{ "no page is bound twice", no_page_is_bound_twice },
		{ "past the end is nothing", past_the_end_is_nothing },
		{ "a closed file is empty", a_closed_file_is_empty },
		{ "a secret store has no descriptor and is not dumped", a_secret_store_has_no_descriptor_and_is_not_dumped },
		{ "a tebibyte costs nothing", a_tebibyte_costs_nothing },
	};
	static struct CMUnitTest tests[4 + ARRAY_SIZE(each) * ARRAY_SIZE(stores)];
	static char names[ARRAY_SIZE(tests)][96];
	unsigned n = 0;

	/* These tests stand for guests and touch the bytes all the time; tests/private has the seal. */
	setenv("GUESTWARD_SEAL", "off", 1);
	tests[n++] = (struct CMUnitTest){ .name = "kinds follow a model", .test_func = kinds_follow_a_model };
	tests[n++] = (struct CMUnitTest){ .name = "the whole space costs nothing", .test_func = the_whole_space_costs_nothing };
	tests[n++] = (struct CMUnitTest){ .name = "uniform memory is cheap", .test_func = uniform_memory_is_cheap };
	tests[n++] = (struct CMUnitTest){ .name = "beyond the last frame all is shared", .test_func = beyond_the_last_frame_all_is_shared };
	for (unsigned s = 0; s < ARRAY_SIZE(stores); s++)
		for (unsigned i = 0; i < ARRAY_SIZE(each); i++, n++) {
			snprintf(names[n], sizeof(names[n]), "%s: %s", stores[s]->name, each[i].name);
			tests[n] = (struct CMUnitTest){ .name = names[n], .test_func = each[i].fn, .initial_state = (void *)(uintptr_t)stores[s] };
		}
	return _cmocka_run_group_tests("private memory", tests, n, NULL, NULL);
}
