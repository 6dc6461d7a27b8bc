/* SPDX-License-Identifier: MIT */
/* `guestward boot`, from options to exit status. See boot.h. */
#include "boot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <guestward/guestward.h>

#include "acpi.h"
#include "cmos.h"
#include "console.h"
#include "exit_codes.h"
#include "heki.h"
#include "initrd.h"
#include "machine.h"
#include "power.h"
#include "private.h"
#include "serial.h"
#include "stats.h"
#include "virtio_blk.h"
#include "virtio_rng.h"

#define INITRD_MAX	(1024ull << 20)
#define DEFAULT_CMDLINE	"console=ttyS0 panic=-1"

/* All parts of one run; static because it is large and there is one per process. */
static struct boot {
	struct boot_options options;
	struct machine machine;
	struct console console;
	struct serial serial;
	struct power power;
	struct cmos cmos;
	struct virtio virtio[DISKS_MAX + 1];
	unsigned n_virtio;
	struct loader loader;
	char cmdline[4096];
	struct timespec started;
} boot;

static void log_line(void *opaque, int level, const char *line)
{
	(void)opaque;
	(void)level;
	/* \r: the terminal may be raw. */
	fprintf(stderr, "%s\r\n", line);
}

static int say_no(struct err *err, const char *name, const char *value)
{
	return err_set(err, "cannot set %s=%s: %s", name, value, strerror(errno));
}

/* The options stand behind what the environment says: the last word counts. */
static int set_engine(const struct boot_options *o)
{
	const char *was = getenv("GUESTWARD_ENGINE");
	char words[256];
	int n;

	if (!o->engine && !o->no_chain && !o->no_tlb)
		return 0;
	n = snprintf(words, sizeof(words), "%s%s%s%s%s", was ? was : "", was ? "," : "", o->engine ? o->engine : "",
		     o->no_chain ? ",no-chain" : "", o->no_tlb ? ",no-tlb" : "");
	if ((size_t)n >= sizeof(words)) {
		errno = E2BIG;
		return -1;
	}
	return setenv("GUESTWARD_ENGINE", words, 1);
}

static int prepare_library(const struct boot_options *o, struct err *err)
{
	/* So that `guestward dump` can ask; a client that set it to something else keeps its choice. */
	setenv("GUESTWARD_CONTROL", "1", 0);
	if (o->trace && setenv("GUESTWARD_TRACE", o->trace, 1) < 0)
		return say_no(err, "GUESTWARD_TRACE", o->trace);
	if (set_engine(o) < 0)
		return say_no(err, "GUESTWARD_ENGINE", "...");
	if (o->verbose || o->trace)
		gw_set_log(log_line, NULL);
	return 0;
}

/* Slot i of the virtio devices: its registers and its line. */
static int add_virtio(struct boot *b, unsigned i, struct err *err)
{
	if (bus_add(&b->machine.memory, ADDR_VIRTIO + i * VIRTIO_STRIDE, VIRTIO_STRIDE, &virtio_mmio_ops, &b->virtio[i]) < 0)
		return err_set(err, "no room for a virtio device");
	b->n_virtio = i + 1;
	return 0;
}

static int add_virtio_devices(struct boot *b, struct err *err)
{
	struct machine *m = &b->machine;
	struct irq_line irq;
	unsigned i;

	for (i = 0; i < b->options.n_disks; i++) {
		irq = machine_irq_line(m, virtio_gsi(i));
		if (virtio_blk_init(&b->virtio[i], b->options.disks[i], &m->ram, &irq, err) < 0 || add_virtio(b, i, err) < 0)
			return -1;
	}
	/* No device could reach the guest's buffers but those whose drivers are told where to put them. */
	if (!b->options.is_private || b->options.share_module) {
		irq = machine_irq_line(m, virtio_gsi(i));
		virtio_rng_init(&b->virtio[i], &m->ram, &irq);
		if (add_virtio(b, i, err) < 0)
			return -1;
	}
	for (i = 0; b->options.is_private && i < b->n_virtio; i++)
		b->virtio[i].features |= VIRTIO_F_ACCESS_PLATFORM;
	return 0;
}

static int add_devices(struct boot *b, struct err *err)
{
	struct machine *m = &b->machine;
	struct irq_line irq = machine_irq_line(m, SERIAL_COM1_IRQ);

	serial_init(&b->serial, &irq, console_send, &b->console);
	cmos_init(&b->cmos);
	if (bus_add(&m->ports, SERIAL_COM1_PORT, 8, &serial_ops, &b->serial) < 0 ||
	    bus_add(&m->ports, CMOS_PORT, 2, &cmos_ops, &b->cmos) < 0)
		return err_set(err, "no room for the serial port");
	if (power_init(&b->power, m, err) < 0)
		return -1;
	if (!b->options.initrd && !isatty(STDIN_FILENO))
		b->console.input_wanted = &b->power.input_wanted;
	return add_virtio_devices(b, err);
}

static int load_kernel(struct boot *b, struct err *err)
{
	const struct boot_options *o = &b->options;
	struct blob file;
	int ret;

	if (blob_read(&file, o->kernel, KERNEL_FILE_MAX, "kernel", err) < 0)
		return -1;
	ret = kernel_load(&b->machine.kernel, &file, &b->machine.ram, o->protocol, o->decompress, err);
	blob_free(&file);
	return ret;
}

static int get_initrd(const struct boot_options *o, struct blob *initrd, struct err *err)
{
	struct initrd_plan plan = {
		.busybox = o->busybox,
		.modules = o->modules,
		.first_module = o->share_module,
		.disks = o->n_disks != 0,
		.files = o->files,
		.n_files = o->n_files,
		.command = o->command,
		.asks_lock = o->protect,
		.plain = !isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO),
	};

	if (o->initrd)
		return blob_read(initrd, o->initrd, INITRD_MAX, "initrd", err);
	return initrd_build(initrd, &plan, err);
}

static int load_initrd(struct boot *b, struct err *err)
{
	struct blob initrd;
	int ret;

	if (get_initrd(&b->options, &initrd, err) < 0)
		return -1;
	ret = loader_place_initrd(&b->loader, &initrd, err);
	blob_free(&initrd);
	return ret;
}

static int make_cmdline(struct boot *b, struct err *err)
{
	const struct boot_options *o = &b->options;
	const size_t size = sizeof(b->cmdline);
	int n;

	if (o->cmdline)
		n = snprintf(b->cmdline, size, "%s", o->cmdline);
	else	/* With a command its output is what counts: the kernel then only shows what went wrong. */
		n = snprintf(b->cmdline, size, "%s%s%s%s%s", DEFAULT_CMDLINE, o->command && !o->verbose ? " loglevel=3" : "",
			     heki_kernel_options(o->protect), o->append ? " " : "", o->append ? o->append : "");
	return n < 0 || (size_t)n >= size ? err_set(err, "the command line is longer than %zu bytes", size - 1) : 0;
}

static int load_all(struct boot *b, struct err *err)
{
	struct acpi_machine acpi = { .cpus = b->options.cpus, .n_virtio = b->n_virtio };

	b->loader = (struct loader){ .ram = &b->machine.ram, .kernel = &b->machine.kernel, .rsdp = ADDR_ACPI };
	if (load_kernel(b, err) < 0 || load_initrd(b, err) < 0 || make_cmdline(b, err) < 0)
		return -1;
	if (acpi_write(&b->machine.ram, &acpi, err) < 0)
		return -1;
	return loader_write(&b->loader, b->cmdline, err);
}

static double seconds_since(const struct timespec *start)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

/* How the machine ended, as an exit status; and a line for the user where the status alone would puzzle. */
static int finish(struct boot *b)
{
	struct machine *m = &b->machine;
	enum stop_reason reason = (enum stop_reason)atomic_load(&m->stopped);
	int status = atomic_load(&b->power.exit_status);
	bool quiet = reason == STOP_POWEROFF || reason == STOP_QUIT || reason == STOP_SIGNAL;

	if (!quiet || b->options.verbose)
		fprintf(stderr, "guestward: %s\n", m->stop_text);
	if (m->report[0])
		fputs(m->report, stderr);
	if (b->options.verbose)
		fprintf(stderr, "guestward: %.2f s\n", seconds_since(&b->started));
	switch (reason) {
	case STOP_POWEROFF:
		if (b->options.command && status < 0) {
			fprintf(stderr, "guestward: the guest powered off without reporting the command's status\n");
			return STATUS_FAILED;
		}
		return status < 0 ? STATUS_OK : status;
	case STOP_QUIT:
		return STATUS_OK;
	case STOP_RESET:
		return STATUS_GUEST_RESET;
	case STOP_GUEST_DIED:
		return STATUS_GUEST_DIED;
	case STOP_SIGNAL:
		return STATUS_SIGNAL + m->stop_detail;
	default:
		return STATUS_FAILED;
	}
}

static int start(struct boot *b, struct err *err)
{
	const struct boot_options *o = &b->options;
	struct machine *m = &b->machine;

	clock_gettime(CLOCK_MONOTONIC, &b->started);
	machine_init_signals();
	if (console_open(&b->console, m, err) < 0 || prepare_library(o, err) < 0)
		return -1;
	if (machine_create(m, o->backend, o->memory, o->share_memory, err) < 0)
		return -1;
	m->verbose = o->verbose;
	m->is_private = o->is_private;
	if (add_devices(b, err) < 0 || load_all(b, err) < 0 || machine_open(m, o->cpus, err) < 0 ||
	    heki_start(m, o, err) < 0)
		return -1;
	if (o->verbose)
		fprintf(stderr, "guestward: entering the kernel at 0x%llx by %s after %.2f s\n",
			(unsigned long long)m->kernel.entry, m->kernel.protocol == PROTOCOL_PVH ? "pvh" : "linux64",
			seconds_since(&b->started));
	if (m->is_private && private_load(m, err) < 0)
		return -1;
	return machine_start(m, err);
}

static int save_initrd(const struct boot_options *o, struct err *err)
{
	struct blob initrd;
	FILE *f;
	int ret = 0;

	if (get_initrd(o, &initrd, err) < 0)
		return -1;
	f = fopen(o->save_initrd, "wb");
	if (!f || fwrite(initrd.data, 1, initrd.size, f) != initrd.size)
		ret = -1;
	if (f && fclose(f) != 0)
		ret = -1;
	blob_free(&initrd);
	return ret < 0 ? err_set(err, "cannot write '%s': %s", o->save_initrd, strerror(errno)) : 0;
}

static void close_all(struct boot *b)
{
	machine_destroy(&b->machine);
	while (b->n_virtio)
		virtio_destroy(&b->virtio[--b->n_virtio]);
}

int boot_main(int argc, char **argv)
{
	struct boot *b = &boot;
	struct err err;
	int status;

	boot_parse(&b->options, argc, argv);
	if (b->options.save_initrd) {
		if (save_initrd(&b->options, &err) == 0)
			return STATUS_OK;
		fprintf(stderr, "guestward: %s\n", err.text);
		return STATUS_FAILED;
	}
	b->machine = (struct machine){ .system_fd = -1, .vm_fd = -1, .stop_fd = -1, .gmem = { -1, -1 } };
	if (start(b, &err) < 0) {
		console_close(&b->console);
		close_all(b);
		fprintf(stderr, "guestward: %s\n", err.text);
		return STATUS_FAILED;
	}
	console_run(&b->console, &b->serial);
	machine_join(&b->machine);
	console_close(&b->console);
	status = finish(b);
	heki_report(stderr, &b->machine, b->options.verbose);
	if (b->options.stats)
		stats_print(stderr, &b->machine, seconds_since(&b->started));
	close_all(b);
	return status;
}
