/* SPDX-License-Identifier: MIT */
/*
 * MOV (all forms but segment, control and debug registers), MOVNTI, MOVDIRI, MOVZX, MOVSX, MOVSXD, LEA, BSWAP, MOVBE, MOVDIR64B.
 */
#include "cpu/interp/interp_private.h"

/* ---- MOV ------------------------------------------------------------------------------------------------------------------ */

#define LOAD_FAST(name, dbits, sbits, T, A)										\
INT_FN(name##_##A)													\
{															\
	const uint8_t *p = acc_probe_r(&c->acc, int_la_##A(c, o), sbits / 8);						\
															\
	if (unlikely(!p))												\
		return name##_s(c, o);											\
	c->cur = o;													\
	W##dbits(c, o->reg, (uint##dbits##_t)(T)*(const volatile int_u##sbits *)p);					\
	CPU_NEXT(c, o);													\
}
/* reg <- memory, through type @T: a signed one extends the sign. */
#define LOAD(name, dbits, sbits, T)											\
INT_SLOW(name##_s)													\
{															\
	uint##sbits##_t v;												\
															\
	if (!int_load##sbits(c, o, &v))											\
		return false;												\
	W##dbits(c, o->reg, (uint##dbits##_t)(T)v);									\
	return true;													\
}															\
LOAD_FAST(name, dbits, sbits, T, b)											\
LOAD_FAST(name, dbits, sbits, T, f)

#define STORE_FAST(name, bits, src, A)											\
INT_FN(name##_##A)													\
{															\
	uint8_t *p = acc_probe_w(&c->acc, int_la_##A(c, o), bits / 8);							\
															\
	if (unlikely(!p))												\
		return name##_s(c, o);											\
	c->cur = o;													\
	*(volatile int_u##bits *)p = src;										\
	CPU_NEXT(c, o);													\
}
#define STORE(name, bits, src)												\
INT_SLOW(name##_s)													\
{															\
	return int_store##bits(c, o, src);										\
}															\
STORE_FAST(name, bits, src, b)												\
STORE_FAST(name, bits, src, f)

#define MOVES(bits)													\
INT_FN(mov##bits##_rr)													\
{															\
	W##bits(c, o->rm, R##bits(c, o->reg));										\
	CPU_NEXT(c, o);													\
}															\
INT_FN(mov##bits##_ri)													\
{															\
	W##bits(c, o->rm, (uint##bits##_t)o->imm);									\
	CPU_NEXT(c, o);													\
}															\
LOAD(mov##bits##_rm, bits, bits, uint##bits##_t)									\
STORE(mov##bits##_mr, bits, R##bits(c, o->reg))										\
STORE(mov##bits##_mi, bits, (uint##bits##_t)o->imm)
INT_SCALARS(MOVES)

#define FOUR(post) { mov8##post, mov16##post, mov32##post, mov64##post }
#define BY_ADDR(name) { name##_b, name##_f, name##_s }
#define FOUR_ADDR(form) { BY_ADDR(mov8_##form), BY_ADDR(mov16_##form), BY_ADDR(mov32_##form), BY_ADDR(mov64_##form) }
static cpu_fn *const mov_rr[N_SZ] = FOUR(_rr), *const mov_ri[N_SZ] = FOUR(_ri);
static cpu_fn *const mov_rm[N_SZ][N_ADDR] = FOUR_ADDR(rm), *const mov_mr[N_SZ][N_ADDR] = FOUR_ADDR(mr),
	*const mov_mi[N_SZ][N_ADDR] = FOUR_ADDR(mi);

bool int_lower_mov(const struct insn *in, struct cpu_op *o)
{
	enum int_size sz = int_size(o->opsize);
	enum int_addr addr = int_addr_of(o);

	switch (int_form(in, o, o->opsize, o->opsize)) {
	case FORM_RR: o->fn = mov_rr[sz]; return true;
	case FORM_RI: o->fn = mov_ri[sz]; return true;
	case FORM_RM: o->fn = mov_rm[sz][addr]; return true;
	case FORM_MR: o->fn = mov_mr[sz][addr]; return true;
	case FORM_MI: o->fn = mov_mi[sz][addr]; return true;
	default: return false;
	}
}

/* ---- MOVZX, MOVSX, MOVSXD ----------------------------------------------------------------------------------------------------- */

#define EXTEND(name, dbits, sbits, T)											\
INT_FN(name##_rr)													\
{															\
	W##dbits(c, o->rm, (uint##dbits##_t)(T)R##sbits(c, o->reg));							\
	CPU_NEXT(c, o);													\
}															\
LOAD(name##_rm, dbits, sbits, T)

EXTEND(zx16_8,  16, 8,  uint8_t)
EXTEND(zx16_16, 16, 16, uint16_t)
EXTEND(zx64_8,  64, 8,  uint8_t)	/* to 32 bits is the same */
EXTEND(zx64_16, 64, 16, uint16_t)
EXTEND(sx16_8,  16, 8,  int8_t)
EXTEND(sx32_8,  32, 8,  int8_t)
EXTEND(sx32_16, 32, 16, int16_t)
EXTEND(sx64_8,  64, 8,  int8_t)
EXTEND(sx64_16, 64, 16, int16_t)
EXTEND(sx64_32, 64, 32, int32_t)

struct extend_row { uint8_t is_signed, dst, src; cpu_fn *rr, *rm[N_ADDR]; };
#define EXT(name) name##_rr, { name##_rm_b, name##_rm_f, name##_rm_s }
static const struct extend_row extend_rows[] = {
	{ 0, 2, 1, EXT(zx16_8) }, { 0, 2, 2, EXT(zx16_16) },
	{ 0, 4, 1, EXT(zx64_8) }, { 0, 4, 2, EXT(zx64_16) },
	{ 0, 8, 1, EXT(zx64_8) }, { 0, 8, 2, EXT(zx64_16) },
	{ 1, 2, 1, EXT(sx16_8) }, { 1, 2, 2, EXT(zx16_16) },
	{ 1, 4, 1, EXT(sx32_8) }, { 1, 4, 2, EXT(sx32_16) }, { 1, 4, 4, EXT(mov32) },
	{ 1, 8, 1, EXT(sx64_8) }, { 1, 8, 2, EXT(sx64_16) }, { 1, 8, 4, EXT(sx64_32) },
};

/* MOVSXD without REX.W moves; with a 16-bit operand it reads 16 bits. */
bool int_lower_movx(const struct insn *in, struct cpu_op *o)
{
	unsigned src = insn_rows[in->row].memsize;
	enum int_form form;

	if (in->op == I_MOVSXD)
		src = o->opsize < 4 ? o->opsize : 4;
	form = int_form(in, o, o->opsize, src);
	for (unsigned i = 0; i < ARRAY_SIZE(extend_rows); i++) {
		const struct extend_row *row = &extend_rows[i];

		if (row->is_signed != (in->op != I_MOVZX) || row->dst != o->opsize || row->src != src)
			continue;
		o->fn = form == FORM_RR ? row->rr : form == FORM_RM ? row->rm[int_addr_of(o)] : NULL;
		return o->fn;
	}
	return false;
}

/* ---- LEA --------------------------------------------------------------------------------------------------------------------------- */

INT_FN(lea16) { W16(c, o->reg, cpu_ea(c, o)); CPU_NEXT(c, o); }
INT_FN(lea32) { W32(c, o->reg, cpu_ea(c, o)); CPU_NEXT(c, o); }
INT_FN(lea64) { W64(c, o->reg, cpu_ea(c, o)); CPU_NEXT(c, o); }
INT_FN(lea32_b) { W32(c, o->reg, int_la_b(c, o)); CPU_NEXT(c, o); }
INT_FN(lea64_b) { W64(c, o->reg, int_la_b(c, o)); CPU_NEXT(c, o); }

bool int_lower_lea(const struct insn *in, struct cpu_op *o)
{
	bool simple = o->index == GPR_ZERO && o->admask == ~0ull;

	if (!in->has_mem)
		return false;
	o->fn = o->opsize == 2 ? lea16 : o->opsize == 4 ? (simple ? lea32_b : lea32) : simple ? lea64_b : lea64;
	return true;
}

/* ---- byte order ------------------------------------------------------------------------------------------------------------------- */

/* Undefined with a 16-bit operand; hosts give zero. */
INT_FN(bswap16) { W16(c, o->rm, 0); CPU_NEXT(c, o); }
INT_FN(bswap32) { W32(c, o->rm, __builtin_bswap32(R32(c, o->rm))); CPU_NEXT(c, o); }
INT_FN(bswap64) { W64(c, o->rm, __builtin_bswap64(R64(c, o->rm))); CPU_NEXT(c, o); }

bool int_lower_bswap(const struct insn *in, struct cpu_op *o)
{
	o->fn = o->opsize == 2 ? bswap16 : o->opsize == 4 ? bswap32 : bswap64;
	return int_operand(in, 0, o->opsize, &o->rm) == K_REG;
}

#define MOVBE(bits)													\
INT_SLOW(movbe##bits##_rm)												\
{															\
	uint##bits##_t v;												\
															\
	if (!int_load##bits(c, o, &v))											\
		return false;												\
	W##bits(c, o->reg, __builtin_bswap##bits(v));									\
	return true;													\
}															\
INT_SLOW(movbe##bits##_mr)												\
{															\
	return int_store##bits(c, o, __builtin_bswap##bits(R##bits(c, o->reg)));					\
}
MOVBE(16)
MOVBE(32)
MOVBE(64)

bool int_lower_movbe(const struct insn *in, struct cpu_op *o)
{
	enum int_form form = int_form(in, o, o->opsize, o->opsize);

	if (form == FORM_RM)
		o->fn = o->opsize == 2 ? movbe16_rm : o->opsize == 4 ? movbe32_rm : movbe64_rm;
	else if (form == FORM_MR)
		o->fn = o->opsize == 2 ? movbe16_mr : o->opsize == 4 ? movbe32_mr : movbe64_mr;
	return o->fn;
}

/* ---- MOVDIR64B: 64 bytes from memory to an aligned address in ES --------------------------------------------------------------- */

INT_SLOW(movdir64b)
{
	uint64_t dst = c->gpr[o->reg] & o->admask;
	uint8_t data[64];
	struct cpu_want w[2] = {
		{ .len = 64, .rights = ACC_R, .stage = ACC_FINAL, .stack = o->flags & OP_STACK },
		{ .len = 64, .rights = ACC_W, .stage = ACC_FINAL },
	};
	struct cpu_ref r[2];

	if (!cpu_la(c, o, 64, ACC_R, &w[0].gva))
		return false;
	/* Faults of the source come before those of the destination's segment and alignment. */
	if ((c->mode != INSN_MODE_64 || dst & 63) && !cpu_ref_get(c, o, w[0].gva, 64, ACC_R, &r[0]))
		return false;
	w[1].gva = dst;
	if (c->mode != INSN_MODE_64 && !cpu_seg_linear(c, o, SEG_ES, dst, 64, ACC_W, &w[1].gva))
		return false;
	if (w[1].gva & 63) {
		cpu_raise_error(c, o, VEC_GP, 0);
		return false;
	}
	if (!cpu_refs(c, o, w, 2, r) || !cpu_ref_load(c, o, &r[0], data))
		return false;
	cpu_ref_store(c, o, &r[1], data);
	return true;
}

bool int_lower_movdir64b(const struct insn *in, struct cpu_op *o)
{
	o->fn = movdir64b;
	return in->has_mem;
}
