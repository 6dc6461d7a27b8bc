/* SPDX-License-Identifier: MIT */
/*
 * Shape 1: six stub guards, each with a trick that a room will need, and a scripted instruction that goes through
 * acc_check_all() and nothing else. If a guard here needed another door into the access path, the shape would be wrong.
 *
 *   discard   writes vanish, reads are normal			remap     one vCPU sees another frame
 *   veto      asks somebody else and waits				abort     reads give ones, writes vanish
 *   rmw       takes W away and judges read-modify-writes		sealed    refuses one of two pages of an access
 *
 * After any refusal, memory is compared byte by byte with what it was.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "access/access.h"
#include "isa/x86.h"

#define RAM_PAGES	64u
#define PAGE_DIR	1u
#define PAGE_TABLE	2u
#define N_CPUS		2u
#define NOWHERE		0x50000ull	/* linear page without translation */
#define DEVICE		0x60000ull	/* translated, no slot there */

/* ---- the guards ------------------------------------------------------------------------------------------------------------ */

enum { DISCARD, REMAP, VETO, RMW, SEALED, ABORT, N_STUBS };

struct stub {
	uint64_t gfn;			/* the page it cares for; 0: asleep */
	unsigned asked, told;
	struct acc_request last;
	/* remap */
	struct acc_cpu *only;
	uint8_t *frame;
	/* veto */
	_Atomic int answer;		/* 0 none yet, 1 allow, 2 refuse, 3 leave KVM_RUN, 4 with data */
	_Atomic bool waiting;
	unsigned retries;
};

static struct machine {
	struct acc_vm *vm;
	struct mem_code_map *code;
	struct acc_cpu *cpu[N_CPUS];
	uint8_t *ram, *before, *view;
	struct stub stub[N_STUBS];
	struct acc_guards guards;
} m;

static bool cares(struct stub *s, const struct acc_request *rq)
{
	if (!s->gfn || gpa_gfn(rq->gpa).v != s->gfn)
		return false;
	s->asked++;
	s->last = *rq;
	return true;
}

static enum acc_verdict exit_with(struct acc_result *out, uint32_t reason)
{
	out->exit = (struct acc_exit){ .reason = reason };
	return ACC_EXIT;
}

static enum acc_verdict check_discard(void *g, const struct acc_request *rq, struct acc_result *out)
{
	if (!cares(g, rq))
		return ACC_ALLOW;
	out->silent &= (uint8_t)~ACC_W;
	if (!(rq->rights & ACC_W))
		return ACC_ALLOW;
	out->subst = SUBST_DISCARD;
	return ACC_SUBST;
}

static enum acc_verdict check_remap(void *g, const struct acc_request *rq, struct acc_result *out)
{
	struct stub *s = g;

	if (!cares(s, rq) || rq->cpu != s->only)
		return ACC_ALLOW;
	out->subst = SUBST_FRAME;
	out->hva = s->frame + (rq->gpa.v & GW_PAGE_MASK);
	return ACC_SUBST;
}

static enum acc_verdict check_veto(void *g, const struct acc_request *rq, struct acc_result *out)
{
	struct stub *s = g;

	if (!cares(s, rq))
		return ACC_ALLOW;
	out->silent = 0;
	if (s->retries) {
		s->retries--;
		return ACC_RETRY;
	}
	switch (atomic_load(&s->answer)) {
	case 0:
		return ACC_WAIT;
	case 1:
		return ACC_ALLOW;
	case 4:
		out->subst = SUBST_DATA;
		out->data_len = 2;
		memcpy(out->data, "\xab\xcd", 2);
		return ACC_SUBST;
	default:
		out->event = (struct acc_event){ .vector = VEC_GP, .has_error = true };
		return ACC_FAULT;
	}
}

static bool wait_veto(void *g, struct acc_cpu *cpu, const struct acc_request *rq)
{
	struct stub *s = g;

	assert_false(cpu->in_guest);	/* nobody waits for who waits here */
	atomic_store(&s->waiting, true);
	while (!atomic_load(&s->answer))
		sched_yield();
	return atomic_load(&s->answer) != 3;
}

static enum acc_verdict check_rmw(void *g, const struct acc_request *rq, struct acc_result *out)
{
	if (!cares(g, rq))
		return ACC_ALLOW;
	out->silent &= (uint8_t)~ACC_W;
	return (rq->rights & ACC_RW) == ACC_RW ? exit_with(out, 70) : ACC_ALLOW;
}

static enum acc_verdict check_sealed(void *g, const struct acc_request *rq, struct acc_result *out)
{
	if (!cares(g, rq))
		return ACC_ALLOW;
	out->silent &= (uint8_t)~ACC_W;
	return rq->rights & ACC_W ? exit_with(out, 71) : ACC_ALLOW;
}

static enum acc_verdict check_abort(void *g, const struct acc_request *rq, struct acc_result *out)
{
	if (!cares(g, rq))
		return ACC_ALLOW;
	out->subst = SUBST_ONES;
	return ACC_SUBST;
}

static void denied(void *g, const struct acc_request *rq, const struct acc_result *by)
{
	((struct stub *)g)->told++;
}

static const struct acc_guard_ops ops[N_STUBS] = {
	[DISCARD] = { .name = "discard", .check = check_discard },
	[REMAP] = { .name = "remap", .check = check_remap },
	[VETO] = { .name = "veto", .check = check_veto, .wait = wait_veto, .denied = denied },
	[RMW] = { .name = "rmw", .check = check_rmw },
	[SEALED] = { .name = "sealed", .check = check_sealed },
	[ABORT] = { .name = "abort", .check = check_abort, .denied = denied },
};

/* ---- the machine: 32-bit paging, identity, but for NOWHERE --------------------------------------------------------------------- */

static void *zeroed(size_t align, size_t size)
{
	void *p = aligned_alloc(align, (size + align - 1) / align * align);

	assert_non_null(p);
	return memset(p, 0, size);
}

static int setup(void **state)
{
	struct mem_slot s = { .n_pages = RAM_PAGES, .hva = zeroed(GW_PAGE_SIZE, RAM_PAGES * GW_PAGE_SIZE) };
	struct mem_map *map;
	uint32_t *pde, *pte;

	memset(&m, 0, sizeof(m));
	m.ram = s.hva;
	m.before = zeroed(64, RAM_PAGES * GW_PAGE_SIZE);
	m.view = zeroed(GW_PAGE_SIZE, GW_PAGE_SIZE);
	m.guards.n = N_STUBS;
	for (unsigned i = 0; i < N_STUBS; i++)
		m.guards.guard[i] = (struct acc_guard){ &ops[i], &m.stub[i], false };
	assert_int_equal(mem_code_map_new(&m.code), 0);
	assert_int_equal(acc_vm_new(&m.guards, m.code, &m.vm), 0);
	assert_int_equal(mem_map_change(NULL, &s, &map), 0);
	acc_vm_set_map(m.vm, map);
	pde = (uint32_t *)(void *)(m.ram + PAGE_DIR * GW_PAGE_SIZE);
	pte = (uint32_t *)(void *)(m.ram + PAGE_TABLE * GW_PAGE_SIZE);
	pde[0] = PAGE_TABLE << 12 | PTE_P | PTE_W | PTE_U | PTE_A;
	for (uint32_t i = 0; i < 128; i++)
		pte[i] = i << 12 | PTE_P | PTE_W | PTE_U | PTE_A | PTE_D;
	pte[NOWHERE >> 12] = 0;
	for (unsigned i = 16 * GW_PAGE_SIZE; i < RAM_PAGES * GW_PAGE_SIZE; i++)
		m.ram[i] = (uint8_t)(i * 7 + (i >> 12));
	for (unsigned i = 0; i < N_CPUS; i++) {
		m.cpu[i] = zeroed(64, sizeof(*m.cpu[i]));
		m.cpu[i]->cr0 = CR0_PE | CR0_PG | CR0_WP;
		m.cpu[i]->cr3 = PAGE_DIR << 12;
		assert_int_equal(acc_cpu_init(m.cpu[i], m.vm), 0);
	}
	acc_enter(m.cpu[0]);
	return 0;
}

static int teardown(void **state)
{
	acc_leave(m.cpu[0]);
	for (unsigned i = 0; i < N_CPUS; i++) {
		acc_cpu_fini(m.cpu[i]);
		free(m.cpu[i]);
	}
	acc_vm_free(m.vm);
	mem_code_map_free(m.code);
	free(m.ram);
	free(m.before);
	free(m.view);
	return 0;
}

/* ---- the scripted instruction: reads all its sources, then writes all its destinations -------------------------------------------- */

struct operand { uint64_t gva; uint16_t len; uint8_t rights; };
#define MAX_OPERANDS	3

struct script {
	struct operand op[MAX_OPERANDS];
	unsigned n;
	uint8_t value[16];		/* what is written */
};

struct done {
	enum acc_verdict v;
	struct acc_result out;		/* of the refusal */
	unsigned which;
	uint8_t read[MAX_OPERANDS][16];
	unsigned device_reads, device_writes;
};

static void load(const struct acc_result *out, enum acc_verdict v, uint8_t *to, unsigned len, struct done *d)
{
	if (v == ACC_DEVICE) {
		d->device_reads++;
		memset(to, 0xdd, len);
	} else if (v == ACC_SUBST && out->subst == SUBST_ONES) {
		memset(to, 0xff, len);
	} else if (v == ACC_SUBST && out->subst == SUBST_DATA) {
		memcpy(to, out->data, len < out->data_len ? len : out->data_len);
	} else {
		memcpy(to, out->hva, len);
	}
}

static void store(const struct acc_result *out, enum acc_verdict v, const uint8_t *from, unsigned len, struct done *d)
{
	if (v == ACC_DEVICE) {
		d->device_writes++;
		return;
	}
	if (v == ACC_SUBST && (out->subst == SUBST_ONES || out->subst == SUBST_DISCARD))
		return;
	memcpy(out->hva, from, len);
	acc_store_done(m.vm, out->hva, len);
}

static struct done execute(unsigned cpu, const struct script *s)
{
	struct acc_request rq[2 * MAX_OPERANDS];
	struct acc_result out[2 * MAX_OPERANDS];
	enum acc_verdict verdict[2 * MAX_OPERANDS];
	unsigned operand[2 * MAX_OPERANDS], at[2 * MAX_OPERANDS], n = 0;
	struct done d = { .which = 99 };

	for (unsigned i = 0; i < s->n; i++)
		for (unsigned off = 0; off < s->op[i].len; n++) {
			uint64_t gva = s->op[i].gva + off;
			unsigned room = (unsigned)(GW_PAGE_SIZE - (gva & GW_PAGE_MASK)), left = s->op[i].len - off;

			rq[n] = (struct acc_request){ .cpu = m.cpu[cpu], .gva = GVA(gva), .len = (uint16_t)(left < room ? left : room), .rights = s->op[i].rights };
			operand[n] = i;
			at[n] = off;
			off += rq[n].len;
		}
	memcpy(m.before, m.ram, RAM_PAGES * GW_PAGE_SIZE);
	d.v = acc_check_all(rq, out, verdict, n, &d.which);
	if (d.v != ACC_ALLOW) {
		d.out = out[d.which];
		assert_memory_equal(m.ram, m.before, RAM_PAGES * GW_PAGE_SIZE);
		return d;
	}
	for (unsigned i = 0; i < n; i++)
		if (rq[i].rights & ACC_R)
			load(&out[i], verdict[i], d.read[operand[i]] + at[i], rq[i].len, &d);
	for (unsigned i = 0; i < n; i++)
		if (rq[i].rights & ACC_W)
			store(&out[i], verdict[i], s->value + at[i], rq[i].len, &d);
	return d;
}

static const struct script store8 = { { { 0x20010, 8, ACC_W } }, 1, "ABCDEFGH" };
static const struct script load8 = { { { 0x20010, 8, ACC_R } }, 1, "" };
static const struct script xadd8 = { { { 0x20010, 8, ACC_RW } }, 1, "ABCDEFGH" };
static const struct script move8 = { { { 0x21020, 8, ACC_R }, { 0x20010, 8, ACC_W } }, 2, "ABCDEFGH" };
static const struct script across = { { { 0x20ffc, 8, ACC_W } }, 1, "ABCDEFGH" };

/* ---- the tests ---------------------------------------------------------------------------------------------------------------------- */

static void plain_memory(void **state)
{
	struct done d = execute(0, &move8);

	assert_int_equal(d.v, ACC_ALLOW);
	assert_memory_equal(d.read[0], m.before + 0x21020, 8);
	assert_memory_equal(m.ram + 0x20010, "ABCDEFGH", 8);
	assert_ptr_equal(acc_probe_w(m.cpu[0], 0x20010, 8), m.ram + 0x20010);
}

static void writes_are_discarded(void **state)
{
	m.stub[DISCARD].gfn = 0x20;
	for (unsigned i = 1; i <= 2; i++) {
		assert_int_equal(execute(0, &store8).v, ACC_ALLOW);
		assert_memory_equal(m.ram, m.before, RAM_PAGES * GW_PAGE_SIZE);
		assert_int_equal(m.stub[DISCARD].asked, i);
		assert_null(acc_probe_w(m.cpu[0], 0x20010, 8));
	}
	assert_memory_equal(execute(0, &load8).read[0], m.ram + 0x20010, 8);
	assert_non_null(acc_probe_r(m.cpu[0], 0x20010, 8));
	assert_null(acc_probe_w(m.cpu[0], 0x20010, 8));
}

static void one_vcpu_sees_another_frame(void **state)
{
	struct done d;

	m.stub[REMAP] = (struct stub){ .gfn = 0x20, .only = m.cpu[0], .frame = m.view };
	memcpy(m.view + 0x10, "elsewher", 8);
	assert_memory_equal(execute(0, &load8).read[0], "elsewher", 8);
	assert_null(acc_probe_r(m.cpu[0], 0x20010, 8));
	assert_int_equal(execute(0, &store8).v, ACC_ALLOW);
	assert_memory_equal(m.ram, m.before, RAM_PAGES * GW_PAGE_SIZE);
	assert_memory_equal(m.view + 0x10, "ABCDEFGH", 8);
	acc_leave(m.cpu[0]);
	acc_enter(m.cpu[1]);
	d = execute(1, &load8);
	acc_leave(m.cpu[1]);
	acc_enter(m.cpu[0]);
	assert_memory_equal(d.read[0], m.ram + 0x20010, 8);
}

static void *answer_thread(void *answer)
{
	struct stub *s = &m.stub[VETO];

	while (!atomic_load(&s->waiting))
		sched_yield();
	/* The waiting vCPU holds nobody up. */
	acc_forget(m.vm, NULL, GFN(0x21), 1, ACC_RW | ACC_X);
	atomic_store(&s->answer, *(int *)answer);
	return NULL;
}

static struct done execute_answered(const struct script *s, int answer)
{
	pthread_t t;
	struct done d;

	m.stub[VETO].gfn = 0x20;
	assert_int_equal(pthread_create(&t, NULL, answer_thread, &answer), 0);
	d = execute(0, s);
	pthread_join(t, NULL);
	assert_true(m.cpu[0]->in_guest);
	assert_null(acc_probe_r(m.cpu[0], 0x20010, 8));
	return d;
}

static void somebody_answers_allow(void **state)
{
	assert_int_equal(execute_answered(&move8, 1).v, ACC_ALLOW);
	assert_memory_equal(m.ram + 0x20010, "ABCDEFGH", 8);
	assert_int_equal(m.stub[VETO].asked, 2);
}

static void somebody_vetoes(void **state)
{
	struct done d = execute_answered(&move8, 2);

	assert_int_equal(d.v, ACC_FAULT);
	assert_int_equal(d.out.event.vector, VEC_GP);
	assert_int_equal(d.which, 1);
	assert_int_equal(d.out.guard, VETO);
	assert_int_equal(m.stub[ABORT].told, 1);	/* a later guard that listens */
	assert_int_equal(m.stub[VETO].told, 0);
}

static void waiting_ends_when_the_vcpu_is_wanted(void **state)
{
	assert_int_equal(execute_answered(&store8, 3).v, ACC_WAIT);
}

static void an_answer_brings_data(void **state)
{
	static const struct script load2 = { { { 0x20010, 2, ACC_R } }, 1, "" };

	assert_memory_equal(execute_answered(&load2, 4).read[0], "\xab\xcd", 2);
}

static void retry_is_never_seen(void **state)
{
	m.stub[VETO].gfn = 0x20;
	atomic_store(&m.stub[VETO].answer, 1);
	m.stub[VETO].retries = 1000;
	assert_int_equal(execute(0, &store8).v, ACC_ALLOW);
	/* A guard that never settles does not hang the vCPU. */
	m.stub[VETO].retries = 1u << 30;
	assert_int_equal(execute(0, &store8).v, ACC_WAIT);
}

static void abort_page_reads_ones(void **state)
{
	m.stub[ABORT].gfn = 0x20;
	assert_memory_equal(execute(0, &load8).read[0], "\xff\xff\xff\xff\xff\xff\xff\xff", 8);
	assert_int_equal(execute(0, &store8).v, ACC_ALLOW);
	assert_memory_equal(m.ram, m.before, RAM_PAGES * GW_PAGE_SIZE);
	assert_null(acc_probe_r(m.cpu[0], 0x20010, 8));
}

static void read_modify_write_is_judged_once_as_both(void **state)
{
	struct done d;

	m.stub[RMW].gfn = 0x20;
	assert_int_equal(execute(0, &load8).v, ACC_ALLOW);
	assert_int_equal(execute(0, &store8).v, ACC_ALLOW);
	m.stub[RMW].asked = 0;
	d = execute(0, &xadd8);
	assert_int_equal(d.v, ACC_EXIT);
	assert_int_equal(d.out.exit.reason, 70);
	assert_int_equal(m.stub[RMW].asked, 1);
	assert_int_equal(m.stub[RMW].last.rights, ACC_RW);
	/* The remembered R does not help a read-modify-write along: W is what it probes. */
	assert_non_null(acc_probe_r(m.cpu[0], 0x20010, 8));
	assert_null(acc_probe_w(m.cpu[0], 0x20010, 8));
}

static void second_page_refused_first_untouched(void **state)
{
	struct done d;

	m.stub[SEALED].gfn = 0x21;
	d = execute(0, &across);
	assert_int_equal(d.v, ACC_EXIT);
	assert_int_equal(d.out.exit.reason, 71);
	assert_int_equal(d.which, 1);
	assert_int_equal(m.stub[SEALED].last.gva.v, 0x21000);
	assert_int_equal(m.stub[SEALED].last.len, 4);
	m.stub[SEALED].gfn = 0;
	assert_int_equal(execute(0, &across).v, ACC_ALLOW);
	assert_memory_equal(m.ram + 0x20ffc, "ABCDEFGH", 8);
}

static void guest_faults_win_over_guards(void **state)
{
	static const struct script to_nowhere = { { { 0x20010, 8, ACC_W }, { NOWHERE + 8, 8, ACC_R } }, 2, "ABCDEFGH" };
	struct done d;

	m.stub[SEALED].gfn = 0x20;
	d = execute(0, &to_nowhere);
	assert_int_equal(d.v, ACC_FAULT);
	assert_int_equal(d.out.event.vector, VEC_PF);
	assert_int_equal(d.out.event.cr2, NOWHERE + 8);
	assert_int_equal(m.stub[SEALED].asked, 0);
}

static void device_is_not_read_for_a_refused_store(void **state)
{
	static const struct script from_device = { { { DEVICE, 4, ACC_R }, { 0x20010, 4, ACC_W } }, 2, "ABCD" };
	struct done d;

	m.stub[SEALED].gfn = 0x20;
	d = execute(0, &from_device);
	assert_int_equal(d.v, ACC_EXIT);
	assert_int_equal(d.device_reads, 0);
	m.stub[SEALED].gfn = 0;
	d = execute(0, &from_device);
	assert_int_equal(d.v, ACC_ALLOW);
	assert_int_equal(d.device_reads, 1);
	assert_memory_equal(m.ram + 0x20010, "ABCD", 4);
}

static void a_substitute_does_not_silence_later_guards(void **state)
{
	struct done d;

	m.stub[DISCARD].gfn = m.stub[SEALED].gfn = 0x20;
	d = execute(0, &store8);
	assert_int_equal(d.v, ACC_EXIT);
	assert_int_equal(d.out.guard, SEALED);
	/* Of two substitutes the first stands. */
	m.stub[SEALED].gfn = 0;
	m.stub[REMAP] = (struct stub){ .gfn = 0x20, .only = m.cpu[0], .frame = m.view };
	m.stub[ABORT].gfn = 0x20;
	memcpy(m.view + 0x10, "elsewher", 8);
	assert_memory_equal(execute(0, &load8).read[0], "elsewher", 8);
}

static void earlier_refusal_stops_the_round(void **state)
{
	m.stub[SEALED].gfn = m.stub[VETO].gfn = 0x20;
	atomic_store(&m.stub[VETO].answer, 2);
	assert_int_equal(execute(0, &store8).v, ACC_FAULT);
	assert_int_equal(m.stub[SEALED].asked, 0);
}

static void devices_and_writers_by_address_are_judged(void **state)
{
	struct acc_request rq = { .vm = m.vm, .by_gpa = true, .gpa = GPA(0x20010), .len = 8, .rights = ACC_W, .origin = ACC_DMA };
	struct acc_result out;

	acc_leave(m.cpu[0]);
	m.stub[SEALED].gfn = 0x20;
	acc_host_begin(m.vm);
	assert_int_equal(acc_check(&rq, &out), ACC_EXIT);
	assert_int_equal(m.stub[SEALED].last.origin, ACC_DMA);
	rq.gpa = GPA(0x21010);
	assert_int_equal(acc_check(&rq, &out), ACC_ALLOW);
	assert_ptr_equal(out.hva, m.ram + 0x21010);
	assert_int_equal(out.silent, 0);
	rq.gpa = GPA(DEVICE);
	assert_int_equal(acc_check(&rq, &out), ACC_DEVICE);
	acc_host_end(m.vm);
	acc_enter(m.cpu[0]);
}

/* A guard refuses: D must not have been set, whatever the walk did before. */
static void refused_store_leaves_d_clear(void **state)
{
	uint32_t *pte = (uint32_t *)(void *)(m.ram + PAGE_TABLE * GW_PAGE_SIZE) + 0x20;

	*pte &= ~(uint32_t)PTE_D;
	m.stub[SEALED].gfn = 0x20;
	assert_int_equal(execute(0, &store8).v, ACC_EXIT);
	assert_int_equal(*pte & PTE_D, 0);
	m.stub[SEALED].gfn = 0;
	assert_int_equal(execute(0, &store8).v, ACC_ALLOW);
	assert_int_equal(*pte & PTE_D, PTE_D);
}

#define T(name, f) { name, f, setup, teardown, NULL }

int main(void)
{
	const struct CMUnitTest tests[] = {
		T("without opinions an instruction just runs, and is remembered", plain_memory),
		T("a guard discards writes", writes_are_discarded),
		T("a guard shows one vCPU another frame", one_vcpu_sees_another_frame),
		T("a guard waits for an answer, and it is yes", somebody_answers_allow),
		T("a guard waits for an answer, and it is no: nothing changed, later guards are told", somebody_vetoes),
		T("a guard's wait ends when the vCPU is wanted elsewhere", waiting_ends_when_the_vcpu_is_wanted),
		T("a guard's answer brings the bytes", an_answer_brings_data),
		T("a guard asks for another try", retry_is_never_seen),
		T("an abort page reads ones and takes nothing", abort_page_reads_ones),
		T("a read-modify-write is judged once, as both", read_modify_write_is_judged_once_as_both),
		T("when the second page is refused, the first is untouched", second_page_refused_first_untouched),
		T("guest faults win over guards", guest_faults_win_over_guards),
		T("a device is not read for a store that is refused", device_is_not_read_for_a_refused_store),
		T("a substitute does not silence later guards", a_substitute_does_not_silence_later_guards),
		T("after a refusal later guards are not asked", earlier_refusal_stops_the_round),
		T("devices and other writers by address are judged", devices_and_writers_by_address_are_judged),
		T("a refused store leaves D clear", refused_store_leaves_d_clear),
	};

	return cmocka_run_group_tests_name("shape-guards", tests, NULL, NULL);
}
