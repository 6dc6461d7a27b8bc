/* SPDX-License-Identifier: MIT */
/*
 * The table of descriptors: inode of a memfd -> object.
 *
 * An object is listed from its creation until gw_close() finds no other descriptor of its inode in this process. Calls in
 * flight hold a reference of their own, so closing never takes an object away under one.
 *
 * KVM_RUN must not cost a system call to find its object, so numbers that were found once are remembered. They are forgotten
 * with their object, by gw_close(), and by every other ioctl that finds something else there; a client that closes a number
 * behind our back and goes on to run it has lost its vCPU's descriptor, not memory.
 */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kvm/kvm.h"
#include "mem/gmem.h"

#define N_BUCKETS	512u

static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static struct kvm_file *buckets[N_BUCKETS];
_Atomic unsigned kvm_n_orphans;

/* By descriptor number; written with the lock held, the number of the file beside it makes collisions harmless. */
#define N_SEEN	256u
static struct { int fd; struct kvm_file *f; } seen[N_SEEN];

static struct kvm_file **bucket(ino_t ino)
{
	return &buckets[(ino ^ ino >> 9) % N_BUCKETS];
}

/* Of @fd, or with -1 whatever leads to @f. With the lock held. */
static void forget_seen(int fd, const struct kvm_file *f)
{
	for (unsigned i = 0; i < N_SEEN; i++)
		if (fd >= 0 ? seen[i].fd == fd : seen[i].f == f)
			seen[i].f = NULL;
}

struct kvm_file *kvm_file_get(int fd)
{
	struct kvm_file *f;
	bool is_stale;
	struct stat st;

	if (fstat(fd, &st))
		return NULL;
	pthread_rwlock_rdlock(&lock);
	for (f = *bucket(st.st_ino); f; f = f->next) {
		if (f->ino == st.st_ino && f->dev == st.st_dev) {
			atomic_fetch_add(&f->refs, 1);
			break;
		}
	}
	is_stale = fd >= 0 && seen[(unsigned)fd % N_SEEN].fd == fd && seen[(unsigned)fd % N_SEEN].f && seen[(unsigned)fd % N_SEEN].f != f;
	pthread_rwlock_unlock(&lock);
	if (is_stale) {
		pthread_rwlock_wrlock(&lock);
		forget_seen(fd, NULL);
		pthread_rwlock_unlock(&lock);
	}
	return f;
}

struct kvm_file *kvm_file_get_seen(int fd)
{
	struct kvm_file *f = NULL;

	if (fd < 0)
		return NULL;
	pthread_rwlock_rdlock(&lock);
	if (seen[(unsigned)fd % N_SEEN].fd == fd)
		f = seen[(unsigned)fd % N_SEEN].f;
	if (f)
		atomic_fetch_add(&f->refs, 1);
	pthread_rwlock_unlock(&lock);
	if (f)
		return f;
	f = kvm_file_get(fd);
	if (!f)
		return NULL;
	pthread_rwlock_wrlock(&lock);
	if (f->is_listed) {
		seen[(unsigned)fd % N_SEEN].fd = fd;
		seen[(unsigned)fd % N_SEEN].f = f;
	}
	pthread_rwlock_unlock(&lock);
	return f;
}

void kvm_file_put(struct kvm_file *f)
{
	if (atomic_fetch_sub(&f->refs, 1) != 1)
		return;
	mem_gmem_put(f->gmem);
	if (f->vm)
		vm_put(f->vm);
	free(f);
}

int kvm_file_new(const char *name)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int add(int fd, enum kvm_kind kind, struct vm *vm, struct vm_vcpu *vcpu, struct mem_gmem *gmem)
{
	struct kvm_file *f;
	struct stat st;

	if (fstat(fd, &st))
		return -errno;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	atomic_init(&f->refs, 1);
	f->kind = kind;
	f->dev = st.st_dev;
	f->ino = st.st_ino;
	f->vm = vm;
	f->vcpu = vcpu;
	f->gmem = gmem;
	f->is_listed = true;
	pthread_rwlock_wrlock(&lock);
	forget_seen(fd, NULL);
	f->next = *bucket(f->ino);
	*bucket(f->ino) = f;
	pthread_rwlock_unlock(&lock);
	return 0;
}

int kvm_file_add(int fd, enum kvm_kind kind, struct vm *vm, struct vm_vcpu *vcpu)
{
	return add(fd, kind, vm, vcpu, NULL);
}

int kvm_file_add_gmem(int fd, struct vm *vm, struct mem_gmem *gmem)
{
	return add(fd, KVM_FILE_GMEM, vm, NULL, gmem);
}

void kvm_file_each_vcpu(void (*fn)(struct vm_vcpu *v, unsigned long arg), unsigned long arg)
{
	pthread_rwlock_rdlock(&lock);
	for (unsigned b = 0; b < N_BUCKETS; b++)
		for (struct kvm_file *f = buckets[b]; f; f = f->next)
			if (f->kind == KVM_FILE_VCPU)
				fn(f->vcpu, arg);
	pthread_rwlock_unlock(&lock);
}

/* True: this call took it off the list. */
static bool unlist(struct kvm_file *f)
{
	bool mine;

	pthread_rwlock_wrlock(&lock);
	mine = f->is_listed;
	for (struct kvm_file **p = bucket(f->ino); mine && *p; p = &(*p)->next) {
		if (*p == f) {
			*p = f->next;
			break;
		}
	}
	f->is_listed = false;
	forget_seen(-1, f);
	pthread_rwlock_unlock(&lock);
	return mine;
}

static bool is_of(int fd, const struct kvm_file *f)
{
	struct stat st;

	return !fstat(fd, &st) && st.st_ino == f->ino && st.st_dev == f->dev;
}

/* Our own duplicates, of the first vCPU's file (coalesced ring) and of a store that the client shares, are not the client's. */
static bool is_ours(int fd, const struct kvm_file *f)
{
	if (f->gmem && fd == f->gmem->fd)
		return true;
	return f->vm && fd == f->vm->ring_fd;
}

/* Without /proc: every number that can be open. */
static bool has_descriptor_slow(const struct kvm_file *f)
{
	struct rlimit limit;
	int n = getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur > 65536 ? 65536 : (int)limit.rlim_cur;

	for (int fd = 0; fd < n; fd++)
		if (!is_ours(fd, f) && is_of(fd, f))
			return true;
	return false;
}

static bool has_descriptor(const struct kvm_file *f)
{
	DIR *d = opendir("/proc/self/fd");
	bool found = false;
	struct dirent *e;

	if (!d)
		return has_descriptor_slow(f);
	while (!found && (e = readdir(d))) {
		int fd = atoi(e->d_name);

		found = e->d_name[0] != '.' && fd != dirfd(d) && !is_ours(fd, f) && is_of(fd, f);
	}
	closedir(d);
	return found;
}

static void end(struct kvm_file *f)
{
	if (!unlist(f))
		return;
	if (f->gmem)
		vm_gmem_release(f->vm, f->gmem);
	kvm_file_put(f);
}

/* ---- held elsewhere ------------------------------------------------------------------------------------------------------- */

/*
 * A guest_memfd whose last descriptor here is closed lives on while another process has it, or a mapping does. Nobody tells us
 * when that ends: whoever comes by looks.
 */
static struct kvm_file *next_orphan(struct kvm_file *const *done, unsigned n_done)
{
	struct kvm_file *found = NULL;

	pthread_rwlock_rdlock(&lock);
	for (unsigned b = 0; b < N_BUCKETS && !found; b++)
		for (struct kvm_file *f = buckets[b]; f && !found; f = f->next) {
			bool skip = !atomic_load(&f->is_orphan);

			for (unsigned i = 0; i < n_done; i++)
				skip |= done[i] == f;
			if (!skip)
				found = f;
		}
	if (found)
		atomic_fetch_add(&found->refs, 1);
	pthread_rwlock_unlock(&lock);
	return found;
}

static bool adopt(struct kvm_file *f)
{
	bool was = atomic_exchange(&f->is_orphan, false);

	if (was)
		atomic_fetch_sub(&kvm_n_orphans, 1);
	return was;
}

#define MAX_SWEEP	16u	/* at a time */

void kvm_file_sweep_orphans(void)
{
	struct kvm_file *done[MAX_SWEEP];
	unsigned n = 0;

	while (n < MAX_SWEEP && (done[n] = next_orphan(done, n))) {
		struct kvm_file *f = done[n++];

		/* It may have come back, through a socket. */
		if (has_descriptor(f))
			adopt(f);
		else if (!mem_gmem_is_held(f->gmem) && adopt(f))
			end(f);
	}
	for (unsigned i = 0; i < n; i++)
		kvm_file_put(done[i]);
}

int kvm_file_close(int fd)
{
	struct kvm_file *f = kvm_file_get(fd);

	if (!f)
		return -EBADF;
	pthread_rwlock_wrlock(&lock);
	forget_seen(fd, NULL);
	pthread_rwlock_unlock(&lock);
	close(fd);
	if (!has_descriptor(f)) {
		if (!f->gmem || !mem_gmem_is_held(f->gmem))
			end(f);
		else if (!atomic_exchange(&f->is_orphan, true))
			atomic_fetch_add(&kvm_n_orphans, 1);
	}
	kvm_file_put(f);
	return 0;
}
