/* SPDX-License-Identifier: MIT */
/*
 * The system half of the processor: segments, far transfers, event delivery, control and debug registers, MSRs, CPUID, ports.
 * What others call. Instructions come in by cpu_lower_sys(), events by cpu_deliver(); both are declared in cpu/op.h.
 */
#ifndef GW_CPU_SYS_SYS_H
#define GW_CPU_SYS_SYS_H

#include "cpu/op.h"

/* ---- MSRs ------------------------------------------------------------------------------------------------------------- */

/*
 * Read or write an MSR as the guest (@host false) or the client (KVM_GET_MSRS, KVM_SET_MSRS) does.
 * 0 done; 1 refused (#GP(0) in the guest, a short count for the client); 2 an exit is wanted (guest only, from env).
 * MSRs the processor does not own go on to env->rdmsr/wrmsr.
 */
int cpu_msr_get(struct vcpu *c, uint32_t index, uint64_t *value, bool host);
int cpu_msr_set(struct vcpu *c, uint32_t index, uint64_t value, bool host);
/* Is @index one the processor owns? vm/ asks before it looks at its own. */
bool cpu_msr_owned(const struct vcpu *c, uint32_t index);
/* Indices of processor-owned MSRs that are state to save: KVM_GET_MSR_INDEX_LIST. */
extern const uint32_t cpu_msr_save[];
extern const unsigned cpu_n_msr_save;

/* ---- CPUID ------------------------------------------------------------------------------------------------------------ */

/* The row for @function, @index as the client set it; NULL if none. No range rule. */
const struct cpu_cpuid *cpu_cpuid_find(const struct vcpu *c, uint32_t function, uint32_t index);
/* What the instruction answers: range rule, dynamic bits. @r: EAX, EBX, ECX, EDX. */
void cpu_cpuid_query(struct vcpu *c, uint32_t function, uint32_t index, uint32_t r[4]);
/* The vendor string of leaf 0 is AMD's or Hygon's. */
bool cpu_is_amd(const struct vcpu *c);
/* After the client set the table: c->features, c->cr4_allowed, acc.maxphyaddr. */
void cpu_cpuid_changed(struct vcpu *c);

/* ---- Control registers ------------------------------------------------------------------------------------------------ */

/* Would MOV to CR0/CR4/CR3 or WRMSR EFER accept the value, taken by itself (reserved bits only)? For KVM_SET_SREGS. */
bool cpu_cr0_valid(uint64_t v);
bool cpu_cr3_valid(const struct vcpu *c, uint64_t v);
bool cpu_cr4_valid(const struct vcpu *c, uint64_t v);
bool cpu_efer_valid(const struct vcpu *c, uint64_t v);
/* Is @a canonical under the present CR4.LA57? */
bool cpu_canonical(const struct vcpu *c, uint64_t a);

/* ---- Rooms that want to be told of each instruction (cpu/ext.h): called by the run loop --------------------------------- */

bool cpu_ext_before(struct vcpu *c);
void cpu_ext_after(struct vcpu *c, bool retired);
bool cpu_ext_delivery(struct vcpu *c);

/* ---- System management mode -------------------------------------------------------------------------------------------- */

/* Take the SMI that is pending: between two instructions, not in SMM. */
void cpu_smi(struct vcpu *c);
/* Be in SMM or not, and nothing else: for KVM_SET_VCPU_EVENTS. */
void cpu_smm_set(struct vcpu *c, bool in_smm);

/* ---- Debug registers: called by the run loop and the memory slow path -------------------------------------------------- */

/* struct cpu_guest_debug.control, as KVM numbers it. */
#define CPU_DBG_ENABLE		0x00000001u
#define CPU_DBG_SINGLESTEP	0x00000002u
#define CPU_DBG_USE_SW_BP	0x00010000u
#define CPU_DBG_USE_HW_BP	0x00020000u
#define CPU_DBG_BLOCKIRQ	0x00100000u

/* Is anything armed that needs instruction-by-instruction execution? (TF aside: the run loop knows it.) */
static inline bool cpu_debug_armed(const struct vcpu *c)
{
	return unlikely(c->dr7 & 0xff || c->debug_hits || c->dbg.control & (CPU_DBG_SINGLESTEP | CPU_DBG_USE_HW_BP));
}
/*
 * Before the instruction at c->rip: instruction breakpoints. True: go on. False: #DB was raised (c->stop set) or the client's
 * breakpoint was met (c->exit = CPU_EXIT_DEBUG). Honours EFLAGS.RF and the MOV SS shadow.
 */
bool cpu_debug_fetch(struct vcpu *c);
/* A data access was judged: notes matching breakpoints; the #DB comes with the next cpu_debug_step(). Call if cpu_debug_armed(). */
void cpu_debug_data(struct vcpu *c, uint64_t gva, unsigned len, unsigned rights);
/*
 * After an instruction has retired, c->rip past it. @tf: EFLAGS.TF when it began. Raises #DB for single step and for data and
 * I/O breakpoints met. True: nothing. False: as cpu_debug_fetch().
 */
bool cpu_debug_step(struct vcpu *c, bool tf);

#endif
