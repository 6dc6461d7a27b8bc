/* SPDX-License-Identifier: MIT */
/*
 * Walking the guest kernel's page tables from outside, as the VM's owner: nothing is judged, no A bit is set. The tables are
 * hostile: every entry is read once, and the number of tables read is bounded.
 */
#include <stdlib.h>
#include <string.h>

#include "heki/scan.h"

#define ADDR		0x000ffffffffff000ull
#define MAX_TABLES	(1u << 20)	/* 4 KiB each: maps 2 TiB with small pages */

struct walk {
	struct heki *h;
	void (*fn)(void *arg, const struct scan_leaf *leaf);
	void *arg;
	unsigned n_tables;
	uint64_t (*table)[512];		/* one per level */
};

static bool is_leaf(unsigned level, uint64_t e)
{
	return level == 0 || (level <= 2 && e & PTE_PS);
}

static struct scan_leaf leaf_of(uint64_t va, unsigned level, uint64_t e, bool w, bool x, bool u)
{
	uint64_t size = GW_PAGE_SIZE * (1ull << 9 * level);

	return (struct scan_leaf){ .va = va, .gpa = e & ADDR & ~(size - 1), .size = size, .w = w, .x = x, .u = u };
}

static bool walk_level(struct walk *k, uint64_t table, unsigned level, uint64_t va, bool w, bool x, bool u, unsigned from)
{
	if (++k->n_tables > MAX_TABLES || !k->h->host->read(k->h->vm, GPA(table), k->table[level], GW_PAGE_SIZE))
		return k->n_tables <= MAX_TABLES;	/* a table outside memory maps nothing */
	for (unsigned i = from; i < 512; i++) {
		uint64_t e = k->table[level][i], at = va | (uint64_t)i << (12 + 9 * level);

		if (!(e & PTE_P))
			continue;
		if (is_leaf(level, e)) {
			struct scan_leaf l = leaf_of(at, level, e, w && e & PTE_W, x && !(e & PTE_NX), u && e & PTE_U);

			k->fn(k->arg, &l);
		} else if (!walk_level(k, e & ADDR, level - 1, at, w && e & PTE_W, x && !(e & PTE_NX), u && e & PTE_U, 0)) {
			return false;
		}
	}
	return true;
}

bool heki_scan_kernel(struct heki *h, uint64_t cr3, bool la57, void (*fn)(void *arg, const struct scan_leaf *leaf), void *arg)
{
	struct walk k = { .h = h, .fn = fn, .arg = arg, .table = malloc(5 * sizeof(*k.table)) };
	bool ok;

	if (!k.table)
		return false;
	ok = walk_level(&k, cr3 & ADDR, la57 ? 4 : 3, la57 ? 0xfe00000000000000ull : 0xffff000000000000ull, true, true, true, 256);
	free(k.table);
	return ok;
}

bool heki_scan_one(struct heki *h, uint64_t cr3, bool la57, uint64_t va, struct scan_leaf *out)
{
	bool w = true, x = true, u = true;
	uint64_t table = cr3 & ADDR;

	for (unsigned level = la57 ? 4 : 3;; level--) {
		uint64_t e, index = va >> (12 + 9 * level) & 511;

		if (!h->host->read(h->vm, GPA(table + index * 8), &e, sizeof(e)) || !(e & PTE_P))
			return false;
		w = w && e & PTE_W;
		x = x && !(e & PTE_NX);
		u = u && e & PTE_U;
		if (is_leaf(level, e)) {
			*out = leaf_of(va & ~((GW_PAGE_SIZE * (1ull << 9 * level)) - 1), level, e, w, x, u);
			return true;
		}
		table = e & ADDR;
	}
}
