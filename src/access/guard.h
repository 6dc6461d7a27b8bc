/* SPDX-License-Identifier: MIT */
/*
 * What a room plugs into the access path: one table of functions. The order of guards is one array in vm/.
 */
#ifndef GW_ACCESS_GUARD_H
#define GW_ACCESS_GUARD_H

#include "access/request.h"

#define ACC_MAX_GUARDS	8

struct acc_guard_ops {
	const char *name;	/* for traces: "heki" */
	/*
	 * Judge one access whose translation is known. Returns ACC_ALLOW and leaves *out alone but for narrowing out->silent (a view may
	 * also put another page's address into out->hva: then fetches follow it too);
	 * or fills *out for its verdict. No locks held; must not block or allocate. Never NULL.
	 */
	enum acc_verdict (*check)(void *guard, const struct acc_request *rq, struct acc_result *out);
	/* Told of a denial by an earlier guard of a page this one may watch; asynchronous. NULL: not interested. */
	void (*denied)(void *guard, const struct acc_request *rq, const struct acc_result *by);
	/* ACC_WAIT was given: block until answered, or until the vCPU is wanted elsewhere. True: ask again. NULL: never waits. */
	bool (*wait)(void *guard, struct acc_cpu *cpu, const struct acc_request *rq);
	/*
	 * A write that was answered with SUBST_VET, at its commit: do it or drop it. On the vCPU's thread, inside guest code, no locks
	 * held; must not wait. NULL: never answers so.
	 */
	void (*vet)(void *guard, struct acc_cpu *cpu, struct gpa gpa, const uint8_t *bytes, unsigned len);
	/* Frames [first, first + n) left the guest (slot deleted or moved). Slot lock held. NULL: no per-page state. */
	void (*forget)(void *guard, struct gfn first, uint64_t n);
};

struct acc_guard {
	const struct acc_guard_ops *ops;
	void *state;
	_Atomic bool judges_walks;	/* also wants stage ACC_WALK; false: walks skip it */
};

/* Built by vm/ before the first vCPU runs, constant afterwards. */
struct acc_guards {
	unsigned n;
	_Atomic bool any_walk;
	struct acc_guard guard[ACC_MAX_GUARDS];
};

#endif
