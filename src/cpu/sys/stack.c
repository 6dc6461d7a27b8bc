/* SPDX-License-Identifier: MIT */
/*
 * Stacks as far transfers and event delivery use them: a whole frame is judged - segment limits first, then pages - before its
 * first byte is written, so that there are no partial frames.
 */
#include <string.h>

#include "cpu/sys/sys_private.h"

uint64_t sys_stack_mask(const struct vcpu *c)
{
	if (sys_mode64(c))
		return ~0ull;
	return c->seg[SEG_SS].db ? 0xffffffffull : 0xffffull;
}

void sys_stack_current(const struct vcpu *c, struct sys_stack *s)
{
	s->ss = &c->seg[SEG_SS];
	s->mask = sys_stack_mask(c);
	s->sp = c->gpr[RSP];
	s->error = 0;
	s->flat = sys_mode64(c);
	s->user = c->acc.cpl == 3;
}

static bool item_linear(struct vcpu *c, const struct sys_stack *s, uint64_t sp, unsigned size, uint64_t *la)
{
	if (s->flat) {
		*la = sp;
		if (!cpu_canonical(c, sp) || !cpu_canonical(c, sp + size - 1))
			return cpu_fault(c, VEC_SS, s->error);
		return true;
	}
	if (!sys_seg_within(s->ss, sp, size) || (c->protected_mode && s->ss->unusable))
		return cpu_fault(c, VEC_SS, s->error);
	*la = (uint32_t)(s->ss->base + sp);
	return true;
}

static void put(uint8_t *to, uint64_t v, unsigned size)
{
	memcpy(to, &v, size);	/* the host is little-endian */
}

#define RUN_MAX	64u

bool sys_frame_judge(struct vcpu *c, const struct sys_stack *s, const uint64_t *v, unsigned n, unsigned size, struct sys_frame *f)
{
	uint64_t la[40];

	f->n = 0;
	if (n > ARRAY_SIZE(la))
		return cpu_fault(c, VEC_SS, s->error);
	for (unsigned i = 0; i < n; i++)
		if (!item_linear(c, s, (s->sp - (uint64_t)(i + 1) * size) & s->mask, size, &la[i]))
			return false;
	/* From the lowest item up, in runs of adjacent ones (a 16-bit stack may wrap). */
	for (unsigned i = n, at = 0; i > 0;) {
		uint64_t start = la[i - 1];
		unsigned len = 0;

		while (i > 0 && la[i - 1] == start + len && len + size <= RUN_MAX) {
			put(f->data + at + len, v[i - 1], size);
			len += size;
			i--;
		}
		if (f->n == FRAME_REFS)
			return cpu_fault(c, VEC_SS, s->error);
		if (!cpu_sys_ref(c, start, len, ACC_W, s->user, &f->ref[f->n]))
			return false;
		f->at[f->n++] = (uint16_t)at;
		at += len;
	}
	f->sp = (s->sp - (uint64_t)n * size) & s->mask;
	return true;
}

void sys_frame_commit(struct vcpu *c, const struct sys_frame *f)
{
	for (unsigned i = 0; i < f->n; i++)
		cpu_ref_store(c, NULL, &f->ref[i], f->data + f->at[i]);
}

static bool load_item(struct vcpu *c, const struct cpu_op *o, uint64_t la, unsigned size, uint64_t *v)
{
	uint16_t w;
	uint32_t d;

	switch (size) {
	case 2:
		if (!cpu_ld16(c, o, la, &w))
			return false;
		*v = w;
		return true;
	case 4:
		if (!cpu_ld32(c, o, la, &d))
			return false;
		*v = d;
		return true;
	default:
		return cpu_ld64(c, o, la, v);
	}
}

bool sys_stack_read(struct vcpu *c, const struct cpu_op *o, unsigned skip, unsigned size, unsigned n, uint64_t *v)
{
	struct sys_stack s;
	uint64_t la[12];

	sys_stack_current(c, &s);
	for (unsigned i = 0; i < n; i++)
		if (!item_linear(c, &s, (s.sp + skip + (uint64_t)i * size) & s.mask, size, &la[i]))
			return false;
	for (unsigned i = 0; i < n; i++)
		if (!load_item(c, o, la[i], size, &v[i]))
			return false;
	return true;
}
