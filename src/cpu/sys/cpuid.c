/* SPDX-License-Identifier: MIT */
/*
 * CPUID: the client's table, the rule for leaves beyond it, the bits that follow the processor's state; and what the table
 * means for the decoder (features) and CR4. Without a table everything the engine knows is there, as on KVM before SET_CPUID2.
 * Source: Intel SDM vol. 2 "CPUID", AMD APM vol. 3 appendix E.
 */
#include "cpu/sys/sys_private.h"

/* Where each decoder feature is reported. */
static const struct feature { uint32_t leaf; uint8_t subleaf, reg, bit; } features[N_ISA_FEATURES] = {
#define F1C(bit) { 1, 0, CPUID_ECX, bit }
#define F1D(bit) { 1, 0, CPUID_EDX, bit }
#define F7B(bit) { 7, 0, CPUID_EBX, bit }
#define F7C(bit) { 7, 0, CPUID_ECX, bit }
#define F7D(bit) { 7, 0, CPUID_EDX, bit }
#define FD1(bit) { 0xd, 1, CPUID_EAX, bit }
#define FXC(bit) { 0x80000001, 0, CPUID_ECX, bit }
#define FXD(bit) { 0x80000001, 0, CPUID_EDX, bit }
	[ISA_FPU] = F1D(0), [ISA_TSC] = F1D(4), [ISA_MSR] = F1D(5), [ISA_CX8] = F1D(8), [ISA_SEP] = F1D(11), [ISA_CMOV] = F1D(15),
	[ISA_CLFSH] = F1D(19), [ISA_MMX] = F1D(23), [ISA_FXSR] = F1D(24), [ISA_SSE] = F1D(25), [ISA_SSE2] = F1D(26),
	[ISA_SSE3] = F1C(0), [ISA_PCLMUL] = F1C(1), [ISA_MONITOR] = F1C(3), [ISA_SSSE3] = F1C(9), [ISA_FMA] = F1C(12),
	[ISA_CX16] = F1C(13), [ISA_SSE41] = F1C(19), [ISA_SSE42] = F1C(20), [ISA_MOVBE] = F1C(22), [ISA_POPCNT] = F1C(23),
	[ISA_AES] = F1C(25), [ISA_XSAVE] = F1C(26), [ISA_AVX] = F1C(28), [ISA_F16C] = F1C(29), [ISA_RDRAND] = F1C(30),
	[ISA_FSGSBASE] = F7B(0), [ISA_SGX] = F7B(2), [ISA_BMI1] = F7B(3), [ISA_AVX2] = F7B(5), [ISA_BMI2] = F7B(8),
	[ISA_INVPCID] = F7B(10), [ISA_RDSEED] = F7B(18), [ISA_ADX] = F7B(19), [ISA_SMAP] = F7B(20), [ISA_CLFLUSHOPT] = F7B(23),
	[ISA_CLWB] = F7B(24), [ISA_SHA] = F7B(29),
	[ISA_UMIP] = F7C(2), [ISA_PKU] = F7C(3), [ISA_GFNI] = F7C(8), [ISA_VAES] = F7C(9), [ISA_VPCLMUL] = F7C(10),
	[ISA_RDPID] = F7C(22), [ISA_MOVDIRI] = F7C(27), [ISA_MOVDIR64B] = F7C(28), [ISA_SERIALIZE] = F7D(14),
	[ISA_XSAVEOPT] = FD1(0), [ISA_XSAVEC] = FD1(1), [ISA_XGETBV1] = FD1(2), [ISA_XSAVES] = FD1(3),
	[ISA_LAHF64] = FXC(0), [ISA_LZCNT] = FXC(5), [ISA_PREFETCHW] = FXC(8), [ISA_SYSCALL] = FXD(11), [ISA_RDTSCP] = FXD(27),
	[ISA_WBNOINVD] = { 0x80000008, 0, CPUID_EBX, 9 },
	[ISA_SNP] = { 0x8000001f, 0, CPUID_EAX, 4 },
};

/* CR4 bits and the CPUID bit each needs; leaf 0: always there. */
static const struct { uint64_t cr4; struct feature need; } cr4_bits[] = {
	{ CR4_VME | CR4_PVI, F1D(1) }, { CR4_TSD, F1D(4) }, { CR4_DE, F1D(2) }, { CR4_PSE, F1D(3) }, { CR4_PAE, F1D(6) },
	{ CR4_MCE, { 0 } }, { CR4_PGE, F1D(13) }, { CR4_PCE, { 0 } }, { CR4_OSFXSR, F1D(24) }, { CR4_OSXMMEXCPT, F1D(25) },
	{ CR4_UMIP, F7C(2) }, { CR4_LA57, F7C(16) }, { CR4_FSGSBASE, F7B(0) }, { CR4_PCIDE, F1C(17) }, { CR4_OSXSAVE, F1C(26) },
	{ CR4_SMEP, F7B(7) }, { CR4_SMAP, F7B(20) }, { CR4_PKE, F7C(3) }, { CR4_PKS, F7C(31) },
};

const struct cpu_cpuid *cpu_cpuid_find(const struct vcpu *c, uint32_t function, uint32_t index)
{
	for (unsigned i = 0; i < c->n_cpuid; i++) {
		const struct cpu_cpuid *r = &c->cpuid[i];

		if (r->function == function && (!(r->flags & 1) || r->index == index))
			return r;
	}
	return NULL;
}

static uint32_t reg_of(const struct cpu_cpuid *r, unsigned reg)
{
	switch (reg) {
	case CPUID_EAX: return r->eax;
	case CPUID_EBX: return r->ebx;
	case CPUID_ECX: return r->ecx;
	default: return r->edx;
	}
}

bool sys_cpuid_bit(const struct vcpu *c, uint32_t function, uint32_t index, unsigned reg, unsigned bit)
{
	const struct cpu_cpuid *r;

	if (!c->n_cpuid)
		return true;
	r = cpu_cpuid_find(c, function, index);
	return r && reg_of(r, reg) >> bit & 1;
}

bool cpu_is_amd(const struct vcpu *c)
{
	const struct cpu_cpuid *r = cpu_cpuid_find(c, 0, 0);

	/* "AuthenticAMD", "HygonGenuine" */
	return r && (r->ebx == 0x68747541 || r->ebx == 0x6f677948);
}

void cpu_cpuid_changed(struct vcpu *c)
{
	const struct cpu_cpuid *r;

	for (unsigned i = 0; i < N_ISA_FEATURES; i++) {
		const struct feature *f = &features[i];

		c->features[i] = !f->leaf || sys_cpuid_bit(c, f->leaf, f->subleaf, f->reg, f->bit);
	}
	/* What no table can switch on: it is not there. */
	c->features[ISA_SGX] = false;
	c->features[ISA_SNP] = false;
	c->features[ISA_MONITOR] = false;
	c->cr4_allowed = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(cr4_bits); i++) {
		const struct feature *f = &cr4_bits[i].need;

		if (!f->leaf || sys_cpuid_bit(c, f->leaf, f->subleaf, f->reg, f->bit))
			c->cr4_allowed |= cr4_bits[i].cr4;
	}
	r = cpu_cpuid_find(c, 0x80000008, 0);
	c->acc.maxphyaddr = 36;
	if (!c->n_cpuid)
		c->acc.maxphyaddr = 46;
	else if (r && (r->eax & 0xff) >= 32 && (r->eax & 0xff) <= 52)
		c->acc.maxphyaddr = (uint8_t)r->eax;
}

/* ---- the instruction ------------------------------------------------------------------------------------------------------------ */

/* Size of an XSAVE area with the components @mask, as leaf 0xD describes them. */
static uint32_t xsave_size(const struct vcpu *c, uint64_t mask, bool compact)
{
	uint32_t size = 576;

	for (unsigned i = 2; i < 63; i++) {
		const struct cpu_cpuid *r = mask >> i & 1 ? cpu_cpuid_find(c, 0xd, i) : NULL;

		if (!r)
			continue;
		if (compact)
			size = (r->ecx & 2 ? (size + 63) & ~63u : size) + r->eax;
		else if (r->ebx + r->eax > size)
			size = r->ebx + r->eax;
	}
	return size;
}

/* Beyond the highest leaf of its class Intel answers with the highest basic leaf. */
static const struct cpu_cpuid *out_of_range(const struct vcpu *c, uint32_t function, uint32_t index)
{
	const struct cpu_cpuid *basic = cpu_cpuid_find(c, 0, 0), *class;

	if (!basic || cpu_is_amd(c))
		return NULL;
	if (function >> 28 == 4)
		class = cpu_cpuid_find(c, function & 0xffffff00, 0);
	else if (function >> 28 == 0xc)
		class = cpu_cpuid_find(c, 0xc0000000, 0);
	else
		class = cpu_cpuid_find(c, function & 0x80000000, 0);
	if (class && function <= class->eax)
		return NULL;
	return cpu_cpuid_find(c, basic->eax, index);
}

static void set_bit(uint32_t *reg, unsigned bit, bool on)
{
	*reg = on ? *reg | BIT(bit) : *reg & ~BIT(bit);
}

static void dynamic_bits(const struct vcpu *c, uint32_t function, uint32_t index, uint32_t r[4])
{
	if (function == 1)
		set_bit(&r[CPUID_ECX], 27, c->acc.cr4 & CR4_OSXSAVE);
	else if (function == 7 && index == 0)
		set_bit(&r[CPUID_ECX], 4, c->acc.cr4 & CR4_PKE);
	else if (function == 0xd && index == 0)
		r[CPUID_EBX] = xsave_size(c, c->fpu.xcr0, false);
	else if (function == 0xd && index == 1 && r[CPUID_EAX] & 0xa)
		r[CPUID_EBX] = xsave_size(c, c->fpu.xcr0 | c->msr.xss, true);
}

void cpu_cpuid_query(struct vcpu *c, uint32_t function, uint32_t index, uint32_t r[4])
{
	const struct cpu_cpuid *row = cpu_cpuid_find(c, function, index);

	r[0] = r[1] = r[2] = r[3] = 0;
	if (!row)
		row = out_of_range(c, function, index);
	if (row) {
		r[CPUID_EAX] = row->eax;
		r[CPUID_EBX] = row->ebx;
		r[CPUID_ECX] = row->ecx;
		r[CPUID_EDX] = row->edx;
		dynamic_bits(c, row->function, index, r);
	} else if (function == 0xb || function == 0x1f) {
		/* A level beyond the last of the topology: its number and the APIC id. */
		row = cpu_cpuid_find(c, function, 1);
		if (row) {
			r[CPUID_ECX] = index & 0xff;
			r[CPUID_EDX] = row->edx;
		}
	}
	c->env->cpuid_read(c, row ? row->function : function, index, r);
}

void sys_cpuid(struct vcpu *c, const struct cpu_op *o)
{
	uint32_t r[4];

	if (unlikely(c->msr.misc_features & 1 && c->acc.cpl)) {
		cpu_raise_error(c, o, VEC_GP, 0);	/* CPUID faulting */
		return;
	}
	sys_begin(c, o);
	cpu_cpuid_query(c, (uint32_t)c->gpr[RAX], (uint32_t)c->gpr[RCX], r);
	if (sys_ext_wants(c, CPU_EXT_CPUID)) {
		struct cpu_ext_insn x = { .kind = CPU_EXT_CPUID, .length = o->len, .a = (uint32_t)c->gpr[RAX], .b = (uint32_t)c->gpr[RCX],
					  .r = { r[CPUID_EAX], r[CPUID_EBX], r[CPUID_ECX], r[CPUID_EDX] } };
		enum cpu_ext_answer a = sys_ext_insn(c, &x);

		if (a == CPU_EXT_DISCARD)
			CPU_NEXT(c, o);
		if (a != CPU_EXT_ALLOW)
			return;
	}
	c->gpr[RAX] = r[CPUID_EAX];
	c->gpr[RBX] = r[CPUID_EBX];
	c->gpr[RCX] = r[CPUID_ECX];
	c->gpr[RDX] = r[CPUID_EDX];
	CPU_NEXT(c, o);
}
