/* SPDX-License-Identifier: MIT */
/*
 * The public face of Guestward: KVM's, as functions.
 *
 * Whatever <linux/kvm.h> says of /dev/kvm, its VM and its vCPU descriptors holds here, with gw_open for open("/dev/kvm"),
 * gw_ioctl for ioctl, gw_mmap for mmap and gw_close for close. <guestward/kvm.h> has the structures of kernels newer than
 * the installed header, and the extension block for what KVM lacks. The descriptors are real ones (poll, dup and close
 * behave); only ioctls on them must come here.
 *
 * No function sets errno: failures are negative errno values, as inside the kernel. All are safe from several threads.
 */
#ifndef GUESTWARD_GUESTWARD_H
#define GUESTWARD_GUESTWARD_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define GW_PUBLIC __attribute__((visibility("default")))
#else
#define GW_PUBLIC
#endif

/* A descriptor that stands for /dev/kvm, close-on-exec; -EMFILE, -ENOMEM. */
GW_PUBLIC int gw_open(void);

/* One KVM ioctl on a system, VM or vCPU descriptor. @arg is the third argument as in ioctl(2): a pointer or a number.
 * Returns what the ioctl returns (>= 0) or -errno exactly as KVM documents it; -EBADF: not a descriptor of ours. */
GW_PUBLIC long gw_ioctl(int fd, unsigned long request, unsigned long arg);

/* mmap of a vCPU descriptor (kvm_run, PIO page, coalesced ring). MAP_FAILED never: returns NULL and stores -errno. */
GW_PUBLIC void *gw_mmap(size_t length, int prot, int flags, int fd, uint64_t offset, int *err);

/* mmap of a guest_memfd goes through gw_mmap, too, with the errors that the kernel gives there. */

/* fallocate of a guest_memfd: 0 or -errno as the kernel gives it. Punching a hole has reached every vCPU when it returns. */
GW_PUBLIC int gw_fallocate(int fd, int mode, int64_t offset, int64_t len);

/* What a descriptor is; 0: not ours. Which system calls a client's file must refuse depends on it (guestward-shim). */
#define GW_KIND_SYSTEM	1
#define GW_KIND_VM	2
#define GW_KIND_VCPU	4
#define GW_KIND_GMEM	8
GW_PUBLIC int gw_kind(int fd);

/* Drops one descriptor; the object behind it lives while anything refers to it. 0 or -EBADF. */
GW_PUBLIC int gw_close(int fd);

/* Is this one of our descriptors? */
GW_PUBLIC int gw_owns(int fd);

/*
 * Signals. No handler runs inside KVM_RUN: one that comes ends the call with -EINTR and runs after it, as in the kernel. Without
 * more being said that costs two system calls a KVM_RUN, to block the thread's signals and to give its mask back. A client that
 * sets all its handlers with gw_sigaction() (as sigaction(2), but -errno) saves them by saying so once with gw_own_signals(1);
 * 0 takes the word back.
 */
struct sigaction;
GW_PUBLIC int gw_sigaction(int sig, const struct sigaction *act, struct sigaction *old);
GW_PUBLIC void gw_own_signals(int all);

/*
 * To be called after pthread_cancel(@thread), a pthread_t: should the thread be in KVM_RUN, that ends with -EINTR, and then the
 * thread with it if its cancellation is asynchronous. Nothing of the library is left locked, called or not. Handlers of signals
 * must not call it.
 */
GW_PUBLIC void gw_thread_cancelled(unsigned long thread);

/* Where the library's messages go: one line, no newline. NULL (the default): nowhere. */
typedef void gw_log_fn(void *opaque, int level, const char *line);
GW_PUBLIC void gw_set_log(gw_log_fn *fn, void *opaque);

#endif
