/* SPDX-License-Identifier: MIT */
/*
 * x86-64 architecture constants: control registers, EFLAGS, page-table bits, vectors, EFER. Data only, no behaviour.
 * Source: Intel SDM vol. 3 "System Architecture Overview", "Protected-Mode Memory Management", "Interrupt and Exception Handling".
 */
#ifndef GW_ISA_X86_H
#define GW_ISA_X86_H

/* CR0 */
#define CR0_PE	0x00000001ull
#define CR0_MP	0x00000002ull
#define CR0_EM	0x00000004ull
#define CR0_TS	0x00000008ull
#define CR0_ET	0x00000010ull
#define CR0_NE	0x00000020ull
#define CR0_WP	0x00010000ull
#define CR0_AM	0x00040000ull
#define CR0_NW	0x20000000ull
#define CR0_CD	0x40000000ull
#define CR0_PG	0x80000000ull

/* CR3 */
#define CR3_PCID_MASK	0xfffull
#define CR3_NOFLUSH	(1ull << 63)

/* CR4 */
#define CR4_VME		0x00000001ull
#define CR4_PVI		0x00000002ull
#define CR4_TSD		0x00000004ull
#define CR4_DE		0x00000008ull
#define CR4_PSE		0x00000010ull
#define CR4_PAE		0x00000020ull
#define CR4_MCE		0x00000040ull
#define CR4_PGE		0x00000080ull
#define CR4_PCE		0x00000100ull
#define CR4_OSFXSR	0x00000200ull
#define CR4_OSXMMEXCPT	0x00000400ull
#define CR4_UMIP	0x00000800ull
#define CR4_LA57	0x00001000ull
#define CR4_VMXE	0x00002000ull
#define CR4_SMXE	0x00004000ull
#define CR4_FSGSBASE	0x00010000ull
#define CR4_PCIDE	0x00020000ull
#define CR4_OSXSAVE	0x00040000ull
#define CR4_SMEP	0x00100000ull
#define CR4_SMAP	0x00200000ull
#define CR4_PKE		0x00400000ull
#define CR4_CET		0x00800000ull
#define CR4_PKS		0x01000000ull

/* EFER */
#define EFER_SCE	0x00000001ull
#define EFER_LME	0x00000100ull
#define EFER_LMA	0x00000400ull
#define EFER_NX		0x00000800ull

/* RFLAGS */
#define FLAG_CF		0x00000001u
#define FLAG_FIXED	0x00000002u
#define FLAG_PF		0x00000004u
#define FLAG_AF		0x00000010u
#define FLAG_ZF		0x00000040u
#define FLAG_SF		0x00000080u
#define FLAG_TF		0x00000100u
#define FLAG_IF		0x00000200u
#define FLAG_DF		0x00000400u
#define FLAG_OF		0x00000800u
#define FLAG_IOPL	0x00003000u
#define FLAG_IOPL_SHIFT	12
#define FLAG_NT		0x00004000u
#define FLAG_RF		0x00010000u
#define FLAG_VM		0x00020000u
#define FLAG_AC		0x00040000u
#define FLAG_VIF	0x00080000u
#define FLAG_VIP	0x00100000u
#define FLAG_ID		0x00200000u
#define FLAGS_ARITH	(FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

/* Page-table entries */
#define PTE_P		0x001ull
#define PTE_W		0x002ull
#define PTE_U		0x004ull
#define PTE_PWT		0x008ull
#define PTE_PCD		0x010ull
#define PTE_A		0x020ull
#define PTE_D		0x040ull
#define PTE_PS		0x080ull
#define PTE_G		0x100ull
#define PTE_NX		(1ull << 63)

/* #PF error code */
#define PFEC_P		0x01u
#define PFEC_W		0x02u
#define PFEC_U		0x04u
#define PFEC_RSVD	0x08u
#define PFEC_I		0x10u
#define PFEC_PK		0x20u
#define PFEC_SS		0x40u
#define PFEC_SGX	0x8000u

/* Exception vectors */
enum x86_vector {
	VEC_DE = 0, VEC_DB = 1, VEC_NMI = 2, VEC_BP = 3, VEC_OF = 4, VEC_BR = 5, VEC_UD = 6, VEC_NM = 7, VEC_DF = 8,
	VEC_TS = 10, VEC_NP = 11, VEC_SS = 12, VEC_GP = 13, VEC_PF = 14, VEC_MF = 16, VEC_AC = 17, VEC_MC = 18,
	VEC_XM = 19, VEC_VE = 20, VEC_CP = 21, VEC_VC = 29,
};

/* Segment register numbers as encoded in ModRM.reg; LDTR and TR are ours. */
enum x86_seg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDTR, SEG_TR, N_SEGS };

/* General registers by encoding. */
enum x86_gpr { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

#endif
