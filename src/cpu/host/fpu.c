/* SPDX-License-Identifier: MIT */
/*
 * Where the guest's floating-point state is at any moment, and its way in and out: entry and exit of cpu_run(), the KVM face.
 *
 * States of the x87/MMX part: home (in c->fpu.area, host registers are the client's) or live (c->fpu.x87_live: in the host
 * registers, the area is stale). The first x87 or MMX instruction of a run makes it live; nothing of the engine uses x87.
 */
#include <errno.h>
#include <string.h>

#include "cpu/host/host_private.h"
#include "cpu/translate/translate.h"

static uint32_t stmxcsr(void)
{
	uint32_t v;

	__asm__ volatile("stmxcsr %0" : "=m"(v));
	return v;
}

static void ldmxcsr(uint32_t v)
{
	__asm__ volatile("ldmxcsr %0" : : "m"(v));
}

static void fxsave(struct host_fx *f)
{
	__asm__ volatile("fxsave64 %0" : "=m"(*f));
}

static void fxrstor(const struct host_fx *f)
{
	__asm__ volatile("fxrstor64 %0" : : "m"(*f)
			 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
			   "xmm12", "xmm13", "xmm14", "xmm15");
}

void host_fx_save(struct host_fx *f)
{
	fxsave(f);
}

void host_fx_restore(const struct host_fx *f)
{
	fxrstor(f);
}

uint32_t cpu_mxcsr_mask(void)
{
	static _Atomic uint32_t mask;	/* the same for all threads, whoever is first */
	struct host_fx f;
	uint32_t m = atomic_load_explicit(&mask, memory_order_relaxed);

	if (m)
		return m;
	memset(&f, 0, sizeof(f));
	fxsave(&f);
	m = fx_get32(f.b, FX_MXCSR_MASK);
	m = m ? m : 0xffbf;
	atomic_store_explicit(&mask, m, memory_order_relaxed);
	return m;
}

/* ---- MXCSR ----------------------------------------------------------------------------------------------------------------- */

uint32_t host_mxcsr_get(struct vcpu *c)
{
	struct cpu_host *h = c->host;

	if (h->entered)
		h->mxcsr = (stmxcsr() & ~MXCSR_MASKS) | (h->mxcsr & MXCSR_MASKS);
	return h->mxcsr;
}

void host_mxcsr_set(struct vcpu *c, uint32_t v)
{
	struct cpu_host *h = c->host;

	h->mxcsr = v;
	h->unmasked = (v & MXCSR_MASKS) != MXCSR_MASKS;
	fx_put32(c->fpu.area, FX_MXCSR, v);
	if (h->entered)
		ldmxcsr(v | MXCSR_MASKS);
}

/* ---- x87 ------------------------------------------------------------------------------------------------------------------- */

void host_x87_load(struct vcpu *c)
{
	uint32_t mxcsr = stmxcsr();
	struct host_fx f;

	memcpy(f.b, c->fpu.area, sizeof(f.b));
	fx_put32(f.b, FX_MXCSR, mxcsr);
	/* Until an instruction sets them: one without a memory operand keeps the data pointer, for one. */
	c->host->fip = fx_get64(f.b, FX_FIP);
	c->host->fdp = fx_get64(f.b, FX_FDP);
	c->host->fop = fx_get16(f.b, FX_FOP);
	fxrstor(&f);
	c->fpu.x87_live = true;
}

/* Take the x87 part of @fx into the area. Our own code's address in FIP stands for the instruction that was executed last. */
static void take_x87(struct vcpu *c, const uint8_t *fx)
{
	const struct cpu_host *h = c->host;
	uint8_t *a = c->fpu.area;

	memcpy(a, fx, FX_MXCSR);
	memcpy(a + FX_ST, fx + FX_ST, 128);
	if (host_owns_pc(h, (uintptr_t)fx_get64(fx, FX_FIP)) || tr_owns_pc(c, (uintptr_t)fx_get64(fx, FX_FIP))) {
		fx_put64(a, FX_FIP, h->fip);
		fx_put64(a, FX_FDP, h->fdp);
		fx_put16(a, FX_FOP, h->fop);
	}
}

void cpu_fpu_save(struct vcpu *c)
{
	if (!c->host)
		return;
	fx_put32(c->fpu.area, FX_MXCSR, host_mxcsr_get(c));
	if (c->fpu.x87_live) {
		struct host_fx f;

		fxsave(&f);
		take_x87(c, f.b);
	}
}

/* No x87 exception may stay pending in the host, and its control word is the client's again. */
static void clean_x87(struct vcpu *c)
{
	__asm__ volatile("fninit\n\tfldcw %0" : : "m"(c->host->client_fcw));
	c->fpu.x87_live = false;
}

void host_x87_drop(struct vcpu *c)
{
	cpu_fpu_save(c);
	if (c->fpu.x87_live)
		clean_x87(c);
}

void cpu_fpu_enter(struct vcpu *c)
{
	struct cpu_host *h = c->host;

	h->client_mxcsr = stmxcsr();
	__asm__ volatile("fnstcw %0" : "=m"(h->client_fcw));
	h->entered = true;
	c->fpu.x87_live = false;
	h->mxcsr = fx_get32(c->fpu.area, FX_MXCSR);
	h->unmasked = (h->mxcsr & MXCSR_MASKS) != MXCSR_MASKS;
	/* Most often they are the same, and loading is slow. */
	if ((h->mxcsr | MXCSR_MASKS) != h->client_mxcsr)
		ldmxcsr(h->mxcsr | MXCSR_MASKS);
}

void cpu_fpu_leave(struct vcpu *c)
{
	struct cpu_host *h = c->host;

	if (!h->entered)
		return;
	host_x87_drop(c);
	h->entered = false;
	if ((h->mxcsr | MXCSR_MASKS) != h->client_mxcsr)
		ldmxcsr(h->client_mxcsr);
}

/*
 * Reading MXCSR after it was loaded waits for that, and both are slow: where the client's control bits are the guest's, the status
 * bits, which no caller may rely on, are left as they stand.
 */
void cpu_fpu_lend(struct vcpu *c)
{
	struct cpu_host *h = c->host;

	if (c->fpu.x87_live)
		host_x87_drop(c);
	host_mxcsr_get(c);
	h->entered = false;
	if (((h->mxcsr | MXCSR_MASKS) ^ h->client_mxcsr) & ~MXCSR_FLAGS)
		ldmxcsr(h->client_mxcsr);
}

void cpu_fpu_take_back(struct vcpu *c)
{
	struct cpu_host *h = c->host;

	h->entered = true;
	if ((h->mxcsr | MXCSR_MASKS) != stmxcsr())
		ldmxcsr(h->mxcsr | MXCSR_MASKS);
}

void host_fpu_rescue(struct vcpu *c, const uint8_t *fx)
{
	struct cpu_host *h = c->host;

	if (!h || !h->entered)
		return;
	if (c->fpu.x87_live)
		take_x87(c, fx);
	c->fpu.x87_live = false;
	__asm__ volatile("fldcw %0" : : "m"(h->client_fcw));
	host_mxcsr_set(c, (fx_get32(fx, FX_MXCSR) & ~MXCSR_MASKS) | (h->mxcsr & MXCSR_MASKS));
}

/* ---- reset, gates ------------------------------------------------------------------------------------------------------------ */

void cpu_fpu_reset(struct vcpu *c)
{
	host_x87_drop(c);
	memset(c->fpu.area, 0, sizeof(c->fpu.area));
	fx_put16(c->fpu.area, FX_FCW, FCW_INIT);
	fx_put32(c->fpu.area, FX_MXCSR_MASK, cpu_mxcsr_mask());
	host_mxcsr_set(c, MXCSR_INIT);
	c->fpu.xcr0 = XCR0_X87;
	cpu_fpu_gates(c);
}

/*
 * Source: Intel SDM vol. 3 "x87 FPU and SSE Control Bits of CR0 and CR4"; vol. 2 "Exceptions Type" tables. With CR0.NE clear the
 * manual reports x87 errors by IRQ 13; we raise #MF all the same, as processors under virtualization do.
 */
void cpu_fpu_gates(struct vcpu *c)
{
	uint64_t cr0 = c->acc.cr0, cr4 = c->acc.cr4;
	bool ts = cr0 & CR0_TS, em = cr0 & CR0_EM;
	bool xsave = cr4 & CR4_OSXSAVE;
	uint8_t *g;

	c->fpu_nm = ts || em;
	c->sse_ud = em || !(cr4 & CR4_OSFXSR);
	c->avx_ud = !xsave || (c->fpu.xcr0 & (XCR0_SSE | XCR0_AVX)) != (XCR0_SSE | XCR0_AVX);
	if (!c->host)
		return;
	g = c->host->gate;
	g[GATE_X87] = g[GATE_FXSAVE] = c->fpu_nm ? VEC_NM : 0;
	g[GATE_MMX] = em ? VEC_UD : ts ? VEC_NM : 0;
	g[GATE_SSE] = c->sse_ud ? VEC_UD : ts ? VEC_NM : 0;
	g[GATE_AVX] = c->avx_ud ? VEC_UD : ts ? VEC_NM : 0;
	g[GATE_WAIT] = ts && cr0 & CR0_MP ? VEC_NM : 0;
	g[GATE_XSAVE] = !xsave ? VEC_UD : ts ? VEC_NM : 0;
}

/* ---- XCR0 --------------------------------------------------------------------------------------------------------------------- */

uint64_t cpu_xcr0_supported(const struct vcpu *c)
{
	for (unsigned i = 0; i < c->n_cpuid; i++)
		if (c->cpuid[i].function == 0xd && c->cpuid[i].index == 0)
			return ((uint64_t)c->cpuid[i].edx << 32 | c->cpuid[i].eax) & CPU_XCR0_ALL;
	return XCR0_X87;
}

bool cpu_xcr0_valid(const struct vcpu *c, uint64_t v)
{
	/* x87 is there whatever CPUID says. */
	if (!(v & XCR0_X87) || v & ~(cpu_xcr0_supported(c) | XCR0_X87))
		return false;
	return !(v & XCR0_AVX) || v & XCR0_SSE;
}

/* ---- the KVM face ------------------------------------------------------------------------------------------------------------- */

void cpu_fpu_get(struct vcpu *c, uint8_t image[512])
{
	cpu_fpu_save(c);
	memcpy(image, c->fpu.area, 512);
}

int cpu_fpu_set(struct vcpu *c, const uint8_t image[512])
{
	uint32_t mxcsr = fx_get32(image, FX_MXCSR);

	if (mxcsr & ~cpu_mxcsr_mask())
		return -EINVAL;
	host_x87_drop(c);
	memcpy(c->fpu.area, image, 512);
	fx_put32(c->fpu.area, FX_MXCSR_MASK, cpu_mxcsr_mask());
	host_mxcsr_set(c, mxcsr);
	return 0;
}
