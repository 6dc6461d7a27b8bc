/* SPDX-License-Identifier: MIT */
/*
 * Which instructions are emitted, and as what. A row of the table below is an allow-list, like the decoder's: an operation
 * without a row is executed by its handler.
 *
 * Flags the manual leaves undefined count as set only where no processor lets them depend on what they were.
 */
#include <string.h>

#include "cpu/translate/form.h"

#define COND	0x80u		/* needs what the condition in the opcode reads */
#define KEEP	0x40u		/* a count of zero keeps all flags: nothing is killed unless the count is a constant */

struct form_row { uint8_t kind, writes, need, kill; bool touch; };

#define ARITH	TF_ALL, true
#define KEEPS	0, false
static const struct form_row rows[N_INSN_OPS] = {
	[I_ADD] = { TK_PLAIN, TW_0, 0, ARITH }, [I_OR] = { TK_PLAIN, TW_0, 0, ARITH }, [I_AND] = { TK_PLAIN, TW_0, 0, ARITH },
	[I_SUB] = { TK_PLAIN, TW_0, 0, ARITH }, [I_XOR] = { TK_PLAIN, TW_0, 0, ARITH }, [I_CMP] = { TK_PLAIN, 0, 0, ARITH },
	[I_TEST] = { TK_PLAIN, 0, 0, ARITH }, [I_NEG] = { TK_PLAIN, TW_0, 0, ARITH },
	[I_ADC] = { TK_PLAIN, TW_0, TF_C, ARITH }, [I_SBB] = { TK_PLAIN, TW_0, TF_C, ARITH },
	[I_INC] = { TK_PLAIN, TW_0, 0, TF_ALL & ~TF_C, true }, [I_DEC] = { TK_PLAIN, TW_0, 0, TF_ALL & ~TF_C, true },
	[I_NOT] = { TK_PLAIN, TW_0, 0, KEEPS },
	[I_MUL] = { TK_PLAIN, 0, 0, ARITH }, [I_IMUL] = { TK_PLAIN, TW_0, 0, ARITH },
	[I_DIV] = { TK_PLAIN, 0, 0, 0, true }, [I_IDIV] = { TK_PLAIN, 0, 0, 0, true },
	[I_ROL] = { TK_PLAIN, TW_0, 0, 0, true }, [I_ROR] = { TK_PLAIN, TW_0, 0, 0, true },
	[I_RCL] = { TK_PLAIN, TW_0, TF_C, 0, true }, [I_RCR] = { TK_PLAIN, TW_0, TF_C, 0, true },
	[I_SHL] = { TK_PLAIN, TW_0, 0, KEEP, true }, [I_SHR] = { TK_PLAIN, TW_0, 0, KEEP, true },
	[I_SAR] = { TK_PLAIN, TW_0, 0, KEEP, true },
	[I_SHLD] = { TK_PLAIN, TW_0, 0, 0, true }, [I_SHRD] = { TK_PLAIN, TW_0, 0, 0, true },
	[I_MOV] = { TK_PLAIN, TW_0 | TW_PURE, 0, KEEPS }, [I_MOVNTI] = { TK_PLAIN, TW_0 | TW_PURE, 0, KEEPS },
	[I_MOVZX] = { TK_PLAIN, TW_0 | TW_PURE, 0, KEEPS }, [I_MOVSX] = { TK_PLAIN, TW_0 | TW_PURE, 0, KEEPS },
	[I_MOVSXD] = { TK_PLAIN, TW_0 | TW_PURE, 0, KEEPS }, [I_MOVBE] = { TK_PLAIN, TW_0 | TW_PURE, 0, KEEPS },
	[I_LEA] = { TK_LEA, TW_0 | TW_PURE, 0, KEEPS },
	[I_XCHG] = { TK_PLAIN, TW_0 | TW_1, 0, KEEPS }, [I_XADD] = { TK_PLAIN, TW_0 | TW_1, 0, ARITH },
	[I_CMPXCHG] = { TK_PLAIN, TW_0, 0, ARITH },
	[I_CMPXCHG8B] = { TK_PLAIN, 0, 0, TF_Z, true }, [I_CMPXCHG16B] = { TK_PLAIN, 0, 0, TF_Z, true },
	[I_SETCC] = { TK_PLAIN, TW_0, COND, KEEPS }, [I_CMOVCC] = { TK_PLAIN, TW_0, COND, KEEPS },
	[I_BT] = { TK_PLAIN, 0, 0, TF_C, true }, [I_BTS] = { TK_PLAIN, TW_0, 0, TF_C, true },
	[I_BTR] = { TK_PLAIN, TW_0, 0, TF_C, true }, [I_BTC] = { TK_PLAIN, TW_0, 0, TF_C, true },
	[I_BSF] = { TK_PLAIN, TW_0, 0, 0, true }, [I_BSR] = { TK_PLAIN, TW_0, 0, 0, true },
	[I_TZCNT] = { TK_PLAIN, TW_0, 0, TF_C | TF_Z, true }, [I_LZCNT] = { TK_PLAIN, TW_0, 0, TF_C | TF_Z, true },
	[I_POPCNT] = { TK_PLAIN, TW_0, 0, ARITH },
	[I_BSWAP] = { TK_PLAIN, TW_0, 0, KEEPS }, [I_CRC32] = { TK_PLAIN, TW_0, 0, KEEPS },
	[I_ANDN] = { TK_PLAIN, TW_0 | TW_PURE, 0, TF_C | TF_Z | TF_S | TF_O, true },
	[I_BLSI] = { TK_PLAIN, TW_0 | TW_PURE, 0, TF_C | TF_Z | TF_S | TF_O, true },
	[I_BLSMSK] = { TK_PLAIN, TW_0 | TW_PURE, 0, TF_C | TF_Z | TF_S | TF_O, true },
	[I_BLSR] = { TK_PLAIN, TW_0 | TW_PURE, 0, TF_C | TF_Z | TF_S | TF_O, true },
	[I_BZHI] = { TK_PLAIN, TW_0 | TW_PURE, 0, TF_C | TF_Z | TF_S | TF_O, true },
	[I_BEXTR] = { TK_PLAIN, TW_0 | TW_PURE, 0, TF_C | TF_Z | TF_O, true },
	[I_PDEP] = { TK_PLAIN, TW_0 | TW_PURE, 0, KEEPS }, [I_PEXT] = { TK_PLAIN, TW_0 | TW_PURE, 0, KEEPS },
	[I_RORX] = { TK_PLAIN, TW_0 | TW_PURE, 0, KEEPS }, [I_SARX] = { TK_PLAIN, TW_0 | TW_PURE, 0, KEEPS },
	[I_SHLX] = { TK_PLAIN, TW_0 | TW_PURE, 0, KEEPS }, [I_SHRX] = { TK_PLAIN, TW_0 | TW_PURE, 0, KEEPS },
	[I_MULX] = { TK_PLAIN, TW_0 | TW_1 | TW_PURE, 0, KEEPS },
	[I_ADCX] = { TK_PLAIN, TW_0, TF_C, TF_C, true }, [I_ADOX] = { TK_PLAIN, TW_0, TF_O, TF_O, true },
	[I_CBW] = { TK_PLAIN, 0, 0, KEEPS }, [I_CWD] = { TK_PLAIN, 0, 0, KEEPS },
	[I_LAHF] = { TK_PLAIN, 0, TF_ALL & ~TF_O, KEEPS }, [I_SAHF] = { TK_PLAIN, 0, 0, TF_ALL & ~TF_O, true },
	[I_CLC] = { TK_PLAIN, 0, 0, TF_C, true }, [I_STC] = { TK_PLAIN, 0, 0, TF_C, true },
	[I_CMC] = { TK_PLAIN, 0, TF_C, TF_C, true },
	[I_MFENCE] = { TK_PLAIN, 0, 0, KEEPS }, [I_LFENCE] = { TK_PLAIN, 0, 0, KEEPS },
	[I_SFENCE] = { TK_PLAIN, 0, 0, KEEPS },
	[I_NOP] = { TK_NOTHING, 0, 0, KEEPS }, [I_GRP_NOP] = { TK_NOTHING, 0, 0, KEEPS }, [I_PREFETCH] = { TK_NOTHING, 0, 0, KEEPS },
	[I_PUSH] = { TK_PUSH, 0, 0, KEEPS }, [I_POP] = { TK_POP, 0, 0, KEEPS }, [I_LEAVE] = { TK_LEAVE, 0, 0, KEEPS },
	[I_CLI] = { TK_SYSTEM, 0, 0, KEEPS }, [I_STI] = { TK_SYSTEM, 0, 0, KEEPS }, [I_STAC] = { TK_SYSTEM, 0, 0, KEEPS },
	[I_CLAC] = { TK_SYSTEM, 0, 0, KEEPS }, [I_SWAPGS] = { TK_SYSTEM, 0, 0, KEEPS }, [I_PUSHF] = { TK_SYSTEM, 0, TF_ALL, KEEPS },
	[I_RDTSC] = { TK_SYSTEM, 0, 0, KEEPS }, [I_RDTSCP] = { TK_SYSTEM, 0, 0, KEEPS },
	[I_MOVS] = { TK_STRING, 0, 0, KEEPS }, [I_STOS] = { TK_STRING, 0, 0, KEEPS },
	[I_JCC] = { TK_JCC, 0, COND, KEEPS }, [I_JMP_NEAR] = { TK_JMP, 0, 0, KEEPS }, [I_CALL_NEAR] = { TK_CALL, 0, 0, KEEPS },
	[I_LOOP] = { TK_LOOP, 0, 0, KEEPS }, [I_JCXZ] = { TK_JCXZ, 0, 0, KEEPS },
	[I_JMP_IND] = { TK_JMP_IND, 0, 0, KEEPS }, [I_CALL_IND] = { TK_CALL_IND, 0, 0, KEEPS }, [I_RET_NEAR] = { TK_RET, 0, 0, KEEPS },
};

/* By the number of the condition, without its lowest bit. Source: Intel SDM vol. 1 app. B "Condition Codes". */
static const uint8_t cond_reads[8] = { TF_O, TF_C, TF_Z, TF_C | TF_Z, TF_S, TF_P, TF_S | TF_O, TF_S | TF_O | TF_Z };

static bool has_operand(const struct insn_row *row, unsigned enc)
{
	for (unsigned i = 0; i < ARRAY_SIZE(row->opnd); i++)
		if (row->opnd[i] == enc)
			return true;
	return false;
}

/* AH, CH, DH or BH among the operands of a byte instruction: no REX prefix can stand before it. */
static bool has_high_byte(const struct insn *in, const struct insn_row *row)
{
	bool all = row->attr & IA_BYTE, rm = all || row->memsize == 1;

	if (in->rex || in->has_vex)
		return false;
	if (all && in->op != I_CRC32 && has_operand(row, OE_REG) && in->reg >= 4)
		return true;
	return rm && !in->has_mem && (has_operand(row, OE_RM) || has_operand(row, OE_OPREG)) && in->rm >= 4;
}

/* SP beside a high byte: its home needs REX. As a byte operand number 4 is AH, and only MOVZX, MOVSX and CRC32 have another beside it. */
static bool names_sp(const struct insn *in, const struct insn_row *row)
{
	return (!(row->attr & IA_BYTE) || in->op == I_CRC32) && has_operand(row, OE_REG) && in->reg == RSP;
}

/* The bit's address depends on the bit. */
static bool is_bit_string(const struct insn *in, const struct insn_row *row)
{
	return (in->op == I_BT || in->op == I_BTS || in->op == I_BTR || in->op == I_BTC) && in->has_mem && has_operand(row, OE_REG);
}

/* Forms of allowed operations that are left to the handler all the same. */
static bool is_awkward(const struct insn *in, const struct insn_row *row)
{
	if (in->adsize == 2)
		return true;
	if (has_high_byte(in, row)) {
		/* Registers 0..3 with their upper bytes are where they are; but not beside what needs REX. */
		if (in->has_mem || names_sp(in, row))
			return true;
	}
	if (is_bit_string(in, row) && (in->opsize == 2 || in->adsize != 8))
		return true;
	if ((in->op == I_MOVS || in->op == I_STOS) && (in->rep == REP_NONE || in->adsize != 8 || in->seg == SEG_FS || in->seg == SEG_GS))
		return true;
	if ((in->op == I_PUSH || in->op == I_PUSHF || in->op == I_POP || in->op == I_LEAVE) && in->opsize != 8)
		return true;
	if (in->op == I_POP && in->has_mem)
		return true;
	if (in->op == I_LEA && in->opsize == 2)
		return true;
	/* The same register twice as a destination: which wins is the host's business, but not in one scratch register. */
	if (in->op == I_MULX && in->reg == in->vvvv)
		return true;
	return false;
}

static bool is_branch(unsigned kind)
{
	return kind >= TK_JCC;
}

/* A count that is a constant and not zero. */
static bool count_is_constant(const struct insn *in, const struct insn_row *row)
{
	return row->opnd[1] == OE_ONE || (row->opnd[1] == OE_IMM8 && in->imm & (in->opsize == 8 ? 63 : 31));
}

static void by_handler(struct tr_insn *t)
{
	bool end = t->row->attr & IA_END;

	t->kind = end ? TK_BAIL : TK_ONE;
	t->writes = 0;
	t->need = end || t->row->attr & IA_FLAGS_R || t->in.op == I_PUSHF ? TF_ALL : 0;
	t->kill = 0;
	t->touch = t->row->attr & IA_FLAGS_W;
}

static bool is_general(unsigned enc)
{
	return enc == OE_REG || enc == OE_RM || enc == OE_RM_REG;
}

/* Vector instructions that the host executes whole; those that need more have rows of the integer class. */
static void vector(struct tr_insn *t)
{
	t->kind = TK_PLAIN;
	t->vec = t->in.has_vex ? 2 : 1;
	t->writes = is_general(t->row->opnd[0]) && !(t->row->attr & IA_FLAGS_W) ? TW_0 | TW_PURE : 0;
	t->touch = t->row->attr & IA_FLAGS_W;
	t->kill = t->touch ? TF_ALL : 0;
}

/* Those whose handler does more than execute them: control instructions that touch what the engine keeps, environments. */
static bool is_x87_whole(const struct insn *in, const struct insn_row *row)
{
	static const uint16_t others[] = { I_FNINIT, I_FNCLEX, I_WAIT, I_FNENI, I_FNDISI, I_FNSETPM };

	for (unsigned i = 0; i < ARRAY_SIZE(others); i++)
		if (in->op == others[i])
			return false;
	return row->cls == IC_FPU && (row->map & 0x1f) == 4 && row->mem != M_MULTI && in->adsize == 8 &&
	       (!in->has_mem || (in->memsize && in->memsize <= 10 && in->seg != SEG_FS && in->seg != SEG_GS));
}

static void x87(struct tr_insn *t)
{
	t->kind = TK_X87;
	t->need = t->row->attr & IA_FLAGS_R ? TF_ALL : 0;
	t->touch = t->row->attr & IA_FLAGS_W;
	t->kill = t->touch ? TF_C | TF_P | TF_Z : 0;
}

bool tr_classify(const struct cpu_block *b, unsigned k, const bool *features, struct tr_insn *t)
{
	const struct cpu_op *o = &b->op[k];
	unsigned avail = (unsigned)(b->n_bytes - o->off);
	const struct form_row *f;

	memset(t, 0, sizeof(*t));
	t->op = o;
	if (insn_decode(b->bytes + o->off, avail < INSN_MAX_LEN ? avail : INSN_MAX_LEN, INSN_MODE_64, false, features, &t->in) != INSN_OK)
		return false;
	t->row = &insn_rows[t->in.row];
	f = &rows[t->in.op];
	t->kind = f->kind;
	t->writes = f->writes;
	t->need = f->need;
	t->kill = f->kill;
	t->touch = f->touch;
	if (t->kind == TK_ONE && is_x87_whole(&t->in, t->row)) {
		x87(t);
		return true;
	}
	if (t->kind == TK_ONE && t->row->cls == IC_HOST) {
		vector(t);
		return true;
	}
	if (t->kind == TK_ONE || is_awkward(&t->in, t->row) || (is_branch(t->kind) && t->in.opsize != 8 && t->kind != TK_LOOP && t->kind != TK_JCXZ)) {
		by_handler(t);
		return true;
	}
	if ((t->kind == TK_LOOP || t->kind == TK_JCXZ) && t->in.adsize != 8) {
		by_handler(t);
		return true;
	}
	if (t->kind == TK_PUSH && t->in.has_mem)
		t->kind = TK_PUSH_MEM;
	if (is_bit_string(&t->in, t->row))
		t->kind = TK_BITS;
	if (t->need == COND)
		t->need = cond_reads[t->in.bytes[t->in.opc_off] >> 1 & 7];
	if (t->kill == KEEP)
		t->kill = count_is_constant(&t->in, t->row) ? TF_ALL : 0;
	/* One-operand IMUL writes RAX and RDX, not its operand. */
	if (t->in.op == I_IMUL && t->row->opnd[1] == OE_NONE)
		t->writes = 0;
	/* Without a whole register written, the rest of it is read. */
	if (t->writes & TW_PURE && t->in.opsize < 4)
		t->writes &= (uint8_t)~TW_PURE;
	t->may_fault = t->in.op == I_DIV || t->in.op == I_IDIV;
	/* Computed targets may be anywhere: all flags are read. Direct ones are looked at by the compiler. */
	if (t->kind == TK_JMP_IND || t->kind == TK_CALL_IND || t->kind == TK_RET)
		t->need = TF_ALL;
	return true;
}
