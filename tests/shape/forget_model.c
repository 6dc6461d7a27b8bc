/* SPDX-License-Identifier: MIT */
/*
 * The model: what access/forget.c does, reduced to what must be true. A vCPU is running or not; every way to running goes
 * through resume(), which empties what was remembered; who narrows waits until no vCPU that ran then runs on unanswered.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "protocol.h"

/* The mutant is for tests/shape, which must notice. */
#ifdef ACC_MUTANT_NO_WAIT
#define MUST_WAIT	0
#else
#define MUST_WAIT	1
#endif

struct model_cpu {
	_Atomic bool wanted;
	bool running, inside;
	uint64_t answered;
	volatile uint64_t *remembered[SHAPE_PAGES + 1];
};

struct model {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	pthread_rwlock_t host;
	uint64_t ticket;
	int exclusive;		/* -1: nobody */
	_Atomic unsigned place;	/* of the moving page */
	struct model_cpu cpu[SHAPE_CPUS];
	uint64_t memory[SHAPE_PAGES + 2][SHAPE_CELLS * 8];
};

static volatile uint64_t *where(struct model *m, unsigned page)
{
	return m->memory[page == SHAPE_MOVING ? page + atomic_load(&m->place) : page];
}

static bool create(struct world *w)
{
	struct model *m = calloc(1, sizeof(*m));

	if (!m)
		return false;
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->changed, NULL);
	pthread_rwlock_init(&m->host, NULL);
	m->exclusive = -1;
	w->impl = m;
	return true;
}

static void destroy(struct world *w)
{
	free(w->impl);
}

static void park(struct model *m, unsigned cpu)
{
	m->cpu[cpu].running = false;
	pthread_cond_broadcast(&m->changed);
}

static void resume(struct model *m, unsigned cpu)
{
	while (m->exclusive >= 0 && m->exclusive != (int)cpu)
		pthread_cond_wait(&m->changed, &m->lock);
	atomic_store(&m->cpu[cpu].wanted, false);
	memset((void *)m->cpu[cpu].remembered, 0, sizeof(m->cpu[cpu].remembered));
	m->cpu[cpu].answered = m->ticket;
	m->cpu[cpu].running = true;
}

static bool anyone_runs(const struct model *m, int but, uint64_t unanswered)
{
	for (int i = 0; i < SHAPE_CPUS; i++)
		if (i != but && m->cpu[i].running && m->cpu[i].answered < unanswered)
			return true;
	return false;
}

static void want_all(struct model *m)
{
	for (unsigned i = 0; i < SHAPE_CPUS; i++)
		atomic_store(&m->cpu[i].wanted, true);
}

static void enter(struct world *w, unsigned cpu)
{
	struct model *m = w->impl;

	pthread_mutex_lock(&m->lock);
	resume(m, cpu);
	m->cpu[cpu].inside = true;
	pthread_mutex_unlock(&m->lock);
}

static void leave(struct world *w, unsigned cpu)
{
	struct model *m = w->impl;

	pthread_mutex_lock(&m->lock);
	m->cpu[cpu].inside = false;
	park(m, cpu);
	pthread_mutex_unlock(&m->lock);
}

static bool wanted(struct world *w, unsigned cpu)
{
	struct model *m = w->impl;

	return atomic_load(&m->cpu[cpu].wanted);
}

static void safe_point(struct world *w, unsigned cpu)
{
	struct model *m = w->impl;

	pthread_mutex_lock(&m->lock);
	park(m, cpu);
	resume(m, cpu);
	pthread_mutex_unlock(&m->lock);
}

static void kick(struct world *w, unsigned cpu)
{
	struct model *m = w->impl;

	atomic_store(&m->cpu[cpu].wanted, true);
}

static bool store(struct world *w, unsigned cpu, unsigned page)
{
	struct model *m = w->impl;
	volatile uint64_t **known = (volatile uint64_t **)&m->cpu[cpu].remembered[page];

	if (!*known) {
		if (!atomic_load(&w->granted[page]))
			return false;
		*known = where(m, page);
	}
	*SHAPE_CELL(*known, cpu) += 1;
	return true;
}

static bool host_store(struct world *w, unsigned page)
{
	struct model *m = w->impl;
	bool granted;

	pthread_rwlock_rdlock(&m->host);
	granted = atomic_load(&w->granted[page]);
	if (granted)
		*SHAPE_CELL(where(m, page), SHAPE_HOST) += 1;
	pthread_rwlock_unlock(&m->host);
	return granted;
}

static void forget_all(struct model *m, int cpu)
{
	bool was_running;
	uint64_t ticket;

	pthread_mutex_lock(&m->lock);
	ticket = ++m->ticket;
	want_all(m);
	was_running = cpu >= 0 && m->cpu[cpu].running;
	if (was_running)
		park(m, (unsigned)cpu);
	while (MUST_WAIT && anyone_runs(m, cpu, ticket))
		pthread_cond_wait(&m->changed, &m->lock);
	if (was_running)
		resume(m, (unsigned)cpu);
	pthread_mutex_unlock(&m->lock);
	pthread_rwlock_wrlock(&m->host);
	pthread_rwlock_unlock(&m->host);
}

static void forget(struct world *w, int cpu, unsigned page)
{
	forget_all(w->impl, cpu);
}

static volatile uint64_t *move(struct world *w)
{
	struct model *m = w->impl;
	unsigned old = atomic_load(&m->place);

	atomic_store(&m->place, !old);
	forget_all(m, -1);
	return m->memory[SHAPE_MOVING + old];
}

static void exclusive_begin(struct world *w, unsigned cpu)
{
	struct model *m = w->impl;

	pthread_mutex_lock(&m->lock);
	park(m, cpu);
	while (m->exclusive >= 0)
		pthread_cond_wait(&m->changed, &m->lock);
	m->exclusive = (int)cpu;
	want_all(m);
	while (anyone_runs(m, (int)cpu, ~0ull))
		pthread_cond_wait(&m->changed, &m->lock);
	resume(m, cpu);
	pthread_mutex_unlock(&m->lock);
}

static void exclusive_end(struct world *w, unsigned cpu)
{
	struct model *m = w->impl;

	pthread_mutex_lock(&m->lock);
	m->exclusive = -1;
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
}

static volatile uint64_t *cells(struct world *w, unsigned page)
{
	return where(w->impl, page);
}

const struct protocol shape_model = {
	.name = "model", .create = create, .destroy = destroy, .enter = enter, .leave = leave, .wanted = wanted,
	.safe_point = safe_point, .kick = kick, .store = store, .host_store = host_store, .forget = forget, .move = move,
	.exclusive_begin = exclusive_begin, .exclusive_end = exclusive_end, .cells = cells,
};
