/* SPDX-License-Identifier: MIT */
/*
 * Kernel integrity's place in the VM: what the room needs of its machine, the two exits and how they are completed, and the
 * policy that the environment gives to clients that know nothing of it. What is judged, and how, is in src/heki.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"
#include "base/trace.h"
#include "cpu/op.h"
#include "vm/vm.h"

/* ---- what the room needs -------------------------------------------------------------------------------------------------- */

static void forget(void *opaque, struct gfn first, uint64_t n, uint8_t rights)
{
	struct vm *vm = opaque;

	acc_forget(vm->acc, NULL, first, n, rights);
}

static bool has_memory(void *opaque, struct gfn first, uint64_t n)
{
	struct vm *vm = opaque;
	const struct mem_map *map;
	uint64_t at = first.v;

	acc_host_begin(vm->acc);
	map = acc_vm_map(vm->acc);
	while (at - first.v < n) {
		const struct mem_slot *s = mem_slot_of_gfn(map, GFN(at));

		if (!s)
			break;
		at = s->first.v + s->n_pages;
	}
	acc_host_end(vm->acc);
	return at - first.v >= n;
}

/* One page or less. @write: past a shield of ours. */
static bool move_piece(struct vm *vm, struct gpa gpa, uint8_t *buf, size_t len, bool write)
{
	const struct mem_slot *s = mem_slot_of_gfn(acc_vm_map(vm->acc), gpa_gfn(gpa));
	/* Private pages are measured where the guest has them; the shield stands on the client's side only. */
	uint8_t *hva = acc_guest_hva(vm->acc, gpa), *page;
	bool is_shielded;

	if (!hva)
		return false;
	is_shielded = vm->is_shielding && s->hva && hva == mem_slot_hva(s, gpa);
	if (!write) {
		memcpy(buf, hva, len);
		return true;
	}
	if (s->dirty)
		acc_mark_dirty(vm->acc, NULL, s, gpa_gfn(gpa));
	page = (uint8_t *)((uintptr_t)hva & ~(uintptr_t)GW_PAGE_MASK);
	if (is_shielded)
		mprotect(page, GW_PAGE_SIZE, PROT_READ | PROT_WRITE);
	memcpy(hva, buf, len);
	acc_store_done(vm->acc, hva, (unsigned)len);
	if (is_shielded && !(heki_get(vm->heki, gpa_gfn(gpa), NULL) & HEKI_W))
		mprotect(page, GW_PAGE_SIZE, PROT_READ);
	return true;
}

static bool move(struct vm *vm, struct gpa gpa, uint8_t *buf, size_t len, bool write)
{
	bool ok = true;

	acc_host_begin(vm->acc);
	while (len && ok) {
		size_t n = GW_PAGE_SIZE - (gpa.v & GW_PAGE_MASK);

		n = n < len ? n : len;
		ok = move_piece(vm, gpa, buf, n, write);
		gpa.v += n;
		buf += n;
		len -= n;
	}
	acc_host_end(vm->acc);
	return ok;
}

static bool owner_read(void *opaque, struct gpa gpa, void *buf, size_t len)
{
	return move(opaque, gpa, buf, len, false);
}

static bool owner_write(void *opaque, struct gpa gpa, const void *buf, size_t len)
{
	return move(opaque, gpa, (uint8_t *)(uintptr_t)buf, len, true);
}

static struct vm_vcpu *vcpu_of(const struct acc_cpu *cpu)
{
	return vm_vcpu_of((struct vcpu *)(uintptr_t)cpu);	/* acc is its first member */
}

static bool guest_read(void *opaque, const struct acc_cpu *cpu, struct gpa gpa, void *buf, size_t len)
{
	return vm_pv_read(vcpu_of(cpu), gpa, buf, len);
}

static void regs(void *opaque, const struct acc_cpu *cpu, struct heki_regs *out)
{
	const struct vcpu *c = (const struct vcpu *)(const void *)cpu;

	*out = (struct heki_regs){
		.rip = c->rip, .rsp = c->gpr[RSP], .insns = c->stats.insns, .cr0 = cpu->cr0, .cr3 = cpu->cr3, .cr4 = cpu->cr4, .efer = cpu->efer,
		.star = c->msr.star, .lstar = c->msr.lstar, .cstar = c->msr.cstar, .sfmask = c->msr.sfmask, .sysenter_cs = c->msr.sysenter_cs,
		.sysenter_esp = c->msr.sysenter_esp, .sysenter_eip = c->msr.sysenter_eip, .gdt_base = c->gdtr.base, .idt_base = c->idtr.base,
		.cs_base = c->seg[SEG_CS].base,
		.gdt_limit = c->gdtr.limit, .idt_limit = c->idtr.limit, .ldtr = c->seg[SEG_LDTR].sel, .tr = c->seg[SEG_TR].sel,
		.cpl = cpu->cpl, .in_smm = c->ev.in_smm && !c->ev.leaving_smm, .vcpu = c->index,
	};
	if (c->machine)
		out->apic_base = vm_get_apic_base(vcpu_of(cpu));
}

static void go_back(void *opaque, const struct acc_cpu *cpu, uint64_t rip, uint64_t rax)
{
	struct vcpu *c = (struct vcpu *)(uintptr_t)cpu;

	c->rip = rip;
	c->gpr[RSP] += 8;
	c->gpr[RAX] = rax;
}

/* On the vCPU's thread, inside guest code: neither map goes meanwhile. */
static bool is_platform(void *opaque, const struct acc_cpu *cpu, struct gpa gpa)
{
	struct vm *vm = opaque;
	const struct mem_slot *ours, *theirs;

	if (likely(!cpu->space))
		return false;
	ours = mem_slot_of_gfn(acc_vm_space_map(vm->acc, cpu->space), gpa_gfn(gpa));
	theirs = mem_slot_of_gfn(acc_vm_map(vm->acc), gpa_gfn(gpa));
	return ours && (!theirs || mem_slot_hva(ours, gpa) != mem_slot_hva(theirs, gpa));
}

static bool is_rom(void *opaque, struct gfn gfn)
{
	struct vm *vm = opaque;
	const struct mem_slot *s;
	bool rom;

	acc_host_begin(vm->acc);
	s = mem_slot_of_gfn(acc_vm_map(vm->acc), gfn);
	rom = s && s->flags & MEM_READONLY;
	acc_host_end(vm->acc);
	return rom;
}

static void far_jump(void *opaque, const struct acc_cpu *cpu, uint16_t sel, uint16_t ip, bool ax)
{
	struct vcpu *c = (struct vcpu *)(uintptr_t)cpu;
	struct cpu_seg *cs = &c->seg[SEG_CS];

	if (ax)
		c->gpr[RAX] = (c->gpr[RAX] & ~0xffffull) | cs->sel;
	cs->sel = sel;
	cs->base = (uint64_t)sel << 4;
	c->rip = ip;
	cpu_state_changed(c);
}

static void shut_down(struct vcpu *c)
{
	memset(&c->ev.exception, 0, sizeof(c->ev.exception));
	c->ev.interrupt.injected = c->ev.nmi.injected = false;
	c->ev.triple_fault = true;
}

/* A moment only: INIT and SIPI may start it again, where it may execute. */
static bool park(void *opaque, const struct acc_cpu *cpu)
{
	struct vm_vcpu *v = vcpu_of(cpu);

	if (!v->lapic || v->is_bsp) {
		if (cpu->cr0 & CR0_PE)
			return false;
		shut_down(&v->c);
		return true;
	}
	v->mp_state = KVM_MP_STATE_INIT_RECEIVED;
	return true;
}

/* The new value is used by walks that begin after the forgetting that follows every change of the store. */
static void judge_walks(void *opaque)
{
	struct vm *vm = opaque;

	for (unsigned i = 0; i < vm->guards.n; i++)
		if (vm->guards.guard[i].ops == &heki_guard_ops)
			atomic_store_explicit(&vm->guards.guard[i].judges_walks, true, memory_order_relaxed);
	atomic_store_explicit(&vm->guards.any_walk, true, memory_order_relaxed);
}

static void shield(void *opaque, struct gfn first, uint64_t n, bool read_only)
{
	int prot = read_only ? PROT_READ : PROT_READ | PROT_WRITE;
	struct vm *vm = opaque;
	const struct mem_map *map;

	vm->is_shielding = true;
	acc_host_begin(vm->acc);
	map = acc_vm_map(vm->acc);
	/* The run may be all frames there are: the slots are what is walked. */
	for (unsigned i = 0; i < map->n; i++) {
		const struct mem_slot *s = &map->slot[i];
		uint64_t from = s->first.v > first.v ? s->first.v : first.v, end = s->first.v + s->n_pages;

		end = end < first.v + n ? end : first.v + n;
		if (s->hva && from < end && mprotect(mem_slot_hva(s, gfn_gpa(GFN(from))), (end - from) << GW_PAGE_SHIFT, prot))
			gw_log(GW_LOG_WARN, "heki: the client's mapping of guest memory cannot be made read-only: %s", strerror(errno));
	}
	acc_host_end(vm->acc);
}

static void log_text(void *opaque, const char *text)
{
	gw_log(GW_LOG_WARN, "%s", text);
}

static const struct heki_host host = {
	.forget = forget, .has_memory = has_memory, .read = owner_read, .write = owner_write, .guest_read = guest_read, .regs = regs,
	.is_platform = is_platform, .is_rom = is_rom, .far_jump = far_jump, .park = park, .go_back = go_back,
	.judge_walks = judge_walks, .shield = shield, .log = log_text,
};

/* ---- life --------------------------------------------------------------------------------------------------------------------- */

/* GUESTWARD_HEKI: words for clients that know nothing of it, as guestward(1) has them. */
static int policy_from_env(struct heki *h)
{
	const char *text = getenv("GUESTWARD_HEKI");
	struct heki_policy p = { 0 };

	if (!text || !*text)
		return 0;
	if (!heki_policy_parse(&p, text)) {
		gw_log(GW_LOG_ERROR, "GUESTWARD_HEKI has a word that is not known: %s", text);
		return -EINVAL;
	}
	return heki_policy_set(h, &p);
}

int vm_heki_new(struct vm *vm)
{
	struct heki_exits numbers = { .nr_configure = KVM_EXIT_HEKI_CONFIGURE, .nr_denial = KVM_EXIT_HEKI_DENIAL };
	int err = heki_new(&host, vm, &vm->heki);

	if (err)
		return err;
	heki_exits_set(vm->heki, &numbers);
	return 0;
}

/* When the access path is there: a policy makes it forget. */
int vm_heki_start(struct vm *vm)
{
	return policy_from_env(vm->heki);
}

/* Every other vCPU's lock, which KVM_RUN holds; false, and none: some vCPU runs. In no order, but nobody is waited for. */
static bool stop_others(struct vm_vcpu *v, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct vm_vcpu *o = atomic_load(&v->vm->vcpu[i]);

		if (o != v && pthread_mutex_trylock(&o->lock)) {
			while (i--) {
				o = atomic_load(&v->vm->vcpu[i]);
				if (o != v)
					pthread_mutex_unlock(&o->lock);
			}
			return false;
		}
	}
	return true;
}

/*
 * The boot processor while none runs: that is how clients reset a machine. Of one that a guest resets among others that run (a
 * client's own interrupt controllers do that for it) the lock knows nothing.
 */
void vm_heki_reset(struct vm_vcpu *v)
{
	unsigned n = atomic_load(&v->vm->n_vcpus);

	if (v->is_bsp && heki_clears_on_reset(v->vm->heki) && stop_others(v, n)) {
		heki_machine_reset(v->vm->heki);
		for (unsigned i = 0; i < n; i++)
			if (atomic_load(&v->vm->vcpu[i]) != v)
				pthread_mutex_unlock(&atomic_load(&v->vm->vcpu[i])->lock);
	}
	heki_firmware_begin(v->vm->heki, &v->c.acc);
}

/* ---- hypercalls and exits --------------------------------------------------------------------------------------------------------- */

/* True: done, *ret is RAX. False: an exit was noted; KVM_RUN returns before RAX is set. */
bool vm_heki_hypercall(struct vm_vcpu *v, uint64_t nr, const uint64_t a[4], int64_t *ret)
{
	struct vcpu *c = &v->c;
	bool exit;

	if (nr == HEKI_HC_LOCK_CR)
		*ret = heki_hc_lock_cr(v->vm->heki, &c->acc, a, &exit, &c->guard_exit);
	else
		*ret = heki_hc_protect(v->vm->heki, &c->acc, a[0], &exit, &c->guard_exit);
	if (!exit)
		return true;
	c->exit = CPU_EXIT_GUARD;
	c->stop = true;
	/* VMCALL and VMMCALL, prefixes and all. */
	v->heki_next_rip = cpu_op_next_rip(c, c->cur);
	return false;
}

bool vm_heki_is_exit(const struct vm_vcpu *v, const struct acc_exit *x)
{
	struct heki_exits e;

	heki_exits_get(v->vm->heki, &e);
	return (x->reason == e.nr_configure || x->reason == e.nr_denial) && x->err == 0;
}

/* Fields that the guard wants back are read from the client's page once. */
static uint64_t answer_word(const struct vm_vcpu *v)
{
	return __atomic_load_n((const uint64_t *)(const void *)(v->run->padding + 7 * sizeof(uint64_t)), __ATOMIC_RELAXED);
}

static void complete_configure(struct vm_vcpu *v, bool moved)
{
	struct vcpu *c = &v->c;
	int64_t ret = 0;

	if (v->heki_exit.data[0] == HEKI_REASON_MEM)
		ret = heki_hc_protect_end(v->vm->heki, &c->acc, answer_word(v) == 0);
	c->gpr[RAX] = c->mode == INSN_MODE_64 ? (uint64_t)ret : (uint32_t)ret;
	if (!moved)
		c->rip = v->heki_next_rip & c->rip_mask;
	c->shadow = 0;
}

static void complete_denial(struct vm_vcpu *v, bool moved)
{
	const struct acc_exit *x = &v->heki_exit;
	struct vcpu *c = &v->c;
	/* Where the series has no action field, 0 stands in its reserved words: inject. */
	uint64_t action = answer_word(v);

	if (action == HEKI_SHUTDOWN) {
		shut_down(c);
		return;
	}
	if (x->data[0] != HEKI_REASON_MEM && action == HEKI_INJECT) {
		/* Whatever the client did to registers. */
		cpu_fault(c, VEC_GP, 0);
		c->stop = false;
		return;
	}
	if (moved || action > HEKI_IGNORE || action == HEKI_RETRY)
		return;
	c->alone_wanted = true;
	heki_answer(v->vm->heki, &c->acc, x, (enum heki_action)action);
}

void vm_heki_complete(struct vm_vcpu *v, bool moved)
{
	struct heki_exits e;

	heki_exits_get(v->vm->heki, &e);
	if (v->heki_exit.reason == e.nr_configure)
		complete_configure(v, moved);
	else
		complete_denial(v, moved);
}
