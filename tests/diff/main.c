/* SPDX-License-Identifier: MIT */
/*
 * Runs the cases, prints one TAP line a family and a table, and can write the numbers for docs/conformance.md.
 *
 *	GW_DIFF_CASES=n		cases a form (default 40)
 *	GW_DIFF_FAMILY=n	at least so many cases a family, spread over its forms
 *	GW_DIFF_SEED=n		other cases
 *	GW_DIFF_JSON=file	numbers of every family
 *	arguments: names of operations or families to run alone, or -v to print every difference
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/op.h"
#include "diff.h"

#define MAX_FAMILIES	80u
#define SHOWN		8u	/* differences printed a form, without -v */

struct family {
	const char *name;
	unsigned forms, runnable, host_forms, tested, host_tested, excluded, lacking;
	uint64_t cases, faulted, unrunnable, wrong;
};

static struct diff_form *forms;
static unsigned n_forms;
static struct family families[MAX_FAMILIES];
static unsigned n_families;
static bool verbose;
static unsigned shown;

static struct family *family_of(const struct diff_form *f)
{
	const char *name = diff_family(&insn_rows[f->row]);
	unsigned i;

	for (i = 0; i < n_families; i++)
		if (!strcmp(families[i].name, name))
			return &families[i];
	if (n_families == MAX_FAMILIES)
		exit(2);
	families[n_families].name = name;
	return &families[n_families++];
}

static void print_case(const struct diff_case *k, const struct insn *in, const char *why)
{
	char name[96];

	insn_format(in, diff_start(k), name, sizeof(name));
	printf("# %s [", name);
	for (unsigned i = 0; i < k->len; i++)
		printf("%s%02x", i ? " " : "", k->code[i]);
	printf("]%s%s: %s\n", k->mode == INSN_MODE_64 ? "" : k->mode == INSN_MODE_32 ? " 32-bit" : " 16-bit", k->at_end ? k->beyond ? " across the page end" : " at the page end" : "", why);
	if (!verbose)
		return;
	printf("#   rax %llx rcx %llx rdx %llx rsp %llx rbp %llx rsi %llx rdi %llx flags %x; operand at %x:", (unsigned long long)k->gpr[0],
	       (unsigned long long)k->gpr[1], (unsigned long long)k->gpr[2], (unsigned long long)k->gpr[4], (unsigned long long)k->gpr[5],
	       (unsigned long long)k->gpr[6], (unsigned long long)k->gpr[7], k->flags, k->patch_off);
	for (unsigned i = 0; i < k->patch_len; i++)
		printf("%s%02x", i % 8 ? "" : " ", k->patch[i]);
	printf("\n");
}

static void check(const struct diff_case *k, const struct diff_result *native, bool alone)
{
	static struct diff_result engine;
	struct diff_form *f = &forms[k->form];
	struct family *fam = family_of(f);
	const char *why;
	struct insn in;

	if (!native->done) {
		fam->unrunnable++;
		return;
	}
	diff_engine_run(k, &engine, alone);
	insn_decode(k->code, k->len, k->mode, false, NULL, &in);
	why = diff_compare(k, &in, native, &engine);
	f->cases++;
	fam->cases++;
	fam->faulted += native->fault;
	if (!why)
		return;
	f->wrong++;
	fam->wrong++;
	if (verbose || (f->wrong <= 2 && shown++ < 400))
		print_case(k, &in, why);
}

static void run_batch(struct diff_case *k, unsigned n, struct rng *r)
{
	static struct diff_result out[DIFF_BATCH];

	diff_native_run(k, out, n);
	for (unsigned i = 0; i < n; i++)
		check(&k[i], &out[i], chance(r, 30));
}

static bool is_wanted(const struct diff_form *f, int argc, char **argv)
{
	const struct insn_row *row = &insn_rows[f->row];
	bool any = false;

	for (int i = 1; i < argc; i++) {
		if (argv[i][0] == '-')
			continue;
		any = true;
		if (!strcmp(argv[i], row->name) || !strcmp(argv[i], diff_family(row)))
			return true;
	}
	return !any;
}

static void write_json(const char *path)
{
	FILE *out = fopen(path, "w");

	if (!out) {
		printf("# cannot write %s\n", path);
		return;
	}
	fprintf(out, "[\n");
	for (unsigned i = 0; i < n_families; i++) {
		const struct family *f = &families[i];

		fprintf(out, "{\"family\": \"%s\", \"forms\": %u, \"tested\": %u, \"host_forms\": %u, \"host_tested\": %u, \"excluded\": %u, "
			"\"lacking\": %u, \"cases\": %llu, \"faulted\": %llu, \"different\": %llu}%s\n", f->name, f->forms, f->tested, f->host_forms,
			f->host_tested, f->excluded, f->lacking, (unsigned long long)f->cases, (unsigned long long)f->faulted,
			(unsigned long long)f->wrong, i + 1 < n_families ? "," : "");
	}
	fprintf(out, "]\n");
	fclose(out);
}

/* The row's class says who could; the integer interpreter takes some of them (BMI, ADX) in C. */
static bool is_host_executed(const struct diff_form *f)
{
	struct rng r = { f->row };
	struct cpu_op o = { .fn = NULL };
	struct diff_case k;
	struct insn in;

	if (insn_rows[f->row].cls == IC_INT)
		return false;
	for (unsigned i = 0; i < 12; i++)
		if (diff_encode(f, &r, DIFF_DATA + 64, &k, &in))
			return !cpu_lower_int(&in, &o);
	return false;
}

static void count_forms(void)
{
	for (unsigned i = 0; i < n_forms; i++) {
		const struct insn_row *row = &insn_rows[forms[i].row];
		struct family *fam = family_of(&forms[i]);
		bool host = is_host_executed(&forms[i]);

		fam->forms++;
		fam->host_forms += host;
		if (forms[i].tested) {
			fam->tested += forms[i].cases > 0;
			fam->host_tested += host && forms[i].cases > 0;
		} else if (diff_is_excluded(row->op)) {
			fam->excluded++;
		} else {
			fam->lacking++;
		}
	}
}

static int report(void)
{
	struct family all = { .name = "all" };
	int bad = 0;

	printf("# %-12s %6s %6s %6s %6s %6s %8s %8s %6s\n", "family", "forms", "tested", "host", "excl", "lack", "cases", "faults", "differ");
	for (unsigned i = 0; i < n_families; i++) {
		const struct family *f = &families[i];

		printf("# %-12s %6u %6u %6u %6u %6u %8llu %8llu %6llu\n", f->name, f->forms, f->tested, f->host_tested, f->excluded, f->lacking,
		       (unsigned long long)f->cases, (unsigned long long)f->faulted, (unsigned long long)f->wrong);
		all.forms += f->forms;
		all.tested += f->tested;
		all.host_tested += f->host_tested;
		all.excluded += f->excluded;
		all.lacking += f->lacking;
		all.cases += f->cases;
		all.unrunnable += f->unrunnable;
		all.wrong += f->wrong;
	}
	printf("# %-12s %6u %6u %6u %6u %6u %8llu %8s %6llu; %llu cases could not be run\n", "all", all.forms, all.tested, all.host_tested,
	       all.excluded, all.lacking, (unsigned long long)all.cases, "", (unsigned long long)all.wrong, (unsigned long long)all.unrunnable);
	printf("1..%u\n", n_families);
	for (unsigned i = 0; i < n_families; i++) {
		const struct family *f = &families[i];
		bool ok = !f->wrong && (f->cases || f->tested == 0);

		bad += !ok;
		printf("%sok %u - %s: %llu cases on %u of %u forms, %llu differ from the CPU%s\n", ok ? "" : "not ", i + 1, f->name,
		       (unsigned long long)f->cases, f->tested, f->forms, (unsigned long long)f->wrong, f->tested ? "" : " # SKIP none can be run here");
	}
	return bad != 0;
}

/* A form's share. Some cases cannot be encoded, so a family gets more than it needs. */
static uint64_t cases_of(const struct diff_form *f, unsigned per_form, uint64_t per_family)
{
	uint64_t share = per_family * 3 / 2 / family_of(f)->runnable;

	return share > per_form ? share : per_form;
}

int main(int argc, char **argv)
{
	static struct diff_case batch[DIFF_BATCH];
	const char *cases = getenv("GW_DIFF_CASES"), *seed = getenv("GW_DIFF_SEED"), *json = getenv("GW_DIFF_JSON"), *family = getenv("GW_DIFF_FAMILY");
	unsigned per_form = cases ? (unsigned)atoi(cases) : 40, n = 0;
	uint64_t per_family = family ? strtoull(family, NULL, 0) : 0;
	struct rng r = { seed ? strtoull(seed, NULL, 0) : 1 };

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 1; i < argc; i++)
		verbose |= !strcmp(argv[i], "-v");
	if (diff_native_init() || diff_engine_init()) {
		printf("Bail out! cannot set up\n");
		return 1;
	}
	n_forms = diff_forms(&forms, diff_features());
	for (unsigned i = 0; i < n_forms; i++)
		family_of(&forms[i])->runnable += forms[i].tested;
	for (unsigned i = 0; i < n_forms; i++) {
		if (!forms[i].tested || !is_wanted(&forms[i], argc, argv))
			continue;
		for (uint64_t j = cases_of(&forms[i], per_form, per_family); j; j--) {
			batch[n].form = i;
			if (!diff_generate(&forms[i], &r, &batch[n]))
				continue;
			if (++n == DIFF_BATCH) {
				run_batch(batch, n, &r);
				n = 0;
			}
		}
	}
	run_batch(batch, n, &r);
	count_forms();
	if (json)
		write_json(json);
	return report();
}
