/* SPDX-License-Identifier: MIT */
/*
 * Coalesced MMIO and port writes: zones whose writes go to a ring that the client drains later, without an exit.
 *
 * The ring page is the client's to write too: first and last are read once and believed only within bounds.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vm/vm.h"

int vm_zone_register(struct vm *vm, const struct kvm_coalesced_mmio_zone *z)
{
	unsigned n;
	int err = 0;

	if (z->pio > 1)
		return -EINVAL;
	pthread_mutex_lock(&vm->io_lock);
	n = atomic_load(&vm->n_zones);
	if (n == VM_MAX_BUS_ZONES) {
		err = -ENOSPC;
		goto unlock;
	}
	if (n == vm->zones_size) {
		unsigned size = n ? n * 2 : 8;
		struct vm_zone *zones = realloc(vm->zones, size * sizeof(*zones));

		if (!zones) {
			err = -ENOMEM;
			goto unlock;
		}
		vm->zones = zones;
		vm->zones_size = size;
	}
	vm->zones[n] = (struct vm_zone){ .addr = z->addr, .size = z->size, .pio = z->pio };
	atomic_store(&vm->n_zones, n + 1);
unlock:
	pthread_mutex_unlock(&vm->io_lock);
	return err;
}

static bool contains(const struct vm_zone *z, bool pio, uint64_t addr, uint64_t len)
{
	return z->pio == pio && addr >= z->addr && addr + len >= addr && addr + len <= z->addr + z->size;
}

int vm_zone_unregister(struct vm *vm, const struct kvm_coalesced_mmio_zone *z)
{
	unsigned kept = 0;

	if (z->pio > 1)
		return -EINVAL;
	pthread_mutex_lock(&vm->io_lock);
	for (unsigned i = 0; i < atomic_load(&vm->n_zones); i++)
		if (!contains(&vm->zones[i], z->pio, z->addr, z->size))
			vm->zones[kept++] = vm->zones[i];
	atomic_store(&vm->n_zones, kept);
	pthread_mutex_unlock(&vm->io_lock);
	return 0;
}

/* With io_lock held. */
static bool append(struct vm *vm, bool pio, uint64_t addr, unsigned len, const void *data)
{
	struct kvm_coalesced_mmio_ring *ring = vm->ring;
	uint32_t last, first;
	struct kvm_coalesced_mmio entry = { .phys_addr = addr, .len = len, .pio = pio };

	if (!ring)
		return false;
	last = __atomic_load_n(&ring->last, __ATOMIC_RELAXED);
	first = __atomic_load_n(&ring->first, __ATOMIC_ACQUIRE);
	if (last >= VM_COALESCED_MAX || (last + 1) % VM_COALESCED_MAX == first)
		return false;
	memcpy(entry.data, data, len);
	memcpy(&ring->coalesced_mmio[last], &entry, sizeof(entry));
	__atomic_store_n(&ring->last, (last + 1) % VM_COALESCED_MAX, __ATOMIC_RELEASE);
	return true;
}

bool vm_zone_write(struct vm *vm, bool pio, uint64_t addr, unsigned len, const void *data)
{
	bool taken = false;

	if (likely(!atomic_load_explicit(&vm->n_zones, memory_order_relaxed)) || len > 8)
		return false;
	pthread_mutex_lock(&vm->io_lock);
	for (unsigned i = 0; i < atomic_load(&vm->n_zones) && !taken; i++)
		if (contains(&vm->zones[i], pio, addr, len))
			taken = append(vm, pio, addr, len, data);
	pthread_mutex_unlock(&vm->io_lock);
	return taken;
}
