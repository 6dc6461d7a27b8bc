/* SPDX-License-Identifier: MIT */
/*
 * FXSAVE, FXRSTOR, the XSAVE family, and the KVM face's XSAVE image. The components are those of CPU_XCR0_ALL; IA32_XSS has none.
 *
 * Stores: the pieces an instruction writes are listed, all judged, then written; bytes between them are not touched. Loads:
 * header and components are read and checked before anything of the guest's state changes.
 * Source: Intel SDM vol. 1 "Managing State Using the XSAVE Feature Set"; vol. 2, the instruction pages.
 */
#include <errno.h>
#include <string.h>

#include "cpu/host/host_private.h"
#include "cpu/sys/sys.h"

#define LEGACY_SIZE	512
#define HEADER_SIZE	64
#define COMPACT_BIT	(1ull << 63)
#define MAX_CHUNKS	6

struct chunk {
	uint16_t off, len;
	const uint8_t *src;
};

struct chunks {
	unsigned n;
	struct chunk c[MAX_CHUNKS];
};

static void add(struct chunks *k, unsigned off, unsigned len, const uint8_t *src)
{
	k->c[k->n++] = (struct chunk){ (uint16_t)off, (uint16_t)len, src };
}

static bool is_zero(const uint8_t *p, unsigned len)
{
	uint64_t any = 0;
	unsigned i = 0;

	for (; i + 8 <= len; i += 8)
		any |= fx_get64(p, i);
	for (; i < len; i++)
		any |= p[i];
	return !any;
}

/* Components not in their initial state; c->fpu.area must be up to date. MXCSR does not count (see each instruction). */
static uint64_t in_use(const struct vcpu *c)
{
	const uint8_t *a = c->fpu.area;
	uint64_t v = 0;

	if (fx_get16(a, FX_FCW) != FCW_INIT || !is_zero(a + 2, FX_MXCSR - 2) || !is_zero(a + FX_ST, 128))
		v |= XCR0_X87;
	if (!is_zero(a + FX_XMM, 256))
		v |= XCR0_SSE;
	if (!is_zero(a + CPU_XSAVE_AVX, CPU_XSAVE_AVX_SIZE))
		v |= XCR0_AVX;
	if (c->acc.pkru)
		v |= XCR0_PKRU;
	return v;
}

/* Offset of component @bit (AVX or PKRU) in the area: standard, or compacted after the lower ones in @xcomp. */
static unsigned offset_of(uint64_t bit, uint64_t xcomp)
{
	if (!(xcomp & COMPACT_BIT))
		return bit == XCR0_AVX ? CPU_XSAVE_AVX : CPU_XSAVE_PKRU;
	return bit == XCR0_PKRU && xcomp & XCR0_AVX ? CPU_XSAVE_AVX + CPU_XSAVE_AVX_SIZE : CPU_XSAVE_AVX;
}

/* ---- storing ----------------------------------------------------------------------------------------------------------------------- */

/* Judge all, then write all. */
static bool put_chunks(struct vcpu *c, const struct cpu_op *o, uint64_t la, const struct chunks *k)
{
	struct cpu_ref r[MAX_CHUNKS];

	for (unsigned i = 0; i < k->n; i++)
		if (!cpu_ref_get(c, o, la + k->c[i].off, k->c[i].len, ACC_W, &r[i]))
			return false;
	for (unsigned i = 0; i < k->n; i++)
		cpu_ref_store(c, o, &r[i], k->c[i].src);
	return true;
}

static bool is_wide(const struct cpu_op *o)
{
	return o->opsize == 8;
}

/* The x87 header of the legacy region: pointers of 64 bits with W, else of 32 with selectors, which read as zero. */
static void legacy_head(const struct vcpu *c, bool wide, uint8_t head[32])
{
	memcpy(head, c->fpu.area, 32);
	if (!wide) {
		fx_put32(head, FX_FIP + 4, 0);
		fx_put32(head, FX_FDP + 4, 0);
	}
}

static unsigned n_xmm(const struct vcpu *c)
{
	return c->mode == INSN_MODE_64 ? 16 : 8;
}

/* These look at the address before its alignment, unlike SSE operands: through SS and not canonical is #SS(0). */
static void misaligned(struct vcpu *c, const struct cpu_op *o, uint64_t la)
{
	bool ss = o->flags & OP_STACK && c->mode == INSN_MODE_64 && !cpu_canonical(c, la);

	cpu_raise_error(c, o, ss ? VEC_SS : VEC_GP, 0);
}

static bool address(struct vcpu *c, const struct cpu_op *o, unsigned len, unsigned align, unsigned rights, uint64_t *la)
{
	if (!cpu_la(c, o, len, rights, la))
		return false;
	if (*la & (align - 1)) {
		misaligned(c, o, *la);
		return false;
	}
	return true;
}

static bool fxsave(struct vcpu *c, const struct cpu_op *o)
{
	struct chunks k = { 0 };
	uint8_t head[32];
	uint64_t la;

	if (!host_gate_open(c, o) || !address(c, o, LEGACY_SIZE, 16, ACC_W, &la))
		return false;
	cpu_fpu_save(c);
	legacy_head(c, is_wide(o), head);
	add(&k, 0, 32, head);
	add(&k, FX_ST, 128 + 16 * n_xmm(c), c->fpu.area + FX_ST);
	return put_chunks(c, o, la, &k);
}

static uint64_t rfbm(const struct vcpu *c)
{
	return ((uint64_t)(uint32_t)c->gpr[RDX] << 32 | (uint32_t)c->gpr[RAX]) & c->fpu.xcr0;
}

static bool is_compacting(const struct cpu_op *o)
{
	return o->iop == I_XSAVEC || o->iop == I_XSAVES;
}

/* Privileged forms: #GP(0) after #UD and #NM. */
static bool allowed(struct vcpu *c, const struct cpu_op *o)
{
	if (!host_gate_open(c, o))
		return false;
	if ((o->iop == I_XSAVES || o->iop == I_XRSTORS) && c->acc.cpl) {
		cpu_raise_error(c, o, VEC_GP, 0);
		return false;
	}
	return true;
}

/* The pieces of the components in @which, at the places @xcomp says. */
static void component_chunks(struct vcpu *c, struct chunks *k, uint64_t which, bool mxcsr, uint64_t xcomp, const uint8_t *head,
			     const uint8_t *pkru)
{
	const uint8_t *a = c->fpu.area;

	if (which & XCR0_X87) {
		add(k, 0, mxcsr ? 32 : FX_MXCSR, head);
		add(k, FX_ST, 128, a + FX_ST);
	} else if (mxcsr) {
		add(k, FX_MXCSR, 8, head + FX_MXCSR);
	}
	if (which & XCR0_SSE)
		add(k, FX_XMM, 16 * n_xmm(c), a + FX_XMM);
	if (which & XCR0_AVX)
		add(k, offset_of(XCR0_AVX, xcomp), 16 * n_xmm(c), a + CPU_XSAVE_AVX);
	if (which & XCR0_PKRU)
		add(k, offset_of(XCR0_PKRU, xcomp), CPU_XSAVE_PKRU_SIZE, pkru);
}

static bool xsave(struct vcpu *c, const struct cpu_op *o)
{
	uint64_t want = rfbm(c), used, la, header[2] = { 0 }, pkru = c->acc.pkru;
	struct chunks k = { 0 };
	struct cpu_ref hdr;
	uint8_t head[32];
	bool mxcsr;

	if (!allowed(c, o) || !address(c, o, LEGACY_SIZE + HEADER_SIZE, 64, ACC_W, &la))
		return false;
	cpu_fpu_save(c);
	legacy_head(c, is_wide(o), head);
	used = in_use(c) & want;
	if (is_compacting(o)) {
		/* MXCSR belongs to SSE here: not initial, so SSE is in use. */
		if (want & XCR0_SSE && fx_get32(c->fpu.area, FX_MXCSR) != MXCSR_INIT)
			used |= XCR0_SSE;
		header[0] = used;
		header[1] = want | COMPACT_BIT;
		component_chunks(c, &k, used, used & XCR0_SSE, header[1], head, (uint8_t *)&pkru);
		add(&k, CPU_XSAVE_HEADER, 16, (uint8_t *)header);
		return put_chunks(c, o, la, &k);
	}
	/* Bits of XSTATE_BV that are not asked for stay: read, and written back. */
	if (!cpu_ref_get(c, o, la + CPU_XSAVE_HEADER, 8, ACC_RW, &hdr) || !cpu_ref_load(c, o, &hdr, &header[0]))
		return false;
	header[0] = (header[0] & ~want) | used;
	mxcsr = want & (XCR0_SSE | XCR0_AVX);
	component_chunks(c, &k, o->iop == I_XSAVEOPT ? used : want, mxcsr, 0, head, (uint8_t *)&pkru);
	add(&k, CPU_XSAVE_HEADER, 8, (uint8_t *)header);
	return put_chunks(c, o, la, &k);
}

/* ---- loading ------------------------------------------------------------------------------------------------------------------------ */

static void restore_x87(struct vcpu *c, const uint8_t *in, bool wide)
{
	uint8_t *a = c->fpu.area;
	uint16_t fcw = fx_get16(in, FX_FCW), fsw = fx_get16(in, FX_FSW);

	host_x87_drop(c);
	fcw = (uint16_t)((fcw & 0x1f3f) | 0x40);
	fsw &= (uint16_t)~(FSW_ES | FSW_B);
	if (fsw & ~fcw & 0x3f)
		fsw |= FSW_ES | FSW_B;
	fx_put16(a, FX_FCW, fcw);
	fx_put16(a, FX_FSW, fsw);
	fx_put16(a, FX_FTW, in[FX_FTW]);
	fx_put16(a, FX_FOP, fx_get16(in, FX_FOP) & 0x7ff);
	fx_put64(a, FX_FIP, wide ? fx_get64(in, FX_FIP) : fx_get32(in, FX_FIP));
	fx_put64(a, FX_FDP, wide ? fx_get64(in, FX_FDP) : fx_get32(in, FX_FDP));
	for (unsigned i = 0; i < 8; i++) {
		memset(a + FX_ST + 16 * i, 0, 16);
		memcpy(a + FX_ST + 16 * i, in + FX_ST + 16 * i, 10);
	}
}

static void init_x87(struct vcpu *c)
{
	uint8_t *a = c->fpu.area;

	host_x87_drop(c);
	memset(a, 0, FX_MXCSR);
	memset(a + FX_ST, 0, 128);
	fx_put16(a, FX_FCW, FCW_INIT);
}

static bool fxrstor(struct vcpu *c, const struct cpu_op *o)
{
	unsigned len = FX_XMM + 16 * n_xmm(c);
	uint8_t in[LEGACY_SIZE];
	struct cpu_ref r;
	uint64_t la;

	if (!host_gate_open(c, o) || !address(c, o, LEGACY_SIZE, 16, ACC_R, &la) || !cpu_ref_get(c, o, la, len, ACC_R, &r) ||
	    !cpu_ref_load(c, o, &r, in))
		return false;
	if (fx_get32(in, FX_MXCSR) & ~cpu_mxcsr_mask()) {
		cpu_raise_error(c, o, VEC_GP, 0);
		return false;
	}
	restore_x87(c, in, is_wide(o));
	memcpy(c->fpu.area + FX_XMM, in + FX_XMM, 16 * n_xmm(c));
	host_mxcsr_set(c, fx_get32(in, FX_MXCSR));
	return true;
}

/* Header rules. @head: the 64 bytes. */
static bool header_valid(const struct vcpu *c, const uint8_t *head, bool must_compact)
{
	uint64_t bv = fx_get64(head, 0), xcomp = fx_get64(head, 8);

	if (!(xcomp & COMPACT_BIT))
		return !must_compact && !(bv & ~c->fpu.xcr0) && !xcomp && !fx_get64(head, 16);
	if (!c->features[ISA_XSAVEC] && !c->features[ISA_XSAVES])
		return false;
	return !(xcomp & ~(c->fpu.xcr0 | COMPACT_BIT)) && !(bv & ~xcomp) && is_zero(head + 16, HEADER_SIZE - 16);
}

/* One extended component of the area at @la into @buf. False: noted. */
static bool get_component(struct vcpu *c, const struct cpu_op *o, uint64_t la, unsigned len, void *buf)
{
	struct cpu_ref r;

	return cpu_ref_get(c, o, la, len, ACC_R, &r) && cpu_ref_load(c, o, &r, buf);
}

struct loaded {
	uint8_t legacy[LEGACY_SIZE + HEADER_SIZE], avx[CPU_XSAVE_AVX_SIZE];
	uint64_t pkru;
	uint64_t load;		/* components present */
	uint64_t want;		/* components to load or initialise */
	bool compact;
};

/* From @x into the guest. Cannot fail. */
static void commit(struct vcpu *c, const struct loaded *x, bool wide, unsigned xmms)
{
	uint8_t *a = c->fpu.area;
	uint32_t mxcsr = fx_get32(x->legacy, FX_MXCSR);

	if (x->load & XCR0_X87)
		restore_x87(c, x->legacy, wide);
	else if (x->want & XCR0_X87)
		init_x87(c);
	if (x->load & XCR0_SSE)
		memcpy(a + FX_XMM, x->legacy + FX_XMM, 16 * xmms);
	else if (x->want & XCR0_SSE)
		memset(a + FX_XMM, 0, 16 * xmms);
	if (x->compact) {
		if (x->want & XCR0_SSE)
			host_mxcsr_set(c, x->load & XCR0_SSE ? mxcsr : MXCSR_INIT);
	} else if (x->want & (XCR0_SSE | XCR0_AVX)) {
		host_mxcsr_set(c, mxcsr);
	}
	if (x->load & XCR0_AVX)
		memcpy(a + CPU_XSAVE_AVX, x->avx, 16 * xmms);
	else if (x->want & XCR0_AVX)
		memset(a + CPU_XSAVE_AVX, 0, 16 * xmms);
	if (x->want & XCR0_PKRU) {
		uint32_t pkru = x->load & XCR0_PKRU ? (uint32_t)x->pkru : 0;

		if (pkru != c->acc.pkru) {
			c->acc.pkru = pkru;
			acc_keys_changed(&c->acc);
		}
	}
}

static bool needs_mxcsr(const struct loaded *x)
{
	return x->compact ? x->load & XCR0_SSE : x->want & (XCR0_SSE | XCR0_AVX);
}

static bool xrstor(struct vcpu *c, const struct cpu_op *o)
{
	const uint8_t *head;
	struct loaded x;
	uint64_t la, xcomp;

	if (!allowed(c, o) || !address(c, o, LEGACY_SIZE + HEADER_SIZE, 64, ACC_R, &la) ||
	    !get_component(c, o, la, LEGACY_SIZE + HEADER_SIZE, x.legacy))
		return false;
	head = x.legacy + CPU_XSAVE_HEADER;
	xcomp = fx_get64(head, 8);
	x.compact = xcomp & COMPACT_BIT;
	x.want = rfbm(c);
	x.load = x.want & fx_get64(head, 0);
	if (!header_valid(c, head, o->iop == I_XRSTORS) ||
	    (needs_mxcsr(&x) && fx_get32(x.legacy, FX_MXCSR) & ~cpu_mxcsr_mask())) {
		cpu_raise_error(c, o, VEC_GP, 0);
		return false;
	}
	if (x.load & XCR0_AVX && !get_component(c, o, la + offset_of(XCR0_AVX, xcomp), CPU_XSAVE_AVX_SIZE, x.avx))
		return false;
	if (x.load & XCR0_PKRU && !get_component(c, o, la + offset_of(XCR0_PKRU, xcomp), CPU_XSAVE_PKRU_SIZE, &x.pkru))
		return false;
	commit(c, &x, is_wide(o), n_xmm(c));
	return true;
}

/* ---- handlers ------------------------------------------------------------------------------------------------------------------------- */

static void op_fxsave(struct vcpu *c, const struct cpu_op *o)
{
	if (unlikely(!fxsave(c, o)))
		return;
	CPU_NEXT(c, o);
}

static void op_fxrstor(struct vcpu *c, const struct cpu_op *o)
{
	if (unlikely(!fxrstor(c, o)))
		return;
	CPU_NEXT(c, o);
}

static void op_xsave(struct vcpu *c, const struct cpu_op *o)
{
	if (unlikely(!xsave(c, o)))
		return;
	CPU_NEXT(c, o);
}

/* PKRU may have changed what memory the following instructions may touch; the TLB was told. */
static void op_xrstor(struct vcpu *c, const struct cpu_op *o)
{
	if (unlikely(!xrstor(c, o)))
		return;
	CPU_NEXT(c, o);
}

bool host_lower_xsave(const struct insn *in, struct cpu_op *o)
{
	o->aux = GATE_XSAVE;
	switch (in->op) {
	case I_FXSAVE:
		o->aux = GATE_FXSAVE;
		o->fn = op_fxsave;
		break;
	case I_FXRSTOR:
		o->aux = GATE_FXSAVE;
		o->fn = op_fxrstor;
		break;
	case I_XSAVE:
	case I_XSAVEOPT:
	case I_XSAVEC:
	case I_XSAVES:
		o->fn = op_xsave;
		break;
	case I_XRSTOR:
	case I_XRSTORS:
		o->fn = op_xrstor;
		break;
	default:
		return false;
	}
	o->ptr = NULL;
	return true;
}

/* ---- the KVM face ----------------------------------------------------------------------------------------------------------------------- */

void cpu_xsave_get(struct vcpu *c, void *image, size_t size)
{
	uint8_t *out = image;

	cpu_fpu_save(c);
	memset(out, 0, size);
	memcpy(out, c->fpu.area, LEGACY_SIZE);
	if (size >= CPU_XSAVE_AVX + CPU_XSAVE_AVX_SIZE)
		memcpy(out + CPU_XSAVE_AVX, c->fpu.area + CPU_XSAVE_AVX, CPU_XSAVE_AVX_SIZE);
	if (size >= CPU_XSAVE_PKRU + CPU_XSAVE_PKRU_SIZE)
		fx_put32(out, CPU_XSAVE_PKRU, c->acc.pkru);
	fx_put64(out, CPU_XSAVE_HEADER, in_use(c) | XCR0_X87 | XCR0_SSE);
}

int cpu_xsave_set(struct vcpu *c, const void *image, size_t size)
{
	const uint8_t *in = image;
	uint64_t bv = fx_get64(in, CPU_XSAVE_HEADER);
	struct loaded x = { .want = CPU_XCR0_ALL };

	if (bv & ~CPU_XCR0_ALL || fx_get64(in, CPU_XSAVE_HEADER + 8))
		return -EINVAL;
	if (fx_get32(in, FX_MXCSR) & ~cpu_mxcsr_mask())
		return -EINVAL;
	x.load = bv;
	memcpy(x.legacy, in, sizeof(x.legacy));
	if (size >= CPU_XSAVE_AVX + CPU_XSAVE_AVX_SIZE)
		memcpy(x.avx, in + CPU_XSAVE_AVX, CPU_XSAVE_AVX_SIZE);
	else
		x.load &= ~XCR0_AVX;
	if (size >= CPU_XSAVE_PKRU + CPU_XSAVE_PKRU_SIZE)
		x.pkru = fx_get32(in, CPU_XSAVE_PKRU);
	else
		x.load &= ~XCR0_PKRU;
	commit(c, &x, true, 16);
	return 0;
}
