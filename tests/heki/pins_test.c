/* SPDX-License-Identifier: MIT */
/*
 * Control-register pins, from a 64-bit guest through the ioctls: the hypercall's vectors, every way to write CR0 and CR4, the
 * exits and what a re-entry does, arming, reset, save and restore, and the second level.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "guest.h"

#define CR0_TS_BIT	8ull
#define LOCK		13
#define PIN_WP(g)	assert_int_equal(guest_hypercall(g, LOCK, 0, CR0_WP_BIT, 0), 0)
#define PIN_SMEP(g)	assert_int_equal(guest_hypercall(g, LOCK, 4, CR4_SMEP_BIT, 0), 0)

/* ---- hypercall vectors ------------------------------------------------------------------------------------------------------- */

static const struct vector { const char *name; uint64_t a[3]; int64_t want; } vectors[] = {
	{ "the version handshake gives 1",			{ 0, 0, 1 }, 1 },
	{ "no register, no mask, no flags is refused",		{ 0, 0, 0 }, -22 },
	{ "an unknown flag is refused",				{ 0, 0, 2 }, -22 },
	{ "the version flag with a mask is refused",		{ 0, 1, 1 }, -22 },
	{ "the version flag with a register is refused",	{ 4, 0, 1 }, -22 },
	{ "a register number past 32 bits is refused",		{ 1ull << 32, 0x10000, 0 }, -22 },
	{ "a CR0 mask without WP is refused",			{ 0, 0x80000000, 0 }, -22 },
	{ "WP is pinned",					{ 0, 0x10000, 0 }, 0 },
	{ "WP with PE and PG is pinned",			{ 0, 0x80010001, 0 }, 0 },
	{ "a CR0 bit that is 0 cannot be pinned",		{ 0, 0x10008, 0 }, -22 },
	{ "a CR0 bit that does not exist is refused",		{ 0, 0x100010000ull, 0 }, -22 },
	{ "CR3 is refused",					{ 3, 1, 0 }, -22 },
	{ "CR8 is refused",					{ 8, 1, 0 }, -22 },
	{ "PAE is no bit of CR4 to pin",			{ 4, 0x20, 0 }, -22 },
	{ "a pinnable bit does not carry an irrelevant one",	{ 4, 0x100020, 0 }, -22 },
	{ "of the whole CR4 mask what is set is pinned",	{ 4, 0xb10800, 0 }, 0 },
	{ "a CR4 bit that is 0 is dropped, and that is no error", { 4, 0x800000, 0 }, 0 },
	{ "an empty CR4 mask is refused",			{ 4, 0, 0 }, -22 },
};

static void check_vector(void **state)
{
	const struct vector *v = *state;
	struct guest g;

	guest_open(&g);
	assert_int_equal(guest_hypercall(&g, LOCK, v->a[0], v->a[1], v->a[2]), v->want);
	guest_close(&g);
}

static void user_may_not(void **state)
{
	struct gw_heki_state s;
	struct guest g;

	guest_open(&g);
	guest_start(&g, 3);
	emit_hypercall(&g, LOCK, 0, 0x10000, 0);
	EMIT(&g, 0x0f, 0x0b);		/* ud2: back to us */
	assert_int_equal(guest_vector(&g), 6);
	assert_int_equal(guest_regs(&g).rax, (uint64_t)-1);
	assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_GET_STATE, &s), 0);
	assert_int_equal(s.pinned_cr0, 0);
	assert_int_equal(s.locked, 0);
	guest_close(&g);
}

static void accepted_bits_accumulate(void **state)
{
	struct gw_heki_state s;
	struct guest g;

	guest_open(&g);
	PIN_SMEP(&g);
	assert_int_equal(guest_hypercall(&g, LOCK, 4, 0xb10800, 0), 0);
	PIN_WP(&g);
	assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_GET_STATE, &s), 0);
	assert_int_equal(s.pinned_cr4, CR4_SMEP_BIT | CR4_UMIP_BIT | CR4_FSGS_BIT);
	assert_int_equal(s.pinned_cr0, CR0_WP_BIT);
	assert_int_equal(s.locked, 1);
	guest_close(&g);
}

/* ---- writes ----------------------------------------------------------------------------------------------------------------------- */

enum how { MOV0, MOV4, LMSW_REG, LMSW_MEM, CLTS };

/* Pins WP, SMEP, FSGSBASE; then one write. */
static const struct write { const char *name; enum how how; uint64_t clear, set; bool blocked; } writes[] = {
	{ "clearing only WP faults",				MOV0, CR0_WP_BIT, 0, true },
	{ "clearing WP with TS set faults, TS stays 0",		MOV0, CR0_WP_BIT, CR0_TS_BIT, true },
	{ "clearing an unpinned CR0 bit passes",		MOV0, 0x20, 0, false },
	{ "writing CR0 as it is passes",			MOV0, 0, 0, false },
	{ "setting a CR0 bit passes",				MOV0, 0, CR0_TS_BIT, false },
	{ "a reserved CR0 value that keeps pins is a plain #GP", MOV0, 0, 1ull << 40, true },
	{ "clearing only SMEP faults",				MOV4, CR4_SMEP_BIT, 0, true },
	{ "clearing only FSGSBASE faults",			MOV4, CR4_FSGS_BIT, 0, true },
	{ "clearing all of CR4 but PAE faults",			MOV4, ~0x20ull, 0, true },
	{ "clearing unpinned UMIP passes",			MOV4, CR4_UMIP_BIT, 0, false },
	{ "writing CR4 as it is passes",			MOV4, 0, 0, false },
	{ "setting PGE passes",					MOV4, 0, 0x80, false },
	{ "SMEP and VME together fault and change neither",	MOV4, CR4_SMEP_BIT, 1, true },
	{ "LMSW cannot reach WP",				LMSW_REG, 0, 0, false },
	{ "CLTS with TS unpinned passes",			CLTS, 0, 0, false },
};

static void emit_write(struct guest *g, enum how how, uint64_t value)
{
	emit_mov(g, R_AX, value);
	emit_mov(g, R_BX, G_DATA);
	switch (how) {
	case MOV0: EMIT(g, 0x0f, 0x22, 0xc0); break;
	case MOV4: EMIT(g, 0x0f, 0x22, 0xe0); break;
	case LMSW_REG: EMIT(g, 0x0f, 0x01, 0xf0); break;
	case LMSW_MEM: EMIT(g, 0x0f, 0x01, 0x33); break;
	case CLTS: EMIT(g, 0x0f, 0x06); break;
	}
	emit_hlt(g);
}

static void check_write(void **state)
{
	const struct write *w = *state;
	struct kvm_sregs before, after;
	uint64_t value;
	struct guest g;
	int vector;

	guest_open(&g);
	PIN_WP(&g);
	assert_int_equal(guest_hypercall(&g, LOCK, 4, CR4_SMEP_BIT | CR4_FSGS_BIT, 0), 0);
	guest_start(&g, 0);
	before = guest_sregs(&g);
	value = ((w->how == MOV4 ? before.cr4 : before.cr0) & ~w->clear) | w->set;
	emit_write(&g, w->how, value);
	vector = guest_vector(&g);
	after = guest_sregs(&g);
	if (!w->blocked) {
		assert_int_equal(vector, -1);
		if (w->how == MOV0)
			assert_int_equal(after.cr0, value);
		if (w->how == MOV4)
			assert_int_equal(after.cr4, value);
	} else {
		assert_int_equal(vector, 13);
		assert_int_equal(guest_error(&g), 0);
		assert_int_equal(after.cr0, before.cr0);
		assert_int_equal(after.cr4, before.cr4);
	}
	guest_close(&g);
}

/* The series' own test of v3, as one program's worth of steps: the whole write is discarded, unpinned bits too. */
static void v3_vector(void **state)
{
	struct guest g;
	uint64_t cr4;

	guest_open(&g);
	PIN_SMEP(&g);
	cr4 = guest_sregs(&g).cr4;
	static const struct { uint64_t clear, set; bool blocked; } steps[] = {
		{ CR4_SMEP_BIT, 0, true }, { 0, CR4_SMEP_BIT, false }, { 0, 1, false }, { 1, 0, false }, { 0, 1, false },
		{ CR4_SMEP_BIT | 1, 0, true }, { 1, 0, false }, { CR4_SMEP_BIT | 1, 0, true },
	};

	for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		uint64_t value = (cr4 & ~steps[i].clear) | steps[i].set;

		guest_start(&g, 0);
		emit_write(&g, MOV4, value);
		assert_int_equal(guest_vector(&g), steps[i].blocked ? 13 : -1);
		if (!steps[i].blocked)
			cr4 = value;
		assert_int_equal(guest_sregs(&g).cr4, cr4);
	}
	guest_close(&g);
}

/* TS may ride along with WP: then CLTS, LMSW and MOV must keep it. */
static void clts_and_lmsw_are_judged(void **state)
{
	static const enum how hows[] = { CLTS, LMSW_REG, LMSW_MEM, MOV0 };

	for (unsigned i = 0; i < 4; i++) {
		struct kvm_sregs s;
		struct guest g;

		guest_open(&g);
		guest_start(&g, 0);
		s = guest_sregs(&g);
		s.cr0 |= CR0_TS_BIT;
		guest_set_sregs(&g, &s);
		emit_hypercall(&g, LOCK, 0, CR0_WP_BIT | CR0_TS_BIT, 0);
		g.rig.ram[G_DATA] = 1;
		emit_write(&g, hows[i], hows[i] == MOV0 ? s.cr0 & ~CR0_TS_BIT : 1);
		assert_int_equal(guest_vector(&g), 13);
		assert_int_equal(guest_sregs(&g).cr0, s.cr0);
		guest_close(&g);
	}
}

/* ---- exits -------------------------------------------------------------------------------------------------------------------------- */

static struct gw_run_heki_configure *configure(struct guest *g) { return (void *)g->rig.run->padding; }
static struct gw_run_heki_denial *denial(struct guest *g) { return (void *)g->rig.run->padding; }

static void configure_exit(void **state)
{
	struct gw_heki_state s;
	struct guest g;
	uint64_t rip;

	guest_open(&g);
	guest_enable(&g, KVM_CAP_HEKI_CONFIGURE, KVM_HEKI_EXIT_REASON_CR0 | KVM_HEKI_EXIT_REASON_CR4);
	guest_start(&g, 0);
	emit_hypercall(&g, LOCK, 4, 0xb10800, 0);
	rip = G_CODE + g.len - 3;
	emit_hlt(&g);
	memset(g.rig.run->padding, 0xee, 64);
	assert_int_equal(rig_run(&g.rig), 0);
	assert_int_equal(g.rig.run->exit_reason, KVM_EXIT_HEKI_CONFIGURE);
	assert_int_equal(configure(&g)->reason, KVM_HEKI_EXIT_REASON_CR4);
	assert_int_equal(configure(&g)->cr_pinned, CR4_SMEP_BIT | CR4_UMIP_BIT | CR4_FSGS_BIT);
	for (unsigned i = 1; i < 7; i++)
		assert_int_equal(configure(&g)->reserved[i], 0);
	/* On the instruction, RAX as it was, the pin active. */
	assert_int_equal(guest_regs(&g).rip, rip);
	assert_int_equal(guest_regs(&g).rax, LOCK);
	assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_GET_STATE, &s), 0);
	assert_int_equal(s.pinned_cr4, CR4_SMEP_BIT | CR4_UMIP_BIT | CR4_FSGS_BIT);
	/* immediate_exit finishes it, so that state may be saved. */
	g.rig.run->immediate_exit = 1;
	assert_int_equal(rig_ioctl_n(g.rig.vcpu, KVM_RUN, 0), -EINTR);
	assert_int_equal(guest_regs(&g).rip, rip + 3);
	assert_int_equal(guest_regs(&g).rax, 0);
	g.rig.run->immediate_exit = 0;
	assert_int_equal(guest_result(&g), 0);
	guest_close(&g);
}

/* RAX is 0 after the exit whatever the client wrote, and errors make no exit. */
static void configure_is_no_question(void **state)
{
	struct kvm_regs regs;
	struct guest g;

	guest_open(&g);
	guest_enable(&g, KVM_CAP_HEKI_CONFIGURE, KVM_HEKI_EXIT_REASON_CR0);
	guest_start(&g, 0);
	emit_hypercall(&g, LOCK, 0, CR0_WP_BIT, 0);
	emit_hlt(&g);
	assert_int_equal(rig_run(&g.rig), 0);
	assert_int_equal(g.rig.run->exit_reason, KVM_EXIT_HEKI_CONFIGURE);
	regs = guest_regs(&g);
	regs.rax = 0x1234;
	assert_int_equal(rig_ioctl(g.rig.vcpu, KVM_SET_REGS, &regs), 0);
	assert_int_equal(guest_result(&g), 0);
	assert_int_equal(guest_hypercall(&g, LOCK, 0, 0x80000000, 0), -22);
	/* CR4's reason is off. */
	assert_int_equal(guest_hypercall(&g, LOCK, 4, CR4_SMEP_BIT, 0), 0);
	guest_enable(&g, KVM_CAP_HEKI_CONFIGURE, 0);
	assert_int_equal(guest_hypercall(&g, LOCK, 0, CR0_WP_BIT, 0), 0);
	guest_close(&g);
}

static void denial_exit(void **state)
{
	struct kvm_regs regs;
	uint64_t cr0, rip;
	struct guest g;

	guest_open(&g);
	PIN_WP(&g);
	guest_enable(&g, KVM_CAP_HEKI_DENIAL, KVM_HEKI_EXIT_REASON_CR0);
	guest_start(&g, 0);
	cr0 = guest_sregs(&g).cr0;
	emit_mov(&g, R_AX, (cr0 & ~CR0_WP_BIT) | CR0_TS_BIT);
	rip = G_CODE + g.len;
	EMIT(&g, 0x0f, 0x22, 0xc0, 0xf4);
	assert_int_equal(rig_run(&g.rig), 0);
	assert_int_equal(g.rig.run->exit_reason, KVM_EXIT_HEKI_DENIAL);
	assert_int_equal(denial(&g)->reason, KVM_HEKI_EXIT_REASON_CR0);
	assert_int_equal(denial(&g)->cr.value, (cr0 & ~CR0_WP_BIT) | CR0_TS_BIT);
	assert_int_equal(guest_regs(&g).rip, rip);
	assert_int_equal(guest_sregs(&g).cr0, cr0);
	/* #GP whatever the client did to registers. */
	regs = guest_regs(&g);
	regs.rax = cr0;
	assert_int_equal(rig_ioctl(g.rig.vcpu, KVM_SET_REGS, &regs), 0);
	assert_int_equal(guest_vector(&g), 13);
	assert_int_equal(guest_sregs(&g).cr0, cr0);
	assert_int_equal(guest_counters(&g).denied_cr, 1);
	assert_int_equal(guest_counters(&g).exits, 1);
	guest_close(&g);
}

static const struct { const char *name; uint64_t action; int want; } actions[] = {
	{ "inject gives #GP", GW_HEKI_INJECT, 13 },
	{ "ignore lets the instruction retire without its write", GW_HEKI_IGNORE, -1 },
};

static void denial_actions(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		struct guest g;
		uint64_t cr4;

		guest_open(&g);
		PIN_SMEP(&g);
		guest_enable(&g, KVM_CAP_HEKI_DENIAL, KVM_HEKI_EXIT_REASON_CR4);
		guest_start(&g, 0);
		cr4 = guest_sregs(&g).cr4;
		emit_write(&g, MOV4, cr4 & ~CR4_SMEP_BIT);
		assert_int_equal(rig_run(&g.rig), 0);
		assert_int_equal(g.rig.run->exit_reason, KVM_EXIT_HEKI_DENIAL);
		denial(&g)->cr.action = actions[i].action;
		assert_int_equal(guest_vector(&g), actions[i].want);
		assert_int_equal(guest_sregs(&g).cr4, cr4);
		guest_close(&g);
	}
}

static void denial_shutdown(void **state)
{
	struct guest g;

	guest_open(&g);
	PIN_WP(&g);
	guest_enable(&g, KVM_CAP_HEKI_DENIAL, KVM_HEKI_EXIT_REASON_CR0);
	guest_start(&g, 0);
	emit_write(&g, MOV0, 0x80000033);
	assert_int_equal(rig_run(&g.rig), 0);
	denial(&g)->cr.action = GW_HEKI_SHUTDOWN;
	assert_int_equal(rig_run(&g.rig), 0);
	assert_int_equal(g.rig.run->exit_reason, KVM_EXIT_SHUTDOWN);
	guest_close(&g);
}

/* With a #GP handler that cannot run the fault must not become two: the IDT holds only vector 13, no #DF. */
static void one_fault_not_two(void **state)
{
	struct guest g;

	guest_open(&g);
	PIN_WP(&g);
	memset(g.rig.ram + G_IDT + 8 * 16, 0, 16);
	guest_start(&g, 0);
	emit_write(&g, MOV0, 0x80000033);
	assert_int_equal(guest_vector(&g), 13);
	guest_close(&g);
}

static void capabilities(void **state)
{
	static const unsigned caps[] = { KVM_CAP_HEKI_CONFIGURE, KVM_CAP_HEKI_DENIAL };
	struct kvm_enable_cap c = { .cap = KVM_CAP_HEKI_CONFIGURE };
	struct rig r;

	rig_open(&r, RIG_NO_VCPU);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(rig_ioctl_n(r.sys, KVM_CHECK_EXTENSION, caps[i]), i ? 15 : 7);
		assert_int_equal(rig_ioctl_n(r.vm, KVM_CHECK_EXTENSION, caps[i]), i ? 15 : 7);
		c = (struct kvm_enable_cap){ .cap = caps[i], .args = { 16 } };
		assert_int_equal(rig_ioctl(r.vm, KVM_ENABLE_CAP, &c), -EINVAL);
		c = (struct kvm_enable_cap){ .cap = caps[i], .args = { 3 }, .flags = 1 };
		assert_int_equal(rig_ioctl(r.vm, KVM_ENABLE_CAP, &c), -EINVAL);
		c = (struct kvm_enable_cap){ .cap = caps[i], .args = { 3, 1, 2, 3 } };
		assert_int_equal(rig_ioctl(r.vm, KVM_ENABLE_CAP, &c), 0);
	}
	/* A VM that asks for nothing keeps KVM's numbers. */
	assert_int_equal(rig_ioctl_n(r.vm, KVM_CHECK_EXTENSION, 235), rig_ioctl_n(r.vm, KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES));
	c = (struct kvm_enable_cap){ .cap = 236, .args = { 3 } };
	assert_int_equal(rig_ioctl(r.vm, KVM_ENABLE_CAP, &c), -EINVAL);
	rig_close(&r);
}

static void rfc_numbers(void **state)
{
	struct kvm_enable_cap c = { .cap = 236, .args = { 4 } };
	struct guest g;

	guest_open(&g);
	guest_enable(&g, GW_CAP_HEKI_RFC_NUMBERS, 1);
	assert_int_equal(rig_ioctl_n(g.rig.vm, KVM_CHECK_EXTENSION, 235), 3);
	assert_int_equal(rig_ioctl_n(g.rig.vm, KVM_CHECK_EXTENSION, 236), 3);
	assert_int_equal(rig_ioctl(g.rig.vm, KVM_ENABLE_CAP, &c), -EINVAL);
	guest_enable(&g, 235, 3);
	guest_enable(&g, 236, 3);
	guest_start(&g, 0);
	emit_hypercall(&g, LOCK, 0, CR0_WP_BIT, 0);
	emit_write(&g, MOV0, 0x80000033);
	assert_int_equal(rig_run(&g.rig), 0);
	assert_int_equal(g.rig.run->exit_reason, 39);
	assert_int_equal(configure(&g)->cr_pinned, CR0_WP_BIT);
	assert_int_equal(rig_run(&g.rig), 0);
	assert_int_equal(g.rig.run->exit_reason, 40);
	assert_int_equal(denial(&g)->cr.value, 0x80000033);
	assert_int_equal(guest_vector(&g), 13);
	guest_close(&g);
}

/* ---- arming, the client's powers, reset -------------------------------------------------------------------------------------------- */

/* A second vCPU that has not got the pins may set them one by one; then it is held. */
static void held_from_the_first_moment(void **state)
{
	struct kvm_sregs s;
	struct guest g;
	struct kvm_run *run;
	int fd;

	guest_open(&g);
	PIN_WP(&g);
	PIN_SMEP(&g);
	fd = rig_vcpu(&g.rig, 1, &run);
	rig_set_cpuid(&g.rig, fd);
	guest_start(&g, 0);
	guest_start_vcpu(&g, fd, 0, G_CODE, G_STACK);
	assert_int_equal(rig_ioctl(fd, KVM_GET_SREGS, &s), 0);
	s.cr4 = 0x20;
	s.cr0 &= ~CR0_WP_BIT;
	assert_int_equal(rig_ioctl(fd, KVM_SET_SREGS, &s), 0);
	/* CR4 without SMEP, then with, CR0 with WP, and at last without it. */
	emit_mov(&g, R_AX, 0x20);
	EMIT(&g, 0x0f, 0x22, 0xe0);
	emit_mov(&g, R_AX, 0x20 | CR4_SMEP_BIT);
	EMIT(&g, 0x0f, 0x22, 0xe0);
	emit_mov(&g, R_AX, s.cr0 | CR0_WP_BIT);
	EMIT(&g, 0x0f, 0x22, 0xc0);
	emit_mov(&g, R_AX, s.cr0);
	EMIT(&g, 0x0f, 0x22, 0xc0, 0xf4);
	assert_int_equal(rig_ioctl_n(fd, KVM_RUN, 0), 0);
	assert_int_equal(run->exit_reason, KVM_EXIT_HLT);
	assert_int_equal(rig_ioctl(fd, KVM_GET_SREGS, &s), 0);
	assert_int_equal(s.cr4, 0x20 | CR4_SMEP_BIT);
	assert_true(s.cr0 & CR0_WP_BIT);
	assert_int_equal(guest_counters(&g).denied_cr, 1);
	assert_int_equal(gw_close(fd), 0);
	guest_close(&g);
}

/* More pins than a vCPU has do not free it from those it is held to. */
static void more_pins_release_nobody(void **state)
{
	struct gw_heki_state s;
	struct gw_heki_vcpu held;
	struct guest g;

	guest_open(&g);
	PIN_SMEP(&g);
	guest_start(&g, 0);
	emit_write(&g, MOV4, guest_sregs(&g).cr4);
	assert_int_equal(guest_vector(&g), -1);
	assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_GET_STATE, &s), 0);
	s.pinned_cr4 |= 0x200000;	/* SMAP, which this guest does not have on */
	assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_SET_STATE, &s), 0);
	assert_int_equal(rig_ioctl(g.rig.vcpu, GW_HEKI_GET_VCPU, &held), 0);
	assert_int_equal(held.held_cr4, CR4_SMEP_BIT);
	guest_again(&g);
	emit_write(&g, MOV4, guest_sregs(&g).cr4 & ~CR4_SMEP_BIT);
	assert_int_equal(guest_vector(&g), 13);
	guest_close(&g);
}

static void client_may_set_registers(void **state)
{
	struct kvm_sregs s;
	struct guest g;

	guest_open(&g);
	PIN_SMEP(&g);
	guest_start(&g, 0);
	s = guest_sregs(&g);
	s.cr4 &= ~CR4_SMEP_BIT;
	guest_set_sregs(&g, &s);
	assert_int_equal(guest_sregs(&g).cr4, s.cr4);
	assert_int_equal(guest_event(&g).kind, GW_HEKI_EV_CLIENT);
	/* Not held now; held again once the guest has set it. */
	emit_write(&g, MOV4, s.cr4);
	assert_int_equal(guest_vector(&g), -1);
	guest_start(&g, 0);
	emit_write(&g, MOV4, s.cr4 | CR4_SMEP_BIT);
	assert_int_equal(guest_vector(&g), -1);
	guest_again(&g);
	emit_write(&g, MOV4, s.cr4);
	assert_int_equal(guest_vector(&g), 13);
	guest_close(&g);
}

static void state_goes_to_another_vm(void **state)
{
	struct gw_heki_state s, none = { 0 };
	struct gw_heki_vcpu held;
	struct guest a, b;

	guest_open(&a);
	PIN_SMEP(&a);
	PIN_WP(&a);
	guest_start(&a, 0);
	emit_write(&a, MOV4, guest_sregs(&a).cr4);
	assert_int_equal(guest_vector(&a), -1);
	assert_int_equal(rig_ioctl(a.rig.vm, GW_HEKI_GET_STATE, &s), 0);
	assert_int_equal(rig_ioctl(a.rig.vcpu, GW_HEKI_GET_VCPU, &held), 0);
	guest_close(&a);

	guest_open(&b);
	assert_int_equal(rig_ioctl(b.rig.vm, GW_HEKI_SET_STATE, &s), 0);
	guest_start(&b, 0);
	assert_int_equal(rig_ioctl(b.rig.vcpu, GW_HEKI_SET_VCPU, &held), 0);
	emit_write(&b, MOV0, 0x80000033);
	assert_int_equal(guest_vector(&b), 13);
	/* And the owner releases. */
	assert_int_equal(rig_ioctl(b.rig.vm, GW_HEKI_SET_STATE, &none), 0);
	guest_start(&b, 0);
	emit_write(&b, MOV0, 0x80000033);
	assert_int_equal(guest_vector(&b), -1);
	s.locked = 2;
	assert_int_equal(rig_ioctl(b.rig.vm, GW_HEKI_SET_STATE, &s), -EINVAL);
	guest_close(&b);
}

static void reset_by_the_owner(void **state)
{
	static uint64_t bitmap[RIG_RAM / 4096 / 64 + 1];
	struct kvm_dirty_log log = { .dirty_bitmap = bitmap };
	struct guest g;
	struct kvm_userspace_memory_region logged = { .memory_size = RIG_RAM, .flags = KVM_MEM_LOG_DIRTY_PAGES };

	guest_open(&g);
	PIN_WP(&g);
	guest_protect(&g, G_DATA, 0x1000, GW_HEKI_NW);
	g.rig.ram[G_DATA] = 0x55;
	assert_int_equal(rig_ioctl_n(g.rig.vm, GW_HEKI_RESET, 2), -EINVAL);
	logged.userspace_addr = (uintptr_t)g.rig.ram;
	assert_int_equal(rig_ioctl(g.rig.vm, KVM_SET_USER_MEMORY_REGION, &logged), 0);
	assert_int_equal(rig_ioctl_n(g.rig.vm, GW_HEKI_RESET, 1), 0);
	assert_int_equal(g.rig.ram[G_DATA], 0);
	/* What the engine writes by itself is to be migrated, too. */
	assert_int_equal(rig_ioctl(g.rig.vm, KVM_GET_DIRTY_LOG, &log), 0);
	assert_int_equal(bitmap[0] >> (G_DATA >> 12) & 1, 1);
	guest_start(&g, 0);
	emit_mov(&g, R_BX, G_DATA);
	EMIT(&g, 0xc6, 0x03, 0x77);
	emit_write(&g, MOV0, 0x80000033);
	assert_int_equal(guest_vector(&g), -1);
	assert_int_equal(g.rig.ram[G_DATA], 0x77);
	guest_close(&g);
}

/* ---- second level --------------------------------------------------------------------------------------------------------------------- */

/* Locks, runs a user instruction, then tries each in the kernel. */
static const struct second { const char *name; uint8_t code[8]; unsigned len; uint64_t cx; bool blocked; } seconds[] = {
	{ "LSTAR keeps its value", { 0x0f, 0x30 }, 2, 0xc0000082, true },
	{ "EFER keeps its value", { 0x0f, 0x30 }, 2, 0xc0000080, true },
	{ "SYSENTER_EIP keeps its value", { 0x0f, 0x30 }, 2, 0x176, true },
	{ "TSC_AUX is free", { 0x0f, 0x30 }, 2, 0xc0000103, false },
	{ "GS base is free", { 0x0f, 0x30 }, 2, 0xc0000101, false },
	{ "LIDT is refused", { 0x0f, 0x01, 0x1b }, 3, 0, true },
	{ "LGDT is refused", { 0x0f, 0x01, 0x13 }, 3, 0, true },
	{ "LLDT is refused", { 0x31, 0xc0, 0x0f, 0x00, 0xd0 }, 5, 0, true },
};

static void second_level(void **state)
{
	struct gw_heki_policy p = { .flags = GW_HEKI_POLICY_LOCK_REGISTERS };

	for (unsigned on = 0; on < 2; on++)
		for (unsigned i = 0; i < sizeof(seconds) / sizeof(seconds[0]); i++) {
			const struct second *s = &seconds[i];
			struct kvm_regs regs;
			struct guest g;

			guest_open(&g);
			if (on)
				assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_SET_POLICY, &p), 0);
			PIN_WP(&g);
			guest_start(&g, 3);
			EMIT(&g, 0x0f, 0x0b);
			assert_int_equal(guest_vector(&g), 6);
			/* Now in the kernel, by the handler; go on from there. */
			regs = guest_regs(&g);
			regs.rip = G_CODE;
			regs.r15 = ~0ull;
			assert_int_equal(rig_ioctl(g.rig.vcpu, KVM_SET_REGS, &regs), 0);
			g.base = G_CODE;
			g.len = 0;
			emit_mov(&g, R_CX, s->cx);
			emit_mov(&g, R_AX, 0x501);
			emit_mov(&g, R_DX, 0);
			emit_mov(&g, R_BX, G_DATA);
			emit(&g, s->code, s->len);
			emit_hlt(&g);
			memcpy(g.rig.ram + G_DATA, "\xff\x0f\0\x60\1\0\0\0\0\0", 10);
			if (!on && (s->len == 3 || s->cx == 0xc0000080)) {
				guest_close(&g);
				continue;	/* would only wreck the guest */
			}
			print_message("# %s, %s\n", s->name, on ? "on" : "off");
			assert_int_equal(guest_vector(&g), on && s->blocked ? 13 : -1);
			assert_int_equal(guest_counters(&g).denied_reg, on && s->blocked);
			guest_close(&g);
		}
}

#define ROWS(rows) (sizeof(rows) / sizeof((rows)[0]))

int main(void)
{
	static const struct CMUnitTest fixed[] = {
		{ "a user may not lock", user_may_not, NULL, NULL, NULL },
		{ "pins accumulate, and what is accepted is what is set", accepted_bits_accumulate, NULL, NULL, NULL },
		{ "the series' CR4 vector", v3_vector, NULL, NULL, NULL },
		{ "CLTS, LMSW and MOV keep a pinned TS", clts_and_lmsw_are_judged, NULL, NULL, NULL },
		{ "a configure exit stands on the instruction, and immediate_exit finishes it", configure_exit, NULL, NULL, NULL },
		{ "the client cannot change a configure's result; errors and reasons that are off make no exit", configure_is_no_question,
		  NULL, NULL, NULL },
		{ "a denial exit stands on the instruction; #GP whatever the client does", denial_exit, NULL, NULL, NULL },
		{ "the client's action on a denied register write", denial_actions, NULL, NULL, NULL },
		{ "the client shuts a denied guest down", denial_shutdown, NULL, NULL, NULL },
		{ "a denial is one fault, not two", one_fault_not_two, NULL, NULL, NULL },
		{ "capabilities say what is built; the series' numbers stay KVM's", capabilities, NULL, NULL, NULL },
		{ "the series' numbers behind the switch", rfc_numbers, NULL, NULL, NULL },
		{ "a vCPU is held from the moment it has all pins", held_from_the_first_moment, NULL, NULL, NULL },
		{ "new pins release nobody from old ones", more_pins_release_nobody, NULL, NULL, NULL },
		{ "the client may set registers; the vCPU is held again later", client_may_set_registers, NULL, NULL, NULL },
		{ "pins and arming move to another VM; the owner releases", state_goes_to_another_vm, NULL, NULL, NULL },
		{ "a reset by the owner zeroes what was sealed and frees the rest", reset_by_the_owner, NULL, NULL, NULL },
		{ "the second level holds MSRs and tables from the first user instruction on, if asked for", second_level, NULL, NULL, NULL },
	};
	static struct CMUnitTest tests[ROWS(fixed) + ROWS(vectors) + ROWS(writes)];
	unsigned n = 0;

	for (unsigned i = 0; i < ROWS(vectors); i++)
		tests[n++] = (struct CMUnitTest){ vectors[i].name, check_vector, NULL, NULL, (void *)(uintptr_t)&vectors[i] };
	for (unsigned i = 0; i < ROWS(writes); i++)
		tests[n++] = (struct CMUnitTest){ writes[i].name, check_write, NULL, NULL, (void *)(uintptr_t)&writes[i] };
	for (unsigned i = 0; i < ROWS(fixed); i++)
		tests[n++] = fixed[i];
	return _cmocka_run_group_tests("pins", tests, n, NULL, NULL);
}
