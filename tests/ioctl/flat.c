/* SPDX-License-Identifier: MIT */
#include "flat.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

extern const uint8_t flat_begin[], flat_handler[], flat_end[];

__asm__(".pushsection .rodata\n"
	".code32\n"
	"flat_begin:\n"
	"1:	sti\n"
	"	nop\n"
	"	cli\n"
	"	outb %al, $0x10\n"
	"	jmp 1b\n"
	"flat_handler:\n"
	"	lock incl 0xa000\n"
	"	testl $1, 0xa008\n"
	"	jz 2f\n"
	"	outb %al, $0x11\n"
	"2:	testl $2, 0xa008\n"
	"	jnz 4f\n"
	"	testb $1, 0x9000\n"		/* asked first: the page may be closed to writers */
	"	jz 3f\n"
	"	lock btrl $0, 0x9000\n"
	"	jmp 4f\n"
	"3:	lock incl 0xa004\n"
	"	movl $0, 0xfee000b0\n"
	"4:	iret\n"
	"flat_end:\n"
	".code64\n"
	".popsection\n");

static void set_tables(struct rig *r)
{
	static const uint64_t gdt[] = { 0, 0x00cf9b000000ffff, 0x00cf93000000ffff };
	uint32_t handler = RIG_CODE + (uint32_t)(flat_handler - flat_begin);

	memcpy(r->ram + FLAT_GDT, gdt, sizeof(gdt));
	for (unsigned i = 32; i < 256; i++) {
		uint32_t gate[2] = { 8u << 16 | (handler & 0xffff), (handler & 0xffff0000) | 0x8e00 };

		memcpy(r->ram + FLAT_IDT + i * 8, gate, sizeof(gate));
	}
}

void flat_code(struct rig *r, int vcpu, const void *code, size_t n)
{
	struct kvm_segment data = { .limit = 0xffffffff, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
	struct kvm_regs regs = { .rip = RIG_CODE, .rsp = 0x8000, .rflags = 2 };
	struct kvm_sregs s;

	memcpy(r->ram + RIG_CODE, code, n);
	assert_int_equal(rig_ioctl(vcpu, KVM_GET_SREGS, &s), 0);
	s.cr0 |= 1;
	s.ds = s.es = s.ss = s.fs = s.gs = data;
	s.cs = data;
	s.cs.selector = 8;
	s.cs.type = 11;
	s.gdt.base = FLAT_GDT;
	s.gdt.limit = 23;
	s.idt.base = FLAT_IDT;
	s.idt.limit = 2047;
	assert_int_equal(rig_ioctl(vcpu, KVM_SET_SREGS, &s), 0);
	assert_int_equal(rig_ioctl(vcpu, KVM_SET_REGS, &regs), 0);
}

void flat_open(struct rig *r, unsigned flags)
{
	struct kvm_lapic_state l;

	rig_open(r, flags);
	set_tables(r);
	flat_code(r, r->vcpu, flat_begin, (size_t)(flat_end - flat_begin));
	if (!(flags & (RIG_IRQCHIP | RIG_SPLIT)))
		return;
	assert_int_equal(rig_ioctl(r->vcpu, KVM_GET_LAPIC, &l), 0);
	l.regs[0xf1] |= 1;	/* software enable */
	assert_int_equal(rig_ioctl(r->vcpu, KVM_SET_LAPIC, &l), 0);
}

uint32_t flat_word(const struct rig *r, uint32_t at)
{
	uint32_t value;

	memcpy(&value, r->ram + at, sizeof(value));
	return value;
}

void flat_set(struct rig *r, uint32_t at, uint32_t value)
{
	memcpy(r->ram + at, &value, sizeof(value));
}

void flat_inject(struct rig *r, uint8_t vector)
{
	struct kvm_msi m = { .address_lo = 0xfee00000, .data = vector };

	assert_int_equal(rig_ioctl(r->vm, KVM_SIGNAL_MSI, &m), 1);
}

unsigned flat_run(struct rig *r)
{
	assert_int_equal(rig_run(r), 0);
	assert_int_equal(r->run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(r->run->io.direction, KVM_EXIT_IO_OUT);
	return r->run->io.port;
}

long flat_set_msr(struct rig *r, uint32_t index, uint64_t value)
{
	struct rig_msrs m = { .nmsrs = 1, .e = { { .index = index, .data = value } } };

	return rig_ioctl(r->vcpu, KVM_SET_MSRS, &m);
}

long flat_get_msr(struct rig *r, uint32_t index, uint64_t *value)
{
	struct rig_msrs m = { .nmsrs = 1, .e = { { .index = index } } };
	long n = rig_ioctl(r->vcpu, KVM_GET_MSRS, &m);

	*value = m.e[0].data;
	return n;
}
