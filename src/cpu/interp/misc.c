/* SPDX-License-Identifier: MIT */
/*
 * The small ones: flag instructions, CBW and CWD families, XLAT, SALC, BOUND, fences and hints, cache line flushes, UD.
 */
#include <sched.h>

#include "cpu/interp/interp_private.h"

/* ---- flags ------------------------------------------------------------------------------------------------------------------- */

INT_FN(lahf) { W8(c, OFF_AH, c->cc >> 8); CPU_NEXT(c, o); }
INT_FN(sahf)
{
	c->cc = (uint16_t)((R8(c, OFF_AH) & 0xd5u) << 8 | CC_FIXED | (c->cc & CC_OF));
	CPU_NEXT(c, o);
}
INT_FN(clc) { c->cc &= (uint16_t)~CC_CF; CPU_NEXT(c, o); }
INT_FN(stc) { c->cc |= CC_CF; CPU_NEXT(c, o); }
INT_FN(cmc) { c->cc ^= CC_CF; CPU_NEXT(c, o); }
INT_FN(cld) { c->eflags &= ~FLAG_DF; CPU_NEXT(c, o); }
INT_FN(std) { c->eflags |= FLAG_DF; CPU_NEXT(c, o); }
INT_FN(salc) { W8(c, OFF_AL, c->cc & CC_CF ? 0xff : 0); CPU_NEXT(c, o); }

/* ---- sign extension of the accumulator ------------------------------------------------------------------------------------- */

INT_FN(cbw) { W16(c, RAX, (uint16_t)(int8_t)R8(c, OFF_AL)); CPU_NEXT(c, o); }
INT_FN(cwde) { W32(c, RAX, (uint32_t)(int16_t)R16(c, RAX)); CPU_NEXT(c, o); }
INT_FN(cdqe) { W64(c, RAX, (uint64_t)(int32_t)R32(c, RAX)); CPU_NEXT(c, o); }
INT_FN(cwd) { W16(c, RDX, (int16_t)R16(c, RAX) < 0 ? 0xffff : 0); CPU_NEXT(c, o); }
INT_FN(cdq) { W32(c, RDX, (int32_t)R32(c, RAX) < 0 ? 0xffffffff : 0); CPU_NEXT(c, o); }
INT_FN(cqo) { W64(c, RDX, (int64_t)R64(c, RAX) < 0 ? ~0ull : 0); CPU_NEXT(c, o); }

/* ---- memory ----------------------------------------------------------------------------------------------------------------------- */

/* The table's address was lowered as base rBX; AL is added before the truncation. */
INT_SLOW(xlat)
{
	uint64_t ea = (c->gpr[RBX] + R8(c, OFF_AL)) & o->admask, la = ea + c->seg_base[o->seg];
	uint8_t v;

	if (o->flags & OP_CHECK_SEG && !cpu_seg_linear(c, o, o->seg, ea, 1, ACC_R, &la))
		return false;
	if (!cpu_ld8(c, o, la, &v))
		return false;
	W8(c, OFF_AL, v);
	return true;
}

/* Signed bounds, both included. An index below the lower one is #BR before the upper one is looked at. */
INT_SLOW(bound)
{
	unsigned n = o->opsize;
	int64_t index = n == 2 ? (int16_t)R16(c, o->reg) : (int32_t)R32(c, o->reg);
	uint64_t la;

	if (!cpu_la(c, o, 2 * n, ACC_R, &la))
		return false;
	for (unsigned i = 0; i < 2; i++) {
		int64_t limit;
		uint32_t d;
		uint16_t w;

		if (n == 2 ? !cpu_ld16(c, o, la + i * n, &w) : !cpu_ld32(c, o, la + i * n, &d))
			return false;
		limit = n == 2 ? (int16_t)w : (int32_t)d;
		if (i ? index > limit : index < limit) {
			cpu_raise(c, o, VEC_BR);
			return false;
		}
	}
	return true;
}

/* CLFLUSH, CLFLUSHOPT, CLWB: judged as a read of the byte; caches are the host's affair. */
INT_SLOW(flush_line)
{
	struct cpu_ref r;
	uint64_t la;

	return cpu_la(c, o, 1, ACC_R, &la) && cpu_ref_get(c, o, la, 1, ACC_R, &r);
}

INT_FN(nop) { CPU_NEXT(c, o); }

/*
 * A guest that spins may wait for a vCPU whose thread has no CPU. As KVM does when hardware tells it of such loops, give ours
 * away; about every ten microseconds of spinning.
 */
#define PAUSES_PER_YIELD 256u

INT_FN(pause_)
{
	__asm__ volatile("pause");
	if (unlikely(!(++c->n_pauses % PAUSES_PER_YIELD)))
		sched_yield();
	CPU_NEXT(c, o);
}

INT_FN(mfence) { __asm__ volatile("mfence" : : : "memory"); CPU_NEXT(c, o); }
INT_FN(lfence) { __asm__ volatile("lfence" : : : "memory"); CPU_NEXT(c, o); }
INT_FN(sfence) { __asm__ volatile("sfence" : : : "memory"); CPU_NEXT(c, o); }
INT_FN(undefined) { cpu_raise(c, o, VEC_UD); }

static cpu_fn *const by_op[N_INSN_OPS] = {
	[I_LAHF] = lahf, [I_SAHF] = sahf, [I_CLC] = clc, [I_STC] = stc, [I_CMC] = cmc, [I_CLD] = cld, [I_STD] = std,
	[I_SALC] = salc, [I_XLAT] = xlat, [I_BOUND] = bound, [I_CLFLUSH] = flush_line, [I_CLFLUSHOPT] = flush_line,
	[I_CLWB] = flush_line, [I_NOP] = nop, [I_GRP_NOP] = nop, [I_PREFETCH] = nop, [I_PAUSE] = pause_, [I_MFENCE] = mfence,
	[I_LFENCE] = lfence, [I_SFENCE] = sfence, [I_UD0] = undefined, [I_UD1] = undefined, [I_UD2] = undefined,
};

bool int_lower_misc(const struct insn *in, struct cpu_op *o)
{
	if (in->op == I_CBW)
		o->fn = o->opsize == 2 ? cbw : o->opsize == 4 ? cwde : cdqe;
	else if (in->op == I_CWD)
		o->fn = o->opsize == 2 ? cwd : o->opsize == 4 ? cdq : cqo;
	else
		o->fn = by_op[in->op];
	return o->fn;
}
