/* SPDX-License-Identifier: MIT */
/*
 * Arithmetic flags that nothing reads, where somebody may look: at a fault, a kick, an interrupt.
 *
 * The flags of most instructions follow from what they leave in registers: those of CMP from its operands, those of ADD from sum and
 * addend. Such a *recipe* stands for them as long as its registers keep their values. Ways out of a unit say which recipe holds there
 * (c->tr_flags), out of line; a jump to a block that may be left before it has overwritten the flags puts the recipe's number beside
 * them (c->cc_recipe; storing flags to c->cc clears it). C never sees either: all that translated code calls begins with tr_settle().
 *
 * Where there is no recipe the flags count as read, at the next place where the unit can be left.
 */
#include <string.h>

#include "cpu/translate/compile.h"

/* ---- recipes --------------------------------------------------------------------------------------------------------------------------- */

/* The number of the recipe @r, TR_LOST when the table is full. */
static uint32_t number_of(struct translator *k, const struct tr_recipe *r)
{
	uint64_t w[2];
	uint32_t at;

	memcpy(w, r, sizeof(w));
	at = (uint32_t)((w[0] * 0x9e3779b97f4a7c15ull ^ w[1] * 0xc2b2ae3d27d4eb4full) >> 40);
	for (;; at++) {
		uint16_t *slot = &k->recipe_of[at % (2 * TR_RECIPES)];

		if (!*slot) {
			if (k->n_recipes == TR_RECIPES)
				return TR_LOST;
			k->recipe[k->n_recipes] = *r;
			*slot = (uint16_t)k->n_recipes;
			return k->n_recipes++;
		}
		if (!memcmp(&k->recipe[*slot], r, sizeof(*r)))
			return *slot;
	}
}

/* The general register that operand @i is, or TR_NO_REG: memory, an immediate, AH..BH. */
static unsigned register_of(const struct tr_insn *t, unsigned i)
{
	const struct insn *in = &t->in;
	unsigned n;

	switch (t->row->opnd[i]) {
	case OE_REG:
		n = in->reg;
		break;
	case OE_RM:
		if (in->has_mem)
			return TR_NO_REG;
		n = in->rm;
		break;
	case OE_ACC:
		return RAX;
	default:
		return TR_NO_REG;
	}
	return t->row->attr & IA_BYTE && n >= 4 && n < 8 && !in->rex ? TR_NO_REG : n;
}

static bool is_immediate(const struct tr_insn *t, unsigned i)
{
	return t->row->opnd[i] == OE_IMM || t->row->opnd[i] == OE_IMM8;
}

/* What the flags of @t follow from after it; INC and DEC are not asked about. */
static bool recipe_of(const struct tr_insn *t, struct tr_recipe *r)
{
	unsigned to = register_of(t, 0), from = register_of(t, 1);
	bool is_known = from != TR_NO_REG || is_immediate(t, 1);

	memset(r, 0, sizeof(*r));
	if (to == TR_NO_REG)
		return false;
	r->size = t->row->attr & IA_BYTE ? 1 : t->in.opsize;
	r->reg = (uint8_t)to;
	r->src = (uint8_t)from;
	if (is_immediate(t, 1)) {
		r->src = TR_IMM;
		r->imm = (int32_t)t->in.imm;
	}
	switch (t->in.op) {
	case I_ADD:
		r->op = TR_SUM;
		return is_known && to != from;
	case I_SUB:
	case I_XOR:
		if (to == from) {
			r->op = TR_VALUE;
			r->reg = 0;
			r->src = TR_IMM;
			return true;
		}
		if (t->in.op == I_SUB) {
			r->op = TR_DIFFERENCE;
			return is_known;
		}
		break;
	case I_AND:
	case I_OR:
		break;
	case I_CMP:
		r->op = TR_COMPARED;
		return is_known;
	case I_TEST:
		r->op = TR_TESTED;
		return is_known;
	case I_NEG:
		r->op = TR_NEGATED;
		r->src = TR_IMM;
		r->imm = 0;
		return true;
	case I_SBB:		/* of a register from itself: 0 or -1 */
		r->op = TR_NEGATED;
		r->src = TR_IMM;
		return to == from;
	default:
		return false;
	}
	*r = (struct tr_recipe){ .op = TR_VALUE, .size = r->size, .src = (uint8_t)to };
	return true;
}

/* Registers that must not change while the recipe is to hold. */
static uint32_t registers_of(const struct translator *k, uint32_t id)
{
	uint32_t mask = 0;

	while (id && id != TR_LOST) {
		const struct tr_recipe *r = &k->recipe[id];

		if (r->op != TR_VALUE)
			mask |= BIT(r->reg);
		if (r->src != TR_IMM)
			mask |= BIT(r->src);
		id = r->base;
	}
	return mask;
}

/* ---- what an instruction does ------------------------------------------------------------------------------------------------------------ */

/* Can the unit be left at @t, before it? */
static bool is_exit(const struct tr_insn *t)
{
	switch (t->kind) {
	case TK_NOTHING:
	case TK_LEA:
	case TK_JCC:
	case TK_JMP:
	case TK_LOOP:
	case TK_JCXZ:
		return false;
	case TK_PLAIN:
		return t->in.has_mem || t->vec || t->may_fault;
	default:
		return true;
	}
}

static bool is_count(const struct tr_insn *t)
{
	return t->kind == TK_PLAIN && (t->in.op == I_INC || t->in.op == I_DEC);
}

#define ALL_REGISTERS 0xffffu

static uint32_t named(const struct tr_insn *t, unsigned i)
{
	const struct insn *in = &t->in;
	unsigned n;

	switch (t->row->opnd[i]) {
	case OE_REG:
		n = in->reg;
		break;
	case OE_RM:
	case OE_RM_REG:
		if (in->has_mem)
			return 0;
		n = in->rm;
		break;
	case OE_OPREG:
		n = in->rm;
		break;
	case OE_VGPR:
		n = in->vvvv;
		break;
	case OE_ACC:
		return BIT(RAX);
	case OE_MOFFS:
	case OE_MEM:
		return 0;
	default:
		return ALL_REGISTERS;
	}
	return n < 8 ? BIT(n) | BIT(n & 3) : BIT(n);	/* it may be AH..BH */
}

static uint32_t written_by_plain(const struct tr_insn *t)
{
	uint32_t mask = (t->writes & TW_0 ? named(t, 0) : 0) | (t->writes & TW_1 ? named(t, 1) : 0);

	switch (t->in.op) {
	case I_MUL: case I_DIV: case I_IDIV: case I_CMPXCHG: case I_CMPXCHG8B: case I_CMPXCHG16B:
		return mask | BIT(RAX) | BIT(RDX);
	case I_IMUL:
		return t->row->opnd[1] == OE_NONE ? BIT(RAX) | BIT(RDX) : mask;
	case I_CWD:
		return BIT(RDX);
	case I_CBW: case I_LAHF:
		return BIT(RAX);
	default:
		return t->vec && t->touch ? mask | BIT(RCX) : mask;
	}
}

static uint32_t written_by(const struct tr_insn *t)
{
	switch (t->kind) {
	case TK_PLAIN:
		return written_by_plain(t);
	case TK_LEA:
		return BIT(t->in.reg);
	case TK_PUSH:
	case TK_PUSH_MEM:
	case TK_CALL:
		return BIT(RSP);
	case TK_POP:
		return BIT(RSP) | BIT(t->in.rm);
	case TK_LEAVE:
		return BIT(RSP) | BIT(RBP);
	case TK_LOOP:
		return BIT(RCX);
	case TK_NOTHING:
	case TK_BITS:
	case TK_JCC:
	case TK_JMP:
	case TK_JCXZ:
		return 0;
	default:
		return ALL_REGISTERS;
	}
}

/* ---- what a block does to flags it finds --------------------------------------------------------------------------------------------------- */

struct tr_found tr_flags_found(const struct cpu_block *b, const bool *features)
{
	struct tr_found f = { 0 };
	uint8_t open = TF_ALL;
	uint32_t changed = 0;
	bool kept = false;
	struct tr_insn t;

	for (unsigned k = 0; k < b->n && open; k++) {
		if (!tr_classify(b, k, features, &t) || t.kind == TK_BAIL) {
			f.is_shown = true;
			f.changed |= changed;
			break;
		}
		f.wanted |= t.need & open;
		if (is_exit(&t)) {
			f.is_shown = true;
			f.changed |= changed;
			if (kept)
				f.wanted |= open;
		}
		/* Flags that it leaves alone are loaded before it: there is no recipe of a part. */
		kept |= t.touch && open & ~t.kill;
		open &= (uint8_t)~t.kill;
		changed |= written_by(&t);
	}
	f.wanted |= open;
	return f;
}

/* ---- what holds where in a unit -------------------------------------------------------------------------------------------------------------- */

/* Flags that may be seen after each instruction before they are set again. */
static void find_shown(struct tr_compiler *x)
{
	uint8_t shown = 0;

	for (unsigned i = 0; i < 2; i++)
		if (x->edge_shown[i])
			shown = TF_ALL;
	for (unsigned k = x->n; k-- > 0;) {
		struct tr_insn *t = &x->insn[k];

		if (t->exit && x->exit[t->exit - 1].found.is_shown)
			shown = TF_ALL;
		t->shown = shown;
		shown &= (uint8_t)~t->kill;
		if (is_exit(t))
			shown = TF_ALL;
	}
}

struct memory {
	uint32_t recipe;	/* of the flags now; 0: c->cc is right; TR_LOST: only RFLAGS are */
	bool in_host;		/* RFLAGS are what the last one that wrote flags left */
};

static bool is_rotation(const struct tr_insn *t)
{
	return t->kind == TK_PLAIN && (t->in.op == I_ROL || t->in.op == I_ROR) && !t->in.has_mem && t->in.opsize >= 4 && !(t->row->attr & IA_BYTE) &&
	       (t->row->opnd[1] == OE_ONE || (t->row->opnd[1] == OE_IMM8 && t->in.imm & (t->in.opsize == 8 ? 63 : 31)));
}

static bool is_of_rotation(const struct tr_compiler *x, uint32_t id)
{
	return id && id != TR_LOST && x->k->recipe[id].op >= TR_ROL;
}

/* A rotation that found its flags in c->cc cannot be told to other blocks: what is told stands in their place. Nor can what follows from it. */
static bool rests_on_rotation(const struct tr_compiler *x, uint32_t id)
{
	while (id && id != TR_LOST && !is_of_rotation(x, id))
		id = x->k->recipe[id].base;
	return is_of_rotation(x, id);
}

/* A rotation leaves most flags alone, and several in a row as much as one. */
static void remember_rotation(struct tr_compiler *x, const struct tr_insn *t, struct memory *m)
{
	struct tr_recipe r = { .op = t->in.op == I_ROL ? TR_ROL : TR_ROR, .size = t->in.opsize, .reg = (uint8_t)register_of(t, 0), .src = TR_IMM };
	uint32_t under = is_of_rotation(x, m->recipe) ? x->k->recipe[m->recipe].base : m->recipe;

	r.base = (uint16_t)under;
	if (under == TR_LOST || registers_of(x->k, under) & BIT(r.reg))
		m->recipe = TR_LOST;
	else
		m->recipe = number_of(x->k, &r);
}

/*
 * What a shift lost cannot be made again: its operand is kept, by one store, where the flags may be seen. Nobody needs what is kept for
 * earlier flags then: this sets all.
 */
static bool remember_shift(struct tr_compiler *x, struct tr_insn *t, struct memory *m)
{
	static const uint16_t ops[] = { I_SHL, I_SHR, I_SAR };
	unsigned way = 0, count = t->row->opnd[1] == OE_ONE ? 1 : t->in.imm & (t->in.opsize == 8 ? 63 : 31);
	struct tr_recipe r = { .op = TR_SHIFTED, .size = t->row->attr & IA_BYTE ? 1 : t->in.opsize, .reg = TR_KEPT, .src = TR_IMM };

	while (way < ARRAY_SIZE(ops) && ops[way] != t->in.op)
		way++;
	if (way == ARRAY_SIZE(ops) || t->kind != TK_PLAIN || t->in.has_mem || t->kill != TF_ALL || !t->shown || register_of(t, 0) == TR_NO_REG)
		return false;
	r.imm = (int32_t)(way << 8 | count);
	m->recipe = number_of(x->k, &r);
	t->keeps = true;
	return true;
}

/* MOVZX and MOVSX within one register leave the part of it that the recipe is about. */
static bool leaves_part(const struct tr_compiler *x, const struct tr_insn *t, uint32_t id)
{
	const struct insn *in = &t->in;

	if ((in->op != I_MOVZX && in->op != I_MOVSX) || in->has_mem || in->reg != in->rm || id == TR_LOST || x->k->recipe[id].base)
		return false;
	if (t->row->memsize == 1 && in->rm >= 4 && !in->rex)
		return false;
	return x->k->recipe[id].size <= t->row->memsize && x->k->recipe[id].size <= in->opsize;
}

/* After @t, which touches flags. */
static void remember(struct tr_compiler *x, struct tr_insn *t, struct memory *m)
{
	struct tr_recipe r;

	if (is_count(t)) {
		unsigned reg = register_of(t, 0);

		/* The carry: in RFLAGS, or from c->cc, where it is if RFLAGS were lost, or are put. */
		t->from_cc = !m->in_host && t->shown & TF_C;
		if (t->from_cc)
			t->need |= TF_C;
		r = (struct tr_recipe){ .op = t->in.op == I_INC ? TR_SUM : TR_DIFFERENCE, .reg = (uint8_t)reg, .src = TR_IMM, .imm = 1,
					.size = t->row->attr & IA_BYTE ? 1 : t->in.opsize, .keep_c = true };
		if (reg == TR_NO_REG || (m->in_host && (m->recipe == TR_LOST || !m->recipe || registers_of(x->k, m->recipe) & BIT(reg)))) {
			m->recipe = TR_LOST;
		} else {
			r.base = m->in_host ? (uint16_t)m->recipe : 0;
			m->recipe = number_of(x->k, &r);
		}
	} else if (remember_shift(x, t, m)) {
		;
	} else if (is_rotation(t)) {
		remember_rotation(x, t, m);
	} else if (t->kind == TK_PLAIN && t->kill == TF_ALL && recipe_of(t, &r)) {
		m->recipe = number_of(x->k, &r);
	} else {
		m->recipe = TR_LOST;
	}
	m->in_host = true;
}

static bool keeps_host(const struct tr_insn *t)
{
	switch (t->kind) {
	case TK_NOTHING:
	case TK_JCC:
	case TK_JMP:
	case TK_LOOP:
	case TK_JCXZ:
		return true;
	case TK_LEA:
		return true;
	case TK_PLAIN:
		return !t->in.has_mem && !t->vec;
	default:
		return false;
	}
}

/* Vector instructions on registers are ways out only where they make the registers live. */
static bool is_exit_here(const struct tr_insn *t, uint8_t *vec)
{
	bool is_first = t->vec > *vec;

	if (t->kind == TK_ONE)
		*vec = 0;
	else if (is_first)
		*vec = t->vec;
	return is_exit(t) && (is_first || !t->vec || t->in.has_mem);
}

static void find_recipes(struct tr_compiler *x)
{
	struct memory m = { .recipe = 0 };
	uint8_t vec = 0;

	for (unsigned k = 0; k < x->n; k++) {
		struct tr_insn *t = &x->insn[k];

		if (is_exit_here(t, &vec) && m.recipe == TR_LOST) {
			t->spill = true;
			/* Those that fault without a probe put RFLAGS away on their way out only. */
			if (t->in.has_mem || (t->kind != TK_X87 && !t->may_fault))
				m.recipe = 0;
		}
		t->recipe = m.recipe == TR_LOST ? 0 : m.recipe;
		if (t->exit)
			x->exit[t->exit - 1].recipe = m.recipe;
		if (!keeps_host(t))
			m.in_host = false;
		if (t->kind == TK_ONE || t->kind == TK_BAIL) {
			m.recipe = 0;
			continue;
		}
		/* A comparison of what it writes itself (SUB) is of the values after it. */
		if (!t->touch && written_by(t) & registers_of(x->k, m.recipe) && !leaves_part(x, t, m.recipe))
			m.recipe = TR_LOST;
		if (t->touch)
			remember(x, t, &m);
	}
	x->end_recipe = m.recipe;
}

/* The recipe @id for blocks that change the registers @changed: with those kept aside. */
static uint32_t kept_aside(struct translator *k, uint32_t id, uint32_t changed)
{
	struct tr_recipe r;

	if (!id || id == TR_LOST || !(registers_of(k, id) & changed))
		return id;
	r = k->recipe[id];
	if (r.base && registers_of(k, r.base) & (changed | BIT(TR_KEPT)))
		return TR_LOST;
	if (r.op != TR_VALUE && changed >> r.reg & 1)
		r.reg = TR_KEPT;
	if (r.src != TR_IMM && changed >> r.src & 1)
		r.src = TR_KEPT + 1;
	return number_of(k, &r);
}

/*
 * What has to be done at the ends. A block that overwrites the flags before anybody can look takes anything (and is not left before
 * it has: see tr_stale()); one that may be left is told a recipe, or gets the flags.
 */
static void settle_edges(struct tr_compiler *x)
{
	bool told[2];
	uint32_t changed = 0;

	for (unsigned i = 0; i < 2; i++) {
		told[i] = x->edge_shown[i] && !(x->edge_live[i] & ~TF_C);
		changed |= told[i] ? x->found[i].changed : 0;
	}
	x->mark = rests_on_rotation(x, x->end_recipe) ? TR_LOST : kept_aside(x->k, x->end_recipe, changed);
	for (unsigned i = 0; i < 2; i++) {
		x->edge_mark[i] = told[i] && x->mark && x->mark != TR_LOST;
		if (x->edge_shown[i] && (!told[i] || x->mark == TR_LOST))
			x->edge_live[i] = TF_ALL;
	}
}

/* The same for a way out before the end. */
static void settle_exit(struct tr_compiler *x, struct tr_exit *exit)
{
	bool told = exit->found.is_shown && !(exit->live & ~TF_C);

	exit->mark = rests_on_rotation(x, exit->recipe) ? TR_LOST : kept_aside(x->k, exit->recipe, told ? exit->found.changed : 0);
	exit->is_told = told && exit->mark && exit->mark != TR_LOST;
	if (exit->found.is_shown && (!told || exit->mark == TR_LOST))
		exit->live = TF_ALL;
}

void tr_flags_plan(struct tr_compiler *x)
{
	find_shown(x);
	find_recipes(x);
	settle_edges(x);
	for (unsigned i = 0; i < x->n_exits; i++)
		settle_exit(x, &x->exit[i]);
}

/*
 * After liveness: after a rotation RFLAGS have the flags that it left alone only if they are live. Where others are put away, all are.
 * True: that has changed something.
 */
bool tr_flags_complete(struct tr_compiler *x)
{
	bool changed = false;

	for (unsigned k = 0; k < x->n; k++) {
		struct tr_insn *t = &x->insn[k];

		if (t->spill || !is_exit(t) || !is_of_rotation(x, t->recipe) || !tr_live_before(t))
			continue;
		t->spill = true;
		changed = true;
	}
	return changed;
}

/* ---- emission ----------------------------- */

/* Which recipe holds, for tr_settle(). No flag is touched. */
void tr_flags_tell(struct tr_compiler *x, uint32_t recipe)
{
	struct tr_enc q = { .opcode = 0xc7, .rm = RM_VCPU(tr_flags), .n_imm = 4 };

	if (!recipe)
		return;
	memcpy(q.imm, &recipe, 4);
	e_put(&x->e, &q);
}

static void keep_aside(struct tr_compiler *x, unsigned from, unsigned to)
{
	if (to >= TR_KEPT && to != TR_IMM && to != from)
		e_store(&x->e, rm_gs(offsetof(struct vcpu, tr_kept) + 8 * (to - TR_KEPT)), tr_reg(x, from, HR_9));
}

static void put_mark(struct tr_compiler *x, uint32_t recipe, uint32_t mark)
{
	const struct tr_recipe *from = &x->k->recipe[recipe], *to = &x->k->recipe[mark];
	struct tr_enc q = { .opcode = 0xc7, .rm = RM_VCPU(cc_recipe), .n_imm = 4 };

	keep_aside(x, from->reg, to->reg);
	keep_aside(x, from->src, to->src);

	memcpy(q.imm, &mark, 4);
	e_put(&x->e, &q);
}

/* A carry put away alone leaves what an earlier block was told. */
static void clear_mark(struct tr_compiler *x)
{
	e_put(&x->e, &(struct tr_enc){ .opcode = 0xc7, .rm = RM_VCPU(cc_recipe), .n_imm = 4 });
}

void tr_flags_mark(struct tr_compiler *x)
{
	if (!x->mem_exact && !x->is_marked) {
		if (x->edge_mark[0] || x->edge_mark[1])
			put_mark(x, x->end_recipe, x->mark);
		else if (x->edge_live[0] == TF_C || x->edge_live[1] == TF_C)
			clear_mark(x);
	}
	x->is_marked = true;
}

void tr_flags_mark_exit(struct tr_compiler *x, const struct tr_exit *exit)
{
	if (exit->mem_exact)
		return;
	if (exit->is_told)
		put_mark(x, exit->recipe, exit->mark);
	else if (exit->live == TF_C)
		clear_mark(x);
}

/* Before @k, whose flags the mark will stand for: so that comparison and branch stay neighbours. */
void tr_flags_mark_early(struct tr_compiler *x, unsigned k)
{
	const struct tr_insn *t = &x->insn[k];

	bool is_kept = x->mark != x->end_recipe, before = t->in.op == I_CMP || t->in.op == I_TEST;

	if (is_kept && !before)
		return;
	if (k + 2 == x->n && x->insn[k + 1].kind == TK_JCC && t->kind == TK_PLAIN && t->touch && t->kill == TF_ALL && !t->need && !is_exit(t)) {
		x->mem_exact = false;
		tr_flags_mark(x);
	}
}
