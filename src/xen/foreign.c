/* SPDX-License-Identifier: MIT */
/*
 * Foreign mapping: a guest's memory in the monitor's own address space. It is the client's memory itself, where that is a file mapped
 * shared (`guestward boot --share-memory`, QEMU's memory-backend-memfd or -file with share=on); a copy would not be what tools
 * rely on, so otherwise it is refused with EOPNOTSUPP. Where a page is, is asked at each call: the client may move its slots.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "handle.h"

#define PAGE		4096u

/* Maps the longest run that begins at frames[0] to @at. Its length, or -1 with errno. */
static long map_run(xc_interface *h, uint32_t dom, int prot, const unsigned long *frames, unsigned num, uint8_t *at)
{
	struct gw_mon_cmd c = { .op = GW_MON_OP_MAP, .a = { frames[0] } };
	struct gw_mon_reply r;
	int fd = -1, err;
	unsigned n = 1;
	uint64_t skip;
	void *p;

	if (xen_run(h, dom, &c, NULL, &r, NULL, &fd))
		return -1;
	skip = frames[0] - r.r[1];
	if (fd < 0 || frames[0] < r.r[1] || skip >= r.r[2]) {
		if (fd >= 0)
			close(fd);
		errno = EPROTO;
		return -1;
	}
	while (n < num && n < r.r[2] - skip && frames[n] == frames[0] + n)
		n++;
	p = mmap(at, (size_t)n * PAGE, prot, MAP_SHARED | MAP_FIXED, fd, (off_t)(r.r[3] + skip * PAGE));
	err = errno;
	close(fd);
	errno = err;
	return p == MAP_FAILED ? -1 : (long)n;
}

static uint8_t *reserve(unsigned num)
{
	void *p;

	if (!num || num > 1u << 28) {
		errno = EINVAL;
		return NULL;
	}
	p = mmap(NULL, (size_t)num * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

API void *xc_map_foreign_bulk(xc_interface *h, uint32_t dom, int prot, const unsigned long *frames, int *err, unsigned num);
void *xc_map_foreign_bulk(xc_interface *h, uint32_t dom, int prot, const unsigned long *frames, int *err, unsigned num)
{
	uint8_t *p = reserve(num);

	for (unsigned i = 0; p && i < num;) {
		long n = map_run(h, dom, prot, frames + i, num - i, p + (size_t)i * PAGE);

		if (n < 0) {
			err[i++] = errno ? errno : EINVAL;
			continue;
		}
		while (n--)
			err[i++] = 0;
	}
	return p;
}

API void *xc_map_foreign_pages(xc_interface *h, uint32_t dom, int prot, const unsigned long *frames, int num);
void *xc_map_foreign_pages(xc_interface *h, uint32_t dom, int prot, const unsigned long *frames, int num)
{
	uint8_t *p = reserve(num > 0 ? (unsigned)num : 0);

	for (int i = 0; p && i < num;) {
		long n = map_run(h, dom, prot, frames + i, (unsigned)(num - i), p + (size_t)i * PAGE);

		if (n < 0) {
			int err = errno;

			munmap(p, (size_t)num * PAGE);
			errno = err;
			return NULL;
		}
		i += (int)n;
	}
	return p;
}

API void *xc_map_foreign_range(xc_interface *h, uint32_t dom, int size, int prot, unsigned long first);
void *xc_map_foreign_range(xc_interface *h, uint32_t dom, int size, int prot, unsigned long first)
{
	unsigned num = size > 0 ? ((unsigned)size + PAGE - 1) / PAGE : 0;
	uint8_t *p = reserve(num);

	for (unsigned i = 0; p && i < num; i++) {
		unsigned long frame = first + i;

		if (map_run(h, dom, prot, &frame, 1, p + (size_t)i * PAGE) < 0) {
			int err = errno;

			munmap(p, (size_t)num * PAGE);
			errno = err;
			return NULL;
		}
	}
	return p;
}
