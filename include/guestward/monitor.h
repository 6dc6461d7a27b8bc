/* SPDX-License-Identifier: MIT */
/*
 * Introspection: a monitor is told of what the guest does, before it happens, and answers. Two doors to the same room:
 *
 *   in the process	ioctl GW_MONITOR_ATTACH with a callback, then GW_MONITOR (both on a VM descriptor). The callback runs on
 *			the vCPU's thread while that vCPU waits; it may issue GW_MONITOR commands.
 *   from outside	a connection to the control socket (guestward/control.h), the line "session vm=N", then pairs of struct
 *			gw_mon_cmd and gw_mon_reply, each with its payload. GW_MON_OP_ATTACH is answered with the descriptors of the
 *			channel: one page of shared memory and one eventfd a vCPU, so that no slot is ever waited for. Closing the
 *			connection without DETACH is the monitor's death: its policy decides.
 *
 * Reasons, access types and register numbers are those of Xen's vm_event ABI; what a monitor for Xen knows holds here.
 */
#ifndef GUESTWARD_MONITOR_H
#define GUESTWARD_MONITOR_H

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

/* ---- events --------------------------------------------------------------------------------------------------------------- */

enum gw_mon_reason {
	GW_MON_MEM_ACCESS = 1,
	GW_MON_WRITE_CR = 4,
	GW_MON_WRITE_MSR = 5,
	GW_MON_BREAKPOINT = 6,		/* INT3, one byte, about to execute */
	GW_MON_SINGLESTEP = 7,		/* RIP is the next instruction */
	GW_MON_GUEST_REQUEST = 8,
	GW_MON_DEBUG = 9,		/* #DB about to be delivered */
	GW_MON_CPUID = 10,		/* registers hold the results already */
	GW_MON_INTERRUPT = 12,		/* about to be injected; one-shot */
	GW_MON_DESCRIPTOR = 13,
	GW_MON_UNIMPLEMENTED = 14,
	GW_MON_IO = 16,
	GW_MON_DENIED = 64,		/* an earlier guard (heki) refused an access; told, not asked */
};

enum gw_mon_access_type { GW_MON_N, GW_MON_R, GW_MON_W, GW_MON_RW, GW_MON_X, GW_MON_RX, GW_MON_WX, GW_MON_RWX, GW_MON_RX2RW, GW_MON_N2RWX,
	GW_MON_DEFAULT };

#define GW_MON_F_SYNC		0x1u	/* the vCPU waits for the answer */
#define GW_MON_F_VIEWS		0x2u	/* views are on; view is the vCPU's */

#define GW_MON_A_READ		0x01u
#define GW_MON_A_WRITE		0x02u
#define GW_MON_A_EXEC		0x04u
#define GW_MON_A_WALK		0x10u	/* by the page walk for gla, not by the access itself */
#define GW_MON_A_IMPLICIT	0x20u	/* descriptor, exception frame, TSS */
#define GW_MON_A_ENGINE		0x40u	/* delivery of an event, task switch */
#define GW_MON_A_PV		0x80u	/* the engine for a paravirtual clock or the like: told when it is done */

struct gw_mon_regs {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	uint64_t dr6, dr7;
	uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t dr[4];			/* DR0 to DR3 */
	uint64_t reserved[4];
};

struct gw_mon_event {
	uint32_t size;			/* of this structure */
	uint32_t reason;		/* enum gw_mon_reason */
	uint32_t vcpu, flags;		/* GW_MON_F_* */
	uint64_t seq;			/* to be repeated in the answer */
	uint32_t view, pad;
	union {
		struct { uint64_t gfn, offset, gla; uint32_t access, wanted, len, pad; } mem;	/* access: the violation; wanted: all the instruction asked */
		struct { uint32_t index, pad; uint64_t new_value, old_value; } reg;	/* CR number (0, 3, 4; 8 is XCR0), or the MSR */
		struct { uint64_t gfn, pending; uint32_t length, type; } trap;		/* breakpoint, debug, single step */
		struct { uint32_t length, leaf, subleaf; } cpuid;
		struct { uint32_t vector, type, error, pad; uint64_t cr2; } interrupt;
		struct { uint32_t table, is_write, length; } descriptor;	/* 1 IDTR, 2 GDTR, 3 LDTR, 4 TR */
		struct { uint32_t port, bytes, is_in, is_string; } io;
		uint64_t word[8];
	} u;
	struct gw_mon_regs regs;
};

/* ---- answers -------------------------------------------------------------------------------------------------------------- */

/*
 * For a memory access: 0 means try again (the monitor has changed rights or the view; otherwise the same event comes again).
 * The others apply to this violation of this execution of the instruction only; a further one is asked about by itself.
 */
#define GW_MON_ANS_ALLOW	0x0001u
#define GW_MON_ANS_DENY		0x0002u	/* memory: exception @vector with @error (default #GP(0)); register write: it is skipped */
#define GW_MON_ANS_NOWRITE	0x0004u	/* with ALLOW: what is written there is dropped */
#define GW_MON_ANS_DATA		0x0008u	/* with ALLOW: what is read there is @data, zeros beyond @data_len */
#define GW_MON_ANS_BLANKET	0x0010u	/* with ALLOW: whatever else this execution touches, too */
#define GW_MON_ANS_REGS		0x0020u	/* general registers, RFLAGS, RIP from @regs */
#define GW_MON_ANS_VIEW		0x0040u	/* the vCPU goes to @view */
#define GW_MON_ANS_STEP_ON	0x0080u
#define GW_MON_ANS_STEP_OFF	0x0100u
#define GW_MON_ANS_STEP_TOGGLE	0x0200u
#define GW_MON_ANS_FAST_STEP	0x0400u	/* one instruction, then to @step_view, without an event */
#define GW_MON_ANS_NEXT_INT	0x0800u	/* tell of the next injected interrupt */
#define GW_MON_ANS_CODE		0x1000u	/* with ALLOW: execute @data (16 bytes) instead of what is at RIP */

struct gw_mon_answer {
	uint64_t seq;
	uint32_t flags, view, step_view;
	uint32_t vector, error, data_len;
	uint64_t cr2;
	uint8_t data[64];
	struct kvm_regs regs;
	uint64_t reserved[8];
};

/* ---- attaching ------------------------------------------------------------------------------------------------------------- */

/* Called on the thread of event->vcpu. @answer is all zeros but seq. Events without GW_MON_F_SYNC take no answer. */
typedef void gw_mon_callback(void *opaque, const struct gw_mon_event *event, struct gw_mon_answer *answer);

/* What becomes of waiting and running vCPUs when the monitor goes without detaching, or fails. */
enum gw_mon_policy {
	GW_MON_RELEASE,		/* rights and subscriptions end, the guest runs on */
	GW_MON_PAUSE,		/* vCPUs stand until a monitor attaches and resumes them */
	GW_MON_STOP,		/* KVM_RUN returns GW_EXIT_MONITOR */
};

enum gw_mon_door { GW_MON_CALLBACK, GW_MON_CHANNEL, GW_MON_XEN };

#define GW_MON_BLANKET		0x1u	/* every ALLOW is a blanket one, as Xen's EMULATE is */
#define GW_MON_MAX_SPIN		1000u	/* microseconds */

struct gw_monitor_attach {
	uint32_t door, policy, flags;
	uint32_t stall_ms;		/* CHANNEL and XEN: a question unanswered for so long is the monitor's death; 0: waits for ever */
	uint64_t callback, opaque;	/* CALLBACK */
	/* Out, CHANNEL and XEN: descriptors that the caller closes. */
	int32_t memory_fd;		/* CHANNEL: a page a vCPU; XEN: the ring's page */
	int32_t event_fd;		/* counts events for the monitor */
	int32_t answer_fd;		/* XEN: the monitor's notifications */
	uint32_t n_vcpus;		/* now; the channel has room for GW_MON_MAX_CHANNEL */
	uint32_t spin_us, pad;		/* CHANNEL: so long a vCPU looks for its answer before it sleeps; up to GW_MON_MAX_SPIN */
	uint64_t reserved[3];
};

/* ---- the channel ----------------------------------------------------------------------------------------------------------- */

/*
 * Page i of the channel's memory is vCPU i's. The engine writes event, adds 1 to event_seq and then to event_fd; the monitor copies
 * it and stores event_seq to seen_seq; if it is sync, it writes answer and then stores event.seq to answer_seq (seen_seq may go with
 * it); then, if waiting is set, it adds 1 to the eventfd of that vCPU. Nothing is overwritten that was not seen. Both may look
 * instead of sleeping: a monitor that sets polling is not told by event_fd. Whoever is about to sleep says so first and then looks
 * once more (all of these accesses sequentially consistent): the other side either sees that or has been seen.
 *
 * The first line of 64 bytes is the engine's and begins the event, the line of answer_seq is the monitor's and begins the answer: two
 * sides that look move two lines for each question, and what else of the event the monitor reads. Of the answer only what its flags
 * name is read.
 *
 * A vCPU made later uses its page as the others do, and page 0 says so; GW_MON_OP_INFO counts it, and GW_MON_OP_WAKE_FD gets its eventfd.
 * Every field the monitor writes is read once; nothing in it can harm anyone but the monitor's own guest.
 */
#define GW_MON_PAGE		4096u
struct gw_mon_page {
	uint64_t event_seq;
	uint32_t waiting;		/* the vCPU sleeps: it must be woken */
	uint32_t n_vcpus;		/* page 0: this many pages have been used, at least */
	struct gw_mon_event event;
	_Alignas(64) uint64_t answer_seq;
	uint64_t seen_seq;
	uint32_t polling;		/* the monitor's: it looks at event_seq, event_fd stays as it is */
	uint32_t pad;
	struct gw_mon_answer answer;
};

/* ---- commands -------------------------------------------------------------------------------------------------------------- */

enum gw_mon_op {
	GW_MON_OP_DETACH = 1,		/* subscriptions end; @a[0] 1: rights and views too */
	GW_MON_OP_SUBSCRIBE,		/* a[0] reason, a[1] on, a[2] flags, a[3] index (CR number, MSR), a[4] mask of bits not to tell of */
	GW_MON_OP_SET_ACCESS,		/* a[0] view, a[1] type, a[2] first gfn (~0: the view's default), a[3] count */
	GW_MON_OP_SET_ACCESS_LIST,	/* a[0] view, a[1] n; payload: n struct gw_mon_set. Stops at the first bad one */
	GW_MON_OP_GET_ACCESS,		/* a[0] view, a[1] gfn (~0: default); r[0] type */
	GW_MON_OP_VIEWS,		/* a[0] 1 on, 0 off, 2 only ask; r[0] what it was. Off destroys all but view 0 */
	GW_MON_OP_VIEW_CREATE,		/* a[0] default type; r[0] view */
	GW_MON_OP_VIEW_DESTROY,		/* a[0]; -EBUSY: a vCPU uses it */
	GW_MON_OP_VIEW_SWITCH,		/* a[0]: every vCPU */
	GW_MON_OP_VIEW_VISIBLE,		/* a[0] view, a[1] visible: may VIEW_SWITCH go there */
	GW_MON_OP_VIEW_COUNT,		/* a[0] highest number of views, 1..512 */
	GW_MON_OP_CHANGE_GFN,		/* a[0] view, a[1] old, a[2] new (~0: back) */
	GW_MON_OP_WALKS,		/* a[0] enum gw_mon_walks */
	GW_MON_OP_REQUIRED,		/* a[0]: a violation without a monitor stops the VM; otherwise the page is set free */
	GW_MON_OP_STEP,			/* a[0] vCPU, a[1] on */
	GW_MON_OP_INJECT,		/* a[0] vCPU, a[1] vector, a[2] type, a[3] error (~0 none), a[4] length, a[5] CR2. -EBUSY: one waits already */
	GW_MON_OP_PAUSE,		/* all vCPUs; counts. When it returns none executes the guest (from a callback: they soon will not) */
	GW_MON_OP_RESUME,
	GW_MON_OP_RESUME_ALL,		/* also what a policy has paused */
	GW_MON_OP_INFO,			/* r[0] vCPUs, r[1] highest gfn, r[2] events so far, r[3] walk mode. a[0] 1: r[0] pages of memory */
	GW_MON_OP_VCPU_VIEW,		/* a[0] vCPU; r[0] view */
	GW_MON_OP_READ,			/* a[0] gpa, a[1] bytes (<= 4096); payload */
	GW_MON_OP_WRITE,		/* a[0] gpa, a[1] bytes (<= 4096), payload */
	GW_MON_OP_TRANSLATE,		/* a[0] vCPU, a[1] linear address; r[0] gpa */
	GW_MON_OP_CODE_EACH_REP,	/* accepted: repetitions are always asked about one by one */
	GW_MON_OP_PULL,			/* XEN: take answers from the ring */
	GW_MON_OP_BLANKET,		/* a[0] on */
	GW_MON_OP_LOST,			/* inside the process only: the monitor is dead */
	GW_MON_OP_WAKE_FD,		/* CHANNEL: a[0] vCPU; r[0] descriptor that wakes it; a session gets it with the reply */
	/*
	 * Sessions only: a[0] enum gw_mon_door (not CALLBACK), a[1] enum gw_mon_policy, a[2] flags, a[3] stall_ms, a[4] spin_us;
	 * r[0] vCPUs, r[1] highest gfn. With the reply come descriptors: memory, events for the monitor, then XEN: answers; CHANNEL:
	 * one a vCPU, at most GW_MON_MAX_CHANNEL.
	 */
	GW_MON_OP_ATTACH,
	/*
	 * Registers of a vCPU between two instructions; it is interrupted for that, paused or not. Not from a callback (-EDEADLK): its
	 * event has them. SET: payload; -EINVAL for what KVM_SET_SREGS would refuse. A question that stands is withdrawn if RIP moves.
	 */
	GW_MON_OP_GET_REGS,		/* a[0] vCPU; payload: struct gw_mon_regs */
	GW_MON_OP_SET_REGS,		/* a[0] vCPU, payload: struct gw_mon_regs */
	/*
	 * Memory to be mapped: a[0] gfn; r[0] descriptor (a session gets it with the reply), r[1] first gfn that lies in it, r[2] pages
	 * from there, r[3] where the first of them is in the file. What is stored through it is not judged and not in the dirty log; stored
	 * code is executed by a vCPU that was paused or asked about something meanwhile, and by others when they enter KVM_RUN next.
	 * -EOPNOTSUPP: the client's memory is no file of its own, mapped shared, or it may be private.
	 */
	GW_MON_OP_MAP,
	GW_MON_N_OPS
};

enum gw_mon_walks { GW_MON_WALKS_REPORT, GW_MON_WALKS_SILENT, GW_MON_WALKS_DENY };

/* SUBSCRIBE, flags. */
#define GW_MON_S_SYNC		0x1u
#define GW_MON_S_ON_CHANGE	0x2u
#define GW_MON_S_USER		0x4u	/* guest requests from CPL 3 too */

struct gw_mon_set { uint64_t gfn; uint32_t count, type; };

struct gw_mon_cmd { uint32_t op, size; uint64_t a[6]; };	/* size: of the payload that follows */
struct gw_mon_reply { int32_t err; uint32_t size; uint64_t r[4]; };	/* err: 0 or -errno */
#define GW_MON_MAX_PAYLOAD	65536u

struct gw_monitor {
	struct gw_mon_cmd cmd;
	struct gw_mon_reply reply;
	uint64_t payload;		/* address, of cmd.size bytes in, or reply.size out (room: payload_size) */
	uint32_t payload_size, pad;
};

#define GW_MONITOR_ATTACH	_IOWR('G', 0xD0, struct gw_monitor_attach)	/* VM. -EBUSY: there is one */
#define GW_MONITOR		_IOWR('G', 0xD1, struct gw_monitor)		/* VM */

#define GW_CAP_MONITOR		(0x47570000 + 0x10)
#define GW_EXIT_MONITOR		(0x4757 + 0x10)	/* a monitor is required and gone; kvm_run's union: gpa, access */

#define GW_MON_MAX_CHANNEL	250u

_Static_assert(sizeof(struct gw_mon_page) <= GW_MON_PAGE, "one page a vCPU");
_Static_assert(offsetof(struct gw_mon_page, answer_seq) % 64 == 0 &&
	       offsetof(struct gw_mon_page, answer.data) == offsetof(struct gw_mon_page, answer_seq) + 64, "one line begins an answer");

#endif
