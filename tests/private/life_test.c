/* SPDX-License-Identifier: MIT */
/* How long a guest_memfd lives: as long as anybody has it, in whatever process, in a message under way, or mapped. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "prig.h"

static struct prig P;

static int open_protected(void **state) { prig_open(&P, SW, 0); return 0; }
static int open_default(void **state) { prig_open(&P, 0, SHARED); return 0; }
static int close_it(void **state) { prig_close(&P); return 0; }

static void close_here(void)
{
	assert_int_equal(gw_close(P.gmem), 0);
	P.gmem = -1;
}

static uint8_t rd(uint32_t off)
{
	uint8_t value = 0;

	assert_int_equal(prig_read(&P, 0, off, &value), 0);
	return value;
}

static void expect_gone(bool is_private)
{
	uint8_t value = 0;

	prig_expect_fault(&P, 0, prig_read(&P, 0, 0, &value), PRIG_AT, is_private);
}

/* A child that has everything its parent had, until it is let go. */
static pid_t holder(int *let_go)
{
	int p[2];
	pid_t pid;
	char c;

	assert_int_equal(pipe(p), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		close(p[1]);
		_exit(read(p[0], &c, 1) != 0);
	}
	close(p[0]);
	*let_go = p[1];
	return pid;
}

static void end_holder(pid_t pid, int let_go)
{
	int status;

	close(let_go);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void another_process_keeps_it(void **state)
{
	int let_go;
	pid_t pid;

	assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, true), 0);
	assert_int_equal(prig_write(&P, 0, 0, 0x31), 0);
	pid = holder(&let_go);
	close_here();
	assert_int_equal(rd(0), 0x31);
	assert_int_equal(rd(PAGE), 0);
	end_holder(pid, let_go);
	expect_gone(true);
}

/* Its slot may go meanwhile, and the VM as well. */
static void the_vm_goes_first(void **state)
{
	int let_go;
	pid_t pid = holder(&let_go);

	close_here();
	assert_int_equal(prig_delete(&P, 1), 0);
	prig_close(&P);
	end_holder(pid, let_go);
	prig_open(&P, SW, 0);
}

static void send_fd(int socket, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 }, byte = 0;
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	assert_int_equal(sendmsg(socket, &m, 0), 1);
}

static int receive_fd(int socket)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 }, byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	int fd;

	assert_int_equal(recvmsg(socket, &m, 0), 1);
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
	return fd;
}

static void a_message_under_way_keeps_it(void **state)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(prig_convert(&P, PRIG_AT, PRIG_SIZE, true), 0);
	assert_int_equal(prig_write(&P, 0, 0, 0x32), 0);
	send_fd(pair[0], P.gmem);
	close_here();
	assert_int_equal(rd(0), 0x32);
	P.gmem = receive_fd(pair[1]);
	assert_int_equal(rd(0), 0x32);
	/* It is what it was. */
	assert_int_equal(gw_kind(P.gmem), GW_KIND_GMEM);
	assert_int_equal(prig_punch(P.gmem, 0, PAGE), 0);
	assert_int_equal(rd(0), 0);
	/* And with a message that nobody reads it goes. */
	send_fd(pair[0], P.gmem);
	close_here();
	assert_int_equal(rd(0), 0);
	close(pair[0]);
	close(pair[1]);
	expect_gone(true);
}

static void a_mapping_keeps_it(void **state)
{
	uint8_t *p;
	int err;

	p = gw_mmap(PRIG_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, P.gmem, 0, &err);
	assert_non_null(p);
	close_here();
	assert_int_equal(prig_write(&P, 0, 3, 0x33), 0);
	assert_int_equal(p[3], 0x33);
	p[4] = 0x34;
	assert_int_equal(rd(4), 0x34);
	munmap(p, PRIG_SIZE);
	expect_gone(false);
}

/* A shared file is the store itself: a child's punch and a child's mapping are the guest's, too. */
static void a_child_shares_and_punches(void **state)
{
	uint8_t *p;
	int err, status;
	pid_t pid;

	p = gw_mmap(PRIG_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, P.gmem, 0, &err);
	assert_non_null(p);
	assert_int_equal(prig_write(&P, 0, 5, 0x35), 0);
	assert_int_equal(prig_write(&P, 0, PAGE + 5, 0x36), 0);
	pid = fork();
	if (!pid) {
		int bad = p[5] != 0x35;

		p[6] = 0x37;
		bad |= fallocate(P.gmem, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, PAGE, PAGE) != 0;
		_exit(bad);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(rd(6), 0x37);
	assert_int_equal(rd(PAGE + 5), 0);
	munmap(p, PRIG_SIZE);
}

#define T(name, fn, open) { name, fn, open, close_it, NULL }

int main(void)
{
	static const struct CMUnitTest tests[] = {
		T("another process keeps the file", another_process_keeps_it, open_protected),
		T("the VM goes first", the_vm_goes_first, open_protected),
		T("a message under way keeps the file", a_message_under_way_keeps_it, open_protected),
		T("a mapping keeps the file", a_mapping_keeps_it, open_default),
		T("a child shares and punches", a_child_shares_and_punches, open_default),
	};

	return cmocka_run_group_tests_name("private memory: lifetimes", tests, NULL, NULL);
}
