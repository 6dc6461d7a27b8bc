/* SPDX-License-Identifier: MIT */
/*
 * syscall(2), the function: the numbers whose wrappers we take over go the same way. The instruction itself, in programs that
 * bypass libc, cannot be seen from here.
 */
#include <errno.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/syscall.h>

#include "shim/real.h"
#include "shim/shim.h"

/* Under --wrap the plain name would mean libc's (see real.h), and __real_ means the one this link defines. */
#define OURS(name) __real_##name
#define X(name) extern __typeof__(name) __real_##name;
X(open) X(openat) X(creat) X(ioctl) X(mmap) X(close) X(close_range) X(dup) X(dup2) X(dup3) X(fcntl) X(read) X(pread)
X(readv) X(write) X(pwrite) X(writev) X(stat) X(lstat) X(fstat) X(fstatat) X(fallocate) X(ftruncate) X(lseek) X(statx) X(access) X(faccessat) X(sigaction)
X(fstatfs) X(readlink) X(readlinkat)
#undef X

/* The kernel's struct sigaction. */
struct kernel_sigaction {
	void (*handler)(int sig);
	unsigned long flags;
	void (*restorer)(void);
	uint64_t mask;
};
#define KERNEL_RESTORER 0x04000000ul

typedef long call_fn(const long a[6]);

#define PTR(i) ((void *)(uintptr_t)a[i])

static long do_open(const long a[6]) { return OURS(open)(PTR(0), (int)a[1], (unsigned)a[2]); }
static long do_openat(const long a[6]) { return OURS(openat)((int)a[0], PTR(1), (int)a[2], (unsigned)a[3]); }
static long do_creat(const long a[6]) { return OURS(creat)(PTR(0), (unsigned)a[1]); }
static long do_ioctl(const long a[6]) { return OURS(ioctl)((int)a[0], (unsigned long)a[1], a[2]); }
static long do_mmap(const long a[6]) { return (long)OURS(mmap)(PTR(0), (size_t)a[1], (int)a[2], (int)a[3], (int)a[4], a[5]); }
static long do_close(const long a[6]) { return OURS(close)((int)a[0]); }
static long do_close_range(const long a[6]) { return OURS(close_range)((unsigned)a[0], (unsigned)a[1], (int)a[2]); }
static long do_dup(const long a[6]) { return OURS(dup)((int)a[0]); }
static long do_dup2(const long a[6]) { return OURS(dup2)((int)a[0], (int)a[1]); }
static long do_dup3(const long a[6]) { return OURS(dup3)((int)a[0], (int)a[1], (int)a[2]); }
static long do_fcntl(const long a[6]) { return OURS(fcntl)((int)a[0], (int)a[1], a[2]); }
static long do_read(const long a[6]) { return OURS(read)((int)a[0], PTR(1), (size_t)a[2]); }
static long do_pread(const long a[6]) { return OURS(pread)((int)a[0], PTR(1), (size_t)a[2], a[3]); }
static long do_readv(const long a[6]) { return OURS(readv)((int)a[0], PTR(1), (int)a[2]); }
static long do_write(const long a[6]) { return OURS(write)((int)a[0], PTR(1), (size_t)a[2]); }
static long do_pwrite(const long a[6]) { return OURS(pwrite)((int)a[0], PTR(1), (size_t)a[2], a[3]); }
static long do_writev(const long a[6]) { return OURS(writev)((int)a[0], PTR(1), (int)a[2]); }
static long do_stat(const long a[6]) { return OURS(stat)(PTR(0), PTR(1)); }
static long do_lstat(const long a[6]) { return OURS(lstat)(PTR(0), PTR(1)); }
static long do_fstat(const long a[6]) { return OURS(fstat)((int)a[0], PTR(1)); }
static long do_fstatat(const long a[6]) { return OURS(fstatat)((int)a[0], PTR(1), PTR(2), (int)a[3]); }
static long do_statx(const long a[6]) { return OURS(statx)((int)a[0], PTR(1), (int)a[2], (unsigned)a[3], PTR(4)); }
static long do_fallocate(const long a[6]) { return OURS(fallocate)((int)a[0], (int)a[1], a[2], a[3]); }
static long do_ftruncate(const long a[6]) { return OURS(ftruncate)((int)a[0], a[1]); }
static long do_lseek(const long a[6]) { return OURS(lseek)((int)a[0], a[1], (int)a[2]); }
static long do_fstatfs(const long a[6]) { return OURS(fstatfs)((int)a[0], PTR(1)); }
static long do_readlink(const long a[6]) { return OURS(readlink)(PTR(0), PTR(1), (size_t)a[2]); }
static long do_readlinkat(const long a[6]) { return OURS(readlinkat)((int)a[0], PTR(1), PTR(2), (size_t)a[3]); }
static long do_access(const long a[6]) { return OURS(access)(PTR(0), (int)a[1]); }
static long do_faccessat(const long a[6]) { return OURS(faccessat)((int)a[0], PTR(1), (int)a[2], 0); }

/* Takes its flags from memory; only what is ours needs them here. */
static long do_openat2(const long a[6])
{
	const struct open_how *how = PTR(2);
	const struct shim_path *p;

	if ((size_t)a[3] >= sizeof(*how) && how) {
		p = shim_path_find((int)a[0], PTR(1));
		if (p)
			return shim_result(shim_path_open(p, (int)how->flags));
	}
	return REAL(syscall)(SYS_openat2, a[0], a[1], a[2], a[3]);
}

static long do_faccessat2(const long a[6])
{
	const struct shim_path *p = shim_path_find((int)a[0], PTR(1));

	return p ? shim_result(shim_path_access(p, (int)a[2])) : REAL(syscall)(SYS_faccessat2, a[0], a[1], a[2], a[3]);
}

static void from_kernel(const struct kernel_sigaction *k, struct sigaction *act)
{
	memset(act, 0, sizeof(*act));
	act->sa_handler = k->handler;
	act->sa_flags = (int)(k->flags & ~KERNEL_RESTORER);
	memcpy(&act->sa_mask, &k->mask, sizeof(k->mask));
}

static void to_kernel(const struct sigaction *act, struct kernel_sigaction *k)
{
	memset(k, 0, sizeof(*k));
	k->handler = act->sa_handler;
	k->flags = (unsigned)act->sa_flags;
	memcpy(&k->mask, &act->sa_mask, sizeof(k->mask));
}

/* Only for the signals the engine holds; else the client's own restorer must reach the kernel. */
static long do_sigaction(const long a[6])
{
	const struct kernel_sigaction *act = PTR(1);
	struct kernel_sigaction *old = PTR(2);
	struct sigaction next, was;
	long ret;

	if (!shim_signal_is_taken((int)a[0]) || a[3] != sizeof(act->mask)) {
		if (act)
			shim_signal_is_raw();
		return REAL(syscall)(SYS_rt_sigaction, a[0], a[1], a[2], a[3]);
	}
	if (act)
		from_kernel(act, &next);
	ret = OURS(sigaction)((int)a[0], act ? &next : NULL, &was);
	if (!ret && old)
		to_kernel(&was, old);
	return ret;
}

static const struct { long number; call_fn *fn; } rows[] = {
	{ SYS_ioctl, do_ioctl }, { SYS_read, do_read }, { SYS_write, do_write }, { SYS_close, do_close }, { SYS_mmap, do_mmap },
	{ SYS_open, do_open }, { SYS_openat, do_openat }, { SYS_openat2, do_openat2 }, { SYS_creat, do_creat },
	{ SYS_close_range, do_close_range }, { SYS_dup, do_dup }, { SYS_dup2, do_dup2 }, { SYS_dup3, do_dup3 },
	{ SYS_fcntl, do_fcntl }, { SYS_pread64, do_pread }, { SYS_readv, do_readv }, { SYS_pwrite64, do_pwrite },
	{ SYS_writev, do_writev }, { SYS_stat, do_stat }, { SYS_lstat, do_lstat }, { SYS_fstat, do_fstat },
	{ SYS_newfstatat, do_fstatat }, { SYS_statx, do_statx }, { SYS_fallocate, do_fallocate }, { SYS_ftruncate, do_ftruncate }, { SYS_lseek, do_lseek },
	{ SYS_fstatfs, do_fstatfs }, { SYS_readlink, do_readlink }, { SYS_readlinkat, do_readlinkat }, { SYS_access, do_access }, { SYS_faccessat, do_faccessat },
	{ SYS_faccessat2, do_faccessat2 }, { SYS_rt_sigaction, do_sigaction },
};

SHIM_EXPORT long syscall(long number, ...)
{
	long a[6];
	va_list ap;

	shim_enter();
	/* As many as there can be: what the caller did not pass is read and not used, as in libc. */
	va_start(ap, number);
	for (unsigned i = 0; i < 6; i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (rows[i].number == number)
			return rows[i].fn(a);
	return REAL(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
