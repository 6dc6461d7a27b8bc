/* SPDX-License-Identifier: MIT */
/* The real system calls on the kernel's /dev/kvm; see backend.h. Opened only when --backend=kvm asks for it. */
#include "backend.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static int kvm_open(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static long kvm_ioctl(int fd, unsigned long request, unsigned long arg)
{
	int ret = ioctl(fd, request, arg);

	return ret < 0 ? -errno : ret;
}

static void *kvm_map(int fd, size_t length, int *error)
{
	void *p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (p != MAP_FAILED)
		return p;
	*error = -errno;
	return NULL;
}

static int kvm_close(int fd)
{
	return close(fd) < 0 ? -errno : 0;
}

const struct backend backend_kvm = {
	.name = "kvm",
	.open = kvm_open,
	.ioctl = kvm_ioctl,
	.map = kvm_map,
	.close = kvm_close,
};
