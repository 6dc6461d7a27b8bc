/* SPDX-License-Identifier: MIT */
/* `guestward run`: starts a KVM client with the preload library in front of its libc. */
#ifndef TOOL_RUN_H
#define TOOL_RUN_H

#include <stddef.h>

#include "err.h"

/* The subcommand: returns the exit status, and only when the program could not be started. */
int run_main(int argc, char **argv);

/* The file that execvp(3) would start for @name. 0 or -1. */
int run_find_program(const char *name, char *path, size_t size, struct err *err);

/* Can the preload library work in this program (or its interpreter, for a script)? 0, or -1 and a sentence. */
int run_check_program(const char *path, struct err *err);

/*
 * A library of ours: beside this program in a build tree, or where an installation puts it. @folders: relative to this program, ended
 * by NULL; @path: PATH_MAX bytes. 0 or -1.
 */
int run_find_beside(const char *const *folders, const char *name, char *path, struct err *err);

/* Puts @value in front of the list, separated by colons, that the environment has as @name. 0 or -1. */
int run_put_first(const char *name, const char *value, struct err *err);

#endif
