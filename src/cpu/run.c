/* SPDX-License-Identifier: MIT */
/*
 * The dispatcher: what happens between blocks.
 *
 * In this order, as SDM vol. 3 "Priority Among Concurrent Events" has it: requests of other vCPUs (they wait for us), the
 * client's kick, latched INIT/SIPI/SMI, an event half delivered, NMI and interrupts when nothing holds them off, then code:
 * a block, or one instruction alone when something about it is special (device access, single step, shadow, breakpoint).
 */
#include <setjmp.h>

#include "cpu/align.h"
#include "cpu/block.h"
#include "cpu/host/fpu.h"
#include "cpu/host/signal.h"
#include "cpu/op.h"
#include "cpu/sys/sys.h"
#include "cpu/translate/translate.h"

bool cpu_jump(struct vcpu *c, const struct cpu_op *o, uint64_t target)
{
	if (c->mode == INSN_MODE_64) {
		unsigned bits = c->acc.cr4 & CR4_LA57 ? 57 : 48;
		int64_t top = (int64_t)target >> (bits - 1);

		if (unlikely(top != 0 && top != -1)) {
			cpu_raise_error(c, o, VEC_GP, 0);
			return false;
		}
	} else {
		target &= 0xffffffff;
		if (unlikely(target > c->seg[SEG_CS].limit)) {
			cpu_raise_error(c, o, VEC_GP, 0);
			return false;
		}
	}
	c->rip = target;
	return true;
}

void cpu_memory_touched(struct vcpu *c)
{
	c->verify_epoch++;
	c->acc.stamp++;
}

void cpu_io_answer(struct vcpu *c, const uint8_t *data)
{
	struct cpu_io *io = &c->io;
	struct cpu_io_piece *p;

	if (!io->wanted)
		return;
	io->wanted = false;
	io->replay = true;
	if (io->want.pio && io->want_count > 1) {	/* INS reads ahead: @data holds all elements */
		io->bulk_len = io->want_count * io->want.len;
		io->bulk_pos = 0;
		__builtin_memcpy(io->bulk, data, io->bulk_len);
		return;
	}
	if (io->n_done == CPU_IO_MAX)
		return;
	p = &io->done[io->n_done++];
	*p = io->want;
	__builtin_memcpy(p->data, data, sizeof(p->data));
}

void cpu_io_out_done(struct vcpu *c)
{
	if (!c->io.wanted)
		return;
	c->io.wanted = false;
	c->io.out_done = true;
	c->io.replay = true;
}

/* ---- events ----------------------------------------------------------------------------------------------------------------- */

static bool event_waits(const struct vcpu *c)
{
	return c->ev.exception.pending || c->ev.interrupt.injected || c->ev.nmi.injected || c->ev.triple_fault;
}

/* Choose an NMI or interrupt to inject, if nothing holds it off; else remember that one waits. */
static void choose_event(struct vcpu *c)
{
	int vector;

	c->intr_blocked = false;
	if (unlikely(c->ev.smi_pending) && !c->ev.in_smm) {
		c->intr_blocked = true;
		if (!c->shadow)
			cpu_smi(c);
		return;
	}
	if (c->ev.nmi.pending && !c->ev.nmi.masked) {
		if (c->shadow) {
			c->intr_blocked = true;
			return;
		}
		c->ev.nmi.pending--;
		c->ev.nmi.injected = true;
		c->intr_blocked = true;		/* an interrupt may stand behind it */
		return;
	}
	if (!c->env->intr_pending(c))
		return;
	if (!(c->eflags & FLAG_IF) || c->shadow) {
		c->intr_blocked = true;
		return;
	}
	vector = c->env->intr_ack(c);
	if (vector < 0)
		return;
	c->ev.interrupt.injected = true;
	c->ev.interrupt.vector = (uint8_t)vector;
	c->ev.interrupt.soft = false;
	c->stats.interrupts++;
	/* More may stand behind it. */
	c->intr_blocked = true;
}

static enum cpu_exit deliver(struct vcpu *c)
{
	enum cpu_exit e;

	if (c->ev.exception.pending) {
		c->stats.faults++;
		cpu_ring_put(&c->ring, RING_EXCEPTION, c->stats.insns, c->rip, c->ev.exception.vector, c->ev.exception.error);
	} else if (c->ev.interrupt.injected) {
		cpu_ring_put(&c->ring, RING_INTERRUPT, c->stats.insns, c->rip, c->ev.interrupt.vector, 0);
	}
	c->stop = false;
	c->exit = CPU_RUNNING;
	c->alone_wanted = false;	/* the instruction that wanted it starts over after the handler */
	if (unlikely(atomic_load_explicit(&c->ext_wants, memory_order_relaxed) & (BIT(CPU_EXT_DEBUG) | BIT(CPU_EXT_INTERRUPT))) &&
	    !cpu_ext_delivery(c))
		return c->exit;
	c->alone = c->ext_alone;	/* a substitute that a room gave may be used */
	e = cpu_deliver(c);
	c->alone = false;
	if (e == CPU_RUNNING && c->alone_wanted)
		e = CPU_EXIT_DELIVERY;		/* the IDT, a descriptor or the stack lies in a device */
	c->alone_wanted = false;
	c->shadow = 0;
	c->halted = false;
	return e;
}

/* Attention of other threads. Returns the exit, or CPU_RUNNING. */
static enum cpu_exit attend(struct vcpu *c)
{
	uint32_t a = atomic_load_explicit(&c->acc.attention, memory_order_acquire);

	if (a & (ACC_ATT_FORGET | ACC_ATT_STOP))
		acc_safe_point(&c->acc);
	if (a & ACC_ATT_EXIT)
		return CPU_EXIT_KICKED;
	if (a & ACC_ATT_EVENT) {
		enum cpu_exit e;

		atomic_fetch_and(&c->acc.attention, ~ACC_ATT_EVENT);
		e = c->env->latched(c);
		if (e != CPU_RUNNING)
			return e;
		c->intr_blocked = true;		/* look again below */
	}
	return CPU_RUNNING;
}

/* Does the next instruction have to be executed by itself? */
static bool wants_alone(struct vcpu *c)
{
	return c->ext_alone || c->alone_wanted || c->io.replay || cpu_flags_stop(c) || (c->shadow && c->intr_blocked) || cpu_debug_armed(c);
}

/* Execute exactly one instruction. */
static void run_alone(struct vcpu *c)
{
	uint8_t shadow = c->shadow;
	bool step = c->eflags & FLAG_TF;
	const struct cpu_op *o;

	c->alone_wanted = false;
	c->alone = true;
	c->exit = CPU_RUNNING;
	if (!c->io.replay)
		c->io.n_done = 0;
	c->io.pos = 0;
	if (!cpu_debug_fetch(c)) {
		c->alone = false;
		return;
	}
	o = cpu_block_alone(c);
	if (!o) {
		c->alone = false;
		return;
	}
	c->stop = false;
	c->shadow = 0;
	if (unlikely(cpu_checks_alignment(c)) && o->len && !cpu_is_aligned(c, cpu_block_alone_insn(c, o)))
		cpu_raise_error(c, o, VEC_AC, 0);
	else
		o->fn(c, o);
	c->alone = false;
	c->stats.insns++;
	c->stats.alone++;
	if (c->io.wanted) {
		c->shadow = shadow;		/* it has not happened yet */
		return;
	}
	if (unlikely(c->exit == CPU_EXIT_KICKED)) {
		c->shadow = shadow;		/* nor has this: what it has read from devices it will not read again */
		c->io.replay |= c->io.n_done > 0;
		return;
	}
	/* Retired or faulted: what was read for it is used up. */
	c->io.replay = false;
	c->io.out_done = false;
	c->io.n_done = 0;
	if (c->stop && c->ev.exception.pending)
		return;
	if (c->io.n_write && c->exit == CPU_RUNNING)
		c->exit = CPU_EXIT_MMIO;
	cpu_debug_step(c, step);
}

static void run_block(struct vcpu *c)
{
	struct cpu_block *b;

	c->shadow = 0;
	c->stop = false;
	c->exit = CPU_RUNNING;
	b = cpu_block_get(c);
	if (!b) {
		if (c->alone_wanted)
			run_alone(c);	/* now: a fetch granted once is good until the next safe point */
		return;
	}
	c->stats.blocks++;
	c->gpr[GPR_RIP] = c->rip;
	c->stats.insns += b->n;
	b->op[0].fn(c, b->op);
}

/* A room is told that an execution is over; not of one that will be begun again. */
static void told_alone(struct vcpu *c)
{
	uint64_t n = c->stats.alone;

	run_alone(c);
	if (unlikely(c->ext_alone) && !c->io.wanted && c->exit != CPU_EXIT_KICKED && c->exit != CPU_EXIT_MSR)
		cpu_ext_after(c, c->stats.alone != n && !c->ev.exception.pending);
}

static enum cpu_exit told_deliver(struct vcpu *c)
{
	enum cpu_exit e = deliver(c);

	if (unlikely(c->ext_alone) && e == CPU_RUNNING && !event_waits(c))
		cpu_ext_after(c, true);
	return e;
}

/* A room wants the instruction begun again, and nobody else wants the vCPU. */
static bool begins_again(struct vcpu *c, enum cpu_exit e)
{
	bool again = c->ext_again;

	c->ext_again = false;
	if (likely(!again) || e != CPU_EXIT_KICKED || atomic_load(&c->acc.attention) & ACC_ATT_EXIT)
		return false;
	c->exit = CPU_RUNNING;
	c->stop = false;
	c->alone_wanted = false;
	return true;
}

static enum cpu_exit loop(struct vcpu *c)
{
	for (;;) {
		enum cpu_exit e;

		if (unlikely(atomic_load_explicit(&c->acc.attention, memory_order_relaxed))) {
			e = attend(c);
			if (e != CPU_RUNNING)
				return e;
		}
		if (unlikely(c->stats.insns >= c->poll_at)) {
			c->poll_at = c->stats.insns + CPU_POLL_INSNS;
			if (c->env->poll(c))
				return CPU_EXIT_KICKED;
		}
		if (unlikely(c->ext_alone) && !cpu_ext_before(c))
			return CPU_EXIT_KICKED;
		if (unlikely(c->intr_blocked) && !event_waits(c) && !c->io.replay && !c->ext_alone)
			choose_event(c);
		/* Nothing was injected, but the client wanted to know of this very moment (interrupt window). */
		if (unlikely(atomic_load_explicit(&c->acc.attention, memory_order_relaxed) & ACC_ATT_EXIT))
			return CPU_EXIT_KICKED;
		if (unlikely(event_waits(c))) {
			e = told_deliver(c);
			if (e != CPU_RUNNING && !begins_again(c, e))
				return e;
			continue;
		}
		if (unlikely(wants_alone(c)))
			told_alone(c);
		else
			run_block(c);
		if (unlikely(c->exit != CPU_RUNNING) && !begins_again(c, c->exit))
			return c->exit;
	}
}

/*
 * One instruction, which has had its answer from outside: nothing else may come first. Who wants the vCPU to leave gets it as soon
 * as this is done.
 */
static enum cpu_exit finish(struct vcpu *c)
{
	if (atomic_load(&c->acc.attention) & (ACC_ATT_FORGET | ACC_ATT_STOP))
		acc_safe_point(&c->acc);
	atomic_fetch_and(&c->acc.attention, ~ACC_ATT_EXIT);
	if (unlikely(c->ext_alone) && !cpu_ext_before(c))
		return CPU_EXIT_KICKED;
	told_alone(c);
	return c->exit == CPU_RUNNING ? CPU_EXIT_KICKED : c->exit;
}

enum cpu_exit cpu_run(struct vcpu *c)
{
	struct cpu_signal_guard guard;
	enum cpu_exit e;

	c->poll_at = c->stats.insns + CPU_POLL_INSNS;
	c->exit = CPU_RUNNING;
	c->stop = false;
	c->intr_blocked = true;		/* whatever came while we were away is looked at first */
	c->ext_again = false;
	acc_set_space(&c->acc, c->ev.in_smm);
	c->single = false;
	for (unsigned i = 0; c->exts && i < c->exts->n; i++)
		if (c->exts->ext[i].ops->enter)
			c->exts->ext[i].ops->enter(c->exts->ext[i].state, &c->acc);
	acc_enter(&c->acc);
	cpu_fpu_enter(c);
	tr_enter(c);
	if (sigsetjmp(guard.recover, 0) == 0) {
		cpu_signal_guard_enter(&guard, c);
		e = unlikely(c->finish) ? finish(c) : loop(c);
	} else {
		/* The client's memory went away: under an access of c->cur, or under the fetch. Nothing was committed. */
		if (c->cur)
			c->rip = cpu_op_rip(c, c->cur);
		c->cur = NULL;
		e = CPU_EXIT_HOST_FAULT;
		c->alone = false;
	}
	cpu_signal_guard_leave(&guard);
	tr_leave(c);
	cpu_fpu_leave(c);
	acc_leave(&c->acc);
	c->finish = false;
	c->exit = CPU_RUNNING;
	c->stats.exits++;
	cpu_ring_put(&c->ring, RING_EXIT, c->stats.insns, c->rip, e, 0);
	return e;
}
