/* SPDX-License-Identifier: MIT */
/* irqfds whose eventfd the client closes without saying so: they go with its last descriptor, wherever that is. */
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "flat.h"

#define GSI	30
#define VECTOR	0x51

static void pause_ms(unsigned ms)
{
	nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 }, NULL);
}

/* Descriptors of this process that are eventfds. */
static unsigned n_eventfds(void)
{
	DIR *d = opendir("/proc/self/fd");
	struct dirent *e;
	unsigned n = 0;

	assert_non_null(d);
	while ((e = readdir(d))) {
		char path[300], to[64];
		ssize_t len;

		snprintf(path, sizeof(path), "/proc/self/fd/%s", e->d_name);
		len = readlink(path, to, sizeof(to) - 1);
		n += len > 0 && !strncmp(to, "anon_inode:[eventfd]", (size_t)len);
	}
	closedir(d);
	return n;
}

static bool wait_eventfds(unsigned n)
{
	for (unsigned i = 0; i < 100; i++) {
		if (n_eventfds() == n)
			return true;
		pause_ms(100);
	}
	return false;
}

static void signal_it(int fd)
{
	const uint64_t one = 1;

	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

/* The vector in IRR, within ten seconds; it is then taken out. */
static bool arrives(struct rig *r)
{
	struct kvm_lapic_state l;

	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(rig_ioctl(r->vcpu, KVM_GET_LAPIC, &l), 0);
		if (l.regs[0x200 + VECTOR / 32 * 16 + VECTOR % 32 / 8] >> VECTOR % 8 & 1) {
			memset(l.regs + 0x200, 0, 0x80);
			assert_int_equal(rig_ioctl(r->vcpu, KVM_SET_LAPIC, &l), 0);
			return true;
		}
		pause_ms(100);
	}
	return false;
}

static int open_irqfd(struct rig *r)
{
	struct rig_routing routing = { .nr = 1, .e = { { .gsi = GSI, .type = KVM_IRQ_ROUTING_MSI,
		.u.msi = { .address_lo = 0xfee00000, .data = VECTOR } } } };
	struct kvm_irqfd args = { .gsi = GSI };
	int fd = eventfd(0, EFD_NONBLOCK);

	assert_true(fd >= 0);
	flat_open(r, RIG_IRQCHIP);
	assert_int_equal(rig_ioctl(r->vm, KVM_SET_GSI_ROUTING, &routing), 0);
	args.fd = (uint32_t)fd;
	assert_int_equal(rig_ioctl(r->vm, KVM_IRQFD, &args), 0);
	signal_it(fd);
	assert_true(arrives(r));
	return fd;
}

static void closed_is_gone(void **state)
{
	struct rig r;
	int fd = open_irqfd(&r), other;
	struct kvm_irqfd args = { .gsi = GSI };
	unsigned n = n_eventfds();

	close(fd);
	assert_true(wait_eventfds(n - 2));
	/* Whatever its name is now: another one is not in use. */
	other = eventfd(0, EFD_NONBLOCK);
	args.fd = (uint32_t)other;
	assert_int_equal(rig_ioctl(r.vm, KVM_IRQFD, &args), 0);
	signal_it(other);
	assert_true(arrives(&r));
	close(other);
	rig_close(&r);
}

static void a_duplicate_keeps_it(void **state)
{
	struct rig r;
	int fd = open_irqfd(&r), copy = dup(fd);
	unsigned n = n_eventfds();

	close(fd);
	pause_ms(2500);
	assert_int_equal(n_eventfds(), n - 1);
	signal_it(copy);
	assert_true(arrives(&r));
	assert_int_equal(eventfd_read(copy, &(eventfd_t){ 0 }), -1);	/* the count was taken */
	close(copy);
	assert_true(wait_eventfds(n - 3));
	rig_close(&r);
}

/* It signals when it is told, twice, and ends. */
static void child(int fd, int from)
{
	char c;

	for (unsigned i = 0; i < 2; i++) {
		const uint64_t one = 1;

		if (read(from, &c, 1) != 1 || write(fd, &one, sizeof(one)) != sizeof(one))
			_exit(1);
	}
	_exit(read(from, &c, 1) != 0);
}

static void another_process_keeps_it(void **state)
{
	int pipes[2], fd, status;
	struct rig r;
	unsigned n;
	pid_t pid;

	assert_int_equal(pipe(pipes), 0);
	fd = open_irqfd(&r);
	n = n_eventfds();
	pid = fork();
	if (pid == 0) {
		close(pipes[1]);
		child(fd, pipes[0]);
	}
	close(pipes[0]);
	close(fd);
	assert_true(wait_eventfds(n - 2));
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(write(pipes[1], "x", 1), 1);
		assert_true(arrives(&r));
	}
	close(pipes[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	pause_ms(1500);
	rig_close(&r);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		{ "an irqfd goes when its eventfd is closed", closed_is_gone },
		{ "a duplicate of the eventfd keeps it", a_duplicate_keeps_it },
		{ "an eventfd that only another process has still interrupts", another_process_keeps_it },
	};

	return cmocka_run_group_tests_name("closed eventfds", tests, NULL, NULL);
}
