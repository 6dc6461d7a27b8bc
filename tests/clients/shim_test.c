/* SPDX-License-Identifier: MIT */
/*
 * What a client sees through the preload library: this program knows nothing of Guestward and is run by `guestward run`. Where the
 * machine has a working /dev/kvm, most of it passes without the library too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u

static int api(int fd) { return ioctl(fd, KVM_GET_API_VERSION, 0); }

static int open_kvm(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

/* ---- paths -------------------------------------------------------------------------------------------------------------- */

static int by_open(void) { return open("/dev/kvm", O_RDWR); }
static int by_read_only(void) { return open("/dev/kvm", O_RDONLY); }
static int by_open64(void) { return open64("/dev/kvm", O_RDWR); }
static int by_openat(void) { return openat(AT_FDCWD, "/dev/kvm", O_RDWR); }
static int by_slashes(void) { return open("//dev/./../dev///kvm", O_RDWR); }
static int by_syscall(void) { return (int)syscall(SYS_openat, AT_FDCWD, "/dev/kvm", O_RDWR, 0); }
static int by_old_syscall(void) { return (int)syscall(SYS_open, "/dev/kvm", O_RDWR, 0); }

static int by_directory(void)
{
	int dir = open("/dev", O_RDONLY | O_DIRECTORY), fd;

	assert_true(dir >= 0);
	fd = openat(dir, "kvm", O_RDWR);
	close(dir);
	return fd;
}

static int by_cwd(void)
{
	char old[512];
	int fd;

	assert_non_null(getcwd(old, sizeof(old)));
	assert_int_equal(chdir("/dev"), 0);
	fd = open("kvm", O_RDWR);
	assert_int_equal(chdir(old), 0);
	return fd;
}

static int by_stream(void)
{
	FILE *f = fopen("/dev/kvm", "r+");
	int fd;

	assert_non_null(f);
	fd = dup(fileno(f));
	assert_int_equal(api(fileno(f)), KVM_API_VERSION);
	fclose(f);
	return fd;
}

static int by_reopening(void)
{
	char path[64];
	int first = open_kvm(), fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", first);
	fd = open(path, O_RDWR);
	close(first);
	return fd;
}

static const struct way { const char *name; int (*open)(void); } ways[] = {
	{ "open finds the device", by_open }, { "open for reading finds it", by_read_only }, { "open64 finds it", by_open64 },
	{ "openat finds it", by_openat }, { "a path with slashes and dots finds it", by_slashes },
	{ "a path below a directory's descriptor finds it", by_directory }, { "a path below the current directory finds it", by_cwd },
	{ "fopen finds it", by_stream }, { "syscall(SYS_openat) finds it", by_syscall }, { "syscall(SYS_open) finds it", by_old_syscall },
	{ "a descriptor opened again through /proc is one", by_reopening },
};
#define N_WAYS (sizeof(ways) / sizeof(ways[0]))

static void check_way(void **state)
{
	const struct way *w = *state;
	int fd = w->open();

	assert_true(fd >= 0);
	assert_int_equal(api(fd), KVM_API_VERSION);
	assert_int_equal(close(fd), 0);
	assert_int_equal(api(fd), -1);
	assert_int_equal(errno, EBADF);
}

static void check_device(const struct stat *st)
{
	assert_true(S_ISCHR(st->st_mode));
	assert_int_equal(major(st->st_rdev), 10);
	assert_int_equal(minor(st->st_rdev), 232);
}

static void stat_sees_a_device(void **state)
{
	struct statx stx;
	struct stat st;
	int fd = open_kvm();

	assert_int_equal(stat("/dev/kvm", &st), 0);
	check_device(&st);
	assert_int_equal(lstat("/dev/kvm", &st), 0);
	check_device(&st);
	assert_int_equal(fstatat(AT_FDCWD, "/dev/kvm", &st, 0), 0);
	check_device(&st);
	assert_int_equal(fstat(fd, &st), 0);
	check_device(&st);
	assert_int_equal(fstatat(fd, "", &st, AT_EMPTY_PATH), 0);
	check_device(&st);
	assert_int_equal(statx(AT_FDCWD, "/dev/kvm", 0, STATX_BASIC_STATS, &stx), 0);
	assert_true(S_ISCHR(stx.stx_mode));
	assert_int_equal(stx.stx_rdev_major, 10);
	assert_int_equal(stx.stx_rdev_minor, 232);
	close(fd);
}

static void access_permits_reading_and_writing(void **state)
{
	assert_int_equal(access("/dev/kvm", F_OK), 0);
	assert_int_equal(access("/dev/kvm", R_OK | W_OK), 0);
	assert_int_equal(faccessat(AT_FDCWD, "/dev/kvm", R_OK | W_OK, AT_EACCESS), 0);
	assert_int_equal(access("/dev/kvm", X_OK), -1);
	assert_int_equal(errno, EACCES);
}

static void open_refuses_what_a_device_refuses(void **state)
{
	assert_int_equal(open("/dev/kvm", O_RDWR | O_DIRECTORY), -1);
	assert_int_equal(errno, ENOTDIR);
	assert_int_equal(open("/dev/kvm", O_RDWR | O_CREAT | O_EXCL, 0600), -1);
	assert_int_equal(errno, EEXIST);
}

static void other_paths_are_libcs(void **state)
{
	struct stat st;
	char text[4] = "";
	int fd = open("/dev/zero", O_RDONLY);

	assert_true(fd >= 0);
	assert_int_equal(read(fd, text, 1), 1);
	close(fd);
	assert_int_equal(open("/tmp/nowhere/kvm", O_RDONLY), -1);
	assert_int_equal(errno, ENOENT);
	assert_int_equal(stat("/dev/zero", &st), 0);
	assert_int_equal(minor(st.st_rdev), 5);
}

static void parameters_of_the_module_can_be_read(void **state)
{
	static const char path[] = "/sys/module/kvm/parameters/force_emulation_prefix";
	char text[16] = "";
	struct stat st;
	FILE *f = fopen(path, "r");
	int fd;

	assert_non_null(f);
	assert_non_null(fgets(text, sizeof(text), f));
	assert_true(text[0] >= '0' && text[0] <= '9' && text[1] == '\n');
	fclose(f);
	fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(read(fd, text, sizeof(text)), 2);
	close(fd);
	assert_int_equal(stat(path, &st), 0);
	assert_true(S_ISREG(st.st_mode));
	assert_int_equal(access(path, R_OK), 0);
	fd = open(path, O_WRONLY);
	assert_int_equal(fd, -1);
	assert_int_equal(errno, EACCES);
}

/* ---- descriptors -------------------------------------------------------------------------------------------------------- */

static void close_on_exec_is_as_asked(void **state)
{
	int with = open("/dev/kvm", O_RDWR | O_CLOEXEC), without = open("/dev/kvm", O_RDWR), vm = ioctl(with, KVM_CREATE_VM, 0);

	assert_int_equal(fcntl(with, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fcntl(without, F_GETFD), 0);
	assert_int_equal(fcntl(vm, F_GETFD), FD_CLOEXEC);
	close(vm);
	close(with);
	close(without);
}

static void duplicates_work_and_outlive_each_other(void **state)
{
	int fd = open_kvm(), spare = open("/dev/null", O_RDONLY), d[5];

	d[0] = dup(fd);
	d[1] = dup2(fd, spare);
	d[2] = dup3(fd, 100, O_CLOEXEC);
	d[3] = fcntl(fd, F_DUPFD_CLOEXEC, 50);
	d[4] = (int)syscall(SYS_dup, fd);
	close(fd);
	for (int i = 0; i < 5; i++) {
		assert_true(d[i] >= 0);
		assert_int_equal(api(d[i]), KVM_API_VERSION);
		close(d[i]);
	}
}

static void duplicating_over_a_device_closes_it(void **state)
{
	int fd = open_kvm(), null = open("/dev/null", O_RDWR);

	assert_int_equal(dup2(null, fd), fd);
	assert_int_equal(api(fd), -1);
	assert_int_equal(errno, ENOTTY);
	assert_int_equal(write(fd, "x", 1), 1);
	assert_int_equal(dup2(-1, null), -1);
	assert_int_equal(errno, EBADF);
	close(fd);
	close(null);
}

static void ranges_close_what_is_in_them(void **state)
{
	int fd = open_kvm(), low = dup2(fd, 200), mid = dup2(fd, 201), high = dup2(fd, 202);

	assert_int_equal(close_range(201, 201, 0), 0);
	assert_int_equal(api(mid), -1);
	assert_int_equal(api(low), KVM_API_VERSION);
	assert_int_equal(close_range(200, 300, 0), 0);
	assert_int_equal(api(low), -1);
	assert_int_equal(api(high), -1);
	assert_int_equal(api(fd), KVM_API_VERSION);
	close(fd);
}

static void files_of_kvm_cannot_be_read(void **state)
{
	int kvm = open_kvm(), vm = ioctl(kvm, KVM_CREATE_VM, 0), vcpu = ioctl(vm, KVM_CREATE_VCPU, 0), fds[] = { kvm, vm, vcpu };
	char c = 0;

	for (int i = 0; i < 3; i++) {
		assert_true(fds[i] >= 0);
		assert_int_equal(read(fds[i], &c, 1), -1);
		assert_int_equal(errno, EINVAL);
		assert_int_equal(write(fds[i], &c, 1), -1);
		assert_int_equal(errno, EINVAL);
		assert_int_equal(close(fds[i]), 0);
	}
}

static void a_vcpu_lives_without_its_vm_descriptor(void **state)
{
	int kvm = open_kvm(), vm = ioctl(kvm, KVM_CREATE_VM, 0), vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	struct kvm_regs regs;

	close(kvm);
	close(vm);
	assert_int_equal(ioctl(vcpu, KVM_GET_REGS, &regs), 0);
	assert_int_equal(regs.rip, 0xfff0);
	close(vcpu);
}

static void unknown_requests_get_kvms_errno(void **state)
{
	int kvm = open_kvm(), vm = ioctl(kvm, KVM_CREATE_VM, 0);

	assert_int_equal(ioctl(kvm, _IO(KVMIO, 0xff), 0), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(ioctl(vm, _IO(KVMIO, 0xff), 0), -1);
	assert_int_equal(errno, ENOTTY);
	assert_int_equal(ioctl(1000, KVM_CREATE_VM, 0), -1);
	assert_int_equal(errno, EBADF);
	close(vm);
	close(kvm);
}

/* The answer EBADF about a descriptor in the argument must not send the request elsewhere. */
static void a_bad_descriptor_in_an_argument_is_ebadf(void **state)
{
	int kvm = open_kvm(), vm = ioctl(kvm, KVM_CREATE_VM, 0);
	struct kvm_irqfd irqfd = { .fd = 1000, .gsi = 1 };

	assert_int_equal(ioctl(vm, KVM_CREATE_IRQCHIP, 0), 0);
	assert_int_equal(ioctl(vm, KVM_IRQFD, &irqfd), -1);
	assert_int_equal(errno, EBADF);
	close(vm);
	close(kvm);
}

static void poll_and_epoll_are_kvms(void **state)
{
	int kvm = open_kvm(), vm = ioctl(kvm, KVM_CREATE_VM, 0), ep = epoll_create1(0);
	struct pollfd p = { .fd = vm, .events = POLLIN | POLLOUT };
	struct epoll_event ev = { .events = EPOLLIN };

	assert_int_equal(poll(&p, 1, 0), 1);
	assert_int_equal(p.revents, POLLIN | POLLOUT);
	assert_int_equal(epoll_ctl(ep, EPOLL_CTL_ADD, vm, &ev), -1);
	assert_int_equal(errno, EPERM);
	close(ep);
	close(vm);
	close(kvm);
}

/* ---- a running vCPU -------------------------------------------------------------------------------------------------------- */

struct machine { int kvm, vm, vcpu; struct kvm_run *run; uint8_t *ram; };

/* Real-mode code at 0x1000. */
static void machine_start(struct machine *m, const void *code, size_t len)
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

static void machine_end(struct machine *m)
{
	munmap(m->run, (size_t)ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
	munmap(m->ram, 16 * PAGE);
	close(m->vcpu);
	close(m->vm);
	close(m->kvm);
}

static const uint8_t out_then_hlt[] = { 0xb0, 0x2a, 0xe6, 0x10, 0xf4 };	/* mov $42,%al; out %al,$0x10; hlt */
static const uint8_t spin[] = { 0xeb, 0xfe };

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

/* ---- children -------------------------------------------------------------------------------------------------------------- */

static int status_of(int pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
}

static void a_child_cannot_use_the_parents_vm_but_can_make_its_own(void **state)
{
	struct machine m;
	int pid;

	machine_start(&m, out_then_hlt, sizeof(out_then_hlt));
	pid = fork();
	if (!pid) {
		struct kvm_regs regs;
		struct machine own;

		if (ioctl(m.vcpu, KVM_GET_REGS, &regs) != -1 || errno != EIO)
			_exit(1);
		if (close(m.vcpu) || close(m.vm) || close(m.kvm))
			_exit(2);
		machine_start(&own, out_then_hlt, sizeof(out_then_hlt));
		if (ioctl(own.vcpu, KVM_RUN, 0) || own.run->exit_reason != KVM_EXIT_IO)
			_exit(3);
		machine_end(&own);
		_exit(0);
	}
	assert_int_equal(status_of(pid), 0);
	assert_int_equal(ioctl(m.vcpu, KVM_RUN, 0), 0);
	assert_int_equal(m.run->exit_reason, KVM_EXIT_IO);
	machine_end(&m);
}

static void a_child_that_shares_memory_leaves_the_vm_alone(void **state)
{
	struct machine m;
	int pid;

	machine_start(&m, out_then_hlt, sizeof(out_then_hlt));
	pid = vfork();
	if (!pid) {
		close(m.vcpu);
		close(m.vm);
		_exit(0);
	}
	assert_int_equal(status_of(pid), 0);
	assert_int_equal(ioctl(m.vcpu, KVM_RUN, 0), 0);
	machine_end(&m);
}

static void programs_can_be_started_from_a_client(void **state)
{
	struct machine m;

	machine_start(&m, out_then_hlt, sizeof(out_then_hlt));
	assert_int_equal(system("exit 7"), 7 << 8);
	assert_int_equal(ioctl(m.vcpu, KVM_RUN, 0), 0);
	machine_end(&m);
}

#define T(name) { #name, name, NULL, NULL, NULL }

int main(void)
{
	static const struct CMUnitTest plain[] = {
		T(stat_sees_a_device), T(access_permits_reading_and_writing), T(open_refuses_what_a_device_refuses),
		T(other_paths_are_libcs), T(parameters_of_the_module_can_be_read), T(close_on_exec_is_as_asked),
		T(duplicates_work_and_outlive_each_other), T(duplicating_over_a_device_closes_it), T(ranges_close_what_is_in_them),
		T(files_of_kvm_cannot_be_read), T(a_vcpu_lives_without_its_vm_descriptor), T(unknown_requests_get_kvms_errno),
		T(a_bad_descriptor_in_an_argument_is_ebadf), T(poll_and_epoll_are_kvms), T(a_small_client_runs_a_guest),
		T(a_vcpu_can_be_mapped_where_the_client_wants), T(a_handler_that_sets_immediate_exit_ends_the_run),
		T(a_handler_that_does_nothing_ends_the_run), T(a_timer_signal_of_the_process_ends_the_run),
		T(the_clients_fault_handlers_get_the_clients_faults), T(a_client_handler_does_not_see_the_engines_faults),
		T(an_unhandled_fault_still_kills), T(a_child_cannot_use_the_parents_vm_but_can_make_its_own),
		T(a_child_that_shares_memory_leaves_the_vm_alone), T(programs_can_be_started_from_a_client),
	};
	struct CMUnitTest tests[N_WAYS + sizeof(plain) / sizeof(plain[0])];

	for (unsigned i = 0; i < N_WAYS; i++)
		tests[i] = (struct CMUnitTest){ .name = ways[i].name, .test_func = check_way, .initial_state = (void *)(uintptr_t)&ways[i] };
	memcpy(tests + N_WAYS, plain, sizeof(plain));
	return cmocka_run_group_tests_name("shim", tests, NULL, NULL);
}
