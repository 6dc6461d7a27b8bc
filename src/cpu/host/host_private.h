/* SPDX-License-Identifier: MIT */
/*
 * Inside cpu/host: the per-vCPU buffer of stubs, and what the files share.
 *
 * A stub executes one guest instruction on the guest's operands. It is called as a C function with the vCPU and the host address of
 * the memory operand; it loads the operands from struct vcpu, executes the same opcode, stores what was written, and returns
 * 0. It keeps nothing on the stack, so that a fault in it is answered by returning from it with the trap number instead
 * (signal.c); nothing has been stored then.
 */
#ifndef GW_CPU_HOST_PRIVATE_H
#define GW_CPU_HOST_PRIVATE_H

#include "cpu/host/fpu.h"
#include "cpu/op.h"

/* Returns 0, or the number of the trap that the instruction raised. */
typedef unsigned host_stub(struct vcpu *c, void *mem);

/*
 * Key of a stub: the bytes of the instruction in 64-bit form with its memory operand replaced by [rsi], little-endian, zero-padded. At most
 * eight: a mandatory prefix, REX, three opcode bytes, ModRM, imm8. 0 is never a key: no instruction of ours starts with it.
 */
struct host_slot {
	uint64_t key;
	host_stub *fn;
};

#define HOST_SLOTS	4096u		/* power of two */
#define HOST_SLOTS_USED	3072u		/* evict beyond: probing stays short */
#define HOST_CODE_SIZE	(512u << 10)
#define HOST_STUB_MAX	320u

/* What decides whether an instruction may run; the value of gate[] is the vector to raise, 0 for none. */
enum host_gate { GATE_NONE, GATE_X87, GATE_MMX, GATE_SSE, GATE_AVX, GATE_WAIT, GATE_FXSAVE, GATE_XSAVE, N_GATES };

struct cpu_host {
	uint8_t gate[N_GATES];
	bool entered;		/* between cpu_fpu_enter and _leave: MXCSR is live */
	bool unmasked;		/* the guest unmasked a SIMD exception */
	uint32_t mxcsr;		/* guest's; its exception masks always, its status flags only while not entered */
	uint32_t client_mxcsr;
	uint16_t client_fcw;
	/* Last x87 instruction that records pointers. The host's FIP then points into our buffer and is never shown. */
	uint64_t fip, fdp;
	uint16_t fop;
	/* One memory file mapped twice: written through rw, executed through rx. Never both in one mapping. */
	uint8_t *rw, *rx;
	uint32_t used, n_slots;
	uint8_t *fault_return;	/* in rx: what a faulting stub is made to return through */
	uint64_t evictions;
	struct host_slot slot[HOST_SLOTS];
};

/* cpu_op.aux of stub operations: gate, and */
#define AUX_GATE	0x07u
#define AUX_MXCSR	0x08u	/* may raise SIMD exceptions */
#define AUX_POINTERS	0x10u	/* x87, records FIP, FDP, FOP */
#define AUX_WAITS	0x40u	/* x87 or MMX: raises what is pending before anything else */
#define AUX_NOWAIT	0x20u	/* x87 control instruction that stores whatever is pending */

/* stub.c: the stub of o->imm (a key). Never fails for a key that host_key() made. */
const struct host_slot *host_slot_get(struct cpu_host *h, uint64_t key);
static inline bool host_owns_pc(const struct cpu_host *h, uintptr_t pc)
{
	return pc - (uintptr_t)h->rx < HOST_CODE_SIZE;
}

/* emit.c */
uint64_t host_key(const struct insn *in);
unsigned host_emit(uint64_t key, uint8_t buf[HOST_STUB_MAX]);
unsigned host_emit_fault_return(uint8_t *buf);
bool host_has_avx(void);

/* lower.c: run the operation's stub over @mem. False: it raised something (noted). */
bool host_exec(struct vcpu *c, const struct cpu_op *o, void *mem);
/* The operation's gate is open, else #UD or #NM was raised. */
static inline bool host_gate_open(struct vcpu *c, const struct cpu_op *o)
{
	unsigned vector = c->host->gate[o->aux & AUX_GATE];

	if (unlikely(vector)) {
		cpu_raise(c, o, vector);
		return false;
	}
	return true;
}
void host_set_stub(struct vcpu *c, const struct insn *in, struct cpu_op *o);

/* fpu.c */
void host_x87_load(struct vcpu *c);
/* Put the x87 state into the area and take it out of the host: the area may then be changed. */
void host_x87_drop(struct vcpu *c);
/* The live state as it is, to go back to. XMM registers are clobbered by restore. */
struct host_fx { _Alignas(16) uint8_t b[512]; };
void host_fx_save(struct host_fx *f);
void host_fx_restore(const struct host_fx *f);
uint32_t host_mxcsr_get(struct vcpu *c);
void host_mxcsr_set(struct vcpu *c, uint32_t v);
/* After a signal took the live registers away: @fx is the FXSAVE image of the moment of the fault. */
void host_fpu_rescue(struct vcpu *c, const uint8_t *fx);

/* Families of C handlers: false, not mine. */
bool host_lower_env(const struct insn *in, struct cpu_op *o);
bool host_lower_xsave(const struct insn *in, struct cpu_op *o);
bool host_lower_multi(struct vcpu *c, const struct insn *in, struct cpu_op *o);
bool host_lower_misc(const struct insn *in, struct cpu_op *o);

#define FX_XMM		160
#define XMM_OF(n)	(FX_XMM + 16 * (n))
#define YMM_OF(n)	(CPU_XSAVE_AVX + 16 * (n))

/* Fields of the legacy region. memcpy: the area is bytes. */
static inline uint16_t fx_get16(const uint8_t *p, unsigned off) { uint16_t v; __builtin_memcpy(&v, p + off, 2); return v; }
static inline uint32_t fx_get32(const uint8_t *p, unsigned off) { uint32_t v; __builtin_memcpy(&v, p + off, 4); return v; }
static inline uint64_t fx_get64(const uint8_t *p, unsigned off) { uint64_t v; __builtin_memcpy(&v, p + off, 8); return v; }
static inline void fx_put16(uint8_t *p, unsigned off, uint16_t v) { __builtin_memcpy(p + off, &v, 2); }
static inline void fx_put32(uint8_t *p, unsigned off, uint32_t v) { __builtin_memcpy(p + off, &v, 4); }
static inline void fx_put64(uint8_t *p, unsigned off, uint64_t v) { __builtin_memcpy(p + off, &v, 8); }
#define FX_FCW		0
#define FX_FSW		2
#define FX_FTW		4
#define FX_FOP		6
#define FX_FIP		8
#define FX_FDP		16
#define FX_MXCSR	24
#define FX_MXCSR_MASK	28
#define FX_ST		32
#define MXCSR_INIT	0x1f80u
#define MXCSR_MASKS	0x1f80u
#define MXCSR_FLAGS	0x003fu	/* status, sticky */
#define FCW_INIT	0x037fu
#define FSW_ES		0x0080u
#define FSW_B		0x8000u

#endif
