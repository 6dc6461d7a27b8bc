/* SPDX-License-Identifier: MIT */
/*
 * Guest memory as handlers see it: what the inline probe did not find. Builds the requests, turns refusals into exceptions
 * and exits, and moves the bytes of operands that lie in pieces, in devices, or under a substitute.
 *
 * Devices and substitutes are touched only by an instruction that runs alone (cpu_run_alone), so that a read the client must
 * answer can be repeated from the instruction's start and a committed write is told before the next instruction begins.
 */
#include <string.h>

#include "cpu/op.h"
#include "cpu/sys/sys.h"

/* ---- refusals ----------------------------------------------------------------------------------------------------------- */

void cpu_raise(struct vcpu *c, const struct cpu_op *o, unsigned vector)
{
	c->rip = cpu_op_rip(c, o);
	cpu_fault_noerr(c, vector);
}

void cpu_raise_error(struct vcpu *c, const struct cpu_op *o, unsigned vector, uint32_t error)
{
	c->rip = cpu_op_rip(c, o);
	cpu_fault(c, vector, error);
}

static bool fault(struct vcpu *c, unsigned vector, bool has_error, uint32_t error)
{
	c->ev.exception.pending = true;
	c->ev.exception.vector = (uint8_t)vector;
	c->ev.exception.has_error = has_error;
	c->ev.exception.injected = false;
	c->ev.exception.error = error;
	c->ev.exception.has_payload = false;
	c->ev.exception.payload = 0;
	c->ev.exception.soft = false;
	c->ev.exception.icebp = false;
	c->stop = true;
	return false;
}

bool cpu_fault(struct vcpu *c, unsigned vector, uint32_t error)
{
	return fault(c, vector, true, error);
}

bool cpu_fault_noerr(struct vcpu *c, unsigned vector)
{
	return fault(c, vector, false, 0);
}

bool cpu_fault_event(struct vcpu *c, const struct acc_event *ev)
{
	fault(c, ev->vector, ev->has_error, ev->error);
	if (ev->vector == VEC_PF) {
		c->ev.exception.has_payload = true;
		c->ev.exception.payload = ev->cr2;
	}
	return false;
}

void cpu_stop(struct vcpu *c, const struct cpu_op *o, enum cpu_exit exit)
{
	c->rip = cpu_op_rip(c, o);
	c->exit = exit;
	c->stop = true;
}

void cpu_stop_after(struct vcpu *c, const struct cpu_op *o, enum cpu_exit exit)
{
	c->rip = cpu_op_next_rip(c, o);
	c->exit = exit;
	c->stop = true;
}

bool cpu_run_alone(struct vcpu *c, const struct cpu_op *o)
{
	if (c->alone)
		return true;
	c->rip = cpu_op_rip(c, o);
	c->alone_wanted = true;
	c->stop = true;
	return false;
}

/* An access was refused: the exception, or the exit, of the instruction at c->rip. */
static bool refused(struct vcpu *c, enum acc_verdict v, const struct acc_result *res)
{
	if (v == ACC_FAULT)
		return cpu_fault_event(c, &res->event);
	if (v == ACC_EXIT) {
		c->guard_exit = res->exit;
		c->exit = CPU_EXIT_GUARD;
	} else {
		c->exit = CPU_EXIT_KICKED;	/* wanted elsewhere while a guard waited: nothing has begun */
	}
	c->stop = true;
	return false;
}

/* ---- judging -------------------------------------------------------------------------------------------------------------- */

#define MAX_OPERANDS	4

static void piece_of(const struct acc_request *rq, const struct acc_result *res, enum acc_verdict v, struct cpu_piece *p)
{
	p->hva = res->hva;
	p->gpa = rq->gpa;
	p->len = rq->len;
	p->verdict = (uint8_t)v;
	p->subst = res->subst;
	p->guard = res->guard;
	if (v == ACC_SUBST && res->subst == SUBST_DATA)
		memcpy(p->data, res->data, sizeof(p->data));
}

/*
 * Linear addresses wrap at 4 GiB outside 64-bit mode, but for descriptor tables and TSS, which compatibility mode reaches
 * with all 64 bits. A request never leaves its page.
 */
static unsigned split(struct vcpu *c, const struct cpu_want *w, uint8_t origin, struct acc_request *rq)
{
	bool wide = c->mode == INSN_MODE_64 || (origin == ACC_ENGINE && c->acc.efer & EFER_LMA);
	uint64_t mask = wide ? ~0ull : 0xffffffffull;
	unsigned first = GW_PAGE_SIZE - (unsigned)(w->gva & GW_PAGE_MASK), n = w->len <= first ? 1 : 2;

	/* Field by field: a structure that was just written and is copied by wider loads waits for its stores. */
	for (unsigned i = 0; i < n; i++) {
		rq[i].cpu = &c->acc;
		rq[i].vm = NULL;
		rq[i].gva = GVA((w->gva + (i ? first : 0)) & mask);
		rq[i].len = (uint16_t)(i ? w->len - first : n == 1 ? w->len : first);
		rq[i].rights = w->rights;
		rq[i].stage = w->stage;
		rq[i].origin = origin;
		rq[i].cpl = w->stage == ACC_IMPLICIT ? 0 : c->acc.cpl;
		rq[i].stack = w->stack;
		rq[i].by_gpa = false;
		rq[i].gpa = GPA(0);
		rq[i].user_translation = rq[i].private_bit = false;
		rq[i].page_shift = 0;
	}
	return n;
}

/* Does the second half of a split operand leave the canonical addresses? Then the operand is refused before any walk. */
static bool leaves_canonical(const struct vcpu *c, uint64_t gva)
{
	int64_t top = (int64_t)gva >> ((c->acc.cr4 & CR4_LA57 ? 57 : 48) - 1);

	return c->mode == INSN_MODE_64 && top && top != -1;
}

/* As cpu_run_alone, but also for the engine's own accesses, which have no operation and RIP exact. */
static bool alone(struct vcpu *c, const struct cpu_op *o)
{
	if (o)
		return cpu_run_alone(c, o);
	if (c->alone)
		return true;
	c->alone_wanted = true;
	c->stop = true;
	return false;
}

/*
 * Judge @n operands: all walks, then all guards (acc_check_all). @rip_set: c->rip is exact already. The refs describe what was
 * granted; nothing has been read or written.
 */
static bool judge(struct vcpu *c, const struct cpu_op *o, const struct cpu_want *want, unsigned n, uint8_t origin, struct cpu_ref *r)
{
	struct acc_request rq[2 * MAX_OPERANDS];
	struct acc_result res[2 * MAX_OPERANDS];
	enum acc_verdict verdict[2 * MAX_OPERANDS], v;
	unsigned total = 0, which = 0, k = 0;

	c->cur = o;
	if (o)
		c->rip = cpu_op_rip(c, o);
	for (unsigned i = 0; i < n; i++) {
		r[i].n = (uint8_t)split(c, &want[i], origin, &rq[total]);
		if (unlikely(r[i].n == 2 && leaves_canonical(c, rq[total + 1].gva.v)))
			return cpu_fault(c, want[i].stack ? VEC_SS : VEC_GP, 0);
		total += r[i].n;
	}
	c->stats.slow_accesses++;
	v = acc_check_all(rq, res, verdict, total, &which);
	if (v != ACC_ALLOW)
		return refused(c, v, &res[which]);
	for (unsigned i = 0; i < n; i++) {
		struct cpu_ref *ref = &r[i];

		ref->gva = want[i].gva;
		ref->len = want[i].len;
		ref->rights = want[i].rights;
		ref->code = false;
		ref->p = ref->n == 1 && verdict[k] == ACC_ALLOW ? res[k].hva : NULL;
		for (unsigned j = 0; j < ref->n; j++, k++) {
			piece_of(&rq[k], &res[k], verdict[k], &ref->piece[j]);
			if (verdict[k] != ACC_ALLOW) {
				if (!alone(c, o))
					return false;
				continue;
			}
			if (!(want[i].rights & ACC_W) || acc_probe_w(&c->acc, rq[k].gva.v, rq[k].len))
				continue;
			/* Not remembered for writing: a store must be reported, and runs alone if it changes decoded code. */
			ref->code = true;
			ref->p = NULL;
			if (o && !c->alone && !c->single && acc_store_hits(c->acc.vm, res[k].hva, rq[k].len))
				return alone(c, o);
		}
	}
	if (unlikely(cpu_debug_armed(c)) && origin == ACC_INSN)
		for (unsigned i = 0; i < n; i++)
			cpu_debug_data(c, want[i].gva, want[i].len, want[i].rights);
	return true;
}

bool cpu_refs(struct vcpu *c, const struct cpu_op *o, const struct cpu_want *want, unsigned n, struct cpu_ref *r)
{
	return judge(c, o, want, n, ACC_INSN, r);
}

bool cpu_ref_slow(struct vcpu *c, const struct cpu_op *o, uint64_t gva, unsigned len, unsigned rights, unsigned stage, struct cpu_ref *r)
{
	struct cpu_want w = { gva, (uint16_t)len, (uint8_t)rights, (uint8_t)stage, o->flags & OP_STACK };

	return judge(c, o, &w, 1, ACC_INSN, r);
}

/* ---- moving bytes ---------------------------------------------------------------------------------------------------------- */

/* Aligned scalars move in one access, as the bus would; the rest needs no promise. */
static void copy_in(void *buf, const uint8_t *hva, unsigned len)
{
	switch (len) {
	case 1: *(uint8_t *)buf = *(const volatile gw_u8 *)hva; break;
	case 2: { uint16_t v = *(const volatile gw_u16 *)hva; memcpy(buf, &v, 2); break; }
	case 4: { uint32_t v = *(const volatile gw_u32 *)hva; memcpy(buf, &v, 4); break; }
	case 8: { uint64_t v = *(const volatile gw_u64 *)hva; memcpy(buf, &v, 8); break; }
	default: memcpy(buf, hva, len);
	}
}

static void copy_out(uint8_t *hva, const void *buf, unsigned len)
{
	switch (len) {
	case 1: *(volatile gw_u8 *)hva = *(const uint8_t *)buf; break;
	case 2: { uint16_t v; memcpy(&v, buf, 2); *(volatile gw_u16 *)hva = v; break; }
	case 4: { uint32_t v; memcpy(&v, buf, 4); *(volatile gw_u32 *)hva = v; break; }
	case 8: { uint64_t v; memcpy(&v, buf, 8); *(volatile gw_u64 *)hva = v; break; }
	default: memcpy(hva, buf, len);
	}
}

/* One device read of at most 8 bytes: from the log of an earlier execution, an in-kernel device, or the client. */
static bool device_read(struct vcpu *c, struct gpa gpa, unsigned len, uint8_t *buf)
{
	struct cpu_io *io = &c->io;
	struct cpu_io_piece *p;

	if (io->pos < io->n_done) {
		p = &io->done[io->pos];
		if (p->addr == gpa.v && p->len == len && !p->pio) {
			memcpy(buf, p->data, len);
			io->pos++;
			return true;
		}
		io->n_done = io->pos;	/* the instruction changed under us: what follows was read for another */
	}
	if (io->n_done == CPU_IO_MAX) {
		c->exit = CPU_EXIT_EMULATION;
		c->stop = true;
		return false;
	}
	p = &io->done[io->n_done];
	*p = (struct cpu_io_piece){ .addr = gpa.v, .len = (uint8_t)len };
	if (c->env->mmio_read(c, gpa, len, p->data)) {
		memcpy(buf, p->data, len);
		io->n_done++;
		io->pos++;
		return true;
	}
	io->want = *p;
	io->wanted = true;
	io->want_out = false;
	c->exit = CPU_EXIT_MMIO;
	c->stop = true;
	return false;
}

/* One device write at commit: an in-kernel device takes it now, the client is told when the instruction is done. */
static void device_write(struct vcpu *c, struct gpa gpa, unsigned len, const uint8_t *buf)
{
	struct cpu_io *io = &c->io;
	struct cpu_io_piece *p;

	if (c->env->mmio_write(c, gpa, len, buf))
		return;
	if (io->n_write == CPU_IO_MAX)
		return;		/* no instruction writes more: 512 bytes of XSAVE are 64 fragments */
	p = &io->write[io->n_write++];
	*p = (struct cpu_io_piece){ .addr = gpa.v, .len = (uint8_t)len };
	memcpy(p->data, buf, len);
}

static bool piece_load(struct vcpu *c, const struct cpu_piece *p, uint8_t *buf)
{
	if (p->verdict == ACC_ALLOW) {
		copy_in(buf, p->hva, p->len);
		return true;
	}
	if (p->verdict == ACC_DEVICE) {
		for (unsigned i = 0; i < p->len; i += 8) {
			unsigned len = p->len - i < 8 ? p->len - i : 8;

			if (!device_read(c, GPA(p->gpa.v + i), len, buf + i))
				return false;
		}
		return true;
	}
	switch (p->subst) {
	case SUBST_ONES:
		memset(buf, 0xff, p->len);
		return true;
	case SUBST_DATA:
		memcpy(buf, p->data, p->len < sizeof(p->data) ? p->len : sizeof(p->data));
		return true;
	default:
		copy_in(buf, p->hva, p->len);
		return true;
	}
}

static void piece_store(struct vcpu *c, const struct cpu_piece *p, const uint8_t *buf)
{
	if (p->verdict == ACC_DEVICE) {
		for (unsigned i = 0; i < p->len; i += 8) {
			unsigned len = p->len - i < 8 ? p->len - i : 8;

			device_write(c, GPA(p->gpa.v + i), len, buf + i);
		}
		return;
	}
	if (p->verdict == ACC_SUBST && (p->subst == SUBST_ONES || p->subst == SUBST_DISCARD))
		return;
	if (p->verdict == ACC_SUBST && p->subst == SUBST_VET) {
		acc_vet(&c->acc, p->guard, p->gpa, buf, p->len);
		return;
	}
	copy_out(p->hva, buf, p->len);
	if (acc_store_done(c->acc.vm, p->hva, p->len))
		c->stats.smc_hits++;
}

bool cpu_ref_load(struct vcpu *c, const struct cpu_op *o, const struct cpu_ref *r, void *buf)
{
	uint8_t *out = buf;

	if (o)
		c->cur = o;
	if (r->p) {
		copy_in(buf, r->p, r->len);
		return true;
	}
	for (unsigned i = 0; i < r->n; i++) {
		if (!piece_load(c, &r->piece[i], out))
			return false;
		out += r->piece[i].len;
	}
	return true;
}

void cpu_ref_store(struct vcpu *c, const struct cpu_op *o, const struct cpu_ref *r, const void *buf)
{
	const uint8_t *in = buf;

	if (o)
		c->cur = o;
	if (r->p && !r->code) {
		copy_out(r->p, buf, r->len);
		return;
	}
	for (unsigned i = 0; i < r->n; i++) {
		piece_store(c, &r->piece[i], in);
		in += r->piece[i].len;
	}
}

bool cpu_load_slow(struct vcpu *c, const struct cpu_op *o, uint64_t gva, unsigned len, void *buf)
{
	struct cpu_ref r;

	return cpu_ref_slow(c, o, gva, len, ACC_R, ACC_FINAL, &r) && cpu_ref_load(c, o, &r, buf);
}

bool cpu_store_slow(struct vcpu *c, const struct cpu_op *o, uint64_t gva, unsigned len, const void *buf)
{
	struct cpu_ref r;

	if (!cpu_ref_slow(c, o, gva, len, ACC_W, ACC_FINAL, &r))
		return false;
	cpu_ref_store(c, o, &r, buf);
	return true;
}

/* ---- the engine's own accesses ------------------------------------------------------------------------------------------------ */

bool cpu_sys_ref(struct vcpu *c, uint64_t gva, unsigned len, unsigned rights, bool user, struct cpu_ref *r)
{
	struct cpu_want w = { gva, (uint16_t)len, (uint8_t)rights, user ? ACC_FINAL : ACC_IMPLICIT, false };
	const struct acc_tlb *tlb = &c->acc.tlb[user ? ACC_MODE_USER : ACC_MODE_KERNEL];
	uint8_t *p = acc_probe(rights & ACC_W ? tlb->w : tlb->r, c->mode == INSN_MODE_64 || c->acc.efer & EFER_LMA ? gva : (uint32_t)gva, len);

	/* An implicit access is judged as a supervisor's with AC clear: what that mode's array remembers holds for it. */
	if (likely(p)) {
		c->cur = NULL;
		r->p = p;
		r->gva = gva;
		r->len = (uint16_t)len;
		r->rights = (uint8_t)rights;
		r->code = false;
		return true;
	}
	return judge(c, NULL, &w, 1, ACC_ENGINE, r);
}

bool cpu_sys_read(struct vcpu *c, uint64_t gva, unsigned len, void *buf)
{
	struct cpu_ref r;

	return cpu_sys_ref(c, gva, len, ACC_R, false, &r) && cpu_ref_load(c, NULL, &r, buf);
}

bool cpu_sys_write(struct vcpu *c, uint64_t gva, unsigned len, const void *buf)
{
	struct cpu_ref r;

	if (!cpu_sys_ref(c, gva, len, ACC_W, false, &r))
		return false;
	cpu_ref_store(c, NULL, &r, buf);
	return true;
}
