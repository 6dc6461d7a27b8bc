/* SPDX-License-Identifier: MIT */
/*
 * The VM object: what it is made of, in which order it comes and goes, and its death.
 *
 * A VM lives while anything refers to it. vCPUs are parts of it and go with it, never before. Everything that could call into
 * the VM from another thread (eventfd thread, timer thread) is stopped before anything it touches is freed.
 */
#include "vm/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/trace.h"
#include "cpu/host/signal.h"

static _Atomic unsigned fork_generation;

static void forked(void)
{
	atomic_fetch_add(&fork_generation, 1);
}

static void watch_forks(void)
{
	pthread_atfork(NULL, NULL, forked);
}

unsigned vm_fork_generation(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, watch_forks);
	return atomic_load(&fork_generation);
}

int vm_alive(const struct vm *vm)
{
	if (atomic_load_explicit(&vm->is_dead, memory_order_relaxed))
		return -EIO;
	/* The engine's threads did not come along into a forked child; as in the kernel, another mm may not use the VM. */
	return vm->fork_generation == vm_fork_generation() ? 0 : -EIO;
}

/*
 * The guards, in the order in which they judge. The private/shared and slot checks stand before them, in access/. Rooms add
 * themselves here and nowhere else; between two rows goes the reason for their order.
 */
static void list_guards(struct vm *vm)
{
	vm->guards.n = 0;
	vm->guards.any_walk = false;
	/* First: what may never happen is refused before a monitor is asked to wait for it; a watched page's denial it is told. */
	vm->guards.guard[vm->guards.n++] = (struct acc_guard){ .ops = &heki_guard_ops, .state = vm->heki };

	/* A monitor's answer may let an access through: after those whose word is final, before those who say whose page it is. */
	vm->guards.guard[vm->guards.n++] = (struct acc_guard){ .ops = &mon_guard_ops, .state = vm->monitor };

	vm->exts.ext[vm->exts.n].ops = &heki_ext_ops;
	vm->exts.ext[vm->exts.n++].state = vm->heki;
	vm->exts.ext[vm->exts.n].ops = &mon_ext_ops;
	vm->exts.ext[vm->exts.n++].state = vm->monitor;
}

static void init_fields(struct vm *vm)
{
	atomic_init(&vm->refs, 1);
	vm->fork_generation = vm_fork_generation();
	pthread_mutex_init(&vm->lock, NULL);
	pthread_mutex_init(&vm->io_lock, NULL);
	pthread_mutex_init(&vm->tsc_lock, NULL);
	pthread_mutex_init(&vm->resample_lock, NULL);
	pthread_rwlock_init(&vm->filter_lock, NULL);
	vm->ring_fd = vm->epoll_fd = vm->epoll_stop_fd = -1;
	vm->default_tsc_khz = vm_host_tsc_khz();
	vm->identity_addr = 0xfffbc000;
	vm->apic_bus_ns = 1;
	vm->clock.host_khz = vm_host_tsc_khz();
	vm_clock_set(vm, &(struct kvm_clock_data){ .clock = 0 });
}

int vm_create(unsigned long type, struct vm **out)
{
	struct vm *vm;
	int err;

	if (type > 63 || !(VM_TYPES >> type & 1))
		return -EINVAL;
	err = cpu_signals_install();
	if (err)
		return err;
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return -ENOMEM;
	init_fields(vm);
	err = vm_heki_new(vm);
	if (err)
		goto free_vm;
	err = vm_monitor_new(vm);
	if (err)
		goto free_heki;
	list_guards(vm);
	err = mem_code_map_new(&vm->code);
	if (err)
		goto free_monitor;
	err = acc_vm_new(&vm->guards, vm->code, &vm->acc);
	if (err)
		goto free_code;
	err = vm_heki_start(vm);
	if (!err)
		err = dev_timers_create(&vm->timers, NULL, NULL);
	if (err)
		goto free_acc;
	err = vm_private_init(vm, type);
	if (err)
		goto free_timers;
	gw_trace(vm_create, -1, 0, (void *)vm);
	*out = vm;
	return 0;
free_timers:
	dev_timers_destroy(vm->timers);
free_acc:
	acc_vm_free(vm->acc);
free_code:
	mem_code_map_free(vm->code);
free_monitor:
	mon_free(vm->monitor);
free_heki:
	heki_free(vm->heki);
free_vm:
	pthread_mutex_destroy(&vm->lock);
	pthread_mutex_destroy(&vm->io_lock);
	pthread_mutex_destroy(&vm->tsc_lock);
	pthread_mutex_destroy(&vm->resample_lock);
	pthread_rwlock_destroy(&vm->filter_lock);
	free(vm);
	return err;
}

struct vm *vm_get(struct vm *vm)
{
	atomic_fetch_add(&vm->refs, 1);
	return vm;
}

static void free_dirty_logs(struct vm *vm)
{
	for (unsigned space = 0; space < ACC_N_SPACES; space++) {
		const struct mem_map *map = acc_vm_space_map(vm->acc, space);

		for (unsigned i = 0; map && i < map->n; i++)
			mem_dirty_free(map->slot[i].dirty);
	}
}

static void destroy(struct vm *vm)
{
	unsigned n = atomic_load(&vm->n_vcpus);

	gw_trace(vm_destroy, -1, 0, (void *)vm);
	vm_eventfd_end(vm);
	dev_irqchip_destroy(vm->irqchip);
	dev_timers_destroy(vm->timers);
	for (unsigned i = 0; i < n; i++)
		vm_vcpu_free(atomic_load(&vm->vcpu[i]));
	free_dirty_logs(vm);
	vm_private_end(vm);
	acc_vm_free(vm->acc);
	mem_code_map_free(vm->code);
	mon_free(vm->monitor);
	heki_free(vm->heki);
	vm_stats_free(atomic_load(&vm->stats_file));
	free(vm->zones);
	vm_msr_filter_free(vm->msr_filter);
	if (vm->ring_fd >= 0)
		close(vm->ring_fd);
	pthread_mutex_destroy(&vm->lock);
	pthread_mutex_destroy(&vm->io_lock);
	pthread_mutex_destroy(&vm->tsc_lock);
	pthread_mutex_destroy(&vm->resample_lock);
	pthread_rwlock_destroy(&vm->filter_lock);
	free(vm);
}

void vm_put(struct vm *vm)
{
	if (atomic_fetch_sub(&vm->refs, 1) == 1)
		destroy(vm);
}

static void log_line(void *opaque, const char *text)
{
	(void)opaque;
	gw_log(GW_LOG_ERROR, "%s", text);
}

void vm_bug(struct vm *vm, const char *why)
{
	unsigned n = atomic_load(&vm->n_vcpus);

	if (atomic_exchange(&vm->is_dead, true))
		return;
	gw_log(GW_LOG_ERROR, "VM %p is dead: %s", (void *)vm, why);
	gw_trace(vm_bug, -1, 0, why);
	/* The rings of vCPUs that still run may show a torn record: that is better than none. */
	for (unsigned i = 0; i < n; i++)
		vm_dump_ring(atomic_load(&vm->vcpu[i]), log_line, NULL);
	vm_kick_all(vm, ACC_ATT_EXIT);
}

struct vm_vcpu *vm_vcpu_by_id(struct vm *vm, uint32_t id)
{
	unsigned n = atomic_load(&vm->n_vcpus);

	for (unsigned i = 0; i < n; i++) {
		struct vm_vcpu *v = atomic_load(&vm->vcpu[i]);

		if (v->id == id)
			return v;
	}
	return NULL;
}

void vm_kick_all(struct vm *vm, uint32_t bits)
{
	unsigned n = atomic_load(&vm->n_vcpus);

	for (unsigned i = 0; i < n; i++)
		vm_vcpu_kick(atomic_load(&vm->vcpu[i]), bits);
}
