/* SPDX-License-Identifier: MIT */
/*
 * Little-endian numbers at any alignment, for file formats and guest structures. The host is little-endian (x86-64 only);
 * these exist for alignment and aliasing, and read the memory once. No bounds: the caller has checked them.
 */
#ifndef TOOL_BYTES_H
#define TOOL_BYTES_H

#include <stdint.h>
#include <string.h>

static inline uint16_t get16(const void *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint32_t get32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint64_t get64(const void *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline void put16(void *p, uint16_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline void put32(void *p, uint32_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline void put64(void *p, uint64_t v)
{
	memcpy(p, &v, sizeof(v));
}

/* Is [offset, offset + len) inside size bytes? Safe for every value, overflow included. */
static inline int range_ok(uint64_t offset, uint64_t len, uint64_t size)
{
	return offset <= size && len <= size - offset;
}

#endif
