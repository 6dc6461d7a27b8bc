/* SPDX-License-Identifier: MIT */
/*
 * What translated code asks of C: the handler of one instruction, the target of a branch, the reason to stop. All guest
 * registers are in c->gpr[] here. Also the way in, as the handler of a block's first operation.
 */
#include "cpu/translate/private.h"

static inline struct tr_unit *unit_of(const struct translator *k, uint32_t id)
{
	return k->unit[id >> 6];
}

static cpu_fn *handler_of(const struct cpu_block *b, unsigned k)
{
	return k ? b->op[k].fn : b->first;
}

static bool may_stay(const struct vcpu *c)
{
	return likely(!atomic_load_explicit(&c->acc.attention, memory_order_relaxed) && c->stats.insns < c->poll_at && !c->alone);
}

static bool is_current(const struct cpu_block *b)
{
	return b->gen == atomic_load_explicit(&b->code->gen, memory_order_acquire);
}

static uint64_t rip_of(const struct tr_unit *t, unsigned n)
{
	const struct tr_part *p = tr_part_of(t, n);

	return p->rip + p->b->op[n - p->first].off;
}

static uint64_t rip_after(const struct tr_unit *t, unsigned n)
{
	const struct tr_part *p = tr_part_of(t, n);

	return rip_of(t, n) + p->b->op[n - p->first].len;
}

/* Instructions that a unit counted and does not execute. */
static void count_back(struct vcpu *c, unsigned n)
{
	c->stats.insns -= n;
	c->stats.tr_insns -= n;
}

/* ---- one instruction ------------------------------------------------------------------------------------------------------------ */

static void one_done(struct vcpu *c, const struct cpu_op *o)
{
	c->translator->done = true;
}

/*
 * Run the handler of operation @n by itself. True: it was executed to its end. False: it left RIP, exception, exit or
 * run-alone behind, as it does for the dispatcher.
 */
static bool run_one(struct vcpu *c, const struct tr_unit *t, unsigned n)
{
	const struct tr_part *p = tr_part_of(t, n);
	struct translator *k = c->translator;

	k->pair[0] = p->b->op[n - p->first];
	k->pair[1].fn = one_done;
	k->pair[1].off = (uint16_t)(k->pair[0].off + k->pair[0].len);
	k->done = false;
	c->stop = false;
	c->gpr[GPR_RIP] = p->rip;
	if (t->by_handler >> n & 1) {
		k->by_form[k->pair[0].iop]++;
		c->stats.tr_forms++;
		c->stats.tr_form_ones++;
	}
	c->single = true;
	handler_of(p->b, n - p->first)(c, k->pair);
	c->single = false;
	return k->done;
}

bool tr_one(struct vcpu *c, uint32_t id)
{
	struct translator *k = c->translator;
	const struct tr_unit *t = unit_of(k, id);
	uint64_t flushes = k->flushes, jump_gen = c->acc.jump_gen;
	unsigned n = id & 63;
	uint8_t mode = c->acc.mode;
	uint64_t next = rip_after(t, n);

	tr_settle(c);
	c->stats.tr_ones++;
	c->tr_tail = NULL;
	if (!run_one(c, t, n))
		return false;
	acc_notice_code(&c->acc);
	/*
	 * What the unit was compiled for must still hold, else the dispatcher finds another. So must its code: the instruction may
	 * be a serializing one, after which code that another CPU has written is executed, and links forward look at nothing.
	 */
	if (likely(c->acc.mode == mode && c->acc.jump_gen == jump_gen && k->flushes == flushes && c->block_key == t->b->key &&
		   c->verify_epoch == *t->page->epoch && c->exit == CPU_RUNNING && is_current(t->b) &&
		   !atomic_load_explicit(&c->acc.attention, memory_order_relaxed)))
		return true;
	c->rip = next;
	return false;
}

/* ---- where to go --------------------------------------------------------------------------------------------------------------------- */

/* Let the interpreter run operation @n of @b, and what follows it. */
static uint64_t leave_to(struct vcpu *c, const struct cpu_block *b, unsigned n, uint64_t rip)
{
	c->gpr[GPR_RIP] = rip;
	c->tr_tail = &b->op[n];
	c->tr_tail_fn = (void *)(uintptr_t)handler_of(b, n);
	return 0;
}

static uint64_t leave_now(struct vcpu *c)
{
	c->tr_tail = NULL;
	if (unlikely(c->rip == c->tr_sti_rip)) {
		c->shadow = CPU_SHADOW_STI;
		c->tr_sti_rip = NO_STI;
	}
	return 0;
}

/* A shared page of code is mapped elsewhere in every process: the address used last is kept, few others with it. */
#define MAX_OF_BLOCK	6

static void drop_oldest(struct translator *k, struct cpu_block *b)
{
	struct tr_unit *t = b->units;
	unsigned n = 0;

	for (; t && t->of_block; t = t->of_block)
		n++;
	if (n >= MAX_OF_BLOCK)
		tr_kill(k, t);
}

/* The unit of the valid block @b at @rip, made if it is time. NULL: interpret. */
static struct tr_unit *unit_for(struct vcpu *c, struct cpu_block *b, uint64_t rip)
{
	struct tr_unit *t = tr_find(b, rip, c->acc.mode);
	struct tr_page *p;

	if (likely(t)) {
		if (likely(*t->page->epoch == c->verify_epoch) || tr_page_verify(c, t->page))
			return t;
		t = tr_find(b, rip, c->acc.mode);	/* not all of the page's units went */
		if (t)
			return t;
	}
	if (++b->runs < c->translator->hot)
		return NULL;
	b->runs = 0;
	/* Units of a page are compared together: one made now vouches for those that it leads to. */
	p = tr_page_find(c->translator, b);
	if (p)
		tr_page_verify(c, p);
	drop_oldest(c->translator, b);
	return tr_compile(c, b, rip);
}

/* The valid block at c->rip. NULL: refused, noted. */
static struct cpu_block *block_here(struct vcpu *c)
{
	struct cpu_block *b = cpu_block_recent(c);

	c->stop = false;
	return likely(b) ? b : cpu_block_get(c);
}

/*
 * Run the handler of @o, which stands by itself at c->rip. False: the dispatcher has to see what it did, else c->rip is where it
 * goes on.
 */
static bool run_crossing(struct vcpu *c, const struct cpu_op *o)
{
	struct translator *k = c->translator;
	uint64_t poll_at = c->poll_at, rip = c->rip;
	bool ends = insn_rows[container_of(o, struct cpu_cross, op[0])->insn.row].attr & IA_END;

	k->pair[0] = *o;
	k->pair[1].fn = one_done;
	k->pair[1].off = o->len;
	k->done = false;
	c->stop = false;
	c->tr_chains = false;
	c->poll_at = 0;		/* it shall not go on by itself */
	c->gpr[GPR_RIP] = rip;
	c->shadow = 0;
	c->stats.insns++;
	o->fn(c, k->pair);
	c->poll_at = poll_at;
	if (k->done) {
		c->rip = rip + o->len;
		return !ends && !c->shadow && c->exit == CPU_RUNNING;
	}
	return c->tr_chains && !c->stop && c->exit == CPU_RUNNING;
}

/* Go on at c->rip. *out: the unit there, if there is one. */
static uint64_t go_on(struct vcpu *c, struct tr_unit **out)
{
	struct translator *k = c->translator;
	const struct cpu_op *crossing;
	struct cpu_block *b;
	struct tr_unit *t;

	*out = NULL;
	do {
		if (!may_stay(c) || c->mode != INSN_MODE_64)
			return leave_now(c);
		crossing = cpu_block_crossing(c);
		if (crossing && !run_crossing(c, crossing))
			return leave_now(c);
	} while (crossing);
	acc_notice_code(&c->acc);
	b = block_here(c);
	if (!b)
		return leave_now(c);
	t = unit_for(c, b, c->rip);
	if (!t) {
		c->stats.insns += b->n;
		return leave_to(c, b, 0, c->rip);
	}
	*out = t;
	return tr_rx(k, t->body);
}

/*
 * It is time to leave, but flags may be wrong that the block at c->rip overwrites before anybody can look: let the interpreter
 * execute that block.
 */
static uint64_t run_blind(struct vcpu *c)
{
	struct cpu_block *b = block_here(c);

	if (!b)
		return leave_now(c);
	c->stats.insns += b->n;
	return leave_to(c, b, 0, c->rip);
}

uint64_t tr_edge(struct vcpu *c, uint32_t id)
{
	struct translator *k = c->translator;
	struct tr_unit *from = unit_of(k, id), *to;
	uint64_t flushes = k->flushes;
	struct tr_link *l = &from->link[id & 63];
	uint64_t host;

	if (l->is_blind)
		c->cc_recipe = 0;	/* of flags that are gone; a carry that is wanted is in c->cc */
	tr_settle(c);
	c->rip = l->rip;
	if (l->is_blind && !may_stay(c))
		return run_blind(c);
	host = go_on(c, &to);
	/* The link may be gone with everything; and both ends must be of one state of the page. */
	if (to && to->rip == l->rip && k->chain && flushes == k->flushes && !l->to &&
	    from->b->gen == atomic_load_explicit(&from->b->code->gen, memory_order_relaxed))
{
		tr_link_to(k, l, to);
		c->stats.tr_links++;
	}
	return host;
}

/*
 * The unit's page is not the one fetched there last, or was not compared since the client may have written. Mostly it only has to
 * be fetched again.
 */
uint64_t tr_entry(struct vcpu *c, uint32_t id)
{
	struct translator *k = c->translator;
	struct tr_unit *t = unit_of(k, id), *to;
	const struct acc_fetch *page;

	tr_settle(c);
	c->stats.tr_misses++;
	c->rip = t->rip;
	c->stop = false;
	if (!may_stay(c))
		return leave_now(c);
	page = cpu_block_page(c);
	if (c->stop)
		return leave_now(c);
	if (likely(page && page->code == t->b->code && !t->dead &&
		   t->b->gen == atomic_load_explicit(&t->b->code->gen, memory_order_relaxed))) {
		tr_page_verify(c, t->page);
		acc_notice_code(&c->acc);
		if (likely(!t->dead))
			return tr_rx(k, t->body);
	}
	return go_on(c, &to);
}

uint64_t tr_stale(struct vcpu *c, uint32_t id)
{
	struct translator *k = c->translator;
	struct tr_unit *t = unit_of(k, id);
	struct tr_jump *j = tr_jump_slot(k, t->mode, t->rip);
	bool must_run;

	if (t->is_blind)
		c->cc_recipe = 0;	/* as in tr_edge() */
	tr_settle(c);
	c->stats.tr_stale++;
	c->rip = t->rip;
	if (t->b->gen != atomic_load_explicit(&t->b->code->gen, memory_order_relaxed))
		tr_kill(k, t);
	if (t->dead && j->host == tr_rx(k, t->mapped))
		*j = (struct tr_jump){ .rip = t->rip ^ 1 };
	must_run = t->is_blind && c->stats.insns > c->poll_at && !t->dead;
	if (unlikely(c->tr_often))
		tr_site_give_up(c);
	if (must_run) {
		c->stats.insns -= t->n - t->b->n;
		return leave_to(c, t->b, 0, t->rip);
	}
	return leave_now(c);
}

/*
 * The last instruction of a block, by its handler. A handler that would go on without the dispatcher (it asked for a chain)
 * says so that the next block may be entered at once.
 */
static uint64_t transfer(struct vcpu *c, const struct tr_unit *t, unsigned n)
{
	uint64_t poll_at = c->poll_at, next = rip_after(t, n);
	struct tr_unit *to;

	c->poll_at = 0;		/* the handler shall not go on by itself */
	c->tr_chains = false;
	c->stats.tr_ones++;
	if (run_one(c, t, n))
		c->rip = next;
	c->poll_at = poll_at;
	if (!c->tr_chains || c->stop || c->exit != CPU_RUNNING)
		return leave_now(c);
	return go_on(c, &to);
}

uint64_t tr_bail(struct vcpu *c, uint32_t id)
{
	const struct tr_unit *t = unit_of(c->translator, id);
	const struct tr_part *p = tr_part_of(t, id & 63);
	unsigned n = (id & 63) - p->first;

	tr_settle(c);
	c->stats.tr_bails++;
	count_back(c, t->n - p->first - p->b->n);
	if (n + 1 == p->b->n)
		return transfer(c, t, id & 63);
	c->stats.tr_forms += p->b->n - n;
	c->translator->by_form[p->b->op[n].iop]++;
	return leave_to(c, p->b, n, p->rip);
}

/* A call or computed branch whose target, or whose stack, is not at hand: the handler decides where it goes. */
uint64_t tr_indirect(struct vcpu *c, uint32_t id)
{
	struct translator *k = c->translator;
	const struct tr_unit *t = unit_of(k, id);
	uint64_t poll_at = c->poll_at, host;
	uint8_t mode = c->acc.mode;
	struct tr_unit *to;

	tr_settle(c);
	c->poll_at = 0;		/* the handler shall not go on by itself */
	run_one(c, t, id & 63);
	c->poll_at = poll_at;
	if (c->stop)
		return leave_now(c);
	host = go_on(c, &to);
	if (to && k->chain && mode == to->mode)
		*tr_jump_slot(k, mode, to->rip) = (struct tr_jump){ to->rip, tr_rx(k, to->mapped) };
	return host;
}

#define MISFIT_SOON	65536u	/* instructions */
#define MISFITS		16u

/*
 * After instruction n - 1 r11 cannot hold what the code behind it wants there (group.c): go on in the unit that begins at
 * instruction n. What this one counted and does not execute is taken back.
 */
uint64_t tr_resume(struct vcpu *c, uint32_t id)
{
	struct translator *k = c->translator;
	struct tr_unit *t = unit_of(k, id), *to;
	unsigned n = id & 63;

	tr_settle(c);
	c->rip = rip_of(t, n);
	count_back(c, t->n - n);
	t->misfits = c->stats.insns - t->misfit_at < MISFIT_SOON ? t->misfits + 1 : 0;
	t->misfit_at = c->stats.insns;
	if (t->misfits == MISFITS) {
		t->b->ungrouped = true;
		tr_kill(k, t);
	}
	return go_on(c, &to);
}

/* ---- the way in -------------------------------------------------------------------------------------------------------------------------- */

static void op_counted(struct vcpu *c, const struct cpu_op *o)
{
	struct cpu_block *b = container_of(o, struct cpu_block, op);
	struct translator *k = c->translator;
	struct tr_unit *t = likely(k->entered) ? unit_for(c, b, c->gpr[GPR_RIP]) : NULL;
	void (*enter)(struct vcpu *, uint64_t) = (void (*)(struct vcpu *, uint64_t))(uintptr_t)tr_rx(k, k->at.enter);

	/*
	 * A unit that counts past poll_at leaves before its first instruction. The dispatcher, which has just let the shadow of an
	 * STI pass, counts on one instruction at least.
	 */
	if (!t || unlikely(c->stats.insns - b->n + t->n > c->poll_at)) {
		b->first(c, o);
		return;
	}
	c->stats.insns -= b->n;		/* the unit counts them */
	acc_notice_code(&c->acc);
	enter(c, tr_rx(k, t->body));
}

void tr_adopt(struct vcpu *c, struct cpu_block *b)
{
	b->units = NULL;
	b->runs = 0;
	b->ungrouped = false;
	b->is_part = false;
	b->unpredicted = 0;
	b->first = b->op[0].fn;
	if (c->translator && c->mode == INSN_MODE_64)
		b->op[0].fn = op_counted;
}

void tr_enter(struct vcpu *c)
{
	if (!c->translator)
		return;
	__asm__ volatile("rdgsbase %0" : "=r"(c->translator->client_gs));
	__asm__ volatile("wrgsbase %0" : : "r"(c));
	c->translator->entered = true;
}

void tr_leave(struct vcpu *c)
{
	if (!c->translator)
		return;
	c->translator->entered = false;
	__asm__ volatile("wrgsbase %0" : : "r"(c->translator->client_gs));
}

/* ---- host faults ------------------------------------------------------------------------------------------------------------------------- */

bool tr_owns_pc(const struct vcpu *c, uintptr_t pc)
{
	return c->translator && pc - (uintptr_t)c->translator->rx < c->translator->size;
}

uintptr_t tr_fault(const struct vcpu *c, uintptr_t pc)
{
	const struct translator *k = c->translator;
	uint32_t at, lo = 0, hi, mid;

	if (!tr_owns_pc(c, pc))
		return 0;
	at = (uint32_t)(pc - (uintptr_t)k->rx);
	for (hi = k->n_units; lo < hi;) {
		mid = lo + (hi - lo) / 2;
		if (k->unit[mid]->end <= at)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == k->n_units)
		return 0;
	for (unsigned i = 0; i < k->unit[lo]->n_faults; i++)
		if (k->unit[lo]->fault[i].at == at)
			return (uintptr_t)tr_rx(k, k->unit[lo]->fault[i].stub);
	return 0;
}
