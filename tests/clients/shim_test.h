/* SPDX-License-Identifier: MIT */
/* The tests through the preload library: what they share. Each part is a list; shim_test.c runs them all. */
#ifndef SHIM_TEST_H
#define SHIM_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <linux/kvm.h>

#define PAGE 4096u
#define T(name) { #name, name, NULL, NULL, NULL }

extern const struct CMUnitTest run_tests[], process_tests[];
extern const unsigned n_run_tests, n_process_tests;

int open_kvm(void);
/* Of a child: its exit status, or 1000 and more. */
int status_of(int pid);

struct machine { int kvm, vm, vcpu; struct kvm_run *run; uint8_t *ram; };

/* A VM with one vCPU and real-mode code at 0x1000 of its 16 pages. */
void machine_start(struct machine *m, const void *code, size_t len);
void machine_end(struct machine *m);

extern const uint8_t out_then_hlt[5], spin[2];

#endif
