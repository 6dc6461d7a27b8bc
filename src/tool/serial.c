/* SPDX-License-Identifier: MIT */
/*
 * See serial.h. Registers after the PC16550D data sheet ("Registers", "Interrupt Identification Register"). Without FIFOs
 * the receive buffer holds one byte, with them 16; there is no receive time-out, so its interrupt is given at once for any
 * byte below the trigger level, as a time-out would give it a moment later.
 */
#include "serial.h"

#include <string.h>

enum { REG_DATA, REG_IER, REG_IIR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCRATCH };

#define IER_RX		0x01u
#define IER_THRE	0x02u
#define IER_LINE	0x04u
#define IER_MODEM	0x08u
#define IIR_NONE	0x01u
#define IIR_THRE	0x02u
#define IIR_RX		0x04u
#define IIR_LINE	0x06u
#define IIR_TIMEOUT	0x0cu
#define IIR_FIFO	0xc0u
#define LCR_DLAB	0x80u
#define FCR_ENABLE	0x01u
#define FCR_CLEAR_RX	0x02u
#define MCR_RTS		0x02u
#define MCR_OUT2	0x08u
#define MCR_LOOP	0x10u
#define LSR_DR		0x01u
#define LSR_OE		0x02u
#define LSR_THRE_TEMT	0x60u
#define MSR_CTS_DSR_DCD	0xb0u

void serial_init(struct serial *s, const struct irq_line *irq, void (*send)(void *, const uint8_t *, size_t), void *opaque)
{
	*s = (struct serial){ .irq = *irq, .send = send, .opaque = opaque, .divisor = 1 };
	pthread_mutex_init(&s->lock, NULL);
}

static unsigned capacity(const struct serial *s)
{
	return s->fcr & FCR_ENABLE ? SERIAL_FIFO : 1;
}

static unsigned trigger(const struct serial *s)
{
	static const uint8_t levels[4] = { 1, 4, 8, 14 };

	return s->fcr & FCR_ENABLE ? levels[s->fcr >> 6] : 1;
}

/* The highest of the pending and enabled interrupts, as IIR shows it. */
static uint8_t pending(const struct serial *s)
{
	if ((s->ier & IER_LINE) && s->overrun)
		return IIR_LINE;
	if ((s->ier & IER_RX) && s->fifo_count)
		return s->fifo_count >= trigger(s) ? IIR_RX : IIR_TIMEOUT;
	if ((s->ier & IER_THRE) && s->thr_empty_pending)
		return IIR_THRE;
	if ((s->ier & IER_MODEM) && s->msr_delta)
		return 0;
	return IIR_NONE;
}

/* OUT2 gates the UART's interrupt on a PC; in loopback it does not reach the pin. */
static void update_irq(struct serial *s)
{
	int level = pending(s) != IIR_NONE && (s->mcr & MCR_OUT2) && !(s->mcr & MCR_LOOP);

	if (level == s->level)
		return;
	s->level = level;
	irq_set(&s->irq, level);
}

static void push(struct serial *s, uint8_t byte)
{
	if (s->fifo_count >= capacity(s)) {
		s->overrun = true;
		return;
	}
	s->fifo[(s->fifo_head + s->fifo_count++) % SERIAL_FIFO] = byte;
}

static uint8_t pop(struct serial *s)
{
	uint8_t byte;

	if (!s->fifo_count)
		return 0;
	byte = s->fifo[s->fifo_head];
	s->fifo_head = (s->fifo_head + 1) % SERIAL_FIFO;
	s->fifo_count--;
	return byte;
}

/* In loopback the modem inputs are the modem outputs: RTS to CTS, DTR to DSR, OUT1 to RI, OUT2 to DCD. */
static uint8_t modem_lines(const struct serial *s)
{
	if (!(s->mcr & MCR_LOOP))
		return MSR_CTS_DSR_DCD;
	return (uint8_t)((s->mcr & 2) << 3 | (s->mcr & 1) << 5 | (s->mcr & 4) << 4 | (s->mcr & 8) << 4);
}

static uint8_t read_iir(struct serial *s)
{
	uint8_t iir = pending(s);

	if (iir == IIR_THRE)
		s->thr_empty_pending = false;
	return (uint8_t)(iir | (s->fcr & FCR_ENABLE ? IIR_FIFO : 0));
}

static uint8_t read_lsr(struct serial *s)
{
	uint8_t lsr = (uint8_t)(LSR_THRE_TEMT | (s->fifo_count ? LSR_DR : 0) | (s->overrun ? LSR_OE : 0));

	s->overrun = false;
	return lsr;
}

static uint8_t read_register(struct serial *s, unsigned reg)
{
	uint8_t v;

	switch (reg) {
	case REG_DATA:
		return s->lcr & LCR_DLAB ? (uint8_t)s->divisor : pop(s);
	case REG_IER:
		return s->lcr & LCR_DLAB ? (uint8_t)(s->divisor >> 8) : s->ier;
	case REG_IIR:
		return read_iir(s);
	case REG_LCR:
		return s->lcr;
	case REG_MCR:
		return s->mcr;
	case REG_LSR:
		return read_lsr(s);
	case REG_MSR:
		v = (uint8_t)(modem_lines(s) | s->msr_delta);
		s->msr_delta = 0;
		return v;
	default:
		return s->scratch;
	}
}

static void write_data(struct serial *s, uint8_t v)
{
	if (s->mcr & MCR_LOOP)
		push(s, v);
	else
		s->send(s->opaque, &v, 1);
	/* Empty again at once: the interrupt condition goes away and comes back. */
	s->thr_empty_pending = true;
}

static void write_ier(struct serial *s, uint8_t v)
{
	/* Enabling the THRE interrupt while the transmitter is empty raises it: drivers probe and start by this. */
	if ((v & IER_THRE) && !(s->ier & IER_THRE))
		s->thr_empty_pending = true;
	s->ier = v & 0x0f;
}

static void write_fcr(struct serial *s, uint8_t v)
{
	if ((v & FCR_CLEAR_RX) || ((v ^ s->fcr) & FCR_ENABLE))
		s->fifo_count = 0;
	s->fcr = v & (FCR_ENABLE | IIR_FIFO);
}

static void write_mcr(struct serial *s, uint8_t v)
{
	uint8_t before = modem_lines(s), after;

	s->mcr = v & 0x1f;
	after = modem_lines(s);
	/* Delta bits 3:0 for CTS, DSR, DCD; RI counts only its falling edge. */
	s->msr_delta |= (uint8_t)(((before ^ after) >> 4) & 0x0b);
	if ((before & 0x40) && !(after & 0x40))
		s->msr_delta |= 4;
}

static void write_register(struct serial *s, unsigned reg, uint8_t v)
{
	switch (reg) {
	case REG_DATA:
		if (s->lcr & LCR_DLAB)
			s->divisor = (uint16_t)((s->divisor & 0xff00) | v);
		else
			write_data(s, v);
		break;
	case REG_IER:
		if (s->lcr & LCR_DLAB)
			s->divisor = (uint16_t)((s->divisor & 0x00ff) | v << 8);
		else
			write_ier(s, v);
		break;
	case REG_IIR:
		write_fcr(s, v);
		break;
	case REG_LCR:
		s->lcr = v;
		break;
	case REG_MCR:
		write_mcr(s, v);
		break;
	case REG_SCRATCH:
		s->scratch = v;
		break;
	default:	/* LSR and MSR are read-only */
		break;
	}
}

static void serial_read(void *device, uint64_t offset, uint8_t *data, unsigned len)
{
	struct serial *s = device;

	/* An 8-bit device: a wider access reaches it with its lowest byte only. */
	(void)len;
	pthread_mutex_lock(&s->lock);
	data[0] = read_register(s, (unsigned)offset);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
}

static void serial_write(void *device, uint64_t offset, const uint8_t *data, unsigned len)
{
	struct serial *s = device;

	(void)len;
	pthread_mutex_lock(&s->lock);
	write_register(s, (unsigned)offset, data[0]);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
}

const struct bus_ops serial_ops = { "16550", serial_read, serial_write };

/*
 * Bytes wait in the terminal until the guest listens: a driver that starts up clears the FIFO, and what a user piped in
 * before that would be lost. RTS is the guest's brake, which it uses with crtscts. In loopback the line is cut off.
 */
static bool accepts(const struct serial *s)
{
	return (s->ier & IER_RX) && (s->mcr & MCR_RTS) && !(s->mcr & MCR_LOOP) && s->fifo_count < capacity(s);
}

size_t serial_room(struct serial *s)
{
	size_t room;

	pthread_mutex_lock(&s->lock);
	room = accepts(s) ? capacity(s) - s->fifo_count : 0;
	pthread_mutex_unlock(&s->lock);
	return room;
}

size_t serial_receive(struct serial *s, const uint8_t *data, size_t len)
{
	size_t n = 0;

	pthread_mutex_lock(&s->lock);
	while (n < len && accepts(s))
		push(s, data[n++]);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
	return n;
}
