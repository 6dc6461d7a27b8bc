/* SPDX-License-Identifier: MIT */
/*
 * What can be done to a descriptor besides ioctl: close and duplicate it, read and write it. KVM's files cannot be read or
 * written (EINVAL); ours are memory files below, so that must be said here.
 */
#include "shim/shim.h"

#include <errno.h>
#include <stdarg.h>

#include "shim/real.h"

/* gcc's header gives them attributes that do not matter here. */
ssize_t __read_chk(int fd, void *buf, size_t n, size_t size);
ssize_t __pread_chk(int fd, void *buf, size_t n, off_t offset, size_t size);
ssize_t __pread64_chk(int fd, void *buf, size_t n, off64_t offset, size_t size);

/* ---- close --------------------------------------------------------------------------------------------------------------- */

SHIM_EXPORT int close(int fd)
{
	shim_enter();
	if (shim_owns(fd))
		return (int)shim_result(shim_close_ours(fd));
	shim_note(fd, SHIM_NONE);
	return REAL(close)(fd);
}

static void close_noted(unsigned first, unsigned last)
{
	int fd;

	while ((fd = shim_next_noted(first, last)) >= 0) {
		if (shim_owns(fd))
			shim_close_ours(fd);
		shim_note(fd, SHIM_NONE);
	}
}

SHIM_EXPORT int close_range(unsigned first, unsigned last, int flags)
{
	shim_enter();
	/* With UNSHARE the descriptors stay open for the other threads; with CLOEXEC nothing is closed now. */
	if (first <= last && !flags)
		close_noted(first, last);
	return REAL(close_range)(first, last, flags);
}

SHIM_EXPORT void closefrom(int first)
{
	shim_enter();
	close_noted(first < 0 ? 0 : (unsigned)first, ~0u);
	REAL(closefrom)(first);
}

/* ---- duplicates ------------------------------------------------------------------------------------------------------------ */

static int noted_as(int from, int fd)
{
	if (fd >= 0)
		shim_note(fd, shim_noted(from));
	return fd;
}

/* What dup2 closes on its way must reach the library. */
static void make_room(int from, int to)
{
	if (from != to && shim_owns(to) && REAL(fcntl)(from, F_GETFD) >= 0)
		shim_close_ours(to);
}

SHIM_EXPORT int dup(int fd)
{
	shim_enter();
	return noted_as(fd, REAL(dup)(fd));
}

SHIM_EXPORT int dup2(int fd, int to)
{
	shim_enter();
	make_room(fd, to);
	return noted_as(fd, REAL(dup2)(fd, to));
}

SHIM_EXPORT int dup3(int fd, int to, int flags)
{
	shim_enter();
	if (!(flags & ~O_CLOEXEC))
		make_room(fd, to);
	return noted_as(fd, REAL(dup3)(fd, to, flags));
}

/* One word whatever the command: the kernel takes no more. */
SHIM_EXPORT int fcntl(int fd, int cmd, ...)
{
	void *arg;
	va_list ap;
	int ret;

	shim_enter();
	va_start(ap, cmd);
	arg = va_arg(ap, void *);
	va_end(ap);
	if ((cmd == F_GET_SEALS || cmd == F_ADD_SEALS) && shim_is_gmem(fd))
		return (int)shim_result(-EINVAL);
	ret = REAL(fcntl)(fd, cmd, arg);
	return cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC ? noted_as(fd, ret) : ret;
}

SHIM_EXPORT int fcntl64(int fd, int cmd, ...)
{
	void *arg;
	va_list ap;

	va_start(ap, cmd);
	arg = va_arg(ap, void *);
	va_end(ap);
	return fcntl(fd, cmd, arg);
}

/* ---- read and write ---------------------------------------------------------------------------------------------------------- */

/* The note first: it costs nothing, and without one nothing is asked. */
static bool is_unreadable(int fd)
{
	shim_enter();
	if (__builtin_expect(shim_noted(fd) == SHIM_NONE, 1) || shim_kind_of(fd) == SHIM_NONE)
		return false;
	errno = EINVAL;
	return true;
}

/* With a position: a guest_memfd has none. */
static bool is_unseekable(int fd)
{
	if (!is_unreadable(fd))
		return false;
	if (shim_is_gmem(fd))
		errno = ESPIPE;
	return true;
}

SHIM_EXPORT ssize_t read(int fd, void *buf, size_t n)
{
	return is_unreadable(fd) ? -1 : REAL(read)(fd, buf, n);
}

SHIM_EXPORT ssize_t __read_chk(int fd, void *buf, size_t n, size_t size)
{
	return is_unreadable(fd) ? -1 : REAL(__read_chk)(fd, buf, n, size);
}

SHIM_EXPORT ssize_t pread(int fd, void *buf, size_t n, off_t offset)
{
	return is_unseekable(fd) ? -1 : REAL(pread)(fd, buf, n, offset);
}

SHIM_EXPORT ssize_t pread64(int fd, void *buf, size_t n, off64_t offset)
{
	return is_unseekable(fd) ? -1 : REAL(pread64)(fd, buf, n, offset);
}

SHIM_EXPORT ssize_t __pread_chk(int fd, void *buf, size_t n, off_t offset, size_t size)
{
	return is_unseekable(fd) ? -1 : REAL(__pread_chk)(fd, buf, n, offset, size);
}

SHIM_EXPORT ssize_t __pread64_chk(int fd, void *buf, size_t n, off64_t offset, size_t size)
{
	return is_unseekable(fd) ? -1 : REAL(__pread64_chk)(fd, buf, n, offset, size);
}

SHIM_EXPORT ssize_t readv(int fd, const struct iovec *iov, int n)
{
	return is_unreadable(fd) ? -1 : REAL(readv)(fd, iov, n);
}

SHIM_EXPORT ssize_t write(int fd, const void *buf, size_t n)
{
	return is_unreadable(fd) ? -1 : REAL(write)(fd, buf, n);
}

SHIM_EXPORT ssize_t pwrite(int fd, const void *buf, size_t n, off_t offset)
{
	return is_unseekable(fd) ? -1 : REAL(pwrite)(fd, buf, n, offset);
}

SHIM_EXPORT ssize_t pwrite64(int fd, const void *buf, size_t n, off64_t offset)
{
	return is_unseekable(fd) ? -1 : REAL(pwrite64)(fd, buf, n, offset);
}

SHIM_EXPORT ssize_t writev(int fd, const struct iovec *iov, int n)
{
	return is_unreadable(fd) ? -1 : REAL(writev)(fd, iov, n);
}
