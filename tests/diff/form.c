/* SPDX-License-Identifier: MIT */
/*
 * The forms: every encoding variant of every row that decodes back to the row. Also which operations a user-mode differential
 * test cannot run, each with its reason.
 */
#include <stdlib.h>
#include <string.h>

#include "diff.h"

/* Not run: they answer from system state, leave the test, or would change the sandbox itself. */
static const uint16_t excluded[] = {
	/* Control passes to the kernel or to other code segments. */
	I_SYSCALL, I_SYSRET, I_SYSENTER, I_SYSEXIT, I_INT, I_INT3, I_INT1, I_INTO, I_IRET, I_CALL_FAR, I_CALL_FAR_IND, I_JMP_FAR,
	I_JMP_FAR_IND, I_RET_FAR,
	/* Segment registers and descriptor tables are the host kernel's. */
	I_MOV_TO_SEG, I_POP_SEG, I_LES, I_LDS, I_LSS, I_LFS, I_LGS, I_LAR, I_LSL, I_VERR, I_VERW, I_SLDT, I_STR, I_SGDT, I_SIDT,
	I_SMSW, I_RDFSBASE, I_RDGSBASE, I_WRFSBASE, I_WRGSBASE, I_MOV_FROM_SEG, I_PUSH_SEG,
	/* Answers of the machine. */
	I_RDTSC, I_RDTSCP, I_RDPMC, I_RDPID, I_CPUID, I_XGETBV, I_RDRAND, I_RDSEED, I_RDPKRU, I_WRPKRU, I_MONITOR, I_MWAIT,
	/* Reach a hypervisor under the host, or its enclave unit. */
	I_VMCALL, I_VMMCALL, I_RSM, I_VMGEXIT, I_ENCLU, I_ENCLS, I_PVALIDATE, I_RMPADJUST,
};

bool diff_is_excluded(unsigned op)
{
	for (unsigned i = 0; i < ARRAY_SIZE(excluded); i++)
		if (excluded[i] == op)
			return true;
	return false;
}

static const char *const names[N_ISA_FEATURES] = {
	[ISA_FPU] = "x87", [ISA_CMOV] = "CMOV", [ISA_CX8] = "CMPXCHG8B", [ISA_CX16] = "CMPXCHG16B", [ISA_MMX] = "MMX",
	[ISA_FXSR] = "FXSR", [ISA_SSE] = "SSE", [ISA_SSE2] = "SSE2", [ISA_SSE3] = "SSE3", [ISA_SSSE3] = "SSSE3",
	[ISA_SSE41] = "SSE4.1", [ISA_SSE42] = "SSE4.2", [ISA_POPCNT] = "POPCNT", [ISA_AES] = "AES", [ISA_PCLMUL] = "PCLMULQDQ",
	[ISA_SHA] = "SHA", [ISA_AVX] = "AVX", [ISA_AVX2] = "AVX2", [ISA_FMA] = "FMA", [ISA_F16C] = "F16C", [ISA_BMI1] = "BMI1",
	[ISA_BMI2] = "BMI2", [ISA_LZCNT] = "LZCNT", [ISA_MOVBE] = "MOVBE", [ISA_ADX] = "ADX", [ISA_XSAVE] = "XSAVE",
	[ISA_XSAVEOPT] = "XSAVEOPT", [ISA_XSAVEC] = "XSAVEC", [ISA_XSAVES] = "XSAVES", [ISA_CLFSH] = "CLFLUSH",
	[ISA_CLFLUSHOPT] = "CLFLUSHOPT", [ISA_CLWB] = "CLWB", [ISA_PREFETCHW] = "PREFETCHW", [ISA_MOVDIRI] = "MOVDIRI",
	[ISA_MOVDIR64B] = "MOVDIR64B", [ISA_GFNI] = "GFNI", [ISA_VAES] = "VAES", [ISA_VPCLMUL] = "VPCLMULQDQ",
	[ISA_SERIALIZE] = "SERIALIZE",
};

const char *diff_family(const struct insn_row *row)
{
	const char *name = names[row->feature];

	if (name)
		return name;
	return diff_is_excluded(row->op) || row->attr & IA_CPL0 ? "system" : row->feature == ISA_BASE ? "integer" : "other";
}

static bool may_be_memory(const struct insn_row *r)
{
	for (unsigned i = 0; i < 4; i++)
		if (r->opnd[i] == OE_RM || r->opnd[i] == OE_MEM || r->opnd[i] == OE_VRM || r->opnd[i] == OE_VMEM || r->opnd[i] == OE_MRM)
			return true;
	return false;
}

/* x87 memory forms have no operand in their row but a memory pattern and an extension without an exact byte. */
static bool is_x87_memory(const struct insn_row *r)
{
	return r->map == 4 && r->mem != M_NONE;
}

struct list {
	struct diff_form *f;
	unsigned n, room;
};

/* Does the variant decode to its row? Tried several times: registers and addresses are random. */
static bool exists(const struct diff_form *f)
{
	struct rng r = { f->row * 977u + 1 };
	struct diff_case k;
	struct insn in;

	for (unsigned i = 0; i < 12; i++)
		if (diff_encode(f, &r, DIFF_DATA + 64, &k, &in))
			return true;
	return false;
}

static void try_form(struct list *l, struct diff_form f)
{
	if (!exists(&f))
		return;
	if (l->n == l->room) {
		l->room = l->room ? 2 * l->room : 4096;
		l->f = realloc(l->f, l->room * sizeof(*l->f));
		if (!l->f)
			exit(2);
	}
	l->f[l->n++] = f;
}

static bool is_sized(const struct insn_row *r)
{
	return !(r->attr & IA_BYTE);
}

static void variants(struct list *l, unsigned row, unsigned mode, bool mem)
{
	const struct insn_row *r = &insn_rows[row];
	struct diff_form f = { .row = (uint16_t)row, .mode = (uint8_t)mode, .mem = mem };
	bool vex = r->map & 0x10, x87 = (r->map & 0xf) == 4;

	/* Sizes: L and W of VEX; 66 and REX.W of general rows; W alone where 66 is a mandatory prefix. */
	for (unsigned l_bit = 0; l_bit <= (vex && r->attr & (IA_VL | IA_L1) ? 1u : 0u); l_bit++) {
		for (unsigned w = 0; w <= (vex || mode == INSN_MODE_64 ? 1u : 0u); w++) {
			for (unsigned p66 = 0; p66 <= 1; p66++) {
				static const uint8_t reps[] = { 0, 0xF3, 0xF2 };
				bool size66 = r->pfx == PFX_ANY || r->pfx == PFX_NOREP;

				if (p66 && (vex || !size66 || !is_sized(r) || w))
					continue;
				if (w && !vex && (!is_sized(r) || x87))
					continue;
				/* W is a form of its own only where it means something. */
				if (w && vex && !(r->attr & (IA_W1 | IA_WSIZE)))
					continue;
				if (w && !vex && !size66 && !(r->attr & (IA_W1 | IA_WSIZE)))
					continue;
				if (p66 && x87 && r->memsize != MS_FENV && r->memsize != MS_FSAVE)
					continue;
				if (p66 && (r->cls == IC_HOST || r->opnd[0] == OE_NONE) && !mem && r->opnd[0] == OE_NONE && x87)
					continue;
				f.l = l_bit;
				f.w = w;
				f.p66 = p66;
				for (unsigned i = 0; i < (r->attr & IA_REP ? 3u : 1u); i++) {
					f.rep = reps[i];
					f.lock = false;
					try_form(l, f);
					if (mem && r->attr & IA_LOCK) {
						f.lock = true;
						try_form(l, f);
					}
				}
			}
		}
	}
}

unsigned diff_forms(struct diff_form **out, const bool *features)
{
	struct list l = { 0 };

	for (unsigned row = 0; row < n_insn_rows; row++) {
		const struct insn_row *r = &insn_rows[row];
		unsigned first = l.n;

		for (unsigned mode = INSN_MODE_16; mode <= INSN_MODE_64; mode++) {
			if (is_x87_memory(r)) {
				variants(&l, row, mode, true);
				continue;
			}
			variants(&l, row, mode, false);
			if (may_be_memory(r))
				variants(&l, row, mode, true);
		}
		for (; first < l.n; first++)
			l.f[first].tested = features[r->feature] && !diff_is_excluded(r->op);
	}
	*out = l.f;
	return l.n;
}
