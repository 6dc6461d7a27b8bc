/* SPDX-License-Identifier: MIT */
/* What the compiler knows of one guest instruction besides its decode: how it is emitted, and what it does to flags. */
#ifndef GW_CPU_TRANSLATE_FORM_H
#define GW_CPU_TRANSLATE_FORM_H

#include "cpu/translate/private.h"

#define TF_C	0x01u
#define TF_P	0x02u
#define TF_A	0x04u
#define TF_Z	0x08u
#define TF_S	0x10u
#define TF_O	0x20u
#define TF_ALL	0x3fu

enum tr_kind {
	TK_ONE,		/* by its handler, then go on */
	TK_BAIL,	/* leave to the interpreter, which goes on from here */
	TK_NOTHING,	/* a hint */
	TK_PLAIN,	/* the same instruction on host registers and host addresses */
	TK_LEA, TK_PUSH, TK_PUSH_MEM, TK_POP, TK_LEAVE,
	TK_SYSTEM, TK_STRING, TK_X87,
	TK_BITS,	/* BT and the like whose register operand selects the word */
	TK_JCC, TK_JMP, TK_CALL, TK_LOOP, TK_JCXZ, TK_JMP_IND, TK_CALL_IND, TK_RET,
};

#define TW_0	0x01u	/* writes operand 0 */
#define TW_1	0x02u	/* writes operand 1 */
#define TW_PURE	0x04u	/* does not read operand 0 */

struct tr_insn {
	struct insn in;
	const struct insn_row *row;
	const struct cpu_op *op;
	uint64_t rip;
	uint8_t exit;		/* a branch inside the unit: 1 + the number of the way out; */
	bool is_inverted;	/* which is the way of the branch not taken */
	uint8_t kind;
	uint8_t writes;		/* TW_* */
	uint8_t need;		/* flags it reads */
	uint8_t kill;		/* flags it sets whatever they were */
	bool touch;		/* changes flags, perhaps depending on what they were */
	uint8_t vec;		/* vector registers it uses: 1 XMM, 2 YMM */
	bool may_fault;		/* raises a host exception of its own: DIV */
	uint8_t live;		/* flags that are read after it */
	uint8_t shown;		/* flags that may be seen after it: the unit may be left before they are set again */
	bool spill;		/* the unit may be left here, and the flags are nowhere else */
	bool keeps;		/* its operand is put to vcpu.tr_kept before it */
	bool from_cc;		/* the flags that it leaves alone are looked for in c->cc */
	uint32_t recipe;	/* what makes the flags before it; 0: c->cc has them */
};

/* False: the bytes are no instruction. */
bool tr_classify(const struct cpu_block *b, unsigned k, const bool *features, struct tr_insn *t);
/* What the code of a block does with the flags it finds. */
struct tr_found {
	uint8_t wanted;		/* reads them before it sets them */
	bool is_shown;		/* the block may be left before it has set all */
	uint32_t changed;	/* registers it may have changed by then */
};
struct tr_found tr_flags_found(const struct cpu_block *b, const bool *features);	/* flags.c */
/* Flags live before an instruction, from those live after it. */
static inline uint8_t tr_live_before(const struct tr_insn *t) { return t->spill ? TF_ALL : (uint8_t)((t->live & ~t->kill) | t->need); }

#endif
