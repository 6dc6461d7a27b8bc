/* SPDX-License-Identifier: MIT */
/* AML against golden bytes from the specification's grammar, checksums and links of the tables, and iasl where it is. */
#include "test_rows.h"

#include <sys/wait.h>
#include <unistd.h>

#include "acpi.h"
#include "aml.h"
#include "bytes.h"

static void emit_integers(struct aml *a)
{
	aml_integer(a, 0);
	aml_integer(a, 1);
	aml_integer(a, 2);
	aml_integer(a, 0x100);
	aml_integer(a, 0x10000);
	aml_integer(a, 1ull << 32);
}

static void emit_names(struct aml *a)
{
	aml_name(a, "\\_S5_");
	aml_name(a, "COM1");
	aml_name(a, "\\_SB_.COM1");
	aml_name(a, "_SB_.AAAA.BBBB");
}

static void emit_eisaid(struct aml *a)
{
	aml_eisaid(a, "PNP0501");
}

static void emit_string(struct aml *a)
{
	aml_string(a, "LNRO0005");
}

static void emit_package(struct aml *a)
{
	size_t mark = aml_begin_package(a, 2);

	aml_integer(a, 5);
	aml_integer(a, 0);
	aml_end(a, mark);
}

static void emit_nested(struct aml *a)
{
	size_t scope = aml_begin_scope(a, "\\_SB_"), device = aml_begin_device(a, "AAAA");

	aml_name(a, "_UID");
	aml_integer(a, 1);
	aml_end(a, device);
	aml_end(a, scope);
}

static void emit_resources(struct aml *a)
{
	size_t mark = aml_begin_resources(a);

	aml_memory(a, 0xd0000000, 0x200);
	aml_interrupt(a, 16);
	aml_end_resources(a, mark);
}

static void emit_io(struct aml *a)
{
	size_t mark = aml_begin_resources(a);

	aml_io(a, 0x3f8, 8);
	aml_irq(a, 4);
	aml_end_resources(a, mark);
}

#define BYTES(...) (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ })

static const struct golden {
	const char *name;
	void (*emit)(struct aml *aml);
	const uint8_t *bytes;
	size_t size;
} goldens[] = {
	{ "integers take the shortest form", emit_integers,
	  BYTES(0x00, 0x01, 0x0a, 2, 0x0b, 0, 1, 0x0c, 0, 0, 1, 0, 0x0e, 0, 0, 0, 0, 1, 0, 0, 0) },
	{ "names have their prefixes", emit_names,
	  BYTES(0x08, '\\', '_', 'S', '5', '_', 0x08, 'C', 'O', 'M', '1',
		0x08, '\\', 0x2e, '_', 'S', 'B', '_', 'C', 'O', 'M', '1',
		0x08, 0x2f, 3, '_', 'S', 'B', '_', 'A', 'A', 'A', 'A', 'B', 'B', 'B', 'B') },
	{ "an EISA id is packed big-endian", emit_eisaid, BYTES(0x0c, 0x41, 0xd0, 0x05, 0x01) },
	{ "a string ends with 0", emit_string, BYTES(0x0d, 'L', 'N', 'R', 'O', '0', '0', '0', '5', 0) },
	{ "a package counts its own length", emit_package, BYTES(0x12, 5, 2, 0x0a, 5, 0) },
	{ "devices nest in scopes", emit_nested,
	  BYTES(0x10, 19, '\\', '_', 'S', 'B', '_', 0x5b, 0x82, 11, 'A', 'A', 'A', 'A', 0x08, '_', 'U', 'I', 'D', 0x01) },
	{ "memory and interrupt descriptors", emit_resources,
	  BYTES(0x11, 0x1b, 0x0b, 0x17, 0, 0x86, 9, 0, 1, 0, 0, 0, 0xd0, 0, 2, 0, 0, 0x89, 6, 0, 1, 1, 16, 0, 0, 0, 0x79, 0) },
	{ "port and IRQ descriptors", emit_io,
	  BYTES(0x11, 0x11, 0x0b, 0x0d, 0, 0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8, 0x22, 0x10, 0, 0x79, 0) },
};

static void matches_golden(void **state)
{
	const struct golden *row = *state;
	struct aml a = { .failed = false };

	row->emit(&a);
	assert_false(a.failed);
	assert_int_equal(a.out.size, row->size);
	assert_memory_equal(a.out.data, row->bytes, row->size);
	blob_free(&a.out);
}

/* Package lengths around the limits of one, two and three bytes, decoded by the rule of the specification. */
static void package_lengths(void **state)
{
	static const size_t bodies[] = { 0, 61, 62, 63, 4091, 4092, 4093, 70000 };
	size_t i, j;

	(void)state;
	for (i = 0; i < N_OF(bodies); i++) {
		struct aml a = { .failed = false };
		size_t mark = aml_begin_package(&a, 0), total;
		const uint8_t *p;

		for (j = 0; j < bodies[i]; j++)
			aml_integer(&a, 0);
		aml_end(&a, mark);
		p = a.out.data + 1;
		total = p[0] & 0x3f;
		if (p[0] >> 6)
			total = (p[0] & 0x0f) | (size_t)p[1] << 4 | (p[0] >> 6 > 1 ? (size_t)p[2] << 12 : 0);
		assert_int_equal(total, a.out.size - 1);
		blob_free(&a.out);
	}
}

static void bad_names_fail(void **state)
{
	struct aml a = { .failed = false };

	(void)state;
	aml_name(&a, "COM");
	assert_true(a.failed);
	blob_free(&a.out);
}

static uint8_t sum(const uint8_t *p, size_t n)
{
	uint8_t s = 0;

	while (n--)
		s = (uint8_t)(s + *p++);
	return s;
}

static void tables_link_up(void **state)
{
	struct acpi_machine machine = { .cpus = 254, .n_virtio = 8 };
	const uint8_t *rsdp, *xsdt, *t;
	unsigned i, cpus = 0;
	struct ram ram;
	struct err err;

	(void)state;
	assert_int_equal(ram_create(&ram, 16 << 20, &err), 0);
	assert_int_equal(acpi_write(&ram, &machine, &err), 0);
	rsdp = ram_at(&ram, ADDR_ACPI, 36);
	assert_memory_equal(rsdp, "RSD PTR ", 8);
	assert_int_equal(sum(rsdp, 20), 0);
	assert_int_equal(sum(rsdp, 36), 0);
	xsdt = ram_at(&ram, get64(rsdp + 24), 36);
	assert_memory_equal(xsdt, "XSDT", 4);
	assert_int_equal(sum(xsdt, get32(xsdt + 4)), 0);
	assert_int_equal(get32(xsdt + 4), 36 + 2 * 8);
	for (i = 0; i < 2; i++) {
		t = ram_at(&ram, get64(xsdt + 36 + 8 * i), 36);
		assert_non_null(t);
		assert_int_equal(sum(t, get32(t + 4)), 0);
	}
	t = ram_at(&ram, get64(xsdt + 36), 276);
	assert_memory_equal(t, "FACP", 4);
	assert_memory_equal(ram_at(&ram, get32(t + 36), 64), "FACS", 4);
	assert_int_equal(get32(t + 36) % 64, 0);
	t = ram_at(&ram, get64(t + 140), 36);
	assert_memory_equal(t, "DSDT", 4);
	assert_int_equal(sum(t, get32(t + 4)), 0);
	t = ram_at(&ram, get64(xsdt + 44), 44);
	assert_memory_equal(t, "APIC", 4);
	for (i = 44; i < get32(t + 4); i += t[i + 1]) {
		assert_true(t[i + 1] >= 6);
		cpus += t[i] == 0;
	}
	assert_int_equal(i, get32(t + 4));
	assert_int_equal(cpus, 254);
	ram_destroy(&ram);
	machine.cpus = 255;
	assert_int_equal(ram_create(&ram, 16 << 20, &err), 0);
	assert_int_equal(acpi_write(&ram, &machine, &err), -1);
	ram_destroy(&ram);
}

static void iasl_agrees(void **state)
{
	struct acpi_machine machine = { .cpus = 2, .n_virtio = 8 };
	char directory[] = "/tmp/guestward-acpi-XXXXXX", command[512];
	struct blob dsdt;
	struct err err;
	FILE *f;
	int ret;

	(void)state;
	if (system("command -v iasl >/dev/null") != 0)
		skip();
	assert_int_equal(acpi_dsdt(&dsdt, &machine, &err), 0);
	assert_non_null(mkdtemp(directory));
	snprintf(command, sizeof(command), "%s/dsdt.dat", directory);
	f = fopen(command, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(dsdt.data, 1, dsdt.size, f), dsdt.size);
	fclose(f);
	blob_free(&dsdt);
	/* Disassembled, compiled again without a warning, and every device still there. */
	snprintf(command, sizeof(command),
		 "cd %s && iasl -d dsdt.dat >log 2>&1 && iasl -we dsdt.dsl >>log 2>&1 && grep -q 'Device (COM1)' dsdt.dsl && "
		 "[ $(grep -c 'Device (VD0' dsdt.dsl) = 8 ] && ! grep -qi 'invalid checksum' log dsdt.dsl", directory);
	ret = system(command);
	snprintf(command, sizeof(command), "rm -rf %s", directory);
	assert_int_equal(system(command), 0);
	assert_int_equal(ret, 0);
}

int main(void)
{
	static struct tests tests;
	size_t i;

	for (i = 0; i < N_OF(goldens); i++)
		tests_add(&tests, goldens[i].name, matches_golden, &goldens[i]);
	tests_add(&tests, "package lengths of one, two and three bytes", package_lengths, NULL);
	tests_add(&tests, "a name of three letters is a mistake", bad_names_fail, NULL);
	tests_add(&tests, "tables point at each other and sum to zero", tables_link_up, NULL);
	tests_add(&tests, "iasl takes the DSDT apart and puts it together", iasl_agrees, NULL);
	return tests_run("acpi", &tests);
}
