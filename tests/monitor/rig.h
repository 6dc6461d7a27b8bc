/* SPDX-License-Identifier: MIT */
/*
 * A VM in long mode with identity pages, a monitor in the same process, and a list of what it was told. Supervisor; 4 KiB pages
 * below 2 MiB through TABLE; the second 2 MiB, linear FAR, through FAR_TABLE onto the same frames, so that a test can watch the
 * tables of an operand without watching those of its code.
 */
#ifndef GW_TESTS_MONITOR_RIG_H
#define GW_TESTS_MONITOR_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <guestward/guestward.h>
#include <guestward/kvm.h>
#include <guestward/monitor.h>

#define RAM		0x200000u
#define TABLE		0x4000u
#define FAR_TABLE	0x5000u
#define FAR		0x200000ull
#define GDT		0x6000u
#define IDT		0x7000u
#define TSS		0x8000u
#define HANDLER		0x9000u		/* of every exception: hlt */
#define CODE		0x10000u
#define STACK		0x20000u	/* page; RSP is STACK + 0xf00 */
#define PAGE_A		0x30000u
#define PAGE_B		0x31000u
#define PAGE_C		0x32000u
#define SEEN_MAX	64u
#define MAX_CPUS	16u

struct rig {
	int sys, vm, vcpu[MAX_CPUS], ram_fd;
	unsigned n_cpus;
	uint8_t *ram;
	struct kvm_run *run[MAX_CPUS];
	struct gw_mon_event seen[SEEN_MAX];
	unsigned n_seen;
	/* What the monitor answers; NULL: flags. */
	void (*answer)(struct rig *r, const struct gw_mon_event *ev, struct gw_mon_answer *a);
	uint32_t flags;
	uint8_t before[16];		/* of PAGE_A, when the last event came */
};

void rig_open(struct rig *r, unsigned cpus);
void rig_open_type(struct rig *r, unsigned cpus, unsigned long type);
void rig_add_cpu(struct rig *r);
void rig_attach(struct rig *r, uint32_t policy);
void rig_close(struct rig *r);
/* Code at CODE on vCPU 0 with all registers as given but RIP, RSP and RFLAGS if zero. */
void rig_load(struct rig *r, const void *code, size_t n, const struct kvm_regs *regs);
/* KVM_RUN of vCPU 0 until HLT; the exit reason. */
uint32_t rig_run(struct rig *r);
struct kvm_regs rig_regs(struct rig *r, unsigned cpu);
/* A command; returns err, *r0 if not NULL gets r[0]. */
int rig_cmd(struct rig *r, uint32_t op, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t *r0);
void rig_access(struct rig *r, unsigned view, unsigned type, uint64_t gpa, uint64_t pages);
uint64_t *rig_pte(struct rig *r, uint64_t linear);

#endif
