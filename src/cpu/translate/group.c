/* SPDX-License-Identifier: MIT */
/*
 * Several operands near one another: one probe for all. The first access of an instruction through [base + displacement] looks
 * ahead; if others follow within a few bytes before the base gets another value, it probes for the whole range, and r11 keeps the
 * host's address of the range's beginning. Those that follow need no probe, and no RFLAGS.
 *
 * While it is taken, a second group keeps the addend of its page in r10, until something else needs that.
 *
 * r11 and r10 are good until the next C code only. So a way out of line that comes back computes them again, and leaves the unit if the range
 * has no entry of its own: it crosses a page, or belongs to a device. A unit to which that happens often is made again without.
 */
#include "cpu/translate/compile.h"

#define SPAN_STACK	256	/* of RSP and RBP: hardly ever across pages */
#define SPAN_OTHER	64

struct access { uint8_t base; int64_t disp; unsigned size; bool write; };

bool tr_is_simple(const struct insn *in)
{
	return in->has_mem && in->base < 16 && in->index >= 16 && in->adsize == 8 && in->seg != SEG_FS && in->seg != SEG_GS;
}

static struct access of_stack(int disp, bool write)
{
	return (struct access){ .base = RSP, .disp = disp, .size = 8, .write = write };
}

/* What @t accesses through a base and a displacement: at most two. */
static unsigned accesses_of(const struct tr_insn *t, struct access a[2])
{
	unsigned n = 0;

	switch (t->kind) {
	case TK_PLAIN:
	case TK_PUSH_MEM:
	case TK_JMP_IND:
	case TK_CALL_IND:
		if (tr_is_simple(&t->in))
			a[n++] = (struct access){ .base = t->in.base, .disp = t->in.disp, .size = t->kind == TK_PLAIN ? t->in.memsize : 8,
						  .write = t->kind == TK_PLAIN && t->row->mem != M_R };
		if (t->kind == TK_PUSH_MEM)
			a[n++] = of_stack(-8, true);
		return n;
	case TK_PUSH:
	case TK_CALL:
		a[0] = of_stack(-8, true);
		return 1;
	case TK_POP:
	case TK_RET:
		a[0] = of_stack(0, false);
		return 1;
	default:
		return 0;
	}
}

/* ---- what happens to the base ---------------------------------------------------------------------------------------------------- */

/* Instructions that write registers which are not among their operands; all of them may write RAX, RCX and RDX. */
static bool has_hidden_results(unsigned op)
{
	static const uint16_t ops[] = { I_MUL, I_IMUL, I_DIV, I_IDIV, I_CBW, I_CWD, I_LAHF, I_CMPXCHG, I_CMPXCHG8B, I_CMPXCHG16B,
					I_PCMPESTRI, I_PCMPISTRI, I_VPCMPESTRI, I_VPCMPISTRI };

	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
		if (ops[i] == op)
			return true;
	return false;
}

static bool may_be(const struct tr_insn *t, unsigned n, unsigned guest)
{
	/* Numbers 4 to 7 may mean AH, CH, DH and BH. */
	return n == guest || (n >= 4 && n < 8 && n - 4 == guest && t->row->attr & IA_BYTE);
}

/* Does operand @i, which is written, hold guest register @guest? */
static bool is_result(const struct tr_insn *t, unsigned i, unsigned guest)
{
	switch (t->row->opnd[i]) {
	case OE_REG:
		return may_be(t, t->in.reg, guest);
	case OE_RM:
	case OE_RM_REG:
	case OE_OPREG:
		return !t->in.has_mem && may_be(t, t->in.rm, guest);
	case OE_VGPR:
		return t->in.vvvv == guest;
	case OE_ACC:
		return guest == RAX;
	case OE_MEM:
	case OE_MOFFS:
		return false;
	default:
		return true;
	}
}

static bool by_constant(const struct tr_insn *t, int64_t *by)
{
	const struct insn *in = &t->in;

	if (in->opsize != 8 || in->has_mem || (t->row->opnd[0] != OE_RM && t->row->opnd[0] != OE_RM_REG))
		return false;
	if ((in->op == I_ADD || in->op == I_SUB) && (t->row->opnd[1] == OE_IMM || t->row->opnd[1] == OE_IMM8)) {
		*by = in->op == I_ADD ? (int32_t)in->imm : -(int64_t)(int32_t)in->imm;
		return true;
	}
	return false;
}

/* After @t guest register @guest is what it was, plus *by. False: it may be anything, or r11 is lost. */
static bool keeps(const struct tr_insn *t, unsigned guest, int64_t *by)
{
	*by = 0;
	switch (t->kind) {
	case TK_NOTHING:
	case TK_JCC:
		return true;
	case TK_LEA:
		if (t->in.reg != guest)
			return true;
		*by = t->in.disp;
		return t->in.base == guest && t->in.index >= 16 && t->in.opsize == 8 && t->in.adsize == 8;
	case TK_PUSH:
	case TK_PUSH_MEM:
		*by = guest == RSP ? -8 : 0;
		return true;
	case TK_POP:
		*by = guest == RSP ? 8 : 0;
		return t->in.rm != guest;
	case TK_PLAIN:
		if (guest <= RDX && has_hidden_results(t->in.op))
			return false;
		for (unsigned i = 0; i < 2; i++)
			if (t->writes & (i ? TW_1 : TW_0) && is_result(t, i, guest))
				return !i && by_constant(t, by);
		return true;
	default:
		return false;
	}
}

/* ---- the plan -------------------------------------------------------------------------------------------------------------------------- */

static bool is_within(struct tr_group *g, const struct access *a, int64_t moved, int64_t limit)
{
	int64_t lo = a->disp + moved, hi = lo + a->size;

	if (lo > g->lo)
		lo = g->lo;
	if (hi < g->hi)
		hi = g->hi;
	if (hi - lo > limit)
		return false;
	g->lo = lo;
	g->hi = hi;
	return true;
}

/* How the instructions after the present one, which accesses @a, could share its probe. */
static struct tr_group plan(const struct tr_compiler *x, const struct access *a)
{
	struct tr_group g = { .base = a->base, .lo = a->disp, .hi = a->disp + a->size, .write = a->write };
	int64_t moved = 0, by, limit = a->base == RSP || a->base == RBP ? SPAN_STACK : SPAN_OTHER;

	for (unsigned k = x->at; k < x->n; k++) {
		struct access next[2];
		unsigned n = k > x->at ? accesses_of(&x->insn[k], next) : 0;

		for (unsigned i = 0; i < n; i++) {
			if (next[i].base != a->base || !is_within(&g, &next[i], moved, limit))
				continue;
			g.write |= next[i].write;
			g.left++;
		}
		if (!keeps(&x->insn[k], a->base, &by) || moved + by > INT32_MAX / 4 || moved + by < INT32_MIN / 4)
			break;
		moved += by;
	}
	return g;
}

/* ---- emission ---------------------------------------------------------------------------------------------------------------------------- */

void tr_group_end(struct tr_compiler *x)
{
	x->group.active = x->second.active = false;
	tr_held_drop(x, HR_11);
}

static bool has(struct tr_group *g, unsigned base, int32_t disp, unsigned size, bool write)
{
	if (!g->active || g->base != base || disp < g->lo || disp + (int64_t)size > g->hi || (write && !g->write))
		return false;
	if (g->left)
		g->left--;
	return true;
}

/* The present instruction accesses [base + disp]; the group has it if it is known to lie in the range. */
bool tr_group_has(struct tr_compiler *x, unsigned base, int32_t disp, unsigned size, bool write, struct tr_rm *m)
{
	if (has(&x->group, base, disp, size, write))
		*m = rm_mem(HR_11, (int32_t)(disp - x->group.lo));
	else if (has(&x->second, base, disp, size, write))
		*m = rm_sib(tr_home[base], HR_10, 0, disp);
	else
		return false;
	return true;
}

/* Begin one with the present access, if that pays. RFLAGS are destroyed then. */
bool tr_group_begin(struct tr_compiler *x, unsigned base, int32_t disp, unsigned size, bool write, struct tr_rm *m)
{
	const struct access a = { .base = (uint8_t)base, .disp = disp, .size = size, .write = write };
	struct tr_group g;
	bool in_r10;

	if (x->b->ungrouped || !x->k->tlb || disp > INT32_MAX / 4 || disp < INT32_MIN / 4)
		return false;
	g = plan(x, &a);
	in_r10 = x->group.active && x->group.left >= g.left;
	if (!g.left || (in_r10 && tr_home[base] == HR_NONE))
		return false;
	g.active = true;
	g.tlb = tr_tlb_offset(x, g.write);
	g.index = (uint8_t)x->n_groups++;
	x->groups[g.index] = (struct tr_regroup){ .tlb = g.tlb, .span = (unsigned)(g.hi - g.lo), .is_addend = in_r10 };
	if (in_r10) {
		tr_probe_addend(x, tr_home[base], (int32_t)g.lo, (unsigned)(g.hi - g.lo), g.tlb);
		x->second = g;
		*m = rm_sib(tr_home[base], HR_10, 0, disp);
		return true;
	}
	x->group = g;
	e_lea(&x->e, true, HR_11, rm_mem(tr_reg(x, base, HR_11), (int32_t)g.lo));
	tr_held_drop(x, HR_11);
	tr_probe_range(x, (unsigned)(g.hi - g.lo), g.tlb);
	*m = rm_mem(HR_11, (int32_t)(disp - g.lo));
	return true;
}

static void step(struct tr_group *g, const struct tr_insn *t)
{
	int64_t by;

	if (!g->active)
		return;
	if (!g->left || !keeps(t, g->base, &by) || g->lo - by > INT32_MAX / 4 || g->lo - by < INT32_MIN / 4) {
		g->active = false;
		return;
	}
	g->lo -= by;
	g->hi -= by;
}

/* The present instruction is emitted. */
void tr_group_step(struct tr_compiler *x, const struct tr_insn *t)
{
	step(&x->group, t);
	step(&x->second, t);
}

/* Out of line, called with r9 at the range: r11 at the host's, or r10 the addend; or CF. */
void tr_groups_out_of_line(struct tr_compiler *x)
{
	struct tr_emit *e = &x->e;

	for (unsigned i = 0; i < x->n_groups; i++) {
		struct tr_regroup *g = &x->groups[i];
		uint32_t none;

		if (!g->is_used)
			continue;
		g->routine = e_here(e);
		tr_index_and_compare(e, g->tlb, HR_9, g->span, g->is_addend ? HR_9 : HR_11);
		none = e_jcc(e, CC_A);
		e_load(e, g->is_addend ? HR_10 : HR_11, rm_gs_at(g->tlb + offsetof(struct acc_tlb_entry, addend), HR_10));
		if (!g->is_addend)
			e_lea(e, true, HR_11, rm_sib(HR_11, HR_9, 0, 0));
		e1(e, 0xf8);	/* clc */
		e1(e, 0xc3);
		e_patch_here(e, none);
		e1(e, 0xf9);	/* stc */
		e1(e, 0xc3);
	}
}
