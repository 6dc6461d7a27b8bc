/* SPDX-License-Identifier: MIT */
/*
 * Another naive page walk, for tests only, by another hand than walk.c and walk_model.c and without a look at either: the tables
 * and lists of the Intel SDM, vol. 3, chapter "Paging", as rows. A processor with PAT, PSE-36 and 1-GByte pages, without HLAT,
 * supervisor keys and shadow stacks.
 *
 * Chosen where the manual leaves it open: an entry that leads to another gets its A before the next one is read; the entry that
 * maps the page gets A, and D, only if the access is permitted.
 */
#include "access/walk_model.h"
#include "base/types.h"
#include "isa/x86.h"

/* ---- "Four Paging Modes" ------------------------------------------------------------------------------------------------- */

enum mode { MODE_NONE, MODE_32BIT, MODE_PAE, MODE_4LEVEL, MODE_5LEVEL };

static enum mode mode_of(const struct model_cpu *c)
{
	if (!c->pg)
		return MODE_NONE;
	if (!c->pae)
		return MODE_32BIT;
	if (!c->lma)
		return MODE_PAE;
	return c->la57 ? MODE_5LEVEL : MODE_4LEVEL;
}

/* Bits hi:lo as the manual writes them; none if hi < lo. */
static uint64_t bits(unsigned hi, unsigned lo)
{
	return hi < lo ? 0 : ~0ull >> (63 - hi) & ~0ull << lo;
}

/* ---- "Use of ... with 32-Bit Paging", "... with PAE Paging", "... with 4-Level Paging and 5-Level Paging" ----------------- */

enum page { PAGE_NEVER, PAGE_IF_PS, PAGE_IF_PS_AND_PSE, PAGE_ALWAYS };

struct step {
	uint8_t hi, lo;			/* linear-address bits that select the entry; lo is the page's size too */
	enum page page;			/* when the entry maps a page instead of referencing a table */
};

static const struct step steps_32bit[] = { { 31, 22, PAGE_IF_PS_AND_PSE }, { 21, 12, PAGE_ALWAYS } };
static const struct step steps_pae[] = { { 29, 21, PAGE_IF_PS }, { 20, 12, PAGE_ALWAYS } };
static const struct step steps_long[] = {
	{ 56, 48, PAGE_NEVER },		/* PML5E: 5-level paging only */
	{ 47, 39, PAGE_NEVER },		/* PML4E */
	{ 38, 30, PAGE_IF_PS },		/* PDPTE */
	{ 29, 21, PAGE_IF_PS },		/* PDE */
	{ 20, 12, PAGE_ALWAYS },	/* PTE */
};

static bool maps_page(const struct model_cpu *c, const struct step *s, uint64_t e)
{
	switch (s->page) {
	case PAGE_NEVER:
		return false;
	case PAGE_IF_PS:
		return e & PTE_PS;
	case PAGE_IF_PS_AND_PSE:
		return (e & PTE_PS) && c->pse;
	case PAGE_ALWAYS:
		break;
	}
	return true;
}

static unsigned min_u(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

/* The rows "Reserved (must be 0)" of the tables "Format of a ... Entry"; bit 63 is reserved as long as NXE is 0. */
static uint64_t reserved_bits(const struct model_cpu *c, enum mode mode, const struct step *s, bool page)
{
	uint64_t r = 0;

	if (mode == MODE_32BIT)		/* only the PDE of a 4-MByte page: above the part of the address in bits (M-20):13 */
		return page && s->lo == 22 ? bits(21, min_u(c->maxphyaddr, 40) - 19) : 0;
	r |= mode == MODE_PAE ? bits(62, c->maxphyaddr) : bits(51, c->maxphyaddr);
	if (!c->nxe)
		r |= bits(63, 63);
	if (s->page == PAGE_NEVER)
		r |= PTE_PS;
	if (page && s->lo == 21)
		r |= bits(20, 13);
	if (page && s->lo == 30)
		r |= bits(29, 13);
	return r;
}

/* Where the page is: 32-bit paging's 4-MByte pages keep address bits (M-1):32 in bits (M-20):13. */
static uint64_t page_address(const struct model_cpu *c, enum mode mode, const struct step *s, uint64_t e, uint64_t la)
{
	uint64_t offset = la & bits(s->lo - 1, 0);

	if (mode != MODE_32BIT)
		return (e & bits(51, s->lo)) | offset;
	if (s->lo == 12)
		return (e & bits(31, 12)) | offset;
	return (e & bits(31, 22)) | (e & bits(min_u(c->maxphyaddr, 40) - 20, 13)) >> 13 << 32 | offset;
}

/* ---- the translation ----------------------------------------------------------------------------------------------------- */

enum outcome { FOUND, NOT_PRESENT, RESERVED };

struct translation {
	enum outcome outcome;
	/* "Determination of Access Rights": over all the entries used. */
	bool user_address;	/* U/S is 1 in every one */
	bool writable;		/* R/W is 1 in every one */
	bool no_execute;	/* XD is 1 in one */
	unsigned key;		/* bits 62:59 of the entry that maps the page */
	uint64_t page_entry;	/* where that entry is */
	uint64_t gpa;
};

static uint64_t load(const uint8_t *memory, uint64_t size, uint64_t at, unsigned len)
{
	uint64_t e = 0;

	if (at >= size || size - at < len)
		return 0;
	for (unsigned i = 0; i < len; i++)
		e |= (uint64_t)memory[at + i] << (8 * i);
	return e;
}

static struct translation translate(const struct model_cpu *c, enum mode mode, uint64_t la, uint8_t *memory, uint64_t size)
{
	struct translation t = { .outcome = NOT_PRESENT, .user_address = true, .writable = true };
	unsigned len = mode == MODE_32BIT ? 4 : 8;
	const struct step *s;
	uint64_t table;

	if (mode == MODE_32BIT) {
		s = steps_32bit;
		table = c->cr3 & bits(31, 12);
	} else if (mode == MODE_PAE) {	/* "PDPTE Registers": one of four, selected by bits 31:30; it has no rights of its own */
		uint64_t pdpte = c->pdptr[la >> 30 & 3];

		if (!(pdpte & PTE_P))
			return t;
		s = steps_pae;
		table = pdpte & bits(51, 12);
	} else {
		s = mode == MODE_5LEVEL ? steps_long : steps_long + 1;
		table = c->cr3 & bits(51, 12);
	}

	for (;; s++) {
		uint64_t at = table + ((la & bits(s->hi, s->lo)) >> s->lo) * len;
		uint64_t e = load(memory, size, at, len);
		bool page = maps_page(c, s, e);

		if (!(e & PTE_P))
			return t;
		if (e & reserved_bits(c, mode, s, page)) {
			t.outcome = RESERVED;
			return t;
		}
		t.user_address &= !!(e & PTE_U);
		t.writable &= !!(e & PTE_W);
		t.no_execute |= !!(e & PTE_NX);
		if (page) {
			t.outcome = FOUND;
			t.key = e >> 59 & 15;
			t.page_entry = at;
			t.gpa = page_address(c, mode, s, e, la);
			return t;
		}
		memory[at] |= PTE_A;
		table = e & (mode == MODE_32BIT ? bits(31, 12) : bits(51, 12));
	}
}

/* ---- "Determination of Access Rights" ------------------------------------------------------------------------------------ */

enum kind { READ, WRITE, FETCH };

#define NEVER		0x01u	/* not allowed */
#define IF_SMAP_OPEN	0x02u	/* CR4.SMAP = 0, or EFLAGS.AC = 1 and the access is explicit */
#define IF_SMEP_OFF	0x04u	/* CR4.SMEP = 0 */
#define IF_WRITABLE	0x08u	/* R/W = 1 in every entry */
#define IF_WP_WRITABLE	0x10u	/* CR0.WP = 0, or R/W = 1 in every entry */
#define IF_EXECUTABLE	0x20u	/* 32-bit paging, or NXE = 0, or XD = 0 in every entry */
#define IF_KEY		0x40u	/* the protection key permits it */

/* [user-mode access][user-mode address][kind] */
static const uint8_t conditions[2][2][3] = {
	{	/* supervisor-mode accesses */
		{ [READ] = IF_KEY, [WRITE] = IF_WP_WRITABLE | IF_KEY, [FETCH] = IF_EXECUTABLE },
		{ [READ] = IF_SMAP_OPEN | IF_KEY, [WRITE] = IF_SMAP_OPEN | IF_WP_WRITABLE | IF_KEY, [FETCH] = IF_SMEP_OFF | IF_EXECUTABLE },
	}, {	/* user-mode accesses */
		{ [READ] = NEVER, [WRITE] = NEVER, [FETCH] = NEVER },
		{ [READ] = IF_KEY, [WRITE] = IF_WRITABLE | IF_KEY, [FETCH] = IF_EXECUTABLE },
	},
};

/*
 * "Protection Keys": ADi refuses every data access; WDi refuses writes, a supervisor's only if CR0.WP = 1. LMA = 1 only. PKRU has them
 * for user-mode addresses, IA32_PKRS for supervisor-mode ones.
 */
static bool key_permits(const struct model_cpu *c, const struct translation *t, enum kind k, bool user)
{
	bool on = t->user_address ? c->pke : c->pks;
	uint32_t rights = t->user_address ? c->pkru : c->pkrs;
	bool ad = rights >> (2 * t->key) & 1, wd = rights >> (2 * t->key + 1) & 1;

	if (!c->lma || !on || k == FETCH)
		return true;
	return !ad && !(wd && k == WRITE && ((user && t->user_address) || c->wp));
}

static bool permitted(const struct model_cpu *c, const struct model_access *a, const struct translation *t, enum kind k, bool user)
{
	unsigned need = conditions[user][t->user_address][k];
	bool smap_open = !c->smap || (c->ac && !a->implicit);
	bool xd_counts = c->pae && c->nxe;

	return !(need & NEVER) &&
	       (!(need & IF_SMAP_OPEN) || smap_open) &&
	       (!(need & IF_SMEP_OFF) || !c->smep) &&
	       (!(need & IF_WRITABLE) || t->writable) &&
	       (!(need & IF_WP_WRITABLE) || !c->wp || t->writable) &&
	       (!(need & IF_EXECUTABLE) || !xd_counts || !t->no_execute) &&
	       (!(need & IF_KEY) || key_permits(c, t, k, user));
}

/* ---- "Page-Fault Exceptions" --------------------------------------------------------------------------------------------- */

/* P and RSVD tell the cause; W/R, U/S and I/D describe the access; PK says that the key refuses, whatever else does. */
static uint32_t error_code(const struct model_cpu *c, const struct model_access *a, const struct translation *t, bool user)
{
	uint32_t e = 0;
	bool key_refuses = (a->read && !key_permits(c, t, READ, user)) || (a->write && !key_permits(c, t, WRITE, user));

	e |= t->outcome != NOT_PRESENT ? PFEC_P : 0;
	e |= a->write ? PFEC_W : 0;
	e |= user ? PFEC_U : 0;
	e |= t->outcome == RESERVED ? PFEC_RSVD : 0;
	e |= a->fetch && (c->smep || (c->pae && c->nxe)) ? PFEC_I : 0;
	e |= t->outcome == FOUND && key_refuses ? PFEC_PK : 0;
	return e;
}

/* "Canonical Addressing": the bits above the width are all equal to its highest bit. */
static bool canonical(uint64_t la, unsigned width)
{
	uint64_t high = la & bits(63, width - 1);

	return high == 0 || high == bits(63, width - 1);
}

struct model_result model2_walk(const struct model_cpu *c, const struct model_access *a, uint8_t *memory, uint64_t size)
{
	enum mode mode = mode_of(c);
	bool user = a->cpl3 && !a->implicit;	/* "Access Rights": implicit accesses are a supervisor's whatever the CPL */
	struct translation t;

	if (mode == MODE_NONE)
		return (struct model_result){ .vector = -1, .gpa = a->la };
	if (mode >= MODE_4LEVEL && !canonical(a->la, mode == MODE_5LEVEL ? 57 : 48))
		return (struct model_result){ .vector = a->stack ? VEC_SS : VEC_GP };

	t = translate(c, mode, a->la, memory, size);
	if (t.outcome != FOUND ||
	    (a->read && !permitted(c, a, &t, READ, user)) ||
	    (a->write && !permitted(c, a, &t, WRITE, user)) ||
	    (a->fetch && !permitted(c, a, &t, FETCH, user)))
		return (struct model_result){ .vector = VEC_PF, .error = error_code(c, a, &t, user) };

	/* "Accessed and Dirty Flags" */
	memory[t.page_entry] |= a->write ? PTE_A | PTE_D : PTE_A;
	return (struct model_result){ .vector = -1, .gpa = t.gpa };
}
