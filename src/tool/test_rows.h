/* SPDX-License-Identifier: MIT */
/*
 * For the tool's tests: cmocka's includes in the order it wants, and tests made from rows, each reported under its name.
 */
#ifndef TOOL_TEST_ROWS_H
#define TOOL_TEST_ROWS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N_OF(rows) (sizeof(rows) / sizeof((rows)[0]))
#define TESTS_MAX 256u

struct tests {
	struct CMUnitTest list[TESTS_MAX];
	size_t n;
};

/* A test that needs no row has row NULL. */
static inline void tests_add(struct tests *t, const char *name, CMUnitTestFunction run, const void *row)
{
	if (t->n == TESTS_MAX) {
		fprintf(stderr, "too many tests\n");
		exit(1);
	}
	t->list[t->n++] = (struct CMUnitTest){
		.name = name, .test_func = run, .initial_state = (void *)(uintptr_t)row,
	};
}

static inline int tests_run(const char *group, struct tests *t)
{
	return _cmocka_run_group_tests(group, t->list, t->n, NULL, NULL);
}

/* The text must contain the fragment. */
static inline void assert_says(const char *text, const char *fragment)
{
	if (!text || !strstr(text, fragment))
		fail_msg("'%s' does not say '%s'", text ? text : "", fragment);
}

/* Reproducible noise: xorshift. */
static inline uint64_t noise(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

#endif
