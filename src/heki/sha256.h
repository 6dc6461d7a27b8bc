/* SPDX-License-Identifier: MIT */
#ifndef GW_HEKI_SHA256_H
#define GW_HEKI_SHA256_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* False: out of memory, and @out is all zeroes, which no page has. */
bool heki_sha256(const uint8_t *data, size_t len, uint8_t out[32]);

#endif
