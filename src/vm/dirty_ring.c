/* SPDX-License-Identifier: MIT */
/*
 * The dirty ring: pages that became dirty, told to the client through a ring of each vCPU, in its mapping from page 64 on.
 *
 * A slot's bitmap stays the record: who sets a bit pushes the page, and KVM_RESET_DIRTY_RINGS clears the bits of the entries that
 * the client has given back. Between push and reset a page is in exactly one ring once. A vCPU pushes to its own ring; what no
 * vCPU did goes to the first one's. A vCPU whose ring has no more than RESERVED free entries leaves KVM_RUN before it executes
 * another block: what it can still dirty until it notices fits in those.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/trace.h"
#include "vm/vm.h"

#define RESERVED	576u		/* as KVM on hardware with page-modification logging */

static uint32_t n_entries(const struct vm *vm)
{
	return vm->dirty_ring_bytes / (uint32_t)sizeof(struct kvm_dirty_gfn);
}

/* ---- filling ----------------------------------------------------------------------------------------------------------- */

/* With v->dirty_lock held. */
static bool is_full(const struct vm_vcpu *v)
{
	return v->dirty_index - v->dirty_reset >= n_entries(v->vm) - RESERVED;
}

static void push(struct vm_vcpu *v, uint32_t slot, uint64_t page)
{
	uint32_t n = n_entries(v->vm);
	struct kvm_dirty_gfn *e;
	bool lost, full;

	pthread_mutex_lock(&v->dirty_lock);
	lost = v->dirty_index - v->dirty_reset == n;
	if (!lost) {
		e = &v->dirty[v->dirty_index++ % n];
		e->slot = slot;
		e->offset = page;
		__atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_DIRTY, __ATOMIC_RELEASE);
	}
	full = is_full(v);
	atomic_store(&v->is_dirty_full, full);
	pthread_mutex_unlock(&v->dirty_lock);
	if (lost)
		vm_bug(v->vm, "a dirty page found no room in its ring");
	else if (full)
		acc_attend(&v->c.acc, ACC_ATT_EXIT);
}

static void dirtied(void *opaque, struct acc_cpu *cpu, uint32_t slot, uint64_t page)
{
	struct vm *vm = opaque;
	struct vm_vcpu *v = cpu ? vm_vcpu_of((struct vcpu *)(void *)cpu) : atomic_load(&vm->vcpu[0]);

	if (v)
		push(v, slot, page);
}

bool vm_dirty_ring_full(struct vm_vcpu *v)
{
	return unlikely(v->dirty) && atomic_load(&v->is_dirty_full);
}

/* ---- giving back -------------------------------------------------------------------------------------------------------- */

/* What was cleared lies in [first, last]; none when first > last. */
struct reset { struct vm *vm; uint64_t first, last; };

/* The entry lies in the client's memory: it may say anything. */
static void clear_bit(struct reset *r, uint32_t id, uint64_t page)
{
	const struct mem_slot *s = vm_slot_by_id(r->vm, id);
	const uint64_t bit = BIT64(page % 64);

	if (!s || !s->dirty || page >= s->n_pages)
		return;
	mem_dirty_clear(s->dirty, page & ~63ull, 64, &bit);
	if (s->first.v + page < r->first)
		r->first = s->first.v + page;
	if (s->first.v + page > r->last)
		r->last = s->first.v + page;
}

static unsigned reset_ring(struct vm_vcpu *v, struct reset *r)
{
	uint32_t n = n_entries(v->vm), count = 0;

	pthread_mutex_lock(&v->dirty_lock);
	while (v->dirty_reset != v->dirty_index) {
		struct kvm_dirty_gfn *e = &v->dirty[v->dirty_reset % n];

		if (!(__atomic_load_n(&e->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_RESET))
			break;
		clear_bit(r, __atomic_load_n(&e->slot, __ATOMIC_RELAXED), __atomic_load_n(&e->offset, __ATOMIC_RELAXED));
		__atomic_store_n(&e->flags, 0, __ATOMIC_RELEASE);
		v->dirty_reset++;
		count++;
	}
	atomic_store(&v->is_dirty_full, is_full(v));
	pthread_mutex_unlock(&v->dirty_lock);
	return count;
}

int vm_reset_dirty_rings(struct vm *vm)
{
	struct reset r = { .vm = vm, .first = ~0ull };
	unsigned n, count = 0;

	if (!vm->dirty_ring_bytes)
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	n = atomic_load(&vm->n_vcpus);
	for (unsigned i = 0; i < n; i++)
		count += reset_ring(atomic_load(&vm->vcpu[i]), &r);
	/* Once: every vCPU has to be waited for. No ring's lock is held, for a vCPU may be waiting for its own. */
	if (r.first <= r.last)
		acc_forget(vm->acc, NULL, GFN(r.first), r.last - r.first + 1, ACC_W);
	pthread_mutex_unlock(&vm->lock);
	return (int)count;
}

/* ---- making ------------------------------------------------------------------------------------------------------------- */

/* With vm->lock held. */
int vm_dirty_ring_enable(struct vm *vm, uint64_t bytes)
{
	if (!bytes || bytes & (bytes - 1) || bytes < GW_PAGE_SIZE || bytes < RESERVED * sizeof(struct kvm_dirty_gfn))
		return -EINVAL;
	if (bytes > VM_DIRTY_RING_MAX)
		return -E2BIG;
	if (vm->dirty_ring_bytes || atomic_load(&vm->n_vcpus))
		return -EINVAL;
	vm->dirty_ring_bytes = (uint32_t)bytes;
	acc_vm_set_dirtied(vm->acc, dirtied, vm);
	return 0;
}

size_t vm_dirty_ring_file_size(const struct vm *vm)
{
	return vm->dirty_ring_bytes ? VM_DIRTY_RING_OFFSET + vm->dirty_ring_bytes : VM_RUN_SIZE;
}

int vm_dirty_ring_map(struct vm_vcpu *v, int fd)
{
	void *p;

	if (!v->vm->dirty_ring_bytes)
		return 0;
	p = mmap(NULL, v->vm->dirty_ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, VM_DIRTY_RING_OFFSET);
	if (p == MAP_FAILED)
		return -errno;
	v->dirty = p;
	return 0;
}

void vm_dirty_ring_unmap(struct vm_vcpu *v)
{
	if (v->dirty)
		munmap(v->dirty, v->vm->dirty_ring_bytes);
}
