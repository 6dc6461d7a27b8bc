/* SPDX-License-Identifier: MIT */
/* Compressed kernels and modules; see unpack.h. One function per format, chosen by a row. */
#include "unpack.h"

#include <string.h>

#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include "bytes.h"

#define LZ4_LEGACY_BLOCK (8u << 20)	/* uncompressed size of every block of the legacy frame but the last */
#define XZ_MEMORY_LIMIT  (256ull << 20)

enum result { DONE, DAMAGED, TOO_LARGE, NO_MEMORY };

/* Room for the next piece of output: 0, or why not. One byte more than max is allowed so that "too large" is seen. */
static enum result make_room(struct blob *out, size_t max)
{
	size_t step = out->size > (1u << 20) ? out->size : (1u << 20);

	if (out->size > max)
		return TOO_LARGE;
	if (step > max + 1 - out->size)
		step = max + 1 - out->size;
	return blob_reserve(out, step) < 0 ? NO_MEMORY : DONE;
}

static enum result unpack_gzip(struct blob *out, const uint8_t *in, size_t size, size_t max)
{
	z_stream z = { .next_in = (z_const Bytef *)(uintptr_t)in, .avail_in = (uInt)size };
	enum result result;
	int ret;

	if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
		return NO_MEMORY;
	do {
		size_t room;

		result = make_room(out, max);
		if (result != DONE)
			break;
		room = out->capacity - out->size;
		if (room > UINT32_MAX / 2)
			room = UINT32_MAX / 2;
		z.next_out = out->data + out->size;
		z.avail_out = (uInt)room;
		ret = inflate(&z, Z_NO_FLUSH);
		out->size += room - z.avail_out;
		/* Z_BUF_ERROR with room left: the input ended too early. */
		if (ret != Z_OK && ret != Z_STREAM_END)
			result = DAMAGED;
	} while (result == DONE && ret != Z_STREAM_END);
	inflateEnd(&z);
	return result;
}

static enum result unpack_xz(struct blob *out, const uint8_t *in, size_t size, size_t max)
{
	lzma_stream s = LZMA_STREAM_INIT;
	enum result result;
	lzma_ret ret;

	/* One stream; the x86 branch filter of kernels is part of the stream's own filter chain. */
	if (lzma_stream_decoder(&s, XZ_MEMORY_LIMIT, 0) != LZMA_OK)
		return NO_MEMORY;
	s.next_in = in;
	s.avail_in = size;
	do {
		size_t room;

		result = make_room(out, max);
		if (result != DONE)
			break;
		room = out->capacity - out->size;
		s.next_out = out->data + out->size;
		s.avail_out = room;
		ret = lzma_code(&s, LZMA_RUN);
		out->size += room - s.avail_out;
		if (ret == LZMA_MEM_ERROR || ret == LZMA_MEMLIMIT_ERROR)
			result = NO_MEMORY;
		else if (ret != LZMA_OK && ret != LZMA_STREAM_END)
			result = DAMAGED;
	} while (result == DONE && ret != LZMA_STREAM_END);
	lzma_end(&s);
	return result;
}

static enum result unpack_zstd(struct blob *out, const uint8_t *in, size_t size, size_t max)
{
	ZSTD_DStream *z = ZSTD_createDStream();
	ZSTD_inBuffer input = { in, size, 0 };
	enum result result;
	size_t ret;

	if (!z)
		return NO_MEMORY;
	/* Kernels are packed with the largest settings: a window of 128 MiB. */
	ZSTD_DCtx_setParameter(z, ZSTD_d_windowLogMax, 27);
	do {
		ZSTD_outBuffer output;
		size_t before = input.pos;

		result = make_room(out, max);
		if (result != DONE)
			break;
		output = (ZSTD_outBuffer){ out->data + out->size, out->capacity - out->size, 0 };
		ret = ZSTD_decompressStream(z, &output, &input);
		out->size += output.pos;
		if (ZSTD_isError(ret) || (ret && !output.pos && input.pos == before))
			result = DAMAGED;
	} while (result == DONE && ret != 0);
	ZSTD_freeDStream(z);
	return result;
}

/* The legacy frame: a magic number, then blocks of {compressed size u32, bytes}, the end being the end of the input. */
static enum result unpack_lz4(struct blob *out, const uint8_t *in, size_t size, size_t max)
{
	size_t at = 4;

	/* What is left at the end, up to 4 bytes, is the size the kernel build appends. */
	while (size - at > 4) {
		uint32_t packed = get32(in + at);
		int got;

		at += 4;
		if (!packed || packed > size - at || packed > (uint32_t)LZ4_COMPRESSBOUND(LZ4_LEGACY_BLOCK))
			return DAMAGED;
		if (out->size > max)
			return TOO_LARGE;
		if (blob_reserve(out, LZ4_LEGACY_BLOCK) < 0)
			return NO_MEMORY;
		got = LZ4_decompress_safe((const char *)in + at, (char *)out->data + out->size, (int)packed,
					  LZ4_LEGACY_BLOCK);
		if (got < 0)
			return DAMAGED;
		out->size += (size_t)got;
		at += packed;
	}
	return out->size ? DONE : DAMAGED;
}

static const struct format {
	const char *name;
	uint8_t magic[6];
	uint8_t magic_size;
	enum result (*unpack)(struct blob *out, const uint8_t *in, size_t size, size_t max);	/* NULL: not by us */
} formats[] = {
	{ "gzip",  { 0x1f, 0x8b }, 2, unpack_gzip },
	{ "xz",    { 0xfd, '7', 'z', 'X', 'Z', 0 }, 6, unpack_xz },
	{ "zstd",  { 0x28, 0xb5, 0x2f, 0xfd }, 4, unpack_zstd },
	{ "lz4",   { 0x02, 0x21, 0x4c, 0x18 }, 4, unpack_lz4 },
	{ "bzip2", { 'B', 'Z', 'h' }, 3, NULL },
	{ "lzma",  { 0x5d, 0, 0 }, 3, NULL },
	{ "lzo",   { 0x89, 'L', 'Z', 'O' }, 4, NULL },
};

static const struct format *find_format(const uint8_t *in, size_t size)
{
	size_t i;

	for (i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
		if (size >= formats[i].magic_size && !memcmp(in, formats[i].magic, formats[i].magic_size))
			return &formats[i];
	return NULL;
}

const char *unpack_format(const uint8_t *in, size_t size)
{
	const struct format *format = find_format(in, size);

	return format ? format->name : NULL;
}

int unpack(struct blob *out, const uint8_t *in, size_t size, size_t max, const char *what, struct err *err)
{
	const struct format *format = find_format(in, size);
	enum result result;

	*out = (struct blob){ 0 };
	if (!format)
		return err_set(err, "%s is packed in a format that is not known", what);
	if (!format->unpack || size > UINT32_MAX)
		return err_set(err, "%s is packed with %s, which cannot be unpacked here", what, format->name);
	result = format->unpack(out, in, size, max);
	if (result == DONE && out->size <= max)
		return 0;
	blob_free(out);
	if (result == NO_MEMORY)
		return err_set(err, "%s needs more memory to unpack (%s) than there is", what, format->name);
	if (result == DAMAGED)
		return err_set(err, "%s is damaged: its %s data cannot be unpacked", what, format->name);
	return err_set(err, "%s unpacks to more than %zu MiB", what, max >> 20);
}
