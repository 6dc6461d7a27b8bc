/* SPDX-License-Identifier: MIT */
/*
 * The published emulator hooks and what they miss. First their own scenario: page tables of an operand write-protected with A and D
 * clear, a second page that is watched, one instruction that touches both; with walks reported and silent ("inguest"), on 1 and 4
 * vCPUs at once. Then the explicit exceptions of those hooks, and each known defect of theirs, as something that does not happen here.
 */
#include "rig.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#define HLT	KVM_EXIT_HLT
#define R	GW_MON_A_READ
#define W	GW_MON_A_WRITE
#define X	GW_MON_A_EXEC

static void plain(struct rig *r) { rig_open(r, 1); rig_attach(r, GW_MON_RELEASE); }

/* ---- the scenario ----------------------------------------------------------------------------------------------------------- */

#define VCPUS	4u
/* Each vCPU's own frames. A and P are used through FAR only. */
#define BASE(i)	(0x40000u + (i) * 0x10000u)
#define A(i)	(BASE(i))
#define P(i)	(BASE(i) + 0x1000u)
#define P2(i)	(BASE(i) + 0x2000u)
#define TEXT(i)	(BASE(i) + 0x4000u)
#define TAIL(i)	(BASE(i) + 0x5000u)

static const struct scene {
	const char *name;
	uint8_t code[8], n;
	uint64_t rbx, rsp, rsi, rdi, rcx;	/* offsets from FAR + BASE; 0: not used */
	bool at_end;				/* the code ends with its page */
	unsigned type;				/* of P, P2 and TAIL */
	unsigned walks, p, p2;			/* events: of walks when they are reported, of accesses to P and to P2 */
	uint32_t kind;
} scenes[] = {
#define AT_A	0x100
#define AT_P	0x1100
	{ "a store to the watched page itself", { 0x48, 0x89, 0x03, 0xf4 }, 4, .rbx = AT_P, .type = GW_MON_RX, .walks = 1, .p = 1, .kind = W },
	{ "a store to another page: only the walk", { 0x48, 0x89, 0x03, 0xf4 }, 4, .rbx = AT_A, .type = GW_MON_RX, .walks = 1 },
	{ "a load from an unreadable page", { 0x48, 0x8b, 0x03, 0xf4 }, 4, .rbx = AT_P, .type = GW_MON_N, .walks = 1, .p = 1, .kind = R },
	{ "XCHG", { 0x48, 0x87, 0x03, 0xf4 }, 4, .rbx = AT_P, .type = GW_MON_RX, .walks = 1, .p = 1, .kind = W },
	{ "PUSH of A to a watched stack", { 0xff, 0x33, 0xf4 }, 3, .rbx = AT_A, .rsp = AT_P, .type = GW_MON_RX, .walks = 1, .p = 1, .kind = W },
	{ "REP MOVS from A across a page end into two watched pages", { 0xf3, 0xa4, 0xf4 }, 3, .rsi = AT_A, .rdi = 0x1ffe, .rcx = 4,
	  .type = GW_MON_RX, .walks = 2, .p = 2, .p2 = 2, .kind = W },
	{ "CALL with a watched stack", { 0xe8, 0, 0, 0, 0, 0xf4 }, 6, .rsp = AT_P, .type = GW_MON_RX, .walks = 1, .p = 1, .kind = W },
	{ "CALL through A with a watched stack", { 0xff, 0x13, 0xf4 }, 3, .rbx = AT_A, .rsp = AT_P, .type = GW_MON_RX, .walks = 1, .p = 1,
	  .kind = W },
	{ "an instruction at a page's end whose tail is not executable", { 0x48, 0x89, 0x03, 0xf4 }, 4, .rbx = AT_A, .at_end = true,
	  .type = GW_MON_RW, .walks = 1 },
	{ "a jump to a page that is not executable", { 0xff, 0xe3 }, 2, .rbx = AT_P, .type = GW_MON_RW, .walks = 1, .p = 1, .kind = X },
};

static struct {
	struct rig r;
	const struct scene *s;
	uint32_t walks;
	unsigned n_walk[VCPUS], n_p[VCPUS], n_p2[VCPUS], n_other[VCPUS];
	bool was_early[VCPUS];
	uint64_t old[VCPUS];
} t;

/* On the vCPU's thread, and about its own slots. */
static void told(void *opaque, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	unsigned i = ev->vcpu;
	uint64_t page = ev->u.mem.gfn << 12;

	(void)opaque;
	a->flags = GW_MON_ANS_ALLOW;
	if (ev->reason != GW_MON_MEM_ACCESS)
		t.n_other[i]++;
	else if (ev->u.mem.access & GW_MON_A_WALK)
		*(page == FAR_TABLE ? &t.n_walk[i] : &t.n_other[i]) += 1;
	else if (page == P(i) && ev->u.mem.access == t.s->kind)
		t.n_p[i]++;
	else if (page == P2(i) && ev->u.mem.access == t.s->kind)
		t.n_p2[i]++;
	else
		t.n_other[i]++;
	/* Before the answer nothing has been written but by earlier elements. */
	if (!t.s->rcx && *(uint64_t *)(void *)(t.r.ram + P(i) + 0x100) != t.old[i])
		t.was_early[i] = true;
}

static void *cpu_thread(void *arg)
{
	unsigned i = (unsigned)(uintptr_t)arg;
	long ret;

	do {
		ret = gw_ioctl(t.r.vcpu[i], KVM_RUN, 0);
	} while (ret == -EINTR || ret == -EAGAIN);
	assert_int_equal(ret, 0);
	assert_int_equal(t.r.run[i]->exit_reason, HLT);
	return NULL;
}

static uint64_t at(unsigned i, uint64_t offset) { return offset ? FAR + BASE(i) + offset : 0; }

static void set_up(unsigned i)
{
	const struct scene *s = t.s;
	uint64_t text = s->at_end ? TAIL(i) - s->n : TEXT(i);
	struct kvm_regs g = { .rip = text, .rflags = 2, .rax = 0x1122334455667788, .rbx = at(i, s->rbx), .rsi = at(i, s->rsi),
			      .rdi = at(i, s->rdi), .rcx = s->rcx, .rsp = s->rsp ? at(i, s->rsp) : STACK + 0x100 * (i + 1) };

	memcpy(t.r.ram + text, s->code, s->n);
	memset(t.r.ram + P(i), 0xf4, 0x2000);				/* HLT, for the jump */
	*(uint64_t *)(void *)(t.r.ram + A(i) + 0x100) = text + s->n - 1;	/* the HLT, for the call */
	t.old[i] = *(uint64_t *)(void *)(t.r.ram + P(i) + 0x100);
	for (uint64_t page = A(i); page <= P2(i); page += 0x1000) {
		*rig_pte(&t.r, FAR + page) &= ~0x60ull;
		rig_access(&t.r, 0, page == A(i) ? GW_MON_RWX : s->type, page, 1);
	}
	rig_access(&t.r, 0, s->at_end ? s->type : GW_MON_RWX, TAIL(i), 1);
	assert_int_equal(gw_ioctl(t.r.vcpu[i], KVM_SET_REGS, (uintptr_t)&g), 0);
	t.n_walk[i] = t.n_p[i] = t.n_p2[i] = t.n_other[i] = 0;
	t.was_early[i] = false;
}

static void act(const struct scene *s, unsigned cpus)
{
	pthread_t thread[VCPUS];

	t.s = s;
	for (unsigned i = 0; i < cpus; i++)
		set_up(i);
	for (unsigned i = 0; i < cpus; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, cpu_thread, (void *)(uintptr_t)i), 0);
	for (unsigned i = 0; i < cpus; i++)
		pthread_join(thread[i], NULL);
	for (unsigned i = 0; i < cpus; i++) {
		if (t.n_walk[i] != (t.walks ? 0 : s->walks) || t.n_p[i] != s->p || t.n_p2[i] != s->p2 || t.n_other[i])
			print_message("# %s: vCPU %u: %u walks, %u and %u accesses, %u others\n", s->name, i, t.n_walk[i], t.n_p[i],
				      t.n_p2[i], t.n_other[i]);
		assert_int_equal(t.n_walk[i], t.walks == GW_MON_WALKS_SILENT ? 0 : s->walks);
		assert_int_equal(t.n_p[i], s->p);
		assert_int_equal(t.n_p2[i], s->p2);
		assert_int_equal(t.n_other[i], 0);
		assert_false(t.was_early[i]);
		if (s->kind == W && s->p)		/* and afterwards it has */
			assert_int_not_equal(*(uint64_t *)(void *)(t.r.ram + P(i) + (s->rsp ? 0xf8 : s->rcx ? 0xff8 : 0x100)), t.old[i]);
	}
}

static void the_scenario(uint32_t walks, unsigned cpus)
{
	struct gw_monitor_attach a = { .door = GW_MON_CALLBACK, .callback = (uintptr_t)told };

	memset(&t, 0, sizeof(t));
	t.walks = walks;
	rig_open(&t.r, cpus);
	assert_int_equal(gw_ioctl(t.r.vm, GW_MONITOR_ATTACH, (uintptr_t)&a), 0);
	assert_int_equal(rig_cmd(&t.r, GW_MON_OP_WALKS, walks, 0, 0, 0, 0, NULL), 0);
	rig_access(&t.r, 0, GW_MON_RX, FAR_TABLE, 1);
	for (unsigned i = 0; i < sizeof(scenes) / sizeof(scenes[0]); i++)
		act(&scenes[i], cpus);
	rig_close(&t.r);
}

static void inguest_off_1_vcpu(void **state) { the_scenario(GW_MON_WALKS_REPORT, 1); }
static void inguest_on_1_vcpu(void **state) { the_scenario(GW_MON_WALKS_SILENT, 1); }
static void inguest_off_4_vcpus(void **state) { the_scenario(GW_MON_WALKS_REPORT, 4); }
static void inguest_on_4_vcpus(void **state) { the_scenario(GW_MON_WALKS_SILENT, 4); }

/* ---- what the hooks leave out by their own words --------------------------------------------------------------------------------- */

static void idt_reads_for_software_interrupts(void **state)
{
	static const uint8_t code[] = { 0xcd, 0x03, 0xf4 };		/* int 3, the long form */
	static struct rig r;

	plain(&r);
	rig_access(&r, 0, GW_MON_N, IDT, 1);
	r.flags = GW_MON_ANS_ALLOW;
	rig_load(&r, code, sizeof(code), NULL);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 1);
	assert_int_equal(r.seen[0].u.mem.access & 7, R);
	assert_int_equal(rig_regs(&r, 0).rip, HANDLER + 1);
	rig_close(&r);
}

/* 32-bit, flat, no paging; a JMP to another task whose TSS, and ours, are watched. */
static void tss_accesses_of_a_task_switch(void **state)
{
	static const uint8_t code[] = { 0xea, 0, 0, 0, 0, 0x20, 0x00 };
	static struct rig r;
	struct kvm_sregs s;
	uint64_t *gdt;
	uint32_t *tss;
	unsigned writes = 0, reads = 0;

	plain(&r);
	gdt = (uint64_t *)(void *)(r.ram + GDT);
	tss = (uint32_t *)(void *)(r.ram + PAGE_A);
	gdt[1] = 0x00cf9b000000ffffull;
	gdt[2] = 0x00cf93000000ffffull;
	gdt[3] = 0x00008b0000000067ull | (uint64_t)PAGE_B << 16;
	gdt[4] = 0x0000890000000067ull | (uint64_t)PAGE_A << 16;
	tss[8] = HANDLER;		/* EIP */
	tss[9] = 2;
	tss[14] = STACK;
	tss[18] = tss[20] = tss[21] = tss[22] = tss[23] = 0x10;
	tss[19] = 8;
	rig_load(&r, code, sizeof(code), NULL);
	assert_int_equal(gw_ioctl(r.vcpu[0], KVM_GET_SREGS, (uintptr_t)&s), 0);
	s.cr0 = 0x11;
	s.cr4 = s.efer = 0;
	s.cs.l = 0;
	s.cs.db = 1;
	s.tr = (struct kvm_segment){ .base = PAGE_B, .limit = 0x67, .selector = 24, .type = 11, .present = 1 };
	assert_int_equal(gw_ioctl(r.vcpu[0], KVM_SET_SREGS, (uintptr_t)&s), 0);
	rig_access(&r, 0, GW_MON_N, PAGE_A, 2);
	r.flags = GW_MON_ANS_ALLOW;
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(rig_regs(&r, 0).rip, HANDLER + 1);
	for (unsigned i = 0; i < r.n_seen; i++) {
		assert_int_equal(r.seen[i].regs.regs.rip, CODE);
		assert_true(r.seen[i].u.mem.access & GW_MON_A_IMPLICIT);
		reads += r.seen[i].u.mem.gfn == PAGE_A >> 12 && (r.seen[i].u.mem.access & 7) == R;
		writes += r.seen[i].u.mem.gfn == PAGE_B >> 12 && r.seen[i].u.mem.access & W;
	}
	assert_int_equal(reads, 1);		/* the new task's state */
	assert_int_equal(writes, 1);		/* where the old one's is saved */
	rig_close(&r);
}

/* ---- the defects, by their numbers -------------------------------------------------------------------------------------------------- */

static const uint8_t load[] = { 0x8a, 0x03, 0xf4 }, store[] = { 0x48, 0x89, 0x03, 0xf4 };

/* A guest whose walks write A and D without being told: the case in which the hooks emulate. */
static void silent(struct rig *r)
{
	plain(r);
	assert_int_equal(rig_cmd(r, GW_MON_OP_WALKS, GW_MON_WALKS_SILENT, 0, 0, 0, 0, NULL), 0);
	rig_access(r, 0, GW_MON_RX, FAR_TABLE, 1);
	for (uint64_t p = PAGE_A; p <= PAGE_C; p += 0x1000)
		*rig_pte(r, FAR + p) &= ~0x60ull;
	r->flags = GW_MON_ANS_ALLOW;
}

static void defect_1_reads_are_reported(void **state)
{
	static const unsigned types[] = { GW_MON_N, GW_MON_X, GW_MON_W, GW_MON_WX };
	struct kvm_regs regs = { .rbx = FAR + PAGE_A };
	static struct rig r;

	for (unsigned i = 0; i < 4; i++) {
		silent(&r);
		rig_access(&r, 0, types[i], PAGE_A, 1);
		rig_load(&r, load, sizeof(load), &regs);
		assert_int_equal(rig_run(&r), HLT);
		assert_int_equal(r.n_seen, 1);
		assert_int_equal(r.seen[0].u.mem.access, R);
		rig_close(&r);
	}
}

static void defect_2_rx2rw_and_n2rwx_convert(void **state)
{
	struct kvm_regs regs = { .rbx = FAR + PAGE_A };
	static struct rig r;
	uint64_t type;

	silent(&r);
	rig_access(&r, 0, GW_MON_RX2RW, PAGE_A, 1);
	rig_load(&r, store, sizeof(store), &regs);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 0);
	rig_cmd(&r, GW_MON_OP_GET_ACCESS, 0, PAGE_A >> 12, 0, 0, 0, &type);
	assert_int_equal(type, GW_MON_RW);
	rig_access(&r, 0, GW_MON_N2RWX, PAGE_B, 1);
	regs.rbx = FAR + PAGE_B;
	rig_load(&r, store, sizeof(store), &regs);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 1);
	assert_int_equal(r.seen[0].flags & GW_MON_F_SYNC, 0);
	rig_close(&r);
}

static void defect_3_repetitions_are_not_done_in_bulk(void **state)
{
	static const struct { uint8_t code[4], n; uint32_t kind; bool is_port; } rows[] = {
		{ { 0xf3, 0xa4, 0xf4 }, 3, W, false },		/* movs */
		{ { 0xf3, 0xaa, 0xf4 }, 3, W, false },		/* stos */
		{ { 0xf3, 0x6c, 0xf4 }, 3, W, true },		/* ins */
		{ { 0xf3, 0x6e, 0xf4 }, 3, R, true },		/* outs */
	};
	static struct rig r;

	for (unsigned i = 0; i < 4; i++) {
		struct kvm_regs regs = { .rsi = FAR + (i == 3 ? PAGE_A : PAGE_C), .rdi = FAR + PAGE_A, .rcx = 3, .rdx = 0x80 };
		uint32_t reason;

		silent(&r);
		rig_access(&r, 0, GW_MON_N, PAGE_A, 1);
		rig_load(&r, rows[i].code, rows[i].n, &regs);
		do {
			reason = rig_run(&r);
		} while (reason == KVM_EXIT_IO);
		assert_int_equal(reason, HLT);
		/* By element; port I/O by page, as the client is given them. */
		assert_in_range(r.n_seen, rows[i].is_port ? 1 : 3, 3);
		for (unsigned j = 0; j < r.n_seen; j++)
			assert_int_equal(r.seen[j].u.mem.access & 7, rows[i].kind);
		rig_close(&r);
	}
}

static void defect_4_the_rest_of_the_instruction_is_checked_after_an_answer(void **state)
{
	static const uint8_t movs[] = { 0xa4, 0xf4 }, push[] = { 0xff, 0x33, 0xf4 };
	struct kvm_regs two = { .rsi = FAR + PAGE_A, .rdi = FAR + PAGE_B }, split = { .rbx = FAR + PAGE_A + 0xffc },
			stack = { .rbx = FAR + PAGE_A, .rsp = FAR + PAGE_B + 0x800 };
	const struct { const uint8_t *code; size_t n; struct kvm_regs *regs; } rows[] = {
		{ movs, sizeof(movs), &two }, { store, sizeof(store), &split }, { push, sizeof(push), &stack } };
	static struct rig r;

	for (unsigned i = 0; i < 3; i++) {
		silent(&r);
		rig_access(&r, 0, GW_MON_N, PAGE_A, 2);
		rig_load(&r, rows[i].code, rows[i].n, rows[i].regs);
		assert_int_equal(rig_run(&r), HLT);
		assert_int_equal(r.n_seen, 2);
		assert_int_equal(r.seen[0].u.mem.gfn + r.seen[1].u.mem.gfn, (PAGE_A + PAGE_B) >> 12);
		rig_close(&r);
	}
}

static void defect_5_prefetch_asks_for_nothing(void **state)
{
	static struct rig r;

	silent(&r);
	rig_access(&r, 0, GW_MON_RW, PAGE_B, 1);
	memcpy(r.ram + PAGE_B - 2, "\x90\xf4", 2);
	rig_load(&r, store, sizeof(store), &(struct kvm_regs){ .rip = FAR + PAGE_B - 2 });
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 0);
	/* An instruction that needs those bytes asks once. */
	memcpy(r.ram + PAGE_B - 2, "\x90\x48\xff\xc0\xf4", 5);
	rig_load(&r, store, sizeof(store), &(struct kvm_regs){ .rip = FAR + PAGE_B - 2 });
	r.flags = GW_MON_ANS_ALLOW;
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 2);		/* inc rax, and the HLT in that page */
	assert_int_equal(r.seen[0].regs.regs.rip, FAR + PAGE_B - 1);
	assert_int_equal(r.seen[1].regs.regs.rip, FAR + PAGE_B + 2);
	assert_int_equal(rig_regs(&r, 0).rax, 1);
	rig_close(&r);
}

static void defect_6_a_fresh_view_violates_nothing(void **state)
{
	struct kvm_regs regs = { .rbx = FAR + PAGE_A };
	static struct rig r;

	silent(&r);
	rig_cmd(&r, GW_MON_OP_VIEWS, 1, 0, 0, 0, 0, NULL);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEW_CREATE, GW_MON_RWX, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEW_SWITCH, 1, 0, 0, 0, 0, NULL), 0);
	rig_load(&r, store, sizeof(store), &regs);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 0);
	/* And views that are off again do not blind the host's map. */
	rig_cmd(&r, GW_MON_OP_VIEWS, 0, 0, 0, 0, 0, NULL);
	rig_access(&r, 0, GW_MON_RX, PAGE_A, 1);
	*rig_pte(&r, FAR + PAGE_A) &= ~0x60ull;
	rig_load(&r, store, sizeof(store), &regs);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 1);
	rig_close(&r);
}

static void die(struct rig *r, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	rig_cmd(r, GW_MON_OP_LOST, 0, 0, 0, 0, 0, NULL);
	a->flags = GW_MON_ANS_ALLOW;		/* nobody's any more */
}

static void defect_7_what_cannot_be_asked_is_not_allowed(void **state)
{
	struct kvm_regs regs = { .rbx = FAR + PAGE_A, .rax = 7 };
	static struct rig r;

	rig_open(&r, 1);
	rig_attach(&r, GW_MON_STOP);
	rig_access(&r, 0, GW_MON_RX, PAGE_A, 1);
	r.answer = die;
	rig_load(&r, store, sizeof(store), &regs);
	assert_int_equal(rig_run(&r), GW_EXIT_MONITOR);
	assert_int_equal(r.ram[PAGE_A], 0);
	assert_int_equal(rig_run(&r), GW_EXIT_MONITOR);		/* and again */
	assert_int_equal(r.ram[PAGE_A], 0);
	rig_close(&r);
}

/* Another thread does everything that takes a lock, while the question waits for it. */
static void *locksmith(void *arg)
{
	struct rig *r = arg;
	struct kvm_userspace_memory_region slot = { .slot = 3, .guest_phys_addr = 0x10000000, .memory_size = 0x1000,
						    .userspace_addr = (uintptr_t)r->ram };
	uint64_t v;

	assert_int_equal(gw_ioctl(r->vm, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&slot), 0);
	slot.memory_size = 0;
	assert_int_equal(gw_ioctl(r->vm, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&slot), 0);
	rig_access(r, 0, GW_MON_N, PAGE_C, 1);
	assert_int_equal(rig_cmd(r, GW_MON_OP_VIEWS, 1, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(rig_cmd(r, GW_MON_OP_VIEW_CREATE, GW_MON_RWX, 0, 0, 0, 0, &v), 0);
	assert_int_equal(rig_cmd(r, GW_MON_OP_VIEW_SWITCH, v, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(rig_cmd(r, GW_MON_OP_VIEW_SWITCH, 0, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(rig_cmd(r, GW_MON_OP_TRANSLATE, 0, CODE, 0, 0, 0, &v), 0);
	return NULL;
}

static void call_locksmith(struct rig *r, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, locksmith, r), 0);
	pthread_join(thread, NULL);
	a->flags = GW_MON_ANS_ALLOW;
}

static void defect_8_no_lock_is_held_while_a_question_waits(void **state)
{
	struct kvm_regs regs = { .rbx = FAR + PAGE_A, .rax = 7 };
	static struct rig r;

	silent(&r);
	rig_access(&r, 0, GW_MON_RX, PAGE_A, 1);
	r.answer = call_locksmith;
	rig_load(&r, store, sizeof(store), &regs);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 1);
	assert_int_equal(r.ram[PAGE_A], 7);
	rig_close(&r);
}

/* A store half to a device and half to a watched page: the device sees it once. */
static void defect_9_a_device_sees_a_store_once(void **state)
{
	static const uint64_t order[2][2] = { { 0x300000, PAGE_A }, { PAGE_A, 0x300000 } };
	struct kvm_regs regs = { .rbx = FAR + 0x100ffc, .rax = 0x1122334455667788 };
	static struct rig r;

	for (unsigned i = 0; i < 2; i++) {
		unsigned n = 0;
		uint32_t reason;

		plain(&r);
		*rig_pte(&r, FAR + 0x100000) = order[i][0] | 0x67;
		*rig_pte(&r, FAR + 0x101000) = order[i][1] | 0x67;
		rig_access(&r, 0, GW_MON_RX, PAGE_A, 1);
		r.flags = GW_MON_ANS_ALLOW;
		rig_load(&r, store, sizeof(store), &regs);
		while ((reason = rig_run(&r)) == KVM_EXIT_MMIO) {
			assert_int_equal(r.run[0]->mmio.len, 4);
			assert_int_equal(r.n_seen, 1);		/* asked before anything was done */
			n++;
		}
		assert_int_equal(reason, HLT);
		assert_int_equal(n, 1);
		assert_int_equal(r.n_seen, 1);
		assert_int_equal(*(uint32_t *)(void *)(r.ram + PAGE_A + (i ? 0xffc : 0)), i ? 0x55667788 : 0x11223344);
		rig_close(&r);
	}
}

/* 10: task switches above; here the delivery of an exception, whose frame and gate are on watched pages. */
static void defect_10_delivery_is_checked(void **state)
{
	static const uint8_t ud2[] = { 0x0f, 0x0b };
	static struct rig r;

	silent(&r);
	rig_access(&r, 0, GW_MON_N, IDT, 1);
	rig_access(&r, 0, GW_MON_RX, STACK, 1);
	rig_load(&r, ud2, sizeof(ud2), NULL);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 2);
	assert_int_equal(r.seen[0].u.mem.gfn + r.seen[1].u.mem.gfn, (IDT >> 12) + (STACK >> 12));
	assert_int_equal(rig_regs(&r, 0).rip, HANDLER + 1);
	rig_close(&r);
}

/* ---- paravirtual writers ------------------------------------------------------------------------------------------------------------- */

static void a_paravirtual_clock_in_a_watched_page_is_told(void **state)
{
	static const uint8_t nop[] = { 0x90, 0xf4 };
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } msr = { .head.nmsrs = 1, .e = { .index = 0x4b564d01, .data = PAGE_A | 1 } };
	static struct rig r;

	plain(&r);
	rig_access(&r, 0, GW_MON_RX, PAGE_A, 1);
	r.flags = GW_MON_ANS_ALLOW;
	assert_int_equal(gw_ioctl(r.vcpu[0], KVM_SET_MSRS, (uintptr_t)&msr), 1);
	rig_load(&r, nop, sizeof(nop), NULL);
	assert_int_equal(rig_run(&r), HLT);
	assert_true(r.n_seen >= 1);
	assert_int_equal(r.seen[0].reason, GW_MON_MEM_ACCESS);
	assert_int_equal(r.seen[0].u.mem.gfn, PAGE_A >> 12);
	assert_int_equal(r.seen[0].u.mem.access, W | GW_MON_A_PV);
	assert_int_equal(r.seen[0].flags & GW_MON_F_SYNC, 0);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(inguest_off_1_vcpu),
		cmocka_unit_test(inguest_on_1_vcpu),
		cmocka_unit_test(inguest_off_4_vcpus),
		cmocka_unit_test(inguest_on_4_vcpus),
		cmocka_unit_test(idt_reads_for_software_interrupts),
		cmocka_unit_test(tss_accesses_of_a_task_switch),
		cmocka_unit_test(defect_1_reads_are_reported),
		cmocka_unit_test(defect_2_rx2rw_and_n2rwx_convert),
		cmocka_unit_test(defect_3_repetitions_are_not_done_in_bulk),
		cmocka_unit_test(defect_4_the_rest_of_the_instruction_is_checked_after_an_answer),
		cmocka_unit_test(defect_5_prefetch_asks_for_nothing),
		cmocka_unit_test(defect_6_a_fresh_view_violates_nothing),
		cmocka_unit_test(defect_7_what_cannot_be_asked_is_not_allowed),
		cmocka_unit_test(defect_8_no_lock_is_held_while_a_question_waits),
		cmocka_unit_test(defect_9_a_device_sees_a_store_once),
		cmocka_unit_test(defect_10_delivery_is_checked),
		cmocka_unit_test(a_paravirtual_clock_in_a_watched_page_is_told),
	};

	return cmocka_run_group_tests_name("monitor: the published hooks, and what they miss", tests, NULL, NULL);
}
