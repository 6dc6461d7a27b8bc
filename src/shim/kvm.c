/* SPDX-License-Identifier: MIT */
/* ioctl and mmap: what KVM is. Also the library's log, which goes to a file or nowhere. */
#include <errno.h>
#include <guestward/guestward.h>
#include <guestward/kvm.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "shim/real.h"
#include "shim/shim.h"

#define PAGE 4096u
#define LOG_FD_MIN 200		/* out of the way of programs that count on low numbers */

/* ---- ioctl ------------------------------------------------------------------------------------------------------------- */

static bool is_kvm_request(unsigned long request)
{
	/* By type, whatever the descriptor: it may have come by a way we did not see. */
	return _IOC_TYPE(request) == KVMIO || (_IOC_TYPE(request) == 'G' && _IOC_NR(request) >= 0xC0);
}

static bool makes_object(unsigned long request)
{
	return (uint32_t)request == KVM_CREATE_VM || (uint32_t)request == KVM_CREATE_VCPU ||
	       (uint32_t)request == KVM_CREATE_GUEST_MEMFD;
}

/* True: the library answered. -EBADF may be its answer about another descriptor, in the argument. */
static bool ask_library(int fd, unsigned long request, unsigned long arg, long *ret)
{
	*ret = gw_ioctl(fd, request, arg);
	if (*ret == -EBADF && !gw_owns(fd))
		return false;
	if (*ret >= 0 && makes_object(request))
		shim_note((int)*ret, SHIM_OBJECT);
	return true;
}

/* Those that the kernel answers before it asks the file. */
static bool is_of_every_file(unsigned long request)
{
	static const unsigned long requests[] = { FIOCLEX, FIONCLEX, FIONBIO, FIOASYNC };

	for (unsigned i = 0; i < sizeof(requests) / sizeof(requests[0]); i++)
		if (requests[i] == request)
			return true;
	return false;
}

/* A VM of another process, sent to us: the kernel knows it is not ours to use, and libc's answer would not say so. */
static bool is_foreign(int fd)
{
	static const char ours[] = "/memfd:kvm-";
	char link[32], name[sizeof(ours)];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	return readlink(link, name, sizeof(name)) == sizeof(name) && !memcmp(name, ours, sizeof(ours) - 1);
}

SHIM_EXPORT int ioctl(int fd, unsigned long request, ...)
{
	unsigned long arg;
	va_list ap;
	long ret;

	shim_enter();
	va_start(ap, request);
	arg = va_arg(ap, unsigned long);
	va_end(ap);
	if (!is_kvm_request(request) && (shim_noted(fd) == SHIM_NONE || is_of_every_file(request)))
		return REAL(ioctl)(fd, request, arg);
	if (shim_noted(fd) == SHIM_INHERITED)
		return (int)shim_result(-EIO);
	if (ask_library(fd, request, arg, &ret))
		return (int)shim_result(ret);
	ret = REAL(ioctl)(fd, request, arg);
	if (ret < 0 && errno == ENOTTY && is_foreign(fd))
		errno = EIO;
	return (int)ret;
}

/* ---- mmap ---------------------------------------------------------------------------------------------------------------- */

/* The pages may come from different files, so each moves alone. */
static void *move(uint8_t *from, size_t length, uint8_t *to)
{
	for (size_t at = 0; at < length; at += PAGE) {
		if (mremap(from + at, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to + at) == MAP_FAILED) {
			int err = errno;

			munmap(from + at, length - at);
			errno = err;
			return MAP_FAILED;
		}
	}
	return to;
}

static void *map_ours(void *addr, size_t length, int prot, int flags, int fd, off64_t offset)
{
	int fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE), err = 0;
	void *p = gw_mmap(length, prot, flags & ~fixed, fd, (uint64_t)offset, &err);
	void *room;

	if (!p) {
		errno = -err;
		return MAP_FAILED;
	}
	if (!fixed)
		return p;
	/* Let the kernel judge the address. */
	room = REAL(mmap)(addr, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0);
	if (room != addr) {
		err = room == MAP_FAILED ? errno : EEXIST;
		munmap(p, length);
		errno = err;
		return MAP_FAILED;
	}
	return move(p, length, addr);
}

SHIM_EXPORT void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	shim_enter();
	if (flags & MAP_ANONYMOUS || !(shim_owns(fd) || (shim_noted(fd) == SHIM_INHERITED && shim_is_gmem(fd))))
		return REAL(mmap)(addr, length, prot, flags, fd, offset);
	return map_ours(addr, length, prot, flags, fd, offset);
}

SHIM_EXPORT void *mmap64(void *addr, size_t length, int prot, int flags, int fd, off64_t offset)
{
	return mmap(addr, length, prot, flags, fd, offset);
}

/* ---- log ----------------------------------------------------------------------------------------------------------------- */

static void log_line(void *opaque, int level, const char *line)
{
	static const char *const names[] = { "error", "warning", "info", "debug" };
	int fd = (int)(intptr_t)opaque, saved = errno;

	/* One write a line: several processes may share the file. */
	dprintf(fd, "guestward[%d] %s: %s\n", (int)getpid(), (unsigned)level < 4 ? names[level] : "?", line);
	errno = saved;
}

static int log_fd = -1;

void shim_log(const char *format, ...)
{
	char line[512];
	va_list ap;

	if (log_fd < 0)
		return;
	va_start(ap, format);
	vsnprintf(line, sizeof(line), format, ap);
	va_end(ap);
	log_line((void *)(intptr_t)log_fd, 2, line);
}

static void open_log(void)
{
	const char *path = getenv("GUESTWARD_LOG");
	int fd, high;

	if (!path || !path[0])
		return;
	fd = REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	if (fd < 0)
		return;
	high = REAL(fcntl)(fd, F_DUPFD_CLOEXEC, LOG_FD_MIN);
	if (high >= 0) {
		REAL(close)(fd);
		fd = high;
	}
	log_fd = fd;
	gw_set_log(log_line, (void *)(intptr_t)fd);
}

__attribute__((constructor)) static void start(void)
{
	shim_enter();
	shim_notes_init();
	open_log();
	shim_cpuid_init();
}
