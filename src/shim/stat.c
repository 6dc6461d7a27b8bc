/* SPDX-License-Identifier: MIT */
/* What stat, access and their relatives say: a device is a character device, a VM or vCPU a file without a type. */
#include "shim/shim.h"

#include <errno.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "shim/real.h"

_Static_assert(sizeof(struct stat) == sizeof(struct stat64), "x86-64: one layout");

/* Old names, which only programs linked long ago import. */
int __xstat(int version, const char *path, struct stat *st);
int __xstat64(int version, const char *path, struct stat64 *st);
int __lxstat(int version, const char *path, struct stat *st);
int __lxstat64(int version, const char *path, struct stat64 *st);
int __fxstat(int version, int fd, struct stat *st);
int __fxstat64(int version, int fd, struct stat64 *st);
int __fxstatat(int version, int dirfd, const char *path, struct stat *st, int flags);
int __fxstatat64(int version, int dirfd, const char *path, struct stat64 *st, int flags);

int shim_stat_path(int dirfd, const char *path, struct stat *st, bool *is_ours)
{
	const struct shim_path *p = shim_path_find(dirfd, path);

	*is_ours = p;
	return p ? shim_path_stat(p, st) : 0;
}

int shim_stat_fd(int fd, struct stat *st, bool *is_ours)
{
	unsigned kind = shim_noted(fd) == SHIM_NONE ? SHIM_NONE : shim_kind_of(fd);

	*is_ours = kind != SHIM_NONE;
	if (kind >= SHIM_DEVICE) {
		shim_path_stat(shim_path_at(kind - SHIM_DEVICE), st);
	} else if (*is_ours && shim_is_gmem(fd)) {
		/* A real file, but for what it holds. */
		if (REAL(fstat)(fd, st))
			*is_ours = false;
		st->st_blocks = 0;
	} else if (*is_ours) {
		memset(st, 0, sizeof(*st));
		st->st_dev = makedev(0, 14);
		st->st_nlink = 1;
		st->st_mode = 0600;
		st->st_blksize = 4096;
	}
	return 0;
}

/* fstatat and statx with an empty path mean the descriptor. */
static int stat_at(int dirfd, const char *path, struct stat *st, int flags, bool *is_ours)
{
	if (flags & AT_EMPTY_PATH && (!path || !path[0]))
		return shim_stat_fd(dirfd, st, is_ours);
	return shim_stat_path(dirfd, path, st, is_ours);
}

#define AT_PATH(name, type, real_call) \
	SHIM_EXPORT int name(const char *path, type *st) \
	{ \
		bool is_ours; \
		int ret; \
		shim_enter(); \
		ret = shim_stat_path(AT_FDCWD, path, (struct stat *)st, &is_ours); \
		return is_ours ? (int)shim_result(ret) : real_call; \
	}
AT_PATH(stat, struct stat, REAL(stat)(path, st))
AT_PATH(stat64, struct stat64, REAL(stat64)(path, st))
AT_PATH(lstat, struct stat, REAL(lstat)(path, st))
AT_PATH(lstat64, struct stat64, REAL(lstat64)(path, st))

#define AT_PATH_OLD(name, type) \
	SHIM_EXPORT int name(int version, const char *path, type *st) \
	{ \
		bool is_ours; \
		int ret; \
		shim_enter(); \
		ret = shim_stat_path(AT_FDCWD, path, (struct stat *)st, &is_ours); \
		return is_ours ? (int)shim_result(ret) : REAL(name)(version, path, st); \
	}
AT_PATH_OLD(__xstat, struct stat)
AT_PATH_OLD(__xstat64, struct stat64)
AT_PATH_OLD(__lxstat, struct stat)
AT_PATH_OLD(__lxstat64, struct stat64)

#define AT_FD(name, type) \
	SHIM_EXPORT int name(int fd, type *st) \
	{ \
		bool is_ours; \
		shim_enter(); \
		shim_stat_fd(fd, (struct stat *)st, &is_ours); \
		return is_ours ? 0 : REAL(name)(fd, st); \
	}
AT_FD(fstat, struct stat)
AT_FD(fstat64, struct stat64)

#define AT_FD_OLD(name, type) \
	SHIM_EXPORT int name(int version, int fd, type *st) \
	{ \
		bool is_ours; \
		shim_enter(); \
		shim_stat_fd(fd, (struct stat *)st, &is_ours); \
		return is_ours ? 0 : REAL(name)(version, fd, st); \
	}
AT_FD_OLD(__fxstat, struct stat)
AT_FD_OLD(__fxstat64, struct stat64)

SHIM_EXPORT int fstatat(int dirfd, const char *path, struct stat *st, int flags)
{
	bool is_ours;
	int ret;

	shim_enter();
	ret = stat_at(dirfd, path, st, flags, &is_ours);
	return is_ours ? (int)shim_result(ret) : REAL(fstatat)(dirfd, path, st, flags);
}

SHIM_EXPORT int fstatat64(int dirfd, const char *path, struct stat64 *st, int flags)
{
	bool is_ours;
	int ret;

	shim_enter();
	ret = stat_at(dirfd, path, (struct stat *)st, flags, &is_ours);
	return is_ours ? (int)shim_result(ret) : REAL(fstatat64)(dirfd, path, st, flags);
}

SHIM_EXPORT int __fxstatat(int version, int dirfd, const char *path, struct stat *st, int flags)
{
	bool is_ours;
	int ret;

	shim_enter();
	ret = stat_at(dirfd, path, st, flags, &is_ours);
	return is_ours ? (int)shim_result(ret) : REAL(__fxstatat)(version, dirfd, path, st, flags);
}

SHIM_EXPORT int __fxstatat64(int version, int dirfd, const char *path, struct stat64 *st, int flags)
{
	bool is_ours;
	int ret;

	shim_enter();
	ret = stat_at(dirfd, path, (struct stat *)st, flags, &is_ours);
	return is_ours ? (int)shim_result(ret) : REAL(__fxstatat64)(version, dirfd, path, st, flags);
}

SHIM_EXPORT int statx(int dirfd, const char *restrict path, int flags, unsigned mask, struct statx *restrict stx)
{
	struct stat st;
	bool is_ours;
	int ret;

	shim_enter();
	ret = stat_at(dirfd, path, &st, flags, &is_ours);
	if (!is_ours)
		return REAL(statx)(dirfd, path, flags, mask, stx);
	if (ret)
		return (int)shim_result(ret);
	*stx = (struct statx){
		.stx_mask = STATX_BASIC_STATS, .stx_blksize = (uint32_t)st.st_blksize, .stx_nlink = 1, .stx_mode = (uint16_t)st.st_mode,
		.stx_ino = st.st_ino, .stx_size = (uint64_t)st.st_size, .stx_dev_major = major(st.st_dev),
		.stx_dev_minor = minor(st.st_dev), .stx_rdev_major = major(st.st_rdev), .stx_rdev_minor = minor(st.st_rdev),
	};
	return 0;
}

/* ---- access ------------------------------------------------------------------------------------------------------------ */

SHIM_EXPORT int access(const char *path, int mode)
{
	const struct shim_path *p;

	shim_enter();
	p = shim_path_find(AT_FDCWD, path);
	return p ? (int)shim_result(shim_path_access(p, mode)) : REAL(access)(path, mode);
}

SHIM_EXPORT int faccessat(int dirfd, const char *path, int mode, int flags)
{
	const struct shim_path *p;

	shim_enter();
	p = shim_path_find(dirfd, path);
	return p ? (int)shim_result(shim_path_access(p, mode)) : REAL(faccessat)(dirfd, path, mode, flags);
}

SHIM_EXPORT int euidaccess(const char *path, int mode)
{
	const struct shim_path *p;

	shim_enter();
	p = shim_path_find(AT_FDCWD, path);
	return p ? (int)shim_result(shim_path_access(p, mode)) : REAL(euidaccess)(path, mode);
}

SHIM_EXPORT int eaccess(const char *path, int mode)
{
	return euidaccess(path, mode);
}
