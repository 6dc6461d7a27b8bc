/* SPDX-License-Identifier: MIT */
/*
 * Has the client closed an eventfd that we hold a duplicate of? The kernel's irqfd holds the eventfd without its file, and goes
 * with the last descriptor. A process cannot be told of that: it looks whether one of its descriptors, other than ours, still
 * leads to the file; and when none does, it gives its own away and looks whether epoll, which holds no file either, still has it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vm/vm.h"

/* Which numbers are ours; above, all pass for the client's. */
#define N_KNOWN	65536u
static _Atomic uint64_t ours[N_KNOWN / 64];

static bool is_ours(int fd)
{
	return (unsigned)fd < N_KNOWN && atomic_load(&ours[(unsigned)fd / 64]) >> ((unsigned)fd % 64) & 1;
}

int vm_ours_dup(int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	if (copy < 0)
		return -errno;
	if ((unsigned)copy < N_KNOWN)
		atomic_fetch_or(&ours[(unsigned)copy / 64], BIT64((unsigned)copy % 64));
	return copy;
}

void vm_ours_close(int fd)
{
	if ((unsigned)fd < N_KNOWN)
		atomic_fetch_and(&ours[(unsigned)fd / 64], ~BIT64((unsigned)fd % 64));
	close(fd);
}

/* 1, 0; -1: cannot be known here. */
static int is_same_file(int a, int b)
{
	const int kcmp_file = 0;
	long r = syscall(SYS_kcmp, getpid(), getpid(), kcmp_file, a, b);

	int64_t id;

	if (r >= 0)
		return r == 0;
	if (errno == EBADF)
		return 0;
	/* Some sandboxes forbid that call. */
	id = vm_eventfd_id(a);
	return id < 0 ? -1 : id == vm_eventfd_id(b);
}

bool vm_ours_has_client(int fd, int *hint)
{
	int same = is_ours(*hint) ? 0 : is_same_file(fd, *hint);
	struct dirent *e;
	DIR *d;

	if (same)
		return true;
	d = opendir("/proc/self/fd");
	if (!d)
		return true;
	while (same == 0 && (e = readdir(d))) {
		int n = atoi(e->d_name);

		if (e->d_name[0] == '.' || n == dirfd(d) || is_ours(n))
			continue;
		same = is_same_file(fd, n);
		*hint = same > 0 ? n : *hint;
	}
	closedir(d);
	return same != 0;
}

bool vm_epoll_has(int epoll_fd, uint64_t data)
{
	unsigned long long at;
	char text[256];
	bool has = false;
	FILE *f;

	snprintf(text, sizeof(text), "/proc/self/fdinfo/%d", epoll_fd);
	f = fopen(text, "re");
	if (!f)
		return true;
	while (!has && fgets(text, sizeof(text), f))
		has = sscanf(text, "tfd: %*d events: %*x data: %llx", &at) == 1 && at == data;
	fclose(f);
	return has;
}
