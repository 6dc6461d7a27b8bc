/* SPDX-License-Identifier: MIT */
/*
 * The real thing behind protocol.h: vCPUs with their TLBs, a guard that grants, slots. Paging is off, so a guest address is a
 * frame; page i of the world is frame i, the moving page is a slot of its own.
 */
#include <stdlib.h>
#include <string.h>

#include "access/access.h"
#include "isa/x86.h"
#include "protocol.h"

#define MOVING_GFN	64u

struct real {
	struct world *world;
	struct acc_guards guards;
	struct acc_vm *vm;
	struct mem_code_map *code;
	struct acc_cpu *cpu[SHAPE_CPUS];
	uint8_t *ram, *place[2];
	_Atomic unsigned place_now;
};

static unsigned page_of(struct gpa gpa)
{
	return gpa_gfn(gpa).v == MOVING_GFN ? SHAPE_MOVING : (unsigned)gpa_gfn(gpa).v;
}

static enum acc_verdict check(void *guard, const struct acc_request *rq, struct acc_result *out)
{
	struct real *r = guard;

	if (atomic_load(&r->world->granted[page_of(rq->gpa)]))
		return ACC_ALLOW;
	out->silent &= (uint8_t)~ACC_W;
	return rq->rights & ACC_W ? ACC_EXIT : ACC_ALLOW;
}

static const struct acc_guard_ops grant_ops = { .name = "grant", .check = check };

static struct mem_map *map_with(struct real *r, unsigned place)
{
	struct mem_slot ram = { .id = 0, .n_pages = SHAPE_PAGES, .hva = r->ram };
	struct mem_slot moving = { .id = 1, .first = GFN(MOVING_GFN), .n_pages = 1, .hva = r->place[place] };
	struct mem_map *one, *both;

	if (mem_map_change(NULL, &ram, &one))
		abort();
	if (mem_map_change(one, &moving, &both))
		abort();
	mem_map_free(one);
	return both;
}

static void *zeroed(size_t align, size_t size)
{
	void *p = aligned_alloc(align, (size + align - 1) / align * align);

	if (!p)
		abort();
	return memset(p, 0, size);
}

static bool create(struct world *w)
{
	struct real *r = zeroed(64, sizeof(*r));

	r->world = w;
	r->guards = (struct acc_guards){ .n = 1, .guard = { { &grant_ops, r, false } } };
	r->ram = zeroed(GW_PAGE_SIZE, SHAPE_PAGES * GW_PAGE_SIZE);
	r->place[0] = zeroed(GW_PAGE_SIZE, GW_PAGE_SIZE);
	r->place[1] = zeroed(GW_PAGE_SIZE, GW_PAGE_SIZE);
	if (mem_code_map_new(&r->code) || acc_vm_new(&r->guards, r->code, &r->vm))
		return false;
	acc_vm_set_map(r->vm, map_with(r, 0));
	for (unsigned i = 0; i < SHAPE_CPUS; i++) {
		r->cpu[i] = zeroed(64, sizeof(*r->cpu[i]));
		r->cpu[i]->cr0 = CR0_PE;
		if (acc_cpu_init(r->cpu[i], r->vm))
			return false;
	}
	w->impl = r;
	return true;
}

static void destroy(struct world *w)
{
	struct real *r = w->impl;

	for (unsigned i = 0; i < SHAPE_CPUS; i++) {
		acc_cpu_fini(r->cpu[i]);
		free(r->cpu[i]);
	}
	acc_vm_free(r->vm);
	mem_code_map_free(r->code);
	free(r->ram);
	free(r->place[0]);
	free(r->place[1]);
	free(r);
}

static struct acc_cpu *cpu_of(struct world *w, unsigned cpu)
{
	return ((struct real *)w->impl)->cpu[cpu];
}

static void enter(struct world *w, unsigned cpu) { acc_enter(cpu_of(w, cpu)); }
static void leave(struct world *w, unsigned cpu) { acc_leave(cpu_of(w, cpu)); }
static void kick(struct world *w, unsigned cpu) { acc_attend(cpu_of(w, cpu), ACC_ATT_EXIT); }

static bool wanted(struct world *w, unsigned cpu)
{
	return atomic_load(&cpu_of(w, cpu)->attention) != 0;
}

static void safe_point(struct world *w, unsigned cpu)
{
	atomic_fetch_and(&cpu_of(w, cpu)->attention, ~ACC_ATT_EXIT);
	acc_safe_point(cpu_of(w, cpu));
}

static uint64_t address_of(unsigned page, unsigned cell)
{
	return (uint64_t)(page == SHAPE_MOVING ? MOVING_GFN : page) * GW_PAGE_SIZE + cell * 64;
}

static bool store(struct world *w, unsigned cpu, unsigned page)
{
	struct acc_cpu *c = cpu_of(w, cpu);
	uint64_t gva = address_of(page, cpu);
	uint8_t *p = acc_probe_w(c, gva, 8);

	if (!p) {
		struct acc_request rq = { .cpu = c, .gva = GVA(gva), .len = 8, .rights = ACC_W };
		struct acc_result out;

		if (acc_check(&rq, &out) != ACC_ALLOW)
			return false;
		p = out.hva;
	}
	*(volatile uint64_t *)(void *)p += 1;
	return true;
}

static bool host_store(struct world *w, unsigned page)
{
	struct real *r = w->impl;
	struct acc_request rq = { .vm = r->vm, .by_gpa = true, .gpa = GPA(address_of(page, SHAPE_HOST)), .len = 8, .rights = ACC_W, .origin = ACC_DMA };
	struct acc_result out;
	bool granted;

	acc_host_begin(r->vm);
	granted = acc_check(&rq, &out) == ACC_ALLOW;
	if (granted) {
		*(volatile uint64_t *)(void *)out.hva += 1;
		acc_store_done(r->vm, out.hva, 8);
	}
	acc_host_end(r->vm);
	return granted;
}

static void forget(struct world *w, int cpu, unsigned page)
{
	struct real *r = w->impl;

	acc_forget(r->vm, cpu < 0 ? NULL : r->cpu[cpu], GFN(page), 1, ACC_W);
}

static volatile uint64_t *move(struct world *w)
{
	struct real *r = w->impl;
	unsigned old = atomic_load(&r->place_now);

	atomic_store(&r->place_now, !old);
	acc_vm_set_map(r->vm, map_with(r, !old));
	return (volatile uint64_t *)(void *)r->place[old];
}

static void exclusive_begin(struct world *w, unsigned cpu) { acc_exclusive_begin(cpu_of(w, cpu)); }
static void exclusive_end(struct world *w, unsigned cpu) { acc_exclusive_end(cpu_of(w, cpu)); }

static volatile uint64_t *cells(struct world *w, unsigned page)
{
	struct real *r = w->impl;

	if (page == SHAPE_MOVING)
		return (volatile uint64_t *)(void *)r->place[atomic_load(&r->place_now)];
	return (volatile uint64_t *)(void *)(r->ram + page * GW_PAGE_SIZE);
}

const struct protocol shape_real = {
	.name = "access/", .create = create, .destroy = destroy, .enter = enter, .leave = leave, .wanted = wanted,
	.safe_point = safe_point, .kick = kick, .store = store, .host_store = host_store, .forget = forget, .move = move,
	.exclusive_begin = exclusive_begin, .exclusive_end = exclusive_end, .cells = cells,
};
