/* SPDX-License-Identifier: MIT */
/*
 * What a room plugs into the processor: it is asked before a guest instruction writes a system register, before some others, and
 * told of resets; on wish also before and after every instruction.
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
	CPU_EXT_CR3,		/* MOV; only with CPU_EXT_WANTS_CR3 */
	CPU_EXT_XCR0,		/* XSETBV; only with CPU_EXT_WANTS_XCR0 */
};

enum cpu_ext_answer {
	CPU_EXT_ALLOW,		/* go on: reserved bits and modes are judged next */
	CPU_EXT_DISCARD,	/* the instruction retires, the register keeps its value */
	CPU_EXT_FAULT,		/* #GP(0); nothing is written */
	CPU_EXT_LEAVE,		/* leave KVM_RUN with *exit; the instruction has not begun */
	CPU_EXT_RESTART,	/* it has not begun, and is begun again: at once if the room said so (vcpu.ext_again), else after KVM_RUN */
};

/* A write that an instruction at CPL 0 wants to do; the operand has been read, nothing has changed yet. */
struct cpu_ext_write {
	const struct acc_cpu *cpu;	/* whose; opaque to rooms */
	uint8_t reg;			/* enum cpu_ext_reg */
	uint32_t index;
	uint64_t value;			/* as the instruction gives it, reserved bits included */
	uint64_t old;			/* CRs, XCR0; an MSR's only with CPU_EXT_WANTS_OLD_MSR and if it can be read */
	bool has_old;
};

/* What else a room may be asked about, when its bit stands in vcpu.ext_wants. */
enum cpu_ext_insn_kind {
	CPU_EXT_CPUID,		/* a leaf, b subleaf, r the results */
	CPU_EXT_INT3,		/* the one-byte form */
	CPU_EXT_DEBUG,		/* #DB about to be delivered: a DR6 bits, b type; DISCARD: it is not */
	CPU_EXT_TABLE,		/* SGDT LGDT...: a 1 IDTR 2 GDTR 3 LDTR 4 TR, b load */
	CPU_EXT_PORT,		/* a port, b bytes; r[0] in, r[1] string */
	CPU_EXT_INTERRUPT,	/* any event about to be delivered: a vector, b type as VT-x numbers it, r[0] error code, c CR2 */
	CPU_EXT_UNKNOWN,	/* nothing can execute it */
	CPU_EXT_N_INSN
};
#define CPU_EXT_WANTS_XCR0	(1u << 29)
#define CPU_EXT_WANTS_CR3	(1u << 30)
#define CPU_EXT_WANTS_OLD_MSR	(1u << 31)

struct cpu_ext_insn {
	struct acc_cpu *cpu;
	uint8_t kind, length;
	uint64_t a, b, c;
	uint32_t r[4];
};

struct cpu_ext_ops {
	const char *name;
	/* On the vCPU's thread, no locks held; must not block. NULL: does not care. */
	enum cpu_ext_answer (*write)(void *ext, const struct cpu_ext_write *w, struct acc_exit *exit);
	/* The same for an instruction (DISCARD: it retires without effect), or an event before its delivery. */
	enum cpu_ext_answer (*insn)(void *ext, struct cpu_ext_insn *x);
	/* KVM_RUN is about to execute guest code; not inside acc_enter(). */
	void (*enter)(void *ext, struct acc_cpu *cpu);
	/*
	 * While vcpu.ext_alone: before each instruction or delivery (false: leave KVM_RUN as if kicked), and when it is over. Then
	 * instructions run alone and interrupts are held. Inside acc_enter(), between instructions: may leave it and wait.
	 */
	bool (*before)(void *ext, struct acc_cpu *cpu);
	void (*after)(void *ext, struct acc_cpu *cpu, bool retired);
	/* An SMI is taken: registers are about to be saved and changed, past write(). NULL: does not care. */
	void (*smi)(void *ext, const struct acc_cpu *cpu);
	/* INIT or reset: registers have their reset values, written past write(). NULL: does not care. */
	void (*reset)(void *ext, const struct acc_cpu *cpu, bool init);
};

struct cpu_exts {
	unsigned n;
	struct { const struct cpu_ext_ops *ops; void *state; } ext[CPU_MAX_EXT];
};

#endif
