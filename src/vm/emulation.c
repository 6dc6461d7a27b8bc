/* SPDX-License-Identifier: MIT */
/* Instructions that are not emulated: KVM_INTERNAL_ERROR_EMULATION, with their bytes for clients that asked (KVM_CAP_EXIT_ON_EMULATION_FAILURE). */
#include <string.h>

#include "vm/vm.h"

/* The bytes at RIP, as far as they can be read without any effect. */
static unsigned insn_bytes(struct vm_vcpu *v, uint8_t bytes[15])
{
	struct acc_request rq = { .cpu = &v->c.acc, .gva = GVA(v->c.rip + v->c.seg_base[SEG_CS]), .rights = ACC_R, .stage = ACC_IMPLICIT,
				  .origin = ACC_IOCTL, .len = 1 };
	struct acc_result res;
	unsigned n = GW_PAGE_SIZE - (unsigned)(rq.gva.v & GW_PAGE_MASK);

	n = n < 15 ? n : 15;
	acc_enter(&v->c.acc);
	if (acc_translate(&rq, &res) != ACC_ALLOW)
		n = 0;
	acc_leave(&v->c.acc);
	return n && acc_peek(v->vm->acc, rq.gpa, bytes, n) ? n : 0;
}

int vm_emulation_exit(struct vm_vcpu *v)
{
	struct kvm_run *run = v->run;
	unsigned n;

	run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	memset(run->padding, 0, sizeof(run->padding));
	run->emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
	if (!v->vm->is_emulation_exit)
		return 0;
	run->emulation_failure.ndata = 1;
	n = insn_bytes(v, run->emulation_failure.insn_bytes);
	if (n) {
		run->emulation_failure.ndata = 3;
		run->emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
		run->emulation_failure.insn_size = (uint8_t)n;
	}
	return 0;
}

/* Is the instruction at RIP one of the x87's? Only its prefixes are looked at; in 64-bit mode REX is one. */
bool vm_is_x87(struct vm_vcpu *v)
{
	static const uint8_t prefixes[] = { 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3 };
	bool is_64_bit = v->c.acc.efer & EFER_LMA && v->c.seg[SEG_CS].l;
	uint8_t bytes[15];
	unsigned n = insn_bytes(v, bytes), i = 0;

	while (i < n && (memchr(prefixes, bytes[i], sizeof(prefixes)) || (is_64_bit && (bytes[i] & 0xf0) == 0x40)))
		i++;
	return i < n && (bytes[i] & 0xf8) == 0xd8;
}
