/* SPDX-License-Identifier: MIT */
/* The LAPIC timer against a clock that moves by hand. The bus runs at 1 GHz, the TSC at 2 GHz. */
#include "dev/irqchip_private.h"
#include "dev/test_rig.h"

#include <errno.h>
#include <string.h>

enum { EOI = 0xb0, SPIV = 0xf0, LVTT = 0x320, TMICT = 0x380, TMCCT = 0x390, TDCR = 0x3e0 };	/* page offsets */
#define PERIODIC	0x20000u
#define DEADLINE	0x40000u
#define MASKED		0x10000u
#define BY_1		0xbu	/* TDCR */

static int setup(void **state) { *state = rig_create(DEV_IRQCHIP_FULL, 1, false); return 0; }
static int teardown(void **state) { rig_destroy(*state); return 0; }

static int take(struct rig *rig)
{
	int vector = dev_lapic_ack(rig->lapic[0]);

	if (vector >= 0)
		rig_apic_write(rig, 0, EOI, 0);
	return vector;
}

static bool is_armed(struct rig *rig) { return dev_timers_next(rig->timers, &(uint64_t){ 0 }); }
static uint64_t tsc(struct rig *rig) { return rig->tsc_base + rig->now_ns * 2; }

static void start(struct rig *rig, uint32_t lvtt, uint32_t divider, uint32_t count)
{
	rig_apic_write(rig, 0, LVTT, lvtt);
	rig_apic_write(rig, 0, TDCR, divider);
	rig_apic_write(rig, 0, TMICT, count);
}

static void test_one_shot(void **state)
{
	struct rig *rig = *state;

	start(rig, 0x40, BY_1, 1000);
	assert_int_equal(rig_apic_read(rig, 0, TMCCT), 1000);
	rig_advance(rig, 400);
	assert_int_equal(rig_apic_read(rig, 0, TMCCT), 600);
	rig_advance(rig, 599);
	assert_int_equal(take(rig), -1);
	assert_int_equal(rig_apic_read(rig, 0, TMCCT), 1);
	rig_advance(rig, 1);
	assert_int_equal(take(rig), 0x40);
	assert_int_equal(rig_apic_read(rig, 0, TMCCT), 0);
	assert_int_equal(rig_apic_read(rig, 0, TMICT), 1000);
	rig_advance(rig, 100000);
	assert_int_equal(take(rig), -1);
	assert_false(is_armed(rig));
}

static void test_dividers(void **state)
{
	static const struct { uint32_t tdcr; unsigned divide; } rows[] = {
		{ 0x0, 2 }, { 0x1, 4 }, { 0x2, 8 }, { 0x3, 16 }, { 0x8, 32 }, { 0x9, 64 }, { 0xa, 128 }, { 0xb, 1 },
	};
	struct rig *rig = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		start(rig, 0x40, rows[i].tdcr, 100);
		rig_advance(rig, 100 * rows[i].divide - 1);
		assert_int_equal(take(rig), -1);
		rig_advance(rig, 1);
		assert_int_equal(take(rig), 0x40);
	}
}

static void test_divider_change_scales_the_rest(void **state)
{
	struct rig *rig = *state;

	start(rig, 0x40, BY_1, 1000);
	rig_advance(rig, 400);
	rig_apic_write(rig, 0, TDCR, 0x1);	/* 600 ticks left, now of 4 ns */
	assert_int_equal(rig_apic_read(rig, 0, TMCCT), 600);
	rig_advance(rig, 2399);
	assert_int_equal(take(rig), -1);
	rig_advance(rig, 1);
	assert_int_equal(take(rig), 0x40);
}

static void test_periodic(void **state)
{
	struct rig *rig = *state;

	start(rig, PERIODIC | 0x41, BY_1, 1000000);
	for (unsigned i = 0; i < 5; i++) {
		rig_advance(rig, 999999);
		assert_int_equal(take(rig), -1);
		rig_advance(rig, 1);
		assert_int_equal(take(rig), 0x41);
	}
	rig_advance(rig, 250000);
	assert_int_equal(rig_apic_read(rig, 0, TMCCT), 750000);
	rig_apic_write(rig, 0, TMICT, 0);
	assert_int_equal(rig_apic_read(rig, 0, TMCCT), 0);
	assert_false(is_armed(rig));
	rig_advance(rig, 5000000);
	assert_int_equal(take(rig), -1);
}

/* The host slept: one interrupt, and the phase is kept. */
static void test_periodic_catches_up(void **state)
{
	struct rig *rig = *state;
	uint64_t next;

	start(rig, PERIODIC | 0x41, BY_1, 1000000);
	rig->now_ns += 5500000;
	assert_int_equal(rig_apic_read(rig, 0, TMCCT), 500000);	/* the count wraps on time all the same */
	assert_int_equal(dev_timers_run(rig->timers), 1);
	assert_int_equal(rig_apic_read(rig, 0, TMCCT), 500000);
	assert_int_equal(take(rig), 0x41);
	assert_int_equal(take(rig), -1);
	assert_true(dev_timers_next(rig->timers, &next));
	assert_int_equal(next - rig->now_ns, 500000);
}

static void test_storms_are_stretched(void **state)
{
	struct rig *rig = *state;
	unsigned n = 0;

	start(rig, PERIODIC | 0x41, BY_1, 1);
	for (unsigned i = 0; i < 1000; i++) {
		rig_advance(rig, 1000);
		n += take(rig) >= 0;
	}
	assert_int_equal(n, 5);		/* 1 ms in periods of 200 us */
	/* One-shot has no minimum, and turning it periodic in flight does not keep a tiny period. */
	start(rig, 0x41, BY_1, 10);
	rig_apic_write(rig, 0, LVTT, PERIODIC | 0x41);
	rig_advance(rig, 10);
	assert_int_equal(take(rig), 0x41);
	rig_advance(rig, 199999);
	assert_int_equal(take(rig), -1);
	rig_advance(rig, 1);
	assert_int_equal(take(rig), 0x41);
}

static void test_masked(void **state)
{
	struct rig *rig = *state;

	start(rig, MASKED | 0x42, BY_1, 1000);
	rig_advance(rig, 1000);
	assert_int_equal(take(rig), -1);
	rig_apic_write(rig, 0, LVTT, 0x42);
	assert_int_equal(take(rig), -1);	/* what expired while masked is gone */
	start(rig, 0x42, BY_1, 1000);
	rig_apic_write(rig, 0, SPIV, 0xff);	/* software disable masks */
	rig_advance(rig, 1000);
	assert_int_equal(take(rig), -1);
}

static void test_deadline(void **state)
{
	struct rig *rig = *state;
	uint64_t at;

	rig_apic_write(rig, 0, LVTT, DEADLINE | 0x43);
	at = tsc(rig) + 20001;
	rig_wrmsr(rig, 0, 0x6e0, at);
	assert_int_equal(rig_rdmsr(rig, 0, 0x6e0), at);
	rig_advance(rig, 10000);
	assert_int_equal(take(rig), -1);
	rig_advance(rig, 2);
	assert_int_equal(take(rig), 0x43);
	assert_int_equal(rig_rdmsr(rig, 0, 0x6e0), 0);	/* disarmed by firing */
	rig_wrmsr(rig, 0, 0x6e0, tsc(rig) - 1);		/* the past: at once */
	assert_int_equal(take(rig), 0x43);
	assert_int_equal(rig_rdmsr(rig, 0, 0x6e0), 0);
	rig_wrmsr(rig, 0, 0x6e0, tsc(rig) + 1000);
	rig_wrmsr(rig, 0, 0x6e0, 0);
	assert_false(is_armed(rig));
	rig_advance(rig, 10000);
	assert_int_equal(take(rig), -1);
	rig_wrmsr(rig, 0, 0x6e0, ~0ull);		/* centuries ahead */
	rig_advance(rig, 1000000000);
	assert_int_equal(take(rig), -1);
}

static void test_deadline_mode_rules(void **state)
{
	struct rig *rig = *state;

	rig_wrmsr(rig, 0, 0x6e0, tsc(rig) + 1000);	/* not in the mode: ignored */
	assert_int_equal(rig_rdmsr(rig, 0, 0x6e0), 0);
	assert_false(is_armed(rig));
	rig_apic_write(rig, 0, LVTT, DEADLINE | 0x43);
	rig_apic_write(rig, 0, TMICT, 1000);		/* ignored in the mode */
	assert_int_equal(rig_apic_read(rig, 0, TMICT), 0);
	assert_int_equal(rig_apic_read(rig, 0, TMCCT), 0);
	rig_wrmsr(rig, 0, 0x6e0, tsc(rig) + 1000);
	rig_apic_write(rig, 0, LVTT, 0x43);		/* leaving disarms */
	assert_false(is_armed(rig));
	rig_apic_write(rig, 0, TMICT, 1000);
	assert_true(is_armed(rig));
	rig_apic_write(rig, 0, LVTT, DEADLINE | 0x43);	/* entering does too */
	assert_false(is_armed(rig));
	assert_int_equal(rig_apic_read(rig, 0, TMICT), 0);
	/* Without the CPUID bit the mode does not exist. */
	rig_apic_write(rig, 0, LVTT, 0x43);
	dev_lapic_set_features(rig->lapic[0], &(struct dev_lapic_features){ .maxphyaddr = 40 });
	rig_apic_write(rig, 0, LVTT, DEADLINE | 0x43);
	assert_int_equal(rig_apic_read(rig, 0, LVTT), 0x43);
}

static void test_deadline_follows_the_tsc(void **state)
{
	struct rig *rig = *state;

	rig_apic_write(rig, 0, LVTT, DEADLINE | 0x43);
	rig_wrmsr(rig, 0, 0x6e0, tsc(rig) + 20000);
	rig->tsc_base -= 20000;				/* set back: twice as long to wait */
	rig_advance(rig, 10001);			/* the host timer comes early and finds out */
	assert_int_equal(take(rig), -1);
	rig_advance(rig, 10002);
	assert_int_equal(take(rig), 0x43);
	rig_wrmsr(rig, 0, 0x6e0, tsc(rig) + 20000);
	rig->tsc_base += 20000;				/* set ahead: due now */
	dev_lapic_tsc_moved(rig->lapic[0]);
	assert_int_equal(take(rig), 0x43);
}

/* A callback that was on its way when its timer was moved or stopped. */
static void test_stale_callbacks(void **state)
{
	struct rig *rig = *state;
	struct dev_timer *timer = &rig->lapic[0]->timer;

	timer->fn(timer, rig->now_ns);			/* stopped */
	assert_int_equal(take(rig), -1);
	assert_false(is_armed(rig));
	start(rig, 0x40, BY_1, 1000);
	timer->fn(timer, rig->now_ns);			/* not due */
	assert_int_equal(take(rig), -1);
	rig_advance(rig, 1000);
	assert_int_equal(take(rig), 0x40);
	rig_apic_write(rig, 0, LVTT, DEADLINE | 0x43);
	timer->fn(timer, rig->now_ns);
	assert_int_equal(take(rig), -1);
}

/* One-shot is over when its time is, not when the host gets round to it. */
static void test_late_expiry_before_a_mode_change(void **state)
{
	struct rig *rig = *state;

	start(rig, 0x41, BY_1, 1000000);
	rig->now_ns += 1500000;
	rig_apic_write(rig, 0, LVTT, PERIODIC | 0x42);
	assert_int_equal(rig_apic_read(rig, 0, TMCCT), 0);
	assert_int_equal(take(rig), 0x41);
	rig_advance(rig, 5000000);
	assert_int_equal(rig_apic_read(rig, 0, TMCCT), 0);
	assert_int_equal(take(rig), -1);
	start(rig, PERIODIC | 0x41, BY_1, 1000000);
	rig->now_ns += 1500000;
	rig_apic_write(rig, 0, LVTT, 0x42);
	assert_int_equal(take(rig), 0x41);
	assert_int_equal(rig_apic_read(rig, 0, TMCCT), 500000);
	rig_advance(rig, 500000);
	assert_int_equal(take(rig), 0x42);
	assert_int_equal(take(rig), -1);
}

/* Modes change in flight without a reset of the count, as long as deadline mode is not involved. */
static void test_mode_change_keeps_counting(void **state)
{
	struct rig *rig = *state;

	start(rig, PERIODIC | 0x41, BY_1, 1000000);
	rig_advance(rig, 1600000);
	assert_int_equal(take(rig), 0x41);
	rig_apic_write(rig, 0, LVTT, 0x41);
	assert_int_equal(rig_apic_read(rig, 0, TMCCT), 400000);
	rig_advance(rig, 400000);
	assert_int_equal(take(rig), 0x41);
	assert_int_equal(rig_apic_read(rig, 0, TMCCT), 0);
	rig_apic_write(rig, 0, LVTT, PERIODIC | 0x41);	/* expired stays expired */
	assert_int_equal(rig_apic_read(rig, 0, TMCCT), 0);
	rig_advance(rig, 5000000);
	assert_int_equal(take(rig), -1);
}

static void test_bus_cycle(void **state)
{
	struct rig *rig = *state;

	assert_int_equal(dev_irqchip_set_bus_cycle_ns(rig->chip, 0), -EINVAL);
	assert_int_equal(dev_irqchip_set_bus_cycle_ns(rig->chip, 1ull << 40), -EINVAL);
	assert_int_equal(dev_irqchip_set_bus_cycle_ns(rig->chip, 40), 0);
	start(rig, 0x40, BY_1, 1000);
	rig_advance(rig, 39999);
	assert_int_equal(take(rig), -1);
	rig_advance(rig, 1);
	assert_int_equal(take(rig), 0x40);
	assert_int_equal(dev_irqchip_set_bus_cycle_ns(rig->chip, 1ull << 22), 0);
	start(rig, 0x40, 0xa, ~0u);			/* the longest count there is does not wrap */
	rig_advance(rig, 1000000000000ull);
	assert_int_equal(take(rig), -1);
	assert_true(is_armed(rig));
}

static void test_restore(void **state)
{
	struct rig *rig = *state;
	struct kvm_lapic_state s;

	start(rig, 0x40, BY_1, 1000);
	rig_advance(rig, 400);
	dev_lapic_get_state(rig->lapic[0], &s);
	rig_advance(rig, 500);
	dev_lapic_set_state(rig->lapic[0], &s);		/* 600 left again */
	rig_advance(rig, 599);
	assert_int_equal(take(rig), -1);
	rig_advance(rig, 1);
	assert_int_equal(take(rig), 0x40);
	dev_lapic_get_state(rig->lapic[0], &s);
	dev_lapic_set_state(rig->lapic[0], &s);		/* an expired one-shot stays expired */
	assert_false(is_armed(rig));
	start(rig, PERIODIC | 0x40, BY_1, 1000000);
	rig_advance(rig, 300000);
	dev_lapic_get_state(rig->lapic[0], &s);
	dev_lapic_set_state(rig->lapic[0], &s);
	rig_advance(rig, 700000);
	assert_int_equal(take(rig), 0x40);
	rig_advance(rig, 999999);
	assert_int_equal(take(rig), -1);
	rig_advance(rig, 1);
	assert_int_equal(take(rig), 0x40);
	/* A saved deadline mode restores disarmed; the client writes the MSR afterwards. */
	rig_apic_write(rig, 0, LVTT, DEADLINE | 0x43);
	rig_wrmsr(rig, 0, 0x6e0, tsc(rig) + 20000);
	dev_lapic_get_state(rig->lapic[0], &s);
	dev_lapic_reset(rig->lapic[0]);
	dev_lapic_set_state(rig->lapic[0], &s);
	assert_false(is_armed(rig));
	assert_int_equal(dev_lapic_write_msr(rig->lapic[0], 0x6e0, true, tsc(rig) + 20000), 0);
	rig_advance(rig, 10001);
	assert_int_equal(take(rig), 0x43);
}

#define T(name, fn) { name, fn, setup, teardown, NULL }

int main(void)
{
	static const struct CMUnitTest tests[] = {
		T("one-shot counts down, fires once, stays", test_one_shot),
		T("every divider divides", test_dividers),
		T("a new divider scales what is left", test_divider_change_scales_the_rest),
		T("periodic fires each period until the count is 0", test_periodic),
		T("periods slept through are lost, the phase is not", test_periodic_catches_up),
		T("periods under 200 us are stretched, whatever the way there", test_storms_are_stretched),
		T("masked expiries are lost", test_masked),
		T("a deadline fires at its TSC, at once if past, never if 0", test_deadline),
		T("deadline mode and count modes exclude each other", test_deadline_mode_rules),
		T("a deadline follows a TSC that is moved", test_deadline_follows_the_tsc),
		T("late callbacks of a moved timer do nothing", test_stale_callbacks),
		T("one-shot and periodic exchange without a reset", test_mode_change_keeps_counting),
		T("what expired unnoticed before a change of mode stays expired", test_late_expiry_before_a_mode_change),
		T("the bus cycle scales and cannot overflow", test_bus_cycle),
		T("saved timers go on where they were", test_restore),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
