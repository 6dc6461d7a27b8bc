/* SPDX-License-Identifier: MIT */
/*
 * A block into a unit: classify, find out which flags live where, emit forwards, then the ways out of line.
 *
 * Flags: an instruction whose flags nobody reads is emitted as it is and RFLAGS are free after it. Where flags live across
 * something that destroys RFLAGS (a probe, a call), they are put into c->cc and taken back before their reader. For flags that are
 * dead where the unit may be left see flags.c.
 */
#include "cpu/translate/compile.h"

#include "access/access.h"
#include "cpu/host/fpu.h"

const uint8_t tr_home[16] = {
	[RAX] = HR_AX, [RCX] = HR_CX, [RDX] = HR_DX, [RBX] = HR_BX, [RSP] = HR_15, [RBP] = HR_BP, [RSI] = HR_SI, [RDI] = HR_DI,
	[R8] = HR_8, [R9] = HR_NONE, [R10] = HR_NONE, [R11] = HR_NONE, [R12] = HR_12, [R13] = HR_13, [R14] = HR_14, [R15] = HR_NONE,
};

/* ---- flags --------------------------------------------------------------------------------------------------------------------- */

void tr_flags_save(struct tr_compiler *x, uint8_t wanted)
{
	static const uint8_t zero_eax_lahf_seto_al[] = { 0xb8, 0, 0, 0, 0, 0x9f, 0x0f, 0x90, 0xc0 };
	struct tr_rm ah = rm_gs(offsetof(struct vcpu, cc) + 1);

	if (!(wanted & ~TF_C)) {	/* SETC: the other flags are dead */
		e_op_0f(&x->e, false, 0x92, 0, ah);
		x->in_mem = true;
		return;
	}
	tr_held_drop(x, HR_9);
	e_mov(&x->e, HR_9, HR_AX);
	x->mem_exact = true;
	x->owes = false;
	memcpy(x->e.p, zero_eax_lahf_seto_al, sizeof(zero_eax_lahf_seto_al));
	x->e.p += sizeof(zero_eax_lahf_seto_al);
	e_store(&x->e, RM_VCPU(cc), HR_AX);	/* and no recipe */
	e_mov(&x->e, HR_AX, HR_9);
	x->in_mem = true;
}

void tr_flags_load(struct tr_compiler *x, uint8_t wanted, unsigned scratch)
{
	static const uint8_t add_al_127_sahf[] = { 0x04, 0x7f, 0x9e };
	struct tr_rm ah = rm_gs(offsetof(struct vcpu, cc) + 1);

	tr_held_drop(x, scratch);
	if (!(wanted & ~TF_C)) {
		e_op_0f(&x->e, false, 0xb6, scratch, ah);
		e_shift_i(&x->e, false, 5, scratch, 1);
		x->in_host = true;
		return;
	}
	e_mov(&x->e, scratch, HR_AX);
	e_op_0f(&x->e, false, 0xb7, HR_AX, RM_VCPU(cc));
	memcpy(x->e.p, add_al_127_sahf, sizeof(add_al_127_sahf));
	x->e.p += sizeof(add_al_127_sahf);
	e_mov(&x->e, HR_AX, scratch);
	x->in_host = true;
}

void tr_flags_spill(struct tr_compiler *x, const struct tr_insn *t)
{
	if (x->owes)
		tr_flags_pay(x);
	else if (tr_live_before(t) && !x->in_mem)
		tr_flags_save(x, tr_live_before(t));
}

void tr_flags_defer(struct tr_compiler *x, const struct tr_insn *t)
{
	if ((!tr_live_before(t) && !x->owes) || x->in_mem)
		return;
	x->now->save = true;
	x->deferred = true;
	x->owes |= t->spill;
}

void tr_flags_pay(struct tr_compiler *x)
{
	if (x->owes)
		tr_flags_save(x, TF_ALL);
}

void tr_flags_need(struct tr_compiler *x, const struct tr_insn *t, unsigned scratch)
{
	uint8_t need = t->need | (t->touch ? t->live & (uint8_t)~t->kill : 0);

	if (need && !x->in_host)
		tr_flags_load(x, tr_live_before(t), scratch);
}

void tr_flags_done(struct tr_compiler *x, const struct tr_insn *t)
{
	if (!t->touch)
		return;
	x->in_host = true;
	x->in_mem = false;
	x->mem_exact = false;
	x->deferred = x->owes = false;
}

/* What is needed to go on in @g behind a way out of line. */
static void note_group(struct tr_compiler *x, struct tr_slow *s, unsigned i, const struct tr_group *g)
{
	if (!g->active)
		return;
	s->group[i].number = (uint8_t)(g->index + 1);
	s->group[i].base = g->base;
	s->group[i].lo = (int32_t)g->lo;
	x->groups[g->index].is_used = true;
}

/* ---- the slow way ---------------------------------------------------------------------------------------------------------------- */

static void slow_begin(struct tr_compiler *x, unsigned k, const struct tr_insn *t)
{
	struct tr_slow *s = &x->slow[x->n_slow++];

	memset(s, 0, sizeof(*s));
	s->k = (uint8_t)k;
	s->is_transfer = t->kind == TK_CALL || t->kind == TK_JMP_IND || t->kind == TK_CALL_IND || t->kind == TK_RET;
	/* Only an instruction that faults without a probe comes here with its flags in RFLAGS alone. */
	s->save = (tr_live_before(t) || x->owes) && !x->in_mem && !t->in.has_mem && t->may_fault;
	s->recipe = x->mem_exact ? 0 : t->recipe;
	x->now = s;
}

static void slow_end(struct tr_compiler *x, const struct tr_insn *t)
{
	struct tr_slow *s = x->now;

	if (!s->n && !s->n_faults && !s->n_sites && !s->load) {
		x->n_slow--;
		return;
	}
	s->reload = t->live && x->in_host;
	s->resume = e_here(&x->e);
	s->vec = x->vec;
	memcpy(s->held, x->held, sizeof(s->held));
	note_group(x, s, 0, &x->group);
	note_group(x, s, 1, &x->second);
}

void tr_vec_need(struct tr_compiler *x, const struct tr_insn *t)
{
	struct tr_enc q = { .opcode = 0x80, .reg = 7, .rm = RM_VCPU(tr_vec), .n_imm = 1, .imm = { t->vec } };

	if (x->vec >= t->vec)
		return;
	e_put(&x->e, &q);
	x->now->load = t->vec;
	x->now->load_at = e_jcc(&x->e, CC_B);
	x->now->load_resume = e_here(&x->e);
	x->vec = t->vec;
	x->in_host = false;
}

void tr_slow_if(struct tr_compiler *x, int cc)
{
	x->now->at[x->now->n++] = cc < 0 ? e_jmp(&x->e) : e_jcc(&x->e, (unsigned)cc);
}

void tr_may_fault(struct tr_compiler *x)
{
	x->now->fault_at[x->now->n_faults++] = e_here(&x->e);
}

static void emit_slow(struct tr_compiler *x, const struct tr_slow *s)
{
	uint32_t here = e_here(&x->e);

	if (s->moved)
		tr_string_back(&x->e, s->moved);
	for (unsigned i = 0; i < s->n; i++)
		e_patch_here(&x->e, s->at[i]);
	for (unsigned i = 0; i < s->n_faults; i++)
		x->u->fault[x->u->n_faults++] = (struct tr_fault_at){ s->fault_at[i], here };
	if (s->save)
		tr_flags_save(x, TF_ALL);
	tr_flags_tell(x, s->recipe);
	e_mov_i(&x->e, HR_9, TR_ID(x->u->index, s->k));
	if (s->is_bail) {
		e_jmp_to(&x->e, x->k->at.bail);
		return;
	}
	if (s->is_transfer) {
		e_jmp_to(&x->e, x->k->at.indirect);
		return;
	}
	e_call_to(&x->e, x->k->at.one);
	if (s->vec) {
		uint32_t loaded;

		e_call_to(&x->e, x->k->at.load_vec[s->vec]);
		loaded = e_jcc(&x->e, CC_AE);
		e_mov_i(&x->e, HR_9, TR_ID(x->u->index, s->k + 1u));
		e_jmp_to(&x->e, x->k->at.bail);
		e_patch_here(&x->e, loaded);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(s->group); i++)	/* r10 last: the other needs it */
		if (s->group[i].number) {
			uint32_t again;

			e_lea(&x->e, true, HR_9, rm_mem(tr_reg(x, s->group[i].base, HR_9), s->group[i].lo));
			e_call_to(&x->e, x->groups[s->group[i].number - 1].routine);
			again = e_jcc(&x->e, CC_AE);
			e_mov_i(&x->e, HR_9, TR_ID(x->u->index, s->k + 1u));
			e_jmp_to(&x->e, x->k->at.resume);
			e_patch_here(&x->e, again);
		}
	if (s->reload)
		tr_flags_load(x, TF_ALL, HR_9);
	for (unsigned i = 0; i < ARRAY_SIZE(s->held); i++)
		if (s->held[i] != HR_NONE)
			e_load(&x->e, HR_9 + i, rm_gs(offsetof(struct vcpu, gpr) + 8 * s->held[i]));
	e_jmp_to(&x->e, s->resume);
	if (!s->load)
		return;
	e_patch_here(&x->e, s->load_at);
	e_call_to(&x->e, x->k->at.load_vec[s->load]);
	e_patch(&x->e, e_jcc(&x->e, CC_B), here);
	e_jmp_to(&x->e, s->load_resume);
}

/* ---- emission ---------------------------------------------------------------------------------------------------------------------- */

void tr_held_drop(struct tr_compiler *x, unsigned host)
{
	x->held[host - HR_9] = HR_NONE;
	if (host == HR_10)
		x->second.active = false;
}

void tr_held_drop_all(struct tr_compiler *x)
{
	x->second.active = false;
	memset(x->held, HR_NONE, sizeof(x->held));
}

void tr_held_set(struct tr_compiler *x, unsigned host, unsigned guest)
{
	for (unsigned i = 0; i < ARRAY_SIZE(x->held); i++)
		if (x->held[i] == guest)
			x->held[i] = HR_NONE;
	x->held[host - HR_9] = (uint8_t)guest;
}

unsigned tr_held_in(const struct tr_compiler *x, unsigned guest)
{
	for (unsigned i = 0; i < ARRAY_SIZE(x->held); i++)
		if (x->held[i] == guest)
			return HR_9 + i;
	return HR_NONE;
}

unsigned tr_reg(struct tr_compiler *x, unsigned guest, unsigned scratch)
{
	unsigned held = tr_held_in(x, guest);

	if (tr_home[guest] != HR_NONE)
		return tr_home[guest];
	if (held != HR_NONE)
		return held;
	tr_held_drop(x, scratch);
	e_load(&x->e, scratch, rm_gs(offsetof(struct vcpu, gpr) + 8 * guest));
	return scratch;
}

static void by_handler(struct tr_compiler *x, const struct tr_insn *t, unsigned k)
{
	tr_flags_spill(x, t);
	if (!x->mem_exact)
		tr_flags_tell(x, t->recipe);
	e_mov_i(&x->e, HR_9, TR_ID(x->u->index, k));
	e_call_to(&x->e, x->k->at.one);
	x->mem_exact = true;
	x->vec = 0;
	x->x87 = false;
	x->in_host = false;
	x->in_mem = true;
	tr_held_drop_all(x);
}

static void bail(struct tr_compiler *x, const struct tr_insn *t, unsigned k)
{
	tr_flags_spill(x, t);
	if (!x->mem_exact)
		tr_flags_tell(x, t->recipe);
	e_mov_i(&x->e, HR_9, TR_ID(x->u->index, k));
	e_jmp_to(&x->e, x->k->at.bail);
}

static bool uses_r11(const struct tr_insn *t)
{
	return t->kind == TK_ONE || t->kind == TK_BAIL || t->kind == TK_SYSTEM || t->kind == TK_STRING || t->kind == TK_X87 ||
	       t->kind == TK_BITS || t->kind == TK_LEAVE;
}

/* Everything else uses r9 and r10 without asking. */
static bool keeps_scratch(const struct tr_insn *t)
{
	return t->kind == TK_NOTHING || t->kind == TK_LEA || t->kind == TK_JCC || t->kind == TK_JMP ||
	       (t->kind == TK_PLAIN && !t->in.has_mem && !t->vec && !t->may_fault);
}

static void emit_insn(struct tr_compiler *x, unsigned k)
{
	const struct tr_insn *t = &x->insn[k];

	x->u->at[k] = (uint16_t)(e_here(&x->e) - x->u->mapped);
	x->at = k;
	if (uses_r11(t))
		tr_group_end(x);
	if (!keeps_scratch(t))
		x->held[0] = x->held[1] = HR_NONE;
	if (t->kind == TK_ONE || t->kind == TK_BAIL)
		x->u->by_handler |= 1u << k;
	if (t->kind == TK_ONE) {
		by_handler(x, t, k);
		return;
	}
	if (t->kind == TK_BAIL) {
		bail(x, t, k);
		return;
	}
	/* What it leaves alone is looked for in c->cc. Flags that a probe has destroyed since are there, or dead. */
	if (t->touch && t->kill != TF_ALL && (x->deferred || t->from_cc) && x->in_host && !x->in_mem)
		tr_flags_save(x, x->owes ? TF_ALL : tr_live_before(t) | TF_C);
	tr_flags_mark_early(x, k);
	slow_begin(x, k, t);
	switch (t->kind) {
	case TK_NOTHING:
		break;
	case TK_PLAIN:
		tr_plain(x, t);
		break;
	case TK_LEA:
		tr_lea(x, t);
		break;
	case TK_PUSH:
		tr_push(x, t);
		break;
	case TK_PUSH_MEM:
		tr_push_mem(x, t);
		break;
	case TK_POP:
		tr_pop(x, t);
		break;
	case TK_LEAVE:
		tr_leave_frame(x, t);
		break;
	case TK_SYSTEM:
		tr_system(x, t);
		break;
	case TK_STRING:
		tr_string(x, t);
		break;
	case TK_X87:
		tr_x87(x, t);
		break;
	case TK_BITS:
		tr_bits(x, t);
		break;
	default:
		tr_flow(x, t);
	}
	tr_group_step(x, t);
	slow_end(x, t);
}

static void stub(struct tr_compiler *x, const uint32_t *at, unsigned n, unsigned k, uint32_t routine)
{
	for (unsigned i = 0; i < n; i++)
		e_patch_here(&x->e, at[i]);
	e_mov_i(&x->e, HR_9, TR_ID(x->u->index, k));
	e_jmp_to(&x->e, routine);
}

struct entry_jumps { uint32_t other, moved[3], stale[2]; };

/* What `mapped` has to know is known if nothing has moved since it was looked at: acc.stamp. */
static void emit_entries(struct tr_compiler *x, struct entry_jumps *j)
{
	struct tr_emit *e = &x->e;

	x->k->stamps[x->u->index] = 0;
	x->u->mapped = e_here(e);
	e_load(e, HR_9, RM_VCPU(acc.stamp));
	e_near(e, 0x39, HR_9, x->k, &x->k->stamps[x->u->index]);
	j->other = e_jcc(e, CC_NE);
	x->u->body = e_here(e);
	e_alu_i(e, true, 5, RM_VCPU(tr_left), (int32_t)x->n);
	j->stale[0] = e_jcc(e, CC_S);
}

/* Something has moved: look at all of it. */
static void emit_check(struct tr_compiler *x, struct entry_jumps *j)
{
	unsigned slot = (x->rip >> GW_PAGE_SHIFT & (ACC_FETCH_SIZE / 2 - 1)) | (x->u->mode == ACC_MODE_USER ? ACC_FETCH_SIZE / 2 : 0);
	size_t fetch = offsetof(struct vcpu, acc.fetch) + slot * sizeof(struct acc_fetch);
	uint64_t page = x->rip & ~GW_PAGE_MASK;
	struct tr_emit *e = &x->e;

	x->u->check = e_here(e);
	e_patch_here(e, j->other);
	if ((uint64_t)(int64_t)(int32_t)page == page) {
		e_alu_i(e, true, 7, rm_gs(fetch + offsetof(struct acc_fetch, tag)), (int32_t)page);
	} else {
		e_mov_i(e, HR_9, page);
		e_op(e, true, 0x39, HR_9, rm_gs(fetch + offsetof(struct acc_fetch, tag)));
	}
	j->moved[0] = e_jcc(e, CC_NE);
	e_mov_i(e, HR_9, (uint64_t)(uintptr_t)x->b->code);
	e_op(e, true, 0x39, HR_9, rm_gs(fetch + offsetof(struct acc_fetch, code)));
	j->moved[1] = e_jcc(e, CC_NE);
	e_near(e, 0x8b, HR_10, x->k, x->u->page->epoch);
	e_op(e, true, 0x39, HR_10, RM_VCPU(verify_epoch));
	j->moved[2] = e_jcc(e, CC_NE);
	e_put(e, &(struct tr_enc){ .opcode = 0x81, .reg = 7, .rm = rm_mem(HR_9, offsetof(struct mem_code, gen)), .n_imm = 4,
				   .imm = { (uint8_t)x->b->gen, (uint8_t)(x->b->gen >> 8), (uint8_t)(x->b->gen >> 16), (uint8_t)(x->b->gen >> 24) } });
	j->stale[1] = e_jcc(e, CC_NE);
	e_load(e, HR_9, RM_VCPU(acc.stamp));
	e_near(e, 0x89, HR_9, x->k, &x->k->stamps[x->u->index]);
	e_jmp_to(e, x->u->body);
}

/* ---- liveness ------------------------------------------------------------------------------------------------------------------------ */

/* What becomes of flags at @rip, where an end leads: looked up in the block there if it lies in the same page. */
static struct tr_found found_at(struct tr_compiler *x, uint64_t rip)
{
	const struct tr_found unknown = { .wanted = TF_ALL, .is_shown = true };
	struct cpu_block *b;

	if ((rip ^ x->rip) >> GW_PAGE_SHIFT)
		return unknown;
	b = cpu_block_ahead(x->c, x->b->code, rip);
	if (!b || b->gen != x->b->gen)
		return unknown;
	x->dep[x->n_deps++] = b;
	tr_page_note(x->u->page, b);
	return tr_flags_found(b, x->c->features);
}

static void analyse(struct tr_compiler *x)
{
	struct tr_insn *last = &x->insn[x->n - 1];

	x->n_deps = 0;
	for (unsigned i = 0; i < 2; i++) {
		x->found[i] = tr_has_edge(last, i) ? found_at(x, tr_edge_rip(x, i)) : (struct tr_found){ 0 };
		x->edge_live[i] = x->found[i].wanted;
		x->edge_shown[i] = x->found[i].is_shown;
		x->u->link[i].is_blind = !x->edge_shown[i] && x->edge_live[i] != TF_ALL;
	}
	for (unsigned i = 0; i < x->n_exits; i++) {
		struct tr_exit *exit = &x->exit[i];

		exit->found = found_at(x, exit->rip);
		exit->live = exit->found.wanted;
		x->u->link[2 + i].is_blind = !exit->found.is_shown && exit->live != TF_ALL;
	}
	tr_flags_plan(x);
	do {
		uint8_t live = x->edge_live[0] | x->edge_live[1];

		for (unsigned k = x->n; k-- > 0;) {
			struct tr_insn *t = &x->insn[k];

			if (t->exit)
				live |= x->exit[t->exit - 1].live;
			t->live = live;
			live = tr_live_before(&x->insn[k]);
		}
	} while (tr_flags_complete(x));
}

/* ---- a unit --------------------------------------------------------------------------------------------------------------------------- */

static void emit(struct tr_compiler *x)
{
	struct entry_jumps j;
	struct tr_unit *u = x->u;

	emit_entries(x, &j);
	x->in_host = false;
	x->in_mem = true;
	x->mem_exact = true;
	x->deferred = x->owes = false;
	x->is_marked = false;
	x->vec = 0;
	x->x87 = false;
	tr_held_drop_all(x);
	for (unsigned k = 0; k < x->n; k++)
		emit_insn(x, k);
	if (x->insn[x->n - 1].kind < TK_JCC && x->insn[x->n - 1].kind != TK_BAIL)
		tr_edge_to(x, 1);
	u->at[x->n] = (uint16_t)(e_here(&x->e) - u->mapped);
	tr_held_drop_all(x);
	tr_sites_out_of_line(x);
	tr_groups_out_of_line(x);
	for (unsigned i = 0; i < x->n_slow; i++)
		emit_slow(x, &x->slow[i]);
	tr_exits_out_of_line(x);
	emit_check(x, &j);
	stub(x, j.moved, 3, 0, x->k->at.entry);
	stub(x, j.stale, 2, 0, x->k->at.stale);
	for (unsigned i = 0; i < u->n_links; i++)
		if (u->link[i].from) {
			u->link[i].stub = e_here(&x->e);
			stub(x, &u->link[i].at, 1, i, x->k->at.edge);
		}
}

static void publish(struct tr_compiler *x)
{
	struct translator *k = x->k;
	struct tr_unit *u = x->u;

	u->end = e_here(&x->e);
	k->used = (u->end + 15) & ~15u;
	k->unit[k->n_units++] = u;
	u->of_block = x->b->units;
	x->b->units = u;
	u->of_page = u->page->units;
	u->page->units = u;
	x->c->stats.tr_units++;
	x->c->stats.tr_unit_insns += x->n;
	x->c->stats.tr_code += u->end - u->mapped;
	tr_perfmap_unit(k, u);
	host_serialize();
}

/* What a unit of x->n instructions needs besides; that of faults last. */
static bool tables(struct tr_compiler *x)
{
	struct translator *k = x->k;
	struct tr_unit *u = x->u;

	u->n = (uint8_t)x->n;
	u->n_parts = (uint8_t)x->n_parts;
	u->n_links = (uint8_t)(2 + x->n_exits);
	u->at = tr_meta(k, (x->n + 1) * sizeof(*u->at));
	u->part = tr_meta(k, x->n_parts * sizeof(*u->part));
	u->link = tr_meta(k, u->n_links * sizeof(*u->link));
	u->dep = tr_meta(k, u->n_links * sizeof(*u->dep));
	u->fault = tr_meta(k, TR_MAX_FAULTS * sizeof(*u->fault));
	if (!u->at || !u->part || !u->link || !u->dep || !u->fault)
		return false;
	memcpy(u->part, x->part, x->n_parts * sizeof(*u->part));
	for (unsigned i = 1; i < x->n_parts; i++) {
		u->part[i].b->is_part = true;
		tr_page_note(u->page, u->part[i].b);
	}
	return true;
}

size_t tr_compiler_size(void)
{
	return sizeof(struct tr_compiler);
}

struct tr_unit *tr_compile(struct vcpu *c, struct cpu_block *b, uint64_t rip)
{
	struct translator *k = c->translator;
	struct tr_compiler *x = k->compiler;
	struct tr_found found;
	struct tr_unit *u;

	if (k->used + TR_UNIT_ROOM > k->size || k->n_units == k->max_units)
		goto full;
	u = tr_meta(k, sizeof(*u));
	if (!u)
		goto full;
	u->page = tr_page_of(c, b);
	if (!u->page)
		goto full;
	x->c = c;
	x->k = k;
	x->b = b;
	x->u = u;
	x->rip = rip;
	x->mode = c->acc.mode;
	x->n_slow = 0;
	x->n_sites = 0;
	x->n_groups = 0;
	x->group.active = false;
	x->e.start = k->rw;
	x->e.p = k->rw + k->used;
	u->b = b;
	u->rip = rip;
	u->mode = c->acc.mode;
	u->index = k->n_units;
	found = tr_flags_found(b, c->features);
	u->is_blind = !found.is_shown && found.wanted != TF_ALL;
	tr_trace(x);
	if (!tables(x))
		goto full;
	analyse(x);
	memcpy(u->dep, x->dep, x->n_deps * sizeof(*u->dep));
	u->n_deps = (uint8_t)x->n_deps;
	emit(x);
	/* What was not used of the table goes back. */
	k->meta_used -= ((TR_MAX_FAULTS - u->n_faults) * sizeof(*u->fault)) & ~(size_t)15;
	publish(x);
	return u;
full:
	tr_flush(c);
	return NULL;
}
