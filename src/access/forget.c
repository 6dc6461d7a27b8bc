/* SPDX-License-Identifier: MIT */
/*
 * Forgetting before the call returns, and everybody standing still.
 *
 * A vCPU is in one of these states:
 *   outside   between acc_leave() and acc_enter(): uses no TLB, is not waited for
 *   running   may use its TLB and host pointers got through it: must be waited for
 *   parked    inside, but standing in this file waiting for others: uses nothing, is not waited for
 * Every way from outside or parked to running goes through resume(): it waits while somebody else holds the exclusive section,
 * and fulfils all wishes posted meanwhile. So a wish is fulfilled for a vCPU as soon as it is posted and the vCPU is not
 * running, and a narrower, being parked while it waits, answers others who narrow at the same time: nobody waits in a circle.
 *
 * Changes are under vm->lock, but for the vCPU that goes in and out while nobody wants anything: it says what it is now and then
 * looks whether somebody waits or has posted a wish, and they post and say that they wait and then look what it is (all of these
 * sequentially consistent): one of the two sees the other, and a vCPU that sees something goes the long way. That is two exchanges
 * instead of four on a lock that all vCPUs share.
 *
 * Bounded: a running vCPU reaches a safe point after at most one block (or one page of a string instruction).
 * Nothing that can block is taken under vm->lock but what docs/locking.md lists below it.
 */
#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "access/access_private.h"
#include "mem/gmem_seal.h"

/* The mutant is for tests/shape, which must notice. */
#ifdef ACC_MUTANT_NO_WAIT
#define MUST_WAIT	0
#else
#define MUST_WAIT	1
#endif

/* The vCPU this thread is running, and its open acc_host_begin() sections. */
static _Thread_local struct acc_cpu *inside;
static _Thread_local unsigned host_depth;

static const struct acc_guards no_guards;

/* ---- under vm->lock ------------------------------------------------------------------------------------------------------ */

static void tell(struct acc_vm *vm)
{
	if (atomic_load(&vm->n_waiting))
		pthread_cond_broadcast(&vm->changed);
}

/* Around the looking, too: a vCPU that stops running between the look and the sleep must find us. */
static void wait_begins(struct acc_vm *vm) { atomic_fetch_add(&vm->n_waiting, 1); }
static void wait_changed(struct acc_vm *vm) { pthread_cond_wait(&vm->changed, &vm->lock); }
static void wait_ends(struct acc_vm *vm) { atomic_fetch_sub(&vm->n_waiting, 1); }

static void apply(struct acc_cpu *cpu)
{
	struct acc_pending *w = &cpu->priv->pending;

	if (!atomic_load(&w->any))
		return;
	if (w->all) {
		acc_flush_all(cpu);
	} else {
		for (unsigned i = 0; i < w->n_range; i++)
			acc_tlb_drop_frames(cpu, w->range[i].first, w->range[i].last, w->range[i].rights);
		for (unsigned i = 0; i < w->n_code && !w->all_w; i++)
			acc_tlb_drop_writable(cpu, w->code[i]);
		if (w->all_w)
			acc_tlb_drop_writable(cpu, 0);
	}
	w->all = w->all_w = false;
	atomic_store(&w->any, false);
	w->n_range = w->n_code = 0;
}

static void park(struct acc_cpu *cpu)
{
	atomic_store(&cpu->priv->running, false);
	tell(cpu->vm);
}

static void resume(struct acc_cpu *cpu)
{
	struct acc_vm *vm = cpu->vm;

	if (unlikely(atomic_load(&vm->exclusive) && atomic_load(&vm->exclusive) != cpu)) {
		wait_begins(vm);
		while (atomic_load(&vm->exclusive) && atomic_load(&vm->exclusive) != cpu)
			wait_changed(vm);
		wait_ends(vm);
	}
	/* Bits first: whoever sets one from here on has also posted a wish we have not yet seen. */
	atomic_fetch_and(&cpu->attention, ~(ACC_ATT_FORGET | ACC_ATT_STOP));
	apply(cpu);
	cpu->map = atomic_load_explicit(&vm->map[cpu->space], memory_order_acquire);
	cpu->priv->answered = vm->ticket;
	atomic_store(&cpu->priv->running, true);
	mem_seal_open();
}

/* Nobody wants anything: not under vm->lock. False: the long way. */
static bool resume_at_once(struct acc_cpu *cpu)
{
	struct acc_cpu_private *p = cpu->priv;
	struct acc_vm *vm = cpu->vm;

	atomic_store(&p->running, true);
	/* The map after the wishes: who changes it posts one and waits for whoever runs. */
	if (likely(!atomic_load(&p->pending.any) && !atomic_load(&vm->exclusive) &&
		   !(atomic_load(&cpu->attention) & (ACC_ATT_FORGET | ACC_ATT_STOP)))) {
		cpu->map = atomic_load_explicit(&vm->map[cpu->space], memory_order_acquire);
		mem_seal_open();
		return true;
	}
	return false;
}

static void post_range(struct acc_pending *w, uint64_t first, uint64_t last, unsigned rights)
{
	for (unsigned i = 0; i < w->n_range; i++)
		if (w->range[i].first == first && w->range[i].last == last) {
			w->range[i].rights |= (uint8_t)rights;
			return;
		}
	if (w->n_range == PENDING_MAX) {
		w->all = true;
		return;
	}
	w->range[w->n_range].first = first;
	w->range[w->n_range].last = last;
	w->range[w->n_range++].rights = (uint8_t)rights;
}

static void post_code(struct acc_pending *w, uintptr_t hva_page)
{
	for (unsigned i = 0; i < w->n_code; i++)
		if (w->code[i] == hva_page)
			return;
	if (w->n_code == PENDING_MAX)
		w->all_w = true;
	else
		w->code[w->n_code++] = hva_page;
}

struct wish {
	bool all;
	uint64_t first, last;
	unsigned rights;
	uintptr_t code;		/* 0: frames are meant */
	uint64_t writers;	/* with code: only vCPUs with one of these bits */
};

static void post(struct acc_cpu_private *p, const struct wish *wish)
{
	atomic_store(&p->pending.any, true);
	if (wish->all)
		p->pending.all = true;
	else if (wish->code)
		post_code(&p->pending, wish->code);
	else
		post_range(&p->pending, wish->first, wish->last, wish->rights);
}

static bool anyone_runs(const struct acc_vm *vm, const struct acc_cpu *but, uint64_t unanswered, uint64_t writers)
{
	for (const struct acc_cpu_private *p = vm->cpus; p; p = p->next)
		if (p->cpu != but && atomic_load(&p->running) && p->answered < unanswered && (p->writer_bit & writers))
			return true;
	return false;
}

/* Post @wish to all, and wait until no running vCPU has yet to fulfil it. */
static void forget_locked(struct acc_vm *vm, struct acc_cpu *self, const struct wish *wish)
{
	uint64_t ticket = ++vm->ticket;
	bool was_running = self && atomic_load(&self->priv->running);

	for (struct acc_cpu_private *p = vm->cpus; p; p = p->next) {
		if (!(p->writer_bit & wish->writers))
			continue;
		post(p, wish);
		if (atomic_load(&p->running) && p->cpu != self)
			acc_attend(p->cpu, ACC_ATT_FORGET);
	}
	if (was_running)
		park(self);
	wait_begins(vm);
	while (MUST_WAIT && anyone_runs(vm, self, ticket, wish->writers))
		wait_changed(vm);
	wait_ends(vm);
	if (was_running)
		resume(self);
}

/* ---- the protocol's doors -------------------------------------------------------------------------------------------------- */

void acc_attend(struct acc_cpu *cpu, uint32_t bits)
{
	atomic_fetch_or(&cpu->attention, bits);
}

void acc_enter(struct acc_cpu *cpu)
{
	assert(!inside && !host_depth);
	if (!resume_at_once(cpu)) {
		pthread_mutex_lock(&cpu->vm->lock);
		park(cpu);
		resume(cpu);
		pthread_mutex_unlock(&cpu->vm->lock);
	}
	cpu->in_guest = true;
	inside = cpu;
}

void acc_leave(struct acc_cpu *cpu)
{
	struct acc_vm *vm = cpu->vm;

	cpu->in_guest = false;
	atomic_store(&cpu->priv->running, false);
	if (unlikely(atomic_load(&vm->n_waiting))) {
		pthread_mutex_lock(&vm->lock);
		tell(vm);
		pthread_mutex_unlock(&vm->lock);
	}
	inside = NULL;
	mem_seal_close();
}

void acc_safe_point(struct acc_cpu *cpu)
{
	bool others_wait;

	pthread_mutex_lock(&cpu->vm->lock);
	if (cpu->in_guest) {
		park(cpu);
		resume(cpu);
	}
	others_wait = atomic_load(&cpu->vm->n_waiting) != 0;
	pthread_mutex_unlock(&cpu->vm->lock);
	/* Where vCPUs outnumber processors, one that is waited for may not have any: ours, rather than after the rest of our slice. */
	if (others_wait)
		sched_yield();
}

void acc_exclusive_begin(struct acc_cpu *self)
{
	struct acc_vm *vm = self->vm;

	pthread_mutex_lock(&vm->lock);
	park(self);
	wait_begins(vm);
	while (atomic_load(&vm->exclusive))
		wait_changed(vm);
	atomic_store(&vm->exclusive, self);
	for (struct acc_cpu_private *p = vm->cpus; p; p = p->next)
		if (atomic_load(&p->running))
			acc_attend(p->cpu, ACC_ATT_STOP);
	while (anyone_runs(vm, self, ~0ull, ~0ull))
		wait_changed(vm);
	wait_ends(vm);
	if (self->in_guest)
		resume(self);
	pthread_mutex_unlock(&vm->lock);
}

void acc_exclusive_end(struct acc_cpu *self)
{
	struct acc_vm *vm = self->vm;

	pthread_mutex_lock(&vm->lock);
	assert(atomic_load(&vm->exclusive) == self);
	atomic_store(&vm->exclusive, NULL);
	tell(vm);
	pthread_mutex_unlock(&vm->lock);
}

/* ---- host sections --------------------------------------------------------------------------------------------------------- */

void acc_host_begin(struct acc_vm *vm)
{
	if (inside)
		return;
	if (host_depth++ == 0) {
		pthread_rwlock_rdlock(&vm->host);
		mem_seal_open();
	}
}

void acc_host_end(struct acc_vm *vm)
{
	if (inside)
		return;
	if (--host_depth == 0) {
		mem_seal_close();
		pthread_rwlock_unlock(&vm->host);
	}
}

/* Sections that began before this call have ended when it returns. */
static void host_barrier(struct acc_vm *vm)
{
	assert(!host_depth);
	pthread_rwlock_wrlock(&vm->host);
	pthread_rwlock_unlock(&vm->host);
}

/* ---- forgetting ------------------------------------------------------------------------------------------------------------ */

/* The calling thread's own vCPU, even when the caller did not say. */
static struct acc_cpu *own_cpu(const struct acc_vm *vm, struct acc_cpu *self)
{
	if (!self && inside && inside->vm == vm)
		return inside;
	return self;
}

void acc_forget(struct acc_vm *vm, struct acc_cpu *self, struct gfn first, uint64_t n, uint8_t rights)
{
	struct wish wish = { .all = n == 0, .first = first.v, .last = first.v + n - 1, .rights = rights, .writers = ~0ull };

	pthread_mutex_lock(&vm->lock);
	forget_locked(vm, own_cpu(vm, self), &wish);
	pthread_mutex_unlock(&vm->lock);
	host_barrier(vm);
}

void acc_forget_writers(struct acc_vm *vm, struct acc_cpu *self, const uint8_t *hva, uint64_t writers)
{
	struct wish wish = { .code = (uintptr_t)hva & ~(uintptr_t)GW_PAGE_MASK, .writers = writers };

	pthread_mutex_lock(&vm->lock);
	forget_locked(vm, own_cpu(vm, self), &wish);
	pthread_mutex_unlock(&vm->lock);
}

/* ---- the map --------------------------------------------------------------------------------------------------------------- */

/* Maps are sorted: @at goes along in the new one as the caller goes along in the old one. */
static bool stays(const struct mem_map *map, unsigned *at, const struct mem_slot *s)
{
	const struct mem_slot *now;

	while (*at < map->n && map->slot[*at].first.v < s->first.v)
		++*at;
	now = &map->slot[*at];
	return *at < map->n && now->first.v == s->first.v && now->n_pages == s->n_pages && now->hva == s->hva && now->gmem_hva == s->gmem_hva;
}

void acc_code_drop(struct acc_vm *vm, const uint8_t *hva, uint64_t len)
{
	pthread_mutex_lock(&vm->code_lock);
	mem_code_drop(vm->code, hva, len);
	pthread_mutex_unlock(&vm->code_lock);
}

/* Guards know frames of the first space. */
static void frames_left(struct acc_vm *vm, unsigned space, const struct mem_slot *s)
{
	for (unsigned i = 0; !space && i < vm->guards->n; i++)
		if (vm->guards->guard[i].ops->forget)
			vm->guards->guard[i].ops->forget(vm->guards->guard[i].state, s->first, s->n_pages);
	/* The client may use the memory for something else before it gives it back to us. */
	if (s->hva)
		acc_code_drop(vm, s->hva, s->n_pages << GW_PAGE_SHIFT);
	if (s->gmem_hva)
		acc_code_drop(vm, s->gmem_hva, s->n_pages << GW_PAGE_SHIFT);
}

const struct mem_map *acc_vm_map(struct acc_vm *vm)
{
	return acc_vm_space_map(vm, 0);
}

const struct mem_map *acc_vm_space_map(struct acc_vm *vm, unsigned space)
{
	return atomic_load_explicit(&vm->map[space], memory_order_acquire);
}

void acc_vm_set_map(struct acc_vm *vm, struct mem_map *map)
{
	acc_vm_set_space_map(vm, 0, map);
}

void acc_set_space(struct acc_cpu *cpu, unsigned space)
{
	if (cpu->space == space)
		return;
	cpu->space = (uint8_t)space;
	/* Running: whoever replaces the map from here on waits for us. Not running: the next entry takes what is there then. */
	if (cpu->in_guest)
		cpu->map = acc_vm_space_map(cpu->vm, space);
	acc_flush_all(cpu);
}

void acc_vm_set_space_map(struct acc_vm *vm, unsigned space, struct mem_map *map)
{
	struct wish wish = { .all = true, .writers = ~0ull };
	struct mem_map *old;
	unsigned at = 0;

	pthread_mutex_lock(&vm->lock);
	old = atomic_exchange(&vm->map[space], map);
	forget_locked(vm, own_cpu(vm, NULL), &wish);
	pthread_mutex_unlock(&vm->lock);
	host_barrier(vm);
	for (unsigned i = 0; i < old->n; i++)
		if (!stays(map, &at, &old->slot[i]))
			frames_left(vm, space, &old->slot[i]);
	mem_map_free(old);
}

/* ---- birth and death --------------------------------------------------------------------------------------------------------- */

static int init_locks(struct acc_vm *vm)
{
	pthread_rwlockattr_t attr;
	int err;

	err = pthread_mutex_init(&vm->lock, NULL);
	if (err)
		return -err;
	err = pthread_mutex_init(&vm->code_lock, NULL);
	if (err)
		goto destroy_lock;
	err = pthread_cond_init(&vm->changed, NULL);
	if (err)
		goto destroy_code_lock;
	err = pthread_rwlockattr_init(&attr);
	if (err)
		goto destroy_cond;
	/* Or a stream of device writes could hold up a narrower for ever. */
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	err = pthread_rwlock_init(&vm->host, &attr);
	pthread_rwlockattr_destroy(&attr);
	if (!err)
		return 0;
destroy_cond:
	pthread_cond_destroy(&vm->changed);
destroy_code_lock:
	pthread_mutex_destroy(&vm->code_lock);
destroy_lock:
	pthread_mutex_destroy(&vm->lock);
	return -err;
}

int acc_vm_new(const struct acc_guards *guards, struct mem_code_map *code, struct acc_vm **out)
{
	struct acc_vm *vm = calloc(1, sizeof(*vm));
	struct mem_map *map = calloc(1, sizeof(*map)), *second = calloc(1, sizeof(*second));
	int err = -ENOMEM;

	if (!vm || !map || !second)
		goto free_all;
	err = init_locks(vm);
	if (err)
		goto free_all;
	vm->guards = guards ? guards : &no_guards;
	vm->code = code;
	atomic_init(&vm->map[0], map);
	atomic_init(&vm->map[1], second);
	*out = vm;
	return 0;
free_all:
	free(map);
	free(second);
	free(vm);
	return err;
}

void acc_vm_free(struct acc_vm *vm)
{
	if (!vm)
		return;
	assert(!vm->cpus);
	pthread_rwlock_destroy(&vm->host);
	pthread_cond_destroy(&vm->changed);
	pthread_mutex_destroy(&vm->code_lock);
	pthread_mutex_destroy(&vm->lock);
	for (unsigned i = 0; i < ACC_N_SPACES; i++)
		mem_map_free(atomic_load(&vm->map[i]));
	free(vm);
}

int acc_cpu_init(struct acc_cpu *cpu, struct acc_vm *vm)
{
	struct acc_cpu_private *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->cpu = cpu;
	cpu->priv = p;
	cpu->vm = vm;
	cpu->stamp = 1;
	cpu->code_changes = mem_code_changes(vm->code);
	cpu->in_guest = false;
	cpu->n_watch = 0;
	if (!cpu->maxphyaddr)
		cpu->maxphyaddr = 36;	/* KVM's before KVM_SET_CPUID2 */
	acc_tlb_init(cpu);
	pthread_mutex_lock(&vm->lock);
	p->writer_bit = BIT64(atomic_fetch_add(&vm->n_cpus_ever, 1) % 64);
	p->next = vm->cpus;
	vm->cpus = p;
	cpu->map = atomic_load(&vm->map[cpu->space]);
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

void acc_cpu_fini(struct acc_cpu *cpu)
{
	struct acc_cpu_private *p = cpu->priv;
	struct acc_cpu_private **link;

	if (!p)
		return;
	pthread_mutex_lock(&cpu->vm->lock);
	assert(!cpu->in_guest);
	for (link = &cpu->vm->cpus; *link != p; link = &(*link)->next)
		;
	*link = p->next;
	pthread_mutex_unlock(&cpu->vm->lock);
	cpu->priv = NULL;
	free(p);
}
