/* SPDX-License-Identifier: MIT */
/*
 * What a unit is made of: a block, and behind a branch the block where it mostly goes on, and so forth. One count, one plan for flags and
 * groups serve them all; the other way of each such branch is a way out (struct tr_exit).
 *
 * Mostly means: a branch forward is not taken, if what follows it has run; one back to the beginning is taken, a short loop stands
 * several times in its unit. All blocks are of one page and one generation of its code, so that what keeps a unit valid is what keeps one
 * block valid.
 */
#include "cpu/translate/compile.h"

static bool is_canonical(const struct vcpu *c, uint64_t la)
{
	int64_t top = (int64_t)la >> ((c->acc.cr4 & CR4_LA57 ? 57 : 48) - 1);

	return top == 0 || top == -1;
}

/* Append the instructions of @b. */
static void append(struct tr_compiler *x, struct cpu_block *b, uint64_t rip)
{
	x->part[x->n_parts++] = (struct tr_part){ b, rip, (uint8_t)x->n };
	for (unsigned k = 0; k < b->n; k++, x->n++) {
		struct tr_insn *t = &x->insn[x->n];

		if (!tr_classify(b, k, x->c->features, t)) {
			t->kind = TK_BAIL;
			t->need = TF_ALL;
		}
		t->rip = rip + t->op->off;
	}
	/* A target that faults is the handler's. */
	for (unsigned i = 0; i < 2; i++)
		if (tr_has_edge(&x->insn[x->n - 1], i) && !is_canonical(x->c, tr_edge_rip(x, i))) {
			x->insn[x->n - 1].kind = TK_BAIL;
			x->insn[x->n - 1].need = TF_ALL;
		}
}

/* The block at @rip, if it may be appended. A loop may be only if it is nothing but the first block. */
static struct cpu_block *candidate(struct tr_compiler *x, uint64_t rip)
{
	bool is_loop = rip == x->rip, is_hot = false;
	struct cpu_block *b;

	if ((rip ^ x->rip) >> GW_PAGE_SHIFT)
		return NULL;
	for (unsigned i = 0; i < x->n_parts; i++)
		if ((x->part[i].rip == rip) != is_loop)
			return NULL;
	if (x->k->hot == 1)	/* nothing has had time to run */
		is_hot = true;
	b = is_loop ? x->b : is_hot ? cpu_block_ahead(x->c, x->b->code, rip) : cpu_block_peek(x->c, x->b->code, x->b->hva + (rip - x->rip));
	if (!b || b->gen != x->b->gen || x->n + b->n > CPU_BLOCK_MAX)
		return NULL;
	return is_loop || is_hot || b->runs || b->units || b->is_part ? b : NULL;
}

/* Go on behind the last instruction? */
static bool extend(struct tr_compiler *x)
{
	struct tr_insn *t = &x->insn[x->n - 1];
	uint64_t taken, fall;
	struct cpu_block *b;
	bool is_loop;

	if (x->n_parts == TR_MAX_PARTS || !x->k->chain)
		return false;
	if (t->kind == TK_JMP) {
		taken = tr_edge_rip(x, 0);
		b = taken == x->rip ? NULL : candidate(x, taken);
		if (!b)
			return false;
		t->kind = TK_NOTHING;
		append(x, b, taken);
		return true;
	}
	if (t->kind != TK_JCC)
		return false;
	taken = tr_edge_rip(x, 0);
	fall = tr_edge_rip(x, 1);
	is_loop = taken == x->rip;
	if (!is_loop && taken <= t->rip)
		return false;
	b = candidate(x, is_loop ? taken : fall);
	if (!b)
		return false;
	t->is_inverted = is_loop;
	x->exit[x->n_exits++] = (struct tr_exit){ .rip = is_loop ? fall : taken, .k = (uint8_t)(x->n - 1) };
	t->exit = (uint8_t)x->n_exits;
	append(x, b, is_loop ? taken : fall);
	return true;
}

void tr_trace(struct tr_compiler *x)
{
	x->n = x->n_parts = x->n_exits = 0;
	append(x, x->b, x->rip);
	while (extend(x))
		;
}
