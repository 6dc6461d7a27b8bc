/* SPDX-License-Identifier: MIT */
/*
 * The rows as a constant array, and the names of operations. Only data: insn.def says what the macros below mean to its reader.
 */
#include "isa/insn.h"

/* One constant per name, so that a row can hold its text. */
#define OP(NAME, text) static const char name_##NAME[] = text;
#include "isa/ops.def"
#undef OP

static const char *const op_names[] = {
	[I_INVALID] = "(invalid)",
#define OP(NAME, text) [I_##NAME] = name_##NAME,
#include "isa/ops.def"
#undef OP
};

const char *insn_op_name(unsigned op)
{
	return op < N_INSN_OPS ? op_names[op] : op_names[I_INVALID];
}

#define ANY (-1)
#define O0 { OE_NONE }
#define O1(a) { OE_##a }
#define O2(a, b) { OE_##a, OE_##b }
#define O3(a, b, c) { OE_##a, OE_##b, OE_##c }
#define O4(a, b, c, d) { OE_##a, OE_##b, OE_##c, OE_##d }

#define LOCK IA_LOCK
#define REP IA_REP
#define NO64 IA_NO64
#define ONLY64 IA_ONLY64
#define D64 IA_D64
#define F64 IA_F64
#define CPL0 IA_CPL0
#define PROT IA_PROT
#define END IA_END
#define ALIGN IA_ALIGN
#define FR IA_FLAGS_R
#define FW IA_FLAGS_W
#define BYTE IA_BYTE
#define VL IA_VL
#define L0 IA_L0
#define L1 IA_L1
#define W0 IA_W0
#define W1 IA_W1
#define VSIB IA_VSIB
#define MXCSR IA_MXCSR
#define WSIZE IA_WSIZE
#define SEXT IA_SEXT
#define NOREXB IA_NOREXB
#define MAX4 IA_MAX4
#define IMM64 IA_IMM64
#define REGONLY IA_REGONLY

#define VEX_MAP 0x10

/* Each macro writes the whole initialiser itself: operand lists hold commas and would not survive a second macro call. */
#define INT(o, m, c, x, ops, mp, ms, at) \
	{ .name = name_##o, .op = I_##o, .map = m, .opcode = c, .pfx = PFX_ANY, .ext = x, .modrm = -1, .opnd = ops, .mem = mp, \
	  .cls = IC_INT, .feature = ISA_BASE, .memsize = ms, .attr = at },
#define INTF(o, m, p, c, x, ops, mp, feat, ms, at) \
	{ .name = name_##o, .op = I_##o, .map = m, .opcode = c, .pfx = p, .ext = x, .modrm = -1, .opnd = ops, .mem = mp, \
	  .cls = IC_INT, .feature = ISA_##feat, .memsize = ms, .attr = at },
#define SYS(o, m, p, c, byte, feat, at) \
	{ .name = name_##o, .op = I_##o, .map = m, .opcode = c, .pfx = p, .ext = -1, .modrm = byte, .opnd = O0, .mem = M_NONE, \
	  .cls = IC_INT, .feature = ISA_##feat, .memsize = 0, .attr = at },
#define HOST(o, m, p, c, x, ops, mp, feat, ms, at) \
	{ .name = name_##o, .op = I_##o, .map = m, .opcode = c, .pfx = p, .ext = x, .modrm = -1, .opnd = ops, .mem = mp, \
	  .cls = IC_HOST, .feature = ISA_##feat, .memsize = ms, .attr = at },
#define VGPR(o, m, p, c, x, ops, feat, at) \
	{ .name = name_##o, .op = I_##o, .map = VEX_MAP + m, .opcode = c, .pfx = p, .ext = x, .modrm = -1, .opnd = ops, .mem = M_R, \
	  .cls = IC_HOST, .feature = ISA_##feat, .memsize = 0, .attr = IA_L0 | IA_WSIZE | at },
#define FPU(o, m, c, x, ops, mp, ms, at) \
	{ .name = name_##o, .op = I_##o, .map = m, .opcode = c, .pfx = PFX_ANY, .ext = x, .modrm = -1, .opnd = ops, .mem = mp, \
	  .cls = IC_FPU, .feature = ISA_FPU, .memsize = ms, .attr = at },
#define FPM_ROW(o, c, x, mp, ms, class, feat) \
	{ .name = name_##o, .op = I_##o, .map = 4, .opcode = c, .pfx = PFX_ANY, .ext = x, .modrm = -1, .opnd = { OE_MEM }, .mem = mp, \
	  .cls = class, .feature = feat, .memsize = ms, .attr = 0 },
#define FPM(o, c, x, mp, ms) FPM_ROW(o, c, x, mp, ms, IC_FPU, ISA_FPU)
#define FPX(o, c, x, mp, ms) FPM_ROW(o, c, x, mp, ms, IC_FPU, ISA_SSE3)
#define FPE(o, c, x, mp, ms) FPM_ROW(o, c, x, mp, ms, IC_INT, ISA_FPU)
#define FPR(o, c, x, ops, at) \
	{ .name = name_##o, .op = I_##o, .map = 4, .opcode = c, .pfx = PFX_ANY, .ext = x, .modrm = -1, .opnd = ops, .mem = M_NONE, \
	  .cls = IC_FPU, .feature = ISA_FPU, .memsize = 0, .attr = at },
#define FP1(o, c, byte) \
	{ .name = name_##o, .op = I_##o, .map = 4, .opcode = c, .pfx = PFX_ANY, .ext = -1, .modrm = byte, .opnd = O0, .mem = M_NONE, \
	  .cls = IC_FPU, .feature = ISA_FPU, .memsize = 0, .attr = 0 },
#define MMX(o, m, c, feat) \
	{ .name = name_##o, .op = I_##o, .map = m, .opcode = c, .pfx = 0, .ext = -1, .modrm = -1, .opnd = { OE_MREG, OE_MRM }, \
	  .mem = M_R, .cls = IC_FPU, .feature = ISA_##feat, .memsize = 8, .attr = 0 },
#define MMXF(o, m, p, c, x, ops, mp, feat, ms, at) \
	{ .name = name_##o, .op = I_##o, .map = m, .opcode = c, .pfx = p, .ext = x, .modrm = -1, .opnd = ops, .mem = mp, \
	  .cls = IC_FPU, .feature = ISA_##feat, .memsize = ms, .attr = at },
#define SSE(o, m, p, c, x, ops, mp, feat, ms, at) \
	{ .name = name_##o, .op = I_##o, .map = m, .opcode = c, .pfx = p, .ext = x, .modrm = -1, .opnd = ops, .mem = mp, \
	  .cls = IC_HOST, .feature = ISA_##feat, .memsize = ms, .attr = at },
#define AVX(o, m, p, c, x, ops, mp, feat, ms, at) \
	{ .name = name_##o, .op = I_##o, .map = VEX_MAP + m, .opcode = c, .pfx = p, .ext = x, .modrm = -1, .opnd = ops, .mem = mp, \
	  .cls = IC_HOST, .feature = ISA_##feat, .memsize = ms, .attr = at },
#define AVXI(o, m, p, c, x, ops, mp, feat, ms, at) \
	{ .name = name_##o, .op = I_##o, .map = VEX_MAP + m, .opcode = c, .pfx = p, .ext = x, .modrm = -1, .opnd = ops, .mem = mp, \
	  .cls = IC_INT, .feature = ISA_##feat, .memsize = ms, .attr = at },

const struct insn_row insn_rows[] = {
#include "isa/insn.def"
};

const unsigned n_insn_rows = ARRAY_SIZE(insn_rows);
