/* SPDX-License-Identifier: MIT */
/*
 * The cases of the newer suites (Linux 7.1) that need signals, threads or a privilege level; and what a monitor gets to see of
 * private pages, which is where and how, never what.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include <guestward/monitor.h>

#include "prig.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static struct prig P;

static int open_protected(void **state) { prig_open(&P, SW, 0); return 0; }
static int open_default(void **state) { prig_open(&P, 0, SHARED); return 0; }
static int close_it(void **state) { prig_close(&P); return 0; }

/* ---- touching mappings ------------------------------------------------------------------------------------------------------ */

static sigjmp_buf landing;
static int code;

static void land(int sig, siginfo_t *info, void *ctx)
{
	code = info->si_code;
	siglongjmp(landing, 1);
}

/* The si_code of the SIGBUS, 0: none. */
static int touch(uint8_t *at, bool write)
{
	struct sigaction sa = { .sa_sigaction = land, .sa_flags = SA_SIGINFO }, was;

	sigaction(SIGBUS, &sa, &was);
	code = 0;
	if (sigsetjmp(landing, 1) == 0) {
		if (write)
			*(volatile uint8_t *)at = 0xaa;
		else
			(void)*(volatile uint8_t *)at;
	}
	sigaction(SIGBUS, &was, NULL);
	return code;
}

static void pages_that_are_not_shared_are_sigbus(void **state)
{
	int fd = prig_gmem(&P, 4 * PAGE, GUEST_MEMFD_FLAG_MMAP), err;
	uint8_t *p = gw_mmap(4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0, &err);

	assert_non_null(p);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(touch(p + i * PAGE, false), BUS_ADRERR);
		assert_int_equal(touch(p + i * PAGE + 5, true), BUS_ADRERR);
	}
	assert_true(madvise(p, PAGE, MADV_POPULATE_WRITE) == -1 && errno == EFAULT);
	munmap(p, 4 * PAGE);
	gw_close(fd);
}

static void past_the_end_is_sigbus(void **state)
{
	int err;
	uint8_t *p = gw_mmap(4 * PRIG_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, P.gmem, 0, &err);

	assert_non_null(p);
	for (unsigned i = 0; i < N_PAGES; i++)
		assert_int_equal(touch(p + i * PAGE, true), 0);
	for (unsigned i = N_PAGES; i < 4 * N_PAGES; i += 7)
		assert_int_equal(touch(p + i * PAGE, i & 1), BUS_ADRERR);
	for (unsigned i = 0; i < N_PAGES; i++)
		assert_int_equal(p[i * PAGE], 0xaa);
	assert_int_equal(madvise(p, PRIG_SIZE, MADV_POPULATE_WRITE), 0);
	assert_int_equal(madvise(p, PRIG_SIZE, MADV_HUGEPAGE), 0);
	assert_true(madvise(p, PAGE, MADV_FREE) == -1 && errno == EINVAL);
	assert_int_equal(mlock(p, PAGE), 0);
	munmap(p, 4 * PRIG_SIZE);
}

/* The host address of such a slot is not used, and may be none. */
static void a_slot_needs_no_host_address(void **state)
{
	int fd = prig_gmem(&P, PAGE, SHARED), err;
	uint8_t value = 0, *p;

	assert_int_equal(prig_delete(&P, 1), 0);
	assert_int_equal(prig_slot(&P, 1, PRIG_AT, PAGE, NULL, fd, 0), 0);
	p = gw_mmap(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0, &err);
	assert_non_null(p);
	memset(p, 0xaa, PAGE);
	munmap(p, PAGE);
	for (uint32_t i = 0; i < PAGE; i += 61) {
		assert_int_equal(prig_read(&P, 0, i, &value), 0);
		assert_int_equal(value, 0xaa);
		assert_int_equal(prig_write(&P, 0, i, 0xff), 0);
	}
	p = gw_mmap(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0, &err);
	assert_non_null(p);
	for (uint32_t i = 0; i < PAGE; i++)
		assert_int_equal(p[i], i % 61 ? 0xaa : 0xff);
	munmap(p, PAGE);
	gw_close(fd);
}

/* ---- prefault under deletion -------------------------------------------------------------------------------------------------- */

static atomic_bool stop;

static void *delete_and_add(void *arg)
{
	while (!atomic_load(&stop)) {
		assert_int_equal(prig_delete(&P, 1), 0);
		assert_int_equal(prig_slot(&P, 1, PRIG_AT, PRIG_SIZE, P.shared, P.gmem, 0), 0);
	}
	return NULL;
}

static void prefault_races_with_deletion(void **state)
{
	unsigned n[2] = { 0, 0 };
	pthread_t t;

	atomic_store(&stop, false);
	assert_int_equal(prig_convert(&P, PRIG_AT + PRIG_SIZE / 2, PRIG_SIZE / 2, true), 0);
	assert_int_equal(pthread_create(&t, NULL, delete_and_add, NULL), 0);
	for (unsigned i = 0; i < 100000 && (i < 2000 || !n[0] || !n[1]); i++) {
		struct kvm_pre_fault_memory f = { .gpa = PRIG_AT, .size = PRIG_SIZE };
		long ret = pioctl(P.vcpu[0], KVM_PRE_FAULT_MEMORY, &f);

		/* The size changes exactly when it says that something was done. A private page without a slot is nowhere, too. */
		assert_true(ret == 0 ? f.size < PRIG_SIZE : f.size == PRIG_SIZE);
		assert_true(ret == 0 || ret == -ENOENT || ret == -EAGAIN || ret == -EINTR);
		assert_true(f.gpa + f.size == PRIG_AT + PRIG_SIZE);
		n[ret == 0]++;
	}
	atomic_store(&stop, true);
	pthread_join(t, NULL);
	print_message("# %u found the slot, %u did not\n", n[1], n[0]);
	assert_true(n[1] > 0);
}

/* ---- who may convert ----------------------------------------------------------------------------------------------------------- */

static void only_a_kernel_asks_for_conversions(void **state)
{
	static const uint8_t vmcall[] = { 0x0f, 0x01, 0xc1, 0xf4 };
	struct kvm_enable_cap c = { .cap = KVM_CAP_EXIT_HYPERCALL, .args = { 1u << 12 } };
	struct kvm_regs r = { .rip = 0x6000, .rflags = 0x3002, .rax = 12, .rbx = PRIG_AT, .rcx = 1, .rdx = 16 };
	struct kvm_sregs s;

	memcpy(P.ram + 0x6000, vmcall, sizeof(vmcall));
	P.ram[0x6003] = 0xe6;	/* out 10,al */
	P.ram[0x6004] = 0x10;
	assert_int_equal(pioctl(P.vm, KVM_ENABLE_CAP, &c), 0);
	for (unsigned cpl = 0; cpl < 4; cpl += 3) {
		assert_int_equal(pioctl(P.vcpu[0], KVM_GET_SREGS, &s), 0);
		s.cr0 |= 1;
		s.cs = (struct kvm_segment){ .limit = ~0u, .selector = (uint16_t)(8 | cpl), .type = 11, .present = 1, .dpl = (uint8_t)cpl,
					     .db = 1, .s = 1, .g = 1 };
		s.ss = (struct kvm_segment){ .limit = ~0u, .selector = (uint16_t)(16 | cpl), .type = 3, .present = 1, .dpl = (uint8_t)cpl,
					     .db = 1, .s = 1, .g = 1 };
		s.ds = s.es = s.fs = s.gs = s.ss;
		assert_int_equal(pioctl(P.vcpu[0], KVM_SET_SREGS, &s), 0);
		assert_int_equal(pioctl(P.vcpu[0], KVM_SET_REGS, &r), 0);
		gw_ioctl(P.vcpu[0], KVM_SET_MP_STATE, (uintptr_t)&(struct kvm_mp_state){ KVM_MP_STATE_RUNNABLE });
		assert_int_equal(gw_ioctl(P.vcpu[0], KVM_RUN, 0), 0);
		if (!cpl) {
			assert_int_equal(P.run[0]->exit_reason, KVM_EXIT_HYPERCALL);
			P.run[0]->hypercall.ret = 0;
			assert_int_equal(gw_ioctl(P.vcpu[0], KVM_RUN, 0), 0);
		}
		/* I/O is allowed at level 3 by IOPL. */
		assert_int_equal(P.run[0]->exit_reason, KVM_EXIT_IO);
		assert_int_equal(((uint8_t *)P.run[0])[P.run[0]->io.data_offset], cpl ? 0xff : 0);	/* AL of -EPERM */
	}
}

/* ---- monitors ------------------------------------------------------------------------------------------------------------------ */

static struct gw_mon_event seen;
static unsigned n_seen;

static void told(void *opaque, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	seen = *ev;
	n_seen++;
	a->flags = GW_MON_ANS_ALLOW | GW_MON_ANS_BLANKET;
}

static long monitor(uint32_t op, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, void *payload, uint32_t in, uint32_t room)
{
	struct gw_monitor m = { .cmd = { .op = op, .size = in, .a = { a0, a1, a2, a3 } }, .payload = (uintptr_t)payload, .payload_size = room };
	long ret = pioctl(P.vm, GW_MONITOR, &m);

	return ret ? ret : m.reply.err;
}

static bool has_byte(const void *p, size_t n, uint8_t byte)
{
	return memchr(p, byte, n) != NULL;
}

static void a_monitor_sees_where_not_what(void **state)
{
	struct gw_monitor_attach a = { .door = GW_MON_CALLBACK, .callback = (uintptr_t)told };
	uint8_t bytes[64] = { 0 }, value = 0;

	assert_int_equal(pioctl(P.vm, GW_MONITOR_ATTACH, &a), 0);
	assert_int_equal(prig_write(&P, 0, 0x40, 0xd7), 0);	/* shared */
	assert_int_equal(monitor(GW_MON_OP_READ, PRIG_AT + 0x40, 16, 0, 0, bytes, 0, sizeof(bytes)), 0);
	assert_int_equal(bytes[0], 0xd7);
	assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, true), 0);
	assert_int_equal(prig_write(&P, 0, 0x40, 0xe9), 0);
	memset(bytes, 0, sizeof(bytes));
	assert_true(monitor(GW_MON_OP_READ, PRIG_AT + 0x40, 16, 0, 0, bytes, 0, sizeof(bytes)) < 0);
	assert_false(has_byte(bytes, sizeof(bytes), 0xe9) || has_byte(bytes, sizeof(bytes), 0xd7));
	bytes[0] = 0x11;
	assert_true(monitor(GW_MON_OP_WRITE, PRIG_AT + 0x40, 1, 0, 0, bytes, 1, sizeof(bytes)) < 0);
	assert_int_equal(prig_read(&P, 0, 0x40, &value), 0);
	assert_int_equal(value, 0xe9);
	/* It may forbid, and is told of where. */
	assert_int_equal(monitor(GW_MON_OP_SET_ACCESS, 0, GW_MON_N, PRIG_AT / PAGE, 1, NULL, 0, 0), 0);
	n_seen = 0;
	value = 0;
	assert_int_equal(prig_read(&P, 0, 0x40, &value), 0);
	assert_int_equal(value, 0xe9);
	assert_true(n_seen > 0);
	assert_int_equal(seen.reason, GW_MON_MEM_ACCESS);
	assert_int_equal(seen.u.mem.gfn, PRIG_AT / PAGE);
	assert_int_equal(seen.u.mem.offset, 0x40);
	assert_false(has_byte(&seen, sizeof(seen), 0xe9));
	assert_int_equal(monitor(GW_MON_OP_DETACH, 1, 0, 0, 0, NULL, 0, 0), 0);
}

#define T(name, fn, open) { name, fn, open, close_it, NULL }

int main(void)
{
	static const struct CMUnitTest tests[] = {
		T("pages that are not shared are SIGBUS", pages_that_are_not_shared_are_sigbus, open_protected),
		T("past the end is SIGBUS, before it is memory", past_the_end_is_sigbus, open_default),
		T("a slot with a shared file needs no host address", a_slot_needs_no_host_address, open_default),
		T("prefault races with deletion", prefault_races_with_deletion, open_protected),
		T("only a kernel asks for conversions", only_a_kernel_asks_for_conversions, open_protected),
		T("a monitor sees where, not what", a_monitor_sees_where_not_what, open_protected),
	};

	return cmocka_run_group_tests_name("private memory: cases", tests, NULL, NULL);
}
