/* SPDX-License-Identifier: MIT */
/*
 * Random bytes as instructions, in the engine against the host CPU (tests/diff). The input is 16-byte groups: a byte of mode and
 * choices, then 15 of code; the first eight bytes also seed the state. What the decoder refuses is not run: the CPU may know it.
 * What the decoder accepts must do the same on both, #UD included. Aborts on a difference.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "diff.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define GROUP	16u

/* Put the memory operand at @target, if a register can do it. */
static void aim(struct diff_case *k, const struct insn *in, uint64_t target)
{
	uint64_t index = in->index < 16 && !(insn_rows[in->row].attr & IA_VSIB) ? k->gpr[in->index] << in->scale : 0;

	if (in->seg == SEG_GS && in->mode == INSN_MODE_64)
		target -= DIFF_GS_BASE;
	if (in->base < 16 && in->base != in->index)
		k->gpr[in->base] = target - index - (uint64_t)in->disp;
}

static bool is_locked(const struct insn *in)
{
	return in->lock || (in->op == I_XCHG && in->has_mem);
}

/* Bytes at random are mostly one-byte opcodes: the choices lead some of them to the other maps. */
static void steer(uint8_t choice, uint8_t code[INSN_MAX_LEN])
{
	static const uint8_t pfx[4] = { 0x0f, 0x66, 0xf3, 0xf2 };

	switch (choice >> 1 & 3) {
	case 1:
		code[0] = pfx[choice >> 3 & 3];
		if (choice >> 3 & 3)
			code[1] = 0x0f;
		break;
	case 2:
		code[0] = choice & 8 ? 0x66 : 0x40 | (code[0] & 15);
		code[1] = 0x0f;
		code[2] = choice & 16 ? 0x38 : 0x3a;
		break;
	case 3:
		code[0] = 0xc4;
		code[1] = (uint8_t)(code[1] & 0xe0) | (uint8_t)(1 + code[1] % 3);
		if (choice & 8)
			code[2] = (uint8_t)(code[2] & ~2u) | 1;	/* the 66 column */
		break;
	default:
		break;
	}
}

/* False: not to be run. */
static bool make_case(const uint8_t *g, struct rng *r, struct diff_case *k, struct insn *in)
{
	uint8_t code[INSN_MAX_LEN];
	const struct insn_row *row;
	uint64_t target;

	memcpy(code, g + 1, sizeof(code));
	steer(g[0], code);
	memset(k, 0, sizeof(*k));
	k->mode = g[0] & 1 ? INSN_MODE_32 : INSN_MODE_64;
	if (insn_decode(code, sizeof(code), k->mode, false, diff_features(), in) != INSN_OK)
		return false;
	row = &insn_rows[in->row];
	if (diff_is_excluded(in->op) || in->seg == SEG_FS)
		return false;
	memset(k->code, 0xf4, sizeof(k->code));
	memcpy(k->code, code, in->len);
	k->len = in->len;
	k->restarts = in->rep != REP_NONE || row->attr & IA_VSIB;
	diff_random_state(r, k);
	target = DIFF_DATA + below(r, DIFF_DATA_SIZE - 64);
	if (is_locked(in))
		target &= ~63ull;	/* the host may punish split locks */
	k->gpr[RSP] = DIFF_DATA + 256 + 8 * below(r, 900);
	if (row->mem == M_STRING) {
		k->gpr[RSI] = target;
		k->gpr[RDI] = DIFF_DATA + below(r, DIFF_RW_SIZE);
		k->gpr[RCX] = below(r, 24);
	}
	aim(k, in, target);
	if (is_locked(in) && (in->base >= 16 || in->base == in->index))
		return false;
	switch (in->op) {
	case I_XSAVE: case I_XSAVEC: case I_XSAVEOPT: case I_XRSTOR:
		if (in->base == RAX || in->index == RAX || in->base == RDX || in->index == RDX)
			return false;
		k->gpr[RAX] &= 7;	/* the CPU may have components that the engine has not */
		k->gpr[RDX] = 0;
		break;
	case I_BT: case I_BTS: case I_BTR: case I_BTC:
		if (is_locked(in))
			return false;
		break;
	default:
		break;
	}
	if (k->mode != INSN_MODE_64)
		for (unsigned i = 0; i < 16; i++)
			k->gpr[i] &= 0xffffffff;
	return true;
}

/* A random address may hit something that the child has mapped, a sanitizer's shadow above all; not near our pages. */
static bool may_hit_the_host(const struct diff_result *e)
{
	return e->fault && e->vector == VEC_PF && e->cr2 - (DIFF_DATA - 4096) >= DIFF_DATA_SIZE + 8192 &&
	       e->cr2 - (DIFF_CODE - 4096) >= 3 * 4096;
}

static void report(const struct diff_case *k, const struct insn *in, const char *why)
{
	char name[96];

	insn_format(in, diff_start(k), name, sizeof(name));
	fprintf(stderr, "%s%s [", name, k->mode == INSN_MODE_64 ? "" : " 32-bit");
	for (unsigned i = 0; i < k->len; i++)
		fprintf(stderr, "%s%02x", i ? " " : "", k->code[i]);
	fprintf(stderr, "]: %s\n", why);
	abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct diff_case k[DIFF_BATCH];
	static struct diff_result native[DIFF_BATCH], engine;
	static struct insn in[DIFF_BATCH];
	static bool ready;
	struct rng r = { 0 };
	unsigned n = 0;

	if (!ready && (diff_native_init() || diff_engine_init())) {
		fprintf(stderr, "cannot set up\n");
		exit(1);
	}
	ready = true;
	if (size < 8)
		return 0;
	memcpy(&r.s, data, 8);
	for (size_t at = 0; at + GROUP <= size && n < DIFF_BATCH; at += GROUP)
		n += make_case(data + at, &r, &k[n], &in[n]);
	if (!n)
		return 0;
	diff_native_run(k, native, n);
	for (unsigned i = 0; i < n; i++) {
		const char *why;

		if (!native[i].done)
			continue;
		diff_engine_run(&k[i], &engine, chance(&r, 50));
		why = diff_compare(&k[i], &in[i], &native[i], &engine);
		if (why && !may_hit_the_host(&engine))
			report(&k[i], &in[i], why);
	}
	return 0;
}
