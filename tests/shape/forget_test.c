/* SPDX-License-Identifier: MIT */
/*
 * Shape 2: no old right after return, no hang. vCPU threads store through remembered rights, block outside, narrow, and run
 * alone, all at random and under a storm of signals; a thread that is no vCPU narrows and moves a page; a device thread stores.
 * Who took a right away writes a pattern where the others used to store, and looks whether it stays.
 *
 * Arguments: rounds (of all vCPUs together) and seconds, whichever ends first; a name to attack only that one. TAP on stdout.
 * Built also with the thread sanitizer, and as a mutant that does not wait, which must fail.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "protocol.h"

#define PATTERN		0x5a5a5a5a5a5a5a5aull
#define HANG_SECONDS	20

struct run {
	const struct protocol *p;
	struct world world;
	unsigned long rounds_wanted;
	_Atomic unsigned long rounds, stores, refused, narrowed, moved, alone, blocked, host_stores, kicked;
	_Atomic bool stop, broken;
	_Atomic bool busy[SHAPE_PAGES];		/* somebody is narrowing this page */
	pthread_t thread[SHAPE_CPUS];
};

struct seat { struct run *run; unsigned cpu; };

static _Thread_local struct seat *my_seat;

static uint64_t rnd(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s * 0x2545f4914f6cdd1dull >> 20;
}

/* @cells are ours alone: nobody may store there until we are through. */
static void must_be_ours(struct run *r, volatile uint64_t *cells, uint64_t *s)
{
	uint64_t saved[SHAPE_CELLS];

	for (unsigned i = 0; i < SHAPE_CELLS; i++) {
		saved[i] = *SHAPE_CELL(cells, i);
		*SHAPE_CELL(cells, i) = PATTERN;
	}
	for (uint64_t n = rnd(s) & 127; n; n--)
		__asm__ volatile("pause");
	if ((rnd(s) & 15) == 0)
		sched_yield();
	for (unsigned i = 0; i < SHAPE_CELLS; i++) {
		if (*SHAPE_CELL(cells, i) != PATTERN)
			atomic_store(&r->broken, true);
		*SHAPE_CELL(cells, i) = saved[i];
	}
}

static void narrow(struct run *r, int cpu, uint64_t *s)
{
	unsigned page = rnd(s) % SHAPE_PAGES;

	if (atomic_exchange(&r->busy[page], true))
		return;
	atomic_store(&r->world.granted[page], false);
	r->p->forget(&r->world, cpu, page);
	must_be_ours(r, r->p->cells(&r->world, page), s);
	atomic_store(&r->world.granted[page], true);
	atomic_store(&r->busy[page], false);
	atomic_fetch_add(&r->narrowed, 1);
}

static void run_alone(struct run *r, unsigned cpu, uint64_t *s)
{
	bool mine[SHAPE_PAGES];

	r->p->exclusive_begin(&r->world, cpu);
	for (unsigned page = 0; page < SHAPE_PAGES; page++)
		mine[page] = !atomic_exchange(&r->busy[page], true);
	for (unsigned page = 0; page < SHAPE_PAGES; page++) {
		volatile uint64_t *cells = r->p->cells(&r->world, page);

		/* The device thread is no vCPU: its cell is not ours. */
		for (unsigned i = 0; mine[page] && i < SHAPE_CPUS; i++) {
			uint64_t saved = *SHAPE_CELL(cells, i);

			*SHAPE_CELL(cells, i) = PATTERN;
			for (uint64_t n = rnd(s) & 15; n; n--)
				__asm__ volatile("pause");
			if (*SHAPE_CELL(cells, i) != PATTERN)
				atomic_store(&r->broken, true);
			*SHAPE_CELL(cells, i) = saved;
		}
	}
	for (unsigned page = 0; page < SHAPE_PAGES; page++)
		if (mine[page])
			atomic_store(&r->busy[page], false);
	r->p->exclusive_end(&r->world, cpu);
	atomic_fetch_add(&r->alone, 1);
}

static void block_outside(struct run *r, unsigned cpu, uint64_t *s)
{
	r->p->leave(&r->world, cpu);
	if (rnd(s) & 3)
		sched_yield();
	else
		nanosleep(&(struct timespec){ .tv_nsec = (long)(rnd(s) & 0xffff) }, NULL);
	r->p->enter(&r->world, cpu);
	atomic_fetch_add(&r->blocked, 1);
}

static void *vcpu_thread(void *arg)
{
	struct seat *seat = arg;
	struct run *r = seat->run;
	uint64_t s = 0x9e3779b97f4a7c15ull * (seat->cpu + 1);
	unsigned long stores = 0, refused = 0, rounds = 0;

	my_seat = seat;
	r->p->enter(&r->world, seat->cpu);
	while (!atomic_load(&r->stop) && !atomic_load(&r->broken)) {
		for (unsigned i = rnd(&s) & 15; i; i--) {
			if (r->p->store(&r->world, seat->cpu, rnd(&s) % (SHAPE_PAGES + 1)))
				stores++;
			else
				refused++;
		}
		if (r->p->wanted(&r->world, seat->cpu))
			r->p->safe_point(&r->world, seat->cpu);
		switch (rnd(&s) % 256) {
		case 0:
		case 1:
			narrow(r, (int)seat->cpu, &s);
			break;
		case 2:
			run_alone(r, seat->cpu, &s);
			break;
		case 3:
		case 4:
		case 5:
			block_outside(r, seat->cpu, &s);
			break;
		default:
			break;
		}
		if (++rounds % 64 == 0)
			atomic_fetch_add(&r->rounds, 64);
	}
	r->p->leave(&r->world, seat->cpu);
	my_seat = NULL;
	atomic_fetch_add(&r->stores, stores);
	atomic_fetch_add(&r->refused, refused);
	return NULL;
}

/* The client's thread: narrows, and moves the page that moves. */
static void *client_thread(void *arg)
{
	struct run *r = arg;
	uint64_t s = 4711;

	while (!atomic_load(&r->stop) && !atomic_load(&r->broken)) {
		if (rnd(&s) & 1) {
			narrow(r, -1, &s);
		} else {
			must_be_ours(r, r->p->move(&r->world), &s);
			atomic_fetch_add(&r->moved, 1);
		}
		nanosleep(&(struct timespec){ .tv_nsec = (long)(rnd(&s) & 0x7fff) }, NULL);
	}
	return NULL;
}

static void *device_thread(void *arg)
{
	struct run *r = arg;
	uint64_t s = 815;

	while (!atomic_load(&r->stop) && !atomic_load(&r->broken)) {
		if (r->p->host_store(&r->world, rnd(&s) % (SHAPE_PAGES + 1)))
			atomic_fetch_add(&r->host_stores, 1);
		if ((rnd(&s) & 31) == 0)
			nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
	}
	return NULL;
}

static void on_signal(int sig)
{
	struct seat *seat = my_seat;

	if (!seat)
		return;
	seat->run->p->kick(&seat->run->world, seat->cpu);
	atomic_fetch_add(&seat->run->kicked, 1);
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The storm, the clock, and the watch for a hang. */
static bool supervise(struct run *r, double limit)
{
	double begin = seconds(), moved = begin;
	unsigned long last = 0, i = 0;

	while (!atomic_load(&r->broken)) {
		unsigned long now = atomic_load(&r->rounds);

		if (now != last) {
			last = now;
			moved = seconds();
		}
		if (seconds() - moved > HANG_SECONDS)
			return false;
		if (now >= r->rounds_wanted || seconds() - begin > limit)
			break;
		pthread_kill(r->thread[i++ % SHAPE_CPUS], SIGUSR1);
		nanosleep(&(struct timespec){ .tv_nsec = 500000 }, NULL);
	}
	return true;
}

static bool attack(const struct protocol *p, unsigned number, unsigned long rounds, double limit)
{
	static struct run r;
	struct seat seat[SHAPE_CPUS];
	pthread_t client, device;
	bool ok;

	memset(&r, 0, sizeof(r));
	r.p = p;
	r.rounds_wanted = rounds;
	for (unsigned i = 0; i <= SHAPE_PAGES; i++)
		atomic_store(&r.world.granted[i], true);
	if (!p->create(&r.world))
		return false;
	for (unsigned i = 0; i < SHAPE_CPUS; i++) {
		seat[i] = (struct seat){ &r, i };
		if (pthread_create(&r.thread[i], NULL, vcpu_thread, &seat[i]))
			exit(2);
	}
	if (pthread_create(&client, NULL, client_thread, &r) || pthread_create(&device, NULL, device_thread, &r))
		exit(2);
	if (!supervise(&r, limit)) {
		printf("not ok %u - %s: no hang\n# stuck after %lu rounds\n", number, p->name, atomic_load(&r.rounds));
		fflush(stdout);
		_exit(1);
	}
	atomic_store(&r.stop, true);
	for (unsigned i = 0; i < SHAPE_CPUS; i++)
		pthread_join(r.thread[i], NULL);
	pthread_join(client, NULL);
	pthread_join(device, NULL);
	p->destroy(&r.world);
	ok = !atomic_load(&r.broken) && atomic_load(&r.stores) && atomic_load(&r.refused) && atomic_load(&r.narrowed) &&
	     atomic_load(&r.moved) && atomic_load(&r.alone) && atomic_load(&r.host_stores);
	printf("%s %u - %s: no old right is used after forgetting returned\n", ok ? "ok" : "not ok", number, p->name);
	printf("# %lu rounds, %lu stores, %lu refused, %lu narrowed, %lu moved, %lu alone, %lu blocked, %lu device stores, %lu signals\n",
	       atomic_load(&r.rounds), atomic_load(&r.stores), atomic_load(&r.refused), atomic_load(&r.narrowed), atomic_load(&r.moved),
	       atomic_load(&r.alone), atomic_load(&r.blocked), atomic_load(&r.host_stores), atomic_load(&r.kicked));
	fflush(stdout);
	return ok;
}

int main(int argc, char **argv)
{
	static const struct protocol *const protocols[] = { &shape_model, &shape_real };
	unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 0) : 1000000;
	double limit = argc > 2 ? strtod(argv[2], NULL) : 8;
	unsigned number = 0;
	bool ok = true;

	signal(SIGUSR1, on_signal);
	printf("1..%d\n", argc > 3 ? 1 : 2);
	for (unsigned i = 0; i < 2; i++)
		if (argc <= 3 || !strcmp(argv[3], protocols[i]->name))
			ok &= attack(protocols[i], ++number, rounds, limit);
	return ok && number ? 0 : 1;
}
