/* SPDX-License-Identifier: MIT */
/*
 * A monitor's session: reads struct gw_mon_cmd, makes the ioctl, writes struct gw_mon_reply. The peer is the VM's owner, checked when
 * it connected; still nothing it sends is believed: sizes are bounded, and commands for inside the process are refused.
 *
 * The connection is the monitor's life: if it ends while attached, the policy it chose is carried out.
 */
#include "control/session.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "guestward/guestward.h"
#include "guestward/kvm.h"
#include "guestward/monitor.h"

#define MAX_SESSIONS	16u
#define MAX_FDS		(GW_MON_MAX_CHANNEL + 3)

struct session { int fd, vm_fd; bool is_attached; uint8_t payload[GW_MON_MAX_PAYLOAD]; };

static _Atomic unsigned n_sessions;

static bool read_all(int fd, void *buf, size_t n)
{
	uint8_t *p = buf;

	while (n) {
		ssize_t r = recv(fd, p, n, 0);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return false;
		p += r;
		n -= (size_t)r;
	}
	return true;
}

/* The first byte carries the descriptors. */
static bool send_all(int fd, const void *buf, size_t n, const int *fds, unsigned n_fds)
{
	union { struct cmsghdr align; char room[CMSG_SPACE(MAX_FDS * sizeof(int))]; } control = { 0 };
	struct iovec iov = { (void *)(uintptr_t)buf, n };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (n_fds) {
		struct cmsghdr *c;

		m.msg_control = control.room;
		m.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
	}
	while (iov.iov_len) {
		ssize_t r = sendmsg(fd, &m, MSG_NOSIGNAL);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return false;
		iov.iov_base = (uint8_t *)iov.iov_base + r;
		iov.iov_len -= (size_t)r;
		m.msg_control = NULL;
		m.msg_controllen = 0;
	}
	return true;
}

static long command(struct session *s, struct gw_monitor *c, uint32_t op, uint64_t a0)
{
	memset(c, 0, sizeof(*c));
	c->cmd.op = op;
	c->cmd.a[0] = a0;
	return gw_ioctl(s->vm_fd, GW_MONITOR, (unsigned long)(uintptr_t)c);
}

/* Descriptors for the peer; the number, or -errno. */
static int attach(struct session *s, const struct gw_mon_cmd *cmd, struct gw_mon_reply *reply, int fds[MAX_FDS])
{
	struct gw_monitor_attach a = { .door = (uint32_t)cmd->a[0], .policy = (uint32_t)cmd->a[1], .flags = (uint32_t)cmd->a[2],
				       .stall_ms = (uint32_t)cmd->a[3], .spin_us = (uint32_t)cmd->a[4] };
	struct gw_monitor c;
	unsigned n = 0, cpus;
	long err;

	if (a.door != GW_MON_CHANNEL && a.door != GW_MON_XEN)
		return -EINVAL;
	err = command(s, &c, GW_MON_OP_INFO, 0);
	if (err)
		return (int)err;
	cpus = (unsigned)c.reply.r[0];
	if (a.door == GW_MON_CHANNEL && cpus > GW_MON_MAX_CHANNEL)
		return -E2BIG;
	reply->r[0] = cpus;
	reply->r[1] = c.reply.r[1];
	err = gw_ioctl(s->vm_fd, GW_MONITOR_ATTACH, (unsigned long)(uintptr_t)&a);
	if (err)
		return (int)err;
	s->is_attached = true;
	fds[n++] = a.memory_fd;
	fds[n++] = a.event_fd;
	if (a.door == GW_MON_XEN)
		fds[n++] = a.answer_fd;
	for (unsigned i = 0; a.door == GW_MON_CHANNEL && i < cpus; i++) {
		err = command(s, &c, GW_MON_OP_WAKE_FD, i);
		if (err || c.reply.err)
			break;		/* a vCPU made meanwhile: the monitor has no page for it either */
		fds[n++] = (int)c.reply.r[0];
	}
	return (int)n;
}

static bool serve_one(struct session *s)
{
	struct gw_monitor c = { 0 };
	int fds[MAX_FDS], n = 0;
	bool ok;

	if (!read_all(s->fd, &c.cmd, sizeof(c.cmd)) || c.cmd.size > sizeof(s->payload) || !read_all(s->fd, s->payload, c.cmd.size))
		return false;
	if (c.cmd.op == GW_MON_OP_ATTACH) {
		n = s->is_attached ? -EBUSY : attach(s, &c.cmd, &c.reply, fds);
		c.reply.err = n < 0 ? n : 0;
		n = n < 0 ? 0 : n;
	} else if (c.cmd.op == GW_MON_OP_LOST) {
		c.reply.err = -EPERM;
	} else {
		long err;

		c.payload = (uintptr_t)s->payload;
		c.payload_size = GW_MON_PAGE;
		err = gw_ioctl(s->vm_fd, GW_MONITOR, (unsigned long)(uintptr_t)&c);
		if (err == -EBADF)
			return false;	/* the client has closed the VM */
		if (err)
			c.reply = (struct gw_mon_reply){ .err = (int32_t)err };
		if (c.cmd.op == GW_MON_OP_DETACH && !c.reply.err)
			s->is_attached = false;
		if ((c.cmd.op == GW_MON_OP_WAKE_FD || c.cmd.op == GW_MON_OP_MAP) && !c.reply.err)
			fds[n++] = (int)c.reply.r[0];
	}
	ok = send_all(s->fd, &c.reply, sizeof(c.reply), fds, (unsigned)n) && send_all(s->fd, s->payload, c.reply.size, NULL, 0);
	for (int i = 0; i < n; i++)
		close(fds[i]);
	return ok;
}

static void *session_thread(void *arg)
{
	struct session *s = arg;
	struct gw_monitor c;

	while (serve_one(s))
		;
	if (s->is_attached)
		command(s, &c, GW_MON_OP_LOST, 0);
	close(s->fd);
	free(s);
	n_sessions--;
	return NULL;
}

bool control_session(int fd, int vm_fd)
{
	const struct timeval ever = { 0, 0 };
	struct session *s;
	pthread_t t;

	if (vm_fd < 0 || n_sessions >= MAX_SESSIONS)
		return false;
	s = calloc(1, sizeof(*s));
	if (!s)
		return false;
	s->fd = fd;
	s->vm_fd = vm_fd;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &ever, sizeof(ever));
	n_sessions++;
	/* Signals are blocked on this thread already, and its children inherit that. */
	if (pthread_create(&t, NULL, session_thread, s)) {
		n_sessions--;
		free(s);
		return false;
	}
	pthread_detach(t);
	return true;
}
