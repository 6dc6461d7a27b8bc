/* SPDX-License-Identifier: MIT */
/* Signals of a client whose handlers all went through gw_sigaction(): deferred until KVM_RUN is over, none lost, none altered. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "rig.h"

#define STORM 20000

static const uint8_t spin[] = { 0xeb, 0xfe };
static struct rig rig;
static volatile sig_atomic_t n_handled, value, ioctl_ret;
static sigjmp_buf out;

static void handle(int sig, void (*fn)(int, siginfo_t *, void *), int flags)
{
	struct sigaction sa = { .sa_sigaction = fn, .sa_flags = flags | SA_SIGINFO };

	assert_int_equal(gw_sigaction(sig, &sa, NULL), 0);
}

static long run(void)
{
	return rig_ioctl_n(rig.vcpu, KVM_RUN, 0);
}

/* Uses the vCPU, which would wait for ever for its own thread if KVM_RUN were not over. */
static void on_signal(int sig, siginfo_t *info, void *ctx)
{
	struct kvm_regs regs;

	value = info->si_value.sival_int;
	ioctl_ret = (int)rig_ioctl(rig.vcpu, KVM_GET_REGS, &regs);
	n_handled++;
}

static void on_jump(int sig, siginfo_t *info, void *ctx)
{
	n_handled++;
	siglongjmp(out, 1);
}

struct kick { pthread_t who; int sig, sig2, value; bool immediate; };

static void *kicker(void *arg)
{
	const struct kick *k = arg;

	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	if (k->immediate)
		__atomic_store_n(&rig.run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	if (k->sig)
		pthread_sigqueue(k->who, k->sig, (union sigval){ .sival_int = k->value });
	if (k->sig2)
		pthread_sigqueue(k->who, k->sig2, (union sigval){ .sival_int = k->value });
	return NULL;
}

static void run_kicked(const struct kick *want)
{
	struct kick k = *want;
	pthread_t t;

	k.who = pthread_self();
	n_handled = value = 0;
	ioctl_ret = -1;
	pthread_create(&t, NULL, kicker, &k);
	assert_int_equal(run(), -EINTR);
	assert_int_equal(rig.run->exit_reason, KVM_EXIT_INTR);
	rig.run->immediate_exit = 0;
	pthread_join(t, NULL);
}

static void handler_runs_after_the_call(void **state)
{
	handle(SIGUSR1, on_signal, 0);
	handle(SIGRTMIN, on_signal, 0);
	rig_open(&rig, 0);
	rig_code(&rig, spin, sizeof(spin));
	for (int i = 1; i <= 3; i++) {
		run_kicked(&(struct kick){ .sig = SIGUSR1, .value = 77 + i });
		assert_int_equal(n_handled, 1);
		assert_int_equal(value, 77 + i);
		assert_int_equal(ioctl_ret, 0);
	}
	run_kicked(&(struct kick){ .sig = SIGUSR1, .sig2 = SIGRTMIN, .value = 5 });
	/* The second may be late: then it finds us outside, or ends the next run. */
	while (n_handled < 2)
		run();
	assert_int_equal(n_handled, 2);
	run_kicked(&(struct kick){ .immediate = true });
	run_kicked(&(struct kick){ .immediate = true, .sig = SIGUSR1 });
	rig_close(&rig);
}

static void sleeper_is_woken(void **state)
{
	static const uint8_t code[] = { 0xfa, 0xf4, 0xeb, 0xfd };	/* cli; hlt; jmp hlt */
	sigset_t before, after;

	handle(SIGUSR1, on_signal, 0);
	rig_open(&rig, RIG_IRQCHIP | RIG_CPUID);
	rig_code(&rig, code, sizeof(code));
	pthread_sigmask(SIG_SETMASK, NULL, &before);
	for (int i = 1; i <= 2; i++) {
		run_kicked(&(struct kick){ .sig = SIGUSR1, .value = i });
		assert_int_equal(n_handled, 1);
		assert_int_equal(value, i);
	}
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	assert_memory_equal(&before, &after, 8);
	rig_close(&rig);
}

/* A signal that the thread blocks does not end KVM_RUN, and is still pending after it. */
static void blocked_stays_pending(void **state)
{
	struct rig_signal_mask m = { .len = 8 };
	sigset_t block, old, pending;
	int sig;

	handle(SIGUSR1, on_signal, 0);
	handle(SIGUSR2, on_signal, 0);
	sigemptyset(&block);
	sigaddset(&block, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &block, &old);
	rig_open(&rig, 0);
	rig_code(&rig, spin, sizeof(spin));
	run_kicked(&(struct kick){ .sig = SIGUSR2, .sig2 = SIGUSR1, .value = 3 });
	assert_int_equal(n_handled, 1);
	sigpending(&pending);
	assert_int_equal(sigismember(&pending, SIGUSR2), 1);
	/* KVM_SET_SIGNAL_MASK lets it end KVM_RUN, and nobody handles it. */
	memset(m.sigset, 0, 8);
	assert_int_equal(rig_ioctl(rig.vcpu, KVM_SET_SIGNAL_MASK, &m), 0);
	assert_int_equal(run(), -EINTR);
	assert_int_equal(run(), -EINTR);
	assert_int_equal(n_handled, 1);
	assert_int_equal(sigwait(&block, &sig), 0);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	assert_int_equal(n_handled, 1);
	rig_close(&rig);
}

/* Old clients jump out of KVM_RUN. */
static void handler_may_jump(void **state)
{
	struct kick k = { .who = pthread_self(), .sig = SIGUSR1 };
	struct kvm_regs regs;
	pthread_t t;

	handle(SIGUSR1, on_jump, 0);
	rig_open(&rig, 0);
	rig_code(&rig, spin, sizeof(spin));
	n_handled = 0;
	for (int i = 1; i <= 3; i++) {
		pthread_create(&t, NULL, kicker, &k);
		if (!sigsetjmp(out, 1))
			for (;;)
				run();
		pthread_join(t, NULL);
		assert_int_equal(n_handled, i);
		assert_int_equal(rig_ioctl(rig.vcpu, KVM_GET_REGS, &regs), 0);
	}
	rig_close(&rig);
}

static void sigaction_says_what_was_set(void **state)
{
	struct sigaction old, one = { .sa_sigaction = on_signal, .sa_flags = (int)(SA_SIGINFO | SA_RESETHAND) }, ign = { .sa_handler = SIG_IGN };

	sigaddset(&one.sa_mask, SIGHUP);
	assert_int_equal(gw_sigaction(SIGUSR2, &one, NULL), 0);
	assert_int_equal(gw_sigaction(SIGUSR2, NULL, &old), 0);
	assert_ptr_equal(old.sa_sigaction, on_signal);
	assert_int_equal(old.sa_flags & (int)(SA_SIGINFO | SA_RESETHAND), (int)(SA_SIGINFO | SA_RESETHAND));
	assert_int_equal(sigismember(&old.sa_mask, SIGHUP), 1);
	rig_open(&rig, 0);
	raise(SIGUSR2);
	assert_int_equal(gw_sigaction(SIGUSR2, &ign, &old), 0);
	assert_ptr_equal(old.sa_handler, SIG_DFL);
	raise(SIGUSR2);
	assert_int_equal(gw_sigaction(SIGUSR2, NULL, &old), 0);
	assert_ptr_equal(old.sa_handler, SIG_IGN);
	assert_int_equal(gw_sigaction(SIGKILL, &one, NULL), -EINVAL);
	assert_int_equal(gw_sigaction(0, &one, NULL), -EINVAL);
	assert_int_equal(gw_sigaction(65, &one, NULL), -EINVAL);
	rig_close(&rig);
}

/* ---- storm ---------------------------------------------------------------------------------------------------------------- */

static void on_storm(int sig, siginfo_t *info, void *ctx)
{
	n_handled++;
	rig.run->immediate_exit = 1;
}

static void *storm(void *arg)
{
	pthread_t who = *(pthread_t *)arg;
	unsigned seed = 1;

	for (int i = 0; i < STORM; i++) {
		/* A full queue (the limit of pending signals) is the host's: try again. */
		while (pthread_sigqueue(who, SIGRTMIN + i % 3, (union sigval){ 0 }))
			sched_yield();
		for (unsigned n = (seed = seed * 1103515245 + 12345) >> 16 & 1023; n; n--)
			__asm__ volatile("pause");
	}
	return NULL;
}

/* Queued signals from another thread at any moment of KVM_RUN's: each is handled once, and the guest gets on. */
static void storm_loses_none(void **state)
{
	/* 1: inc ax; out 80,al; jmp 1b */
	static const uint8_t code[] = { 0x40, 0xe6, 0x80, 0xeb, 0xfb };
	uint64_t exits = 0, turns = 0;
	struct kvm_regs regs;
	pthread_t t, self = pthread_self();

	for (int i = 0; i < 3; i++)
		handle(SIGRTMIN + i, on_storm, 0);
	rig_open(&rig, 0);
	rig_code(&rig, code, sizeof(code));
	n_handled = 0;
	pthread_create(&t, NULL, storm, &self);
	while (n_handled < STORM) {
		long ret = run();

		turns++;
		if (!ret) {
			assert_int_equal(rig.run->exit_reason, KVM_EXIT_IO);
			exits++;
		} else {
			assert_int_equal(ret, -EINTR);
			rig.run->immediate_exit = 0;
		}
		assert_true(turns < 100000000);
	}
	pthread_join(t, NULL);
	assert_int_equal(n_handled, STORM);
	/* Every exit was one turn of the loop, none twice; the last turn may have begun. */
	rig.run->immediate_exit = 1;
	run();
	rig.run->immediate_exit = 0;
	assert_int_equal(rig_ioctl(rig.vcpu, KVM_GET_REGS, &regs), 0);
	assert_in_range((regs.rax - exits) & 0xffff, 0, 1);
	rig_close(&rig);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		{ "a signal ends KVM_RUN at once; its handler runs afterwards and may use the vCPU", handler_runs_after_the_call },
		{ "a signal wakes HLT, and the thread's mask is as before", sleeper_is_woken },
		{ "a blocked signal stays pending; KVM_SET_SIGNAL_MASK still lets it end KVM_RUN", blocked_stays_pending },
		{ "a handler may jump out of KVM_RUN", handler_may_jump },
		{ "gw_sigaction says what was set, with SA_RESETHAND and SIG_IGN", sigaction_says_what_was_set },
		{ "20000 queued signals are handled once each while the guest gets on", storm_loses_none },
	};

	gw_own_signals(1);
	return cmocka_run_group_tests_name("KVM_RUN and deferred signals", tests, NULL, NULL);
}
