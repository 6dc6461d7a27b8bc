/* SPDX-License-Identifier: MIT */
/*
 * What a room plugs into the processor: it is asked before a guest instruction writes a system register, and told of resets.
 * Its judge for memory is access/guard.h. The list is built by vm/ before the first vCPU runs and constant afterwards.
 */
#ifndef GW_CPU_EXT_H
#define GW_CPU_EXT_H

#include "access/request.h"

#define CPU_MAX_EXT	4

enum cpu_ext_reg {
	CPU_EXT_CR,		/* index 0 or 4: MOV, LMSW, CLTS */
	CPU_EXT_MSR,		/* index: the MSR; WRMSR */
	CPU_EXT_GDTR,		/* value: base, index: limit */
	CPU_EXT_IDTR,
	CPU_EXT_LDTR,		/* value: selector; LLDT */
	CPU_EXT_TR,		/* value: selector; LTR and task switches */
};

enum cpu_ext_answer {
	CPU_EXT_ALLOW,		/* go on: reserved bits and modes are judged next */
	CPU_EXT_DISCARD,	/* the instruction retires, the register keeps its value */
	CPU_EXT_FAULT,		/* #GP(0); nothing is written */
	CPU_EXT_LEAVE,		/* leave KVM_RUN with *exit; the instruction has not begun */
};

/* A write that an instruction at CPL 0 wants to do; the operand has been read, nothing has changed yet. */
struct cpu_ext_write {
	const struct acc_cpu *cpu;	/* whose; opaque to rooms */
	uint8_t reg;			/* enum cpu_ext_reg */
	uint32_t index;
	uint64_t value;			/* as the instruction gives it, reserved bits included */
};

struct cpu_ext_ops {
	const char *name;
	/* On the vCPU's thread, no locks held; must not block. NULL: does not care. */
	enum cpu_ext_answer (*write)(void *ext, const struct cpu_ext_write *w, struct acc_exit *exit);
	/* INIT or reset: registers have their reset values, written past write(). NULL: does not care. */
	void (*reset)(void *ext, const struct acc_cpu *cpu, bool init);
};

struct cpu_exts {
	unsigned n;
	struct { const struct cpu_ext_ops *ops; void *state; } ext[CPU_MAX_EXT];
};

#endif
