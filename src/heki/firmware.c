/* SPDX-License-Identifier: MIT */
/*
 * The platform's firmware under a lock: what runs when the machine wakes from suspend to memory.
 *
 * The lock ends execution of everything that was not the kernel's, and so of the firmware that a processor meets at its reset
 * vector. So firmware is copied at the lock: the read-only memory of the reset vector's segment, and the shadow area below 1 MiB, to
 * which firmware moves itself and in which it keeps its variables. What is executed of it later is the copy, whatever the chipset
 * shows there by then, and whoever wrote into it. Afterwards nobody may write the shadow area, however it is mapped, but firmware.
 *
 * A vCPU that the *client* puts at the reset vector (a reset; nothing that a guest executes does that) is in the firmware phase: it
 * executes firmware and nothing else, and may write the shadow area. The first fetch from elsewhere (the waking vector, for one), or one
 * with paging on, ends the phase, of all vCPUs: that fetch and all later ones are judged as everybody's.
 *
 * Firmware is also started at places in ordinary memory, system management mode at SMBASE and other processors at SIPI's page,
 * and puts a far jump into the shadow area there. That jump is read once and done; what lies there is not executed.
 * System management mode may always execute firmware: its handlers go on in the shadow area.
 *
 * No locks: the copy is constant once `exists` is seen, and lives as long as the VM.
 */
#include <errno.h>
#include <stdlib.h>

#include "heki/seal.h"

#define SHADOW		0xc0u		/* frames: 768 KiB to 1 MiB */
#define SHADOW_FRAMES	64u
#define RESET		0xffff0u	/* frames of the segment at 0xffff0000 */
#define RESET_FRAMES	16u
#define FRAMES		(SHADOW_FRAMES + RESET_FRAMES)
#define SMM_ENTRY	0x8000u		/* of SMBASE: SDM volume 3, "SMI Handler Execution Environment" */

static bool is_shadow(uint64_t gfn) { return gfn - SHADOW < SHADOW_FRAMES; }

/* ---- the copy ------------------------------------------------------------------------------------------------------------- */

/* FRAMES: not firmware's. */
static unsigned index_of(uint64_t gfn)
{
	if (is_shadow(gfn))
		return (unsigned)(gfn - SHADOW);
	return gfn - RESET < RESET_FRAMES ? (unsigned)(SHADOW_FRAMES + gfn - RESET) : FRAMES;
}

static uint64_t frame_of(unsigned i)
{
	return i < SHADOW_FRAMES ? SHADOW + i : RESET + i - SHADOW_FRAMES;
}

/* What is executed there; NULL: not firmware. */
static uint8_t *code_of(const struct heki_firmware *f, uint64_t gfn)
{
	unsigned i = index_of(gfn);

	return i < FRAMES && f->has[i / 64] >> i % 64 & 1 ? f->copy + (size_t)i * GW_PAGE_SIZE : NULL;
}

const uint8_t *heki_firmware_at(const struct heki *h, uint64_t gfn)
{
	return atomic_load(&h->firmware.exists) ? code_of(&h->firmware, gfn) : NULL;
}

/* At the lock, outside guest code. No firmware is no error. */
int heki_firmware_find(struct heki *h, struct heki_seals *s)
{
	struct heki_firmware *f = &h->firmware;

	if (!h->host->is_rom(h->vm, GFN(RESET + RESET_FRAMES - 1)))
		return 0;
	s->firmware = aligned_alloc(GW_PAGE_SIZE, (size_t)FRAMES * GW_PAGE_SIZE);
	if (!s->firmware)
		return -ENOMEM;
	f->copy = s->firmware;
	f->has[0] = f->has[1] = 0;
	for (unsigned i = 0; i < FRAMES; i++)
		if (h->host->read(h->vm, gfn_gpa(GFN(frame_of(i))), f->copy + (size_t)i * GW_PAGE_SIZE, GW_PAGE_SIZE))
			f->has[i / 64] |= BIT64(i % 64);
	return 0;
}

/* In the lock's transaction. The kernel's own frames there, if any, stay what the scan made them. */
int heki_firmware_stage(const struct heki_seals *s, struct store_txn *t)
{
	struct heki_change c = { .set = HEKI_R | HEKI_XU | HEKI_IMMUTABLE, .clear = HEKI_ALL };
	int err = 0;

	for (unsigned i = 0; !err && s->firmware && i < SHADOW_FRAMES; i++)
		if (!store_any(t, SHADOW + i, 1, HEKI_DECLARED))
			err = store_update(t, SHADOW + i, 1, heki_change_fn, &c);
	return err;
}

/* ---- the phase ------------------------------------------------------------------------------------------------------------ */

void heki_firmware_begin(struct heki *h, const struct acc_cpu *cpu)
{
	struct heki_firmware *f = &h->firmware;
	struct heki_regs regs;

	if (!atomic_load(&f->exists))
		return;
	h->host->regs(h->vm, cpu, &regs);
	atomic_store(&h->vcpu[regs.vcpu].in_firmware, true);
	atomic_store(&f->is_on, true);
	if (h->host->shield && atomic_load(&h->shield))
		h->host->shield(h->vm, GFN(SHADOW), SHADOW_FRAMES, false);
}

/* A processor that firmware starts is firmware's; where it starts its own anew, the guest may have made it do so. */
void heki_firmware_init(struct heki *h, unsigned vcpu)
{
	struct heki_firmware *f = &h->firmware;

	if (atomic_load(&f->owner) == vcpu + 1)
		atomic_store(&f->is_on, false);
	atomic_store(&h->vcpu[vcpu].in_firmware, atomic_load(&f->is_on) && atomic_load(&f->owner));
}

/* Outside guest code. */
void heki_firmware_end(struct heki *h)
{
	struct heki_firmware *f = &h->firmware;

	atomic_store(&f->is_on, false);
	atomic_store(&f->owner, 0);
	for (unsigned i = 0; i < HEKI_MAX_VCPUS; i++)
		atomic_store(&h->vcpu[i].in_firmware, false);
	h->host->forget(h->vm, GFN(0), 0, ACC_W | ACC_X);
	if (atomic_load(&f->exists))
		heki_shield(h, SHADOW, SHADOW_FRAMES);
}

static bool is_in_phase(const struct heki *h, unsigned vcpu)
{
	return atomic_load(&h->firmware.is_on) && atomic_load(&h->vcpu[vcpu].in_firmware);
}

/* The first that executes firmware after the reset: others that the client has reset wait for it to start them. */
static void claim(struct heki_firmware *f, unsigned vcpu)
{
	uint32_t none = 0;

	atomic_compare_exchange_strong(&f->owner, &none, vcpu + 1);
}

/* ---- the judge -------------------------------------------------------------------------------------------------------------- */

static bool has_looked(const struct heki_vcpu *v, const struct heki_regs *regs)
{
	return v->launch_rip == regs->rip && v->launch_insns == regs->insns;
}

static enum heki_firmware_answer run_copy(const struct acc_request *rq, uint8_t *code, struct acc_result *out)
{
	out->hva = code + (rq->gpa.v & GW_PAGE_MASK);
	out->silent &= ACC_X;		/* data is not read from here */
	return HEKI_FIRMWARE_ALLOW;
}

static enum heki_firmware_answer judge_fetch(struct heki *h, const struct acc_request *rq, const struct heki_regs *regs, uint8_t *code,
					     struct acc_result *out)
{
	if (code && !(regs->cr0 & CR0_PG)) {
		claim(&h->firmware, regs->vcpu);
		return run_copy(rq, code, out);
	}
	if (regs->in_smm && (has_looked(&h->vcpu[regs->vcpu], regs) || h->host->is_platform(h->vm, rq->cpu, rq->gpa)))
		return HEKI_FIRMWARE_OTHER;
	return HEKI_FIRMWARE_WAIT;
}

enum heki_firmware_answer heki_firmware_judge(struct heki *h, const struct acc_request *rq, struct acc_result *out)
{
	uint64_t gfn = gpa_gfn(rq->gpa).v;
	struct heki_regs regs;
	uint8_t *code;

	if (likely(!atomic_load_explicit(&h->firmware.is_on, memory_order_relaxed) && !is_shadow(gfn)))
		return HEKI_FIRMWARE_OTHER;
	h->host->regs(h->vm, rq->cpu, &regs);
	code = code_of(&h->firmware, gfn);
	if (!is_in_phase(h, regs.vcpu)) {
		if (!regs.in_smm || !code || rq->rights != ACC_X)
			return HEKI_FIRMWARE_OTHER;
		run_copy(rq, code, out);
		out->silent = 0;	/* asked each time: what this mode may is no other's */
		return HEKI_FIRMWARE_ALLOW;
	}
	if (rq->rights & ACC_X)
		return judge_fetch(h, rq, &regs, code, out);
	out->silent &= ACC_RW;		/* every page is asked for before it is executed */
	return rq->rights & ACC_W && code && is_shadow(gfn) ? HEKI_FIRMWARE_ALLOW : HEKI_FIRMWARE_OTHER;
}

/* ---- what firmware leaves in ordinary memory ------------------------------------------------------------------------------------ */

/* [MOV AX, CS] JMP FAR into the shadow area, at the entry of system management mode or of a processor that was started. */
static bool launch(struct heki *h, const struct acc_cpu *cpu, const struct heki_regs *regs)
{
	uint16_t ip, sel;
	uint8_t b[7];
	unsigned at;

	if (regs->cr0 & CR0_PE || regs->rip != (regs->in_smm ? SMM_ENTRY : 0))
		return false;
	if (!regs->in_smm && atomic_load(&h->firmware.owner) == regs->vcpu + 1)
		return false;		/* the waking vector is no start */
	if (!h->host->read(h->vm, GPA(regs->cs_base + regs->rip), b, sizeof(b)))
		return false;
	at = b[0] == 0x8c && b[1] == 0xc8 ? 2 : 0;
	if (b[at] != 0xea)
		return false;
	ip = (uint16_t)(b[at + 1] | b[at + 2] << 8);
	sel = (uint16_t)(b[at + 3] | b[at + 4] << 8);
	if (!is_shadow(((uint64_t)sel * 16 + ip) >> GW_PAGE_SHIFT))
		return false;
	h->host->far_jump(h->vm, cpu, sel, ip, at != 0);
	return true;
}

bool heki_firmware_wait(struct heki *h, const struct acc_cpu *cpu, const struct acc_request *rq, const struct heki_regs *regs, bool *again)
{
	struct heki_vcpu *v = &h->vcpu[regs->vcpu];

	if (!(rq->rights & ACC_X) || !is_in_phase(h, regs->vcpu))
		return false;
	*again = !launch(h, cpu, regs);
	if (!*again)
		return true;
	if (regs->in_smm) {
		v->launch_rip = regs->rip;
		v->launch_insns = regs->insns;
		return true;
	}
	if (atomic_load(&h->firmware.owner) != regs->vcpu + 1) {
		atomic_store(&v->in_firmware, false);
		h->host->forget(h->vm, GFN(0), 0, ACC_W | ACC_X);
		return true;
	}
	heki_firmware_end(h);
	heki_log(h, &(struct heki_event){ .kind = HEKI_EV_FIRMWARE, .reason = HEKI_REASON_MEM, .access = HEKI_ACCESS_X, .vcpu = regs->vcpu,
					  .gpa = rq->gpa.v, .gva = rq->gva.v, .rip = regs->rip, .insns = regs->insns, .cr3 = regs->cr3 });
	heki_say(h, "heki: firmware went on to gpa %llx", (unsigned long long)rq->gpa.v);
	return true;
}
