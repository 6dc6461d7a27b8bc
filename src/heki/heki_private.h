/* SPDX-License-Identifier: MIT */
/*
 * What the files of the room share.
 *
 * Locks: `lock` serialises writers of the store and of pins and policy. It is held for computing only: never across
 * host->forget(), which waits for vCPUs that may be waiting for the lock. The judge (guard.c) takes no lock: it reads the
 * published tree and the atomics below. `log_lock` is a spin lock of a few instructions; who cannot get it drops the record.
 */
#ifndef GW_HEKI_PRIVATE_H
#define GW_HEKI_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "heki/heki.h"
#include "heki/store.h"
#include "isa/x86.h"

#define HC_EPERM	(-1)
#define HC_E2BIG	(-7)
#define HC_ENOMEM	(-12)
#define HC_EFAULT	(-14)
#define HC_EINVAL	(-22)

#define N_EVENTS	1024u

/* Why the judge must look closer; 0: everything is allowed. */
#define ACTIVE_STORE	0x1u	/* an entry, or a default that forbids something */
#define ACTIVE_WAITING	0x2u	/* unassisted mode waits for the kernel to be ready */
#define ACTIVE_REGS	0x4u	/* first user instructions save registers (second level) */

#define ANSWER_FRAMES	4

/* How one execution of one instruction is to be judged: the client's answer, or that the slow judge has looked already. */
struct heki_verdict {
	uint64_t rip, insns;
	bool is_fresh;		/* not used yet: an interrupt may have come before the instruction is executed again */
	unsigned n;
	struct { uint64_t gfn; uint8_t rights, action; } frame[ANSWER_FRAMES];
};
#define VERDICT_FINAL	0xff	/* action: looked at by wait(), really denied */

/* Register values that the second level holds. */
struct heki_saved { bool valid; struct heki_regs regs; };

struct heki_list;
struct heki_seals;

struct heki_vcpu {
	_Atomic uint64_t held_cr0, held_cr4;
	/* The rest belongs to the vCPU's thread (or to the client while the vCPU does not run). */
	struct heki_verdict answer, looked;
	uint64_t user_looked_rip, user_looked_insns;
	struct heki_saved saved;
	bool cr_ignored;		/* the client ignores the register write of `answer` */
	uint64_t launch_rip, launch_insns;	/* looked at by firmware.c: no jump into firmware */
	_Atomic bool in_firmware;
	struct heki_list *list;		/* of a hypercall that waits for the client */
};

struct heki_firmware {
	_Atomic bool exists, is_on;	/* found at the lock; some vCPU is in it */
	_Atomic uint32_t owner;		/* index + 1 of the vCPU whose leaving ends it; 0: not yet known */
	uint8_t *copy;			/* the seals'; constant while it exists, as the next */
	uint64_t has[2];		/* a bit a frame */
};

struct heki {
	const struct heki_host *host;
	void *vm;
	struct store store;
	pthread_mutex_t lock;

	_Atomic uint32_t active;	/* ACTIVE_* */
	_Atomic uint32_t default_rights;
	_Atomic bool is_locked;
	_Atomic uint64_t pinned_cr0, pinned_cr4;
	_Atomic uint32_t exit_configure, exit_denial, nr_configure, nr_denial;
	_Atomic uint8_t inject, dynamic;
	_Atomic bool unassisted, lock_registers, allow_wx, shield, allow_kprobes, clear_on_reset;
	bool walks_judged;		/* under lock, as the next three */
	uint8_t lock_at;
	uint32_t lock_seconds;
	char lock_path[HEKI_PATH_SIZE];
	_Atomic bool lock_wanted;
	_Atomic uint64_t first_user;	/* second of the first look */

	atomic_flag log_lock;
	uint64_t last_seq;		/* under log_lock, as the ring */
	struct heki_event *ring;
	_Atomic uint64_t counter[16];
	_Atomic int64_t log_second;
	_Atomic uint32_t log_lines;

	struct heki_firmware firmware;
	struct heki_seals *seals, *retired;	/* seal.c: what unassisted mode knows; NULL until the lock */
	struct heki_vcpu vcpu[HEKI_MAX_VCPUS];
};

enum counter {
	N_DENIED_READ, N_DENIED_WRITE, N_DENIED_FETCH, N_DENIED_WALK, N_DENIED_PV, N_DENIED_CR, N_DENIED_REG,
	N_POKES, N_SEALED, N_RELEASED, N_HYPERCALLS, N_REFUSED, N_EXITS, N_LOCK_NS, N_COUNTERS
};
_Static_assert(N_COUNTERS <= 16, "struct heki.counter");

static inline void heki_count(struct heki *h, enum counter c)
{
	atomic_fetch_add_explicit(&h->counter[c], 1, memory_order_relaxed);
}

/* ---- heki.c ------------------------------------------------------------------------------------------------------------- */

static inline uint8_t heki_rights_of(const struct heki *h, uint64_t gfn)
{
	uint8_t v = store_get(&h->store, gfn);

	return v & HEKI_DECLARED ? v : (uint8_t)atomic_load_explicit(&h->default_rights, memory_order_relaxed);
}

/* Attributes set and cleared in one entry; for store_update(). */
struct heki_change { uint8_t set, clear, initial; };
uint8_t heki_change_fn(uint8_t old, void *change);
/* After a commit, with the lock held: what the judge must look at from now on. */
void heki_activate(struct heki *h);
/* Without the lock: nobody uses what the transaction took away; frees its old nodes. */
/* Nothing where the policy has no shield. */
void heki_shield(struct heki *h, uint64_t first, uint64_t n);
void heki_shield_all(struct heki *h);
void heki_settle(struct heki *h, struct store_node *replaced, uint64_t first, uint64_t n);

/* ---- log.c --------------------------------------------------------------------------------------------------------------- */

void heki_log(struct heki *h, const struct heki_event *e);
/* A line for people, at most ten a second. */
void heki_say(struct heki *h, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- pins.c ---------------------------------------------------------------------------------------------------------------- */

void heki_pin(struct heki *h, uint64_t cr0, uint64_t cr4);

/* ---- firmware.c --------------------------------------------------------------------------------------------------------- */

enum heki_firmware_answer { HEKI_FIRMWARE_OTHER, HEKI_FIRMWARE_ALLOW, HEKI_FIRMWARE_WAIT };	/* OTHER: the store says */
int heki_firmware_find(struct heki *h, struct heki_seals *s);
int heki_firmware_stage(const struct heki_seals *s, struct store_txn *t);
enum heki_firmware_answer heki_firmware_judge(struct heki *h, const struct acc_request *rq, struct acc_result *out);
/* True: that is what the wait was for; *again as wait() returns it. */
bool heki_firmware_wait(struct heki *h, const struct acc_cpu *cpu, const struct acc_request *rq, const struct heki_regs *regs, bool *again);
/* What lay there at the lock; NULL: no firmware. */
const uint8_t *heki_firmware_at(const struct heki *h, uint64_t gfn);
/* INIT of the guest's. */
void heki_firmware_init(struct heki *h, unsigned vcpu);
void heki_firmware_end(struct heki *h);

/* ---- moment.c ----------------------------------------------------------------------------------------------------------- */

bool heki_is_moment(struct heki *h, const struct heki_regs *regs);
/* Frozen: a fetch that may be answered by returning from the call that led there. */
bool heki_is_refusable(const struct heki *h, const struct acc_request *rq, uint8_t attributes);
/* Outside guest code. False: it was no call from kernel text. */
bool heki_refuse_call(struct heki *h, const struct acc_cpu *cpu);

/* ---- seal.c ------------------------------------------------------------------------------------------------------------- */

/* A user instruction is about to be fetched: is the kernel ready to be locked? Then lock it. On the vCPU's thread, outside guest code. */
void heki_try_lock(struct heki *h, const struct acc_cpu *cpu);
/* A fetch or write was denied by the store: may the rules for dynamic code change that? Changes the store if so. */
void heki_dynamic(struct heki *h, const struct acc_cpu *cpu, const struct acc_request *rq);
bool heki_is_dynamic(struct heki *h, const struct acc_request *rq, uint8_t attributes);
/* A write that the vocabulary may let through: its bytes are judged at commit, by vet. */
bool heki_is_poke(struct heki *h, const struct acc_request *rq, uint8_t attributes, uint8_t missing);
void heki_vet(void *guard, struct acc_cpu *cpu, struct gpa gpa, const uint8_t *bytes, unsigned len);
/* A read of patchable text: SUBST_DATA where a refused patch is to be seen. */
enum acc_verdict heki_show_phantoms(struct heki *h, const struct acc_request *rq, struct acc_result *out);
void heki_seals_retire(struct heki *h);
void heki_seals_free(struct heki *h);

#endif
