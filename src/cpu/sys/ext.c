/* SPDX-License-Identifier: MIT */
/* Asks the rooms plugged into the processor (cpu/ext.h) about a register write: the first that does not allow it decides. */
#include "cpu/sys/sys_private.h"

enum cpu_ext_answer sys_ext_ask(struct vcpu *c, unsigned reg, uint32_t index, uint64_t value)
{
	struct cpu_ext_write w = { .cpu = &c->acc, .reg = (uint8_t)reg, .index = index, .value = value };
	struct acc_exit exit = { 0 };

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
		}
		return a;
	}
	return CPU_EXT_ALLOW;
}
