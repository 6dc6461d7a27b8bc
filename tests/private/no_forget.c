/* SPDX-License-Identifier: MIT */
/* The mutant: linked in front of the library by --wrap, it takes the forgetting away. The race harness must notice. */
#include "access/access.h"

void __wrap_acc_forget(struct acc_vm *vm, struct acc_cpu *self, struct gfn first, uint64_t n, uint8_t rights);

void __wrap_acc_forget(struct acc_vm *vm, struct acc_cpu *self, struct gfn first, uint64_t n, uint8_t rights)
{
	(void)vm;
	(void)self;
	(void)first;
	(void)n;
	(void)rights;
}
