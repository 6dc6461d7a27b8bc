/* SPDX-License-Identifier: MIT */
/* Descriptor tables and the exception handler of the 32- and 64-bit images. */
#include "lib.h"

extern char leave_user[];
void enter_user(void (*fn)(void));
void handle(struct frame *f);
void *memset(void *p, int c, size_t n);

struct gate idt[256] __attribute__((aligned(16)));
uint64_t gdt[64] __attribute__((aligned(16)));
uint8_t tss[256] __attribute__((aligned(16)));
volatile unsigned long catch_ip;
volatile bool catch_at_cpl0;
volatile struct seen seen;
bool (*volatile hook)(struct frame *f);

struct __attribute__((packed)) table { uint16_t limit; unsigned long base; };

void seen_clear(void)
{
	seen.vector = VEC_NONE;
	seen.error = seen.ip = seen.cs = seen.flags = seen.sp = seen.ss = seen.cr2 = seen.count = 0;
}

void handle(struct frame *f)
{
	seen.vector = (long)f->vector;
	seen.error = f->error;
	seen.ip = f->ip;
	seen.cs = f->cs;
	seen.flags = f->flags;
	seen.cr2 = read_cr2();
	seen.count++;
#if MODE == 64
	seen.sp = f->sp;
	seen.ss = f->ss;
#endif
	if (hook && hook(f))
		return;
	if (!catch_ip) {
		say("not ok - unexpected exception # vector ");
		say_hex(f->vector);
		say(" error ");
		say_hex(f->error);
		say(" ip ");
		say_hex(f->ip);
		say(" cr2 ");
		say_hex(seen.cr2);
		say("\n");
		outb(0xf4, 2);
		for (;;)
			__asm__ volatile("cli; hlt");
	}
	f->ip = catch_ip;
	if (catch_at_cpl0) {
		f->cs = MODE == 64 ? SEL_CODE64 : SEL_CODE32;
#if MODE == 64
		f->ss = SEL_DATA;
#endif
	}
	f->flags &= ~(unsigned long)(FL_TF | FL_RF | FL_NT | FL_AC);
}

void row_seen(const char *name, long vector, unsigned long error)
{
	if (seen.vector != vector)
		row(name, (unsigned long)seen.vector, (unsigned long)vector);
	else
		row(name, vector == VEC_NONE ? 0 : seen.error, error);
}

static void set_gate(unsigned n, const void *to, uint8_t type)
{
	unsigned long a = (unsigned long)to;

	idt[n] = (struct gate){ .off0 = (uint16_t)a, .sel = MODE == 64 ? SEL_CODE64 : SEL_CODE32, .type = type,
				.off1 = (uint16_t)(a >> 16) };
}

void idt_init(void)
{
	struct table t = { sizeof(idt) - 1, (unsigned long)idt };

	for (unsigned i = 0; i < 256; i++)
		set_gate(i, vectors + 16 * i, GATE_INT);
	set_gate(0x20, leave_user, GATE_INT | GATE_DPL3);
	__asm__ volatile("lidt %0" : : "m"(t));
}

void gdt_init(void)
{
	struct table t = { sizeof(gdt) - 1, (unsigned long)gdt };

	memset(gdt, 0, sizeof(gdt));
	gdt[1] = desc(0, 0xfffff, 0x9b, 0xc);
	gdt[2] = desc(0, 0xfffff, 0x93, 0xc);
	gdt[3] = desc(0, 0xfffff, 0x9b, 0xa);
	gdt[4] = desc(0, 0xfffff, 0xf3, 0xc);
	gdt[5] = desc(0, 0xfffff, 0xfb, 0xc);
	gdt[6] = desc(0, 0xfffff, 0xf3, 0xc);
	gdt[7] = desc(0, 0xfffff, 0xfb, 0xa);
	gdt[8] = desc((uint32_t)(unsigned long)tss, sizeof(tss) - 1, 0x89, 0);
	memset(tss, 0, sizeof(tss));
	*(uint32_t *)(tss + 4) = 0x98000;
#if MODE == 32
	*(uint16_t *)(tss + 8) = SEL_DATA;
	*(uint16_t *)(tss + 102) = sizeof(tss);
#endif
	__asm__ volatile("lgdt %0" : : "m"(t));
	__asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss" : : "r"(SEL_DATA));
	__asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
}

void run_user(void (*fn)(void))
{
	enter_user(fn);
}
