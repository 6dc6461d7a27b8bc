/* SPDX-License-Identifier: MIT */
/* See private.h. The order of calls per run of RAM is QEMU's: file, slot, attributes. */
#include "private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <guestward/guestward.h>

#define PAGE			4096u
#define CHUNK			(2u << 20)
#define KVM_LEAF_FEATURES	0x40000001u
#define HC_MAP_GPA_RANGE	12u
#define HC_ENCRYPTED		(1ull << 4)

/* KVM's feature bits (Documentation/virt/kvm/x86/cpuid.rst): kvmclock old and new, async page faults, steal time, PV EOI, stable clock. */
#define HOST_WRITES	(1u << 0 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 10 | 1u << 14 | 1u << 24)
#define CAN_CONVERT	(1u << 16)

static int failed(struct err *err, const char *what, long ret)
{
	return err_set(err, "%s failed: %s", what, strerror((int)-ret));
}

static long vm_ioctl(struct machine *m, unsigned long request, const void *arg)
{
	return m->backend->ioctl(m->vm_fd, request, (uintptr_t)arg);
}

static long convert(struct machine *m, uint64_t gpa, uint64_t size, bool is_private)
{
	struct kvm_memory_attributes a = { .address = gpa, .size = size, .attributes = is_private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0 };

	return vm_ioctl(m, KVM_SET_MEMORY_ATTRIBUTES, &a);
}

int private_add_ram(struct machine *m, unsigned slot, uint64_t gpa, uint64_t size, void *host, struct err *err)
{
	struct kvm_create_guest_memfd file = { .size = size };
	struct kvm_userspace_memory_region2 region = {
		.slot = slot, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uintptr_t)host,
	};
	long ret = vm_ioctl(m, KVM_CREATE_GUEST_MEMFD, &file);

	if (ret < 0)
		return failed(err, "KVM_CREATE_GUEST_MEMFD", ret);
	m->gmem[slot] = (int)ret;
	region.guest_memfd = (uint32_t)ret;
	ret = vm_ioctl(m, KVM_SET_USER_MEMORY_REGION2, &region);
	if (ret < 0)
		return failed(err, "KVM_SET_USER_MEMORY_REGION2", ret);
	ret = convert(m, gpa, size, true);
	return ret < 0 ? failed(err, "KVM_SET_MEMORY_ATTRIBUTES", ret) : 0;
}

/* Only what was written: the rest is zeros on both sides. */
static long load_chunk(struct machine *m, uint64_t gpa, uint8_t *host, uint64_t size)
{
	unsigned char present[CHUNK / PAGE];
	long ret = mincore(host, size, present) ? -errno : 0;

	for (uint64_t at = 0; !ret && at < size;) {
		struct gw_populate p = { 0 };

		while (at < size && !(present[at / PAGE] & 1))
			at += PAGE;
		p.gpa = gpa + at;
		p.source = (uintptr_t)host + at;
		while (at < size && present[at / PAGE] & 1) {
			p.size += PAGE;
			at += PAGE;
		}
		while (!ret && p.size)
			ret = vm_ioctl(m, GW_POPULATE, &p);
	}
	return ret;
}

static int load_run(struct machine *m, uint64_t gpa, uint8_t *host, uint64_t size, struct err *err)
{
	for (uint64_t at = 0; at < size; at += CHUNK) {
		long ret = load_chunk(m, gpa + at, host + at, size - at < CHUNK ? size - at : CHUNK);

		if (ret)
			return failed(err, "GW_POPULATE", ret);
	}
	return madvise(host, size, MADV_DONTNEED) ? failed(err, "madvise", -errno) : 0;
}

int private_load(struct machine *m, struct err *err)
{
	if (load_run(m, 0, m->ram.host, m->ram.low, err) < 0)
		return -1;
	return m->ram.size > m->ram.low ? load_run(m, RAM_HIGH_START, m->ram.host + m->ram.low, m->ram.size - m->ram.low, err) : 0;
}

void private_patch_cpuid(struct kvm_cpuid2 *cpuid)
{
	for (uint32_t i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == KVM_LEAF_FEATURES)
			cpuid->entries[i].eax = (cpuid->entries[i].eax & ~HOST_WRITES) | CAN_CONVERT;
}

/* What the guest asked for, then the side that is left is given back. 0 or -errno for the guest. */
static long convert_for_guest(struct machine *m, uint64_t gpa, uint64_t pages, bool is_private)
{
	uint64_t size = pages * PAGE;
	void *host = pages > m->ram.size / PAGE ? NULL : ram_at(&m->ram, gpa, size);
	unsigned slot = gpa >= RAM_HIGH_START;
	long ret;

	if (!host)
		return -EINVAL;
	ret = convert(m, gpa, size, is_private);
	if (ret)
		return ret;
	if (is_private)
		return madvise(host, size, MADV_DONTNEED) ? -errno : 0;
	return gw_fallocate(m->gmem[slot], 3 /* KEEP_SIZE | PUNCH_HOLE */, (int64_t)(slot ? gpa - RAM_HIGH_START : gpa), (int64_t)size);
}

bool private_exit(struct vcpu *v, long ret)
{
	const struct gw_run_memory_fault *f = (const void *)v->run->padding;
	struct machine *m = v->machine;

	if (ret >= 0 && v->run->exit_reason == KVM_EXIT_HYPERCALL && v->run->hypercall.nr == HC_MAP_GPA_RANGE) {
		v->run->hypercall.ret = (uint64_t)convert_for_guest(m, v->run->hypercall.args[0], v->run->hypercall.args[1],
								    v->run->hypercall.args[2] & HC_ENCRYPTED);
		return true;
	}
	if (ret != -EFAULT || v->run->exit_reason != KVM_EXIT_MEMORY_FAULT)
		return false;
	machine_stop(m, STOP_GUEST_DIED, 0, "the guest touched %s memory at 0x%llx that is not there (CPU %u)",
		     f->flags & KVM_MEMORY_EXIT_FLAG_PRIVATE ? "private" : "shared", (unsigned long long)f->gpa, v->id);
	return true;
}

void private_close(struct machine *m)
{
	for (unsigned i = 0; i < 2; i++)
		if (m->is_private && m->gmem[i] >= 0)
			m->backend->close(m->gmem[i]);
}
