/* SPDX-License-Identifier: MIT */
/* The log sink: one function pointer, set by the client, called with one finished line. */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

#include "guestward/guestward.h"

static _Atomic(gw_log_fn *) sink;
static _Atomic(void *) sink_opaque;

void gw_set_log(gw_log_fn *fn, void *opaque)
{
	atomic_store(&sink_opaque, opaque);
	atomic_store(&sink, fn);
}

void gw_log(enum gw_log_level level, const char *fmt, ...)
{
	gw_log_fn *fn = atomic_load(&sink);
	char line[512];
	va_list ap;

	if (!fn)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	fn(atomic_load(&sink_opaque), level, line);
}
