/* SPDX-License-Identifier: MIT */
/* See test_rig.h. */
#include "dev/test_rig.h"

#include <stdlib.h>

static uint64_t rig_now(void *opaque)
{
	return ((struct rig *)opaque)->now_ns;
}

static void kick(void *opaque, unsigned vcpu)
{
	((struct rig *)opaque)->n_kicks[vcpu]++;
}

static uint64_t read_tsc(void *opaque, unsigned vcpu)
{
	struct rig *rig = opaque;

	return rig->tsc_base + rig->now_ns * 2;
}

static void eoi_exit(void *opaque, unsigned vcpu, uint8_t vector)
{
	struct rig *rig = opaque;

	rig->n_eoi_exits++;
	rig->last_eoi_vector = vector;
}

static void eoi_ack(void *opaque, uint32_t gsi)
{
	struct rig *rig = opaque;

	rig->n_acks++;
	rig->last_ack_gsi = gsi;
}

static const struct dev_irqchip_ops ops = {
	.kick = kick, .read_tsc = read_tsc, .eoi_exit = eoi_exit, .eoi_ack = eoi_ack,
};

struct rig *rig_create(enum dev_irqchip_mode mode, unsigned n_vcpus, bool raw)
{
	static const struct dev_lapic_features features = { .has_x2apic = true, .has_tsc_deadline = true, .maxphyaddr = 46 };
	struct rig *rig = calloc(1, sizeof(*rig));

	assert_non_null(rig);
	rig->now_ns = 1000000;
	rig->n_vcpus = n_vcpus;
	assert_int_equal(dev_timers_create(&rig->timers, rig_now, rig), 0);
	assert_int_equal(dev_irqchip_create(&rig->chip, mode, 24, &ops, rig, rig->timers), 0);
	for (unsigned i = 0; i < n_vcpus; i++) {
		assert_int_equal(dev_lapic_create(&rig->lapic[i], rig->chip, i, i, i == 0), 0);
		dev_lapic_set_features(rig->lapic[i], &features);
		dev_lapic_set_tsc_khz(rig->lapic[i], RIG_TSC_KHZ);
		if (!raw)
			rig_apic_write(rig, i, 0xf0, 0x1ff);
	}
	return rig;
}

void rig_destroy(struct rig *rig)
{
	uint64_t left;

	dev_irqchip_destroy(rig->chip);
	assert_false(dev_timers_next(rig->timers, &left));
	dev_timers_destroy(rig->timers);
	free(rig);
}

void rig_advance(struct rig *rig, uint64_t ns)
{
	uint64_t until = rig->now_ns + ns, deadline;

	while (dev_timers_next(rig->timers, &deadline) && deadline <= until) {
		if (deadline > rig->now_ns)
			rig->now_ns = deadline;
		dev_timers_run(rig->timers);
	}
	rig->now_ns = until;
}

uint32_t rig_apic_read(struct rig *rig, unsigned vcpu, unsigned offset)
{
	uint32_t value = 0xdeadbeef;

	assert_true(dev_mmio(rig->chip, rig->lapic[vcpu], GPA(0xfee00000 + offset), 4, &value, false));
	return value;
}

void rig_apic_write(struct rig *rig, unsigned vcpu, unsigned offset, uint32_t value)
{
	assert_true(dev_mmio(rig->chip, rig->lapic[vcpu], GPA(0xfee00000 + offset), 4, &value, true));
}

uint32_t rig_ioapic_read(struct rig *rig, unsigned reg)
{
	uint32_t value = reg;

	assert_true(dev_mmio(rig->chip, rig->lapic[0], GPA(0xfec00000), 4, &value, true));
	assert_true(dev_mmio(rig->chip, rig->lapic[0], GPA(0xfec00010), 4, &value, false));
	return value;
}

void rig_ioapic_write(struct rig *rig, unsigned reg, uint32_t value)
{
	assert_true(dev_mmio(rig->chip, rig->lapic[0], GPA(0xfec00000), 4, &reg, true));
	assert_true(dev_mmio(rig->chip, rig->lapic[0], GPA(0xfec00010), 4, &value, true));
}

void rig_ioapic_set(struct rig *rig, unsigned pin, uint64_t entry)
{
	rig_ioapic_write(rig, 0x11 + 2 * pin, (uint32_t)(entry >> 32));
	rig_ioapic_write(rig, 0x10 + 2 * pin, (uint32_t)entry);
}

uint64_t rig_ioapic_get(struct rig *rig, unsigned pin)
{
	return rig_ioapic_read(rig, 0x10 + 2 * pin) | (uint64_t)rig_ioapic_read(rig, 0x11 + 2 * pin) << 32;
}

uint8_t rig_in(struct rig *rig, uint16_t port)
{
	uint8_t value = 0;

	assert_true(dev_pio(rig->chip, port, 1, &value, false));
	return value;
}

void rig_out(struct rig *rig, uint16_t port, uint8_t value)
{
	assert_true(dev_pio(rig->chip, port, 1, &value, true));
}

uint64_t rig_rdmsr(struct rig *rig, unsigned vcpu, uint32_t msr)
{
	uint64_t value = 0;

	assert_int_equal(dev_lapic_read_msr(rig->lapic[vcpu], msr, false, &value), 0);
	return value;
}

void rig_wrmsr(struct rig *rig, unsigned vcpu, uint32_t msr, uint64_t value)
{
	assert_int_equal(dev_lapic_write_msr(rig->lapic[vcpu], msr, false, value), 0);
}

void rig_enter_x2apic(struct rig *rig, unsigned vcpu)
{
	rig_wrmsr(rig, vcpu, 0x1b, dev_lapic_base(rig->lapic[vcpu]) | DEV_APIC_BASE_X2APIC);
}

int rig_line(struct rig *rig, uint32_t gsi, bool level)
{
	return dev_irq_set_line(rig->chip, DEV_IRQ_USER, gsi, level, true);
}

void rig_init_pics(struct rig *rig, uint8_t icw4)
{
	static const struct { uint16_t port; uint8_t icw2, icw3; } pics[] = { { 0x20, 0x20, 4 }, { 0xa0, 0x28, 2 } };

	for (unsigned i = 0; i < ARRAY_SIZE(pics); i++) {
		rig_out(rig, pics[i].port, 0x11);
		rig_out(rig, pics[i].port + 1, pics[i].icw2);
		rig_out(rig, pics[i].port + 1, pics[i].icw3);
		rig_out(rig, pics[i].port + 1, icw4);
		rig_out(rig, pics[i].port + 1, 0);
	}
}
