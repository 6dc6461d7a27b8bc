/* SPDX-License-Identifier: MIT */
/* See bare.h. */
#include "bare.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/block.h"
#include "cpu/host/fpu.h"
#include "cpu/host/signal.h"
#include "cpu/op.h"
#include "cpu/sys/sys.h"
#include "diff.h"

/* ---- a machine with nothing in it -------------------------------------------------------------------------------------------- */

static bool no_read(struct vcpu *v, struct gpa gpa, unsigned len, uint8_t *data)
{
	memset(data, 0xff, len);
	return true;
}

static bool no_write(struct vcpu *v, struct gpa gpa, unsigned len, const uint8_t *data) { return true; }
static bool no_in(struct vcpu *v, uint16_t port, unsigned len, uint8_t *data) { return true; }
static bool no_out(struct vcpu *v, uint16_t port, unsigned len, const uint8_t *data) { return true; }
static int no_rdmsr(struct vcpu *v, uint32_t index, uint64_t *value) { return 1; }
static int no_wrmsr(struct vcpu *v, uint32_t index, uint64_t value) { return 1; }
static uint64_t no_tsc(struct vcpu *v) { return 0; }
static void no_set_tsc(struct vcpu *v, uint64_t value) { }
static uint8_t no_get_cr8(struct vcpu *v) { return 0; }
static void no_set_cr8(struct vcpu *v, uint8_t value) { }
static bool no_intr(struct vcpu *v) { return false; }
static int no_ack(struct vcpu *v) { return -1; }
static enum cpu_hypercall no_hypercall(struct vcpu *v, bool is_vmmcall) { return CPU_HC_DONE; }
static bool no_poll(struct vcpu *v) { return false; }
static enum cpu_exit no_latched(struct vcpu *v) { return CPU_RUNNING; }
static void no_cpuid(struct vcpu *v, uint32_t function, uint32_t index, uint32_t r[4]) { }
static bool no_debug(struct vcpu *v, unsigned vector) { return false; }

static const struct cpu_env env = {
	.mmio_read = no_read, .mmio_write = no_write, .pio_read = no_in, .pio_write = no_out, .rdmsr = no_rdmsr, .wrmsr = no_wrmsr,
	.tsc = no_tsc, .set_tsc = no_set_tsc, .get_cr8 = no_get_cr8, .set_cr8 = no_set_cr8, .intr_pending = no_intr, .intr_ack = no_ack,
	.hypercall = no_hypercall, .poll = no_poll, .latched = no_latched, .cpuid_read = no_cpuid, .debug = no_debug,
};

/* ---- paging -------------------------------------------------------------------------------------------------------------------- */

void bare_pte(struct bare *b, uint32_t table, uint64_t la, unsigned level, uint64_t value)
{
	memcpy(b->ram + table + 8 * (la >> (12 + 9 * level) & 511), &value, 8);
}

void bare_table(struct bare *b, uint32_t table, uint64_t la)
{
	bare_pte(b, BARE_PML4, 0, 3, BARE_PDPT | BARE_USER);
	bare_pte(b, BARE_PDPT, 0, 2, BARE_PD | BARE_USER);
	bare_pte(b, BARE_PD, la, 1, table | BARE_USER);
}

/* ---- the processor -------------------------------------------------------------------------------------------------------------- */

static void add_leaf(struct vcpu *c, uint32_t function, uint32_t index)
{
	struct cpu_cpuid *l = &c->cpuid[c->n_cpuid];

	l->function = function;
	l->index = index;
	l->flags = function == 7 || function == 0xd;
	if (__get_cpuid_count(function, index, &l->eax, &l->ebx, &l->ecx, &l->edx))
		c->n_cpuid++;
	if (function == 0xd && index == 0)
		l->eax &= 7;
}

static void host_cpuid(struct vcpu *c)
{
	static const uint32_t leaf[][2] = { { 0, 0 }, { 1, 0 }, { 7, 0 }, { 7, 1 }, { 0xd, 0 }, { 0xd, 1 }, { 0xd, 2 }, { 0x80000000, 0 },
					    { 0x80000001, 0 }, { 0x80000008, 0 } };

	for (unsigned i = 0; i < ARRAY_SIZE(leaf); i++)
		add_leaf(c, leaf[i][0], leaf[i][1]);
	cpu_cpuid_changed(c);
}

static void set_segment(struct vcpu *c, unsigned n, uint16_t sel, uint8_t type, bool l, bool db, bool unusable)
{
	c->seg[n] = (struct cpu_seg){ .sel = sel, .limit = 0xffffffff, .type = type, .s = 1, .dpl = 3, .present = 1, .l = l, .db = db,
				      .g = 1, .unusable = unusable };
}

void bare_user_mode(struct vcpu *c, bool is_64)
{
	set_segment(c, SEG_CS, is_64 ? 0x33 : 0x23, 11, is_64, !is_64, false);
	set_segment(c, SEG_SS, 0x2b, 3, false, true, false);
	set_segment(c, SEG_DS, 0x2b, 3, false, true, false);
	set_segment(c, SEG_ES, 0x2b, 3, false, true, false);
	set_segment(c, SEG_FS, 0, 0, false, false, true);
	set_segment(c, SEG_GS, 0, 0, false, false, true);
	c->seg[SEG_GS].base = DIFF_GS_BASE;
	c->seg[SEG_TR].limit = 0;	/* no I/O bitmap */
	cpu_state_changed(c);
}

void bare_kernel_mode(struct vcpu *c)
{
	bare_user_mode(c, true);
	for (unsigned n = SEG_ES; n <= SEG_DS; n++) {
		c->seg[n].dpl = 0;
		c->seg[n].sel = n == SEG_CS ? 0x10 : 0x18;
	}
	cpu_state_changed(c);
}

void bare_step_alone(struct vcpu *c)
{
	const struct cpu_op *o;

	c->alone_wanted = false;
	c->alone = true;
	c->io.n_done = c->io.n_write = 0;
	o = cpu_block_alone(c);
	if (o) {
		c->stop = false;
		o->fn(c, o);
	}
	c->alone = false;
}

static int new_vm(struct bare *b)
{
	struct mem_slot slot = { .id = 0, .first = GFN(0), .n_pages = b->size >> GW_PAGE_SHIFT, .hva = b->ram };
	struct mem_map *map;
	int err;

	err = mem_code_map_new(&b->code);
	if (!err)
		err = acc_vm_new(NULL, b->code, &b->vm);
	if (!err)
		err = mem_map_change(NULL, &slot, &map);
	if (!err)
		acc_vm_set_map(b->vm, map);
	return err;
}

int bare_init(struct bare *b, size_t size)
{
	struct vcpu *c = &b->c;
	int err;

	b->size = size;
	b->ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->ram == MAP_FAILED)
		return -ENOMEM;
	err = new_vm(b);
	if (!err)
		err = cpu_init(c, b->vm, &env, b, 0);
	if (!err)
		err = cpu_signals_install();
	if (err)
		return err;
	host_cpuid(c);
	c->acc.cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_NE | CR0_MP | CR0_ET;
	c->acc.cr3 = BARE_PML4;
	c->acc.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE | CR4_UMIP;
	c->acc.efer = EFER_LME | EFER_LMA | EFER_NX | EFER_SCE;
	c->fpu.xcr0 = 7;
	acc_paging_changed(&c->acc, CR0_ET, 0, 0);
	acc_flush_all(&c->acc);
	bare_user_mode(c, true);
	cpu_fpu_gates(c);
	return 0;
}

void bare_fini(struct bare *b)
{
	cpu_fini(&b->c);
	acc_vm_free(b->vm);
	mem_code_map_free(b->code);
	munmap(b->ram, b->size);
}

#define PT_CODE		0x4000u
#define PT_DATA		0x5000u

struct bare *bare_pages(size_t size, uint64_t code, uint64_t data)
{
	struct bare *b = aligned_alloc(4096, (sizeof(*b) + 4095) & ~4095ul);

	if (!b)
		return NULL;
	memset(b, 0, sizeof(*b));
	if (bare_init(b, size)) {
		free(b);
		return NULL;
	}
	bare_table(b, PT_CODE, code);
	bare_table(b, PT_DATA, data);
	bare_pte(b, PT_CODE, code, 0, BARE_CODE | BARE_USER);
	bare_pte(b, PT_DATA, data, 0, BARE_DATA | BARE_USER);
	return b;
}
