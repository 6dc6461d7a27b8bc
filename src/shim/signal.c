/* SPDX-License-Identifier: MIT */
/*
 * Who handles a fault signal. The engine needs SIGSEGV, SIGBUS, SIGFPE and SIGILL for its own program counters and buffers, and
 * clients install handlers for the same signals, before and after. So from the moment the engine takes a signal its handler stays
 * with the kernel; what the client asks for is kept here, and called by the engine (which thinks it was there before) for
 * everything that is not its own.
 *
 * Handlers of all other signals go through the library's gw_sigaction(), so that a handler never runs inside KVM_RUN and KVM_RUN
 * need not block signals for that. A client that sets one by syscall(2) gets the slower way: the library is told.
 */
#include <errno.h>
#include <guestward/guestward.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "shim/real.h"
#include "shim/shim.h"

#define N_SIGNALS 65

static struct sigaction wanted[N_SIGNALS];	/* the client's, for taken signals; under the lock */
static _Atomic bool is_taken[N_SIGNALS];
static atomic_flag lock = ATOMIC_FLAG_INIT;

int __wrap_sigaction(int sig, const struct sigaction *act, struct sigaction *old);

/* A spin lock, with every signal blocked: a handler of the same thread must never find it held. */
static void lock_all(sigset_t *saved)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, saved);
	while (atomic_flag_test_and_set_explicit(&lock, memory_order_acquire))
		;
}

static void unlock_all(const sigset_t *saved)
{
	atomic_flag_clear_explicit(&lock, memory_order_release);
	pthread_sigmask(SIG_SETMASK, saved, NULL);
}

static bool in_range(int sig)
{
	return sig > 0 && sig < N_SIGNALS;
}

/* Those it handles itself. What gw_sigaction() installs goes to libc as it is. */
static bool is_engines(int sig)
{
	return sig == SIGSEGV || sig == SIGBUS || sig == SIGFPE || sig == SIGILL;
}

/* ---- what the engine calls ------------------------------------------------------------------------------------------------ */

static void take_default(int sig, const siginfo_t *info)
{
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	sigset_t set;

	REAL(sigaction)(sig, &dfl, NULL);
	/* A fault comes again when we return; a sent signal must be sent again. */
	if (info->si_code > 0)
		return;
	sigemptyset(&set);
	sigaddset(&set, sig);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	raise(sig);
}

static struct sigaction take_wanted(int sig)
{
	struct sigaction act;
	sigset_t saved;

	lock_all(&saved);
	act = wanted[sig];
	if (act.sa_flags & (int)SA_RESETHAND)
		wanted[sig] = (struct sigaction){ .sa_handler = SIG_DFL };
	unlock_all(&saved);
	return act;
}

/* The engine's "previous handler": calls the client's as the kernel would. */
static void to_client(int sig, siginfo_t *info, void *ctx)
{
	struct sigaction act;
	sigset_t mask, saved;

	if (shim_cpuid_fault(sig, info, ctx))
		return;
	act = take_wanted(sig);
	mask = act.sa_mask;
	if (act.sa_handler == SIG_IGN && info->si_code <= 0)
		return;
	if (act.sa_handler == SIG_DFL || act.sa_handler == SIG_IGN) {
		take_default(sig, info);
		return;
	}
	if (!(act.sa_flags & SA_NODEFER))
		sigaddset(&mask, sig);
	pthread_sigmask(SIG_BLOCK, &mask, &saved);
	if (act.sa_flags & SA_SIGINFO)
		act.sa_sigaction(sig, info, ctx);
	else
		act.sa_handler(sig);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
}

/*
 * The engine's own sigaction(). It asks first and installs then; asked about a signal that it has not yet taken, the answer
 * is to_client(), so that what it later chains to is whatever the client wants by then.
 */
int __wrap_sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	struct sigaction now;
	sigset_t saved;
	int ret;

	if (!is_engines(sig) || (act && !(act->sa_flags & SA_SIGINFO)) || (!act && atomic_load(&is_taken[sig])))
		return REAL(sigaction)(sig, act, old);
	if (!act) {
		*old = (struct sigaction){ .sa_sigaction = to_client, .sa_flags = SA_SIGINFO | SA_NODEFER };
		return 0;
	}
	lock_all(&saved);
	ret = REAL(sigaction)(sig, act, &now);
	if (!ret && !atomic_load(&is_taken[sig])) {
		wanted[sig] = now;
		atomic_store(&is_taken[sig], true);
	}
	unlock_all(&saved);
	return ret;
}

/* For what the shim itself wants of a signal, before the engine is there: from now on it goes to to_client(). */
void shim_signal_take(int sig)
{
	struct sigaction ours = { .sa_sigaction = to_client, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK }, now;
	sigset_t saved;

	lock_all(&saved);
	if (!atomic_load(&is_taken[sig]) && !REAL(sigaction)(sig, &ours, &now)) {
		wanted[sig] = now;
		atomic_store(&is_taken[sig], true);
	}
	unlock_all(&saved);
}

/* ---- what the client calls ------------------------------------------------------------------------------------------------ */

SHIM_EXPORT int sigaction(int sig, const struct sigaction *restrict act, struct sigaction *restrict old)
{
	struct sigaction next, was;
	sigset_t saved;

	shim_enter();
	if (!is_engines(sig)) {
		/* CPUID works in handlers, too. */
		if (act && shim_cpuid_signal()) {
			next = *act;
			sigdelset(&next.sa_mask, shim_cpuid_signal());
			act = &next;
		}
		return (int)shim_result(gw_sigaction(sig, act, old));
	}
	if (!atomic_load(&is_taken[sig]))
		return REAL(sigaction)(sig, act, old);
	/* Before the lock: a bad pointer faults here, as it may in libc. */
	if (act)
		next = *act;
	lock_all(&saved);
	was = wanted[sig];
	if (act)
		wanted[sig] = next;
	unlock_all(&saved);
	if (old)
		*old = was;
	return 0;
}

static sighandler_t set_handler(int sig, sighandler_t handler, int flags)
{
	struct sigaction act = { .sa_handler = handler, .sa_flags = flags }, old;

	if (handler == SIG_ERR) {
		errno = EINVAL;
		return SIG_ERR;
	}
	sigemptyset(&act.sa_mask);
	return sigaction(sig, &act, &old) ? SIG_ERR : old.sa_handler;
}

static _Atomic bool is_raw;

__attribute__((constructor)) static void own_signals(void)
{
	gw_own_signals(!atomic_load(&is_raw));
}

void shim_signal_is_raw(void)
{
	atomic_store(&is_raw, true);
	gw_own_signals(0);
}

bool shim_signal_is_taken(int sig)
{
	shim_enter();
	return in_range(sig) && atomic_load(&is_taken[sig]);
}

SHIM_EXPORT sighandler_t signal(int sig, sighandler_t handler)
{
	return set_handler(sig, handler, SA_RESTART);
}

sighandler_t bsd_signal(int sig, sighandler_t handler);
SHIM_EXPORT sighandler_t bsd_signal(int sig, sighandler_t handler)
{
	return signal(sig, handler);
}

SHIM_EXPORT sighandler_t ssignal(int sig, sighandler_t handler)
{
	return signal(sig, handler);
}

SHIM_EXPORT sighandler_t sysv_signal(int sig, sighandler_t handler)
{
	return set_handler(sig, handler, (int)(SA_RESETHAND | SA_NODEFER));
}

SHIM_EXPORT sighandler_t __sysv_signal(int sig, sighandler_t handler)
{
	return sysv_signal(sig, handler);
}

SHIM_EXPORT int sigignore(int sig)
{
	return set_handler(sig, SIG_IGN, 0) == SIG_ERR ? -1 : 0;
}

SHIM_EXPORT int siginterrupt(int sig, int flag)
{
	struct sigaction act;

	if (sigaction(sig, NULL, &act))
		return -1;
	act.sa_flags = flag ? act.sa_flags & ~SA_RESTART : act.sa_flags | SA_RESTART;
	return sigaction(sig, &act, NULL);
}

/* ---- masks ----------------------------------------------------------------------------------------------------------------- */

/* Clients that block everything in a thread do not mean the signal by which CPUID is answered; blocked, it would end them. */
static const sigset_t *without_ours(int how, const sigset_t *set, sigset_t *copy)
{
	int sig = shim_cpuid_signal();

	if (!set || how == SIG_UNBLOCK || !sig)
		return set;
	*copy = *set;
	sigdelset(copy, sig);
	return copy;
}

SHIM_EXPORT int pthread_sigmask(int how, const sigset_t *restrict set, sigset_t *restrict old)
{
	sigset_t copy;

	shim_enter();
	return REAL(pthread_sigmask)(how, without_ours(how, set, &copy), old);
}

SHIM_EXPORT int sigprocmask(int how, const sigset_t *restrict set, sigset_t *restrict old)
{
	sigset_t copy;

	shim_enter();
	return REAL(sigprocmask)(how, without_ours(how, set, &copy), old);
}

/* ---- cancellation ---------------------------------------------------------------------------------------------------------- */

SHIM_EXPORT int pthread_cancel(pthread_t thread)
{
	int err;

	shim_enter();
	err = REAL(pthread_cancel)(thread);
	if (!err)
		gw_thread_cancelled(thread);
	return err;
}
