/* SPDX-License-Identifier: MIT */
/*
 * Two processors with nothing around them, one that interprets and one that translates, given the same programs at CPL 3.
 *
 * Linear memory, the same in both:
 *	DIFF_CODE		code, a page that can be read and executed
 *	DIFF_DATA		two pages read-write, one read-only; what lies around them comes into being when it is touched
 *	RIG_OWN			a page for the program's own counters and stack
 * A fault on the read-only page makes it writable and one beside the pages maps a page, so that programs go on after faults.
 */
#ifndef GW_TESTS_TRANSLATE_RIG_H
#define GW_TESTS_TRANSLATE_RIG_H

#include "../diff/diff.h"

#define RIG_OWN		0x20010000ull
#define RIG_EACH	0u	/* a slice of one instruction; 1: of one block */
#define RIG_LONG	100000u	/* a slice that no program fills */
#define RIG_CODE_MAX	4096u
#define RIG_FAULTS	24u
#define RIG_EXITS	4096u

struct rig_program {
	uint8_t code[RIG_CODE_MAX];
	unsigned len;
	uint64_t gpr[16];
	uint32_t flags;
	_Alignas(64) uint8_t x[DIFF_X_SIZE];
	uint32_t slice;		/* instructions between two looks at the clock: ends units at many places; more than a block has */
};

struct rig_result {
	bool done;		/* came to an end */
	uint8_t vector;		/* the exception that ended it */
	uint32_t error;
	uint64_t gpr[16], rip, cr2;
	uint32_t flags;
	unsigned n_faults;
	struct { uint64_t rip, cr2; uint32_t error; uint64_t sum; } fault[RIG_FAULTS];	/* page faults on the way */
	/* Where the clock stopped it, the first of them, with a sum of the registers. */
	unsigned n_exits;
	struct { uint64_t rip, sum; } exit[RIG_EXITS];
	_Alignas(64) uint8_t x[DIFF_X_SIZE];
	uint8_t mem[6 * 4096];	/* from DIFF_DATA - 4096 on, then RIG_OWN */
};

struct rig;
/* @engine: what GUESTWARD_ENGINE says. NULL: out of memory, or no translator here. */
struct rig *rig_new(const char *engine);
void rig_free(struct rig *g);
const bool *rig_features(const struct rig *g);
struct vcpu *rig_vcpu(struct rig *g);
void rig_run(struct rig *g, const struct rig_program *p, struct rig_result *r);
/* NULL: equal. Else what differs. */
const char *rig_compare(const struct rig_program *p, const struct rig_result *a, const struct rig_result *b);
/*
 * The exits of a translated run @b against all ends of blocks that the interpreter came to, @a being a run with a slice of 1 or RIG_EACH: where it
 * has been at the place, it has been there in that state, in the same order. Adds those found to *found.
 */
const char *rig_compare_exits(const struct rig_result *a, const struct rig_result *b, unsigned *found);

#endif
