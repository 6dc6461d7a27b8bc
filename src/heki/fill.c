/* SPDX-License-Identifier: MIT */
/*
 * Frozen: programs that the kernel writes into the packs it keeps for BPF. Packs are executable from their first day, filled with INT3,
 * and a program comes by the way that patches come; so the store cannot tell new code there. What is written into a free chunk of a pack
 * is shown to who reads it and never executed: under it lie NOPs and a return of -EPERM, so that a call does nothing and comes back.
 *
 * A chunk is 64 bytes, as the kernel gives them out; a program begins in the first bytes of one. The pages are found at the lock, and the
 * array is constant afterwards; contents change under the seals' lock and are read without it, byte by byte.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "heki/seal.h"

#define CHUNK		64u
#define MAX_PAGES	8192u	/* sixteen packs */
#define INT3		0xcc
#define NOP		0x90

static const uint8_t refusal[] = { 0x6a, 0xff, 0x58, 0xc3 };	/* push $-1 (EPERM); pop %rax; ret */

struct fill_page {
	uint64_t gfn, refused;		/* refused: one bit a chunk */
	uint8_t shown[GW_PAGE_SIZE];	/* of refused chunks: what was written */
};

/* ---- at the lock ------------------------------------------------------------------------------------------------------------- */

int fill_add(struct heki_seals *s, uint64_t gfn)
{
	struct fill_page **all, *f;

	if (s->n_fill == MAX_PAGES)
		return -E2BIG;
	if (!(s->n_fill & (s->n_fill - 1))) {
		all = realloc(s->fill, (s->n_fill ? s->n_fill * 2 : 1) * sizeof(*all));
		if (!all)
			return -ENOMEM;
		s->fill = all;
	}
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->gfn = gfn;
	s->fill[s->n_fill++] = f;
	return 0;
}

static int by_gfn(const void *a, const void *b)
{
	uint64_t x = (*(struct fill_page *const *)a)->gfn, y = (*(struct fill_page *const *)b)->gfn;

	return x < y ? -1 : x > y;
}

void fill_sort(struct heki_seals *s)
{
	unsigned n = 0;

	if (!s->n_fill)
		return;
	qsort(s->fill, s->n_fill, sizeof(*s->fill), by_gfn);
	for (unsigned i = 1; i < s->n_fill; i++)
		if (s->fill[i]->gfn == s->fill[n]->gfn)
			free(s->fill[i]);
		else
			s->fill[++n] = s->fill[i];
	s->n_fill = n + 1;
}

void fill_free(struct heki_seals *s)
{
	for (unsigned i = 0; i < s->n_fill; i++)
		free(s->fill[i]);
	free(s->fill);
}

static struct fill_page *page_of(const struct heki_seals *s, uint64_t gfn)
{
	unsigned lo = 0, hi = s->n_fill;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (s->fill[mid]->gfn < gfn)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < s->n_fill && s->fill[lo]->gfn == gfn ? s->fill[lo] : NULL;
}

/* ---- writes -------------------------------------------------------------------------------------------------------------------- */

static bool is_all(const uint8_t *p, unsigned len, uint8_t byte)
{
	for (unsigned i = 0; i < len; i++)
		if (p[i] != byte)
			return false;
	return true;
}

static bool is_free(struct heki *h, const struct fill_page *f, unsigned chunk)
{
	uint8_t now[CHUNK];

	return f->refused >> chunk & 1 ||
	       (h->host->read(h->vm, GPA((f->gfn << GW_PAGE_SHIFT) + chunk * CHUNK), now, CHUNK) && is_all(now, CHUNK, INT3));
}

/* The part of a write that lies in one free chunk. */
static void write_chunk(struct heki *h, struct fill_page *f, unsigned at, const uint8_t *bytes, unsigned len)
{
	unsigned chunk = at / CHUNK;
	uint8_t *shown = f->shown + chunk * CHUNK, body[CHUNK];
	bool was = f->refused >> chunk & 1;

	if (!was)
		memset(shown, INT3, CHUNK);
	for (unsigned i = 0; i < len; i++)
		__atomic_store_n(&f->shown[at + i], bytes[i], __ATOMIC_RELAXED);
	if (is_all(shown, CHUNK, INT3)) {
		memset(body, INT3, CHUNK);
		__atomic_fetch_and(&f->refused, ~(1ull << chunk), __ATOMIC_RELEASE);
	} else {
		memset(body, NOP, CHUNK);
		memcpy(body + CHUNK - sizeof(refusal), refusal, sizeof(refusal));
		__atomic_fetch_or(&f->refused, 1ull << chunk, __ATOMIC_RELEASE);
	}
	if (was != (f->refused >> chunk & 1))
		h->host->write(h->vm, GPA((f->gfn << GW_PAGE_SHIFT) + chunk * CHUNK), body, CHUNK);
}

enum fill_answer fill_write(struct heki *h, struct heki_seals *s, uint64_t gpa, const uint8_t *bytes, unsigned len)
{
	struct fill_page *f = page_of(s, gpa >> GW_PAGE_SHIFT);
	unsigned at = (unsigned)(gpa & GW_PAGE_MASK), end = at + len;

	if (!f || end > GW_PAGE_SIZE)
		return FILL_OTHER;
	for (unsigned chunk = at / CHUNK; chunk * CHUNK < end; chunk++)
		if (!is_free(h, f, chunk))
			return FILL_OTHER;
	while (at < end) {
		unsigned n = CHUNK - at % CHUNK;

		n = n < end - at ? n : end - at;
		write_chunk(h, f, at, bytes, n);
		at += n;
		bytes += n;
	}
	return is_all(bytes - len, len, INT3) ? FILL_FREED : FILL_REFUSED;
}

bool fill_show(const struct heki_seals *s, uint64_t gpa, const uint8_t *real, uint8_t *out, unsigned len)
{
	const struct fill_page *f = page_of(s, gpa >> GW_PAGE_SHIFT);
	uint64_t refused = f ? __atomic_load_n(&f->refused, __ATOMIC_ACQUIRE) : 0;
	unsigned at = (unsigned)(gpa & GW_PAGE_MASK);
	bool any = false;

	for (unsigned i = 0; refused && i < len && at + i < GW_PAGE_SIZE; i++)
		any = any || refused >> (at + i) / CHUNK & 1;
	if (!any)
		return false;
	for (unsigned i = 0; i < len; i++)
		out[i] = at + i < GW_PAGE_SIZE && refused >> (at + i) / CHUNK & 1 ? __atomic_load_n(&f->shown[at + i], __ATOMIC_RELAXED) : real[i];
	return true;
}
