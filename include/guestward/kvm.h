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
#ifndef KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST
#define KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST	(1ull << 2)
#define KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST	(1ull << 3)
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
#ifndef GUEST_MEMFD_FLAG_MMAP
#define GUEST_MEMFD_FLAG_MMAP		(1ull << 0)
#define GUEST_MEMFD_FLAG_INIT_SHARED	(1ull << 1)
#endif
#ifndef KVM_X86_SW_PROTECTED_VM
#define KVM_X86_DEFAULT_VM		0
#define KVM_X86_SW_PROTECTED_VM		1
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
 * GW_DUMP_WALK, the page walk of @gva with each level and each guard's opinion; with GW_DUMP_ENGINE, how much ran translated;
 * with GW_DUMP_BLOCK, the translated code of the blocks that contain the linear address @gva. Works while another thread is in KVM_RUN.
 * @size bytes at @buf are filled, always NUL-terminated; @length is the size that everything would have needed, with the NUL.
 * -EINVAL: unknown flag, or size 0.
 */
#define GW_DUMP_REGS	(1u << 0)
#define GW_DUMP_RING	(1u << 1)
#define GW_DUMP_CODE	(1u << 2)
#define GW_DUMP_WALK	(1u << 3)
#define GW_DUMP_ENGINE	(1u << 4)
#define GW_DUMP_BLOCK	(1u << 5)
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
 * Private memory beyond KVM's interface. KVM_CHECK_EXTENSION on a VM gives the options that KVM_ENABLE_CAP args[0] may set, on VMs
 * with private memory only; an option stays set. Where KVM_CAP_GUEST_MEMFD_FLAGS shall not exist (kernels 6.8 to 6.17), the
 * environment has GUESTWARD_GUEST_MEMFD=6.8 when the VM is created.
 */
#define GW_CAP_PRIVATE	(GW_CAP_BASE + 0x20)
#define GW_PRIVATE_REGIONS	(1u << 0)	/* KVM_MEMORY_ENCRYPT_REG_REGION and UNREG: a range of guest memory becomes private, shared */
#define GW_PRIVATE_STRICT	(1u << 1)	/* a page is not populated on both sides: ENOSPC if asked to, memory fault if touched */
#define GW_PRIVATE_HUGE		(1u << 2)	/* guest_memfds created from now on use huge pages where they can */

/*
 * GW_POPULATE (VM): bytes of the client become private memory, before the first KVM_RUN of the VM. In pages; all arguments move on
 * with what was done. -EINVAL: unaligned, empty or wrapping range, flags, or the first page is not private or has no guest_memfd;
 * -EPERM: the guest has run; -EFAULT: the file is closed, or @source cannot be read; -ENOSPC: strict, and the client's side of the page
 * is populated.
 * 0 when at least one page was done.
 */
struct gw_populate { __u64 gpa, source, size, flags; };
#define GW_POPULATE	_IOWR(GW_IOCTL_TYPE, 0xE0, struct gw_populate)

/*
 * GW_MAP (VM, vCPU): which guest memory is private, which shared, and what is present on which side, as text; @size bytes at @buf as
 * with GW_DUMP. Looks at presence without changing it. Flags: none.
 */
struct gw_map { __u32 flags, size; __u64 buf; __u32 length, pad; };
#define GW_MAP		_IOWR(GW_IOCTL_TYPE, 0xE1, struct gw_map)

/*
 * GW_SET_TRACE (system): which trace points print to the log sink. @text: comma-separated groups or point names, "all" or "";
 * the same words as the environment variable GUESTWARD_TRACE. -EINVAL: an unknown word; nothing changed.
 */
struct gw_set_trace {
	char text[256];
};
#define GW_SET_TRACE	_IOW(GW_IOCTL_TYPE, 0xC1, struct gw_set_trace)

/* ---- kernel integrity (Heki) -------------------------------------------------------------------------------------- */

/*
 * KVM_CHECK_EXTENSION: masks of KVM_HEKI_EXIT_REASON_*. KVM_ENABLE_CAP (VM) args[0]: the reasons that make exits from now on;
 * an unknown bit or flags: -EINVAL. Names, payloads and what a re-entry does are the RFC v2 series'; its numbers (capabilities
 * 235 and 236, exits 39 and 40) mean other things in today's KVM: GW_CAP_HEKI_RFC_NUMBERS switches a VM to them.
 */
#define KVM_CAP_HEKI_CONFIGURE		(GW_CAP_BASE + 0x30)
#define KVM_CAP_HEKI_DENIAL		(GW_CAP_BASE + 0x31)
#define GW_CAP_HEKI			(GW_CAP_BASE + 0x32)	/* 1: the GW_HEKI_* ioctls */
#define GW_CAP_HEKI_RFC_NUMBERS		(GW_CAP_BASE + 0x33)
#define KVM_EXIT_HEKI_CONFIGURE		(GW_EXIT_BASE + 0x30)
#define KVM_EXIT_HEKI_DENIAL		(GW_EXIT_BASE + 0x31)
#define GW_HEKI_RFC_CAP_CONFIGURE	235
#define GW_HEKI_RFC_CAP_DENIAL		236
#define GW_HEKI_RFC_EXIT_CONFIGURE	39
#define GW_HEKI_RFC_EXIT_DENIAL		40

#define KVM_HEKI_EXIT_REASON_CR0	(1ull << 0)
#define KVM_HEKI_EXIT_REASON_CR4	(1ull << 1)
#define KVM_HEKI_EXIT_REASON_MEM	(1ull << 2)	/* ours */
#define KVM_HEKI_EXIT_REASON_REG	(1ull << 3)	/* ours: denials only */

#define KVM_HC_LOCK_CR_UPDATE		13
#define KVM_HC_PROTECT_MEMORY		14

/* At the union of kvm_run (offset 32). */
struct gw_run_heki_configure {
	__u64 reason;
	union {
		__u64 cr_pinned;	/* bits that this call pinned; done already, the guest gets 0 */
		struct {
			__u64 gpa;	/* first of the list's first range */
			__u64 pages;	/* of all ranges */
			__u64 list;
			__u64 reserved_mem[3];
			__u64 refuse;	/* in: not 0: nothing is applied, the guest gets -EPERM */
		} mem;
		__u64 reserved[7];
	};
};

#define GW_HEKI_INJECT		0	/* the guest gets its exception */
#define GW_HEKI_RETRY		1	/* the access is judged again: the client changed something */
#define GW_HEKI_IGNORE		2	/* the write vanishes, a read gives ones; a fetch is injected */
#define GW_HEKI_SHUTDOWN	3

#define GW_HEKI_ACCESS_R	0x001
#define GW_HEKI_ACCESS_W	0x002
#define GW_HEKI_ACCESS_X	0x004
#define GW_HEKI_ACCESS_USER	0x008	/* user translation */
#define GW_HEKI_ACCESS_CPL3	0x010
#define GW_HEKI_ACCESS_WALK	0x020	/* by a page walk */
#define GW_HEKI_ACCESS_PV	0x040	/* by the hypervisor for the guest */
#define GW_HEKI_ACCESS_DMA	0x080
#define GW_HEKI_ACCESS_GVA	0x100	/* gva is known */

struct gw_run_heki_denial {
	__u64 reason;
	union {
		struct {
			__u64 value;	/* as the instruction gave it */
			__u64 reg;	/* REG: 1 MSR, 2 GDTR, 3 IDTR, 4 LDTR, 5 TR */
			__u64 index;	/* REG: the MSR */
			__u64 reserved_cr[3];
			__u64 action;
		} cr;
		struct {
			__u64 gpa, gva;
			__u64 access;	/* GW_HEKI_ACCESS_* */
			__u64 attributes; /* in force, as in struct gw_heki_event */
			__u64 rip, cr3;
			__u64 action;	/* in: GW_HEKI_* ; 0 when the exit is made */
		} mem;
		__u64 reserved[7];
	};
};

/* Attributes as the client sets them: what is taken away, so that 0 is unrestricted. */
#define GW_HEKI_NR		(1ull << 0)
#define GW_HEKI_NW		(1ull << 1)
#define GW_HEKI_NX		(1ull << 2)	/* supervisor and user */
#define GW_HEKI_NXS		(1ull << 4)	/* supervisor only */
#define GW_HEKI_NXU		(1ull << 5)
#define GW_HEKI_IMMUTABLE	(1ull << 6)	/* the guest's hypercall may not change it */
#define GW_HEKI_SEALED		(1ull << 7)
#define GW_HEKI_POKE		(1ull << 8)

/* GW_HEKI_SET_ATTRIBUTES (VM): changes the bits of @mask on every frame of the range, and nothing else: KVM's own memory
 * attributes stand beside these. GW_HEKI_ATTR_CLEAR: forget the range, the default holds (attributes and mask 0). -EINVAL:
 * unknown or unmasked bits, unaligned or empty range, NR without NW and NX. */
#define GW_HEKI_ATTR_CLEAR	(1ull << 0)
struct gw_heki_attributes { __u64 address, size, attributes, mask, flags; };
#define GW_HEKI_SET_ATTRIBUTES	_IOW(GW_IOCTL_TYPE, 0xF0, struct gw_heki_attributes)
/* In: address. Out: the first range with attributes at or after it; -ENOENT: none. Runs may come in pieces. */
#define GW_HEKI_GET_ATTRIBUTES	_IOWR(GW_IOCTL_TYPE, 0xF1, struct gw_heki_attributes)

#define GW_HEKI_INJECT_DEFAULT	0
#define GW_HEKI_INJECT_RFC	1
#define GW_HEKI_SEALED_ONCE	0
#define GW_HEKI_FROZEN		1
#define GW_HEKI_MIRRORED	2
#define GW_HEKI_POLICY_UNASSISTED	(1ull << 0)
#define GW_HEKI_POLICY_LOCK_REGISTERS	(1ull << 1)
#define GW_HEKI_POLICY_ALLOW_WX		(1ull << 2)
#define GW_HEKI_POLICY_SHIELD		(1ull << 3)
#define GW_HEKI_POLICY_KPROBES		(1ull << 4)
#define GW_HEKI_POLICY_CLEAR_ON_RESET	(1ull << 5)	/* as GW_HEKI_RESET(1) when the client puts the boot vCPU at the reset vector and none runs */
/* When unassisted mode locks; always at a user instruction, with the kernel's text read-only already. */
#define GW_HEKI_LOCK_AT_INIT		0	/* the first */
#define GW_HEKI_LOCK_AT_REQUEST		1	/* after GW_HEKI_LOCK */
#define GW_HEKI_LOCK_AT_SECONDS		2	/* the first program that starts lock_seconds after the first user instruction */
#define GW_HEKI_LOCK_AT_EXEC		3	/* the first of the program that is executed by the name lock_path */
struct gw_heki_policy {
	__u32 inject, dynamic;
	__u64 flags;
	__u32 lock_at, lock_seconds;
	char lock_path[64];		/* ends with 0 */
};
#define GW_HEKI_SET_POLICY	_IOW(GW_IOCTL_TYPE, 0xF2, struct gw_heki_policy)
#define GW_HEKI_GET_POLICY	_IOR(GW_IOCTL_TYPE, 0xF3, struct gw_heki_policy)

/* Pins, lock and default of the VM, for save and restore (attributes: see above). Setting assigns. */
struct gw_heki_state { __u64 pinned_cr0, pinned_cr4, locked, default_attributes; };
#define GW_HEKI_GET_STATE	_IOR(GW_IOCTL_TYPE, 0xF4, struct gw_heki_state)
#define GW_HEKI_SET_STATE	_IOW(GW_IOCTL_TYPE, 0xF5, struct gw_heki_state)
/* vCPU: the pins it is held to (0 until all are set in its registers). */
struct gw_heki_vcpu { __u64 held_cr0, held_cr4; };
#define GW_HEKI_GET_VCPU	_IOR(GW_IOCTL_TYPE, 0xF6, struct gw_heki_vcpu)
#define GW_HEKI_SET_VCPU	_IOW(GW_IOCTL_TYPE, 0xF7, struct gw_heki_vcpu)
/* VM, number: drop pins, attributes and lock, as a machine that is reset by its owner. 1: frames without W are zeroed first (firmware's shadow area gets what the
 * lock found there; read-only slots stay). */
#define GW_HEKI_RESET		_IO(GW_IOCTL_TYPE, 0xF8)

#define GW_HEKI_EV_DENIED	0
#define GW_HEKI_EV_PINNED	1	/* gpa: 0 or 4; value: all pins */
#define GW_HEKI_EV_PROTECTED	2	/* value: pages */
#define GW_HEKI_EV_LOCKED	3	/* unassisted; gpa, gva: first text frame; value: pages of text */
#define GW_HEKI_EV_SEALED	4	/* new kernel code; hash */
#define GW_HEKI_EV_RELEASED	5
#define GW_HEKI_EV_POKED	6
#define GW_HEKI_EV_REFUSED	7
#define GW_HEKI_EV_CLIENT	8
#define GW_HEKI_EV_DEFECT	9
#define GW_HEKI_EV_FIRMWARE	10	/* firmware of a vCPU that the client has reset went on to gpa */
struct gw_heki_event {
	__u64 seq, insns;
	__u32 kind, vcpu, reason, access;
	__u64 gpa, gva, value, rip, cr3;
	__u32 attributes;	/* what is allowed: 1 R, 2 W, 4 supervisor X, 8 user X, 16 immutable, 32 sealed, 64 poke */
	__u32 repeat;		/* further ones like this */
	__u8 hash[32];		/* SHA-256 */
};
/* GW_HEKI_EVENTS (VM): events after @seq into @buf, at most @max. Returns how many. A gap in seq: events were overwritten. */
struct gw_heki_events { __u64 seq, buf; __u32 max, pad; };
#define GW_HEKI_EVENTS		_IOW(GW_IOCTL_TYPE, 0xF9, struct gw_heki_events)
struct gw_heki_counters {
	__u64 denied_read, denied_write, denied_fetch, denied_walk, denied_pv, denied_cr, denied_reg;
	__u64 pokes, sealed, released, hypercalls, refused, exits, store_bytes, lock_ns;
};
#define GW_HEKI_COUNTERS	_IOR(GW_IOCTL_TYPE, 0xFA, struct gw_heki_counters)

/* VM: unassisted mode locks before any vCPU's next user instruction, whatever lock_at says. -EINVAL: it is not asked for. */
#define GW_HEKI_LOCK		_IO(GW_IOCTL_TYPE, 0xFB)

/*
 * VM: may a device of the client write these bytes? 0, or -EACCES: counted and in the log as a denial with GW_HEKI_ACCESS_DMA. For
 * clients that write guest memory themselves and do not ask for GW_HEKI_POLICY_SHIELD.
 */
struct gw_heki_dma { __u64 address, size; };
#define GW_HEKI_JUDGE_DMA	_IOW(GW_IOCTL_TYPE, 0xFC, struct gw_heki_dma)

_Static_assert(sizeof(struct gw_run_heki_configure) == 64 && sizeof(struct gw_run_heki_denial) == 64, "ABI");
_Static_assert(sizeof(struct gw_heki_event) == 112, "ABI");
_Static_assert(sizeof(struct kvm_userspace_memory_region2) == 160, "KVM ABI");
_Static_assert(sizeof(struct kvm_run) == 2352, "KVM ABI");
_Static_assert(sizeof(struct gw_dump) == 32, "ABI");

#endif
