/* SPDX-License-Identifier: MIT */
/* ioctls of a VM's descriptor. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvm/kvm.h"

static long check_extension(struct kvm_call *k)
{
	return kvm_check_extension(k->vm, k->arg);
}

static long enable_cap(struct kvm_call *k)
{
	return kvm_enable_cap_vm(k->vm, k->data);
}

static long create_vcpu(struct kvm_call *k)
{
	struct vm_vcpu *v;
	int fd, err;

	err = vm_vcpu_create(k->vm, k->arg, &v, &fd);
	if (err)
		return err;
	err = kvm_file_add(fd, KVM_FILE_VCPU, vm_get(k->vm), v);
	if (err) {
		/* The vCPU stays, as in KVM when the descriptor fails last; its number is used up. */
		vm_put(k->vm);
		close(fd);
		return err;
	}
	return fd;
}

/* ---- memory ------------------------------------------------------------------------------------------------------------ */

static long set_region(struct kvm_call *k)
{
	struct kvm_userspace_memory_region2 r = { 0 };

	memcpy(&r, k->data, sizeof(struct kvm_userspace_memory_region));
	if (r.flags & KVM_MEM_GUEST_MEMFD)
		return -EINVAL;
	return vm_set_region(k->vm, &r, NULL, -EINVAL);
}

static long get_dirty_log(struct kvm_call *k)
{
	const struct kvm_dirty_log *log = k->data;
	uint64_t *bitmap;
	size_t bytes;
	int err = vm_get_dirty_log(k->vm, log->slot, &bitmap, &bytes);

	if (err)
		return err;
	err = kvm_copy_out((uintptr_t)log->dirty_bitmap, bitmap, bytes);
	free(bitmap);
	return err;
}

static long clear_dirty_log(struct kvm_call *k)
{
	const struct kvm_clear_dirty_log *log = k->data;
	size_t bytes = ((size_t)log->num_pages + 63) / 64 * 8;
	uint64_t *bitmap = calloc(1, bytes ? bytes : 1);
	int err;

	if (!bitmap)
		return -ENOMEM;
	err = kvm_copy_in(bitmap, (uintptr_t)log->dirty_bitmap, bytes);
	if (!err)
		err = vm_clear_dirty_log(k->vm, log, bitmap);
	free(bitmap);
	return err;
}

static long reset_dirty_rings(struct kvm_call *k)
{
	return vm_reset_dirty_rings(k->vm);
}

static long set_tss_addr(struct kvm_call *k)
{
	if (k->arg > 0xffffd000ul)
		return -EINVAL;
	k->vm->tss_addr = k->arg;	/* nothing of ours needs a hidden TSS */
	return 0;
}

static long set_identity_map(struct kvm_call *k)
{
	uint64_t addr = *(const uint64_t *)k->data;

	if (atomic_load(&k->vm->n_vcpus))
		return -EINVAL;
	k->vm->identity_addr = addr ? addr : 0xfffbc000;
	return 0;
}

static long register_zone(struct kvm_call *k)
{
	return vm_zone_register(k->vm, k->data);
}

static long unregister_zone(struct kvm_call *k)
{
	return vm_zone_unregister(k->vm, k->data);
}

/* ---- interrupts -------------------------------------------------------------------------------------------------------- */

static long create_irqchip(struct kvm_call *k)
{
	return vm_create_irqchip(k->vm, false, 0);
}

static int set_line(struct vm *vm, const struct kvm_irq_level *irq, bool want_status)
{
	/* A device of the client has worked: guest memory may be other than decoded code remembers. */
	atomic_fetch_add(&vm->touched, 1);
	return dev_irq_set_line(vm->irqchip, DEV_IRQ_USER, irq->irq, irq->level, want_status);
}

static long irq_line(struct kvm_call *k)
{
	if (!k->vm->irqchip)
		return -ENXIO;
	set_line(k->vm, k->data, false);
	return 0;
}

static long irq_line_status(struct kvm_call *k)
{
	struct kvm_irq_level *irq = k->data;

	if (!k->vm->irqchip)
		return -ENXIO;
	irq->status = set_line(k->vm, irq, true);
	return 0;
}

static long signal_msi(struct kvm_call *k)
{
	const struct kvm_msi *m = k->data;

	if (!k->vm->irqchip || m->flags & ~(uint32_t)KVM_MSI_VALID_DEVID)
		return -EINVAL;
	atomic_fetch_add(&k->vm->touched, 1);
	return dev_irq_msi(k->vm->irqchip, m->address_lo | (uint64_t)m->address_hi << 32, m->data);
}

static long set_routing(struct kvm_call *k)
{
	struct kvm_irq_routing_entry *e;
	struct kvm_irq_routing head;
	long err;

	if (kvm_copy_in(&head, k->arg, sizeof(head)))
		return -EFAULT;
	if (!k->vm->irqchip || head.nr > DEV_MAX_GSI || head.flags)
		return -EINVAL;
	e = calloc(head.nr ? head.nr : 1, sizeof(*e));
	if (!e)
		return -ENOMEM;
	err = kvm_copy_in(e, k->arg + sizeof(head), head.nr * sizeof(*e));
	if (!err)
		err = dev_irq_set_routing(k->vm->irqchip, e, head.nr);
	free(e);
	return err;
}

static bool has_full_chip(const struct vm *vm)
{
	return vm->irqchip && !vm->is_split;
}

static long get_irqchip(struct kvm_call *k)
{
	return has_full_chip(k->vm) ? dev_irqchip_get(k->vm->irqchip, k->data) : -ENXIO;
}

static long set_irqchip(struct kvm_call *k)
{
	return has_full_chip(k->vm) ? dev_irqchip_set(k->vm->irqchip, k->data) : -ENXIO;
}

static long make_pit(struct vm *vm, uint32_t flags)
{
	long err;

	pthread_mutex_lock(&vm->lock);
	err = !has_full_chip(vm) ? -ENOENT : dev_pit_create(vm->irqchip, flags);
	pthread_mutex_unlock(&vm->lock);
	return err;
}

static long create_pit(struct kvm_call *k)
{
	return make_pit(k->vm, KVM_PIT_SPEAKER_DUMMY);
}

static long create_pit2(struct kvm_call *k)
{
	return make_pit(k->vm, ((const struct kvm_pit_config *)k->data)->flags);
}

static long get_pit(struct kvm_call *k)
{
	return has_full_chip(k->vm) ? dev_pit_get(k->vm->irqchip, k->data) : -ENXIO;
}

static long set_pit(struct kvm_call *k)
{
	return has_full_chip(k->vm) ? dev_pit_set(k->vm->irqchip, k->data) : -ENXIO;
}

static long get_pit2(struct kvm_call *k)
{
	return has_full_chip(k->vm) ? dev_pit_get2(k->vm->irqchip, k->data) : -ENXIO;
}

static long set_pit2(struct kvm_call *k)
{
	return has_full_chip(k->vm) ? dev_pit_set2(k->vm->irqchip, k->data) : -ENXIO;
}

static long reinject_control(struct kvm_call *k)
{
	const struct kvm_reinject_control *r = k->data;

	return has_full_chip(k->vm) ? dev_pit_set_reinject(k->vm->irqchip, r->pit_reinject) : -ENXIO;
}

static long irqfd(struct kvm_call *k)
{
	return vm_irqfd(k->vm, k->data);
}

static long ioeventfd(struct kvm_call *k)
{
	return vm_ioeventfd(k->vm, k->data);
}

static long set_boot_id(struct kvm_call *k)
{
	return k->arg > VM_MAX_VCPU_ID ? -EINVAL : vm_set_boot_id(k->vm, (uint32_t)k->arg);
}

/* ---- time, statistics --------------------------------------------------------------------------------------------------- */

static long get_clock(struct kvm_call *k)
{
	return vm_clock_get(k->vm, k->data);
}

static long set_clock(struct kvm_call *k)
{
	return vm_clock_set(k->vm, k->data);
}

static long set_tsc_khz(struct kvm_call *k)
{
	uint64_t khz = k->arg ? k->arg : vm_host_tsc_khz();
	long err = -EINVAL;

	if (khz > UINT32_MAX)
		return -EINVAL;
	pthread_mutex_lock(&k->vm->lock);
	if (!atomic_load(&k->vm->n_vcpus)) {
		k->vm->default_tsc_khz = (uint32_t)khz;
		err = 0;
	}
	pthread_mutex_unlock(&k->vm->lock);
	return err;
}

static long get_tsc_khz(struct kvm_call *k)
{
	return k->vm->default_tsc_khz;
}

static long get_stats_fd(struct kvm_call *k)
{
	return vm_stats_open(k->vm, NULL);
}

/* ---- MSR filter ---------------------------------------------------------------------------------------------------------- */

static long copy_range(const struct kvm_msr_filter_range *from, struct vm_msr_range *to)
{
	size_t bytes = ((size_t)from->nmsrs + 63) / 64 * 8;

	if (!from->flags || from->flags & ~(uint32_t)(KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE))
		return -EINVAL;
	if (bytes > KVM_MSR_FILTER_MAX_BITMAP_SIZE)
		return -EINVAL;
	to->bitmap = malloc(bytes);
	if (!to->bitmap)
		return -ENOMEM;
	to->flags = from->flags;
	to->base = from->base;
	to->n = from->nmsrs;
	return kvm_copy_in(to->bitmap, (uintptr_t)from->bitmap, bytes);
}

static long set_msr_filter(struct kvm_call *k)
{
	const struct kvm_msr_filter *in = k->data;
	struct vm_msr_filter *f;
	bool empty = true;
	long err = 0;

	if (in->flags & ~(uint32_t)KVM_MSR_FILTER_DEFAULT_DENY)
		return -EINVAL;
	for (unsigned i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++)
		empty &= !in->ranges[i].nmsrs;
	if (empty && in->flags)
		return -EINVAL;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->deny = in->flags & KVM_MSR_FILTER_DEFAULT_DENY;
	for (unsigned i = 0; i < KVM_MSR_FILTER_MAX_RANGES && !err; i++)
		if (in->ranges[i].nmsrs)
			err = copy_range(&in->ranges[i], &f->range[f->n++]);
	if (err) {
		vm_msr_filter_free(f);
		return err;
	}
	vm_msr_set_filter(k->vm, f);
	return 0;
}

/* ---- introspection -------------------------------------------------------------------------------------------------------- */

static long monitor_attach(struct kvm_call *k)
{
	/* Whoever cannot be told of the descriptors does not get any. */
	if (kvm_copy_out(k->arg, k->data, sizeof(struct gw_monitor_attach)))
		return -EFAULT;
	return mon_attach(k->vm->monitor, k->data);
}

static long monitor_command(struct kvm_call *k)
{
	struct gw_monitor *c = k->data;
	void *in, *out;
	long err = -EFAULT;

	if (c->cmd.size > GW_MON_MAX_PAYLOAD)
		return -E2BIG;
	in = c->cmd.size ? malloc(c->cmd.size) : NULL;
	out = c->payload_size ? malloc(GW_PAGE_SIZE) : NULL;
	if ((c->cmd.size && !in) || (c->payload_size && !out)) {
		err = -ENOMEM;
		goto free_all;
	}
	if (in && kvm_copy_in(in, c->payload, c->cmd.size))
		goto free_all;
	if ((c->cmd.op == GW_MON_OP_READ && c->payload_size < c->cmd.a[1]) ||
	    (c->cmd.op == GW_MON_OP_GET_REGS && c->payload_size < sizeof(struct gw_mon_regs))) {
		err = -ENOBUFS;
		goto free_all;
	}
	mon_command(k->vm->monitor, &c->cmd, in, &c->reply, out);
	err = c->reply.size && kvm_copy_out(c->payload, out, c->reply.size) ? -EFAULT : 0;
free_all:
	free(in);
	free(out);
	return err;
}

/* ---- what is not there --------------------------------------------------------------------------------------------------- */

static long no_device(struct kvm_call *k)
{
	return -ENODEV;
}

static long invalid(struct kvm_call *k)
{
	return -EINVAL;
}

static long set_nr_mmu_pages(struct kvm_call *k)
{
	return k->arg < 64 ? -EINVAL : 0;	/* a bound on shadow pages; there are none */
}

const struct kvm_row kvm_vm_rows[] = {
	{ KVM_CHECK_EXTENSION,		ARG_ANY,	.fn = check_extension },
	{ KVM_ENABLE_CAP,		ARG_IN,		.fn = enable_cap },
	{ KVM_CREATE_VCPU,		ARG_ANY,	.fn = create_vcpu },
	{ KVM_SET_USER_MEMORY_REGION,	ARG_IN,		.fn = set_region },
	{ KVM_SET_USER_MEMORY_REGION2,	ARG_IN,		.fn = kvm_set_region2 },
	{ KVM_CREATE_GUEST_MEMFD,	ARG_IN,		.fn = kvm_create_gmem },
	{ KVM_SET_MEMORY_ATTRIBUTES,	ARG_IN,		.fn = kvm_set_attributes },
	{ KVM_MEMORY_ENCRYPT_REG_REGION, ARG_RAW,	.fn = kvm_reg_region },
	{ KVM_MEMORY_ENCRYPT_UNREG_REGION, ARG_RAW,	.fn = kvm_unreg_region },
	{ GW_POPULATE,			ARG_INOUT,	.fn = kvm_populate },
	{ GW_MAP,			ARG_INOUT,	.fn = kvm_map_text },
	{ KVM_GET_DIRTY_LOG,		ARG_IN,		.fn = get_dirty_log },
	{ KVM_CLEAR_DIRTY_LOG,		ARG_IN,		.fn = clear_dirty_log },
	{ KVM_RESET_DIRTY_RINGS,	ARG_ANY,	.fn = reset_dirty_rings },
	{ KVM_SET_TSS_ADDR,		ARG_ANY,	.fn = set_tss_addr },
	{ KVM_SET_IDENTITY_MAP_ADDR,	ARG_IN,		.fn = set_identity_map },
	{ KVM_SET_NR_MMU_PAGES,		ARG_ANY,	.fn = set_nr_mmu_pages },
	{ KVM_REGISTER_COALESCED_MMIO,	ARG_IN,		.fn = register_zone },
	{ KVM_UNREGISTER_COALESCED_MMIO, ARG_IN,	.fn = unregister_zone },
	{ KVM_CREATE_IRQCHIP,		ARG_ANY,	.fn = create_irqchip },
	{ KVM_IRQ_LINE,			ARG_IN,		.fn = irq_line },
	{ KVM_IRQ_LINE_STATUS,		ARG_INOUT,	.fn = irq_line_status },
	{ KVM_SIGNAL_MSI,		ARG_IN,		.fn = signal_msi },
	{ KVM_SET_GSI_ROUTING,		ARG_RAW,	.fn = set_routing },
	{ KVM_GET_IRQCHIP,		ARG_INOUT,	.fn = get_irqchip },
	{ KVM_SET_IRQCHIP,		ARG_IN,		.fn = set_irqchip, .size = sizeof(struct kvm_irqchip) },
	{ KVM_CREATE_PIT,		ARG_ANY,	.fn = create_pit },
	{ KVM_CREATE_PIT2,		ARG_IN,		.fn = create_pit2 },
	{ KVM_GET_PIT,			ARG_INOUT,	.fn = get_pit },
	{ KVM_SET_PIT,			ARG_IN,		.fn = set_pit, .size = sizeof(struct kvm_pit_state) },
	{ KVM_GET_PIT2,			ARG_OUT,	.fn = get_pit2 },
	{ KVM_SET_PIT2,			ARG_IN,		.fn = set_pit2 },
	{ KVM_REINJECT_CONTROL,		ARG_IN,		.fn = reinject_control, .size = sizeof(struct kvm_reinject_control) },
	{ KVM_IRQFD,			ARG_IN,		.fn = irqfd },
	{ KVM_IOEVENTFD,		ARG_IN,		.fn = ioeventfd },
	{ KVM_SET_BOOT_CPU_ID,		ARG_ANY,	.fn = set_boot_id },
	{ KVM_GET_CLOCK,		ARG_OUT,	.fn = get_clock },
	{ KVM_SET_CLOCK,		ARG_IN,		.fn = set_clock },
	{ KVM_SET_TSC_KHZ,		ARG_ANY,	.fn = set_tsc_khz },
	{ KVM_GET_TSC_KHZ,		ARG_ANY,	.fn = get_tsc_khz },
	{ KVM_GET_STATS_FD,		ARG_ANY,	.fn = get_stats_fd },
	{ GW_HEKI_SET_ATTRIBUTES,	ARG_IN,		.fn = kvm_heki_set_attributes },
	{ GW_HEKI_GET_ATTRIBUTES,	ARG_INOUT,	.fn = kvm_heki_get_attributes },
	{ GW_HEKI_SET_POLICY,		ARG_IN,		.fn = kvm_heki_set_policy },
	{ GW_HEKI_GET_POLICY,		ARG_OUT,	.fn = kvm_heki_get_policy },
	{ GW_HEKI_LOCK,			ARG_NONE,	.fn = kvm_heki_lock },
	{ GW_HEKI_JUDGE_DMA,		ARG_IN,		.fn = kvm_heki_judge_dma, .is_unlocked = true },
	{ GW_HEKI_GET_STATE,		ARG_OUT,	.fn = kvm_heki_get_state },
	{ GW_HEKI_SET_STATE,		ARG_IN,		.fn = kvm_heki_set_state },
	{ GW_HEKI_RESET,		ARG_ANY,	.fn = kvm_heki_reset },
	{ GW_HEKI_EVENTS,		ARG_IN,		.fn = kvm_heki_events },
	{ GW_HEKI_COUNTERS,		ARG_OUT,	.fn = kvm_heki_counters },
	{ KVM_X86_SET_MSR_FILTER,	ARG_IN,		.fn = set_msr_filter },
	{ KVM_CREATE_DEVICE,		ARG_INOUT,	.fn = no_device },
	{ GW_MONITOR_ATTACH,		ARG_INOUT,	.fn = monitor_attach },
	{ GW_MONITOR,			ARG_INOUT,	.fn = monitor_command },
	{ KVM_XEN_HVM_CONFIG,		ARG_IN,		.fn = invalid },
};
const unsigned kvm_n_vm_rows = ARRAY_SIZE(kvm_vm_rows);
