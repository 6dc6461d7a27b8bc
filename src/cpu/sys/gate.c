/* SPDX-License-Identifier: MIT */
/*
 * What every transfer to another code segment needs: the inner stack from the TSS, the check of the target offset, and the
 * commit of CS. Source: Intel SDM vol. 3 "Stack Switching", "64-Bit Mode TSS".
 */
#include "cpu/sys/sys_private.h"

static bool tss_read(struct vcpu *c, unsigned off, unsigned len, unsigned ext, void *buf)
{
	const struct cpu_seg *tr = &c->seg[SEG_TR];

	if (tr->unusable || off + len - 1 > tr->limit)
		return cpu_fault(c, VEC_TS, sel_error(tr->sel, ext));
	return cpu_sys_read(c, sys_linear(c, tr->base + off), len, buf);
}

bool sys_tss_stack(struct vcpu *c, unsigned cpl, unsigned ist, unsigned ext, uint16_t *ss, uint64_t *sp)
{
	uint8_t buf[6];

	if (sys_long(c)) {
		*ss = (uint16_t)cpl;
		if (!tss_read(c, ist ? 0x24 + (ist - 1) * 8 : 4 + cpl * 8, 8, ext, sp))
			return false;
		return cpu_canonical(c, *sp) || cpu_fault(c, VEC_SS, ext);
	}
	*sp = 0;
	if (c->seg[SEG_TR].type & 8) {
		if (!tss_read(c, 4 + cpl * 8, 6, ext, buf))
			return false;
		__builtin_memcpy(sp, buf, 4);
		__builtin_memcpy(ss, buf + 4, 2);
		return true;
	}
	if (!tss_read(c, 2 + cpl * 4, 4, ext, buf))
		return false;
	__builtin_memcpy(sp, buf, 2);
	__builtin_memcpy(ss, buf + 2, 2);
	return true;
}

bool sys_target_judge(struct vcpu *c, const struct sys_desc *d, uint64_t rip, unsigned ext)
{
	if (sys_long(c) && desc_l(d))
		return cpu_canonical(c, rip) || cpu_fault(c, VEC_GP, ext);
	return rip <= desc_limit(d) || cpu_fault(c, VEC_GP, ext);
}

void sys_set_cs(struct vcpu *c, uint16_t sel, const struct sys_desc *d, unsigned cpl)
{
	sys_seg_fill(&c->seg[SEG_CS], (uint16_t)((sel & ~3u) | cpl), d);
}
