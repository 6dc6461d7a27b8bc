/* SPDX-License-Identifier: MIT */
/* Statistics as a reader sees them that knows KVM's binary format and none of our names: the layout, the units, and that numbers move. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "flat.h"

/* ---- the reader ---------------------------------------------------------------------------------------------------------- */

struct reader {
	int fd;
	struct kvm_stats_header h;
	char id[64];
	uint8_t *descriptors;
};

static const struct kvm_stats_desc *descriptor(const struct reader *r, uint32_t i)
{
	return (const void *)(r->descriptors + i * (sizeof(struct kvm_stats_desc) + r->h.name_size));
}

static void reader_open(struct reader *r, int fd)
{
	size_t n;

	assert_true(fd >= 0);
	r->fd = fd;
	assert_int_equal(pread(fd, &r->h, sizeof(r->h), 0), sizeof(r->h));
	assert_in_range(r->h.desc_offset - r->h.id_offset, 1, sizeof(r->id));
	assert_int_equal(pread(fd, r->id, r->h.desc_offset - r->h.id_offset, r->h.id_offset), r->h.desc_offset - r->h.id_offset);
	n = r->h.num_desc * (sizeof(struct kvm_stats_desc) + r->h.name_size);
	r->descriptors = malloc(n);
	assert_non_null(r->descriptors);
	assert_int_equal(pread(fd, r->descriptors, n, r->h.desc_offset), n);
}

static void reader_close(struct reader *r)
{
	free(r->descriptors);
	close(r->fd);
}

static const struct kvm_stats_desc *find(const struct reader *r, const char *name)
{
	for (uint32_t i = 0; i < r->h.num_desc; i++)
		if (!strcmp(descriptor(r, i)->name, name))
			return descriptor(r, i);
	fail_msg("there is no %s", name);
	return NULL;
}

static uint64_t value(const struct reader *r, const char *name)
{
	const struct kvm_stats_desc *d = find(r, name);
	uint64_t v;

	assert_int_equal(pread(r->fd, &v, sizeof(v), r->h.data_offset + d->offset), sizeof(v));
	return v;
}

static void interrupt(const struct rig *r)
{
	struct kvm_msi nmi = { .address_lo = 0xfee00000, .data = 0x400 };

	assert_int_equal(rig_ioctl(r->vm, KVM_SIGNAL_MSI, &nmi), 1);
}

/* True within five seconds? @busy is interrupted meanwhile: numbers are written when a vCPU stops for something. */
static bool reaches(const struct reader *r, const char *name, uint64_t least, const struct rig *busy)
{
	for (unsigned i = 0; i < 5000; i++) {
		if (value(r, name) >= least)
			return true;
		if (busy)
			interrupt(busy);
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	return false;
}

/* ---- the format ---------------------------------------------------------------------------------------------------------- */

static void check_descriptor(const struct reader *r, uint32_t i, size_t file_size)
{
	const struct kvm_stats_desc *d = descriptor(r, i);
	uint32_t type = d->flags & KVM_STATS_TYPE_MASK, unit = d->flags & KVM_STATS_UNIT_MASK, base = d->flags & KVM_STATS_BASE_MASK;

	assert_in_range(strnlen(d->name, r->h.name_size), 1, r->h.name_size - 1);
	assert_true(type <= KVM_STATS_TYPE_MAX);
	assert_true(unit <= KVM_STATS_UNIT_MAX);
	assert_true(base <= KVM_STATS_BASE_MAX);
	assert_int_equal(d->flags & ~(KVM_STATS_TYPE_MASK | KVM_STATS_UNIT_MASK | KVM_STATS_BASE_MASK), 0);
	if (unit == KVM_STATS_UNIT_SECONDS)
		assert_true(d->exponent <= 0);
	else
		assert_true(d->exponent >= 0);
	if (unit == KVM_STATS_UNIT_BOOLEAN)
		assert_int_equal(d->exponent, 0);
	if (type < KVM_STATS_TYPE_LINEAR_HIST)
		assert_int_equal(d->size, 1);
	assert_int_equal(d->bucket_size != 0, type == KVM_STATS_TYPE_LINEAR_HIST);
	assert_int_equal(d->offset % 8, 0);
	assert_true(r->h.data_offset + d->offset + d->size * 8ul <= file_size);
	for (uint32_t k = 0; k < i; k++) {
		assert_true(strcmp(descriptor(r, k)->name, d->name) != 0);
		assert_true(descriptor(r, k)->offset + descriptor(r, k)->size * 8u <= d->offset);
	}
	/* Names that end in ns are such. */
	if (strlen(d->name) > 3 && !strcmp(d->name + strlen(d->name) - 3, "_ns")) {
		assert_int_equal(unit, KVM_STATS_UNIT_SECONDS);
		assert_int_equal(d->exponent, -9);
	}
}

static void check_file(int fd, const char *id)
{
	struct reader r;
	struct stat st;
	uint8_t byte = 0;

	reader_open(&r, fd);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(r.h.flags, 0);
	assert_true(r.h.num_desc > 5);
	assert_string_equal(r.id, id);
	assert_int_equal(r.h.id_offset, sizeof(r.h));
	assert_true(r.h.data_offset >= r.h.desc_offset + r.h.num_desc * (sizeof(struct kvm_stats_desc) + r.h.name_size));
	for (uint32_t i = 0; i < r.h.num_desc; i++)
		check_descriptor(&r, i, (size_t)st.st_size);
	/* Read on from where one was, to the end and no further; never written. */
	assert_int_equal(lseek(fd, st.st_size - 8, SEEK_SET), st.st_size - 8);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(read(fd, &byte, 1), 1);
	assert_int_equal(read(fd, &byte, 1), 0);
	assert_true(pwrite(fd, &byte, 1, 0) < 0);
	reader_close(&r);
}

static void format(void **state)
{
	char id[64];
	struct rig r;

	rig_open(&r, RIG_IRQCHIP);
	snprintf(id, sizeof(id), "kvm-%d", (int)getpid());
	check_file((int)rig_ioctl_n(r.vm, KVM_GET_STATS_FD, 0), id);
	snprintf(id, sizeof(id), "kvm-%d/vcpu-0", (int)getpid());
	check_file((int)rig_ioctl_n(r.vcpu, KVM_GET_STATS_FD, 0), id);
	rig_close(&r);
}

/* ---- the numbers --------------------------------------------------------------------------------------------------------- */

static void *run(void *arg)
{
	struct rig *r = arg;

	return (void *)(uintptr_t)(rig_run(r) == 0 && r->run->exit_reason == KVM_EXIT_IO);
}

/* A guest that sleeps, and then is busy, in one KVM_RUN that does not return: a reader sees both while they last. */
static void numbers_move_inside_kvm_run(void **state)
{
	/* hlt; 1: cmp byte [0x5000], 0; je 1b; out 0x10, al */
	static const uint8_t code[] = { 0xf4, 0x80, 0x3e, 0x00, 0x50, 0x00, 0x74, 0xf9, 0xe6, 0x10 };
	struct reader s;
	pthread_t thread;
	uint64_t insns;
	struct rig r;
	void *ok;

	rig_open(&r, RIG_IRQCHIP);
	rig_code(&r, code, sizeof(code));
	r.ram[0x4000] = 0xcf;					/* NMI: iret */
	memcpy(r.ram + 8, (const uint16_t[]){ 0x4000, 0 }, 4);
	reader_open(&s, (int)rig_ioctl_n(r.vcpu, KVM_GET_STATS_FD, 0));
	assert_int_equal(value(&s, "blocking"), 0);
	pthread_create(&thread, NULL, run, &r);
	assert_true(reaches(&s, "blocking", 1, NULL));
	assert_int_equal(value(&s, "halt_exits"), 1);
	assert_int_equal(value(&s, "exits"), 1);	/* also those that the client does not see */
	assert_int_equal(value(&s, "io_exits"), 0);
	nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
	interrupt(&r);
	assert_true(reaches(&s, "nmi_injections", 3, &r));
	for (unsigned i = 0; i < 1000 && value(&s, "blocking"); i++)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	assert_int_equal(value(&s, "blocking"), 0);
	assert_in_range(value(&s, "halt_wait_ns"), 4000000, 5000000000ull);
	insns = value(&s, "insns");
	assert_true(reaches(&s, "insns", insns + 100000, &r));
	atomic_store((_Atomic uint8_t *)r.ram + 0x5000, 1);
	pthread_join(thread, &ok);
	assert_non_null(ok);
	assert_true(value(&s, "exits") >= 2);
	assert_int_equal(value(&s, "io_exits"), 1);
	reader_close(&s);
	rig_close(&r);
}

static void a_vms_numbers(void **state)
{
	struct kvm_userspace_memory_region region = { .slot = 1, .guest_phys_addr = 0x100000, .memory_size = 4096 };
	struct kvm_coalesced_mmio_zone zone = { .addr = RIG_HOLE, .size = 8 };
	struct reader s;
	struct rig r;

	rig_open(&r, RIG_NO_VCPU);
	reader_open(&s, (int)rig_ioctl_n(r.vm, KVM_GET_STATS_FD, 0));
	assert_int_equal(value(&s, "memory_slots"), 1);
	assert_int_equal(value(&s, "vcpus"), 0);
	region.userspace_addr = (uintptr_t)r.ram;
	assert_int_equal(rig_ioctl(r.vm, KVM_SET_USER_MEMORY_REGION, &region), 0);
	assert_int_equal(value(&s, "memory_slots"), 2);
	region.memory_size = 0;
	assert_int_equal(rig_ioctl(r.vm, KVM_SET_USER_MEMORY_REGION, &region), 0);
	assert_int_equal(value(&s, "memory_slots"), 1);
	r.vcpu = rig_vcpu(&r, 0, &r.run);
	assert_int_equal(value(&s, "vcpus"), 1);
	assert_int_equal(rig_ioctl(r.vm, KVM_REGISTER_COALESCED_MMIO, &zone), 0);
	assert_int_equal(value(&s, "coalesced_zones"), 1);
	reader_close(&s);
	rig_close(&r);
}

/* What kernel integrity has denied is told with the rest: here a byte of ours in a page closed to writers. */
static void denials_are_counted(void **state)
{
	struct gw_heki_attributes a = { .address = FLAT_BYTE, .size = 4096, .attributes = GW_HEKI_NW, .mask = GW_HEKI_NW };
	struct reader s;
	struct rig r;

	flat_open(&r, RIG_IRQCHIP | RIG_CPUID);
	assert_int_equal(flat_set_msr(&r, 0x4b564d04, FLAT_BYTE | 1), 1);
	reader_open(&s, (int)rig_ioctl_n(r.vm, KVM_GET_STATS_FD, 0));
	assert_int_equal(rig_ioctl(r.vm, GW_HEKI_SET_ATTRIBUTES, &a), 0);
	for (unsigned i = 1; i <= 3; i++) {
		flat_inject(&r, 0x50);
		assert_int_equal(flat_run(&r), FLAT_IDLE);
		assert_int_equal(value(&s, "heki_denials"), i);
	}
	reader_close(&s);
	rig_close(&r);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		{ "files have KVM's layout, descriptors their rules", format },
		{ "numbers move while KVM_RUN does not return", numbers_move_inside_kvm_run },
		{ "a VM's numbers follow its ioctls", a_vms_numbers },
		{ "denials are counted", denials_are_counted },
	};

	return cmocka_run_group_tests_name("statistics", tests, NULL, NULL);
}
