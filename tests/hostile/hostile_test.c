/* SPDX-License-Identifier: MIT */
/*
 * Guests made of noise: random bytes as code, as page tables, as descriptor tables, in every mode. Whatever they do, KVM_RUN
 * ends with an exit or error that KVM has, a kick is obeyed, and no byte outside the slot changes. Meant for the sanitizers.
 *
 * Arguments: number of guests (default 400), first seed (default 1).
 */
#include <errno.h>
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
#include <unistd.h>

#include "guestward/guestward.h"
#include "guestward/kvm.h"

#define RAM_SIZE	(1u << 20)
#define GUARD		(64u << 10)
#define MAX_EXITS	300
#define TABLES		0x80000u	/* PML4, PDPT, PD, PT and noise around them */
#define GDT		0x90000u
#define IDT		0x91000u

enum shape { REAL, PROTECTED16, PROTECTED32, PAGED32, PAE, LONG64, COMPAT, V86, N_SHAPES };
static const char *const shape_name[] = { "real mode", "16-bit protected mode", "32-bit protected mode", "32-bit paging", "PAE paging",
					  "64-bit mode", "compatibility mode", "virtual-8086 mode" };

static uint64_t rng;

static uint64_t next_random(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

static long call(int fd, unsigned long request, const void *arg)
{
	return gw_ioctl(fd, request, (unsigned long)(uintptr_t)arg);
}

/* Noise leaning towards bytes that do something: short branches and privileged maps would otherwise be rare. */
static void fill_code(uint8_t *ram)
{
	static const uint8_t liked[] = { 0x0f, 0x66, 0xf3, 0xf2, 0x48, 0x4c, 0xc4, 0xc5, 0x67, 0xf0, 0x8e, 0x0f, 0xcf, 0xcd, 0xea, 0x9a,
					 0xff, 0xd9, 0xdd, 0xa4, 0xa5, 0xab, 0x6c, 0x6e, 0xe6, 0xec, 0x9c, 0x9d, 0xfa, 0xfb, 0xf4, 0xeb };

	for (unsigned i = 0; i < RAM_SIZE; i += 8) {
		uint64_t r = next_random();

		memcpy(ram + i, &r, 8);
		if (r & 0x100)
			ram[i + (r >> 60 & 7)] = liked[r >> 32 & 31];
		if (r & 0x200)
			ram[i + (r >> 57 & 7)] = liked[r >> 37 & 31];
	}
}

/* Tables whose entries are mostly present, mostly inside RAM, with random permission and reserved bits. */
static void fill_tables(uint8_t *ram)
{
	for (unsigned i = 0; i < 0x8000; i += 8) {
		uint64_t r = next_random(), e = (r & 0xff000) | (r >> 20 & 0xfff) | 1;

		if (!(r & 0x70000000))
			e = r;				/* anything */
		if (r & 0x80000000)
			e |= 6;				/* writable, user */
		if (!(r >> 40 & 15))
			e |= 1ull << 63;
		memcpy(ram + TABLES + i, &e, 8);
	}
}

static void fill_descriptors(uint8_t *ram)
{
	for (unsigned i = 0; i < 0x1000; i += 8) {
		uint64_t r = next_random(), d = 0x00cf92000000ffffull;

		d ^= 1ull << (r & 63);
		d ^= (r >> 8 & 15) << 40;		/* type */
		if (!(r & 0x7000))
			d = r;
		memcpy(ram + GDT + i, &d, 8);
		r = next_random();
		d = (r & 0xffff) | 8ull << 16 | (0x8e00ull | (r >> 16 & 0x6f00)) << 32 | (r & 0xf0000) << 32;
		if (!(r >> 50 & 7))
			d = r;
		memcpy(ram + IDT + i, &d, 8);
	}
}

static void set_seg(struct kvm_segment *s, uint16_t sel, unsigned type, bool db, bool l, unsigned dpl)
{
	*s = (struct kvm_segment){ .selector = sel, .limit = 0xffffffff, .type = (uint8_t)type, .s = 1, .present = 1, .db = db, .l = l,
				   .g = 1, .dpl = (uint8_t)dpl };
}

static void set_state(int vcpu, enum shape shape)
{
	struct kvm_regs regs;
	struct kvm_sregs s;
	unsigned dpl = next_random() & 1 ? 0 : 3;
	uint64_t *g = (uint64_t *)&regs;

	for (unsigned i = 0; i < 16; i++)
		g[i] = next_random() & 1 ? next_random() & 0xfffff : next_random();
	regs.rip = next_random() & 0x7ffff;
	regs.rsp = (next_random() & 0x7ffff) | 0x1000;
	regs.rflags = 2 | (next_random() & 0x00240ed5);
	call(vcpu, KVM_GET_SREGS, &s);
	s.gdt = (struct kvm_dtable){ .base = GDT, .limit = 0xfff };
	s.idt = (struct kvm_dtable){ .base = IDT, .limit = 0xfff };
	s.cr3 = TABLES;
	if (shape == REAL) {
		regs.rip &= 0xffff;
		s.cs.base = s.ds.base = s.es.base = s.ss.base = 0;
		s.cs.selector = s.ds.selector = s.es.selector = s.ss.selector = 0;
		s.idt = (struct kvm_dtable){ .base = 0, .limit = 0x3ff };
	} else {
		bool code32 = shape != PROTECTED16 && shape != LONG64 && shape != V86;

		s.cr0 |= 1;
		set_seg(&s.cs, (uint16_t)(8 | dpl), 11, code32, shape == LONG64, dpl);
		set_seg(&s.ss, (uint16_t)(16 | dpl), 3, code32, false, dpl);
		set_seg(&s.ds, (uint16_t)(16 | dpl), 3, code32, false, dpl);
		s.es = s.fs = s.gs = s.ds;
		if (shape == PAGED32 || shape == PAE || shape == LONG64 || shape == COMPAT)
			s.cr0 |= 0x80000000 | (next_random() & 0x10000);
		if (shape != PAGED32)
			s.cr4 |= 0x20;
		else
			s.cr4 |= next_random() & 0x10;
		if (shape == PROTECTED16 || shape == PROTECTED32 || shape == V86)
			s.cr4 &= ~0x20ull;
		s.cr4 |= next_random() & 0x300600;
		if (shape == LONG64 || shape == COMPAT)
			s.efer = 0xd01;
	}
	if (shape == V86) {
		struct kvm_segment *seg[] = { &s.cs, &s.ds, &s.es, &s.ss, &s.fs, &s.gs };

		for (unsigned i = 0; i < 6; i++)
			*seg[i] = (struct kvm_segment){ .limit = 0xffff, .type = 3, .s = 1, .dpl = 3, .present = 1 };
		regs.rip &= 0xffff;
		regs.rflags |= 0x20000;
	}
	if (call(vcpu, KVM_SET_SREGS, &s))
		return;		/* refused as a unit: the guest starts from reset then, no worse a test */
	call(vcpu, KVM_SET_REGS, &regs);
}

struct kicker { struct kvm_run *run; pthread_t thread; _Atomic int stop; };

static void on_kick(int sig) { (void)sig; }

/* Kicks the vCPU every two milliseconds, as a VMM's timer would. */
static void *kick(void *arg)
{
	struct kicker *k = arg;
	struct timespec ts = { 0, 2000000 };

	while (!atomic_load(&k->stop)) {
		nanosleep(&ts, NULL);
		__atomic_store_n(&k->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		pthread_kill(k->thread, SIGUSR1);
	}
	return NULL;
}

static bool answer(struct kvm_run *run)
{
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		if (run->io.direction == KVM_EXIT_IO_IN)
			memset((uint8_t *)run + run->io.data_offset, (int)next_random(), run->io.size * run->io.count);
		return true;
	case KVM_EXIT_MMIO:
		memset(run->mmio.data, (int)next_random(), sizeof(run->mmio.data));
		return true;
	case KVM_EXIT_HLT:
	case KVM_EXIT_INTR:
		return true;
	default:
		return false;
	}
}

static bool is_end(uint32_t reason)
{
	return reason == KVM_EXIT_SHUTDOWN || reason == KVM_EXIT_INTERNAL_ERROR || reason == KVM_EXIT_SYSTEM_EVENT;
}

/* One guest. Returns NULL, or what was wrong. */
static const char *play(int vm, int vcpu, struct kvm_run *run, uint8_t *ram, enum shape shape)
{
	struct kicker k = { run, pthread_self(), 0 };
	const char *bad = NULL;
	pthread_t t;

	(void)vm;
	fill_code(ram);
	fill_tables(ram);
	fill_descriptors(ram);
	set_state(vcpu, shape);
	run->immediate_exit = 0;
	if (pthread_create(&t, NULL, kick, &k))
		return "no thread";
	for (unsigned i = 0, kicks = 0; i < MAX_EXITS && kicks < 4; i++) {
		long r = gw_ioctl(vcpu, KVM_RUN, 0);

		if (r == -EINTR) {
			run->immediate_exit = 0;
			kicks++;
			continue;
		}
		if (r == -EFAULT)
			break;
		if (r) {
			bad = "KVM_RUN gave an error KVM does not have here";
			break;
		}
		if (is_end(run->exit_reason))
			break;
		if (!answer(run)) {
			bad = "an exit reason nobody asked for";
			break;
		}
	}
	atomic_store(&k.stop, 1);
	pthread_join(t, NULL);
	return bad;
}

static int open_vm(uint8_t *ram, int *vm, int *vcpu, struct kvm_run **run)
{
	struct kvm_userspace_memory_region r = { .memory_size = RAM_SIZE, .userspace_addr = (uintptr_t)ram };
	static union { struct kvm_cpuid2 c; uint8_t room[sizeof(struct kvm_cpuid2) + 100 * sizeof(struct kvm_cpuid_entry2)]; } id;
	int sys = gw_open(), err;

	*vm = (int)gw_ioctl(sys, KVM_CREATE_VM, 0);
	if (*vm < 0 || call(*vm, KVM_SET_USER_MEMORY_REGION, &r))
		return -1;
	*vcpu = (int)gw_ioctl(*vm, KVM_CREATE_VCPU, 0);
	if (*vcpu < 0)
		return -1;
	id.c.nent = 100;
	if (call(sys, KVM_GET_SUPPORTED_CPUID, &id) || call(*vcpu, KVM_SET_CPUID2, &id))
		return -1;
	gw_close(sys);
	*run = gw_mmap(12288, PROT_READ | PROT_WRITE, MAP_SHARED, *vcpu, 0, &err);
	return *run ? 0 : -1;
}

int main(int argc, char **argv)
{
	unsigned n = argc > 1 ? (unsigned)atoi(argv[1]) : 400, seed = argc > 2 ? (unsigned)atoi(argv[2]) : 1, failed = 0;
	uint8_t *area = mmap(NULL, RAM_SIZE + 2 * GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct sigaction sa = { .sa_handler = on_kick };
	unsigned tally[N_SHAPES] = { 0 };

	sigaction(SIGUSR1, &sa, NULL);
	if (area == MAP_FAILED)
		return 1;
	memset(area, 0xa5, GUARD);
	memset(area + GUARD + RAM_SIZE, 0xa5, GUARD);
	for (unsigned i = 0; i < n; i++) {
		enum shape shape = (enum shape)(i % N_SHAPES);
		const char *bad;
		struct kvm_run *run;
		int vm, vcpu;

		rng = (uint64_t)(seed + i) * 0x9e3779b97f4a7c15ull + 1;
		if (open_vm(area + GUARD, &vm, &vcpu, &run)) {
			printf("Bail out! no VM\n");
			return 1;
		}
		bad = play(vm, vcpu, run, area + GUARD, shape);
		for (unsigned b = 0; b < GUARD && !bad; b++)
			if (area[b] != 0xa5 || area[GUARD + RAM_SIZE + b] != 0xa5)
				bad = "memory outside the slot was written";
		if (bad) {
			printf("# seed %u, %s: %s (exit reason %u)\n", seed + i, shape_name[shape], bad, run->exit_reason);
			failed++;
			tally[shape]++;
		}
		munmap(run, 12288);
		gw_close(vcpu);
		gw_close(vm);
	}
	for (unsigned i = 0; i < N_SHAPES; i++)
		printf("%sok %u - %u guests of noise in %s end as KVM would end them\n", tally[i] ? "not " : "", i + 1, n / N_SHAPES, shape_name[i]);
	printf("1..%u\n", N_SHAPES);
	return failed ? 1 : 0;
}
