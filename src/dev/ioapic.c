/* SPDX-License-Identifier: MIT */
/*
 * The IOAPIC. An edge is sent when the line rises and the entry is open; a level when the line is high and no EOI is owed
 * (remote IRR clear), and again at EOI while it stays high.
 * Source: Intel 82093AA data sheet; SDM vol. 3 "Signaling Interrupt Servicing Completion". KVM's rules kept: polarity is
 * ignored (lines are logical), an edge while masked is lost, writing an edge configuration clears remote IRR.
 *
 * Entry bits:  63:56 destination | 16 mask | 15 level | 14 remote IRR | 13 polarity | 12 busy | 11 logical | 10:8 mode | 7:0 vector
 */
#include <errno.h>
#include <string.h>

#include "dev/irqchip_private.h"

#define REDIR_LOGICAL		BIT64(11)
#define REDIR_BUSY		BIT64(12)
#define REDIR_REMOTE_IRR	BIT64(14)
#define REDIR_LEVEL		BIT64(15)
#define REDIR_MASKED		BIT64(16)
#define REDIR_READ_ONLY		(REDIR_BUSY | REDIR_REMOTE_IRR)

#define BASE_DEFAULT		0xfec00000ull
#define WINDOW_SIZE		0x100
#define VERSION			(0x11u | (DEV_IOAPIC_PINS - 1) << 16)
#define STORM_LIMIT		10000
#define STORM_PAUSE_NS		10000000ull

static bool is_level(uint64_t entry) { return entry & REDIR_LEVEL; }

static struct dev_msg message_of(uint64_t entry)
{
	return (struct dev_msg){
		.dest = (uint32_t)(entry >> 56),
		.vector = (uint8_t)entry,
		.mode = (enum dev_delivery)(entry >> 8 & 7),
		.is_logical = entry & REDIR_LOGICAL,
		.is_level = is_level(entry),
		.is_assert = true,
	};
}

/* Send the pin's message if it may be sent. Result as dev_irq_set_line. */
static int service(struct dev_irqchip *chip, unsigned pin, bool want_status)
{
	struct dev_ioapic *io = &chip->ioapic;
	uint64_t entry = io->redir[pin];
	struct dev_msg msg = message_of(entry);
	int result;

	if ((entry & REDIR_MASKED) || (is_level(entry) && (entry & REDIR_REMOTE_IRR)))
		return -1;
	if (!is_level(entry))
		io->delivered |= BIT(pin);
	msg.is_rtc = pin == DEV_IOAPIC_RTC_PIN && want_status;
	result = dev_msg_deliver(chip, NULL, &msg);
	/* Nobody took it: no EOI will come, so none is owed. */
	if (result > 0 && is_level(entry))
		io->redir[pin] |= REDIR_REMOTE_IRR;
	return result;
}

static int line_changed(struct dev_irqchip *chip, unsigned pin, bool want_status)
{
	struct dev_ioapic *io = &chip->ioapic;
	bool was_high = io->irr & BIT(pin);

	if (!io->line_sources[pin]) {
		io->irr &= ~BIT(pin);
		return 1;
	}
	if (pin == DEV_IOAPIC_RTC_PIN && want_status && io->n_rtc_pending)
		return 0;
	io->irr |= BIT(pin);
	if (!is_level(io->redir[pin])) {
		io->delivered &= ~BIT(pin);
		if (was_high)
			return 0;
	}
	return service(chip, pin, want_status);
}

int dev_ioapic_set_line(struct dev_irqchip *chip, unsigned pin, enum dev_irq_source source, bool level, bool want_status)
{
	uint32_t *sources = &chip->ioapic.line_sources[pin];

	*sources = level ? *sources | BIT(source) : *sources & ~BIT(source);
	return line_changed(chip, pin, want_status);
}

/* --- EOI --------------------------------------------------------------------------------------------------------- */

static void storm_timer_fn(struct dev_timer *timer, uint64_t now_ns)
{
	struct dev_ioapic *io = container_of(timer, struct dev_ioapic, storm_timer);
	struct dev_irqchip *chip = container_of(io, struct dev_irqchip, ioapic);

	dev_lock(chip);
	for (unsigned pin = 0; pin < DEV_IOAPIC_PINS; pin++) {
		if (is_level(io->redir[pin]) && (io->irr & BIT(pin)))
			service(chip, pin, false);
	}
	dev_unlock(chip);
}

/* A device that holds its line high whatever its driver does must not keep the vCPU from ever running anything else. */
static void redeliver(struct dev_irqchip *chip, unsigned pin)
{
	struct dev_ioapic *io = &chip->ioapic;

	if (!(io->irr & BIT(pin))) {
		io->n_redelivered[pin] = 0;
		return;
	}
	if (++io->n_redelivered[pin] < STORM_LIMIT) {
		service(chip, pin, false);
		return;
	}
	io->n_redelivered[pin] = 0;
	dev_timer_arm(chip->timers, &io->storm_timer, dev_timers_now(chip->timers) + STORM_PAUSE_NS);
}

void dev_ioapic_eoi(struct dev_irqchip *chip, struct dev_lapic *l, uint8_t vector, bool was_level)
{
	struct dev_ioapic *io = &chip->ioapic;

	if (l->rtc_vector == vector) {
		l->rtc_vector = -1;
		io->n_rtc_pending--;
	}
	for (unsigned pin = 0; pin < DEV_IOAPIC_PINS; pin++) {
		if ((uint8_t)io->redir[pin] != vector)
			continue;
		/* First, so that a resample irqfd can lower the line before it is looked at. */
		dev_irq_acked(chip, KVM_IRQCHIP_IOAPIC, pin);
		if (!was_level || !is_level(io->redir[pin]))
			continue;
		io->redir[pin] &= ~REDIR_REMOTE_IRR;
		redeliver(chip, pin);
	}
}

void dev_ioapic_rtc_restore(struct dev_irqchip *chip)
{
	struct dev_msg msg = message_of(chip->ioapic.redir[DEV_IOAPIC_RTC_PIN]);

	chip->ioapic.n_rtc_pending = 0;
	for (unsigned i = 0; i < chip->n_lapics; i++) {
		struct dev_lapic *l = chip->lapic[i];

		if (!l)
			continue;
		l->rtc_vector = -1;
		if (!dev_msg_matches(chip, NULL, l, &msg))
			continue;
		if (!lapic_test(l, APIC_IRR, msg.vector) && !lapic_test(l, APIC_ISR, msg.vector))
			continue;
		l->rtc_vector = msg.vector;
		chip->ioapic.n_rtc_pending++;
	}
}

/* --- registers --------------------------------------------------------------------------------------------------- */

static void write_entry(struct dev_irqchip *chip, unsigned pin, bool is_high, uint32_t value)
{
	struct dev_ioapic *io = &chip->ioapic;
	uint64_t old = io->redir[pin], entry;

	if (is_high)
		entry = (old & 0xffffffffull) | (uint64_t)value << 32;
	else
		entry = (old & ~0xffffffffull) | value;
	entry = (entry & ~REDIR_READ_ONLY) | (old & REDIR_READ_ONLY);
	if (!is_level(entry))
		entry &= ~REDIR_REMOTE_IRR;
	io->redir[pin] = entry;
	if ((old & REDIR_MASKED) && !(entry & REDIR_MASKED))
		dev_irq_unmasked(chip, KVM_IRQCHIP_IOAPIC, pin);
	if (is_level(entry) && (io->irr & BIT(pin)) && !(entry & (REDIR_MASKED | REDIR_REMOTE_IRR))) {
		/* The resampled device may have gone quiet while this was masked: ask it first. */
		dev_irq_acked(chip, KVM_IRQCHIP_IOAPIC, pin);
		if (io->irr & BIT(pin))
			service(chip, pin, false);
	}
}

static void write_window(struct dev_irqchip *chip, uint32_t value)
{
	uint32_t select = chip->ioapic.select;

	if (select == 0)
		chip->ioapic.id = value >> 24 & 15;
	else if (select >= 0x10 && select < 0x10 + 2 * DEV_IOAPIC_PINS)
		write_entry(chip, (select - 0x10) / 2, select & 1, value);
}

static uint32_t read_window(const struct dev_ioapic *io)
{
	uint32_t select = io->select;

	if (select == 1)
		return VERSION;
	if (select == 0 || select == 2)
		return (io->id & 15) << 24;
	if (select >= 0x10 && select < 0x10 + 2 * DEV_IOAPIC_PINS)
		return (uint32_t)(io->redir[(select - 0x10) / 2] >> (select & 1 ? 32 : 0));
	return 0;
}

bool dev_ioapic_mmio(struct dev_irqchip *chip, uint64_t gpa, unsigned len, void *data, bool is_write)
{
	struct dev_ioapic *io = &chip->ioapic;
	uint64_t offset = gpa - io->base, value = 0;

	if (gpa < io->base || offset >= WINDOW_SIZE)
		return false;
	if (!is_write) {
		if (offset == 0)
			value = io->select;
		else if (offset == 0x10)
			value = read_window(io);
		memcpy(data, &value, len < 8 ? len : 8);
		return true;
	}
	memcpy(&value, data, len < 4 ? len : 4);
	if (offset == 0)
		io->select = (uint8_t)value;
	else if (offset == 0x10)
		write_window(chip, (uint32_t)value);
	return true;
}

/* --- state ------------------------------------------------------------------------------------------------------- */

void dev_ioapic_reset(struct dev_irqchip *chip)
{
	struct dev_ioapic *io = &chip->ioapic;

	memset(io, 0, sizeof(*io));
	io->base = BASE_DEFAULT;
	for (unsigned pin = 0; pin < DEV_IOAPIC_PINS; pin++)
		io->redir[pin] = REDIR_MASKED;
	dev_timer_init(&io->storm_timer, storm_timer_fn);
}

void dev_ioapic_get(const struct dev_ioapic *io, struct kvm_ioapic_state *state)
{
	memset(state, 0, sizeof(*state));
	state->base_address = io->base;
	state->ioregsel = io->select;
	state->id = io->id;
	state->irr = io->irr & ~io->delivered;
	for (unsigned pin = 0; pin < DEV_IOAPIC_PINS; pin++)
		state->redirtbl[pin].bits = io->redir[pin];
}

void dev_ioapic_set(struct dev_irqchip *chip, const struct kvm_ioapic_state *state)
{
	struct dev_ioapic *io = &chip->ioapic;

	io->base = state->base_address;
	io->select = (uint8_t)state->ioregsel;
	io->id = state->id & 15;
	for (unsigned pin = 0; pin < DEV_IOAPIC_PINS; pin++)
		io->redir[pin] = state->redirtbl[pin].bits;
	io->irr = 0;
	io->delivered = 0;
	dev_ioapic_rtc_restore(chip);
	/* What was raised and not sent is sent now; the lines themselves are raised again by their devices. */
	for (unsigned pin = 0; pin < DEV_IOAPIC_PINS; pin++) {
		if (!(state->irr & BIT(pin)))
			continue;
		io->irr |= BIT(pin);
		service(chip, pin, false);
	}
}
