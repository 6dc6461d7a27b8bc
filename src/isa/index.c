/* SPDX-License-Identifier: MIT */
/*
 * Builds the decoder's lookup tables from the rows, once, before main: a decoder that checked "is it built?" would pay for it
 * on every instruction, and nothing here can fail or depends on anything outside this folder.
 *
 * The capacities of decode_private.h are fixed; a table that does not fit sets overflow, which a test looks at.
 */
#include "isa/decode_private.h"

struct insn_index insn_index;

static bool has_opnd(const struct insn_row *r, enum opnd_enc e)
{
	return r->opnd[0] == e || r->opnd[1] == e || r->opnd[2] == e || r->opnd[3] == e;
}

static bool opnd_is_vector(enum opnd_enc e)
{
	return e >= OE_VREG && e <= OE_XMM0;
}

static bool has_vector(const struct insn_row *r)
{
	return opnd_is_vector(r->opnd[0]) || opnd_is_vector(r->opnd[1]) || opnd_is_vector(r->opnd[2]);
}

static bool has_mmx(const struct insn_row *r)
{
	return has_opnd(r, OE_MREG) || has_opnd(r, OE_MRM) || has_opnd(r, OE_MRM_REG);
}

static bool is_vex(const struct insn_row *r)
{
	return r->map & 0x10;
}

static bool wants_mem(const struct insn_row *r)
{
	return has_opnd(r, OE_MEM) || has_opnd(r, OE_VMEM);
}

static bool wants_reg(const struct insn_row *r)
{
	return has_opnd(r, OE_RM_REG) || has_opnd(r, OE_VRM_REG) || has_opnd(r, OE_MRM_REG) || has_opnd(r, OE_STI) ||
	       has_opnd(r, OE_NOREG);
}

static bool needs_modrm(const struct insn_row *r)
{
	return r->ext >= 0 || r->modrm >= 0 || wants_mem(r) || wants_reg(r) || has_opnd(r, OE_REG) || has_opnd(r, OE_RM) ||
	       has_opnd(r, OE_SREG) || has_opnd(r, OE_CR) || has_opnd(r, OE_DR) || has_opnd(r, OE_VREG) ||
	       has_opnd(r, OE_VRM) || has_opnd(r, OE_MREG) || has_opnd(r, OE_MRM);
}

static unsigned map_of(const struct insn_row *r)
{
	if (is_vex(r))
		return (r->map & 3) + 3;
	return r->map == 4 ? 0 : r->map;
}

static uint32_t allowed_prefixes(int pfx)
{
	switch (pfx) {
	case PFX_ANY:	return ST_PFX_NONE | ST_PFX_66 | ST_PFX_F3 | ST_PFX_F2;
	case PFX_NOREP:	return ST_PFX_NONE | ST_PFX_66;
	case 0x66:	return ST_PFX_66;
	case 0xF3:	return ST_PFX_F3;
	case 0xF2:	return ST_PFX_F2;
	default:	return ST_PFX_NONE;
	}
}

static uint32_t allowed_states(const struct insn_row *r)
{
	uint32_t allow = ST_ALL & ~(ST_PFX_NONE | ST_PFX_66 | ST_PFX_F3 | ST_PFX_F2);

	allow |= allowed_prefixes(r->pfx);
	if (r->attr & IA_W0)
		allow &= ~ST_W1;
	if (r->attr & IA_W1)
		allow &= ~ST_W0;
	if (r->attr & IA_L0)
		allow &= ~ST_L1;
	if (r->attr & IA_L1)
		allow &= ~ST_L0;
	if (r->attr & IA_NO64)
		allow &= ~ST_MODE_64;
	if (r->attr & IA_ONLY64)
		allow &= ~(ST_MODE_16 | ST_MODE_32);
	if (r->attr & IA_PROT)
		allow &= ~ST_REAL;
	if (r->attr & IA_NOREXB)
		allow &= ~ST_REXB1;
	if (is_vex(r) && !has_opnd(r, OE_VVVV) && !has_opnd(r, OE_VGPR))
		allow &= ~ST_VVVVX;
	if (wants_mem(r))
		allow &= ~ST_REG;
	if (wants_reg(r) && !(r->attr & IA_REGONLY))
		allow &= ~ST_MEM;
	return allow;
}

static enum size_kind size_of(const struct insn_row *r)
{
	if (r->attr & IA_BYTE)
		return SZ_BYTE;
	if (r->attr & IA_WSIZE)
		return r->attr & IA_F64 ? SZ_NATIVE : SZ_W;
	if (has_vector(r))
		return r->attr & (IA_VL | IA_L1) ? SZ_VEC : SZ_XMM;
	if (has_mmx(r))
		return SZ_MMX;
	if (r->attr & IA_F64)
		return SZ_F64;
	if (r->attr & IA_D64)
		return SZ_D64;
	if (r->attr & IA_MAX4)
		return SZ_MAX4;
	return SZ_GENERAL;
}

static enum imm_kind imm_of(const struct insn_row *r)
{
	for (unsigned i = 0; i < 4; i++) {
		switch (r->opnd[i]) {
		case OE_IMM:
			if (r->attr & (IA_BYTE | IA_SEXT))
				return IMM_S8;
			return r->attr & IA_IMM64 ? IMM_FULL : IMM_OPSIZE;
		case OE_REL:	return r->attr & IA_SEXT ? IMM_S8 : IMM_OPSIZE;
		case OE_IMM8:
		case OE_VIS4:	return IMM_Z8;
		case OE_IMM16:	return IMM_Z16;
		case OE_FAR:	return IMM_PTR;
		case OE_MOFFS:	return IMM_MOFFS;
		default:	break;
		}
	}
	return IMM_NONE;
}

static uint16_t form_flags(const struct insn_row *r)
{
	uint16_t f = 0;

	if (r->attr & IA_LOCK)
		f |= FORM_LOCK;
	if (r->attr & IA_REP)
		f |= FORM_REP;
	if (r->attr & IA_VSIB)
		f |= FORM_VSIB;
	if (r->attr & IA_REGONLY)
		f |= FORM_REGONLY;
	if (has_opnd(r, OE_OPREG))
		f |= FORM_OPREG;
	if (has_opnd(r, OE_FIXSEG))
		f |= FORM_FIXSEG;
	if (has_opnd(r, OE_SREG))
		f |= FORM_SREG | FORM_REG8;
	if (r->opnd[0] == OE_SREG)
		f |= FORM_SREG_DST;
	if (has_opnd(r, OE_CR))
		f |= FORM_CR;
	if (has_opnd(r, OE_DR))
		f |= FORM_DR;
	if (has_opnd(r, OE_MREG))
		f |= FORM_REG8;
	if (has_opnd(r, OE_MRM) || has_opnd(r, OE_MRM_REG) || has_opnd(r, OE_STI))
		f |= FORM_RM8;
	if (has_opnd(r, OE_STR_DST) && !has_opnd(r, OE_STR_SRC))
		f |= FORM_STR_DST;
	return f;
}

static struct form form_of(const struct insn_row *r)
{
	uint8_t memsize = r->memsize;

	if (memsize == MS_OPSIZE && (r->mem == M_MULTI || r->mem == M_ADDR))
		memsize = MS_VARIES;
	else if (r->mem == M_STRING)
		memsize = MS_STRING;
	return (struct form){
		.op = r->op, .flags = form_flags(r), .size = size_of(r), .imm = imm_of(r),
		.imm2 = r->opnd[0] == OE_IMM16 && r->opnd[1] == OE_IMM8,
		.memsize = memsize,
	};
}

static bool row_fits_reg(const struct insn_row *r, unsigned reg)
{
	if (r->modrm >= 0)
		return ((unsigned)r->modrm >> 3 & 7) == reg;
	return r->ext < 0 || (unsigned)r->ext == reg;
}

static void add_cand(unsigned row)
{
	const struct insn_row *r = &insn_rows[row];

	if (insn_index.n_cands == MAX_CANDS) {
		insn_index.overflow = true;
		return;
	}
	insn_index.cands[insn_index.n_cands++] = (struct cand){
		.allow = allowed_states(r), .modrm = r->modrm, .row = row, .feature = r->feature,
	};
}

/* All candidates of one opcode; @list holds its rows in order. */
static void add_slot(struct slot *s, const uint16_t *list, unsigned n)
{
	bool by_reg = false;

	for (unsigned i = 0; i < n; i++) {
		by_reg |= insn_rows[list[i]].ext >= 0 || insn_rows[list[i]].modrm >= 0;
		s->has_modrm |= needs_modrm(&insn_rows[list[i]]);
	}
	s->n = n;
	if (!by_reg) {
		s->first = insn_index.n_cands;
		for (unsigned i = 0; i < n; i++)
			add_cand(list[i]);
		return;
	}
	if (insn_index.n_groups == MAX_GROUPS) {
		insn_index.overflow = true;
		return;
	}
	s->by_reg = true;
	s->first = insn_index.n_groups++;
	for (unsigned reg = 0; reg < 8; reg++) {
		struct sub_slot *sub = &insn_index.by_reg[s->first][reg];

		sub->first = insn_index.n_cands;
		for (unsigned i = 0; i < n; i++)
			if (row_fits_reg(&insn_rows[list[i]], reg))
				add_cand(list[i]);
		sub->n = insn_index.n_cands - sub->first;
	}
}

/* Rows of one opcode, found through chains so that building is linear in the number of rows. */
/* Before the constructors that decode: those without a number. */
static void __attribute__((constructor(200))) build_index(void)
{
	static uint16_t head[N_INDEX_MAPS][256], next[MAX_FORMS];	/* row + 1; 0 ends a chain */
	uint16_t list[255];

	if (n_insn_rows > MAX_FORMS) {
		insn_index.overflow = true;
		return;
	}
	for (unsigned row = n_insn_rows; row-- > 0;) {
		uint16_t *h = &head[map_of(&insn_rows[row])][insn_rows[row].opcode];

		next[row] = *h;
		*h = row + 1;
		insn_index.forms[row] = form_of(&insn_rows[row]);
	}
	for (unsigned map = 0; map < N_INDEX_MAPS; map++)
		for (unsigned opc = 0; opc < 256; opc++) {
			unsigned n = 0;

			for (unsigned r = head[map][opc]; r && n < ARRAY_SIZE(list); r = next[r - 1])
				list[n++] = r - 1;
			if (n)
				add_slot(&insn_index.slots[map][opc], list, n);
		}
}
