/* SPDX-License-Identifier: MIT */
/*
 * Signals and KVM_RUN. No handler of the client runs while a thread is inside KVM_RUN: a signal ends it with -EINTR, and the
 * handler runs when the call is over, exactly as with a system call. Two ways to that:
 *
 * Blocked. All signals but the five that report faults are blocked; they are noticed as pending, and run when the mask comes
 * back. It costs two system calls a KVM_RUN, and one every half millisecond of guest code to ask what is pending (env->poll).
 * With KVM_SET_SIGNAL_MASK the set that counts is that mask's: a signal that the thread itself blocks stays pending for the
 * client's sigwait.
 *
 * Deferred, when the client has promised (gw_own_signals()) that all its handlers went through gw_sigaction(). Then the kernel
 * knows only catch(). Outside KVM_RUN it calls the client's handler. Inside, it changes the mask that the thread returns to
 * into the blocked one, sends the same signal to its thread again, where it stays pending, and kicks the vCPU: no system call
 * unless a signal comes, and no delay when it does. A vCPU that sleeps or has a mask of its own is in the first way.
 *
 * There is no window: immediate_exit is read after the state of inside is set or the mask is in place, so a handler that sets it
 * either ran before, and is seen, or its signal is still pending.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>
#include <x86intrin.h>

#include "vm/vm.h"

#define N_SIGNALS	65	/* 1 .. 64 */

static const int fault_signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };

/* initial-exec: a handler looks at it on threads that never ran a vCPU. */
static _Thread_local struct vm_signals *volatile inside __attribute__((tls_model("initial-exec")));
static _Atomic bool is_owned;
/* What KVM_RUN of this thread entered last, in either way. */
static _Thread_local struct vm_signals *entered;

static void all_but_faults(sigset_t *set)
{
	sigfillset(set);
	for (unsigned i = 0; i < ARRAY_SIZE(fault_signals); i++)
		sigdelset(set, fault_signals[i]);
}

/* ---- the client's handlers ---------------------------------------------------------------------------------------------- */

/*
 * Written with every signal blocked and the lock held; the sequence is odd meanwhile. catch() copies between two equal even
 * ones, so it never waits for its own thread.
 */
static struct { _Atomic unsigned seq; struct sigaction act; } wanted[N_SIGNALS];
static atomic_flag wanted_lock = ATOMIC_FLAG_INIT;

static void lock_wanted(sigset_t *saved)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, saved);
	while (atomic_flag_test_and_set_explicit(&wanted_lock, memory_order_acquire))
		;
}

static void unlock_wanted(const sigset_t *saved)
{
	atomic_flag_clear_explicit(&wanted_lock, memory_order_release);
	pthread_sigmask(SIG_SETMASK, saved, NULL);
}

static void store_wanted(int sig, const struct sigaction *act)
{
	atomic_fetch_add(&wanted[sig].seq, 1);
	wanted[sig].act = *act;
	atomic_fetch_add(&wanted[sig].seq, 1);
}

static struct sigaction load_wanted(int sig)
{
	struct sigaction act;
	unsigned seq;

	do {
		seq = atomic_load(&wanted[sig].seq);
		act = wanted[sig].act;
		atomic_thread_fence(memory_order_acquire);
	} while (seq & 1 || seq != atomic_load(&wanted[sig].seq));
	return act;
}

/* Come again when KVM_RUN is over, on this thread: the handler would have run on it. */
static void send_again(int sig, siginfo_t *info)
{
	if (syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), sig, info))
		syscall(SYS_tgkill, getpid(), gettid(), sig);
}

static void defer(struct vm_signals *s, int sig, siginfo_t *info, ucontext_t *uc)
{
	int depth = s->depth++;
	sigset_t all;

	/*
	 * The outermost of nested ones knows the thread's own mask. One that came between our entry and the line above thought it
	 * was the outermost; ours is written after its. The kernel's frame has room for 64 signals, not for a sigset_t.
	 */
	if (!depth)
		memcpy(&s->old_mask, &uc->uc_sigmask, sizeof(uint64_t));
	all_but_faults(&all);
	memcpy(&uc->uc_sigmask, &all, sizeof(uint64_t));
	s->is_blocked = true;
	send_again(sig, info);
	if (s->v) {
		s->v->is_signal_found = true;
		acc_attend(&s->v->c.acc, ACC_ATT_EXIT);
	}
	s->depth--;
}

static void catch(int sig, siginfo_t *info, void *ctx)
{
	struct vm_signals *s = inside;
	int err = errno;
	struct sigaction act;

	if (s) {
		defer(s, sig, info, ctx);
		errno = err;
		return;
	}
	act = load_wanted(sig);
	if (act.sa_flags & (int)SA_RESETHAND) {
		struct sigaction dfl = { .sa_handler = SIG_DFL };

		sigaction(sig, &dfl, NULL);
	}
	errno = err;
	if (act.sa_flags & SA_SIGINFO)
		act.sa_sigaction(sig, info, ctx);
	else if (act.sa_handler)
		act.sa_handler(sig);
}

static bool is_fault(int sig)
{
	for (unsigned i = 0; i < ARRAY_SIZE(fault_signals); i++)
		if (fault_signals[i] == sig)
			return true;
	return false;
}

static bool is_ours(const struct sigaction *act)
{
	return act->sa_flags & SA_SIGINFO && act->sa_sigaction == catch;
}

int vm_sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	bool is_handler = act && act->sa_handler != SIG_DFL && act->sa_handler != SIG_IGN;
	struct sigaction next, was, before;
	sigset_t saved;
	int err = 0;

	if (sig < 1 || sig >= N_SIGNALS || is_fault(sig))
		return sigaction(sig, act, old) ? -errno : 0;
	if (act)
		next = *act;
	lock_wanted(&saved);
	before = wanted[sig].act;
	if (is_handler) {
		/* First: the kernel may call catch() at once. */
		store_wanted(sig, &next);
		next.sa_sigaction = catch;
		next.sa_flags = (next.sa_flags | SA_SIGINFO) & ~(int)SA_RESETHAND;
	}
	if (sigaction(sig, act ? &next : NULL, &was)) {
		err = -errno;
		if (is_handler)
			store_wanted(sig, &before);
	}
	unlock_wanted(&saved);
	if (!err && old)
		*old = is_ours(&was) ? before : was;
	return err;
}

void vm_own_signals(bool all)
{
	atomic_store(&is_owned, all);
}

/* ---- KVM_RUN -------------------------------------------------------------------------------------------------------------- */

/* From here on signals stay pending. */
void vm_signal_block(struct vm_vcpu *v)
{
	struct vm_signals *s = v->signals;
	sigset_t set, old;

	if (!s || s->is_blocked)
		return;
	all_but_faults(&set);
	pthread_sigmask(SIG_SETMASK, &set, &old);
	/* One that came first has noted the mask; then what we found is its. */
	if (!s->is_blocked)
		s->old_mask = old;
	s->is_blocked = true;
	v->looked_at = 0;
}

void vm_signal_enter(struct vm_signals *s)
{
	sigset_t set;

	memset(s, 0, sizeof(*s));
	s->below = entered;
	entered = s;
	if (atomic_load_explicit(&is_owned, memory_order_relaxed)) {
		s->outer = inside;
		inside = s;
		vm_cancel_enter(s);
		return;
	}
	all_but_faults(&set);
	pthread_sigmask(SIG_SETMASK, &set, &s->old_mask);
	s->is_blocked = true;
	s->is_plain = true;
	vm_cancel_enter(s);
}

/* Now the vCPU is ours. */
void vm_signal_attach(struct vm_vcpu *v)
{
	struct vm_signals *s = entered;

	v->signals = s;
	vm_cancel_attach(v, s);
	v->is_signal_found = false;
	v->looked_at = __rdtsc();
	s->v = v;
	/* Before we knew whom to kick. */
	if (s->is_blocked && !s->is_plain)
		v->is_signal_found = true;
	if (v->has_run_mask)
		vm_signal_block(v);
}

void vm_signal_detach(struct vm_vcpu *v)
{
	vm_cancel_detach(v);
	v->signals->v = NULL;
	v->signals = NULL;
}

void vm_signal_leave(struct vm_signals *s)
{
	entered = s->below;
	if (!s->is_plain)
		inside = s->outer;
	vm_cancel_leave(s);
	if (s->is_blocked)
		pthread_sigmask(SIG_SETMASK, &s->old_mask, NULL);
}

const sigset_t *vm_signal_blocked(const struct vm_vcpu *v)
{
	return v->has_run_mask ? &v->run_mask : &v->signals->old_mask;
}

bool vm_signal_pending(struct vm_vcpu *v)
{
	const sigset_t *blocked;
	sigset_t pending;

	v->looked_at = __rdtsc();
	/* An ioctl other than KVM_RUN: signals are as the thread has them. Deferring: whoever came has said so. */
	if (!v->signals || !v->signals->is_blocked)
		return false;
	blocked = vm_signal_blocked(v);
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
