/* SPDX-License-Identifier: MIT */
/* `guestward check`: what this host offers. */
#ifndef TOOL_CHECK_H
#define TOOL_CHECK_H

int check_main(int argc, char **argv);

#endif
