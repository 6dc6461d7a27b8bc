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

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u

static int status_of(int pid);

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
	struct { struct kvm_signal_mask head; uint64_t mask; } set = { .head.len = sizeof(set.mask) };
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
	memcpy(set.head.sigset, &in_run, sizeof(set.mask));
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

static void send_fd(int sock, int fd)
{
	union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } c;
	struct iovec iov = { .iov_base = (char[]){ 'x' }, .iov_len = 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c) };

	c.head = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) };
	memcpy(CMSG_DATA(&c.head), &fd, sizeof(fd));
	assert_int_equal(sendmsg(sock, &msg, 0), 1);
}

static int receive_fd(int sock)
{
	union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } c;
	char byte;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c) };
	int fd = -1;

	if (recvmsg(sock, &msg, 0) == 1 && msg.msg_controllen)
		memcpy(&fd, CMSG_DATA(&c.head), sizeof(fd));
	return fd;
}

/* The other process sees the shared page of the vCPU, and is told that the VM is not its own. */
static int use_received(int sock)
{
	int vm = receive_fd(sock), vcpu = receive_fd(sock);
	struct kvm_run *run = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);

	if (vm < 0 || vcpu < 0 || run == MAP_FAILED)
		return 1;
	run->immediate_exit = 1;
	if (ioctl(vm, KVM_CREATE_VCPU, 1) != -1 || errno != EIO)
		return 2;
	if (ioctl(vcpu, KVM_RUN, 0) != -1 || errno != EIO)
		return 3;
	return close(vcpu) || close(vm) ? 4 : 0;
}

static void a_sent_vcpu_is_memory_to_another_process(void **state)
{
	struct machine m;
	int s[2], pid;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
	pid = fork();
	if (!pid)
		_exit(use_received(s[1]));
	machine_start(&m, spin, sizeof(spin));
	send_fd(s[0], m.vm);
	send_fd(s[0], m.vcpu);
	assert_int_equal(status_of(pid), 0);
	assert_int_equal(ioctl(m.vcpu, KVM_RUN, 0), -1);
	assert_int_equal(errno, EINTR);
	machine_end(&m);
	close(s[0]);
	close(s[1]);
}

/* Back in the same process it is the VM under a new number, whatever became of the old one. */
static void a_vm_sent_to_itself_is_the_same_vm(void **state)
{
	int kvm = open_kvm(), vm = ioctl(kvm, KVM_CREATE_VM, 0), vcpu = ioctl(vm, KVM_CREATE_VCPU, 5), s[2], again;

	assert_true(vcpu >= 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
	send_fd(s[0], vm);
	again = receive_fd(s[1]);
	assert_int_not_equal(again, vm);
	close(vm);
	assert_int_equal(ioctl(again, KVM_CREATE_VCPU, 5), -1);
	assert_int_equal(errno, EEXIST);
	close(again);
	close(vcpu);
	close(kvm);
	close(s[0]);
	close(s[1]);
}

/* After exec the descriptors are gone, as their close-on-exec flags say; those without it are another program's memory files. */
static void a_started_program_gets_no_vm(void **state)
{
	int kvm = open_kvm(), vm = ioctl(kvm, KVM_CREATE_VM, 0);
	char command[128];

	snprintf(command, sizeof(command), "! [ -e /proc/self/fd/%d ]", vm);
	assert_int_equal(system(command), 0);
	close(vm);
	close(kvm);
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
		T(the_instruction_shows_virtualization), T(the_instruction_hides_sgx_and_sev), T(everything_else_is_the_hosts),
		T(stat_sees_a_device), T(access_permits_reading_and_writing), T(open_refuses_what_a_device_refuses),
		T(other_paths_are_libcs), T(parameters_of_the_module_can_be_read), T(close_on_exec_is_as_asked),
		T(duplicates_work_and_outlive_each_other), T(duplicating_over_a_device_closes_it), T(ranges_close_what_is_in_them),
		T(files_of_kvm_cannot_be_read), T(a_vcpu_lives_without_its_vm_descriptor), T(unknown_requests_get_kvms_errno),
		T(a_bad_descriptor_in_an_argument_is_ebadf), T(poll_and_epoll_are_kvms), T(the_select_family_finds_a_vm_ready),
		T(requests_for_any_file_work), T(devices_without_an_engine_are_not_there), T(a_small_client_runs_a_guest),
		T(a_vcpu_can_be_mapped_where_the_client_wants), T(a_handler_that_sets_immediate_exit_ends_the_run),
		T(a_handler_that_does_nothing_ends_the_run), T(a_timer_signal_of_the_process_ends_the_run),
		T(the_instruction_of_an_exit_retires_before_the_vcpu_is_saved),
		T(a_signal_that_only_the_run_lets_in_ends_it_and_stays_pending),
		T(kicks_reach_a_spinning_guest_within_a_millisecond), T(kicks_reach_a_working_guest_within_a_millisecond),
		T(kicks_are_not_lost_between_exits),
		T(the_clients_fault_handlers_get_the_clients_faults), T(a_client_handler_does_not_see_the_engines_faults),
		T(an_unhandled_fault_still_kills), T(a_child_cannot_use_the_parents_vm_but_can_make_its_own),
		T(a_child_that_shares_memory_leaves_the_vm_alone), T(programs_can_be_started_from_a_client),
		T(a_sent_vcpu_is_memory_to_another_process), T(a_vm_sent_to_itself_is_the_same_vm), T(a_started_program_gets_no_vm),
	};
	struct CMUnitTest tests[N_WAYS + sizeof(plain) / sizeof(plain[0])];

	for (unsigned i = 0; i < N_WAYS; i++)
		tests[i] = (struct CMUnitTest){ .name = ways[i].name, .test_func = check_way, .initial_state = (void *)(uintptr_t)&ways[i] };
	memcpy(tests + N_WAYS, plain, sizeof(plain));
	return cmocka_run_group_tests_name("shim", tests, NULL, NULL);
}
