/* SPDX-License-Identifier: MIT */
/* Memory regions: KVM's rules row by row, against a VM whose slot 0 is [0, RIG_RAM) and slot 1 [1 MiB, +64 KiB). */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "rig.h"

#define AT	0x100000ull
#define SIZE	0x10000ull
#define UA	0x100000000ull	/* an address that is only stored */

static const struct row {
	const char *name;
	struct kvm_userspace_memory_region2 r;
	bool two;		/* by KVM_SET_USER_MEMORY_REGION2 */
	int want;
} rows[] = {
	{ "another slot beside is fine", { .slot = 2, .guest_phys_addr = AT + SIZE, .memory_size = SIZE, .userspace_addr = UA }, 0, 0 },
	{ "the same host memory in a second slot is fine", { .slot = 2, .guest_phys_addr = AT + SIZE, .memory_size = SIZE, .userspace_addr = UA }, 1, 0 },
	{ "unknown flags are EINVAL", { .slot = 2, .flags = 8, .guest_phys_addr = 2 * AT, .memory_size = SIZE, .userspace_addr = UA }, 0, -EINVAL },
	{ "guest_memfd without its capability is EINVAL", { .slot = 2, .flags = 4, .guest_phys_addr = 2 * AT, .memory_size = SIZE, .userspace_addr = UA }, 1, -EINVAL },
	{ "a size of half a page is EINVAL", { .slot = 2, .guest_phys_addr = 2 * AT, .memory_size = 2048, .userspace_addr = UA }, 0, -EINVAL },
	{ "an unaligned guest address is EINVAL", { .slot = 2, .guest_phys_addr = 2 * AT + 1, .memory_size = SIZE, .userspace_addr = UA }, 0, -EINVAL },
	{ "an unaligned host address is EINVAL", { .slot = 2, .guest_phys_addr = 2 * AT, .memory_size = SIZE, .userspace_addr = UA + 1 }, 0, -EINVAL },
	{ "a host address in the kernel is EINVAL", { .slot = 2, .guest_phys_addr = 2 * AT, .memory_size = SIZE, .userspace_addr = 0xffff800000000000ull }, 0, -EINVAL },
	{ "slot 32764 is EINVAL", { .slot = 32764, .guest_phys_addr = 2 * AT, .memory_size = SIZE, .userspace_addr = UA }, 0, -EINVAL },
	{ "slot 32763 is fine", { .slot = 32763, .guest_phys_addr = 2 * AT, .memory_size = SIZE, .userspace_addr = UA }, 0, 0 },
	{ "address space 1 has slots of its own", { .slot = 0x10001, .guest_phys_addr = AT, .memory_size = SIZE, .userspace_addr = UA }, 0, 0 },
	{ "address space 2 is EINVAL", { .slot = 0x20002, .guest_phys_addr = 2 * AT, .memory_size = SIZE, .userspace_addr = UA }, 0, -EINVAL },
	{ "a guest range that wraps is EINVAL", { .slot = 2, .guest_phys_addr = ~0xfffull, .memory_size = SIZE, .userspace_addr = UA }, 0, -EINVAL },
	{ "2^31 pages are EINVAL", { .slot = 2, .guest_phys_addr = 2 * AT, .memory_size = 1ull << 43, .userspace_addr = UA }, 0, -EINVAL },
	{ "an overlap by one page is EEXIST", { .slot = 2, .guest_phys_addr = AT + SIZE - 4096, .memory_size = SIZE, .userspace_addr = UA }, 0, -EEXIST },
	{ "deleting what is not there is EINVAL", { .slot = 9 }, 0, -EINVAL },
	{ "deleting is fine, other fields do not matter", { .slot = 1, .guest_phys_addr = 0x3000, .userspace_addr = 0x5000 }, 0, 0 },
	{ "the same again is fine", { .slot = 1, .guest_phys_addr = AT, .memory_size = SIZE, .userspace_addr = UA }, 0, 0 },
	{ "another size is EINVAL", { .slot = 1, .guest_phys_addr = AT, .memory_size = SIZE / 2, .userspace_addr = UA }, 0, -EINVAL },
	{ "another host address is EINVAL", { .slot = 1, .guest_phys_addr = AT, .memory_size = SIZE, .userspace_addr = UA + 4096 }, 0, -EINVAL },
	{ "making it read-only is EINVAL", { .slot = 1, .flags = 2, .guest_phys_addr = AT, .memory_size = SIZE, .userspace_addr = UA }, 0, -EINVAL },
	{ "logging can be switched on", { .slot = 1, .flags = 1, .guest_phys_addr = AT, .memory_size = SIZE, .userspace_addr = UA }, 0, 0 },
	{ "a move is fine", { .slot = 1, .guest_phys_addr = 2 * AT, .memory_size = SIZE, .userspace_addr = UA }, 0, 0 },
	{ "a move onto itself, overlapping, is fine", { .slot = 1, .guest_phys_addr = AT + 4096, .memory_size = SIZE, .userspace_addr = UA }, 0, 0 },
	{ "a move onto another is EEXIST", { .slot = 1, .guest_phys_addr = 0x1000, .memory_size = SIZE, .userspace_addr = UA }, 0, -EEXIST },
	{ "a host address of NULL is legal", { .slot = 2, .guest_phys_addr = 2 * AT, .memory_size = SIZE }, 0, 0 },
};
#define N_ROWS (sizeof(rows) / sizeof(rows[0]))

static void check_row(void **state)
{
	struct kvm_userspace_memory_region one = { .slot = 1, .guest_phys_addr = AT, .memory_size = SIZE, .userspace_addr = UA };
	const struct row *row = *state;
	struct rig r;

	rig_open(&r, 0);
	assert_int_equal(rig_ioctl(r.vm, KVM_SET_USER_MEMORY_REGION, &one), 0);
	assert_int_equal(rig_ioctl(r.vm, row->two ? KVM_SET_USER_MEMORY_REGION2 : KVM_SET_USER_MEMORY_REGION, &row->r), row->want);
	/* A refused request leaves the previous state: the same slot again is still "no change". */
	if (row->want)
		assert_int_equal(rig_ioctl(r.vm, KVM_SET_USER_MEMORY_REGION, &one), 0);
	rig_close(&r);
}

static void limit_of_slots(void **state)
{
	struct kvm_userspace_memory_region one = { .memory_size = 4096, .userspace_addr = UA };
	struct rig r;

	rig_open(&r, RIG_NO_VCPU);
	for (unsigned i = 1; i < 2000; i++) {
		one.slot = i;
		one.guest_phys_addr = AT + i * 4096ull;
		assert_int_equal(rig_ioctl(r.vm, KVM_SET_USER_MEMORY_REGION, &one), 0);
	}
	rig_close(&r);
}

/* mov al,[8000:0]; out 10,al in a loop: 1: a0 0 0; e6 10; eb f9 */
static void moved_slot_keeps_its_contents(void **state)
{
	static const uint8_t code[] = { 0xb8, 0x00, 0x80, 0x8e, 0xd8, 0xa0, 0, 0, 0xe6, 0x10, 0xeb, 0xf9 };
	struct kvm_userspace_memory_region one = { .slot = 1, .guest_phys_addr = RIG_HOLE, .memory_size = 4096 };
	uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct rig r;

	rig_open(&r, 0);
	page[0] = 0x21;
	one.userspace_addr = (uintptr_t)page;
	assert_int_equal(rig_ioctl(r.vm, KVM_SET_USER_MEMORY_REGION, &one), 0);
	rig_code(&r, code, sizeof(code));
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(((uint8_t *)r.run)[r.run->io.data_offset], 0x21);
	one.guest_phys_addr = RIG_HOLE + 0x10000;
	assert_int_equal(rig_ioctl(r.vm, KVM_SET_USER_MEMORY_REGION, &one), 0);
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_MMIO);	/* gone from there */
	one.guest_phys_addr = RIG_HOLE;
	assert_int_equal(rig_ioctl(r.vm, KVM_SET_USER_MEMORY_REGION, &one), 0);
	r.run->mmio.data[0] = 0x42;
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(((uint8_t *)r.run)[r.run->io.data_offset], 0x21);
	rig_close(&r);
	munmap(page, 4096);
}

int main(void)
{
	static struct CMUnitTest tests[N_ROWS + 2];

	for (unsigned i = 0; i < N_ROWS; i++)
		tests[i] = (struct CMUnitTest){ .name = rows[i].name, .test_func = check_row, .initial_state = (void *)(uintptr_t)&rows[i] };
	tests[N_ROWS] = (struct CMUnitTest){ .name = "two thousand slots", .test_func = limit_of_slots };
	tests[N_ROWS + 1] = (struct CMUnitTest){ .name = "a moved slot is gone from where it was and keeps its contents",
						 .test_func = moved_slot_keeps_its_contents };
	return _cmocka_run_group_tests("memory regions", tests, N_ROWS + 2, NULL, NULL);
}
