/* SPDX-License-Identifier: MIT */
/*
 * Runs the tests: natively as a program, in a guest as /init. Prints one line a test,
 *     BENCH <name>|<group>|<unit>|<ns per unit>|<checksum or ->
 * Arguments: --time MS (default 200) a test; --only GROUP[,GROUP]; --exit (for the exec test). As process 1 it mounts what it
 * needs, takes its arguments from the kernel command line's `bench.time=` and `bench.only=`, and powers off.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Grow n until the run is long enough, then take the best of three: the floor is what the machine can do. */
static double measure(const struct bench *b, uint64_t target_ns)
{
	uint64_t n = 1, t = 0;
	double best;

	for (;;) {
		uint64_t t0 = now_ns();

		KEEP(b->run(n));
		t = now_ns() - t0;
		if (t >= target_ns / 4 || n > 1ull << 40)
			break;
		n = t < target_ns / 64 ? n * 8 : n * 2;
	}
	best = (double)t / (double)n;
	for (int i = 0; i < 2; i++) {
		uint64_t t0 = now_ns();
		double ns;

		KEEP(b->run(n));
		ns = (double)(now_ns() - t0) / (double)n;
		if (ns < best)
			best = ns;
	}
	return best;
}

static void run(const struct bench *list, uint64_t target_ns, const char *only)
{
	for (const struct bench *b = list; b->name; b++) {
		char sum[24] = "-";

		if (*only && !strstr(only, b->group))
			continue;
		if (b->check_n)
			snprintf(sum, sizeof(sum), "%016" PRIx64, b->run(b->check_n));
		printf("BENCH %s|%s|%s|%.3f|%s\n", b->name, b->group, b->unit, measure(b, target_ns), sum);
		fflush(stdout);
	}
}

static void as_init(unsigned *ms, char *only, size_t size)
{
	char line[2048] = "", *p;
	int fd;

	mkdir("/proc", 0555);
	mkdir("/dev", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	if (mount("dev", "/dev", "devtmpfs", 0, NULL)) {
		mknod("/dev/null", S_IFCHR | 0666, makedev(1, 3));
		mknod("/dev/zero", S_IFCHR | 0666, makedev(1, 5));
	}
	fd = open("/dev/console", O_RDWR);
	for (int i = 0; fd >= 0 && i < 3; i++)
		dup2(fd, i);
	fd = open("/proc/cmdline", O_RDONLY);
	if (fd >= 0 && read(fd, line, sizeof(line) - 1) > 0) {
		p = strstr(line, "bench.time=");
		if (p)
			*ms = (unsigned)atoi(p + 11);
		p = strstr(line, "bench.only=");
		if (p)
			snprintf(only, size, "%.*s", (int)strcspn(p + 11, " \n"), p + 11);
	}
	close(fd);
}

int main(int argc, char **argv)
{
	unsigned ms = 200;
	char only[128] = "";

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--exit"))
			return 0;
		if (!strcmp(argv[i], "--time") && i + 1 < argc)
			ms = (unsigned)atoi(argv[++i]);
		else if (!strcmp(argv[i], "--only") && i + 1 < argc)
			snprintf(only, sizeof(only), "%s", argv[++i]);
	}
	if (getpid() == 1)
		as_init(&ms, only, sizeof(only));
	printf("BENCH-START uptime_ns=%" PRIu64 "\n", now_ns());
	run(bench_int, ms * 1000000ull, only);
	run(bench_mem, ms * 1000000ull, only);
	run(bench_fp, ms * 1000000ull, only);
	run(bench_crypto, ms * 1000000ull, only);
	run(bench_os, ms * 1000000ull, only);
	if (*only)
		run(bench_smp, ms * 1000000ull, only);
	printf("BENCH-END\n");
	fflush(stdout);
	if (getpid() == 1) {
		sync();
		reboot(RB_POWER_OFF);
		for (;;)
			pause();
	}
	return 0;
}
