/* SPDX-License-Identifier: MIT */
/*
 * The virtio-mmio transport, version 2, and what a device behind it gives: an ops table and a configuration space.
 * Every access is under the device's lock, so a device function is never called twice at once; a request is worked off on
 * the vCPU thread that announced it.
 */
#ifndef TOOL_VIRTIO_H
#define TOOL_VIRTIO_H

#include <pthread.h>

#include "bus.h"
#include "virtqueue.h"

#define VIRTIO_QUEUES_MAX	2u
#define VIRTIO_CONFIG_MAX	64u
#define VIRTIO_F_VERSION_1	(1ull << 32)
#define VIRTIO_F_ACCESS_PLATFORM (1ull << 33)	/* addresses are those of the guest's DMA operations; not to be declined */

struct virtio;

struct virtio_ops {
	const char *name;
	uint32_t device_id;
	unsigned n_queues;
	/* Carries out one request and returns how many bytes it wrote into the chain's writable part. Never NULL. */
	uint32_t (*handle)(struct virtio *device, unsigned queue, struct chain *chain);
	/* Frees what the device holds. NULL: nothing. */
	void (*destroy)(struct virtio *device);
};

struct virtio {
	const struct virtio_ops *ops;
	void *state;			/* the device's own */
	struct irq_line irq;
	uint64_t features;		/* offered; VIRTIO_F_VERSION_1 is added */
	uint8_t config[VIRTIO_CONFIG_MAX];

	pthread_mutex_t lock;
	uint64_t driver_features;
	uint32_t features_select, driver_features_select, queue_select;
	uint32_t status, interrupt;
	struct virtqueue queues[VIRTIO_QUEUES_MAX];
	struct chain chain;		/* scratch for the request in hand: too large for a stack */
	uint64_t requests;
};

extern const struct bus_ops virtio_mmio_ops;

/* ops, state, irq, features and config are filled by the device's own init before. */
void virtio_init(struct virtio *device, const struct ram *ram);
void virtio_destroy(struct virtio *device);

#endif
