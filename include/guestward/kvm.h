/* SPDX-License-Identifier: MIT */
/*
 * KVM's user ABI: the installed <linux/kvm.h> (Debian 12: Linux 6.1), what later kernels added to it, and Guestward's own
 * extension block. Numbers of later kernels: Linux 7.1 uapi. Our own numbers start at 0x47570000 ("GW") for capabilities,
 * at 0xC0 for ioctls of type 'G', and at 0x4757 for exits, where KVM's own can never grow into them.
 */
#ifndef GUESTWARD_KVM_H
#define GUESTWARD_KVM_H

#include <linux/kvm.h>

/* ---- later kernels ------------------------------------------------------------------------------------------------ */

#ifndef KVM_CAP_USER_MEMORY2
#define KVM_CAP_USER_MEMORY2		231
#endif
#ifndef KVM_CAP_MEMORY_FAULT_INFO
#define KVM_CAP_MEMORY_FAULT_INFO	232
#endif
#ifndef KVM_CAP_MEMORY_ATTRIBUTES
#define KVM_CAP_MEMORY_ATTRIBUTES	233
#endif
#ifndef KVM_CAP_GUEST_MEMFD
#define KVM_CAP_GUEST_MEMFD		234
#endif
#ifndef KVM_CAP_VM_TYPES
#define KVM_CAP_VM_TYPES		235
#endif
#ifndef KVM_CAP_PRE_FAULT_MEMORY
#define KVM_CAP_PRE_FAULT_MEMORY	236
#endif
#ifndef KVM_CAP_X86_APIC_BUS_CYCLES_NS
#define KVM_CAP_X86_APIC_BUS_CYCLES_NS	237
#endif
#ifndef KVM_CAP_X86_GUEST_MODE
#define KVM_CAP_X86_GUEST_MODE		238
#endif
#ifndef KVM_CAP_GUEST_MEMFD_FLAGS
#define KVM_CAP_GUEST_MEMFD_FLAGS	244
#endif

#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT		39
#endif
#ifndef KVM_MEMORY_EXIT_FLAG_PRIVATE
#define KVM_MEMORY_EXIT_FLAG_PRIVATE	(1ull << 3)
#endif
/* What a memory-fault exit leaves in the union of kvm_run (offset 32), which the older header does not name. */
struct gw_run_memory_fault { __u64 flags, gpa, size; };

#ifndef KVM_MEM_GUEST_MEMFD
#define KVM_MEM_GUEST_MEMFD		(1u << 2)
#endif
#ifndef KVM_SET_USER_MEMORY_REGION2
struct kvm_userspace_memory_region2 {
	__u32 slot;
	__u32 flags;
	__u64 guest_phys_addr;
	__u64 memory_size;
	__u64 userspace_addr;
	__u64 guest_memfd_offset;
	__u32 guest_memfd;
	__u32 pad1;
	__u64 pad2[14];
};
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)
#endif
#ifndef KVM_SET_MEMORY_ATTRIBUTES
struct kvm_memory_attributes { __u64 address, size, attributes, flags; };
#define KVM_SET_MEMORY_ATTRIBUTES _IOW(KVMIO, 0xd2, struct kvm_memory_attributes)
#define KVM_MEMORY_ATTRIBUTE_PRIVATE	(1ull << 3)
#endif
#ifndef KVM_CREATE_GUEST_MEMFD
struct kvm_create_guest_memfd { __u64 size, flags, reserved[6]; };
#define KVM_CREATE_GUEST_MEMFD _IOWR(KVMIO, 0xd4, struct kvm_create_guest_memfd)
#endif
#ifndef KVM_PRE_FAULT_MEMORY
struct kvm_pre_fault_memory { __u64 gpa, size, flags, padding[5]; };
#define KVM_PRE_FAULT_MEMORY _IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)
#endif

#ifndef KVM_X86_QUIRK_SLOT_ZAP_ALL
#define KVM_X86_QUIRK_SLOT_ZAP_ALL	(1 << 7)
#endif
#ifndef KVM_X86_QUIRK_STUFF_FEATURE_MSRS
#define KVM_X86_QUIRK_STUFF_FEATURE_MSRS (1 << 8)
#endif
#ifndef KVM_X86_QUIRK_IGNORE_GUEST_PAT
#define KVM_X86_QUIRK_IGNORE_GUEST_PAT	(1 << 9)
#endif

/* ---- the extension block ------------------------------------------------------------------------------------------ */

#define GW_CAP_BASE	0x47570000
#define GW_CAP_DUMP	(GW_CAP_BASE + 0)	/* 1: GW_DUMP works */
#define GW_CAP_TRACE	(GW_CAP_BASE + 1)	/* number of trace points */

#define GW_EXIT_BASE	0x4757

#define GW_IOCTL_TYPE	'G'

/*
 * GW_DUMP (vCPU): what the vCPU looks like now, as text: registers, the ring of last events, the code at RIP, and, with
 * GW_DUMP_WALK, the page walk of @gva with each level and each guard's opinion. Works while another thread is in KVM_RUN.
 * @size bytes at @buf are filled, always NUL-terminated; @length is the size that everything would have needed, with the NUL.
 * -EINVAL: unknown flag, or size 0.
 */
#define GW_DUMP_REGS	(1u << 0)
#define GW_DUMP_RING	(1u << 1)
#define GW_DUMP_CODE	(1u << 2)
#define GW_DUMP_WALK	(1u << 3)
struct gw_dump {
	__u32 flags;
	__u32 size;
	__u64 buf;
	__u64 gva;
	__u32 length;
	__u32 pad;
};
#define GW_DUMP		_IOWR(GW_IOCTL_TYPE, 0xC0, struct gw_dump)

/*
 * GW_SET_TRACE (system): which trace points print to the log sink. @text: comma-separated groups or point names, "all" or "";
 * the same words as the environment variable GUESTWARD_TRACE. -EINVAL: an unknown word; nothing changed.
 */
struct gw_set_trace {
	char text[256];
};
#define GW_SET_TRACE	_IOW(GW_IOCTL_TYPE, 0xC1, struct gw_set_trace)

_Static_assert(sizeof(struct kvm_userspace_memory_region2) == 160, "KVM ABI");
_Static_assert(sizeof(struct kvm_run) == 2352, "KVM ABI");
_Static_assert(sizeof(struct gw_dump) == 32, "ABI");

#endif
