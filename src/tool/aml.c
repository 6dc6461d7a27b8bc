/* SPDX-License-Identifier: MIT */
/* See aml.h. Encodings: ACPI 6.4, "ACPI Machine Language Specification" and "Resource Data Types for ACPI". */
#include "aml.h"

#include <string.h>

#include "bytes.h"

#define PACKAGE_MAX 0xfffffu	/* three bytes of PkgLength */

static void bytes(struct aml *aml, const void *data, size_t size)
{
	if (blob_append(&aml->out, data, size) < 0)
		aml->failed = true;
}

static void byte(struct aml *aml, uint8_t value)
{
	bytes(aml, &value, 1);
}

static void word(struct aml *aml, uint16_t value)
{
	uint8_t b[2];

	put16(b, value);
	bytes(aml, b, sizeof(b));
}

static void dword(struct aml *aml, uint32_t value)
{
	uint8_t b[4];

	put32(b, value);
	bytes(aml, b, sizeof(b));
}

/* NameString: root, then nothing, one segment, two (0x2e), or a counted list (0x2f). */
static void name_string(struct aml *aml, const char *name)
{
	size_t segments;

	if (*name == '\\') {
		byte(aml, '\\');
		name++;
	}
	segments = (strlen(name) + 1) / 5;
	if (strlen(name) + 1 != segments * 5 && *name)
		aml->failed = true;
	if (!*name) {
		byte(aml, 0);
		return;
	}
	if (segments == 2)
		byte(aml, 0x2e);
	if (segments > 2) {
		byte(aml, 0x2f);
		byte(aml, (uint8_t)segments);
	}
	for (; segments; segments--, name += 5)
		bytes(aml, name, 4);
}

size_t aml_begin_scope(struct aml *aml, const char *name)
{
	size_t mark;

	byte(aml, 0x10);
	mark = aml->out.size;
	name_string(aml, name);
	return mark;
}

size_t aml_begin_device(struct aml *aml, const char *name)
{
	size_t mark;

	byte(aml, 0x5b);
	byte(aml, 0x82);
	mark = aml->out.size;
	name_string(aml, name);
	return mark;
}

size_t aml_begin_package(struct aml *aml, unsigned elements)
{
	size_t mark;

	byte(aml, 0x12);
	mark = aml->out.size;
	byte(aml, (uint8_t)elements);
	return mark;
}

/* Puts bytes into the middle: what follows moves up. */
static void insert(struct aml *aml, size_t at, const uint8_t *data, size_t size)
{
	size_t tail = aml->out.size - at;

	bytes(aml, data, size);
	if (aml->failed)
		return;
	memmove(aml->out.data + at + size, aml->out.data + at, tail);
	memcpy(aml->out.data + at, data, size);
}

/* PkgLength counts its own bytes, so how many it needs depends on the sum. */
void aml_end(struct aml *aml, size_t mark)
{
	size_t body = aml->out.size - mark, n = body + 1 <= 0x3f ? 1 : body + 2 <= 0xfff ? 2 : 3, total = body + n;
	uint8_t encoded[3];

	if (aml->failed || total > PACKAGE_MAX) {
		aml->failed = true;
		return;
	}
	if (n == 1) {
		encoded[0] = (uint8_t)total;
	} else {
		encoded[0] = (uint8_t)((n - 1) << 6 | (total & 0x0f));
		encoded[1] = (uint8_t)(total >> 4);
		encoded[2] = (uint8_t)(total >> 12);
	}
	insert(aml, mark, encoded, n);
}

void aml_name(struct aml *aml, const char *name)
{
	byte(aml, 0x08);
	name_string(aml, name);
}

void aml_integer(struct aml *aml, uint64_t value)
{
	uint8_t b[9];

	put64(b + 1, value);
	if (value <= 1) {
		byte(aml, (uint8_t)value);
	} else if (value <= 0xff) {
		b[0] = 0x0a;
		bytes(aml, b, 2);
	} else if (value <= 0xffff) {
		b[0] = 0x0b;
		bytes(aml, b, 3);
	} else if (value <= 0xffffffff) {
		b[0] = 0x0c;
		bytes(aml, b, 5);
	} else {
		b[0] = 0x0e;
		bytes(aml, b, 9);
	}
}

void aml_string(struct aml *aml, const char *text)
{
	byte(aml, 0x0d);
	bytes(aml, text, strlen(text) + 1);
}

/* Three letters in 5 bits each, four hexadecimal digits; stored big-endian. */
void aml_eisaid(struct aml *aml, const char *id)
{
	uint32_t v = 0;
	unsigned i;

	if (strlen(id) != 7) {
		aml->failed = true;
		return;
	}
	for (i = 0; i < 3; i++)
		v = v << 5 | (uint32_t)(id[i] - '@');
	for (; i < 7; i++)
		v = v << 4 | (uint32_t)(id[i] <= '9' ? id[i] - '0' : id[i] - 'A' + 10);
	byte(aml, 0x0c);
	dword(aml, __builtin_bswap32(v));
}

/* Buffer: PkgLength, size as a TermArg, bytes. The size is known at the end: it and its prefix are inserted then. */
size_t aml_begin_resources(struct aml *aml)
{
	byte(aml, 0x11);
	return aml->out.size;
}

void aml_end_resources(struct aml *aml, size_t mark)
{
	uint8_t size[3] = { 0x0b };

	byte(aml, 0x79);
	byte(aml, 0);	/* checksum: 0 means do not check */
	put16(size + 1, (uint16_t)(aml->out.size - mark));
	insert(aml, mark, size, sizeof(size));
	aml_end(aml, mark);
}

void aml_io(struct aml *aml, uint16_t port, uint8_t length)
{
	byte(aml, 0x47);
	byte(aml, 1);	/* decodes 16 bits */
	word(aml, port);
	word(aml, port);
	byte(aml, 1);	/* alignment */
	byte(aml, length);
}

void aml_irq(struct aml *aml, unsigned irq)
{
	byte(aml, 0x22);
	word(aml, (uint16_t)(1u << irq));
}

void aml_memory(struct aml *aml, uint32_t start, uint32_t length)
{
	byte(aml, 0x86);
	word(aml, 9);
	byte(aml, 1);	/* writable */
	dword(aml, start);
	dword(aml, length);
}

void aml_interrupt(struct aml *aml, uint32_t gsi)
{
	byte(aml, 0x89);
	word(aml, 6);
	byte(aml, 0x01);	/* consumer, level, active high, exclusive */
	byte(aml, 1);
	dword(aml, gsi);
}
