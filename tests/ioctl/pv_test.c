/* SPDX-License-Identifier: MIT */
/* Paravirtual pages and hypercalls that KVM has for its guests: PV EOI. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "flat.h"

#define MSR_PV_EOI	0x4b564d04u

/* ---- PV EOI ------------------------------------------------------------------------------------------------------------ */

static void eoi_open(struct rig *r)
{
	flat_open(r, RIG_IRQCHIP | RIG_CPUID);
	assert_int_equal(flat_set_msr(r, MSR_PV_EOI, FLAT_BYTE | 1), 1);
	assert_int_equal(flat_run(r), FLAT_IDLE);
}

/* Is any interrupt in service or requested? */
static bool is_quiet(struct rig *r)
{
	struct kvm_lapic_state l;

	assert_int_equal(rig_ioctl(r->vcpu, KVM_GET_LAPIC, &l), 0);
	for (unsigned i = 0; i < 8; i++)
		for (unsigned k = 0; k < 4; k++)
			if (l.regs[0x100 + i * 16 + k] || l.regs[0x200 + i * 16 + k])
				return false;
	return true;
}

static void expect_counts(struct rig *r, unsigned taken, unsigned native)
{
	assert_int_equal(flat_word(r, FLAT_COUNT), taken);
	assert_int_equal(flat_word(r, FLAT_NATIVE), native);
}

static void eoi_by_the_byte(void **state)
{
	struct rig r;

	eoi_open(&r);
	for (unsigned i = 1; i <= 5; i++) {
		flat_inject(&r, 0x50);
		assert_int_equal(flat_run(&r), FLAT_IDLE);
		expect_counts(&r, i, 0);
		assert_true(is_quiet(&r));
		assert_int_equal(r.ram[FLAT_BYTE], 0);
	}
	/* Switched off, and by INIT: the register again. */
	assert_int_equal(flat_set_msr(&r, MSR_PV_EOI, 0), 1);
	flat_inject(&r, 0x50);
	assert_int_equal(flat_run(&r), FLAT_IDLE);
	expect_counts(&r, 6, 1);
	rig_close(&r);
}

/* While another one waits the guest must write the register; the last one may be ended by the byte. */
static void eoi_with_another_waiting(void **state)
{
	struct rig r;

	eoi_open(&r);
	flat_inject(&r, 0x50);
	flat_inject(&r, 0x60);
	assert_int_equal(flat_run(&r), FLAT_IDLE);
	if (flat_word(&r, FLAT_COUNT) == 1)
		assert_int_equal(flat_run(&r), FLAT_IDLE);
	expect_counts(&r, 2, 1);
	assert_true(is_quiet(&r));
	rig_close(&r);
}

/* The client sees, and may change, a LAPIC: nothing is left in the byte when it is asked. */
static void eoi_and_an_exit(void **state)
{
	struct rig r;

	eoi_open(&r);
	flat_set(&r, FLAT_FLAGS, FLAT_TELL);
	flat_inject(&r, 0x50);
	assert_int_equal(flat_run(&r), FLAT_INSIDE);
	assert_int_equal(r.ram[FLAT_BYTE], 0);
	assert_false(is_quiet(&r));
	flat_inject(&r, 0x60);		/* waits for the end of this one: interrupts are off */
	assert_int_equal(flat_run(&r), FLAT_INSIDE);
	expect_counts(&r, 2, 1);
	assert_int_equal(flat_run(&r), FLAT_IDLE);
	expect_counts(&r, 2, 2);
	assert_true(is_quiet(&r));
	rig_close(&r);
}

/* The byte is set by us, on a page that the guest has not written. */
static void eoi_is_logged_as_dirty(void **state)
{
	struct kvm_userspace_memory_region region = { .flags = KVM_MEM_LOG_DIRTY_PAGES, .memory_size = RIG_RAM };
	uint64_t bitmap[(RIG_RAM >> 12) / 64 + 1] = { 0 };
	struct kvm_dirty_log log = { .dirty_bitmap = bitmap };
	struct rig r;

	eoi_open(&r);
	region.userspace_addr = (uintptr_t)r.ram;
	assert_int_equal(rig_ioctl(r.vm, KVM_SET_USER_MEMORY_REGION, &region), 0);
	assert_int_equal(flat_run(&r), FLAT_IDLE);
	assert_int_equal(rig_ioctl(r.vm, KVM_GET_DIRTY_LOG, &log), 0);
	flat_set(&r, FLAT_FLAGS, FLAT_TELL);
	flat_inject(&r, 0x50);
	assert_int_equal(flat_run(&r), FLAT_INSIDE);
	assert_int_equal(rig_ioctl(r.vm, KVM_GET_DIRTY_LOG, &log), 0);
	assert_true(bitmap[0] >> (FLAT_BYTE >> 12) & 1);
	assert_false(bitmap[0] >> (FLAT_GDT >> 12) & 1);
	rig_close(&r);
}

/* Kernel integrity judges us like the guest: then the byte stays 0, and the guest ends its interrupts by the register. */
static void eoi_is_judged(void **state)
{
	struct gw_heki_attributes a = { .address = FLAT_BYTE, .size = 4096, .attributes = GW_HEKI_NW, .mask = GW_HEKI_NW };
	struct gw_heki_counters before, after;
	struct rig r;

	eoi_open(&r);
	assert_int_equal(rig_ioctl(r.vm, GW_HEKI_SET_ATTRIBUTES, &a), 0);
	assert_int_equal(rig_ioctl(r.vm, GW_HEKI_COUNTERS, &before), 0);
	for (unsigned i = 1; i <= 3; i++) {
		flat_inject(&r, 0x50);
		assert_int_equal(flat_run(&r), FLAT_IDLE);
		expect_counts(&r, i, i);
		assert_true(is_quiet(&r));
	}
	assert_int_equal(rig_ioctl(r.vm, GW_HEKI_COUNTERS, &after), 0);
	assert_int_equal(after.denied_pv - before.denied_pv, 3);
	rig_close(&r);
}

static void eoi_msr(void **state)
{
	struct kvm_enable_cap enforce = { .cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args = { 1 } };
	struct rig_cpuid none = { .nent = 0 };
	uint64_t value;
	struct rig r;

	flat_open(&r, RIG_IRQCHIP | RIG_CPUID);
	assert_int_equal(flat_set_msr(&r, MSR_PV_EOI, FLAT_BYTE | 3), 0);	/* not a multiple of 4 */
	assert_int_equal(flat_set_msr(&r, MSR_PV_EOI, 0x70000000 | 1), 0);	/* no memory */
	assert_int_equal(flat_set_msr(&r, MSR_PV_EOI, 0x70000000), 1);		/* which is only looked for when it is switched on */
	assert_int_equal(flat_set_msr(&r, MSR_PV_EOI, FLAT_BYTE | 1), 1);
	assert_int_equal(flat_get_msr(&r, MSR_PV_EOI, &value), 1);
	assert_int_equal(value, FLAT_BYTE | 1);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_CPUID2, &none), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_ENABLE_CAP, &enforce), 0);
	assert_int_equal(flat_set_msr(&r, MSR_PV_EOI, FLAT_BYTE | 1), 0);
	assert_int_equal(flat_get_msr(&r, MSR_PV_EOI, &value), 0);
	rig_close(&r);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		{ "an interrupt is ended by clearing the byte", eoi_by_the_byte },
		{ "while another one waits it is ended by the register", eoi_with_another_waiting },
		{ "at an exit the byte is taken back", eoi_and_an_exit },
		{ "setting the byte makes its page dirty", eoi_is_logged_as_dirty },
		{ "a page closed by kernel integrity gets no byte, and no interrupt is lost", eoi_is_judged },
		{ "MSR_KVM_PV_EOI_EN takes what KVM takes", eoi_msr },
	};

	return cmocka_run_group_tests_name("paravirtual pages", tests, NULL, NULL);
}
