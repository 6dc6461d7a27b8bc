/* SPDX-License-Identifier: MIT */
/*
 * Sealing: the stores whose bytes are not for the client can be touched by a thread only while it works for the guest.
 *
 * With protection keys the right is the thread's own, in PKRU: a client thread, and a vCPU's thread outside KVM_RUN, get SIGSEGV
 * or EFAULT. Without, GUESTWARD_SEAL=pages stands in: page rights of the whole process, given while any thread works for a guest.
 * That is slow and protects less; it is there to show, on any CPU, that nothing of ours touches a store without opening it.
 *
 * Only our key's bits of PKRU are ever changed: the others are the client's.
 */
#include "mem/gmem_seal.h"

#include <cpuid.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LEAF_7_ECX_OSPKE	(1u << 4)
#define DENY(key)		(3u << 2 * (key))

_Atomic bool mem_seal_is_used;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static enum mem_seal how;
static int key = -1;

/* The stand-in's: what there is, and how many threads are at it. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct mem_sealed *list;
static unsigned n_open;
static _Thread_local bool is_open;

/* The stores are not in a child, and something else may be at their addresses. */
static void in_child(void)
{
	pthread_mutex_init(&lock, NULL);
	list = NULL;
	n_open = 0;
	is_open = false;
}

static bool has_keys(void)
{
	unsigned a, b, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && c & LEAF_7_ECX_OSPKE;
}

static void choose(void)
{
	const char *wish = getenv("GUESTWARD_SEAL");

	if (wish && !strcmp(wish, "off"))
		return;
	if (wish && !strcmp(wish, "pages")) {
		how = pthread_atfork(NULL, NULL, in_child) ? MEM_SEAL_NONE : MEM_SEAL_PAGES;
		return;
	}
	/* Threads that are there already have what the kernel starts with: no key but 0. */
	key = has_keys() ? pkey_alloc(0, PKEY_DISABLE_ACCESS) : -1;
	if (key > 0)
		how = MEM_SEAL_KEYS;
}

enum mem_seal mem_seal_kind(void)
{
	pthread_once(&once, choose);
	return how;
}

static uint32_t read_pkru(void)
{
	uint32_t eax, edx;

	__asm__ volatile("rdpkru" : "=a"(eax), "=d"(edx) : "c"(0) : "memory");
	return eax;
}

static void write_pkru(uint32_t value)
{
	__asm__ volatile("wrpkru" : : "a"(value), "c"(0), "d"(0) : "memory");
}

uint32_t mem_seal_save(void)
{
	return atomic_load_explicit(&mem_seal_is_used, memory_order_relaxed) && how == MEM_SEAL_KEYS ? read_pkru() : MEM_SEAL_NOTHING;
}

void mem_seal_restore(uint32_t saved)
{
	if (saved != MEM_SEAL_NOTHING)
		write_pkru(saved);
}

static void protect_all(int prot)
{
	for (struct mem_sealed *s = list; s; s = s->next)
		mprotect(s->at, s->size, prot);
}

static void pages(bool open)
{
	if (is_open == open)
		return;
	is_open = open;
	pthread_mutex_lock(&lock);
	if (open ? n_open++ == 0 : --n_open == 0)
		protect_all(open ? PROT_READ | PROT_WRITE : PROT_NONE);
	pthread_mutex_unlock(&lock);
}

void mem_seal_switch(bool open)
{
	uint32_t now, next;

	if (how != MEM_SEAL_KEYS) {
		pages(open);
		return;
	}
	now = read_pkru();
	next = open ? now & ~DENY(key) : now | DENY(key);
	if (next != now)
		write_pkru(next);
}

int mem_seal_add(struct mem_sealed *s)
{
	int err = 0;

	if (mem_seal_kind() == MEM_SEAL_NONE)
		return 0;
	if (how == MEM_SEAL_KEYS) {
		err = pkey_mprotect(s->at, s->size, PROT_READ | PROT_WRITE, key);
	} else {
		pthread_mutex_lock(&lock);
		s->next = list;
		list = s;
		if (!n_open)
			err = mprotect(s->at, s->size, PROT_NONE);
		pthread_mutex_unlock(&lock);
	}
	atomic_store(&mem_seal_is_used, true);
	return err ? -1 : 0;
}

void mem_seal_remove(struct mem_sealed *s)
{
	if (how != MEM_SEAL_PAGES)
		return;
	pthread_mutex_lock(&lock);
	for (struct mem_sealed **p = &list; *p; p = &(*p)->next) {
		if (*p == s) {
			*p = s->next;
			break;
		}
	}
	pthread_mutex_unlock(&lock);
}
