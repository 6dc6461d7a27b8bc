/* SPDX-License-Identifier: MIT */
/*
 * What the links under /proc/PID/fd say of our files. The kernel names them after the memory files they are; programs that look
 * (lsof, checkpointers, the curious) expect KVM's names.
 */
#include <string.h>

#include "shim/real.h"
#include "shim/shim.h"

#define MEMFD		"/memfd:"
#define ROOM		64u

ssize_t __readlink_chk(const char *path, char *buf, size_t n, size_t size);
ssize_t __readlinkat_chk(int dirfd, const char *path, char *buf, size_t n, size_t size);

static const struct { const char *is, *shown; } names[] = {
	{ MEMFD "guest_memfd (deleted)", "anon_inode:[kvm-gmem]" },
	{ MEMFD "kvm-vm (deleted)", "anon_inode:kvm-vm" },
	{ MEMFD "kvm-vcpu (deleted)", "anon_inode:kvm-vcpu" },
	{ MEMFD "kvm (deleted)", "/dev/kvm" },
};

int shim_fd_of_link(const char *path)
{
	static const char *const folders[] = { "/proc/self/fd/", "/dev/fd/", "/proc/thread-self/fd/" };
	char own[32];
	int fd = 0;

	if (path[0] != '/' || (path[1] != 'p' && path[1] != 'd'))
		return -1;
	snprintf(own, sizeof(own), "/proc/%d/fd/", (int)getpid());
	for (unsigned i = 0; i <= sizeof(folders) / sizeof(folders[0]); i++) {
		const char *folder = i < sizeof(folders) / sizeof(folders[0]) ? folders[i] : own, *digit = path + strlen(folder);

		if (strncmp(path, folder, strlen(folder)) || !*digit || strlen(digit) > 6)
			continue;
		for (; *digit >= '0' && *digit <= '9'; digit++)
			fd = 10 * fd + *digit - '0';
		return *digit ? -1 : fd;
	}
	return -1;
}

/* @got bytes of @buf are what the kernel said; it may have been cut. */
static ssize_t rename_link(int dirfd, const char *path, char *buf, size_t n, ssize_t got)
{
	char whole[ROOM];
	ssize_t len;

	if (got < 1 || strncmp(buf, MEMFD, (size_t)got < strlen(MEMFD) ? (size_t)got : strlen(MEMFD)))
		return got;
	len = REAL(readlinkat)(dirfd, path, whole, sizeof(whole));
	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (len == (ssize_t)strlen(names[i].is) && !memcmp(whole, names[i].is, (size_t)len)) {
			size_t want = strlen(names[i].shown);

			want = want < n ? want : n;
			memcpy(buf, names[i].shown, want);
			return (ssize_t)want;
		}
	return got;
}

SHIM_EXPORT ssize_t readlink(const char *restrict path, char *restrict buf, size_t n)
{
	shim_enter();
	return rename_link(AT_FDCWD, path, buf, n, REAL(readlink)(path, buf, n));
}

SHIM_EXPORT ssize_t __readlink_chk(const char *path, char *buf, size_t n, size_t size)
{
	shim_enter();
	return rename_link(AT_FDCWD, path, buf, n, REAL(__readlink_chk)(path, buf, n, size));
}

SHIM_EXPORT ssize_t readlinkat(int dirfd, const char *restrict path, char *restrict buf, size_t n)
{
	shim_enter();
	return rename_link(dirfd, path, buf, n, REAL(readlinkat)(dirfd, path, buf, n));
}

SHIM_EXPORT ssize_t __readlinkat_chk(int dirfd, const char *path, char *buf, size_t n, size_t size)
{
	shim_enter();
	return rename_link(dirfd, path, buf, n, REAL(__readlinkat_chk)(dirfd, path, buf, n, size));
}
