/* SPDX-License-Identifier: MIT */
/*
 * The dispatcher: finds the row, checks the argument, copies in, takes the vCPU's lock, calls, copies out. Sizes and
 * directions are checked here and nowhere else.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/trace.h"
#include "kvm/kvm.h"

#define SMALL	1024u

static const struct kvm_row *find(const struct kvm_row *rows, unsigned n, uint32_t nr)
{
	for (unsigned i = 0; i < n; i++)
		if (rows[i].nr == nr)
			return &rows[i];
	return NULL;
}

static long call_locked(const struct kvm_row *row, struct kvm_call *k)
{
	long ret;

	if (!k->v || row->is_unlocked)
		return row->fn(k);
	pthread_mutex_lock(&k->v->lock);
	ret = vm_alive(k->vm);
	if (!ret)
		ret = row->fn(k);
	pthread_mutex_unlock(&k->v->lock);
	return ret;
}

/* With the argument's bytes at hand. */
static long call_copied(const struct kvm_row *row, struct kvm_call *k, void *buf, size_t size)
{
	long ret;

	memset(buf, 0, size);
	if (row->arg != ARG_OUT && kvm_copy_in(buf, k->arg, size))
		return -EFAULT;
	k->data = buf;
	ret = call_locked(row, k);
	if (ret >= 0 && row->arg != ARG_IN && kvm_copy_out(k->arg, buf, size))
		return -EFAULT;
	return ret;
}

static long call(const struct kvm_row *row, struct kvm_call *k)
{
	size_t size = row->size ? row->size : _IOC_SIZE(row->nr);
	_Alignas(16) uint8_t small[SMALL];
	void *big;
	long ret;

	switch (row->arg) {
	case ARG_NONE:
		return k->arg ? -EINVAL : call_locked(row, k);
	case ARG_ANY:
	case ARG_RAW:
		return call_locked(row, k);
	}
	if (size <= SMALL)
		return call_copied(row, k, small, size);
	big = malloc(size);
	if (!big)
		return -ENOMEM;
	ret = call_copied(row, k, big, size);
	free(big);
	return ret;
}

static long system_ioctl(struct kvm_file *f, uint32_t nr, unsigned long arg)
{
	const struct kvm_row *row = find(kvm_system_rows, kvm_n_system_rows, nr);

	return row ? call(row, &(struct kvm_call){ .arg = arg }) : -EINVAL;
}

static long vm_ioctl(struct kvm_file *f, uint32_t nr, unsigned long arg)
{
	const struct kvm_row *row;
	long ret = vm_alive(f->vm);

	if (ret)
		return ret;
	row = find(kvm_vm_rows, kvm_n_vm_rows, nr);
	if (!row)
		return -ENOTTY;
	ret = call(row, &(struct kvm_call){ .vm = f->vm, .arg = arg });
	vm_stats_refresh(f->vm, NULL);
	return ret;
}

/* A guest_memfd has none. */
static long gmem_ioctl(struct kvm_file *f, uint32_t nr, unsigned long arg)
{
	return -ENOTTY;
}

static long vcpu_ioctl(struct kvm_file *f, uint32_t nr, unsigned long arg)
{
	struct kvm_call k = { .vm = f->vm, .v = f->vcpu, .arg = arg };
	const struct kvm_row *row;
	long err = vm_alive(f->vm);

	if (err)
		return err;
	row = find(kvm_vcpu_rows, kvm_n_vcpu_rows, nr);
	return row ? call(row, &k) : -EINVAL;
}

long kvm_ioctl(struct kvm_file *f, uint32_t nr, unsigned long arg)
{
	const char *kind = f->kind == KVM_FILE_SYSTEM ? "system" : f->kind == KVM_FILE_VM ? "vm" : f->kind == KVM_FILE_GMEM ? "gmem" : "vcpu";
	long ret;

	switch (f->kind) {
	case KVM_FILE_SYSTEM:
		ret = system_ioctl(f, nr, arg);
		break;
	case KVM_FILE_VM:
		ret = vm_ioctl(f, nr, arg);
		break;
	case KVM_FILE_GMEM:
		ret = gmem_ioctl(f, nr, arg);
		break;
	default:
		ret = vcpu_ioctl(f, nr, arg);
	}
	gw_trace(ioctl, f->vcpu ? (int)f->vcpu->index : -1, 0, kind, (unsigned long)nr, ret);
	return ret;
}
