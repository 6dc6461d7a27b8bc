// SPDX-License-Identifier: MIT
/*
 * gw_share: lets devices work in a guest whose memory is all private.
 *
 * A device reads and writes what the guest shares, and nothing else. This module takes one block of pages, tells the host by
 * hypercall (KVM_HC_MAP_GPA_RANGE) that they are shared, and gives every virtio-mmio device DMA operations that use only
 * these: rings are allocated there, and buffers are copied through there. Load it before virtio_mmio.
 *
 * Not an IOMMU: what is in the block is the host's to see, what is not is not. A bounce slot is zeroed, not filled with the old
 * contents of the buffer, before a device writes it, so nothing leaks that was not sent.
 */
#include <linux/bitmap.h>
#include <linux/device.h>
#include <linux/dma-map-ops.h>
#include <linux/kvm_para.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/scatterlist.h>
#include <linux/spinlock.h>
#include <linux/string.h>

#define POOL_ORDER	10			/* 4 MiB: what the page allocator gives in one piece */
#define SLOT		512u
#define N_SLOTS		((PAGE_SIZE << POOL_ORDER) / SLOT)
#define LARGEST		(256u << 10)		/* one mapping */
#define ENCRYPTED	(1ul << 4)		/* of the hypercall's attributes: private */

#ifndef KVM_HC_MAP_GPA_RANGE
#define KVM_HC_MAP_GPA_RANGE	12
#endif

/* Of the first slot of each mapping: where its bytes belong. NULL: memory that lives here. */
static struct { void *buffer; size_t size; } owner[N_SLOTS];
static DECLARE_BITMAP(taken, N_SLOTS);
static DEFINE_SPINLOCK(lock);
static struct page *pages;
static u8 *pool;
static phys_addr_t pool_at;

static long tell_host(unsigned long attributes)
{
	return kvm_hypercall3(KVM_HC_MAP_GPA_RANGE, pool_at, 1ul << POOL_ORDER, attributes);
}

/* ---- slots -------------------------------------------------------------------------------------------------------------- */

static unsigned int n_slots(size_t size)
{
	return DIV_ROUND_UP(size, SLOT);
}

/* Index of the first of as many as @size takes, or N_SLOTS. @align in slots, a power of two. */
static unsigned long take(size_t size, unsigned long align, void *buffer)
{
	unsigned long at, flags;

	spin_lock_irqsave(&lock, flags);
	at = bitmap_find_next_zero_area(taken, N_SLOTS, 0, n_slots(size), align - 1);
	if (at < N_SLOTS) {
		bitmap_set(taken, at, n_slots(size));
		owner[at].buffer = buffer;
		owner[at].size = size;
	} else {
		at = N_SLOTS;
	}
	spin_unlock_irqrestore(&lock, flags);
	return at;
}

static void give_back(unsigned long at)
{
	unsigned long flags;

	spin_lock_irqsave(&lock, flags);
	bitmap_clear(taken, at, n_slots(owner[at].size));
	owner[at].size = 0;
	spin_unlock_irqrestore(&lock, flags);
}

static bool is_ours(dma_addr_t dma)
{
	return dma - pool_at < (PAGE_SIZE << POOL_ORDER);
}

/* The mapping that @dma lies in: its first slot has a size. */
static unsigned long slot_of(dma_addr_t dma)
{
	unsigned long at = (dma - pool_at) / SLOT;

	while (at && !owner[at].size)
		at--;
	return at;
}

/* ---- DMA operations ------------------------------------------------------------------------------------------------------ */

static void *share_alloc(struct device *dev, size_t size, dma_addr_t *dma, gfp_t gfp, unsigned long attrs)
{
	unsigned long at = take(size, PAGE_SIZE / SLOT, NULL);

	if (at == N_SLOTS)
		return NULL;
	memset(pool + at * SLOT, 0, size);
	*dma = pool_at + at * SLOT;
	return pool + at * SLOT;
}

static void share_free(struct device *dev, size_t size, void *at, dma_addr_t dma, unsigned long attrs)
{
	give_back((dma - pool_at) / SLOT);
}

static dma_addr_t share_map_page(struct device *dev, struct page *page, unsigned long offset, size_t size,
				 enum dma_data_direction dir, unsigned long attrs)
{
	void *buffer = page_address(page) + offset;
	unsigned long at = size && size <= LARGEST ? take(size, 1, buffer) : N_SLOTS;

	if (at == N_SLOTS)
		return DMA_MAPPING_ERROR;
	if (dir == DMA_FROM_DEVICE)
		memset(pool + at * SLOT, 0, size);
	else
		memcpy(pool + at * SLOT, buffer, size);
	return pool_at + at * SLOT;
}

static void share_unmap_page(struct device *dev, dma_addr_t dma, size_t size, enum dma_data_direction dir, unsigned long attrs)
{
	unsigned long at = (dma - pool_at) / SLOT;

	if (WARN_ON_ONCE(!is_ours(dma)))
		return;
	if (dir != DMA_TO_DEVICE && !(attrs & DMA_ATTR_SKIP_CPU_SYNC))
		memcpy(owner[at].buffer, pool + at * SLOT, owner[at].size);
	give_back(at);
}

static void share_sync_for_cpu(struct device *dev, dma_addr_t dma, size_t size, enum dma_data_direction dir)
{
	unsigned long at = slot_of(dma);

	if (dir != DMA_TO_DEVICE && owner[at].buffer)
		memcpy(owner[at].buffer + (dma - pool_at - at * SLOT), pool + (dma - pool_at), size);
}

static void share_sync_for_device(struct device *dev, dma_addr_t dma, size_t size, enum dma_data_direction dir)
{
	unsigned long at = slot_of(dma);

	if (dir != DMA_FROM_DEVICE && owner[at].buffer)
		memcpy(pool + (dma - pool_at), owner[at].buffer + (dma - pool_at - at * SLOT), size);
}

static void share_unmap_sg(struct device *dev, struct scatterlist *list, int n, enum dma_data_direction dir, unsigned long attrs)
{
	struct scatterlist *s;
	int i;

	for_each_sg(list, s, n, i)
		share_unmap_page(dev, sg_dma_address(s), sg_dma_len(s), dir, attrs);
}

static int share_map_sg(struct device *dev, struct scatterlist *list, int n, enum dma_data_direction dir, unsigned long attrs)
{
	struct scatterlist *s;
	int i;

	for_each_sg(list, s, n, i) {
		dma_addr_t dma = share_map_page(dev, sg_page(s), s->offset, s->length, dir, attrs);

		if (dma == DMA_MAPPING_ERROR) {
			share_unmap_sg(dev, list, i, dir, attrs | DMA_ATTR_SKIP_CPU_SYNC);
			return -ENOMEM;
		}
		sg_dma_address(s) = dma;
		sg_dma_len(s) = s->length;
	}
	return n;
}

static size_t share_max_mapping_size(struct device *dev)
{
	return LARGEST;
}

static const struct dma_map_ops share_ops = {
	.alloc = share_alloc, .free = share_free, .map_page = share_map_page, .unmap_page = share_unmap_page,
	.map_sg = share_map_sg, .unmap_sg = share_unmap_sg, .sync_single_for_cpu = share_sync_for_cpu,
	.sync_single_for_device = share_sync_for_device, .max_mapping_size = share_max_mapping_size,
};

/* ---- which devices --------------------------------------------------------------------------------------------------------- */

/* Before a driver probes the device it has our operations. */
static int on_bus(struct notifier_block *nb, unsigned long what, void *data)
{
	struct device *dev = data;

	if (what == BUS_NOTIFY_BIND_DRIVER && dev->driver && !strcmp(dev->driver->name, "virtio-mmio"))
		set_dma_ops(dev, &share_ops);
	return NOTIFY_DONE;
}

static struct notifier_block notifier = { .notifier_call = on_bus };

static int __init share_init(void)
{
	long ret;

	pages = alloc_pages(GFP_KERNEL | __GFP_ZERO, POOL_ORDER);
	if (!pages)
		return -ENOMEM;
	pool = page_address(pages);
	pool_at = page_to_phys(pages);
	ret = tell_host(0);
	if (!ret) {
		/* What is there now is another page: the host's, and zero or not. */
		memset(pool, 0, PAGE_SIZE << POOL_ORDER);
		ret = bus_register_notifier(&platform_bus_type, &notifier);
		if (!ret) {
			pr_info("gw_share: %lu KiB at %pa are shared with the host\n", (PAGE_SIZE << POOL_ORDER) >> 10, &pool_at);
			return 0;
		}
		tell_host(ENCRYPTED);
	}
	__free_pages(pages, POOL_ORDER);
	pr_err("gw_share: the host shares no memory (%ld)\n", ret);
	return ret < -4095 || ret > 0 ? -ENODEV : ret == -1000 ? -EOPNOTSUPP : (int)ret;
}
/* Devices keep what they have got: there is no unloading. */
module_init(share_init);

MODULE_DESCRIPTION("Shared buffers for the devices of a guest with private memory");
MODULE_LICENSE("Dual MIT/GPL");
