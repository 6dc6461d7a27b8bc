/* SPDX-License-Identifier: MIT */
/*
 * Rights that go while they are used: four vCPUs write to a page and run code from another, as fast as they can, while the client takes
 * W or X away and gives it back. Once the call has returned nobody may write or run there any more; what they try is denied.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "guest.h"

#define N_VCPUS		4u
#define ROUNDS		100u
#define PAGE		0x1000u
#define WRITTEN		G_DATA			/* a counter a vCPU, 64 bytes apart */
#define RAN		(G_DATA + 0x1000u)
#define CALLED		(G_CODE + 0x1000u)

struct runner { struct guest *g; pthread_t thread; int fd; struct kvm_run *run; unsigned id; };
static atomic_bool stop;

static uint64_t counter(struct guest *g, uint64_t page, unsigned vcpu)
{
	return __atomic_load_n((uint64_t *)(void *)(g->rig.ram + page + vcpu * 64), __ATOMIC_ACQUIRE);
}

static void on_signal(int sig) { }

static void *run(void *arg)
{
	struct runner *r = arg;
	long ret = 0;

	while (!atomic_load(&stop) && (!ret || ret == -EINTR))
		ret = rig_ioctl_n(r->fd, KVM_RUN, 0);
	return (void *)(intptr_t)(ret && ret != -EINTR);
}

/* again: incq (%rbx); call *%rbp; jmp again. At CALLED: incq (%rdi); ret. #PF: the stack back, again. */
static void start(struct guest *g, struct runner *r)
{
	struct kvm_regs regs;

	guest_start_vcpu(g, r->fd, 0, G_CODE, G_STACK);
	assert_int_equal(rig_ioctl(r->fd, KVM_GET_REGS, &regs), 0);
	regs.rsp = regs.r8 = G_STACK - 0x100 * (r->id + 1);
	regs.rbx = WRITTEN + r->id * 64;
	regs.rdi = RAN + r->id * 64;
	regs.rbp = CALLED;
	regs.rsi = G_CODE;
	assert_int_equal(rig_ioctl(r->fd, KVM_SET_REGS, &regs), 0);
	assert_int_equal(pthread_create(&r->thread, NULL, run, r), 0);
}

static void pause_for(long ns)
{
	nanosleep(&(struct timespec){ .tv_nsec = ns }, NULL);
}

/* Until every vCPU has gone on, or for ten seconds. */
static bool all_move(struct guest *g, uint64_t page)
{
	uint64_t before[N_VCPUS];
	unsigned moved = 0;

	for (unsigned i = 0; i < N_VCPUS; i++)
		before[i] = counter(g, page, i);
	for (unsigned tries = 0; tries < 10000 && moved < N_VCPUS; tries++) {
		pause_for(1000000);
		moved = 0;
		for (unsigned i = 0; i < N_VCPUS; i++)
			moved += counter(g, page, i) != before[i];
	}
	return moved == N_VCPUS;
}

/* Takes @right away from @page; then the counters of @counters stand still. */
static void narrow(struct guest *g, uint64_t page, uint64_t right, uint64_t counters)
{
	uint64_t before[N_VCPUS];

	guest_protect(g, page, PAGE, right);
	for (unsigned i = 0; i < N_VCPUS; i++)
		before[i] = counter(g, counters, i);
	for (unsigned looks = 0; looks < 5; looks++) {
		pause_for(100000);
		for (unsigned i = 0; i < N_VCPUS; i++)
			assert_int_equal(counter(g, counters, i), before[i]);
	}
	guest_protect(g, page, PAGE, 0);
}

static void rights_that_go(void **state)
{
	struct runner r[N_VCPUS];
	struct sigaction a = { .sa_handler = on_signal };
	struct gw_heki_counters c;
	struct guest g;

	assert_int_equal(sigaction(SIGUSR1, &a, NULL), 0);
	guest_open(&g);
	memcpy(g.rig.ram + G_CODE, "\x48\xff\x03\xff\xd5\xeb\xf9", 7);
	memcpy(g.rig.ram + CALLED, "\x48\xff\x07\xc3", 4);
	memcpy(g.rig.ram + G_STUBS + 14 * 16, "\x4c\x89\xc4\xff\xe6", 5);
	for (unsigned i = 0; i < N_VCPUS; i++) {
		r[i] = (struct runner){ .g = &g, .fd = g.rig.vcpu, .run = g.rig.run, .id = i };
		if (i) {
			r[i].fd = rig_vcpu(&g.rig, i, &r[i].run);
			rig_set_cpuid(&g.rig, r[i].fd);
		}
	}
	for (unsigned i = 0; i < N_VCPUS; i++)
		start(&g, &r[i]);
	for (unsigned round = 0; round < ROUNDS; round++) {
		if (round % 20 == 0) {
			assert_true(all_move(&g, WRITTEN));
			assert_true(all_move(&g, RAN));
		}
		narrow(&g, WRITTEN, GW_HEKI_NW, WRITTEN);
		narrow(&g, CALLED, GW_HEKI_NX, RAN);
	}
	assert_true(all_move(&g, WRITTEN));
	assert_true(all_move(&g, RAN));
	atomic_store(&stop, true);
	for (unsigned i = 0; i < N_VCPUS; i++) {
		void *failed;

		__atomic_store_n(&r[i].run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		pthread_kill(r[i].thread, SIGUSR1);
		assert_int_equal(pthread_join(r[i].thread, &failed), 0);
		assert_null(failed);
		if (i)
			assert_int_equal(gw_close(r[i].fd), 0);
	}
	c = guest_counters(&g);
	assert_true(c.denied_write > 0);
	assert_true(c.denied_fetch > 0);
	guest_close(&g);
}

/* A tree of ranges: one for everything costs nothing, and neighbours share their nodes. */
static void memory_follows_ranges(void **state)
{
	struct gw_heki_attributes a = { .size = PAGE, .attributes = GW_HEKI_NW, .mask = GW_HEKI_NW };
	struct gw_heki_attributes all = { .size = 1ull << 52, .attributes = GW_HEKI_NX, .mask = GW_HEKI_NX };
	uint64_t few, many;
	struct guest g;

	guest_open(&g);
	assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_SET_ATTRIBUTES, &all), 0);
	assert_int_equal(guest_counters(&g).store_bytes, 0);
	for (a.address = 0; a.address < 64 * PAGE; a.address += 2 * PAGE)
		assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_SET_ATTRIBUTES, &a), 0);
	few = guest_counters(&g).store_bytes;
	for (; a.address < 128 * PAGE; a.address += 2 * PAGE)
		assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_SET_ATTRIBUTES, &a), 0);
	many = guest_counters(&g).store_bytes;
	/* The same nodes: three of the tree's and one of bytes. */
	assert_true(few > 0 && few <= 40960);
	assert_int_equal(many, few);
	a = (struct gw_heki_attributes){ .size = 1ull << 52, .flags = GW_HEKI_ATTR_CLEAR };
	assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_SET_ATTRIBUTES, &a), 0);
	assert_int_equal(guest_counters(&g).store_bytes, 0);
	guest_close(&g);
}

/* A device asks before it writes. */
static void devices_ask(void **state)
{
	static const struct { uint64_t at, size; long want; } rows[] = {
		{ G_DATA, PAGE, -EACCES }, { G_DATA - 1, 1, 0 }, { G_DATA - 1, 2, -EACCES }, { G_DATA + PAGE, 1, 0 }, { G_DATA + PAGE - 1, 1, -EACCES },
		{ 0, 1ull << 40, -EACCES }, { ~0ull, 2, -EINVAL }, { G_DATA, 0, 0 },
	};
	struct gw_heki_event e;
	struct guest g;

	guest_open(&g);
	guest_protect(&g, G_DATA, PAGE, GW_HEKI_NW);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct gw_heki_dma d = { rows[i].at, rows[i].size };

		assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_JUDGE_DMA, &d), rows[i].want);
	}
	assert_int_equal(guest_counters(&g).denied_pv, 4);
	e = guest_event(&g);
	assert_int_equal(e.kind, GW_HEKI_EV_DENIED);
	assert_int_equal(e.access, GW_HEKI_ACCESS_W | GW_HEKI_ACCESS_DMA);
	assert_int_equal(e.gpa, G_DATA);
	guest_close(&g);
}

/* What can be asked of the moment; the moments themselves are seen in whole boots. */
static void policies(void **state)
{
	struct gw_heki_policy p = { .lock_at = 4 }, got;
	struct guest g;

	guest_open(&g);
	assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_SET_POLICY, &p), -EINVAL);
	p.lock_at = GW_HEKI_LOCK_AT_EXEC;
	memset(p.lock_path, 'x', sizeof(p.lock_path));
	assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_SET_POLICY, &p), -EINVAL);
	assert_int_equal(rig_ioctl_n(g.rig.vm, GW_HEKI_LOCK, 0), -EINVAL);
	p.lock_path[63] = 0;
	p.flags = GW_HEKI_POLICY_UNASSISTED;
	assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_SET_POLICY, &p), 0);
	assert_int_equal(rig_ioctl(g.rig.vm, GW_HEKI_GET_POLICY, &got), 0);
	assert_memory_equal(&got, &p, sizeof(p));
	assert_int_equal(rig_ioctl_n(g.rig.vm, GW_HEKI_LOCK, 0), 0);
	guest_close(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		{ "after a right has gone none of four running vCPUs uses it", rights_that_go, NULL, NULL, NULL },
		{ "the store's memory follows the ranges, not their size", memory_follows_ranges, NULL, NULL, NULL },
		{ "devices ask before they write", devices_ask, NULL, NULL, NULL },
		{ "when to lock", policies, NULL, NULL, NULL },
	};

	return cmocka_run_group_tests_name("race", tests, NULL, NULL);
}
