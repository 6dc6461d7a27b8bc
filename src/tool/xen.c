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
#include <string.h>
#include <unistd.h>

#include "exit_codes.h"
#include "run.h"

#define HOST_NAME	"libguestward-xenhost.so"

static const char *const places[] = { "../xen/", "../" GUESTWARD_LIBDIR "/guestward/xen/", "../lib/guestward/xen/", NULL };

static int prepare(struct err *err)
{
	static char host[PATH_MAX], folder[PATH_MAX];

	if (run_find_beside(places, HOST_NAME, host, err) || run_put_first("LD_PRELOAD", host, err))
		return -1;
	snprintf(folder, sizeof(folder), "%.*s", (int)(strrchr(host, '/') - host), host);
	return run_put_first("LD_LIBRARY_PATH", folder, err);
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
