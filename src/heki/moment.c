/* SPDX-License-Identifier: MIT */
/*
 * When unassisted mode locks, and how a call of code that may not run is refused without the caller's end.
 *
 * The moment is looked for before the first user instruction of each address space (later ones are remembered by the TLB, and
 * whatever changes the answer makes the vCPUs forget). Its kinds are the policy's: the first user instruction at all, the
 * client's request, the first program that starts after so many seconds, or the start of one program, which is known by what the
 * kernel puts on a new program's stack (System V ABI, AMD64 supplement, "Initial Stack and Register State"). Guest memory is
 * read as the VM's owner; all loops over it are bounded.
 */
#include <string.h>
#include <time.h>

#include "heki/scan.h"

#define MAX_ARGUMENTS	4096u
#define MAX_AUX		64u
#define AT_NULL		0
#define AT_BASE		7
#define AT_ENTRY	9
#define AT_EXECFN	31
#define LOADER_SIZE	0x400000u	/* an ELF interpreter is not larger */

/* ---- reading by linear address ------------------------------------------------------------------------------------------ */

struct space { struct heki *h; uint64_t cr3; bool la57; };

static bool read_byte(const struct space *s, uint64_t va, uint8_t *out)
{
	struct scan_leaf l;

	return heki_scan_one(s->h, s->cr3, s->la57, va, &l) && s->h->host->read(s->h->vm, GPA(l.gpa + (va - l.va)), out, 1);
}

static bool read_word(const struct space *s, uint64_t va, uint64_t *out)
{
	struct scan_leaf l;

	return !(va & 7) && heki_scan_one(s->h, s->cr3, s->la57, va, &l) && s->h->host->read(s->h->vm, GPA(l.gpa + (va - l.va)), out, 8);
}

static bool is_text(const struct space *s, uint64_t va, const char *text)
{
	uint8_t c;

	for (size_t i = 0;; i++) {
		if (!read_byte(s, va + i, &c) || c != (uint8_t)text[i])
			return false;
		if (!c)
			return true;
	}
}

/* ---- is this the start of a program? -------------------------------------------------------------------------------------- */

/* Past a list of pointers that ends with 0; 0: it does not end. */
static uint64_t skip_list(const struct space *s, uint64_t at)
{
	uint64_t word;

	for (unsigned i = 0; i < MAX_ARGUMENTS; i++, at += 8)
		if (!read_word(s, at, &word) || !word)
			return i && word ? 0 : at + 8;
	return 0;
}

static bool starts(const struct space *s, const struct heki_regs *regs, const char *path)
{
	uint64_t argc, key, value, base = 0, entry = 0, name = 0, at = regs->rsp;

	if (at & 15 || !read_word(s, at, &argc) || argc > MAX_ARGUMENTS || !read_word(s, at + 8 + argc * 8, &value) || value)
		return false;
	at = skip_list(s, at + 16 + argc * 8);
	for (unsigned i = 0; at && i < MAX_AUX; i++, at += 16) {
		if (!read_word(s, at, &key) || !read_word(s, at + 8, &value) || key == AT_NULL)
			break;
		if (key == AT_BASE)
			base = value;
		else if (key == AT_ENTRY)
			entry = value;
		else if (key == AT_EXECFN)
			name = value;
	}
	if (!name || (regs->rip != entry && (!base || regs->rip - base >= LOADER_SIZE)))
		return false;
	return is_text(s, name, path);
}

/* ---- the moment ------------------------------------------------------------------------------------------------------------- */

static uint64_t seconds_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec;
}

bool heki_is_moment(struct heki *h, const struct heki_regs *regs)
{
	struct space s = { h, regs->cr3 & ~(uint64_t)GW_PAGE_MASK & ~(1ull << 63), regs->cr4 & CR4_LA57 };
	uint64_t none = 0, now = seconds_now();
	char path[HEKI_PATH_SIZE];
	uint8_t kind;

	pthread_mutex_lock(&h->lock);
	kind = h->lock_at;
	memcpy(path, h->lock_path, sizeof(path));
	pthread_mutex_unlock(&h->lock);
	if (atomic_load(&h->lock_wanted))
		return true;
	switch (kind) {
	case HEKI_LOCK_AT_INIT:
		return true;
	case HEKI_LOCK_AT_SECONDS:
		atomic_compare_exchange_strong(&h->first_user, &none, now);
		return now - atomic_load(&h->first_user) >= h->lock_seconds;
	case HEKI_LOCK_AT_EXEC:
		return starts(&s, regs, path);
	default:
		return false;
	}
}

int heki_request_lock(struct heki *h)
{
	if (!(atomic_load(&h->active) & ACTIVE_WAITING))
		return atomic_load(&h->is_locked) ? 0 : -1;
	atomic_store(&h->lock_wanted, true);
	h->host->forget(h->vm, GFN(0), 0, ACC_X);
	return 0;
}

/* ---- refused calls ------------------------------------------------------------------------------------------------------------ */

/* CALL rel32, or CALL through a register or memory, ends right before @va. */
static bool follows_call(const struct space *s, uint64_t va)
{
	uint8_t b[7];

	for (unsigned i = 0; i < 7; i++)
		if (!read_byte(s, va - 7 + i, &b[i]))
			return false;
	if (b[2] == 0xe8)
		return true;
	for (unsigned i = 0; i < 6; i++)
		if (b[i] == 0xff && (b[i + 1] & 0x38) == 0x10)
			return true;
	return false;
}

bool heki_is_refusable(const struct heki *h, const struct acc_request *rq, uint8_t attributes)
{
	return h->seals && rq->rights & ACC_X && rq->cpl == 0 && rq->origin == ACC_INSN && rq->stage == ACC_FINAL && !rq->user_translation &&
	       !(attributes & HEKI_XS) && atomic_load_explicit(&h->dynamic, memory_order_relaxed) == HEKI_FROZEN;
}

bool heki_refuse_call(struct heki *h, const struct acc_cpu *cpu)
{
	struct heki_regs regs;
	struct scan_leaf l;
	struct space s;
	uint64_t back;

	h->host->regs(h->vm, cpu, &regs);
	s = (struct space){ h, regs.cr3 & ~(uint64_t)GW_PAGE_MASK & ~(1ull << 63), regs.cr4 & CR4_LA57 };
	if (!(regs.efer & EFER_LMA) || !read_word(&s, regs.rsp, &back) || !heki_scan_one(h, s.cr3, s.la57, back, &l) || !l.x || l.u ||
	    !(heki_get(h, GFN((l.gpa + (back - l.va)) >> GW_PAGE_SHIFT), NULL) & HEKI_XS) || !follows_call(&s, back))
		return false;
	h->host->go_back(h->vm, cpu, back, (uint64_t)HC_EPERM);
	return true;
}
