/* SPDX-License-Identifier: MIT */
/*
 * The decoder by itself: golden vectors, what is refused, how it ends when bytes run out, and that every row can be reached.
 * decode_zydis_test.c compares it with a second opinion; this one needs nothing but the library.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "isa/decode_private.h"
#include "isa/x86.h"

#define B(...) { __VA_ARGS__ }, sizeof((uint8_t[]){ __VA_ARGS__ })

/* ---- Golden vectors ---- */

/* Encodings worked out by hand from the instruction pages of Intel SDM vol. 2 and its "Instruction Format" chapter. */
static const struct golden {
	const char *name;
	enum insn_mode mode;
	uint8_t bytes[15];
	unsigned n;
	uint16_t op;
	uint8_t opsize, memsize;
	const char *text;
} golden[] = {
	{ "mov with REX.W and a stack base", INSN_MODE_64, B(0x48, 0x8B, 0x44, 0x24, 0x08), I_MOV, 8, 8, "mov rax, qword ptr [rsp+0x8]" },
	{ "RIP-relative with an immediate behind it", INSN_MODE_64, B(0x48, 0x81, 0x05, 0x10, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF), I_ADD, 8, 8,
	  "add qword ptr [rip+0x10], 0xffffffffffffffff" },
	{ "mov imm64", INSN_MODE_64, B(0x49, 0xB8, 1, 2, 3, 4, 5, 6, 7, 8), I_MOV, 8, 0, "mov r8, 0x807060504030201" },
	{ "66 beats nothing when W is set", INSN_MODE_64, B(0x66, 0x48, 0x05, 1, 0, 0, 0), I_ADD, 8, 0, "add rax, 0x1" },
	{ "a REX before a legacy prefix does not count", INSN_MODE_64, B(0x48, 0x66, 0x05, 1, 0), I_ADD, 2, 0, "add ax, 0x1" },
	{ "the last REX counts", INSN_MODE_64, B(0x41, 0x48, 0xFF, 0xC0), I_INC, 8, 0, "inc rax" },
	{ "40 is INC outside 64-bit mode", INSN_MODE_32, B(0x40), I_INC, 4, 0, "inc eax" },
	{ "high byte registers without REX", INSN_MODE_64, B(0x88, 0xE0), I_MOV, 1, 0, "mov al, ah" },
	{ "low byte registers with an empty REX", INSN_MODE_64, B(0x40, 0x88, 0xE0), I_MOV, 1, 0, "mov al, spl" },
	{ "push is 64 bits without REX.W", INSN_MODE_64, B(0x41, 0x57), I_PUSH, 8, 0, "push r15" },
	{ "push with 66 is 16 bits", INSN_MODE_64, B(0x66, 0x50), I_PUSH, 2, 0, "push ax" },
	{ "push imm8 is sign-extended", INSN_MODE_64, B(0x6A, 0xFF), I_PUSH, 8, 0, "push 0xffffffffffffffff" },
	{ "near jump ignores 66 in 64-bit mode", INSN_MODE_64, B(0x66, 0xE9, 0xFB, 0xFF, 0xFF, 0xFF), I_JMP_NEAR, 8, 0, "jmp 0x1001" },
	{ "near jump with 66 wraps at 16 bits", INSN_MODE_32, B(0x66, 0xE9, 0xFB, 0xFF), I_JMP_NEAR, 2, 0, "jmp 0xfff" },
	{ "conditional jump", INSN_MODE_64, B(0x0F, 0x85, 0x10, 0, 0, 0), I_JCC, 8, 0, "jnz 0x1016" },
	{ "jrcxz with 67 is jecxz", INSN_MODE_64, B(0x67, 0xE3, 0x00), I_JCXZ, 8, 0, "jecxz 0x1003" },
	{ "far call", INSN_MODE_16, B(0x9A, 0x34, 0x12, 0x00, 0xF0), I_CALL_FAR, 2, 0, "call 0xf000:0x1234" },
	{ "far jump through memory with REX.W", INSN_MODE_64, B(0x48, 0xFF, 0x28), I_JMP_FAR_IND, 8, 10, "jmp tbyte ptr [rax]" },
	{ "16-bit addressing with BP uses SS", INSN_MODE_16, B(0x8B, 0x46, 0xFE), I_MOV, 2, 2, "mov ax, word ptr ss:[bp-0x2]" },
	{ "16-bit direct address uses DS", INSN_MODE_16, B(0x8B, 0x06, 0x34, 0x12), I_MOV, 2, 2, "mov ax, word ptr [0x1234]" },
	{ "32-bit addressing in 16-bit code", INSN_MODE_16, B(0x67, 0x66, 0x8B, 0x04, 0x8D, 0x78, 0x56, 0x34, 0x12), I_MOV, 4, 4,
	  "mov eax, dword ptr [ecx*4+0x12345678]" },
	{ "mov moffs takes the address size", INSN_MODE_64, B(0xA1, 1, 2, 3, 4, 5, 6, 7, 8), I_MOV, 4, 4, "mov eax, dword ptr [0x807060504030201]" },
	{ "mov moffs with 67", INSN_MODE_64, B(0x67, 0xA0, 1, 2, 3, 4), I_MOV, 1, 1, "mov al, byte ptr [0x4030201]" },
	{ "the last segment override wins", INSN_MODE_32, B(0x64, 0x2E, 0x8B, 0x00), I_MOV, 4, 4, "mov eax, dword ptr cs:[eax]" },
	{ "CS does not undo FS in 64-bit mode", INSN_MODE_64, B(0x64, 0x2E, 0x8B, 0x00), I_MOV, 4, 4, "mov eax, dword ptr fs:[rax]" },
	{ "the override is the string's source", INSN_MODE_32, B(0xF3, 0x64, 0xA5), I_MOVS, 4, 4, "rep movsd dword ptr es:[edi], dword ptr fs:[esi]" },
	{ "stos ignores the override", INSN_MODE_32, B(0x64, 0xAA), I_STOS, 1, 1, "stosb byte ptr es:[edi], al" },
	{ "cmps prints repne", INSN_MODE_64, B(0xF2, 0x48, 0xA7), I_CMPS, 8, 8, "repne cmpsq qword ptr ds:[rsi], qword ptr es:[rdi]" },
	{ "ins ignores REX.W", INSN_MODE_64, B(0x48, 0x6D), I_INS, 4, 4, "insd dword ptr es:[rdi], dx" },
	{ "nop", INSN_MODE_64, B(0x90), I_NOP, 4, 0, "nop" },
	{ "90 with REX.B exchanges", INSN_MODE_64, B(0x41, 0x90), I_XCHG, 4, 0, "xchg r8d, eax" },
	{ "pause", INSN_MODE_64, B(0xF3, 0x90), I_PAUSE, 4, 0, "pause" },
	{ "endbr64 is a hint", INSN_MODE_64, B(0xF3, 0x0F, 0x1E, 0xFA), I_GRP_NOP, 4, 0, "nop edx" },
	{ "long nop", INSN_MODE_64, B(0x66, 0x0F, 0x1F, 0x84, 0x00, 0, 0, 0, 0), I_GRP_NOP, 2, 0, "nop [rax+rax*1]" },
	{ "enter has two immediates", INSN_MODE_64, B(0xC8, 0x10, 0x00, 0x02), I_ENTER, 8, 0, "enter 0x10, 0x2" },
	{ "ret with a count", INSN_MODE_64, B(0xC2, 0xF0, 0xFF), I_RET_NEAR, 8, 0, "ret 0xfff0" },
	{ "movzx reads a byte", INSN_MODE_64, B(0x48, 0x0F, 0xB6, 0x07), I_MOVZX, 8, 1, "movzx rax, byte ptr [rdi]" },
	{ "movsxd reads a doubleword", INSN_MODE_64, B(0x48, 0x63, 0x07), I_MOVSXD, 8, 4, "movsxd rax, dword ptr [rdi]" },
	{ "63 is ARPL outside 64-bit mode", INSN_MODE_32, B(0x63, 0x07), I_ARPL, 4, 2, "arpl word ptr [edi], eax" },
	{ "lock with a memory destination", INSN_MODE_64, B(0xF0, 0x0F, 0xB1, 0x0F), I_CMPXCHG, 4, 4, "lock cmpxchg dword ptr [rdi], ecx" },
	{ "cmpxchg8b", INSN_MODE_64, B(0x0F, 0xC7, 0x0F), I_CMPXCHG8B, 4, 8, "cmpxchg8b qword ptr [rdi]" },
	{ "cmpxchg16b", INSN_MODE_64, B(0x48, 0x0F, 0xC7, 0x0F), I_CMPXCHG16B, 8, 16, "cmpxchg16b xmmword ptr [rdi]" },
	{ "mov to CR8", INSN_MODE_64, B(0x44, 0x0F, 0x22, 0xC0), I_MOV_TO_CR, 8, 0, "mov cr8, rax" },
	{ "mov from CR0 ignores mod", INSN_MODE_32, B(0x0F, 0x20, 0x00), I_MOV_FROM_CR, 4, 0, "mov eax, cr0" },
	{ "lgdt is ten bytes in 64-bit mode", INSN_MODE_64, B(0x0F, 0x01, 0x17), I_LGDT, 4, 10, "lgdt tbyte ptr [rdi]" },
	{ "lgdt is six bytes elsewhere", INSN_MODE_16, B(0x0F, 0x01, 0x17), I_LGDT, 2, 6, "lgdt fword ptr [bx]" },
	{ "swapgs is not invlpg", INSN_MODE_64, B(0x0F, 0x01, 0xF8), I_SWAPGS, 4, 0, "swapgs" },
	{ "push gs keeps its segment", INSN_MODE_64, B(0x0F, 0xA8), I_PUSH_SEG, 8, 0, "push gs" },
	{ "les outside 64-bit mode", INSN_MODE_32, B(0xC4, 0x06), I_LES, 4, 6, "les eax, fword ptr [esi]" },
	{ "xsave64", INSN_MODE_64, B(0x48, 0x0F, 0xAE, 0x27), I_XSAVE, 8, 0, "xsave64 ptr [rdi]" },
	{ "lfence ignores rm", INSN_MODE_64, B(0x0F, 0xAE, 0xEF), I_LFENCE, 4, 0, "lfence" },
	{ "rdrand", INSN_MODE_64, B(0x48, 0x0F, 0xC7, 0xF1), I_RDRAND, 8, 0, "rdrand rcx" },
	{ "fld m80", INSN_MODE_64, B(0xDB, 0x2F), I_FLD, 4, 10, "fld tbyte ptr [rdi]" },
	{ "fnstenv with a 16-bit operand size", INSN_MODE_32, B(0x66, 0xD9, 0x37), I_FNSTENV, 2, 14, "fnstenv ptr [edi]" },
	{ "fxch", INSN_MODE_64, B(0xD9, 0xC9), I_FXCH, 4, 0, "fxch st(0), st(1)" },
	{ "pxor mm ignores REX.B", INSN_MODE_64, B(0x41, 0x0F, 0xEF, 0xC1), I_PXOR, 8, 0, "pxor mm0, mm1" },
	{ "movss loads four bytes", INSN_MODE_64, B(0xF3, 0x44, 0x0F, 0x10, 0x07), I_MOVSS, 16, 4, "movss xmm8, dword ptr [rdi]" },
	{ "F2 beats 66 as mandatory prefix", INSN_MODE_64, B(0x66, 0xF2, 0x0F, 0x58, 0x07), I_ADDSD, 16, 8, "addsd xmm0, qword ptr [rdi]" },
	{ "the last of F2 and F3 is the mandatory prefix", INSN_MODE_64, B(0xF2, 0xF3, 0x0F, 0x58, 0x07), I_ADDSS, 16, 4, "addss xmm0, dword ptr [rdi]" },
	{ "crc32 of a word", INSN_MODE_64, B(0x66, 0xF2, 0x0F, 0x38, 0xF1, 0x07), I_CRC32, 2, 2, "crc32 ax, word ptr [rdi]" },
	{ "pmovzxbq reads two bytes", INSN_MODE_64, B(0x66, 0x0F, 0x38, 0x32, 0x07), I_PMOVZXBQ, 16, 2, "pmovzxbq xmm0, word ptr [rdi]" },
	{ "vaddps ymm", INSN_MODE_64, B(0xC5, 0xFC, 0x58, 0x44, 0x88, 0x10), I_VADDPS, 32, 32, "vaddps ymm0, ymm0, ymmword ptr [rax+rcx*4+0x10]" },
	{ "vmovddup ymm reads it all", INSN_MODE_64, B(0xC5, 0xFF, 0x12, 0x07), I_VMOVDDUP, 32, 32, "vmovddup ymm0, ymmword ptr [rdi]" },
	{ "vblendvps names a register in the immediate", INSN_MODE_64, B(0xC4, 0xE3, 0x75, 0x4A, 0xC2, 0xF0), I_VBLENDVPS, 32, 0,
	  "vblendvps ymm0, ymm1, ymm2, ymm15" },
	{ "vpgatherdd", INSN_MODE_64, B(0xC4, 0xE2, 0x75, 0x90, 0x04, 0x90), I_VPGATHERDD, 32, 4, "vpgatherdd ymm0, dword ptr [rax+ymm2*4], ymm1" },
	{ "andn in 32-bit mode ignores VEX.W", INSN_MODE_32, B(0xC4, 0xE2, 0xF0, 0xF2, 0x07), I_ANDN, 4, 4, "andn eax, ecx, dword ptr [edi]" },
	{ "C5 with mod 3 is VEX in 32-bit mode", INSN_MODE_32, B(0xC5, 0xF8, 0x77), I_VZEROUPPER, 4, 0, "vzeroupper" },
};

static void golden_vector_decodes(void **state)
{
	const struct golden *g = *state;
	struct insn in;
	char text[128];
	int wanted;

	assert_int_equal(insn_decode(g->bytes, g->n, g->mode, false, NULL, &in), INSN_OK);
	assert_int_equal(in.len, g->n);
	assert_string_equal(insn_op_name(in.op), insn_op_name(g->op));
	assert_int_equal(in.op, g->op);
	assert_int_equal(in.opsize, g->opsize);
	if (in.has_mem || g->memsize)
		assert_int_equal(in.memsize, g->memsize);
	wanted = insn_format(&in, 0x1000, text, sizeof(text));
	assert_string_equal(text, g->text);
	assert_int_equal(wanted, strlen(text));
}

/* ---- Refusals ---- */

static const struct refusal {
	const char *name;
	enum insn_mode mode;
	bool real;
	uint8_t bytes[18];
	unsigned n;
	enum insn_status want;
} refusals[] = {
	{ "lock on a register destination", INSN_MODE_64, false, B(0xF0, 0x01, 0xC0), INSN_UD },
	{ "lock on a load", INSN_MODE_64, false, B(0xF0, 0x03, 0x07), INSN_UD },
	{ "lock on a plain store", INSN_MODE_64, false, B(0xF0, 0x89, 0x07), INSN_UD },
	{ "lock on cmp", INSN_MODE_64, false, B(0xF0, 0x39, 0x07), INSN_UD },
	{ "lock on bt", INSN_MODE_64, false, B(0xF0, 0x0F, 0xA3, 0x07), INSN_UD },
	{ "lock on nop", INSN_MODE_64, false, B(0xF0, 0x90), INSN_UD },
	{ "lock before mov to CR", INSN_MODE_32, false, B(0xF0, 0x0F, 0x22, 0xC0), INSN_UD },
	{ "push es in 64-bit mode", INSN_MODE_64, false, B(0x06), INSN_UD },
	{ "aaa in 64-bit mode", INSN_MODE_64, false, B(0x37), INSN_UD },
	{ "far call in 64-bit mode", INSN_MODE_64, false, B(0x9A, 0, 0, 0, 0, 0, 0), INSN_UD },
	{ "opcode 82 in 64-bit mode", INSN_MODE_64, false, B(0x82, 0xC0, 0), INSN_UD },
	{ "EVEX in 64-bit mode", INSN_MODE_64, false, B(0x62, 0xF1, 0x7C, 0x48, 0x58, 0xC0), INSN_UD },
	{ "EVEX in 32-bit mode", INSN_MODE_32, false, B(0x62, 0xF1, 0x7C, 0x48, 0x58, 0xC0), INSN_UD },
	{ "bound with a register", INSN_MODE_16, true, B(0x62, 0xC0), INSN_UD },
	{ "into in 64-bit mode", INSN_MODE_64, false, B(0xCE), INSN_UD },
	{ "swapgs outside 64-bit mode", INSN_MODE_32, false, B(0x0F, 0x01, 0xF8), INSN_UD },
	{ "lea with a register", INSN_MODE_64, false, B(0x8D, 0xC0), INSN_UD },
	{ "lds with a register in real mode", INSN_MODE_16, true, B(0xC5, 0xC0), INSN_UD },
	{ "arpl in real mode", INSN_MODE_16, true, B(0x63, 0xC0), INSN_UD },
	{ "sldt in real mode", INSN_MODE_16, true, B(0x0F, 0x00, 0xC0), INSN_UD },
	{ "mov to cs", INSN_MODE_64, false, B(0x8E, 0xC8), INSN_UD },
	{ "mov to segment 6", INSN_MODE_64, false, B(0x8E, 0xF0), INSN_UD },
	{ "mov from segment 7", INSN_MODE_64, false, B(0x8C, 0xF8), INSN_UD },
	{ "mov to CR1", INSN_MODE_64, false, B(0x0F, 0x22, 0xC8), INSN_UD },
	{ "mov from CR15", INSN_MODE_64, false, B(0x44, 0x0F, 0x20, 0xF8), INSN_UD },
	{ "mov to DR8", INSN_MODE_64, false, B(0x44, 0x0F, 0x23, 0xC0), INSN_UD },
	{ "unassigned opcode 0F 04", INSN_MODE_64, false, B(0x0F, 0x04), INSN_UD },
	{ "3DNow!", INSN_MODE_64, false, B(0x0F, 0x0F, 0xC0, 0x9E), INSN_UD },
	{ "XOP", INSN_MODE_64, false, B(0x8F, 0xE8, 0x78, 0xA2, 0xC0, 0x00), INSN_UD },
	{ "vmlaunch", INSN_MODE_64, false, B(0x0F, 0x01, 0xC2), INSN_UD },
	{ "F3 on an instruction with no F3 form", INSN_MODE_64, false, B(0xF3, 0x0F, 0x14, 0xC0), INSN_UD },
	{ "VEX behind 66", INSN_MODE_64, false, B(0x66, 0xC5, 0xF8, 0x58, 0xC0), INSN_UD },
	{ "VEX behind F3", INSN_MODE_64, false, B(0xF3, 0xC5, 0xF8, 0x58, 0xC0), INSN_UD },
	{ "VEX behind lock", INSN_MODE_64, false, B(0xF0, 0xC5, 0xF8, 0x58, 0x07), INSN_UD },
	{ "VEX behind REX", INSN_MODE_64, false, B(0x40, 0xC5, 0xF8, 0x58, 0xC0), INSN_UD },
	{ "VEX map 0", INSN_MODE_64, false, B(0xC4, 0xE0, 0x78, 0x58, 0xC0), INSN_UD },
	{ "VEX.L on a 128-bit instruction", INSN_MODE_64, false, B(0xC5, 0xFC, 0x12, 0xC0), INSN_UD },
	{ "VEX.vvvv where it names nothing", INSN_MODE_64, false, B(0xC5, 0xF0, 0x28, 0xC0), INSN_UD },
	{ "VEX.W where it must be clear", INSN_MODE_64, false, B(0xC4, 0xE2, 0xF9, 0x18, 0x07), INSN_UD },
	{ "gather with mask and destination the same", INSN_MODE_64, false, B(0xC4, 0xE2, 0x7D, 0x90, 0x04, 0x90), INSN_UD },
	{ "gather without SIB", INSN_MODE_64, false, B(0xC4, 0xE2, 0x75, 0x90, 0x00), INSN_UD },
	{ "fifteen prefixes", INSN_MODE_64, false, B(0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90),
	  INSN_TOO_LONG },
	{ "sixteen bytes by displacement and immediate", INSN_MODE_64, false,
	  B(0x66, 0x66, 0x66, 0x66, 0x66, 0x48, 0x81, 0x84, 0x24, 0, 0, 0, 0, 1, 0, 0, 0), INSN_TOO_LONG },
	{ "no bytes", INSN_MODE_64, false, { 0 }, 0, INSN_MORE },
	{ "only prefixes so far", INSN_MODE_64, false, B(0x66, 0xF3, 0x48), INSN_MORE },
};

static void refusal_is_refused(void **state)
{
	const struct refusal *r = *state;
	struct insn in;

	assert_int_equal(insn_decode(r->bytes, r->n, r->mode, r->real, NULL, &in), r->want);
	assert_true(in.len <= INSN_MAX_LEN);
}

/* ---- Features ---- */

static const struct fallback {
	const char *name;
	enum isa_feature off;
	uint8_t bytes[15];
	unsigned n;
	uint16_t op;		/* I_INVALID: #UD */
} fallbacks[] = {
	{ "tzcnt without BMI1 is bsf", ISA_BMI1, B(0xF3, 0x0F, 0xBC, 0xC1), I_BSF },
	{ "lzcnt without LZCNT is bsr", ISA_LZCNT, B(0xF3, 0x0F, 0xBD, 0xC1), I_BSR },
	{ "popcnt without POPCNT", ISA_POPCNT, B(0xF3, 0x0F, 0xB8, 0xC1), I_INVALID },
	{ "movbe without MOVBE", ISA_MOVBE, B(0x0F, 0x38, 0xF0, 0x07), I_INVALID },
	{ "crc32 without MOVBE", ISA_MOVBE, B(0xF2, 0x0F, 0x38, 0xF0, 0x07), I_CRC32 },
	{ "adcx without ADX", ISA_ADX, B(0x66, 0x0F, 0x38, 0xF6, 0xC1), I_INVALID },
	{ "wbnoinvd without WBNOINVD is wbinvd", ISA_WBNOINVD, B(0xF3, 0x0F, 0x09), I_WBINVD },
	{ "vmgexit without SNP is vmmcall", ISA_SNP, B(0xF3, 0x0F, 0x01, 0xD9), I_VMMCALL },
	{ "endbr without CET is a hint", ISA_CET_NOP, B(0xF3, 0x0F, 0x1E, 0xFA), I_GRP_NOP },
	{ "rdpid without RDPID", ISA_RDPID, B(0xF3, 0x0F, 0xC7, 0xF8), I_INVALID },
	{ "256-bit integer without AVX2", ISA_AVX2, B(0xC5, 0xFD, 0xFC, 0xC0), I_INVALID },
	{ "128-bit integer without AVX2", ISA_AVX2, B(0xC5, 0xF9, 0xFC, 0xC0), I_VPADDB },
	{ "lahf in 64-bit mode without LAHF64", ISA_LAHF64, B(0x9F), I_INVALID },
	{ "cmpxchg16b without CX16", ISA_CX16, B(0x48, 0x0F, 0xC7, 0x0F), I_INVALID },
	{ "prefetchw without PREFETCHW is still no fault", ISA_PREFETCHW, B(0x0F, 0x0D, 0x0F), I_PREFETCH },
};

static void feature_decides(void **state)
{
	const struct fallback *f = *state;
	bool features[N_ISA_FEATURES];
	struct insn in;
	enum insn_status st;

	for (unsigned i = 0; i < N_ISA_FEATURES; i++)
		features[i] = i != f->off;
	st = insn_decode(f->bytes, f->n, INSN_MODE_64, false, features, &in);
	assert_int_equal(st, f->op == I_INVALID ? INSN_UD : INSN_OK);
	if (st == INSN_OK)
		assert_string_equal(insn_op_name(in.op), insn_op_name(f->op));
}

/* ---- Tables ---- */

static void tables_have_room_for_every_row(void **state)
{
	assert_false(insn_index.overflow);
	assert_true(n_insn_rows > 1000 && n_insn_rows <= MAX_FORMS);
}

/* One encoding of a row: memory [rax] or registers, whichever it wants. Returns its length without what follows ModRM. */
static unsigned encode_row(const struct insn_row *r, uint8_t *b)
{
	bool vex = r->map & 0x10, w1 = r->attr & IA_W1;
	bool reg_form = false, mem_form = false;
	unsigned n = 0, map = r->map & 3;
	uint8_t modrm = r->ext > 0 ? r->ext << 3 : 0;

	for (unsigned i = 0; i < 4; i++) {
		switch (r->opnd[i]) {
		case OE_RM_REG: case OE_VRM_REG: case OE_MRM_REG: case OE_STI: case OE_NOREG:
			reg_form = true;
			break;
		case OE_MEM: case OE_VMEM:
			mem_form = true;
			break;
		default:
			break;
		}
	}
	if (reg_form && !mem_form)
		modrm |= 0xC0;
	if (r->modrm >= 0)
		modrm = r->modrm;
	/* A gather needs SIB and three different registers; MOV from CS and to CR0 are there with register 0. */
	if (r->attr & IA_VSIB)
		modrm |= 4;
	if (vex) {
		uint8_t vvvv = 15;

		for (unsigned i = 0; i < 4; i++)
			if (r->opnd[i] == OE_VVVV || r->opnd[i] == OE_VGPR)
				vvvv = (uint8_t)~1 & 15;
		b[n++] = 0xC4;
		b[n++] = 0xE0 | map;
		b[n++] = (w1 ? 0x80 : 0) | vvvv << 3 | (r->attr & IA_L1 ? 4 : 0) |
			 (r->pfx == 0x66 ? 1 : r->pfx == 0xF3 ? 2 : r->pfx == 0xF2 ? 3 : 0);
	} else {
		if (r->pfx > 0)
			b[n++] = (uint8_t)r->pfx;
		if (w1)
			b[n++] = 0x48;
		if (map && r->map != 4)
			b[n++] = 0x0F;
		if (map == 2 || map == 3)
			b[n++] = map == 2 ? 0x38 : 0x3A;
	}
	b[n++] = r->opcode;
	b[n++] = modrm;
	b[n] = r->attr & IA_VSIB ? 0x10 : 0;
	return n;
}

static bool same_form(const struct insn_row *a, const struct insn_row *b)
{
	return a->op == b->op && !memcmp(a->opnd, b->opnd, sizeof(a->opnd)) && a->attr == b->attr && a->memsize == b->memsize;
}

/* Rows that the encoding below cannot reach because an earlier one covers its ModRM byte; reached otherwise. */
static bool shadowed_on_purpose(const struct insn_row *r)
{
	return r->op == I_XCHG && r->opcode == 0x90;
}

static void every_row_decodes_to_itself(void **state)
{
	for (unsigned i = 0; i < n_insn_rows; i++) {
		const struct insn_row *r = &insn_rows[i];
		enum insn_mode mode = r->attr & IA_NO64 ? INSN_MODE_32 : INSN_MODE_64;
		uint8_t b[32] = { 0 };
		struct insn in;

		if (shadowed_on_purpose(r))
			continue;
		encode_row(r, b);
		/* Hints are rows of two kinds for one ModRM byte: the register form is the second's. */
		if (r->op == I_GRP_NOP)
			b[2] |= 0xC0;
		if (insn_decode(b, INSN_MAX_LEN, mode, false, NULL, &in) != INSN_OK)
			fail_msg("row %u (%s, map %u, opcode %02x) is refused", i, r->name, r->map, r->opcode);
		if (in.row != i && !same_form(r, &insn_rows[in.row]))
			fail_msg("row %u (%s, map %u, opcode %02x) decodes as row %u (%s)", i, r->name, r->map, r->opcode, in.row,
				 insn_rows[in.row].name);
	}
}

static void every_operation_has_a_row(void **state)
{
	static bool seen[N_INSN_OPS];

	for (unsigned i = 0; i < n_insn_rows; i++)
		seen[insn_rows[i].op] = true;
	for (unsigned op = I_INVALID + 1; op < N_INSN_OPS; op++)
		if (!seen[op])
			fail_msg("operation %s has no row", insn_op_name(op));
}

static void every_opcode_agrees_on_modrm(void **state)
{
	/* The decoder asks the opcode, not the row, whether ModRM follows: all rows of an opcode must want the same. */
	for (unsigned i = 0; i < n_insn_rows; i++)
		for (unsigned j = i + 1; j < n_insn_rows && j < i + 40; j++) {
			const struct insn_row *a = &insn_rows[i], *b = &insn_rows[j];
			bool a_plain = a->opnd[0] == OE_NONE && a->ext < 0 && a->modrm < 0;
			bool b_plain = b->opnd[0] == OE_NONE && b->ext < 0 && b->modrm < 0;

			if (a->map == b->map && a->opcode == b->opcode && a_plain != b_plain && a->opcode != 0x90)
				fail_msg("%s and %s disagree", a->name, b->name);
		}
}

/* ---- Running out of bytes ---- */

/*
 * Every golden vector and every row, cut short at each length, at the very end of a page with nothing behind it: the answer is
 * INSN_MORE, and reading too far would be a SIGSEGV.
 */
static void cut_short_wants_more(uint8_t *page_end, const uint8_t *bytes, unsigned len, enum insn_mode mode)
{
	struct insn in;

	for (unsigned n = 0; n <= len; n++) {
		uint8_t *p = page_end - n;

		memcpy(p, bytes, n);
		assert_int_equal(insn_decode(p, n, mode, false, NULL, &in), n < len ? INSN_MORE : INSN_OK);
		assert_true(in.len <= n);
	}
}

static void decoding_stops_at_the_end_of_the_bytes(void **state)
{
	uint8_t *pages = mmap(NULL, 2 * GW_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *end = pages + GW_PAGE_SIZE;

	assert_true(pages != MAP_FAILED);
	assert_int_equal(mprotect(end, GW_PAGE_SIZE, PROT_NONE), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(golden); i++)
		cut_short_wants_more(end, golden[i].bytes, golden[i].n, golden[i].mode);
	for (unsigned i = 0; i < n_insn_rows; i++) {
		enum insn_mode mode = insn_rows[i].attr & IA_NO64 ? INSN_MODE_32 : INSN_MODE_64;
		uint8_t b[32] = { 0 };
		struct insn in;

		encode_row(&insn_rows[i], b);
		if (insn_decode(b, INSN_MAX_LEN, mode, false, NULL, &in) == INSN_OK)
			cut_short_wants_more(end, b, in.len, mode);
	}
	munmap(pages, 2 * GW_PAGE_SIZE);
}

static void fifteen_bytes_are_allowed(void **state)
{
	const uint8_t b[15] = { 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90 };
	struct insn in;

	assert_int_equal(insn_decode(b, 15, INSN_MODE_64, false, NULL, &in), INSN_OK);
	assert_int_equal(in.len, 15);
}

static void format_never_writes_beyond_its_buffer(void **state)
{
	const uint8_t b[] = { 0x48, 0x81, 0x05, 0x10, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF };
	struct insn in;
	char buf[64];
	int want;

	assert_int_equal(insn_decode(b, sizeof(b), INSN_MODE_64, false, NULL, &in), INSN_OK);
	want = insn_format(&in, 0, NULL, 0);
	for (unsigned size = 1; size < sizeof(buf); size++) {
		memset(buf, '#', sizeof(buf));
		assert_int_equal(insn_format(&in, 0, buf, size), want);
		assert_true(strlen(buf) < size);
		assert_int_equal(buf[size], '#');
	}
}

static void names_of_nonsense_are_harmless(void **state)
{
	struct insn in = { 0 };
	char buf[32];

	assert_string_equal(insn_op_name(0xFFFF), "(invalid)");
	insn_format(&in, 0, buf, sizeof(buf));
	assert_string_equal(buf, "(invalid)");
}

int main(void)
{
	static const struct CMUnitTest single[] = {
		cmocka_unit_test(tables_have_room_for_every_row),
		cmocka_unit_test(every_operation_has_a_row),
		cmocka_unit_test(every_row_decodes_to_itself),
		cmocka_unit_test(every_opcode_agrees_on_modrm),
		cmocka_unit_test(decoding_stops_at_the_end_of_the_bytes),
		cmocka_unit_test(fifteen_bytes_are_allowed),
		cmocka_unit_test(format_never_writes_beyond_its_buffer),
		cmocka_unit_test(names_of_nonsense_are_harmless),
	};
	static struct CMUnitTest tests[ARRAY_SIZE(golden) + ARRAY_SIZE(refusals) + ARRAY_SIZE(fallbacks) + ARRAY_SIZE(single)];
	unsigned n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(golden); i++)
		tests[n++] = (struct CMUnitTest){ golden[i].name, golden_vector_decodes, NULL, NULL, (void *)(uintptr_t)&golden[i] };
	for (unsigned i = 0; i < ARRAY_SIZE(refusals); i++)
		tests[n++] = (struct CMUnitTest){ refusals[i].name, refusal_is_refused, NULL, NULL, (void *)(uintptr_t)&refusals[i] };
	for (unsigned i = 0; i < ARRAY_SIZE(fallbacks); i++)
		tests[n++] = (struct CMUnitTest){ fallbacks[i].name, feature_decides, NULL, NULL, (void *)(uintptr_t)&fallbacks[i] };
	for (unsigned i = 0; i < ARRAY_SIZE(single); i++)
		tests[n++] = single[i];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
