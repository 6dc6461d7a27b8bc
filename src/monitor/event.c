/* SPDX-License-Identifier: MIT */
/*
 * Asking: one question at a time for each vCPU, put to whatever door the monitor came through, waited for outside acc_enter(), and
 * applied to one execution of one instruction.
 *
 * A question stands until it is answered, the session ends, or the execution it was about is over; a vCPU that is wanted elsewhere
 * leaves KVM_RUN in between with the instruction not begun, and on its return finds the same question, not a second one.
 */
#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#include "monitor/private.h"

void mon_logf(struct monitor *m, const char *fmt, ...)
{
	char text[200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	m->host->log(text);
}

void mon_log_bad_answer(struct monitor *m, const char *what, unsigned value)
{
	if (!m->is_bad_answer_logged)
		mon_logf(m, "monitor: an answer with %s %u is skipped; more like it are not reported", what, value);
	m->is_bad_answer_logged = true;
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* ---- what holds for one execution ------------------------------------------------------------------------------------------ */

static bool same_key(const struct mon_key *a, const struct mon_key *b)
{
	return a->kind == b->kind && a->a == b->a && a->b == b->b;
}

/* The execution is over, or another began: nothing that was answered holds any more, and what was asked is withdrawn. */
static void execution_over(struct mon_vcpu *v)
{
	v->n_grants = 0;
	v->blanket = v->gone_on = false;
	if (!v->asked.valid)
		return;
	v->asked.valid = false;
	pthread_mutex_lock(&v->lock);
	mon_set_state(v, MON_IDLE);
	pthread_mutex_unlock(&v->lock);
}

/* Put to the monitor that is attached now, and not answered yet. */
static bool question_stands(const struct mon_vcpu *v)
{
	return v->asked.valid && v->asked_session == atomic_load(&v->m->session);
}

/* Is what is remembered about the instruction that is executing? The client may have sent the vCPU elsewhere. */
static void check_execution(struct mon_vcpu *v)
{
	uint64_t rip = v->m->host->rip(v->cpu);

	if (v->rip != rip)
		execution_over(v);
	v->rip = rip;
}

const struct mon_grant *mon_granted(const struct mon_vcpu *v, const struct mon_key *key)
{
	if (v->rip != v->m->host->rip(v->cpu))
		return NULL;
	for (unsigned i = 0; i < v->n_grants; i++) {
		const struct mon_key *k = &v->grant[i].key;

		if (k->kind != key->kind || k->a != key->a)
			continue;
		/* Memory: low byte is rights, and what is granted may be more. */
		if (key->kind == GW_MON_MEM_ACCESS ? k->b >> 8 == key->b >> 8 && !(key->b & 0xff & ~k->b) : k->b == key->b)
			return &v->grant[i];
	}
	return NULL;
}

static void grant(struct mon_vcpu *v, const struct mon_key *key, const struct gw_mon_answer *a)
{
	struct mon_grant *g;

	if (v->n_grants == MON_GRANTS)
		v->n_grants = 0;	/* no instruction touches so much: it will be asked about again */
	g = &v->grant[v->n_grants++];
	g->key = *key;
	g->flags = a->flags;
	g->vector = a->vector;
	g->error = a->error;
	g->cr2 = a->cr2;
	g->data_len = a->data_len < sizeof(g->data) ? a->data_len : sizeof(g->data);
	if (g->data_len)
		memcpy(g->data, a->data, g->data_len);
}

void mon_set_alone(struct mon_vcpu *v, bool on)
{
	v->m->host->alone(v->cpu, on);
	if (!on)
		v->is_alone = false;
}

static bool is_paused(const struct mon_vcpu *v)
{
	return atomic_load(&v->paused) || atomic_load(&v->m->is_policy_pause);
}

/* Does anything need to be told between instructions? */
static bool needs_alone(struct mon_vcpu *v)
{
	return v->n_grants || v->blanket || v->asked.valid || v->regs.due || v->n_told || v->fast_view != MON_NO_VIEW || v->is_code ||
	       mon_is_marked(v, &v->step) || is_paused(v) || atomic_load(&v->trap.due);
}

/* ---- events ------------------------------------------------------------------------------------------------------------------ */

struct gw_mon_event *mon_event(struct monitor *m, struct mon_vcpu *v, unsigned reason)
{
	struct gw_mon_event *ev = &v->ev;

	mon_clear(ev, offsetof(struct gw_mon_event, regs));
	ev->size = sizeof(*ev);
	ev->reason = reason;
	ev->vcpu = v->index;
	ev->view = atomic_load(&v->view);
	if (m->has_views)
		ev->flags |= GW_MON_F_VIEWS;
	m->host->regs(v->cpu, &ev->regs);
	return ev;
}

bool mon_asked(struct mon_vcpu *v, struct mon_key *key)
{
	bool asked;

	pthread_mutex_lock(&v->lock);
	/* A question of another session may have come through a door without this lock. */
	asked = v->state == MON_ASKED && atomic_load(&v->asked_session) == atomic_load(&v->m->session);
	if (asked)
		*key = v->asked.key;
	pthread_mutex_unlock(&v->lock);
	return asked;
}

bool mon_answered(struct mon_vcpu *v, const struct gw_mon_answer *a)
{
	bool took = false;

	pthread_mutex_lock(&v->lock);
	if (v->state == MON_ASKED) {
		v->answer = *a;
		mon_set_state(v, MON_ANSWERED);
		took = true;
	}
	pthread_mutex_unlock(&v->lock);
	return took;
}

void mon_wake_all(struct monitor *m)
{
	unsigned n = m->host->n_vcpus(m->vm);

	for (unsigned i = 0; i < n; i++)
		m->host->wake(m->vm, i);
}

/* The session is loaded before the door: while the one is what it was, so is the other. */
struct waiting { struct monitor *m; struct mon_vcpu *v; unsigned session; const struct mon_door_ops *ops; bool for_room; };

static struct waiting waiting_of(struct monitor *m, struct mon_vcpu *v)
{
	struct waiting w = { .m = m, .v = v, .session = atomic_load(&m->session) };

	w.ops = atomic_load(&m->ops);
	return w;
}

/* Who ends a session changes its number and then looks here: one of the two sees the other. */
bool mon_hold(struct mon_vcpu *v, unsigned session)
{
	atomic_store(&v->holds, true);
	if (likely(atomic_load(&v->m->session) == session))
		return true;
	mon_let_go(v);
	return false;
}

void mon_let_go(struct mon_vcpu *v)
{
	atomic_store_explicit(&v->holds, false, memory_order_release);
}

void mon_wait_holders(struct monitor *m)
{
	for (unsigned i = 0; i < MON_MAX_VCPUS; i++) {
		struct mon_vcpu *v = atomic_load(&m->vcpu[i]);

		while (v && atomic_load(&v->holds))
			sched_yield();
	}
}

/* How often someone who sleeps must look at the clock. */
static int tick_ms(const struct monitor *m)
{
	uint64_t ms = m->stall_ns / 8000000;

	return !m->stall_ns ? -1 : ms > 100 ? 100 : ms ? (int)ms : 1;
}

static bool is_stalled(const struct waiting *w)
{
	return w->m->stall_ns && now() - w->v->asked_at > w->m->stall_ns;
}

/* One look at the door. False: the session is over. */
static bool look(const struct waiting *w, bool *has_room, int *err)
{
	bool is_own = w->ops && w->ops->is_own, goes_on;

	if (!is_own)
		pthread_mutex_lock(&w->m->door_lock);
	goes_on = is_own ? mon_hold(w->v, w->session) : atomic_load(&w->m->session) == w->session;
	if (goes_on && w->ops->pull)
		*err = w->ops->pull(w->m, w->v);
	if (goes_on && w->for_room)
		*has_room = !w->ops->has_room || w->ops->has_room(w->m, w->v);
	if (!is_own)
		pthread_mutex_unlock(&w->m->door_lock);
	else if (goes_on)
		mon_let_go(w->v);
	return goes_on;
}

/* Answers are fetched here by whoever waits; a monitor that breaks the rules is let go. */
static bool is_ready(void *arg)
{
	struct waiting *w = arg;
	bool has_room = false;
	int err = 0;

	if (!look(w, &has_room, &err))
		return true;
	if (err < 0) {
		mon_lose(w->m, " (its ring counts more answers than questions)");
		return true;
	}
	/* What was answered was written before. */
	if (!w->for_room && atomic_load(&w->v->state) == MON_ANSWERED)
		return true;
	if (!has_room && is_stalled(w)) {
		mon_lose(w->m, " (no answer in time)");
		return true;
	}
	return has_room;	/* try to send again */
}

#define LOOKS	64u		/* between two looks at the clock */

/* True: there is an answer. False: none so far, or the session is over. */
static bool look_until(const struct waiting *w, uint64_t for_ns)
{
	uint64_t end = 0;

	for (;;) {
		for (unsigned i = 0; i < LOOKS; i++) {
			if (w->ops->peek(w->m, w->v))
				return true;
			if (atomic_load_explicit(&w->m->session, memory_order_relaxed) != w->session)
				return false;
			__builtin_ia32_pause();
		}
		/* An answer that comes at once costs no clock. */
		if (!end)
			end = now() + for_ns;
		else if (now() >= end)
			return false;
	}
}

/* Look for the answer before sleeping; more and more seldom while that is in vain: no processor is free for the monitor, or it thinks. */
static void spin(const struct waiting *w)
{
	struct monitor *m = w->m;
	struct mon_vcpu *v = w->v;

	if (!m->spin_ns || !w->ops || !w->ops->peek)
		return;
	if (v->spins_off) {
		v->spins_off--;
		return;
	}
	if (!mon_hold(v, w->session))
		return;
	if (look_until(w, m->spin_ns)) {
		w->ops->pull(m, v);
		v->spins_failed = 0;
	} else {
		v->spins_failed = v->spins_failed < 6 ? v->spins_failed + 1 : 6;
	}
	mon_let_go(v);
	v->spins_off = (1u << v->spins_failed) - 1;
}

static int door_fd(struct monitor *m, struct mon_vcpu *v)
{
	const struct mon_door_ops *ops = atomic_load(&m->ops);

	return ops->fd ? ops->fd(m, v) : -1;
}

/* Through the door of the session that @w is of, if that goes on. */
static int send_once(struct monitor *m, struct mon_vcpu *v, const struct waiting *w)
{
	int err = -ENOTCONN;

	if (atomic_load(&m->session) != w->session || !atomic_load(&m->is_attached))
		return err;
	if (w->ops->is_direct)
		return w->ops->send(m, v, &v->ev);
	if (w->ops->is_own) {
		err = w->ops->prepare ? w->ops->prepare(m, v) : 0;
		if (err)
			return err;
		if (!mon_hold(v, w->session))
			return -ENOTCONN;
		err = w->ops->send(m, v, &v->ev);
		mon_let_go(v);
		return err;
	}
	pthread_mutex_lock(&m->door_lock);
	if (atomic_load(&m->session) == w->session)
		err = w->ops->send(m, v, &v->ev);
	pthread_mutex_unlock(&m->door_lock);
	return err;
}

/* 0: it is out. -EINTR: wanted elsewhere before it was. -ENOTCONN: nobody is there (any more). */
static int send(struct monitor *m, struct mon_vcpu *v, struct waiting *w)
{
	for (;;) {
		int err = send_once(m, v, w);
		bool has_room;

		if (!err) {
			atomic_store_explicit(&v->n_events, atomic_load_explicit(&v->n_events, memory_order_relaxed) + 1, memory_order_relaxed);
			return 0;
		}
		if (err == -ENOTCONN)
			return err;
		if (err != -EAGAIN) {
			/* Closed, not open: without a way to ask nothing is allowed; the policy says how the vCPU stands. */
			mon_lost(m);
			return -ENOTCONN;
		}
		w->for_room = true;
		atomic_store(&v->wants_room, true);
		has_room = m->host->block(v->cpu, door_fd(m, v), tick_ms(m), is_ready, w);
		atomic_store(&v->wants_room, false);
		if (!has_room)
			return -EINTR;
	}
}

void mon_switch_view(struct monitor *m, struct mon_vcpu *v, unsigned view, unsigned session)
{
	struct mon_view *from, *to;
	bool switched = false;

	pthread_mutex_lock(&m->lock);
	from = m->view[atomic_load(&v->view)];
	to = view < MON_MAX_VIEWS ? m->view[view] : NULL;
	if (to && to->used && to != from && session == atomic_load(&m->session)) {
		atomic_fetch_sub(&from->users, 1);
		atomic_fetch_add(&to->users, 1);
		atomic_store(&v->view, view);
		switched = true;
	}
	pthread_mutex_unlock(&m->lock);
	if (switched)
		m->host->flush(m->vm, v->cpu);
}

/* In the order of Xen: the permission, stepping, the view, registers. True: the instruction must begin again. */
static bool apply(struct monitor *m, struct mon_vcpu *v, const struct mon_key *key, const struct gw_mon_answer *a, unsigned session)
{
	bool again = false;

	if (key->kind != GW_MON_MEM_ACCESS || a->flags & (GW_MON_ANS_ALLOW | GW_MON_ANS_DENY))
		grant(v, key, a);
	if (a->flags & GW_MON_ANS_ALLOW && (a->flags & GW_MON_ANS_BLANKET || atomic_load(&m->blanket)))
		v->blanket = true;
	if (a->flags & GW_MON_ANS_CODE && a->flags & GW_MON_ANS_ALLOW && !(a->flags & (GW_MON_ANS_DATA | GW_MON_ANS_NOWRITE))) {
		m->host->code(v->cpu, a->data);
		v->is_code = again = true;
	}
	if (a->flags & GW_MON_ANS_STEP_TOGGLE) {
		atomic_store(&v->step, mon_is_marked(v, &v->step) ? 0 : session);
	} else if (a->flags & (GW_MON_ANS_STEP_ON | GW_MON_ANS_STEP_OFF)) {
		atomic_store(&v->step, a->flags & GW_MON_ANS_STEP_ON ? session : 0);
	} else if (a->flags & GW_MON_ANS_FAST_STEP && a->step_view < MON_MAX_VIEWS) {
		v->fast_view = a->step_view;
		v->fast_session = session;
	}
	if (a->flags & GW_MON_ANS_VIEW) {
		mon_switch_view(m, v, a->view, session);
		again = true;
	}
	if (a->flags & GW_MON_ANS_REGS) {
		v->regs.due = true;
		v->regs.r = a->regs;
		v->regs.with_grants = a->flags & GW_MON_ANS_ALLOW;
		again = true;
	}
	if (a->flags & GW_MON_ANS_NEXT_INT)
		atomic_store(&v->next_int, session);
	return again || atomic_load(&v->trap.due);
}

static enum mon_outcome begin_again(struct monitor *m, struct mon_vcpu *v)
{
	mon_set_alone(v, true);
	v->is_alone = false;
	m->host->again(v->cpu);
	return MON_AGAIN;
}

/* The session ended while we waited, or before. What the policy wants is done by before() and check(). */
static enum mon_outcome nobody(struct monitor *m, struct mon_vcpu *v, const struct mon_key *key)
{
	execution_over(v);
	v->gone_on = !m->is_required;
	return begin_again(m, v);
}

static enum mon_outcome ask(struct monitor *m, struct mon_vcpu *v, const struct mon_key *key)
{
	struct waiting w = waiting_of(m, v);
	bool is_own = w.ops && w.ops->is_own;
	int err;

	check_execution(v);
	if (!question_stands(v) || !same_key(&v->asked.key, key)) {
		if (!is_own)
			pthread_mutex_lock(&v->lock);
		v->ev.seq = ++v->seq;
		v->asked.key = *key;
		atomic_store_explicit(&v->asked_session, w.session, memory_order_relaxed);
		mon_set_state(v, MON_ASKED);
		if (!is_own)
			pthread_mutex_unlock(&v->lock);
		v->asked.valid = true;
		v->asked_at = m->stall_ns ? now() : 0;
		v->ev.flags |= GW_MON_F_SYNC;
		v->m->host->alone(v->cpu, true);
		err = send(m, v, &w);
		if (err) {
			execution_over(v);
			if (err == -EINTR)
				return MON_LEAVE;
			return nobody(m, v, key);
		}
	}
	w.for_room = false;
	if (!is_own || v->state != MON_ANSWERED)
		spin(&w);
	if ((!is_own || v->state != MON_ANSWERED) && !m->host->block(v->cpu, door_fd(m, v), tick_ms(m), is_ready, &w))
		return MON_LEAVE;
	/* From now on the answer is ours. */
	if (!is_own)
		pthread_mutex_lock(&v->lock);
	err = v->state == MON_ANSWERED ? 0 : -ENOTCONN;
	mon_set_state(v, MON_IDLE);
	if (!is_own)
		pthread_mutex_unlock(&v->lock);
	v->asked.valid = false;
	if (err)
		return nobody(m, v, key);
	if (apply(m, v, key, &v->answer, w.session) || !v->is_alone)
		return begin_again(m, v);
	return MON_GO;
}

/* Nothing here runs between acc_enter() and acc_leave(): who changes rights holds monitor.lock while he waits for us. */
enum mon_outcome mon_ask(struct monitor *m, struct mon_vcpu *v, const struct mon_key *key, bool inside)
{
	enum mon_outcome o;

	if (inside)
		m->host->outside(v->cpu, true);
	o = ask(m, v, key);
	m->host->stood(v->cpu);
	if (inside)
		m->host->outside(v->cpu, false);
	return o;
}

bool mon_tell(struct monitor *m, struct mon_vcpu *v, bool inside)
{
	struct waiting w = waiting_of(m, v);
	int err;

	v->ev.seq = 0;
	v->asked_at = m->stall_ns ? now() : 0;
	if (inside)
		m->host->outside(v->cpu, true);
	err = send(m, v, &w);
	if (inside)
		m->host->outside(v->cpu, false);
	return err != -EINTR;
}

/* ---- between instructions ------------------------------------------------------------------------------------------------------ */

static void enter(void *ext, struct acc_cpu *cpu)
{
	struct monitor *m = ext;
	struct mon_vcpu *v = mon_vcpu_of(m, cpu);

	v->cpu = cpu;
	v->is_alone = false;
	if (unlikely(!v->is_known)) {
		uint32_t wants;

		/* Made after a subscription: mon_rearm() did not see it. */
		v->is_known = true;
		do {
			wants = atomic_load(&m->wants);
			m->host->wants_of(cpu, wants);
		} while (atomic_load(&m->wants) != wants);
	}
	if (needs_alone(v))
		m->host->alone(cpu, true);
	else
		m->host->stood(cpu);
}

static bool may_run(void *arg)
{
	struct mon_vcpu *v = arg;

	return !is_paused(v) || atomic_load(&v->m->is_stopped);
}

/* Paused. False: wanted elsewhere. */
static bool stand(struct monitor *m, struct mon_vcpu *v)
{
	bool ok;

	m->host->outside(v->cpu, true);
	ok = m->host->block(v->cpu, -1, -1, may_run, v);
	m->host->stood(v->cpu);
	m->host->outside(v->cpu, false);
	return ok;
}

static void take_trap(struct monitor *m, struct mon_vcpu *v)
{
	if (likely(!atomic_load(&v->trap.due)))
		return;
	pthread_mutex_lock(&v->lock);
	m->host->inject(v->cpu, v->trap.vector, v->trap.type, v->trap.error, v->trap.length, v->trap.cr2);
	v->trap.due = false;
	pthread_mutex_unlock(&v->lock);
}

/* What happened to watched pages without being asked about. False: wanted elsewhere. */
static bool tell_noted(struct monitor *m, struct mon_vcpu *v)
{
	while (v->n_told) {
		const struct mon_told *t = &v->told[0];

		if (atomic_load(&m->is_attached) && (t->reason != GW_MON_DENIED || mon_subscribed(m, 31))) {
			mon_fill_memory(mon_event(m, v, t->reason), &t->rq, t->missing);
			if (!mon_tell(m, v, true))
				return false;
		}
		memmove(&v->told[0], &v->told[1], --v->n_told * sizeof(v->told[0]));
	}
	return true;
}

void mon_note(struct monitor *m, struct mon_vcpu *v, uint32_t reason, const struct acc_request *rq, uint8_t missing)
{
	if (v->n_told < MON_TOLD)
		v->told[v->n_told++] = (struct mon_told){ reason, *rq, missing };
	else
		mon_logf(m, "monitor: vCPU %u: more accesses at once than can be told", v->index);
	m->host->alone(rq->cpu, true);
}

/* A step's event is about no instruction: it is waited for here. */
static bool ask_step(struct monitor *m, struct mon_vcpu *v)
{
	struct mon_key key = { .kind = GW_MON_SINGLESTEP };
	enum mon_outcome o;

	if (!question_stands(v)) {
		struct gw_mon_event *ev = mon_event(m, v, GW_MON_SINGLESTEP);
		uint64_t gpa;

		ev->u.trap.gfn = m->host->translate(v->cpu, ev->regs.sregs.cs.base + ev->regs.regs.rip, &gpa) ? gpa >> GW_PAGE_SHIFT : ~0ull;
	}
	o = mon_ask(m, v, &key, true);
	if (o == MON_LEAVE)
		return false;
	v->n_grants = 0;
	v->blanket = false;
	return true;
}

static bool before(void *ext, struct acc_cpu *cpu)
{
	struct monitor *m = ext;
	struct mon_vcpu *v = mon_vcpu_of(m, cpu);

	if (v->asked.valid && v->asked.key.kind == GW_MON_SINGLESTEP && v->rip == m->host->rip(cpu) && !ask_step(m, v))
		return false;
	if (is_paused(v) && !stand(m, v))
		return false;
	if (v->regs.due) {
		v->regs.due = false;
		m->host->set_regs(cpu, &v->regs.r);
		if (v->regs.with_grants)
			v->rip = m->host->rip(cpu);
	}
	check_execution(v);
	take_trap(m, v);
	if (v->n_told && !tell_noted(m, v))
		return false;
	v->is_alone = true;
	if (!needs_alone(v))
		mon_set_alone(v, false);
	return true;
}

static void after(void *ext, struct acc_cpu *cpu, bool retired)
{
	struct monitor *m = ext;
	struct mon_vcpu *v = mon_vcpu_of(m, cpu);

	v->is_alone = false;
	execution_over(v);
	if (v->is_code) {
		v->is_code = false;
		m->host->code(cpu, NULL);
	}
	if (retired && v->fast_view != MON_NO_VIEW) {
		unsigned view = v->fast_view;

		v->fast_view = MON_NO_VIEW;
		m->host->outside(cpu, true);
		mon_switch_view(m, v, view, v->fast_session);
		m->host->outside(cpu, false);
	}
	if (retired && mon_is_marked(v, &v->step) && mon_subscribed(m, GW_MON_SINGLESTEP))
		ask_step(m, v);
	if (!needs_alone(v))
		mon_set_alone(v, false);
}

enum cpu_ext_answer mon_insn(void *ext, struct cpu_ext_insn *x);
enum cpu_ext_answer mon_write(void *ext, const struct cpu_ext_write *w, struct acc_exit *exit);

const struct cpu_ext_ops mon_ext_ops = {
	.name = "monitor", .write = mon_write, .insn = mon_insn, .enter = enter, .before = before, .after = after,
};
