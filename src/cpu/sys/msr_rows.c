/* SPDX-License-Identifier: MIT */
/*
 * The MSRs the processor owns, as rows. What a row's functions refuse is #GP(0) in the guest. Values and leniencies are KVM's
 * where software was written against them; architectural rules are from Intel SDM vol. 4 and AMD APM vol. 2 appendix A.
 */
#include <stddef.h>

#include "cpu/sys/msr.h"

/* ---- accessors --------------------------------------------------------------------------------------------------------------- */

static uint64_t *field(struct vcpu *c, const struct msr_row *row, uint32_t index)
{
	return (uint64_t *)(void *)((char *)c + row->off) + (index - row->first);
}

static int get_field(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t *v, bool host)
{
	*v = *field(c, row, index);
	return 0;
}

static int set_field(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	*field(c, row, index) = v;
	return 0;
}

/* A command has no state; arg: its bits. */
static int set_command(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	return v & ~row->arg ? 1 : 0;
}

static int set_canonical(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	if (!sys_canonical_base(c, v))
		return 1;
	*field(c, row, index) = v;
	return 0;
}

/* SYSENTER_ESP and _EIP: made canonical rather than refused, as KVM does for both vendors. */
static int set_canonicalised(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	unsigned shift = c->cr4_allowed & CR4_LA57 ? 7 : 16;

	*field(c, row, index) = (uint64_t)((int64_t)(v << shift) >> shift);
	return 0;
}

static int set_host_only(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	if (!host)
		return 1;
	*field(c, row, index) = v;
	return 0;
}

static int get_const(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t *v, bool host)
{
	*v = row->arg;
	return 0;
}

static int set_ignored(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	return 0;
}

/* Read-only for the guest; the client may write back the 0 it read. */
static int set_host_zero(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	return host && !v ? 0 : 1;
}

static int set_zero(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	return v ? 1 : 0;
}

/* ---- EFER, bases, TSC_AUX ---------------------------------------------------------------------------------------------------- */

uint64_t sys_efer_allowed(const struct vcpu *c)
{
	uint64_t v = 0;

	if (sys_cpuid_bit(c, 0x80000001, 0, CPUID_EDX, 11))
		v |= EFER_SCE;
	if (sys_cpuid_bit(c, 0x80000001, 0, CPUID_EDX, 29))
		v |= EFER_LME;
	if (sys_cpuid_bit(c, 0x80000001, 0, CPUID_EDX, 20))
		v |= EFER_NX;
	if (sys_cpuid_bit(c, 0x80000001, 0, CPUID_EDX, 25))
		v |= BIT64(14);		/* FFXSR */
	if (sys_cpuid_bit(c, 0x80000021, 0, CPUID_EAX, 8))
		v |= BIT64(21);		/* automatic IBRS */
	return v;
}

static int get_efer(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t *v, bool host)
{
	*v = c->acc.efer;
	return 0;
}

static int set_efer(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	uint64_t old = c->acc.efer;

	if (!cpu_efer_valid(c, v))
		return 1;
	if (!host && c->acc.cr0 & CR0_PG && (v ^ old) & EFER_LME)
		return 1;
	sys_set_efer(c, (v & ~EFER_LMA) | (old & EFER_LMA));
	return 0;
}

static int get_base(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t *v, bool host)
{
	*v = c->seg[row->arg].base;
	return 0;
}

static int set_base(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	if (!sys_canonical_base(c, v))
		return 1;
	c->seg[row->arg].base = v;
	c->seg_base[row->arg] = v;
	return 0;
}

static bool has_tsc_aux(const struct vcpu *c)
{
	return sys_cpuid_bit(c, 0x80000001, 0, CPUID_EDX, 27) || sys_cpuid_bit(c, 7, 0, CPUID_ECX, 22);
}

static int get_tsc_aux(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t *v, bool host)
{
	*v = c->msr.tsc_aux;
	return host || has_tsc_aux(c) ? 0 : 1;
}

/* RDTSCP reads 32 bits: Intel refuses more, AMD drops them. */
static int set_tsc_aux(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	if (!has_tsc_aux(c))
		return host && !v ? 0 : 1;
	if (v >> 32 && !cpu_is_amd(c))
		return 1;
	c->msr.tsc_aux = (uint32_t)v;
	return 0;
}

/* ---- memory types -------------------------------------------------------------------------------------------------------------- */

static int set_pat(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	for (unsigned i = 0; i < 8; i++)
		if (!(0xf3u >> (v >> 8 * i & 0xff) & 1) || (v >> 8 * i & 0xff) > 7)
			return 1;
	c->msr.pat = v;
	return 0;
}

static bool mtrr_type(uint64_t type)
{
	return type < 8 && 0x73u >> type & 1;	/* UC, WC, WT, WP, WB */
}

static int set_mtrr_def(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	if (v & ~0xcffull || !mtrr_type(v & 0xff))
		return 1;
	c->msr.mtrr_def_type = v;
	return 0;
}

static int set_mtrr_fixed(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	for (unsigned i = 0; i < 8; i++)
		if (!mtrr_type(v >> 8 * i & 0xff))
			return 1;
	*field(c, row, index) = v;
	return 0;
}

/* Pairs of base and mask. */
static int set_mtrr_var(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	uint64_t beyond = ~(BIT64(c->acc.maxphyaddr) - 1);

	if (index & 1 ? v & (beyond | 0x7ff) : v & (beyond | 0xf00) || !mtrr_type(v & 0xff))
		return 1;
	*field(c, row, index) = v;
	return 0;
}

/* ---- speculation, power, microcode ------------------------------------------------------------------------------------------------ */

static bool has_spec_ctrl(const struct vcpu *c)
{
	return sys_cpuid_bit(c, 7, 0, CPUID_EDX, 26) || sys_cpuid_bit(c, 7, 0, CPUID_EDX, 27) ||
	       sys_cpuid_bit(c, 7, 0, CPUID_EDX, 31) || sys_cpuid_bit(c, 0x80000008, 0, CPUID_EBX, 14) ||
	       sys_cpuid_bit(c, 0x80000008, 0, CPUID_EBX, 15) || sys_cpuid_bit(c, 0x80000008, 0, CPUID_EBX, 24);
}

static int get_spec_ctrl(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t *v, bool host)
{
	*v = c->msr.spec_ctrl;
	return host || has_spec_ctrl(c) ? 0 : 1;
}

static int set_spec_ctrl(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	if (!has_spec_ctrl(c))
		return host && !v ? 0 : 1;
	/* IBRS, STIBP, SSBD; BHI_DIS_S where it is offered. Nothing of ours speculates: they are only stored. */
	if (v & ~(7ull | (sys_cpuid_bit(c, 7, 2, CPUID_EDX, 4) ? BIT64(10) : 0)))
		return 1;
	c->msr.spec_ctrl = v;
	return 0;
}

static int set_pred_cmd(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	if (!sys_cpuid_bit(c, 7, 0, CPUID_EDX, 26) && !sys_cpuid_bit(c, 0x80000008, 0, CPUID_EBX, 12))
		return 1;
	return v & ~1ull ? 1 : 0;
}

static int get_ucode(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t *v, bool host)
{
	*v = c->msr.ucode_rev ? c->msr.ucode_rev : cpu_is_amd(c) ? 0x01000065 : 0x100000000ull;
	return 0;
}

static int set_ucode(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	if (host)
		c->msr.ucode_rev = v;
	return 0;
}

#define MISC_EMON	BIT64(7)
#define MISC_PMU_RO	(BIT64(11) | BIT64(12))		/* BTS and PEBS unavailable */

static int set_misc_enable(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	uint64_t old = c->msr.misc_enable;

	if (!host) {
		if ((v ^ old) & MISC_PMU_RO)
			return 1;
		v = (v & ~MISC_EMON) | (old & MISC_EMON);
	}
	c->msr.misc_enable = v;
	return 0;
}

static int set_misc_features(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	if (v & ~1ull || (v & 1 && !(c->msr.platform_info & BIT64(31))))
		return 1;
	c->msr.misc_features = v;
	return 0;
}

static int set_platform_info(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	if (!host || (!(v & BIT64(31)) && c->msr.misc_features & 1))
		return 1;
	c->msr.platform_info = v;
	return 0;
}

static int set_feature_control(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	uint64_t valid = 1 | (c->msr.mcg_cap & BIT64(27) ? BIT64(20) : 0);

	if (v & ~valid || (!host && c->msr.feature_control & 1))
		return 1;
	c->msr.feature_control = v;
	return 0;
}

/* LBR and BTF are accepted and not kept: branch records are not offered, and clearing them is what their users do first. */
static int set_debugctl(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	if (v & ~3ull)
		return 1;
	c->msr.debugctl = 0;
	return 0;
}

static int get_smbase(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t *v, bool host)
{
	*v = c->msr.smbase;
	return host || c->ev.in_smm ? 0 : 1;
}

static int set_xss(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	const struct cpu_cpuid *r = cpu_cpuid_find(c, 0xd, 1);
	uint64_t allowed = r ? r->ecx | (uint64_t)r->edx << 32 : 0;

	if (v & ~allowed)
		return 1;
	c->msr.xss = v;
	return 0;
}

static int get_pkrs(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t *v, bool host)
{
	*v = c->acc.pkrs;
	return 0;
}

static int set_pkrs(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	if (v >> 32)
		return 1;
	if (c->acc.pkrs != (uint32_t)v) {
		c->acc.pkrs = (uint32_t)v;
		acc_keys_changed(&c->acc);
	}
	return 0;
}

/* AMD's HWCR: three bits that BIOSes write are dropped; McStatusWrEn and TscFreqSel stay. */
static int set_hwcr(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	v &= ~(BIT64(3) | BIT64(6) | BIT64(8));
	if (v & ~(BIT64(18) | BIT64(24)))
		return 1;
	c->msr.hwcr = v;
	return 0;
}

static int get_de_cfg(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t *v, bool host)
{
	*v = c->msr.de_cfg;
	return host || cpu_is_amd(c) ? 0 : 1;
}

static int set_de_cfg(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	if (!cpu_is_amd(c))
		return host && !v ? 0 : 1;
	if (v & ~2ull)
		return 1;
	c->msr.de_cfg = v;
	return 0;
}

/* ---- machine check ------------------------------------------------------------------------------------------------------------------ */

static bool is_bank(const struct vcpu *c, uint32_t index)
{
	unsigned banks = c->msr.mcg_cap & 0xff;

	return index - 0x400 < 4 * (banks < 32 ? banks : 32);
}

static int get_bank(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t *v, bool host)
{
	if (!is_bank(c, index))
		return 1;
	*v = *field(c, row, index);
	return 0;
}

/* MCi_CTL is 0 or all ones, give or take the bits old kernels leave out; a guest may only clear MCi_STATUS. */
static int set_bank(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	if (!is_bank(c, index))
		return 1;
	if ((index & 3) == 0 && v && (v | BIT64(10) | 1) != ~0ull)
		return 1;
	if ((index & 3) == 1 && v && !host && !(c->msr.hwcr & BIT64(18)))
		return 1;
	*field(c, row, index) = v;
	return 0;
}

static bool has_mcg_ctl(const struct vcpu *c, bool host)
{
	return c->msr.mcg_cap & BIT64(8) || host;
}

static int get_mcg_ctl(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t *v, bool host)
{
	*v = c->msr.mcg_ctl;
	return has_mcg_ctl(c, host) ? 0 : 1;
}

static int set_mcg_ctl(struct vcpu *c, const struct msr_row *row, uint32_t index, uint64_t v, bool host)
{
	if (!has_mcg_ctl(c, host) || (v && v != ~0ull))
		return 1;
	c->msr.mcg_ctl = v;
	return 0;
}

/* ---- the rows ------------------------------------------------------------------------------------------------------------------------ */

#define AT(f) .off = offsetof(struct vcpu, f)
#define ZERO(a, b) { a, b, get_const, set_host_zero }
#define ZERO_IGNORED(a) { a, a, get_const, set_ignored }
#define ZEROS_IGNORED(a, b) { a, b, get_const, set_ignored }
#define NEEDS(l, s, r, b) .leaf = l, .subleaf = s, .reg = r, .bit = b

const struct msr_row msr_rows[] = {
	{ 0xc0000102, 0xc0000102, get_field, set_canonical, AT(msr.kernel_gs_base) },
	{ 0xc0000100, 0xc0000100, get_base, set_base, .arg = SEG_FS },
	{ 0xc0000101, 0xc0000101, get_base, set_base, .arg = SEG_GS },
	{ 0x48, 0x48, get_spec_ctrl, set_spec_ctrl },
	{ 0x49, 0x49, NULL, set_pred_cmd },
	{ 0xc0000080, 0xc0000080, get_efer, set_efer },
	{ 0xc0000081, 0xc0000081, get_field, set_field, AT(msr.star) },
	{ 0xc0000082, 0xc0000082, get_field, set_canonical, AT(msr.lstar) },
	{ 0xc0000083, 0xc0000083, get_field, set_canonical, AT(msr.cstar) },
	{ 0xc0000084, 0xc0000084, get_field, set_field, AT(msr.sfmask) },
	{ 0xc0000103, 0xc0000103, get_tsc_aux, set_tsc_aux },
	{ 0x174, 0x174, get_field, set_field, AT(msr.sysenter_cs) },
	{ 0x175, 0x175, get_field, set_canonicalised, AT(msr.sysenter_esp) },
	{ 0x176, 0x176, get_field, set_canonicalised, AT(msr.sysenter_eip) },

	{ 0x277, 0x277, get_field, set_pat, AT(msr.pat) },
	{ 0xfe, 0xfe, get_const, NULL, .arg = 0x508 },
	{ 0x200, 0x20f, get_field, set_mtrr_var, AT(msr.mtrr_var) },
	{ 0x250, 0x250, get_field, set_mtrr_fixed, AT(msr.mtrr_fixed[0]) },
	{ 0x258, 0x259, get_field, set_mtrr_fixed, AT(msr.mtrr_fixed[1]) },
	{ 0x268, 0x26f, get_field, set_mtrr_fixed, AT(msr.mtrr_fixed[3]) },
	{ 0x2ff, 0x2ff, get_field, set_mtrr_def, AT(msr.mtrr_def_type) },

	{ 0x1a0, 0x1a0, get_field, set_misc_enable, AT(msr.misc_enable) },
	{ 0x1d9, 0x1d9, get_field, set_debugctl, AT(msr.debugctl) },
	{ 0x8b, 0x8b, get_ucode, set_ucode },
	{ 0x79, 0x79, NULL, set_ignored },
	{ 0x3a, 0x3a, get_field, set_feature_control, AT(msr.feature_control) },
	{ 0x10a, 0x10a, get_field, set_host_only, AT(msr.arch_capabilities), NEEDS(7, 0, CPUID_EDX, 29) },
	{ 0x10b, 0x10b, NULL, set_command, .arg = 1, NEEDS(7, 0, CPUID_EDX, 28) },
	{ 0x345, 0x345, get_const, set_host_zero, NEEDS(1, 0, CPUID_ECX, 15) },
	{ 0xda0, 0xda0, get_field, set_xss, AT(msr.xss), NEEDS(0xd, 1, CPUID_EAX, 3) },
	{ 0x6e1, 0x6e1, get_pkrs, set_pkrs, NEEDS(7, 0, CPUID_ECX, 31) },
	{ 0xce, 0xce, get_field, set_platform_info, AT(msr.platform_info) },
	{ 0x1fc, 0x1fc, get_field, set_field, AT(msr.power_ctl) },	/* IA32_POWER_CTL: kept for whoever asks, as KVM does */
	{ 0x140, 0x140, get_field, set_misc_features, AT(msr.misc_features) },
	{ 0x9e, 0x9e, get_smbase, set_host_only, AT(msr.smbase) },
	{ 0x34, 0x34, get_field, set_host_only, AT(msr.smi_count) },

	{ 0x179, 0x179, get_field, NULL, AT(msr.mcg_cap) },
	{ 0x17a, 0x17a, get_field, set_field, AT(msr.mcg_status) },
	{ 0x17b, 0x17b, get_mcg_ctl, set_mcg_ctl },
	{ 0x400, 0x47f, get_bank, set_bank, AT(msr.mc_bank) },
	ZERO(0x0, 0x1),			/* P5_MC_ADDR, P5_MC_TYPE */

	/* Performance counters older than their CPUID leaf: not there, but software pokes at them. */
	ZEROS_IGNORED(0xc1, 0xc2),
	ZEROS_IGNORED(0x186, 0x187),
	ZEROS_IGNORED(0xc0010000, 0xc0010007),

	/* Constants KVM shows. */
	{ 0xcd, 0xcd, get_const, NULL, .arg = 3 },
	{ 0x2c, 0x2c, get_const, NULL, .arg = BIT64(24) },
	{ 0x198, 0x198, get_const, NULL, .arg = 1000 | 4ull << 40 },
	{ 0x11e, 0x11e, get_const, NULL, .arg = 0xbe702111 },

	/* AMD. */
	{ 0xc0010015, 0xc0010015, get_field, set_hwcr, AT(msr.hwcr) },
	{ 0xc0011029, 0xc0011029, get_de_cfg, set_de_cfg },
	{ 0xc0010058, 0xc0010058, get_const, set_zero },
	{ 0xc001001b, 0xc001001b, get_const, set_ignored, .arg = 0x20000000 },
	ZERO_IGNORED(0xc001001f),	/* NB_CFG */
	ZERO_IGNORED(0xc0010020),	/* PATCH_LOADER */
	ZERO_IGNORED(0xc0010117),	/* VM_HSAVE_PA */
	ZERO_IGNORED(0xc001102a),	/* BU_CFG2 */
	ZERO_IGNORED(0xc0011022),	/* DC_CFG */
	ZERO_IGNORED(0xc0011023),	/* TW_CFG */
	ZERO_IGNORED(0xc001102c),	/* F15H_EX_CFG */
	ZERO(0xc0010010, 0xc0010010),	/* SYSCFG */
	ZERO(0xc0010112, 0xc0010113),	/* TSEG */
	ZERO(0xc0010055, 0xc0010055),	/* INT_PENDING_MSG */

	/* Intel: platform id, power-on, last branch, performance control, RAPL. */
	ZERO(0x17, 0x17),
	ZERO(0x2a, 0x2a),
	ZERO(0x1db, 0x1de),
	ZERO(0x199, 0x199),
	ZERO(0x606, 0x606),
	ZERO(0x611, 0x611),
	ZERO(0x619, 0x619),
	ZERO(0x639, 0x639),
	ZERO(0x641, 0x641),
};
const unsigned n_msr_rows = ARRAY_SIZE(msr_rows);

const uint32_t cpu_msr_save[] = {
	0x174, 0x175, 0x176, 0xc0000081, 0xc0000083, 0xc0000102, 0xc0000084, 0xc0000082, 0x277, 0xc0000103, 0x48, 0xda0, 0x1d9,
	0x10a, 0x1a0, 0x17a, 0x17b, 0xce, 0x140, 0x8b, 0xc0010015, 0x34, 0x9e, 0x3a, 0x6e1, 0x1fc,
};
const unsigned cpu_n_msr_save = ARRAY_SIZE(cpu_msr_save);
