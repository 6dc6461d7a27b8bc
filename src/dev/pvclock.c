/* SPDX-License-Identifier: MIT */
/*
 * The arithmetic of kvmclock. All 64-bit results wrap as the guest's own computation would.
 * Source: KVM's guest documentation "KVM-specific MSRs" (system time, wall clock).
 */
#include "dev/pvclock.h"

#include <errno.h>
#include <string.h>

#define NSEC_PER_SEC	1000000000ull

/*
 * Wanted: ns = ((ticks << shift) * mul) >> 32 with mul in [2^31, 2^32), for the best precision. A frequency f needs
 * mul = 10^9 * 2^32 / (f << shift); f moves into (10^9, 2 * 10^9] by shifting.
 */
void dev_pvclock_scale(uint32_t tsc_khz, uint32_t *mul, int8_t *shift)
{
	uint64_t hz = tsc_khz * 1000ull;
	int s = 0;

	*mul = 0;
	*shift = 0;
	if (!hz)
		return;
	while (hz > 2 * NSEC_PER_SEC) {
		hz >>= 1;
		s--;
	}
	while (hz <= NSEC_PER_SEC) {
		hz <<= 1;
		s++;
	}
	/* The bits of hz lost above would be an error of 1e-9 per shift: divide the exact frequency instead. */
	if (s < 0)
		*mul = (uint32_t)((((unsigned __int128)NSEC_PER_SEC << 32) << -s) / (tsc_khz * 1000ull));
	else
		*mul = (uint32_t)((NSEC_PER_SEC << 32) / hz);
	*shift = (int8_t)s;
}

uint64_t dev_pvclock_ns(const struct dev_pvclock_time *t, uint64_t tsc)
{
	uint64_t delta = tsc - t->tsc_timestamp;

	delta = t->tsc_shift >= 0 ? delta << t->tsc_shift : delta >> -t->tsc_shift;
	return t->system_time + (uint64_t)(((unsigned __int128)delta * t->tsc_to_system_mul) >> 32);
}

void dev_pvclock_fill(struct dev_pvclock_time *t, uint32_t tsc_khz, uint64_t tsc, uint64_t system_ns, uint8_t flags)
{
	dev_pvclock_scale(tsc_khz, &t->tsc_to_system_mul, &t->tsc_shift);
	t->tsc_timestamp = tsc;
	t->system_time = system_ns;
	t->flags = flags;
	t->pad0 = 0;
	memset(t->pad, 0, sizeof(t->pad));
}

static bool write_version(struct gpa gpa, uint32_t version, const struct dev_pvclock_ops *ops, void *opaque)
{
	bool ok;

	/* The guest reads version, body, version: neither write may pass the body's. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	ok = ops->write(opaque, gpa, &version, sizeof(version));
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return ok;
}

/* The version goes on from the guest's own: after a restore on another host it must not repeat. Junk is made even. */
static uint32_t next_version(uint32_t guest_version)
{
	return ((guest_version + 1) & ~1u) + 2;
}

bool dev_pvclock_write(const struct dev_pvclock_time *t, struct gpa gpa, const struct dev_pvclock_ops *ops, void *opaque)
{
	const size_t body = offsetof(struct dev_pvclock_time, tsc_timestamp);
	struct dev_pvclock_time out = *t, old;

	if (!ops->read(opaque, gpa, &old, sizeof(old)))
		return false;
	out.flags |= old.flags & DEV_PVCLOCK_GUEST_STOPPED;
	out.version = next_version(old.version);
	return write_version(gpa, out.version - 1, ops, opaque) &&
	       ops->write(opaque, GPA(gpa.v + body), (const uint8_t *)&out + body, sizeof(out) - body) &&
	       write_version(gpa, out.version, ops, opaque);
}

bool dev_pvclock_write_wall(struct gpa gpa, uint64_t boot_realtime_ns, const struct dev_pvclock_ops *ops, void *opaque)
{
	const size_t body = offsetof(struct dev_pvclock_wall, sec);
	struct dev_pvclock_wall wall = {
		.sec = (uint32_t)(boot_realtime_ns / NSEC_PER_SEC),
		.nsec = (uint32_t)(boot_realtime_ns % NSEC_PER_SEC),
	};

	if (!ops->read(opaque, gpa, &wall.version, sizeof(wall.version)))
		return false;
	wall.version = next_version(wall.version);
	return write_version(gpa, wall.version - 1, ops, opaque) &&
	       ops->write(opaque, GPA(gpa.v + body), &wall.sec, sizeof(wall) - body) &&
	       write_version(gpa, wall.version, ops, opaque);
}

uint64_t dev_kvmclock_at(const struct dev_kvmclock *c, uint64_t host_tsc)
{
	struct dev_pvclock_time t;

	/* Read before another thread set the clock, or on a CPU a little behind: it never goes back. */
	if ((int64_t)(host_tsc - c->host_tsc) < 0)
		return c->ns;
	dev_pvclock_fill(&t, c->host_khz, c->host_tsc, c->ns, 0);
	return dev_pvclock_ns(&t, host_tsc);
}

void dev_kvmclock_get(const struct dev_kvmclock *c, const struct dev_pvclock_sample *now, struct kvm_clock_data *data)
{
	memset(data, 0, sizeof(*data));
	data->clock = dev_kvmclock_at(c, now->host_tsc);
	data->flags = KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
	data->realtime = now->realtime_ns;
	data->host_tsc = now->host_tsc;
}

int dev_kvmclock_set(struct dev_kvmclock *c, const struct dev_pvclock_sample *now, const struct kvm_clock_data *data)
{
	uint64_t clock = data->clock;

	if (data->flags & ~(uint32_t)KVM_CLOCK_REALTIME)
		return -EINVAL;
	/* Time passed since the save; never negative, whatever the two hosts' clocks say. */
	if ((data->flags & KVM_CLOCK_REALTIME) && now->realtime_ns > data->realtime)
		clock += now->realtime_ns - data->realtime;
	c->host_tsc = now->host_tsc;
	c->ns = clock;
	return 0;
}
