/* SPDX-License-Identifier: MIT */
/*
 * `guestward xen -- program args...`: runs a program written for Xen's libraries on the stand-ins that are beside this command. The
 * dynamic linker finds them first; a preloaded library answers for the files under /sys/hypervisor by which such programs recognise
 * their host.
 */
#include "xen.h"

#include <argp.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "exit_codes.h"
#include "run.h"

#define HOST_NAME	"libguestward-xenhost.so"

static const char *const places[] = { "../xen/", "../" GUESTWARD_LIBDIR "/guestward/xen/", "../lib/guestward/xen/" };

static int find_folder(char folder[PATH_MAX], struct err *err)
{
	static char self[PATH_MAX], try[PATH_MAX + 128];	/* large, and there is one call */
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n < 0)
		return err_set(err, "cannot find this program's own file: %s", strerror(errno));
	self[n] = 0;
	*(strrchr(self, '/') + 1) = 0;
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		snprintf(try, sizeof(try), "%s%s" HOST_NAME, self, places[i]);
		if (!realpath(try, folder))
			continue;
		*strrchr(folder, '/') = 0;
		return strpbrk(folder, ": ") ? err_set(err, "the dynamic linker cannot use a path with a space or a colon: %s", folder) : 0;
	}
	return err_set(err, "cannot find " HOST_NAME " beside this program: is it installed?");
}

static int put_first(const char *name, const char *value, struct err *err)
{
	static char list[2 * PATH_MAX + 4096];
	const char *others = getenv(name);

	if ((size_t)snprintf(list, sizeof(list), "%s%s%s", value, others && *others ? ":" : "", others ? others : "") >= sizeof(list))
		return err_set(err, "%s is too long", name);
	return setenv(name, list, 1) ? err_set(err, "cannot set %s: %s", name, strerror(errno)) : 0;
}

static int prepare(struct err *err)
{
	static char folder[PATH_MAX], host[PATH_MAX + 64];

	if (find_folder(folder, err))
		return -1;
	snprintf(host, sizeof(host), "%s/" HOST_NAME, folder);
	return put_first("LD_LIBRARY_PATH", folder, err) || put_first("LD_PRELOAD", host, err) ? -1 : 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	char ***program = state->input;

	(void)arg;
	switch (key) {
	case ARGP_KEY_ARG:
		*program = state->argv + state->next - 1;
		state->next = state->argc;
		return 0;
	case ARGP_KEY_END:
		if (!*program)
			argp_error(state, "which program? For example: guestward xen -- /usr/lib/xen-4.17/bin/xen-access PID write");
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

int xen_main(int argc, char **argv)
{
	static const struct argp argp = {
		.parser = parse, .args_doc = "[--] PROGRAM [ARGUMENT...]",
		.doc = "Run a monitor written for Xen's libraries (xen-access, LibVMI) on a VM of Guestward. A domain id is the process id of "
		       "whoever runs the VM.",
	};
	char **program = NULL;
	static char path[PATH_MAX];
	struct err err;

	argp_err_exit_status = STATUS_USAGE;
	argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &program);
	if (run_find_program(program[0], path, sizeof(path), &err) || run_check_program(path, &err) || prepare(&err)) {
		fprintf(stderr, "guestward xen: %s\n", err.text);
		return STATUS_FAILED;
	}
	execv(path, program);
	fprintf(stderr, "guestward xen: cannot run '%s': %s\n", path, strerror(errno));
	return STATUS_FAILED;
}
