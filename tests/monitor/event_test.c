/* SPDX-License-Identifier: MIT */
/*
 * Register writes, instructions, steps, views, injections; policies and kicks. Each reason of the event table is here or in
 * access_test.c; what the ABI or the engine makes impossible is refused, and that is tested too.
 */
#include "rig.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define HLT	KVM_EXIT_HLT

static void plain(struct rig *r) { rig_open(r, 1); rig_attach(r, GW_MON_RELEASE); }

static int subscribe(struct rig *r, uint64_t reason, uint64_t flags, uint64_t index, uint64_t mask)
{
	return rig_cmd(r, GW_MON_OP_SUBSCRIBE, reason, 1, flags, index, mask, NULL);
}

static struct kvm_sregs sregs_of(struct rig *r)
{
	struct kvm_sregs s;

	assert_int_equal(gw_ioctl(r->vcpu[0], KVM_GET_SREGS, (uintptr_t)&s), 0);
	return s;
}

/* ---- registers ------------------------------------------------------------------------------------------------------------- */

/* mov rax,cr4; xor eax,80; mov cr4,rax; (again the same value) mov cr4,rax; xor eax,80; mov cr4,rax; hlt */
static const uint8_t cr4[] = { 0x0f, 0x20, 0xe0, 0x34, 0x80, 0x0f, 0x22, 0xe0, 0x0f, 0x22, 0xe0, 0x34, 0x80, 0x0f, 0x22, 0xe0, 0xf4 };

static void cr_writes_with_mask_and_on_change(void **state)
{
	static const struct { uint64_t flags, mask; unsigned n; } rows[] = {
		{ GW_MON_S_SYNC, 0, 3 },				/* every write */
		{ GW_MON_S_SYNC | GW_MON_S_ON_CHANGE, 0, 2 },
		{ GW_MON_S_SYNC, 0x80, 0 },				/* only masked bits change */
		{ GW_MON_S_SYNC, 0x20, 2 },
		{ 0, 0, 3 },						/* told, not asked */
	};
	static struct rig r;

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		plain(&r);
		assert_int_equal(subscribe(&r, GW_MON_WRITE_CR, rows[i].flags, 4, rows[i].mask), 0);
		assert_int_equal(subscribe(&r, GW_MON_WRITE_CR, rows[i].flags, 4, rows[i].mask), -EEXIST);
		assert_int_equal(subscribe(&r, GW_MON_WRITE_CR, 0, 5, 0), -EINVAL);
		rig_load(&r, cr4, sizeof(cr4), NULL);
		assert_int_equal(rig_run(&r), HLT);
		assert_int_equal(r.n_seen, rows[i].n);
		if (r.n_seen) {
			assert_int_equal(r.seen[0].u.reg.index, 4);
			assert_int_equal(r.seen[0].u.reg.new_value, r.seen[0].u.reg.old_value ^ 0x80);
			assert_int_equal(r.seen[0].regs.sregs.cr4, r.seen[0].u.reg.old_value);	/* not yet */
			assert_int_equal(r.seen[0].regs.regs.rip, CODE + 5);
			assert_int_equal(!!(r.seen[0].flags & GW_MON_F_SYNC), !!(rows[i].flags & GW_MON_S_SYNC));
		}
		rig_close(&r);
	}
}

static void a_denied_cr_write_is_skipped(void **state)
{
	static const uint8_t code[] = { 0x0f, 0x20, 0xe0, 0x34, 0x80, 0x0f, 0x22, 0xe0, 0xf4 };
	static struct rig r;
	uint64_t before;

	plain(&r);
	subscribe(&r, GW_MON_WRITE_CR, GW_MON_S_SYNC, 4, 0);
	r.flags = GW_MON_ANS_DENY;
	rig_load(&r, code, sizeof(code), NULL);
	before = sregs_of(&r).cr4;
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 1);
	assert_int_equal(sregs_of(&r).cr4, before);
	assert_int_equal(rig_regs(&r, 0).rip, CODE + 9);
	rig_close(&r);
}

static void cr3_and_msr_writes(void **state)
{
	/* mov rax,cr3; mov cr3,rax; mov ecx,c0000082; mov eax,1234; xor edx,edx; wrmsr; hlt */
	static const uint8_t code[] = { 0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8, 0xb9, 0x82, 0, 0, 0xc0, 0xb8, 0x34, 0x12, 0, 0, 0x31, 0xd2, 0x0f, 0x30, 0xf4 };
	static struct rig r;

	plain(&r);
	subscribe(&r, GW_MON_WRITE_CR, GW_MON_S_SYNC, 3, 0);
	assert_int_equal(subscribe(&r, GW_MON_WRITE_MSR, 0, 0xc0000082, 0), 0);
	assert_int_equal(subscribe(&r, GW_MON_WRITE_MSR, 0, 0xd0000000, 0), -EINVAL);
	rig_load(&r, code, sizeof(code), NULL);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 2);
	assert_int_equal(r.seen[0].u.reg.index, 3);
	assert_int_equal(r.seen[0].u.reg.new_value, 0x1000);
	assert_int_equal(r.seen[1].reason, GW_MON_WRITE_MSR);
	assert_int_equal(r.seen[1].u.reg.index, 0xc0000082);
	assert_int_equal(r.seen[1].u.reg.new_value, 0x1234);
	assert_int_equal(r.seen[1].u.reg.old_value, 0);
	rig_close(&r);
}

/* ---- instructions --------------------------------------------------------------------------------------------------------------- */

static void skip_cpuid(struct rig *r, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	a->flags = GW_MON_ANS_REGS;
	a->regs = ev->regs.regs;
	a->regs.rbx = 0x42;
	a->regs.rip += ev->u.cpuid.length;
}

static void cpuid_tells_results_and_takes_others(void **state)
{
	static const uint8_t code[] = { 0x31, 0xc0, 0x0f, 0xa2, 0xf4 };
	static struct rig r;
	struct kvm_regs g;

	plain(&r);
	assert_int_equal(subscribe(&r, GW_MON_CPUID, 0, 0, 0), 0);
	rig_load(&r, code, sizeof(code), NULL);
	assert_int_equal(rig_run(&r), HLT);
	g = rig_regs(&r, 0);
	assert_int_equal(r.n_seen, 1);
	assert_int_equal(r.seen[0].u.cpuid.length, 2);
	assert_int_equal(r.seen[0].u.cpuid.leaf, 0);
	assert_int_equal(r.seen[0].regs.regs.rbx, g.rbx);
	r.answer = skip_cpuid;
	rig_load(&r, code, sizeof(code), NULL);
	assert_int_equal(rig_run(&r), HLT);
	g = rig_regs(&r, 0);
	assert_int_equal(r.n_seen, 2);
	assert_int_equal(g.rbx, 0x42);
	assert_int_equal(g.rcx, r.seen[0].regs.regs.rcx);
	rig_close(&r);
}

static void reinject_int3(struct rig *r, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	struct gw_monitor c = { .cmd = { .op = GW_MON_OP_INJECT, .a = { ev->vcpu, 3, ev->u.trap.type, ~0u, ev->u.trap.length, 0 } } };

	assert_int_equal(gw_ioctl(r->vm, GW_MONITOR, (uintptr_t)&c), 0);
	assert_int_equal(c.reply.err, 0);
	assert_int_equal(gw_ioctl(r->vm, GW_MONITOR, (uintptr_t)&c), 0);
	assert_int_equal(c.reply.err, -EBUSY);
}

static void a_breakpoint_is_given_back(void **state)
{
	static const uint8_t code[] = { 0x90, 0xcc, 0x90, 0xf4 };
	static struct rig r;
	uint64_t *frame;

	plain(&r);
	subscribe(&r, GW_MON_BREAKPOINT, 0, 0, 0);
	r.answer = reinject_int3;
	rig_load(&r, code, sizeof(code), NULL);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 1);
	assert_int_equal(r.seen[0].regs.regs.rip, CODE + 1);
	assert_int_equal(r.seen[0].u.trap.gfn, CODE >> 12);
	assert_int_equal(rig_regs(&r, 0).rip, HANDLER + 1);
	frame = (uint64_t *)(void *)(r.ram + rig_regs(&r, 0).rsp);
	assert_int_equal(frame[0], CODE + 2);
	rig_close(&r);
}

static void debug_exceptions_are_asked_about(void **state)
{
	static const uint8_t code[] = { 0x90, 0x90, 0xf4 };
	struct kvm_regs regs = { .rflags = 0x100 };
	static struct rig r;

	plain(&r);
	subscribe(&r, GW_MON_DEBUG, GW_MON_S_SYNC, 0, 0);
	r.flags = GW_MON_ANS_DENY;		/* the guest never sees its own traps */
	rig_load(&r, code, sizeof(code), &regs);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 2);
	assert_int_equal(r.seen[0].reason, GW_MON_DEBUG);
	assert_int_equal(r.seen[0].u.trap.pending & 0x4000, 0x4000);
	assert_int_equal(rig_regs(&r, 0).rip, CODE + 3);
	rig_close(&r);
}

static void descriptor_instructions(void **state)
{
	/* sidt [rbx]; lidt [rbx]; str ax; hlt */
	static const uint8_t code[] = { 0x0f, 0x01, 0x0b, 0x0f, 0x01, 0x1b, 0x66, 0x0f, 0x00, 0xc8, 0xf4 };
	struct kvm_regs regs = { .rbx = PAGE_A };
	static struct rig r;

	plain(&r);
	subscribe(&r, GW_MON_DESCRIPTOR, 0, 0, 0);
	r.flags = GW_MON_ANS_ALLOW;
	rig_load(&r, code, sizeof(code), &regs);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 3);
	assert_int_equal(r.seen[0].u.descriptor.table, 1);
	assert_int_equal(r.seen[0].u.descriptor.is_write, 0);
	assert_int_equal(r.seen[1].u.descriptor.is_write, 1);
	assert_int_equal(r.seen[2].u.descriptor.table, 4);
	assert_int_equal(sregs_of(&r).idt.base, IDT);
	rig_close(&r);
}

static void ports_and_guest_requests(void **state)
{
	/* out 42,al; mov eax,34; mov edi,24; xor esi,esi; vmcall; hlt */
	static const uint8_t code[] = { 0xe6, 0x42, 0xb8, 34, 0, 0, 0, 0xbf, 24, 0, 0, 0, 0x31, 0xf6, 0x0f, 0x01, 0xc1, 0xf4 };
	static struct rig r;

	plain(&r);
	subscribe(&r, GW_MON_IO, 0, 0, 0);
	subscribe(&r, GW_MON_GUEST_REQUEST, GW_MON_S_SYNC, 0, 0);
	rig_load(&r, code, sizeof(code), NULL);
	assert_int_equal(rig_run(&r), KVM_EXIT_IO);
	assert_int_equal(r.n_seen, 1);
	assert_int_equal(r.seen[0].u.io.port, 0x42);
	assert_int_equal(r.seen[0].u.io.is_in, 0);
	assert_int_equal(rig_run(&r), HLT);	/* the client's answer does not ask again */
	assert_int_equal(r.n_seen, 2);
	assert_int_equal(r.seen[1].reason, GW_MON_GUEST_REQUEST);
	assert_int_equal(rig_regs(&r, 0).rax, 0);
	rig_close(&r);
}

static void what_does_not_exist_is_refused(void **state)
{
	static struct rig r;

	plain(&r);
	assert_int_equal(subscribe(&r, 2, 0, 0, 0), -EOPNOTSUPP);	/* memory sharing */
	assert_int_equal(subscribe(&r, 3, 0, 0, 0), -EOPNOTSUPP);	/* memory paging */
	assert_int_equal(subscribe(&r, 11, 0, 0, 0), -EOPNOTSUPP);	/* privileged call: Arm */
	assert_int_equal(subscribe(&r, 12, 0, 0, 0), -EOPNOTSUPP);	/* interrupt: one-shot only */
	assert_int_equal(subscribe(&r, 15, 0, 0, 0), -EOPNOTSUPP);	/* VT-x exits */
	assert_int_equal(subscribe(&r, 14, 0, 0, 0), 0);		/* unimplemented: nothing is */
	assert_int_equal(subscribe(&r, 40, 0, 0, 0), -EINVAL);
	rig_close(&r);
}

/* ---- steps and views -------------------------------------------------------------------------------------------------------------- */

static const uint8_t store_inc[] = { 0x48, 0x89, 0x03, 0x48, 0xff, 0xc1, 0x48, 0xff, 0xc1, 0xf4 };

/* As xen-access does it: violation in view 1, one step in view 0, back. */
static void step_over(struct rig *r, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	a->flags = GW_MON_ANS_VIEW | GW_MON_ANS_STEP_TOGGLE;
	a->view = ev->reason == GW_MON_MEM_ACCESS ? 0 : 1;
}

static void violation_then_step_then_back(void **state)
{
	struct kvm_regs regs = { .rbx = PAGE_A, .rax = 7 };
	static struct rig r;
	uint64_t view;

	plain(&r);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEW_CREATE, GW_MON_RX, 0, 0, 0, 0, &view), -EOPNOTSUPP);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEWS, 1, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEW_CREATE, GW_MON_RX, 0, 0, 0, 0, &view), 0);
	assert_int_equal(view, 1);
	subscribe(&r, GW_MON_SINGLESTEP, 0, 0, 0);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEW_SWITCH, 1, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEW_DESTROY, 1, 0, 0, 0, 0, NULL), -EBUSY);
	r.answer = step_over;
	rig_load(&r, store_inc, sizeof(store_inc), &regs);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 2);
	assert_int_equal(r.seen[0].view, 1);
	assert_int_equal(r.seen[1].reason, GW_MON_SINGLESTEP);
	assert_int_equal(r.seen[1].regs.regs.rip, CODE + 3);
	assert_int_equal(r.seen[1].view, 0);
	assert_int_equal(r.ram[PAGE_A], 7);
	rig_cmd(&r, GW_MON_OP_VCPU_VIEW, 0, 0, 0, 0, 0, &view);
	assert_int_equal(view, 1);
	rig_close(&r);
}

static void fast_step(struct rig *r, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	a->flags = GW_MON_ANS_VIEW | GW_MON_ANS_FAST_STEP;
	a->view = 0;
	a->step_view = 1;
}

static void fast_single_step_makes_no_event(void **state)
{
	struct kvm_regs regs = { .rbx = PAGE_A, .rax = 7 };
	static struct rig r;
	uint64_t view;

	plain(&r);
	rig_cmd(&r, GW_MON_OP_VIEWS, 1, 0, 0, 0, 0, NULL);
	rig_cmd(&r, GW_MON_OP_VIEW_CREATE, GW_MON_RX, 0, 0, 0, 0, &view);
	rig_cmd(&r, GW_MON_OP_VIEW_SWITCH, 1, 0, 0, 0, 0, NULL);
	r.answer = fast_step;
	rig_load(&r, store_inc, sizeof(store_inc), &regs);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 1);
	rig_cmd(&r, GW_MON_OP_VCPU_VIEW, 0, 0, 0, 0, 0, &view);
	assert_int_equal(view, 1);
	rig_close(&r);
}

static void stepping_tells_of_every_instruction(void **state)
{
	static struct rig r;

	plain(&r);
	subscribe(&r, GW_MON_SINGLESTEP, 0, 0, 0);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_STEP, 0, 1, 0, 0, 0, NULL), 0);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_STEP, 9, 1, 0, 0, 0, NULL), -EINVAL);
	rig_load(&r, store_inc, sizeof(store_inc), &(struct kvm_regs){ .rbx = PAGE_A });
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 4);
	assert_int_equal(r.seen[0].regs.regs.rip, CODE + 3);
	assert_int_equal(r.seen[2].regs.regs.rip, CODE + 9);
	rig_close(&r);
}

/* What ran alone a moment ago is found decoded: not when it is other bytes now. 1: add ecx,imm8; jmp 1b, until the step handler ends it. */
static void change_the_step(struct rig *r, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	uint8_t imm = (uint8_t)(r->n_seen + 1);

	if (ev->regs.regs.rip == CODE) {
		struct gw_monitor c = { .cmd = { .op = GW_MON_OP_WRITE, .size = 1, .a = { CODE + 2, 1 } }, .payload = (uintptr_t)&imm };

		assert_int_equal(gw_ioctl(r->vm, GW_MONITOR, (uintptr_t)&c), 0);
		assert_int_equal(c.reply.err, 0);
	}
	if (r->n_seen > 40) {
		a->flags = GW_MON_ANS_REGS | GW_MON_ANS_STEP_OFF;
		a->regs = ev->regs.regs;
		a->regs.rip = CODE + 5;
	}
}

static void what_is_stepped_may_change_between_two_rounds(void **state)
{
	static const uint8_t loop[] = { 0x83, 0xc1, 0x01, 0xeb, 0xfb, 0xf4 };
	static struct rig r;
	uint64_t sum = 1;

	plain(&r);
	r.answer = change_the_step;
	subscribe(&r, GW_MON_SINGLESTEP, 0, 0, 0);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_STEP, 0, 1, 0, 0, 0, NULL), 0);
	rig_load(&r, loop, sizeof(loop), NULL);
	assert_int_equal(rig_run(&r), HLT);
	for (unsigned i = 0; i + 1 < r.n_seen; i++)
		if (r.seen[i].regs.regs.rip == CODE)
			sum += i + 2;
	assert_in_range(r.n_seen, 41, 42);
	assert_int_equal(rig_regs(&r, 0).rcx, sum);
	rig_close(&r);
}

/* ---- floating point ----------------------------------------------------------------------------------------------------------- */

#define FP_AT	0x31000u	/* PAGE_B: MXCSR, what came back, a number, its control word */
static struct { unsigned wrong; uint32_t mxcsr; uint16_t fcw, tags; } host_fp;

static void does_floating_point(struct rig *r, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	volatile long double deep = 3;
	volatile double third = 1;
	struct { uint16_t fcw, r0, fsw, r1, ftw, r2; uint32_t rest[4]; } env;
	uint32_t mxcsr, all = 0x1fbf;

	__asm__ volatile("stmxcsr %0\n\tfnstenv %1\n\tfldenv %1" : "=m"(mxcsr), "=m"(env));
	host_fp.wrong += (mxcsr & ~0x3fu) != host_fp.mxcsr || env.fcw != host_fp.fcw || env.ftw != 0xffff;
	third /= 3;			/* inexact */
	deep /= 7;
	host_fp.wrong += !(third > 0 && third < 1) || !(deep > 0 && deep < 1);
	__asm__ volatile("ldmxcsr %0" : : "m"(all));	/* every status bit, as arithmetic may leave them */
	a->flags = GW_MON_ANS_ALLOW;
}

/* Neither sees the other's control bits, registers or, in the guest's case, status bits. */
static void floating_point_of_callback_and_guest_are_apart(void **state)
{
	/* fninit; fldpi; fldcw [rbx+16]; ldmxcsr [rbx]; inc dword [rax] (watched); stmxcsr [rbx+4]; fnstcw [rbx+18]; fstp qword [rbx+8]; hlt */
	static const uint8_t code[] = { 0xdb, 0xe3, 0xd9, 0xeb, 0xd9, 0x6b, 0x10, 0x0f, 0xae, 0x13, 0xff, 0x00, 0x0f, 0xae, 0x5b, 0x04,
		0xd9, 0x7b, 0x12, 0xdd, 0x5b, 0x08, 0xf4 };
	static const uint32_t mxcsr[] = { 0x1f80, 0x1f81, 0x1fa0, 0x7f81, 0x1f00, 0x9fc0, 0x0001 };
	static const uint16_t fcw[] = { 0x37f, 0x27f, 0xf7f };
	struct kvm_sregs s;
	static struct rig r;

	plain(&r);
	r.answer = does_floating_point;
	s = sregs_of(&r);
	s.cr4 |= 0x600;
	assert_int_equal(gw_ioctl(r.vcpu[0], KVM_SET_SREGS, (uintptr_t)&s), 0);
	rig_access(&r, 0, GW_MON_RX, PAGE_A, 1);
	__asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(host_fp.mxcsr), "=m"(host_fp.fcw));
	host_fp.mxcsr &= ~0x3fu;
	for (unsigned i = 0; i < 7 * 3; i++) {
		uint32_t got[2];
		uint16_t got_fcw[2];
		double pi;

		memcpy(r.ram + FP_AT, &mxcsr[i % 7], 4);
		memcpy(r.ram + FP_AT + 16, &fcw[i / 7], 2);
		rig_load(&r, code, sizeof(code), &(struct kvm_regs){ .rbx = FP_AT, .rax = PAGE_A });
		assert_int_equal(rig_run(&r), HLT);
		memcpy(got, r.ram + FP_AT, 8);
		memcpy(&pi, r.ram + FP_AT + 8, 8);
		memcpy(got_fcw, r.ram + FP_AT + 16, 4);
		assert_int_equal(got[1], got[0]);
		assert_int_equal(got_fcw[1], got_fcw[0]);
		assert_true(pi > 3.14159265358978 && pi < 3.14159265358981);
	}
	assert_int_equal(r.n_seen, 21);
	assert_int_equal(host_fp.wrong, 0);
	rig_close(&r);
}

static void a_view_shows_another_frame_to_data_and_fetches(void **state)
{
	/* In PAGE_A: mov eax,1; ret. In the shadow, PAGE_B: mov eax,2; ret. */
	static const uint8_t one[] = { 0xb8, 1, 0, 0, 0, 0xc3 }, two[] = { 0xb8, 2, 0, 0, 0, 0xc3 };
	/* call rbx; mov rcx,[rbx]; hlt */
	static const uint8_t code[] = { 0xff, 0xd3, 0x48, 0x8b, 0x0b, 0xf4 };
	struct kvm_regs regs = { .rbx = PAGE_A };
	static struct rig r;

	plain(&r);
	memcpy(r.ram + PAGE_A, one, sizeof(one));
	memcpy(r.ram + PAGE_B, two, sizeof(two));
	rig_cmd(&r, GW_MON_OP_VIEWS, 1, 0, 0, 0, 0, NULL);
	rig_cmd(&r, GW_MON_OP_VIEW_CREATE, GW_MON_RWX, 0, 0, 0, 0, NULL);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_CHANGE_GFN, 1, PAGE_A >> 12, 0x99999, 0, 0, NULL), -ESRCH);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_CHANGE_GFN, 1, PAGE_A >> 12, PAGE_B >> 12, 0, 0, NULL), 0);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEW_SWITCH, i & 1, 0, 0, 0, 0, NULL), 0);
		rig_load(&r, code, sizeof(code), &regs);
		assert_int_equal(rig_run(&r), HLT);
		assert_int_equal(rig_regs(&r, 0).rax, 1 + (i & 1));
		assert_int_equal(rig_regs(&r, 0).rcx >> 8 & 0xff, 1 + (i & 1));
	}
	assert_int_equal(rig_cmd(&r, GW_MON_OP_CHANGE_GFN, 1, PAGE_A >> 12, ~0ull, 0, 0, NULL), 0);
	rig_load(&r, code, sizeof(code), &regs);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(rig_regs(&r, 0).rax, 1);
	rig_close(&r);
}

static void ten_views_by_default_and_more_on_wish(void **state)
{
	static struct rig r;
	uint64_t view;

	plain(&r);
	rig_cmd(&r, GW_MON_OP_VIEWS, 1, 0, 0, 0, 0, NULL);
	for (unsigned i = 1; i < 10; i++)
		assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEW_CREATE, GW_MON_RWX, 0, 0, 0, 0, &view), 0);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEW_CREATE, GW_MON_RWX, 0, 0, 0, 0, &view), -EINVAL);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEW_COUNT, 512, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEW_CREATE, GW_MON_RWX, 0, 0, 0, 0, &view), 0);
	assert_int_equal(view, 10);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEW_COUNT, 5, 0, 0, 0, 0, NULL), -EBUSY);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEW_VISIBLE, 10, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEW_SWITCH, 10, 0, 0, 0, 0, NULL), -EINVAL);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEW_DESTROY, 0, 0, 0, 0, 0, NULL), -EBUSY);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEW_DESTROY, 3, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEW_CREATE, GW_MON_RWX, 0, 0, 0, 0, &view), 0);
	assert_int_equal(view, 3);
	for (unsigned i = 11; i < 512; i++)
		assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEW_CREATE, GW_MON_RWX, 0, 0, 0, 0, &view), 0);
	assert_int_equal(view, 511);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEW_CREATE, GW_MON_RWX, 0, 0, 0, 0, &view), -EINVAL);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEW_COUNT, 513, 0, 0, 0, 0, NULL), -EINVAL);
	/* The last of them is as good as the first. */
	rig_access(&r, 511, GW_MON_RX, PAGE_A, 1);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_VIEW_SWITCH, 511, 0, 0, 0, 0, NULL), 0);
	r.flags = GW_MON_ANS_ALLOW;
	rig_load(&r, store_inc, sizeof(store_inc), &(struct kvm_regs){ .rbx = PAGE_A, .rax = 7 });
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 1);
	assert_int_equal(r.seen[0].view, 511);
	rig_close(&r);
}

/* Neither read nor written nor shown through a view: the guest has said that they are its own. */
static void private_frames_are_nobodys(void **state)
{
	struct kvm_create_guest_memfd create = { .size = 0x10000 };
	struct kvm_userspace_memory_region2 slot = { .slot = 5, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = 0x1000000, .memory_size = 0x10000 };
	struct kvm_memory_attributes is_private = { .address = 0x1000000, .size = 0x1000, .attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE };
	static uint8_t shared[0x10000] __attribute__((aligned(4096))), out[4096];
	struct gw_monitor c = { .cmd = { .op = GW_MON_OP_READ, .a = { 0x1000000, 16 } }, .payload = (uintptr_t)out, .payload_size = sizeof(out) };
	static struct rig r;

	rig_open_type(&r, 1, KVM_X86_SW_PROTECTED_VM);
	rig_attach(&r, GW_MON_RELEASE);
	slot.guest_memfd = (uint32_t)gw_ioctl(r.vm, KVM_CREATE_GUEST_MEMFD, (uintptr_t)&create);
	slot.userspace_addr = (uintptr_t)shared;
	assert_int_equal(gw_ioctl(r.vm, KVM_SET_USER_MEMORY_REGION2, (uintptr_t)&slot), 0);
	memset(shared, 0x5a, sizeof(shared));
	for (unsigned i = 0; i < 2; i++) {
		int err = i ? -ESRCH : 0;

		assert_int_equal(gw_ioctl(r.vm, GW_MONITOR, (uintptr_t)&c), 0);
		assert_int_equal(c.reply.err, err);
		c.cmd = (struct gw_mon_cmd){ .op = GW_MON_OP_WRITE, .size = 16, .a = { 0x1000000, 16 } };
		assert_int_equal(gw_ioctl(r.vm, GW_MONITOR, (uintptr_t)&c), 0);
		assert_int_equal(c.reply.err, err);
		c.cmd = (struct gw_mon_cmd){ .op = GW_MON_OP_READ, .a = { 0x1000000, 16 } };
		if (!i) {
			assert_int_equal(out[0], 0x5a);
			rig_cmd(&r, GW_MON_OP_VIEWS, 1, 0, 0, 0, 0, NULL);
			rig_cmd(&r, GW_MON_OP_VIEW_CREATE, GW_MON_RWX, 0, 0, 0, 0, NULL);
		}
		assert_int_equal(rig_cmd(&r, GW_MON_OP_CHANGE_GFN, 1, PAGE_A >> 12, 0x1000, 0, 0, NULL), err);
		assert_int_equal(gw_ioctl(r.vm, KVM_SET_MEMORY_ATTRIBUTES, (uintptr_t)&is_private), 0);
	}
	gw_close((int)slot.guest_memfd);
	rig_close(&r);
}

/* ---- sessions, policies, kicks ------------------------------------------------------------------------------------------------------ */

static void rights_without_a_monitor(void **state)
{
	struct kvm_regs regs = { .rbx = PAGE_A, .rax = 7 };
	static struct rig r;

	plain(&r);
	rig_access(&r, 0, GW_MON_RX, PAGE_A, 1);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_DETACH, 0, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_SET_ACCESS, 0, GW_MON_RX, 5, 1, 0, NULL), -ENODEV);
	rig_load(&r, store_inc, sizeof(store_inc), &regs);
	assert_int_equal(rig_run(&r), HLT);		/* set free, as Xen does */
	assert_int_equal(r.ram[PAGE_A], 7);
	rig_attach(&r, GW_MON_RELEASE);
	rig_access(&r, 0, GW_MON_RX, PAGE_A, 1);
	rig_cmd(&r, GW_MON_OP_REQUIRED, 1, 0, 0, 0, 0, NULL);
	rig_cmd(&r, GW_MON_OP_DETACH, 0, 0, 0, 0, 0, NULL);
	r.ram[PAGE_A] = 1;
	rig_load(&r, store_inc, sizeof(store_inc), &regs);
	assert_int_equal(rig_run(&r), GW_EXIT_MONITOR);
	assert_int_equal(r.ram[PAGE_A], 1);
	assert_int_equal(rig_regs(&r, 0).rip, CODE);
	rig_close(&r);
}

static void die(struct rig *r, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	rig_cmd(r, GW_MON_OP_LOST, 0, 0, 0, 0, 0, NULL);
	a->flags = 0;
}

static void a_dead_monitor_releases_or_stops(void **state)
{
	struct kvm_regs regs = { .rbx = PAGE_A, .rax = 7 };
	static struct rig r;

	for (unsigned policy = GW_MON_RELEASE; policy <= GW_MON_STOP; policy += 2) {
		rig_open(&r, 1);
		rig_attach(&r, policy);
		rig_access(&r, 0, GW_MON_RX, PAGE_A, 1);
		r.answer = die;
		rig_load(&r, store_inc, sizeof(store_inc), &regs);
		assert_int_equal(rig_run(&r), policy == GW_MON_RELEASE ? HLT : GW_EXIT_MONITOR);
		assert_int_equal(r.n_seen, 1);
		assert_int_equal(r.ram[PAGE_A], policy == GW_MON_RELEASE ? 7 : 0);
		assert_int_equal(rig_regs(&r, 0).rip, policy == GW_MON_RELEASE ? CODE + 10 : CODE);
		rig_close(&r);
	}
}

static _Atomic int outcome;

static void *run_thread(void *arg)
{
	struct rig *r = arg;
	long ret = gw_ioctl(r->vcpu[0], KVM_RUN, 0);

	outcome = ret == -EINTR ? -EINTR : (int)r->run[0]->exit_reason;
	return NULL;
}

static void nothing(int sig) { (void)sig; }

static void a_paused_guest_obeys_kicks_and_is_resumed(void **state)
{
	struct kvm_regs regs = { .rbx = PAGE_A, .rax = 7 };
	struct sigaction sa = { .sa_handler = nothing };
	static struct rig r;
	pthread_t t;

	sigaction(SIGUSR1, &sa, NULL);
	rig_open(&r, 1);
	rig_attach(&r, GW_MON_PAUSE);
	rig_access(&r, 0, GW_MON_RX, PAGE_A, 1);
	r.answer = die;
	rig_load(&r, store_inc, sizeof(store_inc), &regs);
	outcome = 0;
	pthread_create(&t, NULL, run_thread, &r);
	usleep(200000);
	assert_int_equal(outcome, 0);			/* it stands */
	pthread_kill(t, SIGUSR1);
	pthread_join(t, NULL);
	assert_int_equal(outcome, -EINTR);
	assert_int_equal(rig_regs(&r, 0).rip, CODE);	/* not begun */
	assert_int_equal(r.ram[PAGE_A], 0);
	r.answer = NULL;
	r.flags = GW_MON_ANS_ALLOW;
	rig_attach(&r, GW_MON_RELEASE);
	pthread_create(&t, NULL, run_thread, &r);
	usleep(50000);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_RESUME_ALL, 0, 0, 0, 0, 0, NULL), 0);
	pthread_join(t, NULL);
	assert_int_equal(outcome, HLT);
	assert_int_equal(r.n_seen, 2);
	assert_int_equal(r.ram[PAGE_A], 7);
	rig_close(&r);
}

/* As when another thread detaches between an answer and its use. */
static void leave_and_step(struct rig *r, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	assert_int_equal(rig_cmd(r, GW_MON_OP_DETACH, 1, 0, 0, 0, 0, NULL), 0);
	a->flags = GW_MON_ANS_STEP_ON | GW_MON_ANS_NEXT_INT;
}

static void a_step_ends_with_its_session(void **state)
{
	static const uint8_t code[] = { 0x48, 0x89, 0x03, 0xfb, 0x90, 0x90, 0xf4 };	/* mov [rbx],rax; sti; nop; nop; hlt */
	struct kvm_regs regs = { .rbx = PAGE_A, .rax = 7 };
	static struct rig r;

	plain(&r);
	r.answer = leave_and_step;
	rig_access(&r, 0, GW_MON_RX, PAGE_A, 1);
	rig_load(&r, code, sizeof(code), &regs);
	r.run[0]->request_interrupt_window = 1;
	assert_int_equal(rig_run(&r), KVM_EXIT_IRQ_WINDOW_OPEN);	/* a vCPU that steps takes no interrupts */
	r.run[0]->request_interrupt_window = 0;
	assert_int_equal(r.n_seen, 1);
	assert_int_equal(r.ram[PAGE_A], 7);
	rig_attach(&r, GW_MON_RELEASE);
	subscribe(&r, GW_MON_SINGLESTEP, 0, 0, 0);
	r.answer = NULL;
	rig_load(&r, store_inc, sizeof(store_inc), &regs);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 1);				/* nor is the next monitor told of its steps */
	rig_close(&r);
}

static void next_interrupt_once(void **state)
{
	static const uint8_t code[] = { 0x0f, 0x0b };
	static struct rig r;

	plain(&r);
	r.flags = GW_MON_ANS_ALLOW | GW_MON_ANS_NEXT_INT;
	rig_access(&r, 0, GW_MON_RW, CODE, 1);		/* asked about the fetch; the answer wants the next injection */
	rig_load(&r, code, sizeof(code), NULL);
	assert_int_equal(rig_run(&r), HLT);
	assert_int_equal(r.n_seen, 2);
	assert_int_equal(r.seen[1].reason, GW_MON_INTERRUPT);
	assert_int_equal(r.seen[1].u.interrupt.vector, 6);
	assert_int_equal(r.seen[1].u.interrupt.type, 3);
	rig_close(&r);
}

static void one_monitor_at_a_time(void **state)
{
	struct gw_monitor_attach a = { .door = GW_MON_CHANNEL };
	static struct rig r;

	plain(&r);
	assert_int_equal(gw_ioctl(r.vm, GW_MONITOR_ATTACH, (uintptr_t)&a), -EBUSY);
	rig_cmd(&r, GW_MON_OP_DETACH, 1, 0, 0, 0, 0, NULL);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_DETACH, 1, 0, 0, 0, 0, NULL), -EINVAL);
	a.door = 7;
	assert_int_equal(gw_ioctl(r.vm, GW_MONITOR_ATTACH, (uintptr_t)&a), -EINVAL);
	assert_int_equal(rig_cmd(&r, 999, 0, 0, 0, 0, 0, NULL), -EOPNOTSUPP);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cr_writes_with_mask_and_on_change),
		cmocka_unit_test(a_denied_cr_write_is_skipped),
		cmocka_unit_test(cr3_and_msr_writes),
		cmocka_unit_test(cpuid_tells_results_and_takes_others),
		cmocka_unit_test(a_breakpoint_is_given_back),
		cmocka_unit_test(debug_exceptions_are_asked_about),
		cmocka_unit_test(descriptor_instructions),
		cmocka_unit_test(ports_and_guest_requests),
		cmocka_unit_test(what_does_not_exist_is_refused),
		cmocka_unit_test(violation_then_step_then_back),
		cmocka_unit_test(fast_single_step_makes_no_event),
		cmocka_unit_test(stepping_tells_of_every_instruction),
		cmocka_unit_test(what_is_stepped_may_change_between_two_rounds),
		cmocka_unit_test(floating_point_of_callback_and_guest_are_apart),
		cmocka_unit_test(a_view_shows_another_frame_to_data_and_fetches),
		cmocka_unit_test(ten_views_by_default_and_more_on_wish),
		cmocka_unit_test(private_frames_are_nobodys),
		cmocka_unit_test(rights_without_a_monitor),
		cmocka_unit_test(a_dead_monitor_releases_or_stops),
		cmocka_unit_test(a_paused_guest_obeys_kicks_and_is_resumed),
		cmocka_unit_test(a_step_ends_with_its_session),
		cmocka_unit_test(next_interrupt_once),
		cmocka_unit_test(one_monitor_at_a_time),
	};

	return cmocka_run_group_tests_name("monitor: registers, instructions, steps, views, sessions", tests, NULL, NULL);
}
