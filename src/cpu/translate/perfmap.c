/* SPDX-License-Identifier: MIT */
/*
 * Names of translated code for perf(1): a line for each unit in /tmp/perf-PID.map, the file that perf reads for code that no
 * file holds ("perf-PID.map" in the kernel's tools/perf/Documentation/jit-interface.txt). Written only when GUESTWARD_ENGINE has
 * the word `perf`.
 *
 * One file for the process, whatever the number of vCPUs: lines are appended by one write() each. The file stays when the
 * process ends, as perf report needs it then.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cpu/translate/private.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int map_fd = -1;

/* In /tmp others may have put something at this name: what is there is removed, which fails if it is another user's, and never followed. */
static void open_map(void)
{
	char path[40];

	snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
	unlink(path);
	map_fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (map_fd < 0)
		gw_log(GW_LOG_WARN, "GUESTWARD_ENGINE: perf: %s: %s", path, strerror(errno));
}

static void add(uint64_t at, uint32_t size, const char *name)
{
	char line[80];
	int n = snprintf(line, sizeof(line), "%llx %x %s\n", (unsigned long long)at, size, name);

	/* A full disk costs names and nothing else. */
	if (n > 0 && write(map_fd, line, (size_t)n) != n)
		return;
}

void tr_perfmap_unit(const struct translator *k, const struct tr_unit *u)
{
	static const char *const modes[ACC_N_MODES] = { [ACC_MODE_KERNEL] = "kernel", [ACC_MODE_KERNEL_AC] = "kernel_ac", [ACC_MODE_USER] = "user" };
	char name[48];

	if (!k->perf || map_fd < 0)
		return;
	snprintf(name, sizeof(name), "guest_%s_%llx", modes[u->mode], (unsigned long long)u->rip);
	add(tr_rx(k, u->mapped), u->end - u->mapped, name);
}

void tr_perfmap_open(const struct translator *k)
{
	if (!k->perf)
		return;
	pthread_once(&once, open_map);
	if (map_fd >= 0)
		add(tr_rx(k, 0), k->first, "guestward_routines");
}
