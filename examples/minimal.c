/* SPDX-License-Identifier: MIT */
/*
 * The smallest useful client: a guest in real mode adds two numbers and prints the sum through a port. Written as for
 * /dev/kvm; with libguestward the four calls have a gw_ in front. Build:
 *     cc minimal.c $(pkg-config --cflags --libs guestward) -o minimal
 */
#include <errno.h>
#include <guestward/guestward.h>
#include <guestward/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

/* mov $0x3f8,%dx; add %bl,%al; add $'0',%al; out %al,(%dx); mov $'\n',%al; out %al,(%dx); hlt */
static const uint8_t code[] = { 0xba, 0xf8, 0x03, 0x00, 0xd8, 0x04, '0', 0xee, 0xb0, '\n', 0xee, 0xf4 };

static long call(int fd, unsigned long request, const void *arg)
{
	return gw_ioctl(fd, request, (unsigned long)(uintptr_t)arg);
}

static int failed(const char *what, long error)
{
	fprintf(stderr, "minimal: %s: %s\n", what, strerror((int)-error));
	return 1;
}

int main(void)
{
	uint8_t *ram = mmap(NULL, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region region = { .guest_phys_addr = 0x1000, .memory_size = 0x1000, .userspace_addr = (uintptr_t)ram };
	struct kvm_regs regs = { .rip = 0x1000, .rax = 2, .rbx = 2, .rflags = 2 };
	struct kvm_sregs sregs;
	struct kvm_run *run;
	int kvm, vm, vcpu, error;
	long r;

	if (ram == MAP_FAILED)
		return failed("memory", -12);
	memcpy(ram, code, sizeof(code));
	kvm = gw_open();
	if (kvm < 0)
		return failed("open", kvm);
	vm = (int)gw_ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		return failed("create a VM", vm);
	r = call(vm, KVM_SET_USER_MEMORY_REGION, &region);
	if (r)
		return failed("give it memory", r);
	vcpu = (int)gw_ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		return failed("create a CPU", vcpu);
	run = gw_mmap((size_t)gw_ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0, &error);
	if (!run)
		return failed("map its state", error);

	call(vcpu, KVM_GET_SREGS, &sregs);
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	r = call(vcpu, KVM_SET_SREGS, &sregs);
	if (!r)
		r = call(vcpu, KVM_SET_REGS, &regs);
	if (r)
		return failed("set registers", r);

	for (;;) {
		r = gw_ioctl(vcpu, KVM_RUN, 0);
		if (r == -EINTR)
			continue;
		if (r)
			return failed("run", r);
		switch (run->exit_reason) {
		case KVM_EXIT_IO:
			if (run->io.direction == KVM_EXIT_IO_OUT && run->io.port == 0x3f8)
				putchar(*((char *)run + run->io.data_offset));
			break;
		case KVM_EXIT_HLT:
			return 0;
		default:
			fprintf(stderr, "minimal: exit %u\n", run->exit_reason);
			return 1;
		}
	}
}
