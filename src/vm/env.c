/* SPDX-License-Identifier: MIT */
/*
 * The machine around the processor: struct cpu_env. Everything here runs on the vCPU's thread, in guest code, with no lock
 * held; it takes io_lock and the chip's lock, never vm.lock (whoever holds that may be waiting for us to reach a safe point).
 *
 * One access is offered to the in-kernel devices, then to ioeventfds, then to coalesced zones; false: it becomes an exit.
 */
#include <string.h>
#include <x86intrin.h>

#include "base/trace.h"
#include "vm/vm.h"

static uint64_t value_of(const uint8_t *data, unsigned len)
{
	uint64_t v = 0;

	memcpy(&v, data, len < 8 ? len : 8);
	return v;
}

static bool mmio_read(struct vcpu *c, struct gpa gpa, unsigned len, uint8_t *data)
{
	struct vm_vcpu *v = vm_vcpu_of(c);

	vm_pv_eoi_sync(v);
	if (!v->vm->irqchip || !dev_mmio(v->vm->irqchip, v->lapic, gpa, len, data, false))
		return false;
	v->stats.device_accesses++;
	gw_trace(mmio, (int)v->index, c->stats.insns, "r", (unsigned long long)gpa.v, len,
		 (unsigned long long)value_of(data, len), "device");
	return true;
}

static bool mmio_write(struct vcpu *c, struct gpa gpa, unsigned len, const uint8_t *data)
{
	struct vm_vcpu *v = vm_vcpu_of(c);
	uint8_t copy[8];
	const char *by;

	memcpy(copy, data, len < 8 ? len : 8);
	vm_pv_eoi_sync(v);
	if (v->vm->irqchip && dev_mmio(v->vm->irqchip, v->lapic, gpa, len, copy, true))
		by = "device";
	else if (vm_ioeventfd_write(v->vm, false, gpa.v, len, copy))
		by = "ioeventfd";
	else if (vm_zone_write(v->vm, false, gpa.v, len, copy))
		by = "coalesced";
	else
		return false;
	v->stats.device_accesses++;
	gw_trace(mmio, (int)v->index, c->stats.insns, "w", (unsigned long long)gpa.v, len,
		 (unsigned long long)value_of(data, len), by);
	return true;
}

static bool pio_read(struct vcpu *c, uint16_t port, unsigned len, uint8_t *data)
{
	struct vm_vcpu *v = vm_vcpu_of(c);

	if (!v->vm->irqchip || !dev_pio(v->vm->irqchip, port, len, data, false))
		return false;
	v->stats.device_accesses++;
	gw_trace(pio, (int)v->index, c->stats.insns, "r", port, len, (unsigned long long)value_of(data, len), "device");
	return true;
}

static bool pio_write(struct vcpu *c, uint16_t port, unsigned len, const uint8_t *data)
{
	struct vm_vcpu *v = vm_vcpu_of(c);
	uint8_t copy[8];
	const char *by;

	memcpy(copy, data, len < 8 ? len : 8);
	if (v->vm->irqchip && dev_pio(v->vm->irqchip, port, len, copy, true))
		by = "device";
	else if (vm_ioeventfd_write(v->vm, true, port, len, copy))
		by = "ioeventfd";
	else if (vm_zone_write(v->vm, true, port, len, copy))
		by = "coalesced";
	else
		return false;
	v->stats.device_accesses++;
	gw_trace(pio, (int)v->index, c->stats.insns, "w", port, len, (unsigned long long)value_of(data, len), by);
	return true;
}

/* ---- time, priority --------------------------------------------------------------------------------------------------- */

static uint64_t tsc(struct vcpu *c)
{
	return vm_tsc(vm_vcpu_of(c));
}

static void set_tsc(struct vcpu *c, uint64_t value)
{
	vm_tsc_guest_write(vm_vcpu_of(c), value);
}

uint64_t vm_get_cr8(struct vm_vcpu *v)
{
	return v->lapic ? dev_lapic_cr8(v->lapic) : v->cr8;
}

void vm_set_cr8(struct vm_vcpu *v, uint64_t value)
{
	if (v->lapic)
		dev_lapic_set_cr8(v->lapic, (uint8_t)value);
	else
		v->cr8 = value;
}

static uint8_t get_cr8(struct vcpu *c)
{
	return (uint8_t)vm_get_cr8(vm_vcpu_of(c));
}

static void set_cr8(struct vcpu *c, uint8_t value)
{
	struct vm_vcpu *v = vm_vcpu_of(c);

	/* The client keeps the interrupt priorities: lowering may let something of its own in. */
	if (!v->lapic && value < v->cr8) {
		v->is_tpr_exit_due = true;
		acc_attend(&c->acc, ACC_ATT_EXIT);
	}
	vm_set_cr8(v, value);
}

uint64_t vm_get_apic_base(struct vm_vcpu *v)
{
	return v->lapic ? dev_lapic_base(v->lapic) : v->apic_base;
}

/* By the client. Without a LAPIC the value is stored for it; then only the bits that never exist are refused. */
int vm_set_apic_base(struct vm_vcpu *v, uint64_t value)
{
	if (v->lapic)
		return dev_lapic_write_msr(v->lapic, 0x1b, true, value);
	if (value & 0x2ff || value >> v->c.acc.maxphyaddr)
		return -1;
	if ((value & (DEV_APIC_BASE_X2APIC | DEV_APIC_BASE_ENABLE)) == DEV_APIC_BASE_X2APIC)
		return -1;
	if (value & DEV_APIC_BASE_X2APIC && !vm_cpuid_has(&v->c, 1, 2, 21))
		return -1;
	v->apic_base = value;
	return 0;
}

/* ---- interrupts ------------------------------------------------------------------------------------------------------- */

/* Interrupts follow DMA: before the handler runs, decoded code must agree with what the device may have written. */
static void verify_after_dma(struct vm_vcpu *v)
{
	uint64_t now = atomic_load_explicit(&v->vm->touched, memory_order_acquire);

	if (now == v->touched)
		return;
	v->touched = now;
	cpu_memory_touched(&v->c);
}

/*
 * A thread of the client may have written guest memory without telling anybody: a guest that only polls must see it too. Not often: all
 * code that is in use is compared then.
 */
static void verify_now_and_then(struct vm_vcpu *v)
{
	uint64_t now = __rdtsc();

	if (now - v->verified_at <= (uint64_t)vm_host_tsc_khz() * VM_VERIFY_MS)
		return;
	v->verified_at = now;
	cpu_memory_touched(&v->c);
}

static bool window_wanted(const struct vm_vcpu *v)
{
	return __atomic_load_n(&v->run->request_interrupt_window, __ATOMIC_RELAXED) && (!v->vm->irqchip || v->vm->is_split);
}

static bool intr_pending(struct vcpu *c)
{
	struct vm_vcpu *v = vm_vcpu_of(c);

	verify_after_dma(v);
	if (c->dbg.control & KVM_GUESTDBG_ENABLE && c->dbg.control & KVM_GUESTDBG_BLOCKIRQ)
		return false;
	/* What came meanwhile may wait for an EOI that is only a cleared byte so far. */
	if (v->lapic && dev_lapic_pending(v->lapic) & DEV_PEND_PV_EOI)
		vm_pv_eoi_sync(v);
	if (v->lapic && dev_lapic_pending(v->lapic) & DEV_PEND_INTR)
		return true;
	if (v->user_vector >= 0 && dev_lapic_accepts_extint(v->lapic))
		return true;
	return window_wanted(v);
}

static int intr_ack(struct vcpu *c)
{
	struct vm_vcpu *v = vm_vcpu_of(c);
	int vector = -1;

	vm_pv_eoi_sync(v);
	if (v->user_vector >= 0 && dev_lapic_accepts_extint(v->lapic)) {
		vector = v->user_vector;
		v->user_vector = -1;
	} else if (v->lapic) {
		vector = dev_lapic_ack(v->lapic);
	}
	if (vector < 0) {
		/* Nothing of ours: the client wanted to know of this moment. */
		if (window_wanted(v) && (!v->lapic || dev_lapic_accepts_extint(v->lapic))) {
			v->is_window_exit_due = true;
			acc_attend(&c->acc, ACC_ATT_EXIT);
		}
		return -1;
	}
	vm_pv_eoi_arm(v);
	v->stats.irq_injections++;
	if (vm_stats_due(v))
		vm_stats_refresh(v->vm, v);
	gw_trace(inject, (int)v->index, c->stats.insns, (unsigned)vector, v->lapic ? "lapic" : "client");
	return vector;
}

static enum cpu_exit latched(struct vcpu *c)
{
	struct vm_vcpu *v = vm_vcpu_of(c);

	vm_vcpu_collect_events(v);
	if (vm_stats_due(v))
		vm_stats_refresh(v->vm, v);
	if (v->lapic && !c->ev.in_smm && dev_lapic_pending(v->lapic) & (DEV_PEND_INIT | DEV_PEND_SIPI))
		return CPU_EXIT_INIT;
	return CPU_RUNNING;
}

/* Called every few thousand instructions. */
static bool poll_client(struct vcpu *c)
{
	struct vm_vcpu *v = vm_vcpu_of(c);

	if (__atomic_load_n(&v->run->immediate_exit, __ATOMIC_RELAXED))
		return true;
	if (vm_steal_due(v, VM_STEAL_RUNNING_US))
		return true;
	verify_now_and_then(v);
	if (!vm_signal_look_due(v))
		return false;
	v->is_signal_found = vm_signal_pending(v);
	return v->is_signal_found;
}

const struct cpu_env vm_cpu_env = {
	.mmio_read = mmio_read,
	.mmio_write = mmio_write,
	.pio_read = pio_read,
	.pio_write = pio_write,
	.rdmsr = vm_env_rdmsr,
	.wrmsr = vm_env_wrmsr,
	.msr_first = vm_env_msr_first,
	.msr_refused = vm_env_msr_refused,
	.tsc = tsc,
	.set_tsc = set_tsc,
	.get_cr8 = get_cr8,
	.set_cr8 = set_cr8,
	.intr_pending = intr_pending,
	.intr_ack = intr_ack,
	.hypercall = vm_hypercall,
	.latched = latched,
	.cpuid_read = vm_cpuid_read,
	.debug = vm_debug_takes,
	.poll = poll_client,
};
