/* SPDX-License-Identifier: MIT */
#include "rig.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

static void told(void *opaque, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	struct rig *r = opaque;

	if (r->n_seen < SEEN_MAX)
		r->seen[r->n_seen] = *ev;
	r->n_seen++;
	memcpy(r->before, r->ram + PAGE_A, sizeof(r->before));
	if (r->answer)
		r->answer(r, ev, a);
	else
		a->flags = r->flags;
	assert_true(r->n_seen < 5000);
}

static void tables(struct rig *r)
{
	uint64_t *e = (uint64_t *)(void *)r->ram;

	e[0x1000 / 8] = 0x2000 | 7 | 0x20;
	e[0x2000 / 8] = 0x3000 | 7 | 0x20;
	e[0x3000 / 8] = TABLE | 7 | 0x20;
	e[0x3000 / 8 + 1] = FAR_TABLE | 7 | 0x20;
	for (uint64_t i = 0; i < 512; i++)
		e[TABLE / 8 + i] = e[FAR_TABLE / 8 + i] = i << 12 | 7 | 0x60;	/* A and D set */
	e[GDT / 8 + 1] = 0x00209b0000000000ull;
	e[GDT / 8 + 2] = 0x0000930000000000ull;
	e[GDT / 8 + 3] = 0x0000e90000000067ull | (uint64_t)(TSS & 0xffffff) << 16;
	for (unsigned i = 0; i < 32; i++) {
		e[IDT / 8 + 2 * i] = (HANDLER & 0xffff) | 8ull << 16 | 0x8e00ull << 32 | (uint64_t)(HANDLER >> 16) << 48;
		e[IDT / 8 + 2 * i + 1] = 0;
	}
	memset(r->ram + HANDLER, 0xf4, 16);
}

static void long_mode(int vcpu)
{
	struct kvm_sregs s;

	assert_int_equal(gw_ioctl(vcpu, KVM_GET_SREGS, (uintptr_t)&s), 0);
	s.cr0 = 0x80010031;
	s.cr3 = 0x1000;
	s.cr4 = 0x20;
	s.efer = 0x500;
	s.cs = (struct kvm_segment){ .limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 };
	s.ds = (struct kvm_segment){ .limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
	s.es = s.ss = s.fs = s.gs = s.ds;
	s.tr = (struct kvm_segment){ .base = TSS, .limit = 0x67, .selector = 24, .type = 11, .present = 1 };
	s.gdt.base = GDT;
	s.gdt.limit = 0x2f;
	s.idt.base = IDT;
	s.idt.limit = 0x1ff;
	assert_int_equal(gw_ioctl(vcpu, KVM_SET_SREGS, (uintptr_t)&s), 0);
}

void rig_add_cpu(struct rig *r)
{
	struct { uint32_t nent, pad; struct kvm_cpuid_entry2 e[100]; } c = { .nent = 100 };
	unsigned i = r->n_cpus++;
	int err;

	assert_int_equal(gw_ioctl(r->sys, KVM_GET_SUPPORTED_CPUID, (uintptr_t)&c), 0);
	r->vcpu[i] = (int)gw_ioctl(r->vm, KVM_CREATE_VCPU, i);
	assert_true(r->vcpu[i] >= 0);
	r->run[i] = gw_mmap(12288, PROT_READ | PROT_WRITE, MAP_SHARED, r->vcpu[i], 0, &err);
	assert_non_null(r->run[i]);
	assert_int_equal(gw_ioctl(r->vcpu[i], KVM_SET_CPUID2, (uintptr_t)&c), 0);
	long_mode(r->vcpu[i]);
}

void rig_open(struct rig *r, unsigned cpus) { rig_open_type(r, cpus, 0); }

void rig_open_type(struct rig *r, unsigned cpus, unsigned long type)
{
	struct kvm_userspace_memory_region region = { .memory_size = RAM };

	memset(r, 0, sizeof(*r));
	r->sys = gw_open();
	r->vm = (int)gw_ioctl(r->sys, KVM_CREATE_VM, type);
	assert_true(r->vm >= 0);
	r->ram_fd = memfd_create("ram", MFD_CLOEXEC);
	assert_int_equal(ftruncate(r->ram_fd, RAM), 0);
	r->ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED, r->ram_fd, 0);
	assert_true(r->ram != MAP_FAILED);
	region.userspace_addr = (uintptr_t)r->ram;
	assert_int_equal(gw_ioctl(r->vm, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&region), 0);
	tables(r);
	while (r->n_cpus < cpus)
		rig_add_cpu(r);
}

void rig_attach(struct rig *r, uint32_t policy)
{
	struct gw_monitor_attach a = { .door = GW_MON_CALLBACK, .policy = policy, .callback = (uintptr_t)told, .opaque = (uintptr_t)r };

	assert_int_equal(gw_ioctl(r->vm, GW_MONITOR_ATTACH, (uintptr_t)&a), 0);
}

void rig_close(struct rig *r)
{
	for (unsigned i = 0; i < r->n_cpus; i++) {
		munmap(r->run[i], 12288);
		assert_int_equal(gw_close(r->vcpu[i]), 0);
	}
	assert_int_equal(gw_close(r->vm), 0);
	assert_int_equal(gw_close(r->sys), 0);
	munmap(r->ram, RAM);
	close(r->ram_fd);
}

void rig_load(struct rig *r, const void *code, size_t n, const struct kvm_regs *regs)
{
	struct kvm_regs g = regs ? *regs : (struct kvm_regs){ 0 };

	memcpy(r->ram + CODE, code, n);
	g.rip = g.rip ? g.rip : CODE;
	g.rsp = g.rsp ? g.rsp : STACK + 0xf00;
	g.rflags |= 2;
	assert_int_equal(gw_ioctl(r->vcpu[0], KVM_SET_REGS, (uintptr_t)&g), 0);
}

uint32_t rig_run(struct rig *r)
{
	long ret;

	do {
		ret = gw_ioctl(r->vcpu[0], KVM_RUN, 0);
	} while (ret == -EINTR || ret == -EAGAIN);
	assert_int_equal(ret, 0);
	return r->run[0]->exit_reason;
}

struct kvm_regs rig_regs(struct rig *r, unsigned cpu)
{
	struct kvm_regs g;

	assert_int_equal(gw_ioctl(r->vcpu[cpu], KVM_GET_REGS, (uintptr_t)&g), 0);
	return g;
}

int rig_cmd(struct rig *r, uint32_t op, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t *r0)
{
	struct gw_monitor c = { .cmd = { .op = op, .a = { a0, a1, a2, a3, a4 } } };

	assert_int_equal(gw_ioctl(r->vm, GW_MONITOR, (uintptr_t)&c), 0);
	if (r0)
		*r0 = c.reply.r[0];
	return c.reply.err;
}

void rig_access(struct rig *r, unsigned view, unsigned type, uint64_t gpa, uint64_t pages)
{
	assert_int_equal(rig_cmd(r, GW_MON_OP_SET_ACCESS, view, type, gpa >> 12, pages, 0, NULL), 0);
}

uint64_t *rig_pte(struct rig *r, uint64_t linear)
{
	return (uint64_t *)(void *)(r->ram + (linear < FAR ? TABLE : FAR_TABLE) + ((linear >> 12) & 511) * 8);
}
