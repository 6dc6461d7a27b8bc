/* SPDX-License-Identifier: MIT */
/*
 * What the decoder looks rows up in: built once from insn_rows by index.c, read-only afterwards.
 *
 * An opcode (and, where rows differ by it, ModRM.reg) leads to a short list of candidates in the order of insn.def. Every
 * condition that the encoding decides is one bit of a one-hot state word, so a candidate fits when the state has no bit that
 * the candidate does not allow: one AND.
 */
#ifndef GW_ISA_DECODE_PRIVATE_H
#define GW_ISA_DECODE_PRIVATE_H

#include "isa/insn.h"

enum {
	ST_PFX_NONE	= BIT(0),	/* mandatory prefix seen: F2 or F3 hides 66 */
	ST_PFX_66	= BIT(1),
	ST_PFX_F3	= BIT(2),
	ST_PFX_F2	= BIT(3),
	ST_W0		= BIT(4),
	ST_W1		= BIT(5),
	ST_L0		= BIT(6),
	ST_L1		= BIT(7),
	ST_MODE_16	= BIT(8),	/* shifted by enum insn_mode */
	ST_MODE_32	= BIT(9),
	ST_MODE_64	= BIT(10),
	ST_REAL		= BIT(11),
	ST_PROT		= BIT(12),
	ST_MEM		= BIT(13),
	ST_REG		= BIT(14),
	ST_REXB0	= BIT(15),
	ST_REXB1	= BIT(16),
	ST_VVVV0	= BIT(17),	/* VEX.vvvv unused (1111b) or no VEX */
	ST_VVVVX	= BIT(18),
	ST_ALL		= BIT(19) - 1,
};

struct cand {
	uint32_t allow;		/* ST_* */
	int16_t modrm;		/* exact byte, or -1 */
	uint16_t row;
	uint16_t feature;
};

/* How many bytes follow, and where the value goes. */
enum imm_kind { IMM_NONE, IMM_S8, IMM_Z8, IMM_Z16, IMM_OPSIZE /* 2 or 4, sign-extended */, IMM_FULL /* 2, 4 or 8 */, IMM_PTR, IMM_MOFFS };

/* Rule for the operand size. */
enum size_kind {
	SZ_GENERAL, SZ_D64, SZ_F64, SZ_BYTE,
	SZ_W,		/* 4, or 8 with W */
	SZ_NATIVE,	/* 8 in 64-bit mode, else 4 */
	SZ_MAX4, SZ_MMX, SZ_XMM,
	SZ_VEC, SZ_YMM,	/* 16, or the next kind with VEX.L */
	N_SIZE_KINDS,
};

#define FORM_LOCK	BIT(0)
#define FORM_REP	BIT(1)
#define FORM_VSIB	BIT(2)
#define FORM_OPREG	BIT(3)	/* rm comes from the opcode */
#define FORM_FIXSEG	BIT(4)	/* reg comes from the opcode */
#define FORM_REGONLY	BIT(5)
#define FORM_REG8	BIT(6)	/* reg names one of eight: REX.R does not extend it (MMX, segment) */
#define FORM_RM8	BIT(7)	/* the same for rm as a register (MMX, x87) */
#define FORM_SREG	BIT(8)
#define FORM_SREG_DST	BIT(9)
#define FORM_CR		BIT(10)
#define FORM_DR		BIT(11)
#define FORM_STR_DST	BIT(12)	/* only a string destination: ES, no override */
#define FORM_SPECIAL	(FORM_OPREG | FORM_FIXSEG | FORM_REGONLY | FORM_REG8 | FORM_RM8 | FORM_SREG | FORM_CR | FORM_DR | FORM_STR_DST)

/* What remains to know once the row is found. */
struct form {
	uint16_t op;
	uint16_t flags;
	uint8_t size;		/* enum size_kind */
	uint8_t imm;		/* enum imm_kind */
	uint8_t imm2;		/* one more byte follows */
	uint8_t memsize;	/* as in the row, except that "varies" is MS_VARIES */
};

#define MS_VARIES	0xF0
#define MS_STRING	0xF1	/* the operand size, although no ModRM names memory */

/* Maps of the index: 0..3 as in insn_row.map (x87 lies in 0), 4..6 the VEX maps 1..3. */
#define N_INDEX_MAPS	7

struct slot {
	uint16_t first;		/* into index.cands, or into index.by_reg if by_reg */
	uint8_t n;		/* 0: no instruction */
	bool by_reg;
	bool has_modrm;
};

struct sub_slot {
	uint16_t first;
	uint16_t n;
};

#define MAX_FORMS	2048
#define MAX_CANDS	4096
#define MAX_GROUPS	128

struct insn_index {
	struct slot slots[N_INDEX_MAPS][256];
	struct sub_slot by_reg[MAX_GROUPS][8];
	struct cand cands[MAX_CANDS];
	struct form forms[MAX_FORMS];
	unsigned n_cands, n_groups;
	bool overflow;		/* some row found no room: a test fails */
};

extern struct insn_index insn_index;

#endif
