/* SPDX-License-Identifier: MIT */
/*
 * The paths that are ours, as rows: devices, places where a device of the host must not be found, and the parameters of the kvm modules that test programs read before they try.
 *
 * The rows win over real files: a machine with a /dev/kvm runs on Guestward all the same. A path is compared by its last
 * component first, so that a program's other opens cost a few comparisons; only then is it made absolute. Symbolic links
 * to these paths are not followed here and so are not ours.
 */
#include "shim/shim.h"

#include <cpuid.h>
#include <errno.h>
#include <guestward/guestward.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "shim/real.h"

#define PATH_ROOM 1024u		/* longer ones are not ours */
#define PARAMETERS(module) "/sys/module/" module "/parameters/"
#define INTEL "GenuineIntel"
#define AMD "AuthenticAMD"

static const struct shim_path rows[] = {
	{ "/dev/kvm", .open = gw_open, .major = 10, .minor = 232 },
	/*
	 * What the host has under these names could not serve a guest of ours, so it is not there. Who builds one of them gives it
	 * an opener and its number; requests of any type on its descriptors go to gw_ioctl(), mappings to gw_mmap().
	 */
	{ "/dev/sgx_vepc" }, { "/dev/sgx_provision" }, { "/dev/sev" },
	/* No forced emulation, no PMU, no nesting. The rest: what a guest may do here, in the terms of each vendor's module. */
	{ PARAMETERS("kvm") "force_emulation_prefix", .text = "0\n" },
	{ PARAMETERS("kvm") "enable_pmu", .text = "N\n" },
	{ PARAMETERS("kvm") "eager_page_split", .text = "N\n" },
	{ PARAMETERS("kvm") "tdp_mmu", .text = "N\n" },
	{ PARAMETERS("kvm") "ignore_msrs", .text = "N\n" },
	{ PARAMETERS("kvm_intel") "ept", .text = "Y\n", .vendor = INTEL },
	{ PARAMETERS("kvm_intel") "unrestricted_guest", .text = "Y\n", .vendor = INTEL },
	{ PARAMETERS("kvm_intel") "nested", .text = "N\n", .vendor = INTEL },
	{ PARAMETERS("kvm_amd") "npt", .text = "Y\n", .vendor = AMD },
	{ PARAMETERS("kvm_amd") "avic", .text = "N\n", .vendor = AMD },
	{ PARAMETERS("kvm_amd") "lbrv", .text = "0\n", .vendor = AMD },
	{ PARAMETERS("kvm_amd") "nested", .text = "0\n", .vendor = AMD },
};
#define N_ROWS (sizeof(rows) / sizeof(rows[0]))

const struct shim_path *shim_path_at(unsigned index)
{
	return index < N_ROWS ? &rows[index] : NULL;
}

unsigned shim_path_index(const struct shim_path *p)
{
	return (unsigned)(p - rows);
}

/* ---- which one? -------------------------------------------------------------------------------------------------------- */

static bool vendor_is(const char *want)
{
	unsigned eax, r[3] = { 0 };

	return __get_cpuid(0, &eax, &r[0], &r[2], &r[1]) && !memcmp(r, want, sizeof(r));
}

static const char *last_component(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static bool may_match(const char *path)
{
	const char *name = last_component(path);

	for (unsigned i = 0; i < N_ROWS; i++)
		if (!strcmp(name, last_component(rows[i].path)))
			return true;
	return false;
}

/* The directory that a relative path starts from. 0 or -1. */
static int base_of(int dirfd, char *buf, size_t size)
{
	char link[32];
	ssize_t n;

	if (dirfd == AT_FDCWD)
		return getcwd(buf, size) ? 0 : -1;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", dirfd);
	n = readlink(link, buf, size - 1);
	if (n <= 0)
		return -1;
	buf[n] = 0;
	return 0;
}

/* Appends the components of @path to the clean absolute path in @buf; "." and ".." by their letters. 0 or -1: too long. */
static int append(char *buf, size_t size, const char *path)
{
	size_t len = strlen(buf), n;

	for (; *path; path += n) {
		path += strspn(path, "/");
		n = strcspn(path, "/");
		if (n == 0 || (n == 1 && path[0] == '.'))
			continue;
		if (n == 2 && path[0] == '.' && path[1] == '.') {
			while (len && buf[--len] != '/')
				;
			buf[len] = 0;
			continue;
		}
		if (len + n + 2 > size)
			return -1;
		buf[len++] = '/';
		memcpy(buf + len, path, n);
		len += n;
		buf[len] = 0;
	}
	return 0;
}

static const struct shim_path *find_absolute(const char *path)
{
	for (unsigned i = 0; i < N_ROWS; i++)
		if (!strcmp(path, rows[i].path))
			return !rows[i].vendor || vendor_is(rows[i].vendor) ? &rows[i] : NULL;
	return NULL;
}

const struct shim_path *shim_path_find(int dirfd, const char *path)
{
	char base[PATH_ROOM], full[PATH_ROOM] = "";

	if (!path || !may_match(path))
		return NULL;
	if (path[0] != '/' && (base_of(dirfd, base, sizeof(base)) || append(full, sizeof(full), base)))
		return NULL;
	return append(full, sizeof(full), path) ? NULL : find_absolute(full);
}

/* ---- what they answer -------------------------------------------------------------------------------------------------- */

static int open_text(const struct shim_path *p)
{
	size_t len = strlen(p->text);
	int fd = memfd_create(last_component(p->path), MFD_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (REAL(pwrite)(fd, p->text, len, 0) == (ssize_t)len)
		return fd;
	REAL(close)(fd);
	return -EIO;
}

static bool is_absent(const struct shim_path *p)
{
	return !p->open && !p->text;
}

int shim_path_open(const struct shim_path *p, int flags)
{
	int fd;

	if (is_absent(p))
		return flags & O_CREAT ? -EACCES : -ENOENT;
	if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
		return -EEXIST;
	if (flags & O_DIRECTORY)
		return -ENOTDIR;
	if (!p->open && (flags & O_ACCMODE) != O_RDONLY)
		return -EACCES;
	fd = p->open ? p->open() : open_text(p);
	if (fd >= 0 && !(flags & O_CLOEXEC))
		REAL(fcntl)(fd, F_SETFD, 0);
	if (fd >= 0 && p->open)
		shim_note(fd, SHIM_DEVICE + shim_path_index(p));
	return fd;
}

int shim_path_stat(const struct shim_path *p, struct stat *st)
{
	if (is_absent(p))
		return -ENOENT;
	memset(st, 0, sizeof(*st));
	st->st_dev = makedev(0, p->open ? 5 : 21);
	st->st_ino = 0x47570000 + shim_path_index(p);
	st->st_nlink = 1;
	st->st_blksize = 4096;
	st->st_mode = p->open ? S_IFCHR | 0666 : S_IFREG | 0444;
	if (p->open)
		st->st_rdev = makedev(p->major, p->minor);
	else
		st->st_size = 4096;
	return 0;
}

int shim_path_access(const struct shim_path *p, int mode)
{
	if (mode & ~(R_OK | W_OK | X_OK))
		return -EINVAL;
	if (is_absent(p))
		return -ENOENT;
	if (mode & X_OK || (mode & W_OK && !p->open))
		return -EACCES;
	return 0;
}
