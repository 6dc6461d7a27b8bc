/* SPDX-License-Identifier: MIT */
/*
 * A decoded instruction as the interpreter runs it, and what handlers use to touch memory and to stop.
 *
 * A handler has the signature of cpu_fn. It does its work and ends with CPU_NEXT (a tail call to the following operation of
 * the block), or simply returns to leave the block:
 *   - a memory helper returned false: exception, exit or run-alone has been noted, nothing was committed: `return;`
 *   - it raised an exception itself: `cpu_raise...(c, o, ...); return;`
 *   - it transferred control: it set c->rip (through cpu_jump()) and returns (or chains).
 * Rule of commit: all memory operands are judged (loaded, or taken as a ref) before any register, flag or memory changes.
 * All refs of an instruction are taken before the first device load.
 */
#ifndef GW_CPU_OP_H
#define GW_CPU_OP_H

#include "cpu/vcpu.h"

typedef void cpu_fn(struct vcpu *c, const struct cpu_op *o);

#define OP_CHECK_SEG	0x01u	/* legacy segment: limit and type must be checked, base added */
#define OP_LOCK		0x02u
#define OP_REP		0x04u	/* REP or REPE */
#define OP_REPNE	0x08u
#define OP_STACK	0x10u	/* memory operand goes through SS: faults are #SS */
#define OP_ALIGN	0x20u	/* operand must be aligned to its size */

struct cpu_op {
	cpu_fn *fn;
	uint64_t imm;		/* immediate, moffs address, or branch target relative to the block's start */
	int64_t disp;		/* displacement; RIP-relative ones are made relative to the block's start */
	uint64_t admask;	/* truncates the effective address: ~0, 0xffffffff, 0xffff */
	uint16_t off;		/* from the block's start to this instruction */
	uint8_t len;
	uint8_t opsize;		/* bytes */
	uint8_t base, index, scale;	/* into gpr[]; GPR_ZERO, GPR_RIP */
	uint8_t seg;		/* enum x86_seg or SEG_FLAT */
	uint8_t reg, rm, vvvv;	/* register numbers; for 8-bit operands the byte offset into gpr[] (AH is 1, CL is 8) */
	uint8_t aux;		/* condition code, /r extension, what the family wants */
	uint8_t flags;		/* OP_* */
	uint8_t memsize;	/* bytes of the explicit memory operand, 0 if it varies or there is none */
	uint16_t iop;		/* enum insn_op */
	union {
		const struct insn *insn;	/* the full decode, kept for families that need it (system, far, host) */
		void *ptr;
		struct cpu_block *fall;	/* near branches: the chained block that follows ... */
	};
	struct cpu_block *taken;	/* ... and the one branched to; NULL until first used */
};
_Static_assert(sizeof(struct cpu_op) == 64, "one cache line an operation");

/* A decoded block: operations up to a control transfer, the end of the page or CPU_BLOCK_MAX, then an end-of-block operation. */
#define CPU_BLOCK_MAX	32

/* Sanitizer builds do not turn tail calls into jumps; there the dispatcher takes every step of a chain. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CPU_MAY_CHAIN 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define CPU_MAY_CHAIN 0
#endif
#endif
#ifndef CPU_MAY_CHAIN
#ifdef __OPTIMIZE__
#define CPU_MAY_CHAIN 1
#else
#define CPU_MAY_CHAIN 0
#endif
#endif

/* Continue with the following operation. The one macro that leaves its function: as a tail call it cannot be one. */
#if defined(__clang__)
#define CPU_NEXT(c, o) do { __attribute__((musttail)) return (o)[1].fn((c), (o) + 1); } while (0)
#else
#define CPU_NEXT(c, o) return (o)[1].fn((c), (o) + 1)
#endif

static inline uint64_t cpu_op_rip(const struct vcpu *c, const struct cpu_op *o) { return (c->gpr[GPR_RIP] + o->off) & c->rip_mask; }
static inline uint64_t cpu_op_next_rip(const struct vcpu *c, const struct cpu_op *o) { return (c->gpr[GPR_RIP] + o->off + o->len) & c->rip_mask; }

/* Exceptions: note it, put RIP at this instruction, leave the block. */
void cpu_raise(struct vcpu *c, const struct cpu_op *o, unsigned vector);				/* without error code */
void cpu_raise_error(struct vcpu *c, const struct cpu_op *o, unsigned vector, uint32_t error);
/* From code that has no op at hand (event delivery, descriptor loads): RIP is c->rip already. Always returns false. */
bool cpu_fault(struct vcpu *c, unsigned vector, uint32_t error);
bool cpu_fault_noerr(struct vcpu *c, unsigned vector);
bool cpu_fault_event(struct vcpu *c, const struct acc_event *ev);
/* Leave with an exit; RIP at this instruction (it will run again) or after it. */
void cpu_stop(struct vcpu *c, const struct cpu_op *o, enum cpu_exit exit);
void cpu_stop_after(struct vcpu *c, const struct cpu_op *o, enum cpu_exit exit);
/* This instruction must be executed by itself. In a handler: `if (!cpu_run_alone(c, o)) return;` - true when it is. */
bool cpu_run_alone(struct vcpu *c, const struct cpu_op *o);

/* Effective address without segment base. */
static inline uint64_t cpu_ea(const struct vcpu *c, const struct cpu_op *o)
{
	return (c->gpr[o->base] + (c->gpr[o->index] << o->scale) + (uint64_t)o->disp) & o->admask;
}

/* Segment checks of legacy modes (limit, type, null): raises #GP/#SS and returns false, or adds the base. */
bool cpu_seg_linear(struct vcpu *c, const struct cpu_op *o, unsigned seg, uint64_t ea, unsigned len, unsigned rights, uint64_t *la);

/* Linear address of the explicit operand. */
static inline bool cpu_la(struct vcpu *c, const struct cpu_op *o, unsigned len, unsigned rights, uint64_t *la)
{
	uint64_t ea = cpu_ea(c, o);

	if (unlikely(o->flags & OP_CHECK_SEG))
		return cpu_seg_linear(c, o, o->seg, ea, len, rights, la);
	*la = ea + c->seg_base[o->seg];
	return true;
}

/* ---- memory -------------------------------------------------------------------------------------------------------- */

/* One operand, judged. p: host address of the whole operand; NULL: in pieces, or not plain memory (then use load/store). */
struct cpu_piece { uint8_t *hva; struct gpa gpa; uint16_t len; uint8_t verdict, subst, guard; uint8_t data[64]; };
struct cpu_ref {
	uint8_t *p;
	uint64_t gva;
	uint16_t len;
	uint8_t rights;
	uint8_t n;
	bool code;		/* a store must report to acc_store_done */
	struct cpu_piece piece[2];
};

/* cpu/mem.c. All return false with the reason noted when the instruction cannot go on now. @cpl_override: see stage. */
bool cpu_ref_slow(struct vcpu *c, const struct cpu_op *o, uint64_t gva, unsigned len, unsigned rights, unsigned stage, struct cpu_ref *r);
/* Two operands at once (MOVS, PUSH m, POP m, CMPS, CALL m): both walked, then both judged. */
struct cpu_want { uint64_t gva; uint16_t len; uint8_t rights; uint8_t stage; bool stack; };
bool cpu_refs(struct vcpu *c, const struct cpu_op *o, const struct cpu_want *want, unsigned n, struct cpu_ref *r);
bool cpu_ref_load(struct vcpu *c, const struct cpu_op *o, const struct cpu_ref *r, void *buf);
void cpu_ref_store(struct vcpu *c, const struct cpu_op *o, const struct cpu_ref *r, const void *buf);

bool cpu_load_slow(struct vcpu *c, const struct cpu_op *o, uint64_t gva, unsigned len, void *buf);
bool cpu_store_slow(struct vcpu *c, const struct cpu_op *o, uint64_t gva, unsigned len, const void *buf);

static inline bool cpu_ref_get(struct vcpu *c, const struct cpu_op *o, uint64_t gva, unsigned len, unsigned rights, struct cpu_ref *r)
{
	uint8_t *p = rights & ACC_W ? acc_probe_w(&c->acc, gva, len) : acc_probe_r(&c->acc, gva, len);

	if (likely(p)) {
		c->cur = o;
		r->p = p;
		r->len = (uint16_t)len;
		r->code = false;
		return true;
	}
	return cpu_ref_slow(c, o, gva, len, rights, ACC_FINAL, r);
}

/* Scalar loads and stores at a linear address: cpu_ld8/16/32/64(c, o, la, &v), cpu_st8/16/32/64(c, o, la, v). */
#define CPU_SCALAR(bits)												\
static inline bool cpu_ld##bits(struct vcpu *c, const struct cpu_op *o, uint64_t gva, uint##bits##_t *v)		\
{															\
	const uint8_t *p = acc_probe_r(&c->acc, gva, bits / 8);							\
															\
	if (likely(p)) {												\
		c->cur = o;												\
		*v = *(const volatile gw_u##bits *)p;								\
		return true;												\
	}														\
	return cpu_load_slow(c, o, gva, bits / 8, v);									\
}															\
static inline bool cpu_st##bits(struct vcpu *c, const struct cpu_op *o, uint64_t gva, uint##bits##_t v)		\
{															\
	uint8_t *p = acc_probe_w(&c->acc, gva, bits / 8);								\
															\
	if (likely(p)) {												\
		c->cur = o;												\
		*(volatile gw_u##bits *)p = v;									\
		return true;												\
	}														\
	return cpu_store_slow(c, o, gva, bits / 8, &v);									\
}
CPU_SCALAR(8)
CPU_SCALAR(16)
CPU_SCALAR(32)
CPU_SCALAR(64)
#undef CPU_SCALAR

/* Supervisor accesses of the engine (descriptors, frames, TSS): stage IMPLICIT, origin ENGINE, c->rip exact. @what for #SS/#GP. */
bool cpu_sys_read(struct vcpu *c, uint64_t gva, unsigned len, void *buf);
bool cpu_sys_write(struct vcpu *c, uint64_t gva, unsigned len, const void *buf);
/* Judge several writes (an exception frame) before committing any: see cpu/mem.c. At most 64 bytes each page run. */
bool cpu_sys_ref(struct vcpu *c, uint64_t gva, unsigned len, unsigned rights, bool user, struct cpu_ref *r);

/* ---- control ------------------------------------------------------------------------------------------------------- */

/* Set RIP to @target (offset in CS; masked); checks the CS limit or canonical form: raises #GP and returns false. */
bool cpu_jump(struct vcpu *c, const struct cpu_op *o, uint64_t target);

/*
 * End of a block by a near branch with a constant target. Returns after setting RIP, or goes on in the chained block.
 * In a handler, last: `CPU_CHAIN(c, o, taken or fall);`. Only links within the page are followed without a lookup.
 */
const struct cpu_op *cpu_chain(struct vcpu *c, const struct cpu_op *o, bool taken);
#if CPU_MAY_CHAIN
#if defined(__clang__)
#define CPU_CHAIN(c, o, taken) do { const struct cpu_op *t_ = cpu_chain(c, o, taken); if (!t_) return; __attribute__((musttail)) return t_->fn((c), t_); } while (0)
#else
#define CPU_CHAIN(c, o, taken) do { const struct cpu_op *t_ = cpu_chain(c, o, taken); if (!t_) return; return t_->fn((c), t_); } while (0)
#endif
#else
#define CPU_CHAIN(c, o, taken) do { cpu_branch_plain(c, o, taken); return; } while (0)
#endif
void cpu_branch_plain(struct vcpu *c, const struct cpu_op *o, bool taken);
/* The same for computed targets (RET, JMP r/m): target already set in c->rip by cpu_jump(); looks in the jump cache. */
const struct cpu_op *cpu_chain_rip(struct vcpu *c);
#if CPU_MAY_CHAIN
#if defined(__clang__)
#define CPU_CHAIN_RIP(c) do { const struct cpu_op *t_ = cpu_chain_rip(c); if (!t_) return; __attribute__((musttail)) return t_->fn((c), t_); } while (0)
#else
#define CPU_CHAIN_RIP(c) do { const struct cpu_op *t_ = cpu_chain_rip(c); if (!t_) return; return t_->fn((c), t_); } while (0)
#endif
#else
#define CPU_CHAIN_RIP(c) return
#endif

/* ---- families: each fills o->fn for the operations it knows; false: not mine --------------------------------------------- */
bool cpu_lower_int(const struct insn *in, struct cpu_op *o);	/* interp/: integer, stack, branches, strings */
bool cpu_lower_sys(const struct insn *in, struct cpu_op *o);	/* sys/: system, segments, far transfers, interrupts */
bool cpu_lower_host(struct vcpu *c, const struct insn *in, struct cpu_op *o);	/* host/: FPU and vector, XSAVE family */
/* The room plug: instructions of protections. */

/* cpu/event.c (sys): deliver c->ev.exception, c->ev.interrupt or NMI through the IDT/IVT; faults on the way are merged
 * (double, triple). Returns CPU_RUNNING or an exit (SHUTDOWN, DELIVERY, GUARD...). Entered with c->rip at the saved RIP. */
enum cpu_exit cpu_deliver(struct vcpu *c);

#endif
