/* SPDX-License-Identifier: MIT */
/*
 * The process-wide part: four fault signals. See signal.h for what is ours; the rest is chained.
 *
 * A fault with its pc in the running vCPU's stub buffer is answered by returning from the stub with the trap number; the kernel
 * restores the floating-point state of the moment of the fault. A fault elsewhere whose address lies in the vCPU's memory
 * slots leaves by siglongjmp: then the frame's floating-point state is taken over by hand. SIGTRAP is left alone: nothing
 * of ours raises it.
 */
#include "cpu/host/signal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#include "cpu/host/host_private.h"
#include "cpu/translate/translate.h"
#include "mem/gmem_seal.h"

static const int signals[] = { SIGFPE, SIGSEGV, SIGBUS, SIGILL };
#define N_SIGNALS ARRAY_SIZE(signals)

static pthread_mutex_t install_lock = PTHREAD_MUTEX_INITIALIZER;
/* Written under the lock before our handler is in place; read by handlers. */
static struct sigaction previous[N_SIGNALS];

/* initial-exec: a handler may look at it on a thread that never ran a vCPU, where a first access must not allocate. */
static _Thread_local struct cpu_signal_guard *current __attribute__((tls_model("initial-exec")));

void cpu_signal_guard_enter(struct cpu_signal_guard *g, struct vcpu *c)
{
	g->c = c;
	g->outer = current;
	g->seal = mem_seal_save();
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	current = g;
}

void cpu_signal_guard_leave(struct cpu_signal_guard *g)
{
	current = g->outer;
}

/* ---- ours? ------------------------------------------------------------------------------------------------------------------------- */

static bool in_guest_memory(const struct vcpu *c, uintptr_t addr)
{
	const struct mem_map *map = c->acc.map;
	uint64_t offset;

	for (unsigned i = 0; map && i < map->n; i++)
		if (mem_slot_has_hva(&map->slot[i], addr, &offset))
			return true;
	return false;
}

/* True: the context was changed to go on after the stub. */
static bool stub_fault(struct vcpu *c, ucontext_t *uc)
{
	greg_t *r = uc->uc_mcontext.gregs;

	if (!c->host || !host_owns_pc(c->host, (uintptr_t)r[REG_RIP]))
		return false;
	r[REG_RAX] = r[REG_TRAPNO] ? r[REG_TRAPNO] : VEC_PF;
	r[REG_RIP] = (greg_t)(uintptr_t)c->host->fault_return;
	return true;
}

/* In translated code: the handler of the instruction is executed instead, and faults as it does in the interpreter. */
static bool translated_fault(struct vcpu *c, ucontext_t *uc)
{
	greg_t *r = uc->uc_mcontext.gregs;
	uintptr_t to = tr_fault(c, (uintptr_t)r[REG_RIP]);

	if (!to)
		return false;
	r[REG_RIP] = (greg_t)to;
	return true;
}

static void memory_fault(struct cpu_signal_guard *g, int sig, const siginfo_t *info, ucontext_t *uc)
{
	if ((sig != SIGSEGV && sig != SIGBUS) || info->si_code <= 0 || !in_guest_memory(g->c, (uintptr_t)info->si_addr))
		return;
	if (uc->uc_mcontext.fpregs)
		host_fpu_rescue(g->c, (const uint8_t *)uc->uc_mcontext.fpregs);
	g->c->host_fault_hva = (uintptr_t)info->si_addr;
	mem_seal_restore(g->seal);
	siglongjmp(g->recover, 1);
}

/* ---- chaining ---------------------------------------------------------------------------------------------------------------------- */

static unsigned index_of(int sig)
{
	unsigned i = 0;

	while (i < N_SIGNALS - 1 && signals[i] != sig)
		i++;
	return i;
}

/* What the kernel would have done with the default action: a fault comes again when we return; a sent signal is sent again. */
static void default_action(int sig, const siginfo_t *info)
{
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	sigset_t set;

	sigaction(sig, &dfl, NULL);
	if (info->si_code > 0)
		return;
	sigemptyset(&set);
	sigaddset(&set, sig);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	raise(sig);
}

static void chain(int sig, siginfo_t *info, void *ctx)
{
	struct sigaction *slot = &previous[index_of(sig)], old = *slot;
	sigset_t mask = old.sa_mask, saved;

	/* An ignored fault kills all the same. */
	if (old.sa_handler == SIG_IGN && info->si_code <= 0)
		return;
	if (old.sa_handler == SIG_DFL || old.sa_handler == SIG_IGN) {
		default_action(sig, info);
		return;
	}
	if (old.sa_flags & (int)SA_RESETHAND)
		*slot = (struct sigaction){ .sa_handler = SIG_DFL };
	if (!(old.sa_flags & SA_NODEFER))
		sigaddset(&mask, sig);
	pthread_sigmask(SIG_BLOCK, &mask, &saved);
	if (old.sa_flags & SA_SIGINFO)
		old.sa_sigaction(sig, info, ctx);
	else
		old.sa_handler(sig);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
}

static void handler(int sig, siginfo_t *info, void *ctx)
{
	struct cpu_signal_guard *g = current;
	int err = errno;

	if (g && info->si_code > 0) {
		if (stub_fault(g->c, ctx) || translated_fault(g->c, ctx))
			return;
		memory_fault(g, sig, info, ctx);
	}
	chain(sig, info, ctx);
	errno = err;
}

int cpu_signals_install(void)
{
	/* Not deferred: leaving by siglongjmp must not leave the signal blocked. */
	struct sigaction ours = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };
	int err = 0;

	sigemptyset(&ours.sa_mask);
	pthread_mutex_lock(&install_lock);
	for (unsigned i = 0; i < N_SIGNALS && !err; i++) {
		struct sigaction now;

		if (sigaction(signals[i], NULL, &now)) {
			err = -errno;
			break;
		}
		if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == handler)
			continue;
		previous[i] = now;
		if (sigaction(signals[i], &ours, NULL))
			err = -errno;
	}
	pthread_mutex_unlock(&install_lock);
	return err;
}
