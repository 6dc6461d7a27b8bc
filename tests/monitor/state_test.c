/* SPDX-License-Identifier: MIT */
/*
 * What a monitor may see and change besides answering: registers of vCPUs that run, stand or wait, and memory it maps. Each with its
 * refusals: states no processor can be in, pages that are or may become private, memory that is no file.
 */
#include "rig.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

static int get(struct rig *r, unsigned cpu, struct gw_mon_regs *out)
{
	struct gw_monitor c = { .cmd = { .op = GW_MON_OP_GET_REGS, .a = { cpu } }, .payload = (uintptr_t)out, .payload_size = sizeof(*out) };

	assert_int_equal(gw_ioctl(r->vm, GW_MONITOR, (uintptr_t)&c), 0);
	return c.reply.err;
}

static int set(struct rig *r, unsigned cpu, const struct gw_mon_regs *in)
{
	struct gw_monitor c = { .cmd = { .op = GW_MON_OP_SET_REGS, .size = sizeof(*in), .a = { cpu } }, .payload = (uintptr_t)in };

	assert_int_equal(gw_ioctl(r->vm, GW_MONITOR, (uintptr_t)&c), 0);
	return c.reply.err;
}

static void *run(void *arg)
{
	return (void *)(uintptr_t)rig_run(arg);
}

static const uint8_t counting[] = { 0x48, 0xff, 0xc0, 0xeb, 0xfb, 0xf4 };	/* l: inc rax; jmp l; hlt */
#define TO_HLT	(CODE + 5)

static void registers_of_a_running_vcpu_are_those_between_two_instructions(void **state)
{
	struct gw_mon_regs a, b;
	static struct rig r;
	pthread_t t;
	void *exit;

	rig_open(&r, 1);
	rig_load(&r, counting, sizeof(counting), NULL);
	/* Not in KVM_RUN at all. */
	assert_int_equal(get(&r, 0, &a), 0);
	assert_int_equal(a.regs.rip, CODE);
	assert_int_equal(a.sregs.cr0 & 1, 1);
	assert_int_equal(get(&r, 1, &a), -EINVAL);
	assert_int_equal(pthread_create(&t, NULL, run, &r), 0);
	do {
		assert_int_equal(get(&r, 0, &a), 0);
	} while (a.regs.rax < 1000);
	assert_true(a.regs.rip == CODE || a.regs.rip == CODE + 3);
	do {
		assert_int_equal(get(&r, 0, &b), 0);
	} while (b.regs.rax == a.regs.rax);
	assert_true(b.regs.rax > a.regs.rax);
	/* What was set is where it goes on. */
	b.regs.rip = TO_HLT;
	b.regs.rax = 7;
	b.lstar = 0xffffffff81000000;
	assert_int_equal(set(&r, 0, &b), 0);
	pthread_join(t, &exit);
	assert_int_equal((uintptr_t)exit, KVM_EXIT_HLT);
	assert_int_equal(rig_regs(&r, 0).rax, 7);
	assert_int_equal(get(&r, 0, &a), 0);
	assert_int_equal(a.lstar, 0xffffffff81000000);
	rig_close(&r);
}

static void a_paused_vcpu_holds_still(void **state)
{
	struct gw_mon_regs a, b;
	static struct rig r;
	pthread_t t;

	rig_open(&r, 1);
	rig_attach(&r, GW_MON_RELEASE);
	rig_load(&r, counting, sizeof(counting), NULL);
	assert_int_equal(pthread_create(&t, NULL, run, &r), 0);
	do {
		assert_int_equal(get(&r, 0, &a), 0);
	} while (a.regs.rax < 1000);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_PAUSE, 0, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(get(&r, 0, &a), 0);
	usleep(20000);
	assert_int_equal(get(&r, 0, &b), 0);
	assert_memory_equal(&a, &b, sizeof(a));
	b.regs.rip = TO_HLT;
	assert_int_equal(set(&r, 0, &b), 0);
	usleep(20000);
	assert_int_equal(get(&r, 0, &a), 0);
	assert_int_equal(a.regs.rip, TO_HLT);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_RESUME, 0, 0, 0, 0, 0, NULL), 0);
	pthread_join(t, NULL);
	assert_int_equal(rig_regs(&r, 0).rax, a.regs.rax);
	rig_close(&r);
}

static void states_no_processor_can_be_in_are_refused_whole(void **state)
{
	static const struct { const char *name; size_t at; uint64_t value; } rows[] = {
		{ "CR0 with NW and without CD", offsetof(struct gw_mon_regs, sregs.cr0), 0xa0000001 },
		{ "CR4 with a reserved bit", offsetof(struct gw_mon_regs, sregs.cr4), 1ull << 40 },
		{ "EFER with a reserved bit", offsetof(struct gw_mon_regs, sregs.efer), 0xd00 | 1ull << 40 },
		{ "LSTAR that is not canonical", offsetof(struct gw_mon_regs, lstar), 1ull << 63 },
		{ "kernel GS base that is not canonical", offsetof(struct gw_mon_regs, kernel_gs_base), 1ull << 60 },
		{ "DR7 with upper bits", offsetof(struct gw_mon_regs, dr7), 1ull << 33 },
	};
	struct gw_mon_regs before, after, bad;
	static struct rig r;

	rig_open(&r, 1);
	rig_load(&r, counting, sizeof(counting), NULL);
	assert_int_equal(get(&r, 0, &before), 0);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		bad = before;
		bad.regs.rax = 77;
		bad.star = 0x1234;
		memcpy((char *)&bad + rows[i].at, &rows[i].value, sizeof(uint64_t));
		if (set(&r, 0, &bad) != -EINVAL)
			fail_msg("%s was taken", rows[i].name);
		assert_int_equal(get(&r, 0, &after), 0);
		if (memcmp(&before, &after, sizeof(before)))
			fail_msg("%s: refused, and something has changed", rows[i].name);
	}
	rig_close(&r);
}

static int from_inside;

static void asks_for_registers(struct rig *r, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	struct gw_mon_regs regs;

	from_inside = get(r, 0, &regs);
	if (from_inside == -EDEADLK)
		from_inside = set(r, 0, &regs);
	a->flags = GW_MON_ANS_ALLOW;
}

static void a_callback_cannot_wait_for_itself(void **state)
{
	static const uint8_t store[] = { 0x48, 0x89, 0x03, 0xf4 };	/* mov [rbx], rax; hlt */
	static struct rig r;

	rig_open(&r, 1);
	rig_attach(&r, GW_MON_RELEASE);
	rig_access(&r, 0, GW_MON_R, PAGE_A, 1);
	r.answer = asks_for_registers;
	rig_load(&r, store, sizeof(store), &(struct kvm_regs){ .rbx = PAGE_A });
	assert_int_equal(rig_run(&r), KVM_EXIT_HLT);
	assert_int_equal(r.n_seen, 1);
	assert_int_equal(from_inside, -EDEADLK);
	rig_close(&r);
}

/* ---- memory ---------------------------------------------------------------------------------------------------------------------- */

static int map(struct rig *r, uint64_t gfn, struct gw_mon_reply *reply)
{
	struct gw_monitor c = { .cmd = { .op = GW_MON_OP_MAP, .a = { gfn } } };

	assert_int_equal(gw_ioctl(r->vm, GW_MONITOR, (uintptr_t)&c), 0);
	*reply = c.reply;
	return c.reply.err;
}

static void mapped_memory_is_the_guests(void **state)
{
	struct gw_mon_reply got;
	struct gw_mon_regs g;
	static struct rig r;
	pthread_t t;
	uint8_t *p;

	rig_open(&r, 1);
	rig_attach(&r, GW_MON_RELEASE);
	assert_int_equal(map(&r, RAM >> 12, &got), -ESRCH);
	assert_int_equal(map(&r, CODE >> 12, &got), 0);
	assert_int_equal(got.r[1], 0);
	assert_int_equal(got.r[2], RAM >> 12);
	p = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED, (int)got.r[0], (off_t)got.r[3]);
	assert_true(p != MAP_FAILED);
	close((int)got.r[0]);
	rig_load(&r, counting, sizeof(counting), NULL);
	assert_memory_equal(p + CODE, counting, sizeof(counting));
	/* Hot code, changed while the vCPU is paused: the new bytes are executed. */
	assert_int_equal(pthread_create(&t, NULL, run, &r), 0);
	do {
		assert_int_equal(get(&r, 0, &g), 0);
	} while (g.regs.rax < 1000000);
	assert_int_equal(rig_cmd(&r, GW_MON_OP_PAUSE, 0, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(get(&r, 0, &g), 0);
	memset(p + CODE, 0xf4, sizeof(counting));
	assert_int_equal(rig_cmd(&r, GW_MON_OP_RESUME, 0, 0, 0, 0, 0, NULL), 0);
	pthread_join(t, NULL);
	assert_int_equal(rig_regs(&r, 0).rax, g.regs.rax);
	munmap(p, RAM);
	rig_close(&r);
}

static void memory_that_is_no_file_or_may_be_private_is_not_mapped(void **state)
{
	struct kvm_userspace_memory_region2 region = { .slot = 2, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = 2 * RAM, .memory_size = RAM };
	struct kvm_create_guest_memfd file = { .size = RAM };
	struct kvm_userspace_memory_region plain = { .slot = 1, .guest_phys_addr = RAM, .memory_size = RAM };
	struct gw_mon_reply got;
	static struct rig r;
	uint8_t *p;

	rig_open_type(&r, 1, KVM_X86_SW_PROTECTED_VM);
	p = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(p != MAP_FAILED);
	plain.userspace_addr = (uintptr_t)p;
	assert_int_equal(gw_ioctl(r.vm, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&plain), 0);
	assert_int_equal(map(&r, RAM >> 12, &got), -EOPNOTSUPP);
	/* Shared side in a file, every page shared now: still no. */
	region.userspace_addr = (uintptr_t)r.ram;
	region.guest_memfd = (uint32_t)gw_ioctl(r.vm, KVM_CREATE_GUEST_MEMFD, (uintptr_t)&file);
	assert_true((int)region.guest_memfd >= 0);
	assert_int_equal(gw_ioctl(r.vm, KVM_SET_USER_MEMORY_REGION2, (uintptr_t)&region), 0);
	assert_int_equal(map(&r, 2 * RAM >> 12, &got), -EOPNOTSUPP);
	gw_close((int)region.guest_memfd);
	rig_close(&r);
	munmap(p, RAM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(registers_of_a_running_vcpu_are_those_between_two_instructions),
		cmocka_unit_test(a_paused_vcpu_holds_still),
		cmocka_unit_test(states_no_processor_can_be_in_are_refused_whole),
		cmocka_unit_test(a_callback_cannot_wait_for_itself),
		cmocka_unit_test(mapped_memory_is_the_guests),
		cmocka_unit_test(memory_that_is_no_file_or_may_be_private_is_not_mapped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
