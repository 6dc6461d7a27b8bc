/* SPDX-License-Identifier: MIT */
/*
 * Arithmetic flags from their recipes (struct tr_recipe), when somebody looks at them; and the table of recipes. Which recipe holds
 * where is decided in flags.c.
 */
#include <stdlib.h>
#include <string.h>

#include "cpu/translate/private.h"

/* ---- making them ------------------------------------------------------------------------------------------------------------------- */

static uint16_t made(uint64_t a, uint64_t b, uint64_t res, bool carry, bool overflow, unsigned size)
{
	unsigned bits = 8 * size;
	uint64_t shown = res << (64 - bits);
	uint32_t f = 0;

	f |= carry ? FLAG_CF : 0;
	f |= __builtin_parity((uint8_t)res) ? 0 : FLAG_PF;
	f |= (a ^ b ^ res) & FLAG_AF;
	f |= shown ? 0 : FLAG_ZF;
	f |= shown >> 63 ? FLAG_SF : 0;
	f |= overflow ? FLAG_OF : 0;
	return cpu_cc_of_flags(f);
}

static uint16_t of_sum(uint64_t a, uint64_t b, unsigned size)
{
	uint64_t res = a + b, mask = ~0ull >> (64 - 8 * size);

	return made(a, b, res, (res & mask) < (a & mask), ((a ^ res) & (b ^ res)) >> (8 * size - 1) & 1, size);
}

static uint16_t of_difference(uint64_t a, uint64_t b, unsigned size)
{
	uint64_t res = a - b, mask = ~0ull >> (64 - 8 * size);

	return made(a, b, res, (a & mask) < (b & mask), ((a ^ b) & (a ^ res)) >> (8 * size - 1) & 1, size);
}

/* AF is undefined, and 0 on all processors. */
static uint16_t of_value(uint64_t v, unsigned size)
{
	return made(v, 0, v, false, false, size) & (uint16_t)~(FLAG_AF << 8);
}

enum { SHIFT_LEFT, SHIFT_RIGHT, SHIFT_SIGNED };

/* By the host, which knows what becomes of undefined ones. */
#define HOST_SHIFT(op, type) __asm__(op " %%cl, %0\n\tpushfq\n\tpopq %1" : "+r"(v_##type), "=r"(f) : "c"(count) : "cc")
#define HOST_SHIFTS(suffix, type) do {										\
		type##_t v_##type = (type##_t)v;								\
		if (way == SHIFT_LEFT)										\
			HOST_SHIFT("shl" suffix, type);								\
		else if (way == SHIFT_RIGHT)									\
			HOST_SHIFT("shr" suffix, type);								\
		else												\
			HOST_SHIFT("sar" suffix, type);								\
	} while (0)

static uint16_t of_shift(uint64_t v, unsigned way, uint8_t count, unsigned size)
{
	uint64_t f;

	if (size == 1)
		HOST_SHIFTS("b", uint8);
	else if (size == 2)
		HOST_SHIFTS("w", uint16);
	else if (size == 4)
		HOST_SHIFTS("l", uint32);
	else
		HOST_SHIFTS("q", uint64);
	return cpu_cc_of_flags((uint32_t)f);
}

#define CC_CARRY (FLAG_CF << 8)

static uint64_t value(const struct vcpu *c, unsigned n)
{
	return n < TR_KEPT ? c->gpr[n] : c->tr_kept[n - TR_KEPT];
}

static uint16_t of_recipe(const struct vcpu *c, unsigned id);

/* All flags before those of @r. */
static uint16_t under(const struct vcpu *c, const struct tr_recipe *r)
{
	unsigned id = r->base ? r->base : c->cc_recipe;

	return id ? of_recipe(c, id) : c->cc;
}

/* Overflow is undefined but for a count of 1; the formula is that of processors for all. */
static uint16_t of_rotation(uint16_t cc, uint64_t v, const struct tr_recipe *r)
{
	bool top = v >> (8 * r->size - 1) & 1, next = v >> (8 * r->size - 2) & 1, carry = r->op == TR_ROL ? v & 1 : top;
	uint32_t f = cpu_flags_of_cc(cc) & ~(FLAG_CF | FLAG_OF);

	f |= carry ? FLAG_CF : 0;
	f |= top != (r->op == TR_ROL ? carry : next) ? FLAG_OF : 0;
	return cpu_cc_of_flags(f);
}

static uint16_t of_recipe(const struct vcpu *c, unsigned id)
{
	const struct tr_recipe *r = &c->translator->recipe[id];
	uint64_t a = value(c, r->reg), b = r->src == TR_IMM ? (uint64_t)(int64_t)r->imm : value(c, r->src);
	uint16_t cc, carry;

	switch (r->op) {
	case TR_ROL:
	case TR_ROR:
		return of_rotation(under(c, r), a, r);
	case TR_SHIFTED:
		cc = of_shift(a, (uint32_t)r->imm >> 8, (uint8_t)r->imm, r->size);
		break;
	case TR_SUM:
		cc = of_sum(a - b, b, r->size);
		break;
	case TR_DIFFERENCE:
		cc = of_difference(a + b, b, r->size);
		break;
	case TR_COMPARED:
		cc = of_difference(a, b, r->size);
		break;
	case TR_NEGATED:
		cc = of_difference(0, -a, r->size);
		break;
	case TR_TESTED:
		cc = of_value(a & b, r->size);
		break;
	default:
		cc = of_value(b, r->size);
	}
	if (!r->keep_c)
		return cc;
	carry = r->base ? of_recipe(c, r->base) : c->cc;
	return (uint16_t)((cc & ~CC_CARRY) | (carry & CC_CARRY));
}

void tr_make_flags(struct vcpu *c)
{
	/* A carry that is kept lies in c->cc whatever else is said there. */
	c->cc = of_recipe(c, c->tr_flags ? c->tr_flags : c->cc_recipe);
	c->tr_flags = c->cc_recipe = 0;
}

/* ---- the table ----------------------------------------------------------------------------------------------------------------------- */

void tr_recipes_reset(struct translator *k)
{
	if (k->n_recipes > 1)
		memset(k->recipe_of, 0, 2 * TR_RECIPES * sizeof(*k->recipe_of));
	k->n_recipes = 1;
}

int tr_recipes_new(struct translator *k)
{
	k->recipe = malloc(TR_RECIPES * sizeof(*k->recipe));
	k->recipe_of = calloc(2 * TR_RECIPES, sizeof(*k->recipe_of));
	k->n_recipes = 1;
	return k->recipe && k->recipe_of ? 0 : -1;
}

void tr_recipes_free(struct translator *k)
{
	free(k->recipe);
	free(k->recipe_of);
}
