/* SPDX-License-Identifier: MIT */
#include "guest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void put64(struct guest *g, uint64_t at, uint64_t v)
{
	memcpy(g->rig.ram + at, &v, 8);
}

static void make_tables(struct guest *g)
{
	put64(g, G_PML4, G_PDPT | 7);
	put64(g, G_PDPT, G_PD | 7);
	put64(g, G_PD, G_PT | 7);
	for (unsigned i = 0; i < 512; i++)
		put64(g, G_PT + i * 8, (uint64_t)i << 12 | (i >= G_USER_CODE >> 12 || i == (G_STACK >> 12) - 1 ? 7 : 3));
	put64(g, G_GDT + 8, 0x00af9b000000ffffull);	/* 64-bit code, 0 */
	put64(g, G_GDT + 16, 0x00cf93000000ffffull);	/* data, 0 */
	put64(g, G_GDT + 24, 0x00affb000000ffffull);	/* 64-bit code, 3 */
	put64(g, G_GDT + 32, 0x00cff3000000ffffull);	/* data, 3 */
	put64(g, G_TSS + 4, G_STACK - 512);			/* RSP0 */
	for (unsigned v = 0; v < 32; v++) {
		uint64_t h = G_STUBS + v * 16;
		uint8_t stub[] = { 0x49, 0xc7, 0xc7, (uint8_t)v, 0, 0, 0, 0xf4 };	/* mov $v,%r15; hlt */

		put64(g, G_IDT + v * 16, (h & 0xffff) | 8ull << 16 | 0x8e00ull << 32 | (h >> 16 & 0xffff) << 48);
		memcpy(g->rig.ram + h, stub, sizeof(stub));
	}
}

void guest_open_with(struct guest *g, unsigned flags)
{
	memset(g, 0, sizeof(*g));
	rig_open(&g->rig, flags);
	make_tables(g);
}

void guest_open(struct guest *g)
{
	guest_open_with(g, RIG_CPUID);
}

void guest_close(struct guest *g)
{
	rig_close(&g->rig);
}

static struct kvm_segment segment(unsigned sel, unsigned type, unsigned dpl, bool code)
{
	return (struct kvm_segment){ .limit = 0xffffffff, .selector = (uint16_t)(sel | dpl), .type = (uint8_t)type, .present = 1,
				     .dpl = (uint8_t)dpl, .db = !code, .s = 1, .l = code, .g = 1 };
}

void guest_start_vcpu(struct guest *g, int fd, unsigned cpl, uint64_t rip, uint64_t rsp)
{
	struct kvm_regs regs = { .rip = rip, .rsp = rsp, .rflags = 2, .r15 = ~0ull };
	struct kvm_sregs s;

	assert_int_equal(rig_ioctl(fd, KVM_GET_SREGS, &s), 0);
	s.cs = segment(cpl ? 24 : 8, 11, cpl, true);
	s.ds = s.es = s.ss = s.fs = s.gs = segment(cpl ? 32 : 16, 3, cpl, false);
	s.tr = (struct kvm_segment){ .base = G_TSS, .limit = 103, .selector = 40, .type = 11, .present = 1 };
	s.gdt.base = G_GDT;
	s.gdt.limit = 0xfff;
	s.idt.base = G_IDT;
	s.idt.limit = 0x1ff;
	s.cr3 = G_PML4;
	if (!(s.cr0 & 0x80000000))
		s.cr4 = 0x20 | CR4_SMEP_BIT | CR4_UMIP_BIT | CR4_FSGS_BIT;
	s.cr0 = 0x80050033;
	s.efer = 0xd01;
	assert_int_equal(rig_ioctl(fd, KVM_SET_SREGS, &s), 0);
	assert_int_equal(rig_ioctl(fd, KVM_SET_REGS, &regs), 0);
}

void guest_start(struct guest *g, unsigned cpl)
{
	g->base = cpl ? G_USER_CODE : G_CODE;
	g->len = 0;
	guest_start_vcpu(g, g->rig.vcpu, cpl, g->base, G_STACK);
}

void guest_again(struct guest *g)
{
	struct kvm_regs regs = { .rip = G_CODE, .rsp = G_STACK, .rflags = 2, .r15 = ~0ull };

	g->base = G_CODE;
	g->len = 0;
	assert_int_equal(rig_ioctl(g->rig.vcpu, KVM_SET_REGS, &regs), 0);
}

void emit(struct guest *g, const void *bytes, size_t n)
{
	memcpy(g->rig.ram + g->base + g->len, bytes, n);
	g->len += n;
}

void emit_mov(struct guest *g, enum reg r, uint64_t value)
{
	uint8_t b[10] = { 0x48, (uint8_t)(0xb8 + r) };

	memcpy(b + 2, &value, 8);
	emit(g, b, sizeof(b));
}

void emit_hlt(struct guest *g)
{
	EMIT(g, 0xf4);
}

void emit_hypercall(struct guest *g, uint64_t nr, uint64_t a0, uint64_t a1, uint64_t a2)
{
	emit_mov(g, R_AX, nr);
	emit_mov(g, R_BX, a0);
	emit_mov(g, R_CX, a1);
	emit_mov(g, R_DX, a2);
	EMIT(g, 0x0f, 0x01, 0xc1);
}

struct kvm_regs guest_regs(struct guest *g)
{
	struct kvm_regs r;

	assert_int_equal(rig_ioctl(g->rig.vcpu, KVM_GET_REGS, &r), 0);
	return r;
}

struct kvm_sregs guest_sregs(struct guest *g)
{
	struct kvm_sregs s;

	assert_int_equal(rig_ioctl(g->rig.vcpu, KVM_GET_SREGS, &s), 0);
	return s;
}

void guest_set_sregs(struct guest *g, const struct kvm_sregs *s)
{
	assert_int_equal(rig_ioctl(g->rig.vcpu, KVM_SET_SREGS, s), 0);
}

uint64_t guest_result(struct guest *g)
{
	assert_int_equal(rig_run(&g->rig), 0);
	assert_int_equal(g->rig.run->exit_reason, KVM_EXIT_HLT);
	return guest_regs(g).rax;
}

int64_t guest_hypercall(struct guest *g, uint64_t nr, uint64_t a0, uint64_t a1, uint64_t a2)
{
	guest_start(g, 0);
	emit_hypercall(g, nr, a0, a1, a2);
	emit_hlt(g);
	return (int64_t)guest_result(g);
}

int guest_vector(struct guest *g)
{
	assert_int_equal(rig_run(&g->rig), 0);
	assert_int_equal(g->rig.run->exit_reason, KVM_EXIT_HLT);
	return (int)guest_regs(g).r15;
}

uint64_t guest_error(struct guest *g)
{
	uint64_t v;

	memcpy(&v, g->rig.ram + guest_regs(g).rsp, 8);
	return v;
}

uint64_t guest_cr2(struct guest *g)
{
	return guest_sregs(g).cr2;
}

void guest_protect(struct guest *g, uint64_t gpa, uint64_t size, uint64_t attributes)
{
	struct gw_heki_attributes a = { .address = gpa, .size = size, .attributes = attributes,
					.mask = GW_HEKI_NR | GW_HEKI_NW | GW_HEKI_NX | attributes };

	assert_int_equal(rig_ioctl(g->rig.vm, GW_HEKI_SET_ATTRIBUTES, &a), 0);
}

void guest_enable(struct guest *g, unsigned cap, uint64_t arg)
{
	struct kvm_enable_cap c = { .cap = cap, .args = { arg } };

	assert_int_equal(rig_ioctl(g->rig.vm, KVM_ENABLE_CAP, &c), 0);
}

struct gw_heki_counters guest_counters(struct guest *g)
{
	struct gw_heki_counters c;

	assert_int_equal(rig_ioctl(g->rig.vm, GW_HEKI_COUNTERS, &c), 0);
	return c;
}

uint64_t guest_stat(struct guest *g, const char *name)
{
	struct { struct kvm_stats_desc d; char name[64]; } row;
	int fd = (int)rig_ioctl_n(g->rig.vcpu, KVM_GET_STATS_FD, 0);
	struct kvm_stats_header h;
	uint64_t v = ~0ull;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &h, sizeof(h), 0), sizeof(h));
	assert_true(h.name_size <= sizeof(row.name));
	for (unsigned i = 0; i < h.num_desc && v == ~0ull; i++) {
		size_t size = sizeof(row.d) + h.name_size;

		assert_int_equal(pread(fd, &row, size, (off_t)(h.desc_offset + i * size)), size);
		if (!strcmp(row.name, name))
			assert_int_equal(pread(fd, &v, 8, (off_t)h.data_offset + row.d.offset), 8);
	}
	assert_true(v != ~0ull);
	close(fd);
	return v;
}

struct gw_heki_event guest_event(struct guest *g)
{
	static struct gw_heki_event e[1024];
	struct gw_heki_events a = { .buf = (uintptr_t)e, .max = 1024 };
	long n = rig_ioctl(g->rig.vm, GW_HEKI_EVENTS, &a);

	assert_true(n > 0);
	return e[n - 1];
}
