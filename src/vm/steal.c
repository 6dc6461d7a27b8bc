/* SPDX-License-Identifier: MIT */
/*
 * Steal time: how long the thread of a vCPU was ready to run and did not, in a record of guest memory; and the record's byte
 * `preempted`, by which guests leave the flushing of a TLB to us (PV TLB flush): a vCPU that stands between two instructions, with
 * the client, need not be interrupted for that. KVM marks it at the same moment: a signal has ended KVM_RUN.
 *
 * The guest's record is read before it is written, as KVM does: the guest may have cleared it, or brought it along from elsewhere.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#include <x86intrin.h>

#include "base/trace.h"
#include "vm/vm.h"

#define MSR_ENABLED	1ull
#define MSR_RESERVED	0x3eull

/* Guest ABI; version is odd while the record is being written. */
struct record { uint64_t steal; uint32_t version, flags; };
#define AT_PREEMPTED	16u
#define PREEMPTED	1u
#define FLUSH_TLB	2u

static struct gpa record_at(const struct vm_vcpu *v)
{
	return GPA(v->steal_msr & ~(MSR_ENABLED | MSR_RESERVED));
}

/* Of the thread that runs the vCPU now. The file stays open: to open it costs ten times as much as to read it. */
static uint64_t run_delay(struct vm_vcpu *v)
{
	unsigned long self = (unsigned long)pthread_self();
	unsigned long long on_cpu, delay = 0;
	char text[96];
	ssize_t n;

	if (v->sched_fd >= 0 && v->sched_thread != self) {
		close(v->sched_fd);
		v->sched_fd = -1;
	}
	if (v->sched_fd < 0) {
		v->sched_fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
		v->sched_thread = self;
		v->is_delay_known = false;
	}
	n = v->sched_fd < 0 ? -1 : pread(v->sched_fd, text, sizeof(text) - 1, 0);
	if (n <= 0) {
		/* Without /proc; or a thread that has ended had the same name. */
		vm_steal_end(v);
		return 0;
	}
	text[n] = 0;
	return sscanf(text, "%llu %llu", &on_cpu, &delay) == 2 ? delay : 0;
}

/* Nanoseconds since the last call; 0 when another thread has taken the vCPU over. */
static uint64_t stolen(struct vm_vcpu *v)
{
	uint64_t now = run_delay(v), before = v->run_delay_ns;
	bool is_known = v->is_delay_known;

	v->run_delay_ns = now;
	v->is_delay_known = true;
	return is_known && now > before ? now - before : 0;
}

void vm_steal_end(struct vm_vcpu *v)
{
	if (v->sched_fd >= 0)
		close(v->sched_fd);
	v->sched_fd = -1;
}

bool vm_steal_due(const struct vm_vcpu *v, unsigned us)
{
	return unlikely(v->steal_msr & MSR_ENABLED) && __rdtsc() - v->steal_at > (uint64_t)vm_host_tsc_khz() * us / 1000;
}

/* From here on the guest may again think that the vCPU runs. */
static bool take_back(struct vm_vcpu *v)
{
	uint8_t byte = 0;

	v->is_preempted = false;
	if (!vm_pv_exchange(v, GPA(record_at(v).v + AT_PREEMPTED), &byte))
		return false;
	if (byte & FLUSH_TLB) {
		v->stats.pv_flushes++;
		acc_flush_all(&v->c.acc);
	}
	return true;
}

void vm_steal_update(struct vm_vcpu *v)
{
	struct gpa gpa = record_at(v);
	struct record r;
	bool ok;

	if (!(v->steal_msr & MSR_ENABLED))
		return;
	v->steal_at = __rdtsc();
	ok = take_back(v) && vm_pv_read(v, gpa, &r, sizeof(r));
	if (ok) {
		r.version = (r.version + (r.version & 1)) + 1;
		ok = vm_pv_write(v, GPA(gpa.v + offsetof(struct record, version)), &r.version, sizeof(r.version));
	}
	if (ok) {
		r.steal += stolen(v);
		vm_pv_write(v, gpa, &r.steal, sizeof(r.steal));
		r.version++;
		ok = vm_pv_write(v, GPA(gpa.v + offsetof(struct record, version)), &r.version, sizeof(r.version));
	}
	gw_trace(pv_write, (int)v->index, v->c.stats.insns, "steal", (unsigned long long)gpa.v, (unsigned)sizeof(r), ok);
}

void vm_steal_set_preempted(struct vm_vcpu *v)
{
	const uint8_t byte = PREEMPTED;

	if (likely(!(v->steal_msr & MSR_ENABLED)) || v->is_preempted)
		return;
	v->is_preempted = vm_pv_write(v, GPA(record_at(v).v + AT_PREEMPTED), &byte, sizeof(byte));
}

int vm_steal_set_msr(struct vm_vcpu *v, uint64_t value)
{
	if (value & MSR_RESERVED)
		return -EINVAL;
	v->steal_msr = value;
	v->is_preempted = false;
	if (value & MSR_ENABLED) {
		stolen(v);
		v->steal_at = __rdtsc();
		vm_vcpu_request(v, VM_REQ_STEAL);
	}
	return 0;
}
