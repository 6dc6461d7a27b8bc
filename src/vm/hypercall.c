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

bool vm_hypercall(struct vcpu *c)
{
	struct vm_vcpu *v = vm_vcpu_of(c);
	struct args x = { .a = { c->gpr[RBX], c->gpr[RCX], c->gpr[RDX], c->gpr[RSI] }, .is_long = c->mode == INSN_MODE_64 };
	uint64_t nr = c->gpr[RAX];
	struct vm *vm = v->vm;
	bool restart;
	int64_t ret;

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
			return false;
		}
	} else if (c->acc.cpl)
		ret = HC_EPERM;
	else if (nr == HEKI_HC_LOCK_CR || nr == HEKI_HC_PROTECT_MEM) {
		if (!vm_heki_hypercall(v, nr, x.a, &ret))
			return false;
	} else if (nr != HC_MAP_GPA_RANGE)
		ret = dispatch(v, nr, &x);
	else if (map_gpa_exit(v, &x, &ret))
		return false;
	gw_trace(hypercall, (int)v->index, c->stats.insns, (unsigned long long)nr, (unsigned long long)x.a[0],
		 (unsigned long long)x.a[1], (unsigned long long)x.a[2], (unsigned long long)x.a[3], (long long)ret);
	c->gpr[RAX] = x.is_long ? (uint64_t)ret : (uint32_t)ret;
	return true;
}
