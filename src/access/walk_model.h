/* SPDX-License-Identifier: MIT */
/*
 * Two more, naive opinions about page walks, for tests only: written from the manual's tables and lists, without regard to speed
 * and without looking at walk.c. The second is by another author than the first and walk.c, so that they share no misreading.
 */
#ifndef GW_ACCESS_WALK_MODEL_H
#define GW_ACCESS_WALK_MODEL_H

#include <stdbool.h>
#include <stdint.h>

struct model_cpu {
	bool pg, wp;				/* CR0 */
	bool pse, pae, la57, smep, smap, pke, pks;	/* CR4 */
	bool lma, nxe;				/* EFER */
	bool ac;				/* EFLAGS */
	uint64_t cr3, pdptr[4];
	uint32_t pkru, pkrs;
	unsigned maxphyaddr;
};

struct model_access {
	uint64_t la;
	bool read, write, fetch;
	bool cpl3;
	bool implicit;		/* supervisor whatever the CPL */
	bool stack;
};

struct model_result {
	int vector;		/* -1: no fault */
	uint32_t error;
	uint64_t gpa;
};

/* @memory: guest-physical memory from 0, @size bytes; A and D are set in it. What lies beyond reads as not present. */
struct model_result model_walk(const struct model_cpu *c, const struct model_access *a, uint8_t *memory, uint64_t size);
struct model_result model2_walk(const struct model_cpu *c, const struct model_access *a, uint8_t *memory, uint64_t size);

#endif
