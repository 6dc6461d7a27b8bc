/* SPDX-License-Identifier: MIT */
/*
 * The shadow of STI, at every instruction at which the clock can stop a guest: KVM_RUN's loop (cpu_run) with nothing around it, kicked
 * after CPU_POLL_INSNS instructions and a few more, in a loop of STI and CLI that is begun at every phase. Where interrupts are enabled and the
 * instruction after STI has not been executed, the shadow must be there: else an NMI or an interrupt would be taken. Nothing here
 * depends on time.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../diff/bare.h"
#include "../diff/diff.h"
#include "cpu/sys/sys.h"

#define KICKS		40u
#define PHASES		64u

/* Every other time the guest goes on, for a few instructions only: less than its next block has, or just as many. */
static bool kick(struct vcpu *v)
{
	static unsigned n;

	if (n++ & 1)
		return true;
	v->poll_at = v->stats.insns + n / 2 % 13;
	return false;
}

/* After the NOPs of the phase: the loop, STI first. What follows STI is another block, and longer than one instruction. */
struct form { const char *name, *code; unsigned len, sti, after; };

static const struct form forms[] = {
	{ "before a register instruction", "\xfb\x90\x48\xff\xc0\xfa\xeb\xf8", 8, 0, 1 },
	{ "before a memory access", "\xfb\x48\x8b\x07\x48\xff\xc0\xfa\xeb\xf6", 10, 0, 1 },
	{ "at the end of a block", "\xfb\xeb\x00\x90\x48\xff\xc0\xfa\xeb\xf6", 10, 0, 1 },
	{ "before a string instruction", "\x31\xc9\xfb\xf3\xaa\x90\xfa\xeb\xf7", 9, 2, 3 },
};

static void load(struct bare *b, const struct form *f, unsigned phase)
{
	uint8_t *code = b->ram + BARE_CODE;

	memset(code, 0x90, 4096);
	memcpy(code + phase, f->code, f->len);
	cpu_memory_touched(&b->c);
	memset(b->c.gpr, 0, sizeof(b->c.gpr));
	b->c.gpr[RDI] = DIFF_DATA;
	b->c.rip = DIFF_CODE;
	b->c.shadow = 0;
	cpu_set_eflags(&b->c, 2);
	memset(&b->c.ev, 0, sizeof(b->c.ev));
}

/* How often the guest stopped behind STI, and how often without a shadow. */
static bool run(struct bare *b, const struct form *f, unsigned phase, unsigned *met, unsigned *wrong)
{
	uint64_t after = DIFF_CODE + phase + f->after;

	load(b, f, phase);
	for (unsigned i = 0; i < KICKS; i++) {
		if (cpu_run(&b->c) != CPU_EXIT_KICKED)
			return false;
		if (b->c.rip != after || !(b->c.eflags & FLAG_IF))
			continue;
		++*met;
		*wrong += !b->c.shadow;
	}
	return true;
}

int main(void)
{
	struct bare *b = bare_pages(0x100000, DIFF_CODE, DIFF_DATA);
	struct cpu_env env;
	bool bad = false;
	unsigned all = 0;

	if (!b) {
		printf("Bail out! no memory\n");
		return 1;
	}
	bare_kernel_mode(&b->c);
	env = *b->c.env;
	env.poll = kick;
	b->c.env = &env;
	printf("1..%zu\n", ARRAY_SIZE(forms) + 1);
	for (unsigned i = 0; i < ARRAY_SIZE(forms); i++) {
		unsigned met = 0, wrong = 0;
		bool ran = true;

		for (unsigned phase = 0; phase < PHASES && ran; phase++)
			ran = run(b, &forms[i], phase, &met, &wrong);
		bad |= !ran || wrong;
		all += met;
		printf("%sok %u - STI %s holds interrupts off wherever the clock stops it (%u times behind it, %u without a shadow)\n",
		       !ran || wrong ? "not " : "", i + 1, forms[i].name, met, wrong);
	}
	bad |= !all;
	printf("%sok %zu - some stops are behind STI (%u)\n", all ? "" : "not ", ARRAY_SIZE(forms) + 1, all);
	bare_fini(b);
	free(b);
	return bad;
}
