/* SPDX-License-Identifier: MIT */
/* The errno tables of guest_memfd, in the order of checks: creation, binding, attributes, fallocate, mmap, prefault, both generations. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "prig.h"

#define KEEP FALLOC_FL_KEEP_SIZE
#define PUNCH (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static struct prig P;

static int open_default(void **state) { prig_open(&P, 0, SHARED); return 0; }
static int open_protected(void **state) { prig_open(&P, SW, 0); return 0; }
static int open_old(void **state)
{
	setenv("GUESTWARD_GUEST_MEMFD", "6.8", 1);
	prig_open(&P, SW, 0);
	return 0;
}
static int close_it(void **state)
{
	unsetenv("GUESTWARD_GUEST_MEMFD");
	prig_close(&P);
	return 0;
}

static long cap(int fd, unsigned long n) { return gw_ioctl(fd, KVM_CHECK_EXTENSION, n); }

static void capabilities_of_a_default_vm(void **state)
{
	assert_int_equal(cap(P.sys, KVM_CAP_VM_TYPES), 3);
	assert_int_equal(cap(P.sys, KVM_CAP_MEMORY_ATTRIBUTES), 8);
	assert_int_equal(cap(P.sys, KVM_CAP_GUEST_MEMFD), 1);
	assert_int_equal(cap(P.sys, KVM_CAP_GUEST_MEMFD_FLAGS), 3);
	assert_int_equal(cap(P.vm, KVM_CAP_MEMORY_ATTRIBUTES), 0);
	assert_int_equal(cap(P.vm, KVM_CAP_GUEST_MEMFD), 1);
	assert_int_equal(cap(P.vm, KVM_CAP_GUEST_MEMFD_FLAGS), 3);
	assert_int_equal(cap(P.vm, KVM_CAP_PRE_FAULT_MEMORY), 1);
	assert_int_equal(cap(P.vm, GW_CAP_PRIVATE), 0);
}

static void capabilities_of_a_protected_vm(void **state)
{
	assert_int_equal(cap(P.vm, KVM_CAP_MEMORY_ATTRIBUTES), 8);
	assert_int_equal(cap(P.vm, KVM_CAP_GUEST_MEMFD), 1);
	assert_int_equal(cap(P.vm, KVM_CAP_GUEST_MEMFD_FLAGS), 1);
	assert_int_equal(cap(P.vm, GW_CAP_PRIVATE), 7);
}

static void every_flag_bit(void **state)
{
	uint64_t known = (uint64_t)cap(P.vm, KVM_CAP_GUEST_MEMFD_FLAGS);

	for (unsigned bit = 0; bit < 64; bit++) {
		struct kvm_create_guest_memfd c = { .size = PAGE, .flags = 1ull << bit };
		long fd = pioctl(P.vm, KVM_CREATE_GUEST_MEMFD, &c);

		if (known >> bit & 1)
			assert_true(fd >= 0 && gw_close((int)fd) == 0);
		else
			assert_int_equal(fd, -EINVAL);
	}
}

static void sizes(void **state)
{
	struct kvm_create_guest_memfd c = { 0 };
	long fd;

	for (c.size = 0; c.size < PAGE; c.size++)
		assert_int_equal(pioctl(P.vm, KVM_CREATE_GUEST_MEMFD, &c), -EINVAL);
	c.size = PAGE + 1;
	assert_int_equal(pioctl(P.vm, KVM_CREATE_GUEST_MEMFD, &c), -EINVAL);
	c.size = 1ull << 63;
	assert_int_equal(pioctl(P.vm, KVM_CREATE_GUEST_MEMFD, &c), -EINVAL);
	/* Sparse: the largest there can be; and what is reserved is not looked at. */
	c.size = (1ull << 63) - PAGE;
	memset(c.reserved, 0xff, sizeof(c.reserved));
	fd = pioctl(P.vm, KVM_CREATE_GUEST_MEMFD, &c);
	assert_true(fd >= 0);
	assert_int_equal(gw_close((int)fd), 0);
	/* Flags come first. */
	c.size = 1;
	c.flags = 1ull << 40;
	assert_int_equal(pioctl(P.vm, KVM_CREATE_GUEST_MEMFD, &c), -EINVAL);
	assert_int_equal(pioctl(P.sys, KVM_CREATE_GUEST_MEMFD, &c), -EINVAL);
}

static void the_file_as_fstat_sees_it(void **state)
{
	int a = prig_gmem(&P, 4 * PAGE, 0), b = prig_gmem(&P, 8 * PAGE, 0);
	struct stat sa, sb;

	assert_int_equal(fstat(a, &sa), 0);
	assert_int_equal(fstat(b, &sb), 0);
	assert_int_equal(sa.st_size, 4 * PAGE);
	assert_int_equal(sb.st_size, 8 * PAGE);
	assert_int_equal(sa.st_mode, 0100600);
	assert_int_equal(sa.st_blksize, PAGE);
	assert_int_equal(sa.st_blocks, 0);
	assert_true(sa.st_ino != sb.st_ino);
	assert_int_equal(fcntl(a, F_GETFD), 0);		/* not close-on-exec */
	assert_int_equal(fcntl(a, F_GETFL) & O_ACCMODE, O_RDWR);
	assert_int_equal(gw_kind(a), GW_KIND_GMEM);
	assert_int_equal(gw_ioctl(a, KVM_GET_API_VERSION, 0), -ENOTTY);
	/* Past us nothing looks as if it had worked. */
	assert_true(fallocate(a, PUNCH, 0, PAGE) == -1 && errno == EPERM);
	assert_true(write(a, "x", 1) == -1 && errno == EPERM);
	assert_int_equal(ftruncate(a, 0), -1);
	gw_close(a);
	gw_close(b);
}

static const struct { const char *name; int mode; int64_t offset, len; int want; } falloc_rows[] = {
	{ "allocate all", KEEP, 0, PRIG_SIZE, 0 },
	{ "allocate without KEEP_SIZE", 0, 0, PRIG_SIZE, -EOPNOTSUPP },
	{ "punch without KEEP_SIZE", FALLOC_FL_PUNCH_HOLE, 0, PAGE, -EOPNOTSUPP },
	{ "another mode", KEEP | FALLOC_FL_ZERO_RANGE, 0, PAGE, -EOPNOTSUPP },
	{ "the mode before the alignment", 0, 1, PAGE, -EOPNOTSUPP },
	{ "length 0 before the mode", 0, 0, 0, -EINVAL },
	{ "a negative offset", KEEP, -PAGE, PAGE, -EINVAL },
	{ "the end of the world", KEEP, INT64_MAX - 4095, 8192, -EFBIG },
	{ "punch page - 1", PUNCH, PAGE - 1, PAGE, -EINVAL },
	{ "punch length page - 1", PUNCH, 0, PAGE - 1, -EINVAL },
	{ "allocate at the end", KEEP, PRIG_SIZE, PAGE, -EINVAL },
	{ "allocate across the end", KEEP, PRIG_SIZE - PAGE, 2 * PAGE, -EINVAL },
	{ "punch at the end", PUNCH, PRIG_SIZE, PAGE, 0 },
	{ "punch beyond", PUNCH, PRIG_SIZE + PAGE, PAGE, 0 },
	{ "punch across the end", PUNCH, PRIG_SIZE - PAGE, 2 * PAGE, 0 },
	{ "punch one page", PUNCH, PAGE, PAGE, 0 },
	{ "and allocate it again", KEEP, PAGE, PAGE, 0 },
};

static void fallocate_rows(void **state)
{
	static const int64_t off[] = { 0, 0, 0, 1, 1, 1, 1, PAGE, PAGE, PAGE }, len[] = { 1, PAGE - 1, PAGE + 1, 1, PAGE - 1, PAGE, PAGE + 1, 1, PAGE - 1, PAGE + 1 };

	for (unsigned i = 0; i < COUNT(falloc_rows); i++)
		if (gw_fallocate(P.gmem, falloc_rows[i].mode, falloc_rows[i].offset, falloc_rows[i].len) != falloc_rows[i].want)
			fail_msg("%s: not %d", falloc_rows[i].name, falloc_rows[i].want);
	for (unsigned i = 0; i < COUNT(off); i++)
		assert_int_equal(gw_fallocate(P.gmem, PUNCH, off[i], len[i]), -EINVAL);
	assert_int_equal(gw_fallocate(P.vm, KEEP, 0, PAGE), -ENODEV);
	assert_int_equal(gw_fallocate(0, KEEP, 0, PAGE), -EBADF);
}

/* ---- regions ---------------------------------------------------------------------------------------------------------------- */

#define G	0x200000ull
#define U	0x100000000ull
#define OWN	0xffff0001u	/* the rig's file */
#define FREE	0xffff0002u	/* another one of four pages */
#define OTHER	0xffff0003u	/* another VM's */
#define PLAIN	0xffff0004u	/* a memfd */
#define VMFD	0xffff0005u
#define SYSFD	0xffff0006u
#define CLOSED	0xffff0007u

static const struct { const char *name; uint32_t slot, flags, fd; uint64_t gpa, size, user, offset; int want; } region_rows[] = {
	{ "four pages of a free file bind", 2, 4, FREE, G, 0x4000, U, 0, 0 },
	{ "without a host address too", 2, 4, FREE, G, 0x4000, 0, 0, 0 },
	{ "flag 3 is EINVAL", 2, 8, FREE, G, 0x4000, U, 0, -EINVAL },
	{ "a log of private pages is EINVAL", 2, 5, FREE, G, 0x4000, U, 0, -EINVAL },
	{ "read-only private pages are EINVAL", 2, 6, FREE, G, 0x4000, U, 0, -EINVAL },
	{ "offset 1 is EINVAL", 2, 4, FREE, G, 0x1000, U, 1, -EINVAL },
	{ "an offset that wraps is EINVAL", 2, 4, FREE, G, 0x4000, U, ~0xfffull, -EINVAL },
	{ "beyond the file is EINVAL", 2, 4, FREE, G, 0x4000, U, 0x1000, -EINVAL },
	{ "no descriptor is EBADF", 2, 4, CLOSED, G, 0x4000, U, 0, -EBADF },
	{ "a plain memfd is EINVAL", 2, 4, PLAIN, G, 0x4000, U, 0, -EINVAL },
	{ "the VM is no file", 2, 4, VMFD, G, 0x4000, U, 0, -EINVAL },
	{ "/dev/kvm is no file", 2, 4, SYSFD, G, 0x4000, U, 0, -EINVAL },
	{ "another VM's file is EINVAL", 2, 4, OTHER, G, 0x4000, U, 0, -EINVAL },
	{ "pages that are bound already are EINVAL, not EEXIST", 2, 4, OWN, G, 0x1000, U, 0x3000, -EINVAL },
	{ "an overlap in the guest is EEXIST before the descriptor is looked at", 2, 4, CLOSED, PRIG_AT, 0x1000, U, 0, -EEXIST },
	{ "the size is looked at before the offset", 2, 4, CLOSED, G, 0x800, U, 1, -EINVAL },
	{ "slot 32764 is EINVAL before the descriptor", 32764, 4, CLOSED, G, 0x1000, U, 0, -EINVAL },
	{ "an existing slot does not get one", 0, 4, FREE, 0, PRIG_RAM, 0, 0, -EINVAL },
	{ "nor the same again", 1, 4, OWN, PRIG_AT, PRIG_SIZE, 0, 0, -EINVAL },
	{ "a move without the flag is EINVAL", 1, 0, 0, G, PRIG_SIZE, 0, 0, -EINVAL },
	{ "deleting with the flag and no descriptor is fine", 1, 4, CLOSED, 0, 0, 0, 0, 0 },
	{ "deleting without the flag is fine", 1, 0, 0, 0, 0, 0, 0, 0 },
	{ "deleting what is not there is EINVAL", 7, 4, CLOSED, 0, 0, 0, 0, -EINVAL },
};

static void regions(void **state)
{
	for (unsigned i = 0; i < COUNT(region_rows); i++) {
		struct kvm_userspace_memory_region2 r = {
			.slot = region_rows[i].slot, .flags = region_rows[i].flags, .guest_phys_addr = region_rows[i].gpa,
			.memory_size = region_rows[i].size, .userspace_addr = region_rows[i].user,
			.guest_memfd_offset = region_rows[i].offset, .pad1 = ~0u,
		};
		int free_fd, plain = memfd_create("x", 0);
		struct prig other;
		long ret;

		prig_open(&P, SW, 0);
		prig_open(&other, SW, 0);
		free_fd = prig_gmem(&P, 4 * PAGE, 0);
		assert_int_equal(ftruncate(plain, 16 * PAGE), 0);
		if (r.slot < 2 && r.memory_size)
			r.userspace_addr = (uintptr_t)(r.slot ? P.shared : P.ram);
		switch (region_rows[i].fd) {
		case OWN: r.guest_memfd = (uint32_t)P.gmem; break;
		case FREE: r.guest_memfd = (uint32_t)free_fd; break;
		case OTHER: r.guest_memfd = (uint32_t)other.gmem; break;
		case PLAIN: r.guest_memfd = (uint32_t)plain; break;
		case VMFD: r.guest_memfd = (uint32_t)P.vm; break;
		case SYSFD: r.guest_memfd = (uint32_t)P.sys; break;
		case CLOSED: r.guest_memfd = 999; break;
		}
		ret = pioctl(P.vm, KVM_SET_USER_MEMORY_REGION2, &r);
		if (ret != region_rows[i].want)
			fail_msg("%s: %ld, not %d", region_rows[i].name, ret, region_rows[i].want);
		/* The old ioctl does not know the flag, but deletes anything. */
		assert_int_equal(pioctl(P.vm, KVM_SET_USER_MEMORY_REGION, &(struct kvm_userspace_memory_region){ .slot = 1, .flags = 4 }), -EINVAL);
		gw_close(free_fd);
		close(plain);
		prig_close(&other);
		prig_close(&P);
	}
}

static void a_bad_offset_of_every_size(void **state)
{
	int fd = prig_gmem(&P, 4 * PAGE, 0);

	for (uint64_t o = 1; o < PAGE; o++)
		assert_int_equal(prig_slot(&P, 2, G, PAGE, NULL, fd, o), -EINVAL);
	assert_int_equal(prig_slot(&P, 2, G, PAGE, NULL, fd, PAGE), 0);
	gw_close(fd);		/* while the slot lives */
	assert_int_equal(prig_delete(&P, 2), 0);
}

static void old_ioctl_deletes(void **state)
{
	assert_int_equal(pioctl(P.vm, KVM_SET_USER_MEMORY_REGION, &(struct kvm_userspace_memory_region){ .slot = 1 }), 0);
	/* Its pages are free again. */
	assert_int_equal(prig_slot(&P, 5, G, PRIG_SIZE, NULL, P.gmem, 0), 0);
}

static void overlapping_in_guest_and_file(void **state)
{
	int fd = prig_gmem(&P, 8 << 20, 0);
	const uint64_t g = 4 << 20;

	assert_int_equal(prig_slot(&P, 2, g, 4 << 20, NULL, fd, 0), 0);
	assert_int_equal(prig_slot(&P, 3, 2 * g, 4 << 20, NULL, fd, 4 << 20), 0);
	assert_int_equal(prig_delete(&P, 2), 0);
	assert_int_equal(prig_slot(&P, 2, 2 * g - (2 << 20), 4 << 20, NULL, fd, 2 << 20), -EEXIST);
	assert_int_equal(prig_slot(&P, 2, 2 * g + (2 << 20), 4 << 20, NULL, fd, 2 << 20), -EEXIST);
	gw_close(fd);
}

/* ---- attributes, mmap, prefault, populate ------------------------------------------------------------------------------------- */

static const struct { const char *name; struct kvm_memory_attributes a; int want; } attr_rows[] = {
	{ "flags", { .address = 0, .size = PAGE, .flags = 1 }, -EINVAL },
	{ "read denial, which is Heki's", { .size = PAGE, .attributes = 1 }, -EINVAL },
	{ "an unknown attribute", { .size = PAGE, .attributes = 1ull << 40 }, -EINVAL },
	{ "size 0", { .attributes = 8 }, -EINVAL },
	{ "a wrap", { .address = ~0xfffull, .size = 2 * PAGE, .attributes = 8 }, -EINVAL },
	{ "an odd address", { .address = 1, .size = PAGE, .attributes = 8 }, -EINVAL },
	{ "an odd size", { .size = PAGE + 1, .attributes = 8 }, -EINVAL },
	{ "no slot needs to be there", { .address = 1ull << 45, .size = PAGE, .attributes = 8 }, 0 },
	{ "nearly everything", { .size = ~0xfffull, .attributes = 8 }, 0 },
	{ "and back", { .size = ~0xfffull }, 0 },
};

static void attributes(void **state)
{
	for (unsigned i = 0; i < COUNT(attr_rows); i++)
		if (pioctl(P.vm, KVM_SET_MEMORY_ATTRIBUTES, &attr_rows[i].a) != attr_rows[i].want)
			fail_msg("%s: not %d", attr_rows[i].name, attr_rows[i].want);
}

static void a_default_vm_has_no_private_attribute(void **state)
{
	assert_int_equal(prig_convert(&P, 0, PAGE, true), -EINVAL);
	assert_int_equal(prig_convert(&P, 0, PAGE, false), 0);	/* what is so already */
}

static void mapping(void **state)
{
	int fd = prig_gmem(&P, 4 * PAGE, 0), mm = prig_gmem(&P, 4 * PAGE, GUEST_MEMFD_FLAG_MMAP), err;
	uint8_t *p;

	assert_true(!gw_mmap(PAGE, PROT_READ, MAP_SHARED, fd, 0, &err) && err == -ENODEV);
	assert_true(!gw_mmap(PAGE, PROT_READ, MAP_PRIVATE, fd, 0, &err) && err == -ENODEV);
	assert_true(!gw_mmap(PAGE, PROT_READ, MAP_PRIVATE, mm, 0, &err) && err == -EINVAL);
	assert_true(!gw_mmap(PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, mm, 0, &err) && err == -EPERM);
	/* Pages that are not shared with the host cannot be touched: a system call says EFAULT. */
	p = gw_mmap(4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, mm, 0, &err);
	assert_non_null(p);
	assert_true(write(memfd_create("t", MFD_CLOEXEC), p, 1) == -1 && errno == EFAULT);
	munmap(p, 4 * PAGE);
	gw_close(fd);
	gw_close(mm);
}

static void a_shared_file_is_one_memory(void **state)
{
	uint8_t *p, value = 0;
	int err;

	p = gw_mmap(4 * PRIG_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, P.gmem, 0, &err);
	assert_non_null(p);
	memset(p, 0xaa, PRIG_SIZE);
	assert_int_equal(prig_read(&P, 0, 5, &value), 0);
	assert_int_equal(value, 0xaa);
	assert_int_equal(prig_write(&P, 0, 6, 0xff), 0);
	assert_int_equal(p[6], 0xff);
	assert_int_equal(P.shared[6], 0);	/* the slot's own address is not used */
	assert_int_equal(prig_punch(P.gmem, 0, PAGE), 0);
	assert_int_equal(p[6], 0);
	assert_int_equal(p[PAGE], 0xaa);
	assert_int_equal(prig_read(&P, 0, 5, &value), 0);
	assert_int_equal(value, 0);
	/* DONTNEED keeps, REMOVE punches: as a file of memory does. */
	assert_int_equal(madvise(p + PAGE, PAGE, MADV_DONTNEED), 0);
	assert_int_equal(p[PAGE], 0xaa);
	assert_int_equal(madvise(p + PAGE, PAGE, MADV_REMOVE), 0);
	assert_int_equal(p[PAGE], 0);
	assert_int_equal(prig_read(&P, 0, PAGE, &value), 0);
	assert_int_equal(value, 0);
	munmap(p, 4 * PRIG_SIZE);
}

static const struct { const char *name; uint64_t gpa, size, flags, left; int want; } fault_rows[] = {
	{ "all of it", PRIG_AT, PRIG_SIZE, 0, 0, 0 },
	{ "plain memory", 0, PRIG_RAM, 0, 0, 0 },
	{ "flags", PRIG_AT, PAGE, 1, PAGE, -EINVAL },
	{ "an odd address", PRIG_AT + 1, PAGE, 0, PAGE, -EINVAL },
	{ "an odd size", PRIG_AT, 100, 0, 100, -EINVAL },
	{ "size 0", PRIG_AT, 0, 0, 0, -EINVAL },
	{ "a wrap", ~0xfffull, 2 * PAGE, 0, 2 * PAGE, -EINVAL },
	{ "the last page, and one more that is not there", PRIG_AT + PRIG_SIZE - PAGE, 2 * PAGE, 0, PAGE, 0 },
	{ "no slot", PRIG_AT + PRIG_SIZE, PAGE, 0, PAGE, -ENOENT },
};

static void prefault(void **state)
{
	for (unsigned i = 0; i < COUNT(fault_rows); i++) {
		struct kvm_pre_fault_memory f = { .gpa = fault_rows[i].gpa, .size = fault_rows[i].size, .flags = fault_rows[i].flags };
		long ret = pioctl(P.vcpu[0], KVM_PRE_FAULT_MEMORY, &f);

		if (ret != fault_rows[i].want || f.size != fault_rows[i].left)
			fail_msg("%s: %ld, %llu left", fault_rows[i].name, ret, (unsigned long long)f.size);
	}
}

static void prefault_without_a_side(void **state)
{
	struct kvm_pre_fault_memory f = { .gpa = 0, .size = PAGE };

	assert_int_equal(prig_convert(&P, 0, PAGE, true), 0);	/* plain memory made private: nothing there */
	assert_int_equal(pioctl(P.vcpu[0], KVM_PRE_FAULT_MEMORY, &f), -EFAULT);
	assert_int_equal(f.size, PAGE);
}

static void populate(void **state)
{
	struct gw_populate g = { .gpa = PRIG_AT, .source = (uintptr_t)P.ram, .size = 2 * PAGE };
	uint8_t value;

	P.ram[PAGE + 9] = 0x5c;
	assert_int_equal(pioctl(P.vm, GW_POPULATE, &g), -EINVAL);	/* not private */
	assert_int_equal(prig_convert(&P, PRIG_AT, 2 * PAGE, true), 0);
	g.flags = 1;
	assert_int_equal(pioctl(P.vm, GW_POPULATE, &g), -EINVAL);
	g.flags = 0;
	g.source = 0x10;
	assert_int_equal(pioctl(P.vm, GW_POPULATE, &g), -EFAULT);
	g.source = (uintptr_t)P.ram;
	g.size = 3 * PAGE;
	assert_int_equal(pioctl(P.vm, GW_POPULATE, &g), 0);	/* up to the one that is not private */
	assert_true(g.size == PAGE && g.gpa == PRIG_AT + 2 * PAGE && g.source == (uintptr_t)P.ram + 2 * PAGE);
	assert_int_equal(prig_read(&P, 0, PAGE + 9, &value), 0);
	assert_int_equal(value, 0x5c);
	g = (struct gw_populate){ .gpa = PRIG_AT, .source = (uintptr_t)P.ram, .size = PAGE };
	assert_int_equal(pioctl(P.vm, GW_POPULATE, &g), -EPERM);	/* the guest has run: its memory is its own */
	P.ram[PAGE + 9] = 0;
}

static void regions_convert_where_asked(void **state)
{
	struct kvm_enc_region r = { .addr = PRIG_AT, .size = PAGE };
	struct kvm_enable_cap c = { .cap = GW_CAP_PRIVATE, .args = { GW_PRIVATE_REGIONS } };
	uint8_t value = 0;

	P.shared[0] = 0x11;
	assert_int_equal(pioctl(P.vm, KVM_MEMORY_ENCRYPT_REG_REGION, &r), -ENOTTY);
	assert_int_equal(pioctl(P.vm, KVM_MEMORY_ENCRYPT_UNREG_REGION, &r), -ENOTTY);
	c.args[0] = 8;
	assert_int_equal(pioctl(P.vm, KVM_ENABLE_CAP, &c), -EINVAL);
	c.args[0] = GW_PRIVATE_REGIONS;
	assert_int_equal(pioctl(P.vm, KVM_ENABLE_CAP, &c), 0);
	assert_int_equal(gw_ioctl(P.vm, KVM_MEMORY_ENCRYPT_REG_REGION, 0x10), -EFAULT);
	assert_int_equal(prig_read(&P, 0, 0, &value), 0);
	assert_int_equal(value, 0x11);
	assert_int_equal(pioctl(P.vm, KVM_MEMORY_ENCRYPT_REG_REGION, &r), 0);
	assert_int_equal(prig_read(&P, 0, 0, &value), 0);
	assert_int_equal(value, 0);
	assert_int_equal(pioctl(P.vm, KVM_MEMORY_ENCRYPT_UNREG_REGION, &r), 0);
	assert_int_equal(prig_read(&P, 0, 0, &value), 0);
	assert_int_equal(value, 0x11);
	r.size = 0;
	assert_int_equal(pioctl(P.vm, KVM_MEMORY_ENCRYPT_REG_REGION, &r), -EINVAL);
	r.size = 5;
	assert_int_equal(pioctl(P.vm, KVM_MEMORY_ENCRYPT_REG_REGION, &r), -EINVAL);
}

static void a_default_vm_has_no_options(void **state)
{
	struct kvm_enable_cap c = { .cap = GW_CAP_PRIVATE, .args = { GW_PRIVATE_REGIONS } };

	assert_int_equal(pioctl(P.vm, KVM_ENABLE_CAP, &c), -EINVAL);
}

static void strict_refuses_the_second_side(void **state)
{
	struct kvm_enable_cap c = { .cap = GW_CAP_PRIVATE, .args = { GW_PRIVATE_STRICT } };
	struct kvm_pre_fault_memory f = { .gpa = PRIG_AT, .size = PAGE };
	uint8_t value;
	long ret;

	P.shared[0] = 1;	/* the client's side of page 0 */
	assert_int_equal(pioctl(P.vm, KVM_ENABLE_CAP, &c), 0);
	assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, true), 0);
	assert_int_equal(gw_fallocate(P.gmem, KEEP, 0, PAGE), -ENOSPC);
	assert_int_equal(pioctl(P.vcpu[0], KVM_PRE_FAULT_MEMORY, &f), -ENOSPC);
	ret = prig_read(&P, 0, 0, &value);
	prig_expect_fault(&P, 0, ret, PRIG_AT, true);
	/* The other pages have no other side. */
	assert_int_equal(gw_fallocate(P.gmem, KEEP, PAGE, PAGE), 0);
	assert_int_equal(prig_write(&P, 0, 2 * PAGE, 3), 0);
	/* The client lets go: then it works. */
	assert_int_equal(madvise(P.shared, PAGE, MADV_DONTNEED), 0);
	assert_int_equal(prig_write(&P, 0, 0, 3), 0);
	/* The other direction. */
	assert_int_equal(prig_convert(&P, PRIG_AT, PAGE, false), 0);
	ret = prig_read(&P, 0, 0, &value);
	prig_expect_fault(&P, 0, ret, PRIG_AT, false);
	assert_int_equal(prig_punch(P.gmem, 0, PAGE), 0);
	assert_int_equal(prig_read(&P, 0, 0, &value), 0);
}

/* KiB of huge pages of this process; -1: the kernel gives none on request. */
static long huge_kib(void)
{
	FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
	char line[128] = "";
	long kib = 0, one;

	if (f) {
		if (!fgets(line, sizeof(line), f))
			line[0] = 0;
		fclose(f);
	}
	if (!line[0] || strstr(line, "[never]"))
		return -1;
	f = fopen("/proc/self/smaps", "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "AnonHugePages: %ld", &one) == 1)
			kib += one;
	if (f)
		fclose(f);
	return kib;
}

static void huge_pages_hold_the_same_bytes(void **state)
{
	struct kvm_enable_cap c = { .cap = GW_CAP_PRIVATE, .args = { GW_PRIVATE_HUGE } };
	long before, after;
	uint8_t value = 0;
	int fd;

	assert_int_equal(pioctl(P.vm, KVM_ENABLE_CAP, &c), 0);
	fd = prig_gmem(&P, 4 << 20, 0);
	assert_int_equal(prig_delete(&P, 1), 0);
	assert_int_equal(prig_slot(&P, 1, PRIG_AT, PRIG_SIZE, P.shared, fd, 2 << 20), 0);
	assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, true), 0);
	before = huge_kib();
	assert_int_equal(prig_write(&P, 0, PAGE, 7), 0);
	after = huge_kib();
	if (before < 0 || after == before)
		print_message("# no huge page was to be had: enabled says never, or memory is in pieces\n");
	else
		assert_int_equal(after - before, 2048);
	assert_int_equal(prig_punch(fd, (2 << 20), PAGE), 0);
	assert_int_equal(prig_read(&P, 0, PAGE, &value), 0);
	assert_int_equal(value, 7);
	assert_int_equal(prig_punch(fd, (2 << 20) + PAGE, PAGE), 0);
	assert_int_equal(prig_read(&P, 0, PAGE, &value), 0);
	assert_int_equal(value, 0);
	gw_close(fd);
}

static void the_first_generation(void **state)
{
	int vm = (int)gw_ioctl(P.sys, KVM_CREATE_VM, 0);
	struct kvm_userspace_memory_region2 r = { .slot = 3, .flags = 4, .guest_phys_addr = G, .memory_size = PAGE };

	assert_int_equal(cap(P.sys, KVM_CAP_GUEST_MEMFD), 1);
	assert_int_equal(cap(P.sys, KVM_CAP_GUEST_MEMFD_FLAGS), 0);
	assert_int_equal(cap(P.vm, KVM_CAP_GUEST_MEMFD), 1);
	assert_int_equal(cap(P.vm, KVM_CAP_GUEST_MEMFD_FLAGS), 0);
	every_flag_bit(state);
	assert_int_equal(cap(vm, KVM_CAP_GUEST_MEMFD), 0);
	assert_int_equal(cap(vm, KVM_CAP_MEMORY_ATTRIBUTES), 0);
	/* A VM without private memory does not know the flag of regions. */
	r.guest_memfd = 999;
	assert_int_equal(pioctl(vm, KVM_SET_USER_MEMORY_REGION2, &r), -EINVAL);
	assert_int_equal(pioctl(P.vm, KVM_SET_USER_MEMORY_REGION2, &r), -EBADF);
	gw_close(vm);
}

#define T(name, fn, open) { name, fn, open, close_it, NULL }

int main(void)
{
	static const struct CMUnitTest tests[] = {
		T("capabilities of a default VM", capabilities_of_a_default_vm, open_default),
		T("capabilities of a protected VM", capabilities_of_a_protected_vm, open_protected),
		T("default VM: a flag works if its bit is in the capability", every_flag_bit, open_default),
		T("protected VM: a flag works if its bit is in the capability", every_flag_bit, open_protected),
		T("sizes", sizes, open_protected),
		T("the file as fstat sees it", the_file_as_fstat_sees_it, open_protected),
		T("fallocate, protected VM", fallocate_rows, open_protected),
		T("fallocate, shared file", fallocate_rows, open_default),
		cmocka_unit_test(regions),
		T("a bad offset of every size", a_bad_offset_of_every_size, open_protected),
		T("the old ioctl deletes a slot with a file", old_ioctl_deletes, open_protected),
		T("overlapping in guest and file is EEXIST", overlapping_in_guest_and_file, open_protected),
		T("attributes", attributes, open_protected),
		T("a default VM has no private attribute", a_default_vm_has_no_private_attribute, open_default),
		T("mapping", mapping, open_protected),
		T("a shared file is one memory for guest and host", a_shared_file_is_one_memory, open_default),
		T("prefault of shared pages", prefault, open_protected),
		T("prefault of a file that is shared", prefault, open_default),
		T("prefault where there is no private side is EFAULT", prefault_without_a_side, open_protected),
		T("populate works before the guest runs", populate, open_protected),
		T("regions convert where asked", regions_convert_where_asked, open_protected),
		T("a default VM has no options", a_default_vm_has_no_options, open_default),
		T("strict refuses the second side", strict_refuses_the_second_side, open_protected),
		T("huge pages hold the same bytes", huge_pages_hold_the_same_bytes, open_protected),
		T("the generation of 6.8", the_first_generation, open_old),
	};

	return cmocka_run_group_tests_name("private memory: errnos", tests, NULL, NULL);
}
