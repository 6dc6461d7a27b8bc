/* SPDX-License-Identifier: MIT */
/* One unit in the making: what the files of the compiler share. */
#ifndef GW_CPU_TRANSLATE_COMPILE_H
#define GW_CPU_TRANSLATE_COMPILE_H

#include "cpu/translate/emit.h"
#include "cpu/translate/form.h"

#define MAX_SLOW_JUMPS	6

/*
 * The way out of line of one guest instruction: to its handler, then back. Jumps to it come from probes that missed, and
 * host faults are sent there. At every such place the instruction has changed nothing.
 */
struct tr_slow {
	uint8_t k, n, n_faults, n_sites;
	uint32_t recipe;		/* of the flags there */
	struct { uint8_t number, base; int32_t lo; } group[2];	/* what the groups keep must be made again: 1 + number; where its range begins now */
	bool is_bail;			/* to the interpreter, which goes on from there */
	uint8_t moved;			/* after a fault: pointers of a string instruction to be taken back, 1 RDI, 2 RSI, too */
	bool is_transfer;		/* the handler sets RIP: do not come back */
	bool save, reload;		/* flags: to c->cc first; into RFLAGS before going back */
	uint32_t at[MAX_SLOW_JUMPS];
	uint32_t fault_at[4];
	uint32_t resume;
	uint8_t vec;			/* vector registers that are live when it comes back, */
	uint8_t held[3];		/* and copies of guest registers */
	uint8_t load;			/* these must be made live here, */
	uint32_t load_at, load_resume;	/* from this jump, going on there */
};

#define MAX_UNIT_SITES	(3 * CPU_BLOCK_MAX)

/* A probe by prediction: what its way out of line needs. */
struct tr_site_code {
	struct tr_slow *slow;
	struct tr_site *site;
	uint32_t miss, back;		/* its jump, and where a hit goes on */
	uint8_t base, tmp;		/* the same: the address is destroyed, and made again at @back */
	int32_t disp;
	unsigned size;
	size_t tlb;
};

/* See group.c. @lo to @hi: what was probed, from the base as it is at the cursor. */
struct tr_group {
	bool active, write;
	uint8_t base, index;		/* guest register; number of the group in the unit */
	unsigned left;			/* accesses to come that were planned */
	int64_t lo, hi;
	size_t tlb;
};
/* How r11 is computed again, or r10, which has the addend. */
struct tr_regroup { size_t tlb; unsigned span; bool is_addend, is_used; uint32_t routine; };

/* A branch that mostly does not go there: out of line. */
struct tr_exit {
	uint64_t rip;
	uint8_t k;			/* the branch */
	struct tr_found found;
	uint8_t live;			/* flags that are wanted there */
	bool is_told;			/* it is told the recipe ... */
	uint32_t recipe, mark;		/* ... of the flags here, in this form */
	bool in_mem, mem_exact;
	uint32_t at;
};

struct tr_compiler {
	struct tr_emit e;
	struct vcpu *c;
	struct translator *k;
	struct cpu_block *b;
	struct tr_unit *u;
	uint64_t rip;
	uint8_t mode;			/* enum acc_mode at the cursor */
	struct tr_insn insn[CPU_BLOCK_MAX];
	unsigned n;
	struct tr_part part[TR_MAX_PARTS];
	unsigned n_parts;
	struct tr_exit exit[TR_MAX_PARTS];
	unsigned n_exits;
	struct cpu_block *dep[2 + TR_MAX_PARTS];
	unsigned n_deps;
	/* Where the live flags are at the cursor: in RFLAGS, in c->cc, or both. */
	bool in_host, in_mem;
	bool mem_exact;			/* all flags are in c->cc, also those nobody reads */
	bool deferred;			/* flags that are wanted were not put away before an access, as they stay in RFLAGS; */
	bool owes;			/* nor all, which the plan counts on: put away at the next probe, or on the way out */
	uint8_t vec;			/* vector registers known to be live at the cursor */
	bool x87;			/* and the x87's */
	struct tr_slow slow[CPU_BLOCK_MAX], *now;
	unsigned n_slow;
	struct tr_site_code site[MAX_UNIT_SITES];
	unsigned n_sites;
	unsigned at;			/* number of the present instruction */
	uint8_t held[3];		/* guest registers whose values r9, r10 and r11 have at the cursor, too; HR_NONE */
	struct tr_group group, second;	/* in r11; in r10 */
	struct tr_regroup groups[MAX_UNIT_SITES];
	unsigned n_groups;
	uint8_t edge_live[2];
	/* Where the ends lead: can the flags be seen there, is the recipe told, and what else the block does. */
	bool edge_shown[2], edge_mark[2], is_marked;
	struct tr_found found[2];
	uint32_t end_recipe;		/* what makes the flags at the end, */
	uint32_t mark;			/* and what the blocks after it are told: operands that they change are kept aside */
};

/* Where an operand lies: a constant address, or host register + displacement. */
struct tr_addr { bool is_const; uint8_t base; uint64_t la; int32_t disp; };

/* compile.c */
/* @wanted: no other flag is read before it is set. Saving uses r9. */
void tr_flags_save(struct tr_compiler *x, uint8_t wanted);
void tr_flags_load(struct tr_compiler *x, uint8_t wanted, unsigned scratch);
/* Before something that destroys RFLAGS at instruction @t: keep what is still wanted. */
void tr_flags_spill(struct tr_compiler *x, const struct tr_insn *t);
/* The same for an access without a probe: they may stay in RFLAGS, its way out of line puts them away. */
void tr_flags_defer(struct tr_compiler *x, const struct tr_insn *t);
/* What was deferred, now. Uses r9; no flag is touched. */
void tr_flags_pay(struct tr_compiler *x);
/* Before the guest's own instruction: RFLAGS hold what it reads. */
void tr_flags_need(struct tr_compiler *x, const struct tr_insn *t, unsigned scratch);
/* After it. */
void tr_flags_done(struct tr_compiler *x, const struct tr_insn *t);
/* Have the vector registers of @t live. RFLAGS are destroyed. */
void tr_vec_need(struct tr_compiler *x, const struct tr_insn *t);
/* A jump to the slow way of the present instruction. @cc < 0: always. */
void tr_slow_if(struct tr_compiler *x, int cc);
/* The next host instruction accesses guest memory, or faults by itself. */
void tr_may_fault(struct tr_compiler *x);
/* The guest register in a host register, to be read: its home, one that holds a copy, or loaded into @scratch. */
unsigned tr_reg(struct tr_compiler *x, unsigned guest, unsigned scratch);
/*
 * Guest registers without a home are stored when they are written, and loaded when they are read, but that the scratch register may still hold
 * it. Whoever takes a scratch register says so first.
 */
void tr_held_drop(struct tr_compiler *x, unsigned host);
void tr_held_drop_all(struct tr_compiler *x);
void tr_held_set(struct tr_compiler *x, unsigned host, unsigned guest);	/* and no other register does */
static inline bool tr_is_held(const struct tr_compiler *x, unsigned host) { return x->held[host - HR_9] != HR_NONE; }
unsigned tr_held_in(const struct tr_compiler *x, unsigned guest);	/* HR_NONE */

/* flags.c */
/* After classify(): fills shown, recipe and spill of instructions, what the ends need; liveness comes after it. */
void tr_flags_plan(struct tr_compiler *x);
bool tr_flags_complete(struct tr_compiler *x);
void tr_flags_tell(struct tr_compiler *x, uint32_t recipe);
void tr_flags_mark(struct tr_compiler *x);
void tr_flags_mark_exit(struct tr_compiler *x, const struct tr_exit *exit);
void tr_flags_mark_early(struct tr_compiler *x, unsigned k);

/* memory.c: r9 and r10 may be used for the address. RFLAGS are destroyed by the probe. @tmp may be lost: HR_9, or HR_11 if r9 is taken. */
struct tr_addr tr_address(struct tr_compiler *x, const struct tr_insn *t);
void tr_lea(struct tr_compiler *x, const struct tr_insn *t);
void tr_sites_out_of_line(struct tr_compiler *x);
struct tr_rm tr_probe(struct tr_compiler *x, struct tr_addr a, unsigned size, bool write, unsigned tmp);
/* The operand of @t at a host address: by the group's probe, or its own. Flags are spilled; RFLAGS stay if it is the group's. */
struct tr_rm tr_operand(struct tr_compiler *x, const struct tr_insn *t, unsigned size, bool write);
/* [RSP + disp], eight bytes. */
struct tr_rm tr_stack(struct tr_compiler *x, const struct tr_insn *t, int32_t disp, bool write);
size_t tr_tlb_offset(const struct tr_compiler *x, bool write);
/* r11, an address, becomes the host's if the @span bytes there are in the TLB. Uses r9 and r10. */
void tr_probe_range(struct tr_compiler *x, unsigned span, size_t tlb);
/* r10 becomes the addend of the @span bytes at @base + @disp. Uses r9. */
void tr_probe_addend(struct tr_compiler *x, unsigned base, int32_t disp, unsigned span, size_t tlb);
/* "Above": no entry. r10 is its offset. */
void tr_index_and_compare(struct tr_emit *e, size_t tlb, unsigned base, unsigned size, unsigned tmp);

/* group.c */
bool tr_group_has(struct tr_compiler *x, unsigned base, int32_t disp, unsigned size, bool write, struct tr_rm *m);
bool tr_group_begin(struct tr_compiler *x, unsigned base, int32_t disp, unsigned size, bool write, struct tr_rm *m);
void tr_group_step(struct tr_compiler *x, const struct tr_insn *t);
void tr_group_end(struct tr_compiler *x);
void tr_groups_out_of_line(struct tr_compiler *x);
bool tr_is_simple(const struct insn *in);	/* one register and a displacement, flat */

/* plain.c */
void tr_plain(struct tr_compiler *x, const struct tr_insn *t);
void tr_push(struct tr_compiler *x, const struct tr_insn *t);
void tr_push_mem(struct tr_compiler *x, const struct tr_insn *t);
void tr_pop(struct tr_compiler *x, const struct tr_insn *t);
void tr_leave_frame(struct tr_compiler *x, const struct tr_insn *t);

/* What a bit string needs: see is_bit_string(). */
void tr_bits(struct tr_compiler *x, const struct tr_insn *t);

/* system.c, string.c, x87.c */
void tr_system(struct tr_compiler *x, const struct tr_insn *t);
void tr_x87(struct tr_compiler *x, const struct tr_insn *t);
void tr_string(struct tr_compiler *x, const struct tr_insn *t);
void tr_string_back(struct tr_emit *e, unsigned moved);

/* trace.c: which blocks the unit is made of. */
void tr_trace(struct tr_compiler *x);

/* flow.c: each ends the unit, but branches that have a way out. */
void tr_exits_out_of_line(struct tr_compiler *x);
void tr_edge_to(struct tr_compiler *x, unsigned i);
void tr_flow(struct tr_compiler *x, const struct tr_insn *t);
bool tr_has_edge(const struct tr_insn *t, unsigned i);
uint64_t tr_edge_rip(const struct tr_compiler *x, unsigned i);
uint64_t tr_next_rip(const struct tr_insn *t);

#endif
