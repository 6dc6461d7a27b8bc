/* SPDX-License-Identifier: MIT */
/*
 * Where the KVM calls of the tool go: to libguestward, or (only when --backend=kvm asks for it) to the kernel's /dev/kvm,
 * which makes real KVM an oracle for the same machine where one exists.
 *
 * Every function returns a value >= 0 or -errno; errno itself is not used.
 */
#ifndef TOOL_BACKEND_H
#define TOOL_BACKEND_H

#include <stddef.h>

struct backend {
	const char *name;
	int (*open)(void);
	long (*ioctl)(int fd, unsigned long request, unsigned long arg);
	/* Maps the first bytes of a vCPU descriptor, shared and writable; NULL with *error = -errno. Undone by munmap. */
	void *(*map)(int fd, size_t length, int *error);
	int (*close)(int fd);
};

extern const struct backend backend_guestward;
extern const struct backend backend_kvm;

#endif
