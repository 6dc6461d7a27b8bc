/* SPDX-License-Identifier: MIT */
/*
 * Memory regions and the dirty log: the client's requests checked in KVM's order, then turned into a new memory map.
 *
 * A slot's dirty bitmap is owned here: made when logging is switched on, handed to the new map, and freed when the map that
 * used it last is gone (acc_vm_set_map() returns only then).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/trace.h"
#include "mem/gmem.h"
#include "vm/vm.h"


#define USER_END_LA57	0x00fffffffffff000ull

static bool is_aligned(uint64_t v)
{
	return !(v & GW_PAGE_MASK);
}

/* The address space is in the upper half. */
static bool is_slot_id(const struct vm *vm, uint32_t id)
{
	return id >> 16 < vm_spaces(vm) && (id & 0xffff) < VM_MAX_SLOTS;
}

static int check_flags(const struct vm *vm, uint32_t flags)
{
	uint32_t valid = KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY;

	if (!vm->is_old_gmem || vm->kinds)
		valid |= KVM_MEM_GUEST_MEMFD;
	/* Nobody could take a log of private pages, and they are not to be read-only. */
	if (flags & KVM_MEM_GUEST_MEMFD)
		valid &= ~(uint32_t)(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY);
	return flags & ~valid ? -EINVAL : 0;
}

static int check_region(const struct vm *vm, const struct kvm_userspace_memory_region2 *r)
{
	if (check_flags(vm, r->flags))
		return -EINVAL;
	if (!is_aligned(r->memory_size) || !is_aligned(r->guest_phys_addr))
		return -EINVAL;
	if (!is_aligned(r->userspace_addr) || r->userspace_addr + r->memory_size < r->userspace_addr ||
	    r->userspace_addr + r->memory_size > USER_END_LA57)
		return -EINVAL;
	if (r->flags & KVM_MEM_GUEST_MEMFD && (!is_aligned(r->guest_memfd_offset) ||
					       r->guest_memfd_offset + r->memory_size < r->guest_memfd_offset))
		return -EINVAL;
	if (!is_slot_id(vm, r->slot))
		return -EINVAL;
	if (r->guest_phys_addr + r->memory_size < r->guest_phys_addr)
		return -EINVAL;
	if (r->memory_size >> GW_PAGE_SHIFT > 0x7fffffffull)
		return -EINVAL;
	return 0;
}

const struct mem_slot *vm_slot_by_id(struct vm *vm, uint32_t id)
{
	const struct mem_map *map = id >> 16 < ACC_N_SPACES ? acc_vm_space_map(vm->acc, id >> 16) : NULL;

	for (unsigned i = 0; map && i < map->n; i++)
		if (map->slot[i].id == id)
			return &map->slot[i];
	return NULL;
}

static bool is_same(const struct mem_slot *a, const struct mem_slot *b)
{
	return a->first.v == b->first.v && a->n_pages == b->n_pages && a->hva == b->hva && a->flags == b->flags;
}

static int change(struct vm *vm, const struct kvm_userspace_memory_region2 *r, struct mem_gmem *g, int gmem_err)
{
	const struct mem_slot *found = vm_slot_by_id(vm, r->slot);
	struct mem_slot was = found ? *found : (struct mem_slot){ 0 };
	struct mem_slot s = {
		.id = r->slot,
		.first = gpa_gfn(GPA(r->guest_phys_addr)),
		.n_pages = r->memory_size >> GW_PAGE_SHIFT,
		.hva = (uint8_t *)(uintptr_t)r->userspace_addr,
		.flags = (r->flags & KVM_MEM_READONLY ? MEM_READONLY : 0) | (r->flags & KVM_MEM_LOG_DIRTY_PAGES ? MEM_LOG_DIRTY : 0) |
			 (r->flags & KVM_MEM_GUEST_MEMFD ? MEM_GMEM : 0),
		.dirty = was.dirty,
	};
	struct mem_dirty *fresh = NULL;
	struct mem_map *map;
	int err;

	if (found && s.n_pages && !(s.flags & MEM_GMEM) && is_same(&was, &s))
		return 0;
	if (s.n_pages && (s.flags & MEM_LOG_DIRTY) && !was.dirty) {
		err = mem_dirty_new(s.n_pages, vm->dirty_protect & 2 && !vm->dirty_ring_bytes, &fresh);
		if (err)
			return err;
		s.dirty = fresh;
	}
	if (!(s.flags & MEM_LOG_DIRTY))
		s.dirty = NULL;
	err = mem_map_change(acc_vm_space_map(vm->acc, r->slot >> 16), &s, &map);
	if (err) {
		mem_dirty_free(fresh);
		return err;
	}
	if (s.n_pages && s.flags & MEM_GMEM) {
		err = g ? vm_gmem_bind(map, r, vm, g) : gmem_err;
		if (err) {
			mem_map_free(map);
			return err;
		}
	}
	if (s.n_pages && !(r->slot >> 16) && (!found || was.first.v != s.first.v))
		mon_frames_added(vm->monitor, s.first, s.n_pages);
	acc_vm_set_space_map(vm->acc, r->slot >> 16, map);
	/* No vCPU uses the old map any more, so nobody marks in a bitmap that only it named. */
	if (was.dirty && (!s.n_pages || s.dirty != was.dirty))
		mem_dirty_free(was.dirty);
	/* The client may do with that memory what it wants before it comes back, at the same or another address. */
	if (found && (!s.n_pages || s.first.v != was.first.v))
		mem_code_drop(vm->code, was.hva, was.n_pages << GW_PAGE_SHIFT);
	if (was.gmem && !s.n_pages)
		mem_gmem_unbind(was.gmem, was.gmem_page, was.n_pages, was.gmem_hva);
	return 0;
}

int vm_set_region(struct vm *vm, const struct kvm_userspace_memory_region2 *r, struct mem_gmem *g, int gmem_err)
{
	int err = check_region(vm, r);

	if (err)
		return err;
	pthread_mutex_lock(&vm->lock);
	err = change(vm, r, g, gmem_err);
	pthread_mutex_unlock(&vm->lock);
	gw_trace(slot, -1, 0, r->slot, (unsigned long long)r->guest_phys_addr, (unsigned long long)r->memory_size,
		 (unsigned long long)r->userspace_addr, r->flags, err ? "refused" : r->memory_size ? "set" : "deleted");
	return err;
}

static size_t bitmap_bytes(uint64_t n_pages)
{
	return (n_pages + 63) / 64 * 8;
}

/* With vm->lock held. NULL and *err: -EINVAL bad id, -ENOENT no slot or no log. */
static const struct mem_slot *logged_slot(struct vm *vm, uint32_t id, int *err)
{
	const struct mem_slot *s;

	*err = -ENXIO;
	if (vm->dirty_ring_bytes)
		return NULL;
	*err = -EINVAL;
	if (!is_slot_id(vm, id))
		return NULL;
	*err = -ENOENT;
	s = vm_slot_by_id(vm, id);
	return s && s->dirty ? s : NULL;
}

int vm_get_dirty_log(struct vm *vm, uint32_t slot, uint64_t **bitmap, size_t *bytes)
{
	const struct mem_slot *s;
	bool clear;
	int err;

	pthread_mutex_lock(&vm->lock);
	s = logged_slot(vm, slot, &err);
	if (!s)
		goto unlock;
	*bytes = bitmap_bytes(s->n_pages);
	*bitmap = calloc(1, *bytes);
	err = *bitmap ? 0 : -ENOMEM;
	if (err)
		goto unlock;
	clear = !(vm->dirty_protect & 1);
	mem_dirty_fetch(s->dirty, *bitmap, clear);
	if (clear)
		acc_forget(vm->acc, NULL, s->first, s->n_pages, ACC_W);
unlock:
	pthread_mutex_unlock(&vm->lock);
	return err;
}

int vm_clear_dirty_log(struct vm *vm, const struct kvm_clear_dirty_log *log, const uint64_t *bitmap)
{
	const struct mem_slot *s;
	int err;

	if (log->first_page % 64)
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	s = logged_slot(vm, log->slot, &err);
	if (!s)
		goto unlock;
	err = -EINVAL;
	if (log->first_page > s->n_pages || log->num_pages > s->n_pages - log->first_page ||
	    (log->num_pages % 64 && log->num_pages < s->n_pages - log->first_page))
		goto unlock;
	err = 0;
	if (!log->num_pages)
		goto unlock;
	mem_dirty_clear(s->dirty, log->first_page, log->num_pages, bitmap);
	acc_forget(vm->acc, NULL, GFN(s->first.v + log->first_page), log->num_pages, ACC_W);
unlock:
	pthread_mutex_unlock(&vm->lock);
	return err;
}
