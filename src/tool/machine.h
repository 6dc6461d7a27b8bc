/* SPDX-License-Identifier: MIT */
/*
 * The small machine behind `guestward boot`: one VM with KVM's interrupt controllers and PIT, RAM, a serial port, a power
 * and reset block, a clock, virtio devices, and its vCPU threads. An ordinary KVM client: all it knows of the VM goes
 * through struct backend.
 *
 * Life: machine_create; devices and kernel are added; machine_open; machine_start; the main thread runs the console until
 * somebody called machine_stop (a vCPU, a device, the console); machine_join; machine_destroy. machine_stop may be called from any thread, the first call counts.
 */
#ifndef TOOL_MACHINE_H
#define TOOL_MACHINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <guestward/kvm.h>

#include "backend.h"
#include "bus.h"
#include "loader.h"
#include "ram.h"

#define CPUS_MAX 64u

enum stop_reason {
	STOP_NONE,
	STOP_POWEROFF,
	STOP_RESET,
	STOP_GUEST_DIED,	/* triple fault, or the engine could not go on */
	STOP_HOST_ERROR,	/* KVM_RUN failed: our mistake, not the guest's */
	STOP_QUIT,		/* the user's escape */
	STOP_SIGNAL,		/* detail: the signal */
};

enum exit_counter {
	EXIT_COUNT_IO, EXIT_COUNT_MMIO, EXIT_COUNT_INTR, EXIT_COUNT_AGAIN, EXIT_COUNT_OTHER, EXIT_COUNTERS
};

struct machine;

struct vcpu {
	struct machine *machine;
	unsigned id;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	bool has_thread;
	atomic_bool done;			/* its thread will not enter the guest again */
	uint64_t exits[EXIT_COUNTERS];		/* written by its own thread, read after it ended */
};

struct machine {
	const struct backend *backend;
	int system_fd, vm_fd;
	int stop_fd;				/* eventfd: readable once stopped */
	bool verbose;
	bool is_private;			/* --private: set between machine_create and machine_open */
	int gmem[2];				/* then: the files behind slots 0 and 1, or -1 */
	struct ram ram;
	struct bus ports, memory;
	unsigned n_vcpus;
	struct vcpu vcpus[CPUS_MAX];
	size_t run_size;
	struct kernel kernel;
	atomic_int stopped;			/* enum stop_reason */
	int stop_detail;			/* written by the winner before stop_fd is signalled */
	char stop_text[256];
	char report[1024];			/* registers of the vCPU that ended it, or empty */
	pthread_mutex_t stop_lock;
};

/* Only memory yet, so that a bad kernel is told before an engine is opened. On failure call machine_destroy, too. */
int machine_create(struct machine *m, const struct backend *backend, uint64_t memory, bool share, struct err *err);

/* Opens the engine: the VM, its memory slots and @cpus vCPUs. */
int machine_open(struct machine *m, unsigned cpus, struct err *err);
void machine_destroy(struct machine *m);

/* The line of a device: goes to the PIC and the IOAPIC through KVM's default routing. */
struct irq_line machine_irq_line(struct machine *m, unsigned gsi);

/* Creates the vCPU threads; m->kernel is loaded and written to memory. */
int machine_start(struct machine *m, struct err *err);

/* First call wins. @format says what happened, for the user. */
void machine_stop(struct machine *m, enum stop_reason reason, int detail, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* Gets every vCPU thread out of the guest and ends it. After this the machine can only be looked at and destroyed. */
void machine_join(struct machine *m);

/* Prepares the signal that kicks vCPU threads; once per process, before any machine. */
void machine_init_signals(void);

/* For vcpu.c */
int vcpu_create(struct machine *m, unsigned id, struct err *err);
int vcpu_start(struct vcpu *v, struct err *err);
void vcpu_join(struct vcpu *v);
void vcpu_destroy(struct vcpu *v);

#endif
