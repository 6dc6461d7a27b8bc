/* SPDX-License-Identifier: MIT */
/*
 * The allocator fails the Nth time, N counting up until everything passes: every function of mem/ and access/ that allocates
 * answers -ENOMEM (or an exit with that errno) and leaves nothing behind. Linked with --wrap for malloc and calloc.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "access/access.h"
#include "isa/x86.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);

static unsigned calls, fail_at;

static bool fails(void)
{
	return ++calls == fail_at;
}

void *__wrap_malloc(size_t size) { return fails() ? NULL : __real_malloc(size); }
void *__wrap_calloc(size_t n, size_t size) { return fails() ? NULL : __real_calloc(n, size); }

static struct acc_cpu *cpu;
static uint8_t *ram;

/* A little of everything. 0, or the first error. */
static int live_and_die(void)
{
	struct mem_slot s = { .n_pages = 4, .hva = ram };
	struct mem_code_map *code = NULL;
	struct mem_dirty *dirty = NULL;
	struct acc_vm *vm = NULL;
	struct mem_map *map = NULL;
	int err;

	memset(cpu, 0, sizeof(*cpu));
	cpu->cr0 = CR0_PE;
	err = mem_code_map_new(&code);
	if (err)
		return err;
	err = mem_dirty_new(4, true, &dirty);
	if (err)
		goto free_code;
	s.dirty = dirty;
	err = acc_vm_new(NULL, code, &vm);
	if (err)
		goto free_dirty;
	err = mem_map_change(acc_vm_map(vm), &s, &map);
	if (err)
		goto free_vm;
	acc_vm_set_map(vm, map);
	err = acc_cpu_init(cpu, vm);
	if (err)
		goto free_vm;
	acc_enter(cpu);
	{
		struct acc_request rq = { .cpu = cpu, .gva = GVA(0x1000), .len = 8, .rights = ACC_RW };
		struct acc_result out;
		enum acc_verdict v;

		/* Without a code record a page is not remembered for writing, but the access goes on. */
		assert_int_equal(acc_check(&rq, &out), ACC_ALLOW);
		if (!acc_probe_w(cpu, 0x1000, 8))
			assert_false(out.silent & ACC_W);
		if (!acc_fetch_page(cpu, GVA(0x2000), &rq, &out, &v)) {
			assert_int_equal(v, ACC_EXIT);
			err = out.exit.err;
		}
	}
	acc_leave(cpu);
	acc_cpu_fini(cpu);
free_vm:
	acc_vm_free(vm);
free_dirty:
	mem_dirty_free(dirty);
free_code:
	mem_code_map_free(code);
	return err;
}

static void every_failure_is_enomem(void **state)
{
	unsigned errors = 0;

	cpu = aligned_alloc(64, (sizeof(*cpu) + 63) & ~(size_t)63);
	ram = aligned_alloc(GW_PAGE_SIZE, 4 * GW_PAGE_SIZE);
	for (fail_at = 1;; fail_at++) {
		int err;

		calls = 0;
		err = live_and_die();
		if (calls < fail_at)
			break;
		assert_true(err == -ENOMEM || err == 0);
		errors += err != 0;
	}
	assert_true(fail_at > 7);
	assert_true(errors >= fail_at - 2);	/* only the refused W is harmless */
	free(cpu);
	free(ram);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		{ "every allocation that fails is ENOMEM and leaks nothing", every_failure_is_enomem, NULL, NULL, NULL },
	};

	return cmocka_run_group_tests_name("access-oom", tests, NULL, NULL);
}
