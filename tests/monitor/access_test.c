/* SPDX-License-Identifier: MIT */
/*
 * Memory accesses: the table of access types row by row, one event for each execution, page and kind whatever the instruction,
 * nothing committed before the answer, and what each answer does. The guarantees G1 to G9 by name, and the defects of the published
 * emulator hooks by number, in the names of the cases.
 */
#include "rig.h"

#define HLT	KVM_EXIT_HLT

static void plain(struct rig *r) { rig_open(r, 1); rig_attach(r, GW_MON_RELEASE); }

/* ---- access types ---------------------------------------------------------------------------------------------------------- */

/* mov al,[rbx] / mov [rbx],al / add [rbx],al / call rbx */
static const uint8_t reads[] = { 0x8a, 0x03, 0xf4 }, writes[] = { 0x88, 0x03, 0xf4 }, both[] = { 0x00, 0x03, 0xf4 }, fetches[] = { 0xff, 0xd3, 0xf4 };

static const struct type_row { const char *name; unsigned type; uint32_t r, w, rw, x; } types[] = {
#define R GW_MON_A_READ
#define W GW_MON_A_WRITE
#define X GW_MON_A_EXEC
	{ "n",		GW_MON_N,	R, W, R | W, X },
	{ "r",		GW_MON_R,	0, W, W, X },
	{ "w",		GW_MON_W,	R, 0, R, X },
	{ "rw",		GW_MON_RW,	0, 0, 0, X },
	{ "x",		GW_MON_X,	R, W, R | W, 0 },
	{ "rx",		GW_MON_RX,	0, W, W, 0 },
	{ "wx",		GW_MON_WX,	R, 0, R, 0 },
	{ "rwx",	GW_MON_RWX,	0, 0, 0, 0 },
};

static void one(struct rig *r, const uint8_t *code, size_t n, unsigned type, uint32_t expected)
{
	struct kvm_regs regs = { .rbx = PAGE_A, .rax = 0x5a };

	r->ram[PAGE_A] = 0xc3;		/* ret */
	rig_load(r, code, n, &regs);
	rig_access(r, 0, type, PAGE_A, 1);
	r->n_seen = 0;
	r->flags = GW_MON_ANS_ALLOW;
	assert_int_equal(rig_run(r), HLT);
	assert_int_equal(r->n_seen, expected ? 1 : 0);
	if (!expected)
		return;
	assert_int_equal(r->seen[0].reason, GW_MON_MEM_ACCESS);
	assert_int_equal(r->seen[0].u.mem.access, expected);
	assert_int_equal(r->seen[0].u.mem.gfn, PAGE_A >> 12);
	assert_int_equal(r->seen[0].u.mem.gla, PAGE_A);
	assert_int_equal(r->seen[0].regs.regs.rip, expected == X ? PAGE_A : CODE);
	assert_int_equal(r->before[0], 0xc3);		/* nothing yet */
}

static void access_types_row_by_row(void **state)
{
	static struct rig r;

	plain(&r);
	for (unsigned i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		one(&r, reads, sizeof(reads), types[i].type, types[i].r);
		one(&r, writes, sizeof(writes), types[i].type, types[i].w);
		assert_int_equal(r.ram[PAGE_A], 0x5a);
		one(&r, both, sizeof(both), types[i].type, types[i].rw);
		assert_int_equal(r.ram[PAGE_A], (uint8_t)(0xc3 + 0x5a));
		one(&r, fetches, sizeof(fetches), types[i].type, types[i].x);
	}
	rig_close(&r);
}

static void rx2rw_turns_silently_and_n2rwx_tells_once(void **state)
{
	struct kvm_regs regs = { .rbx = PAGE_A, .rax = 1 };
	uint64_t type;
	static struct rig r;

	plain(&r);
	rig_access(&r, 0, GW_MON_RX2RW, PAGE_A, 1);
	rig_load(&r, writes, sizeof(writes), &regs);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 0);
	rig_cmd(&r, GW_MON_OP_GET_ACCESS, 0, PAGE_A >> 12, 0, 0, 0, &type);
	assert_int_equal(type, GW_MON_RW);
	r.flags = GW_MON_ANS_ALLOW;
	r.ram[PAGE_A] = 0xc3;
	rig_load(&r, fetches, sizeof(fetches), &regs);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 1);		/* the later fetch */
	rig_access(&r, 0, GW_MON_N2RWX, PAGE_B, 1);
	regs.rbx = PAGE_B;
	rig_load(&r, reads, sizeof(reads), &regs);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 2);
	assert_false(r.seen[1].flags & GW_MON_F_SYNC);
	rig_cmd(&r, GW_MON_OP_GET_ACCESS, 0, PAGE_B >> 12, 0, 0, 0, &type);
	assert_int_equal(type, GW_MON_RWX);
	rig_close(&r);
}

/* ---- G1, G2, G4: each kind of instruction ---------------------------------------------------------------------------------- */

#define FAR_A	(FAR + PAGE_A)
#define NEVER	{ 0, 0 }

struct expected { uint64_t page; uint32_t access; };
static const struct insn_row {
	const char *name;
	uint8_t code[16];
	uint8_t n;
	struct kvm_regs regs;
	struct expected e[6];
	uint64_t rip;
} insns[] = {
	{ "two pages by one store: two events", { 0x48, 0x89, 0x03, 0xf4 }, 4, { .rbx = PAGE_A + 0xffc, .rax = 1 },
	  { { PAGE_A, W }, { PAGE_B, W } }, 0 },
	{ "both operands of MOVS (defect 4)", { 0xa4, 0xf4 }, 2, { .rsi = PAGE_A, .rdi = PAGE_B }, { { PAGE_A, R }, { PAGE_B, W } }, 0 },
	{ "XCHG is one event with both kinds", { 0x48, 0x87, 0x03, 0xf4 }, 4, { .rbx = PAGE_A }, { { PAGE_A, R | W } }, 0 },
	{ "PUSH from a watched page to a watched stack (defect 4)", { 0xff, 0x33, 0xf4 }, 3, { .rbx = PAGE_A, .rsp = PAGE_B + 0x100 },
	  { { PAGE_A, R }, { PAGE_B, W } }, 0 },
	{ "CALL with the stack there", { 0xe8, 0, 0, 0, 0, 0xf4 }, 6, { .rsp = PAGE_B + 0x100 }, { { PAGE_B, W } }, 0 },
	{ "two operands on one page: one event a kind", { 0xa4, 0xf4 }, 2, { .rsi = PAGE_A, .rdi = PAGE_A + 8 },
	  { { PAGE_A, R }, { PAGE_A, W } }, 0 },
	{ "REP MOVS, three elements: each asked about (defect 3)", { 0xf3, 0xa4, 0xf4 }, 3, { .rsi = PAGE_C, .rdi = PAGE_A, .rcx = 3 },
	  { { PAGE_A, W }, { PAGE_A, W }, { PAGE_A, W } }, 0 },
	{ "REP STOS into a watched page (defect 3)", { 0xf3, 0xaa, 0xf4 }, 3, { .rdi = PAGE_B - 1, .rcx = 2 }, { { PAGE_A, W }, { PAGE_B, W } }, 0 },
	{ "an instruction at a page's end whose next page is watched: no event (defect 5)", { 0x90, 0xf4 }, 2, { .rip = PAGE_A - 2 },
	  { NEVER }, PAGE_A - 2 },
	{ "LEAVE reads the stack", { 0xc9, 0xf4 }, 2, { .rbp = PAGE_A + 8 }, { { PAGE_A, R } }, 0 },
	{ "FXSAVE", { 0x0f, 0xae, 0x03, 0xf4 }, 4, { .rbx = PAGE_A }, { { PAGE_A, W } }, 0 },
	{ "CMPXCHG16B", { 0x48, 0x0f, 0xc7, 0x0b, 0xf4 }, 5, { .rbx = PAGE_A }, { { PAGE_A, R | W } }, 0 },
	{ "LGDT reads its operand", { 0x0f, 0x01, 0x13, 0xf4 }, 4, { .rbx = PAGE_A }, { { PAGE_A, R } }, 0 },
	{ "SGDT writes its operand", { 0x0f, 0x01, 0x03, 0xf4 }, 4, { .rbx = PAGE_A }, { { PAGE_A, W } }, 0 },
};

static void every_violation_of_every_instruction_once(void **state)
{
	static struct rig r;

	for (unsigned i = 0; i < sizeof(insns) / sizeof(insns[0]); i++) {
		const struct insn_row *k = &insns[i];
		unsigned n = 0;

		plain(&r);
		while (n < 6 && k->e[n].page)
			n++;
		rig_load(&r, k->code, k->n, &k->regs);
		if (k->rip)
			memcpy(r.ram + k->rip, k->code, k->n);
		memset(r.ram + PAGE_A, 0, 0x2000);
		rig_access(&r, 0, k->rip ? GW_MON_RW : GW_MON_N, PAGE_A, 2);
		r.flags = GW_MON_ANS_ALLOW;
		assert_int_equal(rig_run(&r), HLT);
		print_message("# %s\n", k->name);
		assert_int_equal(r.n_seen, n);
		for (unsigned j = 0; j < n; j++) {
			assert_int_equal(r.seen[j].u.mem.gfn, k->e[j].page >> 12);
			assert_int_equal(r.seen[j].u.mem.access & 7, k->e[j].access);
		}
		rig_close(&r);
	}
}

/* ---- G2: what no operand names ----------------------------------------------------------------------------------------------- */

static void implicit_accesses_are_told(void **state)
{
	static const uint8_t ud2[] = { 0x0f, 0x0b }, int3[] = { 0xcc }, movss[] = { 0x8e, 0xdb, 0xf4 };	/* mov ds,ebx */
	struct kvm_regs regs = { .rbx = 16 };
	static struct rig r;

	plain(&r);
	rig_access(&r, 0, GW_MON_N, IDT, 1);
	r.flags = GW_MON_ANS_ALLOW;
	rig_load(&r, ud2, sizeof(ud2), NULL);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 1);			/* the gate */
	assert_int_equal(r.seen[0].u.mem.access, R | GW_MON_A_IMPLICIT | GW_MON_A_ENGINE);
	assert_int_equal(r.seen[0].regs.regs.rip, CODE);
	assert_int_equal(rig_regs(&r, 0).rip, HANDLER + 1);
	r.n_seen = 0;
	rig_load(&r, int3, sizeof(int3), NULL);		/* the seed left this one out */
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 1);
	rig_access(&r, 0, GW_MON_RWX, IDT, 1);
	rig_access(&r, 0, GW_MON_RX, STACK, 1);
	r.n_seen = 0;
	rig_load(&r, ud2, sizeof(ud2), NULL);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 1);			/* the frame, whole */
	assert_int_equal(r.seen[0].u.mem.access & 7, W);
	rig_access(&r, 0, GW_MON_RWX, STACK, 1);
	rig_access(&r, 0, GW_MON_X, GDT, 1);
	r.n_seen = 0;
	rig_load(&r, movss, sizeof(movss), &regs);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 1);			/* the descriptor */
	assert_int_equal(r.seen[0].u.mem.access & 7, R);
	rig_close(&r);
}

/* ---- the seed's scenario (oracle 5) -------------------------------------------------------------------------------------------- */

static const uint8_t store_a[] = { 0x48, 0x89, 0x03, 0xf4 };	/* mov [rbx],rax */

static void seed(uint32_t walks, bool watch_page, unsigned n_walk, unsigned n_access)
{
	struct kvm_regs regs = { .rbx = FAR_A, .rax = 0x1122334455667788 };
	unsigned walk = 0, access = 0;
	static struct rig r;

	plain(&r);
	*rig_pte(&r, FAR_A) &= ~0x60ull;		/* A and D clear */
	rig_load(&r, store_a, sizeof(store_a), &regs);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_WALKS, walks, 0, 0, 0, 0, NULL), 0);
	rig_access(&r, 0, GW_MON_RX, FAR_TABLE, 1);
	if (watch_page)
		rig_access(&r, 0, GW_MON_RX, PAGE_A, 1);
	r.flags = GW_MON_ANS_ALLOW;
	assert_int_equal(rig_run(&r), HLT);
	for (unsigned i = 0; i < r.n_seen; i++) {
		bool is_walk = r.seen[i].u.mem.access & GW_MON_A_WALK;

		walk += is_walk;
		access += !is_walk;
		assert_int_equal(r.seen[i].u.mem.gla, FAR_A);
		assert_int_equal(r.seen[i].u.mem.gfn, (is_walk ? FAR_TABLE : PAGE_A) >> 12);
		assert_int_equal(r.seen[i].regs.regs.rip, CODE);
	}
	assert_int_equal(walk, n_walk);
	assert_int_equal(access, n_access);
	if (access)
		assert_memory_equal(r.before, (uint64_t[1]){ 0 }, 8);
	assert_int_equal(*(uint64_t *)(void *)(r.ram + PAGE_A), 0x1122334455667788);
	/* In deny mode the walker could not write; otherwise it has set both bits. */
	assert_int_equal(*rig_pte(&r, FAR_A) & 0x60, walks == GW_MON_WALKS_DENY ? 0 : 0x60);
	rig_close(&r);
}

static void the_seed_with_walks_reported(void **state) { seed(GW_MON_WALKS_REPORT, true, 1, 1); }
static void the_seed_with_walks_silent(void **state) { seed(GW_MON_WALKS_SILENT, true, 0, 1); }
static void the_seed_with_walks_denied(void **state) { seed(GW_MON_WALKS_DENY, true, 0, 1); }
static void a_walk_alone_is_no_access(void **state) { seed(GW_MON_WALKS_SILENT, false, 0, 0); seed(GW_MON_WALKS_REPORT, false, 1, 0); }

static void tables_that_may_not_be_read(void **state)
{
	struct kvm_regs regs = { .rbx = FAR_A };
	static struct rig r;

	plain(&r);
	rig_load(&r, store_a, sizeof(store_a), &regs);
	rig_access(&r, 0, GW_MON_N, FAR_TABLE, 1);
	r.flags = GW_MON_ANS_ALLOW;
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 1);
	assert_int_equal(r.seen[0].u.mem.access, R | GW_MON_A_WALK);
	rig_close(&r);
}

/* ---- answers ------------------------------------------------------------------------------------------------------------------- */

static void answer_nowrite(struct rig *r, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	a->flags = GW_MON_ANS_ALLOW | GW_MON_ANS_NOWRITE;
}

static void answer_data(struct rig *r, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	a->flags = GW_MON_ANS_ALLOW | GW_MON_ANS_DATA;
	a->data_len = 2;
	memcpy(a->data, "\x34\x12", 2);
}

static void answer_pf(struct rig *r, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	a->flags = GW_MON_ANS_DENY;
	a->vector = 14;
	a->error = 7;
	a->cr2 = 0xabc000;
}

static void answer_regs(struct rig *r, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	a->flags = GW_MON_ANS_REGS;
	a->regs = ev->regs.regs;
	a->regs.rip += 3;
	a->regs.rcx = 77;
}

static void answer_code(struct rig *r, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	static const uint8_t other[16] = { 0x48, 0x31, 0xc9 };		/* xor rcx,rcx; as long as what is there */

	a->flags = GW_MON_ANS_ALLOW | GW_MON_ANS_CODE;
	a->data_len = 16;
	memcpy(a->data, other, 16);
}

static void answer_lift(struct rig *r, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	rig_access(r, 0, GW_MON_RWX, ev->u.mem.gfn << 12, 1);
}

static void each_answer(void **state)
{
	static const uint8_t load[] = { 0x48, 0x8b, 0x03, 0xf4 };
	struct kvm_regs regs = { .rbx = PAGE_A, .rax = 9, .rcx = 5 };
	struct kvm_sregs s;
	static struct rig r;

	plain(&r);
	rig_access(&r, 0, GW_MON_N, PAGE_A, 1);
	r.ram[PAGE_A] = 1;
	rig_load(&r, store_a, sizeof(store_a), &regs);
	r.answer = answer_nowrite;
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 1);
	assert_int_equal(r.ram[PAGE_A], 1);
	r.answer = answer_data;
	rig_load(&r, load, sizeof(load), &regs);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(rig_regs(&r, 0).rax, 0x1234);		/* filled up with zeros */
	assert_int_equal(r.n_seen, 2);
	r.answer = answer_pf;
	rig_load(&r, store_a, sizeof(store_a), &regs);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(rig_regs(&r, 0).rip, HANDLER + 1);
	assert_int_equal(gw_ioctl(r.vcpu[0], KVM_GET_SREGS, (uintptr_t)&s), 0);
	assert_int_equal(s.cr2, 0xabc000);
	assert_int_equal(r.ram[PAGE_A], 1);
	r.answer = answer_regs;
	rig_load(&r, store_a, sizeof(store_a), &regs);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(rig_regs(&r, 0).rcx, 77);
	assert_int_equal(rig_regs(&r, 0).rip, CODE + 4);
	assert_int_equal(r.ram[PAGE_A], 1);
	r.answer = answer_code;
	rig_load(&r, store_a, sizeof(store_a), &regs);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(rig_regs(&r, 0).rcx, 0);
	assert_int_equal(r.ram[PAGE_A], 1);
	r.answer = answer_lift;
	r.n_seen = 0;
	rig_load(&r, store_a, sizeof(store_a), &regs);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 1);
	assert_int_equal(r.ram[PAGE_A], 9);
	rig_close(&r);
}

static void blanket_covers_the_whole_instruction_and_no_more(void **state)
{
	static const uint8_t twice[] = { 0xa4, 0xa4, 0xf4 };
	struct kvm_regs regs = { .rsi = PAGE_A, .rdi = PAGE_B };
	static struct rig r;

	plain(&r);
	rig_access(&r, 0, GW_MON_N, PAGE_A, 2);
	rig_load(&r, twice, sizeof(twice), &regs);
	r.flags = GW_MON_ANS_ALLOW | GW_MON_ANS_BLANKET;
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 2);
	rig_close(&r);
}

/* A guest #PF on the second half comes before any question about the first (Beulich's rule). */
static void guest_faults_come_first(void **state)
{
	struct kvm_regs regs = { .rbx = PAGE_A + 0xffc };
	static struct rig r;

	plain(&r);
	*rig_pte(&r, PAGE_B) = 0;
	rig_access(&r, 0, GW_MON_N, PAGE_A, 1);
	rig_load(&r, store_a, sizeof(store_a), &regs);
	r.flags = GW_MON_ANS_ALLOW;
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(rig_regs(&r, 0).rip, HANDLER + 1);
	assert_int_equal(r.n_seen, 0);
	rig_close(&r);
}

static void rep_is_resumed_with_exact_registers(void **state)
{
	static const uint8_t rep[] = { 0xf3, 0xa4, 0xf4 };
	struct kvm_regs regs = { .rsi = PAGE_C, .rdi = PAGE_A + 0xffe, .rcx = 4 };
	static struct rig r;

	plain(&r);
	memcpy(r.ram + PAGE_C, "abcd", 4);
	rig_access(&r, 0, GW_MON_RX, PAGE_B, 1);
	rig_load(&r, rep, sizeof(rep), &regs);
	r.flags = GW_MON_ANS_ALLOW;
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 2);
	assert_int_equal(r.seen[0].regs.regs.rcx, 2);
	assert_int_equal(r.seen[0].regs.regs.rdi, PAGE_B);
	assert_int_equal(r.seen[0].regs.regs.rsi, PAGE_C + 2);
	assert_int_equal(r.seen[1].regs.regs.rcx, 1);
	assert_memory_equal(r.ram + PAGE_A + 0xffe, "abcd", 4);
	rig_close(&r);
}

/* The same instruction again is another execution. */
static void a_loop_is_asked_about_each_time(void **state)
{
	static const uint8_t loop[] = { 0x48, 0x89, 0x03, 0xff, 0xc9, 0x75, 0xf9, 0xf4 };	/* mov [rbx],rax; dec ecx; jnz */
	struct kvm_regs regs = { .rbx = PAGE_A, .rcx = 1000 };
	static struct rig r;

	plain(&r);
	rig_access(&r, 0, GW_MON_RX, PAGE_A, 1);
	rig_load(&r, loop, sizeof(loop), &regs);
	r.flags = GW_MON_ANS_ALLOW;
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 1000);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(access_types_row_by_row),
		cmocka_unit_test(rx2rw_turns_silently_and_n2rwx_tells_once),
		cmocka_unit_test(every_violation_of_every_instruction_once),
		cmocka_unit_test(implicit_accesses_are_told),
		cmocka_unit_test(the_seed_with_walks_reported),
		cmocka_unit_test(the_seed_with_walks_silent),
		cmocka_unit_test(the_seed_with_walks_denied),
		cmocka_unit_test(a_walk_alone_is_no_access),
		cmocka_unit_test(tables_that_may_not_be_read),
		cmocka_unit_test(each_answer),
		cmocka_unit_test(blanket_covers_the_whole_instruction_and_no_more),
		cmocka_unit_test(guest_faults_come_first),
		cmocka_unit_test(rep_is_resumed_with_exact_registers),
		cmocka_unit_test(a_loop_is_asked_about_each_time),
	};

	return cmocka_run_group_tests_name("monitor: memory accesses", tests, NULL, NULL);
}
