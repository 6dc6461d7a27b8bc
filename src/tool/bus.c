/* SPDX-License-Identifier: MIT */
/* See bus.h. */
#include "bus.h"

#include <string.h>

int bus_add(struct bus *bus, uint64_t start, uint64_t size, const struct bus_ops *ops, void *device)
{
	unsigned i;

	if (bus->n == BUS_RANGES_MAX)
		return -1;
	for (i = 0; i < bus->n; i++)
		if (start < bus->ranges[i].start + bus->ranges[i].size && bus->ranges[i].start < start + size)
			return -1;
	bus->ranges[bus->n++] = (struct bus_range){ start, size, ops, device };
	return 0;
}

static const struct bus_range *find(const struct bus *bus, uint64_t address)
{
	unsigned i;

	for (i = 0; i < bus->n; i++)
		if (address >= bus->ranges[i].start && address - bus->ranges[i].start < bus->ranges[i].size)
			return &bus->ranges[i];
	return NULL;
}

void bus_read(const struct bus *bus, uint64_t address, uint8_t *data, unsigned len)
{
	const struct bus_range *r = find(bus, address);

	memset(data, 0xff, len);
	if (r)
		r->ops->read(r->device, address - r->start, data, len);
}

void bus_write(const struct bus *bus, uint64_t address, const uint8_t *data, unsigned len)
{
	const struct bus_range *r = find(bus, address);

	if (r)
		r->ops->write(r->device, address - r->start, data, len);
}
