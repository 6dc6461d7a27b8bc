/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: the decoder and the printer on any bytes, in every mode, with features taken away.
 *
 * Input: one byte of mode and "real", one byte that turns features off, then code. Checked: nothing is read beyond the bytes
 * given (the sanitizers see the exact allocation), an instruction that decodes does so again from exactly its own bytes and
 * asks for more from fewer, fields stay in their ranges.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "isa/insn.h"
#include "isa/x86.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A finding: the fuzzer and the sanitizers both catch it. */
static void require(bool ok)
{
	if (!ok)
		__builtin_trap();
}

static void check_fields(const struct insn *in)
{
	require(in->len >= 1 && in->len <= INSN_MAX_LEN);
	require(in->row < n_insn_rows && in->op == insn_rows[in->row].op);
	require(in->opsize == 1 || in->opsize == 2 || in->opsize == 4 || in->opsize == 8 || in->opsize == 16 || in->opsize == 32);
	require(in->adsize == 2 || in->adsize == 4 || in->adsize == 8);
	require(in->seg <= SEG_GS && in->base <= GPR_RIP && in->index <= GPR_ZERO && in->scale <= 3);
	require(in->reg < 16 && in->rm < 16 && in->vvvv < 16 && in->rep <= REP_F2);
	require(in->opc_off < in->len && in->modrm_off < in->len && in->imm_off < in->len);
	require(!in->lock || (in->has_mem && insn_rows[in->row].attr & IA_LOCK));
}

static void check_prefixes_of(const uint8_t *code, const struct insn *in, bool real, const bool *features)
{
	for (unsigned n = 0; n <= in->len; n++) {
		uint8_t *exact = malloc(n ? n : 1);
		struct insn again;
		enum insn_status st;

		if (!exact)
			return;
		memcpy(exact, code, n);
		st = insn_decode(exact, n, in->mode, real, features, &again);
		require(n < in->len ? st == INSN_MORE : st == INSN_OK && again.len == in->len && again.row == in->row);
		free(exact);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	bool features[N_ISA_FEATURES];
	uint8_t head[2];
	uint8_t *code;
	struct insn in;
	bool real;

	if (size < sizeof(head))
		return 0;
	memcpy(head, data, sizeof(head));
	size -= sizeof(head);
	if (size > 64)
		size = 64;
	code = malloc(size ? size : 1);
	if (!code)
		return 0;
	memcpy(code, data + sizeof(head), size);
	real = head[0] & 4;
	for (unsigned i = 0; i < N_ISA_FEATURES; i++)
		features[i] = !head[1] || i % 255 + 1 != head[1];
	if (insn_decode(code, (unsigned)size, head[0] % 3, real, features, &in) == INSN_OK) {
		char text[96];

		check_fields(&in);
		check_prefixes_of(code, &in, real, features);
		require(insn_format(&in, 0xFFFFFFFF80000000ull, text, sizeof(text)) > 0);
		require(memchr(text, '\0', sizeof(text)) != NULL);
	} else {
		require(in.len <= INSN_MAX_LEN && in.len <= size);
	}
	free(code);
	return 0;
}
