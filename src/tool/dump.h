/* SPDX-License-Identifier: MIT */
/* `guestward dump`: ask a running VM what it looks like. */
#ifndef TOOL_DUMP_H
#define TOOL_DUMP_H

int dump_main(int argc, char **argv);
int map_main(int argc, char **argv);

/* To the control socket of a process; -1: there is none. */
int control_connect(int pid);
/* Prints the processes that can be asked; the exit status. */
int control_list(void);

#endif
