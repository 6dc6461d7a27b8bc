/* SPDX-License-Identifier: MIT */
/* KVM_RUN: exits, completion, signals, interrupts, synced registers; a few bytes of real-mode code each. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "rig.h"

static uint8_t *io_data(struct rig *r)
{
	return (uint8_t *)r->run + r->run->io.data_offset;
}

static struct kvm_regs regs_of(int vcpu)
{
	struct kvm_regs regs;

	assert_int_equal(rig_ioctl(vcpu, KVM_GET_REGS, &regs), 0);
	return regs;
}

static void halts(struct rig *r)
{
	assert_int_equal(rig_run(r), 0);
	assert_int_equal(r->run->exit_reason, KVM_EXIT_HLT);
}

/* ---- exits ------------------------------------------------------------------------------------------------------------- */

static void out_and_in(void **state)
{
	/* mov al,5a; out 42,al; in ax,43; hlt */
	static const uint8_t code[] = { 0xb0, 0x5a, 0xe6, 0x42, 0xe5, 0x43, 0xf4 };
	struct rig r;

	rig_open(&r, 0);
	rig_code(&r, code, sizeof(code));
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(r.run->io.direction, KVM_EXIT_IO_OUT);
	assert_int_equal(r.run->io.port, 0x42);
	assert_int_equal(r.run->io.size, 1);
	assert_int_equal(r.run->io.count, 1);
	assert_int_equal(io_data(&r)[0], 0x5a);
	/* RIP stays at the instruction until the exit is completed. */
	assert_int_equal(regs_of(r.vcpu).rip, RIG_CODE + 2);
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(r.run->io.direction, KVM_EXIT_IO_IN);
	assert_int_equal(r.run->io.size, 2);
	io_data(&r)[0] = 0x34;
	io_data(&r)[1] = 0x12;
	halts(&r);
	assert_int_equal(regs_of(r.vcpu).rax, 0x1234);
	assert_int_equal(regs_of(r.vcpu).rip, RIG_CODE + 7);
	rig_close(&r);
}

/* immediate_exit completes what is pending and runs nothing. */
static void immediate_exit_completes(void **state)
{
	static const uint8_t code[] = { 0xe4, 0x43, 0xf4 };	/* in al,43; hlt */
	struct rig r;

	rig_open(&r, 0);
	rig_code(&r, code, sizeof(code));
	assert_int_equal(rig_run(&r), 0);
	io_data(&r)[0] = 0x77;
	r.run->immediate_exit = 1;
	assert_int_equal(rig_ioctl_n(r.vcpu, KVM_RUN, 0), -EINTR);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_IO);
	r.run->immediate_exit = 0;
	halts(&r);
	assert_int_equal(regs_of(r.vcpu).rax & 0xff, 0x77);
	rig_close(&r);
}

/* The client moves RIP away from an IN, to another one of the same port: that one asks for itself. */
static void moved_rip_drops_io(void **state)
{
	static const uint8_t code[] = { 0xe4, 0x43, 0xe4, 0x43, 0xf4 };
	struct kvm_regs regs;
	struct rig r;

	rig_open(&r, 0);
	rig_code(&r, code, sizeof(code));
	assert_int_equal(rig_run(&r), 0);
	io_data(&r)[0] = 0x77;
	regs = regs_of(r.vcpu);
	regs.rip = RIG_CODE + 2;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_REGS, &regs), 0);
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(regs_of(r.vcpu).rip, RIG_CODE + 2);
	io_data(&r)[0] = 0x66;
	halts(&r);
	assert_int_equal(regs_of(r.vcpu).rax & 0xff, 0x66);
	rig_close(&r);
}

static void ins_reads_ahead(void **state)
{
	/* mov cx,5; mov di,2000; mov dx,80; rep insb; hlt */
	static const uint8_t code[] = { 0xb9, 5, 0, 0xbf, 0, 0x20, 0xba, 0x80, 0, 0xf3, 0x6c, 0xf4 };
	struct kvm_regs regs;
	struct rig r;

	rig_open(&r, 0);
	rig_code(&r, code, sizeof(code));
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(r.run->io.count, 5);
	assert_int_equal(regs_of(r.vcpu).rcx, 5);
	memcpy(io_data(&r), "abcde", 5);
	/* The client wants fewer: it gets exactly that. */
	regs = regs_of(r.vcpu);
	regs.rcx = 3;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_REGS, &regs), 0);
	halts(&r);
	assert_memory_equal(r.ram + 0x2000, "abc\0\0", 5);
	assert_int_equal(regs_of(r.vcpu).rcx, 0);
	assert_int_equal(regs_of(r.vcpu).rdi, 0x2003);
	rig_close(&r);
}

static void outs_goes_one_by_one(void **state)
{
	/* mov cx,3; mov si,2000; mov dx,80; rep outsb; hlt */
	static const uint8_t code[] = { 0xb9, 3, 0, 0xbe, 0, 0x20, 0xba, 0x80, 0, 0xf3, 0x6e, 0xf4 };
	struct rig r;

	rig_open(&r, 0);
	memcpy(r.ram + 0x2000, "xyz", 3);
	rig_code(&r, code, sizeof(code));
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(rig_run(&r), 0);
		assert_int_equal(r.run->exit_reason, KVM_EXIT_IO);
		assert_int_equal(r.run->io.count, 1);
		assert_int_equal(io_data(&r)[0], "xyz"[i]);
	}
	halts(&r);
	rig_close(&r);
}

/* mov ax,8000; mov ds,ax: DS:0 is RIG_HOLE */
#define DS_HOLE 0xb8, 0x00, 0x80, 0x8e, 0xd8

static void mmio_write_retires_first(void **state)
{
	/* mov dword [10],11223344; hlt */
	static const uint8_t code[] = { DS_HOLE, 0x66, 0xc7, 0x06, 0x10, 0, 0x44, 0x33, 0x22, 0x11, 0xf4 };
	struct rig r;

	rig_open(&r, 0);
	rig_code(&r, code, sizeof(code));
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_MMIO);
	assert_int_equal(r.run->mmio.phys_addr, RIG_HOLE + 0x10);
	assert_int_equal(r.run->mmio.len, 4);
	assert_int_equal(r.run->mmio.is_write, 1);
	assert_memory_equal(r.run->mmio.data, "\x44\x33\x22\x11", 4);
	assert_int_equal(regs_of(r.vcpu).rip, RIG_CODE + sizeof(code) - 1);
	halts(&r);
	rig_close(&r);
}

static void mmio_read_completes_on_reentry(void **state)
{
	/* mov ax,[20]; add ax,[22]; hlt */
	static const uint8_t code[] = { DS_HOLE, 0xa1, 0x20, 0, 0x03, 0x06, 0x22, 0, 0xf4 };
	struct rig r;

	rig_open(&r, 0);
	rig_code(&r, code, sizeof(code));
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_MMIO);
	assert_int_equal(r.run->mmio.is_write, 0);
	assert_int_equal(r.run->mmio.phys_addr, RIG_HOLE + 0x20);
	assert_int_equal(r.run->mmio.len, 2);
	memcpy(r.run->mmio.data, "\x01\x10", 2);
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->mmio.phys_addr, RIG_HOLE + 0x22);
	memcpy(r.run->mmio.data, "\x02\x20", 2);
	halts(&r);
	assert_int_equal(regs_of(r.vcpu).rax, 0x3003);
	rig_close(&r);
}

/* A read-modify-write of a device: a read exit, then a write exit. */
static void mmio_rmw_is_two_exits(void **state)
{
	static const uint8_t code[] = { DS_HOLE, 0xfe, 0x06, 0x30, 0, 0xf4 };	/* inc byte [30]; hlt */
	struct rig r;

	rig_open(&r, 0);
	rig_code(&r, code, sizeof(code));
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->mmio.is_write, 0);
	r.run->mmio.data[0] = 0x41;
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_MMIO);
	assert_int_equal(r.run->mmio.is_write, 1);
	assert_int_equal(r.run->mmio.data[0], 0x42);
	halts(&r);
	rig_close(&r);
}

static void mmio_across_pages_is_split(void **state)
{
	/* mov dword [ffe],44332211; hlt */
	static const uint8_t code[] = { DS_HOLE, 0x66, 0xc7, 0x06, 0xfe, 0x0f, 0x11, 0x22, 0x33, 0x44, 0xf4 };
	struct rig r;

	rig_open(&r, 0);
	rig_code(&r, code, sizeof(code));
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->mmio.phys_addr, RIG_HOLE + 0xffe);
	assert_int_equal(r.run->mmio.len, 2);
	assert_memory_equal(r.run->mmio.data, "\x11\x22", 2);
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->mmio.phys_addr, RIG_HOLE + 0x1000);
	assert_int_equal(r.run->mmio.len, 2);
	assert_memory_equal(r.run->mmio.data, "\x33\x44", 2);
	halts(&r);
	rig_close(&r);
}

static void read_only_slot_exits_on_write(void **state)
{
	/* mov al,[0]; mov [1],al; hlt   with a read-only page at RIG_HOLE */
	static const uint8_t code[] = { DS_HOLE, 0xa0, 0, 0, 0xa2, 1, 0, 0xf4 };
	struct kvm_userspace_memory_region region = { .slot = 1, .flags = KVM_MEM_READONLY, .guest_phys_addr = RIG_HOLE,
						      .memory_size = 4096 };
	uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct rig r;

	rig_open(&r, 0);
	page[0] = 0x99;
	region.userspace_addr = (uintptr_t)page;
	assert_int_equal(rig_ioctl(r.vm, KVM_SET_USER_MEMORY_REGION, &region), 0);
	rig_code(&r, code, sizeof(code));
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_MMIO);
	assert_int_equal(r.run->mmio.is_write, 1);
	assert_int_equal(r.run->mmio.phys_addr, RIG_HOLE + 1);
	assert_int_equal(r.run->mmio.data[0], 0x99);
	halts(&r);
	assert_int_equal(page[1], 0);
	rig_close(&r);
	munmap(page, 4096);
}

static void triple_fault_is_shutdown(void **state)
{
	static const uint8_t code[] = { 0x0f, 0x01, 0x1e, 0x00, 0x20, 0xcc };	/* lidt [2000] (limit 0); int3 */
	struct rig r;

	rig_open(&r, 0);
	rig_code(&r, code, sizeof(code));
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_SHUTDOWN);
	rig_close(&r);
}

/* With KVM_CAP_X86_TRIPLE_FAULT_EVENT one that waits is state: told, taken, delivered as a shutdown and gone. */
static void triple_fault_is_an_event(void **state)
{
	static const uint8_t code[] = { 0xf4 };
	struct kvm_enable_cap cap = { .cap = KVM_CAP_X86_TRIPLE_FAULT_EVENT, .args = { 1 } };
	struct kvm_vcpu_events e = { .flags = KVM_VCPUEVENT_VALID_TRIPLE_FAULT, .triple_fault = { .pending = 1 } };
	struct rig r;

	rig_open(&r, 0);
	assert_int_equal(rig_ioctl_n(r.vm, KVM_CHECK_EXTENSION, KVM_CAP_X86_TRIPLE_FAULT_EVENT), 1);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_VCPU_EVENTS, &e), -EINVAL);
	assert_int_equal(rig_ioctl(r.vm, KVM_ENABLE_CAP, &cap), 0);
	rig_code(&r, code, sizeof(code));
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_VCPU_EVENTS, &e), 0);
	assert_int_equal(e.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT, KVM_VCPUEVENT_VALID_TRIPLE_FAULT);
	assert_int_equal(e.triple_fault.pending, 0);
	e.triple_fault.pending = 1;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_VCPU_EVENTS, &e), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_VCPU_EVENTS, &e), 0);
	assert_int_equal(e.triple_fault.pending, 1);
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_SHUTDOWN);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_VCPU_EVENTS, &e), 0);
	assert_int_equal(e.triple_fault.pending, 0);
	halts(&r);
	rig_close(&r);
}

static void memory_taken_away_is_efault(void **state)
{
	static const uint8_t code[] = { 0xa0, 0, 0x30, 0xf4 };	/* mov al,[3000]; hlt */
	const struct gw_run_memory_fault *f;
	struct rig r;

	rig_open(&r, 0);
	rig_code(&r, code, sizeof(code));
	assert_int_equal(mprotect(r.ram + 0x3000, 4096, PROT_NONE), 0);
	assert_int_equal(rig_run(&r), -EFAULT);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_MEMORY_FAULT);
	f = (const void *)r.run->padding;
	assert_int_equal(f->gpa, 0x3000);
	assert_int_equal(f->size, 4096);
	assert_int_equal(mprotect(r.ram + 0x3000, 4096, PROT_READ | PROT_WRITE), 0);
	halts(&r);
	rig_close(&r);
}

/* ---- leaving ------------------------------------------------------------------------------------------------------------ */

static const uint8_t spin[] = { 0xeb, 0xfe };

static void on_signal(int sig)
{
	(void)sig;
}

static void catch(int sig)
{
	struct sigaction sa = { .sa_handler = on_signal };

	sigaction(sig, &sa, NULL);
}

struct kick { pthread_t who; int sig; struct kvm_run *run; int vm; };

static void *kicker(void *arg)
{
	struct kvm_msi nmi = { .address_lo = 0xfee00000, .data = 0x400 };
	struct kick *k = arg;

	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	if (k->run)
		__atomic_store_n(&k->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	if (k->vm)
		rig_ioctl(k->vm, KVM_SIGNAL_MSI, &nmi);
	if (k->sig)
		pthread_kill(k->who, k->sig);
	return NULL;
}

static void run_kicked(struct rig *r, int sig, bool immediate)
{
	struct kick k = { pthread_self(), sig, immediate ? r->run : NULL, 0 };
	pthread_t t;

	pthread_create(&t, NULL, kicker, &k);
	assert_int_equal(rig_ioctl_n(r->vcpu, KVM_RUN, 0), -EINTR);
	assert_int_equal(r->run->exit_reason, KVM_EXIT_INTR);
	r->run->immediate_exit = 0;
	pthread_join(t, NULL);
}

static void signal_stops_a_loop(void **state)
{
	struct rig r;

	catch(SIGUSR1);
	rig_open(&r, 0);
	rig_code(&r, spin, sizeof(spin));
	run_kicked(&r, SIGUSR1, false);
	run_kicked(&r, SIGUSR1, true);
	run_kicked(&r, 0, true);
	rig_close(&r);
}

static void signal_wakes_hlt(void **state)
{
	static const uint8_t code[] = { 0xfa, 0xf4, 0xeb, 0xfd };	/* cli; hlt; jmp hlt */
	struct kvm_mp_state mp;
	struct rig r;

	catch(SIGUSR1);
	rig_open(&r, RIG_IRQCHIP | RIG_CPUID);
	rig_code(&r, code, sizeof(code));
	run_kicked(&r, SIGUSR1, false);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_MP_STATE, &mp), 0);
	assert_int_equal(mp.mp_state, KVM_MP_STATE_HALTED);
	run_kicked(&r, SIGUSR1, true);
	rig_close(&r);
}

static volatile sig_atomic_t n_handled;

static void count_signal(int sig)
{
	(void)sig;
	n_handled++;
}

/* KVM_SET_SIGNAL_MASK: KVM_RUN comes back, the handler does not run, the signal is still pending. */
static void signal_mask_leaves_it_pending(void **state)
{
	struct rig_signal_mask m = { .len = 8 };
	struct sigaction sa = { .sa_handler = count_signal };
	sigset_t block, old, pending;
	struct rig r;
	int sig;

	sigaction(SIGUSR2, &sa, NULL);
	sigemptyset(&block);
	sigaddset(&block, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &block, &old);
	n_handled = 0;
	rig_open(&r, 0);
	memset(m.sigset, 0, 8);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_SIGNAL_MASK, &m), 0);
	rig_code(&r, spin, sizeof(spin));
	run_kicked(&r, SIGUSR2, false);
	/* Still there, so the next one leaves at once. */
	assert_int_equal(rig_ioctl_n(r.vcpu, KVM_RUN, 0), -EINTR);
	assert_int_equal(n_handled, 0);
	sigpending(&pending);
	assert_int_equal(sigismember(&pending, SIGUSR2), 1);
	assert_int_equal(sigwait(&block, &sig), 0);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	assert_int_equal(n_handled, 0);
	rig_close(&r);
}

/* ---- interrupts ---------------------------------------------------------------------------------------------------------- */

/* IVT entry @vector -> 0:@ip */
static void ivt(struct rig *r, unsigned vector, uint16_t ip)
{
	uint16_t entry[2] = { ip, 0 };

	memcpy(r->ram + vector * 4, entry, 4);
}

/* handler: inc byte [5000]; iret */
static const uint8_t handler[] = { 0xfe, 0x06, 0x00, 0x50, 0xcf };

static void interrupt_by_client(void **state)
{
	static const uint8_t code[] = { 0xfb, 0xf4, 0xf4 };	/* sti; hlt; hlt */
	struct kvm_interrupt irq = { 0x40 };
	struct rig r;

	rig_open(&r, 0);
	memcpy(r.ram + 0x3000, handler, sizeof(handler));
	ivt(&r, 0x40, 0x3000);
	rig_code(&r, code, sizeof(code));
	halts(&r);
	assert_int_equal(r.run->ready_for_interrupt_injection, 1);
	assert_int_equal(r.run->if_flag, 1);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_INTERRUPT, &irq), 0);
	halts(&r);
	assert_int_equal(r.ram[0x5000], 1);
	rig_close(&r);
}

static void interrupt_window_opens(void **state)
{
	static const uint8_t code[] = { 0xfa, 0x90, 0xfb, 0x90, 0x90, 0xf4 };	/* cli; nop; sti; nop; nop; hlt */
	struct rig r;

	rig_open(&r, 0);
	rig_code(&r, code, sizeof(code));
	r.run->request_interrupt_window = 1;
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_IRQ_WINDOW_OPEN);
	assert_int_equal(r.run->ready_for_interrupt_injection, 1);
	assert_int_equal(regs_of(r.vcpu).rip, RIG_CODE + 4);	/* after the instruction behind STI */
	r.run->request_interrupt_window = 0;
	halts(&r);
	rig_close(&r);
}

static void nmi_wakes_hlt(void **state)
{
	/* cli; hlt; out 10,al; jmp $ */
	static const uint8_t code[] = { 0xfa, 0xf4, 0xe6, 0x10, 0xeb, 0xfe };
	struct kick k = { 0 };
	pthread_t t;
	struct rig r;

	rig_open(&r, RIG_IRQCHIP | RIG_CPUID);
	memcpy(r.ram + 0x3000, handler, sizeof(handler));
	ivt(&r, 2, 0x3000);
	rig_code(&r, code, sizeof(code));
	k.vm = r.vm;
	pthread_create(&t, NULL, kicker, &k);
	assert_int_equal(rig_run(&r), 0);
	pthread_join(t, NULL);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(r.ram[0x5000], 1);
	/* Queued by ioctl, it comes before the next instruction. */
	assert_int_equal(rig_ioctl_n(r.vcpu, KVM_NMI, 0), 0);
	run_kicked(&r, 0, true);
	assert_int_equal(r.ram[0x5000], 2);
	rig_close(&r);
}

/* An irqfd, through PIC and LINT0, wakes a halted vCPU. */
static void irqfd_wakes_hlt(void **state)
{
	static const uint8_t code[] = {
		0xb0, 0x11, 0xe6, 0x20,		/* ICW1 */
		0xb0, 0x20, 0xe6, 0x21,		/* base 20h */
		0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21,
		0xb0, 0xf7, 0xe6, 0x21,		/* unmask IRQ 3 */
		0xe6, 0x11,			/* out 11,al: ready */
		0xfb, 0xf4,			/* sti; hlt */
		0xe6, 0x10,			/* out 10,al */
	};
	struct kvm_irqfd irqfd = { .gsi = 3 };
	uint64_t one = 1;
	struct rig r;

	rig_open(&r, RIG_IRQCHIP | RIG_CPUID);
	memcpy(r.ram + 0x3000, handler, sizeof(handler));
	ivt(&r, 0x23, 0x3000);
	rig_code(&r, code, sizeof(code));
	irqfd.fd = (uint32_t)eventfd(0, 0);
	assert_int_equal(rig_ioctl(r.vm, KVM_IRQFD, &irqfd), 0);
	assert_int_equal(rig_ioctl(r.vm, KVM_IRQFD, &irqfd), -EBUSY);
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->io.port, 0x11);
	assert_int_equal(write((int)irqfd.fd, &one, 8), 8);
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(r.run->io.port, 0x10);
	assert_int_equal(r.ram[0x5000], 1);
	irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
	assert_int_equal(rig_ioctl(r.vm, KVM_IRQFD, &irqfd), 0);
	close((int)irqfd.fd);
	rig_close(&r);
}

/* ---- buses ---------------------------------------------------------------------------------------------------------------- */

static void ioeventfd_takes_matching_writes(void **state)
{
	/* mov al,1; out 60,al; mov al,2; out 60,al; hlt */
	static const uint8_t code[] = { 0xb0, 1, 0xe6, 0x60, 0xb0, 2, 0xe6, 0x60, 0xf4 };
	struct kvm_ioeventfd e = { .datamatch = 1, .addr = 0x60, .len = 1, .flags = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH };
	uint64_t count = 0;
	struct rig r;

	rig_open(&r, 0);
	e.fd = eventfd(0, EFD_NONBLOCK);
	assert_int_equal(rig_ioctl(r.vm, KVM_IOEVENTFD, &e), 0);
	assert_int_equal(rig_ioctl(r.vm, KVM_IOEVENTFD, &e), -EEXIST);
	rig_code(&r, code, sizeof(code));
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(io_data(&r)[0], 2);
	assert_int_equal(read(e.fd, &count, 8), 8);
	assert_int_equal(count, 1);
	halts(&r);
	e.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	assert_int_equal(rig_ioctl(r.vm, KVM_IOEVENTFD, &e), 0);
	assert_int_equal(rig_ioctl(r.vm, KVM_IOEVENTFD, &e), -ENOENT);
	close(e.fd);
	rig_close(&r);
}

/* 169 writes go to the ring, the next one exits. */
static void coalesced_ring_fills(void **state)
{
	/* mov cx,200; 1: mov [40],cl; loop 1b; hlt */
	static const uint8_t code[] = { DS_HOLE, 0xb9, 200, 0, 0x88, 0x0e, 0x40, 0, 0xe2, 0xfa, 0xf4 };
	struct kvm_coalesced_mmio_zone z = { .addr = RIG_HOLE, .size = 4096 };
	struct kvm_coalesced_mmio_ring *ring;
	struct rig r;

	rig_open(&r, 0);
	ring = (void *)((uint8_t *)r.run + 8192);
	assert_int_equal(rig_ioctl(r.vm, KVM_REGISTER_COALESCED_MMIO, &z), 0);
	rig_code(&r, code, sizeof(code));
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_MMIO);
	assert_int_equal(ring->first, 0);
	assert_int_equal(ring->last, 169);
	assert_int_equal(ring->coalesced_mmio[0].phys_addr, RIG_HOLE + 0x40);
	assert_int_equal(ring->coalesced_mmio[0].data[0], 200);
	assert_int_equal(r.run->mmio.data[0], 200 - 169);
	assert_int_equal(rig_ioctl(r.vm, KVM_UNREGISTER_COALESCED_MMIO, &z), 0);
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_MMIO);
	rig_close(&r);
}

/* Every vCPU's mapping shows the one ring. */
static void ring_is_the_vms(void **state)
{
	struct kvm_run *other;
	struct rig r;
	int vcpu;

	rig_open(&r, 0);
	vcpu = rig_vcpu(&r, 1, &other);
	*((uint8_t *)other + 8192) = 0x5a;
	assert_int_equal(*((uint8_t *)r.run + 8192), 0x5a);
	*((uint8_t *)other + 4096) = 0x5a;
	assert_int_equal(*((uint8_t *)r.run + 4096), 0);
	munmap(other, 12288);
	gw_close(vcpu);
	rig_close(&r);
}

/* ---- SMP ------------------------------------------------------------------------------------------------------------------ */

static void *run_thread(void *arg)
{
	struct rig *r = arg;

	return (void *)rig_run(r);
}

/* The first vCPU writes INIT and SIPI to its LAPIC; the second starts at 2000h and says so. */
static void sipi_starts_an_ap(void **state)
{
	static const uint8_t ap[] = { 0x8c, 0xc8, 0xe7, 0x50 };		/* mov ax,cs; out 50,ax */
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp;
	struct kvm_msi msi = { .address_lo = 0xfee01000, .data = 0x4500 };
	pthread_t t;
	struct rig r, second = { 0 };
	void *ret;

	rig_open(&r, RIG_IRQCHIP | RIG_CPUID);
	memcpy(r.ram + 0x2000, ap, sizeof(ap));
	second = r;
	second.vcpu = rig_vcpu(&r, 1, &second.run);
	rig_set_cpuid(&r, second.vcpu);
	assert_int_equal(rig_ioctl(second.vcpu, KVM_GET_MP_STATE, &mp), 0);
	assert_int_equal(mp.mp_state, KVM_MP_STATE_UNINITIALIZED);
	/* Its LAPIC must be enabled in software for messages; INIT and SIPI come through regardless. */
	assert_int_equal(rig_ioctl(second.vcpu, KVM_GET_LAPIC, &lapic), 0);
	pthread_create(&t, NULL, run_thread, &second);
	nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	assert_true(rig_ioctl(r.vm, KVM_SIGNAL_MSI, &msi) >= 0);
	nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	msi.data = 0x4602;
	assert_true(rig_ioctl(r.vm, KVM_SIGNAL_MSI, &msi) >= 0);
	pthread_join(t, &ret);
	assert_null(ret);
	assert_int_equal(second.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(*(uint16_t *)(void *)io_data(&second), 0x200);
	munmap(second.run, 12288);
	gw_close(second.vcpu);
	rig_close(&r);
}

/* ---- the rest --------------------------------------------------------------------------------------------------------------- */

static void synced_registers(void **state)
{
	static const uint8_t code[] = { 0x43, 0xe6, 0x10, 0xeb, 0xfb };	/* 1: inc bx; out 10,al; jmp 1b */
	struct rig r;

	rig_open(&r, 0);
	rig_code(&r, code, sizeof(code));
	r.run->kvm_valid_regs = 8;
	assert_int_equal(rig_run(&r), -EINVAL);
	r.run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->s.regs.regs.rbx, 1);
	assert_int_equal(r.run->s.regs.sregs.cr0 & 1, 0);
	r.run->s.regs.regs.rbx = 0x100;
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->s.regs.regs.rbx, 2);		/* not marked dirty: not taken */
	r.run->s.regs.regs.rbx = 0x100;
	r.run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
	assert_int_equal(rig_run(&r), 0);
	/* SET_REGS at the OUT: it completes, then the loop goes on. */
	assert_int_equal(r.run->s.regs.regs.rbx, 0x101);
	assert_int_equal(r.run->kvm_dirty_regs, 0);
	rig_close(&r);
}

static void kvmclock_page_is_written(void **state)
{
	/* mov ecx,4b564d01; xor edx,edx; mov eax,6001; wrmsr; hlt; hlt */
	static const uint8_t code[] = { 0x66, 0xb9, 0x01, 0x4d, 0x56, 0x4b, 0x66, 0x31, 0xd2, 0x66, 0xb8, 0x01, 0x60, 0, 0, 0x0f, 0x30, 0xf4, 0xf4 };
	struct { uint32_t version, pad; uint64_t tsc, system; uint32_t mul; int8_t shift; uint8_t flags; } *page;
	struct rig r;

	rig_open(&r, RIG_CPUID);
	page = (void *)(r.ram + 0x6000);
	rig_code(&r, code, sizeof(code));
	halts(&r);
	assert_int_not_equal(page->version, 0);
	assert_int_equal(page->version & 1, 0);
	assert_int_not_equal(page->mul, 0);
	assert_int_equal(page->flags, 1);
	assert_int_equal(rig_ioctl_n(r.vcpu, KVM_KVMCLOCK_CTRL, 0), 0);
	assert_int_equal(rig_ioctl_n(r.vcpu, KVM_KVMCLOCK_CTRL, 0), 0);
	halts(&r);
	assert_int_equal(page->flags, 3);
	rig_close(&r);
}

static void dirty_log_sees_stores(void **state)
{
	/* mov byte [3000],1; out 10,al; mov byte [3001],1; hlt */
	static const uint8_t code[] = { 0xc6, 0x06, 0, 0x30, 1, 0xe6, 0x10, 0xc6, 0x06, 1, 0x30, 1, 0xf4 };
	struct kvm_userspace_memory_region region = { .memory_size = RIG_RAM, .flags = KVM_MEM_LOG_DIRTY_PAGES };
	uint64_t bits[1];
	struct kvm_dirty_log log = { .dirty_bitmap = bits };
	struct rig r;

	rig_open(&r, 0);
	region.userspace_addr = (uintptr_t)r.ram;
	assert_int_equal(rig_ioctl(r.vm, KVM_GET_DIRTY_LOG, &log), -ENOENT);
	assert_int_equal(rig_ioctl(r.vm, KVM_SET_USER_MEMORY_REGION, &region), 0);
	rig_code(&r, code, sizeof(code));
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(rig_ioctl(r.vm, KVM_GET_DIRTY_LOG, &log), 0);
	assert_int_equal(bits[0], 1 << 3);
	assert_int_equal(rig_ioctl(r.vm, KVM_GET_DIRTY_LOG, &log), 0);
	assert_int_equal(bits[0], 0);
	/* The page was writable without being asked; after the log was taken it must be asked again. */
	halts(&r);
	assert_int_equal(rig_ioctl(r.vm, KVM_GET_DIRTY_LOG, &log), 0);
	assert_int_equal(bits[0], 1 << 3);
	rig_close(&r);
}

static void client_writes_code(void **state)
{
	/* 1: mov bl,11; out 10,al; jmp 1b */
	static const uint8_t code[] = { 0xb3, 0x11, 0xe6, 0x10, 0xeb, 0xfa };
	struct rig r;

	rig_open(&r, 0);
	rig_code(&r, code, sizeof(code));
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(rig_run(&r), 0);
		assert_int_equal(regs_of(r.vcpu).rbx, 0x11 + i);
		r.ram[RIG_CODE + 1]++;
	}
	rig_close(&r);
}

static void dump_of_a_running_vcpu(void **state)
{
	static char text[8192];
	struct gw_dump d = { .flags = GW_DUMP_REGS | GW_DUMP_RING | GW_DUMP_CODE | GW_DUMP_WALK, .size = sizeof(text),
			     .buf = (uintptr_t)text, .gva = RIG_CODE };
	pthread_t t;
	struct rig r;

	catch(SIGUSR1);
	rig_open(&r, 0);
	rig_code(&r, spin, sizeof(spin));
	pthread_create(&t, NULL, run_thread, &r);
	nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	assert_int_equal(rig_ioctl(r.vcpu, GW_DUMP, &d), 0);
	assert_non_null(strstr(text, "rip=0000000000001000"));
	assert_non_null(strstr(text, "jmp"));
	assert_non_null(strstr(text, "translation: gva=0000000000001000 gpa=000000001000"));
	assert_int_equal(d.length, strlen(text) + 1);
	memcpy(r.ram + RIG_CODE, "\xf4\xf4", 2);	/* hlt: noticed without any call */
	pthread_join(t, NULL);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_HLT);
	d.size = 10;
	assert_int_equal(rig_ioctl(r.vcpu, GW_DUMP, &d), 0);
	assert_int_equal(strlen(text), 9);
	rig_close(&r);
}

static void hypercalls_answer(void **state)
{
	/* mov eax,1; vmcall; mov ebx,eax; mov eax,99; vmcall; hlt */
	static const uint8_t code[] = { 0x66, 0xb8, 1, 0, 0, 0, 0x0f, 0x01, 0xc1, 0x66, 0x89, 0xc3, 0x66, 0xb8, 99, 0, 0, 0, 0x0f, 0x01, 0xc1, 0xf4 };
	struct rig r;

	rig_open(&r, RIG_CPUID);
	rig_code(&r, code, sizeof(code));
	halts(&r);
	assert_int_equal(regs_of(r.vcpu).rbx, 0);
	assert_int_equal((int32_t)regs_of(r.vcpu).rax, -1000);
	rig_close(&r);
}

static void enable(struct rig *r, uint32_t cap, uint64_t arg)
{
	struct kvm_enable_cap c = { .cap = cap, .args = { arg } };

	assert_int_equal(rig_ioctl(r->vm, KVM_ENABLE_CAP, &c), 0);
}

/* mov ecx,174; rdmsr; mov ebx,eax; wrmsr; mov ecx,12345678; wrmsr; rdmsr; hlt */
static const uint8_t msr_code[] = {
	0x66, 0xb9, 0x74, 0x01, 0, 0, 0x0f, 0x32, 0x66, 0x89, 0xc3, 0x0f, 0x30, 0x66, 0xb9, 0x78, 0x56, 0x34, 0x12, 0x0f, 0x30, 0x0f, 0x32, 0xf4,
};

static void msrs_go_to_the_client(void **state)
{
	struct kvm_msr_filter filter = { .ranges = { { .flags = KVM_MSR_FILTER_READ, .base = 0x174, .nmsrs = 1 } } };
	uint8_t denied[8] = { 0 };
	struct rig r;

	rig_open(&r, RIG_CPUID);
	filter.ranges[0].bitmap = denied;
	assert_int_equal(rig_ioctl(r.vm, KVM_X86_SET_MSR_FILTER, &filter), 0);
	enable(&r, KVM_CAP_X86_USER_SPACE_MSR, 7);
	rig_code(&r, msr_code, sizeof(msr_code));
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_X86_RDMSR);
	assert_int_equal(r.run->msr.reason, KVM_MSR_EXIT_REASON_FILTER);
	assert_int_equal(r.run->msr.index, 0x174);
	r.run->msr.data = 0x55;
	/* Writing it is not filtered. */
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_X86_WRMSR);
	assert_int_equal(r.run->msr.index, 0x12345678);
	assert_int_equal(r.run->msr.reason, KVM_MSR_EXIT_REASON_UNKNOWN);
	assert_int_equal(r.run->msr.index, 0x12345678);
	assert_int_equal(r.run->msr.data & 0xffffffff, 0x55);
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_X86_RDMSR);
	r.run->msr.data = 0x1122334455667788;
	halts(&r);
	assert_int_equal(regs_of(r.vcpu).rbx, 0x55);
	assert_int_equal(regs_of(r.vcpu).rax, 0x55667788);
	assert_int_equal(regs_of(r.vcpu).rdx, 0x11223344);
	rig_close(&r);
}

/* Without the capability, and with an error as the answer: #GP(0), which goes to vector 13. */
static void msr_errors_are_gp(void **state)
{
	static const uint8_t at_gp[] = { 0xb3, 0x77, 0xf4 };	/* mov bl,77; hlt */
	struct rig r;

	for (unsigned asked = 0; asked < 2; asked++) {
		rig_open(&r, RIG_CPUID);
		memcpy(r.ram + 0x3000, at_gp, sizeof(at_gp));
		ivt(&r, 13, 0x3000);
		rig_code(&r, msr_code, sizeof(msr_code));
		if (asked) {
			enable(&r, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_UNKNOWN);
			assert_int_equal(rig_run(&r), 0);
			assert_int_equal(r.run->exit_reason, KVM_EXIT_X86_WRMSR);
			r.run->msr.error = 1;
		}
		halts(&r);
		assert_int_equal(regs_of(r.vcpu).rbx & 0xff, 0x77);
		rig_close(&r);
	}
}

static void map_gpa_range_goes_to_the_client(void **state)
{
	/* mov eax,12; mov ebx,1000; mov ecx,1; xor edx,edx; vmcall; hlt */
	static const uint8_t code[] = { 0x66, 0xb8, 12, 0, 0, 0, 0x66, 0xbb, 0, 0x10, 0, 0, 0x66, 0xb9, 1, 0, 0, 0, 0x66, 0x31, 0xd2, 0x0f, 0x01, 0xc1, 0xf4 };
	struct rig r;

	rig_open(&r, RIG_CPUID);
	enable(&r, KVM_CAP_EXIT_HYPERCALL, 1 << 12);
	rig_code(&r, code, sizeof(code));
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_HYPERCALL);
	assert_int_equal(r.run->hypercall.nr, 12);
	assert_int_equal(r.run->hypercall.args[0], 0x1000);
	assert_int_equal(r.run->hypercall.args[1], 1);
	/* At the instruction, as in KVM; KVM_RUN retires it, with immediate_exit too. */
	assert_int_equal(regs_of(r.vcpu).rip, RIG_CODE + 21);
	r.run->hypercall.ret = 0x33;
	r.run->immediate_exit = 1;
	assert_int_equal(rig_ioctl_n(r.vcpu, KVM_RUN, 0), -EINTR);
	r.run->immediate_exit = 0;
	assert_int_equal(regs_of(r.vcpu).rip, RIG_CODE + 24);
	halts(&r);
	assert_int_equal(regs_of(r.vcpu).rax, 0x33);
	rig_close(&r);
}

static void out_7e_has_retired(void **state)
{
	/* out 7e,al; out 7f,al; hlt */
	static const uint8_t code[] = { 0xe6, 0x7e, 0xe6, 0x7f, 0xf4 };
	struct rig r;

	for (unsigned off = 0; off < 2; off++) {
		rig_open(&r, 0);
		if (off)
			enable(&r, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_OUT_7E_INC_RIP);
		rig_code(&r, code, sizeof(code));
		assert_int_equal(rig_run(&r), 0);
		assert_int_equal(r.run->io.port, 0x7e);
		assert_int_equal(regs_of(r.vcpu).rip, RIG_CODE + (off ? 0 : 2));
		assert_int_equal(rig_run(&r), 0);
		assert_int_equal(r.run->io.port, 0x7f);
		assert_int_equal(regs_of(r.vcpu).rip, RIG_CODE + 2);
		halts(&r);
		rig_close(&r);
	}
}

/* The host's own instruction and the other vendor's. */
static bool host_is_intel(void)
{
	unsigned a, b, c, d;

	__asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(0), "c"(0));
	return b != 0x68747541 && b != 0x6f677948;
}

/* In real mode: #UD to 2000. mov eax,1; VMxCALL; hlt */
static void set_hypercall(struct rig *r, bool own)
{
	uint8_t code[] = { 0x66, 0xb8, 1, 0, 0, 0, 0x0f, 0x01, own == host_is_intel() ? 0xc1 : 0xd9, 0xf4 };
	static const uint16_t vector[2] = { 0x2000, 0 };

	memcpy(r->ram + 6 * 4, vector, sizeof(vector));
	r->ram[0x2000] = 0xf4;
	rig_code(r, code, sizeof(code));
}

static void the_other_hypercall_is_patched(void **state)
{
	struct gw_heki_attributes a = { .address = RIG_CODE, .size = 4096, .attributes = GW_HEKI_NW, .mask = GW_HEKI_NW };
	uint8_t own[3], other[3];
	struct rig r;

	rig_open(&r, RIG_CPUID);
	set_hypercall(&r, true);
	memcpy(own, r.ram + RIG_CODE + 6, 3);
	halts(&r);
	assert_int_equal(regs_of(r.vcpu).rax, 0);
	assert_memory_equal(r.ram + RIG_CODE + 6, own, 3);
	set_hypercall(&r, false);
	memcpy(other, r.ram + RIG_CODE + 6, 3);
	halts(&r);
	assert_int_equal(regs_of(r.vcpu).rip, RIG_CODE + 10);
	assert_int_equal(regs_of(r.vcpu).rax, 0);
	assert_memory_equal(r.ram + RIG_CODE + 6, own, 3);
	/* Kernel integrity judges the patch; the hypercall is executed all the same. */
	set_hypercall(&r, false);
	assert_int_equal(rig_ioctl(r.vm, GW_HEKI_SET_ATTRIBUTES, &a), 0);
	halts(&r);
	assert_int_equal(regs_of(r.vcpu).rip, RIG_CODE + 10);
	assert_int_equal(regs_of(r.vcpu).rax, 0);
	assert_memory_equal(r.ram + RIG_CODE + 6, other, 3);
	rig_close(&r);
	/* Without the quirk it is not there. */
	rig_open(&r, RIG_CPUID);
	enable(&r, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_FIX_HYPERCALL_INSN);
	set_hypercall(&r, true);
	halts(&r);
	assert_int_equal(regs_of(r.vcpu).rip, RIG_CODE + 10);
	set_hypercall(&r, false);
	halts(&r);
	assert_int_equal(regs_of(r.vcpu).rip, 0x2001);
	assert_memory_equal(r.ram + RIG_CODE + 6, other, 3);
	rig_close(&r);
}

static void breakpoint_of_the_client(void **state)
{
	static const uint8_t code[] = { 0x90, 0xcc, 0xf4 };
	struct kvm_guest_debug d = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP };
	struct rig r;

	rig_open(&r, 0);
	rig_code(&r, code, sizeof(code));
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_GUEST_DEBUG, &d), 0);
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_DEBUG);
	assert_int_equal(r.run->debug.arch.exception, 3);
	assert_int_equal(r.run->debug.arch.pc, RIG_CODE + 1);
	assert_int_equal(regs_of(r.vcpu).rip, RIG_CODE + 1);
	rig_close(&r);
}

static void single_step_by_the_client(void **state)
{
	static const uint8_t code[] = { 0x90, 0x43, 0xf4 };
	struct kvm_guest_debug d = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP };
	struct rig r;

	rig_open(&r, 0);
	rig_code(&r, code, sizeof(code));
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_GUEST_DEBUG, &d), 0);
	for (unsigned i = 1; i <= 2; i++) {
		assert_int_equal(rig_run(&r), 0);
		assert_int_equal(r.run->exit_reason, KVM_EXIT_DEBUG);
		assert_int_equal(r.run->debug.arch.exception, 1);
		assert_int_equal(r.run->debug.arch.dr6, 0xffff4ff0);
		assert_int_equal(r.run->debug.arch.pc, RIG_CODE + i);
	}
	assert_int_equal(regs_of(r.vcpu).rflags & 0x100, 0);
	rig_close(&r);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		{ "OUT and IN exit with RIP at the instruction and complete on re-entry", out_and_in },
		{ "immediate_exit completes a pending IN, runs nothing and leaves exit_reason", immediate_exit_completes },
		{ "moving RIP drops a pending IN", moved_rip_drops_io },
		{ "REP INS reads ahead in one exit and takes as many as RCX then says", ins_reads_ahead },
		{ "REP OUTS exits once per element", outs_goes_one_by_one },
		{ "an MMIO write has retired at its exit", mmio_write_retires_first },
		{ "an MMIO read completes on re-entry", mmio_read_completes_on_reentry },
		{ "a read-modify-write of a device is two exits", mmio_rmw_is_two_exits },
		{ "an MMIO write across pages is two fragments", mmio_across_pages_is_split },
		{ "a write to a read-only slot is an MMIO exit, a read is not", read_only_slot_exits_on_write },
		{ "a triple fault is a shutdown exit", triple_fault_is_shutdown },
		{ "a triple fault that waits is told, taken and delivered", triple_fault_is_an_event },
		{ "memory that the client took away gives EFAULT and the address", memory_taken_away_is_efault },
		{ "a signal, immediate_exit and both stop a loop", signal_stops_a_loop },
		{ "a signal wakes HLT and the vCPU stays halted", signal_wakes_hlt },
		{ "with a signal mask the signal stays pending and no handler runs", signal_mask_leaves_it_pending },
		{ "KVM_INTERRUPT without an irqchip is delivered", interrupt_by_client },
		{ "the interrupt window opens after STI's shadow", interrupt_window_opens },
		{ "an NMI wakes HLT", nmi_wakes_hlt },
		{ "an irqfd wakes HLT through the PIC", irqfd_wakes_hlt },
		{ "an ioeventfd takes matching writes only", ioeventfd_takes_matching_writes },
		{ "the coalesced ring takes 169 writes, the next one exits", coalesced_ring_fills },
		{ "the coalesced ring is the VM's, the port page the vCPU's", ring_is_the_vms },
		{ "INIT and SIPI start an AP that waits in KVM_RUN", sipi_starts_an_ap },
		{ "synced registers go out by valid_regs and in by dirty_regs", synced_registers },
		{ "kvmclock's page is written and says that the guest was stopped", kvmclock_page_is_written },
		{ "the dirty log sees a store before and after it was taken", dirty_log_sees_stores },
		{ "code that the client changes between exits is seen", client_writes_code },
		{ "a running vCPU can be dumped", dump_of_a_running_vcpu },
		{ "hypercalls answer, unknown ones with -1000", hypercalls_answer },
		{ "filtered and unknown MSRs go to a client that wants them", msrs_go_to_the_client },
		{ "an MSR the client refuses, or nobody knows, is #GP", msr_errors_are_gp },
		{ "MAP_GPA_RANGE goes to the client and its answer to RAX", map_gpa_range_goes_to_the_client },
		{ "OUT to port 7E has retired at its exit, unless the client gives the quirk up", out_7e_has_retired },
		{ "the other vendor's hypercall is patched; without the quirk it is #UD", the_other_hypercall_is_patched },
		{ "INT3 is the client's when it debugs", breakpoint_of_the_client },
		{ "single stepping by the client leaves no TF behind", single_step_by_the_client },
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
