/* SPDX-License-Identifier: MIT */
/* The PIT: programming, counting, latches, port 0x61, IRQ 0 with and without reinjection, saved state. */
#include "dev/irqchip_private.h"
#include "dev/test_rig.h"

#include <errno.h>
#include <string.h>

#define HZ 1193182ull

/* Nanoseconds after which @ticks have certainly passed. */
static uint64_t ticks_ns(uint64_t ticks) { return ticks * 1000000000ull / HZ + 1; }

static int setup(void **state)
{
	struct rig *rig = rig_create(DEV_IRQCHIP_FULL, 1, false);

	rig_init_pics(rig, 1);
	assert_int_equal(dev_pit_create(rig->chip, KVM_PIT_SPEAKER_DUMMY), 0);
	*state = rig;
	return 0;
}

static int teardown(void **state) { rig_destroy(*state); return 0; }

static void program(struct rig *rig, unsigned channel, unsigned mode, uint16_t count)
{
	rig_out(rig, 0x43, (uint8_t)(channel << 6 | 0x30 | mode << 1));
	rig_out(rig, (uint16_t)(0x40 + channel), (uint8_t)count);
	rig_out(rig, (uint16_t)(0x40 + channel), (uint8_t)(count >> 8));
}

static uint16_t read_latched(struct rig *rig, unsigned channel)
{
	uint16_t count;

	rig_out(rig, 0x43, (uint8_t)(channel << 6));
	count = rig_in(rig, (uint16_t)(0x40 + channel));
	return (uint16_t)(count | rig_in(rig, (uint16_t)(0x40 + channel)) << 8);
}

static bool out2(struct rig *rig) { return rig_in(rig, 0x61) & 0x20; }
static bool is_armed(struct rig *rig) { return dev_timers_next(rig->timers, &(uint64_t){ 0 }); }

/* Take IRQ 0 from the PIC; true if there was one. @eoi: and end it. */
static bool take(struct rig *rig, bool eoi)
{
	int vector = dev_lapic_ack(rig->lapic[0]);

	if (vector < 0)
		return false;
	assert_int_equal(vector, 0x20);
	if (eoi)
		rig_out(rig, 0x20, 0x20);
	return true;
}

/* Channel 2 with its gate up. After @ticks since loading: count and output. */
static const struct mode_row {
	const char *name;
	unsigned mode;
	uint16_t load;
	struct { uint32_t ticks; uint16_t count; bool out; } at[5];
} mode_rows[] = {
	{ "mode 0 rises at terminal count and counts on", 0, 1000, {
		{ 0, 1000, false }, { 400, 600, false }, { 999, 1, false }, { 1000, 0, true }, { 1001, 0xffff, true } } },
	{ "mode 1 is low while it counts, inverted here by its trigger", 1, 1000, {
		{ 0, 1000, true }, { 999, 1, true }, { 1000, 0, false }, { 1001, 0xffff, false }, { 1500, 0xfe0c, false } } },
	{ "mode 2 divides", 2, 1000, {
		{ 0, 1000, false }, { 1, 999, false }, { 999, 1, false }, { 1000, 1000, true }, { 1001, 999, false } } },
	{ "mode 3 is a square wave that counts by two", 3, 1000, {
		{ 0, 1000, true }, { 1, 998, true }, { 499, 2, true }, { 500, 1000, false }, { 1000, 1000, true } } },
	{ "mode 3 with an odd count is high one tick longer", 3, 1001, {
		{ 0, 1001, true }, { 500, 1, true }, { 501, 1000, false }, { 1000, 2, false }, { 1001, 1001, true } } },
	{ "mode 4 strobes once", 4, 1000, {
		{ 0, 1000, false }, { 999, 1, false }, { 1000, 0, true }, { 1001, 0xffff, false }, { 2000, 0xfc18, false } } },
	{ "mode 6 is mode 2", 6, 1000, {
		{ 0, 1000, false }, { 1, 999, false }, { 999, 1, false }, { 1000, 1000, true }, { 1001, 999, false } } },
	{ "mode 7 is mode 3", 7, 1000, {
		{ 0, 1000, true }, { 1, 998, true }, { 499, 2, true }, { 500, 1000, false }, { 1000, 1000, true } } },
	{ "count 0 is 65536", 2, 0, {
		{ 0, 0, false }, { 1, 0xffff, false }, { 65535, 1, false }, { 65536, 0, true }, { 65537, 0xffff, false } } },
};

static void check_mode(void **state)
{
	const struct mode_row *row = *state;
	struct rig *rig = NULL;
	uint64_t start;

	setup((void **)&rig);
	rig_out(rig, 0x61, 1);
	program(rig, 2, row->mode, row->load);
	start = rig->now_ns;
	for (unsigned i = 0; i < ARRAY_SIZE(row->at); i++) {
		rig->now_ns = start + (row->at[i].ticks ? ticks_ns(row->at[i].ticks) : 0);
		assert_int_equal(read_latched(rig, 2), row->at[i].count);
		assert_int_equal(out2(rig), row->at[i].out);
	}
	rig_destroy(rig);
}

static void test_access_modes(void **state)
{
	struct rig *rig = *state;

	rig_out(rig, 0x43, 0x94);			/* channel 2, LSB only, mode 2 */
	rig_out(rig, 0x42, 0x64);
	assert_int_equal(rig_in(rig, 0x42), 0x64);
	assert_int_equal(rig_in(rig, 0x42), 0x64);
	rig_out(rig, 0x43, 0xa4);			/* MSB only */
	rig_out(rig, 0x42, 0x12);
	assert_int_equal(rig_in(rig, 0x42), 0x12);
	assert_int_equal(rig_in(rig, 0x42), 0x12);
	rig_out(rig, 0x43, 0xb4);			/* both */
	rig_out(rig, 0x42, 0x34);
	assert_int_equal(rig_in(rig, 0x42), 0x00);	/* half a count loads nothing */
	assert_int_equal(rig_in(rig, 0x42), 0x12);
	rig_out(rig, 0x42, 0x56);
	assert_int_equal(rig_in(rig, 0x42), 0x34);
	assert_int_equal(rig_in(rig, 0x42), 0x56);
	assert_int_equal(rig_in(rig, 0x42), 0x34);
	assert_int_equal(rig_in(rig, 0x43), 0);		/* write-only */
}

static void test_latches(void **state)
{
	struct rig *rig = *state;

	program(rig, 1, 2, 1000);
	rig_out(rig, 0x43, 0x40);			/* latch channel 1 */
	rig_advance(rig, ticks_ns(100));
	rig_out(rig, 0x43, 0x40);			/* a second latch before the read is ignored */
	assert_int_equal(rig_in(rig, 0x41), 0xe8);
	assert_int_equal(rig_in(rig, 0x41), 0x03);
	assert_int_equal(rig_in(rig, 0x41), 900 & 0xff);	/* then live again */
	assert_int_equal(rig_in(rig, 0x41), 900 >> 8);
	/* Read back: status first, then count, of all channels named. */
	program(rig, 2, 3, 500);
	rig_out(rig, 0x43, 0xc0 | 0x0c);
	rig_advance(rig, ticks_ns(10));
	assert_int_equal(rig_in(rig, 0x42), 0x80 | 0x36);
	assert_int_equal(rig_in(rig, 0x42), 500 & 0xff);
	assert_int_equal(rig_in(rig, 0x42), 500 >> 8);
	assert_int_equal(rig_in(rig, 0x41), 0x34);
	assert_int_equal(rig_in(rig, 0x41), 900 & 0xff);
	assert_int_equal(rig_in(rig, 0x41), 900 >> 8);
	rig_out(rig, 0x43, 0xc0 | 0x20 | 0x08);		/* status only */
	assert_int_equal(rig_in(rig, 0x42) & 0x3f, 0x36);
	assert_int_equal(rig_in(rig, 0x42), 480 & 0xff);	/* the live count again */
	/* BCD is reported, not obeyed. */
	rig_out(rig, 0x43, 0xb5);
	rig_out(rig, 0x43, 0xc0 | 0x20 | 0x08);
	assert_int_equal(rig_in(rig, 0x42) & 0x3f, 0x35);
}

static void test_speaker_port(void **state)
{
	struct rig *rig = *state;
	uint8_t a, b;
	uint32_t wide = ~0u;

	rig_out(rig, 0x61, 0xff);
	assert_int_equal(rig_in(rig, 0x61) & 0x0f, 3);
	a = rig_in(rig, 0x61);
	rig_advance(rig, 16384);
	b = rig_in(rig, 0x61);
	assert_int_equal((a ^ b) & 0x10, 0x10);
	rig_out(rig, 0x61, 0);
	assert_int_equal(rig_in(rig, 0x61) & 0x0f, 0);
	/* A rising gate restarts a square wave. */
	program(rig, 2, 3, 1000);
	rig_advance(rig, ticks_ns(600));
	assert_false(out2(rig));
	rig_out(rig, 0x61, 1);
	assert_true(out2(rig));
	assert_int_equal(read_latched(rig, 2), 1000);
	assert_true(dev_pio(rig->chip, 0x61, 4, &wide, false));
	assert_int_equal(wide & ~0xffu, 0);
	assert_false(dev_pio(rig->chip, 0x62, 1, &a, false));
	assert_false(dev_pio(rig->chip, 0x43, 2, &wide, false));
	assert_true(dev_pio(rig->chip, 0x42, 2, &wide, false));
}

static void test_speaker_not_claimed(void **state)
{
	struct rig *rig = rig_create(DEV_IRQCHIP_FULL, 1, false);
	uint8_t byte = 0;

	assert_int_equal(dev_pit_create(rig->chip, 2), -EINVAL);
	assert_int_equal(dev_pit_get2(rig->chip, &(struct kvm_pit_state2){ { { 0 } } }), -ENXIO);
	assert_int_equal(dev_pit_set2(rig->chip, &(struct kvm_pit_state2){ { { 0 } } }), -ENXIO);
	assert_int_equal(dev_pit_get(rig->chip, &(struct kvm_pit_state){ { { 0 } } }), -ENXIO);
	assert_int_equal(dev_pit_set(rig->chip, &(struct kvm_pit_state){ { { 0 } } }), -ENXIO);
	assert_int_equal(dev_pit_set_reinject(rig->chip, true), -ENXIO);
	assert_int_equal(dev_pit_create(rig->chip, 0), 0);
	assert_int_equal(dev_pit_create(rig->chip, 0), -EEXIST);
	assert_false(dev_pio(rig->chip, 0x61, 1, &byte, false));
	assert_true(dev_pio(rig->chip, 0x40, 1, &byte, false));
	assert_false(is_armed(rig));			/* nobody programmed it */
	rig_destroy(rig);
}

static void test_irq0_periodic(void **state)
{
	struct rig *rig = *state;

	program(rig, 0, 2, 11932);			/* about 100 Hz */
	for (unsigned i = 0; i < 5; i++) {
		rig_advance(rig, 9999000);
		assert_false(take(rig, true));
		rig_advance(rig, 2000);
		assert_true(take(rig, true));
		rig->now_ns -= 1000 - 150;		/* the period is 10000150 ns */
	}
	rig_out(rig, 0x43, 0x30);			/* a control word stops it until a count comes */
	assert_false(is_armed(rig));
}

static void test_irq0_one_shot(void **state)
{
	static const unsigned modes[] = { 0, 1, 4 };
	struct rig *rig = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(modes); i++) {
		program(rig, 0, modes[i], 1000);
		rig_advance(rig, ticks_ns(1001));
		assert_true(take(rig, true));
		assert_false(is_armed(rig));
	}
	program(rig, 0, 5, 1000);			/* needs a gate that channel 0 has not */
	assert_false(is_armed(rig));
}

static void test_rate_is_clamped(void **state)
{
	struct rig *rig = *state;
	unsigned n = 0;

	program(rig, 0, 2, 2);
	for (unsigned i = 0; i < 10000; i++) {
		rig_advance(rig, 1000);
		n += take(rig, true);
	}
	assert_int_equal(n, 50);			/* 10 ms by 200 us */
}

static void test_reinject(void **state)
{
	struct rig *rig = *state;
	unsigned n = 0;

	program(rig, 0, 2, 11932);
	rig_advance(rig, 55000000);			/* five ticks and nobody looks */
	while (take(rig, true))
		n++;
	assert_int_equal(n, 5);				/* each EOI brings the next */
	/* The whole host slept: the ticks are owed all the same. */
	rig->now_ns += 30000000;
	dev_timers_run(rig->timers);
	for (n = 0; take(rig, true);)
		n++;
	assert_int_equal(n, 3);
	/* Unmasking forgets what could not be acknowledged. */
	rig_out(rig, 0x21, 0x01);
	rig_advance(rig, 50000000);
	rig_out(rig, 0x21, 0x00);
	for (n = 0; take(rig, true);)
		n++;
	assert_in_range(n, 0, 1);
	/* Reprogramming too. */
	rig_advance(rig, 50000000);
	take(rig, false);
	program(rig, 0, 2, 11932);
	rig_out(rig, 0x20, 0x20);
	assert_false(take(rig, true));
}

static void test_reinject_with_pic_quirks(void **state)
{
	struct rig *rig = *state;
	unsigned n = 0;

	program(rig, 0, 2, 11932);
	rig_advance(rig, 10001000);
	assert_true(take(rig, false));
	rig_advance(rig, 10001000);		/* owed, but not raised before the EOI */
	rig_out(rig, 0x20, 0x0a);
	assert_int_equal(rig_in(rig, 0x20) & 1, 0);
	rig_init_pics(rig, 3);			/* the tick in service will never see its EOI */
	for (n = 0; take(rig, false);)
		n++;
	assert_in_range(n, 0, 1);
	rig_advance(rig, 30000000);		/* and automatic EOI acknowledges by itself */
	for (n = 0; take(rig, false);)
		n++;
	assert_int_equal(n, 3);
}

static void test_no_reinject(void **state)
{
	struct rig *rig = *state;
	unsigned n = 0;

	assert_int_equal(dev_pit_set_reinject(rig->chip, false), 0);
	program(rig, 0, 2, 11932);
	rig_advance(rig, 55000000);
	while (take(rig, true))
		n++;
	assert_int_equal(n, 1);
	rig_advance(rig, 10000000);
	assert_true(take(rig, true));
}

static void test_reinject_through_ioapic(void **state)
{
	struct rig *rig = *state;
	unsigned n = 0;

	rig_out(rig, 0x21, 0xff);
	rig_ioapic_set(rig, 0, 0x60);			/* default routing: GSI 0 is pin 0 */
	program(rig, 0, 2, 11932);
	rig_advance(rig, 35000000);
	while (dev_lapic_ack(rig->lapic[0]) == 0x60) {
		n++;
		rig_apic_write(rig, 0, 0xb0, 0);
	}
	assert_int_equal(n, 3);
}

static void test_nmi_watchdog(void **state)
{
	struct rig *rig = *state;

	rig_apic_write(rig, 0, 0x350, 0x400);
	program(rig, 0, 2, 11932);
	rig_advance(rig, 10001000);
	assert_int_equal(dev_lapic_pending(rig->lapic[0]), DEV_PEND_NMI);
}

/* A tick that was on its way when the channel was reloaded or stopped. */
static void test_stale_ticks(void **state)
{
	struct rig *rig = *state;
	struct dev_timer *timer = &rig->chip->pit->timer;

	timer->fn(timer, rig->now_ns);
	assert_false(take(rig, true));
	assert_false(is_armed(rig));
	program(rig, 0, 2, 11932);
	timer->fn(timer, rig->now_ns);
	assert_false(take(rig, true));
	rig_advance(rig, 10001000);
	assert_true(take(rig, true));
}

static void test_state(void **state)
{
	struct rig *rig = *state;
	struct kvm_pit_state2 s, back;
	struct kvm_pit_state legacy;

	assert_int_equal(dev_pit_get2(rig->chip, &s), 0);
	assert_int_equal(s.channels[0].mode, 0xff);	/* never programmed, and stays so */
	assert_int_equal(dev_pit_set2(rig->chip, &s), 0);
	assert_false(is_armed(rig));
	program(rig, 0, 2, 11932);
	program(rig, 2, 3, 500);
	rig_out(rig, 0x61, 3);
	rig_out(rig, 0x43, 0x80);
	rig_in(rig, 0x42);				/* half of a latched count read */
	rig_out(rig, 0x43, 0xe8);			/* and a latched status */
	rig_out(rig, 0x40, 0x11);			/* half of a count written */
	assert_int_equal(dev_pit_get2(rig->chip, &s), 0);
	assert_int_equal(s.flags, KVM_PIT_FLAGS_SPEAKER_DATA_ON);
	assert_int_equal(s.channels[2].gate, 1);
	assert_int_equal(s.channels[2].count, 500);
	program(rig, 0, 4, 7);
	program(rig, 2, 0, 7);
	rig_out(rig, 0x61, 0);
	assert_int_equal(dev_pit_set2(rig->chip, &s), 0);
	assert_int_equal(dev_pit_get2(rig->chip, &back), 0);
	assert_memory_equal(&s, &back, sizeof(s));
	rig_advance(rig, 10001000);
	assert_true(take(rig, true));
	rig_out(rig, 0x40, 0x22);
	assert_int_equal(dev_pit_get(rig->chip, &legacy), 0);
	assert_int_equal(legacy.channels[0].count, 0x2211);
	assert_int_equal(dev_pit_set(rig->chip, &legacy), 0);
	/* With an HPET in its place channel 0 raises nothing. */
	s.flags |= KVM_PIT_FLAGS_HPET_LEGACY;
	assert_int_equal(dev_pit_set2(rig->chip, &s), 0);
	assert_false(is_armed(rig));
	s.flags &= ~(uint32_t)KVM_PIT_FLAGS_HPET_LEGACY;
	assert_int_equal(dev_pit_set2(rig->chip, &s), 0);
	assert_true(is_armed(rig));
	/* Hostile bytes become some legal state. */
	memset(&s, 0xfe, sizeof(s));
	assert_int_equal(dev_pit_set2(rig->chip, &s), 0);
	for (unsigned port = 0x40; port < 0x44; port++) {
		for (unsigned i = 0; i < 4; i++) {
			rig_in(rig, (uint16_t)port);
			rig_out(rig, (uint16_t)port, 0xff);
		}
	}
	memset(&s, 0, sizeof(s));
	assert_int_equal(dev_pit_set2(rig->chip, &s), 0);
	rig_in(rig, 0x40);
	rig_out(rig, 0x40, 5);
	dev_pit_get2(rig->chip, &s);
	assert_int_equal(s.channels[0].count, 0x10000);
}

#define T(name, fn) { name, fn, setup, teardown, NULL }

static const struct CMUnitTest fixed[] = {
	T("LSB, MSB and word access", test_access_modes),
	T("count and status latches, read-back", test_latches),
	T("port 0x61: gate, speaker, refresh, output", test_speaker_port),
	{ "without the flag port 0x61 is the client's; creation errors", test_speaker_not_claimed, NULL, NULL, NULL },
	T("IRQ 0 ticks at its period", test_irq0_periodic),
	T("IRQ 0 comes once in the one-shot modes", test_irq0_one_shot),
	T("a period under 200 us is stretched", test_rate_is_clamped),
	T("reinjection brings every owed tick, one per EOI", test_reinject),
	T("reinjection survives a PIC that is reset, and automatic EOI", test_reinject_with_pic_quirks),
	T("without reinjection unseen ticks merge", test_no_reinject),
	T("reinjection through the IOAPIC", test_reinject_through_ioapic),
	T("LINT0 in NMI mode gets each tick", test_nmi_watchdog),
	T("late ticks of a reloaded channel do nothing", test_stale_ticks),
	T("PIT state round-trips in both formats and is sanitised", test_state),
};

int main(void)
{
	struct CMUnitTest tests[ARRAY_SIZE(fixed) + ARRAY_SIZE(mode_rows)];
	size_t n = ARRAY_SIZE(fixed);

	memcpy(tests, fixed, sizeof(fixed));
	for (size_t i = 0; i < ARRAY_SIZE(mode_rows); i++) {
		tests[n++] = (struct CMUnitTest){ .name = mode_rows[i].name, .test_func = check_mode,
						  .initial_state = (void *)(uintptr_t)&mode_rows[i] };
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
