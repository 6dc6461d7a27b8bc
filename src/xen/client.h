/* SPDX-License-Identifier: MIT */
/*
 * What the replacement libraries for Xen's share: a session with a VM of Guestward (guestward/monitor.h) found by a domain id. A
 * domain id is the process id of whoever runs the VM; its lower 16 bits, since Xen's tools keep no more; or, counted from 1,
 * the place in the list of processes that `guestward dump` prints.
 */
#ifndef GW_XEN_CLIENT_H
#define GW_XEN_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "guestward/monitor.h"

struct xen_session { uint32_t domid; int fd; };

#define XEN_PROCESSES	256u
/* Processes with a control socket, ascending; the number. */
unsigned xen_processes(int pid[XEN_PROCESSES]);
/* 0 or -1 with errno. */
int xen_connect(struct xen_session *s, uint32_t domid);
void xen_disconnect(struct xen_session *s);
/* 0 or -1 with errno; @reply may be NULL. @fds: descriptors that came with the reply, *n_fds of them. */
int xen_command(struct xen_session *s, const struct gw_mon_cmd *cmd, const void *payload, struct gw_mon_reply *reply, void *out, int *fds,
		unsigned *n_fds);

/* Ports of this process; libxenevtchn asks libxenctrl for them. */
#define XEN_PORTS	16u
bool gw_xen_port(uint32_t port, int *event_fd, int *answer_fd);

#endif
