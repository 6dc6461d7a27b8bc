/* SPDX-License-Identifier: MIT */
/*
 * Locked read-modify-write where the probe missed. On plain memory within a page the host's own locked instruction does the
 * work, also on pages that hold code; across two pages every other vCPU is stopped for the moment. Devices see a load and a store.
 */
#include "cpu/interp/interp_private.h"

bool int_lock_begin(struct vcpu *c, const struct cpu_op *o, uint64_t la, unsigned len, struct int_lock *l)
{
	l->exclusive = false;
	l->p = NULL;
	if (!cpu_ref_get(c, o, la, len, ACC_RW, &l->ref))
		return false;
	if (l->ref.p) {
		l->p = l->ref.p;
		return true;
	}
	if (l->ref.n == 1) {
		if (l->ref.piece[0].verdict == ACC_ALLOW)
			l->p = l->ref.piece[0].hva;
		return true;
	}
	acc_exclusive_begin(&c->acc);
	/* Others' wishes to narrow rights may have been answered while we waited: judge again. */
	if (!cpu_ref_get(c, o, la, len, ACC_RW, &l->ref)) {
		acc_exclusive_end(&c->acc);
		return false;
	}
	l->exclusive = true;
	return true;
}

void int_lock_end(struct vcpu *c, struct int_lock *l)
{
	if (l->exclusive)
		acc_exclusive_end(&c->acc);
	else if (l->p && l->ref.code && acc_store_done(c->acc.vm, l->p, l->ref.len))
		c->stats.smc_hits++;
}
