/* SPDX-License-Identifier: MIT */
/*
 * A VM and its vCPUs: the objects behind the descriptors, without the descriptors. The face (src/kvm) holds references to a
 * struct vm: one for the VM's descriptor, one for each vCPU's and each statistics descriptor, one for each call that runs.
 * The last one out takes everything down.
 *
 * Locks, outermost first (docs: each may be taken while those before it are held, never the other way round):
 *   vm_vcpu.lock     every call on one vCPU, KVM_RUN included
 *   vm.lock          slots, creation of vCPUs and chips, what ENABLE_CAP sets
 *   vm.io_lock       ioeventfds, irqfds, coalesced zones
 *   dev_irqchip's own lock, then the timer queue's; a kick comes with them held and takes none of ours
 */
#ifndef GW_VM_VM_H
#define GW_VM_VM_H

#include <guestward/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "access/access.h"
#include "cpu/vcpu.h"
#include "dev/irqchip.h"
#include "dev/lapic.h"
#include "dev/pvclock.h"
#include "heki/heki.h"
#include "monitor/monitor.h"
#include "mem/mem.h"

#define VM_MAX_VCPUS	DEV_MAX_VCPUS
#define VM_MAX_VCPU_ID	4096u
#define VM_MAX_SLOTS	32764u
#define VM_MAX_BUS_ZONES 1000u		/* coalesced zones per VM; KVM's device limit of a bus */
#define VM_RUN_SIZE	12288u		/* kvm_run, port I/O page, coalesced ring */
#define VM_PIO_OFFSET	4096u
#define VM_RING_OFFSET	8192u
#define VM_DIRTY_RING_OFFSET (64u * 4096u)
#define VM_DIRTY_RING_MAX (65536u * 16u)
#define VM_COALESCED_MAX ((4096u - sizeof(struct kvm_coalesced_mmio_ring)) / sizeof(struct kvm_coalesced_mmio))

/* Quirks that DISABLE_QUIRKS2 may switch off, because both behaviours are built. */
#define VM_QUIRKS (KVM_X86_QUIRK_LINT0_REENABLED | KVM_X86_QUIRK_LAPIC_MMIO_HOLE | KVM_X86_QUIRK_OUT_7E_INC_RIP | \
		   KVM_X86_QUIRK_FIX_HYPERCALL_INSN | KVM_X86_QUIRK_SLOT_ZAP_ALL)

struct vm;
struct vm_ioeventfd;
struct vm_irqfd;
struct vm_resampler;

/* Work that a vCPU does for itself before it runs on. */
#define VM_REQ_CLOCK		0x01u	/* write the pvclock page */
#define VM_REQ_STEAL		0x02u	/* write the steal-time record */
#define VM_REQ_ASYNC_PF		0x08u	/* the event of MSR_KVM_ASYNC_PF_EN is due */
#define VM_REQ_SERVICE		0x04u	/* another thread wants something done by this one: v->service */

/* What the previous exit left to be completed by the next KVM_RUN. */
enum vm_pending {
	VM_PENDING_NONE,
	VM_PENDING_PIO_IN,
	VM_PENDING_PIO_OUT,
	VM_PENDING_MMIO_READ,
	VM_PENDING_MMIO_WRITE,
	VM_PENDING_MSR,
	VM_PENDING_HYPERCALL,
	VM_PENDING_HEKI,
};

/* Counters of one vCPU that the cpu folder does not keep; names in stats.def. */
struct vm_stats {
	uint64_t exits, io_exits, mmio_exits, halt_exits, irq_window_exits, signal_exits, irq_injections, nmi_injections, pv_eois, pv_flushes,
		 hypercalls, host_kicks, device_accesses, blocks, halt_wait_ns, debug_exits, msr_exits;
};

/* The file behind a statistics descriptor: made at the first request, mapped so that values can follow. */
struct vm_stats_file { int fd; size_t size, data_offset; uint8_t *map; };

struct vm_service {
	void (*fn)(struct vcpu *c, void *arg);
	void *arg;
	bool done;
};

/* A thread inside KVM_RUN, as its signal handlers know it: signal.c. On the thread's stack. */
struct vm_signals {
	struct vm_signals *outer, *below;	/* of those that defer; of all */
	struct vm_vcpu *volatile v;	/* once its lock is held */
	volatile bool is_blocked;	/* signals stay pending; old_mask is what the thread had */
	bool is_plain;			/* from the start */
	volatile int depth;
	sigset_t old_mask;
	int cancel_state;		/* of the thread, before */
	unsigned n_cancels;		/* cancellations in this process, before */
};

struct vm_vcpu {
	struct vcpu c;			/* first: cpu/ and access/ hand us this */
	struct vm *vm;
	unsigned id, index;
	bool is_bsp;
	bool is_placed;		/* since it ran last, the client has put it into the segment of the reset vector */
	pthread_mutex_t lock;

	/* The pages that the client maps too: hostile only to the client itself, yet read each field once. */
	struct kvm_run *run;
	struct kvm_coalesced_mmio_ring *ring;

	/* Set before the first KVM_RUN or on the vCPU's own thread. */
	struct dev_lapic *lapic;	/* NULL: no in-kernel LAPIC */
	uint32_t mp_state;
	uint8_t sipi_vector;
	_Atomic bool has_run;		/* read by others, too */
	bool has_cpuid;
	uint64_t cr8;			/* without a LAPIC */
	uint64_t apic_base;		/* without a LAPIC */
	bool is_tpr_exit_due, is_window_exit_due, is_signal_found;
	uint64_t vapic_addr;		/* KVM_SET_VAPIC_ADDR; 0: none */
	int user_vector;		/* split irqchip: KVM_INTERRUPT's vector, -1 none */

	/* Being woken and being sent away. */
	_Atomic uint32_t requests;	/* VM_REQ_* */
	_Atomic bool is_blocked;	/* sleeps in ppoll: a kick must write to wake_fd */
	_Atomic uint32_t n_nmi;		/* KVM_NMI and NMIs without a LAPIC, not yet in c.ev */
	_Atomic bool is_unhalted;	/* a PV kick */
	_Atomic bool is_smi;		/* KVM_SMI, not yet in c.ev */
	_Atomic unsigned long runner;	/* the thread in KVM_RUN; 0: none */
	_Atomic bool is_cancelled;	/* it is to end */
	_Atomic int eoi_vector;		/* split: KVM_EXIT_IOAPIC_EOI due, -1 none */
	int wake_fd, signal_fd;		/* made at the first block; -1 */
	sigset_t signal_fd_mask;
	int wait_fd;			/* vm_vcpu_wait()'s epoll; -1 */
	int watched[2];			/* of others, in it; -1 */
	uint64_t looked_at;		/* host TSC of the last look at pending signals */
	uint64_t touched;		/* vm->touched when decoded code was last told to verify itself */
	uint64_t verified_at;		/* host TSC when it was last told to, with nothing to say so */
	bool has_run_mask;		/* KVM_SET_SIGNAL_MASK */
	sigset_t run_mask;
	struct vm_signals *signals;	/* in KVM_RUN */
	pthread_cond_t service_done;
	pthread_mutex_t service_lock;
	struct vm_service *service;

	/* The dirty ring; NULL: none. */
	struct kvm_dirty_gfn *dirty;
	pthread_mutex_t dirty_lock;	/* a leaf */
	uint32_t dirty_index, dirty_reset;
	_Atomic bool is_dirty_full;

	/* Completion of the last exit. */
	enum vm_pending pending;
	uint64_t pending_rip;
	uint32_t pending_len;		/* bytes of data in the port page or in run->mmio */
	struct { bool valid, is_error, is_write; uint32_t index; uint64_t data; } msr_answer;
	struct { bool valid; uint64_t ret; } hypercall_answer;
	struct acc_exit heki_exit;	/* as it was told */
	uint64_t heki_next_rip;
	uint8_t mon_code[16];		/* a monitor's instruction */

	/* Time. */
	uint64_t tsc_ratio;		/* guest ticks per host tick, 32.32 */
	_Atomic uint64_t tsc_offset;
	uint32_t tsc_khz;
	uint64_t clock_msr, wall_msr, steal_msr, pv_eoi_msr, poll_msr, apf_msr, apf_int_msr;
	bool is_apf_due;		/* its one event waits: for a LAPIC, or for the guest to read the last */
	struct dev_pvclock_time clock_page;
	bool is_guest_stopped;		/* KVMCLOCK_CTRL */
	bool is_pv_eoi_armed;		/* the guest's byte is set; on the vCPU's own thread */
	uint64_t run_delay_ns, steal_at;	/* of sched_thread; steal_at: host TSC of the last update */
	unsigned long sched_thread;
	int sched_fd;			/* its schedstat; -1 */
	bool is_delay_known;
	bool is_preempted;		/* the guest's record says so */
	bool is_pv_enforced;		/* KVM_CAP_ENFORCE_PV_FEATURE_CPUID */
	uint32_t pv_features;		/* 0x40000001 EAX as set */

	struct vm_stats stats;
	struct vm_stats_file *_Atomic stats_file;
	uint64_t stats_at;		/* host TSC when it was last written */
};

struct vm_zone { uint64_t addr; uint32_t size; bool pio; };

/* KVM_X86_SET_MSR_FILTER: the first range that holds the index and names the operation decides. */
struct vm_msr_range { uint32_t flags, base, n; uint8_t *bitmap; };
struct vm_msr_filter {
	bool deny;
	unsigned n;
	struct vm_msr_range range[KVM_MSR_FILTER_MAX_RANGES];
};

struct vm {
	_Atomic unsigned refs;
	_Atomic bool is_dead;
	unsigned fork_generation;	/* of vm_fork_generation() when created */
	pthread_mutex_t lock;
	struct acc_guards guards;
	struct cpu_exts exts;
	struct heki *heki;
	struct monitor *monitor;
	_Atomic bool is_mapped_out;	/* another process may store to its memory without a word */
	bool is_shielding;		/* some of the client's mapping was made read-only */
	bool has_heki_rfc_numbers;
	struct acc_vm *acc;
	struct mem_code_map *code;
	struct dev_timers *timers;
	struct dev_irqchip *irqchip;	/* NULL: the client does interrupts; constant once a vCPU exists */
	bool is_split;
	bool has_pit;

	_Atomic unsigned n_vcpus;
	struct vm_vcpu *_Atomic vcpu[VM_MAX_VCPUS];	/* by index; never removed */
	uint32_t boot_id;
	uint32_t max_vcpu_id;		/* KVM_CAP_MAX_VCPU_ID; 0: not set */

	/* Bumped when the client may have written guest memory without a vCPU of ours noticing: it sends interrupts after DMA. */
	_Atomic uint64_t touched;

	/* Private memory. Constant but for the options, which are under lock. */
	unsigned long type;		/* KVM_X86_*_VM */
	struct mem_kinds *kinds;	/* NULL: a type without private memory */
	bool is_old_gmem;		/* guest_memfd as of Linux 6.8 */
	uint32_t private_options;	/* GW_PRIVATE_* */

	/* Buses. io_lock protects the lists; the counts are read without it. */
	pthread_mutex_t io_lock;
	struct vm_ioeventfd *ioeventfds;
	_Atomic unsigned n_ioeventfds, n_zones;
	struct vm_zone *zones;
	unsigned zones_size;
	struct kvm_coalesced_mmio_ring *ring;	/* vCPU 0's page; the others map the same one */
	int ring_fd;
	struct vm_irqfd *irqfds;
	uint64_t next_irqfd;
	pthread_mutex_t resample_lock;	/* a leaf: taken with the chip's lock held */
	struct vm_resampler *resamplers;
	int epoll_fd, epoll_stop_fd;
	bool has_epoll_thread;
	pthread_t epoll_thread;

	struct vm_stats_file *_Atomic stats_file;

	/* Time. */
	pthread_mutex_t tsc_lock;
	uint32_t default_tsc_khz;
	uint64_t tsc_written, tsc_written_at, tsc_cur_offset;	/* last synchronisation: value, host TSC, offset given */
	uint32_t tsc_written_khz;
	bool is_tsc_written;		/* by the client, not only as vCPUs were made */
	struct dev_kvmclock clock;

	/* What ENABLE_CAP and friends set; under lock, read by vCPUs at exits. */
	_Atomic uint64_t disabled_quirks;
	uint64_t disabled_exits;	/* constant once a vCPU exists */
	uint64_t x2apic_api;		/* asked for before there is an irqchip */
	_Atomic uint32_t msr_exit_reasons;
	_Atomic uint64_t hypercall_exits;
	_Atomic bool is_triple_fault_event;	/* KVM_CAP_X86_TRIPLE_FAULT_EVENT */
	_Atomic bool is_emulation_exit, is_exception_payload, is_platform_info_hidden;
	uint64_t dirty_protect;		/* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 */
	uint32_t dirty_ring_bytes;	/* 0: bitmaps; constant once a vCPU exists */
	pthread_rwlock_t filter_lock;	/* a leaf */
	struct vm_msr_filter *msr_filter;
	_Atomic bool has_msr_filter;
	uint64_t tss_addr, identity_addr;
	uint64_t apic_bus_ns;
};

static inline struct vm_vcpu *vm_vcpu_of(struct vcpu *c) { return (struct vm_vcpu *)c->machine; }

/* ---- vm.c -------------------------------------------------------------------------------------------------------- */

/* @type: of VM_TYPES. 0, -EINVAL, -ENOMEM, -errno of the timer thread. */
int vm_create(unsigned long type, struct vm **out);
struct vm *vm_get(struct vm *vm);
void vm_put(struct vm *vm);
/* A broken invariant: the VM is dead, later calls give -EIO. Logs @why and every vCPU's ring. Any thread. */
void vm_bug(struct vm *vm, const char *why);
/* -EIO when dead or when this is a forked child; else 0. */
int vm_alive(const struct vm *vm);
unsigned vm_fork_generation(void);
struct vm_vcpu *vm_vcpu_by_id(struct vm *vm, uint32_t id);
/* Kick every vCPU out of guest code; @bits of ACC_ATT_*. */
void vm_kick_all(struct vm *vm, uint32_t bits);

/* Private memory and SMM's own slots exclude each other, as in KVM; such a VM has no SMM at all. */
static inline bool vm_has_smm(const struct vm *vm) { return !vm->kinds; }
static inline unsigned vm_spaces(const struct vm *vm) { return vm_has_smm(vm) ? ACC_N_SPACES : 1; }

/* ---- memory.c ---------------------------------------------------------------------------------------------------- */

/* @g: what r->guest_memfd is, when the flag is set; else, or when NULL, @gmem_err is why not. */
int vm_set_region(struct vm *vm, const struct kvm_userspace_memory_region2 *r, struct mem_gmem *g, int gmem_err);
int vm_get_dirty_log(struct vm *vm, uint32_t slot, uint64_t **bitmap, size_t *bytes);	/* *bitmap: caller frees */
int vm_clear_dirty_log(struct vm *vm, const struct kvm_clear_dirty_log *log, const uint64_t *bitmap);

const struct mem_slot *vm_slot_by_id(struct vm *vm, uint32_t id);	/* with vm->lock held */

/* ---- dirty_ring.c ------------------------------------------------------------------------------------------------ */

int vm_dirty_ring_enable(struct vm *vm, uint64_t bytes);
size_t vm_dirty_ring_file_size(const struct vm *vm);
int vm_dirty_ring_map(struct vm_vcpu *v, int fd);
void vm_dirty_ring_unmap(struct vm_vcpu *v);
bool vm_dirty_ring_full(struct vm_vcpu *v);
int vm_reset_dirty_rings(struct vm *vm);

/* ---- private.c --------------------------------------------------------------------------------------------------- */

/* Which types of VM KVM_CREATE_VM takes, as a bitmap. */
#define VM_TYPES	(1ul << KVM_X86_DEFAULT_VM | 1ul << KVM_X86_SW_PROTECTED_VM)
#define VM_PRIVATE_OPTIONS	(GW_PRIVATE_REGIONS | GW_PRIVATE_STRICT | GW_PRIVATE_HUGE)
/* @vm NULL: what the system descriptor says. */
uint64_t vm_gmem_flags(const struct vm *vm);
bool vm_gmem_is_old(void);
uint64_t vm_memory_attributes(const struct vm *vm);
int vm_private_init(struct vm *vm, unsigned long type);
/* Nothing runs, nobody looks: gives back what slots hold. The map goes afterwards. */
void vm_private_end(struct vm *vm);
int vm_private_enable(struct vm *vm, uint64_t options);
/* *fd: the client's descriptor. The object's reference is the file's. */
int vm_gmem_create(struct vm *vm, const struct kvm_create_guest_memfd *args, struct mem_gmem **out, int *fd);
/* Its last descriptor is gone. */
void vm_gmem_release(struct vm *vm, struct mem_gmem *g);
/* As fallocate(2) on a guest_memfd. */
int vm_gmem_fallocate(struct vm *vm, struct mem_gmem *g, int mode, int64_t offset, int64_t len);
/* With vm->lock held: gives slot @s of the unpublished @map its pages of @g. */
int vm_gmem_bind(struct mem_map *map, const struct kvm_userspace_memory_region2 *r, struct vm *vm, struct mem_gmem *g);
int vm_set_attributes(struct vm *vm, const struct kvm_memory_attributes *a);
int vm_convert_region(struct vm *vm, uint64_t addr, uint64_t size, bool is_private);
int vm_prefault(struct vm_vcpu *v, struct kvm_pre_fault_memory *p);
/* Pages done, at most @n, or -errno when none: see GW_POPULATE. */
int vm_populate(struct vm *vm, uint64_t gpa, const uint8_t *bytes, unsigned n);
/* Text of GW_MAP; caller frees. */
int vm_map_text(struct vm *vm, char **text);

/* ---- irq.c ------------------------------------------------------------------------------------------------------- */

int vm_create_irqchip(struct vm *vm, bool split, uint64_t n_pins);
int vm_set_boot_id(struct vm *vm, uint32_t id);

/* ---- eventfd.c --------------------------------------------------------------------------------------------------- */

int vm_irqfd(struct vm *vm, const struct kvm_irqfd *args);
int vm_ioeventfd(struct vm *vm, const struct kvm_ioeventfd *args);
/* A guest write: true when an eventfd took it. */
bool vm_ioeventfd_write(struct vm *vm, bool pio, uint64_t addr, unsigned len, const void *data);
void vm_eoi_ack(struct vm *vm, uint32_t gsi);
void vm_eventfd_end(struct vm *vm);
int64_t vm_eventfd_id(int fd);	/* -EBADF, -EINVAL no eventfd, -ENOMEM */

/* ---- irqfd_close.c ----------------------------------------------------------------------------------------------- */

/* Duplicates of the client's descriptors, known as ours. dup: -errno. */
int vm_ours_dup(int fd);
void vm_ours_close(int fd);
/* Does a descriptor that is not ours lead to the file of @fd? *hint: where to look first, and where it was found. True if unknown. */
bool vm_ours_has_client(int fd, int *hint);
/* Is something registered with @data? True if unknown. */
bool vm_epoll_has(int epoll_fd, uint64_t data);

/* ---- coalesced.c ------------------------------------------------------------------------------------------------- */

int vm_zone_register(struct vm *vm, const struct kvm_coalesced_mmio_zone *z);
int vm_zone_unregister(struct vm *vm, const struct kvm_coalesced_mmio_zone *z);
bool vm_zone_write(struct vm *vm, bool pio, uint64_t addr, unsigned len, const void *data);

/* ---- vcpu.c ------------------------------------------------------------------------------------------------------ */

/* *fd: the descriptor for the client, a memfd that maps as kvm_run. Closing it is the caller's. */
int vm_vcpu_create(struct vm *vm, unsigned long id, struct vm_vcpu **out, int *fd);
void vm_vcpu_free(struct vm_vcpu *v);
/* Make it look: @bits of ACC_ATT_*; wakes it if it sleeps. Any thread, any lock of dev/. */
void vm_vcpu_kick(struct vm_vcpu *v, uint32_t bits);
void vm_vcpu_request(struct vm_vcpu *v, uint32_t requests);
/* Sleep until there is something to do. 0: look again; -EINTR: a signal is pending. */
int vm_vcpu_block(struct vm_vcpu *v);
/*
 * As block, but for @ready, with @fd >= 0 (an eventfd that stays open as long as the vCPU) watched too, by its edges: whoever adds to it
 * wakes us, and nobody need read it. False: the vCPU is wanted elsewhere. Outside acc_enter().
 */
bool vm_vcpu_wait(struct vm_vcpu *v, int fd, int tick_ms, bool (*ready)(void *arg), void *arg);
/* INIT, then SIPI, as the mp_state allows. True: the state changed. */
bool vm_vcpu_accept_events(struct vm_vcpu *v);
/* Is there a reason to leave HLT? */
bool vm_vcpu_has_events(struct vm_vcpu *v);
/* NMIs and SMIs posted by others go to c->ev. */
void vm_vcpu_collect_events(struct vm_vcpu *v);
/* Run @fn with exclusive use of the vCPU: at once, or by the thread that is in KVM_RUN. */
void vm_vcpu_service(struct vm_vcpu *v, void (*fn)(struct vcpu *c, void *arg), void *arg);

/* ---- signal.c ---------------------------------------------------------------------------------------------------- */

/*
 * Around KVM_RUN: leave is its last act, because handlers run there that use the vCPU, or jump away. attach and detach with the
 * vCPU's lock held.
 */
void vm_signal_enter(struct vm_signals *s);
void vm_signal_attach(struct vm_vcpu *v);
void vm_signal_detach(struct vm_vcpu *v);
void vm_signal_leave(struct vm_signals *s);
/* Have signals stay pending from now on: before the thread sleeps. */
void vm_signal_block(struct vm_vcpu *v);
/* The mask that counts, while signals are blocked. */
const sigset_t *vm_signal_blocked(const struct vm_vcpu *v);
/* gw_sigaction, gw_own_signals. */
int vm_sigaction(int sig, const struct sigaction *act, struct sigaction *old);
void vm_own_signals(bool all);
bool vm_signal_pending(struct vm_vcpu *v);
int vm_set_signal_mask(struct vm_vcpu *v, const uint64_t *mask);
/* Is it time (half a millisecond) to ask the host about signals again? */
bool vm_signal_look_due(struct vm_vcpu *v);

/* ---- cancel.c ---------------------------------------------------------------------------------------------------- */

void vm_cancel_enter(struct vm_signals *s);
void vm_cancel_attach(struct vm_vcpu *v, const struct vm_signals *s);
void vm_cancel_detach(struct vm_vcpu *v);
/* May not return: the thread ends. */
void vm_cancel_leave(struct vm_signals *s);
/* Some thread was cancelled; afterwards, each vCPU: was it this one's? */
void vm_cancel_count(void);
void vm_cancel_kick(struct vm_vcpu *v, unsigned long thread);

/* ---- run.c ------------------------------------------------------------------------------------------------------- */

/* Takes the vCPU's lock. Only between vm_signal_enter() and vm_signal_leave(). */
int vm_run(struct vm_vcpu *v);
bool vm_ready_for_injection(struct vm_vcpu *v);

/* ---- env.c ------------------------------------------------------------------------------------------------------- */

extern const struct cpu_env vm_cpu_env;
/* Within so long running code sees what a thread of the client has written over it. */
#define VM_VERIFY_MS	10u
uint64_t vm_get_cr8(struct vm_vcpu *v);
void vm_set_cr8(struct vm_vcpu *v, uint64_t value);
uint64_t vm_get_apic_base(struct vm_vcpu *v);
int vm_set_apic_base(struct vm_vcpu *v, uint64_t value);

/* ---- hypercall.c ------------------------------------------------------------------------------------------------- */

enum cpu_hypercall vm_hypercall(struct vcpu *c, bool is_vmmcall);

/* ---- heki.c ------------------------------------------------------------------------------------------------------ */

int vm_heki_new(struct vm *vm);
int vm_heki_start(struct vm *vm);
/* The client has put this vCPU, whose lock is held, at the reset vector, where it was not. */
void vm_heki_reset(struct vm_vcpu *v);
bool vm_heki_hypercall(struct vm_vcpu *v, uint64_t nr, const uint64_t a[4], int64_t *ret);
/* Is @x one of the two exits of kernel integrity, and then: KVM_RUN came back. @moved: the client changed RIP. */
bool vm_heki_is_exit(const struct vm_vcpu *v, const struct acc_exit *x);
void vm_heki_complete(struct vm_vcpu *v, bool moved);

/* ---- monitor.c --------------------------------------------------------------------------------------------------- */

int vm_monitor_new(struct vm *vm);

/* ---- clock.c ----------------------------------------------------------------------------------------------------- */

uint32_t vm_host_tsc_khz(void);
uint64_t vm_tsc(const struct vm_vcpu *v);
uint64_t vm_tsc_at(const struct vm_vcpu *v, uint64_t host_tsc);
void vm_tsc_init(struct vm_vcpu *v);
void vm_tsc_guest_write(struct vm_vcpu *v, uint64_t value);
void vm_tsc_host_write(struct vm_vcpu *v, uint64_t value);
void vm_tsc_set_offset(struct vm_vcpu *v, uint64_t offset);
int vm_set_tsc_khz(struct vm_vcpu *v, uint64_t khz);
int vm_clock_get(struct vm *vm, struct kvm_clock_data *data);
int vm_clock_set(struct vm *vm, const struct kvm_clock_data *data);
/* PV MSRs. @host: by ioctl. 0, -EINVAL; reads of what is not ours -ENOENT. */
int vm_pv_msr_get(struct vm_vcpu *v, uint32_t index, bool host, uint64_t *value);
int vm_pv_msr_set(struct vm_vcpu *v, uint32_t index, bool host, uint64_t value);
void vm_clock_update(struct vm_vcpu *v);
/* Guest memory on the host's behalf (origin PV), through the access path. False: not plain memory, or refused. */
bool vm_pv_read(struct vm_vcpu *v, struct gpa gpa, void *buf, size_t len);
bool vm_pv_write(struct vm_vcpu *v, struct gpa gpa, const void *buf, size_t len);
bool vm_pv_exchange(struct vm_vcpu *v, struct gpa gpa, uint8_t *byte);	/* atomically */

/* ---- steal.c ----------------------------------------------------------------------------------------------------- */

int vm_steal_set_msr(struct vm_vcpu *v, uint64_t value);	/* 0, -EINVAL */
/* Tells the guest, and does what it has left to us. Before guest code, on the vCPU's thread. */
void vm_steal_update(struct vm_vcpu *v);
/* The guest was not told for @us microseconds. */
bool vm_steal_due(const struct vm_vcpu *v, unsigned us);
/* The client has the vCPU, between two instructions. */
void vm_steal_set_preempted(struct vm_vcpu *v);
void vm_steal_end(struct vm_vcpu *v);
/* How often the guest is told: while it runs, and when the client runs it again. */
#define VM_STEAL_RUNNING_US	1000u
#define VM_STEAL_ENTRY_US	100u

/* ---- emulation.c ------------------------------------------------------------------------------------------------- */

int vm_emulation_exit(struct vm_vcpu *v);
bool vm_is_x87(struct vm_vcpu *v);	/* the instruction at RIP */

/* ---- async_pf.c -------------------------------------------------------------------------------------------------- */

/* MSR_KVM_ASYNC_PF_EN, _INT, _ACK: 0, -EINVAL. */
int vm_async_pf_set_msr(struct vm_vcpu *v, uint64_t value, bool has_vmexit, bool has_int);
int vm_async_pf_set_int(struct vm_vcpu *v, uint64_t value);
int vm_async_pf_ack(struct vm_vcpu *v, uint64_t value);
void vm_async_pf_ready(struct vm_vcpu *v);	/* VM_REQ_ASYNC_PF */

/* ---- pv_eoi.c ---------------------------------------------------------------------------------------------------- */

int vm_pv_eoi_set_msr(struct vm_vcpu *v, uint64_t value);	/* 0, -EINVAL */
/* An interrupt was just acknowledged: let the guest end it by clearing its byte, if that hides nothing. */
void vm_pv_eoi_arm(struct vm_vcpu *v);
/* Does what the guest said by its byte, and takes it back: before anything that depends on what is in service. */
void vm_pv_eoi_take(struct vm_vcpu *v);
static inline void vm_pv_eoi_sync(struct vm_vcpu *v)
{
	if (unlikely(v->is_pv_eoi_armed))
		vm_pv_eoi_take(v);
}

/* ---- cpuid.c ----------------------------------------------------------------------------------------------------- */

#define VM_CPUID_MAX	80	/* clients pass room for 80 and give up on E2BIG */
unsigned vm_cpuid_supported(struct kvm_cpuid_entry2 *e, unsigned max);
unsigned vm_cpuid_emulated(struct kvm_cpuid_entry2 *e, unsigned max);
int vm_cpuid_set(struct vm_vcpu *v, const struct kvm_cpuid_entry2 *e, unsigned n);
void vm_cpuid_read(struct vcpu *c, uint32_t function, uint32_t index, uint32_t r[4]);
const struct cpu_cpuid *vm_cpuid_find(const struct vcpu *c, uint32_t function, uint32_t index);
uint64_t vm_supported_cr4(void);
bool vm_host_is_amd(void);
uint64_t vm_supported_xcr0(void);
void vm_cpuid_default_features(struct vm_vcpu *v);
bool vm_cpuid_has(const struct vcpu *c, uint32_t function, unsigned reg, unsigned bit);

/* ---- msr.c ------------------------------------------------------------------------------------------------------- */

extern const uint32_t vm_msr_list[], vm_msr_feature_list[];
extern const unsigned vm_n_msr_list, vm_n_msr_feature_list;
/* What feature MSRs hold before the client says otherwise. */
void vm_msr_init(struct vm_vcpu *v);
int vm_msr_feature_get(uint32_t index, uint64_t *value);
/* By ioctl. 0 or -EINVAL (stop here). */
int vm_msr_get(struct vm_vcpu *v, uint32_t index, uint64_t *value);
int vm_msr_set(struct vm_vcpu *v, uint32_t index, uint64_t value);
int vm_env_rdmsr(struct vcpu *c, uint32_t index, uint64_t *value);
int vm_env_wrmsr(struct vcpu *c, uint32_t index, uint64_t value);
int vm_env_msr_first(struct vcpu *c, uint32_t index, bool write, uint64_t *value);
int vm_env_msr_refused(struct vcpu *c, uint32_t index, bool write, uint64_t value);
/* KVM_X86_SET_MSR_FILTER; takes @filter over (NULL: none). */
void vm_msr_set_filter(struct vm *vm, struct vm_msr_filter *filter);
void vm_msr_filter_free(struct vm_msr_filter *filter);

/* ---- regs.c, state.c, debug.c ------------------------------------------------------------------------------------- */

void vm_get_regs(struct vm_vcpu *v, struct kvm_regs *r);
void vm_set_regs(struct vm_vcpu *v, const struct kvm_regs *r);
void vm_get_sregs(struct vm_vcpu *v, struct kvm_sregs *s);
int vm_set_sregs(struct vm_vcpu *v, const struct kvm_sregs *s);
void vm_get_sregs2(struct vm_vcpu *v, struct kvm_sregs2 *s);
int vm_set_sregs2(struct vm_vcpu *v, const struct kvm_sregs2 *s);
int vm_translate(struct vm_vcpu *v, struct kvm_translation *t);
void vm_get_events(struct vm_vcpu *v, struct kvm_vcpu_events *e);
int vm_set_events(struct vm_vcpu *v, const struct kvm_vcpu_events *e);
void vm_get_mp_state(struct vm_vcpu *v, struct kvm_mp_state *s);
int vm_set_mp_state(struct vm_vcpu *v, const struct kvm_mp_state *s);
void vm_get_debugregs(struct vm_vcpu *v, struct kvm_debugregs *d);
int vm_set_debugregs(struct vm_vcpu *v, const struct kvm_debugregs *d);
void vm_get_fpu(struct vm_vcpu *v, struct kvm_fpu *f);
int vm_set_fpu(struct vm_vcpu *v, const struct kvm_fpu *f);
void vm_get_xsave(struct vm_vcpu *v, uint8_t area[4096]);
int vm_set_xsave(struct vm_vcpu *v, const uint8_t area[4096]);
int vm_get_xcrs(struct vm_vcpu *v, struct kvm_xcrs *x);
int vm_set_xcrs(struct vm_vcpu *v, const struct kvm_xcrs *x);
int vm_interrupt(struct vm_vcpu *v, uint32_t irq);
void vm_nmi(struct vm_vcpu *v);
int vm_smi(struct vm_vcpu *v);
int vm_get_lapic(struct vm_vcpu *v, struct kvm_lapic_state *s);
int vm_set_lapic(struct vm_vcpu *v, const struct kvm_lapic_state *s);
int vm_set_guest_debug(struct vm_vcpu *v, const struct kvm_guest_debug *d);
bool vm_debug_takes(struct vcpu *c, unsigned vector);
int vm_setup_mce(struct vm_vcpu *v, uint64_t cap);
/* vapic.c. show: before running guest code; take: after it. */
int vm_set_vapic_addr(struct vm_vcpu *v, uint64_t addr);
int vm_set_tpr_reporting(struct vm_vcpu *v, const struct kvm_tpr_access_ctl *ctl);
void vm_vapic_show(struct vm_vcpu *v);
void vm_vapic_take(struct vm_vcpu *v);
int vm_set_mce(struct vm_vcpu *v, const struct kvm_x86_mce *mce);
#define VM_MCE_CAP_SUPPORTED	(0x0100ull | 0x1000000ull | 32)	/* MCG_CTL_P, SER_P, 32 banks */

/* ---- stats.c, dump.c ---------------------------------------------------------------------------------------------- */

/* A read-only descriptor for the statistics of @vm, or of @v when not NULL. Its values move when KVM_RUN returns and with
 * vm_stats_refresh(). Descriptor or -errno. */
int vm_stats_open(struct vm *vm, struct vm_vcpu *v);
void vm_stats_refresh(struct vm *vm, struct vm_vcpu *v);
bool vm_stats_due(const struct vm_vcpu *v);	/* it is open, and a millisecond old */
void vm_stats_free(struct vm_stats_file *f);
/* Text of GW_DUMP; caller frees. */
int vm_dump(struct vm_vcpu *v, uint32_t flags, uint64_t gva, char **text);
void vm_dump_ring(struct vm_vcpu *v, void (*line)(void *opaque, const char *text), void *opaque);

#endif
