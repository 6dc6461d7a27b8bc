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

static inline long rig_ioctl(int fd, unsigned long nr, const void *arg) { return gw_ioctl(fd, nr, (uintptr_t)arg); }
static inline long rig_ioctl_n(int fd, unsigned long nr, unsigned long arg) { return gw_ioctl(fd, nr, arg); }
/* KVM_RUN until something other than EINTR/EAGAIN; returns what it returned. */
long rig_run(struct rig *r);

#endif
