/* SPDX-License-Identifier: MIT */
/* Finding a VM by its domain id, and talking to its control socket. */
#include "client.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "guestward/control.h"

static int by_number(const void *a, const void *b)
{
	int x = *(const int *)a, y = *(const int *)b;

	return (x > y) - (x < y);
}

/* Processes with a control socket: the kernel lists abstract sockets by name, listeners with flags 00010000. */
unsigned xen_processes(int pid[XEN_PROCESSES])
{
	FILE *f = fopen("/proc/net/unix", "re");
	char line[512];
	unsigned n = 0;

	while (f && n < XEN_PROCESSES && fgets(line, sizeof(line), f)) {
		const char *at = strstr(line, " @guestward/");

		if (at && strstr(line, " 00010000 ") && sscanf(at, " @" GW_CONTROL_NAME, &pid[n]) == 1)
			n++;
	}
	if (f)
		fclose(f);
	qsort(pid, n, sizeof(*pid), by_number);
	return n;
}

static int pid_of(uint32_t domid)
{
	int pid[XEN_PROCESSES], found = -1;
	unsigned n = xen_processes(pid);

	for (unsigned i = 0; i < n; i++)
		if ((uint32_t)pid[i] == domid)
			return pid[i];
	for (unsigned i = 0; i < n; i++)
		if (((uint32_t)pid[i] & 0xffff) == domid) {
			if (found >= 0)
				return -1;	/* two of them: say it by place */
			found = pid[i];
		}
	if (found >= 0)
		return found;
	return domid && domid <= n ? pid[domid - 1] : -1;
}

int xen_connect(struct xen_session *s, uint32_t domid)
{
	const char *vm = getenv("GUESTWARD_VM");
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int pid = pid_of(domid), n, n_hello, fd;
	char hello[32];

	if (pid < 0) {
		errno = ESRCH;
		return -1;
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	/* Which VM of the process: the first there is, unless the user says another. */
	n_hello = vm ? snprintf(hello, sizeof(hello), "session vm=%u\n", (unsigned)strtoul(vm, NULL, 10)) : snprintf(hello, sizeof(hello), "session\n");
	n = snprintf(a.sun_path + 1, sizeof(a.sun_path) - 1, GW_CONTROL_NAME, pid);
	if (connect(fd, (struct sockaddr *)&a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n)) ||
	    send(fd, hello, (size_t)n_hello, MSG_NOSIGNAL) != n_hello) {
		int err = errno;

		close(fd);
		errno = err;
		return -1;
	}
	*s = (struct xen_session){ .domid = domid, .fd = fd };
	return 0;
}

void xen_disconnect(struct xen_session *s)
{
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}

static bool send_all(int fd, const void *buf, size_t n)
{
	const uint8_t *p = buf;

	while (n) {
		ssize_t r = send(fd, p, n, MSG_NOSIGNAL);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return false;
		p += r;
		n -= (size_t)r;
	}
	return true;
}

static void take_fds(struct msghdr *m, int *fds, unsigned *n_fds, unsigned max)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (*n_fds < max)
				fds[(*n_fds)++] = fd;
			else
				close(fd);
		}
	}
}

static bool recv_all(int fd, void *buf, size_t n, int *fds, unsigned *n_fds, unsigned max)
{
	union { struct cmsghdr align; char room[CMSG_SPACE(253 * sizeof(int))]; } control;
	uint8_t *p = buf;

	while (n) {
		struct iovec iov = { p, n };
		struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof(control.room) };
		ssize_t r = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return false;
		take_fds(&m, fds, n_fds, max);
		p += r;
		n -= (size_t)r;
	}
	return true;
}

int xen_command(struct xen_session *s, const struct gw_mon_cmd *cmd, const void *payload, struct gw_mon_reply *reply, void *out, int *fds,
		unsigned *n_fds)
{
	struct gw_mon_reply mine;
	unsigned none = 0, max = n_fds ? *n_fds : 0;
	uint8_t page[GW_MON_PAGE];

	if (!reply)
		reply = &mine;
	if (n_fds)
		*n_fds = 0;
	if (!send_all(s->fd, cmd, sizeof(*cmd)) || !send_all(s->fd, payload, cmd->size) ||
	    !recv_all(s->fd, reply, sizeof(*reply), fds, n_fds ? n_fds : &none, max) || reply->size > sizeof(page) ||
	    !recv_all(s->fd, page, reply->size, NULL, &none, 0)) {
		xen_disconnect(s);
		errno = ESRCH;
		return -1;
	}
	if (out)
		memcpy(out, page, reply->size);
	if (!reply->err)
		return 0;
	errno = -reply->err;
	return -1;
}
