/* SPDX-License-Identifier: MIT */
/*
 * Pass 1: the guest page walk, for 32-bit, PAE, 4-level and 5-level paging. It turns a linear address into a guest-physical one,
 * or into the fault that the processor would raise; who may touch that address in the end is guard.c's business.
 *
 * Guest tables are hostile and shared: each entry is read once, by one atomic load, and judged as read; A and D are set by
 * compare-exchange, and when the entry changed meanwhile the walk starts again. A of the upper levels is set on the way down,
 * as hardware does; A of the last entry only when the access is allowed by the tables; D by the commit (acc_walk_set_dirty),
 * so that a guard's refusal leaves no trace but A bits.
 *
 * A table outside all slots reads as not present, as in KVM's own software walk; in a read-only slot A and D stay as they are.
 * Source: Intel SDM vol. 3, "Paging". Where Intel and AMD differ (G in upper entries) this is Intel's rule. PSE-36 and 1 GiB
 * pages exist whatever CPUID says, as under KVM with hardware that has them.
 */
#include <string.h>

#include "access/access_private.h"
#include "mem/gmem.h"

#define ADDR_MASK	0x000ffffffffff000ull
#define MAX_RESTARTS	1000	/* of one walk; then acc_check() looks whether the vCPU is wanted elsewhere */

struct walker {
	const struct acc_request *rq;
	const struct acc_cpu *cpu;
	const struct mem_map *map;
	struct acc_result *out;
	uint64_t la;
	uint64_t reserved;	/* in every entry of this format */
	enum acc_mode mode;
	unsigned flags;
	uint8_t levels, size, index_bits;
	bool judged;		/* guards want to see the walk */
	bool is_noted;		/* its path: see struct acc_path */
};

struct entry {
	uint64_t value;
	uint8_t *hva;
	const struct mem_slot *slot;
	struct gpa gpa;
	bool frozen;		/* A and D are not written */
};

const struct mem_slot *acc_slot(const struct acc_request *rq, const struct mem_map *map, struct gfn gfn)
{
	struct acc_cpu_private *p = rq->cpu ? rq->cpu->priv : NULL;
	const struct mem_slot *s;

	if (p && likely(p->last_slot < map->n)) {
		s = &map->slot[p->last_slot];
		if (likely(gfn.v - s->first.v < s->n_pages))
			return s;
	}
	s = mem_slot_of_gfn(map, gfn);
	if (p && s)
		p->last_slot = (unsigned)(s - map->slot);
	return s;
}

static enum acc_verdict page_fault(const struct walker *k, uint32_t error)
{
	const struct acc_request *rq = k->rq;
	const struct acc_cpu *cpu = k->cpu;

	if (rq->rights & ACC_W)
		error |= PFEC_W;
	if (k->mode == ACC_MODE_USER)
		error |= PFEC_U;
	if ((rq->rights & ACC_X) && ((cpu->cr4 & CR4_SMEP) || ((cpu->efer & EFER_NX) && (cpu->cr4 & CR4_PAE))))
		error |= PFEC_I;
	k->out->guard = ACC_NO_GUARD;
	k->out->event = (struct acc_event){ .vector = VEC_PF, .has_error = true, .error = error, .cr2 = rq->gva.v };
	return ACC_FAULT;
}

/* ---- access rights ------------------------------------------------------------------------------------------------- */

/* What the page's protection key takes away from a data access. */
static unsigned key_denies(const struct acc_cpu *cpu, enum acc_mode mode, const struct acc_walk *w)
{
	unsigned bits;

	if (!(cpu->cr4 & (w->user ? CR4_PKE : CR4_PKS)) || !(cpu->efer & EFER_LMA))
		return 0;
	bits = (w->user ? cpu->pkru : cpu->pkrs) >> (w->pkey * 2);
	if (bits & 1)
		return ACC_RW;
	return (bits & 2) && ((w->user && mode == ACC_MODE_USER) || (cpu->cr0 & CR0_WP)) ? ACC_W : 0;
}

unsigned acc_rights_of(const struct acc_cpu *cpu, enum acc_mode mode, const struct acc_walk *w, bool *keyed_denial, unsigned asked)
{
	unsigned allowed, denied = key_denies(cpu, mode, w);

	*keyed_denial = (denied & asked) != 0;
	if (mode == ACC_MODE_USER) {
		if (!w->user)
			return 0;
		allowed = ACC_R | (w->writable ? ACC_W : 0) | (w->no_exec ? 0 : ACC_X);
		return allowed & ~denied;
	}
	allowed = ACC_R;
	if (w->writable || !(cpu->cr0 & CR0_WP))
		allowed |= ACC_W;
	if (!w->no_exec && !(w->user && (cpu->cr4 & CR4_SMEP)))
		allowed |= ACC_X;
	/* Mode KERNEL_AC exists only for explicit accesses with EFLAGS.AC set. */
	if (w->user && (cpu->cr4 & CR4_SMAP) && mode != ACC_MODE_KERNEL_AC)
		allowed &= ~ACC_RW;
	return allowed & ~denied;
}

/* ---- table accesses ------------------------------------------------------------------------------------------------ */

static enum acc_verdict judge_table(const struct acc_request *rq, const struct mem_map *map, struct gpa gpa, unsigned size,
				    unsigned rights, struct acc_result *out)
{
	struct acc_request table = {
		.cpu = rq->cpu, .gva = rq->gva, .len = (uint16_t)size, .rights = (uint8_t)rights, .stage = ACC_WALK,
		.origin = rq->origin, .cpl = rq->cpl, .by_gpa = true, .gpa = gpa, .page_shift = GW_PAGE_SHIFT,
	};

	return acc_judge(map, &table, out);
}

static uint64_t load_entry(const uint8_t *hva, unsigned size)
{
	if (size == 4)
		return __atomic_load_n((const uint32_t *)(const void *)hva, __ATOMIC_ACQUIRE);
	return __atomic_load_n((const uint64_t *)(const void *)hva, __ATOMIC_ACQUIRE);
}

/* A guard that sees walks has an opinion: it may refuse, or give the walk other bytes. */
static __attribute__((noinline)) enum acc_verdict read_judged(const struct walker *k, struct entry *e)
{
	struct acc_result table;
	enum acc_verdict v = judge_table(k->rq, k->map, e->gpa, k->size, ACC_R, &table);
	uint8_t bytes[8] = { 0 };

	switch (v) {
	case ACC_ALLOW:
		break;
	case ACC_SUBST:
		e->frozen = table.subst != SUBST_FRAME;
		if (table.subst == SUBST_FRAME)
			e->slot = NULL;
		if (table.subst == SUBST_ONES) {
			e->value = k->size == 4 ? 0xffffffffull : ~0ull;
			return ACC_ALLOW;
		}
		if (table.subst == SUBST_DATA) {
			for (unsigned i = 0; i < k->size && i < table.data_len; i++)
				bytes[i] = table.data[i];
			memcpy(&e->value, bytes, sizeof(e->value));
			return ACC_ALLOW;
		}
		break;
	default:
		if (v != ACC_DEVICE)
			*k->out = table;
		return v;
	}
	e->hva = table.hva;
	e->value = load_entry(e->hva, k->size);
	return ACC_ALLOW;
}

/* As read_entry, where frames may be private. A table outside all slots reads as not present; one in a slot without memory exits. */
static __attribute__((noinline)) enum acc_verdict read_sided(const struct walker *k, struct entry *e)
{
	struct acc_request rq = *k->rq;
	enum acc_verdict v;

	rq.gpa = e->gpa;
	/* A guest that says which kind it wants says it for its tables in CR3 and in each entry; that room will say it here. */
	rq.private_bit = k->map->is_kind_asked && k->rq->private_bit;
	v = acc_side(k->map, &rq, e->slot, k->out, &e->hva);
	/* The client may not look into private tables: for it, nothing is there. */
	if (v == ACC_EXIT && (rq.origin == ACC_IOCTL || rq.origin == ACC_DMA))
		v = ACC_DEVICE;
	if (v != ACC_ALLOW) {
		k->out->guard = ACC_NO_GUARD;
		return v;
	}
	e->frozen = (e->slot->flags & MEM_READONLY) != 0;
	if (unlikely(k->judged))
		return read_judged(k, e);
	e->value = load_entry(e->hva, k->size);
	return ACC_ALLOW;
}

/* Read the entry at e->gpa. DEVICE: there is no memory. */
static inline enum acc_verdict read_entry(const struct walker *k, struct entry *e)
{
	e->slot = acc_slot(k->rq, k->map, gpa_gfn(e->gpa));
	if (unlikely(k->map->kinds || (e->slot && (e->slot->flags & MEM_GMEM))))
		return read_sided(k, e);
	if (unlikely(!e->slot || !e->slot->hva))
		return ACC_DEVICE;
	e->hva = mem_slot_hva(e->slot, e->gpa);
	e->frozen = (e->slot->flags & MEM_READONLY) != 0;
	if (unlikely(k->judged))
		return read_judged(k, e);
	e->value = load_entry(e->hva, k->size);
	return ACC_ALLOW;
}

static bool set_bits(const struct acc_request *rq, uint8_t *hva, unsigned size, const struct mem_slot *slot, struct gpa gpa,
		     uint64_t old, uint64_t bits)
{
	bool done;

	if (slot && slot->dirty)
		acc_mark_dirty(acc_rq_vm(rq), rq->cpu, slot, gpa_gfn(gpa));
	if (size == 4) {
		uint32_t expected = (uint32_t)old;

		done = __atomic_compare_exchange_n((uint32_t *)(void *)hva, &expected, (uint32_t)(old | bits), false,
						   __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
	} else {
		done = __atomic_compare_exchange_n((uint64_t *)(void *)hva, &old, old | bits, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
	}
	if (done)
		acc_store_done(acc_rq_vm(rq), hva, size);
	return done;
}

/* Set A (or A and D) in an entry that was just read. RETRY: it changed. */
static enum acc_verdict set_accessed(const struct walker *k, const struct entry *e)
{
	if (likely(e->value & PTE_A) || e->frozen || (k->flags & WALK_LOOK))
		return ACC_ALLOW;
	if (unlikely(k->judged)) {
		struct acc_result table;
		enum acc_verdict v = judge_table(k->rq, k->map, e->gpa, k->size, ACC_RW, &table);

		if (v == ACC_SUBST && table.subst != SUBST_FRAME)
			return ACC_ALLOW;
		if (v != ACC_ALLOW && v != ACC_SUBST) {
			*k->out = table;
			return v == ACC_DEVICE ? ACC_ALLOW : v;
		}
	}
	return set_bits(k->rq, e->hva, k->size, e->slot, e->gpa, e->value, PTE_A) ? ACC_ALLOW : ACC_RETRY;
}

enum acc_verdict acc_walk_judge_dirty(const struct mem_map *map, const struct acc_request *rq, const struct acc_walk *w,
				      struct acc_result *out)
{
	enum acc_verdict v = judge_table(rq, map, w->leaf.gpa, w->leaf.size, ACC_RW, out);

	/* Read-only memory, or a guard that drops the write: the store goes on, the bit stays clear. */
	if (v == ACC_DEVICE)
		return ACC_SUBST;
	return v == ACC_SUBST && out->subst == SUBST_FRAME ? ACC_ALLOW : v;
}

bool acc_walk_set_dirty(const struct acc_request *rq, const struct acc_walk *w)
{
	const struct acc_leaf *l = &w->leaf;

	return set_bits(rq, l->hva, l->size, l->slot, l->gpa, l->value, PTE_A | PTE_D);
}

/* ---- formats ------------------------------------------------------------------------------------------------------- */

/* Page-directory entry of a 4 MiB page: address bits 39:32 live in bits 20:13; bit 21 and those past MAXPHYADDR are reserved. */
static uint64_t reserved_4m(unsigned maxphyaddr)
{
	unsigned m = maxphyaddr > 40 ? 40 : maxphyaddr;
	unsigned lowest = m > 32 ? m - 19 : 13;

	return (BIT64(22) - 1) & ~(BIT64(lowest) - 1);
}

/* Reserved bits of entry @e at @level beyond those of every entry. */
static inline uint64_t reserved_at(const struct walker *k, unsigned level, bool leaf)
{
	if (k->size == 4)
		return leaf && level == 2 ? reserved_4m(k->cpu->maxphyaddr) : 0;
	if (level >= 4)
		return PTE_PS;
	if (leaf && level > 1)
		return (BIT64(12 + 9 * (level - 1)) - 1) & ~0x1fffull;	/* below the page's address; bit 12 is PAT */
	return 0;
}

static inline bool is_leaf(const struct walker *k, unsigned level, uint64_t e)
{
	if (level == 1)
		return true;
	if (!(e & PTE_PS) || level > 3)
		return false;
	return k->size == 8 || (k->cpu->cr4 & CR4_PSE);
}

static uint64_t leaf_address(const struct walker *k, unsigned shift, uint64_t e)
{
	uint64_t inside = k->la & (BIT64(shift) - 1);

	if (k->size == 4 && shift == 22)
		return (e & 0xffc00000u) | (e >> 13 & 0xff) << 32 | inside;
	return (e & ADDR_MASK & ~(BIT64(shift) - 1)) | inside;
}

/* What guards are told. A guest that asks for a kind has it in its entries: not built here. */
static bool kind_of(const struct mem_map *map, struct gpa gpa)
{
	return unlikely(map->kinds) && mem_kinds_is_private(map->kinds, gpa_gfn(gpa));
}

/* The address is translated: judge it by the tables, set A, and leave D to the commit. */
static enum acc_verdict finish(const struct walker *k, struct acc_request *rq, struct acc_walk *w, const struct entry *e, unsigned shift)
{
	bool keyed_denial;

	rq->gpa = GPA(leaf_address(k, shift, e->value));
	rq->page_shift = (uint8_t)shift;
	rq->user_translation = w->user;
	rq->private_bit = kind_of(k->map, rq->gpa);
	w->global = (e->value & PTE_G) && (k->cpu->cr4 & CR4_PGE);
	w->dirty = (e->value & PTE_D) != 0;
	w->pkey = (k->cpu->efer & EFER_LMA) ? e->value >> 59 & 15 : 0;
	w->allowed = (uint8_t)acc_rights_of(k->cpu, k->mode, w, &keyed_denial, rq->rights);
	if (rq->rights & ~w->allowed)
		return page_fault(k, PFEC_P | (keyed_denial ? PFEC_PK : 0));
	if ((rq->rights & ACC_W) && !w->dirty && !e->frozen) {
		w->leaf = (struct acc_leaf){ .hva = e->hva, .gpa = e->gpa, .value = e->value, .slot = e->slot, .size = k->size };
		return ACC_ALLOW;
	}
	return set_accessed(k, e);
}

/* @e was gone through, and has A. */
static inline void note(struct acc_path *path, const struct entry *e)
{
	if (!path->is_noted)
		return;
	if (unlikely(e->slot && (e->slot->flags & MEM_GMEM)))
		path->is_noted = false;
	path->hva[path->n] = e->hva;
	path->value[path->n++] = e->frozen ? e->value : e->value | PTE_A;
}

static enum acc_verdict walk_once(const struct walker *k, struct acc_request *rq, struct acc_walk *w)
{
	const struct acc_cpu *cpu = k->cpu;
	uint64_t table = cpu->cr3 & (k->size == 4 ? 0xfffff000ull : ADDR_MASK);
	unsigned level = k->levels;

	w->user = w->writable = true;
	w->no_exec = false;
	w->leaf.hva = NULL;
	w->path.is_noted = k->is_noted;
	w->path.n = 0;
	if (k->size == 8 && level == 2) {	/* PAE: the PDPTEs are in registers, and grant everything */
		uint64_t pdpte = cpu->pdptr[k->la >> 30 & 3];

		if (!(pdpte & PTE_P))
			return page_fault(k, 0);
		table = pdpte & ADDR_MASK;
	}
	for (;; level--) {
		unsigned shift = GW_PAGE_SHIFT + k->index_bits * (level - 1);
		uint64_t index = k->la >> shift & (BIT64(k->index_bits) - 1);
		struct entry e = { .gpa = GPA(table + index * k->size) };
		enum acc_verdict v = read_entry(k, &e);
		bool leaf;

		if (unlikely(v != ACC_ALLOW))
			return v == ACC_DEVICE ? page_fault(k, 0) : v;
		if (!(e.value & PTE_P))
			return page_fault(k, 0);
		leaf = is_leaf(k, level, e.value);
		if (unlikely(e.value & (k->reserved | reserved_at(k, level, leaf))))
			return page_fault(k, PFEC_P | PFEC_RSVD);
		w->user &= (e.value & PTE_U) != 0;
		w->writable &= (e.value & PTE_W) != 0;
		w->no_exec |= k->size == 8 && (e.value & PTE_NX);
		note(&w->path, &e);
		if (leaf) {
			w->path.is_large = shift != GW_PAGE_SHIFT;
			return finish(k, rq, w, &e, shift);
		}
		v = set_accessed(k, &e);
		if (unlikely(v != ACC_ALLOW))
			return v;
		table = e.value & (k->size == 4 ? 0xfffff000ull : ADDR_MASK);
	}
}

static void choose_format(struct walker *k)
{
	const struct acc_cpu *cpu = k->cpu;
	unsigned m = cpu->maxphyaddr;

	k->size = 8;
	k->index_bits = 9;
	k->la = k->rq->gva.v;
	if (cpu->efer & EFER_LMA) {
		k->levels = cpu->cr4 & CR4_LA57 ? 5 : 4;
		k->reserved = m < 52 ? BIT64(52) - BIT64(m) : 0;
	} else if (cpu->cr4 & CR4_PAE) {
		k->levels = 2;
		k->la &= 0xffffffffu;
		k->reserved = BIT64(63) - BIT64(m < 52 ? m : 52);
	} else {
		k->levels = 2;
		k->la &= 0xffffffffu;
		k->size = 4;
		k->index_bits = 10;
		k->reserved = 0;
		return;
	}
	if (!(cpu->efer & EFER_NX))
		k->reserved |= PTE_NX;
}

static bool canonical(const struct acc_cpu *cpu, uint64_t la)
{
	unsigned unused = cpu->cr4 & CR4_LA57 ? 64 - 57 : 64 - 48;

	return (uint64_t)((int64_t)(la << unused) >> unused) == la;
}

static enum acc_verdict without_paging(const struct mem_map *map, struct acc_request *rq, struct acc_walk *w)
{
	rq->gpa = GPA(rq->gva.v & 0xffffffffu);
	rq->page_shift = GW_PAGE_SHIFT;
	rq->user_translation = true;
	rq->private_bit = kind_of(map, rq->gpa);
	/* Field by field: the leaf, most of it, is nobody's without @hva. */
	w->allowed = ACC_R | ACC_W | ACC_X;
	w->user = w->writable = w->dirty = true;
	w->no_exec = w->global = w->known = false;
	w->pkey = 0;
	w->leaf.hva = NULL;
	return ACC_ALLOW;
}

enum acc_verdict acc_walk(const struct mem_map *map, struct acc_request *rq, struct acc_walk *w, struct acc_result *out, unsigned flags)
{
	const struct acc_cpu *cpu = rq->cpu;
	struct walker k = {
		.rq = rq, .cpu = cpu, .map = map, .out = out, .flags = flags,
		.judged = atomic_load_explicit(&cpu->vm->guards->any_walk, memory_order_relaxed) && !(flags & WALK_LOOK),
		.mode = acc_mode_of(cpu, rq->cpl, rq->stage == ACC_IMPLICIT),
	};
	enum acc_verdict v = ACC_RETRY;

	w->known = w->path.is_noted = false;
	if (!(cpu->cr0 & CR0_PG))
		return without_paging(map, rq, w);
	if ((cpu->efer & EFER_LMA) && unlikely(!canonical(cpu, rq->gva.v))) {
		out->guard = ACC_NO_GUARD;
		out->event = (struct acc_event){ .vector = rq->stack ? VEC_SS : VEC_GP, .has_error = true };
		return ACC_FAULT;
	}
	choose_format(&k);
	k.is_noted = (cpu->efer & EFER_LMA) && !k.judged && !map->kinds && !flags;
	for (unsigned i = 0; v == ACC_RETRY && i < MAX_RESTARTS; i++)
		v = walk_once(&k, rq, w);
	return v;
}

bool acc_load_pdptrs(struct acc_cpu *cpu, uint64_t cr3, uint64_t pdptr[4])
{
	struct acc_request rq = { .cpu = cpu, .origin = ACC_INSN, .rights = ACC_R, .cpl = 0, .gva = GVA(cr3) };
	struct acc_result out;
	struct walker k = { .rq = &rq, .cpu = cpu, .out = &out, .size = 8,
			    .judged = atomic_load_explicit(&cpu->vm->guards->any_walk, memory_order_relaxed) };
	unsigned m = cpu->maxphyaddr;
	/* Bits 63:M, 8:5 and 2:1 of a present PDPTE. */
	uint64_t reserved = ~(BIT64(m < 52 ? m : 52) - 1) | 0x1e6;
	uint64_t value[4];
	bool ok = true;

	acc_host_begin(cpu->vm);
	k.map = acc_cpu_map(cpu);
	for (unsigned i = 0; i < 4 && ok; i++) {
		struct entry e = { .gpa = GPA((cr3 & 0xffffffe0ull) + i * 8) };

		ok = read_entry(&k, &e) == ACC_ALLOW && !((e.value & PTE_P) && (e.value & reserved));
		value[i] = e.value;
	}
	acc_host_end(cpu->vm);
	for (unsigned i = 0; i < 4 && ok; i++)
		pdptr[i] = value[i];
	return ok;
}

enum acc_verdict acc_translate(struct acc_request *rq, struct acc_result *out)
{
	struct acc_cpu *cpu = rq->cpu;
	struct acc_walk w;
	enum acc_verdict v;

	acc_host_begin(cpu->vm);
	v = acc_walk(acc_cpu_map(cpu), rq, &w, out, WALK_LOOK);
	acc_host_end(cpu->vm);
	return v;
}
