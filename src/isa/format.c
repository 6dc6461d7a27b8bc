/* SPDX-License-Identifier: MIT */
/*
 * Intel-syntax text of a decoded instruction, for dumps and traces. The mnemonic is exact (a test compares it with Zydis); the
 * operands are meant for people: register widths of narrowing vector conversions are approximate.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "isa/insn.h"
#include "isa/x86.h"

/* snprintf into the rest of the buffer; n goes on counting beyond it. */
struct text {
	char *buf;
	size_t size;
	size_t n;
};

static void __attribute__((format(printf, 2, 3))) put(struct text *t, const char *fmt, ...)
{
	size_t left = t->n < t->size ? t->size - t->n : 0;
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vsnprintf(left ? t->buf + t->n : NULL, left, fmt, ap);
	va_end(ap);
	if (len > 0)
		t->n += (size_t)len;
}

static const char *const cc_names[16] = {
	"o", "no", "b", "nb", "z", "nz", "be", "nbe", "s", "ns", "p", "np", "l", "nl", "le", "nle",
};

static const char *const seg_names[N_SEGS] = { "es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr" };

static const char *const gpr_names[4][16] = {
	{ "al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil", "r8b", "r9b", "r10b", "r11b", "r12b", "r13b", "r14b", "r15b" },
	{ "ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "r8w", "r9w", "r10w", "r11w", "r12w", "r13w", "r14w", "r15w" },
	{ "eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "r8d", "r9d", "r10d", "r11d", "r12d", "r13d", "r14d", "r15d" },
	{ "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15" },
};

static const char *const high_names[4] = { "ah", "ch", "dh", "bh" };

/* 1, 2, 4, 8 to 0..3; anything else prints as a doubleword register. */
static unsigned size_index(unsigned bytes)
{
	return bytes == 1 ? 0 : bytes == 2 ? 1 : bytes == 8 ? 3 : 2;
}

/* Mnemonics that depend on the operand size, or on the address size: 2, 4, 8 bytes. */
static const struct { uint16_t op; bool by_adsize; const char *name[3]; } sized[] = {
	{ I_CBW,   false, { "cbw", "cwde", "cdqe" } },
	{ I_CWD,   false, { "cwd", "cdq", "cqo" } },
	{ I_PUSHF, false, { "pushf", "pushfd", "pushfq" } },
	{ I_POPF,  false, { "popf", "popfd", "popfq" } },
	{ I_PUSHA, false, { "pusha", "pushad", "pushad" } },
	{ I_POPA,  false, { "popa", "popad", "popad" } },
	{ I_IRET,  false, { "iret", "iretd", "iretq" } },
	{ I_JCXZ,  true,  { "jcxz", "jecxz", "jrcxz" } },
};

static bool is_string(const struct insn_row *r)
{
	return r->mem == M_STRING;
}

/* These have a second mnemonic with W. */
static bool has_64_suffix(unsigned op)
{
	return op == I_FXSAVE || op == I_FXRSTOR || op == I_XSAVE || op == I_XRSTOR || op == I_XSAVEOPT || op == I_XSAVEC ||
	       op == I_XSAVES || op == I_XRSTORS;
}

static void put_mnemonic(struct text *t, const struct insn *in, const struct insn_row *r)
{
	uint8_t opcode = in->bytes[in->opc_off];

	for (unsigned i = 0; i < ARRAY_SIZE(sized); i++)
		if (sized[i].op == in->op) {
			put(t, "%s", sized[i].name[size_index(sized[i].by_adsize ? in->adsize : in->opsize) - 1]);
			return;
		}
	put(t, "%s", r->name);
	if (in->op == I_JCC || in->op == I_SETCC || in->op == I_CMOVCC)
		put(t, "%s", cc_names[opcode & 15]);
	else if (is_string(r))
		put(t, "%c", "bwdq"[size_index(in->opsize)]);
	else if (in->op == I_PREFETCH && opcode == 0x18)
		put(t, "%s", in->reg % 8 == 0 ? "nta" : in->reg % 8 == 1 ? "t0" : in->reg % 8 == 2 ? "t1" : "t2");
	else if (in->op == I_PREFETCH)
		put(t, "%s", in->reg % 8 == 1 ? "w" : in->reg % 8 == 2 ? "wt1" : "");
	else if (in->rex_w && has_64_suffix(in->op))
		put(t, "64");
}

static void put_gpr(struct text *t, const struct insn *in, unsigned reg, unsigned bytes)
{
	if (bytes == 1 && !in->rex && !in->has_vex && reg >= 4 && reg < 8)
		put(t, "%s", high_names[reg - 4]);
	else
		put(t, "%s", gpr_names[size_index(bytes)][reg & 15]);
}

static void put_vector(struct text *t, const struct insn *in, unsigned reg, bool wide)
{
	put(t, "%cmm%u", wide && in->vex_l ? 'y' : 'x', reg & 15);
}

static bool is_wide(const struct insn_row *r)
{
	return r->attr & (IA_VL | IA_L1);
}

static const char *pointer_name(unsigned bytes)
{
	switch (bytes) {
	case 1:  return "byte ptr ";
	case 2:  return "word ptr ";
	case 4:  return "dword ptr ";
	case 6:  return "fword ptr ";
	case 8:  return "qword ptr ";
	case 10: return "tbyte ptr ";
	case 16: return "xmmword ptr ";
	case 32: return "ymmword ptr ";
	default: return "ptr ";
	}
}

static void put_disp(struct text *t, const struct insn *in, bool first)
{
	uint64_t mask = in->adsize == 8 ? ~0ull : (1ull << in->adsize * 8) - 1;
	uint64_t disp = (uint64_t)in->disp;

	if (first)
		put(t, "0x%" PRIx64, disp & mask);
	else if (in->disp < 0)
		put(t, "-0x%" PRIx64, (0 - disp) & mask);
	else if (in->disp)
		put(t, "+0x%" PRIx64, disp);
}

static void put_memory(struct text *t, const struct insn *in, const struct insn_row *r)
{
	bool first = true;

	if (r->mem != M_ADDR)
		put(t, "%s", pointer_name(in->memsize));
	if (in->seg == SEG_FS || in->seg == SEG_GS || (in->mode != INSN_MODE_64 && in->seg != SEG_DS))
		put(t, "%s:", seg_names[in->seg]);
	put(t, "[");
	if (in->base == GPR_RIP) {
		put(t, "%s", in->adsize == 8 ? "rip" : "eip");
		first = false;
	} else if (in->base != GPR_ZERO) {
		put(t, "%s", gpr_names[size_index(in->adsize)][in->base & 15]);
		first = false;
	}
	if (r->attr & IA_VSIB) {
		put(t, "%s", first ? "" : "+");
		put_vector(t, in, in->index, is_wide(r));
		put(t, "*%u", 1u << in->scale);
		first = false;
	} else if (in->index != GPR_ZERO) {
		put(t, "%s%s", first ? "" : "+", gpr_names[size_index(in->adsize)][in->index & 15]);
		if (in->adsize != 2)
			put(t, "*%u", 1u << in->scale);
		first = false;
	}
	put_disp(t, in, first);
	put(t, "]");
}

static void put_string_operand(struct text *t, const struct insn *in, bool dst)
{
	const char *const *regs = gpr_names[size_index(in->adsize)];

	put(t, "%s%s:[%s]", pointer_name(in->opsize), seg_names[dst ? SEG_ES : in->seg], regs[dst ? RDI : RSI]);
}

/* The width of ModRM.rm as a general register, where it is not the operand size. */
static unsigned rm_width(const struct insn *in)
{
	if (in->op == I_MOVZX || in->op == I_MOVSX || in->op == I_MOVSXD)
		return in->memsize;
	return in->opsize;
}

static void put_immediate(struct text *t, const struct insn *in)
{
	uint64_t mask = in->opsize >= 8 ? ~0ull : (1ull << in->opsize * 8) - 1;

	put(t, "0x%" PRIx64, in->imm & mask);
}

static void put_target(struct text *t, const struct insn *in, uint64_t rip)
{
	uint64_t mask = in->opsize >= 8 ? ~0ull : (1ull << in->opsize * 8) - 1;

	put(t, "0x%" PRIx64, (rip + in->len + in->imm) & mask);
}

static void put_rm(struct text *t, const struct insn *in, const struct insn_row *r, enum opnd_enc e)
{
	/* A register that stands where memory would be narrower than a vector is an XMM register. */
	bool narrow = r->memsize != MS_VL && r->memsize != MS_DDUP && r->memsize != MS_OPSIZE;

	if (in->has_mem)
		put_memory(t, in, r);
	else if (e == OE_VRM || e == OE_VRM_REG)
		put_vector(t, in, in->rm, is_wide(r) && !narrow);
	else if (e == OE_MRM || e == OE_MRM_REG)
		put(t, "mm%u", in->rm & 7u);
	else
		put_gpr(t, in, in->rm, rm_width(in));
}

static void put_operand(struct text *t, const struct insn *in, const struct insn_row *r, enum opnd_enc e, uint64_t rip)
{
	switch (e) {
	case OE_RM: case OE_RM_REG: case OE_MEM: case OE_VRM: case OE_VRM_REG: case OE_VMEM: case OE_MRM: case OE_MRM_REG:
		put_rm(t, in, r, e);
		break;
	case OE_REG:	put_gpr(t, in, in->reg, in->opsize); break;
	case OE_OPREG:	put_gpr(t, in, in->rm, in->opsize); break;
	case OE_ACC:	put_gpr(t, in, RAX, in->opsize); break;
	case OE_VGPR:	put_gpr(t, in, in->vvvv, in->opsize); break;
	case OE_CL:	put(t, "cl"); break;
	case OE_DX:	put(t, "dx"); break;
	case OE_ONE:	put(t, "1"); break;
	case OE_IMM:	put_immediate(t, in); break;
	case OE_IMM8: case OE_IMM16:
		put(t, "0x%" PRIx64, r->opnd[0] == OE_IMM16 && e == OE_IMM8 ? in->imm2 : in->imm);
		break;
	case OE_REL:	put_target(t, in, rip); break;
	case OE_FAR:	put(t, "0x%" PRIx64 ":0x%" PRIx64, in->imm2, in->imm); break;
	case OE_MOFFS:	put_memory(t, in, r); break;
	case OE_SREG: case OE_FIXSEG:
		put(t, "%s", seg_names[in->reg & 7]);
		break;
	case OE_CR:	put(t, "cr%u", in->reg); break;
	case OE_DR:	put(t, "dr%u", in->reg); break;
	case OE_STR_SRC: put_string_operand(t, in, false); break;
	case OE_STR_DST: put_string_operand(t, in, true); break;
	case OE_VREG:	put_vector(t, in, in->reg, is_wide(r)); break;
	case OE_VVVV:	put_vector(t, in, in->vvvv, is_wide(r)); break;
	case OE_VIS4:	put_vector(t, in, (unsigned)in->imm >> 4 & (in->mode == INSN_MODE_64 ? 15 : 7), is_wide(r)); break;
	case OE_XMM0:	put(t, "xmm0"); break;
	case OE_MREG:	put(t, "mm%u", in->reg & 7u); break;
	case OE_ST0:	put(t, "st(0)"); break;
	case OE_STI:	put(t, "st(%u)", in->rm & 7u); break;
	case OE_NONE: case OE_NOREG: case OE_FIXREG: case N_OPND_ENC:
		break;
	}
}

int insn_format(const struct insn *in, uint64_t rip, char *buf, size_t size)
{
	struct text t = { buf, size, 0 };
	const struct insn_row *r;
	const char *sep = " ";

	if (size)
		buf[0] = '\0';
	if (in->op == I_INVALID || in->row >= n_insn_rows) {
		put(&t, "(invalid)");
		return (int)t.n;
	}
	r = &insn_rows[in->row];
	if (in->lock)
		put(&t, "lock ");
	if (in->rep)
		put(&t, "%s", in->rep == REP_F2 ? "repne " : in->op == I_CMPS || in->op == I_SCAS ? "repe " : "rep ");
	put_mnemonic(&t, in, r);
	for (unsigned i = 0; i < 4 && r->opnd[i] != OE_NONE; i++) {
		if (r->opnd[i] == OE_NOREG)
			continue;
		put(&t, "%s", sep);
		put_operand(&t, in, r, r->opnd[i], rip);
		sep = ", ";
	}
	return (int)t.n;
}
