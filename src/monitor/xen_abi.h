/* SPDX-License-Identifier: MIT */
/* Xen's vm_event ring, interface version 7, as bytes: one page, a header of 64 bytes, 8 entries of 400. */
#ifndef GW_MONITOR_XEN_ABI_H
#define GW_MONITOR_XEN_ABI_H

#include <stddef.h>
#include <stdint.h>

#define XEN_VM_EVENT_VERSION	7u
#define XEN_RING_SLOTS		8u

#define XEN_F_VCPU_PAUSED	(1u << 0)
#define XEN_F_FOREIGN		(1u << 1)
#define XEN_F_EMULATE		(1u << 2)
#define XEN_F_NOWRITE		(1u << 3)
#define XEN_F_TOGGLE_STEP	(1u << 4)
#define XEN_F_READ_DATA		(1u << 5)
#define XEN_F_DENY		(1u << 6)
#define XEN_F_VIEW		(1u << 7)
#define XEN_F_REGISTERS		(1u << 8)
#define XEN_F_INSN_DATA		(1u << 9)
#define XEN_F_NEXT_INTERRUPT	(1u << 10)
#define XEN_F_FAST_STEP		(1u << 11)

#define XEN_MEM_R		0x01u
#define XEN_MEM_W		0x02u
#define XEN_MEM_X		0x04u
#define XEN_MEM_GLA_VALID	0x08u
#define XEN_MEM_WITH_GLA	0x10u
#define XEN_MEM_IN_GPT		0x20u

struct xen_regs {
	uint64_t rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15, rflags, dr6, dr7, rip;
	uint64_t cr0, cr2, cr3, cr4, sysenter_cs, sysenter_esp, sysenter_eip, efer, star, lstar, gdtr_base, npt_base, vmtrace_pos;
	uint32_t cs_base, ss_base, ds_base, es_base;
	uint64_t fs_base, gs_base;
	uint32_t cs, ss, ds, es, fs, gs;	/* limit and attributes, packed */
	uint64_t shadow_gs;
	uint16_t gdtr_limit, cs_sel, ss_sel, ds_sel, es_sel, fs_sel, gs_sel, pad;
};

struct xen_event {
	uint32_t version, flags, reason, vcpu_id;
	uint16_t altp2m_idx, pad[3];
	union {
		struct { uint64_t gfn, offset, gla; uint32_t flags, pad; } mem_access;
		struct { uint32_t index, pad; uint64_t new_value, old_value; } write_ctrlreg;
		struct { uint64_t msr, new_value, old_value; } mov_to_msr;
		struct { uint64_t gfn, pending_dbg; uint32_t insn_length; uint8_t type, pad[3]; } debug;
		struct { uint64_t gfn; } singlestep;
		struct { uint32_t insn_length, leaf, subleaf, pad; } cpuid;
		struct { uint32_t vector, type, error_code, pad; uint64_t cr2; } interrupt;
		struct { uint32_t instr_info, pad1; uint64_t exit_qualification; uint8_t descriptor, is_write, pad[6]; } desc_access;
		struct { uint32_t bytes; uint16_t port; uint8_t in, str; } io;
		struct { uint16_t p2midx; } fast_singlestep;
		uint64_t word[4];
	} u;
	union {
		struct xen_regs regs;
		struct { uint32_t size; uint8_t data[340]; } read;
		struct { uint8_t data[16]; } insn;
	} data;
};

struct xen_ring {
	uint32_t req_prod, req_event, rsp_prod, rsp_event;
	uint8_t pad[48];
	struct xen_event slot[XEN_RING_SLOTS];
};

#define AT(type, field, at) _Static_assert(offsetof(struct type, field) == (at), #type "." #field)
_Static_assert(sizeof(struct xen_event) == 400, "entry");
AT(xen_ring, slot, 64); AT(xen_ring, req_prod, 0); AT(xen_ring, req_event, 4); AT(xen_ring, rsp_prod, 8); AT(xen_ring, rsp_event, 12);
AT(xen_event, version, 0); AT(xen_event, flags, 4); AT(xen_event, reason, 8); AT(xen_event, vcpu_id, 12); AT(xen_event, altp2m_idx, 16);
AT(xen_event, u, 24); AT(xen_event, data, 56);
AT(xen_event, u.mem_access.gfn, 24); AT(xen_event, u.mem_access.offset, 32); AT(xen_event, u.mem_access.gla, 40);
AT(xen_event, u.mem_access.flags, 48); AT(xen_event, u.write_ctrlreg.index, 24); AT(xen_event, u.write_ctrlreg.new_value, 32);
AT(xen_event, u.write_ctrlreg.old_value, 40); AT(xen_event, u.mov_to_msr.msr, 24); AT(xen_event, u.mov_to_msr.new_value, 32);
AT(xen_event, u.mov_to_msr.old_value, 40); AT(xen_event, u.debug.gfn, 24); AT(xen_event, u.debug.pending_dbg, 32);
AT(xen_event, u.debug.insn_length, 40); AT(xen_event, u.debug.type, 44); AT(xen_event, u.cpuid.insn_length, 24);
AT(xen_event, u.cpuid.leaf, 28); AT(xen_event, u.cpuid.subleaf, 32); AT(xen_event, u.interrupt.vector, 24);
AT(xen_event, u.interrupt.type, 28); AT(xen_event, u.interrupt.error_code, 32); AT(xen_event, u.interrupt.cr2, 40);
AT(xen_event, u.desc_access.instr_info, 24); AT(xen_event, u.desc_access.exit_qualification, 32);
AT(xen_event, u.desc_access.descriptor, 40); AT(xen_event, u.desc_access.is_write, 41); AT(xen_event, u.io.bytes, 24);
AT(xen_event, u.io.port, 28); AT(xen_event, u.io.in, 30); AT(xen_event, u.io.str, 31); AT(xen_event, u.fast_singlestep.p2midx, 24);
_Static_assert(sizeof(struct xen_regs) == 344, "registers");
AT(xen_regs, r8, 64); AT(xen_regs, rflags, 128); AT(xen_regs, dr6, 136); AT(xen_regs, rip, 152); AT(xen_regs, cr0, 160);
AT(xen_regs, sysenter_cs, 192); AT(xen_regs, efer, 216); AT(xen_regs, gdtr_base, 240); AT(xen_regs, npt_base, 248);
AT(xen_regs, vmtrace_pos, 256); AT(xen_regs, cs_base, 264); AT(xen_regs, fs_base, 280); AT(xen_regs, cs, 296); AT(xen_regs, gs, 316);
AT(xen_regs, shadow_gs, 320); AT(xen_regs, gdtr_limit, 328); AT(xen_regs, cs_sel, 330); AT(xen_regs, gs_sel, 340);
#undef AT

#endif
