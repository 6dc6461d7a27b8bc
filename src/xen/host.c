/* SPDX-License-Identifier: MIT */
/*
 * Preloaded by `guestward xen`: what Linux shows under /sys/hypervisor on a host that Xen runs. Programs for Xen (LibVMI) look there
 * before they open its libraries. Nothing else is changed.
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define API __attribute__((visibility("default")))

typedef FILE *open_fn(const char *path, const char *mode);

static const struct { const char *path, *text; } files[] = {
	{ "/sys/hypervisor/type", "xen\n" },
	{ "/sys/hypervisor/version/major", "4\n" },
	{ "/sys/hypervisor/version/minor", "17\n" },
	{ "/sys/hypervisor/version/extra", ".0\n" },
};

static FILE *open_file(const char *path, const char *mode, const char *name)
{
	open_fn *next;

	for (size_t i = 0; path && mode[0] == 'r' && i < sizeof(files) / sizeof(files[0]); i++)
		if (!strcmp(path, files[i].path))
			return fmemopen((void *)(size_t)files[i].text, strlen(files[i].text), "r");
	*(void **)&next = dlsym(RTLD_NEXT, name);
	if (!next) {
		errno = ENOSYS;
		return NULL;
	}
	return next(path, mode);
}

#undef fopen
#undef fopen64
API FILE *fopen(const char *path, const char *mode) { return open_file(path, mode, "fopen"); }
API FILE *fopen64(const char *path, const char *mode) { return open_file(path, mode, "fopen64"); }
