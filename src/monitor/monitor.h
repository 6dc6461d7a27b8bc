/* SPDX-License-Identifier: MIT */
/*
 * The door of the room `monitor`: introspection. One object per VM holds what each view lets each vCPU do with each frame, what a
 * monitor wants to be told of, and the events that are waited for. It judges memory accesses as a guard (access/guard.h) and
 * instructions as an extension of the processor (cpu/ext.h).
 *
 * It never decides what a monitor would: it asks, and blocks the vCPU outside acc_enter() until there is an answer. An execution
 * of an instruction about which something was asked runs alone, so that the room is told when it is over: what was answered holds
 * for that execution and nothing else.
 *
 * Numbers and orders are those of Xen's vm_event, monitor, mem_access and altp2m interfaces; docs/monitor.md says where we differ.
 */
#ifndef GW_MONITOR_MONITOR_H
#define GW_MONITOR_MONITOR_H

#include <stddef.h>

#include "access/guard.h"
#include "cpu/ext.h"
#include "guestward/monitor.h"

struct monitor;

/* What the room needs of its VM. Constant. @cpu is always that of the calling thread. */
struct mon_host {
	unsigned (*n_vcpus)(void *vm);
	unsigned (*index)(const struct acc_cpu *cpu);
	/* acc_forget(); n == 0: everything. */
	void (*forget)(void *vm, struct gfn first, uint64_t n, uint8_t rights);
	/* This vCPU remembers nothing. */
	void (*flush)(void *vm, struct acc_cpu *cpu);
	/* Page of plain client memory at @gfn, as the vCPU's map has it, marked dirty if @write. NULL: none, or private. */
	uint8_t *(*frame)(void *vm, struct acc_cpu *cpu, struct gfn gfn, bool write);
	bool (*is_memory)(void *vm, struct gfn gfn);
	uint64_t (*max_gfn)(void *vm);
	uint64_t (*n_pages)(void *vm);
	/* From now on page walks are judged by this room, or not. */
	void (*judge_walks)(void *vm, bool on);
	/* Which of enum cpu_ext_insn to be asked about. */
	void (*wants)(void *vm, uint32_t mask);
	void (*wants_of)(struct acc_cpu *cpu, uint32_t mask);
	/* Instructions run alone, interrupts are held, before() and after() are called. */
	void (*alone)(struct acc_cpu *cpu, bool on);
	/* The instruction about to be left is begun again by the dispatcher without leaving KVM_RUN. */
	void (*again)(struct acc_cpu *cpu);
	void (*code)(struct acc_cpu *cpu, const uint8_t *bytes);	/* executed instead of memory's; NULL: no more */
	uint64_t (*rip)(const struct acc_cpu *cpu);
	void (*regs)(struct acc_cpu *cpu, struct gw_mon_regs *out);
	void (*set_regs)(struct acc_cpu *cpu, const struct kvm_regs *r);
	bool (*translate)(struct acc_cpu *cpu, uint64_t gla, uint64_t *gpa);
	void (*inject)(struct acc_cpu *cpu, unsigned vector, unsigned type, uint32_t error, unsigned length, uint64_t cr2);
	/* acc_leave(), and acc_enter() again: around whatever may wait for others. */
	void (*outside)(struct acc_cpu *cpu, bool begin);
	/*
	 * Outside: sleep until @ready; false: the vCPU is wanted elsewhere. @fd >= 0 is watched too; @ready is asked every @tick_ms
	 * at least (-1: only when woken). Wake: from any thread.
	 */
	bool (*block)(struct acc_cpu *cpu, int fd, int tick_ms, bool (*ready)(void *arg), void *arg);
	void (*wake)(void *vm, unsigned vcpu);
	/* The vCPU leaves guest code soon, and passes enter() before it comes back. */
	void (*kick)(void *vm, unsigned vcpu);
	/* Foreign code runs on this vCPU's thread: the guest's floating point state is out of its way in between. */
	void (*foreign)(struct acc_cpu *cpu, bool begin);
	bool (*read)(void *vm, struct gpa gpa, void *buf, size_t len);
	bool (*write)(void *vm, struct gpa gpa, const void *buf, size_t len);
	bool (*translate_vcpu)(void *vm, unsigned vcpu, uint64_t gla, uint64_t *gpa);
	/* Its monitor had time: code may have changed in a way that nobody told. */
	void (*stood)(struct acc_cpu *cpu);
	/* Returns when the vCPU has been between instructions since. Not on its own thread. */
	void (*sync_vcpu)(void *vm, unsigned vcpu);
	/* Registers of another thread's vCPU, between its instructions: waits for that. set: -EINVAL. */
	void (*get_vcpu)(void *vm, unsigned vcpu, struct gw_mon_regs *out);
	int (*set_vcpu)(void *vm, unsigned vcpu, const struct gw_mon_regs *r);
	/* A descriptor of the file that holds @gfn; -ESRCH, -EOPNOTSUPP. */
	int (*map)(void *vm, struct gfn gfn, struct gfn *first, uint64_t *pages, uint64_t *offset);
	void (*log)(const char *text);
};

int mon_new(const struct mon_host *host, void *vm, struct monitor **out);
void mon_free(struct monitor *m);
/* Before the vCPU runs. -ENOMEM. */
int mon_vcpu_add(struct monitor *m, unsigned index);
/* Memory is about to appear at these frames. */
void mon_frames_added(struct monitor *m, struct gfn first, uint64_t n);

extern const struct acc_guard_ops mon_guard_ops;	/* state: struct monitor */
extern const struct cpu_ext_ops mon_ext_ops;		/* state: struct monitor */

/* The ioctls. Any thread without locks of the VM; from a callback too. */
int mon_attach(struct monitor *m, struct gw_monitor_attach *a);
/* @in, @out: payload of cmd->size and at most GW_MON_MAX_PAYLOAD bytes. */
void mon_command(struct monitor *m, const struct gw_mon_cmd *cmd, const void *in, struct gw_mon_reply *reply, void *out);
/* The monitor's end was cut: its policy decides. */
void mon_lost(struct monitor *m);
/* CHANNEL: a descriptor that wakes @vcpu; -errno. The caller closes it. */
int mon_wake_fd(struct monitor *m, unsigned vcpu);

/* VMCALL with Xen's number for HVM operations (34) and the operation "guest request" (24). True: *ret is RAX. */
bool mon_hypercall(struct monitor *m, struct acc_cpu *cpu, unsigned cpl, uint64_t nr, uint64_t op, uint64_t arg, int64_t *ret, bool *restart);

#endif
