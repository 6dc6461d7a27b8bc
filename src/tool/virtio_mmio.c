/* SPDX-License-Identifier: MIT */
/* See virtio.h. Registers: VIRTIO 1.2, "MMIO Device Register Layout"; life cycle: "Device Initialization". */
#include "virtio.h"

#include <string.h>

#include "bytes.h"

enum {
	REG_MAGIC = 0x000, REG_VERSION = 0x004, REG_DEVICE_ID = 0x008, REG_VENDOR_ID = 0x00c,
	REG_FEATURES = 0x010, REG_FEATURES_SELECT = 0x014,
	REG_DRIVER_FEATURES = 0x020, REG_DRIVER_FEATURES_SELECT = 0x024,
	REG_QUEUE_SELECT = 0x030, REG_QUEUE_SIZE_MAX = 0x034, REG_QUEUE_SIZE = 0x038,
	REG_QUEUE_READY = 0x044, REG_QUEUE_NOTIFY = 0x050,
	REG_INTERRUPT_STATUS = 0x060, REG_INTERRUPT_ACK = 0x064, REG_STATUS = 0x070,
	REG_DESCRIPTORS_LOW = 0x080, REG_DESCRIPTORS_HIGH = 0x084,
	REG_AVAILABLE_LOW = 0x090, REG_AVAILABLE_HIGH = 0x094,
	REG_USED_LOW = 0x0a0, REG_USED_HIGH = 0x0a4,
	REG_SHM_LENGTH_LOW = 0x0b0, REG_SHM_LENGTH_HIGH = 0x0b4, REG_SHM_BASE_LOW = 0x0b8, REG_SHM_BASE_HIGH = 0x0bc,
	REG_CONFIG_GENERATION = 0x0fc, REG_CONFIG = 0x100,
};

#define MAGIC			0x74726976u	/* "virt" */
#define VENDOR			0x47575244u	/* "DRWG" */
#define STATUS_DRIVER_OK	4u
#define STATUS_FEATURES_OK	8u
#define STATUS_NEEDS_RESET	64u
#define INTERRUPT_USED		1u
#define INTERRUPT_CONFIG	2u

static void reset(struct virtio *v)
{
	unsigned i;

	for (i = 0; i < v->ops->n_queues; i++)
		virtqueue_reset(&v->queues[i]);
	v->driver_features = 0;
	v->features_select = v->driver_features_select = v->queue_select = 0;
	v->status = v->interrupt = 0;
}

void virtio_init(struct virtio *v, const struct ram *ram)
{
	unsigned i;

	pthread_mutex_init(&v->lock, NULL);
	v->features |= VIRTIO_F_VERSION_1;
	for (i = 0; i < VIRTIO_QUEUES_MAX; i++)
		v->queues[i].ram = ram;
	reset(v);
}

void virtio_destroy(struct virtio *v)
{
	if (v->ops && v->ops->destroy)
		v->ops->destroy(v);
	v->ops = NULL;
}

static void raise_interrupt(struct virtio *v, uint32_t why)
{
	v->interrupt |= why;
	irq_set(&v->irq, 1);
}

/* The driver broke a rule: no request is taken until it resets us. */
static void need_reset(struct virtio *v)
{
	if (v->status & STATUS_NEEDS_RESET)
		return;
	v->status |= STATUS_NEEDS_RESET;
	raise_interrupt(v, INTERRUPT_CONFIG);
}

static void notify(struct virtio *v, uint32_t index)
{
	struct virtqueue *q;
	unsigned budget;
	bool pushed = false;
	int got = 0;

	if (index >= v->ops->n_queues || !(v->status & STATUS_DRIVER_OK) || (v->status & STATUS_NEEDS_RESET))
		return;
	q = &v->queues[index];
	/*
	 * Bounded: another vCPU can add requests as fast as we take them, and this one has to get back to its guest. What
	 * is left is announced by the next notification; a driver that saw its queue full sends one.
	 */
	for (budget = 4 * VIRTQUEUE_MAX; budget; budget--) {
		got = virtqueue_pop(q, &v->chain);
		if (got <= 0)
			break;
		virtqueue_push(q, &v->chain, v->ops->handle(v, index, &v->chain));
		v->requests++;
		pushed = true;
	}
	if (got < 0)
		need_reset(v);
	else if (pushed && virtqueue_wants_interrupt(q))
		raise_interrupt(v, INTERRUPT_USED);
}

static struct virtqueue *selected(struct virtio *v)
{
	return v->queue_select < v->ops->n_queues ? &v->queues[v->queue_select] : NULL;
}

static uint32_t read_register(struct virtio *v, uint64_t reg)
{
	struct virtqueue *q = selected(v);

	switch (reg) {
	case REG_MAGIC:
		return MAGIC;
	case REG_VERSION:
		return 2;
	case REG_DEVICE_ID:
		return v->ops->device_id;
	case REG_VENDOR_ID:
		return VENDOR;
	case REG_FEATURES:
		return v->features_select > 1 ? 0 : (uint32_t)(v->features >> (32 * v->features_select));
	case REG_QUEUE_SIZE_MAX:
		return q ? VIRTQUEUE_MAX : 0;
	case REG_QUEUE_READY:
		return q && q->ready;
	case REG_INTERRUPT_STATUS:
		return v->interrupt;
	case REG_STATUS:
		return v->status;
	case REG_SHM_LENGTH_LOW:
	case REG_SHM_LENGTH_HIGH:
	case REG_SHM_BASE_LOW:
	case REG_SHM_BASE_HIGH:
		return 0xffffffff;	/* no shared memory regions */
	default:
		return 0;	/* write-only and reserved registers, and the generation of a constant configuration */
	}
}

static void set_low(uint64_t *address, uint32_t value)
{
	*address = (*address & ~0xffffffffull) | value;
}

static void set_high(uint64_t *address, uint32_t value)
{
	*address = (*address & 0xffffffffull) | (uint64_t)value << 32;
}

static void write_queue_register(struct virtqueue *q, uint64_t reg, uint32_t value)
{
	if (reg == REG_QUEUE_READY) {
		if (value & 1)
			virtqueue_start(q);
		else
			q->ready = false;
		return;
	}
	/* The layout of a running queue cannot change: that is what lets virtqueue_start check it once. */
	if (q->ready)
		return;
	switch (reg) {
	case REG_QUEUE_SIZE:
		q->size = value > VIRTQUEUE_MAX ? 0 : (uint16_t)value;
		break;
	case REG_DESCRIPTORS_LOW:
		set_low(&q->descriptors, value);
		break;
	case REG_DESCRIPTORS_HIGH:
		set_high(&q->descriptors, value);
		break;
	case REG_AVAILABLE_LOW:
		set_low(&q->available, value);
		break;
	case REG_AVAILABLE_HIGH:
		set_high(&q->available, value);
		break;
	case REG_USED_LOW:
		set_low(&q->used, value);
		break;
	case REG_USED_HIGH:
		set_high(&q->used, value);
		break;
	}
}

static void write_status(struct virtio *v, uint32_t value)
{
	if (!value) {
		reset(v);
		irq_set(&v->irq, 0);
		return;
	}
	/* FEATURES_OK stays only if we can work with what was chosen. */
	if ((value & STATUS_FEATURES_OK) &&
	    ((v->driver_features & ~v->features) || !(v->driver_features & VIRTIO_F_VERSION_1) ||
	     ((v->driver_features ^ v->features) & VIRTIO_F_ACCESS_PLATFORM)))
		value &= ~STATUS_FEATURES_OK;
	v->status = (value & 0x8f) | (v->status & STATUS_NEEDS_RESET);
}

static void write_driver_features(struct virtio *v, uint32_t value)
{
	if (v->status & STATUS_FEATURES_OK)
		return;
	if (v->driver_features_select == 0)
		set_low(&v->driver_features, value);
	else if (v->driver_features_select == 1)
		set_high(&v->driver_features, value);
}

static void write_register(struct virtio *v, uint64_t reg, uint32_t value)
{
	struct virtqueue *q = selected(v);

	switch (reg) {
	case REG_FEATURES_SELECT:
		v->features_select = value;
		break;
	case REG_DRIVER_FEATURES:
		write_driver_features(v, value);
		break;
	case REG_DRIVER_FEATURES_SELECT:
		v->driver_features_select = value;
		break;
	case REG_QUEUE_SELECT:
		v->queue_select = value;
		break;
	case REG_QUEUE_NOTIFY:
		notify(v, value);
		break;
	case REG_INTERRUPT_ACK:
		v->interrupt &= ~value;
		if (!v->interrupt)
			irq_set(&v->irq, 0);
		break;
	case REG_STATUS:
		write_status(v, value);
		break;
	default:
		if (q)
			write_queue_register(q, reg, value);
		break;
	}
}

static void mmio_read(void *device, uint64_t offset, uint8_t *data, unsigned len)
{
	struct virtio *v = device;
	unsigned i;

	pthread_mutex_lock(&v->lock);
	if (offset >= REG_CONFIG) {
		for (i = 0; i < len; i++) {
			uint64_t at = offset - REG_CONFIG + i;

			data[i] = at < VIRTIO_CONFIG_MAX ? v->config[at] : 0;
		}
	} else if (len == 4 && !(offset & 3)) {
		put32(data, read_register(v, offset));
	} else {
		memset(data, 0, len);	/* registers are 32 bits wide and aligned */
	}
	pthread_mutex_unlock(&v->lock);
}

static void mmio_write(void *device, uint64_t offset, const uint8_t *data, unsigned len)
{
	struct virtio *v = device;

	if (offset >= REG_CONFIG || len != 4 || (offset & 3))
		return;	/* no device here has a writable configuration */
	pthread_mutex_lock(&v->lock);
	write_register(v, offset, get32(data));
	pthread_mutex_unlock(&v->lock);
}

const struct bus_ops virtio_mmio_ops = { "virtio-mmio", mmio_read, mmio_write };
