/* SPDX-License-Identifier: MIT */
/* Operating-system paths: system calls, switches, processes, faults, signals. */
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

static uint64_t getppid_(uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		syscall(SYS_getppid);
	return 0;
}

static uint64_t ping_pong(uint64_t n)
{
	int a[2], b[2];
	char c = 'x';
	pid_t pid;

	if (pipe(a) || pipe(b))
		return 0;
	pid = fork();
	if (!pid) {
		close(a[1]);
		while (read(a[0], &c, 1) == 1)
			if (write(b[1], &c, 1) != 1)
				break;
		_exit(0);
	}
	close(a[0]);
	/* A hundred a unit: the fork that sets it up must not be what is measured. */
	for (uint64_t i = 0; i < n * 100; i++)
		if (write(a[1], &c, 1) != 1 || read(b[0], &c, 1) != 1)
			break;
	close(a[1]);
	waitpid(pid, NULL, 0);
	close(b[0]);
	close(b[1]);
	return 0;
}

static uint64_t fork_(uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(0);
		waitpid(pid, NULL, 0);
	}
	return 0;
}

static uint64_t exec_(uint64_t n)
{
	char *argv[] = { "bench", "--exit", NULL }, *envp[] = { NULL };

	for (uint64_t i = 0; i < n; i++) {
		pid_t pid;

		if (posix_spawn(&pid, "/proc/self/exe", NULL, NULL, argv, envp))
			return 0;
		waitpid(pid, NULL, 0);
	}
	return 0;
}

static uint64_t fault(uint64_t n)
{
	const size_t chunk = 4 << 20;

	for (uint64_t i = 0; i < n;) {
		uint8_t *p = mmap(NULL, chunk, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			return 0;
		madvise(p, chunk, MADV_NOHUGEPAGE);
		for (size_t k = 0; k < chunk && i < n; k += 4096, i++)
			*(volatile uint8_t *)(p + k) = 1;
		munmap(p, chunk);
	}
	return 0;
}

static volatile uint64_t caught;
static void on_signal(int sig) { (void)sig; caught++; }

static uint64_t signal_(uint64_t n)
{
	struct sigaction sa = { .sa_handler = on_signal };

	sigaction(SIGUSR1, &sa, NULL);
	for (uint64_t i = 0; i < n; i++)
		raise(SIGUSR1);
	return 0;
}

static uint64_t stat_(uint64_t n)
{
	struct stat st;

	for (uint64_t i = 0; i < n; i++)
		stat("/proc/self/exe", &st);
	return 0;
}

static uint64_t open_close(uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		close(open("/dev/null", O_RDONLY));
	return 0;
}

static uint64_t read_zero(uint64_t n)
{
	static char buf[65536];
	int fd = open("/dev/zero", O_RDONLY);

	for (uint64_t i = 0; i < n; i++)
		if (read(fd, buf, sizeof(buf)) < 0)
			break;
	close(fd);
	return 0;
}

const struct bench bench_os[] = {
	{ "getppid", "os", "call", getppid_, 0 },
	{ "stat", "os", "call", stat_, 0 },
	{ "open+close", "os", "pair", open_close, 0 },
	{ "pipe ping-pong", "switch", "100 round trips", ping_pong, 0 },
	{ "signal", "switch", "signal", signal_, 0 },
	{ "fork+exit+wait", "switch", "process", fork_, 0 },
	{ "spawn+exec+exit", "switch", "process", exec_, 0 },
	{ "page fault", "switch", "page", fault, 0 },
	{ "read /dev/zero 64K", "copy", "read", read_zero, 0 },
	{ 0 },
};
