/* SPDX-License-Identifier: MIT */
/* The UART as Linux's 8250 driver meets it: probing, sending, receiving, interrupts and loopback. */
#include "test_rows.h"

#include "serial.h"

static struct rig {
	struct serial serial;
	int level;
	uint8_t sent[64];
	size_t n_sent;
} rig;

static void set_level(void *machine, unsigned gsi, int level)
{
	(void)machine;
	assert_int_equal(gsi, 4);
	rig.level = level;
}

static void sent(void *opaque, const uint8_t *data, size_t len)
{
	(void)opaque;
	while (len--)
		rig.sent[rig.n_sent++ % sizeof(rig.sent)] = *data++;
}

static uint8_t in(unsigned reg)
{
	uint8_t v;

	serial_ops.read(&rig.serial, reg, &v, 1);
	return v;
}

static void out(unsigned reg, uint8_t v)
{
	serial_ops.write(&rig.serial, reg, &v, 1);
}

static int setup(void **state)
{
	struct irq_line irq = { set_level, NULL, 4 };

	(void)state;
	memset(&rig, 0, sizeof(rig));
	serial_init(&rig.serial, &irq, sent, NULL);
	return 0;
}

/* FIFOs on, interrupt gate open, receive interrupt enabled. */
static void start_driver(void)
{
	out(2, 0x01);
	out(4, 0x0b);
	out(1, 0x01);
}

static void scratch_and_divisor(void **state)
{
	(void)state;
	out(7, 0xa5);
	assert_int_equal(in(7), 0xa5);
	out(3, 0x83);
	out(0, 0x34);
	out(1, 0x12);
	assert_int_equal(in(0), 0x34);
	assert_int_equal(in(1), 0x12);
	out(3, 0x03);
	assert_int_equal(in(1), 0);
	assert_int_equal(in(3), 0x03);
	assert_int_equal(rig.n_sent, 0);
}

static void is_a_16550a(void **state)
{
	(void)state;
	assert_int_equal(in(2) & 0xc0, 0);
	out(2, 0x01);
	assert_int_equal(in(2) & 0xc0, 0xc0);
}

static void sends(void **state)
{
	(void)state;
	assert_int_equal(in(5) & 0x60, 0x60);
	out(0, 'h');
	out(0, 'i');
	assert_int_equal(rig.n_sent, 2);
	assert_memory_equal(rig.sent, "hi", 2);
	assert_int_equal(in(5) & 0x60, 0x60);
}

static void thre_interrupt(void **state)
{
	(void)state;
	out(4, 0x08);
	out(1, 0x02);
	assert_int_equal(rig.level, 1);
	assert_int_equal(in(2) & 0x0f, 0x02);
	/* Reading it took it away. */
	assert_int_equal(rig.level, 0);
	assert_int_equal(in(2) & 0x0f, 0x01);
	out(0, 'x');
	assert_int_equal(rig.level, 1);
	out(1, 0);
	assert_int_equal(rig.level, 0);
}

static void out2_gates(void **state)
{
	(void)state;
	out(1, 0x02);
	assert_int_equal(rig.level, 0);
	out(4, 0x08);
	assert_int_equal(rig.level, 1);
	out(4, 0);
	assert_int_equal(rig.level, 0);
}

static void receives(void **state)
{
	(void)state;
	start_driver();
	assert_int_equal(serial_receive(&rig.serial, (const uint8_t *)"ab", 2), 2);
	assert_int_equal(rig.level, 1);
	assert_int_equal(in(2) & 0x0f, 0x04);
	assert_int_equal(in(5) & 1, 1);
	assert_int_equal(in(0), 'a');
	assert_int_equal(rig.level, 1);
	assert_int_equal(in(0), 'b');
	assert_int_equal(rig.level, 0);
	assert_int_equal(in(5) & 1, 0);
	assert_int_equal(in(0), 0);
}

static void below_trigger_times_out(void **state)
{
	(void)state;
	out(2, 0x81);	/* trigger at 8 */
	out(4, 0x0a);
	out(1, 0x01);
	serial_receive(&rig.serial, (const uint8_t *)"abc", 3);
	assert_int_equal(in(2) & 0x0f, 0x0c);
	serial_receive(&rig.serial, (const uint8_t *)"defgh", 5);
	assert_int_equal(in(2) & 0x0f, 0x04);
}

static void takes_what_fits(void **state)
{
	uint8_t bytes[40] = { 0 };

	(void)state;
	start_driver();
	assert_int_equal(serial_room(&rig.serial), 16);
	assert_int_equal(serial_receive(&rig.serial, bytes, sizeof(bytes)), 16);
	assert_int_equal(serial_room(&rig.serial), 0);
	assert_int_equal(in(5) & 2, 0);
	in(0);
	assert_int_equal(serial_room(&rig.serial), 1);
}

static void waits_for_a_listener(void **state)
{
	(void)state;
	assert_int_equal(serial_receive(&rig.serial, (const uint8_t *)"lost?", 5), 0);
	start_driver();
	assert_int_equal(serial_receive(&rig.serial, (const uint8_t *)"no", 2), 2);
}

static void rts_is_a_brake(void **state)
{
	(void)state;
	start_driver();
	out(4, 0x09);
	assert_int_equal(serial_receive(&rig.serial, (const uint8_t *)"x", 1), 0);
	out(4, 0x0b);
	assert_int_equal(serial_receive(&rig.serial, (const uint8_t *)"x", 1), 1);
}

static void loopback(void **state)
{
	(void)state;
	out(4, 0x1f);
	/* Every output is its input: CTS, DSR, RI, DCD. */
	assert_int_equal(in(6) & 0xf0, 0xf0);
	out(4, 0x10 | 0x0a);
	assert_int_equal(in(6) & 0xf0, 0x90);
	out(0, 'z');
	assert_int_equal(rig.n_sent, 0);
	assert_int_equal(in(0), 'z');
	out(0, 'a');
	out(0, 'b');
	/* Without FIFOs the second byte is lost, and said to be. */
	assert_int_equal(in(5) & 3, 3);
	assert_int_equal(in(5) & 2, 0);
	assert_int_equal(in(0), 'a');
}

static void clears_fifo(void **state)
{
	(void)state;
	start_driver();
	serial_receive(&rig.serial, (const uint8_t *)"abc", 3);
	out(2, 0x03);
	assert_int_equal(in(5) & 1, 0);
	assert_int_equal(rig.level, 0);
}

static const struct row {
	const char *name;
	CMUnitTestFunction run;
} rows[] = {
	{ "scratch and divisor hold what is written", scratch_and_divisor },
	{ "FIFO bits tell a 16550A", is_a_16550a },
	{ "bytes are sent at once", sends },
	{ "the transmitter's interrupt comes and goes", thre_interrupt },
	{ "OUT2 gates the interrupt", out2_gates },
	{ "bytes are received in order, with their interrupt", receives },
	{ "bytes below the trigger level give a time-out", below_trigger_times_out },
	{ "no more is taken than fits", takes_what_fits },
	{ "input waits until the guest listens", waits_for_a_listener },
	{ "no input comes while RTS is off", rts_is_a_brake },
	{ "loopback returns lines and bytes", loopback },
	{ "clearing the FIFO empties it", clears_fifo },
};

int main(void)
{
	static struct tests tests;
	size_t i;

	for (i = 0; i < N_OF(rows); i++) {
		tests_add(&tests, rows[i].name, rows[i].run, NULL);
		tests.list[i].setup_func = setup;
	}
	return tests_run("serial", &tests);
}
