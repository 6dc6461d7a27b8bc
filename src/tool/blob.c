/* SPDX-License-Identifier: MIT */
/* Bytes we own; see blob.h. */
#include "blob.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int blob_reserve(struct blob *blob, size_t extra)
{
	size_t capacity = blob->capacity ? blob->capacity : 4096;
	uint8_t *data;

	if (extra > SIZE_MAX / 2 - blob->size)
		return -1;
	while (capacity < blob->size + extra)
		capacity *= 2;
	if (capacity == blob->capacity)
		return 0;
	data = realloc(blob->data, capacity);
	if (!data)
		return -1;
	blob->data = data;
	blob->capacity = capacity;
	return 0;
}

int blob_append(struct blob *blob, const void *data, size_t size)
{
	if (blob_reserve(blob, size) < 0)
		return -1;
	if (size)
		memcpy(blob->data + blob->size, data, size);
	blob->size += size;
	return 0;
}

void blob_free(struct blob *blob)
{
	free(blob->data);
	*blob = (struct blob){ 0 };
}

static int read_all(struct blob *blob, int fd, size_t max, const char *path, const char *what, struct err *err)
{
	ssize_t n;

	for (;;) {
		if (blob_reserve(blob, 65536) < 0)
			return err_set(err, "%s '%s': out of memory", what, path);
		n = read(fd, blob->data + blob->size, blob->capacity - blob->size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_set(err, "cannot read %s '%s': %s", what, path, strerror(errno));
		if (n == 0)
			return 0;
		blob->size += (size_t)n;
		if (blob->size > max)
			return err_set(err, "%s '%s' is larger than %zu MiB", what, path, max >> 20);
	}
}

int blob_read(struct blob *blob, const char *path, size_t max, const char *what, struct err *err)
{
	struct stat st;
	int fd, ret;

	*blob = (struct blob){ 0 };
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_set(err, "cannot open %s '%s': %s", what, path, strerror(errno));
	if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
		close(fd);
		return err_set(err, "%s '%s' is a directory", what, path);
	}
	/* A hint only: the file may change its size while we read. */
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0 && (uint64_t)st.st_size <= max)
		blob_reserve(blob, (size_t)st.st_size + 65536);
	ret = read_all(blob, fd, max, path, what, err);
	close(fd);
	if (ret < 0)
		blob_free(blob);
	return ret;
}
