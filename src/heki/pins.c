/* SPDX-License-Identifier: MIT */
/*
 * Register writes: pins of CR0 and CR4, and the second level.
 *
 * A pin is a bit that must stay 1. Pins belong to the VM and only accumulate; a vCPU is held to them from the first moment at
 * which all of them are 1 in its CR0 and CR4 together, until INIT or reset. So a processor that is being started, which sets
 * them one by one, is let through; it cannot be an escape, since it may execute only what the store calls executable.
 * "The first moment" is looked for before each write is judged: between two writes nothing changes.
 */
#include <string.h>

#include "heki/heki_private.h"

#define CR4_PINNABLE	(BIT64(11) | BIT64(16) | BIT64(20) | BIT64(21) | BIT64(23))	/* UMIP FSGSBASE SMEP SMAP CET */
_Static_assert((CR4_PINNABLE) == 0xB10800, "the series' mask");

#define RFC_VERSION	1
#define MSR_EFER	0xc0000080u

/* Second level, after LVBS: bits of CR0 and CR4 that keep their value, and MSRs. */
#define CR0_KEPT	(CR0_PE | CR0_WP | CR0_PG)
#define CR4_FREE	(BIT64(6) | BIT64(7) | BIT64(8) | BIT64(13))	/* MCE PGE PCE VMXE */

static const struct { uint32_t msr; size_t off; uint64_t ignored; } kept_msrs[] = {
	{ MSR_EFER, offsetof(struct heki_regs, efer), BIT64(10) },	/* LMA is not written */
	{ 0xc0000081, offsetof(struct heki_regs, star), 0 },
	{ 0xc0000082, offsetof(struct heki_regs, lstar), 0 },
	{ 0xc0000083, offsetof(struct heki_regs, cstar), 0 },
	{ 0xc0000084, offsetof(struct heki_regs, sfmask), 0 },
	{ 0x174, offsetof(struct heki_regs, sysenter_cs), 0 },
	{ 0x175, offsetof(struct heki_regs, sysenter_esp), 0 },
	{ 0x176, offsetof(struct heki_regs, sysenter_eip), 0 },
	{ 0x1b, offsetof(struct heki_regs, apic_base), 0 },
};

/* ---- pins ----------------------------------------------------------------------------------------------------------------- */

static void hold(struct heki *h, struct heki_vcpu *v, uint64_t cr0, uint64_t cr4)
{
	uint64_t pin0 = atomic_load(&h->pinned_cr0), pin4 = atomic_load(&h->pinned_cr4);

	if ((cr0 & pin0) != pin0 || (cr4 & pin4) != pin4)
		return;
	atomic_store(&v->held_cr0, pin0);
	atomic_store(&v->held_cr4, pin4);
}

static bool breaks_pin(struct heki *h, struct heki_vcpu *v, const struct heki_regs *regs, const struct cpu_ext_write *w)
{
	uint64_t held;

	if (w->reg != CPU_EXT_CR)
		return false;
	hold(h, v, regs->cr0, regs->cr4);
	held = atomic_load(w->index ? &v->held_cr4 : &v->held_cr0);
	return (w->value & held) != held;
}

/* ---- second level ------------------------------------------------------------------------------------------------------------ */

static bool breaks_kept(const struct heki_vcpu *v, const struct cpu_ext_write *w)
{
	const struct heki_regs *r = &v->saved.regs;

	if (!v->saved.valid)
		return false;
	switch (w->reg) {
	case CPU_EXT_CR:
		return w->index ? (w->value ^ r->cr4) & ~CR4_FREE : (w->value ^ r->cr0) & CR0_KEPT;
	case CPU_EXT_MSR:
		for (unsigned i = 0; i < ARRAY_SIZE(kept_msrs); i++) {
			uint64_t kept;

			if (kept_msrs[i].msr != w->index)
				continue;
			memcpy(&kept, (const char *)r + kept_msrs[i].off, sizeof(kept));
			return (w->value ^ kept) & ~kept_msrs[i].ignored;
		}
		return false;
	default:
		return true;	/* GDTR, IDTR, LDTR, TR: not even the same value */
	}
}

/* ---- the extension ------------------------------------------------------------------------------------------------------------- */

static const char *const reg_names[] = { "CR", "MSR", "GDTR", "IDTR", "LDTR", "TR" };

static enum cpu_ext_answer deny(struct heki *h, struct heki_vcpu *v, const struct heki_regs *regs, const struct cpu_ext_write *w,
				uint32_t reason, struct acc_exit *exit)
{
	struct heki_event e = { .kind = HEKI_EV_DENIED, .reason = reason, .access = w->reg, .gpa = w->index, .value = w->value, .rip = regs->rip,
				.cr3 = regs->cr3, .insns = regs->insns, .vcpu = regs->vcpu };
	bool answered = v->answer.n && v->answer.rip == regs->rip && v->answer.insns == regs->insns;

	if (answered)
		return v->cr_ignored ? CPU_EXT_DISCARD : CPU_EXT_FAULT;
	heki_count(h, reason == HEKI_REASON_REG ? N_DENIED_REG : N_DENIED_CR);
	heki_log(h, &e);
	if (reason == HEKI_REASON_REG)
		heki_say(h, "heki: Blocked %s update: 0x%llx", reg_names[w->reg], (unsigned long long)w->value);
	else
		heki_say(h, "heki: Blocked CR%u update: 0x%llx", w->index, (unsigned long long)w->value);
	if (!(atomic_load(&h->exit_denial) & reason))
		return CPU_EXT_FAULT;
	heki_count(h, N_EXITS);
	*exit = (struct acc_exit){ .reason = atomic_load(&h->nr_denial), .data = { reason, w->value } };
	if (reason == HEKI_REASON_REG) {
		exit->data[2] = w->reg;
		exit->data[3] = w->index;
	}
	return CPU_EXT_LEAVE;
}

static enum cpu_ext_answer write_reg(void *ext, const struct cpu_ext_write *w, struct acc_exit *exit)
{
	struct heki *h = ext;
	struct heki_regs regs;
	struct heki_vcpu *v;

	if (likely(!atomic_load_explicit(&h->is_locked, memory_order_relaxed)))
		return CPU_EXT_ALLOW;
	h->host->regs(h->vm, w->cpu, &regs);
	/* The mode's entry has cleared them already, its handler goes on from there; RSM is what must bring them back. */
	if (unlikely(regs.in_smm) && (w->reg != CPU_EXT_MSR || w->index == MSR_EFER))
		return CPU_EXT_ALLOW;
	v = &h->vcpu[regs.vcpu];
	if (breaks_pin(h, v, &regs, w))
		return deny(h, v, &regs, w, w->index ? HEKI_REASON_CR4 : HEKI_REASON_CR0, exit);
	if (atomic_load(&h->lock_registers) && breaks_kept(v, w))
		return deny(h, v, &regs, w, HEKI_REASON_REG, exit);
	return CPU_EXT_ALLOW;
}

/* The last moment at which a vCPU that has all pins can be seen to have them: RSM is judged by what it was held to before. */
static void enter_smm(void *ext, const struct acc_cpu *cpu)
{
	struct heki *h = ext;
	struct heki_regs regs;

	if (likely(!atomic_load_explicit(&h->is_locked, memory_order_relaxed)))
		return;
	h->host->regs(h->vm, cpu, &regs);
	hold(h, &h->vcpu[regs.vcpu], regs.cr0, regs.cr4);
}

/* The pins stay the VM's: a reset by the guest never unlocks. Only this vCPU is not held until it has set them again. */
static void reset(void *ext, const struct acc_cpu *cpu, bool init)
{
	struct heki *h = ext;
	struct heki_regs regs;
	struct heki_vcpu *v;

	h->host->regs(h->vm, cpu, &regs);
	v = &h->vcpu[regs.vcpu];
	atomic_store(&v->held_cr0, 0);
	atomic_store(&v->held_cr4, 0);
	v->saved.valid = false;
	v->answer.n = v->looked.n = 0;
	if (init)
		heki_firmware_init(h, regs.vcpu);
}

const struct cpu_ext_ops heki_ext_ops = { .name = "heki", .write = write_reg, .smi = enter_smm, .reset = reset };

void heki_vcpu_registers_set(struct heki *h, const struct acc_cpu *cpu)
{
	uint64_t pin0 = atomic_load(&h->pinned_cr0), pin4 = atomic_load(&h->pinned_cr4);
	struct heki_regs regs;

	if (!atomic_load(&h->is_locked))
		return;
	h->host->regs(h->vm, cpu, &regs);
	if ((regs.cr0 & pin0) != pin0 || (regs.cr4 & pin4) != pin4)
		heki_log(h, &(struct heki_event){ .kind = HEKI_EV_CLIENT, .reason = HEKI_REASON_CR0 | HEKI_REASON_CR4, .vcpu = regs.vcpu,
						  .gpa = regs.cr0, .value = regs.cr4 });
	reset(h, cpu, false);
	hold(h, &h->vcpu[regs.vcpu], regs.cr0, regs.cr4);
}

/* ---- hypercall 13 ----------------------------------------------------------------------------------------------------------- */

void heki_pin(struct heki *h, uint64_t cr0, uint64_t cr4)
{
	atomic_fetch_or(&h->pinned_cr0, cr0);
	atomic_fetch_or(&h->pinned_cr4, cr4);
	if (atomic_exchange(&h->is_locked, true))
		return;
	if (atomic_load(&h->lock_registers))
		atomic_fetch_or(&h->active, ACTIVE_REGS);
	/* Fetches are classified anew from here on. */
	h->host->forget(h->vm, GFN(0), 0, ACC_X);
}

/* The bits of @mask that this call pins; negative: error. */
static int64_t judge_mask(const struct heki_regs *regs, uint64_t cr, uint64_t mask, uint64_t *accepted)
{
	if (!mask)
		return HC_EINVAL;
	if (cr == 0) {
		if (!(mask & CR0_WP) || mask & ~regs->cr0)
			return HC_EINVAL;
		*accepted = mask;
		return 0;
	}
	if (cr != 4 || mask & ~CR4_PINNABLE)
		return HC_EINVAL;
	/* The series asks the host's CR4; a guest cannot see that, and ours may be another machine tomorrow: the caller's counts. */
	*accepted = mask & regs->cr4;
	return 0;
}

int64_t heki_hc_lock_cr(struct heki *h, const struct acc_cpu *cpu, const uint64_t a[4], bool *exit, struct acc_exit *e)
{
	uint32_t reason = a[0] == 4 ? HEKI_REASON_CR4 : HEKI_REASON_CR0;
	struct heki_regs regs;
	uint64_t accepted = 0;
	int64_t err;

	*exit = false;
	heki_count(h, N_HYPERCALLS);
	h->host->regs(h->vm, cpu, &regs);
	if (a[0] > UINT32_MAX)
		err = HC_EINVAL;
	else if (a[2])
		return a[2] == 1 && !a[0] && !a[1] ? RFC_VERSION : HC_EINVAL;
	else
		err = judge_mask(&regs, a[0], a[1], &accepted);
	if (err) {
		heki_count(h, N_REFUSED);
		return err;
	}
	heki_pin(h, a[0] ? 0 : accepted, a[0] ? accepted : 0);
	heki_log(h, &(struct heki_event){ .kind = HEKI_EV_PINNED, .reason = reason, .gpa = a[0], .vcpu = regs.vcpu,
					  .value = atomic_load(a[0] ? &h->pinned_cr4 : &h->pinned_cr0) });
	if (atomic_load(&h->exit_configure) & reason) {
		*exit = true;
		heki_count(h, N_EXITS);
		*e = (struct acc_exit){ .reason = atomic_load(&h->nr_configure), .data = { reason, accepted } };
	}
	return 0;
}
