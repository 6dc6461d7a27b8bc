/* SPDX-License-Identifier: MIT */
/*
 * Cases in the engine: one vCPU at CPL 3 with the same linear addresses, stepped one instruction at a time, either as a block
 * of its own (what follows is HLT, which faults at CPL 3) or by the path for instructions that run alone.
 */
#include <cpuid.h>
#include <errno.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/block.h"
#include "cpu/host/fpu.h"
#include "cpu/host/signal.h"
#include "cpu/op.h"
#include "cpu/sys/sys.h"
#include "diff.h"

#define RAM_SIZE	0x200000u
#define GPA_PML4	0x1000u
#define GPA_PDPT	0x2000u
#define GPA_PD		0x3000u
#define GPA_PT_CODE	0x4000u
#define GPA_PT_DATA	0x5000u
#define GPA_PT_BELOW	0x6000u
#define GPA_CODE	0x10000u
/* Neighbours in linear memory, not in physical: an access that takes one for the other goes wrong. */
static const uint32_t gpa_data[3] = { 0x20000, 0x40000, 0x30000 };

static struct vcpu *c;
static uint8_t *ram;

/* ---- a machine with nothing in it ------------------------------------------------------------------------------------------------------ */

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

static void pte(uint32_t table, uint64_t la, unsigned level, uint64_t value)
{
	memcpy(ram + table + 8 * (la >> (12 + 9 * level) & 511), &value, 8);
}

static void map_pages(void)
{
	static const uint64_t user = PTE_P | PTE_W | PTE_U | PTE_A | PTE_D;

	pte(GPA_PML4, 0, 3, GPA_PDPT | user);
	pte(GPA_PDPT, 0, 2, GPA_PD | user);
	pte(GPA_PD, DIFF_CODE, 1, GPA_PT_CODE | user);
	pte(GPA_PD, DIFF_DATA, 1, GPA_PT_DATA | user);
	pte(GPA_PT_CODE, DIFF_CODE, 0, GPA_CODE | PTE_P | PTE_U | PTE_A);
	pte(GPA_PT_DATA, DIFF_DATA, 0, gpa_data[0] | user | PTE_NX);
	pte(GPA_PT_DATA, DIFF_DATA + 0x1000, 0, gpa_data[1] | user | PTE_NX);
	pte(GPA_PT_DATA, DIFF_DATA + 0x2000, 0, gpa_data[2] | (user & ~PTE_W) | PTE_NX);
}

/* ---- the vCPU --------------------------------------------------------------------------------------------------------------------------------- */

static void add_leaf(uint32_t function, uint32_t index)
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

static void host_cpuid(void)
{
	add_leaf(0, 0);
	add_leaf(1, 0);
	add_leaf(7, 0);
	add_leaf(7, 1);
	add_leaf(0xd, 0);
	add_leaf(0xd, 1);
	add_leaf(0xd, 2);
	add_leaf(0x80000000, 0);
	add_leaf(0x80000001, 0);
	add_leaf(0x80000008, 0);
	cpu_cpuid_changed(c);
}

static void set_segment(unsigned n, uint16_t sel, uint8_t type, bool l, bool db, bool unusable)
{
	c->seg[n] = (struct cpu_seg){ .sel = sel, .limit = 0xffffffff, .type = type, .s = 1, .dpl = 3, .present = 1, .l = l, .db = db,
				      .g = 1, .unusable = unusable };
}

static void set_segments16(void)
{
	static const uint8_t data[] = { SEG_DS, SEG_ES, SEG_SS };

	c->seg[SEG_CS] = (struct cpu_seg){ .sel = DIFF_CS16, .base = DIFF_CODE, .limit = DIFF_CS16_LIMIT, .type = 11, .s = 1, .dpl = 3,
					   .present = 1 };
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
		c->seg[data[i]] = (struct cpu_seg){ .sel = DIFF_DS16, .base = DIFF_DATA, .limit = DIFF_DS16_LIMIT, .type = 3, .s = 1,
						    .dpl = 3, .present = 1 };
}

/* As Linux runs user code: 64-bit, or compatibility mode. */
static void set_mode(unsigned mode)
{
	bool m64 = mode == INSN_MODE_64;

	if (c->mode == mode && c->acc.cpl == 3)
		return;
	set_segment(SEG_CS, m64 ? 0x33 : 0x23, 11, m64, !m64, false);
	set_segment(SEG_SS, 0x2b, 3, false, true, false);
	set_segment(SEG_DS, 0x2b, 3, false, true, false);
	set_segment(SEG_ES, 0x2b, 3, false, true, false);
	set_segment(SEG_FS, 0, 0, false, false, true);
	set_segment(SEG_GS, 0, 0, false, false, true);
	c->seg[SEG_GS].base = DIFF_GS_BASE;
	if (mode == INSN_MODE_16)
		set_segments16();
	c->seg[SEG_TR].limit = 0;	/* no I/O bitmap */
	cpu_state_changed(c);
}

static int new_vm(struct acc_vm **vm)
{
	struct mem_slot slot = { .id = 0, .first = GFN(0), .n_pages = RAM_SIZE >> GW_PAGE_SHIFT, .hva = ram };
	struct mem_code_map *code;
	struct mem_map *map;
	int err;

	err = mem_code_map_new(&code);
	if (!err)
		err = acc_vm_new(NULL, code, vm);
	if (!err)
		err = mem_map_change(NULL, &slot, &map);
	if (!err)
		acc_vm_set_map(*vm, map);
	return err;
}

int diff_engine_init(void)
{
	uint64_t cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_NE | CR0_MP | CR0_ET;
	struct acc_vm *vm;
	int err;

	ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	c = aligned_alloc(4096, (sizeof(*c) + 4095) & ~4095ul);
	if (ram == MAP_FAILED || !c)
		return -ENOMEM;
	memset(c, 0, sizeof(*c));
	map_pages();
	err = new_vm(&vm);
	if (!err)
		err = cpu_init(c, vm, &env, NULL, 0);
	if (!err)
		err = cpu_signals_install();
	if (err)
		return err;
	host_cpuid();
	memset(ram + GPA_CODE, 0xf4, 4096);
	memcpy(ram + gpa_data[2], diff_pattern() + DIFF_RW_SIZE, 4096);
	c->acc.cr0 = cr0;
	c->acc.cr3 = GPA_PML4;
	c->acc.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE | CR4_UMIP;
	c->acc.efer = EFER_LME | EFER_LMA | EFER_NX | EFER_SCE;
	c->fpu.xcr0 = 7;
	acc_paging_changed(&c->acc, CR0_ET, 0, 0);
	acc_flush_all(&c->acc);
	set_mode(INSN_MODE_64);
	cpu_fpu_gates(c);
	return 0;
}

const bool *diff_features(void)
{
	return c->features;
}

/* ---- running ------------------------------------------------------------------------------------------------------------------------------------ */

static uint64_t start_rip(const struct diff_case *k)
{
	return diff_start(k) - (k->mode == INSN_MODE_16 ? DIFF_CODE : 0);
}

static void load(const struct diff_case *k)
{
	unsigned start = (unsigned)(diff_start(k) - DIFF_CODE), here = k->len - k->beyond;

	set_mode(k->mode);
	for (unsigned i = 0; i < 2; i++)
		memcpy(ram + gpa_data[i], diff_pattern() + 4096 * i, 4096);
	for (unsigned i = 0; i < k->patch_len; i++) {
		unsigned off = k->patch_off + i;

		ram[gpa_data[off >> 12] + (off & 4095)] = k->patch[i];
	}
	memset(ram + GPA_CODE + start, 0xf4, start + 32 <= 4096 ? 32 : 4096 - start);
	memcpy(ram + GPA_CODE + start, k->code, here);
	cpu_memory_touched(c);
	memcpy(c->gpr, k->gpr, sizeof(k->gpr));
	c->gpr[GPR_ZERO] = 0;
	c->rip = start_rip(k);
	cpu_set_eflags(c, k->flags);
	memset(&c->ev, 0, sizeof(c->ev));
	c->shadow = 0;
	c->acc.cr2 = 0;
	if (cpu_xsave_set(c, k->x, sizeof(k->x)))
		abort();
}

static void step_block(void)
{
	struct cpu_block *b = cpu_block_get(c);

	if (!b)
		return;
	c->gpr[GPR_RIP] = c->rip;
	b->op[0].fn(c, b->op);
}

static void step_alone(void)
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
}

static bool step(bool alone)
{
	struct cpu_signal_guard guard;
	volatile bool ok = true;

	acc_enter(&c->acc);
	cpu_fpu_enter(c);
	c->stop = false;
	c->exit = CPU_RUNNING;
	c->alone_wanted = false;
	c->poll_at = 0;		/* no chaining: one block */
	if (sigsetjmp(guard.recover, 0) == 0) {
		cpu_signal_guard_enter(&guard, c);
		if (alone)
			step_alone();
		else
			step_block();
		if (c->alone_wanted)
			step_alone();
	} else {
		ok = false;
	}
	cpu_signal_guard_leave(&guard);
	cpu_fpu_leave(c);
	acc_leave(&c->acc);
	return ok && c->exit == CPU_RUNNING;
}

void diff_engine_run(const struct diff_case *k, struct diff_result *r, bool alone)
{
	load(k);
	r->done = true;
	for (unsigned i = 0; i < 1000; i++) {
		r->done = step(alone);
		/* An interruptible string instruction may leave and begin again. */
		if (!r->done || c->ev.exception.pending || c->rip != start_rip(k) || !k->restarts)
			break;
	}
	memcpy(r->gpr, c->gpr, sizeof(r->gpr));
	r->rip = c->rip + (k->mode == INSN_MODE_16 ? DIFF_CODE : 0);
	r->flags = cpu_eflags(c);
	/* An exception elsewhere is the HLT that follows: the instruction itself retired. */
	r->fault = c->ev.exception.pending && c->rip == start_rip(k);
	r->vector = c->ev.exception.vector;
	r->error = c->ev.exception.has_error ? c->ev.exception.error : 0;
	r->cr2 = c->ev.exception.has_payload ? c->ev.exception.payload : 0;
	cpu_xsave_get(c, r->x, sizeof(r->x));
	for (unsigned i = 0; i < 2; i++)
		memcpy(r->mem + 4096 * i, ram + gpa_data[i], 4096);
}
