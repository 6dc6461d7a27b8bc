/* SPDX-License-Identifier: MIT */
/* OpenSSL's own kernels (AES-NI, SHA, vector ChaCha where CPUID offers them) on 16 KiB buffers. */
#include <string.h>

#include <openssl/evp.h>

#include "bench.h"

static uint8_t in[16384], out[16384 + 64];

static uint64_t cipher(uint64_t n, const EVP_CIPHER *c)
{
	static const uint8_t key[32] = { 1, 2, 3 }, iv[16] = { 9 };
	EVP_CIPHER_CTX *x = EVP_CIPHER_CTX_new();
	uint64_t s;
	int len;

	if (!x || !EVP_EncryptInit_ex(x, c, NULL, key, iv))
		return 0;
	for (uint64_t i = 0; i < n; i++)
		EVP_EncryptUpdate(x, out, &len, in, sizeof(in));
	EVP_CIPHER_CTX_free(x);
	memcpy(&s, out + 8192, 8);
	return s;
}

static uint64_t aes_ctr(uint64_t n) { return cipher(n, EVP_aes_128_ctr()); }
static uint64_t aes_gcm(uint64_t n) { return cipher(n, EVP_aes_128_gcm()); }
static uint64_t chacha(uint64_t n) { return cipher(n, EVP_chacha20()); }

static uint64_t sha(uint64_t n)
{
	uint8_t md[64];
	uint64_t s = 0;

	for (uint64_t i = 0; i < n; i++) {
		in[0] = (uint8_t)i;
		EVP_Digest(in, sizeof(in), md, NULL, EVP_sha256(), NULL);
		memcpy(&s, md, 8);
	}
	in[0] = 0;
	return s;
}

const struct bench bench_crypto[] = {
	{ "openssl sha256", "crypto", "16 KiB", sha, 2 },
	{ "openssl aes-ctr", "crypto", "16 KiB", aes_ctr, 2 },
	{ "openssl aes-gcm", "crypto", "16 KiB", aes_gcm, 2 },
	{ "openssl chacha20", "crypto", "16 KiB", chacha, 2 },
	{ 0 },
};
