/* SPDX-License-Identifier: MIT */
/*
 * The two levels of software TLB. The first is probed inline and is emptied by nearly everything; the second survives CR3
 * writes, keyed by PCID or global, and refills the first without a walk. Both hold composite verdicts: a right is there when the
 * guest's tables, the slot and every guard give it without wanting to be asked again.
 *
 * May forget at any time; must never remember longer than the manual lets a processor (SDM vol. 3, "Invalidation of TLBs and
 * Paging-Structure Caches"). The second level drops lazily: flushes move floors on a clock, entries carry the time of filling.
 */
#include <string.h>

#include "access/access_private.h"

#define FETCH_EMPTY	(~0ull)

static inline unsigned slot_of(uint64_t gva) { return gva >> GW_PAGE_SHIFT & (ACC_TLB_SIZE - 1); }
static inline uint64_t empty_tag(unsigned i) { return BIT64(63) | (uint64_t)(i ^ ACC_TLB_SIZE / 2) << GW_PAGE_SHIFT; }
static inline bool is_empty(const struct acc_tlb_entry *e, unsigned i) { return e->tag == empty_tag(i); }

/* ---- the first level ------------------------------------------------------------------------------------------------- */

static void set_empty(struct acc_tlb_entry *e, unsigned i)
{
	e->tag = empty_tag(i);
	e->addend = 0;
}

static void empty_slot(struct acc_tlb *t, unsigned i)
{
	set_empty(&t->r[i], i);
	set_empty(&t->w[i], i);
}

/* Slot @i is on the list from now on. */
static void list_slot(struct acc_slots *l, unsigned i)
{
	uint64_t bit = BIT64(i % 64);

	if (l->is_listed[i / 64] & bit)
		return;
	l->is_listed[i / 64] |= bit;
	l->slot[l->n++] = (uint16_t)i;
}

static void list_clear(struct acc_slots *l)
{
	for (unsigned j = 0; j < l->n; j++)
		l->is_listed[l->slot[j] / 64] = 0;
	l->n = 0;
}

static bool is_watched(const struct acc_cpu *cpu, uint64_t page)
{
	for (unsigned i = 0; i < cpu->n_watch; i++)
		if (cpu->watch[i] == page)
			return true;
	return false;
}

static struct acc_writable *writable_at(struct acc_cpu *cpu, uint64_t hva_page)
{
	return &cpu->priv->writable[(hva_page >> GW_PAGE_SHIFT) & (ACC_WRITABLE - 1)];
}

static void note_writable(struct acc_cpu *cpu, enum acc_mode mode, unsigned i, uint64_t hva_page)
{
	struct acc_writable *n = writable_at(cpu, hva_page);
	const struct acc_tlb_entry *old = &cpu->tlb[n->mode].w[n->slot];

	if (n->hva && (n->slot != i || n->mode != mode) && old->tag + old->addend == n->hva)
		n->many = true;
	n->hva = hva_page;
	n->slot = (uint16_t)i;
	n->mode = (uint8_t)mode;
}

static void l1_fill(struct acc_cpu *cpu, enum acc_mode mode, uint64_t gva_page, uint64_t hva_page, uint64_t cold, unsigned rights)
{
	struct acc_tlb *t = &cpu->tlb[mode];
	struct acc_cold *c = &cpu->priv->cold[mode];
	unsigned i = slot_of(gva_page);

	if (unlikely(cpu->n_watch) && is_watched(cpu, gva_page))
		return;
	list_slot(&c->used[cold & COLD_GLOBAL ? 1 : 0], i);
	t->r[i] = (struct acc_tlb_entry){ gva_page, hva_page - gva_page };
	c->r[i] = cold;
	if (rights & ACC_W) {
		t->w[i] = (struct acc_tlb_entry){ gva_page, hva_page - gva_page };
		c->w[i] = cold;
		note_writable(cpu, mode, i, hva_page);
	}
}

static void jumps_are_stale(struct acc_cpu *cpu)
{
	cpu->jump_gen++;
	cpu->stamp++;
	memset(cpu->priv->fetched, 0, sizeof(cpu->priv->fetched));
}

void acc_tlb_list_fetch(struct acc_cpu *cpu, unsigned slot, bool global)
{
	cpu->priv->fetch_cold[slot] = global ? COLD_GLOBAL : 0;
	list_slot(&cpu->priv->fetch_used[global], slot);
}

static inline unsigned fetch_slots_used(const struct acc_cpu *cpu)
{
	return cpu->priv->fetch_used[0].n + cpu->priv->fetch_used[1].n;
}

static inline struct acc_fetch *fetch_used(struct acc_cpu *cpu, unsigned j)
{
	const struct acc_slots *l = cpu->priv->fetch_used;

	return &cpu->fetch[j < l[0].n ? l[0].slot[j] : l[1].slot[j - l[0].n]];
}

static void fetch_clear(struct acc_cpu *cpu, bool keep_global)
{
	struct acc_cpu_private *p = cpu->priv;

	for (unsigned g = 0; g < (keep_global ? 1 : 2); g++) {
		struct acc_slots *l = &p->fetch_used[g];

		for (unsigned j = 0; j < l->n; j++)
			if (!keep_global || !(p->fetch_cold[l->slot[j]] & COLD_GLOBAL))
				cpu->fetch[l->slot[j]].tag = FETCH_EMPTY;
		list_clear(l);
	}
	jumps_are_stale(cpu);
}

static void l1_clear(struct acc_cpu *cpu)
{
	for (unsigned m = 0; m < ACC_N_MODES; m++) {
		struct acc_cold *c = &cpu->priv->cold[m];

		for (unsigned g = 0; g < 2; g++) {
			for (unsigned j = 0; j < c->used[g].n; j++)
				empty_slot(&cpu->tlb[m], c->used[g].slot[j]);
			list_clear(&c->used[g]);
		}
	}
	memset(cpu->priv->writable, 0, sizeof(cpu->priv->writable));
	fetch_clear(cpu, false);
}

/* The slots of both lists, one after the other; one that is on both comes twice. */
static inline unsigned slots_used(const struct acc_cold *c)
{
	return c->used[0].n + c->used[1].n;
}

static inline unsigned used_slot(const struct acc_cold *c, unsigned j)
{
	return j < c->used[0].n ? c->used[0].slot[j] : c->used[1].slot[j - c->used[0].n];
}

/* Drop the entries of slot @i whose cold word has none of @keep_if. */
static inline void filter_slot(struct acc_tlb *t, const struct acc_cold *c, unsigned i, uint64_t keep_if)
{
	if (!(c->r[i] & keep_if))
		set_empty(&t->r[i], i);
	if (!(c->w[i] & keep_if))
		set_empty(&t->w[i], i);
}

/* Keep only global entries. What is global stands on the other list, so that this costs nothing per kernel page. */
static void l1_clear_local(struct acc_cpu *cpu)
{
	for (unsigned m = 0; m < ACC_N_MODES; m++) {
		struct acc_cold *c = &cpu->priv->cold[m];
		struct acc_slots *l = &c->used[0];

		for (unsigned j = 0; j < l->n; j++)
			filter_slot(&cpu->tlb[m], c, l->slot[j], COLD_GLOBAL);
		list_clear(l);
	}
	fetch_clear(cpu, true);
}

static void l1_drop_page(struct acc_cpu *cpu, uint64_t page)
{
	unsigned i = slot_of(page);
	unsigned f = page >> GW_PAGE_SHIFT & (ACC_FETCH_SIZE / 2 - 1);
	unsigned hash = page >> GW_PAGE_SHIFT & 4095;
	bool is_fetched = cpu->priv->fetched[hash / 64] >> (hash % 64) & 1;

	for (unsigned m = 0; m < ACC_N_MODES; m++) {
		if (cpu->tlb[m].r[i].tag == page)
			set_empty(&cpu->tlb[m].r[i], i);
		if (cpu->tlb[m].w[i].tag == page)
			set_empty(&cpu->tlb[m].w[i], i);
	}
	for (unsigned half = 0; half < ACC_FETCH_SIZE; half += ACC_FETCH_SIZE / 2)
		if (cpu->fetch[f + half].tag == page) {
			cpu->fetch[f + half].tag = FETCH_EMPTY;
			is_fetched = true;
		}
	if (is_fetched)
		jumps_are_stale(cpu);
}

/* Entries whose address agrees with @base but for the bits of @mask. */
static void l1_drop_region(struct acc_cpu *cpu, uint64_t base, uint64_t mask)
{
	for (unsigned m = 0; m < ACC_N_MODES; m++) {
		struct acc_tlb *t = &cpu->tlb[m];
		const struct acc_cold *c = &cpu->priv->cold[m];

		for (unsigned j = 0; j < slots_used(c); j++) {
			unsigned i = used_slot(c, j);

			if (!((t->r[i].tag ^ base) & ~mask) && !is_empty(&t->r[i], i))
				set_empty(&t->r[i], i);
			if (!((t->w[i].tag ^ base) & ~mask) && !is_empty(&t->w[i], i))
				set_empty(&t->w[i], i);
		}
	}
	for (unsigned j = 0; j < fetch_slots_used(cpu); j++) {
		struct acc_fetch *f = fetch_used(cpu, j);

		if (!((f->tag ^ base) & ~mask))
			f->tag = FETCH_EMPTY;
	}
	jumps_are_stale(cpu);
}

static void l1_drop_keyed(struct acc_cpu *cpu)
{
	for (unsigned m = 0; m < ACC_N_MODES; m++) {
		const struct acc_cold *c = &cpu->priv->cold[m];

		for (unsigned j = 0; j < slots_used(c); j++) {
			unsigned i = used_slot(c, j);

			if (c->r[i] & COLD_KEYED)
				set_empty(&cpu->tlb[m].r[i], i);
			if (c->w[i] & COLD_KEYED)
				set_empty(&cpu->tlb[m].w[i], i);
		}
	}
}

/* ---- the second level ------------------------------------------------------------------------------------------------ */

static inline uint64_t l2_vpn(uint64_t gva) { return gva >> GW_PAGE_SHIFT << L2_VPN_SHIFT; }

static inline uint64_t l2_key(uint64_t gva, enum acc_mode mode, bool global, unsigned pcid)
{
	return l2_vpn(gva) | (global ? L2_GLOBAL : (uint64_t)pcid << L2_PCID_SHIFT) | (uint64_t)mode << L2_MODE_SHIFT | L2_VALID;
}

static inline struct acc_l2 *l2_set(struct acc_cpu_private *p, uint64_t gva, unsigned pcid)
{
	uint64_t v = gva >> GW_PAGE_SHIFT;

	return p->l2[(v ^ v >> L2_SET_BITS ^ pcid * 0x9du) & (L2_SETS - 1)];
}

static inline uint64_t max3(uint64_t a, uint64_t b, uint64_t c)
{
	a = a > b ? a : b;
	return a > c ? a : c;
}

static uint64_t tick(struct acc_cpu_private *p)
{
	return ++p->clock;
}

static inline unsigned large_hash(uint64_t gva) { return gva >> LARGE_SHIFT & (LARGE_HASHES - 1); }

static void floor_changed(struct acc_cpu_private *p)
{
	p->floor_now = max3(p->floor_all, p->floor_local, p->floor_pcid[p->pcid]);
}

/* @e is @gva's. */
static inline bool is_alive(const struct acc_cpu_private *p, const struct acc_l2 *e, uint64_t gva)
{
	if (e->stamp < (e->key & L2_GLOBAL ? p->floor_all : p->floor_now))
		return false;
	if ((e->gpa & L2_SHIFT_MASK) != GW_PAGE_SHIFT && e->stamp < p->floor_large[large_hash(gva)])
		return false;
	return !(e->hva & L2_KEYED) || e->stamp >= p->floor_keyed;
}

static struct acc_l2 *l2_find(struct acc_cpu_private *p, uint64_t gva, enum acc_mode mode)
{
	uint64_t key = l2_key(gva, mode, false, p->pcid);
	struct acc_l2 *set = l2_set(p, gva, p->pcid);

	for (unsigned i = 0; i < L2_WAYS; i++)
		if (set[i].key == key && is_alive(p, &set[i], gva))
			return &set[i];
	key = l2_key(gva, mode, true, 0);
	set = l2_set(p, gva, 0);
	for (unsigned i = 0; i < L2_WAYS; i++)
		if (set[i].key == key && is_alive(p, &set[i], gva))
			return &set[i];
	return NULL;
}

static struct acc_l2 *l2_place(struct acc_cpu_private *p, uint64_t gva, enum acc_mode mode, bool global)
{
	unsigned pcid = global ? 0 : p->pcid;
	uint64_t key = l2_key(gva, mode, global, pcid);
	struct acc_l2 *set = l2_set(p, gva, pcid);
	struct acc_l2 *e = NULL;

	for (unsigned i = 0; i < L2_WAYS; i++) {
		if (set[i].key == key)
			return &set[i];
		/* Entries of other PCIDs may be dead without our seeing it here; they are victims like others. */
		if (!e && !(set[i].key & L2_VALID))
			e = &set[i];
	}
	return e ? e : &set[p->victim++ % L2_WAYS];
}

static void l2_drop_page(struct acc_cpu_private *p, uint64_t gva, unsigned pcid, bool also_global)
{
	uint64_t mode_mask = (uint64_t)3 << L2_MODE_SHIFT;
	uint64_t key = l2_key(gva, 0, false, pcid), global = l2_key(gva, 0, true, 0);
	struct acc_l2 *set = l2_set(p, gva, pcid), *gset = l2_set(p, gva, 0);

	for (unsigned i = 0; i < L2_WAYS; i++) {
		if ((set[i].key & ~mode_mask) == key)
			set[i].key = 0;
		if (also_global && (gset[i].key & ~mode_mask) == global)
			gset[i].key = 0;
	}
}

/* ---- large pages ----------------------------------------------------------------------------------------------------- */

static inline bool bit_of(const uint64_t *bits, unsigned i) { return bits[i / 64] >> (i % 64) & 1; }
static inline void bit_set(uint64_t *bits, unsigned i) { bits[i / 64] |= BIT64(i % 64); }
static inline void bit_clear(uint64_t *bits, unsigned i) { bits[i / 64] &= ~BIT64(i % 64); }

static void note_large(struct acc_cpu_private *p, uint64_t gva, unsigned shift)
{
	unsigned hash = large_hash(gva);

	if (shift == 30) {
		bit_set(p->large_1g, gva >> 30 & 511);
	} else if (shift == 22) {
		bit_set(p->large_2m, hash & ~1u);
		bit_set(p->large_2m, hash | 1);
	} else {
		bit_set(p->large_2m, hash);
	}
}

/*
 * Fragments of a large page at @gva may be remembered: forget all of them, and those of the regions with the same hash, so that
 * the next INVLPG here finds nothing to do. The first level keeps no sizes and loses small pages with them; the second forgets
 * when it is asked.
 */
static void drop_large(struct acc_cpu *cpu, uint64_t gva)
{
	struct acc_cpu_private *p = cpu->priv;
	unsigned shift = cpu->cr4 & CR4_PAE || cpu->efer & EFER_LMA ? 21 : 22;
	uint64_t same_hash = (uint64_t)LARGE_HASHES << LARGE_SHIFT;
	unsigned first = large_hash(gva & ~(BIT64(shift) - 1)), n = 1u << (shift - LARGE_SHIFT);

	if (bit_of(p->large_1g, gva >> 30 & 511)) {
		acc_flush_all(cpu);
		return;
	}
	if (!bit_of(p->large_2m, large_hash(gva)))
		return;
	l1_drop_region(cpu, gva, ~(same_hash - BIT64(shift)));
	tick(p);
	for (unsigned i = first; i < first + n; i++) {
		p->floor_large[i] = p->clock;
		bit_clear(p->large_2m, i);
	}
}

/* ---- lookup and remember --------------------------------------------------------------------------------------------- */

/*
 * May the page be in W? Dekker with acc_mark_code(): we announce ourselves as a writer, then look for marks; it marks, then
 * looks for writers. The last test sees a forgetting that took our announcement back before the marks were cleared.
 */
static bool may_cache_write(struct acc_cpu *cpu, uint64_t hva)
{
	struct mem_code *r = mem_code_of(cpu->vm->code, (const uint8_t *)(uintptr_t)hva);
	uint64_t me = cpu->priv->writer_bit;

	if (!r)
		return false;
	if (!(atomic_load_explicit(&r->writers, memory_order_acquire) & me))
		atomic_fetch_or(&r->writers, me);
	acc_perturb();
	if (atomic_load(&r->lines))
		return false;
	acc_perturb();
	return atomic_load(&r->writers) & me;
}

bool acc_tlb_lookup(struct acc_request *rq, struct acc_result *out)
{
	struct acc_cpu *cpu = rq->cpu;
	enum acc_mode mode = acc_mode_of(cpu, rq->cpl, rq->stage == ACC_IMPLICIT);
	struct acc_l2 *e = l2_find(cpu->priv, rq->gva.v, mode);
	uint64_t page = rq->gva.v & ~GW_PAGE_MASK, hva, cold;
	unsigned rights;

	/* Outside acc_enter() there may be wishes that are not fulfilled yet. */
	if (unlikely(!cpu->in_guest))
		return false;
	/* The key keeps 45 bits of the page number: what is not canonical could look like something else. */
	if (!e || (rq->rights & ~e->hva) || (uint64_t)((int64_t)(rq->gva.v << 7) >> 7) != rq->gva.v)
		return false;
	hva = e->hva & ~GW_PAGE_MASK;
	rights = e->hva & L2_RIGHTS;
	rq->gpa = GPA((e->gpa & ~GW_PAGE_MASK) | (rq->gva.v & GW_PAGE_MASK));
	rq->user_translation = (e->hva & L2_USER) != 0;
	rq->private_bit = (e->gpa & L2_PRIVATE) != 0;
	rq->page_shift = e->gpa & L2_SHIFT_MASK;
	if ((rights & ACC_W) && ((rq->rights & ACC_X) || !may_cache_write(cpu, hva)))
		rights &= ~ACC_W;
	out->hva = (uint8_t *)(uintptr_t)(hva | (rq->gva.v & GW_PAGE_MASK));
	out->silent = (uint8_t)rights;
	out->guard = ACC_NO_GUARD;
	out->subst = 0;
	out->data_len = 0;
	/* A fetch says nothing about data accesses: it shall not push their entries out. */
	if ((rights & ACC_R) && !(rq->rights & ACC_X)) {
		cold = (e->gpa & ~GW_PAGE_MASK) | (e->key & L2_GLOBAL ? COLD_GLOBAL : 0) | (e->hva & L2_KEYED ? COLD_KEYED : 0);
		l1_fill(cpu, mode, page, hva, cold, rights);
	}
	return true;
}

bool acc_tlb_is_global(const struct acc_request *rq)
{
	enum acc_mode mode = acc_mode_of(rq->cpu, rq->cpl, rq->stage == ACC_IMPLICIT);
	const struct acc_l2 *e = l2_find(rq->cpu->priv, rq->gva.v, mode);

	return e && (e->key & L2_GLOBAL);
}

void acc_tlb_remember(const struct acc_request *rq, const struct acc_walk *w, struct acc_result *out)
{
	struct acc_cpu *cpu = rq->cpu;
	struct acc_cpu_private *p = cpu->priv;
	enum acc_mode mode = acc_mode_of(cpu, rq->cpl, rq->stage == ACC_IMPLICIT);
	const struct mem_slot *s;
	unsigned rights = out->silent & w->allowed;
	uint64_t gva_page = rq->gva.v & ~GW_PAGE_MASK, hva_page = (uintptr_t)out->hva & ~GW_PAGE_MASK;
	uint64_t gpa_page = rq->gpa.v & ~GW_PAGE_MASK, flags;
	unsigned l1, l2;

	/* What is remembered outside acc_enter() would miss wishes that nobody waits for. */
	if (!cpu->in_guest) {
		out->silent = 0;
		return;
	}
	acc_source_note(cpu, rq, w);
	if (!w->dirty || !(rights & ACC_R))
		rights &= ~ACC_W;
	l1 = l2 = rights;
	s = acc_slot(rq, cpu->map, gpa_gfn(rq->gpa));
	if (s && s->dirty) {
		/* The second level does not ask the log. */
		l2 &= ~ACC_W;
		if (!mem_dirty_test(s->dirty, gpa_gfn(rq->gpa).v - s->first.v))
			l1 &= ~ACC_W;
	}
	if ((l1 & ACC_W) && ((rq->rights & ACC_X) || !may_cache_write(cpu, hva_page)))
		l1 &= ~ACC_W;
	out->silent = (uint8_t)l1;
	if (rq->page_shift > GW_PAGE_SHIFT)
		note_large(p, gva_page, rq->page_shift);
	flags = w->pkey ? L2_KEYED : 0;
	if (w->pkey)
		p->any_keyed = true;
	if (l2) {
		struct acc_l2 *e = l2_place(p, gva_page, mode, w->global);

		e->key = l2_key(gva_page, mode, w->global, w->global ? 0 : p->pcid);
		e->stamp = p->clock;
		e->hva = hva_page | flags | (w->user ? L2_USER : 0) | l2;
		e->gpa = gpa_page | (rq->private_bit ? L2_PRIVATE : 0) | rq->page_shift;
	}
	if ((l1 & ACC_R) && !(rq->rights & ACC_X))
		l1_fill(cpu, mode, gva_page, hva_page, gpa_page | (w->global ? COLD_GLOBAL : 0) | (w->pkey ? COLD_KEYED : 0), l1);
}

/* ---- what the guest flushes ------------------------------------------------------------------------------------------ */

static unsigned current_pcid(const struct acc_cpu *cpu)
{
	return cpu->cr4 & CR4_PCIDE ? cpu->cr3 & CR3_PCID_MASK : 0;
}

void acc_flush_all(struct acc_cpu *cpu)
{
	struct acc_cpu_private *p = cpu->priv;

	l1_clear(cpu);
	p->floor_all = tick(p);
	p->pcid = (uint16_t)current_pcid(cpu);
	p->any_keyed = false;
	memset(p->large_2m, 0, sizeof(p->large_2m));
	memset(p->large_1g, 0, sizeof(p->large_1g));
	floor_changed(p);
	acc_sources_reset(cpu);
}

void acc_flush_cr3(struct acc_cpu *cpu, bool keep_pcid)
{
	struct acc_cpu_private *p = cpu->priv;

	p->pcid = (uint16_t)current_pcid(cpu);
	if (!keep_pcid)
		p->floor_pcid[p->pcid] = tick(p);
	floor_changed(p);
	l1_clear_local(cpu);
}

void acc_tlb_drop_page(struct acc_cpu *cpu, uint64_t page)
{
	l1_drop_page(cpu, page);
	l2_drop_page(cpu->priv, page, cpu->priv->pcid, true);
}

void acc_flush_page(struct acc_cpu *cpu, struct gva gva)
{
	uint64_t page = gva.v & ~GW_PAGE_MASK;

	acc_tlb_drop_page(cpu, page);
	drop_large(cpu, page);
}

void acc_flush_pcid(struct acc_cpu *cpu, unsigned type, uint16_t pcid, struct gva gva)
{
	struct acc_cpu_private *p = cpu->priv;

	pcid &= CR3_PCID_MASK;
	switch (type) {
	case 0:	/* one address of one PCID */
		if (pcid == p->pcid)
			l1_drop_page(cpu, gva.v & ~GW_PAGE_MASK);
		l2_drop_page(p, gva.v & ~GW_PAGE_MASK, pcid, false);
		drop_large(cpu, gva.v & ~GW_PAGE_MASK);
		return;
	case 1:	/* one PCID */
		p->floor_pcid[pcid] = tick(p);
		break;
	case 3:	/* all PCIDs but not what is global */
		p->floor_local = tick(p);
		break;
	default:
		if (!acc_sources_hold(cpu))
			acc_flush_all(cpu);
		return;
	}
	floor_changed(p);
	if (type == 3 || pcid == p->pcid)
		l1_clear_local(cpu);
}

/* ---- state changes --------------------------------------------------------------------------------------------------- */

void acc_mode_changed(struct acc_cpu *cpu)
{
	cpu->mode = (uint8_t)acc_mode_of(cpu, cpu->cpl, false);
	cpu->cur = &cpu->tlb[cpu->mode];
}

/* Bits that enter the verdict or that the manual flushes for. */
#define CR0_VERDICT	(CR0_PG | CR0_WP)
#define CR4_VERDICT	(CR4_PSE | CR4_PAE | CR4_PGE | CR4_LA57 | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_PKS)
#define EFER_VERDICT	(EFER_LMA | EFER_NX)

void acc_paging_changed(struct acc_cpu *cpu, uint64_t old_cr0, uint64_t old_cr4, uint64_t old_efer)
{
	if (((old_cr0 ^ cpu->cr0) & CR0_VERDICT) || ((old_cr4 ^ cpu->cr4) & CR4_VERDICT) || ((old_efer ^ cpu->efer) & EFER_VERDICT))
		acc_flush_all(cpu);
	acc_mode_changed(cpu);
}

void acc_keys_changed(struct acc_cpu *cpu)
{
	struct acc_cpu_private *p = cpu->priv;
	uint32_t changed = (cpu->cr4 & CR4_PKE ? p->pkru_seen ^ cpu->pkru : 0) | (cpu->cr4 & CR4_PKS ? p->pkrs_seen ^ cpu->pkrs : 0);

	p->pkru_seen = cpu->pkru;
	p->pkrs_seen = cpu->pkrs;
	if (!changed)
		return;
	if (changed & 3) {	/* key 0 is nearly everybody's */
		acc_flush_all(cpu);
		return;
	}
	if (!p->any_keyed)
		return;
	p->any_keyed = false;
	p->floor_keyed = tick(p);
	l1_drop_keyed(cpu);
}

void acc_watch(struct acc_cpu *cpu, const struct gva *page, unsigned n)
{
	cpu->n_watch = (uint8_t)(n < ARRAY_SIZE(cpu->watch) ? n : ARRAY_SIZE(cpu->watch));
	for (unsigned i = 0; i < cpu->n_watch; i++) {
		cpu->watch[i] = page[i].v & ~GW_PAGE_MASK;
		l1_drop_page(cpu, cpu->watch[i]);
	}
}

/* ---- what others want forgotten: on the vCPU's own thread -------------------------------------------------------------- */

static bool in_frames(uint64_t gpa, uint64_t first, uint64_t last)
{
	uint64_t gfn = gpa >> GW_PAGE_SHIFT;

	return gfn >= first && gfn <= last;
}

static void l1_drop_frames(struct acc_cpu *cpu, uint64_t first, uint64_t last, bool r, bool w)
{
	for (unsigned m = 0; m < ACC_N_MODES; m++) {
		struct acc_cold *c = &cpu->priv->cold[m];

		for (unsigned j = 0; j < slots_used(c); j++) {
			unsigned i = used_slot(c, j);

			if (r && in_frames(c->r[i], first, last))
				set_empty(&cpu->tlb[m].r[i], i);
			if (w && in_frames(c->w[i], first, last))
				set_empty(&cpu->tlb[m].w[i], i);
		}
	}
}

void acc_tlb_drop_frames(struct acc_cpu *cpu, uint64_t first, uint64_t last, unsigned rights)
{
	struct acc_cpu_private *p = cpu->priv;

	if (rights & ACC_R)
		rights |= ACC_W;	/* W promises that the page can be read */
	if (rights & ACC_RW)
		l1_drop_frames(cpu, first, last, rights & ACC_R, rights & ACC_W);
	for (unsigned j = 0; (rights & ACC_X) && j < fetch_slots_used(cpu); j++) {
		struct acc_fetch *f = fetch_used(cpu, j);

		if (f->tag != FETCH_EMPTY && in_frames(f->gpa.v, first, last))
			f->tag = FETCH_EMPTY;
	}
	if (rights & ACC_X)
		jumps_are_stale(cpu);
	for (unsigned i = 0; i < L2_SETS; i++)
		for (unsigned j = 0; j < L2_WAYS; j++) {
			struct acc_l2 *e = &p->l2[i][j];

			if (in_frames(e->gpa, first, last))
				e->hva &= ~(uint64_t)(rights & L2_RIGHTS);
		}
}

/* The note says which entry it is, or that there is none. False: look at all of them. */
static bool drop_noted(struct acc_cpu *cpu, uintptr_t hva_page)
{
	const struct acc_writable *n = writable_at(cpu, hva_page);
	struct acc_tlb_entry *e = &cpu->tlb[n->mode].w[n->slot];

	if (n->many)
		return false;
	if (n->hva == hva_page && e->tag + e->addend == hva_page)
		set_empty(e, n->slot);
	return true;
}

void acc_tlb_drop_writable(struct acc_cpu *cpu, uintptr_t hva_page)
{
	struct acc_writable *n = writable_at(cpu, hva_page);

	if (hva_page && drop_noted(cpu, hva_page))
		return;
	/* What is left on this place is noted anew. */
	*n = (struct acc_writable){ 0 };
	for (unsigned m = 0; m < ACC_N_MODES; m++) {
		struct acc_tlb_entry *w = cpu->tlb[m].w;
		const struct acc_cold *c = &cpu->priv->cold[m];

		for (unsigned j = 0; j < slots_used(c); j++) {
			unsigned i = used_slot(c, j);
			uint64_t hva = w[i].tag + w[i].addend;

			if (!hva_page || hva == hva_page)
				set_empty(&w[i], i);
			else if (!is_empty(&w[i], i) && writable_at(cpu, hva) == n)
				note_writable(cpu, (enum acc_mode)m, i, hva);
		}
	}
}

void acc_tlb_init(struct acc_cpu *cpu)
{
	for (unsigned m = 0; m < ACC_N_MODES; m++)
		for (unsigned i = 0; i < ACC_TLB_SIZE; i++)
			empty_slot(&cpu->tlb[m], i);
	for (unsigned i = 0; i < ACC_FETCH_SIZE; i++)
		cpu->fetch[i].tag = FETCH_EMPTY;
	cpu->priv->clock = 1;
	cpu->priv->pkru_seen = cpu->pkru;
	cpu->priv->pkrs_seen = cpu->pkrs;
	cpu->priv->pcid = (uint16_t)current_pcid(cpu);
	acc_mode_changed(cpu);
}
