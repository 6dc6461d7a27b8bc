/* SPDX-License-Identifier: MIT */
/*
 * THE CENTRE. Every guest access, by whatever part of the engine, becomes a request; acc_check() answers it.
 *
 *   pass 1  guest page walk (each table read and A/D write is itself a request of stage WALK)	-> #PF, #GP, #SS
 *   pass 2  slot and page kind, then the guards in order						-> device, exit, substitute, ...
 *
 * The fast path (the inline TLB probe) may remember an ALLOW, never decide one. Whoever narrows a right calls acc_forget().
 */
#ifndef GW_ACCESS_ACCESS_H
#define GW_ACCESS_ACCESS_H

#include <pthread.h>
#include <stdatomic.h>

#include "access/guard.h"
#include "access/request.h"
#include "mem/mem.h"

/* TLB modes: one for every state of the vCPU in which the same page has another verdict. */
enum acc_mode { ACC_MODE_KERNEL /* SMAP enforced or off */, ACC_MODE_KERNEL_AC /* EFLAGS.AC with SMAP on */, ACC_MODE_USER, ACC_N_MODES };

/* 64 MiB: a program that uses more pages than there are slots is as slow as its misses. */
#define ACC_TLB_BITS	14
#define ACC_TLB_SIZE	(1u << ACC_TLB_BITS)

/*
 * 16 bytes, at constant places, so that translated code can probe them. An entry hits when (gva ^ tag) has no bit above the
 * page offset. Slot i's empty tag is 1 << 63 | (i ^ SIZE/2) << 12 with addend 0: no address that selects slot i equals it
 * (engine.md 3.4), and translated code, which may look into another slot than the address selects, hits it with a
 * non-canonical address only: that faults in the host, too, and so comes to the handler.
 */
struct acc_tlb_entry {
	uint64_t tag;		/* page address */
	uint64_t addend;	/* hva - gva */
};

struct acc_tlb {
	struct acc_tlb_entry r[ACC_TLB_SIZE];
	struct acc_tlb_entry w[ACC_TLB_SIZE];	/* only pages that are readable too: a read-modify-write probes W alone */
};

/* An executable page as the fetcher sees it. */
struct acc_fetch {
	uint64_t tag;		/* page address; ~0: empty, or allowed for this one fetch and not to be remembered */
	uint8_t *hva;		/* of the page */
	struct mem_code *code;
	struct gpa gpa;		/* of the page */
};
#define ACC_FETCH_SIZE	4096u

/* attention: why a vCPU must leave translated or decoded code at the next block boundary. */
#define ACC_ATT_FORGET	0x01u	/* someone narrows a right: answer acc_safe_point() */
#define ACC_ATT_EVENT	0x02u	/* interrupt, NMI, INIT... may be pending */
#define ACC_ATT_EXIT	0x04u	/* leave KVM_RUN: kicked, immediate_exit */
#define ACC_ATT_STOP	0x08u	/* exclusive section wanted by another vCPU */
#define ACC_ATT_STATE	0x10u	/* the vCPU's own: single step, shadow, pending exit */

struct acc_vm;

/* The part of a vCPU that the access path knows; first member of struct vcpu. */
struct acc_cpu {
	_Atomic uint32_t attention;	/* ACC_ATT_*; one load per block */
	uint8_t mode;			/* enum acc_mode, of the current CPL and AC */
	uint8_t cpl;
	bool ac;			/* EFLAGS.AC */
	struct acc_tlb *cur;		/* &tlb[mode] */
	/* Paging state; whoever changes it calls acc_paging_changed(). */
	uint64_t cr0, cr3, cr4, efer;
	uint64_t cr2;
	uint64_t pdptr[4];		/* PAE paging, loaded with CR3 */
	uint32_t pkru, pkrs;		/* protection keys of user and of supervisor pages */
	uint8_t maxphyaddr;
	uint8_t space;			/* which set of slots: acc_set_space() */
	bool in_guest;			/* between acc_enter() and acc_leave(): must be waited for */
	struct acc_vm *vm;
	const struct mem_map *map;	/* snapshot taken at the last safe point */
	uint64_t jump_gen;		/* bumped by every flush: what was fetched by virtual address is stale */
	/*
	 * What translated code was entered under: while @stamp stays, every page fetched by virtual address is the same page, its
	 * code has the same gen as far as this vCPU has looked (acc_notice_code), and the client wrote nothing.
	 */
	uint64_t stamp;
	const _Atomic uint64_t *code_changes;	/* of all vCPUs */
	uint64_t code_seen;
	uint64_t watch[4];		/* pages never remembered in R and W: acc_watch() */
	uint8_t n_watch;
	struct acc_cpu_private *priv;	/* L2 TLB, counters, forget protocol: access/ only */
	struct acc_fetch fetch[ACC_FETCH_SIZE];
	struct acc_tlb tlb[ACC_N_MODES];
};

/* What all vCPUs of a VM share on the access path. */
struct acc_vm;
int acc_vm_new(const struct acc_guards *guards, struct mem_code_map *code, struct acc_vm **out);
void acc_vm_free(struct acc_vm *vm);
/*
 * Replaces the memory map, makes every vCPU forget everything it remembered under the old one, tells guards of frames that
 * left, then frees the old map. When it returns no vCPU uses the old map. Any thread, also a vCPU's own.
 */
void acc_vm_set_map(struct acc_vm *vm, struct mem_map *map);
const struct mem_map *acc_vm_map(struct acc_vm *vm);
/*
 * The same for one of the address spaces that a vCPU may be in: 0 is what everybody else sees, 1 is system management mode's.
 * Guards judge frames by their number in whatever space.
 */
#define ACC_N_SPACES	2
void acc_vm_set_space_map(struct acc_vm *vm, unsigned space, struct mem_map *map);
const struct mem_map *acc_vm_space_map(struct acc_vm *vm, unsigned space);
/* The vCPU's own thread, or with nobody running it; what it remembered is forgotten. */
void acc_set_space(struct acc_cpu *cpu, unsigned space);

/*
 * From now on @fn hears of every page that becomes dirty in a logged slot, on the thread that is about to write: slot number, page
 * in the slot, and the vCPU (NULL: none). Before the first vCPU exists.
 */
typedef void acc_dirtied_fn(void *opaque, struct acc_cpu *cpu, uint32_t slot, uint64_t page);
void acc_vm_set_dirtied(struct acc_vm *vm, acc_dirtied_fn *fn, void *opaque);
/* A write to @gfn of a logged slot is about to happen. */
void acc_mark_dirty(struct acc_vm *vm, struct acc_cpu *cpu, const struct mem_slot *s, struct gfn gfn);

int acc_cpu_init(struct acc_cpu *cpu, struct acc_vm *vm);
void acc_cpu_fini(struct acc_cpu *cpu);

/* The vCPU thread goes into, and comes out of, the state in which it uses the TLB. Between them it must reach
 * acc_safe_point() whenever attention has ACC_ATT_FORGET or ACC_ATT_STOP. Blocking (HLT, monitor wait) happens outside. */
void acc_enter(struct acc_cpu *cpu);
void acc_leave(struct acc_cpu *cpu);
void acc_safe_point(struct acc_cpu *cpu);

/* Set an attention bit of any vCPU, from any thread or signal handler. Wakes nobody: blocked vCPUs are vm/'s business. */
void acc_attend(struct acc_cpu *cpu, uint32_t bits);

/*
 * THE function that forgets. Every vCPU drops what it remembers of frames [first, first + n) with any of @rights; n == 0: all.
 * Holds for all of them when it returns. @self: the calling vCPU if the caller is one inside acc_enter, else NULL; it answers
 * others' wishes while it waits, so two may narrow at once.
 */
void acc_forget(struct acc_vm *vm, struct acc_cpu *self, struct gfn first, uint64_t n, uint8_t rights);

/* Every other vCPU stands at a safe point between begin and end (locked accesses across pages). */
void acc_exclusive_begin(struct acc_cpu *self);
void acc_exclusive_end(struct acc_cpu *self);

/* CPL, AC, CR0, CR4, EFER, PKRU, PKRS changed. Recomputes mode and cur; flushes what the manual says these bits flush. */
void acc_mode_changed(struct acc_cpu *cpu);			/* CPL or AC only: cheap, flushes nothing */
void acc_paging_changed(struct acc_cpu *cpu, uint64_t old_cr0, uint64_t old_cr4, uint64_t old_efer);
void acc_keys_changed(struct acc_cpu *cpu);
/* MOV to CR3 (@flush as bit 63 and PCID say); INVLPG; INVPCID's four types; everything. */
void acc_flush_cr3(struct acc_cpu *cpu, bool keep_pcid);
void acc_flush_page(struct acc_cpu *cpu, struct gva gva);
void acc_flush_pcid(struct acc_cpu *cpu, unsigned type, uint16_t pcid, struct gva gva);
void acc_flush_all(struct acc_cpu *cpu);
/* PAE: read the four PDPTEs at @cr3. False: a reserved bit is set (#GP). Reads are requests of stage WALK. */
bool acc_load_pdptrs(struct acc_cpu *cpu, uint64_t cr3, uint64_t pdptr[4]);

/* Data breakpoints: accesses to these @n <= 4 pages always come to acc_check(). Replaces the set given before. */
void acc_watch(struct acc_cpu *cpu, const struct gva *page, unsigned n);

/*
 * Who touches guest memory outside acc_enter()/acc_leave() (device threads, ioctls, PV writers before the first entry) does it,
 * from acc_check() to the last use of the host pointer, between these two: acc_forget() and acc_vm_set_map() wait for it. Short;
 * no blocking, no forgetting and no acc_enter() inside. Nests; does nothing on a thread that is inside acc_enter().
 */
void acc_host_begin(struct acc_vm *vm);
void acc_host_end(struct acc_vm *vm);

/*
 * Judge one access. Pass 1 and pass 2 for one request. Fills rq's found part and *out. On ALLOW of a FINAL access the TLB
 * remembers what out->silent permits. ACC_WAIT has been waited for and ACC_RETRY retried inside: the caller never sees them,
 * unless the vCPU is wanted elsewhere (attention ACC_ATT_EXIT), then ACC_WAIT comes back: leave KVM_RUN with the instruction not begun.
 * Outside acc_enter() nothing waits: ACC_WAIT comes back at once, and the access is not allowed now. Waiting is a safe point: host pointers got earlier for the same instruction may be stale afterwards (jump over that with
 * acc_check_all, which starts again as a whole).
 */
enum acc_verdict acc_check(struct acc_request *rq, struct acc_result *out);

/* The bytes of a write that guard @guard answered with SUBST_VET. */
void acc_vet(struct acc_cpu *cpu, unsigned guard, struct gpa gpa, const uint8_t *bytes, unsigned len);

#define ACC_MAX_ALL	16
/*
 * Judge all accesses (at most ACC_MAX_ALL) of one instruction: all walks first (guest faults win, in the order given), then all guards. Returns
 * ACC_ALLOW when none was refused (each out[i] then has its own verdict among ALLOW, DEVICE, SUBST in verdict[i]); else the first refusal, with
 * its index in *which. Nothing was committed in either case.
 */
enum acc_verdict acc_check_all(struct acc_request *rq, struct acc_result *out, enum acc_verdict *verdict, unsigned n, unsigned *which);

/*
 * @len bytes of one page as the client could see them, for dumps and debuggers: never from a private page, or from a store that
 * the client has no descriptor of. False: nothing to be seen. Not inside acc_enter() of another VM.
 */
bool acc_peek(struct acc_vm *vm, struct gpa gpa, void *buf, unsigned len);

/*
 * Where the guest's own access to @gpa would go, whatever guards would say: for rooms that work on the guest's behalf. NULL: no
 * memory, or not now. Between acc_host_begin() and _end(), or inside.
 */
uint8_t *acc_guest_hva(struct acc_vm *vm, struct gpa gpa);

/* [hva, hva + len) holds something else now: what was decoded from it is dead. The vCPUs have forgotten it already, or will. */
void acc_code_drop(struct acc_vm *vm, const uint8_t *hva, uint64_t len);

/* Translate without judging or A/D writes, for KVM_TRANSLATE and dump. Returns ALLOW with rq->gpa, or FAULT. */
enum acc_verdict acc_translate(struct acc_request *rq, struct acc_result *out);

/*
 * The executable page at @gva for the current mode: NULL and *out filled unless ALLOWed from plain memory. @rq is filled here.
 * The answer is valid until the next safe point. A page whose tag is ~0 must be asked for again by the next fetch.
 */
const struct acc_fetch *acc_fetch_page(struct acc_cpu *cpu, struct gva gva, struct acc_request *rq, struct acc_result *out,
				       enum acc_verdict *verdict);

/* Where @gva's page is remembered: supervisor and user have halves of their own, so the tag alone decides. */
static inline struct acc_fetch *acc_fetch_slot(struct acc_cpu *cpu, uint64_t gva)
{
	return &cpu->fetch[((gva >> GW_PAGE_SHIFT) & (ACC_FETCH_SIZE / 2 - 1)) | (cpu->mode == ACC_MODE_USER ? ACC_FETCH_SIZE / 2 : 0)];
}

/* The same as acc_fetch_page() if already known, else NULL. */
static inline const struct acc_fetch *acc_fetch_probe(struct acc_cpu *cpu, uint64_t gva)
{
	const struct acc_fetch *f = acc_fetch_slot(cpu, gva);

	return likely(f->tag == (gva & ~GW_PAGE_MASK)) ? f : NULL;
}

/*
 * Code marking, in this order: read page->code->gen; acc_mark_code() the bytes; then read the bytes and decode them. The block
 * is good for the gen that was read first. (Marks can be lost only together with a later change of gen.)
 *
 * acc_mark_code() sets the line bits and makes every vCPU forget W on the page. That may wait, and waiting is a safe point:
 * false says that the page itself was taken away meanwhile; fetch it again. Pages with tag ~0 answer true.
 *
 * acc_store_done() is for every store that did not go through a W entry (ALLOW without ACC_W in silent, DMA, PV, A/D): if a
 * written line is marked, gen changes and those lines are clear again; true: decoded code was hit (a storing vCPU must leave its
 * block after this instruction). Call it after the bytes are written.
 */
bool acc_mark_code(struct acc_cpu *cpu, const struct acc_fetch *page, unsigned offset, unsigned len);
/* The same without waiting: false, too, if somebody may write to the page, of whom nothing is forgotten then. */
bool acc_mark_code_now(struct acc_cpu *cpu, const struct acc_fetch *page, unsigned offset, unsigned len);
bool acc_store_done(struct acc_vm *vm, const uint8_t *hva, unsigned len);
/* Look whether code was changed by anybody; the vCPU's own thread. */
static inline void acc_notice_code(struct acc_cpu *cpu)
{
	uint64_t now = atomic_load_explicit(cpu->code_changes, memory_order_acquire);

	if (unlikely(now != cpu->code_seen)) {
		cpu->code_seen = now;
		cpu->stamp++;
	}
}
/* Would a store hit decoded code now? Only a hint: another vCPU may mark the line before the store; acc_store_done() decides. */
bool acc_store_hits(struct acc_vm *vm, const uint8_t *hva, unsigned len);

/* Inline probe: host address of [gva, gva + len) if remembered as allowed, else NULL. len <= 64; never crosses a page. */
static inline uint8_t *acc_probe(const struct acc_tlb_entry *array, uint64_t gva, unsigned len)
{
	const struct acc_tlb_entry *e = &array[(gva >> GW_PAGE_SHIFT) & (ACC_TLB_SIZE - 1)];

	/* The last byte's page against the entry that the first byte selects: a page-crosser misses. */
	if (unlikely(((gva + len - 1) ^ e->tag) & ~GW_PAGE_MASK))
		return NULL;
	return (uint8_t *)(uintptr_t)(gva + e->addend);
}
static inline uint8_t *acc_probe_r(const struct acc_cpu *cpu, uint64_t gva, unsigned len) { return acc_probe(cpu->cur->r, gva, len); }
static inline uint8_t *acc_probe_w(const struct acc_cpu *cpu, uint64_t gva, unsigned len) { return acc_probe(cpu->cur->w, gva, len); }

#endif
