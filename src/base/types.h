/* SPDX-License-Identifier: MIT */
/*
 * Addresses as different types, so that mixing them up does not compile, and the few macros everybody uses.
 *
 *   gva  linear address in the guest (after segmentation)
 *   gpa  guest-physical address
 *   gfn  guest frame number, gpa >> 12
 * A host pointer is a plain `uint8_t *`, conventionally called hva.
 */
#ifndef GW_BASE_TYPES_H
#define GW_BASE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gva { uint64_t v; };
struct gpa { uint64_t v; };
struct gfn { uint64_t v; };

#define GVA(x) ((struct gva){ (x) })
#define GPA(x) ((struct gpa){ (x) })
#define GFN(x) ((struct gfn){ (x) })

#define GW_PAGE_SHIFT	12
#define GW_PAGE_SIZE	4096u
#define GW_PAGE_MASK	4095ull

static inline struct gfn gpa_gfn(struct gpa a) { return GFN(a.v >> GW_PAGE_SHIFT); }
static inline struct gpa gfn_gpa(struct gfn f) { return GPA(f.v << GW_PAGE_SHIFT); }

#define likely(x)	__builtin_expect(!!(x), 1)
#define unlikely(x)	__builtin_expect(!!(x), 0)
#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define container_of(p, type, member) ((type *)((char *)(p) - offsetof(type, member)))

/* Scalars of guest memory: at any address, seen through any type. */
typedef uint8_t __attribute__((may_alias)) gw_u8;
typedef uint16_t __attribute__((aligned(1), may_alias)) gw_u16;
typedef uint32_t __attribute__((aligned(1), may_alias)) gw_u32;
typedef uint64_t __attribute__((aligned(1), may_alias)) gw_u64;

#define BIT(n)		(1u << (n))
#define BIT64(n)	(1ull << (n))

#endif
