/* SPDX-License-Identifier: MIT */
/* ioctls of a vCPU's descriptor. All but the rows marked unlocked run with the vCPU's lock. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/host/fpu.h"
#include "cpu/sys/sys.h"
#include "kvm/kvm.h"

#define MAX_MSRS	256u

static long run(struct kvm_call *k) { return vm_run(k->v); }

/* ---- state with a plain copy in or out ----------------------------------------------------------------------------------- */

static long get_regs(struct kvm_call *k) { vm_get_regs(k->v, k->data); return 0; }
static long set_regs(struct kvm_call *k) { vm_set_regs(k->v, k->data); return 0; }
static long get_sregs(struct kvm_call *k) { vm_get_sregs(k->v, k->data); return 0; }
static long set_sregs(struct kvm_call *k) { return vm_set_sregs(k->v, k->data); }
static long get_sregs2(struct kvm_call *k) { vm_get_sregs2(k->v, k->data); return 0; }
static long set_sregs2(struct kvm_call *k) { return vm_set_sregs2(k->v, k->data); }
static long get_fpu(struct kvm_call *k) { vm_get_fpu(k->v, k->data); return 0; }
static long set_fpu(struct kvm_call *k) { return vm_set_fpu(k->v, k->data); }
static long get_xsave(struct kvm_call *k) { vm_get_xsave(k->v, k->data); return 0; }
static long set_xsave(struct kvm_call *k) { return vm_set_xsave(k->v, k->data); }
static long get_xcrs(struct kvm_call *k) { return vm_get_xcrs(k->v, k->data); }
static long set_xcrs(struct kvm_call *k) { return vm_set_xcrs(k->v, k->data); }
static long get_lapic(struct kvm_call *k) { return vm_get_lapic(k->v, k->data); }
static long set_lapic(struct kvm_call *k) { return vm_set_lapic(k->v, k->data); }
static long get_events(struct kvm_call *k) { vm_get_events(k->v, k->data); return 0; }
static long set_events(struct kvm_call *k) { return vm_set_events(k->v, k->data); }
static long get_mp_state(struct kvm_call *k) { vm_get_mp_state(k->v, k->data); return 0; }
static long set_mp_state(struct kvm_call *k) { return vm_set_mp_state(k->v, k->data); }
static long get_debugregs(struct kvm_call *k) { vm_get_debugregs(k->v, k->data); return 0; }
static long set_debugregs(struct kvm_call *k) { return vm_set_debugregs(k->v, k->data); }
static long set_guest_debug(struct kvm_call *k) { return vm_set_guest_debug(k->v, k->data); }
static long translate(struct kvm_call *k) { return vm_translate(k->v, k->data); }
static long interrupt(struct kvm_call *k) { return vm_interrupt(k->v, ((const struct kvm_interrupt *)k->data)->irq); }
static long nmi(struct kvm_call *k) { vm_nmi(k->v); return 0; }
static long setup_mce(struct kvm_call *k) { return vm_setup_mce(k->v, *(const uint64_t *)k->data); }
static long set_mce(struct kvm_call *k) { return vm_set_mce(k->v, k->data); }
static long enable_cap(struct kvm_call *k) { return kvm_enable_cap_vcpu(k->v, k->data); }
static long get_stats_fd(struct kvm_call *k) { return vm_stats_open(k->vm, k->v); }
static long set_tsc_khz(struct kvm_call *k) { return vm_set_tsc_khz(k->v, k->arg); }
static long get_tsc_khz(struct kvm_call *k) { return k->v->tsc_khz; }
static long smi(struct kvm_call *k) { return vm_smi(k->v); }
static long invalid(struct kvm_call *k) { return -EINVAL; }

static long set_vapic_addr(struct kvm_call *k) { return vm_set_vapic_addr(k->v, ((const struct kvm_vapic_addr *)k->data)->vapic_addr); }
static long tpr_reporting(struct kvm_call *k) { return vm_set_tpr_reporting(k->v, k->data); }

static long kvmclock_ctrl(struct kvm_call *k)
{
	if (!(k->v->clock_msr & 1))
		return -EINVAL;
	k->v->is_guest_stopped = true;
	vm_vcpu_request(k->v, VM_REQ_CLOCK);
	return 0;
}

static long set_signal_mask(struct kvm_call *k)
{
	struct kvm_signal_mask head;
	uint64_t mask;

	if (!k->arg)
		return vm_set_signal_mask(k->v, NULL);
	if (kvm_copy_in(&head, k->arg, sizeof(head)))
		return -EFAULT;
	if (head.len != sizeof(mask))
		return -EINVAL;
	if (kvm_copy_in(&mask, k->arg + offsetof(struct kvm_signal_mask, sigset), sizeof(mask)))
		return -EFAULT;
	return vm_set_signal_mask(k->v, &mask);
}

/* ---- MSRs -------------------------------------------------------------------------------------------------------------- */

/* Up to the first one that is refused; the count says how far. */
static long each_msr(struct kvm_call *k, struct kvm_msr_entry *e, uint32_t n, bool set)
{
	uint32_t i;

	if (kvm_copy_in(e, k->arg + sizeof(struct kvm_msrs), n * sizeof(e[0])))
		return -EFAULT;
	for (i = 0; i < n; i++) {
		uint64_t value = e[i].data;

		if (set ? vm_msr_set(k->v, e[i].index, value) : vm_msr_get(k->v, e[i].index, &value))
			break;
		e[i].data = value;
	}
	if (!set && kvm_copy_out(k->arg + sizeof(struct kvm_msrs), e, n * sizeof(e[0])))
		return -EFAULT;
	return i;
}

static long msrs(struct kvm_call *k, bool set)
{
	struct kvm_msr_entry *e;
	struct kvm_msrs head;
	long ret;

	if (kvm_copy_in(&head, k->arg, sizeof(head)))
		return -EFAULT;
	if (head.nmsrs >= MAX_MSRS)
		return -E2BIG;
	e = calloc(MAX_MSRS, sizeof(*e));
	if (!e)
		return -ENOMEM;
	ret = each_msr(k, e, head.nmsrs, set);
	free(e);
	return ret;
}

static long get_msrs(struct kvm_call *k) { return msrs(k, false); }
static long set_msrs(struct kvm_call *k) { return msrs(k, true); }

/* ---- CPUID ------------------------------------------------------------------------------------------------------------- */

static long take_cpuid(struct kvm_call *k, struct kvm_cpuid_entry2 *e, uint32_t n)
{
	return kvm_copy_in(e, k->arg + sizeof(struct kvm_cpuid2), n * sizeof(*e)) ? -EFAULT : vm_cpuid_set(k->v, e, n);
}

static long set_cpuid2(struct kvm_call *k)
{
	struct kvm_cpuid_entry2 *e;
	struct kvm_cpuid2 head;
	long ret;

	if (kvm_copy_in(&head, k->arg, sizeof(head)))
		return -EFAULT;
	if (head.nent > CPU_MAX_CPUID)
		return -E2BIG;
	e = calloc(CPU_MAX_CPUID, sizeof(*e));
	if (!e)
		return -ENOMEM;
	ret = take_cpuid(k, e, head.nent);
	free(e);
	return ret;
}

/* The old form: no sub-leaves. */
static long set_cpuid(struct kvm_call *k)
{
	struct kvm_cpuid_entry2 *e;
	struct kvm_cpuid head;
	long ret = 0;

	if (kvm_copy_in(&head, k->arg, sizeof(head)))
		return -EFAULT;
	if (head.nent > CPU_MAX_CPUID)
		return -E2BIG;
	e = calloc(CPU_MAX_CPUID, sizeof(*e));
	if (!e)
		return -ENOMEM;
	for (uint32_t i = 0; i < head.nent && !ret; i++) {
		struct kvm_cpuid_entry old;

		ret = kvm_copy_in(&old, k->arg + sizeof(head) + i * sizeof(old), sizeof(old));
		if (!ret)
			e[i] = (struct kvm_cpuid_entry2){ .function = old.function, .eax = old.eax, .ebx = old.ebx, .ecx = old.ecx,
							  .edx = old.edx };
	}
	if (!ret)
		ret = vm_cpuid_set(k->v, e, head.nent);
	free(e);
	return ret;
}

/* With the bits that follow the processor's state as they are now. */
static long get_cpuid2(struct kvm_call *k)
{
	struct vcpu *c = &k->v->c;
	struct kvm_cpuid2 head;
	uint32_t r[4];

	if (kvm_copy_in(&head, k->arg, sizeof(head)))
		return -EFAULT;
	if (head.nent < c->n_cpuid)
		return -E2BIG;
	for (unsigned i = 0; i < c->n_cpuid; i++) {
		struct kvm_cpuid_entry2 e = { .function = c->cpuid[i].function, .index = c->cpuid[i].index, .flags = c->cpuid[i].flags };

		cpu_cpuid_query(c, e.function, e.index, r);
		e.eax = r[0];
		e.ebx = r[1];
		e.ecx = r[2];
		e.edx = r[3];
		if (kvm_copy_out(k->arg + sizeof(head) + i * sizeof(e), &e, sizeof(e)))
			return -EFAULT;
	}
	head.nent = c->n_cpuid;
	return kvm_copy_out(k->arg, &head, sizeof(head));
}

/* ---- attributes: the TSC offset ------------------------------------------------------------------------------------------- */

static bool is_tsc_offset(const struct kvm_device_attr *a)
{
	return a->group == KVM_VCPU_TSC_CTRL && a->attr == KVM_VCPU_TSC_OFFSET;
}

static long get_device_attr(struct kvm_call *k)
{
	const struct kvm_device_attr *a = k->data;
	uint64_t offset = atomic_load(&k->v->tsc_offset);

	return is_tsc_offset(a) ? kvm_copy_out(a->addr, &offset, sizeof(offset)) : -ENXIO;
}

static long set_device_attr(struct kvm_call *k)
{
	const struct kvm_device_attr *a = k->data;
	uint64_t offset;

	if (!is_tsc_offset(a))
		return -ENXIO;
	if (kvm_copy_in(&offset, a->addr, sizeof(offset)))
		return -EFAULT;
	vm_tsc_set_offset(k->v, offset);
	return 0;
}

static long has_device_attr(struct kvm_call *k)
{
	return is_tsc_offset(k->data) ? 0 : -ENXIO;
}

/* ---- extension block ------------------------------------------------------------------------------------------------------- */

struct dump_job { struct gw_dump *args; char *text; int err; };

static void dump_on_vcpu(struct vcpu *c, void *arg)
{
	struct dump_job *job = arg;

	job->err = vm_dump(vm_vcpu_of(c), job->args->flags, job->args->gva, &job->text);
}

static long dump(struct kvm_call *k)
{
	struct gw_dump *args = k->data;
	struct dump_job job = { .args = args };
	size_t want, n;
	long err;

	if (args->flags & ~(GW_DUMP_REGS | GW_DUMP_RING | GW_DUMP_CODE | GW_DUMP_WALK | GW_DUMP_ENGINE | GW_DUMP_BLOCK) || !args->size)
		return -EINVAL;
	vm_vcpu_service(k->v, dump_on_vcpu, &job);
	if (job.err)
		return job.err;
	want = strlen(job.text) + 1;
	n = want < args->size ? want : args->size;
	args->length = (uint32_t)want;
	job.text[n - 1] = 0;
	err = kvm_copy_out(args->buf, job.text, n);
	free(job.text);
	return err;
}

const struct kvm_row kvm_vcpu_rows[] = {
	{ KVM_RUN,			ARG_NONE,	.fn = run, .is_unlocked = true },
	{ KVM_GET_REGS,			ARG_OUT,	.fn = get_regs },
	{ KVM_SET_REGS,			ARG_IN,		.fn = set_regs },
	{ KVM_GET_SREGS,		ARG_OUT,	.fn = get_sregs },
	{ KVM_SET_SREGS,		ARG_IN,		.fn = set_sregs },
	{ KVM_GET_SREGS2,		ARG_OUT,	.fn = get_sregs2 },
	{ KVM_SET_SREGS2,		ARG_IN,		.fn = set_sregs2 },
	{ KVM_GET_MSRS,			ARG_RAW,	.fn = get_msrs },
	{ KVM_SET_MSRS,			ARG_RAW,	.fn = set_msrs },
	{ KVM_GET_FPU,			ARG_OUT,	.fn = get_fpu },
	{ KVM_SET_FPU,			ARG_IN,		.fn = set_fpu },
	{ KVM_GET_XSAVE,		ARG_OUT,	.fn = get_xsave },
	{ KVM_GET_XSAVE2,		ARG_OUT,	.fn = get_xsave },
	{ KVM_SET_XSAVE,		ARG_IN,		.fn = set_xsave },
	{ KVM_GET_XCRS,			ARG_OUT,	.fn = get_xcrs },
	{ KVM_SET_XCRS,			ARG_IN,		.fn = set_xcrs },
	{ KVM_GET_LAPIC,		ARG_OUT,	.fn = get_lapic },
	{ KVM_SET_LAPIC,		ARG_IN,		.fn = set_lapic },
	{ KVM_SET_CPUID,		ARG_RAW,	.fn = set_cpuid },
	{ KVM_SET_CPUID2,		ARG_RAW,	.fn = set_cpuid2 },
	{ KVM_GET_CPUID2,		ARG_RAW,	.fn = get_cpuid2 },
	{ KVM_GET_VCPU_EVENTS,		ARG_OUT,	.fn = get_events },
	{ KVM_SET_VCPU_EVENTS,		ARG_IN,		.fn = set_events },
	{ KVM_GET_MP_STATE,		ARG_OUT,	.fn = get_mp_state },
	{ KVM_SET_MP_STATE,		ARG_IN,		.fn = set_mp_state },
	{ KVM_GET_DEBUGREGS,		ARG_OUT,	.fn = get_debugregs },
	{ KVM_SET_DEBUGREGS,		ARG_IN,		.fn = set_debugregs },
	{ KVM_SET_GUEST_DEBUG,		ARG_IN,		.fn = set_guest_debug },
	{ KVM_TRANSLATE,		ARG_INOUT,	.fn = translate },
	{ KVM_PRE_FAULT_MEMORY,		ARG_INOUT,	.fn = kvm_prefault },
	{ GW_MAP,			ARG_INOUT,	.fn = kvm_map_text, .is_unlocked = true },
	{ KVM_INTERRUPT,		ARG_IN,		.fn = interrupt },
	{ KVM_TPR_ACCESS_REPORTING,	ARG_INOUT,	.fn = tpr_reporting },
	{ KVM_SET_VAPIC_ADDR,		ARG_IN,		.fn = set_vapic_addr },
	{ KVM_NMI,			ARG_ANY,	.fn = nmi },
	{ KVM_SMI,			ARG_ANY,	.fn = smi },
	{ KVM_SET_SIGNAL_MASK,		ARG_RAW,	.fn = set_signal_mask },
	{ KVM_SET_TSC_KHZ,		ARG_ANY,	.fn = set_tsc_khz },
	{ KVM_GET_TSC_KHZ,		ARG_ANY,	.fn = get_tsc_khz },
	{ KVM_KVMCLOCK_CTRL,		ARG_ANY,	.fn = kvmclock_ctrl },
	{ KVM_X86_SETUP_MCE,		ARG_IN,		.fn = setup_mce },
	{ KVM_X86_SET_MCE,		ARG_IN,		.fn = set_mce },
	{ KVM_ENABLE_CAP,		ARG_IN,		.fn = enable_cap },
	{ KVM_GET_STATS_FD,		ARG_ANY,	.fn = get_stats_fd },
	{ KVM_GET_DEVICE_ATTR,		ARG_IN,		.fn = get_device_attr },
	{ KVM_SET_DEVICE_ATTR,		ARG_IN,		.fn = set_device_attr },
	{ KVM_HAS_DEVICE_ATTR,		ARG_IN,		.fn = has_device_attr },
	{ KVM_GET_NESTED_STATE,		ARG_ANY,	.fn = invalid },
	{ KVM_SET_NESTED_STATE,		ARG_ANY,	.fn = invalid },
	{ GW_HEKI_GET_VCPU,		ARG_OUT,	.fn = kvm_heki_get_vcpu },
	{ GW_HEKI_SET_VCPU,		ARG_IN,		.fn = kvm_heki_set_vcpu },
	{ GW_DUMP,			ARG_INOUT,	.fn = dump, .is_unlocked = true },
};
const unsigned kvm_n_vcpu_rows = ARRAY_SIZE(kvm_vcpu_rows);
