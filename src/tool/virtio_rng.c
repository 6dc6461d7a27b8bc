/* SPDX-License-Identifier: MIT */
/* See virtio_rng.h; VIRTIO 1.2, "Entropy Device". */
#include "virtio_rng.h"

#include <sys/random.h>

/* A request gets at most this much, whatever it asks for: a device may give less, and none may keep a thread for long. */
#define BYTES_MAX 4096u

static uint32_t handle(struct virtio *device, unsigned queue, struct chain *chain)
{
	uint8_t bytes[256];
	uint32_t given = 0;

	(void)device;
	(void)queue;
	while (given < BYTES_MAX && chain->n_writable) {
		ssize_t got = getrandom(bytes, sizeof(bytes), 0);

		if (got <= 0)
			break;
		given += (uint32_t)iov_give(chain->writable, &chain->n_writable, bytes, (size_t)got);
	}
	return given;
}

static const struct virtio_ops ops = { .name = "virtio-rng", .device_id = 4, .n_queues = 1, .handle = handle };

void virtio_rng_init(struct virtio *device, const struct ram *ram, const struct irq_line *irq)
{
	*device = (struct virtio){ .ops = &ops, .irq = *irq };
	virtio_init(device, ram);
}
