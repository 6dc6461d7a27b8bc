/* SPDX-License-Identifier: MIT */
/*
 * Descriptors and segment registers: finding, reading and marking descriptors, filling the descriptor cache, and the check of
 * every legacy-mode access against its segment. Which loads are legal is seg_load.c's and gate.c's.
 * Source: Intel SDM vol. 3 "Segment Descriptors", "Limit Checking", "Type Checking".
 */
#include "cpu/sys/sys_private.h"

uint32_t desc_limit(const struct sys_desc *d)
{
	uint32_t limit = (d->raw & 0xffff) | (d->raw >> 32 & 0xf0000);

	return d->raw >> 55 & 1 ? limit << 12 | 0xfff : limit;
}

uint32_t desc_base(const struct sys_desc *d)
{
	return (uint32_t)((d->raw >> 16 & 0xffffff) | (d->raw >> 32 & 0xff000000));
}

bool sys_desc_locate(const struct vcpu *c, uint16_t sel, unsigned len, uint64_t *addr)
{
	uint64_t base = c->gdtr.base;
	uint32_t limit = c->gdtr.limit, off = sel & 0xfff8u;

	if (sel & 4) {
		const struct cpu_seg *ldt = &c->seg[SEG_LDTR];

		if (ldt->unusable || !ldt->present)
			return false;
		base = ldt->base;
		limit = ldt->limit;
	}
	if (off + len - 1 > limit)
		return false;
	*addr = sys_linear(c, base + off);
	return true;
}

bool sys_desc_read(struct vcpu *c, uint16_t sel, unsigned vector, unsigned ext, struct sys_desc *d)
{
	d->high = 0;
	if (!sys_desc_locate(c, sel, 8, &d->addr))
		return cpu_fault(c, vector, sel_error(sel, ext));
	return cpu_sys_read(c, d->addr, 8, &d->raw);
}

bool sys_desc_read_high(struct vcpu *c, uint16_t sel, unsigned vector, unsigned ext, struct sys_desc *d)
{
	uint64_t addr;

	if (!sys_desc_locate(c, sel, 16, &addr))
		return cpu_fault(c, vector, sel_error(sel, ext));
	return cpu_sys_read(c, sys_linear(c, addr + 8), 8, &d->high);
}

bool sys_desc_touch(struct vcpu *c, struct sys_desc *d)
{
	uint8_t access = (uint8_t)(d->raw >> 40 | 1);

	if (d->raw & BIT64(40))
		return true;
	if (!cpu_sys_write(c, sys_linear(c, d->addr + 5), 1, &access))
		return false;
	d->raw |= BIT64(40);
	return true;
}

void sys_seg_fill(struct cpu_seg *s, uint16_t sel, const struct sys_desc *d)
{
	*s = (struct cpu_seg){
		.base = desc_base(d), .limit = desc_limit(d), .sel = sel, .type = (uint8_t)desc_type(d), .s = desc_s(d),
		.dpl = (uint8_t)desc_dpl(d), .present = desc_p(d), .avl = d->raw >> 52 & 1, .l = desc_l(d), .db = desc_db(d),
		.g = d->raw >> 55 & 1,
	};
}

/* Intel clears base and limit of a null segment; its DPL stays, because SS.DPL is the CPL. */
void sys_seg_null(struct cpu_seg *s, uint16_t sel)
{
	*s = (struct cpu_seg){ .sel = sel, .unusable = 1, .dpl = s->dpl };
}

void sys_seg_real(struct vcpu *c, unsigned seg, uint16_t sel)
{
	struct cpu_seg *s = &c->seg[seg];

	if (c->v86) {
		*s = (struct cpu_seg){ .limit = 0xffff, .type = 3, .s = 1, .dpl = 3, .present = 1 };
	} else if (s->unusable || !s->present) {
		*s = (struct cpu_seg){ .limit = 0xffff, .type = 3, .s = 1, .present = 1 };
	} else if (seg != SEG_CS) {
		/* Limit and size survive: that is how "big real mode" works. */
		s->type = 3;
	}
	s->sel = sel;
	s->base = (uint32_t)sel << 4;
}

void sys_seg_flat(struct cpu_seg *s, uint16_t sel, bool code, unsigned dpl, bool l)
{
	*s = (struct cpu_seg){
		.limit = 0xffffffff, .sel = sel, .type = code ? 11 : 3, .s = 1, .dpl = (uint8_t)dpl, .present = 1, .l = code && l,
		.db = !(code && l), .g = 1,
	};
}

bool sys_seg_within(const struct cpu_seg *s, uint64_t off, unsigned len)
{
	uint64_t last = off + len - 1;

	if ((s->type & 0xc) == 4)	/* expand-down data: above the limit */
		return off > s->limit && last <= (s->db ? 0xffffffffull : 0xffffull);
	return last <= s->limit;
}

void sys_seg_drop_inner(struct vcpu *c, unsigned cpl)
{
	static const uint8_t data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };

	for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
		struct cpu_seg *s = &c->seg[data[i]];

		/*
		 * Only the selector goes; the base stays in the cache and can be used in 64-bit mode. What is null already
		 * stays as it is: kernels keep FS and GS bases under null selectors.
		 */
		if (!s->unusable && s->dpl < cpl && (s->type & 0xc) != 0xc) {
			s->sel = 0;
			s->unusable = 1;
			s->present = 0;
		}
	}
}

/* Do the segment's type and presence allow @rights? Real and virtual-8086 mode know only limits. */
static bool type_allows(const struct vcpu *c, const struct cpu_seg *s, unsigned rights)
{
	if (!c->protected_mode)
		return true;
	if (s->unusable || !s->present)
		return false;
	if (s->type & 8)
		return !(rights & ACC_W) && (!(rights & ACC_R) || s->type & 2);
	return !(rights & ACC_W) || s->type & 2;
}

bool cpu_seg_linear(struct vcpu *c, const struct cpu_op *o, unsigned seg, uint64_t ea, unsigned len, unsigned rights, uint64_t *la)
{
	const struct cpu_seg *s;

	if (c->mode == INSN_MODE_64 || seg >= N_SEGS) {
		*la = ea + c->seg_base[seg];
		return true;
	}
	s = &c->seg[seg];
	if (unlikely(!type_allows(c, s, rights) || !sys_seg_within(s, ea, len ? len : 1))) {
		cpu_raise_error(c, o, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
		return false;
	}
	*la = (uint32_t)(s->base + ea);
	return true;
}
