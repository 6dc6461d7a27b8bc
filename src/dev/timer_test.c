/* SPDX-License-Identifier: MIT */
/* The deadline queue, by hand and with its thread. The thread's tests wait for events, never for time alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "dev/timer.h"

static uint64_t hand_now;
static uint64_t hand(void *opaque) { return hand_now; }

struct probe {
	struct dev_timer timer;
	struct dev_timers *timers;
	unsigned n;
	unsigned order;		/* when it last ran, among all */
	bool rearms_into_past;
};

static unsigned sequence;

static void probe_fn(struct dev_timer *timer, uint64_t now_ns)
{
	struct probe *p = container_of(timer, struct probe, timer);

	assert_false(timer->is_armed);
	p->n++;
	p->order = ++sequence;
	if (p->rearms_into_past)
		dev_timer_arm(p->timers, timer, 0);
}

static void test_order(void **state)
{
	struct dev_timers *t = NULL;
	struct probe p[4] = { { .n = 0 } };
	uint64_t next = 0;

	hand_now = 100;
	sequence = 0;
	assert_int_equal(dev_timers_create(&t, hand, NULL), 0);
	assert_int_equal(dev_timers_start(t), 0);
	assert_false(dev_timers_next(t, &next));
	for (unsigned i = 0; i < 4; i++)
		dev_timer_init(&p[i].timer, probe_fn);
	dev_timer_arm(t, &p[0].timer, 300);
	dev_timer_arm(t, &p[1].timer, 200);
	dev_timer_arm(t, &p[2].timer, 200);
	dev_timer_arm(t, &p[3].timer, 50);		/* the past */
	assert_true(dev_timers_next(t, &next));
	assert_int_equal(next, 50);
	assert_int_equal(dev_timers_run(t), 1);
	dev_timer_arm(t, &p[1].timer, 250);		/* moved */
	dev_timer_arm(t, &p[3].timer, ~0ull);		/* never, in practice */
	hand_now = 400;
	assert_int_equal(dev_timers_run(t), 3);
	assert_int_equal(p[3].order, 1);
	assert_int_equal(p[2].order, 2);
	assert_int_equal(p[1].order, 3);
	assert_int_equal(p[0].order, 4);
	dev_timer_cancel(t, &p[3].timer);
	dev_timer_cancel(t, &p[3].timer);		/* twice is fine */
	assert_false(dev_timers_next(t, &next));
	assert_int_equal(dev_timers_run(t), 0);
	dev_timers_destroy(t);
	dev_timers_destroy(NULL);
}

static void test_rearm_into_past_is_bounded(void **state)
{
	struct dev_timers *t = NULL;
	struct probe busy = { .rearms_into_past = true }, other = { .n = 0 };

	hand_now = 100;
	assert_int_equal(dev_timers_create(&t, hand, NULL), 0);
	busy.timers = t;
	dev_timer_init(&busy.timer, probe_fn);
	dev_timer_init(&other.timer, probe_fn);
	dev_timer_arm(t, &busy.timer, 0);
	dev_timer_arm(t, &other.timer, 0);
	assert_int_equal(dev_timers_run(t), 2);
	assert_int_equal(busy.n, 1);
	assert_int_equal(other.n, 1);
	assert_int_equal(other.order, busy.order + 1);
	busy.rearms_into_past = false;
	assert_int_equal(dev_timers_run(t), 1);
	dev_timers_destroy(t);
}

/* --- with the thread --------------------------------------------------------------------------------------------- */

struct live {
	struct dev_timer timer;
	struct dev_timers *timers;
	sem_t ran, go;
	uint64_t deadline_ns, late_ns;
	pthread_t thread;
	sigset_t mask;
	bool blocks;
	unsigned n_rearm;
};

static void live_fn(struct dev_timer *timer, uint64_t now_ns)
{
	struct live *l = container_of(timer, struct live, timer);

	l->thread = pthread_self();
	pthread_sigmask(SIG_SETMASK, NULL, &l->mask);
	l->late_ns = now_ns - l->deadline_ns;
	if (l->n_rearm && --l->n_rearm)
		dev_timer_arm(l->timers, timer, now_ns + 1000);
	else
		sem_post(&l->ran);
	if (l->blocks)
		sem_wait(&l->go);
}

static void live_init(struct live *l, struct dev_timers *t)
{
	memset(l, 0, sizeof(*l));
	l->timers = t;
	sem_init(&l->ran, 0, 0);
	sem_init(&l->go, 0, 0);
	dev_timer_init(&l->timer, live_fn);
}

static void live_arm(struct live *l, uint64_t in_ns)
{
	l->deadline_ns = dev_timers_now(l->timers) + in_ns;
	dev_timer_arm(l->timers, &l->timer, l->deadline_ns);
}

static void test_thread_fires(void **state)
{
	struct dev_timers *t = NULL;
	struct live a, b;

	assert_int_equal(dev_timers_create(&t, NULL, NULL), 0);
	live_init(&a, t);
	live_init(&b, t);
	live_arm(&a, 3600000000000ull);
	live_arm(&b, 1000000);			/* earlier than what the thread sleeps for */
	sem_wait(&b.ran);
	assert_false(pthread_equal(b.thread, pthread_self()));
	assert_int_equal(sigismember(&b.mask, SIGALRM), 1);
	assert_int_equal(sigismember(&b.mask, SIGINT), 1);
	live_arm(&a, 0);			/* an hour ahead becomes now */
	sem_wait(&a.ran);
	a.n_rearm = 200;
	live_arm(&a, 0);
	sem_wait(&a.ran);
	dev_timer_cancel_sync(t, &a.timer);
	dev_timer_cancel_sync(t, &b.timer);
	dev_timers_destroy(t);
}

static void *release_soon(void *arg)
{
	struct live *l = arg;

	usleep(2000);				/* enough that cancel_sync is really waiting, most of the time */
	l->deadline_ns = 0;
	sem_post(&l->go);
	return NULL;
}

static void test_cancel_sync_waits(void **state)
{
	struct dev_timers *t = NULL;
	struct live a;
	pthread_t helper;

	assert_int_equal(dev_timers_create(&t, NULL, NULL), 0);
	assert_int_equal(dev_timers_start(t), 0);
	assert_int_equal(dev_timers_start(t), 0);
	live_init(&a, t);
	a.blocks = true;
	live_arm(&a, 0);
	sem_wait(&a.ran);			/* inside the callback now */
	assert_int_equal(pthread_create(&helper, NULL, release_soon, &a), 0);
	dev_timer_cancel_sync(t, &a.timer);
	assert_int_equal(a.deadline_ns, 0);	/* so it had been released before we returned */
	pthread_join(helper, NULL);
	dev_timers_destroy(t);
}

static void test_destroy_without_use(void **state)
{
	struct dev_timers *t = NULL;

	assert_int_equal(dev_timers_create(&t, NULL, NULL), 0);
	dev_timers_destroy(t);
	assert_int_equal(dev_timers_create(&t, NULL, NULL), 0);
	assert_int_equal(dev_timers_start(t), 0);
	dev_timers_destroy(t);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		{ "deadlines run in order, equal ones as armed", test_order, NULL, NULL, NULL },
		{ "a timer that re-arms into the past starves nobody", test_rearm_into_past_is_bounded, NULL, NULL, NULL },
		{ "the thread wakes for an earlier deadline and takes no signals", test_thread_fires, NULL, NULL, NULL },
		{ "cancel_sync waits for a running callback", test_cancel_sync_waits, NULL, NULL, NULL },
		{ "an unused queue is destroyed, with and without a thread", test_destroy_without_use, NULL, NULL, NULL },
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
