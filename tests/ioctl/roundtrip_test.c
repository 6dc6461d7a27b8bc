/* SPDX-License-Identifier: MIT */
/*
 * What a client saves and restores, field by field: each gets values it did not have, and the whole structure must read as it was
 * written, every other field included. A client that moves a guest relies on no more, and on no less.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "rig.h"

/* ---- structures ---------------------------------------------------------------------------------------------------------- */

struct field { const char *name; uint16_t off, size; uint64_t values[2]; };

#define F(type, member, a, b) { #member, offsetof(type, member), sizeof(((type *)0)->member), { a, b } }
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

#define SEGMENT(s) \
	F(struct kvm_sregs2, s.base, 0x123000, 0x7ff0), F(struct kvm_sregs2, s.limit, 0x12345fff, 0xfffff), F(struct kvm_sregs2, s.selector, 0x28, 0x3f), \
	F(struct kvm_sregs2, s.type, 3, 7), F(struct kvm_sregs2, s.dpl, 3, 1), F(struct kvm_sregs2, s.db, 1, 0), F(struct kvm_sregs2, s.g, 1, 0), \
	F(struct kvm_sregs2, s.avl, 1, 0)
#define TABLE(t) F(struct kvm_sregs2, t.base, 0xffff800000002000, 0x3000), F(struct kvm_sregs2, t.limit, 0x7f, 0xfff)

/* SREGS is the same up to its last field. */
static const struct field sregs_fields[] = {
	SEGMENT(cs), SEGMENT(ds), SEGMENT(es), SEGMENT(fs), SEGMENT(gs), SEGMENT(ss), TABLE(gdt), TABLE(idt),
	F(struct kvm_sregs2, ds.present, 0, 1), F(struct kvm_sregs2, ds.unusable, 1, 0), F(struct kvm_sregs2, fs.s, 0, 1),
	F(struct kvm_sregs2, tr.base, 0xffff800000001000, 0x5000), F(struct kvm_sregs2, tr.limit, 0x67, 0x2067), F(struct kvm_sregs2, tr.selector, 0x40, 8),
	F(struct kvm_sregs2, ldt.base, 0xffff800000003000, 0x6000), F(struct kvm_sregs2, ldt.limit, 0x17, 0xfff), F(struct kvm_sregs2, ldt.selector, 0x48, 0x10),
	F(struct kvm_sregs2, cr0, 0x60000011, 0x60010013), F(struct kvm_sregs2, cr2, 0xdead0000beef, 1), F(struct kvm_sregs2, cr3, 0x5018, 0x7000),
	F(struct kvm_sregs2, cr4, 0x6a0, 0x200), F(struct kvm_sregs2, cr8, 5, 15), F(struct kvm_sregs2, efer, 0x801, 0x100),
	F(struct kvm_sregs2, apic_base, 0xfee00800, 0xfeb00900),
};
static const struct field bitmap_fields[] = {
	F(struct kvm_sregs, interrupt_bitmap[0], 1ull << 40, 1ull << 63), F(struct kvm_sregs, interrupt_bitmap[3], 1, 1ull << 62),
};
#define R(member) F(struct kvm_regs, member, 0x8123456789abcdef, 0x7edcba9876543210)
static const struct field regs_fields[] = {
	R(rax), R(rbx), R(rcx), R(rdx), R(rsi), R(rdi), R(rsp), R(rbp), R(r8), R(r9), R(r10), R(r11), R(r12), R(r13), R(r14), R(r15), R(rip),
	F(struct kvm_regs, rflags, 0x246, 0x244cd7),
};
#define D(member) F(struct kvm_debugregs, member, 0x8123456789abcdef, 4)
static const struct field debug_fields[] = {
	D(db[0]), D(db[1]), D(db[2]), D(db[3]), F(struct kvm_debugregs, dr6, 0xffff4ff1, 0xffff0ffa), F(struct kvm_debugregs, dr7, 0x455, 0xdd0502),
};
#define C(n) F(struct kvm_fpu, fpr[n][0], 0x12, 0xfe), F(struct kvm_fpu, fpr[n][9], 0x40, 0xbf)
#define X(n) F(struct kvm_fpu, xmm[n][0], 0x12, 0xfe), F(struct kvm_fpu, xmm[n][15], 0x40, 0xbf)
static const struct field fpu_fields[] = {
	C(0), C(1), C(2), C(3), C(4), C(5), C(6), C(7), X(0), X(1), X(2), X(3), X(4), X(5), X(6), X(7), X(8), X(9), X(10), X(11), X(12), X(13), X(14), X(15),
	F(struct kvm_fpu, fcw, 0x27f, 0xc72), F(struct kvm_fpu, fsw, 0x3800, 0x4707), F(struct kvm_fpu, ftwx, 0xff, 0x81),
	F(struct kvm_fpu, last_opcode, 0x123, 0x7ff), F(struct kvm_fpu, last_ip, 0x123456789abc, 7), F(struct kvm_fpu, last_dp, 0xffff800012345678, 9),
	F(struct kvm_fpu, mxcsr, 0x1f80, 0x7fbf),
};
#define L(name, at, a, b) { name, at, 4, { a, b } }
#define L8(name, at) L(name "0", at, 0x80000000, 0x00010000), L(name "1", (at) + 0x10, 1, 0x80000000), L(name "4", (at) + 0x40, 0xff, 0x100), \
		     L(name "7", (at) + 0x70, 0x80000000, 0x8001)
static const struct field lapic_fields[] = {
	L("ID", 0x20, 0x12000000, 0xff000000), L("TPR", 0x80, 0x70, 0xff), L("LDR", 0xd0, 0x42000000, 0x01000000), L("DFR", 0xe0, 0x0fffffff, 0xffffffff),
	L("SPIV", 0xf0, 0x1ff, 0x3ab), L8("ISR", 0x100), L8("TMR", 0x180), L8("IRR", 0x200), L("ESR", 0x280, 0, 0), L("ICR", 0x300, 0x8c4fd, 0x4030),
	L("ICR2", 0x310, 0x12000000, 0xff000000), L("LVTT", 0x320, 0x20030, 0x100ef), L("LVTTHMR", 0x330, 0x100fa, 0x400), L("LVTPC", 0x340, 0x400, 0x100fe),
	L("LVT0", 0x350, 0x700, 0x8031), L("LVT1", 0x360, 0x400, 0x100ff), L("LVTERR", 0x370, 0xfe, 0x100fe), L("TDCR", 0x3e0, 0xb, 3),
};
#define P(member, a, b) F(struct kvm_irqchip, chip.pic.member, a, b)
static const struct field pic_fields[] = {
	P(last_irr, 0x5a, 0x81), P(irr, 0x40, 0x21), P(imr, 0xff, 0x5a), P(isr, 0x80, 0x08), P(priority_add, 7, 3), P(irq_base, 0x70, 0xf8),
	P(read_reg_select, 1, 0), P(poll, 1, 0), P(special_mask, 1, 0), P(init_state, 1, 3), P(auto_eoi, 1, 0), P(rotate_on_auto_eoi, 1, 0),
	P(special_fully_nested_mode, 1, 0), P(init4, 1, 0), P(elcr, 0x40, 0xc8),
};
#define I(member, a, b) F(struct kvm_irqchip, chip.ioapic.member, a, b)
static const struct field ioapic_fields[] = {
	I(base_address, 0xfec10000, 0xfec00000), I(ioregsel, 0x12, 0x3f), I(id, 5, 15), I(irr, 1u << 5, 1u << 23),
	I(redirtbl[0].bits, 0x1200000000018931, 0x10000), I(redirtbl[5].bits, 0xff0000000001a9fe, 0x1c0ab), I(redirtbl[23].bits, 0x0100000000010031, 0x14041),
};
#define Q(n, member, a, b) F(struct kvm_pit_state2, channels[n].member, a, b)
#define CHANNEL(n) \
	Q(n, count, 0x1234, 0x10000), Q(n, latched_count, 0x4321, 0xffff), Q(n, count_latched, 3, 1), Q(n, status_latched, 1, 0), Q(n, status, 0xb4, 0x36), \
	Q(n, read_state, 3, 4), Q(n, write_state, 2, 4), Q(n, write_latch, 0x5a, 0xff), Q(n, rw_mode, 3, 1), Q(n, mode, 2, 3), Q(n, bcd, 1, 0), Q(n, gate, 1, 0)
static const struct field pit_fields[] = {
	CHANNEL(0), CHANNEL(1), CHANNEL(2), F(struct kvm_pit_state2, flags, KVM_PIT_FLAGS_HPET_LEGACY, 0),
};

/* What the machine makes up itself when it is asked. */
static void no_change(void *s) { (void)s; }
static void drop_load_times(void *s)
{
	struct kvm_pit_state2 *p = s;

	for (unsigned i = 0; i < 3; i++)
		p->channels[i].count_load_time = 0;
}
static void drop_priority(void *s) { memset((uint8_t *)s + 0xa0, 0, 4); }	/* follows TPR and ISR */

static const struct pair {
	const char *name;
	bool on_vm;
	unsigned long get, set;
	size_t size;
	const struct field *fields;
	size_t n;
	void (*drop)(void *s);
	uint32_t chip;
} pairs[] = {
	{ "every field of REGS comes back", false, KVM_GET_REGS, KVM_SET_REGS, sizeof(struct kvm_regs), regs_fields, COUNT(regs_fields), no_change, 0 },
	{ "every field of SREGS comes back", false, KVM_GET_SREGS, KVM_SET_SREGS, sizeof(struct kvm_sregs), sregs_fields, COUNT(sregs_fields), no_change, 0 },
	{ "the interrupt of SREGS comes back", false, KVM_GET_SREGS, KVM_SET_SREGS, sizeof(struct kvm_sregs), bitmap_fields, COUNT(bitmap_fields), no_change, 0 },
	{ "every field of SREGS2 comes back", false, KVM_GET_SREGS2, KVM_SET_SREGS2, sizeof(struct kvm_sregs2), sregs_fields, COUNT(sregs_fields), no_change, 0 },
	{ "every field of DEBUGREGS comes back", false, KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, sizeof(struct kvm_debugregs), debug_fields, COUNT(debug_fields), no_change, 0 },
	{ "every field of FPU comes back", false, KVM_GET_FPU, KVM_SET_FPU, sizeof(struct kvm_fpu), fpu_fields, COUNT(fpu_fields), no_change, 0 },
	{ "every register of the LAPIC comes back", false, KVM_GET_LAPIC, KVM_SET_LAPIC, sizeof(struct kvm_lapic_state), lapic_fields, COUNT(lapic_fields), drop_priority, 0 },
	{ "every field of the first PIC comes back", true, KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, sizeof(struct kvm_irqchip), pic_fields, COUNT(pic_fields), no_change, 0 },
	{ "every field of the second PIC comes back", true, KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, sizeof(struct kvm_irqchip), pic_fields, COUNT(pic_fields), no_change, 1 },
	{ "every field of the IOAPIC comes back", true, KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, sizeof(struct kvm_irqchip), ioapic_fields, COUNT(ioapic_fields), no_change, 2 },
	{ "every field of the PIT comes back", true, KVM_GET_PIT2, KVM_SET_PIT2, sizeof(struct kvm_pit_state2), pit_fields, COUNT(pit_fields), drop_load_times, 0 },
};

static void get(const struct rig *r, const struct pair *p, void *s)
{
	memset(s, 0, p->size);
	if (p->get == KVM_GET_IRQCHIP)
		((struct kvm_irqchip *)s)->chip_id = p->chip;
	assert_int_equal(rig_ioctl(p->on_vm ? r->vm : r->vcpu, p->get, s), 0);
}

static const char *field_at(const struct pair *p, size_t off)
{
	for (size_t i = 0; i < p->n; i++)
		if (off >= p->fields[i].off && off < (size_t)p->fields[i].off + p->fields[i].size)
			return p->fields[i].name;
	return "another byte";
}

static void try_field(const struct rig *r, const struct pair *p, const struct field *f, uint64_t value)
{
	static uint8_t in[4096], out[4096];
	long err;

	get(r, p, in);
	memcpy(in + f->off, &value, f->size);
	err = rig_ioctl(p->on_vm ? r->vm : r->vcpu, p->set, in);
	if (err)
		fail_msg("%s = %#llx: %ld", f->name, (unsigned long long)value, err);
	get(r, p, out);
	p->drop(in);
	p->drop(out);
	for (size_t i = 0; i < p->size; i++)
		if (in[i] != out[i])
			fail_msg("%s = %#llx: byte %zu (%s) is %#x, not %#x", f->name, (unsigned long long)value, i, field_at(p, i), out[i], in[i]);
}

static void check_pair(void **state)
{
	const struct pair *p = *state;

	for (size_t i = 0; i < p->n; i++) {
		struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
		struct rig r;

		rig_open(&r, RIG_IRQCHIP | RIG_CPUID);
		assert_int_equal(rig_ioctl(r.vm, KVM_CREATE_PIT2, &pit), 0);
		for (unsigned k = 0; k < 2; k++)
			try_field(&r, p, &p->fields[i], p->fields[i].values[k]);
		rig_close(&r);
	}
}

/* ---- MSRs ---------------------------------------------------------------------------------------------------------------- */

#define AS_READ		(~0ull)		/* fixed: by what the host offers, or, DEBUGCTL, always 0 */
static const struct { uint32_t index; uint64_t values[2]; } msr_rows[] = {
	{ 0x10, { 1ull << 50, 1ull << 55 } }, { 0x11, { 0x5000, 0x6000 } }, { 0x12, { 0x5001, 0x6001 } }, { 0x34, { 7, 0x12345678 } }, { 0x3a, { 1, 0 } },
	{ 0x3b, { 0x123456789, ~0ull - 5 } }, { 0x48, { 1, 4 } }, { 0x8b, { 0x1234500000000, 0xab00000000 } }, { 0x9e, { 0xa0000, 0x7f000000 } },
	{ 0xce, { 0, 0x80000000 } }, { 0x10a, { AS_READ, 0 } }, { 0x140, { 1, 0 } }, { 0x174, { 0x10, 0x1230 } }, { 0x175, { 0xffff800000001000, 0x7000 } },
	{ 0x176, { 0xffffffff81000000, 0x8000 } }, { 0x17a, { 4, 2 } }, { 0x17b, { ~0ull, 0 } }, { 0x1a0, { 0x1800, 0x1801 } }, { 0x1d9, { AS_READ, AS_READ } },
	{ 0x1fc, { 2, 0x12345 } }, { 0x277, { 0x0007010600070106, 0x0606060606060606 } }, { 0x6e0, { 1ull << 60, 1ull << 61 } }, { 0x6e1, { 0xc, 0x55555554 } },
	{ 0xda0, { 0, AS_READ } }, { 0xc0000081, { 0x23001000000000, ~0ull - 1 } }, { 0xc0000082, { 0xffffffff81001000, 0x9000 } },
	{ 0xc0000083, { 0xffffffff81002000, 0xa000 } }, { 0xc0000084, { 0x47700, 0x257fd5 } }, { 0xc0000102, { 0xffff888000000000, 0xb000 } },
	{ 0xc0000103, { 3, 0xffffffff } }, { 0xc0010015, { 1u << 18, 1u << 24 } }, { 0x4b564d00, { 0x5000, 0x6000 } }, { 0x4b564d01, { 0x5001, 0x6001 } },
	{ 0x4b564d02, { 0, 0xd009 } }, { 0x4b564d03, { 0xd041, 0xe001 } }, { 0x4b564d04, { 0x9001, 0xa005 } }, { 0x4b564d05, { 0, 1 } }, { 0x4b564d06, { 0xf3, 0x20 } }, { 0x4b564d07, { AS_READ, AS_READ } },
};

static long msr(struct rig *r, unsigned long nr, uint32_t index, uint64_t *value)
{
	struct rig_msrs m = { .nmsrs = 1, .e = { { .index = index, .data = *value } } };
	long n = rig_ioctl(r->vcpu, nr, &m);

	*value = m.e[0].data;
	return n;
}

/* The timer's MSR is there in its mode only; the old and the new numbers of kvmclock are two names of one thing. */
static void msr_rig(struct rig *r)
{
	struct kvm_lapic_state l;
	uint64_t mce = 0x100010a;

	rig_open(r, RIG_IRQCHIP | RIG_CPUID);
	assert_int_equal(rig_ioctl(r->vcpu, KVM_X86_SETUP_MCE, &mce), 0);
	assert_int_equal(rig_ioctl(r->vcpu, KVM_GET_LAPIC, &l), 0);
	l.regs[0x322] = 4;
	l.regs[0xf1] = 1;
	assert_int_equal(rig_ioctl(r->vcpu, KVM_SET_LAPIC, &l), 0);
}

static bool is_alias(uint32_t a, uint32_t b)
{
	return (a == 0x11 && b == 0x4b564d00) || (a == 0x12 && b == 0x4b564d01) || (a == 0x10 && b == 0x3b);
}

static void try_msr(uint32_t index, const uint64_t values[2], const uint32_t *list, uint32_t n)
{
	static uint64_t before[256];
	struct rig r;

	msr_rig(&r);
	for (unsigned k = 0; k < 2; k++) {
		uint64_t value = values[k], got = 0;

		for (uint32_t i = 0; i < n; i++)
			assert_int_equal(msr(&r, KVM_GET_MSRS, list[i], &before[i]), 1);
		if (value == AS_READ)
			assert_int_equal(msr(&r, KVM_GET_MSRS, index, &value), 1);
		if (msr(&r, KVM_SET_MSRS, index, &value) != 1)
			fail_msg("MSR %#x does not take %#llx", index, (unsigned long long)value);
		for (uint32_t i = 0; i < n; i++) {
			bool is_it = list[i] == index || is_alias(list[i], index) || is_alias(index, list[i]);

			assert_int_equal(msr(&r, KVM_GET_MSRS, list[i], &got), 1);
			if (list[i] == 0x10 ? got - (index == 0x10 ? value : before[i]) > 1ull << 40 : got != (is_it && index != 0x10 && list[i] != 0x10 ? value : before[i]))
				fail_msg("with MSR %#x = %#llx MSR %#x is %#llx", index, (unsigned long long)value, list[i], (unsigned long long)got);
		}
	}
	rig_close(&r);
}

/* Each MSR of the list takes another value than it has, and no other one changes. */
static void every_listed_msr(void **state)
{
	static struct { uint32_t n, index[256]; } list = { .n = 256 };
	struct rig r;

	rig_open(&r, RIG_NO_VCPU);
	assert_int_equal(rig_ioctl(r.sys, KVM_GET_MSR_INDEX_LIST, &list), 0);
	rig_close(&r);
	for (uint32_t i = 0; i < list.n; i++) {
		size_t k = 0;

		while (k < COUNT(msr_rows) && msr_rows[k].index != list.index[i])
			k++;
		if (k == COUNT(msr_rows))
			fail_msg("MSR %#x is listed, and not tested", list.index[i]);
		try_msr(list.index[i], msr_rows[k].values, list.index, list.n);
	}
}

/* What is not in the list, and saved by QEMU all the same: the banks of machine checks, the MTRRs. */
static void banks_and_ranges(void **state)
{
	static const struct { uint32_t index; uint64_t value; } rows[] = {
		{ 0x400, ~0ull }, { 0x401, 0xb200000000070f0f }, { 0x402, 0x123456789 }, { 0x403, 0x55 }, { 0x424, 0 }, { 0x425, 1ull << 63 },
		{ 0x2ff, 0xc06 }, { 0x250, 0x0606060606060606 }, { 0x258, 0x0101010101010101 }, { 0x26f, 0x0505050505050505 }, { 0x200, 0xc0000000 },
		{ 0x201, 0x3fc0000800 }, { 0x20e, 0x80000006 }, { 0xc0000080, 0x801 },
	};
	struct rig r;

	msr_rig(&r);
	for (size_t i = 0; i < COUNT(rows); i++) {
		uint64_t value = rows[i].value;

		if (msr(&r, KVM_SET_MSRS, rows[i].index, &value) != 1)
			fail_msg("MSR %#x does not take %#llx", rows[i].index, (unsigned long long)value);
	}
	for (size_t i = 0; i < COUNT(rows); i++) {
		uint64_t value = 0;

		assert_int_equal(msr(&r, KVM_GET_MSRS, rows[i].index, &value), 1);
		if (value != rows[i].value)
			fail_msg("MSR %#x is %#llx", rows[i].index, (unsigned long long)value);
	}
	rig_close(&r);
}

/* ---- extended state ------------------------------------------------------------------------------------------------------ */

/* Where the component is in the standard format; 0: it is not there. */
static uint32_t component(const struct rig_cpuid *c, uint32_t i, uint32_t *size)
{
	for (uint32_t k = 0; k < c->nent; k++)
		if (c->e[k].function == 0xd && c->e[k].index == i) {
			*size = c->e[k].eax;
			return c->e[k].ebx;
		}
	*size = 0;
	return 0;
}

static void every_byte_of_xsave(void **state)
{
	static struct rig_cpuid c = { .nent = 100 };
	static struct kvm_xsave in, out, two, init;
	uint8_t *b = (uint8_t *)in.region;
	uint64_t mask = 3;
	struct rig r;

	rig_open(&r, RIG_CPUID);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_CPUID2, &c), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_XSAVE, &init), 0);
	in = init;
	for (unsigned i = 0; i < 416; i++)
		b[i] = (uint8_t)(i * 37 + 11);
	memcpy(b, (const uint8_t[]){ 0x7f, 2, 0, 0x38, 0x81, 0, 0x23, 1 }, 8);	/* FCW, FSW, FTW, FOP */
	memcpy(b + 24, (const uint32_t[]){ 0x1f80, 0xffff }, 8);
	memcpy(b + 28, (uint8_t *)init.region + 28, 4);				/* MXCSR_MASK is the processor's */
	for (unsigned i = 0; i < 8; i++)
		memset(b + 32 + i * 16 + 10, 0, 6);
	for (uint32_t i = 2; i < 10; i++) {
		uint32_t size, at = component(&c, i, &size);

		if (!at || at + size > 4096)
			continue;
		mask |= 1ull << i;
		for (uint32_t k = 0; k < size; k++)
			b[at + k] = (uint8_t)(k * 31 + i);
		if (i == 9)
			memset(b + at + 4, 0, size - 4);			/* PKRU has 4 bytes */
	}
	memcpy(b + 512, &mask, 8);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_XSAVE, &in), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_XSAVE, &out), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_XSAVE2, &two), 0);
	for (unsigned i = 0; i < 4096; i++)
		if (b[i] != ((uint8_t *)out.region)[i] || b[i] != ((uint8_t *)two.region)[i])
			fail_msg("byte %u is %#x and %#x, not %#x", i, ((uint8_t *)out.region)[i], ((uint8_t *)two.region)[i], b[i]);
	/* A component that is not there is in its initial state, whatever bytes stand in its place. */
	memset(b + 512, 0, 8);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_XSAVE, &in), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_XSAVE, &out), 0);
	assert_memory_equal((uint8_t *)out.region + 160, (uint8_t *)init.region + 160, 256);
	assert_memory_equal((uint8_t *)out.region + 576, (uint8_t *)init.region + 576, 4096 - 576);
	assert_int_equal(*(uint16_t *)(void *)out.region, 0x37f);
	rig_close(&r);
}

static void every_xcr0(void **state)
{
	struct kvm_xcrs x = { .nr_xcrs = 1 }, out;
	struct rig_cpuid c = { .nent = 100 };
	uint64_t all = 0;
	struct rig r;

	rig_open(&r, RIG_CPUID);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_CPUID2, &c), 0);
	for (uint32_t i = 0; i < c.nent; i++)
		if (c.e[i].function == 0xd && c.e[i].index == 0)
			all = c.e[i].eax | (uint64_t)c.e[i].edx << 32;
	assert_true(all & 1);
	for (uint64_t v = 1; v <= all; v++) {
		long want = v & ~all || !(v & 1) || (v & 4 && !(v & 2)) ? -EINVAL : 0;

		x.xcrs[0].value = v;
		assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_XCRS, &x), want);
		assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_XCRS, &out), 0);
		assert_int_equal(out.nr_xcrs, 1);
		assert_int_equal(out.flags, 0);
		assert_int_equal(out.xcrs[0].xcr, 0);
		if (!want)
			assert_int_equal(out.xcrs[0].value, v);
	}
	rig_close(&r);
}

/* ---- events, MP state, CPUID --------------------------------------------------------------------------------------------- */

#define VALID (KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM | KVM_VCPUEVENT_VALID_PAYLOAD | \
	       KVM_VCPUEVENT_VALID_TRIPLE_FAULT)
static const struct { const char *name; struct kvm_vcpu_events e; } event_rows[] = {
	{ "nothing", { .flags = VALID } },
	{ "an injected exception", { .flags = VALID, .exception = { .injected = 1, .nr = 13, .has_error_code = 1, .error_code = 0x1234 } } },
	{ "an injected exception without code", { .flags = VALID, .exception = { .injected = 1, .nr = 6 } } },
	{ "a pending exception", { .flags = VALID, .exception = { .pending = 1, .nr = 17, .has_error_code = 1 } } },
	{ "a pending page fault with its address", { .flags = VALID, .exception = { .pending = 1, .nr = 14, .has_error_code = 1, .error_code = 7 },
		.exception_has_payload = 1, .exception_payload = 0x8123456789abcdef } },
	{ "a pending debug exception with DR6", { .flags = VALID, .exception = { .pending = 1, .nr = 1 }, .exception_has_payload = 1, .exception_payload = 0x4000 } },
	{ "an injected interrupt", { .flags = VALID, .interrupt = { .injected = 1, .nr = 0x31 } } },
	{ "the shadow of STI", { .flags = VALID, .interrupt = { .shadow = KVM_X86_SHADOW_INT_STI } } },
	{ "the shadow of MOV SS", { .flags = VALID, .interrupt = { .shadow = KVM_X86_SHADOW_INT_MOV_SS } } },
	{ "an injected NMI", { .flags = VALID, .nmi = { .injected = 1, .masked = 1 } } },
	{ "a pending NMI", { .flags = VALID, .nmi = { .pending = 1 } } },
	{ "NMIs masked", { .flags = VALID, .nmi = { .masked = 1 } } },
	{ "SMM", { .flags = VALID, .smi = { .smm = 1 } } },
	{ "SMM inside of an NMI", { .flags = VALID, .smi = { .smm = 1, .smm_inside_nmi = 1 } } },
	{ "a pending SMI", { .flags = VALID, .smi = { .pending = 1 } } },
	{ "INIT in SMM", { .flags = VALID, .smi = { .smm = 1, .latched_init = 1 } } },
	{ "a triple fault", { .flags = VALID, .triple_fault = { .pending = 1 } } },
};

static void every_event(void **state)
{
	static const uint32_t caps[] = { KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_X86_TRIPLE_FAULT_EVENT };

	for (size_t i = 0; i < COUNT(event_rows); i++) {
		struct kvm_vcpu_events out, in = event_rows[i].e;
		struct rig r;

		rig_open(&r, RIG_IRQCHIP | RIG_CPUID);
		for (unsigned k = 0; k < 2; k++) {
			struct kvm_enable_cap cap = { .cap = caps[k], .args = { 1 } };

			assert_int_equal(rig_ioctl(r.vm, KVM_ENABLE_CAP, &cap), 0);
		}
		for (unsigned k = 0; k < 2; k++) {
			long err = rig_ioctl(r.vcpu, KVM_SET_VCPU_EVENTS, &in);

			if (err)
				fail_msg("%s: %ld", event_rows[i].name, err);
			assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_VCPU_EVENTS, &out), 0);
			for (size_t b = 0; b < sizeof(in); b++)
				if (((uint8_t *)&in)[b] != ((uint8_t *)&out)[b])
					fail_msg("%s: byte %zu is %#x, not %#x", event_rows[k ? 0 : i].name, b, ((uint8_t *)&out)[b], ((uint8_t *)&in)[b]);
			in = event_rows[0].e;		/* and it can be taken back */
		}
		rig_close(&r);
	}
}

/* Clients restore REGS before events, or after them: what was pending goes with the old registers, what was injected stays. */
static void set_regs_and_exceptions(void **state)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_EXCEPTION_PAYLOAD, .args = { 1 } };
	struct kvm_regs regs = { .rflags = 2 };

	for (unsigned injected = 0; injected < 2; injected++) {
		struct kvm_vcpu_events out, in = { .flags = KVM_VCPUEVENT_VALID_PAYLOAD, .exception = { .injected = injected, .pending = !injected, .nr = 13 } };
		struct rig r;

		rig_open(&r, RIG_IRQCHIP | RIG_CPUID);
		assert_int_equal(rig_ioctl(r.vm, KVM_ENABLE_CAP, &cap), 0);
		assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_VCPU_EVENTS, &in), 0);
		assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_REGS, &regs), 0);
		assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_VCPU_EVENTS, &out), 0);
		assert_int_equal(out.exception.injected, injected);
		assert_int_equal(out.exception.pending, 0);
		rig_close(&r);
	}
}

static void every_mp_state(void **state)
{
	static const struct { uint32_t in, out; } rows[] = {
		{ KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_RUNNABLE }, { KVM_MP_STATE_UNINITIALIZED, KVM_MP_STATE_UNINITIALIZED },
		{ KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_INIT_RECEIVED }, { KVM_MP_STATE_HALTED, KVM_MP_STATE_HALTED },
	};

	for (unsigned i = 0; i < 16; i++) {
		struct kvm_mp_state s = { rows[i % 4].in };
		struct rig r;

		rig_open(&r, RIG_IRQCHIP | RIG_CPUID);
		assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_MP_STATE, &s), 0);
		s.mp_state = rows[i / 4].in;
		assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_MP_STATE, &s), 0);
		s.mp_state = 99;
		assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_MP_STATE, &s), 0);
		assert_int_equal(s.mp_state, rows[i / 4].out);
		rig_close(&r);
	}
}

/* But for the bits that follow other state, and are here as they were. */
static void every_entry_of_cpuid(void **state)
{
	static struct rig_cpuid in = { .nent = 3 }, out = { .nent = 100 };
	struct rig r;

	rig_open(&r, 0);
	for (uint32_t i = 0; i < 3; i++)
		in.e[i] = (struct kvm_cpuid_entry2){ .function = i ? 0x10 + i : 0, .index = i, .flags = i ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0, .eax = 0x20 + i,
						     .ebx = 0x30 + i, .ecx = 0x40 + i, .edx = 0x50 + i };
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_CPUID2, &in), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_CPUID2, &out), 0);
	assert_int_equal(out.nent, 3);
	assert_memory_equal(in.e, out.e, 3 * sizeof(in.e[0]));
	rig_close(&r);
}

/* The registers of the shared page are those of the ioctls. */
static void sync_regs(void **state)
{
	static const uint8_t hlt[] = { 0xf4 };
	struct kvm_vcpu_events events;
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	struct rig r;

	rig_open(&r, RIG_CPUID);
	rig_code(&r, hlt, sizeof(hlt));
	r.run->kvm_valid_regs = KVM_SYNC_X86_VALID_FIELDS;
	r.run->kvm_dirty_regs = 0;
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_REGS, &regs), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_SREGS, &sregs), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_VCPU_EVENTS, &events), 0);
	assert_memory_equal(&r.run->s.regs.regs, &regs, sizeof(regs));
	assert_memory_equal(&r.run->s.regs.sregs, &sregs, sizeof(sregs));
	assert_memory_equal(&r.run->s.regs.events, &events, sizeof(events));
	r.run->s.regs.regs.rip = RIG_CODE;
	r.run->s.regs.regs.r15 = 0x123456789abcdef;
	r.run->s.regs.sregs.cr2 = 0x77;
	r.run->s.regs.events.nmi.masked = 1;
	r.run->kvm_dirty_regs = KVM_SYNC_X86_VALID_FIELDS;
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->kvm_dirty_regs, 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_REGS, &regs), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_SREGS, &sregs), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_VCPU_EVENTS, &events), 0);
	assert_int_equal(regs.r15, 0x123456789abcdef);
	assert_int_equal(sregs.cr2, 0x77);
	assert_int_equal(events.nmi.masked, 1);
	rig_close(&r);
}

/* TSC rates: of a VM for vCPUs to be made, of a vCPU; and the offset, a device attribute. */
static void tsc(void **state)
{
	uint64_t offset;
	struct kvm_device_attr attr = { .addr = (uintptr_t)&offset };
	static const uint64_t offsets[] = { 0, 1ull << 40, ~0ull - 12345 };
	struct rig r;

	rig_open(&r, RIG_NO_VCPU);
	assert_int_equal(rig_ioctl_n(r.vm, KVM_SET_TSC_KHZ, 1234567), 0);
	assert_int_equal(rig_ioctl_n(r.vm, KVM_GET_TSC_KHZ, 0), 1234567);
	r.vcpu = rig_vcpu(&r, 0, &r.run);
	assert_int_equal(rig_ioctl_n(r.vcpu, KVM_GET_TSC_KHZ, 0), 1234567);
	assert_int_equal(rig_ioctl_n(r.vcpu, KVM_SET_TSC_KHZ, 7654321), 0);
	assert_int_equal(rig_ioctl_n(r.vcpu, KVM_GET_TSC_KHZ, 0), 7654321);
	for (unsigned i = 0; i < 3; i++) {
		offset = offsets[i];
		assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_DEVICE_ATTR, &attr), 0);
		offset = 77;
		assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_DEVICE_ATTR, &attr), 0);
		assert_int_equal(offset, offsets[i]);
	}
	rig_close(&r);
}

int main(void)
{
	static const struct CMUnitTest fixed[] = {
		{ "every listed MSR takes another value, and no other one changes", every_listed_msr },
		{ "machine-check banks and MTRRs come back", banks_and_ranges },
		{ "every byte of XSAVE and XSAVE2 comes back", every_byte_of_xsave },
		{ "every legal XCR0 comes back", every_xcr0 },
		{ "every kind of VCPU_EVENTS comes back, and can be taken back", every_event },
		{ "SET_REGS drops a pending exception, and no injected one", set_regs_and_exceptions },
		{ "every MP state follows every other one", every_mp_state },
		{ "every entry of CPUID comes back", every_entry_of_cpuid },
		{ "the registers of kvm_run are those of the ioctls", sync_regs },
		{ "TSC rates and offsets come back", tsc },
	};
	struct CMUnitTest tests[COUNT(fixed) + COUNT(pairs)];

	memcpy(tests, fixed, sizeof(fixed));
	for (size_t i = 0; i < COUNT(pairs); i++)
		tests[COUNT(fixed) + i] = (struct CMUnitTest){ .name = pairs[i].name, .test_func = check_pair, .initial_state = (void *)(uintptr_t)&pairs[i] };
	return cmocka_run_group_tests_name("round trips", tests, NULL, NULL);
}
