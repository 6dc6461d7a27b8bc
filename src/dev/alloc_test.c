/* SPDX-License-Identifier: MIT */
/*
 * Every allocation of dev/ fails once: the call says -ENOMEM, gives everything back, and the next try succeeds.
 * The allocator is replaced in this program only, so the sanitizers, which do the same, have nothing to see here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dev/test_rig.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define HAS_OWN_ALLOCATOR 0
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAS_OWN_ALLOCATOR 0
#endif
#ifndef HAS_OWN_ALLOCATOR
#define HAS_OWN_ALLOCATOR 1
#endif

static bool is_counting;
static unsigned n_left;		/* allocations that still succeed */
static int n_live;

#if HAS_OWN_ALLOCATOR
void *__libc_calloc(size_t n, size_t size);
void __libc_free(void *p);

void *calloc(size_t n, size_t size)
{
	if (is_counting) {
		if (!n_left)
			return NULL;
		n_left--;
		n_live++;
	}
	return __libc_calloc(n, size);
}

void free(void *p)
{
	if (is_counting && p)
		n_live--;
	__libc_free(p);
}
#endif

static uint64_t now(void *opaque) { return 1; }
static void kick(void *opaque, unsigned vcpu) { }
static uint64_t read_tsc(void *opaque, unsigned vcpu) { return 1; }

/* Everything there is to create; the first error, with everything destroyed again. */
static int build(void)
{
	static const struct dev_irqchip_ops ops = { .kick = kick, .read_tsc = read_tsc };
	struct kvm_irq_routing_entry route = { .gsi = 3, .type = KVM_IRQ_ROUTING_MSI };
	struct dev_timers *timers = NULL;
	struct dev_irqchip *chip = NULL;
	struct dev_lapic *lapic = NULL;
	int err = dev_timers_create(&timers, now, NULL);

	if (!err)
		err = dev_irqchip_create(&chip, DEV_IRQCHIP_FULL, 0, &ops, NULL, timers);
	if (!err)
		err = dev_lapic_create(&lapic, chip, 0, 0, true);
	if (!err)
		err = dev_pit_create(chip, 0);
	if (!err)
		err = dev_irq_set_routing(chip, &route, 1);
	dev_irqchip_destroy(chip);
	dev_timers_destroy(timers);
	return err;
}

static void test_every_allocation_fails_once(void **state)
{
	unsigned n;
	int err;

	if (!HAS_OWN_ALLOCATOR)
		skip();
	for (n = 0; n < 100; n++) {
		n_left = n;
		n_live = 0;
		is_counting = true;
		err = build();
		is_counting = false;
		assert_int_equal(n_live, 0);
		if (!err)
			break;
		assert_int_equal(err, -ENOMEM);
	}
	/* Queue, chip, default table (3 and a scratch), LAPIC, PIT, table (3 and a scratch). */
	assert_int_equal(n, 12);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		{ "every allocation may fail, cleanly", test_every_allocation_fails_once, NULL, NULL, NULL },
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
