/* SPDX-License-Identifier: MIT */
/*
 * Every ioctl with bad pointers, on the wrong descriptor, with another size in its number, after fork and after close; and
 * rows of wrong arguments and wrong states with the errno that KVM gives.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <guestward/monitor.h>

#include "rig.h"

enum arg { P_NONE, P_NUM, P_IN, P_OUT, P_INOUT };

static const struct entry { const char *name; unsigned long nr; bool on[3]; enum arg arg; } entries[] = {
#define X(nr, s, v, c, arg) { #nr, nr, { s, v, c }, arg },
#include "table.def"
#include "own.def"
#undef X
};
#define N_ENTRIES (sizeof(entries) / sizeof(entries[0]))

static bool has_pointer(const struct entry *e)
{
	return e->arg >= P_IN;
}

static void expect(const char *what, const struct entry *e, unsigned kind, long got, long want)
{
	static const char *const kinds[] = { "system", "VM", "vCPU" };

	if (got != want)
		fail_msg("%s %s on the %s descriptor: %ld, not %ld", e->name, what, kinds[kind], got, want);
}

static int fd_of(const struct rig *r, unsigned kind)
{
	return kind == 0 ? r->sys : kind == 1 ? r->vm : r->vcpu;
}

static const long unknown[] = { -EINVAL, -ENOTTY, -EINVAL };

static void wrong_descriptor(void **state)
{
	static uint8_t zero[8192];
	struct rig r;

	rig_open(&r, RIG_IRQCHIP);
	for (unsigned i = 0; i < N_ENTRIES; i++)
		for (unsigned k = 0; k < 3; k++)
			if (!entries[i].on[k])
				expect("", &entries[i], k, rig_ioctl(fd_of(&r, k), entries[i].nr, zero), unknown[k]);
	rig_close(&r);
}

static void wrong_size(void **state)
{
	static uint8_t zero[32768];
	struct rig r;

	rig_open(&r, RIG_IRQCHIP);
	for (unsigned i = 0; i < N_ENTRIES; i++)
		for (unsigned k = 0; k < 3; k++)
			expect("with another size", &entries[i], k,
			       rig_ioctl(fd_of(&r, k), entries[i].nr + (1ul << _IOC_SIZESHIFT) * 24, zero), unknown[k]);
	/* Only the low 32 bits of the number count, as for a client that passes an int. */
	assert_int_equal(rig_ioctl_n(r.sys, 0xffffffff00000000ul | KVM_GET_API_VERSION, 0), KVM_API_VERSION);
	rig_close(&r);
}

static void bad_pointer(void **state)
{
	static const uintptr_t bad[] = { 0x10, 0x7fffffffe000ul, ~0ul - 7, 0x8000000000000000ul };
	struct kvm_pit_config pit = { 0 };
	struct rig r;

	rig_open(&r, RIG_IRQCHIP);
	assert_int_equal(rig_ioctl(r.vm, KVM_CREATE_PIT2, &pit), 0);
	for (unsigned i = 0; i < N_ENTRIES; i++)
		for (unsigned k = 0; k < 3; k++)
			for (unsigned b = 0; b < 4 && entries[i].on[k] && has_pointer(&entries[i]); b++)
				expect("with a bad pointer", &entries[i], k, rig_ioctl_n(fd_of(&r, k), entries[i].nr, bad[b]), -EFAULT);
	rig_close(&r);
}

/* The last byte of the argument lies on a page that is not there; what is written goes to a read-only page. */
static void half_pointer(void **state)
{
	struct kvm_pit_config pit = { 0 };
	uint8_t *two = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct rig r;

	munmap(two + 8192, 8192);
	rig_open(&r, RIG_IRQCHIP);
	assert_int_equal(rig_ioctl(r.vm, KVM_CREATE_PIT2, &pit), 0);
	for (unsigned i = 0; i < N_ENTRIES; i++) {
		const struct entry *e = &entries[i];
		size_t size = _IOC_SIZE(e->nr);
		void *at = two + 8192 - size + 1;

		if (!has_pointer(e) || size < 2)
			continue;
		for (unsigned k = 0; k < 3; k++)
			if (e->on[k])
				expect("with half an argument", e, k, rig_ioctl(fd_of(&r, k), e->nr, at), -EFAULT);
	}
	mprotect(two, 8192, PROT_READ);
	for (unsigned i = 0; i < N_ENTRIES; i++)
		for (unsigned k = 0; k < 3; k++)
			if (entries[i].arg == P_OUT && entries[i].on[k])
				expect("with a read-only argument", &entries[i], k, rig_ioctl(fd_of(&r, k), entries[i].nr, two), -EFAULT);
	munmap(two, 8192);
	rig_close(&r);
}

static void must_be_zero(void **state)
{
	struct rig r;

	rig_open(&r, 0);
	for (unsigned i = 0; i < N_ENTRIES; i++)
		for (unsigned k = 0; k < 3; k++)
			if (entries[i].arg == P_NONE && entries[i].on[k])
				expect("with an argument", &entries[i], k, rig_ioctl_n(fd_of(&r, k), entries[i].nr, 1), -EINVAL);
	rig_close(&r);
}

static void after_close(void **state)
{
	static uint8_t zero[8192];
	struct rig r, old;

	rig_open(&r, 0);
	old = r;
	rig_close(&r);
	for (unsigned i = 0; i < N_ENTRIES; i++)
		for (unsigned k = 0; k < 3; k++)
			expect("after close", &entries[i], k, rig_ioctl(fd_of(&old, k), entries[i].nr, zero), -EBADF);
	assert_int_equal(gw_ioctl(0, KVM_GET_API_VERSION, 0), -EBADF);
	assert_int_equal(gw_close(-1), -EBADF);
	assert_int_equal(gw_owns(0), 0);
}

/* In a forked child every VM and vCPU ioctl that exists is EIO. */
static void after_fork(void **state)
{
	static uint8_t zero[8192];
	struct rig r;
	int status;
	pid_t pid;

	rig_open(&r, 0);
	pid = fork();
	if (pid == 0) {
		int bad = 0;

		for (unsigned i = 0; i < N_ENTRIES; i++)
			for (unsigned k = 1; k < 3; k++)
				bad += entries[i].on[k] && rig_ioctl(fd_of(&r, k), entries[i].nr, zero) != -EIO;
		_exit(bad > 255 ? 255 : bad);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_true(rig_ioctl_n(r.vm, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP) == 1);
	rig_close(&r);
}

/* A sandbox without process_vm_readv and writev: pointers are as safe, by another way. */
static bool forbid_process_vm(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_writev, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(code) / sizeof(code[0]), code };

	return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

static int sandboxed_child(void)
{
	struct kvm_regs in = { .rax = 0x123456789, .rflags = 2 }, out = { 0 };
	uint8_t *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	static struct kvm_xsave xsave;
	int sys, vm, vcpu, bad = 0;

	if (!forbid_process_vm())
		return 77;
	sys = gw_open();
	vm = (int)rig_ioctl_n(sys, KVM_CREATE_VM, 0);
	vcpu = (int)rig_ioctl_n(vm, KVM_CREATE_VCPU, 0);
	munmap(page + 4096, 4096);
	bad += rig_ioctl(vcpu, KVM_SET_REGS, &in) != 0;
	bad += rig_ioctl(vcpu, KVM_GET_REGS, &out) != 0;
	bad += out.rax != in.rax;
	bad += rig_ioctl(vcpu, KVM_GET_XSAVE, &xsave) != 0;
	bad += rig_ioctl_n(vcpu, KVM_SET_REGS, 0x10) != -EFAULT;
	bad += rig_ioctl_n(vcpu, KVM_GET_REGS, 0x10) != -EFAULT;
	bad += rig_ioctl(vcpu, KVM_SET_REGS, page + 4096 - 8) != -EFAULT;
	bad += rig_ioctl(vcpu, KVM_GET_XSAVE, page + 8) != -EFAULT;
	mprotect(page, 4096, PROT_READ);
	bad += rig_ioctl(vcpu, KVM_GET_REGS, page) != -EFAULT;
	return bad;
}

static void in_a_sandbox(void **state)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(sandboxed_child());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip();		/* no seccomp here */
	assert_int_equal(status, 0);
}

/* ---- rows -------------------------------------------------------------------------------------------------------------- */

enum on { SYS, VM, VCPU };

#define STRUCT(type, ...) (const void *)&(const type){ __VA_ARGS__ }
#define CAP(n, ...) VM, KVM_ENABLE_CAP, STRUCT(struct kvm_enable_cap, .cap = n, __VA_ARGS__)

static const struct row {
	const char *name;
	unsigned flags;			/* RIG_* */
	enum on on;
	unsigned long nr;
	const void *arg;
	long want;
} rows[] = {
	{ "a VM of an unknown type is EINVAL", 0, SYS, KVM_CREATE_VM, (void *)6, -EINVAL },
	{ "no MSR-sized registers: ONE_REG is EINVAL on a vCPU", 0, VCPU, KVM_GET_ONE_REG, STRUCT(struct kvm_one_reg, .id = 0), -EINVAL },
	{ "KVM_SET_ONE_REG is EINVAL on a vCPU", 0, VCPU, KVM_SET_ONE_REG, STRUCT(struct kvm_one_reg, .id = 0), -EINVAL },
	{ "ONE_REG's capability is 0", 0, VM, KVM_CHECK_EXTENSION, (void *)KVM_CAP_ONE_REG, 0 },
	{ "asynchronous page faults may be switched on", 0, VM, KVM_CHECK_EXTENSION, (void *)KVM_CAP_ASYNC_PF, 1 },
	{ "and come by interrupt", 0, VM, KVM_CHECK_EXTENSION, (void *)KVM_CAP_ASYNC_PF_INT, 1 },
	{ "KVM_CAP_VAPIC is 0, as with a TPR shadow", 0, VM, KVM_CHECK_EXTENSION, (void *)KVM_CAP_VAPIC, 0 },
	{ "TPR reporting with flags is EINVAL", RIG_IRQCHIP, VCPU, KVM_TPR_ACCESS_REPORTING, STRUCT(struct kvm_tpr_access_ctl, .flags = 1), -EINVAL },
	{ "TPR reporting is taken, and never reports", RIG_IRQCHIP, VCPU, KVM_TPR_ACCESS_REPORTING, STRUCT(struct kvm_tpr_access_ctl, .enabled = 1), 0 },
	{ "a vAPIC page without a LAPIC is EINVAL", 0, VCPU, KVM_SET_VAPIC_ADDR, STRUCT(struct kvm_vapic_addr, 0x2000), -EINVAL },
	{ "a vAPIC page outside of memory is EINVAL", RIG_IRQCHIP, VCPU, KVM_SET_VAPIC_ADDR, STRUCT(struct kvm_vapic_addr, 0x7000000), -EINVAL },
	{ "a vAPIC page is fine", RIG_IRQCHIP, VCPU, KVM_SET_VAPIC_ADDR, STRUCT(struct kvm_vapic_addr, 0x2000), 0 },
	{ "emulated CPUID without room is E2BIG", 0, SYS, KVM_GET_EMULATED_CPUID, STRUCT(struct kvm_cpuid2, .nent = 0), -E2BIG },
	{ "an unknown capability is 0", 0, SYS, KVM_CHECK_EXTENSION, (void *)99999, 0 },
	{ "a device attribute that is not there is ENXIO", 0, SYS, KVM_HAS_DEVICE_ATTR, STRUCT(struct kvm_device_attr, .group = 5), -ENXIO },

	{ "the same vCPU id again is EEXIST", 0, VM, KVM_CREATE_VCPU, (void *)0, -EEXIST },
	{ "vCPU id 4096 is EINVAL", 0, VM, KVM_CREATE_VCPU, (void *)4096, -EINVAL },
	{ "a vCPU id of 64 bits is EINVAL", 0, VM, KVM_CREATE_VCPU, (void *)0x100000001, -EINVAL },
	{ "an irqchip after a vCPU is EINVAL", 0, VM, KVM_CREATE_IRQCHIP, 0, -EINVAL },
	{ "a second irqchip is EEXIST", RIG_IRQCHIP, VM, KVM_CREATE_IRQCHIP, 0, -EEXIST },
	{ "a split irqchip beside a full one is EEXIST", RIG_IRQCHIP | RIG_NO_VCPU, CAP(KVM_CAP_SPLIT_IRQCHIP), -EEXIST },
	{ "a split irqchip after a vCPU is EEXIST", 0, CAP(KVM_CAP_SPLIT_IRQCHIP), -EEXIST },
	{ "a split irqchip of 4097 pins is EINVAL", RIG_NO_VCPU, CAP(KVM_CAP_SPLIT_IRQCHIP, .args = { 4097 }), -EINVAL },
	{ "a TSS at the end of 4 GiB is EINVAL", 0, VM, KVM_SET_TSS_ADDR, (void *)0xffffe000, -EINVAL },
	{ "an identity map after a vCPU is EINVAL", 0, VM, KVM_SET_IDENTITY_MAP_ADDR, STRUCT(uint64_t, 0), -EINVAL },
	{ "an identity map before is fine", RIG_NO_VCPU, VM, KVM_SET_IDENTITY_MAP_ADDR, STRUCT(uint64_t, 0xfeffc000), 0 },
	{ "a boot CPU after a vCPU is EBUSY", 0, VM, KVM_SET_BOOT_CPU_ID, 0, -EBUSY },
	{ "63 MMU pages are EINVAL", 0, VM, KVM_SET_NR_MMU_PAGES, (void *)63, -EINVAL },
	{ "a VM's TSC rate after a vCPU is EINVAL", 0, VM, KVM_SET_TSC_KHZ, (void *)1000000, -EINVAL },

	{ "an interrupt line without a chip is ENXIO", 0, VM, KVM_IRQ_LINE, STRUCT(struct kvm_irq_level, .irq = 1), -ENXIO },
	{ "an unrouted line is 0", RIG_IRQCHIP, VM, KVM_IRQ_LINE, STRUCT(struct kvm_irq_level, .irq = 3000), 0 },
	{ "an MSI without a chip is EINVAL", 0, VM, KVM_SIGNAL_MSI, STRUCT(struct kvm_msi, .flags = 0), -EINVAL },
	{ "an MSI with unknown flags is EINVAL", RIG_IRQCHIP, VM, KVM_SIGNAL_MSI, STRUCT(struct kvm_msi, .flags = 2), -EINVAL },
	{ "routing without a chip is EINVAL", 0, VM, KVM_SET_GSI_ROUTING, STRUCT(struct kvm_irq_routing, .nr = 0), -EINVAL },
	{ "routing with flags is EINVAL", RIG_IRQCHIP, VM, KVM_SET_GSI_ROUTING, STRUCT(struct kvm_irq_routing, .flags = 1), -EINVAL },
	{ "4097 routes are EINVAL", RIG_IRQCHIP, VM, KVM_SET_GSI_ROUTING, STRUCT(struct kvm_irq_routing, .nr = 4097), -EINVAL },
	{ "a chip's state without a chip is ENXIO", 0, VM, KVM_SET_IRQCHIP, STRUCT(struct kvm_irqchip, .chip_id = 0), -ENXIO },
	{ "a chip's state in split mode is ENXIO", RIG_SPLIT, VM, KVM_SET_IRQCHIP, STRUCT(struct kvm_irqchip, .chip_id = 0), -ENXIO },
	{ "the state of chip 3 is EINVAL", RIG_IRQCHIP, VM, KVM_SET_IRQCHIP, STRUCT(struct kvm_irqchip, .chip_id = 3), -EINVAL },
	{ "a PIT without a chip is ENOENT", 0, VM, KVM_CREATE_PIT2, STRUCT(struct kvm_pit_config, .flags = 0), -ENOENT },
	{ "a PIT in split mode is ENOENT", RIG_SPLIT, VM, KVM_CREATE_PIT2, STRUCT(struct kvm_pit_config, .flags = 0), -ENOENT },
	{ "a PIT with unknown flags is EINVAL", RIG_IRQCHIP, VM, KVM_CREATE_PIT2, STRUCT(struct kvm_pit_config, .flags = 2), -EINVAL },
	{ "a PIT's state without one is ENXIO", RIG_IRQCHIP, VM, KVM_SET_PIT2, STRUCT(struct kvm_pit_state2, .flags = 0), -ENXIO },
	{ "reinjection without a PIT is ENXIO", RIG_IRQCHIP, VM, KVM_REINJECT_CONTROL, STRUCT(struct kvm_reinject_control, 0), -ENXIO },
	{ "an irqfd without a chip is EINVAL", 0, VM, KVM_IRQFD, STRUCT(struct kvm_irqfd, .fd = 0), -EINVAL },
	{ "an irqfd with unknown flags is EINVAL", RIG_IRQCHIP, VM, KVM_IRQFD, STRUCT(struct kvm_irqfd, .flags = 4), -EINVAL },
	{ "an irqfd that is no descriptor is EBADF", RIG_IRQCHIP, VM, KVM_IRQFD, STRUCT(struct kvm_irqfd, .fd = 9999), -EBADF },
	{ "an irqfd that is no eventfd is EINVAL", RIG_IRQCHIP, VM, KVM_IRQFD, STRUCT(struct kvm_irqfd, .fd = 0), -EINVAL },
	{ "a resampling irqfd in split mode is EINVAL", RIG_SPLIT, VM, KVM_IRQFD, STRUCT(struct kvm_irqfd, .flags = 2), -EINVAL },
	{ "an ioeventfd of 3 bytes is EINVAL", 0, VM, KVM_IOEVENTFD, STRUCT(struct kvm_ioeventfd, .len = 3), -EINVAL },
	{ "an ioeventfd that wraps is EINVAL", 0, VM, KVM_IOEVENTFD, STRUCT(struct kvm_ioeventfd, .addr = ~0ull - 2, .len = 4), -EINVAL },
	{ "an ioeventfd with unknown flags is EINVAL", 0, VM, KVM_IOEVENTFD, STRUCT(struct kvm_ioeventfd, .len = 4, .flags = 8), -EINVAL },
	{ "an ioeventfd of any length cannot match data", 0, VM, KVM_IOEVENTFD, STRUCT(struct kvm_ioeventfd, .flags = 1), -EINVAL },
	{ "an ioeventfd that is no eventfd is EINVAL", 0, VM, KVM_IOEVENTFD, STRUCT(struct kvm_ioeventfd, .len = 4, .fd = 0), -EINVAL },
	{ "an ioeventfd that is no descriptor is EBADF", 0, VM, KVM_IOEVENTFD, STRUCT(struct kvm_ioeventfd, .len = 4, .fd = 9999), -EBADF },
	{ "a coalesced zone on bus 2 is EINVAL", 0, VM, KVM_REGISTER_COALESCED_MMIO, STRUCT(struct kvm_coalesced_mmio_zone, .pio = 2), -EINVAL },
	{ "removing an unknown zone is 0", 0, VM, KVM_UNREGISTER_COALESCED_MMIO, STRUCT(struct kvm_coalesced_mmio_zone, .size = 4), 0 },
	{ "a clock with unknown flags is EINVAL", 0, VM, KVM_SET_CLOCK, STRUCT(struct kvm_clock_data, .flags = 2), -EINVAL },
	{ "an unknown device is ENODEV", 0, VM, KVM_CREATE_DEVICE, STRUCT(struct kvm_create_device, .type = 4), -ENODEV },
	{ "a dirty log of no slot is ENOENT", 0, VM, KVM_GET_DIRTY_LOG, STRUCT(struct kvm_dirty_log, .slot = 5), -ENOENT },
	{ "a dirty log of an impossible slot is EINVAL", 0, VM, KVM_GET_DIRTY_LOG, STRUCT(struct kvm_dirty_log, .slot = 32764), -EINVAL },
	{ "clearing from page 1 is EINVAL", 0, VM, KVM_CLEAR_DIRTY_LOG, STRUCT(struct kvm_clear_dirty_log, .first_page = 1), -EINVAL },

	{ "an unknown capability to enable is EINVAL", 0, CAP(7777), -EINVAL },
	{ "a capability with flags is EINVAL", 0, CAP(KVM_CAP_EXCEPTION_PAYLOAD, .flags = 1), -EINVAL },
	{ "unknown x2APIC API bits are EINVAL", 0, CAP(KVM_CAP_X2APIC_API, .args = { 16 }), -EINVAL },
	{ "suppressing EOI broadcasts and not is EINVAL", RIG_SPLIT, CAP(KVM_CAP_X2APIC_API, .args = { 12 }), -EINVAL },
	{ "suppressing EOI broadcasts with a full chip is EINVAL", RIG_IRQCHIP, CAP(KVM_CAP_X2APIC_API, .args = { 4 }), -EINVAL },
	{ "suppressing EOI broadcasts without a chip is EINVAL", 0, CAP(KVM_CAP_X2APIC_API, .args = { 4 }), -EINVAL },
	{ "suppressing EOI broadcasts in split mode is fine", RIG_SPLIT, CAP(KVM_CAP_X2APIC_API, .args = { 4 }), 0 },
	{ "suppressing no EOI broadcasts is fine", RIG_NO_VCPU, CAP(KVM_CAP_X2APIC_API, .args = { 8 }), 0 },
	{ "the capability tells of all four x2APIC API bits", 0, VM, KVM_CHECK_EXTENSION, (void *)KVM_CAP_X2APIC_API, 15 },
	{ "disabling exits after a vCPU is EINVAL", 0, CAP(KVM_CAP_X86_DISABLE_EXITS, .args = { 2 }), -EINVAL },
	{ "disabling unknown exits is EINVAL", RIG_NO_VCPU, CAP(KVM_CAP_X86_DISABLE_EXITS, .args = { 64 }), -EINVAL },
	{ "unknown quirks are EINVAL", 0, CAP(KVM_CAP_DISABLE_QUIRKS2, .args = { 1ull << 40 }), -EINVAL },
	{ "unknown quirks of the old kind are ignored", 0, CAP(KVM_CAP_DISABLE_QUIRKS, .args = { 1ull << 40 }), 0 },
	{ "initially-set without manual protect is EINVAL", 0, CAP(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = { 2 }), -EINVAL },
	{ "exits of unknown hypercalls are EINVAL", 0, CAP(KVM_CAP_EXIT_HYPERCALL, .args = { 1 }), -EINVAL },
	{ "emulation failure 2 is EINVAL", 0, CAP(KVM_CAP_EXIT_ON_EMULATION_FAILURE, .args = { 2 }), -EINVAL },
	{ "user-space MSR reasons beyond 7 are EINVAL", 0, CAP(KVM_CAP_X86_USER_SPACE_MSR, .args = { 8 }), -EINVAL },
	{ "an MSR filter with unknown flags is EINVAL", 0, VM, KVM_X86_SET_MSR_FILTER, STRUCT(struct kvm_msr_filter, .flags = 2), -EINVAL },
	{ "an MSR filter that denies everything is EINVAL", 0, VM, KVM_X86_SET_MSR_FILTER, STRUCT(struct kvm_msr_filter, .flags = 1), -EINVAL },
	{ "an MSR range for neither reads nor writes is EINVAL", 0, VM, KVM_X86_SET_MSR_FILTER, STRUCT(struct kvm_msr_filter, .ranges = { { .nmsrs = 1 } }), -EINVAL },
	{ "an MSR range of 0x3001 indices is EINVAL", 0, VM, KVM_X86_SET_MSR_FILTER, STRUCT(struct kvm_msr_filter, .ranges = { { .flags = 1, .nmsrs = 0x3001 } }), -EINVAL },
	{ "an MSR range with a bad bitmap is EFAULT", 0, VM, KVM_X86_SET_MSR_FILTER, STRUCT(struct kvm_msr_filter, .ranges = { { .flags = 1, .nmsrs = 1, .bitmap = (void *)16 } }), -EFAULT },
	{ "an empty MSR filter is fine", 0, VM, KVM_X86_SET_MSR_FILTER, STRUCT(struct kvm_msr_filter, .flags = 0), 0 },
	{ "a maximal vCPU id of 5000 is EINVAL", RIG_NO_VCPU, CAP(KVM_CAP_MAX_VCPU_ID, .args = { 5000 }), -EINVAL },
	{ "a bus cycle of 0 ns is EINVAL", RIG_IRQCHIP | RIG_NO_VCPU, CAP(KVM_CAP_X86_APIC_BUS_CYCLES_NS), -EINVAL },
	{ "a bus cycle without a chip is ENXIO", RIG_NO_VCPU, CAP(KVM_CAP_X86_APIC_BUS_CYCLES_NS, .args = { 10 }), -ENXIO },
	{ "a bus cycle after a vCPU is EINVAL", RIG_IRQCHIP, CAP(KVM_CAP_X86_APIC_BUS_CYCLES_NS, .args = { 10 }), -EINVAL },
	{ "an unknown capability of a vCPU is EINVAL", 0, VCPU, KVM_ENABLE_CAP, STRUCT(struct kvm_enable_cap, .cap = 1), -EINVAL },

	{ "LAPIC state without a LAPIC is EINVAL", 0, VCPU, KVM_SET_LAPIC, STRUCT(struct kvm_lapic_state, { 0 }), -EINVAL },
	{ "vector 256 is EINVAL", 0, VCPU, KVM_INTERRUPT, STRUCT(struct kvm_interrupt, 256), -EINVAL },
	{ "KVM_INTERRUPT with a full chip is ENXIO", RIG_IRQCHIP, VCPU, KVM_INTERRUPT, STRUCT(struct kvm_interrupt, 32), -ENXIO },
	{ "KVM_INTERRUPT in split mode is taken", RIG_SPLIT, VCPU, KVM_INTERRUPT, STRUCT(struct kvm_interrupt, 32), 0 },
	{ "256 MSRs are E2BIG", 0, VCPU, KVM_SET_MSRS, STRUCT(struct kvm_msrs, .nmsrs = 256), -E2BIG },
	{ "257 CPUID rows are E2BIG", 0, VCPU, KVM_SET_CPUID2, STRUCT(struct kvm_cpuid2, .nent = 257), -E2BIG },
	{ "a signal mask of 4 bytes is EINVAL", 0, VCPU, KVM_SET_SIGNAL_MASK, STRUCT(struct kvm_signal_mask, .len = 4), -EINVAL },
	{ "no signal mask clears it", 0, VCPU, KVM_SET_SIGNAL_MASK, NULL, 0 },
	{ "HALTED without a LAPIC is EINVAL", 0, VCPU, KVM_SET_MP_STATE, STRUCT(struct kvm_mp_state, KVM_MP_STATE_HALTED), -EINVAL },
	{ "HALTED with one is fine", RIG_IRQCHIP, VCPU, KVM_SET_MP_STATE, STRUCT(struct kvm_mp_state, KVM_MP_STATE_HALTED), 0 },
	{ "MP state 17 is EINVAL", RIG_IRQCHIP, VCPU, KVM_SET_MP_STATE, STRUCT(struct kvm_mp_state, 17), -EINVAL },
	{ "debug registers with flags are EINVAL", 0, VCPU, KVM_SET_DEBUGREGS, STRUCT(struct kvm_debugregs, .flags = 1), -EINVAL },
	{ "a DR7 of 64 bits is EINVAL", 0, VCPU, KVM_SET_DEBUGREGS, STRUCT(struct kvm_debugregs, .dr7 = 1ull << 32), -EINVAL },
	{ "events with unknown flags are EINVAL", 0, VCPU, KVM_SET_VCPU_EVENTS, STRUCT(struct kvm_vcpu_events, .flags = 0x40), -EINVAL },
	{ "a payload without its capability is EINVAL", 0, VCPU, KVM_SET_VCPU_EVENTS, STRUCT(struct kvm_vcpu_events, .flags = 0x10), -EINVAL },
	{ "a triple fault without its capability is EINVAL", 0, VCPU, KVM_SET_VCPU_EVENTS, STRUCT(struct kvm_vcpu_events, .flags = 0x20), -EINVAL },
	{ "exception 32 is EINVAL", 0, VCPU, KVM_SET_VCPU_EVENTS, STRUCT(struct kvm_vcpu_events, .exception = { .injected = 1, .nr = 32 }), -EINVAL },
	{ "exception 2 is EINVAL", 0, VCPU, KVM_SET_VCPU_EVENTS, STRUCT(struct kvm_vcpu_events, .exception = { .injected = 1, .nr = 2 }), -EINVAL },
	{ "SMM is fine", 0, VCPU, KVM_SET_VCPU_EVENTS, STRUCT(struct kvm_vcpu_events, .flags = 8, .smi = { .smm = 1 }), 0 },
	{ "17 XCRs are EINVAL", RIG_CPUID, VCPU, KVM_SET_XCRS, STRUCT(struct kvm_xcrs, .nr_xcrs = 17), -EINVAL },
	{ "XCR0 without x87 is EINVAL", RIG_CPUID, VCPU, KVM_SET_XCRS, STRUCT(struct kvm_xcrs, .nr_xcrs = 1, .xcrs = { { 0, 0, 2 } }), -EINVAL },
	{ "XCR0 of 1 is fine", RIG_CPUID, VCPU, KVM_SET_XCRS, STRUCT(struct kvm_xcrs, .nr_xcrs = 1, .xcrs = { { 0, 0, 1 } }), 0 },
	{ "33 machine-check banks are EINVAL", 0, VCPU, KVM_X86_SETUP_MCE, STRUCT(uint64_t, 33), -EINVAL },
	{ "no machine-check bank is EINVAL", 0, VCPU, KVM_X86_SETUP_MCE, STRUCT(uint64_t, 0), -EINVAL },
	{ "10 machine-check banks are fine", 0, VCPU, KVM_X86_SETUP_MCE, STRUCT(uint64_t, 0x100010a), 0 },
	{ "a machine check without a bank is EINVAL", 0, VCPU, KVM_X86_SET_MCE, STRUCT(struct kvm_x86_mce, .status = 1ull << 63), -EINVAL },
	{ "KVMCLOCK_CTRL without kvmclock is EINVAL", 0, VCPU, KVM_KVMCLOCK_CTRL, 0, -EINVAL },
	{ "an SMI is fine", 0, VCPU, KVM_SMI, 0, 0 },
	{ "nested state is EINVAL", 0, VCPU, KVM_GET_NESTED_STATE, STRUCT(struct kvm_nested_state, .size = 128), -EINVAL },
	{ "SREGS2 with unknown flags are EINVAL", 0, VCPU, KVM_SET_SREGS2, STRUCT(struct kvm_sregs2, .flags = 2), -EINVAL },
	{ "a VM's memory is not encrypted: ENOTTY", 0, VM, KVM_MEMORY_ENCRYPT_REG_REGION, STRUCT(struct kvm_enc_region, .size = 4096), -ENOTTY },
	{ "nor is it decrypted: ENOTTY", 0, VM, KVM_MEMORY_ENCRYPT_UNREG_REGION, STRUCT(struct kvm_enc_region, .size = 4096), -ENOTTY },
	{ "a monitor behind door 3 is EINVAL", 0, VM, GW_MONITOR_ATTACH, STRUCT(struct gw_monitor_attach, .door = 3), -EINVAL },
	{ "a monitor's policy 3 is EINVAL", 0, VM, GW_MONITOR_ATTACH, STRUCT(struct gw_monitor_attach, .policy = 3), -EINVAL },
	{ "a monitor with unknown flags is EINVAL", 0, VM, GW_MONITOR_ATTACH, STRUCT(struct gw_monitor_attach, .flags = 2), -EINVAL },
	{ "a monitor that spins for a second is EINVAL", 0, VM, GW_MONITOR_ATTACH, STRUCT(struct gw_monitor_attach, .spin_us = 1000000), -EINVAL },
	{ "a monitor without a callback is EINVAL", 0, VM, GW_MONITOR_ATTACH, STRUCT(struct gw_monitor_attach, .door = GW_MON_CALLBACK), -EINVAL },
	{ "a monitor's command of 64 KiB and more is E2BIG", 0, VM, GW_MONITOR, STRUCT(struct gw_monitor, .cmd = { .size = GW_MON_MAX_PAYLOAD + 1 }), -E2BIG },
	{ "a monitor's command from nowhere is EFAULT", 0, VM, GW_MONITOR, STRUCT(struct gw_monitor, .cmd = { .size = 16 }, .payload = 16), -EFAULT },
	{ "a monitor that reads into too little is ENOBUFS", 0, VM, GW_MONITOR, STRUCT(struct gw_monitor, .cmd = { .op = GW_MON_OP_READ, .a = { 0, 8 } }, .payload_size = 7), -ENOBUFS },
	{ "a monitor that reads into nowhere is EFAULT", 0, VM, GW_MONITOR, STRUCT(struct gw_monitor, .cmd = { .op = GW_MON_OP_READ, .a = { 0, 8 } }, .payload = 16, .payload_size = 8), -EFAULT },
	{ "registers into too little are ENOBUFS", 0, VM, GW_MONITOR, STRUCT(struct gw_monitor, .cmd = { .op = GW_MON_OP_GET_REGS }, .payload_size = 64), -ENOBUFS },
	{ "a dump of nothing into nothing is EINVAL", 0, VCPU, GW_DUMP, STRUCT(struct gw_dump, .size = 0), -EINVAL },
	{ "an unknown trace word is EINVAL", 0, SYS, GW_SET_TRACE, STRUCT(struct gw_set_trace, "nonsense"), -EINVAL },
	{ "no trace words are fine", 0, SYS, GW_SET_TRACE, STRUCT(struct gw_set_trace, ""), 0 },
};
#define N_ROWS (sizeof(rows) / sizeof(rows[0]))

static void check_row(void **state)
{
	const struct row *row = *state;
	/* Handlers that write back must find writable memory. */
	static uint8_t copy[8192];
	const void *arg = row->arg;
	struct rig r;

	if ((uintptr_t)arg > 0x200000000ul && _IOC_SIZE(row->nr)) {
		memcpy(copy, arg, _IOC_SIZE(row->nr));
		arg = copy;
	} else if (row->nr == KVM_SET_IRQCHIP || row->nr == KVM_REINJECT_CONTROL) {
		memcpy(copy, arg, row->nr == KVM_SET_IRQCHIP ? sizeof(struct kvm_irqchip) : sizeof(struct kvm_reinject_control));
		arg = copy;
	}
	rig_open(&r, row->flags);
	assert_int_equal(rig_ioctl(fd_of(&r, row->on), row->nr, arg), row->want);
	rig_close(&r);
}

/* E2BIG tells how many there are; one less is too few, as many are enough. */
static void lists_tell_their_length(void **state)
{
	static struct { uint32_t n, index[256]; } list;
	static struct rig_cpuid c;
	struct rig r;
	uint32_t n;

	rig_open(&r, RIG_CPUID);
	assert_int_equal(rig_ioctl(r.sys, KVM_GET_MSR_INDEX_LIST, &list), -E2BIG);
	assert_true(list.n > 10);
	n = list.n--;
	assert_int_equal(rig_ioctl(r.sys, KVM_GET_MSR_INDEX_LIST, &list), -E2BIG);
	assert_int_equal(list.n, n);
	assert_int_equal(rig_ioctl(r.sys, KVM_GET_MSR_INDEX_LIST, &list), 0);
	assert_int_equal(rig_ioctl(r.sys, KVM_GET_SUPPORTED_CPUID, &c), -E2BIG);
	assert_int_equal(c.nent, 0);
	c.nent = 1;
	assert_int_equal(rig_ioctl(r.sys, KVM_GET_SUPPORTED_CPUID, &c), -E2BIG);
	assert_int_equal(c.nent, 1);
	/* Emulated ones: MOVBE, RDPID; room for one more is wanted, and clean padding. */
	c.nent = 3;
	assert_int_equal(rig_ioctl(r.sys, KVM_GET_EMULATED_CPUID, &c), -E2BIG);
	c.nent = 4;
	c.e[3].padding[2] = 1;
	assert_int_equal(rig_ioctl(r.sys, KVM_GET_EMULATED_CPUID, &c), -EINVAL);
	c.e[3].padding[2] = 0;
	assert_int_equal(rig_ioctl(r.sys, KVM_GET_EMULATED_CPUID, &c), 0);
	assert_int_equal(c.nent, 3);
	assert_int_equal(c.e[0].eax, 7);
	assert_int_equal(c.e[1].ecx, 1u << 22);
	assert_int_equal(c.e[2].function, 7);
	assert_int_equal(c.e[2].flags, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
	assert_int_equal(c.e[2].ecx, 1u << 22);
	c.nent = 80;
	assert_int_equal(rig_ioctl(r.sys, KVM_GET_SUPPORTED_CPUID, &c), 0);
	assert_in_range(c.nent, 20, 80);
	n = c.nent;
	c.nent = n - 1;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_CPUID2, &c), -E2BIG);
	assert_int_equal(c.nent, n - 1);
	c.nent = 100;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_CPUID2, &c), 0);
	assert_int_equal(c.nent, n);
	rig_close(&r);
}

/* What is wrong with a command of a monitor is in its reply; with the ioctl itself nothing is. */
static void a_monitors_commands(void **state)
{
	static const struct { const char *name; struct gw_mon_cmd cmd; bool attached; int err; } commands[] = {
		{ "op 0", { 0 }, false, -EOPNOTSUPP },
		{ "an unknown op", { .op = GW_MON_N_OPS }, false, -EOPNOTSUPP },
		{ "the largest op", { .op = ~0u }, true, -EOPNOTSUPP },
		{ "subscribe, without a monitor", { .op = GW_MON_OP_SUBSCRIBE, .a = { GW_MON_CPUID, 1 } }, false, -ENODEV },
		{ "subscribe to reason 31", { .op = GW_MON_OP_SUBSCRIBE, .a = { 31, 1 } }, true, -EINVAL },
		{ "subscribe to CR2", { .op = GW_MON_OP_SUBSCRIBE, .a = { GW_MON_WRITE_CR, 1, 0, 2 } }, true, -EINVAL },
		{ "pause a step of vCPU 7", { .op = GW_MON_OP_STEP, .a = { 7, 1 } }, true, -EINVAL },
		{ "inject vector 256", { .op = GW_MON_OP_INJECT, .a = { 0, 256 } }, true, -EINVAL },
		{ "registers of vCPU 7", { .op = GW_MON_OP_GET_REGS, .a = { 7 } }, true, -EINVAL },
		{ "read outside of memory", { .op = GW_MON_OP_READ, .a = { RIG_HOLE, 8 } }, true, -ESRCH },
		{ "read more than a page", { .op = GW_MON_OP_READ, .a = { 0, 4097 } }, true, -EINVAL },
		{ "a view, while there are none", { .op = GW_MON_OP_VIEW_SWITCH, .a = { 900 } }, true, -EOPNOTSUPP },
		{ "a door by ioctl", { .op = GW_MON_OP_ATTACH }, true, -EOPNOTSUPP },
		{ "information", { .op = GW_MON_OP_INFO }, true, 0 },
	};

	for (unsigned i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		struct gw_monitor_attach a = { .door = GW_MON_CHANNEL };
		static uint8_t room[8192];
		struct gw_monitor m = { .cmd = commands[i].cmd, .payload = (uintptr_t)room, .payload_size = sizeof(room) };
		struct rig r;

		rig_open(&r, 0);
		if (commands[i].attached) {
			assert_int_equal(rig_ioctl(r.vm, GW_MONITOR_ATTACH, &a), 0);
			assert_int_equal(rig_ioctl(r.vm, GW_MONITOR_ATTACH, &(struct gw_monitor_attach){ .door = GW_MON_CHANNEL }), -EBUSY);
		}
		assert_int_equal(rig_ioctl(r.vm, GW_MONITOR, &m), 0);
		if (m.reply.err != commands[i].err)
			fail_msg("%s: %d, not %d", commands[i].name, m.reply.err, commands[i].err);
		if (commands[i].attached) {
			close(a.memory_fd);
			close(a.event_fd);
		}
		rig_close(&r);
	}
}

/* Who cannot be told of the descriptors is not attached. */
static void a_monitor_that_cannot_be_told(void **state)
{
	struct gw_monitor_attach *a = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ok = { .door = GW_MON_CHANNEL };
	int before, after;
	struct rig r;

	rig_open(&r, 0);
	a->door = GW_MON_CHANNEL;
	mprotect(a, 4096, PROT_READ);
	before = dup(0);
	assert_int_equal(rig_ioctl(r.vm, GW_MONITOR_ATTACH, a), -EFAULT);
	after = dup(0);
	assert_int_equal(after, before + 1);
	close(before);
	close(after);
	assert_int_equal(rig_ioctl(r.vm, GW_MONITOR_ATTACH, &ok), 0);
	close(ok.memory_fd);
	close(ok.event_fd);
	munmap(a, 4096);
	rig_close(&r);
}

int main(void)
{
	static const struct CMUnitTest fixed[] = {
		{ "commands of a monitor say in their reply what is wrong", a_monitors_commands },
		{ "a monitor that cannot be told its descriptors gets none", a_monitor_that_cannot_be_told },
		{ "an ioctl on the wrong kind of descriptor is EINVAL or, on a VM, ENOTTY", wrong_descriptor },
		{ "an ioctl with another size in its number is unknown", wrong_size },
		{ "bad pointers are EFAULT everywhere", bad_pointer },
		{ "an argument that is half there, or read-only, is EFAULT", half_pointer },
		{ "an argument that must be 0 is EINVAL", must_be_zero },
		{ "after close every ioctl is EBADF", after_close },
		{ "in a forked child VM and vCPU ioctls are EIO", after_fork },
		{ "where process_vm_readv is forbidden, bad pointers are EFAULT as well", in_a_sandbox },
		{ "lists say how long they are", lists_tell_their_length },
	};
	static struct CMUnitTest tests[sizeof(fixed) / sizeof(fixed[0]) + N_ROWS];
	unsigned n = sizeof(fixed) / sizeof(fixed[0]);

	memcpy(tests, fixed, sizeof(fixed));
	for (unsigned i = 0; i < N_ROWS; i++)
		tests[n + i] = (struct CMUnitTest){ .name = rows[i].name, .test_func = check_row, .initial_state = (void *)(uintptr_t)&rows[i] };
	return _cmocka_run_group_tests("ioctl errnos", tests, n + N_ROWS, NULL, NULL);
}
