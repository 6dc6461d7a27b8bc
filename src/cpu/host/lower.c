/* SPDX-License-Identifier: MIT */
/*
 * Lowering of what the host CPU executes, and the handlers around its stubs: gate, alignment, memory operand, stub.
 *
 * Memory: the stub works on guest memory itself when the operand is plain and in one page; else on a bounce buffer that is
 * filled before or stored after. A faulting stub has stored nothing.
 */
#include <string.h>

#include "cpu/host/host_private.h"

/* ---- execution ------------------------------------------------------------------------------------------------------------------- */

/*
 * What the host answered for this instruction is what the guest gets. Page faults were judged before, so one here means that
 * the client took its memory away.
 */
static void stub_fault(struct vcpu *c, const struct cpu_op *o, unsigned trap)
{
	switch (trap) {
	case VEC_XM:
		cpu_raise(c, o, c->acc.cr4 & CR4_OSXMMEXCPT ? VEC_XM : VEC_UD);
		break;
	case VEC_MF:
	case VEC_UD:
		cpu_raise(c, o, trap);
		break;
	case VEC_GP:
		cpu_raise_error(c, o, VEC_GP, 0);
		break;
	default:
		c->host_fault_gva = cpu_ea(c, o) + c->seg_base[o->seg];
		cpu_stop(c, o, CPU_EXIT_HOST_FAULT);
	}
}

/* The guest unmasked SIMD exceptions: only while its own instruction runs are they unmasked in the host. */
static __attribute__((noinline)) unsigned exec_unmasked(struct vcpu *c, host_stub *fn, void *mem)
{
	uint32_t v = host_mxcsr_get(c);
	unsigned trap;

	__asm__ volatile("ldmxcsr %0" : : "m"(v));
	trap = fn(c, mem);
	__asm__ volatile("stmxcsr %0" : "=m"(v));
	host_mxcsr_set(c, v);
	return trap;
}

static __attribute__((noinline)) const struct host_slot *rebind(struct vcpu *c, const struct cpu_op *o)
{
	const struct host_slot *s = host_slot_get(c->host, o->imm);

	((struct cpu_op *)(uintptr_t)o)->ptr = (void *)(uintptr_t)s;	/* operations are private to their vCPU */
	return s;
}

static __attribute__((noinline)) bool exec_failed(struct vcpu *c, const struct cpu_op *o, unsigned trap)
{
	stub_fault(c, o, trap);
	return false;
}

static inline bool exec(struct vcpu *c, const struct cpu_op *o, void *mem)
{
	const struct host_slot *s = o->ptr;
	unsigned trap;

	if (unlikely(s->key != o->imm))
		s = rebind(c, o);
	if (unlikely(c->host->unmasked) && o->aux & AUX_MXCSR)
		trap = exec_unmasked(c, s->fn, mem);
	else
		trap = s->fn(c, mem);
	if (unlikely(trap))
		return exec_failed(c, o, trap);
	return true;
}

bool host_exec(struct vcpu *c, const struct cpu_op *o, void *mem)
{
	return exec(c, o, mem);
}

/*
 * The stub of a waiting instruction raises a pending x87 exception itself; but when its memory operand is about to be refused
 * the stub does not come to run, and #MF has priority.
 */
static __attribute__((noinline)) bool mf_pending(struct vcpu *c, const struct cpu_op *o)
{
	uint16_t fsw;

	if (!(o->aux & AUX_WAITS))
		return false;
	__asm__ volatile("fnstsw %0" : "=m"(fsw));
	if (!(fsw & FSW_ES))
		return false;
	cpu_raise(c, o, VEC_MF);
	return true;
}

/* ---- memory operands ----------------------------------------------------------------------------------------------------------------- */

/* Misalignment has priority over what the segment or the walk would say. */
static inline bool operand(struct vcpu *c, const struct cpu_op *o, unsigned rights, uint64_t *la)
{
	uint64_t ea = cpu_ea(c, o);

	*la = ea + c->seg_base[o->seg];
	if (unlikely(o->flags & (OP_ALIGN | OP_CHECK_SEG))) {
		if (o->flags & OP_ALIGN && *la & (o->memsize - 1u)) {
			if (!mf_pending(c, o))
				cpu_raise_error(c, o, VEC_GP, 0);
			return false;
		}
		if (o->flags & OP_CHECK_SEG)
			return !mf_pending(c, o) && cpu_seg_linear(c, o, o->seg, ea, o->memsize, rights, la);
	}
	return true;
}

static __attribute__((noinline)) bool load_slow(struct vcpu *c, const struct cpu_op *o, uint64_t la)
{
	_Alignas(64) uint8_t bounce[64];
	struct cpu_ref r;

	if (mf_pending(c, o) || !cpu_ref_get(c, o, la, o->memsize, ACC_R, &r))
		return false;
	if (r.p)
		return exec(c, o, r.p);
	return cpu_ref_load(c, o, &r, bounce) && exec(c, o, bounce);
}

/*
 * An x87 store whose operand or range was invalid and unmasked stores nothing, and raises at the next instruction. The error
 * summary was clear before it (it would have raised otherwise), so what it shows now is this instruction's doing. A result that was only
 * inexact was stored.
 */
static bool x87_store_suppressed(const struct cpu_op *o)
{
	uint16_t fsw, fcw;

	if ((o->aux & AUX_GATE) != GATE_X87 || o->aux & AUX_NOWAIT)
		return false;
	__asm__ volatile("fnstsw %0\n\tfnstcw %1" : "=m"(fsw), "=m"(fcw));
	return fsw & FSW_ES && fsw & ~fcw & 0x1f;
}

/*
 * Stores that are executed before their operand is judged. An x87 store with exceptions unmasked: whether it stores at all is
 * known only afterwards, and a store that does not happen cannot fault; it is undone if memory refuses. VCVTPS2PH: its SIMD
 * exception has priority over the store's fault, and the flags are noted even then.
 */
static __attribute__((noinline)) bool late_store(struct vcpu *c, const struct cpu_op *o)
{
	bool x87 = (o->aux & AUX_GATE) == GATE_X87;
	_Alignas(64) uint8_t bounce[64];
	struct host_fx before;
	struct cpu_ref r;
	uint64_t la;

	if (x87)
		host_fx_save(&before);
	if (!exec(c, o, bounce))
		return false;
	if (x87 && x87_store_suppressed(o))
		return true;
	if (!cpu_la(c, o, o->memsize, ACC_W, &la) || !cpu_ref_get(c, o, la, o->memsize, ACC_W, &r)) {
		if (x87)
			host_fx_restore(&before);
		return false;
	}
	cpu_ref_store(c, o, &r, bounce);
	return true;
}

static bool x87_is_unmasked(const struct cpu_op *o)
{
	uint16_t fcw;

	if ((o->aux & AUX_GATE) != GATE_X87)
		return false;
	__asm__ volatile("fnstcw %0" : "=m"(fcw));
	return ~fcw & 0x1f;
}

static bool stores_late(const struct cpu_op *o)
{
	return o->aux & AUX_MXCSR || x87_is_unmasked(o);
}

static __attribute__((noinline)) bool store_slow(struct vcpu *c, const struct cpu_op *o, uint64_t la)
{
	_Alignas(64) uint8_t bounce[64];
	struct cpu_ref r;

	if (mf_pending(c, o))
		return false;
	if (stores_late(o))
		return late_store(c, o);
	if (!cpu_ref_get(c, o, la, o->memsize, ACC_W, &r))
		return false;
	if (r.p && !r.code)
		return exec(c, o, r.p);
	if (!exec(c, o, bounce))
		return false;
	cpu_ref_store(c, o, &r, bounce);
	return true;
}

static inline bool load(struct vcpu *c, const struct cpu_op *o, uint64_t *la)
{
	uint8_t *p;

	if (unlikely(!operand(c, o, ACC_R, la)))
		return false;
	p = acc_probe_r(&c->acc, *la, o->memsize);
	if (unlikely(!p))
		return load_slow(c, o, *la);
	c->cur = o;
	return exec(c, o, p);
}

static inline bool store(struct vcpu *c, const struct cpu_op *o, uint64_t *la)
{
	uint8_t *p;

	if (unlikely(o->flags & OP_CHECK_SEG) && stores_late(o)) {
		*la = cpu_ea(c, o) + c->seg_base[o->seg];
		return late_store(c, o);
	}
	if (unlikely(!operand(c, o, ACC_W, la)))
		return false;
	p = acc_probe_w(&c->acc, *la, o->memsize);
	if (unlikely(!p))
		return store_slow(c, o, *la);
	c->cur = o;
	return exec(c, o, p);
}

/* ---- handlers ---------------------------------------------------------------------------------------------------------------------------- */

static bool do_load(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t la;

	return host_gate_open(c, o) && load(c, o, &la);
}

static bool do_store(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t la;

	return host_gate_open(c, o) && store(c, o, &la);
}

static void op_reg(struct vcpu *c, const struct cpu_op *o)
{
	if (unlikely(!host_gate_open(c, o)) || unlikely(!exec(c, o, NULL)))
		return;
	CPU_NEXT(c, o);
}

static void op_load(struct vcpu *c, const struct cpu_op *o)
{
	if (unlikely(!do_load(c, o)))
		return;
	CPU_NEXT(c, o);
}

static void op_store(struct vcpu *c, const struct cpu_op *o)
{
	if (unlikely(!do_store(c, o)))
		return;
	CPU_NEXT(c, o);
}

/* x87 and MMX: the state must be live, and the last instruction is remembered for FIP, FDP and FOP. */
static inline bool fpu_begin(struct vcpu *c, const struct cpu_op *o)
{
	if (unlikely(!host_gate_open(c, o)))
		return false;
	if (unlikely(!c->fpu.x87_live))
		host_x87_load(c);
	return true;
}

static inline void fpu_note(struct vcpu *c, const struct cpu_op *o, uint64_t la)
{
	struct cpu_host *h = c->host;

	if (!(o->aux & AUX_POINTERS))
		return;
	h->fip = cpu_op_rip(c, o);
	h->fop = (uint16_t)(o->reg << 8 | o->rm);
	if (o->memsize)
		h->fdp = la - c->seg_base[o->seg];
}

static bool fpu_reg(struct vcpu *c, const struct cpu_op *o)
{
	if (!fpu_begin(c, o) || !exec(c, o, NULL))
		return false;
	fpu_note(c, o, 0);
	return true;
}

static bool fpu_load(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t la;

	if (!fpu_begin(c, o) || !load(c, o, &la))
		return false;
	fpu_note(c, o, la);
	return true;
}

static bool fpu_store(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t la;

	if (!fpu_begin(c, o) || !store(c, o, &la))
		return false;
	fpu_note(c, o, la);
	return true;
}

static void op_fpu_reg(struct vcpu *c, const struct cpu_op *o)
{
	if (unlikely(!fpu_reg(c, o)))
		return;
	CPU_NEXT(c, o);
}

static void op_fpu_load(struct vcpu *c, const struct cpu_op *o)
{
	if (unlikely(!fpu_load(c, o)))
		return;
	CPU_NEXT(c, o);
}

static void op_fpu_store(struct vcpu *c, const struct cpu_op *o)
{
	if (unlikely(!fpu_store(c, o)))
		return;
	CPU_NEXT(c, o);
}

/* ---- lowering ------------------------------------------------------------------------------------------------------------------------------ */

static bool has_mmx_operand(const struct insn_row *row)
{
	for (unsigned i = 0; i < ARRAY_SIZE(row->opnd); i++)
		if (row->opnd[i] == OE_MREG || row->opnd[i] == OE_MRM || row->opnd[i] == OE_MRM_REG)
			return true;
	return false;
}

static bool has_vector_operand(const struct insn_row *row)
{
	for (unsigned i = 0; i < ARRAY_SIZE(row->opnd); i++)
		if (row->opnd[i] == OE_VREG || row->opnd[i] == OE_VRM || row->opnd[i] == OE_VRM_REG)
			return true;
	return false;
}

static unsigned gate_of(const struct insn *in, const struct insn_row *row)
{
	if (in->has_vex)
		return GATE_AVX;
	if (in->op == I_WAIT)
		return GATE_WAIT;
	if ((row->map & 0xf) == 4)
		return GATE_X87;
	/* Instructions between MMX and XMM need OSFXSR as SSE does. */
	if (has_vector_operand(row))
		return GATE_SSE;
	return has_mmx_operand(row) || in->op == I_EMMS ? GATE_MMX : GATE_SSE;
}

/* Source: Intel SDM vol. 1 "x87 FPU Instruction and Data (Operand) Pointers". */
static bool is_x87_control(unsigned op)
{
	return op == I_FNINIT || op == I_FNCLEX || op == I_FLDCW || op == I_FNSTCW || op == I_FNSTSW || op == I_WAIT ||
	       op == I_FNENI || op == I_FNDISI || op == I_FNSETPM;
}

void host_set_stub(struct vcpu *c, const struct insn *in, struct cpu_op *o)
{
	const struct insn_row *row = &insn_rows[in->row];

	o->imm = host_key(in);
	o->ptr = (void *)(uintptr_t)host_slot_get(c->host, o->imm);
	o->aux = (uint8_t)gate_of(in, row);
	if (row->attr & IA_MXCSR)
		o->aux |= AUX_MXCSR;
	if (row->attr & IA_ALIGN && in->has_mem)
		o->flags |= OP_ALIGN;
}

static bool lower_stub(struct vcpu *c, const struct insn *in, struct cpu_op *o)
{
	const struct insn_row *row = &insn_rows[in->row];
	bool fpu = row->cls == IC_FPU, store_form = in->has_mem && row->mem == M_W;

	host_set_stub(c, in, o);
	if (!o->ptr)
		return false;
	o->memsize = in->has_mem ? in->memsize : 0;
	/* CVTPI2PS and CVTPI2PD from memory touch no MMX register. */
	if (fpu && in->op != I_FNSTCW && in->op != I_FNSTSW && in->op != I_CVTPI2PS && in->op != I_CVTPI2PD)
		o->aux |= AUX_WAITS;
	if ((o->aux & AUX_GATE) == GATE_X87) {
		if (!is_x87_control(in->op))
			o->aux |= AUX_POINTERS;
		if (in->op == I_FNSTCW || in->op == I_FNSTSW)
			o->aux |= AUX_NOWAIT;
		o->reg = in->bytes[in->opc_off] & 7;
		o->rm = in->modrm;
	}
	if (!in->has_mem)
		o->fn = fpu ? op_fpu_reg : op_reg;
	else if (store_form)
		o->fn = fpu ? op_fpu_store : op_store;
	else
		o->fn = fpu ? op_fpu_load : op_load;
	return true;
}

bool cpu_lower_host(struct vcpu *c, const struct insn *in, struct cpu_op *o)
{
	const struct insn_row *row = &insn_rows[in->row];

	if (host_lower_env(in, o) || host_lower_xsave(in, o) || host_lower_misc(in, o) || host_lower_multi(c, in, o))
		return true;
	if (row->cls != IC_HOST && row->cls != IC_FPU)
		return false;
	return lower_stub(c, in, o);
}
