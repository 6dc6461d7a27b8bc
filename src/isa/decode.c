/* SPDX-License-Identifier: MIT */
/*
 * The decoder: bytes to struct insn. Finds the row through the index (index.c), then reads what the row says follows.
 *
 * Never reads a byte at or beyond @avail, never allocates, keeps no state. Bytes are read at most once from @bytes, then from
 * the copy in the result: the caller may pass guest memory that changes under it.
 * Source: Intel SDM vol. 2 "Instruction Format", "Intel AVX instruction format (VEX)", "Opcode Map".
 */
#include <string.h>

#include "isa/decode_private.h"
#include "isa/x86.h"

enum pfx_class { PC_NONE, PC_OPSIZE, PC_ADSIZE, PC_LOCK, PC_F2, PC_F3, PC_SEG, PC_FSGS, PC_REX };

/* REX counts only in 64-bit mode; ES, CS, SS, DS only outside it. */
static const uint8_t pfx_classes[256] = {
	[0x66] = PC_OPSIZE, [0x67] = PC_ADSIZE, [0xF0] = PC_LOCK, [0xF2] = PC_F2, [0xF3] = PC_F3,
	[0x26] = PC_SEG, [0x2E] = PC_SEG, [0x36] = PC_SEG, [0x3E] = PC_SEG, [0x64] = PC_FSGS, [0x65] = PC_FSGS,
	[0x40] = PC_REX, PC_REX, PC_REX, PC_REX, PC_REX, PC_REX, PC_REX, PC_REX,
	[0x48] = PC_REX, PC_REX, PC_REX, PC_REX, PC_REX, PC_REX, PC_REX, PC_REX,
};

/* Operand size by kind, mode, 66 and W. Near branches ignore 66 in 64-bit mode, as Intel's CPUs do. */
static const uint8_t opsizes[N_SIZE_KINDS][3][2][2] = {
	[SZ_GENERAL] = { { { 2, 2 }, { 4, 4 } }, { { 4, 4 }, { 2, 2 } }, { { 4, 8 }, { 2, 8 } } },
	[SZ_D64]     = { { { 2, 2 }, { 4, 4 } }, { { 4, 4 }, { 2, 2 } }, { { 8, 8 }, { 2, 8 } } },
	[SZ_F64]     = { { { 2, 2 }, { 4, 4 } }, { { 4, 4 }, { 2, 2 } }, { { 8, 8 }, { 8, 8 } } },
	[SZ_BYTE]    = { { { 1, 1 }, { 1, 1 } }, { { 1, 1 }, { 1, 1 } }, { { 1, 1 }, { 1, 1 } } },
	[SZ_W]       = { { { 4, 4 }, { 4, 4 } }, { { 4, 4 }, { 4, 4 } }, { { 4, 8 }, { 4, 8 } } },
	[SZ_NATIVE]  = { { { 4, 4 }, { 4, 4 } }, { { 4, 4 }, { 4, 4 } }, { { 8, 8 }, { 8, 8 } } },
	[SZ_MAX4]    = { { { 2, 2 }, { 4, 4 } }, { { 4, 4 }, { 2, 2 } }, { { 4, 4 }, { 2, 4 } } },
	[SZ_XMM]     = { { { 16, 16 }, { 16, 16 } }, { { 16, 16 }, { 16, 16 } }, { { 16, 16 }, { 16, 16 } } },
	[SZ_VEC]     = { { { 16, 16 }, { 16, 16 } }, { { 16, 16 }, { 16, 16 } }, { { 16, 16 }, { 16, 16 } } },
	[SZ_YMM]     = { { { 32, 32 }, { 32, 32 } }, { { 32, 32 }, { 32, 32 } }, { { 32, 32 }, { 32, 32 } } },
	[SZ_MMX]     = { { { 8, 8 }, { 8, 8 } }, { { 8, 8 }, { 8, 8 } }, { { 8, 8 }, { 8, 8 } } },
};

/* By mode and 67. */
static const uint8_t adsizes[3][2] = { { 2, 4 }, { 4, 2 }, { 8, 4 } };

/* 16-bit addressing: base and index by ModRM.rm. */
static const struct { uint8_t base, index, seg; } addr16[8] = {
	{ RBX, RSI, SEG_DS }, { RBX, RDI, SEG_DS }, { RBP, RSI, SEG_SS }, { RBP, RDI, SEG_SS },
	{ RSI, GPR_ZERO, SEG_DS }, { RDI, GPR_ZERO, SEG_DS }, { RBP, GPR_ZERO, SEG_SS }, { RBX, GPR_ZERO, SEG_DS },
};

/* Working state of one decode; bytes are those already copied into the result. */
struct cursor {
	const uint8_t *b;
	unsigned pos, end;
	uint8_t rex;		/* 0 or the byte; VEX leaves its W, R, X, B here in the same places */
	uint8_t seg;		/* override, or N_SEGS */
	uint8_t rep;		/* enum insn_rep: last of F2, F3 */
};

#define REX_W 8
#define REX_R 4
#define REX_X 2
#define REX_B 1

static inline bool room(const struct cursor *c, unsigned n)
{
	return c->end - c->pos >= n;
}

/* Out of bytes: either the caller has more, or the instruction is longer than any may be. */
static enum insn_status out_of_bytes(const struct cursor *c, struct insn *out)
{
	out->len = c->pos;
	return c->end == INSN_MAX_LEN ? INSN_TOO_LONG : INSN_MORE;
}

static enum insn_status undefined(const struct cursor *c, struct insn *out)
{
	out->len = c->pos;
	return INSN_UD;
}

static inline int64_t read_s8(struct cursor *c)
{
	return (int8_t)c->b[c->pos++];
}

static inline uint16_t read_u16(struct cursor *c)
{
	uint16_t v;

	memcpy(&v, c->b + c->pos, 2);
	c->pos += 2;
	return v;
}

static inline uint32_t read_u32(struct cursor *c)
{
	uint32_t v;

	memcpy(&v, c->b + c->pos, 4);
	c->pos += 4;
	return v;
}

static inline uint64_t read_u64(struct cursor *c)
{
	uint64_t v;

	memcpy(&v, c->b + c->pos, 8);
	c->pos += 8;
	return v;
}

static uint64_t read_unsigned(struct cursor *c, unsigned size)
{
	switch (size) {
	case 2:  return read_u16(c);
	case 4:  return read_u32(c);
	default: return read_u64(c);
	}
}

/* Eats legacy prefixes and REX; a REX that a legacy prefix follows does not count. */
static void eat_prefixes(struct cursor *c, struct insn *out)
{
	for (; c->pos < c->end; c->pos++) {
		uint8_t byte = c->b[c->pos];

		switch (pfx_classes[byte]) {
		case PC_NONE:
			return;
		case PC_REX:
			if (out->mode != INSN_MODE_64)
				return;
			c->rex = byte;
			continue;
		case PC_OPSIZE:
			out->pfx66 = 1;
			break;
		case PC_ADSIZE:
			out->pfx_addr = 1;
			break;
		case PC_LOCK:
			out->lock = true;
			break;
		case PC_F2:
			c->rep = REP_F2;
			break;
		case PC_F3:
			c->rep = REP_F3;
			break;
		case PC_SEG:
			if (out->mode != INSN_MODE_64)
				c->seg = byte >> 3 & 3;
			break;
		case PC_FSGS:
			c->seg = SEG_FS + (byte & 1);
			break;
		}
		c->rex = 0;
	}
}

/* The payload of C4 or C5; the cursor stands behind that byte. Sets the map and the mandatory prefix. */
static enum insn_status read_vex(struct cursor *c, struct insn *out, bool three_bytes, unsigned *map, uint32_t *pfx)
{
	uint8_t p0, p1;

	if (!room(c, three_bytes ? 2 : 1))
		return out_of_bytes(c, out);
	p0 = c->b[c->pos++];
	p1 = three_bytes ? c->b[c->pos++] : p0;
	if (c->rex || out->lock || out->pfx66 || c->rep)
		return undefined(c, out);
	c->rex = p0 & 0x80 ? 0 : REX_R;
	*map = 1;
	if (three_bytes) {
		c->rex |= (p0 & 0x40 ? 0 : REX_X) | (p0 & 0x20 ? 0 : REX_B) | (p1 & 0x80 ? REX_W : 0);
		*map = p0 & 0x1F;
	}
	out->has_vex = true;
	out->vex_l = p1 >> 2 & 1;
	out->vvvv = ~(p1 >> 3) & 15;
	/* ST_PFX_* in the order of VEX.pp. */
	*pfx = ST_PFX_NONE << (p1 & 3);
	if (out->mode != INSN_MODE_64)
		c->rex &= REX_W;
	if (*map < 1 || *map > 3)
		return undefined(c, out);
	*map += 3;
	return INSN_OK;
}

/* C4 and C5 are VEX in 64-bit mode; elsewhere they are LES and LDS unless the next byte would make those a register form. */
static bool is_vex(const struct cursor *c, const struct insn *out, bool real)
{
	if (out->mode == INSN_MODE_64)
		return true;
	return !real && c->pos < c->end && c->b[c->pos] >= 0xC0;
}

static enum insn_status read_opcode(struct cursor *c, struct insn *out, bool real, unsigned *map, uint32_t *pfx)
{
	uint8_t byte;

	*pfx = c->rep == REP_F3 ? ST_PFX_F3 : c->rep == REP_F2 ? ST_PFX_F2 : out->pfx66 ? ST_PFX_66 : ST_PFX_NONE;
	*map = 0;
	if (!room(c, 1))
		return out_of_bytes(c, out);
	byte = c->b[c->pos++];
	if (byte == 0x0F) {
		if (!room(c, 1))
			return out_of_bytes(c, out);
		byte = c->b[c->pos++];
		*map = 1;
		if (byte == 0x38 || byte == 0x3A) {
			*map = byte == 0x38 ? 2 : 3;
			if (!room(c, 1))
				return out_of_bytes(c, out);
			c->pos++;
		}
	} else if ((byte == 0xC4 || byte == 0xC5) && is_vex(c, out, real)) {
		enum insn_status st = read_vex(c, out, byte == 0xC4, map, pfx);

		if (st != INSN_OK)
			return st;
		if (!room(c, 1))
			return out_of_bytes(c, out);
		c->pos++;
	}
	out->opc_off = c->pos - 1;
	return INSN_OK;
}

static const struct cand *find_row(const struct slot *s, uint8_t modrm, uint32_t state, const bool *features)
{
	const struct cand *cand;
	unsigned n;

	if (s->by_reg) {
		const struct sub_slot *sub = &insn_index.by_reg[s->first][modrm >> 3 & 7];

		cand = &insn_index.cands[sub->first];
		n = sub->n;
	} else {
		cand = &insn_index.cands[s->first];
		n = s->n;
	}
	for (; n; n--, cand++) {
		if (state & ~cand->allow)
			continue;
		if (cand->modrm >= 0 && cand->modrm != modrm)
			continue;
		if (features && !features[cand->feature])
			continue;
		return cand;
	}
	return NULL;
}

static enum insn_status read_mem16(struct cursor *c, struct insn *out)
{
	unsigned rm = out->modrm & 7;

	out->seg = addr16[rm].seg;
	out->base = addr16[rm].base;
	out->index = addr16[rm].index;
	if (out->mod == 1) {
		if (!room(c, 1))
			return out_of_bytes(c, out);
		out->disp = read_s8(c);
	} else if (out->mod == 2 || rm == 6) {
		if (!room(c, 2))
			return out_of_bytes(c, out);
		out->disp = (int16_t)read_u16(c);
		if (out->mod == 0) {
			out->base = GPR_ZERO;
			out->seg = SEG_DS;
		}
	}
	return INSN_OK;
}

static enum insn_status read_mem32(struct cursor *c, struct insn *out, bool vsib)
{
	unsigned base = out->modrm & 7;
	bool no_base = base == 5 && out->mod == 0;
	bool sib = base == 4;

	if (sib) {
		uint8_t byte;

		if (!room(c, 1))
			return out_of_bytes(c, out);
		byte = c->b[c->pos++];
		base = byte & 7;
		no_base = base == 5 && out->mod == 0;
		out->scale = byte >> 6;
		out->index = (byte >> 3 & 7) | (c->rex & REX_X ? 8 : 0);
		if (out->index == RSP && !vsib) {
			out->index = GPR_ZERO;
			out->scale = 0;
		}
	} else if (vsib) {
		return undefined(c, out);
	}
	if (no_base) {
		out->base = !sib && out->mode == INSN_MODE_64 ? GPR_RIP : GPR_ZERO;
	} else {
		out->base = base | (c->rex & REX_B ? 8 : 0);
		if (out->base == RSP || out->base == RBP)
			out->seg = SEG_SS;
	}
	if (out->mod == 1) {
		if (!room(c, 1))
			return out_of_bytes(c, out);
		out->disp = read_s8(c);
	} else if (out->mod == 2 || no_base) {
		if (!room(c, 4))
			return out_of_bytes(c, out);
		out->disp = (int32_t)read_u32(c);
	}
	return INSN_OK;
}

static enum insn_status read_imm(struct cursor *c, struct insn *out, const struct form *f)
{
	unsigned n;

	switch (f->imm) {
	case IMM_S8:
	case IMM_Z8:	n = 1; break;
	case IMM_Z16:	n = 2; break;
	case IMM_MOFFS:	n = out->adsize; break;
	case IMM_PTR:	n = out->opsize + 2u; break;
	case IMM_FULL:	n = out->opsize; break;
	default:	n = out->opsize == 8 ? 4 : out->opsize; break;
	}
	if (!room(c, n + f->imm2))
		return out_of_bytes(c, out);
	if (f->imm != IMM_MOFFS)
		out->imm_off = c->pos;
	switch (f->imm) {
	case IMM_S8:
		out->imm = read_s8(c);
		break;
	case IMM_Z8:
		out->imm = c->b[c->pos++];
		break;
	case IMM_Z16:
		out->imm = read_u16(c);
		break;
	case IMM_MOFFS:
		out->has_mem = true;
		out->disp = read_unsigned(c, n);
		break;
	case IMM_PTR:
		out->imm = read_unsigned(c, n - 2);
		out->imm2 = read_u16(c);
		break;
	default:
		out->imm = n == 8 ? read_u64(c) : n == 4 ? (uint64_t)(int32_t)read_u32(c) : (uint64_t)(int16_t)read_u16(c);
		break;
	}
	if (f->imm2)
		out->imm2 = c->b[c->pos++];
	return INSN_OK;
}

static unsigned memory_size(const struct form *f, const struct insn *out)
{
	unsigned vl = out->vex_l ? 32 : 16;

	switch (f->memsize) {
	case MS_OPSIZE:
	case MS_STRING:	return out->opsize;
	case MS_VARIES:	return 0;
	case MS_VL:	return vl;
	case MS_VL2:	return vl / 2;
	case MS_VL4:	return vl / 4;
	case MS_VL8:	return vl / 8;
	case MS_DDUP:	return out->vex_l ? 32 : 8;
	case MS_FAR:	return out->opsize + 2u;
	case MS_PAIR:	return out->opsize * 2u;
	case MS_DTR:	return out->mode == INSN_MODE_64 ? 10 : 6;
	case MS_MIN4:	return out->opsize < 4 ? out->opsize : 4;
	case MS_FENV:	return out->opsize == 2 ? 14 : 28;
	case MS_FSAVE:	return out->opsize == 2 ? 94 : 108;
	default:	return f->memsize;
	}
}

/* Registers that do not exist: segments 6 and 7, CS as a destination, CR1 and the like, DR8 and up. */
static bool bad_register(const struct form *f, const struct insn *out)
{
	if (f->flags & FORM_SREG)
		return out->reg > SEG_GS || (f->flags & FORM_SREG_DST && out->reg == SEG_CS);
	if (f->flags & FORM_CR)
		return !(BIT(out->reg) & (BIT(0) | BIT(2) | BIT(3) | BIT(4) | BIT(8)));
	return f->flags & FORM_DR && out->reg > 7;
}

static void place_registers(struct insn *out, const struct form *f, uint8_t opcode, uint8_t rex, uint8_t seg)
{
	if (f->flags & FORM_OPREG)
		out->rm = (opcode & 7) | (rex & REX_B ? 8 : 0);
	if (f->flags & FORM_FIXSEG)
		out->reg = opcode >> 3 & 7;
	if (f->flags & FORM_REG8)
		out->reg &= 7;
	if (f->flags & FORM_RM8)
		out->rm &= 7;
	if (f->flags & FORM_REGONLY)
		out->mod = 3;
	if (f->flags & FORM_STR_DST)
		out->seg = SEG_ES;
	else if (seg != N_SEGS)
		out->seg = seg;
}

enum insn_status insn_decode(const uint8_t *bytes, unsigned avail, enum insn_mode mode, bool real, const bool *features,
			     struct insn *out)
{
	struct cursor c = { .b = out->bytes, .end = avail < INSN_MAX_LEN ? avail : INSN_MAX_LEN, .seg = N_SEGS };
	const struct slot *slot;
	const struct cand *cand;
	const struct form *f;
	enum insn_status st;
	unsigned map;
	uint32_t state;
	uint8_t opcode;

	memset(out, 0, offsetof(struct insn, bytes));
	if (avail >= sizeof(out->bytes))
		memcpy(out->bytes, bytes, sizeof(out->bytes));
	else
		memcpy(out->bytes, bytes, avail);
	out->mode = mode;
	out->base = out->index = GPR_ZERO;

	eat_prefixes(&c, out);
	st = read_opcode(&c, out, real, &map, &state);
	if (unlikely(st != INSN_OK))
		return st;
	opcode = out->bytes[out->opc_off];
	slot = &insn_index.slots[map][opcode];
	if (unlikely(!slot->n))
		return undefined(&c, out);

	state |= (ST_MODE_16 << mode) | (real ? ST_REAL : ST_PROT) | (c.rex & REX_W ? ST_W1 : ST_W0) |
		 (c.rex & REX_B ? ST_REXB1 : ST_REXB0) | (out->vex_l ? ST_L1 : ST_L0) | (out->vvvv ? ST_VVVVX : ST_VVVV0);
	/* Outside 64-bit mode the top bit names no register, but a form without one wants it set all the same. */
	if (mode != INSN_MODE_64)
		out->vvvv &= 7;
	if (slot->has_modrm) {
		if (!room(&c, 1))
			return out_of_bytes(&c, out);
		out->has_modrm = true;
		out->modrm_off = c.pos;
		out->modrm = c.b[c.pos++];
		out->mod = out->modrm >> 6;
		out->reg = (out->modrm >> 3 & 7) | (c.rex & REX_R ? 8 : 0);
		out->rm = (out->modrm & 7) | (c.rex & REX_B ? 8 : 0);
		state |= out->mod == 3 ? ST_REG : ST_MEM;
	}
	cand = find_row(slot, out->modrm, state, features);
	if (unlikely(!cand))
		return undefined(&c, out);

	f = &insn_index.forms[cand->row];
	out->row = cand->row;
	out->op = f->op;
	out->rex = c.rex && !out->has_vex;
	out->rex_w = c.rex & REX_W;
	out->opsize = opsizes[f->size + (f->size == SZ_VEC && out->vex_l)][mode][out->pfx66][out->rex_w];
	out->adsize = adsizes[mode][out->pfx_addr];
	out->seg = SEG_DS;
	if (out->has_modrm && out->mod != 3 && !(f->flags & FORM_REGONLY)) {
		out->has_mem = true;
		st = out->adsize == 2 ? read_mem16(&c, out) : read_mem32(&c, out, f->flags & FORM_VSIB);
		if (unlikely(st != INSN_OK))
			return st;
		out->memsize = memory_size(f, out);
	} else if (f->memsize != MS_OPSIZE) {
		out->memsize = memory_size(f, out);
	}
	if (f->imm != IMM_NONE) {
		st = read_imm(&c, out, f);
		if (unlikely(st != INSN_OK))
			return st;
		if (f->imm == IMM_MOFFS)
			out->memsize = out->opsize;
	}
	if (f->flags & FORM_REP)
		out->rep = c.rep;
	if ((f->flags & FORM_SPECIAL) || c.seg != N_SEGS)
		place_registers(out, f, opcode, c.rex, c.seg);
	if (unlikely(out->lock && !(f->flags & FORM_LOCK && out->has_mem)))
		return undefined(&c, out);
	if (f->flags & (FORM_SREG | FORM_CR | FORM_DR) && bad_register(f, out))
		return undefined(&c, out);
	if (f->flags & FORM_VSIB &&
	    (out->adsize == 2 || out->reg == out->index || out->reg == out->vvvv || out->index == out->vvvv))
		return undefined(&c, out);
	out->len = c.pos;
	return INSN_OK;
}
