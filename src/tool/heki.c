/* SPDX-License-Identifier: MIT */
/* `--protect heki`. See heki.h. The exits and ioctls are those of <guestward/kvm.h>; examples/heki.c shows them alone. */
#include "heki.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "err.h"
#include "machine.h"

#define MAX_EVENTS 1024

static struct {
	bool on;
	enum heki_on_denial on_denial;
} state;

static const struct word {
	const char *text;
	uint64_t flag;
	int dynamic, inject;	/* -1: not about that */
} words[] = {
	{ "heki", GW_HEKI_POLICY_UNASSISTED, -1, -1 },
	{ "sealed-once", 0, GW_HEKI_SEALED_ONCE, -1 },
	{ "frozen", 0, GW_HEKI_FROZEN, -1 },
	{ "mirrored", 0, GW_HEKI_MIRRORED, -1 },
	{ "rfc-codes", 0, -1, GW_HEKI_INJECT_RFC },
	{ "lock-registers", GW_HEKI_POLICY_LOCK_REGISTERS, -1, -1 },
	{ "shield", GW_HEKI_POLICY_SHIELD, -1, -1 },
	{ "kprobes", GW_HEKI_POLICY_KPROBES, -1, -1 },
};

static const struct word *find_word(const char *text, size_t len)
{
	size_t i;

	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strlen(words[i].text) == len && !memcmp(words[i].text, text, len))
			return &words[i];
	return NULL;
}

static const char *parse(const char *text, struct gw_heki_policy *p)
{
	for (;;) {
		size_t len = strcspn(text, ",");
		const struct word *w = find_word(text, len);

		if (!w)
			return text;
		p->flags |= w->flag;
		if (w->dynamic >= 0)
			p->dynamic = (unsigned)w->dynamic;
		if (w->inject >= 0)
			p->inject = (unsigned)w->inject;
		if (!text[len])
			return NULL;
		text += len + 1;
	}
}

const char *heki_check_words(const char *text)
{
	struct gw_heki_policy p = { 0 };
	const char *bad = parse(text, &p);

	return bad ? bad : p.flags & GW_HEKI_POLICY_UNASSISTED ? NULL : text;
}

static int vm_ioctl(struct machine *m, unsigned long nr, void *arg)
{
	return (int)m->backend->ioctl(m->vm_fd, nr, (unsigned long)arg);
}

int heki_start(struct machine *m, const char *text, enum heki_on_denial on_denial, struct err *err)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_HEKI_DENIAL, .args = {
		KVM_HEKI_EXIT_REASON_CR0 | KVM_HEKI_EXIT_REASON_CR4 | KVM_HEKI_EXIT_REASON_MEM | KVM_HEKI_EXIT_REASON_REG } };
	struct gw_heki_policy p = { 0 };
	int ret;

	if (!text)
		return 0;
	if (m->backend->ioctl(m->vm_fd, KVM_CHECK_EXTENSION, GW_CAP_HEKI) <= 0)
		return err_set(err, "--protect: this engine has no kernel integrity");
	parse(text, &p);
	ret = vm_ioctl(m, GW_HEKI_SET_POLICY, &p);
	if (!ret)
		ret = vm_ioctl(m, KVM_ENABLE_CAP, &cap);
	if (ret < 0)
		return err_set(err, "--protect %s: %s", text, strerror(-ret));
	state.on = true;
	state.on_denial = on_denial;
	return 0;
}

/* ---- exits ------------------------------------------------------------------------------------------------------------ */

static const char *access_name(uint64_t access)
{
	if (access & GW_HEKI_ACCESS_X)
		return "execution";
	return access & GW_HEKI_ACCESS_W ? "write" : "read";
}

static void pause_here(struct machine *m)
{
	static const struct timespec while_paused = { .tv_nsec = 50000000 };

	while (atomic_load(&m->stopped) == STOP_NONE)
		nanosleep(&while_paused, NULL);
}

bool heki_exit(struct vcpu *v)
{
	struct gw_run_heki_denial *d = (struct gw_run_heki_denial *)(void *)v->run->padding;
	struct machine *m = v->machine;
	char text[160];

	if (!state.on || v->run->exit_reason != KVM_EXIT_HEKI_DENIAL)
		return false;
	if (d->reason == KVM_HEKI_EXIT_REASON_MEM)
		snprintf(text, sizeof(text), "CPU %u: %s at %016" PRIx64 " (physical %" PRIx64 ") by code at %016" PRIx64, v->id,
			 access_name(d->mem.access), (uint64_t)d->mem.gva, (uint64_t)d->mem.gpa, (uint64_t)d->mem.rip);
	else
		snprintf(text, sizeof(text), "CPU %u: write of %" PRIx64 " to %s", v->id, (uint64_t)d->cr.value,
			 d->reason == KVM_HEKI_EXIT_REASON_CR0 ? "CR0" : d->reason == KVM_HEKI_EXIT_REASON_CR4 ? "CR4" : "a locked register");
	fprintf(stderr, "guestward: denied: %s\r\n", text);
	switch (state.on_denial) {
	case ON_DENIAL_STOP:
		machine_stop(m, STOP_GUEST_DIED, 0, "stopped at a denied access (%s)", text);
		return true;
	case ON_DENIAL_PAUSE:
		fprintf(stderr, "guestward: CPU %u is paused; guestward dump shows it\r\n", v->id);
		pause_here(m);
		return true;
	default:
		break;
	}
	/* The last word of both payloads. */
	d->reserved[6] = state.on_denial == ON_DENIAL_IGNORE ? GW_HEKI_IGNORE : GW_HEKI_INJECT;
	return true;
}

/* ---- report ------------------------------------------------------------------------------------------------------------- */

static const char *const kinds[] = { "denied", "pinned", "protected", "locked", "sealed", "released", "patched", "refused", "client", "writable code" };

static void print_event(FILE *to, const struct gw_heki_event *e)
{
	unsigned i;

	fprintf(to, "heki: %-13s cpu %u gpa %012" PRIx64 " gva %016" PRIx64 " rip %016" PRIx64 " value %" PRIx64,
		e->kind < sizeof(kinds) / sizeof(kinds[0]) ? kinds[e->kind] : "?", e->vcpu, (uint64_t)e->gpa, (uint64_t)e->gva, (uint64_t)e->rip,
		(uint64_t)e->value);
	if (e->repeat)
		fprintf(to, " and %u more", e->repeat);
	if (e->kind == GW_HEKI_EV_SEALED) {
		fputs(" sha256 ", to);
		for (i = 0; i < sizeof(e->hash); i++)
			fprintf(to, "%02x", e->hash[i]);
	}
	fputc('\n', to);
}

void heki_report(FILE *to, struct machine *m, bool all)
{
	static struct gw_heki_event events[MAX_EVENTS];
	struct gw_heki_events ask = { .buf = (uintptr_t)events, .max = MAX_EVENTS };
	struct gw_heki_counters c;
	uint64_t locked = 0;
	int n, i;

	if (!state.on || vm_ioctl(m, GW_HEKI_COUNTERS, &c) < 0)
		return;
	n = vm_ioctl(m, GW_HEKI_EVENTS, &ask);
	for (i = 0; i < n; i++) {
		if (all)
			print_event(to, &events[i]);
		if (events[i].kind == GW_HEKI_EV_LOCKED)
			locked = events[i].value;
	}
	if (!c.lock_ns)
		fputs("guestward: heki: the kernel was never ready to be locked\n", to);
	else
		fprintf(to, "guestward: heki: kernel locked in %.1f ms%s; denied: %" PRIu64 " writes, %" PRIu64 " executions, %" PRIu64 " reads, %" PRIu64
			" by walks, %" PRIu64 " by the hypervisor, %" PRIu64 " register writes; sealed %" PRIu64 ", released %" PRIu64 ", patched %" PRIu64 "\n",
			(double)c.lock_ns / 1e6, locked ? "" : " (long ago)", (uint64_t)c.denied_write, (uint64_t)c.denied_fetch,
			(uint64_t)c.denied_read, (uint64_t)c.denied_walk, (uint64_t)c.denied_pv, (uint64_t)(c.denied_cr + c.denied_reg),
			(uint64_t)c.sealed, (uint64_t)c.released, (uint64_t)c.pokes);
}
