/* SPDX-License-Identifier: MIT */
/* `guestward xen`: a program for Xen's libraries, on the stand-ins. */
#ifndef TOOL_XEN_H
#define TOOL_XEN_H

/* The subcommand: returns the exit status, and only when the program could not be started. */
int xen_main(int argc, char **argv);

#endif
