/* SPDX-License-Identifier: MIT */
/*
 * Everything a kernel expects to find in memory and registers when it is entered: initrd, command line, memory map,
 * boot_params or hvm_start_info, descriptor table and identity page tables; and the first vCPU's registers.
 */
#ifndef TOOL_LOADER_H
#define TOOL_LOADER_H

#include <guestward/kvm.h>

#include "kernel.h"

struct loader {
	const struct ram *ram;
	const struct kernel *kernel;
	uint64_t initrd, initrd_size;	/* guest physical; size 0: none */
	uint64_t rsdp;			/* guest physical */
};

/* Copies the initrd to the highest place the kernel can take it from. */
int loader_place_initrd(struct loader *loader, const struct blob *initrd, struct err *err);

/* Writes the command line and the tables of the kernel's protocol. After loader_place_initrd, before the first run. */
int loader_write(const struct loader *loader, const char *cmdline, struct err *err);

/* Turns reset state (as KVM_GET_SREGS gives it) into entry state. */
void loader_entry_state(const struct kernel *kernel, struct kvm_regs *regs, struct kvm_sregs *sregs);

#endif
