/* SPDX-License-Identifier: MIT */
/*
 * Host faults in our own doing: a stub that raised an exception of the guest's instruction, or guest memory that the client
 * took away under an access. Everything else goes to whoever had the signal before us, as if we were not there.
 */
#ifndef GW_CPU_HOST_SIGNAL_H
#define GW_CPU_HOST_SIGNAL_H

#include <setjmp.h>

#include "cpu/vcpu.h"

/* While one is entered, a fault of this thread in guest memory jumps to @recover (sigsetjmp(.., 0) returns 1). */
struct cpu_signal_guard {
	sigjmp_buf recover;
	struct vcpu *c;
	struct cpu_signal_guard *outer;
	uint32_t seal;
};
void cpu_signal_guard_enter(struct cpu_signal_guard *g, struct vcpu *c);
void cpu_signal_guard_leave(struct cpu_signal_guard *g);

/*
 * cpu_signals_install - take SIGFPE, SIGSEGV, SIGBUS and SIGILL
 *
 * Remembers the handlers it finds and chains to them. May be called again at any time: a signal that someone took over
 * meanwhile is taken back, and the newcomer is chained to. Any thread. 0 or -errno.
 */
int cpu_signals_install(void);

#endif
