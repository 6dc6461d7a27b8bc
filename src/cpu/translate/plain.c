/* SPDX-License-Identifier: MIT */
/*
 * Data instructions: the guest's own opcode on host registers, its memory operand at the host address that the probe found;
 * and the stack. Whatever is written back to c->gpr[] is written after the last host instruction that can fault.
 */
#include "cpu/translate/compile.h"

static struct tr_rm gpr_slot(unsigned guest)
{
	return rm_gs(offsetof(struct vcpu, gpr) + 8 * guest);
}

/* ---- operands in registers ------------------------------------------------------------------------------------------------- */

struct operands {
	struct { uint8_t guest, host; bool is_written; } spilled[3];
	unsigned n;
	uint8_t pool[3];		/* scratch registers left */
	unsigned n_pool;
};

static void pool_add(struct operands *s, unsigned reg)
{
	s->pool[s->n_pool++] = (uint8_t)reg;
}

/* A scratch register for @guest: that which holds it, or one that holds nothing, or the last. */
static unsigned take(struct tr_compiler *x, struct operands *s, unsigned guest)
{
	unsigned at = s->n_pool - 1, host;

	for (unsigned i = 0; i < s->n_pool; i++) {
		if (x->held[s->pool[i] - HR_9] == guest) {
			at = i;
			break;
		}
		if (!tr_is_held(x, s->pool[i]))
			at = i;
	}
	host = s->pool[at];
	s->pool[at] = s->pool[--s->n_pool];
	if (x->held[host - HR_9] != guest)
		tr_held_drop(x, host);
	return host;
}

/* The host register of an operand. One guest register is one host register, however often it is named. */
static unsigned operand(struct tr_compiler *x, struct operands *s, unsigned guest, bool read, bool written)
{
	unsigned home = tr_home[guest], i;

	if (home != HR_NONE)
		return home;
	for (i = 0; i < s->n && s->spilled[i].guest != guest; i++)
		;
	if (i == s->n) {
		s->spilled[i].guest = (uint8_t)guest;
		s->spilled[i].host = (uint8_t)take(x, s, guest);
		s->spilled[i].is_written = false;
		s->n++;
	}
	if (read && x->held[s->spilled[i].host - HR_9] != guest) {
		e_load(&x->e, s->spilled[i].host, gpr_slot(guest));
		tr_held_set(x, s->spilled[i].host, guest);
	}
	s->spilled[i].is_written |= written;
	return s->spilled[i].host;
}

static void write_back(struct tr_compiler *x, const struct operands *s)
{
	for (unsigned i = 0; i < s->n; i++)
		if (s->spilled[i].is_written) {
			e_store(&x->e, gpr_slot(s->spilled[i].guest), s->spilled[i].host);
			tr_held_set(x, s->spilled[i].host, s->spilled[i].guest);
		}
}

/* ---- the instruction ------------------------------------------------------------------------------------------------------------ */

static void prefixes(const struct tr_insn *t, struct tr_enc *q)
{
	static const uint8_t pp[] = { 0, 0x66, 0xf3, 0xf2 };
	const struct insn *in = &t->in;

	q->w = in->rex_w;
	q->map = t->row->map & 15;
	q->opcode = in->bytes[in->opc_off];
	if (in->has_vex) {
		q->vex = true;
		q->vex_l = in->vex_l;
		while (q->pp < 3 && pp[q->pp] != t->row->pfx)
			q->pp++;
		return;
	}
	q->p66 = in->pfx66;
	q->lock = in->lock;
	q->rex = in->rex;
	if (t->row->pfx == 0xf2 || t->row->pfx == 0xf3)
		q->rep = (uint8_t)t->row->pfx;
}

static void immediate(const struct insn *in, struct tr_enc *q)
{
	if (!in->imm_off)
		return;
	q->n_imm = (uint8_t)(in->len - in->imm_off);
	memcpy(q->imm, in->bytes + in->imm_off, q->n_imm);
}

/* MOV between the accumulator and an absolute address has no form with ModRM: use that of the general MOV. */
static void from_moffs(struct tr_enc *q)
{
	static const uint8_t opcode[4] = { 0x8a, 0x8b, 0x88, 0x89 };

	q->opcode = opcode[q->opcode & 3];
	q->reg = RAX;
	q->n_imm = 0;
}

/* Is operand @i a byte? CRC32 has one beside a register of another size, and so have MOVZX and MOVSX. */
static bool is_byte(const struct tr_insn *t, unsigned i)
{
	unsigned enc = t->row->opnd[i];

	if (t->row->attr & IA_BYTE)
		return t->in.op != I_CRC32 || enc != OE_REG;
	return (t->in.op == I_MOVZX || t->in.op == I_MOVSX) && t->row->memsize == 1 && enc == OE_RM;
}

/* Operand @i, guest register @n. AH, CH, DH and BH are where they are. */
static unsigned numbered(struct tr_compiler *x, const struct tr_insn *t, struct operands *s, unsigned i, unsigned n)
{
	bool written = (i == 0 && t->writes & TW_0) || (i == 1 && t->writes & TW_1);
	bool read = !(t->writes & TW_PURE && written);

	if (n >= 4 && n < 8 && !t->in.rex && !t->in.has_vex && is_byte(t, i))
		return n;
	return operand(x, s, n, read, written);
}

static void registers(struct tr_compiler *x, const struct tr_insn *t, struct tr_enc *q, struct operands *s)
{
	for (unsigned i = 0; i < ARRAY_SIZE(t->row->opnd); i++) {
		switch (t->row->opnd[i]) {
		case OE_REG:
			q->reg = (uint8_t)numbered(x, t, s, i, t->in.reg);
			break;
		case OE_RM:
		case OE_RM_REG:
			if (!t->in.has_mem)
				q->rm = rm_reg(numbered(x, t, s, i, t->in.rm));
			break;
		case OE_OPREG:
			q->rm = rm_reg(numbered(x, t, s, i, t->in.rm));
			q->no_modrm = true;
			q->opcode &= 0xf8;
			break;
		case OE_VREG:
			q->reg = t->in.reg;
			break;
		case OE_VRM:
		case OE_VRM_REG:
			if (!t->in.has_mem)
				q->rm = rm_reg(t->in.rm);
			break;
		case OE_VVVV:
			q->vvvv = t->in.vvvv;
			break;
		case OE_VGPR:
			q->vvvv = (uint8_t)numbered(x, t, s, i, t->in.vvvv);
			break;
		case OE_MOFFS:
			from_moffs(q);
			break;
		default:
			break;
		}
	}
}

static unsigned spilled_operands(const struct tr_insn *t)
{
	unsigned n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(t->row->opnd); i++) {
		unsigned enc = t->row->opnd[i];
		bool rm = !t->in.has_mem && (enc == OE_RM || enc == OE_RM_REG || enc == OE_OPREG);

		n += (enc == OE_REG && tr_home[t->in.reg] == HR_NONE) || (enc == OE_VGPR && tr_home[t->in.vvvv] == HR_NONE) ||
		     (rm && tr_home[t->in.rm] == HR_NONE);
	}
	return n;
}

/* Scratch registers that the operand in memory leaves; that of a group only if there are no others. */
static void free_registers(struct tr_compiler *x, const struct tr_insn *t, const struct tr_rm *m, struct operands *s)
{
	bool is_mem = m->kind == RM_MEM, r9 = !is_mem || m->base != HR_9, r10 = !is_mem || (m->base != HR_10 && m->index != HR_10);

	unsigned wanted = spilled_operands(t);

	if (x->second.active && r10 && (unsigned)r9 + !x->group.active < wanted)
		x->second.active = false;
	r10 = r10 && !x->second.active;
	if (x->group.active && (unsigned)r9 + r10 < wanted) {
		x->group.active = false;
		tr_held_drop(x, HR_11);
	}
	if (!x->group.active && !(is_mem && m->base == HR_11))
		pool_add(s, HR_11);
	if (r9)
		pool_add(s, HR_9);
	if (r10)
		pool_add(s, HR_10);
}

void tr_plain(struct tr_compiler *x, const struct tr_insn *t)
{
	struct tr_enc q = { .rm = rm_reg(0) };
	struct operands s = { .n = 0 };

	prefixes(t, &q);
	immediate(&t->in, &q);
	if (t->row->ext >= 0)
		q.reg = (uint8_t)t->row->ext;
	if (x->vec < t->vec) {
		tr_flags_spill(x, t);
		tr_vec_need(x, t);
	}
	if (t->in.has_mem) {
		q.rm = tr_operand(x, t, t->in.memsize, t->row->mem != M_R);
		if (q.rm.base == HR_9 && q.rm.index == HR_10 && (x->group.active || spilled_operands(t) > 1)) {
			e_lea(&x->e, true, HR_9, q.rm);
			q.rm = rm_mem(HR_9, 0);
		} else if (q.rm.base == HR_11 && q.rm.index == HR_10 && spilled_operands(t) > 1) {
			e_lea(&x->e, true, HR_10, q.rm);
			q.rm = rm_mem(HR_10, 0);
		}
	}
	q.no_modrm = !t->in.has_mem && !t->in.has_modrm;
	free_registers(x, t, &q.rm, &s);
	tr_flags_need(x, t, s.pool[s.n_pool - 1]);
	registers(x, t, &q, &s);
	if (t->keeps)
		e_store(&x->e, RM_VCPU(tr_kept), q.rm.reg);
	if (t->in.has_mem || t->may_fault)
		tr_may_fault(x);
	e_put(&x->e, &q);
	write_back(x, &s);
	tr_flags_done(x, t);
}

/* The byte register of a guest register; with a REX prefix, which is there for the destination. */
static struct tr_rm low_byte_of(unsigned guest)
{
	return tr_home[guest] == HR_NONE ? gpr_slot(guest) : rm_reg(tr_home[guest]);
}

/* Into r9: the operand's address and 32 bytes for every 256 bits. */
static void address_of_bits(struct tr_compiler *x, const struct tr_insn *t)
{
	struct tr_addr a = tr_address(x, t);
	struct tr_emit *e = &x->e;

	if (a.is_const)
		e_mov_i(e, HR_9, a.la);
	else
		e_lea(e, true, HR_9, rm_mem(a.base, a.disp));
	if (t->in.opsize == 8)
		e_mov(e, HR_11, tr_reg(x, t->in.reg, HR_11));
	else
		e_op(e, true, 0x63, HR_11, tr_home[t->in.reg] == HR_NONE ? gpr_slot(t->in.reg) : rm_reg(tr_home[t->in.reg]));
	e_shift_i(e, true, 7, HR_11, 8);
	e_shift_i(e, true, 4, HR_11, 5);
	e_lea(e, true, HR_9, rm_sib(HR_9, HR_11, 0, 0));
}

/*
 * Bit @b of the string at the operand's address lies in the 32 bytes at 32 * (b >> 8), where the host's instruction finds it
 * with the lowest 8 bits of b. So no flag is touched between the probe and the instruction.
 */
void tr_bits(struct tr_compiler *x, const struct tr_insn *t)
{
	struct tr_enc q = { .reg = HR_11 };
	struct tr_rm m;

	tr_flags_spill(x, t);
	x->in_host = false;
	address_of_bits(x, t);
	m = tr_probe(x, (struct tr_addr){ .base = HR_9 }, 32, t->row->mem != M_R, HR_11);
	tr_flags_need(x, t, HR_11);
	prefixes(t, &q);
	q.rm = m;
	e_op_0f(&x->e, false, 0xb6, HR_11, low_byte_of(t->in.reg));
	tr_may_fault(x);
	e_put(&x->e, &q);
	tr_flags_done(x, t);
}

/* ---- the stack ---------------------------------------------------------------------------------------------------------------------- */

static void move_sp(struct tr_compiler *x, int32_t by)
{
	e_lea(&x->e, true, HR_15, rm_mem(HR_15, by));
}

void tr_push(struct tr_compiler *x, const struct tr_insn *t)
{
	struct tr_rm m;

	m = tr_stack(x, t, -8, true);
	if (t->row->opnd[0] == OE_IMM || t->row->opnd[0] == OE_IMM8) {
		struct tr_enc q = { .w = true, .opcode = 0xc7, .rm = m, .n_imm = 4 };
		int32_t v = (int32_t)t->in.imm;

		memcpy(q.imm, &v, 4);
		tr_may_fault(x);
		e_put(&x->e, &q);
	} else {
		unsigned reg = tr_reg(x, t->in.rm, HR_9);

		tr_may_fault(x);
		e_store(&x->e, m, reg);
	}
	move_sp(x, -8);
}

void tr_push_mem(struct tr_compiler *x, const struct tr_insn *t)
{
	struct tr_rm m;

	tr_flags_spill(x, t);
	m = tr_operand(x, t, 8, false);
	tr_may_fault(x);
	e_load(&x->e, HR_9, m);
	if (!tr_group_has(x, RSP, -8, 8, true, &m))
		m = tr_probe(x, (struct tr_addr){ .base = HR_15, .disp = -8 }, 8, true, HR_11);
	tr_may_fault(x);
	e_store(&x->e, m, HR_9);
	move_sp(x, -8);
}

/* POP of SP itself: the value wins. */
void tr_pop(struct tr_compiler *x, const struct tr_insn *t)
{
	unsigned home = tr_home[t->in.rm], to = home == HR_NONE ? HR_9 : home;
	struct tr_rm m = tr_stack(x, t, 0, false);

	tr_may_fault(x);
	e_load(&x->e, to, m);
	if (to != HR_15)
		move_sp(x, 8);
	if (home == HR_NONE) {
		e_store(&x->e, gpr_slot(t->in.rm), to);
		tr_held_set(x, to, t->in.rm);
	}
}

void tr_leave_frame(struct tr_compiler *x, const struct tr_insn *t)
{
	struct tr_rm m;

	tr_flags_spill(x, t);
	m = tr_probe(x, (struct tr_addr){ .base = HR_BP }, 8, false, HR_11);
	tr_may_fault(x);
	e_load(&x->e, HR_11, m);
	e_lea(&x->e, true, HR_15, rm_mem(HR_BP, 8));
	e_mov(&x->e, HR_BP, HR_11);
}
