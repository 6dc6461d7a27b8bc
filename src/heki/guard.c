/* SPDX-License-Identifier: MIT */
/*
 * The judge of memory accesses. Takes no lock and allocates nothing: it reads the published tree and a few atomics, and its own
 * vCPU's notes. What needs more (locking an unassisted guest, code that appears later) answers ACC_WAIT and is done in wait(),
 * which runs outside guest code; the access is then asked about again.
 *
 * Which execute right counts: until the VM is locked the rule of MBEC, by U/S of the guest's translation; afterwards every fetch
 * below CPL 3 is a supervisor's, also with paging off, or an INIT-SIPI would run any page at CPL 0. In system management mode what
 * only that mode can see is the platform's and not judged; all other memory is, and no code becomes kernel code there.
 */
#include <string.h>

#include "heki/heki_private.h"

#define PFEC_RFC_WRITE	(PFEC_P | PFEC_W)
#define PFEC_RFC_FETCH	(PFEC_P | PFEC_I)

static uint8_t exec_right(const struct heki *h, const struct acc_request *rq)
{
	if (atomic_load_explicit(&h->is_locked, memory_order_relaxed))
		return rq->cpl < 3 ? HEKI_XS : HEKI_XU;
	return rq->user_translation ? HEKI_XU : HEKI_XS;
}

static uint8_t allowed_by(const struct heki *h, const struct acc_request *rq, uint8_t attributes)
{
	return (uint8_t)((attributes & HEKI_R ? ACC_R : 0) | (attributes & HEKI_W ? ACC_W : 0) |
			 (attributes & exec_right(h, rq) ? ACC_X : 0));
}

static bool same_execution(const struct heki_verdict *v, const struct heki_regs *regs)
{
	return v->n && v->rip == regs->rip && (v->is_fresh || v->insns == regs->insns);
}

/* What was decided about this access of this execution. False: nothing. */
static bool find_verdict(struct heki_verdict *v, const struct heki_regs *regs, const struct acc_request *rq, uint8_t *action)
{
	if (!same_execution(v, regs))
		return false;
	for (unsigned i = 0; i < v->n; i++)
		if (v->frame[i].gfn == gpa_gfn(rq->gpa).v && v->frame[i].rights & rq->rights) {
			*action = v->frame[i].action;
			v->is_fresh = false;
			v->insns = regs->insns;
			return true;
		}
	return false;
}

static void add_verdict(struct heki_verdict *v, const struct heki_regs *regs, uint64_t gfn, uint8_t rights, uint8_t action)
{
	if (v->n && v->rip != regs->rip)
		v->n = 0;
	v->rip = regs->rip;
	v->insns = regs->insns;
	for (unsigned i = 0; i < v->n; i++)
		if (v->frame[i].gfn == gfn) {
			v->frame[i].rights = rights;
			v->frame[i].action = action;
			return;
		}
	/* An instruction that touches more pages than this meets the oldest answer again. */
	if (v->n == ANSWER_FRAMES)
		memmove(&v->frame[0], &v->frame[1], sizeof(v->frame[0]) * --v->n);
	v->frame[v->n].gfn = gfn;
	v->frame[v->n].rights = rights;
	v->frame[v->n++].action = action;
}

void heki_answer(struct heki *h, const struct acc_cpu *cpu, const struct acc_exit *denial, enum heki_action action)
{
	struct heki_regs regs;
	struct heki_vcpu *v;

	h->host->regs(h->vm, cpu, &regs);
	v = &h->vcpu[regs.vcpu];
	if (denial->data[0] == HEKI_REASON_MEM) {
		add_verdict(&v->answer, &regs, denial->data[1] >> GW_PAGE_SHIFT, (uint8_t)(denial->data[3] & 7), (uint8_t)action);
		v->answer.is_fresh = true;
		return;
	}
	v->answer = (struct heki_verdict){ .rip = regs.rip, .insns = regs.insns, .n = 1, .frame[0] = { .action = (uint8_t)action } };
	v->cr_ignored = action == HEKI_IGNORE;
}

void heki_renew(struct heki *h, const struct acc_cpu *cpu)
{
	struct heki_regs regs;
	struct heki_vcpu *v;

	if (likely(!atomic_load_explicit(&h->exit_denial, memory_order_relaxed)))
		return;
	h->host->regs(h->vm, cpu, &regs);
	v = &h->vcpu[regs.vcpu];
	if (v->answer.n && v->answer.rip == regs.rip)
		v->answer.is_fresh = true;
}

/* ---- denials ------------------------------------------------------------------------------------------------------------ */

static uint32_t access_bits(const struct acc_request *rq, uint8_t missing)
{
	uint32_t a = missing & (ACC_RW | ACC_X);

	if (rq->user_translation)
		a |= HEKI_ACCESS_USER;
	if (rq->cpl == 3)
		a |= HEKI_ACCESS_CPL3;
	if (rq->stage == ACC_WALK)
		a |= HEKI_ACCESS_WALK;
	if (rq->origin == ACC_PV)
		a |= HEKI_ACCESS_PV;
	if (rq->origin == ACC_DMA)
		a |= HEKI_ACCESS_DMA;
	if (rq->cpu && (!rq->by_gpa || rq->stage == ACC_WALK))
		a |= HEKI_ACCESS_GVA;
	return a;
}

static void count_denial(struct heki *h, const struct acc_request *rq, uint8_t missing)
{
	if (rq->origin == ACC_PV || rq->origin == ACC_DMA)
		heki_count(h, N_DENIED_PV);
	else if (rq->stage == ACC_WALK)
		heki_count(h, N_DENIED_WALK);
	else if (missing & ACC_X)
		heki_count(h, N_DENIED_FETCH);
	else
		heki_count(h, missing & ACC_W ? N_DENIED_WRITE : N_DENIED_READ);
}

/* What the guest gets. Never a code that a kernel answers by looking at its own tables and trying again, unless asked for. */
static enum acc_verdict inject(const struct heki *h, const struct acc_request *rq, uint8_t missing, struct acc_result *out)
{
	if (atomic_load_explicit(&h->inject, memory_order_relaxed) == HEKI_INJECT_RFC)
		out->event = (struct acc_event){ .vector = VEC_PF, .has_error = true, .cr2 = rq->gva.v,
						 .error = missing & ACC_X ? PFEC_RFC_FETCH : missing & ACC_W ? PFEC_RFC_WRITE : PFEC_P };
	else if (rq->cpl == 3)
		out->event = (struct acc_event){ .vector = VEC_GP, .has_error = true };
	else
		out->event = (struct acc_event){ .vector = VEC_PF, .has_error = true, .cr2 = rq->gva.v,
						 .error = PFEC_P | PFEC_RSVD | (missing & ACC_X ? PFEC_I : missing & ACC_W ? PFEC_W : 0) };
	return ACC_FAULT;
}

static enum acc_verdict ignore(const struct acc_request *rq, struct acc_result *out)
{
	out->subst = rq->rights & ACC_W && !(rq->rights & ACC_R) ? SUBST_DISCARD : SUBST_ONES;
	if (rq->rights & ACC_W)
		out->subst = SUBST_DISCARD;
	return ACC_SUBST;
}

static void note(struct heki *h, const struct acc_request *rq, const struct heki_regs *regs, uint8_t attributes, uint8_t missing)
{
	struct heki_event e = {
		.kind = HEKI_EV_DENIED, .reason = HEKI_REASON_MEM, .access = access_bits(rq, missing), .gpa = rq->gpa.v, .gva = rq->gva.v,
		.rip = regs->rip, .cr3 = regs->cr3, .insns = regs->insns, .vcpu = regs->vcpu, .attributes = attributes & HEKI_ALL,
	};
	static const char *const what[] = { "read", "write", "fetch" };

	count_denial(h, rq, missing);
	heki_log(h, &e);
	heki_say(h, "heki: vcpu %u denied %s%s at gva %016llx gpa %llx from rip %016llx", regs->vcpu,
		 rq->stage == ACC_WALK ? "page-walk " : rq->origin == ACC_PV ? "paravirtual " : "",
		 what[missing & ACC_X ? 2 : missing & ACC_W ? 1 : 0], (unsigned long long)rq->gva.v, (unsigned long long)rq->gpa.v,
		 (unsigned long long)regs->rip);
}

static bool wants_exit(const struct heki *h, const struct acc_request *rq)
{
	return atomic_load_explicit(&h->exit_denial, memory_order_relaxed) & HEKI_REASON_MEM &&
	       (rq->origin == ACC_INSN || rq->origin == ACC_ENGINE);
}

/* Code of a processor that has just been started, with paging off: no handler of its own could run either. */
static bool is_start(const struct heki *h, const struct acc_request *rq, const struct heki_regs *regs)
{
	return rq->rights & ACC_X && !(regs->cr0 & CR0_PG) && !regs->in_smm && atomic_load_explicit(&h->is_locked, memory_order_relaxed) &&
	       rq->origin == ACC_INSN && rq->stage == ACC_FINAL;
}

static enum acc_verdict deny(struct heki *h, const struct acc_request *rq, uint8_t attributes, uint8_t missing, struct acc_result *out)
{
	struct heki_regs regs = { 0 };
	struct heki_vcpu *v = NULL;
	bool is_refusable = false;
	uint8_t action;

	if (rq->cpu) {
		h->host->regs(h->vm, rq->cpu, &regs);
		v = &h->vcpu[regs.vcpu];
		/* The same vCPU thread also writes for the hypervisor: such a write is not the instruction. */
		is_refusable = heki_is_refusable(h, rq, attributes) || is_start(h, rq, &regs);
		if (rq->origin <= ACC_ENGINE && find_verdict(&v->answer, &regs, rq, &action)) {
			if (action == HEKI_IGNORE && rq->origin == ACC_INSN && !(missing & ACC_X))
				return ignore(rq, out);
			if (is_refusable && !find_verdict(&v->looked, &regs, rq, &action))
				return ACC_WAIT;
			return inject(h, rq, missing, out);
		}
		if (is_refusable && find_verdict(&v->looked, &regs, rq, &action))
			return inject(h, rq, missing, out);	/* told, and it was no call */
		/* System management mode: the kernel neither patches itself there nor brings new code. */
		if (!regs.in_smm && heki_is_poke(h, rq, attributes, missing)) {
			out->subst = SUBST_VET;
			return ACC_SUBST;
		}
		if (!regs.in_smm && heki_is_dynamic(h, rq, attributes) && !find_verdict(&v->looked, &regs, rq, &action))
			return ACC_WAIT;
	}
	note(h, rq, &regs, attributes, missing);
	if (!rq->cpu || !wants_exit(h, rq))
		return is_refusable ? ACC_WAIT : inject(h, rq, missing, out);
	heki_count(h, N_EXITS);
	out->exit = (struct acc_exit){ .reason = atomic_load(&h->nr_denial), .data = {
		HEKI_REASON_MEM, rq->gpa.v, access_bits(rq, missing) & HEKI_ACCESS_GVA ? rq->gva.v : ~0ull, access_bits(rq, missing),
		attributes & HEKI_ALL, regs.rip, regs.cr3, HEKI_INJECT } };
	return ACC_EXIT;
}

/* ---- devices ----------------------------------------------------------------------------------------------------------------- */

bool heki_judge_dma(struct heki *h, struct gpa gpa, uint64_t len)
{
	uint64_t frame = gpa_gfn(gpa).v, last = len ? gpa_gfn(GPA(gpa.v + len - 1)).v : frame;
	struct heki_event e = { .kind = HEKI_EV_DENIED, .reason = HEKI_REASON_MEM, .access = HEKI_ACCESS_W | HEKI_ACCESS_DMA, .gpa = gpa.v };
	struct heki_run r;

	if (!len || !(atomic_load(&h->active) & ACTIVE_STORE) || !heki_next(h, GFN(frame), &r))
		return true;
	do {
		if (r.first.v > last)
			return true;
		if (!(r.attributes & HEKI_W)) {
			e.attributes = r.attributes;
			e.gpa = r.first.v > frame ? gfn_gpa(r.first).v : gpa.v;
			heki_count(h, N_DENIED_PV);
			heki_log(h, &e);
			heki_say(h, "heki: denied device write at gpa %llx", (unsigned long long)e.gpa);
			return false;
		}
	} while (heki_next(h, GFN(r.first.v + r.n), &r));
	return true;
}

/* ---- user instructions ---------------------------------------------------------------------------------------------------- */

/* The second level holds what a vCPU's registers are at its first user instruction after the lock. */
static void save_registers(struct heki *h, const struct acc_cpu *cpu)
{
	struct heki_regs regs;
	struct heki_vcpu *v;

	h->host->regs(h->vm, cpu, &regs);
	v = &h->vcpu[regs.vcpu];
	if (v->saved.valid)
		return;
	v->saved.regs = regs;
	v->saved.valid = true;
}

/* True: unassisted mode wants to look before this user instruction runs. */
static bool wants_look(struct heki *h, const struct acc_request *rq)
{
	struct heki_regs regs;
	struct heki_vcpu *v;

	h->host->regs(h->vm, rq->cpu, &regs);
	v = &h->vcpu[regs.vcpu];
	return v->user_looked_rip != regs.rip || v->user_looked_insns != regs.insns;
}

static enum acc_verdict user_fetch(struct heki *h, uint32_t active, const struct acc_request *rq, struct acc_result *out)
{
	if (active & ACTIVE_REGS)
		save_registers(h, rq->cpu);
	if (!(active & ACTIVE_WAITING))
		return ACC_ALLOW;
	/* Looked at once, the page may be remembered: a program that starts has an address space of its own, so it is asked about again. */
	return wants_look(h, rq) ? ACC_WAIT : ACC_ALLOW;
}

/* ---- the guard ------------------------------------------------------------------------------------------------------------- */

static enum acc_verdict check(void *guard, const struct acc_request *rq, struct acc_result *out)
{
	struct heki *h = guard;
	uint32_t active = atomic_load_explicit(&h->active, memory_order_relaxed);
	uint8_t attributes, allowed, missing;

	if (likely(!active) || rq->origin == ACC_IOCTL)
		return ACC_ALLOW;
	if (unlikely(active & (ACTIVE_WAITING | ACTIVE_REGS)) && rq->rights & ACC_X && rq->cpl == 3 && rq->cpu) {
		enum acc_verdict v = user_fetch(h, active, rq, out);

		if (v != ACC_ALLOW)
			return v;
	}
	/* A data access must not make a user fetch silent that has to be looked at. */
	if (unlikely(active & ACTIVE_WAITING) && rq->cpl == 3)
		out->silent &= (uint8_t)~ACC_X;
	if (!(active & ACTIVE_STORE))
		return ACC_ALLOW;
	if (atomic_load_explicit(&h->firmware.exists, memory_order_relaxed) && rq->cpu && rq->origin <= ACC_ENGINE) {
		enum heki_firmware_answer a = heki_firmware_judge(h, rq, out);

		if (a != HEKI_FIRMWARE_OTHER)
			return a == HEKI_FIRMWARE_ALLOW ? ACC_ALLOW : ACC_WAIT;
	}
	attributes = heki_rights_of(h, gpa_gfn(rq->gpa).v);
	allowed = allowed_by(h, rq, attributes);
	out->silent &= allowed;
	missing = rq->rights & (uint8_t)~allowed;
	if (unlikely(attributes & HEKI_POKE)) {
		out->silent &= (uint8_t)~ACC_R;
		if (!missing && rq->rights == ACC_R && rq->stage != ACC_WALK)
			return heki_show_phantoms(h, rq, out);
	}
	if (likely(!missing))
		return ACC_ALLOW;
	if (rq->cpu && rq->origin <= ACC_ENGINE && h->host->is_platform(h->vm, rq->cpu, rq->gpa))
		return ACC_ALLOW;
	return deny(h, rq, attributes, missing, out);
}

static bool wait(void *guard, struct acc_cpu *cpu, const struct acc_request *rq)
{
	struct heki *h = guard;
	struct heki_regs regs;
	struct heki_vcpu *v;
	bool again;

	h->host->regs(h->vm, cpu, &regs);
	v = &h->vcpu[regs.vcpu];
	if (heki_firmware_wait(h, cpu, rq, &regs, &again))
		return again;
	if (rq->rights & ACC_X && rq->cpl == 3 && atomic_load(&h->active) & ACTIVE_WAITING) {
		heki_try_lock(h, cpu);
		v->user_looked_rip = regs.rip;
		v->user_looked_insns = regs.insns;
		return true;
	}
	if (is_start(h, rq, &regs) ? h->host->park(h->vm, cpu) :
	    heki_is_refusable(h, rq, heki_rights_of(h, gpa_gfn(rq->gpa).v)) && heki_refuse_call(h, cpu))
		return false;		/* nothing is to be asked again */
	heki_dynamic(h, cpu, rq);
	add_verdict(&v->looked, &regs, gpa_gfn(rq->gpa).v, rq->rights, VERDICT_FINAL);
	return true;
}

const struct acc_guard_ops heki_guard_ops = { .name = "heki", .check = check, .wait = wait, .vet = heki_vet };
