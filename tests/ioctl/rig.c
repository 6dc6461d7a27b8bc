/* SPDX-License-Identifier: MIT */
#include "rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

int rig_vcpu(struct rig *r, unsigned id, struct kvm_run **run)
{
	long fd = rig_ioctl_n(r->vm, KVM_CREATE_VCPU, id);
	int err;

	assert_true(fd >= 0);
	*run = gw_mmap(12288, PROT_READ | PROT_WRITE, MAP_SHARED, (int)fd, 0, &err);
	assert_non_null(*run);
	return (int)fd;
}

void rig_set_cpuid(struct rig *r, int vcpu)
{
	struct rig_cpuid c = { .nent = 100 };

	assert_int_equal(rig_ioctl(r->sys, KVM_GET_SUPPORTED_CPUID, &c), 0);
	assert_int_equal(rig_ioctl(vcpu, KVM_SET_CPUID2, &c), 0);
}

void rig_open(struct rig *r, unsigned flags)
{
	struct kvm_userspace_memory_region region = { .memory_size = RIG_RAM };
	struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { 24 } };

	memset(r, 0, sizeof(*r));
	r->vcpu = -1;
	r->sys = gw_open();
	assert_true(r->sys >= 0);
	r->vm = (int)rig_ioctl_n(r->sys, KVM_CREATE_VM, 0);
	assert_true(r->vm >= 0);
	r->ram = mmap(NULL, RIG_RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(r->ram != MAP_FAILED);
	region.userspace_addr = (uintptr_t)r->ram;
	assert_int_equal(rig_ioctl(r->vm, KVM_SET_USER_MEMORY_REGION, &region), 0);
	if (flags & RIG_IRQCHIP)
		assert_int_equal(rig_ioctl_n(r->vm, KVM_CREATE_IRQCHIP, 0), 0);
	if (flags & RIG_SPLIT)
		assert_int_equal(rig_ioctl(r->vm, KVM_ENABLE_CAP, &split), 0);
	if (flags & RIG_NO_VCPU)
		return;
	r->vcpu = rig_vcpu(r, 0, &r->run);
	if (flags & RIG_CPUID)
		rig_set_cpuid(r, r->vcpu);
}

void rig_close(struct rig *r)
{
	if (r->run)
		munmap(r->run, 12288);
	if (r->vcpu >= 0)
		assert_int_equal(gw_close(r->vcpu), 0);
	assert_int_equal(gw_close(r->vm), 0);
	assert_int_equal(gw_close(r->sys), 0);
	munmap(r->ram, RIG_RAM);
}

void rig_real_mode(int vcpu, uint64_t rip)
{
	struct kvm_regs regs = { .rip = rip, .rsp = 0x8000, .rflags = 2 };
	struct kvm_sregs s;

	assert_int_equal(rig_ioctl(vcpu, KVM_GET_SREGS, &s), 0);
	s.cs.base = 0;
	s.cs.selector = 0;
	assert_int_equal(rig_ioctl(vcpu, KVM_SET_SREGS, &s), 0);
	assert_int_equal(rig_ioctl(vcpu, KVM_SET_REGS, &regs), 0);
}

void rig_code(struct rig *r, const void *code, size_t n)
{
	memcpy(r->ram + RIG_CODE, code, n);
	rig_real_mode(r->vcpu, RIG_CODE);
}

long rig_run(struct rig *r)
{
	long ret;

	do {
		ret = rig_ioctl_n(r->vcpu, KVM_RUN, 0);
	} while (ret == -EINTR || ret == -EAGAIN);
	return ret;
}
