/* SPDX-License-Identifier: MIT */
/*
 * The guest's x87, SSE and AVX state: what the run loop, control registers and the KVM face call.
 *
 * Home of XMM, YMM and of everything while the vCPU does not run: c->fpu.area, a standard-format XSAVE image whose FIP and FDP
 * are 64-bit. During cpu_run() the guest's MXCSR is live in the host (with all exceptions masked, so that engine code cannot
 * trap), and x87/MMX may be (c->fpu.x87_live). PKRU lives in c->acc.pkru; its bytes in the area are filled on export only.
 */
#ifndef GW_CPU_HOST_FPU_H
#define GW_CPU_HOST_FPU_H

#include "cpu/vcpu.h"

/* State components, as in XCR0. */
#define XCR0_X87	0x001ull
#define XCR0_SSE	0x002ull
#define XCR0_AVX	0x004ull
#define XCR0_PKRU	0x200ull
#define CPU_XCR0_ALL	(XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_PKRU)

/* Standard-format layout; CPUID leaf 0Dh must say the same. */
#define CPU_XSAVE_HEADER	512
#define CPU_XSAVE_AVX		576
#define CPU_XSAVE_AVX_SIZE	256
#define CPU_XSAVE_PKRU		2688
#define CPU_XSAVE_PKRU_SIZE	8

/* Buffer of stubs and the rest of struct cpu_host. 0 or -ENOMEM; nothing to free on error. */
int cpu_host_new(struct vcpu *c);
void cpu_host_free(struct vcpu *c);

/*
 * Code written through another address than it is fetched from must not be executed before a serializing instruction: this is one.
 * IRET is available everywhere and not intercepted by hypervisors. Source: Intel SDM vol. 3 "Handling Self- and Cross-Modifying
 * Code".
 */
void host_serialize(void);

/* Power-on state: FCW 37Fh, MXCSR 1F80h, everything else zero, XCR0 = x87. INIT leaves the FPU alone. */
void cpu_fpu_reset(struct vcpu *c);

/* Recompute which instructions are #UD or #NM; after CR0, CR4 or XCR0 changed. Cheap. */
void cpu_fpu_gates(struct vcpu *c);

/* Around cpu_run(): put the guest's MXCSR in the host and the client's away; and back, x87 state saved to the area. */
void cpu_fpu_enter(struct vcpu *c);
void cpu_fpu_leave(struct vcpu *c);
/* In between, around foreign code on this thread: it finds the client's control bits, and the guest's state survives it. */
void cpu_fpu_lend(struct vcpu *c);
void cpu_fpu_take_back(struct vcpu *c);
/* Bring the area up to date; the live state stays live. For everyone who looks at c->fpu.area. */
void cpu_fpu_save(struct vcpu *c);

/* Is @v a value XSETBV (or KVM_SET_XCRS) may store, given this vCPU's CPUID leaf 0Dh? */
bool cpu_xcr0_valid(const struct vcpu *c, uint64_t v);
/* The components CPUID leaf 0Dh offers; with no such leaf x87 alone. */
uint64_t cpu_xcr0_supported(const struct vcpu *c);

/* KVM_GET_FPU and KVM_SET_FPU: the 512-byte FXSAVE64 image. Set: -EINVAL on reserved MXCSR bits, nothing changed. */
void cpu_fpu_get(struct vcpu *c, uint8_t image[512]);
int cpu_fpu_set(struct vcpu *c, const uint8_t image[512]);
/*
 * KVM_GET_XSAVE and KVM_SET_XSAVE: standard format, @size bytes (at least 576; what does not fit is left out, or taken as
 * initial). Set: -EINVAL on XSTATE_BV beyond what CPUID offers, a compacted image, or reserved MXCSR bits.
 */
void cpu_xsave_get(struct vcpu *c, void *image, size_t size);
int cpu_xsave_set(struct vcpu *c, const void *image, size_t size);
/* MXCSR bits that exist here. */
uint32_t cpu_mxcsr_mask(void);

#endif
