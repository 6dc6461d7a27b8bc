/* SPDX-License-Identifier: MIT */
/*
 * The request and the verdict: what every guest access becomes, whoever makes it, and what may be answered.
 *
 * Everything but ACC_ALLOW promises that nothing the guest can see has changed (A bits of the walk excepted).
 */
#ifndef GW_ACCESS_REQUEST_H
#define GW_ACCESS_REQUEST_H

#include "base/types.h"

struct acc_cpu;
struct acc_vm;

#define ACC_R	0x1u
#define ACC_W	0x2u
#define ACC_X	0x4u
#define ACC_RW	(ACC_R | ACC_W)

enum acc_stage {
	ACC_FINAL,	/* the instruction's own operand, or its bytes */
	ACC_WALK,	/* a page walk's table read or A/D write: gpa known, gva is the address being translated */
	ACC_IMPLICIT,	/* descriptors, exception frames, TSS: supervisor whatever the CPL, SMAP applies whatever EFLAGS.AC */
};

enum acc_origin {
	ACC_INSN,	/* a guest instruction */
	ACC_ENGINE,	/* the engine on the guest's behalf: event delivery, task switch */
	ACC_PV,		/* kvmclock, steal time, PV EOI, hypercall patching */
	ACC_DMA,	/* a device */
	ACC_IOCTL,	/* the client: KVM_TRANSLATE, debug reads */
};

struct acc_request {
	/* Asked; constant for the life of the request. */
	struct acc_cpu *cpu;		/* NULL only for ACC_DMA and ACC_IOCTL */
	struct acc_vm *vm;		/* needed only when cpu is NULL: whose memory (see acc_host_begin) */
	struct gva gva;			/* linear address; unused when by_gpa */
	uint16_t len;			/* bytes, within one page: an access across pages is two requests */
	uint8_t rights;			/* ACC_R | ACC_W | ACC_X; a read-modify-write asks R | W at once */
	uint8_t stage;			/* enum acc_stage */
	uint8_t origin;			/* enum acc_origin */
	uint8_t cpl;			/* 3 = user; implicit accesses carry 0 */
	bool stack;			/* through SS: a non-canonical address is #SS, not #GP */
	bool by_gpa;			/* starts from gpa: no walk (PV writers, DMA, walks themselves) */
	/* Found by the walk (or given, with by_gpa); guards read it, never write it. */
	struct gpa gpa;
	bool user_translation;		/* the guest's tables say user; not the same as cpl */
	bool private_bit;		/* C-bit set in the translation, or the private kind asked for */
	uint8_t page_shift;		/* size of the guest's page: 12, 21, 22, 30 */
};

enum acc_verdict {
	ACC_ALLOW,	/* plain memory: out->hva */
	ACC_DEVICE,	/* no memory here: in-kernel device, ioeventfd, coalesced ring or MMIO exit */
	ACC_SUBST,	/* other bytes or another frame: out->subst says which */
	ACC_FAULT,	/* out->event goes to the guest */
	ACC_EXIT,	/* out->exit goes to the client */
	ACC_WAIT,	/* somebody must answer first: drop every lock, block in the guard's wait, ask again */
	ACC_RETRY,	/* the map moved while we looked: walk again */
};

struct acc_event {
	uint8_t vector;
	bool has_error;
	uint32_t error;
	uint64_t cr2;		/* #PF only */
};

#define ACC_EXIT_INTERNAL_ERROR	17	/* KVM_EXIT_INTERNAL_ERROR */
#define ACC_EXIT_MEMORY_FAULT	39	/* KVM_EXIT_MEMORY_FAULT: data is flags, gpa, size */

/* An exit a guard asks for. Reasons are KVM's exit numbers or ours; the payload is the union of kvm_run, built by the guard. */
struct acc_exit {
	uint32_t reason;
	int32_t err;		/* what KVM_RUN returns: 0, or -EFAULT with KVM_EXIT_MEMORY_FAULT */
	uint64_t data[8];
};

enum acc_subst {
	SUBST_FRAME,	/* the access goes to out->hva instead (remapped view, sink) */
	SUBST_ONES,	/* reads give all ones, writes are dropped (SGX abort page) */
	SUBST_DISCARD,	/* reads are normal (out->hva), writes are dropped */
	SUBST_DATA,	/* reads give out->data (monitor's answer); writes are normal */
	SUBST_VET,	/* reads are normal (out->hva), writes go to the guard's vet(), which sees the bytes */
};

struct acc_result {
	uint8_t *hva;		/* ALLOW, and SUBST_FRAME / _DISCARD / _DATA; DEVICE by a store to read-only memory: reads still come from here */
	uint8_t silent;		/* rights of the same page that every guard would allow without being asked again; what the TLB may remember */
	uint8_t guard;		/* index of the guard that gave the verdict; ACC_NO_GUARD: the walk or the slot check */
	uint8_t subst;		/* enum acc_subst */
	struct acc_event event;
	struct acc_exit exit;
	uint8_t data[64];	/* SUBST_DATA */
	uint8_t data_len;
};

#define ACC_NO_GUARD	0xff

#endif
