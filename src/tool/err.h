/* SPDX-License-Identifier: MIT */
/*
 * How the tool reports failure: a function that can fail takes a struct err, fills it with one sentence a user can act on
 * and returns -1. Only main prints it. Nothing below main exits, so tests can look at the sentence.
 */
#ifndef TOOL_ERR_H
#define TOOL_ERR_H

struct err {
	char text[512];
};

/* Writes the sentence (no newline, no program name) and returns -1, so that callers can `return err_set(...)`. */
int err_set(struct err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
