/* SPDX-License-Identifier: MIT */
/*
 * A 64-bit guest of a few bytes of code for tests of kernel integrity: identity-mapped RAM, one writable shared code area, an
 * IDT whose handlers halt with the vector in R15, through the public API only. Code is emitted by small functions.
 */
#ifndef GW_TESTS_HEKI_GUEST_H
#define GW_TESTS_HEKI_GUEST_H

#include "../ioctl/rig.h"

#define G_PML4		0x10000u
#define G_PDPT		0x11000u
#define G_PD		0x12000u
#define G_PT		0x13000u	/* first 2 MiB, 4 KiB pages */
#define G_IDT		0x14000u
#define G_STUBS		0x15000u
#define G_GDT		0x16000u
#define G_TSS		0x17000u
#define G_CODE		0x20000u	/* supervisor */
#define G_USER_CODE	0x28000u	/* user pages from here on, and the stack page */
#define G_STACK		0x1f000u	/* top */
#define G_DATA		0x30000u	/* 16 pages for tests */

#define CR0_WP_BIT	0x10000ull
#define CR4_SMEP_BIT	0x100000ull
#define CR4_UMIP_BIT	0x800ull
#define CR4_FSGS_BIT	0x10000ull

struct guest {
	struct rig rig;
	struct gw_heki_event *events;
	uint64_t base;			/* where code is emitted */
	size_t len;
};

enum reg { R_AX, R_CX, R_DX, R_BX, R_SP, R_BP, R_SI, R_DI };

void guest_open(struct guest *g);
void guest_open_with(struct guest *g, unsigned flags);	/* of the rig */
void guest_close(struct guest *g);
/* A vCPU's registers for G_CODE at @cpl; the code emitted so far is in place. */
void guest_start(struct guest *g, unsigned cpl);
/* New code at CPL 0 with the special registers as they are. */
void guest_again(struct guest *g);
void guest_start_vcpu(struct guest *g, int fd, unsigned cpl, uint64_t rip, uint64_t rsp);
void emit(struct guest *g, const void *bytes, size_t n);
void emit_mov(struct guest *g, enum reg r, uint64_t value);
#define EMIT(g, ...) do { static const uint8_t bytes_[] = { __VA_ARGS__ }; emit(g, bytes_, sizeof(bytes_)); } while (0)
void emit_hlt(struct guest *g);
void emit_hypercall(struct guest *g, uint64_t nr, uint64_t a0, uint64_t a1, uint64_t a2);	/* result in RAX */
/* Run from the code's start to HLT; returns RAX. Fails the test on another exit. */
uint64_t guest_result(struct guest *g);
int64_t guest_hypercall(struct guest *g, uint64_t nr, uint64_t a0, uint64_t a1, uint64_t a2);
/* What the handler of an exception found: vector, or -1 when the code reached its own HLT. */
int guest_vector(struct guest *g);
uint64_t guest_error(struct guest *g);
uint64_t guest_cr2(struct guest *g);
struct kvm_regs guest_regs(struct guest *g);
struct kvm_sregs guest_sregs(struct guest *g);
void guest_set_sregs(struct guest *g, const struct kvm_sregs *s);
/* Client's side. */
void guest_protect(struct guest *g, uint64_t gpa, uint64_t size, uint64_t attributes);	/* NR, NW, NX and what else */
void guest_enable(struct guest *g, unsigned cap, uint64_t arg);
struct gw_heki_counters guest_counters(struct guest *g);
/* A counter of the vCPU, by its name in KVM_GET_STATS_FD. */
uint64_t guest_stat(struct guest *g, const char *name);
/* The last event. */
struct gw_heki_event guest_event(struct guest *g);

#endif
