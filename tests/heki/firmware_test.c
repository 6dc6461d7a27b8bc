/* SPDX-License-Identifier: MIT */
/*
 * The platform's firmware under a lock (src/heki/firmware.c): a vCPU that the client resets runs what lay in ROM and in the shadow
 * area at the lock, and the kernel goes on from sealed code; each row is one way in which an attacker would use that.
 */
#include "kernel.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define NX		(1ull << 63)
#define SHADOW		0xc0000u
#define SHADOW_SIZE	0x40000u
#define F_SEGMENT	0xf0000u
#define E_VARIABLE	0xe0010u	/* what the firmware writes */
#define ROM		0xffff0000u
#define ROM_SIZE	0x10000u
#define TRAMPOLINE	0x3b000u	/* of the kernel: executable at the lock */
#define ATTACKER	0x39000u	/* data */
#define PAGE_DIRECTORY	0x3a000u	/* of 4 MiB pages */
#define SMBASE		0x30000u
#define SMM_ENTRY	0x38000u
#define SMM_HANDLER	0x100u		/* in the F segment */
#define SMM_SPACE	(1u << 16)

struct machine {
	struct guest g;
	uint8_t *shadow, *rom;
};

static void add_slot(struct guest *g, uint32_t slot, uint32_t flags, uint64_t gpa, void *at, uint64_t size)
{
	struct kvm_userspace_memory_region m = { .slot = slot, .flags = flags, .guest_phys_addr = gpa, .memory_size = size,
						 .userspace_addr = (uintptr_t)at };

	assert_int_equal(rig_ioctl(g->rig.vm, KVM_SET_USER_MEMORY_REGION, &m), 0);
}

static uint8_t *memory(size_t size)
{
	uint8_t *m = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(m != MAP_FAILED);
	return m;
}

/* Firmware: what it does before it jumps to SEGMENT:0000. */
static void write_firmware(uint8_t *f, const uint8_t *code, size_t n, uint32_t wake)
{
	/* mov $0xe000,%ax; mov %ax,%ds; movb $0x5a,0x10; mov 0x10,%al; out */
	static const uint8_t start[] = { 0xb8, 0x00, 0xe0, 0x8e, 0xd8, 0xc6, 0x06, 0x10, 0x00, 0x5a, 0xa0, 0x10, 0x00, 0xe6, 0x30 };
	const uint8_t jump[] = { 0xea, 0, 0, (uint8_t)(wake >> 4), (uint8_t)(wake >> 12) };

	memcpy(f, start, sizeof(start));
	if (n)
		memcpy(f + sizeof(start), code, n);
	memcpy(f + sizeof(start) + n, jump, sizeof(jump));
}

/* mov %ah,%al; out; rsm */
static const uint8_t smm_handler[] = { 0x88, 0xe0, 0xe6, 0x23, 0x0f, 0xaa };

/* Before the lock: memory and what lies in it. */
static void furnish(struct machine *m, const uint8_t *code, size_t n, uint32_t wake, bool has_rom)
{
	static const uint8_t reset[] = { 0xea, 0x00, 0x00, 0x00, 0xf0 };		/* ljmp $0xf000,$0 */
	static const uint8_t trampoline[] = { 0xb0, 0x77, 0xe6, 0x31, 0xf4 };		/* mov $0x77,%al; out; hlt */

	m->shadow = memory(SHADOW_SIZE);
	m->rom = memory(ROM_SIZE);
	add_slot(&m->g, 2, 0, SHADOW, m->shadow, SHADOW_SIZE);
	if (has_rom)
		add_slot(&m->g, 3, KVM_MEM_READONLY, ROM, m->rom, ROM_SIZE);
	memcpy(m->rom + 0xfff0, reset, sizeof(reset));
	write_firmware(m->shadow + (F_SEGMENT - SHADOW), code, n, wake);
	memcpy(m->shadow + (F_SEGMENT - SHADOW) + SMM_HANDLER, smm_handler, sizeof(smm_handler));
	memcpy(m->g.rig.ram + TRAMPOLINE, trampoline, sizeof(trampoline));
	memcpy(m->g.rig.ram + ATTACKER, trampoline, sizeof(trampoline));
	kernel_map_late(&m->g, 0, TRAMPOLINE | 1);
}

static void machine_open_under(struct machine *m, uint64_t flags, const uint8_t *code, size_t n, uint32_t wake, bool has_rom)
{
	struct gw_heki_policy p = { .flags = flags };

	kernel_open(&m->g, &p);
	furnish(m, code, n, wake, has_rom);
	kernel_lock(&m->g);
}

static void machine_open(struct machine *m, const uint8_t *code, size_t n, uint32_t wake, bool has_rom)
{
	machine_open_under(m, 0, code, n, wake, has_rom);
}

static void machine_close(struct machine *m)
{
	guest_close(&m->g);
	munmap(m->shadow, SHADOW_SIZE);
	munmap(m->rom, ROM_SIZE);
}

/* Real mode at CS:@rip, as clients do it: special registers first. */
static void place(struct guest *g, uint16_t sel, uint64_t base, uint64_t rip)
{
	struct kvm_segment data = { .limit = 0xffff, .type = 3, .s = 1, .present = 1 };
	struct kvm_regs regs = { .rip = rip, .rflags = 2 };
	struct kvm_sregs s = guest_sregs(g);

	s.cs = (struct kvm_segment){ .selector = sel, .base = base, .limit = 0xffff, .type = 11, .s = 1, .present = 1 };
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.cr0 = 0x60000010;
	s.cr3 = s.cr4 = s.efer = 0;
	s.idt = s.gdt = (struct kvm_dtable){ .limit = 0xffff };
	guest_set_sregs(g, &s);
	assert_int_equal(rig_ioctl(g->rig.vcpu, KVM_SET_REGS, &regs), 0);
}

static void reset(struct guest *g) { place(g, 0xf000, 0xffff0000, 0xfff0); }

static void expect_port(struct guest *g, uint16_t port, uint8_t value)
{
	assert_int_equal(rig_run(&g->rig), 0);
	assert_int_equal(g->rig.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(g->rig.run->io.port, port);
	assert_int_equal(((uint8_t *)g->rig.run)[g->rig.run->io.data_offset], value);
}

static void expect_shutdown(struct guest *g)
{
	assert_int_equal(rig_run(&g->rig), 0);
	assert_int_equal(g->rig.run->exit_reason, KVM_EXIT_SHUTDOWN);
}

static uint64_t denials(struct guest *g)
{
	struct gw_heki_counters c = guest_counters(g);

	return c.denied_read + c.denied_write + c.denied_fetch + c.denied_walk + c.denied_pv + c.denied_cr + c.denied_reg;
}

static void wake(struct machine *m)
{
	reset(&m->g);
	expect_port(&m->g, 0x30, 0x5a);
	expect_port(&m->g, 0x31, 0x77);
}

/* A store of the locked kernel's to the shadow area, through a mapping of its own. True: it was done. */
static bool kernel_stores(struct machine *m)
{
	struct guest *g = &m->g;
	int vector;

	kernel_map_late(g, 1, (E_VARIABLE & ~0xfffull) | 3 | NX);
	kernel_again(g);
	emit_mov(g, R_AX, K_LATE + 0x1000 + (E_VARIABLE & 0xfff));
	EMIT(g, 0xc6, 0x00, 0x99, 0xf4);		/* movb $0x99,(%rax); hlt */
	vector = guest_vector(g);
	assert_true(vector == -1 || vector == 14);
	return vector == -1;
}

static void wakes(void **state)
{
	struct machine m;

	machine_open(&m, NULL, 0, TRAMPOLINE, true);
	for (unsigned i = 0; i < 3; i++) {
		wake(&m);
		assert_int_equal(m.shadow[E_VARIABLE - SHADOW], 0x5a);
		m.shadow[E_VARIABLE - SHADOW] = 0;
	}
	assert_int_equal(denials(&m.g), 0);
	assert_int_equal(guest_event(&m.g).kind, GW_HEKI_EV_FIRMWARE);
	assert_int_equal(guest_event(&m.g).gpa, TRAMPOLINE);
	machine_close(&m);
}

/* Not even a jump back into firmware, which a processor may begin with that firmware has started. */
static void wakes_into_data(void **state)
{
	static const uint8_t back[] = { 0xea, 0x00, 0x00, 0x00, 0xf0 };
	struct machine m;

	for (unsigned row = 0; row < 2; row++) {
		machine_open(&m, NULL, 0, ATTACKER, true);
		if (row)
			memcpy(m.g.rig.ram + ATTACKER, back, sizeof(back));
		reset(&m.g);
		expect_port(&m.g, 0x30, 0x5a);
		expect_shutdown(&m.g);
		assert_int_equal(guest_counters(&m.g).denied_fetch, 1);
		assert_int_equal(guest_counters(&m.g).sealed, 0);
		machine_close(&m);
	}
}

/* Its data are not the copy's: a variable in a page of code. */
static void variables_are_memory(void **state)
{
	/* mov %cs:0x200,%al; out; incb %cs:0x200; mov %cs:0x200,%al; out */
	static const uint8_t code[] = { 0x2e, 0xa0, 0x00, 0x02, 0xe6, 0x22, 0x2e, 0xfe, 0x06, 0x00, 0x02, 0x2e, 0xa0, 0x00, 0x02, 0xe6, 0x22 };
	struct machine m;

	machine_open(&m, code, sizeof(code), TRAMPOLINE, true);
	for (uint8_t i = 0; i < 2; i++) {
		m.shadow[F_SEGMENT - SHADOW + 0x200] = (uint8_t)(0x40 + i);
		reset(&m.g);
		expect_port(&m.g, 0x30, 0x5a);
		expect_port(&m.g, 0x22, (uint8_t)(0x40 + i));
		expect_port(&m.g, 0x22, (uint8_t)(0x41 + i));
		expect_port(&m.g, 0x31, 0x77);
		assert_int_equal(m.shadow[F_SEGMENT - SHADOW + 0x200], 0x41 + i);
	}
	machine_close(&m);
}

static void kernel_writes_shadow(void **state)
{
	struct machine m;

	machine_open(&m, NULL, 0, TRAMPOLINE, true);
	assert_false(kernel_stores(&m));
	assert_int_equal(m.shadow[E_VARIABLE - SHADOW], 0);
	assert_int_equal(guest_counters(&m.g).denied_write, 1);
	machine_close(&m);
}

/* The chipset shows something else there at the next suspend; or a device has written into it. */
static void other_memory_at_wake(void **state)
{
	for (unsigned row = 0; row < 3; row++) {
		uint8_t *other = memory(SHADOW_SIZE);
		struct machine m;

		memset(other, 0xf4, SHADOW_SIZE);
		machine_open(&m, NULL, 0, TRAMPOLINE, true);
		if (row == 0) {
			memset(m.shadow + (F_SEGMENT - SHADOW), 0xf4, 0x100);
		} else {
			add_slot(&m.g, 2, 0, SHADOW, m.shadow, 0);
			add_slot(&m.g, 2, row == 2 ? KVM_MEM_READONLY : 0, SHADOW, other, SHADOW_SIZE);
		}
		reset(&m.g);
		/* Written to memory where there is some: read back what stands there. */
		if (row < 2) {
			expect_port(&m.g, 0x30, 0x5a);
		} else {
			assert_int_equal(rig_run(&m.g.rig), 0);
			assert_int_equal(m.g.rig.run->exit_reason, KVM_EXIT_MMIO);
			expect_port(&m.g, 0x30, 0xf4);
		}
		expect_port(&m.g, 0x31, 0x77);
		machine_close(&m);
		munmap(other, SHADOW_SIZE);
	}
}

/* Whoever comes to firmware otherwise than by a reset of the client's may not run it. */
static const struct entry { const char *name; uint16_t sel; uint64_t base, rip; } entries[] = {
	{ "the F segment by registers", 0xf000, 0xf0000, 0 },
	{ "the ROM beside the reset vector", 0xf000, 0xffff0000, 0xff00 },
	{ "the reset vector's alias below 1 MiB", 0xf000, 0xf0000, 0xfff0 },
};

static void other_ways_in(void **state)
{
	for (unsigned i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
		struct machine m;

		print_message("# %s\n", entries[i].name);
		machine_open(&m, NULL, 0, TRAMPOLINE, true);
		place(&m.g, entries[i].sel, entries[i].base, entries[i].rip);
		expect_shutdown(&m.g);
		assert_int_equal(guest_counters(&m.g).denied_fetch, 1);
		machine_close(&m);
	}
}

/* A vCPU that the guest has brought into the segment of the reset vector; the client sets what it has read, and RIP. */
static void guest_stands_there_already(void **state)
{
	struct kvm_regs regs = { .rip = 0xfff0, .rflags = 2 };
	struct kvm_sregs s;
	struct machine m;

	machine_open(&m, NULL, 0, TRAMPOLINE, true);
	place(&m.g, 0xf000, 0xffff0000, 0xff00);
	expect_shutdown(&m.g);
	s = guest_sregs(&m.g);
	guest_set_sregs(&m.g, &s);
	assert_int_equal(rig_ioctl(m.g.rig.vcpu, KVM_SET_REGS, &regs), 0);
	expect_shutdown(&m.g);
	assert_int_equal(guest_counters(&m.g).denied_fetch, 2);
	machine_close(&m);
}

/* From the waking vector on it is the guest: back to firmware, or a write to its memory; also where firmware has read the page before. */
static void after_waking(void **state)
{
	static const uint8_t back[] = { 0xb0, 0x77, 0xe6, 0x31, 0xea, 0x00, 0x00, 0x00, 0xf0 };
	/* mov $0xe000,%ax; mov %ax,%ds; movb $0x99,0x10 */
	static const uint8_t store[] = { 0xb0, 0x77, 0xe6, 0x31, 0xb8, 0x00, 0xe0, 0x8e, 0xd8, 0xc6, 0x06, 0x10, 0x00, 0x99 };
	/* mov $TRAMPOLINE >> 4,%ax; mov %ax,%ds; mov 0,%al */
	static const uint8_t look[] = { 0xb8, 0x00, 0x3b, 0x8e, 0xd8, 0xa0, 0x00, 0x00 };
	struct machine m;

	for (unsigned row = 0; row < 2; row++) {
		machine_open(&m, look, sizeof(look), TRAMPOLINE, true);
		memcpy(m.g.rig.ram + TRAMPOLINE, row ? store : back, row ? sizeof(store) : sizeof(back));
		wake(&m);
		expect_shutdown(&m.g);
		assert_int_equal(guest_counters(&m.g).denied_fetch, 1);
		assert_int_equal(guest_counters(&m.g).denied_write, row);
		assert_int_equal(m.shadow[E_VARIABLE - SHADOW], 0x5a);
		machine_close(&m);
	}
}

/* With its own tables an attacker could show firmware anything. */
static void paging_ends_it(void **state)
{
	/* mov $PAGE_DIRECTORY,%eax; mov %eax,%cr3; mov %cr4,%eax; or $0x10,%al; mov %eax,%cr4; mov %cr0,%eax; or $0x80000001,%eax;
	 * mov %eax,%cr0 */
	static const uint8_t code[] = { 0x66, 0xb8, 0x00, 0xa0, 0x03, 0x00, 0x0f, 0x22, 0xd8, 0x0f, 0x20, 0xe0, 0x0c, 0x10, 0x0f, 0x22, 0xe0,
					0x0f, 0x20, 0xc0, 0x66, 0x0d, 0x01, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0, 0xe6, 0x22 };
	uint32_t pde = 0x83;
	struct machine m;

	machine_open(&m, code, sizeof(code), TRAMPOLINE, true);
	memcpy(m.g.rig.ram + PAGE_DIRECTORY, &pde, sizeof(pde));
	reset(&m.g);
	expect_port(&m.g, 0x30, 0x5a);
	expect_shutdown(&m.g);
	assert_true(guest_sregs(&m.g).cr0 & 0x80000000);
	assert_true(guest_counters(&m.g).denied_fetch > 0);
	machine_close(&m);
}

/* Kernel text stays closed to firmware too. */
static void text_is_closed_to_firmware(void **state)
{
	/* mov $0x2300,%ax; mov %ax,%ds; movb $0x99,0 */
	static const uint8_t code[] = { 0xb8, 0x00, 0x23, 0x8e, 0xd8, 0xc6, 0x06, 0x00, 0x00, 0x99 };
	struct machine m;
	uint8_t before;

	machine_open(&m, code, sizeof(code), TRAMPOLINE, true);
	before = m.g.rig.ram[K_CODE];
	reset(&m.g);
	expect_port(&m.g, 0x30, 0x5a);
	expect_shutdown(&m.g);
	assert_int_equal(guest_counters(&m.g).denied_write, 1);
	assert_int_equal(m.g.rig.ram[K_CODE], before);
	machine_close(&m);
}

/* The entry of system management mode at SMBASE, in memory that the guest has too, when firmware moves it elsewhere. */
static const struct pad { const char *name; uint8_t code[8], value; } pads[] = {
	{ "a far jump into firmware", { 0xea, 0x00, 0x01, 0x00, 0xf0 }, 0xe0 },
	{ "AX with CS before it", { 0x8c, 0xc8, 0xea, 0x00, 0x01, 0x00, 0xf0 }, 0x30 },
	{ "a far jump elsewhere", { 0xea, 0x00, 0x00, 0x00, 0x39 }, 0 },
	{ "other code", { 0xe6, 0x22, 0x0f, 0xaa }, 0 },
	{ "a far call", { 0x9a, 0x00, 0x01, 0x00, 0xf0 }, 0 },
};

static void smi(struct machine *m)
{
	assert_int_equal(rig_ioctl_n(m->g.rig.vcpu, KVM_SMI, 0), 0);
}

static void system_management(void **state)
{
	for (unsigned i = 0; i < sizeof(pads) / sizeof(pads[0]); i++) {
		struct machine m;

		print_message("# %s\n", pads[i].name);
		machine_open(&m, NULL, 0, TRAMPOLINE, true);
		add_slot(&m.g, SMM_SPACE, 0, 0, m.g.rig.ram, RIG_RAM);
		add_slot(&m.g, SMM_SPACE | 2, 0, SHADOW, m.shadow, SHADOW_SIZE);
		memcpy(m.g.rig.ram + SMM_ENTRY, pads[i].code, sizeof(pads[i].code));
		reset(&m.g);
		expect_port(&m.g, 0x30, 0x5a);
		smi(&m);
		if (pads[i].value) {
			expect_port(&m.g, 0x23, pads[i].value);
			expect_port(&m.g, 0x31, 0x77);
			assert_int_equal(denials(&m.g), 0);
		} else {
			expect_shutdown(&m.g);
			assert_true(guest_counters(&m.g).denied_fetch > 0);
		}
		/* Awake, the guest's memory is no entry any more. */
		if (pads[i].value) {
			smi(&m);
			expect_shutdown(&m.g);
			assert_true(guest_counters(&m.g).denied_fetch > 0);
		}
		machine_close(&m);
	}
}

/* Under the running kernel: the handler begins in memory of its own and goes on in the shadow area, whatever was written there since. */
static void system_management_of_the_locked(void **state)
{
	static const uint8_t entry[] = { 0x8c, 0xc8, 0xea, 0x00, 0x01, 0x00, 0xf0 };
	uint8_t *smram = memory(0x10000);
	struct machine m;

	machine_open(&m, NULL, 0, TRAMPOLINE, true);
	add_slot(&m.g, SMM_SPACE, 0, 0, m.g.rig.ram, SMBASE);
	add_slot(&m.g, SMM_SPACE | 1, 0, SMBASE, smram, 0x10000);
	add_slot(&m.g, SMM_SPACE | 2, 0, SHADOW, m.shadow, SHADOW_SIZE);
	memcpy(smram + 0x8000, entry, sizeof(entry));
	memset(m.shadow + (F_SEGMENT - SHADOW) + SMM_HANDLER, 0xf4, sizeof(smm_handler));
	EMIT(&m.g, 0xe6, 0x24, 0x0f, 0x0b);
	smi(&m);
	expect_port(&m.g, 0x23, 0x30);
	assert_int_equal(rig_run(&m.g.rig), 0);
	assert_int_equal(m.g.rig.run->io.port, 0x24);
	assert_int_equal(guest_vector(&m.g), 6);
	assert_int_equal(denials(&m.g), 0);
	assert_false(kernel_stores(&m));
	machine_close(&m);
	munmap(smram, 0x10000);
}

/* ---- other processors ------------------------------------------------------------------------------------------------------ */

#define STARTED		0x3c000u	/* where firmware starts them */

/* ICR of the x2APIC: INIT, then SIPI for STARTED, to processor 1 */
static const uint8_t init_sipi[] = { 0x66, 0xb9, 0x30, 0x08, 0x00, 0x00, 0x66, 0xb8, 0x00, 0x45, 0x00, 0x00, 0x66, 0xba, 0x01, 0x00, 0x00, 0x00,
				     0x0f, 0x30, 0x66, 0xb8, 0x3c, 0x46, 0x00, 0x00, 0x0f, 0x30, 0xe6, 0x22 };

static void nothing(int sig) { }

/* True: at a port. False: it waits. */
static bool other_runs(int fd, struct kvm_run *run, uint16_t *port)
{
	struct sigaction a = { .sa_handler = nothing };
	long r;

	sigaction(SIGALRM, &a, NULL);
	do {
		ualarm(200000, 0);
		r = rig_ioctl_n(fd, KVM_RUN, 0);
		ualarm(0, 0);
	} while (r == -EAGAIN);
	if (r == -EINTR)
		return false;
	assert_int_equal(r, 0);
	assert_int_equal(run->exit_reason, KVM_EXIT_IO);
	*port = run->io.port;
	return true;
}

/* @runs: what the first processor left there is a jump into firmware. */
static void start_other(const uint8_t *pad, size_t n, bool runs)
{
	static const uint8_t wait[] = { 0xe6, 0x7f };	/* out: HLT would wait for interrupts */
	struct machine m;
	struct kvm_sregs s;
	struct kvm_run *run;
	uint16_t port;
	int fd;

	kernel_open_with(&m.g, NULL, RIG_CPUID | RIG_IRQCHIP);
	fd = rig_vcpu(&m.g.rig, 1, &run);
	rig_set_cpuid(&m.g.rig, fd);
	furnish(&m, init_sipi, sizeof(init_sipi), TRAMPOLINE, true);
	memcpy(m.g.rig.ram + TRAMPOLINE, init_sipi, sizeof(init_sipi));
	memcpy(m.g.rig.ram + K_TEXT + 6 * 16, wait, sizeof(wait));
	memcpy(m.g.rig.ram + STARTED, pad, n);
	memcpy(m.g.rig.ram + ATTACKER, "\xea\x00\x01\x00\xf0", 5);	/* into firmware, by a way round */
	guest_start(&m.g, 3);
	EMIT(&m.g, 0x0f, 0x0b);
	assert_int_equal(rig_run(&m.g.rig), 0);
	assert_int_equal(m.g.rig.run->io.port, 0x7f);
	reset(&m.g);
	s = guest_sregs(&m.g);
	s.apic_base = 0xfee00d00;
	guest_set_sregs(&m.g, &s);
	expect_port(&m.g, 0x30, 0x5a);
	assert_int_equal(rig_run(&m.g.rig), 0);
	assert_int_equal(m.g.rig.run->io.port, 0x22);
	assert_int_equal(other_runs(fd, run, &port), runs);
	assert_int_equal(guest_counters(&m.g).denied_fetch, !runs);
	if (runs)
		assert_int_equal(port, 0x23);
	/* The kernel awake: the same start is not firmware's. */
	assert_int_equal(rig_run(&m.g.rig), 0);
	assert_int_equal(m.g.rig.run->io.port, 0x22);
	assert_false(other_runs(fd, run, &port));
	assert_int_equal(guest_counters(&m.g).denied_fetch, 1 + !runs);
	assert_int_equal(gw_close(fd), 0);
	machine_close(&m);
}

static void other_processors(void **state)
{
	static const uint8_t jump[] = { 0xea, 0x00, 0x01, 0x00, 0xf0 }, elsewhere[] = { 0xea, 0x00, 0x00, 0x00, 0x39 }, code[] = { 0xe6, 0x23 };
	static const uint8_t call[] = { 0x9a, 0x00, 0x01, 0x00, 0xf0 };

	start_other(jump, sizeof(jump), true);
	start_other(elsewhere, sizeof(elsewhere), false);
	start_other(code, sizeof(code), false);
	start_other(call, sizeof(call), false);
}

static bool client_can_write(uint8_t *at)
{
	int p[2];
	bool ok;

	assert_int_equal(pipe(p), 0);
	assert_int_equal(write(p[1], "x", 1), 1);
	ok = read(p[0], at, 1) == 1;
	close(p[0]);
	close(p[1]);
	return ok;
}

static void shielded(void **state)
{
	struct machine m;

	machine_open_under(&m, GW_HEKI_POLICY_SHIELD, NULL, 0, TRAMPOLINE, true);
	for (unsigned i = 0; i < 2; i++) {
		assert_false(client_can_write(m.shadow + E_VARIABLE - SHADOW + 8));
		wake(&m);
		assert_int_equal(m.shadow[E_VARIABLE - SHADOW], 0x5a);
	}
	assert_false(client_can_write(m.shadow + E_VARIABLE - SHADOW + 8));
	assert_int_equal(rig_ioctl_n(m.g.rig.vm, GW_HEKI_RESET, 0), 0);
	assert_true(client_can_write(m.shadow + E_VARIABLE - SHADOW + 8));
	machine_close(&m);
}

static void without_rom(void **state)
{
	struct machine m;

	machine_open(&m, NULL, 0, TRAMPOLINE, false);
	assert_true(kernel_stores(&m));
	assert_int_equal(m.shadow[E_VARIABLE - SHADOW], 0x99);
	reset(&m.g);
	assert_int_equal(rig_run(&m.g.rig), 0);
	assert_int_not_equal(m.g.rig.run->exit_reason, KVM_EXIT_IO);
	machine_close(&m);
}

static void owner_resets_protection(void **state)
{
	struct machine m;

	machine_open(&m, NULL, 0, ATTACKER, true);
	reset(&m.g);
	expect_port(&m.g, 0x30, 0x5a);
	assert_int_equal(rig_ioctl_n(m.g.rig.vm, GW_HEKI_RESET, 0), 0);
	expect_port(&m.g, 0x31, 0x77);
	assert_int_equal(denials(&m.g), 0);
	machine_close(&m);
}

static uint64_t is_locked(struct guest *g)
{
	struct gw_heki_state s;

	assert_int_equal(rig_ioctl(g->rig.vm, GW_HEKI_GET_STATE, &s), 0);
	return s.locked;
}

/* The policy's clear-on-reset: nothing of the locked kernel is left, the ROM is, and the next kernel is locked as the first was. */
static void a_reset_clears(void **state)
{
	struct gw_heki_policy p;
	struct machine m;

	machine_open_under(&m, GW_HEKI_POLICY_CLEAR_ON_RESET, NULL, 0, ATTACKER, true);
	m.shadow[E_VARIABLE - SHADOW] = 0x33;
	m.shadow[F_SEGMENT - SHADOW] = 0xf4;
	reset(&m.g);
	assert_int_equal(is_locked(&m.g), 0);
	assert_memory_equal(m.g.rig.ram + K_TEXT, "\0\0\0\0", 4);
	assert_memory_equal(m.g.rig.ram + K_RODATA, "\0\0\0\0", 4);
	/* Firmware as the lock found it. */
	assert_int_equal(m.shadow[E_VARIABLE - SHADOW], 0);
	assert_int_equal(m.shadow[F_SEGMENT - SHADOW], 0xb8);
	assert_int_equal(m.rom[0xfff0], 0xea);
	assert_int_equal(rig_ioctl(m.g.rig.vm, GW_HEKI_GET_POLICY, &p), 0);
	assert_int_equal(p.flags, GW_HEKI_POLICY_CLEAR_ON_RESET | GW_HEKI_POLICY_UNASSISTED);
	/* Nothing is judged until there is another kernel. */
	wake(&m);
	assert_int_equal(denials(&m.g), 0);
	kernel_make_again(&m.g);
	kernel_lock(&m.g);
	assert_false(kernel_stores(&m));
	machine_close(&m);
}

static void *spin(void *arg)
{
	rig_ioctl_n(*(int *)arg, KVM_RUN, 0);
	return NULL;
}

/* One processor among others that run: no reset of the machine. */
static void a_reset_of_one_clears_nothing(void **state)
{
	struct kvm_run *run;
	struct machine m;
	pthread_t t;
	int fd;

	kernel_open_with(&m.g, &(struct gw_heki_policy){ .flags = GW_HEKI_POLICY_CLEAR_ON_RESET }, RIG_CPUID | RIG_IRQCHIP);
	fd = rig_vcpu(&m.g.rig, 1, &run);
	rig_set_cpuid(&m.g.rig, fd);
	furnish(&m, NULL, 0, TRAMPOLINE, true);
	memcpy(m.g.rig.ram + K_TEXT + 6 * 16, "\xe6\x7f", 2);
	guest_start(&m.g, 3);
	EMIT(&m.g, 0x0f, 0x0b);
	expect_port(&m.g, 0x7f, 0);
	assert_int_equal(is_locked(&m.g), 1);
	/* It waits inside KVM_RUN for its start. */
	assert_int_equal(pthread_create(&t, NULL, spin, &fd), 0);
	usleep(100000);
	reset(&m.g);
	assert_int_equal(is_locked(&m.g), 1);
	assert_memory_equal(m.g.rig.ram + K_TEXT + 6 * 16, "\xe6\x7f", 2);
	run->immediate_exit = 1;
	pthread_kill(t, SIGALRM);
	pthread_join(t, NULL);
	run->immediate_exit = 0;
	place(&m.g, 0, 0, 0);
	reset(&m.g);
	assert_int_equal(is_locked(&m.g), 0);
	assert_int_equal(gw_close(fd), 0);
	machine_close(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		{ "a vCPU that the client resets runs firmware up to the waking vector, again and again", wakes, NULL, NULL, NULL },
		{ "a waking vector in data is not executed", wakes_into_data, NULL, NULL, NULL },
		{ "firmware's variables are memory, also in pages of its code", variables_are_memory, NULL, NULL, NULL },
		{ "the locked kernel cannot write the shadow area", kernel_writes_shadow, NULL, NULL, NULL },
		{ "what is executed is what lay there at the lock, whatever is mapped or written there", other_memory_at_wake, NULL, NULL, NULL },
		{ "nobody else comes into firmware", other_ways_in, NULL, NULL, NULL },
		{ "nor a vCPU that stood in the reset vector's segment already", guest_stands_there_already, NULL, NULL, NULL },
		{ "after the waking vector there is no way back and no store", after_waking, NULL, NULL, NULL },
		{ "paging ends it", paging_ends_it, NULL, NULL, NULL },
		{ "kernel text is closed to firmware too", text_is_closed_to_firmware, NULL, NULL, NULL },
		{ "system management mode begins in guest memory with a jump into firmware and nothing else", system_management, NULL, NULL, NULL },
		{ "under the running kernel its handler goes on in firmware", system_management_of_the_locked, NULL, NULL, NULL },
		{ "a processor that firmware starts begins with a jump into firmware and nothing else", other_processors, NULL, NULL, NULL },
		{ "with a shield the client cannot write the shadow area but while firmware runs", shielded, NULL, NULL, NULL },
		{ "a machine without ROM has no firmware and no shadow area", without_rom, NULL, NULL, NULL },
		{ "under clear-on-reset the client's reset ends the lock, clears what it closed, and the next kernel is locked", a_reset_clears, NULL, NULL, NULL },
		{ "but not the reset of one processor while another runs", a_reset_of_one_clears_nothing, NULL, NULL, NULL },
		{ "when the owner takes protection back, firmware is code like all", owner_resets_protection, NULL, NULL, NULL },
	};

	return _cmocka_run_group_tests("firmware", tests, sizeof(tests) / sizeof(tests[0]), NULL, NULL);
}
