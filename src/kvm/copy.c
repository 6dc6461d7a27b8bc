/* SPDX-License-Identifier: MIT */
/*
 * Copying from and to addresses the client gave. They may be unmapped, read-only or half of each: the kernel looks for us
 * (process_vm_readv and writev on ourselves), so nothing crashes and no signal handler is needed. Where a sandbox forbids
 * those calls, a pipe does the same: write() and read() give EFAULT too.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kvm/kvm.h"

#define PIPE_CHUNK	4096u

static _Atomic bool is_forbidden;

/* Asked once a process: a system call that every copy would make otherwise. High half: which fork it is of, and 1. */
static pid_t own_pid(void)
{
	static _Atomic uint64_t known;
	uint64_t of = (uint64_t)vm_fork_generation() + 1, k = atomic_load_explicit(&known, memory_order_relaxed);

	if (unlikely(k >> 32 != (uint32_t)of)) {
		k = of << 32 | (uint32_t)getpid();
		atomic_store_explicit(&known, k, memory_order_relaxed);
	}
	return (pid_t)(uint32_t)k;
}

static ssize_t vm_copy(bool in, void *ours, uint64_t theirs, size_t n)
{
	struct iovec local = { ours, n }, remote = { (void *)(uintptr_t)theirs, n };

	return in ? process_vm_readv(own_pid(), &local, 1, &remote, 1, 0) : process_vm_writev(own_pid(), &local, 1, &remote, 1, 0);
}

/* A pipe per call: rare, and no lock to be held across a fork. */
static int pipe_copy(bool in, uint8_t *ours, uint64_t theirs, size_t n)
{
	int fds[2], err = 0;

	if (pipe2(fds, O_CLOEXEC))
		return -errno;
	while (n && !err) {
		size_t part = n < PIPE_CHUNK ? n : PIPE_CHUNK;
		void *client = (void *)(uintptr_t)theirs;

		if (write(fds[1], in ? client : ours, part) != (ssize_t)part || read(fds[0], in ? ours : client, part) != (ssize_t)part)
			err = -EFAULT;
		ours += part;
		theirs += part;
		n -= part;
	}
	close(fds[0]);
	close(fds[1]);
	return err;
}

static int copy(bool in, void *ours, uint64_t theirs, size_t n)
{
	ssize_t done;

	if (!n)
		return 0;
	if (!atomic_load_explicit(&is_forbidden, memory_order_relaxed)) {
		done = vm_copy(in, ours, theirs, n);
		if (done == (ssize_t)n)
			return 0;
		if (done >= 0 || (errno != ENOSYS && errno != EPERM))
			return -EFAULT;
		atomic_store(&is_forbidden, true);
	}
	return pipe_copy(in, ours, theirs, n);
}

int kvm_copy_in(void *to, uint64_t from, size_t n)
{
	return copy(true, to, from, n);
}

int kvm_copy_out(uint64_t to, const void *from, size_t n)
{
	return copy(false, (void *)(uintptr_t)from, to, n);
}
