/* SPDX-License-Identifier: MIT */
/*
 * The TLB against a model of what a processor may still remember (SDM vol. 3, "Invalidation of TLBs and Paging-Structure
 * Caches"): for each page and PCID, and for each page globally, the set of translations that were valid at some moment since the
 * last invalidation that covers them. An allowed access must follow from one of that set, or from the tables as they are; a
 * refused one must be refused by the tables as they are. Guards, slots, code marks and the dirty log may never be stale.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "access/access.h"
#include "access/access_private.h"
#include "access/walk_model.h"
#include "isa/x86.h"

#define RAM_PAGES	1024u			/* slot 0: tables and data */
#define MORE_PAGES	8u			/* slot 1: comes, moves and goes */
#define TABLE_FRAMES	32u
#define SPACES		3u
#define PAGES		10u
#define PCIDS		4u
#define GLOBAL		PCIDS			/* the set shared by all PCIDs */
#define HISTORY		48u

/* Pages that collide in the first level (4 MiB apart), in two regions that may be large pages. */
static const uint64_t page_va[PAGES] = {
	0x0000, 0x1000, 0x2000, 0x1ff000, 0x400000, 0x401000, 0x402000, 0x5ff000, 0x40000000, 0x40001000,
};

struct snapshot {
	uint64_t gpa;		/* of the 4 KiB page */
	bool w, u, nx, d, g, large;
	uint8_t key;
};

struct history { struct snapshot s[HISTORY]; unsigned n; };

struct world {
	struct acc_vm *vm;
	struct mem_code_map *code;
	struct acc_cpu *cpu;
	struct mem_dirty *dirty;
	uint8_t *ram, *more[2];
	int more_now;		/* -1: slot 1 is not there */
	uint8_t policy[RAM_PAGES + MORE_PAGES];
	unsigned space, pcid;	/* of CR3 */
	struct history seen[PCIDS + 1][PAGES];
	uint64_t random;
	unsigned long allowed, refused, stale, probe_hits, exits, kept;
	unsigned step;
};

static struct world *the_world;

static uint64_t rnd(struct world *w)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return w->random * 0x2545f4914f6cdd1dull >> 16;
}

/* ---- guest tables: per space PML4, PDPT, PD for 0..1G, PTs of its entries 0 and 2, PD for 1..2G with one PT ------------------- */

enum { PML4, PDPT, PD0, PT0, PT2, PD1, PT_HIGH, TABLES };

static uint64_t frame_of(unsigned space, unsigned table) { return 1 + space * 8 + table; }
static uint64_t *entry(struct world *w, unsigned space, unsigned table, unsigned i)
{
	return (uint64_t *)(void *)(w->ram + frame_of(space, table) * GW_PAGE_SIZE) + i;
}
static unsigned pt_of(unsigned page) { return page < 4 ? PT0 : page < 8 ? PT2 : PT_HIGH; }
static unsigned pd_of(unsigned page) { return page < 8 ? PD0 : PD1; }
static uint64_t *pde_of(struct world *w, unsigned space, unsigned page)
{
	return entry(w, space, pd_of(page), page_va[page] >> 21 & 511);
}
static uint64_t *pte_of(struct world *w, unsigned space, unsigned page)
{
	return entry(w, space, pt_of(page), page_va[page] >> 12 & 511);
}

static void build_tables(struct world *w)
{
	uint64_t all = PTE_P | PTE_W | PTE_U;

	for (unsigned s = 0; s < SPACES; s++) {
		*entry(w, s, PML4, 0) = frame_of(s, PDPT) << 12 | all;
		*entry(w, s, PDPT, 0) = frame_of(s, PD0) << 12 | all;
		*entry(w, s, PDPT, 1) = frame_of(s, PD1) << 12 | all;
		for (unsigned p = 0; p < PAGES; p++)
			*pde_of(w, s, p) = frame_of(s, pt_of(p)) << 12 | all;
	}
}

static bool snapshot_now(struct world *w, unsigned page, struct snapshot *s)
{
	uint64_t pde = *pde_of(w, w->space, page), pte = *pte_of(w, w->space, page), e = pde;

	if (!(pde & PTE_P))
		return false;
	*s = (struct snapshot){ .large = pde & PTE_PS };
	if (s->large) {
		s->gpa = (pde & 0xffffffe00000ull) | (page_va[page] & 0x1ff000);
	} else {
		if (!(pte & PTE_P))
			return false;
		e = pte;
		s->gpa = pte & 0xfffffffff000ull;
	}
	s->w = (pde & e) & PTE_W;
	s->u = (pde & e) & PTE_U;
	s->nx = (pde | e) & PTE_NX;
	s->d = e & PTE_D;
	s->g = (e & PTE_G) && (w->cpu->cr4 & CR4_PGE);
	s->key = e >> 59 & 15;
	return true;
}

static void record(struct history *h, const struct snapshot *s)
{
	for (unsigned i = 0; i < h->n; i++)
		if (!memcmp(&h->s[i], s, sizeof(*s)))
			return;
	assert_true(h->n < HISTORY);
	h->s[h->n++] = *s;
}

/* What the processor may load into its TLB at this moment. */
static void record_now(struct world *w)
{
	struct snapshot s;

	for (unsigned p = 0; p < PAGES; p++) {
		memset(&s, 0, sizeof(s));
		if (snapshot_now(w, p, &s))
			record(&w->seen[s.g ? GLOBAL : w->pcid][p], &s);
	}
}

/* ---- invalidations, in the model ------------------------------------------------------------------------------------------------ */

static void drop_set(struct world *w, unsigned set)
{
	for (unsigned p = 0; p < PAGES; p++)
		w->seen[set][p].n = 0;
}

static void drop_address(struct world *w, unsigned set, unsigned page)
{
	for (unsigned p = 0; p < PAGES; p++) {
		struct history *h = &w->seen[set][p];
		bool same_region = page_va[p] >> 21 == page_va[page] >> 21;
		unsigned n = 0;

		for (unsigned i = 0; i < h->n; i++)
			if (p != page && !(same_region && h->s[i].large))
				h->s[n++] = h->s[i];
		h->n = n;
	}
}

static void drop_all(struct world *w)
{
	for (unsigned set = 0; set <= PCIDS; set++)
		drop_set(w, set);
}

/* ---- operations ----------------------------------------------------------------------------------------------------------------- */

static uint64_t random_leaf(struct world *w, bool large)
{
	uint64_t r = rnd(w), e = 0, frame;

	frame = large ? (r & 1) << 9 : (r & 7) ? TABLE_FRAMES + (r >> 3 & 15) : RAM_PAGES + (r >> 3) % MORE_PAGES;
	e |= r & 0xf00 ? PTE_P : 0;
	e |= r & 0x1000 ? PTE_W : 0;
	e |= r & 0x6000 ? PTE_U : 0;
	e |= r & 0x8000 ? PTE_G : 0;
	e |= r & 0x10000 ? PTE_A : 0;
	e |= r & 0x20000 ? PTE_D : 0;
	e |= (r & 0x1c0000) == 0 ? PTE_NX : 0;
	e |= (r >> 24 & 3) << 59;
	return e | frame << 12 | (large ? PTE_PS : 0);
}

static void change_tables(struct world *w)
{
	unsigned space = rnd(w) & 3 ? w->space : rnd(w) % SPACES, page = rnd(w) % PAGES;
	uint64_t *pde = pde_of(w, space, page);

	switch (rnd(w) % 12) {
	case 0:
		if (page < 8)	/* the high region's page table stays: large pages of frame 0 would show the tables */
			*pde = random_leaf(w, true);
		break;
	case 1:
	case 2:
		*pde = frame_of(space, pt_of(page)) << 12 | PTE_P | PTE_W | PTE_U;
		break;
	case 3:
		*pde ^= (uint64_t[]){ PTE_P, PTE_W, PTE_U, PTE_NX }[rnd(w) & 3];
		if (rnd(w) & 1)
			*pde |= PTE_P | PTE_W | PTE_U;
		break;
	default:
		*pte_of(w, space, page) = random_leaf(w, false);
	}
}

static void invlpg(struct world *w)
{
	unsigned page = rnd(w) % PAGES;

	acc_flush_page(w->cpu, GVA(page_va[page] + (rnd(w) & 4095)));
	drop_address(w, w->pcid, page);
	drop_address(w, GLOBAL, page);
}

static void load_cr3(struct world *w)
{
	bool pcide = w->cpu->cr4 & CR4_PCIDE;
	bool keep = pcide && rnd(w) % 4;

	w->space = rnd(w) % SPACES;
	w->pcid = pcide ? rnd(w) % PCIDS : 0;
	w->cpu->cr3 = frame_of(w->space, PML4) << 12 | w->pcid;
	acc_flush_cr3(w->cpu, keep);
	if (!keep)
		drop_set(w, w->pcid);
}

static void invpcid(struct world *w)
{
	unsigned type = rnd(w) & 3, pcid = rnd(w) % PCIDS, page = rnd(w) % PAGES;
	uint64_t clock = w->cpu->priv->clock;

	acc_flush_pcid(w->cpu, type, (uint16_t)pcid, GVA(page_va[page]));
	w->kept += type == 2 && w->cpu->priv->clock == clock;
	if (type == 0)
		drop_address(w, pcid, page);
	else if (type == 1)
		drop_set(w, pcid);
	else
		for (unsigned set = 0; set < (type == 2 ? PCIDS + 1 : PCIDS); set++)
			drop_set(w, set);
}

static void change_state(struct world *w)
{
	struct acc_cpu *c = w->cpu;
	uint64_t cr0 = c->cr0, cr4 = c->cr4;

	switch (rnd(w) % 16) {
	case 0:
		c->cr0 ^= CR0_WP;
		break;
	case 1:
		c->cr4 ^= CR4_SMEP;
		break;
	case 2:
		c->cr4 ^= CR4_SMAP;
		break;
	case 3:
		c->cr4 ^= CR4_PGE;
		drop_all(w);
		break;
	case 4:
	case 5:
	case 6:
		c->pkru = (uint32_t)rnd(w) & (rnd(w) & 1 ? 0xff : 0xfc);
		acc_keys_changed(c);
		return;
	case 7:
		c->pkrs = (uint32_t)rnd(w) & (rnd(w) & 1 ? 0xff : 0xfc);
		acc_keys_changed(c);
		return;
	case 8:
		c->cr4 ^= CR4_PKS;
		break;
	default:
		c->cpl = rnd(w) & 1 ? 3 : 0;
		c->ac = rnd(w) & 1;
		acc_mode_changed(c);
		return;
	}
	acc_paging_changed(c, cr0, cr4, c->efer);
}

static void change_policy(struct world *w)
{
	uint64_t frame = TABLE_FRAMES + rnd(w) % 16, n = 1 + rnd(w) % 3;
	uint8_t removed = 0;

	if (rnd(w) % 8 == 0) {
		frame = RAM_PAGES;
		n = MORE_PAGES;
	}
	for (uint64_t f = frame; f < frame + n; f++) {
		uint8_t now = rnd(w) & 3 ? 7 : rnd(w) & 7;

		removed |= w->policy[f] & ~now;
		w->policy[f] = now;
	}
	if (removed)
		acc_forget(w->vm, w->cpu, GFN(frame), rnd(w) % 16 ? n : 0, removed);
}

static struct mem_map *map_now(struct world *w, bool log)
{
	struct mem_slot ram = { .id = 0, .n_pages = RAM_PAGES, .hva = w->ram, .flags = log ? MEM_LOG_DIRTY : 0, .dirty = log ? w->dirty : NULL };
	struct mem_slot more = { .id = 1, .first = GFN(RAM_PAGES), .n_pages = MORE_PAGES };
	struct mem_map *map, *both;

	assert_int_equal(mem_map_change(NULL, &ram, &map), 0);
	if (w->more_now < 0)
		return map;
	more.hva = w->more[w->more_now];
	assert_int_equal(mem_map_change(map, &more, &both), 0);
	mem_map_free(map);
	return both;
}

static void change_slots(struct world *w)
{
	w->more_now = (int)(rnd(w) % 3) - 1;
	acc_vm_set_map(w->vm, map_now(w, rnd(w) & 1));
}

static uint8_t *hva_of(struct world *w, uint64_t gpa)
{
	if (gpa < (uint64_t)RAM_PAGES * GW_PAGE_SIZE)
		return w->ram + gpa;
	gpa -= (uint64_t)RAM_PAGES * GW_PAGE_SIZE;
	return gpa < (uint64_t)MORE_PAGES * GW_PAGE_SIZE && w->more_now >= 0 ? w->more[w->more_now] + gpa : NULL;
}

static void mark_code(struct world *w)
{
	struct acc_request rq;
	struct acc_result out;
	enum acc_verdict v;
	const struct acc_fetch *f = acc_fetch_page(w->cpu, GVA(page_va[rnd(w) % PAGES]), &rq, &out, &v);

	if (f)
		assert_true(acc_mark_code(w->cpu, f, rnd(w) & 4095, 16));
}

static void clear_log(struct world *w)
{
	uint64_t bits[RAM_PAGES / 64];

	mem_dirty_fetch(w->dirty, bits, true);
	acc_forget(w->vm, w->cpu, GFN(0), RAM_PAGES, ACC_W);
}

/* ---- the access ------------------------------------------------------------------------------------------------------------------- */

static struct model_cpu model_of(const struct acc_cpu *c)
{
	return (struct model_cpu){
		.pg = true, .wp = c->cr0 & CR0_WP, .pae = true, .smep = c->cr4 & CR4_SMEP, .smap = c->cr4 & CR4_SMAP,
		.pke = c->cr4 & CR4_PKE, .pks = c->cr4 & CR4_PKS, .lma = true, .nxe = true, .ac = c->ac, .cr3 = c->cr3 & ~0xfffull, .pkru = c->pkru, .pkrs = c->pkrs,
		.maxphyaddr = c->maxphyaddr,
	};
}

/* Would a translation like @s allow the access? Asked of the model, with tables of one path. */
static bool would_allow(struct world *w, const struct snapshot *s, const struct model_access *a)
{
	static uint8_t tables[5 * GW_PAGE_SIZE];
	uint64_t *t = (uint64_t *)(void *)tables;
	struct model_cpu c = model_of(w->cpu);
	struct model_access at_zero = *a;

	at_zero.la = 0;
	c.cr3 = GW_PAGE_SIZE;
	for (unsigned i = 1; i < 4; i++)
		t[512 * i] = (i + 1) << 12 | PTE_P | PTE_W | PTE_U;
	t[512 * 4] = s->gpa | PTE_P | (s->w ? PTE_W : 0) | (s->u ? PTE_U : 0) | (s->nx ? PTE_NX : 0) | (uint64_t)s->key << 59;
	return model_walk(&c, &at_zero, tables, sizeof(tables)).vector == -1;
}

static bool explained(struct world *w, const struct history *h, const struct model_access *a, uint64_t gpa_page, bool need_dirty)
{
	for (unsigned i = 0; i < h->n; i++)
		if (h->s[i].gpa == gpa_page && (h->s[i].d || !need_dirty) && would_allow(w, &h->s[i], a))
			return true;
	return false;
}

struct outcome { enum acc_verdict v; uint8_t *hva; struct acc_result out; bool hit; };

/* As the interpreter does it: probe, then ask. */
static void do_access(struct world *w, uint64_t la, unsigned rights, bool implicit, struct outcome *o)
{
	struct acc_request rq = {
		.cpu = w->cpu, .gva = GVA(la), .len = 1, .rights = (uint8_t)rights, .cpl = implicit ? 0 : w->cpu->cpl,
		.stage = implicit ? ACC_IMPLICIT : ACC_FINAL,
	};

	memset(o, 0, sizeof(*o));
	if (rights == ACC_X) {
		const struct acc_fetch *f = acc_fetch_probe(w->cpu, la);

		o->hit = f;
		if (!f)
			f = acc_fetch_page(w->cpu, GVA(la), &rq, &o->out, &o->v);
		o->v = f ? ACC_ALLOW : o->v;
		o->hva = f ? f->hva + (la & GW_PAGE_MASK) : NULL;
		return;
	}
	if (!implicit)
		o->hva = rights & ACC_W ? acc_probe_w(w->cpu, la, 1) : acc_probe_r(w->cpu, la, 1);
	o->hit = o->hva;
	if (o->hva)
		return;
	o->v = acc_check(&rq, &o->out);
	o->hva = o->out.hva;
}

static void complain(struct world *w, uint64_t la, unsigned rights, const struct outcome *o, const char *why)
{
	print_error("step %u: la %llx rights %u cpl %u ac %d cr0 %llx cr4 %llx pkru %x pcid %u verdict %d hit %d: %s\n", w->step,
		    (unsigned long long)la, rights, w->cpu->cpl, w->cpu->ac, (unsigned long long)w->cpu->cr0,
		    (unsigned long long)w->cpu->cr4, w->cpu->pkru, w->pcid, o->v, o->hit, why);
	fail();
}

static uint64_t gpa_of_hva(struct world *w, const uint8_t *hva)
{
	if (hva >= w->ram && hva < w->ram + RAM_PAGES * GW_PAGE_SIZE)
		return (uint64_t)(hva - w->ram);
	for (int i = 0; i < 2; i++)
		if (i == w->more_now && hva >= w->more[i] && hva < w->more[i] + MORE_PAGES * GW_PAGE_SIZE)
			return (uint64_t)(hva - w->more[i]) + (uint64_t)RAM_PAGES * GW_PAGE_SIZE;
	return ~0ull;
}

static void check_allowed(struct world *w, unsigned page, uint64_t la, unsigned rights, const struct model_access *a,
			  const struct model_result *fresh, const struct outcome *o)
{
	uint64_t gpa = gpa_of_hva(w, o->hva), gfn = gpa >> 12;
	struct mem_code *code = mem_code_find(w->code, o->hva);
	const struct mem_slot *slot = mem_slot_of_gfn(acc_vm_map(w->vm), GFN(gfn));

	if (gpa == ~0ull)
		complain(w, la, rights, o, "memory that no slot has");
	if (rights & ~w->policy[gfn])
		complain(w, la, rights, o, "a guard forbids it");
	if ((rights & ACC_W) && slot->dirty && !mem_dirty_test(slot->dirty, gfn))
		complain(w, la, rights, o, "the dirty log does not know");
	if (o->hit && (rights & ACC_W) && code && atomic_load(&code->lines))
		complain(w, la, rights, o, "a W entry of a page with code");
	w->allowed++;
	w->probe_hits += o->hit;
	if (fresh->vector == -1 && fresh->gpa == gpa) {
		struct snapshot now;

		if (!(rights & ACC_W) || (snapshot_now(w, page, &now) && now.d))
			return;
	}
	w->stale++;
	if (!explained(w, &w->seen[w->pcid][page], a, gpa & ~GW_PAGE_MASK, rights & ACC_W) &&
	    !explained(w, &w->seen[GLOBAL][page], a, gpa & ~GW_PAGE_MASK, rights & ACC_W))
		complain(w, la, rights, o, "no translation that may be remembered allows it");
}

static void access_memory(struct world *w)
{
	static const uint8_t kinds[] = { ACC_R, ACC_W, ACC_X, ACC_RW };
	static uint8_t tables[TABLE_FRAMES * GW_PAGE_SIZE];
	unsigned page = rnd(w) % PAGES, rights = kinds[rnd(w) & 3];
	uint64_t la = page_va[page] + (rnd(w) & 4095);
	bool implicit = rights != ACC_X && rnd(w) % 8 == 0;
	struct model_access a = {
		.la = la, .read = rights & ACC_R, .write = rights & ACC_W, .fetch = rights & ACC_X,
		.cpl3 = !implicit && w->cpu->cpl == 3, .implicit = implicit,
	};
	struct model_cpu mc = model_of(w->cpu);
	struct model_result fresh;
	struct outcome o;

	memcpy(tables, w->ram, sizeof(tables));
	fresh = model_walk(&mc, &a, tables, sizeof(tables));
	do_access(w, la, rights, implicit, &o);
	switch (o.v) {
	case ACC_ALLOW:
		check_allowed(w, page, la, rights, &a, &fresh, &o);
		if ((rights & ACC_W) && !o.hit && gpa_of_hva(w, o.hva) >> 12 >= TABLE_FRAMES)
			acc_store_done(w->vm, o.hva, 1);
		break;
	case ACC_FAULT:
		w->refused++;
		if (fresh.vector != o.out.event.vector || fresh.error != o.out.event.error)
			complain(w, la, rights, &o, "the tables do not fault like that");
		break;
	case ACC_EXIT:
		w->exits++;
		if (fresh.vector != -1 || !(rights & ~w->policy[fresh.gpa >> 12]))
			complain(w, la, rights, &o, "no guard wants that exit");
		break;
	case ACC_DEVICE:
		if (fresh.vector != -1 || hva_of(w, fresh.gpa))
			complain(w, la, rights, &o, "there is memory");
		break;
	default:
		complain(w, la, rights, &o, "verdict");
	}
}

/* ---- running it --------------------------------------------------------------------------------------------------------------------- */

static enum acc_verdict check_policy(void *guard, const struct acc_request *rq, struct acc_result *out)
{
	uint8_t allowed = the_world->policy[rq->gpa.v >> 12];

	if (rq->rights & ~allowed) {
		out->exit.reason = 99;
		return ACC_EXIT;
	}
	out->silent &= allowed;
	return ACC_ALLOW;
}

static const struct acc_guard_ops policy_ops = { .name = "policy", .check = check_policy };
static const struct acc_guards guards = { .n = 1, .guard = { { &policy_ops, NULL, false } } };

static struct world *create(uint64_t cr4)
{
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	the_world = w;
	w->random = 0x123456789abcdefull ^ cr4 * 77;
	w->ram = aligned_alloc(GW_PAGE_SIZE, RAM_PAGES * GW_PAGE_SIZE);
	memset(w->ram, 0, RAM_PAGES * GW_PAGE_SIZE);
	for (unsigned i = 0; i < 2; i++)
		w->more[i] = aligned_alloc(GW_PAGE_SIZE, MORE_PAGES * GW_PAGE_SIZE);
	memset(w->policy, 7, sizeof(w->policy));
	w->cpu = aligned_alloc(64, (sizeof(*w->cpu) + 63) & ~(size_t)63);
	memset(w->cpu, 0, sizeof(*w->cpu));
	w->cpu->maxphyaddr = 46;
	w->cpu->cr0 = CR0_PE | CR0_PG;
	w->cpu->cr4 = CR4_PAE | cr4;
	w->cpu->efer = EFER_LMA | EFER_LME | EFER_NX;
	w->cpu->cr3 = frame_of(0, PML4) << 12;
	build_tables(w);
	assert_int_equal(mem_dirty_new(RAM_PAGES, false, &w->dirty), 0);
	assert_int_equal(mem_code_map_new(&w->code), 0);
	assert_int_equal(acc_vm_new(&guards, w->code, &w->vm), 0);
	assert_int_equal(acc_cpu_init(w->cpu, w->vm), 0);
	acc_vm_set_map(w->vm, map_now(w, true));
	acc_enter(w->cpu);
	record_now(w);
	return w;
}

static void destroy(struct world *w)
{
	acc_leave(w->cpu);
	acc_cpu_fini(w->cpu);
	acc_vm_free(w->vm);
	mem_code_map_free(w->code);
	mem_dirty_free(w->dirty);
	free(w->more[0]);
	free(w->more[1]);
	free(w->ram);
	free(w->cpu);
	free(w);
}

struct op { unsigned weight; void (*run)(struct world *w); };

static const struct op ops[] = {
	{ 400, access_memory }, { 20, change_tables }, { 15, invlpg }, { 10, load_cr3 }, { 4, invpcid }, { 30, change_state },
	{ 4, change_policy }, { 1, change_slots }, { 4, mark_code }, { 1, clear_log },
};

static bool history_is_full(const struct world *w)
{
	for (unsigned set = 0; set <= PCIDS; set++)
		for (unsigned p = 0; p < PAGES; p++)
			if (w->seen[set][p].n + 2 >= HISTORY)
				return true;
	return false;
}

static void sequence(uint64_t cr4, unsigned steps)
{
	struct world *w = create(cr4);
	unsigned total = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
		total += ops[i].weight;
	for (w->step = 0; w->step < steps; w->step++) {
		unsigned pick = rnd(w) % total, i = 0;

		while (pick >= ops[i].weight)
			pick -= ops[i++].weight;
		if (ops[i].run == invpcid && !(cr4 & CR4_PCIDE))
			continue;
		ops[i].run(w);
		if (history_is_full(w)) {
			acc_flush_all(w->cpu);
			drop_all(w);
		}
		record_now(w);
	}
	print_message("# %lu allowed (%lu by a probe, %lu stale), %lu faults, %lu denials, %lu flushes without effect\n", w->allowed,
		      w->probe_hits, w->stale, w->refused, w->exits, w->kept);
	/* The test is worth something only if all of these happened often. */
	assert_true(w->probe_hits > steps / 50 && w->stale > steps / 1000 && w->refused > steps / 50 && w->exits > steps / 1000);
	assert_true(!(cr4 & CR4_PCIDE) || w->kept > steps / 4000);
	destroy(w);
}

static void without_pcid(void **state)
{
	sequence(CR4_PGE | CR4_PKE, 400000);
}

static void with_pcid(void **state)
{
	sequence(CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_PKE, 600000);
}

static void without_keys(void **state)
{
	sequence(CR4_PCIDE | CR4_SMAP, 200000);
}

/* ---- single questions ----------------------------------------------------------------------------------------------------------------- */

static void empty_entries_never_hit(void **state)
{
	struct world *w = create(0);

	for (unsigned m = 0; m < ACC_N_MODES; m++)
		for (uint64_t i = 0; i < ACC_TLB_SIZE; i++)
			for (uint64_t off = 0; off < 2; off++) {
				uint64_t low = i << 12 | (off ? 4095 : 0), high = low | -((uint64_t)ACC_TLB_SIZE << 12);

				assert_null(acc_probe(w->cpu->tlb[m].r, low, 8));
				assert_null(acc_probe(w->cpu->tlb[m].w, low, 1));
				assert_null(acc_probe(w->cpu->tlb[m].r, high, 64));
				assert_null(acc_probe(w->cpu->tlb[m].r, high, 1));
			}
	/* Nor do canonical addresses that select another slot, which translated code may compare. */
	for (unsigned m = 0; m < ACC_N_MODES; m++)
		for (unsigned i = 0; i < ACC_TLB_SIZE; i++) {
			assert_int_equal(w->cpu->tlb[m].r[i].tag >> 47, 1u << 16);
			assert_int_equal(w->cpu->tlb[m].w[i].tag >> 47, 1u << 16);
			assert_int_equal(w->cpu->tlb[m].r[i].addend | w->cpu->tlb[m].w[i].addend, 0);
		}
	destroy(w);
}

static void page_crossers_miss(void **state)
{
	struct world *w = create(0);
	struct outcome o;

	*pte_of(w, 0, 0) = 40ull << 12 | PTE_P | PTE_W | PTE_U;
	*pte_of(w, 0, 1) = 41ull << 12 | PTE_P | PTE_W | PTE_U;
	do_access(w, 0x0, ACC_RW, false, &o);
	do_access(w, 0x1000, ACC_RW, false, &o);
	assert_ptr_equal(acc_probe_w(w->cpu, 0xff8, 8), w->ram + 40 * 4096 + 0xff8);
	assert_null(acc_probe_w(w->cpu, 0xff9, 8));
	assert_null(acc_probe_r(w->cpu, 0xfff, 2));
	destroy(w);
}

static void watched_pages_are_not_remembered(void **state)
{
	struct world *w = create(0);
	struct outcome o;

	*pte_of(w, 0, 0) = 40ull << 12 | PTE_P | PTE_W | PTE_U;
	do_access(w, 0x10, ACC_RW, false, &o);
	assert_non_null(acc_probe_r(w->cpu, 0x20, 8));
	acc_watch(w->cpu, &GVA(0x123), 1);
	assert_null(acc_probe_r(w->cpu, 0x20, 8));
	do_access(w, 0x10, ACC_RW, false, &o);
	assert_int_equal(o.v, ACC_ALLOW);
	assert_null(acc_probe_r(w->cpu, 0x20, 8));
	acc_watch(w->cpu, NULL, 0);
	do_access(w, 0x10, ACC_RW, false, &o);
	assert_non_null(acc_probe_r(w->cpu, 0x20, 8));
	destroy(w);
}

static void read_only_slots_take_no_stores(void **state)
{
	struct world *w = create(0);
	struct mem_slot rom = { .id = 1, .first = GFN(RAM_PAGES), .n_pages = MORE_PAGES, .flags = MEM_READONLY, .hva = w->more[0] };
	struct mem_map *map;
	struct outcome o;

	w->more_now = -1;
	acc_vm_set_map(w->vm, map_now(w, true));
	assert_int_equal(mem_map_change(acc_vm_map(w->vm), &rom, &map), 0);
	acc_vm_set_map(w->vm, map);
	*pte_of(w, 0, 0) = (uint64_t)RAM_PAGES << 12 | PTE_P | PTE_W | PTE_U | PTE_A | PTE_D;
	do_access(w, 0x10, ACC_R, false, &o);
	assert_int_equal(o.v, ACC_ALLOW);
	assert_non_null(acc_probe_r(w->cpu, 0x10, 1));
	assert_null(acc_probe_w(w->cpu, 0x10, 1));
	do_access(w, 0x10, ACC_RW, false, &o);
	assert_int_equal(o.v, ACC_DEVICE);
	assert_ptr_equal(o.hva, w->more[0] + 0x10);
	destroy(w);
}

static void stores_to_code_change_its_generation(void **state)
{
	struct world *w = create(0);
	struct acc_request rq;
	struct acc_result out;
	enum acc_verdict v;
	const struct acc_fetch *f;
	struct outcome o;
	uint32_t gen;

	*pte_of(w, 0, 0) = *pte_of(w, 0, 4) = 40ull << 12 | PTE_P | PTE_W | PTE_U;	/* two names of one frame */
	do_access(w, 0x400010, ACC_W, false, &o);
	assert_non_null(acc_probe_w(w->cpu, 0x400010, 1));
	f = acc_fetch_page(w->cpu, GVA(0), &rq, &out, &v);
	assert_non_null(f);
	gen = atomic_load(&f->code->gen);
	assert_true(acc_mark_code(w->cpu, f, 0x100, 16));
	assert_null(acc_probe_w(w->cpu, 0x400010, 1));
	assert_non_null(acc_probe_r(w->cpu, 0x400010, 1));
	assert_false(acc_store_done(w->vm, w->ram + 40 * 4096 + 0xf8, 8));
	assert_false(acc_store_done(w->vm, w->ram + 40 * 4096 + 0x140, 8));
	assert_int_equal(atomic_load(&f->code->gen), gen);
	assert_true(acc_store_hits(w->vm, w->ram + 40 * 4096 + 0xfc, 8));
	assert_true(acc_store_done(w->vm, w->ram + 40 * 4096 + 0xfc, 8));
	assert_int_not_equal(atomic_load(&f->code->gen), gen);
	assert_false(acc_store_hits(w->vm, w->ram + 40 * 4096 + 0x100, 8));
	do_access(w, 0x400010, ACC_W, false, &o);
	assert_non_null(acc_probe_w(w->cpu, 0x400010, 1));
	/* Across the page end: both pages are looked at. */
	assert_true(acc_mark_code(w->cpu, f, 0, 1));
	assert_true(acc_store_done(w->vm, w->ram + 40 * 4096 - 4, 8));
	destroy(w);
}

/* Formats with large pages of 4 MiB, 2 MiB and 1 GiB: the entry that maps linear 1 GiB + x, or 4 MiB + x, to x. */
static void invlpg_takes_all_of_a_large_page(void **state)
{
	static const struct { uint64_t cr4, efer, base, top, leaf, size; } formats[] = {
		{ CR4_PSE, 0, 0x400000, 0x1000, 0x1004, 0x400000 },
		{ CR4_PAE, EFER_LMA | EFER_NX, 0x200000, 0x1000, 0x3008, 0x200000 },
		{ CR4_PAE, EFER_LMA | EFER_NX, 0x40000000, 0x1000, 0x2008, 0x400000 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
		struct world *w = create(0);
		uint64_t cr4 = w->cpu->cr4, efer = w->cpu->efer, leaf = PTE_P | PTE_W | PTE_PS;
		struct outcome o;

		memset(w->ram, 0, 0x4000);
		memcpy(w->ram + 0x1000, &(uint64_t){ 0x2003 }, formats[i].leaf == 0x1004 ? 4 : 8);
		memcpy(w->ram + 0x2000, &(uint64_t){ 0x3003 }, 8);
		memcpy(w->ram + formats[i].leaf, &leaf, 4);
		w->cpu->cr4 = formats[i].cr4;
		w->cpu->efer = formats[i].efer;
		w->cpu->cr3 = formats[i].top;
		acc_paging_changed(w->cpu, w->cpu->cr0, cr4, efer);
		acc_flush_all(w->cpu);
		for (uint64_t x = 0; x < formats[i].size; x += 0x3f000) {
			do_access(w, formats[i].base + x, ACC_RW, false, &o);
			assert_int_equal(o.v, ACC_ALLOW);
			assert_ptr_equal(o.hva, w->ram + x);
		}
		memset(w->ram + formats[i].leaf, 0, 4);
		acc_flush_page(w->cpu, GVA(formats[i].base + formats[i].size / 2 + 0x5123));
		for (uint64_t x = 0; x < formats[i].size; x += 0x3f000) {
			do_access(w, formats[i].base + x, ACC_R, false, &o);
			assert_int_equal(o.v, ACC_FAULT);
		}
		destroy(w);
	}
}

/* Two large pages 8 GiB apart are kept track of as one: what was forgotten for the one is not forgotten of the other. */
static void invlpg_of_one_large_page_leaves_no_other_half_forgotten(void **state)
{
	struct world *w = create(0);
	uint64_t va = 0x200000, twin = va + (8ull << 30), leaf = PTE_P | PTE_W | PTE_PS;
	struct outcome o;

	memset(w->ram, 0, 0x5000);
	memcpy(w->ram + 0x1000, &(uint64_t){ 0x2003 }, 8);
	memcpy(w->ram + 0x2000, &(uint64_t){ 0x3003 }, 8);
	memcpy(w->ram + 0x2040, &(uint64_t){ 0x4003 }, 8);
	memcpy(w->ram + 0x3008, &leaf, 8);
	memcpy(w->ram + 0x4008, &leaf, 8);
	w->cpu->cr3 = 0x1000;
	acc_flush_all(w->cpu);
	for (unsigned i = 0; i < 4; i++) {
		do_access(w, va + i * 0x1000, ACC_RW, false, &o);
		assert_int_equal(o.v, ACC_ALLOW);
		do_access(w, twin + i * 0x1000, ACC_RW, false, &o);
		assert_int_equal(o.v, ACC_ALLOW);
	}
	memset(w->ram + 0x3000, 0, 0x2000);
	acc_flush_page(w->cpu, GVA(va + 0x100000));
	acc_flush_page(w->cpu, GVA(twin + 0x100000));
	for (unsigned i = 0; i < 4; i++) {
		assert_null(acc_probe_r(w->cpu, twin + i * 0x1000, 1));
		do_access(w, va + i * 0x1000, ACC_R, false, &o);
		assert_int_equal(o.v, ACC_FAULT);
		do_access(w, twin + i * 0x1000, ACC_R, false, &o);
		assert_int_equal(o.v, ACC_FAULT);
	}
	destroy(w);
}

/* ---- flushes of everything that find little changed ----------------------------------------------------------------------------- */

static uint64_t frame_at(struct world *w, uint64_t la, unsigned rights)
{
	struct outcome o;

	do_access(w, la, rights, false, &o);
	return o.v == ACC_ALLOW ? gpa_of_hva(w, o.hva) >> GW_PAGE_SHIFT : 0;
}

/* Pages 0 to 5 are frames 40 to 45, and used. */
static struct world *create_used(void)
{
	struct world *w = create(CR4_PCIDE);

	for (unsigned p = 0; p < 6; p++)
		*pte_of(w, 0, p) = (40ull + p) << 12 | PTE_P | PTE_W | PTE_U;
	acc_flush_all(w->cpu);
	for (unsigned p = 0; p < 6; p++)
		assert_int_equal(frame_at(w, page_va[p], p & 1 ? ACC_RW : ACC_R), 40 + p);
	assert_int_equal(frame_at(w, page_va[0], ACC_X), 40);
	return w;
}

static void invpcid_all(struct world *w)
{
	acc_flush_pcid(w->cpu, 2, 0, GVA(0));
}

static void flushing_what_has_not_changed_forgets_nothing(void **state)
{
	struct world *w = create_used();
	uint64_t stamp = w->cpu->stamp;

	for (unsigned i = 0; i < 3; i++) {
		invpcid_all(w);
		for (unsigned p = 0; p < 6; p++)
			assert_non_null(acc_probe_r(w->cpu, page_va[p], 8));
		assert_non_null(acc_probe_w(w->cpu, page_va[1], 8));
		assert_non_null(acc_fetch_probe(w->cpu, page_va[0]));
		assert_int_equal(w->cpu->stamp, stamp);
	}
	/* D was not set when this page was read first: it is walked for once more. */
	assert_int_equal(frame_at(w, page_va[2], ACC_RW), 42);
	invpcid_all(w);
	assert_int_equal(frame_at(w, page_va[2], ACC_RW), 42);
	invpcid_all(w);
	assert_non_null(acc_probe_w(w->cpu, page_va[2], 8));
	destroy(w);
}

static void flushing_drops_the_page_whose_entry_has_changed(void **state)
{
	struct world *w = create_used();

	*pte_of(w, 0, 1) = 50ull << 12 | PTE_P | PTE_W | PTE_U;
	*pte_of(w, 0, 3) = 0;
	*pte_of(w, 0, 5) &= ~(uint64_t)PTE_W;
	assert_int_equal(frame_at(w, page_va[1], ACC_RW), 41);
	invpcid_all(w);
	assert_null(acc_probe_r(w->cpu, page_va[1], 8));
	assert_null(acc_probe_w(w->cpu, page_va[5], 8));
	assert_non_null(acc_probe_r(w->cpu, page_va[4], 8));
	assert_int_equal(frame_at(w, page_va[1], ACC_RW), 50);
	assert_int_equal(frame_at(w, page_va[3], ACC_R), 0);
	assert_int_equal(frame_at(w, page_va[5], ACC_R), 45);
	/* And once more, with what was noted since. */
	*pte_of(w, 0, 1) = 51ull << 12 | PTE_P | PTE_W | PTE_U;
	invpcid_all(w);
	assert_int_equal(frame_at(w, page_va[1], ACC_RW), 51);
	/* Code of a page that is another now is fetched again. */
	*pte_of(w, 0, 0) = 52ull << 12 | PTE_P | PTE_W | PTE_U;
	invpcid_all(w);
	assert_null(acc_fetch_probe(w->cpu, page_va[0]));
	assert_int_equal(frame_at(w, page_va[0], ACC_X), 52);
	destroy(w);
}

static void flushing_lets_a_and_d_be_set_again(void **state)
{
	struct world *w = create_used();

	*pte_of(w, 0, 0) &= ~(uint64_t)PTE_A;
	*pte_of(w, 0, 1) &= ~(uint64_t)PTE_D;
	*pde_of(w, 0, 4) &= ~(uint64_t)PTE_A;
	invpcid_all(w);
	frame_at(w, page_va[0], ACC_R);
	frame_at(w, page_va[1], ACC_RW);
	frame_at(w, page_va[4], ACC_R);
	assert_true(*pte_of(w, 0, 0) & PTE_A);
	assert_true(*pte_of(w, 0, 1) & PTE_D);
	assert_true(*pde_of(w, 0, 4) & PTE_A);
	destroy(w);
}

/* An upper entry that was something else in between, and is what it was. */
static void flushing_sees_through_entries_that_changed_back(void **state)
{
	struct world *w = create_used();
	uint64_t pde = *pde_of(w, 0, 4);

	*pte_of(w, 1, 6) = 60ull << 12 | PTE_P | PTE_W | PTE_U;
	*pde_of(w, 0, 4) = *pde_of(w, 1, 4);
	assert_int_equal(frame_at(w, page_va[6], ACC_R), 60);
	*pde_of(w, 0, 4) = pde;
	*pte_of(w, 0, 6) = 46ull << 12 | PTE_P | PTE_W | PTE_U;
	invpcid_all(w);
	assert_int_equal(frame_at(w, page_va[6], ACC_R), 46);
	/* One that has changed. */
	*pte_of(w, 1, 6) = 61ull << 12 | PTE_P | PTE_W | PTE_U;
	*pde_of(w, 0, 4) = *pde_of(w, 1, 4);
	invpcid_all(w);
	assert_int_equal(frame_at(w, page_va[6], ACC_R), 61);
	/* A large page: to another frame. */
	*pde_of(w, 0, 4) = PTE_P | PTE_W | PTE_U | PTE_PS;
	invpcid_all(w);
	assert_int_equal(frame_at(w, page_va[6], ACC_RW), 2);
	*pde_of(w, 0, 4) = 512ull << 12 | PTE_P | PTE_W | PTE_U | PTE_PS;
	invpcid_all(w);
	assert_int_equal(frame_at(w, page_va[6], ACC_RW), 514);
	destroy(w);
}

/* The tables that count are those of CR3: what was remembered under another is not to be found in them. */
static void flushing_goes_by_the_tables_of_cr3(void **state)
{
	struct world *w = create_used();

	*pte_of(w, 1, 0) = 60ull << 12 | PTE_P | PTE_W | PTE_U;
	w->cpu->cr3 = frame_of(1, PML4) << 12;
	acc_flush_cr3(w->cpu, true);	/* the same PCID, kept */
	invpcid_all(w);
	assert_int_equal(frame_at(w, page_va[0], ACC_R), 60);
	assert_int_equal(frame_at(w, page_va[1], ACC_R), 0);
	/* Another PCID that comes back with other tables. */
	w->cpu->cr3 = frame_of(0, PML4) << 12 | 1;
	acc_flush_cr3(w->cpu, false);
	assert_int_equal(frame_at(w, page_va[0], ACC_R), 40);
	w->cpu->cr3 = frame_of(1, PML4) << 12;
	acc_flush_cr3(w->cpu, true);
	assert_int_equal(frame_at(w, page_va[0], ACC_R), 60);
	invpcid_all(w);
	w->cpu->cr3 = frame_of(1, PML4) << 12 | 1;
	acc_flush_cr3(w->cpu, true);
	assert_int_equal(frame_at(w, page_va[0], ACC_R), 60);
	destroy(w);
}

static void flushing_more_than_is_noted_forgets_all(void **state)
{
	struct world *w = create_used();

	for (unsigned i = 0; i < SOURCE_LEAVES + 10; i++)
		*entry(w, 0, PT0, i) = (100ull + i) << 12 | PTE_P | PTE_W | PTE_U;
	invpcid_all(w);
	for (unsigned i = 0; i < SOURCE_LEAVES + 10; i++)
		assert_int_equal(frame_at(w, (uint64_t)i << 12, ACC_R), 100 + i);
	for (unsigned i = 0; i < SOURCE_LEAVES + 10; i++)
		*entry(w, 0, PT0, i) += 1ull << 12;
	invpcid_all(w);
	for (unsigned i = 0; i < SOURCE_LEAVES + 10; i++)
		assert_int_equal(frame_at(w, (uint64_t)i << 12, ACC_R), 101 + i);
	destroy(w);
}

static void walks_mark_tables_dirty(void **state)
{
	struct world *w = create(0);
	uint64_t bits[RAM_PAGES / 64];
	struct outcome o;

	*pte_of(w, 0, 0) = 40ull << 12 | PTE_P | PTE_W;
	mem_dirty_fetch(w->dirty, bits, true);
	do_access(w, 0, ACC_R, false, &o);
	mem_dirty_fetch(w->dirty, bits, true);
	assert_true(bits[0] == (1ull << frame_of(0, PML4) | 1ull << frame_of(0, PDPT) | 1ull << frame_of(0, PD0) | 1ull << frame_of(0, PT0)));
	do_access(w, 0, ACC_W, false, &o);
	mem_dirty_fetch(w->dirty, bits, true);
	assert_true(bits[0] == (1ull << frame_of(0, PT0) | 1ull << 40));
	destroy(w);
}

static void read_only_tables_are_walked_not_written(void **state)
{
	struct world *w = create(0);
	struct mem_slot rom = { .id = 0, .n_pages = TABLE_FRAMES, .flags = MEM_READONLY, .hva = w->ram };
	struct mem_slot ram = { .id = 1, .first = GFN(TABLE_FRAMES), .n_pages = 64, .hva = w->ram + TABLE_FRAMES * GW_PAGE_SIZE };
	struct mem_map *map, *both;
	struct outcome o;

	assert_int_equal(mem_map_change(NULL, &rom, &map), 0);
	assert_int_equal(mem_map_change(map, &ram, &both), 0);
	mem_map_free(map);
	acc_vm_set_map(w->vm, both);
	*pte_of(w, 0, 0) = 40ull << 12 | PTE_P | PTE_W;
	do_access(w, 0, ACC_W, false, &o);
	assert_int_equal(o.v, ACC_ALLOW);
	assert_int_equal(*pte_of(w, 0, 0) & (PTE_A | PTE_D), 0);
	assert_int_equal(*pde_of(w, 0, 0) & PTE_A, 0);
	assert_null(acc_probe_w(w->cpu, 0, 8));
	destroy(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		{ "empty entries never hit", empty_entries_never_hit, NULL, NULL, NULL },
		{ "an access across pages misses", page_crossers_miss, NULL, NULL, NULL },
		{ "pages with data breakpoints are not remembered", watched_pages_are_not_remembered, NULL, NULL, NULL },
		{ "read-only slots take no stores", read_only_slots_take_no_stores, NULL, NULL, NULL },
		{ "stores to code change its generation, through any name of the page", stores_to_code_change_its_generation, NULL, NULL, NULL },
		{ "INVLPG of one large page keeps nothing of another 8 GiB away from its own INVLPG",
		  invlpg_of_one_large_page_leaves_no_other_half_forgotten, NULL, NULL, NULL },
		{ "INVLPG takes all of a large page, in every size", invlpg_takes_all_of_a_large_page, NULL, NULL, NULL },
		{ "a flush of all forgets nothing where the tables are as they were", flushing_what_has_not_changed_forgets_nothing, NULL, NULL, NULL },
		{ "a flush of all drops the page whose entry has changed", flushing_drops_the_page_whose_entry_has_changed, NULL, NULL, NULL },
		{ "after a flush of all A and D that were cleared are set again", flushing_lets_a_and_d_be_set_again, NULL, NULL, NULL },
		{ "a flush of all sees upper entries that have changed, or changed and come back", flushing_sees_through_entries_that_changed_back, NULL, NULL, NULL },
		{ "a flush of all goes by the tables of CR3", flushing_goes_by_the_tables_of_cr3, NULL, NULL, NULL },
		{ "a flush of all forgets all where too much is remembered", flushing_more_than_is_noted_forgets_all, NULL, NULL, NULL },
		{ "A and D writes of the walk are in the dirty log", walks_mark_tables_dirty, NULL, NULL, NULL },
		{ "tables in read-only memory are walked and stay as they are", read_only_tables_are_walked_not_written, NULL, NULL, NULL },
		{ "nothing is remembered longer than the manual lets it, without PCID", without_pcid, NULL, NULL, NULL },
		{ "nothing is remembered longer than the manual lets it, with PCID", with_pcid, NULL, NULL, NULL },
		{ "nothing is remembered longer than the manual lets it, with SMAP, no globals", without_keys, NULL, NULL, NULL },
	};

	return cmocka_run_group_tests_name("access-tlb", tests, NULL, NULL);
}
