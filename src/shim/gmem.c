/* SPDX-License-Identifier: MIT */
/*
 * A guest_memfd is a file that can be sized, punched and mapped, and nothing else. What the client holds is a memory file, often an
 * empty one: whatever it does to it must go to the library, or be refused as the kernel does.
 */
#include <errno.h>
#include <guestward/guestward.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>

#include "shim/real.h"
#include "shim/shim.h"

bool shim_is_gmem(int fd)
{
	unsigned noted = shim_noted(fd);

	return noted != SHIM_NONE && (noted == SHIM_INHERITED || shim_owns(fd)) && gw_kind(fd) == GW_KIND_GMEM;
}

/* Also one that came by a way we did not see: what is not punched by us is not punched. */
SHIM_EXPORT int fallocate(int fd, int mode, off_t offset, off_t len)
{
	shim_enter();
	if (shim_is_gmem(fd) || (shim_owns(fd) && gw_kind(fd) == GW_KIND_GMEM))
		return (int)shim_result(gw_fallocate(fd, mode, offset, len));
	return REAL(fallocate)(fd, mode, offset, len);
}

SHIM_EXPORT int fallocate64(int fd, int mode, off64_t offset, off64_t len)
{
	return fallocate(fd, mode, offset, len);
}

SHIM_EXPORT int ftruncate(int fd, off_t size)
{
	shim_enter();
	return shim_is_gmem(fd) ? (int)shim_result(-EINVAL) : REAL(ftruncate)(fd, size);
}

SHIM_EXPORT int ftruncate64(int fd, off64_t size)
{
	return ftruncate(fd, size);
}

SHIM_EXPORT off_t lseek(int fd, off_t offset, int whence)
{
	shim_enter();
	return shim_is_gmem(fd) ? shim_result(-ESPIPE) : REAL(lseek)(fd, offset, whence);
}

SHIM_EXPORT off64_t lseek64(int fd, off64_t offset, int whence)
{
	return lseek(fd, offset, whence);
}

SHIM_EXPORT int fchmod(int fd, mode_t mode)
{
	shim_enter();
	return shim_is_gmem(fd) ? (int)shim_result(-EINVAL) : REAL(fchmod)(fd, mode);
}

SHIM_EXPORT int fchown(int fd, uid_t owner, gid_t group)
{
	shim_enter();
	return shim_is_gmem(fd) ? (int)shim_result(-EINVAL) : REAL(fchown)(fd, owner, group);
}

SHIM_EXPORT int fsync(int fd)
{
	shim_enter();
	return shim_is_gmem(fd) ? (int)shim_result(-EINVAL) : REAL(fsync)(fd);
}

/* ---- its file system ------------------------------------------------------------------------------------------------------- */

/* KVM's files live where eventfds do: what libc says of one of those is right by construction. -1: it cannot be asked. */
static int stand_in(int fd)
{
	return shim_is_gmem(fd) ? eventfd(0, EFD_CLOEXEC) : -1;
}

#define OF_FILE_SYSTEM(name, type) \
	SHIM_EXPORT int name(int fd, type *st) \
	{ \
		int other, ret; \
		shim_enter(); \
		other = stand_in(fd); \
		ret = REAL(name)(other < 0 ? fd : other, st); \
		if (other >= 0) \
			REAL(close)(other); \
		return ret; \
	}
OF_FILE_SYSTEM(fstatfs, struct statfs)
OF_FILE_SYSTEM(fstatfs64, struct statfs64)
OF_FILE_SYSTEM(fstatvfs, struct statvfs)
OF_FILE_SYSTEM(fstatvfs64, struct statvfs64)
