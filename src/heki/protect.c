/* SPDX-License-Identifier: MIT */
/*
 * Hypercall 14: the guest's list of ranges and their permissions.
 *
 * The list lives in guest memory and is hostile: each page is read once into a private copy; the chain's length, each page's
 * count and each range are bounded; everything is checked before anything is applied, and then all of it is applied at once.
 * Order as in the series: the chain starts with the newest page, entries are applied oldest page first, in index order.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "heki/heki_private.h"

#define PAGE_ENTRIES	169u
#define MAX_PAGES	4096u	/* of a chain: 690 thousand ranges */

#define MEM_READ	0x1u
#define MEM_WRITE	0x2u
#define MEM_EXEC	0x4u
#define MEM_IMMUTABLE	0x8u
#define MEM_KNOWN	0xfu

/* As in guest memory. */
struct list_page {
	uint64_t next, next_pa, npages;
	struct { uint64_t pa, epa, permissions; } entry[PAGE_ENTRIES];
};
_Static_assert(sizeof(struct list_page) == 4080, "guest ABI");

struct heki_list {
	uint64_t gpa;			/* of the first page, as given */
	unsigned n, size;
	struct range { uint64_t first, n; uint8_t attributes; } range[];
};

static int64_t add_page(struct heki_list **list, const struct list_page *p)
{
	struct heki_list *l = *list;

	if (p->npages > PAGE_ENTRIES)
		return HC_EINVAL;
	if (l->n + p->npages > l->size) {
		unsigned size = l->size * 2 + PAGE_ENTRIES;

		l = realloc(l, sizeof(*l) + size * sizeof(l->range[0]));
		if (!l)
			return HC_ENOMEM;
		l->size = size;
		*list = l;
	}
	/* Kept backwards, last entry first: the whole is turned round when the chain has ended. */
	for (unsigned i = (unsigned)p->npages; i-- > 0;)
		l->range[l->n++] = (struct range){ p->entry[i].pa, p->entry[i].epa,
			(uint8_t)(p->entry[i].permissions > 0xff ? 0xff : p->entry[i].permissions) };
	return 0;
}

static void turn_round(struct heki_list *l)
{
	for (unsigned i = 0; i < l->n / 2; i++) {
		struct range r = l->range[i];

		l->range[i] = l->range[l->n - 1 - i];
		l->range[l->n - 1 - i] = r;
	}
}

/* ---- reading ----------------------------------------------------------------------------------------------------------------- */

static int64_t read_list(struct heki *h, const struct acc_cpu *cpu, uint64_t gpa, struct heki_list **list)
{
	struct list_page *page = calloc(1, sizeof(*page));
	int64_t err = page ? 0 : HC_ENOMEM;

	for (unsigned n = 0; !err && gpa; n++) {
		if (n == MAX_PAGES)
			err = HC_E2BIG;		/* also a cycle */
		else if (gpa & GW_PAGE_MASK)
			err = HC_EINVAL;
		else if (!h->host->guest_read(h->vm, cpu, GPA(gpa), page, sizeof(*page)))
			err = HC_EFAULT;
		else
			err = add_page(list, page);
		gpa = page->next_pa;
	}
	free(page);
	if (!err)
		turn_round(*list);
	return err;
}

/* ---- checking and applying --------------------------------------------------------------------------------------------------------- */

/* Ranges still hold pa and epa as given; afterwards frames and our attributes. */
static int64_t check_range(struct heki *h, struct range *r)
{
	uint64_t pa = r->first, epa = r->n;
	uint8_t p = r->attributes;

	if (pa & GW_PAGE_MASK || epa & GW_PAGE_MASK || epa <= pa || !p || p & ~MEM_KNOWN)
		return HC_EINVAL;
	if ((p & (MEM_WRITE | MEM_EXEC)) == (MEM_WRITE | MEM_EXEC) && !atomic_load(&h->allow_wx))
		return HC_EINVAL;
	r->first = pa >> GW_PAGE_SHIFT;
	r->n = (epa - pa) >> GW_PAGE_SHIFT;
	r->attributes = (uint8_t)((p & MEM_READ ? HEKI_R : 0) | (p & MEM_WRITE ? HEKI_W : 0) | (p & MEM_EXEC ? HEKI_XS : 0) |
				  (p & MEM_IMMUTABLE ? HEKI_IMMUTABLE : 0) | HEKI_XU);
	return h->host->has_memory(h->vm, GFN(r->first), r->n) ? 0 : HC_EINVAL;
}

static int64_t check_list(struct heki *h, struct heki_list *l)
{
	for (unsigned i = 0; i < l->n; i++) {
		int64_t err = check_range(h, &l->range[i]);

		if (err)
			return err;
	}
	return 0;
}

/* Would the range give a right that some frame of it does not have? */
static bool widens(struct heki *h, const struct store_txn *t, const struct range *r)
{
	uint8_t rest = (uint8_t)atomic_load(&h->default_rights), wanted = r->attributes & HEKI_RIGHTS, v;
	uint64_t frame = r->first, end = r->first + r->n, len = 0;

	for (uint64_t at = frame; at < end; at = frame = frame + len) {
		v = store_next(t->root, &frame, &len);
		if ((!v || frame > at) && wanted & ~rest)
			return true;
		if (!v || frame >= end)
			return false;
		if (wanted & ~v)
			return true;
	}
	return false;
}

/*
 * With the lock held. Where the VM's owner has locked the kernel (unassisted mode), a list may only take rights away: what stands in
 * the store then is the owner's policy, and the caller may be who it is meant for.
 */
static int64_t stage(struct heki *h, struct store_txn *t, const struct heki_list *l)
{
	for (unsigned i = 0; i < l->n; i++) {
		const struct range *r = &l->range[i];
		struct heki_change c = { .set = r->attributes, .clear = HEKI_ALL };

		if (store_any(t, r->first, r->n, HEKI_IMMUTABLE) || (h->seals && widens(h, t, r)))
			return HC_EPERM;
		if (store_update(t, r->first, r->n, heki_change_fn, &c))
			return HC_ENOMEM;
	}
	return 0;
}

/* @publish false: only find out whether it would work. */
static int64_t apply(struct heki *h, const struct heki_list *l, bool publish)
{
	struct store_node *replaced = NULL;
	struct store_txn t;
	int64_t err;

	pthread_mutex_lock(&h->lock);
	store_begin(&h->store, &t);
	err = stage(h, &t, l);
	if (err || !publish) {
		store_abort(&t);
	} else {
		replaced = store_commit(&t);
		heki_activate(h);
	}
	pthread_mutex_unlock(&h->lock);
	if (err || !publish)
		return err;
	if (l->n <= 4)
		for (unsigned i = 1; i < l->n; i++)
			h->host->forget(h->vm, GFN(l->range[i].first), l->range[i].n, ACC_RW | ACC_X);
	heki_settle(h, replaced, l->n <= 4 ? l->range[0].first : 0, l->n <= 4 ? l->range[0].n : 0);
	return 0;
}

static uint64_t total_pages(const struct heki_list *l)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < l->n; i++)
		n += l->range[i].n;
	return n;
}

static int64_t finish(struct heki *h, const struct heki_list *l)
{
	int64_t err = apply(h, l, true);

	heki_log(h, &(struct heki_event){ .kind = err ? HEKI_EV_REFUSED : HEKI_EV_PROTECTED, .reason = HEKI_REASON_MEM,
					  .gpa = l->range[0].first << GW_PAGE_SHIFT, .value = err ? (uint64_t)err : total_pages(l) });
	return err;
}

static int64_t prepare(struct heki *h, const struct acc_cpu *cpu, uint64_t list, struct heki_list **l)
{
	int64_t err = read_list(h, cpu, list, l);

	if (!err)
		err = check_list(h, *l);
	if (!err)
		err = apply(h, *l, false);
	return err;
}

int64_t heki_hc_protect(struct heki *h, const struct acc_cpu *cpu, uint64_t list, bool *exit, struct acc_exit *e)
{
	struct heki_list *l = calloc(1, sizeof(*l));
	struct heki_regs regs;
	int64_t err;

	*exit = false;
	heki_count(h, N_HYPERCALLS);
	if (!l)
		return HC_ENOMEM;
	l->gpa = list;
	err = prepare(h, cpu, list, &l);
	if (err || !l->n) {
		if (err) {
			heki_count(h, N_REFUSED);
			heki_log(h, &(struct heki_event){ .kind = HEKI_EV_REFUSED, .reason = HEKI_REASON_MEM, .gpa = list, .value = (uint64_t)err });
			heki_say(h, "heki: hypercall 14 refused: %lld", (long long)err);
		}
		free(l);
		return err;
	}
	if (!(atomic_load(&h->exit_configure) & HEKI_REASON_MEM)) {
		err = finish(h, l);
		free(l);
		return err;
	}
	h->host->regs(h->vm, cpu, &regs);
	free(h->vcpu[regs.vcpu].list);
	h->vcpu[regs.vcpu].list = l;
	*exit = true;
	heki_count(h, N_EXITS);
	*e = (struct acc_exit){ .reason = atomic_load(&h->nr_configure),
				.data = { HEKI_REASON_MEM, l->range[0].first << GW_PAGE_SHIFT, total_pages(l), list } };
	return 0;
}

int64_t heki_hc_protect_end(struct heki *h, const struct acc_cpu *cpu, bool allow)
{
	int64_t err = HC_EPERM;
	struct heki_list *l;
	struct heki_regs regs;

	h->host->regs(h->vm, cpu, &regs);
	l = h->vcpu[regs.vcpu].list;
	h->vcpu[regs.vcpu].list = NULL;
	if (!l)
		return HC_EINVAL;
	if (allow) {
		/* Slots may have gone while the client thought. */
		for (unsigned i = 0; i < l->n; i++)
			if (!h->host->has_memory(h->vm, GFN(l->range[i].first), l->range[i].n))
				allow = false;
		err = allow ? finish(h, l) : HC_EINVAL;
	}
	free(l);
	return err;
}
