/* SPDX-License-Identifier: MIT */
/*
 * The guest's serial port on the user's terminal, and the signals that end the program. Runs on the main thread.
 *
 * On a terminal: raw mode while the guest runs, Ctrl-A x ends it, Ctrl-A Ctrl-A sends one Ctrl-A. With anything else as
 * standard input, bytes are passed on as they are, when the guest listens. The terminal is given back on every way out,
 * a crash of ours included.
 */
#ifndef TOOL_CONSOLE_H
#define TOOL_CONSOLE_H

#include <stdbool.h>

#include "machine.h"
#include "serial.h"

struct console {
	struct machine *machine;
	int signal_fd;
	bool raw;		/* terminal is in raw mode, to be undone */
	bool escape;		/* Ctrl-A was typed */
	bool at_end;		/* no more input */
	/* For our own initrd and input that is not a terminal; NULL: input goes at once, its end is not told. */
	const atomic_bool *input_wanted;
	uint8_t last;		/* byte read */
	uint8_t pending[4096];	/* typed, not yet taken by the guest */
	size_t n_pending;
};

/* Blocks the ending signals for this thread and all it creates: call before anything creates a thread. */
int console_open(struct console *c, struct machine *machine, struct err *err);

/* Switches the terminal to raw mode (if standard input is one), passes bytes until the machine has stopped. */
void console_run(struct console *c, struct serial *serial);

/* Gives the terminal back. Safe to call at any time, more than once. */
void console_close(struct console *c);

/* serial_init's send function; @opaque is the console. */
void console_send(void *opaque, const uint8_t *data, size_t len);

#endif
