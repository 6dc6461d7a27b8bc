/* SPDX-License-Identifier: MIT */
/* See virtio_blk.h; VIRTIO 1.2, "Block Device". */
#include "virtio_blk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bytes.h"

#define SECTOR		512u
#define DEVICE_ID	2u
#define F_SEG_MAX	(1ull << 2)
#define F_RO		(1ull << 5)
#define F_BLK_SIZE	(1ull << 6)
#define F_FLUSH		(1ull << 9)
#define CONFIG_SEG_MAX	12u
#define CONFIG_BLK_SIZE	20u

enum request { REQUEST_IN = 0, REQUEST_OUT = 1, REQUEST_FLUSH = 4, REQUEST_GET_ID = 8 };
enum status { STATUS_OK = 0, STATUS_IOERR = 1, STATUS_UNSUPPORTED = 2 };

struct disk {
	int fd;
	bool read_only;
	uint64_t sectors;
	char id[20];
};

struct header {
	uint32_t type, reserved;
	uint64_t sector;
};

/* The whole of @iov at @sector; short transfers go on, errors and the end of the file end it. */
static enum status transfer(const struct disk *d, bool write, struct iovec *iov, unsigned n, uint64_t sector)
{
	size_t left = iov_length(iov, n);
	off_t at = (off_t)(sector * SECTOR);

	if (left % SECTOR || sector > d->sectors || left / SECTOR > d->sectors - sector)
		return STATUS_IOERR;
	while (left) {
		ssize_t done = write ? pwritev(d->fd, iov, (int)n, at) : preadv(d->fd, iov, (int)n, at);
		size_t cut;
		unsigned i;

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return STATUS_IOERR;
		at += done;
		left -= (size_t)done;
		for (i = 0, cut = (size_t)done; i < n && cut >= iov[i].iov_len; i++)
			cut -= iov[i].iov_len;
		iov += i;
		n -= i;
		if (n) {
			iov->iov_base = (uint8_t *)iov->iov_base + cut;
			iov->iov_len -= cut;
		}
	}
	return STATUS_OK;
}

static enum status carry_out(const struct disk *d, const struct header *h, struct chain *c, uint32_t *written)
{
	size_t room = iov_length(c->writable, c->n_writable);
	enum status status;

	switch (h->type) {
	case REQUEST_IN:
		status = transfer(d, false, c->writable, c->n_writable, h->sector);
		*written = status == STATUS_OK ? (uint32_t)room : 0;
		return status;
	case REQUEST_OUT:
		if (d->read_only)
			return STATUS_IOERR;
		return transfer(d, true, c->readable, c->n_readable, h->sector);
	case REQUEST_FLUSH:
		return d->read_only || fdatasync(d->fd) == 0 ? STATUS_OK : STATUS_IOERR;
	case REQUEST_GET_ID:
		if (room < sizeof(d->id))
			return STATUS_IOERR;
		*written = (uint32_t)iov_give(c->writable, &c->n_writable, d->id, sizeof(d->id));
		return STATUS_OK;
	default:
		return STATUS_UNSUPPORTED;
	}
}

/* The status is the last writable byte; the data is what lies between header and status. */
static uint32_t handle(struct virtio *device, unsigned queue, struct chain *c)
{
	const struct disk *d = device->state;
	size_t room = iov_length(c->writable, c->n_writable);
	struct header h;
	uint8_t *status_byte = NULL;
	uint32_t written = 0;
	enum status status;
	unsigned i;

	(void)queue;
	for (i = c->n_writable; i && !status_byte; i--) {
		const struct iovec *v = &c->writable[i - 1];

		if (v->iov_len)
			status_byte = (uint8_t *)v->iov_base + v->iov_len - 1;
	}
	/* A request without a place for its status cannot be answered; it is given back untouched. */
	if (!status_byte || room - 1 > UINT32_MAX - 1)
		return 0;
	iov_truncate(c->writable, &c->n_writable, room - 1);
	if (c->is_denied)
		status = STATUS_IOERR;
	else if (iov_take(c->readable, &c->n_readable, &h, sizeof(h)) != sizeof(h))
		status = STATUS_IOERR;
	else
		status = carry_out(d, &h, c, &written);
	*status_byte = (uint8_t)status;
	/* The length covers the status only if everything before it was written too. */
	return written == room - 1 ? written + 1 : written;
}

static void destroy(struct virtio *device)
{
	struct disk *d = device->state;

	close(d->fd);
	free(d);
}

static const struct virtio_ops ops = {
	.name = "virtio-blk", .device_id = DEVICE_ID, .n_queues = 1, .handle = handle, .destroy = destroy,
};

static int open_image(struct disk *d, const char *path, struct err *err)
{
	struct stat st;
	off_t size;

	d->fd = open(path, (d->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	if (d->fd < 0)
		return err_set(err, "cannot open disk '%s': %s%s", path, strerror(errno),
			       errno == EACCES || errno == EROFS ? "; use --disk=FILE,ro to only read it" : "");
	if (fstat(d->fd, &st) < 0 || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)))
		return err_set(err, "disk '%s' is neither a file nor a block device", path);
	if (flock(d->fd, (d->read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) < 0)
		return err_set(err, "disk '%s' is in use by another machine", path);
	size = lseek(d->fd, 0, SEEK_END);
	if (size < (off_t)SECTOR)
		return err_set(err, "disk '%s' is smaller than one sector", path);
	d->sectors = (uint64_t)size / SECTOR;
	return 0;
}

int virtio_blk_init(struct virtio *device, const char *spec, const struct ram *ram, const struct irq_line *irq, struct err *err)
{
	struct disk *d = calloc(1, sizeof(*d));
	char *path = strdup(spec), *comma;

	if (!d || !path) {
		free(d);
		free(path);
		return err_set(err, "out of memory");
	}
	d->fd = -1;
	comma = strrchr(path, ',');
	if (comma && !strcmp(comma, ",ro")) {
		d->read_only = true;
		*comma = 0;
	}
	if (open_image(d, path, err) < 0) {
		if (d->fd >= 0)
			close(d->fd);
		free(d);
		free(path);
		return -1;
	}
	free(path);
	*device = (struct virtio){ .ops = &ops, .state = d, .irq = *irq };
	device->features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | (d->read_only ? F_RO : 0);
	put64(device->config, d->sectors);
	put32(device->config + CONFIG_SEG_MAX, VIRTQUEUE_MAX - 2);
	put32(device->config + CONFIG_BLK_SIZE, SECTOR);
	memcpy(d->id, "guestward", 9);
	virtio_init(device, ram);
	return 0;
}
