/* SPDX-License-Identifier: MIT */
/*
 * virtio block device on a raw image or block device. Requests are carried out in order, on the calling thread.
 * The file is locked (flock) so that two machines cannot write it at once.
 */
#ifndef TOOL_VIRTIO_BLK_H
#define TOOL_VIRTIO_BLK_H

#include "err.h"
#include "virtio.h"

/* @spec: FILE or FILE,ro. On failure the device holds nothing. */
int virtio_blk_init(struct virtio *device, const char *spec, const struct ram *ram, const struct irq_line *irq, struct err *err);

#endif
