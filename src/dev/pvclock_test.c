/* SPDX-License-Identifier: MIT */
/* kvmclock: precision of the scale, the write protocol as a guest would see it, and the VM's clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "dev/pvclock.h"

static const struct scale_row {
	const char *name;
	uint32_t khz;
} scale_rows[] = {
	{ "1 kHz", 1 }, { "999999 kHz", 999999 }, { "1 GHz", 1000000 }, { "1000001 kHz", 1000001 },
	{ "1.999999 GHz", 1999999 }, { "2 GHz", 2000000 }, { "2.000001 GHz", 2000001 }, { "2.8 GHz", 2799998 },
	{ "3.5 GHz", 3504213 }, { "4 GHz", 4000000 }, { "the fastest there is", 0xffffffff },
};

/* Within 1 ns in 1 s of exact, and never mul 0. */
static void check_scale(void **state)
{
	const struct scale_row *row = *state;
	struct dev_pvclock_time t = { 0 };
	uint64_t hz = row->khz * 1000ull;

	dev_pvclock_fill(&t, row->khz, 1000, 5000, DEV_PVCLOCK_TSC_STABLE);
	assert_true(t.tsc_to_system_mul >= 1u << 31);
	assert_int_equal(dev_pvclock_ns(&t, 1000), 5000);
	for (unsigned s = 1; s <= 1000; s *= 10) {
		uint64_t ns = dev_pvclock_ns(&t, 1000 + hz * s) - 5000, exact = s * 1000000000ull;

		assert_in_range(ns, exact - s - 2, exact);
	}
}

static void test_no_frequency_stands_still(void **state)
{
	struct dev_pvclock_time t = { 0 };

	dev_pvclock_fill(&t, 0, 0, 77, 0);
	assert_int_equal(dev_pvclock_ns(&t, ~0ull), 77);
}

/* Guest memory that looks like one page at 0x1000, and remembers the order of writes. */
struct memory {
	uint8_t bytes[64];
	uint32_t versions[8];
	unsigned n_writes;
	unsigned fail_at;	/* this write is denied; 0 none */
};

static bool mem_read(void *opaque, struct gpa gpa, void *buf, size_t len)
{
	struct memory *m = opaque;

	assert_in_range(gpa.v, 0x1000, 0x1040 - len);
	memcpy(buf, m->bytes + (gpa.v - 0x1000), len);
	return true;
}

static bool mem_write(void *opaque, struct gpa gpa, const void *buf, size_t len)
{
	struct memory *m = opaque;

	assert_in_range(gpa.v, 0x1000, 0x1040 - len);
	if (++m->n_writes == m->fail_at)
		return false;
	memcpy(m->bytes + (gpa.v - 0x1000), buf, len);
	memcpy(&m->versions[m->n_writes & 7], m->bytes, 4);
	return true;
}

static const struct dev_pvclock_ops ops = { mem_read, mem_write };

static void test_write_protocol(void **state)
{
	struct memory m = { .bytes = { 7 } };	/* an odd version: junk */
	struct dev_pvclock_time t = { .version = 99 }, got;

	m.bytes[29] = 0xff;			/* all flags, of which only GUEST_STOPPED counts */
	dev_pvclock_fill(&t, 2000000, 123, 456, DEV_PVCLOCK_TSC_STABLE);
	assert_true(dev_pvclock_write(&t, GPA(0x1000), &ops, &m));
	assert_int_equal(m.n_writes, 3);
	assert_int_equal(m.versions[1], 9);	/* odd while the body changes */
	assert_int_equal(m.versions[2], 9);
	assert_int_equal(m.versions[3], 10);
	memcpy(&got, m.bytes, sizeof(got));
	assert_int_equal(got.tsc_timestamp, 123);
	assert_int_equal(got.system_time, 456);
	assert_int_equal(got.flags, DEV_PVCLOCK_TSC_STABLE | DEV_PVCLOCK_GUEST_STOPPED);
	m.bytes[29] = 0;			/* the guest has seen it */
	assert_true(dev_pvclock_write(&t, GPA(0x1000), &ops, &m));
	memcpy(&got, m.bytes, sizeof(got));
	assert_int_equal(got.version, 12);
	assert_int_equal(got.flags, DEV_PVCLOCK_TSC_STABLE);
	for (unsigned i = 32; i < 64; i++)
		assert_int_equal(m.bytes[i], 0);
}

static void test_denied_write_stops(void **state)
{
	struct dev_pvclock_time t = { 0 };

	dev_pvclock_fill(&t, 2000000, 123, 456, 0);
	for (unsigned fail_at = 1; fail_at <= 3; fail_at++) {
		struct memory m = { .fail_at = fail_at };

		assert_false(dev_pvclock_write(&t, GPA(0x1000), &ops, &m));
		assert_int_equal(m.n_writes, fail_at);
		m.n_writes = 0;
		assert_false(dev_pvclock_write_wall(GPA(0x1000), 1, &ops, &m));
		assert_int_equal(m.n_writes, fail_at);
	}
}

static void test_wall_clock(void **state)
{
	struct memory m = { .bytes = { 0 } };
	struct dev_pvclock_wall got;

	assert_true(dev_pvclock_write_wall(GPA(0x1000), 1700000000123456789ull, &ops, &m));
	memcpy(&got, m.bytes, sizeof(got));
	assert_int_equal(got.version, 2);
	assert_int_equal(got.sec, 1700000000);
	assert_int_equal(got.nsec, 123456789);
	assert_int_equal(m.versions[1] & 1, 1);
	assert_int_equal(m.bytes[12], 0);
}

static void test_vm_clock(void **state)
{
	struct dev_pvclock_sample now = { .realtime_ns = 50000, .host_tsc = 9000 };
	struct kvm_clock_data data = { .clock = 180000000000ull, .flags = 0 };
	struct dev_kvmclock c = { .host_khz = 2000000 };

	assert_int_equal(dev_kvmclock_set(&c, &now, &data), 0);
	now.host_tsc += 1000;
	dev_kvmclock_get(&c, &now, &data);
	assert_int_equal(data.clock, 180000000500ull);
	assert_int_equal(data.flags, 14);
	assert_int_equal(data.realtime, 50000);
	assert_int_equal(data.host_tsc, 10000);
	/* Time that passed on the wall since the save is added, time that went backwards is not. */
	data = (struct kvm_clock_data){ .clock = 100, .flags = KVM_CLOCK_REALTIME, .realtime = 40000 };
	assert_int_equal(dev_kvmclock_set(&c, &now, &data), 0);
	assert_int_equal(dev_kvmclock_at(&c, now.host_tsc), 10100);
	data.realtime = 60000;
	assert_int_equal(dev_kvmclock_set(&c, &now, &data), 0);
	assert_int_equal(dev_kvmclock_at(&c, now.host_tsc), 100);
	data.flags = KVM_CLOCK_HOST_TSC;
	data.clock = 5;
	assert_int_equal(dev_kvmclock_set(&c, &now, &data), -EINVAL);
	assert_int_equal(dev_kvmclock_at(&c, now.host_tsc), 100);
	/* A CPU that is a little behind does not turn it back. */
	assert_int_equal(dev_kvmclock_at(&c, now.host_tsc - 50), 100);
}

/* Hours later the clock and a page filled from it still agree to the nanosecond. */
static void test_vm_clock_and_page(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(scale_rows); i++) {
		struct dev_kvmclock c = { .host_tsc = 123456789, .ns = 5, .host_khz = scale_rows[i].khz };
		struct dev_pvclock_time t;
		uint64_t later = c.host_tsc + 10000000ull * c.host_khz;

		dev_pvclock_fill(&t, c.host_khz, c.host_tsc + 77, c.ns, 0);
		assert_int_equal(dev_pvclock_ns(&t, later + 77), dev_kvmclock_at(&c, later));
		assert_in_range(dev_kvmclock_at(&c, later), 10000000000000ull - 10000, 10000000000005ull);
	}
}

static const struct CMUnitTest fixed[] = {
	cmocka_unit_test(test_no_frequency_stands_still),
	{ "versions are odd during a write, even after, and STOPPED survives until seen", test_write_protocol, NULL, NULL, NULL },
	{ "a denied write ends the update", test_denied_write_stops, NULL, NULL, NULL },
	{ "the wall clock is seconds and nanoseconds at boot", test_wall_clock, NULL, NULL, NULL },
	{ "the VM's clock is set, read and refused as KVM does", test_vm_clock, NULL, NULL, NULL },
	{ "the VM's clock and a guest's page never part", test_vm_clock_and_page, NULL, NULL, NULL },
};

int main(void)
{
	struct CMUnitTest tests[ARRAY_SIZE(fixed) + ARRAY_SIZE(scale_rows)];
	size_t n = ARRAY_SIZE(fixed);

	memcpy(tests, fixed, sizeof(fixed));
	for (size_t i = 0; i < ARRAY_SIZE(scale_rows); i++) {
		tests[n++] = (struct CMUnitTest){ .name = scale_rows[i].name, .test_func = check_scale,
						  .initial_state = (void *)(uintptr_t)&scale_rows[i] };
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
