/* SPDX-License-Identifier: MIT */
/*
 * One virtual CPU: its architectural state and what the engine keeps beside it. Plain data; owned by the thread that runs it,
 * other threads touch only acc.attention. Laid out for translated code: what the fast path reads comes first.
 */
#ifndef GW_CPU_VCPU_H
#define GW_CPU_VCPU_H

#include "access/access.h"
#include "base/types.h"
#include "cpu/ext.h"
#include "cpu/ring.h"
#include "isa/insn.h"
#include "isa/x86.h"

struct vcpu;
struct cpu_block;
struct cpu_op;
struct translator;
struct tr_site;

#define CPU_N_GPR	18	/* 16, GPR_ZERO, GPR_RIP (start of the running block) */
#define SEG_FLAT	N_SEGS	/* pseudo segment with base 0: 64-bit mode, all but FS and GS */

/* A segment register with its descriptor cache; fields and meaning as struct kvm_segment. */
struct cpu_seg {
	uint64_t base;
	uint32_t limit;		/* in bytes, granularity applied */
	uint16_t sel;
	uint8_t type, s, dpl, present, avl, l, db, g, unusable;
};

struct cpu_table { uint64_t base; uint16_t limit; };

/* Where EFLAGS lives: arithmetic flags in `cc` (LAHF's AH in bits 15:8, OF in bit 0), everything else in `eflags`. */
#define CC_CF	0x0100u
#define CC_PF	0x0400u
#define CC_AF	0x1000u
#define CC_ZF	0x4000u
#define CC_SF	0x8000u
#define CC_OF	0x0001u

/* Events, as KVM_GET_VCPU_EVENTS shows them. At most one of exception/interrupt/nmi is being delivered. */
struct cpu_events {
	struct {
		bool pending;		/* raised, not yet delivered (or injected by the client and to be delivered) */
		uint8_t vector;
		bool has_error;
		bool injected;		/* by the client: SET_REGS does not take it back */
		uint32_t error;
		bool has_payload;	/* CR2 or DR6 not yet written */
		uint64_t payload;
		bool soft;		/* INT n, INT3, INTO: RIP pushed is next instruction's, DPL of the gate is checked */
		bool icebp;		/* INT1: hardware-like, no DPL check */
		uint8_t soft_len;
	} exception;
	struct {
		bool injected;		/* must be delivered before anything else */
		uint8_t vector;
		bool soft;
	} interrupt;
	struct {
		bool injected;
		uint8_t pending;	/* 0..2 */
		bool masked;		/* until IRET */
	} nmi;
	bool triple_fault;
	bool smi_pending, in_smm;
	bool leaving_smm;	/* RSM asks the rooms about what it is going to load */
	bool smm_inside_nmi;	/* the SMI came while NMIs were masked */
};

#define CPU_SHADOW_STI		1u
#define CPU_SHADOW_MOVSS	2u

/* What the client must do before the instruction (or after it) can go on. */
enum cpu_exit {
	CPU_RUNNING,		/* not an exit */
	CPU_EXIT_KICKED,	/* attention ACC_ATT_EXIT */
	CPU_EXIT_PIO,		/* io.want / io.out: port I/O */
	CPU_EXIT_MMIO,		/* io.want read, or io.write[] queue */
	CPU_EXIT_HLT,		/* HLT executed; RIP past it */
	CPU_EXIT_SHUTDOWN,	/* triple fault */
	CPU_EXIT_GUARD,		/* a guard asked: exit filled */
	CPU_EXIT_HYPERCALL,	/* handled by env, which wants an exit */
	CPU_EXIT_MSR,		/* user-space MSR exit wanted by env */
	CPU_EXIT_DEBUG,		/* guest debugging: dbg filled */
	CPU_EXIT_EMULATION,	/* the engine has no answer: KVM_INTERNAL_ERROR_EMULATION */
	CPU_EXIT_DELIVERY,	/* vectoring hit a device: KVM_INTERNAL_ERROR_DELIVERY_EV */
	CPU_EXIT_HOST_FAULT,	/* host SIGSEGV/SIGBUS on guest memory: -EFAULT */
	CPU_EXIT_INIT,		/* INIT or SIPI taken */
	CPU_EXIT_BUG,		/* vm_bug: the VM is dead */
};

struct cpu_io_piece { uint64_t addr; uint8_t len; bool pio; uint8_t data[8]; };

/*
 * Device traffic of the one instruction that runs alone. Reads are logged, so that the instruction can be executed again from
 * its start when the client has answered; writes are queued at commit and told to the client afterwards, one fragment an exit.
 */
#define CPU_IO_MAX	72
struct cpu_io {
	struct cpu_io_piece done[CPU_IO_MAX];	/* reads answered so far */
	unsigned n_done, pos;			/* pos: consumed by the present execution */
	bool replay;				/* executing again: consume done[] first */
	bool wanted;				/* the read (or port write) that the client must do; in want */
	bool want_out;				/* want is a port write */
	struct cpu_io_piece want;
	uint32_t want_count;			/* REP INS/OUTS: elements; data in bulk */
	struct cpu_io_piece write[CPU_IO_MAX];	/* committed device writes not yet told */
	unsigned n_write, write_pos;
	bool out_done;				/* client did the port write of this instruction: skip it on re-execution */
	uint8_t bulk[4096];			/* REP INS read-ahead / OUTS data */
	uint32_t bulk_len, bulk_pos;
};

/* MSRs without a home elsewhere (EFER lives in acc, APIC in dev, clocks in vm). */
struct cpu_msrs {
	uint64_t star, lstar, cstar, sfmask, kernel_gs_base, sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t pat, tsc_aux, misc_enable, mtrr_def_type, mtrr_fixed[11], mtrr_var[16], debugctl, spec_ctrl;
	uint64_t tsc_adjust, xss, feature_control, arch_capabilities, ucode_rev, platform_info, power_ctl, misc_features, smbase, smi_count, hwcr, de_cfg;
	uint64_t mcg_cap, mcg_status, mcg_ctl, mc_bank[32 * 4];
};

#define CPU_XSAVE_SIZE	4096	/* legacy 512, header 64, AVX 256, PKRU 8; room for what comes */
struct cpu_fpu {
	/* Standard-format XSAVE image; XMM at 160, YMM_Hi128 at 576. x87/MMX live in the host registers while x87_live. */
	_Alignas(64) uint8_t area[CPU_XSAVE_SIZE];
	uint64_t xcr0;
	bool x87_live;
};

/* Guest debugging by the client, KVM_SET_GUEST_DEBUG. */
struct cpu_guest_debug {
	uint32_t control;
	uint64_t dr[8];
	uint32_t exception;	/* filled for CPU_EXIT_DEBUG */
	uint64_t pc, dr6, dr7;
};

/* One row of CPUID as the client set it. */
struct cpu_cpuid { uint32_t function, index, flags, eax, ebx, ecx, edx; };
#define CPU_MAX_CPUID	256

/*
 * What the processor needs from the machine around it; filled by vm/. `c` finds its machine by container_of or c->machine.
 * Every function runs on the vCPU's thread with no lock held.
 */
enum cpu_hypercall { CPU_HC_DONE, CPU_HC_EXIT, CPU_HC_UD };

struct cpu_env {
	/* In-kernel devices first. true: handled. false: nobody here, the client must be asked. */
	bool (*mmio_read)(struct vcpu *c, struct gpa gpa, unsigned len, uint8_t *data);
	bool (*mmio_write)(struct vcpu *c, struct gpa gpa, unsigned len, const uint8_t *data);
	bool (*pio_read)(struct vcpu *c, uint16_t port, unsigned len, uint8_t *data);
	bool (*pio_write)(struct vcpu *c, uint16_t port, unsigned len, const uint8_t *data);
	/* MSRs that the cpu folder does not own (APIC, clocks, PV, filters). 0 done; 1 #GP(0); 2 exit wanted (CPU_EXIT_MSR). */
	int (*rdmsr)(struct vcpu *c, uint32_t index, uint64_t *value);
	int (*wrmsr)(struct vcpu *c, uint32_t index, uint64_t value);
	/* A guest instruction's access to any MSR, before it is judged: 0 go on; 1 #GP(0); 2 exit; 3 the client has done it (reads:
	 * *value). And after it was refused: 1 or 2. NULL, both: nobody filters. */
	int (*msr_first)(struct vcpu *c, uint32_t index, bool write, uint64_t *value);
	int (*msr_refused)(struct vcpu *c, uint32_t index, bool write, uint64_t value);
	uint64_t (*tsc)(struct vcpu *c);
	void (*set_tsc)(struct vcpu *c, uint64_t value);
	uint8_t (*get_cr8)(struct vcpu *c);
	void (*set_cr8)(struct vcpu *c, uint8_t value);
	/* Is something to inject (NMI, INTR...)? Cheap; asked when attention has ACC_ATT_EVENT. ack returns the vector, or -1. */
	bool (*intr_pending)(struct vcpu *c);
	int (*intr_ack)(struct vcpu *c);
	/*
	 * VMCALL / VMMCALL. DONE: RAX was set and the instruction retires. EXIT: CPU_EXIT_HYPERCALL, and the instruction comes again, or
	 * what c->stop and c->exit say. UD: it does not exist.
	 */
	enum cpu_hypercall (*hypercall)(struct vcpu *c, bool is_vmmcall);
	/* Asked every CPU_POLL_INSNS instructions: true, leave with CPU_EXIT_KICKED (immediate_exit). */
	bool (*poll)(struct vcpu *c);
	/* INIT, SIPI, SMI latched: handle; returns an exit or CPU_RUNNING. */
	enum cpu_exit (*latched)(struct vcpu *c);
	/* Called before CPU state that vm derives things from changes: APIC enable in CPUID, OSXSAVE... */
	void (*cpuid_read)(struct vcpu *c, uint32_t function, uint32_t index, uint32_t r[4]);
	/* A breakpoint, #DB or single step that the client debugs: true, it takes it (CPU_EXIT_DEBUG). */
	bool (*debug)(struct vcpu *c, unsigned vector);
};

#define CPU_POLL_INSNS	16384u

struct cpu_stats {
	uint64_t insns, blocks, blocks_decoded, alone, faults, interrupts, exits, slow_accesses, smc_hits, host_insns, jump_misses;
	/* Of translate/: instructions counted by units, handlers called from units, exits to the interpreter, entries that had
	 * to be looked at, units found stale; instructions whose form is not translated, those of them that were called; units made, their instructions, their bytes; links; times all were dropped. */
	uint64_t tr_insns, tr_ones, tr_bails, tr_misses, tr_stale, tr_forms, tr_form_ones, tr_units, tr_unit_insns, tr_code, tr_links, tr_flushes;
};

struct vcpu {
	struct acc_cpu acc;		/* first: TLB, paging state, attention */

	_Alignas(64) uint64_t gpr[CPU_N_GPR];
	uint64_t rip;			/* exact at block boundaries; inside a block see cpu_op_rip() */
	uint16_t cc;			/* arithmetic flags */
	uint32_t cc_recipe;		/* in the 8 bytes of cc; of translated code: what they are made from, 0: cc has them. cpu/translate/flags.c */
	uint32_t eflags;		/* all other flags; bit 1 set */
	uint8_t mode;			/* enum insn_mode, from CS and EFER.LMA */
	bool flat;			/* CS, DS, ES, SS base 0 and limit 4 GiB expand-up, or 64-bit mode */
	bool protected_mode;		/* CR0.PE and not EFLAGS.VM */
	bool v86;
	bool fpu_nm, sse_ud, avx_ud;	/* #NM / #UD due: from CR0, CR4, XCR0; kept by cpu_fpu_gates() */
	uint64_t rip_mask;		/* ~0, 0xffffffff */
	uint32_t block_key;		/* what else a decoded block depends on: mode, flat, real, user; kept by cpu_state_changed() */
	const _Atomic uint64_t *tsc_offset;	/* guest TSC minus host TSC; NULL: that is not all, ask env->tsc */
	uint64_t poll_at;		/* instruction count at which env->poll is asked again */
	uint64_t seg_base[N_SEGS + 1];	/* what an address computation adds; [SEG_FLAT] is 0 */
	/* Of translated code: instructions left until poll_at, the same when it was entered, where to go on in the interpreter. */
	int64_t tr_left, tr_left_was;
	struct tr_site *tr_often;	/* a probe that misses too often; NULL: none */
	uint64_t tr_tmp;		/* a register, while a guess is being corrected */
	uint64_t tr_sti_rip;		/* STI was executed just before this address: its shadow is due if the code is left there */
	uint64_t tr_kept[2];		/* operands of cc_recipe whose registers are needed for something else */
	uint32_t tr_flags;		/* what the flags are made from at this way out; 0: cc has them */
	uint8_t tr_vec;			/* vector registers in the host's: 0 none, 1 XMM, 2 YMM; always 0 outside translated code */
	const struct cpu_op *tr_tail;
	void *tr_tail_fn;
	const struct cpu_op *cur;	/* operation whose memory operand is being touched: for faults of the host */

	enum cpu_exit exit;		/* set by a handler that stops; CPU_RUNNING otherwise */
	bool stop;			/* the block was left before its end: exception, exit or run-alone */
	bool alone_wanted;		/* this instruction must be executed by itself (device, substitute, code page) */
	bool alone;			/* it is being */
	bool single;			/* one handler runs, and what comes after it is looked up again */
	uint8_t shadow;			/* CPU_SHADOW_*: interrupts held off for one instruction */
	bool tr_chains;			/* a handler wanted to go on without the dispatcher, and could not */
	bool halted;
	bool intr_blocked;		/* something waits for IF or for the shadow to pass */
	uint32_t debug_hits;		/* breakpoints met and debug traps held back: cpu/sys/dr.c */

	struct cpu_seg seg[N_SEGS];
	struct cpu_table gdtr, idtr;
	uint64_t dr[4], dr6, dr7;
	struct cpu_msrs msr;
	struct cpu_events ev;
	struct cpu_fpu fpu;
	struct cpu_io io;
	struct cpu_guest_debug dbg;
	struct acc_exit guard_exit;	/* CPU_EXIT_GUARD */
	uint64_t host_fault_gva;	/* of an operand the host's own execution touched ... */
	uintptr_t host_fault_hva;	/* ... or the host address, for accesses of the engine; 0: see the other */
	struct { uint32_t index; uint64_t data; bool write; uint32_t reason; } msr_exit;

	const struct cpu_env *env;
	const struct cpu_exts *exts;	/* rooms asked before system registers change; NULL: none */
	_Atomic uint32_t ext_wants;	/* what else they are asked about: cpu/ext.h */
	bool ext_alone;			/* instructions run alone, and a room is told before and after each */
	bool finish;			/* cpu_run() executes the one instruction that c->io is for, and no event */
	bool ext_again;			/* CPU_EXIT_KICKED only means: begin this instruction again */
	bool ext_no_ask;		/* the pending exception comes from a room */
	const uint8_t *ext_code;	/* INSN_MAX_LEN bytes to execute instead of those at RIP; NULL: none */
	void *machine;			/* vm/'s vCPU object */
	unsigned index;			/* position in the VM */
	struct cpu_cpuid cpuid[CPU_MAX_CPUID];
	unsigned n_cpuid;
	bool features[N_ISA_FEATURES];	/* from cpuid: what the decoder accepts */
	uint64_t cr4_allowed;		/* CR4 bits this CPUID allows */

	struct cpu_cache *cache;	/* decoded blocks: cpu/block.c */
	struct cpu_host *host;		/* stubs of host-executed instructions: cpu/host */
	struct translator *translator;	/* NULL: interpreter only: cpu/translate */
	uint64_t verify_epoch;		/* bumped when the client may have written memory: blocks compare their bytes again */
	struct cpu_ring ring;		/* last events, for the dump of a dead VM */
	struct cpu_stats stats;
	uint32_t n_pauses;		/* PAUSE executed; see interp/misc.c */
};

/* EFLAGS as the architecture shows it, and back (any bit of @value; the caller decides which may change). */
static inline uint32_t cpu_flags_of_cc(uint16_t cc)
{
	return (cc >> 8 & (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF)) | (cc & 1u) << 11;
}
static inline uint16_t cpu_cc_of_flags(uint32_t f)
{
	return (uint16_t)((f & 0xd5) << 8 | 0x0200 | (f >> 11 & 1));
}
static inline uint32_t cpu_eflags(const struct vcpu *c) { return c->eflags | cpu_flags_of_cc(c->cc); }
static inline void cpu_set_eflags(struct vcpu *c, uint32_t f)
{
	c->cc = cpu_cc_of_flags(f);
	c->eflags = (f & ~FLAGS_ARITH) | FLAG_FIXED;
}

/* cpu/state.c: derived state (mode, flat, seg_base, masks, CPL, TLB mode) after CS, EFER, CR0, EFLAGS.VM/AC or any segment changed. */
void cpu_state_changed(struct vcpu *c);
/* Power-on reset, and INIT. */
int cpu_init(struct vcpu *c, struct acc_vm *vm, const struct cpu_env *env, void *machine, unsigned index);
void cpu_fini(struct vcpu *c);
void cpu_reset(struct vcpu *c, bool init);

/*
 * cpu/run.c: run guest code on the calling thread until an exit. Precondition: not inside acc_enter. Events in c->ev are
 * delivered first. On CPU_EXIT_PIO/MMIO reads, the caller appends the answer with cpu_io_answer() and runs again.
 */
enum cpu_exit cpu_run(struct vcpu *c);
void cpu_io_answer(struct vcpu *c, const uint8_t *data);	/* the wanted read */
void cpu_io_out_done(struct vcpu *c);				/* the wanted port write was done */
/* The client may have written guest memory: decoded code is compared before its next use. */
void cpu_memory_touched(struct vcpu *c);

#endif
