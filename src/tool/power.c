/* SPDX-License-Identifier: MIT */
/* See power.h. Register layouts: ACPI 6.4, "ACPI Hardware Specification", fixed hardware registers. */
#include "power.h"

#include <stdio.h>
#include <time.h>

#include "bytes.h"
#include "heki.h"

#define SLEEP_ENABLE		(1u << 13)
#define SLEEP_TYPE(v)		((v) >> 10 & 7u)
#define SCI_ENABLED		1u
#define PM_TIMER_HZ		3579545ull
#define I8042_RESET		0xfeu

/* The 32-bit counter of the power-management timer. */
static uint32_t pm_timer(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint32_t)((uint64_t)t.tv_sec * PM_TIMER_HZ + (uint64_t)t.tv_nsec * PM_TIMER_HZ / 1000000000ull);
}

static void pm_read(void *device, uint64_t offset, uint8_t *data, unsigned len)
{
	struct power *p = device;
	uint8_t block[PM_BLOCK_SIZE] = { 0 };
	unsigned i;

	put16(block + 2, p->pm1_enable);
	/* SCI_EN: always in ACPI mode, so there is nothing to switch (FADT SMI_CMD is 0). */
	put16(block + 4, p->pm1_control | SCI_ENABLED);
	put32(block + 8, pm_timer());
	for (i = 0; i < len && offset + i < PM_BLOCK_SIZE; i++)
		data[i] = block[offset + i];
}

static void pm_write(void *device, uint64_t offset, const uint8_t *data, unsigned len)
{
	struct power *p = device;
	uint16_t v;

	if (len < 2)
		return;
	v = get16(data);
	if (offset == 0 && len == 4)
		p->pm1_enable = get16(data + 2);
	if (offset == 2)
		p->pm1_enable = v;
	if (offset != PM1_CONTROL_PORT - PM1_EVENT_PORT)
		return;
	p->pm1_control = v & (uint16_t)~SLEEP_ENABLE;
	if ((v & SLEEP_ENABLE) && SLEEP_TYPE(v) == SLEEP_TYPE_S5)
		machine_stop(p->machine, STOP_POWEROFF, 0, "the guest powered off");
}

static const struct bus_ops pm_ops = { "acpi-pm", pm_read, pm_write };

static void reset_read(void *device, uint64_t offset, uint8_t *data, unsigned len)
{
	(void)device;
	(void)offset;
	(void)len;
	data[0] = 0;
}

static void reset_write(void *device, uint64_t offset, const uint8_t *data, unsigned len)
{
	struct power *p = device;

	(void)offset;
	(void)len;
	/* Bit 2 is the trigger; bit 1 (hard or soft) makes no difference here. */
	if (data[0] & 4)
		machine_stop(p->machine, STOP_RESET, 0, "the guest reset the machine");
}

static const struct bus_ops reset_ops = { "reset", reset_read, reset_write };

/* Status 0: no keyboard, nothing to read, ready for a command. */
static void i8042_read(void *device, uint64_t offset, uint8_t *data, unsigned len)
{
	reset_read(device, offset, data, len);
}

static void i8042_write(void *device, uint64_t offset, const uint8_t *data, unsigned len)
{
	struct power *p = device;

	(void)offset;
	(void)len;
	if (data[0] == I8042_RESET)
		machine_stop(p->machine, STOP_RESET, 0, "the guest reset the machine");
}

static const struct bus_ops i8042_ops = { "i8042", i8042_read, i8042_write };

static void show(struct power *p, uint64_t gpa)
{
	const uint8_t *at = ram_at(&p->machine->ram, gpa & ~7ull, 8);

	if (at)
		fprintf(stderr, "guestward: memory at %llx: %016llx\r\n", (unsigned long long)(gpa & ~7ull), (unsigned long long)get64(at));
}

static void control_read(void *device, uint64_t offset, uint8_t *data, unsigned len)
{
	(void)device;
	(void)offset;
	while (len--)
		data[len] = 0;
}

static void control_write(void *device, uint64_t offset, const uint8_t *data, unsigned len)
{
	struct power *p = device;

	if (offset == CONTROL_STATUS)
		atomic_store(&p->exit_status, data[0]);
	else if (offset == CONTROL_POWER_OFF)
		machine_stop(p->machine, STOP_POWEROFF, 0, "the guest powered off");
	else if (offset == CONTROL_INPUT)
		atomic_store(&p->input_wanted, true);
	else if (offset == CONTROL_SHOW && len == 4)
		show(p, get32(data));
	else if (offset == CONTROL_LOCK)
		heki_lock_now(p->machine);
}

static const struct bus_ops control_ops = { "control", control_read, control_write };

int power_init(struct power *p, struct machine *m, struct err *err)
{
	*p = (struct power){ .machine = m };
	atomic_store(&p->exit_status, -1);
	if (bus_add(&m->ports, PM1_EVENT_PORT, PM_BLOCK_SIZE, &pm_ops, p) < 0 ||
	    bus_add(&m->ports, RESET_PORT, 1, &reset_ops, p) < 0 ||
	    bus_add(&m->ports, 0x64, 1, &i8042_ops, p) < 0 ||
	    bus_add(&m->memory, ADDR_CONTROL, CONTROL_SIZE, &control_ops, p) < 0)
		return err_set(err, "no room for the power registers");
	return 0;
}
