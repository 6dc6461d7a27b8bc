/* SPDX-License-Identifier: MIT */
/* Creation, stopping and taking down of the machine; see machine.h. The order of the ioctls is kvmtool's. */
#include "machine.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "private.h"

static int kvm_failed(struct err *err, const char *what, long ret)
{
	return err_set(err, "%s failed: %s", what, strerror((int)-ret));
}

static int set_region(struct machine *m, unsigned slot, uint64_t gpa, uint64_t size, void *host, struct err *err)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uintptr_t)host,
	};
	long ret;

	if (m->is_private)
		return private_add_ram(m, slot, gpa, size, host, err);
	ret = m->backend->ioctl(m->vm_fd, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&region);
	return ret < 0 ? kvm_failed(err, "KVM_SET_USER_MEMORY_REGION", ret) : 0;
}

static int create_vm(struct machine *m, struct err *err)
{
	const struct backend *b = m->backend;
	struct kvm_pit_config pit = { 0 };
	uint64_t identity = ADDR_IDENTITY_MAP;
	long ret;

	ret = b->open();
	if (ret < 0)
		return kvm_failed(err, "opening the engine", ret);
	m->system_fd = (int)ret;
	ret = b->ioctl(m->system_fd, KVM_GET_API_VERSION, 0);
	if (ret != KVM_API_VERSION)
		return err_set(err, "the engine speaks KVM API %ld, not %d", ret, KVM_API_VERSION);
	do {
		ret = b->ioctl(m->system_fd, KVM_CREATE_VM, m->is_private ? KVM_X86_SW_PROTECTED_VM : KVM_X86_DEFAULT_VM);
	} while (ret == -EINTR);
	if (ret == -EINVAL && m->is_private)
		return err_set(err, "this engine has no private memory");
	if (ret < 0)
		return kvm_failed(err, "KVM_CREATE_VM", ret);
	m->vm_fd = (int)ret;
	ret = b->ioctl(m->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, (uintptr_t)&identity);
	if (ret < 0 && ret != -ENOTTY)
		return kvm_failed(err, "KVM_SET_IDENTITY_MAP_ADDR", ret);
	ret = b->ioctl(m->vm_fd, KVM_SET_TSS_ADDR, (unsigned long)ADDR_KVM_TSS);
	if (ret < 0 && ret != -ENOTTY)
		return kvm_failed(err, "KVM_SET_TSS_ADDR", ret);
	ret = b->ioctl(m->vm_fd, KVM_CREATE_IRQCHIP, 0);
	if (ret < 0)
		return kvm_failed(err, "KVM_CREATE_IRQCHIP", ret);
	ret = b->ioctl(m->vm_fd, KVM_CREATE_PIT2, (uintptr_t)&pit);
	if (ret < 0)
		return kvm_failed(err, "KVM_CREATE_PIT2", ret);
	/* The guest may ask for conversions; without the capability it gets ENOSYS. */
	if (m->is_private) {
		struct kvm_enable_cap cap = { .cap = KVM_CAP_EXIT_HYPERCALL, .args = { 1u << 12 } };

		ret = b->ioctl(m->vm_fd, KVM_ENABLE_CAP, (uintptr_t)&cap);
		if (ret < 0)
			return kvm_failed(err, "KVM_CAP_EXIT_HYPERCALL", ret);
	}
	return 0;
}

static int add_memory(struct machine *m, struct err *err)
{
	if (set_region(m, 0, 0, m->ram.low, m->ram.host, err) < 0)
		return -1;
	if (m->ram.size > m->ram.low)
		return set_region(m, 1, RAM_HIGH_START, m->ram.size - m->ram.low, m->ram.host + m->ram.low, err);
	return 0;
}

int machine_create(struct machine *m, const struct backend *backend, uint64_t memory, bool share, struct err *err)
{
	*m = (struct machine){ .backend = backend, .system_fd = -1, .vm_fd = -1, .stop_fd = -1, .gmem = { -1, -1 } };
	pthread_mutex_init(&m->stop_lock, NULL);
	m->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->stop_fd < 0)
		return err_set(err, "cannot create an eventfd: %s", strerror(errno));
	return share ? ram_create_shared(&m->ram, memory, err) : ram_create(&m->ram, memory, err);
}

int machine_open(struct machine *m, unsigned cpus, struct err *err)
{
	long ret;
	unsigned i;

	if (create_vm(m, err) < 0 || add_memory(m, err) < 0)
		return -1;
	ret = m->backend->ioctl(m->system_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (ret < (long)sizeof(struct kvm_run))
		return err_set(err, "KVM_GET_VCPU_MMAP_SIZE gave %ld", ret);
	m->run_size = (size_t)ret;
	for (i = 0; i < cpus; i++)
		if (vcpu_create(m, i, err) < 0)
			return -1;
	return 0;
}

void machine_destroy(struct machine *m)
{
	unsigned i;

	machine_join(m);
	for (i = 0; i < m->n_vcpus; i++)
		vcpu_destroy(&m->vcpus[i]);
	m->n_vcpus = 0;
	private_close(m);
	if (m->vm_fd >= 0)
		m->backend->close(m->vm_fd);
	if (m->system_fd >= 0)
		m->backend->close(m->system_fd);
	if (m->stop_fd >= 0)
		close(m->stop_fd);
	m->vm_fd = m->system_fd = m->stop_fd = -1;
	/* Last: the VM's slots point here. */
	ram_destroy(&m->ram);
	pthread_mutex_destroy(&m->stop_lock);
}

static void set_irq(void *machine, unsigned gsi, int level)
{
	struct machine *m = machine;
	struct kvm_irq_level irq = { .irq = gsi, .level = (uint32_t)level };
	long ret = m->backend->ioctl(m->vm_fd, KVM_IRQ_LINE, (uintptr_t)&irq);

	if (ret < 0)
		machine_stop(m, STOP_HOST_ERROR, 0, "KVM_IRQ_LINE for line %u failed: %s", gsi, strerror((int)-ret));
}

struct irq_line machine_irq_line(struct machine *m, unsigned gsi)
{
	return (struct irq_line){ set_irq, m, gsi };
}

int machine_start(struct machine *m, struct err *err)
{
	unsigned i;

	for (i = 0; i < m->n_vcpus; i++) {
		if (vcpu_start(&m->vcpus[i], err) < 0) {
			machine_stop(m, STOP_HOST_ERROR, 0, "%s", err->text);
			machine_join(m);
			return -1;
		}
	}
	return 0;
}

void machine_stop(struct machine *m, enum stop_reason reason, int detail, const char *format, ...)
{
	static const uint64_t one = 1;
	va_list ap;

	pthread_mutex_lock(&m->stop_lock);
	if (atomic_load(&m->stopped) == STOP_NONE) {
		m->stop_detail = detail;
		va_start(ap, format);
		vsnprintf(m->stop_text, sizeof(m->stop_text), format, ap);
		va_end(ap);
		atomic_store(&m->stopped, (int)reason);
		/* Cannot fail: the counter is at 0 and the descriptor is ours. */
		if (write(m->stop_fd, &one, sizeof(one)) < 0)
			m->stop_detail = detail;
	}
	pthread_mutex_unlock(&m->stop_lock);
}

void machine_join(struct machine *m)
{
	unsigned i;

	for (i = 0; i < m->n_vcpus; i++)
		vcpu_join(&m->vcpus[i]);
}
