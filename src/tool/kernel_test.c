/* SPDX-License-Identifier: MIT */
/*
 * Kernel images, good and hostile. Each row takes a small valid image, changes something, and says what must come out.
 * The images are made here: an ELF with one segment and a PVH note, alone or packed into a bzImage.
 */
#include "test_rows.h"

#include <elf.h>
#include <zlib.h>

#include "bytes.h"
#include "kernel.h"

#define MEMORY		(64ull << 20)
#define LOAD_AT		0x1000000ull
#define ENTRY_OFFSET	0x40u
#define PVH_OFFSET	0x80u
#define SEGMENT_AT	0x200u
#define SEGMENT_SIZE	0x1000u
#define NOTE_AT		0x180u
#define SETUP_SIZE	1024u
#define PAYLOAD_OFFSET	0x400u

static uint8_t image[1 << 16];
static size_t image_size;

static void make_elf(void)
{
	Elf64_Ehdr h = {
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT }, .e_type = ET_EXEC,
		.e_machine = EM_X86_64, .e_version = 1, .e_entry = LOAD_AT + ENTRY_OFFSET, .e_phoff = 64, .e_ehsize = 64,
		.e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 2,
	};
	Elf64_Phdr load = {
		.p_type = PT_LOAD, .p_offset = SEGMENT_AT, .p_vaddr = 0xffffffff81000000ull, .p_paddr = LOAD_AT,
		.p_filesz = SEGMENT_SIZE, .p_memsz = 2 * SEGMENT_SIZE,
	};
	Elf64_Phdr note = { .p_type = PT_NOTE, .p_offset = NOTE_AT, .p_filesz = 20, .p_memsz = 20 };
	size_t i;

	memset(image, 0, sizeof(image));
	memcpy(image, &h, sizeof(h));
	memcpy(image + 64, &load, sizeof(load));
	memcpy(image + 64 + sizeof(load), &note, sizeof(note));
	put32(image + NOTE_AT, 4);
	put32(image + NOTE_AT + 4, 4);
	put32(image + NOTE_AT + 8, 18);
	memcpy(image + NOTE_AT + 12, "Xen", 4);
	put32(image + NOTE_AT + 16, LOAD_AT + PVH_OFFSET);
	for (i = 0; i < SEGMENT_SIZE; i++)
		image[SEGMENT_AT + i] = (uint8_t)(i * 7 + 1);
	image_size = SEGMENT_AT + SEGMENT_SIZE;
}

/* The ELF becomes the gzip payload of a bzImage with one setup sector. */
static void make_bzimage(void)
{
	static uint8_t packed[1 << 16];
	z_stream z = { .next_in = image, .next_out = packed, .avail_out = sizeof(packed) };
	uint8_t *payload = image + SETUP_SIZE + PAYLOAD_OFFSET;

	make_elf();
	z.avail_in = (uInt)image_size;
	assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	memset(image, 0, sizeof(image));
	image[0x1f1] = 1;
	put16(image + 0x1fe, 0xaa55);
	image[0x200] = 0xeb;
	image[0x201] = 0x6a;
	memcpy(image + 0x202, "HdrS", 4);
	put16(image + 0x206, 0x020f);
	put32(image + 0x22c, 0x7fffffff);
	put16(image + 0x236, 1);
	put32(image + 0x238, 2047);
	put32(image + 0x248, PAYLOAD_OFFSET);
	put32(image + 0x24c, (uint32_t)z.total_out);
	put64(image + 0x258, LOAD_AT);
	put32(image + 0x260, 0x100000);
	memcpy(payload, packed, z.total_out);
	image_size = SETUP_SIZE + PAYLOAD_OFFSET + z.total_out;
}

enum make { ELF, BZIMAGE };

struct row {
	const char *name;
	enum make make;
	unsigned at, width;		/* bytes to change: 0 none */
	uint64_t value;
	size_t size;			/* cut to; 0: as it is */
	enum kernel_protocol protocol;
	enum kernel_decompress decompress;
	const char *error;		/* NULL: must load */
	uint64_t entry;
};

static const struct row rows[] = {
	{ "a plain ELF with a PVH note is entered there", ELF, .entry = LOAD_AT + PVH_OFFSET },
	{ "a plain ELF can be entered by the 64-bit protocol", ELF, .protocol = PROTOCOL_LINUX64, .entry = LOAD_AT + ENTRY_OFFSET },
	{ "a virtual ELF entry is translated", ELF, 24, 8, 0xffffffff81000010ull, .protocol = PROTOCOL_LINUX64,
	  .entry = LOAD_AT + 0x10 },
	{ "an ELF without a PVH note falls back to the 64-bit protocol", ELF, NOTE_AT + 8, 4, 17, .entry = LOAD_AT + ENTRY_OFFSET },
	{ "an ELF without a PVH note refuses --protocol=pvh", ELF, NOTE_AT + 8, 4, 17, .protocol = PROTOCOL_PVH,
	  .error = "no PVH entry" },
	{ "a bzImage is unpacked and entered at the ELF's entry", BZIMAGE, .entry = LOAD_AT + ENTRY_OFFSET },
	{ "a bzImage can be entered by PVH", BZIMAGE, .protocol = PROTOCOL_PVH, .entry = LOAD_AT + PVH_OFFSET },
	{ "a bzImage that unpacks itself is entered at 0x200", BZIMAGE, .decompress = DECOMPRESS_GUEST, .entry = LOAD_AT + 0x200 },
	{ "a bzImage that unpacks itself cannot use PVH", BZIMAGE, .decompress = DECOMPRESS_GUEST, .protocol = PROTOCOL_PVH,
	  .error = "leave out --decompress" },

	{ "a file of one byte is refused", ELF, .size = 1, .error = "neither" },
	{ "four bytes of ELF are refused", ELF, .size = 4, .error = "too short" },
	{ "an ELF of one byte less than a header is refused", ELF, .size = 63, .error = "too short" },
	{ "an ELF cut inside its segment is refused", ELF, .size = SEGMENT_AT + 10, .error = "outside the file" },
	{ "an ELF for another machine is refused", ELF, 18, 2, EM_AARCH64, .error = "not for x86" },
	{ "a big-endian ELF is refused", ELF, 5, 1, 2, .error = "little-endian" },
	{ "an ELF of class 7 is refused", ELF, 4, 1, 7, .error = "unknown class" },
	{ "a relocatable ELF is refused", ELF, 16, 2, ET_DYN, .error = "fixed addresses" },
	{ "program headers of another size are refused", ELF, 54, 2, 57, .error = "unknown size" },
	{ "no program headers are refused", ELF, 56, 2, 0, .error = "program headers" },
	{ "65535 program headers are refused", ELF, 56, 2, 0xffff, .error = "program headers" },
	{ "program headers at the end of 64 bits are refused", ELF, 32, 8, UINT64_MAX - 8, .error = "program headers" },
	{ "a segment offset that wraps is refused", ELF, 64 + 8, 8, UINT64_MAX - 16, .error = "outside the file" },
	{ "a segment with more bytes in the file than in memory is refused", ELF, 64 + 40, 8, 16, .error = "outside the file" },
	{ "a segment below 1 MiB is refused", ELF, 64 + 24, 8, 0x7000, .error = "below 1 MiB" },
	{ "a segment above the memory is refused", ELF, 64 + 24, 8, MEMORY, .error = "larger --memory" },
	{ "a segment in the device hole is refused", ELF, 64 + 24, 8, 0xd0000000, .error = "larger --memory" },
	{ "a segment at the end of 64 bits is refused", ELF, 64 + 24, 8, UINT64_MAX - 0xfff, .error = "larger --memory" },
	{ "a segment of 2^63 bytes is refused", ELF, 64 + 40, 8, 1ull << 63, .error = "larger --memory" },
	{ "an ELF with nothing to load is refused", ELF, 64, 4, PT_NULL, .error = "nothing to load" },
	{ "an entry point outside every segment is refused", ELF, 24, 8, 0x12345678, .error = "entry point" },
	{ "a PVH entry outside every segment is refused", ELF, NOTE_AT + 16, 4, 0x1000, .error = "PVH entry point" },
	{ "a note whose name is 4 GiB long is ignored", ELF, NOTE_AT, 4, 0xffffffff, .entry = LOAD_AT + ENTRY_OFFSET },
	{ "notes outside the file are ignored", ELF, 64 + 56 + 8, 8, 1ull << 40, .entry = LOAD_AT + ENTRY_OFFSET },

	{ "a bzImage without its signature is refused", BZIMAGE, 0x202, 1, 'X', .error = "neither" },
	{ "an old boot protocol is refused", BZIMAGE, 0x206, 2, 0x0204, .error = "older than" },
	{ "a 32-bit kernel is refused", BZIMAGE, 0x236, 2, 0, .error = "32-bit kernel" },
	{ "a bzImage cut inside its setup is refused", BZIMAGE, 0x1f1, 1, 200, .error = "cut short" },
	{ "a bzImage cut inside its payload is refused", BZIMAGE, .size = SETUP_SIZE + PAYLOAD_OFFSET + 20, .error = "cut short" },
	{ "a header that is too short is refused", BZIMAGE, 0x201, 1, 8, .error = "header is too short" },
	{ "a payload offset that wraps is refused", BZIMAGE, 0x248, 4, 0xfffffff0, .error = "outside the file" },
	{ "a payload length of 0 is refused", BZIMAGE, 0x24c, 4, 0, .error = "outside the file" },
	{ "a payload length beyond the file is refused", BZIMAGE, 0x24c, 4, 0x7fffffff, .error = "outside the file" },
	{ "an unknown compression names the way out", BZIMAGE, SETUP_SIZE + PAYLOAD_OFFSET, 1, 0x77, .error = "--decompress=guest" },
	{ "damaged compressed data names the way out", BZIMAGE, SETUP_SIZE + PAYLOAD_OFFSET + 12, 4, 0xffffffff,
	  .error = "--decompress=guest" },
	{ "a preferred address below 1 MiB is refused", BZIMAGE, 0x258, 8, 0x1000, .decompress = DECOMPRESS_GUEST,
	  .error = "preferred address" },
	{ "an init size smaller than the file is refused", BZIMAGE, 0x260, 4, 16, .decompress = DECOMPRESS_GUEST,
	  .error = "less memory than" },
	{ "an init size beyond the memory is refused", BZIMAGE, 0x260, 4, 0xffffffff, .decompress = DECOMPRESS_GUEST,
	  .error = "larger --memory" },
	{ "an init size beyond the memory does not stop an unpacked kernel", BZIMAGE, 0x260, 4, 0xffffffff,
	  .entry = LOAD_AT + ENTRY_OFFSET },
};

static void check_row(void **state)
{
	const struct row *row = *state;
	struct kernel kernel;
	struct blob file;
	struct err err = { "" };
	struct ram ram;
	int ret;

	if (row->make == ELF)
		make_elf();
	else
		make_bzimage();
	memcpy(image + row->at, &row->value, row->width);
	file = (struct blob){ .data = malloc(image_size), .size = row->size ? row->size : image_size };
	assert_non_null(file.data);
	/* A copy of the exact size, so that sanitizers see a read behind it. */
	memcpy(file.data, image, file.size);
	assert_int_equal(ram_create(&ram, MEMORY, &err), 0);
	ret = kernel_load(&kernel, &file, &ram, row->protocol, row->decompress, &err);
	if (row->error) {
		assert_int_equal(ret, -1);
		assert_says(err.text, row->error);
		assert_null(strchr(err.text, '\n'));
	} else {
		assert_string_equal(err.text, "");
		assert_int_equal(ret, 0);
		assert_int_equal(kernel.entry, row->entry);
		assert_true(kernel.entry >= kernel.start && kernel.entry < kernel.end && kernel.end <= MEMORY);
		if (row->decompress == DECOMPRESS_HOST)
			assert_int_equal(*(uint8_t *)ram_at(&ram, LOAD_AT + 5, 1), 5 * 7 + 1);
	}
	ram_destroy(&ram);
	free(file.data);
}

/* Whatever the bytes are: load or refuse, inside the memory, without a crash. */
static void any_bytes_end_well(void **state)
{
	const enum make make = *(const enum make *)*state;
	uint64_t seed = 0x9e3779b97f4a7c15ull;
	unsigned round, i, loaded = 0, refused = 0;
	struct err err;
	struct ram ram;

	assert_int_equal(ram_create(&ram, MEMORY, &err), 0);
	for (round = 0; round < 3000; round++) {
		enum kernel_decompress how = round & 1 ? DECOMPRESS_GUEST : DECOMPRESS_HOST;
		unsigned changes = 1 + (unsigned)(noise(&seed) % 8), span;
		struct kernel kernel;
		struct blob file;

		if (make == ELF)
			make_elf();
		else
			make_bzimage();
		/* Mostly the headers: that is where lies work. */
		for (i = 0; i < changes; i++) {
			span = noise(&seed) & 3 ? (make == ELF ? 0x1a0 : 0x80) : (unsigned)image_size;
			image[(make == ELF || span == image_size ? 0 : 0x1f0) + noise(&seed) % span] = (uint8_t)noise(&seed);
		}
		file = (struct blob){ .data = malloc(image_size), .size = image_size };
		assert_non_null(file.data);
		memcpy(file.data, image, image_size);
		if (kernel_load(&kernel, &file, &ram, PROTOCOL_AUTO, how, &err) == 0) {
			assert_true(kernel.end <= MEMORY && kernel.start >= ADDR_KERNEL_MIN);
			loaded++;
		} else {
			refused++;
		}
		free(file.data);
	}
	/* Both must have happened, else the noise tests nothing. */
	assert_true(loaded > 50 && refused > 50);
	ram_destroy(&ram);
}

int main(void)
{
	static const enum make makes[] = { ELF, BZIMAGE };
	static struct tests tests;
	size_t i;

	for (i = 0; i < N_OF(rows); i++)
		tests_add(&tests, rows[i].name, check_row, &rows[i]);
	tests_add(&tests, "an ELF with random damage loads or is refused", any_bytes_end_well, &makes[0]);
	tests_add(&tests, "a bzImage with random damage loads or is refused", any_bytes_end_well, &makes[1]);
	return tests_run("kernel", &tests);
}
