/* SPDX-License-Identifier: MIT */
/*
 * Life and sessions: who is attached, what vCPUs look at because of that, and what remains when the monitor goes. Attaching and
 * detaching change a session's number; whatever was meant for one is not for another.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "monitor/private.h"

/* ---- life ---------------------------------------------------------------------------------------------------------------------- */

struct mon_view *mon_view_new(struct monitor *m, unsigned index)
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
	if (!mon_view_new(m, 0)) {
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
	atomic_init(&v->wake_fd, -1);
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

void mon_forget_all(struct monitor *m)
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
	/* In this order: who has seen the number before this one, and the door that went with it, finds nobody. */
	atomic_fetch_add(&m->session, 1);
	atomic_store(&m->is_attached, true);
	mon_rearm(m);
	mon_forget_all(m);
unlock:
	pthread_mutex_unlock(&m->lock);
	return err;
}

void mon_leave_views(struct monitor *m)
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
	mon_forget_all(m);
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

void mon_free_rights(struct monitor *m)
{
	mon_leave_views(m);
	view_clear(m, m->view[0]);
	atomic_store(&m->view[0]->def, GW_MON_RWX);
	m->is_required = false;
	atomic_store(&m->walks, GW_MON_WALKS_REPORT);
}

void mon_lost(struct monitor *m) { mon_lose(m, ""); }

void mon_lose(struct monitor *m, const char *why)
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
		mon_free_rights(m);
	mon_rearm(m);
	mon_forget_all(m);
	pthread_mutex_unlock(&m->lock);
	mon_logf(m, "monitor: lost%s; the guest is %s", why, m->policy == GW_MON_PAUSE ? "paused" : m->policy == GW_MON_STOP ? "stopped" : "released");
	for (unsigned i = 0; m->policy != GW_MON_RELEASE && i < m->host->n_vcpus(m->vm); i++)
		m->host->kick(m->vm, i);
	mon_wake_all(m);
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
