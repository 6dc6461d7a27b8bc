/* SPDX-License-Identifier: MIT */
/* Answers about kernel integrity, written as text. 0 or -errno. */
#ifndef GW_CONTROL_HEKI_H
#define GW_CONTROL_HEKI_H

#include <stdint.h>
#include <stdio.h>

long control_heki_events(int vm_fd, uint64_t seq, FILE *to);
long control_heki_map(int vm_fd, FILE *to);

#endif
