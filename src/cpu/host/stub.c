/* SPDX-License-Identifier: MIT */
/*
 * The buffer of stubs: one memory file, written through one mapping and executed through another; a hash of keys.
 *
 * Operations point at slots, which never move; a slot whose key is not the operation's has been given to another instruction
 * and is looked up again. So everything can be dropped at any time but while a stub runs.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/host/host_private.h"

void host_serialize(void)
{
	uint64_t tmp;

	__asm__ volatile("movq %%rsp, %0\n\t"
			 "subq $128, %%rsp\n\t"		/* red zone */
			 "andq $-16, %%rsp\n\t"
			 "pushq %0\n\t"			/* kept for after */
			 "movl %%ss, %k0\n\t"
			 "pushq %0\n\t"
			 "leaq 8(%%rsp), %0\n\t"
			 "pushq %0\n\t"
			 "pushfq\n\t"
			 "movl %%cs, %k0\n\t"
			 "pushq %0\n\t"
			 "leaq 1f(%%rip), %0\n\t"
			 "pushq %0\n\t"
			 "iretq\n"
			 "1:\tmovq (%%rsp), %%rsp"
			 : "=&r"(tmp) : : "memory", "cc");
}

static void evict(struct cpu_host *h)
{
	memset(h->slot, 0, sizeof(h->slot));
	h->n_slots = 0;
	h->used = host_emit_fault_return(h->rw);
	h->fault_return = h->rx;
	h->used = (h->used + 15) & ~15u;
	h->evictions++;
}

static unsigned hash_of(uint64_t key)
{
	return (unsigned)((key * 0x9e3779b97f4a7c15ull) >> 52) & (HOST_SLOTS - 1);
}

const struct host_slot *host_slot_get(struct cpu_host *h, uint64_t key)
{
	uint8_t code[HOST_STUB_MAX];
	struct host_slot *s;
	unsigned i, n;

	for (i = hash_of(key); h->slot[i].key; i = (i + 1) & (HOST_SLOTS - 1))
		if (h->slot[i].key == key)
			return &h->slot[i];
	n = host_emit(key, code);
	if (!n)
		return NULL;
	if (h->n_slots >= HOST_SLOTS_USED || h->used + n > HOST_CODE_SIZE) {
		evict(h);
		i = hash_of(key);
	}
	memcpy(h->rw + h->used, code, n);
	host_serialize();
	s = &h->slot[i];
	s->key = key;
	s->fn = (host_stub *)(uintptr_t)(h->rx + h->used);
	h->used += (n + 15) & ~15u;
	h->n_slots++;
	return s;
}

static int map_code(struct cpu_host *h)
{
	int fd = memfd_create("guestward-stubs", MFD_CLOEXEC);
	int err = -ENOMEM;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, HOST_CODE_SIZE))
		goto out;
	h->rw = mmap(NULL, HOST_CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (h->rw == MAP_FAILED)
		goto out;
	h->rx = mmap(NULL, HOST_CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (h->rx == MAP_FAILED) {
		munmap(h->rw, HOST_CODE_SIZE);
		goto out;
	}
	err = 0;
out:
	close(fd);
	return err;
}

int cpu_host_new(struct vcpu *c)
{
	struct cpu_host *h = calloc(1, sizeof(*h));
	int err;

	if (!h)
		return -ENOMEM;
	err = map_code(h);
	if (err) {
		free(h);
		return err;
	}
	evict(h);
	h->evictions = 0;
	h->mxcsr = MXCSR_INIT;
	c->host = h;
	cpu_fpu_gates(c);
	return 0;
}

void cpu_host_free(struct vcpu *c)
{
	struct cpu_host *h = c->host;

	if (!h)
		return;
	munmap(h->rw, HOST_CODE_SIZE);
	munmap(h->rx, HOST_CODE_SIZE);
	free(h);
	c->host = NULL;
}
