/* SPDX-License-Identifier: MIT */
/* Finds libc's functions, and lets the engine's calls go to them. See real.h. */
#include "shim/real.h"

#include <dlfcn.h>

#define X(name) void *shim_real_##name;
#include "names.def"
#undef X

/* Twice at once does no harm: both find the same. close comes last, because shim_enter() looks at it. */
void shim_resolve(void)
{
	void *last;

#define X(name) if (&shim_real_##name != &shim_real_close) shim_real_##name = dlsym(RTLD_NEXT, #name);
#include "names.def"
#undef X
	last = dlsym(RTLD_NEXT, "close");
	__atomic_store_n(&shim_real_close, last, __ATOMIC_RELEASE);
}

/*
 * __wrap_NAME, for every name but sigaction (signal.c has that one): a jump to libc's. In assembly, because a C function
 * cannot pass on the arguments of a variadic one. The engine runs only inside calls of ours, so the pointers are there.
 */
#define JUMP(name) \
	".globl __wrap_" #name "\n\t.hidden __wrap_" #name "\n\t.type __wrap_" #name ", @function\n" \
	"__wrap_" #name ":\n\tendbr64\n\tjmp *shim_real_" #name "(%rip)\n\t.size __wrap_" #name ", .-__wrap_" #name "\n"

#define X(name) __asm__(".text\n" JUMP(name));
#define XC(name)
#include "names.def"
#undef X
