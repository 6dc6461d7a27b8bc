/* SPDX-License-Identifier: MIT */
/*
 * Introspection in numbers: synchronous round trips in the process and from another one (sleeping and with a bounded spin) beside a
 * bare eventfd ping-pong of the same run, single steps, view switches, rights on a million pages, and what a monitor costs a guest
 * whose pages it does not watch, or of which it watches one in a hundred. One line a number, "name value unit".
 */
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

#include <guestward/guestward.h>
#include <guestward/kvm.h>

#include "../examples/session.h"

#define RAM		(64ull << 20)
#define BIG		(4ull << 30)	/* a million pages, never touched */
#define BIG_AT		(1ull << 32)
#define CODE		0x1000u
#define WATCHED		0x2000u

static int sys, vm, vcpu;
static struct kvm_run *run;
static uint8_t *ram;
static pthread_t thread;
static atomic_bool is_wanted;
static atomic_ulong n_events;
static struct timespec used;		/* by the vCPU's thread, when it has ended */

static double now(void) { return (double)session_now() / 1e9; }
static void kick(int sig) { (void)sig; }
static void rest(double s) { nanosleep(&(struct timespec){ .tv_sec = (time_t)s, .tv_nsec = (long)((s - (double)(time_t)s) * 1e9) }, NULL); }

/* Threads made from now on, too. -1: wherever the host likes. */
static void pin(int processor)
{
	static cpu_set_t all;
	cpu_set_t one;

	if (!CPU_COUNT(&all))
		sched_getaffinity(0, sizeof(all), &all);
	for (int i = 0; processor >= 0 && i < CPU_SETSIZE; i++) {
		if (CPU_ISSET(i, &all) && !processor--) {
			CPU_ZERO(&one);
			CPU_SET(i, &one);
			sched_setaffinity(0, sizeof(one), &one);
			return;
		}
	}
	sched_setaffinity(0, sizeof(all), &all);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *x, unsigned n)
{
	qsort(x, n, sizeof(*x), compare);
	return x[n / 2];
}

static long ask(int fd, unsigned long nr, const void *arg)
{
	long ret = gw_ioctl(fd, nr, (uintptr_t)arg);

	if (ret < 0) {
		fprintf(stderr, "monitor: ioctl %lx: %ld\n", nr, ret);
		exit(1);
	}
	return ret;
}

static void command(uint32_t op, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3)
{
	struct gw_monitor c = { .cmd = { .op = op, .a = { a0, a1, a2, a3 } } };

	ask(vm, GW_MONITOR, &c);
	if (c.reply.err) {
		fprintf(stderr, "monitor: command %u: %d\n", op, c.reply.err);
		exit(1);
	}
}

/* ---- the guest: 32-bit, flat, no paging --------------------------------------------------------------------------------------- */

static const uint8_t store_loop[] = { 0x89, 0x03, 0x46, 0xeb, 0xfb };		/* 1: mov [ebx],eax; inc esi; jmp 1b */
static const uint8_t add_loop[] = { 0x01, 0xc8, 0x31, 0xc2, 0x46, 0xeb, 0xf9 };	/* 1: add eax,ecx; xor edx,eax; inc esi; jmp 1b */
/* 1: imul ecx,ecx,1664525; add ecx,1013904223; mov edx,ecx; and edx,3fffffc; mov [edx+100000h],ecx; inc esi; jmp 1b: any page */
static const uint8_t random_loop[] = { 0x69, 0xc9, 0x0d, 0x66, 0x19, 0x00, 0x81, 0xc1, 0x5f, 0xf3, 0x6e, 0x3c, 0x89, 0xca, 0x81, 0xe2,
	0xfc, 0xff, 0xff, 0x01, 0x89, 0x8a, 0x00, 0x00, 0x10, 0x00, 0x46, 0xeb, 0xe3 };

static void *run_vcpu(void *arg)
{
	(void)arg;
	while (atomic_load(&is_wanted))
		gw_ioctl(vcpu, KVM_RUN, 0);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
	return NULL;
}

static void start(const uint8_t *code, size_t n)
{
	struct kvm_regs r = { .rip = CODE, .rbx = WATCHED, .rcx = 1, .rflags = 2 };

	memcpy(ram + CODE, code, n);
	ask(vcpu, KVM_SET_REGS, &r);
	__atomic_store_n(&run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	atomic_store(&is_wanted, true);
	pthread_create(&thread, NULL, run_vcpu, NULL);
}

/* Rounds of the loop since start(). */
static double stop(void)
{
	struct kvm_regs r;

	atomic_store(&is_wanted, false);
	__atomic_store_n(&run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	pthread_kill(thread, SIGUSR1);
	pthread_join(thread, NULL);
	ask(vcpu, KVM_GET_REGS, &r);
	return (double)(uint32_t)r.rsi;
}

/* A second of its own processor time: what else the host does is left out. */
static double rounds(const uint8_t *code, size_t n, double s)
{
	double count;

	start(code, n);
	rest(s);
	count = stop();
	return count / ((double)used.tv_sec + (double)used.tv_nsec / 1e9);
}

static void machine(void)
{
	struct kvm_userspace_memory_region r = { .memory_size = RAM }, big = { .slot = 1, .guest_phys_addr = BIG_AT, .memory_size = BIG };
	struct kvm_sregs s;
	int err;

	sys = gw_open();
	vm = (int)gw_ioctl(sys, KVM_CREATE_VM, 0);
	ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	r.userspace_addr = (uintptr_t)ram;
	big.userspace_addr = (uintptr_t)mmap(NULL, BIG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (vm < 0 || ram == MAP_FAILED || (void *)(uintptr_t)big.userspace_addr == MAP_FAILED)
		exit(1);
	memset(ram, 0, RAM);
	ask(vm, KVM_SET_USER_MEMORY_REGION, &r);
	ask(vm, KVM_SET_USER_MEMORY_REGION, &big);
	vcpu = (int)ask(vm, KVM_CREATE_VCPU, NULL);
	run = gw_mmap(12288, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0, &err);
	ask(vcpu, KVM_GET_SREGS, &s);
	s.cr0 = 0x11;
	s.cs = (struct kvm_segment){ .limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .db = 1, .g = 1 };
	s.ds = (struct kvm_segment){ .limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
	s.es = s.ss = s.fs = s.gs = s.ds;
	ask(vcpu, KVM_SET_SREGS, &s);
}

/* ---- in the process --------------------------------------------------------------------------------------------------------------- */

static bool is_switching;

static void told(void *opaque, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	(void)opaque;
	atomic_fetch_add_explicit(&n_events, 1, memory_order_relaxed);
	a->flags = GW_MON_ANS_ALLOW;
	if (is_switching) {
		a->flags |= GW_MON_ANS_VIEW;
		a->view = 3 - ev->view;
	}
}

static void attach(void)
{
	struct gw_monitor_attach a = { .door = GW_MON_CALLBACK, .callback = (uintptr_t)told };

	ask(vm, GW_MONITOR_ATTACH, &a);
}

static double events(const uint8_t *code, size_t n, double s)
{
	double from, per_s;

	start(code, n);
	rest(0.05);
	n_events = 0;
	from = now();
	rest(s);
	per_s = (double)n_events / (now() - from);
	stop();
	return per_s;
}

static double by_processor;	/* the median of callbacks() per second of the thread's own time */

static double callbacks(void)
{
	enum { N = 5 };
	double per_s[N], per_cpu[N];

	attach();
	command(GW_MON_OP_SET_ACCESS, 0, GW_MON_RX, WATCHED >> 12, 1);
	for (unsigned i = 0; i < N; i++) {
		double from = now(), n;

		start(store_loop, sizeof(store_loop));
		rest(0.2);
		n = stop();
		per_s[i] = n / (now() - from);
		per_cpu[i] = n / ((double)used.tv_sec + (double)used.tv_nsec / 1e9);
	}
	command(GW_MON_OP_DETACH, 1, 0, 0, 0);
	by_processor = median(per_cpu, N);
	return median(per_s, N);
}

static double steps(void)
{
	double per_s;

	attach();
	command(GW_MON_OP_SUBSCRIBE, GW_MON_SINGLESTEP, 1, 0, 0);
	command(GW_MON_OP_STEP, 0, 1, 0, 0);
	per_s = events(add_loop, sizeof(add_loop), 1);
	command(GW_MON_OP_DETACH, 1, 0, 0, 0);
	return per_s;
}

static void views(double per_callback)
{
	unsigned n = 0;
	double from, per_s;

	attach();
	command(GW_MON_OP_VIEWS, 1, 0, 0, 0);
	for (unsigned v = 1; v <= 2; v++) {
		command(GW_MON_OP_VIEW_CREATE, GW_MON_RWX, 0, 0, 0);
		command(GW_MON_OP_SET_ACCESS, v, GW_MON_RX, WATCHED >> 12, 1);
	}
	command(GW_MON_OP_VIEW_SWITCH, 1, 0, 0, 0);
	is_switching = true;
	per_s = events(store_loop, sizeof(store_loop), 1);
	is_switching = false;
	printf("view_switch_in_an_answer %.0f ns\n", 1e9 / per_s - 1e9 / per_callback);
	start(add_loop, sizeof(add_loop));
	for (from = now(); now() < from + 0.5; n++)
		command(GW_MON_OP_VIEW_SWITCH, 1 + (n & 1), 0, 0, 0);
	printf("view_switch_of_a_running_vcpu %.2f us\n", 0.5e6 / n);
	stop();
	command(GW_MON_OP_DETACH, 1, 0, 0, 0);
}

static void rights(void)
{
	uint64_t first = BIG_AT >> 12, n = BIG >> 12;
	static struct gw_mon_set list[4096];
	double from;

	attach();
	from = now();
	command(GW_MON_OP_SET_ACCESS, 0, GW_MON_RX, first, n);
	printf("rights_million_pages_one_range %.1f us\n", (now() - from) * 1e6);
	from = now();
	for (uint64_t i = 0; i < n; i++)
		command(GW_MON_OP_SET_ACCESS, 0, i & 1 ? GW_MON_RW : GW_MON_R, first + i, 1);
	printf("rights_million_pages_one_by_one %.1f ms\n", (now() - from) * 1e3);
	from = now();
	for (uint64_t i = 0; i < n; i += 4096) {
		struct gw_monitor c = { .cmd = { .op = GW_MON_OP_SET_ACCESS_LIST, .size = sizeof(list), .a = { 0, 4096 } }, .payload = (uintptr_t)list };

		for (unsigned j = 0; j < 4096; j++)
			list[j] = (struct gw_mon_set){ first + i + j, 1, j & 1 ? GW_MON_RX : GW_MON_RWX };
		ask(vm, GW_MONITOR, &c);
	}
	printf("rights_million_pages_in_lists %.1f ms\n", (now() - from) * 1e3);
	command(GW_MON_OP_DETACH, 1, 0, 0, 0);
}

/* Interleaved, so that a busy host is as unkind to each of them. */
static void guests(const char *name, const uint8_t *code, size_t n, bool watch)
{
	enum { N = 5 };
	double bare[N], attached[N], watched[N];

	for (unsigned i = 0; i < N; i++) {
		bare[i] = rounds(code, n, 0.3);
		attach();
		attached[i] = rounds(code, n, 0.3);
		for (uint64_t at = 0x100000 >> 12; watch && at < RAM >> 12; at += 100)
			command(GW_MON_OP_SET_ACCESS, 0, GW_MON_RX, at, 1);
		watched[i] = watch ? rounds(code, n, 0.3) : 0;
		command(GW_MON_OP_DETACH, 1, 0, 0, 0);
	}
	printf("guest_%s_alone %.1f M/s\n", name, median(bare, N) / 1e6);
	printf("guest_%s_monitor_attached %.1f M/s\n", name, median(attached, N) / 1e6);
	if (watch)
		printf("guest_%s_1_percent_of_pages_watched %.1f M/s\n", name, median(watched, N) / 1e6);
}

/* ---- from another process ---------------------------------------------------------------------------------------------------------- */

static void allow(void *arg, struct session *s, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	(void)s;
	(void)ev;
	++*(unsigned long *)arg;
	a->flags = GW_MON_ANS_ALLOW;
}

/*
 * Forked before there are threads. Told by a byte where to run and to begin, tells by one when it is attached; kicked out of its sleep
 * it detaches, tells how many there were, and may be told again. A limit to the sleep would be a timer to set for each question.
 */
static void child(int fd, unsigned spin_us)
{
	struct session s;
	char c;

	while (read(fd, &c, 1) == 1) {
		unsigned long n = 0;

		pin(c);
		if (session_connect(&s, getppid(), 0) || session_attach(&s, GW_MON_RELEASE, 0, 0, spin_us) ||
		    session_command(&s, GW_MON_OP_SET_ACCESS, 0, GW_MON_RX, WATCHED >> 12, 1, NULL) || write(fd, &c, 1) != 1)
			_exit(1);
		if (session_serve(&s, spin_us, -1, allow, &n) != -EINTR || session_command(&s, GW_MON_OP_DETACH, 1, 0, 0, 0, NULL))
			_exit(1);
		session_close(&s);
		if (write(fd, &n, sizeof(n)) != (ssize_t)sizeof(n))
			_exit(1);
	}
	_exit(0);
}

struct other { pid_t pid; int fd; };

static struct other other(unsigned spin_us)
{
	int fd[2];
	struct other o;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd))
		exit(1);
	o.pid = fork();
	if (!o.pid) {
		close(fd[0]);
		child(fd[1], spin_us);
	}
	close(fd[1]);
	o.fd = fd[0];
	return o;
}

/* ---- the yardstick ------------------------------------------------------------------------------------------------------------------ */

/*
 * Where the two sides run. What a wake-up costs depends on that more than on anything else: on one processor it is a switch, to
 * another one it is an interrupt of a processor that sleeps.
 */
struct placement { const char *name; char vcpu, monitor; };
static const struct placement one_processor = { "one_processor", 0, 0 }, two_processors = { "two_processors", 0, 1 };

static int there, back;
static pid_t echo_pid;
static void *echo(void *arg)
{
	const struct placement *p = arg;
	uint64_t v;

	pin(p->monitor);
	while (read(there, &v, sizeof(v)) == (ssize_t)sizeof(v) && v < 1000 && write(back, &v, sizeof(v)) == (ssize_t)sizeof(v))
		;
	return NULL;
}

/* Of two threads, or of two processes. */
static double ping_pong(const struct placement *p, double s, bool processes)
{
	uint64_t v = 1;
	unsigned long n = 0;
	double from;

	there = eventfd(0, EFD_CLOEXEC);
	back = eventfd(0, EFD_CLOEXEC);
	if (processes) {
		echo_pid = fork();
		if (!echo_pid) {
			echo((void *)(uintptr_t)p);
			_exit(0);
		}
	} else {
		pthread_create(&thread, NULL, echo, (void *)(uintptr_t)p);
	}
	pin(p->vcpu);
	for (from = now(); now() < from + s; n++)
		if (write(there, &v, sizeof(v)) < 0 || read(back, &v, sizeof(v)) < 0)
			exit(1);
	from = now() - from;
	pin(-1);
	v = 1000;
	if (write(there, &v, sizeof(v)) < 0)
		exit(1);
	if (processes)
		waitpid(echo_pid, NULL, 0);
	else
		pthread_join(thread, NULL);
	close(there);
	close(back);
	return (double)n / from;
}

/* Per second, for about @s seconds. */
static double round_trips(const struct other *o, const struct placement *p, double s)
{
	struct pollfd answer = { .fd = o->fd, .events = POLLIN };
	char c = p->monitor;
	unsigned long n;
	double from;

	if (write(o->fd, &c, 1) != 1 || read(o->fd, &c, 1) != 1) {
		fprintf(stderr, "monitor: the other process could not attach\n");
		exit(1);
	}
	pin(p->vcpu);
	from = now();
	start(store_loop, sizeof(store_loop));
	pin(-1);
	rest(s);
	stop();
	from = now() - from;
	/* Until it is found asleep. */
	do
		kill(o->pid, SIGUSR1);
	while (!poll(&answer, 1, 10));
	if (read(o->fd, &n, sizeof(n)) != (ssize_t)sizeof(n)) {
		fprintf(stderr, "monitor: the other process did not detach\n");
		exit(1);
	}
	return (double)n / from;
}

/* Interleaved, so that a busy host is as unkind to each; ratios are of neighbours. Returns the sleeping figure. */
static double placed(const struct placement *p, const struct other *sleeping, const struct other *spinning)
{
	enum { N = 11 };
	double bare[N], processes[N], sleep[N], spin[N], to_bare[N], to_sleep[N], per_s;

	for (unsigned i = 0; i < N; i++) {
		bare[i] = ping_pong(p, 0.1, false);
		sleep[i] = round_trips(sleeping, p, 0.1);
		processes[i] = ping_pong(p, 0.1, true);
		spin[i] = spinning ? round_trips(spinning, p, 0.1) : 0;
		to_bare[i] = sleep[i] / bare[i];
		to_sleep[i] = spin[i] / sleep[i];
	}
	printf("%s_eventfd_ping_pong %.0f /s\n", p->name, median(bare, N));
	printf("%s_eventfd_ping_pong_of_two_processes %.0f /s\n", p->name, median(processes, N));
	per_s = median(sleep, N);
	printf("%s_round_trips_sleeping %.0f /s\n", p->name, per_s);
	printf("%s_round_trips_sleeping_to_ping_pong %.2f (0.80 or more)\n", p->name, median(to_bare, N));
	if (spinning) {
		printf("%s_round_trips_spinning %.0f /s (50000 or more)\n", p->name, median(spin, N));
		printf("%s_round_trips_spinning_to_sleeping %.1f (10 or more)\n", p->name, median(to_sleep, N));
	}
	return per_s;
}

static unsigned n_processors(void)
{
	cpu_set_t all;

	return sched_getaffinity(0, sizeof(all), &all) ? 1 : (unsigned)CPU_COUNT(&all);
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = kick };
	struct other sleeping, spinning;
	double in_process, shared, apart = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	setenv("GUESTWARD_CONTROL", "1", 1);
	sigaction(SIGUSR1, &sa, NULL);
	sleeping = other(0);
	spinning = other(GW_MON_MAX_SPIN);
	machine();
	rest(0.1);
	if (argc > 1 && !strcmp(argv[1], "in-process")) {	/* for a profiler */
		for (unsigned i = 0; i < 5; i++) {
			in_process = callbacks();
			printf("round_trips_in_process %.0f /s, %.0f by processor time\n", in_process, by_processor);
		}
		return 0;
	}
	if (argc > 1 && !strcmp(argv[1], "rights")) {
		rights();
		return 0;
	}
	if (argc > 1 && !strcmp(argv[1], "views")) {
		for (unsigned i = 0; i < 3; i++)
			views(callbacks());
		return 0;
	}
	if (argc > 1 && !strcmp(argv[1], "guests"))
		goto guests;
	if (argc > 1 && !strcmp(argv[1], "spinning")) {
		for (unsigned i = 0; i < 40; i++)
			printf("round_trips_spinning %.0f /s\n", round_trips(&spinning, &two_processors, 0.03));
		return 0;
	}
	shared = placed(&one_processor, &sleeping, NULL);
	if (n_processors() > 1)
		apart = placed(&two_processors, &sleeping, &spinning);
	else
		printf("two_processors_not_measured: there is one\n");
	in_process = callbacks();
	printf("round_trips_in_process %.0f /s\n", in_process);
	printf("round_trips_in_process_by_processor_time %.0f /s\n", by_processor);
	if (apart)
		printf("round_trips_in_process_to_two_processors_sleeping %.1f (20 or more)\n", in_process / apart);
	printf("round_trips_in_process_to_one_processor_sleeping %.1f\n", in_process / shared);
	printf("single_steps %.0f /s\n", steps());
	views(in_process);
	rights();
guests:
	guests("arithmetic", add_loop, sizeof(add_loop), false);
	guests("stores", random_loop, sizeof(random_loop), true);
	return 0;
}
