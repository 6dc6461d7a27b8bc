/* SPDX-License-Identifier: MIT */
/* The IOAPIC: entries, edges, levels and EOI, the storm guard, the RTC's coalescing, resampling, saved state. */
#include "dev/test_rig.h"

#include <errno.h>
#include <string.h>

#define LEVEL		0x8000ull
#define MASKED		0x10000ull
#define REMOTE_IRR	0x4000ull
#define BUSY		0x1000ull
#define EOI		0xb0

/* PICs stay masked out of the way: results are the IOAPIC's alone. */
static int setup(void **state)
{
	struct kvm_irq_routing_entry routes[24] = { { 0 } };

	*state = rig_create(DEV_IRQCHIP_FULL, 2, false);
	for (uint32_t i = 0; i < 24; i++) {
		routes[i].gsi = i;
		routes[i].type = KVM_IRQ_ROUTING_IRQCHIP;
		routes[i].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
		routes[i].u.irqchip.pin = i;
	}
	assert_int_equal(dev_irq_set_routing(((struct rig *)*state)->chip, routes, 24), 0);
	return 0;
}

static int teardown(void **state) { rig_destroy(*state); return 0; }

static int ack(struct rig *rig) { return dev_lapic_ack(rig->lapic[0]); }
static void eoi(struct rig *rig) { rig_apic_write(rig, 0, EOI, 0); }

static void test_registers(void **state)
{
	struct rig *rig = *state;
	uint64_t data = ~0ull;
	uint8_t select = 0x01;

	assert_int_equal(rig_ioapic_read(rig, 0), 0);
	assert_int_equal(rig_ioapic_read(rig, 1), 0x00170011);
	rig_ioapic_write(rig, 0, 0xffffffff);
	assert_int_equal(rig_ioapic_read(rig, 0), 0x0f000000);
	assert_int_equal(rig_ioapic_read(rig, 2), 0x0f000000);
	rig_ioapic_write(rig, 1, 0);
	assert_int_equal(rig_ioapic_read(rig, 1), 0x00170011);
	for (unsigned pin = 0; pin < 24; pin++)
		assert_int_equal(rig_ioapic_get(rig, pin), MASKED);
	rig_ioapic_write(rig, 0x40, ~0u);		/* one past the last pin */
	assert_int_equal(rig_ioapic_read(rig, 0x40), 0);
	rig_ioapic_write(rig, 0xff, ~0u);
	assert_int_equal(rig_ioapic_read(rig, 0x0f), 0);
	/* The select register takes a byte; other offsets and sizes do no harm. */
	assert_true(dev_mmio(rig->chip, NULL, GPA(0xfec00000), 1, &select, true));
	assert_true(dev_mmio(rig->chip, NULL, GPA(0xfec00010), 8, &data, false));
	assert_int_equal(data, 0x00170011);
	assert_true(dev_mmio(rig->chip, NULL, GPA(0xfec00040), 4, &data, true));
	assert_true(dev_mmio(rig->chip, NULL, GPA(0xfec00014), 4, &data, false));
	assert_int_equal((uint32_t)data, 0);
	assert_false(dev_mmio(rig->chip, NULL, GPA(0xfec00100), 4, &data, false));
	assert_false(dev_mmio(rig->chip, NULL, GPA(0xfebffffc), 4, &data, false));
}

static void test_read_only_bits(void **state)
{
	struct rig *rig = *state;

	rig_ioapic_set(rig, 5, MASKED | LEVEL | REMOTE_IRR | BUSY | 0x55);
	assert_int_equal(rig_ioapic_get(rig, 5), MASKED | LEVEL | 0x55);
	rig_ioapic_set(rig, 5, LEVEL | 0x55);
	assert_int_equal(rig_line(rig, 5, true), 1);
	rig_ioapic_write(rig, 0x1a, LEVEL | 0x55);
	assert_int_equal(rig_ioapic_get(rig, 5), LEVEL | REMOTE_IRR | 0x55);
	/* Linux's trick: a masked edge configuration and back clears remote IRR. */
	rig_ioapic_write(rig, 0x1a, MASKED | 0x55);
	rig_ioapic_write(rig, 0x1a, LEVEL | MASKED | 0x55);
	assert_int_equal(rig_ioapic_get(rig, 5), MASKED | LEVEL | 0x55);
}

static void test_edge(void **state)
{
	struct rig *rig = *state;

	rig_ioapic_set(rig, 4, 0x44);
	assert_int_equal(rig_line(rig, 4, true), 1);
	assert_int_equal(rig_line(rig, 4, true), 0);	/* still high: coalesced */
	assert_int_equal(ack(rig), 0x44);
	eoi(rig);
	assert_int_equal(ack(rig), -1);			/* the EOI of an edge brings nothing back */
	assert_int_equal(rig_line(rig, 4, false), 1);
	assert_int_equal(rig_line(rig, 4, true), 1);
	assert_int_equal(ack(rig), 0x44);
}

static void test_masked_edge_is_lost(void **state)
{
	struct rig *rig = *state;

	assert_int_equal(rig_line(rig, 4, true), -1);
	rig_ioapic_set(rig, 4, 0x44);
	assert_int_equal(ack(rig), -1);
	assert_int_equal(rig_line(rig, 4, true), 0);
	assert_int_equal(rig_line(rig, 4, false), 1);
	assert_int_equal(rig_line(rig, 4, true), 1);
	assert_int_equal(ack(rig), 0x44);
}

static void test_level(void **state)
{
	struct rig *rig = *state;

	rig_ioapic_set(rig, 10, LEVEL | 0x5a);
	assert_int_equal(rig_line(rig, 10, true), 1);
	assert_true(rig_ioapic_get(rig, 10) & REMOTE_IRR);
	assert_int_equal(rig_line(rig, 10, true), -1);	/* an EOI is owed */
	assert_int_equal(ack(rig), 0x5a);
	eoi(rig);
	assert_int_equal(ack(rig), 0x5a);		/* still high */
	assert_int_equal(rig_line(rig, 10, false), 1);
	assert_true(rig_ioapic_get(rig, 10) & REMOTE_IRR);
	eoi(rig);
	assert_false(rig_ioapic_get(rig, 10) & REMOTE_IRR);
	assert_int_equal(ack(rig), -1);
}

static void test_masked_level_waits(void **state)
{
	struct rig *rig = *state;

	rig_ioapic_set(rig, 10, MASKED | LEVEL | 0x5a);
	assert_int_equal(rig_line(rig, 10, true), -1);
	assert_int_equal(ack(rig), -1);
	rig_ioapic_set(rig, 10, LEVEL | 0x5a);
	assert_int_equal(ack(rig), 0x5a);
	rig_ioapic_set(rig, 10, MASKED | LEVEL | 0x5a);
	eoi(rig);
	assert_int_equal(ack(rig), -1);			/* masked at EOI */
	rig_ioapic_set(rig, 10, LEVEL | 0x5a);
	assert_int_equal(ack(rig), 0x5a);
}

static void test_level_to_nobody_owes_nothing(void **state)
{
	struct rig *rig = *state;

	rig_ioapic_set(rig, 10, 0x0900000000000000ull | LEVEL | 0x5a);
	assert_true(rig_line(rig, 10, true) < 0);
	assert_false(rig_ioapic_get(rig, 10) & REMOTE_IRR);
	rig_ioapic_set(rig, 10, LEVEL | 0x5a);
	assert_int_equal(ack(rig), 0x5a);
}

static void test_sources_are_ored(void **state)
{
	struct rig *rig = *state;

	rig_ioapic_set(rig, 10, LEVEL | 0x5a);
	assert_int_equal(dev_irq_set_line(rig->chip, DEV_IRQ_USER, 10, true, true), 1);
	dev_irq_set_line(rig->chip, DEV_IRQ_RESAMPLE, 10, true, true);
	assert_int_equal(ack(rig), 0x5a);
	dev_irq_set_line(rig->chip, DEV_IRQ_USER, 10, false, true);
	eoi(rig);
	assert_int_equal(ack(rig), 0x5a);		/* the other still holds it */
	dev_irq_set_line(rig->chip, DEV_IRQ_RESAMPLE, 10, false, true);
	eoi(rig);
	assert_int_equal(ack(rig), -1);
	assert_int_equal(dev_irq_set_line(rig->chip, DEV_N_IRQ_SOURCES, 10, true, true), -1);
}

static void test_delivery_modes(void **state)
{
	struct rig *rig = *state;

	rig_ioapic_set(rig, 7, 0x0100000000000400ull);	/* NMI to vCPU 1 */
	assert_int_equal(rig_line(rig, 7, true), 1);
	assert_int_equal(dev_lapic_pending(rig->lapic[1]), DEV_PEND_NMI);
	rig_apic_write(rig, 0, 0xd0, 0x01000000);
	rig_apic_write(rig, 1, 0xd0, 0x02000000);
	rig_ioapic_set(rig, 6, 0x0300000000000946ull);	/* lowest priority, logical 3 */
	assert_int_equal(rig_line(rig, 6, true), 1);
	rig_ioapic_set(rig, 9, 0x0300000000000847ull);	/* fixed, logical 3 */
	assert_int_equal(rig_line(rig, 9, true), 2);
}

static void test_storm_guard(void **state)
{
	struct rig *rig = *state;
	unsigned n = 0;

	rig_ioapic_set(rig, 10, LEVEL | 0x5a);
	rig_line(rig, 10, true);
	while (ack(rig) == 0x5a && n < 30000) {
		n++;
		eoi(rig);
	}
	assert_int_equal(n, 10000);
	rig_advance(rig, 9999999);
	assert_int_equal(ack(rig), -1);
	rig_advance(rig, 1);
	assert_int_equal(ack(rig), 0x5a);
	/* After the pause it counts anew, and so it does after the line fell. */
	eoi(rig);
	assert_int_equal(ack(rig), 0x5a);
	rig_line(rig, 10, false);
	eoi(rig);
	for (n = 0; n < 20000; n++) {
		rig_line(rig, 10, true);
		assert_int_equal(ack(rig), 0x5a);
		rig_line(rig, 10, false);
		eoi(rig);
	}
}

static void test_rtc_coalescing(void **state)
{
	struct rig *rig = *state;

	rig_ioapic_set(rig, 8, 0xff00000000000048ull);	/* to both vCPUs */
	assert_int_equal(rig_line(rig, 8, true), 2);
	rig_line(rig, 8, false);
	assert_int_equal(rig_line(rig, 8, true), 0);
	rig_line(rig, 8, false);
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), 0x48);
	eoi(rig);
	assert_int_equal(rig_line(rig, 8, true), 0);	/* vCPU 1 has not */
	rig_line(rig, 8, false);
	/* Without status nobody counts, as KVM_IRQ_LINE. */
	assert_int_equal(dev_irq_set_line(rig->chip, DEV_IRQ_USER, 8, true, false), 2);
	rig_line(rig, 8, false);
	assert_int_equal(dev_lapic_ack(rig->lapic[1]), 0x48);
	rig_apic_write(rig, 1, EOI, 0);
	assert_int_equal(rig_line(rig, 8, true), 2);
	rig_line(rig, 8, false);
	/* A vCPU that is reset owes nothing any more; nor does one whose EOI a restored state has had. */
	dev_lapic_reset(rig->lapic[1]);
	dev_lapic_ack(rig->lapic[0]);
	eoi(rig);
	assert_int_equal(rig_line(rig, 8, true), 1);
}

static void test_rtc_restore(void **state)
{
	struct rig *rig = *state;
	struct kvm_lapic_state clean, busy;

	rig_ioapic_set(rig, 8, 0x48);
	dev_lapic_get_state(rig->lapic[0], &clean);
	rig_line(rig, 8, true);
	rig_line(rig, 8, false);
	dev_lapic_get_state(rig->lapic[0], &busy);
	dev_lapic_set_state(rig->lapic[0], &clean);
	assert_int_equal(rig_line(rig, 8, true), 1);
	rig_line(rig, 8, false);
	dev_lapic_set_state(rig->lapic[0], &busy);
	assert_int_equal(rig_line(rig, 8, true), 0);
}

static void test_resample(void **state)
{
	struct rig *rig = *state;

	rig_ioapic_set(rig, 11, LEVEL | 0x5b);
	assert_int_equal(dev_irq_set_resample(rig->chip, 11, 1), 0);
	dev_irq_set_line(rig->chip, DEV_IRQ_RESAMPLE, 11, true, false);
	assert_int_equal(ack(rig), 0x5b);
	assert_int_equal(rig->n_acks, 0);
	eoi(rig);
	assert_int_equal(rig->n_acks, 1);
	assert_int_equal(rig->last_ack_gsi, 11);
	assert_int_equal(ack(rig), -1);			/* lowered by the EOI itself */
	/* Unmasking asks the device before it believes the line. */
	rig_ioapic_set(rig, 11, MASKED | LEVEL | 0x5b);
	dev_irq_set_line(rig->chip, DEV_IRQ_RESAMPLE, 11, true, false);
	rig_ioapic_set(rig, 11, LEVEL | 0x5b);
	assert_int_equal(rig->n_acks, 2);
	assert_int_equal(ack(rig), -1);
	/* The last one that loses interest lowers the line. */
	dev_irq_set_line(rig->chip, DEV_IRQ_RESAMPLE, 11, true, false);
	assert_int_equal(ack(rig), 0x5b);
	assert_int_equal(dev_irq_set_resample(rig->chip, 11, -1), 0);
	eoi(rig);
	assert_int_equal(rig->n_acks, 2);
	assert_int_equal(ack(rig), -1);
	assert_int_equal(dev_irq_set_resample(rig->chip, 11, -1), -EINVAL);
	assert_int_equal(dev_irq_set_resample(rig->chip, DEV_MAX_GSI, 1), -EINVAL);
}

static void test_edge_eoi_of_the_same_vector(void **state)
{
	struct rig *rig = *state;

	rig_ioapic_set(rig, 10, LEVEL | 0x5a);
	rig_line(rig, 10, true);
	assert_int_equal(ack(rig), 0x5a);
	assert_int_equal(dev_irq_msi(rig->chip, 0xfee01000, 0x5a), 1);
	assert_int_equal(dev_lapic_ack(rig->lapic[1]), 0x5a);
	rig_apic_write(rig, 1, EOI, 0);
	assert_true(rig_ioapic_get(rig, 10) & REMOTE_IRR);
	assert_int_equal(rig_apic_read(rig, 0, 0x220), 0);	/* nothing was sent again */
	eoi(rig);
	assert_int_equal(ack(rig), 0x5a);
}

static void test_vector_changed_in_service(void **state)
{
	struct rig *rig = *state;

	rig_ioapic_set(rig, 10, LEVEL | 0x5a);
	rig_line(rig, 10, true);
	assert_int_equal(ack(rig), 0x5a);
	rig_ioapic_set(rig, 10, LEVEL | 0x6a);
	eoi(rig);					/* of 0x5a: no entry has it any more */
	assert_true(rig_ioapic_get(rig, 10) & REMOTE_IRR);
	assert_int_equal(ack(rig), -1);
}

static void test_state(void **state)
{
	struct rig *rig = *state;
	struct kvm_irqchip s = { .chip_id = KVM_IRQCHIP_IOAPIC }, back = s;

	rig_ioapic_write(rig, 0, 0x03000000);
	rig_ioapic_set(rig, 4, 0x44);
	rig_ioapic_set(rig, 10, 0x0100000000000000ull | LEVEL | 0x5a);
	rig_line(rig, 10, true);
	rig_line(rig, 4, true);				/* delivered: not to be sent again */
	rig_line(rig, 12, true);			/* masked edge */
	assert_int_equal(dev_irqchip_get(rig->chip, &s), 0);
	assert_int_equal(s.chip.ioapic.irr, BIT(10) | BIT(12));
	assert_int_equal(s.chip.ioapic.id, 3);
	assert_int_equal(s.chip.ioapic.base_address, 0xfec00000);
	assert_int_equal(s.chip.ioapic.redirtbl[10].bits, 0x0100000000000000ull | LEVEL | REMOTE_IRR | 0x5a);
	assert_int_equal(ack(rig), 0x44);
	eoi(rig);
	assert_int_equal(dev_irqchip_set(rig->chip, &s), 0);
	assert_int_equal(dev_irqchip_get(rig->chip, &back), 0);
	assert_memory_equal(&s, &back, sizeof(s));
	assert_int_equal(ack(rig), -1);
	/* An edge sent before, but raised again while masked, has not been sent. */
	rig_line(rig, 4, false);
	rig_ioapic_set(rig, 4, 0x44);
	rig_line(rig, 4, true);
	rig_line(rig, 4, false);
	rig_ioapic_set(rig, 4, MASKED | 0x44);
	rig_line(rig, 4, true);
	assert_int_equal(dev_irqchip_get(rig->chip, &back), 0);
	assert_true(back.chip.ioapic.irr & BIT(4));
	assert_int_equal(ack(rig), 0x44);
	eoi(rig);
	/* A level that was raised but not yet sent is sent by the restore. */
	assert_int_equal(dev_lapic_ack(rig->lapic[1]), 0x5a);
	s.chip.ioapic.redirtbl[10].bits &= ~REMOTE_IRR;
	s.chip.ioapic.redirtbl[10].bits &= ~(0xffull << 56);
	assert_int_equal(dev_irqchip_set(rig->chip, &s), 0);
	assert_int_equal(ack(rig), 0x5a);
	/* Hostile bytes. */
	memset(&s.chip, 0xff, sizeof(s.chip));
	assert_int_equal(dev_irqchip_set(rig->chip, &s), 0);
	for (unsigned gsi = 0; gsi < 24; gsi++)
		rig_line(rig, gsi, true);
}

#define T(name, fn) { name, fn, setup, teardown, NULL }

int main(void)
{
	static const struct CMUnitTest tests[] = {
		T("registers, version, and offsets that are nothing", test_registers),
		T("remote IRR and busy are read-only; an edge write clears remote IRR", test_read_only_bits),
		T("an edge is sent once per rise", test_edge),
		T("an edge raised while masked is lost", test_masked_edge_is_lost),
		T("a level comes back at EOI while the line is high", test_level),
		T("a level raised while masked comes at unmask", test_masked_level_waits),
		T("a level that nobody took owes no EOI", test_level_to_nobody_owes_nothing),
		T("a line is the OR of its sources", test_sources_are_ored),
		T("NMI, lowest priority and logical entries", test_delivery_modes),
		T("the storm guard pauses a stuck line for 10 ms after 10000 rounds", test_storm_guard),
		T("RTC ticks coalesce until every target has EOIed", test_rtc_coalescing),
		T("owed RTC EOIs follow a restored LAPIC", test_rtc_restore),
		T("resample: EOI lowers the line and tells", test_resample),
		T("the EOI of an edge with the same vector is not the level's", test_edge_eoi_of_the_same_vector),
		T("an entry whose vector changed in service keeps remote IRR", test_vector_changed_in_service),
		T("IOAPIC state round-trips, unsent interrupts are sent", test_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
