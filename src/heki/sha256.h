/* SPDX-License-Identifier: MIT */
#ifndef GW_HEKI_SHA256_H
#define GW_HEKI_SHA256_H

#include <stddef.h>
#include <stdint.h>

/* @len: a multiple of 64. */
void heki_sha256(const uint8_t *data, size_t len, uint8_t out[32]);

#endif
