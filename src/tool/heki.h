/* SPDX-License-Identifier: MIT */
/* `--protect heki`: asks the engine to lock the guest kernel, tells the user what was denied, and answers denials. */
#ifndef TOOL_HEKI_H
#define TOOL_HEKI_H

#include <stdbool.h>
#include <stdio.h>

struct boot_options;
struct machine;
struct vcpu;
struct err;

enum heki_on_denial { ON_DENIAL_INJECT, ON_DENIAL_STOP, ON_DENIAL_PAUSE, ON_DENIAL_IGNORE };

/* "heki[,word...]" as guestward(1) has them. NULL when it is good, else the word that is not. */
const char *heki_check_words(const char *text);

/* What the kernel's command line needs for it, with a space before; "" for nothing. @text: NULL, or good words. */
const char *heki_kernel_options(const char *text);

/* After machine_open, before machine_start. Nothing, if the options do not ask for it. */
int heki_start(struct machine *m, const struct boot_options *o, struct err *err);

/* The guest said that it is ready. */
void heki_lock_now(struct machine *m);

/* An exit that may be one of Heki's: true if it was. On the vCPU's thread. */
bool heki_exit(struct vcpu *v);

/* What happened, in the end. @all: every event, not only a summary. */
void heki_report(FILE *to, struct machine *m, bool all);

#endif
