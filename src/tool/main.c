/* SPDX-License-Identifier: MIT */
/* The guestward command: finds the subcommand's row and calls it. */
#include <argp.h>
#include <stdio.h>
#include <string.h>

#include "boot.h"
#include "check.h"
#include "dump.h"
#include "exit_codes.h"
#include "run.h"
#include "watch.h"
#include "xen.h"

static int help_main(int argc, char **argv);
static int version_main(int argc, char **argv);

static const struct subcommand {
	const char *name;
	int (*main)(int argc, char **argv);
	const char *summary;		/* NULL: not shown */
} subcommands[] = {
	{ "boot", boot_main, "boot a Linux kernel in a small machine on this terminal" },
	{ "check", check_main, "what this host offers, and why something would be slow" },
	{ "dump", dump_main, "show a running VM: registers, events, code, a page walk" },
	{ "map", map_main, "show a running VM's memory: private, shared, permissions" },
	{ "run", run_main, "run a program that uses /dev/kvm, such as QEMU" },
	{ "watch", watch_main, "follow what kernel integrity denies and seals in a running VM" },
	{ "xen", xen_main, "run a monitor written for Xen's libraries, such as xen-access" },
	{ "help", help_main, "this text" },
	{ "version", version_main, "the version" },
};

static const struct subcommand *find_subcommand(const char *name);

#define N_SUBCOMMANDS (sizeof(subcommands) / sizeof(subcommands[0]))

static void print_usage(FILE *to)
{
	size_t i;

	fprintf(to, "Usage: guestward COMMAND [OPTION...]\n"
		    "Virtual machines without /dev/kvm, behind KVM's own interface.\n\n");
	for (i = 0; i < N_SUBCOMMANDS; i++)
		if (subcommands[i].summary)
			fprintf(to, "  %-10s %s\n", subcommands[i].name, subcommands[i].summary);
	fprintf(to, "\n'guestward COMMAND --help' has the options; guestward(1) the whole manual.\n");
}

/* "help run" is "run --help". */
static int help_main(int argc, char **argv)
{
	const struct subcommand *of = argc > 1 ? find_subcommand(argv[1]) : NULL;
	char full_name[64], option[] = "--help", *args[] = { full_name, option, NULL };

	if (argc > 1 && !of) {
		fprintf(stderr, "guestward: there is no command '%s'; see 'guestward help'\n", argv[1]);
		return STATUS_USAGE;
	}
	if (!of || of->main == help_main || of->main == version_main) {
		print_usage(stdout);
		return STATUS_OK;
	}
	snprintf(full_name, sizeof(full_name), "guestward %s", of->name);
	return of->main(2, args);
}

static int version_main(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	printf("guestward %s\n", GUESTWARD_VERSION);
	return STATUS_OK;
}

static const struct subcommand *find_subcommand(const char *name)
{
	size_t i;

	if (!strcmp(name, "--help") || !strcmp(name, "-h"))
		name = "help";
	if (!strcmp(name, "--version") || !strcmp(name, "-V"))
		name = "version";
	for (i = 0; i < N_SUBCOMMANDS; i++)
		if (!strcmp(name, subcommands[i].name))
			return &subcommands[i];
	return NULL;
}

int main(int argc, char **argv)
{
	const struct subcommand *subcommand;
	char full_name[64];

	if (argc < 2) {
		print_usage(stderr);
		return STATUS_USAGE;
	}
	subcommand = find_subcommand(argv[1]);
	if (!subcommand) {
		fprintf(stderr, "guestward: there is no command '%s'; see 'guestward help'\n", argv[1]);
		return STATUS_USAGE;
	}
	/* argp and our messages show this name. */
	snprintf(full_name, sizeof(full_name), "guestward %s", subcommand->name);
	argv[1] = full_name;
	return subcommand->main(argc - 1, argv + 1);
}
