/* SPDX-License-Identifier: MIT */
/*
 * BT BTS BTR BTC, BSF BSR TZCNT LZCNT POPCNT, CRC32.
 *
 * A bit offset from a register addresses memory beyond the operand: the byte displacement goes into the address before it is
 * truncated to the address size, and the offset within the operand stays. Source: Intel SDM vol. 2 "BT - Bit Test".
 */
#include <cpuid.h>

#include "cpu/interp/rmw.h"

/* ---- BT family -------------------------------------------------------------------------------------------------------------- */

/* Address of the unit that holds bit @off (signed, in a register of @bits), counted from the operand. */
#define BIT_UNIT(bits)													\
static inline bool bit_la##bits(struct vcpu *c, const struct cpu_op *o, unsigned rights, uint64_t *la)			\
{															\
	int64_t off = (int##bits##_t)R##bits(c, o->reg);								\
	uint64_t ea = (c->gpr[o->base] + (c->gpr[o->index] << o->scale) + (uint64_t)o->disp +				\
		       (uint64_t)(off >> (bits == 64 ? 6 : bits == 32 ? 5 : 4)) * (bits / 8)) & o->admask;		\
															\
	if (unlikely(o->flags & OP_CHECK_SEG))										\
		return cpu_seg_linear(c, o, o->seg, ea, bits / 8, rights, la);						\
	*la = ea + c->seg_base[o->seg];											\
	return true;													\
}
BIT_UNIT(16)
BIT_UNIT(32)
BIT_UNIT(64)

/* do_: on a value; lock_: at an address, @bit below @bits. */
#define BIT_VALUE(op, bits, sfx)											\
static inline uint##bits##_t do_##op##bits(uint##bits##_t d, uint##bits##_t bit, uint16_t *cc)				\
{															\
	uint16_t f = *cc;												\
															\
	__asm__(CC_RESTORE #op #sfx " %[s], %[d]" CC_SAVE : [d] "+&r" (d), "+&a" (f) : [s] "r" (bit) : "cc");		\
	*cc = f;													\
	return d;													\
}
#define BIT_LOCK(op, bits, sfx)												\
static inline void lock_##op##bits(uint8_t *p, uint##bits##_t bit, uint16_t *cc)					\
{															\
	uint16_t f = *cc;												\
															\
	__asm__ volatile(CC_RESTORE "lock; " #op #sfx " %[s], %[d]" CC_SAVE						\
			 : [d] "+m" (*(int_u##bits *)p), "+&a" (f) : [s] "r" (bit) : "cc", "memory");		\
	*cc = f;													\
}

#define BIT_REGISTERS(op, bits)												\
INT_FN(op##bits##_rr)													\
{															\
	W##bits(c, o->rm, do_##op##bits(R##bits(c, o->rm), R##bits(c, o->reg), &c->cc));				\
	CPU_NEXT(c, o);													\
}															\
INT_FN(op##bits##_ri)													\
{															\
	W##bits(c, o->rm, do_##op##bits(R##bits(c, o->rm), (uint##bits##_t)o->imm, &c->cc));				\
	CPU_NEXT(c, o);													\
}

/* @LA: how the address comes about; @BIT_NO: which bit. A locked form has its handler. */
#define BIT_MODIFY(op, bits, form, LA, BIT_NO)										\
INT_RMW_SLOW(op, bits, op##bits##_##form, LA, (BIT_NO) & (bits - 1))							\
INT_RMW_LOCK(op, bits, op##bits##_##form##_lock, LA, (BIT_NO) & (bits - 1))
#define BIT_TEST(op, bits, form, LA, BIT_NO)										\
INT_SLOW(op##bits##_##form)												\
{															\
	uint##bits##_t d;												\
	uint64_t la;													\
															\
	if (!(LA) || !cpu_ld##bits(c, o, la, &d))									\
		return false;												\
	do_##op##bits(d, (BIT_NO) & (bits - 1), &c->cc);								\
	return true;													\
}

#define WRITES(op, bits, sfx)												\
BIT_VALUE(op, bits, sfx)												\
BIT_LOCK(op, bits, sfx)													\
BIT_REGISTERS(op, bits)													\
BIT_MODIFY(op, bits, mr, bit_la##bits(c, o, ACC_RW, &la), R##bits(c, o->reg))						\
BIT_MODIFY(op, bits, mi, cpu_la(c, o, bits / 8, ACC_RW, &la), (uint##bits##_t)o->imm)
#define TESTS(op, bits, sfx)												\
BIT_VALUE(op, bits, sfx)												\
INT_FN(op##bits##_rr)	/* writes nothing: a 32-bit form must not clear the upper half */				\
{															\
	do_##op##bits(R##bits(c, o->rm), R##bits(c, o->reg), &c->cc);							\
	CPU_NEXT(c, o);													\
}															\
INT_FN(op##bits##_ri)													\
{															\
	do_##op##bits(R##bits(c, o->rm), (uint##bits##_t)o->imm, &c->cc);						\
	CPU_NEXT(c, o);													\
}															\
BIT_TEST(op, bits, mr, bit_la##bits(c, o, ACC_R, &la), R##bits(c, o->reg))						\
BIT_TEST(op, bits, mi, cpu_la(c, o, bits / 8, ACC_R, &la), (uint##bits##_t)o->imm)

#define SIZES(M, op) M(op, 16, w) M(op, 32, l) M(op, 64, q)
SIZES(WRITES, bts)
SIZES(WRITES, btr)
SIZES(WRITES, btc)
SIZES(TESTS, bt)

#define THREE(op, post) { NULL, op##16##post, op##32##post, op##64##post }
struct bit_row { cpu_fn *rr[N_SZ], *ri[N_SZ], *mr[N_SZ], *mi[N_SZ], *mr_lock[N_SZ], *mi_lock[N_SZ]; };
#define ROW(op) THREE(op, _rr), THREE(op, _ri), THREE(op, _mr), THREE(op, _mi), THREE(op, _mr_lock), THREE(op, _mi_lock)
static const struct bit_row bit_rows[] = {
	{ THREE(bt, _rr), THREE(bt, _ri), THREE(bt, _mr), THREE(bt, _mi),
	  { NULL }, { NULL } },
	{ ROW(bts) }, { ROW(btr) }, { ROW(btc) },
};

bool int_lower_bt(const struct insn *in, struct cpu_op *o)
{
	const struct bit_row *row = &bit_rows[in->op == I_BT ? 0 : in->op == I_BTS ? 1 : in->op == I_BTR ? 2 : 3];
	enum int_size sz = int_size(o->opsize);
	bool lock = o->flags & OP_LOCK;

	switch (int_form(in, o, o->opsize, o->opsize)) {
	case FORM_RR: o->fn = row->rr[sz]; break;
	case FORM_RI: o->fn = row->ri[sz]; break;
	case FORM_MR: o->fn = lock ? row->mr_lock[sz] : row->mr[sz]; break;
	case FORM_MI: o->fn = lock ? row->mi_lock[sz] : row->mi[sz]; break;
	default: return false;
	}
	return o->fn;
}

/* ---- scans and counts ------------------------------------------------------------------------------------------------------------ */

/*
 * The whole destination register goes through the host's instruction: BSF and BSR of zero leave it alone, also its upper half,
 * or do what this host does.
 */
#define SCAN(op, bits, sfx, mod)											\
static inline void do_##op##bits(struct vcpu *c, const struct cpu_op *o, uint64_t s)					\
{															\
	uint64_t d = c->gpr[o->reg];											\
	uint16_t f = c->cc;												\
															\
	__asm__(CC_RESTORE #op #sfx " %" #mod "[s], %" #mod "[d]" CC_SAVE						\
		: [d] "+&r" (d), "+&a" (f) : [s] "r" (s) : "cc");							\
	c->gpr[o->reg] = d;												\
	c->cc = f;													\
}															\
INT_FN(op##bits##_r)													\
{															\
	do_##op##bits(c, o, c->gpr[o->rm]);										\
	CPU_NEXT(c, o);													\
}															\
INT_SLOW(op##bits##_m)													\
{															\
	uint##bits##_t s;												\
															\
	if (!int_load##bits(c, o, &s))											\
		return false;												\
	do_##op##bits(c, o, s);												\
	return true;													\
}
#define SCANS(op) SCAN(op, 16, w, w) SCAN(op, 32, l, k) SCAN(op, 64, q, q)
SCANS(bsf)
SCANS(bsr)
SCANS(tzcnt)
SCANS(lzcnt)
SCANS(popcnt)

#define SCAN_ROW(op) { THREE(op, _r), THREE(op, _m) }
static cpu_fn *const scan_fn[5][2][N_SZ] = { SCAN_ROW(bsf), SCAN_ROW(bsr), SCAN_ROW(tzcnt), SCAN_ROW(lzcnt), SCAN_ROW(popcnt) };

static bool host_has_lzcnt(void)
{
	unsigned a, b, ecx, d;

	return __get_cpuid(0x80000001, &a, &b, &ecx, &d) && ecx & BIT(5);
}

/* The client's CPUID may promise what the host has not: then the instruction is #UD, as on the host. */
static bool host_has(unsigned op)
{
	switch (op) {
	case I_TZCNT: return __builtin_cpu_supports("bmi");
	case I_LZCNT: return host_has_lzcnt();
	case I_POPCNT: return __builtin_cpu_supports("popcnt");
	case I_CRC32: return __builtin_cpu_supports("sse4.2");
	default: return true;
	}
}

bool int_lower_scan(const struct insn *in, struct cpu_op *o)
{
	unsigned row = in->op == I_BSF ? 0 : in->op == I_BSR ? 1 : in->op == I_TZCNT ? 2 : in->op == I_LZCNT ? 3 : 4;

	if (!host_has(in->op))
		return false;
	o->fn = scan_fn[row][in->has_mem][int_size(o->opsize)];
	return o->fn;
}

/* ---- CRC32: 32-bit sum in a 32- or 64-bit register; no flags --------------------------------------------------------------------- */

#define CRC(bits, sfx)													\
static inline void crc##bits(struct vcpu *c, const struct cpu_op *o, uint##bits##_t s)					\
{															\
	uint64_t d = R32(c, o->reg);											\
															\
	if (bits == 64)													\
		__asm__("crc32q %1, %0" : "+r" (d) : "r" ((uint64_t)s));						\
	else														\
		__asm__("crc32" #sfx " %1, %k0" : "+r" (d) : "r" (s));							\
	c->gpr[o->reg] = (uint32_t)d;											\
}															\
INT_FN(crc##bits##_r)													\
{															\
	crc##bits(c, o, R##bits(c, o->rm));										\
	CPU_NEXT(c, o);													\
}															\
INT_SLOW(crc##bits##_m)													\
{															\
	uint##bits##_t s;												\
															\
	if (!int_load##bits(c, o, &s))											\
		return false;												\
	crc##bits(c, o, s);												\
	return true;													\
}
CRC(8, b)
CRC(16, w)
CRC(32, l)
CRC(64, q)

bool int_lower_crc32(const struct insn *in, struct cpu_op *o)
{
	static cpu_fn *const fn[2][N_SZ] = { { crc8_r, crc16_r, crc32_r, crc64_r }, { crc8_m, crc16_m, crc32_m, crc64_m } };

	if (!host_has(I_CRC32))
		return false;
	if (!in->has_mem && o->opsize == 1)
		o->rm = int_byte_reg(in, in->rm);
	o->fn = fn[in->has_mem][int_size(o->opsize)];
	return true;
}
