/* SPDX-License-Identifier: MIT */
/*
 * Alignment checking at CPL 3: one instruction, then HLT, which faults. Which exception came first, and where. Also that the engine
 * notices AC when POPF sets it in code that is translated already.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../diff/bare.h"
#include "../diff/diff.h"
#include "cpu/sys/sys.h"


/* RDI, RSI and RSP are in a page of data, at these offsets. */
struct row { const char *name; unsigned len; const char *code; unsigned rdi, rsi, rsp; bool is_refused; };
#define CODE(s) sizeof(s) - 1, s

static const struct row rows[] = {
	{ "a load of 4 bytes at an odd address", CODE("\x8b\x07"), 1, 0, 0x100, true },
	{ "a load of 4 bytes at a multiple of 4", CODE("\x8b\x07"), 4, 0, 0x100, false },
	{ "a load of 8 bytes at a multiple of 4", CODE("\x48\x8b\x07"), 4, 0, 0x100, true },
	{ "a store of 2 bytes at an odd address", CODE("\x66\x89\x07"), 3, 0, 0x100, true },
	{ "a store of 1 byte at an odd address", CODE("\x88\x07"), 3, 0, 0x100, false },
	{ "an addition to memory at an odd address", CODE("\x01\x07"), 5, 0, 0x100, true },
	{ "an address that a displacement makes even", CODE("\x66\x8b\x47\x01"), 1, 0, 0x100, false },
	{ "LEA of an odd address", CODE("\x48\x8d\x07"), 1, 0, 0x100, false },
	{ "PUSH on a stack that is not a multiple of 8", CODE("\x50"), 0, 0, 0x104, true },
	{ "POP from a stack that is", CODE("\x58"), 0, 0, 0x108, false },
	{ "MOVSD with an odd source", CODE("\xa5"), 0, 0x21, 0x100, true },
	{ "STOSQ to an odd address", CODE("\x48\xab"), 1, 0, 0x100, true },
	{ "REP MOVSB between odd addresses", CODE("\xf3\xa4"), 1, 0x21, 0x100, false },
	{ "FLD of 10 bytes at a multiple of 2", CODE("\xdb\x2f"), 2, 0, 0x100, true },
	{ "MOVSS at an odd address", CODE("\xf3\x0f\x10\x07"), 1, 0, 0x100, true },
	{ "MOVUPS at an odd address", CODE("\x0f\x10\x07"), 1, 0, 0x100, false },
};

static void load(struct bare *b, const struct row *t, uint32_t flags)
{
	memset(b->ram + BARE_CODE, 0xf4, 4096);
	memcpy(b->ram + BARE_CODE, t->code, t->len);
	cpu_memory_touched(&b->c);
	bare_user_mode(&b->c, true);
	memset(b->c.gpr, 0, sizeof(b->c.gpr));
	b->c.gpr[RDI] = DIFF_DATA + t->rdi;
	b->c.gpr[RSI] = DIFF_DATA + t->rsi;
	b->c.gpr[RSP] = DIFF_DATA + t->rsp;
	b->c.gpr[RCX] = 3;
	b->c.rip = DIFF_CODE;
	cpu_set_eflags(&b->c, 2 | flags);
	cpu_state_changed(&b->c);
	memset(&b->c.ev, 0, sizeof(b->c.ev));
	memset(&b->c.ring, 0, sizeof(b->c.ring));
}

/* The first exception; there is no IDT, so that it ends the run. */
static struct cpu_ring_entry first_exception(struct bare *b)
{
	cpu_run(&b->c);
	for (unsigned i = 0; i < CPU_RING_SIZE; i++)
		if (b->c.ring.e[i].kind == RING_EXCEPTION)
			return b->c.ring.e[i];
	return (struct cpu_ring_entry){ 0 };
}

static bool check(struct bare *b, const struct row *t, uint32_t flags, bool is_refused)
{
	struct cpu_ring_entry e;

	load(b, t, flags);
	e = first_exception(b);
	if (is_refused)
		return e.a == VEC_AC && e.b == 0 && e.rip == DIFF_CODE;
	return e.a == VEC_GP && e.rip == DIFF_CODE + t->len;
}

/* A loop, hot by the time that POPF sets AC in its last round. */
static bool is_noticed_in_hot_code(struct bare *b)
{
	static const struct row loop = { "", CODE("\xb9\x20\0\0\0"			/* mov ecx, 32 */
						  "\x31\xc0\x83\xf9\x01\x0f\x94\xc0\xc1\xe0\x12"	/* 1: eax = (ecx == 1) << 18 */
						  "\x50\x9d\x8b\x5f\x01"		/* push rax; popfq; mov ebx, [rdi+1] */
						  "\xff\xc9\x75\xec"), 0, 0, 0x100, true };
	struct cpu_ring_entry e;

	load(b, &loop, 0);
	e = first_exception(b);
	return e.a == VEC_AC && e.rip == DIFF_CODE + 18 && b->c.gpr[RCX] == 1;
}

int main(void)
{
	struct bare *b = bare_pages(0x100000, DIFF_CODE, DIFF_DATA);
	unsigned n = 0;
	bool bad = false;

	if (!b) {
		printf("Bail out! no memory\n");
		return 1;
	}
	b->c.acc.cr0 |= CR0_AM;
	printf("1..%zu\n", 2 * ARRAY_SIZE(rows) + 1);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		bool with = check(b, &rows[i], FLAG_AC, rows[i].is_refused), without = check(b, &rows[i], 0, false);

		bad |= !with || !without;
		printf("%sok %u - %s is %s\n", with ? "" : "not ", ++n, rows[i].name, rows[i].is_refused ? "refused" : "done");
		printf("%sok %u - %s is done with AC clear\n", without ? "" : "not ", ++n, rows[i].name);
	}
	if (!is_noticed_in_hot_code(b)) {
		bad = true;
		printf("not ");
	}
	printf("ok %u - AC that POPF sets in hot code is noticed by the next instruction\n", ++n);
	bare_fini(b);
	free(b);
	return bad;
}
