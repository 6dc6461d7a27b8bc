/* SPDX-License-Identifier: MIT */
/* Capabilities and ioctls of kernel integrity: the client's view of src/heki/heki.h, with the client's attribute bits. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/kvm.h"

#define REASONS_RFC	(KVM_HEKI_EXIT_REASON_CR0 | KVM_HEKI_EXIT_REASON_CR4)
#define REASONS_OF(cap)	((cap) == KVM_CAP_HEKI_DENIAL ? (uint64_t)HEKI_REASONS : HEKI_REASONS & ~(uint64_t)HEKI_REASON_REG)
#define MAX_EVENTS	1024u

_Static_assert(HEKI_REASON_CR0 == KVM_HEKI_EXIT_REASON_CR0 && HEKI_REASON_CR4 == KVM_HEKI_EXIT_REASON_CR4 &&
	       HEKI_REASON_MEM == KVM_HEKI_EXIT_REASON_MEM && HEKI_REASON_REG == KVM_HEKI_EXIT_REASON_REG, "ABI");
_Static_assert(HEKI_SHUTDOWN == GW_HEKI_SHUTDOWN && HEKI_IGNORE == GW_HEKI_IGNORE && HEKI_ACCESS_GVA == GW_HEKI_ACCESS_GVA, "ABI");
_Static_assert(HEKI_EV_DEFECT == GW_HEKI_EV_DEFECT && sizeof(struct heki_event) == sizeof(struct gw_heki_event) &&
	       offsetof(struct heki_event, hash) == offsetof(struct gw_heki_event, hash), "ABI");
_Static_assert(HEKI_LOCK_AT_EXEC == GW_HEKI_LOCK_AT_EXEC && HEKI_PATH_SIZE == sizeof(((struct gw_heki_policy *)0)->lock_path), "ABI");
_Static_assert(sizeof(struct heki_counters) == sizeof(struct gw_heki_counters), "ABI");

/* ---- capabilities ------------------------------------------------------------------------------------------------------------ */

/* 0: none of ours. With RFC numbers those too, and with the series' reasons only. */
long kvm_heki_check_extension(struct vm *vm, unsigned long cap)
{
	bool rfc = vm && vm->has_heki_rfc_numbers;

	switch (cap) {
	case KVM_CAP_HEKI_CONFIGURE:
	case KVM_CAP_HEKI_DENIAL:
		return (long)REASONS_OF(cap);
	case GW_CAP_HEKI:
	case GW_CAP_HEKI_RFC_NUMBERS:
		return 1;
	case GW_HEKI_RFC_CAP_CONFIGURE:
	case GW_HEKI_RFC_CAP_DENIAL:
		return rfc ? (long)REASONS_RFC : 0;
	}
	return 0;
}

bool kvm_heki_hides(struct vm *vm, unsigned long cap)
{
	return vm && vm->has_heki_rfc_numbers && (cap == GW_HEKI_RFC_CAP_CONFIGURE || cap == GW_HEKI_RFC_CAP_DENIAL);
}

static long set_reasons(struct vm *vm, bool denial, uint64_t arg, uint64_t known)
{
	struct heki_exits e;

	if (arg & ~known)
		return -EINVAL;
	heki_exits_get(vm->heki, &e);
	*(denial ? &e.denial : &e.configure) = (uint32_t)arg;
	heki_exits_set(vm->heki, &e);
	return 0;
}

static long set_rfc_numbers(struct vm *vm, uint64_t arg)
{
	struct heki_exits e;

	if (arg > 1)
		return -EINVAL;
	heki_exits_get(vm->heki, &e);
	e.nr_configure = arg ? GW_HEKI_RFC_EXIT_CONFIGURE : KVM_EXIT_HEKI_CONFIGURE;
	e.nr_denial = arg ? GW_HEKI_RFC_EXIT_DENIAL : KVM_EXIT_HEKI_DENIAL;
	heki_exits_set(vm->heki, &e);
	vm->has_heki_rfc_numbers = arg;
	return 0;
}

/* -ENOENT: not one of ours. With vm->lock held. */
long kvm_heki_enable_cap(struct vm *vm, const struct kvm_enable_cap *cap)
{
	uint64_t arg = cap->args[0];

	switch (cap->cap) {
	case KVM_CAP_HEKI_CONFIGURE:
	case KVM_CAP_HEKI_DENIAL:
		return set_reasons(vm, cap->cap == KVM_CAP_HEKI_DENIAL, arg, REASONS_OF(cap->cap));
	case GW_CAP_HEKI_RFC_NUMBERS:
		return set_rfc_numbers(vm, arg);
	}
	if (kvm_heki_hides(vm, cap->cap))
		return set_reasons(vm, cap->cap == GW_HEKI_RFC_CAP_DENIAL, arg, REASONS_RFC);
	return -ENOENT;
}

/* ---- attributes ---------------------------------------------------------------------------------------------------------------- */

static const struct { uint64_t theirs; uint8_t ours; bool negated; } bits[] = {
	{ GW_HEKI_NR, HEKI_R, true }, { GW_HEKI_NW, HEKI_W, true }, { GW_HEKI_NXS, HEKI_XS, true }, { GW_HEKI_NXU, HEKI_XU, true },
	{ GW_HEKI_IMMUTABLE, HEKI_IMMUTABLE, false }, { GW_HEKI_SEALED, HEKI_SEALED, false }, { GW_HEKI_POKE, HEKI_POKE, false },
};

#define THEIR_BITS (GW_HEKI_NR | GW_HEKI_NW | GW_HEKI_NX | GW_HEKI_NXS | GW_HEKI_NXU | GW_HEKI_IMMUTABLE | GW_HEKI_SEALED | GW_HEKI_POKE)

static uint64_t spread_nx(uint64_t theirs)
{
	return theirs & GW_HEKI_NX ? (theirs & ~GW_HEKI_NX) | GW_HEKI_NXS | GW_HEKI_NXU : theirs;
}

static void to_ours(uint64_t attributes, uint64_t mask, uint32_t *set, uint32_t *which)
{
	*set = *which = 0;
	attributes = spread_nx(attributes);
	mask = spread_nx(mask);
	for (unsigned i = 0; i < ARRAY_SIZE(bits); i++) {
		if (!(mask & bits[i].theirs))
			continue;
		*which |= bits[i].ours;
		if (!(attributes & bits[i].theirs) == bits[i].negated)
			*set |= bits[i].ours;
	}
}

static uint64_t to_theirs(uint32_t ours)
{
	uint64_t t = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(bits); i++)
		if (!(ours & bits[i].ours) == bits[i].negated)
			t |= bits[i].theirs;
	if ((t & (GW_HEKI_NXS | GW_HEKI_NXU)) == (GW_HEKI_NXS | GW_HEKI_NXU))
		t = (t & ~(GW_HEKI_NXS | GW_HEKI_NXU)) | GW_HEKI_NX;
	return t;
}

long kvm_heki_set_attributes(struct kvm_call *k)
{
	const struct gw_heki_attributes *a = k->data;
	struct gfn first = gpa_gfn(GPA(a->address));
	uint64_t n = a->size >> GW_PAGE_SHIFT, set_bits = spread_nx(a->attributes);
	uint32_t set, which;

	if (a->flags & ~GW_HEKI_ATTR_CLEAR || (a->address | a->size) & GW_PAGE_MASK || !n || a->address + a->size - 1 < a->address)
		return -EINVAL;
	if (a->flags & GW_HEKI_ATTR_CLEAR)
		return a->attributes || a->mask ? -EINVAL : heki_clear(k->vm->heki, first, n);
	if ((a->attributes | a->mask) & ~THEIR_BITS || spread_nx(a->attributes) & ~spread_nx(a->mask))
		return -EINVAL;
	/* Writing or executing what cannot be read: no processor of today can do that with every page size. */
	if (a->attributes & GW_HEKI_NR && (set_bits & (GW_HEKI_NW | GW_HEKI_NXS | GW_HEKI_NXU)) != (GW_HEKI_NW | GW_HEKI_NXS | GW_HEKI_NXU))
		return -EINVAL;
	to_ours(a->attributes, a->mask, &set, &which);
	return heki_set(k->vm->heki, first, n, set, which);
}

long kvm_heki_get_attributes(struct kvm_call *k)
{
	struct gw_heki_attributes *a = k->data;
	struct heki_run r;

	if (a->address & GW_PAGE_MASK || a->flags)
		return -EINVAL;
	if (!heki_next(k->vm->heki, gpa_gfn(GPA(a->address)), &r))
		return -ENOENT;
	*a = (struct gw_heki_attributes){ .address = gfn_gpa(r.first).v, .size = r.n << GW_PAGE_SHIFT, .attributes = to_theirs(r.attributes) };
	return 0;
}

/* ---- policy, state ------------------------------------------------------------------------------------------------------------------ */

#define POLICY_FLAGS (GW_HEKI_POLICY_UNASSISTED | GW_HEKI_POLICY_LOCK_REGISTERS | GW_HEKI_POLICY_ALLOW_WX | GW_HEKI_POLICY_SHIELD | \
		      GW_HEKI_POLICY_KPROBES | GW_HEKI_POLICY_CLEAR_ON_RESET)

long kvm_heki_set_policy(struct kvm_call *k)
{
	const struct gw_heki_policy *p = k->data;
	struct heki_policy ours = {
		.inject = (uint8_t)p->inject, .dynamic = (uint8_t)p->dynamic,
		.unassisted = p->flags & GW_HEKI_POLICY_UNASSISTED, .lock_registers = p->flags & GW_HEKI_POLICY_LOCK_REGISTERS,
		.allow_wx = p->flags & GW_HEKI_POLICY_ALLOW_WX, .shield = p->flags & GW_HEKI_POLICY_SHIELD,
		.allow_kprobes = p->flags & GW_HEKI_POLICY_KPROBES, .clear_on_reset = p->flags & GW_HEKI_POLICY_CLEAR_ON_RESET,
		.lock_at = (uint8_t)p->lock_at, .lock_seconds = p->lock_seconds,
	};

	if (p->inject > GW_HEKI_INJECT_RFC || p->dynamic > GW_HEKI_MIRRORED || p->flags & ~POLICY_FLAGS ||
	    p->lock_at > GW_HEKI_LOCK_AT_EXEC || !memchr(p->lock_path, 0, sizeof(p->lock_path)))
		return -EINVAL;
	memcpy(ours.lock_path, p->lock_path, sizeof(ours.lock_path));
	return heki_policy_set(k->vm->heki, &ours);
}

long kvm_heki_get_policy(struct kvm_call *k)
{
	struct gw_heki_policy *p = k->data;
	struct heki_policy ours;

	heki_policy_get(k->vm->heki, &ours);
	*p = (struct gw_heki_policy){
		.inject = ours.inject, .dynamic = ours.dynamic, .lock_at = ours.lock_at, .lock_seconds = ours.lock_seconds,
		.flags = (ours.unassisted ? GW_HEKI_POLICY_UNASSISTED : 0) | (ours.lock_registers ? GW_HEKI_POLICY_LOCK_REGISTERS : 0) |
			 (ours.allow_wx ? GW_HEKI_POLICY_ALLOW_WX : 0) | (ours.shield ? GW_HEKI_POLICY_SHIELD : 0) |
			 (ours.allow_kprobes ? GW_HEKI_POLICY_KPROBES : 0) | (ours.clear_on_reset ? GW_HEKI_POLICY_CLEAR_ON_RESET : 0),
	};
	memcpy(p->lock_path, ours.lock_path, sizeof(p->lock_path));
	return 0;
}

long kvm_heki_lock(struct kvm_call *k)
{
	return heki_request_lock(k->vm->heki) ? -EINVAL : 0;
}

long kvm_heki_judge_dma(struct kvm_call *k)
{
	const struct gw_heki_dma *d = k->data;

	if (d->address + d->size < d->address)
		return -EINVAL;
	return heki_judge_dma(k->vm->heki, GPA(d->address), d->size) ? 0 : -EACCES;
}

long kvm_heki_get_state(struct kvm_call *k)
{
	struct gw_heki_state *out = k->data;
	struct heki_state s;

	heki_state_get(k->vm->heki, &s);
	*out = (struct gw_heki_state){ s.pinned_cr0, s.pinned_cr4, s.locked, to_theirs(s.default_rights) };
	return 0;
}

long kvm_heki_set_state(struct kvm_call *k)
{
	const struct gw_heki_state *in = k->data;
	struct heki_state s = { .pinned_cr0 = in->pinned_cr0, .pinned_cr4 = in->pinned_cr4, .locked = in->locked };
	uint32_t which;

	if (in->locked > 1 || in->default_attributes & ~(GW_HEKI_NR | GW_HEKI_NW | GW_HEKI_NX | GW_HEKI_NXS | GW_HEKI_NXU))
		return -EINVAL;
	to_ours(in->default_attributes, GW_HEKI_NR | GW_HEKI_NW | GW_HEKI_NX, &s.default_rights, &which);
	return heki_state_set(k->vm->heki, &s);
}

long kvm_heki_get_vcpu(struct kvm_call *k)
{
	struct gw_heki_vcpu *out = k->data;
	uint64_t cr0, cr4;

	heki_vcpu_get(k->vm->heki, k->v->index, &cr0, &cr4);
	*out = (struct gw_heki_vcpu){ cr0, cr4 };
	return 0;
}

long kvm_heki_set_vcpu(struct kvm_call *k)
{
	const struct gw_heki_vcpu *in = k->data;

	heki_vcpu_set(k->vm->heki, k->v->index, in->held_cr0, in->held_cr4);
	return 0;
}

long kvm_heki_reset(struct kvm_call *k)
{
	return k->arg > 1 ? -EINVAL : heki_reset(k->vm->heki, k->arg);
}

/* ---- log ---------------------------------------------------------------------------------------------------------------------------------- */

long kvm_heki_events(struct kvm_call *k)
{
	const struct gw_heki_events *a = k->data;
	unsigned max = a->max < MAX_EVENTS ? a->max : MAX_EVENTS, n;
	struct heki_event *e;
	int err;

	if (a->pad)
		return -EINVAL;
	if (!max)
		return 0;
	e = calloc(max, sizeof(*e));
	if (!e)
		return -ENOMEM;
	n = heki_events(k->vm->heki, a->seq, e, max);
	err = kvm_copy_out(a->buf, e, n * sizeof(*e));
	free(e);
	return err ? err : (long)n;
}

long kvm_heki_counters(struct kvm_call *k)
{
	heki_counters(k->vm->heki, k->data);
	return 0;
}
