/* SPDX-License-Identifier: MIT */
/*
 * The hardware task switch, 32- and 16-bit TSS. Up to the point where the manual says the switch is committed, everything is
 * judged and nothing changes; from there on faults are the new task's, raised with its EIP.
 * Source: Intel SDM vol. 3 "Task Switching".
 */
#include <string.h>

#include "cpu/sys/sys_private.h"

/* What a TSS holds of a task, whatever its width. */
struct task_state {
	uint32_t cr3, eip, eflags, gpr[8];
	uint16_t seg[6];	/* ES, CS, SS, DS, FS, GS */
	uint16_t ldt;
	bool trap;
};

#define TSS32_DYN	0x20u	/* EIP up to GS: what a switch saves */
#define TSS32_DYN_LEN	64u
#define TSS16_DYN	0x0eu	/* IP up to DS */
#define TSS16_DYN_LEN	28u

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return v;
}

static uint16_t get16(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, 2);
	return v;
}

static void put32(uint8_t *p, uint32_t v)
{
	memcpy(p, &v, 4);
}

static void put16(uint8_t *p, uint16_t v)
{
	memcpy(p, &v, 2);
}

static void parse32(const uint8_t *t, struct task_state *s)
{
	s->cr3 = get32(t + 0x1c);
	s->eip = get32(t + 0x20);
	s->eflags = get32(t + 0x24);
	for (unsigned i = 0; i < 8; i++)
		s->gpr[i] = get32(t + 0x28 + 4 * i);
	for (unsigned i = 0; i < 6; i++)
		s->seg[i] = get16(t + 0x48 + 4 * i);
	s->ldt = get16(t + 0x60);
	s->trap = t[0x64] & 1;
}

static void parse16(const uint8_t *t, struct task_state *s)
{
	memset(s, 0, sizeof(*s));
	s->eip = get16(t + 0x0e);
	s->eflags = get16(t + 0x10);
	for (unsigned i = 0; i < 8; i++)
		s->gpr[i] = 0xffff0000u | get16(t + 0x12 + 2 * i);
	for (unsigned i = 0; i < 4; i++)
		s->seg[i] = get16(t + 0x22 + 2 * i);
	s->ldt = get16(t + 0x2a);
}

static void save32(const struct vcpu *c, uint32_t eip, uint32_t eflags, uint8_t *t)
{
	put32(t, eip);
	put32(t + 4, eflags);
	for (unsigned i = 0; i < 8; i++)
		put32(t + 8 + 4 * i, (uint32_t)c->gpr[i]);
	for (unsigned i = 0; i < 6; i++)
		put32(t + 0x28 + 4 * i, c->seg[i].sel);
}

static void save16(const struct vcpu *c, uint32_t eip, uint32_t eflags, uint8_t *t)
{
	put16(t, (uint16_t)eip);
	put16(t + 2, (uint16_t)eflags);
	for (unsigned i = 0; i < 8; i++)
		put16(t + 4 + 2 * i, (uint16_t)c->gpr[i]);
	for (unsigned i = 0; i < 4; i++)
		put16(t + 0x14 + 2 * i, c->seg[i].sel);
}

/* ---- before the point of no return ------------------------------------------------------------------------------------------- */

static bool tss_desc_judge(struct vcpu *c, uint16_t sel, enum sys_task_why why, unsigned ext, struct sys_desc *d)
{
	unsigned vector = why == TASK_IRET ? VEC_TS : VEC_GP;
	unsigned want = why == TASK_IRET ? DT_TSS16_BUSY : DT_TSS16, type;

	if (sel & 4 || sel_is_null(sel))
		return cpu_fault(c, vector, sel_error(sel, ext));
	if (!sys_desc_read(c, sel, vector, ext, d))
		return false;
	type = desc_type(d);
	if (desc_s(d) || (type & 7) != want)
		return cpu_fault(c, vector, sel_error(sel, ext));
	if (!desc_p(d))
		return cpu_fault(c, VEC_NP, sel_error(sel, ext));
	if (desc_limit(d) < (type & 8 ? 0x67u : 0x2bu))
		return cpu_fault(c, VEC_TS, sel_error(sel, ext));
	return true;
}

/* The stores of a switch, judged together. */
struct task_stores {
	struct cpu_ref old_state, link, old_busy, new_busy;
	uint8_t old_access, new_access;
	bool has_link, has_old_busy, has_new_busy;
};

static bool busy_judge(struct vcpu *c, uint64_t addr, uint8_t *access, struct cpu_ref *r)
{
	return cpu_sys_read(c, sys_linear(c, addr + 5), 1, access) && cpu_sys_ref(c, sys_linear(c, addr + 5), 1, ACC_W, false, r);
}

static bool stores_judge(struct vcpu *c, const struct sys_desc *new_tss, enum sys_task_why why, struct task_stores *w)
{
	const struct cpu_seg *tr = &c->seg[SEG_TR];
	bool wide = tr->type & 8;
	unsigned at = wide ? TSS32_DYN : TSS16_DYN, len = wide ? TSS32_DYN_LEN : TSS16_DYN_LEN;
	uint64_t old_addr;

	if (!cpu_sys_ref(c, sys_linear(c, tr->base + at), len, ACC_W, false, &w->old_state))
		return false;
	w->has_link = why == TASK_CALL || why == TASK_INT;
	if (w->has_link && !cpu_sys_ref(c, desc_base(new_tss), 2, ACC_W, false, &w->link))
		return false;
	w->has_old_busy = (why == TASK_JMP || why == TASK_IRET) && sys_desc_locate(c, tr->sel, 8, &old_addr);
	if (w->has_old_busy && !busy_judge(c, old_addr, &w->old_access, &w->old_busy))
		return false;
	w->has_new_busy = why != TASK_IRET;
	return !w->has_new_busy || busy_judge(c, new_tss->addr, &w->new_access, &w->new_busy);
}

static void stores_commit(struct vcpu *c, struct task_stores *w, uint64_t rip, enum sys_task_why why)
{
	uint32_t eflags = cpu_eflags(c);
	uint16_t link = c->seg[SEG_TR].sel;
	uint8_t state[TSS32_DYN_LEN];

	if (why == TASK_IRET)
		eflags &= ~FLAG_NT;
	if (c->seg[SEG_TR].type & 8)
		save32(c, (uint32_t)rip, eflags, state);
	else
		save16(c, (uint32_t)rip, eflags, state);
	cpu_ref_store(c, NULL, &w->old_state, state);
	if (w->has_old_busy) {
		w->old_access &= (uint8_t)~2u;
		cpu_ref_store(c, NULL, &w->old_busy, &w->old_access);
	}
	if (w->has_new_busy) {
		w->new_access |= 2;
		cpu_ref_store(c, NULL, &w->new_busy, &w->new_access);
	}
	if (w->has_link)
		cpu_ref_store(c, NULL, &w->link, &link);
}

/* ---- in the new task ------------------------------------------------------------------------------------------------------------ */

static bool load_ldt(struct vcpu *c, uint16_t sel, unsigned ext)
{
	struct sys_desc d;

	c->seg[SEG_LDTR] = (struct cpu_seg){ .sel = sel, .unusable = 1, .type = DT_LDT };
	if (sel_is_null(sel))
		return true;
	if (sel & 4)
		return cpu_fault(c, VEC_TS, sel_error(sel, ext));
	if (!sys_desc_read(c, sel, VEC_TS, ext, &d))
		return false;
	if (desc_s(&d) || desc_type(&d) != DT_LDT || !desc_p(&d))
		return cpu_fault(c, VEC_TS, sel_error(sel, ext));
	sys_seg_fill(&c->seg[SEG_LDTR], sel, &d);
	return true;
}

static bool load_cs(struct vcpu *c, uint16_t sel, unsigned ext)
{
	unsigned cpl = sel & 3;
	struct sys_desc d;

	if (sel_is_null(sel))
		return cpu_fault(c, VEC_TS, sel_error(sel, ext));
	if (!sys_desc_read(c, sel, VEC_TS, ext, &d))
		return false;
	if (!desc_is_code(&d) || (desc_is_conforming(&d) ? desc_dpl(&d) > cpl : desc_dpl(&d) != cpl))
		return cpu_fault(c, VEC_TS, sel_error(sel, ext));
	if (!desc_p(&d))
		return cpu_fault(c, VEC_NP, sel_error(sel, ext));
	if (!sys_desc_touch(c, &d))
		return false;
	sys_seg_fill(&c->seg[SEG_CS], sel, &d);
	return true;
}

static bool load_ss(struct vcpu *c, uint16_t sel, unsigned cpl, unsigned ext)
{
	struct sys_desc d;

	if (sel_is_null(sel))
		return cpu_fault(c, VEC_TS, sel_error(sel, ext));
	if (!sys_ss_judge(c, sel, cpl, VEC_TS, ext, &d) || !sys_desc_touch(c, &d))
		return false;
	sys_seg_fill(&c->seg[SEG_SS], sel, &d);
	return true;
}

static bool load_data(struct vcpu *c, unsigned seg, uint16_t sel, unsigned cpl, unsigned ext)
{
	struct sys_desc d;

	if (sel_is_null(sel))
		return true;
	if (!sys_desc_read(c, sel, VEC_TS, ext, &d))
		return false;
	if (!desc_s(&d) || (desc_is_code(&d) && !(desc_type(&d) & 2)))
		return cpu_fault(c, VEC_TS, sel_error(sel, ext));
	if (!desc_is_conforming(&d) && ((sel & 3u) > desc_dpl(&d) || cpl > desc_dpl(&d)))
		return cpu_fault(c, VEC_TS, sel_error(sel, ext));
	if (!desc_p(&d))
		return cpu_fault(c, VEC_NP, sel_error(sel, ext));
	if (!sys_desc_touch(c, &d))
		return false;
	sys_seg_fill(&c->seg[seg], sel, &d);
	return true;
}

static bool load_segments(struct vcpu *c, const struct task_state *s, unsigned ext)
{
	static const uint8_t data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
	unsigned cpl = s->seg[SEG_CS] & 3;

	if (!load_ldt(c, s->ldt, ext))
		return false;
	if (s->eflags & FLAG_VM) {
		for (unsigned i = 0; i < 6; i++)
			sys_seg_real(c, i, s->seg[i]);
		return true;
	}
	if (!load_cs(c, s->seg[SEG_CS], ext) || !load_ss(c, s->seg[SEG_SS], cpl, ext))
		return false;
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
		if (!load_data(c, data[i], s->seg[data[i]], cpl, ext))
			return false;
	return true;
}

static bool push_error(struct vcpu *c, uint32_t error, bool wide, unsigned ext)
{
	uint64_t v = error;
	struct sys_frame f;
	struct sys_stack s;

	sys_stack_current(c, &s);
	s.error = ext;
	if (!sys_frame_judge(c, &s, &v, 1, wide ? 4 : 2, &f))
		return false;
	sys_frame_commit(c, &f);
	sys_set_sp(c, s.mask, f.sp);
	return true;
}

/* Registers of the new task, all selectors invalid until their descriptors have been loaded. */
static void enter(struct vcpu *c, const struct task_state *s, enum sys_task_why why, bool wide)
{
	unsigned cpl = s->eflags & FLAG_VM ? 3 : s->seg[SEG_CS] & 3;

	c->acc.cr0 |= CR0_TS;
	c->dr7 &= ~0x155ull;
	cpu_set_eflags(c, s->eflags | (why == TASK_CALL || why == TASK_INT ? FLAG_NT : 0));
	for (unsigned i = 0; i < 8; i++)
		c->gpr[i] = s->gpr[i];
	c->rip = s->eip;
	for (unsigned i = 0; i < 6; i++) {
		sys_seg_null(&c->seg[i], s->seg[i]);
		c->seg[i].dpl = (uint8_t)cpl;
	}
	c->seg[SEG_CS].db = wide;
	if (wide && c->acc.cr0 & CR0_PG) {
		c->acc.cr3 = s->cr3;
		acc_flush_cr3(&c->acc, false);
	}
	cpu_state_changed(c);
}

bool sys_task_switch(struct vcpu *c, uint16_t sel, enum sys_task_why why, uint64_t rip, const uint32_t *error, unsigned ext)
{
	struct task_state s;
	struct task_stores w;
	uint64_t pdptr[4];
	uint8_t tss[104];
	struct sys_desc d;
	bool wide, pae;

	if (!tss_desc_judge(c, sel, why, ext, &d))
		return false;
	/* A switch loads TR and LDTR (and sets CR0.TS, never clears it). It cannot be half done: discarding means refusing. */
	switch (sys_ext(c, CPU_EXT_TR, 0, sel)) {
	case CPU_EXT_ALLOW:
		break;
	case CPU_EXT_DISCARD:
		return cpu_fault(c, VEC_GP, 0);
	default:
		return false;
	}
	wide = desc_type(&d) & 8;
	if (!cpu_sys_read(c, desc_base(&d), 64, tss) ||
	    (wide && !cpu_sys_read(c, (uint32_t)(desc_base(&d) + 64), 40, tss + 64)) || !stores_judge(c, &d, why, &w))
		return false;
	if (wide)
		parse32(tss, &s);
	else
		parse16(tss, &s);
	pae = wide && c->acc.cr0 & CR0_PG && c->acc.cr4 & CR4_PAE;
	if (pae && !acc_load_pdptrs(&c->acc, s.cr3, pdptr))
		return cpu_fault(c, VEC_TS, sel_error(sel, ext));
	stores_commit(c, &w, rip, why);

	if (pae)
		memcpy(c->acc.pdptr, pdptr, sizeof(pdptr));
	d.raw |= BIT64(41);
	sys_seg_fill(&c->seg[SEG_TR], sel, &d);
	enter(c, &s, why, wide);
	if (!load_segments(c, &s, ext)) {
		cpu_state_changed(c);
		return false;
	}
	cpu_state_changed(c);
	if (error && !push_error(c, *error, wide, ext))
		return false;
	if (s.eip > c->seg[SEG_CS].limit)
		return cpu_fault(c, VEC_GP, ext);
	c->shadow = 0;
	c->halted = false;
	if (s.trap)
		sys_debug_task(c);
	sys_if_opened(c);
	return true;
}

bool sys_task_gate(struct vcpu *c, const struct sys_desc *gate, enum sys_task_why why, uint64_t rip, const uint32_t *error, unsigned ext)
{
	return sys_task_switch(c, gate_sel(gate), why, rip, error, ext);
}
