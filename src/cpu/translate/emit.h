/* SPDX-License-Identifier: MIT */
/*
 * Host instructions by their encoding: a cursor, one general form (struct tr_enc) and shorthands for what is used everywhere.
 * No knowledge of guests or units. Source: Intel SDM vol. 2 "Instruction Format".
 */
#ifndef GW_CPU_TRANSLATE_EMIT_H
#define GW_CPU_TRANSLATE_EMIT_H

#include <string.h>

#include "cpu/translate/private.h"

struct tr_emit {
	uint8_t *p;		/* next byte, in the writable mapping */
	uint8_t *start;		/* offset 0 of the code */
};

static inline uint32_t e_here(const struct tr_emit *e) { return (uint32_t)(e->p - e->start); }
static inline void e1(struct tr_emit *e, unsigned v) { *e->p++ = (uint8_t)v; }
static inline void e4(struct tr_emit *e, uint32_t v) { memcpy(e->p, &v, 4); e->p += 4; }
static inline void e8(struct tr_emit *e, uint64_t v) { memcpy(e->p, &v, 8); e->p += 8; }

/* The r/m operand: a register, or [base + index << scale + disp], perhaps in GS. */
struct tr_rm {
	enum { RM_REG, RM_MEM } kind;
	bool gs;
	uint8_t reg;
	uint8_t base, index, scale;	/* HR_NONE: absent */
	int32_t disp;
};
static inline struct tr_rm rm_reg(unsigned r) { return (struct tr_rm){ .kind = RM_REG, .reg = (uint8_t)r, .base = HR_NONE, .index = HR_NONE }; }
static inline struct tr_rm rm_mem(unsigned base, int32_t disp)
{
	return (struct tr_rm){ .kind = RM_MEM, .base = (uint8_t)base, .index = HR_NONE, .disp = disp };
}
static inline struct tr_rm rm_sib(unsigned base, unsigned index, unsigned scale, int32_t disp)
{
	return (struct tr_rm){ .kind = RM_MEM, .base = (uint8_t)base, .index = (uint8_t)index, .scale = (uint8_t)scale, .disp = disp };
}
static inline struct tr_rm rm_gs(size_t off) { return (struct tr_rm){ .kind = RM_MEM, .gs = true, .base = HR_NONE, .index = HR_NONE, .disp = (int32_t)off }; }
static inline struct tr_rm rm_gs_at(size_t off, unsigned base)
{
	return (struct tr_rm){ .kind = RM_MEM, .gs = true, .base = (uint8_t)base, .index = HR_NONE, .disp = (int32_t)off };
}
#define RM_VCPU(field) rm_gs(offsetof(struct vcpu, field))

struct tr_enc {
	bool p66, lock, w, rex, vex;	/* rex: a REX prefix even if it says nothing (SPL..DIL) */
	uint8_t rep;			/* F2, F3 or 0 */
	uint8_t map, opcode;		/* map: 0, 1, 2, 3; 4: x87, no escape */
	uint8_t vvvv, vex_l, pp;
	uint8_t reg;
	bool no_modrm;			/* register in the opcode, or none: rm.reg */
	struct tr_rm rm;
	uint8_t n_imm, imm[8];
};

/* emit.c */
void e_put(struct tr_emit *e, const struct tr_enc *x);
/* Opcode with ModRM, 32- or 64-bit. */
void e_op(struct tr_emit *e, bool w, unsigned opcode, unsigned reg, struct tr_rm rm);
void e_op_0f(struct tr_emit *e, bool w, unsigned opcode, unsigned reg, struct tr_rm rm);
/* Group 1 with an immediate: ADD 0, OR 1, ADC 2, SBB 3, AND 4, SUB 5, XOR 6, CMP 7. */
void e_alu_i(struct tr_emit *e, bool w, unsigned n, struct tr_rm rm, int32_t imm);
void e_mov_i(struct tr_emit *e, unsigned reg, uint64_t v);
void e_shift_i(struct tr_emit *e, bool w, unsigned n, unsigned reg, unsigned count);

/* Any opcode on what lies near the code, which is addressed from the executable mapping. */
void e_near(struct tr_emit *e, unsigned opcode, unsigned reg, const struct translator *k, const void *p);
/* The same for 32-bit values, MOV either way (8B, 89). */
void e_near32(struct tr_emit *e, unsigned opcode, unsigned reg, const struct translator *k, const void *p);
void e_lea_near(struct tr_emit *e, unsigned reg, const struct translator *k, const void *p);

static inline void e_load(struct tr_emit *e, unsigned reg, struct tr_rm rm) { e_op(e, true, 0x8b, reg, rm); }
static inline void e_store(struct tr_emit *e, struct tr_rm rm, unsigned reg) { e_op(e, true, 0x89, reg, rm); }
static inline void e_lea(struct tr_emit *e, bool w, unsigned reg, struct tr_rm rm) { e_op(e, w, 0x8d, reg, rm); }
static inline void e_mov(struct tr_emit *e, unsigned to, unsigned from) { e_op(e, true, 0x8b, to, rm_reg(from)); }

/* Jumps with a rel32; the offset of the rel32 is returned, to be set later. */
uint32_t e_jmp(struct tr_emit *e);
uint32_t e_jcc(struct tr_emit *e, unsigned cc);
void e_jmp_to(struct tr_emit *e, uint32_t target);
void e_call_to(struct tr_emit *e, uint32_t target);
void e_patch(struct tr_emit *e, uint32_t at, uint32_t target);
static inline void e_patch_here(struct tr_emit *e, uint32_t at) { e_patch(e, at, e_here(e)); }
enum { CC_O, CC_NO, CC_B, CC_AE, CC_E, CC_NE, CC_BE, CC_A, CC_S, CC_NS, CC_P, CC_NP, CC_L, CC_GE, CC_LE, CC_G };

#endif
