/* SPDX-License-Identifier: MIT */
/*
 * pthread_cancel() and our calls. To a thread an ioctl is a system call: it is no point of cancellation, and a thread that has
 * asked for asynchronous cancellation ends when KVM_RUN is over, which its signal interrupts. So cancellation is off while a
 * call of ours runs, or it would leave locks behind; but then libc sends no signal. Who cancels tells us (gw_thread_cancelled();
 * the preload library does), and KVM_RUN ends with -EINTR.
 *
 * Nobody is missed: the thread reads the number of cancellations, switches them off, says which vCPU it runs, and reads the
 * number again; who cancels does so, counts, and then looks for the vCPU.
 */
#include <pthread.h>

#include "vm/vm.h"

static _Atomic unsigned n_cancels;

void vm_cancel_enter(struct vm_signals *s)
{
	s->n_cancels = atomic_load(&n_cancels);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &s->cancel_state);
}

void vm_cancel_attach(struct vm_vcpu *v, const struct vm_signals *s)
{
	atomic_store(&v->is_cancelled, false);
	atomic_store(&v->runner, (unsigned long)pthread_self());
	if (unlikely(atomic_load(&n_cancels) != s->n_cancels))
		atomic_store(&v->is_cancelled, true);
}

void vm_cancel_detach(struct vm_vcpu *v)
{
	atomic_store_explicit(&v->runner, 0, memory_order_relaxed);
}

/*
 * By way of the deferred type: enabling with the asynchronous one set ends the thread, too, but in glibc 2.36 its joiner is told
 * NULL for PTHREAD_CANCELED.
 */
static void restore_state(const struct vm_signals *s)
{
	int type;

	pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &type);
	pthread_setcancelstate(s->cancel_state, NULL);
	if (likely(type == PTHREAD_CANCEL_DEFERRED))
		return;
	pthread_testcancel();
	pthread_setcanceltype(type, NULL);
}

static void restore_mask(void *opaque)
{
	pthread_sigmask(SIG_SETMASK, opaque, NULL);
}

/* First, because handlers that run when the mask comes back may jump away; a thread that ends here does it with its own mask. */
void vm_cancel_leave(struct vm_signals *s)
{
	if (likely(!s->is_blocked)) {
		restore_state(s);
		return;
	}
	pthread_cleanup_push(restore_mask, &s->old_mask);
	restore_state(s);
	pthread_cleanup_pop(0);
}

void vm_cancel_count(void)
{
	atomic_fetch_add(&n_cancels, 1);
}

void vm_cancel_kick(struct vm_vcpu *v, unsigned long thread)
{
	if (atomic_load(&v->runner) != thread)
		return;
	atomic_store(&v->is_cancelled, true);
	vm_vcpu_kick(v, ACC_ATT_EXIT);
}
