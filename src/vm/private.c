/* SPDX-License-Identifier: MIT */
/*
 * Private memory of a VM: guest_memfds, which frames are private, conversions, and what must be forgotten when. The interface
 * is Linux 7.1's (virt/kvm/guest_memfd.c as its API document describes it), and 6.8's where the client asks for that.
 *
 * Invariant: when a call that takes pages away, or makes them another kind, returns, no vCPU acts on what was. The order is
 * always: make the new rule visible, acc_forget(), then let go of the old. Everything here runs under vm->lock.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/trace.h"
#include "mem/gmem.h"
#include "vm/vm.h"

#define ALL_RIGHTS	(ACC_R | ACC_W | ACC_X)
#define BATCH		1024u		/* pages between two looks at signals */

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* ---- what there is ----------------------------------------------------------------------------------------------------- */

bool vm_gmem_is_old(void)
{
	const char *wish = getenv("GUESTWARD_GUEST_MEMFD");

	return wish && !strcmp(wish, "6.8");
}

uint64_t vm_gmem_flags(const struct vm *vm)
{
	if (vm ? vm->is_old_gmem : vm_gmem_is_old())
		return 0;
	return GUEST_MEMFD_FLAG_MMAP | (vm && vm->kinds ? 0 : GUEST_MEMFD_FLAG_INIT_SHARED);
}

uint64_t vm_memory_attributes(const struct vm *vm)
{
	return !vm || vm->kinds ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0;
}

/* A copy of the map with @vm's rules in it. With vm->lock held, or before anybody knows the VM. */
static int publish_rules(struct vm *vm)
{
	const struct mem_map *old = acc_vm_map(vm->acc);
	struct mem_map *map = malloc(sizeof(*map) + old->n * sizeof(map->slot[0]));

	if (!map)
		return -ENOMEM;
	memcpy(map, old, sizeof(*map) + old->n * sizeof(map->slot[0]));
	map->kinds = vm->kinds;
	map->is_strict = (vm->private_options & GW_PRIVATE_STRICT) != 0;
	acc_vm_set_map(vm->acc, map);
	return 0;
}

int vm_private_init(struct vm *vm, unsigned long type)
{
	int err;

	vm->type = type;
	vm->is_old_gmem = vm_gmem_is_old();
	if (type != KVM_X86_SW_PROTECTED_VM)
		return 0;
	err = mem_kinds_new(&vm->kinds);
	if (!err)
		err = publish_rules(vm);
	if (err)
		mem_kinds_free(vm->kinds);
	return err;
}

void vm_private_end(struct vm *vm)
{
	const struct mem_map *map = acc_vm_map(vm->acc);

	for (unsigned i = 0; i < map->n; i++) {
		const struct mem_slot *s = &map->slot[i];

		if (s->gmem)
			mem_gmem_unbind(s->gmem, s->gmem_page, s->n_pages, s->gmem_hva);
	}
	mem_kinds_free(vm->kinds);
}

int vm_private_enable(struct vm *vm, uint64_t options)
{
	uint32_t was = vm->private_options;
	int err;

	if (!vm->kinds || options & ~(uint64_t)VM_PRIVATE_OPTIONS)
		return -EINVAL;
	vm->private_options |= (uint32_t)options;
	err = publish_rules(vm);
	if (err)
		vm->private_options = was;
	return err;
}

/* ---- files --------------------------------------------------------------------------------------------------------------- */

/* Calls @fn for each piece of the slots that shows pages [page, page + n) of @g. */
static void each_piece(struct vm *vm, const struct mem_gmem *g, uint64_t page, uint64_t n,
		       void (*fn)(struct vm *vm, const struct mem_slot *s, uint64_t first, uint64_t n))
{
	const struct mem_map *map = acc_vm_map(vm->acc);

	for (unsigned i = 0; i < map->n; i++) {
		const struct mem_slot *s = &map->slot[i];
		uint64_t first = page > s->gmem_page ? page : s->gmem_page;
		uint64_t end = page + n < s->gmem_page + s->n_pages ? page + n : s->gmem_page + s->n_pages;

		if (s->gmem == g && first < end)
			fn(vm, s, first - s->gmem_page, end - first);
	}
}

static void forget_piece(struct vm *vm, const struct mem_slot *s, uint64_t first, uint64_t n)
{
	acc_forget(vm->acc, NULL, GFN(s->first.v + first), n, ALL_RIGHTS);
}

static void drop_piece(struct vm *vm, const struct mem_slot *s, uint64_t first, uint64_t n)
{
	acc_code_drop(vm->acc, s->gmem_hva + (first << GW_PAGE_SHIFT), n << GW_PAGE_SHIFT);
}

static void begin(void *opaque, struct mem_gmem *g, uint64_t page, uint64_t n)
{
	each_piece(opaque, g, page, n, forget_piece);
}

static void end(void *opaque, struct mem_gmem *g, uint64_t page, uint64_t n)
{
	each_piece(opaque, g, page, n, drop_piece);
}

static const struct mem_gmem_user user = { begin, end };

/*
 * What the client gets when the bytes are not for it: a file of the same size and nothing in it. Writing, mapping it for writing and
 * punching it past us are refused by the seals, so that no such call looks as if it had worked.
 */
static int make_file(uint64_t size, bool is_store)
{
	int fd = memfd_create("guest_memfd", MFD_ALLOW_SEALING | MFD_CLOEXEC), err;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size) || fchmod(fd, 0600) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | (is_store ? 0 : F_SEAL_WRITE)) < 0) {
		err = -errno;
		close(fd);
		return err == -EINVAL || err == -EFBIG ? -ENOMEM : err;
	}
	return fd;
}

static int reopen(int fd, int flags)
{
	char path[32];
	int again;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_RDWR | flags);
	return again < 0 ? -errno : again;
}

/*
 * Two open files of one inode, the client's and our own: so ours can tell whether the client's is still open anywhere, in another
 * process, in a message under way, or under a mapping (mem_gmem_is_held). Where there is no /proc both are one open file, and
 * the last descriptor in this process counts.
 */
static int make_fds(uint64_t size, bool is_store, int *own)
{
	int first = make_file(size, is_store), client;

	if (first < 0)
		return first;
	client = reopen(first, 0);
	*own = client < 0 ? fcntl(first, F_DUPFD_CLOEXEC, 0) : reopen(first, O_CLOEXEC);
	if (*own >= 0 && client >= 0) {
		close(first);
		return client;
	}
	if (client >= 0)
		close(client);
	if (*own >= 0 && !fcntl(first, F_SETFD, 0))
		return first;
	client = *own < 0 ? *own : -EMFILE;
	if (*own >= 0)
		close(*own);
	close(first);
	return client == -1 ? -EMFILE : client;
}

int vm_gmem_create(struct vm *vm, const struct kvm_create_guest_memfd *args, struct mem_gmem **out, int *fd)
{
	const uint64_t both = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
	const struct mem_backing_ops *ops = &mem_backing_anonymous;
	bool is_store = (args->flags & both) == both;
	int client, own, err;

	if (args->flags & ~vm_gmem_flags(vm))
		return -EINVAL;
	if (!args->size || args->size > INT64_MAX || args->size & GW_PAGE_MASK)
		return -EINVAL;
	client = make_fds(args->size, is_store, &own);
	if (client < 0)
		return client;
	if (is_store)
		ops = &mem_backing_file;
	else if (vm->private_options & GW_PRIVATE_HUGE)
		ops = &mem_backing_huge;
	err = mem_gmem_new(ops, args->size >> GW_PAGE_SHIFT, args->flags, own, &user, vm, out);
	if (err) {
		close(own);
		close(client);
		return err;
	}
	*fd = client;
	return 0;
}

void vm_gmem_release(struct vm *vm, struct mem_gmem *g)
{
	/* In a forked child the bytes are not there, and nobody runs: nothing to do. */
	if (vm->fork_generation != vm_fork_generation())
		return;
	pthread_mutex_lock(&vm->lock);
	mem_gmem_close(g);
	pthread_mutex_unlock(&vm->lock);
}

int vm_gmem_bind(struct mem_map *map, const struct kvm_userspace_memory_region2 *r, struct vm *vm, struct mem_gmem *g)
{
	uint64_t page = r->guest_memfd_offset >> GW_PAGE_SHIFT;
	struct mem_slot *s = map->slot;
	int err;

	while (s->id != r->slot)
		s++;
	if (g->opaque != vm)
		return -EINVAL;
	err = mem_gmem_bind(g, page, s->n_pages, &s->gmem_hva);
	if (err)
		return err;
	s->gmem = g;
	s->gmem_page = page;
	s->flags |= MEM_GMEM | (g->flags & GUEST_MEMFD_FLAG_MMAP ? MEM_GMEM_ONLY : 0);
	return 0;
}

/* ---- both sides ---------------------------------------------------------------------------------------------------------- */

static bool has_two_sides(const struct mem_slot *s)
{
	return s->flags & MEM_GMEM && !(s->flags & MEM_GMEM_ONLY) && s->hva;
}

static bool is_present_at_client(const struct mem_slot *s, uint64_t page)
{
	uint8_t there = 0;

	return has_two_sides(s) && mem_is_resident(s->hva + (page << GW_PAGE_SHIFT), 1, &there) && there;
}

static bool is_present_in_gmem(const struct mem_slot *s, uint64_t page)
{
	uint8_t there = 0;

	return s->flags & MEM_GMEM && !mem_gmem_resident(s->gmem, s->gmem_page + page, 1, &there) && there;
}

/* Strict: would populating these pages of the file make a second copy of one? */
static bool is_second_side(struct vm *vm, const struct mem_gmem *g, uint64_t page, uint64_t n)
{
	const struct mem_map *map = acc_vm_map(vm->acc);

	if (!(vm->private_options & GW_PRIVATE_STRICT))
		return false;
	for (unsigned i = 0; i < map->n; i++) {
		const struct mem_slot *s = &map->slot[i];

		if (s->gmem != g)
			continue;
		for (uint64_t p = 0; p < s->n_pages; p++)
			if (s->gmem_page + p - page < n && is_present_at_client(s, p) && !is_present_in_gmem(s, p))
				return true;
	}
	return false;
}

/* ---- fallocate ------------------------------------------------------------------------------------------------------------ */

static int allocate(struct vm *vm, struct mem_gmem *g, uint64_t page, uint64_t n)
{
	int err = 0;

	if (page > g->n_pages || n > g->n_pages - page)
		return -EINVAL;
	/* In pieces, so that nobody waits long for the lock. */
	while (n && !err) {
		uint64_t part = n < BATCH ? n : BATCH;

		pthread_mutex_lock(&vm->lock);
		err = is_second_side(vm, g, page, part) ? -ENOSPC : mem_gmem_allocate(g, page, part);
		pthread_mutex_unlock(&vm->lock);
		page += part;
		n -= part;
	}
	return err;
}

/*
 * Our parent's VM. Its secret bytes are not here, so there is nothing to work on; a file that the client shares is the same
 * everywhere, and the parent's vCPUs see what becomes of it as they see any other writer. Locks may be held by who is not here.
 */
static int fallocate_in_child(struct mem_gmem *g, int mode, uint64_t page, uint64_t n)
{
	if (g->ops->is_secret)
		return -EIO;
	if (!(mode & FALLOC_FL_PUNCH_HOLE))
		return page > g->n_pages || n > g->n_pages - page ? -EINVAL : g->ops->allocate(g, page, n);
	if (page >= g->n_pages)
		return 0;
	return g->ops->punch(g, page, n < g->n_pages - page ? n : g->n_pages - page);
}

int vm_gmem_fallocate(struct vm *vm, struct mem_gmem *g, int mode, int64_t offset, int64_t len)
{
	int err;

	if (offset < 0 || len <= 0)
		return -EINVAL;
	if (!(mode & FALLOC_FL_KEEP_SIZE) || mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE))
		return -EOPNOTSUPP;
	if (len > INT64_MAX - offset)
		return -EFBIG;
	if ((offset | len) & (int64_t)GW_PAGE_MASK)
		return -EINVAL;
	if (vm->fork_generation != vm_fork_generation())
		return fallocate_in_child(g, mode, (uint64_t)offset >> GW_PAGE_SHIFT, (uint64_t)len >> GW_PAGE_SHIFT);
	if (!(mode & FALLOC_FL_PUNCH_HOLE))
		return allocate(vm, g, (uint64_t)offset >> GW_PAGE_SHIFT, (uint64_t)len >> GW_PAGE_SHIFT);
	pthread_mutex_lock(&vm->lock);
	err = mem_gmem_punch(g, (uint64_t)offset >> GW_PAGE_SHIFT, (uint64_t)len >> GW_PAGE_SHIFT);
	pthread_mutex_unlock(&vm->lock);
	return err;
}

/* ---- conversion ------------------------------------------------------------------------------------------------------------- */

static int convert(struct vm *vm, uint64_t first, uint64_t n, bool is_private)
{
	bool now;
	int err;

	/* Nothing changes, nobody is disturbed. */
	if (mem_kinds_run(vm->kinds, first, first + n, &now) == first + n && now == is_private)
		return 0;
	err = mem_kinds_reserve(vm->kinds, GFN(first), n);
	if (err)
		return err;
	mem_kinds_set(vm->kinds, GFN(first), n, is_private);
	acc_forget(vm->acc, NULL, GFN(first), n, ALL_RIGHTS);
	mem_kinds_retire(vm->kinds);
	return 0;
}

static int check_range(uint64_t addr, uint64_t size)
{
	if (!size || addr + size < addr || (addr | size) & GW_PAGE_MASK)
		return -EINVAL;
	return 0;
}

int vm_set_attributes(struct vm *vm, const struct kvm_memory_attributes *a)
{
	int err;

	if (a->flags || a->attributes & ~vm_memory_attributes(vm))
		return -EINVAL;
	err = check_range(a->address, a->size);
	if (err || !vm->kinds)
		return err;
	pthread_mutex_lock(&vm->lock);
	err = convert(vm, a->address >> GW_PAGE_SHIFT, a->size >> GW_PAGE_SHIFT, a->attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE);
	pthread_mutex_unlock(&vm->lock);
	return err;
}

int vm_convert_region(struct vm *vm, uint64_t addr, uint64_t size, bool is_private)
{
	int err = check_range(addr, size);

	if (err)
		return err;
	pthread_mutex_lock(&vm->lock);
	err = convert(vm, addr >> GW_PAGE_SHIFT, size >> GW_PAGE_SHIFT, is_private);
	pthread_mutex_unlock(&vm->lock);
	return err;
}

/* ---- populating in advance -------------------------------------------------------------------------------------------------- */

static int prefault_client(const struct mem_slot *s, uint64_t page, uint64_t n)
{
	if (!s->hva)
		return -EFAULT;
	return madvise(s->hva + (page << GW_PAGE_SHIFT), n << GW_PAGE_SHIFT, MADV_POPULATE_READ) ? errno == EINTR ? -EINTR : -EFAULT : 0;
}

/* As many as are of one slot and one kind, at most @n. 0 or -errno; *done: pages. */
static int prefault_run(struct vm *vm, uint64_t gfn, uint64_t n, uint64_t *done)
{
	const struct mem_slot *s = mem_slot_of_gfn(acc_vm_map(vm->acc), GFN(gfn));
	bool is_private = false, in_gmem;
	uint64_t page;
	int err;

	if (!s)
		return -ENOENT;
	page = gfn - s->first.v;
	if (n > s->n_pages - page)
		n = s->n_pages - page;
	if (vm->kinds)
		n = mem_kinds_run(vm->kinds, gfn, gfn + n, &is_private) - gfn;
	in_gmem = is_private || s->flags & MEM_GMEM_ONLY;
	if (in_gmem && (!(s->flags & MEM_GMEM) || atomic_load(&s->gmem->is_closed)))
		return -EFAULT;
	*done = n;
	if (in_gmem)
		return is_second_side(vm, s->gmem, s->gmem_page + page, n) ? -ENOSPC : mem_gmem_allocate(s->gmem, s->gmem_page + page, n);
	err = prefault_client(s, page, n);
	if (err != -EFAULT || n == 1)
		return err;
	/* Up to the page that is not there. */
	*done = 1;
	return prefault_client(s, page, 1);
}

int vm_prefault(struct vm_vcpu *v, struct kvm_pre_fault_memory *p)
{
	bool any = false;

	if (p->flags || check_range(p->gpa, p->size))
		return -EINVAL;
	while (p->size) {
		uint64_t n = p->size >> GW_PAGE_SHIFT, done = 0;
		int err;

		if (vm_signal_pending(v))
			return any ? 0 : -EINTR;
		pthread_mutex_lock(&v->vm->lock);
		err = prefault_run(v->vm, p->gpa >> GW_PAGE_SHIFT, n < BATCH ? n : BATCH, &done);
		pthread_mutex_unlock(&v->vm->lock);
		if (err)
			return any ? 0 : err;
		any = true;
		p->gpa += done << GW_PAGE_SHIFT;
		p->size -= done << GW_PAGE_SHIFT;
	}
	return 0;
}

/* ---- contents before the guest runs ----------------------------------------------------------------------------------------- */

static bool has_run(struct vm *vm)
{
	unsigned n = atomic_load(&vm->n_vcpus);

	for (unsigned i = 0; i < n; i++)
		if (atomic_load_explicit(&atomic_load(&vm->vcpu[i])->has_run, memory_order_relaxed))
			return true;
	return false;
}

static int populate_page(struct vm *vm, uint64_t gfn, const uint8_t *bytes)
{
	const struct mem_slot *s = mem_slot_of_gfn(acc_vm_map(vm->acc), GFN(gfn));
	uint8_t *to;

	if (!s || !(s->flags & MEM_GMEM))
		return -EINVAL;
	if (atomic_load(&s->gmem->is_closed))
		return -EFAULT;
	if (!vm->kinds || !mem_kinds_is_private(vm->kinds, GFN(gfn)))
		return -EINVAL;
	if (is_second_side(vm, s->gmem, s->gmem_page + (gfn - s->first.v), 1))
		return -ENOSPC;
	to = mem_slot_gmem_hva(s, gfn_gpa(GFN(gfn)));
	mem_seal_open();
	memcpy(to, bytes, GW_PAGE_SIZE);
	mem_seal_close();
	acc_code_drop(vm->acc, to, GW_PAGE_SIZE);
	return 0;
}

int vm_populate(struct vm *vm, uint64_t gpa, const uint8_t *bytes, unsigned n)
{
	unsigned done = 0;
	int err = 0;

	pthread_mutex_lock(&vm->lock);
	if (has_run(vm))
		err = -EPERM;
	while (done < n && !err) {
		err = populate_page(vm, (gpa >> GW_PAGE_SHIFT) + done, bytes + (size_t)done * GW_PAGE_SIZE);
		done += !err;
	}
	pthread_mutex_unlock(&vm->lock);
	return done ? (int)done : err;
}

/* ---- the map as text -------------------------------------------------------------------------------------------------------- */

struct counts { uint64_t private_pages, shared_pages, in_gmem, at_client, both; };

#define VEC	1024u

static void count_part(struct vm *vm, const struct mem_slot *s, uint64_t page, uint64_t n, struct counts *c)
{
	uint8_t in[VEC] = { 0 }, at[VEC] = { 0 };

	if (s->flags & MEM_GMEM && mem_gmem_resident(s->gmem, s->gmem_page + page, n, in))
		memset(in, 0, sizeof(in));
	if (!s->hva || (s->flags & MEM_GMEM_ONLY) || !mem_is_resident(s->hva + (page << GW_PAGE_SHIFT), n, at))
		memset(at, 0, sizeof(at));
	for (uint64_t i = 0; i < n; i++) {
		bool is_private = vm->kinds && mem_kinds_is_private(vm->kinds, GFN(s->first.v + page + i));

		c->private_pages += is_private;
		c->shared_pages += !is_private;
		c->in_gmem += in[i];
		c->at_client += at[i];
		c->both += in[i] && at[i];
	}
}

static void put_slot(FILE *f, struct vm *vm, const struct mem_slot *s)
{
	uint64_t first = gfn_gpa(s->first).v, end = first + (s->n_pages << GW_PAGE_SHIFT);
	struct counts c = { 0 };

	for (uint64_t page = 0; page < s->n_pages; page += VEC)
		count_part(vm, s, page, s->n_pages - page < VEC ? s->n_pages - page : VEC, &c);
	fprintf(f, "slot=%u gpa=%012llx-%012llx store=%s private=%llu shared=%llu present_private=%llu present_shared=%llu both=%llu\n",
		s->id, (unsigned long long)first, (unsigned long long)end - 1,
		!(s->flags & MEM_GMEM) ? "none" : atomic_load(&s->gmem->is_closed) ? "closed" : s->gmem->ops->name,
		(unsigned long long)c.private_pages, (unsigned long long)c.shared_pages, (unsigned long long)c.in_gmem,
		(unsigned long long)c.at_client, (unsigned long long)c.both);
	for (uint64_t at = s->first.v; vm->kinds && at < s->first.v + s->n_pages;) {
		bool is_private;
		uint64_t stop = mem_kinds_run(vm->kinds, at, s->first.v + s->n_pages, &is_private);

		fprintf(f, "%012llx-%012llx %s\n", (unsigned long long)at << GW_PAGE_SHIFT,
			((unsigned long long)stop << GW_PAGE_SHIFT) - 1, is_private ? "private" : "shared");
		at = stop;
	}
}

int vm_map_text(struct vm *vm, char **text)
{
	const struct mem_map *map;
	size_t size = 0;
	FILE *f;

	*text = NULL;
	f = open_memstream(text, &size);
	if (!f)
		return -ENOMEM;
	pthread_mutex_lock(&vm->lock);
	map = acc_vm_map(vm->acc);
	fprintf(f, "type=%lu slots=%u bookkeeping=%llu\n", vm->type, map->n,
		(unsigned long long)(vm->kinds ? mem_kinds_bytes(vm->kinds) : 0));
	for (unsigned i = 0; i < map->n; i++)
		put_slot(f, vm, &map->slot[i]);
	pthread_mutex_unlock(&vm->lock);
	if (fclose(f) || !*text) {
		free(*text);
		*text = NULL;
		return -ENOMEM;
	}
	return 0;
}
