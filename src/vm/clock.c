/* SPDX-License-Identifier: MIT */
/*
 * Time: the guest's TSC, kvmclock, wall clock, and the MSRs through which the guest asks for what the host tells it.
 *
 * Guest TSC = host TSC * ratio + offset, so that RDTSC costs no system call and all vCPUs agree. kvmclock goes by the host's TSC from
 * one moment per VM (struct dev_kvmclock): what KVM calls a master clock. Pages in guest memory are written through the access path (origin PV) on the
 * vCPU's own thread, between two runs; only the wall clock is written at once, because the guest reads it right after.
 */
#include <cpuid.h>
#include <errno.h>
#include <setjmp.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#include "base/trace.h"
#include "cpu/host/signal.h"
#include "cpu/sys/sys.h"
#include "vm/vm.h"

#define MSR_WALL_OLD	0x11
#define MSR_CLOCK_OLD	0x12
#define MSR_WALL	0x4b564d00
#define MSR_CLOCK	0x4b564d01
#define MSR_ASYNC_PF	0x4b564d02
#define MSR_STEAL	0x4b564d03
#define MSR_PV_EOI	0x4b564d04
#define MSR_POLL	0x4b564d05
#define MSR_ASYNC_INT	0x4b564d06
#define MSR_ASYNC_ACK	0x4b564d07
#define MSR_MIGRATION	0x4b564d08

#define FEATURE_CLOCK_OLD	BIT(0)
#define FEATURE_CLOCK		BIT(3)
#define FEATURE_ASYNC_PF	BIT(4)
#define FEATURE_STEAL		BIT(5)
#define FEATURE_PV_EOI		BIT(6)
#define FEATURE_ASYNC_VMEXIT	BIT(10)
#define FEATURE_POLL		BIT(12)
#define FEATURE_ASYNC_INT	BIT(14)

/* ---- the host --------------------------------------------------------------------------------------------------------- */

static uint64_t ns_of(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* A moment on both clocks, with the narrowest bracket of several tries. */
static void moment(clockid_t clock, uint64_t *tsc, uint64_t *ns)
{
	uint64_t best = UINT64_MAX;

	for (unsigned i = 0; i < 8; i++) {
		uint64_t before = __rdtsc(), t = ns_of(clock), after = __rdtsc();

		if (after - before < best) {
			best = after - before;
			*tsc = before + (after - before) / 2;
			*ns = t;
		}
	}
}

static uint32_t khz_from_cpuid(void)
{
	unsigned a, b, c, d;

	if (__get_cpuid_max(0, NULL) >= 0x15) {
		__cpuid(0x15, a, b, c, d);
		if (a && b && c)
			return (uint32_t)((uint64_t)c * b / a / 1000);
	}
	__cpuid(1, a, b, c, d);
	if (c >> 31) {
		__cpuid(0x40000000, a, b, c, d);
		if (a >= 0x40000010 && a < 0x40001000) {
			__cpuid(0x40000010, a, b, c, d);
			return a;
		}
	}
	return 0;
}

static uint32_t host_khz;

static void find_khz(void)
{
	uint64_t t0 = 0, n0 = 0, t1 = 0, n1 = 0;

	host_khz = khz_from_cpuid();
	if (host_khz)
		return;
	moment(CLOCK_MONOTONIC_RAW, &t0, &n0);
	nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	moment(CLOCK_MONOTONIC_RAW, &t1, &n1);
	host_khz = n1 > n0 ? (uint32_t)((t1 - t0) * 1000000ull / (n1 - n0)) : 1000000;
	if (!host_khz)
		host_khz = 1000000;
}

uint32_t vm_host_tsc_khz(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, find_khz);
	return host_khz;
}

static struct dev_pvclock_sample sample(void)
{
	struct dev_pvclock_sample s = { 0 };

	moment(CLOCK_REALTIME, &s.host_tsc, &s.realtime_ns);
	return s;
}

/* ---- TSC -------------------------------------------------------------------------------------------------------------- */

#define RATIO_ONE	(1ull << 32)

static uint64_t scale(uint64_t host_tsc, uint64_t ratio)
{
	if (likely(ratio == RATIO_ONE))
		return host_tsc;
	return (uint64_t)((unsigned __int128)host_tsc * ratio >> 32);
}

uint64_t vm_tsc_at(const struct vm_vcpu *v, uint64_t host_tsc)
{
	return scale(host_tsc, v->tsc_ratio) + atomic_load_explicit(&v->tsc_offset, memory_order_relaxed);
}

uint64_t vm_tsc(const struct vm_vcpu *v)
{
	return vm_tsc_at(v, __rdtsc());
}

void vm_tsc_set_offset(struct vm_vcpu *v, uint64_t offset)
{
	atomic_store(&v->tsc_offset, offset);
	if (v->lapic)
		dev_lapic_tsc_moved(v->lapic);
	if (v->clock_msr & 1)
		vm_vcpu_request(v, VM_REQ_CLOCK);
}

void vm_tsc_guest_write(struct vm_vcpu *v, uint64_t value)
{
	vm_tsc_set_offset(v, value - scale(__rdtsc(), v->tsc_ratio));
}

/*
 * A write by the client means "this is what the TSC should be", and the client writes vCPU after vCPU: values within a second
 * of what the last one it wrote has become by now are taken to mean the same TSC. Not within a second of what new vCPUs start with: a guest
 * that is restored into a young VM may itself be young, and must not go back in time. 0 always means the same, as for a new vCPU.
 */
static void host_write(struct vm_vcpu *v, uint64_t value, bool by_client)
{
	struct vm *vm = v->vm;
	uint64_t host = __rdtsc(), offset = value - scale(host, v->tsc_ratio), expected, apart;
	bool same = false;

	pthread_mutex_lock(&vm->tsc_lock);
	if (vm->tsc_written_khz == v->tsc_khz) {
		expected = vm->tsc_written + scale(host - vm->tsc_written_at, v->tsc_ratio);
		apart = value > expected ? value - expected : expected - value;
		same = !value || (vm->is_tsc_written && apart < (uint64_t)v->tsc_khz * 1000);
	}
	if (same)
		offset = vm->tsc_cur_offset;
	vm->tsc_cur_offset = offset;
	vm->tsc_written = scale(host, v->tsc_ratio) + offset;
	vm->tsc_written_at = host;
	vm->tsc_written_khz = v->tsc_khz;
	vm->is_tsc_written |= by_client;
	pthread_mutex_unlock(&vm->tsc_lock);
	vm_tsc_set_offset(v, offset);
}

void vm_tsc_host_write(struct vm_vcpu *v, uint64_t value)
{
	host_write(v, value, true);
}

#define TOLERANCE_PPM	250u	/* KVM's tsc_tolerance_ppm */

/*
 * The CPU reads the counter by itself where an offset is all there is to it. As in KVM, a rate that is nearly the host's is the host's: what
 * another process or host measured as the same clock.
 */
static void set_ratio(struct vm_vcpu *v, uint64_t khz)
{
	uint64_t host = vm_host_tsc_khz(), apart = khz > host ? khz - host : host - khz;

	v->tsc_ratio = apart * 1000000 <= host * TOLERANCE_PPM ? RATIO_ONE : (khz << 32) / host;
	if (v->tsc_ratio == 0)
		v->tsc_ratio = 1;
	v->c.tsc_offset = v->tsc_ratio == RATIO_ONE ? &v->tsc_offset : NULL;
}

void vm_tsc_init(struct vm_vcpu *v)
{
	set_ratio(v, v->tsc_khz);
	host_write(v, 0, false);
}

int vm_set_tsc_khz(struct vm_vcpu *v, uint64_t khz)
{
	uint64_t now = vm_tsc(v);

	if (!khz)
		khz = vm_host_tsc_khz();
	if (khz > UINT32_MAX)
		return -EINVAL;
	v->tsc_khz = (uint32_t)khz;
	set_ratio(v, khz);
	/* The count goes on from where it is. */
	vm_tsc_set_offset(v, now - scale(__rdtsc(), v->tsc_ratio));
	if (v->lapic)
		dev_lapic_set_tsc_khz(v->lapic, v->tsc_khz);
	return 0;
}

/* ---- guest memory ------------------------------------------------------------------------------------------------------ */

/* One piece within a page. Both rights: a byte, exchanged. */
static bool pv_piece(struct vm_vcpu *v, struct gpa gpa, void *buf, uint16_t len, unsigned rights)
{
	struct acc_request rq = {
		.cpu = &v->c.acc, .vm = v->vm->acc, .len = len, .rights = (uint8_t)rights, .stage = ACC_FINAL, .origin = ACC_PV,
		.by_gpa = true, .gpa = gpa,
	};
	struct acc_result res = { 0 };
	enum acc_verdict verdict = acc_check(&rq, &res);

	if (verdict == ACC_SUBST && res.subst != SUBST_FRAME)
		return rights == ACC_W;		/* dropped: the guard has said what it wanted to say */
	if (verdict != ACC_ALLOW && verdict != ACC_SUBST)
		return false;
	if (rights == ACC_R) {
		memcpy(buf, res.hva, len);
	} else {
		if (rights & ACC_R)
			*(uint8_t *)buf = __atomic_exchange_n(res.hva, *(uint8_t *)buf, __ATOMIC_SEQ_CST);
		else
			memcpy(res.hva, buf, len);
		acc_store_done(v->vm->acc, res.hva, len);
	}
	return true;
}

static bool pv_pieces(struct vm_vcpu *v, struct gpa gpa, uint8_t *buf, size_t len, unsigned rights)
{
	while (len) {
		size_t n = GW_PAGE_SIZE - (gpa.v & GW_PAGE_MASK);

		n = n < len ? n : len;
		if (!pv_piece(v, gpa, buf, (uint16_t)n, rights))
			return false;
		gpa.v += n;
		buf += n;
		len -= n;
	}
	return true;
}

static bool pv_access(struct vm_vcpu *v, struct gpa gpa, uint8_t *buf, size_t len, unsigned rights)
{
	struct cpu_signal_guard guard;
	volatile bool ok = false;	/* stays so when the client took the memory away */

	acc_host_begin(v->vm->acc);
	if (sigsetjmp(guard.recover, 0) == 0) {
		cpu_signal_guard_enter(&guard, &v->c);
		ok = pv_pieces(v, gpa, buf, len, rights);
	}
	cpu_signal_guard_leave(&guard);
	acc_host_end(v->vm->acc);
	return ok;
}

bool vm_pv_read(struct vm_vcpu *v, struct gpa gpa, void *buf, size_t len)
{
	return pv_access(v, gpa, buf, len, ACC_R);
}

bool vm_pv_write(struct vm_vcpu *v, struct gpa gpa, const void *buf, size_t len)
{
	return pv_access(v, gpa, (uint8_t *)(uintptr_t)buf, len, ACC_W);
}

bool vm_pv_exchange(struct vm_vcpu *v, struct gpa gpa, uint8_t *byte)
{
	return pv_access(v, gpa, byte, sizeof(*byte), ACC_R | ACC_W);
}

static bool clock_read(void *opaque, struct gpa gpa, void *buf, size_t len)
{
	return vm_pv_read(opaque, gpa, buf, len);
}

static bool clock_write(void *opaque, struct gpa gpa, const void *buf, size_t len)
{
	return vm_pv_write(opaque, gpa, buf, len);
}

static const struct dev_pvclock_ops pvclock_ops = { .read = clock_read, .write = clock_write };

/* ---- kvmclock ---------------------------------------------------------------------------------------------------------- */

static struct dev_kvmclock clock_of(struct vm *vm)
{
	struct dev_kvmclock c;

	pthread_mutex_lock(&vm->tsc_lock);
	c = vm->clock;
	pthread_mutex_unlock(&vm->tsc_lock);
	return c;
}

int vm_clock_get(struct vm *vm, struct kvm_clock_data *data)
{
	struct dev_kvmclock c = clock_of(vm);
	struct dev_pvclock_sample now = sample();

	dev_kvmclock_get(&c, &now, data);
	return 0;
}

int vm_clock_set(struct vm *vm, const struct kvm_clock_data *data)
{
	struct dev_pvclock_sample now = sample();
	unsigned n = atomic_load(&vm->n_vcpus);
	int err;

	pthread_mutex_lock(&vm->tsc_lock);
	err = dev_kvmclock_set(&vm->clock, &now, data);
	pthread_mutex_unlock(&vm->tsc_lock);
	for (unsigned i = 0; i < n && !err; i++)
		vm_vcpu_request(atomic_load(&vm->vcpu[i]), VM_REQ_CLOCK);
	return err;
}

void vm_clock_update(struct vm_vcpu *v)
{
	struct dev_kvmclock c;
	struct gpa gpa = GPA(v->clock_msr & ~1ull);
	uint8_t flags = DEV_PVCLOCK_TSC_STABLE;
	bool ok;

	if (!(v->clock_msr & 1))
		return;
	c = clock_of(v->vm);
	if (v->is_guest_stopped)
		flags |= DEV_PVCLOCK_GUEST_STOPPED;
	v->is_guest_stopped = false;
	/* The rate that the guest's counter has: within the tolerance not the one that was asked for. */
	dev_pvclock_fill(&v->clock_page, v->tsc_ratio == RATIO_ONE ? c.host_khz : v->tsc_khz, vm_tsc_at(v, c.host_tsc), c.ns, flags);
	ok = dev_pvclock_write(&v->clock_page, gpa, &pvclock_ops, v);
	gw_trace(pv_write, (int)v->index, v->c.stats.insns, "clock", (unsigned long long)gpa.v,
		 (unsigned)sizeof(v->clock_page), ok);
}

static void write_wall_clock(struct vm_vcpu *v, struct gpa gpa)
{
	struct dev_kvmclock c = clock_of(v->vm);
	struct dev_pvclock_sample now = sample();
	uint64_t boot = now.realtime_ns - dev_kvmclock_at(&c, now.host_tsc);
	bool ok = dev_pvclock_write_wall(gpa, boot, &pvclock_ops, v);

	gw_trace(pv_write, (int)v->index, v->c.stats.insns, "wall", (unsigned long long)gpa.v, 12u, ok);
}

/* ---- the MSRs ---------------------------------------------------------------------------------------------------------- */

static bool has_feature(const struct vm_vcpu *v, uint32_t bit)
{
	return !v->is_pv_enforced || v->pv_features & bit;
}

static int set_clock(struct vm_vcpu *v, uint64_t value)
{
	v->clock_msr = value;
	vm_vcpu_request(v, VM_REQ_CLOCK);
	return 0;
}

static int set_wall(struct vm_vcpu *v, bool host, uint64_t value)
{
	v->wall_msr = value;
	if (!host)
		write_wall_clock(v, GPA(value));
	return 0;
}

int vm_pv_msr_set(struct vm_vcpu *v, uint32_t index, bool host, uint64_t value)
{
	switch (index) {
	case MSR_CLOCK:
		return has_feature(v, FEATURE_CLOCK) ? set_clock(v, value) : -EINVAL;
	case MSR_CLOCK_OLD:
		return has_feature(v, FEATURE_CLOCK_OLD) ? set_clock(v, value) : -EINVAL;
	case MSR_WALL:
		return has_feature(v, FEATURE_CLOCK) ? set_wall(v, host, value) : -EINVAL;
	case MSR_WALL_OLD:
		return has_feature(v, FEATURE_CLOCK_OLD) ? set_wall(v, host, value) : -EINVAL;
	case MSR_STEAL:
		return has_feature(v, FEATURE_STEAL) ? vm_steal_set_msr(v, value) : -EINVAL;
	case MSR_POLL:
		if (!has_feature(v, FEATURE_POLL) || value & ~1ull)
			return -EINVAL;
		v->poll_msr = value;
		return 0;
	case MSR_PV_EOI:
		return has_feature(v, FEATURE_PV_EOI) ? vm_pv_eoi_set_msr(v, value) : -EINVAL;
	case MSR_ASYNC_PF:
		if (!has_feature(v, FEATURE_ASYNC_PF))
			return -EINVAL;
		return vm_async_pf_set_msr(v, value, has_feature(v, FEATURE_ASYNC_VMEXIT), has_feature(v, FEATURE_ASYNC_INT));
	case MSR_ASYNC_INT:
		return has_feature(v, FEATURE_ASYNC_INT) ? vm_async_pf_set_int(v, value) : -EINVAL;
	case MSR_ASYNC_ACK:
		return has_feature(v, FEATURE_ASYNC_INT) ? vm_async_pf_ack(v, value) : -EINVAL;
	/* Not offered: a client may restore the 0 it once saved. */
	case MSR_MIGRATION:
		return host && !value ? 0 : -EINVAL;
	default:
		return -ENOENT;
	}
}

int vm_pv_msr_get(struct vm_vcpu *v, uint32_t index, bool host, uint64_t *value)
{
	switch (index) {
	case MSR_CLOCK:
	case MSR_CLOCK_OLD:
		*value = v->clock_msr;
		return has_feature(v, index == MSR_CLOCK ? FEATURE_CLOCK : FEATURE_CLOCK_OLD) ? 0 : -EINVAL;
	case MSR_WALL:
	case MSR_WALL_OLD:
		*value = v->wall_msr;
		return has_feature(v, index == MSR_WALL ? FEATURE_CLOCK : FEATURE_CLOCK_OLD) ? 0 : -EINVAL;
	case MSR_STEAL:
		*value = v->steal_msr;
		return has_feature(v, FEATURE_STEAL) ? 0 : -EINVAL;
	case MSR_POLL:
		*value = v->poll_msr;
		return has_feature(v, FEATURE_POLL) ? 0 : -EINVAL;
	case MSR_PV_EOI:
		*value = v->pv_eoi_msr;
		return has_feature(v, FEATURE_PV_EOI) ? 0 : -EINVAL;
	case MSR_ASYNC_PF:
		*value = v->apf_msr;
		return has_feature(v, FEATURE_ASYNC_PF) ? 0 : -EINVAL;
	case MSR_ASYNC_INT:
		*value = v->apf_int_msr;
		return has_feature(v, FEATURE_ASYNC_INT) ? 0 : -EINVAL;
	case MSR_ASYNC_ACK:
		*value = 0;
		return has_feature(v, FEATURE_ASYNC_INT) ? 0 : -EINVAL;
	case MSR_MIGRATION:
		*value = 0;
		return host ? 0 : -EINVAL;
	default:
		return -ENOENT;
	}
}
