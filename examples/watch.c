/* SPDX-License-Identifier: MIT */
/* A monitor of one's own, whole: this, calls.c and session.h, and no library. Usage: watch PID [--exec | --syscalls] [--vm=N] [--count=N] [--json] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calls.h"

static int usage(void)
{
	fprintf(stderr, "Usage: watch PID [--exec | --syscalls] [--vm=N] [--count=N] [--json]\n");
	return 2;
}

int main(int argc, char **argv)
{
	struct calls_options options = { 0 };
	unsigned vm = 0;
	int err;

	if (argc < 2 || atoi(argv[1]) <= 0)
		return usage();
	for (int i = 2; i < argc; i++) {
		if (!strcmp(argv[i], "--syscalls"))
			options.all = true;
		else if (!strcmp(argv[i], "--json"))
			options.json = true;
		else if (sscanf(argv[i], "--vm=%u", &vm) != 1 && sscanf(argv[i], "--count=%lu", &options.count) != 1 && strcmp(argv[i], "--exec"))
			return usage();
	}
	err = calls_watch(atoi(argv[1]), vm, &options);
	if (err)
		fprintf(stderr, "watch: process %s: %s\n", argv[1], strerror(-err));
	return err != 0;
}
