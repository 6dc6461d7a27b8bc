/* SPDX-License-Identifier: MIT */
/* --stats: this machine's exit counters, and what the engine tells by KVM_GET_STATS_FD. One `name value` per line. */
#ifndef TOOL_STATS_H
#define TOOL_STATS_H

#include <stdio.h>

#include "machine.h"

/* After machine_join, before machine_destroy. */
void stats_print(FILE *to, struct machine *m, double seconds);

#endif
