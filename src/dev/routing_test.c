/* SPDX-License-Identifier: MIT */
/* GSI routing tables: what is accepted, what a refused table leaves, the default, and results of lines and MSIs. */
#include "dev/test_rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define IRQCHIP(g, c, p)	{ .gsi = (g), .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = { (c), (p) } }
#define MSI(g, lo, hi, d)	{ .gsi = (g), .type = KVM_IRQ_ROUTING_MSI, \
				  .u.msi = { .address_lo = (lo), .address_hi = (hi), .data = (d) } }

static const struct row {
	const char *name;
	struct kvm_irq_routing_entry e[4];
	uint32_t n;
	bool split, ids32;
	int want;
} rows[] = {
	{ "an empty table is legal", { { 0 } }, 0, false, false, 0 },
	{ "every chip's last pin is legal", { IRQCHIP(0, 0, 7), IRQCHIP(1, 1, 7), IRQCHIP(2, 2, 23) }, 3, false, false, 0 },
	{ "master pin 8 does not exist", { IRQCHIP(0, 0, 8) }, 1, false, false, -EINVAL },
	{ "slave pin 8 does not exist", { IRQCHIP(0, 1, 8) }, 1, false, false, -EINVAL },
	{ "IOAPIC pin 24 does not exist", { IRQCHIP(0, 2, 24) }, 1, false, false, -EINVAL },
	{ "a wrapping pin does not exist", { IRQCHIP(0, 2, 0xffffffff) }, 1, false, false, -EINVAL },
	{ "chip 3 does not exist", { IRQCHIP(0, 3, 0) }, 1, false, false, -EINVAL },
	{ "chip 0xffffffff does not exist", { IRQCHIP(0, 0xffffffff, 0) }, 1, false, false, -EINVAL },
	{ "one GSI on three chips is legal", { IRQCHIP(3, 0, 3), IRQCHIP(3, 1, 3), IRQCHIP(3, 2, 3) }, 3, false, false, 0 },
	{ "one GSI twice on a chip is refused", { IRQCHIP(3, 2, 3), IRQCHIP(3, 2, 4) }, 2, false, false, -EINVAL },
	{ "one GSI as pin and message is refused", { IRQCHIP(3, 2, 3), MSI(3, 0, 0, 0) }, 2, false, false, -EINVAL },
	{ "one GSI as two messages is refused", { MSI(3, 0, 0, 0), MSI(3, 0, 0, 1) }, 2, false, false, -EINVAL },
	{ "two GSIs on one pin are legal", { IRQCHIP(3, 2, 5), IRQCHIP(4, 2, 5) }, 2, false, false, 0 },
	{ "the last GSI is legal", { MSI(4095, 0, 0, 0) }, 1, false, false, 0 },
	{ "GSI 4096 is refused", { MSI(4096, 0, 0, 0) }, 1, false, false, -EINVAL },
	{ "GSI 0xffffffff is refused", { MSI(0xffffffff, 0, 0, 0) }, 1, false, false, -EINVAL },
	{ "flags on a pin are refused", { { .type = KVM_IRQ_ROUTING_IRQCHIP, .flags = 1 } }, 1, false, false, -EINVAL },
	{ "VALID_DEVID on a message is legal", { { .type = KVM_IRQ_ROUTING_MSI, .flags = 1 } }, 1, false, false, 0 },
	{ "other flags on a message are refused", { { .type = KVM_IRQ_ROUTING_MSI, .flags = 2 } }, 1, false, false, -EINVAL },
	{ "type 0 is refused", { { .type = 0 } }, 1, false, false, -EINVAL },
	{ "Hyper-V SINT routes are refused", { { .type = KVM_IRQ_ROUTING_HV_SINT } }, 1, false, false, -EINVAL },
	{ "Xen routes are refused", { { .type = KVM_IRQ_ROUTING_XEN_EVTCHN } }, 1, false, false, -EINVAL },
	{ "split takes messages", { MSI(0, 0, 0, 0) }, 1, true, false, 0 },
	{ "split refuses pins", { IRQCHIP(0, 2, 0) }, 1, true, false, -EINVAL },
	{ "32-bit ids: low address_hi bits are refused", { MSI(0, 0, 0x101, 0) }, 1, false, true, -EINVAL },
	{ "32-bit ids: address_hi bits 31:8 are legal", { MSI(0, 0, 0x100, 0) }, 1, false, true, 0 },
	{ "8-bit ids: address_hi is ignored", { MSI(0, 0, 0x101, 0) }, 1, false, false, 0 },
};

static void check_row(void **state)
{
	const struct row *row = *state;
	struct rig *rig = rig_create(row->split ? DEV_IRQCHIP_SPLIT : DEV_IRQCHIP_FULL, 1, false);
	struct kvm_irq_routing_entry old = MSI(100, 0xfee00000, 0, 0x77);

	assert_int_equal(dev_irq_set_routing(rig->chip, &old, 1), 0);
	if (row->ids32)
		assert_int_equal(dev_irqchip_set_x2apic_api(rig->chip, KVM_X2APIC_API_USE_32BIT_IDS), 0);
	assert_int_equal(dev_irq_set_routing(rig->chip, row->e, row->n), row->want);
	/* A refused table leaves the old one, an accepted one replaces it whole. */
	assert_int_equal(rig_line(rig, 100, true), row->want ? 1 : -1);
	rig_destroy(rig);
}

static int setup(void **state) { *state = rig_create(DEV_IRQCHIP_FULL, 2, false); return 0; }
static int teardown(void **state) { rig_destroy(*state); return 0; }

static void test_table_size(void **state)
{
	struct rig *rig = *state;
	struct kvm_irq_routing_entry *e = calloc(DEV_MAX_GSI + 1, sizeof(*e));

	assert_non_null(e);
	for (uint32_t i = 0; i <= DEV_MAX_GSI; i++)
		e[i] = (struct kvm_irq_routing_entry)MSI(DEV_MAX_GSI - 1 - i % DEV_MAX_GSI, 0xfee00000, 0, 0x40 + (i & 0x7f));
	assert_int_equal(dev_irq_set_routing(rig->chip, e, DEV_MAX_GSI), 0);
	assert_int_equal(rig_line(rig, 0, true), 1);
	assert_int_equal(rig_line(rig, 4095, true), 1);
	assert_int_equal(rig_line(rig, 4096, true), -1);
	assert_int_equal(rig_line(rig, ~0u, true), -1);
	assert_int_equal(dev_irq_set_routing(rig->chip, e, DEV_MAX_GSI + 1), -EINVAL);
	assert_int_equal(dev_irq_set_routing(rig->chip, e, ~0u), -EINVAL);
	free(e);
}

static void test_default_routing(void **state)
{
	struct rig *rig = *state;

	rig_init_pics(rig, 1);
	for (unsigned gsi = 0; gsi < 24; gsi++) {
		rig_ioapic_set(rig, gsi, 0x0100000000000040ull + gsi);	/* to vCPU 1; the PIC goes to vCPU 0 */
		/* PIC pin 2 is the cascade: no line of a GSI reaches it. */
		assert_int_equal(rig_line(rig, gsi, true), gsi < 16 && gsi != 2 ? 2 : 1);
		assert_int_equal(dev_lapic_ack(rig->lapic[1]), 0x40 + gsi);
		rig_apic_write(rig, 1, 0xb0, 0);
		if (gsi < 16 && gsi != 2) {
			assert_int_equal(dev_lapic_ack(rig->lapic[0]), 0x20 + gsi);
			rig_out(rig, 0x20, 0x20);
			if (gsi >= 8)
				rig_out(rig, 0xa0, 0x20);
		}
		assert_int_equal(dev_lapic_ack(rig->lapic[0]), -1);
		rig_line(rig, gsi, false);
	}
	assert_int_equal(rig_line(rig, 24, true), -1);
}

static void test_replaced_table_moves_acks(void **state)
{
	struct rig *rig = *state;
	struct kvm_irq_routing_entry e = IRQCHIP(30, KVM_IRQCHIP_IOAPIC, 5);

	rig_ioapic_set(rig, 5, 0x8055);
	assert_int_equal(dev_irq_set_resample(rig->chip, 30, 1), 0);
	assert_int_equal(dev_irq_set_routing(rig->chip, &e, 1), 0);
	assert_int_equal(rig_line(rig, 5, true), -1);
	assert_int_equal(dev_irq_set_line(rig->chip, DEV_IRQ_RESAMPLE, 30, true, false), 1);
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), 0x55);
	rig_apic_write(rig, 0, 0xb0, 0);
	assert_int_equal(rig->last_ack_gsi, 30);
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), -1);
}

static void test_msi_lines(void **state)
{
	struct rig *rig = *state;
	struct kvm_irq_routing_entry e[] = { MSI(40, 0xfee01000, 0, 0x61), MSI(41, 0xfee05000, 0, 0x61) };

	assert_int_equal(dev_irq_set_routing(rig->chip, e, 2), 0);
	assert_int_equal(rig_line(rig, 40, true), 1);
	assert_int_equal(rig_line(rig, 40, false), -1);	/* a message has no low level */
	assert_int_equal(rig_line(rig, 40, true), 1);	/* and no coalescing */
	assert_int_equal(rig_line(rig, 41, true), -1);	/* nobody has id 5 */
	assert_int_equal(dev_lapic_ack(rig->lapic[1]), 0x61);
	assert_int_equal(dev_lapic_ack(rig->lapic[1]), -1);
}

static void test_split_pins_limit(void **state)
{
	struct rig *rig = *state;
	struct dev_irqchip *chip = NULL;
	static const struct dev_irqchip_ops none = { 0 };

	assert_int_equal(dev_irqchip_create(&chip, DEV_IRQCHIP_SPLIT, DEV_MAX_GSI + 1, &none, NULL, rig->timers), -EINVAL);
	assert_null(chip);
	assert_int_equal(dev_irqchip_create(&chip, DEV_IRQCHIP_SPLIT, DEV_MAX_GSI, &none, NULL, rig->timers), 0);
	assert_int_equal(dev_irqchip_mode(chip), DEV_IRQCHIP_SPLIT);
	dev_irqchip_destroy(chip);
	dev_irqchip_destroy(NULL);
	dev_lapic_destroy(NULL);
}

static const struct CMUnitTest fixed[] = {
	{ "4096 routes are legal, 4097 are not", test_table_size, setup, teardown, NULL },
	{ "the default table is the PC's", test_default_routing, setup, teardown, NULL },
	{ "acknowledgements follow the new table", test_replaced_table_moves_acks, setup, teardown, NULL },
	{ "MSI routes fire on 1 only", test_msi_lines, setup, teardown, NULL },
	{ "split pins are limited; NULL may be destroyed", test_split_pins_limit, setup, teardown, NULL },
};

int main(void)
{
	struct CMUnitTest tests[ARRAY_SIZE(fixed) + ARRAY_SIZE(rows)];
	size_t n = ARRAY_SIZE(fixed);

	memcpy(tests, fixed, sizeof(fixed));
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		tests[n++] = (struct CMUnitTest){ .name = rows[i].name, .test_func = check_row,
						  .initial_state = (void *)(uintptr_t)&rows[i] };
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
