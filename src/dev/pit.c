/* SPDX-License-Identifier: MIT */
/*
 * The 8254 and the speaker port. See pit.h for what is computed and what ticks.
 * Source: Intel 8254 data sheet ("Mode Definitions", "Read-Back Command"); port 0x61 of the PC/AT. Reinjection policy: KVM's.
 *
 * Byte order of an access in progress (read_state, write_state, count_latched): LSB or MSB only, or WORD0 then WORD1.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dev/irqchip_private.h"

enum { RW_LSB = 1, RW_MSB = 2, RW_WORD0 = 3, RW_WORD1 = 4 };

#define MODE_NONE	0xff	/* no control word since power-on; KVM's value in saved state too */

static uint64_t now_ns(const struct dev_pit *pit)
{
	return dev_timers_now(pit->chip->timers);
}

static uint64_t ticks_to_ns(uint64_t ticks)
{
	return ticks * NSEC_PER_SEC / DEV_PIT_HZ;
}

/* Ticks since the count was loaded. */
static uint64_t elapsed(const struct dev_pit *pit, unsigned ch)
{
	int64_t ns = (int64_t)now_ns(pit) - pit->channel[ch].count_load_time;

	return ns <= 0 ? 0 : (uint64_t)((unsigned __int128)ns * DEV_PIT_HZ / NSEC_PER_SEC);
}

static uint16_t current_count(const struct dev_pit *pit, unsigned ch)
{
	const struct kvm_pit_channel_state *c = &pit->channel[ch];
	uint64_t d = elapsed(pit, ch);

	switch (c->mode) {
	case 0:
	case 1:
	case 4:
	case 5:
		return (uint16_t)(c->count - d);
	case 3:		/* counts down by two, twice per period */
		return (uint16_t)(c->count - 2 * d % c->count);
	default:
		return (uint16_t)(c->count - d % c->count);
	}
}

static bool output(const struct dev_pit *pit, unsigned ch)
{
	const struct kvm_pit_channel_state *c = &pit->channel[ch];
	uint64_t d = elapsed(pit, ch);

	switch (c->mode) {
	case 0:
		return d >= c->count;
	case 1:
		return d < c->count;
	case 2:
		return d % c->count == 0 && d != 0;
	case 3:
		return d % c->count < (c->count + 1) / 2;
	default:
		return d == c->count;
	}
}

/* --- channel 0: IRQ 0 -------------------------------------------------------------------------------------------- */

static void reset_reinject(struct dev_pit *pit)
{
	pit->n_owed = 0;
	pit->is_acked = true;
}

static void stop_ticking(struct dev_pit *pit)
{
	pit->next_ns = 0;
	pit->period_ns = 0;
	dev_timer_cancel(pit->chip->timers, &pit->timer);
}

static void start_ticking(struct dev_pit *pit)
{
	const struct kvm_pit_channel_state *c = &pit->channel[0];
	bool is_periodic = c->mode == 2 || c->mode == 3;
	bool is_one_shot = c->mode == 0 || c->mode == 1 || c->mode == 4;
	uint64_t ns = ticks_to_ns(c->count);

	stop_ticking(pit);
	if ((!is_periodic && !is_one_shot) || pit->is_hpet_legacy)
		return;
	reset_reinject(pit);
	if (is_periodic)
		pit->period_ns = ns = ns < DEV_MIN_PERIOD_NS ? DEV_MIN_PERIOD_NS : ns;
	pit->next_ns = now_ns(pit) + ns;
	dev_timer_arm(pit->chip->timers, &pit->timer, pit->next_ns);
}

/* One pulse, if the guest has acknowledged the one before. Without reinjection always. */
static void inject(struct dev_pit *pit)
{
	struct dev_irqchip *chip = pit->chip;

	if (pit->reinject) {
		if (!pit->is_acked)
			return;
		pit->is_acked = false;
	}
	dev_irq_set_line_locked(chip, DEV_IRQ_PIT, 0, true, false);
	dev_irq_set_line_locked(chip, DEV_IRQ_PIT, 0, false, false);
	/* The NMI watchdog of old: the PIT on LINT0 in NMI mode. */
	for (unsigned i = 0; i < chip->n_lapics; i++) {
		struct dev_lapic *l = chip->lapic[i];

		if (l && (l->regs[APIC_LVT0] & APIC_LVT_MODE) == (unsigned)DEV_DM_NMI << 8)
			lapic_deliver_local(l, APIC_LVT0);
	}
}

static void tick(struct dev_timer *timer, uint64_t now)
{
	struct dev_pit *pit = container_of(timer, struct dev_pit, timer);
	uint64_t n = 1;

	dev_lock(pit->chip);
	if (!pit->next_ns || pit->next_ns > now) {
		/* Stopped or reloaded while this callback was on its way. */
		if (pit->next_ns)
			dev_timer_arm(pit->chip->timers, timer, pit->next_ns);
		dev_unlock(pit->chip);
		return;
	}
	if (pit->period_ns) {
		n += (now - pit->next_ns) / pit->period_ns;
		pit->next_ns += n * pit->period_ns;
		dev_timer_arm(pit->chip->timers, timer, pit->next_ns);
	} else {
		pit->next_ns = 0;
	}
	if (pit->reinject)
		pit->n_owed = n > UINT32_MAX - pit->n_owed ? UINT32_MAX : pit->n_owed + (uint32_t)n;
	inject(pit);
	dev_unlock(pit->chip);
}

void dev_pit_acked(struct dev_pit *pit)
{
	if (!pit->reinject)
		return;
	pit->n_owed -= pit->n_owed > 0;
	pit->is_acked = true;
	if (pit->n_owed)
		inject(pit);
}

void dev_pit_unmasked(struct dev_pit *pit)
{
	reset_reinject(pit);
}

/* --- registers --------------------------------------------------------------------------------------------------- */

static void load_count(struct dev_pit *pit, unsigned ch, uint32_t count)
{
	struct kvm_pit_channel_state *c = &pit->channel[ch];

	c->count = count ? count : 0x10000;
	c->count_load_time = (int64_t)now_ns(pit);
	if (ch == 0)
		start_ticking(pit);
}

static void set_gate(struct dev_pit *pit, unsigned ch, bool gate)
{
	struct kvm_pit_channel_state *c = &pit->channel[ch];

	/* A rising gate restarts these modes. That a low gate holds modes 0 and 4 is not modelled. */
	if (gate && !c->gate && (c->mode == 1 || c->mode == 2 || c->mode == 3 || c->mode == 5))
		c->count_load_time = (int64_t)now_ns(pit);
	c->gate = gate;
}

static void latch_count(struct dev_pit *pit, unsigned ch)
{
	struct kvm_pit_channel_state *c = &pit->channel[ch];

	if (c->count_latched)
		return;
	c->latched_count = current_count(pit, ch);
	c->count_latched = c->rw_mode;
}

static void latch_status(struct dev_pit *pit, unsigned ch)
{
	struct kvm_pit_channel_state *c = &pit->channel[ch];

	if (c->status_latched)
		return;
	c->status = (uint8_t)(output(pit, ch) << 7 | c->rw_mode << 4 | (c->mode & 7) << 1 | c->bcd);
	c->status_latched = 1;
}

static void write_control(struct dev_pit *pit, uint8_t value)
{
	unsigned ch = value >> 6, access = value >> 4 & 3;
	struct kvm_pit_channel_state *c;

	if (ch == 3) {
		for (ch = 0; ch < 3; ch++) {
			if (!(value & BIT(ch + 1)))
				continue;
			if (!(value & 0x20))
				latch_count(pit, ch);
			if (!(value & 0x10))
				latch_status(pit, ch);
		}
		return;
	}
	if (!access) {
		latch_count(pit, ch);
		return;
	}
	c = &pit->channel[ch];
	c->rw_mode = c->read_state = c->write_state = (uint8_t)access;
	c->mode = value >> 1 & 7;
	if (c->mode > 5)
		c->mode -= 4;
	c->bcd = value & 1;
	/* Nothing counts until a count is written. */
	if (ch == 0)
		stop_ticking(pit);
}

static void write_channel(struct dev_pit *pit, unsigned ch, uint8_t value)
{
	struct kvm_pit_channel_state *c = &pit->channel[ch];

	switch (c->write_state) {
	case RW_LSB:
		load_count(pit, ch, value);
		break;
	case RW_MSB:
		load_count(pit, ch, (uint32_t)value << 8);
		break;
	case RW_WORD0:
		c->write_latch = value;
		c->write_state = RW_WORD1;
		break;
	case RW_WORD1:
		c->write_state = RW_WORD0;
		load_count(pit, ch, c->write_latch | (uint32_t)value << 8);
		break;
	default:
		break;	/* no control word yet */
	}
}

/* One byte of a count; *state moves on. */
static uint8_t next_byte(uint16_t count, uint8_t *state, uint8_t after_last)
{
	switch (*state) {
	case RW_WORD0:
		*state = RW_WORD1;
		return (uint8_t)count;
	case RW_WORD1:
		*state = after_last;
		return (uint8_t)(count >> 8);
	case RW_MSB:
		*state = after_last == RW_WORD0 ? RW_MSB : after_last;
		return (uint8_t)(count >> 8);
	default:
		*state = after_last == RW_WORD0 ? *state : after_last;
		return (uint8_t)count;
	}
}

static uint8_t read_channel(struct dev_pit *pit, unsigned ch)
{
	struct kvm_pit_channel_state *c = &pit->channel[ch];

	if (c->status_latched) {
		c->status_latched = 0;
		return c->status;
	}
	if (c->count_latched)
		return next_byte(c->latched_count, &c->count_latched, 0);
	return next_byte(current_count(pit, ch), &c->read_state, RW_WORD0);
}

static uint8_t read_speaker(const struct dev_pit *pit)
{
	/* Bit 4 toggles with each DRAM refresh, about every 15 us. */
	unsigned refresh = now_ns(pit) >> 14 & 1;

	return (uint8_t)(pit->channel[2].gate | pit->is_speaker_on << 1 | refresh << 4 | output(pit, 2) << 5);
}

bool dev_pit_pio(struct dev_pit *pit, uint16_t port, unsigned len, void *data, bool is_write)
{
	uint8_t *byte = data, value = len ? *byte : 0;
	bool is_speaker = port == 0x61 && len <= 4 && pit->is_speaker_claimed;

	if (!is_speaker && (port < 0x40 || port + len > 0x44))
		return false;
	if (is_write && is_speaker) {
		pit->is_speaker_on = value >> 1 & 1;
		set_gate(pit, 2, value & 1);
	} else if (is_write && port == 0x43) {
		write_control(pit, value);
	} else if (is_write) {
		write_channel(pit, port & 3, value);
	} else {
		memset(data, 0, len);
		if (is_speaker)
			*byte = read_speaker(pit);
		else if (port != 0x43)
			*byte = read_channel(pit, port & 3);
	}
	return true;
}

/* --- life and state ---------------------------------------------------------------------------------------------- */

static void reset(struct dev_pit *pit)
{
	for (unsigned ch = 0; ch < 3; ch++) {
		pit->channel[ch].mode = MODE_NONE;
		pit->channel[ch].gate = ch != 2;
		load_count(pit, ch, 0);
	}
	reset_reinject(pit);
}

int dev_pit_create(struct dev_irqchip *chip, uint32_t flags)
{
	struct dev_pit *pit;
	int err = 0;

	if (chip->mode != DEV_IRQCHIP_FULL)
		return -ENOENT;
	if (flags & ~(uint32_t)KVM_PIT_SPEAKER_DUMMY)
		return -EINVAL;
	pit = calloc(1, sizeof(*pit));
	if (!pit)
		return -ENOMEM;
	pit->chip = chip;
	pit->is_speaker_claimed = flags & KVM_PIT_SPEAKER_DUMMY;
	pit->reinject = true;
	dev_timer_init(&pit->timer, tick);
	dev_lock(chip);
	if (chip->pit) {
		err = -EEXIST;
	} else {
		chip->pit = pit;
		reset(pit);
	}
	dev_unlock(chip);
	if (err)
		free(pit);
	return err;
}

void dev_pit_destroy(struct dev_pit *pit)
{
	struct dev_irqchip *chip;

	if (!pit)
		return;
	chip = pit->chip;
	dev_lock(chip);
	stop_ticking(pit);
	chip->pit = NULL;
	dev_unlock(chip);
	dev_timer_cancel_sync(chip->timers, &pit->timer);
	free(pit);
}

static void get_channels(const struct dev_pit *pit, struct kvm_pit_channel_state *out)
{
	memcpy(out, pit->channel, sizeof(pit->channel));
}

/* The client's bytes become states the code above can be in. Loading restarts counting now, as KVM does. */
static void set_channels(struct dev_pit *pit, const struct kvm_pit_channel_state *in)
{
	for (unsigned ch = 0; ch < 3; ch++) {
		struct kvm_pit_channel_state c = in[ch];

		if (c.mode != MODE_NONE)
			c.mode = (c.mode & 7) > 5 ? (c.mode & 7) - 4 : c.mode & 7;
		c.rw_mode &= 3;
		c.bcd &= 1;
		c.gate = !!c.gate;
		c.status_latched = !!c.status_latched;
		c.count_latched = c.count_latched <= RW_WORD1 ? c.count_latched : 0;
		c.read_state = c.read_state <= RW_WORD1 ? c.read_state : 0;
		c.write_state = c.write_state <= RW_WORD1 ? c.write_state : 0;
		pit->channel[ch] = c;
		load_count(pit, ch, c.count <= 0x10000 ? c.count : 0);
	}
}

int dev_pit_get2(struct dev_irqchip *chip, struct kvm_pit_state2 *state)
{
	int err = 0;

	memset(state, 0, sizeof(*state));
	dev_lock(chip);
	if (chip->pit) {
		get_channels(chip->pit, state->channels);
		state->flags = (chip->pit->is_hpet_legacy ? KVM_PIT_FLAGS_HPET_LEGACY : 0) |
			       (chip->pit->is_speaker_on ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0);
	} else {
		err = -ENXIO;
	}
	dev_unlock(chip);
	return err;
}

int dev_pit_set2(struct dev_irqchip *chip, const struct kvm_pit_state2 *state)
{
	int err = 0;

	dev_lock(chip);
	if (chip->pit) {
		chip->pit->is_hpet_legacy = state->flags & KVM_PIT_FLAGS_HPET_LEGACY;
		chip->pit->is_speaker_on = state->flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON;
		set_channels(chip->pit, state->channels);
	} else {
		err = -ENXIO;
	}
	dev_unlock(chip);
	return err;
}

int dev_pit_get(struct dev_irqchip *chip, struct kvm_pit_state *state)
{
	int err = 0;

	memset(state, 0, sizeof(*state));
	dev_lock(chip);
	if (chip->pit)
		get_channels(chip->pit, state->channels);
	else
		err = -ENXIO;
	dev_unlock(chip);
	return err;
}

int dev_pit_set(struct dev_irqchip *chip, const struct kvm_pit_state *state)
{
	int err = 0;

	dev_lock(chip);
	if (chip->pit)
		set_channels(chip->pit, state->channels);
	else
		err = -ENXIO;
	dev_unlock(chip);
	return err;
}

int dev_pit_set_reinject(struct dev_irqchip *chip, bool reinject)
{
	int err = 0;

	dev_lock(chip);
	if (!chip->pit) {
		err = -ENXIO;
	} else if (chip->pit->reinject != reinject) {
		chip->pit->reinject = reinject;
		reset_reinject(chip->pit);
	}
	dev_unlock(chip);
	return err;
}
