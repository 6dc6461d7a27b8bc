/* SPDX-License-Identifier: MIT */
/*
 * Pass 2, and the two passes as one function. The slot check comes first and needs no table entry: it is the guard that every
 * VM has. Then the guards in their order. A substitute by one guard does not silence those after it: any of them may still
 * refuse; of several substitutes the first stands.
 *
 * Nothing here remembers or commits before every access of the instruction is allowed.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "access/access_private.h"
#include "mem/gmem.h"

#define MAX_RETRIES	64	/* before looking whether the vCPU is wanted elsewhere */

static void result_reset(struct acc_result *out)
{
	out->hva = NULL;
	out->silent = 0;
	out->guard = ACC_NO_GUARD;
	out->subst = 0;
	out->data_len = 0;
}

/* ---- kind and side ---------------------------------------------------------------------------------------------------- */

#define FAULT_PRIVATE	BIT64(3)	/* KVM_MEMORY_EXIT_FLAG_PRIVATE */

static enum acc_verdict memory_fault(const struct acc_request *rq, struct acc_result *out, bool asked_private)
{
	out->exit = (struct acc_exit){ .reason = ACC_EXIT_MEMORY_FAULT, .err = -EFAULT,
				       .data = { asked_private ? FAULT_PRIVATE : 0, rq->gpa.v & ~GW_PAGE_MASK, GW_PAGE_SIZE } };
	return ACC_EXIT;
}

/* The guest, or the engine in its place; not the host writing structures it shares with the guest, devices or the client. */
static bool is_guest(const struct acc_request *rq)
{
	return rq->origin == ACC_INSN || rq->origin == ACC_ENGINE;
}

/* In the guest_memfd. Without one, or when it is closed, there is nothing to be had. */
static enum acc_verdict gmem_side(const struct acc_request *rq, const struct mem_slot *s, struct acc_result *out, bool asked_private,
				  uint8_t **hva)
{
	if (!s || !(s->flags & MEM_GMEM) || atomic_load(&s->gmem->is_closed))
		return memory_fault(rq, out, asked_private);
	if (mem_gmem_is_busy(s->gmem, s->gmem_page + (gpa_gfn(rq->gpa).v - s->first.v)))
		return ACC_RETRY;
	*hva = mem_slot_gmem_hva(s, rq->gpa);
	return ACC_ALLOW;
}

static enum acc_verdict client_side(const struct acc_request *rq, const struct mem_slot *s, struct acc_result *out, uint8_t **hva)
{
	if (!s)
		return ACC_DEVICE;
	/* A slot without a mapping is legal; touching it is the client's mistake. */
	if (unlikely(!s->hva))
		return memory_fault(rq, out, false);
	*hva = mem_slot_hva(s, rq->gpa);
	return ACC_ALLOW;
}

/*
 * A private side of its own and a client's side: populating the second while the first holds a page is what F_SEAL_AUTO_ALLOCATE
 * was to prevent. Looking at presence allocates nothing.
 */
static bool is_second_side(const struct mem_slot *s, const struct acc_request *rq, bool private_side)
{
	const uint8_t *in_gmem = (const uint8_t *)((uintptr_t)mem_slot_gmem_hva(s, rq->gpa) & ~(uintptr_t)GW_PAGE_MASK);
	const uint8_t *in_client = (const uint8_t *)((uintptr_t)mem_slot_hva(s, rq->gpa) & ~(uintptr_t)GW_PAGE_MASK);
	uint8_t here, there;

	return mem_is_resident(private_side ? in_gmem : in_client, 1, &here) && !here &&
	       mem_is_resident(private_side ? in_client : in_gmem, 1, &there) && there;
}

enum acc_verdict acc_side(const struct mem_map *map, const struct acc_request *rq, const struct mem_slot *s, struct acc_result *out,
			  uint8_t **hva)
{
	bool is_private = map->kinds && mem_kinds_is_private(map->kinds, gpa_gfn(rq->gpa));
	/* Where the guest has no bit of its own to say which kind it wants, it wants what the page is. Nobody else wants private. */
	bool asked = is_guest(rq) && !map->is_kind_asked ? is_private : rq->private_bit;
	bool in_gmem = is_private || (s && (s->flags & MEM_GMEM_ONLY));
	enum acc_verdict v;

	if (unlikely(asked != is_private))
		return memory_fault(rq, out, asked);
	/* Bytes that no descriptor leads to are for the guest, and for what the host writes where the guest told it to. */
	if (in_gmem && !is_private && (rq->origin == ACC_IOCTL || rq->origin == ACC_DMA) && s->gmem->ops->is_secret)
		in_gmem = false;
	v = in_gmem ? gmem_side(rq, s, out, asked, hva) : client_side(rq, s, out, hva);
	if (unlikely(map->is_strict) && v == ACC_ALLOW && s->flags & MEM_GMEM && !(s->flags & MEM_GMEM_ONLY) && s->hva &&
	    is_second_side(s, rq, in_gmem))
		return memory_fault(rq, out, asked);
	return v;
}

static enum acc_verdict judge_slot(const struct mem_map *map, const struct acc_request *rq, struct acc_result *out)
{
	const struct mem_slot *s = acc_slot(rq, map, gpa_gfn(rq->gpa));
	enum acc_verdict v;

	if (likely(s && s->hva && !map->kinds && !(s->flags & MEM_GMEM))) {
		out->hva = mem_slot_hva(s, rq->gpa);
	} else {
		v = acc_side(map, rq, s, out, &out->hva);
		if (v != ACC_ALLOW)
			return v;
	}
	out->silent = ACC_R | ACC_X;
	if (!(s->flags & MEM_READONLY))
		out->silent |= ACC_W;
	else if (rq->rights & ACC_W)
		return ACC_DEVICE;
	return ACC_ALLOW;
}

uint8_t *acc_guest_hva(struct acc_vm *vm, struct gpa gpa)
{
	struct acc_request rq = { .vm = vm, .origin = ACC_ENGINE, .rights = ACC_R, .len = 1, .by_gpa = true, .gpa = gpa };
	const struct mem_map *map = acc_vm_map(vm);
	struct acc_result out;
	uint8_t *hva;

	/* A guest that asks for a kind gets the one the frame has. */
	rq.private_bit = map->kinds && mem_kinds_is_private(map->kinds, gpa_gfn(gpa));
	return acc_side(map, &rq, mem_slot_of_gfn(map, gpa_gfn(gpa)), &out, &hva) == ACC_ALLOW ? hva : NULL;
}

bool acc_peek(struct acc_vm *vm, struct gpa gpa, void *buf, unsigned len)
{
	struct acc_request rq = { .vm = vm, .origin = ACC_IOCTL, .rights = ACC_R, .len = (uint16_t)len, .by_gpa = true, .gpa = gpa };
	const struct mem_map *map;
	struct acc_result out;
	uint8_t *hva;
	bool ok;

	acc_host_begin(vm);
	map = acc_vm_map(vm);
	ok = acc_side(map, &rq, mem_slot_of_gfn(map, gpa_gfn(gpa)), &out, &hva) == ACC_ALLOW;
	if (ok)
		memcpy(buf, hva, len);
	acc_host_end(vm);
	return ok;
}

static bool is_denial(enum acc_verdict v, const struct acc_request *rq, const struct acc_result *out)
{
	if (v == ACC_FAULT || v == ACC_EXIT)
		return true;
	return v == ACC_SUBST && (out->subst == SUBST_ONES || (out->subst == SUBST_DISCARD && (rq->rights & ACC_W)));
}

static void tell_denied(const struct acc_guards *g, const struct acc_request *rq, const struct acc_result *by)
{
	for (unsigned i = by->guard + 1u; i < g->n; i++)
		if (g->guard[i].ops->denied)
			g->guard[i].ops->denied(g->guard[i].state, rq, by);
}

static enum acc_verdict ask_guards(const struct acc_guards *g, const struct acc_request *rq, struct acc_result *out)
{
	enum acc_verdict first = ACC_ALLOW;
	struct acc_result later;

	for (unsigned i = 0; i < g->n; i++) {
		struct acc_result *r = first == ACC_ALLOW ? out : &later;
		enum acc_verdict v;

		if (rq->stage == ACC_WALK && !atomic_load_explicit(&g->guard[i].judges_walks, memory_order_relaxed))
			continue;
		if (r == &later) {
			result_reset(&later);
			later.hva = out->hva;
		}
		v = g->guard[i].ops->check(g->guard[i].state, rq, r);
		if (v == ACC_ALLOW)
			continue;
		r->guard = (uint8_t)i;
		if (is_denial(v, rq, r))
			tell_denied(g, rq, r);
		if (v != ACC_SUBST) {
			if (r == &later)
				*out = later;
			return v;
		}
		first = ACC_SUBST;
		out->silent = 0;
	}
	return first;
}

enum acc_verdict acc_judge(const struct mem_map *map, const struct acc_request *rq, struct acc_result *out)
{
	const struct acc_guards *g = acc_rq_vm(rq)->guards;
	enum acc_verdict v;

	result_reset(out);
	v = judge_slot(map, rq, out);
	if (v == ACC_ALLOW && g->n)
		v = ask_guards(g, rq, out);
	return v;
}

/* ---- both passes ----------------------------------------------------------------------------------------------------- */

void acc_vm_set_dirtied(struct acc_vm *vm, acc_dirtied_fn *fn, void *opaque)
{
	vm->dirtied_opaque = opaque;
	vm->dirtied = fn;
}

void acc_mark_dirty(struct acc_vm *vm, struct acc_cpu *cpu, const struct mem_slot *s, struct gfn gfn)
{
	uint64_t page = gfn.v - s->first.v;

	if (mem_dirty_mark(s->dirty, page) && vm->dirtied)
		vm->dirtied(vm->dirtied_opaque, cpu, s->id, page);
}

/* The log learns of a write before it happens; whoever clears the log waits for the store (mem.h). */
static void log_dirty(const struct mem_map *map, const struct acc_request *rq, struct acc_result *out, enum acc_verdict v)
{
	const struct mem_slot *s;

	if (v != ACC_ALLOW && !(v == ACC_SUBST && (out->subst == SUBST_DATA || out->subst == SUBST_VET)))
		return;
	s = acc_slot(rq, map, gpa_gfn(rq->gpa));
	if (likely(!s || !s->dirty))
		return;
	if (rq->rights & ACC_W)
		acc_mark_dirty(acc_rq_vm(rq), rq->cpu, s, gpa_gfn(rq->gpa));
}

static enum acc_verdict pass1(const struct mem_map *map, struct acc_request *rq, struct acc_result *out, struct acc_walk *w)
{
	w->known = false;
	w->leaf.hva = NULL;
	if (rq->by_gpa)
		return ACC_ALLOW;
	if (acc_tlb_lookup(rq, out)) {
		w->known = true;
		return ACC_ALLOW;
	}
	return acc_walk(map, rq, w, out, 0);
}

static enum acc_verdict pass2(const struct mem_map *map, const struct acc_request *rq, struct acc_result *out, struct acc_walk *w)
{
	enum acc_verdict v;

	if (w->known)
		return ACC_ALLOW;
	v = acc_judge(map, rq, out);
	if (w->leaf.hva && (v == ACC_ALLOW || v == ACC_DEVICE || v == ACC_SUBST) &&
	    atomic_load_explicit(&acc_rq_vm(rq)->guards->any_walk, memory_order_relaxed)) {
		struct acc_result table;
		enum acc_verdict d = acc_walk_judge_dirty(map, rq, w, &table);

		if (d != ACC_ALLOW && d != ACC_SUBST) {
			*out = table;
			return d;
		}
		if (d == ACC_SUBST)
			w->leaf.hva = NULL;	/* the guard drops the D write; the store goes on */
	}
	return v;
}

static enum acc_verdict try_all(const struct mem_map *map, struct acc_request *rq, struct acc_result *out, enum acc_verdict *verdict,
				unsigned n, unsigned *which)
{
	struct acc_walk w[ACC_MAX_ALL];

	for (unsigned i = 0; i < n; i++) {
		enum acc_verdict v = pass1(map, &rq[i], &out[i], &w[i]);

		*which = i;
		if (v != ACC_ALLOW)
			return v;
	}
	for (unsigned i = 0; i < n; i++) {
		verdict[i] = pass2(map, &rq[i], &out[i], &w[i]);
		*which = i;
		if (verdict[i] != ACC_ALLOW && verdict[i] != ACC_DEVICE && verdict[i] != ACC_SUBST)
			return verdict[i];
	}
	for (unsigned i = 0; i < n; i++) {
		*which = i;
		if (!w[i].leaf.hva)
			continue;
		if (!acc_walk_set_dirty(&rq[i], &w[i]))
			return ACC_RETRY;
		w[i].dirty = true;
	}
	for (unsigned i = 0; i < n; i++) {
		if (w[i].known)
			continue;
		log_dirty(map, &rq[i], &out[i], verdict[i]);
		if (rq[i].by_gpa || verdict[i] != ACC_ALLOW)
			out[i].silent = 0;
		else
			acc_tlb_remember(&rq[i], &w[i], &out[i]);
	}
	return ACC_ALLOW;
}

/* ACC_WAIT: block outside, in the guard's own wait. True: ask again. */
static bool wait_for_guard(const struct acc_request *rq, const struct acc_result *out)
{
	struct acc_cpu *cpu = rq->cpu;
	const struct acc_guards *g = acc_rq_vm(rq)->guards;
	const struct acc_guard *guard = out->guard < g->n ? &g->guard[out->guard] : NULL;
	bool again;

	/* Not inside: the caller is in a host section, where nobody may block. It gets ACC_WAIT. */
	if (!cpu || !cpu->in_guest || !guard || !guard->ops->wait)
		return false;
	acc_leave(cpu);
	again = guard->ops->wait(guard->state, cpu, rq);
	acc_enter(cpu);
	return again && !(atomic_load(&cpu->attention) & ACC_ATT_EXIT);
}

static bool give_up_retrying(struct acc_cpu *cpu, unsigned tries)
{
	if (tries < MAX_RETRIES)
		return false;
	if (!cpu)
		return true;
	if (cpu->in_guest)
		acc_safe_point(cpu);
	return (atomic_load(&cpu->attention) & ACC_ATT_EXIT) || tries >= 16 * MAX_RETRIES;
}

static const struct mem_map *map_of(const struct acc_request *rq)
{
	return rq->cpu ? acc_cpu_map(rq->cpu) : acc_vm_map(rq->vm);
}

enum acc_verdict acc_check_all(struct acc_request *rq, struct acc_result *out, enum acc_verdict *verdict, unsigned n, unsigned *which)
{
	unsigned ignored;

	if (!which)
		which = &ignored;
	assert(n <= ACC_MAX_ALL);
	if (n > ACC_MAX_ALL) {
		*which = 0;
		out[0].guard = ACC_NO_GUARD;
		out[0].exit = (struct acc_exit){ .reason = ACC_EXIT_INTERNAL_ERROR, .err = -EIO };
		return ACC_EXIT;
	}
	for (unsigned tries = 0;; tries++) {
		enum acc_verdict v = try_all(map_of(rq), rq, out, verdict, n, which);

		if (v == ACC_WAIT && !wait_for_guard(&rq[*which], &out[*which]))
			return ACC_WAIT;
		if (v == ACC_RETRY && give_up_retrying(rq->cpu, tries))
			return ACC_WAIT;
		if (v != ACC_WAIT && v != ACC_RETRY)
			return v;
	}
}

void acc_vet(struct acc_cpu *cpu, unsigned guard, struct gpa gpa, const uint8_t *bytes, unsigned len)
{
	const struct acc_guards *g = cpu->vm->guards;

	if (guard < g->n && g->guard[guard].ops->vet)
		g->guard[guard].ops->vet(g->guard[guard].state, cpu, gpa, bytes, len);
}

enum acc_verdict acc_check(struct acc_request *rq, struct acc_result *out)
{
	enum acc_verdict verdict, v;

	if (likely(!rq->by_gpa) && acc_tlb_lookup(rq, out))
		return ACC_ALLOW;
	v = acc_check_all(rq, out, &verdict, 1, NULL);
	return v == ACC_ALLOW ? verdict : v;
}
