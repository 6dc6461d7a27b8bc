/* SPDX-License-Identifier: MIT */
/*
 * Instructions that touch memory element by element under a mask: MASKMOVQ, MASKMOVDQU, (V)MASKMOV, gathers. Elements that are
 * masked out are not accessed. All accessed elements are judged before the first is loaded or stored.
 */
#include <string.h>

#include "cpu/host/host_private.h"

#define MAX_RUNS	8

/* Adjacent elements with their mask bit set, in bytes from the operand's start. */
struct run { uint8_t off, len; };

/* @mask: @n elements of @size bytes, selected by their top bit. Returns the number of runs. */
static unsigned runs_of(const uint8_t *mask, unsigned n, unsigned size, struct run run[MAX_RUNS])
{
	unsigned k = 0;

	for (unsigned i = 0; i < n; i++) {
		if (!(mask[i * size + size - 1] & 0x80))
			continue;
		if (k && run[k - 1].off + run[k - 1].len == i * size)
			run[k - 1].len = (uint8_t)(run[k - 1].len + size);
		else
			run[k++] = (struct run){ (uint8_t)(i * size), (uint8_t)size };
	}
	return k;
}

/* Segment limits too count only for what is accessed; offsets wrap at 4 GiB. */
static bool judge_runs(struct vcpu *c, const struct cpu_op *o, const struct run *run, unsigned n, unsigned rights, struct cpu_ref *r)
{
	uint64_t ea = cpu_ea(c, o);

	for (unsigned i = 0; i < n; i++) {
		uint64_t la = ea + run[i].off + c->seg_base[o->seg];

		if (o->flags & OP_CHECK_SEG && !cpu_seg_linear(c, o, o->seg, (uint32_t)(ea + run[i].off), run[i].len, rights, &la))
			return false;
		if (!cpu_ref_get(c, o, la, run[i].len, rights, &r[i]))
			return false;
	}
	return true;
}

static bool store_runs(struct vcpu *c, const struct cpu_op *o, const struct run *run, unsigned n, const uint8_t *data)
{
	struct cpu_ref r[MAX_RUNS];

	if (!judge_runs(c, o, run, n, ACC_W, r))
		return false;
	for (unsigned i = 0; i < n; i++)
		cpu_ref_store(c, o, &r[i], data + run[i].off);
	return true;
}

static void ymm_get(const struct vcpu *c, unsigned n, uint8_t v[32])
{
	memcpy(v, c->fpu.area + XMM_OF(n), 16);
	memcpy(v + 16, c->fpu.area + YMM_OF(n), 16);
}

static void ymm_put(struct vcpu *c, unsigned n, const uint8_t v[32])
{
	memcpy(c->fpu.area + XMM_OF(n), v, 16);
	memcpy(c->fpu.area + YMM_OF(n), v + 16, 16);
}

/* ---- MASKMOVQ, (V)MASKMOVDQU: bytes of the first operand to [seg:rDI] -------------------------------------------------------- */

/* The stub form cannot be used (its address is implicit), so MMX operands are taken from the saved state. */
static bool byte_masked(struct vcpu *c, const struct cpu_op *o)
{
	unsigned size = o->iop == I_MASKMOVQ ? 8 : 16, n;
	uint8_t data[16] = { 0 }, mask[16] = { 0 };
	struct run run[MAX_RUNS];

	if (!host_gate_open(c, o))
		return false;
	if (size == 8) {
		uint8_t *fx = c->fpu.area;

		host_x87_drop(c);
		if (fx_get16(fx, FX_FSW) & FSW_ES) {
			cpu_raise(c, o, VEC_MF);
			return false;
		}
		/* As every MMX instruction: TOP becomes 0, so ST order and MMX order agree, and all tags valid. */
		unsigned top = fx_get16(fx, FX_FSW) >> 11 & 7;

		memcpy(data, fx + FX_ST + 16 * ((o->reg - top) & 7), 8);
		memcpy(mask, fx + FX_ST + 16 * ((o->rm - top) & 7), 8);
	} else {
		memcpy(data, c->fpu.area + XMM_OF(o->reg), 16);
		memcpy(mask, c->fpu.area + XMM_OF(o->rm), 16);
	}
	n = runs_of(mask, size, 1, run);
	if (!store_runs(c, o, run, n, data))
		return false;
	if (size == 8) {
		uint8_t *fx = c->fpu.area, st[128];
		unsigned top = fx_get16(fx, FX_FSW) >> 11 & 7;

		memcpy(st, fx + FX_ST, 128);
		for (unsigned i = 0; i < 8; i++)
			memcpy(fx + FX_ST + 16 * i, st + 16 * ((i - top) & 7), 16);
		fx_put16(fx, FX_FSW, fx_get16(fx, FX_FSW) & (uint16_t)~0x3800u);
		fx[FX_FTW] = 0xff;
	}
	return true;
}

/* ---- (V)MASKMOV ------------------------------------------------------------------------------------------------------------------- */

static void mask_of(const struct vcpu *c, const struct cpu_op *o, uint8_t v[32])
{
	ymm_get(c, o->vvvv, v);
}

/* Not wholly remembered as allowed: only the elements the mask selects count. */
static __attribute__((noinline)) bool masked_load_slow(struct vcpu *c, const struct cpu_op *o)
{
	_Alignas(64) uint8_t buf[32] = { 0 };
	struct cpu_ref r[MAX_RUNS];
	struct run run[MAX_RUNS];
	uint8_t mask[32];
	unsigned n;

	mask_of(c, o, mask);
	n = runs_of(mask, o->memsize / o->opsize, o->opsize, run);
	if (!judge_runs(c, o, run, n, ACC_R, r))
		return false;
	for (unsigned i = 0; i < n; i++)
		if (!cpu_ref_load(c, o, &r[i], buf + run[i].off))
			return false;
	return host_exec(c, o, buf);
}

static bool masked_load(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t la = cpu_ea(c, o) + c->seg_base[o->seg];
	uint8_t *p;

	if (!host_gate_open(c, o))
		return false;
	p = acc_probe_r(&c->acc, la, o->memsize);
	if (unlikely(!p || o->flags & OP_CHECK_SEG))
		return masked_load_slow(c, o);
	c->cur = o;
	return host_exec(c, o, p);
}

static __attribute__((noinline)) bool masked_store_slow(struct vcpu *c, const struct cpu_op *o)
{
	struct run run[MAX_RUNS];
	uint8_t mask[32], data[32];
	unsigned n;

	mask_of(c, o, mask);
	ymm_get(c, o->reg, data);
	n = runs_of(mask, o->memsize / o->opsize, o->opsize, run);
	return store_runs(c, o, run, n, data);
}

static bool masked_store(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t la = cpu_ea(c, o) + c->seg_base[o->seg];
	uint8_t *p;

	if (!host_gate_open(c, o))
		return false;
	p = acc_probe_w(&c->acc, la, o->memsize);
	if (unlikely(!p || o->flags & OP_CHECK_SEG))
		return masked_store_slow(c, o);
	c->cur = o;
	return host_exec(c, o, p);
}

/* ---- gathers -------------------------------------------------------------------------------------------------------------------------- */

/* o->rm: index register; o->opsize: element size; o->aux: indices of 64 bits, 256-bit form; o->imm: elements. */
#define AUX_QINDEX	0x80u
#define AUX_YMM		0x40u

static uint64_t element_address(struct vcpu *c, const struct cpu_op *o, const uint8_t *index, unsigned i)
{
	int64_t idx = o->aux & AUX_QINDEX ? (int64_t)fx_get64(index, 8 * i) : (int32_t)fx_get32(index, 4 * i);

	return (c->gpr[o->base] + ((uint64_t)idx << o->scale) + (uint64_t)o->disp) & o->admask;
}

/*
 * Destination and mask as they are when elements below @done have been gathered. The mask becomes whole elements of ones and
 * zeros over its full length as soon as the instruction has begun; the destination's upper half is cleared with its first element.
 */
static void gather_commit(struct vcpu *c, const struct cpu_op *o, uint8_t *dst, uint8_t *mask, unsigned done)
{
	unsigned size = o->opsize, n = (unsigned)o->imm, vl = o->aux & AUX_YMM ? 32 : 16;
	bool all = done == n, any = all;

	for (unsigned i = 0; i < done; i++)
		any |= mask[i * size + size - 1] >> 7;

	for (unsigned i = 0; i < vl; i += size)
		memset(mask + i, !all && i >= done * size && mask[i + size - 1] & 0x80 ? 0xff : 0, size);
	memset(mask + vl, 0, 32 - vl);
	if (any && vl == 16)
		memset(dst + 16, 0, 16);
	if (all)
		memset(dst + n * size, 0, 32 - n * size);
	ymm_put(c, o->reg, dst);
	ymm_put(c, o->vvvv, mask);
}

/*
 * All elements are judged, then loaded. If one is refused by an exception, those before it are completed: what hardware does,
 * and restartable since their mask elements are clear. Any other refusal changes nothing.
 */
static bool gather(struct vcpu *c, const struct cpu_op *o)
{
	unsigned n = (unsigned)o->imm, size = o->opsize, i, refused;
	uint8_t index[32], mask[32], dst[32];
	struct cpu_ref r[MAX_RUNS];

	if (!host_gate_open(c, o))
		return false;
	if (o->reg == o->vvvv || o->reg == o->rm || o->vvvv == o->rm) {
		cpu_raise(c, o, VEC_UD);
		return false;
	}
	ymm_get(c, o->rm, index);
	ymm_get(c, o->vvvv, mask);
	ymm_get(c, o->reg, dst);
	for (i = 0; i < n; i++) {
		uint64_t ea, la;

		if (!(mask[i * size + size - 1] & 0x80))
			continue;
		ea = element_address(c, o, index, i);
		la = ea + c->seg_base[o->seg];
		if (o->flags & OP_CHECK_SEG && !cpu_seg_linear(c, o, o->seg, ea, size, ACC_R, &la))
			break;
		if (!cpu_ref_get(c, o, la, size, ACC_R, &r[i]))
			break;
	}
	refused = i;
	if (refused < n && !c->ev.exception.pending)
		return false;
	for (i = 0; i < refused; i++)
		if (mask[i * size + size - 1] & 0x80 && !cpu_ref_load(c, o, &r[i], dst + i * size))
			return false;
	gather_commit(c, o, dst, mask, refused);
	return refused == n;
}

/* ---- handlers -------------------------------------------------------------------------------------------------------------------------- */

static void op_byte_masked(struct vcpu *c, const struct cpu_op *o)
{
	if (unlikely(!byte_masked(c, o)))
		return;
	CPU_NEXT(c, o);
}

static void op_masked_load(struct vcpu *c, const struct cpu_op *o)
{
	if (unlikely(!masked_load(c, o)))
		return;
	CPU_NEXT(c, o);
}

static void op_masked_store(struct vcpu *c, const struct cpu_op *o)
{
	if (unlikely(!masked_store(c, o)))
		return;
	CPU_NEXT(c, o);
}

static void op_gather(struct vcpu *c, const struct cpu_op *o)
{
	if (unlikely(!gather(c, o)))
		return;
	CPU_NEXT(c, o);
}

static void lower_byte_masked(const struct insn *in, struct cpu_op *o)
{
	o->fn = op_byte_masked;
	o->aux = in->has_vex ? GATE_AVX : in->op == I_MASKMOVQ ? GATE_MMX : GATE_SSE;
	o->ptr = NULL;
	o->base = RDI;
	o->index = GPR_ZERO;
	o->disp = 0;
	if (in->op == I_MASKMOVQ) {
		o->reg &= 7;
		o->rm &= 7;
	}
}

static void lower_masked(struct vcpu *c, const struct insn *in, struct cpu_op *o, unsigned size)
{
	host_set_stub(c, in, o);
	o->opsize = (uint8_t)size;
	o->memsize = in->vex_l ? 32 : 16;
	o->fn = insn_rows[in->row].mem == M_W ? op_masked_store : op_masked_load;
}

static void lower_gather(const struct insn *in, struct cpu_op *o, unsigned size, bool qindex)
{
	unsigned bytes = in->vex_l ? 32 : 16, wider = qindex ? 8 : size;

	o->fn = op_gather;
	o->aux = (uint8_t)(GATE_AVX | (qindex ? AUX_QINDEX : 0) | (in->vex_l ? AUX_YMM : 0));
	o->ptr = NULL;
	o->rm = in->index;
	o->index = GPR_ZERO;
	o->opsize = (uint8_t)size;
	/* As many elements as the wider of index and data leave room for. */
	o->imm = bytes / wider;
}

bool host_lower_multi(struct vcpu *c, const struct insn *in, struct cpu_op *o)
{
	switch (in->op) {
	case I_MASKMOVQ: case I_MASKMOVDQU: case I_VMASKMOVDQU:
		lower_byte_masked(in, o);
		return true;
	case I_VMASKMOVPS: case I_VPMASKMOVD:
		lower_masked(c, in, o, 4);
		return true;
	case I_VMASKMOVPD: case I_VPMASKMOVQ:
		lower_masked(c, in, o, 8);
		return true;
	case I_VGATHERDPS: case I_VPGATHERDD:
		lower_gather(in, o, 4, false);
		return true;
	case I_VGATHERDPD: case I_VPGATHERDQ:
		lower_gather(in, o, 8, false);
		return true;
	case I_VGATHERQPS: case I_VPGATHERQD:
		lower_gather(in, o, 4, true);
		return true;
	case I_VGATHERQPD: case I_VPGATHERQQ:
		lower_gather(in, o, 8, true);
		return true;
	default:
		return false;
	}
}
