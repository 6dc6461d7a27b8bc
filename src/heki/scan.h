/* SPDX-License-Identifier: MIT */
/* The guest kernel's page tables, seen from outside: scan.c. */
#ifndef GW_HEKI_SCAN_H
#define GW_HEKI_SCAN_H

#include "heki/heki_private.h"

/* One present leaf; rights are those of the whole path. */
struct scan_leaf { uint64_t va, gpa, size; bool w, x, u; };

/* Every leaf of the upper half. False: too many tables, or no memory. */
bool heki_scan_kernel(struct heki *h, uint64_t cr3, bool la57, void (*fn)(void *arg, const struct scan_leaf *leaf), void *arg);
/* The leaf that maps @va. */
bool heki_scan_one(struct heki *h, uint64_t cr3, bool la57, uint64_t va, struct scan_leaf *out);

#endif
