/* SPDX-License-Identifier: MIT */
/* The same work in one thread and in two, for guests with two CPUs: what the second one is worth. */
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "bench.h"

struct part { pthread_t thread; uint64_t n, sum; };

static void *integer(void *arg)
{
	struct part *p = arg;
	uint32_t table[256], seed = 1;
	uint64_t sum = 0;

	for (unsigned i = 0; i < 256; i++)
		table[i] = bench_rand(&seed);
	for (uint64_t i = 0; i < p->n; i++) {
		sum = sum * 31 + table[(sum ^ i) & 255];
		if (sum & 64)
			table[i & 255] ^= (uint32_t)sum;
	}
	p->sum = sum;
	return NULL;
}

static void *kernel(void *arg)
{
	struct part *p = arg;

	for (uint64_t i = 0; i < p->n; i++)
		close(open("/dev/null", O_RDONLY));
	return NULL;
}

static uint64_t in_one(void *(*work)(void *), uint64_t n)
{
	struct part p = { .n = n };

	work(&p);
	return p.sum;
}

static uint64_t in_two(void *(*work)(void *), uint64_t n)
{
	struct part p[2] = { { .n = n }, { .n = n } };

	pthread_create(&p[0].thread, NULL, work, &p[0]);
	work(&p[1]);
	pthread_join(p[0].thread, NULL);
	return p[0].sum + p[1].sum;
}

static uint64_t integer_one(uint64_t n) { return in_one(integer, n); }
static uint64_t integer_two(uint64_t n) { return in_two(integer, n); }
static uint64_t kernel_one(uint64_t n) { return in_one(kernel, n); }
static uint64_t kernel_two(uint64_t n) { return in_two(kernel, n); }

const struct bench bench_smp[] = {
	{ "integer in one thread", "smp", "iteration", integer_one, 100000 },
	{ "integer in two threads", "smp", "iteration of both", integer_two, 100000 },
	{ "open+close in one thread", "smp", "pair", kernel_one, 0 },
	{ "open+close in two threads", "smp", "pair of both", kernel_two, 0 },
	{ 0 },
};
