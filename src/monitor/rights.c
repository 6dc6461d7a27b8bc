/* SPDX-License-Identifier: MIT */
/*
 * Commands about rights and views. When one returns no vCPU has more than it says; a change that only gives more is noticed when a
 * vCPU asks. Each checks everything it was given, then acts.
 */
#include <errno.h>

#include "monitor/command.h"

/* Vcpus that use the view forget what it no longer gives; a walk may have used any of the frames. */
static void forget_in(struct monitor *m, const struct mon_view *v, uint64_t first, uint64_t n)
{
	if (!atomic_load(&v->users))
		return;
	if (m->is_walk_judge)
		mon_forget_all(m);
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
int mon_op_set_access(struct mon_call *c)
{
	struct monitor *m = c->m;
	struct mon_view *v = mon_view_at(m, c->a[0]);
	int err;

	if (!v)
		return -EINVAL;
	err = set_range(m, v, c->a[1], c->a[2], c->a[3]);
	if (!err && c->a[2] != ~0ull && c->a[1] != GW_MON_RWX)
		forget_in(m, v, c->a[2], c->a[3]);
	return err;
}

int mon_op_set_list(struct mon_call *c)
{
	struct monitor *m = c->m;
	const struct gw_mon_set *s = c->in;
	struct mon_view *v = mon_view_at(m, c->a[0]);
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

int mon_op_get_access(struct mon_call *c)
{
	struct mon_view *v = mon_view_at(c->m, c->a[0]);
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

int mon_op_views(struct mon_call *c)
{
	struct monitor *m = c->m;

	c->r[0] = m->has_views;
	if (c->a[0] > 1)
		return 0;
	if (c->a[0] && !m->has_views) {
		m->has_views = true;
	} else if (!c->a[0] && m->has_views) {
		mon_leave_views(m);
		view_reclaim(m);
	}
	mon_rearm(m);
	return 0;
}

int mon_op_view_create(struct mon_call *c)
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
		v = mon_view_new(m, i);
		if (!v)
			return -ENOMEM;
		atomic_store(&v->def, (uint8_t)(c->a[0] == GW_MON_DEFAULT ? atomic_load(&m->view[0]->def) : c->a[0]));
		v->used = v->visible = true;
		c->r[0] = i;
		return 0;
	}
	return -EINVAL;
}

int mon_op_view_destroy(struct mon_call *c)
{
	struct monitor *m = c->m;
	struct mon_view *v = mon_view_at(m, c->a[0]);

	if (!m->has_views)
		return -EOPNOTSUPP;
	if (!c->a[0] || !v || atomic_load(&v->users))
		return -EBUSY;
	view_clear(m, v);
	v->used = false;
	return 0;
}

int mon_op_view_switch(struct mon_call *c)
{
	struct monitor *m = c->m;
	struct mon_view *to = mon_view_at(m, c->a[0]);
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
	mon_forget_all(m);
	return 0;
}

int mon_op_view_visible(struct mon_call *c)
{
	struct mon_view *v = mon_view_at(c->m, c->a[0]);

	if (!v || !c->a[0])
		return -EINVAL;
	v->visible = c->a[1];
	return 0;
}

int mon_op_view_count(struct mon_call *c)
{
	if (!c->a[0] || c->a[0] > MON_MAX_VIEWS)
		return -EINVAL;
	for (unsigned i = (unsigned)c->a[0]; i < MON_MAX_VIEWS; i++)
		if (c->m->view[i] && c->m->view[i]->used)
			return -EBUSY;
	c->m->max_views = (unsigned)c->a[0];
	return 0;
}

int mon_op_change_gfn(struct mon_call *c)
{
	struct monitor *m = c->m;
	struct mon_view *v = mon_view_at(m, c->a[0]);
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

int mon_op_walks(struct mon_call *c)
{
	if (c->a[0] > GW_MON_WALKS_DENY)
		return -EINVAL;
	atomic_store(&c->m->walks, (uint32_t)c->a[0]);
	mon_rearm(c->m);
	mon_forget_all(c->m);
	return 0;
}

int mon_op_required(struct mon_call *c)
{
	c->m->is_required = c->a[0];
	mon_rearm(c->m);
	return 0;
}
