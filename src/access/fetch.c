/* SPDX-License-Identifier: MIT */
/*
 * Executable pages: what the decoder reads through. An X verdict is remembered here and in the second-level TLB only; there is
 * no X array to probe. Supervisor and user pages live in halves of their own, so a change of CPL needs no flush.
 */
#include <errno.h>

#include "access/access_private.h"

static void note_fetched(struct acc_cpu_private *p, uint64_t gva)
{
	unsigned hash = gva >> GW_PAGE_SHIFT & 4095;

	p->fetched[hash / 64] |= BIT64(hash % 64);
}

const struct acc_fetch *acc_fetch_page(struct acc_cpu *cpu, struct gva gva, struct acc_request *rq, struct acc_result *out,
				       enum acc_verdict *verdict)
{
	struct acc_fetch *f = acc_fetch_slot(cpu, gva.v);
	uint64_t page = gva.v & ~GW_PAGE_MASK;
	uint8_t *hva;

	if (likely(f->tag == page)) {
		*verdict = ACC_ALLOW;
		return f;
	}
	*rq = (struct acc_request){ .cpu = cpu, .gva = gva, .len = 1, .rights = ACC_X, .stage = ACC_FINAL, .origin = ACC_INSN, .cpl = cpu->cpl };
	*verdict = acc_check(rq, out);
	if (*verdict != ACC_ALLOW)
		return NULL;
	hva = (uint8_t *)((uintptr_t)out->hva & ~(uintptr_t)GW_PAGE_MASK);
	if (!(out->silent & ACC_X)) {
		f = &cpu->priv->once;
		page = ~0ull;
	} else if (f->tag != ~0ull) {
		note_fetched(cpu->priv, f->tag);	/* it loses its place, not its right */
	}
	*f = (struct acc_fetch){ .tag = ~0ull, .hva = hva, .gpa = GPA(rq->gpa.v & ~GW_PAGE_MASK), .code = mem_code_of(cpu->vm->code, hva) };
	if (!f->code) {
		out->guard = ACC_NO_GUARD;
		out->exit = (struct acc_exit){ .reason = ACC_EXIT_INTERNAL_ERROR, .err = -ENOMEM };
		*verdict = ACC_EXIT;
		return NULL;
	}
	f->tag = page;
	if (f != &cpu->priv->once)
		acc_tlb_list_fetch(cpu, (unsigned)(f - cpu->fetch), acc_tlb_is_global(rq));
	return f;
}
