/* SPDX-License-Identifier: MIT */
/*
 * Code that the client writes behind the guest's back: after cpu_memory_touched() the new bytes are executed, wherever in a page of hot code
 * they lie, and also where the old ones were only looked at for what becomes of flags.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../diff/bare.h"
#include "../diff/diff.h"
#include "cpu/sys/sys.h"

#define BLOCKS	40u
#define APART	97u	/* at every place in a line of 64 bytes, and across them */

static unsigned n_tests;
static bool is_bad;

static void say(bool ok, const char *what)
{
	printf("%sok %u - %s\n", ok ? "" : "not ", ++n_tests, what);
	is_bad |= !ok;
}

/* Run the page from its start until HLT. */
static bool run(struct bare *b, uint64_t rax)
{
	b->c.rip = DIFF_CODE;
	b->c.gpr[RAX] = rax;
	b->c.gpr[RCX] = 0;
	cpu_set_eflags(&b->c, 2);
	return cpu_run(&b->c) == CPU_EXIT_HLT;
}

static void put32(uint8_t *at, uint32_t v)
{
	memcpy(at, &v, 4);
}

/* A chain of blocks, each of which adds a number of its own. */
static uint32_t load_chain(struct bare *b)
{
	uint8_t *code = b->ram + BARE_CODE;
	uint32_t sum = 0;

	memset(code, 0xf4, GW_PAGE_SIZE);
	for (unsigned i = 0; i < BLOCKS; i++) {
		uint8_t *at = code + i * APART;

		at[0] = 0x05;			/* add eax, imm32 */
		put32(at + 1, i * 0x01010101u);
		at[5] = 0xe9;			/* jmp to the next; HLT is behind the last */
		put32(at + 6, APART - 10);
		sum += i * 0x01010101u;
	}
	cpu_memory_touched(&b->c);
	return sum;
}

static bool every_byte_counts(struct bare *b)
{
	uint32_t sum = load_chain(b);
	bool ok = true;

	for (unsigned i = 0; i < 3; i++)
		ok &= run(b, 0) && b->c.gpr[RAX] == sum;
	for (unsigned i = 0; i < BLOCKS * 4; i++) {
		uint8_t *byte = b->ram + BARE_CODE + i / 4 * APART + 1 + i % 4;

		*byte += 3;
		sum += 3u << i % 4 * 8;
		if (*byte < 3)
			sum -= 0x100ull << i % 4 * 8;
		cpu_memory_touched(&b->c);
		ok &= run(b, 0) && b->c.gpr[RAX] == sum && run(b, 0) && b->c.gpr[RAX] == sum;
		/* What is between the blocks does not count, and does not hide anything. */
		b->ram[BARE_CODE + i / 4 * APART + 11]++;
		cpu_memory_touched(&b->c);
		ok &= run(b, 0) && b->c.gpr[RAX] == sum;
	}
	return ok;
}

static bool what_comes_back_counts(struct bare *b)
{
	uint32_t sum = load_chain(b);
	bool ok = run(b, 0) && run(b, 0) && b->c.gpr[RAX] == sum;

	for (unsigned i = 0; i < BLOCKS; i++) {
		uint8_t *byte = b->ram + BARE_CODE + i * APART + 1, was = *byte;

		*byte = (uint8_t)(was ^ 0xff);
		cpu_memory_touched(&b->c);
		ok &= run(b, 0) && b->c.gpr[RAX] == (uint32_t)(sum - was + *byte);
		*byte = was;
		cpu_memory_touched(&b->c);
		ok &= run(b, 0) && b->c.gpr[RAX] == sum;
	}
	return ok;
}

/* add eax, 1; jmp to a block in another line, which first overwrites all flags and later is one that reads the carry. */
static bool flags_come_back(struct bare *b)
{
	uint8_t *code = b->ram + BARE_CODE;
	bool ok = true;

	memset(code, 0xf4, GW_PAGE_SIZE);
	memcpy(code, "\x83\xc0\x01\xe9\xf8\0\0\0", 8);
	for (unsigned i = 0; i < 4; i++) {
		memcpy(code + 0x100, "\x31\xc9\x90\xf4", 4);		/* xor ecx, ecx; nop; hlt */
		cpu_memory_touched(&b->c);
		for (unsigned j = 0; j < 3; j++)
			ok &= run(b, 0xffffffff) && b->c.gpr[RCX] == 0;
		memcpy(code + 0x100, "\x0f\x92\xc1\xf4", 4);		/* setc cl; hlt */
		cpu_memory_touched(&b->c);
		for (unsigned j = 0; j < 3; j++)
			ok &= run(b, 0xffffffff) && b->c.gpr[RCX] == 1 && run(b, 1) && b->c.gpr[RCX] == 0;
	}
	return ok;
}

/* The same where the block that is changed is decoded, and not hot: jz goes there seldom. */
static bool flags_come_back_seldom(struct bare *b, bool is_other_first)
{
	uint8_t *code = b->ram + BARE_CODE;
	bool ok = true;

	memset(code, 0xf4, GW_PAGE_SIZE);
	memcpy(code, "\x83\xc3\x01\xeb\x7b", 5);				/* add ebx, 1; jmp */
	memcpy(code + 0x80, "\x83\xc0\x01\x0f\x84\x77\0\0\0\xf4", 10);	/* add eax, 1; jz; hlt */
	memcpy(code + 0x100, "\x31\xc9\x90\xf4", 4);
	cpu_memory_touched(&b->c);
	ok &= run(b, 0xffffffff) && b->c.gpr[RCX] == 0;
	for (unsigned i = 0; i < 8; i++)
		ok &= run(b, 1) && b->c.gpr[RAX] == 2;
	/* Where another block changes first, what is compared is put together anew. */
	code[2] += is_other_first;
	cpu_memory_touched(&b->c);
	ok &= run(b, 1) && b->c.gpr[RAX] == 2;
	memcpy(code + 0x100, "\x0f\x92\xc1\xf4", 4);
	cpu_memory_touched(&b->c);
	return ok && run(b, 0xffffffff) && b->c.gpr[RCX] == 1;
}

int main(void)
{
	struct bare *b = bare_pages(0x100000, DIFF_CODE, DIFF_DATA);

	if (!b) {
		printf("Bail out! no memory\n");
		return 1;
	}
	bare_kernel_mode(&b->c);
	printf("1..5\n");
	say(every_byte_counts(b), "every byte that the client changes in a page of hot code is executed, wherever it lies");
	say(what_comes_back_counts(b), "so is one that is changed back");
	say(flags_come_back(b), "so are flags that a changed block reads, and which the block before had not made");
	say(flags_come_back_seldom(b, false), "also where that block has seldom been executed");
	say(flags_come_back_seldom(b, true), "and another one has changed before");
	bare_fini(b);
	free(b);
	return is_bad;
}
