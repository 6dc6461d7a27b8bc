/* SPDX-License-Identifier: MIT */
/*
 * irqfds and ioeventfds. irqfds are waited for by one thread per VM, made with the first of them; ioeventfds are written by
 * the vCPU's thread in place of an exit.
 *
 * We hold duplicates of the client's eventfds. An irqfd goes when the last descriptor that is not ours is closed, in this process
 * or another, as in the kernel, within a second or two (irqfd_close.c). Two descriptors are the same eventfd when /proc says the
 * same eventfd-id.
 *
 * The thread knows an irqfd by number, never by pointer, and looks it up under io_lock: it may be gone.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/log.h"
#include "base/trace.h"
#include "vm/vm.h"

struct vm_ioeventfd {
	struct vm_ioeventfd *next;
	int64_t id;
	int fd;
	uint64_t addr, datamatch;
	uint32_t len;
	bool pio, is_wildcard;
};

struct vm_irqfd {
	struct vm_irqfd *next;
	uint64_t number;
	int64_t id;
	int fd;				/* our duplicate; -1: given away, only another process has the eventfd */
	int client_fd;			/* where the client had it last */
	uint32_t gsi;
	bool is_resample;
};

struct vm_resampler {
	struct vm_resampler *next;
	uint64_t number;		/* the irqfd's */
	uint32_t gsi;
	int fd;
};

#define SWEEP_MS	1000	/* how often to look for irqfds whose eventfd is gone */

/* -EBADF no descriptor, -EINVAL no eventfd, else its identity. Any VM may use an eventfd, so it is the process's business. */
int64_t vm_eventfd_id(int fd)
{
	char path[48], line[128];
	long long id = -EINVAL;
	FILE *f;

	if (fd < 0 || fcntl(fd, F_GETFD) < 0)
		return -EBADF;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "re");
	if (!f)
		return errno == ENOMEM ? -ENOMEM : (int64_t)fd;	/* no /proc: the number must do */
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, "eventfd-count:", 14) && id < 0)
			id = (long long)fd + (1ll << 32);	/* kernels before 5.2 have no id line */
		if (sscanf(line, "eventfd-id: %lld", &id) == 1)
			break;
	}
	fclose(f);
	return id;
}

/* eventfds in use as irqfds anywhere in this process: the same one twice is -EBUSY, whatever the VM. */
#define MAX_BUSY 4096
static pthread_mutex_t busy_lock = PTHREAD_MUTEX_INITIALIZER;
static int64_t busy[MAX_BUSY];
static unsigned n_busy;

static int busy_add(int64_t id)
{
	int err = 0;

	pthread_mutex_lock(&busy_lock);
	for (unsigned i = 0; i < n_busy; i++)
		if (busy[i] == id)
			err = -EBUSY;
	if (!err && n_busy == MAX_BUSY)
		err = -ENOMEM;
	if (!err)
		busy[n_busy++] = id;
	pthread_mutex_unlock(&busy_lock);
	return err;
}

static void busy_remove(int64_t id)
{
	pthread_mutex_lock(&busy_lock);
	for (unsigned i = 0; i < n_busy; i++) {
		if (busy[i] == id) {
			busy[i] = busy[--n_busy];
			break;
		}
	}
	pthread_mutex_unlock(&busy_lock);
}

/* ---- irqfd ---------------------------------------------------------------------------------------------------------- */

/* Take the count without ever blocking: someone else may have read it. */
static bool consume(int fd)
{
	uint64_t count;
	struct iovec iov = { &count, sizeof(count) };
	struct pollfd p = { .fd = fd, .events = POLLIN };

	if (preadv2(fd, &iov, 1, -1, RWF_NOWAIT) == sizeof(count))
		return true;
	if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL)
		return false;
	return poll(&p, 1, 0) == 1 && p.revents & POLLIN && read(fd, &count, sizeof(count)) == sizeof(count);
}

static void fire(struct vm *vm, const struct vm_irqfd *f)
{
	int status;

	/* The device has written guest memory before it signalled. */
	atomic_fetch_add(&vm->touched, 1);
	if (f->is_resample) {
		status = dev_irq_set_line(vm->irqchip, DEV_IRQ_RESAMPLE, f->gsi, true, false);
	} else {
		status = dev_irq_set_line(vm->irqchip, DEV_IRQ_USER, f->gsi, true, false);
		dev_irq_set_line(vm->irqchip, DEV_IRQ_USER, f->gsi, false, false);
	}
	gw_trace(irqfd, -1, 0, f->gsi, status);
}

static void handle(struct vm *vm, uint64_t number)
{
	pthread_mutex_lock(&vm->io_lock);
	for (struct vm_irqfd *f = vm->irqfds; f; f = f->next) {
		if (f->number != number)
			continue;
		if (f->fd < 0 || consume(f->fd))
			fire(vm, f);
		break;
	}
	pthread_mutex_unlock(&vm->io_lock);
}

static void sweep(struct vm *vm);

static void *thread_main(void *opaque)
{
	struct vm *vm = opaque;
	struct epoll_event ev[16];
	time_t swept = 0;

	for (;;) {
		int n = epoll_wait(vm->epoll_fd, ev, 16, SWEEP_MS);
		struct timespec now;

		clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
		if (now.tv_sec != swept) {
			swept = now.tv_sec;
			pthread_mutex_lock(&vm->io_lock);
			sweep(vm);
			pthread_mutex_unlock(&vm->io_lock);
		}
		if (n < 0 && errno != EINTR)
			return NULL;
		for (int i = 0; i < n; i++) {
			if (!ev[i].data.u64)
				return NULL;	/* the stop descriptor */
			handle(vm, ev[i].data.u64);
		}
	}
}

/* With io_lock held. */
static int start_thread(struct vm *vm)
{
	struct epoll_event stop = { .events = EPOLLIN, .data.u64 = 0 };
	sigset_t all, old;
	int err;

	if (vm->has_epoll_thread)
		return 0;
	vm->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	vm->epoll_stop_fd = eventfd(0, EFD_CLOEXEC);
	if (vm->epoll_fd < 0 || vm->epoll_stop_fd < 0) {
		err = -errno;
		goto close_fds;
	}
	if (epoll_ctl(vm->epoll_fd, EPOLL_CTL_ADD, vm->epoll_stop_fd, &stop) < 0) {
		err = -errno;
		goto close_fds;
	}
	/* The client's handlers are not for our threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = -pthread_create(&vm->epoll_thread, NULL, thread_main, vm);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err)
		goto close_fds;
	vm->has_epoll_thread = true;
	return 0;
close_fds:
	if (vm->epoll_fd >= 0)
		close(vm->epoll_fd);
	if (vm->epoll_stop_fd >= 0)
		close(vm->epoll_stop_fd);
	vm->epoll_fd = vm->epoll_stop_fd = -1;
	return err;
}

static int add_resampler(struct vm *vm, const struct vm_irqfd *f, int resamplefd)
{
	struct vm_resampler *r;
	int64_t id = vm_eventfd_id(resamplefd);
	int err;

	if (id < 0)
		return (int)id;
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->number = f->number;
	r->gsi = f->gsi;
	r->fd = vm_ours_dup(resamplefd);
	if (r->fd < 0) {
		err = r->fd;
		free(r);
		return err;
	}
	pthread_mutex_lock(&vm->resample_lock);
	r->next = vm->resamplers;
	vm->resamplers = r;
	pthread_mutex_unlock(&vm->resample_lock);
	dev_irq_set_resample(vm->irqchip, f->gsi, 1);
	return 0;
}

static void remove_resampler(struct vm *vm, uint64_t number)
{
	struct vm_resampler **p, *r = NULL;

	pthread_mutex_lock(&vm->resample_lock);
	for (p = &vm->resamplers; *p; p = &(*p)->next) {
		if ((*p)->number == number) {
			r = *p;
			*p = r->next;
			break;
		}
	}
	pthread_mutex_unlock(&vm->resample_lock);
	if (!r)
		return;
	dev_irq_set_resample(vm->irqchip, r->gsi, -1);
	vm_ours_close(r->fd);
	free(r);
}

void vm_eoi_ack(struct vm *vm, uint32_t gsi)
{
	const uint64_t one = 1;

	pthread_mutex_lock(&vm->resample_lock);
	for (struct vm_resampler *r = vm->resamplers; r; r = r->next) {
		if (r->gsi != gsi)
			continue;
		if (write(r->fd, &one, sizeof(one)) < 0)
			gw_log(GW_LOG_DEBUG, "resamplefd of GSI %u: %s", gsi, strerror(errno));
	}
	pthread_mutex_unlock(&vm->resample_lock);
}

static void irqfd_free(struct vm *vm, struct vm_irqfd *f)
{
	if (f->is_resample)
		remove_resampler(vm, f->number);
	busy_remove(f->id);
	if (f->fd >= 0) {
		epoll_ctl(vm->epoll_fd, EPOLL_CTL_DEL, f->fd, NULL);
		vm_ours_close(f->fd);
	}
	free(f);
}

/*
 * Is anybody left who could signal it? When this process has no descriptor of its own any more, ours is closed, and epoll keeps the
 * eventfd while another process has it; from then on events are edges, because nobody here can take the count.
 */
static bool is_left(struct vm *vm, struct vm_irqfd *f)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLET, .data.u64 = f->number };

	if (f->fd >= 0) {
		if (vm_ours_has_client(f->fd, &f->client_fd) || epoll_ctl(vm->epoll_fd, EPOLL_CTL_MOD, f->fd, &ev))
			return true;
		vm_ours_close(f->fd);
		f->fd = -1;
	}
	return vm_epoll_has(vm->epoll_fd, f->number);
}

/* With io_lock held. */
static void sweep(struct vm *vm)
{
	for (struct vm_irqfd **p = &vm->irqfds, *f; (f = *p);) {
		if (is_left(vm, f)) {
			p = &f->next;
			continue;
		}
		gw_trace(irqfd, -1, 0, f->gsi, -ENOENT);
		*p = f->next;
		irqfd_free(vm, f);
	}
}

/* With io_lock held. */
static int irqfd_assign(struct vm *vm, const struct kvm_irqfd *args, int64_t id)
{
	struct epoll_event ev = { .events = EPOLLIN };
	struct vm_irqfd *f = calloc(1, sizeof(*f));
	int err = f ? start_thread(vm) : -ENOMEM;

	if (err)
		goto free_f;
	f->id = id;
	f->gsi = args->gsi;
	f->number = ++vm->next_irqfd;
	f->client_fd = (int)args->fd;
	err = busy_add(id);
	if (err == -EBUSY) {
		/* Perhaps the name of one that is gone, and nobody has looked yet. */
		sweep(vm);
		err = busy_add(id);
	}
	if (err)
		goto free_f;
	f->fd = vm_ours_dup((int)args->fd);
	if (f->fd < 0) {
		err = f->fd;
		goto not_busy;
	}
	if (args->flags & KVM_IRQFD_FLAG_RESAMPLE) {
		err = add_resampler(vm, f, (int)args->resamplefd);
		if (err)
			goto close_fd;
		f->is_resample = true;
	}
	ev.data.u64 = f->number;
	if (epoll_ctl(vm->epoll_fd, EPOLL_CTL_ADD, f->fd, &ev) < 0) {
		err = -errno;
		goto no_resampler;
	}
	f->next = vm->irqfds;
	vm->irqfds = f;
	return 0;
no_resampler:
	remove_resampler(vm, f->number);
close_fd:
	vm_ours_close(f->fd);
not_busy:
	busy_remove(id);
free_f:
	free(f);
	return err;
}

/* With io_lock held. */
static void irqfd_deassign(struct vm *vm, int64_t id, uint32_t gsi)
{
	for (struct vm_irqfd **p = &vm->irqfds, *f; (f = *p);) {
		if (f->id != id || f->gsi != gsi) {
			p = &f->next;
			continue;
		}
		*p = f->next;
		irqfd_free(vm, f);
	}
}

int vm_irqfd(struct vm *vm, const struct kvm_irqfd *args)
{
	struct dev_irqchip *chip;
	int64_t id;
	int err = 0;

	if (args->flags & ~(uint32_t)(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE))
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	chip = vm->irqchip;
	pthread_mutex_unlock(&vm->lock);
	if (!(args->flags & KVM_IRQFD_FLAG_DEASSIGN) &&
	    (!chip || (args->flags & KVM_IRQFD_FLAG_RESAMPLE && dev_irqchip_mode(chip) != DEV_IRQCHIP_FULL)))
		return -EINVAL;
	id = vm_eventfd_id((int)args->fd);
	if (id < 0)
		return (int)id;
	pthread_mutex_lock(&vm->io_lock);
	if (args->flags & KVM_IRQFD_FLAG_DEASSIGN)
		irqfd_deassign(vm, id, args->gsi);
	else
		err = irqfd_assign(vm, args, id);
	pthread_mutex_unlock(&vm->io_lock);
	return err;
}

/* ---- ioeventfd -------------------------------------------------------------------------------------------------------- */

static bool collides(const struct vm_ioeventfd *a, const struct vm_ioeventfd *b)
{
	return a->pio == b->pio && a->addr == b->addr && (!a->len || !b->len || a->len == b->len) &&
	       (a->is_wildcard || b->is_wildcard || a->datamatch == b->datamatch);
}

static int ioeventfd_assign(struct vm *vm, const struct vm_ioeventfd *want, int fd)
{
	struct vm_ioeventfd *e;
	int err;

	for (e = vm->ioeventfds; e; e = e->next)
		if (collides(e, want))
			return -EEXIST;
	e = malloc(sizeof(*e));
	if (!e)
		return -ENOMEM;
	*e = *want;
	e->fd = vm_ours_dup(fd);
	if (e->fd < 0) {
		err = e->fd;
		free(e);
		return err;
	}
	e->next = vm->ioeventfds;
	vm->ioeventfds = e;
	atomic_fetch_add(&vm->n_ioeventfds, 1);
	return 0;
}

static int ioeventfd_deassign(struct vm *vm, const struct vm_ioeventfd *want)
{
	for (struct vm_ioeventfd **p = &vm->ioeventfds, *e; (e = *p); p = &e->next) {
		if (e->pio != want->pio || e->addr != want->addr || e->len != want->len || e->id != want->id ||
		    e->is_wildcard != want->is_wildcard || (!e->is_wildcard && e->datamatch != want->datamatch))
			continue;
		*p = e->next;
		vm_ours_close(e->fd);
		free(e);
		atomic_fetch_sub(&vm->n_ioeventfds, 1);
		return 0;
	}
	return -ENOENT;
}

int vm_ioeventfd(struct vm *vm, const struct kvm_ioeventfd *args)
{
	struct vm_ioeventfd want = {
		.addr = args->addr, .len = args->len, .datamatch = args->datamatch,
		.pio = args->flags & KVM_IOEVENTFD_FLAG_PIO,
		.is_wildcard = !(args->flags & KVM_IOEVENTFD_FLAG_DATAMATCH),
	};
	int err;

	if (args->len > 8 || !(BIT(args->len) & (BIT(0) | BIT(1) | BIT(2) | BIT(4) | BIT(8))))
		return -EINVAL;
	if (args->addr + args->len < args->addr)
		return -EINVAL;
	if (args->flags & ~(uint32_t)(KVM_IOEVENTFD_FLAG_DATAMATCH | KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DEASSIGN))
		return -EINVAL;
	if (!args->len && args->flags & KVM_IOEVENTFD_FLAG_DATAMATCH)
		return -EINVAL;
	want.id = vm_eventfd_id(args->fd);
	if (want.id < 0)
		return (int)want.id;
	pthread_mutex_lock(&vm->io_lock);
	if (args->flags & KVM_IOEVENTFD_FLAG_DEASSIGN)
		err = ioeventfd_deassign(vm, &want);
	else
		err = ioeventfd_assign(vm, &want, args->fd);
	pthread_mutex_unlock(&vm->io_lock);
	return err;
}

bool vm_ioeventfd_write(struct vm *vm, bool pio, uint64_t addr, unsigned len, const void *data)
{
	const uint64_t one = 1;
	bool taken = false;
	uint64_t value = 0;

	if (likely(!atomic_load_explicit(&vm->n_ioeventfds, memory_order_relaxed)) || len > 8)
		return false;
	memcpy(&value, data, len);
	pthread_mutex_lock(&vm->io_lock);
	for (const struct vm_ioeventfd *e = vm->ioeventfds; e && !taken; e = e->next) {
		if (e->pio != pio || e->addr != addr || (e->len && e->len != len) || (!e->is_wildcard && e->datamatch != value))
			continue;
		taken = true;
		if (write(e->fd, &one, sizeof(one)) < 0)
			gw_log(GW_LOG_DEBUG, "ioeventfd at %llx: %s", (unsigned long long)addr, strerror(errno));
	}
	pthread_mutex_unlock(&vm->io_lock);
	if (taken)
		gw_trace(ioeventfd, -1, 0, pio, (unsigned long long)addr, len);
	return taken;
}

/* ---- the end ---------------------------------------------------------------------------------------------------------- */

void vm_eventfd_end(struct vm *vm)
{
	const uint64_t one = 1;

	if (vm->has_epoll_thread) {
		if (write(vm->epoll_stop_fd, &one, sizeof(one)) == sizeof(one))
			pthread_join(vm->epoll_thread, NULL);
	}
	for (struct vm_irqfd *f; (f = vm->irqfds);) {
		vm->irqfds = f->next;
		irqfd_free(vm, f);
	}
	for (struct vm_ioeventfd *e; (e = vm->ioeventfds);) {
		vm->ioeventfds = e->next;
		vm_ours_close(e->fd);
		free(e);
	}
	if (vm->has_epoll_thread) {
		close(vm->epoll_fd);
		close(vm->epoll_stop_fd);
	}
}
