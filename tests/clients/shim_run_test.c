/* SPDX-License-Identifier: MIT */
/* A running vCPU through the preload library: its pages, its exits, the signals that end KVM_RUN, and whose faults are whose. */
#include "shim_test.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- a small machine ---------------------------------------------------------------------------------------------------- */

void machine_start(struct machine *m, const void *code, size_t len)
{
	struct kvm_userspace_memory_region r = { .guest_phys_addr = 0, .memory_size = 16 * PAGE };
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rip = 0x1000, .rflags = 2 };

	m->kvm = open_kvm();
	m->vm = ioctl(m->kvm, KVM_CREATE_VM, 0);
	m->ram = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(m->ram, MAP_FAILED);
	memcpy(m->ram + 0x1000, code, len);
	r.userspace_addr = (uintptr_t)m->ram;
	assert_int_equal(ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
	m->vcpu = ioctl(m->vm, KVM_CREATE_VCPU, 0);
	m->run = mmap(NULL, (size_t)ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu, 0);
	assert_ptr_not_equal(m->run, MAP_FAILED);
	assert_int_equal(ioctl(m->vcpu, KVM_GET_SREGS, &sregs), 0);
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	assert_int_equal(ioctl(m->vcpu, KVM_SET_SREGS, &sregs), 0);
	assert_int_equal(ioctl(m->vcpu, KVM_SET_REGS, &regs), 0);
}

void machine_end(struct machine *m)
{
	munmap(m->run, (size_t)ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
	munmap(m->ram, 16 * PAGE);
	close(m->vcpu);
	close(m->vm);
	close(m->kvm);
}

const uint8_t out_then_hlt[5] = { 0xb0, 0x2a, 0xe6, 0x10, 0xf4 };	/* mov $42,%al; out %al,$0x10; hlt */
const uint8_t spin[2] = { 0xeb, 0xfe };

/* ---- a running vCPU -------------------------------------------------------------------------------------------------------- */

static void a_small_client_runs_a_guest(void **state)
{
	struct machine m;

	machine_start(&m, out_then_hlt, sizeof(out_then_hlt));
	assert_int_equal(ioctl(m.vcpu, KVM_RUN, 0), 0);
	assert_int_equal(m.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(m.run->io.port, 0x10);
	assert_int_equal(((uint8_t *)m.run)[m.run->io.data_offset], 42);
	assert_int_equal(syscall(SYS_ioctl, m.vcpu, KVM_RUN, 0), 0);
	assert_int_equal(m.run->exit_reason, KVM_EXIT_HLT);
	machine_end(&m);
}

static void a_vcpu_can_be_mapped_where_the_client_wants(void **state)
{
	struct machine m;
	uint8_t *room = mmap(NULL, 16 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_run *again;

	machine_start(&m, out_then_hlt, sizeof(out_then_hlt));
	again = mmap(room + PAGE, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, m.vcpu, 0);
	assert_ptr_equal(again, room + PAGE);
	assert_int_equal(ioctl(m.vcpu, KVM_RUN, 0), 0);
	assert_int_equal(again->exit_reason, KVM_EXIT_IO);
	assert_int_equal(((uint8_t *)again)[again->io.data_offset], 42);
	assert_ptr_equal(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, m.vm, 0), MAP_FAILED);
	assert_int_equal(errno, ENODEV);
	munmap(room, 16 * PAGE);
	machine_end(&m);
}

static struct kvm_regs regs_after_leaving(struct machine *m)
{
	struct kvm_regs regs;

	m->run->immediate_exit = 1;
	assert_int_equal(ioctl(m->vcpu, KVM_RUN, 0), -1);
	assert_int_equal(errno, EINTR);
	m->run->immediate_exit = 0;
	assert_int_equal(ioctl(m->vcpu, KVM_GET_REGS, &regs), 0);
	return regs;
}

/* Clients that save a vCPU after an exit let it finish first, by a KVM_RUN that leaves at once. */
static void the_instruction_of_an_exit_retires_before_the_vcpu_is_saved(void **state)
{
	/* in $0x10,%al; out %al,$0x11; mov $0x9000,%cx; mov %cx,%ds; mov (0),%bl; mov %al,(0); hlt: no memory at 0x90000 */
	static const uint8_t code[] = { 0xe4, 0x10, 0xe6, 0x11, 0xb9, 0x00, 0x90, 0x8e, 0xd9, 0x8a, 0x1e, 0, 0, 0xa2, 0, 0, 0xf4 };
	struct kvm_regs regs;
	struct machine m;

	machine_start(&m, code, sizeof(code));
	assert_int_equal(ioctl(m.vcpu, KVM_RUN, 0), 0);
	assert_int_equal(m.run->exit_reason, KVM_EXIT_IO);
	((uint8_t *)m.run)[m.run->io.data_offset] = 0x55;
	regs = regs_after_leaving(&m);
	assert_int_equal(regs.rip, 0x1002);
	assert_int_equal(regs.rax & 0xff, 0x55);
	assert_int_equal(ioctl(m.vcpu, KVM_RUN, 0), 0);
	assert_int_equal(m.run->io.port, 0x11);
	assert_int_equal(regs_after_leaving(&m).rip, 0x1004);
	assert_int_equal(ioctl(m.vcpu, KVM_RUN, 0), 0);
	assert_int_equal(m.run->exit_reason, KVM_EXIT_MMIO);
	assert_int_equal(m.run->mmio.is_write, 0);
	m.run->mmio.data[0] = 0x66;
	regs = regs_after_leaving(&m);
	assert_int_equal(regs.rip, 0x100d);
	assert_int_equal(regs.rbx & 0xff, 0x66);
	assert_int_equal(ioctl(m.vcpu, KVM_RUN, 0), 0);
	assert_int_equal(m.run->exit_reason, KVM_EXIT_MMIO);
	assert_int_equal(m.run->mmio.is_write, 1);
	assert_int_equal(regs_after_leaving(&m).rip, 0x1010);
	assert_int_equal(ioctl(m.vcpu, KVM_RUN, 0), 0);
	assert_int_equal(m.run->exit_reason, KVM_EXIT_HLT);
	machine_end(&m);
}

static struct kvm_run *kicked_run;
static volatile sig_atomic_t n_signals;

static void set_immediate_exit(int sig) { kicked_run->immediate_exit = 1; n_signals++; }
static void only_count(int sig) { n_signals++; }

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

struct kick { pthread_t target; int sig; double sent; };

static void *send_later(void *arg)
{
	struct kick *k = arg;

	usleep(100000);
	k->sent = now();
	pthread_kill(k->target, k->sig);
	return NULL;
}

static void check_kick(void (*handler)(int sig), int sig)
{
	struct sigaction act = { .sa_handler = handler }, old;
	struct kick k = { .target = pthread_self(), .sig = sig };
	struct machine m;
	pthread_t t;
	double took;

	machine_start(&m, spin, sizeof(spin));
	kicked_run = m.run;
	n_signals = 0;
	sigaction(sig, &act, &old);
	pthread_create(&t, NULL, send_later, &k);
	assert_int_equal(ioctl(m.vcpu, KVM_RUN, 0), -1);
	assert_int_equal(errno, EINTR);
	took = now() - k.sent;
	pthread_join(t, NULL);
	assert_int_equal(n_signals, 1);
	assert_int_equal(m.run->exit_reason, KVM_EXIT_INTR);
	/* A millisecond on an idle machine; this one may be busy. */
	assert_true(took < 0.2);
	sigaction(sig, &old, NULL);
	machine_end(&m);
}

static void a_handler_that_sets_immediate_exit_ends_the_run(void **state) { check_kick(set_immediate_exit, SIGUSR1); }
static void a_handler_that_does_nothing_ends_the_run(void **state) { check_kick(only_count, SIGRTMIN + 1); }

static void a_timer_signal_of_the_process_ends_the_run(void **state)
{
	struct sigaction act = { .sa_handler = only_count, .sa_flags = SA_RESTART }, old;
	struct machine m;

	machine_start(&m, spin, sizeof(spin));
	n_signals = 0;
	sigaction(SIGALRM, &act, &old);
	ualarm(50000, 0);
	assert_int_equal(ioctl(m.vcpu, KVM_RUN, 0), -1);
	assert_int_equal(errno, EINTR);
	assert_int_equal(n_signals, 1);
	sigaction(SIGALRM, &old, NULL);
	machine_end(&m);
}

/* As old clients do it: the kick is blocked outside KVM_RUN, and taken from the queue by hand afterwards. */
static void a_signal_that_only_the_run_lets_in_ends_it_and_stays_pending(void **state)
{
	union { struct kvm_signal_mask head; uint8_t room[sizeof(struct kvm_signal_mask) + sizeof(uint64_t)]; } set = { .head.len = sizeof(uint64_t) };
	struct timespec none = { 0 };
	sigset_t kick, old, in_run;
	struct machine m;

	machine_start(&m, spin, sizeof(spin));
	sigemptyset(&kick);
	sigaddset(&kick, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &kick, &old);
	in_run = old;
	sigdelset(&in_run, SIGUSR1);
	/* The mask follows the length without a gap. */
	memcpy(set.head.sigset, &in_run, sizeof(uint64_t));
	assert_int_equal(ioctl(m.vcpu, KVM_SET_SIGNAL_MASK, &set), 0);
	pthread_kill(pthread_self(), SIGUSR1);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(ioctl(m.vcpu, KVM_RUN, 0), -1);
		assert_int_equal(errno, EINTR);
		assert_int_equal(m.run->exit_reason, KVM_EXIT_INTR);
	}
	assert_int_equal(sigtimedwait(&kick, NULL, &none), SIGUSR1);
	assert_int_equal(sigtimedwait(&kick, NULL, &none), -1);
	set.head.len = 4;
	assert_int_equal(ioctl(m.vcpu, KVM_SET_SIGNAL_MASK, &set), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(ioctl(m.vcpu, KVM_SET_SIGNAL_MASK, NULL), 0);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	machine_end(&m);
}

#define N_KICKS 60u

static sem_t next_kick;
static double kick_sent;

static void *send_many(void *arg)
{
	struct kick *k = arg;

	for (unsigned i = 0; i < N_KICKS; i++) {
		sem_wait(&next_kick);
		usleep(2000);
		kick_sent = now();
		pthread_kill(k->target, k->sig);
	}
	return NULL;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* With one kick lost this waits for ever. The machine may be busy, so a part of them decides what the way itself takes. */
static void check_many_kicks(const void *code, size_t len, const char *what)
{
	struct kick k = { .target = pthread_self(), .sig = SIGRTMIN + 2 };
	struct sigaction act = { .sa_handler = set_immediate_exit }, old;
	double took[N_KICKS];
	struct machine m;
	pthread_t t;

	machine_start(&m, code, len);
	kicked_run = m.run;
	sigaction(k.sig, &act, &old);
	sem_init(&next_kick, 0, 0);
	pthread_create(&t, NULL, send_many, &k);
	for (unsigned i = 0; i < N_KICKS; i++) {
		sem_post(&next_kick);
		while (ioctl(m.vcpu, KVM_RUN, 0) == 0)
			assert_int_equal(m.run->exit_reason, KVM_EXIT_IO);
		assert_int_equal(errno, EINTR);
		took[i] = now() - kick_sent;
		m.run->immediate_exit = 0;
	}
	pthread_join(t, NULL);
	qsort(took, N_KICKS, sizeof(took[0]), by_size);
	print_message("# %s: a tenth of the kicks within %.0f us, half within %.0f us\n", what, took[N_KICKS / 10] * 1e6, took[N_KICKS / 2] * 1e6);
	assert_true(took[N_KICKS / 10] < 1e-3);
	sigaction(k.sig, &old, NULL);
	machine_end(&m);
}

/* A loop with memory accesses: translated, and longer than one block. inc (bx); mov (bx),ax; jmp */
static const uint8_t work[] = { 0xbb, 0x00, 0x20, 0xff, 0x07, 0x8b, 0x07, 0xeb, 0xfa };
static const uint8_t exits[] = { 0xe6, 0x10, 0xeb, 0xfc };		/* out %al,$0x10; jmp */

static void kicks_reach_a_spinning_guest_within_a_millisecond(void **state) { check_many_kicks(spin, sizeof(spin), "spinning"); }
static void kicks_reach_a_working_guest_within_a_millisecond(void **state) { check_many_kicks(work, sizeof(work), "working"); }
static void kicks_are_not_lost_between_exits(void **state) { check_many_kicks(exits, sizeof(exits), "exiting"); }

/* ---- fault signals -------------------------------------------------------------------------------------------------------- */

static sigjmp_buf escape;
static volatile uintptr_t fault_address;

static void on_fault(int sig, siginfo_t *info, void *ctx)
{
	fault_address = (uintptr_t)info->si_addr;
	siglongjmp(escape, sig);
}

static void check_own_fault(void)
{
	uint8_t *hole = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int sig = sigsetjmp(escape, 1);

	if (!sig) {
		*(volatile uint8_t *)(hole + 5) = 1;
		fail();
	}
	assert_int_equal(sig, SIGSEGV);
	assert_int_equal(fault_address, (uintptr_t)hole + 5);
	munmap(hole, PAGE);
}

static void the_clients_fault_handlers_get_the_clients_faults(void **state)
{
	struct sigaction act = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO }, first, seen;
	struct machine m;

	/* Once installed before there is a VM, once after. */
	sigaction(SIGSEGV, &act, &first);
	machine_start(&m, out_then_hlt, sizeof(out_then_hlt));
	assert_int_equal(ioctl(m.vcpu, KVM_RUN, 0), 0);
	check_own_fault();
	assert_int_equal(sigaction(SIGSEGV, NULL, &seen), 0);
	assert_ptr_equal(seen.sa_sigaction, on_fault);
	assert_int_equal(sigaction(SIGSEGV, &first, NULL), 0);
	assert_int_equal(sigaction(SIGSEGV, &act, &seen), 0);
	assert_ptr_equal(seen.sa_handler, first.sa_handler);
	check_own_fault();
	sigaction(SIGSEGV, &first, NULL);
	machine_end(&m);
}

/* mov 0x3000,%al; out %al,$0x10 */
static const uint8_t load_then_out[] = { 0xa0, 0x00, 0x30, 0xe6, 0x10 };

/* Memory taken away under the guest is the engine's fault to handle, whatever the client installed. */
static void a_client_handler_does_not_see_the_engines_faults(void **state)
{
	struct sigaction act = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO }, old;
	struct machine m;

	machine_start(&m, load_then_out, sizeof(load_then_out));
	sigaction(SIGSEGV, &act, &old);
	mprotect(m.ram + 3 * PAGE, PAGE, PROT_NONE);
	if (sigsetjmp(escape, 1))
		fail();
	assert_int_equal(ioctl(m.vcpu, KVM_RUN, 0), -1);
	assert_int_equal(errno, EFAULT);
	mprotect(m.ram + 3 * PAGE, PAGE, PROT_READ | PROT_WRITE);
	assert_int_equal(ioctl(m.vcpu, KVM_RUN, 0), 0);
	assert_int_equal(m.run->exit_reason, KVM_EXIT_IO);
	sigaction(SIGSEGV, &old, NULL);
	machine_end(&m);
}

static volatile int *volatile nowhere = (int *)16;

static void an_unhandled_fault_still_kills(void **state)
{
	int status, pid = fork();

	if (!pid) {
		struct machine m;

		signal(SIGSEGV, SIG_DFL);
		machine_start(&m, out_then_hlt, sizeof(out_then_hlt));
		*nowhere = 0;
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGSEGV);
}

const struct CMUnitTest run_tests[] = {
	T(a_small_client_runs_a_guest), T(a_vcpu_can_be_mapped_where_the_client_wants),
	T(a_handler_that_sets_immediate_exit_ends_the_run), T(a_handler_that_does_nothing_ends_the_run),
	T(a_timer_signal_of_the_process_ends_the_run),
	T(the_instruction_of_an_exit_retires_before_the_vcpu_is_saved),
	T(a_signal_that_only_the_run_lets_in_ends_it_and_stays_pending),
	T(kicks_reach_a_spinning_guest_within_a_millisecond), T(kicks_reach_a_working_guest_within_a_millisecond),
	T(kicks_are_not_lost_between_exits), T(the_clients_fault_handlers_get_the_clients_faults),
	T(a_client_handler_does_not_see_the_engines_faults), T(an_unhandled_fault_still_kills),
};
const unsigned n_run_tests = sizeof(run_tests) / sizeof(run_tests[0]);
