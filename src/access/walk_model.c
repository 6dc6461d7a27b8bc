/* SPDX-License-Identifier: MIT */
/*
 * The manual, transcribed: Intel SDM vol. 3A, chapter "Paging": the tables "Format of a ... Entry", the section
 * "Determination of Access Rights" sentence by sentence, "Page-Fault Exceptions" flag by flag. One function a table; bits by number.
 * See walk_model.h for what it is not.
 */
#include "access/walk_model.h"

#include <string.h>

struct step {
	uint64_t entry_at;	/* guest-physical */
	unsigned bytes;
	uint64_t entry;
	bool last;
};

struct path {
	struct step step[5];
	unsigned n;
};

static bool bit(uint64_t v, unsigned n) { return v >> n & 1; }

static uint64_t bits(uint64_t v, unsigned high, unsigned low)
{
	uint64_t r = 0;

	for (unsigned i = low; i <= high; i++)
		r |= (uint64_t)bit(v, i) << (i - low);
	return r;
}

static bool any_bit(uint64_t v, int high, int low)
{
	for (int i = low; i <= high; i++)
		if (bit(v, (unsigned)i))
			return true;
	return false;
}

static uint64_t get(const uint8_t *memory, uint64_t size, uint64_t at, unsigned bytes)
{
	uint64_t v = 0;

	if (at > size || size - at < bytes)
		return 0;
	memcpy(&v, memory + at, bytes);
	return v;
}

static void put(uint8_t *memory, const struct step *s, unsigned n)
{
	uint8_t *byte = memory + s->entry_at + n / 8;

	*byte = (uint8_t)(*byte | 1u << n % 8);
}

/* ---- formats ------------------------------------------------------------------------------------------------------------ */

enum format { F32, FPAE, FLONG };
enum kind { PTE_4K, PDE_TABLE, PDE_PAGE, PDPTE_TABLE, PDPTE_PAGE, PML4E, PML5E };

static bool reserved_32(const struct model_cpu *c, enum kind kind, uint64_t e)
{
	int m = c->maxphyaddr < 40 ? (int)c->maxphyaddr : 40;

	if (kind != PDE_PAGE)
		return false;
	/* "Bits (M-20):13: bits (M-1):32 of the address; bits 21:(M-19) reserved (must be 0)". Without those bits, 21:13. */
	if (m <= 32)
		return any_bit(e, 21, 13);
	return any_bit(e, 21, m - 19);
}

static bool reserved_64(const struct model_cpu *c, enum format f, enum kind kind, uint64_t e)
{
	int m = (int)c->maxphyaddr;

	if (bit(e, 63) && !c->nxe)
		return true;
	if (f == FPAE && any_bit(e, 62, m))
		return true;
	if (f == FLONG && any_bit(e, 51, m))
		return true;
	switch (kind) {
	case PML5E:
	case PML4E:
		return bit(e, 7);
	case PDPTE_PAGE:
		return any_bit(e, 29, 13);
	case PDE_PAGE:
		return any_bit(e, 20, 13);
	default:
		return false;
	}
}

static enum kind kind_of(const struct model_cpu *c, enum format f, unsigned level, uint64_t e)
{
	switch (level) {
	case 5:
		return PML5E;
	case 4:
		return PML4E;
	case 3:
		return bit(e, 7) ? PDPTE_PAGE : PDPTE_TABLE;
	case 2:
		if (f == F32 && !c->pse)
			return PDE_TABLE;
		return bit(e, 7) ? PDE_PAGE : PDE_TABLE;
	default:
		return PTE_4K;
	}
}

static uint64_t final_address(enum format f, enum kind kind, uint64_t e, uint64_t la)
{
	if (f == F32)
		return kind == PDE_PAGE ? bits(e, 20, 13) << 32 | bits(e, 31, 22) << 22 | bits(la, 21, 0)
					: bits(e, 31, 12) << 12 | bits(la, 11, 0);
	if (kind == PDPTE_PAGE)
		return bits(e, 51, 30) << 30 | bits(la, 29, 0);
	if (kind == PDE_PAGE)
		return bits(e, 51, 21) << 21 | bits(la, 20, 0);
	return bits(e, 51, 12) << 12 | bits(la, 11, 0);
}

/* ---- "Determination of Access Rights" -------------------------------------------------------------------------------------- */

static bool every(const struct path *p, unsigned n)
{
	for (unsigned i = 0; i < p->n; i++)
		if (!bit(p->step[i].entry, n))
			return false;
	return true;
}

static bool some(const struct path *p, unsigned n)
{
	for (unsigned i = 0; i < p->n; i++)
		if (bit(p->step[i].entry, n))
			return true;
	return false;
}

static bool no_fetch(const struct model_cpu *c, const struct path *p)
{
	return c->nxe && p->step[0].bytes == 8 && some(p, 63);
}

/* "A linear address is a user-mode address if the U/S flag is 1 in every entry; else a supervisor-mode address." */
static bool user_address(const struct path *p)
{
	return every(p, 2);
}

static unsigned key_of(const struct model_cpu *c, const struct path *p)
{
	return c->lma ? (unsigned)bits(p->step[p->n - 1].entry, 62, 59) : 0;
}

static bool key_forbids(const struct model_cpu *c, const struct path *p, bool user_access, bool write)
{
	unsigned key = key_of(c, p);

	if (!c->lma)
		return false;
	if (!user_address(p)) {
		if (!c->pks)
			return false;
		return bit(c->pkrs, 2 * key) || (write && bit(c->pkrs, 2 * key + 1) && c->wp);
	}
	if (!c->pke)
		return false;
	if (bit(c->pkru, 2 * key))
		return true;
	return write && bit(c->pkru, 2 * key + 1) && (user_access || c->wp);
}

static bool may_read(const struct model_cpu *c, const struct model_access *a, const struct path *p, bool user_access)
{
	if (user_access)
		return user_address(p) && !key_forbids(c, p, true, false);
	if (!user_address(p))
		return !key_forbids(c, p, false, false);
	if (c->smap && (a->implicit || !c->ac))
		return false;
	return !key_forbids(c, p, false, false);
}

static bool may_write(const struct model_cpu *c, const struct model_access *a, const struct path *p, bool user_access)
{
	if (user_access)
		return user_address(p) && every(p, 1) && !key_forbids(c, p, true, true);
	if (!user_address(p))
		return (!c->wp || every(p, 1)) && !key_forbids(c, p, false, true);
	if (c->smap && (a->implicit || !c->ac))
		return false;
	if (c->wp && !every(p, 1))
		return false;
	return !key_forbids(c, p, false, true);
}

static bool may_fetch(const struct model_cpu *c, const struct path *p, bool user_access)
{
	if (no_fetch(c, p))
		return false;
	if (user_access)
		return user_address(p);
	return !(user_address(p) && c->smep);
}

/* ---- the walk ---------------------------------------------------------------------------------------------------------------- */

static struct model_result fault(const struct model_cpu *c, const struct model_access *a, bool user_access, bool present, bool reserved, bool key)
{
	struct model_result r = { .vector = 14 };

	r.error |= present ? 1u << 0 : 0;
	r.error |= a->write ? 1u << 1 : 0;
	r.error |= user_access ? 1u << 2 : 0;
	r.error |= reserved ? 1u << 3 : 0;
	r.error |= a->fetch && (c->smep || (c->pae && c->nxe)) ? 1u << 4 : 0;
	r.error |= key ? 1u << 5 : 0;
	return r;
}

static bool canonical(const struct model_cpu *c, uint64_t la)
{
	unsigned top = c->la57 ? 56 : 47;

	for (unsigned i = top; i < 64; i++)
		if (bit(la, i) != bit(la, top))
			return false;
	return true;
}

struct model_result model_walk(const struct model_cpu *c, const struct model_access *a, uint8_t *memory, uint64_t size)
{
	enum format f = c->lma ? FLONG : c->pae ? FPAE : F32;
	unsigned level = f == FLONG ? (c->la57 ? 5 : 4) : 2;
	bool user_access = a->cpl3 && !a->implicit;
	uint64_t la = c->lma ? a->la : a->la & 0xffffffff;
	uint64_t table = f == F32 ? bits(c->cr3, 31, 12) << 12 : bits(c->cr3, 51, 12) << 12;
	struct path p = { .n = 0 };
	enum kind kind;
	bool ok = true, key;

	if (!c->pg)
		return (struct model_result){ .vector = -1, .gpa = a->la & 0xffffffff };
	if (c->lma && !canonical(c, la))
		return (struct model_result){ .vector = a->stack ? 12 : 13 };
	if (f == FPAE) {
		uint64_t pdpte = c->pdptr[bits(la, 31, 30)];

		if (!bit(pdpte, 0))
			return fault(c, a, user_access, false, false, false);
		table = bits(pdpte, 51, 12) << 12;
	}
	for (;; level--) {
		unsigned low = f == F32 ? (level == 2 ? 22 : 12) : 12 + 9 * (level - 1);
		unsigned high = f == F32 ? low + 9 : low + 8;
		struct step *s = &p.step[p.n];

		s->bytes = f == F32 ? 4 : 8;
		s->entry_at = table + bits(la, high, low) * s->bytes;
		s->entry = get(memory, size, s->entry_at, s->bytes);
		if (!bit(s->entry, 0))
			return fault(c, a, user_access, false, false, false);
		kind = kind_of(c, f, level, s->entry);
		if (f == F32 ? reserved_32(c, kind, s->entry) : reserved_64(c, f, kind, s->entry))
			return fault(c, a, user_access, true, true, false);
		p.n++;
		if (kind == PTE_4K || kind == PDE_PAGE || kind == PDPTE_PAGE)
			break;
		put(memory, s, 5);
		table = f == F32 ? bits(s->entry, 31, 12) << 12 : bits(s->entry, 51, 12) << 12;
	}
	if (a->read)
		ok = ok && may_read(c, a, &p, user_access);
	if (a->write)
		ok = ok && may_write(c, a, &p, user_access);
	if (a->fetch)
		ok = ok && may_fetch(c, &p, user_access);
	key = (a->read && key_forbids(c, &p, user_access, false)) || (a->write && key_forbids(c, &p, user_access, true));
	if (!ok)
		return fault(c, a, user_access, true, false, key);
	put(memory, &p.step[p.n - 1], 5);
	if (a->write)
		put(memory, &p.step[p.n - 1], 6);
	return (struct model_result){ .vector = -1, .gpa = final_address(f, kind, p.step[p.n - 1].entry, la) };
}
