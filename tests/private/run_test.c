/* SPDX-License-Identifier: MIT */
/*
 * What guests see of private memory: which side an access goes to, every way to a memory fault, the conversion hypercall, the nine
 * cases that break naive implementations (a page taken away under a running vCPU), and that private bytes stay where they are.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "prig.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define KEEP FALLOC_FL_KEEP_SIZE

static struct prig P;

static int open_default(void **state) { prig_open(&P, 0, SHARED); return 0; }
static int open_protected(void **state) { prig_open(&P, SW, 0); return 0; }
static int close_it(void **state) { prig_close(&P); return 0; }

static uint8_t rd(uint32_t off)
{
	uint8_t value = 0;

	assert_int_equal(prig_read(&P, 0, off, &value), 0);
	return value;
}

static void wr(uint32_t off, uint8_t value)
{
	assert_int_equal(prig_write(&P, 0, off, value), 0);
}

/* A number of GW_MAP's line of slot 1. */
static unsigned long map_number(const char *name)
{
	static char text[1 << 16];
	struct gw_map m = { .size = sizeof(text), .buf = (uintptr_t)text };
	char want[40];
	const char *line, *at;

	assert_int_equal(pioctl(P.vm, GW_MAP, &m), 0);
	line = strstr(text, "slot=1 ");
	assert_non_null(line);
	snprintf(want, sizeof(want), " %s=", name);
	at = strstr(line, want);
	assert_non_null(at);
	return strtoul(at + strlen(want), NULL, 10);
}

/* ---- sides ----------------------------------------------------------------------------------------------------------------- */

static const struct { uint32_t first, n; } ranges[] = { { 0, 1 }, { 0, 16 }, { 1, 1 }, { 3, 8 }, { 15, 1 } };

static void each_side_keeps_its_own(void **state)
{
	for (unsigned i = 0; i < COUNT(ranges); i++) {
		uint32_t at = ranges[i].first * PAGE, len = ranges[i].n * PAGE;

		memset(P.shared, 0x11, PRIG_SIZE);
		assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, true), 0);
		for (uint32_t o = 0; o < PRIG_SIZE; o += PAGE)
			wr(o + 7, (uint8_t)(0x40 + o / PAGE));
		assert_int_equal(P.shared[7], 0x11);		/* the host's pattern is untouched */
		assert_int_equal(prig_convert(&P, PRIG_AT + at, len, false), 0);
		for (uint32_t o = 0; o < PRIG_SIZE; o += PAGE) {
			bool in = o >= at && o < at + len;

			assert_int_equal(rd(o + 7), in ? 0x11 : 0x40 + o / PAGE);
			if (in)
				wr(o + 8, 0x22);
			assert_int_equal(P.shared[o + 8], in ? 0x22 : 0x11);
		}
		/* Back without a punch: what was there; after one: zeros. */
		assert_int_equal(prig_convert(&P, PRIG_AT + at, len, true), 0);
		assert_int_equal(rd(at + 7), 0x40 + at / PAGE);
		assert_int_equal(prig_convert(&P, PRIG_AT + at, len, false), 0);
		assert_int_equal(prig_punch(P.gmem, at, len), 0);
		assert_int_equal(prig_convert(&P, PRIG_AT + at, len, true), 0);
		assert_int_equal(rd(at + 7), 0);
		assert_int_equal(rd(at + len - PAGE + 7), 0);
		assert_int_equal(prig_punch(P.gmem, 0, PRIG_SIZE), 0);
	}
}

/* Code decoded from one side is not run on the other: out 10,al with another al. */
static void code_follows_the_side(void **state)
{
	static const uint8_t shared_code[] = { 0xb0, 0x11, 0xe6, 0x10, 0xeb, 0xfa };
	uint8_t private_code[sizeof(shared_code)];

	memcpy(private_code, shared_code, sizeof(private_code));
	private_code[1] = 0x22;
	memcpy(P.shared, shared_code, sizeof(shared_code));
	assert_int_equal(prig_convert(&P, PRIG_AT, PAGE, true), 0);
	for (unsigned i = 0; i < sizeof(private_code); i++)
		wr(i, private_code[i]);
	for (unsigned round = 0; round < 20; round++) {
		struct kvm_run *run = P.run[0];

		assert_int_equal(prig_convert(&P, PRIG_AT, PAGE, round & 1), 0);
		prig_set(&P, 0, PRIG_AT, 0, 0);
		for (unsigned i = 0; i < 3; i++) {
			assert_int_equal(gw_ioctl(P.vcpu[0], KVM_RUN, 0), 0);
			assert_int_equal(run->exit_reason, KVM_EXIT_IO);
			assert_int_equal(((uint8_t *)run)[run->io.data_offset], round & 1 ? 0x22 : 0x11);
		}
	}
	assert_int_equal(prig_convert(&P, PRIG_AT, PAGE, true), 0);
	assert_int_equal(prig_punch(P.gmem, 0, PAGE), 0);
	/* Zeros: add [bx+si],al. Nothing of the old code is left. */
	assert_int_equal(rd(0), 0);
}

static void a_private_page_without_a_side_faults(void **state)
{
	uint8_t value = 0;
	long ret;

	/* No slot: not MMIO. */
	assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, true), 0);
	wr(0, 0x77);
	assert_int_equal(prig_delete(&P, 1), 0);
	ret = prig_read(&P, 0, 5 * PAGE + 3, &value);
	prig_expect_fault(&P, 0, ret, PRIG_AT + 5 * PAGE, true);
	ret = prig_write(&P, 0, 0, 1);
	prig_expect_fault(&P, 0, ret, PRIG_AT, true);
	/* A plain slot. */
	assert_int_equal(prig_slot(&P, 1, PRIG_AT, PRIG_SIZE, P.shared, -1, 0), 0);
	ret = prig_read(&P, 0, 0, &value);
	prig_expect_fault(&P, 0, ret, PRIG_AT, true);
	/* Shared again: there it is. The file has kept its page all the time. */
	assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, false), 0);
	assert_int_equal(rd(0), 0);
	assert_int_equal(prig_delete(&P, 1), 0);
	assert_int_equal(prig_slot(&P, 1, PRIG_AT, PRIG_SIZE, P.shared, P.gmem, 0), 0);
	assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, true), 0);
	assert_int_equal(rd(0), 0x77);
	/* The file is closed: the slot stays, its pages do not. */
	assert_int_equal(gw_close(P.gmem), 0);
	P.gmem = -1;
	ret = prig_read(&P, 0, 0, &value);
	prig_expect_fault(&P, 0, ret, PRIG_AT, true);
	/* Code in such a page. */
	prig_set(&P, 0, PRIG_AT, 0, 0);
	ret = gw_ioctl(P.vcpu[0], KVM_RUN, 0);
	prig_expect_fault(&P, 0, ret, PRIG_AT, true);
	assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, false), 0);
	assert_int_equal(rd(0), 0);
}

/* 32-bit paging; the page directory lies where @private_gpa says. */
static void a_walk_through_private_tables(void **state)
{
	struct kvm_regs regs = { .rip = 0x3000, .rflags = 2 };
	struct kvm_sregs s;
	struct kvm_translation t = { .linear_address = 0x3000 };
	long ret;

	P.ram[0x3000] = 0xe6;	/* out 10,al */
	P.ram[0x3001] = 0x10;
	assert_int_equal(prig_convert(&P, PRIG_AT, PAGE, true), 0);
	/* One 4 MiB entry: present, writable, large. */
	wr(0, 0x83);
	assert_int_equal(pioctl(P.vcpu[0], KVM_GET_SREGS, &s), 0);
	s.cs = (struct kvm_segment){ .limit = ~0u, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1 };
	s.ss = s.ds = s.es = (struct kvm_segment){ .limit = ~0u, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1 };
	s.cr0 |= 0x80000001;
	s.cr4 |= 0x10;
	s.cr3 = PRIG_AT;
	assert_int_equal(pioctl(P.vcpu[0], KVM_SET_SREGS, &s), 0);
	P.cs_base[0] = ~0ull;
	assert_int_equal(pioctl(P.vcpu[0], KVM_SET_REGS, &regs), 0);
	/* The client's translation does not look into private tables; the guest's walk does, and sets A there. */
	assert_int_equal(pioctl(P.vcpu[0], KVM_TRANSLATE, &t), 0);
	assert_int_equal(t.valid, 0);
	assert_int_equal(gw_ioctl(P.vcpu[0], KVM_RUN, 0), 0);
	assert_int_equal(P.run[0]->exit_reason, KVM_EXIT_IO);
	assert_int_equal(P.shared[0], 0);
	/* The table's page is gone: the walk says so. */
	assert_int_equal(gw_close(P.gmem), 0);
	P.gmem = -1;
	assert_int_equal(pioctl(P.vcpu[0], KVM_SET_REGS, &regs), 0);
	assert_int_equal(pioctl(P.vcpu[0], KVM_SET_SREGS, &s), 0);
	ret = gw_ioctl(P.vcpu[0], KVM_RUN, 0);
	prig_expect_fault(&P, 0, ret, PRIG_AT, true);
}

static void a_denied_probe_allocates_nothing(void **state)
{
	uint8_t value = 0;

	assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, true), 0);
	assert_int_equal(prig_delete(&P, 1), 0);
	for (uint32_t o = 0; o < PRIG_SIZE; o += PAGE) {
		assert_int_equal(prig_read(&P, 0, o, &value), -EFAULT);
		assert_int_equal(prig_write(&P, 0, o, 1), -EFAULT);
	}
	assert_int_equal(prig_slot(&P, 1, PRIG_AT, PRIG_SIZE, P.shared, P.gmem, 0), 0);
	assert_int_equal(map_number("present_private"), 0);
	assert_int_equal(map_number("present_shared"), 0);
	wr(PAGE, 1);
	assert_int_equal(map_number("present_private"), 1);
	assert_int_equal(map_number("both"), 0);
	P.shared[PAGE] = 1;
	assert_int_equal(map_number("both"), 1);
	assert_int_equal(map_number("private"), N_PAGES);
}

/* ---- the hypercall ---------------------------------------------------------------------------------------------------------- */

static const struct { const char *name; uint32_t gpa, n; long want; } hc_rows[] = {
	{ "an odd address", 0x1001, 1, -22 },
	{ "no pages", 0x1000, 0, -22 },
	{ "one page", 0x1000, 1, 0 },
	{ "more pages than a 64-bit address can tell", 0x1000, 0xffffffff, 0 },
};

static long hypercall(uint32_t gpa, uint32_t n, uint32_t attributes)
{
	static const uint8_t code[] = { 0x66, 0x90, 0x0f, 0x01, 0xc1, 0xe6, 0x10 };	/* vmcall; out 10,al */
	struct kvm_regs r;

	memcpy(P.ram + 0x4000, code, sizeof(code));
	prig_set(&P, 0, 0x4000, 0, 0);
	assert_int_equal(pioctl(P.vcpu[0], KVM_GET_REGS, &r), 0);
	r.rax = 12;
	r.rbx = gpa;
	r.rcx = n;
	r.rdx = attributes;
	assert_int_equal(pioctl(P.vcpu[0], KVM_SET_REGS, &r), 0);
	assert_int_equal(gw_ioctl(P.vcpu[0], KVM_RUN, 0), 0);
	if (P.run[0]->exit_reason == KVM_EXIT_HYPERCALL)
		return 1;
	assert_int_equal(P.run[0]->exit_reason, KVM_EXIT_IO);
	assert_int_equal(pioctl(P.vcpu[0], KVM_GET_REGS, &r), 0);
	return (int32_t)r.rax;
}

static void the_conversion_hypercall(void **state)
{
	struct kvm_enable_cap c = { .cap = KVM_CAP_EXIT_HYPERCALL, .args = { 1u << 12 } };
	struct kvm_run *run = P.run[0];
	struct kvm_regs r;

	assert_int_equal(hypercall(0x1000, 1, 0), -1000);	/* not switched on */
	assert_int_equal(pioctl(P.vm, KVM_ENABLE_CAP, &c), 0);
	for (unsigned i = 0; i < COUNT(hc_rows); i++) {
		run->hypercall.ret = 99;
		if (hypercall(hc_rows[i].gpa, hc_rows[i].n, 0x12345678) != (hc_rows[i].want ? hc_rows[i].want : 1))
			fail_msg("%s", hc_rows[i].name);
		if (hc_rows[i].want)
			continue;
		assert_int_equal(run->hypercall.nr, 12);
		assert_int_equal(run->hypercall.args[0], hc_rows[i].gpa);
		assert_int_equal(run->hypercall.args[1], hc_rows[i].n);
		assert_int_equal(run->hypercall.args[2], 0x12345678);	/* unfiltered */
		assert_int_equal(run->hypercall.ret, 0);		/* for clients that never write it */
		run->hypercall.ret = (uint64_t)-5;
		assert_int_equal(gw_ioctl(P.vcpu[0], KVM_RUN, 0), 0);
		assert_int_equal(pioctl(P.vcpu[0], KVM_GET_REGS, &r), 0);
		assert_int_equal((int32_t)r.rax, -5);
	}
	assert_int_equal(map_number("private"), 0);	/* KVM converts nothing by itself */
}

/* ---- under running vCPUs ------------------------------------------------------------------------------------------------------ */

static struct runner {
	unsigned v;
	pthread_t thread;
	atomic_bool stop, done;
	long ret;
} R[PRIG_VCPUS];

static void kick(int sig) { }

static void *run_thread(void *arg)
{
	struct runner *r = arg;

	do {
		r->ret = gw_ioctl(P.vcpu[r->v], KVM_RUN, 0);
	} while (!atomic_load(&r->stop) && (r->ret == -EINTR || r->ret == -EAGAIN));
	atomic_store(&r->done, true);
	return NULL;
}

static void go(unsigned v)
{
	struct sigaction sa = { .sa_handler = kick };

	sigaction(SIGUSR1, &sa, NULL);
	R[v].v = v;
	atomic_store(&R[v].stop, false);
	atomic_store(&R[v].done, false);
	P.run[v]->immediate_exit = 0;
	assert_int_equal(pthread_create(&R[v].thread, NULL, run_thread, &R[v]), 0);
}

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL);
}

static void halt(unsigned v)
{
	atomic_store(&R[v].stop, true);
	while (!atomic_load(&R[v].done)) {
		__atomic_store_n(&P.run[v]->immediate_exit, 1, __ATOMIC_SEQ_CST);
		pthread_kill(R[v].thread, SIGUSR1);
		nap();
	}
	pthread_join(R[v].thread, NULL);
	P.run[v]->immediate_exit = 0;
}

static long wait_end(unsigned v)
{
	for (unsigned i = 0; i < 20000 && !atomic_load(&R[v].done); i++)
		nap();
	assert_true(atomic_load(&R[v].done));
	pthread_join(R[v].thread, NULL);
	return R[v].ret;
}

static uint8_t mirror(unsigned v)
{
	return __atomic_load_n(&P.ram[PRIG_FLAG + v], __ATOMIC_SEQ_CST);
}

/* What the spinning vCPU reads from now on. */
static uint8_t next_mirror(unsigned v)
{
	uint8_t got;

	__atomic_store_n(&P.ram[PRIG_FLAG + v], 0x55, __ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < 20000; i++) {
		got = mirror(v);
		if (got != 0x55)
			return got;
		nap();
	}
	fail_msg("the guest stands still");
	return 0;
}

static void case_1_punch_under_a_loop(void **state)
{
	assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, true), 0);
	for (unsigned round = 0; round < 50; round++) {
		wr(3, 0xaa);
		prig_spin(&P, 0, 3);
		go(0);
		assert_int_equal(next_mirror(0), 0xaa);
		assert_int_equal(prig_punch(P.gmem, 0, PAGE), 0);
		assert_int_equal(next_mirror(0), 0);
		halt(0);
	}
}

/* A store across two pages, while the first of them changes sides. Each half lands on one side or the other, whole. */
static void case_2_conversion_under_a_crossing_store(void **state)
{
	/* inc eax; mov es:[di],eax; jmp */
	static const uint8_t code[] = { 0x66, 0x40, 0x26, 0x66, 0x89, 0x05, 0xeb, 0xf8 };
	bool is_private = true;

	memcpy(P.ram + 0x5000, code, sizeof(code));
	assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, true), 0);
	wr(PAGE, 0);
	memset(P.shared, 0xee, PRIG_SIZE);
	prig_set(&P, 0, 0x5000, PAGE - 2, 0);
	go(0);
	for (unsigned i = 0; i < 2000; i++) {
		is_private = !is_private;
		assert_int_equal(prig_convert(&P, PRIG_AT, PAGE, is_private), 0);
		if (i % 64 == 0)
			nap();
	}
	/* On a loaded machine it may not have run at all while the page was shared. */
	assert_int_equal(prig_convert(&P, PRIG_AT, PAGE, false), 0);
	for (unsigned i = 0; i < 20000 && __atomic_load_n(&P.shared[PAGE - 2], __ATOMIC_RELAXED) == 0xee; i++)
		nap();
	assert_int_equal(prig_convert(&P, PRIG_AT, PAGE, true), 0);
	halt(0);
	/* The second page was private all the time: nothing of it is on the client's side. */
	assert_int_equal(P.shared[PAGE], 0xee);
	assert_int_equal(P.shared[PAGE - 3], 0xee);
	assert_true(P.shared[PAGE - 1] != 0xee || P.shared[PAGE - 2] != 0xee);
}

static void case_3_slot_deleted_under_a_loop(void **state)
{
	for (unsigned round = 0; round < 40; round++) {
		bool is_private = round & 1;
		long ret;

		assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, is_private), 0);
		prig_spin(&P, 0, PAGE);
		go(0);
		next_mirror(0);
		assert_int_equal(prig_delete(&P, 1), 0);
		ret = wait_end(0);
		if (is_private) {
			prig_expect_fault(&P, 0, ret, PRIG_AT + PAGE, true);
		} else {
			assert_int_equal(ret, 0);
			assert_int_equal(P.run[0]->exit_reason, KVM_EXIT_MMIO);
			assert_int_equal(P.run[0]->mmio.phys_addr, PRIG_AT + PAGE);
		}
		assert_int_equal(prig_slot(&P, 1, PRIG_AT, PRIG_SIZE, P.shared, P.gmem, 0), 0);
	}
}

static void case_4_file_closed_under_a_loop(void **state)
{
	for (unsigned round = 0; round < 40; round++) {
		long ret;

		assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, true), 0);
		prig_spin(&P, 0, PAGE);
		prig_spin(&P, 1, 2 * PAGE);
		go(0);
		go(1);
		next_mirror(0);
		next_mirror(1);
		assert_int_equal(gw_close(P.gmem), 0);
		ret = wait_end(0);
		prig_expect_fault(&P, 0, ret, PRIG_AT + PAGE, true);
		ret = wait_end(1);
		prig_expect_fault(&P, 1, ret, PRIG_AT + 2 * PAGE, true);
		assert_int_equal(prig_delete(&P, 1), 0);
		P.gmem = prig_gmem(&P, PRIG_SIZE, 0);
		assert_int_equal(prig_slot(&P, 1, PRIG_AT, PRIG_SIZE, P.shared, P.gmem, 0), 0);
	}
}

/* A guest that writes fresh pages one after the other, while they become shared: none is private afterwards. */
static void case_5_conversion_under_first_touches(void **state)
{
	/* mov es:[di],al; add di,1000; jmp */
	static const uint8_t code[] = { 0x26, 0x88, 0x05, 0x81, 0xc7, 0x00, 0x10, 0xeb, 0xf7 };

	memcpy(P.ram + 0x5100, code, sizeof(code));
	for (unsigned round = 0; round < 200; round++) {
		assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, true), 0);
		assert_int_equal(madvise(P.shared, PRIG_SIZE, MADV_DONTNEED), 0);
		prig_set(&P, 0, 0x5100, 0, 0x99);
		go(0);
		if (round % 3)
			nap();
		assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, false), 0);
		assert_int_equal(prig_punch(P.gmem, 0, PRIG_SIZE), 0);
		if (round % 2)
			nap();
		assert_int_equal(map_number("present_private"), 0);
		halt(0);
		assert_int_equal(map_number("present_private"), 0);
	}
}

static void case_6_files_without_slots(void **state)
{
	int other = prig_gmem(&P, PRIG_SIZE, 0);

	assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, true), 0);
	wr(0, 0x31);
	prig_spin(&P, 0, 0);
	go(0);
	for (unsigned i = 0; i < 500; i++) {
		assert_int_equal(gw_fallocate(other, KEEP, 0, PAGE), 0);
		assert_int_equal(prig_punch(other, 0, PRIG_SIZE), 0);
	}
	assert_int_equal(next_mirror(0), 0x31);
	halt(0);
	gw_close(other);
}

static void case_7_a_forked_client(void **state)
{
	int status;
	pid_t pid;

	assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, true), 0);
	wr(0, 0x41);
	pid = fork();
	if (!pid) {
		int bad = 0;
		uint8_t *p = P.shared;

		bad += prig_convert(&P, PRIG_AT, PAGE, false) != -EIO;
		bad += prig_slot(&P, 2, 0x200000, PAGE, p, -1, 0) != -EIO;
		bad += gw_ioctl(P.vcpu[0], KVM_RUN, 0) != -EIO;
		bad += prig_punch(P.gmem, 0, PAGE) != -EIO;
		p[0] = 1;	/* its own copy */
		gw_close(P.gmem);
		_exit(bad);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(rd(0), 0x41);
	assert_int_equal(P.shared[0], 0);
}

static void case_8_a_punch_across_two_slots(void **state)
{
	assert_int_equal(prig_delete(&P, 1), 0);
	/* Adjacent in the file, not in the guest. */
	assert_int_equal(prig_slot(&P, 1, PRIG_AT + 8 * PAGE, 4 * PAGE, NULL, P.gmem, 0), 0);
	assert_int_equal(prig_slot(&P, 2, PRIG_AT, 4 * PAGE, NULL, P.gmem, 4 * PAGE), 0);
	assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, true), 0);
	for (unsigned round = 0; round < 30; round++) {
		wr(11 * PAGE, 0x61);
		wr(0, 0x62);
		wr(PAGE, 0x63);
		prig_spin(&P, 0, 11 * PAGE);
		prig_spin(&P, 1, 0);
		prig_spin(&P, 2, PAGE);
		for (unsigned v = 0; v < 3; v++)
			go(v);
		assert_true(next_mirror(0) == 0x61 && next_mirror(1) == 0x62 && next_mirror(2) == 0x63);
		assert_int_equal(prig_punch(P.gmem, 3 * PAGE, 2 * PAGE), 0);
		assert_true(next_mirror(0) == 0 && next_mirror(1) == 0 && next_mirror(2) == 0x63);
		for (unsigned v = 0; v < 3; v++)
			halt(v);
	}
}

static void case_9_madvise_of_a_shared_file(void **state)
{
	int err;
	uint8_t *p = gw_mmap(PRIG_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, P.gmem, 0, &err);

	assert_non_null(p);
	p[0] = 0x71;
	prig_spin(&P, 0, 0);
	go(0);
	assert_int_equal(next_mirror(0), 0x71);
	assert_int_equal(madvise(p, PAGE, MADV_DONTNEED), 0);
	assert_int_equal(next_mirror(0), 0x71);
	assert_int_equal(madvise(p, PAGE, MADV_REMOVE), 0);
	assert_int_equal(next_mirror(0), 0);
	halt(0);
	munmap(p, PRIG_SIZE);
}

static void the_file_outlives_the_vm(void **state)
{
	int fd = P.gmem;

	assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, true), 0);
	wr(0, 1);
	P.gmem = -1;
	prig_close(&P);
	assert_int_equal(gw_fallocate(fd, KEEP, 0, PRIG_SIZE), 0);
	assert_int_equal(prig_punch(fd, 0, PRIG_SIZE), 0);
	assert_int_equal(gw_close(fd), 0);
	assert_int_equal(gw_close(fd), -EBADF);
	prig_open(&P, SW, 0);
}

static void a_duplicate_keeps_the_pages(void **state)
{
	int twin = dup(P.gmem);

	assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, true), 0);
	wr(0, 0x18);
	assert_int_equal(gw_close(P.gmem), 0);
	assert_int_equal(rd(0), 0x18);
	assert_int_equal(prig_punch(twin, 0, PAGE), 0);
	assert_int_equal(rd(0), 0);
	P.gmem = twin;
}

/* ---- secrecy ------------------------------------------------------------------------------------------------------------------ */

static const char marker[] = "Guest's own bytes: 5d41402abc4b2a76";

static bool found_in(const void *p, size_t n, const char *what)
{
	if (!memmem(p, n, what, 16))
		return false;
	return true;
}

static bool fd_has_marker(int fd, const char *what)
{
	static char buf[1 << 16];
	ssize_t n;
	bool found = false;

	for (off_t at = 0; (n = pread(fd, buf, sizeof(buf), at)) > 0 && at < (off_t)4 << 30; at += n - 32 > 0 ? n - 32 : n)
		found |= found_in(buf, (size_t)n, what);
	return found;
}

static bool any_fd_has_marker(const char *what)
{
	DIR *d = opendir("/proc/self/fd");
	struct dirent *e;
	bool found = false;

	while ((e = readdir(d)))
		if (e->d_name[0] != '.' && atoi(e->d_name) > 2 && atoi(e->d_name) != dirfd(d))
			found |= fd_has_marker(atoi(e->d_name), what);
	closedir(d);
	return found;
}

/* The guest makes the marker itself, by code that does not contain it: each byte is sent in scrambled and put right in the guest. */
static void guest_writes_marker(uint32_t at)
{
	/* xor al,5a; mov es:[di],al; out 10,al; jmp */
	static const uint8_t code[] = { 0x34, 0x5a, 0x26, 0x88, 0x05, 0xb0, 0x00, 0xe6, 0x10, 0xeb, 0xf5 };

	memcpy(P.ram + 0x6000, code, sizeof(code));
	for (unsigned i = 0; i < sizeof(marker) - 1; i++) {
		prig_set(&P, 0, 0x6000, at + i, (uint8_t)(marker[i] ^ 0x5a));
		assert_int_equal(gw_ioctl(P.vcpu[0], KVM_RUN, 0), 0);
		assert_int_equal(P.run[0]->exit_reason, KVM_EXIT_IO);
	}
}

static void private_bytes_stay_private(void **state)
{
	static char text[1 << 16];
	struct gw_dump d = { .flags = 15, .size = sizeof(text), .buf = (uintptr_t)text, .gva = PRIG_AT };
	struct gw_map m = { .size = sizeof(text), .buf = (uintptr_t)text };
	const char *what = marker;

	/* First: the same scan does find it in shared memory. */
	assert_int_equal(prig_convert(&P, PRIG_AT, PAGE, false), 0);
	guest_writes_marker(0x40);
	assert_true(found_in(P.shared, PRIG_SIZE, what));
	memset(P.shared, 0, PRIG_SIZE);
	assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, true), 0);
	guest_writes_marker(0x40);
	assert_int_equal(rd(0x40), marker[0]);
	assert_false(found_in(P.shared, PRIG_SIZE, what));
	assert_false(found_in(P.ram, PRIG_RAM, what));
	assert_false(found_in(P.run[0], 12288, what));
	assert_false(any_fd_has_marker(what));
	/* With RIP in it, the dump shows registers, not bytes. */
	prig_set(&P, 0, PRIG_AT + 0x40, 0, 0);
	assert_int_equal(pioctl(P.vcpu[0], GW_DUMP, &d), 0);
	assert_non_null(strstr(text, "rip="));
	assert_non_null(strstr(text, "is not in memory"));
	assert_false(found_in(text, sizeof(text), what));
	assert_int_equal(pioctl(P.vm, GW_MAP, &m), 0);
	assert_false(found_in(text, sizeof(text), what));
}

/* A core dump of a client whose only copy of the bytes is the guest's. */
static void a_core_dump_has_no_private_bytes(void **state)
{
	char dir[] = "/tmp/gw-core-XXXXXX", path[64], pattern[128] = "";
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	FILE *f = fopen("/proc/sys/kernel/core_pattern", "re");
	char shared_mark[17], private_mark[17];
	int status, fd;
	pid_t pid;

	if (f) {
		assert_true(fgets(pattern, sizeof(pattern), f) != NULL);
		fclose(f);
	}
	if (strcmp(pattern, "core\n") || !mkdtemp(dir)) {
		print_message("core_pattern is not 'core': only the mappings were looked at\n");
		skip();
	}
	pid = fork();
	if (!pid) {
		struct prig own;

		if (chdir(dir) || setrlimit(RLIMIT_CORE, &unlimited))
			_exit(1);
		prig_open(&own, SW, 0);
		prig_convert(&own, PRIG_AT, PAGE, true);
		/* 16 times the same letter: in registers one at a time only. */
		for (unsigned i = 0; i < 16; i++)
			prig_write(&own, 0, 0x80 + i, (uint8_t)(0xc1 + 3 * i));
		for (unsigned i = 0; i < 16; i++)
			prig_write(&own, 0, PAGE + 0x80 + i, (uint8_t)(0xc2 + 5 * i));
		signal(SIGABRT, SIG_DFL);
		abort();
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	snprintf(path, sizeof(path), "%s/core", dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		char with_pid[96];

		snprintf(with_pid, sizeof(with_pid), "%s.%d", path, (int)pid);
		snprintf(path, sizeof(path), "%.60s", with_pid);
		fd = open(path, O_RDONLY | O_CLOEXEC);
	}
	if (!WIFSIGNALED(status) || fd < 0) {
		rmdir(dir);
		print_message("no core was written here\n");
		skip();
	}
	for (unsigned i = 0; i < 16; i++) {
		private_mark[i] = (char)(0xc1 + 3 * i);
		shared_mark[i] = (char)(0xc2 + 5 * i);
	}
	assert_true(fd_has_marker(fd, shared_mark));
	assert_false(fd_has_marker(fd, private_mark));
	close(fd);
	unlink(path);
	rmdir(dir);
}

/* kvmclock, wall clock and steal time where the guest says: in a private page nothing is written. */
static void host_structures_do_not_reach_private_pages(void **state)
{
	struct { uint32_t n, pad; struct kvm_msr_entry e[2]; } m = { .n = 2 };
	struct { uint32_t n, pad; struct kvm_cpuid_entry2 e[100]; } c = { .n = 100 };

	assert_int_equal(pioctl(P.sys, KVM_GET_SUPPORTED_CPUID, &c), 0);
	assert_int_equal(pioctl(P.vcpu[0], KVM_SET_CPUID2, &c), 0);
	m.e[0].index = 0x4b564d01;
	m.e[0].data = (PRIG_AT + 0x100) | 1;
	m.e[1].index = 0x4b564d03;
	m.e[1].data = (PRIG_AT + 0x200) | 1;
	for (unsigned is_private = 0; is_private < 2; is_private++) {
		unsigned n = 0;

		memset(P.shared, 0, PAGE);
		assert_int_equal(prig_convert(&P, PRIG_AT, PAGE, is_private), 0);
		if (is_private)
			assert_int_equal(prig_punch(P.gmem, 0, PAGE), 0);
		assert_int_equal(pioctl(P.vcpu[0], KVM_SET_MSRS, &m), 2);
		rd(PAGE);
		for (unsigned i = 0x100; i < 0x240; i++)
			n += P.shared[i] != 0;
		assert_true(is_private ? n == 0 : n > 4);
		for (unsigned i = 0x100; is_private && i < 0x240; i++)
			assert_int_equal(rd(i), 0);
	}
}

/* No log of what has a file; and the other slots' logs say nothing of it. */
static void there_is_no_dirty_log_of_private_pages(void **state)
{
	uint64_t bits[4] = { 0 };
	struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = bits };
	struct kvm_userspace_memory_region2 r = {
		.slot = 0, .flags = KVM_MEM_LOG_DIRTY_PAGES, .memory_size = PRIG_RAM, .userspace_addr = (uintptr_t)P.ram,
	};

	assert_int_equal(pioctl(P.vm, KVM_SET_USER_MEMORY_REGION2, &r), 0);
	assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, true), 0);
	wr(0, 1);
	assert_int_equal(pioctl(P.vm, KVM_GET_DIRTY_LOG, &log), -ENOENT);
	log.slot = 0;
	assert_int_equal(pioctl(P.vm, KVM_GET_DIRTY_LOG, &log), 0);
	assert_int_equal(bits[0], 0);
}

/* Rights of kernel integrity and the kind of a page are two things: both stand on one page, and neither change undoes the other. */
static void rights_and_kinds_stand_on_one_page(void **state)
{
	struct kvm_enable_cap c = { .cap = KVM_CAP_HEKI_DENIAL, .args = { KVM_HEKI_EXIT_REASON_MEM } };
	struct gw_heki_attributes a = { .address = PRIG_AT, .size = PAGE, .attributes = GW_HEKI_NW, .mask = GW_HEKI_NW };
	const struct gw_run_heki_denial *d = (const void *)P.run[0]->padding;

	assert_int_equal(pioctl(P.vm, KVM_ENABLE_CAP, &c), 0);
	assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, true), 0);
	wr(5, 0x3d);
	assert_int_equal(pioctl(P.vm, GW_HEKI_SET_ATTRIBUTES, &a), 0);
	for (unsigned i = 0; i < 4; i++) {
		/* Private, shared, private again. */
		assert_int_equal(prig_convert(&P, PRIG_AT, PAGE, !(i & 1)), 0);
		assert_int_equal(prig_write(&P, 0, 5, 0x77), KVM_EXIT_HEKI_DENIAL);
		assert_int_equal(d->mem.gpa & ~4095ull, PRIG_AT);
		/* The exit tells where, not what. */
		for (unsigned k = 0; k < 7; k++)
			assert_true(d->reserved[k] != 0x3d && d->reserved[k] != 0x77);
		assert_int_equal(rd(5), i & 1 ? 0 : 0x3d);
		wr(PAGE + 5, (uint8_t)i);
	}
	/* The kind is looked at first: no slot for a private page is a memory fault, whatever the rights. */
	assert_int_equal(prig_convert(&P, PRIG_AT, PAGE, true), 0);
	assert_int_equal(prig_delete(&P, 1), 0);
	prig_expect_fault(&P, 0, prig_write(&P, 0, 5, 1), PRIG_AT, true);
}

/* The question that was asked of the first series: is anything there twice? */
static void a_touched_guest_costs_its_memory(void **state)
{
	const uint64_t size = 64ull << 20, at = 0x1000000;
	int fd = prig_gmem(&P, size, 0);
	struct kvm_pre_fault_memory f = { .gpa = at, .size = size };
	unsigned long before[2], after[2], size_kib = size >> 10, grown;
	FILE *s;

	assert_int_equal(prig_slot(&P, 2, at, size, NULL, fd, 0), 0);
	assert_int_equal(prig_convert(&P, at, size, true), 0);
	for (unsigned i = 0; i < 2; i++) {
		unsigned long *v = i ? after : before;

		if (i)
			assert_int_equal(pioctl(P.vcpu[0], KVM_PRE_FAULT_MEMORY, &f), 0);
		s = fopen("/proc/self/statm", "re");
		assert_true(s && fscanf(s, "%lu %lu", &v[0], &v[1]) == 2);
		fclose(s);
	}
	grown = (after[1] - before[1]) * 4;
	print_message("# %lu KiB of private memory touched: %lu KiB resident (%+.3f %%)\n", size_kib, grown,
		      100.0 * ((double)grown - (double)size_kib) / (double)size_kib);
	assert_true(grown >= size_kib && grown < size_kib + size_kib / 1000 + 64);
	gw_close(fd);
}

#define T(name, fn, open) { name, fn, open, close_it, NULL }

int main(void)
{
	static const struct CMUnitTest tests[] = {
		T("each side keeps its own bytes", each_side_keeps_its_own, open_protected),
		T("code follows the side", code_follows_the_side, open_protected),
		T("a private page without a side is a memory fault, never MMIO", a_private_page_without_a_side_faults, open_protected),
		T("walks go through private tables, the client's do not", a_walk_through_private_tables, open_protected),
		T("a denied probe allocates nothing", a_denied_probe_allocates_nothing, open_protected),
		T("the conversion hypercall", the_conversion_hypercall, open_protected),
		T("1: a punch under a loop of loads is seen", case_1_punch_under_a_loop, open_protected),
		T("2: a conversion under a store across two pages", case_2_conversion_under_a_crossing_store, open_protected),
		T("3: a slot deleted under a loop", case_3_slot_deleted_under_a_loop, open_protected),
		T("4: a file closed under a loop", case_4_file_closed_under_a_loop, open_protected),
		T("5: a conversion under first touches", case_5_conversion_under_first_touches, open_protected),
		T("6: files without slots disturb nobody", case_6_files_without_slots, open_protected),
		T("7: a forked client gets EIO and harms nothing", case_7_a_forked_client, open_protected),
		T("8: a punch across two slots reaches both", case_8_a_punch_across_two_slots, open_protected),
		T("9: REMOVE punches, DONTNEED does not", case_9_madvise_of_a_shared_file, open_default),
		T("the file outlives the VM", the_file_outlives_the_vm, open_protected),
		T("a duplicate keeps the pages", a_duplicate_keeps_the_pages, open_protected),
		T("private bytes stay private", private_bytes_stay_private, open_protected),
		{ "a core dump has no private bytes", a_core_dump_has_no_private_bytes, NULL, NULL, NULL },
		T("host structures do not reach private pages", host_structures_do_not_reach_private_pages, open_protected),
		T("there is no dirty log of private pages", there_is_no_dirty_log_of_private_pages, open_protected),
		T("rights and kinds stand on one page", rights_and_kinds_stand_on_one_page, open_protected),
		T("a touched guest costs its memory", a_touched_guest_costs_its_memory, open_protected),
	};

	return cmocka_run_group_tests_name("private memory: guests", tests, NULL, NULL);
}
