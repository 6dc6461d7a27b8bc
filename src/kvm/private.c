/* SPDX-License-Identifier: MIT */
/* ioctls of private memory, and the calls on a guest_memfd that are not ioctls. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvm/kvm.h"
#include "mem/gmem.h"

#define CHUNK_PAGES	16u

long kvm_set_region2(struct kvm_call *k)
{
	const struct kvm_userspace_memory_region2 *r = k->data;
	struct kvm_file *f = NULL;
	int why = -EINVAL;
	long ret;

	if (r->flags & KVM_MEM_GUEST_MEMFD && r->memory_size) {
		f = kvm_file_get((int)r->guest_memfd);
		if (!f && fcntl((int)r->guest_memfd, F_GETFD) < 0)
			why = -EBADF;
	}
	ret = vm_set_region(k->vm, r, f && f->kind == KVM_FILE_GMEM ? f->gmem : NULL, why);
	if (f)
		kvm_file_put(f);
	return ret;
}

long kvm_create_gmem(struct kvm_call *k)
{
	struct mem_gmem *g;
	int fd, err;

	err = vm_gmem_create(k->vm, k->data, &g, &fd);
	if (err)
		return err;
	err = kvm_file_add_gmem(fd, vm_get(k->vm), g);
	if (err) {
		vm_gmem_release(k->vm, g);
		mem_gmem_put(g);
		vm_put(k->vm);
		close(fd);
		return err;
	}
	return fd;
}

long kvm_set_attributes(struct kvm_call *k)
{
	return vm_set_attributes(k->vm, k->data);
}

/* The seed's conversions, where the client has asked for them. What KVM means by these numbers only SEV guests have. */
static long region(struct kvm_call *k, bool is_private)
{
	struct kvm_enc_region r;

	if (!(k->vm->private_options & GW_PRIVATE_REGIONS))
		return -ENOTTY;
	if (kvm_copy_in(&r, k->arg, sizeof(r)))
		return -EFAULT;
	return vm_convert_region(k->vm, r.addr, r.size, is_private);
}

long kvm_reg_region(struct kvm_call *k)
{
	return region(k, true);
}

long kvm_unreg_region(struct kvm_call *k)
{
	return region(k, false);
}

long kvm_prefault(struct kvm_call *k)
{
	return vm_prefault(k->v, k->data);
}

long kvm_populate(struct kvm_call *k)
{
	struct gw_populate *p = k->data;
	bool any = false;
	uint8_t *bytes;
	long err = 0;

	if (p->flags || !p->size || p->gpa + p->size < p->gpa || (p->gpa | p->size) & GW_PAGE_MASK)
		return -EINVAL;
	bytes = malloc(CHUNK_PAGES * GW_PAGE_SIZE);
	if (!bytes)
		return -ENOMEM;
	while (p->size && !err) {
		uint64_t n = p->size >> GW_PAGE_SHIFT;

		n = n < CHUNK_PAGES ? n : CHUNK_PAGES;
		err = kvm_copy_in(bytes, p->source, n << GW_PAGE_SHIFT);
		if (err)
			break;
		err = vm_populate(k->vm, p->gpa, bytes, (unsigned)n);
		if (err <= 0)
			break;
		any = true;
		p->gpa += (uint64_t)err << GW_PAGE_SHIFT;
		p->source += (uint64_t)err << GW_PAGE_SHIFT;
		p->size -= (uint64_t)err << GW_PAGE_SHIFT;
		err = (uint64_t)err < n ? 1 : 0;	/* the next page was refused */
	}
	free(bytes);
	return any ? 0 : err;
}

long kvm_map_text(struct kvm_call *k)
{
	struct gw_map *m = k->data;
	uint32_t n;
	char *text;
	size_t len;
	long err;

	if (m->flags || !m->size)
		return -EINVAL;
	err = vm_map_text(k->vm, &text);
	if (err)
		return err;
	len = strlen(text) + 1;
	m->length = len > UINT32_MAX ? UINT32_MAX : (uint32_t)len;
	n = m->length < m->size ? m->length : m->size;
	text[n - 1] = 0;
	err = kvm_copy_out(m->buf, text, n);
	free(text);
	return err;
}

/* ---- the file ------------------------------------------------------------------------------------------------------------- */

long kvm_gmem_fallocate(struct kvm_file *f, int mode, int64_t offset, int64_t len)
{
	/* The other files: what fallocate says of anything that is not a file of bytes. */
	return f->kind == KVM_FILE_GMEM ? vm_gmem_fallocate(f->vm, f->gmem, mode, offset, len) : -ENODEV;
}

/* Pages that are not shared with the host: every touch is SIGBUS, as beyond the end of a file. */
static void *map_nothing(size_t length, int prot, int flags, int *err)
{
	int fd = memfd_create("guest_memfd", MFD_CLOEXEC);
	void *p;

	if (fd < 0) {
		*err = -errno;
		return NULL;
	}
	p = mmap(NULL, length, prot, flags, fd, 0);
	*err = p == MAP_FAILED ? -errno : 0;
	close(fd);
	return p == MAP_FAILED ? NULL : p;
}

void *kvm_gmem_mmap(struct kvm_file *f, size_t length, int prot, int flags, int fd, uint64_t offset, int *err)
{
	void *p;

	*err = -ENODEV;
	if (!(f->gmem->flags & GUEST_MEMFD_FLAG_MMAP))
		return NULL;
	*err = -EPERM;
	if (prot & PROT_EXEC)
		return NULL;
	*err = -EINVAL;
	if ((flags & MAP_TYPE) == MAP_PRIVATE || offset & GW_PAGE_MASK || !length)
		return NULL;
	if (f->gmem->ops->is_secret)
		return map_nothing(length, prot, flags, err);
	p = mmap(NULL, length, prot, flags, fd, (off_t)offset);
	*err = p == MAP_FAILED ? -errno : 0;
	return p == MAP_FAILED ? NULL : p;
}
