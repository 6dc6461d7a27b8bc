/* SPDX-License-Identifier: MIT */
/* What IRET and RETF share. */
#ifndef GW_CPU_SYS_IRET_H
#define GW_CPU_SYS_IRET_H

#include "cpu/sys/sys_private.h"

/* The code segment a return goes to: not to an inner level. */
bool sys_return_cs_judge(struct vcpu *c, uint16_t sel, struct sys_desc *cs);
/* The stack segment of the level returned to. *ss comes in as the present one. */
bool sys_return_ss_judge(struct vcpu *c, uint16_t sel, unsigned cpl, bool to64, struct cpu_seg *ss);

#endif
