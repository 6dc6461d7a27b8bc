/* SPDX-License-Identifier: MIT */
/*
 * Cases in the engine: one vCPU at CPL 3 with the same linear addresses, stepped one instruction at a time, either as a block
 * of its own (what follows is HLT, which faults at CPL 3) or by the path for instructions that run alone.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "bare.h"
#include "cpu/block.h"
#include "cpu/host/fpu.h"
#include "cpu/host/signal.h"
#include "cpu/op.h"
#include "cpu/sys/sys.h"
#include "diff.h"

#define RAM_SIZE	0x200000u
#define GPA_PT_CODE	0x4000u
#define GPA_PT_DATA	0x5000u
#define GPA_CODE	0x10000u
/* Neighbours in linear memory, not in physical: an access that takes one for the other goes wrong. */
static const uint32_t gpa_data[3] = { 0x20000, 0x40000, 0x30000 };

static struct bare *bare;
static struct vcpu *c;
static uint8_t *ram;

static void map_pages(void)
{
	bare_table(bare, GPA_PT_CODE, DIFF_CODE);
	bare_table(bare, GPA_PT_DATA, DIFF_DATA);
	bare_pte(bare, GPA_PT_CODE, DIFF_CODE, 0, GPA_CODE | PTE_P | PTE_U | PTE_A);
	bare_pte(bare, GPA_PT_DATA, DIFF_DATA, 0, gpa_data[0] | BARE_USER | PTE_NX);
	bare_pte(bare, GPA_PT_DATA, DIFF_DATA + 0x1000, 0, gpa_data[1] | BARE_USER | PTE_NX);
	bare_pte(bare, GPA_PT_DATA, DIFF_DATA + 0x2000, 0, gpa_data[2] | (BARE_USER & ~PTE_W) | PTE_NX);
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

static void set_mode(unsigned mode)
{
	if (c->mode == mode && c->acc.cpl == 3)
		return;
	bare_user_mode(c, mode == INSN_MODE_64);
	if (mode != INSN_MODE_16)
		return;
	set_segments16();
	cpu_state_changed(c);
}

int diff_engine_init(void)
{
	int err;

	bare = aligned_alloc(4096, (sizeof(*bare) + 4095) & ~4095ul);
	if (!bare)
		return -ENOMEM;
	memset(bare, 0, sizeof(*bare));
	err = bare_init(bare, RAM_SIZE);
	if (err)
		return err;
	c = &bare->c;
	ram = bare->ram;
	map_pages();
	memset(ram + GPA_CODE, 0xf4, 4096);
	memcpy(ram + gpa_data[2], diff_pattern() + DIFF_RW_SIZE, 4096);
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
			bare_step_alone(c);
		else
			step_block();
		if (c->alone_wanted)
			bare_step_alone(c);
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
