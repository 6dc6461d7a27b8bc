/* SPDX-License-Identifier: MIT */
/*
 * Alignment checking (#AC): with CR0.AM and EFLAGS.AC, at CPL 3. Code that has it on runs one instruction at a time, and this
 * looks at the operands before: so nothing else in the engine knows of it. Not checked: operands of 16 bytes and more, which
 * processors do not check either unless they must be aligned anyway, and those of several parts (far pointers). Misalignment
 * is found before pages are.
 * Source: Intel SDM vol. 3 "Interrupt 17: Alignment Check Exception (#AC)".
 */
#include "cpu/align.h"

#include "cpu/block.h"
#include "cpu/op.h"

static bool is_aligned(uint64_t la, unsigned size)
{
	if (size == 10)
		size = 8;
	return (size != 2 && size != 4 && size != 8) || !(la & (size - 1));
}

static uint64_t truncate(uint64_t ea, unsigned adsize)
{
	return adsize == 8 ? ea : adsize == 4 ? (uint32_t)ea : (uint16_t)ea;
}

static uint64_t operand(const struct vcpu *c, const struct insn *in)
{
	uint64_t ea = (uint64_t)in->disp;

	if (in->base == GPR_RIP)
		ea += c->rip + in->len;
	else if (in->base < 16)
		ea += c->gpr[in->base];
	if (in->index < 16)
		ea += c->gpr[in->index] << in->scale;
	return truncate(ea, in->adsize) + c->seg_base[in->seg];
}

static bool has(const struct insn_row *row, unsigned enc)
{
	return row->opnd[0] == enc || row->opnd[1] == enc;
}

static bool strings_are_aligned(const struct vcpu *c, const struct insn *in, const struct insn_row *row)
{
	if ((in->rep != REP_NONE && !truncate(c->gpr[RCX], in->adsize)) || row->attr & IA_BYTE)
		return true;
	return (!has(row, OE_STR_SRC) || is_aligned(truncate(c->gpr[RSI], in->adsize) + c->seg_base[in->seg], in->opsize)) &&
	       (!has(row, OE_STR_DST) || is_aligned(truncate(c->gpr[RDI], in->adsize) + c->seg_base[SEG_ES], in->opsize));
}

bool cpu_is_aligned(const struct vcpu *c, const struct insn *in)
{
	const struct insn_row *row = &insn_rows[in->row];
	uint64_t sp = c->gpr[RSP];

	switch (row->mem) {
	case M_STRING:
		return strings_are_aligned(c, in, row);
	case M_PUSH:
	case M_POP:
		if (in->op == I_LEAVE)
			sp = c->gpr[RBP];
		if (!is_aligned(sp + c->seg_base[SEG_SS], in->opsize))
			return false;
		return !in->has_mem || is_aligned(operand(c, in), in->opsize);
	case M_R:
	case M_W:
	case M_RW:
		return !in->has_mem || row->attr & IA_VSIB || is_aligned(operand(c, in), in->memsize);
	default:
		return true;
	}
}
