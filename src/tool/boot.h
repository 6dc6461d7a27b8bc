/* SPDX-License-Identifier: MIT */
/*
 * `guestward boot`: options, and the order in which the machine is put together.
 */
#ifndef TOOL_BOOT_H
#define TOOL_BOOT_H

#include "backend.h"
#include "heki.h"
#include "kernel.h"

#define DISKS_MAX 7u
#define FILES_MAX 32u

struct boot_options {
	const char *kernel, *initrd, *append, *cmdline, *modules, *busybox, *save_initrd, *share_module;
	uint64_t memory;
	unsigned cpus;
	enum kernel_protocol protocol;
	enum kernel_decompress decompress;
	const char *disks[DISKS_MAX];		/* FILE[,ro] as given */
	unsigned n_disks;
	const char *files[FILES_MAX];		/* HOST[:GUEST] as given */
	unsigned n_files;
	bool is_private, share_memory;
	const char *engine, *trace, *protect, *symbols;
	enum heki_on_denial on_denial;
	bool verbose, stats, no_chain, no_tlb;
	const struct backend *backend;
	char **command;				/* after --, NULL-terminated; NULL: none */
};

/* Parses; ends the process for --help and for mistakes (status 2), as argp does. */
void boot_parse(struct boot_options *options, int argc, char **argv);

/* The subcommand: returns the exit status. */
int boot_main(int argc, char **argv);

/* "512", "512M", "2G", "65536K": MiB unless a suffix says otherwise. 0: not a size. */
uint64_t parse_size(const char *text);

#endif
