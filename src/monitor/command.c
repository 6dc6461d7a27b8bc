/* SPDX-License-Identifier: MIT */
/*
 * Commands. Each checks everything it was given, then acts; rows of a table say what it needs. All are for the VM's owner: who may
 * speak at all is decided at the control socket. Those about rights and views are in rights.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "monitor/command.h"

/* ---- commands ------------------------------------------------------------------------------------------------------------------ */

static int detach(struct mon_call *c)
{
	struct monitor *m = c->m;

	if (!atomic_load(&m->is_attached))
		return -EINVAL;
	mon_end_session(m);
	if (c->a[0])
		mon_free_rights(m);
	mon_rearm(m);
	mon_forget_all(m);
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

static int subscribe(struct mon_call *c)
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

static int step(struct mon_call *c)
{
	struct mon_vcpu *v = mon_vcpu_at(c->m, c->a[0]);

	if (!v)
		return -EINVAL;
	atomic_store(&v->step, c->a[1] && atomic_load(&c->m->is_attached) ? atomic_load(&c->m->session) : 0);
	return 0;
}

static int inject(struct mon_call *c)
{
	struct mon_vcpu *v = mon_vcpu_at(c->m, c->a[0]);
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

static int pause_all(struct mon_call *c)
{
	each_vcpu(c->m, 1);
	return 0;
}

static int resume(struct mon_call *c)
{
	each_vcpu(c->m, -1);
	return 0;
}

static int resume_all(struct mon_call *c)
{
	atomic_store(&c->m->is_policy_pause, false);
	atomic_store(&c->m->is_stopped, false);
	each_vcpu(c->m, 0);
	return 0;
}

static int info(struct mon_call *c)
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

static int vcpu_view(struct mon_call *c)
{
	struct mon_vcpu *v = mon_vcpu_at(c->m, c->a[0]);

	if (!v)
		return -EINVAL;
	c->r[0] = atomic_load(&v->view);
	return 0;
}

static bool one_page(const uint64_t *a)
{
	return a[1] && a[1] <= GW_PAGE_SIZE && (a[0] & GW_PAGE_MASK) + a[1] <= GW_PAGE_SIZE;
}

static int read_memory(struct mon_call *c)
{
	if (!one_page(c->a))
		return -EINVAL;
	if (!c->m->host->read(c->m->vm, GPA(c->a[0]), c->out, c->a[1]))
		return -ESRCH;
	*c->out_size = c->a[1];
	return 0;
}

static int write_memory(struct mon_call *c)
{
	if (!one_page(c->a) || c->in_size < c->a[1])
		return -EINVAL;
	return c->m->host->write(c->m->vm, GPA(c->a[0]), c->in, c->a[1]) ? 0 : -ESRCH;
}

static int translate(struct mon_call *c)
{
	if (!mon_vcpu_at(c->m, c->a[0]))
		return -EINVAL;
	return c->m->host->translate_vcpu(c->m->vm, (unsigned)c->a[0], c->a[1], &c->r[0]) ? 0 : -ESRCH;
}

/* On the thread of a vCPU whose monitor is asking: waiting for another one, or for itself, could be for ever. */
static int get_regs(struct mon_call *c)
{
	struct gw_mon_regs r = { 0 };

	if (mon_in_callback)
		return -EDEADLK;
	if (!mon_vcpu_at(c->m, c->a[0]))
		return -EINVAL;
	c->m->host->get_vcpu(c->m->vm, (unsigned)c->a[0], &r);
	memcpy(c->out, &r, sizeof(r));
	*c->out_size = sizeof(r);
	return 0;
}

static int set_regs(struct mon_call *c)
{
	struct gw_mon_regs r;

	if (mon_in_callback)
		return -EDEADLK;
	if (!mon_vcpu_at(c->m, c->a[0]) || c->in_size != sizeof(r))
		return -EINVAL;
	memcpy(&r, c->in, sizeof(r));
	return c->m->host->set_vcpu(c->m->vm, (unsigned)c->a[0], &r);
}

static int map(struct mon_call *c)
{
	struct gfn first = GFN(0);
	int fd = c->m->host->map(c->m->vm, GFN(c->a[0]), &first, &c->r[2], &c->r[3]);

	c->r[0] = (uint64_t)fd;
	c->r[1] = first.v;
	return fd < 0 ? fd : 0;
}

static int each_rep(struct mon_call *c)
{
	(void)c;
	return 0;
}

static int pull(struct mon_call *c)
{
	int err = 0;

	pthread_mutex_lock(&c->m->door_lock);
	if (atomic_load(&c->m->is_attached) && c->m->door == GW_MON_XEN)
		err = c->m->ops->pull(c->m, NULL);
	pthread_mutex_unlock(&c->m->door_lock);
	return err;
}

static int blanket(struct mon_call *c)
{
	atomic_store(&c->m->blanket, !!c->a[0]);
	return 0;
}

static int lost(struct mon_call *c)
{
	mon_lost(c->m);
	return 0;
}

static int wake_fd(struct mon_call *c)
{
	int fd = c->a[0] < MON_MAX_VCPUS ? mon_wake_fd(c->m, (unsigned)c->a[0]) : -EINVAL;

	c->r[0] = (uint64_t)fd;
	return fd < 0 ? fd : 0;
}

#define ATTACHED	1u	/* -ENODEV without a monitor */
#define UNLOCKED	2u	/* without monitor.lock: waits for a vCPU */
#define KICK		4u	/* vCPUs are made to notice */
#define SYNC		8u	/* and have noticed when it returns, unless a callback asked */

static const struct row { int (*fn)(struct mon_call *c); unsigned flags; } rows[GW_MON_N_OPS] = {
	[GW_MON_OP_DETACH] = { detach, 0 },
	[GW_MON_OP_SUBSCRIBE] = { subscribe, ATTACHED },
	[GW_MON_OP_SET_ACCESS] = { mon_op_set_access, ATTACHED },
	[GW_MON_OP_SET_ACCESS_LIST] = { mon_op_set_list, ATTACHED },
	[GW_MON_OP_GET_ACCESS] = { mon_op_get_access, 0 },
	[GW_MON_OP_VIEWS] = { mon_op_views, 0 },
	[GW_MON_OP_VIEW_CREATE] = { mon_op_view_create, 0 },
	[GW_MON_OP_VIEW_DESTROY] = { mon_op_view_destroy, 0 },
	[GW_MON_OP_VIEW_SWITCH] = { mon_op_view_switch, 0 },
	[GW_MON_OP_VIEW_VISIBLE] = { mon_op_view_visible, 0 },
	[GW_MON_OP_VIEW_COUNT] = { mon_op_view_count, 0 },
	[GW_MON_OP_CHANGE_GFN] = { mon_op_change_gfn, 0 },
	[GW_MON_OP_WALKS] = { mon_op_walks, ATTACHED },
	[GW_MON_OP_REQUIRED] = { mon_op_required, 0 },
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
	struct mon_call c = { .m = m, .a = cmd->a, .r = reply->r, .in = in, .in_size = cmd->size, .out = out, .out_size = &out_size };

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
