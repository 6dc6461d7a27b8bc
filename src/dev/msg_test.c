/* SPDX-License-Identifier: MIT */
/* Who gets a message: IPIs by ICR, MSIs, shorthands, logical destinations, lowest priority, delivery modes, PV IPIs. */
#include "dev/test_rig.h"

#include <errno.h>
#include <string.h>

enum { ID = 0x20, EOI = 0xb0, LDR = 0xd0, DFR = 0xe0, SPIV = 0xf0, ICR = 0x300, ICR2 = 0x310 };
#define LOGICAL		0x800u
#define ASSERT		0x4000u
#define LEVEL		0x8000u
#define SH_SELF		0x40000u
#define SH_ALL		0x80000u
#define SH_OTHERS	0xc0000u

/* Which of the vCPUs (as a bit mask) have an interrupt, and forget it. */
static unsigned who(struct rig *rig, int vector)
{
	unsigned mask = 0;

	for (unsigned i = 0; i < rig->n_vcpus; i++) {
		int got = dev_lapic_ack(rig->lapic[i]);

		if (got < 0)
			continue;
		assert_int_equal(got, vector);
		mask |= BIT(i);
		if (dev_lapic_base(rig->lapic[i]) & DEV_APIC_BASE_X2APIC)
			rig_wrmsr(rig, i, 0x80b, 0);
		else
			rig_apic_write(rig, i, EOI, 0);
	}
	return mask;
}

static void send(struct rig *rig, unsigned from, uint32_t icr, uint8_t dest)
{
	rig_apic_write(rig, from, ICR2, (uint32_t)dest << 24);
	rig_apic_write(rig, from, ICR, icr);
}

/* Four xAPIC vCPUs; flat logical ids 1, 2, 4, 8, or clusters 0x11 0x12 0x21 0x22. vCPU 1 sends. */
static const struct xapic_row {
	const char *name;
	uint32_t icr;
	uint8_t dest;
	bool cluster;
	unsigned want;
} xapic_rows[] = {
	{ "physical reaches the id", ASSERT, 2, false, 0x4 },
	{ "physical to nobody reaches nobody", ASSERT, 9, false, 0 },
	{ "physical 0xff reaches all", ASSERT, 0xff, false, 0xf },
	{ "self shorthand ignores the destination", ASSERT | SH_SELF, 3, false, 0x2 },
	{ "all shorthand includes the sender", ASSERT | SH_ALL, 0, false, 0xf },
	{ "others shorthand leaves the sender out", ASSERT | SH_OTHERS, 0, false, 0xd },
	{ "flat logical takes every bit set", ASSERT | LOGICAL, 0x5, false, 0x5 },
	{ "flat logical 0xff reaches all", ASSERT | LOGICAL, 0xff, false, 0xf },
	{ "flat logical bit of nobody reaches nobody", ASSERT | LOGICAL, 0x10, false, 0 },
	{ "cluster logical stays in its cluster", ASSERT | LOGICAL, 0x13, true, 0x3 },
	{ "cluster logical takes one member", ASSERT | LOGICAL, 0x22, true, 0x8 },
	{ "cluster logical of no cluster reaches nobody", ASSERT | LOGICAL, 0x31, true, 0 },
	{ "cluster logical 0xff reaches all", ASSERT | LOGICAL, 0xff, true, 0xf },
	{ "level de-assert of a vector does nothing", LEVEL, 2, false, 0 },
	{ "level assert of a vector delivers", LEVEL | ASSERT, 2, false, 0x4 },
	{ "edge without the assert bit delivers", 0, 2, false, 0x4 },
};

static void check_xapic(void **state)
{
	static const uint8_t flat[] = { 1, 2, 4, 8 }, clusters[] = { 0x11, 0x12, 0x21, 0x22 };
	const struct xapic_row *row = *state;
	struct rig *rig = rig_create(DEV_IRQCHIP_FULL, 4, false);

	for (unsigned i = 0; i < 4; i++) {
		rig_apic_write(rig, i, DFR, row->cluster ? 0 : ~0u);
		rig_apic_write(rig, i, LDR, (uint32_t)(row->cluster ? clusters : flat)[i] << 24);
	}
	send(rig, 1, row->icr | 0x42, row->dest);
	assert_int_equal(who(rig, 0x42), row->want);
	assert_int_equal(rig_apic_read(rig, 1, ICR), row->icr | 0x42);
	rig_destroy(rig);
}

/* Four x2APIC vCPUs with ids 0, 1, 0x11, 0x12: clusters 0 and 1. vCPU 1 sends. */
static const struct x2_row {
	const char *name;
	uint64_t icr;
	unsigned want;
} x2_rows[] = {
	{ "x2APIC physical reaches the 32-bit id", 0x1100000042ull | ASSERT, 0x4 },
	{ "x2APIC physical 0xff is an id like any other", 0xff00000042ull | ASSERT, 0 },
	{ "x2APIC physical all-ones reaches all", 0xffffffff00000042ull | ASSERT, 0xf },
	{ "x2APIC logical takes the members of one cluster", 0x0001000600000042ull | ASSERT | LOGICAL, 0xc },
	{ "x2APIC logical of an empty cluster reaches nobody", 0x0002000600000042ull | ASSERT | LOGICAL, 0 },
	{ "x2APIC logical all-ones reaches all", 0xffffffff00000042ull | ASSERT | LOGICAL, 0xf },
	{ "x2APIC others leaves the sender out", 0x42ull | ASSERT | SH_OTHERS, 0xd },
	{ "x2APIC self", 0x42ull | ASSERT | SH_SELF, 0x2 },
};

static void check_x2(void **state)
{
	static const uint32_t ids[] = { 0, 1, 0x11, 0x12 };
	const struct x2_row *row = *state;
	struct rig *rig = rig_create(DEV_IRQCHIP_FULL, 2, false);

	for (unsigned i = 0; i < 4; i++) {
		if (i >= 2) {
			assert_int_equal(dev_lapic_create(&rig->lapic[i], rig->chip, i, ids[i], false), 0);
			dev_lapic_set_features(rig->lapic[i],
					       &(struct dev_lapic_features){ .has_x2apic = true, .maxphyaddr = 40 });
			rig_apic_write(rig, i, SPIV, 0x1ff);
		}
		rig_enter_x2apic(rig, i);
	}
	rig->n_vcpus = 4;
	rig_wrmsr(rig, 1, 0x830, row->icr);
	assert_int_equal(who(rig, 0x42), row->want);
	rig_destroy(rig);
}

static int setup(void **state) { *state = rig_create(DEV_IRQCHIP_FULL, 4, false); return 0; }
static int teardown(void **state) { rig_destroy(*state); return 0; }

static void test_self_ipi_msr(void **state)
{
	struct rig *rig = *state;

	rig_enter_x2apic(rig, 2);
	rig_wrmsr(rig, 2, 0x83f, 0x55);
	assert_int_equal(who(rig, 0x55), 0x4);
}

static void test_lowest_priority(void **state)
{
	struct rig *rig = *state;
	unsigned counts[4] = { 0 };

	for (unsigned i = 0; i < 4; i++)
		rig_apic_write(rig, i, LDR, BIT(i) << 24);
	for (unsigned n = 0; n < 12; n++) {
		unsigned mask;

		send(rig, 0, ASSERT | LOGICAL | 0x100 | 0x42, 0xe);
		mask = who(rig, 0x42);
		assert_int_equal(__builtin_popcount(mask), 1);
		counts[__builtin_ctz(mask)]++;
	}
	assert_int_equal(counts[0], 0);
	for (unsigned i = 1; i < 4; i++)
		assert_int_equal(counts[i], 4);
	/* One that is software-disabled is never chosen; if all are, nobody is. */
	rig_apic_write(rig, 1, SPIV, 0xff);
	send(rig, 0, ASSERT | LOGICAL | 0x100 | 0x42, 0x2);
	send(rig, 0, ASSERT | LOGICAL | 0x100 | 0x43, 0x6);
	assert_int_equal(who(rig, 0x43), 0x4);
	/* The MSI redirection hint picks one too; without it all get it. */
	assert_int_equal(dev_irq_msi(rig->chip, 0xfee0c00c, 0x44), 1);
	assert_int_equal(__builtin_popcount(who(rig, 0x44)), 1);
	assert_int_equal(dev_irq_msi(rig->chip, 0xfee0c004, 0x45), 2);
	assert_int_equal(who(rig, 0x45), 0xc);
	/* Lowest priority to everybody physically is a plain broadcast. */
	assert_int_equal(dev_irq_msi(rig->chip, 0xfeeff000, 0x146), 3);
	assert_int_equal(who(rig, 0x46), 0xd);
}

static void test_duplicate_ids(void **state)
{
	struct rig *rig = *state;

	rig_apic_write(rig, 3, ID, 0x02000000);
	send(rig, 0, ASSERT | 0x42, 2);
	assert_int_equal(who(rig, 0x42), 0xc);
	send(rig, 0, ASSERT | 0x42, 3);
	assert_int_equal(who(rig, 0x42), 0);
}

static void test_broadcast_quirk(void **state)
{
	struct rig *rig = *state;

	rig_enter_x2apic(rig, 1);
	assert_int_equal(dev_irq_msi(rig->chip, 0xfeeff000, 0x42), 4);	/* a device reaches the x2APIC one too */
	assert_int_equal(who(rig, 0x42), 0xf);
	send(rig, 0, ASSERT | 0x42, 0xff);				/* an IPI does not */
	assert_int_equal(who(rig, 0x42), 0xd);
	assert_int_equal(dev_irqchip_set_x2apic_api(rig->chip, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK), 0);
	assert_int_equal(dev_irq_msi(rig->chip, 0xfeeff000, 0x42), 3);
	assert_int_equal(who(rig, 0x42), 0xd);
}

static void test_32bit_msi(void **state)
{
	struct rig *rig = *state;
	struct dev_lapic *l;

	assert_int_equal(dev_lapic_create(&l, rig->chip, 4, 0x1234, false), 0);
	dev_lapic_set_features(l, &(struct dev_lapic_features){ .has_x2apic = true, .maxphyaddr = 40 });
	rig->lapic[4] = l;
	rig_enter_x2apic(rig, 4);
	rig_wrmsr(rig, 4, 0x80f, 0x1ff);
	assert_int_equal(dev_irq_msi(rig->chip, 0x12fee34000ull | 0x1200ull << 32, 0x42), -1);	/* high part unused */
	assert_int_equal(dev_irqchip_set_x2apic_api(rig->chip, KVM_X2APIC_API_USE_32BIT_IDS), 0);
	assert_int_equal(dev_irq_msi(rig->chip, 0xfee34000ull | 0x1200ull << 32, 0x42), 1);
	assert_int_equal(dev_irq_msi(rig->chip, 0xfee34000ull | 0x1201ull << 32, 0x42), -EINVAL);
	assert_int_equal(dev_lapic_ack(l), 0x42);
	/* Hot-plug before the guest enables x2APIC: the wide id works in xAPIC mode too. */
	dev_lapic_reset(l);
	rig_apic_write(rig, 4, SPIV, 0x1ff);
	assert_int_equal(dev_irq_msi(rig->chip, 0xfee34000ull | 0x1200ull << 32, 0x42), 1);
}

static const struct mode_row {
	const char *name;
	uint32_t icr;
	uint32_t want;		/* pending word of the target */
	int msi;		/* result when a device sends the same mode */
} mode_rows[] = {
	{ "fixed mode interrupts", ASSERT | 0x42, DEV_PEND_INTR, 1 },
	{ "SMI mode is dropped without SMM", ASSERT | 0x200, 0, 0 },
	{ "remote read mode is the PV kick", ASSERT | 0x300, DEV_PEND_UNHALT, 1 },
	{ "NMI mode posts an NMI whatever the vector", ASSERT | 0x4ff, DEV_PEND_NMI, 1 },
	{ "INIT mode posts INIT", ASSERT | 0x500, DEV_PEND_INIT, 1 },
	{ "INIT level assert posts INIT", ASSERT | LEVEL | 0x500, DEV_PEND_INIT, 1 },
	{ "INIT level de-assert does nothing", LEVEL | 0x500, 0, 1 },
	{ "startup mode posts SIPI", ASSERT | 0x69a, DEV_PEND_SIPI, 1 },
	{ "ExtINT mode is nothing a message can do", ASSERT | 0x7ff, 0, 0 },
};

static void check_mode(void **state)
{
	const struct mode_row *row = *state;
	struct rig *rig = rig_create(DEV_IRQCHIP_FULL, 2, false);
	struct dev_lapic_events ev;

	send(rig, 0, row->icr, 1);
	assert_int_equal(dev_lapic_pending(rig->lapic[1]), row->want);
	assert_int_equal(dev_lapic_pending(rig->lapic[0]), 0);
	assert_int_equal(rig->n_kicks[1], row->want ? 1 : 0);
	if (row->want == DEV_PEND_SIPI) {
		dev_lapic_take_events(rig->lapic[1], DEV_PEND_SIPI, &ev);
		assert_int_equal(ev.sipi_vector, 0x9a);
	}
	dev_lapic_reset(rig->lapic[1]);
	rig_apic_write(rig, 1, SPIV, 0x1ff);
	assert_int_equal(dev_irq_msi(rig->chip, 0xfee01000, row->icr & 0x7ff), row->msi);
	rig_destroy(rig);
}

static void test_smi_with_smm(void **state)
{
	struct rig *rig = *state;

	dev_lapic_set_features(rig->lapic[1], &(struct dev_lapic_features){ .has_smm = true, .maxphyaddr = 40 });
	send(rig, 0, ASSERT | 0x200, 1);
	assert_int_equal(dev_lapic_pending(rig->lapic[1]), DEV_PEND_SMI);
}

static void test_init_sipi_sipi(void **state)
{
	struct rig *rig = *state;
	struct dev_lapic_events ev;

	send(rig, 0, ASSERT | SH_OTHERS | 0x500, 0);
	for (unsigned i = 1; i < 4; i++) {
		dev_lapic_take_events(rig->lapic[i], DEV_PEND_INIT, &ev);
		assert_true(ev.is_init);
		dev_lapic_init(rig->lapic[i]);
	}
	send(rig, 0, ASSERT | SH_OTHERS | 0x608, 0);
	send(rig, 0, ASSERT | SH_OTHERS | 0x608, 0);
	for (unsigned i = 1; i < 4; i++) {
		dev_lapic_take_events(rig->lapic[i], DEV_PEND_SIPI, &ev);
		assert_true(ev.is_sipi);
		assert_int_equal(ev.sipi_vector, 8);
		assert_int_equal(dev_lapic_pending(rig->lapic[i]), 0);
	}
	assert_int_equal(dev_lapic_pending(rig->lapic[0]), 0);
}

static void test_pv_ipis(void **state)
{
	struct rig *rig = *state;

	assert_int_equal(dev_irq_pv_send_ipi(rig->chip, 0x5, 0, 0, ASSERT | 0x42, 64), 2);
	assert_int_equal(who(rig, 0x42), 0x5);
	assert_int_equal(dev_irq_pv_send_ipi(rig->chip, 0x5, 0, 1, ASSERT | 0x42, 64), 2);	/* from id 1 */
	assert_int_equal(who(rig, 0x42), 0xa);
	assert_int_equal(dev_irq_pv_send_ipi(rig->chip, ~0ull, ~0ull, 4, ASSERT | 0x42, 64), 0);
	assert_int_equal(dev_irq_pv_send_ipi(rig->chip, ~0ull, ~0ull, ~0u, ASSERT | 0x42, 64), 0);
	assert_int_equal(dev_irq_pv_send_ipi(rig->chip, 0xffffffff00000000ull, 0, 0, ASSERT | 0x42, 32), 0);
	assert_int_equal(dev_irq_pv_send_ipi(rig->chip, 1, 0, 0, ASSERT | LOGICAL | 0x42, 64), -22);
	assert_int_equal(dev_irq_pv_send_ipi(rig->chip, 1, 0, 0, ASSERT | SH_SELF | 0x42, 64), -22);
	assert_int_equal(dev_irq_pv_send_ipi(rig->chip, 2, 0, 0, ASSERT | 0x400, 64), 1);
	assert_int_equal(dev_lapic_pending(rig->lapic[1]), DEV_PEND_NMI);
	dev_irq_pv_kick(rig->chip, 3);
	dev_irq_pv_kick(rig->chip, 77);
	assert_int_equal(dev_lapic_pending(rig->lapic[3]), DEV_PEND_UNHALT);
	assert_int_equal(dev_lapic_pending(rig->lapic[2]), 0);
}

static const struct CMUnitTest fixed[] = {
	{ "SELF_IPI reaches the sender", test_self_ipi_msr, setup, teardown, NULL },
	{ "lowest priority takes turns among the enabled", test_lowest_priority, setup, teardown, NULL },
	{ "two LAPICs with one id both get it", test_duplicate_ids, setup, teardown, NULL },
	{ "a device's 0xff reaches x2APIC mode under the quirk only", test_broadcast_quirk, setup, teardown, NULL },
	{ "32-bit MSI destinations need the option", test_32bit_msi, setup, teardown, NULL },
	{ "SMI mode posts an SMI where there is SMM", test_smi_with_smm, setup, teardown, NULL },
	{ "INIT SIPI SIPI starts the others once", test_init_sipi_sipi, setup, teardown, NULL },
	{ "PV IPIs and kicks go by APIC id", test_pv_ipis, setup, teardown, NULL },
};

int main(void)
{
	struct CMUnitTest tests[ARRAY_SIZE(fixed) + ARRAY_SIZE(xapic_rows) + ARRAY_SIZE(x2_rows) + ARRAY_SIZE(mode_rows)];
	size_t n = ARRAY_SIZE(fixed);

	memcpy(tests, fixed, sizeof(fixed));
	for (size_t i = 0; i < ARRAY_SIZE(xapic_rows); i++) {
		tests[n++] = (struct CMUnitTest){ .name = xapic_rows[i].name, .test_func = check_xapic,
						  .initial_state = (void *)(uintptr_t)&xapic_rows[i] };
	}
	for (size_t i = 0; i < ARRAY_SIZE(x2_rows); i++) {
		tests[n++] = (struct CMUnitTest){ .name = x2_rows[i].name, .test_func = check_x2,
						  .initial_state = (void *)(uintptr_t)&x2_rows[i] };
	}
	for (size_t i = 0; i < ARRAY_SIZE(mode_rows); i++) {
		tests[n++] = (struct CMUnitTest){ .name = mode_rows[i].name, .test_func = check_mode,
						  .initial_state = (void *)(uintptr_t)&mode_rows[i] };
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
