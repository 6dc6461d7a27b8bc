/* SPDX-License-Identifier: MIT */
/*
 * Races: vCPUs loop over 64 pages, reading a stamp from each and writing one where told to, while two threads of the client
 * convert and punch, and now and then a slot is deleted, the file closed, or the client's side protected.
 *
 * Checked after each round against a model: what a vCPU read in an iteration that began after the calls had returned is what the
 * page holds now on the side it is on, never anything older; memory faults come only from pages that could fault at some time
 * between entry and exit; in the end exactly the pages of the model are present in the file.
 *
 * Usage: race OPERATIONS SECONDS. Prints how many operations were done; too few in that time is a failure. 0: as many as there is
 * time for.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <guestward/guestward.h>
#include <guestward/kvm.h>

#define PAGE	4096u
#define PAGES	64u
#define HALF	(PAGES / 2)
#define AT	0x80000u
#define RAM	0x40000u
#define VCPUS	3u
#define SEEN	0x20000u	/* u32 [vcpu][page] */
#define CMD	0x21000u	/* u32 [page] */
#define ITER	0x22000u	/* u32 [vcpu] */
#define CODE	0x8000u		/* + 0x1000 a vCPU */

static int sys, vm, gmem, vcpu[VCPUS];
static struct kvm_run *run[VCPUS];
static uint8_t *ram, *shared;
static atomic_bool stop;
static atomic_uint bad;
/* Odd: the page may fault. */
static atomic_uint may_fault[PAGES];

static struct { bool is_private, is_present; uint32_t in_private, in_shared; } model[PAGES];

static void die(const char *what, long ret)
{
	printf("Bail out! %s: %ld\n", what, ret);
	exit(99);
}

static void complain(const char *what, unsigned v, unsigned page, uint32_t got, uint32_t want)
{
	if (atomic_fetch_add(&bad, 1) < 10)
		printf("# %s: vcpu %u page %u: %#x, not %#x\n", what, v, page, got, want);
}

static long ask(int fd, unsigned long nr, const void *arg)
{
	return gw_ioctl(fd, nr, (uintptr_t)arg);
}

/* ---- the guest --------------------------------------------------------------------------------------------------------------- */

static uint8_t *emit(uint8_t *p, const char *bytes, unsigned n, uint32_t disp)
{
	memcpy(p, bytes, n);
	memcpy(p + n, &disp, 4);
	return p + n + 4;
}

static void make_code(unsigned v)
{
	uint8_t *start = ram + CODE + v * 0x1000, *p = start;
	int16_t back;

	for (unsigned i = 0; i < PAGES; i++) {
		p = emit(p, "\x26\x67\x66\xa1", 4, i * PAGE);			/* mov eax,es:[page] */
		p = emit(p, "\x67\x66\xa3", 3, SEEN + (v * PAGES + i) * 4);	/* mov [seen],eax */
		p = emit(p, "\x67\x66\xa1", 3, CMD + i * 4);			/* mov eax,[cmd] */
		memcpy(p, "\x66\x85\xc0\x74\x08", 5);				/* test eax,eax; jz */
		p = emit(p + 5, "\x26\x67\x66\xa3", 4, i * PAGE);		/* mov es:[page],eax */
	}
	p = emit(p, "\x67\x66\xff\x05", 4, ITER + v * 4);			/* inc dword [iter] */
	*p++ = 0xe6;								/* out 11,al */
	*p++ = 0x11;
	*p++ = 0xe9;
	back = (int16_t)(start - (p + 2));
	memcpy(p, &back, 2);
}

static void set_up_vcpu(unsigned v)
{
	struct kvm_regs r = { .rip = CODE + v * 0x1000, .rflags = 2 };
	struct kvm_mp_state mp = { KVM_MP_STATE_RUNNABLE };
	struct kvm_sregs s;
	int err;

	vcpu[v] = (int)gw_ioctl(vm, KVM_CREATE_VCPU, v);
	run[v] = gw_mmap(12288, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu[v], 0, &err);
	if (!run[v])
		die("vcpu", err);
	ask(vcpu[v], KVM_GET_SREGS, &s);
	s.cs.base = s.ds.base = 0;
	s.cs.selector = s.ds.selector = 0;
	s.ds.limit = s.es.limit = ~0u;
	s.ds.g = s.es.g = 1;
	s.es.base = AT;
	ask(vcpu[v], KVM_SET_SREGS, &s);
	ask(vcpu[v], KVM_SET_REGS, &r);
	ask(vcpu[v], KVM_SET_MP_STATE, &mp);
	make_code(v);
}

static void check_exit(unsigned v, long ret, const unsigned *before)
{
	const struct gw_run_memory_fault *f = (const void *)run[v]->padding;
	unsigned page;

	if (ret == -EINTR || ret == -EAGAIN)
		return;
	if (ret == 0 && run[v]->exit_reason == KVM_EXIT_MMIO) {
		/* A shared page without a slot. */
		page = (unsigned)((run[v]->mmio.phys_addr - AT) / PAGE);
		memset(run[v]->mmio.data, 0, 8);
	} else if (ret == -EFAULT && run[v]->exit_reason == KVM_EXIT_MEMORY_FAULT) {
		page = (unsigned)((f->gpa - AT) / PAGE);
	} else {
		complain("an exit that nobody asked for", v, run[v]->exit_reason, (uint32_t)ret, 0);
		atomic_store(&stop, true);
		return;
	}
	if (page >= PAGES || (!(before[page] & 1) && atomic_load(&may_fault[page]) == before[page]))
		complain("a fault of a page that is there", v, page, run[v]->exit_reason, 0);
}

static void *vcpu_thread(void *arg)
{
	unsigned v = (unsigned)(uintptr_t)arg, before[PAGES], turn = 0;

	while (!atomic_load(&stop)) {
		long ret;

		for (unsigned i = 0; i < PAGES; i++)
			before[i] = atomic_load(&may_fault[i]);
		ret = gw_ioctl(vcpu[v], KVM_RUN, 0);
		/* After each iteration. Resting outside now and then lets a loaded machine get on: a vCPU inside must be waited for. */
		if (!ret && run[v]->exit_reason == KVM_EXIT_IO) {
			if (turn++ & 3)
				nanosleep(&(struct timespec){ .tv_nsec = 5000 }, NULL);
			continue;
		}
		check_exit(v, ret, before);
	}
	return NULL;
}

/* ---- the client ---------------------------------------------------------------------------------------------------------------- */

static uint32_t peek(uint32_t at)
{
	return __atomic_load_n((uint32_t *)(void *)(ram + at), __ATOMIC_SEQ_CST);
}

/* Each vCPU begins and ends an iteration after this call began. */
static void wait_iteration(void)
{
	uint32_t from[VCPUS];

	for (unsigned v = 0; v < VCPUS; v++)
		from[v] = peek(ITER + v * 4);
	for (unsigned v = 0; v < VCPUS; v++)
		for (unsigned spins = 0; peek(ITER + v * 4) - from[v] < 2 && !atomic_load(&stop); spins++) {
			nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
			if (spins > 500000)
				die("a vCPU stands still", v);
		}
}

static void slots(bool there)
{
	for (unsigned h = 0; h < 2; h++) {
		struct kvm_userspace_memory_region2 r = {
			.slot = 1 + h, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = AT + h * HALF * PAGE, .memory_size = there ? HALF * PAGE : 0,
			.userspace_addr = (uintptr_t)shared + h * HALF * PAGE, .guest_memfd = (uint32_t)gmem,
			/* The other way round in the file. */
			.guest_memfd_offset = (1 - h) * HALF * PAGE,
		};
		long ret = ask(vm, KVM_SET_USER_MEMORY_REGION2, &r);

		if (ret)
			die("slot", ret);
	}
}

static unsigned file_page(unsigned page)
{
	return page < HALF ? page + HALF : page - HALF;
}

static void open_file(void)
{
	struct kvm_create_guest_memfd c = { .size = PAGES * PAGE };

	gmem = (int)ask(vm, KVM_CREATE_GUEST_MEMFD, &c);
	if (gmem < 0)
		die("guest_memfd", gmem);
}

struct part { unsigned first, seed, done; };

/* One thread's half of the pages: convert or punch at random. */
static void *convert_part(void *arg)
{
	struct part *t = arg;

	for (unsigned i = t->first; i < t->first + HALF; i++) {
		unsigned what = (unsigned)rand_r(&t->seed) % 4;
		struct kvm_memory_attributes a = { .address = AT + i * PAGE, .size = PAGE };
		long ret;

		if (what < 2) {
			model[i].is_private = !model[i].is_private;
			a.attributes = model[i].is_private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0;
			ret = ask(vm, KVM_SET_MEMORY_ATTRIBUTES, &a);
		} else if (what == 2) {
			ret = gw_fallocate(gmem, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, (int64_t)file_page(i) * PAGE, PAGE);
			model[i].in_private = 0;
		} else {
			continue;
		}
		if (ret)
			die("operation", ret);
		t->done++;
	}
	return NULL;
}

static unsigned convert_round(unsigned *seed)
{
	struct part part[2] = { { 0, (unsigned)rand_r(seed), 0 }, { HALF, (unsigned)rand_r(seed), 0 } };
	pthread_t other;

	pthread_create(&other, NULL, convert_part, &part[1]);
	convert_part(&part[0]);
	pthread_join(other, NULL);
	return part[0].done + part[1].done;
}

/* The guest writes a new stamp into some pages. */
static unsigned stamp_round(unsigned *seed)
{
	static uint32_t last = 0x1000;
	unsigned n = 0;

	for (unsigned i = 0; i < PAGES; i++) {
		if (rand_r(seed) & 3)
			continue;
		__atomic_store_n((uint32_t *)(void *)(ram + CMD + i * 4), ++last, __ATOMIC_SEQ_CST);
		*(model[i].is_private ? &model[i].in_private : &model[i].in_shared) = last;
		n++;
	}
	wait_iteration();
	memset(ram + CMD, 0, PAGES * 4);
	wait_iteration();
	return n;
}

static void set_may_fault(void)
{
	for (unsigned i = 0; i < PAGES; i++)
		atomic_fetch_add(&may_fault[i], 1);
}

static unsigned disturb(unsigned *seed)
{
	static unsigned turn;

	set_may_fault();
	switch (turn++ % 3) {
	case 0:
		slots(false);
		slots(true);
		break;
	case 1:
		/* The bytes go with the file. */
		gw_close(gmem);
		slots(false);
		open_file();
		slots(true);
		for (unsigned i = 0; i < PAGES; i++)
			model[i].in_private = 0;
		break;
	case 2:
		mprotect(shared, PAGES * PAGE, PROT_NONE);
		nanosleep(&(struct timespec){ .tv_nsec = (long)rand_r(seed) % 300000 }, NULL);
		mprotect(shared, PAGES * PAGE, PROT_READ | PROT_WRITE);
		break;
	}
	set_may_fault();
	return 1;
}

static void check_round(void)
{
	wait_iteration();
	for (unsigned v = 0; v < VCPUS && !atomic_load(&stop); v++)
		for (unsigned i = 0; i < PAGES; i++) {
			uint32_t want = model[i].is_private ? model[i].in_private : model[i].in_shared, got = peek(SEEN + (v * PAGES + i) * 4);

			if (got != want)
				complain("an old value", v, i, got, want);
		}
}

/* Nothing leaked, nothing is there twice in the file: pages that hold a stamp are present, and what was punched is not. */
static void check_presence(void)
{
	static char text[1 << 16];
	struct gw_map m = { .size = sizeof(text), .buf = (uintptr_t)text };
	unsigned long present = 0, least = 0;

	for (unsigned i = 0; i < PAGES; i++)
		least += model[i].in_private != 0;
	if (ask(vm, GW_MAP, &m))
		die("map", 0);
	for (const char *at = text; (at = strstr(at, "present_private=")); at++)
		present += strtoul(at + 16, NULL, 10);
	/* A page that was punched and read since is present and zero. */
	if (present < least || present > PAGES)
		complain("present pages", 0, 0, (uint32_t)present, (uint32_t)least);
	gw_fallocate(gmem, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, PAGES * PAGE);
	ask(vm, GW_MAP, &m);
	for (const char *at = text; (at = strstr(at, "present_private=")); at++)
		if (strtoul(at + 16, NULL, 10))
			complain("present after the last punch", 0, 0, 1, 0);
}

static void kick(int sig)
{
	(void)sig;
}

int main(int argc, char **argv)
{
	unsigned long want = argc > 1 ? strtoul(argv[1], NULL, 10) : 100000, done = 0;
	time_t until = time(NULL) + (argc > 2 ? atoi(argv[2]) : 60);
	struct kvm_userspace_memory_region region = { .memory_size = RAM };
	struct sigaction sa = { .sa_handler = kick };
	unsigned seed = 12345, rounds = 0;
	pthread_t thread[VCPUS];

	sigaction(SIGUSR1, &sa, NULL);
	sys = gw_open();
	vm = (int)gw_ioctl(sys, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
	ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	shared = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	region.userspace_addr = (uintptr_t)ram;
	if (vm < 0 || ask(vm, KVM_SET_USER_MEMORY_REGION, &region))
		die("VM", vm);
	open_file();
	slots(true);
	for (unsigned v = 0; v < VCPUS; v++)
		set_up_vcpu(v);
	printf("1..1\n");
	for (unsigned v = 0; v < VCPUS; v++)
		pthread_create(&thread[v], NULL, vcpu_thread, (void *)(uintptr_t)v);
	for (; (done < want || !want) && time(NULL) < until && !atomic_load(&bad) && !atomic_load(&stop); rounds++) {
		done += stamp_round(&seed);
		done += convert_round(&seed);
		check_round();
		done += convert_round(&seed);
		if (rounds % 8 == 7)
			done += disturb(&seed);
		check_round();
	}
	atomic_store(&stop, true);
	for (unsigned v = 0; v < VCPUS; v++) {
		__atomic_store_n(&run[v]->immediate_exit, 1, __ATOMIC_SEQ_CST);
		pthread_kill(thread[v], SIGUSR1);
		pthread_join(thread[v], NULL);
	}
	check_presence();
	for (unsigned v = 0; v < VCPUS; v++)
		gw_close(vcpu[v]);
	gw_close(gmem);
	gw_close(vm);
	gw_close(sys);
	printf("# %lu operations in %u rounds\n", done, rounds);
	if (done < want && !atomic_load(&bad))
		complain("too few operations in time", 0, 0, (uint32_t)done, (uint32_t)want);
	printf("%sok 1 - no vCPU acts on a page that was taken away\n", atomic_load(&bad) ? "not " : "");
	return atomic_load(&bad) ? 1 : 0;
}
