/* SPDX-License-Identifier: MIT */
/*
 * Decoded blocks of one vCPU: found by host page and offset, chained to each other, dropped all at once when the arena is full.
 *
 * A block is valid while (1) its page's code generation is the one it was decoded under, and (2) its epoch is the vCPU's, or
 * its bytes still equal memory. It says nothing about permission to execute: that is the fetch's, and the jump cache's
 * generation stands for it.
 */
#ifndef GW_CPU_BLOCK_H
#define GW_CPU_BLOCK_H

#include "cpu/op.h"

/* Bits of vcpu.block_key. */
#define KEY_MODE	0x3u	/* enum insn_mode */
#define KEY_FLAT	0x4u
#define KEY_REAL	0x8u	/* real or virtual-8086 mode: the decoder's `real` */
#define KEY_USER	0x10u	/* CPL 3: fetch permission differs */

struct tr_unit;

struct cpu_block {
	struct mem_code *code;
	const uint8_t *hva;	/* first byte */
	uint32_t gen;
	uint32_t key;
	uint64_t epoch;
	uint16_t n;		/* instructions */
	uint16_t n_bytes;
	uint32_t runs;		/* of translate/: executions until it is worth it ... */
	struct tr_unit *units;	/* ... its translations ... */
	cpu_fn *first;		/* ... and the handler of op[0], whose place in op[0].fn it takes */
	bool is_part;		/* of a unit that begins with another block */
	bool ungrouped;		/* each operand gets a probe of its own */
	uint32_t unpredicted;	/* a bit for each operation whose probe guesses wrong too often */
	struct cpu_block *next;	/* hash chain */
	uint8_t *bytes;		/* copy of the code */
	struct cpu_op op[];	/* n, then the end-of-block operation */
};

#define CPU_JUMP_BITS	13
struct cpu_jump_entry { uint64_t rip; uint64_t gen; struct cpu_block *block; };

#define CPU_HASH_BITS	17

/* An instruction that crosses the end of its page or ran alone, decoded: good while its pages may be executed and hold these bytes. */
#define CPU_CROSS	256u
struct cpu_cross {
	uint64_t la;
	uint32_t key;
	uint8_t len;			/* 0: empty */
	uint8_t bytes[INSN_MAX_LEN];
	struct insn insn;
	struct cpu_op op[2];
};

struct cpu_cache {
	struct cpu_jump_entry jump[1u << CPU_JUMP_BITS];
	struct cpu_block *hash[1u << CPU_HASH_BITS];
	uint8_t *arena;
	size_t used;
	/* The block built last, where its room begins, and whether it was found outdated: then its room is used again. */
	struct cpu_block *last;
	size_t last_start;
	bool last_is_dead;
	uint64_t flushes;	/* how often everything was dropped: pointers into the arena from before are dead */
	/* A fetch that was allowed once and must not be remembered (tag ~0): good for the instruction that runs alone next. */
	struct acc_fetch granted;
	uint64_t granted_la;
	bool has_granted;
	struct cpu_op draft[CPU_BLOCK_MAX + 1];	/* of the block that is being built */
	/* The instruction that runs alone, unless it is found in cross[]: two operations. */
	struct insn alone_insn;
	struct cpu_op alone_op[2];
	struct cpu_cross cross[CPU_CROSS];
};

int cpu_cache_new(struct cpu_cache **out);
void cpu_cache_free(struct cpu_cache *k);
void cpu_cache_flush(struct vcpu *c);

/* The block at c->rip, decoded if need be. NULL: fetch faulted or was refused (noted, c->stop set), or the instruction there
 * must run alone (c->alone_wanted set): it crosses the page, or its page may not be remembered. */
struct cpu_block *cpu_block_get(struct vcpu *c);
/* The same if it was found lately; NULL says nothing. Fetches nothing. */
struct cpu_block *cpu_block_recent(struct vcpu *c);
/* The page of code at c->rip, fetched if need be. NULL: refused (noted, c->stop set), or good for one fetch only. */
const struct acc_fetch *cpu_block_page(struct vcpu *c);
/* The block decoded at the host address @hva of the page @code for the present state, if it is valid now. Decodes nothing. */
struct cpu_block *cpu_block_peek(struct vcpu *c, const struct mem_code *code, const uint8_t *hva);
/*
 * The same for @rip, in the page @code that is fetched there now; decodes it if there is room, though nothing has led there yet. NULL says
 * nothing. No block goes away.
 */
struct cpu_block *cpu_block_ahead(struct vcpu *c, const struct mem_code *code, uint64_t rip);
/* The instruction at c->rip if it is known to cross its page and both pages are at hand; else NULL. */
const struct cpu_op *cpu_block_crossing(struct vcpu *c);
/* Decode the one instruction at c->rip into the cache's alone operations. NULL as above. */
const struct cpu_op *cpu_block_alone(struct vcpu *c);
/* What cpu_block_alone() gave as @o, decoded; @o is no undefined instruction (length 0). */
const struct insn *cpu_block_alone_insn(const struct vcpu *c, const struct cpu_op *o);

#endif
