/* SPDX-License-Identifier: MIT */
/* Which handler runs which system operation. Handlers read what they need from the kept decode (o->insn). */
#include "cpu/sys/sys_private.h"

static const struct handlers { cpu_fn *reg, *mem; } handlers[N_INSN_OPS] = {
#define ONE(NAME, fn) [I_##NAME] = { sys_##fn, sys_##fn }
#define TWO(NAME, r, m) [I_##NAME] = { sys_##r, sys_##m }
	TWO(MOV_TO_SEG, mov_to_seg_reg, mov_to_seg_mem), TWO(MOV_FROM_SEG, mov_from_seg_reg, mov_from_seg_mem),
	ONE(POP_SEG, pop_seg), ONE(PUSH_SEG, push_seg),
	ONE(LES, load_far_ptr), ONE(LDS, load_far_ptr), ONE(LSS, load_far_ptr), ONE(LFS, load_far_ptr), ONE(LGS, load_far_ptr),
	ONE(LLDT, lldt), ONE(LTR, ltr), ONE(SLDT, sldt), ONE(STR, str), ONE(LAR, lar), ONE(LSL, lsl), ONE(VERR, verr),
	ONE(VERW, verw), ONE(ARPL, arpl), ONE(SGDT, sgdt), ONE(SIDT, sidt), ONE(LGDT, lgdt), ONE(LIDT, lidt),
	ONE(JMP_FAR, jmp_far), ONE(JMP_FAR_IND, jmp_far_ind), ONE(CALL_FAR, call_far), ONE(CALL_FAR_IND, call_far_ind),
	ONE(RET_FAR, ret_far), ONE(IRET, iret), ONE(INT, int_n), ONE(INT3, int3), ONE(INTO, into), ONE(INT1, int1),
	ONE(SYSCALL, syscall), ONE(SYSRET, sysret), ONE(SYSENTER, sysenter), ONE(SYSEXIT, sysexit), ONE(SWAPGS, swapgs),
	ONE(RDFSBASE, rdfsbase), ONE(RDGSBASE, rdgsbase), ONE(WRFSBASE, wrfsbase), ONE(WRGSBASE, wrgsbase),
	ONE(CLI, cli), ONE(STI, sti), ONE(PUSHF, pushf), ONE(POPF, popf), ONE(CLAC, clac), ONE(STAC, stac),
	ONE(MOV_FROM_CR, mov_from_cr), ONE(MOV_TO_CR, mov_to_cr), ONE(CLTS, clts), ONE(SMSW, smsw), ONE(LMSW, lmsw),
	ONE(INVLPG, invlpg), ONE(INVPCID, invpcid), ONE(XGETBV, xgetbv), ONE(XSETBV, xsetbv),
	ONE(MOV_FROM_DR, mov_from_dr), ONE(MOV_TO_DR, mov_to_dr), ONE(RDMSR, rdmsr), ONE(WRMSR, wrmsr),
	ONE(RDTSC, rdtsc), ONE(RDTSCP, rdtscp), ONE(RDPMC, rdpmc), ONE(RDPID, rdpid), ONE(RDRAND, random), ONE(RDSEED, random),
	ONE(CPUID, cpuid), ONE(RDPKRU, rdpkru), ONE(WRPKRU, wrpkru), ONE(HLT, hlt),
	ONE(INVD, wbinvd), ONE(WBINVD, wbinvd), ONE(WBNOINVD, wbinvd), ONE(SERIALIZE, serialize),
	ONE(VMCALL, vmcall), ONE(RSM, rsm), ONE(VMMCALL, vmcall),
	ONE(IN, in), ONE(OUT, out), ONE(INS, ins), ONE(OUTS, outs),
#undef ONE
#undef TWO
};

bool cpu_lower_sys(const struct insn *in, struct cpu_op *o)
{
	const struct handlers *h = &handlers[in->op];

	if (!h->reg)
		return false;
	o->fn = in->has_mem ? h->mem : h->reg;
	return true;
}
