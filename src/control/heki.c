/* SPDX-License-Identifier: MIT */
/* The requests about kernel integrity: events and permissions of a VM, as lines of numbers for `guestward watch` and `map`. */
#include "control/heki.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guestward/guestward.h"
#include "guestward/kvm.h"

#define MAX_EVENTS	1024u
#define MAX_RUNS	(1u << 16)

static void print_event(FILE *to, const struct gw_heki_event *e)
{
	fprintf(to, "%" PRIu64 " %u %u %x %x %" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIx64 " %x %u ", (uint64_t)e->seq, e->kind, e->vcpu, e->reason,
		e->access, (uint64_t)e->gpa, (uint64_t)e->gva, (uint64_t)e->value, (uint64_t)e->rip, e->attributes, e->repeat);
	for (unsigned i = 0; i < sizeof(e->hash); i++)
		fprintf(to, "%02x", e->hash[i]);
	fputc('\n', to);
}

long control_heki_events(int vm_fd, uint64_t seq, FILE *to)
{
	struct gw_heki_event *e = calloc(MAX_EVENTS, sizeof(*e));
	struct gw_heki_events ask = { .seq = seq, .buf = (uintptr_t)e, .max = MAX_EVENTS };
	long n;

	if (!e)
		return -ENOMEM;
	n = gw_ioctl(vm_fd, GW_HEKI_EVENTS, (unsigned long)(uintptr_t)&ask);
	for (long i = 0; i < n; i++)
		print_event(to, &e[i]);
	free(e);
	return n < 0 ? n : 0;
}

/* The default first, then runs in order; neighbours of equal attributes as one. */
long control_heki_map(int vm_fd, FILE *to)
{
	struct gw_heki_attributes a = { 0 }, run = { 0 };
	struct gw_heki_state s;
	long err = gw_ioctl(vm_fd, GW_HEKI_GET_STATE, (unsigned long)(uintptr_t)&s);

	if (err)
		return err;
	fprintf(to, "default %" PRIx64 " locked %u\n", (uint64_t)s.default_attributes, (unsigned)s.locked);
	for (unsigned i = 0; i < MAX_RUNS; i++) {
		uint64_t next = a.address + a.size;

		a = (struct gw_heki_attributes){ .address = next };
		err = gw_ioctl(vm_fd, GW_HEKI_GET_ATTRIBUTES, (unsigned long)(uintptr_t)&a);
		if (!err && run.size && run.address + run.size == a.address && run.attributes == a.attributes) {
			run.size += a.size;
			continue;
		}
		if (run.size)
			fprintf(to, "%" PRIx64 " %" PRIx64 " %" PRIx64 "\n", (uint64_t)run.address, (uint64_t)run.size, (uint64_t)run.attributes);
		run = a;
		if (err)
			return err == -ENOENT ? 0 : err;
	}
	return 0;
}
