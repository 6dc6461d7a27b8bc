/* SPDX-License-Identifier: MIT */
#include "ring_client.h"

#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

void ring_attach(struct client *c, unsigned cpus, uint32_t policy)
{
	struct gw_monitor_attach a = { .door = GW_MON_XEN, .policy = policy };

	memset(c, 0, sizeof(*c));
	rig_open(&c->r, cpus);
	assert_int_equal(gw_ioctl(c->r.vm, GW_MONITOR_ATTACH, (uintptr_t)&a), 0);
	c->ring = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, a.memory_fd, 0);
	assert_true(c->ring != MAP_FAILED);
	close(a.memory_fd);
	c->event_fd = a.event_fd;
	c->answer_fd = a.answer_fd;
}

void notify(int fd)
{
	const uint64_t one = 1;

	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

static void *client_thread(void *arg)
{
	struct client *c = arg;

	while (!c->stop) {
		struct pollfd p = { .fd = c->event_fd, .events = POLLIN };
		uint64_t count;

		if (poll(&p, 1, 20) == 1 && read(c->event_fd, &count, sizeof(count)) < 0)
			continue;
		while (!c->stop && c->req_cons != __atomic_load_n(&c->ring->req_prod, __ATOMIC_ACQUIRE)) {
			struct xen_event e = c->ring->slot[c->req_cons++ % XEN_RING_SLOTS];

			c->last = e;
			c->n++;
			if (!c->respond(c, &e))
				continue;
			c->ring->slot[c->rsp_prod % XEN_RING_SLOTS] = e;
			__atomic_store_n(&c->ring->rsp_prod, ++c->rsp_prod, __ATOMIC_RELEASE);
		}
		notify(c->answer_fd);	/* always, as xen-access does */
	}
	return NULL;
}

bool same(struct client *c, struct xen_event *e)
{
	e->flags |= c->flags;
	return true;
}

void client_start(struct client *c)
{
	assert_int_equal(pthread_create(&c->thread, NULL, client_thread, c), 0);
}

void client_end(struct client *c)
{
	c->stop = true;
	pthread_join(c->thread, NULL);
	munmap(c->ring, 4096);
	close(c->event_fd);
	close(c->answer_fd);
	rig_close(&c->r);
}
