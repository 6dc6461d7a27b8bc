/* SPDX-License-Identifier: MIT */
/*
 * The machine's description of itself: RSDP, XSDT, FADT (with FACS), MADT and a DSDT that names the serial port and the
 * virtio devices. Fixed hardware is power.h's.
 */
#ifndef TOOL_ACPI_H
#define TOOL_ACPI_H

#include "blob.h"
#include "ram.h"

struct acpi_machine {
	unsigned cpus;		/* at most 254: ids in the MADT are bytes */
	unsigned n_virtio;	/* at ADDR_VIRTIO + i * VIRTIO_STRIDE, line virtio_gsi(i) */
};

#define VIRTIO_GSI_FIRST 16u

static inline unsigned virtio_gsi(unsigned i)
{
	return VIRTIO_GSI_FIRST + i;
}

/* Writes all tables at ADDR_ACPI; the RSDP is the first. */
int acpi_write(const struct ram *ram, const struct acpi_machine *machine, struct err *err);

/* The DSDT alone, header included, for tests. */
int acpi_dsdt(struct blob *out, const struct acpi_machine *machine, struct err *err);

#endif
