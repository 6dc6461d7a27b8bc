/* SPDX-License-Identifier: MIT */
/*
 * What the CPUID instruction answers in the client's own code. Some clients believe it rather than KVM: one quits without VMX
 * or SVM before it opens the device, others look there for SGX and SEV. Everything that the rows below do not name is the host's:
 * the client and its libraries choose their own instructions by it.
 *
 * Where the host can make CPUID fault, it does so for every thread (each inherits it from its creator), and the handler executes
 * the instruction with the fault switched off. Elsewhere the CPUIDs of the program itself, not of its libraries, are replaced by
 * UD2, which is as long. They are found by decoding each function that the unwind tables name from its first byte; what cannot
 * be decoded to the end is left alone and logged. GUESTWARD_CPUID (auto, fault, patch, off) chooses.
 *
 * Here, and nowhere else in the shim, run signal handlers that must not lock or allocate. In the first thread they run on a stack of
 * their own: CPUID leaves the memory below the stack pointer alone, and a client may depend on that without knowing (QEMU 7.2
 * gives its firmware an array of a function that has returned).
 */
#include <cpuid.h>
#include <errno.h>
#include <link.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include "isa/insn.h"
#include "shim/real.h"
#include "shim/shim.h"

#ifndef ARCH_SET_CPUID
#define ARCH_SET_CPUID	0x1012
#endif
#define HYGON_EBX	0x6f677948	/* "Hygo" */
#define OPCODE_0F	0x0f
#define OPCODE_CPUID	0xa2
#define OPCODE_UD2	0x0b
#define LEN		2u
#define MAX_SITES	256u

/* ---- what a client may see ---------------------------------------------------------------------------------------------- */

enum vendor { ANY_VENDOR, INTEL, AMD };
enum reg { EAX, EBX, ECX, EDX };
#define ANY_SUBLEAF	~0u

/* In one register of a leaf: what is taken away, then what is there all the same. */
static const struct cpuid_row {
	uint32_t leaf, subleaf;
	enum vendor vendor;
	enum reg reg;
	uint32_t clear, set;
} rows[] = {
	/* Virtualization: this platform has it, whatever the processor below. */
	{ 0x1, ANY_SUBLEAF, INTEL, ECX, 0, 1u << 5 },
	{ 0x80000001, ANY_SUBLEAF, AMD, ECX, 0, 1u << 2 },
	/* SGX and SEV: what the host has is not what a guest here could be given. */
	{ 0x7, 0, ANY_VENDOR, EBX, 1u << 2, 0 },
	{ 0x7, 0, ANY_VENDOR, ECX, 1u << 30, 0 },
	{ 0x12, ANY_SUBLEAF, INTEL, EAX, ~0u, 0 }, { 0x12, ANY_SUBLEAF, INTEL, EBX, ~0u, 0 },
	{ 0x12, ANY_SUBLEAF, INTEL, ECX, ~0u, 0 }, { 0x12, ANY_SUBLEAF, INTEL, EDX, ~0u, 0 },
	{ 0x8000001f, ANY_SUBLEAF, AMD, EAX, ~0u, 0 }, { 0x8000001f, ANY_SUBLEAF, AMD, EBX, ~0u, 0 },
	{ 0x8000001f, ANY_SUBLEAF, AMD, ECX, ~0u, 0 }, { 0x8000001f, ANY_SUBLEAF, AMD, EDX, ~0u, 0 },
};

static enum vendor host;

static enum vendor find_vendor(void)
{
	uint32_t a, b, c, d;

	__cpuid(0, a, b, c, d);
	if (b == signature_AMD_ebx || b == HYGON_EBX)
		return AMD;
	return b == signature_INTEL_ebx ? INTEL : ANY_VENDOR;
}

static void apply_rows(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct cpuid_row *row = &rows[i];

		if (row->leaf != leaf || (row->subleaf != ANY_SUBLEAF && row->subleaf != subleaf) || (row->vendor && row->vendor != host))
			continue;
		r[row->reg] = (r[row->reg] & ~row->clear) | row->set;
	}
}

/* ---- the instruction ---------------------------------------------------------------------------------------------------- */

static enum { OFF, FAULTING, PATCHED } way;
static const uint8_t *sites[MAX_SITES];		/* ours by UD2, ascending per object; written before any is */
static unsigned n_sites;

static long set_faulting(bool on)
{
	return REAL(syscall)(SYS_arch_prctl, ARCH_SET_CPUID, !on);
}

static bool is_site(const uint8_t *at)
{
	for (unsigned i = 0; i < n_sites; i++)
		if (sites[i] == at)
			return true;
	return false;
}

static void execute(greg_t *g)
{
	uint32_t leaf = (uint32_t)g[REG_RAX], subleaf = (uint32_t)g[REG_RCX], r[4];

	if (way == FAULTING)
		set_faulting(false);
	__cpuid_count(leaf, subleaf, r[EAX], r[EBX], r[ECX], r[EDX]);
	if (way == FAULTING)
		set_faulting(true);
	apply_rows(leaf, subleaf, r);
	g[REG_RAX] = r[EAX];
	g[REG_RBX] = r[EBX];
	g[REG_RCX] = r[ECX];
	g[REG_RDX] = r[EDX];
}

int shim_cpuid_signal(void)
{
	return way == FAULTING ? SIGSEGV : way == PATCHED ? SIGILL : 0;
}

/* Prefixes change nothing; a compiler never writes one, and what was not decoded was not executed either. */
bool shim_cpuid_fault(int sig, const siginfo_t *info, void *ctx)
{
	greg_t *g = ((ucontext_t *)ctx)->uc_mcontext.gregs;
	const uint8_t *at = (const uint8_t *)(uintptr_t)g[REG_RIP];
	int saved = errno;

	if (way == OFF || info->si_code <= 0)
		return false;
	if (way == FAULTING) {
		/* A general protection fault, which no page fault is; so these bytes were fetched. */
		if (sig != SIGSEGV || info->si_code != SI_KERNEL || at[0] != OPCODE_0F || at[1] != OPCODE_CPUID)
			return false;
	} else if (sig != SIGILL || !is_site(at)) {
		return false;
	}
	execute(g);
	g[REG_RIP] += LEN;
	errno = saved;
	return true;
}

/* ---- finding it in the program ------------------------------------------------------------------------------------------ */

/* .eh_frame_hdr as every linker here writes it: a table of 32-bit pairs, relative to the header, sorted by function. */
#define HDR_VERSION	1
#define HDR_SDATA4	0x1b	/* of the frame's address: relative to itself, signed, 4 bytes */
#define HDR_UDATA4	0x03	/* of the count */
#define HDR_TABLE	0x3b	/* of the entries: relative to the header */
#define FDE_START	8u	/* length and CIE offset stand before */
#define FDE_SIZE	12u

struct hdr { uint8_t version, frame, count, table; int32_t frame_at; uint32_t n; struct { int32_t start, fde; } entries[]; };

struct search { unsigned n_functions, n_opaque; const uint8_t *text, *text_end; };

static void search_function(struct search *s, const uint8_t *at, const uint8_t *end)
{
	struct insn in;

	s->n_functions++;
	for (; at < end; at += in.len) {
		unsigned room = end - at < INSN_MAX_LEN ? (unsigned)(end - at) : INSN_MAX_LEN;

		if (insn_decode(at, room, INSN_MODE_64, false, NULL, &in) != INSN_OK) {
			s->n_opaque++;
			return;
		}
		if (in.op == I_CPUID && in.len == LEN && n_sites < MAX_SITES)
			sites[n_sites++] = at;
	}
}

static void search_table(struct search *s, const struct hdr *h)
{
	const uint8_t *base = (const uint8_t *)h;

	if (h->version != HDR_VERSION || h->frame != HDR_SDATA4 || h->count != HDR_UDATA4 || h->table != HDR_TABLE)
		return;
	for (uint32_t i = 0; i < h->n; i++) {
		const uint8_t *start = base + h->entries[i].start, *fde = base + h->entries[i].fde;
		int32_t own;
		uint32_t len;

		memcpy(&own, fde + FDE_START, sizeof(own));
		memcpy(&len, fde + FDE_SIZE, sizeof(len));
		/* An encoding we do not know would not lead back to the function. */
		if (fde + FDE_START + own == start && start >= s->text && len <= (size_t)(s->text_end - start) && start < s->text_end)
			search_function(s, start, start + len);
	}
}

static const ElfW(Phdr) *find_segment(const struct dl_phdr_info *o, uint32_t type, uint32_t flags)
{
	for (unsigned i = 0; i < o->dlpi_phnum; i++)
		if (o->dlpi_phdr[i].p_type == type && (o->dlpi_phdr[i].p_flags & flags) == flags)
			return &o->dlpi_phdr[i];
	return NULL;
}

static void search_object(struct search *s, const struct dl_phdr_info *o)
{
	const ElfW(Phdr) *text = find_segment(o, PT_LOAD, PF_X), *hdr = find_segment(o, PT_GNU_EH_FRAME, 0);

	if (!text || !hdr)
		return;
	s->text = (const uint8_t *)(o->dlpi_addr + text->p_vaddr);
	s->text_end = s->text + text->p_memsz;
	search_table(s, (const struct hdr *)(o->dlpi_addr + hdr->p_vaddr));
}

static bool write_ud2(const uint8_t *at)
{
	uintptr_t page = (uintptr_t)at & ~4095ull, end = ((uintptr_t)at + LEN + 4095) & ~4095ull;

	/* The program is about to start and we are its only thread: nobody executes this meanwhile. */
	if (mprotect((void *)page, end - page, PROT_READ | PROT_WRITE))
		return false;
	((uint8_t *)(uintptr_t)at)[1] = OPCODE_UD2;
	return !mprotect((void *)page, end - page, PROT_READ | PROT_EXEC);
}

/* The first object is the program; the others are libraries, and stay as they are. */
static int visit(struct dl_phdr_info *o, size_t size, void *opaque)
{
	if (o->dlpi_name[0]) {
		shim_log("CPUID in %s is the host's", o->dlpi_name);
		return 0;
	}
	search_object(opaque, o);
	return 0;
}

static void patch_program(void)
{
	struct search s = { 0 };
	unsigned n = 0;

	dl_iterate_phdr(visit, &s);
	for (unsigned i = 0; i < n_sites; i++)
		n += write_ud2(sites[i]);
	shim_log("CPUID replaced at %u of %u places; %u of %u functions could not be decoded to their end", n, n_sites, s.n_opaque,
		s.n_functions);
}

/* ---- the first thread's signal stack --------------------------------------------------------------------------------------- */

#define STACK_SIZE	(256u << 10)
#define GUARD_SIZE	4096u

/* Unless there is one. Clients' own handlers of the signals that we take run there, too. */
static void set_stack(void)
{
	stack_t now, ours = { .ss_size = STACK_SIZE };
	void *p;

	if (sigaltstack(NULL, &now) || !(now.ss_flags & SS_DISABLE))
		return;
	p = REAL(mmap)(NULL, GUARD_SIZE + STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
	if (p == MAP_FAILED)
		return;
	ours.ss_sp = (char *)p + GUARD_SIZE;
	if (mprotect(p, GUARD_SIZE, PROT_NONE) || sigaltstack(&ours, NULL))
		munmap(p, GUARD_SIZE + STACK_SIZE);
}

/* ---- start -------------------------------------------------------------------------------------------------------------- */

/* Both before the first thread of the program. Nothing here is an error: without it the client sees the host. */
void shim_cpuid_init(void)
{
	const char *want = getenv("GUESTWARD_CPUID");
	bool only_patch = want && !strcmp(want, "patch"), only_fault = want && !strcmp(want, "fault");

	if (want && !strcmp(want, "off"))
		return;
	host = find_vendor();
	set_stack();
	if (!only_patch) {
		/* The handler first: from the next instruction on anyone may fault. */
		shim_signal_take(SIGSEGV);
		way = FAULTING;
		if (!set_faulting(true))
			return;
		way = OFF;
	}
	if (only_fault) {
		shim_log("this host cannot make CPUID fault");
		return;
	}
	shim_signal_take(SIGILL);
	way = PATCHED;
	patch_program();
}
