/* SPDX-License-Identifier: MIT */
/* ioctls of the system descriptor (/dev/kvm). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/trace.h"
#include "cpu/sys/sys.h"
#include "kvm/kvm.h"

#define MAX_MSRS	256u

static long get_api_version(struct kvm_call *k)
{
	return KVM_API_VERSION;
}

static long create_vm(struct kvm_call *k)
{
	struct vm *vm;
	int fd, err;

	err = vm_create(k->arg, &vm);
	if (err)
		return err;
	fd = kvm_file_new("kvm-vm");
	if (fd < 0) {
		vm_put(vm);
		return fd;
	}
	err = kvm_file_add(fd, KVM_FILE_VM, vm, NULL);
	if (err) {
		close(fd);
		vm_put(vm);
		return err;
	}
	return fd;
}

static long check_extension(struct kvm_call *k)
{
	return kvm_check_extension(NULL, k->arg);
}

static long get_mmap_size(struct kvm_call *k)
{
	return VM_RUN_SIZE;
}

/* ---- lists ------------------------------------------------------------------------------------------------------------- */

/* The count always goes out, so that the client learns it from E2BIG. */
static long put_list(struct kvm_call *k, const uint32_t *list, uint32_t n)
{
	uint32_t room;

	if (kvm_copy_in(&room, k->arg, sizeof(room)))
		return -EFAULT;
	if (kvm_copy_out(k->arg, &n, sizeof(n)))
		return -EFAULT;
	if (room < n)
		return -E2BIG;
	return kvm_copy_out(k->arg + sizeof(n), list, n * sizeof(list[0]));
}

static long get_msr_index_list(struct kvm_call *k)
{
	uint32_t list[MAX_MSRS], n = 0;

	for (unsigned i = 0; i < cpu_n_msr_save && n < MAX_MSRS; i++)
		list[n++] = cpu_msr_save[i];
	for (unsigned i = 0; i < vm_n_msr_list && n < MAX_MSRS; i++)
		list[n++] = vm_msr_list[i];
	return put_list(k, list, n);
}

static long get_msr_feature_list(struct kvm_call *k)
{
	return put_list(k, vm_msr_feature_list, vm_n_msr_feature_list);
}

static long get_feature_msrs(struct kvm_call *k)
{
	struct kvm_msrs head;
	uint32_t i;

	if (kvm_copy_in(&head, k->arg, sizeof(head)))
		return -EFAULT;
	if (head.nmsrs >= MAX_MSRS)
		return -E2BIG;
	for (i = 0; i < head.nmsrs; i++) {
		uint64_t at = k->arg + sizeof(head) + i * sizeof(struct kvm_msr_entry), value;
		struct kvm_msr_entry e;

		if (kvm_copy_in(&e, at, sizeof(e)))
			return -EFAULT;
		if (vm_msr_feature_get(e.index, &value))
			break;
		e.data = value;
		if (kvm_copy_out(at, &e, sizeof(e)))
			return -EFAULT;
	}
	return i;
}

static long give_cpuid(struct kvm_call *k, struct kvm_cpuid2 *head, const struct kvm_cpuid_entry2 *e, unsigned n)
{
	if (kvm_copy_out(k->arg + sizeof(*head), e, n * sizeof(*e)))
		return -EFAULT;
	head->nent = n;
	return kvm_copy_out(k->arg, head, sizeof(*head));
}

static long get_supported_cpuid(struct kvm_call *k)
{
	struct kvm_cpuid_entry2 e[VM_CPUID_MAX];
	struct kvm_cpuid2 head;
	unsigned n;

	if (kvm_copy_in(&head, k->arg, sizeof(head)))
		return -EFAULT;
	if (head.nent < 1)
		return -E2BIG;
	memset(e, 0, sizeof(e));
	n = vm_cpuid_supported(e, VM_CPUID_MAX);
	if (n > head.nent || n > VM_CPUID_MAX)
		return -E2BIG;
	return give_cpuid(k, &head, e, n);
}

/* This list is the only one whose padding KVM looks at; and its room must be one more than what is in it. */
static long get_emulated_cpuid(struct kvm_call *k)
{
	static const uint32_t zero[3];
	struct kvm_cpuid_entry2 e[VM_CPUID_MAX];
	struct kvm_cpuid2 head;
	unsigned n;

	if (kvm_copy_in(&head, k->arg, sizeof(head)))
		return -EFAULT;
	if (head.nent < 1)
		return -E2BIG;
	for (unsigned i = 0; i < head.nent && i < CPU_MAX_CPUID; i++)
		if (kvm_copy_in(&e[0], k->arg + sizeof(head) + i * sizeof(e[0]), sizeof(e[0])) || memcmp(e[0].padding, zero, sizeof(zero)))
			return -EINVAL;
	memset(e, 0, sizeof(e));
	n = vm_cpuid_emulated(e, VM_CPUID_MAX);
	if (head.nent <= n)
		return -E2BIG;
	return give_cpuid(k, &head, e, n);
}

/* ---- attributes, machine check, extension block ------------------------------------------------------------------------- */

static bool is_xcomp(const struct kvm_device_attr *a)
{
	return a->group == 0 && a->attr == KVM_X86_XCOMP_GUEST_SUPP;
}

static long get_device_attr(struct kvm_call *k)
{
	const struct kvm_device_attr *a = k->data;
	uint64_t xcr0 = vm_supported_xcr0();

	return is_xcomp(a) ? kvm_copy_out(a->addr, &xcr0, sizeof(xcr0)) : -ENXIO;
}

static long has_device_attr(struct kvm_call *k)
{
	return is_xcomp(k->data) ? 0 : -ENXIO;
}

static long get_mce_cap(struct kvm_call *k)
{
	*(uint64_t *)k->data = VM_MCE_CAP_SUPPORTED;
	return 0;
}

static long set_trace(struct kvm_call *k)
{
	struct gw_set_trace *t = k->data;

	t->text[sizeof(t->text) - 1] = 0;
	return gw_trace_set(t->text) ? 0 : -EINVAL;
}

const struct kvm_row kvm_system_rows[] = {
	{ KVM_GET_API_VERSION,		ARG_NONE,	.fn = get_api_version },
	{ KVM_CREATE_VM,		ARG_ANY,	.fn = create_vm },
	{ KVM_CHECK_EXTENSION,		ARG_ANY,	.fn = check_extension },
	{ KVM_GET_VCPU_MMAP_SIZE,	ARG_NONE,	.fn = get_mmap_size },
	{ KVM_GET_MSR_INDEX_LIST,	ARG_RAW,	.fn = get_msr_index_list },
	{ KVM_GET_MSR_FEATURE_INDEX_LIST, ARG_RAW,	.fn = get_msr_feature_list },
	{ KVM_GET_MSRS,			ARG_RAW,	.fn = get_feature_msrs },
	{ KVM_GET_SUPPORTED_CPUID,	ARG_RAW,	.fn = get_supported_cpuid },
	{ KVM_GET_EMULATED_CPUID,	ARG_RAW,	.fn = get_emulated_cpuid },
	{ KVM_GET_DEVICE_ATTR,		ARG_IN,		.fn = get_device_attr },
	{ KVM_HAS_DEVICE_ATTR,		ARG_IN,		.fn = has_device_attr },
	{ KVM_X86_GET_MCE_CAP_SUPPORTED, ARG_OUT,	.fn = get_mce_cap },
	{ GW_SET_TRACE,			ARG_IN,		.fn = set_trace },
};
const unsigned kvm_n_system_rows = ARRAY_SIZE(kvm_system_rows);
