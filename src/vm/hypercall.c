/* SPDX-License-Identifier: MIT */
/*
 * KVM's hypercalls: rows of number, feature that the guest must have been offered (when the client enforces that), handler.
 * Numbers and results are the guest ABI of Documentation/virt/kvm/x86/hypercalls.rst.
 */
#include <sched.h>
#include <string.h>

#include "base/trace.h"
#include "vm/vm.h"

#define HC_ENOSYS	(-1000)
#define HC_EPERM	(-1)
#define HC_EINVAL	(-22)

struct args { uint64_t a[4]; bool is_long; };

static int64_t vapic_poll(struct vm_vcpu *v, const struct args *x)
{
	return 0;
}

static int64_t kick_cpu(struct vm_vcpu *v, const struct args *x)
{
	if (v->vm->irqchip)
		dev_irq_pv_kick(v->vm->irqchip, (uint32_t)x->a[1]);
	return 0;
}

static int64_t send_ipi(struct vm_vcpu *v, const struct args *x)
{
	if (!v->vm->irqchip)
		return HC_EINVAL;
	return dev_irq_pv_send_ipi(v->vm->irqchip, x->a[0], x->a[1], (uint32_t)x->a[2], x->a[3], x->is_long ? 64 : 32);
}

static int64_t sched_yield_to(struct vm_vcpu *v, const struct args *x)
{
	sched_yield();
	return 0;
}

static const struct row {
	uint64_t nr;
	uint32_t feature;	/* bit of 0x40000001 EAX; 0: always there */
	int64_t (*fn)(struct vm_vcpu *v, const struct args *x);
} rows[] = {
	{ 1,	0,		vapic_poll },
	{ 5,	BIT(7),		kick_cpu },
	{ 10,	BIT(11),	send_ipi },
	{ 11,	BIT(13),	sched_yield_to },
};

#define HC_MAP_GPA_RANGE	12

/* KVM_CAP_EXIT_HYPERCALL: the client converts pages. Returns true when this made an exit. */
static bool map_gpa_exit(struct vm_vcpu *v, const struct args *x, int64_t *ret)
{
	struct kvm_run *run = v->run;

	if (!(v->vm->hypercall_exits >> HC_MAP_GPA_RANGE & 1)) {
		*ret = HC_ENOSYS;
		return false;
	}
	/* In frames, as KVM counts: a number of pages whose bytes would wrap is the client's to refuse. */
	if (x->a[0] & GW_PAGE_MASK || !x->a[1] || (x->a[0] >> GW_PAGE_SHIFT) + x->a[1] <= x->a[0] >> GW_PAGE_SHIFT) {
		*ret = HC_EINVAL;
		return false;
	}
	memset(&run->hypercall, 0, sizeof(run->hypercall));
	run->hypercall.nr = HC_MAP_GPA_RANGE;
	for (unsigned i = 0; i < 3; i++)
		run->hypercall.args[i] = x->a[i];
	run->hypercall.longmode = x->is_long;
	return true;
}

static int64_t dispatch(struct vm_vcpu *v, uint64_t nr, const struct args *x)
{
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		if (rows[i].nr != nr)
			continue;
		if (rows[i].feature && v->is_pv_enforced && !(v->pv_features & rows[i].feature))
			break;
		return rows[i].fn(v, x);
	}
	return HC_ENOSYS;
}

/* ---- the instruction ------------------------------------------------------------------------------------------------------- */

#define INSN_SIZE	3u

/*
 * KVM patches the other vendor's instruction into the processor's own. True: it is done, and stands there to be executed. Where the
 * guest's tables or a guard refuse the store, the instruction works as it is: KVM's guest would get the fault of a store that it
 * never made. The engine executes both.
 */
static bool fix(struct vm_vcpu *v, bool want_vmmcall)
{
	const uint8_t insn[INSN_SIZE] = { 0x0f, 0x01, want_vmmcall ? 0xd9 : 0xc1 };
	struct acc_request rq = {
		.cpu = &v->c.acc, .gva = GVA(v->c.rip + v->c.seg_base[SEG_CS]), .len = INSN_SIZE, .rights = ACC_W, .stage = ACC_FINAL,
		.origin = ACC_PV, .cpl = v->c.acc.cpl,
	};
	uint8_t now[INSN_SIZE];
	struct acc_result res;
	bool ok;

	/* Rare, and a part of it on another page rarer. */
	if ((rq.gva.v & GW_PAGE_MASK) > GW_PAGE_SIZE - INSN_SIZE || acc_translate(&rq, &res) != ACC_ALLOW)
		return false;
	ok = vm_pv_write(v, rq.gpa, insn, INSN_SIZE);
	gw_trace(pv_write, (int)v->index, v->c.stats.insns, "hypercall", (unsigned long long)rq.gpa.v, INSN_SIZE, ok);
	/* A store that was dropped must not be waited for. */
	return ok && vm_pv_read(v, rq.gpa, now, INSN_SIZE) && !memcmp(insn, now, INSN_SIZE);
}

/* DONE: it may be executed. */
static enum cpu_hypercall check_form(struct vm_vcpu *v, bool is_vmmcall)
{
	if (likely(is_vmmcall == vm_host_is_amd()))
		return CPU_HC_DONE;
	if (v->vm->disabled_quirks & KVM_X86_QUIRK_FIX_HYPERCALL_INSN)
		return CPU_HC_UD;
	if (!fix(v, !is_vmmcall))
		return CPU_HC_DONE;
	v->c.exit = CPU_EXIT_KICKED;
	v->c.stop = true;
	return CPU_HC_EXIT;
}

static enum cpu_hypercall finish(struct vcpu *c, bool is_long, int64_t ret)
{
	c->gpr[RAX] = is_long ? (uint64_t)ret : (uint32_t)ret;
	return CPU_HC_DONE;
}

enum cpu_hypercall vm_hypercall(struct vcpu *c, bool is_vmmcall)
{
	struct vm_vcpu *v = vm_vcpu_of(c);
	struct args x = { .a = { c->gpr[RBX], c->gpr[RCX], c->gpr[RDX], c->gpr[RSI] }, .is_long = c->mode == INSN_MODE_64 };
	uint64_t nr = c->gpr[RAX];
	struct vm *vm = v->vm;
	enum cpu_hypercall form;
	bool restart;
	int64_t ret;

	/* The client has said what comes of it. */
	if (v->hypercall_answer.valid) {
		v->hypercall_answer.valid = false;
		return finish(c, x.is_long, (int64_t)v->hypercall_answer.ret);
	}
	form = check_form(v, is_vmmcall);
	if (unlikely(form != CPU_HC_DONE))
		return form;
	v->stats.hypercalls++;
	if (!x.is_long) {
		nr = (uint32_t)nr;
		for (unsigned i = 0; i < 4; i++)
			x.a[i] = (uint32_t)x.a[i];
	}
	if (mon_hypercall(vm->monitor, &c->acc, c->acc.cpl, nr, x.is_long ? c->gpr[RDI] : x.a[0], x.is_long ? c->gpr[RSI] : x.a[1], &ret, &restart)) {
		if (restart) {
			c->exit = CPU_EXIT_KICKED;
			c->stop = true;
			return CPU_HC_EXIT;
		}
	} else if (c->acc.cpl)
		ret = HC_EPERM;
	else if (nr == HEKI_HC_LOCK_CR || nr == HEKI_HC_PROTECT_MEM) {
		if (!vm_heki_hypercall(v, nr, x.a, &ret))
			return CPU_HC_EXIT;
	} else if (nr != HC_MAP_GPA_RANGE)
		ret = dispatch(v, nr, &x);
	else if (map_gpa_exit(v, &x, &ret))
		return CPU_HC_EXIT;
	gw_trace(hypercall, (int)v->index, c->stats.insns, (unsigned long long)nr, (unsigned long long)x.a[0],
		 (unsigned long long)x.a[1], (unsigned long long)x.a[2], (unsigned long long)x.a[3], (long long)ret);
	return finish(c, x.is_long, ret);
}
