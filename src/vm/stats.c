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

#include "vm/vm.h"

#define NAME_SIZE	48u
#define ID_SIZE		48u
#define DESC_SIZE	(sizeof(struct kvm_stats_desc) + NAME_SIZE)

struct value { const char *name; uint64_t value; uint32_t type; };

static unsigned vcpu_values(const struct vm_vcpu *v, struct value *out)
{
	unsigned n = 0;

/* Some are counted by other threads. */
#define X(text, field) out[n++] = (struct value){ #text, __atomic_load_n(&v->field, __ATOMIC_RELAXED), KVM_STATS_TYPE_CUMULATIVE };
#include "vm/stats.def"
#undef X
	return n;
}

static unsigned vm_values(struct vm *vm, struct value *out)
{
	const struct mem_map *map;
	unsigned n = 0;

	pthread_mutex_lock(&vm->lock);
	map = acc_vm_map(vm->acc);
	out[n++] = (struct value){ "memory_slots", map ? map->n : 0, KVM_STATS_TYPE_INSTANT };
	pthread_mutex_unlock(&vm->lock);
	out[n++] = (struct value){ "vcpus", atomic_load(&vm->n_vcpus), KVM_STATS_TYPE_INSTANT };
	out[n++] = (struct value){ "ioeventfds", atomic_load(&vm->n_ioeventfds), KVM_STATS_TYPE_INSTANT };
	out[n++] = (struct value){ "coalesced_zones", atomic_load(&vm->n_zones), KVM_STATS_TYPE_INSTANT };
	return n;
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
		struct kvm_stats_desc d = { .flags = values[i].type | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10, .size = 1, .offset = i * 8 };
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

void vm_stats_refresh(struct vm *vm, struct vm_vcpu *v)
{
	struct vm_stats_file *f = atomic_load(v ? &v->stats_file : &vm->stats_file);
	struct value values[64];
	unsigned n;

	if (likely(!f))
		return;
	n = values_of(vm, v, values);
	for (unsigned i = 0; i < n; i++)
		memcpy(f->map + f->data_offset + i * 8, &values[i].value, 8);
}

void vm_stats_free(struct vm_stats_file *f)
{
	if (!f)
		return;
	munmap(f->map, f->size);
	close(f->fd);
	free(f);
}
