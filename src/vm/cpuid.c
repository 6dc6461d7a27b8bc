/* SPDX-License-Identifier: MIT */
/*
 * CPUID: what we offer (the host's leaves and what the engine executes, row by row), the table the client sets, and the bits
 * that change at run time.
 *
 * Vendor, family and model are the host's: clients mix our table with the CPUID instruction they execute themselves. A bit is
 * offered only if the engine has the feature; bits in `set` are offered whatever the host has, because we emulate them.
 */
#include <cpuid.h>
#include <errno.h>
#include <string.h>

#include "cpu/host/fpu.h"
#include "cpu/sys/sys.h"
#include "vm/vm.h"

enum { EAX, EBX, ECX, EDX };

#define BASIC_MAX	0x16u	/* nothing above is built */
#define ANY		0xffffffffu

/* Bits by number, to keep the rows readable. */
#define B(n) BIT(n)

/* 1.ECX: SSE3 PCLMUL SSSE3 FMA CX16 PCID SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE AVX F16C RDRAND */
#define LEAF1_ECX (B(0) | B(1) | B(9) | B(12) | B(13) | B(17) | B(19) | B(20) | B(22) | B(23) | B(25) | B(26) | B(28) | B(29) | B(30))
/*
 * x2APIC HYPERVISOR. Not TSC-deadline, though it is built: as KVM's api document has it, clients learn of it by
 * KVM_CAP_TSC_DEADLINE_TIMER and set the bit where the LAPIC is in the kernel. QEMU 7.2 would give it to guests of its own LAPIC,
 * which cannot do it.
 */
#define LEAF1_ECX_SET (B(21) | B(31))
/* FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFLUSH MMX FXSR SSE SSE2 SS */
#define LEAF1_EDX 0x0f8bfbffu
/* FSGSBASE BMI1 AVX2 FDP_EXCPTN_ONLY SMEP BMI2 ERMS INVPCID ZERO_FCS_FDS RDSEED ADX SMAP CLFLUSHOPT CLWB SHA */
#define LEAF7_EBX (B(0) | B(3) | B(5) | B(6) | B(7) | B(8) | B(9) | B(10) | B(13) | B(18) | B(19) | B(20) | B(23) | B(24) | B(29))
/* TSC_ADJUST */
#define LEAF7_EBX_SET B(1)
/* UMIP PKU GFNI VAES VPCLMUL LA57 RDPID MOVDIRI MOVDIR64B */
#define LEAF7_ECX (B(2) | B(3) | B(8) | B(9) | B(10) | B(16) | B(22) | B(27) | B(28))
/* PKS: ours in any case, the walk is in software */
#define LEAF7_ECX_SET B(31)
/* FSRM MD_CLEAR SERIALIZE SPEC_CTRL STIBP L1D_FLUSH SSBD */
#define LEAF7_EDX (B(4) | B(10) | B(14) | B(26) | B(27) | B(28) | B(31))
#define LEAF7_EDX_SET B(29)	/* ARCH_CAPABILITIES */
/* LAHF LZCNT 3DNOWPREFETCH; on AMD also CR8 in legacy modes */
#define EXT1_ECX (B(0) | B(4) | B(5) | B(8))
/* SYSCALL NX FFXSR PDPE1GB RDTSCP LM, and AMD's copy of leaf 1 */
#define EXT1_EDX (B(11) | B(20) | B(26) | B(27) | B(29) | 0x0183f3ffu)

/* KVM features that are built: CLOCKSOURCE NOP_IO_DELAY CLOCKSOURCE2 ASYNC_PF STEAL_TIME PV_EOI PV_UNHALT PV_TLB_FLUSH
 * ASYNC_PF_VMEXIT PV_SEND_IPI POLL_CONTROL SCHED_YIELD ASYNC_PF_INT STABLE */
#define PV_FEATURES (B(0) | B(1) | B(3) | B(4) | B(5) | B(6) | B(7) | B(9) | B(10) | B(11) | B(12) | B(13) | B(14) | B(24))

static const struct row {
	uint32_t function, index;
	uint32_t mask[4];	/* of the host's values */
	uint32_t set[4];
} rows[] = {
	{ 1, 0, { ANY, 0x0000ff00, LEAF1_ECX, LEAF1_EDX }, { 0, 0, LEAF1_ECX_SET, B(9) } },
	{ 2, 0, { ANY, ANY, ANY, ANY }, { 0 } },
	{ 6, 0, { 0 }, { B(2) } },
	{ 7, 0, { 0, LEAF7_EBX, LEAF7_ECX, LEAF7_EDX }, { 0, LEAF7_EBX_SET, LEAF7_ECX_SET, LEAF7_EDX_SET } },
	{ 7, 1, { B(10) | B(11) | B(12) }, { 0 } },		/* fast short strings */
	{ 7, 2, { 0 }, { 0, 0, 0, B(4) } },			/* BHI_CTRL: kernels then skip their loop at each system call */
	{ 0x80000001, 0, { ANY, 0, EXT1_ECX, EXT1_EDX }, { 0 } },
	{ 0x80000002, 0, { ANY, ANY, ANY, ANY }, { 0 } },
	{ 0x80000003, 0, { ANY, ANY, ANY, ANY }, { 0 } },
	{ 0x80000004, 0, { ANY, ANY, ANY, ANY }, { 0 } },
	{ 0x80000005, 0, { ANY, ANY, ANY, ANY }, { 0 } },
	{ 0x80000006, 0, { ANY, ANY, ANY, ANY }, { 0 } },
	{ 0x80000007, 0, { 0 }, { 0, 0, 0, B(8) } },		/* invariant TSC */
	/* LFENCE serialises, null selector clears base; automatic IBRS needs the host's word for nothing: no speculation of ours. */
	{ 0x80000021, 0, { 0 }, { B(2) | B(6) } },
};

bool vm_host_is_amd(void)
{
	unsigned a, b, c, d;

	__cpuid(0, a, b, c, d);
	return (b == 0x68747541 && d == 0x69746e65 && c == 0x444d4163) || b == 0x6f677948 /* Hygon */;
}

static void host(uint32_t function, uint32_t index, uint32_t r[4])
{
	__cpuid_count(function, index, r[EAX], r[EBX], r[ECX], r[EDX]);
}

static uint32_t host_max(uint32_t base)
{
	uint32_t r[4];

	host(base, 0, r);
	return r[EAX] >= base && r[EAX] < base + 0x1000 ? r[EAX] : base;
}

static uint32_t limit(uint32_t base)
{
	uint32_t max = host_max(base), ours = base ? vm_host_is_amd() ? 0x80000021u : 0x80000008u : BASIC_MAX;

	return max < ours ? max : ours;
}

/* What a row leaves of the host's leaf; nothing without a row. */
static void masked(uint32_t function, uint32_t index, uint32_t r[4])
{
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct row *x = &rows[i];

		if (x->function != function || x->index != index)
			continue;
		host(function, index, r);
		for (unsigned k = 0; k < 4; k++)
			r[k] = (r[k] & x->mask[k]) | x->set[k];
		return;
	}
	memset(r, 0, 16);
}

uint64_t vm_supported_xcr0(void)
{
	uint32_t one[4], seven[4], d[4];
	uint64_t have;

	masked(1, 0, one);
	if (!(one[ECX] & B(26)))
		return 0;
	masked(7, 0, seven);
	host(0xd, 0, d);
	have = (d[EAX] | (uint64_t)d[EDX] << 32) & CPU_XCR0_ALL;
	if (!(one[ECX] & B(28)))
		have &= ~XCR0_AVX;
	if (seven[ECX] & B(3))
		have |= XCR0_PKRU;
	else
		have &= ~XCR0_PKRU;
	return have;
}

/* ---- building the list ------------------------------------------------------------------------------------------------- */

struct list { struct kvm_cpuid_entry2 *e; unsigned n, max; };

static void add(struct list *l, uint32_t function, uint32_t index, bool has_index, const uint32_t r[4])
{
	if (l->n < l->max)
		l->e[l->n] = (struct kvm_cpuid_entry2){
			.function = function, .index = index, .flags = has_index ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
			.eax = r[EAX], .ebx = r[EBX], .ecx = r[ECX], .edx = r[EDX],
		};
	l->n++;
}

/* Cache and TLB descriptions are the host's, up to the first empty sub-leaf. */
static void add_caches(struct list *l, uint32_t function)
{
	for (uint32_t i = 0; i < 8; i++) {
		uint32_t r[4];

		host(function, i, r);
		add(l, function, i, true, r);
		if (!(r[EAX] & 0x1f))
			break;
	}
}

/* The client fills topology in; only the APIC id of where we run is told, as KVM does. */
static void add_topology(struct list *l, uint32_t function)
{
	uint32_t r[4];

	host(function, 0, r);
	r[EAX] = r[EBX] = r[ECX] = 0;
	add(l, function, 0, true, r);
}

static void add_xsave(struct list *l)
{
	uint64_t xcr0 = vm_supported_xcr0();
	uint32_t size = xcr0 & XCR0_PKRU ? CPU_XSAVE_PKRU + CPU_XSAVE_PKRU_SIZE :
			xcr0 & XCR0_AVX ? CPU_XSAVE_AVX + CPU_XSAVE_AVX_SIZE : CPU_XSAVE_AVX;
	uint32_t compact = CPU_XSAVE_AVX + (xcr0 & XCR0_AVX ? CPU_XSAVE_AVX_SIZE : 0) + (xcr0 & XCR0_PKRU ? CPU_XSAVE_PKRU_SIZE : 0);
	uint32_t h[4];

	if (!xcr0) {
		add(l, 0xd, 0, true, (uint32_t[4]){ 0 });
		return;
	}
	host(0xd, 1, h);
	add(l, 0xd, 0, true, (uint32_t[4]){ (uint32_t)xcr0, size, size, 0 });
	/* XSAVEOPT, XSAVEC, XGETBV with ECX = 1 */
	add(l, 0xd, 1, true, (uint32_t[4]){ h[EAX] & 7, h[EAX] & B(1) ? compact : 0, 0, 0 });
	if (xcr0 & XCR0_AVX)
		add(l, 0xd, 2, true, (uint32_t[4]){ CPU_XSAVE_AVX_SIZE, CPU_XSAVE_AVX, 0, 0 });
	if (xcr0 & XCR0_PKRU)
		add(l, 0xd, 9, true, (uint32_t[4]){ CPU_XSAVE_PKRU_SIZE, CPU_XSAVE_PKRU, 0, 0 });
}

static void add_basic(struct list *l, uint32_t function)
{
	uint32_t r[4];

	switch (function) {
	case 0:
		host(0, 0, r);
		r[EAX] = limit(0);
		add(l, 0, 0, false, r);
		return;
	case 4:
		if (vm_host_is_amd())
			break;
		add_caches(l, 4);
		return;
	case 7:
		masked(7, 0, r);
		r[EAX] = 2;
		add(l, 7, 0, true, r);
		masked(7, 1, r);
		add(l, 7, 1, true, r);
		masked(7, 2, r);
		add(l, 7, 2, true, r);
		return;
	case 0xb:
		add_topology(l, function);
		return;
	case 0xd:
		add_xsave(l);
		return;
	}
	masked(function, 0, r);
	add(l, function, 0, false, r);
}

static void add_extended(struct list *l, uint32_t function)
{
	uint32_t r[4], one[4];

	switch (function) {
	case 0x80000000:
		host(function, 0, r);
		r[EAX] = limit(0x80000000);
		if (!vm_host_is_amd())
			r[EBX] = r[ECX] = r[EDX] = 0;
		break;
	case 0x80000001:
		masked(function, 0, r);
		if (!vm_host_is_amd())
			r[EDX] &= ~0x0183f3ffu;
		break;
	case 0x80000008:
		host(function, 0, r);
		masked(7, 0, one);
		/* physical bits; linear bits; guest-physical bits: what a client may hand out, all of them here. */
		r[EAX] = (r[EAX] & 0xff) | (one[ECX] & B(16) ? 57u : 48u) << 8 | (r[EAX] & 0xff) << 16;
		r[EBX] = r[ECX] = r[EDX] = 0;
		break;
	case 0x8000001d:
		add_caches(l, function);
		return;
	default:
		masked(function, 0, r);
	}
	add(l, function, 0, false, r);
}

unsigned vm_cpuid_supported(struct kvm_cpuid_entry2 *e, unsigned max)
{
	struct list l = { .e = e, .max = max };
	static const char signature[12] = "KVMKVMKVM\0\0\0";
	uint32_t r[4] = { 0x40000001 };

	for (uint32_t f = 0; f <= limit(0); f++)
		add_basic(&l, f);
	for (uint32_t f = 0x80000000; f <= limit(0x80000000); f++)
		add_extended(&l, f);
	memcpy(&r[1], signature, sizeof(signature));
	add(&l, 0x40000000, 0, false, r);
	add(&l, 0x40000001, 0, false, (uint32_t[4]){ PV_FEATURES, 0, 0, 0 });
	return l.n;
}

/* What guests may be told beyond that: the engine has these whatever the host has. As KVM's list, without sub-leaves or a top. */
unsigned vm_cpuid_emulated(struct kvm_cpuid_entry2 *e, unsigned max)
{
	struct list l = { .e = e, .max = max };

	add(&l, 0, 0, false, (uint32_t[4]){ 7 });
	add(&l, 1, 0, false, (uint32_t[4]){ [ECX] = B(22) });		/* MOVBE */
	add(&l, 7, 0, true, (uint32_t[4]){ [ECX] = B(22) });		/* RDPID */
	return l.n;
}

/* ---- the vCPU's table --------------------------------------------------------------------------------------------------- */

const struct cpu_cpuid *vm_cpuid_find(const struct vcpu *c, uint32_t function, uint32_t index)
{
	return cpu_cpuid_find(c, function, index);
}

bool vm_cpuid_has(const struct vcpu *c, uint32_t function, unsigned reg, unsigned bit)
{
	const struct cpu_cpuid *r = cpu_cpuid_find(c, function, 0);
	const uint32_t *regs;

	if (!r)
		return false;
	regs = &r->eax;
	return regs[reg] >> bit & 1;
}

_Static_assert(offsetof(struct cpu_cpuid, edx) == offsetof(struct cpu_cpuid, eax) + 12, "registers in order");

static void tell_others(struct vm_vcpu *v)
{
	struct vcpu *c = &v->c;
	const struct cpu_cpuid *pv = cpu_cpuid_find(c, 0x40000001, 0);
	struct dev_lapic_features f = {
		.has_x2apic = vm_cpuid_has(c, 1, ECX, 21),
		.has_tsc_deadline = vm_cpuid_has(c, 1, ECX, 24),
		.maxphyaddr = c->acc.maxphyaddr,
	};

	cpu_cpuid_changed(c);
	f.maxphyaddr = c->acc.maxphyaddr;
	f.has_smm = vm_has_smm(v->vm);
	v->pv_features = pv ? pv->eax : 0;
	if (v->lapic)
		dev_lapic_set_features(v->lapic, &f);
	cpu_fpu_gates(c);
}

static void store(struct vcpu *c, const struct kvm_cpuid_entry2 *e, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		c->cpuid[i] = (struct cpu_cpuid){ e[i].function, e[i].index, e[i].flags, e[i].eax, e[i].ebx, e[i].ecx, e[i].edx };
	c->n_cpuid = n;
}

/* Is the new row what the client set, or what it sees now (with the bits that change)? */
static bool same_row(struct vcpu *c, unsigned i, const struct kvm_cpuid_entry2 *e)
{
	const struct cpu_cpuid *o = &c->cpuid[i];
	uint32_t now[4];

	if (o->function != e->function || o->index != e->index || o->flags != e->flags)
		return false;
	if (o->eax == e->eax && o->ebx == e->ebx && o->ecx == e->ecx && o->edx == e->edx)
		return true;
	cpu_cpuid_query(c, o->function, o->index, now);
	return now[EAX] == e->eax && now[EBX] == e->ebx && now[ECX] == e->ecx && now[EDX] == e->edx;
}

static int check_same(struct vcpu *c, const struct kvm_cpuid_entry2 *e, unsigned n)
{
	if (n != c->n_cpuid)
		return -EINVAL;
	for (unsigned i = 0; i < n; i++)
		if (!same_row(c, i, &e[i]))
			return -EINVAL;
	return 0;
}

int vm_cpuid_set(struct vm_vcpu *v, const struct kvm_cpuid_entry2 *e, unsigned n)
{
	if (n > CPU_MAX_CPUID)
		return -E2BIG;
	if (v->has_run)
		return check_same(&v->c, e, n);
	for (unsigned i = 0; i < n; i++) {
		unsigned bits = e[i].eax >> 8 & 0xff;

		if (e[i].function == 0x80000008 && bits && bits != 48 && bits != 57)
			return -EINVAL;
	}
	store(&v->c, e, n);
	v->has_cpuid = true;
	tell_others(v);
	return 0;
}

/* Before the client says anything, the processor is everything that is built, and CPUID answers nothing. */
void vm_cpuid_default_features(struct vm_vcpu *v)
{
	cpu_cpuid_changed(&v->c);
	cpu_fpu_gates(&v->c);
}

void vm_cpuid_read(struct vcpu *c, uint32_t function, uint32_t index, uint32_t r[4])
{
	struct vm_vcpu *v = vm_vcpu_of(c);

	switch (function) {
	case 1:
		if (vm_get_apic_base(v) & DEV_APIC_BASE_ENABLE)
			r[EDX] |= B(9);
		else
			r[EDX] &= ~B(9);
		break;
	case 0x40000001:
		if (v->vm->disabled_exits & KVM_X86_DISABLE_EXITS_HLT)
			r[EAX] &= ~B(7);
		break;
	}
}
