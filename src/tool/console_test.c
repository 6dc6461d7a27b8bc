/* SPDX-License-Identifier: MIT */
/*
 * The console on a pseudo-terminal and on pipes. A child process runs it; this process is the user: types, sends signals,
 * hangs up, and looks whether the terminal is as it was. What the guest's UART got comes back through a pipe.
 */
#include "test_rows.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "console.h"
#include "machine.h"

static struct machine machine;
static struct console console;
static struct serial serial;

static void no_irq(void *m, unsigned gsi, int level)
{
	(void)m;
	(void)gsi;
	(void)level;
}

enum initrd { FOREIGN, OURS_WAITS, OURS_LISTENS };

/* The child: a machine without a VM; @ready is closed when the console is up, @report gets what was received. */
static void child(int ready, int report, enum initrd initrd)
{
	static atomic_bool wanted;

	struct irq_line irq = { no_irq, NULL, 4 };
	const struct rlimit no_core = { 0, 0 };
	uint8_t v, fifo[SERIAL_FIFO];
	struct err err;
	size_t n = 0;

	setrlimit(RLIMIT_CORE, &no_core);
	/* Sanitizers take fault signals; here the default is what counts. */
	signal(SIGSEGV, SIG_DFL);
	if (machine_create(&machine, &backend_kvm, RAM_MIN, false, &err) < 0 || console_open(&console, &machine, &err) < 0)
		_exit(99);
	atomic_store(&wanted, initrd == OURS_LISTENS);
	if (initrd)
		console.input_wanted = &wanted;
	serial_init(&serial, &irq, console_send, &console);
	v = 1;
	serial_ops.write(&serial, 2, &v, 1);
	serial_ops.write(&serial, 1, &v, 1);
	v = 0x0b;
	serial_ops.write(&serial, 4, &v, 1);
	v = '>';
	serial_ops.write(&serial, 0, &v, 1);
	close(ready);
	alarm(20);
	console_run(&console, &serial);
	console_close(&console);
	for (;;) {
		serial_ops.read(&serial, 5, &v, 1);
		if (!(v & 1))
			break;
		serial_ops.read(&serial, 0, &fifo[n++], 1);
	}
	if (write(report, fifo, n) != (ssize_t)n)
		_exit(98);
	_exit(atomic_load(&machine.stopped));
}

struct row {
	const char *name;
	bool terminal;
	const char *typed;
	int signal;		/* sent after typing; 0 none */
	bool hang_up, close_input;
	const char *received;
	int exit_code;		/* enum stop_reason, or */
	int killed_by;
	enum initrd initrd;
};

static const struct row rows[] = {
	{ "Ctrl-A x ends it and gives the terminal back", true, "abc\1x", .received = "abc", .exit_code = STOP_QUIT },
	{ "Ctrl-A twice sends one", true, "a\1\1b\1x", .received = "a\1b", .exit_code = STOP_QUIT },
	{ "Ctrl-A with another key sends nothing", true, "a\1qb\1x", .received = "ab", .exit_code = STOP_QUIT },
	{ "Ctrl-C and Ctrl-Z go to the guest", true, "\3\32\1x", .received = "\3\32", .exit_code = STOP_QUIT },
	{ "SIGTERM ends it and gives the terminal back", true, "z", SIGTERM, .received = "z", .exit_code = STOP_SIGNAL },
	{ "SIGINT ends it and gives the terminal back", true, "", SIGINT, .received = "", .exit_code = STOP_SIGNAL },
	{ "a crash gives the terminal back", true, "", SIGSEGV, .received = "", .killed_by = SIGSEGV },
	{ "an abort gives the terminal back", true, "", SIGABRT, .received = "", .killed_by = SIGABRT },
	{ "a hang-up ends it", true, "", .hang_up = true, .received = "", .exit_code = STOP_SIGNAL },
	{ "a pipe passes every byte", false, "a\1x\3b", SIGTERM, .received = "a\1x\3b", .exit_code = STOP_SIGNAL },
	{ "the end of a pipe does not end it", false, "bye", SIGTERM, .close_input = true, .received = "bye",
	  .exit_code = STOP_SIGNAL },
	{ "the end of a pipe is told to our own initrd", false, "bye\n", SIGTERM, .close_input = true, .received = "bye\n\4",
	  .exit_code = STOP_SIGNAL, .initrd = OURS_LISTENS },
	{ "the end within a line is told twice", false, "bye", SIGTERM, .close_input = true, .received = "bye\4\4",
	  .exit_code = STOP_SIGNAL, .initrd = OURS_LISTENS },
	{ "input waits until our own initrd listens", false, "bye", SIGTERM, .received = "", .exit_code = STOP_SIGNAL,
	  .initrd = OURS_WAITS },
	{ "SIGINT ends it on a pipe", false, "", SIGINT, .received = "", .exit_code = STOP_SIGNAL },
};

static void until_raw(int master, bool raw)
{
	struct termios t;
	unsigned i;

	for (i = 0; i < 1000; i++) {
		assert_int_equal(tcgetattr(master, &t), 0);
		if (raw == !(t.c_lflag & (ICANON | ECHO | ISIG)))
			return;
		usleep(5000);
	}
	fail_msg("the terminal is%s raw", raw ? " not" : "");
}

static void read_all(int fd, char *to, size_t size)
{
	size_t n = 0;
	ssize_t got;

	while (n < size - 1 && (got = read(fd, to + n, size - 1 - n)) > 0)
		n += (size_t)got;
	to[n] = 0;
}

static void check_row(void **state)
{
	const struct row *row = *state;
	int master = -1, slave = -1, input[2] = { -1, -1 }, ready[2], report[2], out[2], status;
	struct termios before, after;
	char received[64], byte;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	assert_int_equal(pipe(report), 0);
	assert_int_equal(pipe(out), 0);
	if (row->terminal)
		assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	else
		assert_int_equal(pipe(input), 0);
	if (row->terminal)
		assert_int_equal(tcgetattr(master, &before), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		setsid();
		if (row->terminal)
			ioctl(slave, TIOCSCTTY, 0);
		dup2(row->terminal ? slave : input[0], STDIN_FILENO);
		dup2(out[1], STDOUT_FILENO);
		/* Only its own ends, or hang-ups and ends of input would not be seen. */
		if (master >= 0)
			close(master);
		if (slave > 2)
			close(slave);
		if (input[1] >= 0)
			close(input[1]);
		child(ready[1], report[1], row->initrd);
	}
	close(ready[1]);
	close(report[1]);
	close(out[1]);
	assert_int_equal(read(ready[0], &byte, 1), 0);
	if (row->terminal)
		until_raw(master, true);
	assert_int_equal(write(row->terminal ? master : input[1], row->typed, strlen(row->typed)), strlen(row->typed));
	if (row->close_input)
		close(input[1]);
	/* Long enough to be read, and to see that nothing ends it which should not. */
	usleep(60000);
	if (row->signal)
		kill(pid, row->signal);
	if (row->hang_up) {
		close(slave);
		close(master);
		master = slave = -1;
	}
	read_all(report[0], received, sizeof(received));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (row->killed_by) {
		assert_true(WIFSIGNALED(status));
		assert_int_equal(WTERMSIG(status), row->killed_by);
	} else {
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), row->exit_code);
	}
	assert_string_equal(received, row->received);
	/* What the guest sent came out, once. */
	read_all(out[0], received, sizeof(received));
	assert_string_equal(received, ">");
	if (master >= 0) {
		until_raw(master, false);
		assert_int_equal(tcgetattr(master, &after), 0);
		assert_int_equal(after.c_lflag, before.c_lflag);
		assert_int_equal(after.c_iflag, before.c_iflag);
		assert_int_equal(after.c_oflag, before.c_oflag);
		close(master);
		close(slave);
	}
	close(ready[0]);
	close(report[0]);
	close(out[0]);
	if (!row->terminal) {
		close(input[0]);
		if (!row->close_input)
			close(input[1]);
	}
}

/* A reader that is gone, or does not read, must not hold the machine. */
static void output_that_blocks(void **state)
{
	struct machine *m = &machine;
	int pipes[2], saved = dup(STDOUT_FILENO), i;
	static const uint8_t bytes[4096];
	struct err err;
	pid_t pid;
	int status;

	(void)state;
	assert_int_equal(pipe(pipes), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		dup2(pipes[1], STDOUT_FILENO);
		alarm(20);
		if (machine_create(m, &backend_kvm, RAM_MIN, false, &err) < 0 || console_open(&console, m, &err) < 0)
			_exit(99);
		machine_stop(m, STOP_QUIT, 0, "stopped");
		for (i = 0; i < 100; i++)
			console_send(&console, bytes, sizeof(bytes));
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	close(pipes[0]);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		dup2(pipes[1], STDOUT_FILENO);
		if (machine_create(m, &backend_kvm, RAM_MIN, false, &err) < 0 || console_open(&console, m, &err) < 0)
			_exit(99);
		console_send(&console, bytes, 1);
		_exit(atomic_load(&m->stopped) == STOP_SIGNAL && m->stop_detail == SIGPIPE ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	close(pipes[1]);
	close(saved);
}

int main(void)
{
	static struct tests tests;
	size_t i;

	for (i = 0; i < N_OF(rows); i++)
		tests_add(&tests, rows[i].name, check_row, &rows[i]);
	tests_add(&tests, "output nobody reads holds nothing up", output_that_blocks, NULL);
	return tests_run("console", &tests);
}
