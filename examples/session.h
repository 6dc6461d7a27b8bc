/* SPDX-License-Identifier: MIT */
/*
 * A monitor's side of a session, for use in other programs: connect to a process that runs VMs, issue commands, attach a channel, be
 * called for each event. Nothing but guestward/control.h and guestward/monitor.h; no library to link.
 *
 * Functions return 0 or -errno. One thread.
 */
#ifndef GW_EXAMPLES_SESSION_H
#define GW_EXAMPLES_SESSION_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <guestward/control.h>
#include <guestward/monitor.h>

struct session {
	int fd;			/* the connection: its end is our end */
	uint8_t *pages;
	unsigned n_vcpus;
	uint64_t highest_gfn;
	bool is_enough;		/* set by a handler: session_serve() returns 0 */
	int event_fd, epoll_fd, wake[GW_MON_MAX_CHANNEL];
	unsigned spins_off, spins_failed;	/* looking found nothing: so many sleeps without it */
	struct gw_mon_answer answer;		/* all zeros between two questions */
};

static inline struct gw_mon_page *session_page(const struct session *s, unsigned vcpu)
{
	return (struct gw_mon_page *)(void *)(s->pages + (size_t)vcpu * GW_MON_PAGE);
}

static inline int session_connect(struct session *s, int pid, unsigned vm)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	char hello[32];
	int n = snprintf(a.sun_path + 1, sizeof(a.sun_path) - 1, GW_CONTROL_NAME, pid), len = snprintf(hello, sizeof(hello), "session vm=%u\n", vm);

	memset(s, 0, sizeof(*s));
	s->event_fd = s->epoll_fd = -1;
	s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s->fd < 0)
		return -errno;
	if (connect(s->fd, (struct sockaddr *)&a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n)) ||
	    send(s->fd, hello, (size_t)len, MSG_NOSIGNAL) != len) {
		int err = -errno;

		close(s->fd);
		return err;
	}
	return 0;
}

static inline int session_send(int fd, const void *buf, size_t n)
{
	for (const char *p = buf; n;) {
		ssize_t r = send(fd, p, n, MSG_NOSIGNAL);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return -EPIPE;
		p += r;
		n -= (size_t)r;
	}
	return 0;
}

/* Up to *n_fds descriptors may come with the bytes. */
static inline int session_receive(int fd, void *buf, size_t n, int *fds, unsigned *n_fds)
{
	union { struct cmsghdr align; char room[CMSG_SPACE(253 * sizeof(int))]; } control;
	unsigned max = n_fds ? *n_fds : 0, got = 0;

	for (char *p = buf; n;) {
		struct iovec iov = { p, n };
		struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof(control.room) };
		ssize_t r = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return -EPIPE;
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
			for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
				int one;

				memcpy(&one, CMSG_DATA(c) + i * sizeof(int), sizeof(one));
				if (got < max)
					fds[got++] = one;
				else
					close(one);
			}
		p += r;
		n -= (size_t)r;
	}
	if (n_fds)
		*n_fds = got;
	return 0;
}

/* @out: room for reply->size bytes, at most GW_MON_PAGE. */
static inline int session_exchange(struct session *s, const struct gw_mon_cmd *c, const void *payload, struct gw_mon_reply *r, void *out,
				   int *fds, unsigned *n_fds)
{
	static char page[GW_MON_PAGE];

	if (session_send(s->fd, c, sizeof(*c)) || session_send(s->fd, payload, c->size) ||
	    session_receive(s->fd, r, sizeof(*r), fds, n_fds) || r->size > sizeof(page) || session_receive(s->fd, page, r->size, NULL, NULL))
		return -EPIPE;
	if (out)
		memcpy(out, page, r->size);
	return r->err;
}

/* @r0: NULL, or where the first result goes. */
static inline int session_command(struct session *s, uint32_t op, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t *r0)
{
	struct gw_mon_cmd c = { .op = op, .a = { a0, a1, a2, a3 } };
	struct gw_mon_reply r;
	int err = session_exchange(s, &c, NULL, &r, NULL, NULL, NULL);

	if (!err && r0)
		*r0 = r.r[0];
	return err;
}

static inline int session_read(struct session *s, uint64_t gpa, void *buf, size_t n)
{
	struct gw_mon_cmd c = { .op = GW_MON_OP_READ, .a = { gpa, n } };
	struct gw_mon_reply r;

	return session_exchange(s, &c, NULL, &r, buf, NULL, NULL);
}

static inline int session_write(struct session *s, uint64_t gpa, const void *buf, size_t n)
{
	struct gw_mon_cmd c = { .op = GW_MON_OP_WRITE, .size = (uint32_t)n, .a = { gpa, n } };
	struct gw_mon_reply r;

	return session_exchange(s, &c, buf, &r, NULL, NULL, NULL);
}

static inline int session_attach(struct session *s, uint32_t policy, uint32_t flags, uint32_t stall_ms, uint32_t spin_us)
{
	struct gw_mon_cmd c = { .op = GW_MON_OP_ATTACH, .a = { GW_MON_CHANNEL, policy, flags, stall_ms, spin_us } };
	int fds[GW_MON_MAX_CHANNEL + 2], err;
	unsigned n = GW_MON_MAX_CHANNEL + 2;
	struct gw_mon_reply r;
	/* By edges: nobody need read the eventfd empty. */
	struct epoll_event told = { .events = EPOLLIN | EPOLLET }, end = { .events = EPOLLRDHUP, .data.u32 = 1 };
	void *p;

	err = session_exchange(s, &c, NULL, &r, NULL, fds, &n);
	if (err)
		return err;
	s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (n < 3 || s->epoll_fd < 0 || epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fds[1], &told) || epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, s->fd, &end))
		return -EPROTO;
	p = mmap(NULL, (size_t)GW_MON_MAX_CHANNEL * GW_MON_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
	if (p == MAP_FAILED)
		return -errno;
	close(fds[0]);
	s->pages = p;
	s->event_fd = fds[1];
	s->n_vcpus = n - 2;
	s->highest_gfn = r.r[1];
	for (unsigned i = 2; i < n; i++)
		s->wake[i - 2] = fds[i];
	return 0;
}

static inline bool session_has_more(const struct session *s)
{
	return __atomic_load_n(&session_page(s, 0)->n_vcpus, __ATOMIC_ACQUIRE) > s->n_vcpus && s->n_vcpus < GW_MON_MAX_CHANNEL;
}

/* vCPUs that were made since, once one of them has spoken. */
static inline int session_more_vcpus(struct session *s)
{
	struct gw_mon_cmd c = { .op = GW_MON_OP_INFO };
	struct gw_mon_reply r;
	int err;

	if (!session_has_more(s))
		return 0;
	err = session_exchange(s, &c, NULL, &r, NULL, NULL, NULL);
	while (!err && s->n_vcpus < r.r[0] && s->n_vcpus < GW_MON_MAX_CHANNEL) {
		struct gw_mon_cmd w = { .op = GW_MON_OP_WAKE_FD, .a = { s->n_vcpus } };
		struct gw_mon_reply wr;
		unsigned one = 1;

		err = session_exchange(s, &w, NULL, &wr, NULL, &s->wake[s->n_vcpus], &one);
		if (!err)
			s->n_vcpus++;
	}
	return err;
}

typedef void session_handler(void *arg, struct session *s, const struct gw_mon_event *ev, struct gw_mon_answer *a);

/* The line that the vCPU looks at is written in one go, last: it is wanted back as soon as it changes. */
static inline void session_answer(struct gw_mon_page *p, const struct gw_mon_answer *a, uint64_t seen, uint64_t asked)
{
	if (a->flags & (GW_MON_ANS_DATA | GW_MON_ANS_CODE))
		memcpy(p->answer.data, a->data, sizeof(a->data));
	if (a->flags & GW_MON_ANS_REGS)
		p->answer.regs = a->regs;
	memcpy(&p->answer, a, offsetof(struct gw_mon_answer, data));
	__atomic_store_n(&p->seen_seq, seen, __ATOMIC_RELAXED);
	__atomic_store_n(&p->answer_seq, asked, __ATOMIC_SEQ_CST);
}

/* What waits is handled: how many there were. */
static inline unsigned session_handle(struct session *s, session_handler *fn, void *arg)
{
	const uint64_t one = 1;
	unsigned n = 0;

	for (unsigned i = 0; i < s->n_vcpus; i++) {
		struct gw_mon_page *p = session_page(s, i);
		uint64_t seq = __atomic_load_n(&p->event_seq, __ATOMIC_ACQUIRE);
		bool is_used = false, is_woken;

		if (seq == __atomic_load_n(&p->seen_seq, __ATOMIC_RELAXED))
			continue;
		n++;
		if (p->event.flags & GW_MON_F_SYNC) {
			/* It stays as it is until it has been seen. */
			fn(arg, s, &p->event, &s->answer);
			session_answer(p, &s->answer, seq, p->event.seq);
			is_used = true;
		} else {
			struct gw_mon_event ev = p->event;
			struct gw_mon_answer none = { 0 };

			__atomic_store_n(&p->seen_seq, seq, __ATOMIC_SEQ_CST);
			fn(arg, s, &ev, &none);
		}
		is_woken = !__atomic_load_n(&p->waiting, __ATOMIC_SEQ_CST) || write(s->wake[i], &one, sizeof(one)) >= 0 || errno == EAGAIN;
		/* While the vCPU works. */
		if (is_used)
			memset(&s->answer, 0, sizeof(s->answer));
		if (!is_woken)
			return n;
	}
	return n;
}

static inline uint64_t session_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static inline void session_polls(struct session *s, uint32_t on)
{
	for (unsigned i = 0; i < s->n_vcpus; i++)
		__atomic_store_n(&session_page(s, i)->polling, on, __ATOMIC_SEQ_CST);
}

/* Looks for events until there was none for @spin_us: how many there were. */
static inline unsigned session_look(struct session *s, unsigned spin_us, session_handler *fn, void *arg)
{
	unsigned found = 0;
	uint64_t end = 0;

	session_polls(s, 1);
	for (;;) {
		unsigned n = 0;

		for (unsigned i = 0; i < 64 && !s->is_enough; i++) {
			n += session_handle(s, fn, arg);
			__builtin_ia32_pause();
		}
		found += n;
		if (s->is_enough || session_has_more(s))
			break;
		/* Events that come one upon the other cost no clock. */
		if (n)
			end = 0;
		else if (!end)
			end = session_now() + spin_us * 1000ull;
		else if (session_now() >= end)
			break;
	}
	session_polls(s, 0);
	return found;
}

/*
 * Handles events until none has come for @timeout_ms (-1: until the connection ends), looking for @spin_us before sleeping each
 * time. 0, also if a handler has set is_enough; -EPIPE: the other side is gone; -EINTR: a signal came.
 */
static inline int session_serve(struct session *s, unsigned spin_us, int timeout_ms, session_handler *fn, void *arg)
{
	for (;;) {
		struct epoll_event e;
		int n;

		if (session_more_vcpus(s))
			return -EPIPE;
		if (spin_us && s->spins_off) {
			s->spins_off--;
		} else if (spin_us) {
			/* No processor is free for the other side, or it has nothing to tell. */
			if (session_look(s, spin_us, fn, arg) > 1)
				s->spins_failed = 0;
			else if (s->spins_failed < 6)
				s->spins_failed++;
			s->spins_off = (1u << s->spins_failed) - 1;
		}
		if (session_handle(s, fn, arg) && !s->is_enough)
			continue;
		if (s->is_enough) {
			s->is_enough = false;
			return 0;
		}
		n = epoll_wait(s->epoll_fd, &e, 1, timeout_ms);
		if (n < 0)
			return -errno;
		if (!n)
			return 0;
		if (e.data.u32)
			return -EPIPE;
	}
}

static inline void session_close(struct session *s)
{
	if (s->pages)
		munmap(s->pages, (size_t)GW_MON_MAX_CHANNEL * GW_MON_PAGE);
	for (unsigned i = 0; i < s->n_vcpus; i++)
		close(s->wake[i]);
	if (s->event_fd >= 0)
		close(s->event_fd);
	if (s->epoll_fd >= 0)
		close(s->epoll_fd);
	close(s->fd);
	memset(s, 0, sizeof(*s));
	s->fd = s->event_fd = s->epoll_fd = -1;
}

#endif
