/* SPDX-License-Identifier: MIT */
/* Memory: latency by working set, random update, streaming, bulk copies. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

static void *region(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* A random cycle through @size bytes, one 64-byte line a step. Made once: only the walk is measured. */
static uint64_t *cycle(size_t size)
{
	size_t lines = size / 64, i;
	uint64_t *p = region(size);
	uint32_t seed = 7, *order = malloc(lines * sizeof(*order));

	if (!p || !order)
		return NULL;
	for (i = 0; i < lines; i++)
		order[i] = (uint32_t)i;
	for (i = lines - 1; i; i--) {
		size_t j = ((uint64_t)bench_rand(&seed) << 20 ^ bench_rand(&seed)) % (i + 1);
		uint32_t t = order[i];

		order[i] = order[j];
		order[j] = t;
	}
	for (i = 0; i < lines; i++)
		p[order[i] * 8ul] = order[(i + 1) % lines] * 8ul;
	free(order);
	return p;
}

static uint64_t chase(uint64_t n, uint64_t **p, size_t size)
{
	uint64_t at = 0;

	if (!*p)
		*p = cycle(size);
	if (!*p)
		return 0;
	for (uint64_t k = 0; k < n; k++)
		at = (*p)[at];
	return at;
}

static uint64_t lat16k(uint64_t n) { static uint64_t *p; return chase(n, &p, 16 << 10); }
static uint64_t lat1m(uint64_t n) { static uint64_t *p; return chase(n, &p, 1 << 20); }
static uint64_t lat64m(uint64_t n) { static uint64_t *p; return chase(n, &p, 64 << 20); }

static uint64_t gups64m(uint64_t n)
{
	static uint64_t *p;
	uint64_t x = 1;

	if (!p)
		p = region(64 << 20);
	if (!p)
		return 0;
	for (uint64_t i = 0; i < n; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p[x & ((64 << 20) / 8 - 1)] ^= x;
	}
	return x;
}

static uint64_t seqsum(uint64_t n)
{
	static uint64_t *p;
	uint64_t s = 0;

	if (!p)
		p = region(4 << 20);
	if (!p)
		return 0;
	for (uint64_t i = 0; i < n; i++) {
		s += p[i & ((4 << 20) / 8 - 1)];
		__asm__ volatile("" : "+r"(s));
	}
	return s;
}

static uint64_t copy256k(uint64_t n)
{
	static uint8_t *p;

	if (!p)
		p = region(512 << 10);
	if (!p)
		return 0;
	for (uint64_t i = 0; i < n; i++) {
		memcpy(p + (256 << 10), p, 256 << 10);
		KEEP(p);
	}
	return n;
}

static uint64_t rep_movsb(uint64_t n)
{
	static uint8_t *p;

	if (!p)
		p = region(8192);
	if (!p)
		return 0;
	for (uint64_t i = 0; i < n; i++) {
		void *d = p + 4096, *s = p;
		uint64_t c = 4096;

		__asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(c) : : "memory");
	}
	return n;
}

static uint64_t rep_stosq(uint64_t n)
{
	static uint8_t *p;

	if (!p)
		p = region(4096);
	if (!p)
		return 0;
	for (uint64_t i = 0; i < n; i++) {
		void *d = p;
		uint64_t c = 512;

		__asm__ volatile("rep stosq" : "+D"(d), "+c"(c) : "a"(i) : "memory");
	}
	return n;
}

const struct bench bench_mem[] = {
	{ "lat16k", "mem", "load", lat16k, 10000 },
	{ "lat1m", "mem", "load", lat1m, 10000 },
	{ "lat64m", "mem", "load", lat64m, 10000 },
	{ "gups64m", "mem", "update", gups64m, 10000 },
	{ "seqsum", "mem", "load", seqsum, 10000 },
	{ "memcpy 256K", "copy", "copy", copy256k, 0 },
	{ "rep movsb 4K", "copy", "copy", rep_movsb, 0 },
	{ "rep stosq 4K", "copy", "fill", rep_stosq, 0 },
	{ 0 },
};
