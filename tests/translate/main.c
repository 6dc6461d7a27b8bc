/* SPDX-License-Identifier: MIT */
/*
 * The interpreter against the translator: random programs of one page, run by both from the same state.
 *
 * A program is made of single instructions as the differential test makes them, each mostly preceded by MOVs that put its
 * operand where it may lie, and of branches, loops, calls and computed jumps around them. It ends with HLT, which is refused at CPL 3.
 *
 *	GW_LOCKSTEP=n		programs (default 20000)
 *	GW_LOCKSTEP_SEED=n	other ones; with GW_LOCKSTEP=1 the one that was printed
 *	-v			print the program of each difference, without what it does not need
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/op.h"
#include "rig.h"

#define OWN_STACK	(RIG_OWN + 0x800)
#define MAX_PIECES	40u

static struct diff_form *forms;
static unsigned n_forms;
static uint16_t *usable;
static unsigned n_usable, n_integer;

/* ---- the forms that programs are made of ------------------------------------------------------------------------------------------- */

static bool is_usable(const struct diff_form *f, const bool *features)
{
	const struct insn_row *row = &insn_rows[f->row];

	if (f->mode != INSN_MODE_64 || !features[row->feature] || diff_is_excluded(row->op))
		return false;
	return !(row->attr & (IA_END | IA_CPL0)) && row->op != I_IN && row->op != I_OUT && row->op != I_INS && row->op != I_OUTS &&
	       row->op != I_CLI && row->op != I_STI && row->op != I_STAC && row->op != I_CLAC;
}

static void find_forms(const bool *features)
{
	n_forms = diff_forms(&forms, features);
	usable = calloc(n_forms, sizeof(*usable));
	if (!usable)
		exit(2);
	for (unsigned pass = 0; pass < 2; pass++) {
		for (unsigned i = 0; i < n_forms; i++)
			if (is_usable(&forms[i], features) && (insn_rows[forms[i].row].cls == IC_INT) == !pass)
				usable[n_usable++] = (uint16_t)i;
		if (!pass)
			n_integer = n_usable;
	}
}

/* ---- a program ------------------------------------------------------------------------------------------------------------------------ */

struct maker {
	struct rng r;
	struct rig_program *p;
	unsigned counters;
	unsigned vectors;	/* per cent of instructions that are not of the integer kind */
};

static void bytes(struct maker *m, const void *b, unsigned n)
{
	memcpy(m->p->code + m->p->len, b, n);
	m->p->len += n;
}

static void byte(struct maker *m, unsigned v)
{
	uint8_t b = (uint8_t)v;

	bytes(m, &b, 1);
}

static void word(struct maker *m, uint32_t v)
{
	bytes(m, &v, 4);
}

static uint64_t here(const struct maker *m)
{
	return DIFF_CODE + m->p->len;
}

static void mov_imm(struct maker *m, unsigned reg, uint64_t v)
{
	byte(m, 0x48 | reg >> 3);
	byte(m, 0xb8 | (reg & 7));
	bytes(m, &v, 8);
}

static void set_operands(struct maker *m, const struct diff_case *k, const struct insn *in, const struct insn_row *row)
{
	uint16_t want = 0;

	if (in->has_mem) {
		if (in->base < 16)
			want |= (uint16_t)(1u << in->base);
		if (in->index < 16 && !(row->attr & IA_VSIB))
			want |= (uint16_t)(1u << in->index);
	}
	if (row->mem == M_STRING || row->op == I_XLAT || row->op == I_MASKMOVQ || row->op == I_MASKMOVDQU || row->op == I_VMASKMOVDQU)
		want |= BIT(RSI) | BIT(RDI) | BIT(RCX) | BIT(RBX);
	if (row->mem == M_PUSH || row->mem == M_POP)
		want |= BIT(RSP) | BIT(RBP);
	if (row->mem == M_MULTI || row->op == I_DIV || row->op == I_IDIV || chance(&m->r, 5))
		want |= BIT(RAX) | BIT(RDX);
	if (chance(&m->r, 4))
		return;
	for (unsigned i = 0; i < 16; i++)
		if (want >> i & 1)
			mov_imm(m, i, k->gpr[i]);
}

/* The case was made for another address. */
static void fix_rip(struct maker *m, struct diff_case *k, const struct insn *in)
{
	int32_t disp;

	if (!in->has_mem || in->base != GPR_RIP)
		return;
	memcpy(&disp, k->code + in->modrm_off + 1, 4);
	disp += (int32_t)(diff_start(k) - here(m));
	memcpy(k->code + in->modrm_off + 1, &disp, 4);
}

/* Flags that depend on whether the count is in the instruction or in CL, on one and the same processor. */
static bool leaves_flags_open(const struct insn *in)
{
	switch (in->op) {
	case I_ROL: case I_ROR: case I_RCL: case I_RCR: case I_SHL: case I_SHR: case I_SAR: case I_SHLD: case I_SHRD:
		return in->imm_off;
	default:
		return false;
	}
}

static void one_instruction(struct maker *m)
{
	bool vector = chance(&m->r, m->vectors);
	unsigned i = vector ? n_integer + below(&m->r, n_usable - n_integer) : below(&m->r, n_integer);
	const struct diff_form *f = &forms[usable[i]];
	struct diff_case k;
	struct insn in;

	if (!diff_generate(f, &m->r, &k) || k.at_end || insn_decode(k.code, k.len, INSN_MODE_64, false, NULL, &in) != INSN_OK)
		return;
	/* String instructions with DF set walk backwards; both are fine. Nothing may take the stack of calls away for good. */
	set_operands(m, &k, &in, &insn_rows[f->row]);
	fix_rip(m, &k, &in);
	bytes(m, k.code, k.len);
	if (leaves_flags_open(&in))
		bytes(m, "\x84\xc0", 2);	/* test al, al */
}

static void some(struct maker *m, unsigned n)
{
	for (unsigned i = 0; i < n && m->p->len < RIG_CODE_MAX - 400; i++)
		one_instruction(m);
}

/* Patch the rel32 that ends at @at to lead here. */
static void patch_here(struct maker *m, unsigned at)
{
	uint32_t rel = m->p->len - at;

	memcpy(m->p->code + at - 4, &rel, 4);
}

static unsigned jcc(struct maker *m)
{
	byte(m, 0x0f);
	byte(m, 0x80 | below(&m->r, 16));
	word(m, 0);
	return m->p->len;
}

static void skip(struct maker *m)
{
	unsigned at = jcc(m);

	some(m, 1 + below(&m->r, 3));
	patch_here(m, at);
}

/* The counter is in memory: 1 to 20 times around. */
static void loop(struct maker *m)
{
	unsigned start, at = (unsigned)RIG_OWN + 8 * m->counters++, n = 1 + below(&m->r, 20);

	byte(m, 0xc7);	/* mov dword [at], n */
	byte(m, 0x04);
	byte(m, 0x25);
	word(m, at);
	word(m, n);
	start = m->p->len;
	some(m, 1 + below(&m->r, 4));
	if (chance(&m->r, 30))
		skip(m);
	byte(m, 0xff);	/* dec dword [at] */
	byte(m, 0x0c);
	byte(m, 0x25);
	word(m, at);
	byte(m, 0x0f);	/* jnz start */
	byte(m, 0x85);
	word(m, start - (m->p->len + 4));
}

static void call_and_return(struct maker *m)
{
	unsigned call, over;

	mov_imm(m, RSP, OWN_STACK + 8 * below(&m->r, 16));
	byte(m, 0xe8);
	word(m, 0);
	call = m->p->len;
	byte(m, 0xe9);
	word(m, 0);
	over = m->p->len;
	patch_here(m, call);
	/* What runs inside may move the stack pointer: put it back. */
	some(m, 1 + below(&m->r, 2));
	mov_imm(m, RSP, OWN_STACK + 0x200);
	byte(m, 0x68);	/* push here */
	word(m, (uint32_t)DIFF_CODE + call);
	if (chance(&m->r, 30)) {
		byte(m, 0xc2);
		byte(m, 16);
		byte(m, 0);
	} else {
		byte(m, 0xc3);
	}
	patch_here(m, over);
}

static void computed_jump(struct maker *m)
{
	unsigned reg = below(&m->r, 16), at;

	byte(m, 0x48 | reg >> 3);	/* mov reg, imm64 */
	byte(m, 0xb8 | (reg & 7));
	at = m->p->len;
	bytes(m, "\0\0\0\0\0\0\0", 8);
	if (chance(&m->r, 50) && reg != RSP) {
		mov_imm(m, RSP, OWN_STACK);
		byte(m, 0x40 | reg >> 3);
		byte(m, 0xff);
		byte(m, 0xd0 | (reg & 7));
	} else {
		byte(m, 0x40 | reg >> 3);
		byte(m, 0xff);
		byte(m, 0xe0 | (reg & 7));
	}
	if (chance(&m->r, 50))
		some(m, 1);
	memcpy(m->p->code + at, &(uint64_t){ here(m) }, 8);
}

static void counted_jump(struct maker *m)
{
	uint8_t *at;

	mov_imm(m, RCX, below(&m->r, 3));
	byte(m, 0xe0 + below(&m->r, 4));	/* LOOPNE, LOOPE, LOOP, JRCXZ forwards */
	byte(m, 0);
	at = m->p->code + m->p->len;
	one_instruction(m);
	at[-1] = (uint8_t)(m->p->code + m->p->len - at);
}

static void make(struct maker *m, uint64_t seed)
{
	struct diff_case k = { .mode = INSN_MODE_64 };
	unsigned pieces;

	m->r.s = seed;
	m->counters = 0;
	m->p->len = 0;
	m->vectors = chance(&m->r, 50) ? 0 : 5 + below(&m->r, 90);
	diff_random_state(&m->r, &k);
	memcpy(m->p->gpr, k.gpr, sizeof(k.gpr));
	memcpy(m->p->x, k.x, sizeof(k.x));
	m->p->flags = k.flags;
	m->p->slice = chance(&m->r, 50) ? 100000 : CPU_BLOCK_MAX + 1 + below(&m->r, 60);
	pieces = 1 + below(&m->r, MAX_PIECES);
	for (unsigned i = 0; i < pieces && m->p->len < RIG_CODE_MAX - 600; i++) {
		unsigned pick = below(&m->r, 100);

		if (pick < 60)
			some(m, 1);
		else if (pick < 75)
			skip(m);
		else if (pick < 90)
			loop(m);
		else if (pick < 94)
			call_and_return(m);
		else if (pick < 97)
			computed_jump(m);
		else
			counted_jump(m);
	}
	byte(m, 0xf4);
}

/* ---- reporting ------------------------------------------------------------------------------------------------------------------------- */

static void print_program(const struct rig_program *p)
{
	struct insn in;
	char text[96];

	for (unsigned off = 0; off < p->len; off += in.len) {
		if (insn_decode(p->code + off, p->len - off, INSN_MODE_64, false, NULL, &in) != INSN_OK)
			return;
		if (in.op == I_NOP)
			continue;
		insn_format(&in, DIFF_CODE + off, text, sizeof(text));
		printf("#   %llx %s\n", DIFF_CODE + off, text);
	}
}

/* Replace by NOPs what is not needed for the difference. */
static void shrink(struct rig *oracle, struct rig *rig, struct rig_program *p)
{
	static struct rig_result a, b;
	static struct rig_program q;
	struct insn in;

	for (unsigned off = 0; off < p->len; off += in.len) {
		if (insn_decode(p->code + off, p->len - off, INSN_MODE_64, false, NULL, &in) != INSN_OK)
			return;
		q = *p;
		memset(q.code + off, 0x66, in.len);	/* as long, and one instruction */
		q.code[off + in.len - 1] = 0x90;
		rig_run(oracle, &q, &a);
		rig_run(rig, &q, &b);
		if (off + in.len < p->len && rig_compare(p, &a, &b))
			*p = q;
	}
	rig_run(oracle, p, &a);
	rig_run(rig, p, &b);
	printf("# shrunk: %s\n", rig_compare(p, &a, &b));
}

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *s = getenv(name);

	return s ? strtoull(s, NULL, 0) : otherwise;
}

static void free_all(struct rig *oracle, struct rig *const *rig, size_t n)
{
	rig_free(oracle);
	for (size_t e = 0; e < n; e++)
		rig_free(rig[e]);
}

int main(int argc, char **argv)
{
	static const char *const engines[] = { "translate,hot=1", "translate,hot=3", "translate,hot=1,no-chain", "translate,hot=1,no-tlb" };
	uint64_t n = number("GW_LOCKSTEP", 20000), seed = number("GW_LOCKSTEP_SEED", 1);
	unsigned wrong[ARRAY_SIZE(engines)] = { 0 }, ended = 0;
	struct rig *oracle, *rig[ARRAY_SIZE(engines)];
	static struct rig_program p;
	static struct rig_result a, b;
	struct maker m = { .p = &p };
	bool verbose = argc > 1 && !strcmp(argv[1], "-v"), bad = false;

	oracle = rig_new("interp");
	for (unsigned e = 0; e < ARRAY_SIZE(engines); e++)
		rig[e] = rig_new(engines[e]);
	if (!oracle || !rig[0]) {
		printf("Bail out! no memory\n");
		return 1;
	}
	if (!rig_vcpu(rig[0])->translator) {
		printf("1..0 # SKIP no translator in this build or on this host\n");
		free_all(oracle, rig, ARRAY_SIZE(engines));
		return 0;
	}
	find_forms(rig_features(oracle));
	printf("1..%zu\n", ARRAY_SIZE(engines) + 1);
	for (uint64_t i = 0; i < n; i++, seed++) {
		make(&m, seed);
		rig_run(oracle, &p, &a);
		ended += a.vector == VEC_GP && a.rip == DIFF_CODE + p.len - 1;
		for (unsigned e = 0; e < ARRAY_SIZE(engines); e++) {
			const char *why;

			if (e && i % 4 != e)
				continue;
			rig_run(rig[e], &p, &b);
			why = rig_compare(&p, &a, &b);
			if (!why)
				continue;
			printf("# %s, seed %llu: %s\n", engines[e], (unsigned long long)seed, why);
			if (verbose) {
				shrink(oracle, rig[e], &p);
				print_program(&p);
			}
			if (++wrong[e] == 20)
				n = 0;
		}
	}
	for (unsigned e = 0; e < ARRAY_SIZE(engines); e++) {
		printf("%sok %u - the interpreter and GUESTWARD_ENGINE=%s end all programs alike\n", wrong[e] ? "not " : "", e + 1, engines[e]);
		bad |= wrong[e];
	}
	free_all(oracle, rig, ARRAY_SIZE(engines));
	/* A test in which every program dies early tests nothing. */
	printf("%sok %zu - enough programs come to their end (%u)\n", ended * 4 > n ? "" : "not ", ARRAY_SIZE(engines) + 1, ended);
	return bad || ended * 4 <= n;
}
