/* SPDX-License-Identifier: MIT */
/* Capabilities: what KVM_CHECK_EXTENSION answers, and what KVM_ENABLE_CAP switches. Only what is built is here. */
#include <errno.h>
#include <unistd.h>

#include "base/trace.h"
#include "kvm/kvm.h"

#define DEBUG_CONTROLS (KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_SW_BP | KVM_GUESTDBG_USE_HW_BP | \
			KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP | KVM_GUESTDBG_BLOCKIRQ)
#define DISABLE_EXITS	(KVM_X86_DISABLE_EXITS_HLT | KVM_X86_DISABLE_EXITS_PAUSE)
#define X2APIC_API	(KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK | \
			 KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST | KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST)
#define EXIT_HYPERCALLS	(1u << 12)	/* KVM_HC_MAP_GPA_RANGE */

static const struct { uint32_t cap; long value; } rows[] = {
	{ KVM_CAP_IRQCHIP, 1 }, { KVM_CAP_HLT, 1 }, { KVM_CAP_USER_MEMORY, 1 }, { KVM_CAP_SET_TSS_ADDR, 1 }, { KVM_CAP_EXT_CPUID, 1 }, { KVM_CAP_EXT_EMUL_CPUID, 1 },
	{ KVM_CAP_CLOCKSOURCE, 1 }, { KVM_CAP_MAX_VCPUS, VM_MAX_VCPUS }, { KVM_CAP_MAX_VCPU_ID, VM_MAX_VCPU_ID },
	{ KVM_CAP_NR_MEMSLOTS, VM_MAX_SLOTS }, { KVM_CAP_NOP_IO_DELAY, 1 }, { KVM_CAP_MP_STATE, 1 },
	{ KVM_CAP_COALESCED_MMIO, KVM_COALESCED_MMIO_PAGE_OFFSET }, { KVM_CAP_COALESCED_PIO, 1 }, { KVM_CAP_SYNC_MMU, 1 },
	{ KVM_CAP_DESTROY_MEMORY_REGION_WORKS, 1 }, { KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, 1 }, { KVM_CAP_USER_NMI, 1 },
	{ KVM_CAP_SET_GUEST_DEBUG, 1 }, { KVM_CAP_SET_GUEST_DEBUG2, DEBUG_CONTROLS }, { KVM_CAP_REINJECT_CONTROL, 1 },
	{ KVM_CAP_IRQ_ROUTING, DEV_MAX_GSI }, { KVM_CAP_IRQ_INJECT_STATUS, 1 }, { KVM_CAP_MCE, 32 }, { KVM_CAP_IRQFD, 1 },
	{ KVM_CAP_IRQFD_RESAMPLE, 1 }, { KVM_CAP_PIT2, 1 }, { KVM_CAP_PIT_STATE2, 1 }, { KVM_CAP_SET_BOOT_CPU_ID, 1 },
	{ KVM_CAP_IOEVENTFD, 1 }, { KVM_CAP_IOEVENTFD_NO_LENGTH, 1 }, { KVM_CAP_IOEVENTFD_ANY_LENGTH, 1 },
	{ KVM_CAP_SET_IDENTITY_MAP_ADDR, 1 },
	{ KVM_CAP_ADJUST_CLOCK, KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC }, { KVM_CAP_INTERNAL_ERROR_DATA, 1 },
	{ KVM_CAP_VCPU_EVENTS, 1 }, { KVM_CAP_DEBUGREGS, 1 }, { KVM_CAP_X86_ROBUST_SINGLESTEP, 1 }, { KVM_CAP_ENABLE_CAP, 1 },
	{ KVM_CAP_XSAVE, 1 }, { KVM_CAP_XSAVE2, 4096 }, { KVM_CAP_XCRS, 1 }, { KVM_CAP_TSC_CONTROL, 1 }, { KVM_CAP_VM_TSC_CONTROL, 1 },
	{ KVM_CAP_GET_TSC_KHZ, 1 }, { KVM_CAP_TSC_DEADLINE_TIMER, 1 }, { KVM_CAP_SYNC_REGS, KVM_SYNC_X86_VALID_FIELDS },
	{ KVM_CAP_KVMCLOCK_CTRL, 1 }, { KVM_CAP_SIGNAL_MSI, 1 }, { KVM_CAP_READONLY_MEM, 1 }, { KVM_CAP_ENABLE_CAP_VM, 1 },
	{ KVM_CAP_CHECK_EXTENSION_VM, 1 }, { KVM_CAP_DISABLE_QUIRKS, 1 }, { KVM_CAP_DISABLE_QUIRKS2, VM_QUIRKS },
	{ KVM_CAP_SPLIT_IRQCHIP, 1 }, { KVM_CAP_VCPU_ATTRIBUTES, 1 }, { KVM_CAP_X2APIC_API, X2APIC_API }, { KVM_CAP_IMMEDIATE_EXIT, 1 },
	{ KVM_CAP_X86_DISABLE_EXITS, DISABLE_EXITS }, { KVM_CAP_GET_MSR_FEATURES, 1 }, { KVM_CAP_EXCEPTION_PAYLOAD, 1 },
	{ KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3 }, { KVM_CAP_STEAL_TIME, 1 }, { KVM_CAP_ASYNC_PF, 1 }, { KVM_CAP_ASYNC_PF_INT, 1 }, { KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1 },
	{ KVM_CAP_SREGS2, 1 }, { KVM_CAP_EXIT_HYPERCALL, EXIT_HYPERCALLS }, { KVM_CAP_BINARY_STATS_FD, 1 },
	{ KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1 }, { KVM_CAP_SYS_ATTRIBUTES, 1 }, { KVM_CAP_USER_MEMORY2, 1 },
	{ KVM_CAP_MEMORY_FAULT_INFO, 1 }, { KVM_CAP_VM_TYPES, VM_TYPES }, { KVM_CAP_PRE_FAULT_MEMORY, 1 },
	{ KVM_CAP_X86_APIC_BUS_CYCLES_NS, 1 },
	{ KVM_CAP_X86_USER_SPACE_MSR, 7 }, { KVM_CAP_X86_MSR_FILTER, 1 },
	{ KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1 }, { KVM_CAP_DIRTY_LOG_RING, VM_DIRTY_RING_MAX },
	{ KVM_CAP_DIRTY_LOG_RING_ACQ_REL, VM_DIRTY_RING_MAX }, { KVM_CAP_MSR_PLATFORM_INFO, 1 }, { GW_CAP_DUMP, 1 }, { GW_CAP_TRACE, GW_N_TRACE_POINTS }, { GW_CAP_MONITOR, 1 },
};

/* What depends on the type of the VM. True: @value is the answer. */
static bool private_cap(const struct vm *vm, unsigned long cap, long *value)
{
	bool is_old = vm ? vm->is_old_gmem : vm_gmem_is_old();

	switch (cap) {
	case KVM_CAP_MEMORY_ATTRIBUTES:
		*value = (long)vm_memory_attributes(vm);
		return true;
	case KVM_CAP_GUEST_MEMFD:
		*value = !vm || !is_old || vm->kinds;
		return true;
	case KVM_CAP_GUEST_MEMFD_FLAGS:
		*value = (long)vm_gmem_flags(vm);
		return true;
	case KVM_CAP_X86_SMM:
		*value = !vm || vm_has_smm(vm);
		return true;
	case KVM_CAP_MULTI_ADDRESS_SPACE:
		*value = vm ? vm_spaces(vm) : ACC_N_SPACES;
		return true;
	case GW_CAP_PRIVATE:
		*value = vm && vm->kinds ? VM_PRIVATE_OPTIONS : 0;
		return true;
	}
	return false;
}

long kvm_check_extension(struct vm *vm, unsigned long cap)
{
	long value;

	if (private_cap(vm, cap, &value))
		return value;
	if (cap == KVM_CAP_NR_VCPUS) {
		long n = sysconf(_SC_NPROCESSORS_ONLN);

		return n > 0 ? n : 1;
	}
	if (kvm_heki_hides(vm, cap))
		return kvm_heki_check_extension(vm, cap);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		if (rows[i].cap == cap)
			return rows[i].value;
	return kvm_heki_check_extension(vm, cap);
}

/* ---- enabling: each with vm->lock held, but for SPLIT_IRQCHIP -------------------------------------------------------------- */

static bool has_vcpus(const struct vm *vm)
{
	return atomic_load(&vm->n_vcpus);
}

static long x2apic_api(struct vm *vm, uint64_t arg)
{
	if (arg & ~(uint64_t)X2APIC_API || (arg & KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST && !vm->is_split))
		return -EINVAL;
	if (vm->irqchip)
		return dev_irqchip_set_x2apic_api(vm->irqchip, arg);
	vm->x2apic_api |= arg;
	return 0;
}

static long disable_exits(struct vm *vm, uint64_t arg)
{
	if (arg & ~(uint64_t)DISABLE_EXITS || has_vcpus(vm))
		return -EINVAL;
	vm->disabled_exits |= arg;
	return 0;
}

static long quirks(struct vm *vm, uint64_t arg)
{
	vm->disabled_quirks |= arg & VM_QUIRKS;
	if (vm->irqchip)
		dev_irqchip_disable_quirks(vm->irqchip, vm->disabled_quirks);
	return 0;
}

static long quirks2(struct vm *vm, uint64_t arg)
{
	return arg & ~(uint64_t)VM_QUIRKS ? -EINVAL : quirks(vm, arg);
}

static long exception_payload(struct vm *vm, uint64_t arg)
{
	vm->is_exception_payload = arg;
	return 0;
}

static long triple_fault_event(struct vm *vm, uint64_t arg)
{
	vm->is_triple_fault_event = arg;
	return 0;
}

static long dirty_protect(struct vm *vm, uint64_t arg)
{
	if (arg & ~3ull || (arg & 2 && !(arg & 1)))
		return -EINVAL;
	vm->dirty_protect = arg;
	return 0;
}

static long exit_hypercall(struct vm *vm, uint64_t arg)
{
	if (arg & ~(uint64_t)EXIT_HYPERCALLS)
		return -EINVAL;
	vm->hypercall_exits = arg;
	return 0;
}

static long emulation_failure(struct vm *vm, uint64_t arg)
{
	if (arg > 1)
		return -EINVAL;
	vm->is_emulation_exit = arg;
	return 0;
}

static long max_vcpu_id(struct vm *vm, uint64_t arg)
{
	if (arg > VM_MAX_VCPU_ID || arg < vm->boot_id)
		return -EINVAL;
	if (vm->max_vcpu_id)
		return vm->max_vcpu_id == arg ? 0 : -EINVAL;
	if (has_vcpus(vm))
		return -EINVAL;
	vm->max_vcpu_id = (uint32_t)arg;
	return 0;
}

static long bus_cycles(struct vm *vm, uint64_t arg)
{
	if (!arg || arg > UINT64_MAX / 256 / UINT32_MAX)
		return -EINVAL;
	if (!vm->irqchip)
		return -ENXIO;
	if (has_vcpus(vm))
		return -EINVAL;
	vm->apic_bus_ns = arg;
	return dev_irqchip_set_bus_cycle_ns(vm->irqchip, arg);
}

static long user_space_msr(struct vm *vm, uint64_t arg)
{
	if (arg & ~(uint64_t)(KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER))
		return -EINVAL;
	vm->msr_exit_reasons = (uint32_t)arg;
	return 0;
}

static long platform_info(struct vm *vm, uint64_t arg)
{
	vm->is_platform_info_hidden = !arg;
	return 0;
}

static long dirty_ring(struct vm *vm, uint64_t arg)
{
	return vm_dirty_ring_enable(vm, arg);
}

static long private_options(struct vm *vm, uint64_t arg)
{
	return vm_private_enable(vm, arg);
}

static const struct { uint32_t cap; long (*fn)(struct vm *vm, uint64_t arg); } enable_rows[] = {
	{ KVM_CAP_X2APIC_API, x2apic_api },
	{ KVM_CAP_X86_DISABLE_EXITS, disable_exits },
	{ KVM_CAP_DISABLE_QUIRKS, quirks },
	{ KVM_CAP_DISABLE_QUIRKS2, quirks2 },
	{ KVM_CAP_EXCEPTION_PAYLOAD, exception_payload },
	{ KVM_CAP_X86_TRIPLE_FAULT_EVENT, triple_fault_event },
	{ KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, dirty_protect },
	{ KVM_CAP_EXIT_HYPERCALL, exit_hypercall },
	{ KVM_CAP_EXIT_ON_EMULATION_FAILURE, emulation_failure },
	{ KVM_CAP_MAX_VCPU_ID, max_vcpu_id },
	{ KVM_CAP_X86_APIC_BUS_CYCLES_NS, bus_cycles },
	{ KVM_CAP_X86_USER_SPACE_MSR, user_space_msr },
	{ KVM_CAP_MSR_PLATFORM_INFO, platform_info },
	{ KVM_CAP_DIRTY_LOG_RING, dirty_ring },
	{ KVM_CAP_DIRTY_LOG_RING_ACQ_REL, dirty_ring },
	{ GW_CAP_PRIVATE, private_options },
};

static long enable_row(struct vm *vm, const struct kvm_enable_cap *cap)
{
	for (unsigned i = 0; i < ARRAY_SIZE(enable_rows); i++)
		if (enable_rows[i].cap == cap->cap)
			return enable_rows[i].fn(vm, cap->args[0]);
	return -EINVAL;
}

long kvm_enable_cap_vm(struct vm *vm, const struct kvm_enable_cap *cap)
{
	long ret;

	if (cap->flags)
		return -EINVAL;
	if (cap->cap == KVM_CAP_SPLIT_IRQCHIP)
		return vm_create_irqchip(vm, true, cap->args[0]);
	pthread_mutex_lock(&vm->lock);
	ret = kvm_heki_enable_cap(vm, cap);
	if (ret == -ENOENT)
		ret = enable_row(vm, cap);
	pthread_mutex_unlock(&vm->lock);
	return ret;
}

long kvm_enable_cap_vcpu(struct vm_vcpu *v, const struct kvm_enable_cap *cap)
{
	if (cap->flags || cap->cap != KVM_CAP_ENFORCE_PV_FEATURE_CPUID)
		return -EINVAL;
	v->is_pv_enforced = cap->args[0];
	return 0;
}
