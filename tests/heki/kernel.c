/* SPDX-License-Identifier: MIT */
#include "kernel.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define NX	(1ull << 63)
#define P_R	0x1ull
#define P_RW	0x3ull
#define LSTAR	0xc0000082u
#define K_LATE_PT	0x1b000u
#define K_LATE_PD	0x1c000u
#define K_DIRECT_PT	0x1d000u
#define K_DIRECT_PD	0x26000u
#define K_DIRECT_PDPT	0x27000u

static void put64(struct guest *g, uint64_t at, uint64_t v)
{
	memcpy(g->rig.ram + at, &v, 8);
}

static void make_image(struct guest *g)
{
	static const struct { uint64_t gpa, bits; } pages[] = {
		{ K_TEXT, P_R }, { K_CODE, P_R }, { K_RODATA, P_R | NX }, { K_DATA, P_RW | NX },
	};

	put64(g, G_PML4 + 273 * 8, K_DIRECT_PDPT | P_RW);
	put64(g, K_DIRECT_PDPT, K_DIRECT_PD | P_RW);
	put64(g, K_DIRECT_PD, K_DIRECT_PT | P_RW);
	for (unsigned i = 0; i < RIG_RAM >> 12; i++)
		put64(g, K_DIRECT_PT + i * 8, (uint64_t)i << 12 | (i >= K_TEXT >> 12 && i <= K_RODATA >> 12 ? P_R : P_RW) | NX);
	put64(g, G_PML4 + 511 * 8, K_PDPT | P_RW);
	put64(g, K_PDPT + 510 * 8, K_PD | P_RW);
	put64(g, K_PD + 8 * 8, K_PT | P_RW);
	for (unsigned i = 0; i < sizeof(pages) / sizeof(pages[0]); i++)
		put64(g, K_PT + i * 8, pages[i].gpa | pages[i].bits);
	put64(g, K_PDPT + 511 * 8, K_LATE_PD | P_RW);
	put64(g, K_LATE_PD, K_LATE_PT | P_RW);
	for (unsigned v = 0; v < 32; v++) {
		uint64_t h = K_IMAGE + v * 16;
		uint8_t stub[] = { 0x49, 0xc7, 0xc7, (uint8_t)v, 0, 0, 0, 0xf4 };	/* mov $v,%r15; hlt */

		put64(g, G_IDT + v * 16, (h & 0xffff) | 8ull << 16 | 0x8e00ull << 32 | (h >> 16 & 0xffff) << 48);
		put64(g, G_IDT + v * 16 + 8, h >> 32);
		memcpy(g->rig.ram + K_TEXT + v * 16, stub, sizeof(stub));
	}
}

static void open_unlocked(struct guest *g, unsigned flags)
{
	struct { uint32_t n, pad; struct kvm_msr_entry e; } msr = { .n = 1, .e = { .index = LSTAR, .data = K_IMAGE } };

	guest_open_with(g, flags);
	make_image(g);
	assert_int_equal(rig_ioctl(g->rig.vcpu, KVM_SET_MSRS, &msr), 1);
}

void kernel_open_unlocked(struct guest *g)
{
	open_unlocked(g, RIG_CPUID);
}

void kernel_open(struct guest *g, const struct gw_heki_policy *p)
{
	kernel_open_with(g, p, RIG_CPUID);
}

void kernel_open_with(struct guest *g, const struct gw_heki_policy *p, unsigned flags)
{
	struct gw_heki_policy policy = p ? *p : (struct gw_heki_policy){ 0 };

	open_unlocked(g, flags);
	policy.flags |= GW_HEKI_POLICY_UNASSISTED;
	assert_int_equal(rig_ioctl(g->rig.vm, GW_HEKI_SET_POLICY, &policy), 0);
}

void kernel_make_again(struct guest *g)
{
	make_image(g);
}

void kernel_lock(struct guest *g)
{
	struct gw_heki_state s;

	guest_start(g, 3);
	EMIT(g, 0x0f, 0x0b);
	assert_int_equal(guest_vector(g), 6);
	assert_int_equal(rig_ioctl(g->rig.vm, GW_HEKI_GET_STATE, &s), 0);
	assert_int_equal(s.locked, 1);
	assert_int_equal(kernel_attributes(g, K_TEXT) & (GW_HEKI_NW | GW_HEKI_NX | GW_HEKI_NXS), GW_HEKI_NW);
	kernel_again(g);
}

void kernel_again(struct guest *g)
{
	struct kvm_regs regs = guest_regs(g);

	g->base = K_CODE;
	g->len = 0;
	regs.rip = K_VA(K_CODE);
	regs.rsp = G_STACK;
	regs.rflags = 2;
	regs.r15 = ~0ull;
	assert_int_equal(rig_ioctl(g->rig.vcpu, KVM_SET_REGS, &regs), 0);
}

void kernel_open_direct(struct guest *g, uint64_t gpa)
{
	put64(g, K_DIRECT_PT + (gpa >> 12) * 8, gpa | P_RW | NX);
}

void kernel_map_large(struct guest *g, unsigned index, uint64_t gpa)
{
	put64(g, K_PD + index * 8, gpa | 1ull << 7 | P_R | NX);
}

void kernel_map_late(struct guest *g, unsigned index, uint64_t pte)
{
	put64(g, K_LATE_PT + index * 8, pte);
}

uint64_t kernel_attributes(struct guest *g, uint64_t gpa)
{
	struct gw_heki_attributes a = { .address = gpa };
	struct gw_heki_state s;

	if (rig_ioctl(g->rig.vm, GW_HEKI_GET_ATTRIBUTES, &a) == 0 && a.address <= gpa && gpa - a.address < a.size)
		return a.attributes;
	assert_int_equal(rig_ioctl(g->rig.vm, GW_HEKI_GET_STATE, &s), 0);
	return s.default_attributes;
}
