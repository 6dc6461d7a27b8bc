/* SPDX-License-Identifier: MIT */
/*
 * The differential tester: the same instruction on the same state, executed by the host CPU and by the engine.
 *
 * form.c lists the forms (row x mode x size x register or memory x prefixes), gen.c makes cases of a form, native.c runs cases
 * on the CPU in a sandboxed child, engine.c runs them in a vCPU, compare.c says what must be equal, main.c counts.
 *
 * Both sides see the same linear addresses, at CPL 3, in 64-bit, compatibility and 16-bit protected mode: a code page followed by nothing, and data pages
 *	DIFF_DATA - 4096  nothing | read-write | read-write | read-only | nothing
 */
#ifndef GW_TESTS_DIFF_H
#define GW_TESTS_DIFF_H

#include "cpu/vcpu.h"

#define DIFF_CODE	0x10000000ull
#define DIFF_DATA	0x20000000ull
#define DIFF_RW_SIZE	0x2000u
#define DIFF_DATA_SIZE	0x3000u
#define DIFF_GS_BASE	0x1230ull
/* 16-bit code runs in segments of its own: CS is the code page, DS, ES and SS start at DIFF_DATA and end in the guard page. */
#define DIFF_CS16	0x07u
#define DIFF_DS16	0x0fu
#define DIFF_CS16_LIMIT	0xfffu
#define DIFF_DS16_LIMIT	0x37ffu
#define DIFF_X_SIZE	832u		/* legacy region, header, AVX */
#define DIFF_PATCH	640u

struct diff_form {
	uint16_t row;
	uint8_t mode;		/* enum insn_mode */
	bool p66, w, l, mem, lock;
	uint8_t rep;		/* 0, 0xF2, 0xF3 */
	bool tested;
	uint32_t cases, wrong, faulted;
};

struct diff_case {
	uint32_t form;
	uint8_t code[16], len, mode;
	bool restarts;		/* may stop at itself half done: repeated strings, gathers */
	bool at_end;		/* the code ends with its page ... */
	uint8_t beyond;		/* ... or this many bytes lie beyond it */
	uint64_t gpr[16];
	uint32_t flags;
	uint16_t patch_off, patch_len;	/* initial bytes of the data pages that differ from the pattern */
	uint8_t patch[DIFF_PATCH];
	_Alignas(64) uint8_t x[DIFF_X_SIZE];	/* standard XSAVE image */
};

struct diff_result {
	bool done;		/* false: could not be run to an end */
	bool fault;
	uint8_t vector;
	uint32_t error;
	uint64_t cr2;
	uint64_t gpr[16], rip;
	uint32_t flags;
	_Alignas(64) uint8_t x[DIFF_X_SIZE];
	uint8_t mem[DIFF_RW_SIZE];
};

struct rng { uint64_t s; };
static inline uint64_t rnd(struct rng *r)
{
	uint64_t z = r->s += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}
static inline unsigned below(struct rng *r, unsigned n) { return (unsigned)((rnd(r) >> 32) * n >> 32); }
static inline bool chance(struct rng *r, unsigned percent) { return below(r, 100) < percent; }

/* Linear; RIP in results is linear too. */
static inline uint64_t diff_start(const struct diff_case *k)
{
	return DIFF_CODE + (k->at_end ? 4096u - k->len + k->beyond : 0x100u);
}

/* Offset of linear address @la in the data segments of @mode. */
static inline uint64_t diff_offset(unsigned mode, uint64_t la) { return mode == INSN_MODE_16 ? la - DIFF_DATA : la; }

/* form.c */
unsigned diff_forms(struct diff_form **out, const bool *features);
bool diff_is_excluded(unsigned op);
const char *diff_family(const struct insn_row *row);
/* gen.c: false, this form cannot be encoded (no such form). */
bool diff_generate(const struct diff_form *f, struct rng *r, struct diff_case *k);
bool diff_encode(const struct diff_form *f, struct rng *r, uint64_t target, struct diff_case *k, struct insn *in);
void diff_random_state(struct rng *r, struct diff_case *k);
/* The fixed contents of the data pages. */
const uint8_t *diff_pattern(void);
/* native.c */
int diff_native_init(void);
void diff_native_run(const struct diff_case *k, struct diff_result *r, unsigned n);
#define DIFF_BATCH	128u
/* engine.c */
int diff_engine_init(void);
const bool *diff_features(void);
void diff_engine_run(const struct diff_case *k, struct diff_result *r, bool alone);
/* compare.c: NULL when equal, else what differs. */
const char *diff_compare(const struct diff_case *k, const struct insn *in, const struct diff_result *native, const struct diff_result *engine);

#endif
