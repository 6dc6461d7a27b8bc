/* SPDX-License-Identifier: MIT */
/*
 * Kernel integrity beside KVM's own memory attributes: a page that is only private has all rights (in the published series it has
 * none), rights hold on both sides of a page, and neither interface changes the other's bits.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "../private/prig.h"

static struct prig P;

static int open_protected(void **state) { prig_open(&P, SW, 0); return 0; }
static int close_it(void **state) { prig_close(&P); return 0; }

static void close_page(uint64_t gpa)
{
	struct gw_heki_attributes a = { .address = gpa, .size = PAGE, .attributes = GW_HEKI_NW, .mask = GW_HEKI_NW };
	struct kvm_enable_cap c = { .cap = KVM_CAP_HEKI_DENIAL, .args = { KVM_HEKI_EXIT_REASON_MEM } };

	assert_int_equal(pioctl(P.vm, GW_HEKI_SET_ATTRIBUTES, &a), 0);
	assert_int_equal(pioctl(P.vm, KVM_ENABLE_CAP, &c), 0);
}

static void a_private_page_has_all_rights(void **state)
{
	struct gw_heki_attributes a = { .address = PRIG_AT };
	uint8_t value = 0;

	assert_int_equal(prig_convert(&P, PRIG_AT, PAGE, true), 0);
	assert_int_equal(pioctl(P.vm, GW_HEKI_GET_ATTRIBUTES, &a), -ENOENT);
	assert_int_equal(prig_write(&P, 0, 8, 0x5a), 0);
	assert_int_equal(prig_read(&P, 0, 8, &value), 0);
	assert_int_equal(value, 0x5a);
	/* Others have entries: still. */
	close_page(PRIG_AT + PAGE);
	assert_int_equal(prig_write(&P, 0, 8, 0x5b), 0);
	assert_int_equal(prig_read(&P, 0, 8, &value), 0);
	assert_int_equal(value, 0x5b);
}

static void rights_hold_on_both_sides(void **state)
{
	uint8_t value = 0;

	close_page(PRIG_AT);
	for (unsigned is_private = 0; is_private < 2; is_private++) {
		struct gw_heki_attributes a = { .address = PRIG_AT };

		assert_int_equal(prig_convert(&P, PRIG_AT, PAGE, is_private), 0);
		assert_int_equal(pioctl(P.vm, GW_HEKI_GET_ATTRIBUTES, &a), 0);
		assert_int_equal(a.address, PRIG_AT);
		assert_int_equal(a.attributes, GW_HEKI_NW);
		assert_int_equal(prig_read(&P, 0, 8, &value), 0);
		assert_int_equal(value, 0);
		assert_int_equal(prig_write(&P, 0, 8, 0x5a), KVM_EXIT_HEKI_DENIAL);
		/* The client drops it; nothing was written. */
		P.cs_base[0] = ~0ull;
		assert_int_equal(prig_read(&P, 0, 8, &value), 0);
		assert_int_equal(value, 0);
	}
}

/* KVM's kind stays when our attributes are set and cleared: the guest asks for the private side and gets it. */
static void neither_changes_the_other(void **state)
{
	struct gw_heki_attributes clear = { .address = PRIG_AT, .size = PAGE, .flags = GW_HEKI_ATTR_CLEAR };
	uint8_t value = 0;

	assert_int_equal(prig_convert(&P, PRIG_AT, PAGE, true), 0);
	assert_int_equal(prig_write(&P, 0, 8, 0x5a), 0);
	close_page(PRIG_AT);
	assert_int_equal(pioctl(P.vm, GW_HEKI_SET_ATTRIBUTES, &clear), 0);
	assert_int_equal(prig_read(&P, 0, 8, &value), 0);
	assert_int_equal(value, 0x5a);
	assert_int_equal(P.shared[8], 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		{ "a page that is only private has all rights", a_private_page_has_all_rights, open_protected, close_it, NULL },
		{ "rights hold on the private and the shared side", rights_hold_on_both_sides, open_protected, close_it, NULL },
		{ "neither interface changes the other's bits", neither_changes_the_other, open_protected, close_it, NULL },
	};

	return cmocka_run_group_tests_name("coexist", tests, NULL, NULL);
}
