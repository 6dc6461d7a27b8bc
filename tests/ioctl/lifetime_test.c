/* SPDX-License-Identifier: MIT */
/* Who keeps what alive: closing in every order, duplicates, statistics descriptors, mappings, many VMs. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "rig.h"

static unsigned open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static unsigned threads(void)
{
	DIR *d = opendir("/proc/self/task");
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void descriptors_are_close_on_exec(void **state)
{
	struct rig r;
	int stats;

	rig_open(&r, 0);
	stats = (int)rig_ioctl_n(r.vcpu, KVM_GET_STATS_FD, 0);
	assert_int_equal(fcntl(r.sys, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fcntl(r.vm, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fcntl(r.vcpu, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fcntl(stats, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fcntl(stats, F_GETFL) & O_ACCMODE, O_RDONLY);
	close(stats);
	rig_close(&r);
}

/* A VM lives while a vCPU's descriptor is open; nothing is left when the last one goes. */
static void vcpu_keeps_the_vm(void **state)
{
	static const uint8_t code[] = { 0xe6, 0x10, 0xf4 };
	unsigned fds = open_fds(), n_threads = threads();
	struct rig r;

	rig_open(&r, 0);
	rig_code(&r, code, sizeof(code));
	assert_int_equal(gw_close(r.sys), 0);
	assert_int_equal(gw_close(r.vm), 0);
	assert_int_equal(rig_ioctl_n(r.vm, KVM_CHECK_EXTENSION, 0), -EBADF);
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(gw_close(r.vcpu), 0);
	/* The mapping is the client's own and stays. */
	assert_int_equal(r.run->exit_reason, KVM_EXIT_IO);
	munmap(r.run, 12288);
	munmap(r.ram, RIG_RAM);
	assert_int_equal(open_fds(), fds);
	assert_int_equal(threads(), n_threads);
}

/* A vCPU whose descriptor is closed stays part of its VM. */
static void closed_vcpu_keeps_its_id(void **state)
{
	struct rig r;

	rig_open(&r, 0);
	munmap(r.run, 12288);
	r.run = NULL;
	assert_int_equal(gw_close(r.vcpu), 0);
	r.vcpu = -1;
	assert_int_equal(rig_ioctl_n(r.vm, KVM_CREATE_VCPU, 0), -EEXIST);
	rig_close(&r);
}

static void duplicates_are_the_same_object(void **state)
{
	struct kvm_regs regs = { .rax = 0x1234, .rflags = 2 }, got;
	char path[64];
	struct rig r;
	int two, three, four;

	rig_open(&r, 0);
	two = dup(r.vcpu);
	three = fcntl(r.vcpu, F_DUPFD_CLOEXEC, 100);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", r.vcpu);
	four = open(path, O_RDWR | O_CLOEXEC);
	assert_true(two >= 0 && three >= 100 && four >= 0);
	assert_int_equal(rig_ioctl(two, KVM_SET_REGS, &regs), 0);
	assert_int_equal(rig_ioctl(four, KVM_GET_REGS, &got), 0);
	assert_int_equal(got.rax, 0x1234);
	assert_int_equal(gw_close(r.vcpu), 0);
	assert_int_equal(gw_close(four), 0);
	assert_int_equal(rig_ioctl(three, KVM_GET_REGS, &got), 0);
	assert_int_equal(gw_close(three), 0);
	r.vcpu = two;
	rig_close(&r);
	assert_int_equal(gw_owns(two), 0);
}

/* A descriptor number that is used again is not ours. */
static void reused_number_is_not_ours(void **state)
{
	int sys = gw_open(), fd;

	assert_int_equal(gw_close(sys), 0);
	fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_int_equal(fd, sys);
	assert_int_equal(gw_owns(fd), 0);
	assert_int_equal(rig_ioctl_n(fd, KVM_GET_API_VERSION, 0), -EBADF);
	close(fd);
}

static void native_mmap_is_kvm_run(void **state)
{
	static const uint8_t code[] = { 0xf4 };
	struct kvm_run *run;
	struct rig r;
	int err;

	rig_open(&r, 0);
	rig_code(&r, code, sizeof(code));
	run = mmap(NULL, 12288, PROT_READ | PROT_WRITE, MAP_SHARED, r.vcpu, 0);
	assert_true(run != MAP_FAILED);
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(run->exit_reason, KVM_EXIT_HLT);
	munmap(run, 12288);
	/* Nobody can cut the file under us. */
	assert_int_equal(ftruncate(r.vcpu, 0), -1);
	assert_null(gw_mmap(4096, PROT_READ, MAP_SHARED, r.vm, 0, &err));
	assert_int_equal(err, -ENODEV);
	assert_null(gw_mmap(4096, PROT_READ, MAP_SHARED, r.sys, 0, &err));
	assert_int_equal(err, -ENODEV);
	assert_null(gw_mmap(4096, PROT_READ, MAP_SHARED, 0, 0, &err));
	assert_int_equal(err, -EBADF);
	rig_close(&r);
}

/* Statistics: KVM's layout, live values, readable after the VM is gone. */
static void statistics_survive_the_vm(void **state)
{
	static const uint8_t code[] = { 0xe6, 0x10, 0xf4 };
	struct kvm_stats_header h;
	char id[48];
	struct rig r;
	int stats;
	uint64_t first;

	rig_open(&r, 0);
	rig_code(&r, code, sizeof(code));
	stats = (int)rig_ioctl_n(r.vcpu, KVM_GET_STATS_FD, 0);
	assert_true(stats >= 0);
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(pread(stats, &h, sizeof(h), 0), sizeof(h));
	assert_int_equal(h.name_size, 48);
	assert_true(h.num_desc > 5 && h.num_desc < 64);
	assert_int_equal(pread(stats, id, sizeof(id), h.id_offset), sizeof(id));
	assert_memory_equal(id, "kvm-", 4);
	assert_int_equal(pread(stats, &first, 8, h.data_offset), 8);
	assert_int_equal(first, 1);	/* exits */
	rig_close(&r);
	assert_int_equal(pread(stats, &first, 8, h.data_offset), 8);
	assert_int_equal(first, 1);
	close(stats);
}

static void *close_in_run(void *arg)
{
	struct rig *r = arg;

	return (void *)rig_ioctl_n(r->vcpu, KVM_RUN, 0);
}

/* Every descriptor is closed while a thread is in KVM_RUN: it goes on until it leaves by itself. */
static void closing_does_not_stop_a_run(void **state)
{
	static const uint8_t spin[] = { 0xeb, 0xfe };
	unsigned fds = open_fds();
	pthread_t t;
	struct rig r;
	void *ret;

	rig_open(&r, 0);
	rig_code(&r, spin, sizeof(spin));
	pthread_create(&t, NULL, close_in_run, &r);
	usleep(10000);
	gw_close(r.sys);
	gw_close(r.vm);
	gw_close(r.vcpu);
	memcpy(r.ram + RIG_CODE, "\xf4\xf4", 2);
	pthread_join(t, &ret);
	assert_null(ret);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_HLT);
	munmap(r.run, 12288);
	munmap(r.ram, RIG_RAM);
	assert_int_equal(open_fds(), fds);
}

static void *churn(void *arg)
{
	for (unsigned i = 0; i < 40; i++) {
		struct rig r;

		rig_open(&r, i & 1 ? RIG_IRQCHIP : 0);
		rig_close(&r);
	}
	return NULL;
}

static void vms_come_and_go(void **state)
{
	unsigned fds = open_fds(), n_threads = threads();
	pthread_t t[3];

	for (unsigned i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, churn, NULL);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(open_fds(), fds);
	assert_int_equal(threads(), n_threads);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		{ "descriptors are close-on-exec, statistics read-only", descriptors_are_close_on_exec },
		{ "a vCPU's descriptor keeps the VM; after the last close nothing is left", vcpu_keeps_the_vm },
		{ "a vCPU stays in its VM when its descriptor is closed", closed_vcpu_keeps_its_id },
		{ "dup, fcntl and /proc give the same object", duplicates_are_the_same_object },
		{ "a descriptor number that is used again is not ours", reused_number_is_not_ours },
		{ "a native mmap of a vCPU is its kvm_run; system and VM cannot be mapped", native_mmap_is_kvm_run },
		{ "statistics follow, and survive the VM", statistics_survive_the_vm },
		{ "closing everything does not stop a running vCPU", closing_does_not_stop_a_run },
		{ "VMs come and go on three threads and leave nothing", vms_come_and_go },
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
