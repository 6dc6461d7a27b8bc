/* SPDX-License-Identifier: MIT */
/*
 * See acpi.h. Layouts: ACPI 6.4, "ACPI Software Programming Model". The machine is a full ACPI PC, not hardware-reduced:
 * in that mode Linux gives up the PIC, the PIT and the legacy way to calibrate its clocks, and we have all of them.
 */
#include "acpi.h"

#include <stdio.h>
#include <string.h>

#include "aml.h"
#include "bytes.h"
#include "power.h"
#include "serial.h"

#define HEADER_SIZE	36u
#define FADT_SIZE	276u
#define FACS_SIZE	64u
#define RSDP_SIZE	36u
#define VIRTIO_SIZE	0x200u

/* Checksum: all bytes of the range sum to 0. */
static void set_checksum(uint8_t *data, size_t size, uint8_t *where)
{
	uint8_t sum = 0;
	size_t i;

	*where = 0;
	for (i = 0; i < size; i++)
		sum = (uint8_t)(sum + data[i]);
	*where = (uint8_t)-sum;
}

static void set_header(uint8_t *table, const char *signature, size_t size, uint8_t revision)
{
	memcpy(table, signature, 4);
	put32(table + 4, (uint32_t)size);
	table[8] = revision;
	memcpy(table + 10, "GUESTW", 6);
	memcpy(table + 16, "GWMACHIN", 8);
	put32(table + 24, 1);
	memcpy(table + 28, "GWRD", 4);
	put32(table + 32, 1);
	set_checksum(table, size, table + 9);
}

static void dsdt_serial(struct aml *a)
{
	size_t device = aml_begin_device(a, "COM1"), resources;

	aml_name(a, "_HID");
	aml_eisaid(a, "PNP0501");
	aml_name(a, "_UID");
	aml_integer(a, 1);
	aml_name(a, "_CRS");
	resources = aml_begin_resources(a);
	aml_io(a, SERIAL_COM1_PORT, 8);
	aml_irq(a, SERIAL_COM1_IRQ);
	aml_end_resources(a, resources);
	aml_end(a, device);
}

static void dsdt_virtio(struct aml *a, unsigned i)
{
	char name[5];
	size_t device, resources;

	snprintf(name, sizeof(name), "VD%02X", i & 0xff);
	device = aml_begin_device(a, name);
	aml_name(a, "_HID");
	aml_string(a, "LNRO0005");	/* the id Linux's virtio-mmio driver answers to */
	aml_name(a, "_UID");
	aml_integer(a, i);
	aml_name(a, "_CCA");		/* cache coherent */
	aml_integer(a, 1);
	aml_name(a, "_CRS");
	resources = aml_begin_resources(a);
	aml_memory(a, (uint32_t)(ADDR_VIRTIO + i * VIRTIO_STRIDE), VIRTIO_SIZE);
	aml_interrupt(a, virtio_gsi(i));
	aml_end_resources(a, resources);
	aml_end(a, device);
}

static void dsdt_s5(struct aml *a)
{
	size_t package;

	aml_name(a, "\\_S5_");
	package = aml_begin_package(a, 4);
	aml_integer(a, SLEEP_TYPE_S5);
	aml_integer(a, SLEEP_TYPE_S5);
	aml_integer(a, 0);
	aml_integer(a, 0);
	aml_end(a, package);
}

int acpi_dsdt(struct blob *out, const struct acpi_machine *machine, struct err *err)
{
	static const uint8_t empty[HEADER_SIZE];
	struct aml a = { 0 };
	size_t scope;
	unsigned i;

	*out = (struct blob){ 0 };
	a.failed = blob_append(&a.out, empty, sizeof(empty)) < 0;
	dsdt_s5(&a);
	scope = aml_begin_scope(&a, "\\_SB_");
	dsdt_serial(&a);
	for (i = 0; i < machine->n_virtio; i++)
		dsdt_virtio(&a, i);
	aml_end(&a, scope);
	if (a.failed) {
		blob_free(&a.out);
		return err_set(err, "out of memory for ACPI tables");
	}
	set_header(a.out.data, "DSDT", a.out.size, 2);
	*out = a.out;
	return 0;
}

/* Generic address structure: an I/O port. */
static void put_port(uint8_t *gas, unsigned port, unsigned bits)
{
	gas[0] = 1;
	gas[1] = (uint8_t)bits;
	gas[3] = bits == 8 ? 1 : bits == 16 ? 2 : 3;
	put64(gas + 4, port);
}

enum fadt_flags {
	FADT_WBINVD = 1 << 0,
	FADT_PROC_C1 = 1 << 2,
	FADT_NO_POWER_BUTTON = 1 << 4,
	FADT_NO_SLEEP_BUTTON = 1 << 5,
	FADT_NO_RTC_WAKE = 1 << 6,
	FADT_TIMER_32 = 1 << 8,
	FADT_RESET = 1 << 10,
	FADT_HEADLESS = 1 << 12,
};

enum iapc_boot_flags {
	IAPC_LEGACY_DEVICES = 1 << 0,
	IAPC_NO_VGA = 1 << 2,
	IAPC_NO_MSI = 1 << 3,
};

static void write_fadt(uint8_t *t, uint64_t facs, uint64_t dsdt)
{
	put32(t + 36, (uint32_t)facs);
	put32(t + 40, (uint32_t)dsdt);
	put16(t + 46, SCI_IRQ);
	put32(t + 56, PM1_EVENT_PORT);
	put32(t + 64, PM1_CONTROL_PORT);
	put32(t + 76, PM_TIMER_PORT);
	t[88] = 4;
	t[89] = 2;
	t[91] = 4;
	/* Latencies above these limits say: no C2, no C3. */
	put16(t + 96, 101);
	put16(t + 98, 1001);
	t[108] = 0x32;	/* century byte of the CMOS clock */
	put16(t + 109, IAPC_LEGACY_DEVICES | IAPC_NO_VGA | IAPC_NO_MSI);
	put32(t + 112, FADT_WBINVD | FADT_PROC_C1 | FADT_NO_POWER_BUTTON | FADT_NO_SLEEP_BUTTON | FADT_NO_RTC_WAKE |
		       FADT_TIMER_32 | FADT_RESET | FADT_HEADLESS);
	put_port(t + 116, RESET_PORT, 8);
	t[128] = RESET_VALUE;
	t[131] = 4;	/* minor revision: 6.4 */
	/* Only one of each pair may be set; the 32-bit FACS address is. */
	put64(t + 140, dsdt);
	put_port(t + 148, PM1_EVENT_PORT, 32);
	put_port(t + 172, PM1_CONTROL_PORT, 16);
	put_port(t + 208, PM_TIMER_PORT, 32);
	memcpy(t + 268, "GUESTWRD", 8);
	set_header(t, "FACP", FADT_SIZE, 6);
}

static void write_facs(uint8_t *t)
{
	memcpy(t, "FACS", 4);
	put32(t + 4, FACS_SIZE);
	t[32] = 2;
}

static void write_madt(uint8_t *t, unsigned cpus)
{
	uint8_t *e = t + 44;
	unsigned i;

	put32(t + 36, (uint32_t)ADDR_LAPIC);
	put32(t + 40, 1);	/* there is a PIC as well */
	for (i = 0; i < cpus; i++, e += 8) {
		memcpy(e, (const uint8_t[4]){ 0, 8, (uint8_t)i, (uint8_t)i }, 4);
		put32(e + 4, 1);	/* enabled */
	}
	memcpy(e, (const uint8_t[4]){ 1, 12, (uint8_t)cpus, 0 }, 4);
	put32(e + 4, (uint32_t)ADDR_IOAPIC);
	put32(e + 8, 0);
	e += 12;
	/* IRQ 0 (PIT) is on pin 2; the SCI is level-triggered, active high. */
	memcpy(e, (const uint8_t[4]){ 2, 10, 0, 0 }, 4);
	put32(e + 4, 2);
	put16(e + 8, 0);
	e += 10;
	memcpy(e, (const uint8_t[4]){ 2, 10, 0, SCI_IRQ }, 4);
	put32(e + 4, SCI_IRQ);
	put16(e + 8, 0xd);
	e += 10;
	memcpy(e, (const uint8_t[6]){ 4, 6, 0xff, 0, 0, 1 }, 6);	/* NMI on LINT1 of every CPU */
	e += 6;
	set_header(t, "APIC", (size_t)(e - t), 5);
}

static void write_xsdt(uint8_t *t, uint64_t fadt, uint64_t madt)
{
	put64(t + 36, fadt);
	put64(t + 44, madt);
	set_header(t, "XSDT", HEADER_SIZE + 16, 1);
}

static void write_rsdp(uint8_t *t, uint64_t xsdt)
{
	memcpy(t, "RSD PTR ", 8);
	memcpy(t + 9, "GUESTW", 6);
	t[15] = 2;
	put32(t + 20, RSDP_SIZE);
	put64(t + 24, xsdt);
	set_checksum(t, 20, t + 8);
	set_checksum(t, RSDP_SIZE, t + 32);
}

int acpi_write(const struct ram *ram, const struct acpi_machine *machine, struct err *err)
{
	/* Places inside the area; the MADT of 254 CPUs ends below the DSDT's. */
	enum { AT_RSDP = 0, AT_XSDT = 0x40, AT_FACS = 0x100, AT_FADT = 0x200, AT_MADT = 0x400, AT_DSDT = 0x1000 };
	uint8_t *base = ram_at(ram, ADDR_ACPI, ADDR_ACPI_END - ADDR_ACPI);
	struct blob dsdt;

	if (!base || machine->cpus > 254)
		return err_set(err, "no room for ACPI tables");
	if (acpi_dsdt(&dsdt, machine, err) < 0)
		return -1;
	if (dsdt.size > ADDR_ACPI_END - ADDR_ACPI - AT_DSDT) {
		blob_free(&dsdt);
		return err_set(err, "no room for ACPI tables");
	}
	memset(base, 0, ADDR_ACPI_END - ADDR_ACPI);
	memcpy(base + AT_DSDT, dsdt.data, dsdt.size);
	blob_free(&dsdt);
	write_facs(base + AT_FACS);
	write_fadt(base + AT_FADT, ADDR_ACPI + AT_FACS, ADDR_ACPI + AT_DSDT);
	write_madt(base + AT_MADT, machine->cpus);
	write_xsdt(base + AT_XSDT, ADDR_ACPI + AT_FADT, ADDR_ACPI + AT_MADT);
	write_rsdp(base + AT_RSDP, ADDR_ACPI + AT_XSDT);
	return 0;
}
