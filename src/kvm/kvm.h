/* SPDX-License-Identifier: MIT */
/*
 * The face: descriptors, ioctl rows, capabilities, copying from and to the client. No policy: what an ioctl means is in vm/.
 *
 * A descriptor of ours is a memfd; which object it stands for is found by its inode, so that dup, fcntl and /proc re-opening
 * work by themselves. The object goes when gw_close() closes the last descriptor of that inode in this process.
 */
#ifndef GW_KVM_KVM_H
#define GW_KVM_KVM_H

#include <sys/types.h>

#include "vm/vm.h"

enum kvm_kind { KVM_FILE_SYSTEM = 1, KVM_FILE_VM = 2, KVM_FILE_VCPU = 4, KVM_FILE_GMEM = 8 };

struct kvm_file {
	struct kvm_file *next;		/* in its bucket */
	_Atomic unsigned refs;		/* the table's, and one for each call that uses it */
	enum kvm_kind kind;
	bool is_listed;
	_Atomic bool is_orphan;		/* no descriptor in this process, but somewhere */
	dev_t dev;
	ino_t ino;
	struct vm *vm;			/* holds a reference; NULL for system */
	struct vm_vcpu *vcpu;
	struct mem_gmem *gmem;		/* the file's own reference */
};

/* fd.c. get: NULL if @fd is not ours. */
struct kvm_file *kvm_file_get(int fd);
struct kvm_file *kvm_file_get_seen(int fd);	/* may believe what was true at the last call with @fd; asks nobody */
void kvm_file_put(struct kvm_file *f);
/* Enters @fd (a memfd of ours) for an object. Takes over the caller's reference to @vm, on success only. 0 or -errno. */
int kvm_file_add(int fd, enum kvm_kind kind, struct vm *vm, struct vm_vcpu *vcpu);
int kvm_file_add_gmem(int fd, struct vm *vm, struct mem_gmem *gmem);
int kvm_file_close(int fd);
/* @fn takes no lock that is held around calls of the above. */
void kvm_file_each_vcpu(void (*fn)(struct vm_vcpu *v, unsigned long arg), unsigned long arg);
/* Ends guest_memfds that nobody holds any more, in whatever process. To be called when there are orphans. */
void kvm_file_sweep_orphans(void);
extern _Atomic unsigned kvm_n_orphans;
/* A memfd to stand for an object that needs no memory. */
int kvm_file_new(const char *name);

/* private.c */
long kvm_gmem_fallocate(struct kvm_file *f, int mode, int64_t offset, int64_t len);
void *kvm_gmem_mmap(struct kvm_file *f, size_t length, int prot, int flags, int fd, uint64_t offset, int *err);

/* copy.c: the client's pointers may be anything. 0 or -EFAULT. */
int kvm_copy_in(void *to, uint64_t from, size_t n);
int kvm_copy_out(uint64_t to, const void *from, size_t n);

/* One call. */
struct kvm_call {
	struct vm *vm;
	struct vm_vcpu *v;
	unsigned long arg;	/* as given */
	void *data;		/* ARG_IN, _OUT, _INOUT: the copied argument */
};

enum kvm_arg {
	ARG_NONE,	/* must be 0: -EINVAL */
	ARG_ANY,	/* a number, or ignored */
	ARG_IN,		/* pointer to _IOC_SIZE bytes, read */
	ARG_OUT,	/* written when the handler succeeds */
	ARG_INOUT,
	ARG_RAW,	/* variable size: the handler copies */
};

struct kvm_row {
	uint32_t nr;
	uint8_t arg;		/* enum kvm_arg */
	uint16_t size;		/* of the argument where the number does not say */
	bool is_unlocked;	/* vCPU: without vm_vcpu.lock */
	long (*fn)(struct kvm_call *k);
};

extern const struct kvm_row kvm_system_rows[], kvm_vm_rows[], kvm_vcpu_rows[];

struct kvm_call;
long kvm_set_region2(struct kvm_call *k);
long kvm_create_gmem(struct kvm_call *k);
long kvm_set_attributes(struct kvm_call *k);
long kvm_reg_region(struct kvm_call *k);
long kvm_unreg_region(struct kvm_call *k);
long kvm_prefault(struct kvm_call *k);
long kvm_populate(struct kvm_call *k);
long kvm_map_text(struct kvm_call *k);

extern const unsigned kvm_n_system_rows, kvm_n_vm_rows, kvm_n_vcpu_rows;

long kvm_ioctl(struct kvm_file *f, uint32_t nr, unsigned long arg);

/* heki.c */
long kvm_heki_check_extension(struct vm *vm, unsigned long cap);
bool kvm_heki_hides(struct vm *vm, unsigned long cap);	/* the number means Heki in this VM, not what KVM means by it */
long kvm_heki_enable_cap(struct vm *vm, const struct kvm_enable_cap *cap);
long kvm_heki_set_attributes(struct kvm_call *k);
long kvm_heki_get_attributes(struct kvm_call *k);
long kvm_heki_set_policy(struct kvm_call *k);
long kvm_heki_get_policy(struct kvm_call *k);
long kvm_heki_lock(struct kvm_call *k);
long kvm_heki_judge_dma(struct kvm_call *k);
long kvm_heki_get_state(struct kvm_call *k);
long kvm_heki_set_state(struct kvm_call *k);
long kvm_heki_get_vcpu(struct kvm_call *k);
long kvm_heki_set_vcpu(struct kvm_call *k);
long kvm_heki_reset(struct kvm_call *k);
long kvm_heki_events(struct kvm_call *k);
long kvm_heki_counters(struct kvm_call *k);

/* caps.c. @vm NULL: asked of the system descriptor. */
long kvm_check_extension(struct vm *vm, unsigned long cap);
long kvm_enable_cap_vm(struct vm *vm, const struct kvm_enable_cap *cap);
long kvm_enable_cap_vcpu(struct vm_vcpu *v, const struct kvm_enable_cap *cap);

#endif
