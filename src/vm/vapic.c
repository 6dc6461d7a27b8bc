/* SPDX-License-Identifier: MIT */
/*
 * The vAPIC page: four bytes of guest memory in which KVM shows a patched guest its task priority and takes changes of it:
 * priority, 0, class of the highest interrupt in service, highest interrupt requested.
 *
 * KVM_TPR_ACCESS_REPORTING is accepted and never reports, as where hardware has a TPR shadow (KVM_CAP_VAPIC 0): clients then
 * patch nothing.
 */
#include <errno.h>
#include <string.h>

#include "vm/vm.h"

#define APIC_TPR	0x80u
#define APIC_ISR	0x100u
#define APIC_IRR	0x200u

int vm_set_vapic_addr(struct vm_vcpu *v, uint64_t addr)
{
	bool has_slot;

	if (!v->lapic)
		return -EINVAL;
	acc_host_begin(v->vm->acc);
	has_slot = mem_slot_of_gfn(acc_vm_map(v->vm->acc), gpa_gfn(GPA(addr)));
	acc_host_end(v->vm->acc);
	if (addr && !has_slot)
		return -EINVAL;
	v->vapic_addr = addr;
	return 0;
}

int vm_set_tpr_reporting(struct vm_vcpu *v, const struct kvm_tpr_access_ctl *ctl)
{
	return ctl->flags ? -EINVAL : 0;
}

/* The highest bit of eight registers of 32, or 0. */
static uint32_t highest(const struct kvm_lapic_state *s, unsigned reg)
{
	for (unsigned i = 8; i-- > 0;) {
		uint32_t bits;

		memcpy(&bits, s->regs + reg + i * 16, sizeof(bits));
		if (bits)
			return i * 32 + 31 - (uint32_t)__builtin_clz(bits);
	}
	return 0;
}

void vm_vapic_show(struct vm_vcpu *v)
{
	struct kvm_lapic_state s;
	uint32_t word;

	if (likely(!v->vapic_addr) || dev_lapic_get_state(v->lapic, &s))
		return;
	word = (uint8_t)s.regs[APIC_TPR] | (highest(&s, APIC_ISR) & 0xf0) << 8 | highest(&s, APIC_IRR) << 24;
	vm_pv_write(v, GPA(v->vapic_addr), &word, sizeof(word));
}

/* Only what the guest changed: the register holds more than CR8 can. */
void vm_vapic_take(struct vm_vcpu *v)
{
	uint32_t word;

	if (likely(!v->vapic_addr) || !vm_pv_read(v, GPA(v->vapic_addr), &word, sizeof(word)))
		return;
	if ((word >> 4 & 15) != dev_lapic_cr8(v->lapic))
		dev_lapic_set_cr8(v->lapic, word >> 4 & 15);
}
