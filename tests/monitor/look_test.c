/* SPDX-License-Identifier: MIT */
/*
 * The channel while its sides look instead of sleeping: a monitor that sleeps, looks and dawdles as it likes, whose answers come in
 * every moment between the vCPU's look and its sleep; that dies, detaches, answers twice or scribbles while it is looked at. What was
 * lost would leave the vCPU asleep, and the test is over by its alarm.
 *
 * GUESTWARD_TEST_ROUNDS: questions to each of two vCPUs; `make stress` wants more than a million in all.
 */
#include "rig.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../examples/session.h"

#define HLT	KVM_EXIT_HLT
#define CPUS	2u
#define LOST_MS	20000

static unsigned n_vms;		/* as the control socket counts them */

/* ---- the guest: each vCPU adds 1 to a counter of its own in the watched page ------------------------------------------------------ */

static void open_vm(struct rig *r)
{
	rig_open(r, CPUS);
	n_vms++;
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

struct one { struct rig *r; unsigned i; int outcome; pthread_t t; };
static _Atomic bool is_over;		/* a kick ends a vCPU's thread */

static void *cpu_thread(void *arg)
{
	struct one *o = arg;
	long ret;

	do {
		ret = gw_ioctl(o->r->vcpu[o->i], KVM_RUN, 0);
	} while (ret == -EAGAIN || (ret == -EINTR && !is_over));
	o->outcome = ret ? (int)ret : (int)o->r->run[o->i]->exit_reason;
	return NULL;
}

static void run_all(struct rig *r, struct one *one, unsigned rounds)
{
	static const uint8_t loop[] = { 0x48, 0xff, 0x03, 0xff, 0xc9, 0x75, 0xf9, 0xf4 };	/* inc qword [rbx]; dec ecx; jnz */

	memcpy(r->ram + CODE, loop, sizeof(loop));
	for (unsigned i = 0; i < CPUS; i++) {
		struct kvm_regs g = { .rip = CODE, .rbx = PAGE_A + 64 * i, .rcx = rounds, .rflags = 2, .rsp = STACK };

		assert_int_equal(gw_ioctl(r->vcpu[i], KVM_SET_REGS, (uintptr_t)&g), 0);
		one[i] = (struct one){ .r = r, .i = i };
		assert_int_equal(pthread_create(&one[i].t, NULL, cpu_thread, &one[i]), 0);
	}
}

static void all_counted_right(struct rig *r, struct one *one, uint64_t rounds)
{
	for (unsigned i = 0; i < CPUS; i++) {
		uint64_t n;

		pthread_join(one[i].t, NULL);
		assert_int_equal(one[i].outcome, HLT);
		memcpy(&n, r->ram + PAGE_A + 64 * i, sizeof(n));
		assert_int_equal(n, rounds);
	}
}

/* ---- the other process ------------------------------------------------------------------------------------------------------------- */

#define NEED(what) do { if (!(what)) _exit(__LINE__ & 0xff ? __LINE__ & 0xff : 1); } while (0)

struct other { pid_t pid; int fd; unsigned seed; uint64_t n, slept, looked, woken; };
typedef void monitor_fn(struct other *o, struct session *s);

static unsigned rnd(struct other *o, unsigned n)
{
	o->seed = o->seed * 1664525 + 1013904223;
	return (o->seed >> 8) % n;
}

static struct other begin(monitor_fn *fn, unsigned spin_us, unsigned seed)
{
	struct other o = { .seed = seed };
	int fd[2];
	char c;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	o.pid = fork();
	if (!o.pid) {
		struct session s;

		close(fd[0]);
		o.fd = fd[1];
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		NEED(!session_connect(&s, getppid(), n_vms - 1));
		NEED(!session_attach(&s, GW_MON_RELEASE, 0, 0, spin_us));
		NEED(!session_command(&s, GW_MON_OP_SET_ACCESS, 0, GW_MON_RX, PAGE_A >> 12, 1, NULL));
		NEED(write(o.fd, &(char){ 1 }, 1) == 1);
		fn(&o, &s);
		_exit(0);
	}
	close(fd[1]);
	o.fd = fd[0];
	assert_int_equal(read(o.fd, &c, 1), 1);		/* attached */
	return o;
}

static int end(struct other *o)
{
	int status;

	close(o->fd);
	assert_int_equal(waitpid(o->pid, &status, 0), o->pid);
	return status;
}

/* A question of @vcpu that waits, if there is one. */
static struct gw_mon_page *question(struct session *s, unsigned vcpu, uint64_t *seq)
{
	struct gw_mon_page *p = session_page(s, vcpu);

	*seq = __atomic_load_n(&p->event_seq, __ATOMIC_ACQUIRE);
	if (*seq == __atomic_load_n(&p->seen_seq, __ATOMIC_RELAXED))
		return NULL;
	NEED(p->event.flags & GW_MON_F_SYNC && p->event.vcpu == vcpu && p->event.u.mem.gla == PAGE_A + 64 * vcpu);
	return p;
}

static void answer(struct other *o, struct session *s, unsigned vcpu, struct gw_mon_page *p, uint64_t seq)
{
	const struct gw_mon_answer a = { .flags = GW_MON_ANS_ALLOW };
	const uint64_t one = 1;

	session_answer(p, &a, seq, p->event.seq);
	o->n++;
	if (__atomic_load_n(&p->waiting, __ATOMIC_SEQ_CST)) {
		o->woken++;
		NEED(write(s->wake[vcpu], &one, sizeof(one)) == (ssize_t)sizeof(one) || errno == EAGAIN);
	}
}

static void dawdle(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		__builtin_ia32_pause();
}

/* ---- as it likes ---------------------------------------------------------------------------------------------------------------------- */

/* Anything from at once to after the vCPU has gone to sleep, most of it about where its looking ends. */
static unsigned answer_some(struct other *o, struct session *s)
{
	unsigned n = 0;

	for (unsigned i = 0; i < CPUS; i++) {
		uint64_t seq;
		struct gw_mon_page *p = question(s, i, &seq);

		if (!p)
			continue;
		if (rnd(o, 3))
			dawdle(rnd(o, rnd(o, 8) ? 120 : 1000));
		answer(o, s, i, p, seq);
		n++;
	}
	return n;
}

static void as_it_likes(struct other *o, struct session *s)
{
	uint64_t per_vcpu, told[4];

	NEED(read(o->fd, &per_vcpu, sizeof(per_vcpu)) == (ssize_t)sizeof(per_vcpu));
	while (o->n < per_vcpu * CPUS) {
		struct epoll_event e;

		if (rnd(o, 2)) {
			o->looked++;
			session_polls(s, 1);
			for (unsigned i = rnd(o, 300); i; i--) {
				answer_some(o, s);
				dawdle(rnd(o, 4));
			}
			session_polls(s, 0);
		}
		/* About to sleep: looks once more. */
		if (answer_some(o, s) || o->n == per_vcpu * CPUS)
			continue;
		o->slept++;
		NEED(epoll_wait(s->epoll_fd, &e, 1, LOST_MS) == 1 && !e.data.u32);
	}
	memcpy(told, &o->n, sizeof(told));
	NEED(!session_command(s, GW_MON_OP_DETACH, 1, 0, 0, 0, NULL));
	NEED(write(o->fd, told, sizeof(told)) == (ssize_t)sizeof(told));
}

static void no_wake_up_is_lost(unsigned spin_us, uint64_t rounds)
{
	static struct one one[CPUS];
	static struct rig r;
	uint64_t told[4];	/* of struct other, from n on */
	struct other o;

	open_vm(&r);
	alarm(100 + (unsigned)(rounds / 1000));
	o = begin(as_it_likes, spin_us, 1 + spin_us);
	assert_int_equal(write(o.fd, &rounds, sizeof(rounds)), sizeof(rounds));
	run_all(&r, one, (unsigned)rounds);
	assert_int_equal(read(o.fd, told, sizeof(told)), sizeof(told));
	all_counted_right(&r, one, rounds);
	assert_int_equal(end(&o), 0);
	alarm(0);
	print_message("# %llu round trips, spin %u us: slept %llu times, looked %llu times, woke a vCPU %llu times\n", (unsigned long long)told[0],
		      spin_us, (unsigned long long)told[1], (unsigned long long)told[2], (unsigned long long)told[3]);
	assert_int_equal(told[0], CPUS * rounds);
	assert_true(told[1] && told[2] && told[3]);
	rig_close(&r);
}

static void answers_come_in_every_moment(void **state)
{
	const char *want = getenv("GUESTWARD_TEST_ROUNDS");
	uint64_t rounds = want ? strtoull(want, NULL, 0) : 60000;

	/* The shorter a vCPU looks, the more often it is about to sleep. */
	no_wake_up_is_lost(1, rounds);
	no_wake_up_is_lost(5, rounds);
	no_wake_up_is_lost(0, rounds / 4);
}

/* ---- the end, while a vCPU looks ------------------------------------------------------------------------------------------------------ */

/* Answers some, and comes back with a question unanswered. */
static void answers_some(struct other *o, struct session *s)
{
	unsigned left = 1 + rnd(o, 200);

	session_polls(s, 1);
	for (;;)
		for (unsigned i = 0; i < CPUS; i++) {
			uint64_t seq;
			struct gw_mon_page *p = question(s, i, &seq);

			if (!p)
				continue;
			if (!--left)
				return;
			answer(o, s, i, p, seq);
		}
}

static void dies(struct other *o, struct session *s)
{
	answers_some(o, s);
	dawdle(rnd(o, 2000));
	kill(getpid(), SIGKILL);
}

static void detaches(struct other *o, struct session *s)
{
	answers_some(o, s);
	NEED(!session_command(s, GW_MON_OP_DETACH, 1, 0, 0, 0, NULL));
}

static void goes(monitor_fn *fn, bool is_killed)
{
	static struct one one[CPUS];
	static struct rig r;

	open_vm(&r);
	for (unsigned i = 0; i < 20; i++) {
		struct other o = begin(fn, GW_MON_MAX_SPIN, i);
		int status;

		alarm(60);
		run_all(&r, one, 1000);
		all_counted_right(&r, one, 1000 * (i + 1));
		status = end(&o);
		assert_true(is_killed ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL : status == 0);
		alarm(0);
		/* Its end has been noticed by all: the next may come. */
		for (unsigned j = 0; j < 1000; j++) {
			uint64_t type = 0;

			rig_cmd(&r, GW_MON_OP_GET_ACCESS, 0, PAGE_A >> 12, 0, 0, 0, &type);
			if (type == GW_MON_RWX)
				break;
			usleep(1000);
		}
	}
	rig_close(&r);
}

static void a_monitor_dies_while_it_is_looked_at(void **state) { goes(dies, true); }
static void a_monitor_detaches_while_it_is_looked_at(void **state) { goes(detaches, false); }

/* ---- answers out of turn -------------------------------------------------------------------------------------------------------------- */

/* Before the right answer to each question comes another one to the question before: nobody may take it. */
static void answers_twice(struct other *o, struct session *s)
{
	const struct gw_mon_answer deny = { .flags = GW_MON_ANS_DENY };
	uint64_t last[CPUS] = { 0 };

	session_polls(s, 1);
	for (uint64_t left = 2000 * CPUS; left;)
		for (unsigned i = 0; i < CPUS; i++) {
			uint64_t seq, seen;
			struct gw_mon_page *p = question(s, i, &seq);

			if (!p)
				continue;
			seen = __atomic_load_n(&p->seen_seq, __ATOMIC_RELAXED);
			if (last[i])
				session_answer(p, &deny, seen, last[i]);
			dawdle(rnd(o, 40));
			last[i] = p->event.seq;
			answer(o, s, i, p, seq);
			left--;
		}
	NEED(!session_command(s, GW_MON_OP_DETACH, 1, 0, 0, 0, NULL));
}

static void a_second_answer_is_nobodys(void **state)
{
	static struct one one[CPUS];
	static struct rig r;
	struct other o;

	open_vm(&r);
	alarm(60);
	o = begin(answers_twice, 200, 1);
	run_all(&r, one, 2000);
	all_counted_right(&r, one, 2000);
	assert_int_equal(end(&o), 0);
	alarm(0);
	rig_close(&r);
}

/* All over both pages, the engine's lines included, without a pause, until it is killed. */
static void scribbles(struct other *o, struct session *s)
{
	const uint64_t one = 1;

	for (;;) {
		struct gw_mon_page *p = session_page(s, rnd(o, CPUS));

		s->pages[rnd(o, CPUS * GW_MON_PAGE)] = (uint8_t)rnd(o, 256);
		if (!rnd(o, 4))
			__atomic_store_n(&p->polling, rnd(o, 2), __ATOMIC_SEQ_CST);
		if (!rnd(o, 4))
			__atomic_store_n(&p->answer.flags, rnd(o, 2) ? GW_MON_ANS_ALLOW : rnd(o, 0x2000), __ATOMIC_SEQ_CST);
		if (!rnd(o, 4))
			__atomic_store_n(&p->answer_seq, __atomic_load_n(&p->event.seq, __ATOMIC_SEQ_CST) + rnd(o, 2), __ATOMIC_SEQ_CST);
		if (!rnd(o, 64) && write(s->wake[rnd(o, CPUS)], &one, sizeof(one)) < 0 && errno != EAGAIN)
			_exit(1);
	}
}

static void who_scribbles_harms_only_its_own_guest(void **state)
{
	static struct one one[CPUS];
	static struct rig r;
	struct other o;

	open_vm(&r);
	alarm(60);
	o = begin(scribbles, 50, 7);
	run_all(&r, one, 1u << 30);
	usleep(500000);
	kill(o.pid, SIGKILL);
	end(&o);
	/* However the guest has fared: it can be had back. */
	is_over = true;
	for (unsigned i = 0; i < CPUS; i++) {
		__atomic_store_n(&r.run[i]->immediate_exit, 1, __ATOMIC_SEQ_CST);
		while (pthread_tryjoin_np(one[i].t, NULL)) {
			pthread_kill(one[i].t, SIGUSR1);
			usleep(1000);
		}
	}
	is_over = false;
	alarm(0);
	rig_close(&r);
}

static void ignore(int sig) { (void)sig; }

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answers_come_in_every_moment),
		cmocka_unit_test(a_monitor_dies_while_it_is_looked_at),
		cmocka_unit_test(a_monitor_detaches_while_it_is_looked_at),
		cmocka_unit_test(a_second_answer_is_nobodys),
		cmocka_unit_test(who_scribbles_harms_only_its_own_guest),
	};
	struct sigaction sa = { .sa_handler = ignore };

	setenv("GUESTWARD_CONTROL", "1", 1);
	sigaction(SIGUSR1, &sa, NULL);
	return cmocka_run_group_tests_name("monitor: looking instead of sleeping", tests, NULL, NULL);
}
