/* SPDX-License-Identifier: MIT */
/* KVM calls that go to libguestward; see backend.h. */
#include "backend.h"

#include <sys/mman.h>

#include <guestward/guestward.h>

static void *gw_map(int fd, size_t length, int *error)
{
	return gw_mmap(length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0, error);
}

const struct backend backend_guestward = {
	.name = "guestward",
	.open = gw_open,
	.ioctl = gw_ioctl,
	.map = gw_map,
	.close = gw_close,
};
