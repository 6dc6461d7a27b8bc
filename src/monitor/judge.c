/* SPDX-License-Identifier: MIT */
/*
 * The guard: each access against the vCPU's view. What a view does not give silently is remembered by no TLB, so every such
 * access comes here; it is allowed only by the monitor's answer about this very execution.
 *
 * check() decides and notes; everything that may take time happens in wait(), outside acc_enter(): the question, and the
 * conversions rx2rw and n2rwx.
 */
#include "monitor/private.h"

static bool is_walk(const struct acc_request *rq) { return rq->stage == ACC_WALK; }

static struct mon_key key_of(const struct acc_request *rq, uint8_t missing)
{
	return (struct mon_key){ .kind = GW_MON_MEM_ACCESS, .b = missing | (is_walk(rq) ? 0x100u : 0), .a = gpa_gfn(rq->gpa).v };
}

/* The monitor's answer about this violation, as a verdict. */
static enum acc_verdict answered(const struct mon_grant *g, const struct acc_request *rq, struct acc_result *out)
{
	out->silent = 0;
	if (g->flags & GW_MON_ANS_DENY) {
		if (is_walk(rq) && !g->vector) {
			out->subst = SUBST_DISCARD;	/* the bit stays as it is */
			return rq->rights & ACC_W ? ACC_SUBST : ACC_ALLOW;
		}
		out->event = (struct acc_event){ .vector = g->vector ? (uint8_t)g->vector : 13, .has_error = true, .error = g->error, .cr2 = g->cr2 };
		return ACC_FAULT;
	}
	if (rq->rights & ACC_X)
		return ACC_ALLOW;
	if (g->flags & GW_MON_ANS_DATA && rq->rights & ACC_R) {
		out->subst = SUBST_DATA;
		memset(out->data, 0, sizeof(out->data));
		memcpy(out->data, g->data, g->data_len);
		out->data_len = sizeof(out->data);
		return ACC_SUBST;
	}
	if (g->flags & GW_MON_ANS_NOWRITE && rq->rights & ACC_W) {
		out->subst = SUBST_DISCARD;
		return ACC_SUBST;
	}
	return ACC_ALLOW;
}

/* The view shows another frame here: its bytes, and every store comes back to us for the dirty log. */
static enum acc_verdict show_other(struct monitor *m, const struct acc_request *rq, struct acc_result *out, uint64_t entry)
{
	uint8_t *page = m->host->frame(m->vm, rq->cpu, GFN(entry >> ENTRY_GFN), rq->rights & ACC_W);

	if (!page) {
		out->exit = (struct acc_exit){ .reason = ACC_EXIT_MEMORY_FAULT, .err = -14 /* EFAULT */,
					       .data = { 0, rq->gpa.v & ~GW_PAGE_MASK, GW_PAGE_SIZE } };
		return ACC_EXIT;
	}
	out->hva = page + (rq->gpa.v & GW_PAGE_MASK);
	out->silent &= (uint8_t)~ACC_W;
	return ACC_ALLOW;
}

static enum acc_verdict violated(struct monitor *m, struct mon_vcpu *v, const struct acc_request *rq, struct acc_result *out, uint8_t missing,
				 unsigned type, unsigned change)
{
	struct mon_key key = key_of(rq, missing);
	const struct mon_grant *g;

	out->silent = 0;
	if (atomic_load(&m->is_stopped)) {
		out->exit = (struct acc_exit){ .reason = GW_EXIT_MONITOR, .data = { rq->gpa.v, missing } };
		return ACC_EXIT;
	}
	g = mon_granted(v, &key);
	if (g)
		return answered(g, rq, out);
	if (v->blanket && v->rip == m->host->rip(rq->cpu))
		return ACC_ALLOW;
	v->cpu = rq->cpu;
	mon_copy(&v->want, rq, sizeof(*rq));
	v->want_missing = missing;
	v->want_type = (uint8_t)type;
	v->want_change = change;
	return ACC_WAIT;
}

static enum acc_verdict check(void *guard, const struct acc_request *rq, struct acc_result *out)
{
	struct monitor *m = guard;
	enum acc_verdict v = ACC_ALLOW;
	const struct mon_view *view;
	struct mon_vcpu *vcpu;
	uint8_t rights, missing;
	unsigned change;
	uint64_t entry;

	if (likely(!atomic_load_explicit(&m->is_armed, memory_order_acquire)) || !rq->cpu || rq->origin > ACC_PV)
		return ACC_ALLOW;
	change = atomic_load_explicit(&m->change, memory_order_acquire);
	vcpu = mon_vcpu_of(m, rq->cpu);
	view = atomic_load(&m->view[atomic_load_explicit(&vcpu->view, memory_order_acquire)]);
	entry = view_get(view, gpa_gfn(rq->gpa).v);
	/* The default of view 0 is for frames to come; frames get an entry when they come. */
	rights = !(entry & ENTRY_SET) && view == atomic_load(&m->view[0]) ? ACC_RW | ACC_X : mon_rights(entry_type(view, entry));
	out->silent &= rights;
	if (unlikely(entry & ENTRY_REMAP))
		v = show_other(m, rq, out, entry);
	missing = rq->rights & (uint8_t)~rights;
	if (likely(!missing) || v != ACC_ALLOW)
		return v;
	if (rq->origin == ACC_PV) {
		/* Between instructions, where nobody can wait: it is done, and told. */
		if (atomic_load_explicit(&m->is_attached, memory_order_relaxed))
			mon_note(m, vcpu, GW_MON_MEM_ACCESS, rq, missing);
		return ACC_ALLOW;
	}
	if (is_walk(rq)) {
		uint32_t walks = atomic_load_explicit(&m->walks, memory_order_relaxed);

		if (walks == GW_MON_WALKS_SILENT || (walks == GW_MON_WALKS_DENY && !(missing & ACC_W)))
			return ACC_ALLOW;
		if (walks == GW_MON_WALKS_DENY) {
			out->subst = SUBST_DISCARD;
			return ACC_SUBST;
		}
	}
	return violated(m, vcpu, rq, out, missing, entry_type(view, entry), change);
}

/* ---- what waits ------------------------------------------------------------------------------------------------------------------ */

static bool set_one(struct monitor *m, struct mon_view *view, uint64_t gfn, uint64_t entry, unsigned type, uint8_t lost)
{
	int err = view_set(m, view, gfn, 1, (entry & ~ENTRY_TYPE) | ENTRY_SET | type);

	pthread_mutex_unlock(&m->lock);
	if (!err && lost)
		m->host->forget(m->vm, GFN(gfn), 1, lost);
	return !err;
}

/* Nobody listens. Xen's rule: stop, or set the page free. */
static bool unheard(struct monitor *m, struct mon_view *view, uint64_t gfn, uint64_t entry)
{
	if (m->is_required) {
		atomic_store(&m->is_stopped, true);
		pthread_mutex_unlock(&m->lock);
		mon_logf(m, "monitor: an access to gfn %llx needs a monitor, and there is none: stopped", (unsigned long long)gfn);
		return true;
	}
	return set_one(m, view, gfn, entry, GW_MON_RWX, 0);
}

void mon_fill_memory(struct gw_mon_event *ev, const struct acc_request *rq, uint8_t missing)
{
	ev->u.mem.gfn = gpa_gfn(rq->gpa).v;
	ev->u.mem.offset = rq->gpa.v & GW_PAGE_MASK;
	ev->u.mem.gla = rq->gva.v;
	ev->u.mem.len = rq->len;
	ev->u.mem.wanted = rq->rights;
	ev->u.mem.access = missing | (is_walk(rq) ? GW_MON_A_WALK : 0) | (rq->stage == ACC_IMPLICIT ? GW_MON_A_IMPLICIT : 0) |
			   (rq->origin == ACC_ENGINE ? GW_MON_A_ENGINE : 0) | (rq->origin == ACC_PV ? GW_MON_A_PV : 0);
}

static enum mon_outcome ask_about(struct monitor *m, struct mon_vcpu *v)
{
	struct mon_key key = key_of(&v->want, v->want_missing);

	mon_fill_memory(mon_event(m, v, GW_MON_MEM_ACCESS), &v->want, v->want_missing);
	return mon_ask(m, v, &key, false);
}

static bool wait(void *guard, struct acc_cpu *cpu, const struct acc_request *asked)
{
	struct monitor *m = guard;
	struct mon_vcpu *v = mon_vcpu_of(m, cpu);
	const struct acc_request *rq = &v->want;	/* of a walk, where @asked is what the walk was for */
	uint64_t gfn = gpa_gfn(rq->gpa).v, entry;
	struct mon_view *view;
	unsigned type;

	(void)asked;
	/* Most often nothing has changed since check(), and somebody is there to be asked. */
	if (v->want_type < GW_MON_RX2RW && v->want_change == atomic_load(&m->change) && atomic_load(&m->is_attached))
		return ask_about(m, v) == MON_GO;
	pthread_mutex_lock(&m->lock);
	view = m->view[atomic_load(&v->view)];
	entry = view_get(view, gfn);
	type = entry_type(view, entry);
	if ((!(entry & ENTRY_SET) && view == m->view[0]) || !(rq->rights & ~mon_rights(type))) {
		pthread_mutex_unlock(&m->lock);		/* allowed meanwhile */
		return true;
	}
	if (type == GW_MON_RX2RW && rq->rights & ACC_W && !(rq->rights & ACC_X))
		return set_one(m, view, gfn, entry, GW_MON_RW, ACC_X);
	if (!atomic_load(&m->is_attached) && !atomic_load(&m->is_policy_pause))
		return unheard(m, view, gfn, entry);
	pthread_mutex_unlock(&m->lock);
	if (type == GW_MON_N2RWX) {
		mon_fill_memory(mon_event(m, v, GW_MON_MEM_ACCESS), rq, v->want_missing);
		if (!mon_tell(m, v, false))
			return false;
		pthread_mutex_lock(&m->lock);
		return set_one(m, view, gfn, entry, GW_MON_RWX, 0);
	}
	return ask_about(m, v) == MON_GO;
}

/* An earlier guard refused: a monitor that watches the page is told when the instruction is over. */
static void denied(void *guard, const struct acc_request *rq, const struct acc_result *by)
{
	struct monitor *m = guard;
	struct mon_vcpu *v;
	const struct mon_view *view;
	uint64_t entry;

	(void)by;
	if (likely(!atomic_load_explicit(&m->is_armed, memory_order_acquire)) || !rq->cpu || rq->origin >= ACC_PV)
		return;
	v = mon_vcpu_of(m, rq->cpu);
	view = atomic_load(&m->view[atomic_load(&v->view)]);
	entry = view_get(view, gpa_gfn(rq->gpa).v);
	if (!(entry & ENTRY_SET) || !(rq->rights & ~mon_rights(entry_type(view, entry))))
		return;
	mon_note(m, v, GW_MON_DENIED, rq, rq->rights);
}

static void forget(void *guard, struct gfn first, uint64_t n)
{
	struct monitor *m = guard;

	pthread_mutex_lock(&m->lock);
	for (unsigned i = 0; i < MON_MAX_VIEWS; i++)
		if (m->view[i] && m->view[i]->used)
			view_set(m, m->view[i], first.v, n, 0);
	pthread_mutex_unlock(&m->lock);
}

const struct acc_guard_ops mon_guard_ops = { .name = "monitor", .check = check, .denied = denied, .wait = wait, .forget = forget };
