/* SPDX-License-Identifier: MIT */
/*
 * The page walk against two naive models: every combination of the bits that decide, in all four formats; then random tables.
 * Compared: fault or not, vector, error code, CR2, guest-physical address, and every byte of the tables afterwards (A and D).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "access/access.h"
#include "access/walk_model.h"
#include "isa/x86.h"

#define RAM_PAGES	16u
#define RAM_SIZE	(RAM_PAGES * GW_PAGE_SIZE)
#define MAXPHY		46
#define TABLE(level)	((uint64_t)(level) * GW_PAGE_SIZE)	/* table of that level lives in the frame of that number */
#define DATA_PAGE	8ull

static const struct model {
	const char *name;
	struct model_result (*walk)(const struct model_cpu *c, const struct model_access *a, uint8_t *memory, uint64_t size);
} models[] = { { "walk_model", model_walk }, { "walk_model2", model2_walk } };

#define N_MODELS	ARRAY_SIZE(models)

struct machine {
	struct acc_vm *vm;
	struct mem_code_map *code;
	struct acc_cpu *cpu;
	uint8_t *ram, *model_ram[N_MODELS];
	unsigned long cases, faults;
};

static int setup(void **state)
{
	struct machine *m = calloc(1, sizeof(*m));
	struct mem_slot s = { .id = 0, .n_pages = RAM_PAGES };
	struct mem_map *map;

	m->ram = aligned_alloc(GW_PAGE_SIZE, RAM_SIZE);
	for (unsigned i = 0; i < N_MODELS; i++)
		m->model_ram[i] = aligned_alloc(GW_PAGE_SIZE, RAM_SIZE);
	m->cpu = aligned_alloc(64, (sizeof(*m->cpu) + 63) & ~(size_t)63);
	memset(m->ram, 0, RAM_SIZE);
	memset(m->cpu, 0, sizeof(*m->cpu));
	s.hva = m->ram;
	m->cpu->maxphyaddr = MAXPHY;
	if (mem_code_map_new(&m->code) || acc_vm_new(NULL, m->code, &m->vm) || mem_map_change(NULL, &s, &map) || acc_cpu_init(m->cpu, m->vm))
		return -1;
	acc_vm_set_map(m->vm, map);
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	struct machine *m = *state;

	acc_cpu_fini(m->cpu);
	acc_vm_free(m->vm);
	mem_code_map_free(m->code);
	free(m->cpu);
	free(m->ram);
	for (unsigned i = 0; i < N_MODELS; i++)
		free(m->model_ram[i]);
	free(m);
	return 0;
}

/* ---- one case ------------------------------------------------------------------------------------------------------------ */

struct access { uint8_t rights, cpl; bool implicit; };

static const struct access accesses[] = {
	{ ACC_R, 0, false }, { ACC_W, 0, false }, { ACC_X, 0, false }, { ACC_RW, 0, false },
	{ ACC_R, 3, false }, { ACC_W, 3, false }, { ACC_X, 3, false }, { ACC_RW, 3, false },
	{ ACC_R, 0, true }, { ACC_W, 0, true }, { ACC_R, 3, true }, { ACC_RW, 3, true },
};

static struct model_cpu model_of(const struct acc_cpu *c)
{
	struct model_cpu m = {
		.pg = c->cr0 & CR0_PG, .wp = c->cr0 & CR0_WP,
		.pse = c->cr4 & CR4_PSE, .pae = c->cr4 & CR4_PAE, .la57 = c->cr4 & CR4_LA57,
		.smep = c->cr4 & CR4_SMEP, .smap = c->cr4 & CR4_SMAP, .pke = c->cr4 & CR4_PKE,
		.pks = c->cr4 & CR4_PKS, .pkrs = c->pkrs,
		.lma = c->efer & EFER_LMA, .nxe = c->efer & EFER_NX,
		.ac = c->ac, .cr3 = c->cr3, .pkru = c->pkru, .maxphyaddr = c->maxphyaddr,
	};

	memcpy(m.pdptr, c->pdptr, sizeof(m.pdptr));
	return m;
}

/* What the engine answered, against one model's answer. */
static bool agrees(const struct acc_request *rq, enum acc_verdict v, const struct acc_event *event, const struct model_result *want,
		   const char *name, char *why, size_t room)
{
	int vector = v == ACC_FAULT ? event->vector : -1;

	if (vector != want->vector || (vector != -1 && (event->error != want->error || !event->has_error))) {
		snprintf(why, room, "vector %d error %#x, %s says %d %#x", vector, vector == -1 ? 0 : event->error, name, want->vector,
			 want->error);
		return false;
	}
	if (vector == -1 && rq->gpa.v != want->gpa) {
		snprintf(why, room, "gpa %#llx, %s says %#llx", (unsigned long long)rq->gpa.v, name, (unsigned long long)want->gpa);
		return false;
	}
	if (vector == -1 && (v == ACC_DEVICE) != (want->gpa >= RAM_SIZE)) {
		snprintf(why, room, "verdict %d for gpa %#llx", v, (unsigned long long)want->gpa);
		return false;
	}
	return true;
}

/* Restores nothing: the caller sets up the tables, all copies, before each call. True: all agreed. */
static bool compare(struct machine *m, const struct access *a, uint64_t la, bool stack, char *why, size_t room)
{
	struct acc_request rq = {
		.cpu = m->cpu, .gva = GVA(la), .len = 1, .rights = a->rights, .cpl = a->cpl,
		.stage = a->implicit ? ACC_IMPLICIT : ACC_FINAL, .origin = a->implicit ? ACC_ENGINE : ACC_INSN, .stack = stack,
	};
	struct model_access ma = {
		.la = la, .read = a->rights & ACC_R, .write = a->rights & ACC_W, .fetch = a->rights & ACC_X,
		.cpl3 = a->cpl == 3, .implicit = a->implicit, .stack = stack,
	};
	struct model_cpu mc = model_of(m->cpu);
	struct acc_result out;
	enum acc_verdict v;

	memset(&out, 0, sizeof(out));
	v = acc_check(&rq, &out);
	m->cases++;
	m->faults += v == ACC_FAULT;
	if (v != ACC_FAULT && v != ACC_ALLOW && v != ACC_DEVICE) {
		snprintf(why, room, "verdict %d", v);
		return false;
	}
	if (v == ACC_FAULT && out.event.vector == VEC_PF && out.event.cr2 != la) {
		snprintf(why, room, "CR2 %#llx", (unsigned long long)out.event.cr2);
		return false;
	}
	for (unsigned i = 0; i < N_MODELS; i++) {
		struct model_result want = models[i].walk(&mc, &ma, m->model_ram[i], RAM_SIZE);

		if (!agrees(&rq, v, &out.event, &want, models[i].name, why, room))
			return false;
	}
	return true;
}

static void describe(const struct machine *m, const struct access *a, const uint64_t *entry, unsigned n, const char *why)
{
	print_error("rights %u cpl %u implicit %d cr0 %llx cr4 %llx efer %llx ac %d pkru %x entries", a->rights, a->cpl, a->implicit,
		    (unsigned long long)m->cpu->cr0, (unsigned long long)m->cpu->cr4, (unsigned long long)m->cpu->efer, m->cpu->ac, m->cpu->pkru);
	for (unsigned i = 0; i < n; i++)
		print_error(" %llx", (unsigned long long)entry[i]);
	print_error(": %s\n", why);
}

/* ---- formats ------------------------------------------------------------------------------------------------------------- */

struct format {
	const char *name;
	uint64_t cr4, efer;
	unsigned levels, size, index_bits;
	uint64_t la;
	uint64_t reserved[6];	/* a reserved bit of an entry of that level that is not a large page */
};

static const struct format formats[] = {
	{ "32-bit", CR4_PSE, 0, 2, 4, 10, 0x12345678, { 0, 0, 0 } },
	{ "PAE", CR4_PAE, 0, 2, 8, 9, 0x92345678, { 0, BIT64(60), BIT64(51) } },
	{ "4-level", CR4_PAE, EFER_LMA, 4, 8, 9, 0xffff823456789abcull, { 0, BIT64(46), BIT64(51), BIT64(50), PTE_PS } },
	{ "5-level", CR4_PAE | CR4_LA57, EFER_LMA, 5, 8, 9, 0x00d2823456789abcull, { 0, BIT64(47), BIT64(51), BIT64(46), PTE_PS, PTE_PS } },
};

static uint64_t entry_at(const struct format *f, unsigned level)
{
	unsigned shift = 12 + f->index_bits * (level - 1);

	return TABLE(level) + (f->la >> shift & ((1u << f->index_bits) - 1)) * f->size;
}

static void write_entry(struct machine *m, const struct format *f, unsigned level, uint64_t e)
{
	memcpy(m->ram + entry_at(f, level), &e, f->size);
	for (unsigned i = 0; i < N_MODELS; i++)
		memcpy(m->model_ram[i] + entry_at(f, level), &e, f->size);
}

static void check_entries(struct machine *m, const struct format *f, const struct access *a, const uint64_t *entry)
{
	char why[128];

	for (unsigned l = 1; l <= f->levels; l++)
		write_entry(m, f, l, entry[l]);
	if (!compare(m, a, f->la, false, why, sizeof(why))) {
		describe(m, a, entry + 1, f->levels, why);
		fail();
	}
	for (unsigned i = 0; i < N_MODELS; i++)
		for (unsigned l = 1; l <= f->levels; l++)
			if (memcmp(m->ram + entry_at(f, l), m->model_ram[i] + entry_at(f, l), f->size)) {
				snprintf(why, sizeof(why), "%s: A or D of level %u differ", models[i].name, l);
				describe(m, a, entry + 1, f->levels, why);
				fail();
			}
}

static void begin(struct machine *m, const struct format *f)
{
	memset(m->ram, 0, RAM_SIZE);
	for (unsigned i = 0; i < N_MODELS; i++)
		memset(m->model_ram[i], 0, RAM_SIZE);
	memset(m->cpu->pdptr, 0, sizeof(m->cpu->pdptr));
	m->cpu->cr3 = TABLE(f->levels);
	if (f->size == 8 && f->levels == 2) {
		m->cpu->cr3 = 0x20;
		m->cpu->pdptr[f->la >> 30 & 3] = TABLE(2) | PTE_P;
	}
	m->cases = m->faults = 0;
}

/* The control bits: five of one kind, and protection keys off or in their four states for key 1, of user and of supervisor pages. */
#define N_CONTROL (32u * 9u)
static bool set_control(struct machine *m, const struct format *f, unsigned i)
{
	unsigned keys = i / 32;

	m->cpu->cr0 = CR0_PE | CR0_PG | (i & 1 ? CR0_WP : 0);
	m->cpu->cr4 = f->cr4 | (i & 2 ? CR4_SMEP : 0) | (i & 4 ? CR4_SMAP : 0) | (keys && keys < 5 ? CR4_PKE : keys ? CR4_PKS : 0);
	m->cpu->ac = i & 8;
	m->cpu->efer = f->efer | (i & 16 ? EFER_NX : 0);
	/* The other register is full of what would be seen if it counted. */
	m->cpu->pkru = keys && keys < 5 ? (keys - 1) << 2 : ~0u;
	m->cpu->pkrs = keys < 5 ? ~0u : (keys - 5) << 2;
	/* In the 32-bit format NXE and keys do nothing: half of the one and one of the other is enough. */
	return f->size == 8 || keys < 2;
}

static uint64_t entry_of(const struct format *f, unsigned level, unsigned bits, bool large)
{
	uint64_t e = 0;

	e |= bits & 1 ? PTE_P : 0;
	e |= bits & 2 ? PTE_W : 0;
	e |= bits & 4 ? PTE_U : 0;
	e |= bits & 8 && f->size == 8 ? PTE_NX : 0;
	e |= bits & 16 ? (large ? BIT64(f->size == 4 ? 21 : 13) : f->reserved[level]) : 0;
	e |= large ? PTE_PS : 0;
	if (large)
		return e | (f->efer ? 1ull << 59 : 0);
	if (level == 1)
		return e | DATA_PAGE << 12 | (f->efer ? 1ull << 59 : 0);
	return e | TABLE(level - 1);
}

static void upper_levels(const struct format *f, uint64_t *entry)
{
	for (unsigned l = 3; l <= f->levels; l++)
		entry[l] = TABLE(l - 1) | PTE_P | PTE_W | PTE_U;
}

/* P, W, U, NX and a reserved bit in both the PTE and the PDE, large or not, under all control bits, for all accesses. */
static void permissions(void **state)
{
	struct machine *m = *state;
	const struct format *f = NULL;

	for (unsigned fi = 0; fi < ARRAY_SIZE(formats); fi++) {
		f = &formats[fi];
		begin(m, f);
		for (unsigned control = 0; control < N_CONTROL; control++) {
			if (!set_control(m, f, control))
				continue;
			for (unsigned bits = 0; bits < 32 * 64; bits++) {
				bool large = bits & 1024;
				uint64_t entry[6] = { 0 };

				if (large && (bits & 31))
					continue;
				entry[1] = entry_of(f, 1, bits & 31, false);
				entry[2] = entry_of(f, 2, bits >> 5 & 31, large);
				upper_levels(f, entry);
				for (unsigned a = 0; a < ARRAY_SIZE(accesses); a++)
					check_entries(m, f, &accesses[a], entry);
			}
		}
		print_message("# %s: %lu cases, %lu faults\n", f->name, m->cases, m->faults);
		assert_true(m->faults > m->cases / 10 && m->faults < m->cases);
	}
}

/* A and D as they are before, in both entries, large or not, with every access that may set them. */
static void accessed_bits(void **state)
{
	struct machine *m = *state;

	for (unsigned fi = 0; fi < ARRAY_SIZE(formats); fi++) {
		const struct format *f = &formats[fi];

		begin(m, f);
		for (unsigned control = 0; control < 32; control++)
			for (unsigned bits = 0; bits < 1024; bits++) {
				uint64_t entry[6] = { 0 };

				set_control(m, f, control);
				entry[1] = entry_of(f, 1, (bits & 7) << 1 | 1, false) | (bits & 8 ? PTE_A : 0) | (bits & 16 ? PTE_D : 0) |
					   (bits & 32 ? PTE_G : 0);
				entry[2] = entry_of(f, 2, 7, bits & 64) | (bits & 128 ? PTE_A : 0) | (bits & 256 ? PTE_D : 0) |
					   (bits & 512 ? PTE_G : 0);
				upper_levels(f, entry);
				for (unsigned a = 0; a < ARRAY_SIZE(accesses); a++)
					check_entries(m, f, &accesses[a], entry);
			}
		print_message("# %s: %lu cases, %lu faults\n", f->name, m->cases, m->faults);
	}
}

/*
 * Each single bit of each entry, alone on top of a good translation to a page of every size: finds every reserved and every
 * ignored bit, and that rights count at every level.
 */
static void single_bits(void **state)
{
	struct machine *m = *state;
	static const uint8_t controls[] = { 0, 16, 1 | 16, 2 | 4, 1 | 2 | 4 | 16 };	/* of WP, SMEP, SMAP, AC, NXE */

	for (unsigned fi = 0; fi < ARRAY_SIZE(formats); fi++) {
		const struct format *f = &formats[fi];

		begin(m, f);
		for (unsigned maxphy = 32; maxphy <= 52; maxphy += maxphy < 36 ? 1 : 4)
			for (unsigned control = 0; control < ARRAY_SIZE(controls); control++)
				for (unsigned level = 1; level <= f->levels; level++)
					for (unsigned bit = 0; bit < f->size * 8; bit++) {
						uint64_t entry[6] = { 0 };

						set_control(m, f, controls[control]);
						m->cpu->maxphyaddr = (uint8_t)maxphy;
						for (unsigned large = 0; large < 3; large++) {
							entry[1] = entry_of(f, 1, 7, false);
							entry[2] = entry_of(f, 2, 7, large == 1);
							upper_levels(f, entry);
							if (large == 2 && f->levels > 3)
								entry[3] = PTE_PS | PTE_P | PTE_W | PTE_U;
							entry[level] ^= BIT64(bit);
							for (unsigned a = 0; a < ARRAY_SIZE(accesses); a++)
								check_entries(m, f, &accesses[a], entry);
						}
					}
		m->cpu->maxphyaddr = MAXPHY;
	}
}

/* ---- random -------------------------------------------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s * 0x2545f4914f6cdd1dull;
}

/* Tables of random entries that point at each other, so that walks go deep, share pages and set bits in their own tables. */
static uint64_t random_entry(uint64_t *s)
{
	uint64_t r = next_random(s), e = (r & 15) << 12 | (r >> 8 & 0x67);

	if ((r >> 20 & 7) != 0)
		e |= PTE_P | PTE_W | PTE_U;
	if ((r >> 24 & 15) == 0)
		e |= PTE_PS;
	if ((r >> 28 & 15) == 0)
		e |= PTE_NX;
	if ((r >> 32 & 31) == 0)
		e |= BIT64(next_random(s) & 63);
	if ((r >> 40 & 7) == 0)
		e |= (next_random(s) & 15) << 59;
	return e;
}

static void random_control(struct machine *m, const struct format *f, uint64_t *s)
{
	uint64_t r = next_random(s);

	set_control(m, f, r % 32 + (r >> 8 & 1) * 32);
	m->cpu->pkru = (uint32_t)next_random(s);
	m->cpu->pkrs = (uint32_t)next_random(s);
	m->cpu->cr4 |= next_random(s) & CR4_PKS;
	if (r >> 9 & 1 && f->size == 4)
		m->cpu->cr4 &= ~CR4_PSE;
	m->cpu->cr3 = (r >> 16 & 15) << 12;
	for (unsigned i = 0; i < 4; i++)
		m->cpu->pdptr[i] = (next_random(s) & 15) << 12 | (r >> (20 + i) & 1);
}

static void random_tables(void **state)
{
	struct machine *m = *state;
	uint64_t s = 0x9e3779b97f4a7c15ull;
	char why[128];

	for (unsigned round = 0; round < 4000; round++) {
		const struct format *f = &formats[round % ARRAY_SIZE(formats)];

		for (unsigned i = 0; i < RAM_SIZE / 8; i++)
			((uint64_t *)(void *)m->ram)[i] = random_entry(&s);
		for (unsigned i = 0; i < N_MODELS; i++)
			memcpy(m->model_ram[i], m->ram, RAM_SIZE);
		random_control(m, f, &s);
		for (unsigned i = 0; i < 64; i++) {
			uint64_t r = next_random(&s), la = next_random(&s);
			const struct access *a = &accesses[r % ARRAY_SIZE(accesses)];

			if (f->efer && (r >> 8 & 15))
				la = (uint64_t)((int64_t)(la << 16) >> 16);
			else if (!f->efer)
				la &= 0xffffffff;
			if (!compare(m, a, la, r >> 16 & 1, why, sizeof(why))) {
				print_error("round %u access %u la %llx format %s: ", round, i, (unsigned long long)la, f->name);
				describe(m, a, NULL, 0, why);
				fail();
			}
		}
		for (unsigned i = 0; i < N_MODELS; i++)
			assert_memory_equal(m->ram, m->model_ram[i], RAM_SIZE);
	}
}

/* ---- single questions ------------------------------------------------------------------------------------------------------ */

static void good_tables(struct machine *m, const struct format *f, uint64_t leaf)
{
	uint64_t entry[6] = { 0 };

	begin(m, f);
	set_control(m, f, 16);
	upper_levels(f, entry);
	entry[1] = leaf;
	entry[2] = entry_of(f, 2, 7, false);
	for (unsigned l = 1; l <= f->levels; l++)
		write_entry(m, f, l, entry[l]);
}

static uint64_t read_leaf(struct machine *m, const struct format *f)
{
	uint64_t e = 0;

	memcpy(&e, m->ram + entry_at(f, 1), f->size);
	return e;
}

static void translate_sets_nothing(void **state)
{
	struct machine *m = *state;
	const struct format *f = &formats[2];
	struct acc_request rq = { .cpu = m->cpu, .gva = GVA(f->la), .len = 1, .rights = ACC_RW };
	struct acc_result out;

	good_tables(m, f, DATA_PAGE << 12 | PTE_P | PTE_W);
	assert_int_equal(acc_translate(&rq, &out), ACC_ALLOW);
	assert_int_equal(rq.gpa.v, DATA_PAGE << 12 | (f->la & 4095));
	assert_int_equal(read_leaf(m, f) & (PTE_A | PTE_D), 0);
	assert_memory_equal(m->ram, m->model_ram[0], RAM_SIZE);
}

static void table_without_memory_is_not_present(void **state)
{
	struct machine *m = *state;
	const struct format *f = &formats[2];
	struct acc_request rq = { .cpu = m->cpu, .gva = GVA(f->la), .len = 1, .rights = ACC_W };
	struct acc_result out;

	good_tables(m, f, 0);
	write_entry(m, f, 2, 0x12345000 | PTE_P | PTE_W | PTE_U);
	assert_int_equal(acc_check(&rq, &out), ACC_FAULT);
	assert_int_equal(out.event.vector, VEC_PF);
	assert_int_equal(out.event.error, PFEC_W);
}

static void linear_is_physical_without_paging(void **state)
{
	struct machine *m = *state;
	struct acc_request rq = { .cpu = m->cpu, .gva = GVA(0x1234), .len = 4, .rights = ACC_RW, .cpl = 3 };
	struct acc_result out;

	m->cpu->cr0 = CR0_PE;
	m->cpu->cr4 = m->cpu->efer = 0;
	assert_int_equal(acc_check(&rq, &out), ACC_ALLOW);
	assert_ptr_equal(out.hva, m->ram + 0x1234);
}

static void pdptr_reserved_bits_are_refused(void **state)
{
	struct machine *m = *state;
	uint64_t pdptr[4] = { 7, 7, 7, 7 }, entry[4] = { 0x1001, 0, 0x3019, 0x4001 };

	m->cpu->maxphyaddr = MAXPHY;
	memset(m->ram, 0, RAM_SIZE);
	memcpy(m->ram + 0x2020, entry, sizeof(entry));
	assert_true(acc_load_pdptrs(m->cpu, 0x2020, pdptr));
	assert_memory_equal(pdptr, entry, sizeof(entry));
	for (unsigned bit = 0; bit < 64; bit++) {
		bool reserved = bit >= MAXPHY || (bit >= 5 && bit <= 8) || bit == 1 || bit == 2;
		uint64_t bad = entry[3] ^ BIT64(bit);

		memcpy(m->ram + 0x2038, &bad, sizeof(bad));
		assert_int_equal(acc_load_pdptrs(m->cpu, 0x2020, pdptr), !reserved);
	}
	/* Not present: the other bits do not matter. */
	memcpy(m->ram + 0x2038, &(uint64_t){ ~1ull }, 8);
	assert_true(acc_load_pdptrs(m->cpu, 0x2020, pdptr));
	assert_false(acc_load_pdptrs(m->cpu, 0x12340000, pdptr));
}

/* A guard that wants walks, and notes them. */
struct note { uint64_t gpa; uint8_t rights; };
static struct { struct note note[32]; unsigned n; uint64_t refuse_gpa; uint8_t refuse_rights; } seen;

static enum acc_verdict watch_walks(void *guard, const struct acc_request *rq, struct acc_result *out)
{
	if (rq->stage != ACC_WALK)
		return ACC_ALLOW;
	if (seen.n < ARRAY_SIZE(seen.note))
		seen.note[seen.n++] = (struct note){ rq->gpa.v, rq->rights };
	if (rq->gpa.v == seen.refuse_gpa && (rq->rights & seen.refuse_rights)) {
		out->exit.reason = 1234;
		return ACC_EXIT;
	}
	return ACC_ALLOW;
}

static const struct acc_guard_ops watch_ops = { .name = "watch", .check = watch_walks };
static const struct acc_guards watching = { .n = 1, .any_walk = true, .guard = { { &watch_ops, NULL, true } } };

static void walks_are_judged(void **state)
{
	struct machine *m = *state;
	const struct format *f = &formats[2];
	struct acc_request rq = { .cpu = m->cpu, .gva = GVA(f->la), .len = 1, .rights = ACC_W };
	struct acc_result out;
	struct acc_vm *plain = m->vm, *vm;
	struct mem_slot s = { .n_pages = RAM_PAGES, .hva = m->ram };
	struct mem_map *map;

	acc_cpu_fini(m->cpu);
	assert_int_equal(acc_vm_new(&watching, m->code, &vm), 0);
	assert_int_equal(mem_map_change(NULL, &s, &map), 0);
	acc_vm_set_map(vm, map);
	assert_int_equal(acc_cpu_init(m->cpu, vm), 0);

	good_tables(m, f, DATA_PAGE << 12 | PTE_P | PTE_W);
	memset(&seen, 0, sizeof(seen));
	assert_int_equal(acc_check(&rq, &out), ACC_ALLOW);
	/* Four reads, three A writes, and A with D of the last in one. */
	assert_int_equal(seen.n, 8);
	assert_int_equal(seen.note[0].gpa, entry_at(f, 4));
	assert_int_equal(seen.note[0].rights, ACC_R);
	assert_int_equal(seen.note[1].gpa, entry_at(f, 4));
	assert_int_equal(seen.note[1].rights, ACC_RW);
	assert_int_equal(seen.note[7].gpa, entry_at(f, 1));
	assert_int_equal(seen.note[7].rights, ACC_RW);
	assert_int_equal(read_leaf(m, f) & (PTE_A | PTE_D), PTE_A | PTE_D);

	/* A refused D write leaves the entry as it was, and the store does not happen. */
	good_tables(m, f, DATA_PAGE << 12 | PTE_P | PTE_W);
	memset(&seen, 0, sizeof(seen));
	seen.refuse_gpa = entry_at(f, 1);
	seen.refuse_rights = ACC_W;
	assert_int_equal(acc_check(&rq, &out), ACC_EXIT);
	assert_int_equal(out.exit.reason, 1234);
	assert_int_equal(read_leaf(m, f) & PTE_D, 0);

	/* A refused read of a table. */
	seen.refuse_gpa = entry_at(f, 3);
	seen.refuse_rights = ACC_R;
	assert_int_equal(acc_check(&rq, &out), ACC_EXIT);

	acc_cpu_fini(m->cpu);
	acc_vm_free(vm);
	assert_int_equal(acc_cpu_init(m->cpu, plain), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		{ "every combination of permission bits agrees with the manual", permissions, NULL, NULL, NULL },
		{ "A and D are set exactly where and when the manual says", accessed_bits, NULL, NULL, NULL },
		{ "every bit of every entry is reserved or ignored as the manual says", single_bits, NULL, NULL, NULL },
		{ "random tables agree with the manual", random_tables, NULL, NULL, NULL },
		{ "translation for the client sets neither A nor D", translate_sets_nothing, NULL, NULL, NULL },
		{ "a table outside memory is not present", table_without_memory_is_not_present, NULL, NULL, NULL },
		{ "without paging a linear address is physical", linear_is_physical_without_paging, NULL, NULL, NULL },
		{ "PDPTEs with reserved bits are refused", pdptr_reserved_bits_are_refused, NULL, NULL, NULL },
		{ "table reads and A/D writes are judged as walks", walks_are_judged, NULL, NULL, NULL },
	};

	return cmocka_run_group_tests_name("access-walk", tests, setup, teardown);
}
