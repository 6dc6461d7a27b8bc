/* SPDX-License-Identifier: MIT */
/*
 * Asynchronous page faults, as a host has them that never takes a guest's page away: the guest may switch them on, and is not told
 * of any. What is left of KVM's protocol is the one event that switching on causes there: "whatever you still wait for is here",
 * token ~0, by an interrupt. The state is three MSRs, which a client saves and restores.
 */
#include <errno.h>

#include "base/trace.h"
#include "vm/vm.h"

#define EN_ON		BIT64(0)
#define EN_VMEXIT	BIT64(2)
#define EN_BY_INT	BIT64(3)
#define EN_RESERVED	0x30ull
#define DATA_MASK	(~0x3full)
#define TOKEN_AT	4u		/* struct kvm_vcpu_pv_apf_data: flags, token */
#define WAKE_ALL	0xffffffffu

static bool is_on(const struct vm_vcpu *v)
{
	return (v->apf_msr & (EN_ON | EN_BY_INT)) == (EN_ON | EN_BY_INT);
}

static struct gpa token_at(const struct vm_vcpu *v)
{
	return GPA((v->apf_msr & DATA_MASK) + TOKEN_AT);
}

static bool is_memory(struct vm_vcpu *v, struct gpa gpa)
{
	bool has_slot;

	acc_host_begin(v->vm->acc);
	has_slot = mem_slot_of_gfn(acc_vm_map(v->vm->acc), gpa_gfn(gpa));
	acc_host_end(v->vm->acc);
	return has_slot;
}

int vm_async_pf_set_msr(struct vm_vcpu *v, uint64_t value, bool has_vmexit, bool has_int)
{
	bool on = (value & (EN_ON | EN_BY_INT)) == (EN_ON | EN_BY_INT);

	if (value & EN_RESERVED || (value & EN_VMEXIT && !has_vmexit) || (value & EN_BY_INT && !has_int))
		return -EINVAL;
	if (!v->lapic)
		return value ? -EINVAL : 0;
	if (on && !is_memory(v, GPA(value & DATA_MASK)))
		return -EINVAL;
	v->apf_msr = value;
	v->is_apf_due = on;
	if (on)
		vm_vcpu_request(v, VM_REQ_ASYNC_PF);
	return 0;
}

int vm_async_pf_set_int(struct vm_vcpu *v, uint64_t value)
{
	if (value >> 8 || (value && !v->lapic))
		return -EINVAL;
	v->apf_int_msr = value;
	return 0;
}

int vm_async_pf_ack(struct vm_vcpu *v, uint64_t value)
{
	if (value & 1 && v->is_apf_due)
		vm_vcpu_request(v, VM_REQ_ASYNC_PF);
	return 0;
}

void vm_async_pf_ready(struct vm_vcpu *v)
{
	uint32_t token = WAKE_ALL;
	bool ok;

	if (!v->is_apf_due || !is_on(v)) {
		v->is_apf_due = false;
		return;
	}
	/* Not while the guest has not read the last one: its acknowledgement comes back to here. */
	if (!dev_lapic_is_enabled(v->lapic) || !vm_pv_read(v, token_at(v), &token, sizeof(token)) || token)
		return;
	token = WAKE_ALL;
	v->is_apf_due = false;
	ok = vm_pv_write(v, token_at(v), &token, sizeof(token));
	gw_trace(pv_write, (int)v->index, v->c.stats.insns, "asyncpf", (unsigned long long)token_at(v).v, (unsigned)sizeof(token), ok);
	if (ok)
		dev_lapic_raise(v->lapic, (uint8_t)v->apf_int_msr);
}
