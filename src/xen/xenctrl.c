/* SPDX-License-Identifier: MIT */
/*
 * libxenctrl for monitors: the calls of Xen 4.17 that xen-access and LibVMI's driver make, on a VM of Guestward. Signatures are those
 * of the library it stands in for; each returns 0, or -1 with errno as Xen gives it.
 *
 * One domain a handle. Setting the rights of page after page in a view is gathered into runs and sent when anything else is asked:
 * a million pages are one message.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "handle.h"

static struct { bool used; int event_fd, answer_fd; } ports[XEN_PORTS];

API bool gw_xen_port(uint32_t port, int *event_fd, int *answer_fd)
{
	if (port >= XEN_PORTS || !ports[port].used)
		return false;
	*event_fd = ports[port].event_fd;
	*answer_fd = ports[port].answer_fd;
	return true;
}

/* ---- commands ---------------------------------------------------------------------------------------------------------------- */

int xen_open_domain(xc_interface *h, uint32_t dom)
{
	if (!h) {
		errno = EINVAL;
		return -1;
	}
	if (h->is_open && h->s.domid == dom && h->s.fd >= 0)
		return 0;
	if (h->is_open && h->is_attached) {
		errno = EBUSY;
		return -1;
	}
	if (h->is_open)
		xen_disconnect(&h->s);
	h->is_open = !xen_connect(&h->s, dom);
	return h->is_open ? 0 : -1;
}

static int send_gathered(xc_interface *h)
{
	struct gw_mon_cmd c = { .op = GW_MON_OP_SET_ACCESS, .a = { h->view, h->access, h->first, h->count } };

	if (!h->count)
		return 0;
	h->count = 0;
	return xen_command(&h->s, &c, NULL, NULL, NULL, NULL, NULL);
}

int xen_run(xc_interface *h, uint32_t dom, const struct gw_mon_cmd *c, const void *payload, struct gw_mon_reply *reply, void *out, int *fd)
{
	unsigned n = fd ? 1 : 0;

	if (xen_open_domain(h, dom))
		return -1;
	send_gathered(h);	/* as on Xen, frames without memory in it are no error */
	return xen_command(&h->s, c, payload, reply, out, fd, fd ? &n : NULL);
}

static int run(xc_interface *h, uint32_t dom, const struct gw_mon_cmd *c, const void *payload, struct gw_mon_reply *reply)
{
	return xen_run(h, dom, c, payload, reply, NULL, NULL);
}

static int op(xc_interface *h, uint32_t dom, uint32_t nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3)
{
	struct gw_mon_cmd c = { .op = nr, .a = { a0, a1, a2, a3 } };

	return run(h, dom, &c, NULL, NULL);
}

static int subscribe(xc_interface *h, uint32_t dom, uint32_t reason, bool on, uint32_t flags)
{
	return op(h, dom, GW_MON_OP_SUBSCRIBE, reason, on, flags, 0);
}

/* ---- handles ------------------------------------------------------------------------------------------------------------------- */

API xc_interface *xc_interface_open(void *logger, void *dombuild_logger, unsigned flags);
xc_interface *xc_interface_open(void *logger, void *dombuild_logger, unsigned flags)
{
	xc_interface *h = calloc(1, sizeof(*h));

	if (h)
		h->s.fd = -1;
	return h;
}

API int xc_interface_close(xc_interface *h);
int xc_interface_close(xc_interface *h)
{
	if (!h)
		return 0;
	if (h->is_open) {
		send_gathered(h);
		xen_disconnect(&h->s);
	}
	if (h->ring)
		munmap(h->ring, GW_MON_PAGE);
	free(h);
	return 0;
}

/* ---- the ring -------------------------------------------------------------------------------------------------------------------- */

static uint64_t policy(void)
{
	const char *wish = getenv("GUESTWARD_MONITOR_POLICY");

	if (wish && !strcmp(wish, "pause"))
		return GW_MON_PAUSE;
	return wish && !strcmp(wish, "stop") ? GW_MON_STOP : GW_MON_RELEASE;
}

API void *xc_monitor_enable(xc_interface *h, uint32_t dom, uint32_t *port);
void *xc_monitor_enable(xc_interface *h, uint32_t dom, uint32_t *port)
{
	struct gw_mon_cmd c = { .op = GW_MON_OP_ATTACH, .a = { GW_MON_XEN, policy(), 0 } };
	unsigned n = 3, p = 1;
	int fds[3], err;
	void *ring;

	while (p < XEN_PORTS && ports[p].used)
		p++;
	if (p == XEN_PORTS) {
		errno = ENOSPC;
		return NULL;
	}
	if (xen_open_domain(h, dom) || xen_command(&h->s, &c, NULL, NULL, NULL, fds, &n))
		return NULL;
	if (n != 3) {
		errno = EPROTO;
		return NULL;
	}
	ring = mmap(NULL, GW_MON_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
	err = errno;
	close(fds[0]);
	if (ring == MAP_FAILED) {
		close(fds[1]);
		close(fds[2]);
		errno = err;
		return NULL;
	}
	ports[p].used = true;
	ports[p].event_fd = fds[1];
	ports[p].answer_fd = fds[2];
	h->port = p;
	h->is_attached = true;
	*port = p;
	return ring;	/* the caller unmaps it */
}

API int xc_monitor_disable(xc_interface *h, uint32_t dom);
int xc_monitor_disable(xc_interface *h, uint32_t dom)
{
	int err = op(h, dom, GW_MON_OP_DETACH, 0, 0, 0, 0);

	if (err || !h->is_attached)
		return err;
	h->is_attached = false;
	close(ports[h->port].event_fd);
	close(ports[h->port].answer_fd);
	ports[h->port].used = false;
	return 0;
}

API int xc_monitor_resume(xc_interface *h, uint32_t dom);
int xc_monitor_resume(xc_interface *h, uint32_t dom)
{
	return op(h, dom, GW_MON_OP_PULL, 0, 0, 0, 0);
}

API int xc_monitor_get_capabilities(xc_interface *h, uint32_t dom, uint32_t *capabilities);
int xc_monitor_get_capabilities(xc_interface *h, uint32_t dom, uint32_t *capabilities)
{
	if (xen_open_domain(h, dom))
		return -1;
	*capabilities = 0x0f7f;		/* all of 4.17's but privileged call (Arm's); VMEXIT is not made here */
	return 0;
}

API int xc_vm_event_get_version(xc_interface *h);
int xc_vm_event_get_version(xc_interface *h)
{
	return 7;
}

/* ---- events ---------------------------------------------------------------------------------------------------------------------- */

API int xc_monitor_write_ctrlreg(xc_interface *h, uint32_t dom, uint16_t index, bool enable, bool sync, uint64_t bitmask, bool onchangeonly);
int xc_monitor_write_ctrlreg(xc_interface *h, uint32_t dom, uint16_t index, bool enable, bool sync, uint64_t bitmask, bool onchangeonly)
{
	static const uint8_t cr[] = { 0, 3, 4, 8 };
	struct gw_mon_cmd c = { .op = GW_MON_OP_SUBSCRIBE, .a = { GW_MON_WRITE_CR, enable,
				(sync ? GW_MON_S_SYNC : 0) | (onchangeonly ? GW_MON_S_ON_CHANGE : 0), index < 4 ? cr[index] : ~0ull, bitmask } };

	return run(h, dom, &c, NULL, NULL);
}

API int xc_monitor_mov_to_msr(xc_interface *h, uint32_t dom, uint32_t msr, bool enable, bool onchangeonly);
int xc_monitor_mov_to_msr(xc_interface *h, uint32_t dom, uint32_t msr, bool enable, bool onchangeonly)
{
	return op(h, dom, GW_MON_OP_SUBSCRIBE, GW_MON_WRITE_MSR, enable, onchangeonly ? GW_MON_S_ON_CHANGE : 0, msr);
}

#define SWITCH(name, reason)								\
API int name(xc_interface *h, uint32_t dom, bool enable);				\
int name(xc_interface *h, uint32_t dom, bool enable)					\
{											\
	return subscribe(h, dom, reason, enable, GW_MON_S_SYNC);			\
}
SWITCH(xc_monitor_singlestep, GW_MON_SINGLESTEP)
SWITCH(xc_monitor_software_breakpoint, GW_MON_BREAKPOINT)
SWITCH(xc_monitor_descriptor_access, GW_MON_DESCRIPTOR)
SWITCH(xc_monitor_cpuid, GW_MON_CPUID)
SWITCH(xc_monitor_emul_unimplemented, GW_MON_UNIMPLEMENTED)
SWITCH(xc_monitor_io, GW_MON_IO)

API int xc_monitor_privileged_call(xc_interface *h, uint32_t dom, bool enable);
int xc_monitor_privileged_call(xc_interface *h, uint32_t dom, bool enable)
{
	errno = EOPNOTSUPP;	/* Arm's */
	return -1;
}

API int xc_monitor_vmexit(xc_interface *h, uint32_t dom, bool enable, bool sync);
int xc_monitor_vmexit(xc_interface *h, uint32_t dom, bool enable, bool sync)
{
	errno = EOPNOTSUPP;	/* there are no VT-x exits */
	return -1;
}

API int xc_monitor_inguest_pagefault(xc_interface *h, uint32_t dom, bool disable);
int xc_monitor_inguest_pagefault(xc_interface *h, uint32_t dom, bool disable)
{
	return op(h, dom, GW_MON_OP_WALKS, disable ? GW_MON_WALKS_SILENT : GW_MON_WALKS_REPORT, 0, 0, 0);
}

API int xc_monitor_guest_request(xc_interface *h, uint32_t dom, bool enable, bool sync, bool allow_userspace);
int xc_monitor_guest_request(xc_interface *h, uint32_t dom, bool enable, bool sync, bool allow_userspace)
{
	return subscribe(h, dom, GW_MON_GUEST_REQUEST, enable, (sync ? GW_MON_S_SYNC : 0) | (allow_userspace ? GW_MON_S_USER : 0));
}

API int xc_monitor_debug_exceptions(xc_interface *h, uint32_t dom, bool enable, bool sync);
int xc_monitor_debug_exceptions(xc_interface *h, uint32_t dom, bool enable, bool sync)
{
	return subscribe(h, dom, GW_MON_DEBUG, enable, sync ? GW_MON_S_SYNC : 0);
}

API int xc_monitor_emulate_each_rep(xc_interface *h, uint32_t dom, bool enable);
int xc_monitor_emulate_each_rep(xc_interface *h, uint32_t dom, bool enable)
{
	return op(h, dom, GW_MON_OP_CODE_EACH_REP, enable, 0, 0, 0);
}

/* ---- mem_access --------------------------------------------------------------------------------------------------------------------- */

API int xc_set_mem_access(xc_interface *h, uint32_t dom, int access, uint64_t first, uint32_t nr);
int xc_set_mem_access(xc_interface *h, uint32_t dom, int access, uint64_t first, uint32_t nr)
{
	return op(h, dom, GW_MON_OP_SET_ACCESS, 0, (uint64_t)access, first, nr);
}

API int xc_get_mem_access(xc_interface *h, uint32_t dom, uint64_t pfn, int *access);
int xc_get_mem_access(xc_interface *h, uint32_t dom, uint64_t pfn, int *access)
{
	struct gw_mon_cmd c = { .op = GW_MON_OP_GET_ACCESS, .a = { 0, pfn } };
	struct gw_mon_reply r;

	if (run(h, dom, &c, NULL, &r))
		return -1;
	*access = (int)r.r[0];
	return 0;
}

static int set_multi(xc_interface *h, uint32_t dom, uint16_t view, const uint8_t *access, const uint64_t *pages, uint32_t nr)
{
	struct gw_mon_set set[256];

	for (uint32_t i = 0; i < nr;) {
		uint32_t n = 0;
		struct gw_mon_cmd c = { .op = GW_MON_OP_SET_ACCESS_LIST, .a = { view } };

		while (n < 256 && i < nr) {
			set[n++] = (struct gw_mon_set){ pages[i], 1, access[i] };
			i++;
		}
		c.a[1] = n;
		c.size = (uint32_t)(n * sizeof(*set));
		if (run(h, dom, &c, set, NULL))
			return -1;
	}
	return 0;
}

API int xc_set_mem_access_multi(xc_interface *h, uint32_t dom, uint8_t *access, uint64_t *pages, uint32_t nr);
int xc_set_mem_access_multi(xc_interface *h, uint32_t dom, uint8_t *access, uint64_t *pages, uint32_t nr)
{
	return set_multi(h, dom, 0, access, pages, nr);
}

API int xc_domain_set_access_required(xc_interface *h, uint32_t dom, unsigned required);
int xc_domain_set_access_required(xc_interface *h, uint32_t dom, unsigned required)
{
	return op(h, dom, GW_MON_OP_REQUIRED, required, 0, 0, 0);
}

/* ---- altp2m -------------------------------------------------------------------------------------------------------------------------- */

API int xc_altp2m_get_domain_state(xc_interface *h, uint32_t dom, bool *state);
int xc_altp2m_get_domain_state(xc_interface *h, uint32_t dom, bool *state)
{
	struct gw_mon_cmd c = { .op = GW_MON_OP_VIEWS, .a = { 2 } };
	struct gw_mon_reply r;

	if (run(h, dom, &c, NULL, &r))
		return -1;
	*state = r.r[0];
	return 0;
}

API int xc_altp2m_set_domain_state(xc_interface *h, uint32_t dom, bool state);
int xc_altp2m_set_domain_state(xc_interface *h, uint32_t dom, bool state)
{
	return op(h, dom, GW_MON_OP_VIEWS, state, 0, 0, 0);
}

API int xc_altp2m_create_view(xc_interface *h, uint32_t dom, int access, uint16_t *view);
int xc_altp2m_create_view(xc_interface *h, uint32_t dom, int access, uint16_t *view)
{
	struct gw_mon_cmd c = { .op = GW_MON_OP_VIEW_CREATE, .a = { (uint64_t)access } };
	struct gw_mon_reply r;

	if (run(h, dom, &c, NULL, &r))
		return -1;
	*view = (uint16_t)r.r[0];
	return 0;
}

API int xc_altp2m_destroy_view(xc_interface *h, uint32_t dom, uint16_t view);
int xc_altp2m_destroy_view(xc_interface *h, uint32_t dom, uint16_t view)
{
	return op(h, dom, GW_MON_OP_VIEW_DESTROY, view, 0, 0, 0);
}

API int xc_altp2m_switch_to_view(xc_interface *h, uint32_t dom, uint16_t view);
int xc_altp2m_switch_to_view(xc_interface *h, uint32_t dom, uint16_t view)
{
	return op(h, dom, GW_MON_OP_VIEW_SWITCH, view, 0, 0, 0);
}

API int xc_altp2m_set_mem_access(xc_interface *h, uint32_t dom, uint16_t view, unsigned long gfn, int access);
int xc_altp2m_set_mem_access(xc_interface *h, uint32_t dom, uint16_t view, unsigned long gfn, int access)
{
	if (xen_open_domain(h, dom))
		return -1;
	if (h->count && (h->view != view || h->access != access || h->first + h->count != gfn) && send_gathered(h))
		return -1;
	if (!h->count) {
		h->view = view;
		h->access = (uint16_t)access;
		h->first = gfn;
	}
	h->count++;
	return 0;
}

API int xc_altp2m_set_mem_access_multi(xc_interface *h, uint32_t dom, uint16_t view, uint8_t *access, uint64_t *gfns, uint32_t nr);
int xc_altp2m_set_mem_access_multi(xc_interface *h, uint32_t dom, uint16_t view, uint8_t *access, uint64_t *gfns, uint32_t nr)
{
	return set_multi(h, dom, view, access, gfns, nr);
}

API int xc_altp2m_get_mem_access(xc_interface *h, uint32_t dom, uint16_t view, unsigned long gfn, int *access);
int xc_altp2m_get_mem_access(xc_interface *h, uint32_t dom, uint16_t view, unsigned long gfn, int *access)
{
	struct gw_mon_cmd c = { .op = GW_MON_OP_GET_ACCESS, .a = { view, gfn } };
	struct gw_mon_reply r;

	if (run(h, dom, &c, NULL, &r))
		return -1;
	*access = (int)r.r[0];
	return 0;
}

API int xc_altp2m_change_gfn(xc_interface *h, uint32_t dom, uint16_t view, unsigned long old_gfn, unsigned long new_gfn);
int xc_altp2m_change_gfn(xc_interface *h, uint32_t dom, uint16_t view, unsigned long old_gfn, unsigned long new_gfn)
{
	return op(h, dom, GW_MON_OP_CHANGE_GFN, view, old_gfn, new_gfn, 0);
}

API int xc_altp2m_get_vcpu_p2m_idx(xc_interface *h, uint32_t dom, uint32_t vcpu, uint16_t *index);
int xc_altp2m_get_vcpu_p2m_idx(xc_interface *h, uint32_t dom, uint32_t vcpu, uint16_t *index)
{
	struct gw_mon_cmd c = { .op = GW_MON_OP_VCPU_VIEW, .a = { vcpu } };
	struct gw_mon_reply r;

	if (run(h, dom, &c, NULL, &r))
		return -1;
	*index = (uint16_t)r.r[0];
	return 0;
}

API int xc_altp2m_set_visibility(xc_interface *h, uint32_t dom, uint16_t view, bool visible);
int xc_altp2m_set_visibility(xc_interface *h, uint32_t dom, uint16_t view, bool visible)
{
	return op(h, dom, GW_MON_OP_VIEW_VISIBLE, view, visible, 0, 0);
}

API int xc_altp2m_set_vcpu_enable_notify(xc_interface *h, uint32_t dom, uint32_t vcpu, unsigned long gfn);
int xc_altp2m_set_vcpu_enable_notify(xc_interface *h, uint32_t dom, uint32_t vcpu, unsigned long gfn)
{
	errno = EOPNOTSUPP;	/* no #VE */
	return -1;
}

#define NO_VE(name, ...)								\
API int name(xc_interface *h, uint32_t dom, __VA_ARGS__);				\
int name(xc_interface *h, uint32_t dom, __VA_ARGS__)					\
{											\
	errno = EOPNOTSUPP;								\
	return -1;									\
}
NO_VE(xc_altp2m_set_vcpu_disable_notify, uint32_t vcpu)
NO_VE(xc_altp2m_set_suppress_ve, uint16_t view, unsigned long gfn, bool sve)
NO_VE(xc_altp2m_get_suppress_ve, uint16_t view, unsigned long gfn, bool *sve)
NO_VE(xc_altp2m_set_supress_ve_multi, uint16_t view, unsigned long first, unsigned long last, bool sve, unsigned long *error_gfn, int *error_code)

/* ---- the domain ------------------------------------------------------------------------------------------------------------------------ */

API int xc_domain_maximum_gpfn(xc_interface *h, uint32_t dom, unsigned long *gpfns);
int xc_domain_maximum_gpfn(xc_interface *h, uint32_t dom, unsigned long *gpfns)
{
	struct gw_mon_cmd c = { .op = GW_MON_OP_INFO };
	struct gw_mon_reply r;

	if (run(h, dom, &c, NULL, &r))
		return -1;
	*gpfns = r.r[1];
	return 0;
}

API int xc_domain_debug_control(xc_interface *h, uint32_t dom, uint32_t sop, uint32_t vcpu);
int xc_domain_debug_control(xc_interface *h, uint32_t dom, uint32_t sop, uint32_t vcpu)
{
	if (sop > 1) {
		errno = ENOSYS;
		return -1;
	}
	return op(h, dom, GW_MON_OP_STEP, vcpu, sop, 0, 0);
}

API int xc_hvm_inject_trap(xc_interface *h, uint32_t dom, int vcpu, uint8_t vector, uint8_t type, uint32_t error, uint8_t length, uint64_t extra);
int xc_hvm_inject_trap(xc_interface *h, uint32_t dom, int vcpu, uint8_t vector, uint8_t type, uint32_t error, uint8_t length, uint64_t extra)
{
	struct gw_mon_cmd c = { .op = GW_MON_OP_INJECT, .a = { (uint64_t)vcpu, vector, type, error, length, extra } };

	return run(h, dom, &c, NULL, NULL);
}

API int xc_domain_pause(xc_interface *h, uint32_t dom);
int xc_domain_pause(xc_interface *h, uint32_t dom)
{
	return op(h, dom, GW_MON_OP_PAUSE, 0, 0, 0, 0);
}

API int xc_domain_unpause(xc_interface *h, uint32_t dom);
int xc_domain_unpause(xc_interface *h, uint32_t dom)
{
	return op(h, dom, GW_MON_OP_RESUME, 0, 0, 0, 0);
}

/* The one parameter that monitors set: how altp2m may be used. Ours is always "by the monitor alone" (2). */
#define HVM_PARAM_ALTP2M	35u

API int xc_hvm_param_get(xc_interface *h, uint32_t dom, uint32_t param, uint64_t *value);
int xc_hvm_param_get(xc_interface *h, uint32_t dom, uint32_t param, uint64_t *value)
{
	if (xen_open_domain(h, dom))
		return -1;
	if (param != HVM_PARAM_ALTP2M) {
		errno = EINVAL;
		return -1;
	}
	*value = 2;
	return 0;
}

API int xc_hvm_param_set(xc_interface *h, uint32_t dom, uint32_t param, uint64_t value);
int xc_hvm_param_set(xc_interface *h, uint32_t dom, uint32_t param, uint64_t value)
{
	if (xen_open_domain(h, dom))
		return -1;
	if (param == HVM_PARAM_ALTP2M && value == 2)
		return 0;
	errno = param == HVM_PARAM_ALTP2M ? EOPNOTSUPP : EINVAL;
	return -1;
}

/* Caches of x86 need no help, as in Xen's library. */
API int xc_domain_cacheflush(xc_interface *h, uint32_t dom, unsigned long start, unsigned long n);
int xc_domain_cacheflush(xc_interface *h, uint32_t dom, unsigned long start, unsigned long n)
{
	return 0;
}

API int xc_version(xc_interface *h, int cmd, void *arg);
int xc_version(xc_interface *h, int cmd, void *arg)
{
	if (cmd == 0)
		return 4 << 16 | 17;
	errno = ENOSYS;
	return -1;
}
