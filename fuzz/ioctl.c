/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: sequences of ioctls on one VM with up to three vCPUs, arguments from the input, guest code too.
 *
 * Input: records of 4 bytes {ioctl, descriptor and how the pointer is bent, argument length, spare} and the argument's bytes
 * (the rest is zero). What would let the client hurt itself by its own order is put right first: host addresses of regions,
 * pointers inside arguments and descriptors are ours; a timer's signal ends every KVM_RUN. Nothing is expected of the results
 * but that nothing crashes, hangs, or stays behind.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include <guestward/guestward.h>
#include <guestward/kvm.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { P_NONE, P_NUM, P_IN, P_OUT, P_INOUT };

static const struct { unsigned long nr; unsigned arg; } ioctls[] = {
#define X(nr, s, v, c, arg) { nr, arg },
#include "../tests/ioctl/table.def"
#undef X
};
#define N_IOCTLS (sizeof(ioctls) / sizeof(ioctls[0]))

#define RAM	0x20000u
#define ARG	12288u
#define N_VCPUS	3

static struct {
	uint8_t *ram, *arg, *out;
	int event[2];
	int sys, vm, vcpu[N_VCPUS];
	struct kvm_run *run[N_VCPUS];
	unsigned n_vcpus;
} f;

static void on_alarm(int sig)
{
	(void)sig;
}

/* Closed pages on both sides: what is written outside is seen, and a pointer bent over the end is a bad one wherever the host maps it. */
static uint8_t *fenced(size_t size, int flags)
{
	uint8_t *p = mmap(NULL, size + 2 * 4096, PROT_NONE, flags | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || mprotect(p + 4096, size, PROT_READ | PROT_WRITE))
		abort();
	return p + 4096;
}

static void start(void)
{
	struct sigaction sa = { .sa_handler = on_alarm };
	struct itimerval every = { { 0, 2000 }, { 0, 2000 } };

	f.ram = fenced(RAM, MAP_SHARED);
	f.arg = fenced(ARG, MAP_PRIVATE);
	f.out = fenced(RAM, MAP_PRIVATE);
	f.event[0] = eventfd(0, EFD_NONBLOCK);
	f.event[1] = eventfd(0, EFD_NONBLOCK);
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
}

static void add_vcpu(unsigned long id)
{
	unsigned n = f.n_vcpus;
	long fd;
	int err;

	if (n == N_VCPUS)
		return;
	fd = gw_ioctl(f.vm, KVM_CREATE_VCPU, id);
	if (fd < 0)
		return;
	f.vcpu[n] = (int)fd;
	f.run[n] = gw_mmap(12288, PROT_READ | PROT_WRITE, MAP_SHARED, (int)fd, 0, &err);
	if (!f.run[n])
		abort();
	f.n_vcpus++;
}

/* Regions lie in our memory, whatever the input says. */
static void tame_region(void)
{
	struct kvm_userspace_memory_region *r = (void *)f.arg;

	r->memory_size %= RAM + 4096;
	r->userspace_addr = (uintptr_t)f.ram + (r->userspace_addr & (RAM - 1) & ~1ull);
	if (r->userspace_addr + r->memory_size > (uintptr_t)f.ram + RAM)
		r->userspace_addr = (uintptr_t)f.ram;
	if (r->memory_size > RAM)
		r->memory_size = RAM;
}

static void tame(unsigned long nr)
{
	switch (nr) {
	case KVM_SET_USER_MEMORY_REGION:
	case KVM_SET_USER_MEMORY_REGION2:
		tame_region();
		break;
	case KVM_IRQFD:
		((struct kvm_irqfd *)(void *)f.arg)->fd = (uint32_t)f.event[f.arg[0] & 1];
		((struct kvm_irqfd *)(void *)f.arg)->resamplefd = (uint32_t)f.event[0];
		break;
	case KVM_IOEVENTFD:
		((struct kvm_ioeventfd *)(void *)f.arg)->fd = f.event[f.arg[0] & 1];
		break;
	case KVM_GET_DIRTY_LOG:
		((struct kvm_dirty_log *)(void *)f.arg)->dirty_bitmap = f.out;
		break;
	case KVM_CLEAR_DIRTY_LOG:
		((struct kvm_clear_dirty_log *)(void *)f.arg)->dirty_bitmap = f.out;
		((struct kvm_clear_dirty_log *)(void *)f.arg)->num_pages %= 4096;
		break;
	case KVM_GET_DEVICE_ATTR:
	case KVM_SET_DEVICE_ATTR:
		((struct kvm_device_attr *)(void *)f.arg)->addr = (uintptr_t)f.out;
		break;
	case GW_DUMP:
		((struct gw_dump *)(void *)f.arg)->buf = (uintptr_t)f.out;
		((struct gw_dump *)(void *)f.arg)->size %= RAM;
		break;
	case GW_MAP:
		((struct gw_map *)(void *)f.arg)->buf = (uintptr_t)f.out;
		((struct gw_map *)(void *)f.arg)->size %= RAM;
		break;
	case KVM_SET_SIGNAL_MASK:
		/* The alarm must come through. */
		f.arg[4 + (SIGALRM - 1) / 8] &= (uint8_t)~(1u << (SIGALRM - 1) % 8);
		break;
	}
}

static unsigned long pointer(unsigned how)
{
	switch (how) {
	case 0: return 0x10;
	case 1: return (uintptr_t)f.arg + ARG - 5;
	default: return (uintptr_t)f.arg;
	}
}

static void one(const uint8_t *head, const uint8_t *data, size_t n)
{
	/* A quarter of the calls runs the guest. */
	bool is_run = head[0] >= 192;
	unsigned long nr = is_run ? KVM_RUN : ioctls[head[0] % N_IOCTLS].nr, arg;
	unsigned which = head[1] & 7;
	int fd = is_run && f.n_vcpus ? f.vcpu[which % f.n_vcpus] : which == 0 ? f.sys : which <= 2 ? f.vm : f.n_vcpus ? f.vcpu[which % f.n_vcpus] : f.vm;
	uint64_t number = 0;
	long ret;

	memset(f.arg, 0, ARG);
	memcpy(f.arg, data, n);
	memcpy(&number, data, n < 8 ? n : 8);
	if (nr == KVM_CREATE_VCPU) {
		add_vcpu(number & 7);
		return;
	}
	tame(nr);
	arg = nr == KVM_RUN ? 0 : ioctls[head[0] % N_IOCTLS].arg == P_NUM ? number : pointer(head[1] >> 3);
	ret = gw_ioctl(fd, nr, arg);
	if (nr == KVM_GET_STATS_FD && ret >= 0)
		close((int)ret);
	/* What comes back from a device is the input's too. */
	if (nr == KVM_RUN && f.n_vcpus && n)
		memcpy((uint8_t *)f.run[which % f.n_vcpus] + 32, data, n < 64 ? n : 64);
}

static void open_all(uint8_t how)
{
	struct kvm_userspace_memory_region region = { .memory_size = RAM, .userspace_addr = (uintptr_t)f.ram };
	struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { 24 } };

	f.sys = gw_open();
	f.vm = (int)gw_ioctl(f.sys, KVM_CREATE_VM, 0);
	if (f.sys < 0 || f.vm < 0)
		abort();
	f.n_vcpus = 0;
	if (how & 1)
		gw_ioctl(f.vm, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&region);
	if (how & 2)
		gw_ioctl(f.vm, KVM_CREATE_IRQCHIP, 0);
	if (how & 4)
		gw_ioctl(f.vm, KVM_ENABLE_CAP, (uintptr_t)&split);
	if (how & 0x18)
		add_vcpu(0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!f.ram)
		start();
	if (size < 1)
		return 0;
	memset(f.ram, 0, RAM);
	/* The input is also what the guest executes. */
	for (size_t at = 0; at < RAM; at += 0x1000)
		memcpy(f.ram + at, data, size < 0x1000 ? size : 0x1000);
	open_all(*data++);
	for (size--; size >= 4;) {
		/* Mostly short, so that many calls fit; some as long as the longest structures. */
		size_t n = data[3] < 0xfc ? data[2] & 0x3f : data[2] * 17u;

		n = n < size - 4 ? n : size - 4;
		one(data, data + 4, n);
		data += 4 + n;
		size -= 4 + n;
	}
	for (unsigned i = 0; i < f.n_vcpus; i++) {
		munmap(f.run[i], 12288);
		gw_close(f.vcpu[i]);
	}
	gw_close(f.vm);
	gw_close(f.sys);
	return 0;
}
