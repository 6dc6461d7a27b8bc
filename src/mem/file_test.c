/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mem/mem.h"

#define PAGE	4096u

static uint8_t *map(size_t pages, int flags, int fd, off_t at)
{
	uint8_t *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags, fd, at);

	assert_true(p != MAP_FAILED);
	return p;
}

static void a_shared_file_is_found_and_shows_the_same_bytes(void **state)
{
	int fd = memfd_create("memory", MFD_CLOEXEC), found;
	uint64_t first, n, offset;
	uint8_t *p, *q;

	assert_int_equal(ftruncate(fd, 8 * PAGE), 0);
	p = map(4, MAP_SHARED, fd, 2 * PAGE);
	found = mem_file_of(p, 4 * PAGE, 3 * PAGE + 5, false, &first, &n, &offset);
	assert_true(found >= 0);
	assert_int_equal(first, 0);
	assert_int_equal(n, 4 * PAGE);
	assert_int_equal(offset, 2 * PAGE);
	q = map(4, MAP_SHARED, found, (off_t)offset);
	strcpy((char *)p + 3 * PAGE, "seen");
	assert_string_equal((char *)q + 3 * PAGE, "seen");
	munmap(q, 4 * PAGE);
	close(found);
	/* Read-only memory stays so. */
	found = mem_file_of(p, 4 * PAGE, 0, true, &first, &n, &offset);
	assert_true(found >= 0);
	assert_true(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, found, 0) == MAP_FAILED);
	assert_int_equal(errno, EACCES);
	close(found);
	munmap(p, 4 * PAGE);
	close(fd);
}

static void a_range_of_several_mappings_gives_the_piece_asked_for(void **state)
{
	int fd = memfd_create("memory", MFD_CLOEXEC), found;
	uint64_t first, n, offset;
	uint8_t *p;

	assert_int_equal(ftruncate(fd, 8 * PAGE), 0);
	p = map(4, MAP_SHARED, fd, 0);
	assert_true(mmap(p + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p + PAGE);
	found = mem_file_of(p, 3 * PAGE, 2 * PAGE, false, &first, &n, &offset);
	assert_true(found >= 0);
	assert_int_equal(first, 2 * PAGE);
	assert_int_equal(n, PAGE);
	assert_int_equal(offset, 2 * PAGE);
	close(found);
	assert_int_equal(mem_file_of(p, 3 * PAGE, PAGE, false, &first, &n, &offset), -EOPNOTSUPP);
	munmap(p, 4 * PAGE);
	close(fd);
}

static void what_nobody_else_could_map_is_refused(void **state)
{
	int fd = memfd_create("memory", MFD_CLOEXEC);
	uint64_t first, n, offset;
	uint8_t *p;

	p = map(1, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_int_equal(mem_file_of(p, PAGE, 0, false, &first, &n, &offset), -EOPNOTSUPP);
	munmap(p, PAGE);
	assert_int_equal(mem_file_of(p, PAGE, 0, false, &first, &n, &offset), -EOPNOTSUPP);
	/* Copy on write: what is stored there is not in the file. */
	assert_int_equal(ftruncate(fd, PAGE), 0);
	p = map(1, MAP_PRIVATE, fd, 0);
	assert_int_equal(mem_file_of(p, PAGE, 0, false, &first, &n, &offset), -EOPNOTSUPP);
	munmap(p, PAGE);
	/* A file that is not open any more. */
	p = map(1, MAP_SHARED, fd, 0);
	close(fd);
	assert_int_equal(mem_file_of(p, PAGE, 0, false, &first, &n, &offset), -EOPNOTSUPP);
	munmap(p, PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_shared_file_is_found_and_shows_the_same_bytes),
		cmocka_unit_test(a_range_of_several_mappings_gives_the_piece_asked_for),
		cmocka_unit_test(what_nobody_else_could_map_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
