/* SPDX-License-Identifier: MIT */
/*
 * Shape 3: the client writes guest memory behind the engine's back, as DMA does, and takes memory away.
 *
 * A guest in real mode calls a small function and sends what it returned to a port; the client rewrites the function between
 * two exits by every way a VMM has (plain stores, read(2), pread, process_vm_writev) and the next value must be the new one.
 * Then the client makes a page read-only: read(2) into it fails with EFAULT and no signal, the guest's store ends KVM_RUN
 * with EFAULT and changes nothing, and succeeds when run again after the page came back. All under a storm of signals.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

#include "guestward/guestward.h"
#include "guestward/kvm.h"

#define RAM_SIZE	0x10000u
#define CODE		0x1000u		/* 1: call f; out %al, $0x10; jmp 1b */
#define FUNCTION	0x2000u		/* mov $imm, %al; ret */
#define STORER		0x3000u		/* movb $0x5a, 0x4000; hlt */
#define SEALED		0x4000u

struct machine {
	int sys, vm, vcpu;
	uint8_t *ram;
	struct kvm_run *run;
};

static volatile sig_atomic_t signals;

static void on_alarm(int sig)
{
	(void)sig;
	signals++;
}

static long call(int fd, unsigned long request, const void *arg)
{
	return gw_ioctl(fd, request, (unsigned long)(uintptr_t)arg);
}

static void start_at(struct machine *m, uint16_t ip)
{
	struct kvm_regs regs = { .rip = ip, .rsp = 0x8000, .rflags = 2 };
	struct kvm_sregs s;

	assert_int_equal(call(m->vcpu, KVM_GET_SREGS, &s), 0);
	s.cs.base = s.ds.base = s.es.base = s.ss.base = 0;
	s.cs.selector = s.ds.selector = s.es.selector = s.ss.selector = 0;
	assert_int_equal(call(m->vcpu, KVM_SET_SREGS, &s), 0);
	assert_int_equal(call(m->vcpu, KVM_SET_REGS, &regs), 0);
}

static int setup(void **state)
{
	static const uint8_t code[] = { 0xe8, 0xfd, 0x0f, 0xe6, 0x10, 0xeb, 0xf9 };
	static const uint8_t function[] = { 0xb0, 0x00, 0xc3 };
	static const uint8_t storer[] = { 0xc6, 0x06, 0x00, 0x40, 0x5a, 0xf4 };
	struct machine *m = calloc(1, sizeof(*m));
	struct kvm_userspace_memory_region r = { .memory_size = RAM_SIZE };
	struct sigaction sa = { .sa_handler = on_alarm };
	struct itimerval storm = { { 0, 300 }, { 0, 300 } };
	int err;

	m->sys = gw_open();
	m->vm = (int)gw_ioctl(m->sys, KVM_CREATE_VM, 0);
	m->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(m->sys >= 0 && m->vm >= 0 && m->ram != MAP_FAILED);
	memcpy(m->ram + CODE, code, sizeof(code));
	memcpy(m->ram + FUNCTION, function, sizeof(function));
	memcpy(m->ram + STORER, storer, sizeof(storer));
	r.userspace_addr = (uintptr_t)m->ram;
	assert_int_equal(call(m->vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
	m->vcpu = (int)gw_ioctl(m->vm, KVM_CREATE_VCPU, 0);
	assert_true(m->vcpu >= 0);
	m->run = gw_mmap(12288, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu, 0, &err);
	assert_non_null(m->run);
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &storm, NULL);
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	struct machine *m = *state;
	struct itimerval off = { { 0, 0 }, { 0, 0 } };

	setitimer(ITIMER_REAL, &off, NULL);
	munmap(m->run, 12288);
	gw_close(m->vcpu);
	gw_close(m->vm);
	gw_close(m->sys);
	munmap(m->ram, RAM_SIZE);
	free(m);
	return 0;
}

/* Run until an exit that is not a signal's. Returns what KVM_RUN returned. */
static long run(struct machine *m)
{
	long r;

	do
		r = gw_ioctl(m->vcpu, KVM_RUN, 0);
	while (r == -EINTR);
	return r;
}

static int next_value(struct machine *m)
{
	assert_int_equal(run(m), 0);
	assert_int_equal(m->run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(m->run->io.port, 0x10);
	return *((uint8_t *)m->run + m->run->io.data_offset);
}

static void by_store(struct machine *m, uint8_t v) { *(volatile uint8_t *)(m->ram + FUNCTION + 1) = v; }

static void by_read(struct machine *m, uint8_t v)
{
	int p[2];
	ssize_t n;

	assert_int_equal(pipe(p), 0);
	assert_int_equal(write(p[1], &v, 1), 1);
	do
		n = read(p[0], m->ram + FUNCTION + 1, 1);
	while (n < 0 && errno == EINTR);
	assert_int_equal(n, 1);
	close(p[0]);
	close(p[1]);
}

static void by_pread(struct machine *m, uint8_t v)
{
	int fd = memfd_create("disk", MFD_CLOEXEC);

	assert_int_equal(pwrite(fd, &v, 1, 512), 1);
	assert_int_equal(pread(fd, m->ram + FUNCTION + 1, 1, 512), 1);
	close(fd);
}

static void by_vm_writev(struct machine *m, uint8_t v)
{
	struct iovec from = { &v, 1 }, to = { m->ram + FUNCTION + 1, 1 };

	assert_int_equal(process_vm_writev(getpid(), &from, 1, &to, 1, 0), 1);
}

static void rewritten_code_runs(void **state)
{
	static void (*const ways[])(struct machine *, uint8_t) = { by_store, by_read, by_pread, by_vm_writev };
	struct machine *m = *state;

	start_at(m, CODE);
	assert_int_equal(next_value(m), 0);
	for (unsigned i = 1; i < 20000; i++) {
		ways[i % 4](m, (uint8_t)i);
		assert_int_equal(next_value(m), (uint8_t)i);
	}
	assert_true(signals > 0);
}

static void sealed_page_stays(void **state)
{
	struct machine *m = *state;
	int p[2];
	ssize_t n;

	/* The instruction that begins to run was decoded and its store once allowed: a remembered right must not survive. */
	start_at(m, STORER);
	assert_int_equal(run(m), 0);
	assert_int_equal(m->run->exit_reason, KVM_EXIT_HLT);
	assert_int_equal(m->ram[SEALED], 0x5a);
	m->ram[SEALED] = 0x11;

	assert_int_equal(mprotect(m->ram + SEALED, 4096, PROT_READ), 0);
	assert_int_equal(pipe(p), 0);
	assert_int_equal(write(p[1], "x", 1), 1);
	do
		n = read(p[0], m->ram + SEALED, 1);
	while (n < 0 && errno == EINTR);
	assert_int_equal(n, -1);
	assert_int_equal(errno, EFAULT);
	close(p[0]);
	close(p[1]);

	start_at(m, STORER);
	assert_int_equal(run(m), -EFAULT);
	assert_int_equal(m->ram[SEALED], 0x11);

	assert_int_equal(mprotect(m->ram + SEALED, 4096, PROT_READ | PROT_WRITE), 0);
	assert_int_equal(run(m), 0);
	assert_int_equal(m->run->exit_reason, KVM_EXIT_HLT);
	assert_int_equal(m->ram[SEALED], 0x5a);
}

static void unmapped_code_is_efault(void **state)
{
	struct machine *m = *state;

	start_at(m, CODE);
	next_value(m);
	assert_int_equal(mprotect(m->ram + FUNCTION, 4096, PROT_NONE), 0);
	assert_int_equal(run(m), -EFAULT);
	assert_int_equal(mprotect(m->ram + FUNCTION, 4096, PROT_READ | PROT_WRITE), 0);
	*(m->ram + FUNCTION + 1) = 0x77;
	assert_int_equal(next_value(m), 0x77);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		{ "code the client rewrote behind the engine runs as rewritten", rewritten_code_runs, setup, teardown, NULL },
		{ "a store to a page the client sealed is EFAULT, changes nothing, and can be repeated", sealed_page_stays, setup, teardown, NULL },
		{ "fetching from memory the client took away is EFAULT, and goes on when it is back", unmapped_code_is_efault, setup, teardown, NULL },
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
