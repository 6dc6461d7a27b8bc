/* SPDX-License-Identifier: MIT */
/*
 * See initrd.h. /init mounts what programs expect, loads /lib/modules/load.list in order, runs /etc/guestward/start (the command or the tour),
 * writes its status to the control block (power.h) and powers off.
 */
#include "initrd.h"

#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bytes.h"
#include "cpio.h"
#include "modules.h"
#include "power.h"
#include "ram.h"

#define FILE_MAX	(512ull << 20)

static const char init_shebang[] = "#!/bin/busybox sh\n";

/* First of all: nothing may be echoed. RTS stops the input while a program does not read. */
static const char init_plain[] = "/bin/busybox stty -onlcr -echo -isig crtscts </dev/console\n";

static const char init_start[] =
	"/bin/busybox --install -s /bin\n"
	"export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM=${TERM:-vt100}\n"
	"mount -t proc proc /proc\n"
	"mount -t sysfs sysfs /sys\n"
	"mount -t devtmpfs devtmpfs /dev 2>/dev/null\n"
	"mkdir -p /dev/pts && mount -t devpts devpts /dev/pts\n"
	"mount -t tmpfs tmpfs /tmp\n"
	"hostname guest\n"
	"if [ -e /lib/modules/load.list ]; then\n"
	"	while read -r m; do insmod \"/lib/modules/$m.ko\" || echo \"init: module $m failed\"; done "
	"</lib/modules/load.list\n"
	"fi\n";

/* With everything loaded that the machine needs. */
static const char init_lock[] = "devmem $lock_register 32 1 || echo 'init: the kernel cannot be locked (no /dev/mem)'\n";

/*
 * stty waits until all output is sent before it sets anything: power-off would cut it off. So would the end of the session's leader,
 * since it hangs the terminal up: the leader waits first, whatever group of processes has the terminal by then.
 */
static const char init_run[] =
	"cd /\n"
	"devmem $input_register 32 1\n"
	"setsid cttyhack sh -c 'trap : INT QUIT; sh /etc/guestward/start; s=$?; (trap \"\" TTOU; stty opost); exit $s'\n"
	"status=$?\n"
	"sync\n"
	"stty opost </dev/console\n"
	"devmem $status_register 32 $status || echo 'init: the status cannot be reported (no /dev/mem)'\n";

/* After a command only its output is wanted, so not the kernel's farewell. */
static const char init_quiet_end[] =
	"umount -a -r 2>/dev/null\n"
	"devmem $power_register 32 1\n";

static const char init_end[] =
	"poweroff -f\n"
	"while :; do sleep 1000; done\n";

static const char tour[] =
	"say() { echo; echo \"== $*\"; }\n"
	"say kernel; uname -a\n"
	"say 'CPU'; grep -c '^processor' /proc/cpuinfo | sed 's/$/ CPU(s)/'\n"
	"grep -m1 'model name' /proc/cpuinfo; grep -m1 '^flags' /proc/cpuinfo | fold -s -w 100\n"
	"say memory; free -m\n"
	"say devices; for d in /sys/bus/virtio/devices/*; do [ -e \"$d\" ] && echo \"${d##*/} $(cat \"$d/device\")\"; done\n"
	"say programs\n"
	"echo 'awk:' $(awk 'BEGIN { for (i = 1; i <= 100; i++) s += i * i; print s }')\n"
	"echo 'sha256sum:' $(seq 1 1000 | sha256sum)\n"
	"echo 'gzip:' $(seq 1 1000 | gzip | gunzip | md5sum)\n"
	"echo 'bc:' $(echo '2^127-1' | bc)\n"
	"ls / | tr '\\n' ' '; echo\n"
	"say 'up since'; cat /proc/uptime\n";

static const char *const base_directories[] = {
	"bin", "sbin", "usr", "usr/bin", "usr/sbin", "dev", "etc", "etc/guestward", "lib", "lib/modules", "proc", "root", "sys",
	"tmp", "mnt",
};

static int out_of_memory(struct err *err)
{
	return err_set(err, "out of memory for the initrd");
}

/* A busybox that wants an interpreter (ld.so) cannot run in an initrd that has none. */
static bool is_static(const uint8_t *data, size_t size)
{
	Elf64_Ehdr h;
	unsigned i;

	if (size < sizeof(h))
		return false;
	memcpy(&h, data, sizeof(h));
	if (memcmp(h.e_ident, ELFMAG, SELFMAG) || h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_machine != EM_X86_64 ||
	    h.e_phentsize != sizeof(Elf64_Phdr) || !range_ok(h.e_phoff, (uint64_t)h.e_phnum * sizeof(Elf64_Phdr), size))
		return false;
	for (i = 0; i < h.e_phnum; i++)
		if (get32(data + h.e_phoff + i * sizeof(Elf64_Phdr)) == PT_INTERP)
			return false;
	return true;
}

static int add_busybox(struct cpio *c, const char *path, struct err *err)
{
	struct blob file;
	int ret = 0;

	if (blob_read(&file, path, FILE_MAX, "busybox", err) < 0)
		return -1;
	if (is_static(file.data, file.size))
		cpio_file(c, "bin/busybox", 0755, file.data, file.size);
	else
		ret = err_set(err, "'%s' is not a static program: install busybox-static or use --busybox", path);
	blob_free(&file);
	return ret;
}

static int add_module_list(struct cpio *c, const struct modules *modules, struct err *err)
{
	struct blob list = { 0 };
	char path[128];
	unsigned i;

	for (i = 0; i < modules->n; i++) {
		const struct module *m = &modules->list[i];

		snprintf(path, sizeof(path), "lib/modules/%s.ko", m->name);
		cpio_file(c, path, 0644, m->image.data, m->image.size);
		if (blob_append(&list, m->name, strlen(m->name)) < 0 || blob_append(&list, "\n", 1) < 0) {
			blob_free(&list);
			return out_of_memory(err);
		}
	}
	cpio_file(c, "lib/modules/load.list", 0644, list.data, list.size);
	blob_free(&list);
	return 0;
}

static int add_modules(struct cpio *c, const struct initrd_plan *plan, struct err *err)
{
	static const char *const without_disks[] = { "virtio_mmio", "virtio_rng", NULL };
	static const char *const with_disks[] = { "virtio_mmio", "virtio_rng", "virtio_blk", "crc32c_generic", "ext4", NULL };
	struct modules modules = { .n = 0 };
	int ret;

	if (!plan->modules && !plan->first_module)
		return 0;
	ret = plan->first_module ? modules_add_file(&modules, plan->first_module, err) : 0;
	if (ret == 0 && plan->modules)
		ret = modules_collect(&modules, plan->modules, plan->disks ? with_disks : without_disks, err);
	if (ret == 0)
		ret = add_module_list(c, &modules, err);
	modules_free(&modules);
	return ret;
}

/* The directories above a path, in order. A directory given twice is no error for the kernel. */
static void add_parents(struct cpio *c, const char *path)
{
	char parent[1024];
	const char *slash;

	for (slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
		snprintf(parent, sizeof(parent), "%.*s", (int)(slash - path), path);
		cpio_directory(c, parent);
	}
}

static int add_host_file(struct cpio *c, const char *spec, struct err *err)
{
	const char *colon = strchr(spec, ':'), *guest = colon ? colon + 1 : spec;
	size_t length = colon ? (size_t)(colon - spec) : strlen(spec);
	struct blob file;
	struct stat st;
	char host[1024];

	while (*guest == '/')
		guest++;
	if (length >= sizeof(host) || strlen(guest) >= sizeof(host) || !*guest)
		return err_set(err, "--file=%s: not a usable path", spec);
	memcpy(host, spec, length);
	host[length] = 0;
	if (blob_read(&file, host, FILE_MAX, "file", err) < 0)
		return -1;
	add_parents(c, guest);
	cpio_file(c, guest, stat(host, &st) == 0 ? st.st_mode & 0777 : 0755, file.data, file.size);
	blob_free(&file);
	return 0;
}

int shell_quote(struct blob *out, char *const *arguments)
{
	const char *p;
	int ret = 0;

	for (; *arguments; arguments++) {
		ret |= blob_append(out, "'", 1);
		for (p = *arguments; *p; p++)
			ret |= *p == '\'' ? blob_append(out, "'\\''", 4) : blob_append(out, p, 1);
		ret |= blob_append(out, arguments[1] ? "' " : "'\n", 2);
	}
	return ret;
}

static int append_text(struct blob *out, const char *text)
{
	return blob_append(out, text, strlen(text));
}

static int write_init(struct blob *out, const struct initrd_plan *plan)
{
	char registers[200];
	int ret;

	snprintf(registers, sizeof(registers), "status_register=0x%llx power_register=0x%llx input_register=0x%llx lock_register=0x%llx\n",
		 ADDR_CONTROL + CONTROL_STATUS, ADDR_CONTROL + CONTROL_POWER_OFF, ADDR_CONTROL + CONTROL_INPUT,
		 ADDR_CONTROL + CONTROL_LOCK);
	ret = append_text(out, init_shebang);
	if (plan->plain)
		ret |= append_text(out, init_plain);
	ret |= append_text(out, init_start);
	ret |= append_text(out, registers);
	if (plan->asks_lock)
		ret |= append_text(out, init_lock);
	ret |= append_text(out, init_run);
	if (plan->command)
		ret |= append_text(out, init_quiet_end);
	return ret | append_text(out, init_end);
}

static int add_scripts(struct cpio *c, const struct initrd_plan *plan, struct err *err)
{
	struct blob init = { 0 }, start = { 0 };
	int ret = write_init(&init, plan);

	/* exec: the status is the program's own, and a signal kills it, not a shell around it. */
	if (plan->command)
		ret |= append_text(&start, "exec ") | shell_quote(&start, plan->command);
	else
		ret |= append_text(&start, tour);
	if (ret == 0) {
		cpio_file(c, "init", 0755, init.data, init.size);
		cpio_file(c, "etc/guestward/start", 0644, start.data, start.size);
	}
	blob_free(&init);
	blob_free(&start);
	return ret < 0 ? out_of_memory(err) : 0;
}

int initrd_build(struct blob *out, const struct initrd_plan *plan, struct err *err)
{
	struct cpio c = { .inode = 1 };
	int ret = 0;
	unsigned i;

	*out = (struct blob){ 0 };
	for (i = 0; i < sizeof(base_directories) / sizeof(base_directories[0]); i++)
		cpio_directory(&c, base_directories[i]);
	/* The kernel opens it for /init before anything is mounted. */
	cpio_char_device(&c, "dev/console", 0600, 5, 1);
	cpio_char_device(&c, "dev/null", 0666, 1, 3);
	ret = add_busybox(&c, plan->busybox, err);
	if (ret == 0)
		ret = add_modules(&c, plan, err);
	for (i = 0; ret == 0 && i < plan->n_files; i++)
		ret = add_host_file(&c, plan->files[i], err);
	if (ret == 0)
		ret = add_scripts(&c, plan, err);
	cpio_finish(&c);
	if (ret == 0 && c.failed)
		ret = out_of_memory(err);
	if (ret < 0)
		blob_free(&c.out);
	else
		*out = c.out;
	return ret;
}
