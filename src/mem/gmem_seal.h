/* SPDX-License-Identifier: MIT */
/*
 * The seal on private stores. A thread opens it before it touches a store and closes it afterwards: acc_enter() and acc_leave(),
 * acc_host_begin() and acc_host_end() do so for everybody, and the store itself where it populates. Opening twice is opening once.
 */
#ifndef GW_MEM_GMEM_SEAL_H
#define GW_MEM_GMEM_SEAL_H

#include <stdatomic.h>

#include "base/types.h"

enum mem_seal { MEM_SEAL_NONE, MEM_SEAL_KEYS, MEM_SEAL_PAGES };

/* What this process has: decided once, by the CPU, the kernel and GUESTWARD_SEAL (pages, off). */
enum mem_seal mem_seal_kind(void);

/* A store's address range; the store owns this. */
struct mem_sealed { struct mem_sealed *next; uint8_t *at; size_t size; };

/* Threads that work for a guest now learn of it at their next safe point. 0, or -1: no memory. */
int mem_seal_add(struct mem_sealed *s);
void mem_seal_remove(struct mem_sealed *s);

/* Nothing to do until the first store is sealed. */
extern _Atomic bool mem_seal_is_used;
void mem_seal_switch(bool open);

static inline void mem_seal_open(void)
{
	if (unlikely(atomic_load_explicit(&mem_seal_is_used, memory_order_acquire)))
		mem_seal_switch(true);
}

static inline void mem_seal_close(void)
{
	if (unlikely(atomic_load_explicit(&mem_seal_is_used, memory_order_acquire)))
		mem_seal_switch(false);
}

/* The kernel calls signal handlers with rights of its own: who leaves one by a jump takes the old ones along. */
#define MEM_SEAL_NOTHING 0xffffffffu
uint32_t mem_seal_save(void);
void mem_seal_restore(uint32_t saved);

#endif
