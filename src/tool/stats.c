/* SPDX-License-Identifier: MIT */
/* See stats.h. Layout of the descriptor's contents: KVM API documentation, KVM_GET_STATS_FD. */
#include "stats.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define NAME_MAX_SIZE	256u
#define DESCRIPTORS_MAX	4096u
#define VALUES_MAX	64u

static const char *const exit_names[EXIT_COUNTERS] = {
	[EXIT_COUNT_IO] = "io", [EXIT_COUNT_MMIO] = "mmio", [EXIT_COUNT_INTR] = "interrupted", [EXIT_COUNT_AGAIN] = "again",
	[EXIT_COUNT_OTHER] = "other",
};

/* One statistic: scalars as a number, histograms as a list. */
static void print_one(FILE *to, const char *prefix, int fd, const struct kvm_stats_header *h, size_t i)
{
	union {
		struct kvm_stats_desc desc;
		char bytes[sizeof(struct kvm_stats_desc) + NAME_MAX_SIZE + 1];
	} u = { .bytes = { 0 } };
	const size_t size = sizeof(struct kvm_stats_desc) + h->name_size;
	uint64_t values[VALUES_MAX];
	unsigned n, j;

	if (pread(fd, &u, size, (off_t)(h->desc_offset + i * size)) != (ssize_t)size)
		return;
	n = u.desc.size > VALUES_MAX ? VALUES_MAX : u.desc.size;
	if (!n || pread(fd, values, n * 8, (off_t)h->data_offset + u.desc.offset) != (ssize_t)(n * 8))
		return;
	fprintf(to, "%s%s", prefix, u.bytes + sizeof(struct kvm_stats_desc));
	for (j = 0; j < n; j++)
		fprintf(to, " %llu", (unsigned long long)values[j]);
	fprintf(to, "\n");
}

/* Returns -1 if the engine has no such statistics. */
static int print_engine(FILE *to, const struct backend *backend, const char *prefix, int owner)
{
	struct kvm_stats_header h;
	long fd = backend->ioctl(owner, KVM_GET_STATS_FD, 0);
	size_t i;

	if (fd < 0)
		return -1;
	if (pread((int)fd, &h, sizeof(h), 0) == (ssize_t)sizeof(h) && h.name_size <= NAME_MAX_SIZE &&
	    h.num_desc <= DESCRIPTORS_MAX)
		for (i = 0; i < h.num_desc; i++)
			print_one(to, prefix, (int)fd, &h, i);
	/* A real descriptor of its own: not the backend's to close. */
	close((int)fd);
	return 0;
}

static void print_exits(FILE *to, const struct vcpu *v)
{
	unsigned i;

	for (i = 0; i < EXIT_COUNTERS; i++)
		fprintf(to, "cpu%u.exits.%s %llu\n", v->id, exit_names[i], (unsigned long long)v->exits[i]);
}

/* How much ran translated. */
static void print_shares(FILE *to, const struct backend *backend, const char *prefix, int fd)
{
	char text[4096], *line, *rest = text;
	struct gw_dump d = { .flags = GW_DUMP_ENGINE, .size = sizeof(text), .buf = (uintptr_t)text };

	if (backend->ioctl(fd, GW_DUMP, (unsigned long)(uintptr_t)&d) < 0)
		return;
	while ((line = strsep(&rest, "\n")))
		if (*line)
			fprintf(to, "%s%s\n", prefix, line);
}

void stats_print(FILE *to, struct machine *m, double seconds)
{
	struct rusage usage;
	char prefix[32];
	unsigned i;

	getrusage(RUSAGE_SELF, &usage);
	fprintf(to, "time.wall_seconds %.3f\n", seconds);
	fprintf(to, "time.user_seconds %ld.%03ld\n", (long)usage.ru_utime.tv_sec, (long)usage.ru_utime.tv_usec / 1000);
	fprintf(to, "time.system_seconds %ld.%03ld\n", (long)usage.ru_stime.tv_sec, (long)usage.ru_stime.tv_usec / 1000);
	fprintf(to, "memory.peak_kib %ld\n", usage.ru_maxrss);
	for (i = 0; i < m->n_vcpus; i++)
		print_exits(to, &m->vcpus[i]);
	if (print_engine(to, m->backend, "vm.", m->vm_fd) < 0) {
		fprintf(to, "guestward: this engine has no statistics of its own (KVM_GET_STATS_FD)\n");
		return;
	}
	for (i = 0; i < m->n_vcpus; i++) {
		snprintf(prefix, sizeof(prefix), "cpu%u.", i);
		print_engine(to, m->backend, prefix, m->vcpus[i].fd);
		print_shares(to, m->backend, prefix, m->vcpus[i].fd);
	}
}
