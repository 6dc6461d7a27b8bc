/* SPDX-License-Identifier: MIT */
/*
 * Signals and KVM_RUN. All signals but the five that report faults are blocked while a thread is in KVM_RUN; they are noticed
 * as pending, KVM_RUN returns -EINTR, and the client's handlers run when its mask comes back, exactly as after a system call.
 *
 * Who notices: a sleeping vCPU by a signalfd in its ppoll; a running one by asking sigpending() every half millisecond of
 * guest execution (env->poll). With KVM_SET_SIGNAL_MASK the set that counts is that mask's, and a signal that the thread
 * itself blocks stays pending for the client's sigwait.
 *
 * There is no window: immediate_exit is read after the mask is in place, so a handler that sets it either ran before, and is
 * seen, or its signal is still pending.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <x86intrin.h>

#include "vm/vm.h"

static const int fault_signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };

static void all_but_faults(sigset_t *set)
{
	sigfillset(set);
	for (unsigned i = 0; i < ARRAY_SIZE(fault_signals); i++)
		sigdelset(set, fault_signals[i]);
}

void vm_signal_enter(struct vm_vcpu *v)
{
	sigset_t set;

	all_but_faults(&set);
	pthread_sigmask(SIG_SETMASK, &set, &v->old_mask);
	v->looked_at = __rdtsc();
}

void vm_signal_leave(struct vm_vcpu *v)
{
	pthread_sigmask(SIG_SETMASK, &v->old_mask, NULL);
}

bool vm_signal_pending(struct vm_vcpu *v)
{
	const sigset_t *blocked = v->has_run_mask ? &v->run_mask : &v->old_mask;
	sigset_t pending;

	v->looked_at = __rdtsc();
	if (sigpending(&pending))
		return false;
	for (int sig = 1; sig < NSIG; sig++)
		if (sigismember(&pending, sig) == 1 && sigismember(blocked, sig) != 1)
			return true;
	return false;
}

bool vm_signal_look_due(struct vm_vcpu *v)
{
	return __rdtsc() - v->looked_at > vm_host_tsc_khz() / 2;
}

int vm_set_signal_mask(struct vm_vcpu *v, const uint64_t *mask)
{
	v->has_run_mask = mask;
	if (!mask)
		return 0;
	sigemptyset(&v->run_mask);
	for (int sig = 1; sig <= 64; sig++)
		if (*mask >> (sig - 1) & 1)
			sigaddset(&v->run_mask, sig);
	return 0;
}
