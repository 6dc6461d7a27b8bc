/* SPDX-License-Identifier: MIT */
/*
 * The integer interpreter: what the block builder and the other families need from it. Operations become handlers through
 * cpu_lower_int() (cpu/op.h); nothing here runs by itself.
 */
#ifndef GW_CPU_INTERP_H
#define GW_CPU_INTERP_H

#include "cpu/op.h"

/*
 * cpu_lower_common - what every family wants of a decoded instruction
 *
 * @flat	the block runs with flat segments (vcpu.flat, or 64-bit mode): no check but for FS and GS.
 *
 * o->off must be set. Fills sizes, immediate, address (RIP-relative ones relative to the block's start), segment and flags;
 * register numbers stay plain numbers: a family that has byte operands converts them itself. Leaves fn, insn and taken alone.
 */
void cpu_lower_common(const struct insn *in, bool flat, struct cpu_op *o);

#endif
