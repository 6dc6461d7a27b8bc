/* SPDX-License-Identifier: MIT */
/*
 * Runs one bare-metal test guest (guest/flat) on the public API and passes its rows on as TAP.
 *
 * The guest is a 64 KiB BIOS image. It writes text to port 0xe9, reads 0xe9 from there, and ends by a byte to port 0xf4: 0 when
 * all rows passed. An end in any other way - triple fault, an exit nobody expects, silence - is a failed row of ours.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <guestward/guestward.h>
#include <guestward/kvm.h>

#define RAM_SIZE	(64u << 20)
#define IMAGE_SIZE	0x10000u
#define PORT_TEXT	0xe9
#define PORT_END	0xf4
#define SECONDS		60

struct machine {
	int sys, vm, vcpu;
	struct kvm_run *run;
	uint8_t *ram, *rom;
	unsigned rows, failed;
	bool ended;
	unsigned status;
	char line[512];
	size_t n_line;
};

static volatile sig_atomic_t is_late;

static void on_alarm(int sig)
{
	is_late = 1;
}

static void die(const char *what, long err)
{
	printf("Bail out! %s: %s\n", what, strerror((int)-err));
	exit(1);
}

static long need(const char *what, long ret)
{
	if (ret < 0)
		die(what, ret);
	return ret;
}

static void fail(struct machine *m, const char *why)
{
	printf("not ok - the guest %s\n", why);
	m->rows++;
	m->failed++;
}

/* A line of the guest: rows are counted, the rest is a comment. */
static void take_line(struct machine *m)
{
	m->line[m->n_line] = 0;
	m->n_line = 0;
	if (!strncmp(m->line, "ok ", 3)) {
		m->rows++;
	} else if (!strncmp(m->line, "not ok ", 7)) {
		m->rows++;
		m->failed++;
	} else {
		printf("# ");
	}
	puts(m->line);
}

static void take_text(struct machine *m, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (p[i] == '\n' || m->n_line == sizeof(m->line) - 1)
			take_line(m);
		else
			m->line[m->n_line++] = (char)p[i];
	}
}

static void add_slot(struct machine *m, unsigned slot, uint64_t gpa, uint64_t size, void *p)
{
	struct kvm_userspace_memory_region r = {
		.slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uintptr_t)p,
	};

	need("KVM_SET_USER_MEMORY_REGION", gw_ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&r));
}

static void *map_memory(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap", -errno);
	return p;
}

static void load(struct machine *m, const char *path)
{
	int fd = open(path, O_RDONLY);
	ssize_t n = fd < 0 ? -1 : read(fd, m->rom, IMAGE_SIZE);

	if (n != IMAGE_SIZE)
		die(path, fd < 0 ? -errno : -EINVAL);
	close(fd);
	memcpy(m->ram + 0xf0000, m->rom, IMAGE_SIZE);
}

static void set_cpuid(struct machine *m)
{
	static struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 entry[128]; } c;

	c.head.nent = 128;
	need("KVM_GET_SUPPORTED_CPUID", gw_ioctl(m->sys, KVM_GET_SUPPORTED_CPUID, (uintptr_t)&c));
	need("KVM_SET_CPUID2", gw_ioctl(m->vcpu, KVM_SET_CPUID2, (uintptr_t)&c));
}

static void create(struct machine *m, const char *path)
{
	int err = 0;

	m->ram = map_memory(RAM_SIZE);
	m->rom = map_memory(IMAGE_SIZE);
	load(m, path);
	m->sys = (int)need("gw_open", gw_open());
	m->vm = (int)need("KVM_CREATE_VM", gw_ioctl(m->sys, KVM_CREATE_VM, 0));
	add_slot(m, 0, 0, RAM_SIZE, m->ram);
	add_slot(m, 1, 0xffff0000u, IMAGE_SIZE, m->rom);
	need("KVM_CREATE_IRQCHIP", gw_ioctl(m->vm, KVM_CREATE_IRQCHIP, 0));
	m->vcpu = (int)need("KVM_CREATE_VCPU", gw_ioctl(m->vm, KVM_CREATE_VCPU, 0));
	m->run = gw_mmap(12288, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu, 0, &err);
	if (!m->run)
		die("gw_mmap", err);
	set_cpuid(m);
}

static void port(struct machine *m)
{
	struct kvm_run *run = m->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	size_t n = (size_t)run->io.size * run->io.count;

	if (run->io.direction == KVM_EXIT_IO_IN) {
		memset(data, run->io.port == PORT_TEXT ? PORT_TEXT : 0xff, n);
	} else if (run->io.port == PORT_TEXT) {
		take_text(m, data, n);
	} else if (run->io.port == PORT_END) {
		m->ended = true;
		m->status = data[0];
	}
}

static void run(struct machine *m)
{
	while (!m->ended) {
		long ret = gw_ioctl(m->vcpu, KVM_RUN, 0);

		if (is_late) {
			fail(m, "has not ended in time");
			return;
		}
		if (ret == -EINTR || ret == -EAGAIN)
			continue;
		need("KVM_RUN", ret);
		switch (m->run->exit_reason) {
		case KVM_EXIT_IO:
			port(m);
			break;
		case KVM_EXIT_MMIO:
			if (!m->run->mmio.is_write)
				memset(m->run->mmio.data, 0xff, sizeof(m->run->mmio.data));
			break;
		case KVM_EXIT_SHUTDOWN:
			fail(m, "triple-faulted");
			return;
		default:
			printf("# exit reason %u, suberror %u\n", m->run->exit_reason, m->run->internal.suberror);
			fail(m, "made an exit nobody expected");
			return;
		}
	}
	if (m->status && !m->failed)
		fail(m, "says that it failed");
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = on_alarm };
	static struct machine m;

	if (argc != 2) {
		fprintf(stderr, "usage: %s IMAGE\n", argv[0]);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	sigaction(SIGALRM, &sa, NULL);
	create(&m, argv[1]);
	alarm(SECONDS);
	run(&m);
	printf("1..%u\n", m.rows);
	return 0;
}
