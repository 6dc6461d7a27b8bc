/* SPDX-License-Identifier: MIT */
/*
 * MSRs of the machine (TSC, LAPIC, paravirtual ones), the lists of what to save, feature MSRs.
 * What the processor owns is in cpu/sys; the ioctls ask there first.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/trace.h"
#include "cpu/sys/sys.h"
#include "vm/vm.h"

#define MSR_TSC			0x10
#define MSR_APIC_BASE		0x1b
#define MSR_TSC_ADJUST		0x3b
#define MSR_UCODE_REV		0x8b
#define MSR_PLATFORM_INFO	0xce
#define MSR_ARCH_CAPS		0x10a
#define MSR_TSC_DEADLINE	0x6e0
#define MSR_DE_CFG		0xc0011029

/* State to save that the processor does not own; the processor's list goes before it. */
const uint32_t vm_msr_list[] = {
	MSR_TSC, MSR_TSC_ADJUST, MSR_TSC_DEADLINE, 0x12, 0x11, 0x4b564d01, 0x4b564d00, 0x4b564d02, 0x4b564d03, 0x4b564d04, 0x4b564d05,
	0x4b564d06, 0x4b564d07,
};
const unsigned vm_n_msr_list = ARRAY_SIZE(vm_msr_list);

const uint32_t vm_msr_feature_list[] = { MSR_UCODE_REV, MSR_ARCH_CAPS, MSR_PLATFORM_INFO, MSR_DE_CFG };
const unsigned vm_n_msr_feature_list = ARRAY_SIZE(vm_msr_feature_list);

/*
 * Bits of IA32_ARCH_CAPABILITIES: the guest's code never runs on the host's speculation paths as its own kernel and user, so
 * none of the mitigations that these switch off has anything to protect here. RDCL_NO, IBRS_ALL, SKIP_L1DFL, SSB_NO, MDS_NO,
 * PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO.
 */
#define ARCH_CAPS (BIT64(0) | BIT64(1) | BIT64(3) | BIT64(4) | BIT64(5) | BIT64(6) | BIT64(8) | BIT64(13) | BIT64(14) | \
		   BIT64(15) | BIT64(20) | BIT64(24) | BIT64(26) | BIT64(27) | BIT64(62))

int vm_msr_feature_get(uint32_t index, uint64_t *value)
{
	switch (index) {
	case MSR_UCODE_REV:
		*value = 0x100000000ull;
		return 0;
	case MSR_ARCH_CAPS:
		*value = ARCH_CAPS;
		return 0;
	case MSR_PLATFORM_INFO:
		*value = BIT64(31);	/* CPUID faulting */
		return 0;
	case MSR_DE_CFG:
		*value = BIT64(1);	/* LFENCE serialises */
		return 0;
	default:
		return -EINVAL;
	}
}

void vm_msr_init(struct vm_vcpu *v)
{
	struct cpu_msrs *m = &v->c.msr;

	vm_msr_feature_get(MSR_ARCH_CAPS, &m->arch_capabilities);
	vm_msr_feature_get(MSR_PLATFORM_INFO, &m->platform_info);
}

/* ---- our MSRs ---------------------------------------------------------------------------------------------------------- */

static bool is_apic_msr(uint32_t index)
{
	return index == MSR_APIC_BASE || index == MSR_TSC_DEADLINE || (index >= 0x800 && index <= 0x8ff);
}

/* 0, -EINVAL; -ENOENT: no such MSR. */
static int get(struct vm_vcpu *v, uint32_t index, bool host, uint64_t *value)
{
	*value = 0;
	switch (index) {
	case MSR_TSC:
		*value = vm_tsc(v);
		return 0;
	case MSR_TSC_ADJUST:
		*value = v->c.msr.tsc_adjust;
		return host || vm_cpuid_has(&v->c, 7, 1, 1) ? 0 : -EINVAL;
	case MSR_APIC_BASE:
		*value = vm_get_apic_base(v);
		return 0;
	}
	if (is_apic_msr(index)) {
		if (!v->lapic)
			return host && index == MSR_TSC_DEADLINE ? 0 : -EINVAL;
		return dev_lapic_read_msr(v->lapic, index, host, value);
	}
	return vm_pv_msr_get(v, index, host, value);
}

static int set_tsc(struct vm_vcpu *v, bool host, uint64_t value)
{
	if (host) {
		vm_tsc_host_write(v, value);
		return 0;
	}
	/* The guest's write moves TSC_ADJUST by the same amount (SDM vol. 3 "IA32_TSC_ADJUST Support"). */
	v->c.msr.tsc_adjust += value - vm_tsc(v);
	vm_tsc_guest_write(v, value);
	return 0;
}

static int set_tsc_adjust(struct vm_vcpu *v, bool host, uint64_t value)
{
	if (!vm_cpuid_has(&v->c, 7, 1, 1))
		return host && !value ? 0 : -EINVAL;
	/* The client restores the offset with MSR 0x10 and must not move it twice. */
	if (!host)
		vm_tsc_set_offset(v, atomic_load(&v->tsc_offset) + value - v->c.msr.tsc_adjust);
	v->c.msr.tsc_adjust = value;
	return 0;
}

static int set(struct vm_vcpu *v, uint32_t index, bool host, uint64_t value)
{
	switch (index) {
	case MSR_TSC:
		return set_tsc(v, host, value);
	case MSR_TSC_ADJUST:
		return set_tsc_adjust(v, host, value);
	case MSR_APIC_BASE:
		if (!v->lapic)
			return vm_set_apic_base(v, value) ? -EINVAL : 0;
		break;
	}
	if (is_apic_msr(index)) {
		if (!v->lapic)
			return host && !value ? 0 : -EINVAL;
		return dev_lapic_write_msr(v->lapic, index, host, value) ? -EINVAL : 0;
	}
	return vm_pv_msr_set(v, index, host, value);
}

/* ---- ioctls ------------------------------------------------------------------------------------------------------------ */

int vm_msr_get(struct vm_vcpu *v, uint32_t index, uint64_t *value)
{
	if (cpu_msr_owned(&v->c, index))
		return cpu_msr_get(&v->c, index, value, true) ? -EINVAL : 0;
	return get(v, index, true, value) ? -EINVAL : 0;
}

int vm_msr_set(struct vm_vcpu *v, uint32_t index, uint64_t value)
{
	if (cpu_msr_owned(&v->c, index))
		return cpu_msr_set(&v->c, index, value, true) ? -EINVAL : 0;
	return set(v, index, true, value) ? -EINVAL : 0;
}

/* ---- the guest --------------------------------------------------------------------------------------------------------- */

int vm_env_rdmsr(struct vcpu *c, uint32_t index, uint64_t *value)
{
	vm_pv_eoi_sync(vm_vcpu_of(c));
	return get(vm_vcpu_of(c), index, false, value) ? 1 : 0;
}

int vm_env_wrmsr(struct vcpu *c, uint32_t index, uint64_t value)
{
	vm_pv_eoi_sync(vm_vcpu_of(c));
	return set(vm_vcpu_of(c), index, false, value) ? 1 : 0;
}

/* ---- the client's filter and exits ---------------------------------------------------------------------------------------- */

void vm_msr_filter_free(struct vm_msr_filter *filter)
{
	for (unsigned i = 0; filter && i < filter->n; i++)
		free(filter->range[i].bitmap);
	free(filter);
}

void vm_msr_set_filter(struct vm *vm, struct vm_msr_filter *filter)
{
	struct vm_msr_filter *old;

	pthread_rwlock_wrlock(&vm->filter_lock);
	old = vm->msr_filter;
	vm->msr_filter = filter;
	atomic_store(&vm->has_msr_filter, filter != NULL);
	pthread_rwlock_unlock(&vm->filter_lock);
	vm_msr_filter_free(old);
}

static bool filter_allows(const struct vm_msr_filter *f, uint32_t index, bool write)
{
	uint32_t op = write ? KVM_MSR_FILTER_WRITE : KVM_MSR_FILTER_READ;

	for (unsigned i = 0; i < f->n; i++) {
		const struct vm_msr_range *r = &f->range[i];
		uint32_t at = index - r->base;

		if (at < r->n && r->flags & op)
			return r->bitmap[at / 8] >> at % 8 & 1;
	}
	return !f->deny;
}

static bool is_allowed(struct vm *vm, uint32_t index, bool write)
{
	bool ok = true;

	/* x2APIC registers are never filtered. */
	if (likely(!atomic_load_explicit(&vm->has_msr_filter, memory_order_relaxed)) || (index >= 0x800 && index <= 0x8ff))
		return true;
	pthread_rwlock_rdlock(&vm->filter_lock);
	if (vm->msr_filter)
		ok = filter_allows(vm->msr_filter, index, write);
	pthread_rwlock_unlock(&vm->filter_lock);
	return ok;
}

/* #GP(0), or an exit if the client wants to know of this reason. */
static int refuse(struct vcpu *c, uint32_t index, bool write, uint64_t value, uint32_t reason)
{
	if (!(vm_vcpu_of(c)->vm->msr_exit_reasons & reason))
		return 1;
	c->msr_exit.index = index;
	c->msr_exit.data = value;
	c->msr_exit.write = write;
	c->msr_exit.reason = reason;
	return 2;
}

int vm_env_msr_first(struct vcpu *c, uint32_t index, bool write, uint64_t *value)
{
	struct vm_vcpu *v = vm_vcpu_of(c);

	/* The instruction that made the exit runs again: this is its answer. */
	if (unlikely(v->msr_answer.valid)) {
		v->msr_answer.valid = false;
		if (v->msr_answer.index == index && v->msr_answer.is_write == write) {
			if (!write)
				*value = v->msr_answer.data;
			return v->msr_answer.is_error ? 1 : 3;
		}
	}
	if (!is_allowed(v->vm, index, write))
		return refuse(c, index, write, *value, KVM_MSR_EXIT_REASON_FILTER);
	if (unlikely(index == MSR_PLATFORM_INFO && !write && v->vm->is_platform_info_hidden))
		return refuse(c, index, false, 0, KVM_MSR_EXIT_REASON_INVAL);
	gw_trace(msr, (int)v->index, c->stats.insns, index, write ? "write" : "read", (unsigned long long)(write ? *value : 0));
	return 0;
}

static bool is_known(struct vm_vcpu *v, uint32_t index)
{
	uint64_t unused;

	return cpu_msr_owned(&v->c, index) || get(v, index, true, &unused) != -ENOENT;
}

int vm_env_msr_refused(struct vcpu *c, uint32_t index, bool write, uint64_t value)
{
	struct vm_vcpu *v = vm_vcpu_of(c);

	gw_trace(msr_refused, (int)v->index, c->stats.insns, index, write ? "write" : "read");
	return refuse(c, index, write, value, is_known(v, index) ? KVM_MSR_EXIT_REASON_INVAL : KVM_MSR_EXIT_REASON_UNKNOWN);
}
