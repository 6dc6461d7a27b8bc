/* SPDX-License-Identifier: MIT */
/* Guest memory; see ram.h for the map. */
#include "ram.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bytes.h"

static int create(struct ram *ram, uint64_t size, int fd, struct err *err)
{
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, fd, 0);

	if (p == MAP_FAILED)
		return err_set(err, "cannot reserve %llu MiB of guest memory: %s; use a smaller --memory",
			       (unsigned long long)(size >> 20), strerror(errno));
	/* Best effort: large pages make first touches cheap; a core dump of a guest's memory helps nobody. */
	madvise(p, size, MADV_HUGEPAGE);
	madvise(p, size, MADV_DONTDUMP);
	ram->host = p;
	ram->fd = fd;
	ram->size = size;
	ram->low = size < RAM_LOW_MAX ? size : RAM_LOW_MAX;
	return 0;
}

int ram_create(struct ram *ram, uint64_t size, struct err *err)
{
	return create(ram, size, -1, err);
}

int ram_create_shared(struct ram *ram, uint64_t size, struct err *err)
{
	int fd = memfd_create("guestward-ram", MFD_CLOEXEC), ret;

	if (fd < 0 || ftruncate(fd, (off_t)size)) {
		ret = err_set(err, "cannot make a file of %llu MiB for guest memory: %s", (unsigned long long)(size >> 20), strerror(errno));
		if (fd >= 0)
			close(fd);
		return ret;
	}
	ret = create(ram, size, fd, err);
	if (ret)
		close(fd);
	return ret;
}

void ram_destroy(struct ram *ram)
{
	if (ram->host) {
		munmap(ram->host, ram->size);
		if (ram->fd >= 0)
			close(ram->fd);
	}
	*ram = (struct ram){ .fd = -1 };
}

void *ram_at(const struct ram *ram, uint64_t gpa, uint64_t len)
{
	if (range_ok(gpa, len, ram->low))
		return ram->host + gpa;
	if (gpa >= RAM_HIGH_START && range_ok(gpa - RAM_HIGH_START, len, ram->size - ram->low))
		return ram->host + ram->low + (gpa - RAM_HIGH_START);
	return NULL;
}

void *ram_writable_at(const struct ram *ram, uint64_t gpa, uint64_t len)
{
	void *host = ram_at(ram, gpa, len);

	return host && (!ram->may_write || ram->may_write(ram->opaque, gpa, len)) ? host : NULL;
}
