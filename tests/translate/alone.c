/* SPDX-License-Identifier: MIT */
/*
 * Instructions run alone only where there is a reason: not after SYSCALL, SYSRET or an exception through the IDT with nothing
 * armed; all of them while the guest steps, and then each is stepped over that should be.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../diff/bare.h"
#include "../diff/diff.h"
#include "cpu/sys/sys.h"

#define IDT	(DIFF_DATA + 0x100)
#define GDT	(DIFF_DATA + 0x800)
#define HANDLER	(DIFF_CODE + 0x800)
#define STEPPED	(DIFF_CODE + 0x900)

static unsigned n_tests;
static bool is_bad;

static void say(bool ok, const char *what)
{
	printf("%sok %u - %s\n", ok ? "" : "not ", ++n_tests, what);
	is_bad |= !ok;
}

static void gate(struct bare *b, unsigned vector, uint64_t to)
{
	uint64_t g[2] = { (to & 0xffff) | 8u << 16 | 0x8eull << 40 | (to >> 16 & 0xffff) << 48, to >> 32 };

	memcpy(b->ram + BARE_DATA + (IDT - DIFF_DATA) + 16 * vector, g, 16);
}

/* Code ends by HLT. #UD is stepped over by its handler; each #DB counts in R8. */
static void load(struct bare *b, const char *code, size_t len)
{
	struct vcpu *c = &b->c;
	uint64_t descriptors[4] = { 0, 0x00209b0000000000, 0x0000930000000000, 0 };

	memset(b->ram + BARE_CODE, 0xf4, GW_PAGE_SIZE);
	memcpy(b->ram + BARE_CODE, code, len);
	memcpy(b->ram + BARE_CODE + 0x800, "\x48\x83\x04\x24\x02\x48\xcf", 7);	/* addq $2, (%rsp); iretq */
	memcpy(b->ram + BARE_CODE + 0x900, "\x49\xff\xc0\x48\xcf", 5);		/* inc %r8; iretq */
	memcpy(b->ram + BARE_DATA + (GDT - DIFF_DATA), descriptors, sizeof(descriptors));
	gate(b, VEC_UD, HANDLER);
	gate(b, VEC_DB, STEPPED);
	cpu_memory_touched(c);
	memset(c->gpr, 0, sizeof(c->gpr));
	c->gpr[RSP] = DIFF_DATA + 0xf00;
	c->rip = DIFF_CODE;
	c->idtr = (struct cpu_table){ IDT, 0x2ff };
	c->gdtr = (struct cpu_table){ GDT, sizeof(descriptors) - 1 };
	c->seg[SEG_CS].sel = 8;
	c->seg[SEG_SS].sel = 16;
	c->msr.star = 8ull << 32;
	c->msr.lstar = DIFF_CODE + 0x40;
	c->msr.sfmask = 0;
	c->acc.efer |= EFER_SCE;
	cpu_set_eflags(c, 2);
	memset(&c->ev, 0, sizeof(c->ev));
	cpu_state_changed(c);
}

/* How many of its instructions ran alone; ~0 if it did not end as it should. */
static uint64_t ran_alone(struct bare *b)
{
	uint64_t alone = b->c.stats.alone;

	return cpu_run(&b->c) == CPU_EXIT_HLT ? b->c.stats.alone - alone : ~0ull;
}

#define CODE(s) s, sizeof(s) - 1

static bool calls_do_not(struct bare *b)
{
	load(b, CODE("\x0f\x05"));
	memcpy(b->ram + BARE_CODE + 0x40, "\xff\xc3\xff\xc3\xff\xc3\xf4", 7);
	return ran_alone(b) == 0 && b->c.gpr[RBX] == 3;
}

static bool exceptions_do_not(struct bare *b)
{
	load(b, CODE("\x0f\x0b\xff\xc3\x0f\x0b\xff\xc3\xf4"));	/* ud2; inc ebx; twice */
	return ran_alone(b) == 0 && b->c.gpr[RBX] == 2;
}

static bool interrupts_by_instruction_do_not(struct bare *b)
{
	load(b, CODE("\xcd\x06\x90\x90\xff\xc3\xf4"));		/* int 6, whose handler skips the NOPs; inc ebx */
	return ran_alone(b) == 0 && b->c.gpr[RBX] == 1;
}

/* With TF: #DB after each of two NOPs and INC, none after the first instruction of what SYSCALL or INT enter with TF clear. */
static bool steps_are_as_they_were(struct bare *b)
{
	bool ok;

	load(b, CODE("\x90\x90\xff\xc3\xf4"));
	cpu_set_eflags(&b->c, 2 | FLAG_TF);
	ok = ran_alone(b) >= 3 && b->c.gpr[RBX] == 1 && b->c.gpr[R8] >= 3;
	load(b, CODE("\x0f\x05"));
	memcpy(b->ram + BARE_CODE + 0x40, "\xff\xc3\xf4", 3);
	b->c.msr.sfmask = FLAG_TF;
	cpu_set_eflags(&b->c, 2 | FLAG_TF);
	ok &= cpu_run(&b->c) == CPU_EXIT_HLT && b->c.gpr[RBX] == 1 && b->c.gpr[R8] == 0;
	load(b, CODE("\xcd\x06\x90\x90\xff\xc3\xf4"));
	cpu_set_eflags(&b->c, 2 | FLAG_TF);
	/* INT clears TF before a step could be due; IRETQ brings it back, and the first to be stepped is INC. */
	return ok && cpu_run(&b->c) == CPU_EXIT_HLT && b->c.gpr[RBX] == 1 && b->c.gpr[R8] >= 1 && b->c.gpr[R8] <= 2;
}

int main(void)
{
	struct bare *b = bare_pages(0x100000, DIFF_CODE, DIFF_DATA);

	if (!b) {
		printf("Bail out! no memory\n");
		return 1;
	}
	bare_kernel_mode(&b->c);
	printf("1..4\n");
	say(calls_do_not(b), "what SYSCALL enters does not run alone");
	say(exceptions_do_not(b), "nor does the handler of an exception");
	say(interrupts_by_instruction_do_not(b), "nor that of INT");
	say(steps_are_as_they_were(b), "with TF every instruction is stepped, but those that entered a handler");
	bare_fini(b);
	free(b);
	return is_bad;
}
