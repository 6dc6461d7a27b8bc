/* SPDX-License-Identifier: MIT */
/* A VM with some RAM and one vCPU in real mode, for tests of the ioctls through the public API only. */
#ifndef GW_TESTS_IOCTL_RIG_H
#define GW_TESTS_IOCTL_RIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>

#include <guestward/guestward.h>
#include <guestward/kvm.h>

#define RIG_RAM		0x40000u	/* bytes, at guest-physical 0 */
#define RIG_CODE	0x1000u		/* where rig_code() puts code */
#define RIG_HOLE	0x80000u	/* nothing is here */

#define RIG_IRQCHIP	0x1u
#define RIG_SPLIT	0x2u
#define RIG_NO_VCPU	0x4u
#define RIG_CPUID	0x8u		/* the supported CPUID is set */

struct rig {
	int sys, vm, vcpu;
	uint8_t *ram;
	struct kvm_run *run;
};

/* Fails the test on error. */
void rig_open(struct rig *r, unsigned flags);
void rig_close(struct rig *r);
/* Code at RIG_CODE, and real-mode registers to run it: CS=0, RIP=RIG_CODE, SS=0, RSP=0x8000. */
void rig_code(struct rig *r, const void *code, size_t n);
void rig_real_mode(int vcpu, uint64_t rip);
int rig_vcpu(struct rig *r, unsigned id, struct kvm_run **run);
void rig_set_cpuid(struct rig *r, int vcpu);

#define rig_ioctl(fd, nr, arg)		gw_ioctl(fd, nr, (uintptr_t)(arg))
#define rig_ioctl_n(fd, nr, arg)	gw_ioctl(fd, nr, arg)

/* KVM's structures with a tail, with room for it. */
struct rig_cpuid { uint32_t nent, pad; struct kvm_cpuid_entry2 e[100]; };
struct rig_msrs { uint32_t nmsrs, pad; struct kvm_msr_entry e[255]; };
struct rig_routing { uint32_t nr, flags; struct kvm_irq_routing_entry e[1]; };
struct rig_signal_mask { uint32_t len; uint8_t sigset[8]; };
/* KVM_RUN until something other than EINTR/EAGAIN; returns what it returned. */
long rig_run(struct rig *r);

#endif
