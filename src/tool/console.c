/* SPDX-License-Identifier: MIT */
/* See console.h. */
#include "console.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#define CTRL_A 0x01u
#define CTRL_D 0x04u
#define RETRY_MS 10

/* For the crash handler, which gets no argument. Written before it is installed. */
static struct termios saved_terminal;

static const int ending_signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
static const int crash_signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };

/* Gives the terminal back, then lets the signal do what it would have done: SA_RESETHAND has put its default back. */
static void on_crash(int sig)
{
	tcsetattr(STDIN_FILENO, TCSANOW, &saved_terminal);
	raise(sig);
}

int console_open(struct console *c, struct machine *machine, struct err *err)
{
	sigset_t set;
	size_t i;

	*c = (struct console){ .machine = machine, .signal_fd = -1, .last = '\n' };
	sigemptyset(&set);
	for (i = 0; i < sizeof(ending_signals) / sizeof(ending_signals[0]); i++)
		sigaddset(&set, ending_signals[i]);
	sigaddset(&set, SIGCONT);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	c->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (c->signal_fd < 0)
		return err_set(err, "cannot create a signalfd: %s", strerror(errno));
	/*
	 * Installed before the engine opens: it takes over some of these signals for faults of its own making and passes
	 * on the rest. Only while there is a terminal to give back.
	 */
	if (isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &saved_terminal) == 0) {
		struct sigaction action = { .sa_handler = on_crash, .sa_flags = (int)SA_RESETHAND | SA_NODEFER };

		for (i = 0; i < sizeof(crash_signals) / sizeof(crash_signals[0]); i++)
			sigaction(crash_signals[i], &action, NULL);
	}
	return 0;
}

static void make_raw(struct console *c)
{
	struct termios t;

	/* A background job must not touch the terminal: it would be stopped for it. */
	if (!isatty(STDIN_FILENO) || tcgetpgrp(STDIN_FILENO) != getpgrp() || tcgetattr(STDIN_FILENO, &t) < 0)
		return;
	if (!c->raw)
		saved_terminal = t;
	cfmakeraw(&t);
	if (tcsetattr(STDIN_FILENO, TCSANOW, &t) == 0)
		c->raw = true;
}

void console_close(struct console *c)
{
	if (c->raw)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &saved_terminal);
	c->raw = false;
	if (c->signal_fd >= 0)
		close(c->signal_fd);
	c->signal_fd = -1;
}

void console_send(void *opaque, const uint8_t *data, size_t len)
{
	struct console *c = opaque;
	struct pollfd fds[2] = { { .fd = STDOUT_FILENO, .events = POLLOUT }, { .fd = c->machine->stop_fd, .events = POLLIN } };

	while (len && atomic_load(&c->machine->stopped) == STOP_NONE) {
		ssize_t n;

		/* Wait here and not in write: a reader that has stopped reading must not keep the machine from ending. */
		if (poll(fds, 2, -1) < 0 || !fds[0].revents)
			continue;
		n = write(STDOUT_FILENO, data, len);
		if (n > 0) {
			data += n;
			len -= (size_t)n;
		} else if (n < 0 && errno != EINTR && errno != EAGAIN) {
			machine_stop(c->machine, STOP_SIGNAL, SIGPIPE, "cannot write the guest's output: %s", strerror(errno));
		}
	}
}

static void drop_input(struct console *c, size_t n)
{
	memmove(c->pending, c->pending + n, c->n_pending - n);
	c->n_pending -= n;
}

static void take_byte(struct console *c, uint8_t byte)
{
	if (c->raw && c->escape) {
		c->escape = false;
		if (byte == 'x' || byte == 'X') {
			machine_stop(c->machine, STOP_QUIT, 0, "ended by Ctrl-A x");
			return;
		}
		if (byte != CTRL_A)
			return;
	} else if (c->raw && byte == CTRL_A) {
		c->escape = true;
		return;
	}
	/* Full only on a terminal (a pipe is not read until the guest took all): typed ahead too far. */
	if (c->n_pending < sizeof(c->pending))
		c->pending[c->n_pending++] = byte;
}

static void read_input(struct console *c)
{
	uint8_t buffer[1024];
	ssize_t i, n = read(STDIN_FILENO, buffer, sizeof(buffer));

	if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN)) {
		c->at_end = true;
		/* In a guest's tty Ctrl-D is the end of input; in the middle of a line the first only ends the line. */
		if (c->input_wanted && !c->raw) {
			if (c->last != '\n')
				take_byte(c, CTRL_D);
			take_byte(c, CTRL_D);
		}
		/* A terminal that is gone ends the machine; the end of a pipe or file does not. */
		if (c->raw)
			machine_stop(c->machine, STOP_SIGNAL, SIGHUP, "the terminal is gone");
	}
	for (i = 0; i < n; i++)
		take_byte(c, buffer[i]);
	if (n > 0)
		c->last = buffer[n - 1];
}

static void read_signal(struct console *c)
{
	struct signalfd_siginfo info;

	while (read(c->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo == SIGCONT)
			make_raw(c);
		else
			machine_stop(c->machine, STOP_SIGNAL, (int)info.ssi_signo, "ended by signal %u", info.ssi_signo);
	}
}

void console_run(struct console *c, struct serial *serial)
{
	struct machine *machine = c->machine;

	make_raw(c);
	while (atomic_load(&machine->stopped) == STOP_NONE) {
		bool want_input = !c->at_end && (c->raw || !c->n_pending);
		struct pollfd fds[3] = {
			{ .fd = machine->stop_fd, .events = POLLIN },
			{ .fd = c->signal_fd, .events = POLLIN },
			{ .fd = want_input ? STDIN_FILENO : -1, .events = POLLIN },
		};

		if (poll(fds, 3, c->n_pending ? RETRY_MS : -1) < 0 && errno != EINTR)
			machine_stop(machine, STOP_HOST_ERROR, 0, "poll failed: %s", strerror(errno));
		if (fds[1].revents)
			read_signal(c);
		if (fds[2].revents)
			read_input(c);
		if (c->n_pending && (!c->input_wanted || atomic_load(c->input_wanted)))
			drop_input(c, serial_receive(serial, c->pending, c->n_pending));
	}
}
