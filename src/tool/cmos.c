/* SPDX-License-Identifier: MIT */
/* See cmos.h. Registers after the MC146818A data sheet; 0x32 holds the century (FADT says so). */
#include "cmos.h"

#include <stdbool.h>
#include <stddef.h>

enum {
	REG_SECOND = 0, REG_MINUTE = 2, REG_HOUR = 4, REG_WEEKDAY = 6, REG_DAY = 7, REG_MONTH = 8, REG_YEAR = 9,
	REG_A = 10, REG_B = 11, REG_C = 12, REG_D = 13, REG_CENTURY = 0x32,
};

#define A_32KHZ_1024HZ	0x26u
#define B_24_HOURS	0x02u
#define B_BINARY	0x04u
#define D_VALID		0x80u
#define HOUR_PM		0x80u

void cmos_init(struct cmos *c)
{
	*c = (struct cmos){ .index = 0 };
	pthread_mutex_init(&c->lock, NULL);
	c->bytes[REG_A] = A_32KHZ_1024HZ;
	c->bytes[REG_B] = B_24_HOURS;
}

static uint8_t encode(const struct cmos *c, int value)
{
	return (uint8_t)(c->bytes[REG_B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static uint8_t hour(const struct cmos *c, int h)
{
	if (c->bytes[REG_B] & B_24_HOURS)
		return encode(c, h);
	return (uint8_t)(encode(c, h % 12 ? h % 12 : 12) | (h >= 12 ? HOUR_PM : 0));
}

uint8_t cmos_register(const struct cmos *c, unsigned index, const struct tm *now)
{
	switch (index) {
	case REG_SECOND:
		return encode(c, now->tm_sec > 59 ? 59 : now->tm_sec);
	case REG_MINUTE:
		return encode(c, now->tm_min);
	case REG_HOUR:
		return hour(c, now->tm_hour);
	case REG_WEEKDAY:
		return encode(c, now->tm_wday + 1);
	case REG_DAY:
		return encode(c, now->tm_mday);
	case REG_MONTH:
		return encode(c, now->tm_mon + 1);
	case REG_YEAR:
		return encode(c, now->tm_year % 100);
	case REG_CENTURY:
		return encode(c, 19 + now->tm_year / 100);
	case REG_C:
		return 0;
	case REG_D:
		return D_VALID;
	default:
		/* Register A's "update in progress" is never set: every read is consistent in itself. */
		return c->bytes[index & 0x7f];
	}
}

static void cmos_read(void *device, uint64_t offset, uint8_t *data, unsigned len)
{
	struct cmos *c = device;
	time_t t = time(NULL);
	struct tm now;

	(void)len;
	gmtime_r(&t, &now);
	pthread_mutex_lock(&c->lock);
	data[0] = offset == 1 ? cmos_register(c, c->index, &now) : 0xff;
	pthread_mutex_unlock(&c->lock);
}

static void cmos_write(void *device, uint64_t offset, const uint8_t *data, unsigned len)
{
	struct cmos *c = device;

	(void)len;
	pthread_mutex_lock(&c->lock);
	if (offset == 0)
		c->index = data[0] & 0x7f;	/* bit 7 masks NMI on a PC */
	else if (c->index == REG_A)
		c->bytes[REG_A] = data[0] & 0x7f;
	else
		c->bytes[c->index] = data[0];
	pthread_mutex_unlock(&c->lock);
}

const struct bus_ops cmos_ops = { "cmos", cmos_read, cmos_write };
