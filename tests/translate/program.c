/* SPDX-License-Identifier: MIT */
/* Random programs of one page. See program.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/op.h"
#include "program.h"

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

void program_forms(const bool *features)
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
	const uint8_t *choice;	/* decides first, two bytes a time; then @r does */
	size_t n_choice;
	struct rig_program *p;
	unsigned counters;
	unsigned vectors;	/* per cent of instructions that are not of the integer kind */
};

/* Below @n, at most 65536. */
static unsigned pick(struct maker *m, unsigned n)
{
	unsigned v;

	if (m->n_choice < 2)
		return below(&m->r, n);
	v = m->choice[0] | m->choice[1] << 8;
	m->choice += 2;
	m->n_choice -= 2;
	return v % n;
}

static bool maybe(struct maker *m, unsigned percent) { return pick(m, 100) < percent; }

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
	if (row->mem == M_MULTI || row->op == I_DIV || row->op == I_IDIV || maybe(m, 5))
		want |= BIT(RAX) | BIT(RDX);
	if (maybe(m, 4))
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
	bool vector = maybe(m, m->vectors);
	unsigned i = vector ? n_integer + pick(m, n_usable - n_integer) : pick(m, n_integer);
	const struct diff_form *f = &forms[usable[i]];
	struct diff_case k;
	struct insn in;

	/* What an input says of later instructions shall not depend on what it says of this one. */
	if (m->n_choice >= 2)
		m->r.s = pick(m, 65536);
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
	byte(m, 0x80 | pick(m, 16));
	word(m, 0);
	return m->p->len;
}

static void skip(struct maker *m)
{
	unsigned at = jcc(m);

	some(m, 1 + pick(m, 3));
	patch_here(m, at);
}

/* [base + disp8] or [base + disp32] */
static void operand_at(struct maker *m, unsigned reg, unsigned base, int disp)
{
	bool is_long = maybe(m, 20);

	byte(m, (is_long ? 0x80 : 0x40) | (reg & 7) << 3 | (base & 7));
	if ((base & 7) == 4)
		byte(m, 0x24);
	if (is_long)
		word(m, (uint32_t)disp);
	else
		byte(m, (uint8_t)disp);
}

/*
 * A few instructions on what lies around one pointer, some of which move it; the stack's if that is RSP. No XCHG: hosts slow down who
 * locks across cache lines.
 */
static void field(struct maker *m, unsigned base)
{
	static const uint8_t ops[] = { 0x8b, 0x8b, 0x89, 0x89, 0x01, 0x11, 0x11, 0x13, 0x13, 0x03, 0x39, 0x3b, 0x2b, 0x63, 0x33, 0x85 };
	unsigned reg = pick(m, 16), what = pick(m, 100), rex = 0x48 | (reg & 8) >> 1 | base >> 3;
	int disp = (int)pick(m, 12) * 4 - 16;

	if (reg == RSP && !maybe(m, 5))
		reg = RBP;
	if (what < 50 || (what >= 64 && what < 78 && base != RSP)) {
		byte(m, maybe(m, 70) ? rex : rex & ~8u);
		byte(m, ops[pick(m, sizeof(ops))]);
		operand_at(m, reg, base, disp);
	} else if (what < 58) {		/* MOVZX, IMUL, CMOVNZ, SETC */
		static const uint8_t second[] = { 0xb6, 0xaf, 0x45, 0x92 };

		byte(m, rex);
		byte(m, 0x0f);
		byte(m, second[pick(m, sizeof(second))]);
		operand_at(m, reg, base, disp);
	} else if (what < 64) {		/* PUSH m64, NOT m64, NEG m64 */
		static const uint8_t group[][2] = { { 0xff, 6 }, { 0xf7, 2 }, { 0xf7, 3 } };
		unsigned i = pick(m, 3);

		byte(m, rex & ~4u);
		byte(m, group[i][0]);
		operand_at(m, group[i][1], base, disp);
	} else if (what < 78) {		/* PUSH, POP */
		byte(m, 0x40 | reg >> 3);
		byte(m, (maybe(m, 60) ? 0x50 : 0x58) | (reg & 7));
	} else if (what < 84) {		/* ADD or SUB base, imm8 */
		byte(m, 0x48 | base >> 3);
		byte(m, 0x83);
		byte(m, (maybe(m, 50) ? 0xc0 : 0xe8) | (base & 7));
		byte(m, 8 * pick(m, 4));
	} else if (what < 88) {		/* LEA base, [base + disp] */
		byte(m, 0x48 | (base & 8) >> 1 | base >> 3);
		byte(m, 0x8d);
		operand_at(m, base, base, disp);
	} else if (what < 92) {		/* MOVUPS xmm, m128 and back */
		byte(m, 0x40 | (rex & 5));
		byte(m, 0x0f);
		byte(m, maybe(m, 50) ? 0x10 : 0x11);
		operand_at(m, reg, base, disp);
	} else {
		one_instruction(m);
	}
}

/* Many near the end of a page, before one that can be read only, or one that comes into being. */
static uint64_t place(struct maker *m)
{
	static const uint16_t near[] = { 0x0, 0x1000, 0x1000, 0x2000, 0x3000 };

	return DIFF_DATA + (maybe(m, 50) ? 0x100 + 8 * pick(m, 0x1c0) : near[pick(m, 5)] + 4 * pick(m, 24) - 64);
}

/* INC, DEC, ROL, SHR, SAR, MOVZX within one register: what leaves a part of the flags, or whose flags follow from little. */
static void on_register(struct maker *m)
{
	unsigned reg = pick(m, 16), what = pick(m, 6);

	if (reg == RSP)
		reg = RBP;
	byte(m, 0x48 | reg >> 3 | (what == 5 ? (reg & 8) >> 1 : 0));
	reg &= 7;
	if (what < 2) {
		byte(m, 0xff);
		byte(m, 0xc0 | what << 3 | reg);
	} else if (what < 5) {
		byte(m, 0xc1);
		byte(m, (what == 2 ? 0xc0 : what == 3 ? 0xe8 : 0xf8) | reg);
		byte(m, 1);	/* overflow is defined */
	} else {
		byte(m, 0x0f);
		byte(m, maybe(m, 50) ? 0xb6 : 0xb7);
		byte(m, 0xc0 | reg << 3 | reg);
	}
}

/* What lies around two pointers, in turns. */
static void two_objects(struct maker *m)
{
	unsigned base[2] = { maybe(m, 40) ? RSP : pick(m, 16), pick(m, 16) }, n = 4 + pick(m, 10);

	for (unsigned i = 0; i < 2; i++)
		mov_imm(m, base[i], maybe(m, 50) ? place(m) : DIFF_DATA + 0x100 + 8 * pick(m, 0x1c0));
	for (unsigned i = 0; i < n && m->p->len < RIG_CODE_MAX - 400; i++) {
		if (maybe(m, 25))
			on_register(m);
		else
			field(m, base[pick(m, 2)]);
	}
}

static void object(struct maker *m)
{
	unsigned base = maybe(m, 40) ? RSP : pick(m, 16), n = 2 + pick(m, 8);

	mov_imm(m, base, place(m));
	for (unsigned i = 0; i < n && m->p->len < RIG_CODE_MAX - 400; i++)
		field(m, base);
}

/* The counter is in memory: 1 to 20 times around. */
static void loop(struct maker *m)
{
	unsigned start, at = (unsigned)RIG_OWN + 8 * m->counters++, n = 1 + pick(m, 20);

	byte(m, 0xc7);	/* mov dword [at], n */
	byte(m, 0x04);
	byte(m, 0x25);
	word(m, at);
	word(m, n);
	start = m->p->len;
	if (maybe(m, 20))
		object(m);
	else if (maybe(m, 15))
		two_objects(m);
	else
		some(m, 1 + pick(m, 4));
	if (maybe(m, 30))
		skip(m);
	byte(m, 0xff);	/* dec dword [at] */
	byte(m, 0x0c);
	byte(m, 0x25);
	word(m, at);
	byte(m, 0x0f);	/* jnz start */
	byte(m, 0x85);
	word(m, start - (m->p->len + 4));
}

/*
 * A loop of a few steps, each of which may leave for the one after it or for the end: most branches are not taken for a while, some are; flags
 * and accesses through one pointer go on behind them.
 */
static void ladder(struct maker *m)
{
	unsigned at = (unsigned)RIG_OWN + 8 * m->counters++, n = 1 + pick(m, 20), rungs = 2 + pick(m, 4), n_outs = 0, next = 0, start, outs[5];
	unsigned base = maybe(m, 40) ? RSP : pick(m, 16);

	mov_imm(m, base, DIFF_DATA + 0x100 + 8 * pick(m, 0x1c0));
	bytes(m, "\xc7\x04\x25", 3);	/* mov dword [at], n */
	word(m, at);
	word(m, n);
	start = m->p->len;
	for (unsigned i = 0; i < rungs && m->p->len < RIG_CODE_MAX - 400; i++) {
		if (maybe(m, 50)) {
			field(m, base);
			field(m, base);
		} else {
			one_instruction(m);
		}
		if (next)
			patch_here(m, next);
		next = 0;
		if (maybe(m, 20)) {		/* on the counter: taken from some round on */
			bytes(m, "\x83\x3c\x25", 3);	/* cmp dword [at], imm8 */
			word(m, at);
			byte(m, pick(m, 10));
		}
		if (maybe(m, 50))
			next = jcc(m);
		else
			outs[n_outs++] = jcc(m);
		if (maybe(m, 20)) {		/* a jump that is followed */
			byte(m, 0xe9);
			word(m, 1);
			byte(m, 0xf4);
		}
	}
	if (next)
		patch_here(m, next);
	if (maybe(m, 50))
		while (n_outs)
			patch_here(m, outs[--n_outs]);
	bytes(m, "\xff\x0c\x25", 3);	/* dec dword [at] */
	word(m, at);
	bytes(m, "\x0f\x85", 2);	/* jnz start */
	word(m, start - (m->p->len + 4));
	while (n_outs)
		patch_here(m, outs[--n_outs]);
}

static void call_and_return(struct maker *m)
{
	unsigned call, over;

	mov_imm(m, RSP, OWN_STACK + 8 * pick(m, 16));
	byte(m, 0xe8);
	word(m, 0);
	call = m->p->len;
	byte(m, 0xe9);
	word(m, 0);
	over = m->p->len;
	patch_here(m, call);
	/* What runs inside may move the stack pointer: put it back. */
	some(m, 1 + pick(m, 2));
	mov_imm(m, RSP, OWN_STACK + 0x200);
	byte(m, 0x68);	/* push here */
	word(m, (uint32_t)DIFF_CODE + call);
	if (maybe(m, 30)) {
		byte(m, 0xc2);
		byte(m, 16);
		byte(m, 0);
	} else {
		byte(m, 0xc3);
	}
	patch_here(m, over);
}

/* As strcmp() ends: the block behind the loop reads the carry and overwrites all flags, before it could be left. */
static void carry_of_loop(struct maker *m)
{
	unsigned start, first, out, done;

	mov_imm(m, RBP, 0);
	mov_imm(m, RCX, 2 + pick(m, 30));
	byte(m, 0xe9);		/* the block at the end first, so that it is known when the loop is translated */
	word(m, 0);
	first = start = m->p->len;
	bytes(m, "\x8b\x14\x25", 3);	/* mov edx, [own] */
	word(m, (uint32_t)RIG_OWN);
	bytes(m, "\x83\xe9\x01\x83\xf9", 5);	/* sub ecx, 1; cmp ecx, n */
	byte(m, pick(m, 8));
	bytes(m, "\x0f\x82", 2);	/* jb out */
	word(m, 0);
	out = m->p->len;
	bytes(m, "\x85\xc9\x0f\x85", 4);	/* test ecx, ecx; jnz start */
	word(m, start - (m->p->len + 4));
	patch_here(m, first);
	patch_here(m, out);
	bytes(m, "\x19\xdb\x85\xed\x0f\x85", 6);	/* sbb ebx, ebx; test ebp, ebp; jnz done */
	word(m, 0);
	done = m->p->len;
	bytes(m, "\xff\xc5\xe9", 3);	/* inc ebp; jmp start */
	word(m, start - (m->p->len + 4));
	patch_here(m, done);
}

static void computed_jump(struct maker *m)
{
	unsigned reg = pick(m, 16), at;

	byte(m, 0x48 | reg >> 3);	/* mov reg, imm64 */
	byte(m, 0xb8 | (reg & 7));
	at = m->p->len;
	bytes(m, "\0\0\0\0\0\0\0", 8);
	if (maybe(m, 50) && reg != RSP) {
		mov_imm(m, RSP, OWN_STACK);
		byte(m, 0x40 | reg >> 3);
		byte(m, 0xff);
		byte(m, 0xd0 | (reg & 7));
	} else {
		byte(m, 0x40 | reg >> 3);
		byte(m, 0xff);
		byte(m, 0xe0 | (reg & 7));
	}
	if (maybe(m, 50))
		some(m, 1);
	memcpy(m->p->code + at, &(uint64_t){ here(m) }, 8);
}

static void counted_jump(struct maker *m)
{
	uint8_t *at;

	mov_imm(m, RCX, pick(m, 3));
	byte(m, 0xe0 + pick(m, 4));	/* LOOPNE, LOOPE, LOOP, JRCXZ forwards */
	byte(m, 0);
	at = m->p->code + m->p->len;
	one_instruction(m);
	at[-1] = (uint8_t)(m->p->code + m->p->len - at);
}

void program_make(struct rig_program *p, uint64_t seed, const uint8_t *choice, size_t n_choice)
{
	struct maker maker = { .r.s = seed, .choice = choice, .n_choice = n_choice, .p = p }, *m = &maker;
	struct diff_case k = { .mode = INSN_MODE_64 };
	unsigned pieces;

	p->len = 0;
	m->vectors = maybe(m, 50) ? 0 : 5 + pick(m, 90);
	diff_random_state(&m->r, &k);
	memcpy(m->p->gpr, k.gpr, sizeof(k.gpr));
	memcpy(m->p->x, k.x, sizeof(k.x));
	m->p->flags = k.flags;
	m->p->slice = maybe(m, 50) ? RIG_LONG : CPU_BLOCK_MAX + 1 + pick(m, 60);
	pieces = 1 + pick(m, MAX_PIECES);
	for (unsigned i = 0; i < pieces && m->p->len < RIG_CODE_MAX - 600; i++) {
		unsigned what = pick(m, 100);

		if (what < 45)
			some(m, 1);
		else if (what < 53)
			object(m);
		else if (what < 60)
			two_objects(m);
		else if (what < 75)
			skip(m);
		else if (what < 84)
			loop(m);
		else if (what < 90)
			ladder(m);
		else if (what < 94)
			call_and_return(m);
		else if (what < 96)
			computed_jump(m);
		else if (what < 98)
			carry_of_loop(m);
		else
			counted_jump(m);
	}
	byte(m, 0xf4);
}

void program_print(const struct rig_program *p)
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
