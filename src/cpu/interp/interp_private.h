/* SPDX-License-Identifier: MIT */
/*
 * What the handlers of the integer interpreter share: registers, flags, the shapes of handlers, the stack.
 *
 * A handler is specialised for its operation, form and size, so that it has no decision left to take but the memory probe.
 * Operations with a memory operand come in three: `_b` (base + displacement in the flat address space), `_f` (any address
 * without checks) and `_s` (everything else: legacy segment checks, probe misses, devices, page crossers). The first two
 * never call: what they cannot do they leave to the third by a jump.
 *
 * GCC makes a call in tail position a jump only when no address of a local escapes. So whatever needs a local in memory is the
 * body of a handler, a function of its own that says whether to go on (INT_SLOW).
 */
#ifndef GW_CPU_INTERP_PRIVATE_H
#define GW_CPU_INTERP_PRIVATE_H

#include "cpu/interp/interp.h"

#define INT_NOINLINE	__attribute__((noinline))

/* A handler that never has an addressable local. */
#define INT_FN(name) static void name(struct vcpu *c, const struct cpu_op *o)

/* A handler with a body: the body returns false when the block must be left. */
#define INT_SLOW(name)									\
	static INT_NOINLINE bool name##_body(struct vcpu *c, const struct cpu_op *o);	\
	static INT_NOINLINE void name(struct vcpu *c, const struct cpu_op *o)		\
	{										\
		if (!name##_body(c, o))							\
			return;								\
		CPU_NEXT(c, o);								\
	}										\
	static INT_NOINLINE bool name##_body(struct vcpu *c, const struct cpu_op *o)

/* Guest memory as scalars: at any address. */
typedef uint8_t int_u8;
typedef uint16_t int_u16 __attribute__((aligned(1)));
typedef uint32_t int_u32 __attribute__((aligned(1)));
typedef uint64_t int_u64 __attribute__((aligned(1)));

/* ---- registers: 8-bit ones by byte offset, the rest by number; a 32-bit write clears the upper half ------------------ */

#define R8(c, n)	(((uint8_t *)(c)->gpr)[n])
#define R16(c, n)	(*(uint16_t *)&(c)->gpr[n])
#define R32(c, n)	((uint32_t)(c)->gpr[n])
#define R64(c, n)	((c)->gpr[n])
#define W8(c, n, v)	((void)(R8(c, n) = (uint8_t)(v)))
#define W16(c, n, v)	((void)(R16(c, n) = (uint16_t)(v)))
#define W32(c, n, v)	((void)((c)->gpr[n] = (uint32_t)(v)))
#define W64(c, n, v)	((void)((c)->gpr[n] = (v)))

/* Byte offsets of the fixed 8-bit registers. */
#define OFF_AL		0
#define OFF_AH		1
#define OFF_CL		(RCX * 8)

enum int_size { SZ8, SZ16, SZ32, SZ64, N_SZ };
static inline enum int_size int_size(unsigned bytes) { return bytes == 8 ? SZ64 : bytes == 4 ? SZ32 : bytes == 2 ? SZ16 : SZ8; }

/* ---- flags: asm text around an instruction, with the flags in AX --------------------------------------------------------- */

#define CC_SAVE		"\n\tlahf\n\tseto %%al"
#define CC_RESTORE	"addb $127, %%al\n\tsahf\n\t"	/* 1 + 127 overflows, 0 + 127 does not */
#define CC_FIXED	0x0200u				/* bit 1 of FLAGS, as LAHF shows it */

/* The sixteen conditions by their number in the opcode, over the flags in `cc`. Source: Intel SDM vol. 1 app. B "Condition Codes". */
#define INT_CONDS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

static inline __attribute__((always_inline)) bool int_cond(uint16_t cc, unsigned n)
{
	bool less = ((cc >> 15) ^ cc) & 1, holds;	/* SF differs from OF */

	switch (n >> 1) {
	case 0: holds = cc & CC_OF; break;
	case 1: holds = cc & CC_CF; break;
	case 2: holds = cc & CC_ZF; break;
	case 3: holds = cc & (CC_CF | CC_ZF); break;
	case 4: holds = cc & CC_SF; break;
	case 5: holds = cc & CC_PF; break;
	case 6: holds = less; break;
	default: holds = less || cc & CC_ZF; break;
	}
	return holds != (n & 1);
}

/* ---- addresses ---------------------------------------------------------------------------------------------------------------- */

enum int_addr { ADDR_B, ADDR_F, ADDR_S, N_ADDR };

static inline uint64_t int_la_b(const struct vcpu *c, const struct cpu_op *o)
{
	return c->gpr[o->base] + (uint64_t)o->disp;
}

static inline uint64_t int_la_f(const struct vcpu *c, const struct cpu_op *o)
{
	return cpu_ea(c, o) + c->seg_base[o->seg];
}

static inline enum int_addr int_addr_of(const struct cpu_op *o)
{
	if (o->flags & OP_CHECK_SEG)
		return ADDR_S;
	return o->index == GPR_ZERO && o->admask == ~0ull && o->seg == SEG_FLAT ? ADDR_B : ADDR_F;
}

#define INT_SCALARS(X) X(8) X(16) X(32) X(64)

/* The explicit operand by the general way: int_loadN, int_storeN; int_rmwN takes a ref and loads, int_putN commits it. */
#define INT_MEM(bits)												\
static inline bool int_load##bits(struct vcpu *c, const struct cpu_op *o, uint##bits##_t *v)			\
{														\
	uint64_t la;												\
														\
	return cpu_la(c, o, bits / 8, ACC_R, &la) && cpu_ld##bits(c, o, la, v);					\
}														\
static inline bool int_store##bits(struct vcpu *c, const struct cpu_op *o, uint##bits##_t v)			\
{														\
	uint64_t la;												\
														\
	return cpu_la(c, o, bits / 8, ACC_W, &la) && cpu_st##bits(c, o, la, v);					\
}														\
static inline bool int_get##bits(struct vcpu *c, const struct cpu_op *o, struct cpu_ref *r, uint##bits##_t *v)	\
{														\
	if (unlikely(!r->p))											\
		return cpu_ref_load(c, o, r, v);								\
	*v = *(const volatile int_u##bits *)r->p;								\
	return true;												\
}														\
static inline bool int_rmw##bits(struct vcpu *c, const struct cpu_op *o, struct cpu_ref *r, uint##bits##_t *v)	\
{														\
	uint64_t la;												\
														\
	return cpu_la(c, o, bits / 8, ACC_RW, &la) && cpu_ref_get(c, o, la, bits / 8, ACC_RW, r) &&		\
	       int_get##bits(c, o, r, v);									\
}														\
static inline void int_put##bits(struct vcpu *c, const struct cpu_op *o, const struct cpu_ref *r, uint##bits##_t v) \
{														\
	if (likely(r->p && !r->code))										\
		*(volatile int_u##bits *)r->p = v;								\
	else													\
		cpu_ref_store(c, o, r, &v);									\
}
INT_SCALARS(INT_MEM)
#undef INT_MEM

/* ---- locked accesses (lock.c) --------------------------------------------------------------------------------------------------- */

/*
 * Begin a locked read-modify-write of the explicit operand. @p is where the host's locked instruction may work, or NULL: then
 * load with cpu_ref_load() and store with cpu_ref_store() (a device, or bytes in two pages while every other vCPU stands
 * still). Always int_lock_end() after a begin that returned true.
 */
struct int_lock {
	struct cpu_ref ref;
	uint8_t *p;
	bool exclusive;
};
bool int_lock_begin(struct vcpu *c, const struct cpu_op *o, uint64_t la, unsigned len, struct int_lock *l);
void int_lock_end(struct vcpu *c, struct int_lock *l);

/* ---- the stack: size of SP, checks ----------------------------------------------------------------------------------------------- */

static inline uint64_t int_sp_mask(const struct vcpu *c)
{
	return c->mode == INSN_MODE_64 ? ~0ull : c->seg[SEG_SS].db ? 0xffffffffull : 0xffffull;
}

/* A full SP write clears what a 32-bit register write clears, and keeps what a 16-bit one keeps. */
static inline void int_set_stack_reg(struct vcpu *c, unsigned reg, uint64_t v)
{
	uint64_t mask = int_sp_mask(c);

	if (mask == 0xffff)
		W16(c, reg, v);
	else
		c->gpr[reg] = v & mask;
}

static inline bool int_stack_la(struct vcpu *c, const struct cpu_op *o, uint64_t sp, unsigned len, unsigned rights, uint64_t *la)
{
	if (!c->flat)
		return cpu_seg_linear(c, o, SEG_SS, sp, len, rights, la);
	*la = sp;
	return true;
}

/* ---- branches --------------------------------------------------------------------------------------------------------------------- */

/* Might a jump to the constant target fault? Asked by instructions that commit something before they jump. */
static inline bool int_target_faults(const struct vcpu *c, const struct cpu_op *o)
{
	uint64_t t = c->gpr[GPR_RIP] + o->imm;

	if (likely(c->mode == INSN_MODE_64))
		return (uint64_t)((int64_t)(t << 16) >> 16) != t;
	if (o->opsize == 2)
		t &= 0xffff;
	return (uint32_t)t > c->seg[SEG_CS].limit;
}

/* ---- lowering --------------------------------------------------------------------------------------------------------------------- */

enum int_kind { K_NONE, K_REG, K_MEM, K_IMM, K_CL };

/* The byte offset into gpr[] of 8-bit register @n. */
uint8_t int_byte_reg(const struct insn *in, unsigned n);
/* What operand @i of @in is; a register's number (its byte offset when @bytes is 1) goes to *reg. */
enum int_kind int_operand(const struct insn *in, unsigned i, unsigned bytes, uint8_t *reg);

/*
 * The common two-operand forms, with the registers where the handlers look for them:
 *   RR: rm <- reg   RI: rm <- imm   RM: reg <- memory   MR: memory <- reg   MI: memory <- imm
 * @dst, @src: sizes in bytes.
 */
enum int_form { FORM_RR, FORM_RI, FORM_RM, FORM_MR, FORM_MI, N_FORM, FORM_NONE };
enum int_form int_form(const struct insn *in, struct cpu_op *o, unsigned dst, unsigned src);

/* Each family sets o->fn (and what its handlers want in aux, imm, reg, rm); false: no such form, the operation is #UD. */
typedef bool int_lower_fn(const struct insn *in, struct cpu_op *o);
int_lower_fn int_lower_alu, int_lower_unary, int_lower_shift, int_lower_shiftd, int_lower_muldiv, int_lower_mov, int_lower_movx,
	int_lower_lea, int_lower_xchg, int_lower_xadd, int_lower_cmpxchg, int_lower_cmpxchg8b, int_lower_cond, int_lower_bt,
	int_lower_scan, int_lower_bswap, int_lower_movbe, int_lower_crc32, int_lower_bmi, int_lower_adx, int_lower_branch,
	int_lower_stack, int_lower_string, int_lower_bcd, int_lower_misc, int_lower_movdir64b;

#endif
