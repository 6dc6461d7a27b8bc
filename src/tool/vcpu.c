/* SPDX-License-Identifier: MIT */
/*
 * One vCPU: creation, its thread, and the KVM_RUN loop that hands exits to the buses.
 *
 * Getting a thread out of the guest: machine_stop has set m->stopped; vcpu_join then writes immediate_exit and sends the
 * kick signal, again and again until the thread says it is done, so no window between check and KVM_RUN matters.
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "cpuid.h"
#include "heki.h"
#include "machine.h"
#include "private.h"

#define KICK_SIGNAL SIGUSR1

#define MSR_IA32_MISC_ENABLE	0x1a0u
#define MISC_ENABLE_FAST_STRING	1ull
#define MSR_MTRR_DEF_TYPE	0x2ffu
#define MTRR_ENABLED_WRITEBACK	0x806ull
#define LAPIC_LVT_LINT0		0x350u
#define LAPIC_LVT_LINT1		0x360u
#define LVT_EXTINT		0x700u
#define LVT_NMI			0x400u

static void on_kick(int sig)
{
	(void)sig;	/* its arrival is its meaning: KVM_RUN returns */
}

void machine_init_signals(void)
{
	struct sigaction action = { .sa_handler = on_kick };

	/* No SA_RESTART: KVM_RUN and device writes must come back. */
	sigaction(KICK_SIGNAL, &action, NULL);
}

static long vcpu_ioctl(struct vcpu *v, unsigned long request, void *arg)
{
	return v->machine->backend->ioctl(v->fd, request, (uintptr_t)arg);
}

static int failed(struct err *err, const char *what, const struct vcpu *v, long ret)
{
	return err_set(err, "%s for CPU %u failed: %s", what, v->id, strerror((int)-ret));
}

int vcpu_create(struct machine *m, unsigned id, struct err *err)
{
	struct vcpu *v = &m->vcpus[id];
	int error = 0;
	long ret;

	*v = (struct vcpu){ .machine = m, .id = id, .fd = -1 };
	ret = m->backend->ioctl(m->vm_fd, KVM_CREATE_VCPU, id);
	if (ret < 0)
		return failed(err, "KVM_CREATE_VCPU", v, ret);
	v->fd = (int)ret;
	m->n_vcpus = id + 1;
	v->run = m->backend->map(v->fd, m->run_size, &error);
	if (!v->run)
		return failed(err, "mapping kvm_run", v, error);
	return 0;
}

void vcpu_destroy(struct vcpu *v)
{
	if (v->run)
		munmap(v->run, v->machine->run_size);
	if (v->fd >= 0)
		v->machine->backend->close(v->fd);
	v->run = NULL;
	v->fd = -1;
}

/* The lines of the interrupt controllers as firmware leaves them: PIC on LINT0, NMI on LINT1. */
static int set_lapic(struct vcpu *v, struct err *err)
{
	static const struct { unsigned reg; uint32_t value; } lines[] = {
		{ LAPIC_LVT_LINT0, LVT_EXTINT }, { LAPIC_LVT_LINT1, LVT_NMI },
	};
	struct kvm_lapic_state lapic;
	long ret = vcpu_ioctl(v, KVM_GET_LAPIC, &lapic);
	unsigned i;

	if (ret < 0)
		return failed(err, "KVM_GET_LAPIC", v, ret);
	for (i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		memcpy(lapic.regs + lines[i].reg, &lines[i].value, sizeof(lines[i].value));
	ret = vcpu_ioctl(v, KVM_SET_LAPIC, &lapic);
	return ret < 0 ? failed(err, "KVM_SET_LAPIC", v, ret) : 0;
}

static int set_msrs(struct vcpu *v, struct err *err)
{
	static const struct kvm_msr_entry entries[] = {
		{ .index = MSR_IA32_MISC_ENABLE, .data = MISC_ENABLE_FAST_STRING },
		{ .index = MSR_MTRR_DEF_TYPE, .data = MTRR_ENABLED_WRITEBACK },
	};
	enum { N = sizeof(entries) / sizeof(entries[0]) };
	union {
		struct kvm_msrs msrs;
		uint8_t bytes[sizeof(struct kvm_msrs) + sizeof(entries)];
	} u = { .msrs = { .nmsrs = N } };
	long ret;

	memcpy(u.bytes + sizeof(u.msrs), entries, sizeof(entries));
	ret = vcpu_ioctl(v, KVM_SET_MSRS, &u);
	if (ret < 0)
		return failed(err, "KVM_SET_MSRS", v, ret);
	if (ret != N)
		return err_set(err, "KVM_SET_MSRS refused MSR 0x%x", entries[ret].index);
	return 0;
}

static int set_entry_state(struct vcpu *v, struct err *err)
{
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	long ret = vcpu_ioctl(v, KVM_GET_SREGS, &sregs);

	if (ret < 0)
		return failed(err, "KVM_GET_SREGS", v, ret);
	loader_entry_state(&v->machine->kernel, &regs, &sregs);
	ret = vcpu_ioctl(v, KVM_SET_SREGS, &sregs);
	if (ret < 0)
		return failed(err, "KVM_SET_SREGS", v, ret);
	ret = vcpu_ioctl(v, KVM_SET_REGS, &regs);
	return ret < 0 ? failed(err, "KVM_SET_REGS", v, ret) : 0;
}

static int prepare(struct vcpu *v, struct err *err)
{
	struct machine *m = v->machine;

	if (cpuid_set(m->backend, m->system_fd, m->vm_fd, v->fd, v->id, m->n_vcpus,
		      m->is_private ? private_patch_cpuid : NULL, err) < 0)
		return -1;
	if (set_lapic(v, err) < 0 || set_msrs(v, err) < 0)
		return -1;
	/* The others wait for INIT and SIPI, in reset state. */
	return v->id == 0 ? set_entry_state(v, err) : 0;
}

/* What the CPU was doing, for the user of a guest that died: shown by main once the terminal is its own again. */
static void keep_state(struct vcpu *v)
{
	struct kvm_regs r;
	struct kvm_sregs s;

	if (vcpu_ioctl(v, KVM_GET_REGS, &r) < 0 || vcpu_ioctl(v, KVM_GET_SREGS, &s) < 0)
		return;
	snprintf(v->machine->report, sizeof(v->machine->report),
		"CPU %u rip=%016llx rflags=%08llx cs=%04x%s cr0=%llx cr2=%llx cr3=%llx cr4=%llx efer=%llx\n"
		"rax=%llx rbx=%llx rcx=%llx rdx=%llx rsi=%llx rdi=%llx rbp=%llx rsp=%llx\n"
		"r8=%llx r9=%llx r10=%llx r11=%llx r12=%llx r13=%llx r14=%llx r15=%llx\n",
		v->id, r.rip, r.rflags, s.cs.selector, s.cs.l ? " (64-bit)" : "", s.cr0, s.cr2, s.cr3, s.cr4, s.efer,
		r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp,
		r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15);
}

static void handle_io(struct vcpu *v)
{
	const struct bus *bus = &v->machine->ports;
	uint8_t *data = (uint8_t *)v->run + v->run->io.data_offset;
	uint16_t port = v->run->io.port;
	unsigned size = v->run->io.size;
	uint32_t i;

	for (i = 0; i < v->run->io.count; i++, data += size) {
		if (v->run->io.direction == KVM_EXIT_IO_OUT)
			bus_write(bus, port, data, size);
		else
			bus_read(bus, port, data, size);
	}
}

static void handle_mmio(struct vcpu *v)
{
	const struct bus *bus = &v->machine->memory;
	unsigned len = v->run->mmio.len;

	if (len > sizeof(v->run->mmio.data))
		len = sizeof(v->run->mmio.data);
	if (v->run->mmio.is_write)
		bus_write(bus, v->run->mmio.phys_addr, v->run->mmio.data, len);
	else
		bus_read(bus, v->run->mmio.phys_addr, v->run->mmio.data, len);
}

static void handle_system_event(struct machine *m, unsigned type)
{
	if (type == KVM_SYSTEM_EVENT_SHUTDOWN)
		machine_stop(m, STOP_POWEROFF, 0, "the guest powered off");
	else if (type == KVM_SYSTEM_EVENT_RESET)
		machine_stop(m, STOP_RESET, 0, "the guest reset the machine");
	else
		machine_stop(m, STOP_GUEST_DIED, 0, "the guest crashed (system event %u)", type);
}

static void __attribute__((format(printf, 2, 3))) died(struct vcpu *v, const char *format, ...)
{
	char text[160];
	va_list ap;

	/* Only the first reason is shown; another vCPU's registers would only confuse. */
	if (atomic_load(&v->machine->stopped) != STOP_NONE)
		return;
	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	keep_state(v);
	machine_stop(v->machine, STOP_GUEST_DIED, 0, "%s (CPU %u)", text, v->id);
}

static void handle_exit(struct vcpu *v)
{
	struct machine *m = v->machine;
	struct kvm_run *run = v->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		v->exits[EXIT_COUNT_IO]++;
		handle_io(v);
		return;
	case KVM_EXIT_MMIO:
		v->exits[EXIT_COUNT_MMIO]++;
		handle_mmio(v);
		return;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		v->exits[EXIT_COUNT_INTR]++;
		return;
	default:
		v->exits[EXIT_COUNT_OTHER]++;
	}
	if (heki_exit(v))
		return;
	switch (run->exit_reason) {
	case KVM_EXIT_SHUTDOWN:
		died(v, "the guest died of a triple fault");
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		handle_system_event(m, run->system_event.type);
		break;
	case KVM_EXIT_HLT:
		/* Only an engine without a LAPIC of its own gives this; nothing could wake the CPU. */
		died(v, "the guest halted with nothing to wake it");
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		died(v, "the engine cannot go on: internal error %u", run->internal.suberror);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		died(v, "entering the guest failed: reason 0x%llx", run->fail_entry.hardware_entry_failure_reason);
		break;
	default:
		died(v, "exit %u, which this machine does not expect", run->exit_reason);
	}
}

static void *vcpu_main(void *arg)
{
	struct vcpu *v = arg;
	struct machine *m = v->machine;

	while (atomic_load(&m->stopped) == STOP_NONE) {
		long ret = vcpu_ioctl(v, KVM_RUN, NULL);

		if (m->is_private && private_exit(v, ret)) {
			v->exits[EXIT_COUNT_OTHER]++;
		} else if (ret >= 0) {
			handle_exit(v);
		} else if (ret == -EINTR) {
			v->exits[EXIT_COUNT_INTR]++;
		} else if (ret == -EAGAIN) {
			v->exits[EXIT_COUNT_AGAIN]++;	/* a waiting CPU got INIT or SIPI */
		} else {
			keep_state(v);
			machine_stop(m, STOP_HOST_ERROR, 0, "KVM_RUN for CPU %u failed: %s", v->id, strerror((int)-ret));
		}
	}
	/* A guest that had to be stopped may be stuck: show where. */
	if (m->verbose && v->id == 0 && (atomic_load(&m->stopped) == STOP_SIGNAL || atomic_load(&m->stopped) == STOP_QUIT))
		keep_state(v);
	atomic_store(&v->done, true);
	return NULL;
}

int vcpu_start(struct vcpu *v, struct err *err)
{
	int ret;

	if (prepare(v, err) < 0)
		return -1;
	ret = pthread_create(&v->thread, NULL, vcpu_main, v);
	if (ret)
		return err_set(err, "cannot create a thread for CPU %u: %s", v->id, strerror(ret));
	v->has_thread = true;
	return 0;
}

void vcpu_join(struct vcpu *v)
{
	static const struct timespec pause = { .tv_nsec = 1000000 };

	if (!v->has_thread)
		return;
	while (!atomic_load(&v->done)) {
		__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		pthread_kill(v->thread, KICK_SIGNAL);
		nanosleep(&pause, NULL);
	}
	pthread_join(v->thread, NULL);
	v->has_thread = false;
}
