/* SPDX-License-Identifier: MIT */
/*
 * Two 8259A, the slave on the master's pin 2. The slave's INT drops during its INTA cycle, so that a next request of the
 * slave is a new edge for the master.
 * Source: Intel 8259A data sheet (ICW1-4, OCW1-3, poll); ELCR of the PIIX. Level mode by ICW1 (LTIM), single mode (SNGL) and
 * the 8080 call mode are ignored, as PCs never use them.
 */
#include <errno.h>
#include <string.h>

#include "dev/irqchip_private.h"

#define NONE		8	/* no pin: lower than every priority */
#define CASCADE_PIN	2

static const uint8_t elcr_mask[2] = { 0xf8, 0xde };

void dev_pic_reset(struct dev_pic *pic)
{
	memset(pic, 0, sizeof(*pic));
	for (unsigned i = 0; i < 2; i++)
		pic->chip[i].elcr_mask = elcr_mask[i];
}

/* 0 highest ... 7 lowest, NONE for no bit. */
static unsigned priority_of(const struct kvm_pic_state *s, uint8_t pins)
{
	for (unsigned p = 0; p < 8; p++) {
		if (pins & BIT((p + s->priority_add) & 7))
			return p;
	}
	return NONE;
}

/* The pin that would interrupt now, or -1. */
static int pending_pin(const struct dev_pic *pic, unsigned which)
{
	const struct kvm_pic_state *s = &pic->chip[which];
	uint8_t blocking = s->isr;
	unsigned request = priority_of(s, s->irr & (uint8_t)~s->imr);

	if (s->special_mask)
		blocking &= (uint8_t)~s->imr;
	if (s->special_fully_nested_mode && which == 0)
		blocking &= (uint8_t)~BIT(CASCADE_PIN);
	if (request == NONE || request >= priority_of(s, blocking))
		return -1;
	return (int)((request + s->priority_add) & 7);
}

/* One pin's wire: edge or level sense into IRR. Result as dev_irq_set_line. */
static int drive_pin(struct kvm_pic_state *s, unsigned pin, bool level)
{
	uint8_t bit = (uint8_t)BIT(pin);
	bool is_edge = !(s->elcr & bit), was_high = s->last_irr & bit;
	int result = 1;

	if (level) {
		if (!is_edge || !was_high) {
			result = !(s->irr & bit);
			s->irr |= bit;
		}
		s->last_irr |= bit;
	} else {
		if (!is_edge)
			s->irr &= (uint8_t)~bit;
		s->last_irr &= (uint8_t)~bit;
	}
	return s->imr & bit ? -1 : result;
}

static void update(struct dev_irqchip *chip)
{
	struct dev_pic *pic = &chip->pic;
	bool output;

	drive_pin(&pic->chip[0], CASCADE_PIN, pending_pin(pic, 1) >= 0);
	output = pending_pin(pic, 0) >= 0;
	if (output == pic->output)
		return;
	pic->output = output;
	dev_extint_update(chip);
}

static void notify_acked(struct dev_irqchip *chip, unsigned which, uint8_t pins)
{
	for (unsigned pin = 0; pin < 8; pin++) {
		if (pins & BIT(pin))
			dev_irq_acked(chip, which, pin);
	}
}

static void end_of_interrupt(struct dev_irqchip *chip, unsigned which, unsigned pin)
{
	chip->pic.chip[which].isr &= (uint8_t)~BIT(pin);
	notify_acked(chip, which, (uint8_t)BIT(pin));
}

/* The INTA cycle of one chip. Returns whether it ended at once (automatic EOI). */
static bool intack(struct dev_pic *pic, unsigned which, unsigned pin)
{
	struct kvm_pic_state *s = &pic->chip[which];
	uint8_t bit = (uint8_t)BIT(pin);

	if (!(s->elcr & bit))
		s->irr &= (uint8_t)~bit;
	if (which == 1)
		drive_pin(&pic->chip[0], CASCADE_PIN, false);
	if (!s->auto_eoi) {
		s->isr |= bit;
		return false;
	}
	if (s->rotate_on_auto_eoi)
		s->priority_add = (pin + 1) & 7;
	return true;
}

uint8_t dev_pic_ack(struct dev_irqchip *chip)
{
	struct dev_pic *pic = &chip->pic;
	int pin = pending_pin(pic, 0), slave_pin = -1;
	uint8_t ended[2] = { 0, 0 }, vector;

	vector = pic->chip[0].irq_base + (uint8_t)(pin < 0 ? 7 : pin);
	if (pin >= 0 && intack(pic, 0, (unsigned)pin))
		ended[0] = (uint8_t)BIT((unsigned)pin);
	if (pin == CASCADE_PIN) {
		slave_pin = pending_pin(pic, 1);
		vector = pic->chip[1].irq_base + (uint8_t)(slave_pin < 0 ? 7 : slave_pin);
		if (slave_pin >= 0 && intack(pic, 1, (unsigned)slave_pin))
			ended[1] = (uint8_t)BIT((unsigned)slave_pin);
	}
	update(chip);
	/* Last: an acknowledgement may raise the line again. */
	notify_acked(chip, 0, ended[0]);
	notify_acked(chip, 1, ended[1]);
	return vector;
}

int dev_pic_set_line(struct dev_irqchip *chip, unsigned pin, enum dev_irq_source source, bool level)
{
	uint32_t *sources = &chip->pic.line_sources[pin];
	int result;

	if (pin == CASCADE_PIN)
		return -1;	/* its wire comes from the slave and nowhere else */
	*sources = level ? *sources | BIT(source) : *sources & ~BIT(source);
	result = drive_pin(&chip->pic.chip[pin >> 3], pin & 7, *sources != 0);
	update(chip);
	return result;
}

/* --- ports ------------------------------------------------------------------------------------------------------- */

static void write_icw1(struct dev_irqchip *chip, unsigned which, uint8_t value)
{
	struct kvm_pic_state *s = &chip->pic.chip[which];
	uint8_t dropped = s->isr | (s->irr & (uint8_t)~s->elcr);

	s->init4 = value & 1;
	s->last_irr = 0;
	s->irr &= s->elcr;
	s->imr = 0;
	s->isr = 0;
	s->priority_add = 0;
	s->special_mask = 0;
	s->read_reg_select = 0;
	s->poll = 0;
	if (!s->init4) {
		s->special_fully_nested_mode = 0;
		s->auto_eoi = 0;
	}
	s->init_state = 1;
	update(chip);
	/* Nobody will EOI these any more; whoever waits must not wait forever. */
	notify_acked(chip, which, dropped);
}

static void write_ocw2(struct dev_irqchip *chip, unsigned which, uint8_t value)
{
	struct kvm_pic_state *s = &chip->pic.chip[which];
	unsigned command = value >> 5, pin = value & 7;
	bool rotate = command & 4;

	switch (command) {
	case 0:
	case 4:
		s->rotate_on_auto_eoi = rotate;
		return;
	case 1:
	case 5:		/* non-specific EOI */
		if (!s->isr)
			return;
		pin = (priority_of(s, s->isr) + s->priority_add) & 7;
		break;
	case 6:		/* set priority */
		s->priority_add = (pin + 1) & 7;
		update(chip);
		return;
	case 3:
	case 7:		/* specific EOI */
		break;
	default:
		return;
	}
	if (rotate)
		s->priority_add = (pin + 1) & 7;
	end_of_interrupt(chip, which, pin);
	update(chip);
}

static void write_ocw3(struct kvm_pic_state *s, uint8_t value)
{
	if (value & 4)
		s->poll = 1;
	if (value & 2)
		s->read_reg_select = value & 1;
	if (value & 0x40)
		s->special_mask = value >> 5 & 1;
}

static void write_ocw1(struct dev_irqchip *chip, unsigned which, uint8_t value)
{
	struct kvm_pic_state *s = &chip->pic.chip[which];
	uint8_t unmasked = s->imr & (uint8_t)~value;

	s->imr = value;
	for (unsigned pin = 0; pin < 8; pin++) {
		if (unmasked & BIT(pin))
			dev_irq_unmasked(chip, which, pin);
	}
	update(chip);
}

static void write_data(struct dev_irqchip *chip, unsigned which, uint8_t value)
{
	struct kvm_pic_state *s = &chip->pic.chip[which];

	switch (s->init_state) {
	case 0:
		write_ocw1(chip, which, value);
		break;
	case 1:		/* ICW2 */
		s->irq_base = value & 0xf8;
		s->init_state = 2;
		break;
	case 2:		/* ICW3: the wiring is fixed */
		s->init_state = s->init4 ? 3 : 0;
		break;
	default:	/* ICW4 */
		s->special_fully_nested_mode = value >> 4 & 1;
		s->auto_eoi = value >> 1 & 1;
		s->init_state = 0;
		break;
	}
}

static void write_port(struct dev_irqchip *chip, unsigned which, bool is_data, uint8_t value)
{
	if (is_data)
		write_data(chip, which, value);
	else if (value & 0x10)
		write_icw1(chip, which, value);
	else if (value & 0x08)
		write_ocw3(&chip->pic.chip[which], value);
	else
		write_ocw2(chip, which, value);
}

/* A poll is an INTA cycle that answers with the pin instead of a vector. */
static uint8_t poll(struct dev_irqchip *chip, unsigned which)
{
	int pin = pending_pin(&chip->pic, which);

	chip->pic.chip[which].poll = 0;
	if (pin < 0)
		return 0;
	if (intack(&chip->pic, which, (unsigned)pin))
		notify_acked(chip, which, (uint8_t)BIT((unsigned)pin));
	update(chip);
	return (uint8_t)(0x80 | pin);
}

static uint8_t read_port(struct dev_irqchip *chip, unsigned which, bool is_data)
{
	const struct kvm_pic_state *s = &chip->pic.chip[which];

	if (s->poll)
		return poll(chip, which);
	if (is_data)
		return s->imr;
	return s->read_reg_select ? s->isr : s->irr;
}

bool dev_pic_pio(struct dev_irqchip *chip, uint16_t port, unsigned len, void *data, bool is_write)
{
	static const struct { uint16_t port; uint8_t n, which; bool is_elcr; } ports[] = {
		{ 0x20, 2, 0, false }, { 0xa0, 2, 1, false }, { 0x4d0, 1, 0, true }, { 0x4d1, 1, 1, true },
	};
	uint8_t *byte = data;

	for (unsigned i = 0; i < ARRAY_SIZE(ports); i++) {
		struct kvm_pic_state *s = &chip->pic.chip[ports[i].which];

		if (port < ports[i].port || port + len > (unsigned)ports[i].port + ports[i].n)
			continue;
		if (len != 1) {
			/* Claimed but not obeyed, as in KVM. */
			if (!is_write)
				memset(data, 0, len);
		} else if (!ports[i].is_elcr && is_write) {
			write_port(chip, ports[i].which, port & 1, *byte);
		} else if (!ports[i].is_elcr) {
			*byte = read_port(chip, ports[i].which, port & 1);
		} else if (is_write) {
			s->elcr = *byte & elcr_mask[ports[i].which];
		} else {
			*byte = s->elcr;
		}
		return true;
	}
	return false;
}

/* --- state ------------------------------------------------------------------------------------------------------- */

void dev_pic_get(const struct dev_pic *pic, unsigned which, struct kvm_pic_state *state)
{
	*state = pic->chip[which];
}

void dev_pic_set(struct dev_irqchip *chip, unsigned which, const struct kvm_pic_state *state)
{
	struct kvm_pic_state s = *state;

	s.elcr_mask = elcr_mask[which];
	s.elcr &= s.elcr_mask;
	s.priority_add &= 7;
	s.irq_base &= 0xf8;
	s.init_state &= 3;
	chip->pic.chip[which] = s;
	update(chip);
}
