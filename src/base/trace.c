/* SPDX-License-Identifier: MIT */
/* Trace points: the switch, and the line. */
#include "base/trace.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

uint8_t gw_trace_enabled[GW_N_TRACE_POINTS];

static const struct { const char *name, *group; } points[] = {
#define X(name, group, fmt) { #name, #group },
#include "base/trace_points.def"
#undef X
};

void gw_trace_emit(enum gw_trace_point point, int vcpu, uint64_t insns, const char *fmt, ...)
{
	char text[384];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	gw_log(GW_LOG_DEBUG, "vcpu=%d insns=%llu point=%s %s", vcpu, (unsigned long long)insns, points[point].name, text);
}

static bool word_is(const char *word, size_t len, const char *name)
{
	return strlen(name) == len && !memcmp(word, name, len);
}

bool gw_trace_set(const char *words)
{
	uint8_t want[GW_N_TRACE_POINTS] = { 0 };

	while (*words) {
		size_t len = strcspn(words, ",");
		bool found = !len;

		for (unsigned i = 0; i < GW_N_TRACE_POINTS; i++) {
			if (!len || !(word_is(words, len, "all") || word_is(words, len, points[i].group) ||
				      word_is(words, len, points[i].name)))
				continue;
			want[i] = 1;
			found = true;
		}
		if (!found)
			return false;
		words += len;
		words += *words == ',';
	}
	for (unsigned i = 0; i < GW_N_TRACE_POINTS; i++)
		__atomic_store_n(&gw_trace_enabled[i], want[i], __ATOMIC_RELAXED);
	return true;
}

static void read_env(void)
{
	const char *words = getenv("GUESTWARD_TRACE");

	if (words && !gw_trace_set(words))
		gw_log(GW_LOG_WARN, "GUESTWARD_TRACE: unknown trace point or group in \"%s\"", words);
}

void gw_trace_from_env(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, read_env);
}
