/* SPDX-License-Identifier: MIT */
/*
 * A 32-bit flat guest on top of the rig, with an IDT, for tests of interrupts and paravirtual pages. Its main loop opens interrupts
 * for one instruction and tells the client (OUT to FLAT_IDLE).
 */
#ifndef GW_TESTS_IOCTL_FLAT_H
#define GW_TESTS_IOCTL_FLAT_H

#include "rig.h"

#define FLAT_BYTE	0x9000u		/* the PV EOI byte */
#define FLAT_COUNT	0xa000u		/* interrupts taken */
#define FLAT_NATIVE	0xa004u		/* of which ended by the register */
#define FLAT_FLAGS	0xa008u		/* FLAT_TELL: OUT to FLAT_INSIDE first; FLAT_KEEP: no EOI at all */
#define FLAT_TELL	1u
#define FLAT_KEEP	2u
#define FLAT_IDT	0xb000u
#define FLAT_GDT	0xc000u
#define FLAT_IDLE	0x10u
#define FLAT_INSIDE	0x11u

/* @flags of rig_open(). Vectors 32 to 255 go to the handler. */
void flat_open(struct rig *r, unsigned flags);
/* Segments and control registers; RIP at @code, of @n bytes, copied to RIG_CODE. */
void flat_code(struct rig *r, int vcpu, const void *code, size_t n);
uint32_t flat_word(const struct rig *r, uint32_t at);
void flat_set(struct rig *r, uint32_t at, uint32_t value);
void flat_inject(struct rig *r, uint8_t vector);
/* KVM_RUN until an OUT; its port. */
unsigned flat_run(struct rig *r);
long flat_set_msr(struct rig *r, uint32_t index, uint64_t value);
long flat_get_msr(struct rig *r, uint32_t index, uint64_t *value);

#endif
