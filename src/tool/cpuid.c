/* SPDX-License-Identifier: MIT */
/* See cpuid.h. Fields after the Intel SDM, CPUID instruction, and the AMD APM volume 3, appendix E. */
#include "cpuid.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ENTRIES_MAX 256u

#define L1_EDX_HTT		(1u << 28)
#define L1_ECX_TSC_DEADLINE	(1u << 24)
#define L1_ECX_HYPERVISOR	(1u << 31)
#define TOPOLOGY_SMT		(1u << 8)
#define TOPOLOGY_CORE		(2u << 8)
#define VENDOR_AMD		0x68747541u	/* "Auth" */
#define VENDOR_HYGON		0x6f677948u	/* "Hygo" */
#define AMD1_ECX_CMP_LEGACY	(1u << 1)

/* Bits needed to number n things. */
static unsigned id_bits(unsigned n)
{
	unsigned bits = 0;

	while ((1u << bits) < n)
		bits++;
	return bits;
}

static void patch_leaf1(struct kvm_cpuid_entry2 *e, unsigned id, unsigned cpus, int tsc_deadline)
{
	unsigned logical = 1u << id_bits(cpus);

	/* The logical count is a byte; ids above 254 are known by leaf 0xb only. */
	e->ebx = (e->ebx & 0x0000ffff) | (logical > 255 ? 255 : logical) << 16 | (id & 0xff) << 24;
	e->edx = cpus > 1 ? e->edx | L1_EDX_HTT : e->edx & ~L1_EDX_HTT;
	e->ecx |= L1_ECX_HYPERVISOR;
	e->ecx = tsc_deadline ? e->ecx | L1_ECX_TSC_DEADLINE : e->ecx & ~L1_ECX_TSC_DEADLINE;
}

/* Deterministic cache parameters: how many ids share the cache, how many core ids the package has. */
static void patch_leaf4(struct kvm_cpuid_entry2 *e, unsigned cpus)
{
	unsigned level = (e->eax >> 5) & 7, span = (1u << id_bits(cpus)) - 1;

	if (!(e->eax & 0x1f))
		return;
	e->eax = (e->eax & 0x3fff) | (level >= 3 ? span & 0xfff : 0) << 14 | (span & 0x3f) << 26;
}

static void patch_topology(struct kvm_cpuid_entry2 *e, unsigned id, unsigned cpus)
{
	e->eax = e->ebx = 0;
	e->ecx = e->index;
	e->edx = id;
	if (e->index == 0) {
		e->ebx = 1;
		e->ecx |= TOPOLOGY_SMT;
	} else if (e->index == 1) {
		e->eax = id_bits(cpus);
		e->ebx = cpus;
		e->ecx |= TOPOLOGY_CORE;
	}
}

static struct kvm_cpuid_entry2 *find(struct kvm_cpuid2 *cpuid, uint32_t function, uint32_t index)
{
	uint32_t i;

	for (i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == function && cpuid->entries[i].index == index)
			return &cpuid->entries[i];
	return NULL;
}

/* Topology leaves need both levels; KVM may give only the first. The caller left room for them. */
static void complete_topology(struct kvm_cpuid2 *cpuid, uint32_t function)
{
	uint32_t index;

	if (!find(cpuid, function, 0))
		return;
	for (index = 1; index <= 2; index++) {
		if (find(cpuid, function, index))
			continue;
		cpuid->entries[cpuid->nent++] = (struct kvm_cpuid_entry2){
			.function = function, .index = index, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		};
	}
}

void cpuid_patch(struct kvm_cpuid2 *cpuid, unsigned id, unsigned cpus, int tsc_deadline)
{
	const struct kvm_cpuid_entry2 *vendor = find(cpuid, 0, 0);
	bool amd = vendor && (vendor->ebx == VENDOR_AMD || vendor->ebx == VENDOR_HYGON);
	uint32_t i;

	complete_topology(cpuid, 0x0b);
	complete_topology(cpuid, 0x1f);
	for (i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *e = &cpuid->entries[i];

		switch (e->function) {
		case 0x01:
			patch_leaf1(e, id, cpus, tsc_deadline);
			break;
		case 0x04:
			patch_leaf4(e, cpus);
			break;
		case 0x0b:
		case 0x1f:
			patch_topology(e, id, cpus);
			break;
		case 0x80000001:
			e->ecx = amd && cpus > 1 ? e->ecx | AMD1_ECX_CMP_LEGACY : e->ecx & ~AMD1_ECX_CMP_LEGACY;
			break;
		case 0x80000008:
			if (amd)
				e->ecx = (e->ecx & ~0xf0ffu) | id_bits(cpus) << 12 | (cpus - 1);
			break;
		case 0x8000001e:
			e->eax = id;
			e->ebx = (e->ebx & ~0xffffu) | (id & 0xff);
			e->ecx &= ~0x7ffu;
			break;
		}
	}
}

int cpuid_set(const struct backend *backend, int system_fd, int vm_fd, int vcpu_fd, unsigned id, unsigned cpus,
	      void (*more)(struct kvm_cpuid2 *cpuid), struct err *err)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + (ENTRIES_MAX + 4) * sizeof(cpuid->entries[0]));
	bool deadline;
	long ret;

	if (!cpuid)
		return err_set(err, "out of memory");
	cpuid->nent = ENTRIES_MAX - 4;
	ret = backend->ioctl(system_fd, KVM_GET_SUPPORTED_CPUID, (uintptr_t)cpuid);
	if (ret < 0 || cpuid->nent > ENTRIES_MAX - 4) {
		free(cpuid);
		return err_set(err, "KVM_GET_SUPPORTED_CPUID failed: %s", strerror((int)-ret));
	}
	deadline = backend->ioctl(vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
	cpuid_patch(cpuid, id, cpus, deadline);
	if (more)
		more(cpuid);
	ret = backend->ioctl(vcpu_fd, KVM_SET_CPUID2, (uintptr_t)cpuid);
	free(cpuid);
	return ret < 0 ? err_set(err, "KVM_SET_CPUID2 for CPU %u failed: %s", id, strerror((int)-ret)) : 0;
}
