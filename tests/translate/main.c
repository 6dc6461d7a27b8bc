/* SPDX-License-Identifier: MIT */
/*
 * The interpreter against the translator: random programs (program.c), run by both from the same state. Compared are every exit
 * from the engine at the same number of instructions, every page fault on the way, and the end.
 *
 *	GW_LOCKSTEP=n		programs (default 10000)
 *	GW_LOCKSTEP_SEED=n	other ones; with GW_LOCKSTEP=1 the one that was printed
 *	-v			print the program of each difference, without what it does not need
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/op.h"
#include "program.h"

/* ---- reporting ------------------------------------------------------------------------------------------------------------------------- */

/* Replace by NOPs what is not needed for the difference. */
static void shrink(struct rig *oracle, struct rig *rig, struct rig_program *p)
{
	static struct rig_result a, b;
	static struct rig_program q;
	struct insn in;

	for (unsigned off = 0; off < p->len; off += in.len) {
		if (insn_decode(p->code + off, p->len - off, INSN_MODE_64, false, NULL, &in) != INSN_OK)
			return;
		q = *p;
		memset(q.code + off, 0x66, in.len);	/* as long, and one instruction */
		q.code[off + in.len - 1] = 0x90;
		rig_run(oracle, &q, &a);
		rig_run(rig, &q, &b);
		if (off + in.len < p->len && rig_compare(p, &a, &b))
			*p = q;
	}
	rig_run(oracle, p, &a);
	rig_run(rig, p, &b);
	printf("# shrunk: %s\n", rig_compare(p, &a, &b));
}

/* Every end of a block, or an instruction, that the interpreter comes to. The same program again is not run again. */
static const struct rig_result *trail_of(struct rig *oracle, const struct rig_program *p, uint32_t slice)
{
	static struct rig_program q;
	static struct rig_result r;

	if (q.slice != slice || q.len != p->len || q.flags != p->flags || memcmp(q.code, p->code, p->len) || memcmp(q.gpr, p->gpr, sizeof(q.gpr))) {
		q = *p;
		q.slice = slice;
		rig_run(oracle, &q, &r);
	}
	return &r;
}

/* Units may begin, and be left, within a block of the interpreter's: behind an access that its group could not make. */
static const char *exits_differ(struct rig *oracle, const struct rig_program *p, const struct rig_result *b, unsigned *found)
{
	const char *why = rig_compare_exits(trail_of(oracle, p, 1), b, found);

	return why ? rig_compare_exits(trail_of(oracle, p, RIG_EACH), b, found) : NULL;
}

/*
 * Programs that found a fault, run first: a carry in RFLAGS taken for one put away, and one put away that was not there any more; LAHF
 * of flags that a recipe made; and one of this test.
 */
static const uint64_t once_wrong[] = { 169641, 265123, 657106, 89536, 238008319 };

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *s = getenv(name);

	return s ? strtoull(s, NULL, 0) : otherwise;
}

static void free_all(struct rig *oracle, struct rig *const *rig, size_t n)
{
	rig_free(oracle);
	for (size_t e = 0; e < n; e++)
		rig_free(rig[e]);
}

static bool say(bool ok, size_t number, const char *what, uint64_t count)
{
	printf("%sok %zu - %s (%llu)\n", ok ? "" : "not ", number, what, (unsigned long long)count);
	return ok;
}

int main(int argc, char **argv)
{
	static const char *const engines[] = { "translate,hot=1", "translate,hot=3", "translate,hot=1,no-chain", "translate,hot=1,no-tlb",
					       "translate,hot=1,code=1" };
	uint64_t n = number("GW_LOCKSTEP", 10000), seed = number("GW_LOCKSTEP_SEED", 1), flushes;
	unsigned wrong[ARRAY_SIZE(engines)] = { 0 }, ended = 0, exits = 0;
	struct rig *oracle, *rig[ARRAY_SIZE(engines)];
	static struct rig_program p;
	static struct rig_result a, b;
	bool verbose = argc > 1 && !strcmp(argv[1], "-v"), bad = false;

	oracle = rig_new("interp");
	for (unsigned e = 0; e < ARRAY_SIZE(engines); e++)
		rig[e] = rig_new(engines[e]);
	if (!oracle || !rig[0]) {
		printf("Bail out! no memory\n");
		return 1;
	}
	if (!rig_vcpu(rig[0])->translator) {
		printf("1..0 # SKIP no translator in this build or on this host\n");
		free_all(oracle, rig, ARRAY_SIZE(engines));
		return 0;
	}
	program_forms(rig_features(oracle));
	printf("1..%zu\n", ARRAY_SIZE(engines) + 3);
	for (uint64_t i = 0; i < n; i++, seed++) {
		uint64_t made_of = i < ARRAY_SIZE(once_wrong) && !getenv("GW_LOCKSTEP_SEED") ? once_wrong[i] : seed;

		program_make(&p, made_of, NULL, 0);
		rig_run(oracle, &p, &a);
		ended += a.vector == VEC_GP && a.rip == DIFF_CODE + p.len - 1;
		for (unsigned e = 0; e < ARRAY_SIZE(engines); e++) {
			const char *why;

			if (e && i % ARRAY_SIZE(engines) != e)
				continue;
			rig_run(rig[e], &p, &b);
			why = rig_compare(&p, &a, &b);
			if (!why && p.slice < RIG_LONG)
				why = exits_differ(oracle, &p, &b, &exits);
			if (!why)
				continue;
			printf("# %s, seed %llu: %s\n", engines[e], (unsigned long long)made_of, why);
			if (verbose) {
				shrink(oracle, rig[e], &p);
				program_print(&p);
			}
			if (++wrong[e] == 20)
				n = 0;
		}
	}
	for (unsigned e = 0; e < ARRAY_SIZE(engines); e++) {
		printf("%sok %u - the interpreter and GUESTWARD_ENGINE=%s end all programs alike\n", wrong[e] ? "not " : "", e + 1, engines[e]);
		bad |= wrong[e];
	}
	/* A test in which every program dies early, nothing is ever evicted and no exit compared tests nothing. */
	flushes = rig_vcpu(rig[ARRAY_SIZE(engines) - 1])->stats.tr_flushes;
	bad |= !say(ended * 5 > n, ARRAY_SIZE(engines) + 1, "enough programs come to their end", ended);
	bad |= !say(exits > n, ARRAY_SIZE(engines) + 2, "enough exits on the way are compared", exits);
	bad |= !say(n < 10000 || flushes > 2, ARRAY_SIZE(engines) + 3, "a full code cache is emptied and used again", flushes);
	free_all(oracle, rig, ARRAY_SIZE(engines));
	return bad;
}
