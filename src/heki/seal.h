/* SPDX-License-Identifier: MIT */
/*
 * What unassisted mode knows about the kernel it locked: its image, the code pages that came later, and the sites at which its
 * text may be patched. seal.c finds and keeps pages, vocab.c judges patches.
 */
#ifndef GW_HEKI_SEAL_H
#define GW_HEKI_SEAL_H

#include "heki/scan.h"

/* A run of the kernel image as it was mapped at the lock. */
struct image_run { uint64_t va, gpa, size; bool x; };

/* A page that became executable after the lock (or lay outside the image at it). */
struct late_page { uint64_t gfn, va; uint8_t hash[32]; bool has_fill; };

enum site_kind { SITE_JUMP, SITE_CALL, SITE_TRAMPOLINE };
/* A place in the image that the kernel itself patches; sorted by va. */
struct site { uint64_t va, target; uint8_t kind; };

/* A site with INT3 as its first byte while the rest changes. */
struct open_site { uint64_t gpa; uint8_t len, was[6]; };
#define MAX_OPEN	1024u
#define MAX_PHANTOMS	512u

struct heki_seals {
	/*
	 * changing: one page is sealed or released at a time; held across forgetting, so never taken inside guest code.
	 * lock: the arrays below that change after the lock; for computing only; the room's lock is taken under it.
	 */
	pthread_mutex_t changing, lock;
	struct heki_seals *next;	/* of an earlier lock, until the VM goes: a vCPU may still be looking */
	bool la57, pti;
	struct image_run *run;
	unsigned n_runs, runs_size;
	struct late_page *late;		/* sorted by gfn */
	unsigned n_late, late_size;
	struct site *site;
	unsigned n_sites, sites_size;
	uint8_t *firmware;		/* firmware.c: the copy; NULL: none */
	struct fill_page **fill;	/* fill.c: frozen only; constant after the lock */
	unsigned n_fill;
	struct open_site open[MAX_OPEN];
	unsigned n_open;
	/*
	 * Bytes of refused patches, shown to the kernel when it reads its text back: Linux ends the task with its patching lock held
	 * when the read-back differs, and nobody could patch any more. Executed are the real bytes. gpa ~0: free. Written under lock.
	 */
	_Atomic unsigned n_phantoms;
	struct { _Atomic uint64_t gpa; _Atomic uint8_t byte; } phantom[MAX_PHANTOMS];
};

/* ---- fill.c ------------------------------------------------------------------------------------------------------------- */

/* At the lock: a page with filling in it; then all of them are put in order. -ENOMEM, -E2BIG. */
int fill_add(struct heki_seals *s, uint64_t gfn);
void fill_sort(struct heki_seals *s);
void fill_free(struct heki_seals *s);
/* OTHER: not a write into free chunks only; nothing was done. With s->lock held. */
enum fill_answer { FILL_OTHER, FILL_FREED, FILL_REFUSED };
enum fill_answer fill_write(struct heki *h, struct heki_seals *s, uint64_t gpa, const uint8_t *bytes, unsigned len);
/* What a read of @len bytes sees, where that is not what is executed. */
bool fill_show(const struct heki_seals *s, uint64_t gpa, const uint8_t *real, uint8_t *out, unsigned len);

/* ---- seal.c and vocab.c ------------------------------------------------------------------------------------------------- */

/* The kernel's page tables, whatever this vCPU runs. */
uint64_t seals_cr3(const struct heki_seals *s, uint64_t cr3);
/* 0: not in the image. */
uint64_t seals_image_va(const struct heki_seals *s, uint64_t gpa);
const struct image_run *seals_run_of_va(const struct heki_seals *s, uint64_t va);
struct late_page *seals_late(struct heki_seals *s, uint64_t gfn);
/* With s->lock held: a place that turned out to be patchable. */
void vocab_learn(struct heki_seals *s, uint64_t va);
/* At the lock: fills s->site. -ENOMEM. */
int vocab_find(struct heki *h, struct heki_seals *s);
/*
 * A write through the poking alias, at its commit: true if it is one of the vocabulary. False with *undo: the site that it would
 * have completed; what stood there before must come back, or the kernel would stand on an INT3 of ours for ever. With s->lock held.
 */
bool vocab_judge(struct heki *h, struct heki_seals *s, uint64_t cr3, uint64_t gpa, const uint8_t *bytes, unsigned len,
		 struct open_site *undo);

#endif
