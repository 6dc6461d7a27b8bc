/* SPDX-License-Identifier: MIT */
/*
 * `guestward run -- program args...`. Finds the preload library beside this program, refuses what it cannot help (a static
 * program has no libc to stand in front of, a set-user-id one ignores it), and becomes the program.
 */
#include "run.h"

#include <argp.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "exit_codes.h"

#define SHIM_NAME	"libguestward-shim.so"
#define MAX_PHDRS	512u
#define MAX_SCRIPTS	5u	/* one behind the other; the kernel has the same limit */

struct run_options {
	const char *log, *trace, *cpuid;
	char **program;
};

/* ---- which file? ------------------------------------------------------------------------------------------------------- */

static bool is_program(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISREG(st.st_mode) && !access(path, X_OK);
}

int run_find_program(const char *name, char *path, size_t size, struct err *err)
{
	const char *dir = getenv("PATH"), *end;

	if (strchr(name, '/')) {
		snprintf(path, size, "%s", name);
		return is_program(path) ? 0 : err_set(err, "cannot run '%s': %s", name, access(path, F_OK) ? strerror(errno) : "not a program");
	}
	for (dir = dir ? dir : "/usr/bin:/bin"; *name; dir = end + 1) {
		int len;

		end = strchrnul(dir, ':');
		len = (int)(end - dir);
		snprintf(path, size, "%.*s%s%s", len, dir, len ? "/" : "./", name);
		if (is_program(path))
			return 0;
		if (!*end)
			break;
	}
	return err_set(err, "there is no program '%s'", name);
}

/* ---- can it be helped? ------------------------------------------------------------------------------------------------- */

static bool has_interpreter(int fd, const Elf64_Ehdr *e)
{
	Elf64_Phdr p;

	for (unsigned i = 0; i < e->e_phnum && i < MAX_PHDRS; i++) {
		if (pread(fd, &p, sizeof(p), (off_t)(e->e_phoff + i * sizeof(p))) != (ssize_t)sizeof(p))
			return false;
		if (p.p_type == PT_INTERP)
			return true;
	}
	return false;
}

static int check_elf(const char *path, int fd, const Elf64_Ehdr *e, struct err *err)
{
	if (e->e_ident[EI_CLASS] != ELFCLASS64 || e->e_machine != EM_X86_64)
		return err_set(err, "'%s' is not an x86-64 program", path);
	if (e->e_phentsize != sizeof(Elf64_Phdr))
		return err_set(err, "'%s' has no program headers that can be read", path);
	if (!has_interpreter(fd, e))
		return err_set(err, "'%s' is statically linked: a preload library cannot reach its system calls (docs/clients.md says what can be done)", path);
	return 0;
}

/* The next word of @line, or an empty one. */
static const char *word_of(const char *line, char word[256])
{
	size_t n;

	line += strspn(line, " \t");
	n = strcspn(line, " \t\n");
	if (n > 255)
		n = 0;
	memcpy(word, line, n);
	word[n] = 0;
	return line + n;
}

static int check_program(const char *path, unsigned depth, struct err *err);

/* A script: what stands behind #! is the program, or what env(1) finds for it. */
static int check_script(const char *path, const char *line, unsigned depth, struct err *err)
{
	static char found[PATH_MAX];
	struct err unused;
	char interpreter[256], name[256];
	const char *base;

	if (depth == MAX_SCRIPTS)
		return err_set(err, "cannot run '%s': %s", path, strerror(ELOOP));
	line = word_of(line + 2, interpreter);
	if (!*interpreter)
		return 0;
	base = strrchr(interpreter, '/');
	word_of(line, name);
	if (!strcmp(base ? base + 1 : interpreter, "env") && *name && *name != '-' && !strchr(name, '=') &&
	    !run_find_program(name, found, sizeof(found), &unused) && check_program(found, depth + 1, err))
		return -1;
	return check_program(interpreter, depth + 1, err);
}

static bool is_privileged(const struct stat *st)
{
	return (st->st_mode & S_ISUID && st->st_uid != geteuid()) || (st->st_mode & S_ISGID && st->st_gid != getegid());
}

static int check_program(const char *path, unsigned depth, struct err *err)
{
	union { Elf64_Ehdr elf; char text[256]; } head;
	struct stat st;
	ssize_t n;
	int fd, ret = 0;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	/* May be executed without being readable: then the kernel decides. */
	if (fd < 0)
		return errno == EACCES ? 0 : err_set(err, "cannot read '%s': %s", path, strerror(errno));
	memset(&head, 0, sizeof(head));
	n = pread(fd, &head, sizeof(head) - 1, 0);
	if (!fstat(fd, &st) && is_privileged(&st))
		ret = err_set(err, "'%s' runs with another user's rights: such programs ignore preload libraries", path);
	else if (n >= (ssize_t)sizeof(head.elf) && !memcmp(head.elf.e_ident, ELFMAG, SELFMAG))
		ret = check_elf(path, fd, &head.elf, err);
	close(fd);
	if (!ret && n > 2 && !memcmp(head.text, "#!", 2))
		ret = check_script(path, head.text, depth, err);
	return ret;
}

int run_check_program(const char *path, struct err *err)
{
	return check_program(path, 0, err);
}

/* ---- the library ------------------------------------------------------------------------------------------------------- */

static const char *const places[] = { "../shim/", "../" GUESTWARD_LIBDIR "/guestward/", "../lib/guestward/", NULL };

int run_find_beside(const char *const *folders, const char *name, char *path, struct err *err)
{
	static char self[PATH_MAX], try[2 * PATH_MAX];	/* large, and there is one call */
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n < 0)
		return err_set(err, "cannot find this program's own file: %s", strerror(errno));
	self[n] = 0;
	*(strrchr(self, '/') + 1) = 0;
	for (; *folders; folders++) {
		snprintf(try, sizeof(try), "%s%s%s", self, *folders, name);
		if (!realpath(try, path))
			continue;
		return strpbrk(path, ": ") ? err_set(err, "the dynamic linker cannot use a path with a space or a colon: %s", path) : 0;
	}
	return err_set(err, "cannot find %s beside this program: is it installed?", name);
}

int run_put_first(const char *name, const char *value, struct err *err)
{
	static char list[2 * PATH_MAX + 4096];
	const char *others = getenv(name);

	if ((size_t)snprintf(list, sizeof(list), "%s%s%s", value, others && *others ? ":" : "", others ? others : "") >= sizeof(list))
		return err_set(err, "%s is too long", name);
	return setenv(name, list, 1) ? err_set(err, "cannot set %s: %s", name, strerror(errno)) : 0;
}

static int preload(struct err *err)
{
	static char shim[PATH_MAX];

	return run_find_beside(places, SHIM_NAME, shim, err) || run_put_first("LD_PRELOAD", shim, err) ? -1 : 0;
}

/* ---- the subcommand ---------------------------------------------------------------------------------------------------- */

static const struct argp_option rows[] = {
	{ "log", 'l', "FILE", 0, "append the library's messages to FILE (GUESTWARD_LOG)", 0 },
	{ "trace", 't', "LIST", 0, "trace points to write there, see guestward(1) (GUESTWARD_TRACE)", 0 },
	{ "cpuid", 'c', "WAY", 0, "how the program's own CPUID instructions are answered: auto, fault, patch or off (GUESTWARD_CPUID)", 0 },
	{ 0 }
};

static bool is_way(const char *text)
{
	static const char *const ways[] = { "auto", "fault", "patch", "off" };

	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
		if (!strcmp(text, ways[i]))
			return true;
	return false;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct run_options *o = state->input;

	switch (key) {
	case 'l':
		o->log = arg;
		return 0;
	case 't':
		o->trace = arg;
		return 0;
	case 'c':
		if (!is_way(arg))
			argp_error(state, "--cpuid is auto, fault, patch or off, not '%s'", arg);
		o->cpuid = arg;
		return 0;
	case ARGP_KEY_ARG:
		/* The program's own options are not ours. */
		o->program = state->argv + state->next - 1;
		state->next = state->argc;
		return 0;
	case ARGP_KEY_END:
		if (!o->program)
			argp_error(state, "which program? For example: guestward run -- qemu-system-x86_64 -accel kvm");
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

/* The library reads these in every process; a mistake is said here, once. */
static int prepare_environment(const struct run_options *o, struct err *err)
{
	static char full[PATH_MAX];
	int fd;

	/* guestward dump, watch and monitors find it. */
	if (setenv("GUESTWARD_CONTROL", "1", 0))
		return err_set(err, "cannot set GUESTWARD_CONTROL: %s", strerror(errno));
	if (o->cpuid && setenv("GUESTWARD_CPUID", o->cpuid, 1))
		return err_set(err, "cannot set GUESTWARD_CPUID: %s", strerror(errno));
	if (o->trace && setenv("GUESTWARD_TRACE", o->trace, 1))
		return err_set(err, "cannot set GUESTWARD_TRACE: %s", strerror(errno));
	if (!o->log)
		return 0;
	fd = open(o->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	if (fd < 0)
		return err_set(err, "cannot write '%s': %s", o->log, strerror(errno));
	close(fd);
	/* Programs change their directory. */
	if (!realpath(o->log, full) || setenv("GUESTWARD_LOG", full, 1))
		return err_set(err, "cannot set GUESTWARD_LOG: %s", strerror(errno));
	return 0;
}

int run_main(int argc, char **argv)
{
	static const struct argp argp = {
		.options = rows, .parser = parse, .args_doc = "[--] PROGRAM [ARGUMENT...]",
		.doc = "Run a program that uses /dev/kvm, on Guestward.",
	};
	struct run_options o = { 0 };
	static char path[PATH_MAX];
	struct err err;

	argp_err_exit_status = STATUS_USAGE;
	argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &o);
	if (run_find_program(o.program[0], path, sizeof(path), &err) || run_check_program(path, &err) || prepare_environment(&o, &err) ||
	    preload(&err)) {
		fprintf(stderr, "guestward run: %s\n", err.text);
		return STATUS_FAILED;
	}
	execv(path, o.program);
	fprintf(stderr, "guestward run: cannot run '%s': %s\n", path, strerror(errno));
	return STATUS_FAILED;
}
