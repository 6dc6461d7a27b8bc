/* SPDX-License-Identifier: MIT */
/*
 * The deadline queue: a list sorted by deadline (a VM has a few timers per vCPU at most) and the thread that sleeps until the
 * first one. The thread is woken only for a deadline earlier than the one it sleeps for: arming a timer later, or cancelling,
 * costs no system call. It then wakes once for nothing, which is cheaper.
 */
#include "dev/timer.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "base/log.h"

#define NSEC_PER_SEC	1000000000ull
#define FOREVER_NS	(1ull << 62)

struct dev_timers {
	pthread_mutex_t lock;
	pthread_cond_t wake;		/* for the thread: something earlier, or stop */
	pthread_cond_t done;		/* a callback has returned */
	struct dev_timer head;		/* sentinel of the ring */
	struct dev_timer *running;
	uint64_t sleeps_until_ns;	/* 0 while awake */
	dev_now_fn *now;
	void *opaque;
	pthread_t thread;
	bool has_thread;
	bool stop;
};

static uint64_t monotonic_ns(void *opaque)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

static struct dev_timer *first_timer(struct dev_timers *t)
{
	return t->head.next == &t->head ? NULL : t->head.next;
}

static void unlink_timer(struct dev_timer *timer)
{
	timer->prev->next = timer->next;
	timer->next->prev = timer->prev;
	timer->next = timer->prev = NULL;
	timer->is_armed = false;
}

/* Behind equal deadlines, so that a timer re-armed into the past cannot starve another one. */
static void link_timer(struct dev_timers *t, struct dev_timer *timer)
{
	struct dev_timer *at = t->head.prev;

	while (at != &t->head && at->deadline_ns > timer->deadline_ns)
		at = at->prev;
	timer->prev = at;
	timer->next = at->next;
	at->next->prev = timer;
	at->next = timer;
	timer->is_armed = true;
}

/* Takes the first timer out, runs it without the lock; called and returns with the lock held. */
static void run_first(struct dev_timers *t, uint64_t now_ns)
{
	struct dev_timer *timer = first_timer(t);

	unlink_timer(timer);
	t->running = timer;
	pthread_mutex_unlock(&t->lock);
	timer->fn(timer, now_ns);
	pthread_mutex_lock(&t->lock);
	t->running = NULL;
	pthread_cond_broadcast(&t->done);
}

static void sleep_until(struct dev_timers *t, uint64_t deadline_ns)
{
	struct timespec ts = {
		.tv_sec = (time_t)(deadline_ns / NSEC_PER_SEC),
		.tv_nsec = (long)(deadline_ns % NSEC_PER_SEC),
	};

	t->sleeps_until_ns = deadline_ns;
	pthread_cond_timedwait(&t->wake, &t->lock, &ts);
	t->sleeps_until_ns = 0;
}

static void *timer_thread(void *arg)
{
	struct dev_timers *t = arg;

	prctl(PR_SET_NAME, "gw-timer");
	/* The default slack of 50 us is a whole interrupt for a guest with a fast timer. */
	prctl(PR_SET_TIMERSLACK, 1ul);
	pthread_mutex_lock(&t->lock);
	while (!t->stop) {
		struct dev_timer *timer = first_timer(t);
		uint64_t now = t->now(t->opaque);

		if (!timer)
			sleep_until(t, FOREVER_NS);
		else if (timer->deadline_ns > now)
			sleep_until(t, timer->deadline_ns);
		else
			run_first(t, now);
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

/* All signals stay with the client's own threads. */
static int start_locked(struct dev_timers *t)
{
	sigset_t all, old;
	int err;

	if (t->has_thread || t->now != monotonic_ns)
		return 0;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&t->thread, NULL, timer_thread, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err)
		return -err;
	t->has_thread = true;
	return 0;
}

int dev_timers_create(struct dev_timers **out, dev_now_fn *now, void *opaque)
{
	struct dev_timers *t = calloc(1, sizeof(*t));
	pthread_condattr_t attr;

	if (!t)
		return -ENOMEM;
	t->now = now ? now : monotonic_ns;
	t->opaque = opaque;
	t->head.next = t->head.prev = &t->head;
	pthread_mutex_init(&t->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&t->wake, &attr);
	pthread_cond_init(&t->done, NULL);
	pthread_condattr_destroy(&attr);
	*out = t;
	return 0;
}

void dev_timers_destroy(struct dev_timers *t)
{
	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	t->stop = true;
	pthread_cond_signal(&t->wake);
	pthread_mutex_unlock(&t->lock);
	if (t->has_thread)
		pthread_join(t->thread, NULL);
	pthread_cond_destroy(&t->wake);
	pthread_cond_destroy(&t->done);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

int dev_timers_start(struct dev_timers *t)
{
	int err;

	pthread_mutex_lock(&t->lock);
	err = start_locked(t);
	pthread_mutex_unlock(&t->lock);
	return err;
}

uint64_t dev_timers_now(const struct dev_timers *t)
{
	return t->now(t->opaque);
}

unsigned dev_timers_run(struct dev_timers *t)
{
	unsigned n_due = 0, n_run = 0;
	uint64_t now;

	pthread_mutex_lock(&t->lock);
	now = t->now(t->opaque);
	for (struct dev_timer *i = t->head.next; i != &t->head && i->deadline_ns <= now; i = i->next)
		n_due++;
	while (n_run < n_due && first_timer(t) && first_timer(t)->deadline_ns <= now) {
		run_first(t, now);
		n_run++;
	}
	pthread_mutex_unlock(&t->lock);
	return n_run;
}

bool dev_timers_next(struct dev_timers *t, uint64_t *deadline_ns)
{
	struct dev_timer *timer;

	pthread_mutex_lock(&t->lock);
	timer = first_timer(t);
	if (timer)
		*deadline_ns = timer->deadline_ns;
	pthread_mutex_unlock(&t->lock);
	return timer != NULL;
}

void dev_timer_init(struct dev_timer *timer, dev_timer_fn *fn)
{
	*timer = (struct dev_timer){ .fn = fn };
}

void dev_timer_arm(struct dev_timers *t, struct dev_timer *timer, uint64_t deadline_ns)
{
	int err;

	pthread_mutex_lock(&t->lock);
	if (timer->is_armed)
		unlink_timer(timer);
	timer->deadline_ns = deadline_ns < FOREVER_NS ? deadline_ns : FOREVER_NS;
	link_timer(t, timer);
	err = start_locked(t);
	if (t->sleeps_until_ns > timer->deadline_ns)
		pthread_cond_signal(&t->wake);
	pthread_mutex_unlock(&t->lock);
	if (err)
		gw_log(GW_LOG_ERROR, "dev: no timer thread: %s", strerror(-err));
}

void dev_timer_cancel(struct dev_timers *t, struct dev_timer *timer)
{
	pthread_mutex_lock(&t->lock);
	if (timer->is_armed)
		unlink_timer(timer);
	pthread_mutex_unlock(&t->lock);
}

void dev_timer_cancel_sync(struct dev_timers *t, struct dev_timer *timer)
{
	pthread_mutex_lock(&t->lock);
	while (timer->is_armed || t->running == timer) {
		if (timer->is_armed)
			unlink_timer(timer);
		else
			pthread_cond_wait(&t->done, &t->lock);
	}
	pthread_mutex_unlock(&t->lock);
}
