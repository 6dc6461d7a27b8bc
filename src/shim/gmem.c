/* SPDX-License-Identifier: MIT */
/*
 * A guest_memfd is a file that can be sized, punched and mapped, and nothing else. What the client holds is a memory file, often an
 * empty one: whatever it does to it must go to the library, or be refused as the kernel does.
 */
#include <errno.h>
#include <guestward/guestward.h>
#include <stdint.h>

#include "shim/real.h"
#include "shim/shim.h"

bool shim_is_gmem(int fd)
{
	return shim_noted(fd) != SHIM_NONE && shim_owns(fd) && gw_kind(fd) == GW_KIND_GMEM;
}

/* Also one that came by a way we did not see: what is not punched by us is not punched. */
SHIM_EXPORT int fallocate(int fd, int mode, off_t offset, off_t len)
{
	shim_enter();
	return shim_owns(fd) && gw_kind(fd) == GW_KIND_GMEM ? (int)shim_result(gw_fallocate(fd, mode, offset, len)) : REAL(fallocate)(fd, mode, offset, len);
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
