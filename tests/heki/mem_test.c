/* SPDX-License-Identifier: MIT */
/*
 * Page permissions, from a 64-bit guest through the ioctls: every right against every kind of access and level, hypercall 14 and
 * its errors, the denial exit and its actions, and the writers that the published series forgot.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "guest.h"

#define PAGE	0x1000u
#define LIST	0x34000u

static struct gw_run_heki_denial *denial(struct guest *g) { return (void *)g->rig.run->padding; }
static struct gw_run_heki_configure *configure(struct guest *g) { return (void *)g->rig.run->padding; }

static void again(struct guest *g, unsigned cpl)
{
	guest_start(g, cpl);
}

/* ---- rights by kinds of access ------------------------------------------------------------------------------------------------- */

enum kind { READ, WRITE, RMW, FETCH, N_KINDS };

static void emit_access(struct guest *g, enum kind kind)
{
	emit_mov(g, R_BX, G_DATA);
	switch (kind) {
	case READ: EMIT(g, 0x8a, 0x03); break;		/* mov (%rbx),%al */
	case WRITE: EMIT(g, 0xc6, 0x03, 0x77); break;	/* movb $0x77,(%rbx) */
	case RMW: EMIT(g, 0xf0, 0xfe, 0x03); break;	/* lock incb (%rbx) */
	default: EMIT(g, 0xff, 0xe3);			/* jmp *%rbx */
	}
	EMIT(g, 0x0f, 0x0b);
}

static uint64_t needs(enum kind kind)
{
	return kind == READ ? GW_HEKI_NR : kind == WRITE ? GW_HEKI_NW : kind == RMW ? GW_HEKI_NR | GW_HEKI_NW : GW_HEKI_NXS | GW_HEKI_NXU;
}

/* The data page is a user page; SMEP is off where the kernel jumps there. */
static void one_access(unsigned attributes, enum kind kind, unsigned cpl, bool locked)
{
	static const uint64_t bits[] = { GW_HEKI_NR, GW_HEKI_NW, GW_HEKI_NXS, GW_HEKI_NXU };
	uint64_t a = 0, needed = needs(kind);
	struct gw_heki_state lock = { .locked = locked };
	struct kvm_sregs s;
	struct guest g;
	bool denied;
	int vector;

	for (unsigned i = 0; i < 4; i++)
		if (attributes & 1u << i)
			a |= bits[i];
	if (a & GW_HEKI_NR && (a & (GW_HEKI_NW | GW_HEKI_NXS | GW_HEKI_NXU)) != (GW_HEKI_NW | GW_HEKI_NXS | GW_HEKI_NXU))
		return;
	/* Before the lock U/S of the translation counts (a user page here), afterwards the level. */
	if (kind == FETCH)
		needed = locked && !cpl ? GW_HEKI_NXS : GW_HEKI_NXU;
	denied = a & needed;
	guest_open(&g);
	assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_SET_STATE, &lock), 0);
	again(&g, cpl);
	s = guest_sregs(&g);
	s.cr4 &= ~CR4_SMEP_BIT;
	guest_set_sregs(&g, &s);
	memcpy(g.rig.ram + G_DATA, "\x0f\x0b\x0f\x0b", 4);
	guest_protect(&g, G_DATA, PAGE, a);
	emit_access(&g, kind);
	vector = guest_vector(&g);
	if (!denied) {
		assert_int_equal(vector, 6);
	} else if (cpl) {
		assert_int_equal(vector, 13);
		assert_int_equal(guest_error(&g), 0);
	} else {
		/* A double RMW denial is told as a write; reads first where only R is missing. */
		uint64_t code = kind == FETCH ? 0x19 : kind != READ && a & GW_HEKI_NW ? 0xb : 0x9;

		assert_int_equal(vector, 14);
		assert_int_equal(guest_error(&g), code);
		assert_int_equal(guest_cr2(&g), G_DATA);
	}
	if (denied)
		assert_memory_equal(g.rig.ram + G_DATA, "\x0f\x0b\x0f\x0b", 4);
	assert_int_equal(guest_counters(&g).denied_read + guest_counters(&g).denied_write + guest_counters(&g).denied_fetch, denied);
	guest_close(&g);
}

static void every_right_by_every_access(void **state)
{
	for (unsigned a = 0; a < 16; a++)
		for (unsigned kind = 0; kind < N_KINDS; kind++)
			for (unsigned cpl = 0; cpl <= 3; cpl += 3)
				for (unsigned locked = 0; locked < 2; locked++)
					one_access(a, (enum kind)kind, cpl, locked);
}

static void rfc_codes(void **state)
{
	static const struct { uint64_t a; enum kind kind; uint64_t code; } rows[] = {
		{ GW_HEKI_NW, WRITE, 3 }, { GW_HEKI_NX, FETCH, 0x11 },
	};
	struct gw_heki_policy p = { .inject = GW_HEKI_INJECT_RFC };

	for (unsigned i = 0; i < 2; i++) {
		struct kvm_sregs s;
		struct guest g;

		guest_open(&g);
		assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_SET_POLICY, &p), 0);
		guest_protect(&g, G_DATA, PAGE, rows[i].a);
		again(&g, 0);
		s = guest_sregs(&g);
		s.cr4 &= ~CR4_SMEP_BIT;
		guest_set_sregs(&g, &s);
		emit_access(&g, rows[i].kind);
		assert_int_equal(guest_vector(&g), 14);
		assert_int_equal(guest_error(&g), rows[i].code);
		guest_close(&g);
	}
}

/* ---- hypercall 14 ------------------------------------------------------------------------------------------------------------------- */

struct list { uint64_t next, next_pa, n; struct { uint64_t pa, epa, p; } e[169]; };

static struct list *list_at(struct guest *g, uint64_t gpa)
{
	return memset(g->rig.ram + gpa, 0, sizeof(struct list));
}

static int64_t protect(struct guest *g, uint64_t pa, uint64_t epa, uint64_t p)
{
	struct list *l = list_at(g, LIST);

	l->n = 1;
	l->e[0].pa = pa;
	l->e[0].epa = epa;
	l->e[0].p = p;
	return guest_hypercall(g, 14, LIST, 0, 0);
}

static const struct entry { const char *name; uint64_t pa, epa, p; int64_t want; } entries[] = {
	{ "a read-only page is taken", G_DATA, G_DATA + PAGE, 1, 0 },
	{ "read and execute is taken", G_DATA, G_DATA + PAGE, 5, 0 },
	{ "immutable alone is taken", G_DATA, G_DATA + PAGE, 8, 0 },
	{ "an unaligned start is refused", G_DATA + 8, G_DATA + PAGE, 1, -22 },
	{ "an unaligned end is refused", G_DATA, G_DATA + PAGE + 1, 1, -22 },
	{ "no permission at all is refused", G_DATA, G_DATA + PAGE, 0, -22 },
	{ "an unknown permission is refused", G_DATA, G_DATA + PAGE, 0x10, -22 },
	{ "a high unknown permission is refused", G_DATA, G_DATA + PAGE, 1ull << 40 | 1, -22 },
	{ "an empty range is refused", G_DATA, G_DATA, 1, -22 },
	{ "a range backwards is refused", G_DATA + PAGE, G_DATA, 1, -22 },
	{ "write and execute together is refused", G_DATA, G_DATA + PAGE, 7, -22 },
	{ "a range past memory is refused", G_DATA, RIG_RAM + PAGE, 1, -22 },
	{ "a range of all addresses is refused", 0, 1ull << 52, 1, -22 },
	{ "a range that ends at 2^64 is refused", G_DATA, ~0ull << 12, 1, -22 },
};

static void check_entry(void **state)
{
	const struct entry *e = *state;
	struct gw_heki_attributes a = { 0 };
	struct guest g;

	guest_open(&g);
	assert_int_equal(protect(&g, e->pa, e->epa, e->p), e->want);
	assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_GET_ATTRIBUTES, &a), e->want ? -ENOENT : 0);
	guest_close(&g);
}

static void lists_that_lie(void **state)
{
	struct guest g;
	struct list *l;

	guest_open(&g);
	assert_int_equal(guest_hypercall(&g, 14, 0, 0, 0), 0);
	assert_int_equal(guest_hypercall(&g, 14, RIG_RAM, 0, 0), -14);
	assert_int_equal(guest_hypercall(&g, 14, 1ull << 52, 0, 0), -14);
	assert_int_equal(guest_hypercall(&g, 14, LIST + 8, 0, 0), -22);
	l = list_at(&g, LIST);
	l->n = 170;
	assert_int_equal(guest_hypercall(&g, 14, LIST, 0, 0), -22);
	l->n = ~0ull;
	assert_int_equal(guest_hypercall(&g, 14, LIST, 0, 0), -22);
	l->n = 0;
	assert_int_equal(guest_hypercall(&g, 14, LIST, 0, 0), 0);
	l->next_pa = LIST;	/* a cycle ends */
	assert_int_equal(guest_hypercall(&g, 14, LIST, 0, 0), -7);
	l->next_pa = RIG_RAM;
	assert_int_equal(guest_hypercall(&g, 14, LIST, 0, 0), -14);
	/* From user mode nothing is looked at. */
	guest_start(&g, 3);
	emit_hypercall(&g, 14, RIG_RAM, 0, 0);
	EMIT(&g, 0x0f, 0x0b);
	assert_int_equal(guest_vector(&g), 6);
	assert_int_equal(guest_regs(&g).rax, (uint64_t)-1);
	guest_close(&g);
}

/* The newest page comes first in the chain and is applied last; a failing entry undoes all. */
static void order_and_atomicity(void **state)
{
	struct gw_heki_attributes a = { .address = G_DATA };
	struct list *newest, *oldest;
	struct guest g;

	guest_open(&g);
	newest = list_at(&g, LIST);
	oldest = list_at(&g, LIST + PAGE);
	newest->next_pa = LIST + PAGE;
	newest->n = oldest->n = 1;
	oldest->e[0].pa = newest->e[0].pa = G_DATA;
	oldest->e[0].epa = newest->e[0].epa = G_DATA + PAGE;
	oldest->e[0].p = 1;
	newest->e[0].p = 3;
	assert_int_equal(guest_hypercall(&g, 14, LIST, 0, 0), 0);
	assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_GET_ATTRIBUTES, &a), 0);
	assert_int_equal(a.address, G_DATA);
	assert_int_equal(a.size, PAGE);
	assert_int_equal(a.attributes, GW_HEKI_NXS);
	/* Immutable in the older one, touched by the newer: refused, and nothing of it stays. */
	oldest->e[0].p = 9;
	assert_int_equal(guest_hypercall(&g, 14, LIST, 0, 0), -1);
	a = (struct gw_heki_attributes){ .address = G_DATA };
	assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_GET_ATTRIBUTES, &a), 0);
	assert_int_equal(a.attributes, GW_HEKI_NXS);
	guest_close(&g);
}

static void immutable_binds_the_guest(void **state)
{
	struct guest g;

	guest_open(&g);
	assert_int_equal(protect(&g, G_DATA, G_DATA + 2 * PAGE, 9), 0);
	assert_int_equal(protect(&g, G_DATA, G_DATA + PAGE, 3), -1);
	assert_int_equal(protect(&g, G_DATA, G_DATA + PAGE, 9), -1);
	assert_int_equal(protect(&g, G_DATA - PAGE, G_DATA + PAGE, 1), -1);
	assert_int_equal(protect(&g, G_DATA + 2 * PAGE, G_DATA + 3 * PAGE, 1), 0);
	/* The client may. */
	guest_protect(&g, G_DATA, PAGE, 0);
	again(&g, 0);
	emit_access(&g, WRITE);
	assert_int_equal(guest_vector(&g), 6);
	guest_close(&g);
}

/* Taking a right away again works although the page has an entry already (the series ignores it). */
static void tightening_tightens(void **state)
{
	struct guest g;

	guest_open(&g);
	assert_int_equal(protect(&g, G_DATA, G_DATA + PAGE, 3), 0);
	again(&g, 0);
	emit_access(&g, WRITE);
	assert_int_equal(guest_vector(&g), 6);
	assert_int_equal(protect(&g, G_DATA, G_DATA + PAGE, 1), 0);
	again(&g, 0);
	emit_access(&g, WRITE);
	assert_int_equal(guest_vector(&g), 14);
	guest_close(&g);
}

static void client_is_asked(void **state)
{
	for (unsigned refuse = 0; refuse < 2; refuse++) {
		struct guest g;
		struct list *l;

		guest_open(&g);
		guest_enable(&g, KVM_CAP_HEKI_CONFIGURE, KVM_HEKI_EXIT_REASON_MEM);
		l = list_at(&g, LIST);
		l->n = 2;
		l->e[0].pa = G_DATA;
		l->e[0].epa = G_DATA + 2 * PAGE;
		l->e[0].p = 1;
		l->e[1] = l->e[0];
		l->e[1].pa += 3 * PAGE;
		l->e[1].epa += 2 * PAGE;
		guest_start(&g, 0);
		emit_hypercall(&g, 14, LIST, 0, 0);
		emit_hlt(&g);
		assert_int_equal(rig_run(&g.rig), 0);
		assert_int_equal(g.rig.run->exit_reason, KVM_EXIT_HEKI_CONFIGURE);
		assert_int_equal(configure(&g)->reason, KVM_HEKI_EXIT_REASON_MEM);
		assert_int_equal(configure(&g)->mem.gpa, G_DATA);
		assert_int_equal(configure(&g)->mem.pages, 3);
		assert_int_equal(configure(&g)->mem.list, LIST);
		/* What the guest writes now does not count: it was read once. */
		l->e[0].p = 8;
		configure(&g)->mem.refuse = refuse;
		assert_int_equal(guest_result(&g), refuse ? (uint64_t)-1 : 0);
		again(&g, 0);
		emit_access(&g, WRITE);
		assert_int_equal(guest_vector(&g), refuse ? 6 : 14);
		again(&g, 0);
		emit_access(&g, READ);
		assert_int_equal(guest_vector(&g), 6);
		guest_close(&g);
	}
}

/* ---- the exit ------------------------------------------------------------------------------------------------------------------------ */

static void denial_payload(void **state)
{
	struct guest g;
	uint64_t rip;

	guest_open(&g);
	guest_protect(&g, G_DATA, PAGE, GW_HEKI_NW);
	guest_enable(&g, KVM_CAP_HEKI_DENIAL, KVM_HEKI_EXIT_REASON_MEM);
	again(&g, 0);
	rip = g.base + 10;
	emit_access(&g, WRITE);
	assert_int_equal(rig_run(&g.rig), 0);
	assert_int_equal(g.rig.run->exit_reason, KVM_EXIT_HEKI_DENIAL);
	assert_int_equal(denial(&g)->reason, KVM_HEKI_EXIT_REASON_MEM);
	assert_int_equal(denial(&g)->mem.gpa, G_DATA);
	assert_int_equal(denial(&g)->mem.gva, G_DATA);
	assert_int_equal(denial(&g)->mem.access, GW_HEKI_ACCESS_W | GW_HEKI_ACCESS_USER | GW_HEKI_ACCESS_GVA);
	assert_int_equal(denial(&g)->mem.attributes, 1 | 4 | 8);
	assert_int_equal(denial(&g)->mem.rip, rip);
	assert_int_equal(denial(&g)->mem.cr3, G_PML4);
	assert_int_equal(denial(&g)->mem.action, GW_HEKI_INJECT);
	assert_int_equal(guest_regs(&g).rip, rip);
	assert_int_equal(g.rig.ram[G_DATA], 0);
	/* One exit, one event; then the exception. */
	assert_int_equal(guest_vector(&g), 14);
	assert_int_equal(guest_counters(&g).exits, 1);
	assert_int_equal(guest_counters(&g).denied_write, 1);
	guest_close(&g);
}

static void denial_actions(void **state)
{
	struct guest g;

	/* Retry after the client has opened the page. */
	guest_open(&g);
	guest_protect(&g, G_DATA, PAGE, GW_HEKI_NW);
	guest_enable(&g, KVM_CAP_HEKI_DENIAL, KVM_HEKI_EXIT_REASON_MEM);
	again(&g, 0);
	emit_access(&g, RMW);
	assert_int_equal(rig_run(&g.rig), 0);
	denial(&g)->mem.action = GW_HEKI_RETRY;
	assert_int_equal(rig_run(&g.rig), 0);
	assert_int_equal(g.rig.run->exit_reason, KVM_EXIT_HEKI_DENIAL);
	guest_protect(&g, G_DATA, PAGE, 0);
	denial(&g)->mem.action = GW_HEKI_RETRY;
	assert_int_equal(guest_vector(&g), 6);
	assert_int_equal(g.rig.ram[G_DATA], 1);
	guest_close(&g);

	/* Ignore, twice in a row: each is asked about. */
	guest_open(&g);
	guest_protect(&g, G_DATA, PAGE, GW_HEKI_NW);
	guest_enable(&g, KVM_CAP_HEKI_DENIAL, KVM_HEKI_EXIT_REASON_MEM);
	again(&g, 0);
	emit_mov(&g, R_BX, G_DATA);
	EMIT(&g, 0xc6, 0x03, 0x77, 0xc6, 0x03, 0x78, 0x8a, 0x03, 0x0f, 0x0b);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(rig_run(&g.rig), 0);
		assert_int_equal(g.rig.run->exit_reason, KVM_EXIT_HEKI_DENIAL);
		assert_int_equal(guest_regs(&g).rip, g.base + 10 + i * 3);
		denial(&g)->mem.action = GW_HEKI_IGNORE;
	}
	assert_int_equal(guest_vector(&g), 6);
	assert_int_equal(g.rig.ram[G_DATA], 0);
	assert_int_equal(guest_counters(&g).denied_write, 2);
	guest_close(&g);

	/* Across two closed pages: two questions, then the write vanishes whole. */
	guest_open(&g);
	guest_protect(&g, G_DATA, 2 * PAGE, GW_HEKI_NW);
	guest_enable(&g, KVM_CAP_HEKI_DENIAL, KVM_HEKI_EXIT_REASON_MEM);
	again(&g, 0);
	emit_mov(&g, R_BX, G_DATA + PAGE - 4);
	EMIT(&g, 0x48, 0x89, 0x03, 0x0f, 0x0b);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(rig_run(&g.rig), 0);
		assert_int_equal(g.rig.run->exit_reason, KVM_EXIT_HEKI_DENIAL);
		assert_int_equal(denial(&g)->mem.gpa, i ? G_DATA + PAGE : G_DATA + PAGE - 4);
		denial(&g)->mem.action = GW_HEKI_IGNORE;
	}
	assert_int_equal(guest_vector(&g), 6);
	guest_close(&g);

	guest_open(&g);
	guest_protect(&g, G_DATA, PAGE, GW_HEKI_NW);
	guest_enable(&g, KVM_CAP_HEKI_DENIAL, KVM_HEKI_EXIT_REASON_MEM);
	again(&g, 0);
	emit_access(&g, WRITE);
	assert_int_equal(rig_run(&g.rig), 0);
	denial(&g)->mem.action = GW_HEKI_SHUTDOWN;
	assert_int_equal(rig_run(&g.rig), 0);
	assert_int_equal(g.rig.run->exit_reason, KVM_EXIT_SHUTDOWN);
	guest_close(&g);
}

/* A denied exception frame: told first, then #DF by the contributory rules, its stack denied too: shutdown. */
static void denied_frame(void **state)
{
	struct guest g;

	guest_open(&g);
	guest_protect(&g, G_STACK - PAGE, PAGE, GW_HEKI_NW);
	guest_enable(&g, KVM_CAP_HEKI_DENIAL, KVM_HEKI_EXIT_REASON_MEM);
	again(&g, 0);
	EMIT(&g, 0x0f, 0x0b);
	assert_int_equal(rig_run(&g.rig), 0);
	assert_int_equal(g.rig.run->exit_reason, KVM_EXIT_HEKI_DENIAL);
	assert_int_equal(denial(&g)->mem.access & GW_HEKI_ACCESS_W, GW_HEKI_ACCESS_W);
	for (unsigned i = 0; i < 4 && g.rig.run->exit_reason == KVM_EXIT_HEKI_DENIAL; i++) {
		denial(&g)->mem.action = GW_HEKI_INJECT;
		assert_int_equal(rig_run(&g.rig), 0);
	}
	assert_int_equal(g.rig.run->exit_reason, KVM_EXIT_SHUTDOWN);
	guest_close(&g);
}

/* ---- the writers that were forgotten ------------------------------------------------------------------------------------------------------ */

static void port_input(void **state)
{
	struct guest g;

	guest_open(&g);
	guest_protect(&g, G_DATA, PAGE, GW_HEKI_NW);
	again(&g, 0);
	emit_mov(&g, R_DI, G_DATA - 2);		/* the second element is on the closed page */
	emit_mov(&g, R_CX, 4);
	emit_mov(&g, R_DX, 0x60);
	EMIT(&g, 0xf3, 0x6d, 0x0f, 0x0b);	/* rep insl, across the border */
	do {
		assert_int_equal(rig_run(&g.rig), 0);
		if (g.rig.run->exit_reason == KVM_EXIT_IO)
			memset((uint8_t *)g.rig.run + g.rig.run->io.data_offset, 0xee, 64);
	} while (g.rig.run->exit_reason == KVM_EXIT_IO);
	assert_int_equal(guest_regs(&g).r15, 14);
	assert_int_equal(g.rig.ram[G_DATA], 0);
	assert_int_equal(g.rig.ram[G_DATA - 1], 0);	/* judged whole before any byte */
	assert_int_equal(guest_regs(&g).rcx, 4);
	guest_close(&g);
}

static void wall_clock(void **state)
{
	struct guest g;

	guest_open(&g);
	memset(g.rig.ram + G_DATA, 0x5a, 64);
	guest_protect(&g, G_DATA, PAGE, GW_HEKI_NW);
	again(&g, 0);
	emit_mov(&g, R_CX, 0x4b564d00);
	emit_mov(&g, R_AX, G_DATA);
	emit_mov(&g, R_DX, 0);
	EMIT(&g, 0x0f, 0x30);
	emit_mov(&g, R_CX, 0x4b564d01);		/* and the system time, by each of its MSRs */
	emit_mov(&g, R_AX, G_DATA | 1);
	EMIT(&g, 0x0f, 0x30);
	emit_mov(&g, R_CX, 0x4b564d03);		/* steal time */
	EMIT(&g, 0x0f, 0x30, 0x0f, 0x0b);
	guest_vector(&g);
	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(g.rig.ram[G_DATA + i], 0x5a);
	assert_true(guest_counters(&g).denied_pv > 0);
	guest_close(&g);
}

/* Page tables: no A or D bit in a table page without W, no translation by one without R. */
static void walks(void **state)
{
	uint64_t entry, before;
	struct guest g;

	guest_open(&g);
	guest_protect(&g, G_PT, PAGE, GW_HEKI_NW);
	memcpy(&before, g.rig.ram + G_PT + (G_CODE >> 12) * 8, 8);
	again(&g, 0);
	emit_hlt(&g);
	/* Not even the first instruction, nor its fault's frame: A bits would have to be set. */
	assert_int_equal(rig_run(&g.rig), 0);
	assert_int_equal(g.rig.run->exit_reason, KVM_EXIT_SHUTDOWN);
	memcpy(&entry, g.rig.ram + G_PT + (G_CODE >> 12) * 8, 8);
	assert_int_equal(entry, before);
	assert_true(guest_counters(&g).denied_walk > 0);
	guest_close(&g);

	/* With A and D set beforehand there is nothing to write. */
	guest_open(&g);
	for (unsigned i = 0; i < 512; i++)
		g.rig.ram[G_PT + i * 8] |= 0x60;
	guest_protect(&g, G_PT, PAGE, GW_HEKI_NW);
	again(&g, 0);
	emit_access(&g, WRITE);
	assert_int_equal(guest_vector(&g), 6);
	assert_int_equal(guest_counters(&g).denied_walk, 0);
	guest_protect(&g, G_PT, PAGE, GW_HEKI_NR | GW_HEKI_NW | GW_HEKI_NX);
	again(&g, 0);
	emit_hlt(&g);
	assert_int_equal(rig_run(&g.rig), 0);
	assert_int_equal(g.rig.run->exit_reason, KVM_EXIT_SHUTDOWN);
	guest_close(&g);
}

static void frames_and_descriptors(void **state)
{
	struct kvm_sregs s;
	struct guest g;

	/* The accessed bit of a descriptor that lies in a closed page. */
	guest_open(&g);
	g.rig.ram[G_GDT + 16 + 5] &= 0xfe;
	guest_protect(&g, G_GDT, PAGE, GW_HEKI_NW);
	again(&g, 0);
	emit_mov(&g, R_AX, 16);
	EMIT(&g, 0x8e, 0xd8, 0x0f, 0x0b);	/* mov %eax,%ds */
	assert_int_equal(guest_vector(&g), 14);
	assert_int_equal(g.rig.ram[G_GDT + 16 + 5] & 1, 0);
	guest_close(&g);

	/* A fetch with paging off, after the lock: what INIT-SIPI would do with low memory. */
	guest_open(&g);
	assert_int_equal(guest_hypercall(&g, 13, 0, CR0_WP_BIT, 0), 0);
	guest_protect(&g, 0x8000, PAGE, GW_HEKI_NXS);
	assert_int_equal(rig_ioctl(g.rig.vcpu, KVM_GET_SREGS, &s), 0);
	s.cr0 = 0x60000010;
	s.cr4 = s.cr3 = s.efer = 0;
	s.cs = (struct kvm_segment){ .limit = 0xffff, .type = 11, .present = 1, .s = 1 };
	s.ds = s.es = s.ss = (struct kvm_segment){ .limit = 0xffff, .type = 3, .present = 1, .s = 1 };
	assert_int_equal(rig_ioctl(g.rig.vcpu, KVM_SET_SREGS, &s), 0);
	g.rig.ram[0x8000] = 0xf4;
	assert_int_equal(rig_ioctl(g.rig.vcpu, KVM_SET_REGS, (&(struct kvm_regs){ .rip = 0x8000, .rflags = 2 })), 0);
	assert_int_equal(rig_run(&g.rig), 0);
	assert_int_not_equal(g.rig.run->exit_reason, KVM_EXIT_HLT);
	assert_true(guest_counters(&g).denied_fetch > 0);
	guest_close(&g);
}

/* Of an access across two pages nothing is done when one is closed. */
static void page_crossing(void **state)
{
	for (unsigned which = 0; which < 2; which++) {
		struct guest g;

		guest_open(&g);
		guest_protect(&g, G_DATA + which * PAGE, PAGE, GW_HEKI_NW);
		again(&g, 0);
		emit_mov(&g, R_AX, ~0ull);
		emit_mov(&g, R_BX, G_DATA + PAGE - 4);
		EMIT(&g, 0x48, 0x89, 0x03, 0x0f, 0x0b);
		assert_int_equal(guest_vector(&g), 14);
		assert_int_equal(guest_cr2(&g), which ? G_DATA + PAGE : G_DATA + PAGE - 4);
		for (unsigned i = 0; i < 8; i++)
			assert_int_equal(g.rig.ram[G_DATA + PAGE - 4 + i], 0);
		guest_close(&g);
	}
}

/* What a vCPU remembers of a page goes when the right goes: data and decoded code, mid-run. */
static void narrowing_is_felt(void **state)
{
	struct kvm_sregs s;
	struct guest g;

	guest_open(&g);
	again(&g, 0);
	s = guest_sregs(&g);
	s.cr4 &= ~CR4_SMEP_BIT;
	guest_set_sregs(&g, &s);
	/* call into the data page; out 1: the client closes it; call again. */
	memcpy(g.rig.ram + G_DATA, "\xc3", 1);
	emit_mov(&g, R_BX, G_DATA);
	EMIT(&g, 0xff, 0xd3, 0xe6, 0x01, 0xff, 0xd3, 0x0f, 0x0b);
	assert_int_equal(rig_run(&g.rig), 0);
	assert_int_equal(g.rig.run->exit_reason, KVM_EXIT_IO);
	guest_protect(&g, G_DATA, PAGE, GW_HEKI_NX);
	assert_int_equal(guest_vector(&g), 14);
	assert_int_equal(guest_error(&g), 0x19);
	guest_close(&g);
}

/* ---- the client's interface -------------------------------------------------------------------------------------------------------------- */

static void client_errors(void **state)
{
	static const struct { struct gw_heki_attributes a; long want; } rows[] = {
		{ { .address = 1, .size = PAGE, .mask = GW_HEKI_NW }, -EINVAL },
		{ { .address = 0, .size = 0, .mask = GW_HEKI_NW }, -EINVAL },
		{ { .address = 0, .size = PAGE + 1, .mask = GW_HEKI_NW }, -EINVAL },
		{ { .address = 0, .size = PAGE, .mask = 1ull << 3 }, -EINVAL },		/* KVM's PRIVATE */
		{ { .address = 0, .size = PAGE, .attributes = GW_HEKI_NW }, -EINVAL },
		{ { .address = 0, .size = PAGE, .attributes = GW_HEKI_NR, .mask = 7 }, -EINVAL },
		{ { .address = 0, .size = PAGE, .mask = 7, .flags = 2 }, -EINVAL },
		{ { .address = 0, .size = PAGE, .mask = 7, .flags = GW_HEKI_ATTR_CLEAR }, -EINVAL },
		{ { .address = 1ull << 52, .size = PAGE, .mask = 7 }, -EINVAL },
		{ { .address = ~0ull << 12, .size = 2 * PAGE, .mask = 7 }, -EINVAL },
		{ { .address = 0, .size = PAGE, .attributes = 7, .mask = 7 }, 0 },
		{ { .address = 0, .size = PAGE, .flags = GW_HEKI_ATTR_CLEAR }, 0 },
		{ { .address = 0, .size = 1ull << 52, .attributes = GW_HEKI_NX, .mask = GW_HEKI_NX }, 0 },
	};
	struct rig r;

	rig_open(&r, RIG_NO_VCPU);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct gw_heki_attributes a = rows[i].a;

		assert_int_equal(rig_ioctl(r.vm, GW_HEKI_SET_ATTRIBUTES, &a), rows[i].want);
	}
	rig_close(&r);
}

/* Only masked bits change; what is read back can be set elsewhere. */
static void attributes_round_trip(void **state)
{
	struct gw_heki_attributes a = { .address = G_DATA, .size = PAGE, .attributes = GW_HEKI_IMMUTABLE, .mask = GW_HEKI_IMMUTABLE };
	struct guest g;

	guest_open(&g);
	guest_protect(&g, G_DATA, PAGE, GW_HEKI_NW | GW_HEKI_NXS);
	assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_SET_ATTRIBUTES, &a), 0);
	a = (struct gw_heki_attributes){ 0 };
	assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_GET_ATTRIBUTES, &a), 0);
	assert_int_equal(a.address, G_DATA);
	assert_int_equal(a.size, PAGE);
	assert_int_equal(a.attributes, GW_HEKI_NW | GW_HEKI_NXS | GW_HEKI_IMMUTABLE);
	a.address += a.size;
	a.attributes = 0;
	assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_GET_ATTRIBUTES, &a), -ENOENT);
	guest_close(&g);
}

/* A guest denied in a loop: all counted, one record. */
static void a_loop_of_denials(void **state)
{
	struct gw_heki_event e;
	struct guest g;

	guest_open(&g);
	guest_protect(&g, G_DATA, PAGE, GW_HEKI_NW);
	again(&g, 0);
	/* The #PF handler: add $48,%rsp, dec %ecx, jnz back, else halt. */
	memcpy(g.rig.ram + G_STUBS + 14 * 16, "\x48\x83\xc4\x30\xff\xc9\x74\x02\xff\xe6\xf4", 11);
	emit_mov(&g, R_CX, 5000);
	emit_mov(&g, R_BX, G_DATA);
	emit_mov(&g, R_SI, g.base + g.len + 10);
	EMIT(&g, 0xc6, 0x03, 0x77);
	assert_int_equal(rig_run(&g.rig), 0);
	assert_int_equal(g.rig.run->exit_reason, KVM_EXIT_HLT);
	assert_int_equal(guest_regs(&g).rcx, 0);
	assert_int_equal(guest_counters(&g).denied_write, 5000);
	e = guest_event(&g);
	assert_int_equal(e.kind, GW_HEKI_EV_DENIED);
	assert_int_equal(e.repeat, 4999);
	assert_int_equal(e.gpa, G_DATA);
	guest_close(&g);
}

#define ROWS(rows) (sizeof(rows) / sizeof((rows)[0]))

int main(void)
{
	static const struct CMUnitTest fixed[] = {
		{ "every right against every access, at both levels, before and after the lock", every_right_by_every_access, NULL, NULL, NULL },
		{ "the series' error codes on request", rfc_codes, NULL, NULL, NULL },
		{ "lists that lie about their length, place and end", lists_that_lie, NULL, NULL, NULL },
		{ "a list is applied oldest page first, as a whole or not at all", order_and_atomicity, NULL, NULL, NULL },
		{ "immutable binds the guest, not the client", immutable_binds_the_guest, NULL, NULL, NULL },
		{ "taking a right from a page with an entry takes it", tightening_tightens, NULL, NULL, NULL },
		{ "the client is asked about a list, and what it saw is what is applied", client_is_asked, NULL, NULL, NULL },
		{ "a denial exit says who, what and where", denial_payload, NULL, NULL, NULL },
		{ "the client's action on a denied access", denial_actions, NULL, NULL, NULL },
		{ "a denied exception frame is told before the shutdown", denied_frame, NULL, NULL, NULL },
		{ "port input does not write a closed page", port_input, NULL, NULL, NULL },
		{ "clocks and steal time do not write a closed page", wall_clock, NULL, NULL, NULL },
		{ "page walks obey the table page's rights", walks, NULL, NULL, NULL },
		{ "descriptor bits and code without paging are judged", frames_and_descriptors, NULL, NULL, NULL },
		{ "an access across pages is done whole or not at all", page_crossing, NULL, NULL, NULL },
		{ "a right that goes is felt by decoded code", narrowing_is_felt, NULL, NULL, NULL },
		{ "the client's mistakes", client_errors, NULL, NULL, NULL },
		{ "attributes can be read back, bit by bit", attributes_round_trip, NULL, NULL, NULL },
		{ "a loop of denials is counted whole and logged once", a_loop_of_denials, NULL, NULL, NULL },
	};
	static struct CMUnitTest tests[ROWS(fixed) + ROWS(entries)];
	unsigned n = 0;

	for (unsigned i = 0; i < ROWS(entries); i++)
		tests[n++] = (struct CMUnitTest){ entries[i].name, check_entry, NULL, NULL, (void *)(uintptr_t)&entries[i] };
	for (unsigned i = 0; i < ROWS(fixed); i++)
		tests[n++] = fixed[i];
	return _cmocka_run_group_tests("mem", tests, n, NULL, NULL);
}
