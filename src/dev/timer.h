/* SPDX-License-Identifier: MIT */
/*
 * Deadlines: one queue and one thread per VM. LAPIC timers, the PIT and anything else of the VM that must happen at a time
 * embed a struct dev_timer.
 *
 * Time is CLOCK_MONOTONIC in nanoseconds, or whatever the creator's `now` says (tests drive it by hand; then there is no
 * thread and dev_timers_run() fires what is due). The thread is made with the first armed timer, or by dev_timers_start():
 * a client that installs a seccomp filter on its vCPU threads must not see clone() come from KVM_RUN.
 *
 * Locking: the queue's own lock is a leaf; arm and cancel may be called under any lock and from inside a callback. Callbacks
 * run without the queue's lock. A callback may therefore run just after a cancel: it must look at its own state, under its
 * own lock, before acting. dev_timer_cancel_sync() is for teardown.
 */
#ifndef GW_DEV_TIMER_H
#define GW_DEV_TIMER_H

#include "base/types.h"

struct dev_timers;
struct dev_timer;

/* @now_ns: the time when the queue found it due. The timer is disarmed and may be armed again from here. */
typedef void dev_timer_fn(struct dev_timer *timer, uint64_t now_ns);

struct dev_timer {
	dev_timer_fn *fn;
	/* The queue's, under its lock. */
	struct dev_timer *next, *prev;
	uint64_t deadline_ns;
	bool is_armed;
};

/* NULL @now: CLOCK_MONOTONIC and a thread. 0, -ENOMEM. */
typedef uint64_t dev_now_fn(void *opaque);
int dev_timers_create(struct dev_timers **out, dev_now_fn *now, void *opaque);

/* Joins the thread. Every timer must have been cancelled (sync) before; NULL is fine. */
void dev_timers_destroy(struct dev_timers *timers);

/* Make the thread now (idempotent). 0, or -errno of pthread_create. With a hand-driven clock: 0. */
int dev_timers_start(struct dev_timers *timers);

uint64_t dev_timers_now(const struct dev_timers *timers);

/* Fire everything due; for hand-driven clocks. Returns how many callbacks ran (bounded: a callback that re-arms itself into
 * the past runs again in the next call). */
unsigned dev_timers_run(struct dev_timers *timers);

/* The earliest deadline; false when nothing is armed. */
bool dev_timers_next(struct dev_timers *timers, uint64_t *deadline_ns);

void dev_timer_init(struct dev_timer *timer, dev_timer_fn *fn);

/* (Re)arm at an absolute time; the past means as soon as possible. If the thread cannot be made the timer stays queued, an
 * error is logged, and the next arm tries again. */
void dev_timer_arm(struct dev_timers *timers, struct dev_timer *timer, uint64_t deadline_ns);

/* Disarm; a callback already taken out may still run. */
void dev_timer_cancel(struct dev_timers *timers, struct dev_timer *timer);

/* Disarm and wait until no callback of this timer runs. Not under a lock the callback takes, not from a callback. The
 * callback must have been told not to re-arm, or this loops until it stops doing so. */
void dev_timer_cancel_sync(struct dev_timers *timers, struct dev_timer *timer);

#endif
