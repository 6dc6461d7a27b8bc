/* SPDX-License-Identifier: MIT */
/*
 * The LAPIC's registers as a guest reaches them: the xAPIC page and the x2APIC MSRs, over one table of who may do what.
 * Source: Intel SDM vol. 3 "Local APIC Register Address Map" and "x2APIC Register Address Space"; where KVM is more lenient
 * than silicon (no ESR errors, wide masks) KVM's behaviour is kept.
 */
#include <errno.h>
#include <string.h>

#include "dev/irqchip_private.h"

#define ICR_BUSY		0x1000u
#define X2_ICR_RESERVED		0xfff32000u	/* bits 31:20, 17:16, 13 */
#define LVT_BASIC		(APIC_LVT_MASKED | 0xffu)
#define LVT_MODE_MASK		(LVT_BASIC | APIC_LVT_MODE)
#define LVT_LINT_MASK		(LVT_MODE_MASK | 0xa000u)	/* polarity and trigger; 12 and 14 are read-only */

#define MSR_APIC_BASE		0x1b
#define MSR_TSC_DEADLINE	0x6e0
#define MSR_X2APIC_FIRST	0x800
#define MSR_X2APIC_LAST		0x8ff

enum { RX = 1, WX = 2, R2 = 4, W2 = 8, RWX = RX | WX, RW2 = R2 | W2, R = RX | R2, RW = RWX | RW2, CMCI = 16 };

static const struct reg_row {
	uint8_t access;
	uint32_t lvt_mask;	/* not 0: an LVT entry */
} rows[APIC_N_REGS] = {
	[APIC_ID] = { RWX | R2 },
	[APIC_LVR] = { R },
	[APIC_TPR] = { RW },
	[APIC_APR] = { RX },
	[APIC_PPR] = { R },
	[APIC_EOI] = { WX | W2 },
	[APIC_LDR] = { RWX | R2 },
	[APIC_DFR] = { RWX },
	[APIC_SPIV] = { RW },
	[APIC_ISR ... APIC_ISR + 7] = { R },
	[APIC_TMR ... APIC_TMR + 7] = { R },
	[APIC_IRR ... APIC_IRR + 7] = { R },
	[APIC_ESR] = { RW },
	[APIC_LVTCMCI] = { RW | CMCI, LVT_MODE_MASK },
	[APIC_ICR] = { RW },
	[APIC_ICR2] = { RWX },
	[APIC_LVTT] = { RW, LVT_BASIC },
	[APIC_LVTTHMR] = { RW, LVT_MODE_MASK },
	[APIC_LVTPC] = { RW, LVT_MODE_MASK },
	[APIC_LVT0] = { RW, LVT_LINT_MASK },
	[APIC_LVT1] = { RW, LVT_LINT_MASK },
	[APIC_LVTERR] = { RW, LVT_BASIC },
	[APIC_TMICT] = { RW },
	[APIC_TMCCT] = { R },
	[APIC_TDCR] = { RW },
	[APIC_SELF_IPI] = { W2 },
};

static bool may(const struct dev_lapic *l, unsigned reg, unsigned access)
{
	if (reg >= APIC_N_REGS || !(rows[reg].access & access))
		return false;
	return !(rows[reg].access & CMCI) || l->features.has_cmci;
}

uint32_t lapic_version(const struct dev_lapic *l)
{
	uint32_t n_lvt = l->features.has_cmci ? 7 : 6;
	uint32_t v = 0x14 | (n_lvt - 1) << 16;

	/* Directed EOI needs an IOAPIC with an EOI register, which only the client's can have. */
	if (l->features.has_x2apic && l->chip->mode == DEV_IRQCHIP_SPLIT && l->chip->directed_eoi != DIRECTED_EOI_NONE)
		v |= APIC_LVR_DIRECTED_EOI;
	return v;
}

uint32_t lapic_x2_ldr(const struct dev_lapic *l)
{
	return (l->id >> 4) << 16 | BIT(l->id & 15);
}

static uint32_t read_reg(const struct dev_lapic *l, unsigned reg)
{
	switch (reg) {
	case APIC_PPR:
		return lapic_ppr(l);
	case APIC_TMCCT:
		return lapic_timer_current(l);
	default:
		return l->regs[reg];
	}
}

static void send_ipi(struct dev_lapic *l, uint32_t icr, uint32_t dest)
{
	struct dev_msg msg = {
		.dest = dest,
		.vector = (uint8_t)icr,
		.mode = (enum dev_delivery)(icr >> 8 & 7),
		.shorthand = (enum dev_shorthand)(icr >> 18 & 3),
		.is_logical = icr >> 11 & 1,
		.is_assert = icr >> 14 & 1,
		.is_level = icr >> 15 & 1,
	};

	dev_msg_deliver(l->chip, l, &msg);
}

static void write_lvt(struct dev_lapic *l, unsigned reg, uint32_t value)
{
	value &= rows[reg].lvt_mask;
	if (!lapic_is_sw_enabled(l))
		value |= APIC_LVT_MASKED;
	l->regs[reg] = value;
	if (reg == APIC_LVT0)
		dev_extint_update(l->chip);
}

static void write_spiv(struct dev_lapic *l, uint32_t value)
{
	uint32_t mask = 0x3ff;

	if (l->regs[APIC_LVR] & APIC_LVR_DIRECTED_EOI)
		mask |= APIC_SPIV_DIRECTED_EOI;
	l->regs[APIC_SPIV] = value & mask;
	if (value & APIC_SPIV_ENABLE)
		return;
	for (unsigned reg = 0; reg < APIC_N_REGS; reg++) {
		if (rows[reg].lvt_mask && may(l, reg, WX))
			l->regs[reg] |= APIC_LVT_MASKED;
	}
	dev_extint_update(l->chip);
}

/* The access is legal in the current mode; the value is 32 bits. -EINVAL only for x2APIC. */
static int write_reg(struct dev_lapic *l, unsigned reg, uint32_t value)
{
	switch (reg) {
	case APIC_ID:
		l->regs[reg] = value & 0xff000000;
		break;
	case APIC_TPR:
		l->regs[reg] = value & 0xff;
		break;
	case APIC_EOI:
		lapic_eoi(l);
		break;
	case APIC_LDR:
	case APIC_ICR2:
		l->regs[reg] = value & 0xff000000;
		break;
	case APIC_DFR:
		l->regs[reg] = value | 0x0fffffff;
		break;
	case APIC_SPIV:
		write_spiv(l, value);
		break;
	case APIC_ESR:
		if (lapic_is_x2(l) && value)
			return -EINVAL;
		break;	/* always reads 0: no error is ever raised */
	case APIC_ICR:
		l->regs[reg] = value & ~ICR_BUSY;
		send_ipi(l, value, l->regs[APIC_ICR2] >> 24);
		break;
	case APIC_LVTT:
		lapic_timer_write_lvt(l, value);
		break;
	case APIC_TMICT:
		lapic_timer_write_count(l, value);
		break;
	case APIC_TDCR:
		lapic_timer_write_divider(l, value & 0xb);
		break;
	case APIC_SELF_IPI:
		if (value & ~0xffu)
			return -EINVAL;
		send_ipi(l, value | DEV_SH_SELF << 18 | 1u << 14, 0);
		break;
	default:
		write_lvt(l, reg, value);
		break;
	}
	lapic_update(l);
	return 0;
}

void lapic_mmio(struct dev_lapic *l, unsigned offset, unsigned len, void *data, bool is_write)
{
	unsigned reg = offset >> 4, byte = offset & 15;
	uint32_t value;

	if (is_write) {
		if (len == 4 && byte == 0 && may(l, reg, WX)) {
			memcpy(&value, data, 4);
			write_reg(l, reg, value);
		}
		return;
	}
	memset(data, 0, len);
	if (byte + len > 4 || !may(l, reg, RX))
		return;
	value = read_reg(l, reg) >> (8 * byte);
	memcpy(data, &value, len);
}

static int write_x2_icr(struct dev_lapic *l, uint64_t value)
{
	if (value & X2_ICR_RESERVED)
		return -EINVAL;
	value &= ~(uint64_t)ICR_BUSY;
	l->regs[APIC_ICR] = (uint32_t)value;
	l->regs[APIC_ICR2] = (uint32_t)(value >> 32);
	send_ipi(l, (uint32_t)value, (uint32_t)(value >> 32));
	return 0;
}

static int read_x2(const struct dev_lapic *l, unsigned reg, uint64_t *value)
{
	if (!lapic_is_x2(l) || !may(l, reg, R2))
		return -EINVAL;
	*value = read_reg(l, reg);
	if (reg == APIC_ICR)
		*value |= (uint64_t)l->regs[APIC_ICR2] << 32;
	return 0;
}

static int write_x2(struct dev_lapic *l, unsigned reg, uint64_t value)
{
	if (!lapic_is_x2(l) || !may(l, reg, W2))
		return -EINVAL;
	if (reg == APIC_ICR)
		return write_x2_icr(l, value);
	if (value >> 32)
		return -EINVAL;
	return write_reg(l, reg, (uint32_t)value);
}

int dev_lapic_read_msr(struct dev_lapic *l, uint32_t msr, bool host, uint64_t *value)
{
	int err = 0;

	dev_lock(l->chip);
	if (msr == MSR_APIC_BASE)
		*value = lapic_base(l);
	else if (msr == MSR_TSC_DEADLINE)
		*value = lapic_timer_read_deadline(l);
	else if (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST)
		err = read_x2(l, msr - MSR_X2APIC_FIRST, value);
	else
		err = -EINVAL;
	dev_unlock(l->chip);
	return err;
}

int dev_lapic_write_msr(struct dev_lapic *l, uint32_t msr, bool host, uint64_t value)
{
	int err = 0;

	dev_lock(l->chip);
	if (msr == MSR_APIC_BASE)
		err = lapic_set_base(l, value, host);
	else if (msr == MSR_TSC_DEADLINE)
		lapic_timer_write_deadline(l, value);
	else if (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST)
		err = write_x2(l, msr - MSR_X2APIC_FIRST, value);
	else
		err = -EINVAL;
	dev_unlock(l->chip);
	return err;
}
