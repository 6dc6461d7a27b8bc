/* SPDX-License-Identifier: MIT */
/*
 * Domains and the state of their vCPUs, as libxenctrl 4.17 shows them. Layouts are those of Xen's public headers (domctl.h,
 * hvm/save.h); xen_test compares them with Debian's libxen-dev where that is installed.
 *
 * Of a saved context only the header, the CPU records and the end are made, and only CPU records are taken back: devices are the
 * VMM's. FPU registers, TSC and pending events are zeros in them (the flag for the FPU says so); changing those is refused.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "handle.h"
#include "records.h"

/* ---- which domains -------------------------------------------------------------------------------------------------------- */

static int info_of(struct xen_session *s, uint64_t which, struct gw_mon_reply *r)
{
	const struct gw_mon_cmd c = { .op = GW_MON_OP_INFO, .a = { which } };

	return xen_command(s, &c, NULL, r, NULL, NULL, NULL);
}

API int xc_domain_getinfolist(xc_interface *h, uint32_t first, unsigned max, struct xen_domain_info *info);
int xc_domain_getinfolist(xc_interface *h, uint32_t first, unsigned max, struct xen_domain_info *info)
{
	uint16_t id[XEN_PROCESSES];
	int pid[XEN_PROCESSES];
	unsigned n, found = 0;

	if (!h) {
		errno = EINVAL;
		return -1;
	}
	/* By domain id, which is the lower half of the process id. */
	n = xen_processes(pid);
	for (unsigned i = 0; i < n; i++) {
		unsigned at = i;

		while (at && id[at - 1] > (uint16_t)pid[i]) {
			id[at] = id[at - 1];
			at--;
		}
		id[at] = (uint16_t)pid[i];
	}
	for (unsigned i = 0; i < n && found < max; i++) {
		struct xen_session s;
		struct gw_mon_reply r, pages;
		int err;

		/* Those of other users are not ours to see. */
		if (id[i] < first || (i && id[i] == id[i - 1]) || xen_connect(&s, id[i]))
			continue;
		err = info_of(&s, 0, &r) || info_of(&s, 1, &pages);
		xen_disconnect(&s);
		if (err)
			continue;
		info[found] = (struct xen_domain_info){ .domain = id[i], .flags = XEN_DOMAIN_HVM | XEN_DOMAIN_RUNNING, .tot_pages = pages.r[0],
			.max_pages = pages.r[0], .shared_info_frame = ~0ull, .nr_online_vcpus = (uint32_t)r.r[0],
			.max_vcpu_id = r.r[0] ? (uint32_t)r.r[0] - 1 : ~0u, .gpaddr_bits = 46 };
		found++;
	}
	return (int)found;
}

/* A limit, and there is nothing it could stop: the memory is the client's, and nobody else can give the guest more. */
API int xc_domain_setmaxmem(xc_interface *h, uint32_t dom, uint64_t max_memkb);
int xc_domain_setmaxmem(xc_interface *h, uint32_t dom, uint64_t max_memkb)
{
	return xen_open_domain(h, dom);
}

#define REFUSED(name, ...)								\
API int name(xc_interface *h, __VA_ARGS__);						\
int name(xc_interface *h, __VA_ARGS__)							\
{											\
	errno = EOPNOTSUPP;								\
	return -1;									\
}
REFUSED(xc_domain_populate_physmap_exact, uint32_t dom, unsigned long n, unsigned order, unsigned flags, unsigned long *frames)
REFUSED(xc_domain_decrease_reservation_exact, uint32_t dom, unsigned long n, unsigned order, unsigned long *frames)
REFUSED(xc_domain_get_tsc_info, uint32_t dom, uint32_t *mode, uint64_t *ns, uint32_t *khz, uint32_t *incarnation)
/* For guests without hardware virtualization; ours look as if they had it. */
REFUSED(xc_vcpu_getcontext, uint32_t dom, uint32_t vcpu, void *context)
REFUSED(xc_vcpu_setcontext, uint32_t dom, uint32_t vcpu, void *context)
REFUSED(xc_domctl, void *domctl)

/* ---- registers -------------------------------------------------------------------------------------------------------------- */

/* General registers, and those of the same width: where they are on both sides. */
static const struct { uint16_t xen, ours; } words[] = {
#define GPR(r)	{ offsetof(struct xen_cpu_record, r), offsetof(struct gw_mon_regs, regs.r) }
	GPR(rax), GPR(rbx), GPR(rcx), GPR(rdx), GPR(rbp), GPR(rsi), GPR(rdi), GPR(rsp), GPR(r8), GPR(r9), GPR(r10), GPR(r11), GPR(r12),
	GPR(r13), GPR(r14), GPR(r15), GPR(rip), GPR(rflags),
#define AT(r, o) { offsetof(struct xen_cpu_record, r), offsetof(struct gw_mon_regs, o) }
	AT(cr0, sregs.cr0), AT(cr2, sregs.cr2), AT(cr3, sregs.cr3), AT(cr4, sregs.cr4), AT(dr[0], dr[0]), AT(dr[1], dr[1]), AT(dr[2], dr[2]),
	AT(dr[3], dr[3]), AT(dr6, dr6), AT(dr7, dr7), AT(sysenter_cs, sysenter_cs), AT(sysenter_esp, sysenter_esp),
	AT(sysenter_eip, sysenter_eip), AT(shadow_gs, kernel_gs_base), AT(msr_lstar, lstar), AT(msr_star, star), AT(msr_cstar, cstar),
	AT(msr_syscall_mask, sfmask), AT(msr_efer, sregs.efer),
};

/* In Xen's order. */
static const uint16_t segments[8] = {
#define SEG(s)	offsetof(struct gw_mon_regs, sregs.s)
	SEG(cs), SEG(ds), SEG(es), SEG(fs), SEG(gs), SEG(ss), SEG(tr), SEG(ldt),
};
#define IDTR	8u
#define GDTR	9u

static uint32_t attributes(const struct kvm_segment *s)
{
	return (uint32_t)(s->type | s->s << 4 | s->dpl << 5 | s->present << 7 | s->avl << 8 | s->l << 9 | s->db << 10 | s->g << 11);
}

static void set_attributes(struct kvm_segment *s, uint32_t a)
{
	s->type = a & 15;
	s->s = a >> 4 & 1;
	s->dpl = a >> 5 & 3;
	s->present = a >> 7 & 1;
	s->avl = a >> 8 & 1;
	s->l = a >> 9 & 1;
	s->db = a >> 10 & 1;
	s->g = a >> 11 & 1;
	s->unusable = !s->present;
}

static void to_record(const struct gw_mon_regs *g, struct xen_cpu_record *c)
{
	memset(c, 0, sizeof(*c));
	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		memcpy((uint8_t *)c + words[i].xen, (const uint8_t *)g + words[i].ours, sizeof(uint64_t));
	for (unsigned i = 0; i < 8; i++) {
		struct kvm_segment s;

		memcpy(&s, (const uint8_t *)g + segments[i], sizeof(s));
		c->sel[i] = s.selector;
		c->limit[i] = s.limit;
		c->base[i] = s.base;
		c->arbytes[i] = attributes(&s);
	}
	c->limit[IDTR] = g->sregs.idt.limit;
	c->base[IDTR] = g->sregs.idt.base;
	c->limit[GDTR] = g->sregs.gdt.limit;
	c->base[GDTR] = g->sregs.gdt.base;
}

/* What a record does not hold stays in @g. */
static void from_record(const struct xen_cpu_record *c, struct gw_mon_regs *g)
{
	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		memcpy((uint8_t *)g + words[i].ours, (const uint8_t *)c + words[i].xen, sizeof(uint64_t));
	for (unsigned i = 0; i < 8; i++) {
		struct kvm_segment s;

		memcpy(&s, (const uint8_t *)g + segments[i], sizeof(s));
		s.selector = (uint16_t)c->sel[i];
		s.limit = c->limit[i];
		s.base = c->base[i];
		if (attributes(&s) != c->arbytes[i])
			set_attributes(&s, c->arbytes[i]);
		memcpy((uint8_t *)g + segments[i], &s, sizeof(s));
	}
	g->sregs.idt.limit = (uint16_t)c->limit[IDTR];
	g->sregs.idt.base = c->base[IDTR];
	g->sregs.gdt.limit = (uint16_t)c->limit[GDTR];
	g->sregs.gdt.base = c->base[GDTR];
}

static int get_regs(xc_interface *h, uint32_t dom, unsigned vcpu, struct gw_mon_regs *g)
{
	const struct gw_mon_cmd c = { .op = GW_MON_OP_GET_REGS, .a = { vcpu } };
	uint8_t page[GW_MON_PAGE];

	if (xen_run(h, dom, &c, NULL, NULL, page, NULL))
		return -1;
	memcpy(g, page, sizeof(*g));
	return 0;
}

/* ---- contexts ----------------------------------------------------------------------------------------------------------------- */

API int xc_domain_hvm_getcontext_partial(xc_interface *h, uint32_t dom, uint16_t type, uint16_t instance, void *buf, uint32_t size);
int xc_domain_hvm_getcontext_partial(xc_interface *h, uint32_t dom, uint16_t type, uint16_t instance, void *buf, uint32_t size)
{
	struct xen_cpu_record c;
	struct gw_mon_regs g;

	if (type != XEN_RECORD_CPU) {
		errno = type == XEN_RECORD_HEADER || type == XEN_RECORD_END ? EINVAL : EOPNOTSUPP;
		return -1;
	}
	if (!buf || size < sizeof(c)) {
		errno = EINVAL;
		return -1;
	}
	if (get_regs(h, dom, instance, &g))
		return -1;
	to_record(&g, &c);
	memcpy(buf, &c, sizeof(c));
	return 0;
}

static uint8_t *put(uint8_t *at, uint16_t type, uint16_t instance, const void *record, uint32_t length)
{
	const struct xen_record r = { type, instance, length };

	memcpy(at, &r, sizeof(r));
	if (length)
		memcpy(at + sizeof(r), record, length);
	return at + sizeof(r) + length;
}

API int xc_domain_hvm_getcontext(xc_interface *h, uint32_t dom, uint8_t *buf, uint32_t size);
int xc_domain_hvm_getcontext(xc_interface *h, uint32_t dom, uint8_t *buf, uint32_t size)
{
	const struct xen_record_header head = { .magic = 0x54381286, .version = 1 };
	const struct gw_mon_cmd c = { .op = GW_MON_OP_INFO };
	struct gw_mon_reply r;
	uint64_t need;
	uint8_t *at;

	if (xen_run(h, dom, &c, NULL, &r, NULL, NULL))
		return -1;
	need = 3 * sizeof(struct xen_record) + sizeof(head) + (r.r[0] - 1) * sizeof(struct xen_record) + r.r[0] * sizeof(struct xen_cpu_record);
	if (!r.r[0] || need > INT32_MAX) {
		errno = ENODATA;
		return -1;
	}
	if (!buf)
		return (int)need;
	if (size < need) {
		errno = ENOSPC;
		return -1;
	}
	at = put(buf, XEN_RECORD_HEADER, 0, &head, sizeof(head));
	for (unsigned i = 0; i < r.r[0]; i++) {
		struct xen_cpu_record cpu;
		struct gw_mon_regs g;

		if (get_regs(h, dom, i, &g))
			return -1;
		to_record(&g, &cpu);
		at = put(at, XEN_RECORD_CPU, (uint16_t)i, &cpu, sizeof(cpu));
	}
	put(at, XEN_RECORD_END, 0, NULL, 0);
	return (int)need;
}

static int set_cpu(xc_interface *h, uint32_t dom, unsigned vcpu, const void *record)
{
	struct gw_mon_cmd c = { .op = GW_MON_OP_SET_REGS, .size = sizeof(struct gw_mon_regs), .a = { vcpu } };
	struct xen_cpu_record wanted, now;
	struct gw_mon_regs g;

	memcpy(&wanted, record, sizeof(wanted));
	if (get_regs(h, dom, vcpu, &g))
		return -1;
	to_record(&g, &now);
	if (!memcmp(&now, &wanted, sizeof(now)))
		return 0;
	from_record(&wanted, &g);
	to_record(&g, &now);
	if (memcmp(&now, &wanted, sizeof(now))) {
		errno = EOPNOTSUPP;	/* something else was changed: FPU, TSC, a pending event */
		return -1;
	}
	return xen_run(h, dom, &c, &g, NULL, NULL, NULL);
}

API int xc_domain_hvm_setcontext(xc_interface *h, uint32_t dom, uint8_t *buf, uint32_t size);
int xc_domain_hvm_setcontext(xc_interface *h, uint32_t dom, uint8_t *buf, uint32_t size)
{
	uint32_t at = 0;

	if (!buf || xen_open_domain(h, dom)) {
		errno = buf ? errno : EINVAL;
		return -1;
	}
	while (at <= size && size - at >= sizeof(struct xen_record)) {
		struct xen_record r;

		memcpy(&r, buf + at, sizeof(r));
		at += (uint32_t)sizeof(r);
		if (r.length > size - at)
			break;
		if (r.type == XEN_RECORD_END)
			return 0;
		if (r.type == XEN_RECORD_CPU && r.length != sizeof(struct xen_cpu_record))
			break;
		if (r.type == XEN_RECORD_CPU && set_cpu(h, dom, r.instance, buf + at))
			return -1;
		if (r.type != XEN_RECORD_CPU && r.type != XEN_RECORD_HEADER) {
			errno = EOPNOTSUPP;
			return -1;
		}
		at += r.length;
	}
	errno = EINVAL;		/* cut short */
	return -1;
}
