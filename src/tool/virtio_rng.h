/* SPDX-License-Identifier: MIT */
/* virtio entropy device: random bytes from the host's getrandom. */
#ifndef TOOL_VIRTIO_RNG_H
#define TOOL_VIRTIO_RNG_H

#include "virtio.h"

void virtio_rng_init(struct virtio *device, const struct ram *ram, const struct irq_line *irq);

#endif
