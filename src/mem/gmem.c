/* SPDX-License-Identifier: MIT */
/*
 * The object behind a guest_memfd and its stores. No policy: who may use which page is judged in access/, who is told of what
 * in vm/.
 *
 * The anonymous store has no descriptor at all: nothing in the process but the engine's own mapping leads to the bytes. It is one
 * reservation of the whole file, made when first needed, left out of core dumps and of forked children. The file store is the
 * memfd that the client holds, too.
 */
#include "mem/gmem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_SIZE	(2ull << 20)

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* ---- presence --------------------------------------------------------------------------------------------------------------- */

bool mem_is_resident(const uint8_t *hva, uint64_t n_pages, uint8_t *vec)
{
	if (mincore((void *)(uintptr_t)hva, n_pages << GW_PAGE_SHIFT, vec))
		return false;
	for (uint64_t i = 0; i < n_pages; i++)
		vec[i] &= 1;
	return true;
}

/* Older kernels: touch every page without changing it. */
static int touch(uint8_t *hva, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		__atomic_fetch_or(hva + (i << GW_PAGE_SHIFT), 0, __ATOMIC_RELAXED);
	return 0;
}

static int populate(uint8_t *hva, uint64_t n)
{
	if (!madvise(hva, n << GW_PAGE_SHIFT, MADV_POPULATE_WRITE))
		return 0;
	return errno == EINVAL ? touch(hva, n) : errno == EINTR ? -EINTR : -ENOMEM;
}

/* ---- anonymous memory -------------------------------------------------------------------------------------------------------- */

static uint64_t bytes_of(const struct mem_gmem *g)
{
	return g->n_pages << GW_PAGE_SHIFT;
}

/* Address space only: @size bytes aligned to @align (0: a page) with a closed page on both sides. NULL: none left. */
static uint8_t *reserve_fenced(uint64_t size, uint64_t align)
{
	uint64_t all = size + align + 2 * GW_PAGE_SIZE;
	uint8_t *p = mmap(NULL, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), *at;

	if (p == MAP_FAILED)
		return NULL;
	at = p + GW_PAGE_SIZE;
	if (align)
		at = (uint8_t *)(((uintptr_t)at + align - 1) & ~(align - 1));
	if (at - GW_PAGE_SIZE != p)
		munmap(p, (size_t)(at - GW_PAGE_SIZE - p));
	if (at + size + GW_PAGE_SIZE != p + all)
		munmap(at + size + GW_PAGE_SIZE, (size_t)(p + all - (at + size + GW_PAGE_SIZE)));
	if (!mprotect(at, size, PROT_READ | PROT_WRITE))
		return at;
	munmap(at - GW_PAGE_SIZE, size + 2 * GW_PAGE_SIZE);
	return NULL;
}

static void release_fenced(uint8_t *at, uint64_t size)
{
	munmap(at - GW_PAGE_SIZE, size + 2 * GW_PAGE_SIZE);
}

/* What it holds is nobody's business but ours. The fence keeps an access that runs over its end from another file's bytes. */
static int reserve(struct mem_gmem *g, uint64_t align)
{
	uint64_t size = bytes_of(g);
	uint8_t *at;

	if (g->base)
		return 0;
	at = reserve_fenced(size, align);
	if (!at)
		return -ENOMEM;
	g->sealed = (struct mem_sealed){ .at = at, .size = size };
	if (madvise(at, size, MADV_DONTDUMP) || madvise(at, size, MADV_DONTFORK) || mem_seal_add(&g->sealed)) {
		mem_seal_remove(&g->sealed);
		release_fenced(at, size);
		return -ENOMEM;
	}
	/* Bookkeeping per page is what a private page costs; a huge page for a guest that touches 4 KiB is not wanted unasked. */
	madvise(at, size, align ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	g->base = at;
	return 0;
}

/* Also for a vCPU's thread that is inside: it never populates there. */
static int populate_sealed(struct mem_gmem *g, uint64_t page, uint64_t n)
{
	int err;

	mem_seal_open();
	err = populate(g->base + (page << GW_PAGE_SHIFT), n);
	mem_seal_close();
	return err;
}

static int anonymous_open(struct mem_gmem *g)
{
	(void)g;
	return 0;
}

static int anonymous_map(struct mem_gmem *g, uint64_t page, uint64_t n, uint8_t **hva)
{
	int err = reserve(g, 0);

	(void)n;
	if (!err)
		*hva = g->base + (page << GW_PAGE_SHIFT);
	return err;
}

static int huge_map(struct mem_gmem *g, uint64_t page, uint64_t n, uint8_t **hva)
{
	int err = reserve(g, HUGE_SIZE);

	(void)n;
	if (!err)
		*hva = g->base + (page << GW_PAGE_SHIFT);
	return err;
}

static void anonymous_unmap(struct mem_gmem *g, uint8_t *hva, uint64_t n)
{
	(void)g;
	(void)hva;
	(void)n;
}

static int anonymous_allocate(struct mem_gmem *g, uint64_t page, uint64_t n)
{
	int err = reserve(g, 0);

	return err ? err : populate_sealed(g, page, n);
}

static int huge_allocate(struct mem_gmem *g, uint64_t page, uint64_t n)
{
	int err = reserve(g, HUGE_SIZE);

	return err ? err : populate_sealed(g, page, n);
}

static int anonymous_punch(struct mem_gmem *g, uint64_t page, uint64_t n)
{
	if (!g->base)
		return 0;
	return madvise(g->base + (page << GW_PAGE_SHIFT), n << GW_PAGE_SHIFT, MADV_DONTNEED) ? -errno : 0;
}

static int anonymous_resident(struct mem_gmem *g, uint64_t page, uint64_t n, uint8_t *vec)
{
	for (uint64_t i = 0; !g->base && i < n; i++)
		vec[i] = 0;
	if (!g->base)
		return 0;
	return mem_is_resident(g->base + (page << GW_PAGE_SHIFT), n, vec) ? 0 : -ENOMEM;
}

/* Whatever the store: a descriptor of our own of the client's file. */
static void file_close(struct mem_gmem *g)
{
	if (g->fd >= 0)
		close(g->fd);
	g->fd = -1;
}

static void anonymous_close(struct mem_gmem *g)
{
	if (g->base) {
		mem_seal_remove(&g->sealed);
		release_fenced(g->base, bytes_of(g));
	}
	g->base = NULL;
	file_close(g);
}

const struct mem_backing_ops mem_backing_anonymous = {
	.name = "anonymous", .is_secret = true,
	.open = anonymous_open, .map = anonymous_map, .unmap = anonymous_unmap, .allocate = anonymous_allocate,
	.punch = anonymous_punch, .resident = anonymous_resident, .close = anonymous_close,
};

const struct mem_backing_ops mem_backing_huge = {
	.name = "huge", .is_secret = true,
	.open = anonymous_open, .map = huge_map, .unmap = anonymous_unmap, .allocate = huge_allocate,
	.punch = anonymous_punch, .resident = anonymous_resident, .close = anonymous_close,
};

/* ---- the client's own file ---------------------------------------------------------------------------------------------------- */

static int file_open(struct mem_gmem *g)
{
	return g->fd < 0 ? -EBADF : 0;
}

static int file_map(struct mem_gmem *g, uint64_t page, uint64_t n, uint8_t **hva)
{
	void *p = mmap(NULL, n << GW_PAGE_SHIFT, PROT_READ | PROT_WRITE, MAP_SHARED, g->fd, (off_t)(page << GW_PAGE_SHIFT));

	if (p == MAP_FAILED)
		return -ENOMEM;
	*hva = p;
	return 0;
}

static void file_unmap(struct mem_gmem *g, uint8_t *hva, uint64_t n)
{
	(void)g;
	munmap(hva, n << GW_PAGE_SHIFT);
}

/* Through a mapping: pages that fallocate() has only promised do not count as present anywhere. */
static int file_allocate(struct mem_gmem *g, uint64_t page, uint64_t n)
{
	uint8_t *p;
	int err = file_map(g, page, n, &p);

	if (err)
		return err;
	err = populate(p, n);
	file_unmap(g, p, n);
	return err;
}

static int file_punch(struct mem_gmem *g, uint64_t page, uint64_t n)
{
	return fallocate(g->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, (off_t)(page << GW_PAGE_SHIFT),
			 (off_t)(n << GW_PAGE_SHIFT)) ? -errno : 0;
}

static int file_resident(struct mem_gmem *g, uint64_t page, uint64_t n, uint8_t *vec)
{
	uint8_t *p;
	bool ok;

	if (file_map(g, page, n, &p))
		return -ENOMEM;
	ok = mem_is_resident(p, n, vec);
	file_unmap(g, p, n);
	return ok ? 0 : -ENOMEM;
}

const struct mem_backing_ops mem_backing_file = {
	.name = "file", .is_secret = false,
	.open = file_open, .map = file_map, .unmap = file_unmap, .allocate = file_allocate, .punch = file_punch,
	.resident = file_resident, .close = file_close,
};

/* ---- the object ------------------------------------------------------------------------------------------------------------- */

int mem_gmem_new(const struct mem_backing_ops *ops, uint64_t n_pages, uint64_t flags, int fd, const struct mem_gmem_user *user,
		 void *opaque, struct mem_gmem **out)
{
	struct mem_gmem *g = calloc(1, sizeof(*g));
	int err;

	if (!g)
		return -ENOMEM;
	atomic_init(&g->refs, 1);
	g->ops = ops;
	g->user = user;
	g->opaque = opaque;
	g->n_pages = n_pages;
	g->flags = flags;
	g->fd = fd;
	err = ops->open(g);
	if (err) {
		free(g);
		return err;
	}
	*out = g;
	return 0;
}

struct mem_gmem *mem_gmem_get(struct mem_gmem *g)
{
	atomic_fetch_add(&g->refs, 1);
	return g;
}

void mem_gmem_put(struct mem_gmem *g)
{
	if (!g || atomic_fetch_sub(&g->refs, 1) != 1)
		return;
	if (!atomic_load(&g->is_closed))
		g->ops->close(g);
	free(g);
}

bool mem_gmem_is_bound(const struct mem_gmem *g, uint64_t page, uint64_t n)
{
	for (const struct mem_gmem_binding *b = g->bindings; b; b = b->next)
		if (page < b->page + b->n && b->page < page + n)
			return true;
	return false;
}

int mem_gmem_bind(struct mem_gmem *g, uint64_t page, uint64_t n, uint8_t **hva)
{
	struct mem_gmem_binding *b;
	int err;

	if (page > g->n_pages || n > g->n_pages - page || mem_gmem_is_bound(g, page, n) || atomic_load(&g->is_closed))
		return -EINVAL;
	b = malloc(sizeof(*b));
	if (!b)
		return -ENOMEM;
	err = g->ops->map(g, page, n, hva);
	if (err) {
		free(b);
		return err;
	}
	*b = (struct mem_gmem_binding){ g->bindings, page, n };
	g->bindings = b;
	mem_gmem_get(g);
	return 0;
}

void mem_gmem_unbind(struct mem_gmem *g, uint64_t page, uint64_t n, uint8_t *hva)
{
	struct mem_gmem_binding **p = &g->bindings, *b;

	while (*p && ((*p)->page != page || (*p)->n != n))
		p = &(*p)->next;
	b = *p;
	if (b)
		*p = b->next;
	free(b);
	g->ops->unmap(g, hva, n);
	mem_gmem_put(g);
}

int mem_gmem_allocate(struct mem_gmem *g, uint64_t page, uint64_t n)
{
	if (page > g->n_pages || n > g->n_pages - page)
		return -EINVAL;
	return atomic_load(&g->is_closed) ? 0 : g->ops->allocate(g, page, n);
}

int mem_gmem_punch(struct mem_gmem *g, uint64_t page, uint64_t n)
{
	int err;

	if (page >= g->n_pages || !n || atomic_load(&g->is_closed))
		return 0;
	if (n > g->n_pages - page)
		n = g->n_pages - page;
	atomic_store(&g->busy_page, page);
	atomic_store(&g->busy_n, n);
	g->user->begin(g->opaque, g, page, n);
	err = g->ops->punch(g, page, n);
	g->user->end(g->opaque, g, page, n);
	atomic_store(&g->busy_n, 0);
	return err;
}

int mem_gmem_resident(struct mem_gmem *g, uint64_t page, uint64_t n, uint8_t *vec)
{
	if (page > g->n_pages || n > g->n_pages - page)
		return -EINVAL;
	for (uint64_t i = 0; atomic_load(&g->is_closed) && i < n; i++)
		vec[i] = 0;
	return atomic_load(&g->is_closed) ? 0 : g->ops->resident(g, page, n, vec);
}

/* A write lease is given only to who has the inode's only open file. Not granted for another reason: as if nobody had. */
bool mem_gmem_is_held(const struct mem_gmem *g)
{
	if (g->fd < 0)
		return false;
	if (fcntl(g->fd, F_SETLEASE, F_WRLCK))
		return errno == EAGAIN;
	fcntl(g->fd, F_SETLEASE, F_UNLCK);
	return false;
}

void mem_gmem_close(struct mem_gmem *g)
{
	if (atomic_exchange(&g->is_closed, true))
		return;
	g->user->begin(g->opaque, g, 0, g->n_pages);
	g->ops->close(g);
	g->user->end(g->opaque, g, 0, g->n_pages);
}
