/* SPDX-License-Identifier: MIT */
/*
 * System management mode: entry, both layouts of the save area, RSM, the second address space, and what waits meanwhile. The
 * handler's own memory is mapped at 0x30000 in address space 1 only; the interrupted code sees other memory there.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "rig.h"

#define SMBASE	0x30000u
#define SPACE1	(1u << 16)

static struct rig r;
static uint8_t *smram;		/* 64 KiB at SMBASE in space 1 */

static uint64_t saved(unsigned at, unsigned n)
{
	uint64_t v = 0;

	memcpy(&v, smram + 0x8000 + at, n);
	return v;
}

static void set_saved(unsigned at, unsigned n, uint64_t v)
{
	memcpy(smram + 0x8000 + at, &v, n);
}

static void map(uint32_t slot, uint64_t gpa, void *at, uint64_t size, uint32_t flags)
{
	struct kvm_userspace_memory_region m = { .slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uintptr_t)at,
		.flags = flags };

	assert_int_equal(rig_ioctl(r.vm, KVM_SET_USER_MEMORY_REGION, &m), 0);
}

static void start(unsigned flags, const void *handler, size_t n)
{
	rig_open(&r, flags);
	smram = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(smram != MAP_FAILED);
	map(SPACE1, 0, r.ram, SMBASE, 0);
	map(SPACE1 | 1, SMBASE, smram, 0x10000, 0);
	memset(r.ram + SMBASE, 0xf4, 0x10000);
	memcpy(smram + 0x8000, handler, n);
}

static void stop(void)
{
	rig_close(&r);
	munmap(smram, 0x10000);
}

static struct kvm_vcpu_events events(void)
{
	struct kvm_vcpu_events e;

	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_VCPU_EVENTS, &e), 0);
	return e;
}

static void smi(void)
{
	assert_int_equal(rig_ioctl_n(r.vcpu, KVM_SMI, 0), 0);
}

static void expect_out(uint16_t port, bool in_smm)
{
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(r.run->io.port, port);
	assert_int_equal(r.run->flags & KVM_RUN_X86_SMM, in_smm ? KVM_RUN_X86_SMM : 0);
	assert_int_equal(events().smi.smm, in_smm);
}

/* out 51,al; rsm */
static const uint8_t out_rsm[] = { 0xe6, 0x51, 0x0f, 0xaa };
/* 1: inc ax; out 50,al; jmp 1b */
static const uint8_t ticking[] = { 0x40, 0xe6, 0x50, 0xeb, 0xfb };

static void smi_enters_and_rsm_leaves(void **state)
{
	struct kvm_regs before, in, after, regs = { .rax = 0x1111111122222222, .rbx = 3, .rcx = 4, .rdx = 5, .rsi = 6, .rdi = 7, .rsp = 0x8000,
		.rbp = 9, .r8 = 10, .r9 = 11, .r10 = 12, .r11 = 13, .r12 = 14, .r13 = 15, .r14 = 16, .r15 = 17, .rip = RIG_CODE, .rflags = 0xad7 };
	struct kvm_sregs sbefore, sin, safter;

	start(RIG_CPUID, out_rsm, sizeof(out_rsm));
	rig_code(&r, ticking, sizeof(ticking));
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_REGS, &regs), 0);
	expect_out(0x50, false);
	smi();
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_REGS, &before), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_SREGS, &sbefore), 0);
	expect_out(0x51, true);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_REGS, &in), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_SREGS, &sin), 0);
	assert_int_equal(in.rip, 0x8000);
	assert_int_equal(in.rflags, 2);
	assert_int_equal(sin.cs.base, SMBASE);
	assert_int_equal(sin.cs.selector, SMBASE >> 4);
	assert_int_equal(sin.ds.base, 0);
	assert_int_equal(sin.ds.limit, 0xffffffff);
	assert_int_equal(sin.cr4, 0);
	assert_int_equal(sin.idt.limit, 0);
	assert_int_equal(events().nmi.masked, 1);
	/* Long mode in CPUID: the 64-bit layout. The OUT had been completed, so RIP is behind it. */
	assert_int_equal(saved(0x7efc, 4), 0x20064);
	assert_int_equal(saved(0x7f00, 4), SMBASE);
	assert_int_equal(saved(0x7f78, 8), RIG_CODE + 3);
	assert_int_equal(saved(0x7f70, 8), before.rflags);
	assert_int_equal(saved(0x7ff8, 8), before.rax);
	assert_int_equal(saved(0x7ff0, 8), before.rcx);
	assert_int_equal(saved(0x7f80, 8), before.r15);
	assert_int_equal(saved(0x7e10, 2), sbefore.cs.selector);
	assert_int_equal(saved(0x7e18, 8), sbefore.cs.base);
	/* It was written to the second space's memory only. */
	assert_int_equal(r.ram[SMBASE + 0xfefc], 0xf4);
	expect_out(0x50, false);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_REGS, &after), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_SREGS, &safter), 0);
	before.rax++;
	before.rip = RIG_CODE + 1;
	after.rflags = before.rflags;
	assert_memory_equal(&after, &before, sizeof(after));
	assert_memory_equal(&safter, &sbefore, sizeof(safter));
	assert_int_equal(events().nmi.masked, 0);
	stop();
}

static void handler_changes_the_saved_state(void **state)
{
	static const uint8_t halt[] = { 0xf4 };
	struct rig_msrs m = { .nmsrs = 2, .e = { { .index = 0x9e }, { .index = 0x34 } } };
	struct kvm_regs regs;

	start(RIG_CPUID, out_rsm, sizeof(out_rsm));
	rig_code(&r, ticking, sizeof(ticking));
	memcpy(r.ram + 0x2000, halt, 1);
	expect_out(0x50, false);
	smi();
	expect_out(0x51, true);
	set_saved(0x7ff8, 8, 0xabcdef);
	set_saved(0x7f78, 8, 0x2000);
	set_saved(0x7f00, 4, SMBASE - 0x7000);
	memcpy(smram + 0x1000, out_rsm, sizeof(out_rsm));
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_HLT);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_REGS, &regs), 0);
	assert_int_equal(regs.rax, 0xabcdef);
	assert_int_equal(regs.rip, 0x2001);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_MSRS, &m), 2);
	assert_int_equal(m.e[0].data, SMBASE - 0x7000);
	assert_int_equal(m.e[1].data, 1);
	/* The next one goes to the new place. */
	smi();
	expect_out(0x51, true);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_REGS, &regs), 0);
	memset(smram + 0x8000, 0, 1);
	assert_int_equal(smram[0x7000 + 0x1efc], 0x64);
	stop();
}

/* Without long mode in CPUID. */
static void layout_of_32_bits(void **state)
{
	struct rig_cpuid c = { .nent = 100 };
	struct kvm_regs regs;

	start(0, out_rsm, sizeof(out_rsm));
	assert_int_equal(rig_ioctl(r.sys, KVM_GET_SUPPORTED_CPUID, &c), 0);
	for (unsigned i = 0; i < c.nent; i++)
		if (c.e[i].function == 0x80000001)
			c.e[i].edx &= ~(1u << 29);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_CPUID2, &c), 0);
	rig_code(&r, ticking, sizeof(ticking));
	regs = (struct kvm_regs){ .rax = 0x12345678, .rdi = 0x77, .rsp = 0x8000, .rip = RIG_CODE, .rflags = 2 };
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_REGS, &regs), 0);
	smi();
	expect_out(0x51, true);
	assert_int_equal(saved(0x7efc, 4), 0x20000);
	assert_int_equal(saved(0x7ef8, 4), SMBASE);
	assert_int_equal(saved(0x7ff0, 4), RIG_CODE);
	assert_int_equal(saved(0x7fd0, 4), 0x12345678);
	assert_int_equal(saved(0x7fec, 4), 0x77);
	set_saved(0x7fec, 4, 0x88);
	expect_out(0x50, false);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_REGS, &regs), 0);
	assert_int_equal(regs.rdi, 0x88);
	assert_int_equal(regs.rax, 0x12345679);
	stop();
}

/* In 64-bit mode with paging: everything comes back, control registers and segments too. */
static void long_mode_comes_back(void **state)
{
	/* 1: inc rax; out 50,al; jmp 1b */
	static const uint8_t code[] = { 0x48, 0xff, 0xc0, 0xe6, 0x50, 0xeb, 0xf9 };
	struct kvm_regs regs = { .rax = 0xffffffff00000000, .r12 = 0x123456789abcdef0, .rip = RIG_CODE, .rsp = 0x8000, .rflags = 0x202 }, got;
	struct kvm_sregs s, in, after;
	uint64_t *pml4, *pdpt, *pd;

	start(RIG_CPUID, out_rsm, sizeof(out_rsm));
	pml4 = (uint64_t *)(void *)(r.ram + 0x9000);
	pdpt = pml4 + 512;
	pd = pdpt + 512;
	pml4[0] = 0xa003;
	pdpt[0] = 0xb003;
	pd[0] = 0x83;
	rig_code(&r, code, sizeof(code));
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_SREGS, &s), 0);
	s.cr0 = 0x80000011;
	s.cr3 = 0x9000;
	s.cr4 = 0x620;
	s.efer = 0xd01;
	s.cs = (struct kvm_segment){ .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 };
	s.ss = s.ds = s.es = (struct kvm_segment){ .limit = 0xffffffff, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
	s.fs = (struct kvm_segment){ .base = 0x7fff12345678, .unusable = 1 };
	s.tr = (struct kvm_segment){ .base = 0xffff800000001000, .limit = 0x67, .selector = 0x40, .type = 11, .present = 1 };
	s.gdt = (struct kvm_dtable){ .base = 0xffff800000002000, .limit = 0x7f };
	s.idt = (struct kvm_dtable){ .base = 0xffff800000003000, .limit = 0xfff };
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_SREGS, &s), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_REGS, &regs), 0);
	expect_out(0x50, false);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_SREGS, &s), 0);
	smi();
	expect_out(0x51, true);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_SREGS, &in), 0);
	assert_int_equal(in.cr0, 0x10);
	assert_int_equal(in.efer, 0);
	assert_int_equal(saved(0x7ed0, 8), 0xd01);
	assert_int_equal(saved(0x7f58, 8), 0x80000011);
	expect_out(0x50, false);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_SREGS, &after), 0);
	assert_memory_equal(&after, &s, sizeof(s));
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_REGS, &got), 0);
	assert_int_equal(got.rax, 0xffffffff00000002);
	assert_int_equal(got.r12, regs.r12);
	stop();
}

static void rsm_outside_is_undefined(void **state)
{
	static const uint8_t code[] = { 0x0f, 0xaa, 0xf4 }, handler[] = { 0xe6, 0x66, 0xf4 };
	const uint16_t entry[2] = { 0x2000, 0 };

	start(RIG_CPUID, out_rsm, sizeof(out_rsm));
	rig_code(&r, code, sizeof(code));
	memcpy(r.ram + 6 * 4, entry, 4);
	memcpy(r.ram + 0x2000, handler, sizeof(handler));
	expect_out(0x66, false);
	stop();
}

static void impossible_state_shuts_down(void **state)
{
	start(RIG_CPUID, out_rsm, sizeof(out_rsm));
	rig_code(&r, ticking, sizeof(ticking));
	smi();
	expect_out(0x51, true);
	set_saved(0x7f58, 8, 0x80000010);	/* CR0: PG without PE */
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_SHUTDOWN);
	stop();
}

static void no_smram_shuts_down(void **state)
{
	start(RIG_CPUID, out_rsm, sizeof(out_rsm));
	map(SPACE1 | 1, SMBASE, smram, 0, 0);
	rig_code(&r, ticking, sizeof(ticking));
	smi();
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_SHUTDOWN);
	stop();
}

static void smi_ends_hlt(void **state)
{
	/* cli; hlt; out 50,al; hlt */
	static const uint8_t code[] = { 0xfa, 0xf4, 0xe6, 0x50, 0xf4 };
	struct kvm_msi ipi = { .address_lo = 0xfee00000, .data = 0x200 };

	start(RIG_CPUID | RIG_IRQCHIP, out_rsm, sizeof(out_rsm));
	rig_code(&r, code, sizeof(code));
	r.run->immediate_exit = 0;
	smi();
	expect_out(0x51, true);		/* before the first instruction */
	assert_int_equal(saved(0x7f78, 8), RIG_CODE);
	/* Into HLT, then an SMI by message. */
	assert_int_equal(rig_ioctl(r.vm, KVM_SIGNAL_MSI, &ipi), 1);
	expect_out(0x51, true);
	stop();
}

/* NMI, INIT and a second SMI wait for RSM. */
static void others_wait(void **state)
{
	static const uint8_t nmi[] = { 0xe6, 0x52, 0xcf };	/* out 52,al; iret */
	const uint16_t entry[2] = { 0x2000, 0 };
	struct kvm_msi init = { .address_lo = 0xfee00000, .data = 0x500 };
	struct kvm_vcpu_events e;
	struct kvm_sregs s;

	start(RIG_CPUID | RIG_IRQCHIP, out_rsm, sizeof(out_rsm));
	rig_code(&r, ticking, sizeof(ticking));
	memcpy(r.ram + 2 * 4, entry, 4);
	memcpy(r.ram + 0x2000, nmi, sizeof(nmi));
	smi();
	expect_out(0x51, true);
	assert_int_equal(rig_ioctl_n(r.vcpu, KVM_NMI, 0), 0);
	smi();
	e = events();
	assert_int_equal(e.smi.pending, 1);
	assert_int_equal(e.nmi.pending, 1);
	expect_out(0x51, true);		/* the second SMI, straight after RSM */
	assert_int_equal(events().smi.pending, 0);
	expect_out(0x52, false);
	assert_int_equal(events().nmi.masked, 1);
	/* An SMI inside the NMI's handler: it stays masked afterwards. */
	smi();
	expect_out(0x51, true);
	assert_int_equal(events().smi.smm_inside_nmi, 1);
	expect_out(0x50, false);
	assert_int_equal(events().nmi.masked, 0);	/* the handler's IRET came in between */
	smi();
	expect_out(0x51, true);
	assert_int_equal(rig_ioctl(r.vm, KVM_SIGNAL_MSI, &init), 1);
	e = events();
	assert_int_equal(e.smi.latched_init, 1);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_VCPU_EVENTS, &e), 0);
	assert_int_equal(events().smi.latched_init, 1);
	/* INIT after RSM: this is the boot processor, so it starts at its reset vector, where nothing is. */
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_INTERNAL_ERROR);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_SREGS, &s), 0);
	assert_int_equal(s.cs.base, 0xffff0000);
	assert_int_equal(events().smi.smm, 0);
	stop();
}

/* KVM_SET_VCPU_EVENTS puts a vCPU into SMM and out of it; the memory it sees follows. */
static void state_is_the_clients_too(void **state)
{
	/* mov al,[cs:0]; out 50,al; jmp 0 - with CS at 0x30000 */
	static const uint8_t code[] = { 0x2e, 0xa0, 0x00, 0x01, 0xe6, 0x50, 0xeb, 0xf8 };
	struct kvm_vcpu_events e;
	struct kvm_sregs s;
	uint8_t *data;

	start(RIG_CPUID, code, 0);
	memcpy(r.ram + SMBASE, code, sizeof(code));
	memcpy(smram, code, sizeof(code));
	r.ram[SMBASE + 0x100] = 0x11;
	smram[0x100] = 0x22;
	rig_real_mode(r.vcpu, 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_SREGS, &s), 0);
	s.cs.base = SMBASE;
	s.cs.selector = SMBASE >> 4;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_SREGS, &s), 0);
	data = (uint8_t *)r.run + 4096;
	for (unsigned i = 0; i < 4; i++) {
		bool in_smm = i & 1;

		e = events();
		e.flags |= KVM_VCPUEVENT_VALID_SMM;
		e.smi.smm = in_smm;
		assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_VCPU_EVENTS, &e), 0);
		expect_out(0x50, in_smm);
		assert_int_equal(*data, in_smm ? 0x22 : 0x11);
		/* Once more, out of what has been remembered. */
		expect_out(0x50, in_smm);
		assert_int_equal(*data, in_smm ? 0x22 : 0x11);
	}
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_MP_STATE, &(struct kvm_mp_state){ KVM_MP_STATE_SIPI_RECEIVED }), -EINVAL);
	stop();
}

/* Slots of the second space: numbers, logs, and moving them while the vCPU is there. */
static void second_space(void **state)
{
	struct kvm_userspace_memory_region m = { .slot = 2u << 16, .memory_size = 4096, .userspace_addr = 0 };
	struct kvm_dirty_log log = { .slot = SPACE1 | 1 };
	/* mov [cs:100],al; out 51,al; jmp $-7... as the handler */
	static const uint8_t handler[] = { 0x2e, 0xa2, 0x00, 0x01, 0xe6, 0x51, 0xeb, 0xf8 };
	uint8_t *other = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t bits[1];

	start(RIG_CPUID, handler, sizeof(handler));
	m.userspace_addr = (uintptr_t)r.ram;
	assert_int_equal(rig_ioctl(r.vm, KVM_SET_USER_MEMORY_REGION, &m), -EINVAL);
	m.slot = SPACE1 | 0x7ffc;
	assert_int_equal(rig_ioctl(r.vm, KVM_SET_USER_MEMORY_REGION, &m), -EINVAL);
	log.dirty_bitmap = bits;
	assert_int_equal(rig_ioctl(r.vm, KVM_GET_DIRTY_LOG, &log), -ENOENT);
	map(SPACE1 | 1, SMBASE, smram, 0x10000, KVM_MEM_LOG_DIRTY_PAGES);
	rig_code(&r, ticking, sizeof(ticking));
	smi();
	expect_out(0x51, true);
	assert_int_equal(rig_ioctl(r.vm, KVM_GET_DIRTY_LOG, &log), 0);
	assert_int_equal(bits[0], 1u << 15 | 1u);	/* the save area, and the handler's store */
	assert_int_equal(rig_ioctl(r.vm, KVM_GET_DIRTY_LOG, &log), 0);
	assert_int_equal(bits[0], 0);
	expect_out(0x51, true);
	assert_int_equal(rig_ioctl(r.vm, KVM_GET_DIRTY_LOG, &log), 0);
	assert_int_equal(bits[0], 1);
	/* Other memory in its place, with the same handler. */
	memcpy(other, smram, 0x10000);
	map(SPACE1 | 1, SMBASE, smram, 0, 0);
	map(SPACE1 | 1, SMBASE, other, 0x10000, 0);
	other[0x100] = smram[0x100] = 0x99;
	expect_out(0x51, true);
	assert_int_not_equal(other[0x100], 0x99);
	assert_int_equal(smram[0x100], 0x99);
	stop();
	munmap(other, 0x10000);
}

static void protected_vms_have_none(void **state)
{
	int sys = gw_open(), vm = (int)rig_ioctl_n(sys, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
	struct kvm_userspace_memory_region m = { .slot = SPACE1, .memory_size = 4096 };
	struct kvm_vcpu_events e = { .flags = KVM_VCPUEVENT_VALID_SMM, .smi = { .smm = 1 } };
	int vcpu;

	assert_true(vm >= 0);
	assert_int_equal(rig_ioctl_n(sys, KVM_CHECK_EXTENSION, KVM_CAP_X86_SMM), 1);
	assert_int_equal(rig_ioctl_n(sys, KVM_CHECK_EXTENSION, KVM_CAP_MULTI_ADDRESS_SPACE), 2);
	assert_int_equal(rig_ioctl_n(vm, KVM_CHECK_EXTENSION, KVM_CAP_X86_SMM), 0);
	assert_int_equal(rig_ioctl_n(vm, KVM_CHECK_EXTENSION, KVM_CAP_MULTI_ADDRESS_SPACE), 1);
	assert_int_equal(rig_ioctl(vm, KVM_SET_USER_MEMORY_REGION, &m), -EINVAL);
	vcpu = (int)rig_ioctl_n(vm, KVM_CREATE_VCPU, 0);
	assert_int_equal(rig_ioctl_n(vcpu, KVM_SMI, 0), -ENOTTY);
	assert_int_equal(rig_ioctl(vcpu, KVM_SET_VCPU_EVENTS, &e), -EINVAL);
	e.smi.smm = 0;
	assert_int_equal(rig_ioctl(vcpu, KVM_SET_VCPU_EVENTS, &e), 0);
	gw_close(vcpu);
	gw_close(vm);
	gw_close(sys);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		{ "an SMI enters with KVM's state, RSM brings everything back", smi_enters_and_rsm_leaves },
		{ "what the handler writes into the save area takes effect, SMBASE too", handler_changes_the_saved_state },
		{ "without long mode in CPUID the save area has the 32-bit layout", layout_of_32_bits },
		{ "64-bit mode, paging and segments come back", long_mode_comes_back },
		{ "RSM outside SMM is #UD", rsm_outside_is_undefined },
		{ "RSM of an impossible state is a shutdown", impossible_state_shuts_down },
		{ "an SMI without memory for its state is a shutdown", no_smram_shuts_down },
		{ "an SMI comes before the first instruction and as a message", smi_ends_hlt },
		{ "NMI, INIT and SMI wait for RSM", others_wait },
		{ "the client puts a vCPU into SMM and out; its memory follows", state_is_the_clients_too },
		{ "slots of the second space: numbers, dirty log, moving", second_space },
		{ "a protected VM has no SMM and one space", protected_vms_have_none },
	};

	return cmocka_run_group_tests_name("System management mode", tests, NULL, NULL);
}
