/* SPDX-License-Identifier: MIT */
/*
 * KVM_RUN, in KVM's order: an AP that waits; synced registers; CR8; completion of the last exit; immediate_exit; then the loop
 * of running, sleeping and looking for a reason to leave.
 *
 * Completion: the engine executes the instruction of a device read again from its start, with what the client answered in
 * c->io; a device write is told after the instruction has retired, one fragment an exit.
 *
 * A function `_exit` returns 1: go on running; 0: leave KVM_RUN with run->exit_reason set; < 0: leave with that errno.
 */
#include <errno.h>
#include <string.h>

#include "base/trace.h"
#include "cpu/host/signal.h"
#include "mem/gmem.h"
#include "vm/vm.h"

#define SYNC_FIELDS	((uint64_t)KVM_SYNC_X86_VALID_FIELDS)

static uint8_t *pio_page(struct vm_vcpu *v)
{
	return (uint8_t *)v->run + VM_PIO_OFFSET;
}

/* ---- completion ------------------------------------------------------------------------------------------------------- */

/* The next committed device write that the client has not heard of. */
static int tell_write(struct vm_vcpu *v)
{
	struct cpu_io *io = &v->c.io;
	const struct cpu_io_piece *p = &io->write[io->write_pos];
	struct kvm_run *run = v->run;

	run->exit_reason = KVM_EXIT_MMIO;
	run->mmio.phys_addr = p->addr;
	run->mmio.len = p->len;
	run->mmio.is_write = 1;
	memset(run->mmio.data, 0, sizeof(run->mmio.data));
	memcpy(run->mmio.data, p->data, p->len <= 8 ? p->len : 8);
	v->pending = VM_PENDING_MMIO_WRITE;
	v->stats.mmio_exits++;
	gw_trace(mmio, (int)v->index, v->c.stats.insns, "w", (unsigned long long)p->addr, p->len,
		 (unsigned long long)*(uint64_t *)(void *)run->mmio.data, "client");
	return 0;
}

static void drop_io(struct vm_vcpu *v)
{
	struct cpu_io *io = &v->c.io;

	io->wanted = io->replay = io->out_done = false;
	io->n_done = io->pos = 0;
	io->bulk_len = io->bulk_pos = 0;
}

static void complete_pio_in(struct vm_vcpu *v)
{
	struct cpu_io *io = &v->c.io;
	uint8_t data[8] = { 0 };

	/* Several elements at once: INS reads them from the bulk buffer when it runs again. */
	if (io->want_count > 1) {
		uint32_t n = v->pending_len <= sizeof(io->bulk) ? v->pending_len : (uint32_t)sizeof(io->bulk);

		memcpy(io->bulk, pio_page(v), n);
		io->bulk_len = n;
		io->bulk_pos = 0;
		io->wanted = false;
		io->replay = true;
		return;
	}
	memcpy(data, pio_page(v), v->pending_len <= 8 ? v->pending_len : 8);
	cpu_io_answer(&v->c, data);
}

/* 1: done; 0: it made another exit. */
static int complete(struct vm_vcpu *v)
{
	enum vm_pending what = v->pending;
	/* The client may have moved RIP: then the instruction that asked is not there any more. */
	bool moved = v->c.rip != v->pending_rip;
	uint8_t data[8];

	v->pending = VM_PENDING_NONE;
	if (what == VM_PENDING_HEKI) {
		vm_heki_complete(v, moved);
		return 1;
	}
	if (moved && what != VM_PENDING_MMIO_WRITE && what != VM_PENDING_NONE) {
		drop_io(v);
		v->msr_answer.valid = v->hypercall_answer.valid = false;
		return 1;
	}
	/* The instruction starts over: what was answered about its memory still holds. */
	if (what == VM_PENDING_PIO_IN || what == VM_PENDING_MMIO_READ)
		heki_renew(v->vm->heki, &v->c.acc);
	switch (what) {
	case VM_PENDING_PIO_IN:
		complete_pio_in(v);
		return 1;
	case VM_PENDING_PIO_OUT:
		cpu_io_out_done(&v->c);
		return 1;
	case VM_PENDING_MMIO_READ:
		memcpy(data, v->run->mmio.data, sizeof(data));
		cpu_io_answer(&v->c, data);
		return 1;
	case VM_PENDING_MMIO_WRITE:
		if (++v->c.io.write_pos < v->c.io.n_write)
			return tell_write(v);
		v->c.io.n_write = v->c.io.write_pos = 0;
		return 1;
	case VM_PENDING_MSR:
		v->msr_answer.valid = true;
		v->msr_answer.is_error = v->run->msr.error != 0;
		v->msr_answer.data = v->run->msr.data;
		return 1;
	case VM_PENDING_HYPERCALL:
		v->hypercall_answer.valid = true;
		v->hypercall_answer.ret = v->run->hypercall.ret;
		return 1;
	case VM_PENDING_HEKI:
	case VM_PENDING_NONE:
		return 1;
	}
	return 1;
}

/* ---- exits ------------------------------------------------------------------------------------------------------------ */

#define PORT_7E	0x7e

/* Old clients of KVM expect that OUT to this port has retired when they are told: the quirk. */
static void out_7e(struct vm_vcpu *v)
{
	if (v->vm->disabled_quirks & KVM_X86_QUIRK_OUT_7E_INC_RIP)
		return;
	cpu_io_out_done(&v->c);
	v->pending = VM_PENDING_NONE;
	v->c.finish = true;
	cpu_run(&v->c);
}

static int pio_exit(struct vm_vcpu *v)
{
	struct cpu_io *io = &v->c.io;
	struct kvm_run *run = v->run;
	unsigned size = io->want.len, count = io->want_count ? io->want_count : 1;

	if (!size || size > 4 || (uint64_t)size * count > GW_PAGE_SIZE) {
		vm_bug(v->vm, "port access of an impossible size");
		return -EIO;
	}
	run->exit_reason = KVM_EXIT_IO;
	run->io.direction = io->want_out ? KVM_EXIT_IO_OUT : KVM_EXIT_IO_IN;
	run->io.size = (uint8_t)size;
	run->io.port = (uint16_t)io->want.addr;
	run->io.count = count;
	run->io.data_offset = VM_PIO_OFFSET;
	v->pending_len = size * count;
	if (io->want_out)
		memcpy(pio_page(v), io->want_count > 1 ? io->bulk : io->want.data, v->pending_len);
	v->pending = io->want_out ? VM_PENDING_PIO_OUT : VM_PENDING_PIO_IN;
	v->stats.io_exits++;
	gw_trace(pio, (int)v->index, v->c.stats.insns, io->want_out ? "w" : "r", run->io.port, size,
		 (unsigned long long)(io->want_out ? *(uint32_t *)(void *)io->want.data : 0), "client");
	if (unlikely(run->io.port == PORT_7E && io->want_out && count == 1))
		out_7e(v);
	return 0;
}

static int mmio_exit(struct vm_vcpu *v)
{
	struct cpu_io *io = &v->c.io;
	struct kvm_run *run = v->run;

	if (io->write_pos < io->n_write)
		return tell_write(v);
	if (!io->wanted)
		return 1;
	/* KVM does not emulate these. Nobody minds that we do, but clients that asked for what is not emulated want to see it. */
	if (unlikely(v->vm->is_emulation_exit) && vm_is_x87(v)) {
		io->wanted = false;
		return vm_emulation_exit(v);
	}
	run->exit_reason = KVM_EXIT_MMIO;
	run->mmio.phys_addr = io->want.addr;
	run->mmio.len = io->want.len;
	run->mmio.is_write = 0;
	memset(run->mmio.data, 0, sizeof(run->mmio.data));
	v->pending = VM_PENDING_MMIO_READ;
	v->stats.mmio_exits++;
	gw_trace(mmio, (int)v->index, v->c.stats.insns, "r", (unsigned long long)io->want.addr, io->want.len, 0ull, "client");
	return 0;
}

static int hlt_exit(struct vm_vcpu *v)
{
	v->stats.halt_exits++;
	v->c.shadow = 0;
	gw_trace(halt, (int)v->index, v->c.stats.insns, (unsigned long long)v->c.rip);
	if (v->lapic || v->vm->disabled_exits & KVM_X86_DISABLE_EXITS_HLT) {
		v->mp_state = KVM_MP_STATE_HALTED;
		return 1;
	}
	v->c.halted = false;
	v->run->exit_reason = KVM_EXIT_HLT;
	return 0;
}

static int shutdown_exit(struct vm_vcpu *v)
{
	v->c.ev.triple_fault = false;
	v->run->exit_reason = KVM_EXIT_SHUTDOWN;
	return 0;
}

static int guard_exit(struct vm_vcpu *v)
{
	const struct acc_exit *x = &v->c.guard_exit;

	if (vm_heki_is_exit(v, x)) {
		v->heki_exit = *x;
		v->pending = VM_PENDING_HEKI;
	}
	v->run->exit_reason = x->reason;
	memset(v->run->padding, 0, sizeof(v->run->padding));
	memcpy(v->run->padding, x->data, sizeof(x->data));
	return x->err;
}

static int debug_exit(struct vm_vcpu *v)
{
	struct kvm_debug_exit_arch *d = &v->run->debug.arch;

	v->run->exit_reason = KVM_EXIT_DEBUG;
	d->exception = v->c.dbg.exception;
	d->pad = 0;
	d->pc = v->c.dbg.pc;
	d->dr6 = v->c.dbg.dr6;
	d->dr7 = v->c.dbg.dr7;
	v->stats.debug_exits++;
	return 0;
}

static int msr_exit(struct vm_vcpu *v)
{
	struct kvm_run *run = v->run;

	run->exit_reason = v->c.msr_exit.write ? KVM_EXIT_X86_WRMSR : KVM_EXIT_X86_RDMSR;
	memset(&run->msr, 0, sizeof(run->msr));
	run->msr.reason = v->c.msr_exit.reason;
	run->msr.index = v->c.msr_exit.index;
	run->msr.data = v->c.msr_exit.write ? v->c.msr_exit.data : 0;
	v->msr_answer.index = v->c.msr_exit.index;
	v->msr_answer.is_write = v->c.msr_exit.write;
	v->pending = VM_PENDING_MSR;
	v->stats.msr_exits++;
	return 0;
}

static int hypercall_exit(struct vm_vcpu *v)
{
	/* vm_hypercall() filled the union. */
	v->run->exit_reason = KVM_EXIT_HYPERCALL;
	v->pending = VM_PENDING_HYPERCALL;
	return 0;
}

static int delivery_exit(struct vm_vcpu *v)
{
	struct kvm_run *run = v->run;

	run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	memset(run->padding, 0, sizeof(run->padding));
	run->internal.suberror = KVM_INTERNAL_ERROR_DELIVERY_EV;
	run->internal.ndata = 4;
	run->internal.data[0] = v->c.ev.exception.pending ? v->c.ev.exception.vector : v->c.ev.interrupt.vector;
	run->internal.data[3] = v->c.io.want.addr;
	return 0;
}

/* Where a host address is in the guest, for what the engine itself touched; else by the linear address. */
static bool fault_gpa(struct vm_vcpu *v, uint64_t *gpa, bool *is_private)
{
	struct acc_request rq = { .cpu = &v->c.acc, .gva = GVA(v->c.host_fault_gva), .rights = ACC_R, .stage = ACC_IMPLICIT,
				  .origin = ACC_ENGINE, .len = 1 };
	uintptr_t hva = v->c.host_fault_hva;
	const struct mem_map *map;
	struct acc_result res;
	bool found = false;
	uint64_t offset;

	acc_host_begin(v->vm->acc);
	map = acc_vm_map(v->vm->acc);
	for (unsigned i = 0; hva && map && i < map->n && !found; i++) {
		const struct mem_slot *s = &map->slot[i];

		found = mem_slot_has_hva(s, hva, &offset);
		if (found)
			*gpa = gfn_gpa(s->first).v + offset;
	}
	*is_private = found && map->kinds && mem_kinds_is_private(map->kinds, gpa_gfn(GPA(*gpa)));
	acc_host_end(v->vm->acc);
	if (hva)
		return found;
	acc_enter(&v->c.acc);
	found = acc_translate(&rq, &res) == ACC_ALLOW;
	acc_leave(&v->c.acc);
	*gpa = rq.gpa.v;
	*is_private = rq.private_bit;
	return found;
}

static int host_fault_exit(struct vm_vcpu *v)
{
	struct gw_run_memory_fault *f = (struct gw_run_memory_fault *)(void *)v->run->padding;
	bool is_private = false;
	uint64_t gpa = 0;

	v->run->exit_reason = KVM_EXIT_MEMORY_FAULT;
	memset(v->run->padding, 0, sizeof(v->run->padding));
	f->gpa = fault_gpa(v, &gpa, &is_private) ? gpa & ~GW_PAGE_MASK : 0;
	f->flags = is_private ? KVM_MEMORY_EXIT_FLAG_PRIVATE : 0;
	f->size = GW_PAGE_SIZE;
	return -EFAULT;
}

static int kicked_exit(struct vm_vcpu *v)
{
	return 1;	/* the loop looks at every reason to leave */
}

static int init_exit(struct vm_vcpu *v)
{
	vm_vcpu_accept_events(v);
	return 1;
}

static int bug_exit(struct vm_vcpu *v)
{
	vm_bug(v->vm, "the processor found its state broken");
	return -EIO;
}

static int (*const exits[])(struct vm_vcpu *v) = {
	[CPU_RUNNING] = bug_exit,
	[CPU_EXIT_KICKED] = kicked_exit,
	[CPU_EXIT_PIO] = pio_exit,
	[CPU_EXIT_MMIO] = mmio_exit,
	[CPU_EXIT_HLT] = hlt_exit,
	[CPU_EXIT_SHUTDOWN] = shutdown_exit,
	[CPU_EXIT_GUARD] = guard_exit,
	[CPU_EXIT_HYPERCALL] = hypercall_exit,
	[CPU_EXIT_MSR] = msr_exit,
	[CPU_EXIT_DEBUG] = debug_exit,
	[CPU_EXIT_EMULATION] = vm_emulation_exit,
	[CPU_EXIT_DELIVERY] = delivery_exit,
	[CPU_EXIT_HOST_FAULT] = host_fault_exit,
	[CPU_EXIT_INIT] = init_exit,
	[CPU_EXIT_BUG] = bug_exit,
};

/* ---- the loop --------------------------------------------------------------------------------------------------------- */

static int run_guest(struct vm_vcpu *v)
{
	enum cpu_exit e;
	int r;

	vm_vcpu_collect_events(v);
	v->c.host_fault_hva = 0;
	vm_vapic_show(v);
	e = cpu_run(&v->c);
	vm_pv_eoi_sync(v);
	vm_vapic_take(v);
	v->stats.exits++;
	if ((unsigned)e >= ARRAY_SIZE(exits))
		e = CPU_EXIT_BUG;
	r = exits[e](v);
	v->pending_rip = v->c.rip;
	return r;
}

static int sleep_guest(struct vm_vcpu *v)
{
	struct dev_lapic_events ev;
	int err;

	if (!vm_vcpu_has_events(v)) {
		err = vm_vcpu_block(v);
		if (err)
			return err;
	}
	vm_vcpu_accept_events(v);
	if (v->mp_state != KVM_MP_STATE_HALTED)
		return 1;
	vm_vcpu_collect_events(v);
	if (!vm_vcpu_has_events(v))
		return 1;
	if (v->lapic)
		dev_lapic_take_events(v->lapic, DEV_PEND_UNHALT, &ev);
	atomic_store(&v->is_unhalted, false);
	/* Only work for another thread: still halted afterwards. */
	if (!vm_vcpu_has_events(v) && !(v->lapic && ev.is_unhalt))
		return 1;
	if (atomic_load(&v->requests) & VM_REQ_SERVICE || atomic_load(&v->eoi_vector) >= 0)
		return 1;
	v->mp_state = KVM_MP_STATE_RUNNABLE;
	v->c.halted = false;
	gw_trace(wake, (int)v->index, v->c.stats.insns, "event");
	return 1;
}

static void serve(struct vm_vcpu *v)
{
	pthread_mutex_lock(&v->service_lock);
	if (v->service) {
		v->service->fn(&v->c, v->service->arg);
		v->service->done = true;
		v->service = NULL;
		pthread_cond_broadcast(&v->service_done);
	}
	pthread_mutex_unlock(&v->service_lock);
}

static void handle_requests(struct vm_vcpu *v)
{
	uint32_t r;

	if (vm_steal_due(v, VM_STEAL_RUNNING_US))
		vm_steal_update(v);
	if (vm_stats_due(v))
		vm_stats_refresh(v->vm, v);
	if (likely(!atomic_load_explicit(&v->requests, memory_order_relaxed)))
		return;
	r = atomic_exchange(&v->requests, 0);
	if (r & VM_REQ_SERVICE)
		serve(v);
	if (r & VM_REQ_CLOCK)
		vm_clock_update(v);
	if (r & VM_REQ_STEAL)
		vm_steal_update(v);
	if (r & VM_REQ_ASYNC_PF)
		vm_async_pf_ready(v);
}

static int intr_exit(struct vm_vcpu *v)
{
	vm_steal_set_preempted(v);
	v->run->exit_reason = KVM_EXIT_INTR;
	v->stats.signal_exits++;
	return -EINTR;
}

/* Reasons to leave that other threads or this vCPU's own instructions have left behind. */
static int due_exit(struct vm_vcpu *v)
{
	int vector;

	if (v->is_tpr_exit_due) {
		v->is_tpr_exit_due = false;
		v->run->exit_reason = KVM_EXIT_SET_TPR;
		return 0;
	}
	vector = atomic_exchange(&v->eoi_vector, -1);
	if (vector >= 0) {
		v->run->exit_reason = KVM_EXIT_IOAPIC_EOI;
		v->run->eoi.vector = (uint8_t)vector;
		return 0;
	}
	if (v->is_window_exit_due) {
		v->is_window_exit_due = false;
		v->run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
		v->stats.irq_window_exits++;
		return 0;
	}
	return 1;
}

static bool signal_due(struct vm_vcpu *v)
{
	bool found = v->is_signal_found || (vm_signal_look_due(v) && vm_signal_pending(v));

	v->is_signal_found = false;
	found |= atomic_load_explicit(&v->is_cancelled, memory_order_relaxed);
	return found || __atomic_load_n(&v->run->immediate_exit, __ATOMIC_RELAXED);
}

/*
 * Before KVM_RUN is left without an exit: the instruction of the last one retires, if its answer is there. Clients rely on that when
 * they save a vCPU; in a copy of it nobody would know the answer.
 */
static int finish_io(struct vm_vcpu *v)
{
	if (likely(!v->c.io.replay && !v->msr_answer.valid && !v->hypercall_answer.valid))
		return 1;
	v->c.finish = true;
	return run_guest(v);
}

static int loop(struct vm_vcpu *v)
{
	int r;

	for (;;) {
		/* Cleared before the reasons are looked at: who adds one afterwards sets it again. */
		atomic_fetch_and(&v->c.acc.attention, ~ACC_ATT_EXIT);
		if (vm_alive(v->vm))
			return -EIO;
		handle_requests(v);
		/* Committed together with another reason to stop: the client hears of a write before anything else happens. */
		if (v->c.io.write_pos < v->c.io.n_write)
			return tell_write(v);
		r = due_exit(v);
		if (r <= 0)
			return r;
		if (signal_due(v)) {
			r = finish_io(v);
			return r == 1 ? intr_exit(v) : r;
		}
		if (vm_dirty_ring_full(v)) {
			r = finish_io(v);
			if (r == 1) {
				v->run->exit_reason = KVM_EXIT_DIRTY_RING_FULL;
				return 0;
			}
			return r;
		}
		r = v->mp_state == KVM_MP_STATE_RUNNABLE ? run_guest(v) : sleep_guest(v);
		if (r == -EINTR)
			return intr_exit(v);
		if (r <= 0)
			return r;
	}
}

/* ---- KVM_RUN ---------------------------------------------------------------------------------------------------------- */

/* An AP that nobody has started yet. */
static int wait_for_start(struct vm_vcpu *v)
{
	int err;

	if (__atomic_load_n(&v->run->immediate_exit, __ATOMIC_RELAXED))
		return -EINTR;
	do {
		atomic_fetch_and(&v->c.acc.attention, ~ACC_ATT_EXIT);
		handle_requests(v);
		err = vm_vcpu_block(v);
		if (!err)
			err = vm_alive(v->vm);
		if (err)
			return err == -EINTR ? intr_exit(v) : err;
	} while (!vm_vcpu_accept_events(v));
	return -EAGAIN;
}

static int load_sync_regs(struct vm_vcpu *v)
{
	struct kvm_run *run = v->run;
	uint64_t dirty = __atomic_load_n(&run->kvm_dirty_regs, __ATOMIC_RELAXED);
	/* The client's other threads may write these while we read: copies. */
	struct kvm_sync_regs s;

	if (__atomic_load_n(&run->kvm_valid_regs, __ATOMIC_RELAXED) & ~SYNC_FIELDS || dirty & ~SYNC_FIELDS)
		return -EINVAL;
	if (!dirty)
		return 0;
	memcpy(&s, &run->s.regs, sizeof(s));
	if (dirty & KVM_SYNC_X86_REGS) {
		vm_set_regs(v, &s.regs);
		run->kvm_dirty_regs &= ~(uint64_t)KVM_SYNC_X86_REGS;
	}
	if (dirty & KVM_SYNC_X86_SREGS) {
		if (vm_set_sregs(v, &s.sregs))
			return -EINVAL;
		run->kvm_dirty_regs &= ~(uint64_t)KVM_SYNC_X86_SREGS;
	}
	if (dirty & KVM_SYNC_X86_EVENTS) {
		if (vm_set_events(v, &s.events))
			return -EINVAL;
		run->kvm_dirty_regs &= ~(uint64_t)KVM_SYNC_X86_EVENTS;
	}
	return 0;
}

static void store_sync_regs(struct vm_vcpu *v)
{
	struct kvm_run *run = v->run;
	uint64_t valid = __atomic_load_n(&run->kvm_valid_regs, __ATOMIC_RELAXED);

	if (valid & KVM_SYNC_X86_REGS)
		vm_get_regs(v, &run->s.regs.regs);
	if (valid & KVM_SYNC_X86_SREGS)
		vm_get_sregs(v, &run->s.regs.sregs);
	if (valid & KVM_SYNC_X86_EVENTS)
		vm_get_events(v, &run->s.regs.events);
}

bool vm_ready_for_injection(struct vm_vcpu *v)
{
	const struct vcpu *c = &v->c;

	if (v->vm->irqchip && !v->vm->is_split)
		return true;
	return c->eflags & FLAG_IF && !c->shadow && !c->ev.exception.pending && !c->ev.interrupt.injected && !c->ev.nmi.injected &&
	       v->user_vector < 0 && (!v->lapic || dev_lapic_accepts_extint(v->lapic));
}

static void fill_run(struct vm_vcpu *v)
{
	struct kvm_run *run = v->run;

	run->flags = v->c.ev.in_smm ? KVM_RUN_X86_SMM : 0;
	run->if_flag = !!(v->c.eflags & FLAG_IF);
	run->cr8 = vm_get_cr8(v);
	run->apic_base = vm_get_apic_base(v);
	run->ready_for_interrupt_injection = vm_ready_for_injection(v);
	store_sync_regs(v);
}

static int enter(struct vm_vcpu *v)
{
	struct kvm_run *run = v->run;
	uint64_t cr8;
	int r;

	if (v->mp_state == KVM_MP_STATE_UNINITIALIZED)
		return wait_for_start(v);
	r = load_sync_regs(v);
	if (r)
		return r;
	v->is_placed = false;
	if (!v->lapic) {
		cr8 = __atomic_load_n(&run->cr8, __ATOMIC_RELAXED);
		if (cr8 & ~15ull)
			return -EINVAL;
		v->cr8 = cr8;
	}
	/* The client was in control: what it read from a disk may lie under decoded code. */
	cpu_memory_touched(&v->c);
	r = complete(v);
	if (r <= 0)
		return r;
	/* Before an interrupt's handler can come between, and take the answer for its own instruction's. */
	if (unlikely(v->msr_answer.valid || v->hypercall_answer.valid)) {
		r = finish_io(v);
		if (r != 1)
			return r;
	}
	if (__atomic_load_n(&run->immediate_exit, __ATOMIC_RELAXED)) {
		r = finish_io(v);
		return r == 1 ? -EINTR : r;
	}
	if (v->has_run_mask && vm_signal_pending(v)) {
		r = finish_io(v);
		return r == 1 ? intr_exit(v) : r;
	}
	/* Clients install handlers of their own after the VM was made: ours must come first for faults of ours. */
	if (!v->has_run)
		cpu_signals_install();
	v->has_run = true;
	v->is_window_exit_due = v->is_tpr_exit_due = false;
	run->exit_reason = KVM_EXIT_UNKNOWN;
	if (unlikely(v->is_preempted) || vm_steal_due(v, VM_STEAL_ENTRY_US))
		vm_steal_update(v);
	return loop(v);
}

static int run_locked(struct vm_vcpu *v)
{
	int r = vm_alive(v->vm);

	if (r)
		return r;
	v->run->flags = 0;
	gw_trace(run_enter, (int)v->index, v->c.stats.insns, (unsigned long long)v->c.rip);
	r = enter(v);
	fill_run(v);
	gw_trace(run_exit, (int)v->index, v->c.stats.insns, v->run->exit_reason, r, (unsigned long long)v->c.rip);
	vm_stats_refresh(v->vm, v);
	return r;
}

int vm_run(struct vm_vcpu *v)
{
	int r;

	pthread_mutex_lock(&v->lock);
	vm_signal_attach(v);
	r = run_locked(v);
	vm_signal_detach(v);
	pthread_mutex_unlock(&v->lock);
	return r;
}
