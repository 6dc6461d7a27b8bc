/* SPDX-License-Identifier: MIT */
/*
 * Cases on the host CPU: a child process, locked down, in which every case is one return from a signal handler into the
 * instruction with TF set, and one trap back. The kernel's signal frame carries all state both ways.
 *
 * The child may make no system call but sigreturn and exit. What kills it (an instruction that is a system call, a lost
 * altstack) costs one case: the parent goes on with the next in a new child.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <asm/ldt.h>
#include <asm/prctl.h>
#include <ucontext.h>
#include <unistd.h>

#include "diff.h"
#include "isa/x86.h"

#define MAX_STEPS	400u		/* iterations of one repeated string instruction */

/* Shared with the child. */
struct shared {
	unsigned n, next;		/* next: case being run; the parent looks at it when the child has died */
	struct diff_case in[DIFF_BATCH];
	struct diff_result out[DIFF_BATCH];
};

static struct shared *sh;
static uint8_t *code_rw, *data_rw;
static unsigned steps;
static bool started;

/* Nothing below may use thread-local storage or the libc beyond system calls: the child is locked down. */

static void copy(void *to, const void *from, size_t n)
{
	__asm__ volatile("cld; rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static void fill(void *to, uint8_t v, size_t n)
{
	__asm__ volatile("cld; rep stosb" : "+D"(to), "+c"(n) : "a"(v) : "memory");
}

static __attribute__((noreturn)) void leave(int code)
{
	for (;;)
		syscall(SYS_exit_group, code);
}

/* Order of ucontext registers against x86 encoding. */
static const uint8_t greg[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8, REG_R9, REG_R10,
	REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };

/* CS and SS are in the frame; DS and ES stay as they are loaded here. */
static void set_segments(unsigned mode, ucontext_t *uc)
{
	uint64_t v = (uint64_t)uc->uc_mcontext.gregs[REG_CSGSFS] & 0x0000ffffffff0000ull;
	uint64_t cs = mode == INSN_MODE_64 ? 0x33 : mode == INSN_MODE_32 ? 0x23 : DIFF_CS16;
	uint32_t ds = mode == INSN_MODE_16 ? DIFF_DS16 : 0x2b;

	uc->uc_mcontext.gregs[REG_CSGSFS] = (greg_t)(v | cs | (uint64_t)ds << 48);
	__asm__ volatile("movl %0, %%ds\n\tmovl %0, %%es" : : "r"(ds));
}

static void set_up(const struct diff_case *k, ucontext_t *uc)
{
	greg_t *g = uc->uc_mcontext.gregs;
	uint8_t *x = (uint8_t *)uc->uc_mcontext.fpregs;
	unsigned start = (unsigned)(diff_start(k) - DIFF_CODE), here = k->len - k->beyond;
	uint64_t bv;

	copy(data_rw, diff_pattern(), DIFF_RW_SIZE);
	copy(data_rw + k->patch_off, k->patch, k->patch_len);
	fill(code_rw + start, 0xf4, start + 32 <= 4096 ? 32 : 4096 - start);
	copy(code_rw + start, k->code, here);
	for (unsigned i = 0; i < 16; i++)
		g[greg[i]] = (greg_t)k->gpr[i];
	g[REG_RIP] = (greg_t)(diff_start(k) - (k->mode == INSN_MODE_16 ? DIFF_CODE : 0));
	g[REG_EFL] = k->flags | FLAG_TF;
	set_segments(k->mode, uc);
	copy(x, k->x, 416);
	copy(&bv, x + 512, 8);
	bv = (bv & 0x200) | 7;
	copy(x + 512, &bv, 8);
	copy(x + 576, k->x + 576, 256);
	steps = 0;
}

static void collect(int sig, unsigned mode, const ucontext_t *uc, struct diff_result *r)
{
	const greg_t *g = uc->uc_mcontext.gregs;
	const uint8_t *x = (const uint8_t *)uc->uc_mcontext.fpregs;
	uint64_t bv;

	for (unsigned i = 0; i < 16; i++)
		r->gpr[i] = (uint64_t)g[greg[i]];
	r->rip = (uint64_t)g[REG_RIP] + (mode == INSN_MODE_16 ? DIFF_CODE : 0);
	r->flags = (uint32_t)g[REG_EFL];
	r->vector = (uint8_t)g[REG_TRAPNO];
	r->error = (uint32_t)g[REG_ERR];
	r->cr2 = (uint64_t)g[REG_CR2];
	r->fault = !(sig == SIGTRAP && r->vector == VEC_DB);
	copy(r->x, x, 416);
	copy(&bv, x + 512, 8);
	if (bv & 4)
		copy(r->x + 576, x + 576, 256);
	else
		fill(r->x + 576, 0, 256);
	if (!(bv & 2))
		fill(r->x + 160, 0, 256);
	if (!(bv & 1)) {
		uint16_t fcw = 0x37f;

		fill(r->x, 0, 24);
		copy(r->x, &fcw, 2);
		fill(r->x + 32, 0, 128);
	}
	copy(r->mem, data_rw, DIFF_RW_SIZE);
	r->done = true;
}

/* What a case may have left in the flags that sigreturn does not set. */
static void clear_sticky_flags(void)
{
	uint64_t f;

	__asm__ volatile("pushfq\n\tpopq %0" : "=r"(f));
	f &= ~(uint64_t)(FLAG_NT | FLAG_ID | FLAG_AC);
	__asm__ volatile("pushq %0\n\tpopfq" : : "r"(f) : "cc");
}

static void handler(int sig, siginfo_t *info, void *ctx)
{
	ucontext_t *uc = ctx;

	if (started) {
		const struct diff_case *k = &sh->in[sh->next];

		/* Repeated string instructions trap after every iteration, gathers may between elements. */
		if (sig == SIGTRAP && (uint64_t)uc->uc_mcontext.gregs[REG_RIP] == (k->mode == INSN_MODE_16 ? diff_start(k) - DIFF_CODE : diff_start(k)) && k->restarts && ++steps < MAX_STEPS)
			return;
		if (steps < MAX_STEPS)
			collect(sig, k->mode, uc, &sh->out[sh->next]);
		sh->next++;
	}
	started = true;
	clear_sticky_flags();
	if (sh->next >= sh->n)
		leave(0);
	set_up(&sh->in[sh->next], uc);
}

static bool set_descriptor(unsigned sel, uint64_t base, unsigned limit, bool code)
{
	struct user_desc d = { .entry_number = sel >> 3, .base_addr = (unsigned)base, .limit = limit, .contents = code ? 2 : 0, .useable = 1 };

	return syscall(SYS_modify_ldt, 0x11, &d, sizeof(d)) == 0;
}

static void lock_down(void)
{
	struct sock_filter prog[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog fprog = { ARRAY_SIZE(prog), prog };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &fprog, 0, 0))
		leave(3);
}

static void child(void)
{
	static const int sigs[] = { SIGTRAP, SIGSEGV, SIGBUS, SIGFPE, SIGILL };
	struct sigaction sa = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	struct rlimit cpu = { 20, 20 }, none = { 0, 0 };
	stack_t ss = { .ss_size = 256 << 10 };

	setrlimit(RLIMIT_CPU, &cpu);
	setrlimit(RLIMIT_CORE, &none);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	ss.ss_sp = mmap(NULL, ss.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ss.ss_sp == MAP_FAILED || sigaltstack(&ss, NULL))
		leave(3);
	sigfillset(&sa.sa_mask);
	for (unsigned i = 0; i < ARRAY_SIZE(sigs); i++)
		if (sigaction(sigs[i], &sa, NULL))
			leave(3);
	if (syscall(SYS_arch_prctl, ARCH_SET_GS, DIFF_GS_BASE))
		leave(3);
	if (!set_descriptor(DIFF_CS16, DIFF_CODE, DIFF_CS16_LIMIT, true) || !set_descriptor(DIFF_DS16, DIFF_DATA, DIFF_DS16_LIMIT, false))
		leave(3);
	(void)diff_pattern();
	/* A first access must find the pages present: the error code tells. */
	for (unsigned i = 0; i < DIFF_DATA_SIZE; i += 4096)
		(void)*(volatile uint8_t *)(uintptr_t)(DIFF_DATA + i);
	lock_down();
	__asm__ volatile("ud2");
	leave(3);
}

/* Runs what it can of the batch; false when the child could not even start. */
static bool run_child(void)
{
	unsigned before = sh->next;
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid < 0)
		return false;
	if (!pid)
		child();
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return false;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return true;
	if (WIFEXITED(status) && sh->next == before)
		return false;
	sh->next++;		/* that one killed it */
	return true;
}

void diff_native_run(const struct diff_case *k, struct diff_result *r, unsigned n)
{
	memcpy(sh->in, k, n * sizeof(*k));
	for (unsigned i = 0; i < n; i++)
		sh->out[i].done = false;
	sh->n = n;
	sh->next = 0;
	while (sh->next < n)
		if (!run_child())
			break;
	memcpy(r, sh->out, n * sizeof(*r));
}

static uint8_t *pages(uint64_t at, size_t size, size_t visible_rw, int prot, uint8_t **rw)
{
	int fd = memfd_create("diff", MFD_CLOEXEC);
	uint8_t *p;

	if (fd < 0 || ftruncate(fd, (off_t)size))
		return NULL;
	*rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	p = mmap((void *)(uintptr_t)at, size, prot, MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, fd, 0);
	close(fd);
	if (*rw == MAP_FAILED || p == MAP_FAILED)
		return NULL;
	if (visible_rw < size && mprotect(p + visible_rw, size - visible_rw, PROT_READ))
		return NULL;
	for (size_t i = 0; i < size; i += 4096)
		*(volatile uint8_t *)(*rw + i);
	return p;
}

int diff_native_init(void)
{
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (sh == MAP_FAILED)
		return -ENOMEM;
	if (!pages(DIFF_CODE, 4096, 4096, PROT_READ | PROT_EXEC, &code_rw) ||
	    !pages(DIFF_DATA, DIFF_DATA_SIZE, DIFF_RW_SIZE, PROT_READ | PROT_WRITE, &data_rw))
		return -ENOMEM;
	memcpy(data_rw, diff_pattern(), DIFF_DATA_SIZE);
	memset(code_rw, 0xf4, 4096);
	return 0;
}
