/* SPDX-License-Identifier: MIT */
/* The handle that libxenctrl's callers hold, for the files of its stand-in. */
#ifndef GW_XEN_HANDLE_H
#define GW_XEN_HANDLE_H

#include "client.h"

#define API __attribute__((visibility("default")))

typedef struct xc_interface_core {
	struct xen_session s;
	bool is_open, is_attached;
	void *ring;
	uint32_t port;
	/* Gathered: rights of pages in a view. */
	uint16_t view, access;
	uint64_t first, count;
} xc_interface;

/* Both 0, or -1 with errno. */
int xen_open_domain(xc_interface *h, uint32_t dom);
/* @fd: NULL, or where the descriptor that comes with the reply goes. */
int xen_run(xc_interface *h, uint32_t dom, const struct gw_mon_cmd *c, const void *payload, struct gw_mon_reply *reply, void *out, int *fd);

#endif
