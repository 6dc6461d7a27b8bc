/* SPDX-License-Identifier: MIT */
/* `--protect heki`. See heki.h. The exits and ioctls are those of <guestward/kvm.h>; examples/heki.c shows them alone. */
#include "heki.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "boot.h"
#include "err.h"
#include "machine.h"
#include "symbols.h"

#define MAX_EVENTS 1024

static struct {
	bool on, wants_request;
	enum heki_on_denial on_denial;
	struct symbols symbols;
	/* What was printed last, and how often it came again since; a guest may be denied a million times a second. */
	pthread_mutex_t print_lock;
	char last[320];
	uint64_t again, unsaid;
	uint64_t image_gpa, image_gva;	/* of the kernel's first text page; 0: not known */
	time_t second;
	unsigned lines;
} state = { .print_lock = PTHREAD_MUTEX_INITIALIZER };

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

/* "lock-at=..." */
static bool parse_moment(const char *text, size_t len, struct gw_heki_policy *p)
{
	static const char prefix[] = "lock-at=", exec[] = "exec:", seconds[] = "seconds:";
	char word[96], *end;

	if (len >= sizeof(word) || len < sizeof(prefix) || memcmp(text, prefix, sizeof(prefix) - 1))
		return false;
	len -= sizeof(prefix) - 1;
	memcpy(word, text + sizeof(prefix) - 1, len);
	word[len] = 0;
	if (!strcmp(word, "init") || !strcmp(word, "request")) {
		p->lock_at = word[0] == 'i' ? GW_HEKI_LOCK_AT_INIT : GW_HEKI_LOCK_AT_REQUEST;
		return true;
	}
	if (!strncmp(word, exec, sizeof(exec) - 1) && len < sizeof(exec) - 1 + sizeof(p->lock_path) && word[sizeof(exec) - 1]) {
		p->lock_at = GW_HEKI_LOCK_AT_EXEC;
		memset(p->lock_path, 0, sizeof(p->lock_path));
		memcpy(p->lock_path, word + sizeof(exec) - 1, len - (sizeof(exec) - 1));
		return true;
	}
	if (strncmp(word, seconds, sizeof(seconds) - 1) || word[sizeof(seconds) - 1] < '0' || word[sizeof(seconds) - 1] > '9')
		return false;
	p->lock_at = GW_HEKI_LOCK_AT_SECONDS;
	p->lock_seconds = (uint32_t)strtoul(word + sizeof(seconds) - 1, &end, 10);
	return !*end;
}

static const char *parse(const char *text, struct gw_heki_policy *p)
{
	for (;;) {
		size_t len = strcspn(text, ",");
		const struct word *w = find_word(text, len);

		if (!w && !parse_moment(text, len, p))
			return text;
		p->flags |= w ? w->flag : 0;
		if (w && w->dynamic >= 0)
			p->dynamic = (unsigned)w->dynamic;
		if (w && w->inject >= 0)
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

/* ---- telling the user ---------------------------------------------------------------------------------------------------- */

#define LINES_A_SECOND 20u

static bool is_too_fast(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (now.tv_sec != state.second) {
		state.second = now.tv_sec;
		state.lines = 0;
	}
	return state.lines++ >= LINES_A_SECOND;
}

/* Once for each: the same again only raises a count. */
static void __attribute__((format(printf, 1, 2))) say(const char *format, ...)
{
	char text[sizeof(state.last)];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	pthread_mutex_lock(&state.print_lock);
	if (!strcmp(text, state.last)) {
		state.again++;
	} else if (is_too_fast()) {
		state.unsaid++;
	} else {
		if (state.again)
			fprintf(stderr, "guestward: denied: the same %" PRIu64 " times more\r\n", state.again);
		state.again = 0;
		memcpy(state.last, text, sizeof(text));
		fprintf(stderr, "guestward: denied: %s\r\n", text);
	}
	pthread_mutex_unlock(&state.print_lock);
}

#define MODULES_START	0xffffffffc0000000ull
#define MODULES_END	0xffffffffff000000ull
#define IMAGE_SIZE	(1ull << 30)

static void find_image(struct machine *m)
{
	static struct gw_heki_event events[MAX_EVENTS];
	struct gw_heki_events ask = { .buf = (uintptr_t)events, .max = MAX_EVENTS };
	int n, i;

	pthread_mutex_lock(&state.print_lock);
	n = state.image_gva ? 0 : vm_ioctl(m, GW_HEKI_EVENTS, &ask);
	for (i = 0; i < n; i++)
		if (events[i].kind == GW_HEKI_EV_LOCKED) {
			state.image_gpa = events[i].gpa;
			state.image_gva = events[i].gva;
		}
	pthread_mutex_unlock(&state.print_lock);
}

/* " name+0x12", or nothing. Memory of the kernel image is named whatever address it was reached by. */
static const char *name_of(uint64_t address, uint64_t gpa, char buf[96])
{
	char name[90];

	symbols_name(&state.symbols, address, name, sizeof(name));
	if (!name[0] && state.image_gva && gpa - state.image_gpa < IMAGE_SIZE)
		symbols_name(&state.symbols, state.image_gva + (gpa - state.image_gpa), name, sizeof(name));
	if (!name[0] && address - MODULES_START < MODULES_END - MODULES_START)
		snprintf(name, sizeof(name), "in a module");
	snprintf(buf, 96, "%s%s", name[0] ? " " : "", name);
	return buf;
}

/* Under frozen a compiled BPF program would never run, and a system-call filter that gives -EPERM ends its process: not compiled it works. */
const char *heki_kernel_options(const char *text)
{
	struct gw_heki_policy p = { 0 };

	if (text)
		parse(text, &p);
	return p.dynamic == GW_HEKI_FROZEN ? " sysctl.net.core.bpf_jit_enable=0" : "";
}

/* Frozen denies modules: ours are loaded first. Otherwise the sooner the better. */
static void choose_moment(struct gw_heki_policy *p, bool own_initrd)
{
	if (own_initrd && p->dynamic == GW_HEKI_FROZEN)
		p->lock_at = GW_HEKI_LOCK_AT_REQUEST;
}

static bool may_write(void *opaque, uint64_t gpa, uint64_t len)
{
	struct gw_heki_dma d = { gpa, len };
	char where[96];

	if (vm_ioctl(opaque, GW_HEKI_JUDGE_DMA, &d) == 0)
		return true;
	find_image(opaque);
	say("device: write at physical %" PRIx64 "%s", gpa, name_of(0, gpa, where));
	return false;
}

int heki_start(struct machine *m, const struct boot_options *o, struct err *err)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_HEKI_DENIAL, .args = {
		KVM_HEKI_EXIT_REASON_CR0 | KVM_HEKI_EXIT_REASON_CR4 | KVM_HEKI_EXIT_REASON_MEM | KVM_HEKI_EXIT_REASON_REG } };
	struct gw_heki_policy p = { 0 };
	int ret;

	if (!o->protect)
		return 0;
	if (m->backend->ioctl(m->vm_fd, KVM_CHECK_EXTENSION, GW_CAP_HEKI) <= 0)
		return err_set(err, "--protect: this engine has no kernel integrity");
	if (o->symbols && symbols_read(&state.symbols, o->symbols, err) < 0)
		return -1;
	parse(o->protect, &p);
	if (!strstr(o->protect, "lock-at="))
		choose_moment(&p, !o->initrd);
	ret = vm_ioctl(m, GW_HEKI_SET_POLICY, &p);
	if (!ret)
		ret = vm_ioctl(m, KVM_ENABLE_CAP, &cap);
	if (ret < 0)
		return err_set(err, "--protect %s: %s", o->protect, strerror(-ret));
	m->ram.may_write = may_write;
	m->ram.opaque = m;
	state.on = true;
	state.wants_request = p.lock_at == GW_HEKI_LOCK_AT_REQUEST;
	state.on_denial = o->on_denial;
	return 0;
}

void heki_lock_now(struct machine *m)
{
	if (state.wants_request)
		m->backend->ioctl(m->vm_fd, GW_HEKI_LOCK, 0);
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
	char text[320], where[96], who[96];

	if (!state.on || v->run->exit_reason != KVM_EXIT_HEKI_DENIAL)
		return false;
	find_image(m);
	if (d->reason == KVM_HEKI_EXIT_REASON_MEM)
		snprintf(text, sizeof(text), "CPU %u: %s at %016" PRIx64 "%s (physical %" PRIx64 ") by code at %016" PRIx64 "%s", v->id,
			 access_name(d->mem.access), (uint64_t)d->mem.gva, name_of(d->mem.gva, d->mem.gpa, where), (uint64_t)d->mem.gpa,
			 (uint64_t)d->mem.rip, name_of(d->mem.rip, 0, who));
	else
		snprintf(text, sizeof(text), "CPU %u: write of %" PRIx64 " to %s", v->id, (uint64_t)d->cr.value,
			 d->reason == KVM_HEKI_EXIT_REASON_CR0 ? "CR0" : d->reason == KVM_HEKI_EXIT_REASON_CR4 ? "CR4" : "a locked register");
	say("%s", text);
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
	if (state.again + state.unsaid)
		fprintf(to, "guestward: heki: %" PRIu64 " denials more than were printed\n", state.again + state.unsaid);
	if (!c.lock_ns)
		fputs("guestward: heki: the kernel was never ready to be locked\n", to);
	else
		fprintf(to, "guestward: heki: kernel locked in %.1f ms%s; denied: %" PRIu64 " writes, %" PRIu64 " executions, %" PRIu64 " reads, %" PRIu64
			" by walks, %" PRIu64 " by the hypervisor, %" PRIu64 " register writes; sealed %" PRIu64 ", released %" PRIu64 ", patched %" PRIu64 "\n",
			(double)c.lock_ns / 1e6, locked ? "" : " (long ago)", (uint64_t)c.denied_write, (uint64_t)c.denied_fetch,
			(uint64_t)c.denied_read, (uint64_t)c.denied_walk, (uint64_t)c.denied_pv, (uint64_t)(c.denied_cr + c.denied_reg),
			(uint64_t)c.sealed, (uint64_t)c.released, (uint64_t)c.pokes);
}
