/* SPDX-License-Identifier: MIT */
/*
 * For the unit tests of dev/: a VM's interrupt controllers with a clock that moves by hand and ops that write down what they
 * were asked. No threads, no sleeping.
 */
#ifndef GW_DEV_TEST_RIG_H
#define GW_DEV_TEST_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dev/irqchip.h"
#include "dev/lapic.h"

#define RIG_MAX_VCPUS	8
#define RIG_TSC_KHZ	2000000u	/* two ticks per nanosecond */

struct rig {
	uint64_t now_ns;
	uint64_t tsc_base;
	unsigned n_kicks[RIG_MAX_VCPUS];
	unsigned n_eoi_exits;
	uint8_t last_eoi_vector;
	unsigned n_acks;
	uint32_t last_ack_gsi;
	unsigned n_vcpus;
	struct dev_timers *timers;
	struct dev_irqchip *chip;
	struct dev_lapic *lapic[RIG_MAX_VCPUS];
};

/* vCPU i has APIC id i and full features (x2APIC, TSC deadline); LAPICs are software-enabled unless @raw. */
struct rig *rig_create(enum dev_irqchip_mode mode, unsigned n_vcpus, bool raw);
void rig_destroy(struct rig *rig);

/* Move time, firing every timer at its own moment. */
void rig_advance(struct rig *rig, uint64_t ns);

/* xAPIC registers by page offset; IOAPIC registers by index; ports by byte. */
uint32_t rig_apic_read(struct rig *rig, unsigned vcpu, unsigned offset);
void rig_apic_write(struct rig *rig, unsigned vcpu, unsigned offset, uint32_t value);
uint32_t rig_ioapic_read(struct rig *rig, unsigned reg);
void rig_ioapic_write(struct rig *rig, unsigned reg, uint32_t value);
void rig_ioapic_set(struct rig *rig, unsigned pin, uint64_t entry);
uint64_t rig_ioapic_get(struct rig *rig, unsigned pin);
uint8_t rig_in(struct rig *rig, uint16_t port);
void rig_out(struct rig *rig, uint16_t port, uint8_t value);

uint64_t rig_rdmsr(struct rig *rig, unsigned vcpu, uint32_t msr);	/* asserts success */
void rig_wrmsr(struct rig *rig, unsigned vcpu, uint32_t msr, uint64_t value);
void rig_enter_x2apic(struct rig *rig, unsigned vcpu);

/* KVM_IRQ_LINE_STATUS from user space. */
int rig_line(struct rig *rig, uint32_t gsi, bool level);

/* Program both PICs as PCs do: bases 0x20 and 0x28, nothing masked. @icw4: 1 normal, 3 automatic EOI. */
void rig_init_pics(struct rig *rig, uint8_t icw4);

#endif
