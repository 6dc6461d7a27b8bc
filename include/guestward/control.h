/* SPDX-License-Identifier: MIT */
/*
 * The control socket of a process that runs VMs: how `guestward dump` (later `watch` and monitors) finds and asks it.
 *
 * An abstract Unix stream socket, so that nothing stays behind whatever happens to the process: "\0guestward/<pid>". The peer
 * must have the process's own user id, or be root. One request line, then the answer until end of file:
 *
 *     list                                    one line a vCPU: vm=0 cpu=0
 *     dump vm=0 cpu=0 flags=7 gva=ffffffff81000000    flags: GW_DUMP_*; numbers but flags and gva decimal, these hexadecimal
 *     map vm=0                            which guest memory is private, which shared, what is present on which side
 *
 *     heki-events vm=0 seq=0                 kernel integrity's events after seq, a line each: seq kind cpu reason access gpa gva value rip
 *                                             attributes repeat hash; the first three and repeat decimal
 *     heki-map vm=0                           its permissions: "default ATTRIBUTES locked 0|1", then address size attributes (GW_HEKI_N*)
 *
 *     session vm=0                            a monitor's session: binary from here on, see guestward/monitor.h
 *     session                                 the same, with the first VM that is still there
 *
 * An answer that begins with "error: " is a refusal in one line.
 */
#ifndef GUESTWARD_CONTROL_H
#define GUESTWARD_CONTROL_H

#define GW_CONTROL_NAME		"guestward/%d"	/* after the leading NUL */
#define GW_CONTROL_LINE		256		/* longest request, with newline */

#endif
