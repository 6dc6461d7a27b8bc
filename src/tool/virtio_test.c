/* SPDX-License-Identifier: MIT */
/*
 * The virtio transport and its devices as a driver sees them, by register accesses and rings in guest memory; most rows
 * are drivers that lie. A broken ring must end in DEVICE_NEEDS_RESET, never in an access outside guest memory, and a reset
 * must bring the device back.
 */
#include "test_rows.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bytes.h"
#include "ram.h"
#include "virtio_blk.h"
#include "virtio_rng.h"

#define MEMORY		(16ull << 20)
#define QUEUE		8u
#define DESC_AT		0x10000ull
#define AVAIL_AT	0x11000ull
#define USED_AT		0x12000ull
#define HEADER_AT	0x20000ull
#define DATA_AT		0x21000ull
#define STATUS_AT	0x30000ull
#define SECTORS		64u

#define NEXT		1u
#define WRITE		2u
#define INDIRECT	4u
#define NEEDS_RESET	64u

static struct rig {
	struct ram ram;
	struct virtio device;
	int level;
	unsigned raised;
	char path[64];
} rig;

static void set_level(void *machine, unsigned gsi, int level)
{
	struct rig *r = machine;

	assert_int_equal(gsi, 16);
	r->raised += level && !r->level;
	r->level = level;
}

static uint32_t reg_read(uint64_t reg)
{
	uint8_t b[4];

	virtio_mmio_ops.read(&rig.device, reg, b, 4);
	return get32(b);
}

static void reg_write(uint64_t reg, uint32_t value)
{
	uint8_t b[4];

	put32(b, value);
	virtio_mmio_ops.write(&rig.device, reg, b, 4);
}

static void *at(uint64_t gpa)
{
	void *p = ram_at(&rig.ram, gpa, 1);

	assert_non_null(p);
	return p;
}

static void set_desc(unsigned i, uint64_t address, uint32_t length, unsigned flags, unsigned next)
{
	uint8_t *d = at(DESC_AT + 16 * i);

	put64(d, address);
	put32(d + 8, length);
	put16(d + 12, (uint16_t)flags);
	put16(d + 14, (uint16_t)next);
}

/* What a well-behaved driver does up to DRIVER_OK, queue 0 at the usual places. */
static void start_driver(uint64_t desc, uint64_t avail, uint64_t used, uint32_t size)
{
	reg_write(0x70, 0);
	reg_write(0x70, 1 | 2);
	reg_write(0x24, 1);
	reg_write(0x20, 1);		/* VERSION_1 */
	reg_write(0x70, 1 | 2 | 8);
	assert_int_equal(reg_read(0x70), 1 | 2 | 8);
	reg_write(0x30, 0);
	reg_write(0x38, size);
	reg_write(0x80, (uint32_t)desc);
	reg_write(0x84, (uint32_t)(desc >> 32));
	reg_write(0x90, (uint32_t)avail);
	reg_write(0x94, (uint32_t)(avail >> 32));
	reg_write(0xa0, (uint32_t)used);
	reg_write(0xa4, (uint32_t)(used >> 32));
	reg_write(0x44, 1);
	reg_write(0x70, 1 | 2 | 4 | 8);
}

static void start_usual(void)
{
	memset(at(DESC_AT), 0, 0x3000);
	start_driver(DESC_AT, AVAIL_AT, USED_AT, QUEUE);
}

static void offer(unsigned head)
{
	uint16_t index = get16(at(AVAIL_AT + 2));

	put16(at(AVAIL_AT + 4 + 2 * (index % QUEUE)), (uint16_t)head);
	put16(at(AVAIL_AT + 2), (uint16_t)(index + 1));
	reg_write(0x50, 0);
}

static uint16_t used_index(void)
{
	return get16(at(USED_AT + 2));
}

static uint32_t used_length(unsigned i)
{
	return get32(at(USED_AT + 4 + 8 * (i % QUEUE) + 4));
}

static void start_rig(void)
{
	struct err err;

	memset(&rig, 0, sizeof(rig));
	assert_int_equal(ram_create(&rig.ram, MEMORY, &err), 0);
}

static struct irq_line line(void)
{
	return (struct irq_line){ set_level, &rig, 16 };
}

static int setup_rng(void **state)
{
	struct irq_line irq = line();

	(void)state;
	start_rig();
	virtio_rng_init(&rig.device, &rig.ram, &irq);
	return 0;
}

static int setup_disk(const char *suffix)
{
	struct irq_line irq = line();
	char spec[80];
	struct err err;
	int fd;

	start_rig();
	strcpy(rig.path, "/tmp/guestward-virtio-test-XXXXXX");
	fd = mkstemp(rig.path);
	assert_true(fd >= 0);
	/* Not a whole number of sectors: the rest cannot be reached. */
	assert_int_equal(ftruncate(fd, SECTORS * 512 + 100), 0);
	assert_int_equal(pwrite(fd, "sector two", 10, 1024), 10);
	close(fd);
	snprintf(spec, sizeof(spec), "%s%s", rig.path, suffix);
	if (virtio_blk_init(&rig.device, spec, &rig.ram, &irq, &err) < 0)
		fail_msg("%s", err.text);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	virtio_destroy(&rig.device);
	ram_destroy(&rig.ram);
	if (rig.path[0])
		unlink(rig.path);
	return 0;
}

/* header, data, status as three descriptors; returns the status byte, or -1 if the device did not answer. */
static int disk_request(uint32_t type, uint64_t sector, uint64_t data, uint32_t length, unsigned data_flags)
{
	uint8_t *header = at(HEADER_AT);
	uint16_t before = used_index();

	put32(header, type);
	put32(header + 4, 0);
	put64(header + 8, sector);
	*(uint8_t *)at(STATUS_AT) = 0xee;
	set_desc(0, HEADER_AT, 16, NEXT, length ? 1 : 2);
	set_desc(1, data, length, NEXT | data_flags, 2);
	set_desc(2, STATUS_AT, 1, WRITE, 0);
	offer(0);
	return used_index() == (uint16_t)(before + 1) ? *(uint8_t *)at(STATUS_AT) : -1;
}

static void identifies(void **state)
{
	(void)state;
	assert_int_equal(reg_read(0), 0x74726976);
	assert_int_equal(reg_read(4), 2);
	assert_int_equal(reg_read(8), 4);
	assert_int_equal(reg_read(0x34), VIRTQUEUE_MAX);
	reg_write(0x30, 1);
	assert_int_equal(reg_read(0x34), 0);
	reg_write(0x30, 0xffffffff);
	assert_int_equal(reg_read(0x34), 0);
	reg_write(0x14, 1);
	assert_int_equal(reg_read(0x10), 1);
	reg_write(0x14, 7);
	assert_int_equal(reg_read(0x10), 0);
}

static void refuses_features(void **state)
{
	(void)state;
	reg_write(0x70, 1 | 2);
	reg_write(0x24, 0);
	reg_write(0x20, 0x80000000);	/* never offered */
	reg_write(0x24, 1);
	reg_write(0x20, 1);
	reg_write(0x70, 1 | 2 | 8);
	assert_int_equal(reg_read(0x70) & 8, 0);
	/* A driver that does not know version 1 cannot use us either. */
	reg_write(0x70, 0);
	reg_write(0x70, 1 | 2 | 8);
	assert_int_equal(reg_read(0x70) & 8, 0);
}

static void odd_accesses_are_harmless(void **state)
{
	static const unsigned lengths[] = { 1, 2, 4, 8 };
	uint8_t b[8] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	unsigned i;
	uint64_t reg;

	(void)state;
	start_usual();
	for (reg = 0; reg < 0x1000; reg++) {
		for (i = 0; i < 4; i++) {
			virtio_mmio_ops.write(&rig.device, reg, b, lengths[i]);
			virtio_mmio_ops.read(&rig.device, reg, b, lengths[i]);
		}
	}
}

static void gives_random_bytes(void **state)
{
	static const uint8_t zeros[64];

	(void)state;
	start_usual();
	set_desc(3, DATA_AT, 64, WRITE, 0);
	offer(3);
	assert_int_equal(used_index(), 1);
	assert_int_equal(used_length(0), 64);
	assert_memory_not_equal(at(DATA_AT), zeros, 64);
	assert_int_equal(rig.level, 1);
	assert_int_equal(reg_read(0x60), 1);
	reg_write(0x64, 1);
	assert_int_equal(rig.level, 0);
	assert_int_equal(reg_read(0x60), 0);
}

static void respects_no_interrupt(void **state)
{
	(void)state;
	start_usual();
	put16(at(AVAIL_AT), 1);
	set_desc(0, DATA_AT, 16, WRITE, 0);
	offer(0);
	assert_int_equal(used_index(), 1);
	assert_int_equal(rig.raised, 0);
}

static void bounds_large_requests(void **state)
{
	(void)state;
	start_usual();
	set_desc(0, 0x100000, 8 << 20, WRITE, 0);
	offer(0);
	assert_in_range(used_length(0), 1, 1 << 20);
}

static void many_rounds_wrap(void **state)
{
	unsigned i;

	(void)state;
	start_usual();
	for (i = 0; i < 70000; i++) {
		set_desc(i % QUEUE, DATA_AT, 1, WRITE, 0);
		offer(i % QUEUE);
	}
	assert_int_equal(used_index(), (uint16_t)70000);
	assert_int_equal(reg_read(0x70) & NEEDS_RESET, 0);
}

static void stays_silent_before_driver_ok(void **state)
{
	(void)state;
	start_usual();
	reg_write(0x70, 0);
	set_desc(0, DATA_AT, 16, WRITE, 0);
	offer(0);
	assert_int_equal(used_index(), 0);
}

struct liar {
	const char *name;
	void (*lie)(void);
};

static void lie_head(void) { offer(QUEUE); }
static void lie_head_max(void) { offer(0xffff); }
static void lie_loop(void) { set_desc(0, DATA_AT, 16, WRITE | NEXT, 1); set_desc(1, DATA_AT, 16, WRITE | NEXT, 0); offer(0); }
static void lie_self(void) { set_desc(0, DATA_AT, 16, WRITE | NEXT, 0); offer(0); }
static void lie_next(void) { set_desc(0, DATA_AT, 16, WRITE | NEXT, 4000); offer(0); }
static void lie_outside(void) { set_desc(0, MEMORY, 16, WRITE, 0); offer(0); }
static void lie_across_end(void) { set_desc(0, MEMORY - 8, 16, WRITE, 0); offer(0); }
static void lie_wraps(void) { set_desc(0, UINT64_MAX - 7, 16, WRITE, 0); offer(0); }
static void lie_length(void) { set_desc(0, DATA_AT, 0xffffffff, WRITE, 0); offer(0); }
static void lie_hole(void) { set_desc(0, 0xfee00000, 16, WRITE, 0); offer(0); }
static void lie_order(void) { set_desc(0, DATA_AT, 16, WRITE | NEXT, 1); set_desc(1, DATA_AT, 16, 0, 0); offer(0); }
static void lie_indirect(void) { set_desc(0, DATA_AT, 16, INDIRECT, 0); offer(0); }
static void lie_index(void) { put16(at(AVAIL_AT + 2), QUEUE + 1); reg_write(0x50, 0); }
static void lie_index_back(void) { put16(at(AVAIL_AT + 2), 0xffff); reg_write(0x50, 0); }
static void lie_desc_place(void) { start_driver(MEMORY - 16, AVAIL_AT, USED_AT, QUEUE); reg_write(0x50, 0); }
static void lie_avail_place(void) { start_driver(DESC_AT, MEMORY, USED_AT, QUEUE); reg_write(0x50, 0); }
static void lie_used_place(void) { start_driver(DESC_AT, AVAIL_AT, UINT64_MAX - 3, QUEUE); reg_write(0x50, 0); }
static void lie_desc_align(void) { start_driver(DESC_AT + 8, AVAIL_AT, USED_AT, QUEUE); reg_write(0x50, 0); }
static void lie_avail_align(void) { start_driver(DESC_AT, AVAIL_AT + 1, USED_AT, QUEUE); reg_write(0x50, 0); }
static void lie_used_align(void) { start_driver(DESC_AT, AVAIL_AT, USED_AT + 2, QUEUE); reg_write(0x50, 0); }
static void lie_size_zero(void) { start_driver(DESC_AT, AVAIL_AT, USED_AT, 0); reg_write(0x50, 0); }
static void lie_size_odd(void) { start_driver(DESC_AT, AVAIL_AT, USED_AT, 7); reg_write(0x50, 0); }
static void lie_size_large(void) { start_driver(DESC_AT, AVAIL_AT, USED_AT, 0x10008); reg_write(0x50, 0); }

static const struct liar liars[] = {
	{ "a head beyond the queue breaks it", lie_head },
	{ "a head of 65535 breaks it", lie_head_max },
	{ "a chain with a loop breaks it", lie_loop },
	{ "a descriptor that follows itself breaks it", lie_self },
	{ "a next beyond the queue breaks it", lie_next },
	{ "a buffer outside memory breaks it", lie_outside },
	{ "a buffer across the end of memory breaks it", lie_across_end },
	{ "a buffer that wraps breaks it", lie_wraps },
	{ "a buffer of 4 GiB breaks it", lie_length },
	{ "a buffer in the device hole breaks it", lie_hole },
	{ "a readable buffer behind a writable one breaks it", lie_order },
	{ "an indirect table, not offered, breaks it", lie_indirect },
	{ "an index too far ahead breaks it", lie_index },
	{ "an index that runs backwards breaks it", lie_index_back },
	{ "a descriptor table across the end of memory breaks it", lie_desc_place },
	{ "an available ring outside memory breaks it", lie_avail_place },
	{ "a used ring that wraps breaks it", lie_used_place },
	{ "a misaligned descriptor table breaks it", lie_desc_align },
	{ "a misaligned available ring breaks it", lie_avail_align },
	{ "a misaligned used ring breaks it", lie_used_align },
	{ "a queue of size 0 breaks it", lie_size_zero },
	{ "a queue whose size is no power of two breaks it", lie_size_odd },
	{ "a queue larger than allowed breaks it", lie_size_large },
};

static void lies_break_the_queue(void **state)
{
	const struct liar *liar = *state;

	setup_rng(NULL);
	start_usual();
	liar->lie();
	assert_int_equal(used_index(), 0);
	assert_int_equal(reg_read(0x70) & NEEDS_RESET, NEEDS_RESET);
	assert_int_equal(reg_read(0x60), 2);
	assert_int_equal(rig.level, 1);
	/* Broken it stays. */
	set_desc(1, DATA_AT, 16, WRITE, 0);
	offer(1);
	assert_int_equal(used_index(), 0);
	/* Until it is reset. */
	reg_write(0x70, 0);
	assert_int_equal(rig.level, 0);
	start_usual();
	set_desc(1, DATA_AT, 16, WRITE, 0);
	offer(1);
	assert_int_equal(used_index(), 1);
	teardown(NULL);
}

static void running_queue_cannot_move(void **state)
{
	(void)state;
	start_usual();
	reg_write(0x80, 0xfffffff0);
	reg_write(0x38, VIRTQUEUE_MAX);
	set_desc(0, DATA_AT, 16, WRITE, 0);
	offer(0);
	assert_int_equal(used_index(), 1);
}

static void random_rings_end_well(void **state)
{
	uint64_t seed = 42;
	unsigned round, i;

	(void)state;
	for (round = 0; round < 3000; round++) {
		start_usual();
		for (i = 0; i < QUEUE; i++)
			set_desc(i, noise(&seed) % (MEMORY + 0x1000), (uint32_t)(noise(&seed) % 0x3000),
				 (unsigned)noise(&seed) & 3, (unsigned)(noise(&seed) % (QUEUE + 1)));
		offer((unsigned)(noise(&seed) % QUEUE));
		for (i = 0; i < 4; i++)
			reg_write((noise(&seed) % 64) * 4, (uint32_t)noise(&seed));
	}
}

static void reads_a_sector(void **state)
{
	(void)state;
	setup_disk("");
	start_usual();
	assert_int_equal(get64(rig.device.config), SECTORS);
	assert_int_equal(disk_request(0, 2, DATA_AT, 512, WRITE), 0);
	assert_memory_equal(at(DATA_AT), "sector two", 10);
	assert_int_equal(used_length(0), 513);
	teardown(NULL);
}

static void writes_reach_the_file(void **state)
{
	char text[12] = "";
	int fd;

	(void)state;
	setup_disk("");
	start_usual();
	memcpy(at(DATA_AT + 512), "hello disk", 10);
	assert_int_equal(disk_request(1, 62, DATA_AT, 1024, 0), 0);
	assert_int_equal(disk_request(4, 0, 0, 0, 0), 0);
	fd = open(rig.path, O_RDONLY);
	assert_int_equal(pread(fd, text, 10, 63 * 512), 10);
	close(fd);
	assert_string_equal(text, "hello disk");
	teardown(NULL);
}

static void header_and_data_in_pieces(void **state)
{
	(void)state;
	setup_disk("");
	start_usual();
	/* Header in 10 + 6 bytes; 512 bytes and the status in 100 + 413. */
	put32(at(HEADER_AT), 0);
	put64(at(HEADER_AT + 8), 2);
	set_desc(0, HEADER_AT, 10, NEXT, 1);
	set_desc(1, HEADER_AT + 10, 6, NEXT, 2);
	set_desc(2, DATA_AT, 100, NEXT | WRITE, 3);
	set_desc(3, DATA_AT + 0x1000, 413, WRITE, 0);
	memset(at(DATA_AT + 0x1000), 0xee, 413);
	offer(0);
	assert_int_equal(used_index(), 1);
	assert_int_equal(used_length(0), 513);
	assert_memory_equal(at(DATA_AT), "sector two", 10);
	assert_int_equal(*(uint8_t *)at(DATA_AT + 0x1000 + 412), 0);
	teardown(NULL);
}

static const struct disk_row {
	const char *name, *suffix;
	uint32_t type;
	uint64_t sector;
	uint32_t length;
	unsigned flags;
	int status;
} disk_rows[] = {
	{ "the last sector can be read", "", 0, SECTORS - 1, 512, WRITE, 0 },
	{ "reading behind the last sector fails", "", 0, SECTORS, 512, WRITE, 1 },
	{ "reading across the end fails", "", 0, SECTORS - 1, 1024, WRITE, 1 },
	{ "a sector number that wraps fails", "", 0, UINT64_MAX, 512, WRITE, 1 },
	{ "a sector number that wraps as bytes fails", "", 0, 1ull << 55, 512, WRITE, 1 },
	{ "half a sector fails", "", 0, 0, 256, WRITE, 1 },
	{ "writing behind the last sector fails", "", 1, SECTORS, 512, 0, 1 },
	{ "writing a read-only disk fails", ",ro", 1, 0, 512, 0, 1 },
	{ "flushing a read-only disk is fine", ",ro", 4, 0, 0, 0, 0 },
	{ "the identity is given", "", 8, 0, 20, WRITE, 0 },
	{ "too little room for the identity fails", "", 8, 0, 19, WRITE, 1 },
	{ "an unknown request is said to be so", "", 99, 0, 0, 0, 2 },
};

static void disk_answers(void **state)
{
	const struct disk_row *row = *state;

	setup_disk(row->suffix);
	start_usual();
	assert_int_equal(disk_request(row->type, row->sector, DATA_AT, row->length, row->flags), row->status);
	assert_int_equal(reg_read(0x70) & NEEDS_RESET, 0);
	teardown(NULL);
}

static void short_header_fails(void **state)
{
	(void)state;
	setup_disk("");
	start_usual();
	set_desc(0, HEADER_AT, 15, NEXT, 1);
	set_desc(1, STATUS_AT, 1, WRITE, 0);
	offer(0);
	assert_int_equal(used_index(), 1);
	assert_int_equal(*(uint8_t *)at(STATUS_AT), 1);
	/* And one without any place for the status is given back. */
	set_desc(0, HEADER_AT, 16, 0, 0);
	offer(0);
	assert_int_equal(used_index(), 2);
	assert_int_equal(used_length(1), 0);
	teardown(NULL);
}

static const struct open_row {
	const char *name, *spec, *error;
} open_rows[] = {
	{ "a missing disk is told", "/nonexistent/disk.img", "No such file" },
	{ "a directory is no disk", "/tmp", "disk" },
	{ "a character device is no disk", "/dev/null", "neither a file nor a block device" },
	{ "an empty name is told", "", "cannot open disk" },
};

static void disk_refused(void **state)
{
	const struct open_row *row = *state;
	static struct virtio device;
	struct irq_line irq = line();
	struct ram ram = { 0 };
	struct err err;

	assert_int_equal(virtio_blk_init(&device, row->spec, &ram, &irq, &err), -1);
	assert_says(err.text, row->error);
	virtio_destroy(&device);
}

static void one_writer_only(void **state)
{
	static struct virtio second;
	struct irq_line irq;
	struct err err;

	(void)state;
	setup_disk("");
	irq = line();
	assert_int_equal(virtio_blk_init(&second, rig.path, &rig.ram, &irq, &err), -1);
	assert_says(err.text, "in use");
	teardown(NULL);
}

/* Each runs with a fresh entropy device. */
static const struct rng_row {
	const char *name;
	CMUnitTestFunction run;
} rng_rows[] = {
	{ "the device tells what it is", identifies },
	{ "features that were not offered are refused", refuses_features },
	{ "accesses of every width at every offset are harmless", odd_accesses_are_harmless },
	{ "random bytes are given and announced", gives_random_bytes },
	{ "no interrupt comes when the driver wants none", respects_no_interrupt },
	{ "a huge request is cut", bounds_large_requests },
	{ "ring indices wrap", many_rounds_wrap },
	{ "nothing is done before DRIVER_OK", stays_silent_before_driver_ok },
	{ "a running queue cannot be moved", running_queue_cannot_move },
	{ "random rings end well", random_rings_end_well },
};

int main(void)
{
	static struct tests tests;
	size_t i;

	for (i = 0; i < N_OF(rng_rows); i++) {
		tests_add(&tests, rng_rows[i].name, rng_rows[i].run, NULL);
		tests.list[tests.n - 1].setup_func = setup_rng;
		tests.list[tests.n - 1].teardown_func = teardown;
	}
	for (i = 0; i < N_OF(liars); i++)
		tests_add(&tests, liars[i].name, lies_break_the_queue, &liars[i]);
	tests_add(&tests, "a sector is read", reads_a_sector, NULL);
	tests_add(&tests, "what is written and flushed is in the file", writes_reach_the_file, NULL);
	tests_add(&tests, "header, data and status may come in any pieces", header_and_data_in_pieces, NULL);
	for (i = 0; i < N_OF(disk_rows); i++)
		tests_add(&tests, disk_rows[i].name, disk_answers, &disk_rows[i]);
	tests_add(&tests, "a request that is too short fails", short_header_fails, NULL);
	for (i = 0; i < N_OF(open_rows); i++)
		tests_add(&tests, open_rows[i].name, disk_refused, &open_rows[i]);
	tests_add(&tests, "a disk has one writer", one_writer_only, NULL);
	return tests_run("virtio", &tests);
}
