/* SPDX-License-Identifier: MIT */
/*
 * Trace points: rows of trace_points.def, each off by default at the cost of one load and branch. What is on goes to the log
 * sink as one key=value line. The per-vCPU ring (cpu/ring.h) is another thing: always on, never formatted until a VM dies.
 */
#ifndef GW_BASE_TRACE_H
#define GW_BASE_TRACE_H

#include "base/types.h"

enum gw_trace_point {
#define X(name, group, fmt) GW_TP_##name,
#include "base/trace_points.def"
#undef X
	GW_N_TRACE_POINTS,
};

/* The formats as arrays, so that the compiler checks the arguments of each gw_trace(). */
#define X(name, group, fmt) __attribute__((unused)) static const char gw_trace_fmt_##name[] = fmt;
#include "base/trace_points.def"
#undef X

/* Written by gw_trace_set() only, atomically; a racing reader prints a line more or less. */
extern uint8_t gw_trace_enabled[GW_N_TRACE_POINTS];

__attribute__((format(printf, 4, 5)))
void gw_trace_emit(enum gw_trace_point point, int vcpu, uint64_t insns, const char *fmt, ...);

/* gw_trace(slot, -1, 0, ...): arguments as the row's format wants them; not evaluated when the point is off. */
#define gw_trace(name, vcpu, insns, ...) do {									\
		if (unlikely(__atomic_load_n(&gw_trace_enabled[GW_TP_##name], __ATOMIC_RELAXED)))				\
			gw_trace_emit(GW_TP_##name, vcpu, insns, gw_trace_fmt_##name, __VA_ARGS__);			\
	} while (0)

/* Comma-separated groups or points, "all", or "" for none. False: an unknown word, nothing changed. */
bool gw_trace_set(const char *words);

/* Once: the words of the environment variable GUESTWARD_TRACE. */
void gw_trace_from_env(void);

#endif
