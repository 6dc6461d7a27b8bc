/* SPDX-License-Identifier: MIT */
/*
 * Which file is mapped at an address of this process. The kernel tells by /proc/self/maps (device, inode, offset), and the client has
 * the file open, as QEMU and `guestward boot` keep theirs: it is found among the descriptors by the same device and inode.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "mem/mem.h"

struct mapping { uintptr_t start, end; uint64_t offset; dev_t dev; ino_t inode; };

static bool shared_mapping_at(uintptr_t address, struct mapping *m)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned long start, end, offset, inode;
	unsigned major, minor;
	bool found = false;
	char *line = NULL, perms[5];
	size_t room = 0;

	while (f && !found && getline(&line, &room, f) > 0) {
		if (sscanf(line, "%lx-%lx %4s %lx %x:%x %lu", &start, &end, perms, &offset, &major, &minor, &inode) != 7 ||
		    address < start || address >= end)
			continue;
		if (perms[3] != 's' || !inode)
			break;
		*m = (struct mapping){ start, end, offset, makedev(major, minor), inode };
		found = true;
	}
	free(line);
	if (f)
		fclose(f);
	return found;
}

/* A descriptor of its own: the client's may be closed, and its access mode is not ours to hand on. */
static int open_again(dev_t dev, ino_t inode, bool read_only)
{
	DIR *dir = opendir("/proc/self/fd");
	const struct dirent *e;
	int fd = -EOPNOTSUPP;

	while (fd < 0 && dir && (e = readdir(dir))) {
		struct stat st;
		char path[64];

		if (e->d_name[0] == '.' || fstat(atoi(e->d_name), &st) || st.st_dev != dev || st.st_ino != inode)
			continue;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", atoi(e->d_name));
		fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
		if (fd >= 0 && (fstat(fd, &st) || st.st_dev != dev || st.st_ino != inode)) {
			close(fd);		/* the number was given to another file meanwhile */
			fd = -1;
		}
		if (fd < 0)
			fd = -EOPNOTSUPP;
	}
	if (dir)
		closedir(dir);
	return fd;
}

int mem_file_of(const uint8_t *hva, uint64_t len, uint64_t at, bool read_only, uint64_t *first, uint64_t *n, uint64_t *offset)
{
	uintptr_t base = (uintptr_t)hva, from, to;
	struct mapping m;

	if (!shared_mapping_at(base + at, &m))
		return -EOPNOTSUPP;
	from = m.start > base ? m.start : base;
	to = m.end < base + len ? m.end : base + len;
	*first = from - base;
	*n = to - from;
	*offset = m.offset + (from - m.start);
	return open_again(m.dev, m.inode, read_only);
}
