/* SPDX-License-Identifier: MIT */
/* See elf_load.h. Headers of both classes are turned into one struct first; after that nothing knows the class. */
#include "elf_load.h"

#include <elf.h>
#include <string.h>

#include "bytes.h"

#define SEGMENTS_MAX		256u
#define XEN_ELFNOTE_PHYS32_ENTRY 18u

struct segment {
	uint32_t type;
	uint64_t offset, vaddr, paddr, filesz, memsz;
};

struct elf_header {
	bool is_64;
	uint64_t entry, phoff;
	unsigned phnum;
};

bool elf_recognised(const uint8_t *data, size_t size)
{
	return size >= SELFMAG && !memcmp(data, ELFMAG, SELFMAG);
}

static int bad(struct err *err, const char *why)
{
	return err_set(err, "kernel is not a bootable ELF file: %s", why);
}

static int read_header(struct elf_header *h, const uint8_t *data, size_t size, struct err *err)
{
	Elf64_Ehdr e64;
	Elf32_Ehdr e32;
	unsigned phentsize, machine, type, version_data;

	if (size < sizeof(e64) || !elf_recognised(data, size))
		return bad(err, "too short");
	version_data = data[EI_DATA];
	if (version_data != ELFDATA2LSB)
		return bad(err, "not little-endian");
	h->is_64 = data[EI_CLASS] == ELFCLASS64;
	if (h->is_64) {
		memcpy(&e64, data, sizeof(e64));
		h->entry = e64.e_entry;
		h->phoff = e64.e_phoff;
		h->phnum = e64.e_phnum;
		phentsize = e64.e_phentsize;
		machine = e64.e_machine;
		type = e64.e_type;
	} else if (data[EI_CLASS] == ELFCLASS32) {
		memcpy(&e32, data, sizeof(e32));
		h->entry = e32.e_entry;
		h->phoff = e32.e_phoff;
		h->phnum = e32.e_phnum;
		phentsize = e32.e_phentsize;
		machine = e32.e_machine;
		type = e32.e_type;
	} else {
		return bad(err, "unknown class");
	}
	if (machine != (h->is_64 ? EM_X86_64 : EM_386))
		return bad(err, "not for x86");
	if (type != ET_EXEC)
		return bad(err, "not an executable with fixed addresses");
	if (phentsize != (h->is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
		return bad(err, "program headers have an unknown size");
	if (!h->phnum || h->phnum > SEGMENTS_MAX || !range_ok(h->phoff, (uint64_t)h->phnum * phentsize, size))
		return bad(err, "program headers lie outside the file");
	return 0;
}

static struct segment segment_at(const struct elf_header *h, const uint8_t *data, unsigned i)
{
	Elf64_Phdr p64;
	Elf32_Phdr p32;

	if (h->is_64) {
		memcpy(&p64, data + h->phoff + i * sizeof(p64), sizeof(p64));
		return (struct segment){ p64.p_type, p64.p_offset, p64.p_vaddr, p64.p_paddr, p64.p_filesz, p64.p_memsz };
	}
	memcpy(&p32, data + h->phoff + i * sizeof(p32), sizeof(p32));
	return (struct segment){ p32.p_type, p32.p_offset, p32.p_vaddr, p32.p_paddr, p32.p_filesz, p32.p_memsz };
}

static int load_segment(struct elf_image *image, const struct segment *s, const uint8_t *data, size_t size,
			const struct ram *ram, struct err *err)
{
	uint8_t *to;

	if (!s->memsz)
		return 0;
	if (s->filesz > s->memsz || !range_ok(s->offset, s->filesz, size))
		return bad(err, "a segment lies outside the file");
	if (s->paddr < ADDR_KERNEL_MIN)
		return bad(err, "a segment wants to be below 1 MiB");
	to = ram_at(ram, s->paddr, s->memsz);
	if (!to)
		return err_set(err, "the kernel does not fit into %llu MiB of memory; use a larger --memory",
			       (unsigned long long)(ram->size >> 20));
	memcpy(to, data + s->offset, s->filesz);
	memset(to + s->filesz, 0, s->memsz - s->filesz);
	if (s->paddr < image->start)
		image->start = s->paddr;
	if (s->paddr + s->memsz > image->end)
		image->end = s->paddr + s->memsz;
	return 0;
}

/* Notes: {namesz, descsz, type, name padded to 4, desc padded to 4}. Looks for Xen's 32-bit physical entry. */
static void scan_notes(struct elf_image *image, const uint8_t *notes, uint64_t size)
{
	uint64_t at = 0;

	while (range_ok(at, 12, size)) {
		uint64_t namesz = get32(notes + at), descsz = get32(notes + at + 4);
		uint32_t type = get32(notes + at + 8);
		uint64_t name = at + 12, desc = name + ((namesz + 3) & ~3ull);

		if (!range_ok(name, namesz, size) || !range_ok(desc, descsz, size))
			return;
		if (type == XEN_ELFNOTE_PHYS32_ENTRY && namesz == 4 && !memcmp(notes + name, "Xen", 4) &&
		    (descsz == 4 || descsz == 8)) {
			image->has_pvh = true;
			image->pvh_entry = descsz == 8 ? get64(notes + desc) : get32(notes + desc);
		}
		at = desc + ((descsz + 3) & ~3ull);
	}
}

/* Some links leave a virtual address in e_entry: translate it by the segment it lies in. */
static bool find_entry(struct elf_image *image, const struct elf_header *h, const uint8_t *data)
{
	unsigned i;

	if (h->entry >= image->start && h->entry < image->end) {
		image->entry = h->entry;
		return true;
	}
	for (i = 0; i < h->phnum; i++) {
		struct segment s = segment_at(h, data, i);

		if (s.type == PT_LOAD && h->entry >= s.vaddr && h->entry - s.vaddr < s.memsz) {
			image->entry = s.paddr + (h->entry - s.vaddr);
			return true;
		}
	}
	return false;
}

int elf_load(struct elf_image *image, const uint8_t *data, size_t size, const struct ram *ram, struct err *err)
{
	struct elf_header h = { 0 };
	unsigned i;

	*image = (struct elf_image){ .start = UINT64_MAX };
	if (read_header(&h, data, size, err) < 0)
		return -1;
	image->is_64 = h.is_64;
	for (i = 0; i < h.phnum; i++) {
		struct segment s = segment_at(&h, data, i);

		if (s.type == PT_LOAD && load_segment(image, &s, data, size, ram, err) < 0)
			return -1;
		if (s.type == PT_NOTE && range_ok(s.offset, s.filesz, size))
			scan_notes(image, data + s.offset, s.filesz);
	}
	if (image->start >= image->end)
		return bad(err, "nothing to load");
	if (!find_entry(image, &h, data))
		return bad(err, "its entry point is not in a loaded segment");
	if (image->has_pvh && (image->pvh_entry < image->start || image->pvh_entry >= image->end))
		return bad(err, "its PVH entry point is not in a loaded segment");
	return 0;
}
