/* SPDX-License-Identifier: MIT */
/*
 * Unassisted mode in a guest of a few pages: what the lock finds, what an attacker at CPL 0 tries afterwards, and what the policies for
 * later code do. Whole kernels are locked in boot_test.sh.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernel.h"

#define PAGE	0x1000u
#define LIST	0x34000u
#define P_RW	0x3ull
#define MADE_UP		0x1000000u
#define MADE_UP_SIZE	0x800000u

/* A system call says so without a signal. */
static bool client_can_write(struct guest *g, uint64_t gpa)
{
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	uint8_t old = g->rig.ram[gpa];
	bool ok = read(fd, g->rig.ram + gpa, 1) == 1;

	assert_true(fd >= 0);
	close(fd);
	if (ok)
		g->rig.ram[gpa] = old;
	return ok;
}

static void what_the_lock_finds(void **state)
{
	struct gw_heki_event e;
	struct guest g;

	kernel_open(&g, NULL);
	kernel_lock(&g);
	assert_int_equal(kernel_attributes(&g, K_CODE) & (GW_HEKI_NR | GW_HEKI_NW | GW_HEKI_NXS), GW_HEKI_NW);
	assert_int_equal(kernel_attributes(&g, K_RODATA) & (GW_HEKI_NR | GW_HEKI_NW | GW_HEKI_NXS), GW_HEKI_NW | GW_HEKI_NXS);
	assert_int_equal(kernel_attributes(&g, K_DATA) & (GW_HEKI_NR | GW_HEKI_NW | GW_HEKI_NXS), GW_HEKI_NXS);
	assert_int_equal(guest_counters(&g).denied_write + guest_counters(&g).denied_fetch, 0);
	e = guest_event(&g);
	assert_int_equal(e.kind, GW_HEKI_EV_LOCKED);
	assert_int_equal(e.value, 2);
	assert_int_equal(e.gpa, K_TEXT);
	guest_close(&g);
}

/* The PTE of constants and the direct map of text are opened, then stored to; and a page of data is called. */
static void stores_and_calls(void **state)
{
	static const struct { uint64_t gpa, va; } rows[] = {
		{ K_RODATA, K_DIRECT + K_RODATA }, { K_TEXT + 0xf00, K_DIRECT + K_TEXT + 0xf00 },
	};

	for (unsigned i = 0; i < 2; i++) {
		struct guest g;

		kernel_open(&g, NULL);
		kernel_lock(&g);
		kernel_open_direct(&g, rows[i].gpa & ~0xfffull);
		emit_mov(&g, R_BX, rows[i].va);
		EMIT(&g, 0xc6, 0x03, 0x77, 0xf4);
		assert_int_equal(guest_vector(&g), 14);
		assert_int_equal(guest_error(&g), 0xb);
		assert_int_equal(g.rig.ram[rows[i].gpa], 0);
		guest_close(&g);
	}
}

/* mov $42,%eax; ret in a page of data that the kernel maps executable: what each policy does with a call. */
static void calls_of_new_code(void **state)
{
	static const struct { uint32_t dynamic; uint64_t rax; uint64_t sealed; bool stays_writable; } rows[] = {
		{ GW_HEKI_SEALED_ONCE, 42, 1, false }, { GW_HEKI_FROZEN, (uint64_t)-1, 0, true }, { GW_HEKI_MIRRORED, 42, 1, true },
	};

	for (unsigned i = 0; i < 3; i++) {
		struct gw_heki_policy p = { .dynamic = rows[i].dynamic };
		struct guest g;

		kernel_open(&g, &p);
		kernel_lock(&g);
		memcpy(g.rig.ram + G_DATA, "\xb8\x2a\0\0\0\xc3", 6);
		kernel_map_late(&g, 0, G_DATA | P_RW);
		emit_mov(&g, R_AX, K_LATE);
		EMIT(&g, 0xff, 0xd0, 0xf4);
		assert_int_equal(guest_result(&g), rows[i].rax);
		assert_int_equal(guest_counters(&g).sealed, rows[i].sealed);
		/* A store there while the kernel still maps it. */
		kernel_again(&g);
		emit_mov(&g, R_BX, K_DIRECT + G_DATA);
		EMIT(&g, 0xc6, 0x03, 0x77, 0xf4);
		assert_int_equal(guest_vector(&g), rows[i].stays_writable ? -1 : 14);
		assert_int_equal(g.rig.ram[G_DATA], rows[i].stays_writable ? 0x77 : 0xb8);
		guest_close(&g);
	}
}

/* Sealed code that the kernel maps no more: the first store zeroes it and may then write. */
static void code_that_goes(void **state)
{
	struct guest g;

	kernel_open(&g, NULL);
	kernel_lock(&g);
	memcpy(g.rig.ram + G_DATA, "\xb8\x2a\0\0\0\xc3", 6);
	kernel_map_late(&g, 0, G_DATA | P_RW);
	emit_mov(&g, R_AX, K_LATE);
	EMIT(&g, 0xff, 0xd0, 0xf4);
	assert_int_equal(guest_result(&g), 42);
	kernel_map_late(&g, 0, 0);
	kernel_again(&g);
	emit_mov(&g, R_BX, K_DIRECT + G_DATA + 1);
	EMIT(&g, 0xc6, 0x03, 0x77, 0xf4);
	assert_int_equal(guest_vector(&g), -1);
	assert_int_equal(g.rig.ram[G_DATA], 0);
	assert_int_equal(g.rig.ram[G_DATA + 1], 0x77);
	assert_int_equal(guest_counters(&g).released, 1);
	assert_true(kernel_attributes(&g, G_DATA) & (GW_HEKI_NXS | GW_HEKI_NX));
	guest_close(&g);
}

/* Eight megabytes of constants that could be tables of patch sites, at every word. */
static void made_up_tables(void **state)
{
	struct kvm_userspace_memory_region m = { .slot = 1, .guest_phys_addr = MADE_UP, .memory_size = MADE_UP_SIZE };
	uint64_t *words = mmap(NULL, MADE_UP_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct gw_heki_counters c;
	struct guest g;

	assert_true(words != MAP_FAILED);
	for (unsigned i = 0; i < MADE_UP_SIZE / 8; i++)
		words[i] = 16;
	m.userspace_addr = (uintptr_t)words;
	kernel_open(&g, NULL);
	assert_int_equal(rig_ioctl(g.rig.vm, KVM_SET_USER_MEMORY_REGION, &m), 0);
	for (unsigned i = 0; i < MADE_UP_SIZE >> 21; i++)
		kernel_map_large(&g, 9 + i, MADE_UP + ((uint64_t)i << 21));
	kernel_lock(&g);
	c = guest_counters(&g);
	assert_true(kernel_attributes(&g, MADE_UP + MADE_UP_SIZE - PAGE) & GW_HEKI_NW);
	assert_true(c.lock_ns < 60000000000ull);
	guest_close(&g);
	munmap(words, MADE_UP_SIZE);
}

/* The client's own view goes with the rights, also when everything there is changes at once. */
static void shield_follows(void **state)
{
	struct gw_heki_attributes all = { .size = 1ull << 52, .attributes = GW_HEKI_NW, .mask = GW_HEKI_NW };
	struct gw_heki_policy p = { .flags = GW_HEKI_POLICY_SHIELD };
	struct gw_heki_dma d = { K_TEXT, 1 };
	struct guest g;

	kernel_open(&g, &p);
	kernel_lock(&g);
	assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_JUDGE_DMA, &d), -EACCES);
	assert_false(client_can_write(&g, K_TEXT));
	assert_false(client_can_write(&g, K_RODATA));
	assert_true(client_can_write(&g, K_DATA));
	assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_SET_ATTRIBUTES, &all), 0);
	assert_false(client_can_write(&g, K_DATA));
	all = (struct gw_heki_attributes){ .size = 1ull << 52, .flags = GW_HEKI_ATTR_CLEAR };
	assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_SET_ATTRIBUTES, &all), 0);
	assert_true(client_can_write(&g, K_TEXT));
	guest_protect(&g, K_DATA, PAGE, GW_HEKI_NW);
	assert_false(client_can_write(&g, K_DATA));
	assert_int_equal(rig_ioctl_n(g.rig.vm, GW_HEKI_RESET, 1), 0);
	assert_true(client_can_write(&g, K_DATA));
	assert_int_equal(g.rig.ram[K_TEXT], 0x49);
	guest_close(&g);
}

/*
 * A pack of BPF programs: one is there at the lock, in the first chunk; one is written afterwards into the third, by the poking alias. The
 * kernel reads back what it wrote; what a call of it gives is the policy's. The old one goes on, and a chunk may be freed and used again.
 */
static void programs_in_packs(void **state)
{
	static const struct { uint32_t dynamic; uint64_t rax; } rows[] = {
		{ GW_HEKI_SEALED_ONCE, 43 }, { GW_HEKI_FROZEN, (uint64_t)-1 }, { GW_HEKI_MIRRORED, 43 },
	};
	static const uint8_t old[] = { 0xb8, 42, 0, 0, 0, 0xc3 };
	const uint64_t alias = G_DATA | P_RW;	/* no user page */
	uint8_t program[64], seen[64];

	memset(program, 0xcc, sizeof(program));
	memcpy(program, "\x80\0\0\0\xcc\xcc\xcc\xcc\xcc\x0f\x1f\x44\0\0\xb8\x2b\0\0\0\xc3", 20);	/* its header; mov $43,%eax; ret */
	for (unsigned i = 0; i < 3; i++) {
		struct gw_heki_policy p = { .dynamic = rows[i].dynamic };
		struct guest g;

		kernel_open(&g, &p);
		memset(g.rig.ram + G_DATA, 0xcc, PAGE);
		memcpy(g.rig.ram + G_DATA, old, sizeof(old));
		kernel_map_late(&g, 0, G_DATA | 1);
		memcpy(g.rig.ram + G_PT + (G_DATA >> 12) * 8, &alias, 8);
		kernel_lock(&g);
		for (unsigned round = 0; round < 2; round++) {
			/* rep movsq to the alias; then read back, byte by byte, to where the client looks. */
			memcpy(g.rig.ram + G_DATA + 2 * PAGE, program, sizeof(program));
			kernel_again(&g);
			emit_mov(&g, R_SI, G_DATA + 2 * PAGE);
			emit_mov(&g, R_DI, G_DATA + 128);
			emit_mov(&g, R_CX, 8);
			EMIT(&g, 0xf3, 0x48, 0xa5);
			emit_mov(&g, R_SI, K_LATE + 128);
			emit_mov(&g, R_DI, G_DATA + 3 * PAGE);
			emit_mov(&g, R_CX, 64);
			EMIT(&g, 0xf3, 0xa4);
			emit_mov(&g, R_AX, K_LATE + 128 + 9);
			EMIT(&g, 0xff, 0xd0, 0xf4);
			assert_int_equal(guest_result(&g), rows[i].rax);
			assert_memory_equal(g.rig.ram + G_DATA + 3 * PAGE, program, sizeof(program));
			kernel_again(&g);
			emit_mov(&g, R_AX, K_LATE);
			EMIT(&g, 0xff, 0xd0, 0xf4);
			assert_int_equal(guest_result(&g), 42);
			assert_int_equal(guest_counters(&g).denied_write > 0, rows[i].dynamic == GW_HEKI_FROZEN);
			/* Freed: INT3 everywhere again. */
			memset(g.rig.ram + G_DATA + 2 * PAGE, 0xcc, sizeof(program));
			kernel_again(&g);
			emit_mov(&g, R_SI, G_DATA + 2 * PAGE);
			emit_mov(&g, R_DI, G_DATA + 128);
			emit_mov(&g, R_CX, 64);
			EMIT(&g, 0xf3, 0xa4, 0xf4);
			assert_int_equal(guest_vector(&g), -1);
			memcpy(seen, g.rig.ram + G_DATA + 128, sizeof(seen));
			for (unsigned k = 0; k < sizeof(seen); k++)
				assert_int_equal(seen[k], 0xcc);
		}
		guest_close(&g);
	}
}

/*
 * A program that touches nothing sealed: four pages called and four written, 20 000 times, then the kernel. Locked or not, the same
 * number of accesses leaves the fast path, once the code is known: by counter, so no noise can hide one.
 */
static uint64_t slow_accesses(bool locked)
{
	uint64_t n = 0;
	struct guest g;
	size_t again;

	if (locked)
		kernel_open(&g, NULL);
	else
		kernel_open_unlocked(&g);
	for (unsigned i = 0; i < 4; i++)
		g.rig.ram[G_DATA + i * PAGE] = 0xc3;
	for (unsigned round = 0; round < 5; round++) {
		guest_start(&g, 3);
		emit_mov(&g, R_SI, 20000);
		again = g.len;
		for (unsigned i = 0; i < 4; i++) {
			emit_mov(&g, R_BX, G_DATA + i * PAGE);
			EMIT(&g, 0xfe, 0x83, 0x00, 0x40, 0x00, 0x00, 0xff, 0xd3);	/* incb 0x4000(%rbx); call *%rbx */
		}
		EMIT(&g, 0xff, 0xce, 0x0f, 0x85);			/* dec %esi; jnz again */
		{
			int32_t back = (int32_t)again - (int32_t)g.len - 4;

			emit(&g, &back, 4);
		}
		EMIT(&g, 0x0f, 0x0b);
		n = guest_stat(&g, "slow_accesses");
		assert_int_equal(guest_vector(&g), 6);
		n = guest_stat(&g, "slow_accesses") - n;
	}
	guest_close(&g);
	return n;
}

static void costs_nothing_elsewhere(void **state)
{
	uint64_t off = slow_accesses(false), on = slow_accesses(true);

	print_message("# %llu and %llu accesses\n", (unsigned long long)off, (unsigned long long)on);
	assert_true(off > 0 && off < 2000);
	assert_int_equal(on, off);
}

/* ---- system management mode ----------------------------------------------------------------------------------------------------- */

#define SMBASE		0x30000u
#define SMM_SPACE	(1u << 16)

/* out; CR0.WP off; CR4 = PAE; out; rsm */
static const uint8_t handler[] = { 0xe6, 0x20, 0x0f, 0x20, 0xc0, 0x66, 0x25, 0xff, 0xff, 0xfe, 0xff, 0x0f, 0x22, 0xc0,
				   0x66, 0xb8, 0x20, 0, 0, 0, 0x0f, 0x22, 0xe0, 0xe6, 0x21, 0x0f, 0xaa };

static void add_slot(struct guest *g, uint32_t slot, uint64_t gpa, void *at, uint64_t size)
{
	struct kvm_userspace_memory_region m = { .slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uintptr_t)at };

	assert_int_equal(rig_ioctl(g->rig.vm, KVM_SET_USER_MEMORY_REGION, &m), 0);
}

static void expect_port(struct guest *g, uint16_t port)
{
	assert_int_equal(rig_run(&g->rig), 0);
	assert_int_equal(g->rig.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(g->rig.run->io.port, port);
}

/* How the handler's memory is made, and what comes of it. */
enum smm_row { SMM_OWN, SMM_OWN_LIES, SMM_SAME };

static void smm_one(enum smm_row row, uint32_t flags)
{
	struct gw_heki_policy p = { .flags = flags };
	uint8_t *smram = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct kvm_sregs before, s;
	struct guest g;

	assert_true(smram != MAP_FAILED);
	kernel_open(&g, &p);
	kernel_lock(&g);
	add_slot(&g, SMM_SPACE, 0, g.rig.ram, SMBASE);
	add_slot(&g, SMM_SPACE | 1, SMBASE, row == SMM_SAME ? g.rig.ram + SMBASE : smram, 0x10000);
	memcpy((row == SMM_SAME ? g.rig.ram + SMBASE : smram) + 0x8000, handler, sizeof(handler));
	EMIT(&g, 0xe6, 0x11, 0xf4);
	before = guest_sregs(&g);
	assert_int_equal(rig_ioctl_n(g.rig.vcpu, KVM_SMI, 0), 0);
	if (row == SMM_SAME) {
		assert_int_equal(rig_run(&g.rig), 0);
		assert_int_equal(g.rig.run->exit_reason, KVM_EXIT_SHUTDOWN);
		assert_true(guest_counters(&g).denied_fetch > 0);
		assert_int_equal(guest_counters(&g).sealed, 0);
	} else {
		uint64_t cr0 = before.cr0 & ~CR0_WP_BIT;

		expect_port(&g, 0x20);
		expect_port(&g, 0x21);
		assert_int_equal(guest_sregs(&g).cr0 & CR0_WP_BIT, 0);
		assert_int_equal(guest_sregs(&g).cr4, 0x20);
		if (row == SMM_OWN_LIES)
			memcpy(smram + 0x8000 + 0x7f58, &cr0, 8);
		assert_int_equal(guest_counters(&g).denied_cr + guest_counters(&g).denied_fetch + guest_counters(&g).denied_reg, 0);
	}
	if (row == SMM_OWN) {
		expect_port(&g, 0x11);
		s = guest_sregs(&g);
		assert_int_equal(s.cr0, before.cr0);
		assert_int_equal(s.cr4, before.cr4);
		assert_int_equal(guest_counters(&g).denied_cr + guest_counters(&g).denied_fetch + guest_counters(&g).denied_reg, 0);
	} else if (row == SMM_OWN_LIES) {
		assert_int_equal(rig_run(&g.rig), 0);
		assert_int_equal(g.rig.run->exit_reason, KVM_EXIT_SHUTDOWN);
		assert_int_equal(guest_counters(&g).denied_cr, 1);
	}
	guest_close(&g);
	munmap(smram, 0x10000);
}

static void system_management_mode(void **state)
{
	for (unsigned row = SMM_OWN; row <= SMM_SAME; row++) {
		smm_one((enum smm_row)row, 0);
		smm_one((enum smm_row)row, GW_HEKI_POLICY_LOCK_REGISTERS);
	}
}

/* ---- hypercall 14 of a guest that its owner has locked ----------------------------------------------------------------------------- */

struct list { uint64_t next, next_pa, n; struct { uint64_t pa, epa, p; } e[4]; };

/* Permissions: 1 read, 2 write, 4 execute, 8 immutable. */
static const struct request { const char *name; uint64_t pa, pages, p; int64_t want; } requests[] = {
	{ "text cannot be made writable again", K_CODE, 1, 3, -1 },
	{ "constants cannot be made writable again", K_RODATA, 1, 3, -1 },
	{ "data cannot be made executable", G_DATA, 1, 5, -1 },
	{ "immutable data cannot be made executable", G_DATA, 1, 13, -1 },
	{ "data can be made read-only", G_DATA, 1, 1, 0 },
	{ "data can be said to be what it is", G_DATA, 4, 3, 0 },
};

static void requests_after_the_lock(void **state)
{
	const struct request *r = *state;
	uint64_t before;
	struct guest g;
	struct list *l;

	kernel_open(&g, NULL);
	kernel_lock(&g);
	before = kernel_attributes(&g, r->pa);
	l = memset(g.rig.ram + LIST, 0, sizeof(*l));
	l->n = 2;
	l->e[0].pa = LIST;
	l->e[0].epa = LIST + PAGE;
	l->e[0].p = 1;
	l->e[1].pa = r->pa;
	l->e[1].epa = r->pa + r->pages * PAGE;
	l->e[1].p = r->p;
	emit_hypercall(&g, 14, LIST, 0, 0);
	emit_hlt(&g);
	assert_int_equal((int64_t)guest_result(&g), r->want);
	if (r->want) {
		assert_int_equal(kernel_attributes(&g, r->pa), before);
		assert_int_equal(kernel_attributes(&g, LIST) & GW_HEKI_NW, 0);
	} else {
		assert_int_equal(kernel_attributes(&g, r->pa) & (GW_HEKI_NW | GW_HEKI_NXS), GW_HEKI_NXS | (r->p & 2 ? 0 : GW_HEKI_NW));
	}
	guest_close(&g);
}

#define ROWS(rows) (sizeof(rows) / sizeof((rows)[0]))

int main(void)
{
	static const struct CMUnitTest fixed[] = {
		{ "the lock finds text, constants and data", what_the_lock_finds, NULL, NULL, NULL },
		{ "text and constants keep their contents when the tables say writable", stores_and_calls, NULL, NULL, NULL },
		{ "a call of new code: sealed, refused or run, by policy", calls_of_new_code, NULL, NULL, NULL },
		{ "sealed code that is unmapped is zeroed at the next store", code_that_goes, NULL, NULL, NULL },
		{ "a program in a pack that was there: run, or under frozen shown and never run", programs_in_packs, NULL, NULL, NULL },
		{ "constants made to look like patch tables cost no more than their size", made_up_tables, NULL, NULL, NULL },
		{ "what touches nothing sealed leaves the fast path no oftener than without a lock", costs_nothing_elsewhere, NULL, NULL, NULL },
		{ "system management mode: the platform's handler runs under pins, RSM must bring them back, other memory is no handler",
		  system_management_mode, NULL, NULL, NULL },
		{ "the client's own mapping follows the rights, for all addresses at once too", shield_follows, NULL, NULL, NULL },
	};
	static struct CMUnitTest tests[ROWS(fixed) + ROWS(requests)];
	unsigned n = 0;

	for (unsigned i = 0; i < ROWS(fixed); i++)
		tests[n++] = fixed[i];
	for (unsigned i = 0; i < ROWS(requests); i++)
		tests[n++] = (struct CMUnitTest){ requests[i].name, requests_after_the_lock, NULL, NULL, (void *)(uintptr_t)&requests[i] };
	return _cmocka_run_group_tests("kernel", tests, n, NULL, NULL);
}
