/* SPDX-License-Identifier: MIT */
/*
 * "Forget before the call returns" as a table of functions, so that one driver (forget_test.c) can attack both the model
 * (forget_model.c: the idea, without the engine) and the real thing (forget_real.c: access/).
 *
 * The memory: SHAPE_PAGES pages whose right to be written is taken away and given back, and one more page that is never
 * forbidden but moves between two places. Each vCPU, and the host's device thread, has a cell of its own in every page, so
 * that any write that races with another is a broken promise, which the thread sanitizer sees, too.
 */
#ifndef GW_TESTS_SHAPE_PROTOCOL_H
#define GW_TESTS_SHAPE_PROTOCOL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define SHAPE_CPUS	4
#define SHAPE_PAGES	6
#define SHAPE_MOVING	SHAPE_PAGES	/* number of the page that moves */
#define SHAPE_HOST	SHAPE_CPUS	/* the device thread's cell */
#define SHAPE_CELLS	(SHAPE_CPUS + 1)

struct world {
	_Atomic bool granted[SHAPE_PAGES + 1];
	void *impl;
};

struct protocol {
	const char *name;
	bool (*create)(struct world *w);
	void (*destroy)(struct world *w);
	void (*enter)(struct world *w, unsigned cpu);
	void (*leave)(struct world *w, unsigned cpu);
	bool (*wanted)(struct world *w, unsigned cpu);
	void (*safe_point)(struct world *w, unsigned cpu);
	/* From a signal handler: attention, nothing else. */
	void (*kick)(struct world *w, unsigned cpu);
	/* Add 1 to the cell of @cpu in @page by a remembered right, or ask. False: refused. */
	bool (*store)(struct world *w, unsigned cpu, unsigned page);
	/* The same from the device thread, which remembers nothing. */
	bool (*host_store)(struct world *w, unsigned page);
	/* All forget the right to write @page. @cpu < 0: the caller is no vCPU. */
	void (*forget)(struct world *w, int cpu, unsigned page);
	/* The moving page goes to its other place; returns where it was. */
	volatile uint64_t *(*move)(struct world *w);
	void (*exclusive_begin)(struct world *w, unsigned cpu);
	void (*exclusive_end)(struct world *w, unsigned cpu);
	/* The SHAPE_CELLS cells of a page, 8 words apart. */
	volatile uint64_t *(*cells)(struct world *w, unsigned page);
};

#define SHAPE_CELL(cells, i)	(&(cells)[(i) * 8])

extern const struct protocol shape_model, shape_real;

#endif
