// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The guest's side of kernel integrity for a distribution's kernel: loaded once all processors are up, it asks the hypervisor to
 * pin CR0.WP and the CR4 bits that guard kernel memory (hypercall 13), and to close the kernel's code and constants for good
 * (hypercall 14). What they are is read from the kernel's own page tables, so no symbol is needed and KASLR does not matter.
 *
 * Loading fails with -ENODEV where the hypervisor does not know the hypercalls. It cannot be unloaded. From then on the kernel
 * cannot patch its own code: switch tracing and static keys before.
 */
#include <linux/init.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/kvm_para.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <asm/pgtable.h>
#include <asm/processor.h>
#include <asm/special_insns.h>

#define HC_LOCK_CR		13
#define HC_PROTECT_MEMORY	14
#define LOCK_VERSION		1
#define HEKI_ABI		1

#define MEM_READ		(1 << 0)
#define MEM_EXEC		(1 << 2)
#define MEM_IMMUTABLE		(1 << 3)

#define IMAGE_START		0xffffffff80000000ul
#define IMAGE_END		0xffffffffc0000000ul
#define PINNED_CR4		(X86_CR4_UMIP | X86_CR4_FSGSBASE | X86_CR4_SMEP | X86_CR4_SMAP | BIT(23))
#define PER_PAGE		169

/* Guest ABI of hypercall 14. */
struct list_page {
	u64 next, next_pa, npages;
	struct { u64 pa, epa, permissions; } entry[PER_PAGE];
};
static_assert(sizeof(struct list_page) <= PAGE_SIZE);

static struct list_page *first;
static unsigned long text_pages, rodata_pages;

static int add(u64 pa, u64 size, u64 permissions)
{
	struct list_page *p = first;

	if (p && p->npages) {
		if (p->entry[p->npages - 1].epa == pa && p->entry[p->npages - 1].permissions == permissions) {
			p->entry[p->npages - 1].epa += size;
			return 0;
		}
	}
	if (!p || p->npages == PER_PAGE) {
		p = (struct list_page *)get_zeroed_page(GFP_KERNEL);
		if (!p)
			return -ENOMEM;
		p->next = (unsigned long)first;
		p->next_pa = first ? __pa(first) : 0;
		first = p;
	}
	p->entry[p->npages].pa = pa;
	p->entry[p->npages].epa = pa + size;
	p->entry[p->npages].permissions = permissions;
	p->npages++;
	return 0;
}

static void free_list(void)
{
	while (first) {
		struct list_page *next = (struct list_page *)(unsigned long)first->next;

		free_page((unsigned long)first);
		first = next;
	}
}

/* A read-only view of what is written elsewhere (the vvar page) is data. */
static bool is_written_elsewhere(u64 pa)
{
	unsigned int level;
	pte_t *pte = lookup_address((unsigned long)__va(pa), &level);

	return pte && pte_present(*pte) && pte_write(*pte);
}

static int add_leaf(const pte_t *pte, unsigned int level)
{
	u64 size = page_level_size(level), pa = (u64)pte_pfn(*pte) << PAGE_SHIFT;
	bool x = !(pte_flags(*pte) & _PAGE_NX);

	if (pte_write(*pte) || (!x && is_written_elsewhere(pa)))
		return 0;
	*(x ? &text_pages : &rodata_pages) += size >> PAGE_SHIFT;
	return add(pa, size, MEM_READ | MEM_IMMUTABLE | (x ? MEM_EXEC : 0));
}

static int scan(void)
{
	unsigned long at = IMAGE_START;
	int err = 0;

	while (!err && at < IMAGE_END) {
		unsigned int level = PG_LEVEL_4K;
		pte_t *pte = lookup_address(at, &level);

		if (pte && pte_present(*pte) && level != PG_LEVEL_NONE)
			err = add_leaf(pte, level);
		at = (at | (page_level_size(pte ? level : PG_LEVEL_2M) - 1)) + 1;
	}
	return err;
}

static int __init assist_init(void)
{
	unsigned long cr4 = __read_cr4() & PINNED_CR4;
	long ret;
	int err;

	if (!kvm_para_available() || kvm_hypercall3(HC_LOCK_CR, 0, 0, LOCK_VERSION) != HEKI_ABI)
		return -ENODEV;
	err = scan();
	if (err)
		goto free;
	ret = kvm_hypercall3(HC_LOCK_CR, 0, X86_CR0_WP, 0);
	if (!ret)
		ret = kvm_hypercall3(HC_LOCK_CR, 4, cr4, 0);
	if (!ret)
		ret = kvm_hypercall1(HC_PROTECT_MEMORY, first ? __pa(first) : 0);
	if (ret) {
		pr_err("the hypervisor refused: %ld\n", ret);
		err = -EPERM;
		goto free;
	}
	pr_info("heki: %lu pages of code and %lu of constants closed, CR4 %lx pinned\n", text_pages, rodata_pages, cr4);
	/* There is no way back, so there is none for us. */
	__module_get(THIS_MODULE);
free:
	free_list();
	return err;
}
module_init(assist_init);

MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("locks the kernel with the hypervisor's help");
