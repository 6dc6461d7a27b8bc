/* SPDX-License-Identifier: MIT */
/* The PIC pair, through the BSP's LINT0 as a guest sees it. */
#include "dev/test_rig.h"

#include <errno.h>
#include <string.h>

static int setup(void **state) { *state = rig_create(DEV_IRQCHIP_FULL, 2, false); rig_init_pics(*state, 1); return 0; }
static int setup_auto(void **state) { *state = rig_create(DEV_IRQCHIP_FULL, 2, false); rig_init_pics(*state, 3); return 0; }
static int teardown(void **state) { rig_destroy(*state); return 0; }

static int ack(struct rig *rig) { return dev_lapic_ack(rig->lapic[0]); }
static void pulse(struct rig *rig, uint32_t gsi) { rig_line(rig, gsi, true); rig_line(rig, gsi, false); }

/* One step after another on freshly initialised PICs. */
enum op { LINE1, LINE0, OUT, IN, ACK };
struct step { enum op op; unsigned a; int b; };	/* LINE gsi want; OUT port value; IN port want; ACK - want vector */

static const struct row {
	const char *name;
	struct step steps[20];
} rows[] = {
	{ "an edge interrupts once", {
		{ LINE1, 3, 1 }, { ACK, 0, 0x23 }, { ACK, 0, -1 }, { OUT, 0x20, 0x20 }, { ACK, 0, -1 }, { LINE0, 3, 1 },
		{ LINE1, 3, 1 }, { ACK, 0, 0x23 } } },
	{ "an edge before the acknowledge is coalesced", {
		{ LINE1, 3, 1 }, { LINE1, 3, 1 }, { LINE0, 3, 1 }, { LINE1, 3, 0 }, { ACK, 0, 0x23 } } },
	{ "a masked pin says so and waits", {
		{ OUT, 0x21, 0x08 }, { LINE1, 3, -1 }, { ACK, 0, -1 }, { IN, 0x20, 0x08 }, { OUT, 0x21, 0 }, { ACK, 0, 0x23 } } },
	{ "lower numbers win and nest", {
		{ LINE1, 5, 1 }, { LINE1, 1, 1 }, { ACK, 0, 0x21 }, { ACK, 0, -1 }, { LINE1, 0, 1 }, { ACK, 0, 0x20 },
		{ OUT, 0x20, 0x20 }, { ACK, 0, -1 }, { OUT, 0x20, 0x20 }, { ACK, 0, 0x25 } } },
	{ "the slave comes through pin 2 and needs two EOIs", {
		{ LINE1, 12, 1 }, { ACK, 0, 0x2c }, { LINE1, 3, 1 }, { ACK, 0, -1 }, { OUT, 0xa0, 0x20 }, { ACK, 0, -1 },
		{ OUT, 0x20, 0x20 }, { ACK, 0, 0x23 } } },
	{ "two of the slave come one after the other", {
		{ LINE1, 12, 1 }, { LINE1, 9, 1 }, { ACK, 0, 0x29 }, { OUT, 0xa0, 0x20 }, { OUT, 0x20, 0x20 }, { ACK, 0, 0x2c },
		{ OUT, 0xa0, 0x20 }, { OUT, 0x20, 0x20 }, { ACK, 0, -1 } } },
	{ "specific EOI ends the named pin", {
		{ LINE1, 5, 1 }, { ACK, 0, 0x25 }, { LINE1, 1, 1 }, { ACK, 0, 0x21 }, { OUT, 0x20, 0x65 }, { OUT, 0x20, 0x0b },
		{ IN, 0x20, 0x02 }, { OUT, 0x20, 0x61 }, { IN, 0x20, 0x00 } } },
	{ "rotation on EOI makes the pin the lowest", {
		{ LINE1, 1, 1 }, { ACK, 0, 0x21 }, { OUT, 0x20, 0xa0 }, { LINE0, 1, 1 }, { LINE1, 1, 1 }, { LINE1, 6, 1 },
		{ ACK, 0, 0x26 } } },
	{ "set priority makes the named pin the lowest", {
		{ OUT, 0x20, 0xc4 }, { LINE1, 4, 1 }, { LINE1, 5, 1 }, { ACK, 0, 0x25 }, { OUT, 0x20, 0x20 }, { ACK, 0, 0x24 } } },
	{ "a level pin comes back until its line falls", {
		{ OUT, 0x4d0, 0x20 }, { LINE1, 5, 1 }, { ACK, 0, 0x25 }, { OUT, 0x20, 0x20 }, { ACK, 0, 0x25 }, { LINE0, 5, 1 },
		{ OUT, 0x20, 0x20 }, { ACK, 0, -1 } } },
	{ "a level request that vanished leaves nothing", {
		{ OUT, 0x4d0, 0x20 }, { LINE1, 5, 1 }, { LINE0, 5, 1 }, { ACK, 0, -1 } } },
	{ "a slave level request that vanished gives the spurious 15", {
		{ OUT, 0x4d1, 0x02 }, { LINE1, 9, 1 }, { LINE0, 9, 1 }, { ACK, 0, 0x2f }, { OUT, 0xa0, 0x0b }, { IN, 0xa0, 0 },
		{ OUT, 0x20, 0x0b }, { IN, 0x20, 0x04 }, { OUT, 0x20, 0x20 }, { LINE1, 9, 1 }, { ACK, 0, 0x29 } } },
	{ "special mask mode lets lower pins in", {
		{ LINE1, 1, 1 }, { ACK, 0, 0x21 }, { LINE1, 6, 1 }, { ACK, 0, -1 }, { OUT, 0x20, 0x68 }, { OUT, 0x21, 0x02 },
		{ ACK, 0, 0x26 } } },
	{ "poll acknowledges and answers the pin", {
		{ OUT, 0x20, 0x0c }, { IN, 0x20, 0 }, { LINE1, 3, 1 }, { OUT, 0x20, 0x0c }, { IN, 0x20, 0x83 }, { ACK, 0, -1 },
		{ OUT, 0x20, 0x0b }, { IN, 0x20, 0x08 } } },
	{ "IRR and ISR read by OCW3, IMR at the data port", {
		{ OUT, 0x21, 0x41 }, { IN, 0x21, 0x41 }, { LINE1, 3, 1 }, { IN, 0x20, 0x08 }, { ACK, 0, 0x23 }, { IN, 0x20, 0 },
		{ OUT, 0x20, 0x0b }, { IN, 0x20, 0x08 }, { OUT, 0x20, 0x0a }, { IN, 0x20, 0 } } },
	{ "ELCR has only the bits a PC may set", {
		{ OUT, 0x4d0, 0xff }, { IN, 0x4d0, 0xf8 }, { OUT, 0x4d1, 0xff }, { IN, 0x4d1, 0xde } } },
	{ "ICW1 forgets masks, services and pending edges", {
		{ OUT, 0x21, 0x10 }, { LINE1, 3, 1 }, { ACK, 0, 0x23 }, { LINE1, 5, 1 }, { OUT, 0x20, 0x11 }, { OUT, 0x21, 0x40 },
		{ OUT, 0x21, 0x04 }, { OUT, 0x21, 0x01 }, { IN, 0x21, 0 }, { ACK, 0, -1 }, { LINE1, 6, 1 }, { ACK, 0, 0x46 } } },
	{ "ICW1 without ICW4 takes three words", {
		{ OUT, 0x20, 0x10 }, { OUT, 0x21, 0x50 }, { OUT, 0x21, 0x04 }, { OUT, 0x21, 0xfe }, { IN, 0x21, 0xfe },
		{ LINE1, 0, 1 }, { ACK, 0, 0x50 } } },
	{ "an EOI with nothing in service is harmless", {
		{ OUT, 0x20, 0x20 }, { OUT, 0xa0, 0x20 }, { OUT, 0x20, 0xa0 }, { LINE1, 0, 1 }, { ACK, 0, 0x20 } } },
	{ "special fully nested: the slave may interrupt itself", {
		{ OUT, 0x20, 0x11 }, { OUT, 0x21, 0x20 }, { OUT, 0x21, 0x04 }, { OUT, 0x21, 0x11 }, { LINE1, 12, 1 },
		{ ACK, 0, 0x2c }, { LINE1, 9, 1 }, { ACK, 0, 0x29 } } },
};

static void check_row(void **state)
{
	const struct row *row = *state;
	struct rig *rig = rig_create(DEV_IRQCHIP_FULL, 1, false);

	rig_init_pics(rig, 1);
	for (uint32_t i = 0; i < ARRAY_SIZE(row->steps); i++) {
		const struct step *s = &row->steps[i];

		if (!s->op && !s->a && !s->b)
			break;
		switch (s->op) {
		case LINE1:
		case LINE0:
			/* Results of PIC and IOAPIC add up: a falling line counts 1 for the masked IOAPIC pin too. */
			assert_int_equal(rig_line(rig, s->a, s->op == LINE1), s->b + (s->op == LINE0));
			break;
		case OUT:
			rig_out(rig, (uint16_t)s->a, (uint8_t)s->b);
			break;
		case IN:
			assert_int_equal(rig_in(rig, (uint16_t)s->a), s->b);
			break;
		default:
			assert_int_equal(ack(rig), s->b);
			break;
		}
	}
	rig_destroy(rig);
}

static void test_auto_eoi(void **state)
{
	struct rig *rig = *state;

	pulse(rig, 4);
	assert_int_equal(ack(rig), 0x24);
	rig_out(rig, 0x20, 0x0b);
	assert_int_equal(rig_in(rig, 0x20), 0);
	pulse(rig, 12);
	pulse(rig, 9);			/* the slave's second must reach the master as a new edge */
	assert_int_equal(ack(rig), 0x29);
	assert_int_equal(ack(rig), 0x2c);
	assert_int_equal(ack(rig), -1);
	rig_out(rig, 0x20, 0x80);	/* rotate in automatic EOI mode */
	pulse(rig, 1);
	assert_int_equal(ack(rig), 0x21);
	pulse(rig, 1);
	pulse(rig, 7);
	assert_int_equal(ack(rig), 0x27);
}

static void test_goes_to_the_first_listener(void **state)
{
	struct rig *rig = *state;

	memset(rig->n_kicks, 0, sizeof(rig->n_kicks));
	pulse(rig, 3);
	assert_int_equal(dev_lapic_pending(rig->lapic[0]), DEV_PEND_INTR);
	assert_int_equal(dev_lapic_pending(rig->lapic[1]), 0);
	assert_int_equal(rig->n_kicks[0], 1);
	rig_apic_write(rig, 1, 0x350, 0x700);		/* an AP that listens too comes second */
	assert_int_equal(dev_lapic_ack(rig->lapic[1]), -1);
	rig_apic_write(rig, 0, 0x350, 0x10700);		/* until the first goes deaf */
	assert_int_equal(dev_lapic_pending(rig->lapic[0]), 0);
	assert_int_equal(dev_lapic_ack(rig->lapic[1]), 0x23);
	rig_apic_write(rig, 0, 0x350, 0x400);		/* NMI mode is not ExtINT */
	assert_false(dev_lapic_accepts_extint(rig->lapic[0]));
	/* TPR does not hold back ExtINT. */
	rig_apic_write(rig, 0, 0x350, 0x700);
	rig_out(rig, 0x20, 0x20);
	dev_lapic_set_cr8(rig->lapic[0], 15);
	pulse(rig, 3);
	assert_int_equal(ack(rig), 0x23);
}

static void test_odd_accesses(void **state)
{
	struct rig *rig = *state;
	uint64_t data = ~0ull;

	assert_true(dev_pio(rig->chip, 0x20, 2, &data, false));
	assert_int_equal(data & 0xffff, 0);
	data = 0xffff;
	assert_true(dev_pio(rig->chip, 0x20, 2, &data, true));
	assert_int_equal(rig_in(rig, 0x21), 0);
	assert_false(dev_pio(rig->chip, 0x21, 2, &data, false));	/* crosses out of the chip */
	assert_false(dev_pio(rig->chip, 0x4d0, 2, &data, false));
	assert_false(dev_pio(rig->chip, 0x22, 1, &data, false));
	assert_false(dev_pio(rig->chip, 0xffff, 4, &data, false));
	assert_false(dev_pio(rig->chip, 0x20, 0, &data, false));
	assert_false(dev_pio(rig->chip, 0x40, 1, &data, false));	/* no PIT yet */
}

static void test_state(void **state)
{
	struct rig *rig = *state;
	struct kvm_irqchip s = { .chip_id = KVM_IRQCHIP_PIC_MASTER }, back;

	rig_out(rig, 0x4d0, 0x20);
	rig_out(rig, 0x21, 0x02);
	pulse(rig, 6);
	pulse(rig, 3);
	assert_int_equal(ack(rig), 0x23);
	assert_int_equal(dev_irqchip_get(rig->chip, &s), 0);
	assert_int_equal(s.chip.pic.irr, 0x40);
	assert_int_equal(s.chip.pic.isr, 0x08);
	assert_int_equal(s.chip.pic.imr, 0x02);
	assert_int_equal(s.chip.pic.elcr, 0x20);
	assert_int_equal(s.chip.pic.elcr_mask, 0xf8);
	assert_int_equal(s.chip.pic.irq_base, 0x20);
	assert_int_equal(s.chip.pic.init4, 1);
	rig_init_pics(rig, 3);
	assert_int_equal(dev_irqchip_set(rig->chip, &s), 0);
	back = (struct kvm_irqchip){ .chip_id = KVM_IRQCHIP_PIC_MASTER };
	assert_int_equal(dev_irqchip_get(rig->chip, &back), 0);
	assert_memory_equal(&s, &back, sizeof(s));
	rig_out(rig, 0x20, 0x20);
	assert_int_equal(ack(rig), 0x26);
	/* Whatever bytes a client brings, no state outside the code's own. */
	memset(&s.chip, 0xff, sizeof(s.chip));
	s.chip_id = KVM_IRQCHIP_PIC_SLAVE;
	assert_int_equal(dev_irqchip_set(rig->chip, &s), 0);
	assert_int_equal(dev_irqchip_get(rig->chip, &s), 0);
	assert_int_equal(s.chip.pic.elcr, 0xde);
	assert_int_equal(s.chip.pic.init_state, 3);
	assert_int_equal(s.chip.pic.priority_add, 7);
	s.chip_id = 3;
	assert_int_equal(dev_irqchip_get(rig->chip, &s), -EINVAL);
	assert_int_equal(dev_irqchip_set(rig->chip, &s), -EINVAL);
}

static const struct CMUnitTest fixed[] = {
	{ "automatic EOI leaves nothing in service", test_auto_eoi, setup_auto, teardown, NULL },
	{ "INTR goes to the first LAPIC that listens", test_goes_to_the_first_listener, setup, teardown, NULL },
	{ "accesses that are not a byte, and ports that are not ours", test_odd_accesses, setup, teardown, NULL },
	{ "PIC state round-trips and is sanitised", test_state, setup, teardown, NULL },
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
