/* SPDX-License-Identifier: MIT */
/*
 * `guestward watch [PID]`: asks the control socket again and again for what has happened since, and prints it: a line a thing for
 * people, or JSON. A source of events is a row: its request (with vm= and seq=), and what makes a line of its answer into one of ours.
 * With --exec or --syscalls it is a monitor instead, the one in examples/.
 */
#include "watch.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <guestward/control.h>
#include <guestward/kvm.h>

#include "calls.h"
#include "dump.h"
#include "exit_codes.h"
#include "symbols.h"

struct watch { int pid; unsigned vm; bool json, once, colour, is_monitor; struct calls_options calls; const char *symbols_file; struct symbols symbols; uint64_t seq; };

/* ---- the socket -------------------------------------------------------------------------------------------------------- */

char *control_answer(int pid, const char *request)
{
	int fd = control_connect(pid);
	char *text = NULL, buf[4096];
	size_t len = 0;
	ssize_t n;
	FILE *f;

	if (fd < 0)
		return NULL;
	f = open_memstream(&text, &len);
	if (!f || write(fd, request, strlen(request)) < 0) {
		perror("guestward");
	} else {
		while ((n = read(fd, buf, sizeof(buf))) > 0)
			fwrite(buf, 1, (size_t)n, f);
	}
	close(fd);
	if (f)
		fclose(f);
	if (text && !strncmp(text, "error: ", 7)) {
		fprintf(stderr, "guestward: %s", text + 7);
		free(text);
		return NULL;
	}
	return text;
}

/* ---- kernel integrity ---------------------------------------------------------------------------------------------------- */

struct event { uint64_t seq, gpa, gva, value, rip; unsigned kind, cpu, reason, access, attributes, repeat; char hash[65]; };

static const struct kind { const char *name, *colour; } kinds[] = {
	[GW_HEKI_EV_DENIED] = { "denied", "1;31" }, [GW_HEKI_EV_PINNED] = { "pinned", "36" }, [GW_HEKI_EV_PROTECTED] = { "protected", "36" },
	[GW_HEKI_EV_LOCKED] = { "locked", "1;32" }, [GW_HEKI_EV_SEALED] = { "sealed", "33" }, [GW_HEKI_EV_RELEASED] = { "released", "2" },
	[GW_HEKI_EV_POKED] = { "patched", "2" }, [GW_HEKI_EV_REFUSED] = { "refused", "31" }, [GW_HEKI_EV_CLIENT] = { "client", "36" },
	[GW_HEKI_EV_DEFECT] = { "defect", "35" }, [GW_HEKI_EV_FIRMWARE] = { "firmware", "36" },
};

static bool parse_event(const char *line, struct event *e)
{
	return sscanf(line, "%" SCNu64 " %u %u %x %x %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %x %u %64s", &e->seq, &e->kind, &e->cpu, &e->reason,
		      &e->access, &e->gpa, &e->gva, &e->value, &e->rip, &e->attributes, &e->repeat, e->hash) == 12 &&
	       e->kind < sizeof(kinds) / sizeof(kinds[0]);
}

static const char *what_of(const struct event *e)
{
	if (e->reason == KVM_HEKI_EXIT_REASON_CR0 || e->reason == KVM_HEKI_EXIT_REASON_CR4 || e->reason == KVM_HEKI_EXIT_REASON_REG)
		return "register";
	if (e->access & GW_HEKI_ACCESS_DMA)
		return "device write";
	if (e->access & GW_HEKI_ACCESS_PV)
		return "hypervisor write";
	if (e->access & GW_HEKI_ACCESS_X)
		return "execution";
	return e->access & GW_HEKI_ACCESS_W ? "write" : "read";
}

static void json_event(const struct watch *w, const struct event *e)
{
	char who[128], where[128];

	symbols_name(&w->symbols, e->rip, who, sizeof(who));
	symbols_name(&w->symbols, e->gva, where, sizeof(where));
	printf("{\"seq\":%" PRIu64 ",\"kind\":\"%s\",\"cpu\":%u,\"what\":\"%s\",\"reason\":%u,\"access\":%u,\"gpa\":\"0x%" PRIx64 "\",\"gva\":\"0x%" PRIx64
	       "\",\"value\":\"0x%" PRIx64 "\",\"rip\":\"0x%" PRIx64 "\",\"attributes\":%u,\"repeat\":%u,\"rip_name\":\"%s\",\"gva_name\":\"%s\",\"sha256\":\"%s\"}\n",
	       e->seq, kinds[e->kind].name, e->cpu, e->kind == GW_HEKI_EV_DENIED ? what_of(e) : "", e->reason, e->access, e->gpa, e->gva, e->value, e->rip,
	       e->attributes, e->repeat, who, where, e->kind == GW_HEKI_EV_SEALED ? e->hash : "");
}

static void text_event(const struct watch *w, const struct event *e)
{
	const struct kind *k = &kinds[e->kind];
	char who[128], where[128];
	time_t now = time(NULL);
	struct tm tm;

	localtime_r(&now, &tm);
	symbols_name(&w->symbols, e->rip, who, sizeof(who));
	symbols_name(&w->symbols, e->gva, where, sizeof(where));
	printf("%02d:%02d:%02d ", tm.tm_hour, tm.tm_min, tm.tm_sec);
	printf(w->colour ? "\033[%sm%-9s\033[0m cpu %u " : "%.0s%-9s cpu %u ", k->colour, k->name, e->cpu);
	switch (e->kind) {
	case GW_HEKI_EV_DENIED:
		if (e->reason == KVM_HEKI_EXIT_REASON_MEM)
			printf("%s at %016" PRIx64 "%s%s physical %" PRIx64, what_of(e), e->gva, where[0] ? " " : "", where, e->gpa);
		else
			printf("write of %" PRIx64 " to %s%" PRIx64, e->value, e->reason == KVM_HEKI_EXIT_REASON_REG ? "locked register " : "CR", e->gpa);
		printf(" by %016" PRIx64 "%s%s", e->rip, who[0] ? " " : "", who);
		break;
	case GW_HEKI_EV_PINNED:
		printf("CR%" PRIu64 " bits %" PRIx64, e->gpa, e->value);
		break;
	case GW_HEKI_EV_LOCKED:
		printf("%" PRIu64 " pages of text from %" PRIx64, e->value, e->gpa);
		break;
	case GW_HEKI_EV_SEALED:
		printf("%016" PRIx64 " physical %" PRIx64 " sha256 %s", e->gva, e->gpa, e->hash);
		break;
	case GW_HEKI_EV_REFUSED:
		printf("error %" PRId64, (int64_t)e->value);
		break;
	default:
		printf("%016" PRIx64 "%s%s physical %" PRIx64 " value %" PRIx64, e->gva, where[0] ? " " : "", where, e->gpa, e->value);
	}
	if (e->repeat)
		printf(" and %u times more", e->repeat);
	putchar('\n');
}

static void heki_line(struct watch *w, const char *line)
{
	struct event e;

	if (!parse_event(line, &e))
		return;
	if (w->seq && e.seq > w->seq + 1)
		fprintf(stderr, "guestward: %" PRIu64 " events were lost: too many at once\n", e.seq - w->seq - 1);
	w->seq = e.seq;
	(w->json ? json_event : text_event)(w, &e);
}

/* ---- sources ------------------------------------------------------------------------------------------------------------- */

static const struct source { const char *request; void (*line)(struct watch *w, const char *line); } sources[] = {
	{ "heki-events", heki_line },
};

/* False: the VM is gone, or does not answer. */
static bool look(struct watch *w)
{
	for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++) {
		char request[GW_CONTROL_LINE], *text, *line, *rest;

		snprintf(request, sizeof(request), "%s vm=%u seq=%" PRIu64 "\n", sources[i].request, w->vm, w->seq);
		text = control_answer(w->pid, request);
		if (!text)
			return false;
		for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
			sources[i].line(w, line);
		free(text);
	}
	return fflush(stdout) == 0;
}

/* ---- the subcommand -------------------------------------------------------------------------------------------------------- */

static const struct argp_option rows[] = {
	{ "vm", 'v', "N", 0, "which VM of the process (default 0)", 0 },
	{ "json", 'j', NULL, 0, "one JSON object a line", 0 },
	{ "symbols", 's', "FILE", 0, "System.map or a copy of /proc/kallsyms: names for addresses", 0 },
	{ "exec", 'e', NULL, 0, "name the programs that the guest starts, instead", 0 },
	{ "syscalls", 'c', NULL, 0, "show all its system calls, instead", 0 },
	{ "count", 'n', "N", 0, "end after so many of either", 0 },
	{ "once", 'o', NULL, 0, "what the log holds now, and end", 0 },
	{ 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct watch *w = state->input;
	char *end;

	switch (key) {
	case 'v': w->vm = (unsigned)strtoul(arg, NULL, 10); return 0;
	case 'j': w->json = true; return 0;
	case 'e': w->is_monitor = true; return 0;
	case 'c': w->is_monitor = w->calls.all = true; return 0;
	case 'n':
		w->calls.count = strtoul(arg, &end, 10);
		if (*end || !w->calls.count)
			argp_error(state, "'%s' is no number of lines", arg);
		return 0;
	case 'o': w->once = true; return 0;
	case 's': w->symbols_file = arg; return 0;
	case ARGP_KEY_ARG:
		w->pid = (int)strtol(arg, &end, 10);
		if (*end || w->pid <= 0)
			argp_error(state, "'%s' is not a process", arg);
		return 0;
	default: return ARGP_ERR_UNKNOWN;
	}
}

static int watch_calls(struct watch *w)
{
	int err;

	w->calls.json = w->json;
	err = calls_watch(w->pid, w->vm, &w->calls);
	if (!err)
		return STATUS_OK;
	fprintf(stderr, "guestward: cannot watch process %d: %s\n", w->pid, err == -EBUSY ? "another monitor is there" : strerror(-err));
	return STATUS_FAILED;
}

int watch_main(int argc, char **argv)
{
	static const struct argp argp = { rows, parse, "[PID]",
		"Follow what kernel integrity denies, seals and lets be patched in a running VM, until the VM ends. "
		"With --exec or --syscalls, be a monitor that names what runs in it. "
		"Without PID, list the processes that run VMs.", NULL, NULL, NULL };
	static const struct timespec pause = { .tv_nsec = 200000000 };
	struct watch w = { 0 };
	struct err err;

	argp_parse(&argp, argc, argv, 0, NULL, &w);
	if (!w.pid)
		return control_list();
	if (w.is_monitor)
		return watch_calls(&w);
	if (w.symbols_file && symbols_read(&w.symbols, w.symbols_file, &err) < 0) {
		fprintf(stderr, "guestward: %s\n", err.text);
		return STATUS_FAILED;
	}
	w.colour = !w.json && isatty(STDOUT_FILENO) && !getenv("NO_COLOR");
	if (!look(&w)) {
		fprintf(stderr, "guestward: process %d has no VM to watch; 'guestward watch' lists those that have\n", w.pid);
		symbols_free(&w.symbols);
		return STATUS_FAILED;
	}
	while (!w.once && look(&w))
		nanosleep(&pause, NULL);
	symbols_free(&w.symbols);
	return STATUS_OK;
}
