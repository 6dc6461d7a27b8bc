/* SPDX-License-Identifier: MIT */
/*
 * What CPUID says in the machine: everything the engine supports, with the leaves that differ per CPU (APIC id, topology)
 * filled in. The machine is one package with n cores of one thread each.
 */
#ifndef TOOL_CPUID_H
#define TOOL_CPUID_H

#include <guestward/kvm.h>

#include "backend.h"
#include "err.h"

/* Patches a table as KVM_GET_SUPPORTED_CPUID gave it. Pure. */
void cpuid_patch(struct kvm_cpuid2 *cpuid, unsigned id, unsigned cpus, int tsc_deadline);

int cpuid_set(const struct backend *backend, int system_fd, int vm_fd, int vcpu_fd, unsigned id, unsigned cpus,
	      void (*more)(struct kvm_cpuid2 *cpuid), struct err *err);

#endif
