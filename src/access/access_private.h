/* SPDX-License-Identifier: MIT */
/*
 * What the files of access/ share and nobody else sees: the second-level TLB, the cold halves of the first, what a walk found,
 * and what others want a vCPU to forget.
 *
 * Invariants
 *   - An entry in tlb[m].w has its page also readable in mode m; its page has no marked code line, is dirty in its log if its
 *     slot has one, and the guest's entry had D set when it was filled.
 *   - Everything here belongs to the vCPU's thread, except what is named "under vm->lock".
 */
#ifndef GW_ACCESS_PRIVATE_H
#define GW_ACCESS_PRIVATE_H

#include <pthread.h>

#include "access/access.h"
#include "isa/x86.h"

/* Between two steps that others may come between: a test of races gives up the processor here now and then. */
#ifdef ACC_PERTURB
void acc_perturb(void);
#else
static inline void acc_perturb(void) { }
#endif

/* ---- second-level TLB: tlb.c --------------------------------------------------------------------------------------- */

#define L2_SET_BITS	10
#define L2_SETS		(1u << L2_SET_BITS)
#define L2_WAYS		4u

/*
 * key    63:19 page number (45 bits: 57-bit addresses)   18:7 PCID, 0 for global   6 global   2:1 mode   0 valid
 * hva    63:12 page   4 user translation   3 protection key not 0   2:0 rights the guest's tables, the slot and the guards
 *        all allow silently (W still subject to code marks)
 * gpa    63:12 page   7 private bit   5:0 size of the guest's page (shift)
 */
struct acc_l2 {
	uint64_t key;
	uint64_t stamp;		/* of the flush clock, when filled */
	uint64_t hva;
	uint64_t gpa;
};

#define L2_VALID	0x01ull
#define L2_MODE_SHIFT	1
#define L2_GLOBAL	0x40ull
#define L2_PCID_SHIFT	7
#define L2_VPN_SHIFT	19

#define L2_RIGHTS	0x07ull
#define L2_KEYED	0x08ull
#define L2_USER		0x10ull
#define L2_PRIVATE	0x80ull
#define L2_SHIFT_MASK	0x3full

/* Regions of 2 MiB, by the low bits of their number. */
#define LARGE_SHIFT	21
#define LARGE_HASHES	4096u

/* Cold word of a first-level entry: page of the gpa, and these. */
#define COLD_GLOBAL	0x1ull
#define COLD_KEYED	0x2ull

/* Slots that may be filled, each once. */
struct acc_slots {
	unsigned n;
	uint64_t is_listed[ACC_TLB_SIZE / 64];
	uint16_t slot[ACC_TLB_SIZE];
};
_Static_assert(ACC_FETCH_SIZE <= ACC_TLB_SIZE && ACC_TLB_SIZE <= 65536, "slot numbers have 16 bits");

/* So that a flush touches only what may be filled: slots with local entries, and with global ones; a slot may be on both lists. */
struct acc_cold {
	uint64_t r[ACC_TLB_SIZE], w[ACC_TLB_SIZE];
	struct acc_slots used[2];
};

/* ---- forgetting: forget.c ------------------------------------------------------------------------------------------ */

#define PENDING_MAX	8

/* What others want forgotten, under vm->lock; applied by the vCPU itself before it uses its TLB again. */
struct acc_pending {
	_Atomic bool any;		/* changed under vm->lock; its vCPU looks without */
	bool all, all_w;
	uint8_t n_range, n_code;
	struct { uint64_t first, last; uint8_t rights; } range[PENDING_MAX];
	uintptr_t code[PENDING_MAX];	/* host pages that get code: W in the first level */
};

/* Which first-level entry has W on a host page, so that marking code in it need not look at all of them. */
#define ACC_WRITABLE	2048u
struct acc_writable {
	uint64_t hva;		/* 0: none yet */
	uint16_t slot;
	uint8_t mode;
	bool many;		/* more than one live entry fell on this place */
};

/* What everything remembered since the last flush of all was made from: unchanged.c */
#define SOURCE_UPPER	48u
#define SOURCE_LEAVES	256u
struct acc_source { const uint8_t *hva; uint64_t value; };
struct acc_sources {
	bool is_more;		/* not all of it is noted here */
	unsigned n_upper, n_leaf;
	uint64_t cr3;		/* of all of it */
	struct acc_source upper[SOURCE_UPPER], leaf[SOURCE_LEAVES];
	uint64_t leaf_gva[SOURCE_LEAVES];	/* the page that one of leaf[] maps */
};

struct acc_cpu_private {
	struct acc_cpu *cpu;
	struct acc_cpu_private *next;	/* under vm->lock */
	uint64_t writer_bit;		/* in mem_code.writers */

	_Atomic bool running;		/* may be using its TLB: must be waited for. Its own thread's to change: forget.c */
	/* Under vm->lock. */
	uint64_t answered;		/* wishes up to this ticket are fulfilled */
	struct acc_pending pending;

	/* Flush clock: an entry is alive if it was filled at or after the floors that concern it. */
	uint64_t clock, floor_all, floor_local, floor_keyed;
	uint64_t floor_pcid[4096];
	uint64_t floor_now;		/* max of what concerns local entries of the current PCID */
	uint16_t pcid;			/* the current one; 0 without CR4.PCIDE */
	uint32_t pkru_seen, pkrs_seen;
	unsigned victim;
	bool any_keyed;
	/* Regions in which parts of a large page may be remembered (hashed), and the floors of those parts: INVLPG takes them all. */
	uint64_t large_2m[LARGE_HASHES / 64], large_1g[8];
	uint64_t floor_large[LARGE_HASHES];
	uint64_t fetched[64];		/* pages handed out for execution since jump_gen moved, and not in fetch[] any more (hashed) */

	unsigned last_slot;		/* index into the map: a guess */
	struct acc_sources sources;
	struct acc_fetch once;
	uint64_t fetch_cold[ACC_FETCH_SIZE];
	struct acc_writable writable[ACC_WRITABLE];
	struct acc_slots fetch_used[2];	/* as in acc_cold */
	struct acc_cold cold[ACC_N_MODES];
	struct acc_l2 l2[L2_SETS][L2_WAYS];
};

struct acc_vm {
	const struct acc_guards *guards;
	struct mem_code_map *code;
	pthread_mutex_t code_lock;	/* leaf: code marks; nothing is taken under it */

	pthread_mutex_t lock;
	pthread_cond_t changed;		/* a vCPU stopped running or answered, a wish was posted, the exclusive section ended */
	/* Changed under lock. */
	_Atomic unsigned n_waiting;	/* who looks, or is about to look, whether others still run */
	struct acc_cpu_private *cpus;
	uint64_t ticket;
	struct acc_cpu *_Atomic exclusive;	/* the one that may run alone */
	_Atomic(struct mem_map *) map[ACC_N_SPACES];	/* changed under lock */
	_Atomic unsigned n_cpus_ever;

	acc_dirtied_fn *dirtied;	/* NULL: nobody */
	void *dirtied_opaque;

	pthread_rwlock_t host;		/* read: acc_host_begin(); write: forgetting, only as a barrier */
};

/* Wish that others forget W of the host page at @hva in their first level, for those whose bit is in @writers. code.c */
void acc_forget_writers(struct acc_vm *vm, struct acc_cpu *self, const uint8_t *hva, uint64_t writers);

/* ---- what a walk found: walk.c ------------------------------------------------------------------------------------- */

struct acc_leaf {
	uint8_t *hva;		/* of the guest's entry; NULL: no D to set */
	struct gpa gpa;
	uint64_t value;		/* as it was judged */
	const struct mem_slot *slot;
	uint8_t size;		/* 4 or 8 */
};

/* The entries a walk of 4 or 5 levels went through, from the top, as they are in memory when it is done. */
#define ACC_LEVELS	5u
struct acc_path {
	bool is_noted;		/* not: another format, guards that see walks, tables that may be private */
	uint8_t n;
	bool is_large;		/* the last one maps a large page */
	const uint8_t *hva[ACC_LEVELS];
	uint64_t value[ACC_LEVELS];
};

struct acc_walk {
	uint8_t allowed;	/* rights that the guest's tables give in this mode */
	bool user, writable, no_exec, global, dirty;
	uint8_t pkey;
	bool known;		/* the second-level TLB answered: judged already */
	struct acc_leaf leaf;	/* whose D the commit must set */
	struct acc_path path;
};

#define WALK_LOOK	0x1u	/* translate only: no A, no guards */

/* Pass 1: canonical check and page walk. Fills rq's found part. ALLOW, FAULT, or what a guard of WALK accesses says. */
enum acc_verdict acc_walk(const struct mem_map *map, struct acc_request *rq, struct acc_walk *w, struct acc_result *out, unsigned flags);
/* The deferred D write. Judge first (it is a WALK access), then set: false, the entry changed: walk again. */
enum acc_verdict acc_walk_judge_dirty(const struct mem_map *map, const struct acc_request *rq, const struct acc_walk *w, struct acc_result *out);
bool acc_walk_set_dirty(const struct acc_request *rq, const struct acc_walk *w);

/* Rights of a page in the vCPU's state, by the manual's "Determination of Access Rights". */
unsigned acc_rights_of(const struct acc_cpu *cpu, enum acc_mode mode, const struct acc_walk *w, bool *keyed_denial, unsigned asked);

/* ---- judging: guard.c ---------------------------------------------------------------------------------------------- */

/* Pass 2 for one request whose gpa is known: slot, kind, guards. */
enum acc_verdict acc_judge(const struct mem_map *map, const struct acc_request *rq, struct acc_result *out);

/*
 * The first check of all: is the frame private or shared, and may this request have it? Then where its bytes are. ALLOW with
 * *hva; DEVICE: nothing is there; EXIT with out->exit; RETRY: on its way out. Nothing is allocated, whatever the answer.
 * @slot NULL: none.
 */
enum acc_verdict acc_side(const struct mem_map *map, const struct acc_request *rq, const struct mem_slot *slot, struct acc_result *out,
			  uint8_t **hva);

const struct mem_slot *acc_slot(const struct acc_request *rq, const struct mem_map *map, struct gfn gfn);

static inline struct acc_vm *acc_rq_vm(const struct acc_request *rq) { return rq->cpu ? rq->cpu->vm : rq->vm; }

/* The map that an access of this vCPU goes by, in its space. */
static inline const struct mem_map *acc_cpu_map(const struct acc_cpu *cpu)
{
	return cpu->in_guest ? cpu->map : acc_vm_space_map(cpu->vm, cpu->space);
}

static inline enum acc_mode acc_mode_of(const struct acc_cpu *cpu, unsigned cpl, bool implicit)
{
	if (cpl == 3 && !implicit)
		return ACC_MODE_USER;
	return !implicit && cpu->ac && (cpu->cr4 & CR4_SMAP) ? ACC_MODE_KERNEL_AC : ACC_MODE_KERNEL;
}

/* ---- remembering: tlb.c -------------------------------------------------------------------------------------------- */

void acc_tlb_init(struct acc_cpu *cpu);
/* A hit fills rq's found part, out, and the first level. */
bool acc_tlb_lookup(struct acc_request *rq, struct acc_result *out);
/* Is the translation that acc_check() just used a global one? Only the second level still knows; unknown means no. */
bool acc_tlb_is_global(const struct acc_request *rq);
void acc_tlb_remember(const struct acc_request *rq, const struct acc_walk *w, struct acc_result *out);
void acc_tlb_drop_frames(struct acc_cpu *cpu, uint64_t first, uint64_t last, unsigned rights);
void acc_tlb_drop_page(struct acc_cpu *cpu, uint64_t page);	/* of the current PCID and global, both levels */
void acc_tlb_list_fetch(struct acc_cpu *cpu, unsigned slot, bool global);
void acc_tlb_drop_writable(struct acc_cpu *cpu, uintptr_t hva_page);	/* first level only; 0: every page */

/* ---- flushes of what has not changed: unchanged.c ---------------------------------------------------------------------------------- */

/* Something of @rq's translation is going to be remembered. */
void acc_source_note(struct acc_cpu *cpu, const struct acc_request *rq, const struct acc_walk *w);
/* Nothing is remembered any more. */
void acc_sources_reset(struct acc_cpu *cpu);
/* Everything remembered follows from the guest's tables as they are now, or was dropped. False: nobody knows. */
bool acc_sources_hold(struct acc_cpu *cpu);

#endif
