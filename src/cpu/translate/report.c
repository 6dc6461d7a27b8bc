/* SPDX-License-Identifier: MIT */
/*
 * What the translator did, as text: how much of the guest ran translated and what did not, and the code of one unit beside
 * the guest's. Runs on the vCPU's thread, or while that does not run; changes nothing. docs/engine.md says how to read it.
 */
#include <stdarg.h>
#include <stdio.h>

#include "cpu/translate/private.h"

struct out {
	void (*line)(void *opaque, const char *text);
	void *opaque;
};

static void __attribute__((format(printf, 2, 3))) say(const struct out *o, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	o->line(o->opaque, text);
}

/* ---- shares ------------------------------------------------------------------------------------------------------------ */

static double percent(uint64_t part, uint64_t whole)
{
	return whole ? 100.0 * (double)part / (double)whole : 0;
}

#define TOP_FORMS	12u

static void top_forms(const struct out *o, const struct translator *k, uint64_t all)
{
	bool told[N_INSN_OPS] = { false };

	for (unsigned n = 0; n < TOP_FORMS; n++) {
		unsigned best = 0;

		for (unsigned op = 0; op < N_INSN_OPS; op++)
			if (!told[op] && k->by_form[op] > k->by_form[best])
				best = op;
		if (!k->by_form[best] || told[best])
			return;
		told[best] = true;
		say(o, "engine: by handler: %-12s %12llu %8.4f %%", insn_op_name(best), (unsigned long long)k->by_form[best],
		    percent(k->by_form[best], all));
	}
}

void tr_report(const struct vcpu *c, void (*line)(void *opaque, const char *text), void *opaque)
{
	const struct out o = { line, opaque };
	const struct translator *k = c->translator;
	const struct cpu_stats *s = &c->stats;
	uint64_t in_units = s->tr_insns < s->insns ? s->tr_insns : s->insns;
	uint64_t forms = s->tr_forms < in_units ? s->tr_forms : in_units;

	if (!k) {
		say(&o, "engine: interp, %llu instructions", (unsigned long long)s->insns);
		return;
	}
	say(&o, "engine: translate hot=%u code=%u MiB (%u KiB used)%s%s", k->hot, k->size >> 20, k->used >> 10, k->chain ? "" : " no-chain",
	    k->tlb ? "" : " no-tlb");
	say(&o, "engine: %llu instructions: %.4f %% translated, %.4f %% in blocks not translated, %.4f %% in forms not translated",
	    (unsigned long long)s->insns, percent(in_units - forms, s->insns), percent(s->insns - in_units, s->insns), percent(forms, s->insns));
	say(&o, "engine: %llu translated instructions went to their handler once because the probe or the branch cache missed (%.4f %%)",
	    (unsigned long long)(s->tr_ones - s->tr_form_ones), percent(s->tr_ones - s->tr_form_ones, s->insns));
	top_forms(&o, k, s->insns);
}

/* ---- a unit ------------------------------------------------------------------------------------------------------------ */

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

/* Fields of the vCPU that units touch, for the margin. */
static const struct { size_t at, size; const char *name; } fields[] = {
#define FIELD(f) { offsetof(struct vcpu, f), sizeof(((struct vcpu *)0)->f), #f }
	FIELD(acc.attention), FIELD(acc.cpl), FIELD(acc.mode), FIELD(acc.cr4), FIELD(eflags), FIELD(intr_blocked), FIELD(gpr), FIELD(cc), FIELD(cc_recipe), FIELD(tr_kept), FIELD(tr_flags), FIELD(seg_base), FIELD(tr_left), FIELD(tr_vec), FIELD(acc.fetch),
	FIELD(acc.stamp), FIELD(acc.tlb), FIELD(verify_epoch), FIELD(fpu), FIELD(rip),
#undef FIELD
};

static void field_name(char *text, size_t size, uint64_t disp)
{
	text[0] = 0;
	for (unsigned i = 0; i < N_OF(fields); i++) {
		size_t in = disp - fields[i].at;

		if (disp < fields[i].at || in >= fields[i].size)
			continue;
		if (fields[i].at == offsetof(struct vcpu, gpr))
			snprintf(text, size, "  ; gpr[%zu]", in / 8);
		else if (fields[i].at == offsetof(struct vcpu, acc.tlb))
			snprintf(text, size, "  ; tlb[%zu].%c%s", in / sizeof(struct acc_tlb),
				 in % sizeof(struct acc_tlb) < offsetof(struct acc_tlb, w) ? 'r' : 'w', in & 8 ? " addend" : " tag");
		else
			snprintf(text, size, "  ; %s+%zu", fields[i].name, in);
	}
}

/* What the jump at offset @at of the code leads to, if it is not inside the unit. */
static void target_name(char *text, size_t size, const struct translator *k, const struct tr_unit *t, uint32_t to)
{
	const struct { uint32_t at; const char *name; } routines[] = {
		{ k->at.one, "one" }, { k->at.edge, "edge" }, { k->at.entry, "entry" }, { k->at.stale, "stale" }, { k->at.bail, "bail" },
		{ k->at.indirect, "indirect" }, { k->at.resume, "resume" }, { k->at.load_vec[1], "load_vec" }, { k->at.load_vec[2], "load_vec" }, { k->at.save_vec, "save_vec" },
		{ k->at.miss, "miss" },
	};

	text[0] = 0;
	for (unsigned i = 0; i < N_OF(routines); i++)
		if (routines[i].at == to) {
			snprintf(text, size, "  ; routine %s", routines[i].name);
			return;
		}
	for (unsigned i = 0; i < t->n_links; i++) {
		const struct tr_unit *u = t->link[i].to;

		if (u && (to == u->mapped || to == u->body))
			snprintf(text, size, "  ; unit of %llx, %s", (unsigned long long)u->rip,
				 to == u->mapped ? "mapped" : "body");
	}
}

static void host_code(const struct out *o, const struct translator *k, const struct tr_unit *t, uint32_t from, uint32_t to)
{
	struct insn in;
	char text[128], note[64];

	for (uint32_t at = from; at < to; at += in.len) {
		unsigned avail = to - at < INSN_MAX_LEN ? to - at : INSN_MAX_LEN;

		if (insn_decode(k->rx + at, avail, INSN_MODE_64, false, NULL, &in) != INSN_OK) {
			say(o, "    %06x  (byte %02x)", at, k->rx[at]);
			in.len = 1;
			continue;
		}
		insn_format(&in, at, text, sizeof(text));
		note[0] = 0;
		if (in.has_mem && in.seg == SEG_GS)
			field_name(note, sizeof(note), (uint64_t)in.disp);
		else if (in.op == I_JMP_NEAR || in.op == I_CALL_NEAR || in.op == I_JCC)
			target_name(note, sizeof(note), k, t, at + in.len + (uint32_t)in.imm);
		say(o, "    %06x  %s%s", at, text, note);
	}
}

static void guest_insn(const struct out *o, const struct tr_unit *t, unsigned n)
{
	const struct tr_part *p = tr_part_of(t, n);
	const struct cpu_op *op = &p->b->op[n - p->first];
	struct insn in;
	char text[128];

	if (insn_decode(p->b->bytes + op->off, p->b->n_bytes - op->off < INSN_MAX_LEN ? p->b->n_bytes - op->off : INSN_MAX_LEN, INSN_MODE_64,
			false, NULL, &in) != INSN_OK)
		return;
	insn_format(&in, p->rip + op->off, text, sizeof(text));
	say(o, "%016llx  %s%s", (unsigned long long)p->rip + op->off, text, t->by_handler >> n & 1 ? "  (by its handler)" : "");
}

static void unit(const struct out *o, const struct translator *k, const struct tr_unit *t)
{
	static const char *const modes[] = { "kernel", "kernel with AC", "user" };

	say(o, "block: unit %u of %llx, %s, %u instructions, %u bytes at %06x%s", t->index, (unsigned long long)t->rip,
	    t->mode < N_OF(modes) ? modes[t->mode] : "?", t->n, t->end - t->mapped, t->mapped, t->dead ? ", dead" : "");
	say(o, "mapped: has anything moved since this was looked at?");
	host_code(o, k, t, t->mapped, t->body);
	say(o, "body: count; leave when the budget is used up");
	host_code(o, k, t, t->body, t->mapped + t->at[0]);
	for (unsigned n = 0; n < t->n; n++) {
		guest_insn(o, t, n);
		host_code(o, k, t, t->mapped + t->at[n], t->mapped + t->at[n + 1]);
	}
	say(o, "out of line: where probes missed and host faults go, then the unlinked ends");
	host_code(o, k, t, t->mapped + t->at[t->n], t->end);
}

static bool contains(const struct tr_unit *t, uint64_t la)
{
	for (unsigned i = 0; i < t->n_parts; i++)
		if (la - t->part[i].rip < t->part[i].b->n_bytes)
			return true;
	return false;
}

void tr_report_block(const struct vcpu *c, uint64_t la, void (*line)(void *opaque, const char *text), void *opaque)
{
	const struct out o = { line, opaque };
	const struct translator *k = c->translator;
	unsigned found = 0;

	for (unsigned i = 0; k && i < k->n_units; i++) {
		const struct tr_unit *t = k->unit[i];

		if (t->dead || !contains(t, la))
			continue;
		unit(&o, k, t);
		found++;
	}
	if (!found)
		say(&o, "block: no translated code of %llx on this CPU", (unsigned long long)la);
}
