/* SPDX-License-Identifier: MIT */
/* `guestward watch`: the live log of a running VM; and the picture of its memory by permission. */
#ifndef TOOL_WATCH_H
#define TOOL_WATCH_H

int watch_main(int argc, char **argv);

/* On the terminal; @svg not NULL: into that file instead. The exit status. */
int map_permissions(int pid, unsigned vm, const char *svg);

/* The whole answer to one request line, or NULL (said on standard error). The caller frees it. */
char *control_answer(int pid, const char *request);

#endif
