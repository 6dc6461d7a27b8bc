/* SPDX-License-Identifier: MIT */
/*
 * A client that is told of kernel integrity: the guest pins CR0.WP by the hypercall of the Heki series, then writes a page that
 * the client closed, then tries to clear WP. The client prints each exit and lets the two writes vanish. Build:
 *     cc heki.c $(pkg-config --cflags --libs guestward) -o heki
 */
#include <errno.h>
#include <guestward/guestward.h>
#include <guestward/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define CLOSED	0x2000

static const uint8_t code[] = {
	0x66, 0xb8, KVM_HC_LOCK_CR_UPDATE, 0, 0, 0,	/* mov $13,%eax */
	0x66, 0x31, 0xdb,				/* xor %ebx,%ebx: CR0 */
	0x66, 0xb9, 0, 0, 1, 0,				/* mov $0x10000,%ecx: WP */
	0x66, 0x31, 0xd2,				/* xor %edx,%edx: no flags */
	0x0f, 0x01, 0xc1,				/* vmcall */
	0xc6, 0x06, 0x00, 0x20, 0x77,			/* movb $0x77,0x2000 */
	0x0f, 0x20, 0xc0,				/* mov %cr0,%eax */
	0x66, 0x25, 0xff, 0xff, 0xfe, 0xff,		/* and $~WP,%eax */
	0x0f, 0x22, 0xc0,				/* mov %eax,%cr0 */
	0xf4						/* hlt */
};

static long call(int fd, unsigned long request, const void *arg)
{
	return gw_ioctl(fd, request, (unsigned long)(uintptr_t)arg);
}

/* Ask to be told, and close the page to writes. Both work at any time, also while the guest runs. */
static long protect(int vm)
{
	struct kvm_enable_cap told = { .cap = KVM_CAP_HEKI_CONFIGURE, .args = { KVM_HEKI_EXIT_REASON_CR0 | KVM_HEKI_EXIT_REASON_CR4 } };
	struct kvm_enable_cap asked = { .cap = KVM_CAP_HEKI_DENIAL, .args = { KVM_HEKI_EXIT_REASON_CR0 | KVM_HEKI_EXIT_REASON_MEM } };
	struct gw_heki_attributes page = { .address = CLOSED, .size = 0x1000, .attributes = GW_HEKI_NW, .mask = GW_HEKI_NW };
	long r = call(vm, KVM_ENABLE_CAP, &told);

	if (!r)
		r = call(vm, KVM_ENABLE_CAP, &asked);
	return r ? r : call(vm, GW_HEKI_SET_ATTRIBUTES, &page);
}

static void tell_configure(const struct gw_run_heki_configure *c)
{
	printf("pinned %llx\n", (unsigned long long)c->cr_pinned);	/* active already; the guest gets 0 */
}

static void tell_denial(struct gw_run_heki_denial *d)
{
	if (d->reason == KVM_HEKI_EXIT_REASON_MEM) {
		printf("denied: access %llx at %llx\n", (unsigned long long)d->mem.access & 7, (unsigned long long)d->mem.gpa);
		d->mem.action = GW_HEKI_IGNORE;		/* or INJECT, RETRY after a change of ours, SHUTDOWN */
	} else {
		printf("denied: CR0 = %llx\n", (unsigned long long)d->cr.value);
		d->cr.action = GW_HEKI_IGNORE;
	}
}

static int run_guest(int vcpu, struct kvm_run *run)
{
	for (;;) {
		long r = gw_ioctl(vcpu, KVM_RUN, 0);

		if (r == -EINTR)
			continue;
		if (r)
			return 1;
		switch (run->exit_reason) {
		case KVM_EXIT_HEKI_CONFIGURE:
			tell_configure((void *)run->padding);
			break;
		case KVM_EXIT_HEKI_DENIAL:
			tell_denial((void *)run->padding);
			break;
		default:
			return run->exit_reason != KVM_EXIT_HLT;
		}
	}
}

int main(void)
{
	uint8_t *ram = mmap(NULL, 0x3000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region region = { .memory_size = 0x3000, .userspace_addr = (uintptr_t)ram };
	struct kvm_regs regs = { .rip = 0x1000, .rflags = 2 };
	struct kvm_sregs sregs;
	struct kvm_run *run;
	int kvm = gw_open(), vm, vcpu, error;

	if (ram == MAP_FAILED || kvm < 0)
		return 1;
	memcpy(ram + 0x1000, code, sizeof(code));
	vm = (int)gw_ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0 || gw_ioctl(vm, KVM_CHECK_EXTENSION, GW_CAP_HEKI) != 1 || call(vm, KVM_SET_USER_MEMORY_REGION, &region) || protect(vm))
		return 1;
	vcpu = (int)gw_ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		return 1;
	run = gw_mmap((size_t)gw_ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0, &error);
	if (!run || call(vcpu, KVM_GET_SREGS, &sregs))
		return 1;
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	sregs.cr0 |= 0x10000;
	if (call(vcpu, KVM_SET_SREGS, &sregs) || call(vcpu, KVM_SET_REGS, &regs) || run_guest(vcpu, run))
		return 1;
	printf("the page holds %x\n", ram[CLOSED]);
	return 0;
}
