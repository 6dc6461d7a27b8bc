/* SPDX-License-Identifier: MIT */
/*
 * Debug facilities in 64-bit mode: single step, breakpoints on code, data and ports, DR6 and DR7, the shadow of MOV SS.
 * Source of the expectations: Intel SDM vol. 3 "Debug Exceptions".
 */
#include "lib.h"

enum { DB = 1, UD = 6, GP = 13 };
#define DR6_ONES 0xffff0ff0ul

static unsigned long steps[32], dr6s[32], n_steps;

/* Every #DB is noted and passed; TF stays as the program has it, RF is set for code breakpoints. */
static bool note(struct frame *f)
{
	unsigned long dr6;

	if (f->vector != DB)
		return false;
	dr6 = read_dr6();
	if (n_steps < 32) {
		steps[n_steps] = f->ip;
		dr6s[n_steps++] = dr6;
	}
	write_dr6(DR6_ONES);
	f->flags |= FL_RF;
	return true;
}

static void start(void)
{
	n_steps = 0;
	for (unsigned i = 0; i < 32; i++)
		steps[i] = dr6s[i] = 0;
	write_dr6(DR6_ONES);
	seen_clear();
}

#define TF_ON	"pushfq; orl $0x100, (%%rsp); popfq;"
#define TF_OFF	"pushfq; andl $~0x100, (%%rsp); popfq;"

static void test_step(void)
{
	unsigned long a, b, c;

	start();
	__asm__ volatile(TF_ON "1: nop; 2: nop; 3:" TF_OFF "lea 1b(%%rip), %0; lea 2b(%%rip), %1; lea 3b(%%rip), %2" : "=r"(a), "=r"(b), "=r"(c) : : "memory", "cc");
	row("the instruction after POPF is the first to trap", steps[0], b);
	row("then each", steps[1], c);
	row("DR6 says single step", dr6s[0], DR6_ONES | 0x4000);
	row("a trap every instruction until TF is cleared", n_steps, 5);
	row("the last, after POPF, pushes TF clear", seen.flags & FL_TF, 0);

	start();
	__asm__ volatile("mov %%ss, %%eax;" TF_ON "1: mov %%eax, %%ss; 2: nop; 3: nop; 4:" TF_OFF "lea 3b(%%rip), %0" : "=r"(a) : : "rax", "memory", "cc");
	row("MOV SS is not stepped: the trap comes after the next", steps[0], a);

	start();
	__asm__ volatile(TF_ON "1: mov $3, %%ecx; 2: rep stosb; 3:" TF_OFF "lea 2b(%%rip), %0; lea 3b(%%rip), %1" : "=&r"(a), "=&r"(b) : "D"(0x30000), "a"(0) : "rcx", "memory", "cc");
	row("a repeated string traps after each iteration", steps[1], a);
	row("the last one after it", steps[3], b);

	start();
	idt[0x30].type = GATE_INT;
	hook = NULL;
	__asm__ volatile(TRY TF_ON "int $0x30" END TF_OFF : : : "memory", "cc");
	row_seen("INT n with TF is not stepped", 0x30, 0);
	hook = note;

	start();
	__asm__ volatile("xor %%eax, %%eax;" TF_ON "cpuid; 2: nop;" TF_OFF "lea 2b(%%rip), %0" : "=r"(a) : : "rax", "rbx", "rcx", "rdx", "memory", "cc");
	row("CPUID is stepped", steps[0], a);

	start();
	__asm__ volatile(TF_ON "inb $0x80, %%al; 2: nop;" TF_OFF "lea 2b(%%rip), %0" : "=r"(a) : : "rax", "memory", "cc");
	row("IN is stepped", steps[0], a);
}

static unsigned long entry_rip;
extern char stepped_syscall[];
__asm__(".pushsection .text; stepped_syscall: nop; nop; mov %rcx, %rax; pushfq; andl $~0x100, (%rsp); popfq; jmp *%rax; .popsection");

static void test_step_syscall(void)
{
	wrmsr(0xc0000081, (uint64_t)SEL_CODE64 << 32);
	wrmsr(0xc0000082, (unsigned long)stepped_syscall);
	gdt[4] = desc(0, 0xfffff, 0x93, 0xc);
	wrmsr(0xc0000084, 0);
	start();
	__asm__ volatile(TF_ON "syscall; 1:" TF_OFF : : : "rax", "rcx", "r11", "memory", "cc");
	entry_rip = (unsigned long)stepped_syscall;
	row("SYSCALL with TF kept traps at its target", steps[0], entry_rip);
	wrmsr(0xc0000084, FL_TF);
	start();
	__asm__ volatile(TF_ON "syscall; 1:" TF_OFF : : : "rax", "rcx", "r11", "memory", "cc");
	row("SYSCALL with TF masked does not trap", n_steps, 0);
	gdt[4] = desc(0, 0xfffff, 0xf3, 0xc);
	__asm__ volatile("mov %0, %%ss" : : "r"(SEL_DATA));
}

static void set_bp(unsigned n, unsigned long addr, unsigned type, unsigned len)
{
	switch (n) {
	case 0: write_dr0(addr); break;
	default: write_dr1(addr);
	}
	write_dr7((read_dr7() & ~(3ul << 2 * n | 15ul << (16 + 4 * n))) | 2ul << 2 * n | (unsigned long)(type | len << 2) << (16 + 4 * n));
}

static volatile uint64_t watched[2] __attribute__((aligned(16)));

static void test_breakpoints(void)
{
	unsigned long a, b;

	start();
	__asm__ volatile("lea 1f(%%rip), %0; jmp 2f; 1: nop; ret; 2:" : "=r"(a));
	set_bp(0, a, 0, 0);
	__asm__ volatile("call *%0" : : "r"(a) : "memory");
	row("a code breakpoint faults at its instruction", steps[0], a);
	row("DR6 says B0", dr6s[0], DR6_ONES | 1);
	row("once, because the handler returned RF", n_steps, 1);
	row("the pushed RF is 0", seen.flags & FL_RF, 0);
	__asm__ volatile("call *%0" : : "r"(a) : "memory");
	row("RF lasts one instruction", n_steps, 2);

	start();
	__asm__ volatile("mov %%ss, %%eax; lea 1f(%%rip), %0; mov %0, %%dr0; mov %%eax, %%ss; 1: nop; 2:" : "=&r"(a) : : "rax", "memory");
	row("a code breakpoint after MOV SS is missed", n_steps, 0);
	write_dr7(0x400);

	set_bp(0, (unsigned long)&watched[0], 1, 3);
	start();
	__asm__ volatile("movl $1, %1; 1: nop; lea 1b(%%rip), %0" : "=r"(a), "=m"(watched[0]));
	row("a write breakpoint traps after the store", steps[0], a);
	row("DR6 says B0", dr6s[0], DR6_ONES | 1);
	start();
	b = watched[0];
	row("a read does not meet it", n_steps, 0);
	__asm__ volatile("movl $1, 4+%0" : "=m"(watched[0]));
	row("its length counts", n_steps, 0);
	__asm__ volatile("movb $1, 3+%0" : "=m"(watched[0]));
	row("its last byte too", n_steps, 1);
	start();
	set_bp(0, (unsigned long)&watched[0], 3, 2);
	b = watched[0] + b;
	row("a read-write breakpoint meets reads", n_steps, 1);
	__asm__ volatile("movq $1, %0" : "=m"(watched[0]));
	row("and writes", n_steps, 2);
	start();
	__asm__ volatile("lea %2, %%rdi; mov $8, %%ecx; xor %%eax, %%eax; 1: rep stosb; 2: lea 1b(%%rip), %0; lea 2b(%%rip), %1"
			 : "=&r"(a), "=&r"(b), "=m"(watched[0]) : : "rax", "rcx", "rdi", "memory");
	row("each iteration of a string", n_steps, 8);
	start();
	watched[1] = 1;
	row("the neighbour is not watched", n_steps, 0);
	start();
	__asm__ volatile("mov %%ss, %%eax; mov %%eax, %1; movw %1, %%ss; 1: nop; 2: nop; 3: lea 2b(%%rip), %0" : "=&r"(a), "=m"(watched[0]) : : "rax", "memory");
	row("a data breakpoint met by MOV SS is held for one instruction", steps[1], a);
	write_dr7(0x400);

	write_cr4(read_cr4() | 8);
	set_bp(1, 0x80, 2, 0);
	start();
	__asm__ volatile("outb %%al, $0x80; 1: nop; lea 1b(%%rip), %0" : "=r"(a) : : "memory");
	row("a port breakpoint traps after OUT", steps[0], a);
	row("DR6 says B1", dr6s[0], DR6_ONES | 2);
	start();
	outb(0x81, 0);
	row("another port is another port", n_steps, 0);
	write_dr7(0x400);
	write_cr4(read_cr4() & ~8ul);
}

static void test_registers(void)
{
	unsigned long v;

	start();
	hook = NULL;
	write_dr7(0x2400);
	__asm__ volatile(TRY "mov %%dr0, %0" END : "=r"(v) : : "memory");
	row_seen("with DR7.GD a look at DR0 is #DB", DB, 0);
	row("DR7.GD is clear in the handler", read_dr7() & 0x2000, 0);
	row("DR6 says BD", read_dr6() & 0x2000, 0x2000);
	seen_clear();
	__asm__ volatile(TRY "mov %0, %%dr7" END : : "r"(1ul << 32) : "memory");
	row_seen("an upper bit in DR7 is #GP(0)", GP, 0);
	seen_clear();
	__asm__ volatile(TRY "mov %0, %%dr6" END : : "r"(1ul << 32) : "memory");
	row_seen("in DR6 too", GP, 0);
	write_dr6(0);
	row("DR6's fixed bits", read_dr6(), DR6_ONES);
	write_dr7(0);
	row("DR7's fixed bit", read_dr7(), 0x400);
	__asm__ volatile(".byte 0x0f, 0x21, 0xe0" : "=a"(v));
	row("DR4 is DR6 without CR4.DE", v, DR6_ONES);
	write_cr4(read_cr4() | 8);
	seen_clear();
	__asm__ volatile(TRY ".byte 0x0f, 0x21, 0xe0" END : "=a"(v) : : "memory");
	row_seen("with CR4.DE it is #UD", UD, 0);
	write_cr4(read_cr4() & ~8ul);
}

static void test_int1(void)
{
	unsigned long a;

	hook = note;
	start();
	__asm__ volatile(TF_ON ".byte 0xf1; 2: nop;" TF_OFF "lea 2b(%%rip), %0" : "=r"(a) : : "memory", "cc");
	row("INT1 under TF traps once for itself", steps[0], a);
	row("with no bit in DR6", dr6s[0], DR6_ONES);
}

int main(void)
{
	gdt_init();
	idt_init();
	hook = note;
	test_step();
	test_step_syscall();
	test_breakpoints();
	test_registers();
	test_int1();
	return 0;
}
