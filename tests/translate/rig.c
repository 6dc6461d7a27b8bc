/* SPDX-License-Identifier: MIT */
/* See rig.h. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../diff/bare.h"
#include "cpu/block.h"
#include "cpu/host/fpu.h"
#include "cpu/host/signal.h"
#include "cpu/op.h"
#include "cpu/sys/sys.h"
#include "cpu/translate/translate.h"
#include "rig.h"

#define RAM_SIZE	0x100000u
#define GPA_PT_CODE	0x4000u
#define GPA_PT_DATA	0x5000u
#define GPA_PT_BELOW	0x6000u
#define GPA_CODE	0x10000u
/* Page -1 to 3 from DIFF_DATA on; neighbours in linear memory, not in physical. */
static const uint32_t gpa_data[5] = { 0x50000, 0x20000, 0x40000, 0x30000, 0x60000 };
#define GPA_OWN		0x70000u

struct rig {
	struct bare b;
	uint64_t polls;
};

static uint64_t data_page(unsigned i)
{
	return DIFF_DATA + 4096ull * i - 4096;
}

static uint32_t data_table(uint64_t la)
{
	return la < DIFF_DATA ? GPA_PT_BELOW : GPA_PT_DATA;
}

static void map_data(struct rig *g)
{
	for (unsigned i = 0; i < 5; i++) {
		uint64_t v = i == 0 || i == 4 ? 0 : i == 3 ? gpa_data[i] | (BARE_USER & ~PTE_W & ~PTE_D) : gpa_data[i] | BARE_USER;

		bare_pte(&g->b, data_table(data_page(i)), data_page(i), 0, v ? v | PTE_NX : 0);
	}
}

static void map_pages(struct rig *g)
{
	bare_table(&g->b, GPA_PT_CODE, DIFF_CODE);
	bare_table(&g->b, GPA_PT_DATA, DIFF_DATA);
	bare_table(&g->b, GPA_PT_BELOW, DIFF_DATA - 1);
	bare_pte(&g->b, GPA_PT_CODE, DIFF_CODE, 0, GPA_CODE | PTE_P | PTE_U | PTE_A);
	bare_pte(&g->b, GPA_PT_DATA, RIG_OWN, 0, GPA_OWN | BARE_USER | PTE_NX);
	map_data(g);
}

struct rig *rig_new(const char *engine)
{
	struct rig *g = aligned_alloc(4096, (sizeof(*g) + 4095) & ~4095ul);

	if (!g)
		return NULL;
	memset(g, 0, sizeof(*g));
	setenv("GUESTWARD_ENGINE", engine, 1);
	if (bare_init(&g->b, RAM_SIZE)) {
		free(g);
		return NULL;
	}
	map_pages(g);
	return g;
}

void rig_free(struct rig *g)
{
	if (!g)
		return;
	bare_fini(&g->b);
	free(g);
}

const bool *rig_features(const struct rig *g)
{
	return g->b.c.features;
}

struct vcpu *rig_vcpu(struct rig *g)
{
	return &g->b.c;
}

/* ---- running ---------------------------------------------------------------------------------------------------------------------- */

static void load(struct rig *g, const struct rig_program *p)
{
	struct vcpu *c = &g->b.c;

	map_data(g);
	for (unsigned i = 0; i < 5; i++)
		memcpy(g->b.ram + gpa_data[i], diff_pattern() + 4096 * (i % 3), 4096);
	memset(g->b.ram + GPA_OWN, 0, 4096);
	memset(g->b.ram + GPA_CODE, 0xf4, 4096);
	memcpy(g->b.ram + GPA_CODE, p->code, p->len);
	cpu_memory_touched(c);
	acc_flush_all(&c->acc);
	memcpy(c->gpr, p->gpr, sizeof(p->gpr));
	c->gpr[GPR_ZERO] = 0;
	c->rip = DIFF_CODE;
	cpu_set_eflags(c, p->flags);
	memset(&c->ev, 0, sizeof(c->ev));
	c->shadow = 0;
	c->acc.cr2 = 0;
	c->alone_wanted = false;
	if (cpu_xsave_set(c, p->x, sizeof(p->x)))
		abort();
}

static void block(struct vcpu *c)
{
	struct cpu_block *b = cpu_block_get(c);

	if (!b)
		return;
	c->gpr[GPR_RIP] = c->rip;
	c->stats.insns += b->n;
	b->op[0].fn(c, b->op);
}

/* What the dispatcher does, without delivery of events. False: a host fault. */
static bool slice(struct rig *g, uint64_t insns)
{
	struct cpu_signal_guard guard;
	volatile bool ok = true;
	struct vcpu *c = &g->b.c;

	acc_enter(&c->acc);
	cpu_fpu_enter(c);
	tr_enter(c);
	c->exit = CPU_RUNNING;
	c->poll_at = c->stats.insns + (insns == RIG_EACH ? 1 : insns);
	if (sigsetjmp(guard.recover, 0) == 0) {
		cpu_signal_guard_enter(&guard, c);
		while (c->stats.insns < c->poll_at && !c->ev.exception.pending && c->exit == CPU_RUNNING) {
			c->stop = false;
			if (c->alone_wanted || insns == RIG_EACH) {
				bare_step_alone(c);
				c->stats.insns++;
			} else {
				block(c);
			}
		}
	} else {
		ok = false;
	}
	cpu_signal_guard_leave(&guard);
	tr_leave(c);
	cpu_fpu_leave(c);
	acc_leave(&c->acc);
	return ok && c->exit == CPU_RUNNING;
}

static uint64_t add(uint64_t sum, const void *p, size_t n)
{
	const uint64_t *w = p;

	for (size_t i = 0; i < n / 8; i++) {
		sum = (sum ^ w[i]) * 0x9e3779b97f4a7c15ull;
		sum ^= sum >> 29;
	}
	return sum;
}

/* All flags belong to it, also those that the code goes on to overwrite. */
static uint64_t state_sum(struct rig *g)
{
	_Alignas(64) uint8_t x[DIFF_X_SIZE];

	cpu_xsave_get(&g->b.c, x, sizeof(x));
	return add(add(cpu_eflags(&g->b.c), g->b.c.gpr, 16 * 8), x, sizeof(x));
}

static void note_exit(struct rig *g, struct rig_result *r)
{
	if (r->n_exits == RIG_EXITS)
		return;
	r->exit[r->n_exits].rip = g->b.c.rip;
	r->exit[r->n_exits].sum = state_sum(g);
	r->n_exits++;
}

/* A page fault that the rig's mapping answers: as a kernel that pages in and copies on write. */
static bool fixed_fault(struct rig *g, struct rig_result *r)
{
	struct vcpu *c = &g->b.c;
	uint64_t cr2 = c->ev.exception.payload;
	unsigned i;

	if (c->ev.exception.vector != VEC_PF || r->n_faults == RIG_FAULTS || cr2 < data_page(0) || cr2 >= data_page(5))
		return false;
	i = (unsigned)((cr2 - data_page(0)) >> 12);
	r->fault[r->n_faults].rip = c->rip;
	r->fault[r->n_faults].cr2 = cr2;
	r->fault[r->n_faults].error = c->ev.exception.error;
	r->fault[r->n_faults].sum = state_sum(g);
	r->n_faults++;
	bare_pte(&g->b, data_table(cr2), cr2, 0, gpa_data[i] | BARE_USER | PTE_NX);
	acc_flush_page(&c->acc, GVA(cr2));
	memset(&c->ev, 0, sizeof(c->ev));
	return true;
}

void rig_run(struct rig *g, const struct rig_program *p, struct rig_result *r)
{
	struct vcpu *c = &g->b.c;
	uint64_t end = c->stats.insns + 60000;

	memset(r, 0, sizeof(*r));
	load(g, p);
	for (;;) {
		r->done = slice(g, p->slice);
		if (!r->done || c->stats.insns > end)
			break;
		if (!c->ev.exception.pending)
			note_exit(g, r);
		else if (!fixed_fault(g, r))
			break;
	}
	r->done = r->done && c->ev.exception.pending;
	memcpy(r->gpr, c->gpr, sizeof(r->gpr));
	r->rip = c->rip;
	r->flags = cpu_eflags(c);
	r->vector = c->ev.exception.vector;
	r->error = c->ev.exception.has_error ? c->ev.exception.error : 0;
	r->cr2 = c->ev.exception.has_payload ? c->ev.exception.payload : 0;
	cpu_xsave_get(c, r->x, sizeof(r->x));
	for (unsigned i = 0; i < 5; i++)
		memcpy(r->mem + 4096 * i, g->b.ram + gpa_data[i], 4096);
	memcpy(r->mem + 4096 * 5, g->b.ram + GPA_OWN, 4096);
}

/* ---- comparing -------------------------------------------------------------------------------------------------------------------- */

static char why[160];

static const char *differs_at(const char *what, const uint8_t *a, const uint8_t *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (a[i] != b[i]) {
			snprintf(why, sizeof(why), "%s at %zx: %02x, translated %02x", what, i, a[i], b[i]);
			return why;
		}
	return NULL;
}

const char *rig_compare_exits(const struct rig_result *a, const struct rig_result *b, unsigned *found)
{
	unsigned at = 0;

	for (unsigned j = 0; j < b->n_exits; j++) {
		bool been = false;
		unsigned i = at;

		for (; i < a->n_exits; i++) {
			if (a->exit[i].rip != b->exit[j].rip)
				continue;
			been = true;
			if (a->exit[i].sum == b->exit[j].sum)
				break;
		}
		if (i < a->n_exits) {
			at = i;
			++*found;
		} else if (been && a->n_exits < RIG_EXITS) {
			snprintf(why, sizeof(why), "exit %u at %llx: the interpreter was never there with these registers", j,
				 (unsigned long long)b->exit[j].rip);
			return why;
		}
	}
	return NULL;
}

const char *rig_compare(const struct rig_program *p, const struct rig_result *a, const struct rig_result *b)
{
	unsigned n = a->n_faults < b->n_faults ? a->n_faults : b->n_faults;
	const char *s;

	/* A program whose counter was overwritten may run for ever, and is stopped somewhere. */
	if (!a->done)
		return NULL;

	for (unsigned i = 0; i < n; i++)
		if (a->fault[i].rip != b->fault[i].rip || a->fault[i].cr2 != b->fault[i].cr2 || a->fault[i].error != b->fault[i].error ||
		    a->fault[i].sum != b->fault[i].sum) {
			snprintf(why, sizeof(why), "page fault %u: rip %llx cr2 %llx error %x, translated %llx %llx %x or other state", i,
				 (unsigned long long)a->fault[i].rip, (unsigned long long)a->fault[i].cr2, a->fault[i].error,
				 (unsigned long long)b->fault[i].rip, (unsigned long long)b->fault[i].cr2, b->fault[i].error);
			return why;
		}
	if (a->done != b->done || a->rip != b->rip || a->vector != b->vector || a->error != b->error || a->cr2 != b->cr2 ||
	    a->n_faults != b->n_faults) {
		snprintf(why, sizeof(why), "end: done %d rip %llx vector %u error %x faults %u, translated %d %llx %u %x %u", a->done,
			 (unsigned long long)a->rip, a->vector, a->error, a->n_faults, b->done, (unsigned long long)b->rip, b->vector, b->error,
			 b->n_faults);
		return why;
	}
	for (unsigned i = 0; i < 16; i++)
		if (a->gpr[i] != b->gpr[i]) {
			snprintf(why, sizeof(why), "register %u: %llx, translated %llx", i, (unsigned long long)a->gpr[i], (unsigned long long)b->gpr[i]);
			return why;
		}
	if (a->flags != b->flags) {
		snprintf(why, sizeof(why), "flags %x, translated %x", a->flags, b->flags);
		return why;
	}
	s = differs_at("memory", a->mem, b->mem, sizeof(a->mem));
	return s ? s : differs_at("extended state", a->x, b->x, sizeof(a->x));
}
