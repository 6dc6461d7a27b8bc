/* SPDX-License-Identifier: MIT */
/* What makes an exit, what is taken without one, and what an exit says: ioeventfds, coalesced ports, emulation errors, breakpoints. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "flat.h"

#define PORT	0x60u
#define VALUE	0x1122334455667788ull

/* 32-bit code, one piece after the other. */
struct code { uint8_t bytes[64]; size_t n; };

static void put(struct code *c, const void *bytes, size_t n)
{
	memcpy(c->bytes + c->n, bytes, n);
	c->n += n;
}

#define PUT(c, ...) put(c, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

static void put32(struct code *c, uint32_t value)
{
	put(c, &value, sizeof(value));
}

static void put_write(struct code *c, bool pio, uint32_t addr, unsigned len)
{
	PUT(c, 0xb8);				/* mov eax, VALUE */
	put32(c, (uint32_t)VALUE);
	if (pio) {
		PUT(c, 0xba);			/* mov edx, addr; out dx, al or ax or eax */
		put32(c, addr);
		if (len == 2)
			PUT(c, 0x66);
		PUT(c, len == 1 ? 0xee : 0xef);
	} else if (len == 8) {
		PUT(c, 0x0f, 0x6f, 0x05);	/* movq mm0, [0x7000]; movq [addr], mm0 */
		put32(c, 0x7000);
		PUT(c, 0x0f, 0x7f, 0x05);
		put32(c, addr);
	} else {
		if (len == 2)
			PUT(c, 0x66);
		PUT(c, len == 1 ? 0xa2 : 0xa3);	/* mov [addr], al or ax or eax */
		put32(c, addr);
	}
	PUT(c, 0xf4);
}

static void start(struct rig *r, const struct code *c)
{
	const uint64_t value = VALUE;

	memcpy(r->ram + 0x7000, &value, sizeof(value));
	flat_code(r, r->vcpu, c->bytes, c->n);
	assert_int_equal(rig_run(r), 0);
}

/* ---- ioeventfd ----------------------------------------------------------------------------------------------------------- */

enum match { ANY, EQUAL, OTHER, N_MATCHES };

static uint64_t cut(unsigned len)
{
	return len == 8 ? VALUE : VALUE & ((1ull << len * 8) - 1);
}

static void one_write(bool pio, unsigned len, enum match match, unsigned written, unsigned beside)
{
	struct kvm_ioeventfd e = { .addr = pio ? PORT : RIG_HOLE, .len = len, .flags = (pio ? KVM_IOEVENTFD_FLAG_PIO : 0) | (match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) };
	bool taken = !beside && (!len || len == written) && match != OTHER;
	uint64_t count = 0;
	struct code c = { .n = 0 };
	struct rig r;

	e.datamatch = match == EQUAL ? cut(len) : match == OTHER ? cut(len) ^ 0x80 : 0;
	flat_open(&r, RIG_CPUID);
	e.fd = eventfd(0, EFD_NONBLOCK);
	assert_int_equal(rig_ioctl(r.vm, KVM_IOEVENTFD, &e), 0);
	put_write(&c, pio, (uint32_t)e.addr + beside, written);
	start(&r, &c);
	if (read(e.fd, &count, sizeof(count)) != sizeof(count))
		count = 0;
	if (count != taken || r.run->exit_reason != (taken ? KVM_EXIT_HLT : pio ? KVM_EXIT_IO : KVM_EXIT_MMIO))
		fail_msg("%s: %u bytes written %u beside one of length %u, match %d: %llu events, exit %u", pio ? "port" : "memory", written, beside, len, match,
			 (unsigned long long)count, r.run->exit_reason);
	close(e.fd);
	rig_close(&r);
}

static void every_length_and_match(void **state)
{
	static const unsigned lens[] = { 0, 1, 2, 4, 8 };

	for (unsigned pio = 0; pio < 2; pio++)
		for (unsigned l = 0; l < 5; l++)
			for (unsigned m = ANY; m < (lens[l] ? N_MATCHES : EQUAL); m++)
				for (unsigned w = 1; w < (pio ? 4 : 5); w++)
					one_write(pio, lens[l], m, lens[w], 0);
	for (unsigned l = 0; l < 2; l++)
		for (unsigned pio = 0; pio < 2; pio++)
			one_write(pio, lens[l], ANY, 1, 1);
}

/* Two of one address with other data; a read is never taken. */
static void two_of_one_address(void **state)
{
	struct kvm_ioeventfd e = { .addr = PORT, .len = 1, .flags = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH };
	int first = eventfd(0, EFD_NONBLOCK), second = eventfd(0, EFD_NONBLOCK);
	/* mov al, 5; out 0x60, al; mov al, 6; out 0x60, al; in al, 0x60 */
	static const uint8_t code[] = { 0xb0, 5, 0xe6, 0x60, 0xb0, 6, 0xe6, 0x60, 0xe4, 0x60, 0xf4 };
	uint64_t count;
	struct rig r;

	flat_open(&r, 0);
	e.fd = first;
	e.datamatch = 5;
	assert_int_equal(rig_ioctl(r.vm, KVM_IOEVENTFD, &e), 0);
	e.fd = second;
	assert_int_equal(rig_ioctl(r.vm, KVM_IOEVENTFD, &e), -EEXIST);
	e.datamatch = 6;
	assert_int_equal(rig_ioctl(r.vm, KVM_IOEVENTFD, &e), 0);
	flat_code(&r, r.vcpu, code, sizeof(code));
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(r.run->io.direction, KVM_EXIT_IO_IN);
	assert_int_equal(read(first, &count, 8), 8);
	assert_int_equal(count, 1);
	assert_int_equal(read(second, &count, 8), 8);
	assert_int_equal(count, 1);
	close(first);
	close(second);
	rig_close(&r);
}

/* ---- coalesced ports ----------------------------------------------------------------------------------------------------- */

static void coalesced_ports(void **state)
{
	/* mov ecx, 200; 1: mov al, cl; out 0x61, al; loop 1b; hlt */
	static const uint8_t code[] = { 0xb9, 200, 0, 0, 0, 0x88, 0xc8, 0xe6, 0x61, 0xe2, 0xfa, 0xf4 };
	struct kvm_coalesced_mmio_zone z = { .addr = PORT, .size = 4, .pio = 1 };
	struct kvm_coalesced_mmio_ring *ring;
	struct rig r;

	flat_open(&r, 0);
	ring = (void *)((uint8_t *)r.run + 8192);
	assert_int_equal(rig_ioctl(r.vm, KVM_REGISTER_COALESCED_MMIO, &z), 0);
	flat_code(&r, r.vcpu, code, sizeof(code));
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(r.run->io.port, 0x61);
	assert_int_equal(((uint8_t *)r.run)[r.run->io.data_offset], 200 - 169);
	assert_int_equal(ring->last, 169);
	for (unsigned i = 0; i < 169; i++) {
		assert_int_equal(ring->coalesced_mmio[i].phys_addr, 0x61);
		assert_int_equal(ring->coalesced_mmio[i].len, 1);
		assert_int_equal(ring->coalesced_mmio[i].pio, 1);
		assert_int_equal(ring->coalesced_mmio[i].data[0], (uint8_t)(200 - i));
	}
	/* Emptied, it takes the rest. */
	ring->first = ring->last;
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_HLT);
	assert_int_equal((ring->last + 170 - ring->first) % 170, 30);
	rig_close(&r);
}

/* Beside the zone, over its end, or to memory of the same number: an exit. */
static void beside_a_coalesced_zone(void **state)
{
	static const struct { uint32_t addr; unsigned len; bool pio, taken; } rows[] = {
		{ PORT, 1, true, true }, { PORT, 4, true, true }, { PORT + 2, 2, true, true }, { PORT - 1, 1, true, false }, { PORT + 4, 1, true, false },
		{ PORT + 2, 4, true, false }, { PORT - 1, 2, true, false },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct kvm_coalesced_mmio_zone z = { .addr = PORT, .size = 4, .pio = 1 };
		struct code c = { .n = 0 };
		struct rig r;

		flat_open(&r, RIG_CPUID);
		assert_int_equal(rig_ioctl(r.vm, KVM_REGISTER_COALESCED_MMIO, &z), 0);
		put_write(&c, rows[i].pio, rows[i].addr, rows[i].len);
		start(&r, &c);
		if ((r.run->exit_reason == KVM_EXIT_HLT) != rows[i].taken)
			fail_msg("%u bytes at %#x: exit %u", rows[i].len, rows[i].addr, r.run->exit_reason);
		rig_close(&r);
	}
}

/* ---- emulation errors ---------------------------------------------------------------------------------------------------- */

/* KVM does not emulate an x87 load from a device. We do, but for clients that ask to see such instructions: they get the bytes. */
static void emulation_errors(void **state)
{
	for (unsigned wants = 0; wants < 2; wants++) {
		struct kvm_enable_cap cap = { .cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE, .args = { wants } };
		struct code c = { .n = 0 };
		struct kvm_regs regs;
		struct rig r;

		flat_open(&r, RIG_CPUID);
		assert_int_equal(rig_ioctl(r.vm, KVM_ENABLE_CAP, &cap), 0);
		PUT(&c, 0x90, 0xd9, 0x05);		/* nop; fld dword [RIG_HOLE] */
		put32(&c, RIG_HOLE);
		PUT(&c, 0xf4);
		start(&r, &c);
		assert_int_equal(r.run->exit_reason, wants ? KVM_EXIT_INTERNAL_ERROR : KVM_EXIT_MMIO);
		assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_REGS, &regs), 0);
		assert_int_equal(regs.rip, RIG_CODE + 1);
		if (wants) {
			assert_int_equal(r.run->internal.suberror, KVM_INTERNAL_ERROR_EMULATION);
			assert_true(r.run->emulation_failure.ndata >= 3);
			assert_int_equal(r.run->emulation_failure.flags, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);
			assert_in_range(r.run->emulation_failure.insn_size, 6, 15);
			assert_memory_equal(r.run->emulation_failure.insn_bytes, c.bytes + 1, 6);
		}
		rig_close(&r);
	}
}

/* ---- breakpoints of the client ------------------------------------------------------------------------------------------- */

static void hardware_breakpoints(void **state)
{
	/* nop; nop; mov [0x7004], al; nop; hlt */
	static const uint8_t code[] = { 0x90, 0x90, 0xa2, 0x04, 0x70, 0, 0, 0x90, 0xf4 };
	struct kvm_guest_debug d = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP };
	struct kvm_debugregs own = { .db = { 1, 2, 3, 4 }, .dr6 = 0xffff0ff0, .dr7 = 0x400 }, after;
	struct rig r;

	flat_open(&r, RIG_CPUID);
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_DEBUGREGS, &own), 0);
	flat_code(&r, r.vcpu, code, sizeof(code));
	d.arch.debugreg[0] = RIG_CODE + 1;			/* execution */
	d.arch.debugreg[1] = 0x7004;				/* writes of 4 bytes */
	d.arch.debugreg[7] = 0x400 | 1 | 4 | 0xdu << 20;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_GUEST_DEBUG, &d), 0);
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_DEBUG);
	assert_int_equal(r.run->debug.arch.exception, 1);
	assert_int_equal(r.run->debug.arch.pc, RIG_CODE + 1);
	assert_int_equal(r.run->debug.arch.dr6, 0xffff0ff1);
	/* Where it is, it would stop again. */
	d.arch.debugreg[7] &= ~1ull;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_GUEST_DEBUG, &d), 0);
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_DEBUG);
	assert_int_equal(r.run->debug.arch.pc, RIG_CODE + 7);	/* a trap: after the store */
	assert_int_equal(r.run->debug.arch.dr6, 0xffff0ff2);
	/* The guest's own registers are as they were. */
	assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_DEBUGREGS, &after), 0);
	assert_memory_equal(&after, &own, sizeof(own));
	d.control = 0;
	assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_GUEST_DEBUG, &d), 0);
	assert_int_equal(rig_run(&r), 0);
	assert_int_equal(r.run->exit_reason, KVM_EXIT_HLT);
	rig_close(&r);
}

/* While the client steps with BLOCKIRQ no interrupt comes between; without, it does. */
static void stepping_without_interrupts(void **state)
{
	/* 1: nop; jmp 1b */
	static const uint8_t code[] = { 0x90, 0xeb, 0xfd };

	for (unsigned block = 0; block < 2; block++) {
		struct kvm_guest_debug d = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | (block ? KVM_GUESTDBG_BLOCKIRQ : 0) };
		bool outside = false;
		struct kvm_regs regs;
		struct rig r;

		flat_open(&r, RIG_IRQCHIP | RIG_CPUID);
		/* Not over the handler, which is behind the main loop. */
		memcpy(r.ram + RIG_CODE, code, sizeof(code));
		assert_int_equal(rig_ioctl(r.vcpu, KVM_GET_REGS, &regs), 0);
		regs.rflags |= 0x200;
		assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_REGS, &regs), 0);
		assert_int_equal(rig_ioctl(r.vcpu, KVM_SET_GUEST_DEBUG, &d), 0);
		flat_inject(&r, 0x50);
		for (unsigned i = 0; i < 6; i++) {
			assert_int_equal(rig_run(&r), 0);
			assert_int_equal(r.run->exit_reason, KVM_EXIT_DEBUG);
			outside |= r.run->debug.arch.pc >= RIG_CODE + sizeof(code);
		}
		assert_int_equal(outside, !block);
		rig_close(&r);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		{ "an ioeventfd takes its length, its address, its data, on both buses", every_length_and_match },
		{ "two ioeventfds of one address share it by data", two_of_one_address },
		{ "writes to coalesced ports fill the ring, then exit", coalesced_ports },
		{ "what is not wholly in a coalesced zone exits", beside_a_coalesced_zone },
		{ "an x87 load from a device is emulated, or shown to a client that wants it", emulation_errors },
		{ "hardware breakpoints of the client stop at code and after data, and are not the guest's", hardware_breakpoints },
		{ "BLOCKIRQ keeps interrupts out of single steps", stepping_without_interrupts },
	};

	return cmocka_run_group_tests_name("exits", tests, NULL, NULL);
}
