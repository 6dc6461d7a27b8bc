/* SPDX-License-Identifier: MIT */
/* Integer work: registers, division, carries, tables, sorting, calls, indirect branches, hashing, code that rewrites itself. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

static uint64_t alu(uint64_t n)
{
	uint64_t a = 1, b = 0x123456789abcdefull;

	for (uint64_t i = 0; i < n; i++) {
		a += b ^ i;
		b = (b << 7 | b >> 57) - a;
		a ^= b >> 3;
	}
	return a ^ b;
}

static uint64_t divide(uint64_t n)
{
	uint64_t a = ~0ull, s = 0;

	for (uint64_t i = 1; i <= n; i++) {
		s += a / (i | 0x10001);
		a -= s;
	}
	return s;
}

/* Multi-word addition: the carry chain goes through memory. */
static uint64_t adc(uint64_t n)
{
	static uint64_t x[4] = { 1, 2, 3, 4 };
	uint64_t y[4] = { ~0ull, 0x55, ~0ull, 7 };

	x[0] = 1, x[1] = 2, x[2] = 3, x[3] = 4;
	for (uint64_t i = 0; i < n; i++) {
		__asm__ volatile("mov (%1), %%rax\n\tadd %%rax, (%0)\n\tmov 8(%1), %%rax\n\tadc %%rax, 8(%0)\n\t"
				 "mov 16(%1), %%rax\n\tadc %%rax, 16(%0)\n\tmov 24(%1), %%rax\n\tadc %%rax, 24(%0)"
				 : : "r"(x), "r"(y) : "rax", "memory", "cc");
		y[0] += i;
	}
	return x[0] ^ x[1] ^ x[2] ^ x[3];
}

static uint64_t crc(uint64_t n)
{
	static uint32_t table[256];
	static uint8_t data[4096];
	uint32_t c = ~0u;

	for (uint32_t i = 0; i < 256; i++) {
		uint32_t r = i;

		for (int k = 0; k < 8; k++)
			r = r >> 1 ^ (r & 1 ? 0xedb88320u : 0);
		table[i] = r;
	}
	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7);
	for (uint64_t i = 0; i < n; i++)
		c = c >> 8 ^ table[(c ^ data[i & 4095]) & 255];
	return c;
}

static void quicksort(uint32_t *a, long lo, long hi)
{
	while (lo < hi) {
		uint32_t p = a[(lo + hi) / 2];
		long i = lo, j = hi;

		while (i <= j) {
			while (a[i] < p)
				i++;
			while (a[j] > p)
				j--;
			if (i <= j) {
				uint32_t t = a[i];

				a[i++] = a[j];
				a[j--] = t;
			}
		}
		if (j - lo < hi - i) {
			quicksort(a, lo, j);
			lo = i;
		} else {
			quicksort(a, i, hi);
			hi = j;
		}
	}
}

static uint64_t sort(uint64_t n)
{
	static uint32_t a[65536];
	uint64_t s = 0;

	for (uint64_t i = 0; i < n; i++) {
		uint32_t seed = 42 + (uint32_t)i;

		for (unsigned k = 0; k < 65536; k++)
			a[k] = bench_rand(&seed);
		quicksort(a, 0, 65535);
		s += a[1000] ^ a[60000];
	}
	return s;
}

/* A linked list, a small matrix, a state machine and a CRC-16: what embedded benchmarks are made of. */
static uint64_t mix(uint64_t n)
{
	struct node { struct node *next; int v; } nodes[64], *head = NULL;
	static const char text[] = "+12.5e3,-7,0x,99.1,abc,5e-2,,1";
	int16_t m[12][12];
	uint32_t s = 0;

	for (int i = 0; i < 64; i++) {
		nodes[i].v = i * 37 & 63;
		nodes[i].next = head;
		head = &nodes[i];
	}
	for (int i = 0; i < 144; i++)
		m[i / 12][i % 12] = (int16_t)(i * 3);
	for (uint64_t r = 0; r < n; r++) {
		struct node *prev = NULL;
		int state = 0;
		uint16_t c16 = 0;

		while (head) {
			struct node *next = head->next;

			s += (uint32_t)head->v;
			head->next = prev;
			prev = head;
			head = next;
		}
		head = prev;
		for (int i = 0; i < 12; i++)
			for (int j = 0; j < 12; j++) {
				int acc = 0;

				for (int k = 0; k < 12; k++)
					acc += m[i][k] * m[k][j];
				s += (uint32_t)acc;
			}
		for (const char *p = text; *p; p++) {
			switch (state) {
			case 0: state = *p == '+' || *p == '-' ? 1 : *p >= '0' && *p <= '9' ? 2 : 0; break;
			case 1: state = *p >= '0' && *p <= '9' ? 2 : 0; break;
			case 2: state = *p == '.' ? 3 : *p == 'e' ? 4 : *p == ',' ? 0 : 2; break;
			case 3: state = *p == 'e' ? 4 : *p == ',' ? 0 : 3; break;
			default: state = *p == ',' ? 0 : 4;
			}
			s += (uint32_t)state;
		}
		for (int i = 0; i < 64; i++) {
			c16 ^= (uint16_t)nodes[i].v;
			for (int k = 0; k < 8; k++)
				c16 = (uint16_t)(c16 >> 1 ^ (c16 & 1 ? 0xa001 : 0));
		}
		s ^= c16;
	}
	return s;
}

static __attribute__((noinline)) uint64_t fib(unsigned n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t call(uint64_t n)
{
	uint64_t s = 0;

	for (uint64_t i = 0; i < n; i++) {
		KEEP(s);
		s += fib(20);
	}
	return s;
}

/* A threaded bytecode loop: one indirect jump an operation. */
static uint64_t indirect(uint64_t n)
{
	static const uint8_t code[26] = { 0, 1, 2, 3, 0, 2, 1, 3, 3, 0, 1, 2, 0, 0, 3, 2, 1, 1, 2, 3, 0, 3, 1, 2, 0, 4 };
	static const void *const op[] = { &&add, &&xor, &&rot, &&mul, &&end };
	uint64_t a = 1, b = 3;

	for (uint64_t i = 0; i < n; i++) {
		const uint8_t *pc = code;

		goto *op[*pc++];
add:		a += b; goto *op[*pc++];
xor:		a ^= b << 3; goto *op[*pc++];
rot:		b = b << 5 | b >> 59; goto *op[*pc++];
mul:		b *= 0x9e3779b1; goto *op[*pc++];
end:		a += i;
	}
	return a ^ b;
}

static __attribute__((noinline)) uint64_t f0(uint64_t x) { return x + 1; }
static __attribute__((noinline)) uint64_t f1(uint64_t x) { return x ^ 0x55; }
static __attribute__((noinline)) uint64_t f2(uint64_t x) { return x * 3; }
static __attribute__((noinline)) uint64_t f3(uint64_t x) { return x >> 1 ^ x; }

static uint64_t fnptr(uint64_t n)
{
	static uint64_t (*volatile const f[4])(uint64_t) = { f0, f1, f2, f3 };
	uint64_t x = 1;

	for (uint64_t i = 0; i < n; i++)
		x = f[i & 3](x);
	return x;
}

static inline uint32_t ror(uint32_t x, int k) { return x >> k | x << (32 - k); }

static uint64_t sha256(uint64_t n)
{
	static uint32_t k[64];
	uint32_t h[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
	uint32_t w[64];

	for (uint32_t i = 0; i < 64; i++)
		k[i] = (i + 1) * 0x9e3779b9u ^ i << 13;	/* the rounds' shape is what is measured, not the digest */
	for (uint64_t b = 0; b < n; b++) {
		uint32_t v[8];

		for (int i = 0; i < 16; i++)
			w[i] = (uint32_t)b * 31 + (uint32_t)i;
		for (int i = 16; i < 64; i++)
			w[i] = w[i - 16] + (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
			       (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10);
		memcpy(v, h, sizeof(v));
		for (int i = 0; i < 64; i++) {
			uint32_t t1 = v[7] + (ror(v[4], 6) ^ ror(v[4], 11) ^ ror(v[4], 25)) + ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
			uint32_t t2 = (ror(v[0], 2) ^ ror(v[0], 13) ^ ror(v[0], 22)) + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));

			memmove(v + 1, v, 7 * sizeof(*v));
			v[4] += t1;
			v[0] = t1 + t2;
		}
		for (int i = 0; i < 8; i++)
			h[i] += v[i];
	}
	return (uint64_t)h[0] << 32 | h[7];
}

/* mov $imm32, %eax; ret: the immediate is rewritten before every call. */
static uint64_t jit(uint64_t n)
{
	uint8_t *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t s = 0;

	if (p == MAP_FAILED)
		return 0;
	p[0] = 0xb8;
	p[5] = 0xc3;
	for (uint64_t i = 0; i < n; i++) {
		uint32_t v = (uint32_t)i;

		memcpy(p + 1, &v, 4);
		__asm__ volatile("" : : : "memory");
		s += ((uint32_t (*)(void))(uintptr_t)p)();
	}
	munmap(p, 4096);
	return s;
}

static uint64_t lock_xadd(uint64_t n)
{
	static uint64_t x;
	uint64_t s = 0;

	x = 0;
	for (uint64_t i = 0; i < n; i++)
		s ^= __atomic_fetch_add(&x, i, __ATOMIC_SEQ_CST);
	return s;
}

static uint64_t rdtsc(uint64_t n)
{
	uint64_t s = 0;

	for (uint64_t i = 0; i < n; i++)
		s += __builtin_ia32_rdtsc();
	return s;
}

const struct bench bench_int[] = {
	{ "alu", "int", "iteration", alu, 100000 },
	{ "div", "int", "division", divide, 100000 },
	{ "adc", "int", "addition", adc, 100000 },
	{ "crc", "int", "byte", crc, 100000 },
	{ "sort", "int", "64Ki sort", sort, 1 },
	{ "mix", "int", "round", mix, 100 },
	{ "call", "int", "fib(20)", call, 2 },
	{ "indirect", "int", "25 ops", indirect, 10000 },
	{ "fnptr", "int", "call", fnptr, 100000 },
	{ "sha256", "int", "block", sha256, 1000 },
	{ "jit", "misc", "rewrite+call", jit, 1000 },
	{ "lock xadd", "misc", "operation", lock_xadd, 10000 },
	{ "rdtsc", "misc", "read", rdtsc, 0 },
	{ 0 },
};
