/* SPDX-License-Identifier: MIT */
/*
 * Delivering events through IVT and IDT: exceptions, NMI, external and software interrupts, in every mode.
 *
 * Order: the gate, the code segment, the stack and the whole frame are judged; then accessed bits are set, the frame is
 * written, and only then registers change. A fault on the way leaves no trace but accessed bits, and is merged with the event
 * being delivered as SDM vol. 3 "Interrupt 8 - Double Fault Exception" says.
 * Source: Intel SDM vol. 2 "INT n/INTO/INT3/INT1", vol. 3 "Interrupt and Exception Handling".
 */
#include "cpu/sys/sys_private.h"

/* The error code that names an IDT entry. */
static uint32_t idt_error(const struct sys_int *e, unsigned ext)
{
	return (uint32_t)e->vector << 3 | 2 | ext;
}

static void entered(struct vcpu *c, uint64_t rip, uint32_t clear)
{
	c->eflags &= ~clear;
	c->rip = rip;
	c->shadow = 0;
	c->halted = false;
	sys_debug_no_step(c);
	cpu_state_changed(c);
}

/* ---- real mode -------------------------------------------------------------------------------------------------------------- */

static bool deliver_real(struct vcpu *c, const struct sys_int *e)
{
	uint64_t v[3] = { e->flags & 0xffff, c->seg[SEG_CS].sel, e->rip & 0xffff };
	struct sys_frame f;
	struct sys_stack s;
	uint16_t entry[2];

	if (e->vector * 4u + 3 > c->idtr.limit)
		return cpu_fault(c, VEC_GP, idt_error(e, e->ext));
	if (!cpu_sys_read(c, (uint32_t)(c->idtr.base + e->vector * 4u), 4, entry))
		return false;
	sys_stack_current(c, &s);
	if (!sys_frame_judge(c, &s, v, 3, 2, &f))
		return false;
	sys_frame_commit(c, &f);
	sys_set_sp(c, s.mask, f.sp);
	sys_seg_real(c, SEG_CS, entry[1]);
	entered(c, entry[0], FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF);
	return true;
}

/* ---- protected mode ---------------------------------------------------------------------------------------------------------- */

/* The IDT entry of @e, checked up to its present bit. */
static bool read_gate(struct vcpu *c, const struct sys_int *e, uint32_t types, struct sys_desc *g)
{
	unsigned size = sys_long(c) ? 16 : 8;
	unsigned off = e->vector * size;

	g->high = 0;
	if (off + size - 1 > c->idtr.limit)
		return cpu_fault(c, VEC_GP, idt_error(e, e->ext));
	if (!cpu_sys_read(c, sys_linear(c, c->idtr.base + off), size, &g->raw))
		return false;
	if (desc_s(g) || !(types >> desc_type(g) & 1))
		return cpu_fault(c, VEC_GP, idt_error(e, e->ext));
	if (e->soft && desc_dpl(g) < c->acc.cpl)
		return cpu_fault(c, VEC_GP, idt_error(e, 0));
	if (!desc_p(g))
		return cpu_fault(c, VEC_NP, idt_error(e, e->ext));
	return true;
}

/* The gate's code segment: code, not less privileged than the program. */
static bool read_handler(struct vcpu *c, uint16_t sel, unsigned ext, struct sys_desc *cs)
{
	if (sel_is_null(sel))
		return cpu_fault(c, VEC_GP, ext);
	if (!sys_desc_read(c, sel, VEC_GP, ext, cs))
		return false;
	if (!desc_is_code(cs) || desc_dpl(cs) > c->acc.cpl)
		return cpu_fault(c, VEC_GP, sel_error(sel, ext));
	if (sys_long(c) && (!desc_l(cs) || desc_db(cs)))
		return cpu_fault(c, VEC_GP, sel_error(sel, ext));
	return desc_p(cs) || cpu_fault(c, VEC_NP, sel_error(sel, ext));
}

static uint32_t gate_clears(const struct sys_desc *g)
{
	return FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM | (desc_type(g) & 1 ? 0 : FLAG_IF);
}

/* To a more privileged level: a stack from the TSS; from virtual-8086 mode the data segments are saved and cleared too. */
static bool deliver_inner(struct vcpu *c, const struct sys_int *e, const struct sys_desc *g, struct sys_desc *cs)
{
	static const uint8_t v86_saved[] = { SEG_GS, SEG_FS, SEG_DS, SEG_ES };
	unsigned cpl = desc_dpl(cs), n = 0, size = desc_type(g) & 8 ? 4 : 2;
	struct cpu_seg new_ss;
	struct sys_stack s = { .ss = &new_ss, .user = cpl == 3 };
	bool v86 = c->v86;
	struct sys_frame f;
	struct sys_desc ss;
	uint16_t ss_sel;
	uint64_t v[10];

	if (v86 && cpl != 0)
		return cpu_fault(c, VEC_GP, sel_error(gate_sel(g), e->ext));
	if (!sys_tss_stack(c, cpl, 0, e->ext, &ss_sel, &s.sp) || !sys_ss_judge(c, ss_sel, cpl, VEC_TS, e->ext, &ss))
		return false;
	sys_seg_fill(&new_ss, ss_sel, &ss);
	new_ss.type |= 1;
	s.mask = new_ss.db ? 0xffffffff : 0xffff;
	s.error = sel_error(ss_sel, e->ext);
	for (unsigned i = 0; v86 && i < ARRAY_SIZE(v86_saved); i++)
		v[n++] = c->seg[v86_saved[i]].sel;
	v[n++] = c->seg[SEG_SS].sel;
	v[n++] = c->gpr[RSP];
	v[n++] = e->flags;
	v[n++] = c->seg[SEG_CS].sel;
	v[n++] = e->rip;
	if (e->has_error)
		v[n++] = e->error;
	if (!sys_frame_judge(c, &s, v, n, size, &f) || !sys_target_judge(c, cs, gate_offset(g), e->ext) ||
	    !sys_desc_touch(c, &ss) || !sys_desc_touch(c, cs))
		return false;
	sys_frame_commit(c, &f);
	c->gpr[RSP] = (uint32_t)((s.sp & ~s.mask) | f.sp);
	c->seg[SEG_SS] = new_ss;
	for (unsigned i = 0; v86 && i < ARRAY_SIZE(v86_saved); i++)
		sys_seg_null(&c->seg[v86_saved[i]], 0);
	sys_set_cs(c, gate_sel(g), cs, cpl);
	entered(c, gate_offset(g), gate_clears(g));
	return true;
}

static bool deliver_same(struct vcpu *c, const struct sys_int *e, const struct sys_desc *g, struct sys_desc *cs)
{
	uint64_t v[4] = { e->flags, c->seg[SEG_CS].sel, e->rip, e->error };
	struct sys_frame f;
	struct sys_stack s;

	if (c->v86)
		return cpu_fault(c, VEC_GP, sel_error(gate_sel(g), e->ext));
	sys_stack_current(c, &s);
	s.error = e->ext;
	if (!sys_frame_judge(c, &s, v, e->has_error ? 4 : 3, desc_type(g) & 8 ? 4 : 2, &f) ||
	    !sys_target_judge(c, cs, gate_offset(g), e->ext) || !sys_desc_touch(c, cs))
		return false;
	sys_frame_commit(c, &f);
	sys_set_sp(c, s.mask, f.sp);
	sys_set_cs(c, gate_sel(g), cs, c->acc.cpl);
	entered(c, gate_offset(g), gate_clears(g));
	return true;
}

static bool deliver_protected(struct vcpu *c, const struct sys_int *e)
{
	struct sys_desc g, cs;

	if (!read_gate(c, e, BIT(DT_TASK) | BIT(DT_INT16) | BIT(DT_TRAP16) | BIT(DT_INT) | BIT(DT_TRAP), &g))
		return false;
	if (desc_type(&g) == DT_TASK)
		return sys_task_gate(c, &g, TASK_INT, e->rip, e->has_error ? &e->error : NULL, e->ext);
	if (!(desc_type(&g) & 8))
		g.raw &= 0x0000ffffffffffffull;		/* 16-bit gates have no upper offset */
	if (!read_handler(c, gate_sel(&g), e->ext, &cs))
		return false;
	if (!desc_is_conforming(&cs) && desc_dpl(&cs) < c->acc.cpl)
		return deliver_inner(c, e, &g, &cs);
	return deliver_same(c, e, &g, &cs);
}

/* ---- long mode ---------------------------------------------------------------------------------------------------------------- */

static bool deliver_long(struct vcpu *c, const struct sys_int *e)
{
	struct sys_stack s = { .mask = ~0ull, .flat = true, .error = e->ext };
	unsigned cpl = c->acc.cpl, ist;
	struct sys_desc g, cs;
	struct sys_frame f;
	uint16_t ss_sel;
	uint64_t v[6];
	bool inner;

	if (!read_gate(c, e, BIT(DT_INT) | BIT(DT_TRAP), &g) || !read_handler(c, gate_sel(&g), e->ext, &cs))
		return false;
	inner = !desc_is_conforming(&cs) && desc_dpl(&cs) < cpl;
	if (inner)
		cpl = desc_dpl(&cs);
	ist = g.raw >> 32 & 7;
	s.sp = c->gpr[RSP];
	s.user = cpl == 3;
	if ((inner || ist) && !sys_tss_stack(c, cpl, ist, e->ext, &ss_sel, &s.sp))
		return false;
	s.sp &= ~15ull;
	v[0] = c->seg[SEG_SS].sel;
	v[1] = c->gpr[RSP];
	v[2] = e->flags;
	v[3] = c->seg[SEG_CS].sel;
	v[4] = e->rip;
	v[5] = e->error;
	if (!sys_frame_judge(c, &s, v, e->has_error ? 6 : 5, 8, &f) || !sys_target_judge(c, &cs, gate_offset64(&g), e->ext) ||
	    !sys_desc_touch(c, &cs))
		return false;
	sys_frame_commit(c, &f);
	c->gpr[RSP] = f.sp;
	if (inner) {
		sys_seg_null(&c->seg[SEG_SS], (uint16_t)cpl);
		c->seg[SEG_SS].dpl = (uint8_t)cpl;
	}
	sys_set_cs(c, gate_sel(&g), &cs, cpl);
	entered(c, gate_offset64(&g), gate_clears(&g));
	return true;
}

bool sys_interrupt(struct vcpu *c, const struct sys_int *e)
{
	if (!(c->acc.cr0 & CR0_PE))
		return deliver_real(c, e);
	return sys_long(c) ? deliver_long(c, e) : deliver_protected(c, e);
}

/* ---- software interrupts as instructions ---------------------------------------------------------------------------------------- */

static bool software(struct vcpu *c, const struct cpu_op *o, unsigned vector, bool soft)
{
	struct sys_int e = {
		.vector = (uint8_t)vector, .soft = soft, .ext = soft ? 0 : 1, .rip = cpu_op_next_rip(c, o), .flags = cpu_eflags(c),
	};

	sys_begin(c, o);
	return sys_interrupt(c, &e);
}

/*
 * Virtual-8086 mode with CR4.VME: the TSS's redirection bitmap (32 bytes below the I/O bitmap) sends INT n to the program's
 * own real-mode vector. *redirect says whether. False: a fault of reading.
 */
static bool vme_redirects(struct vcpu *c, unsigned vector, bool *redirect)
{
	const struct cpu_seg *tr = &c->seg[SEG_TR];
	uint16_t iobase;
	uint8_t bits;

	*redirect = false;
	if (!(tr->type & 8) || tr->limit < 103)
		return cpu_fault(c, VEC_GP, 0);
	if (!cpu_sys_read(c, sys_linear(c, tr->base + 102), 2, &iobase))
		return false;
	if (iobase < 32 || iobase - 32u + vector / 8 > tr->limit)
		return cpu_fault(c, VEC_GP, 0);
	if (!cpu_sys_read(c, sys_linear(c, tr->base + iobase - 32 + vector / 8), 1, &bits))
		return false;
	*redirect = !(bits >> vector % 8 & 1);
	return true;
}

/* INT n within virtual-8086 mode, through the vector at linear 0 of the task. */
static bool vme_interrupt(struct vcpu *c, unsigned vector, uint64_t next)
{
	uint32_t flags = cpu_eflags(c);
	uint64_t v[3] = { 0, c->seg[SEG_CS].sel, next };
	struct sys_frame f;
	struct sys_stack s;
	uint16_t entry[2];
	struct cpu_ref r;

	if (sys_iopl(c) < 3)
		flags = (flags & ~FLAG_IF) | FLAG_IOPL | (flags & FLAG_VIF ? FLAG_IF : 0);
	v[0] = flags & 0xffff;
	if (!cpu_sys_ref(c, vector * 4, 4, ACC_R, true, &r) || !cpu_ref_load(c, NULL, &r, entry))
		return false;
	sys_stack_current(c, &s);
	if (!sys_frame_judge(c, &s, v, 3, 2, &f))
		return false;
	sys_frame_commit(c, &f);
	sys_set_sp(c, s.mask, f.sp);
	sys_seg_real(c, SEG_CS, entry[1]);
	entered(c, entry[0], FLAG_TF | FLAG_NT | (sys_iopl(c) == 3 ? FLAG_IF : FLAG_VIF));
	return true;
}

void sys_int_n(struct vcpu *c, const struct cpu_op *o)
{
	unsigned vector = o->imm & 0xff;
	bool redirect = false;

	if (c->v86) {
		sys_begin(c, o);
		if (c->acc.cr4 & CR4_VME && !vme_redirects(c, vector, &redirect))
			return;
		if (redirect) {
			vme_interrupt(c, vector, cpu_op_next_rip(c, o));
			return;
		}
		if (sys_iopl(c) < 3) {
			cpu_raise_error(c, o, VEC_GP, 0);
			return;
		}
	}
	software(c, o, vector, true);
}

void sys_int3(struct vcpu *c, const struct cpu_op *o)
{
	sys_begin(c, o);
	if (sys_ext_wants(c, CPU_EXT_INT3) && o->len == 1) {
		struct cpu_ext_insn x = { .kind = CPU_EXT_INT3, .length = 1, .a = c->rip };
		enum cpu_ext_answer a = sys_ext_insn(c, &x);

		if (a == CPU_EXT_DISCARD)
			CPU_NEXT(c, o);
		if (a != CPU_EXT_ALLOW)
			return;
	}
	if (!sys_client_debugs(c, VEC_BP, 0))
		software(c, o, VEC_BP, true);
}

void sys_into(struct vcpu *c, const struct cpu_op *o)
{
	if (c->cc & CC_OF)
		software(c, o, VEC_OF, true);
	else
		CPU_NEXT(c, o);
}

/*
 * INT1 is a #DB that no DPL keeps away; DR6 says nothing about it. A breakpoint that MOV SS before it held back is told with
 * the same #DB.
 */
void sys_int1(struct vcpu *c, const struct cpu_op *o)
{
	sys_begin(c, o);
	if (sys_ext_wants(c, CPU_EXT_DEBUG)) {
		struct cpu_ext_insn x = { .kind = CPU_EXT_DEBUG, .length = o->len, .b = 5 };
		enum cpu_ext_answer a = sys_ext_insn(c, &x);

		if (a == CPU_EXT_DISCARD)
			CPU_NEXT(c, o);
		if (a != CPU_EXT_ALLOW)
			return;
	}
	if (sys_client_debugs(c, VEC_DB, 0))
		return;
	if (software(c, o, VEC_DB, false))
		c->dr6 |= sys_debug_take_hits(c);
}

/* ---- events -------------------------------------------------------------------------------------------------------------------- */

/* SDM "Conditions for Generating a Double Fault", and whether the pushed RF is 1 ("Debug Exceptions", EFLAGS.RF). */
enum class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };
static const struct { uint8_t class; bool fault; } exceptions[32] = {
	[VEC_DE] = { CONTRIBUTORY, true }, [VEC_DB] = { BENIGN, false }, [VEC_NMI] = { BENIGN, false }, [VEC_BP] = { BENIGN, false },
	[VEC_OF] = { BENIGN, false }, [VEC_BR] = { BENIGN, true }, [VEC_UD] = { BENIGN, true }, [VEC_NM] = { BENIGN, true },
	[VEC_DF] = { DOUBLE_FAULT, false }, [VEC_TS] = { CONTRIBUTORY, true }, [VEC_NP] = { CONTRIBUTORY, true },
	[VEC_SS] = { CONTRIBUTORY, true }, [VEC_GP] = { CONTRIBUTORY, true }, [VEC_PF] = { PAGE_FAULT, true },
	[VEC_MF] = { BENIGN, true }, [VEC_AC] = { BENIGN, true }, [VEC_MC] = { BENIGN, false }, [VEC_XM] = { BENIGN, true },
	[VEC_VE] = { PAGE_FAULT, true }, [VEC_CP] = { CONTRIBUTORY, true }, [VEC_VC] = { CONTRIBUTORY, true },
};

static enum class class_of(const struct vcpu *c)
{
	return c->ev.exception.pending && c->ev.exception.vector < 32 ? exceptions[c->ev.exception.vector].class : BENIGN;
}

/* CR2 and DR6 get their value when the exception is delivered, not before: the client may still take it away. */
static void apply_payload(struct vcpu *c)
{
	uint64_t p = c->ev.exception.payload;

	if (!c->ev.exception.has_payload)
		return;
	c->ev.exception.has_payload = false;
	if (c->ev.exception.vector == VEC_PF) {
		c->acc.cr2 = p;
	} else if (c->ev.exception.vector == VEC_DB) {
		/* Bits 16 and 11 are 1 when nothing happened: the payload holds them inverted. */
		c->dr6 = ((c->dr6 & ~0xfull) | 0xffff0ff0 | p) ^ (p & 0xffff0ff0);
		c->dr6 &= ~BIT64(12);
	}
}

/* The event at hand, as a trip through the IDT. */
static struct sys_int event_of(struct vcpu *c)
{
	struct sys_int e = { .ext = 1, .rip = c->rip, .flags = cpu_eflags(c) };

	if (c->ev.exception.pending) {
		e.vector = c->ev.exception.vector;
		e.has_error = c->ev.exception.has_error && c->acc.cr0 & CR0_PE;
		e.error = c->ev.exception.error;
		if (c->ev.exception.soft) {
			e.soft = true;
			e.ext = 0;
			e.rip = (c->rip + c->ev.exception.soft_len) & c->rip_mask;
		} else if (e.vector < 32 && exceptions[e.vector].fault) {
			e.flags |= FLAG_RF;
		}
		apply_payload(c);
	} else if (c->ev.nmi.injected) {
		e.vector = VEC_NMI;
	} else {
		e.vector = c->ev.interrupt.vector;
		e.soft = c->ev.interrupt.soft;
		e.ext = !e.soft;
	}
	return e;
}

static void event_done(struct vcpu *c)
{
	if (c->ev.exception.pending) {
		c->ev.exception.pending = false;
		if (c->ev.exception.vector == VEC_DB)
			c->dr7 &= ~0x2000ull;	/* GD: the handler may look */
	} else if (c->ev.nmi.injected) {
		c->ev.nmi.injected = false;
		c->ev.nmi.masked = true;
	} else {
		c->ev.interrupt.injected = false;
	}
}

/* A second event came while @first was being delivered; c->ev.exception holds it. False: triple fault. */
static bool merge(struct vcpu *c, enum class first)
{
	enum class second = class_of(c);
	bool twice = (first == CONTRIBUTORY && second == CONTRIBUTORY) ||
		     (first == PAGE_FAULT && (second == CONTRIBUTORY || second == PAGE_FAULT));

	if (first == DOUBLE_FAULT && second != BENIGN)
		return false;
	if (twice) {
		apply_payload(c);	/* CR2 of a second page fault */
		cpu_fault(c, VEC_DF, 0);
	}
	return true;
}

enum cpu_exit cpu_deliver(struct vcpu *c)
{
	struct cpu_events saved = c->ev;
	bool was_exception, was_nmi;
	enum class first;
	struct sys_int e;

	if (c->ev.triple_fault)
		return CPU_EXIT_SHUTDOWN;
	for (;;) {
		first = class_of(c);
		was_exception = c->ev.exception.pending;
		was_nmi = !was_exception && c->ev.nmi.injected;
		e = event_of(c);
		c->stop = false;
		if (sys_interrupt(c, &e)) {
			event_done(c);
			c->stop = false;
			return CPU_RUNNING;
		}
		if (c->exit != CPU_RUNNING || c->alone_wanted) {
			/* Nothing of the event has happened: it is delivered again at the next entry. */
			c->ev = saved;
			return c->exit;
		}
		/* The event itself is gone: it is handled serially, or has become a double fault. */
		if (!was_exception) {
			if (was_nmi) {
				c->ev.nmi.injected = false;
				c->ev.nmi.masked = true;
			} else {
				c->ev.interrupt.injected = false;
			}
		}
		if (!merge(c, first))
			return CPU_EXIT_SHUTDOWN;
		saved = c->ev;
	}
}
