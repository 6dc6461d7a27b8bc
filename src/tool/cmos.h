/* SPDX-License-Identifier: MIT */
/*
 * The CMOS clock at ports 0x70 and 0x71: tells the time (UTC) to a kernel without kvmclock. The time is the host's and
 * cannot be set; there are no alarms and no interrupts; the rest of its memory is plain storage.
 */
#ifndef TOOL_CMOS_H
#define TOOL_CMOS_H

#include <pthread.h>
#include <time.h>

#include "bus.h"

#define CMOS_PORT 0x70u

struct cmos {
	pthread_mutex_t lock;
	uint8_t index;
	uint8_t bytes[128];
};

extern const struct bus_ops cmos_ops;	/* two ports from CMOS_PORT */

void cmos_init(struct cmos *c);

/* One register at a given time, as a guest reads it; for tests. */
uint8_t cmos_register(const struct cmos *c, unsigned index, const struct tm *now);

#endif
