/* SPDX-License-Identifier: MIT */
/*
 * The machine without an engine: a backend whose vCPU gives the exits a script says. Run loop, stopping, kicking, power
 * registers, and every ioctl failing once.
 */
#include "test_rows.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bytes.h"
#include "machine.h"
#include "power.h"

#define SYSTEM_FD 1000
#define VM_FD 1001
#define VCPU_FD 1002

struct step {
	uint32_t reason;	/* an exit; or with ret set, no exit */
	long ret;
	uint64_t address;	/* port or physical address */
	unsigned len;
	bool write;
	uint64_t value;
	bool spin;		/* run until kicked, as a guest that loops */
};

static struct fake {
	const struct step *script;
	unsigned n_steps;
	unsigned at[CPUS_MAX];
	struct kvm_run *run[CPUS_MAX];
	unsigned calls, fail_at;	/* the call with this number fails: 0 none */
	int n_open;
	uint32_t read_back;		/* what the last read step got */
} fake;

static int fake_open(void)
{
	if (++fake.calls == fake.fail_at)
		return -EMFILE;
	fake.n_open++;
	return SYSTEM_FD;
}

static void *fake_map(int fd, size_t length, int *error)
{
	void *p;

	if (++fake.calls == fake.fail_at) {
		*error = -ENOMEM;
		return NULL;
	}
	p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(p != MAP_FAILED);
	fake.run[fd - VCPU_FD] = p;
	return p;
}

static int fake_close(int fd)
{
	(void)fd;
	fake.n_open--;
	return 0;
}

static long fake_spin(struct kvm_run *run)
{
	/* As KVM does: comes back with EINTR only for a signal or immediate_exit. */
	while (!__atomic_load_n(&run->immediate_exit, __ATOMIC_SEQ_CST))
		if (poll(NULL, 0, 1000) < 0)
			break;
	run->exit_reason = KVM_EXIT_INTR;
	return -EINTR;
}

static long fake_run(unsigned cpu)
{
	struct kvm_run *run = fake.run[cpu];
	const struct step *s;

	if (fake.at[cpu]) {
		const struct step *before = &fake.script[fake.at[cpu] - 1];

		if (before->reason == KVM_EXIT_MMIO && !before->write)
			memcpy(&fake.read_back, run->mmio.data, 4);
		if (before->reason == KVM_EXIT_IO && !before->write)
			memcpy(&fake.read_back, (uint8_t *)run + 4096, 4);
	}
	if (cpu || fake.at[cpu] == fake.n_steps)
		return fake_spin(run);
	s = &fake.script[fake.at[cpu]++];
	if (s->spin)
		return fake_spin(run);
	if (s->ret)
		return s->ret;
	run->exit_reason = s->reason;
	if (s->reason == KVM_EXIT_IO) {
		run->io.direction = s->write;
		run->io.size = (uint8_t)s->len;
		run->io.port = (uint16_t)s->address;
		run->io.count = 1;
		run->io.data_offset = 4096;
		memcpy((uint8_t *)run + 4096, &s->value, 8);
	} else if (s->reason == KVM_EXIT_MMIO) {
		run->mmio.phys_addr = s->address;
		run->mmio.len = s->len;
		run->mmio.is_write = s->write;
		memcpy(run->mmio.data, &s->value, 8);
	} else if (s->reason == KVM_EXIT_SYSTEM_EVENT) {
		run->system_event.type = (uint32_t)s->value;
	} else if (s->reason == KVM_EXIT_INTERNAL_ERROR) {
		run->internal.suberror = (uint32_t)s->value;
	}
	return 0;
}

static long fake_ioctl(int fd, unsigned long request, unsigned long arg)
{
	struct kvm_cpuid2 *cpuid;

	/* KVM_IRQ_LINE and KVM_RUN come from other threads and are not counted. */
	if (request == KVM_RUN)
		return fake_run((unsigned)(fd - VCPU_FD));
	if (request == KVM_IRQ_LINE)
		return 0;
	if (++fake.calls == fake.fail_at)
		return -ENOSPC;
	switch (request) {
	case KVM_GET_API_VERSION:
		return KVM_API_VERSION;
	case KVM_CREATE_VM:
		fake.n_open++;
		return VM_FD;
	case KVM_CREATE_VCPU:
		fake.n_open++;
		return VCPU_FD + (int)arg;
	case KVM_GET_VCPU_MMAP_SIZE:
		return 12288;
	case KVM_GET_SUPPORTED_CPUID:
		cpuid = (struct kvm_cpuid2 *)arg;
		cpuid->nent = 1;
		cpuid->entries[0] = (struct kvm_cpuid_entry2){ .function = 1 };
		return 0;
	case KVM_SET_MSRS:
		return ((struct kvm_msrs *)arg)->nmsrs;
	default:
		return 0;
	}
}

static const struct backend backend_fake = { "fake", fake_open, fake_ioctl, fake_map, fake_close };

static struct machine machine;
static struct power power;

static int start(const struct step *script, unsigned n, unsigned cpus, unsigned fail_at, struct err *err)
{
	memset(&fake, 0, sizeof(fake));
	fake.script = script;
	fake.n_steps = n;
	fake.fail_at = fail_at;
	err->text[0] = 0;
	if (machine_create(&machine, &backend_fake, RAM_MIN, false, err) < 0 || power_init(&power, &machine, err) < 0)
		return -1;
	if (machine_open(&machine, cpus, err) < 0)
		return -1;
	return machine_start(&machine, err);
}

static void wait_stopped(void)
{
	struct pollfd p = { .fd = machine.stop_fd, .events = POLLIN };

	while (poll(&p, 1, 10000) < 0)
		continue;
	assert_true(p.revents & POLLIN);
}

#define OUT(port, size, v) { .reason = KVM_EXIT_IO, .address = (port), .len = (size), .write = true, .value = (v) }
#define IN(port, size) { .reason = KVM_EXIT_IO, .address = (port), .len = (size) }
#define STORE(a, size, v) { .reason = KVM_EXIT_MMIO, .address = (a), .len = (size), .write = true, .value = (v) }
#define LOAD(a, size) { .reason = KVM_EXIT_MMIO, .address = (a), .len = (size) }
#define POWEROFF OUT(0x604, 2, 5 << 10 | 1 << 13)

static const struct row {
	const char *name;
	struct step script[4];
	unsigned n;
	enum stop_reason reason;
	const char *text;
	int status;		/* of the exit-status register */
	bool reads;
	uint32_t read_back;
} rows[] = {
	{ "sleep state 5 powers off", { POWEROFF }, 1, STOP_POWEROFF, "powered off", -1 },
	{ "another sleep state does not", { OUT(0x604, 2, 3 << 10 | 1 << 13), OUT(0xcf9, 1, 6) }, 2, STOP_RESET, "reset", -1 },
	{ "the ACPI reset register resets", { OUT(0xcf9, 1, 6) }, 1, STOP_RESET, "reset", -1 },
	{ "the keyboard controller resets", { OUT(0x64, 1, 0xfe) }, 1, STOP_RESET, "reset", -1 },
	{ "other keyboard commands do not", { OUT(0x64, 1, 0xd1), POWEROFF }, 2, STOP_POWEROFF, "powered off", -1 },
	{ "the exit status is kept", { STORE(ADDR_CONTROL, 4, 42), POWEROFF }, 2, STOP_POWEROFF, "powered off", 42 },
	{ "the control block powers off at once", { STORE(ADDR_CONTROL, 4, 7), STORE(ADDR_CONTROL + 4, 4, 1) }, 2, STOP_POWEROFF,
	  "powered off", 7 },
	{ "an unknown port reads as ones", { IN(0x1234, 4), POWEROFF }, 2, STOP_POWEROFF, "", -1, true, 0xffffffff },
	{ "an unknown address reads as ones", { LOAD(0xdead0000, 4), POWEROFF }, 2, STOP_POWEROFF, "", -1, true, 0xffffffff },
	{ "an access past the end of a device is harmless", { IN(0x60a, 4), POWEROFF }, 2, STOP_POWEROFF, "", -1 },
	{ "ACPI mode is always on", { IN(0x604, 2), POWEROFF }, 2, STOP_POWEROFF, "", -1, true, 1 },
	{ "a triple fault ends it", { { .reason = KVM_EXIT_SHUTDOWN } }, 1, STOP_GUEST_DIED, "triple fault", -1 },
	{ "an internal error ends it", { { .reason = KVM_EXIT_INTERNAL_ERROR, .value = 1 } }, 1, STOP_GUEST_DIED,
	  "internal error 1", -1 },
	{ "a failed entry ends it", { { .reason = KVM_EXIT_FAIL_ENTRY } }, 1, STOP_GUEST_DIED, "entering the guest", -1 },
	{ "an unknown exit ends it", { { .reason = 77 } }, 1, STOP_GUEST_DIED, "exit 77", -1 },
	{ "a system event powers off", { { .reason = KVM_EXIT_SYSTEM_EVENT, .value = KVM_SYSTEM_EVENT_SHUTDOWN } }, 1,
	  STOP_POWEROFF, "powered off", -1 },
	{ "a system event resets", { { .reason = KVM_EXIT_SYSTEM_EVENT, .value = KVM_SYSTEM_EVENT_RESET } }, 1,
	  STOP_RESET, "reset", -1 },
	{ "EAGAIN and EINTR go on", { { .ret = -EAGAIN }, { .ret = -EINTR }, POWEROFF }, 3, STOP_POWEROFF, "powered off", -1 },
	{ "EFAULT of KVM_RUN is a host error", { { .ret = -EFAULT } }, 1, STOP_HOST_ERROR, "Bad address", -1 },
};

static void check_row(void **state)
{
	const struct row *row = *state;
	struct err err;

	if (start(row->script, row->n, 1, 0, &err) < 0)
		fail_msg("%s", err.text);
	wait_stopped();
	machine_join(&machine);
	assert_int_equal(atomic_load(&machine.stopped), row->reason);
	assert_says(machine.stop_text, row->text);
	assert_int_equal(atomic_load(&power.exit_status), row->status);
	if (row->reads)
		assert_int_equal(fake.read_back & (row->read_back == 1 ? 0xffff : 0xffffffff), row->read_back);
	machine_destroy(&machine);
	assert_int_equal(fake.n_open, 0);
}

static void stops_spinning_cpus(void **state)
{
	static const struct step spin[] = { { .spin = true } };
	struct err err;

	(void)state;
	if (start(spin, 1, 8, 0, &err) < 0)
		fail_msg("%s", err.text);
	poll(NULL, 0, 20);
	machine_stop(&machine, STOP_QUIT, 0, "first");
	machine_stop(&machine, STOP_RESET, 0, "second");
	machine_join(&machine);
	assert_int_equal(atomic_load(&machine.stopped), STOP_QUIT);
	assert_string_equal(machine.stop_text, "first");
	machine_destroy(&machine);
	assert_int_equal(fake.n_open, 0);
}

static void stopping_races_starting(void **state)
{
	static const struct step spin[] = { { .spin = true } };
	struct err err;
	unsigned i;

	(void)state;
	for (i = 0; i < 50; i++) {
		if (start(spin, 1, 4, 0, &err) < 0)
			fail_msg("%s", err.text);
		machine_stop(&machine, STOP_QUIT, 0, "at once");
		machine_destroy(&machine);
		assert_int_equal(fake.n_open, 0);
	}
}

/* Fails the 1st call, the 2nd, ... until a start gets through. Nothing may be left open, and each says one line. */
static void every_call_can_fail(void **state)
{
	static const struct step spin[] = { { .spin = true } };
	struct err err;
	unsigned n;
	int ret;

	(void)state;
	for (n = 1; n < 100; n++) {
		ret = start(spin, 1, 2, n, &err);
		machine_stop(&machine, STOP_QUIT, 0, "done");
		machine_destroy(&machine);
		assert_int_equal(fake.n_open, 0);
		if (fake.calls < n) {
			assert_int_equal(ret, 0);
			break;
		}
		/* Probes may fail without harm; whatever fails has to say why. */
		if (ret < 0)
			assert_true(err.text[0] && !strchr(err.text, '\n'));
	}
	assert_in_range(n, 15, 99);
}

static void memory_slots(void **state)
{
	struct ram ram;
	struct err err;

	(void)state;
	assert_int_equal(ram_create(&ram, 5ull << 30, &err), 0);
	assert_non_null(ram_at(&ram, 0, RAM_LOW_MAX));
	assert_null(ram_at(&ram, 0, RAM_LOW_MAX + 1));
	assert_null(ram_at(&ram, RAM_LOW_MAX, 1));
	assert_null(ram_at(&ram, RAM_HIGH_START - 1, 2));
	assert_non_null(ram_at(&ram, RAM_HIGH_START, (5ull << 30) - RAM_LOW_MAX));
	assert_null(ram_at(&ram, RAM_HIGH_START, (5ull << 30) - RAM_LOW_MAX + 1));
	assert_null(ram_at(&ram, UINT64_MAX, 2));
	assert_ptr_equal(ram_at(&ram, RAM_HIGH_START, 1), ram.host + RAM_LOW_MAX);
	ram_destroy(&ram);
}

int main(void)
{
	static struct tests tests;
	size_t i;

	machine_init_signals();
	for (i = 0; i < N_OF(rows); i++)
		tests_add(&tests, rows[i].name, check_row, &rows[i]);
	tests_add(&tests, "spinning CPUs are stopped, and the first reason counts", stops_spinning_cpus, NULL);
	tests_add(&tests, "stopping at the moment of starting hangs nothing", stopping_races_starting, NULL);
	tests_add(&tests, "any call that fails ends cleanly", every_call_can_fail, NULL);
	tests_add(&tests, "memory ends at the hole and goes on above it", memory_slots, NULL);
	return tests_run("machine", &tests);
}
