/* SPDX-License-Identifier: MIT */
/*
 * Random sequences of everything that can be done to private memory, by one thread, against a model of what each call answers and
 * what the guest then reads: attribute x slot x page of a file x page of the client.
 *
 * Usage: model OPERATIONS [SEED]. Prints how many operations were done; on a difference the operation's number, to replay.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "prig.h"

#define FILES	3u
#define FPAGES	8u
#define SLOTS	4u	/* ids 1..3 */
#define GPAGES	N_PAGES

static struct prig P;
static unsigned seed;

static struct { bool is_private; } frame[GPAGES];
static struct { bool is_open; int fd; uint8_t page[FPAGES]; bool present[FPAGES]; } file[FILES];
static struct { bool there, has_file, gone; unsigned first, n, f, off; } slot[SLOTS];
static uint8_t client[SLOTS][GPAGES];	/* what the client's memory of a slot holds */
static uint8_t *client_at[SLOTS];
static unsigned long op;

static unsigned rnd(unsigned n)
{
	return (unsigned)(rand_r(&seed) >> 4) % n;
}

static void same(const char *what, long got, long want)
{
	if (got != want)
		fail_msg("operation %lu: %s gave %ld, the model says %ld", op, what, got, want);
}

static int slot_of(unsigned page)
{
	for (unsigned i = 1; i < SLOTS; i++)
		if (slot[i].there && page - slot[i].first < slot[i].n)
			return (int)i;
	return -1;
}

static bool is_bound(unsigned f, unsigned off, unsigned n)
{
	for (unsigned i = 1; i < SLOTS; i++)
		if (slot[i].there && slot[i].has_file && !slot[i].gone && slot[i].f == f && off < slot[i].off + slot[i].n && slot[i].off < off + n)
			return true;
	return false;
}

/* ---- operations ---------------------------------------------------------------------------------------------------------------- */

static void set_slot(void)
{
	unsigned id = 1 + rnd(SLOTS - 1), first = rnd(GPAGES), n = 1 + rnd(6), f = rnd(FILES), off = rnd(FPAGES);
	bool has_file = rnd(4) != 0;
	long want = 0, got;

	if (first + n > GPAGES)
		n = GPAGES - first;
	got = prig_slot(&P, id, PRIG_AT + first * PAGE, n * PAGE, client_at[id], has_file ? file[f].is_open ? file[f].fd : 999 : -1,
			has_file ? off * PAGE : 0);
	if (slot[id].there) {
		/* Only a plain slot of the same size can be set again, and moves. */
		if (has_file || slot[id].has_file || slot[id].n != n)
			want = -EINVAL;
	}
	for (unsigned i = 1; !want && i < SLOTS; i++)
		if (i != id && slot[i].there && first < slot[i].first + slot[i].n && slot[i].first < first + n)
			want = -EEXIST;
	if (!want && has_file) {
		if (!file[f].is_open)
			want = -EBADF;
		else if (off + n > FPAGES || is_bound(f, off, n))
			want = -EINVAL;
	}
	same("setting a slot", got, want);
	if (want)
		return;
	slot[id].there = true;
	slot[id].has_file = has_file;
	slot[id].gone = false;
	slot[id].first = first;
	slot[id].n = n;
	slot[id].f = f;
	slot[id].off = off;
}

static void delete_slot(void)
{
	unsigned id = 1 + rnd(SLOTS - 1);

	same("deleting a slot", prig_delete(&P, id), slot[id].there ? 0 : -EINVAL);
	slot[id].there = false;
}

static void convert(void)
{
	unsigned first = rnd(GPAGES), n = 1 + rnd(GPAGES - first);
	bool is_private = rnd(2);

	same("conversion", prig_convert(&P, PRIG_AT + first * PAGE, n * PAGE, is_private), 0);
	for (unsigned i = first; i < first + n; i++)
		frame[i].is_private = is_private;
}

static void bad_convert(void)
{
	struct kvm_memory_attributes a = { .address = PRIG_AT, .size = PAGE, .attributes = 8 };

	switch (rnd(4)) {
	case 0: a.flags = 1ull << rnd(64); break;
	case 1: a.attributes |= 1ull << (rnd(2) ? rnd(3) : 4 + rnd(60)); break;
	case 2: a.size = rnd(PAGE); break;
	case 3: a.address += 1 + rnd(PAGE - 1); break;
	}
	same("a wrong conversion", pioctl(P.vm, KVM_SET_MEMORY_ATTRIBUTES, &a), -EINVAL);
}

static void punch(void)
{
	unsigned f = rnd(FILES), off = rnd(FPAGES + 2), n = 1 + rnd(FPAGES);

	if (!file[f].is_open)
		return;
	same("a punch", prig_punch(file[f].fd, off * PAGE, n * PAGE), 0);
	for (unsigned i = off; i < off + n && i < FPAGES; i++) {
		file[f].page[i] = 0;
		file[f].present[i] = false;
	}
}

static void allocate(void)
{
	unsigned f = rnd(FILES), off = rnd(FPAGES + 1), n = 1 + rnd(FPAGES);

	if (!file[f].is_open)
		return;
	same("allocation", gw_fallocate(file[f].fd, FALLOC_FL_KEEP_SIZE, off * PAGE, n * PAGE), off + n > FPAGES ? -EINVAL : 0);
	for (unsigned i = off; off + n <= FPAGES && i < off + n; i++)
		file[f].present[i] = true;
}

static void open_or_close(void)
{
	unsigned f = rnd(FILES);

	if (!file[f].is_open) {
		file[f].fd = prig_gmem(&P, FPAGES * PAGE, 0);
		file[f].is_open = true;
		return;
	}
	if (rnd(4))
		return;
	same("closing", gw_close(file[f].fd), 0);
	file[f].is_open = false;
	memset(file[f].page, 0, sizeof(file[f].page));
	memset(file[f].present, 0, sizeof(file[f].present));
	for (unsigned i = 1; i < SLOTS; i++)
		if (slot[i].there && slot[i].has_file && slot[i].f == f)
			slot[i].gone = true;
}

/* Where an access goes: a byte of the model, or NULL with the answer in *want (-EFAULT or KVM_EXIT_MMIO). */
static uint8_t *side(unsigned page, long *want, bool **present)
{
	int s = slot_of(page);

	*want = 0;
	*present = NULL;
	if (frame[page].is_private) {
		if (s < 0 || !slot[s].has_file || slot[s].gone) {
			*want = -EFAULT;
			return NULL;
		}
		*present = &file[slot[s].f].present[slot[s].off + page - slot[s].first];
		return &file[slot[s].f].page[slot[s].off + page - slot[s].first];
	}
	if (s < 0) {
		*want = KVM_EXIT_MMIO;
		return NULL;
	}
	return &client[s][page - slot[s].first];
}

static void expect_exit(unsigned page, long got, long want)
{
	same("an access", got, want);
	if (want == -EFAULT)
		prig_expect_fault(&P, 0, got, PRIG_AT + page * PAGE, true);
}

static void guest_write(void)
{
	unsigned page = rnd(GPAGES);
	uint8_t value = (uint8_t)(1 + rnd(255)), *at;
	bool *present;
	long want;

	at = side(page, &want, &present);
	expect_exit(page, prig_write(&P, 0, page * PAGE + 1, value), want);
	if (at)
		*at = value;
	if (present)
		*present = true;
}

static void guest_read(void)
{
	unsigned page = rnd(GPAGES);
	uint8_t got = 0, *at;
	bool *present;
	long want;

	at = side(page, &want, &present);
	expect_exit(page, prig_read(&P, 0, page * PAGE + 1, &got), want);
	if (at)
		same("a read", got, *at);
}

static void client_write(void)
{
	unsigned id = 1 + rnd(SLOTS - 1), page = rnd(6);

	client[id][page] = (uint8_t)rnd(256);
	client_at[id][page * PAGE + 1] = client[id][page];
}

static void client_look(void)
{
	unsigned id = 1 + rnd(SLOTS - 1), page = rnd(6);

	same("the client's memory", client_at[id][page * PAGE + 1], client[id][page]);
}

static void prefault(void)
{
	unsigned page = rnd(GPAGES);
	struct kvm_pre_fault_memory f = { .gpa = PRIG_AT + page * PAGE, .size = PAGE };
	bool *present;
	uint8_t *at;
	long want;

	at = side(page, &want, &present);
	if (!at)
		want = slot_of(page) < 0 ? -ENOENT : -EFAULT;
	same("prefault", pioctl(P.vcpu[0], KVM_PRE_FAULT_MEMORY, &f), want);
	same("what prefault left", (long)f.size, want ? (long)PAGE : 0);
	if (present)
		*present = true;
}

/* Exactly the pages of the model are present. A read may have made more. */
static void count_present(void)
{
	static char text[1 << 15];
	struct gw_map m = { .size = sizeof(text), .buf = (uintptr_t)text };

	same("the map", pioctl(P.vm, GW_MAP, &m), 0);
	for (unsigned i = 1; i < SLOTS; i++) {
		unsigned long least = 0;
		char line[16];
		const char *at;

		if (!slot[i].there || !slot[i].has_file)
			continue;
		for (unsigned k = 0; k < slot[i].n; k++)
			least += !slot[i].gone && file[slot[i].f].present[slot[i].off + k];
		snprintf(line, sizeof(line), "slot=%u ", i);
		at = strstr(strstr(text, line), "present_private=");
		if (strtoul(at + 16, NULL, 10) < least || (slot[i].gone && strtoul(at + 16, NULL, 10)))
			same("present pages", (long)strtoul(at + 16, NULL, 10), (long)least);
	}
}

static void (*const ops[])(void) = {
	set_slot, set_slot, delete_slot, convert, convert, convert, bad_convert, punch, punch, allocate, open_or_close, guest_write,
	guest_write, guest_write, guest_read, guest_read, guest_read, guest_read, client_write, client_look, prefault, count_present,
};
#define N_OPS (sizeof(ops) / sizeof(ops[0]))

static unsigned long n_wanted;

static void follow_the_model(void **state)
{
	prig_open(&P, SW, 0);
	assert_int_equal(prig_delete(&P, 1), 0);
	for (unsigned i = 0; i < SLOTS; i++) {
		client_at[i] = mmap(NULL, GPAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		assert_true(client_at[i] != MAP_FAILED);
	}
	for (op = 1; op <= n_wanted; op++)
		ops[rnd(N_OPS)]();
	for (unsigned f = 0; f < FILES; f++)
		if (file[f].is_open)
			assert_int_equal(gw_close(file[f].fd), 0);
	prig_close(&P);
	printf("# %lu operations followed the model\n", n_wanted);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = { { "random operations follow the model", follow_the_model, NULL, NULL, NULL } };

	n_wanted = argc > 1 ? strtoul(argv[1], NULL, 10) : 100000;
	seed = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 1;
	return cmocka_run_group_tests_name("private memory: model", tests, NULL, NULL);
}
