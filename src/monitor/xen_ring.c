/* SPDX-License-Identifier: MIT */
/*
 * The third door: Xen's shared ring. Requests and responses share slots; a slot is busy until we have consumed its response, and
 * a request without a free slot waits. Our own counts are private; the client's are read once and must make sense, otherwise the
 * monitor is let go. A response is copied before it is looked at.
 *
 * Called with door_lock held.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "monitor/private.h"
#include "monitor/xen_abi.h"

struct mon_xen {
	struct xen_ring *ring;
	uint32_t req_prod, rsp_cons;
};

static int ring_open(struct monitor *m, struct gw_monitor_attach *a)
{
	struct mon_xen *x = calloc(1, sizeof(*x));
	void *p;

	(void)a;
	if (!x)
		return -ENOMEM;
	m->xen = x;
	m->memory_fd = memfd_create("guestward-vm-event", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	m->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->answer_fd < 0)
		m->answer_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->memory_fd < 0 || m->event_fd < 0 || m->answer_fd < 0 || ftruncate(m->memory_fd, GW_PAGE_SIZE) < 0 ||
	    fcntl(m->memory_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	p = mmap(NULL, GW_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, m->memory_fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	x->ring = p;
	/* The client initialises it again; nothing is sent before it has subscribed to something. */
	x->ring->req_event = x->ring->rsp_event = 1;
	return 0;
}

static void ring_close(struct monitor *m)
{
	if (!m->xen)
		return;
	if (m->xen->ring)
		munmap(m->xen->ring, GW_PAGE_SIZE);
	free(m->xen);
	m->xen = NULL;
}

/* ---- requests -------------------------------------------------------------------------------------------------------------------- */

static uint32_t pack(const struct kvm_segment *s)
{
	uint32_t limit = s->g ? s->limit >> 12 : s->limit;

	if (s->unusable)
		return 0;
	return (limit & 0xfffff) | (uint32_t)(s->type & 15) << 20 | (uint32_t)(s->s & 1) << 24 | (uint32_t)(s->dpl & 3) << 25 |
	       (uint32_t)(s->present & 1) << 27 | (uint32_t)(s->avl & 1) << 28 | (uint32_t)(s->l & 1) << 29 | (uint32_t)(s->db & 1) << 30 |
	       (uint32_t)(s->g & 1) << 31;
}

static void fill_regs(struct xen_regs *x, const struct gw_mon_regs *g)
{
	const struct kvm_regs *r = &g->regs;
	const struct kvm_sregs *s = &g->sregs;

	*x = (struct xen_regs){
		.rax = r->rax, .rcx = r->rcx, .rdx = r->rdx, .rbx = r->rbx, .rsp = r->rsp, .rbp = r->rbp, .rsi = r->rsi, .rdi = r->rdi,
		.r8 = r->r8, .r9 = r->r9, .r10 = r->r10, .r11 = r->r11, .r12 = r->r12, .r13 = r->r13, .r14 = r->r14, .r15 = r->r15,
		.rflags = r->rflags, .dr6 = g->dr6, .dr7 = g->dr7, .rip = r->rip, .cr0 = s->cr0, .cr2 = s->cr2, .cr3 = s->cr3, .cr4 = s->cr4,
		.sysenter_cs = g->sysenter_cs, .sysenter_esp = g->sysenter_esp, .sysenter_eip = g->sysenter_eip, .efer = s->efer,
		.star = g->star, .lstar = g->lstar, .gdtr_base = s->gdt.base, .gdtr_limit = s->gdt.limit, .vmtrace_pos = ~0ull,
		.cs_base = (uint32_t)s->cs.base, .ss_base = (uint32_t)s->ss.base, .ds_base = (uint32_t)s->ds.base, .es_base = (uint32_t)s->es.base,
		.fs_base = s->fs.base, .gs_base = s->gs.base, .shadow_gs = g->kernel_gs_base,
		.cs = pack(&s->cs), .ss = pack(&s->ss), .ds = pack(&s->ds), .es = pack(&s->es), .fs = pack(&s->fs), .gs = pack(&s->gs),
		.cs_sel = s->cs.selector, .ss_sel = s->ss.selector, .ds_sel = s->ds.selector, .es_sel = s->es.selector,
		.fs_sel = s->fs.selector, .gs_sel = s->gs.selector,
	};
}

/* A write is reported as read and write, as VT-x does and clients expect. */
static void fill_memory(struct xen_event *x, const struct gw_mon_event *ev)
{
	uint32_t a = ev->u.mem.access;

	x->u.mem_access.gfn = ev->u.mem.gfn;
	x->u.mem_access.offset = ev->u.mem.offset;
	x->u.mem_access.gla = ev->u.mem.gla;
	x->u.mem_access.flags = (a & GW_MON_A_READ ? XEN_MEM_R : 0) | (a & GW_MON_A_WRITE ? XEN_MEM_R | XEN_MEM_W : 0) |
				(a & GW_MON_A_EXEC ? XEN_MEM_X : 0);
	if (!(a & GW_MON_A_PV))
		x->u.mem_access.flags |= XEN_MEM_GLA_VALID | (a & GW_MON_A_WALK ? XEN_MEM_IN_GPT : XEN_MEM_WITH_GLA);
}

static void fill(struct xen_event *x, const struct gw_mon_event *ev)
{
	memset(x, 0, sizeof(*x));
	x->version = XEN_VM_EVENT_VERSION;
	if (ev->reason == GW_MON_MEM_ACCESS && ev->u.mem.access & GW_MON_A_PV)
		x->flags |= XEN_F_FOREIGN;
	x->flags |= (ev->flags & GW_MON_F_SYNC ? XEN_F_VCPU_PAUSED : 0) | (ev->flags & GW_MON_F_VIEWS ? XEN_F_VIEW : 0);
	x->reason = ev->reason;
	x->vcpu_id = ev->vcpu;
	x->altp2m_idx = (uint16_t)ev->view;
	switch (ev->reason) {
	case GW_MON_MEM_ACCESS:
		fill_memory(x, ev);
		break;
	case GW_MON_WRITE_CR:
		x->u.write_ctrlreg.index = ev->u.reg.index == 0 ? 0 : ev->u.reg.index == 3 ? 1 : ev->u.reg.index == 4 ? 2 : 3;
		x->u.write_ctrlreg.new_value = ev->u.reg.new_value;
		x->u.write_ctrlreg.old_value = ev->u.reg.old_value;
		break;
	case GW_MON_WRITE_MSR:
		x->u.mov_to_msr.msr = ev->u.reg.index;
		x->u.mov_to_msr.new_value = ev->u.reg.new_value;
		x->u.mov_to_msr.old_value = ev->u.reg.old_value;
		break;
	case GW_MON_BREAKPOINT:
	case GW_MON_DEBUG:
		x->u.debug.gfn = ev->u.trap.gfn;
		x->u.debug.pending_dbg = ev->u.trap.pending;
		x->u.debug.insn_length = ev->u.trap.length;
		x->u.debug.type = (uint8_t)ev->u.trap.type;
		break;
	case GW_MON_SINGLESTEP:
		x->u.singlestep.gfn = ev->u.trap.gfn;
		break;
	case GW_MON_CPUID:
		x->u.cpuid.insn_length = ev->u.cpuid.length;
		x->u.cpuid.leaf = ev->u.cpuid.leaf;
		x->u.cpuid.subleaf = ev->u.cpuid.subleaf;
		break;
	case GW_MON_INTERRUPT:
		x->u.interrupt.vector = ev->u.interrupt.vector;
		x->u.interrupt.type = ev->u.interrupt.type;
		x->u.interrupt.error_code = ev->u.interrupt.error;
		x->u.interrupt.cr2 = ev->u.interrupt.cr2;
		break;
	case GW_MON_DESCRIPTOR:
		x->u.desc_access.descriptor = (uint8_t)ev->u.descriptor.table;
		x->u.desc_access.is_write = (uint8_t)ev->u.descriptor.is_write;
		break;
	case GW_MON_IO:
		x->u.io.bytes = ev->u.io.bytes;
		x->u.io.port = (uint16_t)ev->u.io.port;
		x->u.io.in = (uint8_t)ev->u.io.is_in;
		x->u.io.str = (uint8_t)ev->u.io.is_string;
		break;
	}
	fill_regs(&x->data.regs, &ev->regs);
}

static int ring_send(struct monitor *m, struct mon_vcpu *v, const struct gw_mon_event *ev)
{
	struct mon_xen *x = m->xen;
	const uint64_t one = 1;
	struct xen_event e;

	(void)v;
	if (ev->reason >= 32)
		return 0;	/* the ring has no word for it */
	if (x->req_prod - x->rsp_cons >= XEN_RING_SLOTS)
		return -EAGAIN;
	fill(&e, ev);
	memcpy(&x->ring->slot[x->req_prod % XEN_RING_SLOTS], &e, sizeof(e));
	__atomic_store_n(&x->ring->req_prod, ++x->req_prod, __ATOMIC_RELEASE);
	return write(m->event_fd, &one, sizeof(one)) == (ssize_t)sizeof(one) || errno == EAGAIN ? 0 : -errno;
}

/* ---- responses ------------------------------------------------------------------------------------------------------------------- */

static void take_regs(struct kvm_regs *r, const struct xen_regs *x)
{
	*r = (struct kvm_regs){
		.rax = x->rax, .rcx = x->rcx, .rdx = x->rdx, .rbx = x->rbx, .rsp = x->rsp, .rbp = x->rbp, .rsi = x->rsi, .rdi = x->rdi,
		.r8 = x->r8, .r9 = x->r9, .r10 = x->r10, .r11 = x->r11, .r12 = x->r12, .r13 = x->r13, .r14 = x->r14, .r15 = x->r15,
		.rflags = x->rflags, .rip = x->rip,
	};
}

/* EMULATE and its modifiers, by what was asked. */
static void take_emulate(struct gw_mon_answer *a, const struct xen_event *e, const struct mon_key *key)
{
	bool memory = key->kind == GW_MON_MEM_ACCESS, breakpoint = key->kind == GW_MON_BREAKPOINT;

	if (!(e->flags & XEN_F_EMULATE))
		return;
	/* A violation that is not the one we wait for is none: the guest tries again. */
	if (memory && (e->u.mem_access.gfn != key->a || !(e->u.mem_access.flags & (XEN_MEM_R | XEN_MEM_W | XEN_MEM_X))))
		return;
	if (!memory && !(breakpoint && e->flags & XEN_F_INSN_DATA) && key->kind != GW_MON_DESCRIPTOR)
		return;
	a->flags |= GW_MON_ANS_ALLOW;
	if (e->flags & XEN_F_READ_DATA) {
		a->flags |= GW_MON_ANS_DATA;
		a->data_len = e->data.read.size < sizeof(a->data) ? e->data.read.size : sizeof(a->data);
		memcpy(a->data, e->data.read.data, a->data_len);
	} else if (e->flags & XEN_F_NOWRITE) {
		a->flags |= GW_MON_ANS_NOWRITE;
	} else if (e->flags & XEN_F_INSN_DATA) {
		a->flags |= GW_MON_ANS_CODE;
		a->data_len = 16;
		memcpy(a->data, e->data.insn.data, 16);
	}
}

/* @me: whose thread this is. */
static void take(struct monitor *m, const struct mon_vcpu *me, const struct xen_event *e)
{
	struct gw_mon_answer a = { 0 };
	struct mon_key key;
	struct mon_vcpu *v;

	if (e->version != XEN_VM_EVENT_VERSION) {
		mon_log_bad_answer(m, "version", e->version);
		return;
	}
	if (e->vcpu_id >= m->host->n_vcpus(m->vm)) {
		mon_log_bad_answer(m, "vCPU", e->vcpu_id);
		return;
	}
	v = atomic_load(&m->vcpu[e->vcpu_id]);
	/* Without this flag the vCPU stays where it is, as on Xen. */
	if (!v || !(e->flags & XEN_F_VCPU_PAUSED) || !mon_asked(v, &key))
		return;
	take_emulate(&a, e, &key);
	if (e->flags & XEN_F_DENY && (key.kind == GW_MON_WRITE_CR || key.kind == GW_MON_WRITE_MSR))
		a.flags |= GW_MON_ANS_DENY;
	if (e->flags & XEN_F_TOGGLE_STEP) {
		a.flags |= GW_MON_ANS_STEP_TOGGLE;
	} else if (e->flags & XEN_F_FAST_STEP) {
		a.flags |= GW_MON_ANS_FAST_STEP;
		a.step_view = e->u.fast_singlestep.p2midx;
	}
	if (e->flags & XEN_F_VIEW && m->has_views) {
		a.flags |= GW_MON_ANS_VIEW;
		a.view = e->altp2m_idx;
	}
	if (e->flags & XEN_F_REGISTERS && !(e->flags & (XEN_F_READ_DATA | XEN_F_INSN_DATA))) {
		a.flags |= GW_MON_ANS_REGS;
		take_regs(&a.regs, &e->data.regs);
	}
	if (e->flags & XEN_F_NEXT_INTERRUPT)
		a.flags |= GW_MON_ANS_NEXT_INT;
	if (mon_answered(v, &a) && v != me)
		m->host->wake(m->vm, v->index);
}

static int ring_pull(struct monitor *m, struct mon_vcpu *me)
{
	struct mon_xen *x = m->xen;
	uint32_t prod = __atomic_load_n(&x->ring->rsp_prod, __ATOMIC_SEQ_CST);
	bool took = false;

	if (prod - x->rsp_cons > x->req_prod - x->rsp_cons)
		return -EPROTO;
	while (x->rsp_cons != prod) {
		struct xen_event e;

		memcpy(&e, &x->ring->slot[x->rsp_cons % XEN_RING_SLOTS], sizeof(e));
		x->rsp_cons++;
		__atomic_store_n(&x->ring->rsp_event, x->rsp_cons + 1, __ATOMIC_RELAXED);
		take(m, me, &e);
		took = true;
	}
	/* Others may wait for the room there is now. */
	for (unsigned i = 0; took && i < m->host->n_vcpus(m->vm); i++) {
		const struct mon_vcpu *v = atomic_load(&m->vcpu[i]);

		if (v && v != me && atomic_load(&v->wants_room))
			m->host->wake(m->vm, i);
	}
	return 0;
}

static bool ring_has_room(struct monitor *m, struct mon_vcpu *v)
{
	(void)v;
	return m->xen->req_prod - m->xen->rsp_cons < XEN_RING_SLOTS;
}

static int ring_fd(struct monitor *m, struct mon_vcpu *v)
{
	(void)v;
	return m->answer_fd;
}

const struct mon_door_ops mon_xen_door = { .open = ring_open, .close = ring_close, .send = ring_send, .has_room = ring_has_room, .pull = ring_pull,
	.fd = ring_fd };
