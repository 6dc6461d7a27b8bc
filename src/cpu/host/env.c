/* SPDX-License-Identifier: MIT */
/*
 * The x87 environment and state in memory: FNSTENV, FLDENV, FNSAVE, FRSTOR. Their layout depends on operand size and mode,
 * and they hold pointers, so they are composed here instead of by the host.
 *
 * Source: Intel SDM vol. 1 "x87 FPU State", the figures of the four environment formats.
 */
#include <string.h>

#include "cpu/host/host_private.h"

#define ENV_MAX		108

/* Two bits a register: 0 valid, 1 zero, 2 special, 3 empty. FXSAVE keeps only whether it is empty. */
static unsigned tag_of(const uint8_t *st)
{
	uint64_t mant = fx_get64(st, 0);
	unsigned exp = fx_get16(st, 8) & 0x7fff;

	if (exp == 0x7fff)
		return 2;
	if (!exp)
		return mant ? 2 : 1;
	return mant >> 63 ? 0 : 2;
}

static uint16_t full_tags(const uint8_t *fx)
{
	unsigned top = fx_get16(fx, FX_FSW) >> 11 & 7, tags = 0;

	for (unsigned i = 0; i < 8; i++) {
		unsigned t = fx[FX_FTW] >> i & 1 ? tag_of(fx + FX_ST + 16 * ((i - top) & 7)) : 3;

		tags |= t << (2 * i);
	}
	return (uint16_t)tags;
}

static uint8_t short_tags(uint16_t tags)
{
	unsigned v = 0;

	for (unsigned i = 0; i < 8; i++)
		if ((tags >> (2 * i) & 3) != 3)
			v |= 1u << i;
	return (uint8_t)v;
}

/* The linear form of real-mode pointers takes the protected-mode form's place in real and virtual-8086 mode. */
static unsigned env_put(const struct vcpu *c, unsigned opsize, uint8_t *out)
{
	const uint8_t *fx = c->fpu.area;
	uint64_t fip = fx_get64(fx, FX_FIP), fdp = fx_get64(fx, FX_FDP);
	uint16_t fop = fx_get16(fx, FX_FOP) & 0x7ff, tags = full_tags(fx);
	bool real = !c->protected_mode;

	if (opsize == 2) {
		fx_put16(out, 0, fx_get16(fx, FX_FCW));
		fx_put16(out, 2, fx_get16(fx, FX_FSW));
		fx_put16(out, 4, tags);
		fx_put16(out, 6, (uint16_t)fip);
		fx_put16(out, 8, real ? (uint16_t)((fip >> 4 & 0xf000) | fop) : 0);
		fx_put16(out, 10, (uint16_t)fdp);
		fx_put16(out, 12, real ? (uint16_t)(fdp >> 4 & 0xf000) : 0);
		return 14;
	}
	fx_put32(out, 0, 0xffff0000u | fx_get16(fx, FX_FCW));
	fx_put32(out, 4, 0xffff0000u | fx_get16(fx, FX_FSW));
	fx_put32(out, 8, 0xffff0000u | tags);
	if (real) {
		fx_put32(out, 12, 0xffff0000u | (fip & 0xffff));
		fx_put32(out, 16, (uint32_t)((fip >> 4 & 0x0ffff000) | fop));
		fx_put32(out, 20, 0xffff0000u | (fdp & 0xffff));
		fx_put32(out, 24, (uint32_t)(fdp >> 4 & 0x0ffff000));
	} else {
		fx_put32(out, 12, (uint32_t)fip);
		fx_put32(out, 16, (uint32_t)fop << 16);
		fx_put32(out, 20, (uint32_t)fdp);
		fx_put32(out, 24, 0xffff0000u);
	}
	return 28;
}

/* Registers stay where they are when TOP changes; the image numbers them from TOP. */
static void rotate(uint8_t *fx, unsigned old_top, unsigned new_top)
{
	uint8_t st[128];

	memcpy(st, fx + FX_ST, sizeof(st));
	for (unsigned i = 0; i < 8; i++)
		memcpy(fx + FX_ST + 16 * i, st + 16 * ((i + new_top - old_top) & 7), 16);
}

static unsigned top_of(const uint8_t *fx)
{
	return fx_get16(fx, FX_FSW) >> 11 & 7;
}

static unsigned env_get(struct vcpu *c, unsigned opsize, const uint8_t *in)
{
	uint8_t *fx = c->fpu.area;
	bool real = !c->protected_mode;
	unsigned step = opsize == 2 ? 2 : 4;
	uint16_t fcw = fx_get16(in, 0), fsw = fx_get16(in, step);
	uint64_t fip, fdp;
	uint16_t fop;

	if (opsize == 2) {
		fip = fx_get16(in, 6) | (real ? (fx_get16(in, 8) & 0xf000u) << 4 : 0);
		fdp = fx_get16(in, 10) | (real ? (fx_get16(in, 12) & 0xf000u) << 4 : 0);
		fop = real ? fx_get16(in, 8) : 0;
	} else if (real) {
		fip = fx_get16(in, 12) | (fx_get32(in, 16) & 0x0ffff000u) << 4;
		fdp = fx_get16(in, 20) | (fx_get32(in, 24) & 0x0ffff000u) << 4;
		fop = fx_get16(in, 16);
	} else {
		fip = fx_get32(in, 12);
		fdp = fx_get32(in, 20);
		fop = fx_get16(in, 18);
	}
	/* Reserved control bits read as they are in hardware: bit 6 set, 7 and 13 up clear. */
	fcw = (uint16_t)((fcw & 0x1f3f) | 0x40);
	fsw &= (uint16_t)~(FSW_ES | FSW_B);
	if (fsw & ~fcw & 0x3f)
		fsw |= FSW_ES | FSW_B;
	rotate(fx, top_of(fx), fsw >> 11 & 7);
	fx_put16(fx, FX_FCW, fcw);
	fx_put16(fx, FX_FSW, fsw);
	fx_put16(fx, FX_FTW, short_tags(fx_get16(in, 2 * step)));
	fx_put16(fx, FX_FOP, fop & 0x7ff);
	fx_put64(fx, FX_FIP, fip);
	fx_put64(fx, FX_FDP, fdp);
	return 7 * step;
}

static bool pending(struct vcpu *c, const struct cpu_op *o)
{
	if (!(fx_get16(c->fpu.area, FX_FSW) & FSW_ES))
		return false;
	cpu_raise(c, o, VEC_MF);
	return true;
}

static void init(struct vcpu *c)
{
	rotate(c->fpu.area, top_of(c->fpu.area), 0);
	memset(c->fpu.area, 0, FX_MXCSR);
	fx_put16(c->fpu.area, FX_FCW, FCW_INIT);
}

static bool store_env(struct vcpu *c, const struct cpu_op *o)
{
	bool all = o->iop == I_FNSAVE;
	uint8_t out[ENV_MAX];
	struct cpu_ref r;
	unsigned n;
	uint64_t la;

	if (!host_gate_open(c, o))
		return false;
	host_x87_drop(c);
	n = env_put(c, o->opsize, out);
	if (all)
		for (unsigned i = 0; i < 8; i++, n += 10)
			memcpy(out + n, c->fpu.area + FX_ST + 16 * i, 10);
	if (!cpu_la(c, o, n, ACC_W, &la) || !cpu_ref_get(c, o, la, n, ACC_W, &r))
		return false;
	cpu_ref_store(c, o, &r, out);
	if (all) {
		init(c);
	} else {
		/* All exceptions masked: what was pending no longer is. */
		fx_put16(c->fpu.area, FX_FCW, fx_get16(c->fpu.area, FX_FCW) | 0x3f);
		fx_put16(c->fpu.area, FX_FSW, fx_get16(c->fpu.area, FX_FSW) & (uint16_t)~(FSW_ES | FSW_B));
	}
	return true;
}

static bool load_env(struct vcpu *c, const struct cpu_op *o)
{
	bool all = o->iop == I_FRSTOR;
	unsigned size = (o->opsize == 2 ? 14 : 28) + (all ? 80 : 0), n;
	uint8_t in[ENV_MAX];
	struct cpu_ref r;
	uint64_t la;

	if (!host_gate_open(c, o))
		return false;
	host_x87_drop(c);
	if (pending(c, o))
		return false;
	if (!cpu_la(c, o, size, ACC_R, &la) || !cpu_ref_get(c, o, la, size, ACC_R, &r) || !cpu_ref_load(c, o, &r, in))
		return false;
	n = env_get(c, o->opsize, in);
	if (all)
		for (unsigned i = 0; i < 8; i++, n += 10) {
			memset(c->fpu.area + FX_ST + 16 * i, 0, 16);
			memcpy(c->fpu.area + FX_ST + 16 * i, in + n, 10);
		}
	return true;
}

static void op_store_env(struct vcpu *c, const struct cpu_op *o)
{
	if (unlikely(!store_env(c, o)))
		return;
	CPU_NEXT(c, o);
}

static void op_load_env(struct vcpu *c, const struct cpu_op *o)
{
	if (unlikely(!load_env(c, o)))
		return;
	CPU_NEXT(c, o);
}

bool host_lower_env(const struct insn *in, struct cpu_op *o)
{
	switch (in->op) {
	case I_FNSTENV:
	case I_FNSAVE:
		o->fn = op_store_env;
		break;
	case I_FLDENV:
	case I_FRSTOR:
		o->fn = op_load_env;
		break;
	default:
		return false;
	}
	o->aux = GATE_X87;
	o->ptr = NULL;
	return true;
}
