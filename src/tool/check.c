/* SPDX-License-Identifier: MIT */
/*
 * `guestward check`: what this host offers the engine, and why something is slow or missing. One row a question; each says
 * what it means for the user. Exit status 1 when a VM cannot run at all.
 */
#include "check.h"

#include <argp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exit_codes.h"
#include "guestward/guestward.h"
#include "guestward/kvm.h"

#ifndef ARCH_SET_CPUID
#define ARCH_SET_CPUID	0x1012
#endif
#define ENOUGH_SPACE	(4ull << 30)
#define ENOUGH_FILES	256u
#ifndef HWCAP2_FSGSBASE
#define HWCAP2_FSGSBASE	(1 << 1)
#endif

static bool has_bmi2(void) { return __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2"); }
static bool has_avx2(void) { return __builtin_cpu_supports("avx2"); }
static bool has_aes(void) { return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul"); }
static bool has_popcnt(void) { return __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("sse4.2"); }
static bool has_fsgsbase(void) { return getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE; }
static bool has_two_cpus(void) { return sysconf(_SC_NPROCESSORS_ONLN) >= 2; }

static bool has_executable_memory(void)
{
	int fd = memfd_create("check", MFD_CLOEXEC);
	void *p;
	bool ok;

	if (fd < 0 || ftruncate(fd, 4096)) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	p = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	ok = p != MAP_FAILED;
	if (ok)
		munmap(p, 4096);
	close(fd);
	return ok;
}

static bool has_huge_pages(void)
{
	FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
	char line[128] = "";
	bool ok = f && fgets(line, sizeof(line), f) && !strstr(line, "[never]");

	if (f)
		fclose(f);
	return ok;
}

static bool can_make_vm(void)
{
	int fd = gw_open();
	long vm = fd < 0 ? fd : gw_ioctl(fd, KVM_CREATE_VM, 0);
	long vcpu = vm < 0 ? vm : gw_ioctl((int)vm, KVM_CREATE_VCPU, 0);

	if (vcpu >= 0)
		gw_close((int)vcpu);
	if (vm >= 0)
		gw_close((int)vm);
	if (fd >= 0)
		gw_close(fd);
	return vcpu >= 0;
}

/* Asked in a child: a CPUID between the two calls would end it. */
static bool has_cpuid_faulting(void)
{
	int status = -1, pid = fork();

	if (!pid)
		_exit(syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0) ? 1 : 0);
	return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && !WEXITSTATUS(status);
}

static bool has_protection_keys(void)
{
	int key = pkey_alloc(0, 0);

	if (key >= 0)
		pkey_free(key);
	return key >= 0;
}

/* One translation cache a VM, guest memory, and a process's other needs. */
static bool has_room(void)
{
	struct rlimit space, files;

	return !getrlimit(RLIMIT_AS, &space) && space.rlim_cur >= ENOUGH_SPACE && !getrlimit(RLIMIT_NOFILE, &files) &&
	       files.rlim_cur >= ENOUGH_FILES;
}

/* A hypervisor below us makes page faults and system calls dearer. */
static bool is_not_nested(void)
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	char line[4096];		/* the flag is in the first half of the longest */
	bool is_nested = false;

	while (f && !is_nested && fgets(line, sizeof(line), f))
		is_nested = !strncmp(line, "flags", 5) && strstr(line, " hypervisor");
	if (f)
		fclose(f);
	return !is_nested;
}

/* More waiting tasks than processors: clocks in guests go on while their CPUs wait. */
static bool is_idle(void)
{
	double load;

	return getloadavg(&load, 1) != 1 || load < (double)sysconf(_SC_NPROCESSORS_ONLN);
}

static const struct question {
	const char *name;
	bool (*ask)(void);
	bool is_needed;
	const char *otherwise;
} questions[] = {
	{ "memory for generated code (memfd, mapped executable)", has_executable_memory, true,
	  "a security policy forbids it; vector instructions and the translator cannot work" },
	{ "a VM with one CPU can be made", can_make_vm, true, "see the limits on memory and open files (ulimit -v, -n)" },
	{ "SSE4.2 and POPCNT", has_popcnt, false, "guests are not offered them; distributions built for x86-64-v2 do not start" },
	{ "AVX2", has_avx2, false, "guests are not offered it; some libraries run slower" },
	{ "BMI1 and BMI2", has_bmi2, false, "guests are not offered them" },
	{ "AES and PCLMULQDQ", has_aes, false, "guests are not offered them; their cryptography is slow" },
	{ "FSGSBASE for user programs", has_fsgsbase, false, "entering guest code costs a system call more" },
	{ "two CPUs or more", has_two_cpus, false, "guests with several CPUs take turns" },
	{ "transparent huge pages", has_huge_pages, false, "large guests start and run slower" },
	{ "a processor of its own, not a hypervisor's", is_not_nested, false, "page faults and system calls cost more below a hypervisor" },
	{ "processors to spare", is_idle, false, "more tasks want to run than there are processors; guests wait for theirs" },
	{ "room: 4 GiB of addresses, 256 open files", has_room, false, "ulimit -v or -n is low: large guests or many CPUs will not fit" },
	{ "CPUID can be made to fault", has_cpuid_faulting, false, "clients' CPUIDs are replaced when they start (guestward-shim(7)), not those in their libraries" },
	{ "memory protection keys", has_protection_keys, false, "private memory is kept from this process by its mappings alone" },
};

static const char *engine_name(void)
{
	const char *name = getenv("GUESTWARD_ENGINE");

	if (name && strstr(name, "interp"))
		return "interpreter, because GUESTWARD_ENGINE says so: several times slower than the translator";
	return "translator";
}

int check_main(int argc, char **argv)
{
	static const struct argp argp = { NULL, NULL, NULL, "Say what this host offers the engine, and why something would be slow or missing.",
					  NULL, NULL, NULL };
	int status = STATUS_OK;

	argp_parse(&argp, argc, argv, 0, NULL, NULL);
	for (size_t i = 0; i < sizeof(questions) / sizeof(questions[0]); i++) {
		const struct question *q = &questions[i];
		bool ok = q->ask();

		if (ok)
			printf("ok       %s\n", q->name);
		else
			printf("%s  %s: %s\n", q->is_needed ? "MISSING" : "slower ", q->name, q->otherwise);
		if (!ok && q->is_needed)
			status = STATUS_FAILED;
	}
	printf("engine   %s\n", engine_name());
	printf("/dev/kvm is %s on this host; Guestward never opens it\n", access("/dev/kvm", F_OK) ? "not there" : "there");
	return status;
}
