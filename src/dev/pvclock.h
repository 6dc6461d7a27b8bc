/* SPDX-License-Identifier: MIT */
/*
 * kvmclock: the arithmetic of the pvclock structures and the order in which they are written. Knows neither vCPUs nor MSRs;
 * guest memory only through the ops that vm/ fills with the access path (such writes are judged like any other).
 *
 * A guest computes  ns = system_time + ((((tsc - tsc_timestamp) << shift) * mul) >> 32)  while version is even and unchanged.
 */
#ifndef GW_DEV_PVCLOCK_H
#define GW_DEV_PVCLOCK_H

#include <guestward/kvm.h>

#include "base/types.h"

#define DEV_PVCLOCK_TSC_STABLE		0x01
#define DEV_PVCLOCK_GUEST_STOPPED	0x02

struct dev_pvclock_time {		/* per vCPU, MSR 0x4B564D01 or 0x12: 32 bytes, guest ABI */
	uint32_t version;
	uint32_t pad0;
	uint64_t tsc_timestamp;
	uint64_t system_time;
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags;
	uint8_t pad[2];
};
_Static_assert(sizeof(struct dev_pvclock_time) == 32, "pvclock guest ABI");

struct dev_pvclock_wall {		/* MSR 0x4B564D00 or 0x11 */
	uint32_t version, sec, nsec;
};
_Static_assert(sizeof(struct dev_pvclock_wall) == 12, "wall clock guest ABI");

/* False: the page is gone or the write was denied; the update is then given up. */
struct dev_pvclock_ops {
	bool (*read)(void *opaque, struct gpa gpa, void *buf, size_t len);
	bool (*write)(void *opaque, struct gpa gpa, const void *buf, size_t len);
};

/* mul and shift that turn TSC ticks into nanoseconds; khz 0 gives a clock that stands still. */
void dev_pvclock_scale(uint32_t tsc_khz, uint32_t *mul, int8_t *shift);

/* What a guest would compute. */
uint64_t dev_pvclock_ns(const struct dev_pvclock_time *t, uint64_t tsc);

/* Fill all but version. */
void dev_pvclock_fill(struct dev_pvclock_time *t, uint32_t tsc_khz, uint64_t tsc, uint64_t system_ns, uint8_t flags);

/*
 * Write @t at @gpa under the version protocol; t->version is not used, the count goes on from the guest's. A GUEST_STOPPED
 * that the guest has not yet cleared is kept.
 */
bool dev_pvclock_write(const struct dev_pvclock_time *t, struct gpa gpa, const struct dev_pvclock_ops *ops, void *opaque);

/* Wall clock at the time the kvmclock was 0: realtime_ns - system_ns. */
bool dev_pvclock_write_wall(struct gpa gpa, uint64_t boot_realtime_ns, const struct dev_pvclock_ops *ops, void *opaque);

/* --- the VM's clock -------------------------------------------------------------------------------------------------- */

/*
 * What it showed when the host's TSC was this. It goes on by the TSC alone, in the arithmetic of the guests' pages, which are
 * filled from the same two numbers: the client and every guest read the same clock, however long they read it.
 */
struct dev_kvmclock { uint64_t host_tsc, ns; uint32_t host_khz; };

/* One moment, sampled together by the caller. */
struct dev_pvclock_sample { uint64_t realtime_ns, host_tsc; };

uint64_t dev_kvmclock_at(const struct dev_kvmclock *c, uint64_t host_tsc);

/* KVM_GET_CLOCK with all of TSC_STABLE, REALTIME and HOST_TSC. */
void dev_kvmclock_get(const struct dev_kvmclock *c, const struct dev_pvclock_sample *now, struct kvm_clock_data *data);

/* KVM_SET_CLOCK. -EINVAL flags other than KVM_CLOCK_REALTIME; then *@c is unchanged. */
int dev_kvmclock_set(struct dev_kvmclock *c, const struct dev_pvclock_sample *now, const struct kvm_clock_data *data);

#endif
