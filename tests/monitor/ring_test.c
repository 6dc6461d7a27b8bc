/* SPDX-License-Identifier: MIT */
/*
 * Xen's ring and the native channel, with the monitor on a thread of its own that knows nothing but the shared memory and the
 * descriptors: flow control with more vCPUs than slots, the response matrix, bad responses, a ring scribbled over, and a hundred
 * thousand events.
 */
#include "ring_client.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define HLT	KVM_EXIT_HLT

/* ---- responses ---------------------------------------------------------------------------------------------------------------- */

static const uint8_t store[] = { 0x48, 0x89, 0x03, 0xf4 };		/* mov [rbx],rax; hlt */

static bool registers(struct client *c, struct xen_event *e)
{
	e->flags |= XEN_F_REGISTERS;
	e->data.regs.rip += 3;
	e->data.regs.rcx = 77;
	return true;
}

/* The first response is good for nothing; the second comes when the vCPU has asked again, or never had an answer. */
static bool stale_gfn_first(struct client *c, struct xen_event *e)
{
	e->flags |= XEN_F_EMULATE;
	if (c->n == 1)
		e->u.mem_access.gfn++;
	return true;
}

static bool data(struct client *c, struct xen_event *e)
{
	e->flags |= XEN_F_EMULATE | XEN_F_NOWRITE | XEN_F_READ_DATA;
	e->data.read.size = 1;
	e->data.read.data[0] = 0x21;
	return true;
}

static bool insn(struct client *c, struct xen_event *e)
{
	static const uint8_t clear_rcx[16] = { 0x48, 0x31, 0xc9 };

	e->flags |= XEN_F_EMULATE | XEN_F_INSN_DATA;
	memcpy(e->data.insn.data, clear_rcx, 16);
	return true;
}

static void each_response(void **state)
{
	static const struct {
		const char *name;
		uint32_t flags;
		bool (*respond)(struct client *c, struct xen_event *e);
		unsigned n;
		uint64_t memory, rcx;
		const char *code;
	} rows[] = {
		{ "emulate", XEN_F_EMULATE, NULL, 1, 7, 5, "\x48\x89\x03\xf4" },
		{ "emulate without writes", XEN_F_EMULATE | XEN_F_NOWRITE, NULL, 1, 1, 5, "\x48\x89\x03\xf4" },
		{ "emulate and step, to which nobody has subscribed", XEN_F_EMULATE | XEN_F_TOGGLE_STEP, NULL, 1, 7, 5, "\x48\x89\x03\xf4" },
		{ "a view that is not there is ignored", XEN_F_EMULATE | XEN_F_VIEW, NULL, 1, 7, 5, "\x48\x89\x03\xf4" },
		{ "registers", 0, registers, 1, 1, 77, "\x48\x89\x03\xf4" },
		{ "a stale gfn: nothing is emulated, the guest tries again", 0, stale_gfn_first, 2, 7, 5, "\x48\x89\x03\xf4" },
		{ "read data beats no-write and is filled up with zeros", 0, data, 1, 1, 0x21, "\x48\x8b\x0b\xf4" },
		{ "instruction data", 0, insn, 1, 1, 0, "\x48\x89\x03\xf4" },
	};
	static struct client c;

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct kvm_regs regs = { .rbx = PAGE_A, .rax = 7, .rcx = 5 };

		print_message("# %s\n", rows[i].name);
		ring_attach(&c, 1, GW_MON_RELEASE);
		c.flags = rows[i].flags;
		c.respond = rows[i].respond ? rows[i].respond : same;
		rig_access(&c.r, 0, GW_MON_X, PAGE_A, 1);
		c.r.ram[PAGE_A] = 1;
		rig_load(&c.r, rows[i].code, 4, &regs);
		client_start(&c);
		assert_int_equal(rig_run(&c.r), HLT);
		assert_int_equal(c.n, rows[i].n);
		assert_int_equal(c.r.ram[PAGE_A], rows[i].memory);
		assert_int_equal(rig_regs(&c.r, 0).rcx, rows[i].rcx);
		assert_int_equal(c.last.version, 7);
		assert_int_equal(c.last.flags, XEN_F_VCPU_PAUSED);
		/* A store is read and write on this ABI. */
		assert_int_equal(c.last.u.mem_access.flags & 7, rows[i].respond == data ? XEN_MEM_R : XEN_MEM_R | XEN_MEM_W);
		assert_int_equal(c.last.u.mem_access.flags & ~7u, XEN_MEM_GLA_VALID | XEN_MEM_WITH_GLA);
		assert_int_equal(c.last.data.regs.rip, CODE);
		assert_int_equal(c.last.data.regs.cs_sel, 8);
		assert_int_equal(c.last.data.regs.cs, 0xa9b00000 | 0xfffff);	/* G L P S, execute-read-accessed, 4 GiB */
		client_end(&c);
	}
}

/* ---- bad ones ------------------------------------------------------------------------------------------------------------------ */

static _Atomic bool is_done;
static void *run_thread(void *arg)
{
	assert_int_equal(rig_run(arg), HLT);
	is_done = true;
	return NULL;
}

struct one { struct rig *r; unsigned i; };
static void *cpu_thread(void *arg);

static bool bad_version(struct client *c, struct xen_event *e) { e->version = 6; return true; }
static bool bad_vcpu(struct client *c, struct xen_event *e) { e->vcpu_id = 4711; return true; }
static bool not_paused(struct client *c, struct xen_event *e) { e->flags = XEN_F_EMULATE; return true; }

/* What the log was told since. */
static struct { _Atomic unsigned lines, skipped, lost; } said;
static void listen(void *opaque, int level, const char *line)
{
	said.lines++;
	said.skipped += strstr(line, "is skipped") != NULL;
	said.lost += strstr(line, "monitor: lost (its ring counts more answers than questions); the guest is released") != NULL;
}

static void listen_anew(void)
{
	gw_set_log(listen, NULL);
	said.lines = said.skipped = said.lost = 0;
}

static void bad_responses_leave_the_vcpu_paused(void **state)
{
	static bool (*const rows[])(struct client *c, struct xen_event *e) = { bad_version, bad_vcpu, not_paused };
	struct kvm_regs regs = { .rbx = PAGE_A, .rax = 7 };
	static struct client c;
	pthread_t t;

	for (unsigned i = 0; i < 3; i++) {
		ring_attach(&c, 1, GW_MON_RELEASE);
		listen_anew();
		c.respond = rows[i];
		rig_access(&c.r, 0, GW_MON_RX, PAGE_A, 1);
		rig_load(&c.r, store, sizeof(store), &regs);
		client_start(&c);
		is_done = false;
		assert_int_equal(pthread_create(&t, NULL, run_thread, &c.r), 0);
		usleep(150000);
		assert_int_equal(c.n, 1);
		assert_false(is_done);
		assert_int_equal(c.r.ram[PAGE_A], 0);
		/* Its end lets the guest go. */
		assert_int_equal(rig_cmd(&c.r, GW_MON_OP_DETACH, 1, 0, 0, 0, 0, NULL), 0);
		pthread_join(t, NULL);
		assert_int_equal(c.r.ram[PAGE_A], 7);
		gw_set_log(NULL, NULL);
		assert_int_equal(said.skipped, i < 2);
		assert_int_equal(said.lines, said.skipped);
		client_end(&c);
	}
}

static void many_bad_responses_make_one_line(void **state)
{
	struct kvm_regs regs = { .rip = CODE, .rax = 7, .rflags = 2 };
	static struct client c;
	struct one one[4];
	pthread_t t[4];

	ring_attach(&c, 4, GW_MON_RELEASE);
	listen_anew();
	c.respond = bad_vcpu;
	rig_access(&c.r, 0, GW_MON_RX, PAGE_A, 1);
	memcpy(c.r.ram + CODE, store, sizeof(store));
	client_start(&c);
	for (unsigned i = 0; i < 4; i++) {
		regs.rbx = PAGE_A + 64 * i;
		assert_int_equal(gw_ioctl(c.r.vcpu[i], KVM_SET_REGS, (uintptr_t)&regs), 0);
		one[i] = (struct one){ &c.r, i };
		assert_int_equal(pthread_create(&t[i], NULL, cpu_thread, &one[i]), 0);
		for (unsigned j = 0; c.n < i + 1 && j < 5000; j++)
			usleep(1000);
	}
	usleep(50000);
	assert_int_equal(c.n, 4);
	assert_int_equal(rig_cmd(&c.r, GW_MON_OP_DETACH, 1, 0, 0, 0, 0, NULL), 0);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	gw_set_log(NULL, NULL);
	assert_int_equal(said.skipped, 1);
	assert_int_equal(said.lines, 1);
	client_end(&c);
}

/* As many as it likes to one question. */
static bool flood(struct client *c, struct xen_event *e)
{
	c->rsp_prod += 5;
	e->flags |= XEN_F_EMULATE;
	return true;
}

static bool scribble(struct client *c, struct xen_event *e)
{
	memset(c->ring, 0xa5, 4096);
	c->stop = true;
	return false;
}

/* One line says so. */
static void is_let_go(bool (*respond)(struct client *c, struct xen_event *e))
{
	struct kvm_regs regs = { .rbx = PAGE_A, .rax = 7 };
	static struct client c;

	ring_attach(&c, 1, GW_MON_RELEASE);
	listen_anew();
	c.respond = respond;
	rig_access(&c.r, 0, GW_MON_RX, PAGE_A, 1);
	rig_load(&c.r, store, sizeof(store), &regs);
	client_start(&c);
	assert_int_equal(rig_run(&c.r), HLT);
	assert_int_equal(c.r.ram[PAGE_A], 7);
	assert_int_equal(rig_cmd(&c.r, GW_MON_OP_DETACH, 1, 0, 0, 0, 0, NULL), -EINVAL);	/* nobody is attached */
	gw_set_log(NULL, NULL);
	assert_int_equal(said.lost, 1);
	assert_int_equal(said.lines, 1);
	client_end(&c);
}

static void a_ring_scribbled_over_is_let_go(void **state) { is_let_go(scribble); }
static void a_flood_of_answers_is_let_go(void **state) { is_let_go(flood); }

/* ---- stress -------------------------------------------------------------------------------------------------------------------- */

#define CPUS	12u
#define ROUNDS	9000u

static void *cpu_thread(void *arg)
{
	struct one *o = arg;
	long ret;

	do {
		ret = gw_ioctl(o->r->vcpu[o->i], KVM_RUN, 0);
	} while (ret == -EINTR || ret == -EAGAIN);
	assert_int_equal(ret, 0);
	assert_int_equal(o->r->run[o->i]->exit_reason, HLT);
	return NULL;
}

/* Each vCPU adds 1 to a counter of its own in a watched page, so many times that every lost or doubled event shows. */
static void load_counters(struct rig *r)
{
	static const uint8_t loop[] = { 0x48, 0xff, 0x03, 0xff, 0xc9, 0x75, 0xf9, 0xf4 };	/* inc qword [rbx]; dec ecx; jnz */

	memcpy(r->ram + CODE, loop, sizeof(loop));
	for (unsigned i = 0; i < CPUS; i++) {
		struct kvm_regs g = { .rip = CODE, .rbx = PAGE_A + 64 * i, .rcx = ROUNDS, .rflags = 2, .rsp = STACK };

		assert_int_equal(gw_ioctl(r->vcpu[i], KVM_SET_REGS, (uintptr_t)&g), 0);
	}
	rig_access(r, 0, GW_MON_RX, PAGE_A, 1);
}

static void run_all(struct rig *r)
{
	struct one o[CPUS];
	pthread_t t[CPUS];

	for (unsigned i = 0; i < CPUS; i++) {
		o[i] = (struct one){ r, i };
		assert_int_equal(pthread_create(&t[i], NULL, cpu_thread, &o[i]), 0);
	}
	for (unsigned i = 0; i < CPUS; i++)
		pthread_join(t[i], NULL);
	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(*(uint64_t *)(void *)(r->ram + PAGE_A + 64 * i), ROUNDS);
}

static void twelve_vcpus_and_eight_slots(void **state)
{
	static struct client c;
	struct timespec a, b;
	double s;

	ring_attach(&c, CPUS, GW_MON_RELEASE);
	c.respond = same;
	c.flags = XEN_F_EMULATE;
	load_counters(&c.r);
	client_start(&c);
	clock_gettime(CLOCK_MONOTONIC, &a);
	run_all(&c.r);
	clock_gettime(CLOCK_MONOTONIC, &b);
	s = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
	print_message("# %u events in %.2f s: %.0f a second\n", (unsigned)c.n, s, (double)c.n / s);
	assert_int_equal(c.n, CPUS * ROUNDS);
	client_end(&c);
}

static bool silence(struct client *c, struct xen_event *e) { return false; }
static void ignore(int sig) { (void)sig; }

static void *kicked_thread(void *arg)
{
	struct one *o = arg;

	return (void *)(intptr_t)gw_ioctl(o->r->vcpu[o->i], KVM_RUN, 0);
}

static double cpu_time(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Eight wait for answers, four for slots: all of them asleep, and none of them lost to the client. */
static void a_full_ring_is_waited_for_asleep(void **state)
{
	struct sigaction sa = { .sa_handler = ignore };
	static struct client c;
	struct one o[CPUS];
	pthread_t t[CPUS];
	double before;
	void *ret;

	sigaction(SIGUSR1, &sa, NULL);
	ring_attach(&c, CPUS, GW_MON_RELEASE);
	c.respond = silence;
	load_counters(&c.r);
	client_start(&c);
	for (unsigned i = 0; i < CPUS; i++) {
		o[i] = (struct one){ &c.r, i };
		assert_int_equal(pthread_create(&t[i], NULL, kicked_thread, &o[i]), 0);
	}
	while (c.n < XEN_RING_SLOTS)
		usleep(1000);
	usleep(100000);
	before = cpu_time();
	usleep(300000);
	assert_true(cpu_time() - before < 0.1);
	assert_int_equal(c.n, XEN_RING_SLOTS);
	for (unsigned i = 0; i < CPUS; i++) {
		pthread_kill(t[i], SIGUSR1);
		pthread_join(t[i], &ret);
		assert_int_equal((intptr_t)ret, -EINTR);
		assert_int_equal(rig_regs(&c.r, i).rip, CODE);
	}
	assert_int_equal(rig_cmd(&c.r, GW_MON_OP_DETACH, 1, 0, 0, 0, 0, NULL), 0);
	client_end(&c);
}

static void *killer(void *arg)
{
	struct client *c = arg;

	while (c->n < CPUS * ROUNDS / 20)
		usleep(500);
	assert_int_equal(rig_cmd(&c->r, GW_MON_OP_LOST, 0, 0, 0, 0, 0, NULL), 0);
	return NULL;
}

static void death_under_load_releases_all(void **state)
{
	static struct client c;
	pthread_t t;

	ring_attach(&c, CPUS, GW_MON_RELEASE);
	c.respond = same;
	c.flags = XEN_F_EMULATE;
	load_counters(&c.r);
	client_start(&c);
	assert_int_equal(pthread_create(&t, NULL, killer, &c), 0);
	run_all(&c.r);
	pthread_join(t, NULL);
	assert_true(c.n < CPUS * ROUNDS);
	client_end(&c);
}

/* ---- the channel ---------------------------------------------------------------------------------------------------------------- */

struct channel { struct gw_mon_page *page[CPUS]; int event_fd, wake[CPUS]; uint64_t seen[CPUS]; _Atomic bool stop; _Atomic unsigned n; };

static void *channel_thread(void *arg)
{
	struct channel *c = arg;

	while (!c->stop) {
		struct pollfd p = { .fd = c->event_fd, .events = POLLIN };
		uint64_t count;

		if (poll(&p, 1, 20) == 1 && read(c->event_fd, &count, sizeof(count)) < 0)
			continue;
		for (unsigned i = 0; i < CPUS; i++) {
			struct gw_mon_page *g = c->page[i];
			uint64_t seq = __atomic_load_n(&g->event_seq, __ATOMIC_ACQUIRE);

			if (seq == c->seen[i])
				continue;
			c->seen[i] = seq;
			__atomic_store_n(&g->seen_seq, seq, __ATOMIC_SEQ_CST);
			c->n++;
			memset(&g->answer, 0, sizeof(g->answer));
			g->answer.flags = GW_MON_ANS_ALLOW;
			__atomic_store_n(&g->answer_seq, g->event.seq, __ATOMIC_RELEASE);
			notify(c->wake[i]);
		}
	}
	return NULL;
}

static void a_channel_for_each_vcpu(void **state)
{
	struct gw_monitor_attach a = { .door = GW_MON_CHANNEL };
	static struct channel c;
	static struct rig r;
	struct timespec from, to;
	uint8_t *memory;
	pthread_t t;
	double s;

	memset(&c, 0, sizeof(c));
	rig_open(&r, CPUS);
	assert_int_equal(gw_ioctl(r.vm, GW_MONITOR_ATTACH, (uintptr_t)&a), 0);
	assert_int_equal(a.n_vcpus, CPUS);
	memory = mmap(NULL, CPUS * GW_MON_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, a.memory_fd, 0);
	assert_true(memory != MAP_FAILED);
	close(a.memory_fd);
	c.event_fd = a.event_fd;
	for (unsigned i = 0; i < CPUS; i++) {
		uint64_t fd;

		c.page[i] = (struct gw_mon_page *)(void *)(memory + i * GW_MON_PAGE);
		assert_int_equal(rig_cmd(&r, GW_MON_OP_WAKE_FD, i, 0, 0, 0, 0, &fd), 0);
		c.wake[i] = (int)fd;
	}
	load_counters(&r);
	assert_int_equal(pthread_create(&t, NULL, channel_thread, &c), 0);
	clock_gettime(CLOCK_MONOTONIC, &from);
	run_all(&r);
	clock_gettime(CLOCK_MONOTONIC, &to);
	c.stop = true;
	pthread_join(t, NULL);
	s = (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9;
	print_message("# %u events in %.2f s: %.0f a second\n", (unsigned)c.n, s, (double)c.n / s);
	assert_int_equal(c.n, CPUS * ROUNDS);
	for (unsigned i = 0; i < CPUS; i++)
		close(c.wake[i]);
	close(c.event_fd);
	munmap(memory, CPUS * GW_MON_PAGE);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_response),
		cmocka_unit_test(bad_responses_leave_the_vcpu_paused),
		cmocka_unit_test(many_bad_responses_make_one_line),
		cmocka_unit_test(a_ring_scribbled_over_is_let_go),
		cmocka_unit_test(a_flood_of_answers_is_let_go),
		cmocka_unit_test(twelve_vcpus_and_eight_slots),
		cmocka_unit_test(a_full_ring_is_waited_for_asleep),
		cmocka_unit_test(death_under_load_releases_all),
		cmocka_unit_test(a_channel_for_each_vcpu),
	};

	return cmocka_run_group_tests_name("monitor: the ring and the channel", tests, NULL, NULL);
}
