/* SPDX-License-Identifier: MIT */
/*
 * Private memory in numbers: conversions a second (4 KiB and 2 MiB, both ways, with and without a punch of the other side),
 * pages faulted in a second, how long an invalidation takes with four vCPUs running, resident memory of a fully touched file,
 * and bookkeeping. One line a number, "name value unit".
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <guestward/guestward.h>
#include <guestward/kvm.h>

#define PAGE	4096ull
#define AT	0x40000000ull
#define SIZE	(256ull << 20)
#define VCPUS	4u
#define PUNCH	(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)

static int vm, gmem, vcpu[VCPUS];
static struct kvm_run *run[VCPUS];
static uint8_t *shared, *ram;
static atomic_bool stop;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static long ask(int fd, unsigned long nr, const void *arg)
{
	long ret = gw_ioctl(fd, nr, (uintptr_t)arg);

	if (ret < 0) {
		fprintf(stderr, "private: ioctl %lx: %ld\n", nr, ret);
		exit(1);
	}
	return ret;
}

static void convert(uint64_t at, uint64_t size, bool is_private)
{
	struct kvm_memory_attributes a = { .address = at, .size = size, .attributes = is_private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0 };

	ask(vm, KVM_SET_MEMORY_ATTRIBUTES, &a);
}

/* What a conversion takes away is there before it, where it is to be punched. Not timed. */
static void populate(uint64_t at, uint64_t size, bool is_private)
{
	struct kvm_pre_fault_memory p = { .gpa = AT + at, .size = size };

	if (is_private)
		ask(vcpu[0], KVM_PRE_FAULT_MEMORY, &p);
	else
		memset(shared + at, 1, size);
}

/* 64 pieces, far from each other, to private and back; each direction for itself. */
static void conversions(uint64_t size, bool with_punch)
{
	double took[2] = { 0 }, end = now() + 2;
	unsigned long n = 0;

	for (; now() < end; n += 64)
		for (unsigned is_private = 2; is_private--;) {
			double start;

			for (unsigned i = 0; with_punch && i < 64; i++)
				populate((i * 7919ull * size) % (SIZE - size) & ~(size - 1), size, !is_private);
			start = now();
			for (unsigned i = 0; i < 64; i++) {
				uint64_t at = (i * 7919ull * size) % (SIZE - size) & ~(size - 1);

				convert(AT + at, size, is_private);
				if (with_punch && is_private)
					madvise(shared + at, size, MADV_DONTNEED);
				else if (with_punch)
					gw_fallocate(gmem, PUNCH, (int64_t)at, (int64_t)size);
			}
			took[is_private] += now() - start;
		}
	for (unsigned is_private = 2; is_private--;)
		printf("conversions_%s_to_%s%s %.0f /s\n", size == PAGE ? "4k" : "2m", is_private ? "private" : "shared",
		       with_punch ? "_punch" : "", (double)n / took[is_private]);
}

static unsigned long resident_kib(void)
{
	unsigned long size, pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (!f || fscanf(f, "%lu %lu", &size, &pages) != 2)
		exit(1);
	fclose(f);
	return pages * 4;
}

static void fault_in(void)
{
	struct kvm_pre_fault_memory p = { .gpa = AT, .size = SIZE };
	unsigned long before = resident_kib(), grown;
	double start, took;

	convert(AT, SIZE, true);
	start = now();
	ask(vcpu[0], KVM_PRE_FAULT_MEMORY, &p);
	took = now() - start;
	grown = resident_kib() - before;
	printf("faulted_in %.0f pages/s\n", (double)(SIZE / PAGE) / took);
	printf("resident %lu KiB of %llu KiB (%+.4f %%)\n", grown, SIZE >> 10, 100.0 * ((double)grown / (double)(SIZE >> 10) - 1));
}

static void *run_vcpu(void *arg)
{
	unsigned v = (unsigned)(uintptr_t)arg;

	while (!atomic_load(&stop))
		gw_ioctl(vcpu[v], KVM_RUN, 0);
	return NULL;
}

static void kick(int sig)
{
	(void)sig;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void latency(unsigned n_running)
{
	enum { N = 500 };
	static double took[N];
	struct sigaction sa = { .sa_handler = kick };
	pthread_t thread[VCPUS];

	sigaction(SIGUSR1, &sa, NULL);
	atomic_store(&stop, false);
	for (unsigned v = 0; v < n_running; v++)
		pthread_create(&thread[v], NULL, run_vcpu, (void *)(uintptr_t)v);
	/* They all run by then, as far as there are processors. */
	nanosleep(&(struct timespec){ .tv_nsec = 300000000 }, NULL);
	for (unsigned i = 0; i < N; i++) {
		double start = now();

		convert(AT, PAGE, i & 1);
		took[i] = now() - start;
	}
	atomic_store(&stop, true);
	for (unsigned v = 0; v < n_running; v++) {
		__atomic_store_n(&run[v]->immediate_exit, 1, __ATOMIC_SEQ_CST);
		pthread_kill(thread[v], SIGUSR1);
		pthread_join(thread[v], NULL);
		__atomic_store_n(&run[v]->immediate_exit, 0, __ATOMIC_SEQ_CST);
	}
	qsort(took, N, sizeof(took[0]), compare);
	printf("invalidation_%u_vcpus_median %.1f us\n", n_running, took[N / 2] * 1e6);
	printf("invalidation_%u_vcpus_p99 %.1f us\n", n_running, took[N * 99 / 100] * 1e6);
}

static void bookkeeping(void)
{
	static char text[1 << 16];
	struct gw_map m = { .size = sizeof(text), .buf = (uintptr_t)text };
	const char *at;

	convert(0, 1ull << 40, true);
	ask(vm, GW_MAP, &m);
	at = strstr(text, "bookkeeping=");
	printf("bookkeeping_1tib_uniform %s bytes\n", at ? strtok(strdup(at + 12), "\n") : "?");
	convert(0, 1ull << 40, false);
}

int main(void)
{
	struct kvm_create_guest_memfd c = { .size = SIZE };
	struct kvm_userspace_memory_region plain = { .memory_size = 0x10000 };
	struct kvm_userspace_memory_region2 r = { .slot = 1, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = AT, .memory_size = SIZE };
	int sys = gw_open(), err;

	vm = (int)gw_ioctl(sys, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
	ram = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	shared = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (vm < 0 || ram == MAP_FAILED || shared == MAP_FAILED)
		return 1;
	memcpy(ram + 0x1000, "\xa1\x00\x20\xeb\xfb", 5);	/* mov ax,[2000]; jmp */
	plain.userspace_addr = (uintptr_t)ram;
	ask(vm, KVM_SET_USER_MEMORY_REGION, &plain);
	gmem = (int)ask(vm, KVM_CREATE_GUEST_MEMFD, &c);
	r.guest_memfd = (uint32_t)gmem;
	r.userspace_addr = (uintptr_t)shared;
	ask(vm, KVM_SET_USER_MEMORY_REGION2, &r);
	for (unsigned v = 0; v < VCPUS; v++) {
		struct kvm_regs regs = { .rip = 0x1000, .rflags = 2 };
		struct kvm_mp_state mp = { KVM_MP_STATE_RUNNABLE };
		struct kvm_sregs s;

		vcpu[v] = (int)gw_ioctl(vm, KVM_CREATE_VCPU, v);
		run[v] = gw_mmap(12288, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu[v], 0, &err);
		ask(vcpu[v], KVM_GET_SREGS, &s);
		s.cs.base = 0;
		s.cs.selector = 0;
		ask(vcpu[v], KVM_SET_SREGS, &s);
		ask(vcpu[v], KVM_SET_REGS, &regs);
		ask(vcpu[v], KVM_SET_MP_STATE, &mp);
	}
	fault_in();
	for (unsigned i = 0; i < 4; i++)
		conversions(i & 2 ? 2 << 20 : PAGE, i & 1);
	latency(1);
	latency(VCPUS);
	bookkeeping();
	return 0;
}
