/* SPDX-License-Identifier: MIT */
/* The LAPIC's registers, priorities, events and saved state. IPIs and destinations are in msg_test.c, time in lapic_timer_test.c. */
#include "dev/test_rig.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { ID = 0x20, LVR = 0x30, TPR = 0x80, APR = 0x90, PPR = 0xa0, EOI = 0xb0, LDR = 0xd0, DFR = 0xe0, SPIV = 0xf0, ISR = 0x100,
       TMR = 0x180, IRR = 0x200, ESR = 0x280, CMCI = 0x2f0, ICR = 0x300, ICR2 = 0x310, LVTT = 0x320, LVTTHMR = 0x330,
       LVTPC = 0x340, LVT0 = 0x350, LVT1 = 0x360, LVTERR = 0x370, TMICT = 0x380, TMCCT = 0x390, TDCR = 0x3e0, SELF = 0x3f0 };

static int setup(void **state) { *state = rig_create(DEV_IRQCHIP_FULL, 2, false); return 0; }
static int setup_raw(void **state) { *state = rig_create(DEV_IRQCHIP_FULL, 2, true); return 0; }
static int setup_split(void **state) { *state = rig_create(DEV_IRQCHIP_SPLIT, 2, false); return 0; }
static int teardown(void **state) { rig_destroy(*state); return 0; }

/* An edge interrupt for vCPU 0, from a device. */
static void raise(struct rig *rig, uint8_t vector)
{
	assert_int_equal(dev_irq_msi(rig->chip, 0xfee00000, vector), 1);
}

static bool isr_has(struct rig *rig, uint8_t v) { return rig_apic_read(rig, 0, ISR + v / 32 * 16) >> (v % 32) & 1; }
static bool irr_has(struct rig *rig, uint8_t v) { return rig_apic_read(rig, 0, IRR + v / 32 * 16) >> (v % 32) & 1; }

/* --- registers --------------------------------------------------------------------------------------------------- */

static void test_power_on(void **state)
{
	static const struct { unsigned offset; uint32_t bsp, ap; } want[] = {
		{ ID, 0, 1u << 24 }, { LVR, 0x50014, 0x50014 }, { TPR, 0, 0 }, { PPR, 0, 0 }, { LDR, 0, 0 }, { DFR, ~0u, ~0u },
		{ SPIV, 0xff, 0xff }, { ESR, 0, 0 }, { ICR, 0, 0 }, { LVTT, 0x10000, 0x10000 }, { LVTTHMR, 0x10000, 0x10000 },
		{ LVTPC, 0x10000, 0x10000 }, { LVT0, 0x700, 0x10000 }, { LVT1, 0x10000, 0x10000 },
		{ LVTERR, 0x10000, 0x10000 }, { TMICT, 0, 0 }, { TMCCT, 0, 0 }, { TDCR, 0, 0 }, { CMCI, 0, 0 },
	};
	struct rig *rig = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(want); i++) {
		assert_int_equal(rig_apic_read(rig, 0, want[i].offset), want[i].bsp);
		assert_int_equal(rig_apic_read(rig, 1, want[i].offset), want[i].ap);
	}
	assert_int_equal(dev_lapic_base(rig->lapic[0]), 0xfee00900);
	assert_int_equal(dev_lapic_base(rig->lapic[1]), 0xfee00800);
}

static void test_xapic_write_masks(void **state)
{
	static const struct { unsigned offset; uint32_t write, read; } rows[] = {
		{ ID, ~0u, 0xff000000 }, { LVR, 0, 0x50014 }, { TPR, ~0u, 0xff }, { LDR, ~0u, 0xff000000 },
		{ DFR, 0, 0x0fffffff }, { SPIV, 0xffffffff, 0x3ff }, { ESR, ~0u, 0 }, { ICR2, ~0u, 0xff000000 },
		{ ICR, 0x8000 | 0x1000 | 0x42, 0x8042 },
		{ LVTTHMR, ~0u, 0x107ff }, { LVTPC, ~0u, 0x107ff }, { LVT0, ~0u, 0x1a7ff }, { LVT1, ~0u, 0x1a7ff },
		{ LVTERR, ~0u, 0x100ff }, { LVTT, ~0u, 0x700ff }, { TDCR, ~0u, 0xb }, { TMCCT, ~0u, 0 }, { ISR, ~0u, 0 },
		{ IRR, ~0u, 0 }, { TMR, ~0u, 0 }, { CMCI, ~0u, 0 }, { SELF, ~0u, 0 }, { APR, ~0u, 0 }, { PPR, ~0u, 0xff },
		{ 0x000, ~0u, 0 }, { 0x3f0, ~0u, 0 }, { 0x400, ~0u, 0 }, { 0xff0, ~0u, 0 }, { EOI, 0, 0 },
	};
	struct rig *rig = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		rig_apic_write(rig, 0, rows[i].offset, rows[i].write);
		assert_int_equal(rig_apic_read(rig, 0, rows[i].offset), rows[i].read);
	}
}

static void test_xapic_access_sizes(void **state)
{
	struct rig *rig = *state;
	uint64_t data;
	uint8_t byte;

	rig_apic_write(rig, 0, DFR, 0);
	assert_true(dev_mmio(rig->chip, rig->lapic[0], GPA(0xfee00000 + LVR + 2), 1, &byte, false));
	assert_int_equal(byte, 0x05);
	data = ~0ull;
	assert_true(dev_mmio(rig->chip, rig->lapic[0], GPA(0xfee00000 + LVR), 8, &data, false));
	assert_int_equal(data, 0);
	data = ~0ull;
	assert_true(dev_mmio(rig->chip, rig->lapic[0], GPA(0xfee00000 + LVR + 4), 4, &data, false));
	assert_int_equal((uint32_t)data, 0);
	/* Anything but an aligned dword write is dropped. */
	byte = 0x55;
	assert_true(dev_mmio(rig->chip, rig->lapic[0], GPA(0xfee00000 + TPR), 1, &byte, true));
	assert_true(dev_mmio(rig->chip, rig->lapic[0], GPA(0xfee00000 + TPR), 8, &data, true));
	assert_true(dev_mmio(rig->chip, rig->lapic[0], GPA(0xfee00ffe), 4, &data, true));
	assert_int_equal(rig_apic_read(rig, 0, TPR), 0);
	/* Outside the page, or no sane length: not ours. */
	assert_false(dev_mmio(rig->chip, rig->lapic[0], GPA(0xfee01000), 4, &data, false));
	assert_false(dev_mmio(rig->chip, rig->lapic[0], GPA(0xfedffffc), 4, &data, false));
	assert_false(dev_mmio(rig->chip, rig->lapic[0], GPA(0xfee00000), 0, &data, false));
	assert_false(dev_mmio(rig->chip, rig->lapic[0], GPA(0xfee00000), 9, &data, false));
}

/* Which x2APIC MSRs exist, by direction; every other of the 256 is #GP. */
static void test_x2apic_map(void **state)
{
	static const char readable[] = "02 03 08 0a 0d 0f 28 30 32 33 34 35 36 37 38 39 3e"
				       " 10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d 1e 1f 20 21 22 23 24 25 26 27";
	static const char writable[] = "08 0b 0f 28 30 32 33 34 35 36 37 38 3e 3f";
	struct rig *rig = *state;
	uint64_t value;
	char hex[4];

	rig_enter_x2apic(rig, 0);
	for (uint32_t reg = 0; reg < 0x100; reg++) {
		bool r, w;

		snprintf(hex, sizeof(hex), "%02x", reg);
		r = strstr(readable, hex);
		w = strstr(writable, hex);
		assert_int_equal(dev_lapic_read_msr(rig->lapic[0], 0x800 + reg, false, &value), r ? 0 : -EINVAL);
		/* 0 is legal for every register; bit 63 only for the destination of the ICR. */
		assert_int_equal(dev_lapic_write_msr(rig->lapic[0], 0x800 + reg, false, 0), w ? 0 : -EINVAL);
		assert_int_equal(dev_lapic_write_msr(rig->lapic[0], 0x800 + reg, false, BIT64(63)), reg == 0x30 ? 0 : -EINVAL);
	}
	assert_int_equal(dev_lapic_read_msr(rig->lapic[0], 0x7ff, false, &value), -EINVAL);
	assert_int_equal(dev_lapic_read_msr(rig->lapic[0], 0x900, false, &value), -EINVAL);
	/* In xAPIC mode there are none at all. */
	assert_int_equal(dev_lapic_read_msr(rig->lapic[1], 0x803, false, &value), -EINVAL);
	assert_int_equal(dev_lapic_write_msr(rig->lapic[1], 0x808, false, 0), -EINVAL);
}

static void test_x2apic_reserved_bits(void **state)
{
	static const struct { uint32_t msr; uint64_t value; int want; } rows[] = {
		{ 0x828, 0, 0 }, { 0x828, 1, -EINVAL }, { 0x83f, 0xff, 0 }, { 0x83f, 0x100, -EINVAL },
		{ 0x830, BIT64(12) | 0xfe, 0 }, { 0x830, BIT64(13), -EINVAL }, { 0x830, BIT64(16), -EINVAL },
		{ 0x830, BIT64(17), -EINVAL }, { 0x830, BIT64(20), -EINVAL }, { 0x830, BIT64(31), -EINVAL },
		{ 0x830, 0xffffff0000000000ull, 0 }, { 0x808, BIT64(32), -EINVAL }, { 0x80b, 5, 0 },
	};
	struct rig *rig = *state;

	rig_enter_x2apic(rig, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(dev_lapic_write_msr(rig->lapic[0], rows[i].msr, false, rows[i].value), rows[i].want);
	rig_wrmsr(rig, 0, 0x830, 0x1234567800001000ull | 0x40);
	assert_int_equal(rig_rdmsr(rig, 0, 0x830), 0x1234567800000040ull);	/* BUSY never stays */
}

static void test_x2apic_page_is_a_hole(void **state)
{
	struct rig *rig = *state;
	uint32_t value = 0;

	rig_enter_x2apic(rig, 0);
	assert_int_equal(rig_apic_read(rig, 0, LVR), ~0u);
	rig_apic_write(rig, 0, TPR, 0x50);
	assert_int_equal(rig_rdmsr(rig, 0, 0x808), 0);
	dev_irqchip_disable_quirks(rig->chip, BIT64(2));
	assert_false(dev_mmio(rig->chip, rig->lapic[0], GPA(0xfee00030), 4, &value, false));
	assert_int_equal(rig_apic_read(rig, 1, LVR), 0x50014);
}

static void test_x2apic_ids(void **state)
{
	struct rig *rig = *state;
	struct dev_lapic *l;

	assert_int_equal(dev_lapic_create(&l, rig->chip, 5, 0x123, false), 0);
	dev_lapic_set_features(l, &(struct dev_lapic_features){ .has_x2apic = true, .maxphyaddr = 40 });
	rig->lapic[5] = l;
	rig_enter_x2apic(rig, 5);
	assert_int_equal(rig_rdmsr(rig, 5, 0x802), 0x123);
	assert_int_equal(rig_rdmsr(rig, 5, 0x80d), 0x12u << 16 | 1 << 3);
	/* Leaving it forgets the derived LDR and truncates the id. */
	rig_wrmsr(rig, 5, 0x1b, 0xfee00000);
	rig_wrmsr(rig, 5, 0x1b, 0xfee00800);
	assert_int_equal(rig_apic_read(rig, 5, ID), 0x23000000);
	assert_int_equal(rig_apic_read(rig, 5, LDR), 0);
}

static const struct base_row {
	const char *name;
	uint64_t from;		/* by the host */
	uint64_t to;
	bool host, no_x2apic;
	int want;
} base_rows[] = {
	{ "APIC_BASE may move within MAXPHYADDR", 0xfee00900, 0x3ffffffff800ull, false, false, 0 },
	{ "APIC_BASE above MAXPHYADDR is refused", 0xfee00900, 0x400000000800ull, false, false, -EINVAL },
	{ "APIC_BASE reserved bit 0 is refused", 0xfee00900, 0xfee00901, false, false, -EINVAL },
	{ "APIC_BASE reserved bit 9 is refused", 0xfee00900, 0xfee00b00, false, false, -EINVAL },
	{ "xAPIC to disabled is legal", 0xfee00900, 0xfee00100, false, false, 0 },
	{ "disabled to xAPIC is legal", 0xfee00100, 0xfee00900, false, false, 0 },
	{ "xAPIC to x2APIC is legal", 0xfee00900, 0xfee00d00, false, false, 0 },
	{ "x2APIC to disabled is legal", 0xfee00d00, 0xfee00100, false, false, 0 },
	{ "x2APIC to xAPIC is refused for a guest", 0xfee00d00, 0xfee00900, false, false, -EINVAL },
	{ "x2APIC to xAPIC is allowed for the host", 0xfee00d00, 0xfee00900, true, false, 0 },
	{ "disabled to x2APIC is refused for a guest", 0xfee00100, 0xfee00d00, false, false, -EINVAL },
	{ "disabled to x2APIC is allowed for the host", 0xfee00100, 0xfee00d00, true, false, 0 },
	{ "x2APIC without enable is refused for a guest", 0xfee00900, 0xfee00500, false, false, -EINVAL },
	{ "x2APIC without enable is refused for the host", 0xfee00900, 0xfee00500, true, false, -EINVAL },
	{ "x2APIC without the CPUID bit is refused", 0xfee00900, 0xfee00d00, false, true, -EINVAL },
	{ "x2APIC without the CPUID bit is refused for the host", 0xfee00900, 0xfee00d00, true, true, -EINVAL },
};

static void check_base(void **state)
{
	const struct base_row *row = *state;
	struct rig *rig = rig_create(DEV_IRQCHIP_FULL, 1, false);

	assert_int_equal(dev_lapic_write_msr(rig->lapic[0], 0x1b, true, row->from), 0);
	dev_lapic_set_features(rig->lapic[0], &(struct dev_lapic_features){ .has_x2apic = !row->no_x2apic, .maxphyaddr = 46 });
	assert_int_equal(dev_lapic_write_msr(rig->lapic[0], 0x1b, row->host, row->to), row->want);
	assert_int_equal(rig_rdmsr(rig, 0, 0x1b), row->want ? row->from : row->to);
	rig_destroy(rig);
}

static void test_disabled_lapic(void **state)
{
	struct rig *rig = *state;

	raise(rig, 0x40);
	rig_wrmsr(rig, 0, 0x1b, 0xfee00100);
	assert_int_equal(dev_lapic_pending(rig->lapic[0]), 0);
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), -1);
	assert_int_equal(dev_irq_msi(rig->chip, 0xfee00000, 0x41), -1);
	assert_int_equal(rig_apic_read(rig, 0, LVR), ~0u);
	assert_true(dev_lapic_accepts_extint(rig->lapic[0]));
	assert_true(dev_lapic_accepts_extint(NULL));
	rig_wrmsr(rig, 0, 0x1b, 0xfee00900);
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), 0x40);
}

static void test_page_moves_with_base(void **state)
{
	struct rig *rig = *state;
	uint32_t value = 0;

	rig_wrmsr(rig, 0, 0x1b, 0x12345900);
	assert_false(dev_mmio(rig->chip, rig->lapic[0], GPA(0xfee00030), 4, &value, false));
	assert_true(dev_mmio(rig->chip, rig->lapic[0], GPA(0x12345030), 4, &value, false));
	assert_int_equal(value, 0x50014);
	assert_int_equal(rig_apic_read(rig, 1, LVR), 0x50014);
}

static void test_software_disable(void **state)
{
	struct rig *rig = *state;

	rig_apic_write(rig, 0, LVT1, 0x400);
	rig_apic_write(rig, 0, SPIV, 0xff);
	assert_int_equal(rig_apic_read(rig, 0, LVT0), 0x10700);
	assert_int_equal(rig_apic_read(rig, 0, LVT1), 0x10400);
	rig_apic_write(rig, 0, LVT1, 0x400);
	assert_int_equal(rig_apic_read(rig, 0, LVT1), 0x10400);	/* stays masked */
	assert_int_equal(dev_irq_msi(rig->chip, 0xfee00000, 0x40), 0);	/* named, refused */
	assert_int_equal(dev_lapic_pending(rig->lapic[0]), 0);
	/* NMI, INIT, SIPI and SMI still arrive. */
	assert_int_equal(dev_irq_msi(rig->chip, 0xfee00000, 0x400), 1);
	assert_int_equal(dev_lapic_pending(rig->lapic[0]), DEV_PEND_NMI);
	rig_apic_write(rig, 0, SPIV, 0x1ff);
	assert_int_equal(rig_apic_read(rig, 0, LVT1), 0x10400);	/* unmasking is the guest's job */
	rig_apic_write(rig, 0, LVT1, 0x400);
	assert_int_equal(rig_apic_read(rig, 0, LVT1), 0x400);
}

static void test_cmci_is_a_seventh_lvt(void **state)
{
	struct rig *rig = *state;

	dev_lapic_set_features(rig->lapic[0], &(struct dev_lapic_features){ .has_cmci = true, .maxphyaddr = 40 });
	assert_int_equal(rig_apic_read(rig, 0, LVR), 0x60014);
	assert_int_equal(rig_apic_read(rig, 0, CMCI), 0x10000);
	rig_apic_write(rig, 0, CMCI, ~0u);
	assert_int_equal(rig_apic_read(rig, 0, CMCI), 0x107ff);
}

static void test_split_has_directed_eoi(void **state)
{
	struct rig *rig = *state;

	assert_int_equal(rig_apic_read(rig, 0, LVR), 0x1050014);
	rig_apic_write(rig, 0, SPIV, 0x11ff);
	assert_int_equal(rig_apic_read(rig, 0, SPIV), 0x11ff);
}

/* --- priorities -------------------------------------------------------------------------------------------------- */

static void test_ack_moves_irr_to_isr(void **state)
{
	struct rig *rig = *state;

	raise(rig, 0x51);
	assert_int_equal(dev_lapic_pending(rig->lapic[0]), DEV_PEND_INTR);
	assert_int_equal(rig->n_kicks[0], 1);
	assert_true(irr_has(rig, 0x51));
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), 0x51);
	assert_false(irr_has(rig, 0x51));
	assert_true(isr_has(rig, 0x51));
	assert_int_equal(rig_apic_read(rig, 0, PPR), 0x50);
	assert_int_equal(dev_lapic_pending(rig->lapic[0]), 0);
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), -1);
	rig_apic_write(rig, 0, EOI, 0);
	assert_false(isr_has(rig, 0x51));
	assert_int_equal(rig_apic_read(rig, 0, PPR), 0);
	assert_int_equal(rig->n_kicks[1], 0);
}

static void test_priority_order(void **state)
{
	struct rig *rig = *state;

	raise(rig, 0x31);
	raise(rig, 0x92);
	raise(rig, 0x95);
	raise(rig, 0x60);
	assert_int_equal(rig->n_kicks[0], 1);		/* one bit, one kick */
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), 0x95);
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), -1);	/* 0x92 is of the same class */
	raise(rig, 0xa0);
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), 0xa0);	/* nests */
	rig_apic_write(rig, 0, EOI, 0);			/* ends the highest, 0xa0 */
	assert_true(isr_has(rig, 0x95));
	assert_false(dev_lapic_has_injectable(rig->lapic[0]));
	rig_apic_write(rig, 0, EOI, 0);
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), 0x92);
	rig_apic_write(rig, 0, EOI, 0);
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), 0x60);
	rig_apic_write(rig, 0, EOI, 0);
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), 0x31);
	rig_apic_write(rig, 0, EOI, 0);
	rig_apic_write(rig, 0, EOI, 0);			/* one too many is harmless */
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), -1);
}

static void test_tpr_and_cr8(void **state)
{
	static const struct { uint8_t tpr; uint8_t vector; int want; } rows[] = {
		{ 0x00, 0x10, 0x10 }, { 0x00, 0x0f, -1 }, { 0x40, 0x4f, -1 }, { 0x40, 0x50, 0x50 }, { 0x4f, 0x50, 0x50 },
		{ 0xf0, 0xff, -1 }, { 0xe0, 0xff, 0xff },
	};
	struct rig *rig = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		dev_lapic_reset(rig->lapic[0]);
		rig_apic_write(rig, 0, SPIV, 0x1ff);
		rig_apic_write(rig, 0, TPR, rows[i].tpr);
		assert_int_equal(dev_lapic_cr8(rig->lapic[0]), rows[i].tpr >> 4);
		raise(rig, rows[i].vector);
		assert_int_equal(dev_lapic_has_injectable(rig->lapic[0]), rows[i].want >= 0);
		assert_int_equal(dev_lapic_ack(rig->lapic[0]), rows[i].want);
	}
	/* Lowering CR8 lets it in, with a kick. */
	dev_lapic_reset(rig->lapic[0]);
	rig_apic_write(rig, 0, SPIV, 0x1ff);
	dev_lapic_set_cr8(rig->lapic[0], 9);
	assert_int_equal(rig_apic_read(rig, 0, TPR), 0x90);
	raise(rig, 0x80);
	memset(rig->n_kicks, 0, sizeof(rig->n_kicks));
	dev_lapic_set_cr8(rig->lapic[0], 7);
	assert_int_equal(rig->n_kicks[0], 1);
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), 0x80);
	dev_lapic_set_cr8(rig->lapic[0], 9);
	assert_int_equal(rig_apic_read(rig, 0, PPR), 0x90);	/* TPR above ISR */
	dev_lapic_set_cr8(rig->lapic[0], 0);
	assert_int_equal(rig_apic_read(rig, 0, PPR), 0x80);	/* ISR above TPR */
}

static void test_same_vector_merges(void **state)
{
	struct rig *rig = *state;

	raise(rig, 0x77);
	raise(rig, 0x77);
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), 0x77);
	raise(rig, 0x77);				/* one in service, one waiting */
	rig_apic_write(rig, 0, EOI, 0);
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), 0x77);
	rig_apic_write(rig, 0, EOI, 0);
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), -1);
}

/* --- split, PV EOI ----------------------------------------------------------------------------------------------- */

static void test_split_eoi_exit(void **state)
{
	struct rig *rig = *state;
	struct kvm_irq_routing_entry routes[] = {
		{ .gsi = 4, .type = KVM_IRQ_ROUTING_MSI, .u.msi = { .address_lo = 0xfee00000, .data = 0x8041 } },
		{ .gsi = 5, .type = KVM_IRQ_ROUTING_MSI, .u.msi = { .address_lo = 0xfee00000, .data = 0x0042 } },
		{ .gsi = 24, .type = KVM_IRQ_ROUTING_MSI, .u.msi = { .address_lo = 0xfee00000, .data = 0x8043 } },
	};

	assert_int_equal(dev_irq_set_routing(rig->chip, routes, 3), 0);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(rig_line(rig, routes[i].gsi, true), 1);
		assert_int_equal(dev_lapic_ack(rig->lapic[0]), 0x41 + i);
		rig_apic_write(rig, 0, EOI, 0);
	}
	/* Only the level route below the 24 reserved pins. */
	assert_int_equal(rig->n_eoi_exits, 1);
	assert_int_equal(rig->last_eoi_vector, 0x41);
	/* The same vector sent as an edge needs no EOI. */
	raise(rig, 0x41);
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), 0x41);
	rig_apic_write(rig, 0, EOI, 0);
	assert_int_equal(rig->n_eoi_exits, 1);
	/* A level message of a vector whose route is an edge is not the client's IOAPIC's. */
	assert_int_equal(dev_irq_msi(rig->chip, 0xfee00000, 0x8042), 1);
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), 0x42);
	rig_apic_write(rig, 0, EOI, 0);
	assert_int_equal(rig->n_eoi_exits, 1);
	/* There is no IOAPIC, PIC or PIT. */
	assert_false(dev_mmio(rig->chip, rig->lapic[0], GPA(0xfec00000), 4, &(uint32_t){ 0 }, false));
	assert_false(dev_pio(rig->chip, 0x20, 1, &(uint8_t){ 0 }, false));
	assert_int_equal(dev_pit_create(rig->chip, 0), -ENOENT);
	assert_int_equal(dev_irqchip_get(rig->chip, &(struct kvm_irqchip){ .chip_id = 0 }), -ENXIO);
	assert_int_equal(dev_irqchip_set(rig->chip, &(struct kvm_irqchip){ .chip_id = 0 }), -ENXIO);
	assert_int_equal(dev_irq_set_resample(rig->chip, 4, 1), -EINVAL);
}

/* One level interrupt, taken and ended; how often the client was told so far. */
static unsigned one_level(struct rig *rig)
{
	assert_int_equal(rig_line(rig, 4, true), 1);
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), 0x41);
	rig_apic_write(rig, 0, EOI, 0);
	return rig->n_eoi_exits;
}

static void test_suppressed_eoi(void **state)
{
	struct rig *rig = *state;
	struct kvm_irq_routing_entry route = { .gsi = 4, .type = KVM_IRQ_ROUTING_MSI, .u.msi = { .address_lo = 0xfee00000, .data = 0x8041 } };
	struct dev_lapic_features x2 = { .has_x2apic = true, .maxphyaddr = 40 };

	assert_int_equal(dev_irq_set_routing(rig->chip, &route, 1), 0);
	/* Offered, written, and not done: KVM's quirk. */
	rig_apic_write(rig, 0, SPIV, 0x11ff);
	assert_int_equal(one_level(rig), 1);
	assert_int_equal(dev_irqchip_set_x2apic_api(rig->chip, 0xc), -EINVAL);
	assert_int_equal(one_level(rig), 2);
	assert_int_equal(dev_irqchip_set_x2apic_api(rig->chip, KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST), 0);
	assert_int_equal(one_level(rig), 2);
	rig_apic_write(rig, 0, SPIV, 0x1ff);		/* the guest does not want it */
	assert_int_equal(one_level(rig), 3);
	assert_int_equal(dev_irqchip_set_x2apic_api(rig->chip, KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST), 0);
	dev_lapic_set_features(rig->lapic[0], &x2);
	assert_int_equal(rig_apic_read(rig, 0, LVR), 0x50014);
	rig_apic_write(rig, 0, SPIV, 0x11ff);
	assert_int_equal(rig_apic_read(rig, 0, SPIV), 0x1ff);
	assert_int_equal(one_level(rig), 4);
}

static void test_eoi_suppression_needs_split(void **state)
{
	struct rig *rig = *state;

	assert_int_equal(dev_irqchip_set_x2apic_api(rig->chip, KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST), -EINVAL);
	assert_int_equal(dev_irqchip_set_x2apic_api(rig->chip, KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST), 0);
}

static void test_pv_eoi(void **state)
{
	struct rig *rig = *state;
	struct dev_lapic *l = rig->lapic[0];

	assert_false(dev_lapic_pv_eoi_arm(l));		/* nothing in service */
	raise(rig, 0x61);
	dev_lapic_ack(l);
	assert_true(dev_lapic_pv_eoi_arm(l));
	dev_lapic_pv_eoi_sync(l, true);			/* the guest cleared the byte */
	assert_false(isr_has(rig, 0x61));
	raise(rig, 0x61);
	dev_lapic_ack(l);
	assert_true(dev_lapic_pv_eoi_arm(l));
	raise(rig, 0x62);				/* blocked, and the guest might have finished unseen */
	assert_int_equal(dev_lapic_pending(l), DEV_PEND_PV_EOI);
	dev_lapic_pv_eoi_sync(l, false);		/* it had not */
	assert_int_equal(dev_lapic_pending(l), 0);
	assert_true(isr_has(rig, 0x61));
	assert_false(dev_lapic_pv_eoi_arm(l));		/* something waits */
	rig_apic_write(rig, 0, EOI, 0);
	assert_int_equal(dev_lapic_ack(l), 0x62);
	assert_true(dev_lapic_pv_eoi_arm(l));
	rig_apic_write(rig, 0, EOI, 0);			/* by register after all */
	raise(rig, 0x30);
	dev_lapic_ack(l);
	dev_lapic_pv_eoi_sync(l, true);			/* the stale byte ends nothing */
	assert_true(isr_has(rig, 0x30));
	rig_apic_write(rig, 0, EOI, 0);
	/* A level interrupt needs its EOI seen. */
	assert_int_equal(dev_irq_msi(rig->chip, 0xfee00000, 0x8063), 1);
	dev_lapic_ack(l);
	assert_false(dev_lapic_pv_eoi_arm(l));
	rig_apic_write(rig, 0, EOI, 0);
	/* So does the vector of an IOAPIC pin, even an edge. */
	rig_ioapic_set(rig, 4, 0x64);
	raise(rig, 0x64);
	dev_lapic_ack(l);
	assert_false(dev_lapic_pv_eoi_arm(l));
}

/* --- events, reset ----------------------------------------------------------------------------------------------- */

static void test_events(void **state)
{
	struct rig *rig = *state;
	struct dev_lapic *l = rig->lapic[1];
	struct dev_lapic_events ev, post = { .n_nmi = 5, .is_smi = true, .is_unhalt = true };

	dev_lapic_post_events(l, &(struct dev_lapic_events){ .is_smi = true });
	assert_int_equal(dev_lapic_pending(l), 0);	/* no SMM, no SMI */
	dev_lapic_set_features(l, &(struct dev_lapic_features){ .has_smm = true, .maxphyaddr = 40 });
	dev_lapic_post_events(l, &post);
	assert_int_equal(dev_lapic_pending(l), DEV_PEND_NMI | DEV_PEND_SMI | DEV_PEND_UNHALT);
	assert_int_equal(rig->n_kicks[1], 1);
	dev_lapic_peek_events(l, &ev);
	assert_int_equal(ev.n_nmi, 2);			/* saturates */
	dev_lapic_take_events(l, DEV_PEND_NMI, &ev);
	assert_int_equal(ev.n_nmi, 2);
	assert_false(ev.is_smi);			/* not asked for */
	assert_int_equal(dev_lapic_pending(l), DEV_PEND_SMI | DEV_PEND_UNHALT);
	dev_lapic_take_events(l, ~0u, &ev);
	assert_int_equal(ev.n_nmi, 0);
	assert_true(ev.is_smi);
	assert_true(ev.is_unhalt);
	assert_int_equal(dev_lapic_pending(l), 0);
	/* Losing one bit of several is no news. */
	raise(rig, 0x40);
	dev_lapic_post_events(rig->lapic[0], &(struct dev_lapic_events){ .n_nmi = 1 });
	assert_int_equal(rig->n_kicks[0], 2);
	dev_lapic_take_events(rig->lapic[0], DEV_PEND_NMI, &ev);
	assert_int_equal(rig->n_kicks[0], 2);
	/* INIT then SIPI: both wait; a later INIT drops the SIPI. */
	dev_lapic_post_events(l, &(struct dev_lapic_events){ .is_init = true, .is_sipi = true, .sipi_vector = 0x9a });
	dev_lapic_peek_events(l, &ev);
	assert_true(ev.is_init && ev.is_sipi);
	assert_int_equal(ev.sipi_vector, 0x9a);
	dev_lapic_post_events(l, &(struct dev_lapic_events){ .is_init = true });
	dev_lapic_take_events(l, ~0u, &ev);
	assert_true(ev.is_init);
	assert_false(ev.is_sipi);
	/* INTR cannot be taken that way. */
	dev_lapic_take_events(rig->lapic[0], ~0u, &ev);
	assert_int_equal(dev_lapic_pending(rig->lapic[0]), DEV_PEND_INTR);
}

static void test_init_keeps_base_and_id(void **state)
{
	struct rig *rig = *state;
	struct dev_lapic *l = rig->lapic[0];

	raise(rig, 0x40);
	rig_apic_write(rig, 0, ID, 0x55000000);
	rig_apic_write(rig, 0, LDR, 0x01000000);
	rig_apic_write(rig, 0, TPR, 0x20);
	rig_apic_write(rig, 0, TMICT, 100000);
	dev_lapic_post_events(l, &(struct dev_lapic_events){ .n_nmi = 1, .is_sipi = true, .sipi_vector = 7 });
	dev_lapic_init(l);
	assert_int_equal(dev_lapic_base(l), 0xfee00900);
	assert_int_equal(rig_apic_read(rig, 0, ID), 0x55000000);
	assert_int_equal(rig_apic_read(rig, 0, LDR), 0);
	assert_int_equal(rig_apic_read(rig, 0, TPR), 0);
	assert_int_equal(rig_apic_read(rig, 0, SPIV), 0xff);
	assert_int_equal(rig_apic_read(rig, 0, LVT0), 0x700);
	assert_int_equal(rig_apic_read(rig, 0, TMICT), 0);
	assert_false(dev_timers_next(rig->timers, &(uint64_t){ 0 }));
	assert_int_equal(dev_lapic_pending(l), DEV_PEND_SIPI);	/* a SIPI behind the INIT stays */
	rig_wrmsr(rig, 0, 0x1b, 0xfee00d00);
	dev_lapic_init(l);
	assert_int_equal(dev_lapic_base(l), 0xfee00d00);
	assert_int_equal(rig_rdmsr(rig, 0, 0x80d), 1);
	dev_lapic_reset(l);
	assert_int_equal(dev_lapic_base(l), 0xfee00900);
	assert_int_equal(rig_apic_read(rig, 0, ID), 0);
	assert_int_equal(dev_lapic_pending(l), 0);
}

static void test_lint0_quirk(void **state)
{
	struct rig *rig = *state;

	dev_irqchip_disable_quirks(rig->chip, BIT64(0));
	dev_lapic_reset(rig->lapic[0]);
	assert_int_equal(rig_apic_read(rig, 0, LVT0), 0x10000);
}

static void test_create_errors(void **state)
{
	struct rig *rig = *state;
	struct dev_lapic *l = NULL;

	assert_int_equal(dev_lapic_create(&l, rig->chip, 0, 9, false), -EEXIST);
	assert_int_equal(dev_lapic_create(&l, rig->chip, DEV_MAX_VCPUS, 9, false), -EINVAL);
	assert_null(l);
	dev_lapic_destroy(rig->lapic[1]);
	assert_int_equal(dev_lapic_create(&rig->lapic[1], rig->chip, 1, 1, false), 0);
}

/* --- saved state ------------------------------------------------------------------------------------------------- */

static void set_page(struct kvm_lapic_state *s, unsigned offset, uint32_t v) { memcpy(&s->regs[offset], &v, 4); }
static uint32_t get_page(const struct kvm_lapic_state *s, unsigned offset)
{
	uint32_t v;

	memcpy(&v, &s->regs[offset], 4);
	return v;
}

static void test_state_round_trip(void **state)
{
	struct rig *rig = *state;
	struct kvm_lapic_state a, b;

	rig_apic_write(rig, 0, TPR, 0x20);
	rig_apic_write(rig, 0, LDR, 0x80000000);
	rig_apic_write(rig, 0, DFR, 0x0fffffff);
	rig_apic_write(rig, 0, LVTT, 0x200ef);
	rig_apic_write(rig, 0, LVTERR, 0xfe);
	rig_apic_write(rig, 0, TDCR, 0x3);
	rig_apic_write(rig, 0, TMICT, 1000000);
	rig_apic_write(rig, 0, ICR2, 0x07000000);
	raise(rig, 0x91);
	dev_lapic_ack(rig->lapic[0]);
	raise(rig, 0x92);
	raise(rig, 0xa1);
	rig_advance(rig, 12345);
	assert_int_equal(dev_lapic_get_state(rig->lapic[0], &a), 0);
	assert_int_equal(get_page(&a, PPR), 0x90);
	assert_int_not_equal(get_page(&a, TMCCT), 0);
	/* Into the other vCPU's, which differs in nothing that the page does not say. */
	assert_int_equal(dev_lapic_set_state(rig->lapic[1], &a), 0);
	assert_int_equal(dev_lapic_get_state(rig->lapic[1], &b), 0);
	assert_memory_equal(&a, &b, sizeof(a));
	assert_int_equal(dev_lapic_pending(rig->lapic[1]), DEV_PEND_INTR);
	assert_int_equal(dev_lapic_ack(rig->lapic[1]), 0xa1);
	rig_advance(rig, 16000000 - 12345 - 1);
	assert_false(dev_lapic_has_injectable(rig->lapic[1]));
	rig_apic_write(rig, 1, EOI, 0);
	rig_apic_write(rig, 1, EOI, 0);
	dev_lapic_ack(rig->lapic[1]);
	rig_advance(rig, 2 * 16);		/* the remaining count was rounded up to a tick */
	assert_int_equal(dev_lapic_ack(rig->lapic[1]), 0xef);
}

static void test_state_x2apic_ids(void **state)
{
	struct rig *rig = *state;
	struct dev_lapic *l = rig->lapic[1];
	struct kvm_lapic_state s;

	rig_enter_x2apic(rig, 1);
	rig_wrmsr(rig, 1, 0x830, 0x7700000040ull);
	dev_lapic_get_state(l, &s);
	assert_int_equal(get_page(&s, ID), 1u << 24);
	assert_int_equal(get_page(&s, ICR), 0x40);
	assert_int_equal(get_page(&s, ICR2), 0x77);
	set_page(&s, ID, 0x99000000);			/* ignored */
	set_page(&s, LDR, 0x12345678);			/* derived */
	set_page(&s, LVR, 0);				/* ours */
	assert_int_equal(dev_lapic_set_state(l, &s), 0);
	assert_int_equal(rig_rdmsr(rig, 1, 0x802), 1);
	assert_int_equal(rig_rdmsr(rig, 1, 0x80d), 2);
	assert_int_equal(rig_rdmsr(rig, 1, 0x803), 0x50014);
	assert_int_equal(rig_rdmsr(rig, 1, 0x830), 0x7700000040ull);
	/* With 32-bit ids the page has the id itself, and another one is refused. */
	assert_int_equal(dev_irqchip_set_x2apic_api(rig->chip, 16), -EINVAL);
	assert_int_equal(dev_irqchip_set_x2apic_api(rig->chip, KVM_X2APIC_API_USE_32BIT_IDS), 0);
	dev_lapic_get_state(l, &s);
	assert_int_equal(get_page(&s, ID), 1);
	assert_int_equal(dev_lapic_set_state(l, &s), 0);
	set_page(&s, ID, 2);
	set_page(&s, TPR, 0x70);
	assert_int_equal(dev_lapic_set_state(l, &s), -EINVAL);
	assert_int_equal(rig_rdmsr(rig, 1, 0x808), 0);	/* nothing changed */
}

static void test_state_lint0_opens_the_pic(void **state)
{
	struct rig *rig = *state;
	struct kvm_lapic_state s;

	rig_init_pics(rig, 1);
	rig_apic_write(rig, 0, LVT0, 0x10700);
	rig_line(rig, 3, true);
	assert_int_equal(dev_lapic_pending(rig->lapic[0]), 0);
	dev_lapic_get_state(rig->lapic[0], &s);
	set_page(&s, LVT0, 0x700);
	dev_lapic_set_state(rig->lapic[0], &s);
	assert_int_equal(dev_lapic_ack(rig->lapic[0]), 0x23);
}

#define T(name, fn)		{ name, fn, setup, teardown, NULL }
#define T_RAW(name, fn)		{ name, fn, setup_raw, teardown, NULL }
#define T_SPLIT(name, fn)	{ name, fn, setup_split, teardown, NULL }

static const struct CMUnitTest fixed[] = {
	T_RAW("power-on values are KVM's for BSP and AP", test_power_on),
	T("xAPIC writes keep only writable bits", test_xapic_write_masks),
	T("odd sizes and alignments read 0 and write nothing", test_xapic_access_sizes),
	T("x2APIC MSRs exist exactly as the manual's table says", test_x2apic_map),
	T("x2APIC reserved bits are #GP and BUSY never stays", test_x2apic_reserved_bits),
	T("the page in x2APIC mode is a hole, or nothing without the quirk", test_x2apic_page_is_a_hole),
	T("x2APIC id and LDR derive from the vCPU id", test_x2apic_ids),
	T("a LAPIC disabled by APIC_BASE gives and takes nothing", test_disabled_lapic),
	T("the page moves with APIC_BASE", test_page_moves_with_base),
	T("software disable masks LVTs and refuses vectors, not NMIs", test_software_disable),
	T("CMCI adds a seventh LVT", test_cmci_is_a_seventh_lvt),
	T_SPLIT("directed EOI exists only without our IOAPIC", test_split_has_directed_eoi),
	T("ack moves IRR to ISR and EOI clears it", test_ack_moves_irr_to_isr),
	T("higher classes nest, equal ones wait", test_priority_order),
	T("TPR and CR8 hold back their class and below", test_tpr_and_cr8),
	T("a vector waits once while it is in service", test_same_vector_merges),
	T_SPLIT("split: EOI exits for level routes of reserved pins only", test_split_eoi_exit),
	T_SPLIT("split: a guest keeps EOIs to itself only where the client lets it", test_suppressed_eoi),
	T("EOIs cannot be kept from our own IOAPIC", test_eoi_suppression_needs_split),
	T("PV EOI arms, syncs and notices what it would hide", test_pv_eoi),
	T("events are taken by mask, NMIs saturate, INIT drops SIPI", test_events),
	T("INIT keeps APIC_BASE and ID, reset does not", test_init_keeps_base_and_id),
	T("LINT0 quirk off: BSP starts masked", test_lint0_quirk),
	T("a second LAPIC for an index is refused, a freed one may come back", test_create_errors),
	T("get and set of the state page round-trip, timer included", test_state_round_trip),
	T("state in x2APIC mode: ids in both formats", test_state_x2apic_ids),
	T("a state page that opens LINT0 shows a waiting PIC", test_state_lint0_opens_the_pic),
};

int main(void)
{
	struct CMUnitTest tests[ARRAY_SIZE(fixed) + ARRAY_SIZE(base_rows)];
	size_t n = ARRAY_SIZE(fixed);

	memcpy(tests, fixed, sizeof(fixed));
	for (size_t i = 0; i < ARRAY_SIZE(base_rows); i++) {
		tests[n++] = (struct CMUnitTest){ .name = base_rows[i].name, .test_func = check_base,
						  .initial_state = (void *)(uintptr_t)&base_rows[i] };
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
