/* SPDX-License-Identifier: MIT */
/*
 * What the files of the room share.
 *
 * Locks: monitor.lock protects views (changes), subscriptions and who is attached; mon_vcpu.lock the answer that another thread
 * delivers (leaf). Neither is held while a vCPU sleeps or a callback runs. check() takes none: entries of views are atomic words.
 * Fields marked "own" belong to the vCPU's thread.
 */
#ifndef GW_MONITOR_PRIVATE_H
#define GW_MONITOR_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "monitor/monitor.h"

#define MON_MAX_VCPUS	1024u
#define MON_MAX_VIEWS	512u
#define MON_VIEWS	10u		/* at first, as Xen */
#define MON_NO_VIEW	0xffffu

/* ---- views: view.c -------------------------------------------------------------------------------------------------------- */

/* An entry: access type, and another frame to show. 0: none, the view's default. */
#define ENTRY_SET	0x10ull
#define ENTRY_REMAP	0x20ull
#define ENTRY_TYPE	0x0full
#define ENTRY_GFN	8		/* shift of the other frame's number */

struct mon_node;
struct mon_view {
	bool used, visible;
	_Atomic uint8_t def;
	_Atomic uint64_t root;		/* entry << 1 | 1, or a node */
	_Atomic unsigned users;		/* vCPUs in it */
};

uint64_t view_get(const struct mon_view *v, uint64_t gfn);
/* @entry for [first, first + n). -ENOMEM: some of them may have it. */
int view_set(struct monitor *m, struct mon_view *v, uint64_t first, uint64_t n, uint64_t entry);
void view_clear(struct monitor *m, struct mon_view *v);
/* Free what readers may have held before everything was forgotten. */
void view_reclaim(struct monitor *m);
static inline unsigned entry_type(const struct mon_view *v, uint64_t e)
{
	return e & ENTRY_SET ? (unsigned)(e & ENTRY_TYPE) : atomic_load_explicit(&v->def, memory_order_relaxed);
}
/* Rights that @type gives without being asked. */
uint8_t mon_rights(unsigned type);

/* ---- vCPUs ---------------------------------------------------------------------------------------------------------------- */

#define MON_GRANTS	24u
#define MON_TOLD	4u

/* What one execution of an instruction has been asked about, and the answer. */
struct mon_key { uint32_t kind; uint32_t b; uint64_t a; };	/* kind: reason; memory: a gfn, b rights and stage */
struct mon_grant {
	struct mon_key key;
	uint32_t flags;			/* GW_MON_ANS_* */
	uint32_t vector, error, data_len;
	uint64_t cr2;
	uint8_t data[64];
};

enum mon_state { MON_IDLE, MON_ASKED, MON_ANSWERED };

struct mon_vcpu {
	unsigned index;
	struct monitor *m;
	struct acc_cpu *cpu;			/* own */
	_Atomic unsigned view;
	/* Own. */
	struct mon_grant grant[MON_GRANTS];
	unsigned n_grants;
	uint64_t rip;				/* of the execution that the grants are for */
	bool blanket;				/* the rest of it is allowed */
	bool is_alone;
	struct { struct mon_key key; bool valid; } asked;	/* key: changed under lock */
	struct acc_request want;		/* the violation found by check(), for wait() */
	uint8_t want_missing, want_type;
	unsigned want_change;			/* monitor.change, before the rights were looked at */
	struct { bool due, with_grants; struct kvm_regs r; } regs;	/* with_grants: what was allowed holds at the new RIP */
	struct mon_told { uint32_t reason; struct acc_request rq; uint8_t missing; } told[MON_TOLD];	/* when the instruction is over */
	unsigned n_told;
	uint64_t asked_at;			/* ns */
	unsigned spins_off, spins_failed;	/* looking found nothing: so many sleeps without it */
	_Atomic unsigned asked_session;
	bool is_known;				/* has been in enter() */
	unsigned fast_view;			/* MON_NO_VIEW: no fast step */
	_Atomic uint64_t n_events;		/* sent; others look */
	unsigned fast_session;			/* that asked for it */
	bool is_code;				/* other bytes are being executed */
	bool gone_on;				/* released while waiting: this once without asking */
	struct gw_mon_event ev;
	/* Under lock. */
	pthread_mutex_t lock;
	_Atomic uint8_t state;			/* enum mon_state; with an own door the vCPU's own, without lock */
	uint64_t seq;
	struct gw_mon_answer answer;
	struct { _Atomic bool due; uint32_t vector, type, error, length; uint64_t cr2; } trap;
	/* Any thread. */
	_Atomic unsigned step, next_int;	/* the session that wants it: it ends by itself with that; 0: nobody */
	_Atomic unsigned paused;
	_Atomic bool wants_room;		/* waits for has_room() */
	_Atomic int wake_fd;			/* CHANNEL; made under door_lock, -1: not yet */
	_Atomic bool holds;			/* the vCPU's own: mon_hold() */
	uint64_t sent_seq;
};

/* ---- doors ---------------------------------------------------------------------------------------------------------------- */

/* How events go out. */
struct mon_door_ops {
	bool is_direct;		/* send() runs foreign code: without door_lock */
	bool is_own;		/* each vCPU has its part, its own thread sends and takes answers: without door_lock and mon_vcpu.lock */
	int (*open)(struct monitor *m, struct gw_monitor_attach *a);
	void (*close)(struct monitor *m);
	/* Before send() and pull() of an own door, without locks: what they need. NULL: nothing. */
	int (*prepare)(struct monitor *m, struct mon_vcpu *v);
	/* 0; -EAGAIN: no room now; other: the monitor cannot be reached. In CALLBACK answers at once. */
	int (*send)(struct monitor *m, struct mon_vcpu *v, const struct gw_mon_event *ev);
	/* After -EAGAIN, under door_lock: might send() do now? Otherwise a wake-up follows. NULL: always. */
	bool (*has_room)(struct monitor *m, struct mon_vcpu *v);
	/* Look for answers from outside, on @v's thread (NULL: any). -errno: the monitor does not play by the rules. */
	int (*pull)(struct monitor *m, struct mon_vcpu *v);
	/* Own doors: would pull() find an answer? Writes nothing. NULL: spinning is no use. */
	bool (*peek)(struct monitor *m, struct mon_vcpu *v);
	/* An eventfd, added to when it is time to look again; -1: none. It stays until the end of the VM. */
	int (*fd)(struct monitor *m, struct mon_vcpu *v);
};
extern _Thread_local bool mon_in_callback;
extern const struct mon_door_ops mon_callback_door, mon_channel_door, mon_xen_door;

#define MON_MSR_BITS	0x2000u
struct mon_subs {
	_Atomic uint64_t reasons;		/* bit: reason */
	_Atomic uint32_t flags[32];		/* GW_MON_S_* by reason */
	struct { _Atomic bool on, sync, on_change; _Atomic uint64_t mask; } cr[16];
	_Atomic uint8_t msr[3][MON_MSR_BITS];	/* 1 on, 2 only changes */
};

struct monitor {
	const struct mon_host *host;
	void *vm;
	struct mon_vcpu *_Atomic vcpu[MON_MAX_VCPUS];
	pthread_mutex_t lock;
	/* Something may be refused or told: check() and the extension look at nothing else first. */
	_Atomic bool is_armed;
	_Atomic bool is_attached, is_stopped;
	_Atomic unsigned session;		/* bumped by every attach and detach */
	_Atomic bool is_policy_pause;
	_Atomic bool is_required;
	uint32_t door, policy;
	_Atomic bool blanket;
	const struct mon_door_ops *_Atomic ops;
	pthread_mutex_t door_lock;		/* send and pull against close; below lock, above mon_vcpu.lock */
	uint64_t stall_ns, spin_ns;		/* 0: none */
	bool is_bad_answer_logged;
	_Atomic uint32_t wants;			/* enum cpu_ext_insn bits, of all vCPUs */
	_Atomic uint32_t walks;			/* enum gw_mon_walks */
	bool is_walk_judge;
	_Atomic bool has_views;
	unsigned max_views;
	_Atomic unsigned change;	/* counts changes of rights and views */
	struct mon_view *_Atomic view[MON_MAX_VIEWS];	/* never freed before the monitor */
	struct mon_subs subs;
	struct mon_node *retired;
	/* CALLBACK */
	gw_mon_callback *callback;
	void *opaque;
	/* CHANNEL */
	uint8_t *pages;
	unsigned n_pages;
	/* both */
	int memory_fd, event_fd, answer_fd;
	/* XEN: xen_ring.c */
	struct mon_xen *xen;
};

/* By libc's instructions: what a compiler makes of a size it knows starts slowly, and all of this is on the way of each question. */
static inline void mon_copy(void *to, const void *from, size_t n)
{
	__asm__("" : "+r"(n));
	memcpy(to, from, n);
}

static inline void mon_clear(void *to, size_t n)
{
	__asm__("" : "+r"(n));
	memset(to, 0, n);
}

static inline void mon_set_state(struct mon_vcpu *v, enum mon_state state)
{
	atomic_store_explicit(&v->state, state, memory_order_release);
}

/* ---- asking: event.c -------------------------------------------------------------------------------------------------------- */

static inline struct mon_vcpu *mon_vcpu_of(struct monitor *m, const struct acc_cpu *cpu)
{
	return atomic_load_explicit(&m->vcpu[m->host->index(cpu)], memory_order_acquire);
}

static inline bool mon_subscribed(const struct monitor *m, unsigned reason)
{
	return atomic_load_explicit(&m->subs.reasons, memory_order_relaxed) >> reason & 1;
}

/* Is a mark of mon_vcpu (step, next_int) that of the session that is? An answer may come to be applied after its session's end. */
static inline bool mon_is_marked(const struct mon_vcpu *v, const _Atomic unsigned *mark)
{
	unsigned session = atomic_load(mark);

	return session && session == atomic_load(&v->m->session);
}

enum mon_outcome {
	MON_GO,		/* there is an answer: a grant, found by mon_granted() */
	MON_AGAIN,	/* begin the instruction again */
	MON_LEAVE,	/* wanted elsewhere: it will be begun again, and the question still stands */
};

struct gw_mon_event *mon_event(struct monitor *m, struct mon_vcpu *v, unsigned reason);
/* Ask about v->ev, unless this execution was asked already. Blocks. */
enum mon_outcome mon_ask(struct monitor *m, struct mon_vcpu *v, const struct mon_key *key, bool inside);
/* Tell v->ev; waits only for room. False: wanted elsewhere before there was any; it must be told again. */
bool mon_tell(struct monitor *m, struct mon_vcpu *v, bool inside);
const struct mon_grant *mon_granted(const struct mon_vcpu *v, const struct mon_key *key);
/* An answer for @v by another thread, which wakes it then; false: @v is not asked. */
bool mon_answered(struct mon_vcpu *v, const struct gw_mon_answer *a);
/*
 * What an own door has open stays so until mon_let_go(), by the vCPU's thread; false: @session is over. Nothing that blocks in between:
 * who ends a session waits with mon_wait_holders().
 */
bool mon_hold(struct mon_vcpu *v, unsigned session);
void mon_let_go(struct mon_vcpu *v);
void mon_wait_holders(struct monitor *m);
/* What @v is asked about now by the monitor that there is, if anything. Any thread; not for a door whose answers are the vCPU's own. */
bool mon_asked(struct mon_vcpu *v, struct mon_key *key);
void mon_wake_all(struct monitor *m);
void mon_set_alone(struct mon_vcpu *v, bool on);
/* By the word of @session; ignored if that has ended. */
void mon_switch_view(struct monitor *m, struct mon_vcpu *v, unsigned view, unsigned session);

void mon_fill_memory(struct gw_mon_event *ev, const struct acc_request *rq, uint8_t missing);
/* To be told when the instruction that runs, or the next one, is over. On the vCPU's thread; does not wait. */
void mon_note(struct monitor *m, struct mon_vcpu *v, uint32_t reason, const struct acc_request *rq, uint8_t missing);

/* Session.c, with monitor.lock held. */
void mon_rearm(struct monitor *m);
void mon_end_session(struct monitor *m);
/* Without it. mon_lost(), and the line in the log says @why (" (...)"). */
void mon_lose(struct monitor *m, const char *why);
void mon_forget_all(struct monitor *m);
/* Every vCPU is in view 0, and there is no other. */
void mon_leave_views(struct monitor *m);
/* As before any monitor came. */
void mon_free_rights(struct monitor *m);
/* View @index, made if it never was; not used yet. NULL: no memory. */
struct mon_view *mon_view_new(struct monitor *m, unsigned index);

/* One line a session, however many there are. */
void mon_log_bad_answer(struct monitor *m, const char *what, unsigned value);
void mon_logf(struct monitor *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
