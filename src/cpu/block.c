/* SPDX-License-Identifier: MIT */
/* Decoded blocks: building, finding, chaining. See block.h for what makes one valid. */
#include "cpu/block.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/interp/interp.h"
#include "cpu/translate/translate.h"
#include "isa/insn.h"

#define ARENA_SIZE	(96u << 20)
/* What one block can need at most: operations, their full decodes, the saved bytes. */
#define BLOCK_ROOM	(sizeof(struct cpu_block) + (CPU_BLOCK_MAX + 1) * (sizeof(struct cpu_op) + sizeof(struct insn)) + 512)

int cpu_cache_new(struct cpu_cache **out)
{
	struct cpu_cache *k = calloc(1, sizeof(*k));

	if (!k)
		return -ENOMEM;
	k->arena = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (k->arena == MAP_FAILED) {
		free(k);
		return -ENOMEM;
	}
	/* Decoded instructions are the guest's bytes: not for a core dump. */
	madvise(k->arena, ARENA_SIZE, MADV_DONTDUMP);
	*out = k;
	return 0;
}

void cpu_cache_free(struct cpu_cache *k)
{
	if (!k)
		return;
	munmap(k->arena, ARENA_SIZE);
	free(k);
}

void cpu_cache_flush(struct vcpu *c)
{
	struct cpu_cache *k = c->cache;

	tr_flush(c);
	memset(k->jump, 0, sizeof(k->jump));
	memset(k->hash, 0, sizeof(k->hash));
	for (unsigned i = 0; i < CPU_CROSS; i++)
		k->cross[i].len = 0;
	k->used = 0;
	k->last = NULL;
	k->flushes++;
}

static void *arena_take(struct cpu_cache *k, size_t size)
{
	void *p = k->arena + k->used;

	k->used += (size + 15) & ~(size_t)15;
	return p;
}

/* ---- operations that are not instructions --------------------------------------------------------------------------- */

static void op_end(struct vcpu *c, const struct cpu_op *o)
{
	c->rip = cpu_op_rip(c, o);
	CPU_CHAIN_RIP(c);
}

static void op_leave(struct vcpu *c, const struct cpu_op *o)
{
	c->rip = cpu_op_rip(c, o);
}

static void op_undefined(struct vcpu *c, const struct cpu_op *o)
{
	cpu_raise(c, o, VEC_UD);
}

static void op_too_long(struct vcpu *c, const struct cpu_op *o)
{
	cpu_raise_error(c, o, VEC_GP, 0);
}

/* ---- building --------------------------------------------------------------------------------------------------------- */

/* Give @o its handler. The families are asked in order of frequency; an operation nobody knows is #UD, as on a CPU without it. */
static void lower(struct vcpu *c, const struct insn *in, struct cpu_op *o)
{
	cpu_lower_common(in, c->flat, o);
	/* Integer operations do not keep the decode: near branches have their links in its place. */
	o->insn = NULL;
	if (cpu_lower_int(in, o))
		return;
	o->insn = in;
	if (cpu_lower_sys(in, o) || cpu_lower_host(c, in, o))
		return;
	o->insn = NULL;
	o->fn = op_undefined;
}

static bool ends_block(const struct insn *in, const struct cpu_op *o)
{
	return insn_rows[in->row].attr & IA_END || o->fn == op_undefined;
}

static void finish(struct cpu_op *o, cpu_fn *fn, unsigned off)
{
	memset(o, 0, sizeof(*o));
	o->fn = fn;
	o->off = (uint16_t)off;
}

/*
 * Code that is rewritten before every use would eat the arena: the room of the block built last is taken again for the block of
 * the same place. What still points there finds a valid block of that place, or is told by flushes.
 */
static void reuse_last(struct cpu_cache *k, const struct mem_code *code, const uint8_t *hva, uint32_t key)
{
	const struct cpu_block *b = k->last;

	if (!b || !k->last_is_dead || b->code != code || b->hva != hva || b->key != key)
		return;
	k->used = k->last_start;
	k->last = NULL;
	k->flushes++;
}

/*
 * NULL: the first instruction crosses the page; or @is_gone: the page was taken away while we waited to mark it. @is_ahead: do not wait,
 * what is going to be executed now must stay what it is.
 */
static struct cpu_block *build(struct vcpu *c, const struct acc_fetch *page, unsigned start, bool is_ahead, bool *is_gone)
{
	struct cpu_cache *k = c->cache;
	unsigned off = start, n = 0;
	struct mem_code *code_of = page->code;
	uint8_t *hva = page->hva + start;
	struct cpu_block *b;
	size_t last_start;
	bool end = false;
	struct insn *in;
	uint32_t gen;
	uint8_t bytes[CPU_BLOCK_MAX * INSN_MAX_LEN];	/* as decoded: memory may change under us */

	if (k->used + BLOCK_ROOM > ARENA_SIZE)
		cpu_cache_flush(c);
	reuse_last(k, page->code, page->hva + start, c->block_key);
	last_start = k->used;
	/* Generation, then marks, then bytes: a store that comes after the mark changes the generation taken here. */
	gen = atomic_load_explicit(&page->code->gen, memory_order_acquire);
	in = (struct insn *)(k->arena + k->used);
	while (!end && n < CPU_BLOCK_MAX && off < GW_PAGE_SIZE) {
		struct cpu_op *o = &k->draft[n];
		unsigned avail = GW_PAGE_SIZE - off;
		uint8_t code[INSN_MAX_LEN + 1];
		enum insn_status st;

		if (avail > INSN_MAX_LEN)
			avail = INSN_MAX_LEN;
		if (!(is_ahead ? acc_mark_code_now : acc_mark_code)(&c->acc, page, off, avail)) {
			*is_gone = true;
			break;
		}
		memcpy(code, page->hva + off, avail);	/* guest memory: read once */
		st = insn_decode(code, avail, c->mode, c->block_key & KEY_REAL, c->features, in);
		if (st == INSN_MORE && avail < INSN_MAX_LEN)
			break;		/* crosses the page: begins a block of its own */
		memset(o, 0, sizeof(*o));
		o->off = (uint16_t)(off - start);
		if (st != INSN_OK) {
			o->fn = st == INSN_UD ? op_undefined : op_too_long;
			/* Any of the bytes looked at may make it an instruction again. */
			memcpy(bytes + (off - start), code, avail);
			n++;
			off += avail;
			end = true;
			break;
		}
		memcpy(bytes + (off - start), code, in->len);
		o->len = in->len;
		lower(c, in, o);
		end = ends_block(in, o);
		off += in->len;
		n++;
		if (o->insn == in)
			in = (struct insn *)((uint8_t *)in + ((sizeof(*in) + 15) & ~(size_t)15));
	}
	if (!n || *is_gone)
		return NULL;
	finish(&k->draft[n], end ? op_leave : op_end, off - start);
	k->used = (size_t)((uint8_t *)in - k->arena);
	b = arena_take(k, sizeof(*b) + (n + 1) * sizeof(struct cpu_op));
	memcpy(b->op, k->draft, (n + 1) * sizeof(struct cpu_op));
	b->gen = gen;
	b->code = code_of;
	b->hva = hva;
	b->n = (uint16_t)n;
	b->n_bytes = (uint16_t)(off - start);
	b->bytes = arena_take(k, b->n_bytes);
	memcpy(b->bytes, bytes, b->n_bytes);
	b->key = c->block_key;
	b->epoch = c->verify_epoch;
	k->last = b;
	k->last_start = last_start;
	k->last_is_dead = false;
	tr_adopt(c, b);
	c->stats.blocks_decoded++;
	return b;
}

static unsigned hash_of(const struct mem_code *code, unsigned off, uint32_t key)
{
	uint64_t h = ((uint64_t)(uintptr_t)code >> 3) * 0x9e3779b97f4a7c15ull + ((uint64_t)off << 5 | key) * 0xc2b2ae3d27d4eb4full;

	return (unsigned)(h >> (64 - CPU_HASH_BITS));
}

/* Is @b what memory holds? Called when the client may have written behind us. */
static bool verify(struct vcpu *c, struct cpu_block *b)
{
	if (memcmp(b->bytes, b->hva, b->n_bytes))
		return false;
	b->epoch = c->verify_epoch;
	return true;
}

static bool is_current(const struct cpu_block *b)
{
	return b->gen == atomic_load_explicit(&b->code->gen, memory_order_relaxed);
}

struct cpu_block *cpu_block_peek(struct vcpu *c, const struct mem_code *code, const uint8_t *hva)
{
	struct cpu_block **link = &c->cache->hash[hash_of(code, (uintptr_t)hva & GW_PAGE_MASK, c->block_key)];
	struct cpu_block *b;

	while ((b = *link)) {
		if (b->code == code && b->hva == hva && b->key == c->block_key) {
			if (is_current(b) && (b->epoch == c->verify_epoch || verify(c, b)))
				return b;
			*link = b->next;	/* dead; its room comes back with the arena */
			if (b == c->cache->last && !b->units && !b->is_part && !is_current(b))
				c->cache->last_is_dead = true;
			continue;
		}
		link = &b->next;
	}
	return NULL;
}

static struct cpu_block *find(struct vcpu *c, const struct acc_fetch *page, unsigned off)
{
	return cpu_block_peek(c, page->code, page->hva + off);
}

/* Why the fetch was refused becomes the exception or exit of the instruction at c->rip. */
static void fetch_refused(struct vcpu *c, enum acc_verdict v, const struct acc_result *res)
{
	c->stop = true;
	switch (v) {
	case ACC_FAULT:
		cpu_fault_event(c, &res->event);
		break;
	case ACC_EXIT:
		c->guard_exit = res->exit;
		c->exit = CPU_EXIT_GUARD;
		break;
	case ACC_WAIT:
	case ACC_RETRY:
		c->exit = CPU_EXIT_KICKED;
		break;
	default:
		c->exit = CPU_EXIT_EMULATION;	/* code in a device: no bytes to decode */
	}
}

static const struct acc_fetch *fetch(struct vcpu *c, uint64_t la)
{
	enum acc_verdict v = ACC_ALLOW;
	const struct acc_fetch *page = acc_fetch_probe(&c->acc, la);
	struct cpu_cache *k = c->cache;
	struct acc_request rq;
	struct acc_result res;

	if (likely(page))
		return page;
	if (k->has_granted) {
		/* Asked for a moment ago, by the attempt to find a block. */
		k->has_granted = false;
		if (!((la ^ k->granted_la) & ~GW_PAGE_MASK))
			return &k->granted;
	}
	page = acc_fetch_page(&c->acc, GVA(la), &rq, &res, &v);
	if (!page)
		fetch_refused(c, v, &res);
	return page;
}

static uint64_t linear_rip(const struct vcpu *c, uint64_t rip)
{
	uint64_t la = c->seg_base[SEG_CS] + rip;

	return c->mode == INSN_MODE_64 ? la : (uint32_t)la;
}

/* Legacy modes: EIP beyond the limit of CS is #GP(0) at fetch. */
static bool rip_in_limit(struct vcpu *c)
{
	if (c->mode == INSN_MODE_64 || c->rip <= c->seg[SEG_CS].limit)
		return true;
	c->stop = true;
	return cpu_fault(c, VEC_GP, 0);
}

/* Not to be asked for twice: the fetch that comes next uses it. */
static void remember_grant(struct vcpu *c, const struct acc_fetch *page)
{
	c->cache->granted = *page;
	c->cache->granted_la = linear_rip(c, c->rip);
	c->cache->has_granted = true;
}

struct cpu_block *cpu_block_recent(struct vcpu *c)
{
	uint64_t la = linear_rip(c, c->rip);
	const struct cpu_jump_entry *e = &c->cache->jump[(la ^ la >> CPU_JUMP_BITS) & ((1u << CPU_JUMP_BITS) - 1)];
	struct cpu_block *b = e->block;

	if (likely(e->rip == la && e->gen == c->acc.jump_gen && b && b->key == c->block_key && is_current(b) &&
		   b->epoch == c->verify_epoch))
		return b;
	return NULL;
}

const struct acc_fetch *cpu_block_page(struct vcpu *c)
{
	const struct acc_fetch *page = acc_fetch_probe(&c->acc, linear_rip(c, c->rip));

	c->cur = NULL;
	if (page || !rip_in_limit(c))
		return page;
	page = fetch(c, linear_rip(c, c->rip));
	if (likely(!page || page->tag != ~0ull))
		return page;
	remember_grant(c, page);
	return NULL;
}

static struct cpu_cross *cross_slot(struct vcpu *c, uint64_t la)
{
	return &c->cache->cross[(la ^ la >> GW_PAGE_SHIFT ^ la >> (GW_PAGE_SHIFT + 8)) & (CPU_CROSS - 1)];
}

const struct cpu_op *cpu_block_crossing(struct vcpu *c)
{
	uint64_t la = linear_rip(c, c->rip);
	const struct cpu_cross *x = cross_slot(c, la);
	unsigned first = GW_PAGE_SIZE - (la & GW_PAGE_MASK);
	const struct acc_fetch *page, *next;

	if (likely(first >= INSN_MAX_LEN) || x->la != la || x->key != c->block_key || x->len <= first || c->ext_code)
		return NULL;
	if (c->mode != INSN_MODE_64 && c->rip + x->len - 1 > c->seg[SEG_CS].limit)
		return NULL;
	page = acc_fetch_probe(&c->acc, la);
	next = acc_fetch_probe(&c->acc, linear_rip(c, c->rip + first));
	if (!page || !next || memcmp(x->bytes, page->hva + (la & GW_PAGE_MASK), first) || memcmp(x->bytes + first, next->hva, x->len - first))
		return NULL;
	return x->op;
}

/* @o, decoded by itself, may be wanted again: it crosses the page, or there is a reason to run it alone. */
static void remember_alone(struct vcpu *c, const struct insn *in, const struct cpu_op *o)
{
	uint64_t la = linear_rip(c, c->rip);
	struct cpu_cross *x = cross_slot(c, la);

	if (c->ext_code)
		return;
	x->la = la;
	x->key = c->block_key;
	x->len = in->len;
	memcpy(x->bytes, in->bytes, in->len);
	x->insn = *in;
	x->op[0] = o[0];
	x->op[1] = o[1];
	if (o->insn == in)
		x->op[0].insn = &x->insn;
}

/* Decode the block at @off of @page, and remember it. As build(). */
static struct cpu_block *add(struct vcpu *c, const struct acc_fetch *page, unsigned off, bool is_ahead, bool *is_gone)
{
	struct cpu_block *b = build(c, page, off, is_ahead, is_gone), **slot;

	if (!b)
		return NULL;
	slot = &c->cache->hash[hash_of(b->code, off, c->block_key)];
	b->next = *slot;
	*slot = b;
	return b;
}

struct cpu_block *cpu_block_ahead(struct vcpu *c, const struct mem_code *code, uint64_t rip)
{
	const struct acc_fetch *page = acc_fetch_probe(&c->acc, linear_rip(c, rip));
	unsigned off = rip & GW_PAGE_MASK;
	bool is_gone = false;
	struct cpu_block *b;

	if (!page || page->code != code || page->tag == ~0ull || c->ext_code)
		return NULL;
	b = find(c, page, off);
	if (b || c->cache->used + 2 * BLOCK_ROOM > ARENA_SIZE || c->cache->last_is_dead)
		return b;
	return add(c, page, off, true, &is_gone);
}

struct cpu_block *cpu_block_get(struct vcpu *c)
{
	uint64_t la = linear_rip(c, c->rip);
	struct cpu_jump_entry *e = &c->cache->jump[(la ^ la >> CPU_JUMP_BITS) & ((1u << CPU_JUMP_BITS) - 1)];
	const struct acc_fetch *page;
	unsigned off = la & GW_PAGE_MASK;
	struct cpu_block *b;

	c->cur = NULL;		/* host faults from here on are the fetch's: RIP is exact */
	if (!rip_in_limit(c))
		return NULL;
	page = fetch(c, la);
	if (!page)
		return NULL;
	c->stats.jump_misses++;
	if (cpu_block_crossing(c)) {
		c->alone_wanted = true;
		c->stop = true;
		return NULL;
	}
	if (unlikely(page->tag == ~0ull)) {
		remember_grant(c, page);
		c->alone_wanted = true;
		return NULL;
	}
	b = find(c, page, off);
	if (!b) {
		bool is_gone = false;

		b = add(c, page, off, false, &is_gone);
		if (!b) {
			/* Gone: the dispatcher fetches again. Crossing: both pages are fetched for it alone. */
			c->alone_wanted = !is_gone;
			c->stop = true;
			return NULL;
		}
	}
	*e = (struct cpu_jump_entry){ la, c->acc.jump_gen, b };
	return b;
}

/*
 * Up to 15 bytes at c->rip, from one page or two; the second is fetched only if the first does not hold the instruction. *@known: they
 * are an instruction that ran alone here before.
 */
static enum insn_status decode_at(struct vcpu *c, struct insn *in, const struct cpu_cross **known)
{
	uint64_t la = linear_rip(c, c->rip);
	unsigned off = la & GW_PAGE_MASK, avail = GW_PAGE_SIZE - off;
	const struct acc_fetch *page;
	const struct cpu_cross *x = cross_slot(c, la);
	uint8_t code[INSN_MAX_LEN + 1];
	enum insn_status st;

	if (unlikely(c->ext_code)) {
		memcpy(code, c->ext_code, INSN_MAX_LEN);
		return insn_decode(code, INSN_MAX_LEN, c->mode, c->block_key & KEY_REAL, c->features, in);
	}
	page = fetch(c, la);

	if (!page)
		return INSN_MORE;
	if (avail > INSN_MAX_LEN)
		avail = INSN_MAX_LEN;
	memcpy(code, page->hva + off, avail);
	if (x->la == la && x->key == c->block_key && x->len && x->len <= avail && !memcmp(x->bytes, code, x->len)) {
		*known = x;
		return INSN_OK;
	}
	st = insn_decode(code, avail, c->mode, c->block_key & KEY_REAL, c->features, in);
	if (st != INSN_MORE || avail == INSN_MAX_LEN)
		return st;
	if (c->mode != INSN_MODE_64 && c->rip + avail > c->seg[SEG_CS].limit) {
		c->stop = true;
		cpu_fault(c, VEC_GP, 0);
		return INSN_MORE;
	}
	page = fetch(c, linear_rip(c, c->rip + avail));
	if (!page)
		return INSN_MORE;
	memcpy(code + avail, page->hva, INSN_MAX_LEN - avail);
	return insn_decode(code, INSN_MAX_LEN, c->mode, c->block_key & KEY_REAL, c->features, in);
}

const struct insn *cpu_block_alone_insn(const struct vcpu *c, const struct cpu_op *o)
{
	return o == c->cache->alone_op ? &c->cache->alone_insn : &container_of(o, struct cpu_cross, op[0])->insn;
}

const struct cpu_op *cpu_block_alone(struct vcpu *c)
{
	struct cpu_cache *k = c->cache;
	const struct cpu_cross *known = NULL;
	struct cpu_op *o;
	enum insn_status st;

	c->cur = NULL;
	if (!rip_in_limit(c))
		return NULL;
	c->stop = false;
	o = (struct cpu_op *)(uintptr_t)cpu_block_crossing(c);
	if (o) {
		c->gpr[GPR_RIP] = c->rip;
		return o;
	}
	o = &k->alone_op[0];
	st = decode_at(c, &k->alone_insn, &known);
	if (c->stop)
		return NULL;
	if (known) {
		c->gpr[GPR_RIP] = c->rip;
		return known->op;
	}
	memset(k->alone_op, 0, sizeof(k->alone_op));
	if (st == INSN_OK) {
		o->len = k->alone_insn.len;
		lower(c, &k->alone_insn, o);
	} else {
		o->fn = st == INSN_UD ? op_undefined : op_too_long;
	}
	finish(&k->alone_op[1], op_leave, o->len);
	if (st == INSN_OK)
		remember_alone(c, &k->alone_insn, k->alone_op);
	c->gpr[GPR_RIP] = c->rip;
	return o;
}

/* ---- chaining --------------------------------------------------------------------------------------------------------- */

/* May the dispatcher be passed by? Not when someone wants the vCPU, when it runs alone, or when it is time to poll. */
static bool may_chain(const struct vcpu *c)
{
	return likely(!atomic_load_explicit(&c->acc.attention, memory_order_relaxed) && c->stats.insns < c->poll_at && !c->alone);
}

static const struct cpu_op *enter(struct vcpu *c, const struct cpu_block *b, uint64_t rip)
{
	c->gpr[GPR_RIP] = rip;
	c->stats.insns += b->n;
	return b->op;
}

const struct cpu_op *cpu_chain_rip(struct vcpu *c)
{
	const struct cpu_block *b;

	if (unlikely(!may_chain(c))) {
		c->tr_chains = true;
		return NULL;
	}
	b = cpu_block_recent(c);
	return likely(b) ? enter(c, b, c->rip) : NULL;
}

static uint64_t branch_target(const struct vcpu *c, const struct cpu_op *o)
{
	uint64_t rip = c->gpr[GPR_RIP] + o->imm;

	return o->opsize == 2 ? (uint16_t)rip : rip & c->rip_mask;
}

const struct cpu_op *cpu_chain(struct vcpu *c, const struct cpu_op *o, bool taken)
{
	const struct cpu_block *b = taken ? o->taken : o->fall;
	uint64_t flushes, from;
	struct cpu_block *to;
	struct cpu_op *w;

	if (likely(b && may_chain(c) && is_current(b) && b->epoch == c->verify_epoch))
		return enter(c, b, taken ? branch_target(c, o) : cpu_op_next_rip(c, o));
	from = linear_rip(c, cpu_op_next_rip(c, o)) - 1;
	cpu_branch_plain(c, o, taken);
	if (c->stop || !may_chain(c)) {
		c->tr_chains = true;
		return NULL;
	}
	/* Only within the page of this instruction: the mapping in use now holds for both, so the link needs no generation. */
	if ((from ^ linear_rip(c, c->rip)) >> GW_PAGE_SHIFT)
		return cpu_chain_rip(c);
	flushes = c->cache->flushes;
	to = cpu_block_get(c);
	if (!to || flushes != c->cache->flushes)
		return NULL;	/* refused, or @o itself is gone with the arena */
	w = (struct cpu_op *)(uintptr_t)o;	/* blocks are private to their vCPU: ours to write */
	if (taken)
		w->taken = to;
	else
		w->fall = to;
	return enter(c, to, c->rip);
}

void cpu_branch_plain(struct vcpu *c, const struct cpu_op *o, bool taken)
{
	if (taken)
		cpu_jump(c, o, branch_target(c, o));
	else
		c->rip = cpu_op_next_rip(c, o);
}
