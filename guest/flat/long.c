/* SPDX-License-Identifier: MIT */
/*
 * Long mode: exceptions and their error codes, the IDT, double faults, IRETQ and far transfers in all directions, SYSCALL,
 * segment and system registers. Expectations: Intel SDM, where AMD differs the row says so or follows the CPUID vendor.
 */
#include "lib.h"

enum { DE, DB, NMI, BP, OF, BR, UD, NM, DF, TS = 10, NP, SS, GP, PF };
#define NONCANONICAL 0x800000000000ul
/* Bases are judged by the widest addresses the CPU knows, which may be 57 bits. */
#define NEVER_CANONICAL (1ul << 60)

static bool is_amd;

static uint64_t *pte(unsigned long a)
{
	return (uint64_t *)0x13000 + (a >> 12);
}

static void set_pte(unsigned long a, uint64_t v)
{
	*pte(a) = v;
	invlpg((void *)a);
}

/* ---- error codes ------------------------------------------------------------------------------------------------------------ */

static void test_faults(void)
{
	unsigned long v;

	seen_clear();
	__asm__ volatile("xor %%edx, %%edx; xor %%ecx, %%ecx; mov $1, %%eax;" TRY "div %%ecx" END : : : "eax", "ecx", "edx", "memory");
	row_seen("division by zero is #DE", DE, 0);
	seen_clear();
	__asm__ volatile(TRY "ud2" END : : : "memory");
	row_seen("UD2 is #UD", UD, 0);
	row("a fault pushes RF", seen.flags & FL_RF, FL_RF);
	seen_clear();
	__asm__ volatile(TRY "mov (%1), %0" END : "=r"(v) : "r"(NONCANONICAL) : "memory");
	row_seen("a non-canonical load is #GP(0)", GP, 0);
	seen_clear();
	__asm__ volatile("mov %%rbp, %%rbx; mov %1, %%rbp;" TRY "mov (%%rbp), %0" END "mov %%rbx, %%rbp" : "=a"(v) : "r"(NONCANONICAL) : "rbx", "memory");
	row_seen("a non-canonical load through RBP is #SS(0)", SS, 0);
	/* The handler needs a stack of its own here. */
	*(uint64_t *)(tss + 0x24) = 0x8f000;
	idt[SS].ist = idt[GP].ist = 1;
	seen_clear();
	__asm__ volatile("mov %%rsp, %%rbx; mov %0, %%rsp;" TRY "push %%rax" END "mov %%rbx, %%rsp" : : "r"(NONCANONICAL + 0x1000) : "rbx", "memory");
	row_seen("PUSH to a non-canonical address is #SS(0)", SS, 0);
	row("RSP has not moved", seen.sp, NONCANONICAL + 0x1000);
	idt[SS].ist = idt[GP].ist = 0;
	seen_clear();
	__asm__ volatile(TRY "jmp *%0" END : : "r"(NONCANONICAL) : "memory");
	row_seen("a jump to a non-canonical address is #GP(0)", GP, 0);
	seen_clear();
	__asm__ volatile(TRY "int3" END : : : "memory");
	row_seen("INT3 is #BP", BP, 0);
	row("a trap does not push RF", seen.flags & FL_RF, 0);
	seen_clear();
	__asm__ volatile(TRY ".byte 0xf1" END : : : "memory");
	row_seen("INT1 is #DB", DB, 0);
	seen_clear();
	__asm__ volatile(TRY ".byte 0xf0; mov %%eax, %%ebx" END : : : "ebx", "memory");
	row_seen("LOCK MOV is #UD", UD, 0);
	seen_clear();
	__asm__ volatile(TRY ".byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90" END : : : "memory");
	row_seen("an instruction of 16 bytes is #GP(0)", GP, 0);
	seen_clear();
	__asm__ volatile(TRY ".byte 0x06" END : : : "memory");
	row_seen("PUSH ES is #UD in 64-bit mode", UD, 0);
}

static volatile unsigned long user_sink;

static void user_read_kernel(void)
{
	__asm__ volatile(TRY "mov 0x30000, %0" END : "=r"(user_sink) : : "memory");
}

static void user_write_kernel(void)
{
	__asm__ volatile(TRY "mov %0, 0x30000" END : : "r"(0ul) : "memory");
}

static void user_read_absent(void)
{
	__asm__ volatile(TRY "mov 0x31000, %0" END : "=r"(user_sink) : : "memory");
}

static void user_exec_kernel(void)
{
	__asm__ volatile(TRY "jmp *%0" END : : "r"(0x30000ul) : "memory");
}

static void test_paging(void)
{
	unsigned long v;

	set_pte(0x31000, 0);
	seen_clear();
	__asm__ volatile(TRY "mov 0x31008, %0" END : "=r"(v) : : "memory");
	row_seen("reading an absent page is #PF(0)", PF, 0);
	row("CR2 is the address", seen.cr2, 0x31008);
	seen_clear();
	__asm__ volatile(TRY "mov %0, 0x31008" END : : "r"(0ul) : "memory");
	row_seen("writing an absent page is #PF(2)", PF, 2);
	set_pte(0x30000, 0x30001);
	seen_clear();
	__asm__ volatile(TRY "mov %0, 0x30010" END : : "r"(0ul) : "memory");
	row_seen("writing a read-only page with CR0.WP is #PF(3)", PF, 3);
	seen_clear();
	__asm__ volatile(TRY "mov %0, 0x2fffc" END : : "r"(0x1122334455667788ul) : "memory");
	row_seen("a store across pages faults on the second", PF, 3);
	row("CR2 is the start of the second page", seen.cr2, 0x30000);
	write_cr0(read_cr0() & ~0x10000ul);
	seen_clear();
	__asm__ volatile(TRY "mov %0, 0x30010" END : : "r"(0ul) : "memory");
	row_seen("without CR0.WP it passes", VEC_NONE, 0);
	row("and sets the dirty bit", *pte(0x30000) & 0x60, 0x60);
	write_cr0(read_cr0() | 0x10000ul);
	seen_clear();
	run_user(user_read_kernel);
	row_seen("reading a supervisor page at CPL 3 is #PF(5)", PF, 5);
	seen_clear();
	run_user(user_write_kernel);
	row_seen("writing it is #PF(7)", PF, 7);
	seen_clear();
	run_user(user_read_absent);
	row_seen("reading an absent page at CPL 3 is #PF(4)", PF, 4);
	seen_clear();
	run_user(user_exec_kernel);
	row_seen("fetching from a supervisor page at CPL 3 is #PF(15h)", PF, 0x15);
	row("CR2 is the target", seen.cr2, 0x30000);
	set_pte(0x30000, 0x8000000000030003);
	seen_clear();
	__asm__ volatile("mov %%rsp, %%rbx;" TRY "call *%0" END "mov %%rbx, %%rsp" : : "r"(0x30000ul) : "rbx", "memory");
	row_seen("fetching from an NX page is #PF(11h)", PF, 0x11);
	((uint64_t *)0x10000)[1] = 0x11087;	/* PS in a PML4 entry */
	seen_clear();
	__asm__ volatile(TRY "mov (%1), %0" END : "=r"(v) : "r"(1ul << 39) : "memory");
	row_seen("a reserved bit in a PML4 entry is #PF(9)", PF, 9);
	((uint64_t *)0x10000)[1] = 0;
	set_pte(0x30000, 0x30003);
	v = *(volatile unsigned long *)0x30000;
	row("a read sets A and not D", *pte(0x30000) & 0x60, 0x20);
	set_pte(0x30000, 0x30007);
	set_pte(0x31000, 0x31007);
}

#define CR4_SMEP (1ul << 20)
#define CR4_SMAP (1ul << 21)

/* All pages of the image supervisor ones but 0x32000, or all user pages again. */
static void user_pages(bool all)
{
	for (unsigned i = 0; i < 512; i++)
		((uint64_t *)0x13000)[i] = all ? ((uint64_t *)0x13000)[i] | 4 : ((uint64_t *)0x13000)[i] & ~4ul;
	*pte(0x32000) |= 4;
	write_cr3(read_cr3());
}

static void test_smap(void)
{
	unsigned long v;

	if (!cpuid_bit(7, 0, 1, 20)) {
		row_skip("SMAP", "not offered");
		return;
	}
	*(volatile uint8_t *)0x32000 = 0xc3;
	user_pages(false);
	write_cr4(read_cr4() | CR4_SMAP);
	seen_clear();
	__asm__ volatile("mov %%rsp, %%rbx;" TRY "call *%0" END "mov %%rbx, %%rsp" : : "r"(0x32000ul) : "rbx", "memory");
	row_seen("SMAP alone does not stop a fetch from a user page", VEC_NONE, 0);
	seen_clear();
	__asm__ volatile(TRY "mov 0x32000, %0" END : "=r"(v) : : "memory");
	row_seen("a supervisor read of a user page is #PF(1)", PF, 1);
	seen_clear();
	__asm__ volatile(TRY "mov %0, 0x32008" END : : "r"(0ul) : "memory");
	row_seen("a supervisor write #PF(3)", PF, 3);
	seen_clear();
	__asm__ volatile("stac;" TRY "mov 0x32000, %0" END "clac" : "=r"(v) : : "memory");
	row_seen("with EFLAGS.AC it passes", VEC_NONE, 0);
	seen_clear();
	__asm__ volatile("stac;" TRY "mov 0x32000, %0; clac; mov 0x32000, %0" END : "=r"(v) : : "memory");
	row_seen("after CLAC it faults again", PF, 1);
	seen_clear();
	__asm__ volatile("pushfq; orl $0x40000, (%%rsp); popfq;" TRY "mov 0x32000, %0" END "clac" : "=r"(v) : : "memory", "cc");
	row_seen("POPF sets AC too", VEC_NONE, 0);
	/* An LDT in a user page: descriptor reads are supervisor accesses whatever AC says. */
	gdt[GDT_FREE] = desc(0x32000, 0xfff, 0x82, 0);
	gdt[GDT_FREE + 1] = 0;
	__asm__ volatile("lldt %w0" : : "r"(SEL_FREE));
	seen_clear();
	__asm__ volatile("stac;" TRY "mov %0, %%fs" END "clac" : : "r"(0xc) : "memory");
	row_seen("a descriptor in a user page is #PF(1) in spite of AC", PF, 1);
	__asm__ volatile("lldt %w0" : : "r"(0));
	write_cr4(read_cr4() & ~CR4_SMAP);
	user_pages(true);
}

static void test_smep(void)
{
	if (!cpuid_bit(7, 0, 1, 7)) {
		row_skip("SMEP", "not offered");
		return;
	}
	*(volatile uint8_t *)0x32000 = 0xc3;
	user_pages(false);
	write_cr4(read_cr4() | CR4_SMEP);
	seen_clear();
	__asm__ volatile("mov %%rsp, %%rbx;" TRY "call *%0" END "mov %%rbx, %%rsp" : : "r"(0x32000ul) : "rbx", "memory");
	row_seen("with SMEP a supervisor fetch from a user page is #PF(11h)", PF, 0x11);
	seen_clear();
	__asm__ volatile(TRY "mov 0x32000, %%rax" END : : : "rax", "memory");
	row_seen("SMEP alone does not stop a read", VEC_NONE, 0);
	write_cr4(read_cr4() & ~CR4_SMEP);
	user_pages(true);
}

/* ---- segments ----------------------------------------------------------------------------------------------------------------- */

#define LOAD(seg, sel) do { seen_clear(); __asm__ volatile(TRY "mov %0, %%" seg END : : "r"(sel) : "memory"); } while (0)

static void test_segments(void)
{
	unsigned sel = SEL_FREE;

	LOAD("ds", 0xfff8);
	row_seen("a selector beyond the GDT is #GP(selector)", GP, 0xfff8);
	LOAD("ds", 0x54);
	row_seen("a selector in an LDT that is not there is #GP(selector)", GP, 0x54);
	gdt[GDT_FREE] = desc(0, 0xfffff, 0x12, 0xc);
	LOAD("ds", sel);
	row_seen("absent data is #NP(selector)", NP, sel);
	LOAD("ss", sel);
	row_seen("an absent stack is #SS(selector)", SS, sel);
	gdt[GDT_FREE] = desc(0, 0xfffff, 0x98, 0xc);
	LOAD("ds", sel);
	row_seen("execute-only code in DS is #GP(selector)", GP, sel);
	LOAD("ds", SEL_TSS);
	row_seen("a system descriptor in DS is #GP(selector)", GP, SEL_TSS);
	gdt[GDT_FREE] = desc(0, 0xfffff, 0x90, 0xc);
	LOAD("ss", sel);
	row_seen("read-only data in SS is #GP(selector)", GP, sel);
	LOAD("ss", SEL_DATA | 3);
	row_seen("SS with the wrong RPL is #GP(selector)", GP, SEL_DATA);
	LOAD("ss", SEL_UDATA);
	row_seen("SS with the wrong DPL is #GP(selector)", GP, SEL_UDATA & ~3);
	LOAD("ss", 0);
	row_seen("a null SS is allowed at CPL 0", VEC_NONE, 0);
	LOAD("ss", 3);
	row_seen("a null SS with RPL 3 is #GP(0) at CPL 0", GP, 0);
	LOAD("ss", SEL_DATA);
	row_seen("and the old one comes back", VEC_NONE, 0);
	gdt[GDT_FREE] = desc(0x1000, 0xfffff, 0x92, 0xc);
	LOAD("fs", sel);
	row("loading a segment sets its accessed bit", gdt[GDT_FREE] >> 40 & 1, 1);
	row("loading FS sets its base", rdmsr(0xc0000100), 0x1000);
	wrmsr(0xc0000100, 0x123456789000);
	if (!is_amd) {
		LOAD("fs", 0);
		row("a null FS clears its base", rdmsr(0xc0000100), 0);
	}
	LOAD("fs", SEL_DATA);
	LOAD("ds", 0);
	row("a null DS still reads in 64-bit mode", *(volatile unsigned long *)0x13000 & 1, 1);
	LOAD("ds", SEL_DATA);
	seen_clear();
	__asm__ volatile(TRY ".byte 0x8e, 0xc8" END : : "a"(SEL_CODE64) : "memory");
	row_seen("MOV to CS is #UD", UD, 0);
}

static void test_selectors(void)
{
	unsigned long v = 0x55;
	unsigned char zf;

	gdt[GDT_FREE] = desc(0x12345678, 0xabcde, 0x93, 0xc);
	__asm__ volatile("lar %2, %k0; setz %1" : "+r"(v), "=r"(zf) : "r"(SEL_FREE) : "cc");
	row("LAR gives the access rights", v & 0xf0ff00, 0xc09300);	/* bits 19:16 are undefined */
	row("and ZF", zf, 1);
	__asm__ volatile("lsl %2, %k0; setz %1" : "+r"(v), "=r"(zf) : "r"(SEL_FREE) : "cc");
	row("LSL gives the limit in bytes", v, 0xabcdefff);
	v = 0x55;
	__asm__ volatile("lar %2, %k0; setz %1" : "+r"(v), "=r"(zf) : "r"(0xfff8) : "cc");
	row("LAR beyond the GDT leaves the register", v, 0x55);
	row("and clears ZF", zf, 0);
	__asm__ volatile("lar %2, %k0; setz %1" : "+r"(v), "=r"(zf) : "r"(0) : "cc");
	row("LAR of null clears ZF", zf, 0);
	__asm__ volatile("lsl %2, %k0; setz %1" : "+r"(v), "=r"(zf) : "r"(SEL_TSS) : "cc");
	row("LSL sees a TSS", v, sizeof(tss) - 1);
	gdt[GDT_FREE] = desc(0, 0, 0x8c, 0);
	__asm__ volatile("lsl %2, %k0; setz %1" : "+r"(v), "=r"(zf) : "r"(SEL_FREE) : "cc");
	row("LSL does not see a call gate", zf, 0);
	gdt[GDT_FREE] = desc(0, 0xfffff, 0x91, 0xc);
	__asm__ volatile("verr %w1; setz %0" : "=r"(zf) : "r"(SEL_FREE) : "cc");
	row("VERR of read-only data", zf, 1);
	__asm__ volatile("verw %w1; setz %0" : "=r"(zf) : "r"(SEL_FREE) : "cc");
	row("VERW of read-only data", zf, 0);
	__asm__ volatile("verr %w1; setz %0" : "=r"(zf) : "r"(SEL_CODE64) : "cc");
	row("VERR of readable code", zf, 1);
	__asm__ volatile("str %w0" : "=r"(v));
	row("STR gives the task's selector", v & 0xffff, SEL_TSS);
	row("LTR marks the TSS busy", gdt[8] >> 40 & 15, 11);
	seen_clear();
	__asm__ volatile(TRY "ltr %w0" END : : "r"(SEL_TSS) : "memory");
	row_seen("LTR of a busy TSS is #GP(selector)", GP, SEL_TSS);
	seen_clear();
	__asm__ volatile(TRY "ltr %w0" END : : "r"(0) : "memory");
	row_seen("LTR of null is #GP(0)", GP, 0);
	gdt[GDT_FREE] = desc(0, 0x67, 0x09, 0);
	gdt[GDT_FREE + 1] = 0;
	seen_clear();
	__asm__ volatile(TRY "ltr %w0" END : : "r"(SEL_FREE) : "memory");
	row_seen("LTR of an absent TSS is #NP(selector)", NP, SEL_FREE);
	gdt[GDT_FREE] = desc(0, 0x67, 0x89, 0);
	gdt[GDT_FREE + 1] = NEVER_CANONICAL >> 32;
	seen_clear();
	__asm__ volatile(TRY "ltr %w0" END : : "r"(SEL_FREE) : "memory");
	row_seen("LTR with a non-canonical base is #GP(selector)", GP, SEL_FREE);
	gdt[8] &= ~(2ull << 40);	/* whoever took that one gets the good one back */
	__asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
	seen_clear();
	__asm__ volatile(TRY "lldt %w0" END : : "r"(0) : "memory");
	row_seen("LLDT of null is allowed", VEC_NONE, 0);
	gdt[GDT_FREE] = desc(0x20000, 0xfff, 0x82, 0);
	gdt[GDT_FREE + 1] = 0;
	((uint64_t *)0x20000)[1] = desc(0x5000, 0xfffff, 0x93, 0xc);
	seen_clear();
	__asm__ volatile(TRY "lldt %w0; mov %1, %%fs" END : : "r"(SEL_FREE), "r"(0xc) : "memory");
	row_seen("a segment from the LDT", VEC_NONE, 0);
	row("has its base", rdmsr(0xc0000100), 0x5000);
	__asm__ volatile("lldt %w0; mov %1, %%fs" : : "r"(0), "r"(SEL_DATA) : "memory");
}

/* ---- the IDT ---------------------------------------------------------------------------------------------------------------------- */

static void set_type(unsigned n, uint8_t type)
{
	idt[n].type = type;
}

static void user_int(void)
{
	__asm__ volatile(TRY "int $0x30" END : : : "memory");
}

static void user_int3(void)
{
	__asm__ volatile(TRY "int3" END : : : "memory");
}

static void user_hlt(void)
{
	__asm__ volatile(TRY "hlt" END : : : "memory");
}

static unsigned long handler_sp;

static bool note_sp(struct frame *f)
{
	handler_sp = (unsigned long)(f + 1);
	return false;
}

static void test_idt(void)
{
	struct __attribute__((packed)) { uint16_t limit; uint64_t base; } small = { 0x31 * 16 - 1, (unsigned long)idt },
		full = { sizeof(idt) - 1, (unsigned long)idt };
	unsigned long sp;

	seen_clear();
	__asm__ volatile(TRY "int $0x30" END : : : "memory");
	row_seen("INT n", 0x30, 0);
	seen_clear();
	run_user(user_int);
	row_seen("INT n at CPL 3 through a gate of DPL 0 is #GP(vector)", GP, 0x30 * 8 + 2);
	row("its RIP is the INT instruction's", *(uint8_t *)seen.ip, 0xcd);
	seen_clear();
	run_user(user_int3);
	row_seen("INT3 too", GP, 3 * 8 + 2);
	seen_clear();
	run_user(user_hlt);
	row_seen("HLT at CPL 3 is #GP(0)", GP, 0);
	set_type(0x30, GATE_INT & 0x7f);
	seen_clear();
	__asm__ volatile(TRY "int $0x30" END : : : "memory");
	row_seen("INT n through an absent gate is #NP(vector)", NP, 0x30 * 8 + 2);
	set_type(0x30, 0x8c);
	seen_clear();
	__asm__ volatile(TRY "int $0x30" END : : : "memory");
	row_seen("through a call gate #GP(vector)", GP, 0x30 * 8 + 2);
	set_type(0x30, 0x86);
	seen_clear();
	__asm__ volatile(TRY "int $0x30" END : : : "memory");
	row_seen("a 16-bit gate does not exist in long mode", GP, 0x30 * 8 + 2);
	set_type(0x30, GATE_INT);
	__asm__ volatile("lidt %0" : : "m"(small));
	seen_clear();
	__asm__ volatile(TRY "int $0x31" END : : : "memory");
	row_seen("INT n beyond the limit of the IDT is #GP(vector)", GP, 0x31 * 8 + 2);
	__asm__ volatile("lidt %0" : : "m"(full));
	idt[0x30].sel = SEL_CODE32;
	seen_clear();
	__asm__ volatile(TRY "int $0x30" END : : : "memory");
	row_seen("a handler in a 32-bit segment is #GP(selector)", GP, SEL_CODE32);
	idt[0x30].sel = SEL_DATA;
	seen_clear();
	__asm__ volatile(TRY "int $0x30" END : : : "memory");
	row_seen("a handler in data is #GP(selector)", GP, SEL_DATA);
	idt[0x30].sel = 0;
	seen_clear();
	__asm__ volatile(TRY "int $0x30" END : : : "memory");
	row_seen("a null handler segment is #GP(0)", GP, 0);
	idt[0x30].sel = SEL_CODE64;
	idt[0x30].off2 = 0x8000;
	seen_clear();
	__asm__ volatile(TRY "int $0x30" END : : : "memory");
	row_seen("a non-canonical handler is #GP(0)", GP, 0);
	idt[0x30].off2 = 0;
	set_type(6, GATE_INT & 0x7f);
	seen_clear();
	__asm__ volatile(TRY "ud2" END : : : "memory");
	row_seen("an exception through an absent gate is #NP(vector + EXT)", NP, 6 * 8 + 3);
	set_type(6, GATE_INT);

	__asm__ volatile("mov %0, %%ss" : : "r"(SEL_DATA));
	hook = note_sp;
	__asm__ volatile("mov %%rsp, %0; mov %%rsp, %%rbx; sub $3, %%rsp;" TRY "int $0x30" END "mov %%rbx, %%rsp" : "=r"(sp) : : "rbx", "memory");
	row("the frame is aligned to 16 bytes", handler_sp & 15, 0);
	row("the old RSP is in it", seen.sp, sp - 3);
	*(uint64_t *)(tss + 0x24) = 0x8f000;
	idt[0x30].ist = 1;
	__asm__ volatile(TRY "int $0x30" END : : : "memory");
	row("IST 1 gives the stack", handler_sp, 0x8f000);
	row("SS stays at the same level", seen.ss, SEL_DATA);
	*(uint64_t *)(tss + 0x2c) = NONCANONICAL;
	idt[0x30].ist = 2;
	hook = NULL;
	seen_clear();
	__asm__ volatile(TRY "int $0x30" END : : : "memory");
	row_seen("a non-canonical IST is #SS(0)", SS, 0);
	idt[0x30].ist = 0;
	__asm__ volatile("sti; stc;" TRY "int $0x30" END "cli" : : : "memory", "cc");
	row("flags are pushed as they were", seen.flags & 0x201, 0x201);
}

static unsigned long flags_inside;

static bool note_flags(struct frame *f __attribute__((unused)))
{
	__asm__ volatile("pushfq; pop %0" : "=r"(flags_inside));
	return false;
}

static void test_idt_flags(void)
{
	hook = note_flags;
	__asm__ volatile("pushfq; orl $0x4200, (%%rsp); popfq;" TRY "int $0x30" END "cli" : : : "memory", "cc");
	row("an interrupt gate clears IF and NT", flags_inside & (FL_IF | FL_NT), 0);
	row("the pushed image has both", seen.flags & (FL_IF | FL_NT), FL_IF | FL_NT);
	idt[0x30].type = GATE_TRAP;
	__asm__ volatile("sti;" TRY "int $0x30" END "cli" : : : "memory", "cc");
	row("a trap gate leaves IF", flags_inside & FL_IF, FL_IF);
	idt[0x30].type = GATE_INT;
	hook = NULL;
}

/* ---- double faults ------------------------------------------------------------------------------------------------------------------- */

static void test_double_fault(void)
{
	unsigned long v;

	*(uint64_t *)(tss + 0x24) = 0x8f000;
	idt[DF].ist = 1;
	idt[GP].type = GATE_INT & 0x7f;
	seen_clear();
	__asm__ volatile(TRY "mov (%1), %0" END : "=r"(v) : "r"(NONCANONICAL) : "memory");
	row_seen("#GP whose gate is absent is #DF(0)", DF, 0);
	idt[GP].type = GATE_INT;
	idt[DE].type = GATE_INT & 0x7f;
	seen_clear();
	__asm__ volatile("xor %%edx, %%edx; xor %%ecx, %%ecx; mov $1, %%eax;" TRY "div %%ecx" END : : : "eax", "ecx", "edx", "memory");
	row_seen("#DE whose gate is absent is #DF(0)", DF, 0);
	idt[DE].type = GATE_INT;
	set_pte(0x31000, 0);
	seen_clear();
	__asm__ volatile("mov %%rsp, %%rbx; mov $0x31800, %%rsp;" TRY "push %%rax" END "mov %%rbx, %%rsp" : : : "rbx", "memory");
	row_seen("#PF with the stack absent is #DF(0)", DF, 0);
	row("CR2 is the second fault's", seen.cr2 & ~0xffful, 0x31000);
	seen_clear();
	__asm__ volatile("mov %%rsp, %%rbx; mov $0x31800, %%rsp;" TRY "ud2" END "mov %%rbx, %%rsp" : : : "rbx", "memory");
	row_seen("#UD with the stack absent: #PF twice is #DF(0)", DF, 0);
	idt[PF].ist = 1;
	seen_clear();
	__asm__ volatile("mov %%rsp, %%rbx; mov $0x31800, %%rsp;" TRY "ud2" END "mov %%rbx, %%rsp" : : : "rbx", "memory");
	row_seen("with an IST for #PF it is handled serially: #PF(2)", PF, 2);
	row("RSP is the program's", seen.sp, 0x31800);
	idt[PF].ist = 0;
	idt[PF].type = GATE_INT & 0x7f;
	seen_clear();
	__asm__ volatile(TRY "mov 0x31000, %0" END : "=r"(v) : : "memory");
	row_seen("#PF whose gate is absent is #DF(0)", DF, 0);
	idt[PF].type = GATE_INT;
	set_pte(0x31000, 0x31007);
	idt[DF].ist = 0;
}

/* ---- IRET, RETF, far jumps --------------------------------------------------------------------------------------------------------------- */

/* IRETQ with a given frame from a known stack; faults are caught with RSP restored. */
#define IRETQ(ip, cs, fl, sp, ss) do { seen_clear(); __asm__ volatile( \
	"mov %%rsp, %%rbx; push %4; push %3; push %2; push %1; push %0;" TRY "iretq" END "mov %%rbx, %%rsp" \
	: : "r"((unsigned long)(ip)), "r"((unsigned long)(cs)), "r"((unsigned long)(fl)), "r"((unsigned long)(sp)), \
	  "r"((unsigned long)(ss)) : "rbx", "memory", "cc"); } while (0)

extern char iret_lands[], iret_lands32[];
__asm__(".pushsection .text; iret_lands: int $0x30; iret_lands32: .code32; int $0x30; .code64; .popsection");

static void test_iret(void)
{
	uint64_t keep;

	catch_at_cpl0 = true;
	idt[0x30].type = GATE_INT | GATE_DPL3;
	IRETQ(iret_lands, SEL_CODE64, 2, 0x9f000, SEL_DATA);
	row_seen("IRETQ to the same level", 0x30, 0);
	row("takes RSP from the frame", seen.sp, 0x9f000);
	IRETQ(iret_lands, SEL_CODE64, 2, 0x9f000, 0);
	row_seen("IRETQ to CPL 0 with a null SS", 0x30, 0);
	row("the null SS is pushed again", seen.ss, 0);
	__asm__ volatile("mov %0, %%ss" : : "r"(SEL_DATA));
	IRETQ(iret_lands, SEL_UCODE64, 0x202, 0x9f000, SEL_UDATA);
	row_seen("IRETQ to CPL 3", 0x30, 0);
	row("with its CS", seen.cs, SEL_UCODE64);
	row("its SS", seen.ss, SEL_UDATA);
	row("and IF", seen.flags & FL_IF, FL_IF);
	__asm__ volatile("mov %0, %%ss" : : "r"(SEL_DATA));
	IRETQ(iret_lands, SEL_UCODE64, 2, 0x9f000, 0);
	row_seen("IRETQ to CPL 3 with a null SS is #GP(0)", GP, 0);
	IRETQ(iret_lands, SEL_UCODE64, 2, 0x9f000, SEL_DATA);
	row_seen("with an SS of another RPL #GP(selector)", GP, SEL_DATA);
	IRETQ(NONCANONICAL, SEL_CODE64, 2, 0x9f000, SEL_DATA);
	row_seen("IRETQ to a non-canonical RIP is #GP(0)", GP, 0);
	IRETQ(iret_lands, 0, 2, 0x9f000, SEL_DATA);
	row_seen("to a null CS #GP(0)", GP, 0);
	IRETQ(iret_lands, SEL_DATA, 2, 0x9f000, SEL_DATA);
	row_seen("to data #GP(selector)", GP, SEL_DATA);
	IRETQ(iret_lands, 0xfff8, 2, 0x9f000, SEL_DATA);
	row_seen("beyond the GDT #GP(selector)", GP, 0xfff8);
	keep = gdt[7];
	gdt[7] &= ~(1ull << 47);
	IRETQ(iret_lands, SEL_UCODE64, 2, 0x9f000, SEL_UDATA);
	row_seen("to absent code #NP(selector)", NP, SEL_UCODE64 & ~3);
	gdt[7] = keep;
	keep = gdt[6];
	gdt[6] &= ~(1ull << 47);
	IRETQ(iret_lands, SEL_UCODE64, 2, 0x9f000, SEL_UDATA);
	row_seen("to an absent stack #SS(selector)", SS, SEL_UDATA & ~3);
	gdt[6] = keep;
	IRETQ(iret_lands32, SEL_UCODE32, 2, 0x19f000, SEL_UDATA32);
	row_seen("IRETQ to compatibility mode", 0x30, 0);
	row("has the 32-bit CS", seen.cs, SEL_UCODE32);
	row("and ESP", seen.sp, 0x19f000);
	__asm__ volatile("mov %0, %%ss" : : "r"(SEL_DATA));
	seen_clear();
	__asm__ volatile("mov %%rsp, %%rbx; push %1; push $0x9f000; pushfq; orl $0x4000, (%%rsp); popfq; pushfq; push %2; push %0;" TRY "iretq" END
			 "mov %%rbx, %%rsp" : : "r"((unsigned long)iret_lands), "r"((unsigned long)SEL_DATA), "r"((unsigned long)SEL_CODE64) : "rbx", "memory", "cc");
	row_seen("IRETQ with NT is #GP(0)", GP, 0);
	gdt[GDT_FREE] = desc(0, 0xfffff, 0x93, 0xc);
	__asm__ volatile("mov %0, %%fs; mov %1, %%gs" : : "r"(SEL_FREE), "r"(SEL_UDATA) : "memory");
	IRETQ(iret_lands, SEL_UCODE64, 2, 0x9f000, SEL_UDATA);
	{
		uint16_t fs, gs;

		__asm__ volatile("mov %%fs, %0; mov %%gs, %1" : "=r"(fs), "=r"(gs));
		row("returning outward nulls segments of the inner level", fs, 0);
		row("and keeps the others", gs, SEL_UDATA);
	}
	__asm__ volatile("mov %0, %%ss; mov %0, %%ds; mov %0, %%es; mov %0, %%fs; mov %0, %%gs" : : "r"(SEL_DATA));
	idt[0x30].type = GATE_INT;
	catch_at_cpl0 = false;
}

#define HIGH 0xffffff8000000000ul

struct __attribute__((packed)) table { uint16_t limit; uint64_t base; };

static void set_tables(unsigned long base)
{
	struct table g = { sizeof(gdt) - 1, (unsigned long)gdt + base }, i = { sizeof(idt) - 1, (unsigned long)idt + base };

	gdt[8] = desc((uint32_t)(unsigned long)tss, sizeof(tss) - 1, 0x89, 0);
	gdt[9] = base >> 32;
	__asm__ volatile("lgdt %0; lidt %1; ltr %w2" : : "m"(g), "m"(i), "r"(SEL_TSS) : "memory");
}

static void test_compat_high(void)
{
	catch_at_cpl0 = true;
	idt[0x30].type = GATE_INT | GATE_DPL3;
	((uint64_t *)0x10000)[511] = 0x11007;
	write_cr3(read_cr3());
	set_tables(HIGH);
	*(uint64_t *)(tss + 4) = HIGH + 0x98000;
	IRETQ(iret_lands32, SEL_UCODE32, 2, 0x19f000, SEL_UDATA32);
	row_seen("an interrupt in compatibility mode with tables and stack above 4 GiB", 0x30, 0);
	row("comes back to its ESP", seen.sp, 0x19f000);
	__asm__ volatile("mov %0, %%ss" : : "r"(SEL_DATA));
	*(uint64_t *)(tss + 4) = 0x98000;
	set_tables(0);
	((uint64_t *)0x10000)[511] = 0;
	idt[0x30].type = GATE_INT;
	catch_at_cpl0 = false;
}

static void test_far(void)
{
	struct __attribute__((packed)) { uint32_t off; uint16_t sel; } p32;
	struct __attribute__((packed)) { uint64_t off; uint16_t sel; } p64;
	unsigned long sp0, sp1;

	catch_at_cpl0 = true;
	idt[0x30].type = GATE_INT | GATE_DPL3;
	p64.off = (unsigned long)iret_lands;
	p64.sel = SEL_CODE64;
	seen_clear();
	__asm__ volatile(TRY "rex.w ljmp *%0" END : : "m"(p64) : "memory");
	row_seen("far jump with a 64-bit offset", is_amd && seen.vector == UD ? UD : 0x30, 0);
	p32.off = (uint32_t)(unsigned long)iret_lands;
	p32.sel = SEL_CODE64;
	seen_clear();
	__asm__ volatile(TRY "ljmpl *%0" END : : "m"(p32) : "memory");
	row_seen("far jump with a 32-bit offset", 0x30, 0);
	p32.sel = SEL_UCODE64;
	seen_clear();
	__asm__ volatile(TRY "ljmpl *%0" END : : "m"(p32) : "memory");
	row_seen("far jump outward is #GP(selector)", GP, SEL_UCODE64 & ~3);
	p32.sel = 0;
	seen_clear();
	__asm__ volatile(TRY "ljmpl *%0" END : : "m"(p32) : "memory");
	row_seen("far jump to null is #GP(0)", GP, 0);
	p32.sel = SEL_TSS;
	seen_clear();
	__asm__ volatile(TRY "ljmpl *%0" END : : "m"(p32) : "memory");
	row_seen("far jump to a TSS is #GP(selector) in long mode", GP, SEL_TSS);
	seen_clear();
	__asm__ volatile("mov %%rsp, %%rbx; push %1; push %0;" TRY "lretq" END "mov %%rbx, %%rsp" : : "r"((unsigned long)iret_lands), "r"((unsigned long)SEL_CODE64) : "rbx", "memory");
	row_seen("RETF to the same level", 0x30, 0);
	seen_clear();
	__asm__ volatile("mov %%rsp, %%rbx; push %3; push %2; push %1; push %0;" TRY "lretq" END "mov %%rbx, %%rsp" : : "r"((unsigned long)iret_lands),
			 "r"((unsigned long)SEL_UCODE64), "r"(0x9f008ul), "r"((unsigned long)SEL_UDATA) : "rbx", "memory");
	row_seen("RETF to CPL 3", 0x30, 0);
	row("has its stack", seen.sp, 0x9f008);
	__asm__ volatile("mov %0, %%ss; mov %0, %%ds; mov %0, %%es" : : "r"(SEL_DATA));
	/* A call gate from CPL 0 to CPL 0: pushes two quadwords. */
	gdt[GDT_FREE] = ((unsigned long)iret_lands & 0xffff) | (uint64_t)SEL_CODE64 << 16 | 0x8cull << 40 | (uint64_t)((unsigned long)iret_lands >> 16) << 48;
	gdt[GDT_FREE + 1] = 0;
	p32.sel = SEL_FREE;
	seen_clear();
	__asm__ volatile("mov %%rsp, %0; mov %%rsp, %%rbx;" TRY "lcalll *%1" END "mov %%rbx, %%rsp" : "=&r"(sp0) : "m"(p32) : "rbx", "memory");
	sp1 = seen.sp;
	row_seen("a 64-bit call gate", 0x30, 0);
	row("pushes CS and RIP as quadwords", sp0 - sp1, 16);
	gdt[GDT_FREE + 1] = 1ull << 40;
	seen_clear();
	__asm__ volatile(TRY "lcalll *%0" END : : "m"(p32) : "memory");
	row_seen("a call gate whose upper half has a type is #GP(selector)", GP, SEL_FREE);
	gdt[GDT_FREE + 1] = 0x8000;
	seen_clear();
	__asm__ volatile(TRY "lcalll *%0" END : : "m"(p32) : "memory");
	row_seen("a call gate to a non-canonical address is #GP(0)", GP, 0);
	idt[0x30].type = GATE_INT;
	catch_at_cpl0 = false;
}

/* ---- SYSCALL --------------------------------------------------------------------------------------------------------------------------------- */

static unsigned long sc[4];
extern char syscall_entry[];
__asm__(".pushsection .text; syscall_entry: mov %rcx, sc(%rip); mov %r11, sc+8(%rip); mov %rsp, sc+16(%rip); mov %cs, sc+24(%rip); sysretq; .popsection");

static void user_syscall(void)
{
	__asm__ volatile("pushfq; orl $0x401, (%%rsp); popfq; syscall; 1: lea 1b(%%rip), %%rax; mov %%rax, %0; pushfq; pop %1; cld" : "=m"(user_sink), "=m"(sc[3]) : : "rax", "rcx", "r11", "memory", "cc");
}

static unsigned long user_cs, user_ss;

static void user_segments(void)
{
	__asm__ volatile("syscall; mov %%cs, %0; mov %%ss, %1" : "=m"(user_cs), "=m"(user_ss) : : "rcx", "r11", "memory");
}

static void test_syscall(void)
{
	wrmsr(0xc0000081, (uint64_t)SEL_CODE64 << 32 | (uint64_t)(0x2b) << 48);
	gdt[4] = desc(0, 0xfffff, 0x93, 0xc);	/* SYSCALL's SS is CS + 8 */
	wrmsr(0xc0000082, (unsigned long)syscall_entry);
	wrmsr(0xc0000084, 0x700);
	run_user(user_syscall);
	row("SYSCALL leaves the return address in RCX", sc[0], user_sink);
	row("the flags in R11", sc[1] & 0x401, 0x401);
	row("SYSRET brings the flags back", sc[3] & 0x401, 0x401);
	run_user(user_segments);
	row("SYSRET's CS is STAR's plus 16", user_cs & 0xffff, 0x3b);
	row("its SS is STAR's plus 8", user_ss & 0xffff, 0x33);
	wrmsr(0xc0000080, rdmsr(0xc0000080) & ~1ul);
	seen_clear();
	__asm__ volatile(TRY "syscall" END : : : "rcx", "r11", "memory");
	row_seen("SYSCALL without EFER.SCE is #UD", UD, 0);
	seen_clear();
	__asm__ volatile(TRY "sysretq" END : : : "rcx", "r11", "memory");
	row_seen("SYSRET too", UD, 0);
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
	if (!is_amd) {
		seen_clear();
		__asm__ volatile(TRY "sysretq" END : : "c"(NONCANONICAL) : "r11", "memory");
		row_seen("SYSRET to a non-canonical RCX is #GP(0) at CPL 0", GP, 0);
		row("the fault is taken at CPL 0", seen.cs, SEL_CODE64);
	}
	gdt[4] = desc(0, 0xfffff, 0xf3, 0xc);
}

/* ---- control registers, MSRs ------------------------------------------------------------------------------------------------------------------- */

#define WRITE_CR(n, v) do { seen_clear(); __asm__ volatile(TRY "mov %0, %%cr" #n END : : "r"((unsigned long)(v)) : "memory"); } while (0)
#define WRMSR(i, v) do { uint64_t v_ = (v); seen_clear(); __asm__ volatile(TRY "wrmsr" END : : "c"(i), "a"((uint32_t)v_), "d"((uint32_t)(v_ >> 32)) : "memory"); } while (0)

static void test_control(void)
{
	unsigned long v;

	WRITE_CR(0, read_cr0() | 1ul << 32);
	row_seen("an upper bit in CR0 is #GP(0)", GP, 0);
	WRITE_CR(0, read_cr0() & ~0x80000000ul);
	row_seen("clearing CR0.PG in 64-bit mode is #GP(0)", GP, 0);
	WRITE_CR(0, read_cr0() & ~1ul);
	row_seen("clearing CR0.PE with paging on is #GP(0)", GP, 0);
	WRITE_CR(0, (read_cr0() | 0x20000000) & ~0x40000000ul);
	row_seen("CR0.NW without CD is #GP(0)", GP, 0);
	WRITE_CR(4, read_cr4() & ~0x20ul);
	row_seen("clearing CR4.PAE in long mode is #GP(0)", GP, 0);
	WRITE_CR(4, read_cr4() | 1ul << 31);
	row_seen("a reserved bit in CR4 is #GP(0)", GP, 0);
	WRITE_CR(4, read_cr4() ^ 1ul << 12);
	row_seen("changing CR4.LA57 in long mode is #GP(0)", GP, 0);
	WRITE_CR(3, read_cr3() | 1ul << 62);
	row_seen("a bit of CR3 above the physical width is #GP(0)", GP, 0);
	WRITE_CR(3, read_cr3() | 1ul << 63);
	row_seen("bit 63 of CR3 without PCIDE is #GP(0)", GP, 0);
	WRITE_CR(8, 16);
	row_seen("CR8 takes four bits", GP, 0);
	WRITE_CR(8, 0);
	seen_clear();
	__asm__ volatile(TRY ".byte 0x0f, 0x20, 0xc8" END : : : "rax", "memory");
	row_seen("CR1 is #UD", UD, 0);
	seen_clear();
	__asm__ volatile(TRY ".byte 0x0f, 0x20, 0xe8" END : : : "rax", "memory");
	row_seen("CR5 is #UD", UD, 0);
	if (cpuid_bit(1, 0, 2, 17)) {
		write_cr3(0x10001);
		WRITE_CR(4, read_cr4() | 1ul << 17);
		row_seen("setting PCIDE with a PCID in CR3 is #GP(0)", GP, 0);
		write_cr3(0x10000);
		WRITE_CR(4, read_cr4() | 1ul << 17);
		row_seen("setting PCIDE with PCID 0", VEC_NONE, 0);
		WRITE_CR(3, 0x10001 | 1ul << 63);
		row_seen("then bit 63 of CR3 is allowed", VEC_NONE, 0);
		row("and not stored", read_cr3(), 0x10001);
		write_cr3(0x10000);
		write_cr4(read_cr4() & ~(1ul << 17));
	} else {
		row_skip("PCID", "not offered");
	}
	__asm__ volatile("smsw %0" : "=r"(v));
	row("SMSW gives CR0", v & 0xffffffff, read_cr0());
	write_cr0(read_cr0() | 8);
	__asm__ volatile("clts");
	row("CLTS clears TS", read_cr0() & 8, 0);
	__asm__ volatile("lmsw %w0" : : "r"(0x18 | 1));
	row("LMSW sets TS", read_cr0() & 8, 8);
	seen_clear();
	__asm__ volatile(TRY "fnop" END : : : "memory");
	row_seen("x87 with TS is #NM", NM, 0);
	__asm__ volatile("lmsw %w0" : : "r"(0));
	row("LMSW does not clear PE", read_cr0() & 9, 1);
}

static void test_msrs(void)
{
	static const struct { uint32_t msr; const char *name; } canonical[] = {
		{ 0xc0000100, "FS_BASE refuses a non-canonical value" }, { 0xc0000101, "GS_BASE" },
		{ 0xc0000102, "KERNEL_GS_BASE" }, { 0xc0000082, "LSTAR" }, { 0xc0000083, "CSTAR" },
	};
	unsigned long v;

	for (unsigned i = 0; i < sizeof(canonical) / sizeof(canonical[0]); i++) {
		WRMSR(canonical[i].msr, NEVER_CANONICAL);
		row_seen(canonical[i].name, GP, 0);
		WRMSR(canonical[i].msr, 0xffff800000000000);
		row_seen("and takes a canonical one", VEC_NONE, 0);
		row("reads it back", rdmsr(canonical[i].msr), 0xffff800000000000);
		wrmsr(canonical[i].msr, 0);
	}
	WRMSR(0x12345678, 0);
	row_seen("an unknown MSR is #GP(0)", GP, 0);
	WRMSR(0xc0000080, rdmsr(0xc0000080) & ~0x100ul);
	row_seen("clearing EFER.LME with paging on is #GP(0)", GP, 0);
	WRMSR(0xc0000080, rdmsr(0xc0000080) | 1ul << 62);
	row_seen("a reserved bit in EFER is #GP(0)", GP, 0);
	WRMSR(0x277, 0x0007040600070402);
	row_seen("a reserved type in PAT is #GP(0)", GP, 0);
	WRMSR(0x277, 0x0007040600070406);
	row_seen("PAT's reset value", VEC_NONE, 0);
	__asm__ volatile("mov %%gs:0, %0" : "=r"(v));
	wrmsr(0xc0000101, 0x1000);
	wrmsr(0xc0000102, 0x2000);
	__asm__ volatile("swapgs");
	row("SWAPGS exchanges the bases", rdmsr(0xc0000101), 0x2000);
	row("both ways", rdmsr(0xc0000102), 0x1000);
	wrmsr(0xc0000101, 0);
	if (cpuid_bit(7, 0, 1, 0)) {
		seen_clear();
		__asm__ volatile(TRY "rdfsbase %0" END : "=r"(v) : : "memory");
		row_seen("RDFSBASE without CR4.FSGSBASE is #UD", UD, 0);
		write_cr4(read_cr4() | 1ul << 16);
		__asm__ volatile("wrfsbase %1; rdfsbase %0" : "=r"(v) : "r"(0x123456789abul));
		row("WRFSBASE and RDFSBASE", v, 0x123456789ab);
		seen_clear();
		__asm__ volatile(TRY "wrgsbase %0" END : : "r"(NEVER_CANONICAL) : "memory");
		row_seen("WRGSBASE of a non-canonical value is #GP(0)", GP, 0);
		write_cr4(read_cr4() & ~(1ul << 16));
	} else {
		row_skip("FSGSBASE", "not offered");
	}
}

static void user_rdtsc(void)
{
	__asm__ volatile(TRY "rdtsc" END : : : "rax", "rdx", "memory");
}

static void user_sgdt(void)
{
	static uint8_t buf[10];

	__asm__ volatile(TRY "sgdt %0" END : "=m"(buf) : : "memory");
}

static void user_rdmsr(void)
{
	__asm__ volatile(TRY "rdmsr" END : : "c"(0x10) : "rax", "rdx", "memory");
}

static void user_popf(void)
{
	__asm__ volatile("push $0x2; popfq; pushfq; pop %0; push $0x3202; popfq" : "=m"(user_sink) : : "memory", "cc");
}

static void user_in(void)
{
	__asm__ volatile("push $0x2; popfq;" : : : "memory");
	__asm__ volatile(TRY "inb $0x80, %%al" END : : : "rax", "memory");
}

/* run_user() with another IOPL: the frame's flags are patched by the hook of INT 0x31. */
static bool drop_iopl(struct frame *f)
{
	f->flags &= ~0x3000ul;
	return f->vector == 0x31;
}

static void user_port_denied(void)
{
	__asm__ volatile("int $0x31" : : : "memory");
	__asm__ volatile(TRY "inb $0xe9, %%al" END : : : "rax", "memory");
}

static void user_port_allowed(void)
{
	__asm__ volatile("int $0x31" : : : "memory");
	__asm__ volatile(TRY "inb $0xea, %%al" END : : : "rax", "memory");
}

static void user_port_wide(void)
{
	__asm__ volatile("int $0x31" : : : "memory");
	__asm__ volatile(TRY "inw $0xea, %%ax" END : : : "rax", "memory");
}

static void user_cli(void)
{
	__asm__ volatile("int $0x31" : : : "memory");
	__asm__ volatile(TRY "cli" END : : : "memory");
}

static void test_user(void)
{
	seen_clear();
	run_user(user_rdtsc);
	row_seen("RDTSC at CPL 3", VEC_NONE, 0);
	write_cr4(read_cr4() | 4);
	seen_clear();
	run_user(user_rdtsc);
	row_seen("with CR4.TSD it is #GP(0)", GP, 0);
	write_cr4(read_cr4() & ~4ul);
	seen_clear();
	run_user(user_rdmsr);
	row_seen("RDMSR at CPL 3 is #GP(0)", GP, 0);
	if (cpuid_bit(7, 0, 2, 2)) {
		seen_clear();
		run_user(user_sgdt);
		row_seen("SGDT at CPL 3", VEC_NONE, 0);
		write_cr4(read_cr4() | 1ul << 11);
		seen_clear();
		run_user(user_sgdt);
		row_seen("with CR4.UMIP it is #GP(0)", GP, 0);
		write_cr4(read_cr4() & ~(1ul << 11));
	}
	run_user(user_popf);
	row("POPF at CPL 3 does not change IOPL", user_sink & 0x3000, 0x3000);
	seen_clear();
	run_user(user_in);
	row_seen("IN with IOPL 3", VEC_NONE, 0);
	/* Without IOPL the bitmap decides. */
	idt[0x31].type = GATE_INT | GATE_DPL3;
	hook = drop_iopl;
	*(uint16_t *)(tss + 102) = 104;
	for (unsigned i = 104; i < sizeof(tss); i++)
		tss[i] = 0xff;
	tss[104 + 0xea / 8] &= (uint8_t)~(1u << (0xea & 7));
	seen_clear();
	run_user(user_port_denied);
	row_seen("a port whose bit is set is #GP(0)", GP, 0);
	seen_clear();
	run_user(user_port_allowed);
	row_seen("a port whose bit is clear passes", 0x31, 0);
	seen_clear();
	run_user(user_port_wide);
	row_seen("two bytes need two bits", GP, 0);
	*(uint16_t *)(tss + 102) = sizeof(tss);
	seen_clear();
	run_user(user_port_allowed);
	row_seen("without a bitmap every port is #GP(0)", GP, 0);
	seen_clear();
	run_user(user_cli);
	row_seen("CLI without IOPL is #GP(0)", GP, 0);
	hook = NULL;
	idt[0x31].type = GATE_INT;
}

/* ---- code that changes, port strings -------------------------------------------------------------------------------------------------------------- */

static void test_smc(void)
{
	unsigned long (*f)(void) = (void *)0x33ff8;
	uint8_t *p = (uint8_t *)0x33ff8;
	unsigned long v;

	/* mov $imm32, %eax across the page end: 0x33ffc .. 0x34000 */
	p[0] = p[1] = p[2] = p[3] = 0x90;
	p[4] = 0xb8;
	*(uint32_t *)(p + 5) = 0x11111111;
	p[9] = 0xc3;
	row("code across a page end", f(), 0x11111111);
	p[8] = 0x22;
	row("changed in its second page", f(), 0x22111111);
	p[5] = 0x33;
	row("changed in its first", f(), 0x22111133);
	/* The next instruction, rewritten by the one before it. */
	__asm__ volatile("movb $0x42, 1f+1(%%rip); 1: mov $0x41, %%al; movzbl %%al, %%eax" : "=a"(v) : : "memory");
	row("an instruction rewritten by the one before it", v, 0x42);
}

static void test_strings_io(void)
{
	uint8_t *p = (uint8_t *)0x34000;
	unsigned long c = 3, d = 0x34000;

	p[3] = 0x77;
	__asm__ volatile("rep insb" : "+c"(c), "+D"(d) : "d"(0xe9) : "memory");
	row("REP INSB reads RCX bytes", c, 0);
	row("and moves RDI", d, 0x34003);
	row("and no further", p[3], 0x77);
	set_pte(0x35000, 0);
	c = 4;
	d = 0x34fff;
	seen_clear();
	__asm__ volatile(TRY "rep insb" END : "+c"(c), "+D"(d) : "d"(0xe9) : "memory");
	row_seen("REP INSB into an absent page is #PF(2)", PF, 2);
	row("after what could be stored", c, 3);
	row("with RDI at the fault", d, 0x35000);
	set_pte(0x35000, 0x35007);
}

int main(void)
{
	uint32_t r[4];

	cpuid(0, 0, r);
	is_amd = r[1] == 0x68747541;
	gdt_init();
	idt_init();
	test_faults();
	test_paging();
	test_smap();
	test_smep();
	test_segments();
	test_selectors();
	test_idt();
	test_idt_flags();
	test_double_fault();
	test_iret();
	test_compat_high();
	test_far();
	test_syscall();
	test_control();
	test_msrs();
	test_user();
	test_smc();
	test_strings_io();
	return 0;
}
