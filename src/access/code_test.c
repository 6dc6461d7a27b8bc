/* SPDX-License-Identifier: MIT */
/*
 * Code marks between threads. Each vCPU decodes from a page that all of them store to: a store is finished and told of; from
 * then on nobody may find a "decoded" copy current that is older than the store. Stores go through W entries when there are
 * any and through the slow way when there are none, and both must happen. Built with ACC_PERTURB: threads lose the processor
 * where it hurts most, so that one busy processor is enough.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "access/access_private.h"

#define CPUS	3u
#define PAGES	2u		/* of code */
#define WORDS	3u		/* per page: one a vCPU */
#define ROUNDS	300000u

static struct {
	struct acc_vm *vm;
	struct mem_code_map *code;
	struct acc_cpu *cpu[CPUS];
	uint8_t *ram;
	/* The value of a word whose store is complete. */
	_Atomic uint64_t published[PAGES][WORDS];
	_Atomic unsigned long stale, fast, slow, hits, reused;
} m;

static int setup(void **state)
{
	struct mem_slot s = { .n_pages = PAGES };
	/* The second slot shows the same memory elsewhere. */
	struct mem_slot alias = { .id = 1, .first = GFN(16), .n_pages = PAGES };
	struct mem_map *one, *both;

	memset(&m, 0, sizeof(m));
	m.ram = aligned_alloc(GW_PAGE_SIZE, PAGES * GW_PAGE_SIZE);
	memset(m.ram, 0, PAGES * GW_PAGE_SIZE);
	s.hva = alias.hva = m.ram;
	assert_int_equal(mem_code_map_new(&m.code), 0);
	assert_int_equal(acc_vm_new(NULL, m.code, &m.vm), 0);
	assert_int_equal(mem_map_change(NULL, &s, &one), 0);
	assert_int_equal(mem_map_change(one, &alias, &both), 0);
	mem_map_free(one);
	acc_vm_set_map(m.vm, both);
	for (unsigned i = 0; i < CPUS; i++) {
		m.cpu[i] = aligned_alloc(64, (sizeof(*m.cpu[i]) + 63) & ~(size_t)63);
		memset(m.cpu[i], 0, sizeof(*m.cpu[i]));
		m.cpu[i]->cr0 = CR0_PE;
		assert_int_equal(acc_cpu_init(m.cpu[i], m.vm), 0);
	}
	return 0;
}

static int teardown(void **state)
{
	for (unsigned i = 0; i < CPUS; i++) {
		acc_cpu_fini(m.cpu[i]);
		free(m.cpu[i]);
	}
	acc_vm_free(m.vm);
	mem_code_map_free(m.code);
	free(m.ram);
	return 0;
}

static uint64_t rnd(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s * 0x2545f4914f6cdd1dull >> 20;
}

static _Thread_local uint64_t perturb_seed = 1;

void acc_perturb(void)
{
	if (rnd(&perturb_seed) % 8 == 0)
		sched_yield();
}

/* The words of a page lie in three lines, two of them in one. */
static unsigned offset_of(unsigned word) { return (unsigned[]){ 0, 64, 72 }[word]; }

static void store_word(struct acc_cpu *c, unsigned page, unsigned word, uint64_t value, uint64_t *s)
{
	uint64_t gva = (uint64_t)(page + (rnd(s) & 1) * 16) * GW_PAGE_SIZE + offset_of(word);
	uint8_t *p = acc_probe_w(c, gva, 8);
	struct acc_result out;

	if (p) {
		*(volatile uint64_t *)(void *)p = value;
		atomic_fetch_add(&m.fast, 1);
		return;
	}
	if (acc_check(&(struct acc_request){ .cpu = c, .gva = GVA(gva), .len = 8, .rights = ACC_W }, &out) != ACC_ALLOW)
		abort();
	*(volatile uint64_t *)(void *)out.hva = value;
	if (!(out.silent & ACC_W)) {
		atomic_fetch_add(&m.slow, 1);
		if (acc_store_done(m.vm, out.hva, 8))
			atomic_fetch_add(&m.hits, 1);
	}
}

struct block { struct mem_code *code; uint32_t gen; uint64_t value; };

static void decode(struct acc_cpu *c, unsigned page, unsigned word, struct block *b)
{
	struct acc_request rq;
	struct acc_result out;
	enum acc_verdict v;
	const struct acc_fetch *f;

	do {
		f = acc_fetch_page(c, GVA((uint64_t)page * GW_PAGE_SIZE), &rq, &out, &v);
		if (!f)
			abort();
		b->code = f->code;
		b->gen = atomic_load(&f->code->gen);
	} while (!acc_mark_code(c, f, offset_of(word), 8));
	b->value = *(volatile uint64_t *)(void *)(f->hva + offset_of(word));
}

static void *run(void *arg)
{
	unsigned me = *(unsigned *)arg;
	struct acc_cpu *c = m.cpu[me];
	struct block block[PAGES][WORDS] = { 0 };
	uint64_t s = 88172645463325252ull + me, value = 0, reused = 0;

	perturb_seed += me;
	acc_enter(c);
	for (unsigned i = 0; i < ROUNDS; i++) {
		unsigned page = rnd(&s) % PAGES, word = rnd(&s) % WORDS;
		struct block *b = &block[page][word];
		uint64_t published;

		/* Times of storing and times of executing: or there would always be a mark, and never W. */
		for (uint64_t n = rnd(&s) % 8 ? 0 : rnd(&s) % 8; n; n--) {
			store_word(c, page, me, ++value, &s);
			atomic_store(&m.published[page][me], value);
		}
		if (i >> 8 & 3 || rnd(&s) % 64 == 0) {
			published = atomic_load(&m.published[page][word]);
			if (!b->code || b->gen != atomic_load(&b->code->gen))
				decode(c, page, word, b);
			else
				reused++;
			if (b->value < published)
				atomic_fetch_add(&m.stale, 1);
		}
		if (atomic_load(&c->attention))
			acc_safe_point(c);
		if (rnd(&s) % 32 == 0)	/* as if all of the page had been stored to: no marks, W for everybody */
			acc_store_done(m.vm, m.ram + page * GW_PAGE_SIZE, GW_PAGE_SIZE);
		if (rnd(&s) % 512 == 0) {
			acc_leave(c);
			acc_enter(c);
		}
		if (rnd(&s) % 1024 == 0)
			acc_flush_all(c);
	}
	acc_leave(c);
	atomic_fetch_add(&m.reused, reused);
	return NULL;
}

static void nobody_runs_old_code(void **state)
{
	unsigned which[CPUS];
	pthread_t t[CPUS];

	for (unsigned i = 0; i < CPUS; i++) {
		which[i] = i;
		assert_int_equal(pthread_create(&t[i], NULL, run, &which[i]), 0);
	}
	for (unsigned i = 0; i < CPUS; i++)
		pthread_join(t[i], NULL);
	print_message("# %lu stores by W entries, %lu the slow way, %lu hits, %lu blocks reused\n", atomic_load(&m.fast),
		      atomic_load(&m.slow), atomic_load(&m.hits), atomic_load(&m.reused));
	assert_int_equal(atomic_load(&m.stale), 0);
	assert_true(atomic_load(&m.fast) && atomic_load(&m.slow) && atomic_load(&m.hits) && atomic_load(&m.reused));
}

/* Marks and W entries of one vCPU, in all orders that matter. */
static void marks_and_entries(void **state)
{
	struct acc_cpu *c = m.cpu[0];
	uint64_t s = 1;
	struct block b;

	acc_enter(c);
	store_word(c, 0, 0, 1, &(uint64_t){ 3 });
	decode(c, 0, 0, &b);
	assert_null(acc_probe_w(c, 0, 8));
	assert_null(acc_probe_w(c, 16 * GW_PAGE_SIZE, 8));	/* the alias, too */
	store_word(c, 0, 1, 2, &s);				/* another line: no hit, and still no W */
	assert_int_equal(atomic_load(&b.code->gen), b.gen);
	assert_null(acc_probe_w(c, 0, 8));
	store_word(c, 0, 0, 3, &s);
	assert_int_not_equal(atomic_load(&b.code->gen), b.gen);
	assert_int_equal(atomic_load(&b.code->lines), 0);
	store_word(c, 0, 0, 4, &(uint64_t){ 3 });		/* nothing marked: W again */
	assert_true(acc_probe_w(c, 0, 8) || acc_probe_w(c, 16 * GW_PAGE_SIZE, 8));
	acc_leave(c);
}

static void slots_that_leave_kill_their_code(void **state)
{
	struct acc_cpu *c = m.cpu[0];
	struct mem_slot gone = { .id = 0 };
	struct mem_map *map;
	struct block b;

	acc_enter(c);
	decode(c, 1, 0, &b);
	acc_leave(c);
	assert_int_equal(mem_map_change(acc_vm_map(m.vm), &gone, &map), 0);
	acc_vm_set_map(m.vm, map);
	assert_int_not_equal(atomic_load(&b.code->gen), b.gen);
	acc_enter(c);
	assert_null(acc_fetch_probe(c, GW_PAGE_SIZE));
	acc_leave(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		{ "marks take W away, hits give it back", marks_and_entries, setup, teardown, NULL },
		{ "code of a slot that leaves is dead", slots_that_leave_kill_their_code, setup, teardown, NULL },
		{ "nobody finds code current that is older than a finished store", nobody_runs_old_code, setup, teardown, NULL },
	};

	return cmocka_run_group_tests_name("access-code", tests, NULL, NULL);
}
