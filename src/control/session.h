/* SPDX-License-Identifier: MIT */
/* A monitor's connection: commands one after the other until it ends, on a thread of its own. */
#ifndef GW_CONTROL_SESSION_H
#define GW_CONTROL_SESSION_H

#include <stdbool.h>

/* Takes over @fd if it returns true. @vm_fd < 0: there is no such VM. */
bool control_session(int fd, int vm_fd);

#endif
