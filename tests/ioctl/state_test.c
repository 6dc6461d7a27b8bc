/* SPDX-License-Identifier: MIT */
/* State that goes in comes out: round trips of every GET and SET pair, and SET_SREGS judged as a unit. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "rig.h"

static uint8_t byte(unsigned i)
{
	return (uint8_t)(i * 37 + 11);
}

static void fill(void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((uint8_t *)p)[i] = byte((unsigned)i);
}

static void regs(void **state)
{
	struct kvm_regs in, out;
	struct rig r;

	rig_open(&r, 0);
	fill(&in, sizeof(in));
	in.rflags = 0x3ff;	/* bits 3 and 5 do not exist, bit 1 always does */
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_REGS, &in), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_REGS, &out), 0);
	in.rflags = 0x3d7;
	assert_memory_equal(&in, &out, sizeof(in));
	rig_close(&r);
}

static void reset_state(void **state)
{
	struct kvm_sregs s;
	struct kvm_regs g;
	struct kvm_debugregs d;
	struct rig r;

	rig_open(&r, RIG_IRQCHIP | RIG_CPUID);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_SREGS, &s), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_REGS, &g), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_DEBUGREGS, &d), 0);
	assert_int_equal(g.rip, 0xfff0);
	assert_int_equal(g.rflags, 2);
	assert_int_equal(s.cs.selector, 0xf000);
	assert_int_equal(s.cs.base, 0xffff0000);
	assert_int_equal(s.cr0, 0x60000010);
	assert_int_equal(s.apic_base, 0xfee00900);
	assert_int_equal(s.idt.limit, 0xffff);
	assert_int_equal(d.dr6, 0xffff0ff0);
	assert_int_equal(d.dr7, 0x400);
	rig_close(&r);
}

/* 64-bit mode, every field its own value. */
static struct kvm_sregs long_mode(void)
{
	struct kvm_sregs s = {
		.cs = { .base = 0, .limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 },
		.ds = { .base = 0x1000, .limit = 0x12345fff, .selector = 0x10, .type = 3, .present = 1, .s = 1, .g = 1, .db = 1, .avl = 1 },
		.tr = { .base = 0xffff800000001000ull, .limit = 0x67, .selector = 0x40, .type = 11, .present = 1 },
		.ldt = { .unusable = 1 },
		.gdt = { .base = 0xffff800000002000ull, .limit = 0x7f }, .idt = { .base = 0x3000, .limit = 0xfff },
		.cr0 = 0x80050033, .cr2 = 0xdead0000, .cr3 = 0x5000, .cr4 = 0x6a0, .cr8 = 5, .efer = 0xd01, .apic_base = 0xfee00900,
	};

	s.es = s.fs = s.gs = s.ss = s.ds;
	s.fs.base = 0x7fff12345678ull;
	s.interrupt_bitmap[1] = 1ull << 5;
	return s;
}

static void sregs(void **state)
{
	struct kvm_sregs in = long_mode(), out;
	struct kvm_sregs2 two;
	struct rig r;

	rig_open(&r, RIG_IRQCHIP | RIG_CPUID);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_SREGS, &in), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_SREGS, &out), 0);
	assert_memory_equal(&in, &out, sizeof(in));
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_SREGS2, &two), 0);
	assert_int_equal(two.cr3, in.cr3);
	assert_int_equal(two.flags, 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_SREGS2, &two), 0);
	rig_close(&r);
}

static void pdptrs(void **state)
{
	struct kvm_sregs2 s, out;
	struct rig r;

	rig_open(&r, RIG_CPUID);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_SREGS2, &s), 0);
	s.cr0 |= 0x80000001;
	s.cr4 |= 0x20;
	s.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
	for (unsigned i = 0; i < 4; i++)
		s.pdptrs[i] = 0x1001 + i * 0x1000;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_SREGS2, &s), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_SREGS2, &out), 0);
	assert_int_equal(out.flags, KVM_SREGS2_FLAGS_PDPTRS_VALID);
	assert_memory_equal(out.pdptrs, s.pdptrs, sizeof(s.pdptrs));
	rig_close(&r);
}

/* Each breaks one rule; nothing may have changed, not even apic_base. */
static const struct refused { const char *name; uint64_t cr0, cr3, cr4, efer, apic_base; uint8_t not_l; } refused[] = {
	{ "SREGS with PG but no PE are refused as a whole", 0x80000010, 0x5000, 0x6a0, 0xd01, 0xfee00d00, 0 },
	{ "SREGS with NW but no CD are refused as a whole", 0xa0050033, 0x5000, 0x6a0, 0xd01, 0xfee00d00, 0 },
	{ "SREGS with a CR0 of 64 bits are refused as a whole", 0x180050033, 0x5000, 0x6a0, 0xd01, 0xfee00d00, 0 },
	{ "SREGS with LME and PG but no PAE are refused as a whole", 0x80050033, 0x5000, 0x680, 0xd01, 0xfee00d00, 0 },
	{ "SREGS with LME and PG but no LMA are refused as a whole", 0x80050033, 0x5000, 0x6a0, 0x901, 0xfee00d00, 0 },
	{ "SREGS with LMA but no PG are refused as a whole", 0x00050033, 0x5000, 0x6a0, 0xd01, 0xfee00d00, 0 },
	{ "SREGS with CS.L but no long mode are refused as a whole", 0x80050033, 0x5000, 0x6a0, 0, 0xfee00d00, 0 },
	{ "SREGS with a CR3 beyond the address width are refused as a whole", 0x80050033, 1ull << 60, 0x6a0, 0xd01, 0xfee00d00, 0 },
	{ "SREGS with VMXE are refused as a whole", 0x80050033, 0x5000, 0x26a0, 0xd01, 0xfee00d00, 0 },
	{ "SREGS with an unknown EFER bit are refused as a whole", 0x80050033, 0x5000, 0x6a0, 0x10000d01, 0xfee00d00, 0 },
	{ "SREGS with a reserved apic_base bit are refused as a whole", 0x80050033, 0x5000, 0x6a0, 0xd01, 0xfee00901, 0 },
	{ "SREGS with x2APIC but no enable are refused as a whole", 0x80050033, 0x5000, 0x6a0, 0xd01, 0xfee00500, 0 },
};

static void check_refused(void **state)
{
	const struct refused *row = *state;
	struct kvm_sregs before, after, s = long_mode();
	struct rig r;

	rig_open(&r, RIG_IRQCHIP | RIG_CPUID);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_SREGS, &before), 0);
	s.cr0 = row->cr0;
	s.cr3 = row->cr3;
	s.cr4 = row->cr4;
	s.efer = row->efer;
	s.apic_base = row->apic_base;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_SREGS, &s), -EINVAL);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_SREGS, &after), 0);
	assert_memory_equal(&before, &after, sizeof(before));
	rig_close(&r);
}

static void fpu(void **state)
{
	struct kvm_fpu in, out;
	struct rig r;

	rig_open(&r, RIG_CPUID);
	fill(&in, sizeof(in));
	in.fcw = 0x27f;
	in.fsw = 0x3800;
	in.mxcsr = 0x1f80;
	in.pad1 = 0;
	in.pad2 = 0;
	in.last_opcode = 0x123;
	for (unsigned i = 0; i < 8; i++)
		memset(in.fpr[i] + 10, 0, 6);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_FPU, &in), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_FPU, &out), 0);
	assert_memory_equal(&in, &out, sizeof(in));
	rig_close(&r);
}

static void xsave(void **state)
{
	static struct kvm_xsave in, out;
	struct kvm_fpu f;
	struct rig r;

	rig_open(&r, RIG_CPUID);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_XSAVE, &in), 0);
	fill((uint8_t *)in.region + 160, 256);		/* XMM */
	fill((uint8_t *)in.region + 576, 256);		/* upper halves of YMM */
	in.region[128] = 7;				/* XSTATE_BV */
	in.region[6] = 0x1f80;
	if (rig_ioctl(r.vcpu, KVM_SET_XSAVE, &in)) {
		/* A host without AVX. */
		in.region[128] = 3;
		memset((uint8_t *)in.region + 576, 0, 256);
		assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_XSAVE, &in), 0);
	}
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_XSAVE2, &out), 0);
	assert_memory_equal((uint8_t *)in.region + 160, (uint8_t *)out.region + 160, 256);
	assert_memory_equal((uint8_t *)in.region + 576, (uint8_t *)out.region + 576, 256);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_FPU, &f), 0);
	assert_memory_equal(f.xmm, (uint8_t *)in.region + 160, 256);
	in.region[129] = 0x80000000;			/* a component that is not there */
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_XSAVE, &in), -EINVAL);
	rig_close(&r);
}

static void events(void **state)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_EXCEPTION_PAYLOAD, .args = { 1 } };
	struct kvm_vcpu_events in = {
		.exception = { .pending = 1, .nr = 14, .has_error_code = 1, .error_code = 7 }, .exception_has_payload = 1,
		.exception_payload = 0x123456789, .interrupt = { .shadow = 2 }, .nmi = { .pending = 1, .masked = 1 },
		.flags = 0x1 | 0x4 | 0x8 | 0x10,
	}, out;
	struct rig r;

	rig_open(&r, RIG_IRQCHIP | RIG_CPUID);
	assert_int_equal(rig_ioctl(r.vm, KVM_ENABLE_CAP, &cap), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_VCPU_EVENTS, &in), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_VCPU_EVENTS, &out), 0);
	assert_memory_equal(&in, &out, sizeof(in));
	/* SET_REGS drops an exception. */
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_REGS, &(struct kvm_regs){ .rflags = 2 }), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_VCPU_EVENTS, &out), 0);
	assert_int_equal(out.exception.pending, 0);
	rig_close(&r);
}

static void debugregs(void **state)
{
	struct kvm_debugregs in = { .db = { 1, 2, 3, 4 }, .dr6 = 0xffff0ff1, .dr7 = 0x455 }, out;
	struct rig r;

	rig_open(&r, 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_DEBUGREGS, &in), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_DEBUGREGS, &out), 0);
	assert_memory_equal(&in, &out, sizeof(in));
	rig_close(&r);
}

static void lapic(void **state)
{
	struct kvm_lapic_state in, out;
	struct kvm_sregs s;
	struct rig r;

	rig_open(&r, RIG_IRQCHIP | RIG_CPUID);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_LAPIC, &in), 0);
	*(uint32_t *)(void *)(in.regs + 0x350) = 0x700;		/* kvmtool's two */
	*(uint32_t *)(void *)(in.regs + 0x360) = 0x400;
	*(uint32_t *)(void *)(in.regs + 0x80) = 0x70;		/* TPR */
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_LAPIC, &in), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_LAPIC, &out), 0);
	assert_int_equal(*(uint32_t *)(void *)(out.regs + 0x350), 0x700);
	assert_int_equal(*(uint32_t *)(void *)(out.regs + 0x360), 0x400);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_SREGS, &s), 0);
	assert_int_equal(s.cr8, 7);
	rig_close(&r);
}

static void chips(void **state)
{
	static struct kvm_irqchip in, out;
	struct rig r;

	rig_open(&r, RIG_IRQCHIP);
	for (unsigned id = 0; id < 3; id++) {
		in.chip_id = out.chip_id = id;
		assert_int_equal(rig_ioctl(r.vm, KVM_GET_IRQCHIP, &in), 0);
		if (id < 2) {
			in.chip.pic.imr = 0x5a;
			in.chip.pic.irq_base = 0x70;
		} else {
			in.chip.ioapic.redirtbl[4].bits = 0x0000000000018931ull;
		}
		assert_int_equal(rig_ioctl(r.vm, KVM_SET_IRQCHIP, &in), 0);
		assert_int_equal(rig_ioctl(r.vm, KVM_GET_IRQCHIP, &out), 0);
		if (id < 2) {
			assert_int_equal(out.chip.pic.imr, 0x5a);
			assert_int_equal(out.chip.pic.irq_base, 0x70);
		} else {
			assert_int_equal(out.chip.ioapic.redirtbl[4].bits, 0x18931);
		}
	}
	rig_close(&r);
}

static void pit(void **state)
{
	struct kvm_pit_config config = { .flags = KVM_PIT_SPEAKER_DUMMY };
	struct kvm_pit_state2 in, out;
	struct rig r;

	rig_open(&r, RIG_IRQCHIP);
	assert_int_equal(rig_ioctl(r.vm, KVM_CREATE_PIT2, &config), 0);
	assert_int_equal(rig_ioctl(r.vm, KVM_CREATE_PIT2, &config), -EEXIST);
	assert_int_equal(rig_ioctl(r.vm, KVM_GET_PIT2, &in), 0);
	in.channels[2].count = 0x1234;
	in.channels[2].mode = 3;
	in.channels[2].rw_mode = 3;
	assert_int_equal(rig_ioctl(r.vm, KVM_SET_PIT2, &in), 0);
	assert_int_equal(rig_ioctl(r.vm, KVM_GET_PIT2, &out), 0);
	assert_int_equal(out.channels[2].count, 0x1234);
	assert_int_equal(out.channels[2].mode, 3);
	rig_close(&r);
}

/* Every MSR of the list can be read and written back. */
static void msrs(void **state)
{
	static struct { uint32_t n, index[256]; } list = { .n = 256 };
	static struct rig_msrs m, back;
	struct rig r;

	rig_open(&r, RIG_IRQCHIP | RIG_CPUID);
	assert_int_equal(rig_ioctl(r.sys, KVM_GET_MSR_INDEX_LIST, &list), 0);
	m.nmsrs = list.n;
	for (unsigned i = 0; i < list.n; i++)
		m.e[i].index = list.index[i];
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_MSRS, &m), list.n);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_MSRS, &m), list.n);
	back = m;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_MSRS, &back), list.n);
	for (unsigned i = 0; i < list.n; i++)
		if (m.e[i].index != 0x10)	/* the TSC goes on */
			assert_int_equal(m.e[i].data, back.e[i].data);
	/* What QEMU writes whether or not it is listed. */
	static const uint32_t always[] = { 0x174, 0x175, 0x176, 0x277, 0xc0000083, 0xc0000102, 0xc0000084, 0xc0000082, 0x2ff, 0x200, 0x1b };

	m.nmsrs = sizeof(always) / sizeof(always[0]);
	for (unsigned i = 0; i < m.nmsrs; i++)
		m.e[i].index = always[i];
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_MSRS, &m), m.nmsrs);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_MSRS, &m), m.nmsrs);
	/* An unknown one stops there. */
	m.nmsrs = 2;
	m.e[0].index = 0x174;
	m.e[1].index = 0x12345678;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_MSRS, &m), 1);
	rig_close(&r);
}

static void feature_msrs(void **state)
{
	static struct { uint32_t n, index[64]; } list = { .n = 64 };
	static struct rig_msrs m;
	struct rig r;

	rig_open(&r, RIG_IRQCHIP | RIG_CPUID);
	assert_int_equal(rig_ioctl(r.sys, KVM_GET_MSR_FEATURE_INDEX_LIST, &list), 0);
	assert_true(list.n > 0);
	m.nmsrs = list.n;
	for (unsigned i = 0; i < list.n; i++)
		m.e[i].index = list.index[i];
	assert_int_equal(rig_ioctl(r.sys, KVM_GET_MSRS, &m), list.n);
	/* cloud-hypervisor writes every one of them into each vCPU. 0xC0011029 is AMD's: a guest of another vendor has 0 there. */
	for (unsigned i = 0; i < list.n; i++) {
		struct rig_msrs one = { .nmsrs = 1 };

		one.e[0] = m.e[i];
		if (one.e[0].index != 0xc0011029)
			assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_MSRS, &one), 1);
	}
	rig_close(&r);
}

static void clocks(void **state)
{
	struct kvm_clock_data in = { .clock = 1000000000000ull }, out;
	struct rig_msrs m = { .nmsrs = 1 };
	struct kvm_device_attr attr = { 0 };
	uint64_t offset = 0, before, after;
	struct rig r;

	rig_open(&r, RIG_CPUID);
	assert_int_equal(rig_ioctl(r.vm, KVM_SET_CLOCK, &in), 0);
	assert_int_equal(rig_ioctl(r.vm, KVM_GET_CLOCK, &out), 0);
	assert_int_equal(out.flags, 14);
	assert_in_range(out.clock, 1000000000000ull, 1000000000000ull + 5000000000ull);
	assert_true(rig_ioctl_n(r.vcpu, KVM_GET_TSC_KHZ, 0) > 0);
	/* The guest's TSC is the host's plus the offset. */
	attr.addr = (uintptr_t)&offset;
	offset = 1ull << 40;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_DEVICE_ATTR, &attr), 0);
	offset = 0;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_DEVICE_ATTR, &attr), 0);
	assert_int_equal(offset, 1ull << 40);
	m.e[0].index = 0x10;
	before = __builtin_ia32_rdtsc() + offset;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_MSRS, &m), 1);
	after = __builtin_ia32_rdtsc() + offset;
	assert_in_range(m.e[0].data, before, after);
	/* Half the rate. */
	assert_int_equal(rig_ioctl_n(r.vcpu, KVM_SET_TSC_KHZ, (unsigned long)rig_ioctl_n(r.vcpu, KVM_GET_TSC_KHZ, 0) / 2), 0);
	rig_close(&r);
}

static uint64_t tsc_of(struct rig *r, int vcpu)
{
	struct rig_msrs m = { .nmsrs = 1, .e[0].index = 0x10 };

	(void)r;
	assert_int_equal(rig_ioctl(vcpu, KVM_GET_MSRS, &m), 1);
	return m.e[0].data;
}

static void set_tsc(int vcpu, uint64_t value)
{
	struct rig_msrs m = { .nmsrs = 1, .e[0] = { .index = 0x10, .data = value } };

	assert_int_equal(rig_ioctl(vcpu, KVM_SET_MSRS, &m), 1);
}

/* The translator knows 64-bit code only: one page of 2 MiB, flat segments. */
static void run_in_64_bits(struct rig *r)
{
	uint64_t *table = (uint64_t *)(void *)(r->ram + 0x2000);
	struct kvm_sregs s;

	table[0] = 0x3003;
	table[512] = 0x4003;
	table[1024] = 0x83;
	assert_int_equal(rig_ioctl(r->vcpu, KVM_GET_SREGS, &s), 0);
	s.cr0 = 0x80000011;
	s.cr3 = 0x2000;
	s.cr4 = 0x20;
	s.efer = 0x500;
	s.cs.l = 1;
	s.cs.db = 0;
	s.cs.type = 11;
	assert_int_equal(rig_ioctl(r->vcpu, KVM_SET_SREGS, &s), 0);
}

/* What RDTSC says in the guest is what the client reads, at any rate, one that differs by little from the host's included. */
static void rdtsc_goes_at_the_rate_that_was_set(void **state)
{
	static const uint8_t read[] = { 0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0xf4 };	/* rdtsc; shl rdx, 32; or rax, rdx; hlt */
	static const int parts_per_million[] = { 0, 1, -1, 200, -200, 300, 1000, 500000, -500000 };

	for (unsigned i = 0; i < sizeof(parts_per_million) / sizeof(parts_per_million[0]); i++) {
		uint64_t before, after;
		struct kvm_regs g;
		struct rig r;
		long khz;

		rig_open(&r, RIG_CPUID);
		rig_code(&r, read, sizeof(read));
		run_in_64_bits(&r);
		khz = rig_ioctl_n(r.vcpu, KVM_GET_TSC_KHZ, 0);
		khz += khz * parts_per_million[i] / 1000000;
		assert_int_equal(rig_ioctl_n(r.vcpu, KVM_SET_TSC_KHZ, (unsigned long)khz), 0);
		assert_int_equal(rig_ioctl_n(r.vcpu, KVM_GET_TSC_KHZ, 0), khz);
		before = tsc_of(&r, r.vcpu);
		assert_int_equal(rig_run(&r), 0);
		after = tsc_of(&r, r.vcpu);
		assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_REGS, &g), 0);
		if (g.rax < before || g.rax > after)
			fail_msg("%d ppm: the guest reads %llu, the client %llu and then %llu", parts_per_million[i], g.rax,
				 (unsigned long long)before, (unsigned long long)after);
		rig_close(&r);
	}
}

/* A guest half a second old goes into a VM just made; its vCPUs are written one after the other, a little late. */
static void the_tsc_of_a_young_guest_is_not_set_back(void **state)
{
	uint64_t second, value, late;
	struct rig r;
	int other;

	rig_open(&r, RIG_CPUID);
	other = (int)rig_ioctl_n(r.vm, KVM_CREATE_VCPU, 1);
	assert_true(other >= 0);
	second = (uint64_t)rig_ioctl_n(r.vcpu, KVM_GET_TSC_KHZ, 0) * 1000;
	value = tsc_of(&r, r.vcpu) + second / 2;
	set_tsc(r.vcpu, value);
	assert_in_range(tsc_of(&r, r.vcpu), value, value + second / 4);
	/* The same value, a moment later, means the same counter. */
	late = tsc_of(&r, r.vcpu) - value;
	set_tsc(other, value);
	assert_true(tsc_of(&r, other) - value >= late);
	/* And so does 0. Another second does not. */
	set_tsc(other, 0);
	assert_true(tsc_of(&r, other) >= value);
	value = tsc_of(&r, r.vcpu) + 3 * second;
	set_tsc(r.vcpu, value);
	assert_in_range(tsc_of(&r, r.vcpu), value, value + second);
	gw_close(other);
	rig_close(&r);
}

/* After the first KVM_RUN only the same CPUID is accepted. */
static void cpuid_is_fixed_by_running(void **state)
{
	static struct rig_cpuid c;
	static const uint8_t hlt[] = { 0xf4 };
	struct rig r;

	rig_open(&r, RIG_CPUID);
	rig_code(&r, hlt, sizeof(hlt));
	assert_int_equal(rig_run(&r), 0);
	c.nent = 100;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_CPUID2, &c), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_CPUID2, &c), 0);
	c.e[0].eax ^= 1;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_CPUID2, &c), -EINVAL);
	c.e[0].eax ^= 1;
	c.nent--;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_CPUID2, &c), -EINVAL);
	rig_close(&r);
}

static void cpuid_address_width(void **state)
{
	struct rig_cpuid c = { .nent = 1 };
	struct rig r;

	rig_open(&r, 0);
	c.e[0].function = 0x80000008;
	c.e[0].eax = 40 << 8 | 40;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_CPUID2, &c), -EINVAL);
	c.e[0].eax = 48 << 8 | 40;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_CPUID2, &c), 0);
	rig_close(&r);
}

static void translate(void **state)
{
	struct kvm_translation t = { .linear_address = 0x1234 };
	struct kvm_sregs s = long_mode();
	struct rig r;
	uint64_t *table;

	rig_open(&r, RIG_CPUID);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_TRANSLATE, &t), 0);
	assert_int_equal(t.valid, 1);
	assert_int_equal(t.physical_address, 0x1234);
	/* One 2 MiB page at 4 MiB, mapped at 1 GiB. */
	table = (void *)(r.ram + 0x5000);
	table[0] = 0x6003;
	((uint64_t *)(void *)(r.ram + 0x6000))[1] = 0x7003;
	((uint64_t *)(void *)(r.ram + 0x7000))[0] = 0x400083;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_SREGS, &s), 0);
	t.linear_address = 0x40001234;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_TRANSLATE, &t), 0);
	assert_int_equal(t.valid, 1);
	assert_int_equal(t.physical_address, 0x401234);
	assert_int_equal(table[0], 0x6003);	/* no A bit */
	t.linear_address = 0x1234;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_TRANSLATE, &t), 0);
	assert_int_equal(t.valid, 0);
	rig_close(&r);
}

int main(void)
{
	static const struct CMUnitTest fixed[] = {
		{ "REGS come back; flags that do not exist do not", regs },
		{ "the state after creation is the power-on state", reset_state },
		{ "SREGS come back, SREGS2 agree", sregs },
		{ "SREGS2 carry the PDPTRs", pdptrs },
		{ "FPU comes back", fpu },
		{ "XSAVE comes back and agrees with FPU; unknown components are refused", xsave },
		{ "VCPU_EVENTS come back; SET_REGS drops the exception", events },
		{ "DEBUGREGS come back", debugregs },
		{ "LAPIC comes back; CR8 is its TPR", lapic },
		{ "PICs and IOAPIC come back", chips },
		{ "PIT comes back", pit },
		{ "every listed MSR can be read and written back", msrs },
		{ "feature MSRs can be read and written to a vCPU", feature_msrs },
		{ "clock, TSC offset and rate", clocks },
		{ "RDTSC goes at the rate that was set", rdtsc_goes_at_the_rate_that_was_set },
		{ "the TSC of a young guest is not set back", the_tsc_of_a_young_guest_is_not_set_back },
		{ "CPUID cannot change after KVM_RUN, the same is accepted", cpuid_is_fixed_by_running },
		{ "a linear address width other than 48 or 57 is EINVAL", cpuid_address_width },
		{ "TRANSLATE walks and leaves no trace", translate },
	};
	enum { N = sizeof(fixed) / sizeof(fixed[0]), M = sizeof(refused) / sizeof(refused[0]) };
	static struct CMUnitTest tests[N + M];

	memcpy(tests, fixed, sizeof(fixed));
	for (unsigned i = 0; i < M; i++)
		tests[N + i] = (struct CMUnitTest){ .name = refused[i].name, .test_func = check_refused,
						    .initial_state = (void *)(uintptr_t)&refused[i] };
	return _cmocka_run_group_tests("state", tests, N + M, NULL, NULL);
}
