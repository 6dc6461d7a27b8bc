/* SPDX-License-Identifier: MIT */
/* Paravirtual pages and hypercalls that KVM has for its guests: PV EOI, steal time with PV TLB flush, PV IPI and yield. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "flat.h"

#define MSR_PV_EOI	0x4b564d04u
#define MSR_STEAL	0x4b564d03u
#define MSR_CLOCK	0x4b564d01u

/* ---- PV EOI ------------------------------------------------------------------------------------------------------------ */

static void eoi_open(struct rig *r)
{
	flat_open(r, RIG_IRQCHIP | RIG_CPUID);
	assert_int_equal(flat_set_msr(r, MSR_PV_EOI, FLAT_BYTE | 1), 1);
	assert_int_equal(flat_run(r), FLAT_IDLE);
}

/* Is any interrupt in service or requested? */
static bool is_quiet(struct rig *r)
{
	struct kvm_lapic_state l;

	assert_int_equal(rig_ioctl(r->vcpu, KVM_GET_LAPIC, &l), 0);
	for (unsigned i = 0; i < 8; i++)
		for (unsigned k = 0; k < 4; k++)
			if (l.regs[0x100 + i * 16 + k] || l.regs[0x200 + i * 16 + k])
				return false;
	return true;
}

static void expect_counts(struct rig *r, unsigned taken, unsigned native)
{
	assert_int_equal(flat_word(r, FLAT_COUNT), taken);
	assert_int_equal(flat_word(r, FLAT_NATIVE), native);
}

static void eoi_by_the_byte(void **state)
{
	struct rig r;

	eoi_open(&r);
	for (unsigned i = 1; i <= 5; i++) {
		flat_inject(&r, 0x50);
		assert_int_equal(flat_run(&r), FLAT_IDLE);
		expect_counts(&r, i, 0);
		assert_true(is_quiet(&r));
		assert_int_equal(r.ram[FLAT_BYTE], 0);
	}
	/* Switched off, and by INIT: the register again. */
	assert_int_equal(flat_set_msr(&r, MSR_PV_EOI, 0), 1);
	flat_inject(&r, 0x50);
	assert_int_equal(flat_run(&r), FLAT_IDLE);
	expect_counts(&r, 6, 1);
	rig_close(&r);
}

/* While another one waits the guest must write the register; the last one may be ended by the byte. */
static void eoi_with_another_waiting(void **state)
{
	struct rig r;

	eoi_open(&r);
	flat_inject(&r, 0x50);
	flat_inject(&r, 0x60);
	assert_int_equal(flat_run(&r), FLAT_IDLE);
	if (flat_word(&r, FLAT_COUNT) == 1)
		assert_int_equal(flat_run(&r), FLAT_IDLE);
	expect_counts(&r, 2, 1);
	assert_true(is_quiet(&r));
	rig_close(&r);
}

/* The client sees, and may change, a LAPIC: nothing is left in the byte when it is asked. */
static void eoi_and_an_exit(void **state)
{
	struct rig r;

	eoi_open(&r);
	flat_set(&r, FLAT_FLAGS, FLAT_TELL);
	flat_inject(&r, 0x50);
	assert_int_equal(flat_run(&r), FLAT_INSIDE);
	assert_int_equal(r.ram[FLAT_BYTE], 0);
	assert_false(is_quiet(&r));
	flat_inject(&r, 0x60);		/* waits for the end of this one: interrupts are off */
	assert_int_equal(flat_run(&r), FLAT_INSIDE);
	expect_counts(&r, 2, 1);
	assert_int_equal(flat_run(&r), FLAT_IDLE);
	expect_counts(&r, 2, 2);
	assert_true(is_quiet(&r));
	rig_close(&r);
}

/* The byte is set by us, on a page that the guest has not written. */
static void eoi_is_logged_as_dirty(void **state)
{
	struct kvm_userspace_memory_region region = { .flags = KVM_MEM_LOG_DIRTY_PAGES, .memory_size = RIG_RAM };
	uint64_t bitmap[(RIG_RAM >> 12) / 64 + 1] = { 0 };
	struct kvm_dirty_log log = { .dirty_bitmap = bitmap };
	struct rig r;

	eoi_open(&r);
	region.userspace_addr = (uintptr_t)r.ram;
	assert_int_equal(rig_ioctl(r.vm, KVM_SET_USER_MEMORY_REGION, &region), 0);
	assert_int_equal(flat_run(&r), FLAT_IDLE);
	assert_int_equal(rig_ioctl(r.vm, KVM_GET_DIRTY_LOG, &log), 0);
	flat_set(&r, FLAT_FLAGS, FLAT_TELL);
	flat_inject(&r, 0x50);
	assert_int_equal(flat_run(&r), FLAT_INSIDE);
	assert_int_equal(rig_ioctl(r.vm, KVM_GET_DIRTY_LOG, &log), 0);
	assert_true(bitmap[0] >> (FLAT_BYTE >> 12) & 1);
	assert_false(bitmap[0] >> (FLAT_GDT >> 12) & 1);
	rig_close(&r);
}

/* Kernel integrity judges us like the guest: then the byte stays 0, and the guest ends its interrupts by the register. */
static void eoi_is_judged(void **state)
{
	struct gw_heki_attributes a = { .address = FLAT_BYTE, .size = 4096, .attributes = GW_HEKI_NW, .mask = GW_HEKI_NW };
	struct gw_heki_counters before, after;
	struct rig r;

	eoi_open(&r);
	assert_int_equal(rig_ioctl(r.vm, GW_HEKI_SET_ATTRIBUTES, &a), 0);
	assert_int_equal(rig_ioctl(r.vm, GW_HEKI_COUNTERS, &before), 0);
	for (unsigned i = 1; i <= 3; i++) {
		flat_inject(&r, 0x50);
		assert_int_equal(flat_run(&r), FLAT_IDLE);
		expect_counts(&r, i, i);
		assert_true(is_quiet(&r));
	}
	assert_int_equal(rig_ioctl(r.vm, GW_HEKI_COUNTERS, &after), 0);
	assert_int_equal(after.denied_pv - before.denied_pv, 3);
	rig_close(&r);
}

static void eoi_msr(void **state)
{
	struct kvm_enable_cap enforce = { .cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args = { 1 } };
	struct rig_cpuid none = { .nent = 0 };
	uint64_t value;
	struct rig r;

	flat_open(&r, RIG_IRQCHIP | RIG_CPUID);
	assert_int_equal(flat_set_msr(&r, MSR_PV_EOI, FLAT_BYTE | 3), 0);	/* not a multiple of 4 */
	assert_int_equal(flat_set_msr(&r, MSR_PV_EOI, 0x70000000 | 1), 0);	/* no memory */
	assert_int_equal(flat_set_msr(&r, MSR_PV_EOI, 0x70000000), 1);		/* which is only looked for when it is switched on */
	assert_int_equal(flat_set_msr(&r, MSR_PV_EOI, FLAT_BYTE | 1), 1);
	assert_int_equal(flat_get_msr(&r, MSR_PV_EOI, &value), 1);
	assert_int_equal(value, FLAT_BYTE | 1);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_CPUID2, &none), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_ENABLE_CAP, &enforce), 0);
	assert_int_equal(flat_set_msr(&r, MSR_PV_EOI, FLAT_BYTE | 1), 0);
	assert_int_equal(flat_get_msr(&r, MSR_PV_EOI, &value), 0);
	rig_close(&r);
}

/* ---- steal time, PV TLB flush --------------------------------------------------------------------------------------------- */

#define RECORD		0x9040u
#define AT_VERSION	8u
#define AT_PREEMPTED	16u
#define PREEMPTED	1u
#define FLUSH_TLB	2u

static void pause_ms(unsigned ms)
{
	nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000 }, NULL);
}

static void steal_is_told_at_each_run(void **state)
{
	uint32_t version;
	struct rig r;

	flat_open(&r, RIG_IRQCHIP | RIG_CPUID);
	assert_int_equal(flat_set_msr(&r, MSR_STEAL, RECORD | 2), 0);
	flat_set(&r, RECORD + AT_VERSION, 77);	/* odd: rubbish of the guest's */
	flat_set(&r, RECORD, 5);
	assert_int_equal(flat_set_msr(&r, MSR_STEAL, RECORD | 1), 1);
	assert_int_equal(flat_run(&r), FLAT_IDLE);
	version = flat_word(&r, RECORD + AT_VERSION);
	assert_int_equal(version, 80);
	assert_true(flat_word(&r, RECORD) >= 5);
	for (unsigned i = 0; i < 5; i++) {
		pause_ms(1);
		assert_int_equal(flat_run(&r), FLAT_IDLE);
		assert_true(flat_word(&r, RECORD + AT_VERSION) > version);
		version = flat_word(&r, RECORD + AT_VERSION);
		assert_int_equal(version & 1, 0);
		assert_int_equal(r.ram[RECORD + AT_PREEMPTED], 0);	/* the client has it, but by the guest's own exit */
	}
	/* The guest begins anew. */
	memset(r.ram + RECORD, 0, 64);
	pause_ms(1);
	assert_int_equal(flat_run(&r), FLAT_IDLE);
	assert_int_equal(flat_word(&r, RECORD + AT_VERSION), 2);
	rig_close(&r);
}

/* movb 400000,%al; movb %al,a010; jmp . - 12 */
static const uint8_t reader[] = { 0xa0, 0, 0, 0x40, 0, 0xa2, 0x10, 0xa0, 0, 0, 0xeb, 0xf4 };

static void *send_away(void *arg)
{
	struct rig *r = arg;

	pause_ms(20);
	__atomic_store_n(&r->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

/* Runs a guest that never leaves, for 20 ms. */
static void run_a_while(struct rig *r)
{
	pthread_t t;

	r->run->immediate_exit = 0;
	assert_int_equal(pthread_create(&t, NULL, send_away, r), 0);
	assert_int_equal(rig_ioctl_n(r->vcpu, KVM_RUN, 0), -EINTR);
	pthread_join(t, NULL);
	r->run->immediate_exit = 0;
}

/* 4 MiB at 0 as they are; 400000 is the page at @page. */
static void set_paging(struct rig *r)
{
	struct kvm_sregs s;

	flat_set(r, 0xd000, 0x83);
	flat_set(r, 0xd004, 0xe003);
	assert_int_equal(rig_ioctl(r->vcpu, KVM_GET_SREGS, &s), 0);
	s.cr3 = 0xd000;
	s.cr4 |= 0x10;
	s.cr0 |= 0x80000001;
	assert_int_equal(rig_ioctl(r->vcpu, KVM_SET_SREGS, &s), 0);
}

static void flush_is_left_to_us(void **state)
{
	struct rig r;

	flat_open(&r, RIG_IRQCHIP | RIG_CPUID);
	flat_code(&r, r.vcpu, reader, sizeof(reader));
	r.ram[0x10000] = 'A';
	r.ram[0x11000] = 'B';
	flat_set(&r, 0xe000, 0x10003);
	set_paging(&r);
	assert_int_equal(flat_set_msr(&r, MSR_STEAL, RECORD | 1), 1);
	run_a_while(&r);
	assert_int_equal(r.ram[0xa010], 'A');
	assert_int_equal(r.ram[RECORD + AT_PREEMPTED], PREEMPTED);
	/* Another vCPU's part: it changes a translation, and finds this one away. */
	flat_set(&r, 0xe000, 0x11003);
	r.ram[RECORD + AT_PREEMPTED] |= FLUSH_TLB;
	run_a_while(&r);
	assert_int_equal(r.ram[0xa010], 'B');
	assert_int_equal(r.ram[RECORD + AT_PREEMPTED], PREEMPTED);
	rig_close(&r);
}

/* ---- hypercalls ------------------------------------------------------------------------------------------------------------- */

static const struct hc_row {
	const char *name;
	uint32_t nr, a[4], want, taken;
} hc_rows[] = {
	{ "KVM_HC_SEND_IPI reaches the vCPU of a bit", 10, { 1, 0, 0, 0x4050 }, 1, 1 },
	{ "KVM_HC_SEND_IPI counts only vCPUs that are there", 10, { 0xff, 0xff, 0, 0x4050 }, 1, 1 },
	{ "KVM_HC_SEND_IPI starts at the given id", 10, { 1, 0, 1, 0x4050 }, 0, 0 },
	{ "KVM_HC_SEND_IPI takes 32 bits a word in 32-bit code", 10, { 0, 1, 0, 0x4050 }, 0, 0 },
	{ "KVM_HC_SEND_IPI refuses a destination mode", 10, { 1, 0, 0, 0x4850 }, (uint32_t)-22, 0 },
	{ "KVM_HC_SEND_IPI refuses a shorthand", 10, { 1, 0, 0, 0x44050 }, (uint32_t)-22, 0 },
	{ "KVM_HC_SCHED_YIELD to itself is 0", 11, { 0 }, 0, 0 },
	{ "KVM_HC_SCHED_YIELD to nobody is 0", 11, { 77 }, 0, 0 },
	{ "KVM_HC_KICK_CPU of itself is 0", 5, { 0, 0 }, 0, 0 },
	{ "KVM_HC_VAPIC_POLL_IRQ is 0", 1, { 0 }, 0, 0 },
	{ "KVM_HC_CLOCK_PAIRING is not there", 9, { 0xf000, 0 }, (uint32_t)-1000, 0 },
	{ "KVM_HC_MAP_GPA_RANGE is not there unless the client wants it", 12, { 0x1000, 1 }, (uint32_t)-1000, 0 },
};

/* vmcall; sti; nop; cli; out %al,12; with the handler of flat.c elsewhere. */
static void hypercall_row(void **state)
{
	static const uint8_t code[] = { 0x0f, 0x01, 0xc1, 0xfb, 0x90, 0xfa, 0xe6, 0x12 };
	const struct hc_row *row = *state;
	struct kvm_regs regs;
	struct rig r;

	flat_open(&r, RIG_IRQCHIP | RIG_CPUID);
	memcpy(r.ram + 0x3000, code, sizeof(code));
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_REGS, &regs), 0);
	regs.rip = 0x3000;
	regs.rax = row->nr;
	regs.rbx = row->a[0];
	regs.rcx = row->a[1];
	regs.rdx = row->a[2];
	regs.rsi = row->a[3];
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_REGS, &regs), 0);
	assert_int_equal(flat_run(&r), 0x12);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_REGS, &regs), 0);
	assert_int_equal((uint32_t)regs.rax, row->want);
	assert_int_equal(flat_word(&r, FLAT_COUNT), row->taken);
	rig_close(&r);
}

/* With KVM_CAP_ENFORCE_PV_FEATURE_CPUID, what is not in 0x40000001 is not there. */
static void hypercalls_are_features(void **state)
{
	static const struct { uint32_t nr, bit; } rows[] = { { 5, 7 }, { 10, 11 }, { 11, 13 } };
	static const uint8_t code[] = { 0x0f, 0x01, 0xc1, 0xe6, 0x12 };
	struct kvm_enable_cap enforce = { .cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args = { 1 } };

	for (unsigned i = 0; i < 2 * sizeof(rows) / sizeof(rows[0]); i++) {
		struct rig_cpuid c = { .nent = 1, .e = { { .function = 0x40000001, .eax = i & 1 ? 1u << rows[i / 2].bit : ~(1u << rows[i / 2].bit) } } };
		struct kvm_regs regs;
		struct rig r;

		flat_open(&r, RIG_IRQCHIP);
		assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_CPUID2, &c), 0);
		assert_int_equal(rig_ioctl(r.vcpu, KVM_ENABLE_CAP, &enforce), 0);
		memcpy(r.ram + RIG_CODE, code, sizeof(code));
		assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_REGS, &regs), 0);
		regs.rax = rows[i / 2].nr;
		assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_REGS, &regs), 0);
		assert_int_equal(flat_run(&r), 0x12);
		assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_REGS, &regs), 0);
		assert_int_equal((int32_t)regs.rax, i & 1 ? 0 : -1000);
		rig_close(&r);
	}
}

/* ---- asynchronous page faults: the one event that there is ------------------------------------------------------------------ */

#define MSR_APF_EN	0x4b564d02u
#define MSR_APF_INT	0x4b564d06u
#define MSR_APF_ACK	0x4b564d07u
#define APF_DATA	0x9000u		/* FLAT_BYTE: the handler sees bit 0 clear and writes the LAPIC's register */
#define APF_TOKEN	0x9004u
#define APF_ON		(APF_DATA | 9)

static void apf_takes_what_kvm_takes(void **state)
{
	static const struct { const char *name; uint32_t index; uint64_t value; bool chip, ok; } rows[] = {
		{ "on, by interrupt", MSR_APF_EN, APF_ON, true, true }, { "on, always, as a VM exit, too", MSR_APF_EN, APF_ON | 6, true, true },
		{ "off", MSR_APF_EN, 0, false, true }, { "on without a LAPIC", MSR_APF_EN, APF_ON, false, false },
		{ "reserved bit 4", MSR_APF_EN, APF_ON | 0x10, true, false }, { "reserved bit 5", MSR_APF_EN, APF_ON | 0x20, true, false },
		{ "on outside of memory", MSR_APF_EN, 0x7000009, true, false }, { "a vector", MSR_APF_INT, 0xf3, true, true },
		{ "more than a vector", MSR_APF_INT, 0x100, true, false }, { "a vector without a LAPIC", MSR_APF_INT, 0xf3, false, false },
		{ "an acknowledgement of nothing", MSR_APF_ACK, 1, true, true },
	};
	struct kvm_enable_cap enforce = { .cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args = { 1 } };
	struct rig_cpuid none = { .nent = 1, .e[0].function = 0x40000001 };
	struct rig r;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		rig_open(&r, rows[i].chip ? RIG_IRQCHIP : 0);
		if (flat_set_msr(&r, rows[i].index, rows[i].value) != rows[i].ok)
			fail_msg("%s", rows[i].name);
		rig_close(&r);
	}
	rig_open(&r, RIG_IRQCHIP);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_ENABLE_CAP, &enforce), 0);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_CPUID2, &none), 0);
	for (uint32_t index = MSR_APF_EN; index <= MSR_APF_ACK; index++)
		if (index == MSR_APF_EN || index >= MSR_APF_INT)
			assert_int_equal(flat_set_msr(&r, index, 0), 0);
	rig_close(&r);
}

/* "Whatever you wait for is here": once, when it is switched on, and not before the guest has read what it was told last. */
static void apf_wakes_once(void **state)
{
	struct rig r;

	flat_open(&r, RIG_IRQCHIP | RIG_CPUID);
	assert_int_equal(flat_set_msr(&r, MSR_APF_INT, 0x50), 1);
	assert_int_equal(flat_set_msr(&r, MSR_APF_EN, APF_ON), 1);
	assert_int_equal(flat_run(&r), FLAT_IDLE);
	assert_int_equal(flat_run(&r), FLAT_IDLE);
	expect_counts(&r, 1, 1);
	assert_int_equal(flat_word(&r, APF_TOKEN), 0xffffffff);
	assert_int_equal(flat_word(&r, APF_DATA), 0);
	assert_int_equal(flat_set_msr(&r, MSR_APF_EN, APF_ON), 1);
	assert_int_equal(flat_run(&r), FLAT_IDLE);
	assert_int_equal(flat_run(&r), FLAT_IDLE);
	expect_counts(&r, 1, 1);
	flat_set(&r, APF_TOKEN, 0);
	assert_int_equal(flat_run(&r), FLAT_IDLE);
	expect_counts(&r, 1, 1);
	assert_int_equal(flat_set_msr(&r, MSR_APF_ACK, 1), 1);
	assert_int_equal(flat_run(&r), FLAT_IDLE);
	assert_int_equal(flat_run(&r), FLAT_IDLE);
	expect_counts(&r, 2, 2);
	/* Neither off nor of the old kind, by exception, is there any. */
	flat_set(&r, APF_TOKEN, 0);
	assert_int_equal(flat_set_msr(&r, MSR_APF_EN, APF_DATA | 1), 1);
	assert_int_equal(flat_run(&r), FLAT_IDLE);
	assert_int_equal(flat_set_msr(&r, MSR_APF_EN, 0), 1);
	assert_int_equal(flat_run(&r), FLAT_IDLE);
	expect_counts(&r, 2, 2);
	assert_int_equal(flat_word(&r, APF_TOKEN), 0);
	rig_close(&r);
}

/* ---- kvmclock ---------------------------------------------------------------------------------------------------------- */

/* What a guest reads from its page when its counter is at @tsc. */
static uint64_t page_ns(const struct rig *r, uint64_t tsc)
{
	struct { uint32_t version, pad; uint64_t tsc, ns; uint32_t mul; int8_t shift; uint8_t flags; } page;
	uint64_t delta;

	memcpy(&page, r->ram + FLAT_BYTE, sizeof(page));
	assert_int_equal(page.version & 1, 0);
	assert_int_equal(page.flags & 1, 1);
	delta = tsc - page.tsc;
	delta = page.shift < 0 ? delta >> -page.shift : delta << page.shift;
	return page.ns + (uint64_t)((unsigned __int128)delta * page.mul >> 32);
}

static void expect_one_clock(struct rig *r, uint64_t ratio, int ppm)
{
	struct kvm_clock_data clock;
	uint64_t offset = 0, guest;
	struct kvm_device_attr attr = { .addr = (uintptr_t)&offset };

	assert_int_equal(flat_run(r), FLAT_IDLE);
	assert_int_equal(rig_ioctl(r->vcpu, KVM_GET_DEVICE_ATTR, &attr), 0);
	assert_int_equal(rig_ioctl(r->vm, KVM_GET_CLOCK, &clock), 0);
	guest = page_ns(r, (uint64_t)((unsigned __int128)clock.host_tsc * ratio >> 32) + offset);
	if (guest - clock.clock + 5 > 10)
		fail_msg("%d ppm: the client reads %llu, the guest %llu", ppm, clock.clock, (unsigned long long)guest);
}

/* The client's clock and the guest's are one formula: at any rate, and after time has passed, after KVM_SET_CLOCK as well. */
static void one_clock_for_client_and_guest(void **state)
{
	static const int parts_per_million[] = { 0, 200, -200, 1000, 500000, -500000 };

	for (unsigned i = 0; i < sizeof(parts_per_million) / sizeof(parts_per_million[0]); i++) {
		struct kvm_clock_data set = { .clock = 77000000000ull };
		int ppm = parts_per_million[i];
		uint64_t khz, host;
		struct rig r;

		flat_open(&r, RIG_IRQCHIP | RIG_CPUID);
		host = (uint64_t)rig_ioctl_n(r.vcpu, KVM_GET_TSC_KHZ, 0);
		khz = host + (uint64_t)((int64_t)host * ppm / 1000000);
		assert_int_equal(rig_ioctl_n(r.vcpu, KVM_SET_TSC_KHZ, khz), 0);
		assert_int_equal(flat_set_msr(&r, MSR_CLOCK, FLAT_BYTE | 1), 1);
		for (unsigned k = 0; k < 3; k++) {
			if (k == 2)
				assert_int_equal(rig_ioctl(r.vm, KVM_SET_CLOCK, &set), 0);
			expect_one_clock(&r, ppm > -250 && ppm < 250 ? 1ull << 32 : (khz << 32) / host, ppm);
			nanosleep(&(struct timespec){ .tv_nsec = 30000000 }, NULL);
		}
		assert_int_equal(rig_ioctl(r.vm, KVM_GET_CLOCK, &set), 0);
		assert_in_range(set.clock, 77000000000ull, 80000000000ull);
		rig_close(&r);
	}
}

int main(void)
{
	static const struct CMUnitTest fixed[] = {
		{ "an interrupt is ended by clearing the byte", eoi_by_the_byte },
		{ "while another one waits it is ended by the register", eoi_with_another_waiting },
		{ "at an exit the byte is taken back", eoi_and_an_exit },
		{ "setting the byte makes its page dirty", eoi_is_logged_as_dirty },
		{ "a page closed by kernel integrity gets no byte, and no interrupt is lost", eoi_is_judged },
		{ "MSR_KVM_PV_EOI_EN takes what KVM takes", eoi_msr },
		{ "steal time is told at each KVM_RUN, on top of what the guest has there", steal_is_told_at_each_run },
		{ "a vCPU that a signal has sent away flushes its TLB when another one asks for it", flush_is_left_to_us },
		{ "the MSRs of asynchronous page faults take what KVM's take", apf_takes_what_kvm_takes },
		{ "switching asynchronous page faults on wakes everybody, once", apf_wakes_once },
		{ "hypercalls are there when CPUID says so", hypercalls_are_features },
		{ "the clock of the client and that of the guest are one, at any rate", one_clock_for_client_and_guest },
	};
	enum { N_FIXED = sizeof(fixed) / sizeof(fixed[0]), N_HC = sizeof(hc_rows) / sizeof(hc_rows[0]) };
	struct CMUnitTest tests[N_FIXED + N_HC];

	memcpy(tests, fixed, sizeof(fixed));
	for (unsigned i = 0; i < N_HC; i++)
		tests[N_FIXED + i] = (struct CMUnitTest){ .name = hc_rows[i].name, .test_func = hypercall_row, .initial_state = (void *)(uintptr_t)&hc_rows[i] };
	return cmocka_run_group_tests_name("paravirtual pages", tests, NULL, NULL);
}
