/* SPDX-License-Identifier: MIT */
/*
 * Emission of stubs: one guest instruction in host form, wrapped in loads and stores of its register operands.
 *
 * Inside a stub rdi is the vCPU, rsi the memory operand, rax the general register operand if there is one. Vector registers
 * keep their numbers. Legacy SSE never touches the upper halves, so it runs without AVX instructions around it; VEX.128
 * clears the upper half of its destination in memory; VEX.256 loads and stores both halves and ends with VZEROUPPER.
 * Source: Intel SDM vol. 2 "Instruction Format", the pages of the opcodes used here.
 */
#include <cpuid.h>
#include <string.h>

#include "cpu/host/host_private.h"

struct code {
	uint8_t *p;
};

static void b1(struct code *e, unsigned v)
{
	*e->p++ = (uint8_t)v;
}

/* Two bytes at once, in the order they are read. */
static void b2(struct code *e, unsigned first, unsigned second)
{
	b1(e, first);
	b1(e, second);
}

static void b4(struct code *e, uint32_t v)
{
	memcpy(e->p, &v, 4);
	e->p += 4;
}

#define OFF_AREA	((uint32_t)offsetof(struct vcpu, fpu.area))
#define OFF_GPR(n)	((uint32_t)(offsetof(struct vcpu, gpr) + 8 * (n)))
#define OFF_CC		((uint32_t)offsetof(struct vcpu, cc))

/* ModRM for register @reg and memory [rdi + disp32]. */
static void at_vcpu(struct code *e, unsigned reg, uint32_t disp)
{
	b1(e, 0x87 | (reg & 7) << 3);
	b4(e, disp);
}

/* ---- the instruction in 64-bit form -------------------------------------------------------------------------------------- */

struct form {
	const struct insn_row *row;
	bool w, l;
	uint8_t reg, rm, vvvv, mod;
	bool has_imm;
	uint8_t imm;
};

static bool is_mmx(unsigned enc)
{
	return enc == OE_MREG || enc == OE_MRM || enc == OE_MRM_REG;
}

static struct form form_of(const struct insn *in)
{
	const struct insn_row *row = &insn_rows[in->row];
	struct form f = { .row = row, .l = in->has_vex && in->vex_l, .reg = in->reg, .rm = in->rm, .vvvv = in->has_vex ? in->vvvv : 0,
			  .mod = in->mod };

	/* Outside 64-bit mode W does not widen general registers: such forms are encoded without it. */
	f.w = in->rex_w && (in->mode == INSN_MODE_64 || !(row->attr & IA_WSIZE));
	for (unsigned i = 0; i < ARRAY_SIZE(row->opnd); i++) {
		if (row->opnd[i] == OE_MREG)
			f.reg &= 7;		/* extension bits are ignored for MMX */
		else if (is_mmx(row->opnd[i]))
			f.rm &= 7;
	}
	if (row->ext >= 0)
		f.reg = (uint8_t)row->ext;
	if (in->has_mem) {
		f.mod = 0;
		f.rm = 6;
	}
	if (in->imm_off) {
		f.has_imm = true;
		f.imm = in->bytes[in->imm_off];
		/* The fourth register in imm8[7:4] has three bits outside 64-bit mode. */
		if (row->opnd[3] == OE_VIS4 && in->mode != INSN_MODE_64)
			f.imm &= 0x7f;
	}
	return f;
}

static void put_form(struct code *e, const struct form *f, unsigned opcode)
{
	static const uint8_t pp[4] = { 0, 0x66, 0xf3, 0xf2 };
	unsigned map = f->row->map & 0xf;
	unsigned r = f->reg >> 3 & 1, b = f->rm >> 3 & 1;

	if (f->row->map & 0x10) {
		unsigned p = 0;

		while (p < 3 && pp[p] != f->row->pfx)
			p++;
		b1(e, 0xc4);
		b1(e, (r ? 0 : 0x80) | 0x40 | (b ? 0 : 0x20) | map);
		b1(e, (f->w ? 0x80 : 0) | (~f->vvvv & 15) << 3 | (f->l ? 4 : 0) | p);
		b1(e, opcode);
	} else {
		if (f->row->pfx > 0)
			b1(e, (unsigned)f->row->pfx);
		if (map >= 1 && map <= 3 && (f->w || r || b))
			b1(e, 0x40 | (f->w ? 8 : 0) | r << 2 | b);
		if (map >= 1 && map <= 3)
			b1(e, 0x0f);
		if (map == 2)
			b1(e, 0x38);
		if (map == 3)
			b1(e, 0x3a);
		b1(e, opcode);
		if (!map || opcode == 0x77)
			return;		/* WAIT and EMMS have no ModRM */
	}
	b1(e, (unsigned)f->mod << 6 | (f->reg & 7) << 3 | (f->rm & 7));
	if (f->has_imm)
		b1(e, f->imm);
}

uint64_t host_key(const struct insn *in)
{
	struct form f = form_of(in);
	uint8_t bytes[16] = { 0 };
	struct code e = { bytes };
	uint64_t key;

	put_form(&e, &f, in->bytes[in->opc_off]);
	memcpy(&key, bytes, 8);
	return key;
}

/* ---- operands ------------------------------------------------------------------------------------------------------------- */

struct operands {
	uint32_t load, store;	/* vector registers */
	bool gpr_in, gpr_out;
	unsigned gpr;
	bool str_in, str_out;	/* PCMPESTRx: lengths in RAX, RDX; PCMPxSTRI: index in RCX */
};

static void general(struct operands *x, unsigned i, unsigned n)
{
	x->gpr = n;
	if (i)
		x->gpr_in = true;
	else
		x->gpr_out = true;
}

static void vector(struct operands *x, const struct insn_row *row, unsigned i, unsigned n)
{
	x->load |= 1u << n;
	/* What sets flags (compares, tests, string compares) writes no vector operand. */
	if (!i && !(row->attr & IA_FLAGS_W))
		x->store |= 1u << n;
}

/* Note the operands of @in, and rewrite the general one in @f to rax. */
static struct operands operands_of(const struct insn *in, struct form *f)
{
	const struct insn_row *row = f->row;
	struct operands x = { 0 };

	for (unsigned i = 0; i < ARRAY_SIZE(row->opnd); i++) {
		switch (row->opnd[i]) {
		case OE_VREG:
			vector(&x, row, i, in->reg);
			break;
		case OE_VRM:
			if (!in->has_mem)
				vector(&x, row, i, in->rm);
			break;
		case OE_VRM_REG:
			vector(&x, row, i, in->rm);
			break;
		case OE_VVVV:
			vector(&x, row, i, in->vvvv);
			break;
		case OE_VIS4:
			vector(&x, row, i, f->imm >> 4);
			break;
		case OE_XMM0:
			vector(&x, row, i, 0);
			break;
		case OE_REG:
			general(&x, i, in->reg);
			f->reg = RAX;
			break;
		case OE_RM:
		case OE_RM_REG:
			if (in->has_mem)
				break;
			general(&x, i, in->rm);
			f->rm = RAX;
			break;
		default:
			break;
		}
	}
	switch (in->op) {
	case I_PCMPESTRM: case I_VPCMPESTRM:
		x.str_in = true;
		x.store |= 1;
		break;
	case I_PCMPISTRM: case I_VPCMPISTRM:
		x.store |= 1;
		break;
	case I_PCMPESTRI: case I_VPCMPESTRI:
		x.str_in = x.str_out = true;
		break;
	case I_PCMPISTRI: case I_VPCMPISTRI:
		x.str_out = true;
		break;
	case I_FNSTSW:
		x.gpr = RAX;
		x.gpr_in = x.gpr_out = !in->has_mem;
		break;
	default:
		break;
	}
	return x;
}

/* ---- loads and stores ------------------------------------------------------------------------------------------------------ */

/* MOVAPS between xmm @n and its home, legacy form. */
static void sse_move(struct code *e, unsigned n, bool store)
{
	if (n >= 8)
		b1(e, 0x44);
	b1(e, 0x0f);
	b1(e, store ? 0x29 : 0x28);
	at_vcpu(e, n, OFF_AREA + XMM_OF(n));
}

static void vex_move(struct code *e, unsigned n, bool store)
{
	b1(e, 0xc5);
	b1(e, (n < 8 ? 0x80 : 0) | 0x78);
	b1(e, store ? 0x29 : 0x28);
	at_vcpu(e, n, OFF_AREA + XMM_OF(n));
}

/* VINSERTF128 / VEXTRACTF128 between the upper half of ymm @n and its home. */
static void high_move(struct code *e, unsigned n, bool store)
{
	b1(e, 0xc4);
	b1(e, (n < 8 ? 0x80 : 0) | 0x63);
	b1(e, store ? 0x7d : ((~n & 15) << 3 | 5));
	b1(e, store ? 0x19 : 0x18);
	at_vcpu(e, n, OFF_AREA + YMM_OF(n));
	b1(e, 1);
}

static void mov_gpr(struct code *e, unsigned host, unsigned guest, bool store)
{
	b1(e, 0x48);
	b1(e, store ? 0x89 : 0x8b);
	at_vcpu(e, host, OFF_GPR(guest));
}

static void load_vectors(struct code *e, uint32_t set, bool vex, bool wide)
{
	for (unsigned n = 0; n < 16; n++) {
		if (!(set >> n & 1))
			continue;
		if (vex)
			vex_move(e, n, false);
		else
			sse_move(e, n, false);
		if (wide)
			high_move(e, n, false);
	}
}

/* rax is 0 here. */
static void store_vectors(struct code *e, uint32_t set, bool vex, bool wide)
{
	for (unsigned n = 0; n < 16; n++) {
		if (!(set >> n & 1))
			continue;
		if (!vex) {
			sse_move(e, n, true);
			continue;
		}
		vex_move(e, n, true);
		if (wide) {
			high_move(e, n, true);
			continue;
		}
		for (unsigned i = 0; i < 16; i += 8) {
			b1(e, 0x48);
			b1(e, 0x89);
			at_vcpu(e, RAX, OFF_AREA + YMM_OF(n) + i);
		}
	}
}

/* The guest's arithmetic flags: AH and bit 0 of AL, from and to vcpu.cc. */
static void load_flags(struct code *e)
{
	b2(e, 0x0f, 0xb7);	/* movzx eax, word [cc] */
	at_vcpu(e, RAX, OFF_CC);
	b2(e, 0x04, 0x7f);	/* add al, 127: OF = bit 0 */
	b1(e, 0x9e);		/* sahf */
}

static void store_flags(struct code *e)
{
	b1(e, 0x9f);		/* lahf */
	b2(e, 0x0f, 0x90);	/* seto al */
	b1(e, 0xc0);
	b2(e, 0x66, 0x89);
	at_vcpu(e, RAX, OFF_CC);
}

static void vzeroupper(struct code *e)
{
	b2(e, 0xc5, 0xf8);
	b1(e, 0x77);
}

unsigned host_emit(uint64_t key, uint8_t buf[HOST_STUB_MAX])
{
	struct code e = { buf };
	struct operands x;
	struct form f;
	struct insn in;
	uint8_t bytes[INSN_MAX_LEN + 1] = { 0 };
	bool x87, vex;

	memcpy(bytes, &key, sizeof(key));
	if (insn_decode(bytes, INSN_MAX_LEN, INSN_MODE_64, false, NULL, &in) != INSN_OK)
		return 0;
	f = form_of(&in);
	x = operands_of(&in, &f);
	x87 = f.row->cls == IC_FPU;
	vex = in.has_vex;
	load_vectors(&e, x.load, vex, f.l);
	if (f.row->attr & IA_FLAGS_R || (x87 && f.row->attr & IA_FLAGS_W))
		load_flags(&e);
	if (x.gpr_in)
		mov_gpr(&e, RAX, x.gpr, false);
	if (x.str_in) {
		mov_gpr(&e, RAX, RAX, false);
		mov_gpr(&e, RDX, RDX, false);
	}
	put_form(&e, &f, in.bytes[in.opc_off]);
	if (x.gpr_out)
		mov_gpr(&e, RAX, x.gpr, true);
	if (x.str_out)
		mov_gpr(&e, RCX, RCX, true);
	if (f.row->attr & IA_FLAGS_W)
		store_flags(&e);
	b2(&e, 0x31, 0xc0);	/* xor eax, eax */
	store_vectors(&e, x.store, vex, f.l);
	if (f.l)
		vzeroupper(&e);
	b1(&e, 0xc3);
	return (unsigned)(e.p - buf);
}

bool host_has_avx(void)
{
	unsigned a, b, c, d, lo, hi;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_AVX))
		return false;
	__asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (lo & 6) == 6;
}

/* eax was set by the signal handler. */
unsigned host_emit_fault_return(uint8_t *buf)
{
	struct code e = { buf };

	if (host_has_avx())
		vzeroupper(&e);
	b1(&e, 0xc3);
	return (unsigned)(e.p - buf);
}
