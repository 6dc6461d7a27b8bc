/* SPDX-License-Identifier: MIT */
#include "prig.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define CODE_READ	0x1000u
#define CODE_WRITE	0x1010u
#define CODE_SPIN	0x1100u		/* + 0x20 a vCPU */

int prig_gmem(struct prig *p, uint64_t size, uint64_t flags)
{
	struct kvm_create_guest_memfd c = { .size = size, .flags = flags };
	long fd = pioctl(p->vm, KVM_CREATE_GUEST_MEMFD, &c);

	assert_true(fd >= 0);
	return (int)fd;
}

long prig_slot(struct prig *p, unsigned slot, uint64_t gpa, uint64_t size, void *user, int gmem, uint64_t offset)
{
	struct kvm_userspace_memory_region2 r = {
		.slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uintptr_t)user,
		.flags = gmem >= 0 ? KVM_MEM_GUEST_MEMFD : 0, .guest_memfd = (uint32_t)gmem, .guest_memfd_offset = offset,
	};

	return pioctl(p->vm, KVM_SET_USER_MEMORY_REGION2, &r);
}

long prig_delete(struct prig *p, unsigned slot)
{
	struct kvm_userspace_memory_region2 r = { .slot = slot };

	return pioctl(p->vm, KVM_SET_USER_MEMORY_REGION2, &r);
}

long prig_convert(struct prig *p, uint64_t gpa, uint64_t size, bool is_private)
{
	struct kvm_memory_attributes a = { .address = gpa, .size = size, .attributes = is_private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0 };

	return pioctl(p->vm, KVM_SET_MEMORY_ATTRIBUTES, &a);
}

long prig_punch(int gmem, uint64_t offset, uint64_t len)
{
	return gw_fallocate(gmem, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (int64_t)offset, (int64_t)len);
}

static void add_vcpu(struct prig *p)
{
	int n = p->n_vcpus, err;

	p->vcpu[n] = (int)gw_ioctl(p->vm, KVM_CREATE_VCPU, (unsigned long)n);
	assert_true(p->vcpu[n] >= 0);
	p->run[n] = gw_mmap(12288, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu[n], 0, &err);
	assert_non_null(p->run[n]);
	p->cs_base[n] = ~0ull;
	p->n_vcpus++;
}

void prig_open(struct prig *p, unsigned long type, uint64_t gmem_flags)
{
	/* mov al,es:[di]; out 10,al; jmp    mov es:[di],al; out 10,al; jmp */
	static const uint8_t rd[] = { 0x26, 0x8a, 0x05, 0xe6, 0x10, 0xeb, 0xf9 }, wr[] = { 0x26, 0x88, 0x05, 0xe6, 0x10, 0xeb, 0xf9 };

	memset(p, 0, sizeof(*p));
	p->sys = gw_open();
	p->vm = (int)gw_ioctl(p->sys, KVM_CREATE_VM, type);
	assert_true(p->vm >= 0);
	p->ram = mmap(NULL, PRIG_RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	p->shared = mmap(NULL, PRIG_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(p->ram != MAP_FAILED && p->shared != MAP_FAILED);
	assert_int_equal(prig_slot(p, 0, 0, PRIG_RAM, p->ram, -1, 0), 0);
	p->gmem = prig_gmem(p, PRIG_SIZE, gmem_flags);
	assert_int_equal(prig_slot(p, 1, PRIG_AT, PRIG_SIZE, p->shared, p->gmem, 0), 0);
	memcpy(p->ram + CODE_READ, rd, sizeof(rd));
	memcpy(p->ram + CODE_WRITE, wr, sizeof(wr));
	for (unsigned i = 0; i < PRIG_VCPUS; i++)
		add_vcpu(p);
}

void prig_close(struct prig *p)
{
	for (int i = 0; i < p->n_vcpus; i++) {
		munmap(p->run[i], 12288);
		assert_int_equal(gw_close(p->vcpu[i]), 0);
	}
	if (p->gmem >= 0)
		assert_int_equal(gw_close(p->gmem), 0);
	assert_int_equal(gw_close(p->vm), 0);
	assert_int_equal(gw_close(p->sys), 0);
	munmap(p->ram, PRIG_RAM);
	munmap(p->shared, PRIG_SIZE);
}

void prig_set(struct prig *p, unsigned v, uint64_t rip, uint32_t di, uint8_t al)
{
	struct kvm_regs regs = { .rip = rip, .rsp = 0x8000, .rflags = 2, .rdi = di, .rax = al };
	struct kvm_sregs s;

	regs.rip = rip & 0xffff;
	assert_int_equal(pioctl(p->vcpu[v], KVM_SET_REGS, &regs), 0);
	/* Setting system registers again would empty the TLB, which is what is to be tested. */
	if (p->cs_base[v] == (rip & ~0xffffull))
		return;
	p->cs_base[v] = rip & ~0xffffull;
	assert_int_equal(pioctl(p->vcpu[v], KVM_GET_SREGS, &s), 0);
	s.cs.base = rip & ~0xffffull;
	s.cs.selector = (uint16_t)(s.cs.base >> 4);
	s.es.base = PRIG_AT;
	s.es.selector = PRIG_AT >> 4;
	assert_int_equal(pioctl(p->vcpu[v], KVM_SET_SREGS, &s), 0);
	gw_ioctl(p->vcpu[v], KVM_SET_MP_STATE, (uintptr_t)&(struct kvm_mp_state){ KVM_MP_STATE_RUNNABLE });
}

static long step(struct prig *p, unsigned v, uint64_t rip, uint32_t off, uint8_t *value)
{
	struct kvm_run *run = p->run[v];
	long ret;

	prig_set(p, v, rip, off, *value);
	do {
		ret = gw_ioctl(p->vcpu[v], KVM_RUN, 0);
	} while (ret == -EINTR || ret == -EAGAIN);
	if (ret)
		return ret;
	if (run->exit_reason == KVM_EXIT_IO) {
		*value = ((uint8_t *)run)[run->io.data_offset];
		return 0;
	}
	/* Let the access be finished, or it would be the next one's. */
	ret = run->exit_reason;
	if (ret != KVM_EXIT_MMIO)
		return ret;
	memset(run->mmio.data, 0, sizeof(run->mmio.data));
	if (gw_ioctl(p->vcpu[v], KVM_RUN, 0) || run->exit_reason != KVM_EXIT_IO)
		fail_msg("an access to a device does not end");
	return ret;
}

long prig_read(struct prig *p, unsigned v, uint32_t off, uint8_t *value)
{
	return step(p, v, CODE_READ, off, value);
}

long prig_write(struct prig *p, unsigned v, uint32_t off, uint8_t value)
{
	return step(p, v, CODE_WRITE, off, &value);
}

const struct gw_run_memory_fault *prig_fault(struct prig *p, unsigned v)
{
	return (const struct gw_run_memory_fault *)(const void *)p->run[v]->padding;
}

void prig_expect_fault(struct prig *p, unsigned v, long ret, uint64_t gpa, bool is_private)
{
	const struct gw_run_memory_fault *f = prig_fault(p, v);

	assert_int_equal(ret, -EFAULT);
	assert_int_equal(p->run[v]->exit_reason, KVM_EXIT_MEMORY_FAULT);
	assert_int_equal(f->flags, is_private ? KVM_MEMORY_EXIT_FLAG_PRIVATE : 0);
	assert_int_equal(f->gpa, gpa);
	assert_int_equal(f->size, PAGE);
}

void prig_spin(struct prig *p, unsigned v, uint32_t off)
{
	/* mov al,es:[di]; mov [flag],al; jmp */
	const uint8_t code[] = { 0x26, 0x8a, 0x05, 0xa2, (uint8_t)(PRIG_FLAG + v), PRIG_FLAG >> 8, 0xeb, 0xf8 };

	memcpy(p->ram + CODE_SPIN + 0x20 * v, code, sizeof(code));
	prig_set(p, v, CODE_SPIN + 0x20 * v, off, 0);
}
