/* SPDX-License-Identifier: MIT */
/* See modules.h. */
#include "modules.h"

#include <elf.h>
#include <errno.h>
#include <fts.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bytes.h"
#include "unpack.h"

#define MODULE_FILE_MAX	(64ull << 20)
#define DEPTH_MAX	16u
#define NAME_SIZE	64u

/* "virtio-rng.ko.xz" gives "virtio_rng"; false: not a module's file name. */
static bool name_of_file(const char *file, char name[NAME_SIZE])
{
	const char *end = strstr(file, ".ko");
	size_t i, len;

	if (!end || (end[3] && end[3] != '.'))
		return false;
	len = (size_t)(end - file);
	if (!len || len >= NAME_SIZE)
		return false;
	for (i = 0; i < len; i++)
		name[i] = file[i] == '-' ? '_' : file[i];
	name[len] = 0;
	return true;
}

/* Path of the module's file, to be freed; NULL with *error 0: there is none. */
static char *find_file(const char *directory, const char *name, int *error)
{
	char *const roots[] = { (char *)(uintptr_t)directory, NULL };
	FTS *fts = fts_open(roots, FTS_PHYSICAL | FTS_COMFOLLOW | FTS_NOCHDIR, NULL);
	char *path = NULL, found[NAME_SIZE];
	FTSENT *entry;

	*error = 0;
	if (!fts) {
		*error = errno;
		return NULL;
	}
	while (!path && (entry = fts_read(fts))) {
		if (entry->fts_info != FTS_F || !name_of_file(entry->fts_name, found) || strcmp(found, name))
			continue;
		path = strdup(entry->fts_path);
		if (!path)
			*error = ENOMEM;
	}
	fts_close(fts);
	return path;
}

static int read_module(struct blob *image, const char *path, struct err *err)
{
	struct blob file;
	int ret;

	if (blob_read(&file, path, MODULE_FILE_MAX, "kernel module", err) < 0)
		return -1;
	if (!unpack_format(file.data, file.size)) {
		*image = file;
		return 0;
	}
	ret = unpack(image, file.data, file.size, MODULE_FILE_MAX, path, err);
	blob_free(&file);
	return ret;
}

/* Section i of a 64-bit ELF, if header and contents lie in the image. */
static bool section(const uint8_t *image, size_t size, const Elf64_Ehdr *h, unsigned i, Elf64_Shdr *s)
{
	if (!range_ok(h->e_shoff, ((uint64_t)i + 1) * sizeof(*s), size))
		return false;
	memcpy(s, image + h->e_shoff + (uint64_t)i * sizeof(*s), sizeof(*s));
	return s->sh_type != SHT_NOBITS && range_ok(s->sh_offset, s->sh_size, size);
}

/* Records of .modinfo: strings "key=value", each ended by at least one 0. */
static const char *find_record(const char *info, size_t size, const char *key, size_t *length)
{
	size_t key_length = strlen(key), at = 0;

	while (at < size) {
		size_t len = strnlen(info + at, size - at);

		if (len >= key_length && !memcmp(info + at, key, key_length)) {
			*length = len - key_length;
			return info + at + key_length;
		}
		at += len + 1;
	}
	return NULL;
}

const char *module_depends(const uint8_t *image, size_t size, size_t *length)
{
	static const char wanted[] = ".modinfo";
	Elf64_Ehdr h;
	Elf64_Shdr names, s;
	unsigned i;

	if (size < sizeof(h))
		return NULL;
	memcpy(&h, image, sizeof(h));
	if (memcmp(h.e_ident, ELFMAG, SELFMAG) || h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_shentsize != sizeof(s) ||
	    !section(image, size, &h, h.e_shstrndx, &names))
		return NULL;
	for (i = 0; i < h.e_shnum; i++) {
		if (!section(image, size, &h, i, &s) || !range_ok(s.sh_name, sizeof(wanted), names.sh_size))
			continue;
		if (!memcmp(image + names.sh_offset + s.sh_name, wanted, sizeof(wanted)))
			return find_record((const char *)image + s.sh_offset, s.sh_size, "depends=", length);
	}
	return NULL;
}

static bool have(const struct modules *modules, const char *name)
{
	unsigned i;

	for (i = 0; i < modules->n; i++)
		if (!strcmp(modules->list[i].name, name))
			return true;
	return false;
}

static int collect(struct modules *modules, const char *directory, const char *name, unsigned depth, struct err *err);

static int collect_depends(struct modules *modules, const char *directory, const struct blob *image, unsigned depth,
			   struct err *err)
{
	size_t length = 0, at = 0;
	const char *depends = module_depends(image->data, image->size, &length);

	while (depends && at < length) {
		const char *comma = memchr(depends + at, ',', length - at);
		size_t i, len = comma ? (size_t)(comma - depends) - at : length - at;
		char name[NAME_SIZE];

		if (len && len < NAME_SIZE) {
			for (i = 0; i < len; i++)
				name[i] = depends[at + i] == '-' ? '_' : depends[at + i];
			name[len] = 0;
			if (collect(modules, directory, name, depth + 1, err) < 0)
				return -1;
		}
		at += len + 1;
	}
	return 0;
}

static int append(struct modules *modules, const char *name, struct blob *image, struct err *err)
{
	char *copy;

	if (modules->n == MODULES_MAX)
		return err_set(err, "more than %u kernel modules are needed", MODULES_MAX);
	copy = strdup(name);
	if (!copy)
		return err_set(err, "out of memory");
	modules->list[modules->n++] = (struct module){ copy, *image };
	*image = (struct blob){ 0 };
	return 0;
}

static int collect(struct modules *modules, const char *directory, const char *name, unsigned depth, struct err *err)
{
	struct blob image;
	char *path;
	int error, ret;

	if (have(modules, name))
		return 0;
	if (depth > DEPTH_MAX)
		return err_set(err, "kernel module '%s' depends on itself", name);
	path = find_file(directory, name, &error);
	if (!path)
		return error ? err_set(err, "cannot search '%s': %s", directory, strerror(error)) : 0;
	ret = read_module(&image, path, err);
	free(path);
	if (ret < 0)
		return -1;
	ret = collect_depends(modules, directory, &image, depth, err);
	if (ret == 0)
		ret = append(modules, name, &image, err);
	blob_free(&image);
	return ret;
}

int modules_collect(struct modules *modules, const char *directory, const char *const *wanted, struct err *err)
{
	struct stat st;

	if (stat(directory, &st) < 0)
		return err_set(err, "modules directory '%s': %s", directory, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return err_set(err, "'%s' is not a modules directory (lib/modules/VERSION)", directory);
	for (; *wanted; wanted++)
		if (collect(modules, directory, *wanted, 0, err) < 0)
			return -1;
	return 0;
}

int modules_add_file(struct modules *modules, const char *path, struct err *err)
{
	const char *slash = strrchr(path, '/');
	char name[NAME_SIZE];
	struct blob image;
	int ret;

	if (!name_of_file(slash ? slash + 1 : path, name))
		return err_set(err, "'%s' is not a kernel module (NAME.ko)", path);
	if (read_module(&image, path, err) < 0)
		return -1;
	ret = append(modules, name, &image, err);
	blob_free(&image);
	return ret;
}

void modules_free(struct modules *modules)
{
	while (modules->n) {
		struct module *m = &modules->list[--modules->n];

		free(m->name);
		blob_free(&m->image);
	}
}
