/* SPDX-License-Identifier: MIT */
/*
 * The two round trips between a client and its guest, in nanoseconds: KVM_RUN to a port-I/O exit and back, and an irqfd's write
 * to the first instruction of the handler in a vCPU that runs. One line a number, "name value unit", and what must be.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <x86intrin.h>

#include <guestward/guestward.h>
#include <guestward/kvm.h>

#define RAM_SIZE	0x10000u
#define CODE_AT		0x1000u
#define HANDLER_AT	0x2000u
#define WHEN_AT		0x3000u		/* TSC in the handler, 8 bytes; then a count of interrupts */
#define COUNT_AT	0x3008u
#define VECTOR		0x40u
#define GSI		24u
#define RUNS		500000u
#define KICKS		2000u

static int vm, vcpu;
static struct kvm_run *run;
static uint8_t *ram;
static double ns_per_tick;

static uint64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static long ask(int fd, unsigned long nr, const void *arg)
{
	long ret = gw_ioctl(fd, nr, (uintptr_t)arg);

	if (ret < 0) {
		fprintf(stderr, "exits: ioctl %lx: %ld\n", nr, ret);
		exit(1);
	}
	return ret;
}

static void make_vm(void)
{
	struct kvm_userspace_memory_region r = { .memory_size = RAM_SIZE };
	struct kvm_irq_routing *routing = calloc(1, sizeof(*routing) + sizeof(routing->entries[0]));
	int err, kvm = gw_open();

	vm = (int)ask(kvm, KVM_CREATE_VM, NULL);
	ask(vm, KVM_CREATE_IRQCHIP, NULL);
	ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	r.userspace_addr = (uintptr_t)ram;
	ask(vm, KVM_SET_USER_MEMORY_REGION, &r);
	vcpu = (int)ask(vm, KVM_CREATE_VCPU, NULL);
	run = gw_mmap((size_t)ask(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0, &err);
	if (!routing || !run)
		exit(1);
	routing->nr = 1;
	routing->entries[0] = (struct kvm_irq_routing_entry){ .gsi = GSI, .type = KVM_IRQ_ROUTING_MSI,
		.u.msi = { .address_lo = 0xfee00000, .data = VECTOR } };
	ask(vm, KVM_SET_GSI_ROUTING, routing);
	free(routing);
}

/* Real-address mode with segments of 4 GiB: the LAPIC is in reach. */
static void set_state(uint64_t rip, uint64_t rflags)
{
	struct kvm_regs regs = { .rip = rip, .rflags = rflags, .rsp = 0x8000 };
	struct kvm_lapic_state lapic;
	struct kvm_sregs s = { 0 };
	uint32_t svr = 0x1ff;

	ask(vcpu, KVM_GET_SREGS, &s);
	s.cs.base = s.cs.selector = 0;
	s.ds.limit = s.es.limit = s.ss.limit = 0xffffffff;
	ask(vcpu, KVM_SET_SREGS, &s);
	ask(vcpu, KVM_SET_REGS, &regs);
	ask(vcpu, KVM_GET_LAPIC, &lapic);
	memcpy(lapic.regs + 0xf0, &svr, 4);
	ask(vcpu, KVM_SET_LAPIC, &lapic);
}

static void port_io(const char *name)
{
	static const uint8_t code[] = { 0xe6, 0x80, 0xeb, 0xfc };	/* 1: out %al, $0x80; jmp 1b */
	uint64_t best = UINT64_MAX;

	memcpy(ram + CODE_AT, code, sizeof(code));
	set_state(CODE_AT, 2);
	for (unsigned round = 0; round < 5; round++) {
		uint64_t start = clock_ns();

		for (unsigned i = 0; i < RUNS / 5; i++) {
			ask(vcpu, KVM_RUN, NULL);
			if (run->exit_reason != KVM_EXIT_IO)
				exit(1);
		}
		start = clock_ns() - start;
		best = start < best ? start : best;
	}
	printf("%s %.0f ns (must: 1000)\n", name, (double)best / (RUNS / 5));
}

/* ---- irqfd --------------------------------------------------------------------------------------------------------------- */

static void *run_vcpu(void *arg)
{
	while (gw_ioctl(vcpu, KVM_RUN, 0) == 0 && run->exit_reason == KVM_EXIT_INTR)
		;
	return NULL;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void irqfd(void)
{
	/* sti; 1: add $1, %si; jmp 1b */
	static const uint8_t code[] = { 0xfb, 0x83, 0xc6, 0x01, 0xeb, 0xfb };
	static const uint8_t handler[] = {
		0x0f, 0x31,					/* rdtsc */
		0x66, 0xa3, 0x00, 0x30, 0x66, 0x89, 0x16, 0x04, 0x30,	/* mov %eax, 0x3000; mov %edx, 0x3004 */
		0x67, 0x66, 0xc7, 0x05, 0xb0, 0x00, 0xe0, 0xfe, 0, 0, 0, 0,	/* movl $0, 0xfee000b0: EOI */
		0xff, 0x06, 0x08, 0x30,				/* incw 0x3008 */
		0xcf,						/* iret */
	};
	struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET };
	static uint64_t took[KICKS];
	uint64_t zero = 0;
	struct kvm_irqfd f = { .fd = (uint32_t)eventfd(0, EFD_CLOEXEC), .gsi = GSI };
	uint16_t ivt[2] = { HANDLER_AT, 0 };
	unsigned n = 0;
	pthread_t t;

	attr.addr = (uintptr_t)&zero;
	ask(vcpu, KVM_SET_DEVICE_ATTR, &attr);
	ask(vm, KVM_IRQFD, &f);
	memcpy(ram + CODE_AT, code, sizeof(code));
	memcpy(ram + HANDLER_AT, handler, sizeof(handler));
	memcpy(ram + VECTOR * 4, ivt, sizeof(ivt));
	set_state(CODE_AT, 2);
	pthread_create(&t, NULL, run_vcpu, NULL);
	for (unsigned i = 0; i < KICKS; i++) {
		uint16_t before = *(_Atomic uint16_t *)(void *)(ram + COUNT_AT);
		uint64_t start, one = 1, until;

		usleep(200);
		start = __rdtsc();
		if (write((int)f.fd, &one, 8) != 8)
			exit(1);
		until = clock_ns() + 1000000000;
		while (*(_Atomic uint16_t *)(void *)(ram + COUNT_AT) == before && clock_ns() < until)
			;
		if (*(_Atomic uint16_t *)(void *)(ram + COUNT_AT) == before) {
			fprintf(stderr, "exits: an interrupt was lost\n");
			exit(1);
		}
		memcpy(&took[n++], ram + WHEN_AT, 8);
		took[n - 1] -= start;
	}
	run->immediate_exit = 1;
	pthread_join(t, NULL);
	run->immediate_exit = 0;
	qsort(took, n, sizeof(took[0]), compare);
	printf("irqfd_to_handler_median %.0f ns (must: 100000)\n", (double)took[n / 2] * ns_per_tick);
	printf("irqfd_to_handler_99 %.0f ns (must: 100000)\n", (double)took[n * 99 / 100] * ns_per_tick);
}

int main(int argc, char **argv)
{
	uint64_t t0, n0;

	gw_own_signals(1);	/* we have no handlers */
	make_vm();
	n0 = clock_ns();
	t0 = __rdtsc();
	port_io("kvm_run_port_io");
	ns_per_tick = (double)(clock_ns() - n0) / (double)(__rdtsc() - t0);
	irqfd();
	return 0;
}
