/* SPDX-License-Identifier: MIT */
/* The dirty ring: what it holds, when it is full, what giving entries back means, and who is refused. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "rig.h"

#define BYTES	16384u
#define N	(BYTES / 16)
#define AT	0x100000u	/* logged memory, slot 7 */
#define PAGES	2048u

static int sys, vm, vcpu;
static struct kvm_run *run;
static struct kvm_dirty_gfn *ring;
static uint8_t *ram, *logged;
static uint32_t next;

static void map(uint32_t slot, uint64_t gpa, void *at, uint64_t size, uint32_t flags)
{
	struct kvm_userspace_memory_region m = { .slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uintptr_t)at,
		.flags = flags };

	assert_int_equal(rig_ioctl(vm, KVM_SET_USER_MEMORY_REGION, &m), 0);
}

/* 32-bit code with flat segments. */
static void start(const void *code, size_t n)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_DIRTY_LOG_RING_ACQ_REL, .args = { BYTES } };
	struct kvm_regs regs = { .rip = 0x1000, .rsp = 0x8000, .rflags = 2 };
	struct kvm_sregs s;
	int err;

	sys = gw_open();
	vm = (int)rig_ioctl_n(sys, KVM_CREATE_VM, 0);
	assert_int_equal(rig_ioctl(vm, KVM_ENABLE_CAP, &cap), 0);
	ram = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	logged = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	map(0, 0, ram, 0x10000, 0);
	map(7, AT, logged, PAGES * 4096, KVM_MEM_LOG_DIRTY_PAGES);
	vcpu = (int)rig_ioctl_n(vm, KVM_CREATE_VCPU, 0);
	run = gw_mmap(12288, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0, &err);
	ring = gw_mmap(BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 64 * 4096, &err);
	assert_non_null(run);
	assert_non_null(ring);
	memcpy(ram + 0x1000, code, n);
	assert_int_equal(rig_ioctl(vcpu, KVM_GET_SREGS, &s), 0);
	s.cs = (struct kvm_segment){ .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .db = 1, .g = 1 };
	s.ds = s.es = s.ss = (struct kvm_segment){ .limit = 0xffffffff, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
	s.cr0 |= 1;
	assert_int_equal(rig_ioctl(vcpu, KVM_SET_SREGS, &s), 0);
	assert_int_equal(rig_ioctl(vcpu, KVM_SET_REGS, &regs), 0);
	next = 0;
}

static void stop(void)
{
	munmap(run, 12288);
	munmap(ring, BYTES);
	gw_close(vcpu);
	gw_close(vm);
	gw_close(sys);
	munmap(ram, 0x10000);
	munmap(logged, PAGES * 4096);
}

static long go(void)
{
	long ret;

	do {
		ret = rig_ioctl_n(vcpu, KVM_RUN, 0);
	} while (ret == -EINTR || ret == -EAGAIN);
	return ret;
}

/* The next entry's page, taken; -1: none. */
static long take(void)
{
	struct kvm_dirty_gfn *e = &ring[next % N];

	if (!(__atomic_load_n(&e->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY))
		return -1;
	assert_int_equal(e->slot, 7);
	__atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
	next++;
	return (long)e->offset;
}

static void entries_come_once_until_reset(void **state)
{
	/* movb $1,0x105000; movb $2,0x105001; movb $3,0x103000; out 50,al; jmp 0x1000 */
	static const uint8_t code[] = { 0xc6, 0x05, 0, 0x50, 0x10, 0, 1, 0xc6, 0x05, 1, 0x50, 0x10, 0, 2, 0xc6, 0x05, 0, 0x30, 0x10, 0, 3,
		0xe6, 0x50, 0xeb, 0xe7 };
	struct kvm_dirty_log log = { .slot = 7 };
	struct kvm_clear_dirty_log clear = { .slot = 7, .num_pages = 64 };
	uint64_t bits[PAGES / 64];

	start(code, sizeof(code));
	assert_int_equal(go(), 0);
	assert_int_equal(run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(take(), 5);
	assert_int_equal(take(), 3);
	assert_int_equal(take(), -1);
	/* Taken and not yet given back: nothing new of these pages. */
	assert_int_equal(go(), 0);
	assert_int_equal(take(), -1);
	assert_int_equal(rig_ioctl_n(vm, KVM_RESET_DIRTY_RINGS, 0), 2);
	assert_int_equal(rig_ioctl_n(vm, KVM_RESET_DIRTY_RINGS, 0), 0);
	assert_int_equal(go(), 0);
	assert_int_equal(take(), 5);
	assert_int_equal(take(), 3);
	/* There is no bitmap beside it. */
	log.dirty_bitmap = clear.dirty_bitmap = bits;
	assert_int_equal(rig_ioctl(vm, KVM_GET_DIRTY_LOG, &log), -ENXIO);
	assert_int_equal(rig_ioctl(vm, KVM_CLEAR_DIRTY_LOG, &clear), -ENXIO);
	/* Entries may say anything. */
	ring[0].slot = 0xffffffff;
	ring[1].slot = 7;
	ring[1].offset = ~0ull;
	for (unsigned i = 2; i < next; i++)
		ring[i].slot = 0x1ffff;
	rig_ioctl_n(vm, KVM_RESET_DIRTY_RINGS, 0);
	stop();
}

/* rep stosb over all of it: exits when nearly full, and every page is told of in the end. */
static void full_ring_stops_the_vcpu(void **state)
{
	/* mov $0x100000,%edi; mov $0x800000,%ecx; rep stosb; out 50,al; hlt */
	static const uint8_t code[] = { 0xbf, 0, 0, 0x10, 0, 0xb9, 0, 0, 0x80, 0, 0xf3, 0xaa, 0xe6, 0x50, 0xf4 };
	/* The same, a byte in each page, by a loop. */
	static const uint8_t slow[] = { 0xbf, 0, 0, 0x10, 0, 0xfe, 0x07, 0x81, 0xc7, 0, 0x10, 0, 0, 0x81, 0xff, 0, 0, 0x90, 0, 0x72, 0xf0, 0xe6,
		0x50, 0xf4 };

	for (unsigned round = 0; round < 2; round++) {
		static uint8_t seen[PAGES];
		unsigned fulls = 0, total = 0;

		memset(seen, 0, sizeof(seen));
		start(round ? slow : code, round ? sizeof(slow) : sizeof(code));
		for (;;) {
			unsigned n = 0;

			assert_int_equal(go(), 0);
			for (long page; (page = take()) >= 0; n++) {
				assert_in_range(page, 0, PAGES - 1);
				seen[page] = 1;
			}
			total += n;
			assert_int_equal(rig_ioctl_n(vm, KVM_RESET_DIRTY_RINGS, 0), n);
			if (run->exit_reason == KVM_EXIT_IO)
				break;
			assert_int_equal(run->exit_reason, KVM_EXIT_DIRTY_RING_FULL);
			assert_true(n >= N - 576);
			fulls++;
		}
		assert_true(fulls >= 2);
		assert_true(total >= PAGES);
		for (unsigned i = 0; i < PAGES; i++)
			assert_int_equal(seen[i], 1);
		stop();
	}
}

static void full_stays_full(void **state)
{
	static const uint8_t code[] = { 0xbf, 0, 0, 0x10, 0, 0xb9, 0, 0, 0x80, 0, 0xf3, 0xaa, 0xf4 };
	struct kvm_regs a, b;

	start(code, sizeof(code));
	assert_int_equal(go(), 0);
	assert_int_equal(run->exit_reason, KVM_EXIT_DIRTY_RING_FULL);
	assert_int_equal(rig_ioctl(vcpu, KVM_GET_REGS, &a), 0);
	assert_int_equal(go(), 0);
	assert_int_equal(run->exit_reason, KVM_EXIT_DIRTY_RING_FULL);
	assert_int_equal(rig_ioctl(vcpu, KVM_GET_REGS, &b), 0);
	assert_memory_equal(&a, &b, sizeof(a));
	stop();
}

static atomic_bool done;

static void *writer(void *arg)
{
	while (!done && !rig_ioctl_n(vcpu, KVM_RUN, 0))
		assert_int_equal(run->exit_reason, KVM_EXIT_DIRTY_RING_FULL);
	return NULL;
}

/* A vCPU counts up in many pages while they are taken and given back: no last value is lost. */
static void no_store_is_lost(void **state)
{
	/* 1: mov $0x100000,%edi; 2: incl (%edi); add $0x1000,%edi; cmp $0x180000,%edi; jb 2b; jmp 1b: 128 pages */
	static const uint8_t code[] = { 0xbf, 0, 0, 0x10, 0, 0xff, 0x07, 0x81, 0xc7, 0, 0x10, 0, 0, 0x81, 0xff, 0, 0, 0x18, 0, 0x72, 0xf0, 0xeb, 0xe9 };
	static uint32_t copy[PAGES];
	uint64_t taken = 0;
	pthread_t t;

	start(code, sizeof(code));
	done = false;
	pthread_create(&t, NULL, writer, NULL);
	for (unsigned i = 0; i < 1000000 && taken < 3000; i++) {
		static long pages[N];
		unsigned n = 0;
		long page;

		while ((page = take()) >= 0)
			pages[n++] = page;
		assert_true(rig_ioctl_n(vm, KVM_RESET_DIRTY_RINGS, 0) >= 0);
		/* Read after the reset: a later store makes a new entry. */
		for (unsigned k = 0; k < n; k++)
			copy[pages[k]] = __atomic_load_n((uint32_t *)(void *)(logged + pages[k] * 4096), __ATOMIC_RELAXED);
		taken += n;
		if (!n)
			sched_yield();
	}
	done = true;
	run->immediate_exit = 1;
	pthread_join(t, NULL);
	for (long page; (page = take()) >= 0;)
		memcpy(&copy[page], logged + page * 4096, 4);
	assert_true(taken > 128);
	for (unsigned i = 0; i < 128; i++)
		assert_int_equal(copy[i], *(uint32_t *)(void *)(logged + i * 4096));
	stop();
}

static const struct { const char *name; uint64_t bytes; long want; } sizes[] = {
	{ "no size is EINVAL", 0, -EINVAL }, { "12288 bytes are EINVAL", 12288, -EINVAL }, { "2048 bytes are EINVAL", 2048, -EINVAL },
	{ "8192 bytes are fewer than the reserve: EINVAL", 8192, -EINVAL }, { "2 MiB are E2BIG", 2 << 20, -E2BIG }, { "1 MiB is fine", 1 << 20, 0 },
};

static void sizes_are_checked(void **state)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_DIRTY_LOG_RING };
	int err, own;

	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		sys = gw_open();
		vm = (int)rig_ioctl_n(sys, KVM_CREATE_VM, 0);
		assert_int_equal(rig_ioctl_n(vm, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING), 1 << 20);
		assert_int_equal(rig_ioctl_n(vm, KVM_RESET_DIRTY_RINGS, 0), -EINVAL);
		cap.args[0] = sizes[i].bytes;
		if (rig_ioctl(vm, KVM_ENABLE_CAP, &cap) != sizes[i].want)
			fail_msg("%s", sizes[i].name);
		if (!sizes[i].want)
			assert_int_equal(rig_ioctl(vm, KVM_ENABLE_CAP, &cap), -EINVAL);
		own = (int)rig_ioctl_n(vm, KVM_CREATE_VCPU, 0);
		assert_true(own >= 0);
		cap.args[0] = BYTES;
		assert_int_equal(rig_ioctl(vm, KVM_ENABLE_CAP, &cap), -EINVAL);
		if (!sizes[i].want) {
			assert_null(gw_mmap(BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, own, 64 * 4096, &err));
			assert_int_equal(err, -EINVAL);
			assert_null(gw_mmap(BYTES, PROT_READ | PROT_EXEC, MAP_SHARED, own, 64 * 4096, &err));
			assert_int_equal(err, -EINVAL);
		}
		gw_close(own);
		gw_close(vm);
		gw_close(sys);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		{ "a page has one entry until it is given back, then another", entries_come_once_until_reset },
		{ "a ring nearly full ends KVM_RUN, and no page is missing", full_ring_stops_the_vcpu },
		{ "a full ring that nobody empties lets nothing run", full_stays_full },
		{ "no store is lost while another thread takes and gives back", no_store_is_lost },
		{ "sizes, repetition and mappings are checked as in KVM", sizes_are_checked },
	};

	return cmocka_run_group_tests_name("Dirty ring", tests, NULL, NULL);
}
