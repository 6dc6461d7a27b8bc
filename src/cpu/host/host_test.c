/* SPDX-License-Identifier: MIT */
/*
 * What the differential tester cannot see from user mode: the gates of CR0, CR4 and XCR0, exceptions that the CPU raises inside
 * a stub, privileged forms, what the client finds in its own registers, signals that are not ours, faults of the client's
 * memory, and the KVM face. Code runs by cpu_run() at CPL 0 until HLT; an exception has no IDT to go to and shuts down.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "cpu/host/host_private.h"
#include "cpu/host/signal.h"

#define RAM_SIZE	0x200000u
#define CODE		0x10000u
#define DATA		0x20000u
#define CR0_RUN		(CR0_PE | CR0_PG | CR0_NE | CR0_MP | CR0_ET)
#define CR4_RUN		(CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE)

static struct vcpu *c;
static struct mem_code_map *code_map;
static struct acc_vm *vm;
static uint8_t *ram;

static bool never(struct vcpu *v) { return false; }
static enum cpu_exit nothing(struct vcpu *v) { return CPU_RUNNING; }
static bool no_debug(struct vcpu *v, unsigned vector) { return false; }

static const struct cpu_env env = { .intr_pending = never, .poll = never, .latched = nothing, .debug = no_debug };

static void put64(uint32_t at, uint64_t v)
{
	memcpy(ram + at, &v, 8);
}

static int setup(void **state)
{
	struct mem_slot slot = { .n_pages = RAM_SIZE >> GW_PAGE_SHIFT };
	struct mem_map *map;

	ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	c = aligned_alloc(4096, (sizeof(*c) + 4095) & ~(size_t)4095);
	if (ram == MAP_FAILED || !c)
		return -1;
	memset(c, 0, sizeof(*c));
	slot.hva = ram;
	put64(0x1000, 0x2000 | PTE_P | PTE_W);
	put64(0x2000, 0x3000 | PTE_P | PTE_W);
	put64(0x3000, 0x4000 | PTE_P | PTE_W);
	for (uint32_t va = 0; va < RAM_SIZE; va += GW_PAGE_SIZE)
		put64(0x4000 + 8 * (va >> GW_PAGE_SHIFT), va | PTE_P | PTE_W | PTE_A | PTE_D);
	if (mem_code_map_new(&code_map) || acc_vm_new(NULL, code_map, &vm) || mem_map_change(NULL, &slot, &map))
		return -1;
	acc_vm_set_map(vm, map);
	if (cpu_init(c, vm, &env, NULL, 0))
		return -1;
	for (unsigned i = 0; i < N_ISA_FEATURES; i++)
		c->features[i] = true;
	return 0;
}

static int teardown(void **state)
{
	cpu_fini(c);
	free(c);
	acc_vm_free(vm);
	mem_code_map_free(code_map);
	munmap(ram, RAM_SIZE);
	return 0;
}

static void prepare(uint64_t cr0, uint64_t cr4, uint64_t xcr0)
{
	uint64_t old0 = c->acc.cr0, old4 = c->acc.cr4, old_efer = c->acc.efer;

	/* cmocka puts its own handlers in place before every test. */
	assert_int_equal(cpu_signals_install(), 0);
	cpu_reset(c, false);
	c->acc.cr0 = cr0;
	c->acc.cr4 = cr4;
	c->acc.cr3 = 0x1000;
	c->acc.efer = EFER_LME | EFER_LMA;
	for (unsigned i = 0; i < SEG_LDTR; i++)
		c->seg[i] = (struct cpu_seg){ .sel = 8, .limit = 0xffffffff, .type = i == SEG_CS ? 11 : 3, .s = 1, .present = 1, .g = 1,
					      .l = i == SEG_CS, .db = i != SEG_CS };
	c->fpu.xcr0 = xcr0;
	c->idtr.limit = 0;
	acc_paging_changed(&c->acc, old0, old4, old_efer);
	cpu_state_changed(c);
	memset(&c->ring, 0, sizeof(c->ring));
	memset(ram + DATA, 0, 0x4000);
	c->gpr[RSI] = DATA;
	c->gpr[RDI] = DATA + 0x1000;
	c->gpr[RSP] = DATA + 0x3000;
	c->rip = CODE;
}

/* Runs @code, then HLT. The vector of the first exception, or -1. */
static int run(const uint8_t *code, unsigned len)
{
	enum cpu_exit e;

	memcpy(ram + CODE, code, len);
	ram[CODE + len] = 0xf4;
	c->rip = CODE;
	cpu_memory_touched(c);
	e = cpu_run(c);
	for (unsigned i = 0; i < CPU_RING_SIZE; i++)
		if (c->ring.e[i].kind == RING_EXCEPTION)
			return (int)c->ring.e[i].a;
	assert_int_equal(e, CPU_EXIT_HLT);
	return -1;
}

#define RUN(...) run((const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

/* ---- gates --------------------------------------------------------------------------------------------------------------------- */

struct gate_row {
	const char *name;
	uint64_t cr0, cr4, xcr0;	/* bits turned against the running state */
	int vector;
	uint8_t len, code[6];
};

#define X87	2, { 0xd9, 0xe8 }
#define WAIT_	1, { 0x9b }
#define MMX_	3, { 0x0f, 0xef, 0xc0 }
#define SSE_	3, { 0x0f, 0x58, 0xc1 }
#define AVX_	4, { 0xc5, 0xf0, 0x58, 0xc2 }
#define FXSAVE_	3, { 0x0f, 0xae, 0x06 }
#define XSAVE_	3, { 0x0f, 0xae, 0x26 }
#define LDMX	3, { 0x0f, 0xae, 0x16 }
#define MOVQ2DQ	4, { 0xf3, 0x0f, 0xd6, 0xc0 }

static const struct gate_row gate_rows[] = {
	{ "x87 runs", 0, 0, 0, -1, X87 },
	{ "x87 with TS is #NM", CR0_TS, 0, 0, VEC_NM, X87 },
	{ "x87 with EM is #NM", CR0_EM, 0, 0, VEC_NM, X87 },
	{ "WAIT with TS and MP is #NM", CR0_TS, 0, 0, VEC_NM, WAIT_ },
	{ "WAIT with TS and without MP runs", CR0_TS | CR0_MP, 0, 0, -1, WAIT_ },
	{ "WAIT with EM runs", CR0_EM, 0, 0, -1, WAIT_ },
	{ "MMX with TS is #NM", CR0_TS, 0, 0, VEC_NM, MMX_ },
	{ "MMX with EM is #UD", CR0_EM, 0, 0, VEC_UD, MMX_ },
	{ "MMX with EM and TS is #UD", CR0_EM | CR0_TS, 0, 0, VEC_UD, MMX_ },
	{ "MMX does not need OSFXSR", 0, CR4_OSFXSR, 0, -1, MMX_ },
	{ "SSE runs", 0, 0, 0, -1, SSE_ },
	{ "SSE with TS is #NM", CR0_TS, 0, 0, VEC_NM, SSE_ },
	{ "SSE with EM is #UD", CR0_EM, 0, 0, VEC_UD, SSE_ },
	{ "SSE without OSFXSR is #UD", 0, CR4_OSFXSR, 0, VEC_UD, SSE_ },
	{ "SSE without OSFXSR and with TS is #UD", CR0_TS, CR4_OSFXSR, 0, VEC_UD, SSE_ },
	{ "SSE does not need OSXSAVE", 0, CR4_OSXSAVE, 0, -1, SSE_ },
	{ "MOVQ2DQ without OSFXSR is #UD", 0, CR4_OSFXSR, 0, VEC_UD, MOVQ2DQ },
	{ "LDMXCSR without OSFXSR is #UD", 0, CR4_OSFXSR, 0, VEC_UD, LDMX },
	{ "LDMXCSR with TS is #NM", CR0_TS, 0, 0, VEC_NM, LDMX },
	{ "AVX runs", 0, 0, 0, -1, AVX_ },
	{ "AVX without OSXSAVE is #UD", 0, CR4_OSXSAVE, 0, VEC_UD, AVX_ },
	{ "AVX without XCR0.AVX is #UD", 0, 0, XCR0_AVX, VEC_UD, AVX_ },
	{ "AVX with TS is #NM", CR0_TS, 0, 0, VEC_NM, AVX_ },
	{ "AVX without XCR0.AVX and with TS is #UD", CR0_TS, 0, XCR0_AVX, VEC_UD, AVX_ },
	{ "AVX does not look at EM", CR0_EM, 0, 0, -1, AVX_ },
	{ "AVX does not need OSFXSR", 0, CR4_OSFXSR, 0, -1, AVX_ },
	{ "FXSAVE with TS is #NM", CR0_TS, 0, 0, VEC_NM, FXSAVE_ },
	{ "FXSAVE with EM is #NM", CR0_EM, 0, 0, VEC_NM, FXSAVE_ },
	{ "FXSAVE does not need OSFXSR", 0, CR4_OSFXSR, 0, -1, FXSAVE_ },
	{ "XSAVE without OSXSAVE is #UD", 0, CR4_OSXSAVE, 0, VEC_UD, XSAVE_ },
	{ "XSAVE with TS is #NM", CR0_TS, 0, 0, VEC_NM, XSAVE_ },
};

static void check_gate(void **state)
{
	const struct gate_row *r = *state;

	prepare(CR0_RUN ^ r->cr0, CR4_RUN ^ r->cr4, 7 ^ r->xcr0);
	fx_put32(ram, DATA, MXCSR_INIT);
	assert_int_equal(run(r->code, r->len), r->vector);
}

/* ---- exceptions of the CPU in a stub ------------------------------------------------------------------------------------------ */

#define UNMASK_ZE	0x1d80u		/* MXCSR with the divide-by-zero exception unmasked */

/* divps xmm0, xmm1 with 1.0 / 0.0 in the lowest element. */
static int divide_by_zero(uint64_t cr4)
{
	prepare(CR0_RUN, cr4, 7);
	fx_put32(c->fpu.area, FX_MXCSR, UNMASK_ZE);
	for (unsigned i = 0; i < 16; i += 4)
		fx_put32(c->fpu.area, FX_XMM + i, 0x3f800000);
	return RUN(0x0f, 0x5e, 0xc1);
}

static void simd_exception(void **state)
{
	assert_int_equal(divide_by_zero(CR4_RUN), VEC_XM);
	assert_int_equal(fx_get32(c->fpu.area, FX_MXCSR), UNMASK_ZE | 4);
	assert_int_equal(fx_get32(c->fpu.area, FX_XMM), 0x3f800000);	/* the destination is as it was */
	assert_int_equal(divide_by_zero(CR4_RUN & ~CR4_OSXMMEXCPT), VEC_UD);
}

static void masked_simd_exception_sets_its_flag(void **state)
{
	prepare(CR0_RUN, CR4_RUN, 7);
	fx_put32(c->fpu.area, FX_XMM, 0x3f800000);
	assert_int_equal(RUN(0xf3, 0x0f, 0x5e, 0xc1, 0x0f, 0xae, 0x1e), -1);	/* divss; stmxcsr [rsi] */
	assert_int_equal(fx_get32(ram, DATA), MXCSR_INIT | 4);
	assert_int_equal(fx_get32(c->fpu.area, FX_XMM), 0x7f800000);
}

static void ldmxcsr_unmasks_and_refuses_reserved_bits(void **state)
{
	prepare(CR0_RUN, CR4_RUN, 7);
	fx_put32(ram, DATA, UNMASK_ZE);
	fx_put32(c->fpu.area, FX_XMM, 0x3f800000);
	assert_int_equal(RUN(0x0f, 0xae, 0x16, 0xf3, 0x0f, 0x5e, 0xc1), VEC_XM);
	prepare(CR0_RUN, CR4_RUN, 7);
	fx_put32(ram, DATA, 0x10000);
	assert_int_equal(RUN(0x0f, 0xae, 0x16), VEC_GP);
	assert_int_equal(fx_get32(c->fpu.area, FX_MXCSR), MXCSR_INIT);
}

/* The exception waits for the next waiting instruction; FNSTSW is not one. */
static void x87_exception_comes_with_the_next_instruction(void **state)
{
	prepare(CR0_RUN, CR4_RUN, 7);
	fx_put16(ram, DATA, 0x037b);		/* divide by zero unmasked */
	/* fldcw [rsi]; fldz; fld1; fdivrp st1 = 1 / 0 ... fnstsw ax; fld1 */
	assert_int_equal(RUN(0xd9, 0x2e, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0xdf, 0xe0, 0xd9, 0xe8), VEC_MF);
	assert_int_equal(c->gpr[RAX] & 0x84, 0x84);
	assert_int_equal(c->ring.e[0].kind == RING_EXCEPTION ? c->ring.e[0].rip : c->ring.e[1].rip, CODE + 10);
}

/* FNSTENV after FLD [rsi + 8]: FIP and FDP are the guest's, no address of ours. */
static void x87_pointers_are_the_guests(void **state)
{
	prepare(CR0_RUN, CR4_RUN, 7);
	assert_int_equal(RUN(0xdd, 0x46, 0x08, 0xd9, 0x37), -1);
	assert_int_equal(fx_get32(ram, DATA + 0x1000 + 12), CODE);
	assert_int_equal(fx_get32(ram, DATA + 0x1000 + 16), 0x0546u << 16);
	assert_int_equal(fx_get32(ram, DATA + 0x1000 + 20), DATA + 8);
	assert_int_equal(fx_get64(c->fpu.area, FX_FIP), CODE);
	assert_int_equal(fx_get64(c->fpu.area, FX_FDP), DATA + 8);
}

static void x87_state_survives_leaving(void **state)
{
	prepare(CR0_RUN, CR4_RUN, 7);
	assert_int_equal(RUN(0xd9, 0xeb), -1);			/* fldpi */
	assert_false(c->fpu.x87_live);
	assert_int_equal(RUN(0xd9, 0xe8, 0xde, 0xc1), -1);	/* fld1; faddp */
	assert_int_equal(RUN(0xdd, 0x1e), -1);			/* fstp [rsi] */
	assert_int_equal(fx_get64(ram, DATA), 0x401090fdaa22168cu);	/* pi + 1 */
}

/* ---- the client ------------------------------------------------------------------------------------------------------------------ */

static void client_finds_its_control_words(void **state)
{
	uint32_t mxcsr = 0x3fa0, found;
	uint16_t fcw = 0x0b7f, found_cw, fsw;

	prepare(CR0_RUN, CR4_RUN, 7);
	fx_put32(ram, DATA, 0x7f80);
	__asm__ volatile("ldmxcsr %0\n\tfldcw %1" : : "m"(mxcsr), "m"(fcw));
	assert_int_equal(RUN(0x0f, 0xae, 0x16, 0xdb, 0xe3, 0xd9, 0xe8), -1);	/* ldmxcsr [rsi]; fninit; fld1 */
	__asm__ volatile("stmxcsr %0\n\tfnstcw %1\n\tfnstsw %2" : "=m"(found), "=m"(found_cw), "=m"(fsw));
	assert_int_equal(found, mxcsr);
	assert_int_equal(found_cw, fcw);
	assert_int_equal(fsw, 0);
	mxcsr = MXCSR_INIT;
	fcw = FCW_INIT;
	__asm__ volatile("ldmxcsr %0\n\tfldcw %1" : : "m"(mxcsr), "m"(fcw));
}

/* Memory that the client takes away under the vCPU, touched by a stub and by C. */
static void lost_memory(void **state)
{
	const uint8_t *code = *state;

	prepare(CR0_RUN, CR4_RUN, 7);
	RUN(0x8b, 0x06, 0x89, 0x06);		/* the page is remembered for both */
	memcpy(ram + CODE, code, 4);
	c->rip = CODE;
	cpu_memory_touched(c);
	mprotect(ram + DATA, GW_PAGE_SIZE, PROT_NONE);
	assert_int_equal(cpu_run(c), CPU_EXIT_HOST_FAULT);
	mprotect(ram + DATA, GW_PAGE_SIZE, PROT_READ | PROT_WRITE);
	c->rip = CODE;
	assert_int_equal(cpu_run(c), CPU_EXIT_HLT);
}

static volatile sig_atomic_t chained;
static void *fault_page;

static void chained_handler(int sig, siginfo_t *info, void *ctx)
{
	chained += info->si_addr == fault_page;
	mprotect(fault_page, GW_PAGE_SIZE, PROT_READ | PROT_WRITE);
}

/* A fault of the client's own reaches the client's handler, before and after it installs one over ours. */
static void foreign_faults_are_chained(void **state)
{
	struct sigaction sa = { .sa_sigaction = chained_handler, .sa_flags = SA_SIGINFO }, old;

	fault_page = mmap(NULL, GW_PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(fault_page, MAP_FAILED);
	chained = 0;
	assert_int_equal(sigaction(SIGSEGV, &sa, &old), 0);
	assert_int_equal(cpu_signals_install(), 0);
	*(volatile char *)fault_page = 1;
	assert_int_equal(chained, 1);
	/* Ours is on top again: a stub's fault is still answered. */
	assert_int_equal(divide_by_zero(CR4_RUN), VEC_XM);
	assert_int_equal(chained, 1);
	munmap(fault_page, GW_PAGE_SIZE);
}

/* ---- stubs ----------------------------------------------------------------------------------------------------------------------- */

/* More distinct instructions than the buffer holds, in blocks that stay decoded: their operations must notice. */
static void evicted_stubs_are_made_again(void **state)
{
	uint64_t before = c->host->evictions;

	prepare(CR0_RUN, CR4_RUN, 7);
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = 0; i < 4096; i++) {
			uint8_t *p = ram + 0x80000 + 8 * i;

			/* pshufd or pshuflw xmm(i & 7), xmm8, imm; ret */
			memcpy(p, (const uint8_t[]){ i >> 11 ? 0xf2 : 0x66, 0x41, 0x0f, 0x70, (uint8_t)(0xc0 | (i & 7) << 3), (uint8_t)(i >> 3), 0xc3 }, 7);
		}
		for (unsigned i = 0; i < 16; i += 2)
			fx_put16(c->fpu.area, XMM_OF(8) + i, (uint16_t)(i / 2));
		/* mov ebx, 80000h; L: call rbx; add ebx, 8; cmp ebx, 88000h; jne L */
		assert_int_equal(RUN(0xbb, 0, 0, 8, 0, 0xff, 0xd3, 0x83, 0xc3, 8, 0x81, 0xfb, 0, 0x80, 8, 0, 0x75, 0xf3), -1);
		for (unsigned i = 0; i < 8; i++)	/* the last for each register: pshuflw with 255 */
			for (unsigned w = 0; w < 8; w++)
				assert_int_equal(fx_get16(c->fpu.area, XMM_OF(i) + 2 * w), w < 4 ? 3 : w);
	}
	assert_true(c->host->evictions > before);
}

static void stub_memory_is_never_writable_and_executable(void **state)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned writable = 0, executable = 0;
	char line[512];

	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps)) {
		unsigned long long from, to;
		char perm[5];

		assert_int_equal(sscanf(line, "%llx-%llx %4s", &from, &to, perm), 3);
		assert_false(perm[1] == 'w' && perm[2] == 'x');
		writable += from == (uintptr_t)c->host->rw && perm[1] == 'w';
		executable += from == (uintptr_t)c->host->rx && perm[2] == 'x';
	}
	fclose(maps);
	assert_int_equal(writable, 1);
	assert_int_equal(executable, 1);
}

/* ---- XSAVES, random numbers, the KVM face ------------------------------------------------------------------------------------- */

static void xsaves_and_xrstors(void **state)
{
	prepare(CR0_RUN, CR4_RUN, 7);
	for (unsigned i = 0; i < 16; i++) {
		c->fpu.area[XMM_OF(3) + i] = (uint8_t)(i + 1);
		c->fpu.area[YMM_OF(5) + i] = (uint8_t)(i + 0x81);
	}
	c->gpr[RAX] = 7;
	c->gpr[RDX] = 0;
	/* xsaves64 [rsi]; vzeroall; xrstors64 [rsi] */
	assert_int_equal(RUN(0x48, 0x0f, 0xc7, 0x2e, 0xc5, 0xfc, 0x77, 0x48, 0x0f, 0xc7, 0x1e), -1);
	assert_int_equal(fx_get64(ram, DATA + 512), 6);
	assert_true(fx_get64(ram, DATA + 520) == (1ull << 63 | 7));
	assert_int_equal(c->fpu.area[XMM_OF(3) + 15], 16);
	assert_int_equal(c->fpu.area[YMM_OF(5)], 0x81);
	/* Not at CPL 3; XRSTORS wants the compacted form. */
	prepare(CR0_RUN, CR4_RUN, 7);
	c->gpr[RAX] = 7;
	assert_int_equal(RUN(0x48, 0x0f, 0xc7, 0x1e), VEC_GP);
}

static void random_numbers_set_carry_alone(void **state)
{
	prepare(CR0_RUN, CR4_RUN, 7);
	c->cc = cpu_cc_of_flags(FLAGS_ARITH);
	c->gpr[RAX] = ~0ull;
	assert_int_equal(RUN(0x0f, 0xc7, 0xf0, 0x66, 0x0f, 0xc7, 0xfb), -1);	/* rdrand eax; rdseed bx */
	assert_int_equal(cpu_flags_of_cc(c->cc), FLAG_CF);
	assert_int_equal(c->gpr[RAX] >> 32, 0);
}

static void kvm_images(void **state)
{
	static uint8_t fx[512], xs[4096], again[4096];

	prepare(CR0_RUN, CR4_RUN, 7);
	assert_int_equal(RUN(0xd9, 0xe8), -1);
	memset(c->fpu.area + YMM_OF(2), 0x55, 16);
	c->acc.pkru = 0x12345678;
	cpu_fpu_get(c, fx);
	assert_int_equal(fx[FX_FTW], 0x80);
	cpu_xsave_get(c, xs, sizeof(xs));
	assert_int_equal(fx_get64(xs, 512), 7 | XCR0_PKRU);
	assert_int_equal(fx_get32(xs, CPU_XSAVE_PKRU), 0x12345678);
	cpu_fpu_reset(c);
	c->acc.pkru = 0;
	assert_int_equal(cpu_xsave_set(c, xs, sizeof(xs)), 0);
	cpu_xsave_get(c, again, sizeof(again));
	assert_memory_equal(xs, again, sizeof(xs));
	/* Bits without meaning are refused and change nothing. */
	fx_put32(xs, FX_MXCSR, 0x10000);
	assert_int_equal(cpu_xsave_set(c, xs, sizeof(xs)), -EINVAL);
	fx_put32(fx, FX_MXCSR, 0x10000);
	assert_int_equal(cpu_fpu_set(c, fx), -EINVAL);
	fx_put32(xs, FX_MXCSR, MXCSR_INIT);
	fx_put64(xs, 512, 1ull << 20);
	assert_int_equal(cpu_xsave_set(c, xs, sizeof(xs)), -EINVAL);
	cpu_xsave_get(c, xs, sizeof(xs));
	assert_memory_equal(xs, again, sizeof(xs));
}

static void xcr0_rules(void **state)
{
	c->n_cpuid = 0;
	assert_true(cpu_xcr0_valid(c, 1));
	assert_false(cpu_xcr0_valid(c, 3));
	c->cpuid[0] = (struct cpu_cpuid){ .function = 0xd, .eax = 0x207 };
	c->n_cpuid = 1;
	assert_true(cpu_xcr0_valid(c, 7));
	assert_true(cpu_xcr0_valid(c, 0x203));
	assert_false(cpu_xcr0_valid(c, 6));	/* x87 cannot be off */
	assert_false(cpu_xcr0_valid(c, 5));	/* AVX without SSE */
	assert_false(cpu_xcr0_valid(c, 0x17));
	c->n_cpuid = 0;
}

static const uint8_t lost_to_stub[4] = { 0x0f, 0x28, 0x06, 0xf4 };	/* movaps xmm0, [rsi] */
static const uint8_t lost_to_c[4] = { 0x89, 0x06, 0xf4, 0xf4 };		/* mov [rsi], eax */

int main(void)
{
	static struct CMUnitTest tests[ARRAY_SIZE(gate_rows) + 20];
	static const struct CMUnitTest others[] = {
		{ "an unmasked SIMD exception is #XM, or #UD without OSXMMEXCPT", simd_exception, NULL, NULL, NULL },
		{ "a masked SIMD exception sets its flag", masked_simd_exception_sets_its_flag, NULL, NULL, NULL },
		{ "LDMXCSR unmasks, and refuses reserved bits", ldmxcsr_unmasks_and_refuses_reserved_bits, NULL, NULL, NULL },
		{ "an x87 exception comes with the next waiting instruction", x87_exception_comes_with_the_next_instruction, NULL, NULL, NULL },
		{ "FIP, FDP and FOP are the guest's", x87_pointers_are_the_guests, NULL, NULL, NULL },
		{ "x87 state survives leaving cpu_run", x87_state_survives_leaving, NULL, NULL, NULL },
		{ "the client finds its control words as they were", client_finds_its_control_words, NULL, NULL, NULL },
		{ "memory lost under a stub is an exit", lost_memory, NULL, NULL, (void *)(uintptr_t)lost_to_stub },
		{ "memory lost under C code is an exit", lost_memory, NULL, NULL, (void *)(uintptr_t)lost_to_c },
		{ "faults that are not ours reach the client's handler", foreign_faults_are_chained, NULL, NULL, NULL },
		{ "evicted stubs are made again", evicted_stubs_are_made_again, NULL, NULL, NULL },
		{ "stubs are written through one mapping and run through another", stub_memory_is_never_writable_and_executable, NULL, NULL, NULL },
		{ "XSAVES and XRSTORS keep the state, compacted", xsaves_and_xrstors, NULL, NULL, NULL },
		{ "random numbers set carry and clear the other flags", random_numbers_set_carry_alone, NULL, NULL, NULL },
		{ "KVM's images round-trip, and refuse reserved bits", kvm_images, NULL, NULL, NULL },
		{ "XCR0 takes what CPUID offers, in legal combinations", xcr0_rules, NULL, NULL, NULL },
	};
	unsigned n = 0;

	for (; n < ARRAY_SIZE(gate_rows); n++)
		tests[n] = (struct CMUnitTest){ .name = gate_rows[n].name, .test_func = check_gate, .initial_state = (void *)(uintptr_t)&gate_rows[n] };
	for (unsigned i = 0; i < ARRAY_SIZE(others); i++)
		tests[n++] = others[i];
	return _cmocka_run_group_tests("cpu-host", tests, n, setup, teardown);
}
