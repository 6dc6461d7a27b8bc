/* SPDX-License-Identifier: MIT */
/*
 * The statistics descriptor's contents: header, identity, descriptors, values, as KVM's binary statistics lay them out, in a
 * file that the client reads without us.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

#include "vm/vm.h"

#define NAME_SIZE	48u
#define ID_SIZE		48u
#define DESC_SIZE	(sizeof(struct kvm_stats_desc) + NAME_SIZE)

struct value { const char *name; uint64_t value; uint32_t flags; int16_t exponent; };

/* What a number means: kind, unit and base of its descriptor, and the exponent. */
#define COUNT		KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10, 0
#define NOW		KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10, 0
#define BYTES		KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_BYTES | KVM_STATS_BASE_POW10, 0
#define NANOSECONDS	KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_SECONDS | KVM_STATS_BASE_POW10, -9
#define YES_OR_NO	KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_BOOLEAN | KVM_STATS_BASE_POW10, 0

static unsigned vcpu_values(const struct vm_vcpu *v, struct value *out)
{
	unsigned n = 0;

/* Some are counted by other threads. */
#define X(text, field, meaning) out[n++] = (struct value){ #text, __atomic_load_n(&v->field, __ATOMIC_RELAXED), meaning };
#include "vm/stats.def"
#undef X
	out[n++] = (struct value){ "blocking", atomic_load(&v->is_blocked), YES_OR_NO };
	return n;
}

static unsigned heki_values(struct vm *vm, struct value *out)
{
	struct heki_counters c;
	unsigned n = 0;

	heki_counters(vm->heki, &c);
	out[n++] = (struct value){ "heki_denials", c.denied_read + c.denied_write + c.denied_fetch + c.denied_walk + c.denied_pv + c.denied_cr + c.denied_reg, COUNT };
	out[n++] = (struct value){ "heki_pokes", c.pokes, COUNT };
	out[n++] = (struct value){ "heki_pages_sealed", c.sealed, COUNT };
	out[n++] = (struct value){ "heki_pages_released", c.released, COUNT };
	out[n++] = (struct value){ "heki_hypercalls", c.hypercalls, COUNT };
	out[n++] = (struct value){ "heki_refused", c.refused, COUNT };
	return n;
}

static unsigned vm_values(struct vm *vm, struct value *out)
{
	const struct mem_map *map;
	unsigned n = 0;

	acc_host_begin(vm->acc);
	map = acc_vm_map(vm->acc);
	out[n++] = (struct value){ "memory_slots", map ? map->n : 0, NOW };
	acc_host_end(vm->acc);
	out[n++] = (struct value){ "vcpus", atomic_load(&vm->n_vcpus), NOW };
	out[n++] = (struct value){ "ioeventfds", atomic_load(&vm->n_ioeventfds), NOW };
	out[n++] = (struct value){ "coalesced_zones", atomic_load(&vm->n_zones), NOW };
	return n + heki_values(vm, out + n);
}

static unsigned values_of(struct vm *vm, struct vm_vcpu *v, struct value *out)
{
	return v ? vcpu_values(v, out) : vm_values(vm, out);
}

static uint8_t *image_of(struct vm *vm, struct vm_vcpu *v, size_t *size, size_t *data_offset)
{
	struct value values[64];
	unsigned n = values_of(vm, v, values);
	struct kvm_stats_header h = { .name_size = NAME_SIZE, .num_desc = n, .id_offset = sizeof(h) };
	uint8_t *p;

	h.desc_offset = h.id_offset + ID_SIZE;
	h.data_offset = h.desc_offset + n * (uint32_t)DESC_SIZE;
	*size = h.data_offset + n * 8;
	*data_offset = h.data_offset;
	p = calloc(1, *size);
	if (!p)
		return NULL;
	memcpy(p, &h, sizeof(h));
	if (v)
		snprintf((char *)p + h.id_offset, ID_SIZE, "kvm-%d/vcpu-%u", (int)getpid(), v->id);
	else
		snprintf((char *)p + h.id_offset, ID_SIZE, "kvm-%d", (int)getpid());
	for (unsigned i = 0; i < n; i++) {
		struct kvm_stats_desc d = { .flags = values[i].flags, .exponent = values[i].exponent, .size = 1, .offset = i * 8 };
		uint8_t *at = p + h.desc_offset + i * DESC_SIZE;

		memcpy(at, &d, sizeof(d));
		memcpy(at + sizeof(d), values[i].name, strlen(values[i].name));
		memcpy(p + h.data_offset + i * 8, &values[i].value, 8);
	}
	return p;
}

static int make_file(struct vm *vm, struct vm_vcpu *v, struct vm_stats_file **out)
{
	struct vm_stats_file *f = calloc(1, sizeof(*f));
	uint8_t *image;
	int err = -ENOMEM;

	if (!f)
		return -ENOMEM;
	image = image_of(vm, v, &f->size, &f->data_offset);
	if (!image)
		goto free_f;
	f->fd = memfd_create("kvm-stats", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (f->fd < 0) {
		err = -errno;
		goto free_image;
	}
	if (write(f->fd, image, f->size) != (ssize_t)f->size ||
	    fcntl(f->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		goto close_fd;
	f->map = mmap(NULL, f->size, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
	if (f->map == MAP_FAILED)
		goto close_fd;
	free(image);
	*out = f;
	return 0;
close_fd:
	close(f->fd);
free_image:
	free(image);
free_f:
	free(f);
	return err;
}

int vm_stats_open(struct vm *vm, struct vm_vcpu *v)
{
	struct vm_stats_file *_Atomic *at = v ? &v->stats_file : &vm->stats_file;
	struct vm_stats_file *f = atomic_load(at), *none = NULL;
	char path[40];
	int fd, err;

	if (!f) {
		err = make_file(vm, v, &f);
		if (err)
			return err;
		if (!atomic_compare_exchange_strong(at, &none, f)) {
			vm_stats_free(f);
			f = none;
		}
	}
	vm_stats_refresh(vm, v);
	/* A description of its own: read-only, with its own position. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

static void write_values(struct vm *vm, struct vm_vcpu *v, struct vm_stats_file *f)
{
	struct value values[64];
	unsigned n;

	if (likely(!f))
		return;
	n = values_of(vm, v, values);
	for (unsigned i = 0; i < n; i++)
		__atomic_store_n((uint64_t *)(void *)(f->map + f->data_offset + i * 8), values[i].value, __ATOMIC_RELAXED);
}

void vm_stats_refresh(struct vm *vm, struct vm_vcpu *v)
{
	/* What its guest is denied is the VM's. */
	write_values(vm, NULL, atomic_load_explicit(&vm->stats_file, memory_order_acquire));
	if (v) {
		write_values(vm, v, atomic_load_explicit(&v->stats_file, memory_order_acquire));
		v->stats_at = __rdtsc();
	}
}

static bool has_file(struct vm_stats_file *const _Atomic *f)
{
	return unlikely(atomic_load_explicit(f, memory_order_relaxed) != NULL);
}

bool vm_stats_due(const struct vm_vcpu *v)
{
	return (has_file(&v->stats_file) || has_file(&v->vm->stats_file)) && __rdtsc() - v->stats_at > vm_host_tsc_khz();
}

void vm_stats_free(struct vm_stats_file *f)
{
	if (!f)
		return;
	munmap(f->map, f->size);
	close(f->fd);
	free(f);
}
