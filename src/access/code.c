/* SPDX-License-Identifier: MIT */
/*
 * Code marks: how a store finds out that it changed decoded instructions, on any vCPU, through any alias.
 *
 * Protocol over one page's record (mem.h):
 *   decoder   gen is read; then the line bits are set; then whoever may remember W on the page forgets it; then bytes are read
 *   writer    (without W) bytes are stored; full fence; lines are looked at; a hit clears those lines and changes gen
 *   W filler  announces itself in writers, then looks at lines: any set, no W (tlb.c)
 * A hit changes gen twice, before and after it clears lines. Before: who finds lines clear and so tells nobody of its store can
 * be sure that blocks decoded until then are dead. After: so is a block that was decoded meanwhile, from a gen that is odd; its
 * decoder waits here until the clearing is over, or it would find the block current once.
 * While lines is not 0 nobody fills W; so after the first forgetting only vCPUs that announced themselves since the last time
 * lines was 0 need to be asked, and mostly there are none. Changes of lines, and taking back announcements, are under code_lock.
 */
#include "access/access_private.h"

#define LINE_SHIFT	6

static uint64_t lines_of(unsigned offset, unsigned len)
{
	unsigned first = offset >> LINE_SHIFT, last = (offset + len - 1) >> LINE_SHIFT;

	return (last == 63 ? ~0ull : BIT64(last + 1) - 1) & ~(BIT64(first) - 1);
}

static bool mark(struct acc_cpu *cpu, const struct acc_fetch *page, unsigned offset, unsigned len, bool may_wait)
{
	struct acc_vm *vm = cpu->vm;
	struct mem_code *r = page->code;
	uint64_t tag = page->tag, writers, bits;
	uint8_t *hva = page->hva;
	uint32_t emptied = atomic_load(&r->emptied);	/* before the lines: unchanged later means that they never became 0 */

	if (!len || offset >= GW_PAGE_SIZE)
		return true;
	if (len > GW_PAGE_SIZE - offset)
		len = GW_PAGE_SIZE - offset;
	bits = lines_of(offset, len);
	acc_perturb();
	if ((atomic_load(&r->lines) & bits) != bits || (atomic_load(&r->gen) & 1)) {
		pthread_mutex_lock(&vm->code_lock);
		atomic_fetch_or(&r->lines, bits);
		pthread_mutex_unlock(&vm->code_lock);
	}
	acc_perturb();
	writers = atomic_load(&r->writers);
	if (!writers)
		return true;
	if (!may_wait)
		return false;
	if (writers & cpu->priv->writer_bit)
		acc_tlb_drop_writable(cpu, (uintptr_t)hva);
	/* The bit is shared when there are more than 64 vCPUs; then ask the others, too. */
	if ((writers & ~cpu->priv->writer_bit) || atomic_load(&vm->n_cpus_ever) > 64)
		acc_forget_writers(vm, cpu, hva, writers);
	acc_perturb();
	pthread_mutex_lock(&vm->code_lock);
	if (atomic_load(&r->emptied) == emptied)
		atomic_fetch_and(&r->writers, ~writers);
	pthread_mutex_unlock(&vm->code_lock);
	return tag == ~0ull || (page->tag == tag && page->hva == hva);
}

bool acc_mark_code(struct acc_cpu *cpu, const struct acc_fetch *page, unsigned offset, unsigned len)
{
	return mark(cpu, page, offset, len, true);
}

bool acc_mark_code_now(struct acc_cpu *cpu, const struct acc_fetch *page, unsigned offset, unsigned len)
{
	return mark(cpu, page, offset, len, false);
}

static bool page_stored(struct acc_vm *vm, const uint8_t *hva, unsigned len)
{
	struct mem_code *r = mem_code_find(vm->code, hva);
	uint64_t bits;

	if (!r)
		return false;
	bits = lines_of((uintptr_t)hva & GW_PAGE_MASK, len);
	if (likely(!(atomic_load(&r->lines) & bits)))
		return false;
	acc_perturb();
	/* Another store may have cleared them meanwhile; then its second change of gen came after our bytes. */
	pthread_mutex_lock(&vm->code_lock);
	bits &= atomic_load(&r->lines);
	if (bits) {
		atomic_fetch_add(&r->gen, 1);
		acc_perturb();
		if (atomic_fetch_and(&r->lines, ~bits) == bits)
			atomic_fetch_add(&r->emptied, 1);
		acc_perturb();
		atomic_fetch_add(&r->gen, 1);
		atomic_fetch_add(mem_code_changes(vm->code), 1);
	}
	pthread_mutex_unlock(&vm->code_lock);
	return true;
}

bool acc_store_done(struct acc_vm *vm, const uint8_t *hva, unsigned len)
{
	bool hit = false;

	atomic_thread_fence(memory_order_seq_cst);
	while (len) {
		unsigned here = GW_PAGE_SIZE - ((uintptr_t)hva & GW_PAGE_MASK);

		if (here > len)
			here = len;
		hit |= page_stored(vm, hva, here);
		hva += here;
		len -= here;
	}
	return hit;
}

bool acc_store_hits(struct acc_vm *vm, const uint8_t *hva, unsigned len)
{
	while (len) {
		unsigned offset = (uintptr_t)hva & GW_PAGE_MASK;
		unsigned here = len < GW_PAGE_SIZE - offset ? len : GW_PAGE_SIZE - offset;
		struct mem_code *r = mem_code_find(vm->code, hva);

		if (r && (atomic_load(&r->lines) & lines_of(offset, here)))
			return true;
		hva += here;
		len -= here;
	}
	return false;
}
