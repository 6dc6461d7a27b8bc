/* SPDX-License-Identifier: MIT */
/*
 * `guestward boot --private`: a machine whose RAM is private from its first instruction on. The client's own mapping is only where
 * kernel and initrd are put together; it is empty when the guest starts.
 */
#ifndef TOOL_PRIVATE_H
#define TOOL_PRIVATE_H

#include "machine.h"

/* One run of RAM: a slot with a guest_memfd behind it, all private. */
int private_add_ram(struct machine *m, unsigned slot, uint64_t gpa, uint64_t size, void *host, struct err *err);

/* What was loaded goes into private memory, and away from ours. After everything was written, before the first vCPU runs. */
int private_load(struct machine *m, struct err *err);

/* Takes the features away whose structures the host writes into guest memory: there it could not. */
void private_patch_cpuid(struct kvm_cpuid2 *cpuid);

/* An exit of private memory: the guest's wish to convert pages, or a memory fault. True: it was one. */
bool private_exit(struct vcpu *v, long ret);

void private_close(struct machine *m);

#endif
