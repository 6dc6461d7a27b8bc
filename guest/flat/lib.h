/* SPDX-License-Identifier: MIT */
/*
 * What the test guests share, in every mode: rows of results on the debug port in TAP's words, catching exceptions, and the
 * instructions C has no name for.
 */
#ifndef GUEST_FLAT_LIB_H
#define GUEST_FLAT_LIB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- results ---------------------------------------------------------------------------------------------------------- */

extern uint8_t failures;
void say(const char *s);
void say_hex(unsigned long v);
/* One row: passes if @got is @want, else says both. */
void row(const char *name, unsigned long got, unsigned long want);
void row_skip(const char *name, const char *why);

/* ---- ports ------------------------------------------------------------------------------------------------------------- */

static inline void outb(uint16_t port, uint8_t v) { __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port)); }
static inline uint8_t inb(uint16_t port)
{
	uint8_t v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

/* ---- system registers ----------------------------------------------------------------------------------------------------- */

#define READ_REG(name)								\
static inline unsigned long read_##name(void)					\
{										\
	unsigned long v;							\
										\
	__asm__ volatile("mov %%" #name ", %0" : "=r"(v) : : "memory");		\
	return v;								\
}										\
static inline void write_##name(unsigned long v) { __asm__ volatile("mov %0, %%" #name : : "r"(v) : "memory"); }
READ_REG(cr0)
READ_REG(cr2)
READ_REG(cr3)
READ_REG(cr4)
READ_REG(dr0)
READ_REG(dr1)
READ_REG(dr6)
READ_REG(dr7)
#undef READ_REG

static inline void invlpg(const void *p) { __asm__ volatile("invlpg (%0)" : : "r"(p) : "memory"); }

static inline void cpuid(uint32_t leaf, uint32_t sub, uint32_t r[4])
{
	__asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}
static inline bool cpuid_bit(uint32_t leaf, uint32_t sub, unsigned reg, unsigned bit)
{
	uint32_t r[4];

	cpuid(leaf & 0x80000000, 0, r);
	if (r[0] < leaf)
		return false;
	cpuid(leaf, sub, r);
	return r[reg] >> bit & 1;
}
static inline uint64_t rdmsr(uint32_t i)
{
	uint32_t lo, hi;

	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(i));
	return lo | (uint64_t)hi << 32;
}
static inline void wrmsr(uint32_t i, uint64_t v)
{
	__asm__ volatile("wrmsr" : : "c"(i), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}

#define FL_CF	0x1u
#define FL_ZF	0x40u
#define FL_TF	0x100u
#define FL_IF	0x200u
#define FL_DF	0x400u
#define FL_NT	0x4000u
#define FL_RF	0x10000u
#define FL_VM	0x20000u
#define FL_AC	0x40000u
#define FL_VIF	0x80000u
#define FL_VIP	0x100000u

/* ---- exceptions (32- and 64-bit images) -------------------------------------------------------------------------------------- */

#if MODE != 16
struct frame {
#if MODE == 64
	unsigned long r15, r14, r13, r12, r11, r10, r9, r8;
#endif
	unsigned long di, si, bp, bx, dx, cx, ax;
	unsigned long vector, error, ip, cs, flags, sp, ss;	/* 32-bit: sp and ss only from an outer level */
};

/* Set by TRY, read by the handler: where to go on after an exception. 0: it was not expected. */
extern volatile unsigned long catch_ip;
/* Go on at CPL 0 whatever level the exception came from; the code there restores its stack itself. */
extern volatile bool catch_at_cpl0;
/* What came: -1 nothing. */
extern volatile struct seen { long vector; unsigned long error, ip, cs, flags, sp, ss, cr2, count; } seen;
/* Called first for every exception if set; true: handled, return to where it came from. */
extern bool (*volatile hook)(struct frame *f);

/* Around an instruction in an asm template: an exception between them is noted in `seen` and execution goes on at the end. */
#if MODE == 64
#define TRY	"movq $771f, catch_ip(%%rip)\n\t"
#define END	"\n771:\n\tmovq $0, catch_ip(%%rip)\n\t"
#else
#define TRY	"movl $771f, catch_ip\n\t"
#define END	"\n771:\n\tmovl $0, catch_ip\n\t"
#endif
void seen_clear(void);
/* Rows about what was seen. VEC_NONE: nothing. */
#define VEC_NONE (-1l)
void row_seen(const char *name, long vector, unsigned long error);

/* An IDT whose 256 entries lead to the handler; gates are of type 14, DPL 0. */
void idt_init(void);
#if MODE == 64
struct gate { uint16_t off0, sel; uint8_t ist, type; uint16_t off1; uint32_t off2, zero; };
#else
struct gate { uint16_t off0, sel; uint8_t count, type; uint16_t off1; };
#endif
extern struct gate idt[256];
extern char vectors[];		/* stubs, 16 bytes each */
#define GATE_INT	0x8e
#define GATE_TRAP	0x8f
#define GATE_DPL3	0x60

/* Segments. Entries from GDT_FREE on are the tests'. */
enum { SEL_CODE32 = 0x08, SEL_DATA = 0x10, SEL_CODE64 = 0x18, SEL_UDATA32 = 0x23, SEL_UCODE32 = 0x2b, SEL_UDATA = 0x33,
	SEL_UCODE64 = 0x3b, SEL_TSS = 0x40, SEL_FREE = 0x50 };
extern uint64_t gdt[64];
#define GDT_FREE 10
extern uint8_t tss[256];
void gdt_init(void);
/* Run @fn at CPL 3 on its own stack; returns when it has returned (through INT 0x20). */
void run_user(void (*fn)(void));

/* Build a descriptor. @flags: G 8, D/B 4, L 2, AVL 1. */
static inline uint64_t desc(uint32_t base, uint32_t limit, uint8_t access, uint8_t flags)
{
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 | (uint64_t)(limit >> 16 & 15) << 48 |
	       (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}
#endif

int main(void);

#endif
