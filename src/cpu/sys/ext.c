/* SPDX-License-Identifier: MIT */
/*
 * Asks the rooms plugged into the processor (cpu/ext.h) about a register write, an instruction or an event: the first that does not
 * allow it decides. And tells them before and after instructions while one of them wants that.
 */
#include "cpu/sys/sys_private.h"

static uint64_t old_value(struct vcpu *c, unsigned reg, uint32_t index, bool *known)
{
	uint64_t v = 0;

	*known = true;
	switch (reg) {
	case CPU_EXT_CR: return index ? c->acc.cr4 : c->acc.cr0;
	case CPU_EXT_CR3: return c->acc.cr3;
	case CPU_EXT_XCR0: return c->fpu.xcr0;
	case CPU_EXT_MSR:
		*known = atomic_load_explicit(&c->ext_wants, memory_order_relaxed) & CPU_EXT_WANTS_OLD_MSR &&
			 cpu_msr_get(c, index, &v, false) == 0;
		return v;
	default:
		*known = false;
		return 0;
	}
}

/* The instruction is left before it began. */
static enum cpu_ext_answer restart(struct vcpu *c)
{
	c->exit = CPU_EXIT_KICKED;
	c->stop = true;
	return CPU_EXT_LEAVE;
}

enum cpu_ext_answer sys_ext_ask(struct vcpu *c, unsigned reg, uint32_t index, uint64_t value)
{
	struct cpu_ext_write w = { .cpu = &c->acc, .reg = (uint8_t)reg, .index = index, .value = value };
	struct acc_exit exit = { 0 };

	w.old = old_value(c, reg, index, &w.has_old);
	for (unsigned i = 0; i < c->exts->n; i++) {
		enum cpu_ext_answer a;

		if (!c->exts->ext[i].ops->write)
			continue;
		a = c->exts->ext[i].ops->write(c->exts->ext[i].state, &w, &exit);
		if (a == CPU_EXT_ALLOW)
			continue;
		if (a == CPU_EXT_FAULT) {
			cpu_fault(c, VEC_GP, 0);
		} else if (a == CPU_EXT_LEAVE) {
			c->guard_exit = exit;
			c->exit = CPU_EXIT_GUARD;
			c->stop = true;
		} else if (a == CPU_EXT_RESTART) {
			return restart(c);
		}
		return a;
	}
	return CPU_EXT_ALLOW;
}

enum cpu_ext_answer sys_ext_insn(struct vcpu *c, struct cpu_ext_insn *x)
{
	x->cpu = &c->acc;
	for (unsigned i = 0; i < c->exts->n; i++) {
		enum cpu_ext_answer a;

		if (!c->exts->ext[i].ops->insn)
			continue;
		a = c->exts->ext[i].ops->insn(c->exts->ext[i].state, x);
		if (a == CPU_EXT_RESTART)
			return restart(c);
		if (a != CPU_EXT_ALLOW)
			return a;
	}
	return CPU_EXT_ALLOW;
}

bool cpu_ext_before(struct vcpu *c)
{
	bool ok = true;

	for (unsigned i = 0; ok && i < c->exts->n; i++)
		if (c->exts->ext[i].ops->before)
			ok = c->exts->ext[i].ops->before(c->exts->ext[i].state, &c->acc);
	return ok;
}

void cpu_ext_after(struct vcpu *c, bool retired)
{
	for (unsigned i = 0; i < c->exts->n; i++)
		if (c->exts->ext[i].ops->after)
			c->exts->ext[i].ops->after(c->exts->ext[i].state, &c->acc, retired);
}

/* The event at hand, before its delivery. False: c->exit is set, or it was taken away. */
bool cpu_ext_delivery(struct vcpu *c)
{
	struct cpu_ext_insn x = { .kind = CPU_EXT_INTERRUPT };
	uint32_t wants = atomic_load_explicit(&c->ext_wants, memory_order_relaxed);
	enum cpu_ext_answer a;

	if (c->ext_no_ask) {
		c->ext_no_ask = false;
		return true;
	}
	if (c->ev.exception.pending && c->ev.exception.vector == VEC_DB && wants & BIT(CPU_EXT_DEBUG)) {
		struct cpu_ext_insn d = { .kind = CPU_EXT_DEBUG, .a = c->ev.exception.payload, .b = c->ev.exception.icebp ? 5 : 3 };

		a = sys_ext_insn(c, &d);
		if (a == CPU_EXT_DISCARD)
			c->ev.exception.pending = false;
		if (a != CPU_EXT_ALLOW)
			return false;
	}
	if (!(wants & BIT(CPU_EXT_INTERRUPT)))
		return true;
	if (c->ev.exception.pending) {
		x.a = c->ev.exception.vector;
		x.b = c->ev.exception.soft ? 6 : 3;
		x.r[0] = c->ev.exception.has_error ? c->ev.exception.error : ~0u;
		x.c = c->ev.exception.vector == VEC_PF ? c->ev.exception.payload : c->acc.cr2;
	} else {
		x.a = c->ev.nmi.injected ? VEC_NMI : c->ev.interrupt.vector;
		x.b = c->ev.nmi.injected ? 2 : c->ev.interrupt.soft ? 4 : 0;
		x.r[0] = ~0u;
	}
	return sys_ext_insn(c, &x) != CPU_EXT_LEAVE;
}
