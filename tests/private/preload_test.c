/* SPDX-License-Identifier: MIT */
/* The file behind a guest_memfd as an unmodified client sees it, by libc and by syscall(2). Run by `guestward run`. */
#include <errno.h>
#include <fcntl.h>
#include <guestward/kvm.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGE 4096
#define KEEP FALLOC_FL_KEEP_SIZE
#define PUNCH (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)

static int kvm, vm;

static int make(uint64_t pages, uint64_t flags)
{
	struct kvm_create_guest_memfd c = { .size = pages * PAGE, .flags = flags };
	int fd = ioctl(vm, KVM_CREATE_GUEST_MEMFD, &c);

	assert_true(fd >= 0);
	return fd;
}

#define FAILS(call, err) do { errno = 0; assert_int_equal((long)(call), -1); assert_int_equal(errno, err); } while (0)

static void it_is_no_stream(void **state)
{
	struct iovec iov;
	int fd = make(4, 0);
	char buf[16] = { 0 };

	iov = (struct iovec){ buf, sizeof(buf) };
	FAILS(read(fd, buf, 1), EINVAL);
	FAILS(write(fd, buf, 1), EINVAL);
	FAILS(readv(fd, &iov, 1), EINVAL);
	FAILS(pread(fd, buf, 1, 0), ESPIPE);
	FAILS(pwrite(fd, buf, 1, 0), ESPIPE);
	FAILS(lseek(fd, 0, SEEK_SET), ESPIPE);
	FAILS(lseek(fd, 0, SEEK_END), ESPIPE);
	FAILS(syscall(SYS_lseek, fd, 0, SEEK_CUR), ESPIPE);
	FAILS(syscall(SYS_pread64, fd, buf, 1, 0), ESPIPE);
	FAILS(ftruncate(fd, 4 * PAGE), EINVAL);
	FAILS(syscall(SYS_ftruncate, fd, 0), EINVAL);
	FAILS(fchmod(fd, 0600), EINVAL);
	FAILS(fchown(fd, 0, 0), EINVAL);
	FAILS(fsync(fd), EINVAL);
	FAILS(fcntl(fd, F_GET_SEALS), EINVAL);
	FAILS(fcntl(fd, F_ADD_SEALS, 1), EINVAL);
	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	close(fd);
}

static void it_looks_like_the_kernels(void **state)
{
	int fd = make(4, 0), shared = make(4, GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED), ep = epoll_create1(0);
	struct pollfd p = { .fd = fd, .events = POLLIN | POLLOUT };
	struct epoll_event e = { .events = EPOLLIN };
	char path[40], link[64];
	struct statfs fs;
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	assert_true(st.st_mode == 0100600 && st.st_size == 4 * PAGE && st.st_blksize == PAGE && st.st_blocks == 0);
	assert_int_equal(fallocate(shared, KEEP, 0, 4 * PAGE), 0);
	assert_int_equal(fstat(shared, &st), 0);
	assert_int_equal(st.st_blocks, 0);
	assert_int_equal(poll(&p, 1, 0), 1);
	assert_int_equal(p.revents, POLLIN | POLLOUT);
	assert_int_equal(fstatfs(fd, &fs), 0);
	assert_int_equal(fs.f_type, 0x09041934);
	assert_int_equal(syscall(SYS_fstatfs, shared, &fs), 0);
	assert_int_equal(fs.f_type, 0x09041934);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	assert_int_equal(readlink(path, link, sizeof(link)), 21);
	assert_memory_equal(link, "anon_inode:[kvm-gmem]", 21);
	assert_int_equal(syscall(SYS_readlink, path, link, 10), 10);
	FAILS(open(path, O_RDWR), ENXIO);
	FAILS(open(path, O_RDONLY), ENXIO);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", vm);
	assert_int_equal(readlink(path, link, sizeof(link)), 17);
	assert_memory_equal(link, "anon_inode:kvm-vm", 17);
	FAILS(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e), EPERM);
	assert_int_equal(fcntl(fd, F_GETFD), 0);
	close(ep);
	close(fd);
	close(shared);
}

static void it_is_allocated_and_punched(void **state)
{
	int fd = make(4, 0), copy = dup(fd);

	assert_int_equal(fallocate(fd, KEEP, 0, 4 * PAGE), 0);
	assert_int_equal(fallocate(copy, PUNCH, 0, PAGE), 0);
	assert_int_equal(syscall(SYS_fallocate, fd, PUNCH, PAGE, PAGE), 0);
	FAILS(fallocate(fd, PUNCH, 1, PAGE), EINVAL);
	FAILS(fallocate(fd, 0, 0, PAGE), EOPNOTSUPP);
	FAILS(fallocate(fd, KEEP, 4 * PAGE, PAGE), EINVAL);
	FAILS(syscall(SYS_fallocate, fd, KEEP, 0, 0), EINVAL);
	close(copy);
	close(fd);
	FAILS(fallocate(fd, KEEP, 0, PAGE), EBADF);
}

static void it_is_mapped_only_where_it_may(void **state)
{
	int fd = make(4, 0), shared = make(4, GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED);
	uint8_t *p;

	errno = 0;
	assert_true(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED && errno == ENODEV);
	assert_true(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, shared, 0) == MAP_FAILED && errno == EINVAL);
	p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, shared, 0);
	assert_true(p != MAP_FAILED);
	memset(p, 0xaa, 4 * PAGE);
	assert_int_equal(fallocate(shared, PUNCH, 0, PAGE), 0);
	assert_true(p[0] == 0 && p[PAGE] == 0xaa);
	munmap(p, 4 * PAGE);
	close(fd);
	close(shared);
}

static void it_travels(void **state)
{
	int pair[2], fd = make(4, 0), back;
	char control[CMSG_SPACE(sizeof(int))] = { 0 }, byte = 0;
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	struct stat a, b;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	assert_int_equal(sendmsg(pair[0], &m, 0), 1);
	assert_int_equal(recvmsg(pair[1], &m, 0), 1);
	memcpy(&back, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(back));
	assert_true(!fstat(fd, &a) && !fstat(back, &b) && a.st_ino == b.st_ino);
	close(fd);
	/* It came by a way that nobody saw, and is still what it is. */
	assert_int_equal(fallocate(back, PUNCH, 0, PAGE), 0);
	FAILS(fallocate(back, PUNCH, 1, PAGE), EINVAL);
	close(back);
	close(pair[0]);
	close(pair[1]);
}

/* A child has its parent's files, and no engine: the kernel's answers all the same, but for bytes that are not there. */
static void a_child_has_it(void **state)
{
	int fd = make(4, 0), shared = make(4, GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED), status, bad = 0;
	uint8_t *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, shared, 0);
	struct kvm_userspace_memory_region r = { .slot = 9 };
	struct stat st;
	pid_t pid;
	char c;

	assert_true(p != MAP_FAILED);
	memset(p, 0xaa, 4 * PAGE);
	pid = fork();
	if (!pid) {
		bad |= (read(fd, &c, 1) != -1 || errno != EINVAL) << 0;
		bad |= (pread(fd, &c, 1, 0) != -1 || errno != ESPIPE) << 1;
		bad |= (ftruncate(shared, 0) != -1 || errno != EINVAL) << 2;
		bad |= (mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED || errno != ENODEV) << 3;
		bad |= (fstat(shared, &st) || st.st_size != 4 * PAGE || st.st_blocks) << 4;
		bad |= (fallocate(shared, PUNCH, PAGE, PAGE) || fallocate(shared, PUNCH, 1, PAGE) != -1 || errno != EINVAL) << 5;
		bad |= (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &r) != -1 || errno != EIO) << 6;
		p[0] = 0x11;
		_exit(bad);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(p[0], 0x11);
	assert_int_equal(p[PAGE], 0);
	assert_int_equal(p[2 * PAGE], 0xaa);
	munmap(p, 4 * PAGE);
	close(fd);
	close(shared);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_is_no_stream), cmocka_unit_test(it_looks_like_the_kernels), cmocka_unit_test(it_is_allocated_and_punched),
		cmocka_unit_test(it_is_mapped_only_where_it_may), cmocka_unit_test(it_travels), cmocka_unit_test(a_child_has_it),
	};

	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		return 1;
	return cmocka_run_group_tests_name("private memory: preload", tests, NULL, NULL);
}
