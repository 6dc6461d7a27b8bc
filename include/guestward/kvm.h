/* SPDX-License-Identifier: MIT */
/*
 * KVM's user ABI: the installed <linux/kvm.h> (Debian 12: Linux 6.1), what later kernels added to it, and Guestward's own
 * extension block. Numbers of later kernels: Linux 7.1 uapi. Our own numbers start at 0x47570000 ("GW") for capabilities,
 * at 0xC0 for ioctls of type 'G', and at 0x4757 for exits, where KVM's own can never grow into them.
 */
#ifndef GUESTWARD_KVM_H
#define GUESTWARD_KVM_H

#include <linux/kvm.h>

#define GW_CAP_BASE	0x47570000
#define GW_EXIT_BASE	0x4757

#endif
