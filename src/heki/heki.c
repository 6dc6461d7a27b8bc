/* SPDX-License-Identifier: MIT */
/*
 * The VM's owner and the store: life, policy, what the client sets, gets and takes back.
 *
 * Every change: build the next tree under the lock, publish, unlock, then make everybody forget; only then are the old nodes
 * freed. A vCPU that judges meanwhile sees the old or the new tree, never a mixture.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "heki/heki_private.h"

int heki_new(const struct heki_host *host, void *vm, struct heki **out)
{
	struct heki *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	h->ring = calloc(N_EVENTS, sizeof(*h->ring));
	if (!h->ring) {
		free(h);
		return -ENOMEM;
	}
	h->host = host;
	h->vm = vm;
	store_init(&h->store);
	pthread_mutex_init(&h->lock, NULL);
	atomic_flag_clear(&h->log_lock);
	atomic_init(&h->default_rights, HEKI_RIGHTS);
	*out = h;
	return 0;
}

void heki_free(struct heki *h)
{
	if (!h)
		return;
	for (unsigned i = 0; i < HEKI_MAX_VCPUS; i++)
		free(h->vcpu[i].list);
	heki_seals_free(h);
	store_fini(&h->store);
	pthread_mutex_destroy(&h->lock);
	free(h->ring);
	free(h);
}

/* ---- changes ------------------------------------------------------------------------------------------------------------ */

uint8_t heki_change_fn(uint8_t old, void *change)
{
	const struct heki_change *c = change;
	uint8_t from = old & HEKI_DECLARED ? old : c->initial;

	return (uint8_t)((from & ~c->clear) | c->set | HEKI_DECLARED);
}

static uint8_t clear_fn(uint8_t old, void *arg)
{
	return 0;
}

void heki_activate(struct heki *h)
{
	bool rules = store_root(&h->store) != 1 || atomic_load(&h->default_rights) != HEKI_RIGHTS;

	if (!rules) {
		atomic_fetch_and(&h->active, ~ACTIVE_STORE);
		return;
	}
	atomic_fetch_or(&h->active, ACTIVE_STORE);
	if (!h->walks_judged) {
		h->walks_judged = true;
		h->host->judge_walks(h->vm);
	}
}

/* Runs of frames whose W is gone, or back, in the client's own mapping too. Where the store says nothing the default holds. */
void heki_shield(struct heki *h, uint64_t first, uint64_t n)
{
	uint64_t end = first + n, at = first;
	struct heki_run r;

	if (!h->host->shield || !atomic_load(&h->shield))
		return;
	while (at < end && heki_next(h, GFN(at), &r) && r.first.v < end) {
		uint64_t run_end = r.first.v + r.n < end ? r.first.v + r.n : end;

		if (r.first.v > at)
			h->host->shield(h->vm, GFN(at), r.first.v - at, !(atomic_load(&h->default_rights) & HEKI_W));
		h->host->shield(h->vm, r.first, run_end - r.first.v, !(r.attributes & HEKI_W));
		at = run_end;
	}
	if (at < end)
		h->host->shield(h->vm, GFN(at), end - at, !(atomic_load(&h->default_rights) & HEKI_W));
}

void heki_settle(struct heki *h, struct store_node *replaced, uint64_t first, uint64_t n)
{
	h->host->forget(h->vm, GFN(first), n, ACC_RW | ACC_X);
	store_reclaim(replaced);
	if (n)
		heki_shield(h, first, n);
}

void heki_shield_all(struct heki *h)
{
	struct heki_run r;

	for (uint64_t at = 0; heki_next(h, GFN(at), &r); at = r.first.v + r.n)
		if (!(r.attributes & HEKI_W))
			h->host->shield(h->vm, r.first, r.n, true);
}

static void log_client(struct heki *h, uint64_t gfn, uint64_t n, uint32_t attributes)
{
	struct heki_event e = { .kind = HEKI_EV_CLIENT, .reason = HEKI_REASON_MEM, .gpa = gfn << GW_PAGE_SHIFT, .value = n, .attributes = attributes };

	heki_log(h, &e);
}

static int change(struct heki *h, struct gfn first, uint64_t n, uint8_t (*fn)(uint8_t, void *), void *arg)
{
	struct store_node *replaced;
	struct store_txn t;
	int err;

	pthread_mutex_lock(&h->lock);
	store_begin(&h->store, &t);
	err = store_update(&t, first.v, n, fn, arg);
	if (err) {
		store_abort(&t);
		pthread_mutex_unlock(&h->lock);
		return err;
	}
	replaced = store_commit(&t);
	heki_activate(h);
	pthread_mutex_unlock(&h->lock);
	heki_settle(h, replaced, first.v, n);
	return 0;
}

int heki_set(struct heki *h, struct gfn first, uint64_t n, uint32_t attributes, uint32_t mask)
{
	struct heki_change c = { .set = (uint8_t)attributes, .clear = (uint8_t)mask };
	int err;

	if (mask & ~HEKI_ALL || attributes & ~mask || !mask)
		return -EINVAL;
	c.initial = (uint8_t)atomic_load(&h->default_rights);
	err = change(h, first, n, heki_change_fn, &c);
	if (!err)
		log_client(h, first.v, n, attributes);
	return err;
}

int heki_clear(struct heki *h, struct gfn first, uint64_t n)
{
	int err = change(h, first, n, clear_fn, NULL);

	if (!err)
		log_client(h, first.v, n, 0);
	return err;
}

uint32_t heki_get(struct heki *h, struct gfn gfn, bool *declared)
{
	uint8_t v;

	/* The tree may be freed under a reader that is no vCPU: hold writers off. */
	pthread_mutex_lock(&h->lock);
	v = store_get(&h->store, gfn.v);
	pthread_mutex_unlock(&h->lock);
	if (declared)
		*declared = v & HEKI_DECLARED;
	return v & HEKI_DECLARED ? v & HEKI_ALL : atomic_load(&h->default_rights);
}

bool heki_next(struct heki *h, struct gfn from, struct heki_run *out)
{
	uint64_t frame = from.v, n = 0;
	uint8_t v;

	pthread_mutex_lock(&h->lock);
	v = store_next(store_root(&h->store), &frame, &n);
	pthread_mutex_unlock(&h->lock);
	if (!v)
		return false;
	*out = (struct heki_run){ .first = GFN(frame), .n = n, .attributes = v & HEKI_ALL };
	return true;
}

/* ---- policy --------------------------------------------------------------------------------------------------------------- */

static const struct { const char *word; size_t off; uint8_t value; } words[] = {
	{ "unassisted", offsetof(struct heki_policy, unassisted), 1 },
	{ "sealed-once", offsetof(struct heki_policy, dynamic), HEKI_SEALED_ONCE },
	{ "frozen", offsetof(struct heki_policy, dynamic), HEKI_FROZEN },
	{ "mirrored", offsetof(struct heki_policy, dynamic), HEKI_MIRRORED },
	{ "rfc-codes", offsetof(struct heki_policy, inject), HEKI_INJECT_RFC },
	{ "lock-registers", offsetof(struct heki_policy, lock_registers), 1 },
	{ "allow-wx", offsetof(struct heki_policy, allow_wx), 1 },
	{ "shield", offsetof(struct heki_policy, shield), 1 },
	{ "kprobes", offsetof(struct heki_policy, allow_kprobes), 1 },
	{ "clear-on-reset", offsetof(struct heki_policy, clear_on_reset), 1 },
	{ "lock-at=init", offsetof(struct heki_policy, lock_at), HEKI_LOCK_AT_INIT },
	{ "lock-at=request", offsetof(struct heki_policy, lock_at), HEKI_LOCK_AT_REQUEST },
};

/* "lock-at=..." */
static bool set_moment(struct heki_policy *p, const char *word, size_t len)
{
	static const char exec[] = "lock-at=exec:", seconds[] = "lock-at=seconds:";
	size_t n = sizeof(exec) - 1;

	if (len > n && len - n < sizeof(p->lock_path) && !memcmp(word, exec, n)) {
		p->lock_at = HEKI_LOCK_AT_EXEC;
		memset(p->lock_path, 0, sizeof(p->lock_path));
		memcpy(p->lock_path, word + n, len - n);
		return true;
	}
	n = sizeof(seconds) - 1;
	if (len <= n || len > n + 6 || memcmp(word, seconds, n))
		return false;
	p->lock_at = HEKI_LOCK_AT_SECONDS;
	for (p->lock_seconds = 0; n < len; n++) {
		if (word[n] < '0' || word[n] > '9')
			return false;
		p->lock_seconds = p->lock_seconds * 10 + (uint32_t)(word[n] - '0');
	}
	return true;
}

static bool set_word(struct heki_policy *p, const char *word, size_t len)
{
	for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
		if (strlen(words[i].word) == len && !memcmp(words[i].word, word, len)) {
			((uint8_t *)p)[words[i].off] = words[i].value;
			return true;
		}
	return !len || set_moment(p, word, len);
}

bool heki_policy_parse(struct heki_policy *p, const char *text)
{
	for (;;) {
		size_t len = strcspn(text, ",");

		if (!set_word(p, text, len))
			return false;
		if (!text[len])
			return true;
		text += len + 1;
	}
}

void heki_policy_get(struct heki *h, struct heki_policy *out)
{
	*out = (struct heki_policy){
		.inject = atomic_load(&h->inject), .dynamic = atomic_load(&h->dynamic), .unassisted = atomic_load(&h->unassisted),
		.lock_registers = atomic_load(&h->lock_registers), .allow_wx = atomic_load(&h->allow_wx), .shield = atomic_load(&h->shield),
		.allow_kprobes = atomic_load(&h->allow_kprobes), .clear_on_reset = atomic_load(&h->clear_on_reset),
	};
	pthread_mutex_lock(&h->lock);
	out->lock_at = h->lock_at;
	out->lock_seconds = h->lock_seconds;
	memcpy(out->lock_path, h->lock_path, sizeof(out->lock_path));
	pthread_mutex_unlock(&h->lock);
}

int heki_policy_set(struct heki *h, const struct heki_policy *p)
{
	pthread_mutex_lock(&h->lock);
	if (p->unassisted && !atomic_load(&h->unassisted) && atomic_load(&h->is_locked)) {
		pthread_mutex_unlock(&h->lock);
		return -EBUSY;
	}
	atomic_store(&h->inject, p->inject);
	atomic_store(&h->dynamic, p->dynamic);
	atomic_store(&h->unassisted, p->unassisted);
	atomic_store(&h->lock_registers, p->lock_registers);
	atomic_store(&h->allow_wx, p->allow_wx);
	atomic_store(&h->shield, p->shield);
	atomic_store(&h->allow_kprobes, p->allow_kprobes);
	atomic_store(&h->clear_on_reset, p->clear_on_reset);
	h->lock_at = p->lock_at;
	h->lock_seconds = p->lock_seconds;
	memcpy(h->lock_path, p->lock_path, sizeof(h->lock_path));
	if (p->unassisted && !h->seals)
		atomic_fetch_or(&h->active, ACTIVE_WAITING);
	else
		atomic_fetch_and(&h->active, ~ACTIVE_WAITING);
	if (p->lock_registers && atomic_load(&h->is_locked))
		atomic_fetch_or(&h->active, ACTIVE_REGS);
	else
		atomic_fetch_and(&h->active, ~ACTIVE_REGS);
	pthread_mutex_unlock(&h->lock);
	h->host->forget(h->vm, GFN(0), 0, ACC_X);
	return 0;
}

void heki_exits_get(struct heki *h, struct heki_exits *out)
{
	*out = (struct heki_exits){ .configure = atomic_load(&h->exit_configure), .denial = atomic_load(&h->exit_denial),
				    .nr_configure = atomic_load(&h->nr_configure), .nr_denial = atomic_load(&h->nr_denial) };
}

void heki_exits_set(struct heki *h, const struct heki_exits *e)
{
	atomic_store(&h->nr_configure, e->nr_configure);
	atomic_store(&h->nr_denial, e->nr_denial);
	atomic_store(&h->exit_configure, e->configure);
	atomic_store(&h->exit_denial, e->denial);
}

/* ---- state ------------------------------------------------------------------------------------------------------------------ */

void heki_state_get(struct heki *h, struct heki_state *out)
{
	*out = (struct heki_state){ .pinned_cr0 = atomic_load(&h->pinned_cr0), .pinned_cr4 = atomic_load(&h->pinned_cr4),
				    .locked = atomic_load(&h->is_locked), .default_rights = atomic_load(&h->default_rights) };
}

int heki_state_set(struct heki *h, const struct heki_state *s)
{
	struct heki_event e = { .kind = HEKI_EV_CLIENT, .reason = HEKI_REASON_CR0 | HEKI_REASON_CR4, .gpa = s->pinned_cr0, .value = s->pinned_cr4 };

	if (s->default_rights & ~HEKI_RIGHTS || s->pinned_cr0 >> 32)
		return -EINVAL;
	pthread_mutex_lock(&h->lock);
	atomic_store(&h->pinned_cr0, s->pinned_cr0);
	atomic_store(&h->pinned_cr4, s->pinned_cr4);
	atomic_store(&h->is_locked, s->locked);
	atomic_store(&h->default_rights, s->default_rights);
	/* Who was held to a pin that is gone is not any more; who is held to fewer is held again at its next write. */
	for (unsigned i = 0; i < HEKI_MAX_VCPUS; i++) {
		atomic_fetch_and(&h->vcpu[i].held_cr0, s->pinned_cr0);
		atomic_fetch_and(&h->vcpu[i].held_cr4, s->pinned_cr4);
	}
	heki_activate(h);
	pthread_mutex_unlock(&h->lock);
	h->host->forget(h->vm, GFN(0), 0, ACC_RW | ACC_X);
	heki_log(h, &e);
	return 0;
}

void heki_vcpu_get(struct heki *h, unsigned vcpu, uint64_t *held_cr0, uint64_t *held_cr4)
{
	*held_cr0 = vcpu < HEKI_MAX_VCPUS ? atomic_load(&h->vcpu[vcpu].held_cr0) : 0;
	*held_cr4 = vcpu < HEKI_MAX_VCPUS ? atomic_load(&h->vcpu[vcpu].held_cr4) : 0;
}

void heki_vcpu_set(struct heki *h, unsigned vcpu, uint64_t held_cr0, uint64_t held_cr4)
{
	if (vcpu >= HEKI_MAX_VCPUS)
		return;
	atomic_store(&h->vcpu[vcpu].held_cr0, held_cr0);
	atomic_store(&h->vcpu[vcpu].held_cr4, held_cr4);
}

/* Read-only memory is the client's. A machine that starts again begins in the shadow area: that gets what the lock found there. */
static void zero_frames(struct heki *h)
{
	static const uint8_t zeros[GW_PAGE_SIZE];
	struct heki_run r = { .first = GFN(0) };

	for (uint64_t at = 0; heki_next(h, GFN(at), &r); at = r.first.v + r.n)
		for (uint64_t i = 0; !(r.attributes & HEKI_W) && i < r.n; i++)
			if (!h->host->is_rom(h->vm, GFN(r.first.v + i))) {
				const uint8_t *firmware = heki_firmware_at(h, r.first.v + i);

				h->host->write(h->vm, gfn_gpa(GFN(r.first.v + i)), firmware ? firmware : zeros, sizeof(zeros));
			}
}

int heki_reset(struct heki *h, bool zero)
{
	struct heki_state s = { .default_rights = HEKI_RIGHTS };
	int err;

	/* The shield first: our own zeroing writes through the client's mapping. */
	if (h->host->shield && atomic_load(&h->shield)) {
		struct heki_run r = { .first = GFN(0) };

		for (uint64_t at = 0; heki_next(h, GFN(at), &r); at = r.first.v + r.n)
			if (!(r.attributes & HEKI_W))
				h->host->shield(h->vm, r.first, r.n, false);
	}
	if (zero)
		zero_frames(h);
	err = change(h, GFN(0), STORE_FRAMES, clear_fn, NULL);
	if (err)
		return err;
	heki_state_set(h, &s);
	atomic_store(&h->firmware.exists, false);
	heki_firmware_end(h);
	for (unsigned i = 0; i < HEKI_MAX_VCPUS; i++)
		h->vcpu[i].saved.valid = false;
	heki_seals_retire(h);
	return 0;
}

bool heki_clears_on_reset(const struct heki *h)
{
	return atomic_load(&h->clear_on_reset) && atomic_load(&h->is_locked);
}

void heki_machine_reset(struct heki *h)
{
	struct heki_policy p;

	heki_policy_get(h, &p);
	if (heki_reset(h, true))
		return;
	heki_seals_free(h);
	atomic_store(&h->lock_wanted, false);
	atomic_store(&h->first_user, 0);
	heki_policy_set(h, &p);
}
