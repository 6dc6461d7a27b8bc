/* SPDX-License-Identifier: MIT */
/*
 * The two native doors. CALLBACK: a function of the same process, on the vCPU's own thread. CHANNEL: a page of shared memory and
 * an eventfd for each vCPU, so that nobody waits for a slot; everything the other side writes is copied before it is looked at.
 */
#include <errno.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <fcntl.h>
#include <unistd.h>

#include "monitor/private.h"

_Thread_local bool mon_in_callback;

static int callback_open(struct monitor *m, struct gw_monitor_attach *a)
{
	if (!a->callback)
		return -EINVAL;
	m->callback = (gw_mon_callback *)(uintptr_t)a->callback;
	m->opaque = (void *)(uintptr_t)a->opaque;
	return 0;
}

static int callback_send(struct monitor *m, struct mon_vcpu *v, const struct gw_mon_event *ev)
{
	mon_clear(&v->answer, sizeof(v->answer));
	v->answer.seq = ev->seq;
	m->host->foreign(v->cpu, true);
	mon_in_callback = true;
	m->callback(m->opaque, ev, &v->answer);
	mon_in_callback = false;
	m->host->foreign(v->cpu, false);
	if (ev->flags & GW_MON_F_SYNC)
		mon_set_state(v, MON_ANSWERED);
	return 0;
}

const struct mon_door_ops mon_callback_door = { .is_direct = true, .is_own = true, .open = callback_open, .send = callback_send };

/* ---- the channel ------------------------------------------------------------------------------------------------------------------ */

static struct gw_mon_page *page_of(struct monitor *m, const struct mon_vcpu *v)
{
	return v->index < m->n_pages ? (struct gw_mon_page *)(void *)(m->pages + (size_t)v->index * GW_MON_PAGE) : NULL;
}

/* Kept for later sessions: the vCPU may be about to wait for it. Under door_lock. */
static int make_wake_fd(struct mon_vcpu *v)
{
	if (v->wake_fd < 0)
		v->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return v->wake_fd < 0 ? -errno : 0;
}

static int channel_open(struct monitor *m, struct gw_monitor_attach *a)
{
	unsigned n = m->host->n_vcpus(m->vm), room = n > GW_MON_MAX_CHANNEL ? n : GW_MON_MAX_CHANNEL;
	size_t size = (size_t)room * GW_MON_PAGE;	/* pages that nobody touches cost nothing */
	void *p;

	if (!n)
		return -ENODEV;
	m->memory_fd = memfd_create("guestward-monitor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (m->memory_fd < 0)
		return -errno;
	m->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->event_fd < 0 || ftruncate(m->memory_fd, (off_t)size) < 0 ||
	    fcntl(m->memory_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, m->memory_fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	m->pages = p;
	m->n_pages = room;
	for (unsigned i = 0; i < MON_MAX_VCPUS; i++) {
		struct mon_vcpu *v = atomic_load(&m->vcpu[i]);
		int err = v ? make_wake_fd(v) : 0;

		if (err)
			return err;
		if (v)
			v->sent_seq = 0;
	}
	a->n_vcpus = n;
	return 0;
}

static void channel_close(struct monitor *m)
{
	mon_wait_holders(m);
	if (m->pages)
		munmap(m->pages, (size_t)m->n_pages * GW_MON_PAGE);
	m->pages = NULL;
	m->n_pages = 0;
}

/* The page holds one event: the next waits until it has been seen. */
static bool channel_has_room(struct monitor *m, struct mon_vcpu *v)
{
	struct gw_mon_page *p = page_of(m, v);

	if (!p || __atomic_load_n(&p->seen_seq, __ATOMIC_ACQUIRE) == v->sent_seq)
		return true;
	__atomic_store_n(&p->waiting, 1, __ATOMIC_SEQ_CST);
	return __atomic_load_n(&p->seen_seq, __ATOMIC_SEQ_CST) == v->sent_seq;
}

static int channel_prepare(struct monitor *m, struct mon_vcpu *v)
{
	int err;

	if (likely(atomic_load_explicit(&v->wake_fd, memory_order_relaxed) >= 0))
		return 0;
	pthread_mutex_lock(&m->door_lock);
	err = make_wake_fd(v);
	pthread_mutex_unlock(&m->door_lock);
	return err;
}

/* The line that the monitor looks at is written in one go, last: it is wanted back as soon as it changes. */
static void put_event(struct gw_mon_page *p, const struct gw_mon_event *ev, uint64_t seq)
{
	const size_t head = 64 - offsetof(struct gw_mon_page, event);

	mon_copy((uint8_t *)&p->event + head, (const uint8_t *)ev + head, sizeof(*ev) - head);
	memcpy(&p->event, ev, head);
	__atomic_store_n(&p->waiting, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&p->event_seq, seq, __ATOMIC_SEQ_CST);
}

static int channel_send(struct monitor *m, struct mon_vcpu *v, const struct gw_mon_event *ev)
{
	struct gw_mon_page *p = page_of(m, v), *first = (struct gw_mon_page *)(void *)m->pages;
	const uint64_t one = 1;

	if (!p)
		return -ENODEV;
	if (!channel_has_room(m, v))
		return -EAGAIN;
	v->sent_seq++;
	if (unlikely(__atomic_load_n(&first->n_vcpus, __ATOMIC_RELAXED) <= v->index))
		__atomic_store_n(&first->n_vcpus, v->index + 1, __ATOMIC_RELEASE);
	put_event(p, ev, v->sent_seq);
	if (__atomic_load_n(&p->polling, __ATOMIC_SEQ_CST))
		return 0;
	return write(m->event_fd, &one, sizeof(one)) == (ssize_t)sizeof(one) || errno == EAGAIN ? 0 : -errno;
}

/* What its flags name, once. */
static void take_answer(struct gw_mon_answer *to, const struct gw_mon_answer *from, uint64_t seq)
{
	memcpy(to, from, offsetof(struct gw_mon_answer, data));
	to->seq = seq;
	if (to->flags & (GW_MON_ANS_DATA | GW_MON_ANS_CODE))
		memcpy(to->data, from->data, sizeof(to->data));
	else
		to->data_len = 0;
	if (to->flags & GW_MON_ANS_REGS)
		to->regs = from->regs;
}

static int channel_pull(struct monitor *m, struct mon_vcpu *v)
{
	struct gw_mon_page *p = page_of(m, v);

	if (!p)
		return 0;
	if (__atomic_load_n(&p->answer_seq, __ATOMIC_ACQUIRE) != v->seq) {
		/* About to sleep: we say so, and look once more. */
		__atomic_store_n(&p->waiting, 1, __ATOMIC_SEQ_CST);
		if (__atomic_load_n(&p->answer_seq, __ATOMIC_SEQ_CST) != v->seq)
			return 0;
	}
	if (v->state == MON_ASKED) {
		take_answer(&v->answer, &p->answer, v->seq);
		mon_set_state(v, MON_ANSWERED);
	}
	return 0;
}

static bool channel_peek(struct monitor *m, struct mon_vcpu *v)
{
	const struct gw_mon_page *p = page_of(m, v);

	return !p || __atomic_load_n(&p->answer_seq, __ATOMIC_RELAXED) == v->seq;
}

static int channel_fd(struct monitor *m, struct mon_vcpu *v)
{
	(void)m;
	return v->wake_fd;
}

const struct mon_door_ops mon_channel_door = { .is_own = true, .open = channel_open, .close = channel_close, .prepare = channel_prepare, .send = channel_send,
	.has_room = channel_has_room, .pull = channel_pull, .peek = channel_peek, .fd = channel_fd };

int mon_wake_fd(struct monitor *m, unsigned vcpu)
{
	struct mon_vcpu *v = vcpu < MON_MAX_VCPUS ? atomic_load(&m->vcpu[vcpu]) : NULL;
	int fd;

	if (!v)
		return -EINVAL;
	pthread_mutex_lock(&m->door_lock);
	fd = m->ops != &mon_channel_door || make_wake_fd(v) ? -ENODEV : fcntl(v->wake_fd, F_DUPFD_CLOEXEC, 0);
	pthread_mutex_unlock(&m->door_lock);
	return fd == -1 ? -errno : fd;
}
