/* SPDX-License-Identifier: MIT */
/*
 * What must be equal, and the reviewed list of what need not be: results that the manual leaves undefined and that the engine
 * computes in C. What the host executes for the guest is compared whole.
 * Source of the undefined flags: Intel SDM vol. 1 appendix "EFLAGS Cross-Reference" and the instruction pages.
 */
#include <stdio.h>
#include <string.h>

#include "diff.h"

#define ARITH	FLAGS_ARITH

static unsigned count_of(const struct diff_case *k, const struct insn *in)
{
	const struct insn_row *row = &insn_rows[in->row];
	unsigned mask = in->opsize == 8 ? 63 : 31, last = 0;

	for (unsigned i = 0; i < 4; i++)
		if (row->opnd[i] != OE_NONE)
			last = row->opnd[i];
	if (last == OE_CL)
		return k->gpr[RCX] & mask;
	return last == OE_ONE ? 1 : in->imm & mask;
}

/* Flags the manual leaves undefined for this execution. */
static uint32_t undefined_flags(const struct diff_case *k, const struct insn *in)
{
	unsigned n, width = in->opsize * 8u;

	switch (in->op) {
	case I_AND: case I_OR: case I_XOR: case I_TEST: case I_ANDN:
		return FLAG_AF | (in->op == I_ANDN ? FLAG_PF : 0);
	case I_SHL: case I_SHR: case I_SAR:
		n = count_of(k, in);
		return !n ? 0 : FLAG_AF | (n > 1 ? FLAG_OF : 0) | (n >= width && in->op != I_SAR ? FLAG_CF : 0);
	case I_ROL: case I_ROR: case I_RCL: case I_RCR:
		n = count_of(k, in);
		return n > 1 ? FLAG_OF : 0;
	case I_SHLD: case I_SHRD:
		n = count_of(k, in);
		return !n ? 0 : n > width ? ARITH : FLAG_AF | (n > 1 ? FLAG_OF : 0);
	case I_MUL: case I_IMUL:
		return FLAG_SF | FLAG_ZF | FLAG_AF | FLAG_PF;
	case I_DIV: case I_IDIV:
		return ARITH;
	case I_BT: case I_BTS: case I_BTR: case I_BTC:
		return FLAG_OF | FLAG_SF | FLAG_AF | FLAG_PF;
	case I_BSF: case I_BSR:
		return ARITH & ~FLAG_ZF;
	case I_LZCNT: case I_TZCNT:
		return FLAG_OF | FLAG_SF | FLAG_AF | FLAG_PF;
	case I_BEXTR:
		return FLAG_AF | FLAG_SF | FLAG_PF;
	case I_BLSI: case I_BLSMSK: case I_BLSR: case I_BZHI:
		return FLAG_AF | FLAG_PF;
	case I_AAA: case I_AAS:
		return FLAG_OF | FLAG_SF | FLAG_ZF | FLAG_PF;
	case I_AAM: case I_AAD:
		return FLAG_OF | FLAG_AF | FLAG_CF;
	case I_DAA: case I_DAS:
		return FLAG_OF;
	default:
		return 0;
	}
}

/* The destination itself is undefined. */
static bool undefined_result(const struct diff_case *k, const struct insn *in)
{
	if (in->op == I_SHLD || in->op == I_SHRD)
		return in->opsize == 2 && count_of(k, in) > 16;
	return false;
}

/*
 * What processors do differently when memory refuses, none of it promised by the manual: seen on the CPU, not imitated.
 */
#define Q_PARTLY	BIT(0)	/* stores in pieces: some may have been stored */
#define Q_WHERE		BIT(1)	/* which of the pieces is told as the faulting address, with which kind of access */
#define Q_MORE		BIT(2)	/* the CPU may touch what the operation does not need (masked-out bytes, unused components) */
#define Q_X87		BIT(3)	/* the switch to MMX state has happened already */
#define Q_FLAGS		BIT(4)	/* flags of the iterations before, which single-stepping made permanent */
#define Q_COUNT		BIT(5)	/* with a 32-bit address size Intel clears upper halves of count and addresses, fault or not */
#define Q_GPR		BIT(6)	/* registers loaded before the refused one */
#define Q_STATE		BIT(8)	/* components loaded before a bad MXCSR was seen */
#define Q_ORDER		BIT(7)	/* misalignment or a bad operand against a page fault, or the limit of SS, elsewhere in the operand: either may win */

static unsigned quirks(const struct insn *in)
{
	switch (in->op) {
	case I_FXSAVE: case I_XSAVE: case I_XSAVEC: case I_XSAVEOPT: case I_XRSTOR: case I_FXRSTOR:
		return Q_PARTLY | Q_WHERE | Q_MORE | Q_ORDER | (in->op == I_XRSTOR ? Q_STATE : 0);
	case I_FNSAVE: case I_FNSTENV: case I_FRSTOR: case I_FLDENV: case I_FSTP: case I_FBSTP: case I_FLD: case I_FBLD:
		return Q_PARTLY | Q_WHERE;	/* 80 bits are two accesses */
	case I_POPA:
		return Q_GPR;
	case I_BOUND:
		return Q_ORDER;
	case I_PUSHA: case I_ENTER: case I_CALL_IND: case I_CALL_NEAR:
		return Q_PARTLY;
	case I_MASKMOVQ:
		return Q_PARTLY | Q_WHERE | Q_MORE | Q_ORDER | Q_X87;
	case I_MASKMOVDQU: case I_VMASKMOVDQU:
		return Q_PARTLY | Q_WHERE | Q_MORE | Q_ORDER;
	case I_VMASKMOVPS: case I_VMASKMOVPD: case I_VPMASKMOVD: case I_VPMASKMOVQ:
		return Q_PARTLY | Q_WHERE | Q_ORDER;
	case I_MOVS: case I_STOS: case I_LODS:
		return Q_COUNT | Q_ORDER;	/* a limit violated by one operand, a page missing at the other */
	case I_CMPS: case I_SCAS:
		return Q_COUNT | Q_FLAGS | Q_ORDER;
	case I_MOVD: case I_MOVQ: case I_MOVNTQ:
		return Q_X87;
	default:
		return 0;
	}
}

static bool is_byte_masked(unsigned op)
{
	return op == I_MASKMOVQ || op == I_MASKMOVDQU || op == I_VMASKMOVDQU;
}

static char text[256];

static const char *differs(const char *what, uint64_t native, uint64_t engine)
{
	snprintf(text, sizeof(text), "%s: CPU %llx, engine %llx", what, (unsigned long long)native, (unsigned long long)engine);
	return text;
}

static const char *compare_bytes(const char *what, const uint8_t *n, const uint8_t *e, unsigned from, unsigned len)
{
	for (unsigned i = from; i < from + len; i++) {
		if (n[i] == e[i])
			continue;
		snprintf(text, sizeof(text), "%s byte %u: CPU %02x, engine %02x", what, i, n[i], e[i]);
		return text;
	}
	return NULL;
}

/* FIP, FDP and FOP are not compared: processors differ in when they record them, and the tester's own mode differs. */
static const char *compare_x(const struct diff_result *n, const struct diff_result *e, unsigned q)
{
	const char *w = NULL;

	if (q & Q_STATE)
		return NULL;
	if (!(q & Q_X87)) {
		w = compare_bytes("x87 control, status, tag", n->x, e->x, 0, 5);
		for (unsigned i = 0; i < 8 && !w; i++)
			w = compare_bytes("ST or MMX", n->x, e->x, 32 + 16 * i, 10);
	}
	if (!w)
		w = compare_bytes("MXCSR", n->x, e->x, 24, 4);
	if (!w)
		w = compare_bytes("XMM", n->x, e->x, 160, 256);
	return w ? w : compare_bytes("YMM upper half", n->x, e->x, 576, 256);
}

/* In stored images of the x87 state, the pointers and what hardware leaves in reserved bytes are not compared. */
static bool mem_byte_counts(const struct insn *in, const struct diff_case *k, const struct diff_result *n, const struct diff_result *e,
			    unsigned off)
{
	unsigned at = off - k->patch_off;

	switch (in->op) {
	case I_FXSAVE: case I_XSAVE: case I_XSAVEC: case I_XSAVEOPT:
		return !(at >= 5 && at < 24);
	case I_PUSHF:	/* TF, by which the tester steps */
		return (n->mem[off] ^ e->mem[off]) != 1 || off != ((n->gpr[RSP] + 1 - DIFF_DATA) & 0xffff);
	case I_FNSTENV: case I_FNSAVE:
		return in->opsize == 2 ? !(at >= 6 && at < 14) : !(at >= 12 && at < 28);
	default:
		return true;
	}
}

static const char *compare_mem(const struct diff_case *k, const struct insn *in, const struct diff_result *n, const struct diff_result *e)
{
	if (!memcmp(n->mem, e->mem, DIFF_RW_SIZE))
		return NULL;
	for (unsigned i = 0; i < DIFF_RW_SIZE; i++) {
		if (n->mem[i] == e->mem[i] || !mem_byte_counts(in, k, n, e, i))
			continue;
		snprintf(text, sizeof(text), "memory at %llx (operand%+d): CPU %02x, engine %02x", (unsigned long long)DIFF_DATA + i,
			 (int)i - (int)k->patch_off, n->mem[i], e->mem[i]);
		return text;
	}
	return NULL;
}

static const char *compare_fault(const struct diff_result *n, const struct diff_result *e, unsigned q)
{
	/* Linux reports faults beyond user space as protection violations, so that nothing of its layout shows. */
	uint32_t mask = n->cr2 >= 0x7ffffffff000ull ? ~PFEC_P : ~0u;

	if (n->vector == VEC_PF && !(q & Q_WHERE)) {
		if ((n->error ^ e->error) & mask)
			return differs("page-fault error code", n->error, e->error);
		if (n->cr2 != e->cr2)
			return differs("cr2", n->cr2, e->cr2);
	}
	return n->vector == VEC_GP && n->error != e->error ? differs("#GP error code", n->error, e->error) : NULL;
}

const char *diff_compare(const struct diff_case *k, const struct insn *in, const struct diff_result *n, const struct diff_result *e)
{
	/* TF is the tester's; RF is in the image of faults only; what follows is masked by the operation. */
	uint32_t flags = ~(uint32_t)(FLAG_TF | FLAG_RF);
	static const char *const reg[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
		"r14", "r15" };
	unsigned n_gpr = k->mode == INSN_MODE_64 ? 16 : 8, q = quirks(in) & (n->fault ? ~0u : Q_COUNT);
	const char *w = NULL;

	if (!e->done)
		return "the engine left with an exit";
	if (q & Q_WHERE && n->vector == VEC_PF && n->cr2 >= 0x7ffffffff000ull && e->fault)
		return NULL;	/* in pieces: a page fault below the canonical hole before #GP in it */
	if (q & Q_ORDER && e->fault && n->vector != e->vector &&
	    (n->vector == VEC_PF || e->vector == VEC_PF || (n->vector == VEC_GP && e->vector == VEC_SS)))
		return NULL;
	if (q & Q_MORE && (n->vector == VEC_PF || is_byte_masked(in->op)) && (!e->fault || e->vector == VEC_GP))
		return NULL;
	if (n->fault != e->fault || (n->fault && n->vector != e->vector)) {
		snprintf(text, sizeof(text), "CPU %s %u (rip %+lld), engine %s %u (rip %+lld)", n->fault ? "fault" : "no fault",
			 n->fault ? n->vector : 0, (long long)(n->rip - diff_start(k)), e->fault ? "fault" : "no fault",
			 e->fault ? e->vector : 0, (long long)(e->rip - diff_start(k)));
		return text;
	}
	if (n->rip != e->rip)
		return differs("rip", n->rip, e->rip);
	if (n->fault)
		w = compare_fault(n, e, q);
	if (w)
		return w;
	if (!n->fault)
		flags &= ~undefined_flags(k, in);
	if (q & Q_FLAGS)
		flags &= ~ARITH;
	if ((n->flags ^ e->flags) & flags)
		return differs("flags", n->flags & flags, e->flags & flags);
	if (!n->fault && undefined_result(k, in))
		return NULL;
	for (unsigned i = 0; i < n_gpr && !(q & Q_GPR); i++) {
		bool counts = i == RCX || i == RSI || i == RDI;
		uint64_t mask = counts && q & Q_COUNT && in->adsize == 4 ? 0xffffffff : ~0ull;

		if ((n->gpr[i] ^ e->gpr[i]) & mask)
			return differs(reg[i], n->gpr[i], e->gpr[i]);
	}
	w = compare_x(n, e, q);
	return w || q & Q_PARTLY ? w : compare_mem(k, in, n, e);
}
