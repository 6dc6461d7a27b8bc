/* SPDX-License-Identifier: MIT */
/*
 * The preload library: KVM's device file for programs that open /dev/kvm, by libguestward inside.
 *
 * Three things are kept here: which path is a device (or a fake parameter file) of ours, a note per descriptor number, and
 * which signal handlers the client believes it has. Everything else is the library's. A note is a hint that saves asking the
 * library on every read and write; whether a descriptor is ours is decided by gw_owns().
 *
 * Nothing here prints. In a forked child the parent's descriptors answer EIO and are closed without touching the engine,
 * whose threads stayed behind; a child that opens /dev/kvm itself gets a new one. Children that share our memory (vfork) never
 * touch the engine at all.
 */
#ifndef SHIM_SHIM_H
#define SHIM_SHIM_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

/* ---- paths.c ------------------------------------------------------------------------------------------------------- */

/* A path that answers for itself: a device with an opener, a file with a text, or, with neither, nothing whatever the host has. */
struct shim_path {
	const char *path;
	int (*open)(void);		/* a descriptor, close-on-exec, or -errno; NULL: no device */
	unsigned major, minor;		/* of a device */
	const char *text;		/* of a file: one line, newline included */
	const char *vendor;		/* only where the host's CPU vendor is this; NULL: everywhere */
};

/* The row that @path means, seen from @dirfd; NULL: libc's business. */
const struct shim_path *shim_path_find(int dirfd, const char *path);
/* The row of a device by its number (notes keep it). */
const struct shim_path *shim_path_at(unsigned index);
unsigned shim_path_index(const struct shim_path *p);
/* As open(2) with @flags; >= 0 or -errno. */
int shim_path_open(const struct shim_path *p, int flags);
/* 0 or -errno. */
int shim_path_stat(const struct shim_path *p, struct stat *st);
/* As access(2): 0 or -errno. */
int shim_path_access(const struct shim_path *p, int mode);

/* ---- notes.c ------------------------------------------------------------------------------------------------------- */

enum shim_kind {
	SHIM_NONE,		/* not ours, as far as we know */
	SHIM_INHERITED,		/* the parent's, from before a fork */
	SHIM_OBJECT,		/* VM or vCPU: a file without a path */
	SHIM_DEVICE,		/* this and above: SHIM_DEVICE + index of its path */
};

void shim_note(int fd, unsigned kind);
unsigned shim_noted(int fd);
/* What @fd is now: the note if it is still true, else what the library says. */
unsigned shim_kind_of(int fd);
/* Is it the library's, and may this process use it? */
bool shim_owns(int fd);
/* gmem.c: is it a guest_memfd? */
bool shim_is_gmem(int fd);
/* links.c: the descriptor of this process that a path like /proc/self/fd/5 means, or -1. */
int shim_fd_of_link(const char *path);
/* The next noted descriptor in [first, last], or -1. */
int shim_next_noted(unsigned first, unsigned last);
/* Closes a descriptor that shim_owns(). 0 or -errno. */
int shim_close_ours(int fd);
void shim_notes_init(void);

/* ---- calls shared by the wrappers and syscall() ---------------------------------------------------------------------- */

int shim_open(int dirfd, const char *path, int flags, unsigned mode, bool *is_ours);
/* 0 or -errno where @is_ours; untouched otherwise. */
int shim_stat_path(int dirfd, const char *path, struct stat *st, bool *is_ours);
int shim_stat_fd(int fd, struct stat *st, bool *is_ours);

/* signal.c: does the engine hold this signal? */
bool shim_signal_is_taken(int sig);
/* The client has set a handler that we do not know. */
void shim_signal_is_raw(void);
/* The engine's part in a signal, without an engine. */
void shim_signal_take(int sig);

/* cpuid.c: from before the program starts. True: the signal was a CPUID, which is done. */
void shim_cpuid_init(void);
/* Which signal must never be blocked for that; 0: none. */
int shim_cpuid_signal(void);
bool shim_cpuid_fault(int sig, const siginfo_t *info, void *ctx);

/* kvm.c: one line for the log, if there is one. */
void shim_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Sets errno for a negative result. */
long shim_result(long ret);

#endif
