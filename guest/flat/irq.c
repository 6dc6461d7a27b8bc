/* SPDX-License-Identifier: MIT */
/*
 * Interrupts in long mode, from the vCPU's own local APIC: the shadows of STI and MOV SS, NMI blocking until IRET, priorities,
 * HLT, and what interrupts do between string iterations. Skipped where there is no APIC.
 */
#include "lib.h"

#define APIC	((volatile uint32_t *)0xfee00000ul)
#define ICR_SELF	0x40000u
#define ICR_NMI		0x400u

static volatile unsigned long hits[256], last_ip, nmi_depth, nmi_max, order[16], n_order;

static void apic_write(unsigned reg, uint32_t v)
{
	APIC[reg / 4] = v;
}

static uint32_t apic_read(unsigned reg)
{
	return APIC[reg / 4];
}

/* The shorthand "self" is for fixed interrupts only; an NMI names the APIC. */
static void send(uint32_t icr)
{
	apic_write(0x310, apic_read(0x20));
	apic_write(0x300, icr == ICR_NMI ? icr : ICR_SELF | icr);
}

static void eoi(void)
{
	apic_write(0xb0, 0);
}

static volatile unsigned nested;

static bool on_irq(struct frame *f)
{
	if (f->vector < 0x20 && f->vector != 2)
		return false;
	hits[f->vector]++;
	last_ip = f->ip;
	if (n_order < 16)
		order[n_order++] = f->vector;
	if (f->vector == 2) {
		nmi_depth++;
		if (nmi_depth > nmi_max)
			nmi_max = nmi_depth;
		if (nested) {
			nested = 0;
			send(ICR_NMI);		/* must wait for our IRET */
			__asm__ volatile("nop; nop; nop");
		}
		nmi_depth--;
	} else if (f->vector >= 0x40) {
		eoi();
	}
	return true;
}

static void start(void)
{
	for (unsigned i = 0; i < 256; i++)
		hits[i] = 0;
	last_ip = n_order = nmi_max = 0;
}

static void test_shadow(void)
{
	unsigned long a;

	start();
	send(0x50);
	row("an interrupt waits for IF", hits[0x50], 0);
	__asm__ volatile("sti; nop; 1: nop; cli; lea 1b(%%rip), %0" : "=r"(a) : : "memory");
	row("and comes after STI", hits[0x50], 1);
	row("one instruction later", last_ip, a);
	start();
	send(0x50);
	__asm__ volatile("sti; cli" : : : "memory");
	row("STI, CLI lets nothing through", hits[0x50], 0);
	__asm__ volatile("sti; mov %%ss, %%eax; 1: nop; cli; lea 1b(%%rip), %0" : "=r"(a) : : "rax", "memory");
	row("it comes at the next chance", hits[0x50], 1);
	start();
	send(0x51);
	__asm__ volatile("mov %%ss, %%eax; pushfq; orl $0x200, (%%rsp); popfq; 1: cli; lea 1b(%%rip), %0" : "=r"(a) : : "rax", "memory", "cc");
	row("POPF has no shadow", last_ip, a);
	start();
	send(0x52);
	__asm__ volatile("mov %%ss, %%eax; sti; mov %%eax, %%ss; 1: nop; 2: nop; cli; lea 2b(%%rip), %0" : "=r"(a) : : "rax", "memory");
	row("MOV SS after STI: the interrupt is taken all the same, soon", hits[0x52], 1);
}

static void test_priority(void)
{
	start();
	send(0x50);
	send(0x91);
	send(0x70);
	__asm__ volatile("sti; nop; nop; nop; nop; cli" : : : "memory");
	row("the highest vector comes first", order[0], 0x91);
	row("then the next", order[1], 0x70);
	row("then the lowest", order[2], 0x50);
	start();
	__asm__ volatile("mov %0, %%cr8" : : "r"(8ul));
	send(0x71);
	__asm__ volatile("sti; nop; nop; cli" : : : "memory");
	row("CR8 holds back its class and below", hits[0x71], 0);
	__asm__ volatile("sti; mov %0, %%cr8; nop; cli" : : "r"(0ul) : "memory");
	row("and lets it through when it falls", hits[0x71], 1);
	row("CR8 is the TPR", apic_read(0x80), 0);
}

static void test_nmi(void)
{
	start();
	send(ICR_NMI);
	__asm__ volatile("nop; nop" : : : "memory");
	row("NMI does not need IF", hits[2], 1);
	start();
	nested = 1;
	send(ICR_NMI);
	__asm__ volatile("nop; nop; nop" : : : "memory");
	row("an NMI in the handler is delivered", hits[2], 2);
	row("but only after IRET", nmi_max, 1);
	/* Both wait when the program sets IF: the NMI goes first and must not make the interrupt forgotten. */
	start();
	send(0x53);
	send(ICR_NMI);
	__asm__ volatile("sti; nop; nop; nop; cli" : : : "memory");
	row("an interrupt that waits with an NMI is taken after it", hits[0x53], 1);
	start();
	__asm__ volatile("cli; mov %%ss, %%ebx; movl $0x40054, 0x300(%0); movl $0x400, 0x300(%0); sti; mov %%ebx, %%ss; nop; nop; nop; cli"
			 : : "r"(APIC) : "rbx", "memory");
	row("also when both wait for the shadow", hits[0x54], 1);
}

static void test_hlt(void)
{
	start();
	send(0x60);
	__asm__ volatile("sti; hlt; cli" : : : "memory");
	row("STI, HLT wakes at once", hits[0x60], 1);
	/* The APIC's timer, once, a little later. */
	start();
	apic_write(0x3e0, 0xb);
	apic_write(0x320, 0x61);
	apic_write(0x380, 100000);
	__asm__ volatile("sti; hlt; cli" : : : "memory");
	row("the APIC's timer ends HLT", hits[0x61], 1);
}

static void test_string(void)
{
	unsigned long c = 4096 * 16, d = 0x30000;

	start();
	apic_write(0x3e0, 0xb);
	apic_write(0x320, 0x62);
	apic_write(0x380, 20);
	for (unsigned i = 0; i < 1000000 && !hits[0x62]; i++) {
		c = 4096 * 16;
		d = 0x30000;
		__asm__ volatile("sti; rep stosb; cli" : "+c"(c), "+D"(d) : "a"(0x5a) : "memory");
	}
	row("an interrupt comes in or after a long string", hits[0x62], 1);
	row("the string is complete", c, 0);
	row("to its last byte", *(volatile uint8_t *)0x3ffff, 0x5a);
}

int main(void)
{
	gdt_init();
	idt_init();
	if (!(rdmsr(0x1b) & 0x800) || apic_read(0x30) == 0xffffffff) {
		row_skip("interrupts", "no local APIC");
		return 0;
	}
	hook = on_irq;
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	apic_write(0xf0, 0x1ff);
	idt[0x20].off0 = (uint16_t)(unsigned long)(vectors + 16 * 0x20);
	test_shadow();
	test_priority();
	test_nmi();
	test_hlt();
	test_string();
	return 0;
}
