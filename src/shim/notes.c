/* SPDX-License-Identifier: MIT */
/*
 * A byte for each descriptor number. Notes can grow old (a descriptor closed inside libc, or received through a socket), so
 * what matters is asked of the library again; a missing note only means that reads and writes go to the file below.
 */
#include "shim/shim.h"

#include <errno.h>
#include <guestward/guestward.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>

#include "shim/real.h"

#define N_NOTES 65536u

static _Atomic uint8_t notes[N_NOTES];
static _Atomic bool is_active;		/* a device was opened in this process: before that nothing can be ours */
static _Atomic int owner;		/* the process whose engine this is; differs in a child that shares our memory */

void shim_note(int fd, unsigned kind)
{
	if (kind != SHIM_NONE)
		atomic_store(&is_active, true);
	if (fd >= 0 && (unsigned)fd < N_NOTES)
		atomic_store(&notes[fd], (uint8_t)kind);
}

unsigned shim_noted(int fd)
{
	return fd >= 0 && (unsigned)fd < N_NOTES ? atomic_load_explicit(&notes[fd], memory_order_relaxed) : SHIM_NONE;
}

bool shim_owns(int fd)
{
	return fd >= 0 && atomic_load_explicit(&is_active, memory_order_relaxed) && shim_noted(fd) != SHIM_INHERITED &&
		gw_owns(fd) && getpid() == atomic_load(&owner);
}

unsigned shim_kind_of(int fd)
{
	unsigned kind = shim_noted(fd);

	if (kind == SHIM_INHERITED)
		return kind;
	if (!shim_owns(fd))
		return SHIM_NONE;
	if (kind != SHIM_NONE)
		return kind;
	/* Came by a way we did not see. The device row that opens KVM is the first one. */
	return gw_ioctl(fd, KVM_GET_API_VERSION, 0) == KVM_API_VERSION ? SHIM_DEVICE : SHIM_OBJECT;
}

int shim_next_noted(unsigned first, unsigned last)
{
	for (unsigned fd = first; fd <= last && fd < N_NOTES; fd++)
		if (shim_noted((int)fd) != SHIM_NONE)
			return (int)fd;
	return -1;
}

int shim_close_ours(int fd)
{
	shim_note(fd, SHIM_NONE);
	return gw_close(fd);
}

static void in_child(void)
{
	atomic_store(&owner, getpid());
	for (unsigned fd = 0; fd < N_NOTES; fd++)
		if (shim_noted((int)fd) != SHIM_NONE)
			atomic_store(&notes[fd], SHIM_INHERITED);
}

void shim_notes_init(void)
{
	atomic_store(&owner, getpid());
	pthread_atfork(NULL, NULL, in_child);
}
