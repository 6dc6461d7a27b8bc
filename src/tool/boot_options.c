/* SPDX-License-Identifier: MIT */
/* The options of `guestward boot`, by argp: one row each. See boot.h. */
#include <argp.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "boot.h"
#include "exit_codes.h"
#include "machine.h"

enum key {
	KEY_KERNEL = 'k', KEY_INITRD = 'i', KEY_APPEND = 'a', KEY_MEMORY = 'm', KEY_CPUS = 'c', KEY_DISK = 'd', KEY_VERBOSE = 'v', KEY_PRIVATE = 0x80,
	KEY_CMDLINE = 0x100, KEY_MODULES, KEY_BUSYBOX, KEY_FILE, KEY_SAVE_INITRD, KEY_PROTOCOL, KEY_DECOMPRESS, KEY_STATS, KEY_TRACE, KEY_ENGINE,
	KEY_BACKEND, KEY_SHARE_MODULE, KEY_SHARE_MEMORY, KEY_PROTECT, KEY_ON_DENIAL, KEY_NO_CHAIN, KEY_NO_TLB, KEY_SYMBOLS,
};

static const struct argp_option rows[] = {
	{ "kernel", KEY_KERNEL, "FILE", 0, "Linux kernel: bzImage (vmlinuz) or ELF (vmlinux)", 1 },
	{ "initrd", KEY_INITRD, "FILE", 0, "initial ramdisk, instead of the one built from busybox", 1 },
	{ "append", KEY_APPEND, "TEXT", 0, "add to the kernel command line (console=ttyS0 panic=-1)", 1 },
	{ "cmdline", KEY_CMDLINE, "TEXT", 0, "the whole kernel command line", 1 },
	{ "protocol", KEY_PROTOCOL, "NAME", 0, "how the kernel is entered: auto, linux64 or pvh", 1 },
	{ "decompress", KEY_DECOMPRESS, "WHO", 0, "who unpacks a bzImage: host or guest", 1 },
	{ "memory", KEY_MEMORY, "SIZE", 0, "guest memory in MiB, or with K, M or G (default 512)", 2 },
	{ "cpus", KEY_CPUS, "N", 0, "number of CPUs (default 1)", 2 },
	{ "private", KEY_PRIVATE, NULL, 0, "all memory private to the guest: console only, or see --share-module", 2 },
	{ "share-module", KEY_SHARE_MODULE, "FILE", 0, "gw_share.ko for this kernel (tools/build-guest-module): devices for a --private guest", 2 },
	{ "share-memory", KEY_SHARE_MEMORY, NULL, 0, "guest memory is a file that a monitor may map: for tools like LibVMI", 2 },
	{ "disk", KEY_DISK, "FILE[,ro]", 0, "raw disk image as /dev/vda, vdb, ... in the order given", 2 },
	{ "modules", KEY_MODULES, "DIR", 0, "the kernel's lib/modules/VERSION, for the initrd that is built", 3 },
	{ "busybox", KEY_BUSYBOX, "FILE", 0, "static busybox for that initrd (default /bin/busybox)", 3 },
	{ "file", KEY_FILE, "HOST[:GUEST]", 0, "put a file into that initrd, at GUEST or its own path", 3 },
	{ "save-initrd", KEY_SAVE_INITRD, "FILE", 0, "write that initrd to FILE and boot nothing", 3 },
	{ "protect", KEY_PROTECT, "heki[,WORD...]", 0, "lock the guest kernel once it has booted; words: sealed-once (default), frozen, "
	  "mirrored, lock-registers, shield, kprobes, rfc-codes", 4 },
	{ "on-denial", KEY_ON_DENIAL, "WHAT", 0, "what a denied access does: inject an exception (default), stop, pause, or ignore", 4 },
	{ "symbols", KEY_SYMBOLS, "FILE", 0, "System.map or a copy of /proc/kallsyms: names for what is denied", 4 },
	{ "stats", KEY_STATS, NULL, 0, "print counters at the end, on standard error", 4 },
	{ "trace", KEY_TRACE, "LIST", 0, "trace the engine: names of trace rows, see guestward(1)", 4 },
	{ "engine", KEY_ENGINE, "NAME", 0, "which execution engine: translate (default) or interp", 4 },
	{ "no-chain", KEY_NO_CHAIN, NULL, 0, "translated blocks do not branch to each other: to find an engine's fault", 4 },
	{ "no-tlb", KEY_NO_TLB, NULL, 0, "translated code leaves every memory access to the interpreter: likewise", 4 },
	{ "verbose", KEY_VERBOSE, NULL, 0, "say what is done, and how the machine ended", 4 },
	{ "backend", KEY_BACKEND, "NAME", OPTION_HIDDEN, "guestward, or kvm for the kernel's own", 4 },
	{ 0 }
};

uint64_t parse_size(const char *text)
{
	static const struct { char suffix; unsigned shift; } units[] = {
		{ 0, 20 }, { 'K', 10 }, { 'k', 10 }, { 'M', 20 }, { 'm', 20 }, { 'G', 30 }, { 'g', 30 }, { 'T', 40 },
	};
	unsigned long long v;
	char *end;
	size_t i;

	if (text[0] < '0' || text[0] > '9')
		return 0;
	errno = 0;
	v = strtoull(text, &end, 10);
	if (errno || (end[0] && end[1]))
		return 0;
	for (i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (end[0] == units[i].suffix)
			return v > UINT64_MAX >> units[i].shift ? 0 : v << units[i].shift;
	return 0;
}

struct choice {
	const char *name;
	int value;
};

static int choose(const struct argp_state *state, const char *option, const char *arg, const struct choice *choices, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (!strcmp(arg, choices[i].name))
			return choices[i].value;
	argp_error(state, "--%s does not know '%s'", option, arg);
	return 0;
}

static void set_memory(struct boot_options *o, const char *arg, const struct argp_state *state)
{
	o->memory = parse_size(arg);
	if (!o->memory)
		argp_error(state, "'%s' is not a memory size; use for example --memory=512 or --memory=2G", arg);
	if (o->memory < RAM_MIN || o->memory > RAM_MAX)
		argp_error(state, "--memory must be between %llu MiB and %llu GiB", RAM_MIN >> 20, RAM_MAX >> 30);
	o->memory &= ~0xfffull;
}

static void set_cpus(struct boot_options *o, const char *arg, const struct argp_state *state)
{
	char *end;
	unsigned long n = strtoul(arg, &end, 10);

	if (arg[0] < '0' || arg[0] > '9' || *end || n < 1 || n > CPUS_MAX)
		argp_error(state, "--cpus must be a number from 1 to %u", CPUS_MAX);
	o->cpus = (unsigned)n;
}

static void add_to_list(const char **list, unsigned *n, unsigned max, const char *arg, const char *what,
			const struct argp_state *state)
{
	if (*n == max)
		argp_error(state, "at most %u times --%s", max, what);
	else
		list[(*n)++] = arg;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	static const struct choice protocols[] = {
		{ "auto", PROTOCOL_AUTO }, { "linux64", PROTOCOL_LINUX64 }, { "pvh", PROTOCOL_PVH },
	};
	static const struct choice who[] = { { "host", DECOMPRESS_HOST }, { "guest", DECOMPRESS_GUEST } };
	static const struct choice backends[] = { { "guestward", 0 }, { "kvm", 1 } };
	static const struct choice denials[] = {
		{ "inject", ON_DENIAL_INJECT }, { "stop", ON_DENIAL_STOP }, { "pause", ON_DENIAL_PAUSE }, { "ignore", ON_DENIAL_IGNORE },
	};
	static const struct choice engines[] = { { "translate", 0 }, { "interp", 1 } };
	struct boot_options *o = state->input;

	switch (key) {
	case KEY_KERNEL: o->kernel = arg; break;
	case KEY_INITRD: o->initrd = arg; break;
	case KEY_APPEND: o->append = arg; break;
	case KEY_CMDLINE: o->cmdline = arg; break;
	case KEY_MODULES: o->modules = arg; break;
	case KEY_BUSYBOX: o->busybox = arg; break;
	case KEY_SAVE_INITRD: o->save_initrd = arg; break;
	case KEY_TRACE: o->trace = arg; break;
	case KEY_SYMBOLS: o->symbols = arg; break;
	case KEY_ENGINE: o->engine = engines[choose(state, "engine", arg, engines, 2)].name; break;
	case KEY_NO_CHAIN: o->no_chain = true; break;
	case KEY_NO_TLB: o->no_tlb = true; break;
	case KEY_PRIVATE: o->is_private = true; break;
	case KEY_SHARE_MEMORY: o->share_memory = true; break;
	case KEY_SHARE_MODULE: o->share_module = arg; break;
	case KEY_STATS: o->stats = true; break;
	case KEY_VERBOSE: o->verbose = true; break;
	case KEY_MEMORY: set_memory(o, arg, state); break;
	case KEY_CPUS: set_cpus(o, arg, state); break;
	case KEY_DISK: add_to_list(o->disks, &o->n_disks, DISKS_MAX, arg, "disk", state); break;
	case KEY_FILE: add_to_list(o->files, &o->n_files, FILES_MAX, arg, "file", state); break;
	case KEY_PROTOCOL:
		o->protocol = (enum kernel_protocol)choose(state, "protocol", arg, protocols, 3);
		break;
	case KEY_DECOMPRESS:
		o->decompress = (enum kernel_decompress)choose(state, "decompress", arg, who, 2);
		break;
	case KEY_PROTECT:
		if (heki_check_words(arg))
			argp_error(state, "--protect does not know '%s'; use for example --protect=heki,frozen", heki_check_words(arg));
		o->protect = arg;
		break;
	case KEY_ON_DENIAL:
		o->on_denial = (enum heki_on_denial)choose(state, "on-denial", arg, denials, 4);
		break;
	case KEY_BACKEND:
		o->backend = choose(state, "backend", arg, backends, 2) ? &backend_kvm : &backend_guestward;
		break;
	case ARGP_KEY_ARG:
		argp_error(state, "'%s' is not an option; a command for the guest comes after --", arg);
		break;
	case ARGP_KEY_END:
		if (!o->kernel && !o->save_initrd)
			argp_error(state, "no kernel: use --kernel=FILE (tools/fetch-kernel gets Debian's)");
		if (o->initrd && o->command)
			argp_error(state, "-- CMD runs in the initrd that is built: leave out --initrd");
		if (o->is_private && o->n_disks && !o->share_module && !o->initrd)
			argp_error(state, "a disk cannot reach the memory of a --private guest: leave out --disk, or use --share-module");
		if (o->share_memory && o->is_private)
			argp_error(state, "memory cannot be both --private and shared");
		if (o->share_module && !o->is_private)
			argp_error(state, "--share-module is for a --private guest");
		if (o->share_module && o->initrd)
			argp_error(state, "--share-module goes into the initrd that is built: put it into yours, and leave it out");
		if (o->cmdline && o->append)
			argp_error(state, "--cmdline is the whole command line: leave out --append");
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

void boot_parse(struct boot_options *o, int argc, char **argv)
{
	static const struct argp argp = {
		.options = rows,
		.parser = parse,
		.args_doc = "[-- CMD [ARG...]]",
		.doc = "Boot a Linux kernel in a small machine whose console is this terminal; Ctrl-A x ends it.\v"
		       "With -- CMD the command runs in the guest (in an initrd built from busybox), and its exit status is "
		       "returned. See guestward(1).",
	};
	int i;

	*o = (struct boot_options){ .memory = 512ull << 20, .cpus = 1, .busybox = "/bin/busybox",
				    .backend = &backend_guestward };
	for (i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--"))
			continue;
		o->command = argv + i + 1;
		argc = i;
		break;
	}
	argp_err_exit_status = STATUS_USAGE;
	argp_parse(&argp, argc, argv, 0, NULL, o);
	if (o->command && !o->command[0])
		o->command = NULL;
}
