/* SPDX-License-Identifier: MIT */
/*
 * The memory of translated code: mapping, units and their lists, links, pages, and dropping everything when it is full.
 *
 * Everything here belongs to one vCPU and is touched by its thread only. Code is written through one mapping and executed
 * through another; no mapping is ever both writable and executable.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "cpu/host/fpu.h"
#include "cpu/translate/emit.h"

/* ---- lists ------------------------------------------------------------------------------------------------------------------------ */

static void *meta_take(struct translator *k, size_t size)
{
	void *p = k->meta + k->meta_used;

	size = (size + 15) & ~(size_t)15;
	if (k->meta_used + size > TR_META_SIZE)
		return NULL;
	k->meta_used += size;
	return p;
}

void *tr_meta(struct translator *k, size_t size)
{
	void *p = meta_take(k, size);

	if (p)
		memset(p, 0, size);
	return p;
}

struct tr_unit *tr_find(const struct cpu_block *b, uint64_t rip, uint8_t mode)
{
	struct tr_unit *t = b->units;

	while (t && (t->rip != rip || t->mode != mode))
		t = t->of_block;
	return t;
}

static struct tr_page **page_slot(struct translator *k, const struct mem_code *code)
{
	uint64_t h = ((uint64_t)(uintptr_t)code >> 3) * 0x9e3779b97f4a7c15ull;

	return &k->page[h >> 54 & (TR_PAGE_HASH - 1)];
}

struct tr_page *tr_page_find(struct translator *k, const struct cpu_block *b)
{
	struct tr_page *p = *page_slot(k, b->code);

	while (p && p->code != b->code)
		p = p->next;
	return p;
}

/* What @b was decoded from counts from now on. Of a line that nobody had, the rest is as it is in memory. */
void tr_page_note(struct tr_page *p, const struct cpu_block *b)
{
	unsigned at = (uintptr_t)b->hva & GW_PAGE_MASK, first = at / TR_LINE, last = (at + b->n_bytes - 1u) / TR_LINE;
	uint64_t fresh = (~0ull >> (63 - (last - first))) << first & ~p->lines;

	p->lines |= fresh;
	for (; fresh; fresh &= fresh - 1) {
		unsigned line = (unsigned)__builtin_ctzll(fresh) * TR_LINE;

		memcpy(p->bytes + line, p->hva + line, TR_LINE);
	}
	/* Not what is there now: memory may change under us. */
	memcpy(p->bytes + at, b->bytes, b->n_bytes);
}

static bool is_same(const struct tr_page *p)
{
	for (uint64_t left = p->lines; left;) {
		unsigned first = (unsigned)__builtin_ctzll(left), n = ~(left >> first) ? (unsigned)__builtin_ctzll(~(left >> first)) : 64;

		if (memcmp(p->bytes + first * TR_LINE, p->hva + first * TR_LINE, (size_t)n * TR_LINE))
			return false;
		left &= ~((~0ull >> (64 - n)) << first);
	}
	return true;
}

struct tr_page *tr_page_of(struct vcpu *c, const struct cpu_block *b)
{
	struct translator *k = c->translator;
	struct tr_page **slot = page_slot(k, b->code), *p = tr_page_find(k, b);

	if (!p) {
		p = k->n_pages < TR_MAX_PAGES ? meta_take(k, sizeof(*p)) : NULL;
		if (!p)
			return NULL;
		p->epoch = &k->epochs[k->n_pages++];
		p->code = b->code;
		p->hva = b->hva - ((uintptr_t)b->hva & GW_PAGE_MASK);
		p->lines = 0;
		p->units = NULL;
		*p->epoch = c->verify_epoch;
		p->next = *slot;
		*slot = p;
	}
	tr_page_note(p, b);
	return p;
}

static void cut(struct translator *k, struct tr_link *l)
{
	struct tr_emit e = { .start = k->rw };

	e_patch(&e, l->at, l->stub);
	l->to = NULL;
}

/* Remove @l from the list of its target. */
static void forget_link(struct tr_link *l)
{
	struct tr_link **p;

	if (!l->to)
		return;
	for (p = &l->to->in; *p != l; p = &(*p)->next)
		;
	*p = l->next;
	l->to = NULL;
}

void tr_link_to(struct translator *k, struct tr_link *l, struct tr_unit *to)
{
	const struct tr_unit *from = l->from;
	struct tr_emit e = { .start = k->rw };
	uint32_t entry = to->mapped;

	if (l->to || from->dead || to->dead)
		return;
	if (!((from->rip ^ to->rip) >> GW_PAGE_SHIFT) && from->page == to->page)
		entry = to->body;
	e_patch(&e, l->at, entry);
	l->to = to;
	l->next = to->in;
	to->in = l;
	host_serialize();
}

/* @t is not what memory holds any more. Nothing leads to its code when this returns but what is running in it. */
void tr_kill(struct translator *k, struct tr_unit *t)
{
	struct tr_unit **p;
	struct tr_emit e = { .start = k->rw, .p = k->rw + t->mapped };

	if (t->dead)
		return;
	t->dead = true;
	while (t->in) {
		struct tr_link *l = t->in;

		t->in = l->next;
		cut(k, l);
	}
	for (unsigned i = 0; i < t->n_links; i++)
		forget_link(&t->link[i]);
	for (p = &t->b->units; *p && *p != t; p = &(*p)->of_block)
		;
	if (*p)
		*p = t->of_block;
	for (p = &t->page->units; *p && *p != t; p = &(*p)->of_page)
		;
	if (*p)
		*p = t->of_page;
	/* The jump caches may still lead to it. */
	e_mov_i(&e, HR_9, TR_ID(t->index, 0));
	e_jmp_to(&e, k->at.stale);
	host_serialize();
}

/* The place that missed too often computes the index each time, from the next translation of its block on, which is soon. */
void tr_site_give_up(struct vcpu *c)
{
	struct translator *k = c->translator;
	const struct tr_site *s = c->tr_often;
	struct tr_unit *t = k->unit[s->id >> 6];

	c->tr_often = NULL;
	if (t->dead)
		return;
	t->b->unpredicted |= BIT(s->id & 63);
	t->b->runs = k->hot;
	tr_kill(k, t);
}

static bool is_block_same(const struct cpu_block *b)
{
	return !memcmp(b->bytes, b->hva, b->n_bytes);
}

static bool is_as_compiled(const struct tr_unit *t)
{
	for (unsigned i = 0; i < t->n_parts; i++)
		if (!is_block_same(t->part[i].b))
			return false;
	for (unsigned i = 0; i < t->n_deps; i++)
		if (!is_block_same(t->dep[i]))
			return false;
	return true;
}

/* After the client may have written: false when a unit of the page had to go. */
bool tr_page_verify(struct vcpu *c, struct tr_page *p)
{
	struct tr_unit *t, *next;
	bool same = true;

	if (*p->epoch == c->verify_epoch)
		return true;
	*p->epoch = c->verify_epoch;
	if (likely(is_same(p)))
		return true;
	for (t = p->units; t; t = next) {
		next = t->of_page;
		if (is_as_compiled(t))
			continue;
		tr_kill(c->translator, t);
		same = false;
	}
	/* Those that are left, and all that they rest on: what is read now may already be newer than what was compared. */
	p->lines = 0;
	for (t = p->units; t; t = t->of_page) {
		for (unsigned i = 0; i < t->n_parts; i++)
			tr_page_note(p, t->part[i].b);
		for (unsigned i = 0; i < t->n_deps; i++)
			tr_page_note(p, t->dep[i]);
	}
	return same;
}

/* ---- everything ------------------------------------------------------------------------------------------------------------------ */

/* An empty slot says address 0, which selects slot 0: that one says 1. */
static void jumps_reset(struct translator *k)
{
	for (unsigned m = 0; m < ACC_N_MODES; m++) {
		memset(k->jump[m], 0, sizeof(struct tr_jump) << TR_JUMP_BITS);
		k->jump[m][0].rip = 1;
	}
}

void tr_flush(struct vcpu *c)
{
	struct translator *k = c->translator;

	if (!k)
		return;
	for (unsigned i = 0; i < k->n_units; i++) {
		k->unit[i]->b->units = NULL;
		k->unit[i]->b->runs = 0;
	}
	jumps_reset(k);
	memset(k->page, 0, sizeof(k->page));
	k->n_units = 0;
	k->n_sites = 0;
	c->tr_often = NULL;
	k->n_pages = 0;
	k->meta_used = 0;
	k->used = k->first;
	tr_recipes_reset(k);
	k->flushes++;
	c->stats.tr_flushes++;
}

static bool is_word(const char *s, size_t n, const char *word)
{
	return n == strlen(word) && !strncmp(s, word, n);
}

/* "NAME=number" within the bounds, ended by a comma or the end. */
static bool is_number(const char *s, size_t n, const char *name, unsigned max, unsigned *v)
{
	size_t at = strlen(name);
	unsigned long got;
	char *end;

	if (n <= at || strncmp(s, name, at) || s[at] < '0' || s[at] > '9')
		return false;
	got = strtoul(s + at, &end, 10);
	if (end != s + n || got < 1 || got > max)
		return false;
	*v = (unsigned)got;
	return true;
}

static bool take_options(struct translator *k, const char *s)
{
	unsigned mib = TR_CODE_SIZE >> 20;
	bool on = true;

	k->chain = k->tlb = true;
	k->hot = 4;
	while (s && *s) {
		size_t n = strcspn(s, ",");

		if (is_word(s, n, "interp"))
			on = false;
		else if (is_word(s, n, "translate"))
			on = true;
		else if (is_word(s, n, "no-chain"))
			k->chain = false;
		else if (is_word(s, n, "no-tlb"))
			k->tlb = false;
		else if (is_word(s, n, "perf"))
			k->perf = true;
		else if (n && !is_number(s, n, "hot=", 60000, &k->hot) && !is_number(s, n, "code=", 1023, &mib))
			gw_log(GW_LOG_WARN, "GUESTWARD_ENGINE: '%.*s' means nothing", (int)n, s);
		s += n + (s[n] == ',');
	}
	k->size = mib << 20;
	return on;
}

#ifndef HWCAP2_FSGSBASE
#define HWCAP2_FSGSBASE 2
#endif

/* The jump caches, the epochs of pages, the stamps of units, the predictions, then the code: one after the other in the address space, so that code reaches them by displacement. */
static int map_code(struct translator *k)
{
	size_t jumps = ACC_N_MODES * sizeof(struct tr_jump) << TR_JUMP_BITS, epochs = TR_MAX_PAGES * sizeof(*k->epochs);
	size_t stamps = k->size / TR_UNIT_MIN * sizeof(*k->stamps), near = jumps + epochs + stamps + TR_MAX_SITES * sizeof(*k->site);
	uint8_t *base = mmap(NULL, near + k->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (base == MAP_FAILED)
		return -ENOMEM;
	k->near_base = base;
	k->near_size = near + k->size;
	if (mprotect(base, near, PROT_READ | PROT_WRITE))
		return -ENOMEM;
	k->rw = mmap(NULL, k->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (k->rw == MAP_FAILED) {
		k->rw = NULL;
		return -ENOMEM;
	}
	/* An old size of 0 maps shared memory once more: mremap(2). Writable for a moment, while nothing has been put there. */
	k->rx = base + near;
	if (mremap(k->rw, 0, k->size, MREMAP_MAYMOVE | MREMAP_FIXED, k->rx) == MAP_FAILED || mprotect(k->rx, k->size, PROT_READ | PROT_EXEC))
		return -errno;
	for (unsigned m = 0; m < ACC_N_MODES; m++)
		k->jump[m] = (struct tr_jump *)base + ((size_t)m << TR_JUMP_BITS);
	k->epochs = (uint64_t *)(base + jumps);
	k->stamps = (uint64_t *)(base + jumps + epochs);
	k->site = (struct tr_site *)(base + jumps + epochs + stamps);
	return 0;
}

static void free_translator(struct translator *k)
{
	if (k->rw)
		munmap(k->rw, k->size);
	if (k->near_base)
		munmap(k->near_base, k->near_size);
	if (k->meta)
		munmap(k->meta, TR_META_SIZE);
	free(k->unit);
	free(k->compiler);
	tr_recipes_free(k);
	free(k);
}

static int prepare(struct vcpu *c, struct translator *k)
{
	int err = map_code(k);

	if (err)
		return err;
	k->max_units = k->size / TR_UNIT_MIN;
	k->unit = malloc(k->max_units * sizeof(*k->unit));
	k->meta = mmap(NULL, TR_META_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (k->meta == MAP_FAILED)
		k->meta = NULL;
	k->compiler = calloc(1, tr_compiler_size());
	if (tr_recipes_new(k) || !k->unit || !k->meta || !k->compiler)
		return -ENOMEM;
	tr_emit_routines(c, k);
	tr_perfmap_open(k);
	/* Fresh memory is zero. */
	for (unsigned m = 0; m < ACC_N_MODES; m++)
		k->jump[m][0].rip = 1;
	return 0;
}

int tr_new(struct vcpu *c)
{
	struct translator *k;
	int err;

	c->translator = NULL;
	c->tr_sti_rip = NO_STI;
	if (!CPU_MAY_CHAIN || !(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE))
		return 0;
	k = calloc(1, sizeof(*k));
	if (!k)
		return -ENOMEM;
	if (!take_options(k, getenv("GUESTWARD_ENGINE"))) {
		free(k);
		return 0;
	}
	err = prepare(c, k);
	if (err) {
		free_translator(k);
		/* Without memory for code the interpreter still works. */
		return err == -ENOMEM ? err : 0;
	}
	c->translator = k;
	return 0;
}

void tr_free(struct vcpu *c)
{
	if (!c->translator)
		return;
	free_translator(c->translator);
	c->translator = NULL;
}
