/* SPDX-License-Identifier: MIT */
/*
 * `guestward dump [PID]`: registers, last events, code and the page walk of an address, from a VM that runs. Talks to the
 * control socket (guestward/control.h). Without PID: the processes that can be asked.
 */
#include "dump.h"

#include <argp.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "exit_codes.h"
#include "watch.h"
#include "guestward/control.h"
#include "guestward/kvm.h"

struct options { int pid; unsigned vm; unsigned cpu; bool has_walk, has_block, engine; uint64_t walk, block; bool permissions; const char *svg; };

static const struct argp_option rows[] = {
	{ "vm", 'v', "N", 0, "which VM of the process (default 0)", 0 },
	{ "cpu", 'c', "N", 0, "which CPU (default 0)", 0 },
	{ "walk", 'w', "ADDRESS", 0, "explain the page walk of a linear address (hexadecimal)", 0 },
	{ "block", 'b', "ADDRESS", 0, "show the translated code of the blocks that contain a linear address (hexadecimal), and nothing else", 0 },
	{ "engine", 'e', NULL, 0, "show how much of the guest ran translated, and what did not, and nothing else", 0 },
	{ 0 }
};

static unsigned long number(const char *text, int base, const struct argp_state *state)
{
	char *end;
	unsigned long v;

	errno = 0;
	v = strtoul(text, &end, base);
	if (errno || end == text || *end)
		argp_error(state, "'%s' is not a number", text);
	return v;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case 'v': o->vm = (unsigned)number(arg, 10, state); return 0;
	case 'c': o->cpu = (unsigned)number(arg, 10, state); return 0;
	case 'b': o->block = number(arg, 16, state); o->has_block = true; return 0;
	case 'e': o->engine = true; return 0;
	case 'p': o->permissions = true; return 0;
	case 's': o->permissions = true; o->svg = arg; return 0;
	case 'w': o->walk = number(arg, 16, state); o->has_walk = true; return 0;
	case ARGP_KEY_ARG:
		if (o->pid)
			return ARGP_ERR_UNKNOWN;
		o->pid = (int)number(arg, 10, state);
		return 0;
	default: return ARGP_ERR_UNKNOWN;
	}
}

/* A process that is stopped must not hold us. */
int control_connect(int pid)
{
	const struct timeval patience = { 3, 0 };
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int n = snprintf(a.sun_path + 1, sizeof(a.sun_path) - 1, GW_CONTROL_NAME, pid);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *)&a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n))) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Sends one line and copies the answer out. */
static int ask(int pid, const char *request)
{
	int fd = control_connect(pid), status = STATUS_OK;
	bool first = true;
	char buf[2048];
	ssize_t n;

	if (fd < 0) {
		fprintf(stderr, "guestward: process %d has no VM to ask; 'guestward dump' lists those that have\n", pid);
		return STATUS_FAILED;
	}
	if (write(fd, request, strlen(request)) < 0)
		perror("guestward: dump");
	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		bool refused = first && n >= 7 && !memcmp(buf, "error: ", 7);

		if (refused) {
			fprintf(stderr, "guestward: %.*s", (int)n - 7, buf + 7);
			status = STATUS_FAILED;
		} else if (status == STATUS_OK) {
			fwrite(buf, 1, (size_t)n, stdout);
		}
		first = false;
	}
	close(fd);
	return status;
}

/* The kernel lists abstract sockets by name. */
int control_list(void)
{
	FILE *f = fopen("/proc/net/unix", "re");
	unsigned found = 0;
	char line[512];

	while (f && fgets(line, sizeof(line), f)) {
		const char *at = strstr(line, " @guestward/");
		int pid;

		/* Connections carry the name too; a listener's flags are 00010000. */
		if (!at || !strstr(line, " 00010000 ") || sscanf(at, " @" GW_CONTROL_NAME, &pid) != 1)
			continue;
		printf("process %d\n", pid);
		fflush(stdout);
		ask(pid, "list\n");
		found++;
	}
	if (f)
		fclose(f);
	if (!found)
		printf("no running VMs\n");
	return STATUS_OK;
}

static const struct argp_option map_rows[] = {
	{ "vm", 'v', "N", 0, "which VM of the process (default 0)", 0 },
	{ "permissions", 'p', NULL, 0, "what kernel integrity lets the guest do where, as a picture", 0 },
	{ "svg", 's', "FILE", 0, "write that picture to FILE", 0 },
	{ 0 }
};

int map_main(int argc, char **argv)
{
	static const struct argp argp = { map_rows, parse, "[PID]",
		"Show which memory of a running VM is private to the guest and which shared, and how many pages are present on each side, "
		"and on both. Without PID, list the processes that run VMs.", NULL, NULL, NULL };
	struct options o = { 0 };
	char request[GW_CONTROL_LINE];

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	if (!o.pid)
		return control_list();
	if (o.permissions)
		return map_permissions(o.pid, o.vm, o.svg);
	snprintf(request, sizeof(request), "map vm=%u\n", o.vm);
	return ask(o.pid, request);
}

static unsigned what(const struct options *o)
{
	unsigned flags = (o->engine ? GW_DUMP_ENGINE : 0) | (o->has_block ? GW_DUMP_BLOCK : 0);

	return flags ? flags : GW_DUMP_REGS | GW_DUMP_RING | GW_DUMP_CODE | (o->has_walk ? GW_DUMP_WALK : 0);
}

int dump_main(int argc, char **argv)
{
	static const struct argp argp = { rows, parse, "[PID]",
		"Show the registers, last events and code of a running VM's CPU, how it translates an address, and what became of its code. "
		"Without PID, list the processes that run VMs.", NULL, NULL, NULL };
	struct options o = { 0 };
	char request[GW_CONTROL_LINE];

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	if (!o.pid)
		return control_list();
	if (o.has_walk && o.has_block) {
		fprintf(stderr, "guestward: --walk and --block are two questions: ask one at a time\n");
		return STATUS_USAGE;
	}
	snprintf(request, sizeof(request), "dump vm=%u cpu=%u flags=%x gva=%llx\n", o.vm, o.cpu, what(&o),
		 (unsigned long long)(o.has_block ? o.block : o.walk));
	return ask(o.pid, request);
}
