/* SPDX-License-Identifier: MIT */
/* See cpio.h. Layout: Linux, "initramfs buffer format". All times are 0, so that equal input gives equal archives. */
#include "cpio.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define HEADER_SIZE 110u

struct entry {
	const char *path;
	unsigned mode, links;
	unsigned major, minor;
	const void *data;
	size_t size;
};

static void bytes(struct cpio *c, const void *data, size_t size)
{
	if (!c->failed && blob_append(&c->out, data, size) < 0)
		c->failed = true;
}

static void pad(struct cpio *c)
{
	static const char zeros[4];

	bytes(c, zeros, -c->out.size & 3);
}

static void add(struct cpio *c, const struct entry *e)
{
	size_t name_size = strlen(e->path) + 1;
	char header[HEADER_SIZE + 1];

	if (e->size > UINT32_MAX) {
		c->failed = true;
		return;
	}
	/* magic; inode, mode, uid, gid, links, mtime, size; device; special device; name size; check */
	snprintf(header, sizeof(header), "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", c->inode++, e->mode, 0u,
		 0u, e->links, 0u, (unsigned)e->size, 0u, 0u, e->major, e->minor, (unsigned)name_size, 0u);
	bytes(c, header, HEADER_SIZE);
	bytes(c, e->path, name_size);
	pad(c);
	bytes(c, e->data, e->size);
	pad(c);
}

void cpio_directory(struct cpio *c, const char *path)
{
	add(c, &(struct entry){ .path = path, .mode = S_IFDIR | 0755, .links = 2 });
}

void cpio_file(struct cpio *c, const char *path, unsigned permissions, const void *data, size_t size)
{
	add(c, &(struct entry){ .path = path, .mode = S_IFREG | permissions, .links = 1, .data = data, .size = size });
}

void cpio_symlink(struct cpio *c, const char *path, const char *target)
{
	add(c, &(struct entry){ .path = path, .mode = S_IFLNK | 0777, .links = 1, .data = target, .size = strlen(target) });
}

void cpio_char_device(struct cpio *c, const char *path, unsigned permissions, unsigned major, unsigned minor)
{
	add(c, &(struct entry){ .path = path, .mode = S_IFCHR | permissions, .links = 1, .major = major, .minor = minor });
}

void cpio_finish(struct cpio *c)
{
	static const char zeros[512];

	c->inode = 0;
	add(c, &(struct entry){ .path = "TRAILER!!!", .links = 1 });
	bytes(c, zeros, -c->out.size & 511);
}
