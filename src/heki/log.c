/* SPDX-License-Identifier: MIT */
/*
 * The event log: a ring that the client reads when it likes, written by vCPUs while they judge. Counters lose nothing; the ring
 * forgets the oldest, and repeats of the last record only raise its count, so a guest that is denied in a loop fills nothing.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "heki/heki_private.h"

#define MAX_SPINS	100000
#define LINES_A_SECOND	10u

static bool take(struct heki *h)
{
	for (int i = 0; i < MAX_SPINS; i++)
		if (!atomic_flag_test_and_set_explicit(&h->log_lock, memory_order_acquire))
			return true;
	return false;
}

static void give(struct heki *h)
{
	atomic_flag_clear_explicit(&h->log_lock, memory_order_release);
}

static bool is_repeat(const struct heki_event *a, const struct heki_event *b)
{
	return a->kind == HEKI_EV_DENIED && a->kind == b->kind && a->vcpu == b->vcpu && a->reason == b->reason && a->access == b->access &&
	       a->rip == b->rip && a->gpa >> GW_PAGE_SHIFT == b->gpa >> GW_PAGE_SHIFT;
}

void heki_log(struct heki *h, const struct heki_event *e)
{
	struct heki_event *last;

	if (!take(h))
		return;
	last = &h->ring[h->last_seq % N_EVENTS];
	if (h->last_seq && is_repeat(last, e)) {
		last->repeat++;
	} else {
		h->last_seq++;
		last = &h->ring[h->last_seq % N_EVENTS];
		*last = *e;
		last->seq = h->last_seq;
		last->repeat = 0;
	}
	give(h);
}

unsigned heki_events(struct heki *h, uint64_t seq, struct heki_event *out, unsigned max)
{
	unsigned n = 0;

	if (!take(h))
		return 0;
	if (h->last_seq > N_EVENTS && seq < h->last_seq - N_EVENTS)
		seq = h->last_seq - N_EVENTS;
	while (n < max && seq < h->last_seq)
		out[n++] = h->ring[++seq % N_EVENTS];
	give(h);
	return n;
}

void heki_say(struct heki *h, const char *format, ...)
{
	struct timespec now;
	char text[256];
	va_list ap;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	if (atomic_exchange(&h->log_second, (int64_t)now.tv_sec) != (int64_t)now.tv_sec)
		atomic_store(&h->log_lines, 0);
	if (atomic_fetch_add(&h->log_lines, 1) >= LINES_A_SECOND)
		return;
	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	h->host->log(h->vm, text);
}

void heki_counters(struct heki *h, struct heki_counters *out)
{
	uint64_t v[N_COUNTERS];

	for (unsigned i = 0; i < N_COUNTERS; i++)
		v[i] = atomic_load_explicit(&h->counter[i], memory_order_relaxed);
	*out = (struct heki_counters){
		.denied_read = v[N_DENIED_READ], .denied_write = v[N_DENIED_WRITE], .denied_fetch = v[N_DENIED_FETCH],
		.denied_walk = v[N_DENIED_WALK], .denied_pv = v[N_DENIED_PV], .denied_cr = v[N_DENIED_CR], .denied_reg = v[N_DENIED_REG],
		.pokes = v[N_POKES], .sealed = v[N_SEALED], .released = v[N_RELEASED], .hypercalls = v[N_HYPERCALLS],
		.refused = v[N_REFUSED], .exits = v[N_EXITS], .lock_ns = v[N_LOCK_NS], .store_bytes = atomic_load(&h->store.bytes),
	};
}
