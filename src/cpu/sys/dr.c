/* SPDX-License-Identifier: MIT */
/*
 * Debug registers, breakpoints and single step, the guest's and the client's (KVM_SET_GUEST_DEBUG).
 *
 * While anything is armed instructions run alone. Code breakpoints are checked before an instruction (cpu_debug_fetch), data and
 * I/O breakpoints are noted while it runs (c->debug_hits) and reported after it (cpu_debug_step). Pages with data breakpoints
 * are dropped from the TLB before each instruction, so that accesses to them come to the slow path and are seen.
 * Source: Intel SDM vol. 3 "Debug Registers", "Debug Exceptions".
 */
#include "cpu/sys/sys_private.h"

/* c->debug_hits: bits 3:0 the guest's breakpoints, 11:8 the client's, and: */
#define HIT_STEP	BIT(14)		/* DR6.BS: SYSRET brought TF back */
#define HIT_TASK	BIT(15)		/* DR6.BT */
#define HIT_CLIENT	8
#define HIT_NO_STEP	BIT(31)		/* the instruction went through the IDT, or changed TF so that no step is due */

#define DR6_BD		0x2000u
#define DR6_BS		0x4000u
#define DR6_ONES	0xffff0ff0u
#define DR6_WRITABLE	0xe00fu
#define DR7_WRITABLE	0xffff23ffull
#define DR7_GD		0x2000u

enum { BP_EXEC, BP_WRITE, BP_IO, BP_RW };

static unsigned bp_type(uint64_t dr7, unsigned i) { return dr7 >> (16 + 4 * i) & 3; }
static bool bp_enabled(uint64_t dr7, unsigned i) { return dr7 >> 2 * i & 3; }

static unsigned bp_len(uint64_t dr7, unsigned i)
{
	static const uint8_t len[] = { 1, 2, 8, 4 };

	return len[dr7 >> (18 + 4 * i) & 3];
}

/* Enabled breakpoints of one of the @types (bit mask) that touch [addr, addr + len). */
static unsigned match(const uint64_t dr[4], uint64_t dr7, unsigned types, uint64_t addr, unsigned len)
{
	unsigned hits = 0;

	for (unsigned i = 0; i < 4; i++) {
		unsigned n = bp_len(dr7, i);
		uint64_t at = dr[i] & ~(uint64_t)(n - 1);

		if (bp_enabled(dr7, i) && types >> bp_type(dr7, i) & 1 && addr < at + n && at < addr + len)
			hits |= 1u << i;
	}
	return hits;
}

static unsigned match_both(const struct vcpu *c, unsigned types, uint64_t addr, unsigned len)
{
	unsigned hits = match(c->dr, c->dr7, types, addr, len);

	if (c->dbg.control & CPU_DBG_USE_HW_BP)
		hits |= match(c->dbg.dr, c->dbg.dr[7], types, addr, len) << HIT_CLIENT;
	return hits;
}

static uint64_t linear_rip(const struct vcpu *c)
{
	uint64_t la = c->seg_base[SEG_CS] + c->rip;

	return sys_mode64(c) ? la : (uint32_t)la;
}

bool sys_client_debugs(struct vcpu *c, unsigned vector, uint64_t dr6)
{
	uint32_t wants = vector == VEC_BP ? CPU_DBG_USE_SW_BP : CPU_DBG_SINGLESTEP | CPU_DBG_USE_HW_BP;

	if (likely(!(c->dbg.control & wants)))
		return false;
	c->dbg.exception = vector;
	c->dbg.pc = linear_rip(c);
	c->dbg.dr6 = DR6_ONES | dr6;
	c->dbg.dr7 = c->dbg.control & CPU_DBG_USE_HW_BP ? c->dbg.dr[7] : c->dr7;
	if (!c->env->debug(c, vector))
		return false;
	c->exit = CPU_EXIT_DEBUG;
	c->stop = true;
	return true;
}

static bool raise(struct vcpu *c, uint64_t payload)
{
	cpu_fault_noerr(c, VEC_DB);
	c->ev.exception.has_payload = true;
	c->ev.exception.payload = payload;
	return false;
}

/* ---- around one instruction ------------------------------------------------------------------------------------------------- */

static void forget_watched_pages(struct vcpu *c, const uint64_t dr[4], uint64_t dr7)
{
	for (unsigned i = 0; i < 4; i++)
		if (bp_enabled(dr7, i) && bp_type(dr7, i) & 1)
			acc_flush_page(&c->acc, GVA(dr[i]));
}

bool cpu_debug_fetch(struct vcpu *c)
{
	unsigned hits;

	c->debug_hits &= ~HIT_NO_STEP;
	if (likely(!cpu_debug_armed(c)))
		return true;
	if (c->debug_hits & (HIT_TASK | HIT_STEP)) {
		uint64_t due = c->debug_hits & (HIT_TASK | HIT_STEP);

		c->debug_hits &= ~(HIT_TASK | HIT_STEP);
		return raise(c, due);
	}
	forget_watched_pages(c, c->dr, c->dr7);
	if (c->dbg.control & CPU_DBG_USE_HW_BP)
		forget_watched_pages(c, c->dbg.dr, c->dbg.dr[7]);
	/* A repetition of an instruction that has waited for the client is the same instruction. */
	if (c->io.replay)
		return true;
	if (c->eflags & FLAG_RF) {
		c->eflags &= ~FLAG_RF;
		return true;
	}
	if (c->shadow & CPU_SHADOW_MOVSS)
		return true;
	hits = match_both(c, BIT(BP_EXEC), linear_rip(c), 1);
	if (hits >> HIT_CLIENT && sys_client_debugs(c, VEC_DB, hits >> HIT_CLIENT & 15))
		return false;
	return hits & 15 ? raise(c, hits & 15) : true;
}

void cpu_debug_data(struct vcpu *c, uint64_t gva, unsigned len, unsigned rights)
{
	if (!(rights & ACC_RW))
		return;
	c->debug_hits |= match_both(c, rights & ACC_W ? BIT(BP_WRITE) | BIT(BP_RW) : BIT(BP_RW), gva, len);
}

void sys_debug_io(struct vcpu *c, uint16_t port, unsigned len)
{
	if (unlikely(c->acc.cr4 & CR4_DE && c->dr7 & 0xff))
		c->debug_hits |= match(c->dr, c->dr7, BIT(BP_IO), port, len);
}

unsigned sys_debug_take_hits(struct vcpu *c)
{
	unsigned hits = c->debug_hits & 15;

	c->debug_hits &= ~15u;
	return hits;
}

void sys_debug_task(struct vcpu *c)
{
	c->debug_hits |= HIT_TASK;
}

void sys_debug_step_due(struct vcpu *c)
{
	c->debug_hits |= HIT_STEP;
}

void sys_debug_no_step(struct vcpu *c)
{
	/* Only instructions that run alone are asked for a step. Left behind by others this would make the next one run alone. */
	if (c->alone)
		c->debug_hits |= HIT_NO_STEP;
}

bool cpu_debug_step(struct vcpu *c, bool tf)
{
	uint32_t hits = c->debug_hits;
	bool step = (tf && !(hits & HIT_NO_STEP)) || hits & HIT_STEP;
	uint64_t payload;

	/* MOV SS holds its own traps, and those of what it touched, for one instruction. */
	if (c->shadow & CPU_SHADOW_MOVSS)
		return true;
	c->debug_hits = hits & HIT_TASK;
	if (c->dbg.control & CPU_DBG_SINGLESTEP && sys_client_debugs(c, VEC_DB, DR6_BS))
		return false;
	if (hits >> HIT_CLIENT & 15 && sys_client_debugs(c, VEC_DB, hits >> HIT_CLIENT & 15))
		return false;
	payload = (hits & 15) | (step ? DR6_BS : 0);
	return payload ? raise(c, payload) : true;
}

/* ---- MOV to and from DR ----------------------------------------------------------------------------------------------------------- */

/* DR4 and DR5 are DR6 and DR7 unless CR4.DE says they do not exist. *n is normalised. */
static bool dr_access(struct vcpu *c, const struct cpu_op *o, unsigned *n)
{
	*n = o->insn->reg;
	if (*n > 7 || ((*n == 4 || *n == 5) && c->acc.cr4 & CR4_DE)) {
		cpu_raise(c, o, VEC_UD);
		return false;
	}
	if (*n == 4 || *n == 5)
		*n += 2;
	if (!sys_need_cpl0(c, o))
		return false;
	sys_begin(c, o);
	if (c->dbg.control & CPU_DBG_USE_HW_BP && c->dbg.dr[7] & DR7_GD && sys_client_debugs(c, VEC_DB, DR6_BD))
		return false;
	if (c->dr7 & DR7_GD)
		return raise(c, DR6_BD);
	return true;
}

void sys_mov_from_dr(struct vcpu *c, const struct cpu_op *o)
{
	unsigned n;

	if (!dr_access(c, o, &n))
		return;
	sys_set_reg(c, o->insn->rm, o->opsize, n < 4 ? c->dr[n] : n == 6 ? c->dr6 : c->dr7);
	CPU_NEXT(c, o);
}

void sys_mov_to_dr(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t v = sys_truncate(c->gpr[o->insn->rm], o->opsize);
	unsigned n;

	if (!dr_access(c, o, &n))
		return;
	if (n >= 6 && v >> 32) {
		cpu_raise_error(c, o, VEC_GP, 0);
		return;
	}
	if (n < 4)
		c->dr[n] = v;
	else if (n == 6)
		c->dr6 = (v & DR6_WRITABLE) | DR6_ONES;
	else
		c->dr7 = (v & DR7_WRITABLE) | 0x400;
	CPU_NEXT(c, o);
}
