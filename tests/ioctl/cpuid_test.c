/* SPDX-License-Identifier: MIT */
/* Bits of CPUID that follow other state: the guest's CPUID and KVM_GET_CPUID2 have them, whatever the client has set. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "flat.h"

enum reg { A, B, C, D };

static const struct row {
	const char *name;
	uint32_t leaf, subleaf;
	enum reg reg;
	uint32_t mask, want;		/* of the guest's value */
	uint64_t cr4, xcr0;		/* 0: as they are */
	bool no_apic, no_hlt_exits;
} rows[] = {
	{ "OSXSAVE is clear without CR4.OSXSAVE", 1, 0, C, 1u << 27, 0, 0, 0, false, false },
	{ "OSXSAVE follows CR4.OSXSAVE", 1, 0, C, 1u << 27, 1u << 27, 1u << 18, 0, false, false },
	{ "OSPKE is clear without CR4.PKE", 7, 0, C, 1u << 4, 0, 0, 0, false, false },
	{ "OSPKE follows CR4.PKE", 7, 0, C, 1u << 4, 1u << 4, 1u << 22, 0, false, false },
	{ "APIC is set while the LAPIC is on", 1, 0, D, 1u << 9, 1u << 9, 0, 0, false, false },
	{ "APIC is clear while it is off", 1, 0, D, 1u << 9, 0, 0, 0, true, false },
	{ "XSAVE's size is that of x87 and SSE", 0xd, 0, B, ~0u, 576, 1u << 18, 3, false, false },
	{ "XSAVE's size grows with AVX", 0xd, 0, B, ~0u, 832, 1u << 18, 7, false, false },
	{ "PV_UNHALT is there while HLT exits", 0x40000001, 0, A, 1u << 7, 1u << 7, 0, 0, false, false },
	{ "PV_UNHALT is gone where HLT does not exit", 0x40000001, 0, A, 1u << 7, 0, 0, 0, false, true },
};

static uint32_t *pick(struct kvm_cpuid_entry2 *e, enum reg reg)
{
	return reg == A ? &e->eax : reg == B ? &e->ebx : reg == C ? &e->ecx : &e->edx;
}

static struct kvm_cpuid_entry2 *find(struct rig_cpuid *c, uint32_t leaf, uint32_t subleaf)
{
	for (uint32_t i = 0; i < c->nent; i++)
		if (c->e[i].function == leaf && (!(c->e[i].flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || c->e[i].index == subleaf))
			return &c->e[i];
	return NULL;
}

/* What CPUID gives in the guest. */
static void guest_cpuid(struct rig *r, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	uint8_t code[16] = { 0xb8, 0, 0, 0, 0, 0xb9, 0, 0, 0, 0, 0x0f, 0xa2, 0xe6, 0x10 };	/* mov eax, leaf; mov ecx, subleaf; cpuid; out 0x10, al */
	struct kvm_regs regs;

	memcpy(code + 1, &leaf, 4);
	memcpy(code + 6, &subleaf, 4);
	flat_code(r, r->vcpu, code, sizeof(code));
	assert_int_equal(flat_run(r), FLAT_IDLE);
	assert_int_equal(rig_ioctl(r->vcpu, KVM_GET_REGS, &regs), 0);
	out[A] = (uint32_t)regs.rax;
	out[B] = (uint32_t)regs.rbx;
	out[C] = (uint32_t)regs.rcx;
	out[D] = (uint32_t)regs.rdx;
}

static bool is_there(struct rig_cpuid *c, const struct row *row)
{
	struct kvm_cpuid_entry2 *xsave = find(c, 0xd, 0), *seven = find(c, 7, 0);

	if (row->xcr0)
		return xsave && (xsave->eax & row->xcr0) == row->xcr0;
	return row->leaf != 7 || (seven && seven->ecx & 8);
}

static void open_for(struct rig *r, const struct row *row)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_X86_DISABLE_EXITS, .args = { KVM_X86_DISABLE_EXITS_HLT } };

	rig_open(r, RIG_IRQCHIP | RIG_NO_VCPU);
	if (row->no_hlt_exits)
		assert_int_equal(rig_ioctl(r->vm, KVM_ENABLE_CAP, &cap), 0);
	r->vcpu = rig_vcpu(r, 0, &r->run);
}

static void check_row(void **state)
{
	const struct row *row = *state;
	struct rig_cpuid c = { .nent = 100 };
	struct kvm_xcrs xcrs = { .nr_xcrs = 1 };
	struct kvm_cpuid_entry2 *e;
	struct kvm_sregs s;
	uint32_t got[4];
	struct rig r;

	open_for(&r, row);
	assert_int_equal(rig_ioctl(r.sys, KVM_GET_SUPPORTED_CPUID, &c), 0);
	if (!is_there(&c, row)) {
		rig_close(&r);
		skip();
	}
	/* The client sets the opposite; but PV_UNHALT is only ever taken away. */
	e = find(&c, row->leaf, row->subleaf);
	assert_non_null(e);
	if (row->leaf != 0x40000001 || row->no_hlt_exits)
		*pick(e, row->reg) = (*pick(e, row->reg) & ~row->mask) | (row->mask == ~0u ? 77 : row->mask & ~row->want);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_CPUID2, &c), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_SREGS, &s), 0);
	s.cr4 |= row->cr4;
	if (row->no_apic)
		s.apic_base &= ~0x800ull;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_SREGS, &s), 0);
	xcrs.xcrs[0].value = row->xcr0;
	if (row->xcr0)
		assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_XCRS, &xcrs), 0);
	guest_cpuid(&r, row->leaf, row->subleaf, got);
	assert_int_equal(got[row->reg] & row->mask, row->want);
	c.nent = 100;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_CPUID2, &c), 0);
	e = find(&c, row->leaf, row->subleaf);
	assert_non_null(e);
	assert_int_equal(*pick(e, row->reg) & row->mask, row->want);
	rig_close(&r);
}

/* Beyond the last leaf Intel's processors answer with that one's data, AMD's with zeros. */
static void beyond_the_last_leaf(void **state)
{
	static const struct { const char vendor[13]; bool repeats; } vendors[] = { { "GenuineIntel", true }, { "AuthenticAMD", false } };

	for (unsigned i = 0; i < 2; i++) {
		struct rig_cpuid c = { .nent = 3 };
		uint32_t got[4];
		struct rig r;

		flat_open(&r, RIG_IRQCHIP);
		c.e[0] = (struct kvm_cpuid_entry2){ .function = 0, .eax = 2 };
		memcpy(&c.e[0].ebx, vendors[i].vendor, 4);
		memcpy(&c.e[0].edx, vendors[i].vendor + 4, 4);
		memcpy(&c.e[0].ecx, vendors[i].vendor + 8, 4);
		c.e[1] = (struct kvm_cpuid_entry2){ .function = 1 };
		c.e[2] = (struct kvm_cpuid_entry2){ .function = 2, .eax = 0x11, .ebx = 0x22, .ecx = 0x33, .edx = 0x44 };
		assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_CPUID2, &c), 0);
		guest_cpuid(&r, 9, 0, got);
		for (unsigned k = 0; k < 4; k++)
			assert_int_equal(got[k], vendors[i].repeats ? 0x11 * (k + 1) : 0);
		rig_close(&r);
	}
}

int main(void)
{
	enum { N = sizeof(rows) / sizeof(rows[0]) };
	struct CMUnitTest tests[N + 1] = { { "a leaf that is not there is the last one, or zeros, by vendor", beyond_the_last_leaf } };

	for (unsigned i = 0; i < N; i++)
		tests[i + 1] = (struct CMUnitTest){ .name = rows[i].name, .test_func = check_row, .initial_state = (void *)(uintptr_t)&rows[i] };
	return cmocka_run_group_tests_name("CPUID", tests, NULL, NULL);
}
