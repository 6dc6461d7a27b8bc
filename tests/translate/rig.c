/* SPDX-License-Identifier: MIT */
/* See rig.h. */
#include <cpuid.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/block.h"
#include "cpu/host/fpu.h"
#include "cpu/host/signal.h"
#include "cpu/op.h"
#include "cpu/sys/sys.h"
#include "cpu/translate/translate.h"
#include "rig.h"

#define RAM_SIZE	0x100000u
#define GPA_PML4	0x1000u
#define GPA_PDPT	0x2000u
#define GPA_PD		0x3000u
#define GPA_PT_CODE	0x4000u
#define GPA_PT_DATA	0x5000u
#define GPA_PT_BELOW	0x6000u
#define GPA_CODE	0x10000u
/* Page -1 to 3 from DIFF_DATA on; neighbours in linear memory, not in physical. */
static const uint32_t gpa_data[5] = { 0x50000, 0x20000, 0x40000, 0x30000, 0x60000 };
#define GPA_OWN		0x70000u

struct rig {
	struct vcpu c;
	uint8_t *ram;
	struct mem_code_map *code;
	struct acc_vm *vm;
	uint64_t polls;
};

/* ---- a machine with nothing in it -------------------------------------------------------------------------------------------- */

static bool no_read(struct vcpu *v, struct gpa gpa, unsigned len, uint8_t *data)
{
	memset(data, 0xff, len);
	return true;
}

static bool no_write(struct vcpu *v, struct gpa gpa, unsigned len, const uint8_t *data) { return true; }
static bool no_in(struct vcpu *v, uint16_t port, unsigned len, uint8_t *data) { return true; }
static bool no_out(struct vcpu *v, uint16_t port, unsigned len, const uint8_t *data) { return true; }
static int no_rdmsr(struct vcpu *v, uint32_t index, uint64_t *value) { return 1; }
static int no_wrmsr(struct vcpu *v, uint32_t index, uint64_t value) { return 1; }
static uint64_t no_tsc(struct vcpu *v) { return 0; }
static void no_set_tsc(struct vcpu *v, uint64_t value) { }
static uint8_t no_get_cr8(struct vcpu *v) { return 0; }
static void no_set_cr8(struct vcpu *v, uint8_t value) { }
static bool no_intr(struct vcpu *v) { return false; }
static int no_ack(struct vcpu *v) { return -1; }
static bool no_hypercall(struct vcpu *v) { return true; }
static bool no_poll(struct vcpu *v) { return false; }
static enum cpu_exit no_latched(struct vcpu *v) { return CPU_RUNNING; }
static void no_cpuid(struct vcpu *v, uint32_t function, uint32_t index, uint32_t r[4]) { }
static bool no_debug(struct vcpu *v, unsigned vector) { return false; }

static const struct cpu_env env = {
	.mmio_read = no_read, .mmio_write = no_write, .pio_read = no_in, .pio_write = no_out, .rdmsr = no_rdmsr, .wrmsr = no_wrmsr,
	.tsc = no_tsc, .set_tsc = no_set_tsc, .get_cr8 = no_get_cr8, .set_cr8 = no_set_cr8, .intr_pending = no_intr, .intr_ack = no_ack,
	.hypercall = no_hypercall, .poll = no_poll, .latched = no_latched, .cpuid_read = no_cpuid, .debug = no_debug,
};

static void pte(struct rig *g, uint32_t table, uint64_t la, unsigned level, uint64_t value)
{
	memcpy(g->ram + table + 8 * (la >> (12 + 9 * level) & 511), &value, 8);
}

#define USER_PTE (PTE_P | PTE_W | PTE_U | PTE_A | PTE_D)

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
		uint64_t v = i == 0 || i == 4 ? 0 : i == 3 ? gpa_data[i] | (USER_PTE & ~PTE_W & ~PTE_D) : gpa_data[i] | USER_PTE;

		pte(g, data_table(data_page(i)), data_page(i), 0, v ? v | PTE_NX : 0);
	}
}

static void map_pages(struct rig *g)
{
	pte(g, GPA_PML4, 0, 3, GPA_PDPT | USER_PTE);
	pte(g, GPA_PDPT, 0, 2, GPA_PD | USER_PTE);
	pte(g, GPA_PD, DIFF_CODE, 1, GPA_PT_CODE | USER_PTE);
	pte(g, GPA_PD, DIFF_DATA, 1, GPA_PT_DATA | USER_PTE);
	pte(g, GPA_PD, DIFF_DATA - 1, 1, GPA_PT_BELOW | USER_PTE);
	pte(g, GPA_PT_CODE, DIFF_CODE, 0, GPA_CODE | PTE_P | PTE_U | PTE_A);
	pte(g, GPA_PT_DATA, RIG_OWN, 0, GPA_OWN | USER_PTE | PTE_NX);
	map_data(g);
}

/* ---- the processor -------------------------------------------------------------------------------------------------------------- */

static void add_leaf(struct vcpu *c, uint32_t function, uint32_t index)
{
	struct cpu_cpuid *l = &c->cpuid[c->n_cpuid];

	l->function = function;
	l->index = index;
	l->flags = function == 7 || function == 0xd;
	if (__get_cpuid_count(function, index, &l->eax, &l->ebx, &l->ecx, &l->edx))
		c->n_cpuid++;
	if (function == 0xd && index == 0)
		l->eax &= 7;
}

static void host_cpuid(struct vcpu *c)
{
	static const uint32_t leaf[][2] = { { 0, 0 }, { 1, 0 }, { 7, 0 }, { 7, 1 }, { 0xd, 0 }, { 0xd, 1 }, { 0xd, 2 }, { 0x80000000, 0 },
					    { 0x80000001, 0 }, { 0x80000008, 0 } };

	for (unsigned i = 0; i < ARRAY_SIZE(leaf); i++)
		add_leaf(c, leaf[i][0], leaf[i][1]);
	cpu_cpuid_changed(c);
}

static void set_segment(struct vcpu *c, unsigned n, uint16_t sel, uint8_t type, bool l, bool db, bool unusable)
{
	c->seg[n] = (struct cpu_seg){ .sel = sel, .limit = 0xffffffff, .type = type, .s = 1, .dpl = 3, .present = 1, .l = l, .db = db,
				      .g = 1, .unusable = unusable };
}

static void user_mode(struct vcpu *c)
{
	set_segment(c, SEG_CS, 0x33, 11, true, false, false);
	set_segment(c, SEG_SS, 0x2b, 3, false, true, false);
	set_segment(c, SEG_DS, 0x2b, 3, false, true, false);
	set_segment(c, SEG_ES, 0x2b, 3, false, true, false);
	set_segment(c, SEG_FS, 0, 0, false, false, true);
	set_segment(c, SEG_GS, 0, 0, false, false, true);
	c->seg[SEG_GS].base = DIFF_GS_BASE;
	c->seg[SEG_TR].limit = 0;	/* no I/O bitmap */
	cpu_state_changed(c);
}

static bool prepare(struct rig *g)
{
	struct mem_slot slot = { .id = 0, .first = GFN(0), .n_pages = RAM_SIZE >> GW_PAGE_SHIFT };
	struct mem_map *map;
	struct vcpu *c = &g->c;

	g->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (g->ram == MAP_FAILED)
		return false;
	slot.hva = g->ram;
	if (mem_code_map_new(&g->code) || acc_vm_new(NULL, g->code, &g->vm) || mem_map_change(NULL, &slot, &map))
		return false;
	acc_vm_set_map(g->vm, map);
	map_pages(g);
	if (cpu_init(c, g->vm, &env, g, 0) || cpu_signals_install())
		return false;
	host_cpuid(c);
	c->acc.cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_NE | CR0_MP | CR0_ET;
	c->acc.cr3 = GPA_PML4;
	c->acc.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE | CR4_UMIP;
	c->acc.efer = EFER_LME | EFER_LMA | EFER_NX | EFER_SCE;
	c->fpu.xcr0 = 7;
	acc_paging_changed(&c->acc, CR0_ET, 0, 0);
	acc_flush_all(&c->acc);
	user_mode(c);
	cpu_fpu_gates(c);
	return true;
}

struct rig *rig_new(const char *engine)
{
	struct rig *g = aligned_alloc(4096, (sizeof(*g) + 4095) & ~4095ul);

	if (!g)
		return NULL;
	memset(g, 0, sizeof(*g));
	setenv("GUESTWARD_ENGINE", engine, 1);
	return prepare(g) ? g : NULL;
}

void rig_free(struct rig *g)
{
	if (!g)
		return;
	cpu_fini(&g->c);
	acc_vm_free(g->vm);
	mem_code_map_free(g->code);
	munmap(g->ram, RAM_SIZE);
	free(g);
}

const bool *rig_features(const struct rig *g)
{
	return g->c.features;
}

struct vcpu *rig_vcpu(struct rig *g)
{
	return &g->c;
}

/* ---- running ---------------------------------------------------------------------------------------------------------------------- */

static void load(struct rig *g, const struct rig_program *p)
{
	struct vcpu *c = &g->c;

	map_data(g);
	for (unsigned i = 0; i < 5; i++)
		memcpy(g->ram + gpa_data[i], diff_pattern() + 4096 * (i % 3), 4096);
	memset(g->ram + GPA_OWN, 0, 4096);
	memset(g->ram + GPA_CODE, 0xf4, 4096);
	memcpy(g->ram + GPA_CODE, p->code, p->len);
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

static void alone(struct vcpu *c)
{
	const struct cpu_op *o;

	c->alone_wanted = false;
	c->alone = true;
	c->io.n_done = c->io.n_write = 0;
	o = cpu_block_alone(c);
	if (o) {
		c->stop = false;
		o->fn(c, o);
	}
	c->alone = false;
	c->stats.insns++;
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
	struct vcpu *c = &g->c;

	acc_enter(&c->acc);
	cpu_fpu_enter(c);
	tr_enter(c);
	c->exit = CPU_RUNNING;
	c->poll_at = c->stats.insns + insns;
	if (sigsetjmp(guard.recover, 0) == 0) {
		cpu_signal_guard_enter(&guard, c);
		while (c->stats.insns < c->poll_at && !c->ev.exception.pending && c->exit == CPU_RUNNING) {
			c->stop = false;
			if (c->alone_wanted)
				alone(c);
			else
				block(c);
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

/* Registers but flags, of which those that are dead may be stale at the end of a unit. */
static uint64_t state_sum(struct rig *g)
{
	_Alignas(64) uint8_t x[DIFF_X_SIZE];

	cpu_xsave_get(&g->c, x, sizeof(x));
	return add(add(0, g->c.gpr, 16 * 8), x, sizeof(x));
}

static void note_exit(struct rig *g, struct rig_result *r)
{
	if (r->n_exits == RIG_EXITS)
		return;
	r->exit[r->n_exits].rip = g->c.rip;
	r->exit[r->n_exits].sum = state_sum(g);
	r->n_exits++;
}

/* A page fault that the rig's mapping answers: as a kernel that pages in and copies on write. */
static bool fixed_fault(struct rig *g, struct rig_result *r)
{
	struct vcpu *c = &g->c;
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
	pte(g, data_table(cr2), cr2, 0, gpa_data[i] | USER_PTE | PTE_NX);
	acc_flush_page(&c->acc, GVA(cr2));
	memset(&c->ev, 0, sizeof(c->ev));
	return true;
}

void rig_run(struct rig *g, const struct rig_program *p, struct rig_result *r)
{
	struct vcpu *c = &g->c;
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
		memcpy(r->mem + 4096 * i, g->ram + gpa_data[i], 4096);
	memcpy(r->mem + 4096 * 5, g->ram + GPA_OWN, 4096);
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
	/* Flags that nothing reads any more may be wrong at an exception; at the end of the program all are read. */
	if (a->rip == DIFF_CODE + p->len - 1 && a->flags != b->flags) {
		snprintf(why, sizeof(why), "flags %x, translated %x", a->flags, b->flags);
		return why;
	}
	s = differs_at("memory", a->mem, b->mem, sizeof(a->mem));
	return s ? s : differs_at("extended state", a->x, b->x, sizeof(a->x));
}
