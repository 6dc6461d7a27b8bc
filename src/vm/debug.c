/* SPDX-License-Identifier: MIT */
/*
 * Debug registers, and debugging of the guest by the client. The processor (cpu/sys) finds breakpoints and steps; here the
 * client's wishes are stored and it is decided whose a breakpoint is.
 */
#include <errno.h>
#include <string.h>

#include "vm/vm.h"

#define DR6_INIT	0xffff0ff0ull

void vm_get_debugregs(struct vm_vcpu *v, struct kvm_debugregs *d)
{
	memset(d, 0, sizeof(*d));
	memcpy(d->db, v->c.dr, sizeof(d->db));
	d->dr6 = v->c.dr6;
	d->dr7 = v->c.dr7;
}

int vm_set_debugregs(struct vm_vcpu *v, const struct kvm_debugregs *d)
{
	if (d->flags || d->dr6 >> 32 || d->dr7 >> 32)
		return -EINVAL;
	memcpy(v->c.dr, d->db, sizeof(d->db));
	v->c.dr6 = (d->dr6 & 0xe00f) | DR6_INIT;
	v->c.dr7 = (d->dr7 & 0xffff2bff) | 0x400;
	return 0;
}

int vm_set_guest_debug(struct vm_vcpu *v, const struct kvm_guest_debug *d)
{
	struct vcpu *c = &v->c;
	uint32_t inject = d->control & (KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP);

	if (inject) {
		if (c->ev.exception.pending)
			return -EBUSY;
		c->ev.exception.pending = true;
		c->ev.exception.vector = inject & KVM_GUESTDBG_INJECT_DB ? VEC_DB : VEC_BP;
		c->ev.exception.has_error = c->ev.exception.has_payload = false;
		/* Injected, not executed: no gate privilege check, RIP as it is. */
		c->ev.exception.soft = c->ev.exception.icebp = c->ev.exception.injected = false;
	}
	memset(&c->dbg, 0, sizeof(c->dbg));
	if (!(d->control & KVM_GUESTDBG_ENABLE))
		return 0;
	c->dbg.control = d->control;
	if (d->control & KVM_GUESTDBG_USE_HW_BP)
		memcpy(c->dbg.dr, d->arch.debugreg, sizeof(c->dbg.dr));
	return 0;
}

bool vm_debug_takes(struct vcpu *c, unsigned vector)
{
	uint32_t control = c->dbg.control;

	if (!(control & KVM_GUESTDBG_ENABLE))
		return false;
	if (vector == VEC_BP)
		return control & KVM_GUESTDBG_USE_SW_BP;
	return vector == VEC_DB && control & (KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP);
}
