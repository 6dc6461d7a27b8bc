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

#include "../../src/xen/records.h"

#if __has_include(<xenctrl.h>)
#define __XEN_TOOLS__ 1
#include <xen/xen.h>
#include <xen/domctl.h>
#include <xen/hvm/save.h>
#define SAME(ours, theirs) _Static_assert(offsetof(struct xen_cpu_record, ours) == offsetof(struct hvm_hw_cpu, theirs), #ours)
SAME(rax, rax); SAME(rflags, rflags); SAME(cr0, cr0); SAME(dr[3], dr3); SAME(dr7, dr7); SAME(sel[0], cs_sel); SAME(sel[7], ldtr_sel);
SAME(limit[1], ds_limit); SAME(limit[8], idtr_limit); SAME(limit[9], gdtr_limit); SAME(base[3], fs_base); SAME(base[5], ss_base);
SAME(base[6], tr_base); SAME(base[9], gdtr_base); SAME(arbytes[0], cs_arbytes); SAME(arbytes[7], ldtr_arbytes); SAME(shadow_gs, shadow_gs);
SAME(msr_lstar, msr_lstar); SAME(msr_efer, msr_efer); SAME(tsc, tsc); SAME(pending_event, pending_event); SAME(flags, flags);
_Static_assert(sizeof(struct xen_cpu_record) == sizeof(struct hvm_hw_cpu) && sizeof(struct xen_record) == sizeof(struct hvm_save_descriptor) &&
	       sizeof(struct xen_record_header) == sizeof(struct hvm_save_header) && HVM_SAVE_CODE(CPU) == XEN_RECORD_CPU, "records");
#undef SAME
#define SAME(member) _Static_assert(offsetof(struct xen_domain_info, member) == offsetof(struct xen_domctl_getdomaininfo, member), #member)
SAME(flags); SAME(tot_pages); SAME(shared_info_frame); SAME(max_vcpu_id); SAME(handle); SAME(gpaddr_bits); SAME(arch_config);
_Static_assert(sizeof(struct xen_domain_info) == sizeof(struct xen_domctl_getdomaininfo) && XEN_DOMAIN_HVM == XEN_DOMINF_hvm_guest &&
	       XEN_DOMAIN_RUNNING == XEN_DOMINF_running, "domain information");
#endif

static void *ctrl, *evtchn, *store;
static char name[3][512];

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
		"xc_map_foreign_range", "xc_map_foreign_pages", "xc_vcpu_getcontext", "xc_vcpu_setcontext", "xc_domain_hvm_getcontext",
		"xc_domain_hvm_getcontext_partial", "xc_domain_hvm_setcontext", "xc_domain_getinfolist", "xc_domctl",
		"xc_domain_populate_physmap_exact", "xc_domain_decrease_reservation_exact", "xc_domain_get_tsc_info",
	};
	static const char *const stored[] = { "open", "close", "directory", "read", "fileno", "is_domain_introduced", "watch", "unwatch", "read_watch" };
	static const char *const ports[] = { "open", "close", "fd", "bind_interdomain", "unbind", "pending", "unmask", "notify" };

	for (unsigned i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
		symbol(needed[i]);
	for (unsigned i = 0; i < sizeof(ports) / sizeof(ports[0]); i++) {
		char full[64];

		snprintf(full, sizeof(full), "xenevtchn_%s", ports[i]);
		assert_non_null(dlvsym(evtchn, full, "VERS_1.0"));
	}
	for (unsigned i = 0; i < sizeof(stored) / sizeof(stored[0]); i++) {
		char full[64];

		snprintf(full, sizeof(full), "xs_%s", stored[i]);
		assert_non_null(dlvsym(store, full, "VERS_4.0"));
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

/* ---- domains, contexts, memory: what LibVMI wants before it looks at anything ----------------------------------------------------- */

static struct rig r;

static void open_domain(void)
{
	unsigned long gpfn;

	rig_open(&r, 2);
	dom = (uint16_t)getpid();
	h = ((void *(*)(void *, void *, unsigned))symbol("xc_interface_open"))(NULL, NULL, 0);
	assert_non_null(h);
	for (unsigned i = 0; CALL(xc_domain_maximum_gpfn, (void *, uint32_t, unsigned long *), h, dom, &gpfn) && i < 200; i++)
		usleep(10000);
}

static void close_domain(void)
{
	assert_int_equal(CALL(xc_interface_close, (void *), h), 0);
	rig_close(&r);
}

static void *stored(const char *path)
{
	struct xs_handle *(*xs_open)(unsigned long);
	void (*xs_close)(struct xs_handle *);
	void *(*xs_read)(struct xs_handle *, uint32_t, const char *, unsigned *);
	struct xs_handle *s;
	void *value;

	*(void **)&xs_open = dlsym(store, "xs_open");
	*(void **)&xs_close = dlsym(store, "xs_close");
	*(void **)&xs_read = dlsym(store, "xs_read");
	s = xs_open(0);
	assert_non_null(s);
	value = xs_read(s, 0, path, NULL);
	xs_close(s);
	return value;
}

#define LIST (int (*)(void *, uint32_t, unsigned, struct xen_domain_info *))symbol("xc_domain_getinfolist")

/* Ours; other processes of this machine may run VMs, too. */
static bool listed(struct xen_domain_info *info)
{
	return (LIST)(h, dom, 1, info) == 1 && info->domain == dom;
}

static void domains_are_listed_and_named(void **state)
{
	struct xen_domain_info info[2];
	char path[64], end[16], *text;
	static struct rig second;
	unsigned seen = 0;
	size_t n;

	open_domain();
	assert_true(listed(info));
	assert_int_equal(info[0].max_vcpu_id, 1);
	assert_int_equal(info[0].tot_pages, RAM >> 12);
	assert_true(info[0].flags & XEN_DOMAIN_HVM);
	assert_int_equal((LIST)(h, 65536, 1, info), 0);
	/* Two in one process: the first, unless the other is asked for. */
	rig_open(&second, 1);
	setenv("GUESTWARD_VM", "99", 1);
	assert_false(listed(info));
	for (unsigned vm = 0; vm < 8; vm++) {
		char number[4];

		snprintf(number, sizeof(number), "%u", vm);
		setenv("GUESTWARD_VM", number, 1);
		if (listed(info))
			seen |= 1u << info[0].max_vcpu_id;
	}
	unsetenv("GUESTWARD_VM");
	assert_int_equal(seen, 3);
	rig_close(&second);
	snprintf(path, sizeof(path), "/local/domain/%u/name", dom);
	snprintf(end, sizeof(end), "-%d", (int)getpid());
	text = stored(path);
	assert_non_null(text);
	n = strlen(text);
	assert_true(n > strlen(end));
	assert_string_equal(text + n - strlen(end), end);
	free(text);
	snprintf(path, sizeof(path), "/local/domain/%u/name/more", dom);
	assert_null(stored(path));
	assert_null(stored("/local/domain/70000/name"));
	assert_null(stored("/vm"));
	close_domain();
}

#define CONTEXT(what, buf, size) ((int (*)(void *, uint32_t, uint8_t *, uint32_t))symbol(#what))(h, dom, buf, size)
#define PARTIAL (int (*)(void *, uint32_t, uint16_t, uint16_t, void *, uint32_t))symbol("xc_domain_hvm_getcontext_partial")

static void contexts_go_out_and_come_back(void **state)
{
	static uint8_t all[8192], before[8192];
	struct xen_cpu_record cpu, *at;
	struct kvm_regs g = { .rip = CODE, .rsp = STACK, .rax = 0x1234, .r15 = 15, .rflags = 2 };
	int size;

	open_domain();
	assert_int_equal(gw_ioctl(r.vcpu[1], KVM_SET_REGS, (uintptr_t)&g), 0);
	assert_int_equal((PARTIAL)(h, dom, XEN_RECORD_CPU, 1, &cpu, sizeof(cpu)), 0);
	assert_int_equal(cpu.rax, 0x1234);
	assert_int_equal(cpu.r15, 15);
	assert_int_equal(cpu.rip, CODE);
	assert_int_equal(cpu.cr0 & 0x80000001, 0x80000001);
	assert_int_equal(cpu.msr_efer & 0x500, 0x500);
	assert_int_equal(cpu.arbytes[0] & 0x29b, 0x29b);		/* CS: code, present, 64-bit */
	assert_int_equal((PARTIAL)(h, dom, XEN_RECORD_CPU, 2, &cpu, sizeof(cpu)), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal((PARTIAL)(h, dom, XEN_RECORD_CPU, 1, &cpu, 100), -1);
	assert_int_equal((PARTIAL)(h, dom, 14, 0, &cpu, sizeof(cpu)), -1);
	assert_int_equal(errno, EOPNOTSUPP);
	/* The whole: asked for its size, then got, changed, set. */
	size = CONTEXT(xc_domain_hvm_getcontext, NULL, 0);
	assert_true(size > 2 * (int)sizeof(cpu) && size < (int)sizeof(all));
	assert_int_equal(CONTEXT(xc_domain_hvm_getcontext, all, (uint32_t)size - 1), -1);
	assert_int_equal(errno, ENOSPC);
	assert_int_equal(CONTEXT(xc_domain_hvm_getcontext, all, (uint32_t)size), size);
	memcpy(before, all, sizeof(all));
	assert_int_equal(CONTEXT(xc_domain_hvm_setcontext, all, (uint32_t)size), 0);
	at = (struct xen_cpu_record *)(void *)(all + 3 * sizeof(struct xen_record) + sizeof(struct xen_record_header) + sizeof(cpu));
	assert_int_equal(at->rax, 0x1234);
	at->rax = 0x77;
	at->base[3] = 0x5000;		/* FS */
	assert_int_equal(CONTEXT(xc_domain_hvm_setcontext, all, (uint32_t)size), 0);
	assert_int_equal(rig_regs(&r, 1).rax, 0x77);
	assert_int_equal((PARTIAL)(h, dom, XEN_RECORD_CPU, 1, &cpu, sizeof(cpu)), 0);
	assert_int_equal(cpu.base[3], 0x5000);
	/* What is not taken is not taken in silence. */
	at->tsc = 1;
	assert_int_equal(CONTEXT(xc_domain_hvm_setcontext, all, (uint32_t)size), -1);
	assert_int_equal(errno, EOPNOTSUPP);
	at->tsc = 0;
	at->msr_lstar = 1ull << 63;
	assert_int_equal(CONTEXT(xc_domain_hvm_setcontext, all, (uint32_t)size), -1);
	assert_int_equal(errno, EINVAL);
	/* Cut anywhere: refused, and nothing outside is read (the sanitizer looks). */
	for (int n = 0; n < size - (int)sizeof(struct xen_record); n += 7) {
		uint8_t *cut = malloc((size_t)n + 1);

		memcpy(cut, before, (size_t)n);
		if (!CONTEXT(xc_domain_hvm_setcontext, cut, (uint32_t)n))
			fail_msg("a context of %d bytes was taken", n);
		free(cut);
	}
	close_domain();
}

static void memory_is_mapped_and_is_the_guests(void **state)
{
	void *(*range)(void *, uint32_t, int, int, unsigned long);
	void *(*pages)(void *, uint32_t, int, const unsigned long *, int);
	unsigned long frames[] = { 0x40, 0x41, 0x10, 0x42 };
	uint8_t *p;

	open_domain();
	*(void **)&range = symbol("xc_map_foreign_range");
	*(void **)&pages = symbol("xc_map_foreign_pages");
	p = range(h, dom, 8192, PROT_READ | PROT_WRITE, 0x40);
	assert_non_null(p);
	strcpy((char *)r.ram + 0x41000, "by the guest");
	assert_string_equal((char *)p + 4096, "by the guest");
	strcpy((char *)p, "by the monitor");
	assert_string_equal((char *)r.ram + 0x40000, "by the monitor");
	munmap(p, 8192);
	strcpy((char *)r.ram + 0x10000, "third");
	p = pages(h, dom, PROT_READ, frames, 4);
	assert_non_null(p);
	assert_string_equal((char *)p, "by the monitor");
	assert_string_equal((char *)p + 8192, "third");
	munmap(p, 16384);
	/* One of them is no memory. */
	frames[3] = RAM >> 12;
	assert_null(pages(h, dom, PROT_READ, frames, 4));
	assert_int_equal(errno, ESRCH);
	assert_null(range(h, dom, 0, PROT_READ, 0));
	assert_int_equal(errno, EINVAL);
	assert_null(range(h, dom, 8192, PROT_READ, (RAM >> 12) - 1));
	close_domain();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(libvmi_finds_every_symbol_it_insists_on),
		cmocka_unit_test(the_calls_answer_as_xens_do),
		cmocka_unit_test(domains_are_listed_and_named),
		cmocka_unit_test(contexts_go_out_and_come_back),
		cmocka_unit_test(memory_is_mapped_and_is_the_guests),
	};
	const char *dir = getenv("GW_XEN_LIBRARIES");

	setenv("GUESTWARD_CONTROL", "1", 1);
	snprintf(name[0], sizeof(name[0]), "%s/libxenctrl.so.4.17", dir ? dir : "src/xen");
	snprintf(name[1], sizeof(name[1]), "%s/libxenevtchn.so.1", dir ? dir : "src/xen");
	snprintf(name[2], sizeof(name[2]), "%s/libxenstore.so.4", dir ? dir : "src/xen");
	store = dlopen(name[2], RTLD_NOW | RTLD_GLOBAL);
	ctrl = dlopen(name[0], RTLD_NOW | RTLD_GLOBAL);
	evtchn = dlopen(name[1], RTLD_NOW | RTLD_GLOBAL);
	if (!ctrl || !evtchn || !store) {
		printf("1..0 # SKIP %s\n", dlerror());
		return 1;	/* they are built beside this test */
	}
	return cmocka_run_group_tests_name("monitor: Xen's libraries", tests, NULL, NULL);
}
