/* SPDX-License-Identifier: MIT */
/*
 * One decoded instruction, and the rows that describe every instruction we know. Data and a decoder; no behaviour.
 *
 * The rows (insn.def) are an allow-list: an encoding without a row is #UD. One list makes the enum of operations, the names,
 * the decoder's tables, the disassembler and the tests' denominator, so they cannot disagree.
 *
 * An *operation* (enum insn_op: I_ADD, I_MOV, I_PADDB ...) is what the interpreter dispatches on; the same operation has
 * several rows (forms) with different operands.
 */
#ifndef GW_ISA_INSN_H
#define GW_ISA_INSN_H

#include "base/types.h"

#define INSN_MAX_LEN	15

/* Code size of the current CS: what the default operand and address sizes come from. */
enum insn_mode { INSN_MODE_16, INSN_MODE_32, INSN_MODE_64 };

/* How one operand is encoded. A form has up to four, destination first (Intel order). */
enum opnd_enc {
	OE_NONE,
	OE_REG,		/* ModRM.reg, general register */
	OE_RM,		/* ModRM.rm, general register or memory */
	OE_RM_REG,	/* ModRM.rm, general register only */
	OE_MEM,		/* ModRM.rm, memory only */
	OE_OPREG,	/* low three bits of the opcode */
	OE_ACC,		/* AL / AX / EAX / RAX */
	OE_CL, OE_DX, OE_ONE,
	OE_FIXREG,	/* another fixed general register: the row's handler knows */
	OE_IMM,		/* immediate, sign-extended to the operand size where the form says so */
	OE_IMM8,	/* one more byte, zero-extended (ENTER's second, shuffles' control) */
	OE_REL,		/* branch displacement in imm */
	OE_FAR,		/* ptr16:16/32: imm = offset, imm2 = selector */
	OE_MOFFS,	/* absolute address: in disp64 */
	OE_SREG,	/* segment register in ModRM.reg */
	OE_FIXSEG,	/* PUSH ES and the like: segment number in insn.reg */
	OE_CR, OE_DR,	/* control / debug register in ModRM.reg */
	OE_STR_SRC, OE_STR_DST,	/* [seg:rSI], [ES:rDI] */
	OE_VREG, OE_VRM, OE_VRM_REG, OE_VMEM, OE_VVVV, OE_VIS4, OE_XMM0,	/* vector: reg, rm, rm reg-only, rm mem-only, VEX.vvvv, imm8[7:4], implicit XMM0 */
	OE_MREG, OE_MRM, OE_MRM_REG,	/* MMX */
	OE_VGPR,	/* VEX.vvvv names a general register (BMI) */
	OE_ST0, OE_STI,	/* x87 stack */
	OE_IMM16,	/* immediate of two bytes whatever the operand size, zero-extended: RET, ENTER */
	OE_NOREG,	/* ModRM.mod must be 3 and rm is ignored: the fences */
	N_OPND_ENC,
};

/* Memory pattern: what the instruction does to its explicit (or stack, or string) memory operand. */
enum mem_pattern { M_NONE, M_R, M_W, M_RW, M_PUSH, M_POP, M_STRING, M_MULTI, M_ADDR /* address only: LEA, NOP, prefetch, INVLPG */ };

/* Who executes it. */
enum insn_class {
	IC_INT,		/* C handlers in cpu/interp: integer, control flow, system */
	IC_HOST,	/* the host CPU executes the same bytes on the guest's operands (cpu/host) */
	IC_FPU,		/* x87/MMX executed by the host with the guest's FPU state live */
};

/* Row attributes. */
#define IA_LOCK		BIT(0)	/* LOCK allowed (memory destination) */
#define IA_REP		BIT(1)	/* REP allowed and meaningful */
#define IA_NO64		BIT(2)	/* #UD in 64-bit mode */
#define IA_ONLY64	BIT(3)	/* #UD outside 64-bit mode */
#define IA_D64		BIT(4)	/* operand size defaults to 64 in 64-bit mode (push, pop, near branches) */
#define IA_F64		BIT(5)	/* operand size is always 64 in 64-bit mode */
#define IA_CPL0		BIT(6)	/* #GP(0) unless CPL 0 */
#define IA_PROT		BIT(7)	/* #UD in real and virtual-8086 mode */
#define IA_END		BIT(8)	/* ends a block: control transfer or a change of what the block key holds */
#define IA_ALIGN	BIT(9)	/* legacy-SSE memory operand must be aligned to its size (#GP(0)) */
#define IA_FLAGS_R	BIT(10)	/* reads arithmetic flags */
#define IA_FLAGS_W	BIT(11)	/* writes arithmetic flags */
#define IA_BYTE		BIT(12)	/* operand size is 8 bits */
#define IA_VL		BIT(13)	/* VEX.L selects 128/256 */
#define IA_L0		BIT(14)	/* VEX.L must be 0 */
#define IA_L1		BIT(15)	/* VEX.L must be 1 */
#define IA_W0		BIT(16)	/* VEX.W must be 0 */
#define IA_W1		BIT(17)	/* REX.W / VEX.W must be 1 */
#define IA_NOVVVV	BIT(18)	/* VEX.vvvv must be 1111b */
#define IA_VSIB		BIT(19)	/* vector index: gathers */
#define IA_MXCSR	BIT(20)	/* may raise SIMD floating-point exceptions */
#define IA_WSIZE	BIT(21)	/* operand size is 32, or 64 with W (66 is a mandatory prefix or ignored) */
#define IA_SEXT		BIT(22)	/* imm8 sign-extended to the operand size */
#define IA_NOREXB	BIT(23)	/* not this row if REX.B is set: NOP against XCHG r8 (F3 41 90 is PAUSE all the same) */
#define IA_MAX4		BIT(24)	/* operand size is at most 4: REX.W is ignored (port I/O) */
#define IA_IMM64	BIT(25)	/* the immediate has the full operand size, also 8 bytes */
#define IA_REGONLY	BIT(26)	/* ModRM.mod is ignored: always a register, never SIB or displacement (MOV to and from CR, DR) */

/* insn_row.pfx besides a prefix byte. */
#define PFX_ANY		(-1)	/* 66 is an operand size, F2 and F3 are repeat prefixes or ignored */
#define PFX_NOREP	(-2)	/* as any, but not with F2 or F3 */

/* insn_row.memsize besides a number of bytes. */
#define MS_OPSIZE	0	/* the operand size; "varies" where the pattern is M_MULTI or M_ADDR */
#define MS_VL		0xFF	/* vector length: 16, or 32 with VEX.L */
#define MS_VL2		0xFE	/* half, quarter, eighth of it: widening loads, narrowing stores */
#define MS_VL4		0xFD
#define MS_VL8		0xFC
#define MS_DDUP		0xFB	/* MOVDDUP: 8, or 32 with VEX.L */
#define MS_FAR		0xFA	/* far pointer: operand size + 2 */
#define MS_PAIR		0xF9	/* two operands: BOUND, CMPXCHG8B/16B */
#define MS_DTR		0xF8	/* descriptor-table register image: 6, or 10 in 64-bit mode */
#define MS_MIN4		0xF7	/* operand size, at most 4: MOVSXD */
#define MS_FENV		0xF6	/* x87 environment: 14 or 28 */
#define MS_FSAVE	0xF5	/* x87 state: 94 or 108 */

/* CPUID features a row may need; cpu/cpuid maps them to leaves. Base instructions need ISA_BASE. */
enum isa_feature {
	ISA_BASE, ISA_FPU, ISA_CMOV, ISA_CX8, ISA_CX16, ISA_SEP, ISA_SYSCALL, ISA_MMX, ISA_FXSR, ISA_SSE, ISA_SSE2, ISA_SSE3,
	ISA_SSSE3, ISA_SSE41, ISA_SSE42, ISA_POPCNT, ISA_AES, ISA_PCLMUL, ISA_SHA, ISA_AVX, ISA_AVX2, ISA_FMA, ISA_F16C, ISA_BMI1,
	ISA_BMI2, ISA_LZCNT, ISA_MOVBE, ISA_ADX, ISA_RDRAND, ISA_RDSEED, ISA_XSAVE, ISA_XSAVEOPT, ISA_XSAVEC, ISA_XSAVES,
	ISA_XGETBV1, ISA_FSGSBASE, ISA_RDTSCP, ISA_RDPID, ISA_INVPCID, ISA_CLFSH, ISA_CLFLUSHOPT, ISA_CLWB, ISA_UMIP, ISA_SMAP,
	ISA_PKU, ISA_PREFETCHW, ISA_MOVDIRI, ISA_MOVDIR64B, ISA_GFNI, ISA_VAES, ISA_VPCLMUL, ISA_SERIALIZE, ISA_LAHF64, ISA_MONITOR,
	ISA_TSC, ISA_MSR, ISA_WBNOINVD, ISA_CET_NOP, ISA_VMCALL, ISA_VMMCALL, ISA_SGX, ISA_SNP,
	N_ISA_FEATURES,
};

struct insn_row {
	const char *name;	/* mnemonic, lower case, Intel's */
	uint16_t op;		/* enum insn_op */
	uint8_t map;		/* 0: one byte; 1: 0F; 2: 0F38; 3: 0F3A; 4 D8..DF x87; +0x10: VEX in that map */
	uint8_t opcode;
	int16_t pfx;		/* mandatory prefix: 0 none, 0x66, 0xF3, 0xF2; PFX_ANY; PFX_NOREP */
	int8_t ext;		/* ModRM.reg must be this; -1 any */
	int16_t modrm;		/* whole ModRM byte must be this (0F01 D9, x87 register forms by range handled in the generator); -1 any */
	uint8_t opnd[4];	/* enum opnd_enc, destination first */
	uint8_t mem;		/* enum mem_pattern */
	uint8_t cls;		/* enum insn_class */
	uint8_t feature;	/* enum isa_feature */
	uint8_t memsize;	/* bytes of the memory operand when it is not the operand size; 0: operand size; 0xFF: vector length */
	uint32_t attr;
};

/* Enum of operations, from the same list as the rows: I_<MNEMONIC> for every distinct mnemonic; I_INVALID is 0. */
enum insn_op {
	I_INVALID,
#define OP(NAME, text) I_##NAME,
#include "isa/ops.def"
#undef OP
	N_INSN_OPS,
};

/* GPR index values used in insn.base and insn.index besides 0..15. */
#define GPR_ZERO	16	/* no register: reads as 0 */
#define GPR_RIP		17	/* RIP-relative: base is the address of the next instruction */

enum insn_rep { REP_NONE, REP_F3, REP_F2 };

struct insn {
	uint8_t len;		/* 1..15 */
	uint8_t mode;		/* enum insn_mode it was decoded for */
	uint16_t op;		/* enum insn_op */
	uint16_t row;		/* index into insn_rows */
	uint8_t opsize;		/* operand size in bytes: 1, 2, 4, 8 (general); for vectors 16 or 32 */
	uint8_t adsize;		/* address size in bytes: 2, 4, 8 */
	bool lock;
	uint8_t rep;		/* enum insn_rep: as a repeat prefix; REP_NONE where it was a mandatory prefix */
	uint8_t seg;		/* enum x86_seg of the memory operand, defaults and overrides applied */
	bool rex;		/* a REX prefix is present: SPL..DIL instead of AH..BH */
	bool rex_w;
	bool has_vex;
	uint8_t vex_l;		/* 0: 128, 1: 256 */
	uint8_t vvvv;		/* 0..15, already inverted */
	bool has_modrm;
	uint8_t modrm;
	uint8_t mod, reg, rm;	/* reg and rm with REX/VEX extension; for OE_OPREG rm holds the register */
	bool has_mem;		/* ModRM names memory (mod != 3), or OE_MOFFS */
	uint8_t base, index;	/* 0..15, GPR_ZERO or GPR_RIP; with VSIB index is a vector register */
	uint8_t scale;		/* shift: 0..3 */
	uint8_t memsize;	/* bytes of the memory operand; 0 if it varies (XSAVE, x87 environment: the handler knows) */
	uint8_t pfx66, pfx_addr;/* as seen in the bytes */
	uint8_t opc_off;	/* offset of the opcode byte in bytes[] (after prefixes, REX, VEX and escapes) */
	uint8_t modrm_off;	/* offset of ModRM, 0 if none */
	uint8_t imm_off;	/* offset of the first immediate, 0 if none */
	int64_t disp;		/* sign-extended displacement, or the moffs address */
	uint64_t imm;		/* first immediate; where the form sign-extends, to 64 bits whatever the operand size */
	uint64_t imm2;		/* second: selector of a far pointer, ENTER's level, imm8 after another */
	uint8_t bytes[INSN_MAX_LEN + 1];	/* only the first len are the instruction's */
};

extern const struct insn_row insn_rows[];
extern const unsigned n_insn_rows;
const char *insn_op_name(unsigned op);

enum insn_status {
	INSN_OK,
	INSN_MORE,	/* @avail ran out before the instruction ended: fetch more and call again */
	INSN_UD,	/* no such instruction in this mode: #UD */
	INSN_TOO_LONG,	/* over 15 bytes: #GP(0) */
};

/*
 * insn_decode - decode one instruction
 *
 * @bytes, @avail	the code and how much of it may be read (1..15 matter); never reads beyond.
 * @mode		default sizes.
 * @real		real or virtual-8086 mode: C4/C5/62 are never VEX, IA_PROT rows are #UD.
 * @features		features offered, indexed by enum isa_feature; NULL: all.
 *
 * Checks everything that the encoding alone decides: LOCK on a form that has none, VEX with a legacy prefix, length, mode,
 * register-only or memory-only forms. Rules that need CPU state (CPL, CR4) are the executor's.
 * On anything but INSN_OK only out->len (bytes consumed so far) is meaningful.
 * Source: Intel SDM vol. 2 "Instruction Format", "Opcode Map".
 */
enum insn_status insn_decode(const uint8_t *bytes, unsigned avail, enum insn_mode mode, bool real, const bool *features,
			     struct insn *out);

/* Intel-syntax text of a decoded instruction at @rip into @buf; always terminated. Returns the length it wanted. */
int insn_format(const struct insn *in, uint64_t rip, char *buf, size_t size);

#endif
