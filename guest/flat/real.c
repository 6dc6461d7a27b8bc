/* SPDX-License-Identifier: MIT */
/*
 * Real mode, from the reset vector: IVT, segments that wrap, flags, far transfers, big real mode. Compiled with -m16: 32-bit
 * registers and addresses, segment 0.
 */
#include "lib.h"

struct vector { uint16_t ip, cs; };
#define IVT ((volatile struct vector *)0)

static volatile uint32_t got[8];

/* Handlers: note that they ran, and what IP was pushed. The #UD, #GP and #SS ones go on at `resume`. */
extern char on_int[], on_fault[];
volatile uint16_t resume;
__asm__(".pushsection .text; .code16\n"
	"on_int: incl %cs:got; pushw %bp; movw %sp, %bp; pushl %eax; movw 2(%bp), %ax; movw %ax, %cs:got+4; movw 6(%bp), %ax; movw %ax, %cs:got+8;"
	" pushfw; popw %ax; movw %ax, %cs:got+12; movw %sp, %ax; movw %ax, %cs:got+16; popl %eax; popw %bp; iretw\n"
	"on_fault: incl %cs:got; pushw %bp; movw %sp, %bp; pushl %eax; movw 2(%bp), %ax; movw %ax, %cs:got+4; movw %cs:resume, %ax; movw %ax, 2(%bp);"
	" popl %eax; popw %bp; iretw\n"
	".code16gcc; .popsection");

static void set_vector(unsigned n, void *to)
{
	IVT[n].ip = (uint16_t)(uint32_t)to;
	IVT[n].cs = 0;
}

static void clear(void)
{
	for (unsigned i = 0; i < 8; i++)
		got[i] = 0;
}

#define TRY16 "movw $772f, resume\n\t"
#define END16 "\n772:\n\t"

static void test_interrupts(void)
{
	uint32_t ip, sp;

	set_vector(0x40, on_int);
	clear();
	__asm__ volatile("movl %%esp, %1; stc; sti; int $0x40; 1: cli; movl $1b, %0" : "=&r"(ip), "=&r"(sp) : : "memory", "cc");
	row("INT n goes through the IVT", got[0], 1);
	row("pushes the next IP", got[1] & 0xffff, ip);
	row("and the flags", got[2] & 0x203, 0x203);
	row("three words", sp - got[4], 6 + 2 + 4);
	row("IF is clear inside", got[3] & FL_IF, 0);
	clear();
	set_vector(3, on_int);
	__asm__ volatile("int3" : : : "memory");
	row("INT3", got[0], 1);
	set_vector(4, on_int);
	clear();
	__asm__ volatile("movl $0x7fffffff, %%eax; incl %%eax; into" : : : "eax", "memory", "cc");
	row("INTO with OF", got[0], 1);
	clear();
	set_vector(0, on_fault);
	__asm__ volatile("movl $1f, %1; " TRY16 "xorl %%ecx, %%ecx; movl $5, %%eax; cltd; 1: divl %%ecx" END16 : "=m"(got[7]), "=&r"(ip) : : "eax", "ecx", "edx", "memory", "cc");
	row("division by zero comes with the faulting IP", got[1] & 0xffff, ip);
	clear();
	set_vector(6, on_fault);
	__asm__ volatile(TRY16 "ud2" END16 : : : "memory");
	row("UD2", got[0], 1);
	clear();
	__asm__ volatile(TRY16 "str %%ax" END16 : : : "eax", "memory");
	row("STR is #UD in real mode", got[0], 1);
	clear();
	__asm__ volatile(TRY16 "lldt %%ax" END16 : : : "memory");
	row("LLDT too", got[0], 1);
	clear();
	__asm__ volatile(TRY16 ".byte 0x63, 0xc0" END16 : : : "memory");
	row("ARPL too", got[0], 1);
}

static void test_limits(void)
{
	set_vector(13, on_fault);
	set_vector(12, on_fault);
	clear();
	__asm__ volatile(TRY16 "movw $0xffff, %%bx; movw (%%bx), %%ax" END16 : : : "eax", "ebx", "memory");
	row("a word at FFFFh is #GP", got[0], 1);
	clear();
	__asm__ volatile(TRY16 "movl $0x10000, %%ebx; movb (%%ebx), %%al" END16 : : : "eax", "ebx", "memory");
	row("an offset above 64 KiB is #GP", got[0], 1);
	clear();
	__asm__ volatile(TRY16 "movw $0xfffe, %%bx; movw (%%bx), %%ax" END16 : : : "eax", "ebx", "memory");
	row("a word at FFFEh passes", got[0], 0);
	clear();
	__asm__ volatile(TRY16 "movl %%ebp, %%esi; movw $0xffff, %%bp; movw (%%bp), %%ax" END16 "movl %%esi, %%ebp" : : : "eax", "esi", "memory");
	row("through SS it is #SS", got[0], 1);
	{
		static struct __attribute__((packed)) { uint16_t limit; uint32_t base; } small = { 0x40 * 4 - 1, 0 }, full = { 0x3ff, 0 };

		clear();
		__asm__ volatile("lidt %0" : : "m"(small));
		__asm__ volatile(TRY16 "int $0x40" END16 : : : "memory");
		__asm__ volatile("lidt %0" : : "m"(full));
		row("INT n beyond the limit of the IVT is #GP", got[0], 1);
	}
}

static void test_segments(void)
{
	uint16_t v;

	__asm__ volatile("movw $0x3000, %%ax; movw %%ax, %%fs; movw $0x1234, %%fs:0x10; movw $0x3001, %%ax; movw %%ax, %%fs; movw %%fs:0, %0; xorw %%ax, %%ax; movw %%ax, %%fs"
			 : "=&r"(v) : : "eax", "memory");
	row("the base is the selector times 16", v, 0x1234);
	{
		static struct __attribute__((packed)) { uint16_t off, sel; } p = { 0x20, 0x3000 };
		uint16_t off;

		__asm__ volatile("lgs %1, %0" : "=r"(off) : "m"(p));
		__asm__ volatile("movw $0x5678, %%gs:0x20; movw %%gs, %0" : "=r"(v) : : "memory");
		row("LGS loads the offset", off, 0x20);
		row("and the segment", v, 0x3000);
	}
	{
		uint32_t cs_ip;

		__asm__ volatile("lcallw $0x10, $(1f - 0x100); jmp 2f; 1: movw %%cs, %%ax; movw %%ax, got; popw %%ax; movw %%ax, got+4; pushw %%ax; lretw; 2: movl $2b, %0" : "=r"(cs_ip) : : "eax", "memory");
		row("a far call to another name of the same place", got[0] & 0xffff, 0x10);
	}
	__asm__ volatile("pushw $0x1234; popw %0" : "=r"(v));
	row("PUSH and POP of a word", v, 0x1234);
	{
		uint32_t sp, pushed;

		__asm__ volatile("movl %%esp, %0; pushw %%sp; xorl %%eax, %%eax; popw %%ax; movl %%eax, %1" : "=&r"(sp), "=&r"(pushed) : : "eax", "memory");
		row("PUSH SP pushes the old value", pushed, sp & 0xffff);
	}
	{
		uint32_t fl;

		__asm__ volatile("pushfl; popl %%eax; movl %%eax, %%ecx; orl $0x7000, %%ecx; pushl %%ecx; popfl; pushfl; popl %0; pushl %%eax; popfl" : "=r"(fl) : : "eax", "ecx", "memory", "cc");
		row("IOPL and NT can be set", fl & 0x7000, 0x7000);
	}
}

/* Limits loaded in protected mode stay: 4 GiB data segments in real mode. */
static void test_big_real(void)
{
	static uint64_t gdt[3] __attribute__((aligned(8))) = { 0, 0x00cf93000000ffff, 0x000093000000ffff };
	static struct __attribute__((packed)) { uint16_t limit; uint64_t *base; } ptr = { sizeof(gdt) - 1, gdt };
	uint32_t v;

	__asm__ volatile("lgdtl %0; movl %%cr0, %%eax; orl $1, %%eax; movl %%eax, %%cr0; jmp 1f; 1: movw $8, %%bx; movw %%bx, %%fs; andl $~1, %%eax;"
			 "movl %%eax, %%cr0; jmp 2f; 2: xorw %%bx, %%bx; movw %%bx, %%fs" : : "m"(ptr) : "eax", "ebx", "memory");
	clear();
	__asm__ volatile(TRY16 "movl $0xcafe1234, %%fs:(%1); movl %%fs:(%1), %0" END16 : "=r"(v) : "r"(0x200000) : "memory");
	row("big real mode reaches above 1 MiB", v, 0xcafe1234);
	row("without a fault", got[0], 0);
	__asm__ volatile("movw $0x3000, %%bx; movw %%bx, %%fs; movl $0x11223344, %%fs:(%1); movl %%fs:(%1), %0; xorw %%bx, %%bx; movw %%bx, %%fs" : "=&r"(v) : "r"(0x1d0000) : "ebx", "memory");
	row("a new selector keeps the big limit", v, 0x11223344);
}

static void test_step(void)
{
	set_vector(1, on_int);
	clear();
	__asm__ volatile("pushfw; popw %%ax; orw $0x100, %%ax; pushw %%ax; popfw; nop; nop; andw $~0x100, %%ax; pushw %%ax; popfw" : : : "eax", "memory", "cc");
	row("single step in real mode", got[0], 5);
}

int main(void)
{
	test_interrupts();
	test_limits();
	test_segments();
	test_big_real();
	test_step();
	return 0;
}
