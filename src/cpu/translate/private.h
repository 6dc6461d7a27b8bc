/* SPDX-License-Identifier: MIT */
/*
 * Inside cpu/translate: units of code, the memory they live in, and what the files share.
 *
 * A unit is the translation of one block at one virtual address in one TLB mode, and of those that mostly follow it (trace.c). In
 * host code, between any two guest instructions: GS holds the vCPU, twelve guest registers are in host registers (tr_home), the
 * other four in c->gpr[]; the arithmetic flags are in RFLAGS, in c->cc, or dead; the host's stack is as the entry left it. At the
 * borders of units flags are in c->cc or dead. r9, r10 and r11 are scratch.
 *
 * Two entries. `mapped` checks that the page of the unit is still the one fetched at its address, was compared since the client
 * last may have written, and that its code has not changed; all of that once for each value of acc.stamp, which moves when any of
 * it may have changed. `body` checks nothing: links within a page go there. Both count the unit's
 * instructions, and leave when the budget is used up: at most CPU_POLL_INSNS instructions (some microseconds) after somebody wanted
 * the vCPU or another one changed the code. What the vCPU itself changes in the page it executes is seen at once: such a store
 * goes through C (tr_one), which looks. Handlers called from units look for attention, too.
 */
#ifndef GW_CPU_TRANSLATE_PRIVATE_H
#define GW_CPU_TRANSLATE_PRIVATE_H

#include "cpu/translate/translate.h"

#define TR_CODE_SIZE	(64u << 20)	/* default; code=MIB of GUESTWARD_ENGINE */
#define TR_UNIT_ROOM	(48u << 10)	/* no unit is longer */
#define TR_UNIT_MIN	128u			/* the shortest on average */
#define TR_META_SIZE	(24u << 20)
#define TR_JUMP_BITS	15
#define NO_STI		BIT64(63)	/* no address of code: not canonical */
#define TR_MAX_FAULTS	(4 * CPU_BLOCK_MAX)

/* Host registers by number. */
enum { HR_AX, HR_CX, HR_DX, HR_BX, HR_SP, HR_BP, HR_SI, HR_DI, HR_8, HR_9, HR_10, HR_11, HR_12, HR_13, HR_14, HR_15, HR_NONE = 0xff };
/* Where guest register n lives: a host register, or HR_NONE for c->gpr[n]. */
extern const uint8_t tr_home[16];

struct tr_unit;

/* A direct branch from @from to @rip. Unlinked it goes to a stub that asks for the target. */
struct tr_link {
	struct tr_unit *from, *to;
	struct tr_link *next;	/* of those that lead to @to */
	bool is_blind;		/* flags may be wrong there: no way out before the target was executed, which overwrites them */
	uint64_t rip;
	uint32_t at;		/* offset of the rel32 */
	uint32_t stub;		/* offset of what it means unlinked */
};

/* A host instruction that may fault, and the stub that has the guest instruction executed by its handler. */
struct tr_fault_at { uint32_t at, stub; };

/* A block in a unit: at @rip, its first instruction is the unit's @first. */
struct tr_part { struct cpu_block *b; uint64_t rip; uint8_t first; };
#define TR_MAX_PARTS	6

struct tr_unit {
	struct cpu_block *b;	/* the first one */
	uint64_t rip;
	uint8_t n, n_parts, n_deps;	/* instructions, ... */
	struct tr_part *part;
	uint8_t mode;		/* enum acc_mode */
	bool dead;
	bool is_blind;		/* flags may be wrong when it is entered; it overwrites them before it can be left */
	uint8_t n_faults, n_links;
	uint32_t index;
	uint32_t mapped, body, end;	/* offsets of code */
	uint32_t check;		/* where `mapped` goes when the stamp is another */
	uint32_t by_handler;	/* a bit for each instruction whose form is not translated */
	uint16_t *at;		/* for dumps: where each instruction's code begins, from @mapped; then what is out of line */
	struct tr_unit *of_block, *of_page;	/* next in the lists of the block and of the page */
	struct tr_page *page;
	struct cpu_block **dep;		/* blocks whose code was looked at for flags */
	struct tr_link *link, *in;	/* the ends, then ways out before them */
	struct tr_fault_at *fault;
	uint64_t misfit_at;	/* instructions executed when a group last did not fit ... */
	unsigned misfits;	/* ... and how often that was soon after the one before */
};

/*
 * A page with units. When the client may have written (verify_epoch) the lines that units were made from are compared together;
 * only if they differ each unit is looked at.
 */
#define TR_LINE	64u
struct tr_page {
	struct mem_code *code;
	const uint8_t *hva;
	uint64_t *epoch;	/* near the code */
	struct tr_page *next;
	struct tr_unit *units;
	uint64_t lines;		/* which of @bytes count */
	uint8_t bytes[GW_PAGE_SIZE];
};

/* The block that instruction @k belongs to; the last one if that is behind the end. */
static inline const struct tr_part *tr_part_of(const struct tr_unit *t, unsigned k)
{
	const struct tr_part *p = t->part + t->n_parts - 1;

	while (k < p->first)
		p--;
	return p;
}

struct tr_jump { uint64_t rip, host; };

/*
 * One place that probes the TLB: which entry it hit last. It looks there first, so that the addend does not wait for the address.
 * A block with a place that misses often and quickly is translated again, to compute the index there each time.
 */
struct tr_site {
	uint32_t index;		/* offset of the entry in its array */
	int32_t left;		/* tr_left at the last miss */
	int32_t score;		/* quick misses until the prediction is given up */
	int32_t quick;		/* so many instructions after the one before a miss is quick */
	uint32_t id;		/* TR_ID of its instruction */
};

#define TR_MAX_SITES	(1u << 18)
#define TR_SITE_SCORE	16
/* A wrong guess costs some twenty cycles, a right one saves two or three: in the shortest loop a miss in a dozen rounds is dear. */
#define TR_SITE_QUICK(n) (12 * (n) < 64 ? 64 : 12 * (n))

/*
 * What arithmetic flags are made from: values in registers, or an immediate, at the time they are asked for. 16 bytes without gaps.
 */
struct tr_recipe {
	uint8_t op;		/* enum tr_made */
	uint8_t size;
	uint8_t reg, src;	/* registers, or TR_KEPT and one more: vcpu.tr_kept; src may be TR_IMM */
	int32_t imm;
	uint16_t base;		/* keep_c: the recipe of the carry; 0: that of c->cc */
	bool keep_c;
	uint8_t pad[5];
};
enum tr_made {
	TR_SUM,			/* reg is what adding src gave */
	TR_DIFFERENCE,		/* reg is what subtracting src left */
	TR_COMPARED, TR_TESTED,	/* reg with src */
	TR_NEGATED,		/* reg is what negating gave */
	TR_VALUE,		/* src is what a logical operation gave */
	TR_SHIFTED,		/* reg, always vcpu.tr_kept, was shifted: imm is the count, and from bit 8 which way */
	TR_ROL, TR_ROR,		/* reg is what rotating gave: carry and overflow; the others are those of base, 0: of c->cc */
};
#define TR_KEPT		16u
#define TR_IMM		0xfeu
#define TR_NO_REG	0xffu
#define TR_RECIPES	0x10000u
#define TR_LOST		0xffffffffu

#define TR_PAGE_HASH	1024u
#define TR_MAX_PAGES	8192u

/* What emitted code and C know of each other: offsets of the routines made by glue.c. */
struct tr_routines { uint32_t enter, one, edge, entry, stale, bail, indirect, resume, load_vec[3], save_vec, miss; };

struct translator {
	/* Shared memory mapped twice; never writable and executable in one mapping. @jump lies before the code in both. */
	uint8_t *rw, *rx;
	uint32_t size, used, first;	/* of code; where units begin */
	struct tr_routines at;
	struct tr_jump *jump[ACC_N_MODES];	/* near the code, writable: targets of indirect branches */
	struct tr_site *site;		/* the same: predictions of probes */
	uint32_t n_sites;
	uint8_t *near_base;
	size_t near_size;

	uint8_t *meta;			/* units, pages, tables */
	size_t meta_used;
	struct tr_unit **unit;		/* by index, in the order of their code */
	uint32_t n_units, max_units;
	struct tr_page *page[TR_PAGE_HASH];
	uint64_t *epochs;		/* of pages */
	uint64_t *stamps;		/* of units: acc.stamp when `mapped` last looked; 0: never */
	unsigned n_pages;

	struct tr_recipe *recipe;	/* by number; 0 is none */
	uint16_t *recipe_of;		/* their numbers, by hash */
	uint32_t n_recipes;

	void *compiler;			/* struct tr_compiler, too large for the stack */
	unsigned hot;
	bool chain, tlb;
	bool perf;			/* units are named for perf(1) */
	bool entered;			/* GS is the vCPU's */
	uint64_t client_gs;
	struct cpu_op pair[2];		/* an operation alone, and one that says that it was done */
	bool done;
	uint64_t flushes;
	uint64_t by_form[N_INSN_OPS];	/* instructions executed by handlers because their form is not translated */
};

static inline uint64_t tr_rx(const struct translator *k, uint32_t off) { return (uint64_t)(uintptr_t)(k->rx + off); }

/* glue.c */
struct tr_emit;
void tr_emit_routines(struct vcpu *c, struct translator *k);
/* callout.c: called by the routines. Those that give an address go on there; 0 leaves, to c->tr_tail if set. */
bool tr_one(struct vcpu *c, uint32_t id);
uint64_t tr_edge(struct vcpu *c, uint32_t id);
uint64_t tr_entry(struct vcpu *c, uint32_t id);
uint64_t tr_stale(struct vcpu *c, uint32_t id);
uint64_t tr_bail(struct vcpu *c, uint32_t id);
uint64_t tr_indirect(struct vcpu *c, uint32_t id);
uint64_t tr_resume(struct vcpu *c, uint32_t id);
#define TR_ID(unit, k)	((unit) << 6 | (k))

/* recipe.c */
int tr_recipes_new(struct translator *k);	/* 0, or -1: no memory */
void tr_recipes_free(struct translator *k);
void tr_recipes_reset(struct translator *k);
void tr_make_flags(struct vcpu *c);
/* First in all that translated code calls: flags are in c->cc. */
static inline void tr_settle(struct vcpu *c)
{
	if (c->tr_flags | c->cc_recipe)
		tr_make_flags(c);
}

/* perfmap.c: names for perf(1), if GUESTWARD_ENGINE has `perf`: of the routines, and of a unit that was made */
void tr_perfmap_open(const struct translator *k);
void tr_perfmap_unit(const struct translator *k, const struct tr_unit *u);

/* cache.c */
void *tr_meta(struct translator *k, size_t size);	/* NULL: full */
struct tr_unit *tr_find(const struct cpu_block *b, uint64_t rip, uint8_t mode);
void tr_kill(struct translator *k, struct tr_unit *t);
void tr_link_to(struct translator *k, struct tr_link *l, struct tr_unit *to);
struct tr_page *tr_page_find(struct translator *k, const struct cpu_block *b);
struct tr_page *tr_page_of(struct vcpu *c, const struct cpu_block *b);
void tr_page_note(struct tr_page *p, const struct cpu_block *b);
bool tr_page_verify(struct vcpu *c, struct tr_page *p);
void tr_site_give_up(struct vcpu *c);
static inline struct tr_jump *tr_jump_slot(const struct translator *k, uint8_t mode, uint64_t rip)
{
	return &k->jump[mode][rip & ((1u << TR_JUMP_BITS) - 1)];
}

size_t tr_compiler_size(void);
/* compile.c: NULL, the block cannot be translated (no room: everything was flushed; try again later). */
struct tr_unit *tr_compile(struct vcpu *c, struct cpu_block *b, uint64_t rip);

#endif
