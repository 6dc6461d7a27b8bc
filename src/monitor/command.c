/* SPDX-License-Identifier: MIT */
/*
 * Life, sessions and commands. A command checks everything it was given, then acts; rows of a table say what it needs. All are
 * for the VM's owner: who may speak at all is decided at the control socket.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "monitor/private.h"


/* ---- life ---------------------------------------------------------------------------------------------------------------------- */

static struct mon_view *view_new(struct monitor *m, unsigned index)
{
	struct mon_view *v = m->view[index];

	if (!v) {
		v = calloc(1, sizeof(*v));
		if (!v)
			return NULL;
		atomic_init(&v->root, 1);
		atomic_store(&m->view[index], v);
	}
	return v;
}

int mon_new(const struct mon_host *host, void *vm, struct monitor **out)
{
	struct monitor *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	m->host = host;
	m->vm = vm;
	m->max_views = MON_VIEWS;
	m->memory_fd = m->event_fd = m->answer_fd = -1;
	if (!view_new(m, 0)) {
		free(m);
		return -ENOMEM;
	}
	m->view[0]->used = m->view[0]->visible = true;
	m->view[0]->def = GW_MON_RWX;
	pthread_mutex_init(&m->lock, NULL);
	pthread_mutex_init(&m->door_lock, NULL);
	*out = m;
	return 0;
}

int mon_vcpu_add(struct monitor *m, unsigned index)
{
	struct mon_vcpu *v;

	if (index >= MON_MAX_VCPUS)
		return -EINVAL;
	if (atomic_load(&m->vcpu[index]))
		return 0;
	v = calloc(1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	v->index = index;
	v->m = m;
	v->fast_view = MON_NO_VIEW;
	v->wake_fd = -1;
	pthread_mutex_init(&v->lock, NULL);
	pthread_mutex_lock(&m->lock);
	atomic_fetch_add(&m->view[0]->users, 1);
	atomic_store(&m->vcpu[index], v);
	pthread_mutex_unlock(&m->lock);
	return 0;
}

void mon_free(struct monitor *m)
{
	if (!m)
		return;
	if (atomic_load(&m->is_attached) && m->ops->close)
		m->ops->close(m);
	for (unsigned i = 0; i < MON_MAX_VIEWS; i++) {
		if (m->view[i])
			view_clear(m, m->view[i]);
		free(m->view[i]);
	}
	view_reclaim(m);
	for (unsigned i = 0; i < MON_MAX_VCPUS; i++) {
		struct mon_vcpu *v = atomic_load(&m->vcpu[i]);

		if (!v)
			continue;
		if (v->wake_fd >= 0)
			close(v->wake_fd);
		pthread_mutex_destroy(&v->lock);
		free(v);
	}
	for (unsigned i = 0; i < 3; i++) {
		int fd = i == 0 ? m->memory_fd : i == 1 ? m->event_fd : m->answer_fd;

		if (fd >= 0)
			close(fd);
	}
	pthread_mutex_destroy(&m->lock);
	pthread_mutex_destroy(&m->door_lock);
	free(m);
}

/* ---- arming -------------------------------------------------------------------------------------------------------------------- */

static void forget_all(struct monitor *m)
{
	m->host->forget(m->vm, GFN(0), 0, ACC_RW | ACC_X);
	view_reclaim(m);
}

static const uint8_t reason_of_insn[CPU_EXT_N_INSN] = {
	[CPU_EXT_CPUID] = GW_MON_CPUID, [CPU_EXT_INT3] = GW_MON_BREAKPOINT, [CPU_EXT_DEBUG] = GW_MON_DEBUG,
	[CPU_EXT_TABLE] = GW_MON_DESCRIPTOR, [CPU_EXT_PORT] = GW_MON_IO, [CPU_EXT_INTERRUPT] = GW_MON_INTERRUPT,
	[CPU_EXT_UNKNOWN] = GW_MON_UNIMPLEMENTED,
};

/* What vCPUs look at follows from what is set. */
void mon_rearm(struct monitor *m)
{
	bool attached = atomic_load(&m->is_attached), armed = attached || m->has_views || atomic_load(&m->view[0]->root) != 1;
	bool walks = armed && (attached || m->is_required) && (atomic_load(&m->walks) != GW_MON_WALKS_SILENT || m->has_views);
	uint32_t mask = 0;

	for (unsigned i = 0; attached && i < CPU_EXT_N_INSN; i++)
		if (mon_subscribed(m, reason_of_insn[i]))
			mask |= 1u << i;
	if (attached)
		mask |= 1u << CPU_EXT_INTERRUPT;	/* one-shots are asked for in answers */
	if (m->subs.cr[3].on)
		mask |= CPU_EXT_WANTS_CR3;
	if (m->subs.cr[8].on)
		mask |= CPU_EXT_WANTS_XCR0;
	if (mon_subscribed(m, GW_MON_WRITE_MSR))
		mask |= CPU_EXT_WANTS_OLD_MSR;
	atomic_store(&m->is_armed, armed);
	m->is_walk_judge = walks;
	m->host->judge_walks(m->vm, walks);
	atomic_store(&m->wants, mask);
	m->host->wants(m->vm, mask);
}

/* ---- sessions ------------------------------------------------------------------------------------------------------------------ */

static const struct mon_door_ops *const doors[] = {
	[GW_MON_CALLBACK] = &mon_callback_door, [GW_MON_CHANNEL] = &mon_channel_door, [GW_MON_XEN] = &mon_xen_door,
};

/* vCPUs may be looking. */
static void clear_subscriptions(struct monitor *m)
{
	struct mon_subs *s = &m->subs;

	atomic_store(&s->reasons, 0);
	for (unsigned i = 0; i < 32; i++)
		atomic_store_explicit(&s->flags[i], 0, memory_order_relaxed);
	for (unsigned i = 0; i < 16; i++)
		atomic_store(&s->cr[i].on, false);
	for (unsigned b = 0; b < 3; b++)
		for (unsigned i = 0; i < MON_MSR_BITS; i++)
			atomic_store_explicit(&s->msr[b][i], 0, memory_order_relaxed);
}

static void close_fds(struct monitor *m)
{
	if (m->memory_fd >= 0)
		close(m->memory_fd);
	if (m->event_fd >= 0)
		close(m->event_fd);
	m->memory_fd = m->event_fd = -1;
}

static int hand_out(struct monitor *m, struct gw_monitor_attach *a)
{
	int32_t *to[] = { &a->memory_fd, &a->event_fd, &a->answer_fd };
	int from[] = { m->memory_fd, m->event_fd, a->door == GW_MON_XEN ? m->answer_fd : -1 };

	for (unsigned i = 0; i < 3; i++) {
		*to[i] = from[i] < 0 ? -1 : dup(from[i]);
		if (from[i] >= 0 && *to[i] < 0)
			return -errno;
	}
	return 0;
}

int mon_attach(struct monitor *m, struct gw_monitor_attach *a)
{
	int err;

	if (a->door >= sizeof(doors) / sizeof(doors[0]) || a->policy > GW_MON_STOP || a->flags & ~GW_MON_BLANKET || a->pad ||
	    a->spin_us > GW_MON_MAX_SPIN)
		return -EINVAL;
	pthread_mutex_lock(&m->lock);
	err = -EBUSY;
	if (atomic_load(&m->is_attached))
		goto unlock;
	clear_subscriptions(m);
	pthread_mutex_lock(&m->door_lock);
	m->ops = doors[a->door];
	a->memory_fd = a->event_fd = a->answer_fd = -1;
	err = m->ops->open(m, a);
	if (!err)
		err = hand_out(m, a);
	if (err) {
		if (m->ops->close)
			m->ops->close(m);
		close_fds(m);
	}
	pthread_mutex_unlock(&m->door_lock);
	if (err)
		goto unlock;
	m->door = a->door;
	m->policy = a->policy;
	m->stall_ns = a->door == GW_MON_CALLBACK ? 0 : (uint64_t)a->stall_ms * 1000000;
	m->spin_ns = a->spin_us * 1000ull;
	m->is_bad_answer_logged = false;
	atomic_store(&m->blanket, (a->flags & GW_MON_BLANKET) != 0);
	atomic_store(&m->is_attached, true);
	atomic_fetch_add(&m->session, 1);
	mon_rearm(m);
	forget_all(m);
unlock:
	pthread_mutex_unlock(&m->lock);
	return err;
}

static void leave_views(struct monitor *m)
{
	unsigned n = m->host->n_vcpus(m->vm);

	for (unsigned i = 0; i < n; i++) {
		struct mon_vcpu *v = atomic_load(&m->vcpu[i]);

		if (v) {
			atomic_fetch_sub(&m->view[atomic_load(&v->view)]->users, 1);
			atomic_store(&v->view, 0);
			atomic_fetch_add(&m->view[0]->users, 1);
		}
	}
	atomic_fetch_add(&m->change, 1);
	forget_all(m);
	for (unsigned i = 1; i < MON_MAX_VIEWS; i++)
		if (m->view[i] && m->view[i]->used) {
			view_clear(m, m->view[i]);
			m->view[i]->used = false;
		}
	m->has_views = false;
}

/* Subscriptions end, and steps with the session's number; who waits is woken, and finds nobody. Rights and views stay. */
void mon_end_session(struct monitor *m)
{
	unsigned n = m->host->n_vcpus(m->vm);

	atomic_store(&m->is_attached, false);
	atomic_fetch_add(&m->session, 1);
	clear_subscriptions(m);
	for (unsigned i = 0; i < n; i++) {
		struct mon_vcpu *v = atomic_load(&m->vcpu[i]);

		if (v)
			atomic_store(&v->paused, 0);
	}
	pthread_mutex_lock(&m->door_lock);
	if (m->ops->close)
		m->ops->close(m);
	close_fds(m);
	pthread_mutex_unlock(&m->door_lock);
}

static void free_rights(struct monitor *m)
{
	leave_views(m);
	view_clear(m, m->view[0]);
	atomic_store(&m->view[0]->def, GW_MON_RWX);
	m->is_required = false;
	atomic_store(&m->walks, GW_MON_WALKS_REPORT);
}

void mon_lost(struct monitor *m)
{
	pthread_mutex_lock(&m->lock);
	if (!atomic_load(&m->is_attached)) {
		pthread_mutex_unlock(&m->lock);
		return;
	}
	if (m->policy == GW_MON_PAUSE)
		atomic_store(&m->is_policy_pause, true);
	if (m->policy == GW_MON_STOP) {
		atomic_store(&m->is_stopped, true);
		m->is_required = true;
	}
	mon_end_session(m);
	if (m->policy == GW_MON_RELEASE)
		free_rights(m);
	mon_rearm(m);
	forget_all(m);
	pthread_mutex_unlock(&m->lock);
	mon_logf(m, "monitor: lost; the guest is %s", m->policy == GW_MON_PAUSE ? "paused" : m->policy == GW_MON_STOP ? "stopped" : "released");
	for (unsigned i = 0; m->policy != GW_MON_RELEASE && i < m->host->n_vcpus(m->vm); i++)
		m->host->kick(m->vm, i);
	mon_wake_all(m);
}

/* ---- commands ------------------------------------------------------------------------------------------------------------------ */

struct call { struct monitor *m; const uint64_t *a; uint64_t *r; const void *in; size_t in_size; void *out; size_t *out_size; };

static struct mon_view *view_at(struct monitor *m, uint64_t index)
{
	struct mon_view *v = index < m->max_views ? m->view[index] : NULL;

	return v && v->used ? v : NULL;
}

static struct mon_vcpu *vcpu_at(struct monitor *m, uint64_t index)
{
	return index < m->host->n_vcpus(m->vm) ? atomic_load(&m->vcpu[index]) : NULL;
}

static int detach(struct call *c)
{
	struct monitor *m = c->m;

	if (!atomic_load(&m->is_attached))
		return -EINVAL;
	mon_end_session(m);
	if (c->a[0])
		free_rights(m);
	mon_rearm(m);
	forget_all(m);
	return 0;
}

static int subscribe_cr(struct monitor *m, const uint64_t *a)
{
	uint64_t cr = a[3];

	if (cr != 0 && cr != 3 && cr != 4 && cr != 8)
		return -EINVAL;
	if (m->subs.cr[cr].on == !!a[1])
		return -EEXIST;
	m->subs.cr[cr].sync = a[2] & GW_MON_S_SYNC;
	m->subs.cr[cr].on_change = a[2] & GW_MON_S_ON_CHANGE;
	m->subs.cr[cr].mask = a[4];
	m->subs.cr[cr].on = a[1];
	return 0;
}

static int subscribe_msr(struct monitor *m, const uint64_t *a)
{
	static const uint32_t first[] = { 0, 0x40000000, 0xc0000000 };

	for (unsigned bank = 0; bank < 3; bank++) {
		uint64_t slot = a[3] - first[bank];
		_Atomic uint8_t *e;

		if (a[3] < first[bank] || slot >= MON_MSR_BITS)
			continue;
		e = &m->subs.msr[bank][slot];
		if (!*e == !a[1])
			return -EEXIST;
		*e = a[1] ? (a[2] & GW_MON_S_ON_CHANGE ? 3 : 1) : 0;
		return 0;
	}
	return -EINVAL;
}

static bool any_cr_or_msr(const struct monitor *m, unsigned reason)
{
	if (reason == GW_MON_WRITE_CR)
		return m->subs.cr[0].on || m->subs.cr[3].on || m->subs.cr[4].on || m->subs.cr[8].on;
	for (unsigned b = 0; b < 3; b++)
		for (unsigned i = 0; i < MON_MSR_BITS; i++)
			if (m->subs.msr[b][i])
				return true;
	return false;
}

#define SUBSCRIBABLE	(1u << GW_MON_WRITE_CR | 1u << GW_MON_WRITE_MSR | 1u << GW_MON_BREAKPOINT | 1u << GW_MON_SINGLESTEP | \
			 1u << GW_MON_GUEST_REQUEST | 1u << GW_MON_DEBUG | 1u << GW_MON_CPUID | 1u << GW_MON_DESCRIPTOR | \
			 1u << GW_MON_UNIMPLEMENTED | 1u << GW_MON_IO)

static int subscribe(struct call *c)
{
	struct monitor *m = c->m;
	uint64_t reason = c->a[0], bit;
	bool on = c->a[1];
	int err;

	if (reason == GW_MON_DENIED)
		reason = 31;
	else if (reason > 30)
		return -EINVAL;
	else if (!(SUBSCRIBABLE >> reason & 1))
		return -EOPNOTSUPP;
	bit = 1ull << reason;
	if (reason == GW_MON_WRITE_CR || reason == GW_MON_WRITE_MSR) {
		err = reason == GW_MON_WRITE_CR ? subscribe_cr(m, c->a) : subscribe_msr(m, c->a);
		if (err)
			return err;
		on = any_cr_or_msr(m, (unsigned)reason);
	} else if (on == !!(m->subs.reasons & bit)) {
		return -EEXIST;
	} else {
		m->subs.flags[reason] = (uint32_t)c->a[2];
	}
	if (on)
		atomic_fetch_or(&m->subs.reasons, bit);
	else
		atomic_fetch_and(&m->subs.reasons, ~bit);
	mon_rearm(m);
	/* When this returns no vCPU runs by the old list. */
	m->host->forget(m->vm, GFN(0), 1, ACC_X);
	return 0;
}

/* Vcpus that use the view forget what it no longer gives; a walk may have used any of the frames. */
static void forget_in(struct monitor *m, const struct mon_view *v, uint64_t first, uint64_t n)
{
	if (!atomic_load(&v->users))
		return;
	if (m->is_walk_judge)
		forget_all(m);
	else
		m->host->forget(m->vm, GFN(first), n, ACC_RW | ACC_X);
}

static int set_range(struct monitor *m, struct mon_view *v, uint64_t type, uint64_t first, uint64_t n)
{
	uint64_t entry, max = m->host->max_gfn(m->vm);

	if (type == GW_MON_DEFAULT)
		type = atomic_load(&v->def);
	if (type > GW_MON_N2RWX)
		return -EINVAL;
	if (first == ~0ull) {
		atomic_store(&v->def, (uint8_t)type);
		atomic_fetch_add(&m->change, 1);
		if (v != m->view[0])
			forget_in(m, v, 0, 1ull << 40);
		return 0;
	}
	if (first + n < first || first > max || n > max - first + 1)
		return -EINVAL;
	if (n == 1) {
		entry = view_get(v, first);
		return view_set(m, v, first, 1, (entry & ~ENTRY_TYPE) | ENTRY_SET | type);
	}
	/* Frames that show others keep showing them: rare, so looked for only where there are views. */
	if (v == m->view[0])
		return view_set(m, v, first, n, ENTRY_SET | type);
	for (uint64_t at = first; at < first + n; at++) {
		int err;

		entry = view_get(v, at);
		err = view_set(m, v, at, 1, (entry & ~ENTRY_TYPE) | ENTRY_SET | type);
		if (err)
			return err;
	}
	return 0;
}

/* Whoever may do this is attached: vCPUs look already. */
static int set_access(struct call *c)
{
	struct monitor *m = c->m;
	struct mon_view *v = view_at(m, c->a[0]);
	int err;

	if (!v)
		return -EINVAL;
	err = set_range(m, v, c->a[1], c->a[2], c->a[3]);
	if (!err && c->a[2] != ~0ull && c->a[1] != GW_MON_RWX)
		forget_in(m, v, c->a[2], c->a[3]);
	return err;
}

static int set_list(struct call *c)
{
	struct monitor *m = c->m;
	const struct gw_mon_set *s = c->in;
	struct mon_view *v = view_at(m, c->a[0]);
	uint64_t lowest = ~0ull, highest = 0;
	int err = 0;

	if (!v || c->a[1] > c->in_size / sizeof(*s))
		return -EINVAL;
	for (uint64_t i = 0; i < c->a[1] && !err; i++) {
		err = s[i].gfn == ~0ull || !s[i].count ? -EINVAL : set_range(m, v, s[i].type, s[i].gfn, s[i].count);
		if (err)
			break;
		lowest = s[i].gfn < lowest ? s[i].gfn : lowest;
		highest = s[i].gfn + s[i].count > highest ? s[i].gfn + s[i].count : highest;
	}
	if (highest)
		forget_in(m, v, lowest, highest - lowest);
	return err;
}

static int get_access(struct call *c)
{
	struct mon_view *v = view_at(c->m, c->a[0]);
	uint64_t e;

	if (!v)
		return -EINVAL;
	if (c->a[1] == ~0ull) {
		c->r[0] = atomic_load(&v->def);
		return 0;
	}
	if (c->a[1] > c->m->host->max_gfn(c->m->vm))
		return -EINVAL;
	if (!c->m->host->is_memory(c->m->vm, GFN(c->a[1])))
		return -ESRCH;
	e = view_get(v, c->a[1]);
	c->r[0] = v == c->m->view[0] && !(e & ENTRY_SET) ? GW_MON_RWX : entry_type(v, e);
	return 0;
}

static int views(struct call *c)
{
	struct monitor *m = c->m;

	c->r[0] = m->has_views;
	if (c->a[0] > 1)
		return 0;
	if (c->a[0] && !m->has_views) {
		m->has_views = true;
	} else if (!c->a[0] && m->has_views) {
		leave_views(m);
		view_reclaim(m);
	}
	mon_rearm(m);
	return 0;
}

static int view_create(struct call *c)
{
	struct monitor *m = c->m;

	if (!m->has_views)
		return -EOPNOTSUPP;
	if (c->a[0] > GW_MON_DEFAULT)
		return -EINVAL;
	for (unsigned i = 1; i < m->max_views; i++) {
		struct mon_view *v;

		if (m->view[i] && m->view[i]->used)
			continue;
		v = view_new(m, i);
		if (!v)
			return -ENOMEM;
		atomic_store(&v->def, (uint8_t)(c->a[0] == GW_MON_DEFAULT ? atomic_load(&m->view[0]->def) : c->a[0]));
		v->used = v->visible = true;
		c->r[0] = i;
		return 0;
	}
	return -EINVAL;
}

static int view_destroy(struct call *c)
{
	struct monitor *m = c->m;
	struct mon_view *v = view_at(m, c->a[0]);

	if (!m->has_views)
		return -EOPNOTSUPP;
	if (!c->a[0] || !v || atomic_load(&v->users))
		return -EBUSY;
	view_clear(m, v);
	v->used = false;
	return 0;
}

static int view_switch(struct call *c)
{
	struct monitor *m = c->m;
	struct mon_view *to = view_at(m, c->a[0]);
	unsigned n = m->host->n_vcpus(m->vm);

	if (!m->has_views)
		return -EOPNOTSUPP;
	if (!to || !to->visible)
		return -EINVAL;
	for (unsigned i = 0; i < n; i++) {
		struct mon_vcpu *v = atomic_load(&m->vcpu[i]);

		if (!v)
			continue;
		atomic_fetch_sub(&m->view[atomic_load(&v->view)]->users, 1);
		atomic_fetch_add(&to->users, 1);
		atomic_store(&v->view, (unsigned)c->a[0]);
	}
	atomic_fetch_add(&m->change, 1);
	forget_all(m);
	return 0;
}

static int view_visible(struct call *c)
{
	struct mon_view *v = view_at(c->m, c->a[0]);

	if (!v || !c->a[0])
		return -EINVAL;
	v->visible = c->a[1];
	return 0;
}

static int view_count(struct call *c)
{
	if (!c->a[0] || c->a[0] > MON_MAX_VIEWS)
		return -EINVAL;
	for (unsigned i = (unsigned)c->a[0]; i < MON_MAX_VIEWS; i++)
		if (c->m->view[i] && c->m->view[i]->used)
			return -EBUSY;
	c->m->max_views = (unsigned)c->a[0];
	return 0;
}

static int change_gfn(struct call *c)
{
	struct monitor *m = c->m;
	struct mon_view *v = view_at(m, c->a[0]);
	uint64_t old = c->a[1], new = c->a[2], e;
	int err;

	if (!m->has_views)
		return -EOPNOTSUPP;
	if (!v || !c->a[0])
		return -EINVAL;
	if (!m->host->is_memory(m->vm, GFN(old)) || (new != ~0ull && !m->host->frame(m->vm, NULL, GFN(new), false)))
		return -ESRCH;
	e = view_get(v, old);
	if (new == ~0ull)
		e &= ENTRY_SET | ENTRY_TYPE;
	else	/* with the new frame's rights */
		e = ENTRY_REMAP | ENTRY_SET | entry_type(v, view_get(v, new)) | new << ENTRY_GFN;
	err = view_set(m, v, old, 1, e);
	if (!err)
		forget_in(m, v, old, 1);
	return err;
}

static int walks(struct call *c)
{
	if (c->a[0] > GW_MON_WALKS_DENY)
		return -EINVAL;
	atomic_store(&c->m->walks, (uint32_t)c->a[0]);
	mon_rearm(c->m);
	forget_all(c->m);
	return 0;
}

static int required(struct call *c)
{
	c->m->is_required = c->a[0];
	mon_rearm(c->m);
	return 0;
}

static int step(struct call *c)
{
	struct mon_vcpu *v = vcpu_at(c->m, c->a[0]);

	if (!v)
		return -EINVAL;
	atomic_store(&v->step, c->a[1] && atomic_load(&c->m->is_attached) ? atomic_load(&c->m->session) : 0);
	return 0;
}

static int inject(struct call *c)
{
	struct mon_vcpu *v = vcpu_at(c->m, c->a[0]);
	int err = -EBUSY;

	if (!v || c->a[1] > 255 || c->a[2] > 6 || c->a[4] > 15)
		return -EINVAL;
	pthread_mutex_lock(&v->lock);
	if (!v->trap.due) {
		v->trap.vector = (uint32_t)c->a[1];
		v->trap.type = (uint32_t)c->a[2];
		v->trap.error = (uint32_t)c->a[3];
		v->trap.length = (uint32_t)c->a[4];
		v->trap.cr2 = c->a[5];
		v->trap.due = true;
		err = 0;
	}
	pthread_mutex_unlock(&v->lock);
	return err;
}

static void each_vcpu(struct monitor *m, int pause)
{
	unsigned n = m->host->n_vcpus(m->vm);

	for (unsigned i = 0; i < n; i++) {
		struct mon_vcpu *v = atomic_load(&m->vcpu[i]);

		if (!v)
			continue;
		if (pause > 0)
			atomic_fetch_add(&v->paused, 1);
		else if (pause < 0 && atomic_load(&v->paused))
			atomic_fetch_sub(&v->paused, 1);
		else if (!pause)
			atomic_store(&v->paused, 0);
	}
}

static int pause_all(struct call *c)
{
	each_vcpu(c->m, 1);
	return 0;
}

static int resume(struct call *c)
{
	each_vcpu(c->m, -1);
	return 0;
}

static int resume_all(struct call *c)
{
	atomic_store(&c->m->is_policy_pause, false);
	atomic_store(&c->m->is_stopped, false);
	each_vcpu(c->m, 0);
	return 0;
}

static int info(struct call *c)
{
	if (c->a[0] > 1)
		return -EINVAL;
	if (c->a[0]) {
		c->r[0] = c->m->host->n_pages(c->m->vm);
		return 0;
	}
	c->r[0] = c->m->host->n_vcpus(c->m->vm);
	c->r[1] = c->m->host->max_gfn(c->m->vm);
	for (uint64_t i = 0; i < c->r[0]; i++)
		c->r[2] += atomic_load(&atomic_load(&c->m->vcpu[i])->n_events);
	c->r[3] = atomic_load(&c->m->walks);
	return 0;
}

static int vcpu_view(struct call *c)
{
	struct mon_vcpu *v = vcpu_at(c->m, c->a[0]);

	if (!v)
		return -EINVAL;
	c->r[0] = atomic_load(&v->view);
	return 0;
}

static bool one_page(const uint64_t *a)
{
	return a[1] && a[1] <= GW_PAGE_SIZE && (a[0] & GW_PAGE_MASK) + a[1] <= GW_PAGE_SIZE;
}

static int read_memory(struct call *c)
{
	if (!one_page(c->a))
		return -EINVAL;
	if (!c->m->host->read(c->m->vm, GPA(c->a[0]), c->out, c->a[1]))
		return -ESRCH;
	*c->out_size = c->a[1];
	return 0;
}

static int write_memory(struct call *c)
{
	if (!one_page(c->a) || c->in_size < c->a[1])
		return -EINVAL;
	return c->m->host->write(c->m->vm, GPA(c->a[0]), c->in, c->a[1]) ? 0 : -ESRCH;
}

static int translate(struct call *c)
{
	if (!vcpu_at(c->m, c->a[0]))
		return -EINVAL;
	return c->m->host->translate_vcpu(c->m->vm, (unsigned)c->a[0], c->a[1], &c->r[0]) ? 0 : -ESRCH;
}

/* On the thread of a vCPU whose monitor is asking: waiting for another one, or for itself, could be for ever. */
static int get_regs(struct call *c)
{
	struct gw_mon_regs r = { 0 };

	if (mon_in_callback)
		return -EDEADLK;
	if (!vcpu_at(c->m, c->a[0]))
		return -EINVAL;
	c->m->host->get_vcpu(c->m->vm, (unsigned)c->a[0], &r);
	memcpy(c->out, &r, sizeof(r));
	*c->out_size = sizeof(r);
	return 0;
}

static int set_regs(struct call *c)
{
	struct gw_mon_regs r;

	if (mon_in_callback)
		return -EDEADLK;
	if (!vcpu_at(c->m, c->a[0]) || c->in_size != sizeof(r))
		return -EINVAL;
	memcpy(&r, c->in, sizeof(r));
	return c->m->host->set_vcpu(c->m->vm, (unsigned)c->a[0], &r);
}

static int map(struct call *c)
{
	struct gfn first = GFN(0);
	int fd = c->m->host->map(c->m->vm, GFN(c->a[0]), &first, &c->r[2], &c->r[3]);

	c->r[0] = (uint64_t)fd;
	c->r[1] = first.v;
	return fd < 0 ? fd : 0;
}

static int each_rep(struct call *c)
{
	(void)c;
	return 0;
}

static int pull(struct call *c)
{
	int err = 0;

	pthread_mutex_lock(&c->m->door_lock);
	if (atomic_load(&c->m->is_attached) && c->m->door == GW_MON_XEN)
		err = c->m->ops->pull(c->m, NULL);
	pthread_mutex_unlock(&c->m->door_lock);
	return err;
}

static int blanket(struct call *c)
{
	atomic_store(&c->m->blanket, !!c->a[0]);
	return 0;
}

static int lost(struct call *c)
{
	mon_lost(c->m);
	return 0;
}

static int wake_fd(struct call *c)
{
	int fd = c->a[0] < MON_MAX_VCPUS ? mon_wake_fd(c->m, (unsigned)c->a[0]) : -EINVAL;

	c->r[0] = (uint64_t)fd;
	return fd < 0 ? fd : 0;
}

#define ATTACHED	1u	/* -ENODEV without a monitor */
#define UNLOCKED	2u	/* without monitor.lock: waits for a vCPU */
#define KICK		4u	/* vCPUs are made to notice */
#define SYNC		8u	/* and have noticed when it returns, unless a callback asked */

static const struct row { int (*fn)(struct call *c); unsigned flags; } rows[GW_MON_N_OPS] = {
	[GW_MON_OP_DETACH] = { detach, 0 },
	[GW_MON_OP_SUBSCRIBE] = { subscribe, ATTACHED },
	[GW_MON_OP_SET_ACCESS] = { set_access, ATTACHED },
	[GW_MON_OP_SET_ACCESS_LIST] = { set_list, ATTACHED },
	[GW_MON_OP_GET_ACCESS] = { get_access, 0 },
	[GW_MON_OP_VIEWS] = { views, 0 },
	[GW_MON_OP_VIEW_CREATE] = { view_create, 0 },
	[GW_MON_OP_VIEW_DESTROY] = { view_destroy, 0 },
	[GW_MON_OP_VIEW_SWITCH] = { view_switch, 0 },
	[GW_MON_OP_VIEW_VISIBLE] = { view_visible, 0 },
	[GW_MON_OP_VIEW_COUNT] = { view_count, 0 },
	[GW_MON_OP_CHANGE_GFN] = { change_gfn, 0 },
	[GW_MON_OP_WALKS] = { walks, ATTACHED },
	[GW_MON_OP_REQUIRED] = { required, 0 },
	[GW_MON_OP_STEP] = { step, KICK },
	[GW_MON_OP_INJECT] = { inject, KICK },
	[GW_MON_OP_PAUSE] = { pause_all, KICK | SYNC },
	[GW_MON_OP_RESUME] = { resume, KICK },
	[GW_MON_OP_RESUME_ALL] = { resume_all, KICK },
	[GW_MON_OP_INFO] = { info, 0 },
	[GW_MON_OP_VCPU_VIEW] = { vcpu_view, 0 },
	[GW_MON_OP_READ] = { read_memory, UNLOCKED },
	[GW_MON_OP_WRITE] = { write_memory, UNLOCKED },
	[GW_MON_OP_TRANSLATE] = { translate, UNLOCKED },
	[GW_MON_OP_CODE_EACH_REP] = { each_rep, 0 },
	[GW_MON_OP_PULL] = { pull, UNLOCKED },
	[GW_MON_OP_BLANKET] = { blanket, 0 },
	[GW_MON_OP_LOST] = { lost, UNLOCKED },
	[GW_MON_OP_WAKE_FD] = { wake_fd, UNLOCKED },
	[GW_MON_OP_GET_REGS] = { get_regs, UNLOCKED },
	[GW_MON_OP_SET_REGS] = { set_regs, UNLOCKED },
	[GW_MON_OP_MAP] = { map, UNLOCKED },
};

void mon_command(struct monitor *m, const struct gw_mon_cmd *cmd, const void *in, struct gw_mon_reply *reply, void *out)
{
	const struct row *row = cmd->op < GW_MON_N_OPS && rows[cmd->op].fn ? &rows[cmd->op] : NULL;
	size_t out_size = 0;
	struct call c = { .m = m, .a = cmd->a, .r = reply->r, .in = in, .in_size = cmd->size, .out = out, .out_size = &out_size };

	memset(reply, 0, sizeof(*reply));
	if (!row) {
		reply->err = -EOPNOTSUPP;
		return;
	}
	if (!(row->flags & UNLOCKED))
		pthread_mutex_lock(&m->lock);
	reply->err = row->flags & ATTACHED && !atomic_load(&m->is_attached) ? -ENODEV : row->fn(&c);
	if (!(row->flags & UNLOCKED))
		pthread_mutex_unlock(&m->lock);
	reply->size = (uint32_t)out_size;
	if (reply->err)
		return;
	if (cmd->op == GW_MON_OP_DETACH)
		mon_wake_all(m);
	for (unsigned i = 0; row->flags & KICK && i < m->host->n_vcpus(m->vm); i++)
		m->host->kick(m->vm, i);
	for (unsigned i = 0; row->flags & SYNC && !mon_in_callback && i < m->host->n_vcpus(m->vm); i++)
		m->host->sync_vcpu(m->vm, i);
}

void mon_frames_added(struct monitor *m, struct gfn first, uint64_t n)
{
	uint8_t def = atomic_load(&m->view[0]->def);

	if (likely(def == GW_MON_RWX))
		return;
	pthread_mutex_lock(&m->lock);
	if (view_set(m, m->view[0], first.v, n, ENTRY_SET | def))
		mon_logf(m, "monitor: out of memory: new frames at %llx have no default access", (unsigned long long)first.v);
	mon_rearm(m);
	pthread_mutex_unlock(&m->lock);
}
