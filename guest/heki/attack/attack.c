// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Attacks on the running kernel, from a module: what an exploit could do once it can execute a few kernel writes. One per
 * load: insmod attack.ko what=NAME. The result is a line "attack NAME: ..." with the word before and after. The module
 * refuses to stay loaded, so that the next one can follow.
 *
 * Targets are addresses the caller gives (from System.map) or a string constant of our own.
 */
#include <linux/delay.h>
#include <linux/init.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <asm/io.h>
#include <asm/msr.h>
#include <asm/pgtable.h>
#include <asm/special_insns.h>

static char *what = "none";
static unsigned long target;
static unsigned long helper;
module_param(what, charp, 0);
module_param(target, ulong, 0);		/* kernel text or rodata to change */
module_param(helper, ulong, 0);		/* set_memory_x, where an attack calls it */

/* With an entry in the exception table: a denied store is reported and the guest goes on. */
static int try_store(void *where, u8 value)
{
	int err = -EFAULT;

	asm volatile("1: movb %2, (%1)\n   xorl %0, %0\n2:\n" _ASM_EXTABLE(1b, 2b) : "+r" (err) : "r" (where), "q" (value) : "memory");
	return err;
}

static u8 read_byte(void *where)
{
	u8 v = 0;

	copy_from_kernel_nofault(&v, where, 1);
	return v;
}

/* (a) flip the PTE of the page and store */
static int flip_pte(void)
{
	unsigned int level;
	pte_t *pte = lookup_address(target, &level);

	if (!pte)
		return -ENOENT;
	WRITE_ONCE(*pte, __pte(pte_val(*pte) | _PAGE_RW | _PAGE_DIRTY));
	asm volatile("invlpg (%0)" :: "r" (target) : "memory");
	return try_store((void *)target, read_byte((void *)target) ^ 1);
}

static void *alias(void)
{
	unsigned int level;
	pte_t *pte = lookup_address(target, &level);
	unsigned long inside = level == PG_LEVEL_2M ? target & ~PMD_MASK : target & ~PAGE_MASK;
	void *p;
	pte_t *q;

	if (!pte)
		return NULL;
	p = __va((pte_pfn(*pte) << PAGE_SHIFT) + inside);
	/* The alias is read-only in the direct map, too: open it as an attacker would. */
	q = lookup_address((unsigned long)p, &level);
	if (q) {
		WRITE_ONCE(*q, __pte(pte_val(*q) | _PAGE_RW | _PAGE_DIRTY));
		asm volatile("invlpg (%0)" :: "r" (p) : "memory");
	}
	return p;
}

/* (b) through the direct map */
static int direct_map(void)
{
	void *p = alias();

	return p ? try_store(p, read_byte(p) ^ 1) : -ENOENT;
}

/* (c) port input into it; the CMOS index port answers any byte */
static int port_input(void)
{
	void *p = alias();
	int err = 0;

	asm volatile("1: rep insb\n2:\n"
		     _ASM_EXTABLE(1b, 2b)
		     : "+D" (p), "+r" (err) : "c" (1ul), "d" (0x71) : "memory");
	return err;
}

/* (e) the hypervisor writes a clock there */
static int wall_clock(void)
{
	void *p = alias();

	wrmsrl_safe(0x4b564d00, __pa(p) & ~3ull);
	return 0;
}

/* (g) raw control registers */
static int clear_wp(void)
{
	unsigned long cr0 = read_cr0();

	asm volatile("1: mov %0, %%cr0\n2:\n" _ASM_EXTABLE(1b, 2b) :: "r" (cr0 & ~X86_CR0_WP) : "memory");
	asm volatile("mov %%cr0, %0" : "=r" (cr0));
	pr_info("attack %s: CR0.WP is %d\n", what, !!(cr0 & X86_CR0_WP));
	if (!(cr0 & X86_CR0_WP))
		asm volatile("mov %0, %%cr0" :: "r" (cr0 | X86_CR0_WP) : "memory");
	return 0;
}

static int clear_smep(void)
{
	unsigned long cr4 = __read_cr4(), now;

	asm volatile("1: mov %0, %%cr4\n2:\n" _ASM_EXTABLE(1b, 2b) :: "r" (cr4 & ~X86_CR4_SMEP) : "memory");
	asm volatile("mov %%cr4, %0" : "=r" (now));
	pr_info("attack %s: SMEP is %d\n", what, !!(now & X86_CR4_SMEP));
	asm volatile("mov %0, %%cr4" :: "r" (cr4) : "memory");
	return 0;
}

/* (h) new code: data made executable by the kernel's own function */
static int make_exec(void)
{
	int (*set_memory_x)(unsigned long addr, int n) = (void *)helper;
	u8 *page = (u8 *)__get_free_page(GFP_KERNEL);
	int (*code)(void) = (void *)page;
	int ret;

	if (!page || !helper)
		return -ENOENT;
	memcpy(page, "\xb8\x2a\x00\x00\x00\xc3", 6);	/* mov $42,%eax; ret */
	ret = set_memory_x((unsigned long)page, 1);
	if (!ret)
		ret = code();
	pr_info("attack %s: the new code gave %d\n", what, ret);
	return 0;
}

/* (i) code in a data page whose table says executable, by the attacker's hand; kernel runs it */
static int exec_data(void)
{
	u8 *page = (u8 *)__get_free_page(GFP_KERNEL);
	int (*code)(void) = (void *)page;
	unsigned int level;
	pte_t *pte;

	if (!page)
		return -ENOMEM;
	memcpy(page, "\xb8\x2a\x00\x00\x00\xc3", 6);
	pte = lookup_address((unsigned long)page, &level);
	WRITE_ONCE(*pte, __pte(pte_val(*pte) & ~_PAGE_NX));
	asm volatile("invlpg (%0)" :: "r" (page) : "memory");
	pr_info("attack %s: the new code gave %d\n", what, code());
	return 0;
}

static const struct { const char *name; int (*fn)(void); bool stores; } attacks[] = {
	{ "flip-pte", flip_pte, true },
	{ "direct-map", direct_map, true },
	{ "port-input", port_input, true },
	{ "wall-clock", wall_clock, true },
	{ "clear-wp", clear_wp, false },
	{ "clear-smep", clear_smep, false },
	{ "make-exec", make_exec, false },
	{ "exec-data", exec_data, false },
};

static int __init attack_init(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(attacks); i++) {
		u32 before = 0, after = 0;
		int ret;

		if (strcmp(what, attacks[i].name))
			continue;
		if (attacks[i].stores)
			copy_from_kernel_nofault(&before, (void *)target, 4);
		ret = attacks[i].fn();
		if (attacks[i].stores) {
			copy_from_kernel_nofault(&after, (void *)target, 4);
			pr_info("attack %s: %08x -> %08x: %s (%d)\n", what, before, after, before == after ? "unchanged" : "CHANGED", ret);
		}
		return -ECANCELED;
	}
	pr_info("attack: there is no '%s'\n", what);
	return -EINVAL;
}
module_init(attack_init);

MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("attacks on the kernel that holds it");
