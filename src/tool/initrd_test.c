/* SPDX-License-Identifier: MIT */
/* The archive writer against golden bytes and the host's cpio; module records; quoting; the whole initrd. */
#include "test_rows.h"

#include <elf.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bytes.h"
#include "cpio.h"
#include "initrd.h"
#include "modules.h"

/* `printf hello` as file "etc/motd", inode 1, made with GNU cpio 2.13 -H newc and its inode, time and owner set to these. */
static const char golden_file[] =
	"070701"
	"00000001" "000081A4" "00000000" "00000000" "00000001" "00000000" "00000005" "00000000" "00000000" "00000000" "00000000"
	"00000009" "00000000"
	"etc/motd\0" "\0"
	"hello\0\0\0";

static void file_golden(void **state)
{
	struct cpio c = { .inode = 1 };

	(void)state;
	cpio_file(&c, "etc/motd", 0644, "hello", 5);
	assert_false(c.failed);
	assert_int_equal(c.out.size, sizeof(golden_file) - 1);
	assert_memory_equal(c.out.data, golden_file, c.out.size);
	blob_free(&c.out);
}

static void everything_is_aligned(void **state)
{
	char name[12] = "";
	struct cpio c = { .inode = 1 };
	unsigned i, size;

	(void)state;
	for (i = 1; i < 10; i++) {
		name[i - 1] = 'x';
		for (size = 0; size < 6; size++) {
			cpio_file(&c, name, 0600, "abcdef", size);
			assert_int_equal(c.out.size % 4, 0);
			assert_memory_equal(c.out.data + c.out.size - (size + 3) / 4 * 4, "abcdef", size);
		}
	}
	cpio_finish(&c);
	assert_int_equal(c.out.size % 512, 0);
	assert_false(c.failed);
	blob_free(&c.out);
}

/* Runs a host program on a file made of the blob; its output, or NULL if there is no such program. */
static char *run_on(const char *program, const char *arguments, const struct blob *blob)
{
	static char output[65536];
	char path[] = "/tmp/guestward-test-XXXXXX", command[256];
	int fd = mkstemp(path);
	FILE *pipe;
	size_t n;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, blob->data, blob->size), blob->size);
	close(fd);
	snprintf(command, sizeof(command), "command -v %s >/dev/null || exit 99; LC_ALL=C %s %s <%s 2>&1", program, program,
		 arguments, path);
	pipe = popen(command, "r");
	assert_non_null(pipe);
	n = fread(output, 1, sizeof(output) - 1, pipe);
	output[n] = 0;
	fd = pclose(pipe);
	unlink(path);
	return WEXITSTATUS(fd) == 99 ? NULL : output;
}

static void host_cpio_agrees(void **state)
{
	struct cpio c = { .inode = 1 };
	char *list;

	(void)state;
	cpio_directory(&c, "dev");
	cpio_char_device(&c, "dev/console", 0600, 5, 1);
	cpio_symlink(&c, "sh", "bin/busybox");
	cpio_file(&c, "odd name", 0755, "12345", 5);
	cpio_finish(&c);
	list = run_on("cpio", "-tv", &c.out);
	blob_free(&c.out);
	if (!list)
		skip();
	assert_says(list, "drwxr-xr-x");
	assert_says(list, "crw-------");
	assert_says(list, "  5,   1");
	assert_says(list, "sh -> bin/busybox");
	assert_says(list, "odd name");
	assert_says(list, "block");	/* its summary: nothing was left over or malformed */
	assert_null(strstr(list, "malformed"));
}

static void quoting(void **state)
{
	char *plain[] = { (char[]){ "echo" }, (char[]){ "a b" }, NULL };
	char *nasty[] = { (char[]){ "it's" }, (char[]){ "$(x) `y` \\ \"" }, (char[]){ "" }, NULL };
	struct blob out = { 0 };

	(void)state;
	assert_int_equal(shell_quote(&out, plain), 0);
	assert_int_equal(blob_append(&out, "", 1), 0);
	assert_string_equal((char *)out.data, "'echo' 'a b'\n");
	blob_free(&out);
	assert_int_equal(shell_quote(&out, nasty), 0);
	assert_int_equal(blob_append(&out, "", 1), 0);
	assert_string_equal((char *)out.data, "'it'\\''s' '$(x) `y` \\ \"' ''\n");
	blob_free(&out);
}

/* A module with the sections a linker leaves: nothing, names, .modinfo. */
static size_t make_module(uint8_t image[1024], const char *info, size_t info_size)
{
	static const char names[] = "\0.shstrtab\0.modinfo";
	Elf64_Ehdr h = {
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1 }, .e_shoff = 512, .e_shentsize = sizeof(Elf64_Shdr),
		.e_shnum = 3, .e_shstrndx = 1,
	};
	Elf64_Shdr s[3] = {
		{ .sh_type = SHT_NULL },
		{ .sh_name = 1, .sh_type = SHT_STRTAB, .sh_offset = 64, .sh_size = sizeof(names) },
		{ .sh_name = 11, .sh_type = SHT_PROGBITS, .sh_offset = 128, .sh_size = info_size },
	};

	memset(image, 0, 1024);
	memcpy(image, &h, sizeof(h));
	memcpy(image + 64, names, sizeof(names));
	memcpy(image + 128, info, info_size);
	memcpy(image + 512, s, sizeof(s));
	return 512 + sizeof(s);
}

static void module_records(void **state)
{
	static const char info[] = "license=GPL\0depends=virtio,virtio-ring\0name=x";
	uint8_t image[1024];
	size_t size = make_module(image, info, sizeof(info)), length;
	const char *depends = module_depends(image, size, &length);

	(void)state;
	assert_non_null(depends);
	assert_int_equal(length, strlen("virtio,virtio-ring"));
	assert_memory_equal(depends, "virtio,virtio-ring", length);
	/* Without a final 0 the record ends with its section. */
	size = make_module(image, "depends=ab", 10);
	depends = module_depends(image, size, &length);
	assert_int_equal(length, 2);
	size = make_module(image, "name=y", 7);
	assert_null(module_depends(image, size, &length));
}

static void damaged_modules(void **state)
{
	static const char info[] = "license=GPL\0depends=virtio,virtio-ring\0name=x";
	uint8_t image[1024], *copy;
	uint64_t seed = 7;
	size_t size = make_module(image, info, sizeof(info)), n, length;
	unsigned round;

	(void)state;
	for (n = 0; n <= size; n++) {
		copy = malloc(n ? n : 1);
		assert_non_null(copy);
		memcpy(copy, image, n);
		module_depends(copy, n, &length);
		free(copy);
	}
	for (round = 0; round < 20000; round++) {
		copy = malloc(size);
		assert_non_null(copy);
		memcpy(copy, image, size);
		copy[noise(&seed) % 64] = (uint8_t)noise(&seed);
		copy[512 + noise(&seed) % (size - 512)] = (uint8_t)noise(&seed);
		copy[512 + noise(&seed) % (size - 512)] = (uint8_t)noise(&seed);
		module_depends(copy, size, &length);
		free(copy);
	}
}

static void write_file(const char *path, const void *data, size_t size)
{
	FILE *f = fopen(path, "wb");

	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, size, f), size);
	fclose(f);
}

static void modules_in_order(void **state)
{
	static const char *const wanted[] = { "top", "built_in", NULL };
	char directory[] = "/tmp/guestward-modules-XXXXXX", path[128];
	static const struct { const char *file, *info; } files[] = {
		{ "top.ko", "depends=mid-one,not-there" }, { "mid-one.ko", "depends=base" }, { "base.ko", "depends=" },
		{ "unused.ko", "depends=top" },
	};
	struct modules modules = { .n = 0 };
	uint8_t image[1024];
	struct err err = { "" };
	size_t i, size;

	(void)state;
	assert_non_null(mkdtemp(directory));
	for (i = 0; i < N_OF(files); i++) {
		size = make_module(image, files[i].info, strlen(files[i].info) + 1);
		snprintf(path, sizeof(path), "%s/%s", directory, files[i].file);
		write_file(path, image, size);
	}
	if (modules_collect(&modules, directory, wanted, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(modules.n, 3);
	assert_string_equal(modules.list[0].name, "base");
	assert_string_equal(modules.list[1].name, "mid_one");
	assert_string_equal(modules.list[2].name, "top");
	modules_free(&modules);
	/* base now needs top: a circle. */
	size = make_module(image, "depends=top", 12);
	snprintf(path, sizeof(path), "%s/base.ko", directory);
	write_file(path, image, size);
	assert_int_equal(modules_collect(&modules, directory, wanted, &err), -1);
	assert_says(err.text, "depends on itself");
	modules_free(&modules);
	for (i = 0; i < N_OF(files); i++) {
		snprintf(path, sizeof(path), "%s/%s", directory, files[i].file);
		unlink(path);
	}
	rmdir(directory);
	assert_int_equal(modules_collect(&modules, directory, wanted, &err), -1);
	assert_says(err.text, "No such file");
}

static void whole_initrd(void **state)
{
	const char *files[] = { "/etc/hostname:deep/er/name" };
	char *command[] = { (char[]){ "true" }, NULL };
	struct initrd_plan plan = { .busybox = "/bin/busybox", .files = files, .n_files = 1, .command = command, .plain = true };
	struct err err = { "" };
	struct blob out;
	char *list;

	(void)state;
	if (access(plan.busybox, R_OK) < 0 || access("/etc/hostname", R_OK) < 0)
		skip();
	if (initrd_build(&out, &plan, &err) < 0)
		fail_msg("%s", err.text);
	list = run_on("cpio", "-t", &out);
	blob_free(&out);
	if (!list)
		skip();
	assert_says(list, "\ninit\n");
	assert_says(list, "bin/busybox");
	assert_says(list, "dev/console");
	assert_says(list, "deep/er\ndeep/er/name\n");
	assert_says(list, "etc/guestward/start");
}

static const struct refusal {
	const char *name, *busybox, *file, *error;
} refusals[] = {
	{ "a missing busybox is told", "/nonexistent/busybox", NULL, "cannot open busybox" },
	{ "a busybox that is no program is refused", "/etc/passwd", NULL, "busybox-static" },
	{ "a dynamic busybox is refused", "/proc/self/exe", NULL, "busybox-static" },
	{ "a missing file is told", "/bin/busybox", "/nonexistent/file:x", "cannot open file" },
	{ "a file without a place is refused", "/bin/busybox", "/etc/passwd:/", "not a usable path" },
	{ "a directory is no file", "/bin/busybox", "/tmp:x", "is a directory" },
};

static void refuses(void **state)
{
	const struct refusal *row = *state;
	struct initrd_plan plan = { .busybox = row->busybox, .files = &row->file, .n_files = row->file ? 1 : 0 };
	struct err err;
	struct blob out;

	if (row->file && access("/bin/busybox", R_OK) < 0)
		skip();
	assert_int_equal(initrd_build(&out, &plan, &err), -1);
	assert_says(err.text, row->error);
	assert_null(out.data);
}

int main(void)
{
	static struct tests tests;
	size_t i;

	tests_add(&tests, "a file is written byte for byte as GNU cpio does", file_golden, NULL);
	tests_add(&tests, "headers and data start at multiples of four", everything_is_aligned, NULL);
	tests_add(&tests, "the host's cpio reads the archive", host_cpio_agrees, NULL);
	tests_add(&tests, "arguments are quoted for sh", quoting, NULL);
	tests_add(&tests, "a module's dependencies are read", module_records, NULL);
	tests_add(&tests, "damaged modules are harmless", damaged_modules, NULL);
	tests_add(&tests, "modules come after what they need", modules_in_order, NULL);
	tests_add(&tests, "an initrd has all its parts", whole_initrd, NULL);
	for (i = 0; i < N_OF(refusals); i++)
		tests_add(&tests, refusals[i].name, refuses, &refusals[i]);
	return tests_run("initrd", &tests);
}
