/* SPDX-License-Identifier: MIT */
/*
 * MOVS STOS LODS CMPS SCAS, alone and repeated.
 *
 * A repeated instruction works in runs: as many elements as lie in one page on each side and are plain memory in the TLB. What
 * a run cannot do (page crossers, faults, devices, pages under watch) is done one element at a time by the general way, which
 * also brings the page into the TLB. Pointers and count are committed after every run, so the instruction can be left between
 * runs, with RIP at it, and begun again: for attention, and after each element when it runs alone.
 */
#include "cpu/interp/interp_private.h"

/* So often at most goes a repeated instruction round before the dispatcher has a look at the clock. */
#define MAX_ROUNDS	64u
#define CHUNK		64u	/* bytes at once in a page that holds code: one line of its marks */

/* ---- pointers and count: of the address size -------------------------------------------------------------------------------- */

static inline uint64_t pointer(const struct vcpu *c, const struct cpu_op *o, unsigned reg)
{
	return c->gpr[reg] & o->admask;
}

static inline void set_sized(struct vcpu *c, const struct cpu_op *o, unsigned reg, uint64_t v)
{
	if (o->admask == 0xffff)
		W16(c, reg, v);
	else
		c->gpr[reg] = v & o->admask;
}

static inline void advance(struct vcpu *c, const struct cpu_op *o, unsigned reg, uint64_t n)
{
	uint64_t bytes = n * o->opsize;

	set_sized(c, o, reg, c->gpr[reg] + (c->eflags & FLAG_DF ? 0 - bytes : bytes));
}

/* One of the two memory operands. */
struct side {
	unsigned reg, seg, rights;
	bool check;
};

/* [seg:rSI]: DS unless overridden. */
static inline struct side source(const struct cpu_op *o)
{
	return (struct side){ RSI, o->seg, ACC_R, o->flags & OP_CHECK_SEG };
}

/* [ES:rDI], whatever the prefixes. */
static inline struct side destination(const struct vcpu *c, unsigned rights)
{
	if (c->mode == INSN_MODE_64)
		return (struct side){ RDI, SEG_FLAT, rights, false };
	return (struct side){ RDI, SEG_ES, rights, !c->flat };
}

static inline bool linear(struct vcpu *c, const struct cpu_op *o, const struct side *s, unsigned len, uint64_t *la)
{
	uint64_t ea = pointer(c, o, s->reg);

	if (s->check)
		return cpu_seg_linear(c, o, s->seg, ea, len, s->rights, la);
	*la = ea + c->seg_base[s->seg];
	return true;
}

static inline uint8_t *probe(struct vcpu *c, const struct side *s, uint64_t la, unsigned len)
{
	return s->rights & ACC_W ? acc_probe_w(&c->acc, la, len) : acc_probe_r(&c->acc, la, len);
}

/* ---- runs --------------------------------------------------------------------------------------------------------------------------- */

/* Bytes from @ea up that no segment check can refuse; 0 when the segment is none of the ordinary. */
static uint64_t segment_room(const struct vcpu *c, const struct side *s, uint64_t ea)
{
	const struct cpu_seg *seg = &c->seg[s->seg];

	if (seg->unusable || !seg->present || !seg->s || seg->type & 0xc || (s->rights & ACC_W && !(seg->type & 2)))
		return 0;
	return ea <= seg->limit ? (uint64_t)seg->limit - ea + 1 : 0;
}

/*
 * How many elements from the pointer on, in the direction of DF, lie whole in the pointer's page without a wrap of the address
 * and without a refusal of the segment; *p is the host address of the first. 0: use the general way.
 */
static uint64_t run_of(struct vcpu *c, const struct cpu_op *o, const struct side *s, uint8_t **p)
{
	uint64_t ea = pointer(c, o, s->reg), la = ea + c->seg_base[s->seg], room, n;
	unsigned size = o->opsize, off;

	if (s->check && segment_room(c, s, ea) < size)
		return 0;
	if (c->mode != INSN_MODE_64)
		la = (uint32_t)la;
	*p = probe(c, s, la, size);
	if (!*p)
		return 0;
	off = la & GW_PAGE_MASK;
	if (c->eflags & FLAG_DF) {
		n = off / size + 1;
		return ea / size + 1 < n ? ea / size + 1 : n;
	}
	room = GW_PAGE_SIZE - off;
	if (s->check && segment_room(c, s, ea) < room)
		room = segment_room(c, s, ea);
	if (o->admask - ea < room - 1)
		room = o->admask - ea + 1;
	return room / size;
}

static inline uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* Leave the repeated instruction between two rounds? RIP stays at it. */
static bool pause_here(struct vcpu *c, const struct cpu_op *o, unsigned round)
{
	if (likely(!round || (!c->alone && round < MAX_ROUNDS &&
			      !atomic_load_explicit(&c->acc.attention, memory_order_relaxed))))
		return false;
	c->rip = cpu_op_rip(c, o);
	return true;
}

/* The general way may take more than one element where the page's only peculiarity is that it holds code. */
static unsigned chunk_in_code(struct vcpu *c, const struct cpu_op *o, const struct cpu_ref *r, uint64_t count)
{
	uint64_t to_line = CHUNK - (r->gva & (CHUNK - 1));
	const uint8_t *hva = r->piece[0].hva;

	if (c->alone || c->eflags & FLAG_DF || !r->code || r->n != 1 || r->piece[0].verdict != ACC_ALLOW)
		return 1;
	if (!acc_store_hits(c->acc.vm, hva - (r->gva & GW_PAGE_MASK), GW_PAGE_SIZE))
		return 1;
	to_line = least(to_line / o->opsize, count);
	return to_line ? (unsigned)to_line : 1;
}

/* Neither the end of the segment nor that of the addresses comes within a chunk. */
static bool has_chunk(const struct vcpu *c, const struct cpu_op *o, const struct side *s)
{
	uint64_t ea = pointer(c, o, s->reg);

	return o->admask - ea >= CHUNK && (!s->check || segment_room(c, s, ea) >= CHUNK);
}

/* ---- MOVS ------------------------------------------------------------------------------------------------------------------------------ */

#define HOST_MOVS(sfx)													\
	if (down)													\
		__asm__ volatile("std; rep movs" #sfx "; cld" : "+D" (d), "+S" (s), "+c" (n) : : "memory");		\
	else														\
		__asm__ volatile("rep movs" #sfx : "+D" (d), "+S" (s), "+c" (n) : : "memory");				\
	break

/* Elements one after the other, also when they overlap: the host's instruction has the same rule. */
static void host_movs(uint8_t *d, const uint8_t *s, uint64_t n, unsigned size, bool down)
{
	switch (size) {
	case 1: HOST_MOVS(b);
	case 2: HOST_MOVS(w);
	case 4: HOST_MOVS(l);
	default: HOST_MOVS(q);
	}
}

/* One element (or a few, see above) by the general way. Returns how many; 0: refused. */
static uint64_t movs_general(struct vcpu *c, const struct cpu_op *o, uint64_t count)
{
	struct side s = source(o), d = destination(c, ACC_W);
	struct cpu_want w[2] = {
		{ .len = o->opsize, .rights = ACC_R, .stage = ACC_FINAL, .stack = o->flags & OP_STACK },
		{ .len = o->opsize, .rights = ACC_W, .stage = ACC_FINAL },
	};
	uint8_t data[CHUNK], *from;
	struct cpu_ref r[2];
	unsigned n;

	if (!linear(c, o, &s, o->opsize, &w[0].gva) || !linear(c, o, &d, o->opsize, &w[1].gva) || !cpu_refs(c, o, w, 2, r))
		return 0;
	n = chunk_in_code(c, o, &r[1], count);
	/* Not into a chunk that feeds on itself: there the order of elements matters. */
	if (n > 1 && w[1].gva - w[0].gva >= CHUNK && has_chunk(c, o, &s) && has_chunk(c, o, &d) && run_of(c, o, &s, &from) >= n) {
		w[0].len = w[1].len = (uint16_t)(n * o->opsize);
		if (!cpu_refs(c, o, w, 2, r))
			return 0;
	} else {
		n = 1;
	}
	if (!cpu_ref_load(c, o, &r[0], data))
		return 0;
	cpu_ref_store(c, o, &r[1], data);
	return n;
}

static uint64_t movs_run(struct vcpu *c, const struct cpu_op *o, uint64_t count)
{
	struct side s = source(o), d = destination(c, ACC_W);
	uint8_t *from, *to;
	uint64_t n = least(run_of(c, o, &s, &from), count);

	if (n)
		n = least(run_of(c, o, &d, &to), n);
	if (!n)
		return 0;
	c->cur = o;
	host_movs(to, from, n, o->opsize, c->eflags & FLAG_DF);
	return n;
}

static bool movs_some(struct vcpu *c, const struct cpu_op *o, uint64_t count, uint64_t *n)
{
	*n = movs_run(c, o, c->alone ? 1 : count);
	if (!*n)
		*n = movs_general(c, o, count);
	if (!*n)
		return false;
	advance(c, o, RSI, *n);
	advance(c, o, RDI, *n);
	return true;
}

INT_SLOW(movs)
{
	uint64_t n;

	return movs_some(c, o, 1, &n);
}

/* ---- STOS ------------------------------------------------------------------------------------------------------------------------------ */

static void host_stos(uint8_t *d, uint64_t v, uint64_t n, unsigned size)
{
	switch (size) {
	case 1: __asm__ volatile("rep stosb" : "+D" (d), "+c" (n) : "a" (v) : "memory"); break;
	case 2: __asm__ volatile("rep stosw" : "+D" (d), "+c" (n) : "a" (v) : "memory"); break;
	case 4: __asm__ volatile("rep stosl" : "+D" (d), "+c" (n) : "a" (v) : "memory"); break;
	default: __asm__ volatile("rep stosq" : "+D" (d), "+c" (n) : "a" (v) : "memory"); break;
	}
}

static uint64_t stos_general(struct vcpu *c, const struct cpu_op *o, uint64_t count)
{
	struct side d = destination(c, ACC_W);
	uint8_t data[CHUNK];
	struct cpu_ref r;
	uint64_t la;
	unsigned n;

	if (!linear(c, o, &d, o->opsize, &la) || !cpu_ref_get(c, o, la, o->opsize, ACC_W, &r))
		return 0;
	n = r.p ? 1 : chunk_in_code(c, o, &r, count);
	if (n > 1 && !has_chunk(c, o, &d))
		n = 1;
	if (n > 1 && !cpu_ref_get(c, o, la, n * o->opsize, ACC_W, &r))
		return 0;
	host_stos(data, c->gpr[RAX], n, o->opsize);
	cpu_ref_store(c, o, &r, data);
	return n;
}

static uint64_t stos_run(struct vcpu *c, const struct cpu_op *o, uint64_t count)
{
	struct side d = destination(c, ACC_W);
	uint8_t *to;
	uint64_t n = least(run_of(c, o, &d, &to), count);

	if (!n)
		return 0;
	c->cur = o;
	if (c->eflags & FLAG_DF)
		to -= (n - 1) * o->opsize;
	host_stos(to, c->gpr[RAX], n, o->opsize);
	return n;
}

static bool stos_some(struct vcpu *c, const struct cpu_op *o, uint64_t count, uint64_t *n)
{
	*n = stos_run(c, o, c->alone ? 1 : count);
	if (!*n)
		*n = stos_general(c, o, count);
	if (!*n)
		return false;
	advance(c, o, RDI, *n);
	return true;
}

INT_SLOW(stos)
{
	uint64_t n;

	return stos_some(c, o, 1, &n);
}

/* ---- LODS: every element is read, the last one stays ----------------------------------------------------------------------------------- */

static bool load_element(struct vcpu *c, const struct cpu_op *o, const struct side *s, uint64_t *v)
{
	struct cpu_ref r;
	uint64_t la;

	*v = 0;
	return linear(c, o, s, o->opsize, &la) && cpu_ref_get(c, o, la, o->opsize, ACC_R, &r) && cpu_ref_load(c, o, &r, v);
}

static bool lods_some(struct vcpu *c, const struct cpu_op *o, uint64_t count, uint64_t *n)
{
	struct side s = source(o);
	uint64_t v;

	*n = 1;
	if (!load_element(c, o, &s, &v))
		return false;
	switch (o->opsize) {
	case 1: W8(c, OFF_AL, v); break;
	case 2: W16(c, RAX, v); break;
	default: c->gpr[RAX] = v; break;
	}
	advance(c, o, RSI, 1);
	return true;
}

INT_SLOW(lods)
{
	uint64_t n;

	return lods_some(c, o, 1, &n);
}

/* ---- the repetition of those three ---------------------------------------------------------------------------------------------------------- */

/*
 * A count of zero touches no memory, but registers of the address size are written: with 32-bit addresses the upper halves go,
 * of those that the host clears then (seen on current Intel CPUs).
 */
static void nothing_to_do(struct vcpu *c, const struct cpu_op *o, bool source_too, bool destination_too)
{
	set_sized(c, o, RCX, 0);
	if (source_too)
		set_sized(c, o, RSI, c->gpr[RSI]);
	if (destination_too)
		set_sized(c, o, RDI, c->gpr[RDI]);
}

#define REPEAT(op, source_too, destination_too)										\
INT_SLOW(rep_##op)													\
{															\
	for (unsigned round = 0;; round++) {										\
		uint64_t count = pointer(c, o, RCX), n;									\
															\
		if (!count) {												\
			nothing_to_do(c, o, source_too, destination_too);						\
			return true;											\
		}													\
		if (pause_here(c, o, round) || !op##_some(c, o, count, &n))						\
			return false;											\
		set_sized(c, o, RCX, count - n);									\
	}														\
}
REPEAT(movs, true, true)
REPEAT(stos, false, true)
REPEAT(lods, false, false)

/* ---- CMPS, SCAS ------------------------------------------------------------------------------------------------------------------------------ */

static void compare(struct vcpu *c, uint64_t a, uint64_t b, unsigned size)
{
	uint16_t f;

	switch (size) {
	case 1: __asm__("cmpb %b2, %b1" CC_SAVE : "=&a" (f) : "r" (a), "r" (b) : "cc"); break;
	case 2: __asm__("cmpw %w2, %w1" CC_SAVE : "=&a" (f) : "r" (a), "r" (b) : "cc"); break;
	case 4: __asm__("cmpl %k2, %k1" CC_SAVE : "=&a" (f) : "r" (a), "r" (b) : "cc"); break;
	default: __asm__("cmpq %2, %1" CC_SAVE : "=&a" (f) : "r" (a), "r" (b) : "cc"); break;
	}
	c->cc = f;
}

static inline uint64_t element(const uint8_t *p, unsigned size)
{
	switch (size) {
	case 1: return *(const volatile int_u8 *)p;
	case 2: return *(const volatile int_u16 *)p;
	case 4: return *(const volatile int_u32 *)p;
	default: return *(const volatile int_u64 *)p;
	}
}

/* Is the repetition over after a comparison with this outcome? */
static inline bool ends(const struct cpu_op *o, bool equal)
{
	return equal == !!(o->flags & OP_REPNE);
}

/* How many of @n elements are compared until one ends it (that one counted). @a steps too, or is one value. */
static inline uint64_t scan(const struct cpu_op *o, const uint8_t *a, bool a_steps, const uint8_t *b, uint64_t n, bool down, unsigned size)
{
	int64_t step = down ? -(int64_t)size : (int64_t)size, a_step = a_steps ? step : 0;
	uint64_t i;

	for (i = 0; i < n; i++) {
		if (ends(o, element(a, size) == element(b, size)))
			return i + 1;
		a += a_step;
		b += step;
	}
	return n;
}

static uint64_t scan_sized(const struct cpu_op *o, const uint8_t *a, bool a_steps, const uint8_t *b, uint64_t n, bool down)
{
	switch (o->opsize) {
	case 1: return scan(o, a, a_steps, b, n, down, 1);
	case 2: return scan(o, a, a_steps, b, n, down, 2);
	case 4: return scan(o, a, a_steps, b, n, down, 4);
	default: return scan(o, a, a_steps, b, n, down, 8);
	}
}

static inline uint64_t low(uint64_t v, unsigned size)
{
	return size == 8 ? v : v & ((1ull << size * 8) - 1);
}

static bool scas_one(struct vcpu *c, const struct cpu_op *o)
{
	struct side d = destination(c, ACC_R);
	uint64_t v;

	if (!load_element(c, o, &d, &v))
		return false;
	compare(c, c->gpr[RAX], v, o->opsize);
	advance(c, o, RDI, 1);
	return true;
}

/* CPUs look at [ES:rDI] first: its faults win. */
static bool cmps_one(struct vcpu *c, const struct cpu_op *o)
{
	struct side s = source(o), d = destination(c, ACC_R);
	struct cpu_want w[2] = {
		{ .len = o->opsize, .rights = ACC_R, .stage = ACC_FINAL },
		{ .len = o->opsize, .rights = ACC_R, .stage = ACC_FINAL, .stack = o->flags & OP_STACK },
	};
	uint64_t a = 0, b = 0;
	struct cpu_ref r[2];

	if (!linear(c, o, &d, o->opsize, &w[0].gva) || !linear(c, o, &s, o->opsize, &w[1].gva) || !cpu_refs(c, o, w, 2, r) ||
	    !cpu_ref_load(c, o, &r[0], &b) || !cpu_ref_load(c, o, &r[1], &a))
		return false;
	compare(c, a, b, o->opsize);
	advance(c, o, RSI, 1);
	advance(c, o, RDI, 1);
	return true;
}

/* A run of comparisons; 0 if there is none to be had. */
static uint64_t scas_run(struct vcpu *c, const struct cpu_op *o, uint64_t count)
{
	uint64_t value = low(c->gpr[RAX], o->opsize), n;
	struct side d = destination(c, ACC_R);
	bool down = c->eflags & FLAG_DF;
	uint8_t *p;

	n = least(run_of(c, o, &d, &p), count);
	if (!n)
		return 0;
	c->cur = o;
	n = scan_sized(o, (const uint8_t *)&value, false, p, n, down);
	p += (int64_t)(n - 1) * (down ? -(int64_t)o->opsize : (int64_t)o->opsize);
	compare(c, value, element(p, o->opsize), o->opsize);
	advance(c, o, RDI, n);
	return n;
}

static uint64_t cmps_run(struct vcpu *c, const struct cpu_op *o, uint64_t count)
{
	struct side s = source(o), d = destination(c, ACC_R);
	bool down = c->eflags & FLAG_DF;
	uint8_t *a, *b;
	uint64_t n;
	int64_t last;

	n = least(run_of(c, o, &s, &a), count);
	if (n)
		n = least(run_of(c, o, &d, &b), n);
	if (!n)
		return 0;
	c->cur = o;
	n = scan_sized(o, a, true, b, n, down);
	last = (int64_t)(n - 1) * (down ? -(int64_t)o->opsize : (int64_t)o->opsize);
	compare(c, element(a + last, o->opsize), element(b + last, o->opsize), o->opsize);
	advance(c, o, RSI, n);
	advance(c, o, RDI, n);
	return n;
}

#define COMPARISON(op)													\
INT_SLOW(op)														\
{															\
	return op##_run(c, o, 1) || op##_one(c, o);									\
}															\
INT_SLOW(rep_##op)													\
{															\
	for (unsigned round = 0;; round++) {										\
		uint64_t count = pointer(c, o, RCX), n;									\
															\
		if (!count) {												\
			nothing_to_do(c, o, false, false);								\
			return true;											\
		}													\
		if (pause_here(c, o, round))										\
			return false;											\
		n = op##_run(c, o, c->alone ? 1 : count);								\
		if (!n) {												\
			if (!op##_one(c, o))										\
				return false;										\
			n = 1;												\
		}													\
		set_sized(c, o, RCX, count - n);									\
		if (ends(o, c->cc & CC_ZF))										\
			return true;											\
	}														\
}
COMPARISON(cmps)
COMPARISON(scas)

bool int_lower_string(const struct insn *in, struct cpu_op *o)
{
	bool rep = o->flags & (OP_REP | OP_REPNE);

	switch (in->op) {
	case I_MOVS: o->fn = rep ? rep_movs : movs; return true;
	case I_STOS: o->fn = rep ? rep_stos : stos; return true;
	case I_LODS: o->fn = rep ? rep_lods : lods; return true;
	case I_CMPS: o->fn = rep ? rep_cmps : cmps; return true;
	case I_SCAS: o->fn = rep ? rep_scas : scas; return true;
	default: return false;
	}
}
