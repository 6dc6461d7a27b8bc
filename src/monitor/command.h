/* SPDX-License-Identifier: MIT */
/* What the files of the commands share: a call, and the commands about rights and views, which are in rights.c. With monitor.lock held. */
#ifndef GW_MONITOR_COMMAND_H
#define GW_MONITOR_COMMAND_H

#include "monitor/private.h"

struct mon_call { struct monitor *m; const uint64_t *a; uint64_t *r; const void *in; size_t in_size; void *out; size_t *out_size; };

static inline struct mon_view *mon_view_at(struct monitor *m, uint64_t index)
{
	struct mon_view *v = index < m->max_views ? m->view[index] : NULL;

	return v && v->used ? v : NULL;
}

static inline struct mon_vcpu *mon_vcpu_at(struct monitor *m, uint64_t index)
{
	return index < m->host->n_vcpus(m->vm) ? atomic_load(&m->vcpu[index]) : NULL;
}

int mon_op_set_access(struct mon_call *c);
int mon_op_set_list(struct mon_call *c);
int mon_op_get_access(struct mon_call *c);
int mon_op_views(struct mon_call *c);
int mon_op_view_create(struct mon_call *c);
int mon_op_view_destroy(struct mon_call *c);
int mon_op_view_switch(struct mon_call *c);
int mon_op_view_visible(struct mon_call *c);
int mon_op_view_count(struct mon_call *c);
int mon_op_change_gfn(struct mon_call *c);
int mon_op_walks(struct mon_call *c);
int mon_op_required(struct mon_call *c);

#endif
