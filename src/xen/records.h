/* SPDX-License-Identifier: MIT */
/* Layouts of Xen 4.17's public headers: domctl.h (struct xen_domctl_getdomaininfo) and hvm/save.h. */
#ifndef GW_XEN_RECORDS_H
#define GW_XEN_RECORDS_H

#include <assert.h>
#include <stdint.h>

#define XEN_DOMAIN_HVM		0x02u
#define XEN_DOMAIN_RUNNING	0x20u

struct xen_domain_info {
	uint16_t domain, pad1;
	uint32_t flags;
	uint64_t tot_pages, max_pages, outstanding_pages, shr_pages, paged_pages, shared_info_frame, cpu_time;
	uint32_t nr_online_vcpus, max_vcpu_id, ssidref;
	uint8_t handle[16];
	uint32_t cpupool;
	uint8_t gpaddr_bits, pad2[7];
	uint32_t arch_config[2];
};
static_assert(sizeof(struct xen_domain_info) == 112, "xc_domaininfo_t");

enum { XEN_RECORD_END, XEN_RECORD_HEADER, XEN_RECORD_CPU };
struct xen_record { uint16_t type, instance; uint32_t length; };
struct xen_record_header { uint32_t magic, version; uint64_t changeset; uint32_t cpuid, gtsc_khz; };

/* Segments: CS, DS, ES, FS, GS, SS, TR, LDTR; limits and bases have IDTR and GDTR behind them. */
struct xen_cpu_record {
	uint8_t fpu_regs[512];
	uint64_t rax, rbx, rcx, rdx, rbp, rsi, rdi, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags;
	uint64_t cr0, cr2, cr3, cr4, dr[4], dr6, dr7;
	uint32_t sel[8], limit[10];
	uint64_t base[10];
	uint32_t arbytes[8];
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip, shadow_gs;
	uint64_t msr_flags, msr_lstar, msr_star, msr_cstar, msr_syscall_mask, msr_efer, msr_tsc_aux;
	uint64_t tsc;
	uint32_t pending_event, error_code, flags, pad0;
};
static_assert(sizeof(struct xen_cpu_record) == 1032, "struct hvm_hw_cpu");

#endif
