/* SPDX-License-Identifier: MIT */
/* Floating point and vectors. Checksums are exact: IEEE arithmetic in a fixed order. */
#include <math.h>
#include <string.h>

#include "bench.h"

static uint64_t bits(double d)
{
	uint64_t u;

	memcpy(&u, &d, 8);
	return u;
}

static uint64_t matmul(uint64_t n)
{
	static double a[128][128], b[128][128], c[128][128];

	for (int i = 0; i < 128; i++)
		for (int j = 0; j < 128; j++) {
			a[i][j] = i * 0.5 + j;
			b[i][j] = i - j * 0.25;
		}
	for (uint64_t r = 0; r < n; r++)
		for (int i = 0; i < 128; i++) {
			memset(c[i], 0, sizeof(c[i]));
			for (int k = 0; k < 128; k++)
				for (int j = 0; j < 128; j++)
					c[i][j] += a[i][k] * b[k][j];
		}
	return bits(c[17][93]);
}

static uint64_t nbody(uint64_t n)
{
	double x[5][3] = { { 0, 0, 0 }, { 4.8, -1.1, -0.1 }, { 8.3, 4.1, -0.4 }, { 12.8, -15.1, -0.2 }, { 15.3, -25.9, 0.1 } };
	double v[5][3] = { { 0 }, { 0.6, 2.8, 0 }, { -1.0, 1.8, 0 }, { 1.0, 0.8, 0 }, { 0.9, 0.5, 0 } };
	static const double m[5] = { 39.4, 0.037, 0.011, 0.0017, 0.002 };

	for (uint64_t s = 0; s < n; s++) {
		for (int i = 0; i < 5; i++)
			for (int j = i + 1; j < 5; j++) {
				double d[3], r2 = 0, mag;

				for (int k = 0; k < 3; k++) {
					d[k] = x[i][k] - x[j][k];
					r2 += d[k] * d[k];
				}
				mag = 0.01 / (r2 * __builtin_sqrt(r2));
				for (int k = 0; k < 3; k++) {
					v[i][k] -= d[k] * m[j] * mag;
					v[j][k] += d[k] * m[i] * mag;
				}
			}
		for (int i = 0; i < 5; i++)
			for (int k = 0; k < 3; k++)
				x[i][k] += 0.01 * v[i][k];
	}
	return bits(x[0][0]) ^ bits(v[4][1]);
}

static uint64_t x87(uint64_t n)
{
	long double s = 1, t = 0.5L;

	for (uint64_t i = 0; i < n; i++) {
		s = s * 1.0000001L + t;
		t = t / s + 0.25L;
		__asm__ volatile("" : "+t"(s));
	}
	return bits((double)(s + t));
}

typedef int v4 __attribute__((vector_size(16)));

static uint64_t sse_int(uint64_t n)
{
	v4 a = { 1, 2, 3, 4 }, b = { 5, 6, 7, 8 };

	for (uint64_t i = 0; i < n; i++) {
		a += b;
		b ^= a << 3;
		a -= b >> 1;
		__asm__ volatile("" : "+x"(a), "+x"(b));
	}
	return (uint64_t)(uint32_t)a[0] << 32 | (uint32_t)b[3];
}

const struct bench bench_fp[] = {
	{ "matmul 128", "fp", "product", matmul, 1 },
	{ "nbody", "fp", "step", nbody, 1000 },
	{ "x87", "fp", "iteration", x87, 10000 },
	{ "sse int", "fp", "iteration", sse_int, 10000 },
	{ 0 },
};
