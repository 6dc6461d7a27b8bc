/* SPDX-License-Identifier: MIT */
/*
 * Integer handlers on a vCPU without the dispatcher: hand-assembled code runs block by block until it ends or something stops
 * it; what an instruction leaves behind is compared, above all when it must leave nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "cpu/block.h"

#define RAM_SIZE	(64u << GW_PAGE_SHIFT)
#define CODE		0x10000u
#define DATA		0x20000u	/* and the page after it: plain */
#define ABSENT		0x22000u	/* not present */
#define READONLY	0x23000u	/* with CR0.WP */
#define MORE		0x24000u	/* plain */
#define DEVICE		0x26000u	/* present, no memory behind it */
#define ALIAS		0x27000u	/* DATA again */
#define STACK		0x2a000u	/* top of a plain page */

static struct vm_state {
	struct mem_code_map *code;
	struct acc_vm *vm;
	struct vcpu *c;
	uint8_t *ram;
	uint64_t device;		/* what the device answers; last written */
	unsigned n_reads, n_writes;
} m;

static bool device_read(struct vcpu *c, struct gpa gpa, unsigned len, uint8_t *data)
{
	m.n_reads++;
	memcpy(data, &m.device, len);
	return true;
}

static bool device_write(struct vcpu *c, struct gpa gpa, unsigned len, const uint8_t *data)
{
	m.n_writes++;
	m.device = 0;
	memcpy(&m.device, data, len);
	return true;
}

static const struct cpu_env env = { .mmio_read = device_read, .mmio_write = device_write };

static void map(uint32_t va, uint64_t pte)
{
	memcpy(m.ram + 0x4000 + (va >> GW_PAGE_SHIFT) * 8, &pte, 8);
}

static void page_tables(void)
{
	static const uint64_t upper[3] = { 0x2000, 0x3000, 0x4000 };

	for (unsigned i = 0; i < 3; i++) {
		uint64_t e = upper[i] | PTE_P | PTE_W | PTE_U;

		memcpy(m.ram + 0x1000 + i * 0x1000, &e, 8);
	}
	for (uint32_t va = 0; va < RAM_SIZE; va += GW_PAGE_SIZE)
		map(va, va | PTE_P | PTE_W | PTE_U);
	map(ABSENT, 0);
	map(READONLY, READONLY | PTE_P | PTE_U);
	map(DEVICE, 0x40000000 | PTE_P | PTE_W | PTE_U);
	map(ALIAS, DATA | PTE_P | PTE_W | PTE_U);
}

static struct cpu_seg flat_seg(bool is_code, bool long_mode)
{
	return (struct cpu_seg){ .limit = 0xffffffff, .type = is_code ? 11 : 3, .s = 1, .present = 1, .g = 1,
				 .l = is_code && long_mode, .db = !(is_code && long_mode) };
}

/* 64-bit mode, or flat 32-bit protected mode without paging. */
static void set_mode(bool long_mode)
{
	struct vcpu *c = m.c;
	uint64_t cr0 = c->acc.cr0, cr4 = c->acc.cr4, efer = c->acc.efer;

	c->acc.cr0 = CR0_PE | CR0_WP | CR0_ET | (long_mode ? CR0_PG : 0);
	c->acc.cr4 = long_mode ? CR4_PAE : 0;
	c->acc.efer = long_mode ? EFER_LME | EFER_LMA : 0;
	c->acc.cr3 = 0x1000;
	for (unsigned i = 0; i < SEG_LDTR; i++)
		c->seg[i] = flat_seg(i == SEG_CS, long_mode);
	acc_paging_changed(&c->acc, cr0, cr4, efer);
	cpu_state_changed(c);
}

/* Real-address mode: code at CS:0 = CODE, DS and ES 64 KiB from DATA on, SS 64 KiB from 0x30000 on. */
static void set_real_mode(void)
{
	struct vcpu *c = m.c;
	uint64_t cr0 = c->acc.cr0, cr4 = c->acc.cr4, efer = c->acc.efer;

	c->acc.cr0 = CR0_ET;
	c->acc.cr4 = c->acc.efer = 0;
	for (unsigned i = 0; i < SEG_LDTR; i++) {
		uint32_t base = i == SEG_CS ? CODE : i == SEG_SS ? 0x30000 : DATA;

		c->seg[i] = (struct cpu_seg){ .sel = (uint16_t)(base >> 4), .base = base, .limit = 0xffff, .type = 3, .s = 1, .present = 1 };
	}
	acc_paging_changed(&c->acc, cr0, cr4, efer);
	cpu_state_changed(c);
	c->rip = 0;
	c->gpr[RSP] = 0x100;
}

static int group_setup(void **state)
{
	struct mem_slot s = { .n_pages = RAM_SIZE >> GW_PAGE_SHIFT };
	struct mem_map *map_;

	m.ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	s.hva = m.ram;
	m.c = aligned_alloc(64, (sizeof(struct vcpu) + 63) & ~(size_t)63);
	if (m.ram == MAP_FAILED || !m.c)
		return -1;
	memset(m.c, 0, sizeof(*m.c));
	if (mem_code_map_new(&m.code) || acc_vm_new(NULL, m.code, &m.vm) || mem_map_change(NULL, &s, &map_))
		return -1;
	acc_vm_set_map(m.vm, map_);
	if (cpu_init(m.c, m.vm, &env, NULL, 0))
		return -1;
	for (unsigned i = 0; i < N_ISA_FEATURES; i++)
		m.c->features[i] = true;
	acc_enter(&m.c->acc);
	return 0;
}

static int group_teardown(void **state)
{
	acc_leave(&m.c->acc);
	cpu_fini(m.c);
	free(m.c);
	acc_vm_free(m.vm);
	mem_code_map_free(m.code);
	munmap(m.ram, RAM_SIZE);
	return 0;
}

static int setup(void **state)
{
	struct vcpu *c = m.c;

	memset(m.ram, 0, RAM_SIZE);
	page_tables();
	set_mode(true);
	acc_flush_all(&c->acc);
	cpu_cache_flush(c);
	memset(c->gpr, 0, sizeof(c->gpr));
	memset(&c->ev, 0, sizeof(c->ev));
	memset(&c->io, 0, sizeof(c->io));
	c->gpr[RSP] = STACK;
	c->rip = CODE;
	c->eflags = FLAG_FIXED;
	c->cc = 0x0200;
	c->stop = c->alone = c->alone_wanted = false;
	c->exit = CPU_RUNNING;
	m.device = 0;
	m.n_reads = m.n_writes = 0;
	return 0;
}

static void one_alone(struct vcpu *c)
{
	const struct cpu_op *o;

	c->alone_wanted = false;
	c->alone = true;
	c->io.pos = c->io.n_done = 0;
	o = cpu_block_alone(c);
	if (o) {
		c->stop = false;
		o->fn(c, o);
	}
	c->alone = false;
	c->io.n_done = 0;
}

/* Run until RIP is @end or something stops it, at most @limit blocks. */
static void run_until(uint64_t end, unsigned limit)
{
	struct vcpu *c = m.c;

	while (c->rip != end && limit--) {
		struct cpu_block *b = NULL;

		c->stop = false;
		if (!c->alone_wanted)
			b = cpu_block_get(c);
		if (b) {
			c->gpr[GPR_RIP] = c->rip;
			b->op[0].fn(c, b->op);
		} else if (c->alone_wanted) {
			one_alone(c);
		}
		if (c->ev.exception.pending || c->exit != CPU_RUNNING)
			return;
	}
}

/* Put code at CODE, a JMP to itself behind it so that the block ends there, and run it. */
static void run_bytes(const uint8_t *code, unsigned len)
{
	memcpy(m.ram + CODE, code, len);
	m.ram[CODE + len] = 0xeb;
	m.ram[CODE + len + 1] = 0xfe;
	m.c->poll_at = 0;	/* no chaining: a block at a time */
	run_until(m.c->rip + len, 100000);
}
#define RUN(...) do { static const uint8_t code_[] = { __VA_ARGS__ }; run_bytes(code_, sizeof(code_)); } while (0)

static uint64_t mem64(uint32_t at)
{
	uint64_t v;

	memcpy(&v, m.ram + at, 8);
	return v;
}

static void set_mem64(uint32_t at, uint64_t v)
{
	memcpy(m.ram + at, &v, 8);
}

static uint32_t flags(void)
{
	return cpu_flags_of_cc(m.c->cc);
}

static void expect_fault(unsigned vector, uint64_t rip)
{
	assert_true(m.c->ev.exception.pending);
	assert_int_equal(m.c->ev.exception.vector, vector);
	assert_int_equal(m.c->rip, rip);
}

static void expect_done(void)
{
	assert_false(m.c->ev.exception.pending);
	assert_int_equal(m.c->exit, CPU_RUNNING);
}

/* ---- arithmetic --------------------------------------------------------------------------------------------------------------- */

static void byte_registers(void **state)
{
	m.c->gpr[RAX] = 0x1111111111110280;
	m.c->gpr[RSP] = 0x2222222222222280;
	RUN(0x00, 0xc4,			/* add ah, al */
	    0x40, 0x00, 0xc4);		/* add spl, al */
	expect_done();
	assert_int_equal(m.c->gpr[RAX], 0x1111111111118280);
	assert_int_equal(m.c->gpr[RSP], 0x2222222222222200);
	assert_int_equal(flags(), FLAG_CF | FLAG_ZF | FLAG_PF | FLAG_OF);
}

static void writes_of_32_bits(void **state)
{
	m.c->gpr[RAX] = m.c->gpr[RCX] = m.c->gpr[RDX] = ~0ull;
	RUN(0x01, 0xc8,			/* add eax, ecx */
	    0x66, 0x01, 0xca,		/* add dx, cx */
	    0x0f, 0x44, 0xd9,		/* cmovz ebx, ecx: false */
	    0x0f, 0xa3, 0xc9);		/* bt ecx, ecx */
	expect_done();
	assert_int_equal(m.c->gpr[RAX], 0xfffffffe);
	assert_int_equal(m.c->gpr[RDX], 0xfffffffffffffffe);
	assert_int_equal(m.c->gpr[RCX], ~0ull);
}

static void false_cmov_clears_upper_half(void **state)
{
	m.c->gpr[RBX] = ~0ull;
	RUN(0x0f, 0x44, 0xd9);		/* cmovz ebx, ecx */
	assert_int_equal(m.c->gpr[RBX], 0xffffffff);
}

static void carry_and_inc(void **state)
{
	m.c->gpr[RAX] = ~0ull;
	RUN(0x48, 0x83, 0xc0, 0x01,	/* add rax, 1: CF */
	    0x48, 0xff, 0xc0,		/* inc rax: keeps CF */
	    0x48, 0x83, 0xd0, 0x10,	/* adc rax, 16 */
	    0xf9,			/* stc */
	    0x48, 0x19, 0xc9);		/* sbb rcx, rcx */
	expect_done();
	assert_int_equal(m.c->gpr[RAX], 0x12);
	assert_int_equal(m.c->gpr[RCX], ~0ull);
	assert_true(flags() & FLAG_CF);
}

static void zero_count_keeps_flags(void **state)
{
	m.c->cc = CC_CF | CC_OF | CC_ZF | 0x0200;
	m.c->gpr[RAX] = 0xffffffffffffffff;
	m.c->gpr[RCX] = 32;		/* masked to 0 for 32 bits */
	RUN(0xd3, 0xe0);		/* shl eax, cl */
	assert_int_equal(m.c->gpr[RAX], 0xffffffff);
	assert_int_equal(flags(), FLAG_CF | FLAG_OF | FLAG_ZF);
}

static const struct div_row {
	const char *name;
	uint8_t code[4];
	unsigned len;
	uint64_t hi, lo, by, quotient, rest;
	bool faults;
} div_rows[] = {
	{ "div r64 by zero faults", { 0x48, 0xf7, 0xf1 }, 3, 0, 5, 0, 0, 0, true },
	{ "div r64 whose quotient needs 65 bits faults", { 0x48, 0xf7, 0xf1 }, 3, 7, 0, 7, 0, 0, true },
	{ "div r64 with the largest quotient", { 0x48, 0xf7, 0xf1 }, 3, 6, ~0ull, 7, ~0ull, 6, false },
	{ "idiv r64 of the smallest by -1 faults", { 0x48, 0xf7, 0xf9 }, 3, ~0ull, 1ull << 63, ~0ull, 0, 0, true },
	{ "idiv r64 with quotient -2^63", { 0x48, 0xf7, 0xf9 }, 3, ~0ull, 0, 2, 1ull << 63, 0, false },
	{ "idiv r64 with quotient 2^63 faults", { 0x48, 0xf7, 0xf9 }, 3, 1, 0, 2, 0, 0, true },
	{ "idiv r64 of a negative wide dividend", { 0x48, 0xf7, 0xf9 }, 3, ~0ull - 1, 5, 16, 0xe000000000000001, (uint64_t)-11, false },
	{ "idiv r32 of the smallest by -1 faults", { 0xf7, 0xf9 }, 2, 0xffffffff, 0x80000000, 0xffffffff, 0, 0, true },
	{ "idiv r32 of the smallest 64-bit dividend by -1 faults", { 0xf7, 0xf9 }, 2, 0x80000000, 0, 0xffffffff, 0, 0, true },
	{ "idiv r32", { 0xf7, 0xf9 }, 2, 0xffffffff, (uint32_t)-7, 2, (uint32_t)-3, (uint32_t)-1, false },
	{ "div r32 clears upper halves", { 0xf7, 0xf1 }, 2, 0xaaaaaaaa00000001, 0xbbbbbbbb00000000, 0x10, 0x10000000, 0, false },
};

static void divide(void **state)
{
	const struct div_row *r = *state;

	m.c->gpr[RAX] = r->lo;
	m.c->gpr[RDX] = r->hi;
	m.c->gpr[RCX] = r->by;
	run_bytes(r->code, r->len);
	if (r->faults) {
		expect_fault(VEC_DE, CODE);
		assert_int_equal(m.c->gpr[RAX], r->lo);
		assert_int_equal(m.c->gpr[RDX], r->hi);
		return;
	}
	expect_done();
	assert_int_equal(m.c->gpr[RAX], r->quotient);
	assert_int_equal(m.c->gpr[RDX], r->rest);
}

static void divide_bytes(void **state)
{
	m.c->gpr[RAX] = 0x1234000000000107;
	m.c->gpr[RCX] = 2;
	RUN(0xf6, 0xf1);		/* div cl */
	expect_done();
	assert_int_equal(m.c->gpr[RAX], 0x1234000000000183);
}

static void bit_offset_beyond_operand(void **state)
{
	m.c->gpr[RBX] = DATA + 0x100;
	m.c->gpr[RAX] = (uint64_t)-65;	/* the last bit of the quadword before the one before */
	RUN(0x48, 0x0f, 0xab, 0x03,	/* bts [rbx], rax */
	    0xf0, 0x48, 0x0f, 0xba, 0x2b, 0x45,	/* lock bts qword [rbx], 69: within the operand */
	    0x48, 0x0f, 0xa3, 0x03);	/* bt [rbx], rax */
	expect_done();
	assert_int_equal(mem64(DATA + 0xf0), 1ull << 63);
	assert_int_equal(mem64(DATA + 0x100), 1ull << 5);
	assert_true(flags() & FLAG_CF);
}

/* ---- memory: nothing changes when anything is refused -------------------------------------------------------------------------------- */

static void crossing_store_faults_whole(void **state)
{
	m.c->gpr[RBX] = ABSENT - 3;
	m.c->gpr[RAX] = ~0ull;
	RUN(0x48, 0x89, 0x03);		/* mov [rbx], rax */
	expect_fault(VEC_PF, CODE);
	assert_int_equal(m.c->ev.exception.payload, ABSENT);
	assert_int_equal(m.c->ev.exception.error, PFEC_W);
	assert_int_equal(mem64(ABSENT - 8), 0);
}

static void crossing_rmw_faults_whole(void **state)
{
	m.c->gpr[RBX] = READONLY + 0xffd;	/* read-only, then plain */
	m.c->cc = CC_CF | 0x0200;
	RUN(0x83, 0x13, 0x01);		/* adc dword [rbx], 1 */
	expect_fault(VEC_PF, CODE);
	assert_int_equal(m.c->ev.exception.error, PFEC_P | PFEC_W);
	assert_int_equal(flags(), FLAG_CF);
}

static void crossing_rmw_works(void **state)
{
	m.c->gpr[RBX] = DATA + 0xffd;
	m.c->gpr[RAX] = 1;
	set_mem64(DATA + 0xffd, 0xffffffff);
	RUN(0xf0, 0x0f, 0xc1, 0x03,	/* lock xadd [rbx], eax */
	    0x48, 0x81, 0x03, 0x00, 0x01, 0x00, 0x00);	/* add qword [rbx], 0x100 */
	expect_done();
	assert_int_equal(m.c->gpr[RAX], 0xffffffff);
	assert_int_equal(mem64(DATA + 0xffd), 0x100);
}

static void cmpxchg_asks_for_write(void **state)
{
	m.c->gpr[RBX] = READONLY;
	m.c->gpr[RAX] = 5;		/* does not match */
	RUN(0x0f, 0xb1, 0x0b);		/* cmpxchg [rbx], ecx */
	expect_fault(VEC_PF, CODE);
	assert_int_equal(m.c->gpr[RAX], 5);
}

static void cmpxchg_both_outcomes(void **state)
{
	m.c->gpr[RBX] = DATA;
	m.c->gpr[RCX] = 0x77;
	m.c->gpr[RAX] = 0;
	RUN(0xf0, 0x48, 0x0f, 0xb1, 0x0b,	/* lock cmpxchg [rbx], rcx: match */
	    0x0f, 0x94, 0xc2,			/* setz dl */
	    0x0f, 0xb0, 0x0b);			/* cmpxchg [rbx], cl: no match */
	expect_done();
	assert_int_equal(m.c->gpr[RDX], 1);
	assert_int_equal(mem64(DATA), 0x77);
	assert_int_equal(m.c->gpr[RAX], 0x77);
	assert_false(flags() & FLAG_ZF);
}

static void cmpxchg8b_and_16b(void **state)
{
	m.c->gpr[RSI] = DATA + 0xffc;	/* across pages is fine for 8 bytes */
	m.c->gpr[RBX] = 1;
	m.c->gpr[RCX] = 2;
	m.c->cc = CC_CF | CC_OF | 0x0200;
	RUN(0xf0, 0x0f, 0xc7, 0x0e,		/* lock cmpxchg8b [rsi] */
	    0x48, 0x83, 0xc6, 0x04,		/* add rsi, 4 */
	    0x48, 0x0f, 0xc7, 0x0e,		/* cmpxchg16b [rsi]: no match, reads */
	    0x48, 0x83, 0xc6, 0x08,		/* add rsi, 8 */
	    0x48, 0x0f, 0xc7, 0x0e);		/* cmpxchg16b [rsi]: not aligned */
	expect_fault(VEC_GP, CODE + 16);
	assert_int_equal(mem64(DATA + 0xffc), 0x200000001);
	assert_int_equal(m.c->gpr[RAX], 2);
	assert_int_equal(m.c->gpr[RDX], 0);
}

/* ---- stack ------------------------------------------------------------------------------------------------------------------------------- */

static void push_faults_without_moving(void **state)
{
	m.c->gpr[RSP] = MORE + 4;	/* the page below is read-only */
	RUN(0x50);			/* push rax */
	expect_fault(VEC_PF, CODE);
	assert_int_equal(m.c->gpr[RSP], MORE + 4);
	assert_int_equal(m.c->ev.exception.payload, MORE - 4);
}

static void push_of_non_canonical_is_stack_fault(void **state)
{
	m.c->gpr[RSP] = 0x8000000000000000;
	RUN(0x50);
	expect_fault(VEC_SS, CODE);
	assert_int_equal(m.c->gpr[RSP], 0x8000000000000000);
}

static void pop_of_sp_and_through_sp(void **state)
{
	m.c->gpr[RSP] = STACK - 16;
	set_mem64(STACK - 16, 0x1234);
	set_mem64(STACK - 8, STACK - 32);
	RUN(0x8f, 0x44, 0x24, 0xf0,	/* pop qword [rsp - 16]: with the new RSP, STACK - 8 */
	    0x5c);			/* pop rsp */
	expect_done();
	assert_int_equal(mem64(STACK - 24), 0x1234);
	assert_int_equal(m.c->gpr[RSP], STACK - 32);
}

static void pop_to_memory_restores_sp(void **state)
{
	m.c->gpr[RBX] = ABSENT;
	m.c->gpr[RSP] = STACK - 8;
	RUN(0x8f, 0x03);		/* pop qword [rbx] */
	expect_fault(VEC_PF, CODE);
	assert_int_equal(m.c->gpr[RSP], STACK - 8);
}

static void push_sp_pushes_old_value(void **state)
{
	RUN(0x54, 0xff, 0x34, 0x24);	/* push rsp; push qword [rsp] */
	expect_done();
	assert_int_equal(mem64(STACK - 8), STACK);
	assert_int_equal(mem64(STACK - 16), STACK);
}

static void enter_and_leave(void **state)
{
	m.c->gpr[RBP] = DATA + 0x100;
	set_mem64(DATA + 0xf8, 0xaaaa);
	RUN(0xc8, 0x20, 0x00, 0x02);	/* enter 32, 2 */
	expect_done();
	assert_int_equal(m.c->gpr[RBP], STACK - 8);
	assert_int_equal(m.c->gpr[RSP], STACK - 24 - 32);
	assert_int_equal(mem64(STACK - 8), DATA + 0x100);
	assert_int_equal(mem64(STACK - 16), 0xaaaa);
	assert_int_equal(mem64(STACK - 24), STACK - 8);
	setup(NULL);
	m.c->gpr[RBP] = STACK - 64;
	set_mem64(STACK - 64, 0x55);
	RUN(0xc9);			/* leave */
	assert_int_equal(m.c->gpr[RBP], 0x55);
	assert_int_equal(m.c->gpr[RSP], STACK - 56);
}

static void pusha_popa_in_legacy_mode(void **state)
{
	set_mode(false);
	for (unsigned i = 0; i < 8; i++)
		if (i != RSP)
			m.c->gpr[i] = 0x11111111u * i;
	RUN(0x60, 0x31, 0xc0, 0x31, 0xff, 0x61);	/* pusha; xor eax, eax; xor edi, edi; popa */
	expect_done();
	assert_int_equal(m.c->gpr[RAX], 0);
	assert_int_equal(m.c->gpr[RDI], 0x77777777);
	assert_int_equal(m.c->gpr[RSP], STACK);
	assert_int_equal(mem64(STACK - 20) & 0xffffffff, STACK);
}

/* ---- branches ------------------------------------------------------------------------------------------------------------------------------- */

static void call_pushes_only_after_check(void **state)
{
	m.c->gpr[RAX] = 0x8000000000000000;
	RUN(0xff, 0xd0);		/* call rax */
	expect_fault(VEC_GP, CODE);
	assert_int_equal(m.c->gpr[RSP], STACK);
	assert_int_equal(mem64(STACK - 8), 0);
}

static void ret_to_non_canonical_keeps_sp(void **state)
{
	m.c->gpr[RSP] = STACK - 8;
	set_mem64(STACK - 8, 1ull << 63);
	RUN(0xc2, 0x10, 0x00);		/* ret 16 */
	expect_fault(VEC_GP, CODE);
	assert_int_equal(m.c->gpr[RSP], STACK - 8);
}

static void call_and_ret(void **state)
{
	RUN(0xe8, 0x03, 0x00, 0x00, 0x00,	/* call 1f */
	    0x90, 0xeb, 0x03,			/* nop; jmp end */
	    0xff, 0xc0, 0xc3);			/* 1: inc eax; ret */
	expect_done();
	assert_int_equal(m.c->gpr[RAX], 1);
	assert_int_equal(m.c->gpr[RSP], STACK);
}

static void call_through_stack_uses_old_sp(void **state)
{
	m.c->gpr[RSP] = STACK - 8;
	set_mem64(STACK - 8, CODE + 3);
	RUN(0xff, 0x14, 0x24);		/* call [rsp] */
	expect_done();
	assert_int_equal(m.c->gpr[RSP], STACK - 16);
	assert_int_equal(mem64(STACK - 16), CODE + 3);
}

static void loops_and_conditions(void **state)
{
	m.c->gpr[RCX] = 10;
	RUN(0x01, 0xc8,			/* 1: add eax, ecx */
	    0xe2, 0xfc,			/* loop 1b */
	    0x83, 0xf8, 0x37,		/* cmp eax, 55 */
	    0x75, 0x02,			/* jne +2 */
	    0xff, 0xc3,			/* inc ebx */
	    0xe3, 0x02,			/* jrcxz +2 */
	    0x0f, 0x0b,			/* ud2 */
	    0x90);
	expect_done();
	assert_int_equal(m.c->gpr[RAX], 55);
	assert_int_equal(m.c->gpr[RBX], 1);
}

static void target_in_16_bits_wraps(void **state)
{
	set_mode(false);
	memset(m.ram + 0xfff0, 0x90, 16);
	memcpy(m.ram + 0xfffc, "\x66\xeb\x10", 3);	/* o16 jmp +16: from 0xffff to 0x000f */
	m.c->poll_at = 0;
	m.c->rip = 0xfffc;
	run_until(0xf, 10);
	expect_done();
	assert_int_equal(m.c->rip, 0xf);
}

static void jump_beyond_limit_in_legacy_mode(void **state)
{
	set_mode(false);
	m.c->seg[SEG_CS].limit = CODE + 0x100;
	cpu_state_changed(m.c);
	RUN(0xe8, 0x00, 0x10, 0x00, 0x00);	/* call +0x1000 */
	expect_fault(VEC_GP, CODE);
	assert_int_equal(m.c->gpr[RSP], STACK);
	assert_int_equal(mem64(STACK - 8), 0);
}

/* ---- strings --------------------------------------------------------------------------------------------------------------------------------- */

static void rep_movs_over_pages(void **state)
{
	for (unsigned i = 0; i < 0x1800; i++)
		m.ram[MORE + i] = (uint8_t)(i * 7);
	m.c->gpr[RSI] = MORE + 1;
	m.c->gpr[RDI] = DATA + 0x10;
	m.c->gpr[RCX] = 0x17f0;
	RUN(0xf3, 0xa4);		/* rep movsb */
	expect_done();
	assert_memory_equal(m.ram + DATA + 0x10, m.ram + MORE + 1, 0x17f0);
	assert_int_equal(m.c->gpr[RCX], 0);
	assert_int_equal(m.c->gpr[RSI], MORE + 0x17f1);
	assert_int_equal(m.c->gpr[RDI], DATA + 0x1800);
}

static void rep_movs_stops_at_the_fault(void **state)
{
	memset(m.ram + MORE, 0x5a, 0x100);
	m.c->gpr[RSI] = MORE;
	m.c->gpr[RDI] = ABSENT - 12;
	m.c->gpr[RCX] = 5;
	RUN(0xf3, 0x48, 0xa5);		/* rep movsq */
	expect_fault(VEC_PF, CODE);
	assert_int_equal(m.c->ev.exception.payload, ABSENT);
	assert_int_equal(m.c->gpr[RCX], 4);	/* the crossing one did not happen, not even in part */
	assert_int_equal(m.c->gpr[RDI], ABSENT - 4);
	assert_int_equal(m.c->gpr[RSI], MORE + 8);
	assert_int_equal(mem64(ABSENT - 8) >> 32, 0);
	/* Restarted when the page is there, it finishes. */
	map(ABSENT, ABSENT | PTE_P | PTE_W | PTE_U);
	memset(&m.c->ev, 0, sizeof(m.c->ev));
	run_until(CODE + 3, 100);
	expect_done();
	assert_int_equal(m.c->gpr[RCX], 0);
	assert_memory_equal(m.ram + ABSENT - 12, m.ram + MORE, 40);
}

static void rep_movs_overlapping_repeats_pattern(void **state)
{
	memcpy(m.ram + DATA, "abc", 3);
	m.c->gpr[RSI] = DATA;
	m.c->gpr[RDI] = DATA + 3;
	m.c->gpr[RCX] = 9;
	RUN(0xf3, 0xa4);
	assert_memory_equal(m.ram + DATA, "abcabcabcabc", 12);
}

static void rep_movs_backwards(void **state)
{
	for (unsigned i = 0; i < 0x1200; i++)
		m.ram[DATA + i] = (uint8_t)(i * 5 + (i >> 8));
	uint8_t *want = malloc(0x1200);
	assert_non_null(want);
	memcpy(want, m.ram + DATA, 0x1200);
	m.c->gpr[RSI] = DATA + 0x11f8;
	m.c->gpr[RDI] = DATA + 0x1200;
	m.c->gpr[RCX] = 0x240;
	m.c->eflags |= FLAG_DF;
	RUN(0xf3, 0x48, 0xa5);		/* rep movsq, moving up by 8 */
	expect_done();
	assert_memory_equal(m.ram + DATA + 8, want, 0x1200);
	assert_int_equal(m.c->gpr[RDI], DATA);
	free(want);
}

static void rep_stos_zero_count(void **state)
{
	m.c->gpr[RDI] = ABSENT;
	m.c->cc = CC_ZF | 0x0200;
	RUN(0xf3, 0xab, 0xf3, 0xa6);	/* rep stosd; repe cmpsb */
	expect_done();
	assert_int_equal(flags(), FLAG_ZF);
}

static void rep_stos_sizes(void **state)
{
	m.c->gpr[RDI] = DATA + 0xffe;
	m.c->gpr[RAX] = 0x1122334455667788;
	m.c->gpr[RCX] = 3;
	RUN(0xf3, 0xab);		/* rep stosd over the page's end */
	expect_done();
	assert_int_equal(mem64(DATA + 0xffe), 0x5566778855667788);
	assert_int_equal(mem64(DATA + 0x1006) & 0xffffffff, 0x55667788);
	assert_int_equal(mem64(DATA + 0x100a), 0);
}

static void string_with_32_bit_addresses(void **state)
{
	m.c->gpr[RDI] = 0xffffffff00000000 | DATA;
	m.c->gpr[RCX] = 0xffffffff00000002;
	RUN(0x67, 0xf3, 0xaa);		/* a32 rep stosb */
	expect_done();
	assert_int_equal(m.c->gpr[RDI], DATA + 2);
	assert_int_equal(m.c->gpr[RCX], 0);
}

static void repne_scas_and_repe_cmps(void **state)
{
	memcpy(m.ram + DATA + 0xffa, "hello world", 12);
	memcpy(m.ram + MORE, "hello w0rld", 12);
	m.c->gpr[RDI] = DATA + 0xffa;
	m.c->gpr[RCX] = ~0ull;
	RUN(0xf2, 0xae);		/* repne scasb */
	expect_done();
	assert_int_equal(~m.c->gpr[RCX] - 1, 11);
	assert_true(flags() & FLAG_ZF);
	setup(NULL);
	memcpy(m.ram + DATA + 0xffa, "hello world", 12);
	memcpy(m.ram + MORE, "hello w0rld", 12);
	m.c->gpr[RDI] = DATA + 0xffa;
	m.c->gpr[RSI] = MORE;
	m.c->gpr[RCX] = 12;
	RUN(0xf3, 0xa6);		/* repe cmpsb */
	expect_done();
	assert_int_equal(m.c->gpr[RCX], 4);
	assert_int_equal(m.c->gpr[RSI], MORE + 8);
	assert_true(flags() & FLAG_CF);	/* '0' - 'o' */
}

static void lods_sizes(void **state)
{
	set_mem64(DATA, 0x8877665544332211);
	m.c->gpr[RAX] = ~0ull;
	m.c->gpr[RSI] = DATA;
	RUN(0xad, 0x48, 0x89, 0xc3, 0xac);	/* lodsd; mov rbx, rax; lodsb */
	expect_done();
	assert_int_equal(m.c->gpr[RBX], 0x44332211);
	assert_int_equal(m.c->gpr[RAX], 0x44332255);
}

static void rep_stos_over_code(void **state)
{
	/* Make the vCPU decode from MORE, then overwrite the page. */
	m.ram[MORE] = 0xc3;
	set_mem64(STACK - 8, CODE);
	m.c->gpr[RSP] = STACK - 8;
	m.c->poll_at = 0;
	m.c->rip = MORE;
	run_until(CODE, 2);
	m.c->gpr[RAX] = 0x90;
	m.c->gpr[RDI] = MORE - 0;
	m.c->gpr[RCX] = 0x1000;
	RUN(0xf3, 0xaa);
	expect_done();
	for (unsigned i = 0; i < 0x1000; i++)
		assert_int_equal(m.ram[MORE + i], 0x90);
	assert_int_equal(m.c->gpr[RCX], 0);
}

static void rep_in_device_is_element_by_element(void **state)
{
	m.device = 0x4142434445464748;
	m.c->gpr[RSI] = DEVICE;
	m.c->gpr[RDI] = DATA;
	m.c->gpr[RCX] = 3;
	RUN(0xf3, 0x48, 0xa5);		/* rep movsq from the device */
	expect_done();
	assert_int_equal(m.n_reads, 3);
	assert_int_equal(mem64(DATA + 16), 0x4142434445464748);
}

/* ---- device and aliases -------------------------------------------------------------------------------------------------------------------------- */

static void device_rmw_reads_and_writes_once(void **state)
{
	m.device = 41;
	m.c->gpr[RBX] = DEVICE;
	RUN(0xff, 0x03);		/* inc dword [rbx] */
	expect_done();
	assert_int_equal(m.n_reads, 1);
	assert_int_equal(m.n_writes, 1);
	assert_int_equal(m.device, 42);
}

static void self_modifying_code_takes_effect_next(void **state)
{
	m.c->gpr[RBX] = CODE;
	RUN(0xc6, 0x43, 0x05, 0x43,	/* mov byte [rbx + 5], 0x43 : turns inc eax's operand */
	    0xff, 0xc0,			/* inc eax -> becomes ff 43: inc dword [rbx + disp8] */
	    0x30);			/* disp8 */
	expect_done();
	assert_int_equal(m.c->gpr[RAX], 0);
	assert_int_equal(m.ram[CODE + 0x30], 1);
}

static void store_through_alias(void **state)
{
	m.c->gpr[RBX] = ALIAS;
	RUN(0xc7, 0x03, 0x78, 0x56, 0x34, 0x12,	/* mov dword [rbx], 0x12345678 */
	    0x8b, 0x8b, 0x00, 0x90, 0xff, 0xff);	/* mov ecx, [rbx - 0x7000] */
	expect_done();
	assert_int_equal(m.c->gpr[RCX], 0x12345678);
}

static void rip_relative(void **state)
{
	set_mem64(DATA, 0x77);
	RUN(0x90, 0x48, 0x8b, 0x05, 0xf8, 0xff, 0x00, 0x00,	/* nop; mov rax, [rip + (DATA - CODE - 8)] */
	    0x48, 0x8d, 0x1d, 0x00, 0x00, 0x00, 0x00);		/* lea rbx, [rip] */
	expect_done();
	assert_int_equal(m.c->gpr[RAX], 0x77);
	assert_int_equal(m.c->gpr[RBX], CODE + 15);
}

/* ---- legacy ---------------------------------------------------------------------------------------------------------------------------------------------- */

static const struct bcd_row { const char *name; uint8_t code[2]; unsigned len; uint32_t in, flags_in, out, flags_out; } bcd_rows[] = {
	{ "daa after 79h + 35h", { 0x27 }, 1, 0xae, 0, 0x14, FLAG_CF | FLAG_AF | FLAG_PF },
	{ "daa of 9ah carries", { 0x27 }, 1, 0x9a, 0, 0x00, FLAG_CF | FLAG_AF | FLAG_ZF | FLAG_PF },
	{ "das after 35h - 47h", { 0x2f }, 1, 0xee, FLAG_CF | FLAG_AF, 0x88, FLAG_CF | FLAG_AF | FLAG_SF | FLAG_PF },
	{ "das borrow of the low digit sets CF", { 0x2f }, 1, 0x03, FLAG_AF, 0xfd, FLAG_CF | FLAG_AF | FLAG_SF },
	{ "aaa carries into ah", { 0x37 }, 1, 0x00fa, 0, 0x0200, FLAG_CF | FLAG_AF | FLAG_ZF | FLAG_PF },
	{ "aas borrows from ah", { 0x3f }, 1, 0x02ff, 0, 0x0109, FLAG_CF | FLAG_AF | FLAG_PF },
	{ "aam splits digits", { 0xd4, 0x0a }, 2, 0x3f, 0, 0x0603, FLAG_PF },
	{ "aad joins digits", { 0xd5, 0x0a }, 2, 0x0603, 0, 0x003f, FLAG_PF },
};

static void bcd(void **state)
{
	const struct bcd_row *r = *state;

	set_mode(false);
	m.c->gpr[RAX] = r->in;
	m.c->cc = cpu_cc_of_flags(r->flags_in);
	run_bytes(r->code, r->len);
	expect_done();
	assert_int_equal(m.c->gpr[RAX], r->out);
	assert_int_equal(flags(), r->flags_out);
}

static void aam_zero_faults(void **state)
{
	set_mode(false);
	RUN(0xd4, 0x00);
	expect_fault(VEC_DE, CODE);
}

static void bound_checks(void **state)
{
	set_mode(false);
	set_mem64(DATA, 0x00000005fffffffe);	/* -2 .. 5 */
	m.c->gpr[RBX] = DATA;
	m.c->gpr[RAX] = 0xffffffff;
	m.c->gpr[RCX] = 6;
	RUN(0x62, 0x03, 0x62, 0x0b);	/* bound eax, [ebx]; bound ecx, [ebx] */
	expect_fault(VEC_BR, CODE + 2);
}

static void undefined_instruction(void **state)
{
	RUN(0x0f, 0x0b);
	expect_fault(VEC_UD, CODE);
}

/* ---- 16 bits ------------------------------------------------------------------------------------------------------------------------------------------------ */

static void real_mode_stack_wraps(void **state)
{
	set_real_mode();
	m.c->gpr[RSP] = 0xabcd0000;
	m.c->gpr[RAX] = 0x1234;
	RUN(0x50, 0x66, 0x50, 0x5b, 0xc8, 0x04, 0x00, 0x00, 0xc9);	/* push ax; push eax; pop bx; enter 4, 0; leave */
	expect_done();
	assert_int_equal(m.c->gpr[RSP], 0xabcdfffc);
	assert_int_equal(mem64(0x3fff8) >> 48, 0x1234);
	assert_int_equal(m.c->gpr[RBX], 0x1234);
}

static void real_mode_word_at_the_limit(void **state)
{
	set_real_mode();
	m.c->gpr[RBX] = 0xffff;
	RUN(0x8b, 0x07);		/* mov ax, [bx] */
	expect_fault(VEC_GP, 0);
	setup(NULL);
	set_real_mode();
	m.c->gpr[RSP] = 1;
	RUN(0x50);			/* push ax */
	expect_fault(VEC_SS, 0);
	assert_int_equal(m.c->gpr[RSP], 1);
}

static void real_mode_address_wraps(void **state)
{
	set_real_mode();
	m.ram[DATA + 2] = 0x77;
	m.c->gpr[RBX] = 0xfff0;
	m.c->gpr[RSI] = 0x10;
	RUN(0x8a, 0x40, 0x02);		/* mov al, [bx + si + 2] */
	expect_done();
	assert_int_equal(m.c->gpr[RAX], 0x77);
}

static void real_mode_strings_wrap(void **state)
{
	set_real_mode();
	for (unsigned i = 0; i < 16; i++)
		m.ram[DATA + 0x100 + i] = (uint8_t)(i + 1);
	m.c->gpr[RSI] = 0x11110100;
	m.c->gpr[RDI] = 0x2222fff8;
	m.c->gpr[RCX] = 0x33330008;
	RUN(0xf3, 0xa5);		/* rep movsw */
	expect_done();
	assert_int_equal(m.c->gpr[RCX], 0x33330000);
	assert_int_equal(m.c->gpr[RSI], 0x11110110);
	assert_int_equal(m.c->gpr[RDI], 0x22220008);
	assert_memory_equal(m.ram + DATA + 0xfff8, m.ram + DATA + 0x100, 8);
	assert_memory_equal(m.ram + DATA, m.ram + DATA + 0x108, 8);
}

static void real_mode_string_over_the_limit(void **state)
{
	set_real_mode();
	m.c->gpr[RAX] = 0xaaaa;
	m.c->gpr[RDI] = 0xfffb;
	m.c->gpr[RCX] = 8;
	RUN(0xf3, 0xab);		/* rep stosw: the third word would straddle the limit */
	expect_fault(VEC_GP, 0);
	assert_int_equal(m.c->gpr[RCX], 6);
	assert_int_equal(m.c->gpr[RDI], 0xffff);
	assert_int_equal(m.ram[DATA + 0xffff], 0);
	assert_int_equal(m.ram[DATA + 0xfffe], 0xaa);
}

static void real_mode_counts_with_cx(void **state)
{
	set_real_mode();
	m.c->gpr[RCX] = 0x50003;
	RUN(0x40, 0xe2, 0xfd,		/* 1: inc ax; loop 1b */
	    0xe3, 0x01, 0xf4, 0x90);	/* jcxz over hlt */
	expect_done();
	assert_int_equal(m.c->gpr[RAX], 3);
	assert_int_equal(m.c->gpr[RCX], 0x50000);
}

static void real_mode_calls(void **state)
{
	set_real_mode();
	m.c->gpr[RBX] = 0x0300;
	set_mem64(DATA + 0x300, 9);
	RUN(0xe8, 0x06, 0x00,		/* call 9 */
	    0xff, 0x17,			/* call [bx]: 9 */
	    0xeb, 0x04, 0x90, 0x90,	/* jmp to the end */
	    0x47, 0xc3);		/* 9: inc di; ret */
	expect_done();
	assert_int_equal(m.c->gpr[RDI], 2);
	assert_int_equal(m.c->gpr[RSP], 0x100);
	assert_int_equal(mem64(0x300fe) & 0xffff, 5);
}

#define T(f) { #f, f, setup, NULL, NULL }

int main(void)
{
	static const struct CMUnitTest plain[] = {
		T(byte_registers), T(writes_of_32_bits), T(false_cmov_clears_upper_half), T(carry_and_inc), T(zero_count_keeps_flags),
		T(divide_bytes), T(bit_offset_beyond_operand), T(crossing_store_faults_whole), T(crossing_rmw_faults_whole),
		T(crossing_rmw_works), T(cmpxchg_asks_for_write), T(cmpxchg_both_outcomes), T(cmpxchg8b_and_16b),
		T(push_faults_without_moving), T(push_of_non_canonical_is_stack_fault), T(pop_of_sp_and_through_sp),
		T(pop_to_memory_restores_sp), T(push_sp_pushes_old_value), T(enter_and_leave), T(pusha_popa_in_legacy_mode),
		T(call_pushes_only_after_check), T(ret_to_non_canonical_keeps_sp), T(call_and_ret), T(call_through_stack_uses_old_sp),
		T(loops_and_conditions), T(target_in_16_bits_wraps), T(jump_beyond_limit_in_legacy_mode), T(rep_movs_over_pages),
		T(rep_movs_stops_at_the_fault), T(rep_movs_overlapping_repeats_pattern), T(rep_movs_backwards), T(rep_stos_zero_count),
		T(rep_stos_sizes), T(string_with_32_bit_addresses), T(repne_scas_and_repe_cmps), T(lods_sizes), T(rep_stos_over_code),
		T(rep_in_device_is_element_by_element), T(device_rmw_reads_and_writes_once), T(self_modifying_code_takes_effect_next),
		T(store_through_alias), T(rip_relative), T(aam_zero_faults), T(bound_checks), T(undefined_instruction),
		T(real_mode_stack_wraps), T(real_mode_word_at_the_limit), T(real_mode_address_wraps), T(real_mode_strings_wrap),
		T(real_mode_string_over_the_limit), T(real_mode_counts_with_cx), T(real_mode_calls),
	};
	struct CMUnitTest tests[ARRAY_SIZE(plain) + ARRAY_SIZE(div_rows) + ARRAY_SIZE(bcd_rows)];
	unsigned n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(plain); i++) {
		static char names[ARRAY_SIZE(plain)][64];

		for (unsigned k = 0; plain[i].name[k] && k < sizeof(names[i]) - 1; k++)
			names[i][k] = plain[i].name[k] == '_' ? ' ' : plain[i].name[k];
		tests[n] = plain[i];
		tests[n++].name = names[i];
	}
	for (unsigned i = 0; i < ARRAY_SIZE(div_rows); i++)
		tests[n++] = (struct CMUnitTest){ div_rows[i].name, divide, setup, NULL, (void *)(uintptr_t)&div_rows[i] };
	for (unsigned i = 0; i < ARRAY_SIZE(bcd_rows); i++)
		tests[n++] = (struct CMUnitTest){ bcd_rows[i].name, bcd, setup, NULL, (void *)(uintptr_t)&bcd_rows[i] };
	return _cmocka_run_group_tests("interp", tests, n, group_setup, group_teardown);
}
