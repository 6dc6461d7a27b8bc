/* SPDX-License-Identifier: MIT */
/*
 * The control socket, from inside: told of VMs and vCPUs as the client creates them. A caller of the public API like any other:
 * it knows descriptors, and one the client has closed simply stops answering.
 *
 * Off unless the environment has GUESTWARD_CONTROL=1 when the first VM is created (`guestward boot` and `guestward run` set it): no thread then.
 */
#ifndef GW_CONTROL_CONTROL_H
#define GW_CONTROL_CONTROL_H

/* @fd: descriptors as the client has them; not duplicated, so that closing them ends the object as always. */
void control_vm_created(int fd);
void control_vcpu_created(int vm_fd, int fd, unsigned long id);

#endif
