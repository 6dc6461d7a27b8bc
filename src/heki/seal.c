/* SPDX-License-Identifier: MIT */
/*
 * Unassisted mode: a stock kernel is locked without its help, and code that appears later is judged.
 *
 * When: at the fetch of a user instruction, at the moment that the policy chose (moment.c), but not before the kernel's system-call
 * entry is mapped read-only and executable, which Linux does right before it starts init. What: the kernel half of the page tables is walked leaf by leaf. Supervisor code is what
 * is mapped executable; it stays so and loses W. What is mapped read-only inside the kernel image and nowhere writable is rodata and loses
 * W. Everything else keeps R, W and user execution: kernel execution of undeclared pages ends here.
 *
 * Later: a kernel fetch from an undeclared page seals it (hash, report, no more W) unless the policy is frozen; a write to such a
 * page frees it again, zeroed, if the kernel does not map it executable any more. A write to sealed text through the poking
 * alias is judged byte by byte (vocab.c). All of this runs in the guard's wait(), outside guest code.
 */
#include "heki/seal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "heki/sha256.h"

#define IMAGE_START	0xffffffff80000000ull
#define IMAGE_END	0xffffffffc0000000ull
#define PTI_USER	0x1000ull
#define CR3_TABLE	0x000ffffffffff000ull
#define CR4_PINNED	0xB10800ull
#define LOCKED_RIGHTS	(HEKI_R | HEKI_W | HEKI_XU)

/* Notes of the scan, in a store of its own. */
#define NOTE_X		0x01u
#define NOTE_IMAGE_RO	0x02u
#define NOTE_W		0x04u

/* ---- small things ------------------------------------------------------------------------------------------------------------ */

uint64_t seals_cr3(const struct heki_seals *s, uint64_t cr3)
{
	return s->pti ? cr3 & CR3_TABLE & ~PTI_USER : cr3 & CR3_TABLE;
}

uint64_t seals_image_va(const struct heki_seals *s, uint64_t gpa)
{
	for (unsigned i = 0; i < s->n_runs; i++)
		if (gpa - s->run[i].gpa < s->run[i].size)
			return s->run[i].va + (gpa - s->run[i].gpa);
	return 0;
}

const struct image_run *seals_run_of_va(const struct heki_seals *s, uint64_t va)
{
	for (unsigned i = 0; i < s->n_runs; i++)
		if (va - s->run[i].va < s->run[i].size)
			return &s->run[i];
	return NULL;
}

static unsigned late_place(const struct heki_seals *s, uint64_t gfn)
{
	unsigned lo = 0, hi = s->n_late;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (s->late[mid].gfn < gfn)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

struct late_page *seals_late(struct heki_seals *s, uint64_t gfn)
{
	unsigned i = late_place(s, gfn);

	return i < s->n_late && s->late[i].gfn == gfn ? &s->late[i] : NULL;
}

static int add_late(struct heki_seals *s, const struct late_page *p)
{
	struct late_page *old = seals_late(s, p->gfn);
	unsigned i;

	if (old) {
		*old = *p;
		return 0;
	}
	if (s->n_late == s->late_size) {
		unsigned size = s->late_size * 2 + 64;
		struct late_page *n = realloc(s->late, size * sizeof(*n));

		if (!n)
			return -ENOMEM;
		s->late = n;
		s->late_size = size;
	}
	i = late_place(s, p->gfn);
	memmove(&s->late[i + 1], &s->late[i], (s->n_late - i) * sizeof(*s->late));
	s->late[i] = *p;
	s->n_late++;
	return 0;
}

static void drop_late(struct heki_seals *s, uint64_t gfn)
{
	struct late_page *p = seals_late(s, gfn);

	if (!p)
		return;
	s->n_late--;
	memmove(p, p + 1, (size_t)(s->late + s->n_late - p) * sizeof(*p));
}

static void free_seals(struct heki_seals *s)
{
	pthread_mutex_destroy(&s->changing);
	pthread_mutex_destroy(&s->lock);
	fill_free(s);
	free(s->run);
	free(s->late);
	free(s->site);
	free(s->firmware);
	free(s);
}

void heki_seals_retire(struct heki *h)
{
	struct heki_seals *s = h->seals;

	if (!s)
		return;
	h->seals = NULL;
	s->next = h->retired;
	h->retired = s;
}

void heki_seals_free(struct heki *h)
{
	heki_seals_retire(h);
	while (h->retired) {
		struct heki_seals *s = h->retired;

		h->retired = s->next;
		free_seals(s);
	}
}

/* ---- the scan ------------------------------------------------------------------------------------------------------------------ */

struct scan {
	struct heki_seals *s;
	struct store notes;
	struct store_txn txn;
	bool second;		/* pass: which noted frames are writable somewhere */
	int err;
};

static uint8_t or_fn(uint8_t old, void *arg)
{
	return old | *(const uint8_t *)arg;
}

static uint8_t mark_writable(uint8_t old, void *arg)
{
	return old ? old | NOTE_W : 0;
}

static bool in_image(uint64_t va) { return va >= IMAGE_START && va < IMAGE_END; }

static void add_run(struct scan *c, const struct scan_leaf *l)
{
	struct heki_seals *s = c->s;
	struct image_run *r = s->n_runs ? &s->run[s->n_runs - 1] : NULL;

	if (r && r->va + r->size == l->va && r->gpa + r->size == l->gpa && r->x == l->x) {
		r->size += l->size;
		return;
	}
	if (s->n_runs == s->runs_size) {
		s->runs_size = s->runs_size * 2 + 16;
		r = realloc(s->run, s->runs_size * sizeof(*r));
		if (!r) {
			c->err = -ENOMEM;
			return;
		}
		s->run = r;
	}
	s->run[s->n_runs++] = (struct image_run){ .va = l->va, .gpa = l->gpa, .size = l->size, .x = l->x };
}

static void visit(void *arg, const struct scan_leaf *l)
{
	struct scan *c = arg;
	uint64_t first = l->gpa >> GW_PAGE_SHIFT, n = l->size >> GW_PAGE_SHIFT;
	bool image_ro = in_image(l->va) && !l->w;
	uint8_t note = (uint8_t)((l->x && !l->u ? NOTE_X : 0) | (image_ro ? NOTE_IMAGE_RO : 0));

	if (c->err)
		return;
	if (c->second) {
		if (l->w)
			c->err = store_update(&c->txn, first, n, mark_writable, NULL);
		return;
	}
	if (note)
		c->err = store_update(&c->txn, first, n, or_fn, &note);
	if (!c->err && image_ro)
		add_run(c, l);
}

static int scan(struct heki *h, struct heki_seals *s, uint64_t cr3, struct scan *c)
{
	*c = (struct scan){ .s = s };
	store_init(&c->notes);
	store_begin(&c->notes, &c->txn);
	for (unsigned pass = 0; pass < 2 && !c->err; pass++) {
		c->second = pass;
		if (!heki_scan_kernel(h, cr3, s->la57, visit, c) && !c->err)
			c->err = -E2BIG;
	}
	if (c->err)
		store_abort(&c->txn);
	else
		store_reclaim(store_commit(&c->txn));
	return c->err;
}

/* What a frame with these notes becomes; 0: no entry. */
static uint8_t attributes_of(uint8_t note, bool mirrored)
{
	if (note & NOTE_X) {
		uint8_t w = mirrored && note & NOTE_W ? HEKI_W : 0;

		return HEKI_R | HEKI_XS | HEKI_XU | HEKI_SEALED | HEKI_POKE | w | (note & NOTE_IMAGE_RO ? HEKI_IMMUTABLE : 0);
	}
	/* A read-only view of what is written elsewhere is data (the vvar page, for one). */
	return note & NOTE_IMAGE_RO && !(note & NOTE_W) ? HEKI_R | HEKI_XU | HEKI_IMMUTABLE : 0;
}

struct summary { uint64_t text, rodata, other_text, first_text, defects; };

static int stage(struct heki *h, struct scan *c, struct store_txn *t, struct summary *sum)
{
	uint64_t frame = 0, n;
	uint8_t note;
	int err = 0;

	for (; !err && (note = store_next(store_root(&c->notes), &frame, &n)) != 0; frame += n) {
		uint8_t a = attributes_of(note, atomic_load(&h->dynamic) == HEKI_MIRRORED);
		struct heki_change change = { .set = a, .clear = HEKI_ALL };

		if (!a || !h->host->has_memory(h->vm, GFN(frame), n))
			continue;
		err = store_update(t, frame, n, heki_change_fn, &change);
		if (a & HEKI_XS && note & NOTE_IMAGE_RO) {
			sum->first_text = sum->text ? sum->first_text : frame;
			sum->text += n;
		} else {
			*(a & HEKI_XS ? &sum->other_text : &sum->rodata) += n;
		}
		if (note & NOTE_X && note & NOTE_W) {
			sum->defects += n;
			heki_log(h, &(struct heki_event){ .kind = HEKI_EV_DEFECT, .reason = HEKI_REASON_MEM, .gpa = frame << GW_PAGE_SHIFT, .value = n,
							  .attributes = a & HEKI_ALL });
		}
	}
	return err;
}

/* Code outside the image (modules of the initial ramdisk, BPF, the trampoline of processors being started). */
static int note_late(struct heki *h, struct heki_seals *s, uint64_t cr3);

static void lock_kernel(struct heki *h, struct heki_seals *s, const struct heki_regs *regs, uint64_t cr3)
{
	struct summary sum = { 0 };
	struct store_node *replaced = NULL;
	struct timespec t0, t1;
	struct store_txn t;
	struct scan c;
	int err;

	clock_gettime(CLOCK_MONOTONIC, &t0);
	err = scan(h, s, cr3, &c);
	if (!err)
		err = note_late(h, s, cr3);
	if (!err)
		err = vocab_find(h, s);
	if (!err)
		err = heki_firmware_find(h, s);
	if (!err) {
		pthread_mutex_lock(&h->lock);
		store_begin(&h->store, &t);
		err = stage(h, &c, &t, &sum);
		if (!err)
			err = heki_firmware_stage(s, &t);
		if (err) {
			store_abort(&t);
		} else {
			h->seals = s;
			replaced = store_commit(&t);
			atomic_store(&h->default_rights, LOCKED_RIGHTS);
			atomic_store(&h->firmware.exists, s->firmware != NULL);
			atomic_fetch_and(&h->active, ~ACTIVE_WAITING);
			heki_activate(h);
		}
		pthread_mutex_unlock(&h->lock);
	}
	store_fini(&c.notes);
	if (err) {
		/* Once is enough: a kernel that cannot be scanned will not be scanned better at its next instruction. */
		atomic_fetch_and(&h->active, ~ACTIVE_WAITING);
		heki_log(h, &(struct heki_event){ .kind = HEKI_EV_REFUSED, .reason = HEKI_REASON_MEM, .value = (uint64_t)err });
		heki_say(h, "heki: the guest kernel could not be locked: %s", strerror(-err));
		free_seals(s);
		return;
	}
	heki_pin(h, CR0_WP, regs->cr4 & CR4_PINNED);
	heki_settle(h, replaced, 0, 0);
	if (atomic_load(&h->shield))
		heki_shield_all(h);
	clock_gettime(CLOCK_MONOTONIC, &t1);
	atomic_store(&h->counter[N_LOCK_NS], (uint64_t)(t1.tv_sec - t0.tv_sec) * 1000000000u + (uint64_t)(t1.tv_nsec - t0.tv_nsec));
	heki_log(h, &(struct heki_event){ .kind = HEKI_EV_LOCKED, .reason = HEKI_REASON_MEM, .vcpu = regs->vcpu, .insns = regs->insns,
					  .gpa = sum.first_text << GW_PAGE_SHIFT, .gva = seals_image_va(s, sum.first_text << GW_PAGE_SHIFT), .value = sum.text, .cr3 = cr3 });
	heki_say(h, "heki: locked the guest kernel: %llu pages of text, %llu of rodata, %llu of other code; %u patch sites; %llu pages W+X",
		 (unsigned long long)sum.text, (unsigned long long)sum.rodata, (unsigned long long)sum.other_text, s->n_sites,
		 (unsigned long long)sum.defects);
}

/* ---- the moment ---------------------------------------------------------------------------------------------------------------- */

static bool maps_entry(struct heki *h, uint64_t cr3, bool la57, uint64_t entry)
{
	struct scan_leaf l;

	return heki_scan_one(h, cr3, la57, entry, &l) && l.x && !l.w && !l.u;
}

/* How many leaves the image window has: with page-table isolation the user's tables show only the entry code. */
static void count(void *arg, const struct scan_leaf *l)
{
	if (in_image(l->va))
		++*(uint64_t *)arg;
}

void heki_try_lock(struct heki *h, const struct acc_cpu *cpu)
{
	uint64_t cr3, with = 0, without = 0;
	struct heki_seals *s;
	struct heki_regs regs;
	bool la57;

	h->host->regs(h->vm, cpu, &regs);
	if (!heki_is_moment(h, &regs))
		return;
	la57 = regs.cr4 & CR4_LA57;
	cr3 = regs.cr3 & CR3_TABLE;
	if (!(regs.efer & EFER_LMA) || !(regs.cr0 & CR0_WP) || !in_image(regs.lstar) || !maps_entry(h, cr3, la57, regs.lstar))
		return;
	s = calloc(1, sizeof(*s));
	if (!s)
		return;
	pthread_mutex_init(&s->changing, NULL);
	pthread_mutex_init(&s->lock, NULL);
	s->la57 = la57;
	if (cr3 & PTI_USER && maps_entry(h, cr3 & ~PTI_USER, la57, regs.lstar) && heki_scan_kernel(h, cr3, la57, count, &with) &&
	    heki_scan_kernel(h, cr3 & ~PTI_USER, la57, count, &without))
		s->pti = without > with;
	lock_kernel(h, s, &regs, seals_cr3(s, cr3));
}

/* ---- code that comes later --------------------------------------------------------------------------------------------------------- */

static bool read_page(struct heki *h, uint64_t gfn, uint8_t page[GW_PAGE_SIZE])
{
	return h->host->read(h->vm, gfn_gpa(GFN(gfn)), page, GW_PAGE_SIZE);
}

/* The kernel fills a pack of BPF programs with INT3 before it uses it. */
static bool has_fill(const uint8_t page[GW_PAGE_SIZE])
{
	unsigned n = 0;

	for (unsigned i = 0; i < GW_PAGE_SIZE; i++) {
		n = page[i] == 0xcc ? n + 1 : 0;
		if (n == 64)
			return true;
	}
	return false;
}

static void describe(uint8_t page[GW_PAGE_SIZE], uint64_t gfn, uint64_t va, struct late_page *p)
{
	*p = (struct late_page){ .gfn = gfn, .va = va & ~GW_PAGE_MASK, .has_fill = has_fill(page) };
	heki_sha256(page, GW_PAGE_SIZE, p->hash);
}

struct late_scan { struct heki *h; struct heki_seals *s; int err; uint8_t page[GW_PAGE_SIZE]; };

static void visit_late(void *arg, const struct scan_leaf *l)
{
	struct late_scan *c = arg;

	if (c->err || !l->x || l->u || in_image(l->va))
		return;
	for (uint64_t at = 0; at < l->size && !c->err; at += GW_PAGE_SIZE) {
		uint64_t gfn = (l->gpa + at) >> GW_PAGE_SHIFT;
		struct late_page p;

		if (seals_image_va(c->s, gfn << GW_PAGE_SHIFT) || !read_page(c->h, gfn, c->page))
			continue;
		describe(c->page, gfn, l->va + at, &p);
		c->err = add_late(c->s, &p);
		if (!c->err && p.has_fill && atomic_load(&c->h->dynamic) == HEKI_FROZEN)
			c->err = fill_add(c->s, gfn);
	}
}

static int note_late(struct heki *h, struct heki_seals *s, uint64_t cr3)
{
	struct late_scan c = { .h = h, .s = s };

	heki_scan_kernel(h, cr3, s->la57, visit_late, &c);
	fill_sort(s);
	return c.err;
}

static int set_one(struct heki *h, uint64_t gfn, uint8_t attributes)
{
	struct heki_change change = { .set = attributes, .clear = HEKI_ALL };
	struct store_node *replaced;
	struct store_txn t;
	int err;

	pthread_mutex_lock(&h->lock);
	store_begin(&h->store, &t);
	err = store_update(&t, gfn, 1, heki_change_fn, &change);
	if (err) {
		store_abort(&t);
		pthread_mutex_unlock(&h->lock);
		return err;
	}
	replaced = store_commit(&t);
	pthread_mutex_unlock(&h->lock);
	heki_settle(h, replaced, gfn, 1);
	return 0;
}

/* First W goes, then the page is hashed, then it may be executed: what is reported is what runs. */
static void seal(struct heki *h, struct heki_seals *s, const struct heki_regs *regs, uint64_t gfn, uint64_t va)
{
	bool mirrored = atomic_load(&h->dynamic) == HEKI_MIRRORED;
	uint8_t page[GW_PAGE_SIZE];
	struct heki_event e = { .kind = HEKI_EV_SEALED, .reason = HEKI_REASON_MEM, .vcpu = regs->vcpu, .insns = regs->insns,
				.gpa = gfn << GW_PAGE_SHIFT, .gva = va & ~GW_PAGE_MASK, .rip = regs->rip, .cr3 = regs->cr3 };
	struct late_page p;
	int err;

	if (!mirrored && set_one(h, gfn, HEKI_R | HEKI_XU))
		return;
	if (!read_page(h, gfn, page))
		return;
	describe(page, gfn, va, &p);
	pthread_mutex_lock(&s->lock);
	err = add_late(s, &p);
	pthread_mutex_unlock(&s->lock);
	if (err || set_one(h, gfn, (uint8_t)(HEKI_R | HEKI_XS | HEKI_XU | (mirrored ? HEKI_W : HEKI_SEALED | HEKI_POKE))))
		return;
	memcpy(e.hash, p.hash, sizeof(e.hash));
	heki_count(h, N_SEALED);
	heki_log(h, &e);
}

/* Does the kernel still map the page where it ran, executable? */
static bool is_in_use(struct heki *h, const struct heki_seals *s, uint64_t cr3, const struct late_page *p)
{
	struct scan_leaf l;

	return heki_scan_one(h, cr3, s->la57, p->va, &l) && l.x && (l.gpa + (p->va - l.va)) >> GW_PAGE_SHIFT == p->gfn;
}

/* Zeroed, so that what ran sealed cannot be changed and run again; unless something else lies there already (a disk read). */
static void release(struct heki *h, struct heki_seals *s, const struct heki_regs *regs, const struct late_page *p)
{
	static const uint8_t zeros[GW_PAGE_SIZE];
	uint8_t page[GW_PAGE_SIZE], hash[32];
	struct heki_event e = { .kind = HEKI_EV_RELEASED, .reason = HEKI_REASON_MEM, .vcpu = regs->vcpu, .insns = regs->insns,
				.gpa = p->gfn << GW_PAGE_SHIFT, .gva = p->va, .rip = regs->rip };

	if (set_one(h, p->gfn, HEKI_R | HEKI_XU) || !read_page(h, p->gfn, page))
		return;
	if (heki_sha256(page, GW_PAGE_SIZE, hash) && !memcmp(hash, p->hash, sizeof(hash)))
		h->host->write(h->vm, gfn_gpa(GFN(p->gfn)), zeros, sizeof(zeros));
	if (set_one(h, p->gfn, LOCKED_RIGHTS))
		return;
	pthread_mutex_lock(&s->lock);
	drop_late(s, p->gfn);
	pthread_mutex_unlock(&s->lock);
	heki_count(h, N_RELEASED);
	heki_log(h, &e);
}

bool heki_is_dynamic(struct heki *h, const struct acc_request *rq, uint8_t attributes)
{
	if (!h->seals || rq->origin > ACC_ENGINE || rq->stage == ACC_WALK)
		return false;
	if (rq->rights & ACC_X)
		return rq->cpl < 3 && !rq->user_translation && !(attributes & (HEKI_XS | HEKI_IMMUTABLE)) && atomic_load(&h->dynamic) != HEKI_FROZEN;
	return rq->rights & ACC_W && (attributes & (HEKI_SEALED | HEKI_IMMUTABLE)) == HEKI_SEALED;
}

void heki_dynamic(struct heki *h, const struct acc_cpu *cpu, const struct acc_request *rq)
{
	struct heki_seals *s = h->seals;
	uint64_t gfn = gpa_gfn(rq->gpa).v;
	struct late_page *found, p = { 0 };
	struct heki_regs regs;
	uint8_t now;

	if (!s)
		return;
	h->host->regs(h->vm, cpu, &regs);
	pthread_mutex_lock(&s->changing);
	pthread_mutex_lock(&s->lock);
	found = seals_late(s, gfn);
	if (found)
		p = *found;
	pthread_mutex_unlock(&s->lock);
	/* Another vCPU may have been here first. */
	now = (uint8_t)heki_get(h, GFN(gfn), NULL);
	if (!heki_is_dynamic(h, rq, now))
		goto unlock;
	if (rq->rights & ACC_X)
		seal(h, s, &regs, gfn, rq->gva.v);
	else if (found && !is_in_use(h, s, seals_cr3(s, regs.cr3), &p))
		release(h, s, &regs, &p);
unlock:
	pthread_mutex_unlock(&s->changing);
}

/* ---- patches ----------------------------------------------------------------------------------------------------------------------------- */

/* Linux patches its text through a mapping of its own in the lower half, kept for nothing else. */
bool heki_is_poke(struct heki *h, const struct acc_request *rq, uint8_t attributes, uint8_t missing)
{
	return h->seals && attributes & HEKI_POKE && missing == ACC_W && rq->origin == ACC_INSN && rq->stage == ACC_FINAL && rq->cpl == 0 &&
	       !rq->user_translation && !rq->by_gpa && !(rq->gva.v >> 47);
}

enum acc_verdict heki_show_phantoms(struct heki *h, const struct acc_request *rq, struct acc_result *out)
{
	struct heki_seals *s = h->seals;
	enum acc_verdict v = ACC_ALLOW;
	unsigned n;

	if (!s || rq->len > sizeof(out->data))
		return ACC_ALLOW;
	if (s->n_fill && fill_show(s, rq->gpa.v, out->hva, out->data, rq->len)) {
		out->data_len = (uint8_t)rq->len;
		out->subst = SUBST_DATA;
		v = ACC_SUBST;
	}
	n = atomic_load_explicit(&s->n_phantoms, memory_order_acquire);
	for (unsigned i = 0; i < n; i++) {
		uint64_t gpa = atomic_load_explicit(&s->phantom[i].gpa, memory_order_relaxed);

		if (gpa - rq->gpa.v >= rq->len)
			continue;
		if (v == ACC_ALLOW) {
			memcpy(out->data, out->hva, rq->len);
			out->data_len = (uint8_t)rq->len;
			out->subst = SUBST_DATA;
			v = ACC_SUBST;
		}
		out->data[gpa - rq->gpa.v] = atomic_load_explicit(&s->phantom[i].byte, memory_order_relaxed);
	}
	return v;
}

static void forget_phantoms(struct heki_seals *s, uint64_t gpa, unsigned len)
{
	for (unsigned i = 0; i < atomic_load(&s->n_phantoms); i++)
		if (atomic_load(&s->phantom[i].gpa) - gpa < len)
			atomic_store(&s->phantom[i].gpa, ~0ull);
}

static void add_phantoms(struct heki_seals *s, uint64_t gpa, const uint8_t *bytes, unsigned len)
{
	forget_phantoms(s, gpa, len);
	for (unsigned b = 0, i = 0; b < len; i++) {
		unsigned n = atomic_load(&s->n_phantoms);

		if (i == MAX_PHANTOMS)
			return;		/* more than this many refused at once: the kernel finds out */
		if (i < n && atomic_load(&s->phantom[i].gpa) != ~0ull)
			continue;
		atomic_store(&s->phantom[i].byte, bytes[b]);
		atomic_store(&s->phantom[i].gpa, gpa + b++);
		if (i == n)
			atomic_store(&s->n_phantoms, n + 1);
	}
}

/* The tail that was let in under the INT3 is shown as it was written; executed is what stood there before. */
static void take_back(struct heki *h, struct heki_seals *s, const struct open_site *o)
{
	uint8_t tail[6];

	if (!h->host->read(h->vm, GPA(o->gpa), tail, o->len))
		return;
	add_phantoms(s, o->gpa + 1, tail + 1, o->len - 1u);
	h->host->write(h->vm, GPA(o->gpa), o->was, o->len);
}

void heki_vet(void *guard, struct acc_cpu *cpu, struct gpa gpa, const uint8_t *bytes, unsigned len)
{
	struct heki *h = guard;
	struct heki_seals *s = h->seals;
	struct heki_event e = { .kind = HEKI_EV_POKED, .reason = HEKI_REASON_MEM, .access = HEKI_ACCESS_W, .gpa = gpa.v };
	struct open_site undo = { 0 };
	struct late_page *p;
	struct heki_regs regs;
	enum fill_answer fill = FILL_OTHER;
	bool good;

	h->host->regs(h->vm, cpu, &regs);
	pthread_mutex_lock(&s->lock);
	if (atomic_load(&h->dynamic) == HEKI_FROZEN)
		fill = fill_write(h, s, gpa.v, bytes, len);
	good = fill == FILL_FREED || (fill == FILL_OTHER && (atomic_load(&h->dynamic) == HEKI_MIRRORED ||
							     vocab_judge(h, s, seals_cr3(s, regs.cr3), gpa.v, bytes, len, &undo)));
	p = seals_late(s, gpa_gfn(gpa).v);
	if (!good && fill == FILL_OTHER) {
		if (undo.len)
			take_back(h, s, &undo);
		add_phantoms(s, gpa.v, bytes, len);
	} else {
		uint8_t page[GW_PAGE_SIZE];

		if (fill == FILL_OTHER) {
			forget_phantoms(s, gpa.v, len);
			h->host->write(h->vm, gpa, bytes, len);
		}
		if (p && read_page(h, p->gfn, page))
			heki_sha256(page, GW_PAGE_SIZE, p->hash);
	}
	e.gva = p ? p->va + (gpa.v & GW_PAGE_MASK) : seals_image_va(s, gpa.v);
	pthread_mutex_unlock(&s->lock);
	memcpy(&e.value, bytes, len < 8 ? len : 8);
	e.vcpu = regs.vcpu;
	e.rip = regs.rip;
	e.cr3 = regs.cr3;
	e.insns = regs.insns;
	if (good) {
		heki_count(h, N_POKES);
	} else {
		e.kind = HEKI_EV_DENIED;
		heki_count(h, N_DENIED_WRITE);
		heki_say(h, fill == FILL_REFUSED ? "heki: vcpu %u: new code of %u bytes at %016llx: shown, never run" :
			 "heki: vcpu %u: patch of %u bytes at %016llx is not in the vocabulary; dropped", regs.vcpu, len, (unsigned long long)e.gva);
	}
	heki_log(h, &e);
}
