/* SPDX-License-Identifier: MIT */
/*
 * bzImage and vmlinux; see kernel.h. Field offsets are those of "The Linux/x86 Boot Protocol", section "Details of Header
 * Fields"; a bzImage is a boot sector and setup sectors, then the protected-mode part with the 64-bit entry at 0x200.
 */
#include "kernel.h"

#include <stdio.h>
#include <string.h>

#include "bytes.h"
#include "elf_load.h"
#include "unpack.h"

enum {
	HDR_SETUP_SECTS = 0x1f1,
	HDR_BOOT_FLAG = 0x1fe,
	HDR_JUMP = 0x200,
	HDR_MAGIC = 0x202,
	HDR_VERSION = 0x206,
	HDR_LOADER = 0x210,
	HDR_LOADFLAGS = 0x211,
	HDR_INITRD_MAX = 0x22c,
	HDR_ALIGNMENT = 0x230,
	HDR_XLOADFLAGS = 0x236,
	HDR_CMDLINE_SIZE = 0x238,
	HDR_PAYLOAD_OFFSET = 0x248,
	HDR_PAYLOAD_LENGTH = 0x24c,
	HDR_PREF_ADDRESS = 0x258,
	HDR_INIT_SIZE = 0x260,
	HDR_END = 0x268,
};

#define LOADED_HIGH		1u
#define XLF_KERNEL_64		1u
#define ENTRY_64		0x200u
#define DEFAULT_CMDLINE_MAX	2047u
#define DEFAULT_INITRD_MAX	0x7fffffffull

struct bzimage {
	const uint8_t *data;
	size_t size;
	size_t protected_at;	/* file offset of the protected-mode part */
	uint32_t payload_offset, payload_length;
};

static int not_bzimage(struct err *err, const char *why)
{
	return err_set(err, "kernel is not a bootable bzImage: %s", why);
}

/* A plain ELF has no setup header; the 64-bit entry wants one that says where it comes from. */
static void make_header(struct kernel *k)
{
	uint8_t *h = k->header - SETUP_HEADER;

	put16(h + HDR_BOOT_FLAG, 0xaa55);
	memcpy(h + HDR_MAGIC, "HdrS", 4);
	put16(h + HDR_VERSION, 0x020f);
	h[HDR_LOADFLAGS] = LOADED_HIGH;
	put32(h + HDR_INITRD_MAX, (uint32_t)DEFAULT_INITRD_MAX);
	put32(h + HDR_ALIGNMENT, 0x200000);
	put16(h + HDR_XLOADFLAGS, XLF_KERNEL_64);
	put32(h + HDR_CMDLINE_SIZE, DEFAULT_CMDLINE_MAX);
	k->initrd_max = DEFAULT_INITRD_MAX;
	k->cmdline_max = DEFAULT_CMDLINE_MAX;
}

static bool is_bzimage(const struct blob *file)
{
	return file->size >= HDR_END && get16(file->data + HDR_BOOT_FLAG) == 0xaa55 &&
	       !memcmp(file->data + HDR_MAGIC, "HdrS", 4);
}

static int read_bzimage(struct bzimage *bz, struct kernel *k, const struct blob *file, struct err *err)
{
	const uint8_t *d = file->data;
	unsigned setup_sects = d[HDR_SETUP_SECTS] ? d[HDR_SETUP_SECTS] : 4;
	unsigned version = get16(d + HDR_VERSION);
	size_t header_end = HDR_MAGIC + (size_t)d[HDR_JUMP + 1];

	*bz = (struct bzimage){ .data = d, .size = file->size, .protected_at = (setup_sects + 1) * 512u };
	if (version < 0x020c)
		return not_bzimage(err, "it is older than boot protocol 2.12 (Linux 3.8)");
	if (bz->protected_at >= bz->size)
		return not_bzimage(err, "the file ends inside the setup code; it is cut short");
	if (header_end > SETUP_HEADER_END)
		header_end = SETUP_HEADER_END;
	if (header_end < HDR_END || header_end > file->size)
		return not_bzimage(err, "its header is too short");
	if (!(get16(d + HDR_XLOADFLAGS) & XLF_KERNEL_64))
		return not_bzimage(err, "it is a 32-bit kernel; a 64-bit one is needed");
	memcpy(k->header, d + SETUP_HEADER, header_end - SETUP_HEADER);
	k->initrd_max = get32(d + HDR_INITRD_MAX);
	k->cmdline_max = get32(d + HDR_CMDLINE_SIZE);
	bz->payload_offset = get32(d + HDR_PAYLOAD_OFFSET);
	bz->payload_length = get32(d + HDR_PAYLOAD_LENGTH);
	return 0;
}

/* The kernel unpacks itself, in place, over [pref_address, pref_address + init_size). */
static int load_compressed(struct kernel *k, const struct bzimage *bz, const struct ram *ram, struct err *err)
{
	uint64_t at = get64(bz->data + HDR_PREF_ADDRESS);
	uint64_t init_size = get32(bz->data + HDR_INIT_SIZE);
	size_t size = bz->size - bz->protected_at;
	uint8_t *to;

	if (at < ADDR_KERNEL_MIN || (at & 0xfff))
		return not_bzimage(err, "its preferred address is below 1 MiB or not at a page start");
	if (init_size < size)
		return not_bzimage(err, "it says it needs less memory than its own file");
	if (size <= ENTRY_64)
		return not_bzimage(err, "the file ends before its entry point; it is cut short");
	to = ram_at(ram, at, init_size);
	if (!to)
		return err_set(err, "the kernel does not fit into %llu MiB of memory; use a larger --memory",
			       (unsigned long long)(ram->size >> 20));
	memcpy(to, bz->data + bz->protected_at, size);
	k->protocol = PROTOCOL_LINUX64;
	k->start = at;
	k->end = at + init_size;
	k->entry = at + ENTRY_64;
	return 0;
}

static int choose_elf_entry(struct kernel *k, const struct elf_image *image, enum kernel_protocol protocol,
			    bool has_header, struct err *err)
{
	if (protocol == PROTOCOL_AUTO)
		protocol = image->has_pvh && !has_header ? PROTOCOL_PVH : PROTOCOL_LINUX64;
	if (protocol == PROTOCOL_PVH && !image->has_pvh)
		return err_set(err, "the kernel has no PVH entry; use --protocol=linux64");
	if (protocol == PROTOCOL_LINUX64 && !image->is_64)
		return err_set(err, "a 32-bit ELF kernel can only be entered by PVH, and this one has no PVH entry");
	k->protocol = protocol;
	k->entry = protocol == PROTOCOL_PVH ? image->pvh_entry : image->entry;
	k->start = image->start;
	k->end = image->end;
	return 0;
}

static int load_elf(struct kernel *k, const uint8_t *data, size_t size, const struct ram *ram,
		    enum kernel_protocol protocol, bool has_header, struct err *err)
{
	struct elf_image image;

	if (elf_load(&image, data, size, ram, err) < 0)
		return -1;
	return choose_elf_entry(k, &image, protocol, has_header, err);
}

static int load_payload(struct kernel *k, const struct bzimage *bz, const struct ram *ram, enum kernel_protocol protocol,
			struct err *err)
{
	struct blob elf;
	const uint8_t *payload;
	size_t room = bz->size - bz->protected_at;
	int ret;

	if (!bz->payload_length || !range_ok(bz->payload_offset, bz->payload_length, room))
		return not_bzimage(err, "its compressed part lies outside the file; it is cut short");
	payload = bz->data + bz->protected_at + bz->payload_offset;
	if (!unpack_format(payload, bz->payload_length))
		return err_set(err, "the kernel's compression is not known; use --decompress=guest");
	if (unpack(&elf, payload, bz->payload_length, KERNEL_UNPACKED_MAX, "the kernel", err) < 0) {
		size_t used = strlen(err->text);

		snprintf(err->text + used, sizeof(err->text) - used, "; --decompress=guest lets the kernel unpack itself");
		return -1;
	}
	if (!elf_recognised(elf.data, elf.size))
		ret = err_set(err, "the unpacked kernel is not an ELF file");
	else
		ret = load_elf(k, elf.data, elf.size, ram, protocol, true, err);
	blob_free(&elf);
	/* The kernel uses memory behind its image before it has read the memory map: brk area, early page tables. */
	if (ret == 0 && k->protocol == PROTOCOL_LINUX64) {
		uint64_t end = k->start + get32(bz->data + HDR_INIT_SIZE);

		if (end > k->end && ram_at(ram, k->start, end - k->start))
			k->end = end;
	}
	return ret;
}

int kernel_load(struct kernel *kernel, const struct blob *file, const struct ram *ram, enum kernel_protocol protocol,
		enum kernel_decompress decompress, struct err *err)
{
	struct bzimage bz;

	*kernel = (struct kernel){ 0 };
	if (elf_recognised(file->data, file->size)) {
		make_header(kernel);
		return load_elf(kernel, file->data, file->size, ram, protocol, false, err);
	}
	if (!is_bzimage(file))
		return err_set(err, "kernel is neither a bzImage (vmlinuz) nor an ELF file (vmlinux)");
	if (read_bzimage(&bz, kernel, file, err) < 0)
		return -1;
	if (decompress == DECOMPRESS_HOST)
		return load_payload(kernel, &bz, ram, protocol, err);
	if (protocol == PROTOCOL_PVH)
		return err_set(err, "--protocol=pvh needs the kernel unpacked: leave out --decompress=guest");
	return load_compressed(kernel, &bz, ram, err);
}
