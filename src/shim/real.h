/* SPDX-License-Identifier: MIT */
/*
 * libc's own functions behind the names we take over.
 *
 * Code of the shim calls REAL(close)(fd) where it means libc. The engine inside the shim is linked with --wrap: its calls to
 * these names land on the __wrap_ entries of real.c, which go to libc as well, so nothing of ours is ever entered from inside.
 */
#ifndef SHIM_REAL_H
#define SHIM_REAL_H

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define SHIM_EXPORT __attribute__((visibility("default")))

#define X(name) extern void *shim_real_##name;
#include "names.def"
#undef X

/* Valid in and after any function that called shim_enter(). */
#define REAL(name) ((__typeof__(name) *)shim_real_##name)

void shim_resolve(void);

/* First thing in every exported function: other libraries' constructors may call us before ours ran. */
static inline void shim_enter(void)
{
	if (__builtin_expect(!shim_real_close, 0))
		shim_resolve();
}

#endif
