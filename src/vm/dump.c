/* SPDX-License-Identifier: MIT */
/*
 * What a vCPU looks like, as text: registers, last events, code at RIP, and the walk of an address with each level and each
 * guard's opinion. Changes nothing: no A bits, no verdict that a guard would count.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/translate/translate.h"
#include "vm/vm.h"

static const char *const ring_names[RING_N] = {
	[RING_NONE] = "none", [RING_EXCEPTION] = "exception", [RING_INTERRUPT] = "interrupt", [RING_EXIT] = "exit", [RING_CR] = "cr",
	[RING_MSR] = "msr", [RING_PIO] = "pio", [RING_MMIO] = "mmio", [RING_HYPERCALL] = "hypercall", [RING_RIGHTS] = "rights",
	[RING_MODE] = "mode",
};

void vm_dump_ring(struct vm_vcpu *v, void (*line)(void *opaque, const char *text), void *opaque)
{
	unsigned next = v->c.ring.next;
	char text[160];

	for (unsigned i = 0; i < CPU_RING_SIZE; i++) {
		struct cpu_ring_entry e = v->c.ring.e[(next + i) % CPU_RING_SIZE];

		if (e.kind == RING_NONE || e.kind >= RING_N)
			continue;
		snprintf(text, sizeof(text), "vcpu=%u insns=%llu rip=%016llx %s a=%llx b=%llx", v->index, (unsigned long long)e.insns,
			 (unsigned long long)e.rip, ring_names[e.kind] ? ring_names[e.kind] : "?", (unsigned long long)e.a,
			 (unsigned long long)e.b);
		line(opaque, text);
	}
}

/* ---- registers ---------------------------------------------------------------------------------------------------------- */

static void put_regs(FILE *f, struct vm_vcpu *v)
{
	static const char *const names[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					     "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15" };
	static const char *const segs[] = { "es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr" };
	const struct vcpu *c = &v->c;

	fprintf(f, "vcpu=%u id=%u mp_state=%u insns=%llu mode=%u cpl=%u\n", v->index, v->id, v->mp_state,
		(unsigned long long)c->stats.insns, c->mode, c->acc.cpl);
	for (unsigned i = 0; i < 16; i++)
		fprintf(f, "%s=%016llx%s", names[i], (unsigned long long)c->gpr[i], i % 4 == 3 ? "\n" : " ");
	fprintf(f, "rip=%016llx rflags=%08x\n", (unsigned long long)c->rip, cpu_eflags(c));
	fprintf(f, "cr0=%08llx cr2=%016llx cr3=%016llx cr4=%08llx cr8=%llx efer=%llx apic_base=%llx\n", (unsigned long long)c->acc.cr0,
		(unsigned long long)c->acc.cr2, (unsigned long long)c->acc.cr3, (unsigned long long)c->acc.cr4,
		(unsigned long long)vm_get_cr8(v), (unsigned long long)c->acc.efer, (unsigned long long)vm_get_apic_base(v));
	for (unsigned i = 0; i < N_SEGS; i++)
		fprintf(f, "%s=%04x base=%016llx limit=%08x type=%x s=%u dpl=%u p=%u l=%u db=%u g=%u%s\n", segs[i], c->seg[i].sel,
			(unsigned long long)c->seg[i].base, c->seg[i].limit, c->seg[i].type, c->seg[i].s, c->seg[i].dpl,
			c->seg[i].present, c->seg[i].l, c->seg[i].db, c->seg[i].g, c->seg[i].unusable ? " unusable" : "");
	fprintf(f, "gdtr=%016llx:%04x idtr=%016llx:%04x dr6=%llx dr7=%llx xcr0=%llx\n", (unsigned long long)c->gdtr.base, c->gdtr.limit,
		(unsigned long long)c->idtr.base, c->idtr.limit, (unsigned long long)c->dr6, (unsigned long long)c->dr7,
		(unsigned long long)c->fpu.xcr0);
	fprintf(f, "exception=%d:%u interrupt=%d:%u nmi=%d:%u masked=%d shadow=%u\n", c->ev.exception.pending, c->ev.exception.vector,
		c->ev.interrupt.injected, c->ev.interrupt.vector, c->ev.nmi.injected, c->ev.nmi.pending, c->ev.nmi.masked, c->shadow);
}

static void put_line(void *opaque, const char *text)
{
	fprintf(opaque, "%s\n", text);
}

/* ---- guest memory without effects ---------------------------------------------------------------------------------------- */

static bool peek_gpa(struct vm_vcpu *v, uint64_t gpa, void *buf, unsigned len)
{
	return acc_peek(v->vm->acc, GPA(gpa), buf, len);
}

static bool translate(struct vm_vcpu *v, uint64_t gva, uint64_t *gpa)
{
	struct acc_request rq = { .cpu = &v->c.acc, .gva = GVA(gva), .len = 1, .rights = ACC_R, .stage = ACC_IMPLICIT,
				  .origin = ACC_IOCTL };
	struct acc_result res;
	bool inside = v->c.acc.in_guest, ok;

	if (!inside)
		acc_enter(&v->c.acc);
	ok = acc_translate(&rq, &res) == ACC_ALLOW;
	if (!inside)
		acc_leave(&v->c.acc);
	*gpa = rq.gpa.v;
	return ok;
}

static void put_code(FILE *f, struct vm_vcpu *v)
{
	struct vcpu *c = &v->c;
	uint64_t la = c->rip + c->seg_base[SEG_CS], gpa;
	uint8_t bytes[64];
	struct insn in;
	unsigned n, at = 0;
	char text[128];

	n = GW_PAGE_SIZE - (unsigned)(la & GW_PAGE_MASK);
	n = n < sizeof(bytes) ? n : sizeof(bytes);
	if (!translate(v, la, &gpa) || !peek_gpa(v, gpa, bytes, n)) {
		fprintf(f, "code: %016llx is not in memory\n", (unsigned long long)la);
		return;
	}
	for (unsigned i = 0; i < 8 && at < n; i++) {
		if (insn_decode(bytes + at, n - at, c->mode, !c->protected_mode, c->features, &in) != INSN_OK) {
			fprintf(f, "%016llx: (undefined %02x)\n", (unsigned long long)c->rip + at, bytes[at]);
			return;
		}
		insn_format(&in, c->rip + at, text, sizeof(text));
		fprintf(f, "%016llx: %s\n", (unsigned long long)c->rip + at, text);
		at += in.len;
	}
}

/* ---- the walk ------------------------------------------------------------------------------------------------------------ */

/* One level: its table, the entry and what it says. Returns false when the walk ends here. */
static bool put_level(FILE *f, struct vm_vcpu *v, const char *name, uint64_t table, unsigned shift, unsigned bits, unsigned size,
		      uint64_t gva, uint64_t *entry)
{
	uint64_t at = table + (gva >> shift & (BIT64(bits) - 1)) * size;

	*entry = 0;
	if (!peek_gpa(v, at, entry, size)) {
		fprintf(f, "walk: %s at %012llx: no memory\n", name, (unsigned long long)at);
		return false;
	}
	fprintf(f, "walk: %s at %012llx = %016llx%s%s%s%s%s%s%s\n", name, (unsigned long long)at, (unsigned long long)*entry,
		*entry & PTE_P ? " P" : " not-present", *entry & PTE_W ? " W" : "", *entry & PTE_U ? " U" : "",
		*entry & PTE_A ? " A" : "", *entry & PTE_D ? " D" : "", *entry & PTE_PS && shift > 12 ? " PS" : "",
		*entry & PTE_NX ? " NX" : "");
	return *entry & PTE_P;
}

#define FRAME	0x000ffffffffff000ull

/* Levels as CR0, CR4 and EFER say. */
static void put_levels(FILE *f, struct vm_vcpu *v, uint64_t gva)
{
	static const char *const names[] = { "PT", "PD", "PDPT", "PML4", "PML5" };
	const struct acc_cpu *a = &v->c.acc;
	bool wide = a->cr4 & CR4_PAE;
	unsigned bits = wide ? 9 : 10, size = wide ? 8 : 4, levels;
	uint64_t table = a->cr3 & (wide ? FRAME : 0xfffff000ull), entry;

	if (!(a->cr0 & CR0_PG)) {
		fprintf(f, "walk: paging is off, gpa=%012llx\n", (unsigned long long)gva);
		return;
	}
	levels = !wide ? 2 : !(a->efer & EFER_LMA) ? 2 : a->cr4 & CR4_LA57 ? 5 : 4;
	if (wide && !(a->efer & EFER_LMA)) {
		entry = a->pdptr[gva >> 30 & 3];
		fprintf(f, "walk: PDPTE%llu (register) = %016llx\n", (unsigned long long)(gva >> 30 & 3), (unsigned long long)entry);
		if (!(entry & PTE_P))
			return;
		table = entry & FRAME;
	}
	for (unsigned level = levels; level-- > 0;) {
		if (!put_level(f, v, names[level], table, 12 + level * bits, bits, size, gva, &entry))
			return;
		if (level && level < 3 && entry & PTE_PS)
			return;
		table = entry & (wide ? FRAME : 0xfffff000ull);
	}
}

static const char *const verdicts[] = { "allow", "device", "substitute", "fault", "exit", "wait", "retry" };

static void put_opinions(FILE *f, struct vm_vcpu *v, uint64_t gva, uint64_t gpa)
{
	static const struct { unsigned right; char name; } rights[] = { { ACC_R, 'R' }, { ACC_W, 'W' }, { ACC_X, 'X' } };
	const struct acc_guards *g = &v->vm->guards;
	const struct mem_map *map = acc_vm_map(v->vm->acc);
	const struct mem_slot *s = map ? mem_slot_of_gfn(map, gpa_gfn(GPA(gpa))) : NULL;

	if (s)
		fprintf(f, "slot: id=%u gpa=%012llx pages=%llu hva=%p%s%s\n", s->id, (unsigned long long)gfn_gpa(s->first).v,
			(unsigned long long)s->n_pages, (void *)s->hva, s->flags & MEM_READONLY ? " read-only" : "",
			s->dirty ? " logged" : "");
	else
		fprintf(f, "slot: none, device\n");
	for (unsigned i = 0; i < g->n; i++) {
		fprintf(f, "guard: %s", g->guard[i].ops->name);
		for (unsigned k = 0; k < ARRAY_SIZE(rights); k++) {
			struct acc_request rq = {
				.cpu = &v->c.acc, .gva = GVA(gva), .gpa = GPA(gpa), .len = 1, .rights = (uint8_t)rights[k].right,
				.stage = ACC_FINAL, .origin = ACC_IOCTL, .cpl = v->c.acc.cpl, .page_shift = 12,
			};
			struct acc_result res = { .silent = ACC_R | ACC_W | ACC_X };
			unsigned verdict = g->guard[i].ops->check(g->guard[i].state, &rq, &res);

			fprintf(f, " %c=%s", rights[k].name, verdict < ARRAY_SIZE(verdicts) ? verdicts[verdict] : "?");
		}
		fprintf(f, "\n");
	}
}

static void put_walk(FILE *f, struct vm_vcpu *v, uint64_t gva)
{
	uint64_t gpa;

	put_levels(f, v, gva);
	if (!translate(v, gva, &gpa)) {
		fprintf(f, "translation: none\n");
		return;
	}
	fprintf(f, "translation: gva=%016llx gpa=%012llx\n", (unsigned long long)gva, (unsigned long long)gpa);
	put_opinions(f, v, gva, gpa);
}

int vm_dump(struct vm_vcpu *v, uint32_t flags, uint64_t gva, char **text)
{
	size_t size = 0;
	FILE *f;

	*text = NULL;
	f = open_memstream(text, &size);
	if (!f)
		return -ENOMEM;
	if (flags & GW_DUMP_REGS)
		put_regs(f, v);
	if (flags & GW_DUMP_RING)
		vm_dump_ring(v, put_line, f);
	if (flags & GW_DUMP_CODE)
		put_code(f, v);
	if (flags & GW_DUMP_WALK)
		put_walk(f, v, gva);
	if (flags & GW_DUMP_ENGINE)
		tr_report(&v->c, put_line, f);
	if (flags & GW_DUMP_BLOCK)
		tr_report_block(&v->c, gva, put_line, f);
	if (fclose(f) || !*text) {
		free(*text);
		*text = NULL;
		return -ENOMEM;
	}
	return 0;
}
