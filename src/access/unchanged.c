/* SPDX-License-Identifier: MIT */
/*
 * A flush of everything, for a guest that has changed next to nothing. Kernels do that in series: they change one entry, flush all,
 * and go on in the same few dozen pages (Linux gives each of some thousand patched calls write permission and takes it back). To walk all
 * those again costs more than to look whether the entries they came from have changed.
 *
 * So the entries of all walks since the last real flush are noted, as long as they are few. While the list is whole and all
 * under one CR3, a translation that is remembered follows from entries on it; if memory still holds these, a processor could
 * have loaded it again at once. Where the last entry of a small page has changed, that page is dropped; any other change, or a
 * list that is not whole, is a real flush.
 *
 * A and D count as changes: who clears them and flushes wants them set again. Host pointers are as good as those in the TLB: a
 * slot that goes makes every vCPU flush for real. Guards' rights are none of this: they narrow by acc_forget().
 */
#include "access/access_private.h"

static uint64_t load(const struct acc_source *s)
{
	return __atomic_load_n((const uint64_t *)(const void *)s->hva, __ATOMIC_ACQUIRE);
}

void acc_sources_reset(struct acc_cpu *cpu)
{
	struct acc_sources *l = &cpu->priv->sources;

	l->is_more = false;
	l->n_upper = l->n_leaf = 0;
}

/* False: no room, or it was seen with another value, and may change back. */
static bool note_upper(struct acc_sources *l, const uint8_t *hva, uint64_t value)
{
	for (unsigned i = 0; i < l->n_upper; i++)
		if (l->upper[i].hva == hva) {
			/* We set D ourselves meanwhile; what was remembered before does not rest on it. */
			l->upper[i].value |= value & PTE_D;
			return l->upper[i].value == value;
		}
	if (l->n_upper == SOURCE_UPPER)
		return false;
	l->upper[l->n_upper++] = (struct acc_source){ hva, value };
	return true;
}

static bool note_path(struct acc_sources *l, uint64_t gva, const struct acc_walk *w)
{
	const struct acc_path *path = &w->path;
	unsigned last = path->n - 1u;
	uint64_t value;

	if (!path->is_noted || l->n_leaf == SOURCE_LEAVES)
		return false;
	for (unsigned i = 0; i < last; i++)
		if (!note_upper(l, path->hva[i], path->value[i]))
			return false;
	/* The commit has set D. */
	value = path->value[last] | (w->leaf.hva ? PTE_D : 0);
	if (path->is_large && !note_upper(l, path->hva[last], value))
		return false;
	if (path->is_large)
		return true;
	l->leaf[l->n_leaf] = (struct acc_source){ path->hva[last], value };
	l->leaf_gva[l->n_leaf++] = gva;
	return true;
}

void acc_source_note(struct acc_cpu *cpu, const struct acc_request *rq, const struct acc_walk *w)
{
	struct acc_sources *l = &cpu->priv->sources;

	if (l->is_more)
		return;
	if (!(l->n_upper + l->n_leaf))
		l->cr3 = cpu->cr3;
	l->is_more = cpu->cr3 != l->cr3 || !note_path(l, rq->gva.v & ~GW_PAGE_MASK, w);
}

bool acc_sources_hold(struct acc_cpu *cpu)
{
	struct acc_sources *l = &cpu->priv->sources;

	if (l->is_more || cpu->cr3 != l->cr3)
		return false;
	for (unsigned i = 0; i < l->n_upper; i++)
		if (load(&l->upper[i]) != l->upper[i].value)
			return false;
	for (unsigned i = 0; i < l->n_leaf;) {
		if (load(&l->leaf[i]) == l->leaf[i].value) {
			i++;
			continue;
		}
		acc_tlb_drop_page(cpu, l->leaf_gva[i]);
		l->leaf[i] = l->leaf[--l->n_leaf];
		l->leaf_gva[i] = l->leaf_gva[l->n_leaf];
	}
	return true;
}
