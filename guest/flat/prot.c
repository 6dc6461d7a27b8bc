/* SPDX-License-Identifier: MIT */
/*
 * 32-bit protected mode: segment limits and types, gates, hardware task switches, virtual-8086 mode, 16-bit segments and gates,
 * PSE and PAE paging. Expectations: Intel SDM.
 */
#include "lib.h"

enum { DE, DB, NMI, BP, OF, BR, UD, NM, DF, TS = 10, NP, SS, GP, PF };

void *memset(void *p, int c, size_t n);

static struct __attribute__((packed)) far { uint32_t off; uint16_t sel; } far;

static uint64_t call_gate(unsigned sel, unsigned long off, unsigned type, unsigned params, unsigned dpl)
{
	return (off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)(params | (0x80u | dpl << 5 | type) << 8) << 32 | (uint64_t)(off >> 16) << 48;
}

/* ---- limits and types ---------------------------------------------------------------------------------------------------------- */

static void fs_is(uint64_t d)
{
	gdt[GDT_FREE] = d;
	__asm__ volatile("mov %0, %%fs" : : "r"(SEL_FREE));
}


static void read8(unsigned off)
{
	seen_clear();
	__asm__ volatile(TRY "movb %%fs:(%0), %%al" END : : "r"(off) : "eax", "memory");
}

static void read32(unsigned off)
{
	seen_clear();
	__asm__ volatile(TRY "movl %%fs:(%0), %%eax" END : : "r"(off) : "eax", "memory");
}

static void write32(unsigned off)
{
	seen_clear();
	__asm__ volatile(TRY "movl %%eax, %%fs:(%0)" END : : "r"(off) : "memory");
}

static void test_limits(void)
{
	fs_is(desc(0x30000, 0xfff, 0x93, 0x4));
	read32(0xffc);
	row_seen("the last doubleword of a segment", VEC_NONE, 0);
	read32(0xffd);
	row_seen("one byte beyond the limit is #GP(0)", GP, 0);
	read8(0x1000);
	row_seen("a byte beyond the limit is #GP(0)", GP, 0);
	read32(0xfffffffe);
	row_seen("wrapping around 4 GiB is #GP(0)", GP, 0);
	*(volatile uint32_t *)0x30010 = 0x12345678;
	{
		uint32_t v;

		__asm__ volatile("movl %%fs:0x10, %0" : "=r"(v));
		row("the base is added", v, 0x12345678);
	}
	fs_is(desc(0x30000, 0xfff, 0x97, 0x4));
	read8(0xfff);
	row_seen("expand-down: below the limit is #GP(0)", GP, 0);
	read8(0x1000);
	row_seen("above it passes", VEC_NONE, 0);
	fs_is(desc(0x30000, 0xfff, 0x97, 0x0));
	read8(0xffff);
	row_seen("a 16-bit expand-down segment ends at 64 KiB", VEC_NONE, 0);
	read8(0x10000);
	row_seen("and not above", GP, 0);
	fs_is(desc(0x30000, 0xfff, 0x91, 0x4));
	write32(0);
	row_seen("writing read-only data is #GP(0)", GP, 0);
	fs_is(desc(0x30000, 0xfff, 0x9b, 0x4));
	read32(0);
	row_seen("readable code reads", VEC_NONE, 0);
	write32(0);
	row_seen("and does not write", GP, 0);
	__asm__ volatile("mov %0, %%fs" : : "r"(0));
	read32(0);
	row_seen("a null segment is #GP(0)", GP, 0);
	seen_clear();
	__asm__ volatile(TRY "movl %%eax, %%cs:0x30000" END : : : "memory");
	row_seen("writing through CS is #GP(0)", GP, 0);
	gdt[GDT_FREE + 1] = desc(0, 0x8f, 0x93, 0xc);	/* 0x8ffff */
	seen_clear();
	__asm__ volatile("mov %0, %%ss;" TRY "movl 0x90000(%%ebp), %%eax" END "mov %1, %%ss" : : "r"(SEL_FREE + 8), "r"(SEL_DATA), "b"(0) : "eax", "memory");
	row_seen("beyond the limit of SS is #SS(0)", SS, 0);
	seen_clear();
	__asm__ volatile(TRY "mov %0, %%ss" END : : "r"(0) : "memory");
	row_seen("a null SS is #GP(0)", GP, 0);
	gdt[GDT_FREE] = desc(0, 0xfffff, 0x9c, 0xc);
	seen_clear();
	__asm__ volatile(TRY "mov %0, %%fs" END : : "r"(SEL_FREE) : "memory");
	row_seen("execute-only code in FS is #GP(selector)", GP, SEL_FREE);
	far.off = 0;
	gdt[GDT_FREE] = desc(0, 0xfff, 0x9b, 0x4);
	far.sel = SEL_FREE;
	far.off = 0x2000;
	seen_clear();
	__asm__ volatile(TRY "ljmp *%0" END : : "m"(far) : "memory");
	row_seen("a far jump beyond the target's limit is #GP(0)", GP, 0);
	__asm__ volatile("mov %0, %%fs" : : "r"(SEL_DATA));
}

static void test_old_instructions(void)
{
	static int32_t bounds[2] = { -5, 10 };
	uint16_t sel = SEL_DATA;
	uint8_t zf;

	seen_clear();
	__asm__ volatile(TRY "bound %0, %1" END : : "r"(11), "m"(bounds) : "memory");
	row_seen("BOUND outside is #BR", BR, 0);
	seen_clear();
	__asm__ volatile(TRY "bound %0, %1" END : : "r"(-5), "m"(bounds) : "memory");
	row_seen("BOUND inside passes", VEC_NONE, 0);
	seen_clear();
	__asm__ volatile("mov $0x7fffffff, %%eax; inc %%eax;" TRY "into" END : : : "eax", "memory", "cc");
	row_seen("INTO with OF is #OF", OF, 0);
	seen_clear();
	__asm__ volatile("xor %%eax, %%eax;" TRY "into" END : : : "eax", "memory", "cc");
	row_seen("INTO without OF passes", VEC_NONE, 0);
	__asm__ volatile("arpl %2, %0; setz %1" : "+r"(sel), "=q"(zf) : "r"((uint16_t)3) : "cc");
	row("ARPL raises the RPL", sel, SEL_DATA | 3);
	row("and says so", zf, 1);
	__asm__ volatile("arpl %2, %0; setz %1" : "+r"(sel), "=q"(zf) : "r"((uint16_t)1) : "cc");
	row("ARPL does not lower it", sel, SEL_DATA | 3);
	row("and says so", zf, 0);
	seen_clear();
	__asm__ volatile(TRY "syscall" END : : : "ecx", "memory");
	if (seen.vector != VEC_NONE)
		row_seen("SYSCALL with EFER.SCE clear is #UD", UD, 0);
}

/* ---- call gates ---------------------------------------------------------------------------------------------------------------------- */

static volatile unsigned long got[8];
extern char gate_target[], gate_target16[], conforming_target[];
__asm__(".pushsection .text\n"
	/* From CPL 3 with two parameters: EIP, CS, p0, p1, ESP, SS. */
	"gate_target: movl 8(%esp), %eax; movl %eax, got; movl 12(%esp), %eax; movl %eax, got+4; movw %cs, got+8; movw %ss, got+12;"
	" movl 16(%esp), %eax; movl %eax, got+16; movl %esp, got+20; lret $8\n"
	"gate_target16: movzwl 4(%esp), %eax; movl %eax, got; movl %esp, got+20; lretw $2\n"
	"conforming_target: movw %cs, got; lret\n"
	".popsection");

static void user_gate(void)
{
	__asm__ volatile("movl %%esp, got+24; pushl $0x2222; pushl $0x1111; lcall *far; movl %%esp, got+28" : : : "eax", "memory");
}

static void user_gate16(void)
{
	/* The way back brings 16 bits of ESP. */
	__asm__ volatile("movl %%esp, %%ebx; pushw $0x3333; lcall *far; movl %%esp, got+28; movl %%ebx, %%esp" : : : "eax", "ebx", "memory");
}

static void user_far_try(void)
{
	__asm__ volatile("movl %%esp, %%ebx;" TRY "lcall *far" END "movl %%ebx, %%esp" : : : "eax", "ebx", "memory");
}

static void test_call_gates(void)
{
	gdt[GDT_FREE] = call_gate(SEL_CODE32, (unsigned long)gate_target, 12, 2, 3);
	far.sel = SEL_FREE | 3;
	run_user(user_gate);
	row("a call gate copies the first parameter", got[0], 0x1111);
	row("and the second", got[1], 0x2222);
	row("CS is the gate's, at CPL 0", got[2], SEL_CODE32);
	row("SS is the TSS's", got[3], SEL_DATA);
	row("the old ESP is above the parameters", got[4], got[6] - 8);
	row("ESP is the TSS's less the frame", got[5], 0x98000 - 24);
	row("RETF n releases both stacks", got[7], got[6]);
	gdt[GDT_FREE] = call_gate(SEL_CODE32, (unsigned long)gate_target16, 4, 1, 3);
	run_user(user_gate16);
	row("a 16-bit call gate copies a word", got[0], 0x3333);
	row("and pushes words", got[5], 0x98000 - 10);
	gdt[GDT_FREE] = call_gate(SEL_CODE32, (unsigned long)gate_target, 12, 2, 0);
	seen_clear();
	run_user(user_far_try);
	row_seen("a gate of DPL 0 from CPL 3 is #GP(selector)", GP, SEL_FREE);
	gdt[GDT_FREE] = call_gate(SEL_CODE32, (unsigned long)gate_target, 12, 2, 3) & ~(1ull << 47);
	seen_clear();
	run_user(user_far_try);
	row_seen("an absent gate is #NP(selector)", NP, SEL_FREE);
	gdt[GDT_FREE] = call_gate(SEL_DATA, (unsigned long)gate_target, 12, 2, 3);
	seen_clear();
	run_user(user_far_try);
	row_seen("a gate to data is #GP(its selector)", GP, SEL_DATA);
	gdt[GDT_FREE] = call_gate(SEL_CODE32, (unsigned long)gate_target, 12, 2, 3);
	gdt[GDT_FREE] = desc(0, 0xfffff, 0x9f, 0xc);
	far.off = (unsigned long)conforming_target;
	far.sel = SEL_FREE;
	run_user(user_far_try);
	row("conforming code runs at the caller's level", got[0] & 3, 3);
	far.sel = SEL_CODE32;
	seen_clear();
	run_user(user_far_try);
	row_seen("a direct call inward is #GP(selector)", GP, SEL_CODE32);
}

/* ---- interrupts from an outer level ------------------------------------------------------------------------------------------------------ */

static void user_ud(void)
{
	__asm__ volatile("movl %%esp, got+24;" TRY "ud2" END : : : "memory");
}

static volatile struct frame kept;

static bool keep(struct frame *f)
{
	kept.sp = f->sp;
	kept.ss = f->ss;
	kept.cs = f->cs;
	return false;
}

static void test_levels(void)
{
	hook = keep;
	seen_clear();
	run_user(user_ud);
	row_seen("an exception at CPL 3", UD, 0);
	row("pushes the outer ESP", kept.sp, got[6]);
	row("and SS", kept.ss, SEL_UDATA32);
	row("and CS", kept.cs, SEL_UCODE32);
	hook = NULL;
}

/* ---- task switches ---------------------------------------------------------------------------------------------------------------------------- */

#define TSS_B ((uint8_t *)0x20000)
#define TSS_C ((uint8_t *)0x20100)
#define SEL_B (SEL_FREE + 0x10)
#define SEL_C (SEL_FREE + 0x18)

static volatile unsigned long task_seen[8];
extern char task_b[], task_gp[], task_jmp[], task_b16[], task_b16_end[];
__asm__(".pushsection .text\n"
	"task_b: incl task_seen; movl %ebx, task_seen+4; pushfl; popl task_seen+8; str %eax; movl %eax, task_seen+12;"
	" movl %cr0, %eax; movl %eax, task_seen+16; iretl; jmp task_b\n"
	/* #GP through a task gate: the error code is on the stack; EIP of the faulting task is moved past the instruction. */
	"task_gp: popl task_seen; movl tss+0x20, %eax; movl %eax, task_seen+4; movl catch_ip, %eax; movl %eax, tss+0x20; iretl; jmp task_gp\n"
	"task_jmp: incl task_seen; ljmp $0x40, $0; jmp task_jmp\n"
	"task_b16: incl task_seen; movl %ebx, task_seen+4; iretl; task_b16_end: jmp task_b16\n"
	".popsection");

static void make_tss(uint8_t *t, void *eip, unsigned esp)
{
	memset(t, 0, 0x68);
	*(uint32_t *)(t + 0x20) = (uint32_t)(unsigned long)eip;
	*(uint32_t *)(t + 0x24) = 2;
	*(uint32_t *)(t + 0x34) = 0xb0b0b0b0;	/* EBX */
	*(uint32_t *)(t + 0x38) = esp;
	*(uint16_t *)(t + 0x48) = SEL_DATA;
	*(uint16_t *)(t + 0x4c) = SEL_CODE32;
	*(uint16_t *)(t + 0x50) = SEL_DATA;
	*(uint16_t *)(t + 0x54) = SEL_DATA;
	*(uint16_t *)(t + 0x66) = 0x68;
}

static void make_tss16(uint8_t *t, void *ip, unsigned sp)
{
	memset(t, 0, 0x2c);
	*(uint16_t *)(t + 0x0e) = (uint16_t)(unsigned long)ip;
	*(uint16_t *)(t + 0x10) = 2;
	*(uint16_t *)(t + 0x18) = 0xb0b0;	/* BX */
	*(uint16_t *)(t + 0x1a) = (uint16_t)sp;
	*(uint16_t *)(t + 0x22) = SEL_DATA;
	*(uint16_t *)(t + 0x24) = SEL_CODE32;
	*(uint16_t *)(t + 0x26) = SEL_DATA;
	*(uint16_t *)(t + 0x28) = SEL_DATA;
}

static bool note_task_trap(struct frame *f)
{
	return f->vector == DB;
}

#define CALL_TASK() __asm__ volatile("lcall *far" : : : "eax", "memory", "cc")

static void test_tasks(void)
{
	gdt[SEL_B / 8] = desc(0x20000, 0x67, 0x89, 0);
	make_tss(TSS_B, task_b, 0x8e000);
	far.sel = SEL_B;
	task_seen[0] = 0;
	CALL_TASK();
	row("CALL of a TSS runs the task", task_seen[0], 1);
	row("with its registers", task_seen[1], 0xb0b0b0b0);
	row("with NT set", task_seen[2] & FL_NT, FL_NT);
	row("with its TR", task_seen[3] & 0xffff, SEL_B);
	row("with CR0.TS set", task_seen[4] & 8, 8);
	row("the link is the caller's", *(uint16_t *)TSS_B, SEL_TSS);
	row("IRET left it available", gdt[SEL_B / 8] >> 40 & 15, 9);
	row("and the caller busy", gdt[SEL_TSS / 8] >> 40 & 15, 11);
	CALL_TASK();
	row("a second CALL goes on where IRET left", task_seen[0], 2);
	row("NT is clear in the saved flags", *(uint32_t *)(TSS_B + 0x24) & FL_NT, 0);
	idt[0x31] = (struct gate){ .sel = SEL_B, .type = 0x85 };
	__asm__ volatile("int $0x31" : : : "eax", "memory");
	row("INT n through a task gate", task_seen[0], 3);
	gdt[GDT_FREE] = 0x850000000000ull | (uint64_t)SEL_B << 16;
	far.sel = SEL_FREE;
	CALL_TASK();
	row("CALL of a task gate", task_seen[0], 4);
	make_tss(TSS_B, task_jmp, 0x8e000);
	task_seen[0] = 0;
	__asm__ volatile("ljmp *%0" : : "m"((struct far){ 0, SEL_B }) : "eax", "memory", "cc");
	row("JMP to a TSS and back", task_seen[0], 1);
	row("JMP leaves the old one available", gdt[SEL_B / 8] >> 40 & 15, 9);
	{
		unsigned long fl;

		__asm__ volatile("pushfl; popl %0" : "=r"(fl));
		row("JMP does not set NT", fl & FL_NT, 0);
	}
	__asm__ volatile("clts");

	far.sel = SEL_TSS;
	seen_clear();
	__asm__ volatile(TRY "lcall *far" END : : : "memory");
	row_seen("CALL of a busy TSS is #GP(selector)", GP, SEL_TSS);
	far.sel = SEL_B;
	gdt[SEL_B / 8] = desc(0x20000, 0x66, 0x89, 0);
	seen_clear();
	__asm__ volatile(TRY "lcall *far" END : : : "memory");
	row_seen("a TSS that is too small is #TS(selector)", TS, SEL_B);
	gdt[SEL_B / 8] = desc(0x20000, 0x67, 0x09, 0);
	seen_clear();
	__asm__ volatile(TRY "lcall *far" END : : : "memory");
	row_seen("an absent TSS is #NP(selector)", NP, SEL_B);
	gdt[SEL_B / 8] = desc(0x20000, 0x67, 0x89, 0);

	/* An exception with an error code through a task gate. */
	gdt[SEL_C / 8] = desc(0x20100, 0x67, 0x89, 0);
	make_tss(TSS_C, task_gp, 0x8d000);
	idt[GP] = (struct gate){ .sel = SEL_C, .type = 0x85 };
	task_seen[0] = task_seen[1] = 0;
	__asm__ volatile(TRY "mov %0, %%fs" END : : "r"(0xfff8) : "memory");
	row("an exception through a task gate pushes its error code", task_seen[0], 0xfff8);
	row("the saved EIP is the instruction's", *(uint8_t *)task_seen[1], 0x8e);
	idt_init();
	__asm__ volatile("clts");

	/* A 16-bit TSS: words, and no CR3. */
	gdt[SEL_B / 8] = desc(0x20000, 0x2b, 0x81, 0);
	make_tss16(TSS_B, task_b16, 0xf000);
	task_seen[0] = 0;
	CALL_TASK();
	row("CALL of a 16-bit TSS", task_seen[0], 1);
	row("BX comes from it", task_seen[1] & 0xffff, 0xb0b0);
	row("its IP is saved", *(uint16_t *)(TSS_B + 0x0e), (unsigned long)task_b16_end & 0xffff);
	row("its type is 3 while busy, 1 again after IRET", gdt[SEL_B / 8] >> 40 & 15, 1);
	__asm__ volatile("clts");
	gdt[SEL_B / 8] = desc(0x20000, 0x67, 0x89, 0);

	/* The T flag of a TSS: #DB before the task's first instruction. */
	make_tss(TSS_B, task_b, 0x8e000);
	TSS_B[0x64] = 1;
	task_seen[0] = 0;
	hook = note_task_trap;
	write_dr6(0xffff0ff0);
	far.sel = SEL_B;
	CALL_TASK();
	hook = NULL;
	row("a TSS with the T flag traps at its first instruction", seen.ip, (unsigned long)task_b);
	row("DR6 says BT", read_dr6() & 0x8000, 0x8000);
	row("and the task runs", task_seen[0], 1);
	__asm__ volatile("clts");

	/* A new task whose segments are wrong faults in that task. */
	make_tss(TSS_B, task_b, 0x8e000);
	*(uint16_t *)(TSS_B + 0x58) = 0xfff8;	/* FS */
	seen_clear();
	far.sel = SEL_B;
	catch_at_cpl0 = true;
	__asm__ volatile("pushl %%ebp; movl %%esp, task_seen+28;" TRY "lcall *far" END "movl task_seen+28, %%esp; popl %%ebp"
			 : : : "eax", "ebx", "ecx", "edx", "esi", "edi", "memory", "cc");
	catch_at_cpl0 = false;
	row_seen("a task with a bad FS is #TS(selector)", TS, 0xfff8);
	row("raised in the new task: EIP is its own", seen.ip, (unsigned long)task_b);
	/* We are in task B now, with its registers. Go back by hand. */
	gdt[SEL_TSS / 8] &= ~(2ull << 40);
}

/* ---- virtual-8086 mode ---------------------------------------------------------------------------------------------------------------------------- */

extern char v86_hlt[], v86_int[], v86_flags[], v86_cli[], v86_in[], v86_done[], v86_fault[], v86_store[], v86_vme_int[], v86_vme_target[];
__asm__(".pushsection .text; .code16\n"
	"v86_hlt: hlt\n"
	"v86_int: int $0x31\n"
	"v86_cli: cli\n"
	"v86_in: inb $0xe9, %al\n"
	"v86_flags: pushfw; popw %ax; movw %ax, %ds:0x8010; int $0x20\n"
	"v86_done: int $0x20\n"
	"v86_store: movw $0x4242, %ds:0x10; int $0x20\n"
	"v86_fault: movb %al, %ds:0xffff; movw %ax, %ds:0xffff\n"
	"v86_vme_int: int $0x60; int $0x61\n"
	"v86_vme_target: movw $0x7777, %cs:0x8000; iretw\n"
	".code32; .popsection");

void enter_v86(void *ip, unsigned flags);
__asm__(".pushsection .text\n"
	"enter_v86: movl 4(%esp), %ecx; movl 8(%esp), %edx; pushfl; pushl %ebx; pushl %ebp; pushl %esi; pushl %edi; movl %esp, kernel_sp;"
	" pushl $0; pushl $0; pushl $0x3000; pushl $0x3100; pushl $0x3200; pushl $0x8000; pushl %edx; pushl $0; pushl %ecx; iretl\n"
	".popsection");

static volatile unsigned long v86_frame[9];
extern char leave_user[];

static bool monitor(struct frame *f)
{
	if (!(f->flags & FL_VM))
		return false;
	for (unsigned i = 0; i < 9; i++)
		v86_frame[i] = (&f->ip)[i];
	f->ip = (unsigned long)leave_user;
	f->cs = SEL_CODE32;
	f->flags = 2;
	return true;
}

static void test_v86(void)
{
	uint16_t ds;

	hook = monitor;
	seen_clear();
	enter_v86(v86_hlt, FL_VM | 2);
	row_seen("HLT in virtual-8086 mode is #GP(0)", GP, 0);
	row("the frame has CS", v86_frame[1], 0);
	row("and IP", v86_frame[0], (unsigned long)v86_hlt);
	row("and EFLAGS.VM", v86_frame[2] & FL_VM, FL_VM);
	row("ESP", v86_frame[3], 0x8000);
	row("SS", v86_frame[4], 0x3200);
	row("ES", v86_frame[5], 0x3100);
	row("DS", v86_frame[6], 0x3000);
	__asm__ volatile("mov %%fs, %0" : "=r"(ds));
	row("FS is null in the monitor", ds, 0);
	seen_clear();
	enter_v86(v86_int, FL_VM | 2);
	row_seen("INT n with IOPL 0 is #GP(0)", GP, 0);
	seen_clear();
	enter_v86(v86_cli, FL_VM | 2);
	row_seen("CLI with IOPL 0 is #GP(0)", GP, 0);
	seen_clear();
	enter_v86(v86_flags, FL_VM | 2);
	row_seen("PUSHF with IOPL 0 is #GP(0)", GP, 0);
	enter_v86(v86_flags, FL_VM | 0x3002);
	row("PUSHF with IOPL 3 shows IOPL", *(uint16_t *)0x38010 & 0x3000, 0x3000);
	seen_clear();
	enter_v86(v86_in, FL_VM | 0x3002);
	row_seen("IN without a bitmap is #GP(0), whatever IOPL", GP, 0);
	enter_v86(v86_store, FL_VM | 0x3002);
	row("a segment's base is its selector times 16", *(uint16_t *)0x30010, 0x4242);
	seen_clear();
	enter_v86(v86_fault, FL_VM | 0x3002);
	row_seen("a word at FFFFh is #GP(0)", GP, 0);
	seen_clear();
	idt[0x31].type = GATE_INT;
	enter_v86(v86_int, FL_VM | 0x3002);
	row_seen("INT n with IOPL 3 through a gate of DPL 0 is #GP(vector)", GP, 0x31 * 8 + 2);
	idt[0x31].type = GATE_INT | GATE_DPL3;
	seen_clear();
	enter_v86(v86_int, FL_VM | 0x3002);
	row_seen("of DPL 3 it passes", 0x31, 0);

	if (cpuid_bit(1, 0, 3, 1)) {
		/* VME: the redirection bitmap sends INT 60h to the program, INT 61h to the monitor. */
		write_cr4(read_cr4() | 1);
		*(uint16_t *)(tss + 102) = 136;
		for (unsigned i = 104; i < 136; i++)
			tss[i] = 0xff;
		for (unsigned i = 136; i < sizeof(tss); i++)
			tss[i] = 0xff;
		tss[104 + 0x60 / 8] &= (uint8_t)~1u;
		*(uint16_t *)(0x60 * 4) = (uint16_t)(unsigned long)v86_vme_target;
		*(uint16_t *)(0x60 * 4 + 2) = 0;
		*(uint16_t *)0x8000 = 0;
		seen_clear();
		enter_v86(v86_vme_int, FL_VM | 2);
		row_seen("VME: INT 61h goes to the monitor", GP, 0);
		row("after INT 60h went to the program", *(uint16_t *)0x8000, 0x7777);
		seen_clear();
		enter_v86(v86_cli, FL_VM | FL_VIF | 2);
		enter_v86(v86_hlt, FL_VM | FL_VIF | 2);
		row("VIF comes back in the frame", v86_frame[2] & FL_VIF, FL_VIF);
		write_cr4(read_cr4() & ~1ul);
		*(uint16_t *)(tss + 102) = sizeof(tss);
	}
	hook = NULL;
}

/* ---- 16-bit segments -------------------------------------------------------------------------------------------------------------------------------- */

extern char int16[];
__asm__(".pushsection .text; int16: movl %esp, got; iretw; .popsection");

static void test_sixteen(void)
{
	unsigned long sp, before, v;

	/* A 16-bit stack: SP wraps at 64 KiB and the upper half of ESP does not count. */
	gdt[GDT_FREE] = desc(0x30000, 0xffff, 0x93, 0);
	__asm__ volatile("movl %%esp, %%ebx; mov %2, %%ss; movl $0x12340004, %%esp; pushl $0x11223344; pushl $0x55667788; movl %%esp, %0;"
			 "popl %1; mov %3, %%ss; movl %%ebx, %%esp" : "=&r"(sp), "=&r"(v) : "r"(SEL_FREE), "r"(SEL_DATA) : "ebx", "memory");
	row("a 16-bit stack wraps", sp, 0x1234fffc);
	row("at its top", *(uint32_t *)0x3fffc, 0x55667788);
	row("and POP finds it", v, 0x55667788);
	/* A 16-bit interrupt gate pushes words. */
	idt[0x32] = (struct gate){ .off0 = (uint16_t)(unsigned long)int16, .sel = SEL_CODE32, .type = 0x86 };
	__asm__ volatile("movl %%esp, %0; int $0x32" : "=&r"(before) : : "memory");
	row("a 16-bit gate pushes three words", before - got[0], 6);
}

/* ---- paging ------------------------------------------------------------------------------------------------------------------------------------------- */

static void test_paging(void)
{
	uint32_t *pd = (uint32_t *)0x10000, *pt = (uint32_t *)0x11000;
	uint64_t *pdpt = (uint64_t *)0x12000, *pd64 = (uint64_t *)0x13000;
	unsigned long v;

	memset(pd, 0, 4096);
	for (unsigned i = 0; i < 1024; i++)
		pt[i] = i << 12 | 7;
	pd[0] = 0x11007;
	pd[1] = 0x00000087;		/* 4 MiB page: an alias of the first */
	write_cr4(read_cr4() | 0x10);
	write_cr3(0x10000);
	write_cr0(read_cr0() | 0x80010000);
	*(volatile uint32_t *)0x30020 = 0xabcdef01;
	row("a 4 MiB page", *(volatile uint32_t *)0x430020, 0xabcdef01);
	row("gets its accessed bit", pd[1] & 0x20, 0x20);
	seen_clear();
	__asm__ volatile(TRY "movl 0x800000, %0" END : "=r"(v) : : "memory");
	row_seen("an absent directory entry is #PF(0)", PF, 0);
	row("with CR2", seen.cr2, 0x800000);
	pt[0x30] = 0x30005;
	invlpg((void *)0x30000);
	seen_clear();
	__asm__ volatile(TRY "movl %0, 0x30000" END : : "r"(v) : "memory");
	row_seen("a read-only page is #PF(3)", PF, 3);
	pt[0x30] = 0x30007;
	write_cr0(read_cr0() & ~0x80000000ul);

	memset(pdpt, 0, 32);
	memset(pd64, 0, 4096);
	pdpt[0] = 0x13001;
	pd64[0] = 0x87;
	pd64[1] = 0x87;
	write_cr4(read_cr4() | 0x20);
	write_cr3(0x12000);
	write_cr0(read_cr0() | 0x80000000);
	row("a 2 MiB page under PAE", *(volatile uint32_t *)0x230020, 0xabcdef01);
	pdpt[1] = 0x13003;
	seen_clear();
	__asm__ volatile(TRY "movl %0, %%cr3" END : : "r"(0x12000) : "memory");
	row_seen("a reserved bit in a PDPTE is #GP(0) at MOV to CR3", GP, 0);
	pdpt[1] = 0;
	seen_clear();
	__asm__ volatile(TRY "movl 0x40000000, %0" END : "=r"(v) : : "memory");
	row_seen("an absent PDPTE is #PF(0)", PF, 0);
	write_cr0(read_cr0() & ~0x80000000ul);
	write_cr4(read_cr4() & ~0x20ul);
}

static void user_popf(void)
{
	__asm__ volatile("pushl $0; popfl; pushfl; popl %0; pushl $0x3002; popfl" : "=m"(got[0]) : : "memory", "cc");
}

int main(void)
{
	gdt_init();
	idt_init();
	test_limits();
	test_old_instructions();
	test_call_gates();
	test_levels();
	run_user(user_popf);
	row("POPF at CPL 3 leaves IOPL", got[0] & 0x3000, 0x3000);
	test_sixteen();
	test_v86();
	test_paging();
	test_tasks();
	return 0;
}
