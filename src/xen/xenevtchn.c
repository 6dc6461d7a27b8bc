/* SPDX-License-Identifier: MIT */
/*
 * libxenevtchn for monitors: a port is one pending bit, a pair of eventfds that libxenctrl's replacement got with the ring. After
 * pending() a port is masked until unmask(). Built twice: libxenctrl has the same under older names, xc_evtchn_*.
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "client.h"

#define API __attribute__((visibility("default")))
#ifdef GW_XC_EVTCHN
#define NAME(what)	xc_evtchn_##what
#else
#define NAME(what)	xenevtchn_##what
#endif

typedef struct xenevtchn_handle {
	int epoll_fd;
	struct { bool bound; int event_fd, answer_fd; } port[XEN_PORTS];
} xenevtchn_handle;

API xenevtchn_handle *NAME(open)(void *logger, unsigned flags);
xenevtchn_handle *NAME(open)(void *logger, unsigned flags)
{
	xenevtchn_handle *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	h->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (h->epoll_fd < 0) {
		free(h);
		return NULL;
	}
	return h;
}

API int NAME(close)(xenevtchn_handle *h);
int NAME(close)(xenevtchn_handle *h)
{
	if (!h)
		return 0;
	for (unsigned i = 0; i < XEN_PORTS; i++)
		if (h->port[i].bound) {
			close(h->port[i].event_fd);
			close(h->port[i].answer_fd);
		}
	close(h->epoll_fd);
	free(h);
	return 0;
}

API int NAME(fd)(xenevtchn_handle *h);
int NAME(fd)(xenevtchn_handle *h)
{
	return h->epoll_fd;
}

static bool is_bound(const xenevtchn_handle *h, uint32_t port)
{
	if (port < XEN_PORTS && h->port[port].bound)
		return true;
	errno = EINVAL;
	return false;
}

API int NAME(bind_interdomain)(xenevtchn_handle *h, uint32_t domid, uint32_t remote);
int NAME(bind_interdomain)(xenevtchn_handle *h, uint32_t domid, uint32_t remote)
{
	bool (*find)(uint32_t, int *, int *) = (bool (*)(uint32_t, int *, int *))(uintptr_t)dlsym(RTLD_DEFAULT, "gw_xen_port");
	struct epoll_event e = { .events = EPOLLIN, .data.u32 = remote };
	int event_fd, answer_fd;

	if (!find || !find(remote, &event_fd, &answer_fd) || h->port[remote].bound) {
		errno = EINVAL;
		return -1;
	}
	event_fd = dup(event_fd);
	answer_fd = dup(answer_fd);
	if (event_fd < 0 || answer_fd < 0 || epoll_ctl(h->epoll_fd, EPOLL_CTL_ADD, event_fd, &e))
		return -1;
	h->port[remote].event_fd = event_fd;
	h->port[remote].answer_fd = answer_fd;
	h->port[remote].bound = true;
	return (int)remote;
}

API int NAME(unbind)(xenevtchn_handle *h, uint32_t port);
int NAME(unbind)(xenevtchn_handle *h, uint32_t port)
{
	if (!is_bound(h, port))
		return -1;
	epoll_ctl(h->epoll_fd, EPOLL_CTL_DEL, h->port[port].event_fd, NULL);
	close(h->port[port].event_fd);
	close(h->port[port].answer_fd);
	h->port[port].bound = false;
	return 0;
}

API int NAME(pending)(xenevtchn_handle *h);
int NAME(pending)(xenevtchn_handle *h)
{
	struct epoll_event e, off = { 0 };
	uint64_t count;

	while (epoll_wait(h->epoll_fd, &e, 1, -1) != 1)
		if (errno != EINTR)
			return -1;
	if (!is_bound(h, e.data.u32))
		return -1;
	off.data.u32 = e.data.u32;
	if (read(h->port[e.data.u32].event_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		return -1;
	epoll_ctl(h->epoll_fd, EPOLL_CTL_MOD, h->port[e.data.u32].event_fd, &off);
	return (int)e.data.u32;
}

API int NAME(unmask)(xenevtchn_handle *h, uint32_t port);
int NAME(unmask)(xenevtchn_handle *h, uint32_t port)
{
	struct epoll_event e = { .events = EPOLLIN, .data.u32 = port };

	return is_bound(h, port) ? epoll_ctl(h->epoll_fd, EPOLL_CTL_MOD, h->port[port].event_fd, &e) : -1;
}

API int NAME(notify)(xenevtchn_handle *h, uint32_t port);
int NAME(notify)(xenevtchn_handle *h, uint32_t port)
{
	const uint64_t one = 1;

	if (!is_bound(h, port))
		return -1;
	return write(h->port[port].answer_fd, &one, sizeof(one)) == (ssize_t)sizeof(one) || errno == EAGAIN ? 0 : -1;
}
