/* SPDX-License-Identifier: MIT */
/*
 * Port I/O. An instruction that touches a port runs alone. In-kernel devices are asked first; else the vCPU stops with RIP at
 * the instruction, and when the client has answered the instruction is executed again from its start.
 *
 * String forms: one device access an execution, the registers committed element by element. INS from the client reads ahead up
 * to the end of the destination page or 1024 bytes (io.bulk); RCX and RDI are those of the program, so a client that edits
 * them between the exits gets what it edited. The destination is judged before the device is read: nothing is lost.
 */
#include <string.h>

#include "cpu/sys/sys_private.h"

#define INS_AHEAD	1024u

/* ---- permission ------------------------------------------------------------------------------------------------------------ */

bool sys_port_allowed(struct vcpu *c, uint16_t port, unsigned len)
{
	const struct cpu_seg *tr = &c->seg[SEG_TR];
	uint16_t base, bits;

	if (!(c->acc.cr0 & CR0_PE) || (!c->v86 && c->acc.cpl <= sys_iopl(c)))
		return true;
	if (tr->unusable || !tr->present || !(tr->type & 8) || tr->limit < 103)
		return cpu_fault(c, VEC_GP, 0);
	if (!cpu_sys_read(c, sys_linear(c, tr->base + 102), 2, &base))
		return false;
	/* Two bytes are always read: an access may straddle. */
	if ((uint32_t)base + port / 8 + 1 > tr->limit)
		return cpu_fault(c, VEC_GP, 0);
	if (!cpu_sys_read(c, sys_linear(c, tr->base + base + port / 8), 2, &bits))
		return false;
	return !(bits >> port % 8 & (BIT(len) - 1)) || cpu_fault(c, VEC_GP, 0);
}

/* ---- one element ------------------------------------------------------------------------------------------------------------- */

static void want(struct vcpu *c, const struct cpu_op *o, uint16_t port, unsigned len, uint32_t count, bool out)
{
	c->io.want = (struct cpu_io_piece){ .addr = port, .len = (uint8_t)len, .pio = true };
	c->io.want_count = count;
	c->io.want_out = out;
	c->io.wanted = true;
	cpu_stop(c, o, CPU_EXIT_PIO);
}

/* The answer of the client to an earlier execution, if this is its repetition. */
static bool answered(struct vcpu *c, uint16_t port, unsigned len, uint64_t *v)
{
	struct cpu_io *io = &c->io;
	const struct cpu_io_piece *p = &io->done[io->pos];

	if (!io->replay || io->pos >= io->n_done || !p->pio || p->addr != port || p->len != len)
		return false;
	*v = 0;
	memcpy(v, p->data, len);
	io->pos++;
	return true;
}

/* Read a port: true with *v, or the vCPU has stopped. @ahead: elements to ask the client for at once. */
static bool port_read(struct vcpu *c, const struct cpu_op *o, uint16_t port, unsigned len, uint32_t ahead, uint64_t *v)
{
	uint8_t data[8] = { 0 };

	if (!answered(c, port, len, v)) {
		if (!c->env->pio_read(c, port, len, data)) {
			want(c, o, port, len, ahead, false);
			return false;
		}
		*v = 0;
		memcpy(v, data, len);
	}
	cpu_ring_put(&c->ring, RING_PIO, c->stats.insns, c->rip, port, *v);
	return true;
}

static bool port_write(struct vcpu *c, const struct cpu_op *o, uint16_t port, unsigned len, uint64_t v)
{
	uint8_t data[8];

	memcpy(data, &v, 8);
	if (c->io.out_done) {
		c->io.out_done = false;
	} else if (!c->env->pio_write(c, port, len, data)) {
		want(c, o, port, len, 1, true);
		memcpy(c->io.want.data, data, len);
		return false;
	}
	cpu_ring_put(&c->ring, RING_PIO, c->stats.insns, c->rip, port | BIT64(63), v);
	return true;
}

/* A monitor may want to know. False: left; *skip: retire without touching the port. */
static bool asked(struct vcpu *c, const struct cpu_op *o, uint16_t port, bool in, bool string, bool *skip)
{
	struct cpu_ext_insn x = { .kind = CPU_EXT_PORT, .length = o->len, .a = port, .b = o->opsize, .r = { in, string } };
	enum cpu_ext_answer a;

	*skip = false;
	if (likely(!sys_ext_wants(c, CPU_EXT_PORT)))
		return true;
	a = sys_ext_insn(c, &x);
	*skip = a == CPU_EXT_DISCARD;
	return a == CPU_EXT_ALLOW || *skip;
}

static uint16_t port_of(const struct vcpu *c, const struct cpu_op *o)
{
	return insn_rows[o->insn->row].opnd[o->iop == I_IN ? 1 : 0] == OE_DX ? (uint16_t)c->gpr[RDX] : (uint16_t)(o->imm & 0xff);
}

void sys_in(struct vcpu *c, const struct cpu_op *o)
{
	uint16_t port = port_of(c, o);
	uint64_t v;
	bool skip;

	if (!cpu_run_alone(c, o))
		return;
	sys_begin(c, o);
	if (!sys_port_allowed(c, port, o->opsize) || !asked(c, o, port, true, false, &skip))
		return;
	if (skip)
		CPU_NEXT(c, o);
	if (!port_read(c, o, port, o->opsize, 1, &v))
		return;
	sys_set_reg(c, RAX, o->opsize, v);
	sys_debug_io(c, port, o->opsize);
	CPU_NEXT(c, o);
}

void sys_out(struct vcpu *c, const struct cpu_op *o)
{
	uint16_t port = port_of(c, o);
	bool skip;

	if (!cpu_run_alone(c, o))
		return;
	sys_begin(c, o);
	if (!sys_port_allowed(c, port, o->opsize) || !asked(c, o, port, false, false, &skip))
		return;
	if (skip)
		CPU_NEXT(c, o);
	if (!port_write(c, o, port, o->opsize, sys_truncate(c->gpr[RAX], o->opsize)))
		return;
	sys_debug_io(c, port, o->opsize);
	CPU_NEXT(c, o);
}

/* ---- strings ------------------------------------------------------------------------------------------------------------------- */

static unsigned ad_bytes(const struct cpu_op *o)
{
	return o->insn->adsize;
}

static bool repeats(const struct cpu_op *o)
{
	return o->flags & (OP_REP | OP_REPNE);
}

static void advance(struct vcpu *c, const struct cpu_op *o, unsigned reg)
{
	uint64_t step = c->eflags & FLAG_DF ? -(uint64_t)o->opsize : o->opsize;

	sys_set_reg(c, reg, ad_bytes(o), c->gpr[reg] + step);
	if (repeats(o))
		sys_set_reg(c, RCX, ad_bytes(o), c->gpr[RCX] - 1);
}

/* Elements that one exit may ask for: RCX, the page of the destination, 1024 bytes. With TF every element traps. */
static uint32_t read_ahead(const struct vcpu *c, const struct cpu_op *o, uint64_t la)
{
	uint64_t n = sys_truncate(c->gpr[RCX], ad_bytes(o)), room = la & GW_PAGE_MASK;

	if (!repeats(o) || c->eflags & FLAG_TF)
		return 1;
	room = c->eflags & FLAG_DF ? room / o->opsize + 1 : (GW_PAGE_SIZE - room) / o->opsize;
	if (n > room)
		n = room;
	if (n > INS_AHEAD / o->opsize)
		n = INS_AHEAD / o->opsize;
	return n ? (uint32_t)n : 1;
}

static bool ins_dest(struct vcpu *c, const struct cpu_op *o, uint64_t *la, struct cpu_ref *r)
{
	uint64_t ea = sys_truncate(c->gpr[RDI], ad_bytes(o));

	if (sys_mode64(c))
		*la = ea;
	else if (!cpu_seg_linear(c, o, SEG_ES, ea, o->opsize, ACC_W, la))
		return false;
	return cpu_ref_get(c, o, *la, o->opsize, ACC_W, r);
}

/* Elements the client delivered in advance. Each is judged and committed by itself; what RCX no longer wants is dropped. */
static bool take_bulk(struct vcpu *c, const struct cpu_op *o)
{
	struct cpu_io *io = &c->io;
	struct cpu_ref r;
	uint64_t la;

	while (io->bulk_pos + o->opsize <= io->bulk_len && sys_truncate(c->gpr[RCX], ad_bytes(o))) {
		if (!ins_dest(c, o, &la, &r))
			return false;
		cpu_ref_store(c, o, &r, io->bulk + io->bulk_pos);
		io->bulk_pos += o->opsize;
		advance(c, o, RDI);
		if (io->n_write)	/* the destination is a device: the client is told of each */
			break;
	}
	if (io->bulk_pos + o->opsize > io->bulk_len || !sys_truncate(c->gpr[RCX], ad_bytes(o)))
		io->bulk_len = io->bulk_pos = 0;
	return true;
}

/* One iteration is over. True: the instruction is. */
static bool string_done(const struct vcpu *c, const struct cpu_op *o)
{
	return !repeats(o) || !sys_truncate(c->gpr[RCX], ad_bytes(o));
}

void sys_ins(struct vcpu *c, const struct cpu_op *o)
{
	uint16_t port = (uint16_t)c->gpr[RDX];
	bool skip;
	struct cpu_ref r;
	uint64_t la, v;

	if (!cpu_run_alone(c, o))
		return;
	sys_begin(c, o);
	if (!sys_port_allowed(c, port, o->opsize))
		return;			/* also when there is nothing to do */
	if (!asked(c, o, port, true, true, &skip))
		return;
	if (skip)
		CPU_NEXT(c, o);
	if (repeats(o) && !sys_truncate(c->gpr[RCX], ad_bytes(o))) {
		c->io.bulk_len = c->io.bulk_pos = 0;
		CPU_NEXT(c, o);
	}
	if (!c->io.replay && c->io.bulk_pos == 0)
		c->io.bulk_len = 0;
	if (c->io.bulk_len) {
		if (!take_bulk(c, o))
			return;
	} else {
		if (!ins_dest(c, o, &la, &r) || !port_read(c, o, port, o->opsize, read_ahead(c, o, la), &v))
			return;
		cpu_ref_store(c, o, &r, &v);
		advance(c, o, RDI);
	}
	sys_debug_io(c, port, o->opsize);
	/* Not done: RIP stays, and the next execution goes on. */
	if (string_done(c, o))
		CPU_NEXT(c, o);
}

static bool outs_source(struct vcpu *c, const struct cpu_op *o, uint64_t *v)
{
	uint64_t ea = sys_truncate(c->gpr[RSI], ad_bytes(o)), la;
	unsigned len = o->opsize;
	struct cpu_ref r;

	if (sys_mode64(c))
		la = ea + c->seg_base[o->seg];
	else if (!cpu_seg_linear(c, o, o->seg, ea, len, ACC_R, &la))
		return false;
	*v = 0;
	return cpu_ref_get(c, o, la, len, ACC_R, &r) && cpu_ref_load(c, o, &r, v);
}

void sys_outs(struct vcpu *c, const struct cpu_op *o)
{
	uint16_t port = (uint16_t)c->gpr[RDX];
	bool skip;
	uint64_t v;

	if (!cpu_run_alone(c, o))
		return;
	sys_begin(c, o);
	if (!sys_port_allowed(c, port, o->opsize))
		return;			/* also when there is nothing to do */
	if (!asked(c, o, port, false, true, &skip))
		return;
	if (skip)
		CPU_NEXT(c, o);
	if (repeats(o) && !sys_truncate(c->gpr[RCX], ad_bytes(o)))
		CPU_NEXT(c, o);
	if (!outs_source(c, o, &v) || !port_write(c, o, port, o->opsize, v))
		return;
	advance(c, o, RSI);
	sys_debug_io(c, port, o->opsize);
	if (string_done(c, o))
		CPU_NEXT(c, o);
}
