/* SPDX-License-Identifier: MIT */
/* What a kernel finds: memory map, boot_params, PVH info, initrd place, entry registers; CPUID; sizes on the command line. */
#include "test_rows.h"

#include <sys/wait.h>
#include <unistd.h>

#include "boot.h"
#include "bytes.h"
#include "cpuid.h"
#include "loader.h"

static struct kernel kernel_at(enum kernel_protocol protocol, uint64_t end)
{
	return (struct kernel){
		.protocol = protocol, .entry = 0x1000200, .start = 0x1000000, .end = end, .initrd_max = 0x7fffffff, .cmdline_max = 2047,
	};
}

static const struct place {
	const char *name;
	uint64_t memory, kernel_end, initrd_max;
	size_t size;
	uint64_t at;		/* 0: refused */
} places[] = {
	{ "an initrd goes to the end of memory", 64 << 20, 0x2000000, 0x7fffffff, 5000, (64 << 20) - 0x2000 },
	{ "an initrd stays below the kernel's limit", 64 << 20, 0x2000000, 0x2ffffff, 4096, 0x2fff000 },
	{ "an initrd stays below the device hole", 5ull << 30, 0x2000000, 0xffffffff, 4096, 0xd0000000 - 0x1000 },
	{ "an initrd may touch the kernel's end", 64 << 20, 0x3ff0000, 0x7fffffff, 0x10000, 0x3ff0000 },
	{ "an initrd may not overlap the kernel", 64 << 20, 0x3ff0001, 0x7fffffff, 0x10000, 0 },
	{ "an initrd larger than memory is refused", 16 << 20, 0x200000, 0x7fffffff, 20 << 20, 0 },
	{ "a limit below the kernel refuses every initrd", 64 << 20, 0x2000000, 0x1000, 1, 0 },
};

static void initrd_place(void **state)
{
	const struct place *row = *state;
	struct kernel kernel = kernel_at(PROTOCOL_LINUX64, row->kernel_end);
	struct blob initrd = { .data = calloc(1, row->size), .size = row->size };
	struct loader l = { .kernel = &kernel };
	struct err err;
	struct ram ram;
	int ret;

	assert_non_null(initrd.data);
	initrd.data[0] = 0x5a;
	kernel.initrd_max = row->initrd_max;
	assert_int_equal(ram_create(&ram, row->memory, &err), 0);
	l.ram = &ram;
	ret = loader_place_initrd(&l, &initrd, &err);
	if (row->at) {
		assert_int_equal(ret, 0);
		assert_int_equal(l.initrd, row->at);
		assert_int_equal(l.initrd_size, row->size);
		assert_int_equal(*(uint8_t *)ram_at(&ram, row->at, 1), 0x5a);
	} else {
		assert_int_equal(ret, -1);
		assert_says(err.text, "--memory");
	}
	ram_destroy(&ram);
	free(initrd.data);
}

/* The map covers what it should, in order and without overlap. @entry(i) gives {start, size, type}. */
static void check_map(const uint8_t *table, unsigned n, unsigned stride, uint64_t memory)
{
	uint64_t end = 0, total = 0;
	unsigned i;

	for (i = 0; i < n; i++) {
		const uint8_t *e = table + i * stride;

		assert_true(get64(e) >= end);
		end = get64(e) + get64(e + 8);
		if (get32(e + 16) == 1)
			total += get64(e + 8);
	}
	/* All memory but the 384 KiB and the page below 1 MiB that a PC keeps. */
	assert_int_equal(total, memory - (0x100000 - ADDR_EBDA));
}

static void boot_params(void **state)
{
	static const uint64_t sizes[] = { 16ull << 20, 512ull << 20, 6ull << 30 };
	size_t i;

	(void)state;
	for (i = 0; i < N_OF(sizes); i++) {
		struct kernel kernel = kernel_at(PROTOCOL_LINUX64, 0x2000000);
		struct loader l = { .kernel = &kernel, .initrd = 0x3000000, .initrd_size = 77, .rsdp = ADDR_ACPI };
		const uint8_t *bp;
		struct err err;
		struct ram ram;

		assert_int_equal(ram_create(&ram, sizes[i], &err), 0);
		l.ram = &ram;
		kernel.header[0x202 - SETUP_HEADER] = 'H';
		assert_int_equal(loader_write(&l, "console=ttyS0", &err), 0);
		bp = ram_at(&ram, ADDR_BOOT_PARAMS, 4096);
		assert_int_equal(get64(bp + 0x70), ADDR_ACPI);
		assert_int_equal(bp[0x202], 'H');
		assert_int_equal(bp[0x1ef], 0);
		assert_int_equal(get32(bp + 0x218), 0x3000000);
		assert_int_equal(get32(bp + 0x21c), 77);
		assert_string_equal(ram_at(&ram, get32(bp + 0x228), 1), "console=ttyS0");
		check_map(bp + 0x2d0, bp[0x1e8], 20, sizes[i]);
		/* Identity: the third entry of the second directory maps 1 GiB + 4 MiB. */
		assert_int_equal(get64(ram_at(&ram, ADDR_PAGE_TABLES + 0x3000 + 16, 8)), ((1ull << 30) + (4 << 20)) | 0x83);
		ram_destroy(&ram);
	}
}

static void pvh_info(void **state)
{
	struct kernel kernel = kernel_at(PROTOCOL_PVH, 0x2000000);
	struct loader l = { .kernel = &kernel, .initrd = 0x3000000, .initrd_size = 77, .rsdp = ADDR_ACPI };
	const uint8_t *info;
	struct err err;
	struct ram ram;

	(void)state;
	assert_int_equal(ram_create(&ram, 6ull << 30, &err), 0);
	l.ram = &ram;
	assert_int_equal(loader_write(&l, "x", &err), 0);
	info = ram_at(&ram, ADDR_PVH_INFO, 4096);
	assert_int_equal(get32(info), 0x336ec578);
	assert_int_equal(get32(info + 4), 1);
	assert_int_equal(get32(info + 12), 1);
	assert_int_equal(get64(ram_at(&ram, get64(info + 16), 8)), 0x3000000);
	assert_string_equal(ram_at(&ram, get64(info + 24), 2), "x");
	assert_int_equal(get64(info + 32), ADDR_ACPI);
	check_map(ram_at(&ram, get64(info + 40), 24), get32(info + 48), 24, 6ull << 30);
	ram_destroy(&ram);
}

static void long_cmdline(void **state)
{
	struct kernel kernel = kernel_at(PROTOCOL_LINUX64, 0x2000000);
	struct loader l = { .kernel = &kernel };
	char text[2049];
	struct err err;
	struct ram ram;

	(void)state;
	memset(text, 'a', sizeof(text));
	text[2048] = 0;
	assert_int_equal(ram_create(&ram, 64 << 20, &err), 0);
	l.ram = &ram;
	assert_int_equal(loader_write(&l, text, &err), -1);
	assert_says(err.text, "2048 bytes; this kernel takes 2047");
	assert_int_equal(loader_write(&l, text + 1, &err), 0);
	/* A header may claim any limit; the place in memory has its own. */
	kernel.cmdline_max = 0xffffffff;
	assert_int_equal(loader_write(&l, text, &err), 0);
	ram_destroy(&ram);
}

static void entry_state(void **state)
{
	struct kernel kernel = kernel_at(PROTOCOL_LINUX64, 0x2000000);
	struct kvm_regs regs;
	struct kvm_sregs sregs = { .apic_base = 0xfee00900 };

	(void)state;
	loader_entry_state(&kernel, &regs, &sregs);
	assert_int_equal(regs.rip, 0x1000200);
	assert_int_equal(regs.rsi, ADDR_BOOT_PARAMS);
	assert_int_equal(regs.rflags, 2);
	assert_int_equal(sregs.cr0 & 0x80000001, 0x80000001);
	assert_int_equal(sregs.efer, 0x500);
	assert_int_equal(sregs.cs.l, 1);
	assert_int_equal(sregs.cs.db, 0);
	assert_int_equal(sregs.cs.selector, 0x10);
	assert_int_equal(sregs.ss.selector, 0x18);
	assert_int_equal(sregs.apic_base, 0xfee00900);
	kernel.protocol = PROTOCOL_PVH;
	loader_entry_state(&kernel, &regs, &sregs);
	assert_int_equal(regs.rbx, ADDR_PVH_INFO);
	assert_int_equal(sregs.cr0 & 0x80000001, 1);
	assert_int_equal(sregs.efer, 0);
	assert_int_equal(sregs.cr4, 0);
	assert_int_equal(sregs.cs.db, 1);
	assert_int_equal(sregs.cs.l, 0);
}

static struct kvm_cpuid_entry2 *leaf(struct kvm_cpuid2 *c, uint32_t function, uint32_t index)
{
	uint32_t i;

	for (i = 0; i < c->nent; i++)
		if (c->entries[i].function == function && c->entries[i].index == index)
			return &c->entries[i];
	fail_msg("leaf %x.%u is missing", function, index);
	return NULL;
}

static void cpuid_topology(void **state)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + 16 * sizeof(c->entries[0]));

	(void)state;
	assert_non_null(c);
	c->nent = 4;
	c->entries[0] = (struct kvm_cpuid_entry2){ .function = 0, .eax = 0x16, .ebx = 0x756e6547 };
	c->entries[1] = (struct kvm_cpuid_entry2){ .function = 1, .ebx = 0xff020800, .ecx = 1u << 24 };
	c->entries[2] = (struct kvm_cpuid_entry2){ .function = 4, .index = 0, .eax = 0xfc004121 };
	c->entries[3] = (struct kvm_cpuid_entry2){ .function = 0xb, .index = 0, .eax = 1, .ebx = 2, .edx = 9 };
	cpuid_patch(c, 2, 3, 0);
	assert_int_equal(leaf(c, 1, 0)->ebx, 0x02040800);
	assert_int_equal(leaf(c, 1, 0)->edx & 1u << 28, 1u << 28);
	assert_int_equal(leaf(c, 1, 0)->ecx, 1u << 31);
	assert_int_equal(leaf(c, 4, 0)->eax >> 26, 3);
	assert_int_equal(leaf(c, 0xb, 0)->ebx, 1);
	assert_int_equal(leaf(c, 0xb, 0)->edx, 2);
	assert_int_equal(leaf(c, 0xb, 1)->eax, 2);
	assert_int_equal(leaf(c, 0xb, 1)->ebx, 3);
	assert_int_equal(leaf(c, 0xb, 1)->ecx, 0x201);
	assert_int_equal(leaf(c, 0xb, 2)->ecx, 2);
	assert_int_equal(c->nent, 6);
	free(c);
}

static const struct size_row {
	const char *name, *text;
	uint64_t size;
} sizes[] = {
	{ "a plain size is in MiB", "512", 512ull << 20 },
	{ "G is GiB", "2G", 2ull << 30 },
	{ "k is KiB", "65536k", 64ull << 20 },
	{ "zero is no size", "0", 0 },
	{ "an empty size is none", "", 0 },
	{ "a negative size is none", "-1", 0 },
	{ "a size with two suffixes is none", "1GB", 0 },
	{ "an unknown suffix is none", "1X", 0 },
	{ "a size that overflows is none", "99999999999999999999", 0 },
	{ "a size that overflows with its suffix is none", "18014398509481984K", 0 },
};

static void size_is(void **state)
{
	const struct size_row *row = *state;

	assert_int_equal(parse_size(row->text), row->size);
}

static const struct mistake {
	const char *name;
	const char *argv[5];
	const char *says;
} mistakes[] = {
	{ "no kernel is a mistake", { "boot" }, "no kernel" },
	{ "an unknown option is a mistake", { "boot", "--frobnicate" }, "unrecognized option" },
	{ "a word without an option is a mistake", { "boot", "-kx", "vmlinuz" }, "comes after --" },
	{ "too many CPUs are a mistake", { "boot", "-kx", "--cpus=65" }, "from 1 to 64" },
	{ "no CPU is a mistake", { "boot", "-kx", "--cpus=0" }, "from 1 to 64" },
	{ "too little memory is a mistake", { "boot", "-kx", "--memory=1" }, "between" },
	{ "memory that is no number is a mistake", { "boot", "-kx", "--memory=lots" }, "not a memory size" },
	{ "an unknown protocol is a mistake", { "boot", "-kx", "--protocol=multiboot" }, "does not know" },
	{ "an initrd and a command are a mistake", { "boot", "-kx", "-iy", "--", "true" }, "leave out --initrd" },
	{ "two command lines are a mistake", { "boot", "-kx", "-aq", "--cmdline=r" }, "leave out --append" },
};

static void mistake_is_told(void **state)
{
	const struct mistake *row = *state;
	struct boot_options options;
	static char text[4096];
	int pipes[2], status, argc = 0;
	ssize_t n;
	pid_t pid;

	while (argc < 5 && row->argv[argc])
		argc++;
	assert_int_equal(pipe(pipes), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		char *argv[6] = { NULL };
		int i;

		for (i = 0; i < argc; i++)
			argv[i] = strdup(row->argv[i]);
		dup2(pipes[1], STDERR_FILENO);
		boot_parse(&options, argc, argv);
		_exit(0);
	}
	close(pipes[1]);
	n = read(pipes[0], text, sizeof(text) - 1);
	text[n > 0 ? n : 0] = 0;
	close(pipes[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 2);
	assert_says(text, row->says);
}

int main(void)
{
	static struct tests tests;
	size_t i;

	for (i = 0; i < N_OF(places); i++)
		tests_add(&tests, places[i].name, initrd_place, &places[i]);
	tests_add(&tests, "boot_params have map, initrd, command line and ACPI", boot_params, NULL);
	tests_add(&tests, "hvm_start_info has map, initrd, command line and ACPI", pvh_info, NULL);
	tests_add(&tests, "a command line that is too long is refused", long_cmdline, NULL);
	tests_add(&tests, "entry registers follow the protocol", entry_state, NULL);
	tests_add(&tests, "CPUID tells each CPU its place", cpuid_topology, NULL);
	for (i = 0; i < N_OF(sizes); i++)
		tests_add(&tests, sizes[i].name, size_is, &sizes[i]);
	for (i = 0; i < N_OF(mistakes); i++)
		tests_add(&tests, mistakes[i].name, mistake_is_told, &mistakes[i]);
	return tests_run("loader", &tests);
}
