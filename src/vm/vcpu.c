/* SPDX-License-Identifier: MIT */
/*
 * A vCPU: creation with the pages it shares with the client, sleeping and being woken, INIT and SIPI.
 *
 * The sleep has no window: a sleeper sets is_blocked, then looks for work, then polls; a kicker publishes the work, then looks
 * at is_blocked (both sequentially consistent). The descriptors are made at the first sleep: VMs of a thousand vCPUs that never
 * run need none.
 */
#include "vm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <unistd.h>
#include <x86intrin.h>

#include "base/log.h"
#include "base/trace.h"

/* ---- creation -------------------------------------------------------------------------------------------------------- */

/* kvm_run, the port page and the ring: a file of three pages whose size nobody can change under us. */
static int map_run(struct vm_vcpu *v, int *out)
{
	int err, fd = memfd_create("kvm-vcpu", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	void *p;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)vm_dirty_ring_file_size(v->vm)) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		goto fail;
	p = mmap(NULL, VM_RUN_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		goto fail;
	err = vm_dirty_ring_map(v, fd);
	if (err) {
		munmap(p, VM_RUN_SIZE);
		close(fd);
		return err;
	}
	v->run = p;
	v->ring = (struct kvm_coalesced_mmio_ring *)(void *)((uint8_t *)p + VM_RING_OFFSET);
	*out = fd;
	return 0;
fail:
	err = -errno;
	close(fd);
	return err;
}

static void init_fields(struct vm_vcpu *v, struct vm *vm, unsigned id, unsigned index)
{
	v->vm = vm;
	v->id = id;
	v->index = index;
	v->is_bsp = id == vm->boot_id;
	v->wake_fd = v->signal_fd = v->sched_fd = v->wait_fd = v->watched[0] = v->watched[1] = -1;
	v->user_vector = -1;
	atomic_init(&v->eoi_vector, -1);
	v->apic_base = DEV_APIC_DEFAULT_BASE | DEV_APIC_BASE_ENABLE | (v->is_bsp ? DEV_APIC_BASE_BSP : 0);
	v->mp_state = !vm->irqchip || v->is_bsp ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_UNINITIALIZED;
	v->tsc_khz = vm->default_tsc_khz;
	v->poll_msr = 1;
	pthread_mutex_init(&v->lock, NULL);
	pthread_mutex_init(&v->service_lock, NULL);
	pthread_mutex_init(&v->dirty_lock, NULL);
	pthread_cond_init(&v->service_done, NULL);
}

static void fini_fields(struct vm_vcpu *v)
{
	pthread_mutex_destroy(&v->lock);
	pthread_mutex_destroy(&v->service_lock);
	pthread_mutex_destroy(&v->dirty_lock);
	pthread_cond_destroy(&v->service_done);
}

static int build(struct vm *vm, unsigned id, struct vm_vcpu **out, int *fd)
{
	unsigned index = atomic_load(&vm->n_vcpus);
	struct vm_vcpu *v = aligned_alloc(64, (sizeof(*v) + 63) & ~(size_t)63);
	int err;

	if (!v)
		return -ENOMEM;
	memset(v, 0, sizeof(*v));
	init_fields(v, vm, id, index);
	err = map_run(v, fd);
	if (err)
		goto free_v;
	err = cpu_init(&v->c, vm->acc, &vm_cpu_env, v, index);
	if (err)
		goto unmap;
	v->c.exts = &vm->exts;
	err = mon_vcpu_add(vm->monitor, index);
	if (err)
		goto fini_cpu_early;
	if (vm->irqchip) {
		/* Visible to the chip's calls before the chip knows the LAPIC; nobody else looks beyond n_vcpus. */
		atomic_store(&vm->vcpu[index], v);
		err = dev_lapic_create(&v->lapic, vm->irqchip, index, id, v->is_bsp);
		if (err)
			goto fini_cpu;
		dev_lapic_set_tsc_khz(v->lapic, v->tsc_khz);
	}
	if (!vm->ring) {
		vm->ring_fd = fcntl(*fd, F_DUPFD_CLOEXEC, 0);
		if (vm->ring_fd < 0) {
			err = -errno;
			goto fini_lapic;
		}
		vm->ring = v->ring;
	}
	*out = v;
	return 0;
fini_lapic:
	dev_lapic_destroy(v->lapic);
fini_cpu:
	atomic_store(&vm->vcpu[index], NULL);
fini_cpu_early:
	cpu_fini(&v->c);
unmap:
	vm_dirty_ring_unmap(v);
	munmap(v->run, VM_RUN_SIZE);
	close(*fd);
free_v:
	fini_fields(v);
	free(v);
	return err;
}

int vm_vcpu_create(struct vm *vm, unsigned long id, struct vm_vcpu **out, int *fd)
{
	struct vm_vcpu *v = NULL;
	int err = -EINVAL;

	pthread_mutex_lock(&vm->lock);
	if (id >= (vm->max_vcpu_id ? vm->max_vcpu_id : VM_MAX_VCPU_ID) || atomic_load(&vm->n_vcpus) == VM_MAX_VCPUS)
		goto unlock;
	err = -EEXIST;
	if (vm_vcpu_by_id(vm, (uint32_t)id))
		goto unlock;
	/* The timer thread must not be cloned from KVM_RUN: clients install seccomp filters before that. */
	err = dev_timers_start(vm->timers);
	if (err)
		goto unlock;
	err = build(vm, (unsigned)id, &v, fd);
	if (err)
		goto unlock;
	vm_cpuid_default_features(v);
	vm_msr_init(v);
	vm_tsc_init(v);
	atomic_store(&vm->vcpu[v->index], v);
	atomic_store(&vm->n_vcpus, v->index + 1);
	gw_trace(vcpu_create, (int)v->index, 0, v->id, v->index);
	*out = v;
unlock:
	pthread_mutex_unlock(&vm->lock);
	return err;
}

void vm_vcpu_free(struct vm_vcpu *v)
{
	cpu_fini(&v->c);
	vm_dirty_ring_unmap(v);
	munmap(v->run, VM_RUN_SIZE);
	vm_stats_free(atomic_load(&v->stats_file));
	vm_steal_end(v);
	if (v->wake_fd >= 0)
		close(v->wake_fd);
	if (v->signal_fd >= 0)
		close(v->signal_fd);
	if (v->wait_fd >= 0)
		close(v->wait_fd);
	fini_fields(v);
	free(v);
}

/* ---- waking ---------------------------------------------------------------------------------------------------------- */

void vm_vcpu_kick(struct vm_vcpu *v, uint32_t bits)
{
	const uint64_t one = 1;

	acc_attend(&v->c.acc, bits);
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load(&v->is_blocked) && write(v->wake_fd, &one, sizeof(one)) < 0)
		gw_log(GW_LOG_WARN, "vCPU %u could not be woken: %s", v->id, strerror(errno));
	__atomic_fetch_add(&v->stats.host_kicks, 1, __ATOMIC_RELAXED);
}

void vm_vcpu_request(struct vm_vcpu *v, uint32_t requests)
{
	atomic_fetch_or(&v->requests, requests);
	vm_vcpu_kick(v, ACC_ATT_EXIT);
}

void vm_vcpu_service(struct vm_vcpu *v, void (*fn)(struct vcpu *c, void *arg), void *arg)
{
	struct vm_service s = { .fn = fn, .arg = arg };
	struct timespec until;

	pthread_mutex_lock(&v->service_lock);
	while (!s.done) {
		if (!pthread_mutex_trylock(&v->lock)) {
			fn(&v->c, arg);
			pthread_mutex_unlock(&v->lock);
			break;
		}
		if (!v->service) {
			v->service = &s;
			vm_vcpu_request(v, VM_REQ_SERVICE);
		}
		/* It may leave KVM_RUN without having seen the request: then we try the lock again. */
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 5000000;
		if (until.tv_nsec >= 1000000000) {
			until.tv_sec++;
			until.tv_nsec -= 1000000000;
		}
		pthread_cond_timedwait(&v->service_done, &v->service_lock, &until);
	}
	if (v->service == &s)
		v->service = NULL;
	pthread_mutex_unlock(&v->service_lock);
}

/* ---- sleeping -------------------------------------------------------------------------------------------------------- */

static int make_wake_fds(struct vm_vcpu *v)
{
	uint64_t bits;		/* the kernel's 64 signals are all that there are */
	sigset_t wanted;
	int fd;

	vm_signal_block(v);
	/* At each sleep, so by the word. 32 and 33 are libc's own. */
	memcpy(&bits, vm_signal_blocked(v), sizeof(bits));
	bits = ~bits & ~(3ull << 31);
	sigemptyset(&wanted);
	memcpy(&wanted, &bits, sizeof(bits));
	if (v->wake_fd < 0) {
		v->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (v->wake_fd < 0)
			return -errno;
	}
	if (v->signal_fd >= 0 && !memcmp(&wanted, &v->signal_fd_mask, sizeof(wanted)))
		return 0;
	fd = signalfd(v->signal_fd, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	v->signal_fd = fd;
	v->signal_fd_mask = wanted;
	return 0;
}

bool vm_vcpu_has_events(struct vm_vcpu *v)
{
	const struct vcpu *c = &v->c;
	uint32_t pend = v->lapic ? dev_lapic_pending(v->lapic) : 0;

	if (atomic_load(&v->requests) & VM_REQ_SERVICE || atomic_load(&v->eoi_vector) >= 0)
		return true;
	/* In SMM an INIT waits for RSM, and a SIPI is lost. */
	if (pend & (DEV_PEND_INIT | DEV_PEND_SIPI) && !c->ev.in_smm)
		return true;
	if (v->mp_state == KVM_MP_STATE_UNINITIALIZED || v->mp_state == KVM_MP_STATE_INIT_RECEIVED)
		return false;
	if (pend & DEV_PEND_UNHALT || atomic_load(&v->is_unhalted))
		return true;
	if (c->ev.exception.pending || c->ev.interrupt.injected || c->ev.nmi.injected || c->ev.triple_fault)
		return true;
	if ((pend & DEV_PEND_SMI || atomic_load(&v->is_smi) || c->ev.smi_pending) && !c->ev.in_smm)
		return true;
	if ((pend & DEV_PEND_NMI || atomic_load(&v->n_nmi) || c->ev.nmi.pending) && !c->ev.nmi.masked)
		return true;
	if (!(c->eflags & FLAG_IF))
		return false;
	return pend & DEV_PEND_INTR || (v->user_vector >= 0 && dev_lapic_accepts_extint(v->lapic));
}

int vm_vcpu_block(struct vm_vcpu *v)
{
	struct pollfd p[2];
	uint64_t count, began;
	int err = make_wake_fds(v);

	if (err) {
		gw_log(GW_LOG_ERROR, "vCPU %u cannot sleep: %s", v->id, strerror(-err));
		return err;
	}
	v->stats.blocks++;
	began = __rdtsc();
	p[0] = (struct pollfd){ .fd = v->wake_fd, .events = POLLIN };
	p[1] = (struct pollfd){ .fd = v->signal_fd, .events = POLLIN };
	err = 0;
	for (;;) {
		atomic_store(&v->is_blocked, true);
		atomic_thread_fence(memory_order_seq_cst);
		if (vm_vcpu_has_events(v) || vm_alive(v->vm))
			break;
		if (atomic_load(&v->is_cancelled)) {
			err = -EINTR;
			break;
		}
		vm_stats_refresh(v->vm, v);
		if (poll(p, 2, -1) < 0 && errno != EINTR) {
			err = -errno;
			break;
		}
		if (p[1].revents & POLLIN) {
			err = -EINTR;
			break;
		}
		if (p[0].revents & POLLIN && read(v->wake_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
			gw_log(GW_LOG_WARN, "vCPU %u: %s", v->id, strerror(errno));
	}
	atomic_store(&v->is_blocked, false);
	v->stats.halt_wait_ns += (__rdtsc() - began) * 1000 / vm_host_tsc_khz() * 1000;
	vm_stats_refresh(v->vm, v);
	v->looked_at = 0;
	return err;
}

static int watch(struct vm_vcpu *v, int fd, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.fd = fd };

	return epoll_ctl(v->wait_fd, EPOLL_CTL_ADD, fd, &e) && errno != EEXIST ? -errno : 0;
}

/* One system call a sleep: what is added to an eventfd is seen by its edge, so that nothing must be read. A signal stays pending. */
static int make_wait_fd(struct vm_vcpu *v, int fd)
{
	int err = make_wake_fds(v);

	if (err)
		return err;
	if (v->wait_fd < 0) {
		v->wait_fd = epoll_create1(EPOLL_CLOEXEC);
		if (v->wait_fd < 0)
			return -errno;
		err = watch(v, v->wake_fd, EPOLLIN | EPOLLET);
		if (!err)
			err = watch(v, v->signal_fd, EPOLLIN);
	}
	if (err || fd < 0 || v->watched[0] == fd || v->watched[1] == fd)
		return err;
	err = watch(v, fd, EPOLLIN | EPOLLET);
	if (!err)
		v->watched[v->watched[0] >= 0] = fd;
	return err;
}

bool vm_vcpu_wait(struct vm_vcpu *v, int fd, int tick_ms, bool (*ready)(void *arg), void *arg)
{
	struct epoll_event e[3];
	bool ok = false;
	int n, err = make_wait_fd(v, fd);

	if (err) {
		gw_log(GW_LOG_ERROR, "vCPU %u cannot wait: %s", v->id, strerror(-err));
		return false;
	}
	for (;;) {
		atomic_store(&v->is_blocked, true);
		atomic_thread_fence(memory_order_seq_cst);
		ok = ready(arg);
		if (ok || atomic_load(&v->c.acc.attention) & ACC_ATT_EXIT || vm_alive(v->vm))
			break;
		n = epoll_wait(v->wait_fd, e, 3, tick_ms);
		if (n < 0 && errno != EINTR)
			break;
		for (int i = 0; i < n; i++)
			v->is_signal_found |= e[i].data.fd == v->signal_fd;
		if (v->is_signal_found)
			break;
	}
	atomic_store(&v->is_blocked, false);
	return ok;
}

/* ---- INIT, SIPI, NMI -------------------------------------------------------------------------------------------------- */

static void take_init(struct vm_vcpu *v)
{
	gw_trace(vcpu_reset, (int)v->index, v->c.stats.insns, 1);
	cpu_reset(&v->c, true);
	dev_lapic_init(v->lapic);
	v->pv_eoi_msr = v->apf_msr = v->apf_int_msr = 0;	/* as KVM, also with INIT */
	v->is_apf_due = false;
	v->pending = VM_PENDING_NONE;
	v->mp_state = v->is_bsp ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_INIT_RECEIVED;
}

static void take_sipi(struct vm_vcpu *v, uint8_t vector)
{
	struct cpu_seg *cs = &v->c.seg[SEG_CS];

	gw_trace(vcpu_sipi, (int)v->index, v->c.stats.insns, vector);
	cs->sel = (uint16_t)(vector << 8);
	cs->base = (uint64_t)vector << 12;
	v->c.rip = 0;
	cpu_state_changed(&v->c);
	v->sipi_vector = vector;
	v->mp_state = KVM_MP_STATE_RUNNABLE;
}

bool vm_vcpu_accept_events(struct vm_vcpu *v)
{
	struct dev_lapic_events ev;
	bool changed = false;

	if (!v->lapic || !(dev_lapic_pending(v->lapic) & (DEV_PEND_INIT | DEV_PEND_SIPI)))
		return false;
	if (v->c.ev.in_smm) {
		dev_lapic_take_events(v->lapic, DEV_PEND_SIPI, &ev);
		return false;
	}
	/* One at a time: between INIT and SIPI the reset may have dropped the SIPI. */
	dev_lapic_take_events(v->lapic, DEV_PEND_INIT, &ev);
	if (ev.is_init) {
		take_init(v);
		changed = true;
	}
	dev_lapic_take_events(v->lapic, DEV_PEND_SIPI, &ev);
	if (ev.is_sipi && v->mp_state == KVM_MP_STATE_INIT_RECEIVED) {
		take_sipi(v, ev.sipi_vector);
		changed = true;
	}
	return changed;
}

static void collect_smis(struct vm_vcpu *v)
{
	struct dev_lapic_events ev;

	if (atomic_exchange(&v->is_smi, false))
		v->c.ev.smi_pending = true;
	if (!v->lapic || !(dev_lapic_pending(v->lapic) & DEV_PEND_SMI))
		return;
	dev_lapic_take_events(v->lapic, DEV_PEND_SMI, &ev);
	v->c.ev.smi_pending |= ev.is_smi;
}

void vm_vcpu_collect_events(struct vm_vcpu *v)
{
	struct dev_lapic_events ev = { 0 };
	unsigned limit, n;

	collect_smis(v);
	n = atomic_exchange(&v->n_nmi, 0);
	if (v->lapic && dev_lapic_pending(v->lapic) & DEV_PEND_NMI) {
		dev_lapic_take_events(v->lapic, DEV_PEND_NMI, &ev);
		n += ev.n_nmi;
	}
	if (!n)
		return;
	/* While one is being handled only one more waits, as in hardware. */
	limit = v->c.ev.nmi.masked || v->c.ev.nmi.injected ? 1 : 2;
	n += v->c.ev.nmi.pending;
	v->c.ev.nmi.pending = (uint8_t)(n < limit ? n : limit);
	v->stats.nmi_injections++;
	gw_trace(nmi, (int)v->index, v->c.stats.insns, v->c.ev.nmi.pending);
}
