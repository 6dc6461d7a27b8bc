/* SPDX-License-Identifier: MIT */
/*
 * The seal: a thread of the client that is not inside KVM_RUN cannot touch private bytes at the engine's own address, neither
 * itself nor by a system call's buffer, while the guest can. Everything the process has mapped is looked through for a marker that
 * only the guest has ever put together.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "prig.h"

#define MARK_LEN	16u
#define SCRAMBLE	0x5au
#define FILE_PAGES	37u		/* a size that no other mapping has */
#define FILE_AT		PRIG_AT

static struct prig P;

/* Never as such in the client's memory: byte i of the marker, scrambled. */
static uint8_t scrambled(unsigned i) { return (uint8_t)(0x13 + 11 * i); }

static int open_it(void **state)
{
	int fd;

	prig_open(&P, SW, 0);
	fd = prig_gmem(&P, FILE_PAGES * PAGE, 0);
	assert_int_equal(prig_delete(&P, 1), 0);
	assert_int_equal(prig_slot(&P, 1, FILE_AT, PRIG_SIZE, P.shared, fd, 0), 0);
	assert_int_equal(prig_convert(&P, FILE_AT, PRIG_SIZE, true), 0);
	return 0;
}

static int close_it(void **state)
{
	prig_close(&P);
	return 0;
}

static bool is_marker(const uint8_t *p)
{
	for (unsigned i = 0; i < MARK_LEN; i++)
		if ((p[i] ^ SCRAMBLE) != scrambled(i))
			return false;
	return true;
}

/* The guest puts it together: xor al,5a; mov es:[di],al; out 10,al; jmp */
static void guest_makes_marker(uint32_t at)
{
	static const uint8_t code[] = { 0x34, SCRAMBLE, 0x26, 0x88, 0x05, 0xe6, 0x10, 0xeb, 0xf7 };

	memcpy(P.ram + 0x6000, code, sizeof(code));
	for (unsigned i = 0; i < MARK_LEN; i++) {
		prig_set(&P, 0, 0x6000, at + i, scrambled(i));
		assert_int_equal(gw_ioctl(P.vcpu[0], KVM_RUN, 0), 0);
		assert_int_equal(P.run[0]->exit_reason, KVM_EXIT_IO);
		/* What it sent is in the client's window on purpose: not for long. */
		((uint8_t *)P.run[0])[P.run[0]->io.data_offset] = 0;
	}
}

struct range { uintptr_t start, end; char prot[5]; };

static unsigned read_maps(struct range *r, unsigned room)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];
	unsigned n = 0;

	assert_non_null(f);
	while (n < room && fgets(line, sizeof(line), f))
		n += sscanf(line, "%lx-%lx %4s", &r[n].start, &r[n].end, r[n].prot) == 3;
	fclose(f);
	return n;
}

/* The engine's mapping of the second file, by its size. */
static uint8_t *find_store(void)
{
	static struct range r[4096];
	unsigned n = read_maps(r, sizeof(r) / sizeof(r[0]));
	uint8_t *found = NULL;

	for (unsigned i = 0; i < n; i++)
		if (r[i].end - r[i].start == FILE_PAGES * PAGE)
			found = (uint8_t *)r[i].start;
	return found;
}

/* By a system call's buffer: nothing of ours is touched by this thread itself, nor by a sanitizer's wrapper. */
static bool kernel_can_read(int sink, const uint8_t *at)
{
	return syscall(SYS_pwrite64, sink, at, PAGE, 0) == PAGE;
}

/* Pages where the marker is, of all that this thread can read. */
static unsigned scan(void)
{
	static struct range r[4096];
	static uint8_t page[2 * PAGE];
	unsigned n = read_maps(r, sizeof(r) / sizeof(r[0])), found = 0;
	int sink = memfd_create("sink", MFD_CLOEXEC);

	for (unsigned i = 0; i < n; i++)
		for (uintptr_t at = r[i].start; r[i].prot[0] == 'r' && r[i].end - r[i].start <= 64u << 20 && at < r[i].end; at += PAGE) {
			if (at - (uintptr_t)page < sizeof(page) || !kernel_can_read(sink, (const uint8_t *)at))
				continue;
			assert_int_equal(pread(sink, page, PAGE, 0), PAGE);
			for (unsigned k = 0; k + MARK_LEN <= PAGE; k++)
				found += is_marker(page + k);
			memset(page, 0, PAGE);
		}
	close(sink);
	return found;
}

static sigjmp_buf landing;
static int how;

static void land(int sig, siginfo_t *info, void *ctx)
{
	how = info->si_code;
	siglongjmp(landing, 1);
}

/* The si_code of the fault, 0: none. */
static int touch(volatile uint8_t *at, bool write)
{
	struct sigaction sa = { .sa_sigaction = land, .sa_flags = SA_SIGINFO }, was;

	/* cmocka and the engine have the signal at other times. */
	sigaction(SIGSEGV, &sa, &was);
	how = 0;
	if (sigsetjmp(landing, 1) == 0) {
		if (write)
			*at = 1;
		else
			(void)*at;
	}
	sigaction(SIGSEGV, &was, NULL);
	return how;
}

static bool is_sealed_here(void)
{
	/* A CPU without keys, and no stand-in asked for. */
	return touch(find_store(), false) != 0;
}

static void a_client_thread_cannot_touch_them(void **state)
{
	const char *wish = getenv("GUESTWARD_SEAL");
	int want = wish && !strcmp(wish, "pages") ? SEGV_ACCERR : SEGV_PKUERR, sink = memfd_create("sink", MFD_CLOEXEC);
	uint8_t *store, value = 0;

	store = find_store();
	assert_non_null(store);
	guest_makes_marker(0x40);
	if (!is_sealed_here()) {
		print_message("no protection keys here: unsealed\n");
		skip();
	}
	assert_int_equal(touch(store + 0x40, false), want);
	assert_int_equal(touch(store + 0x40, true), want);
	assert_false(kernel_can_read(sink, store));
	/* The guest can, and what it had is what it has. */
	assert_int_equal(prig_read(&P, 0, 0x40, &value), 0);
	assert_int_equal(value ^ SCRAMBLE, scrambled(0));
	assert_int_equal(touch(store + 0x40, false), want);
	close(sink);
}

static void *run_thread(void *arg)
{
	return (void *)(intptr_t)gw_ioctl(P.vcpu[0], KVM_RUN, 0);
}

/* The first store of the process comes while a vCPU is inside: it must learn of it. First of all tests, therefore. */
static void a_running_vcpu_learns_of_the_first_store(void **state)
{
	/* mov al,[500]; test al,al; jz; mov al,es:[di]; out 10,al */
	static const uint8_t code[] = { 0xa0, 0x00, 0x05, 0x84, 0xc0, 0x74, 0xf9, 0x26, 0x8a, 0x05, 0xe6, 0x10 };
	pthread_t t;
	void *ret;
	int fd;

	prig_open(&P, 0, SHARED);
	memcpy(P.ram + 0x6000, code, sizeof(code));
	prig_set(&P, 0, 0x6000, 0, 0);
	assert_int_equal(pthread_create(&t, NULL, run_thread, NULL), 0);
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	assert_int_equal(prig_delete(&P, 1), 0);
	fd = prig_gmem(&P, PRIG_SIZE, GUEST_MEMFD_FLAG_MMAP);
	assert_int_equal(prig_slot(&P, 1, PRIG_AT, PRIG_SIZE, P.shared, fd, 0), 0);
	memset(P.shared, 0x55, PAGE);
	__atomic_store_n(P.ram + PRIG_FLAG, 1, __ATOMIC_SEQ_CST);
	pthread_join(t, &ret);
	assert_int_equal((intptr_t)ret, 0);
	assert_int_equal(P.run[0]->exit_reason, KVM_EXIT_IO);
	assert_int_equal(((uint8_t *)P.run[0])[P.run[0]->io.data_offset], 0);
	gw_close(fd);
	prig_close(&P);
}

static void *other_thread(void *arg)
{
	return (void *)(intptr_t)touch(find_store(), false);
}

static void nor_can_another_that_began_later(void **state)
{
	pthread_t t;
	void *ret;

	if (!is_sealed_here())
		skip();
	assert_int_equal(pthread_create(&t, NULL, other_thread, NULL), 0);
	pthread_join(t, &ret);
	assert_int_not_equal((intptr_t)ret, 0);
}

static void nothing_mapped_shows_the_marker(void **state)
{
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
	/* Shadows of everything, by the gigabyte. */
	skip();
#endif
	if (!is_sealed_here())
		skip();
	/* In a shared page it is found: the scan works. */
	assert_int_equal(prig_convert(&P, FILE_AT, PAGE, false), 0);
	guest_makes_marker(0x40);
	assert_int_equal(scan(), 1);
	memset(P.shared, 0, PAGE);
	assert_int_equal(prig_convert(&P, FILE_AT, PAGE, true), 0);
	guest_makes_marker(0x40);
	assert_int_equal(scan(), 0);
}

/* Whatever else the engine does with private bytes opens the seal for itself. */
static void what_needs_them_has_them(void **state)
{
	static const uint8_t code[PAGE] = { 0xb0, 0x42, 0xe6, 0x10 };	/* mov al,42; out 10,al */
	struct kvm_pre_fault_memory f = { .gpa = FILE_AT, .size = PRIG_SIZE };
	struct gw_populate p = { .gpa = FILE_AT, .size = PAGE, .source = (uintptr_t)code };

	assert_int_equal(pioctl(P.vm, GW_POPULATE, &p), 0);
	assert_int_equal(pioctl(P.vcpu[0], KVM_PRE_FAULT_MEMORY, &f), 0);
	prig_set(&P, 0, FILE_AT, 0, 0);
	assert_int_equal(gw_ioctl(P.vcpu[0], KVM_RUN, 0), 0);
	assert_int_equal(P.run[0]->exit_reason, KVM_EXIT_IO);
	assert_int_equal(((uint8_t *)P.run[0])[P.run[0]->io.data_offset], 0x42);
}

#define T(name, fn) { name, fn, open_it, close_it, NULL }

int main(void)
{
	static const struct CMUnitTest tests[] = {
		{ "a vCPU that runs learns of the first store", a_running_vcpu_learns_of_the_first_store, NULL, NULL, NULL },
		T("what the engine needs it has", what_needs_them_has_them),
		T("a client's thread cannot touch private bytes", a_client_thread_cannot_touch_them),
		T("nor can one that began later", nor_can_another_that_began_later),
		T("nothing mapped shows the marker", nothing_mapped_shows_the_marker),
	};
	return cmocka_run_group_tests_name("private memory: seal", tests, NULL, NULL);
}
