/* SPDX-License-Identifier: MIT */
/*
 * The control socket: one thread a process, one peer at a time, each given two seconds. See include/guestward/control.h.
 *
 * Nothing here can hold the client up: the table has a lock that is held for copies only, and the thread blocks all signals.
 */
#include "control/control.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "guestward/control.h"
#include "guestward/guestward.h"
#include "guestward/kvm.h"
#include "control/heki.h"
#include "control/session.h"

#define MAX_VCPUS	1024u
#define DUMP_SIZE	(256u << 10)
#define MAP_SIZE	(4u << 20)

struct entry { int vm_fd, fd; unsigned vm; unsigned long id; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct entry entries[MAX_VCPUS];
static unsigned n_entries, n_vms;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int listener = -1;

/* ---- answers ----------------------------------------------------------------------------------------------------------- */

static void say(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = send(fd, text, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		text += n;
		len -= (size_t)n;
	}
}

__attribute__((format(printf, 2, 3))) static void sayf(int fd, const char *fmt, ...)
{
	char line[160];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (n > 0)
		say(fd, line, (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1);
}

static void forget_closed(void)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < n_entries; i++)
		if (gw_owns(entries[i].fd))
			entries[kept++] = entries[i];
	n_entries = kept;
}

/* @fd is new: whatever had this number is closed. */
static void forget_number(int fd)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < n_entries; i++)
		if (entries[i].fd != fd && entries[i].vm_fd != fd)
			entries[kept++] = entries[i];
	n_entries = kept;
}

static void answer_list(int fd)
{
	static struct entry copy[MAX_VCPUS];	/* this thread's alone */
	unsigned n;

	pthread_mutex_lock(&lock);
	forget_closed();
	n = n_entries;
	memcpy(copy, entries, n * sizeof(*copy));
	pthread_mutex_unlock(&lock);
	for (unsigned i = 0; i < n; i++)
		sayf(fd, "vm=%u cpu=%lu\n", copy[i].vm, copy[i].id);
}

static int find_vcpu(unsigned vm, unsigned long cpu)
{
	int fd = -1;

	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < n_entries; i++)
		if (entries[i].vm == vm && entries[i].id == cpu)
			fd = entries[i].fd;
	pthread_mutex_unlock(&lock);
	return fd;
}

/* By any vCPU of the VM: the client may have closed the VM's own descriptor. */
static void answer_map(int fd, unsigned vm)
{
	struct gw_map m = { .size = MAP_SIZE };
	int vcpu = -1;
	char *buf;
	long r;

	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < n_entries; i++)
		if (entries[i].vm == vm)
			vcpu = entries[i].fd;
	pthread_mutex_unlock(&lock);
	if (vcpu < 0) {
		sayf(fd, "error: no vm %u\n", vm);
		return;
	}
	buf = malloc(MAP_SIZE);
	if (!buf) {
		sayf(fd, "error: out of memory\n");
		return;
	}
	m.buf = (uintptr_t)buf;
	r = gw_ioctl(vcpu, GW_MAP, (unsigned long)(uintptr_t)&m);
	if (r < 0)
		sayf(fd, "error: the VM does not answer: %s\n", strerror((int)-r));
	else
		say(fd, buf, strnlen(buf, MAP_SIZE));
	if (r >= 0 && m.length > m.size)
		sayf(fd, "\n(cut: %u bytes in all)\n", m.length);
	free(buf);
}

static void answer_dump(int fd, unsigned vm, unsigned long cpu, uint32_t flags, uint64_t gva)
{
	struct gw_dump d = { .flags = flags, .size = DUMP_SIZE, .gva = gva };
	int vcpu = find_vcpu(vm, cpu);
	char *buf;
	long r;

	if (vcpu < 0) {
		sayf(fd, "error: no cpu %lu in vm %u\n", cpu, vm);
		return;
	}
	buf = malloc(DUMP_SIZE);
	if (!buf) {
		sayf(fd, "error: out of memory\n");
		return;
	}
	d.buf = (uintptr_t)buf;
	r = gw_ioctl(vcpu, GW_DUMP, (unsigned long)(uintptr_t)&d);
	if (r < 0)
		sayf(fd, "error: the vCPU does not answer: %s\n", strerror((int)-r));
	else
		say(fd, buf, strnlen(buf, DUMP_SIZE));
	free(buf);
}

/* ---- requests ------------------------------------------------------------------------------------------------------------ */

/* One line, without its newline. False: too long, or the peer is too slow. */
static bool read_line(int fd, char line[GW_CONTROL_LINE])
{
	size_t n = 0;

	while (n < GW_CONTROL_LINE - 1) {
		ssize_t r = recv(fd, line + n, 1, 0);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return false;
		if (line[n] == '\n') {
			line[n] = 0;
			return true;
		}
		n++;
	}
	return false;
}

static int find_vm(unsigned vm)
{
	int fd = -1;

	pthread_mutex_lock(&lock);
	forget_closed();
	for (unsigned i = 0; i < n_entries; i++)
		if (entries[i].vm == vm)
			fd = entries[i].vm_fd;
	pthread_mutex_unlock(&lock);
	return fd;
}

/* The first that is still there. */
static int first_vm(void)
{
	unsigned lowest = ~0u;
	int fd = -1;

	pthread_mutex_lock(&lock);
	forget_closed();
	for (unsigned i = 0; i < n_entries; i++)
		if (entries[i].vm < lowest) {
			lowest = entries[i].vm;
			fd = entries[i].vm_fd;
		}
	pthread_mutex_unlock(&lock);
	return fd;
}

/* Kernel integrity: events after @seq, or permissions. */
static void answer_heki(int fd, unsigned vm, bool events, uint64_t seq)
{
	int vm_fd = find_vm(vm);
	char *text = NULL;
	size_t len = 0;
	FILE *f;
	long r;

	if (vm_fd < 0) {
		sayf(fd, "error: no vm %u\n", vm);
		return;
	}
	f = open_memstream(&text, &len);
	if (!f) {
		sayf(fd, "error: out of memory\n");
		return;
	}
	r = events ? control_heki_events(vm_fd, seq, f) : control_heki_map(vm_fd, f);
	if (fclose(f))
		r = -ENOMEM;
	if (r < 0)
		sayf(fd, "error: the VM does not answer: %s\n", strerror((int)-r));
	else
		say(fd, text, len);
	free(text);
}

/* True: the connection now belongs to a session. */
static bool serve(int fd)
{
	char line[GW_CONTROL_LINE];
	unsigned long long gva;
	unsigned vm, flags;
	unsigned long cpu;
	int end = 0;

	if (!read_line(fd, line))
		return false;
	if (!strcmp(line, "list"))
		answer_list(fd);
	else if (sscanf(line, "dump vm=%u cpu=%lu flags=%x gva=%llx%n", &vm, &cpu, &flags, &gva, &end) == 4 && !line[end])
		answer_dump(fd, vm, cpu, flags, gva);
	else if (sscanf(line, "map vm=%u%n", &vm, &end) == 1 && !line[end])
		answer_map(fd, vm);
	else if (sscanf(line, "heki-events vm=%u seq=%llu%n", &vm, &gva, &end) == 2 && !line[end])
		answer_heki(fd, vm, true, gva);
	else if (sscanf(line, "heki-map vm=%u%n", &vm, &end) == 1 && !line[end])
		answer_heki(fd, vm, false, 0);
	else if (!strcmp(line, "session"))
		return control_session(fd, first_vm());
	else if (sscanf(line, "session vm=%u%n", &vm, &end) == 1 && !line[end])
		return control_session(fd, find_vm(vm));
	else
		sayf(fd, "error: not a request; see guestward/control.h\n");
	return false;
}

/* The same user, or root: what they could do with a debugger anyway. */
static bool may_ask(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) && (peer.uid == geteuid() || peer.uid == 0);
}

static void *control_thread(void *arg)
{
	const struct timeval patience = { 2, 0 };

	(void)arg;
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0) {
			if (errno == EINTR || errno == ECONNABORTED)
				continue;
			if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
				sleep(1);
				continue;
			}
			return NULL;
		}
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
		if (!may_ask(fd))
			sayf(fd, "error: only the owner of the VM may ask\n");
		else if (serve(fd))
			continue;
		close(fd);
	}
}

/* Failing to open the socket costs the convenience, not the VM. */
static void start(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	const char *wish = getenv("GUESTWARD_CONTROL");
	sigset_t all, old;
	pthread_t thread;
	int fd, n;

	if (!wish || strcmp(wish, "1"))
		return;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	n = snprintf(a.sun_path + 1, sizeof(a.sun_path) - 1, GW_CONTROL_NAME, (int)getpid());
	if (bind(fd, (struct sockaddr *)&a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n)) || listen(fd, 8)) {
		close(fd);
		return;
	}
	listener = fd;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	if (pthread_create(&thread, NULL, control_thread, NULL)) {
		close(fd);
		listener = -1;
	} else {
		pthread_detach(thread);
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void control_vm_created(int fd)
{
	pthread_once(&once, start);
	pthread_mutex_lock(&lock);
	forget_number(fd);
	pthread_mutex_unlock(&lock);
}

void control_vcpu_created(int vm_fd, int fd, unsigned long id)
{
	unsigned vm = 0;
	bool known = false;

	if (listener < 0)
		return;
	pthread_mutex_lock(&lock);
	forget_number(fd);
	forget_closed();
	for (unsigned i = 0; i < n_entries && !known; i++) {
		known = entries[i].vm_fd == vm_fd;
		vm = entries[i].vm;
	}
	if (!known)
		vm = n_vms++;
	if (n_entries < MAX_VCPUS)
		entries[n_entries++] = (struct entry){ vm_fd, fd, vm, id };
	pthread_mutex_unlock(&lock);
}
