/* SPDX-License-Identifier: MIT */
/*
 * Ports and device memory of the small machine: ranges, each with a device behind it. Filled before the first vCPU runs and
 * constant from then on, so lookups take no lock; a device that several vCPUs can reach locks itself.
 * An access that no device answers reads as all ones and is dropped on write, as on a PC.
 */
#ifndef TOOL_BUS_H
#define TOOL_BUS_H

#include <stdint.h>

struct bus_ops {
	const char *name;
	/* @offset from the start of the range; @len 1, 2, 4 or 8, may reach past the end of the range. Never NULL. */
	void (*read)(void *device, uint64_t offset, uint8_t *data, unsigned len);
	void (*write)(void *device, uint64_t offset, const uint8_t *data, unsigned len);
};

struct bus_range {
	uint64_t start, size;
	const struct bus_ops *ops;
	void *device;
};

#define BUS_RANGES_MAX 32u

struct bus {
	struct bus_range ranges[BUS_RANGES_MAX];
	unsigned n;
};

/* -1: full, or the range overlaps another (a mistake of the machine's builder, not of its user). */
int bus_add(struct bus *bus, uint64_t start, uint64_t size, const struct bus_ops *ops, void *device);

void bus_read(const struct bus *bus, uint64_t address, uint8_t *data, unsigned len);
void bus_write(const struct bus *bus, uint64_t address, const uint8_t *data, unsigned len);

/* How a device raises its interrupt: the level of one line. Safe from any thread. */
struct irq_line {
	void (*set)(void *machine, unsigned gsi, int level);
	void *machine;
	unsigned gsi;
};

static inline void irq_set(const struct irq_line *line, int level)
{
	line->set(line->machine, line->gsi, level);
}

#endif
