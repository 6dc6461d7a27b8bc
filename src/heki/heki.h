/* SPDX-License-Identifier: MIT */
/*
 * The door of the room `heki`: kernel integrity. One object per VM holds what guest kernel memory may be used for (per frame),
 * which control-register bits may never be cleared again, and what happens when somebody tries. It judges memory accesses as a
 * guard (access/guard.h), register writes as an extension (cpu/ext.h), and answers the hypercalls 13 and 14.
 *
 * Writers of the permission store: the guest's hypercall, the client (heki_set), and unassisted mode, which finds the kernel in
 * the guest's own page tables. Facts and numbers: the RFC v2 patch series "Hypervisor-Enforced Kernel Integrity"; where we
 * differ from it, docs/heki.md says why.
 */
#ifndef GW_HEKI_HEKI_H
#define GW_HEKI_HEKI_H

#include <stddef.h>

#include "access/guard.h"
#include "cpu/ext.h"

/* What the store keeps of a frame. */
#define HEKI_R		0x01u
#define HEKI_W		0x02u
#define HEKI_XS		0x04u	/* supervisor execution */
#define HEKI_XU		0x08u	/* user execution */
#define HEKI_IMMUTABLE	0x10u	/* no writer but the client may change this entry */
#define HEKI_SEALED	0x20u	/* contents hashed and reported when it became executable */
#define HEKI_POKE	0x40u	/* writes by the patch vocabulary are let through */
#define HEKI_DECLARED	0x80u	/* there is an entry: otherwise the VM's default holds */
#define HEKI_RIGHTS	(HEKI_R | HEKI_W | HEKI_XS | HEKI_XU)
#define HEKI_ALL	(HEKI_RIGHTS | HEKI_IMMUTABLE | HEKI_SEALED | HEKI_POKE)

struct heki;

/* A vCPU's registers as the room sees them. */
struct heki_regs {
	uint64_t rip, rsp, insns, cr0, cr3, cr4, efer;
	uint64_t star, lstar, cstar, sfmask, sysenter_cs, sysenter_esp, sysenter_eip, apic_base;
	uint64_t gdt_base, idt_base, cs_base;
	uint16_t gdt_limit, idt_limit, ldtr, tr;
	uint8_t cpl;
	bool in_smm;		/* and stays there: false while RSM is judged */
	unsigned vcpu;
};

/* What the room needs of its VM. Constant for the VM's life. */
struct heki_host {
	/* acc_forget(). n == 0: everything. */
	void (*forget)(void *vm, struct gfn first, uint64_t n, uint8_t rights);
	/* Does every frame of the run lie in a memory slot? */
	bool (*has_memory)(void *vm, struct gfn first, uint64_t n);
	/* Guest memory for the VM's owner: not judged by any guard. False: not all of it is plain memory. */
	bool (*read)(void *vm, struct gpa gpa, void *buf, size_t len);
	bool (*write)(void *vm, struct gpa gpa, const void *buf, size_t len);
	/* Guest memory as the guest's own request (origin PV): judged. */
	bool (*guest_read)(void *vm, const struct acc_cpu *cpu, struct gpa gpa, void *buf, size_t len);
	/* Of the vCPU whose thread this is. */
	void (*regs)(void *vm, const struct acc_cpu *cpu, struct heki_regs *out);
	/* Memory that only system management mode has: the platform's, which its firmware has closed to the guest. */
	bool (*is_platform)(void *vm, const struct acc_cpu *cpu, struct gpa gpa);
	/* Does the client give this frame as read-only memory? */
	bool (*is_rom)(void *vm, struct gfn gfn);
	/* In real mode, outside guest code; @ax: with AX = CS before it. */
	void (*far_jump)(void *vm, const struct acc_cpu *cpu, uint16_t sel, uint16_t ip, bool ax);
	/*
	 * A processor that was started where it may not execute waits for its start again; the boot processor shuts down if it is
	 * in real mode, for the vectors there are the attacker's. False: nothing was done.
	 */
	bool (*park)(void *vm, const struct acc_cpu *cpu);
	/* Return from the function that the vCPU is about to enter: RIP, RAX, and RSP past the return address. */
	void (*go_back)(void *vm, const struct acc_cpu *cpu, uint64_t rip, uint64_t rax);
	/* From now on page walks are judged too. */
	void (*judge_walks)(void *vm);
	/* The client's mapping of frames becomes read-only (or writable again). NULL or unsupported: nothing happens. */
	void (*shield)(void *vm, struct gfn first, uint64_t n, bool read_only);
	/* A line for the log sink. */
	void (*log)(void *vm, const char *text);
};

/* ---- life ------------------------------------------------------------------------------------------------------------- */

#define HEKI_MAX_VCPUS	1024u

int heki_new(const struct heki_host *host, void *vm, struct heki **out);
void heki_free(struct heki *h);
extern const struct acc_guard_ops heki_guard_ops;	/* state: struct heki */
extern const struct cpu_ext_ops heki_ext_ops;		/* state: struct heki */

/* ---- policy: the client's choices -------------------------------------------------------------------------------------- */

enum heki_inject {
	HEKI_INJECT_DEFAULT,	/* CPL < 3: #PF with P and RSVD, which no kernel takes for spurious; CPL 3: #GP(0) */
	HEKI_INJECT_RFC,	/* the series' codes: #PF 0x3 for a write, 0x11 for a fetch */
};

enum heki_dynamic {		/* kernel code that appears after the lock */
	HEKI_SEALED_ONCE,	/* executable once it is read-only to the guest; hashed, reported, patched only by vocabulary */
	HEKI_FROZEN,		/* never: a kernel function that is called there is not run and gives -EPERM */
	HEKI_MIRRORED,		/* whatever the guest's page tables say */
};

/*
 * When unassisted mode locks; always at a user instruction with the kernel's text read-only already. heki_request_lock() counts
 * with each.
 */
enum heki_lock_at {
	HEKI_LOCK_AT_INIT,	/* the first one */
	HEKI_LOCK_AT_REQUEST,	/* the client says when */
	HEKI_LOCK_AT_SECONDS,	/* the first program that starts (or is switched to) so long after the first */
	HEKI_LOCK_AT_EXEC,	/* the first one of the program executed by this name */
};
#define HEKI_PATH_SIZE	64u

struct heki_policy {
	uint8_t inject;			/* enum heki_inject */
	uint8_t dynamic;		/* enum heki_dynamic */
	uint8_t lock_at;		/* enum heki_lock_at */
	uint32_t lock_seconds;
	char lock_path[HEKI_PATH_SIZE];	/* ends with 0 */
	bool unassisted;		/* find and lock the kernel at the moment of lock_at */
	bool lock_registers;		/* second level: EFER, LSTAR and friends, IDTR, GDTR, LDTR, TR keep their values */
	bool allow_wx;			/* the guest may ask for W and X together */
	bool shield;			/* the client's own mapping of W=0 frames becomes read-only */
	bool allow_kprobes;		/* the vocabulary has INT3 and JMP32 anywhere in kernel text */
	bool clear_on_reset;		/* heki_machine_reset() */
};

/*
 * Words of a policy, separated by commas: unassisted, sealed-once, frozen, mirrored, rfc-codes, lock-registers, allow-wx, shield,
 * kprobes, clear-on-reset, lock-at=init, lock-at=request, lock-at=seconds:N, lock-at=exec:PATH. False: one is not known; *p is then undefined.
 */
bool heki_policy_parse(struct heki_policy *p, const char *text);
void heki_policy_get(struct heki *h, struct heki_policy *out);
/* -EBUSY: unassisted mode asked for after the lock. */
int heki_policy_set(struct heki *h, const struct heki_policy *p);
/* Unassisted mode: lock before the next user instruction of any vCPU. 0, also when locked already; -1: nothing waits for it. */
int heki_request_lock(struct heki *h);

/* ---- what the client is told ------------------------------------------------------------------------------------------- */

#define HEKI_REASON_CR0		0x1u
#define HEKI_REASON_CR4		0x2u
#define HEKI_REASON_MEM		0x4u
#define HEKI_REASON_REG		0x8u	/* second level: MSRs and table registers */
#define HEKI_REASONS		0xfu

/* Which events make exits, and under which numbers. Off at first. */
struct heki_exits {
	uint32_t configure, denial;		/* masks of HEKI_REASON_* */
	uint32_t nr_configure, nr_denial;	/* exit numbers */
};
void heki_exits_get(struct heki *h, struct heki_exits *out);
void heki_exits_set(struct heki *h, const struct heki_exits *e);

/* Word [2] of a denial's payload. */
#define HEKI_ACCESS_R		0x01u
#define HEKI_ACCESS_W		0x02u
#define HEKI_ACCESS_X		0x04u
#define HEKI_ACCESS_USER	0x08u	/* the translation says user */
#define HEKI_ACCESS_CPL3	0x10u
#define HEKI_ACCESS_WALK	0x20u
#define HEKI_ACCESS_PV		0x40u
#define HEKI_ACCESS_DMA		0x80u
#define HEKI_ACCESS_GVA		0x100u	/* gva is known */

enum heki_action { HEKI_INJECT, HEKI_RETRY, HEKI_IGNORE, HEKI_SHUTDOWN };

/*
 * The client answered a denial exit of this vCPU: the instruction will be executed again, and this is what it meets. For
 * INJECT and IGNORE; holds for that one execution (the same RIP and instruction count).
 */
void heki_answer(struct heki *h, const struct acc_cpu *cpu, const struct acc_exit *denial, enum heki_action action);

/* The client answered something else about the instruction that an answer was for: it will be executed once more. */
void heki_renew(struct heki *h, const struct acc_cpu *cpu);

/*
 * Before a device, or the client for one, writes @len bytes at @gpa. False: not allowed; logged and counted as a denial.
 */
bool heki_judge_dma(struct heki *h, struct gpa gpa, uint64_t len);

enum heki_event_kind {
	HEKI_EV_DENIED,		/* an access or register write was refused */
	HEKI_EV_PINNED,		/* gpa: register number, value: all pins of it */
	HEKI_EV_PROTECTED,	/* the guest's list was applied: gpa first, value pages */
	HEKI_EV_LOCKED,		/* unassisted lock: gpa first text frame, value pages of text */
	HEKI_EV_SEALED,		/* a page became executable: hash */
	HEKI_EV_RELEASED,	/* a sealed page left the kernel's tables: zeroed and free again */
	HEKI_EV_POKED,		/* a patch by the vocabulary: value is what was written */
	HEKI_EV_REFUSED,	/* a hypercall or the unassisted lock failed: value is its error */
	HEKI_EV_CLIENT,		/* the client changed or cleared protection */
	HEKI_EV_DEFECT,		/* at the lock: a page both writable and executable, kept executable only */
	HEKI_EV_FIRMWARE,	/* firmware of a vCPU that the client has reset went on to gpa: judged as everybody from there */
};

struct heki_event {
	uint64_t seq;		/* from 1; gaps: overwritten unread */
	uint64_t insns;
	uint32_t kind, vcpu;
	uint32_t reason;	/* HEKI_REASON_* */
	uint32_t access;	/* HEKI_ACCESS_* */
	uint64_t gpa, gva, value, rip, cr3;
	uint32_t attributes, repeat;
	uint8_t hash[32];	/* SHA-256 of the page: SEALED */
};

/* Events after @seq, oldest first. Returns how many. Any thread. */
unsigned heki_events(struct heki *h, uint64_t seq, struct heki_event *out, unsigned max);

struct heki_counters {
	uint64_t denied_read, denied_write, denied_fetch, denied_walk, denied_pv, denied_cr, denied_reg;
	uint64_t pokes, sealed, released, hypercalls, refused, exits;
	uint64_t store_bytes, lock_ns;
};
void heki_counters(struct heki *h, struct heki_counters *out);

/* ---- hypercalls -------------------------------------------------------------------------------------------------------- */

#define HEKI_HC_LOCK_CR		13u
#define HEKI_HC_PROTECT_MEM	14u

/* Each returns what RAX gets; *exit true: succeeded, and the client wants to be told with *e before RAX is set. */
int64_t heki_hc_lock_cr(struct heki *h, const struct acc_cpu *cpu, const uint64_t a[4], bool *exit, struct acc_exit *e);
/*
 * With *exit the list has been read and checked but not applied: heki_hc_protect_end() applies it (@allow) or drops it, and
 * returns what RAX gets.
 */
int64_t heki_hc_protect(struct heki *h, const struct acc_cpu *cpu, uint64_t list, bool *exit, struct acc_exit *e);
int64_t heki_hc_protect_end(struct heki *h, const struct acc_cpu *cpu, bool allow);

/* ---- the store ---------------------------------------------------------------------------------------------------------- */

/*
 * heki_set - change attributes of a run of frames, for the VM's owner
 *
 * @mask	bits of HEKI_ALL to change; @attributes their new values. Frames without an entry start from the VM's default.
 *
 * Holds for every vCPU before it returns. IMMUTABLE does not bind the owner. 0; -EINVAL empty run, or bits outside @mask or
 * HEKI_ALL; -ENOMEM. On error nothing changed.
 */
int heki_set(struct heki *h, struct gfn first, uint64_t n, uint32_t attributes, uint32_t mask);
/* Remove entries: the default holds again. */
int heki_clear(struct heki *h, struct gfn first, uint64_t n);
/* Attributes in force, and in *declared whether there is an entry. */
uint32_t heki_get(struct heki *h, struct gfn gfn, bool *declared);

struct heki_run { struct gfn first; uint64_t n; uint32_t attributes; };
/* The first run of equal entries at or after @from; false: there is none. Runs are reported whole or by pieces of 2^10 frames. */
bool heki_next(struct heki *h, struct gfn from, struct heki_run *out);

struct heki_state {
	uint64_t pinned_cr0, pinned_cr4;
	bool locked;
	uint32_t default_rights;	/* of frames without an entry: HEKI_RIGHTS */
};
void heki_state_get(struct heki *h, struct heki_state *out);
/* The owner's, for restore or release: assigns. -EINVAL unknown bits. */
int heki_state_set(struct heki *h, const struct heki_state *s);
/* Which pins a vCPU is held to, for save and restore. */
void heki_vcpu_get(struct heki *h, unsigned vcpu, uint64_t *held_cr0, uint64_t *held_cr4);
void heki_vcpu_set(struct heki *h, unsigned vcpu, uint64_t held_cr0, uint64_t held_cr4);
/* The client set this vCPU's special registers: it is held again as soon as all pins are set in them. */
void heki_vcpu_registers_set(struct heki *h, const struct acc_cpu *cpu);
/* The client has put this vCPU at the reset vector, where it was not: it may run the platform's firmware (firmware.c). */
void heki_firmware_begin(struct heki *h, const struct acc_cpu *cpu);
/*
 * Everything the VM's owner may take back: pins, entries, lock. Frames that were not writable are zeroed first when @zero:
 * what a guest could not change must not silently become changeable with its contents. Read-only slots stay as they are, and the
 * shadow area gets what the lock found in it: a machine that is reset begins there.
 */
int heki_reset(struct heki *h, bool zero);
/* Does a reset of the machine by the client end the lock? The policy's clear-on-reset. */
bool heki_clears_on_reset(const struct heki *h);
/* No vCPU runs: heki_reset() with zeroing, and unassisted mode waits for the next kernel. */
void heki_machine_reset(struct heki *h);

#endif
