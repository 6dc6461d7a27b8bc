/* SPDX-License-Identifier: MIT */
/*
 * Register writes and instructions that a monitor wants to be told of: whether it does, the event, and what its answer means for
 * the instruction. Asked before anything has changed; with an answer the instruction is executed again, alone, and finds it.
 */
#include "monitor/private.h"

#define XCR0	8u

/* ---- control registers and MSRs ------------------------------------------------------------------------------------------------- */

static uint64_t msr_slot(uint32_t msr, unsigned *bank)
{
	static const uint32_t first[] = { 0, 0x40000000, 0xc0000000 };

	for (*bank = 0; *bank < 3; (*bank)++)
		if (msr - first[*bank] < MON_MSR_BITS)
			return msr - first[*bank];
	return ~0ull;
}

static bool wants_cr(const struct monitor *m, unsigned cr, uint64_t new, uint64_t old, bool *sync)
{
	if (cr > XCR0 || !m->subs.cr[cr].on)
		return false;
	*sync = m->subs.cr[cr].sync;
	if (m->subs.cr[cr].on_change && new == old)
		return false;
	/* As Xen: with a mask a write of the same value is never told. */
	return !m->subs.cr[cr].mask || (new ^ old) & ~m->subs.cr[cr].mask;
}

static bool wants_msr(const struct monitor *m, uint32_t msr, uint64_t new, const struct cpu_ext_write *w, bool *sync)
{
	unsigned bank;
	uint64_t slot = msr_slot(msr, &bank);

	*sync = true;
	if (slot == ~0ull || !m->subs.msr[bank][slot])
		return false;
	return !(m->subs.msr[bank][slot] & 2) || !w->has_old || new != w->old;
}

enum cpu_ext_answer mon_write(void *ext, const struct cpu_ext_write *w, struct acc_exit *exit);
enum cpu_ext_answer mon_write(void *ext, const struct cpu_ext_write *w, struct acc_exit *exit)
{
	struct monitor *m = ext;
	struct acc_cpu *cpu = (struct acc_cpu *)(uintptr_t)w->cpu;	/* the calling thread's own */
	struct mon_key key = { .a = w->index };
	unsigned reason = w->reg == CPU_EXT_MSR ? GW_MON_WRITE_MSR : GW_MON_WRITE_CR;
	const struct mon_grant *g;
	uint64_t new = w->value;
	struct gw_mon_event *ev;
	struct mon_vcpu *v;
	bool sync = true;

	(void)exit;
	if (!atomic_load_explicit(&m->is_attached, memory_order_relaxed) || !mon_subscribed(m, reason))
		return CPU_EXT_ALLOW;
	if (w->reg == CPU_EXT_CR3) {
		key.a = 3;
		new &= ~(1ull << 63);		/* PCID's "do not flush" is no part of the register */
	} else if (w->reg == CPU_EXT_XCR0) {
		key.a = XCR0;
	} else if (w->reg != CPU_EXT_CR && w->reg != CPU_EXT_MSR) {
		return CPU_EXT_ALLOW;
	}
	if (w->reg == CPU_EXT_MSR ? !wants_msr(m, w->index, new, w, &sync) : !wants_cr(m, (unsigned)key.a, new, w->old, &sync))
		return CPU_EXT_ALLOW;
	v = mon_vcpu_of(m, cpu);
	v->cpu = cpu;
	key.kind = reason;
	g = mon_granted(v, &key);
	if (g)
		return g->flags & GW_MON_ANS_DENY ? CPU_EXT_DISCARD : CPU_EXT_ALLOW;
	if (v->gone_on)
		return CPU_EXT_ALLOW;
	ev = mon_event(m, v, reason);
	ev->u.reg.index = (uint32_t)key.a;
	ev->u.reg.new_value = new;
	ev->u.reg.old_value = w->old;
	if (!sync)
		return mon_tell(m, v, true) ? CPU_EXT_ALLOW : CPU_EXT_RESTART;
	if (mon_ask(m, v, &key, true) != MON_GO)
		return CPU_EXT_RESTART;
	g = mon_granted(v, &key);
	return g && g->flags & GW_MON_ANS_DENY ? CPU_EXT_DISCARD : CPU_EXT_ALLOW;
}

/* ---- instructions ----------------------------------------------------------------------------------------------------------------- */

static uint64_t gfn_of_rip(struct monitor *m, struct mon_vcpu *v, const struct gw_mon_event *ev)
{
	uint64_t gpa;

	return m->host->translate(v->cpu, ev->regs.sregs.cs.base + ev->regs.regs.rip, &gpa) ? gpa >> GW_PAGE_SHIFT : ~0ull;
}

static void fill_breakpoint(struct monitor *m, struct mon_vcpu *v, struct gw_mon_event *ev, const struct cpu_ext_insn *x)
{
	ev->u.trap.gfn = gfn_of_rip(m, v, ev);
	ev->u.trap.length = x->length;
	ev->u.trap.type = 6;
}

static void fill_debug(struct monitor *m, struct mon_vcpu *v, struct gw_mon_event *ev, const struct cpu_ext_insn *x)
{
	ev->u.trap.gfn = gfn_of_rip(m, v, ev);
	ev->u.trap.pending = x->a;
	ev->u.trap.length = x->length;
	ev->u.trap.type = (uint32_t)x->b;
}

static void fill_cpuid(struct monitor *m, struct mon_vcpu *v, struct gw_mon_event *ev, const struct cpu_ext_insn *x)
{
	(void)m;
	(void)v;
	ev->u.cpuid.length = x->length;
	ev->u.cpuid.leaf = (uint32_t)x->a;
	ev->u.cpuid.subleaf = (uint32_t)x->b;
	ev->regs.regs.rax = x->r[0];
	ev->regs.regs.rbx = x->r[1];
	ev->regs.regs.rcx = x->r[2];
	ev->regs.regs.rdx = x->r[3];
}

static void fill_descriptor(struct monitor *m, struct mon_vcpu *v, struct gw_mon_event *ev, const struct cpu_ext_insn *x)
{
	(void)m;
	(void)v;
	ev->u.descriptor.table = (uint32_t)x->a;
	ev->u.descriptor.is_write = (uint32_t)x->b;
	ev->u.descriptor.length = x->length;
}

static void fill_port(struct monitor *m, struct mon_vcpu *v, struct gw_mon_event *ev, const struct cpu_ext_insn *x)
{
	(void)m;
	(void)v;
	ev->u.io.port = (uint32_t)x->a;
	ev->u.io.bytes = (uint32_t)x->b;
	ev->u.io.is_in = x->r[0];
	ev->u.io.is_string = x->r[1];
}

static void fill_interrupt(struct monitor *m, struct mon_vcpu *v, struct gw_mon_event *ev, const struct cpu_ext_insn *x)
{
	(void)m;
	(void)v;
	ev->u.interrupt.vector = (uint32_t)x->a;
	ev->u.interrupt.type = (uint32_t)x->b;
	ev->u.interrupt.error = x->r[0];
	ev->u.interrupt.cr2 = x->c;
}

static const struct kind {
	uint8_t reason;
	/* After an answer without registers: true, the instruction goes on; false, it begins again (and is asked about again). */
	bool goes_on;
	void (*fill)(struct monitor *m, struct mon_vcpu *v, struct gw_mon_event *ev, const struct cpu_ext_insn *x);
} kinds[CPU_EXT_N_INSN] = {
	[CPU_EXT_CPUID] = { GW_MON_CPUID, true, fill_cpuid },
	[CPU_EXT_INT3] = { GW_MON_BREAKPOINT, false, fill_breakpoint },
	[CPU_EXT_DEBUG] = { GW_MON_DEBUG, false, fill_debug },
	[CPU_EXT_TABLE] = { GW_MON_DESCRIPTOR, false, fill_descriptor },
	[CPU_EXT_PORT] = { GW_MON_IO, true, fill_port },
	[CPU_EXT_INTERRUPT] = { GW_MON_INTERRUPT, true, fill_interrupt },
	[CPU_EXT_UNKNOWN] = { GW_MON_UNIMPLEMENTED, false, NULL },
};

/* A #DB that has nothing to do with the instruction to come (INT1 has): if it is not allowed, the guest never sees it. */
static bool is_pending_debug(const struct cpu_ext_insn *x) { return x->kind == CPU_EXT_DEBUG && !x->length; }

/* What the answer says about an instruction that may not simply go on. */
static enum cpu_ext_answer decide(const struct kind *k, const struct cpu_ext_insn *x, const struct mon_grant *g)
{
	if (g->flags & GW_MON_ANS_DENY || (is_pending_debug(x) && !(g->flags & GW_MON_ANS_ALLOW)))
		return CPU_EXT_DISCARD;
	if (k->goes_on || g->flags & GW_MON_ANS_ALLOW)
		return CPU_EXT_ALLOW;
	return CPU_EXT_RESTART;
}

enum cpu_ext_answer mon_insn(void *ext, struct cpu_ext_insn *x);
enum cpu_ext_answer mon_insn(void *ext, struct cpu_ext_insn *x)
{
	struct monitor *m = ext;
	const struct kind *k = &kinds[x->kind];
	struct mon_vcpu *v = mon_vcpu_of(m, x->cpu);
	struct mon_key key = { .kind = k->reason, .a = x->a };
	const struct mon_grant *g;
	enum mon_outcome outcome;
	struct gw_mon_event *ev;

	if (!atomic_load(&m->is_attached))
		return CPU_EXT_ALLOW;
	if (x->kind == CPU_EXT_INTERRUPT ? !mon_is_marked(v, &v->next_int) : !mon_subscribed(m, k->reason))
		return CPU_EXT_ALLOW;
	v->cpu = x->cpu;
	g = mon_granted(v, &key);
	/* An answer to "breakpoint" that leaves RIP where it is has been used up by asking: it is met anew. */
	if (g && (k->goes_on || g->flags & (GW_MON_ANS_ALLOW | GW_MON_ANS_DENY)))
		return decide(k, x, g);
	if (g)
		v->n_grants = 0;
	if (v->gone_on || v->blanket)
		return CPU_EXT_ALLOW;
	ev = mon_event(m, v, k->reason);
	if (k->fill)
		k->fill(m, v, ev, x);
	if (x->kind == CPU_EXT_INTERRUPT)
		atomic_store(&v->next_int, 0);
	if (x->kind == CPU_EXT_DEBUG && !(m->subs.flags[GW_MON_DEBUG] & GW_MON_S_SYNC))
		return mon_tell(m, v, true) ? CPU_EXT_ALLOW : CPU_EXT_RESTART;
	outcome = mon_ask(m, v, &key, true);
	g = mon_granted(v, &key);
	/* Registers or another exception come instead. */
	if (outcome == MON_AGAIN && g && is_pending_debug(x))
		return decide(k, x, g);
	if (outcome != MON_GO)
		return CPU_EXT_RESTART;
	if (g && decide(k, x, g) != CPU_EXT_RESTART)
		return decide(k, x, g);
	m->host->again(x->cpu);
	return CPU_EXT_RESTART;
}

/* ---- guest requests ------------------------------------------------------------------------------------------------------------------ */

#define XEN_HVM_OP		34u
#define XEN_GUEST_REQUEST	24u

bool mon_hypercall(struct monitor *m, struct acc_cpu *cpu, unsigned cpl, uint64_t nr, uint64_t op, uint64_t arg, int64_t *ret, bool *restart)
{
	struct mon_key key = { .kind = GW_MON_GUEST_REQUEST };
	struct mon_vcpu *v = mon_vcpu_of(m, cpu);
	uint32_t flags = m->subs.flags[GW_MON_GUEST_REQUEST];

	*restart = false;
	if (nr != XEN_HVM_OP || op != XEN_GUEST_REQUEST || !atomic_load(&m->is_attached) || !mon_subscribed(m, GW_MON_GUEST_REQUEST))
		return false;
	*ret = arg ? -22 /* EINVAL */ : 0;
	if (cpl && !(flags & GW_MON_S_USER))
		*ret = -1;	/* EPERM */
	v->cpu = cpu;
	if (*ret || mon_granted(v, &key) || v->gone_on)
		return true;
	mon_event(m, v, GW_MON_GUEST_REQUEST);
	if (!(flags & GW_MON_S_SYNC))
		*restart = !mon_tell(m, v, true);
	else
		*restart = mon_ask(m, v, &key, true) != MON_GO;
	return true;
}
