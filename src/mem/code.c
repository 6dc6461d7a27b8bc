/* SPDX-License-Identifier: MIT */
/*
 * Records of host pages that hold, or may come to hold, decoded instructions. By host page, not by frame: several slots may
 * show the same memory. Records live in chunks of 2 MiB of host addresses; a chunk is found in a hash without a lock, is
 * created under one, and stays until the map is freed (under 1 % of the memory it describes).
 *
 * What lines, writers, gen and emptied mean to each other is access/code.c's protocol.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "mem/mem.h"

#define CHUNK_SHIFT	21
#define CHUNK_PAGES	(1u << (CHUNK_SHIFT - GW_PAGE_SHIFT))
#define HASH_BITS	12

struct code_chunk {
	uintptr_t key;			/* hva >> CHUNK_SHIFT */
	struct code_chunk *next;	/* constant once the chunk can be seen */
	struct mem_code page[CHUNK_PAGES];
};

struct mem_code_map {
	pthread_mutex_t create;
	_Atomic uint64_t changes;
	_Atomic(struct code_chunk *) bucket[1u << HASH_BITS];
};

int mem_code_map_new(struct mem_code_map **out)
{
	struct mem_code_map *m = calloc(1, sizeof(*m));
	int err;

	if (!m)
		return -ENOMEM;
	err = pthread_mutex_init(&m->create, NULL);
	if (err) {
		free(m);
		return -err;
	}
	*out = m;
	return 0;
}

void mem_code_map_free(struct mem_code_map *m)
{
	if (!m)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(m->bucket); i++) {
		struct code_chunk *c = atomic_load(&m->bucket[i]);

		while (c) {
			struct code_chunk *next = c->next;

			free(c);
			c = next;
		}
	}
	pthread_mutex_destroy(&m->create);
	free(m);
}

static _Atomic(struct code_chunk *) *bucket_of(struct mem_code_map *m, uintptr_t key)
{
	return &m->bucket[key * 0x9e3779b97f4a7c15ull >> (64 - HASH_BITS)];
}

static struct code_chunk *find(struct mem_code_map *m, uintptr_t key)
{
	struct code_chunk *c = atomic_load_explicit(bucket_of(m, key), memory_order_acquire);

	while (c && c->key != key)
		c = c->next;
	return c;
}

static struct mem_code *page_of(struct code_chunk *c, const uint8_t *hva)
{
	return &c->page[(uintptr_t)hva >> GW_PAGE_SHIFT & (CHUNK_PAGES - 1)];
}

static struct code_chunk *create(struct mem_code_map *m, uintptr_t key)
{
	struct code_chunk *c;

	pthread_mutex_lock(&m->create);
	c = find(m, key);
	if (!c && (c = calloc(1, sizeof(*c)))) {
		c->key = key;
		c->next = atomic_load(bucket_of(m, key));
		atomic_store_explicit(bucket_of(m, key), c, memory_order_release);
	}
	pthread_mutex_unlock(&m->create);
	return c;
}

struct mem_code *mem_code_of(struct mem_code_map *m, const uint8_t *hva)
{
	uintptr_t key = (uintptr_t)hva >> CHUNK_SHIFT;
	struct code_chunk *c = find(m, key);

	if (unlikely(!c))
		c = create(m, key);
	return c ? page_of(c, hva) : NULL;
}

struct mem_code *mem_code_find(struct mem_code_map *m, const uint8_t *hva)
{
	struct code_chunk *c = find(m, (uintptr_t)hva >> CHUNK_SHIFT);

	return c ? page_of(c, hva) : NULL;
}

void mem_code_drop(struct mem_code_map *m, const uint8_t *hva, uint64_t len)
{
	uintptr_t page = (uintptr_t)hva >> GW_PAGE_SHIFT;
	uintptr_t end = page + (len + GW_PAGE_MASK) / GW_PAGE_SIZE;

	while (page < end) {
		uintptr_t key = page >> (CHUNK_SHIFT - GW_PAGE_SHIFT);
		uintptr_t stop = (key + 1) << (CHUNK_SHIFT - GW_PAGE_SHIFT);
		struct code_chunk *c = find(m, key);

		if (stop > end)
			stop = end;
		for (; c && page < stop; page++) {
			struct mem_code *r = &c->page[page & (CHUNK_PAGES - 1)];

			atomic_fetch_add(&r->gen, 1);
			atomic_store(&r->lines, 0);
			atomic_fetch_add(&r->emptied, 1);
			atomic_fetch_add(&r->gen, 1);
		}
		page = stop;
	}
	atomic_fetch_add(&m->changes, 1);
}

_Atomic uint64_t *mem_code_changes(struct mem_code_map *m)
{
	return &m->changes;
}
