/* SPDX-License-Identifier: MIT */
/* The exported functions: gw_open, gw_ioctl, gw_mmap, gw_close, gw_owns. */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/trace.h"
#include "control/control.h"
#include "guestward/guestward.h"
#include "kvm/kvm.h"

int gw_open(void)
{
	int fd, err;

	gw_trace_from_env();
	fd = kvm_file_new("kvm");
	if (fd < 0)
		return fd;
	err = kvm_file_add(fd, KVM_FILE_SYSTEM, NULL, NULL);
	if (err) {
		close(fd);
		return err;
	}
	return fd;
}

/* Signals first and last: their handlers run when nothing of ours is held, because they may use the vCPU, or jump away for good. */
static long run(int fd, unsigned long arg)
{
	struct vm_signals s;
	struct kvm_file *f;
	long ret = -EBADF;

	vm_signal_enter(&s);
	f = kvm_file_get_seen(fd);
	if (unlikely(atomic_load_explicit(&kvm_n_orphans, memory_order_relaxed)))
		kvm_file_sweep_orphans();
	if (likely(f)) {
		ret = kvm_ioctl(f, KVM_RUN, arg);
		kvm_file_put(f);
	}
	vm_signal_leave(&s);
	return ret;
}

static long other_than_run(int fd, unsigned long request, unsigned long arg)
{
	struct kvm_file *f = kvm_file_get(fd);
	long ret;

	if (unlikely(atomic_load_explicit(&kvm_n_orphans, memory_order_relaxed)))
		kvm_file_sweep_orphans();
	if (!f)
		return -EBADF;
	ret = kvm_ioctl(f, (uint32_t)request, arg);
	kvm_file_put(f);
	if (request == KVM_CREATE_VM && ret >= 0)
		control_vm_created((int)ret);
	else if (request == KVM_CREATE_VCPU && ret >= 0)
		control_vcpu_created(fd, (int)ret, arg);
	return ret;
}

/* An ioctl is no point of cancellation, whatever we call. */
long gw_ioctl(int fd, unsigned long request, unsigned long arg)
{
	int state;
	long ret;

	if (likely((uint32_t)request == KVM_RUN))
		return run(fd, arg);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	ret = other_than_run(fd, request, arg);
	pthread_setcancelstate(state, NULL);
	return ret;
}

/*
 * The ring page is the VM's, not the vCPU's: it is mapped over the third page from the first vCPU's file. A native mmap of
 * another vCPU's descriptor sees a page of its own there.
 */
static int map_ring(struct kvm_file *f, uint8_t *at, size_t length, int prot, int flags, uint64_t offset)
{
	size_t skip = offset < VM_RING_OFFSET ? VM_RING_OFFSET - offset : 0;

	if (f->vcpu->ring == f->vm->ring || offset > VM_RING_OFFSET || skip >= length)
		return 0;
	if (mmap(at + skip, GW_PAGE_SIZE, prot, (flags & (MAP_SHARED | MAP_PRIVATE)) | MAP_FIXED, f->vm->ring_fd, VM_RING_OFFSET) ==
	    MAP_FAILED)
		return -errno;
	return 0;
}

void *gw_mmap(size_t length, int prot, int flags, int fd, uint64_t offset, int *err)
{
	struct kvm_file *f = kvm_file_get(fd);
	void *p = NULL;

	*err = -EBADF;
	if (!f)
		return NULL;
	*err = -ENODEV;
	if (f->kind == KVM_FILE_GMEM) {
		p = kvm_gmem_mmap(f, length, prot, flags, fd, offset, err);
		goto put;
	}
	if (f->kind != KVM_FILE_VCPU)
		goto put;
	/* As the kernel has it for the dirty ring: shared, not for execution. */
	*err = -EINVAL;
	if ((length > VM_DIRTY_RING_OFFSET || offset > VM_DIRTY_RING_OFFSET - length) && f->vm->dirty_ring_bytes && (prot & PROT_EXEC || !(flags & MAP_SHARED)))
		goto put;
	p = mmap(NULL, length, prot, flags, fd, (off_t)offset);
	if (p == MAP_FAILED) {
		*err = -errno;
		p = NULL;
		goto put;
	}
	*err = map_ring(f, p, length, prot, flags, offset);
	if (*err) {
		munmap(p, length);
		p = NULL;
	}
put:
	kvm_file_put(f);
	return p;
}

int gw_fallocate(int fd, int mode, int64_t offset, int64_t len)
{
	struct kvm_file *f = kvm_file_get(fd);
	long ret;

	if (!f)
		return -EBADF;
	ret = kvm_gmem_fallocate(f, mode, offset, len);
	kvm_file_put(f);
	return (int)ret;
}

int gw_kind(int fd)
{
	struct kvm_file *f = kvm_file_get(fd);
	int kind;

	if (!f)
		return 0;
	kind = (int)f->kind;
	kvm_file_put(f);
	return kind;
}

int gw_close(int fd)
{
	int state, err;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	err = kvm_file_close(fd);
	pthread_setcancelstate(state, NULL);
	return err;
}

void gw_thread_cancelled(unsigned long thread)
{
	vm_cancel_count();
	kvm_file_each_vcpu(vm_cancel_kick, thread);
}

int gw_sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	return vm_sigaction(sig, act, old);
}

void gw_own_signals(int all)
{
	vm_own_signals(all);
}

int gw_owns(int fd)
{
	struct kvm_file *f = kvm_file_get(fd);

	if (!f)
		return 0;
	kvm_file_put(f);
	return 1;
}
