/* SPDX-License-Identifier: MIT */
/* A VM whose second slot has a guest_memfd, and real-mode guests that read, write and execute there. */
#ifndef GW_TESTS_PRIVATE_PRIG_H
#define GW_TESTS_PRIVATE_PRIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <guestward/guestward.h>
#include <guestward/kvm.h>

#define PAGE		4096u
#define PRIG_RAM	0x40000u	/* slot 0: plain memory at 0 */
#define PRIG_AT		0x80000u	/* slot 1: N_PAGES pages with a guest_memfd behind them */
#define N_PAGES		16u
#define PRIG_SIZE	(N_PAGES * PAGE)
#define PRIG_VCPUS	4u
#define PRIG_FLAG	0x500u		/* a byte of RAM that spinning guests mirror into; + vCPU index */

struct prig {
	int sys, vm, gmem, n_vcpus;
	int vcpu[PRIG_VCPUS];
	struct kvm_run *run[PRIG_VCPUS];
	uint64_t cs_base[PRIG_VCPUS];	/* ~0: not set up yet */
	uint8_t *ram, *shared;
};

#define SW	KVM_X86_SW_PROTECTED_VM
#define SHARED	(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)

static inline long pioctl(int fd, unsigned long nr, const void *arg) { return gw_ioctl(fd, nr, (uintptr_t)arg); }

/* All fail the test on error. With @gmem_flags a guest_memfd of N_PAGES is bound as slot 1. */
void prig_open(struct prig *p, unsigned long type, uint64_t gmem_flags);
void prig_close(struct prig *p);
int prig_gmem(struct prig *p, uint64_t size, uint64_t flags);
long prig_slot(struct prig *p, unsigned slot, uint64_t gpa, uint64_t size, void *user, int gmem, uint64_t offset);
long prig_delete(struct prig *p, unsigned slot);
long prig_convert(struct prig *p, uint64_t gpa, uint64_t size, bool is_private);
long prig_punch(int gmem, uint64_t offset, uint64_t len);

/* One access of vCPU @v at PRIG_AT + @off. Returns what KVM_RUN returned, 0 when it was made; *kind: exit reason. */
long prig_read(struct prig *p, unsigned v, uint32_t off, uint8_t *value);
long prig_write(struct prig *p, unsigned v, uint32_t off, uint8_t value);
const struct gw_run_memory_fault *prig_fault(struct prig *p, unsigned v);
/* -EFAULT with a memory fault of this kind at this page; else fails. */
void prig_expect_fault(struct prig *p, unsigned v, long ret, uint64_t gpa, bool is_private);

/* Prepares vCPU @v to loop: read PRIG_AT + off, mirror into RAM at PRIG_FLAG + v. Run it with KVM_RUN from a thread. */
void prig_spin(struct prig *p, unsigned v, uint32_t off);
void prig_set(struct prig *p, unsigned v, uint64_t rip, uint32_t di, uint8_t al);

#endif
