/* SPDX-License-Identifier: MIT */
/* Names the system calls of a running guest, by the session interface alone. */
#ifndef GW_EXAMPLES_CALLS_H
#define GW_EXAMPLES_CALLS_H

#include <stdbool.h>

struct calls_options {
	bool all;		/* every system call; otherwise the programs that start */
	bool json;
	unsigned long count;	/* so many, and leave; 0: until SIGINT or SIGTERM, or the VM's end */
};

/* Prints a line a call. @pid: who runs the VM (guestward boot, QEMU under guestward run). 0, or -errno: nothing is left behind in either case. */
int calls_watch(int pid, unsigned vm, const struct calls_options *options);

#endif
