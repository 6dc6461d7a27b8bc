/* SPDX-License-Identifier: MIT */
/* open and its family, and fopen: paths of ours get a descriptor of the library, all others go on to libc. */
#include "shim/shim.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "shim/real.h"

#define HAS_MODE(flags) ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE)

int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dirfd, const char *path, int flags);
int __openat64_2(int dirfd, const char *path, int flags);

long shim_result(long ret)
{
	if (ret >= 0)
		return ret;
	errno = (int)-ret;
	return -1;
}

int shim_open(int dirfd, const char *path, int flags, unsigned mode, bool *is_ours)
{
	const struct shim_path *p = shim_path_find(dirfd, path);
	int fd;

	*is_ours = p;
	if (p)
		return (int)shim_result(shim_path_open(p, flags));
	fd = flags & O_PATH ? -1 : shim_fd_of_link(path);
	if (fd >= 0 && shim_is_gmem(fd))
		return (int)shim_result(-ENXIO);
	fd = REAL(openat)(dirfd, path, flags, mode);
	/* The number may have been ours and closed where we did not see it. */
	if (fd >= 0)
		shim_note(fd, SHIM_NONE);
	return fd;
}

#define MODE_OF(flags, mode) do { \
	if (HAS_MODE(flags)) { \
		va_list ap; \
		va_start(ap, flags); \
		mode = va_arg(ap, unsigned); \
		va_end(ap); \
	} } while (0)

SHIM_EXPORT int open(const char *path, int flags, ...)
{
	unsigned mode = 0;
	bool is_ours;

	shim_enter();
	MODE_OF(flags, mode);
	return shim_open(AT_FDCWD, path, flags, mode, &is_ours);
}

SHIM_EXPORT int open64(const char *path, int flags, ...)
{
	unsigned mode = 0;
	bool is_ours;

	shim_enter();
	MODE_OF(flags, mode);
	return shim_open(AT_FDCWD, path, flags | O_LARGEFILE, mode, &is_ours);
}

SHIM_EXPORT int openat(int dirfd, const char *path, int flags, ...)
{
	unsigned mode = 0;
	bool is_ours;

	shim_enter();
	MODE_OF(flags, mode);
	return shim_open(dirfd, path, flags, mode, &is_ours);
}

SHIM_EXPORT int openat64(int dirfd, const char *path, int flags, ...)
{
	unsigned mode = 0;
	bool is_ours;

	shim_enter();
	MODE_OF(flags, mode);
	return shim_open(dirfd, path, flags | O_LARGEFILE, mode, &is_ours);
}

/* The fortified forms end the program on a missing mode; libc's do that, for paths that are not ours. */
static bool open_ours(int dirfd, const char *path, int flags, int *fd)
{
	const struct shim_path *p = shim_path_find(dirfd, path);

	if (p)
		*fd = (int)shim_result(shim_path_open(p, flags));
	return p;
}

SHIM_EXPORT int __open_2(const char *path, int flags)
{
	int fd;

	shim_enter();
	return open_ours(AT_FDCWD, path, flags, &fd) ? fd : REAL(__open_2)(path, flags);
}

SHIM_EXPORT int __open64_2(const char *path, int flags)
{
	int fd;

	shim_enter();
	return open_ours(AT_FDCWD, path, flags, &fd) ? fd : REAL(__open64_2)(path, flags);
}

SHIM_EXPORT int __openat_2(int dirfd, const char *path, int flags)
{
	int fd;

	shim_enter();
	return open_ours(dirfd, path, flags, &fd) ? fd : REAL(__openat_2)(dirfd, path, flags);
}

SHIM_EXPORT int __openat64_2(int dirfd, const char *path, int flags)
{
	int fd;

	shim_enter();
	return open_ours(dirfd, path, flags, &fd) ? fd : REAL(__openat64_2)(dirfd, path, flags);
}

SHIM_EXPORT int creat(const char *path, mode_t mode)
{
	return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

SHIM_EXPORT int creat64(const char *path, mode_t mode)
{
	return open64(path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

/* ---- streams ------------------------------------------------------------------------------------------------------------ */

static int flags_of(const char *mode)
{
	int flags = strchr(mode, '+') ? O_RDWR : mode[0] == 'r' ? O_RDONLY : O_WRONLY;

	return flags | (strchr(mode, 'x') ? O_CREAT | O_EXCL : 0) | (strchr(mode, 'e') ? O_CLOEXEC : 0);
}

static FILE *open_stream(const struct shim_path *p, const char *mode)
{
	int fd = shim_path_open(p, flags_of(mode));
	FILE *f;

	if (fd < 0) {
		errno = -fd;
		return NULL;
	}
	f = fdopen(fd, mode);
	if (!f)
		close(fd);
	return f;
}

SHIM_EXPORT FILE *fopen(const char *path, const char *mode)
{
	const struct shim_path *p;

	shim_enter();
	p = shim_path_find(AT_FDCWD, path);
	return p ? open_stream(p, mode) : REAL(fopen)(path, mode);
}

SHIM_EXPORT FILE *fopen64(const char *path, const char *mode)
{
	const struct shim_path *p;

	shim_enter();
	p = shim_path_find(AT_FDCWD, path);
	return p ? open_stream(p, mode) : REAL(fopen64)(path, mode);
}
