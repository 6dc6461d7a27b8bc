/* SPDX-License-Identifier: MIT */
/*
 * Which programs does that guest start? Names them as they do, from outside, with nothing but the native interface (session.h): a
 * breakpoint at the kernel's system call entry, and for each hit the registers, and for execve the name its pointer leads to.
 * `guestward watch --exec` is this file, and so is watch.c beside it.
 *
 * The guest needs no agent and no symbols: a single step tells where LSTAR points; the byte there becomes INT3 and is executed from
 * our answer, so that the guest's memory need not be put back for it. A signal puts the byte back and detaches; if we are killed
 * instead, the breakpoint is the guest's to explain, so the session's policy is to pause it then.
 */
#include <inttypes.h>
#include <signal.h>
#include "calls.h"
#include "session.h"

#define EXECVE		59u
#define EXECVEAT	322u
#define INT3		0xcc

struct watch {
	struct session s;
	bool all, json;
	uint64_t entry, gpa;		/* where system calls begin: linear, physical */
	uint8_t code[16];		/* what stands there */
	unsigned long n, left;		/* seen; to be seen, 0: for ever */
	bool ready, done;
	int err;
};

static volatile sig_atomic_t interrupted;
static void interrupt(int sig) { interrupted = sig; }

/* ---- the guest's memory --------------------------------------------------------------------------------------------------------- */

/* Bytes at a linear address, by the tables of a vCPU that waits for us; how many there are. */
static size_t read_linear(struct watch *w, unsigned vcpu, uint64_t at, void *buf, size_t n)
{
	size_t done = 0;

	while (done < n) {
		size_t part = GW_MON_PAGE - ((at + done) & (GW_MON_PAGE - 1));
		uint64_t gpa;

		part = part < n - done ? part : n - done;
		if (session_command(&w->s, GW_MON_OP_TRANSLATE, vcpu, at + done, 0, 0, &gpa) ||
		    session_read(&w->s, gpa, (uint8_t *)buf + done, part))
			break;
		done += part;
	}
	return done;
}

/* Printable and without what JSON would mind, whatever the guest has put there. */
static void read_text(struct watch *w, unsigned vcpu, uint64_t at, char *text, size_t size)
{
	size_t n = read_linear(w, vcpu, at, text, size - 1), i;

	for (i = 0; i < n && text[i]; i++)
		if (text[i] < ' ' || text[i] > '~' || text[i] == '"' || text[i] == '\\')
			text[i] = '?';
	if (!n)
		snprintf(text, size, "(not in memory: %#" PRIx64 ")", at);
	else
		text[i] = 0;
}

/* The arguments: an array of pointers, NULL at its end. */
static void print_arguments(struct watch *w, unsigned vcpu, uint64_t argv)
{
	uint64_t pointer;
	char text[64];

	for (unsigned i = 0; i < 16; i++) {
		if (read_linear(w, vcpu, argv + 8 * i, &pointer, sizeof(pointer)) != sizeof(pointer) || !pointer)
			return;
		read_text(w, vcpu, pointer, text, sizeof(text));
		if (w->json)
			printf("%s\"%s\"", i ? "," : "", text);
		else
			printf("%s%s", i ? " " : "  ", text);
	}
	printf(w->json ? ",null" : " ...");
}

/* ---- a system call ------------------------------------------------------------------------------------------------------------------ */

static void show_exec(struct watch *w, const struct gw_mon_event *ev, uint64_t file, uint64_t argv)
{
	char name[256];

	read_text(w, ev->vcpu, file, name, sizeof(name));
	printf(w->json ? ",\"execve\":\"%s\",\"arguments\":[" : "execve %s", name);
	print_arguments(w, ev->vcpu, argv);
	printf(w->json ? "]" : "");
}

static void show(struct watch *w, const struct gw_mon_event *ev)
{
	const struct kvm_regs *r = &ev->regs.regs;
	bool at = r->rax == EXECVEAT, exec = r->rax == EXECVE || at;
	uint64_t cr3 = ev->regs.sregs.cr3 & ~0xfffull;

	if (!exec && !w->all)
		return;
	printf(w->json ? "{\"cpu\":%u,\"cr3\":\"0x%" PRIx64 "\"" : "cpu %u cr3 %012" PRIx64 " ", ev->vcpu, cr3);
	if (exec)
		show_exec(w, ev, at ? r->rsi : r->rdi, at ? r->rdx : r->rsi);
	else if (w->json)
		printf(",\"syscall\":%lld,\"arguments\":[\"0x%llx\",\"0x%llx\",\"0x%llx\"]", (long long)r->rax, r->rdi, r->rsi, r->rdx);
	else
		printf("syscall %lld (%llx, %llx, %llx)", (long long)r->rax, r->rdi, r->rsi, r->rdx);
	puts(w->json ? "}" : "");
	w->n++;
	if (w->left && w->n == w->left)
		w->done = true;
}

/* ---- finding the entry -------------------------------------------------------------------------------------------------------------- */

/* The first step of any vCPU after the kernel has set LSTAR, with a CR3 that maps it (a user one may not). */
static bool try_entry(struct watch *w, const struct gw_mon_event *ev)
{
	uint64_t gpa;

	if (!ev->regs.lstar || session_command(&w->s, GW_MON_OP_TRANSLATE, ev->vcpu, ev->regs.lstar, 0, 0, &gpa) ||
	    read_linear(w, ev->vcpu, ev->regs.lstar, w->code, sizeof(w->code)) != sizeof(w->code))
		return false;
	w->entry = ev->regs.lstar;
	w->gpa = gpa;
	return true;
}

static int set_breakpoint(struct watch *w)
{
	const uint8_t int3 = INT3;
	int err;

	if (w->code[0] == INT3)
		return -EBUSY;		/* somebody else's */
	err = session_command(&w->s, GW_MON_OP_SUBSCRIBE, GW_MON_BREAKPOINT, 1, GW_MON_S_SYNC, 0, NULL);
	return err ? err : session_write(&w->s, w->gpa, &int3, 1);
}

static void handle(void *arg, struct session *s, const struct gw_mon_event *ev, struct gw_mon_answer *a)
{
	struct watch *w = arg;

	s->is_enough = interrupted || w->done;
	switch (ev->reason) {
	case GW_MON_SINGLESTEP:
		if (!w->ready && try_entry(w, ev)) {
			w->ready = true;
			w->err = set_breakpoint(w);
			w->done = w->err;
		}
		a->flags = w->ready ? GW_MON_ANS_STEP_OFF : 0;
		s->is_enough |= w->ready;
		break;
	case GW_MON_BREAKPOINT:
		a->flags = GW_MON_ANS_ALLOW;		/* the guest's own */
		if (ev->regs.regs.rip != w->entry)
			break;
		show(w, ev);
		s->is_enough |= w->done;
		a->flags |= GW_MON_ANS_CODE;
		a->data_len = sizeof(w->code);
		memcpy(a->data, w->code, sizeof(w->code));
		break;
	default:
		a->flags = ev->reason == GW_MON_MEM_ACCESS ? GW_MON_ANS_ALLOW : 0;
		break;
	}
}

/* A vCPU in HLT makes no step: all are asked, one will. */
static int find_entry(struct watch *w)
{
	int err = session_command(&w->s, GW_MON_OP_SUBSCRIBE, GW_MON_SINGLESTEP, 1, GW_MON_S_SYNC, 0, NULL);

	for (unsigned i = 0; !err && i < w->s.n_vcpus; i++)
		err = session_command(&w->s, GW_MON_OP_STEP, i, 1, 0, 0, NULL);
	while (!err && !w->ready && !interrupted)
		err = session_serve(&w->s, 0, 50, handle, w);
	for (unsigned i = 0; i < w->s.n_vcpus; i++)
		session_command(&w->s, GW_MON_OP_STEP, i, 0, 0, 0, NULL);
	return err == -EINTR ? 0 : err;
}

static void leave(struct watch *w)
{
	/* Who has met the INT3 already is answered first: nobody may find it gone and be told that it was his own. */
	session_command(&w->s, GW_MON_OP_PAUSE, 0, 0, 0, 0, NULL);
	if (w->ready && !w->err)
		session_write(&w->s, w->gpa, w->code, 1);
	session_serve(&w->s, 0, 100, handle, w);
	session_command(&w->s, GW_MON_OP_DETACH, 1, 0, 0, 0, NULL);
	session_command(&w->s, GW_MON_OP_RESUME_ALL, 0, 0, 0, 0, NULL);
	session_close(&w->s);
}

int calls_watch(int pid, unsigned vm, const struct calls_options *options)
{
	static struct watch w;
	struct sigaction sa = { .sa_handler = interrupt };
	int err;

	w = (struct watch){ .all = options->all, .json = options->json, .left = options->count };
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	err = session_connect(&w.s, pid, vm);
	if (!err)
		err = session_attach(&w.s, GW_MON_PAUSE, 0, 0, 0);
	if (err)
		return err;
	err = find_entry(&w);
	while (!err && !w.done && !interrupted) {
		err = session_serve(&w.s, 0, 200, handle, &w);
		err = err == -EINTR ? 0 : err;
	}
	if (err == -EPIPE)
		return 0;	/* the VM has ended */
	leave(&w);
	return err ? err : w.err;
}
