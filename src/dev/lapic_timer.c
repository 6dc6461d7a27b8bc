/* SPDX-License-Identifier: MIT */
/*
 * The LAPIC timer. Nothing counts: TMCCT is computed from the target time. States:
 *   stopped     target_ns == 0 and tsc_deadline == 0; host timer cancelled
 *   counting    target_ns != 0, one-shot or periodic; host timer armed at target_ns
 *   deadline    tsc_deadline != 0, only in TSC-deadline mode; host timer armed at about that time
 * A host callback that comes late or early finds out by looking at the state. TMCCT rounds up, so 0 means expired.
 * Source: Intel SDM vol. 3 "APIC Timer", "TSC-Deadline Mode".
 */
#include "dev/irqchip_private.h"

#define LVTT_MODE_SHIFT	17

enum timer_mode { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_DEADLINE, TIMER_RESERVED };

static enum timer_mode mode_of(uint32_t lvtt)
{
	return (enum timer_mode)(lvtt >> LVTT_MODE_SHIFT & 3);
}

static bool is_deadline(const struct dev_lapic *l) { return mode_of(l->regs[APIC_LVTT]) == TIMER_DEADLINE; }
static bool is_periodic(const struct dev_lapic *l) { return mode_of(l->regs[APIC_LVTT]) == TIMER_PERIODIC; }

/* TDCR bits 3,1,0 are n: divide by 2^(n+1), and 7 means by 1. At most 2^7 * bus_cycle_ns, see dev_irqchip_set_bus_cycle_ns. */
static uint64_t tick_ns(const struct dev_lapic *l)
{
	uint32_t tdcr = l->regs[APIC_TDCR];
	uint32_t n = (tdcr & 3) | (tdcr & 8) >> 1;

	return l->chip->bus_cycle_ns << ((n + 1) & 7);
}

static void stop_counting(struct dev_lapic *l)
{
	l->target_ns = 0;
	l->period_ns = 0;
	dev_timer_cancel(l->chip->timers, &l->timer);
}

void lapic_timer_stop(struct dev_lapic *l)
{
	stop_counting(l);
	l->tsc_deadline = 0;
	l->regs[APIC_TMICT] = 0;
}

static void set_period(struct dev_lapic *l)
{
	l->period_ns = l->regs[APIC_TMICT] * tick_ns(l);
	if (is_periodic(l) && l->period_ns && l->period_ns < DEV_MIN_PERIOD_NS)
		l->period_ns = DEV_MIN_PERIOD_NS;
}

static void count_until(struct dev_lapic *l, uint64_t target_ns)
{
	l->target_ns = target_ns;
	dev_timer_arm(l->chip->timers, &l->timer, target_ns);
}

void lapic_timer_write_count(struct dev_lapic *l, uint32_t count)
{
	if (is_deadline(l))
		return;
	stop_counting(l);
	l->regs[APIC_TMICT] = count;
	set_period(l);
	if (l->period_ns)
		count_until(l, dev_timers_now(l->chip->timers) + l->period_ns);
}

/* What remains is kept in ticks, so that it takes as much longer or shorter as the new divider says. */
void lapic_timer_write_divider(struct dev_lapic *l, uint32_t value)
{
	uint32_t left = lapic_timer_current(l);

	l->regs[APIC_TDCR] = value;
	if (!l->target_ns || !left)
		return;
	set_period(l);
	count_until(l, dev_timers_now(l->chip->timers) + left * tick_ns(l));
}

uint32_t lapic_timer_current(const struct dev_lapic *l)
{
	uint64_t now = dev_timers_now(l->chip->timers), left, tick = tick_ns(l);

	if (!l->target_ns)
		return 0;
	if (l->target_ns > now)
		left = l->target_ns - now;
	else if (is_periodic(l))	/* already in a next period, only the host's callback is late */
		left = l->period_ns - (now - l->target_ns) % l->period_ns;
	else
		return 0;
	left = (left < l->period_ns ? left : l->period_ns) + tick - 1;
	left /= tick;
	return left < l->regs[APIC_TMICT] ? (uint32_t)left : l->regs[APIC_TMICT];
}

/* Periods that were missed are lost, as a masked or pending vector would lose them. */
static void count_expired(struct dev_lapic *l, uint64_t now)
{
	if (is_periodic(l)) {
		uint64_t n_missed;

		set_period(l);	/* it may have been counted as one-shot, which has no minimum */
		n_missed = (now - l->target_ns) / l->period_ns;
		count_until(l, l->target_ns + (n_missed + 1) * l->period_ns);
	} else {
		l->target_ns = 0;
	}
	lapic_deliver_local(l, APIC_LVTT);
}

void lapic_timer_write_lvt(struct dev_lapic *l, uint32_t value)
{
	uint32_t mask = APIC_LVT_MASKED | 0xff | 1u << LVTT_MODE_SHIFT;
	bool was_deadline = is_deadline(l);
	uint64_t now = dev_timers_now(l->chip->timers);

	/* What is over is over by the old mode's rules, though the host's callback be late. */
	if (l->target_ns && l->target_ns <= now)
		count_expired(l, now);
	if (l->features.has_tsc_deadline)
		mask |= 2u << LVTT_MODE_SHIFT;
	value &= mask;
	if (!lapic_is_sw_enabled(l))
		value |= APIC_LVT_MASKED;
	l->regs[APIC_LVTT] = value;
	if (is_deadline(l) != was_deadline)
		lapic_timer_stop(l);
}

/* Returns false when the deadline has passed. */
static bool arm_deadline(struct dev_lapic *l)
{
	uint64_t tsc = l->chip->ops->read_tsc(l->chip->opaque, l->index);
	unsigned __int128 ns;

	if (tsc >= l->tsc_deadline)
		return false;
	ns = (unsigned __int128)(l->tsc_deadline - tsc) * 1000000 / l->tsc_khz + 1;
	if (ns > 1ull << 61)
		ns = 1ull << 61;
	dev_timer_arm(l->chip->timers, &l->timer, dev_timers_now(l->chip->timers) + (uint64_t)ns);
	return true;
}

void lapic_timer_rearm_deadline(struct dev_lapic *l)
{
	if (!l->tsc_deadline || arm_deadline(l))
		return;
	l->tsc_deadline = 0;
	dev_timer_cancel(l->chip->timers, &l->timer);
	lapic_deliver_local(l, APIC_LVTT);
}

void lapic_timer_write_deadline(struct dev_lapic *l, uint64_t tsc)
{
	if (!lapic_is_hw_enabled(l) || !is_deadline(l))
		return;
	l->tsc_deadline = tsc;
	if (tsc)
		lapic_timer_rearm_deadline(l);
	else
		dev_timer_cancel(l->chip->timers, &l->timer);
}

uint64_t lapic_timer_read_deadline(const struct dev_lapic *l)
{
	return lapic_is_hw_enabled(l) && is_deadline(l) ? l->tsc_deadline : 0;
}

void lapic_timer_fn(struct dev_timer *timer, uint64_t now_ns)
{
	struct dev_lapic *l = container_of(timer, struct dev_lapic, timer);

	dev_lock(l->chip);
	if (is_deadline(l))
		lapic_timer_rearm_deadline(l);	/* too early by the clocks' difference: once more */
	else if (l->target_ns && l->target_ns <= now_ns)
		count_expired(l, now_ns);
	else if (l->target_ns)
		dev_timer_arm(l->chip->timers, timer, l->target_ns);
	dev_unlock(l->chip);
}

/* After the registers were replaced: TMICT and LVTT are in place, @current is the TMCCT that was saved. */
void lapic_timer_restore(struct dev_lapic *l, uint32_t current)
{
	uint64_t left_ns;

	stop_counting(l);
	if (is_deadline(l)) {
		lapic_timer_rearm_deadline(l);
		return;
	}
	l->tsc_deadline = 0;
	set_period(l);
	left_ns = current * tick_ns(l);
	if (is_periodic(l) && !left_ns)
		left_ns = l->period_ns;
	if (left_ns > l->period_ns)
		left_ns = l->period_ns;
	if (left_ns)
		count_until(l, dev_timers_now(l->chip->timers) + left_ns);
}

void dev_lapic_set_tsc_khz(struct dev_lapic *l, uint32_t khz)
{
	dev_lock(l->chip);
	l->tsc_khz = khz ? khz : 1;
	lapic_timer_rearm_deadline(l);
	dev_unlock(l->chip);
}

void dev_lapic_tsc_moved(struct dev_lapic *l)
{
	dev_lock(l->chip);
	lapic_timer_rearm_deadline(l);
	dev_unlock(l->chip);
}
