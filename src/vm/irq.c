/* SPDX-License-Identifier: MIT */
/* The in-kernel interrupt controllers' side that needs the VM: creation, and what they call out for. */
#include <errno.h>

#include "base/log.h"
#include "vm/vm.h"

/* The chip's lock is held: nothing here may block or call dev/. */
static void kick(void *opaque, unsigned index)
{
	struct vm *vm = opaque;
	struct vm_vcpu *v = index < VM_MAX_VCPUS ? atomic_load(&vm->vcpu[index]) : NULL;

	if (v)
		vm_vcpu_kick(v, ACC_ATT_EVENT);
}

static uint64_t read_tsc(void *opaque, unsigned index)
{
	struct vm *vm = opaque;
	struct vm_vcpu *v = index < VM_MAX_VCPUS ? atomic_load(&vm->vcpu[index]) : NULL;

	return v ? vm_tsc(v) : 0;
}

static void eoi_exit(void *opaque, unsigned index, uint8_t vector)
{
	struct vm *vm = opaque;
	struct vm_vcpu *v = index < VM_MAX_VCPUS ? atomic_load(&vm->vcpu[index]) : NULL;

	if (!v)
		return;
	atomic_store(&v->eoi_vector, vector);
	vm_vcpu_kick(v, ACC_ATT_EXIT);
}

static void eoi_ack(void *opaque, uint32_t gsi)
{
	vm_eoi_ack(opaque, gsi);
}

static const struct dev_irqchip_ops full_ops = { .kick = kick, .read_tsc = read_tsc, .eoi_ack = eoi_ack };
static const struct dev_irqchip_ops split_ops = { .kick = kick, .read_tsc = read_tsc, .eoi_exit = eoi_exit };

int vm_create_irqchip(struct vm *vm, bool split, uint64_t n_pins)
{
	int err;

	if (split && n_pins > DEV_MAX_GSI)
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	err = -EEXIST;
	if (vm->irqchip)
		goto unlock;
	err = split ? -EEXIST : -EINVAL;
	if (atomic_load(&vm->n_vcpus))
		goto unlock;
	err = dev_irqchip_create(&vm->irqchip, split ? DEV_IRQCHIP_SPLIT : DEV_IRQCHIP_FULL, (uint32_t)n_pins,
				 split ? &split_ops : &full_ops, vm, vm->timers);
	if (err)
		goto unlock;
	vm->is_split = split;
	dev_irqchip_disable_quirks(vm->irqchip, vm->disabled_quirks);
	dev_irqchip_set_x2apic_api(vm->irqchip, vm->x2apic_api);
	if (vm->apic_bus_ns != 1)
		dev_irqchip_set_bus_cycle_ns(vm->irqchip, vm->apic_bus_ns);
unlock:
	pthread_mutex_unlock(&vm->lock);
	return err;
}

int vm_set_boot_id(struct vm *vm, uint32_t id)
{
	int err = -EBUSY;

	pthread_mutex_lock(&vm->lock);
	if (!atomic_load(&vm->n_vcpus)) {
		vm->boot_id = id;
		err = 0;
	}
	pthread_mutex_unlock(&vm->lock);
	return err;
}
