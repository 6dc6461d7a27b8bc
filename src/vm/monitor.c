/* SPDX-License-Identifier: MIT */
/*
 * Introspection's place in the VM: what the room needs of its machine. What is judged, asked and answered is in src/monitor.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cpu/host/fpu.h"
#include "mem/gmem.h"
#include "vm/vm.h"

static struct vcpu *cpu_of(struct acc_cpu *cpu) { return (struct vcpu *)(void *)cpu; }	/* acc is its first member */
static struct vm_vcpu *vcpu_of(struct acc_cpu *cpu) { return vm_vcpu_of(cpu_of(cpu)); }

static unsigned n_vcpus(void *opaque)
{
	struct vm *vm = opaque;

	return atomic_load(&vm->n_vcpus);
}

static unsigned index_of(const struct acc_cpu *cpu)
{
	return ((const struct vcpu *)(const void *)cpu)->index;
}

static void forget(void *opaque, struct gfn first, uint64_t n, uint8_t rights)
{
	struct vm *vm = opaque;

	acc_forget(vm->acc, NULL, first, n, rights);
}

static void flush(void *opaque, struct acc_cpu *cpu)
{
	(void)opaque;
	acc_flush_all(cpu);
}

static uint8_t *frame(void *opaque, struct acc_cpu *cpu, struct gfn gfn, bool write)
{
	struct vm *vm = opaque;
	const struct mem_map *map;
	const struct mem_slot *s;
	uint8_t *hva = NULL;

	if (!cpu)
		acc_host_begin(vm->acc);
	map = cpu && cpu->in_guest ? cpu->map : acc_vm_map(vm->acc);
	s = mem_slot_of_gfn(map, gfn);
	/* Private frames are nobody's to show, and read-only ones would have to behave as devices. */
	if (s && s->hva && !(s->flags & (MEM_READONLY | MEM_GMEM_ONLY)) && !(map->kinds && mem_kinds_is_private(map->kinds, gfn))) {
		hva = mem_slot_hva(s, gfn_gpa(gfn));
		if (write && s->dirty)
			acc_mark_dirty(vm->acc, cpu, s, gfn);
	}
	if (!cpu)
		acc_host_end(vm->acc);
	return hva;
}

static bool is_memory(void *opaque, struct gfn gfn)
{
	struct vm *vm = opaque;
	bool ok;

	acc_host_begin(vm->acc);
	ok = mem_slot_of_gfn(acc_vm_map(vm->acc), gfn) != NULL;
	acc_host_end(vm->acc);
	return ok;
}

static uint64_t max_gfn(void *opaque)
{
	struct vm *vm = opaque;
	const struct mem_map *map;
	uint64_t max = 0;

	acc_host_begin(vm->acc);
	map = acc_vm_map(vm->acc);
	for (unsigned i = 0; i < map->n; i++)
		if (map->slot[i].first.v + map->slot[i].n_pages - 1 > max)
			max = map->slot[i].first.v + map->slot[i].n_pages - 1;
	acc_host_end(vm->acc);
	return max;
}

static uint64_t n_pages(void *opaque)
{
	struct vm *vm = opaque;
	const struct mem_map *map;
	uint64_t n = 0;

	acc_host_begin(vm->acc);
	map = acc_vm_map(vm->acc);
	for (unsigned i = 0; i < map->n; i++)
		n += map->slot[i].n_pages;
	acc_host_end(vm->acc);
	return n;
}

/* The new value is used by walks that begin after the forgetting that follows. */
static void judge_walks(void *opaque, bool on)
{
	struct vm *vm = opaque;
	bool any = false;

	for (unsigned i = 0; i < vm->guards.n; i++) {
		if (vm->guards.guard[i].ops == &mon_guard_ops)
			atomic_store_explicit(&vm->guards.guard[i].judges_walks, on, memory_order_relaxed);
		any |= atomic_load_explicit(&vm->guards.guard[i].judges_walks, memory_order_relaxed);
	}
	atomic_store_explicit(&vm->guards.any_walk, any, memory_order_relaxed);
}

static void wants(void *opaque, uint32_t mask)
{
	struct vm *vm = opaque;
	unsigned n = atomic_load(&vm->n_vcpus);

	for (unsigned i = 0; i < n; i++)
		atomic_store(&atomic_load(&vm->vcpu[i])->c.ext_wants, mask);
}

static void wants_of(struct acc_cpu *cpu, uint32_t mask)
{
	atomic_store(&cpu_of(cpu)->ext_wants, mask);
}

static void alone(struct acc_cpu *cpu, bool on)
{
	cpu_of(cpu)->ext_alone = on;
}

static void again(struct acc_cpu *cpu)
{
	cpu_of(cpu)->ext_again = true;
}

static void code(struct acc_cpu *cpu, const uint8_t *bytes)
{
	struct vm_vcpu *v = vcpu_of(cpu);

	if (bytes)
		memcpy(v->mon_code, bytes, sizeof(v->mon_code));
	v->c.ext_code = bytes ? v->mon_code : NULL;
}

static uint64_t rip(const struct acc_cpu *cpu)
{
	return ((const struct vcpu *)(const void *)cpu)->rip;
}

static void regs(struct acc_cpu *cpu, struct gw_mon_regs *out)
{
	struct vm_vcpu *v = vcpu_of(cpu);
	const struct vcpu *c = &v->c;

	vm_get_regs(v, &out->regs);
	vm_get_sregs(v, &out->sregs);
	memcpy(out->dr, c->dr, sizeof(out->dr));
	out->dr6 = c->dr6;
	out->dr7 = c->dr7;
	out->star = c->msr.star;
	out->lstar = c->msr.lstar;
	out->cstar = c->msr.cstar;
	out->sfmask = c->msr.sfmask;
	out->kernel_gs_base = c->msr.kernel_gs_base;
	out->sysenter_cs = c->msr.sysenter_cs;
	out->sysenter_esp = c->msr.sysenter_esp;
	out->sysenter_eip = c->msr.sysenter_eip;
}

static void set_regs(struct acc_cpu *cpu, const struct kvm_regs *r)
{
	vm_set_regs(vcpu_of(cpu), r);
}

static bool translate(struct acc_cpu *cpu, uint64_t gla, uint64_t *gpa)
{
	/* As the supervisor and, because SMAP hides the user's pages from it, as the user. */
	for (unsigned i = 0; i < 2; i++) {
		struct acc_request rq = { .cpu = cpu, .gva = GVA(gla), .len = 1, .rights = ACC_R, .stage = i ? ACC_FINAL : ACC_IMPLICIT,
					  .cpl = i ? 3 : 0, .origin = ACC_IOCTL };
		struct acc_result res;

		if (acc_translate(&rq, &res) == ACC_ALLOW) {
			*gpa = rq.gpa.v;
			return true;
		}
	}
	return false;
}

/* Types as VT-x numbers them: 0 external, 2 NMI, 3 exception, 4 INT n, 5 INT1, 6 INT3 or INTO. */
static void inject(struct acc_cpu *cpu, unsigned vector, unsigned type, uint32_t error, unsigned length, uint64_t cr2)
{
	struct vcpu *c = cpu_of(cpu);

	if (type == 2) {
		c->ev.nmi.injected = true;
		return;
	}
	if (type == 0 || type == 4) {
		if (type == 4)
			c->rip = (c->rip + length) & c->rip_mask;
		c->ev.interrupt.injected = true;
		c->ev.interrupt.vector = (uint8_t)vector;
		c->ev.interrupt.soft = type == 4;
		return;
	}
	memset(&c->ev.exception, 0, sizeof(c->ev.exception));
	c->ev.exception.pending = true;
	c->ev.exception.vector = (uint8_t)vector;
	c->ev.exception.has_error = error != ~0u && type == 3;
	c->ev.exception.error = error != ~0u ? error : 0;
	c->ev.exception.soft = type == 6;
	c->ev.exception.icebp = type == 5;
	c->ev.exception.soft_len = (uint8_t)length;
	if (vector == VEC_PF || vector == VEC_DB) {
		c->ev.exception.has_payload = true;
		c->ev.exception.payload = cr2;
	}
	c->ext_no_ask = true;
}

static void outside(struct acc_cpu *cpu, bool begin)
{
	if (begin)
		acc_leave(cpu);
	else
		acc_enter(cpu);
}

static void stood(struct acc_cpu *cpu)
{
	if (unlikely(atomic_load_explicit(&vcpu_of(cpu)->vm->is_mapped_out, memory_order_relaxed)))
		cpu_memory_touched(cpu_of(cpu));
}

static bool block(struct acc_cpu *cpu, int fd, int tick_ms, bool (*ready)(void *arg), void *arg)
{
	return vm_vcpu_wait(vcpu_of(cpu), fd, tick_ms, ready, arg);
}

static void wake(void *opaque, unsigned vcpu)
{
	struct vm *vm = opaque;

	vm_vcpu_kick(atomic_load(&vm->vcpu[vcpu]), 0);
}

static void kick(void *opaque, unsigned vcpu)
{
	struct vm *vm = opaque;

	vm_vcpu_kick(atomic_load(&vm->vcpu[vcpu]), ACC_ATT_EXIT);
}

static void foreign(struct acc_cpu *cpu, bool begin)
{
	if (begin)
		cpu_fpu_lend(cpu_of(cpu));
	else
		cpu_fpu_take_back(cpu_of(cpu));
}

static bool move(struct vm *vm, struct gpa gpa, void *to, const void *from, size_t len)
{
	uint8_t *page = NULL;

	acc_host_begin(vm->acc);
	page = frame(vm, NULL, gpa_gfn(gpa), from != NULL);
	if (page && from) {
		memcpy(page + (gpa.v & GW_PAGE_MASK), from, len);
		acc_store_done(vm->acc, page + (gpa.v & GW_PAGE_MASK), (unsigned)len);
	} else if (page) {
		memcpy(to, page + (gpa.v & GW_PAGE_MASK), len);
	}
	acc_host_end(vm->acc);
	return page;
}

static bool read_memory(void *vm, struct gpa gpa, void *buf, size_t len)
{
	return move(vm, gpa, buf, NULL, len);
}

static bool write_memory(void *vm, struct gpa gpa, const void *buf, size_t len)
{
	return move(vm, gpa, NULL, buf, len);
}

/*
 * By a copy of the vCPU's registers, taken as they are: one that runs may change them under us, as it may its tables. The memory map
 * is the VM's, which holds still meanwhile; the vCPU's own may be freed as it goes on.
 */
static bool translate_vcpu(void *opaque, unsigned vcpu, uint64_t gla, uint64_t *gpa)
{
	struct vm *vm = opaque;
	const struct acc_cpu *of = &atomic_load(&vm->vcpu[vcpu])->c.acc;
	struct acc_cpu *as = calloc(1, sizeof(*as));	/* most of it is a TLB, and is not touched */
	bool ok;

	if (!as)
		return false;
	as->vm = vm->acc;
	as->cr0 = of->cr0;
	as->cr3 = of->cr3;
	as->cr4 = of->cr4;
	as->efer = of->efer;
	memcpy(as->pdptr, of->pdptr, sizeof(as->pdptr));
	as->pkru = of->pkru;
	as->pkrs = of->pkrs;
	as->maxphyaddr = of->maxphyaddr;
	as->space = of->space;
	ok = translate(as, gla, gpa);
	free(as);
	return ok;
}

static void get_on_vcpu(struct vcpu *c, void *out)
{
	regs(&c->acc, out);
}

static void get_vcpu(void *opaque, unsigned vcpu, struct gw_mon_regs *out)
{
	struct vm *vm = opaque;

	vm_vcpu_service(atomic_load(&vm->vcpu[vcpu]), get_on_vcpu, out);
}

struct setting { const struct gw_mon_regs *r; int err; };

/* As the client's ioctls would, with their refusals. */
static int set_state(struct vm_vcpu *v, const struct gw_mon_regs *r)
{
	const struct { uint32_t index; uint64_t value; } msr[] = {
		{ 0xc0000081, r->star }, { 0xc0000082, r->lstar }, { 0xc0000083, r->cstar }, { 0xc0000084, r->sfmask },
		{ 0xc0000102, r->kernel_gs_base }, { 0x174, r->sysenter_cs }, { 0x175, r->sysenter_esp }, { 0x176, r->sysenter_eip },
	};
	struct kvm_debugregs debug;
	struct kvm_sregs now;
	int err = 0;

	vm_get_sregs(v, &now);
	if (memcmp(&now, &r->sregs, sizeof(now)))
		err = vm_set_sregs(v, &r->sregs);
	vm_get_debugregs(v, &debug);
	if (!err && (debug.dr6 != r->dr6 || debug.dr7 != r->dr7 || memcmp(debug.db, r->dr, sizeof(debug.db)))) {
		memcpy(debug.db, r->dr, sizeof(debug.db));
		debug.dr6 = r->dr6;
		debug.dr7 = r->dr7;
		err = vm_set_debugregs(v, &debug);
	}
	for (unsigned i = 0; !err && i < ARRAY_SIZE(msr); i++)
		if (vm_msr_set(v, msr[i].index, msr[i].value))
			err = -EINVAL;
	if (!err)
		vm_set_regs(v, &r->regs);
	return err;
}

static void set_on_vcpu(struct vcpu *c, void *arg)
{
	struct setting *s = arg;
	struct gw_mon_regs before = { 0 };

	regs(&c->acc, &before);
	s->err = set_state(vm_vcpu_of(c), s->r);
	if (s->err)
		set_state(vm_vcpu_of(c), &before);	/* all or nothing */
}

static void nothing(struct vcpu *c, void *arg)
{
	(void)c;
	(void)arg;
}

static void sync_vcpu(void *opaque, unsigned vcpu)
{
	struct vm *vm = opaque;

	vm_vcpu_service(atomic_load(&vm->vcpu[vcpu]), nothing, NULL);
}

static int set_vcpu(void *opaque, unsigned vcpu, const struct gw_mon_regs *r)
{
	struct vm *vm = opaque;
	struct setting s = { .r = r };

	vm_vcpu_service(atomic_load(&vm->vcpu[vcpu]), set_on_vcpu, &s);
	return s.err;
}

static int map_memory(void *opaque, struct gfn gfn, struct gfn *first, uint64_t *pages, uint64_t *offset)
{
	struct vm *vm = opaque;
	const struct mem_slot *s;
	struct mem_slot copy;
	uint64_t at;
	int fd;

	acc_host_begin(vm->acc);
	s = mem_slot_of_gfn(acc_vm_map(vm->acc), gfn);
	if (s)
		copy = *s;
	acc_host_end(vm->acc);
	if (!s)
		return -ESRCH;
	/* A page of theirs that is shared now may be private later, and a mapping would stay. */
	if (!copy.hva || copy.gmem)
		return -EOPNOTSUPP;
	at = (gfn.v - copy.first.v) << GW_PAGE_SHIFT;
	fd = mem_file_of(copy.hva, copy.n_pages << GW_PAGE_SHIFT, at, copy.flags & MEM_READONLY, &at, pages, offset);
	*first = GFN(copy.first.v + (at >> GW_PAGE_SHIFT));
	*pages >>= GW_PAGE_SHIFT;
	if (fd >= 0)
		atomic_store(&vm->is_mapped_out, true);
	return fd;
}

static void log_text(const char *text)
{
	gw_log(GW_LOG_WARN, "%s", text);
}

static const struct mon_host host = {
	.n_vcpus = n_vcpus, .index = index_of, .forget = forget, .flush = flush, .frame = frame, .is_memory = is_memory, .max_gfn = max_gfn, .n_pages = n_pages,
	.judge_walks = judge_walks, .wants = wants, .wants_of = wants_of, .alone = alone, .again = again, .code = code, .rip = rip, .regs = regs,
	.set_regs = set_regs, .translate = translate, .inject = inject, .outside = outside, .block = block, .wake = wake, .kick = kick,
	.foreign = foreign, .read = read_memory, .write = write_memory,
	.translate_vcpu = translate_vcpu, .stood = stood, .sync_vcpu = sync_vcpu, .get_vcpu = get_vcpu, .set_vcpu = set_vcpu, .map = map_memory, .log = log_text,
};

int vm_monitor_new(struct vm *vm)
{
	return mon_new(&host, vm, &vm->monitor);
}
