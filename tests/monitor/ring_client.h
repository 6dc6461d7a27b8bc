/* SPDX-License-Identifier: MIT */
/* A monitor behind Xen's ring, on a thread of its own that knows nothing but the shared page and two descriptors. */
#ifndef GW_TESTS_MONITOR_RING_CLIENT_H
#define GW_TESTS_MONITOR_RING_CLIENT_H

#include "rig.h"

#include <pthread.h>

#include "monitor/xen_abi.h"

struct client {
	struct rig r;
	int event_fd, answer_fd;
	struct xen_ring *ring;
	uint32_t req_cons, rsp_prod;
	pthread_t thread;
	_Atomic bool stop;
	_Atomic unsigned n;
	struct xen_event last;
	/* Makes the response out of the request; false: there is none. */
	bool (*respond)(struct client *c, struct xen_event *e);
	uint32_t flags;
};

void ring_attach(struct client *c, unsigned cpus, uint32_t policy);
void client_start(struct client *c);
void client_end(struct client *c);
void notify(int fd);
/* A response that is the request, with client.flags. */
bool same(struct client *c, struct xen_event *e);

#endif
