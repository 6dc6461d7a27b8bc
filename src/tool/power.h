/* SPDX-License-Identifier: MIT */
/*
 * How a guest ends the machine, and the ACPI fixed hardware that says so: PM1a event and control blocks and the PM timer
 * at port 0x600, the reset register at 0xcf9, the keyboard controller's reset at 0x64, and the exit-status register.
 *
 * Exit status: a 32-bit register at guest-physical ADDR_EXIT_STATUS (ram.h). What was last written there, modulo 256, is
 * the status `guestward boot` returns when the guest then powers off. Memory-mapped because Debian's cloud kernel has no
 * /dev/port, while busybox can write a register through /dev/mem: `devmem 0xd0100000 32 STATUS`.
 */
#ifndef TOOL_POWER_H
#define TOOL_POWER_H

#include "machine.h"

#define PM1_EVENT_PORT		0x600u	/* status u16, enable u16 */
#define PM1_CONTROL_PORT	0x604u	/* u16 */
#define PM_TIMER_PORT		0x608u	/* u32 */
#define PM_BLOCK_SIZE		0x0cu
#define RESET_PORT		0xcf9u
#define RESET_VALUE		0x06u
#define SLEEP_TYPE_S5		5u
#define SCI_IRQ			9u

struct power {
	struct machine *machine;
	uint16_t pm1_enable, pm1_control;	/* plain stores: no guest can expect more of two CPUs racing here */
	atomic_int exit_status;			/* -1: never written */
};

/* Adds the registers to the machine's buses. */
int power_init(struct power *p, struct machine *m, struct err *err);

#endif
