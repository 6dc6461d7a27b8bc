/* SPDX-License-Identifier: MIT */
/* Host instructions as bytes. See emit.h. */
#include "cpu/translate/emit.h"

static bool is_extended(unsigned r)
{
	return r != HR_NONE && r & 8;
}

/* ModRM, SIB and displacement. */
static void put_rm(struct tr_emit *e, unsigned reg, const struct tr_rm *m)
{
	unsigned r = (reg & 7) << 3, mod;

	if (m->kind == RM_REG) {
		e1(e, 0xc0 | r | (m->reg & 7));
		return;
	}
	if (m->base == HR_NONE && m->index == HR_NONE) {
		e1(e, r | 4);
		e1(e, 0x25);
		e4(e, (uint32_t)m->disp);
		return;
	}
	if (m->base == HR_NONE) {
		e1(e, r | 4);
		e1(e, (unsigned)m->scale << 6 | (m->index & 7u) << 3 | 5);
		e4(e, (uint32_t)m->disp);
		return;
	}
	/* Base 5 and 13 have no form without displacement. */
	mod = !m->disp && (m->base & 7) != 5 ? 0 : m->disp == (int8_t)m->disp ? 0x40 : 0x80;
	if (m->index != HR_NONE || (m->base & 7) == 4) {
		e1(e, mod | r | 4);
		e1(e, (unsigned)m->scale << 6 | (m->index == HR_NONE ? 4u : m->index & 7u) << 3 | (m->base & 7u));
	} else {
		e1(e, mod | r | (m->base & 7u));
	}
	if (mod == 0x40)
		e1(e, (uint8_t)m->disp);
	else if (mod == 0x80)
		e4(e, (uint32_t)m->disp);
}

void e_put(struct tr_emit *e, const struct tr_enc *x)
{
	const struct tr_rm *m = &x->rm;
	bool b = m->kind == RM_REG ? is_extended(m->reg) : m->kind == RM_MEM && is_extended(m->base);
	bool i = m->kind == RM_MEM && is_extended(m->index), r = is_extended(x->reg);

	if (m->kind == RM_MEM && m->gs)
		e1(e, 0x65);
	if (x->lock)
		e1(e, 0xf0);
	if (x->vex) {
		e1(e, 0xc4);
		e1(e, (r ? 0 : 0x80) | (i ? 0 : 0x40) | (b ? 0 : 0x20) | x->map);
		e1(e, (x->w ? 0x80 : 0) | (~x->vvvv & 15u) << 3 | (x->vex_l ? 4 : 0) | x->pp);
	} else {
		if (x->p66)
			e1(e, 0x66);
		if (x->rep)
			e1(e, x->rep);
		if (x->w || r || i || b || x->rex)
			e1(e, 0x40 | (x->w ? 8 : 0) | (r ? 4 : 0) | (i ? 2 : 0) | (b ? 1 : 0));
		if (x->map >= 1 && x->map <= 3)
			e1(e, 0x0f);
		if (x->map == 2)
			e1(e, 0x38);
		if (x->map == 3)
			e1(e, 0x3a);
	}
	if (x->no_modrm) {
		e1(e, x->opcode | (m->reg & 7u));
	} else {
		e1(e, x->opcode);
		put_rm(e, x->reg, m);
	}
	memcpy(e->p, x->imm, sizeof(x->imm));
	e->p += x->n_imm;
}

void e_op(struct tr_emit *e, bool w, unsigned opcode, unsigned reg, struct tr_rm rm)
{
	struct tr_enc x = { .w = w, .opcode = (uint8_t)opcode, .reg = (uint8_t)reg, .rm = rm };

	e_put(e, &x);
}

void e_op_0f(struct tr_emit *e, bool w, unsigned opcode, unsigned reg, struct tr_rm rm)
{
	struct tr_enc x = { .w = w, .map = 1, .opcode = (uint8_t)opcode, .reg = (uint8_t)reg, .rm = rm };

	e_put(e, &x);
}

void e_alu_i(struct tr_emit *e, bool w, unsigned n, struct tr_rm rm, int32_t imm)
{
	struct tr_enc x = { .w = w, .opcode = 0x81, .reg = (uint8_t)n, .rm = rm, .n_imm = 4 };

	if (imm == (int8_t)imm) {
		x.opcode = 0x83;
		x.n_imm = 1;
	}
	memcpy(x.imm, &imm, 4);
	e_put(e, &x);
}

void e_mov_i(struct tr_emit *e, unsigned reg, uint64_t v)
{
	struct tr_enc x = { .opcode = 0xb8, .no_modrm = true, .rm = rm_reg(reg), .n_imm = 4 };

	if (v >> 32 && (int64_t)v == (int32_t)v) {
		x = (struct tr_enc){ .w = true, .opcode = 0xc7, .rm = rm_reg(reg), .n_imm = 4 };
	} else if (v >> 32) {
		x.w = true;
		x.n_imm = 8;
	}
	memcpy(x.imm, &v, 8);
	e_put(e, &x);
}

/* ROL 0, ROR 1, SHL 4, SHR 5, SAR 7. */
void e_shift_i(struct tr_emit *e, bool w, unsigned n, unsigned reg, unsigned count)
{
	struct tr_enc x = { .w = w, .opcode = 0xc1, .reg = (uint8_t)n, .rm = rm_reg(reg), .n_imm = 1, .imm = { (uint8_t)count } };

	e_put(e, &x);
}

uint32_t e_jmp(struct tr_emit *e)
{
	e1(e, 0xe9);
	e4(e, 0);
	return e_here(e) - 4;
}

uint32_t e_jcc(struct tr_emit *e, unsigned cc)
{
	e1(e, 0x0f);
	e1(e, 0x80 | cc);
	e4(e, 0);
	return e_here(e) - 4;
}

void e_patch(struct tr_emit *e, uint32_t at, uint32_t target)
{
	uint32_t rel = target - (at + 4);

	memcpy(e->start + at, &rel, 4);
}

void e_jmp_to(struct tr_emit *e, uint32_t target)
{
	e_patch(e, e_jmp(e), target);
}

void e_call_to(struct tr_emit *e, uint32_t target)
{
	e1(e, 0xe8);
	e4(e, target - (e_here(e) + 4));
}

void e_near(struct tr_emit *e, unsigned opcode, unsigned reg, const struct translator *k, const void *p)
{
	e1(e, 0x48 | (reg & 8 ? 4 : 0));
	e1(e, opcode);
	e1(e, 5 | (reg & 7) << 3);
	e4(e, (uint32_t)((uint64_t)(uintptr_t)p - (tr_rx(k, e_here(e)) + 4)));
}

void e_near32(struct tr_emit *e, unsigned opcode, unsigned reg, const struct translator *k, const void *p)
{
	e1(e, 0x40 | (reg & 8 ? 4 : 0));
	e1(e, opcode);
	e1(e, 5 | (reg & 7) << 3);
	e4(e, (uint32_t)((uint64_t)(uintptr_t)p - (tr_rx(k, e_here(e)) + 4)));
}

void e_lea_near(struct tr_emit *e, unsigned reg, const struct translator *k, const void *p)
{
	e_near(e, 0x8d, reg, k, p);
}
