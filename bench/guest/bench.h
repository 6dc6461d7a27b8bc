/* SPDX-License-Identifier: MIT */
/*
 * The benchmark program: one static binary, run natively and as /init of a guest, so that both execute the same bytes.
 *
 * A test runs @n units and returns a checksum; deterministic ones must give the same checksum everywhere for the same n.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdint.h>

struct bench {
	const char *name;
	const char *group;	/* int, mem, fp, crypto, copy, os, misc; smp: only when asked for */
	const char *unit;
	uint64_t (*run)(uint64_t n);
	uint64_t check_n;	/* units of the checksum run; 0: not deterministic */
};

extern const struct bench bench_int[], bench_mem[], bench_fp[], bench_crypto[], bench_os[], bench_smp[];

/* Keep a value alive; forget what is known of memory. */
#define KEEP(x) __asm__ volatile("" : : "g"(x) : "memory")

static inline uint32_t bench_rand(uint32_t *s)
{
	*s = *s * 1664525u + 1013904223u;
	return *s >> 8;
}

#endif
