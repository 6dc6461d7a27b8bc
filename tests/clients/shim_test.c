/* SPDX-License-Identifier: MIT */
/*
 * What a client sees through the preload library: this program knows nothing of Guestward and is run by `guestward run`. Where the
 * machine has a working /dev/kvm, most of it passes without the library too.
 */
#include "shim_test.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

static int api(int fd) { return ioctl(fd, KVM_GET_API_VERSION, 0); }

int open_kvm(void)
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

static void the_select_family_finds_a_vm_ready(void **state)
{
	int kvm = open_kvm(), vm = ioctl(kvm, KVM_CREATE_VM, 0);
	struct pollfd p = { .fd = vm, .events = POLLIN };
	struct timeval none = { 0 };
	fd_set set;

	FD_ZERO(&set);
	FD_SET(vm, &set);
	assert_int_equal(select(vm + 1, &set, NULL, NULL, &none), 1);
	assert_int_equal(ppoll(&p, 1, NULL, NULL), 1);
	close(vm);
	close(kvm);
}

static void requests_for_any_file_work(void **state)
{
	int kvm = open_kvm();

	assert_int_equal(ioctl(kvm, FIOCLEX), 0);
	assert_int_equal(fcntl(kvm, F_GETFD), FD_CLOEXEC);
	assert_int_equal(ioctl(kvm, FIONCLEX), 0);
	assert_int_equal(fcntl(kvm, F_GETFD), 0);
	/* A terminal's: no file of KVM's is one, and each says it in its way. */
	assert_int_equal(isatty(kvm), 0);
	assert_int_equal(ioctl(kvm, TCGETS, &(struct termios){ 0 }), -1);
	assert_int_equal(errno, EINVAL);
	close(kvm);
}

/* Devices that the host may have and a guest here could not use. */
static void devices_without_an_engine_are_not_there(void **state)
{
	static const char *const paths[] = { "/dev/sgx_vepc", "/dev/sgx_provision", "/dev/sev" };

	for (unsigned i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		struct stat st;

		assert_int_equal(open(paths[i], O_RDWR), -1);
		assert_int_equal(errno, ENOENT);
		assert_int_equal(stat(paths[i], &st), -1);
		assert_int_equal(errno, ENOENT);
		assert_int_equal(access(paths[i], F_OK), -1);
		assert_int_equal(errno, ENOENT);
	}
}

/* ---- CPUID ------------------------------------------------------------------------------------------------------------- */

static bool sees_virtualization(void)
{
	unsigned a, b, c, d;

	if (__get_cpuid(0, &a, &b, &c, &d) && b == signature_INTEL_ebx)
		return __get_cpuid(1, &a, &b, &c, &d) && c & 1u << 5;
	return __get_cpuid(0x80000001, &a, &b, &c, &d) && c & 1u << 2;
}

static void *sees_in_thread(void *arg) { return sees_virtualization() ? arg : NULL; }

static bool vendor_is_known(void)
{
	unsigned a, b, c, d;

	return __get_cpuid(0, &a, &b, &c, &d) && (b == signature_INTEL_ebx || b == signature_AMD_ebx);
}

/* What an instruction leaves alone below the red zone, a signal's frame on the same stack would not. */
static __attribute__((noinline)) bool cpuid_spares_the_stack(void)
{
	enum { FROM = 12288, TO = 1024 };	/* below this frame's end */
	volatile uint8_t *below = (uint8_t *)__builtin_frame_address(0) - FROM;
	unsigned n = 0, a, b, c, d;

	for (unsigned i = 0; i < FROM - TO; i++)
		below[i] = 0x5a;
	__cpuid(0, a, b, c, d);
	for (unsigned i = 0; i < FROM - TO; i++)
		n += below[i] == 0x5a;
	return n == FROM - TO && (a | b | c | d);
}

static bool has_cpuid_way(void)
{
	const char *off = getenv("GUESTWARD_CPUID");

	return (!off || strcmp(off, "off")) && vendor_is_known();
}

/* In the code of this program, in every thread and child; and it comes before the device is opened, as kvmtool asks. */
static void the_instruction_shows_virtualization(void **state)
{
	pthread_t t;
	void *ret;
	int pid;

	if (!has_cpuid_way())
		skip();
	assert_true(sees_virtualization());
	pthread_create(&t, NULL, sees_in_thread, state);
	pthread_join(t, &ret);
	assert_ptr_equal(ret, state);
	pid = fork();
	if (!pid)
		_exit(!sees_virtualization());
	assert_int_equal(status_of(pid), 0);
}

/* As thread pools do; the kernel ends a process whose fault is blocked. */
static void the_instruction_works_with_every_signal_blocked(void **state)
{
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	assert_true(sees_virtualization() || !has_cpuid_way());
	sigprocmask(SIG_SETMASK, &all, NULL);
	assert_true(sees_virtualization() || !has_cpuid_way());
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static bool seen_in_handler;

static void look_in_handler(int sig)
{
	seen_in_handler = sees_virtualization();
}

static void the_instruction_works_in_a_handler_that_blocks_every_signal(void **state)
{
	struct sigaction act = { .sa_handler = look_in_handler }, old;

	sigfillset(&act.sa_mask);
	seen_in_handler = false;
	assert_int_equal(sigaction(SIGUSR2, &act, &old), 0);
	raise(SIGUSR2);
	assert_int_equal(sigaction(SIGUSR2, &old, NULL), 0);
	assert_true(seen_in_handler || !has_cpuid_way());
}

static void the_instruction_writes_no_memory(void **state)
{
	assert_true(cpuid_spares_the_stack());
}

static void the_instruction_hides_sgx_and_sev(void **state)
{
	unsigned a, b, c, d;

	if (!has_cpuid_way())
		skip();
	if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
		assert_int_equal(b & 1u << 2, 0);
		assert_int_equal(c & 1u << 30, 0);
	}
	if (__get_cpuid_count(0x12, 0, &a, &b, &c, &d))
		assert_int_equal(a | b | c | d, 0);
	if (__get_cpuid(0x8000001f, &a, &b, &c, &d))
		assert_int_equal(a & 0xf, 0);
}

/* What the rows do not name is the processor's. Where it cannot be asked directly this compares a thing with itself. */
static void everything_else_is_the_hosts(void **state)
{
	static const unsigned leaves[] = { 0, 2, 4, 6, 0xd, 0x16, 0x80000002, 0x80000003, 0x80000004, 0x80000008 };

	for (unsigned i = 0; i < sizeof(leaves) / sizeof(leaves[0]); i++) {
		unsigned ours[4] = { 0 }, theirs[4] = { 0 };
		long direct;

		__get_cpuid_count(leaves[i], 0, &ours[0], &ours[1], &ours[2], &ours[3]);
		direct = syscall(SYS_arch_prctl, 0x1012, 1);
		__get_cpuid_count(leaves[i], 0, &theirs[0], &theirs[1], &theirs[2], &theirs[3]);
		if (!direct && has_cpuid_way() && (!getenv("GUESTWARD_CPUID") || strcmp(getenv("GUESTWARD_CPUID"), "patch")))
			assert_int_equal(syscall(SYS_arch_prctl, 0x1012, 0), 0);
		assert_memory_equal(ours, theirs, sizeof(ours));
	}
}

/* ---- all of them ----------------------------------------------------------------------------------------------------------- */

#define MAX_TESTS 100u

static unsigned add(struct CMUnitTest *to, unsigned at, const struct CMUnitTest *list, unsigned n)
{
	memcpy(to + at, list, n * sizeof(*list));
	return at + n;
}

int main(void)
{
	static const struct CMUnitTest plain[] = {
		T(the_instruction_shows_virtualization), T(the_instruction_works_with_every_signal_blocked),
		T(the_instruction_works_in_a_handler_that_blocks_every_signal), T(the_instruction_writes_no_memory), T(the_instruction_hides_sgx_and_sev),
		T(everything_else_is_the_hosts), T(stat_sees_a_device), T(access_permits_reading_and_writing),
		T(open_refuses_what_a_device_refuses), T(other_paths_are_libcs), T(parameters_of_the_module_can_be_read),
		T(close_on_exec_is_as_asked), T(duplicates_work_and_outlive_each_other),
		T(duplicating_over_a_device_closes_it), T(ranges_close_what_is_in_them), T(files_of_kvm_cannot_be_read),
		T(a_vcpu_lives_without_its_vm_descriptor), T(unknown_requests_get_kvms_errno),
		T(a_bad_descriptor_in_an_argument_is_ebadf), T(poll_and_epoll_are_kvms),
		T(the_select_family_finds_a_vm_ready), T(requests_for_any_file_work),
		T(devices_without_an_engine_are_not_there),
	};
	const unsigned n_plain = sizeof(plain) / sizeof(plain[0]);
	struct CMUnitTest tests[MAX_TESTS];
	unsigned n = 0;

	if (N_WAYS + n_plain + n_run_tests + n_process_tests > MAX_TESTS)
		return 1;
	for (; n < N_WAYS; n++)
		tests[n] = (struct CMUnitTest){ .name = ways[n].name, .test_func = check_way, .initial_state = (void *)(uintptr_t)&ways[n] };
	n = add(tests, n, plain, n_plain);
	n = add(tests, n, run_tests, n_run_tests);
	n = add(tests, n, process_tests, n_process_tests);
	return _cmocka_run_group_tests("shim", tests, n, NULL, NULL);
}
