/* SPDX-License-Identifier: MIT */
/*
 * libxenstore for monitors: who runs. /local/domain lists the VMs of this machine, /local/domain/ID/name says PROGRAM-PID, and
 * /local/domain/ID/domid repeats the id. Nothing else is kept, nothing can be written, and nothing can be watched: EOPNOTSUPP.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "handle.h"

struct xs_handle { int fd; };

API struct xs_handle *xs_open(unsigned long flags);
struct xs_handle *xs_open(unsigned long flags)
{
	struct xs_handle *h = malloc(sizeof(*h));

	if (!h)
		return NULL;
	h->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);		/* never ready: there are no watches */
	if (h->fd < 0) {
		free(h);
		return NULL;
	}
	return h;
}

API void xs_close(struct xs_handle *h);
void xs_close(struct xs_handle *h)
{
	if (h)
		close(h->fd);
	free(h);
}

API int xs_fileno(struct xs_handle *h);
int xs_fileno(struct xs_handle *h)
{
	return h->fd;
}

static int pid_of_domain(unsigned domain)
{
	int pid[XEN_PROCESSES];
	unsigned n = xen_processes(pid);

	for (unsigned i = 0; i < n; i++)
		if ((uint16_t)pid[i] == domain)
			return pid[i];
	errno = ENOENT;
	return -1;
}

/* One block, freed by the caller: the pointers, and what they point to. */
API char **xs_directory(struct xs_handle *h, uint32_t transaction, const char *path, unsigned *num);
char **xs_directory(struct xs_handle *h, uint32_t transaction, const char *path, unsigned *num)
{
	enum { ROOM = 8 };
	int pid[XEN_PROCESSES];
	unsigned n;
	char **list;

	*num = 0;
	if (strcmp(path, "/local/domain")) {
		errno = ENOENT;
		return NULL;
	}
	n = xen_processes(pid);
	list = malloc(n * (sizeof(*list) + ROOM) + 1);
	if (!list)
		return NULL;
	for (unsigned i = 0; i < n; i++) {
		list[i] = (char *)(list + n) + i * ROOM;
		snprintf(list[i], ROOM, "%u", (unsigned)(uint16_t)pid[i]);
	}
	*num = n;
	return list;
}

static char *name_of(int pid)
{
	char path[64], comm[64] = "", *name = NULL;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	f = fopen(path, "re");
	if (f && fgets(comm, sizeof(comm), f))
		comm[strcspn(comm, "\n")] = 0;
	if (f)
		fclose(f);
	if (asprintf(&name, "%s-%d", comm, pid) < 0)
		return NULL;
	return name;
}

API void *xs_read(struct xs_handle *h, uint32_t transaction, const char *path, unsigned *len);
void *xs_read(struct xs_handle *h, uint32_t transaction, const char *path, unsigned *len)
{
	char key[16], *value = NULL;
	unsigned domain;
	int end = 0, pid;

	if (sscanf(path, "/local/domain/%u/%15[a-z]%n", &domain, key, &end) != 2 || path[end]) {
		errno = ENOENT;
		return NULL;
	}
	pid = pid_of_domain(domain);
	if (pid < 0)
		return NULL;
	if (!strcmp(key, "name"))
		value = name_of(pid);
	else if (strcmp(key, "domid"))
		errno = ENOENT;
	else if (asprintf(&value, "%u", domain) < 0)
		value = NULL;
	if (value && len)
		*len = (unsigned)strlen(value);
	return value;
}

API bool xs_is_domain_introduced(struct xs_handle *h, unsigned domain);
bool xs_is_domain_introduced(struct xs_handle *h, unsigned domain)
{
	return pid_of_domain(domain) >= 0;
}

API bool xs_watch(struct xs_handle *h, const char *path, const char *token);
bool xs_watch(struct xs_handle *h, const char *path, const char *token)
{
	errno = EOPNOTSUPP;
	return false;
}

API bool xs_unwatch(struct xs_handle *h, const char *path, const char *token);
bool xs_unwatch(struct xs_handle *h, const char *path, const char *token)
{
	errno = ENOENT;
	return false;
}

API char **xs_read_watch(struct xs_handle *h, unsigned *num);
char **xs_read_watch(struct xs_handle *h, unsigned *num)
{
	*num = 0;
	errno = EAGAIN;
	return NULL;
}
