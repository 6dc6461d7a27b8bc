/* SPDX-License-Identifier: MIT */
/*
 * What the files of cpu/sys share. Functions that return bool return false with the reason noted (cpu_fault or a memory helper
 * did it): the caller returns at once and has changed nothing. c->rip must be the faulting instruction's: sys_begin().
 */
#ifndef GW_CPU_SYS_PRIVATE_H
#define GW_CPU_SYS_PRIVATE_H

#include "cpu/sys/sys.h"

static inline void sys_begin(struct vcpu *c, const struct cpu_op *o)
{
	c->rip = cpu_op_rip(c, o);
	c->cur = o;
}

static inline bool sys_long(const struct vcpu *c) { return c->acc.efer & EFER_LMA; }
static inline bool sys_mode64(const struct vcpu *c) { return c->mode == INSN_MODE_64; }
static inline unsigned sys_iopl(const struct vcpu *c) { return c->eflags >> FLAG_IOPL_SHIFT & 3; }
/* A linear address in the present mode. */
static inline uint64_t sys_linear(const struct vcpu *c, uint64_t la) { return sys_long(c) ? la : (uint32_t)la; }

/* General registers by size; 32-bit writes clear the upper half. */
static inline void sys_set_reg(struct vcpu *c, unsigned reg, unsigned size, uint64_t v)
{
	if (size == 8)
		c->gpr[reg] = v;
	else if (size == 4)
		c->gpr[reg] = (uint32_t)v;
	else if (size == 2)
		c->gpr[reg] = (c->gpr[reg] & ~0xffffull) | (v & 0xffff);
	else
		c->gpr[reg] = (c->gpr[reg] & ~0xffull) | (v & 0xff);
}

static inline uint64_t sys_truncate(uint64_t v, unsigned size) { return size == 8 ? v : v & (BIT64(size * 8) - 1); }

/* CPL 0 or #GP(0). */
static inline bool sys_need_cpl0(struct vcpu *c, const struct cpu_op *o)
{
	if (likely(c->acc.cpl == 0))
		return true;
	cpu_raise_error(c, o, VEC_GP, 0);
	return false;
}

/* IF may have become 1: have a waiting interrupt looked at. */
static inline void sys_if_opened(struct vcpu *c)
{
	if (unlikely(c->intr_blocked) && c->eflags & FLAG_IF)
		acc_attend(&c->acc, ACC_ATT_EVENT);
}

/* ---- seg.c: descriptors ----------------------------------------------------------------------------------------------- */

struct sys_desc { uint64_t raw, high, addr; };

static inline unsigned desc_type(const struct sys_desc *d) { return d->raw >> 40 & 15; }
static inline bool desc_s(const struct sys_desc *d) { return d->raw >> 44 & 1; }
static inline unsigned desc_dpl(const struct sys_desc *d) { return d->raw >> 45 & 3; }
static inline bool desc_p(const struct sys_desc *d) { return d->raw >> 47 & 1; }
static inline bool desc_l(const struct sys_desc *d) { return d->raw >> 53 & 1; }
static inline bool desc_db(const struct sys_desc *d) { return d->raw >> 54 & 1; }
static inline bool desc_is_code(const struct sys_desc *d) { return desc_s(d) && desc_type(d) & 8; }
static inline bool desc_is_data(const struct sys_desc *d) { return desc_s(d) && !(desc_type(d) & 8); }
static inline bool desc_is_conforming(const struct sys_desc *d) { return (desc_type(d) & 0xc) == 0xc; }
static inline bool desc_is_writable(const struct sys_desc *d) { return desc_is_data(d) && desc_type(d) & 2; }
uint32_t desc_limit(const struct sys_desc *d);
uint32_t desc_base(const struct sys_desc *d);
/* Offset of a gate; 64-bit ones use the high half. */
static inline uint32_t gate_offset(const struct sys_desc *d) { return (d->raw & 0xffff) | (d->raw >> 32 & 0xffff0000); }
static inline uint64_t gate_offset64(const struct sys_desc *d) { return gate_offset(d) | d->high << 32; }
static inline uint16_t gate_sel(const struct sys_desc *d) { return (uint16_t)(d->raw >> 16); }

/* System descriptor types. */
enum { DT_TSS16 = 1, DT_LDT = 2, DT_TSS16_BUSY = 3, DT_CALL16 = 4, DT_TASK = 5, DT_INT16 = 6, DT_TRAP16 = 7, DT_TSS = 9,
	DT_TSS_BUSY = 11, DT_CALL = 12, DT_INT = 14, DT_TRAP = 15 };

static inline bool sel_is_null(uint16_t sel) { return !(sel & ~3u); }
/* The error code that names a selector; @ext is bit 0. */
static inline uint32_t sel_error(uint16_t sel, unsigned ext) { return (sel & 0xfffcu) | ext; }

/* Where the descriptor of @sel is; false if its @len bytes are not all within the table (or there is no LDT). */
bool sys_desc_locate(const struct vcpu *c, uint16_t sel, unsigned len, uint64_t *addr);
/* Read the 8-byte descriptor of a non-null selector; outside the table: @vector with the selector's error code. */
bool sys_desc_read(struct vcpu *c, uint16_t sel, unsigned vector, unsigned ext, struct sys_desc *d);
/* The second half of a 16-byte system descriptor. */
bool sys_desc_read_high(struct vcpu *c, uint16_t sel, unsigned vector, unsigned ext, struct sys_desc *d);
/* Set the accessed bit in memory if it is clear. May fault. */
bool sys_desc_touch(struct vcpu *c, struct sys_desc *d);
void sys_seg_fill(struct cpu_seg *s, uint16_t sel, const struct sys_desc *d);
void sys_seg_null(struct cpu_seg *s, uint16_t sel);
void sys_seg_real(struct vcpu *c, unsigned seg, uint16_t sel);	/* real or virtual-8086 load */
void sys_seg_flat(struct cpu_seg *s, uint16_t sel, bool code, unsigned dpl, bool l);	/* SYSCALL's and SYSENTER's */
/* Are [off, off + len) within the segment (legacy rules)? */
bool sys_seg_within(const struct cpu_seg *s, uint64_t off, unsigned len);
/* After a return to an outer level: data segments it may not see become null. */
void sys_seg_drop_inner(struct vcpu *c, unsigned cpl);

/* ---- seg_load.c ------------------------------------------------------------------------------------------------------- */

/* Judge a load of a data segment register or SS. *null: the selector is null and that is allowed. */
bool sys_data_judge(struct vcpu *c, unsigned seg, uint16_t sel, struct sys_desc *d, bool *null);
/* Load SEG_ES, SS, DS, FS, GS in whatever mode; calls cpu_state_changed(). */
bool sys_seg_load(struct vcpu *c, unsigned seg, uint16_t sel);
/* The far pointer a ModRM operand names, in one access. */
bool sys_far_pointer(struct vcpu *c, const struct cpu_op *o, uint16_t *sel, uint64_t *off);
/* Stack segment for an inner or outer level @cpl. @vector for type errors: #TS (inward), #GP (outward). */
bool sys_ss_judge(struct vcpu *c, uint16_t sel, unsigned cpl, unsigned vector, unsigned ext, struct sys_desc *d);

/* ---- stack.c: frames judged as a whole --------------------------------------------------------------------------------- */

struct sys_stack {
	const struct cpu_seg *ss;	/* ignored when flat */
	uint64_t sp, mask;
	uint32_t error;			/* of the #SS that a limit violation gives */
	bool flat;			/* 64-bit: no base, no limit, canonical */
	bool user;
};

#define FRAME_REFS	6
struct sys_frame {
	struct cpu_ref ref[FRAME_REFS];
	uint16_t at[FRAME_REFS];	/* of each ref's bytes in data */
	unsigned n;
	uint8_t data[320];
	uint64_t sp;			/* after the pushes; not merged into RSP yet */
};

void sys_stack_current(const struct vcpu *c, struct sys_stack *s);
/* Judge @n pushes of @size bytes, v[0] first. Nothing is written before sys_frame_commit(), which cannot fail. */
bool sys_frame_judge(struct vcpu *c, const struct sys_stack *s, const uint64_t *v, unsigned n, unsigned size, struct sys_frame *f);
void sys_frame_commit(struct vcpu *c, const struct sys_frame *f);
/* Read @n items of @size from the current stack, @skip bytes above SP, without moving it. */
bool sys_stack_read(struct vcpu *c, const struct cpu_op *o, unsigned skip, unsigned size, unsigned n, uint64_t *v);
uint64_t sys_stack_mask(const struct vcpu *c);
static inline void sys_set_sp(struct vcpu *c, uint64_t mask, uint64_t sp)
{
	if (mask == 0xffff)
		c->gpr[RSP] = (c->gpr[RSP] & ~mask) | (sp & mask);
	else
		c->gpr[RSP] = sp & mask;
}

/* ---- gate.c: code segments, inner stacks -------------------------------------------------------------------------------- */

/* The stack pointer a TSS holds for level @cpl, or for IST entry @ist. Legacy: *ss too. */
bool sys_tss_stack(struct vcpu *c, unsigned cpl, unsigned ist, unsigned ext, uint16_t *ss, uint64_t *sp);
/* Offset within code segment @d (or canonical, in a 64-bit one)? #GP(@ext) if not. */
bool sys_target_judge(struct vcpu *c, const struct sys_desc *d, uint64_t rip, unsigned ext);
/* Commit CS; CPL becomes @cpl. The caller sets SS and calls cpu_state_changed(). */
void sys_set_cs(struct vcpu *c, uint16_t sel, const struct sys_desc *d, unsigned cpl);

/* ---- deliver.c ---------------------------------------------------------------------------------------------------------- */

struct sys_int {
	uint8_t vector;
	bool soft;		/* INT n, INT3, INTO: the gate's DPL counts */
	bool has_error;
	uint32_t error;
	unsigned ext;		/* bit 0 of error codes: not caused by the program itself */
	uint64_t rip;		/* to be pushed */
	uint32_t flags;
};
/* Go through IVT or IDT. On success c->rip is the handler's. */
bool sys_interrupt(struct vcpu *c, const struct sys_int *e);

/* ---- task.c ------------------------------------------------------------------------------------------------------------- */

enum sys_task_why { TASK_JMP, TASK_CALL, TASK_INT, TASK_IRET };
/*
 * Switch to the task of TSS selector @sel. @rip: what the old task's EIP becomes. @error: pushed on the new stack, NULL: none.
 * The TSS descriptor's own checks are the caller's except those SDM "Task Switching" gives to the switch itself.
 */
bool sys_task_switch(struct vcpu *c, uint16_t sel, enum sys_task_why why, uint64_t rip, const uint32_t *error, unsigned ext);
/* Through a task gate. */
bool sys_task_gate(struct vcpu *c, const struct sys_desc *gate, enum sys_task_why why, uint64_t rip, const uint32_t *error, unsigned ext);

/* ---- ext.c --------------------------------------------------------------------------------------------------------------- */

/* Slow half of sys_ext(). FAULT and LEAVE have been noted: the caller returns at once. */
enum cpu_ext_answer sys_ext_ask(struct vcpu *c, unsigned reg, uint32_t index, uint64_t value);
/* An instruction that a room wants to be asked about. ALLOW: execute it; DISCARD: go on behind it; LEAVE: noted, return at once. */
enum cpu_ext_answer sys_ext_insn(struct vcpu *c, struct cpu_ext_insn *x);
static inline bool sys_ext_wants(const struct vcpu *c, unsigned kind)
{
	return unlikely(atomic_load_explicit(&c->ext_wants, memory_order_relaxed) >> kind & 1);
}

/* Ask the rooms about a register write; c->rip must be the instruction's. */
static inline enum cpu_ext_answer sys_ext(struct vcpu *c, unsigned reg, uint32_t index, uint64_t value)
{
	return likely(!c->exts || !c->exts->n) ? CPU_EXT_ALLOW : sys_ext_ask(c, reg, index, value);
}

/* ---- cr.c, msr.c -------------------------------------------------------------------------------------------------------- */

void sys_set_efer(struct vcpu *c, uint64_t v);
uint64_t sys_efer_allowed(const struct vcpu *c);
/*
 * Canonical by the widest addresses this CPUID has, whatever CR4.LA57: the rule for bases in MSRs and descriptors, for
 * descriptor-table registers and INVPCID (SDM vol. 3 "Canonicality Checking").
 */
bool sys_canonical_base(const struct vcpu *c, uint64_t a);
bool sys_cpuid_bit(const struct vcpu *c, uint32_t function, uint32_t index, unsigned reg, unsigned bit);
enum { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

/* ---- pio.c, dr.c -------------------------------------------------------------------------------------------------------- */

bool sys_port_allowed(struct vcpu *c, uint16_t port, unsigned len);	/* #GP(0) if not */
/* Does the client debug this (KVM_SET_GUEST_DEBUG)? Then the exit has been filled in. @dr6: bits of the cause. */
bool sys_client_debugs(struct vcpu *c, unsigned vector, uint64_t dr6);
void sys_debug_io(struct vcpu *c, uint16_t port, unsigned len);
void sys_debug_task(struct vcpu *c);		/* a TSS with the T flag was entered */
unsigned sys_debug_take_hits(struct vcpu *c);	/* the guest's data and I/O breakpoints met so far; forgets them */
void sys_debug_step_due(struct vcpu *c);	/* a single-step trap before the next instruction */
void sys_debug_no_step(struct vcpu *c);		/* no single-step trap after this instruction */

/* ---- handlers, by file: rows of lower.c ---------------------------------------------------------------------------------- */

#define SYS_HANDLER(name) void sys_##name(struct vcpu *c, const struct cpu_op *o)
SYS_HANDLER(mov_to_seg_reg); SYS_HANDLER(mov_to_seg_mem); SYS_HANDLER(mov_from_seg_reg); SYS_HANDLER(mov_from_seg_mem);
SYS_HANDLER(pop_seg); SYS_HANDLER(push_seg); SYS_HANDLER(load_far_ptr);
SYS_HANDLER(lldt); SYS_HANDLER(ltr); SYS_HANDLER(sldt); SYS_HANDLER(str); SYS_HANDLER(lar); SYS_HANDLER(lsl);
SYS_HANDLER(verr); SYS_HANDLER(verw); SYS_HANDLER(arpl); SYS_HANDLER(sgdt); SYS_HANDLER(sidt); SYS_HANDLER(lgdt); SYS_HANDLER(lidt);
SYS_HANDLER(jmp_far); SYS_HANDLER(jmp_far_ind); SYS_HANDLER(call_far); SYS_HANDLER(call_far_ind); SYS_HANDLER(ret_far);
SYS_HANDLER(iret); SYS_HANDLER(int_n); SYS_HANDLER(int3); SYS_HANDLER(into); SYS_HANDLER(int1);
SYS_HANDLER(syscall); SYS_HANDLER(sysret); SYS_HANDLER(sysenter); SYS_HANDLER(sysexit); SYS_HANDLER(swapgs);
SYS_HANDLER(rdfsbase); SYS_HANDLER(rdgsbase); SYS_HANDLER(wrfsbase); SYS_HANDLER(wrgsbase);
SYS_HANDLER(cli); SYS_HANDLER(sti); SYS_HANDLER(pushf); SYS_HANDLER(popf); SYS_HANDLER(clac); SYS_HANDLER(stac);
SYS_HANDLER(mov_from_cr); SYS_HANDLER(mov_to_cr); SYS_HANDLER(clts); SYS_HANDLER(smsw); SYS_HANDLER(lmsw);
SYS_HANDLER(invlpg); SYS_HANDLER(invpcid); SYS_HANDLER(xgetbv); SYS_HANDLER(xsetbv);
SYS_HANDLER(mov_from_dr); SYS_HANDLER(mov_to_dr);
SYS_HANDLER(rdmsr); SYS_HANDLER(wrmsr); SYS_HANDLER(rdtsc); SYS_HANDLER(rdtscp); SYS_HANDLER(rdpmc); SYS_HANDLER(rdpid);
SYS_HANDLER(cpuid); SYS_HANDLER(rdpkru); SYS_HANDLER(wrpkru); SYS_HANDLER(hlt); SYS_HANDLER(wbinvd);
SYS_HANDLER(vmcall); SYS_HANDLER(rsm); SYS_HANDLER(serialize); SYS_HANDLER(random);
SYS_HANDLER(in); SYS_HANDLER(out); SYS_HANDLER(ins); SYS_HANDLER(outs);
#undef SYS_HANDLER

#endif
