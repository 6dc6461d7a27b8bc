/* SPDX-License-Identifier: MIT */
/*
 * The patch vocabulary: which bytes may be written into sealed text, and where. Sites of the image come from the kernel's own
 * tables, which lie in rodata and are sealed with it: __jump_table (place, target), .static_call_sites (place); static-call
 * trampolines are known by their mark. They are found by their shape, so no symbols are needed. Function entries that hold a 5-byte NOP may become
 * calls (ftrace). Later pages have no tables that could be trusted: there a place is one that holds a patchable instruction.
 *
 * Linux patches live text in three steps: INT3 on the first byte; the tail; the first byte. A tail changes only under an INT3 of
 * ours, and the first byte comes back only if the whole is legal for the site. So a half-written mixture is never executed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "heki/seal.h"

#define INT3		0xcc
#define MIN_RUN		12	/* consecutive well-formed entries that make a table */
#define LOOKS_PER_BYTE	2
#define IMAGE_MIN	0xffffffff80000000ull

/* ---- finding the tables --------------------------------------------------------------------------------------------------------- */

struct image { struct heki *h; struct heki_seals *s; uint8_t *text, *ro; const struct image_run *text_run; };

static bool in_text(const struct image *m, uint64_t va, unsigned len)
{
	return va - m->text_run->va < m->text_run->size - len;
}

static unsigned form_length(const uint8_t *p)
{
	if (p[0] == 0x66 && p[1] == 0x90)
		return 2;
	if (p[0] == 0xeb)
		return 2;
	if (!memcmp(p, "\x0f\x1f\x44\x00\x00", 5) || !memcmp(p, "\x2e\x2e\x2e\x31\xc0", 5) || p[0] == 0xe9 || p[0] == 0xe8)
		return 5;
	if (p[0] == 0x0f && (p[1] & 0xf0) == 0x80)
		return 6;
	if (p[0] == 0xc3)
		return 5;	/* RET and filling */
	return 0;
}

static int32_t s32(const uint8_t *p)
{
	int32_t v;

	memcpy(&v, p, 4);
	return v;
}

static uint64_t rel(uint64_t at, int64_t offset) { return at + (uint64_t)offset; }

static int add_site(struct heki_seals *s, uint64_t va, uint64_t target, enum site_kind kind)
{
	if (s->n_sites == s->sites_size) {
		unsigned size = s->sites_size * 2 + 1024;
		struct site *n = realloc(s->site, size * sizeof(*n));

		if (!n)
			return -ENOMEM;
		s->site = n;
		s->sites_size = size;
	}
	s->site[s->n_sites++] = (struct site){ .va = va, .target = target, .kind = (uint8_t)kind };
	return 0;
}

/*
 * One entry at @p, which lies at @va. 0: no entry. 1: it could be one (of code that is gone). 2: it is, *site filled.
 */
static int jump_entry(const struct image *m, const uint8_t *p, uint64_t va, struct site *site)
{
	uint64_t code = rel(va, s32(p)), target = rel(va + 4, s32(p + 4));
	int64_t key;
	unsigned len;

	memcpy(&key, p + 8, 8);
	key = (int64_t)rel(va + 8, key & ~3ll);
	if (code < IMAGE_MIN || target < IMAGE_MIN || (uint64_t)key < IMAGE_MIN || code == target)
		return 0;
	if (!in_text(m, code, 5) || !in_text(m, target, 1))
		return code - m->text_run->va < 1ull << 30 && target - m->text_run->va < 1ull << 30 ? 1 : 0;
	len = form_length(m->text + (code - m->text_run->va));
	if (len != 2 && len != 5)
		return 0;
	*site = (struct site){ .va = code, .target = target, .kind = SITE_JUMP };
	return 2;
}

static int call_entry(const struct image *m, const uint8_t *p, uint64_t va, struct site *site)
{
	uint64_t code = rel(va, s32(p)), key = rel(va + 4, s32(p + 4) & ~3);

	if (code < IMAGE_MIN || key < IMAGE_MIN || key & 7)
		return 0;
	if (!in_text(m, code, 6))
		return code - m->text_run->va < 1ull << 30 ? 1 : 0;
	if (form_length(m->text + (code - m->text_run->va)) < 5)
		return 0;
	*site = (struct site){ .va = code, .kind = SITE_CALL };
	return 2;
}

struct table { unsigned size; int (*entry)(const struct image *m, const uint8_t *p, uint64_t va, struct site *site); };

/*
 * Every run of entries long enough to be no accident. A run of mere possibilities is tried again at its next word, as it may have begun
 * too early; constants made for that would cost the square of their size, so it is done so many times only, then the run is skipped.
 */
static int find_table(const struct image *m, const struct image_run *r, const struct table *t)
{
	uint64_t at = 0, looks = r->size * LOOKS_PER_BYTE;
	struct site site = { 0 };

	while (at + t->size <= r->size) {
		uint64_t end = at;
		unsigned n = 0, strong = 0;
		int kind, err;

		for (; end + t->size <= r->size && (kind = t->entry(m, m->ro + end, r->va + end, &site)) != 0; end += t->size, n++)
			strong += kind == 2;
		if (n < MIN_RUN || strong * 2 < n) {
			at = looks > n || n < MIN_RUN ? at + 8 : end;
			looks -= looks > n ? n : looks;
			continue;
		}
		for (; at < end; at += t->size) {
			if (t->entry(m, m->ro + at, r->va + at, &site) != 2)
				continue;
			err = add_site(m->s, site.va, site.target, site.kind);
			if (err)
				return err;
		}
	}
	return 0;
}

/* A jump or RET, then "0f b9 cc": an instruction nothing else uses. */
static int find_trampolines(const struct image *m)
{
	for (uint64_t i = 0; i + 8 <= m->text_run->size; i += 4) {
		const uint8_t *p = m->text + i;
		int err;

		if (memcmp(p + 5, "\x0f\xb9\xcc", 3) || (p[0] != 0xe9 && p[0] != 0xc3))
			continue;
		err = add_site(m->s, m->text_run->va + i, 0, SITE_TRAMPOLINE);
		if (err)
			return err;
	}
	return 0;
}

static int by_va(const void *a, const void *b)
{
	const struct site *x = a, *y = b;

	return x->va < y->va ? -1 : x->va > y->va;
}

static uint8_t *read_run(struct heki *h, const struct image_run *r)
{
	uint8_t *p = malloc(r->size);

	if (p && !h->host->read(h->vm, GPA(r->gpa), p, r->size)) {
		free(p);
		return NULL;
	}
	return p;
}

static int find_in(struct image *m)
{
	static const struct table tables[] = { { 16, jump_entry }, { 8, call_entry } };
	int err = find_trampolines(m);

	for (unsigned i = 0; i < m->s->n_runs && !err; i++) {
		const struct image_run *r = &m->s->run[i];

		if (r->x)
			continue;
		m->ro = read_run(m->h, r);
		for (unsigned t = 0; m->ro && t < ARRAY_SIZE(tables) && !err; t++)
			err = find_table(m, r, &tables[t]);
		free(m->ro);
	}
	return err;
}

int vocab_find(struct heki *h, struct heki_seals *s)
{
	struct image m = { .h = h, .s = s };
	int err;

	/* The largest run of code is the kernel's text. */
	for (unsigned i = 0; i < s->n_runs; i++)
		if (s->run[i].x && (!m.text_run || s->run[i].size > m.text_run->size))
			m.text_run = &s->run[i];
	if (!m.text_run)
		return -ENOENT;
	m.text = read_run(h, m.text_run);
	if (!m.text)
		return -ENOMEM;
	err = find_in(&m);
	free(m.text);
	if (!err && s->n_sites)
		qsort(s->site, s->n_sites, sizeof(*s->site), by_va);
	return err;
}

/* ---- judging ------------------------------------------------------------------------------------------------------------------------- */

struct patch {
	struct heki *h;
	struct heki_seals *s;
	uint64_t cr3, gpa, va;
	const struct late_page *late;	/* NULL: in the image */
};

static const struct site *site_at(const struct heki_seals *s, uint64_t va)
{
	unsigned lo = 0, hi = s->n_sites;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (s->site[mid].va < va)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < s->n_sites && s->site[lo].va == va ? &s->site[lo] : NULL;
}

/* Is @va code that the store lets the kernel run? */
static bool is_code(const struct patch *p, uint64_t va)
{
	struct scan_leaf l;

	if (!heki_scan_one(p->h, p->cr3, p->s->la57, va, &l) || !l.x || l.u)
		return false;
	/* Code that has not run yet is sealed when it does. */
	return atomic_load(&p->h->dynamic) != HEKI_FROZEN || heki_get(p->h, GFN((l.gpa + (va - l.va)) >> GW_PAGE_SHIFT), NULL) & HEKI_XS;
}

static bool is_nop5(const uint8_t *b) { return !memcmp(b, "\x0f\x1f\x44\x00\x00", 5); }

/* Function entries are aligned; with IBT the place of the call follows ENDBR64. */
static bool is_entry(const struct patch *p)
{
	uint8_t before[4];

	if (!(p->va & 15))
		return true;
	return (p->va & 15) == 4 && p->h->host->read(p->h->vm, GPA(p->gpa - 4), before, 4) && !memcmp(before, "\xf3\x0f\x1e\xfa", 4);
}

/* May @b, 6 bytes, stand at the place of @p? Calls and jumps must lead to code. */
static bool is_legal(const struct patch *p, const struct site *site, const uint8_t *b)
{
	uint64_t target = p->va + 5 + (uint64_t)(int64_t)s32(b + 1);

	if (site && site->kind == SITE_JUMP) {
		if (is_nop5(b) || (b[0] == 0x66 && b[1] == 0x90))
			return true;
		if (b[0] == 0xeb)
			return p->va + 2 + (uint64_t)(int64_t)(int8_t)b[1] == site->target;
		return b[0] == 0xe9 && target == site->target;
	}
	if (is_nop5(b) || !memcmp(b, "\x2e\x2e\x2e\x31\xc0", 5))
		return true;
	if (b[0] == 0xc3)
		return !site || site->kind != SITE_JUMP;
	if (b[0] == 0xe8 || b[0] == 0xe9)
		return is_code(p, target);
	if (b[0] == 0x0f && (b[1] & 0xf0) == 0x80)
		return is_code(p, p->va + 6 + (uint64_t)(int64_t)s32(b + 2));
	return !site && b[0] == 0xeb;
}

/* Reads the bytes of code at @va, as the image or the present tables map it. */
static bool read_code(const struct patch *p, uint64_t va, uint8_t *b, size_t len)
{
	const struct image_run *r = seals_run_of_va(p->s, va);

	return r && r->x && p->h->host->read(p->h->vm, GPA(r->gpa + (va - r->va)), b, len);
}

/* Length of the multi-byte NOP at @b (SDM vol. 2, "NOP", the recommended forms and their prefixed kin); 0: none. */
static unsigned nop_length(const uint8_t b[12])
{
	unsigned n = 0;

	while (n < 3 && (b[n] == 0x66 || b[n] == 0x2e))
		n++;
	if (b[n] != 0x0f || b[n + 1] != 0x1f)
		return 0;
	switch (b[n + 2]) {
	case 0x00: return n + 3;
	case 0x40: return n + 4;
	case 0x44: return n + 5;
	case 0x80: return n + 7;
	case 0x84: return n + 8;
	default: return 0;
	}
}

/* Past what does nothing at a function's start: ENDBR64, and NOPs that alternatives leave. */
static uint64_t skip_nothing(const struct patch *p, uint64_t at)
{
	uint8_t b[12];

	for (unsigned i = 0; i < 4 && read_code(p, at, b, sizeof(b)); i++) {
		unsigned n = !memcmp(b, "\xf3\x0f\x1e\xfa", 4) ? 4 : nop_length(b);

		if (!n)
			break;
		at += n;
	}
	return at;
}

/* A call or jump to a RET, or to a jump to one (the return thunk). */
static bool calls_nothing(const struct patch *p, const uint8_t *now)
{
	uint64_t at = p->va;
	uint8_t b[5];

	memcpy(b, now, 5);
	for (unsigned hop = 0; hop < 2; hop++) {
		if (b[0] != 0xe8 && b[0] != 0xe9)
			return false;
		at = at + 5 + (uint64_t)(int64_t)s32(b + 1);
		at = skip_nothing(p, at);
		if (!read_code(p, at, b, 5))
			return false;
		if (b[0] == 0xc3)
			return true;
	}
	return false;
}

void vocab_learn(struct heki_seals *s, uint64_t va)
{
	if (!add_site(s, va, 0, SITE_CALL))
		qsort(s->site, s->n_sites, sizeof(*s->site), by_va);
}

/* How long the instruction is that may be replaced here; 0: none may. */
static unsigned place(const struct patch *p, const uint8_t *now)
{
	unsigned len = form_length(now);

	if (!len)
		return 0;
	if (p->late || site_at(p->s, p->va))
		return len;
	/* What calls a function that does nothing is there to be pointed elsewhere: ftrace's own entries. */
	if (calls_nothing(p, now)) {
		vocab_learn(p->s, p->va);
		return 5;
	}
	/* ftrace: only what is a NOP, or was made a call from one, at a function's entry. */
	return (is_nop5(now) || now[0] == 0xe8) && is_entry(p) ? 5 : 0;
}

static struct open_site *open_at(struct heki_seals *s, uint64_t gpa)
{
	for (unsigned i = 0; i < s->n_open; i++)
		if (gpa - s->open[i].gpa < s->open[i].len)
			return &s->open[i];
	return NULL;
}

static bool open_place(const struct patch *p, const uint8_t *now)
{
	struct heki_seals *s = p->s;
	unsigned len = place(p, now);

	if (!len && atomic_load(&p->h->allow_kprobes))
		len = 5;	/* any instruction: only its own first byte, or a jump, may come back */
	if (!len || s->n_open == MAX_OPEN)
		return false;
	s->open[s->n_open] = (struct open_site){ .gpa = p->gpa, .len = (uint8_t)len };
	memcpy(s->open[s->n_open++].was, now, 6);
	return true;
}

static bool close_place(const struct patch *p, struct open_site *o, uint8_t first, struct open_site *undo)
{
	struct open_site was = *o;
	uint8_t b[8];
	bool good;

	if (!p->h->host->read(p->h->vm, GPA(p->gpa), b, 6))
		return false;
	b[0] = first;
	good = !memcmp(b, o->was, o->len) || is_legal(p, site_at(p->s, p->va), b);
	*o = p->s->open[--p->s->n_open];
	if (!good)
		*undo = was;
	return good;
}

/* A pack of BPF programs: filling may be overwritten, programs may be filled again. */
static bool is_fill(const struct patch *p, const uint8_t *now, const uint8_t *bytes, unsigned len)
{
	bool was = true, becomes = true;

	if (!p->late || !p->late->has_fill)
		return false;
	for (unsigned i = 0; i < len; i++) {
		was = was && now[i] == INT3;
		becomes = becomes && bytes[i] == INT3;
	}
	return (was && atomic_load(&p->h->dynamic) != HEKI_FROZEN) || becomes;
}

bool vocab_judge(struct heki *h, struct heki_seals *s, uint64_t cr3, uint64_t gpa, const uint8_t *bytes, unsigned len,
		 struct open_site *undo)
{
	struct patch p = { .h = h, .s = s, .cr3 = cr3, .gpa = gpa, .late = seals_late(s, gpa >> GW_PAGE_SHIFT) };
	struct open_site *o = open_at(s, gpa);
	uint8_t now[64], whole[8];
	unsigned n;

	if (len > sizeof(now) - 8 || !h->host->read(h->vm, GPA(gpa), now, len + 6))
		return false;
	p.va = p.late ? p.late->va + (gpa & GW_PAGE_MASK) : seals_image_va(s, gpa);
	if (!memcmp(now, bytes, len))
		return true;
	if (o && gpa == o->gpa && len == 1)
		return close_place(&p, o, bytes[0], undo);
	if (o && gpa > o->gpa && gpa + len <= o->gpa + o->len)
		return true;
	if (is_fill(&p, now, bytes, len))
		return true;
	if (o)
		return false;
	if (len == 1 && bytes[0] == INT3)
		return open_place(&p, now);
	/* A whole instruction at once: nobody runs there yet. */
	n = place(&p, now);
	if (!n || len > n)
		return false;
	memcpy(whole, now, 6);
	memcpy(whole, bytes, len);
	return is_legal(&p, site_at(s, p.va), whole);
}
