/* SPDX-License-Identifier: MIT */
/*
 * From a decoded instruction to a cpu_op: the part common to all families, and who of the integer families takes what.
 */
#include "cpu/interp/interp_private.h"

static uint64_t address_mask(unsigned adsize)
{
	return adsize == 8 ? ~0ull : adsize == 4 ? 0xffffffffull : 0xffffull;
}

/* Source: Intel SDM vol. 1 "Segmentation in 64-Bit Mode". */
static uint8_t segment_of(const struct insn *in)
{
	return in->mode == INSN_MODE_64 && in->seg != SEG_FS && in->seg != SEG_GS ? SEG_FLAT : in->seg;
}

/* Flat blocks vouch for these; CS is flat too but not writable. */
static bool is_flat_segment(unsigned seg)
{
	return seg == SEG_DS || seg == SEG_ES || seg == SEG_SS;
}

void cpu_lower_common(const struct insn *in, bool flat, struct cpu_op *o)
{
	o->iop = in->op;
	o->len = in->len;
	o->opsize = in->opsize;
	o->memsize = in->memsize;
	o->imm = in->imm;
	o->disp = in->disp;
	o->admask = address_mask(in->adsize);
	o->base = in->has_mem ? in->base : GPR_ZERO;
	o->index = in->has_mem ? in->index : GPR_ZERO;
	o->scale = in->scale;
	if (o->base == GPR_RIP)
		o->disp += o->off + in->len;
	o->reg = in->reg;
	o->rm = in->rm;
	o->vvvv = in->vvvv;
	o->seg = segment_of(in);
	o->flags = 0;
	if (in->mode != INSN_MODE_64 && !(flat && is_flat_segment(in->seg)))
		o->flags |= OP_CHECK_SEG;
	if (in->lock)
		o->flags |= OP_LOCK;
	if (in->rep == REP_F3)
		o->flags |= OP_REP;
	if (in->rep == REP_F2)
		o->flags |= OP_REPNE;
	if (in->has_mem && in->seg == SEG_SS)
		o->flags |= OP_STACK;
}

uint8_t int_byte_reg(const struct insn *in, unsigned n)
{
	if (!in->rex && !in->has_vex && n >= 4 && n < 8)
		return (uint8_t)((n - 4) * 8 + 1);	/* AH, CH, DH, BH */
	return (uint8_t)(n * 8);
}

enum int_kind int_operand(const struct insn *in, unsigned i, unsigned bytes, uint8_t *reg)
{
	unsigned n;

	switch (insn_rows[in->row].opnd[i]) {
	case OE_REG:
		n = in->reg;
		break;
	case OE_RM:
		if (in->has_mem)
			return K_MEM;
		n = in->rm;
		break;
	case OE_RM_REG:
	case OE_OPREG:
		n = in->rm;
		break;
	case OE_VGPR:
		n = in->vvvv;
		break;
	case OE_ACC:
		n = RAX;
		break;
	case OE_MEM:
	case OE_MOFFS:
		return K_MEM;
	case OE_IMM:
	case OE_IMM8:
	case OE_ONE:
		return K_IMM;
	case OE_CL:
		return K_CL;
	default:
		return K_NONE;
	}
	*reg = bytes == 1 ? int_byte_reg(in, n) : (uint8_t)n;
	return K_REG;
}

enum int_form int_form(const struct insn *in, struct cpu_op *o, unsigned dst, unsigned src)
{
	uint8_t d = 0, s = 0;
	enum int_kind kd = int_operand(in, 0, dst, &d), ks = int_operand(in, 1, src, &s);

	if (kd == K_REG && ks == K_MEM) {
		o->reg = d;
		return FORM_RM;
	}
	o->rm = d;
	o->reg = s;
	if (kd == K_REG)
		return ks == K_REG ? FORM_RR : ks == K_IMM ? FORM_RI : FORM_NONE;
	if (kd == K_MEM)
		return ks == K_REG ? FORM_MR : ks == K_IMM ? FORM_MI : FORM_NONE;
	return FORM_NONE;
}

static int_lower_fn *const families[N_INSN_OPS] = {
	[I_ADD] = int_lower_alu, [I_OR] = int_lower_alu, [I_ADC] = int_lower_alu, [I_SBB] = int_lower_alu,
	[I_AND] = int_lower_alu, [I_SUB] = int_lower_alu, [I_XOR] = int_lower_alu, [I_CMP] = int_lower_alu,
	[I_TEST] = int_lower_alu,
	[I_INC] = int_lower_unary, [I_DEC] = int_lower_unary, [I_NEG] = int_lower_unary, [I_NOT] = int_lower_unary,
	[I_ROL] = int_lower_shift, [I_ROR] = int_lower_shift, [I_RCL] = int_lower_shift, [I_RCR] = int_lower_shift,
	[I_SHL] = int_lower_shift, [I_SHR] = int_lower_shift, [I_SAR] = int_lower_shift,
	[I_SHLD] = int_lower_shiftd, [I_SHRD] = int_lower_shiftd,
	[I_MUL] = int_lower_muldiv, [I_IMUL] = int_lower_muldiv, [I_DIV] = int_lower_muldiv, [I_IDIV] = int_lower_muldiv,
	[I_MOV] = int_lower_mov, [I_MOVNTI] = int_lower_mov, [I_MOVDIRI] = int_lower_mov,
	[I_MOVZX] = int_lower_movx, [I_MOVSX] = int_lower_movx, [I_MOVSXD] = int_lower_movx,
	[I_LEA] = int_lower_lea,
	[I_XCHG] = int_lower_xchg, [I_XADD] = int_lower_xadd, [I_CMPXCHG] = int_lower_cmpxchg,
	[I_CMPXCHG8B] = int_lower_cmpxchg8b, [I_CMPXCHG16B] = int_lower_cmpxchg8b,
	[I_SETCC] = int_lower_cond, [I_CMOVCC] = int_lower_cond,
	[I_BT] = int_lower_bt, [I_BTS] = int_lower_bt, [I_BTR] = int_lower_bt, [I_BTC] = int_lower_bt,
	[I_BSF] = int_lower_scan, [I_BSR] = int_lower_scan, [I_TZCNT] = int_lower_scan, [I_LZCNT] = int_lower_scan,
	[I_POPCNT] = int_lower_scan,
	[I_BSWAP] = int_lower_bswap, [I_MOVBE] = int_lower_movbe, [I_CRC32] = int_lower_crc32,
	[I_ANDN] = int_lower_bmi, [I_BEXTR] = int_lower_bmi, [I_BLSI] = int_lower_bmi, [I_BLSMSK] = int_lower_bmi,
	[I_BLSR] = int_lower_bmi, [I_BZHI] = int_lower_bmi, [I_PDEP] = int_lower_bmi, [I_PEXT] = int_lower_bmi,
	[I_MULX] = int_lower_bmi, [I_RORX] = int_lower_bmi, [I_SARX] = int_lower_bmi, [I_SHLX] = int_lower_bmi,
	[I_SHRX] = int_lower_bmi,
	[I_ADCX] = int_lower_adx, [I_ADOX] = int_lower_adx,
	[I_JCC] = int_lower_branch, [I_JMP_NEAR] = int_lower_branch, [I_JMP_IND] = int_lower_branch,
	[I_CALL_NEAR] = int_lower_branch, [I_CALL_IND] = int_lower_branch, [I_RET_NEAR] = int_lower_branch,
	[I_LOOP] = int_lower_branch, [I_LOOPE] = int_lower_branch, [I_LOOPNE] = int_lower_branch, [I_JCXZ] = int_lower_branch,
	[I_PUSH] = int_lower_stack, [I_POP] = int_lower_stack, [I_PUSHA] = int_lower_stack, [I_POPA] = int_lower_stack,
	[I_ENTER] = int_lower_stack, [I_LEAVE] = int_lower_stack,
	[I_MOVS] = int_lower_string, [I_STOS] = int_lower_string, [I_LODS] = int_lower_string, [I_CMPS] = int_lower_string,
	[I_SCAS] = int_lower_string,
	[I_AAA] = int_lower_bcd, [I_AAS] = int_lower_bcd, [I_AAM] = int_lower_bcd, [I_AAD] = int_lower_bcd,
	[I_DAA] = int_lower_bcd, [I_DAS] = int_lower_bcd,
	[I_MOVDIR64B] = int_lower_movdir64b,
	[I_BOUND] = int_lower_misc, [I_XLAT] = int_lower_misc, [I_LAHF] = int_lower_misc, [I_SAHF] = int_lower_misc,
	[I_CLC] = int_lower_misc, [I_STC] = int_lower_misc, [I_CMC] = int_lower_misc, [I_CLD] = int_lower_misc,
	[I_STD] = int_lower_misc, [I_SALC] = int_lower_misc, [I_CBW] = int_lower_misc, [I_CWD] = int_lower_misc,
	[I_NOP] = int_lower_misc, [I_GRP_NOP] = int_lower_misc, [I_PREFETCH] = int_lower_misc, [I_PAUSE] = int_lower_misc,
	[I_MFENCE] = int_lower_misc, [I_LFENCE] = int_lower_misc, [I_SFENCE] = int_lower_misc, [I_CLFLUSH] = int_lower_misc,
	[I_CLFLUSHOPT] = int_lower_misc, [I_CLWB] = int_lower_misc, [I_UD0] = int_lower_misc, [I_UD1] = int_lower_misc,
	[I_UD2] = int_lower_misc,
};

bool cpu_lower_int(const struct insn *in, struct cpu_op *o)
{
	int_lower_fn *lower = families[in->op];

	o->fn = NULL;
	return lower && lower(in, o) && o->fn;
}
