/* SPDX-License-Identifier: MIT */
/*
 * The stand-ins for Xen's libraries as LibVMI meets them: opened at run time by their names, every symbol it insists on resolved
 * with the version it asks for; then the calls themselves on a VM of this process, with the errors that Xen gives.
 */
#include "ring_client.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static void *ctrl, *evtchn;
static char name[2][512];

static void *symbol(const char *what)
{
	void *p = dlvsym(ctrl, what, "VERS_4.17.0");

	if (!p)
		print_message("# %s is missing\n", what);
	assert_non_null(p);
	return p;
}

static void libvmi_finds_every_symbol_it_insists_on(void **state)
{
	static const char *const needed[] = {
		"xc_interface_open", "xc_interface_close", "xc_version", "xc_domain_maximum_gpfn", "xc_set_mem_access", "xc_get_mem_access",
		"xc_set_mem_access_multi", "xc_monitor_enable", "xc_monitor_disable", "xc_monitor_resume", "xc_monitor_get_capabilities",
		"xc_monitor_write_ctrlreg", "xc_monitor_mov_to_msr", "xc_monitor_singlestep", "xc_monitor_software_breakpoint",
		"xc_monitor_guest_request", "xc_monitor_debug_exceptions", "xc_monitor_cpuid", "xc_monitor_privileged_call",
		"xc_monitor_descriptor_access", "xc_monitor_emul_unimplemented", "xc_monitor_vmexit", "xc_monitor_io",
		"xc_monitor_emulate_each_rep", "xc_monitor_inguest_pagefault", "xc_altp2m_get_domain_state", "xc_altp2m_set_domain_state",
		"xc_altp2m_set_vcpu_enable_notify", "xc_altp2m_create_view", "xc_altp2m_destroy_view", "xc_altp2m_switch_to_view",
		"xc_altp2m_set_mem_access", "xc_altp2m_get_mem_access", "xc_altp2m_set_mem_access_multi", "xc_altp2m_change_gfn",
		"xc_altp2m_set_visibility", "xc_altp2m_get_vcpu_p2m_idx", "xc_hvm_param_get", "xc_hvm_param_set", "xc_domain_cacheflush",
		"xc_domain_set_access_required", "xc_domain_setmaxmem", "xc_domain_debug_control", "xc_hvm_inject_trap", "xc_domain_pause",
		"xc_domain_unpause", "xc_vm_event_get_version", "xc_evtchn_open", "xc_evtchn_close", "xc_evtchn_fd",
		"xc_evtchn_bind_interdomain", "xc_evtchn_unbind", "xc_evtchn_pending", "xc_evtchn_unmask", "xc_evtchn_notify",
	};
	static const char *const ports[] = { "open", "close", "fd", "bind_interdomain", "unbind", "pending", "unmask", "notify" };

	for (unsigned i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
		symbol(needed[i]);
	for (unsigned i = 0; i < sizeof(ports) / sizeof(ports[0]); i++) {
		char full[64];

		snprintf(full, sizeof(full), "xenevtchn_%s", ports[i]);
		assert_non_null(dlvsym(evtchn, full, "VERS_1.0"));
	}
	assert_int_equal(((int (*)(void *, int, void *))symbol("xc_version"))(NULL, 0, NULL), 4 << 16 | 17);
	assert_int_equal(((int (*)(void *))symbol("xc_vm_event_get_version"))(NULL), 7);
}

/* ---- calls -------------------------------------------------------------------------------------------------------------------- */

static void *h;
static uint32_t dom;

/* 0, or the errno. */
#define CALL(what, types, ...) (((int (*) types)symbol(#what))(__VA_ARGS__) ? errno : 0)
#define ON(what, on) CALL(what, (void *, uint32_t, bool), h, dom, on)

static void the_calls_answer_as_xens_do(void **state)
{
	static struct rig r;
	unsigned long gpfn;
	struct xen_ring *ring;
	uint32_t port, caps;
	uint16_t view;
	bool on = true;
	uint64_t value;
	int access;

	rig_open(&r, 2);
	dom = (uint32_t)getpid();
	h = ((void *(*)(void *, void *, unsigned))symbol("xc_interface_open"))(NULL, NULL, 0);
	assert_non_null(h);
	/* The control thread may just be starting. */
	for (unsigned i = 0; CALL(xc_domain_maximum_gpfn, (void *, uint32_t, unsigned long *), h, dom, &gpfn) && i < 200; i++)
		usleep(10000);
	assert_int_equal(gpfn, (RAM >> 12) - 1);
	assert_int_equal(CALL(xc_set_mem_access, (void *, uint32_t, int, uint64_t, uint32_t), h, dom, GW_MON_RX, PAGE_A >> 12, 1), ENODEV);
	ring = ((void *(*)(void *, uint32_t, uint32_t *))symbol("xc_monitor_enable"))(h, dom, &port);
	assert_non_null(ring);
	assert_null(((void *(*)(void *, uint32_t, uint32_t *))symbol("xc_monitor_enable"))(h, dom, &port));
	assert_int_equal(errno, EBUSY);
	assert_int_equal(CALL(xc_monitor_get_capabilities, (void *, uint32_t, uint32_t *), h, dom, &caps), 0);
	assert_int_equal(caps >> 7 & 1, 0);
	/* On, on again, off, off again. */
	assert_int_equal(ON(xc_monitor_singlestep, true), 0);
	assert_int_equal(ON(xc_monitor_singlestep, true), EEXIST);
	assert_int_equal(ON(xc_monitor_singlestep, false), 0);
	assert_int_equal(ON(xc_monitor_singlestep, false), EEXIST);
	assert_int_equal(ON(xc_monitor_privileged_call, true), EOPNOTSUPP);
	assert_int_equal(CALL(xc_monitor_mov_to_msr, (void *, uint32_t, uint32_t, bool, bool), h, dom, 0x50000000, true, false), EINVAL);
	assert_int_equal(CALL(xc_monitor_mov_to_msr, (void *, uint32_t, uint32_t, bool, bool), h, dom, 0xc0000080, true, false), 0);
	assert_int_equal(CALL(xc_monitor_write_ctrlreg, (void *, uint32_t, uint16_t, bool, bool, uint64_t, bool), h, dom, 9, true, true, 0, true), EINVAL);
	assert_int_equal(CALL(xc_monitor_write_ctrlreg, (void *, uint32_t, uint16_t, bool, bool, uint64_t, bool), h, dom, 2, true, true, 0x80, true), 0);
	/* Rights. */
	assert_int_equal(CALL(xc_set_mem_access, (void *, uint32_t, int, uint64_t, uint32_t), h, dom, GW_MON_RX, PAGE_A >> 12, 1), 0);
	assert_int_equal(CALL(xc_get_mem_access, (void *, uint32_t, uint64_t, int *), h, dom, PAGE_A >> 12, &access), 0);
	assert_int_equal(access, GW_MON_RX);
	assert_int_equal(CALL(xc_set_mem_access, (void *, uint32_t, int, uint64_t, uint32_t), h, dom, GW_MON_RX, gpfn, 2), EINVAL);
	assert_int_equal(CALL(xc_get_mem_access, (void *, uint32_t, uint64_t, int *), h, dom, gpfn + 1, &access), EINVAL);
	assert_int_equal(CALL(xc_set_mem_access, (void *, uint32_t, int, uint64_t, uint32_t), h, dom, 12, PAGE_A >> 12, 1), EINVAL);
	{
		uint8_t type[3] = { GW_MON_R, GW_MON_W, 77 };
		uint64_t page[3] = { 1, 2, 3 };

		assert_int_equal(CALL(xc_set_mem_access_multi, (void *, uint32_t, uint8_t *, uint64_t *, uint32_t), h, dom, type, page, 3), EINVAL);
		assert_int_equal(CALL(xc_get_mem_access, (void *, uint32_t, uint64_t, int *), h, dom, 2, &access), 0);
		assert_int_equal(access, GW_MON_W);		/* what came before the bad one stays */
	}
	/* Views: off, everything is refused; nine of them, and no tenth. */
	assert_int_equal(CALL(xc_altp2m_create_view, (void *, uint32_t, int, uint16_t *), h, dom, GW_MON_RX, &view), EOPNOTSUPP);
	assert_int_equal(CALL(xc_hvm_param_get, (void *, uint32_t, uint32_t, uint64_t *), h, dom, 35, &value), 0);
	assert_int_equal(CALL(xc_altp2m_get_domain_state, (void *, uint32_t, bool *), h, dom, &on), 0);
	assert_false(on);
	assert_int_equal(ON(xc_altp2m_set_domain_state, true), 0);
	assert_int_equal(CALL(xc_altp2m_get_domain_state, (void *, uint32_t, bool *), h, dom, &on), 0);
	assert_true(on);
	for (unsigned i = 1; i < 10; i++) {
		assert_int_equal(CALL(xc_altp2m_create_view, (void *, uint32_t, int, uint16_t *), h, dom, GW_MON_RX, &view), 0);
		assert_int_equal(view, i);
	}
	assert_int_equal(CALL(xc_altp2m_create_view, (void *, uint32_t, int, uint16_t *), h, dom, GW_MON_RX, &view), EINVAL);
	assert_int_equal(CALL(xc_altp2m_switch_to_view, (void *, uint32_t, uint16_t), h, dom, 3), 0);
	assert_int_equal(CALL(xc_altp2m_destroy_view, (void *, uint32_t, uint16_t), h, dom, 3), EBUSY);
	assert_int_equal(CALL(xc_altp2m_destroy_view, (void *, uint32_t, uint16_t), h, dom, 0), EBUSY);
	assert_int_equal(CALL(xc_altp2m_set_visibility, (void *, uint32_t, uint16_t, bool), h, dom, 4, false), 0);
	assert_int_equal(CALL(xc_altp2m_switch_to_view, (void *, uint32_t, uint16_t), h, dom, 4), EINVAL);
	assert_int_equal(CALL(xc_altp2m_set_mem_access, (void *, uint32_t, uint16_t, unsigned long, int), h, dom, 3, PAGE_A >> 12, GW_MON_R), 0);
	assert_int_equal(CALL(xc_altp2m_get_mem_access, (void *, uint32_t, uint16_t, unsigned long, int *), h, dom, 3, PAGE_A >> 12, &access), 0);
	assert_int_equal(access, GW_MON_R);
	assert_int_equal(CALL(xc_altp2m_change_gfn, (void *, uint32_t, uint16_t, unsigned long, unsigned long), h, dom, 3, 0x99999, 1), ESRCH);
	assert_int_equal(CALL(xc_altp2m_set_vcpu_enable_notify, (void *, uint32_t, uint32_t, unsigned long), h, dom, 0, 1), EOPNOTSUPP);
	/* vCPUs, traps. */
	assert_int_equal(CALL(xc_domain_debug_control, (void *, uint32_t, uint32_t, uint32_t), h, dom, 1, 1), 0);
	assert_int_equal(CALL(xc_domain_debug_control, (void *, uint32_t, uint32_t, uint32_t), h, dom, 0, 1), 0);
	assert_int_equal(CALL(xc_domain_debug_control, (void *, uint32_t, uint32_t, uint32_t), h, dom, 0, 2), EINVAL);
	assert_int_equal(CALL(xc_hvm_inject_trap, (void *, uint32_t, int, uint8_t, uint8_t, uint32_t, uint8_t, uint64_t), h, dom, 0, 3, 6, ~0u, 1, 0), 0);
	assert_int_equal(CALL(xc_hvm_inject_trap, (void *, uint32_t, int, uint8_t, uint8_t, uint32_t, uint8_t, uint64_t), h, dom, 0, 3, 6, ~0u, 1, 0), EBUSY);
	/* Away, and away again. */
	munmap(ring, 4096);
	assert_int_equal(CALL(xc_monitor_disable, (void *, uint32_t), h, dom), 0);
	assert_int_equal(CALL(xc_monitor_disable, (void *, uint32_t), h, dom), EINVAL);
	assert_int_equal(CALL(xc_interface_close, (void *), h), 0);
	assert_int_equal(CALL(xc_domain_debug_control, (void *, uint32_t, uint32_t, uint32_t), NULL, dom, 0, 0), EINVAL);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(libvmi_finds_every_symbol_it_insists_on),
		cmocka_unit_test(the_calls_answer_as_xens_do),
	};
	const char *dir = getenv("GW_XEN_LIBRARIES");

	setenv("GUESTWARD_CONTROL", "1", 1);
	snprintf(name[0], sizeof(name[0]), "%s/libxenctrl.so.4.17", dir ? dir : "src/xen");
	snprintf(name[1], sizeof(name[1]), "%s/libxenevtchn.so.1", dir ? dir : "src/xen");
	ctrl = dlopen(name[0], RTLD_NOW | RTLD_GLOBAL);
	evtchn = dlopen(name[1], RTLD_NOW | RTLD_GLOBAL);
	if (!ctrl || !evtchn) {
		printf("1..0 # SKIP %s\n", dlerror());
		return 1;	/* they are built beside this test */
	}
	return cmocka_run_group_tests_name("monitor: Xen's libraries", tests, NULL, NULL);
}
