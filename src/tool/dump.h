/* SPDX-License-Identifier: MIT */
/* `guestward dump`: ask a running VM what it looks like. */
#ifndef TOOL_DUMP_H
#define TOOL_DUMP_H

int dump_main(int argc, char **argv);
int map_main(int argc, char **argv);

#endif
