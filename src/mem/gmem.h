/* SPDX-License-Identifier: MIT */
/*
 * Private memory: which frames are private (mem_kinds), and the objects that hold their bytes (mem_gmem), with the stores
 * those are made of behind one table.
 *
 * mem_kinds is read without locks by vCPUs that judge an access, and changed under the VM's lock; nodes that fall out of use
 * are freed only after every vCPU has passed a safe point, which the caller brings about between _set() and _retire().
 * A mem_gmem belongs to one VM for ever. References: one for the file, one for each slot bound to it. The bytes go when the file
 * is closed, the shell with the last reference.
 */
#ifndef GW_MEM_GMEM_H
#define GW_MEM_GMEM_H

#include <stdatomic.h>

#include "mem/gmem_seal.h"
#include "mem/mem.h"

/* ---- kinds: gmem_kinds.c ----------------------------------------------------------------------------------------------- */

int mem_kinds_new(struct mem_kinds **out);
/* Nobody looks any more. */
void mem_kinds_free(struct mem_kinds *k);
/* Any thread, between two safe points. */
bool mem_kinds_is_private(const struct mem_kinds *k, struct gfn gfn);
/* The run of one kind that begins at @gfn ends before the frame returned; at most @end. */
uint64_t mem_kinds_run(const struct mem_kinds *k, uint64_t gfn, uint64_t end, bool *is_private);
/*
 * Frames [first, first + n), first + n <= 2^52, become private or shared. _reserve may fail, -ENOMEM, and changes no kind;
 * after it _set of the same range cannot fail. Then make everybody forget, then _retire.
 */
int mem_kinds_reserve(struct mem_kinds *k, struct gfn first, uint64_t n);
void mem_kinds_set(struct mem_kinds *k, struct gfn first, uint64_t n, bool is_private);
void mem_kinds_retire(struct mem_kinds *k);
/* Bytes used for bookkeeping. */
uint64_t mem_kinds_bytes(const struct mem_kinds *k);

/* ---- objects: gmem.c --------------------------------------------------------------------------------------------------- */

struct mem_gmem;

/*
 * A store of bytes, in pages of the file. All under the VM's lock, but for open before anybody knows the object and close after
 * it is closed. Errors are -errno.
 */
struct mem_backing_ops {
	const char *name;
	bool is_secret;		/* no descriptor of the client leads to the bytes */
	int (*open)(struct mem_gmem *g);
	/* Where [page, page + n) can be reached: reading what was never written gives zeros. -ENOMEM. */
	int (*map)(struct mem_gmem *g, uint64_t page, uint64_t n, uint8_t **hva);
	void (*unmap)(struct mem_gmem *g, uint8_t *hva, uint64_t n);
	/* Make present. Contents of what was there stay. -ENOMEM, -EINTR. */
	int (*allocate)(struct mem_gmem *g, uint64_t page, uint64_t n);
	/* Give back: zeros afterwards, at every address that map gave. */
	int (*punch)(struct mem_gmem *g, uint64_t page, uint64_t n);
	/* vec[i]: is page + i present? */
	int (*resident)(struct mem_gmem *g, uint64_t page, uint64_t n, uint8_t *vec);
	void (*close)(struct mem_gmem *g);
};

extern const struct mem_backing_ops mem_backing_anonymous, mem_backing_huge, mem_backing_file;

/*
 * Who uses the pages is told before they go and after. Between the two calls no access of the guest to them may succeed
 * (judges answer RETRY while mem_gmem_is_busy), and after end nothing may act on what was there.
 */
struct mem_gmem_user {
	void (*begin)(void *opaque, struct mem_gmem *g, uint64_t page, uint64_t n);
	void (*end)(void *opaque, struct mem_gmem *g, uint64_t page, uint64_t n);
};

struct mem_gmem_binding { struct mem_gmem_binding *next; uint64_t page, n; };

struct mem_gmem {
	_Atomic unsigned refs;
	const struct mem_backing_ops *ops;
	const struct mem_gmem_user *user;
	void *opaque;			/* the user's: its VM */
	uint64_t n_pages;
	uint64_t flags;			/* GUEST_MEMFD_FLAG_*, as created */
	_Atomic bool is_closed;
	/* Pages on their way out; one range at a time, the VM's lock sees to that. */
	_Atomic uint64_t busy_n, busy_page;
	struct mem_gmem_binding *bindings;
	/* The store's. */
	uint8_t *base;
	struct mem_sealed sealed;
	int fd;
};

/* Takes @fd over on success: an open file of our own of what the client holds, or -1 (not with the file store). */
int mem_gmem_new(const struct mem_backing_ops *ops, uint64_t n_pages, uint64_t flags, int fd, const struct mem_gmem_user *user,
		 void *opaque, struct mem_gmem **out);
struct mem_gmem *mem_gmem_get(struct mem_gmem *g);
void mem_gmem_put(struct mem_gmem *g);

/* All below: the VM's lock is held. bind: -EINVAL past the end, or a page is bound already; -ENOMEM. */
int mem_gmem_bind(struct mem_gmem *g, uint64_t page, uint64_t n, uint8_t **hva);
void mem_gmem_unbind(struct mem_gmem *g, uint64_t page, uint64_t n, uint8_t *hva);
bool mem_gmem_is_bound(const struct mem_gmem *g, uint64_t page, uint64_t n);
int mem_gmem_allocate(struct mem_gmem *g, uint64_t page, uint64_t n);
/* What lies past the end is ignored. */
int mem_gmem_punch(struct mem_gmem *g, uint64_t page, uint64_t n);
int mem_gmem_resident(struct mem_gmem *g, uint64_t page, uint64_t n, uint8_t *vec);
/* Has anybody, in whatever process, the client's open file, or a mapping of it? False too where that cannot be known. */
bool mem_gmem_is_held(const struct mem_gmem *g);
/* The last descriptor is gone: nobody can reach the bytes any more, and they go. */
void mem_gmem_close(struct mem_gmem *g);

static inline bool mem_gmem_is_busy(const struct mem_gmem *g, uint64_t page)
{
	uint64_t n = atomic_load_explicit(&((struct mem_gmem *)g)->busy_n, memory_order_acquire);

	return unlikely(n) && page - atomic_load(&((struct mem_gmem *)g)->busy_page) < n;
}

/* Pages of anonymous or file memory at @hva that are present, without touching any. False: not mapped. */
bool mem_is_resident(const uint8_t *hva, uint64_t n_pages, uint8_t *vec);

#endif
