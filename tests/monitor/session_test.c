/* SPDX-License-Identifier: MIT */
/*
 * The native interface from another process: a child that knows nothing but the control socket attaches, gets shared memory and
 * eventfds, answers, and issues commands while an event waits; then it dies (SIGKILL), stalls (SIGSTOP), babbles, or is not allowed in.
 * Each policy is seen through: the guest is released, paused or stopped, and never with half an instruction.
 */
#include "rig.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../examples/session.h"

#define HLT	KVM_EXIT_HLT
#define CPUS	12u
#define ROUNDS	500u

static unsigned n_vms;		/* as the control socket counts them */

static void open_vm(struct rig *r, unsigned cpus)
{
	rig_open(r, cpus);
	n_vms++;
	/* The control thread may just be starting. */
	for (unsigned i = 0; i < 200; i++) {
		struct session s;

		if (!session_connect(&s, getpid(), n_vms - 1)) {
			session_close(&s);
			return;
		}
		usleep(10000);
	}
	fail_msg("no control socket");
}

/* ---- the other process ---------------------------------------------------------------------------------------------------------- */

struct plan {
	uint32_t policy, stall_ms, spin_us;
	session_handler *handler;
	uint32_t reason;		/* to subscribe to; 0: PAGE_A is watched */
	unsigned events;		/* then it detaches cleanly; 0: never */
};

/* Its exit status: 0, or the line that went wrong. */
struct other { pid_t pid; int fd; struct plan plan; unsigned n; };

#define NEED(what) do { if (!(what)) _exit(__LINE__ & 0xff ? __LINE__ & 0xff : 1); } while (0)

static void monitor(struct other *o)
{
	const struct plan *p = &o->plan;
	struct session s;
	char c = 1;

	NEED(!session_connect(&s, getppid(), n_vms - 1));
	NEED(!session_attach(&s, p->policy, 0, p->stall_ms, p->spin_us));
	if (p->reason)
		NEED(!session_command(&s, GW_MON_OP_SUBSCRIBE, p->reason, 1, GW_MON_S_SYNC, 0, NULL));
	else
		NEED(!session_command(&s, GW_MON_OP_SET_ACCESS, 0, GW_MON_RX, PAGE_A >> 12, 1, NULL));
	NEED(write(o->fd, &c, 1) == 1);
	if (!p->events) {
		session_serve(&s, p->spin_us, -1, p->handler, o);
		_exit(0);
	}
	while (o->n < p->events)
		NEED(!session_serve(&s, p->spin_us, 100, p->handler, o));
	NEED(o->n == p->events);
	NEED(!session_command(&s, GW_MON_OP_DETACH, 1, 0, 0, 0, NULL));
	session_close(&s);
	_exit(0);
}

static struct other begin(const struct plan *plan)
{
	struct other o = { .plan = *plan };
	int fd[2];
	char c;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	o.pid = fork();
	if (!o.pid) {
		close(fd[0]);
		o.fd = fd[1];
		monitor(&o);
	}
	close(fd[1]);
	o.fd = fd[0];
	assert_int_equal(read(o.fd, &c, 1), 1);		/* attached */
	return o;
}

static int end(struct other *o, int sig)
{
	int status;

	if (sig)
		kill(o->pid, sig);
	assert_int_equal(waitpid(o->pid, &status, 0), o->pid);
	close(o->fd);
	return status;
}

/* ---- the guest -------------------------------------------------------------------------------------------------------------------- */

struct one { struct rig *r; unsigned i; _Atomic int outcome; pthread_t t; };

static void *cpu_thread(void *arg)
{
	struct one *o = arg;
	long ret;

	do {
		ret = gw_ioctl(o->r->vcpu[o->i], KVM_RUN, 0);
	} while (ret == -EAGAIN);
	o->outcome = ret == -EINTR ? -EINTR : (int)o->r->run[o->i]->exit_reason;
	return NULL;
}

static void run(struct one *o, struct rig *r, unsigned i)
{
	o->r = r;
	o->i = i;
	o->outcome = 0;
	assert_int_equal(pthread_create(&o->t, NULL, cpu_thread, o), 0);
}

/* Each vCPU adds 1 to a counter of its own in the watched page. */
static void load_counters(struct rig *r, unsigned rounds)
{
	static const uint8_t loop[] = { 0x48, 0xff, 0x03, 0xff, 0xc9, 0x75, 0xf9, 0xf4 };	/* inc qword [rbx]; dec ecx; jnz */

	memcpy(r->ram + CODE, loop, sizeof(loop));
	for (unsigned i = 0; i < r->n_cpus; i++) {
		struct kvm_regs g = { .rip = CODE, .rbx = PAGE_A + 64 * i, .rcx = rounds, .rflags = 2, .rsp = STACK };

		assert_int_equal(gw_ioctl(r->vcpu[i], KVM_SET_REGS, (uintptr_t)&g), 0);
	}
}

/* The guest may be about to write it: what it would mean is checked, not when. */
__attribute__((no_sanitize("thread"))) static uint64_t counter(struct rig *r, unsigned i) { return *(uint64_t *)(void *)(r->ram + PAGE_A + 64 * i); }

/* ---- it answers ------------------------------------------------------------------------------------------------------------------ */

static void allow(void *arg, struct session *s, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	struct other *o = arg;

	o->n++;
	a->flags = GW_MON_ANS_ALLOW;
	NEED(ev->size == sizeof(*ev));
	NEED(ev->reason == GW_MON_CPUID || (ev->reason == GW_MON_MEM_ACCESS && ev->u.mem.gla == PAGE_A + 64 * ev->vcpu));
}

static void each_vcpu_counts_right(uint32_t spin_us)
{
	struct plan plan = { .handler = allow, .spin_us = spin_us, .events = CPUS * ROUNDS };
	static struct one one[CPUS];
	static struct rig r;
	struct other o;

	open_vm(&r, CPUS);
	o = begin(&plan);
	load_counters(&r, ROUNDS);
	for (unsigned i = 0; i < CPUS; i++)
		run(&one[i], &r, i);
	for (unsigned i = 0; i < CPUS; i++) {
		pthread_join(one[i].t, NULL);
		assert_int_equal(one[i].outcome, HLT);
		assert_int_equal(counter(&r, i), ROUNDS);
	}
	assert_int_equal(end(&o, 0), 0);	/* it has counted every one, and detached */
	load_counters(&r, 1);
	run(&one[0], &r, 0);
	pthread_join(one[0].t, NULL);
	assert_int_equal(one[0].outcome, HLT);	/* the guest runs on */
	rig_close(&r);
}

static void more_vcpus_than_xen_has_slots(void **state) { each_vcpu_counts_right(0); }
static void both_sides_may_spin(void **state) { each_vcpu_counts_right(200); }

/* The event waits all the while. */
static void asks_back(void *arg, struct session *s, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	struct other *o = arg;
	uint8_t byte = 0;
	uint64_t v;

	o->n++;
	NEED(!session_command(s, GW_MON_OP_GET_ACCESS, 0, PAGE_A >> 12, 0, 0, &v) && v == GW_MON_RX);
	NEED(!session_command(s, GW_MON_OP_TRANSLATE, ev->vcpu, CODE, 0, 0, &v) && v == CODE);
	NEED(!session_read(s, v, &byte, 1) && byte == 0x48);
	NEED(!session_command(s, GW_MON_OP_VCPU_VIEW, ev->vcpu, 0, 0, 0, &v) && v == 0);
	byte = 0x77;
	NEED(!session_write(s, PAGE_B, &byte, 1));
	NEED(session_command(s, GW_MON_OP_LOST, 0, 0, 0, 0, NULL) == -EPERM);
	NEED(!session_command(s, GW_MON_OP_SET_ACCESS, 0, GW_MON_RWX, PAGE_A >> 12, 1, NULL));
}

static void commands_while_an_event_waits(void **state)
{
	struct plan plan = { .handler = asks_back, .events = 1 };
	static struct rig r;
	static struct one one;
	struct other o;

	open_vm(&r, 1);
	o = begin(&plan);
	load_counters(&r, 5);
	run(&one, &r, 0);
	pthread_join(one.t, NULL);
	assert_int_equal(one.outcome, HLT);
	assert_int_equal(end(&o, 0), 0);
	assert_int_equal(counter(&r, 0), 5);
	assert_int_equal(r.ram[PAGE_B], 0x77);
	rig_close(&r);
}

static void a_vcpu_made_later_has_its_channel(void **state)
{
	static const uint8_t code[] = { 0x31, 0xc0, 0x0f, 0xa2, 0xf4 };		/* cpuid; hlt */
	struct plan plan = { .handler = allow, .reason = GW_MON_CPUID, .events = 2 };
	struct kvm_sregs s;
	static struct one one[2];
	static struct rig r;
	struct other o;

	open_vm(&r, 1);
	o = begin(&plan);
	rig_add_cpu(&r);
	assert_int_equal(gw_ioctl(r.vcpu[1], KVM_GET_SREGS, (uintptr_t)&s), 0);
	for (unsigned i = 0; i < 2; i++) {
		struct kvm_regs g = { .rip = CODE, .rsp = STACK, .rflags = 2 };

		memcpy(r.ram + CODE, code, sizeof(code));
		assert_int_equal(gw_ioctl(r.vcpu[i], KVM_SET_REGS, (uintptr_t)&g), 0);
		run(&one[i], &r, i);
		pthread_join(one[i].t, NULL);
		assert_int_equal(one[i].outcome, HLT);
	}
	assert_int_equal(end(&o, 0), 0);		/* two events: one of each */
	rig_close(&r);
}

/* ---- it does not ------------------------------------------------------------------------------------------------------------------- */

/* Says that it has the question, and thinks. */
static void think(void *arg, struct session *s, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	struct other *o = arg;
	char c = 2;

	if (o->n++)
		NEED(write(o->fd, &c, 1) == 1);
	else
		NEED(write(o->fd, &c, 1) == 1 && pause() == -1);
}

static void ignore(int sig) { (void)sig; }

static void seen_through(uint32_t policy, int sig, uint32_t stall_ms)
{
	struct plan plan = { .handler = think, .policy = policy, .stall_ms = stall_ms };
	struct sigaction sa = { .sa_handler = ignore };
	static struct one one;
	static struct rig r;
	struct other o;
	char c;

	sigaction(SIGUSR1, &sa, NULL);
	open_vm(&r, 1);
	o = begin(&plan);
	load_counters(&r, 3);
	run(&one, &r, 0);
	assert_int_equal(read(o.fd, &c, 1), 1);		/* the question is there */
	assert_int_equal(counter(&r, 0), 0);
	kill(o.pid, sig);
	if (policy == GW_MON_PAUSE) {
		usleep(stall_ms ? stall_ms * 4000 : 300000);
		assert_int_equal(one.outcome, 0);		/* it stands, */
		pthread_kill(one.t, SIGUSR1);			/* obeys kicks, */
		pthread_join(one.t, NULL);
		assert_int_equal(one.outcome, -EINTR);
		assert_int_equal(rig_regs(&r, 0).rip, CODE);	/* has not begun */
		assert_int_equal(counter(&r, 0), 0);
		rig_attach(&r, GW_MON_RELEASE);			/* and the next monitor lets it go on. */
		r.flags = GW_MON_ANS_ALLOW;
		assert_int_equal(rig_cmd(&r, GW_MON_OP_RESUME_ALL, 0, 0, 0, 0, 0, NULL), 0);
		run(&one, &r, 0);
	}
	pthread_join(one.t, NULL);
	if (policy == GW_MON_STOP) {
		assert_int_equal(one.outcome, GW_EXIT_MONITOR);
		assert_int_equal(rig_regs(&r, 0).rip, CODE);
		assert_int_equal(counter(&r, 0), 0);
	} else {
		assert_int_equal(one.outcome, HLT);
		assert_int_equal(counter(&r, 0), 3);
		assert_int_equal(r.n_seen, policy == GW_MON_PAUSE ? 3 : 0);
	}
	end(&o, SIGKILL);
	rig_close(&r);
}

static void killed_and_released(void **state) { seen_through(GW_MON_RELEASE, SIGKILL, 0); }
static void killed_and_paused(void **state) { seen_through(GW_MON_PAUSE, SIGKILL, 0); }
static void killed_and_stopped(void **state) { seen_through(GW_MON_STOP, SIGKILL, 0); }
static void stalled_and_released(void **state) { seen_through(GW_MON_RELEASE, SIGSTOP, 100); }
static void stalled_and_paused(void **state) { seen_through(GW_MON_PAUSE, SIGSTOP, 100); }
static void stalled_and_stopped(void **state) { seen_through(GW_MON_STOP, SIGSTOP, 100); }

/* Without a limit a question waits; the client still has its vCPU. */
static void a_stall_without_a_limit_waits(void **state)
{
	struct plan plan = { .handler = think };
	struct sigaction sa = { .sa_handler = ignore };
	static struct one one;
	static struct rig r;
	struct other o;
	char c;

	sigaction(SIGUSR1, &sa, NULL);
	open_vm(&r, 1);
	o = begin(&plan);
	load_counters(&r, 3);
	run(&one, &r, 0);
	assert_int_equal(read(o.fd, &c, 1), 1);
	kill(o.pid, SIGSTOP);
	usleep(300000);
	assert_int_equal(one.outcome, 0);
	pthread_kill(one.t, SIGUSR1);
	pthread_join(one.t, NULL);
	assert_int_equal(one.outcome, -EINTR);
	run(&one, &r, 0);				/* back to the same question */
	usleep(50000);
	assert_int_equal(one.outcome, 0);
	end(&o, SIGKILL);
	pthread_join(one.t, NULL);
	assert_int_equal(one.outcome, HLT);
	assert_int_equal(counter(&r, 0), 3);
	rig_close(&r);
}

/* Everything it may write, it does, all the time. */
static void babble(void *arg, struct session *s, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	struct other *o = arg;
	uint8_t *p = s->pages;
	unsigned seed = 1;
	char c = 3;

	if (!o->n++)
		NEED(write(o->fd, &c, 1) == 1);
	for (;;) {
		seed = seed * 1664525 + 1013904223;
		p[seed % (CPUS * GW_MON_PAGE)] = (uint8_t)(seed >> 24);
		if (!(seed & 0xf000)) {
			const uint64_t one = 1;

			/* An answer that may be about anything. */
			__atomic_store_n(&session_page(s, seed % CPUS)->answer_seq, seed >> 20 & 7, __ATOMIC_SEQ_CST);
			if (write(s->wake[seed % CPUS], &one, sizeof(one)) < 0 && errno != EAGAIN)
				_exit(1);
		}
	}
}

static void babble_harms_only_its_own_guest(void **state)
{
	struct plan plan = { .handler = babble, .policy = GW_MON_STOP };
	static struct one one[CPUS];
	static struct rig r;
	struct other o;
	char c;

	open_vm(&r, CPUS);
	o = begin(&plan);
	load_counters(&r, 1000000);
	for (unsigned i = 0; i < CPUS; i++)
		run(&one[i], &r, i);
	assert_int_equal(read(o.fd, &c, 1), 1);
	usleep(300000);
	end(&o, SIGKILL);
	/* However the guest has fared: each vCPU stops as the policy says, or ended by itself before. */
	for (unsigned i = 0; i < CPUS; i++) {
		pthread_join(one[i].t, NULL);
		assert_true(one[i].outcome == GW_EXIT_MONITOR || one[i].outcome == HLT || one[i].outcome == KVM_EXIT_SHUTDOWN ||
			    one[i].outcome == KVM_EXIT_MMIO || one[i].outcome == KVM_EXIT_INTERNAL_ERROR);
	}
	rig_close(&r);
}

static void another_user_is_not_let_in(void **state)
{
	static struct rig r;
	int status;
	pid_t pid;

	if (getuid()) {
		print_message("# not root: this process cannot become another user\n");
		skip();
	}
	open_vm(&r, 1);
	pid = fork();
	if (!pid) {
		struct session s;
		char c;

		NEED(!setgid(65534) && !setuid(65534));
		/* Refused at once, or the first command finds nobody. */
		if (!session_connect(&s, getppid(), n_vms - 1))
			NEED(session_command(&s, GW_MON_OP_INFO, 0, 0, 0, 0, NULL) == -EPIPE && read(s.fd, &c, 1) <= 0);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(more_vcpus_than_xen_has_slots),
		cmocka_unit_test(both_sides_may_spin),
		cmocka_unit_test(commands_while_an_event_waits),
		cmocka_unit_test(a_vcpu_made_later_has_its_channel),
		cmocka_unit_test(killed_and_released),
		cmocka_unit_test(killed_and_paused),
		cmocka_unit_test(killed_and_stopped),
		cmocka_unit_test(stalled_and_released),
		cmocka_unit_test(stalled_and_paused),
		cmocka_unit_test(stalled_and_stopped),
		cmocka_unit_test(a_stall_without_a_limit_waits),
		cmocka_unit_test(babble_harms_only_its_own_guest),
		cmocka_unit_test(another_user_is_not_let_in),
	};

	setenv("GUESTWARD_CONTROL", "1", 1);
	return cmocka_run_group_tests_name("monitor: from another process", tests, NULL, NULL);
}
