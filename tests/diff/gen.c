/* SPDX-License-Identifier: MIT */
/*
 * Cases of a form: an encoding with random registers and addressing, and a random state in which the memory operand mostly lies where it may,
 * sometimes across a page, sometimes where it faults.
 */
#include <string.h>

#include "diff.h"

/* ---- values -------------------------------------------------------------------------------------------------------------------------- */

/* Integers where carries, signs and counts change: shifted masks, powers of two and neighbours, small numbers. */
static uint64_t interesting(struct rng *r)
{
	unsigned s = below(r, 64);

	switch (below(r, 8)) {
	case 0: return below(r, 4);
	case 1: return 0 - (uint64_t)below(r, 4);
	case 2: return (1ull << s) + (uint64_t)below(r, 3) - 1;
	case 3: return ~0ull << s;
	case 4: return ~0ull >> s;
	case 5: return (uint64_t)(int64_t)(int8_t)rnd(r);
	default: return rnd(r);
	}
}

static uint32_t float32(struct rng *r)
{
	static const uint32_t special[] = { 0, 1, 0x7fffff, 0x800000, 0x3f800000, 0x7f7fffff, 0x7f800000, 0x7f800001, 0x7fc00000, 0x4b000000,
		0x4f000000, 0x5f000000, 0x3f000000, 0x40490fdb };
	uint32_t sign = (uint32_t)(rnd(r) & 0x80000000u);

	if (chance(r, 40))
		return special[below(r, ARRAY_SIZE(special))] | sign;
	if (chance(r, 60))
		return sign | (uint32_t)(110 + below(r, 36)) << 23 | (uint32_t)(rnd(r) & 0x7fffff);
	return (uint32_t)rnd(r);
}

static uint64_t float64(struct rng *r)
{
	static const uint64_t special[] = { 0, 1, 0xfffffffffffffull, 0x10000000000000ull, 0x3ff0000000000000ull, 0x7fefffffffffffffull,
		0x7ff0000000000000ull, 0x7ff0000000000001ull, 0x7ff8000000000000ull, 0x41e0000000000000ull, 0x43e0000000000000ull,
		0x3fe0000000000000ull, 0x400921fb54442d18ull, 0x380fffffffffffffull };
	uint64_t sign = rnd(r) & 1ull << 63;

	if (chance(r, 40))
		return special[below(r, ARRAY_SIZE(special))] | sign;
	if (chance(r, 60))
		return sign | (uint64_t)(1000 + below(r, 48)) << 52 | (rnd(r) & 0xfffffffffffffull);
	return rnd(r);
}

static void float80(struct rng *r, uint8_t out[10])
{
	static const uint16_t exps[] = { 0, 1, 0x3f80, 0x3ffe, 0x3fff, 0x4000, 0x400e, 0x401e, 0x403e, 0x4040, 0x7ffe, 0x7fff };
	uint64_t mant = chance(r, 50) ? interesting(r) : rnd(r);
	uint16_t exp = chance(r, 60) ? exps[below(r, ARRAY_SIZE(exps))] : (uint16_t)(0x3fff - 40 + below(r, 80));

	if (exp && chance(r, 90))
		mant |= 1ull << 63;
	if (!exp && chance(r, 50))
		mant &= ~(1ull << 63);
	if (chance(r, 10)) {
		mant = 0;
		exp = 0;
	}
	if (rnd(r) & 1)
		exp |= 0x8000;
	memcpy(out, &mant, 8);
	memcpy(out + 8, &exp, 2);
}

/* 16 bytes as one of the types that vector instructions see. */
static void lane(struct rng *r, unsigned kind, uint8_t out[16])
{
	for (unsigned i = 0; i < 16; i += 8) {
		uint64_t v;

		switch (kind) {
		case 0: v = float64(r); break;
		case 1: v = (uint64_t)float32(r) << 32 | float32(r); break;
		case 2: v = interesting(r); break;
		case 3: v = (interesting(r) & 0xffffffff) | interesting(r) << 32; break;
		default: v = rnd(r); break;
		}
		memcpy(out + i, &v, 8);
	}
}

const uint8_t *diff_pattern(void)
{
	static uint8_t p[DIFF_DATA_SIZE];
	static bool made;

	if (!made) {
		struct rng r = { 42 };

		for (unsigned i = 0; i < sizeof(p); i += 16)
			lane(&r, below(&r, 5), p + i);
		made = true;
	}
	return p;
}

static void random_x87(struct rng *r, uint8_t *x)
{
	/* Half the time all exceptions masked and nothing in the way; else anything. */
	uint16_t fcw = 0x37f, fsw = 0;

	if (chance(r, 50))
		fcw = (uint16_t)(0x40 | (rnd(r) & 0xf00) | (chance(r, 60) ? 0x3f : rnd(r) & 0x3f));
	fsw = (uint16_t)(rnd(r) & (chance(r, 50) ? 0x7f00 : chance(r, 70) ? 0x3800 : 0x7f7f));
	if (fsw & ~fcw & 0x3f && chance(r, 70))
		fsw &= 0xff00;
	if (fsw & ~fcw & 0x3f)
		fsw |= 0x8080;
	memcpy(x, &fcw, 2);
	memcpy(x + 2, &fsw, 2);
	x[4] = chance(r, 60) ? 0xff : (uint8_t)rnd(r);
	for (unsigned i = 0; i < 8; i++)
		float80(r, x + 32 + 16 * i);
}

void diff_random_state(struct rng *r, struct diff_case *k)
{
	uint32_t mxcsr = 0x1f80;
	uint64_t bv = 7;

	for (unsigned i = 0; i < 16; i++)
		k->gpr[i] = interesting(r);
	if (k->mode != INSN_MODE_64)
		for (unsigned i = 0; i < 16; i++)
			k->gpr[i] &= 0xffffffff;
	k->flags = (uint32_t)(rnd(r) & (FLAGS_ARITH | FLAG_DF)) | FLAG_FIXED | FLAG_IF;
	memset(k->x, 0, sizeof(k->x));
	random_x87(r, k->x);
	if (chance(r, 50))
		mxcsr = (uint32_t)(0x1f80 | (rnd(r) & 0xe07f));
	else if (chance(r, 20))
		mxcsr = (uint32_t)(rnd(r) & 0xffff);
	memcpy(k->x + 24, &mxcsr, 4);
	memcpy(k->x + 512, &bv, 8);
	for (unsigned i = 0; i < 32; i++) {
		uint8_t *p = k->x + (i < 16 ? 160 + 16 * i : 576 + 16 * (i - 16));

		lane(r, below(r, 5), p);
		/* Equal registers now and then: compares. */
		if (i % 16 && chance(r, 10))
			memcpy(p, p - 16, 16);
	}
}

/* ---- encoding --------------------------------------------------------------------------------------------------------------------------- */

struct enc {
	const struct diff_form *f;
	const struct insn_row *row;
	struct rng *r;
	uint64_t target;	/* offset of the memory operand in its segment */
	struct diff_case *k;
	unsigned rip_fix;	/* offset of a RIP-relative displacement, 0 none */
	bool a67, gs;
	uint8_t rex;		/* R, X, B */
};

static bool is_reg_field(unsigned e)
{
	return e == OE_REG || e == OE_SREG || e == OE_CR || e == OE_DR || e == OE_VREG || e == OE_MREG;
}

static bool is_rm_field(unsigned e)
{
	return e == OE_RM || e == OE_RM_REG || e == OE_MEM || e == OE_VRM || e == OE_VRM_REG || e == OE_VMEM || e == OE_MRM ||
	       e == OE_MRM_REG || e == OE_STI || e == OE_NOREG;
}

static bool has_modrm(const struct insn_row *row)
{
	if (row->ext >= 0 || row->modrm >= 0)
		return true;
	for (unsigned i = 0; i < 4; i++)
		if (is_reg_field(row->opnd[i]) || is_rm_field(row->opnd[i]))
			return true;
	return false;
}

static void put(struct enc *e, uint64_t v, unsigned n)
{
	memcpy(e->k->code + e->k->len, &v, n);
	e->k->len = (uint8_t)(e->k->len + n);
}

static unsigned address_size(const struct enc *e)
{
	if (e->f->mode == INSN_MODE_64)
		return e->a67 ? 4 : 8;
	return (e->f->mode == INSN_MODE_16) != e->a67 ? 2 : 4;
}

static uint64_t address_mask(const struct enc *e)
{
	unsigned size = address_size(e);

	return size == 8 ? ~0ull : size == 4 ? 0xffffffff : 0xffff;
}

/* Vector indices: small, in both widths, so that elements fall around the target. */
static void vsib_index(struct enc *e, unsigned n)
{
	for (unsigned half = 0; half < 2; half++) {
		uint8_t *p = e->k->x + (half ? 576 : 160) + 16 * n;
		bool wide = e->row->op == I_VGATHERQPS || e->row->op == I_VGATHERQPD || e->row->op == I_VPGATHERQD || e->row->op == I_VPGATHERQQ;

		for (unsigned i = 0; i < 16; i += wide ? 8 : 4) {
			int64_t v = (int64_t)below(e->r, 200) - 100;

			memcpy(p + i, &v, wide ? 8 : 4);
		}
	}
}

/* The eight 16-bit forms. */
static void put_memory16(struct enc *e, unsigned reg)
{
	static const uint8_t base[8] = { RBX, RBX, RBP, RBP, RSI, RDI, RBP, RBX };
	static const uint8_t index[4] = { RSI, RDI, RSI, RDI };
	unsigned rm = below(e->r, 8), mod = below(e->r, 3);
	uint16_t disp = mod == 0 ? 0 : mod == 1 ? (uint16_t)(int8_t)rnd(e->r) : (uint16_t)rnd(e->r), ea = (uint16_t)e->target;
	uint64_t idx = 0;

	put(e, mod << 6 | (reg & 7) << 3 | rm, 1);
	if (mod == 0 && rm == 6) {
		put(e, ea, 2);
		return;
	}
	if (mod)
		put(e, disp, mod);
	if (rm < 4) {
		idx = chance(e->r, 80) ? below(e->r, 2000) : rnd(e->r) & 0xffffffff;
		e->k->gpr[index[rm]] = idx;
	}
	e->k->gpr[base[rm]] = (uint16_t)(ea - idx - disp) | (chance(e->r, 30) ? rnd(e->r) & 0xffff0000 : 0);
}

/* ModRM.rm, SIB, displacement for @e->target; sets the registers the address is made of. */
static void put_memory(struct enc *e, unsigned reg)
{
	struct diff_case *k = e->k;
	bool m64 = e->f->mode == INSN_MODE_64, vsib = e->row->attr & IA_VSIB;
	unsigned base = below(e->r, m64 ? 16 : 8), index = below(e->r, m64 ? 16 : 8), scale = below(e->r, 4);
	unsigned mod = below(e->r, 3), kind = below(e->r, 10);
	int64_t disp = mod == 0 ? 0 : mod == 1 ? (int8_t)rnd(e->r) : (int32_t)(rnd(e->r) & 0xffff) - 0x8000;
	uint64_t ea = e->target - (e->gs ? DIFF_GS_BASE : 0), mask = address_mask(e);

	ea &= mask;
	if (address_size(e) == 2) {
		put_memory16(e, reg);
		return;
	}
	if (!vsib && kind == 0) {	/* absolute, or RIP-relative */
		bool rip = m64 && chance(e->r, 60);

		if (m64 && !rip) {
			put(e, 0x04 | (reg & 7) << 3, 1);
			put(e, 0x25, 1);
			put(e, ea, 4);
			return;
		}
		put(e, 0x05 | (reg & 7) << 3, 1);
		if (rip)
			e->rip_fix = k->len;
		put(e, ea, 4);
		return;
	}
	if (vsib || kind < 5) {	/* SIB */
		uint64_t idx;

		if (!vsib && index == RSP)
			index = RAX;
		if ((base & 7) == RBP && mod == 0)
			mod = 1;
		if (!vsib && index == base)
			index = base == RAX ? RCX : RAX;
		e->rex |= (uint8_t)((base >> 3) | (index >> 3) << 1);
		put(e, mod << 6 | (reg & 7) << 3 | 4, 1);
		put(e, scale << 6 | (index & 7) << 3 | (base & 7), 1);
		if (mod)
			put(e, (uint64_t)disp, mod == 1 ? 1 : 4);
		if (vsib) {
			vsib_index(e, index);
			k->gpr[base] = (ea - (uint64_t)disp) & mask;
			return;
		}
		idx = chance(e->r, 80) ? (uint64_t)((int64_t)below(e->r, 2000) - 1000) : interesting(e->r);
		if (!m64)
			idx &= 0xffffffff;
		k->gpr[index] = idx;
		k->gpr[base] = ea - (idx << scale) - (uint64_t)disp;
	} else {
		if ((base & 7) == RSP)
			base++;
		if ((base & 7) == RBP && mod == 0)
			mod = 1;
		e->rex |= (uint8_t)(base >> 3);
		put(e, mod << 6 | (reg & 7) << 3 | (base & 7), 1);
		if (mod)
			put(e, (uint64_t)disp, mod == 1 ? 1 : 4);
		k->gpr[base] = ea - (uint64_t)disp;
	}
	if (!m64)
		k->gpr[base] &= 0xffffffff;
	else if (e->a67 && chance(e->r, 50))
		k->gpr[base] |= rnd(e->r) << 32;
}

static void put_immediates(struct enc *e)
{
	const struct diff_form *f = e->f;
	unsigned opsize = e->row->attr & IA_BYTE ? 1 : f->p66 != (f->mode == INSN_MODE_16) ? 2 : f->w ? 8 : 4;
	uint64_t v = interesting(e->r);

	/* Sizes that W or 66 do not decide. */
	if (f->mode == INSN_MODE_64 && (e->row->attr & IA_F64 || (e->row->attr & IA_D64 && opsize == 4)))
		opsize = 8;
	if (e->row->attr & IA_MAX4 && opsize == 8)
		opsize = 4;
	for (unsigned i = 0; i < 4; i++) {
		switch (e->row->opnd[i]) {
		case OE_IMM:
			put(e, v, e->row->attr & (IA_BYTE | IA_SEXT) ? 1 : e->row->attr & IA_IMM64 ? opsize : opsize == 8 ? 4 : opsize);
			break;
		case OE_IMM8:
		case OE_VIS4:
			put(e, chance(e->r, 50) ? v : below(e->r, 16), 1);
			break;
		case OE_IMM16:
			put(e, below(e->r, 64) * 8, 2);
			break;
		case OE_REL:
			put(e, v, e->row->attr & IA_SEXT ? 1 : opsize == 2 ? 2 : 4);
			break;
		case OE_FAR:
			put(e, v, 4);
			put(e, v, opsize == 2 ? 0 : 2);
			break;
		case OE_MOFFS:
			put(e, e->target - (e->gs ? DIFF_GS_BASE : 0), address_size(e));
			break;
		default:
			break;
		}
	}
}

static void put_modrm(struct enc *e)
{
	const struct insn_row *row = e->row;
	unsigned reg = below(e->r, 8), rm = below(e->r, 8);

	if (row->modrm >= 0) {
		put(e, (unsigned)row->modrm, 1);
		return;
	}
	if (row->ext >= 0)
		reg = (unsigned)row->ext;
	if (e->f->mem)
		put_memory(e, reg);
	else
		put(e, 0xc0 | reg << 3 | rm, 1);
}

/* The bytes of opcode and what follows; prefixes are put before, when the address has decided about REX. */
static void put_vex(struct enc *e)
{
	static const uint8_t pp[4] = { 0, 0x66, 0xF3, 0xF2 };
	unsigned p = 0, vvvv = 0, at = e->k->len;
	bool m64 = e->f->mode == INSN_MODE_64, needs_vvvv = false;

	for (unsigned i = 0; i < 4; i++)
		needs_vvvv |= e->row->opnd[i] == OE_VVVV || e->row->opnd[i] == OE_VGPR;
	if (needs_vvvv)
		vvvv = below(e->r, m64 ? 16 : 8);
	while (p < 3 && pp[p] != e->row->pfx)
		p++;
	put(e, 0, 3);
	put(e, e->row->opcode, 1);
	if (has_modrm(e->row))
		put_modrm(e);
	e->k->code[at] = 0xc4;
	e->k->code[at + 1] = (uint8_t)((~e->rex & 7) << 5 | (e->row->map & 0xf));
	e->k->code[at + 2] = (uint8_t)((e->f->w ? 0x80 : 0) | (~vvvv & 15) << 3 | (e->f->l ? 4 : 0) | p);
}

static void put_legacy(struct enc *e)
{
	unsigned map = e->row->map & 0xf, at;
	bool m64 = e->f->mode == INSN_MODE_64;

	if (e->f->rep)
		put(e, e->f->rep, 1);
	if (e->f->lock)
		put(e, 0xf0, 1);
	if (e->f->p66)
		put(e, 0x66, 1);
	if (e->row->pfx > 0)
		put(e, (unsigned)e->row->pfx, 1);
	at = e->k->len;
	if (m64)
		put(e, 0, 1);
	if (map >= 1 && map <= 3)
		put(e, 0x0f, 1);
	if (map == 2)
		put(e, 0x38, 1);
	if (map == 3)
		put(e, 0x3a, 1);
	put(e, e->row->opcode, 1);
	if (has_modrm(e->row))
		put_modrm(e);
	if (!m64)
		return;
	if (e->f->w)
		e->rex |= 8;
	if (e->rex || chance(e->r, 20)) {
		e->k->code[at] = 0x40 | e->rex;
		return;
	}
	memmove(e->k->code + at, e->k->code + at + 1, e->k->len - at - 1u);
	e->k->len--;
	if (e->rip_fix)
		e->rip_fix--;
}

bool diff_encode(const struct diff_form *f, struct rng *r, uint64_t target, struct diff_case *k, struct insn *in)
{
	struct enc e = { .f = f, .row = &insn_rows[f->row], .r = r, .target = target, .k = k };
	bool m64 = f->mode == INSN_MODE_64, memory = f->mem;

	for (unsigned i = 0; i < 4; i++)
		memory |= e.row->opnd[i] == OE_MOFFS || e.row->opnd[i] == OE_STR_SRC;
	memset(k->code, 0xf4, sizeof(k->code));
	k->len = 0;
	k->mode = f->mode;
	e.gs = m64 && memory && chance(r, 10);
	e.a67 = chance(r, m64 ? 8 : f->mode == INSN_MODE_16 ? 30 : 4);
	if (e.gs)
		put(&e, 0x65, 1);
	if (e.a67)
		put(&e, 0x67, 1);
	if (m64) {
		e.rex = (uint8_t)(rnd(r) & 4);
		if (!f->mem)
			e.rex |= (uint8_t)(rnd(r) & 1);
	}
	if (e.row->map & 0x10)
		put_vex(&e);
	else
		put_legacy(&e);
	put_immediates(&e);
	if (k->len > INSN_MAX_LEN)
		return false;
	if (e.rip_fix) {
		uint32_t disp = (uint32_t)(e.target - (e.gs ? DIFF_GS_BASE : 0) - (diff_start(k) + k->len));

		memcpy(k->code + e.rip_fix, &disp, 4);
	}
	k->restarts = f->rep || e.row->attr & IA_VSIB;
	return insn_decode(k->code, k->len, f->mode, false, NULL, in) == INSN_OK && in->len == k->len && in->row == f->row;
}

/* ---- placing ------------------------------------------------------------------------------------------------------------------------------- */

/* Bytes the instruction may touch at its operand, for placing it near page ends. */
static unsigned reach_of(const struct insn_row *row)
{
	switch (row->op) {
	case I_FXSAVE: case I_FXRSTOR: return 512;
	case I_XSAVE: case I_XSAVEC: case I_XSAVEOPT: case I_XRSTOR: return 832;
	case I_FNSAVE: case I_FRSTOR: return 108;
	case I_MOVDIR64B: return 64;
	default: return 32;
	}
}

static unsigned alignment_of(const struct diff_form *f, const struct insn_row *row)
{
	if (f->lock || row->op == I_XCHG)
		return 16;	/* never across a cache line: the host may punish split locks */
	switch (row->op) {
	case I_XSAVE: case I_XSAVEC: case I_XSAVEOPT: case I_XRSTOR: return 64;
	case I_FXSAVE: case I_FXRSTOR: return 16;
	case I_CMPXCHG8B: case I_CMPXCHG16B: return 16;
	default: break;
	}
	return row->attr & IA_ALIGN ? 32 : 0;
}

static uint64_t place(const struct diff_form *f, struct rng *r)
{
	const struct insn_row *row = &insn_rows[f->row];
	unsigned reach = reach_of(row), align = alignment_of(f, row), pick = below(r, 100);
	bool locked = f->lock || row->op == I_XCHG;
	uint64_t t;

	if (pick < 70)
		t = DIFF_DATA + below(r, DIFF_RW_SIZE - reach);
	else if (pick < 80)
		t = DIFF_DATA + 4096 - below(r, reach + 1);			/* from one page into the next */
	else if (pick < 86)
		t = DIFF_DATA + DIFF_RW_SIZE - reach / 2 + below(r, reach);	/* into the read-only page */
	else if (pick < 92)
		t = DIFF_DATA + DIFF_DATA_SIZE - below(r, reach + 1);		/* into nothing */
	else if (pick < 95)
		t = DIFF_DATA - below(r, reach + 1);				/* from nothing */
	else if (pick < 98)
		t = DIFF_DATA + DIFF_RW_SIZE + below(r, 4096 - reach);
	else
		t = f->mode == INSN_MODE_64 ? (chance(r, 50) ? 0x0000800000000000ull - below(r, 64) : 0x8000000000000000ull + below(r, 64))
					    : f->mode == INSN_MODE_16 ? DIFF_DATA + below(r, 0x10000) : 0x30000000u + below(r, 4096);
	if (align && (locked || chance(r, 85)))
		t &= ~(uint64_t)(align - 1);
	return t;
}

static uint64_t pointer(const struct diff_form *f, struct rng *r)
{
	return diff_offset(f->mode, DIFF_DATA) + (chance(r, 90) ? 256 + below(r, DIFF_RW_SIZE - 512) : chance(r, 50) ? DIFF_DATA_SIZE - below(r, 64) : below(r, 64) - 32ull);
}

/* A state image that XRSTOR mostly accepts. */
static void xstate_image(struct rng *r, struct diff_case *k, bool fx)
{
	struct diff_case other;
	uint64_t bv = rnd(r) & 7, xcomp = 0;
	uint32_t mxcsr;

	other.mode = INSN_MODE_64;
	diff_random_state(r, &other);
	k->patch_len = fx ? 512 : 640;
	memcpy(k->patch, other.x, k->patch_len);
	memcpy(&mxcsr, k->patch + 24, 4);
	if (chance(r, 5))
		mxcsr |= 0x10000;
	memcpy(k->patch + 24, &mxcsr, 4);
	if (fx)
		return;
	if (chance(r, 40))
		xcomp = 1ull << 63 | bv | (rnd(r) & 7);
	if (chance(r, 5))
		bv |= rnd(r) & 0xf;
	if (chance(r, 5))
		xcomp |= 1ull << (20 + below(r, 43));	/* no component of any CPU yet */
	memset(k->patch + 512, 0, 64);
	memcpy(k->patch + 512, &bv, 8);
	memcpy(k->patch + 520, &xcomp, 8);
	if (chance(r, 5))
		k->patch[528 + below(r, 48)] = 1;
}

/* Initial bytes around the operand. */
static void fill_patch(const struct diff_form *f, struct rng *r, uint64_t target, struct diff_case *k)
{
	const struct insn_row *row = &insn_rows[f->row];
	uint64_t off;

	k->patch_off = k->patch_len = 0;
	if (target < DIFF_DATA || target >= DIFF_DATA + DIFF_RW_SIZE)
		return;
	off = target - DIFF_DATA;
	k->patch_off = (uint16_t)off;
	switch (row->op) {
	case I_XRSTOR:
		xstate_image(r, k, false);
		break;
	case I_FXRSTOR:
		xstate_image(r, k, true);
		break;
	case I_LDMXCSR: case I_VLDMXCSR: {
		uint32_t v = (uint32_t)rnd(r) & (chance(r, 90) ? 0xffff : 0xffffffff);

		k->patch_len = 4;
		memcpy(k->patch, &v, 4);
		break;
	}
	default:
		k->patch_len = 48;
		lane(r, below(r, 5), k->patch);
		lane(r, below(r, 5), k->patch + 16);
		lane(r, below(r, 5), k->patch + 32);
		if ((row->map & 0xf) == 4 && chance(r, 60))
			float80(r, k->patch);
	}
	if (off + k->patch_len > DIFF_RW_SIZE)
		k->patch_len = (uint16_t)(DIFF_RW_SIZE - off);
}

/* Registers that the operation uses implicitly, and values that make it do something. False: they clash with the address. */
static bool implicit(const struct diff_form *f, struct rng *r, uint64_t target, struct diff_case *k, const struct insn *in)
{
	const struct insn_row *row = &insn_rows[f->row];
	uint64_t *g = k->gpr;

	switch (row->op) {
	case I_DIV: case I_IDIV:
		if (chance(r, 70) && !(f->mem && (in->base == RDX || in->index == RDX)))
			g[RDX] = chance(r, 50) ? 0 : below(r, 100);
		if (row->attr & IA_BYTE && chance(r, 50) && !(f->mem && (in->base == RAX || in->index == RAX)))
			g[RAX] &= 0xfff;
		break;
	case I_BT: case I_BTS: case I_BTR: case I_BTC:
		if (f->mem && in->reg != in->base && in->reg != in->index)
			g[in->reg] = (uint64_t)((int64_t)below(r, 8192) - 4096);
		break;
	case I_CMPXCHG:
		if (chance(r, 50) && f->mem && k->patch_len && in->base != RAX && in->index != RAX)
			memcpy(&g[RAX], k->patch, 8);
		break;
	case I_CMPXCHG8B: case I_CMPXCHG16B:
		if (chance(r, 50) && k->patch_len && in->base != RAX && in->index != RAX && in->base != RDX && in->index != RDX) {
			unsigned half = row->op == I_CMPXCHG8B ? 4 : 8;

			g[RAX] = g[RDX] = 0;
			memcpy(&g[RAX], k->patch, half);
			memcpy(&g[RDX], k->patch + half, half);
		}
		break;
	case I_XSAVE: case I_XSAVEC: case I_XSAVEOPT: case I_XRSTOR:
		/* The CPU has components that the engine does not: only x87, SSE, AVX are asked for. */
		if (in->base == RAX || in->index == RAX || in->base == RDX || in->index == RDX)
			return false;
		g[RAX] = below(r, 8);
		g[RDX] = 0;
		break;
	case I_PCMPESTRI: case I_PCMPESTRM: case I_VPCMPESTRI: case I_VPCMPESTRM:
		if (!f->mem) {
			g[RAX] = below(r, 40) - 20u;
			g[RDX] = below(r, 40) - 20u;
		}
		break;
	case I_XLAT:
		g[RBX] = target - (g[RAX] & 0xff);
		break;
	case I_MOVDIR64B:
		if (in->reg != in->base && in->reg != in->index)
			g[in->reg] = pointer(f, r) & (chance(r, 90) ? ~63ull : ~0ull);
		break;
	case I_MASKMOVQ: case I_MASKMOVDQU: case I_VMASKMOVDQU:
		g[RDI] = target - (in->seg == SEG_GS ? DIFF_GS_BASE : 0);
		break;
	case I_JMP_IND: case I_CALL_IND:
		if (chance(r, 80)) {
			uint64_t t = (f->mode == INSN_MODE_16 ? 0 : DIFF_CODE) + below(r, 4096);

			if (!f->mem)
				g[in->rm] = t;
			else if (k->patch_len)
				memcpy(k->patch, &t, 8);
		}
		break;
	case I_RET_NEAR: {
		uint64_t t = chance(r, 80) ? (f->mode == INSN_MODE_16 ? 0 : DIFF_CODE) + below(r, 4096) : rnd(r);

		g[RSP] = target;
		memcpy(k->patch, &t, 8);
		break;
	}
	default:
		break;
	}
	if (row->mem == M_STRING) {
		g[RSI] = target - (in->seg == SEG_GS ? DIFF_GS_BASE : 0);
		g[RDI] = pointer(f, r);
		g[RCX] = below(r, 24);
		if (in->adsize == 4 && f->mode == INSN_MODE_64 && chance(r, 50))
			g[RCX] |= 1ull << 40;
		if (in->adsize == 2 && chance(r, 50)) {
			g[RCX] |= rnd(r) << 16;
			g[RSI] = (uint16_t)g[RSI] | rnd(r) << 16;
			g[RDI] = (uint16_t)g[RDI] | rnd(r) << 16;
		}
		if (row->op == I_SCAS || row->op == I_CMPS)
			k->flags = chance(r, 50) ? k->flags | FLAG_ZF : k->flags;
	}
	if (row->op == I_LOOP || row->op == I_LOOPE || row->op == I_LOOPNE || row->op == I_JCXZ)
		g[RCX] = below(r, 3);
	return true;
}

bool diff_generate(const struct diff_form *f, struct rng *r, struct diff_case *k)
{
	uint64_t at = place(f, r), target = diff_offset(f->mode, at);
	struct insn in;

	k->mode = f->mode;
	k->at_end = chance(r, 5);
	k->beyond = 0;
	diff_random_state(r, k);
	/* A stack to push to, and often a frame. */
	k->gpr[RSP] = pointer(f, r) & (chance(r, 80) ? ~7ull : ~0ull);
	if (chance(r, 70))
		k->gpr[RBP] = pointer(f, r);
	/* The length decides where code at the end of the page starts, which RIP-relative addresses need: encode twice. */
	if (k->at_end) {
		struct rng again = *r;
		struct diff_case first = *k;

		if (!diff_encode(f, &again, target, &first, &in))
			return false;
		if (first.len > 1 && chance(r, 30)) {
			again = *r;
			k->beyond = (uint8_t)(1 + below(&again, first.len - 1u));
		}
		k->at_end = false;	/* RIP-relative operands then miss their target by a page: a fault like any other */
		if (!diff_encode(f, r, target, k, &in))
			return false;
		if (k->beyond >= k->len)
			k->beyond = 0;
		k->at_end = true;
	} else if (!diff_encode(f, r, target, k, &in)) {
		return false;
	}
	fill_patch(f, r, at, k);
	if (!implicit(f, r, target, k, &in))
		return false;
	if (f->mode != INSN_MODE_64)
		for (unsigned i = 0; i < 16; i++)
			k->gpr[i] &= 0xffffffff;
	return true;
}
