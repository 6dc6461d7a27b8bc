/* SPDX-License-Identifier: MIT */
/*
 * The vCPU's life: creation, reset and INIT, and the state derived from segments and control registers.
 *
 * Derived state is never set elsewhere: whoever changes CS, SS, EFLAGS.VM or AC, CR0 or EFER calls cpu_state_changed().
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/block.h"
#include "cpu/host/fpu.h"
#include "cpu/op.h"
#include "cpu/translate/translate.h"

static bool seg_is_flat(const struct cpu_seg *s)
{
	return !s->base && s->limit == 0xffffffff && !s->unusable && !(s->type & 8 ? 0 : s->type & 4);
}

/* Data segments that every access of a flat block may use unchecked: readable, writable, expand-up, the whole 4 GiB. */
static bool is_flat(const struct vcpu *c)
{
	static const uint8_t data[] = { SEG_DS, SEG_ES, SEG_SS };

	if (!seg_is_flat(&c->seg[SEG_CS]))
		return false;
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
		const struct cpu_seg *s = &c->seg[data[i]];

		if (!seg_is_flat(s) || s->type & 8 || !(s->type & 2))
			return false;
	}
	return true;
}

static void derive_bases(struct vcpu *c)
{
	for (unsigned i = 0; i < N_SEGS; i++)
		c->seg_base[i] = c->seg[i].base;
	c->seg_base[SEG_FLAT] = 0;
	if (c->mode == INSN_MODE_64) {
		c->seg_base[SEG_CS] = 0;
		c->seg_base[SEG_DS] = 0;
		c->seg_base[SEG_ES] = 0;
		c->seg_base[SEG_SS] = 0;
	}
}

void cpu_state_changed(struct vcpu *c)
{
	const struct cpu_seg *cs = &c->seg[SEG_CS];

	c->v86 = c->acc.cr0 & CR0_PE && c->eflags & FLAG_VM;
	c->protected_mode = c->acc.cr0 & CR0_PE && !c->v86;
	if (c->acc.efer & EFER_LMA && cs->l && c->protected_mode)
		c->mode = INSN_MODE_64;
	else
		c->mode = cs->db ? INSN_MODE_32 : INSN_MODE_16;
	c->flat = c->mode == INSN_MODE_64 || is_flat(c);
	c->rip_mask = c->mode == INSN_MODE_64 ? ~0ull : 0xffffffffull;
	derive_bases(c);
	c->acc.cpl = c->v86 ? 3 : !c->protected_mode ? 0 : c->seg[SEG_SS].dpl;
	c->acc.ac = c->eflags & FLAG_AC;
	acc_mode_changed(&c->acc);
	c->block_key = (uint32_t)c->mode | (c->flat ? KEY_FLAT : 0) | (c->protected_mode ? 0 : KEY_REAL) |
		       (c->acc.cpl == 3 ? KEY_USER : 0);
	cpu_fpu_gates(c);
}

static void reset_seg(struct cpu_seg *s, uint16_t sel, uint64_t base, uint8_t type, bool system)
{
	*s = (struct cpu_seg){ .sel = sel, .base = base, .limit = 0xffff, .type = type, .s = !system, .present = 1 };
}

/* SDM vol. 3 "Processor State After Reset"; INIT keeps caches, FPU, TSC, most MSRs and CR0.CD/NW. */
void cpu_reset(struct vcpu *c, bool init)
{
	uint64_t old_cr0 = c->acc.cr0, old_cr4 = c->acc.cr4, old_efer = c->acc.efer;

	memset(c->gpr, 0, sizeof(c->gpr));
	c->gpr[RDX] = 0x600;
	for (unsigned i = 0; i < c->n_cpuid; i++)
		if (c->cpuid[i].function == 1)
			c->gpr[RDX] = c->cpuid[i].eax;
	c->rip = 0xfff0;
	c->eflags = FLAG_FIXED;
	c->cc = cpu_cc_of_flags(0);
	for (unsigned i = SEG_ES; i <= SEG_GS; i++)
		reset_seg(&c->seg[i], 0, 0, 3, false);
	reset_seg(&c->seg[SEG_CS], 0xf000, 0xffff0000, 11, false);
	reset_seg(&c->seg[SEG_LDTR], 0, 0, 2, true);
	reset_seg(&c->seg[SEG_TR], 0, 0, 11, true);
	c->gdtr = c->idtr = (struct cpu_table){ 0, 0xffff };
	c->acc.cr0 = CR0_ET | (init ? old_cr0 & (CR0_CD | CR0_NW) : CR0_CD | CR0_NW);
	c->acc.cr2 = c->acc.cr3 = c->acc.cr4 = c->acc.efer = 0;
	memset(c->dr, 0, sizeof(c->dr));
	c->dr6 = 0xffff0ff0;
	c->dr7 = 0x400;
	memset(&c->ev, 0, sizeof(c->ev));
	acc_set_space(&c->acc, 0);
	c->shadow = 0;
	c->halted = false;
	c->intr_blocked = false;
	c->io.n_done = c->io.n_write = c->io.write_pos = 0;
	c->io.wanted = c->io.replay = c->io.out_done = false;
	c->io.bulk_len = c->io.bulk_pos = 0;
	if (!init) {
		memset(&c->msr, 0, sizeof(c->msr));
		c->msr.pat = 0x0007040600070406ull;
		c->msr.misc_enable = 0x1801;
		c->msr.smbase = 0x30000;
		c->acc.pkru = c->acc.pkrs = 0;
		cpu_fpu_reset(c);
	}
	acc_paging_changed(&c->acc, old_cr0, old_cr4, old_efer);
	acc_flush_all(&c->acc);
	cpu_state_changed(c);
	for (unsigned i = 0; c->exts && i < c->exts->n; i++)
		if (c->exts->ext[i].ops->reset)
			c->exts->ext[i].ops->reset(c->exts->ext[i].state, &c->acc, init);
}

int cpu_init(struct vcpu *c, struct acc_vm *vm, const struct cpu_env *env, void *machine, unsigned index)
{
	int err;

	c->env = env;
	c->machine = machine;
	c->index = index;
	c->verify_epoch = 1;
	err = acc_cpu_init(&c->acc, vm);
	if (err)
		return err;
	err = cpu_cache_new(&c->cache);
	if (err)
		goto fini_acc;
	err = cpu_host_new(c);
	if (err)
		goto free_cache;
	err = tr_new(c);
	if (err)
		goto free_host;
	if (!c->acc.maxphyaddr)
		c->acc.maxphyaddr = 46;
	cpu_reset(c, false);
	return 0;
free_host:
	cpu_host_free(c);
free_cache:
	cpu_cache_free(c->cache);
fini_acc:
	acc_cpu_fini(&c->acc);
	return err;
}

void cpu_fini(struct vcpu *c)
{
	tr_free(c);
	cpu_host_free(c);
	cpu_cache_free(c->cache);
	acc_cpu_fini(&c->acc);
}
