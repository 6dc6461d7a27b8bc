/* SPDX-License-Identifier: MIT */
/* Every format that is unpacked, whole, cut short at every length, and damaged; packed here by the same libraries. */
#include "test_rows.h"

#include <lz4hc.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include "bytes.h"
#include "unpack.h"

#define PLAIN_SIZE 20000u
#define PACKED_MAX 65536u

static uint8_t plain[PLAIN_SIZE];

static size_t pack_gzip(uint8_t *out)
{
	z_stream z = { .next_in = plain, .avail_in = PLAIN_SIZE, .next_out = out, .avail_out = PACKED_MAX };

	assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return z.total_out;
}

/* As the kernel build does: with the x86 branch filter. */
static size_t pack_xz(uint8_t *out)
{
	lzma_options_lzma options;
	lzma_filter filters[] = {
		{ LZMA_FILTER_X86, NULL }, { LZMA_FILTER_LZMA2, &options }, { LZMA_VLI_UNKNOWN, NULL },
	};
	size_t size = 0;

	assert_false(lzma_lzma_preset(&options, 6));
	assert_int_equal(lzma_stream_buffer_encode(filters, LZMA_CHECK_CRC32, NULL, plain, PLAIN_SIZE, out, &size, PACKED_MAX),
			 LZMA_OK);
	return size;
}

static size_t pack_zstd(uint8_t *out)
{
	return ZSTD_compress(out, PACKED_MAX, plain, PLAIN_SIZE, 19);
}

static size_t pack_lz4(uint8_t *out)
{
	int size = LZ4_compress_HC((const char *)plain, (char *)out + 8, PLAIN_SIZE, PACKED_MAX - 8, 9);

	assert_true(size > 0);
	put32(out, 0x184c2102);
	put32(out + 4, (uint32_t)size);
	return 8 + (size_t)size;
}

static const struct row {
	const char *whole, *cut, *noise, *limit;	/* names of the tests */
	size_t (*pack)(uint8_t *out);
} rows[] = {
	{ "gzip unpacks, with four bytes behind it", "gzip cut anywhere is refused", "gzip with random damage ends well",
	  "gzip that is too large is refused", pack_gzip },
	{ "xz unpacks, with four bytes behind it", "xz cut anywhere is refused", "xz with random damage ends well",
	  "xz that is too large is refused", pack_xz },
	{ "zstd unpacks, with four bytes behind it", "zstd cut anywhere is refused", "zstd with random damage ends well",
	  "zstd that is too large is refused", pack_zstd },
	{ "lz4 unpacks, with four bytes behind it", "lz4 cut anywhere is refused", "lz4 with random damage ends well",
	  "lz4 that is too large is refused", pack_lz4 },
};

static size_t pack(const struct row *row, uint8_t **packed)
{
	size_t size;

	*packed = calloc(1, PACKED_MAX + 4);
	assert_non_null(*packed);
	size = row->pack(*packed);
	put32(*packed + size, PLAIN_SIZE);
	return size;
}

static void unpacks(void **state)
{
	struct err err = { "" };
	struct blob out;
	uint8_t *packed;
	size_t size = pack(*state, &packed);

	assert_int_equal(unpack(&out, packed, size + 4, 1 << 20, "it", &err), 0);
	assert_int_equal(out.size, PLAIN_SIZE);
	assert_memory_equal(out.data, plain, PLAIN_SIZE);
	blob_free(&out);
	free(packed);
}

static void refuses_cut(void **state)
{
	struct err err;
	struct blob out;
	uint8_t *packed, *exact;
	size_t size = pack(*state, &packed), n;

	/* The last bytes of a stream may be padding or checks that a decoder need not see: stop a little before. */
	for (n = 6; n < size - 16; n += n < 64 ? 1 : 37) {
		exact = malloc(n);
		assert_non_null(exact);
		memcpy(exact, packed, n);
		if (unpack(&out, exact, n, 1 << 20, "it", &err) == 0)
			fail_msg("%zu of %zu bytes were taken", n, size);
		assert_null(out.data);
		free(exact);
	}
	free(packed);
}

static void survives_damage(void **state)
{
	uint64_t seed = 88172645463325252ull;
	struct err err;
	struct blob out;
	uint8_t *packed, *damaged;
	size_t size = pack(*state, &packed);
	unsigned round;

	for (round = 0; round < 500; round++) {
		unsigned changes = 1 + (unsigned)(noise(&seed) % 4);

		damaged = malloc(size);
		assert_non_null(damaged);
		memcpy(damaged, packed, size);
		while (changes--)
			damaged[noise(&seed) % size] = (uint8_t)noise(&seed);
		if (unpack(&out, damaged, size, 1 << 20, "it", &err) == 0)
			assert_true(out.size <= 1 << 20);
		blob_free(&out);
		free(damaged);
	}
	free(packed);
}

static void refuses_large(void **state)
{
	struct err err;
	struct blob out;
	uint8_t *packed;
	size_t size = pack(*state, &packed);

	assert_int_equal(unpack(&out, packed, size, PLAIN_SIZE - 1, "it", &err), -1);
	assert_says(err.text, "unpacks to more than");
	free(packed);
}

static void names_others(void **state)
{
	static const uint8_t bzip2[] = "BZh91AY&SY";
	struct err err;
	struct blob out;

	(void)state;
	assert_int_equal(unpack(&out, bzip2, sizeof(bzip2), 1 << 20, "the kernel", &err), -1);
	assert_says(err.text, "bzip2");
}

int main(void)
{
	static struct tests tests;
	uint64_t seed = 1;
	size_t i;

	/* Compressible, but not trivially. */
	for (i = 0; i < PLAIN_SIZE; i++)
		plain[i] = noise(&seed) % 3 ? (uint8_t)(i / 50) : (uint8_t)(noise(&seed) & 0x3f);
	for (i = 0; i < N_OF(rows); i++) {
		tests_add(&tests, rows[i].whole, unpacks, &rows[i]);
		tests_add(&tests, rows[i].cut, refuses_cut, &rows[i]);
		tests_add(&tests, rows[i].noise, survives_damage, &rows[i]);
		tests_add(&tests, rows[i].limit, refuses_large, &rows[i]);
	}
	tests_add(&tests, "a format that is not unpacked here is named", names_others, NULL);
	return tests_run("unpack", &tests);
}
