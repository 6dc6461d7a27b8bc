/* SPDX-License-Identifier: MIT */
/*
 * What the guestward command returns; documented in guestward(1), "EXIT STATUS".
 * A signal that ends it gives 128 + its number, as shells show it. With `-- CMD` the guest's own status comes back.
 */
#ifndef TOOL_EXIT_CODES_H
#define TOOL_EXIT_CODES_H

enum {
	STATUS_OK = 0,
	STATUS_FAILED = 1,	/* could not start or go on, for a reason outside the guest */
	STATUS_USAGE = 2,
	STATUS_GUEST_DIED = 3,
	STATUS_GUEST_RESET = 4,
	STATUS_SIGNAL = 128,
};

#endif
