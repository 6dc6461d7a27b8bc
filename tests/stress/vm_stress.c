/* SPDX-License-Identifier: MIT */
/*
 * VMs come and go on several threads, each with a vCPU that runs while others do random ioctls on it and its VM, and is kicked:
 * by a signal whose handler sets immediate_exit, the way every client does it. A kick that is not answered in PATIENCE seconds is
 * lost; descriptors and threads left at the end are leaks, memory is for the address sanitizer to say.
 * Usage: vm-stress VMS THREADS SEED [own]   own: the client's handlers go through gw_sigaction(). TAP on standard output.
 */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <guestward/guestward.h>
#include <guestward/kvm.h>

#define RAM		0x10000u
#define N_VCPUS		4u
#define PATIENCE	60
#define BURSTS		6u

enum { P_NONE, P_NUM, P_IN, P_OUT, P_INOUT };

static const struct entry { unsigned long nr; bool on[3]; unsigned arg; } entries[] = {
#define X(nr, s, v, c, arg) { nr, { s, v, c }, arg },
#include "../ioctl/table.def"
#undef X
};
#define N_ENTRIES (sizeof(entries) / sizeof(entries[0]))

struct vm {
	uint64_t seed;
	int sys, fd, vcpu[N_VCPUS], event;
	unsigned n_vcpus;
	struct kvm_run *run;		/* the first vCPU's */
	uint8_t *ram;
	pthread_t thread;
	atomic_uint wanted, answered;	/* pauses asked for, and reached */
	atomic_uint released;
	atomic_bool is_over;
};

static atomic_ulong n_vms, n_vcpus, n_ioctls, n_runs, n_kicks;
static atomic_long left;
static atomic_bool is_lost;
static unsigned long first_seed;
static _Thread_local struct kvm_run *volatile my_run __attribute__((tls_model("initial-exec")));

static void on_kick(int sig)
{
	if (my_run)
		__atomic_store_n(&my_run->immediate_exit, 1, __ATOMIC_SEQ_CST);
}

static uint32_t rnd(struct vm *v)
{
	v->seed ^= v->seed << 13;
	v->seed ^= v->seed >> 7;
	v->seed ^= v->seed << 17;
	return (uint32_t)(v->seed >> 16);
}

static long call(int fd, unsigned long nr, uintptr_t arg)
{
	atomic_fetch_add(&n_ioctls, 1);
	return gw_ioctl(fd, nr, arg);
}

/* ---- the vCPU that runs ---------------------------------------------------------------------------------------------------- */

static void *runner(void *arg)
{
	struct vm *v = arg;

	my_run = v->run;
	while (!atomic_load(&v->is_over)) {
		unsigned wanted = atomic_load(&v->wanted);
		long ret;

		if (wanted != atomic_load(&v->answered)) {
			atomic_store(&v->answered, wanted);
			while (atomic_load(&v->released) != wanted && !atomic_load(&v->is_over))
				usleep(50);
			__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
			continue;
		}
		atomic_fetch_add(&n_runs, 1);
		ret = gw_ioctl(v->vcpu[0], KVM_RUN, 0);
		if (ret < 0 && ret != -EINTR && ret != -EAGAIN)
			usleep(200);
	}
	my_run = NULL;
	return NULL;
}

static bool kick(struct vm *v)
{
	unsigned wanted = atomic_fetch_add(&v->wanted, 1) + 1;
	struct timespec start, now;

	atomic_fetch_add(&n_kicks, 1);
	clock_gettime(CLOCK_MONOTONIC, &start);
	pthread_kill(v->thread, SIGUSR1);
	while (atomic_load(&v->answered) != wanted) {
		usleep(50);
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec - start.tv_sec > PATIENCE) {
			atomic_store(&is_lost, true);
			return false;
		}
	}
	return true;
}

/* ---- random calls --------------------------------------------------------------------------------------------------------------- */

/*
 * Where an argument says where to write. A byte of 0x7c in the right place of it is an address: once in some thousand VMs text went
 * over the thread sanitizer's own memory, which then waited for a lock for ever.
 */
static const struct { unsigned long nr; size_t at; } pointers[] = {
	{ KVM_GET_DIRTY_LOG, offsetof(struct kvm_dirty_log, dirty_bitmap) },
	{ KVM_GET_DEVICE_ATTR, offsetof(struct kvm_device_attr, addr) },
	{ GW_DUMP, offsetof(struct gw_dump, buf) },
	{ GW_MAP, offsetof(struct gw_map, buf) },
};
#define ROOM	65536u	/* more than a dump of all */

static void put_pointer(struct vm *v, const struct entry *e, uint8_t *arg)
{
	static _Thread_local uint8_t room[ROOM];
	const uintptr_t to = rnd(v) % 2 ? (uintptr_t)room : 0;
	uint32_t size = rnd(v) % ROOM;

	for (size_t i = 0; i < sizeof(pointers) / sizeof(pointers[0]); i++) {
		if (pointers[i].nr != e->nr)
			continue;
		memcpy(arg + pointers[i].at, &to, sizeof(to));
		if (e->nr == GW_DUMP)
			((struct gw_dump *)(void *)arg)->size = size;
		if (e->nr == GW_MAP)
			((struct gw_map *)(void *)arg)->size = size;
	}
}

/* Mostly zero bytes, which most checks let pass; what would let the client hurt itself is put right. */
static void fill(struct vm *v, const struct entry *e, uint8_t *arg, size_t size)
{
	struct kvm_userspace_memory_region *region = (void *)arg;

	memset(arg, 0, size);
	for (unsigned n = rnd(v) % 4; n; n--)
		arg[rnd(v) % size] = (uint8_t)rnd(v);
	switch (e->nr) {
	case KVM_SET_USER_MEMORY_REGION:
	case KVM_SET_USER_MEMORY_REGION2:
		region->slot = rnd(v) % 4 | (rnd(v) % 4 == 0) << 16;
		region->flags = rnd(v) % 4;
		region->guest_phys_addr = rnd(v) % 3 * RAM;
		region->memory_size = rnd(v) % 3 * 0x8000;
		region->userspace_addr = (uintptr_t)v->ram;
		break;
	case KVM_IRQFD:
		((struct kvm_irqfd *)(void *)arg)->fd = ((struct kvm_irqfd *)(void *)arg)->resamplefd = (uint32_t)v->event;
		((struct kvm_irqfd *)(void *)arg)->gsi %= 24;
		break;
	case KVM_IOEVENTFD:
		((struct kvm_ioeventfd *)(void *)arg)->fd = v->event;
		break;
	}
	put_pointer(v, e, arg);
}

static void random_call(struct vm *v, unsigned kind, int fd)
{
	static _Thread_local uint8_t arg[65536];
	const struct entry *e = &entries[rnd(v) % N_ENTRIES];
	size_t size = _IOC_SIZE(e->nr);
	long ret;

	if (!e->on[kind] || e->nr == KVM_RUN || e->nr == KVM_CREATE_VM || e->nr == KVM_SET_SIGNAL_MASK)
		return;
	if (e->arg == P_NONE || e->arg == P_NUM) {
		ret = call(fd, e->nr, e->nr == KVM_CREATE_VCPU ? rnd(v) % 64 : rnd(v) % 2 ? 0 : rnd(v) % 70000);

		if (ret < 0)
			return;
		if (e->nr == KVM_CREATE_VCPU) {
			atomic_fetch_add(&n_vcpus, 1);
			if (v->n_vcpus < N_VCPUS)
				v->vcpu[v->n_vcpus++] = (int)ret;
			else
				gw_close((int)ret);
		} else if (e->nr == KVM_GET_STATS_FD) {
			close((int)ret);
		}
		return;
	}
	fill(v, e, arg, size ? size : 256);
	ret = call(fd, e->nr, (uintptr_t)arg);
	if (ret >= 0 && e->nr == KVM_CREATE_GUEST_MEMFD)
		gw_close((int)ret);
}

static void burst(struct vm *v)
{
	for (unsigned n = rnd(v) % 40; n; n--)
		random_call(v, 1, v->fd);
	for (unsigned n = rnd(v) % 20; n && v->n_vcpus > 1; n--)
		random_call(v, 2, v->vcpu[1 + rnd(v) % (v->n_vcpus - 1)]);
	random_call(v, 0, v->sys);
	/* Devices of the client work meanwhile. */
	if (write(v->event, &(uint64_t){ 1 }, 8) != 8)
		atomic_store(&is_lost, true);
	if (!kick(v))
		return;
	for (unsigned n = rnd(v) % 20; n; n--)
		random_call(v, 2, v->vcpu[0]);
	atomic_store(&v->released, atomic_load(&v->wanted));
}

/* ---- one VM ---------------------------------------------------------------------------------------------------------------------- */

static bool open_vm(struct vm *v)
{
	/* 1: incw 0x3000; out %al,$0x50; add %ax,(%si); add $2,%si; loop 1b; sti; hlt; jmp 1b */
	static const uint8_t code[] = { 0xff, 0x06, 0x00, 0x30, 0xe6, 0x50, 0x01, 0x04, 0x83, 0xc6, 0x02, 0xe2, 0xf3, 0xfb, 0xf4, 0xeb, 0xef };
	struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { 24 } },
			      ring = { .cap = KVM_CAP_DIRTY_LOG_RING_ACQ_REL, .args = { 16384 } };
	struct kvm_userspace_memory_region r = { .memory_size = RAM, .userspace_addr = (uintptr_t)v->ram,
		.flags = rnd(v) % 2 ? KVM_MEM_LOG_DIRTY_PAGES : 0 };
	struct kvm_regs regs = { .rip = 0x1000, .rsp = 0x8000, .rcx = rnd(v) % 1000, .rflags = 2 };
	struct kvm_sregs s;
	int err;

	memset(v->ram, 0, RAM);
	memcpy(v->ram + 0x1000, code, sizeof(code));
	v->sys = gw_open();
	v->fd = (int)call(v->sys, KVM_CREATE_VM, 0);
	v->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (v->sys < 0 || v->fd < 0 || v->event < 0)
		return false;
	if (rnd(v) % 3 == 0)
		call(v->fd, KVM_CREATE_IRQCHIP, 0);
	else if (rnd(v) % 2)
		call(v->fd, KVM_ENABLE_CAP, (uintptr_t)&split);
	if (rnd(v) % 4 == 0)
		call(v->fd, KVM_ENABLE_CAP, (uintptr_t)&ring);
	call(v->fd, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&r);
	v->vcpu[0] = (int)call(v->fd, KVM_CREATE_VCPU, 0);
	if (v->vcpu[0] < 0)
		return false;
	v->n_vcpus = 1;
	v->run = gw_mmap(12288, PROT_READ | PROT_WRITE, MAP_SHARED, v->vcpu[0], 0, &err);
	if (!v->run)
		return false;
	call(v->vcpu[0], KVM_GET_SREGS, (uintptr_t)&s);
	s.cs.base = s.cs.selector = 0;
	call(v->vcpu[0], KVM_SET_SREGS, (uintptr_t)&s);
	call(v->vcpu[0], KVM_SET_REGS, (uintptr_t)&regs);
	atomic_fetch_add(&n_vms, 1);
	atomic_fetch_add(&n_vcpus, 1);
	return true;
}

static void one_vm(struct vm *v)
{
	struct timespec until;

	if (!open_vm(v)) {
		atomic_store(&is_lost, true);
		return;
	}
	pthread_create(&v->thread, NULL, runner, v);
	for (unsigned i = rnd(v) % BURSTS; i && !atomic_load(&is_lost); i--)
		burst(v);
	atomic_store(&v->is_over, true);
	/* Half of them lose their descriptors while the vCPU may be running. */
	if (rnd(v) % 2) {
		gw_close(v->fd);
		v->fd = -1;
	}
	/* The last kick is answered by the end of the thread. */
	atomic_fetch_add(&n_kicks, 1);
	pthread_kill(v->thread, SIGUSR1);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PATIENCE;
	if (pthread_timedjoin_np(v->thread, NULL, &until)) {
		atomic_store(&is_lost, true);
		pthread_join(v->thread, NULL);
	}
	munmap(v->run, 12288);
	for (unsigned i = 0; i < v->n_vcpus; i++)
		gw_close(v->vcpu[i]);
	if (v->fd >= 0)
		gw_close(v->fd);
	gw_close(v->sys);
	close(v->event);
}

static void *worker(void *arg)
{
	uint8_t *ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long n;

	while ((n = atomic_fetch_sub(&left, 1)) > 0 && !atomic_load(&is_lost)) {
		struct vm v = { .seed = (first_seed * 1000003 + (unsigned long)n) * 0x9e3779b97f4a7c15ull | 1, .ram = ram };

		one_vm(&v);
	}
	munmap(ram, RAM);
	return NULL;
}

static void *nothing(void *arg)
{
	return arg;
}

static unsigned count_in(const char *path)
{
	DIR *d = opendir(path);
	unsigned n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n;
}

int main(int argc, char **argv)
{
	unsigned threads = argc > 2 ? (unsigned)atoi(argv[2]) : 4, before, before_threads, after_fds, after_threads;
	struct sigaction sa = { .sa_handler = on_kick };
	pthread_t t[64];

	left = argc > 1 ? atol(argv[1]) : 100;
	first_seed = argc > 3 ? strtoul(argv[3], NULL, 0) : 1;
	threads = threads > 64 ? 64 : threads;
	if (argc > 4)
		gw_own_signals(1);
	gw_sigaction(SIGUSR1, &sa, NULL);
	before = count_in("/proc/self/fd");
	/* A sanitizer may have a thread of its own, from the first one of ours on. */
	pthread_create(&t[0], NULL, nothing, NULL);
	pthread_join(t[0], NULL);
	usleep(50000);
	before_threads = count_in("/proc/self/task");
	for (unsigned i = 0; i < threads; i++)
		pthread_create(&t[i], NULL, worker, NULL);
	for (unsigned i = 0; i < threads; i++)
		pthread_join(t[i], NULL);
	after_fds = count_in("/proc/self/fd");
	/* A thread that was joined may stay in /proc for a moment. */
	for (unsigned i = 0; i < 100 && count_in("/proc/self/task") > before_threads; i++)
		usleep(10000);
	after_threads = count_in("/proc/self/task");
	printf("1..3\n# seed %lu: %lu VMs, %lu vCPUs, %lu ioctls, %lu KVM_RUNs, %lu kicks\n", first_seed, n_vms, n_vcpus, n_ioctls, n_runs, n_kicks);
	printf("%sok 1 - no kick is lost\n", is_lost ? "not " : "");
	printf("%sok 2 - no descriptor is left\n# %u before, %u after\n", after_fds == before ? "" : "not ", before, after_fds);
	printf("%sok 3 - no thread is left\n# %u\n", after_threads == before_threads ? "" : "not ", after_threads);
	return is_lost || after_fds != before || after_threads != before_threads;
}
