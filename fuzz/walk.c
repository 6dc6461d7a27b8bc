/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: page walks over any tables in any state, against the naive model.
 *
 * Input: 16 bytes of state (control bits, MAXPHYADDR, PKRU, CR3, PDPTEs), then 8-byte records. A record with the top bit of
 * its last byte clear writes a table entry, one with it set is an access. Entries are laid over 16 frames that serve as tables
 * of every level and as data, so walks share, loop and set bits in their own tables. Checked: verdict, vector, error code, CR2,
 * address, host pointer inside the slot, and after each access every byte of memory.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "access/access.h"
#include "access/walk_model.c"	/* a test's file, not in the library */
#include "isa/x86.h"

#define RAM_PAGES	16u
#define RAM_SIZE	(RAM_PAGES * GW_PAGE_SIZE)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct {
	struct acc_vm *vm;
	struct acc_cpu *cpu;
	uint8_t *ram, *model_ram;
} f;

static void require(bool ok)
{
	if (!ok)
		__builtin_trap();
}

static void create(void)
{
	struct mem_slot s = { .n_pages = RAM_PAGES };
	struct mem_code_map *code = NULL;
	struct mem_map *map = NULL;

	f.ram = aligned_alloc(GW_PAGE_SIZE, RAM_SIZE);
	f.model_ram = aligned_alloc(GW_PAGE_SIZE, RAM_SIZE);
	f.cpu = aligned_alloc(64, (sizeof(*f.cpu) + 63) & ~(size_t)63);
	require(f.ram && f.model_ram && f.cpu);
	memset(f.cpu, 0, sizeof(*f.cpu));
	s.hva = f.ram;
	require(!mem_code_map_new(&code));
	require(!acc_vm_new(NULL, code, &f.vm));
	require(!mem_map_change(NULL, &s, &map));
	acc_vm_set_map(f.vm, map);
	require(!acc_cpu_init(f.cpu, f.vm));
}

static void set_state(const uint8_t *d)
{
	static const uint64_t cr4_of_format[4] = { 0, CR4_PAE, CR4_PAE, CR4_PAE | CR4_LA57 };
	struct acc_cpu *c = f.cpu;
	unsigned format = d[0] & 3;

	c->cr0 = CR0_PE | (d[0] & 4 ? 0 : CR0_PG) | (d[0] & 8 ? CR0_WP : 0);
	c->cr4 = cr4_of_format[format] | (d[0] & 16 ? CR4_PSE : 0) | (d[0] & 32 ? CR4_SMEP : 0) | (d[0] & 64 ? CR4_SMAP : 0) |
		 (d[0] & 128 ? CR4_PKE : 0) | (d[1] & 1 ? CR4_PGE : 0);
	c->efer = (format >= 2 && (c->cr0 & CR0_PG) ? EFER_LMA | EFER_LME : 0) | (d[1] & 2 ? EFER_NX : 0);
	c->ac = d[1] & 4;
	c->maxphyaddr = (uint8_t)(32 + d[2] % 21);
	c->cr3 = (uint64_t)(d[3] & 15) << 12 | (d[3] & 0xf0 ? 0 : BIT64(40));
	memcpy(&c->pkru, d + 4, 4);
	for (unsigned i = 0; i < 4; i++)
		c->pdptr[i] = (uint64_t)(d[8 + i] & 15) << 12 | (d[8 + i] >> 7);
}

static struct model_cpu model_of(const struct acc_cpu *c)
{
	struct model_cpu m = {
		.pg = c->cr0 & CR0_PG, .wp = c->cr0 & CR0_WP, .pse = c->cr4 & CR4_PSE, .pae = c->cr4 & CR4_PAE,
		.la57 = c->cr4 & CR4_LA57, .smep = c->cr4 & CR4_SMEP, .smap = c->cr4 & CR4_SMAP, .pke = c->cr4 & CR4_PKE,
		.lma = c->efer & EFER_LMA, .nxe = c->efer & EFER_NX, .ac = c->ac, .cr3 = c->cr3, .pkru = c->pkru,
		.maxphyaddr = c->maxphyaddr,
	};

	memcpy(m.pdptr, c->pdptr, sizeof(m.pdptr));
	return m;
}

/* Most of an entry is taken as it is; the address is pulled into memory mostly, or nothing deep would ever be reached. */
static void write_entry(const uint8_t *d)
{
	unsigned at = (unsigned)(d[0] | d[1] << 8) % (RAM_SIZE / 8) * 8;
	uint64_t e = (uint64_t)(d[2] ^ 7) | (uint64_t)(d[3] & 15) << 12 | (uint64_t)(d[4] & 15) << 8;

	if (d[5] & 1)
		e |= BIT64(d[5] >> 2);
	if (d[5] & 2)
		e |= (uint64_t)(d[6] & 0x7f) << 57;
	memcpy(f.ram + at, &e, 8);
	memcpy(f.model_ram + at, &e, 8);
}

static void check_access(const uint8_t *d)
{
	static const uint8_t kinds[4] = { ACC_R, ACC_W, ACC_X, ACC_RW };
	bool implicit = d[6] & 8 && (d[6] & 3) != 2;
	uint64_t la = (uint64_t)d[0] | (uint64_t)d[1] << 8 | (uint64_t)d[2] << 16 | (uint64_t)d[3] << 24 | (uint64_t)d[4] << 32 |
		      (uint64_t)d[5] << 40;
	struct acc_request rq = { .cpu = f.cpu, .len = 1, .rights = kinds[d[6] & 3], .cpl = d[6] & 4 ? 3 : 0, .stack = d[6] & 16,
				  .stage = implicit ? ACC_IMPLICIT : ACC_FINAL };
	struct model_cpu mc = model_of(f.cpu);
	struct model_access a = { .read = rq.rights & ACC_R, .write = rq.rights & ACC_W, .fetch = rq.rights & ACC_X,
				  .cpl3 = rq.cpl == 3, .implicit = implicit, .stack = rq.stack };
	struct model_result want;
	struct acc_result out;
	enum acc_verdict v;

	if (d[6] & 32)
		la = (uint64_t)((int64_t)(la << 16) >> 16);
	if (d[6] & 64)
		la ^= (uint64_t)d[7] << 48;
	rq.gva = GVA(la);
	a.la = la;
	want = model_walk(&mc, &a, f.model_ram, RAM_SIZE);
	v = acc_check(&rq, &out);
	if (v == ACC_FAULT) {
		require(out.event.vector == want.vector && out.event.error == want.error && out.event.has_error);
		require(out.event.vector != VEC_PF || out.event.cr2 == la);
	} else {
		require(v == ACC_ALLOW || v == ACC_DEVICE);
		require(want.vector == -1 && rq.gpa.v == want.gpa && (v == ACC_ALLOW) == (want.gpa < RAM_SIZE));
		require(v != ACC_ALLOW || out.hva == f.ram + want.gpa);
	}
	require(!memcmp(f.ram, f.model_ram, RAM_SIZE));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!f.vm)
		create();
	if (size < 16)
		return 0;
	memset(f.ram, 0, RAM_SIZE);
	/* Every table points at the others to begin with. */
	for (unsigned i = 0; i < RAM_SIZE / 8; i++) {
		uint64_t e = (uint64_t)(i * 5 % RAM_PAGES) << 12 | PTE_P | PTE_W | PTE_U;

		memcpy(f.ram + i * 8, &e, 8);
	}
	memcpy(f.model_ram, f.ram, RAM_SIZE);
	set_state(data);
	for (size_t i = 16; i + 8 <= size; i += 8) {
		if (data[i + 7] & 0x80)
			check_access(data + i);
		else
			write_entry(data + i);
	}
	return 0;
}
