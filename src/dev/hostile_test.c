/* SPDX-License-Identifier: MIT */
/*
 * A guest and a client that do whatever they like: random accesses, states and routes from a fixed seed, with the invariants
 * of lapic.c checked after every step; then the same from several threads with the real clock. Meant for the sanitizers.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "dev/irqchip_private.h"
#include "dev/test_rig.h"

#define N_STEPS		500000u
#define N_VCPUS		4u
#define N_THREADS	3u
#define N_THREAD_STEPS	50000u

/* xorshift64*: any fixed generator does. */
struct rng { uint64_t s; };

static uint64_t next(struct rng *r)
{
	r->s ^= r->s >> 12;
	r->s ^= r->s << 25;
	r->s ^= r->s >> 27;
	return r->s * 0x2545f4914f6cdd1dull;
}

static uint32_t below(struct rng *r, uint32_t n) { return (uint32_t)(next(r) >> 33) % n; }

/* Numbers that matter more often than chance would have them. */
static uint64_t value(struct rng *r)
{
	static const uint64_t special[] = {
		0, 1, ~0ull, 0xff, 0x1ff, 0x700, 0x10000, 0x8000, 0x20000, 0x40000, 0x60040, 0xfee00900, 0xfee00d00, 0xc4500,
		0x80000, 0xc0042, 0xff000000,
	};

	switch (below(r, 3)) {
	case 0:
		return special[below(r, ARRAY_SIZE(special))];
	case 1:
		return next(r) & 0x1ffff;
	default:
		return next(r);
	}
}

static void fill(struct rng *r, void *buf, size_t len)
{
	uint8_t *p = buf;

	while (len--)
		*p++ = (uint8_t)(next(r) >> 40);
}

struct target { struct dev_irqchip *chip; struct dev_lapic *lapic[N_VCPUS]; struct dev_timers *timers; };

static void step_mmio(struct rng *r, struct target *t, struct dev_lapic *l)
{
	uint64_t gpa = below(r, 2) ? 0xfee00000 + (below(r, 4) ? below(r, 64) * 16 : below(r, 0x1000)) : 0xfec00000;
	uint32_t select = 0x10 + below(r, 50);
	uint64_t data = value(r);
	static const uint8_t lens[] = { 1, 2, 4, 4, 4, 4, 8, 3, 0, 9 };

	if (gpa == 0xfec00000) {
		dev_mmio(t->chip, l, GPA(gpa), 4, &select, true);
		gpa += below(r, 8) ? 0x10 : below(r, 0x110);
	}
	dev_mmio(t->chip, l, GPA(gpa), lens[below(r, ARRAY_SIZE(lens))], (uint8_t[16]){ 0 }, false);
	dev_mmio(t->chip, l, GPA(gpa), lens[below(r, 8)], &data, true);
}

static void step_pio(struct rng *r, struct target *t)
{
	static const uint16_t ports[] = { 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x43, 0x61, 0x3f, 0xffff };
	uint16_t port = ports[below(r, ARRAY_SIZE(ports))];
	uint64_t data = value(r);

	dev_pio(t->chip, port, below(r, 10) ? 1 : below(r, 10), (uint8_t[16]){ 0 }, false);
	dev_pio(t->chip, port, below(r, 10) ? 1 : below(r, 9), &data, true);
}

static void step_msr(struct rng *r, struct dev_lapic *l)
{
	static const uint32_t msrs[] = { 0x1b, 0x6e0, 0x830, 0x83f, 0x80f, 0x832, 0x838 };
	uint32_t msr = below(r, 2) ? msrs[below(r, ARRAY_SIZE(msrs))] : 0x800 + below(r, 0x100);
	uint64_t v = value(r);

	dev_lapic_read_msr(l, msr, below(r, 2), &v);
	dev_lapic_write_msr(l, msr, below(r, 2), value(r));
}

static void step_state(struct rng *r, struct target *t, struct dev_lapic *l)
{
	union {
		struct kvm_lapic_state lapic;
		struct kvm_irqchip chip;
		struct kvm_pit_state2 pit;
	} s;
	bool is_random = below(r, 2);

	memset(&s, 0, sizeof(s));
	switch (below(r, 3)) {
	case 0:
		dev_lapic_get_state(l, &s.lapic);
		if (is_random)
			fill(r, &s, sizeof(s.lapic));
		dev_lapic_set_state(l, &s.lapic);
		break;
	case 1:
		s.chip.chip_id = below(r, 4);
		dev_irqchip_get(t->chip, &s.chip);
		if (is_random)
			fill(r, &s.chip.chip, sizeof(s.chip.chip));
		if (s.chip.chip_id == KVM_IRQCHIP_IOAPIC)
			s.chip.chip.ioapic.base_address = 0xfec00000;
		dev_irqchip_set(t->chip, &s.chip);
		break;
	default:
		dev_pit_get2(t->chip, &s.pit);
		if (is_random)
			fill(r, &s, sizeof(s.pit));
		dev_pit_set2(t->chip, &s.pit);
		break;
	}
}

static void step_routing(struct rng *r, struct target *t)
{
	struct kvm_irq_routing_entry e[8];
	uint32_t n = below(r, ARRAY_SIZE(e) + 1);

	memset(e, 0, sizeof(e));
	for (uint32_t i = 0; i < n; i++) {
		e[i].gsi = below(r, 20) ? below(r, 24) : (uint32_t)next(r);
		e[i].type = 1 + below(r, 2);
		if (e[i].type == KVM_IRQ_ROUTING_MSI)
			e[i].u.msi = (struct kvm_irq_routing_msi){ .address_lo = (uint32_t)value(r), .data = (uint32_t)value(r) };
		else
			e[i].u.irqchip = (struct kvm_irq_routing_irqchip){ below(r, 3), below(r, 8) };
	}
	dev_irq_set_routing(t->chip, e, n);
}

static void step_vcpu(struct rng *r, struct dev_lapic *l)
{
	struct dev_lapic_events ev = { .n_nmi = 1, .is_init = true, .is_sipi = true };

	switch (below(r, 8)) {
	case 0:
		dev_lapic_take_events(l, (uint32_t)next(r), &ev);
		break;
	case 1:
		dev_lapic_post_events(l, &ev);
		break;
	case 2:
		dev_lapic_set_cr8(l, (uint8_t)next(r));
		break;
	case 3:
		if (below(r, 50) == 0)
			dev_lapic_reset(l);
		else if (below(r, 20) == 0)
			dev_lapic_init(l);
		break;
	case 4:
		dev_lapic_pv_eoi_arm(l);
		break;
	case 5:
		dev_lapic_pv_eoi_sync(l, below(r, 2));
		break;
	case 6:
		dev_lapic_tsc_moved(l);
		break;
	default:
		dev_lapic_ack(l);
		break;
	}
}

static void step(struct rng *r, struct target *t)
{
	struct dev_lapic *l = t->lapic[below(r, N_VCPUS)];
	uint32_t gsi = below(r, 30) ? below(r, 24) : (uint32_t)next(r);

	switch (below(r, 16)) {
	case 0 ... 4:
		step_mmio(r, t, l);
		break;
	case 5 ... 7:
		step_pio(r, t);
		break;
	case 8 ... 9:
		step_msr(r, l);
		break;
	case 10:
		if (below(r, 8) == 0)
			step_state(r, t, l);
		break;
	case 11:
		if (below(r, 16) == 0)
			step_routing(r, t);
		else if (below(r, 4) == 0)
			dev_irq_set_resample(t->chip, gsi, below(r, 2) ? 1 : -1);
		break;
	case 12:
		dev_irq_set_line(t->chip, below(r, DEV_N_IRQ_SOURCES), gsi, below(r, 2), below(r, 2));
		break;
	case 13:
		dev_irq_msi(t->chip, 0xfee00000 | (value(r) & 0xfffff), (uint32_t)value(r));
		break;
	case 14:
		dev_irq_pv_send_ipi(t->chip, next(r), next(r), below(r, 8), value(r), below(r, 2) ? 32 : 64);
		dev_irq_pv_kick(t->chip, below(r, 8));
		break;
	default:
		step_vcpu(r, l);
		break;
	}
}

/* What must hold between any two calls. */
static void check(struct target *t)
{
	unsigned n_rtc = 0, n_injectable = 0;

	for (unsigned i = 0; i < N_VCPUS; i++) {
		struct dev_lapic *l = t->lapic[i];
		uint32_t pending = dev_lapic_pending(l);
		int irr = lapic_is_hw_enabled(l) ? lapic_highest(l, APIC_IRR) : -1;
		bool can = irr >= 0 && ((uint32_t)irr & 0xf0) > (lapic_ppr(l) & 0xf0);

		n_rtc += l->rtc_vector >= 0;
		n_injectable += !!(pending & DEV_PEND_INTR) && !can;
		assert_true(!can || (pending & DEV_PEND_INTR));
		assert_int_equal(pending & ~(uint32_t)DEV_PEND_INTR, l->events);
		assert_int_equal(!!(pending & DEV_PEND_NMI), l->n_nmi > 0);
		assert_true(!l->tsc_deadline || l->target_ns == 0);
	}
	/* INTR without a vector in IRR is the PIC's, and only one LAPIC's. */
	assert_true(n_injectable <= t->chip->pic.output);
	assert_int_equal(t->chip->ioapic.n_rtc_pending, n_rtc);
}

static void test_random_steps(void **state)
{
	struct rig *rig = rig_create(DEV_IRQCHIP_FULL, N_VCPUS, false);
	struct target t = { .chip = rig->chip, .timers = rig->timers };
	struct rng r = { 0x9e3779b97f4a7c15ull };
	uint64_t n_fired = 0, until;

	memcpy(t.lapic, rig->lapic, sizeof(t.lapic));
	assert_int_equal(dev_pit_create(rig->chip, KVM_PIT_SPEAKER_DUMMY), 0);
	for (unsigned i = 0; i < N_STEPS; i++) {
		step(&r, &t);
		if (below(&r, 16) == 0)
			rig->tsc_base = next(&r);
		check(&t);
		/* 100 us pass; nothing a guest does may ask for more than a handful of wake-ups in it. */
		until = rig->now_ns + 100000;
		for (unsigned n = 0; dev_timers_next(rig->timers, &rig->now_ns) && rig->now_ns <= until; n++) {
			assert_true(n < 16);
			n_fired += dev_timers_run(rig->timers);
		}
		rig->now_ns = until;
		check(&t);
	}
	assert_true(n_fired > 1000);		/* the timers did take part */
	rig_destroy(rig);
}

/* --- threads ----------------------------------------------------------------------------------------------------- */

static _Atomic unsigned n_kicks;

static void kick(void *opaque, unsigned vcpu) { atomic_fetch_add(&n_kicks, 1); }
static uint64_t read_tsc(void *opaque, unsigned vcpu) { return dev_timers_now(((struct target *)opaque)->timers); }
static void eoi_ack(void *opaque, uint32_t gsi) { }

struct worker { pthread_t thread; struct target *t; struct rng r; };

static void *work(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; i < N_THREAD_STEPS; i++)
		step(&w->r, w->t);
	return NULL;
}

static void test_threads(void **state)
{
	static const struct dev_irqchip_ops ops = { .kick = kick, .read_tsc = read_tsc, .eoi_ack = eoi_ack };
	static const struct dev_lapic_features features = { .has_x2apic = true, .has_tsc_deadline = true, .maxphyaddr = 46 };
	struct worker workers[N_THREADS];
	struct target t = { 0 };

	assert_int_equal(dev_timers_create(&t.timers, NULL, NULL), 0);
	assert_int_equal(dev_irqchip_create(&t.chip, DEV_IRQCHIP_FULL, 0, &ops, &t, t.timers), 0);
	assert_int_equal(dev_pit_create(t.chip, 0), 0);
	for (unsigned i = 0; i < N_VCPUS; i++) {
		assert_int_equal(dev_lapic_create(&t.lapic[i], t.chip, i, i, i == 0), 0);
		dev_lapic_set_features(t.lapic[i], &features);
	}
	for (unsigned i = 0; i < N_THREADS; i++) {
		workers[i].t = &t;
		workers[i].r.s = 0x1234567 + i;
		assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	}
	for (unsigned i = 0; i < N_THREADS; i++)
		pthread_join(workers[i].thread, NULL);
	dev_lock(t.chip);
	check(&t);
	dev_unlock(t.chip);
	assert_true(atomic_load(&n_kicks) > 0);
	dev_irqchip_destroy(t.chip);		/* with timers still armed and perhaps firing */
	dev_timers_destroy(t.timers);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		{ "random guests and clients break no invariant", test_random_steps, NULL, NULL, NULL },
		{ "several threads and the real clock", test_threads, NULL, NULL, NULL },
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
