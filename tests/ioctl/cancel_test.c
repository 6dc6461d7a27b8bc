/* SPDX-License-Identifier: MIT */
/* Threads that are cancelled inside KVM_RUN: they end, and leave a vCPU that others can use. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "rig.h"

#define ROUNDS 100

static const uint8_t spin[] = { 0xeb, 0xfe };
static const uint8_t halt[] = { 0xf4, 0xeb, 0xfd };

static const struct row {
	const char *name;
	bool is_owned, is_async, is_halted;
} rows[] = {
	{ "asynchronously, the guest runs, signals deferred", true, true, false },
	{ "asynchronously, the guest sleeps, signals deferred", true, true, true },
	{ "at a point of cancellation, the guest runs, signals deferred", true, false, false },
	{ "at a point of cancellation, the guest sleeps, signals deferred", true, false, true },
	{ "asynchronously, the guest runs, signals blocked", false, true, false },
	{ "asynchronously, the guest sleeps, signals blocked", false, true, true },
	{ "at a point of cancellation, the guest runs, signals blocked", false, false, false },
	{ "at a point of cancellation, the guest sleeps, signals blocked", false, false, true },
};

static struct rig rig;
static volatile bool is_clean, has_mask;

static void on_cleanup(void *arg)
{
	sigset_t now;

	is_clean = true;
	pthread_sigmask(SIG_SETMASK, NULL, &now);
	has_mask = sigismember(&now, SIGUSR1) == 0 && sigismember(&now, SIGUSR2) == 1;
}

static void *vcpu_thread(void *arg)
{
	const struct row *row = arg;
	sigset_t set;
	int old;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	pthread_cleanup_push(on_cleanup, NULL);
	pthread_setcanceltype(row->is_async ? PTHREAD_CANCEL_ASYNCHRONOUS : PTHREAD_CANCEL_DEFERRED, &old);
	for (;;) {
		rig_ioctl_n(rig.vcpu, KVM_RUN, 0);
		if (!row->is_async)
			pthread_testcancel();
	}
	pthread_cleanup_pop(0);
	return NULL;
}

/* Is the vCPU free, and does it run? */
static void use_vcpu(void)
{
	struct kvm_regs regs;

	assert_int_equal(rig_ioctl(rig.vcpu, KVM_GET_REGS, &regs), 0);
	assert_in_range(regs.rip, RIG_CODE, RIG_CODE + 2);
	rig.run->immediate_exit = 1;
	assert_int_equal(rig_ioctl_n(rig.vcpu, KVM_RUN, 0), -EINTR);
	rig.run->immediate_exit = 0;
}

/* With deferred cancellation it is as with system calls: one that comes before KVM_RUN begins does not end it, a later kick does. */
static int join(const struct row *row, pthread_t t, void **ret)
{
	struct timespec until;
	int err = ETIMEDOUT;

	for (unsigned i = 0; i < 1000 && err == ETIMEDOUT; i++) {
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 10000000;
		if (until.tv_nsec >= 1000000000) {
			until.tv_sec++;
			until.tv_nsec -= 1000000000;
		}
		err = pthread_timedjoin_np(t, ret, &until);
		if (!row->is_async)
			gw_thread_cancelled(t);
	}
	return err;
}

static void cancelled(void **state)
{
	const struct row *row = *state;

	gw_own_signals(row->is_owned);
	rig_open(&rig, RIG_IRQCHIP);
	rig_code(&rig, row->is_halted ? halt : spin, row->is_halted ? sizeof(halt) : sizeof(spin));
	for (unsigned i = 0; i < ROUNDS; i++) {
		pthread_t t;
		void *ret;

		is_clean = has_mask = false;
		assert_int_equal(pthread_create(&t, NULL, vcpu_thread, (void *)(uintptr_t)row), 0);
		if (i % 4)
			nanosleep(&(struct timespec){ .tv_nsec = rand() % 300000 }, NULL);
		assert_int_equal(pthread_cancel(t), 0);
		gw_thread_cancelled(t);
		assert_int_equal(join(row, t, &ret), 0);
		assert_ptr_equal(ret, PTHREAD_CANCELED);
		if (i % 4)
			use_vcpu();
		/* Right after pthread_create() the thread may end before it says anything. */
		assert_int_equal(has_mask, is_clean);
	}
	rig_close(&rig);
	gw_own_signals(0);
}

/* Another ioctl is no point of cancellation. */
static void *other_thread(void *arg)
{
	static struct rig_msrs m = { .nmsrs = 1, .e = { { .index = 0x10 } } };
	volatile bool *done = arg;
	struct kvm_clock_data clock;

	pthread_cancel(pthread_self());
	for (unsigned i = 0; i < 100; i++)
		if (rig_ioctl(rig.vcpu, KVM_GET_MSRS, &m) != 1 || rig_ioctl(rig.vm, KVM_GET_CLOCK, &clock) != 0)
			return NULL;
	*done = true;
	pthread_testcancel();
	return NULL;
}

static void other_ioctls(void **state)
{
	bool done = false;
	pthread_t t;
	void *ret;

	rig_open(&rig, 0);
	assert_int_equal(pthread_create(&t, NULL, other_thread, &done), 0);
	assert_int_equal(pthread_join(t, &ret), 0);
	assert_true(done);
	assert_ptr_equal(ret, PTHREAD_CANCELED);
	rig_close(&rig);
}

int main(void)
{
	struct CMUnitTest tests[sizeof(rows) / sizeof(rows[0]) + 1] = { 0 };
	unsigned n = 0;

	for (; n < sizeof(rows) / sizeof(rows[0]); n++)
		tests[n] = (struct CMUnitTest){ .name = rows[n].name, .test_func = cancelled, .initial_state = (void *)(uintptr_t)&rows[n] };
	tests[n] = (struct CMUnitTest){ .name = "an ioctl other than KVM_RUN is no point of cancellation", .test_func = other_ioctls };
	return cmocka_run_group_tests_name("cancelled threads", tests, NULL, NULL);
}
