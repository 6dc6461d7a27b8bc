/* SPDX-License-Identifier: MIT */
/*
 * The translator: hot decoded blocks become host code of the same instruction set. What the rest of cpu/ calls.
 *
 * A translated block is entered through op[0].fn like any other, so that dispatching, chaining and validity of blocks are
 * block.c's and run.c's alone. The interpreter stays complete: whatever the translator does not know, and every access that
 * its inline probe does not find, is executed by the instruction's own handler.
 */
#ifndef GW_CPU_TRANSLATE_H
#define GW_CPU_TRANSLATE_H

#include "cpu/block.h"

/*
 * GUESTWARD_ENGINE, read when a vCPU is made: a list of words separated by commas, the last of two that contradict counts.
 *	translate	translate hot blocks: the default
 *	interp		no translation; also what happens where there is no translator: sanitizer builds, -O0, hosts without FSGSBASE
 *	no-chain	every block goes back to the dispatcher
 *	no-tlb		every memory access goes to the interpreter's handler
 *	hot=N		translate at the Nth execution (4)
 *	code=N		MiB of translated code a vCPU may have, 1 to 1023 (64); when it is full all is dropped
 *	perf		names of translated code for perf(1), in /tmp/perf-PID.map
 */
int tr_new(struct vcpu *c);	/* 0 or -errno; c->translator stays NULL when there is nothing to translate with */
void tr_free(struct vcpu *c);

/* A block was built: have it counted. */
void tr_adopt(struct vcpu *c, struct cpu_block *b);
/* All blocks are about to be dropped. */
void tr_flush(struct vcpu *c);

/* Around the run loop: put the base of the vCPU where translated code looks for it, and the client's back. */
void tr_enter(struct vcpu *c);
void tr_leave(struct vcpu *c);

/* Is @pc in translated code? */
bool tr_owns_pc(const struct vcpu *c, uintptr_t pc);
/* A host fault at @pc in translated code: where to go on instead, so that the handler of the instruction decides. 0: not ours. */
uintptr_t tr_fault(const struct vcpu *c, uintptr_t pc);

/* report.c: what ran translated and what did not; the code of every unit that contains the linear address @la. */
void tr_report(const struct vcpu *c, void (*line)(void *opaque, const char *text), void *opaque);
void tr_report_block(const struct vcpu *c, uint64_t la, void (*line)(void *opaque, const char *text), void *opaque);

#endif
