/* SPDX-License-Identifier: MIT */
/*
 * The response matrix: each flag of Xen's interface in a response to each reason that can be raised. A response with the flag under
 * test alone is the first; if the guest asks again, the next one settles the matter. Expected: how many events there are, and
 * what the guest has become. Then the same flags in twos where their order matters, and Debian's headers against ours.
 */
#include "ring_client.h"

#include <errno.h>

#define HLT	KVM_EXIT_HLT
#define F(bit)	(1u << (bit))
#define ALL	0xffffu

/* The guest of each reason; RBX is PAGE_A, RAX 7. */
static const struct reason {
	const char *name;
	uint32_t reason;
	uint64_t subscribe[3];		/* flags, index; [2] 1: subscribe at all */
	uint8_t code[20], n;
	uint32_t settles;		/* flags that, alone, are an answer: one event */
	uint32_t final;			/* what settles it otherwise */
	uint32_t rflags;
	/* RCX, and memory at PAGE_A, when the flag has settled it and when `final` has. */
	uint64_t rcx, memory;
} reasons[] = {
	{ "memory access", 1, { 0 }, { 0x48, 0x89, 0x03, 0xf4 }, 4, XEN_F_EMULATE, XEN_F_EMULATE, 0, 5, 7 },
	{ "CR write", 4, { GW_MON_S_SYNC, 4, 1 }, { 0x0f, 0x20, 0xe0, 0x34, 0x80, 0x0f, 0x22, 0xe0, 0xf4 }, 9, ALL, 0, 0, 5, 0 },
	{ "MSR write", 5, { 0, 0xc0000082, 1 }, { 0xb9, 0x82, 0, 0, 0xc0, 0x31, 0xd2, 0x0f, 0x30, 0xf4 }, 10, ALL, 0, 0, 0xc0000082, 0 },
	{ "breakpoint", 6, { GW_MON_S_SYNC, 0, 1 }, { 0xcc, 0xf4 }, 2, 0, XEN_F_REGISTERS, 0, 77, 0 },
	{ "guest request", 8, { GW_MON_S_SYNC, 0, 1 }, { 0xb8, 34, 0, 0, 0, 0xbf, 24, 0, 0, 0, 0x31, 0xf6, 0x0f, 0x01, 0xc1, 0xf4 }, 16, ALL, 0, 0, 5, 0 },
	{ "debug exception", 9, { GW_MON_S_SYNC, 0, 1 }, { 0xf1, 0xf4 }, 2, 0, XEN_F_REGISTERS, 0, 77, 0 },
	{ "debug exception after a step of the guest's own", 9, { GW_MON_S_SYNC, 0, 1 }, { 0x90, 0xf4 }, 2, ALL, 0, 0x100, 5, 0 },
	{ "CPUID", 10, { 0, 0, 1 }, { 0x31, 0xc0, 0x0f, 0xa2, 0x90, 0xf4 }, 6, ALL & ~XEN_F_REGISTERS, XEN_F_REGISTERS, 0, ~0ull, 0 },
	{ "descriptor table", 13, { 0, 0, 1 }, { 0x0f, 0x01, 0x03, 0xf4 }, 4, XEN_F_EMULATE, XEN_F_EMULATE, 0, 5, 0x2f },
	{ "port", 16, { 0, 0, 1 }, { 0xe6, 0x42, 0xf4 }, 3, ALL, 0, 0, 5, 0 },
	{ "single step", 7, { 0, 0, 1 }, { 0x90, 0xf4 }, 2, ALL, 0, 0, 5, 0 },
};

static const struct { const char *name; uint32_t bit; } flags[] = {
	{ "none", 0 }, { "foreign", XEN_F_FOREIGN }, { "emulate", XEN_F_EMULATE }, { "no write", XEN_F_NOWRITE },
	{ "toggle step", XEN_F_TOGGLE_STEP }, { "read data", XEN_F_READ_DATA }, { "deny", XEN_F_DENY }, { "view", XEN_F_VIEW },
	{ "registers", XEN_F_REGISTERS }, { "instruction data", XEN_F_INSN_DATA }, { "next interrupt", XEN_F_NEXT_INTERRUPT },
	{ "fast step", XEN_F_FAST_STEP }, { "nested", F(12) }, { "reset vmtrace", F(13) }, { "reset fork state", F(14) },
	{ "reset fork memory", F(15) }, { "a bit that is none", F(31) },
};

static struct { const struct reason *k; uint32_t flag; _Atomic unsigned n, others; } now;

static bool first_then_final(struct client *c, struct xen_event *e)
{
	uint32_t reply;

	if (e->reason != now.k->reason) {
		now.others++;
		e->flags = XEN_F_VCPU_PAUSED | (e->reason == GW_MON_SINGLESTEP ? XEN_F_TOGGLE_STEP : 0);
		return true;
	}
	reply = now.n++ ? now.k->final : now.flag;
	if (reply & XEN_F_REGISTERS && (reply != now.flag || now.n > 1)) {
		e->data.regs.rip += now.k->reason == 10 ? e->u.cpuid.insn_length : 1;
		e->data.regs.rcx = 77;
	}
	e->flags = XEN_F_VCPU_PAUSED | reply;
	return true;
}

static void pair(const struct reason *k, uint32_t flag, const char *name)
{
	struct kvm_regs regs = { .rbx = PAGE_A, .rax = 7, .rcx = 5 };
	static struct client c;
	unsigned expected;
	uint32_t exit;

	ring_attach(&c, 1, GW_MON_RELEASE);
	c.respond = first_then_final;
	now.k = k;
	now.flag = flag;
	now.n = now.others = 0;
	if (k->reason == 1)
		rig_access(&c.r, 0, GW_MON_RX, PAGE_A, 1);
	if (k->subscribe[2])
		assert_int_equal(rig_cmd(&c.r, GW_MON_OP_SUBSCRIBE, k->reason, 1, k->subscribe[0], k->subscribe[1], 0, NULL), 0);
	if (k->reason == GW_MON_SINGLESTEP)
		assert_int_equal(rig_cmd(&c.r, GW_MON_OP_STEP, 0, 1, 0, 0, 0, NULL), 0);
	regs.rflags = k->rflags;
	rig_load(&c.r, k->code, k->n, &regs);
	client_start(&c);
	while ((exit = rig_run(&c.r)) == KVM_EXIT_IO)
		;
	/* One if the flag is an answer; otherwise the guest tries again, and the second is answered for good. */
	if (flag & ALL)
		expected = k->settles & flag ? 1 : 2;
	else
		expected = (k->settles | XEN_F_REGISTERS) == ALL ? 1 : 2;
	/* Steps go on until they are toggled off: after the NOP and, if not, after the HLT. */
	if (k->reason == GW_MON_SINGLESTEP)
		expected = flag & XEN_F_TOGGLE_STEP ? 1 : 2;
	if (exit != HLT || now.n != expected)
		print_message("# %s, %s: exit %u, %u events, %u others\n", k->name, name, exit, now.n, now.others);
	assert_int_equal(exit, HLT);
	assert_int_equal(now.n, expected);
	if (k->rcx != ~0ull)
		assert_int_equal(rig_regs(&c.r, 0).rcx, k->rcx);
	assert_int_equal(*(uint16_t *)(void *)(c.r.ram + PAGE_A), k->memory);
	if (k->reason == 4) {
		struct kvm_sregs s;

		assert_int_equal(gw_ioctl(c.r.vcpu[0], KVM_GET_SREGS, (uintptr_t)&s), 0);
		assert_int_equal(s.cr4 & 0x80, flag == XEN_F_DENY ? 0 : 0x80);
	}
	client_end(&c);
}

static void every_flag_in_answer_to_every_reason(void **state)
{
	unsigned n = 0;

	for (unsigned i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
		for (unsigned j = 0; j < sizeof(flags) / sizeof(flags[0]); j++, n++)
			pair(&reasons[i], flags[j].bit, flags[j].name);
	print_message("# %u pairs\n", n);
}

/* ---- order and precedence ----------------------------------------------------------------------------------------------------- */

static bool moved(struct client *c, struct xen_event *e)
{
	e->flags = XEN_F_VCPU_PAUSED | c->flags;
	e->data.regs.rip += 3;		/* to the second store */
	e->data.regs.rcx = 77;
	return true;
}

/* "SET_REGISTERS and EMULATE: what is emulated is at the new RIP": the first store is skipped, the second done. */
static void registers_come_before_emulation(void **state)
{
	static const uint8_t code[] = { 0x88, 0x03, 0x90, 0x88, 0x0b, 0xf4 };	/* mov [rbx],al; nop; mov [rbx],cl; hlt */
	struct kvm_regs regs = { .rbx = PAGE_A, .rax = 7, .rcx = 5 };
	static struct client c;

	ring_attach(&c, 1, GW_MON_RELEASE);
	c.respond = moved;
	c.flags = XEN_F_EMULATE | XEN_F_REGISTERS;
	rig_access(&c.r, 0, GW_MON_RX, PAGE_A, 1);
	rig_load(&c.r, code, sizeof(code), &regs);
	client_start(&c);
	assert_int_equal(rig_run(&c.r), HLT);
	assert_int_equal(c.n, 1);
	assert_int_equal(rig_regs(&c.r, 0).rcx, 77);
	assert_int_equal(c.r.ram[PAGE_A], 77);
	client_end(&c);
}

static bool twice(struct client *c, struct xen_event *e)
{
	e->flags = XEN_F_VCPU_PAUSED | XEN_F_TOGGLE_STEP | (e->reason == 1 ? XEN_F_EMULATE : 0);
	return true;
}

/* On with the violation, off with the step: two toggles are none. */
static void toggling_twice(void **state)
{
	static const uint8_t code[] = { 0x88, 0x03, 0x90, 0x90, 0x90, 0xf4 };
	struct kvm_regs regs = { .rbx = PAGE_A, .rax = 7 };
	static struct client c;

	ring_attach(&c, 1, GW_MON_RELEASE);
	c.respond = twice;
	assert_int_equal(rig_cmd(&c.r, GW_MON_OP_SUBSCRIBE, GW_MON_SINGLESTEP, 1, 0, 0, 0, NULL), 0);
	rig_access(&c.r, 0, GW_MON_RX, PAGE_A, 1);
	rig_load(&c.r, code, sizeof(code), &regs);
	client_start(&c);
	assert_int_equal(rig_run(&c.r), HLT);
	assert_int_equal(c.n, 2);
	assert_int_equal(c.last.reason, 7);
	assert_int_equal(c.r.ram[PAGE_A], 7);
	client_end(&c);
}

static bool toggle_and_fast(struct client *c, struct xen_event *e)
{
	e->flags = XEN_F_VCPU_PAUSED | XEN_F_TOGGLE_STEP;
	if (e->reason == 1) {
		e->flags |= XEN_F_FAST_STEP | XEN_F_EMULATE;
		e->u.mem_access.gfn = PAGE_A >> 12;
	}
	return true;
}

/* "Bit 4 wins if both are set." The request's union still says what was asked, as LibVMI leaves it. */
static void a_toggle_beats_a_fast_step(void **state)
{
	struct kvm_regs regs = { .rbx = PAGE_A, .rax = 7 };
	static const uint8_t code[] = { 0x88, 0x03, 0x90, 0xf4 };
	static struct client c;

	ring_attach(&c, 1, GW_MON_RELEASE);
	c.respond = toggle_and_fast;
	assert_int_equal(rig_cmd(&c.r, GW_MON_OP_SUBSCRIBE, GW_MON_SINGLESTEP, 1, 0, 0, 0, NULL), 0);
	rig_access(&c.r, 0, GW_MON_RX, PAGE_A, 1);
	rig_load(&c.r, code, sizeof(code), &regs);
	client_start(&c);
	assert_int_equal(rig_run(&c.r), HLT);
	assert_int_equal(c.n, 2);
	assert_int_equal(c.last.reason, 7);
	client_end(&c);
}

static bool wide_read(struct client *c, struct xen_event *e)
{
	e->flags = XEN_F_VCPU_PAUSED | XEN_F_EMULATE | XEN_F_READ_DATA | XEN_F_REGISTERS;	/* registers share the room: not both */
	memset(&e->data, 0xff, sizeof(e->data));
	e->data.read.size = 3;
	memcpy(e->data.read.data, "\x11\x22\x33", 3);
	return true;
}

static void read_data_is_filled_up_with_zeros_and_excludes_registers(void **state)
{
	static const uint8_t code[] = { 0x48, 0x8b, 0x0b, 0xf4 };
	struct kvm_regs regs = { .rbx = PAGE_A, .rax = 7 };
	static struct client c;

	ring_attach(&c, 1, GW_MON_RELEASE);
	c.respond = wide_read;
	rig_access(&c.r, 0, GW_MON_X, PAGE_A, 1);
	memset(c.r.ram + PAGE_A, 0xee, 16);
	rig_load(&c.r, code, sizeof(code), &regs);
	client_start(&c);
	assert_int_equal(rig_run(&c.r), HLT);
	assert_int_equal(c.n, 1);
	assert_int_equal(rig_regs(&c.r, 0).rcx, 0x332211);
	client_end(&c);
}

/* ---- Debian's headers --------------------------------------------------------------------------------------------------------------- */

#if __has_include(<xen/vm_event.h>)
#define __XEN_TOOLS__ 1
#include <xen/xen.h>
#include <xen/vm_event.h>

#define SAME(ours, theirs) _Static_assert(offsetof(struct xen_event, ours) == offsetof(vm_event_request_t, theirs), #ours)
SAME(flags, flags); SAME(reason, reason); SAME(vcpu_id, vcpu_id); SAME(altp2m_idx, altp2m_idx); SAME(u, u); SAME(data, data);
SAME(u.mem_access.gla, u.mem_access.gla); SAME(u.mem_access.flags, u.mem_access.flags); SAME(u.write_ctrlreg.old_value, u.write_ctrlreg.old_value);
SAME(u.mov_to_msr.new_value, u.mov_to_msr.new_value); SAME(u.debug.pending_dbg, u.debug_exception.pending_dbg);
SAME(u.debug.insn_length, u.software_breakpoint.insn_length); SAME(u.debug.type, u.debug_exception.type); SAME(u.cpuid.leaf, u.cpuid.leaf);
SAME(u.cpuid.subleaf, u.cpuid.subleaf); SAME(u.interrupt.cr2, u.interrupt.x86.cr2); SAME(u.desc_access.descriptor, u.desc_access.descriptor);
SAME(u.desc_access.is_write, u.desc_access.is_write); SAME(u.fast_singlestep.p2midx, u.fast_singlestep.p2midx);
SAME(data.regs.rip, data.regs.x86.rip); SAME(data.regs.cr3, data.regs.x86.cr3); SAME(data.regs.gdtr_base, data.regs.x86.gdtr_base);
SAME(data.regs.npt_base, data.regs.x86.npt_base); SAME(data.regs.cs_base, data.regs.x86.cs_base); SAME(data.regs.shadow_gs, data.regs.x86.shadow_gs);
SAME(data.regs.gs_sel, data.regs.x86.gs_sel); SAME(data.read.data, data.emul.read.data); SAME(data.insn.data, data.emul.insn.data);
_Static_assert(sizeof(struct xen_event) == sizeof(vm_event_request_t) && VM_EVENT_INTERFACE_VERSION == XEN_VM_EVENT_VERSION, "size, version");
_Static_assert(offsetof(struct xen_ring, slot) == offsetof(vm_event_sring_t, ring) && XEN_RING_SLOTS == __CONST_RING_SIZE(vm_event, 4096), "ring");
_Static_assert(XEN_F_FAST_STEP == VM_EVENT_FLAG_FAST_SINGLESTEP && XEN_F_VIEW == VM_EVENT_FLAG_ALTERNATE_P2M && XEN_F_DENY == VM_EVENT_FLAG_DENY &&
	       XEN_F_INSN_DATA == VM_EVENT_FLAG_SET_EMUL_INSN_DATA && XEN_F_NEXT_INTERRUPT == VM_EVENT_FLAG_GET_NEXT_INTERRUPT &&
	       XEN_F_TOGGLE_STEP == VM_EVENT_FLAG_TOGGLE_SINGLESTEP && XEN_F_REGISTERS == VM_EVENT_FLAG_SET_REGISTERS, "flags");
_Static_assert((int)GW_MON_MEM_ACCESS == VM_EVENT_REASON_MEM_ACCESS && (int)GW_MON_UNIMPLEMENTED == VM_EVENT_REASON_EMUL_UNIMPLEMENTED &&
	       (int)GW_MON_INTERRUPT == VM_EVENT_REASON_INTERRUPT && (int)GW_MON_DESCRIPTOR == VM_EVENT_REASON_DESCRIPTOR_ACCESS, "reasons");
#define HEADERS "the same as Debian's"
#else
#define HEADERS NULL
#endif

static void the_layout_is_that_of_debians_headers(void **state)
{
	if (!HEADERS) {
		print_message("# no libxen-dev here: only our own table was compared\n");
		skip();
	}
	print_message("# %s\n", HEADERS ? HEADERS : "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_flag_in_answer_to_every_reason),
		cmocka_unit_test(registers_come_before_emulation),
		cmocka_unit_test(toggling_twice),
		cmocka_unit_test(a_toggle_beats_a_fast_step),
		cmocka_unit_test(read_data_is_filled_up_with_zeros_and_excludes_registers),
		cmocka_unit_test(the_layout_is_that_of_debians_headers),
	};

	return cmocka_run_group_tests_name("monitor: the response matrix", tests, NULL, NULL);
}
