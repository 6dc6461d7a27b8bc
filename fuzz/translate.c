/* SPDX-License-Identifier: MIT */
/*
 * Programs of one page made from the input, by the interpreter and by the translator (tests/translate). The first byte chooses how it
 * translates, eight more seed what the rest does not decide; every two bytes after that are one decision. Aborts on a difference.
 * Build without sanitizers: with them there is no translator, and a target that finds nothing says so.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/op.h"
#include "program.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const engines[] = { "translate,hot=1", "translate,hot=2", "translate,hot=1,no-chain", "translate,hot=1,code=1" };

static struct rig *oracle, *rig[ARRAY_SIZE(engines)];

static void prepare(void)
{
	oracle = rig_new("interp");
	for (unsigned e = 0; e < ARRAY_SIZE(engines); e++)
		rig[e] = rig_new(engines[e]);
	if (!oracle || !rig[ARRAY_SIZE(engines) - 1]) {
		fprintf(stderr, "fuzz-translate: no memory\n");
		exit(2);
	}
	if (!rig_vcpu(rig[0])->translator) {
		printf("fuzz-translate: no translator in this build or on this host: nothing to compare\n");
		exit(77);
	}
	program_forms(rig_features(oracle));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct rig_program p;
	static struct rig_result a, b;
	const char *why;
	unsigned e, found = 0;
	uint64_t seed;

	if (!oracle)
		prepare();
	if (size < 9)
		return 0;
	e = data[0] % ARRAY_SIZE(engines);
	memcpy(&seed, data + 1, sizeof(seed));
	program_make(&p, seed, data + 9, size - 9);
	rig_run(oracle, &p, &a);
	rig_run(rig[e], &p, &b);
	why = rig_compare(&p, &a, &b);
	if (!why && p.slice < RIG_LONG) {
		p.slice = 1;
		rig_run(oracle, &p, &a);
		why = rig_compare_exits(&a, &b, &found);
		/* Units may begin, and be left, within a block of the interpreter's. */
		if (why) {
			p.slice = RIG_EACH;
			rig_run(oracle, &p, &a);
			why = rig_compare_exits(&a, &b, &found);
		}
	}
	if (why) {
		printf("%s: %s\n", engines[e], why);
		program_print(&p);
		fflush(stdout);
		abort();
	}
	return 0;
}
