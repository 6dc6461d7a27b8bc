/* SPDX-License-Identifier: MIT */
/* Results on port 0xe9. Knows no mode. */
#include "lib.h"

uint8_t failures;

void say(const char *s)
{
	while (*s)
		outb(0xe9, (uint8_t)*s++);
}

void say_hex(unsigned long v)
{
	bool started = false;

	say("0x");
	for (int i = (int)sizeof(v) * 8 - 4; i >= 0; i -= 4) {
		unsigned d = v >> i & 15;

		if (d || started || i == 0) {
			outb(0xe9, (uint8_t)(d < 10 ? '0' + d : 'a' + d - 10));
			started = true;
		}
	}
}

void row(const char *name, unsigned long got, unsigned long want)
{
	if (got == want) {
		say("ok - ");
		say(name);
	} else {
		say("not ok - ");
		say(name);
		say(" # got ");
		say_hex(got);
		say(", want ");
		say_hex(want);
		failures = 1;
	}
	say("\n");
}

void row_skip(const char *name, const char *why)
{
	say("ok - ");
	say(name);
	say(" # SKIP ");
	say(why);
	say("\n");
}

/* The compiler may call these. */
void *memset(void *p, int c, size_t n);
void *memcpy(void *to, const void *from, size_t n);

void *memset(void *p, int c, size_t n)
{
	void *r = p;

	__asm__ volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(c) : "memory");
	return r;
}

void *memcpy(void *to, const void *from, size_t n)
{
	void *r = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
	return r;
}
