/* SPDX-License-Identifier: MIT */
/*
 * How a guest ends the machine, and the ACPI fixed hardware that says so: PM1a event and control blocks and the PM timer
 * at port 0x600, the reset register at 0xcf9, the keyboard controller's reset at 0x64; and the control block.
 *
 * Control block: 32-bit registers at guest-physical ADDR_CONTROL (ram.h), for an initrd that talks to `guestward boot`.
 * Memory-mapped because Debian's cloud kernel has no /dev/port, while busybox can write a register through /dev/mem.
 *   +0  exit status: what was last written, modulo 256, is returned when the guest powers off
 *   +4  any write powers off at once, with nothing more on the console
 *   +8  any write says that input from a pipe may come now: until then it could be echoed, or dropped by a driver's start
 *   +12 any write says that the guest is ready: --protect with lock-at=request locks its kernel now
 *   +16 a guest-physical address, 8-byte aligned: what the host sees there is printed on standard error
 * All read as 0.
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

#define CONTROL_STATUS		0u
#define CONTROL_POWER_OFF	4u
#define CONTROL_INPUT		8u
#define CONTROL_LOCK		12u
#define CONTROL_SHOW		16u
#define CONTROL_SIZE		20u

struct power {
	struct machine *machine;
	uint16_t pm1_enable, pm1_control;	/* plain stores: no guest can expect more of two CPUs racing here */
	atomic_int exit_status;			/* -1: never written */
	atomic_bool input_wanted;
};

/* Adds the registers to the machine's buses. */
int power_init(struct power *p, struct machine *m, struct err *err);

#endif
