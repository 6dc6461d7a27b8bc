/* SPDX-License-Identifier: MIT */
/*
 * PV EOI: a byte of guest memory whose bit 0 tells the guest that clearing it ends its interrupt; the LAPIC half is in
 * dev/lapic.c. The byte is set when an interrupt is acknowledged, and taken back before anybody can see the LAPIC otherwise:
 * the guest by its registers, another interrupt that waits, the client by any exit. So nothing of it is state to save but the MSR.
 *
 * Both directions go through the access path: a guard may refuse the page, and then the guest ends its interrupts as without us.
 */
#include <errno.h>

#include "base/trace.h"
#include "vm/vm.h"

#define MSR_ENABLED	1ull
#define MSR_RESERVED	2ull	/* the byte's address is a multiple of 4 */
#define BYTE_PENDING	1u

static struct gpa byte_at(const struct vm_vcpu *v)
{
	return GPA(v->pv_eoi_msr & ~MSR_ENABLED);
}

int vm_pv_eoi_set_msr(struct vm_vcpu *v, uint64_t value)
{
	bool has_slot;

	if (value & MSR_RESERVED)
		return -EINVAL;
	acc_host_begin(v->vm->acc);
	has_slot = mem_slot_of_gfn(acc_vm_map(v->vm->acc), gpa_gfn(GPA(value)));
	acc_host_end(v->vm->acc);
	if (value & MSR_ENABLED && !has_slot)
		return -EINVAL;
	vm_pv_eoi_sync(v);
	v->pv_eoi_msr = value;
	return 0;
}

static bool read_byte(struct vm_vcpu *v, uint8_t *byte)
{
	return vm_pv_read(v, byte_at(v), byte, sizeof(*byte));
}

static bool write_byte(struct vm_vcpu *v, uint8_t byte)
{
	bool ok = vm_pv_write(v, byte_at(v), &byte, sizeof(byte));

	gw_trace(pv_write, (int)v->index, v->c.stats.insns, "eoi", (unsigned long long)byte_at(v).v, 1u, ok);
	return ok;
}

void vm_pv_eoi_arm(struct vm_vcpu *v)
{
	uint8_t byte = 0;

	if (likely(!(v->pv_eoi_msr & MSR_ENABLED)) || !v->lapic || !dev_lapic_pv_eoi_arm(v->lapic))
		return;
	/* Read again: a store that a guard has dropped would look as if the guest had cleared the byte at once. */
	if (write_byte(v, BYTE_PENDING) && read_byte(v, &byte) && byte & BYTE_PENDING)
		v->is_pv_eoi_armed = true;
	else
		dev_lapic_pv_eoi_sync(v->lapic, false);
}

void vm_pv_eoi_take(struct vm_vcpu *v)
{
	uint8_t byte = 0;
	bool waits;

	v->is_pv_eoi_armed = false;
	v->stats.pv_eois++;
	/* A byte that cannot be read or taken back any more counts as cleared: the guest may still see it set, and do no other EOI. */
	waits = read_byte(v, &byte) && byte & BYTE_PENDING && write_byte(v, 0);
	dev_lapic_pv_eoi_sync(v->lapic, !waits);
}
