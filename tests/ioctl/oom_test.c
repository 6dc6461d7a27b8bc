/* SPDX-License-Identifier: MIT */
/*
 * The Nth allocation fails, N counting up until a whole life of a VM passes: each call that fails says -ENOMEM, the VM can be
 * closed, and nothing is left. Then the same with the Nth system call that makes a descriptor or a mapping (-EMFILE, -ENOMEM).
 */
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "rig.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
int __real_memfd_create(const char *name, unsigned flags);
int __real_eventfd(unsigned count, int flags);
void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
int __wrap_memfd_create(const char *name, unsigned flags);
int __wrap_eventfd(unsigned count, int flags);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off);

static _Thread_local unsigned alloc_calls, alloc_fails_at, sys_calls, sys_fails_at;

static bool alloc_fails(void)
{
	return ++alloc_calls == alloc_fails_at;
}

static bool sys_fails(int err)
{
	errno = err;
	return ++sys_calls == sys_fails_at;
}

void *__wrap_malloc(size_t size) { return alloc_fails() ? NULL : __real_malloc(size); }
void *__wrap_calloc(size_t n, size_t size) { return alloc_fails() ? NULL : __real_calloc(n, size); }
void *__wrap_realloc(void *p, size_t size) { return alloc_fails() ? NULL : __real_realloc(p, size); }
void *__wrap_aligned_alloc(size_t align, size_t size) { return alloc_fails() ? NULL : __real_aligned_alloc(align, size); }
int __wrap_memfd_create(const char *name, unsigned flags) { return sys_fails(EMFILE) ? -1 : __real_memfd_create(name, flags); }
int __wrap_eventfd(unsigned count, int flags) { return sys_fails(EMFILE) ? -1 : __real_eventfd(count, flags); }

void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off)
{
	return sys_fails(ENOMEM) ? MAP_FAILED : __real_mmap(at, n, prot, flags, fd, off);
}

static uint8_t *ram;
static int event;

/* A little of everything. 0, or the first error; everything is closed either way. */
static long live_and_die(void)
{
	/* out 10,al; mov [3000],al; hlt */
	static const uint8_t code[] = { 0xe6, 0x10, 0xa2, 0, 0x30, 0xf4 };
	struct kvm_userspace_memory_region region = { .flags = KVM_MEM_LOG_DIRTY_PAGES, .memory_size = 0x10000, .userspace_addr = (uintptr_t)ram };
	struct kvm_coalesced_mmio_zone zone = { .addr = 0x100000, .size = 16 };
	struct kvm_ioeventfd io = { .addr = 0x200000, .len = 4, .fd = event };
	struct kvm_irqfd irq = { .fd = (uint32_t)event, .gsi = 5 };
	struct kvm_irq_routing_entry route = { .gsi = 5, .type = KVM_IRQ_ROUTING_MSI, .u.msi = { .address_lo = 0xfee00000, .data = 0x40 } };
	struct rig_routing routing = { .nr = 1, .e = { route } };
	static struct rig_cpuid c;
	struct kvm_regs regs = { .rip = 0x1000, .rsp = 0x8000, .rflags = 2 };
	struct kvm_pit_config pit = { .flags = 1 };
	struct kvm_mp_state mp = { KVM_MP_STATE_RUNNABLE };
	static struct kvm_xsave xsave;
	struct kvm_sregs s;
	char text[64];
	struct gw_dump dump = { .flags = 15, .size = sizeof(text), .buf = (uintptr_t)text };
	uint64_t bits[1];
	struct kvm_dirty_log log = { .dirty_bitmap = bits };
	long err, sys, vm = -1, vcpu = -1, stats;

	memcpy(ram + 0x1000, code, sizeof(code));
	sys = gw_open();
	if (sys < 0)
		return sys;
#define TRY(x) do { err = (x); if (err < 0) goto out; } while (0)
	TRY(vm = rig_ioctl_n((int)sys, KVM_CREATE_VM, 0));
	TRY(rig_ioctl((int)vm, KVM_SET_USER_MEMORY_REGION, &region));
	TRY(rig_ioctl_n((int)vm, KVM_CREATE_IRQCHIP, 0));
	TRY(rig_ioctl((int)vm, KVM_CREATE_PIT2, &pit));
	TRY(vcpu = rig_ioctl_n((int)vm, KVM_CREATE_VCPU, 0));
	c.nent = 100;
	TRY(rig_ioctl((int)sys, KVM_GET_SUPPORTED_CPUID, &c));
	TRY(rig_ioctl((int)vcpu, KVM_SET_CPUID2, &c));
	TRY(rig_ioctl((int)vm, KVM_REGISTER_COALESCED_MMIO, &zone));
	TRY(rig_ioctl((int)vm, KVM_IOEVENTFD, &io));
	TRY(rig_ioctl((int)vm, KVM_SET_GSI_ROUTING, &routing));
	TRY(rig_ioctl((int)vm, KVM_IRQFD, &irq));
	TRY(rig_ioctl((int)vcpu, KVM_GET_XSAVE, &xsave));
	TRY(rig_ioctl((int)vcpu, KVM_SET_XSAVE, &xsave));
	TRY(rig_ioctl((int)vcpu, KVM_GET_SREGS, &s));
	s.cs.base = s.cs.selector = 0;
	TRY(rig_ioctl((int)vcpu, KVM_SET_SREGS, &s));
	TRY(rig_ioctl((int)vcpu, KVM_SET_REGS, &regs));
	TRY(rig_ioctl((int)vcpu, KVM_SET_MP_STATE, &mp));
	TRY(rig_ioctl_n((int)vcpu, KVM_RUN, 0));
	TRY(rig_ioctl((int)vcpu, GW_DUMP, &dump));
	TRY(rig_ioctl((int)vm, KVM_GET_DIRTY_LOG, &log));
	TRY(stats = rig_ioctl_n((int)vcpu, KVM_GET_STATS_FD, 0));
	close((int)stats);
#undef TRY
	err = 0;
out:
	if (vcpu >= 0)
		gw_close((int)vcpu);
	if (vm >= 0)
		gw_close((int)vm);
	gw_close((int)sys);
	return err;
}

static unsigned open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void every_allocation_fails(void **state)
{
	unsigned fds = open_fds(), n = 0;
	long err;

	assert_int_equal(live_and_die(), 0);
	do {
		alloc_calls = 0;
		alloc_fails_at = ++n;
		err = live_and_die();
		alloc_fails_at = 0;
		/* Closing must work without memory; where an answer is possible without it, 0 is fine too. */
		if (err)
			assert_int_equal(err, -ENOMEM);
		assert_int_equal(open_fds(), fds);
	} while (alloc_calls >= n);
	assert_true(n > 30);
}

static void every_descriptor_fails(void **state)
{
	unsigned fds = open_fds(), n = 0;
	long err;

	do {
		sys_calls = 0;
		sys_fails_at = ++n;
		err = live_and_die();
		sys_fails_at = 0;
		if (err)
			assert_true(err == -EMFILE || err == -ENOMEM);
		assert_int_equal(open_fds(), fds);
	} while (sys_calls >= n);
	assert_true(n > 5);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		{ "an allocation that fails is -ENOMEM and leaves nothing, each in turn", every_allocation_fails },
		{ "a descriptor or mapping that fails is its errno and leaves nothing, each in turn", every_descriptor_fails },
	};

	ram = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	event = eventfd(0, EFD_CLOEXEC);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
