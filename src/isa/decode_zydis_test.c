/* SPDX-License-Identifier: MIT */
/*
 * The decoder against Zydis: every opcode of every map, with every ModRM byte, mandatory prefixes, LOCK, REX or VEX fields, in
 * 64-, 32- and 16-bit protected mode and real mode. Compared: valid or not, length, mnemonic; on a part also the memory operand
 * (size, segment, base, index, displacement) and immediates.
 *
 * Where we differ on purpose a row of `deliberate` says why. What Zydis knows and we do not offer is by its ISA set, in
 * `not_offered`. What remains must be nothing. The denominator printed at the end: distinct forms that Zydis accepts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>

#include <cmocka.h>
#include <Zydis/Zydis.h>

#include "isa/insn.h"
#include "isa/x86.h"

struct mode { const char *name; enum insn_mode mode; bool real; ZydisMachineMode zmode; ZydisStackWidth stack; };

static const struct mode modes[] = {
	{ "64-bit", INSN_MODE_64, false, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
	{ "32-bit", INSN_MODE_32, false, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32 },
	{ "16-bit", INSN_MODE_16, false, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16 },
	{ "real",   INSN_MODE_16, true,  ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16 },
};

/* Sets we do not have, and why. Everything else Zydis accepts we must accept. */
static const struct { uint8_t set; const char *why; } not_offered[] = {
	{ ZYDIS_ISA_SET_AMD3DNOW, "removed from CPUs" },
	{ ZYDIS_ISA_SET_AMD_INVLPGB, "AMD only" },
	{ ZYDIS_ISA_SET_AMX_BF16, "AMX" }, { ZYDIS_ISA_SET_AMX_INT8, "AMX" }, { ZYDIS_ISA_SET_AMX_TILE, "AMX" },
	{ ZYDIS_ISA_SET_AVX_VNNI, "not offered" },
	{ ZYDIS_ISA_SET_CET, "not offered" },
	{ ZYDIS_ISA_SET_CLZERO, "AMD only" },
	{ ZYDIS_ISA_SET_ENQCMD, "not offered" },
	{ ZYDIS_ISA_SET_FMA4, "AMD only" },
	{ ZYDIS_ISA_SET_HRESET, "not offered" },
	{ ZYDIS_ISA_SET_KEYLOCKER, "not offered" }, { ZYDIS_ISA_SET_KEYLOCKER_WIDE, "not offered" },
	{ ZYDIS_ISA_SET_LWP, "AMD only" },
	{ ZYDIS_ISA_SET_MCOMMIT, "AMD only" },
	{ ZYDIS_ISA_SET_MONITORX, "AMD only" },
	{ ZYDIS_ISA_SET_PADLOCK_ACE, "VIA only" }, { ZYDIS_ISA_SET_PADLOCK_PHE, "VIA only" },
	{ ZYDIS_ISA_SET_PADLOCK_PMM, "VIA only" }, { ZYDIS_ISA_SET_PADLOCK_RNG, "VIA only" },
	{ ZYDIS_ISA_SET_PCONFIG, "not offered" },
	{ ZYDIS_ISA_SET_PT, "not offered" },
	{ ZYDIS_ISA_SET_RDPRU, "AMD only" },
	{ ZYDIS_ISA_SET_RTM, "not offered" },
	{ ZYDIS_ISA_SET_SGX_ENCLV, "not offered" },
	{ ZYDIS_ISA_SET_SMX, "not offered" },
	{ ZYDIS_ISA_SET_SSE4A, "AMD only" },
	{ ZYDIS_ISA_SET_SVM, "nesting is not offered" },
	{ ZYDIS_ISA_SET_TBM, "AMD only" },
	{ ZYDIS_ISA_SET_TDX, "not offered" },
	{ ZYDIS_ISA_SET_TSX_LDTRK, "not offered" },
	{ ZYDIS_ISA_SET_UINTR, "not offered" },
	{ ZYDIS_ISA_SET_VMFUNC, "nesting is not offered" }, { ZYDIS_ISA_SET_VTX, "nesting is not offered" },
	{ ZYDIS_ISA_SET_WAITPKG, "not offered" },
	{ ZYDIS_ISA_SET_XOP, "AMD only" },
};


/* Encodings and whole families by the start of their set's name. */
static const struct { const char *prefix, *why; } not_offered_families[] = {
	{ "AVX512", "AVX-512" }, { "KNC", "Xeon Phi" },
};

enum aspect {
	MISSING,	/* Zydis accepts, we do not */
	EXTRA,		/* we accept, Zydis does not */
	LENGTH, NAME, OPSIZE, ADSIZE, MEMSIZE, ACTION, ADDRESS, SEGMENT, IMMEDIATE, REGISTER, PRIVILEGE, FLAGS_READ, FLAGS_WRITTEN,
	ALIGNMENT, SIMD_EXCEPTIONS,
	N_ASPECTS,
};

static const char *const aspect_names[N_ASPECTS] = {
	"missing", "extra", "length", "name", "operand size", "address size", "memory size", "memory action", "address", "segment",
	"immediate", "register", "privilege", "flags read", "flags written",
	"alignment", "SIMD exceptions",
};

#define ANY_OP 0xFFFF

/* Where we differ on purpose: aspect, Zydis's mnemonic (NULL: any), our operation. Reviewed one by one. */
static const struct { enum aspect aspect; const char *name; unsigned op; const char *why; } deliberate[] = {
	{ MISSING, "psmash", ANY_OP, "SNP host instruction" },
	{ MISSING, "rmpupdate", ANY_OP, "SNP host instruction" },
	{ EXTRA, NULL, I_SYSENTER, "real mode: #GP rather than #UD, which the handler raises" },
	{ EXTRA, NULL, I_SYSEXIT, "real mode: #GP rather than #UD, which the handler raises" },
	{ NAME, "ret", I_RET_FAR, "printed as retf" },
	{ NAME, "fcom", I_FCOM2, "alias with a name of its own" },
	{ NAME, "fcomp", I_FCOMP3, "alias with a name of its own" },
	{ NAME, "fcomp", I_FCOMP5, "alias with a name of its own" },
	{ NAME, "fstp", I_FSTP8, "alias with a name of its own" },
	{ NAME, "fstp", I_FSTP9, "alias with a name of its own" },
	{ NAME, "fxch", I_FXCH4, "alias with a name of its own" },
	{ NAME, "fxch", I_FXCH7, "alias with a name of its own" },
	{ NAME, "feni8087_nop", I_FNENI, "Intel's name" },
	{ NAME, "fdisi8087_nop", I_FNDISI, "Intel's name" },
	{ NAME, "fsetpm287_nop", I_FNSETPM, "Intel's name" },
	{ NAME, "vmmcall", I_VMGEXIT, "F3 is VMGEXIT too (AMD APM vol. 3)" },
	{ NAME, "wbinvd", I_WBNOINVD, "Zydis 4.0 does not tell them apart" },
	{ OPSIZE, NULL, I_XLAT, "ours is the size of the access" },
	{ OPSIZE, NULL, I_INS, "W means nothing to port I/O: ours is the size of the access" },
	{ OPSIZE, NULL, I_OUTS, "W means nothing to port I/O: ours is the size of the access" },
	{ OPSIZE, NULL, I_SGDT, "has none: memsize counts" },
	{ OPSIZE, NULL, I_SIDT, "has none: memsize counts" },
	{ OPSIZE, NULL, I_LGDT, "has none: 66 matters to the handler, memsize counts" },
	{ OPSIZE, NULL, I_LIDT, "has none: 66 matters to the handler, memsize counts" },
	{ OPSIZE, NULL, I_SYSCALL, "has none" },
	{ OPSIZE, NULL, I_ENCLS, "has none" },
	{ OPSIZE, NULL, I_ENCLU, "has none" },
	{ OPSIZE, NULL, I_MOVDIR64B, "has none: 66 is mandatory, memsize counts" },
	{ OPSIZE, NULL, I_MASKMOVQ, "ours is the vector's size" },
	{ ADSIZE, NULL, I_ENCLS, "has none" },
	{ ADSIZE, NULL, I_ENCLU, "has none" },
	{ MEMSIZE, "movsxd", I_MOVSXD, "66 63 /r reads a word (tried at a page end on a CPU)" },
	{ MEMSIZE, NULL, I_XSAVE, "varies" }, { MEMSIZE, NULL, I_XSAVEOPT, "varies" }, { MEMSIZE, NULL, I_XSAVEC, "varies" },
	{ MEMSIZE, NULL, I_XSAVES, "varies" }, { MEMSIZE, NULL, I_XRSTOR, "varies" }, { MEMSIZE, NULL, I_XRSTORS, "varies" },
	{ MEMSIZE, NULL, I_FXSAVE, "does not fit a byte" }, { MEMSIZE, NULL, I_FXRSTOR, "does not fit a byte" },
	{ ADDRESS, NULL, ANY_OP, "with 67 and REX.B, Zydis takes SIB base 5 without displacement as r13; SDM: no base" },
	{ PRIVILEGE, NULL, I_LGDT, "Zydis forgets it: SDM has #GP(0) unless CPL 0" },
	{ PRIVILEGE, NULL, I_MONITOR, "#UD rather than #GP: the handler's" }, { PRIVILEGE, NULL, I_MWAIT, "#UD: the handler's" },
	{ PRIVILEGE, NULL, I_CLAC, "#UD: the handler's" }, { PRIVILEGE, NULL, I_STAC, "#UD: the handler's" },
	{ PRIVILEGE, NULL, I_ENCLS, "#UD: the handler's" },
	{ FLAGS_READ, NULL, I_SAHF, "keeps OF" },
	{ FLAGS_READ, NULL, I_ROL, "keeps some" }, { FLAGS_READ, NULL, I_ROR, "keeps some" },
	{ FLAGS_READ, NULL, I_SHL, "keeps all if the count is 0" }, { FLAGS_READ, NULL, I_SHR, "keeps all if the count is 0" },
	{ FLAGS_READ, NULL, I_SAR, "keeps all if the count is 0" },
	{ FLAGS_READ, NULL, I_SHLD, "keeps all if the count is 0" }, { FLAGS_READ, NULL, I_SHRD, "keeps all if the count is 0" },
	{ FLAGS_READ, NULL, I_CMPS, "REPE tests what the comparison itself left" },
	{ FLAGS_READ, NULL, I_SCAS, "REPE tests what the comparison itself left" },
	/* In the class whose memory operands are aligned, but excepted by the manual. */
	{ ALIGNMENT, NULL, I_MOVUPS, "class 4, excepted" }, { ALIGNMENT, NULL, I_MOVUPD, "class 4, excepted" },
	{ ALIGNMENT, NULL, I_MOVDQU, "class 4, excepted" }, { ALIGNMENT, NULL, I_LDDQU, "class 4, excepted" },
	{ ALIGNMENT, NULL, I_PCMPESTRI, "class 4, excepted" }, { ALIGNMENT, NULL, I_PCMPESTRM, "class 4, excepted" },
	{ ALIGNMENT, NULL, I_PCMPISTRI, "class 4, excepted" }, { ALIGNMENT, NULL, I_PCMPISTRM, "class 4, excepted" },
	{ FLAGS_WRITTEN, NULL, I_VMCALL, "flags are VMX's; a hypercall leaves them" },
};

static struct {
	ZydisDecoder decoders[ARRAY_SIZE(modes)];
	const char *why_not[ZYDIS_ISA_SET_MAX_VALUE + 1];
	unsigned long n_tried, n_both;
	unsigned n_unexplained;
	bool hit[ARRAY_SIZE(deliberate)];
} g;

/* One comparison. */
struct pair {
	const struct mode *mode;
	const uint8_t *bytes;
	ZydisDecodedInstruction z;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	struct insn in;
	const struct insn_row *row;
};

/* ---- Forms: the denominator ---- */

/* Distinct (mode, mnemonic, encoding, map, opcode, /reg, register or memory, prefix, W, L): an open hash set of keys. */
#define FORM_SLOTS (1u << 16)

struct form_entry { uint64_t key; bool offered, wrong, left_out; uint8_t mode; };

static struct form_entry forms[FORM_SLOTS];

static struct form_entry *form_of_pair(const struct pair *p)
{
	const ZydisDecodedInstruction *z = &p->z;
	bool has_modrm = z->attributes & ZYDIS_ATTRIB_HAS_MODRM;
	uint64_t key = z->mnemonic;
	unsigned slot;

	key = key << 2 | (uint64_t)(p->mode - modes);
	key = key << 3 | z->encoding;
	key = key << 4 | z->opcode_map;
	key = key << 8 | z->opcode;
	key = key << 2 | (has_modrm ? z->raw.modrm.mod == 3 ? 2u : 1u : 0u);
	key = key << 8 | z->operand_width / 8u;
	key = key << 2 | z->avx.vector_length / 128u % 4u;
	key = (key << 1 | 1) * 0x9E3779B97F4A7C15ull;
	for (slot = key >> 48; forms[slot].key && forms[slot].key != key; slot = (slot + 1) % FORM_SLOTS)
		;
	if (!forms[slot].key) {
		const char *set = ZydisISASetGetString(z->meta.isa_set);

		forms[slot] = (struct form_entry){ .key = key, .offered = !g.why_not[z->meta.isa_set], .mode = p->mode - modes };
		for (unsigned i = 0; i < ARRAY_SIZE(not_offered_families); i++)
			if (!strncmp(set, not_offered_families[i].prefix, strlen(not_offered_families[i].prefix)))
				forms[slot].offered = false;
		if (z->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && z->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
			forms[slot].offered = false;
	}
	return &forms[slot];
}

/* ---- Differences ---- */

static bool is_deliberate(const struct pair *p, enum aspect a, const char *zname)
{
	/* Addresses only and flushes: we say "varies" and "address only" whatever Zydis thinks is touched. */
	if ((a == MEMSIZE || a == ACTION) && p->row && (p->row->mem == M_ADDR || (a == ACTION && p->row->mem == M_MULTI)))
		return true;
	for (unsigned i = 0; i < ARRAY_SIZE(deliberate); i++) {
		if (deliberate[i].aspect != a || (deliberate[i].op != ANY_OP && deliberate[i].op != p->in.op))
			continue;
		if (deliberate[i].name && (!zname || strcmp(deliberate[i].name, zname)))
			continue;
		/* The one case of the address row, and no other. */
		if (a == ADDRESS && !(p->in.pfx_addr && p->in.mode == INSN_MODE_64 && p->in.mod == 0 && p->in.base == GPR_ZERO))
			continue;
		g.hit[i] = true;
		return true;
	}
	return false;
}

/* One line per aspect and instruction is enough to read. */
static bool first_of_kind(const struct pair *p, enum aspect a)
{
	static uint32_t seen[200];
	static unsigned n;
	uint32_t kind = (uint32_t)a << 27 | (uint32_t)p->z.mnemonic << 12 | p->in.op;

	for (unsigned i = 0; i < n; i++)
		if (seen[i] == kind)
			return false;
	if (n == ARRAY_SIZE(seen))
		return false;
	seen[n++] = kind;
	return true;
}

static void differ(const struct pair *p, enum aspect a, long theirs, long ours)
{
	const char *zname = a == EXTRA ? NULL : ZydisMnemonicGetString(p->z.mnemonic);

	if (is_deliberate(p, a, zname)) {
		if (a == MISSING)
			form_of_pair(p)->left_out = true;
		return;
	}
	if (a != EXTRA)
		form_of_pair(p)->wrong = true;
	g.n_unexplained++;
	if (!first_of_kind(p, a))
		return;
	print_message("# %s, %s: Zydis %s (%ld), we %s (%ld):", p->mode->name, aspect_names[a], zname ? zname : "nothing", theirs,
		      a == MISSING ? "nothing" : insn_op_name(p->in.op), ours);
	for (unsigned i = 0; i < 15; i++)
		print_message(" %02x", p->bytes[i]);
	print_message("\n");
}

static void compare_name(const struct pair *p)
{
	char text[160], *start = text, *end;

	insn_format(&p->in, 0, text, sizeof(text));
	for (;;) {
		end = strchr(start, ' ');
		if (!end)
			break;
		*end = '\0';
		if (strcmp(start, "rep") && strcmp(start, "repe") && strcmp(start, "repne") && strcmp(start, "lock"))
			break;
		start = end + 1;
	}
	if (strcmp(start, ZydisMnemonicGetString(p->z.mnemonic)))
		differ(p, NAME, 0, 0);
}

static int gpr_number(ZydisRegister r)
{
	if (r == ZYDIS_REGISTER_NONE)
		return GPR_ZERO;
	if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
		return GPR_RIP;
	return ZydisRegisterGetId(r);
}

static void compare_memory(const struct pair *p, const ZydisDecodedOperand *o)
{
	bool agen = o->mem.type == ZYDIS_MEMOP_TYPE_AGEN;
	int base = gpr_number(o->mem.base), index = gpr_number(o->mem.index);
	bool reads = o->actions & ZYDIS_OPERAND_ACTION_MASK_READ, writes = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	unsigned mem = p->row->mem;
	/* Zydis sign-extends also the address of MOV moffs. */
	uint64_t mask = p->in.has_modrm || p->in.adsize == 8 ? ~0ull : (1ull << p->in.adsize * 8) - 1;

	if (!agen && o->size / 8 != p->in.memsize)
		differ(p, MEMSIZE, o->size / 8, p->in.memsize);
	if (!agen && (reads != (mem == M_R || mem == M_RW || mem == M_PUSH) || writes != (mem == M_W || mem == M_RW || mem == M_POP)))
		differ(p, ACTION, reads + 2 * writes, mem);
	if (base != p->in.base || index != p->in.index || (index != GPR_ZERO && o->mem.scale != 1 << p->in.scale) ||
	    (uint64_t)(o->mem.disp.value ^ p->in.disp) & mask)
		differ(p, ADDRESS, base, p->in.base);
	if (!agen && o->mem.segment - ZYDIS_REGISTER_ES != p->in.seg)
		differ(p, SEGMENT, o->mem.segment - ZYDIS_REGISTER_ES, p->in.seg);
}

static void compare_register(const struct pair *p, const ZydisDecodedOperand *o)
{
	int theirs = ZydisRegisterGetId(o->reg.value), ours;
	bool byte = ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_GPR8;

	switch (o->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG:	ours = p->in.reg; break;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM:
	case ZYDIS_OPERAND_ENCODING_OPCODE:	ours = p->in.rm; break;
	case ZYDIS_OPERAND_ENCODING_NDSNDD:	ours = p->in.vvvv; break;
	case ZYDIS_OPERAND_ENCODING_IS4:	ours = p->in.imm >> 4 & (p->in.mode == INSN_MODE_64 ? 15 : 7); break;
	default:				return;
	}
	/* Zydis counts AH to BH before SPL to DIL. */
	if (byte && p->in.rex && theirs >= 8)
		theirs -= 4;
	if (theirs != ours)
		differ(p, REGISTER, theirs, ours);
}

static void compare_operands(const struct pair *p)
{
	bool memory = false;

	for (unsigned i = 0; i < p->z.operand_count_visible; i++) {
		const ZydisDecodedOperand *o = &p->ops[i];
		uint64_t mask = o->size >= 64 ? ~0ull : (1ull << o->size) - 1;

		switch (o->type) {
		case ZYDIS_OPERAND_TYPE_MEMORY:
			if (!memory && p->row->mem != M_STRING)
				compare_memory(p, o);
			memory = true;
			break;
		case ZYDIS_OPERAND_TYPE_IMMEDIATE:
			if (((o->imm.value.u ^ p->in.imm) & mask) && ((o->imm.value.u ^ p->in.imm2) & mask) &&
			    p->row->opnd[1] != OE_ONE)
				differ(p, IMMEDIATE, (long)o->imm.value.u, (long)p->in.imm);
			break;
		case ZYDIS_OPERAND_TYPE_REGISTER:
			compare_register(p, o);
			break;
		default:
			break;
		}
	}
	if (p->in.has_mem != memory && p->row->mem != M_STRING)
		differ(p, ADDRESS, memory, p->in.has_mem);
}

static void compare_effects(const struct pair *p)
{
	const ZydisAccessedFlags *f = p->z.cpu_flags;
	const uint32_t arith = ZYDIS_CPUFLAG_CF | ZYDIS_CPUFLAG_PF | ZYDIS_CPUFLAG_AF | ZYDIS_CPUFLAG_ZF | ZYDIS_CPUFLAG_SF |
			       ZYDIS_CPUFLAG_OF;
	bool privileged = p->z.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED;

	if (privileged != !!(p->row->attr & IA_CPL0))
		differ(p, PRIVILEGE, privileged, !privileged);
	if (!f)
		return;
	if (!(f->tested & arith) != !(p->row->attr & IA_FLAGS_R))
		differ(p, FLAGS_READ, f->tested & arith, p->row->attr & IA_FLAGS_R);
	if (!((f->modified | f->set_0 | f->set_1 | f->undefined) & arith) != !(p->row->attr & IA_FLAGS_W))
		differ(p, FLAGS_WRITTEN, f->modified & arith, p->row->attr & IA_FLAGS_W);
}

/* By the exception classes of SDM vol. 2 "Exceptions Type"; forms with MMX operands have none. */
static void compare_vector_exceptions(const struct pair *p)
{
	bool align = p->row->attr & IA_ALIGN, simd = p->row->attr & IA_MXCSR;

	switch (p->z.meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_SSE1: case ZYDIS_EXCEPTION_CLASS_SSE4: case ZYDIS_EXCEPTION_CLASS_AVX1:
		if (!align && p->in.has_mem)
			differ(p, ALIGNMENT, 1, 0);
		if (simd)
			differ(p, SIMD_EXCEPTIONS, 0, 1);
		break;
	case ZYDIS_EXCEPTION_CLASS_SSE2:
		if (!align || !simd)
			differ(p, SIMD_EXCEPTIONS, 1, 0);
		break;
	case ZYDIS_EXCEPTION_CLASS_SSE3: case ZYDIS_EXCEPTION_CLASS_AVX2: case ZYDIS_EXCEPTION_CLASS_AVX3:
	case ZYDIS_EXCEPTION_CLASS_AVX11:
		if (align || !simd)
			differ(p, SIMD_EXCEPTIONS, 1, 0);
		break;
	case ZYDIS_EXCEPTION_CLASS_NONE:
		break;
	default:
		if ((align && p->in.has_mem) || simd)
			differ(p, SIMD_EXCEPTIONS, 0, 1);
		break;
	}
}

static void compare(const struct mode *mode, const uint8_t *bytes)
{
	struct pair p = { .mode = mode, .bytes = bytes };
	const ZydisDecoder *d = &g.decoders[mode - modes];
	ZydisDecoderContext ctx;
	bool theirs = ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(d, &ctx, bytes, INSN_MAX_LEN, &p.z));
	bool ours = insn_decode(bytes, INSN_MAX_LEN, mode->mode, mode->real, NULL, &p.in) == INSN_OK;
	const struct form_entry *form;

	g.n_tried++;
	if (!theirs && !ours)
		return;
	if (ours)
		p.row = &insn_rows[p.in.row];
	if (!theirs) {
		differ(&p, EXTRA, 0, 0);
		return;
	}
	form = form_of_pair(&p);
	if (!ours) {
		if (form->offered)
			differ(&p, MISSING, 0, 0);
		return;
	}
	g.n_both++;
	if (p.z.length != p.in.len) {
		differ(&p, LENGTH, p.z.length, p.in.len);
		return;
	}
	if (ZYAN_FAILED(ZydisDecoderDecodeOperands(d, &ctx, &p.z, p.ops, p.z.operand_count_visible)))
		fail_msg("Zydis decoded an instruction but not its operands");
	compare_name(&p);
	compare_operands(&p);
	compare_effects(&p);
	compare_vector_exceptions(&p);
	if (p.row->cls == IC_INT && !(p.row->attr & IA_WSIZE) && p.in.opsize <= 8 && p.z.operand_width / 8 != p.in.opsize &&
	    p.row->mem != M_ADDR)
		differ(&p, OPSIZE, p.z.operand_width / 8, p.in.opsize);
	if (p.z.address_width / 8 != p.in.adsize)
		differ(&p, ADSIZE, p.z.address_width / 8, p.in.adsize);
}

/* ---- Enumeration ---- */

/* SIB, displacement and immediate: fixed bytes that vary with the opcode, so that signs and registers vary too. */
static void fill_tail(uint8_t *b, unsigned opcode, unsigned modrm)
{
	b[0] = modrm * 37 + opcode;
	for (unsigned i = 1; i < 16; i++)
		b[i] = 0x91 + i * 0x29 + opcode;
}

static const char *const prefix_sets[] = {
	"", "\x66", "\xF3", "\xF2", "\x66\xF3", "\x66\xF2", "\xF0", "\xF0\x66", "\xF0\xF3", "\xF0\xF2", "\x67", "\xF3\xF2", "\x2E\x65",
	"\x65\x2E", "\x48\x66",
};

static const uint8_t rex_set[] = { 0, 0x40, 0x41, 0x44, 0x48, 0x4F };

static const struct { unsigned n; uint8_t bytes[2]; } escapes[] = { { 0, { 0 } }, { 1, { 0x0F } }, { 2, { 0x0F, 0x38 } }, { 2, { 0x0F, 0x3A } } };

/* C4, C5 and 62 lead elsewhere in 64-bit mode and with mod 3; 0F, 0F38 and 0F3A are escapes. */
static bool is_elsewhere(const struct mode *m, unsigned map, unsigned opcode, unsigned modrm)
{
	if (map == 1)
		return opcode == 0x38 || opcode == 0x3A;
	if (map)
		return false;
	if (opcode == 0xC4 || opcode == 0xC5 || opcode == 0x62)
		return m->mode == INSN_MODE_64 || modrm >= 0xC0;
	return opcode == 0x0F;
}

static void enumerate_opcodes(const struct mode *m, const char *prefixes, uint8_t rex, unsigned map)
{
	uint8_t b[40];
	unsigned n = strlen(prefixes);

	memcpy(b, prefixes, n);
	if (rex)
		b[n++] = rex;
	memcpy(b + n, escapes[map].bytes, escapes[map].n);
	n += escapes[map].n;
	for (unsigned opcode = 0; opcode < 256; opcode++)
		for (unsigned modrm = 0; modrm < 256; modrm++) {
			if (is_elsewhere(m, map, opcode, modrm))
				continue;
			b[n] = opcode;
			b[n + 1] = modrm;
			fill_tail(b + n + 2, opcode, modrm);
			compare(m, b);
		}
}

static void legacy_maps_agree(void **state)
{
	const struct mode *m = *state;
	unsigned n_rex = m->mode == INSN_MODE_64 ? ARRAY_SIZE(rex_set) : 1;

	g.n_unexplained = 0;
	for (unsigned p = 0; p < ARRAY_SIZE(prefix_sets); p++)
		for (unsigned r = 0; r < n_rex; r++)
			for (unsigned map = 0; map < ARRAY_SIZE(escapes); map++)
				enumerate_opcodes(m, prefix_sets[p], rex_set[r], map);
	assert_int_equal(g.n_unexplained, 0);
}

/* One opcode with every ModRM; @p0 and @p1 are the payload of C4. */
static void enumerate_vex_opcode(const struct mode *m, uint8_t p0, uint8_t p1, unsigned opcode)
{
	uint8_t b[40] = { 0xC4, p0, p1, opcode };

	for (unsigned modrm = 0; modrm < 256; modrm++) {
		b[4] = modrm;
		fill_tail(b + 5, opcode, modrm);
		compare(m, b);
		/* The short prefix means the same where it can say it. */
		if ((p0 & 0x7F) == 0x61 && !(p1 & 0x80)) {
			uint8_t two[40] = { 0xC5, (p0 & 0x80) | p1, opcode, modrm };

			fill_tail(two + 4, opcode, modrm);
			compare(m, two);
		}
	}
}

static void vex_maps_agree(void **state)
{
	static const uint8_t vvvv[] = { 15, 14, 2 };
	const struct mode *m = *state;

	g.n_unexplained = 0;
	for (unsigned map = 0; map < 8; map++)
		for (unsigned opcode = 0; opcode < 256; opcode++)
			for (unsigned pp_l_w = 0; pp_l_w < 16; pp_l_w++)
				for (unsigned v = 0; v < ARRAY_SIZE(vvvv); v++) {
					uint8_t p1 = (pp_l_w & 7) | vvvv[v] << 3 | (pp_l_w & 8) << 4;

					enumerate_vex_opcode(m, 0xE0 | map, p1, opcode);
					/* R, X, B set; outside 64-bit mode R and X must stay 1 or it is LES. */
					if (v == 0)
						enumerate_vex_opcode(m, (m->mode == INSN_MODE_64 ? 0x00 : 0xC0) | map, p1, opcode);
				}
	assert_int_equal(g.n_unexplained, 0);
}

/* A legacy prefix or REX before VEX is #UD; 67 and segments are not. */
static void prefixes_before_vex_agree(void **state)
{
	static const uint8_t prefixes[] = { 0x66, 0xF2, 0xF3, 0xF0, 0x67, 0x2E, 0x65, 0x40, 0x48 };
	const struct mode *m = *state;

	g.n_unexplained = 0;
	for (unsigned p = 0; p < ARRAY_SIZE(prefixes); p++) {
		uint8_t b[40] = { prefixes[p], 0xC4, 0xE2, 0x71, 0x00, 0x05 };

		if (m->mode != INSN_MODE_64 && (prefixes[p] & 0xF0) == 0x40)
			continue;
		for (unsigned opcode = 0; opcode < 256; opcode++) {
			b[4] = opcode;
			compare(m, b);
		}
	}
	assert_int_equal(g.n_unexplained, 0);
}

static void count_forms(void **state)
{
	for (unsigned m = 0; m < ARRAY_SIZE(modes); m++) {
		unsigned n = 0, wrong = 0, left_out = 0, out = 0;

		for (unsigned i = 0; i < FORM_SLOTS; i++) {
			if (!forms[i].key || forms[i].mode != m)
				continue;
			n += forms[i].offered;
			out += !forms[i].offered;
			wrong += forms[i].wrong;
			left_out += forms[i].left_out;
		}
		print_message("# %s: Zydis accepts %u forms under the features we offer; we have %u, %u left out on purpose. "
			      "Features not offered: %u forms\n", modes[m].name, n, n - wrong - left_out, left_out, out);
		assert_true(n > 1000);
		assert_int_equal(wrong, 0);
	}
	print_message("# %lu encodings tried, %lu accepted by both\n", g.n_tried, g.n_both);
}

/* A row of the list that nothing needs any more would hide the next difference. */
static void every_deliberate_difference_occurs(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(deliberate); i++)
		if (!g.hit[i])
			fail_msg("row %u (%s %s) explains nothing", i, aspect_names[deliberate[i].aspect],
				 deliberate[i].name ? deliberate[i].name : insn_op_name(deliberate[i].op));
}

static int setup(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(not_offered); i++)
		g.why_not[not_offered[i].set] = not_offered[i].why;
	for (unsigned i = 0; i < ARRAY_SIZE(modes); i++) {
		ZydisDecoder *d = &g.decoders[i];

		if (ZYAN_FAILED(ZydisDecoderInit(d, modes[i].zmode, modes[i].stack)))
			return -1;
		/* Hints that are NOPs to us. */
		ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
		ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
		ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
	}
	return 0;
}

int main(void)
{
	void *m64 = (void *)(uintptr_t)&modes[0], *m32 = (void *)(uintptr_t)&modes[1];
	void *m16 = (void *)(uintptr_t)&modes[2], *real = (void *)(uintptr_t)&modes[3];
	const struct CMUnitTest tests[] = {
		{ "legacy maps agree with Zydis in 64-bit mode", legacy_maps_agree, NULL, NULL, m64 },
		{ "legacy maps agree with Zydis in 32-bit mode", legacy_maps_agree, NULL, NULL, m32 },
		{ "legacy maps agree with Zydis in 16-bit mode", legacy_maps_agree, NULL, NULL, m16 },
		{ "legacy maps agree with Zydis in real mode", legacy_maps_agree, NULL, NULL, real },
		{ "VEX maps agree with Zydis in 64-bit mode", vex_maps_agree, NULL, NULL, m64 },
		{ "VEX maps agree with Zydis in 32-bit mode", vex_maps_agree, NULL, NULL, m32 },
		{ "VEX maps agree with Zydis in 16-bit mode", vex_maps_agree, NULL, NULL, m16 },
		{ "prefixes before VEX agree with Zydis in 64-bit mode", prefixes_before_vex_agree, NULL, NULL, m64 },
		{ "prefixes before VEX agree with Zydis in 32-bit mode", prefixes_before_vex_agree, NULL, NULL, m32 },
		{ "every form that Zydis accepts under the offered features is there", count_forms, NULL, NULL, NULL },
		{ "every deliberate difference still occurs", every_deliberate_difference_occurs, NULL, NULL, NULL },
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
