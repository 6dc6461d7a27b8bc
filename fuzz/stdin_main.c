/* SPDX-License-Identifier: MIT */
/*
 * The other main of every fuzz target, where libFuzzer is not: runs files, standard input, or a fixed pseudo-random sequence.
 *
 *   fuzz-TARGET FILE...			each file once (seeds, a crash)
 *   fuzz-TARGET --random N [MAX [SEED]]	N inputs of up to MAX bytes, the same ones every time
 *   fuzz-TARGET				standard input once (AFL++)
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_INPUT (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t buffer[MAX_INPUT];

static int run_stream(FILE *f)
{
	size_t n = fread(buffer, 1, sizeof(buffer), f);

	return ferror(f) ? 1 : LLVMFuzzerTestOneInput(buffer, n);
}

static int run_file(const char *path)
{
	FILE *f = fopen(path, "rb");
	int err;

	if (!f) {
		perror(path);
		return 1;
	}
	err = run_stream(f);
	fclose(f);
	return err;
}

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static int run_random(unsigned long n, size_t max, uint64_t seed)
{
	uint64_t s = seed ? seed : 1;

	if (max == 0 || max > sizeof(buffer))
		max = 64;
	for (unsigned long i = 0; i < n; i++) {
		size_t size = next_random(&s) % (max + 1);

		for (size_t j = 0; j < size; j++)
			buffer[j] = (uint8_t)(next_random(&s) >> 32);
		if (LLVMFuzzerTestOneInput(buffer, size))
			return 1;
	}
	printf("%lu inputs of up to %zu bytes, seed %" PRIu64 "\n", n, max, seed);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return run_stream(stdin);
	if (!strcmp(argv[1], "--random") && argc >= 3)
		return run_random(strtoul(argv[2], NULL, 0), argc > 3 ? strtoul(argv[3], NULL, 0) : 64,
				  argc > 4 ? strtoull(argv[4], NULL, 0) : 1);
	for (int i = 1; i < argc; i++)
		if (run_file(argv[i]))
			return 1;
	return 0;
}
