/* SPDX-License-Identifier: MIT */
/* Other processes: children by fork and vfork, programs that are started, and descriptors that are sent. */
#include "shim_test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int status_of(int pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
}

static void a_child_cannot_use_the_parents_vm_but_can_make_its_own(void **state)
{
	struct machine m;
	int pid;

	machine_start(&m, out_then_hlt, sizeof(out_then_hlt));
	pid = fork();
	if (!pid) {
		struct kvm_regs regs;
		struct machine own;

		if (ioctl(m.vcpu, KVM_GET_REGS, &regs) != -1 || errno != EIO)
			_exit(1);
		if (close(m.vcpu) || close(m.vm) || close(m.kvm))
			_exit(2);
		machine_start(&own, out_then_hlt, sizeof(out_then_hlt));
		if (ioctl(own.vcpu, KVM_RUN, 0) || own.run->exit_reason != KVM_EXIT_IO)
			_exit(3);
		machine_end(&own);
		_exit(0);
	}
	assert_int_equal(status_of(pid), 0);
	assert_int_equal(ioctl(m.vcpu, KVM_RUN, 0), 0);
	assert_int_equal(m.run->exit_reason, KVM_EXIT_IO);
	machine_end(&m);
}

static void a_child_that_shares_memory_leaves_the_vm_alone(void **state)
{
	struct machine m;
	int pid;

	machine_start(&m, out_then_hlt, sizeof(out_then_hlt));
	pid = vfork();
	if (!pid) {
		close(m.vcpu);
		close(m.vm);
		_exit(0);
	}
	assert_int_equal(status_of(pid), 0);
	assert_int_equal(ioctl(m.vcpu, KVM_RUN, 0), 0);
	machine_end(&m);
}

static void send_fd(int sock, int fd)
{
	union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } c;
	struct iovec iov = { .iov_base = (char[]){ 'x' }, .iov_len = 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c) };

	c.head = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) };
	memcpy(CMSG_DATA(&c.head), &fd, sizeof(fd));
	assert_int_equal(sendmsg(sock, &msg, 0), 1);
}

static int receive_fd(int sock)
{
	union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } c;
	char byte;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c) };
	int fd = -1;

	if (recvmsg(sock, &msg, 0) == 1 && msg.msg_controllen)
		memcpy(&fd, CMSG_DATA(&c.head), sizeof(fd));
	return fd;
}

/* The other process sees the shared page of the vCPU, and is told that the VM is not its own. */
static int use_received(int sock)
{
	int vm = receive_fd(sock), vcpu = receive_fd(sock);
	struct kvm_run *run = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);

	if (vm < 0 || vcpu < 0 || run == MAP_FAILED)
		return 1;
	run->immediate_exit = 1;
	if (ioctl(vm, KVM_CREATE_VCPU, 1) != -1 || errno != EIO)
		return 2;
	if (ioctl(vcpu, KVM_RUN, 0) != -1 || errno != EIO)
		return 3;
	return close(vcpu) || close(vm) ? 4 : 0;
}

static void a_sent_vcpu_is_memory_to_another_process(void **state)
{
	struct machine m;
	int s[2], pid;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
	pid = fork();
	if (!pid)
		_exit(use_received(s[1]));
	machine_start(&m, spin, sizeof(spin));
	send_fd(s[0], m.vm);
	send_fd(s[0], m.vcpu);
	assert_int_equal(status_of(pid), 0);
	assert_int_equal(ioctl(m.vcpu, KVM_RUN, 0), -1);
	assert_int_equal(errno, EINTR);
	machine_end(&m);
	close(s[0]);
	close(s[1]);
}

/* Back in the same process it is the VM under a new number, whatever became of the old one. */
static void a_vm_sent_to_itself_is_the_same_vm(void **state)
{
	int kvm = open_kvm(), vm = ioctl(kvm, KVM_CREATE_VM, 0), vcpu = ioctl(vm, KVM_CREATE_VCPU, 5), s[2], again;

	assert_true(vcpu >= 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
	send_fd(s[0], vm);
	again = receive_fd(s[1]);
	assert_int_not_equal(again, vm);
	close(vm);
	assert_int_equal(ioctl(again, KVM_CREATE_VCPU, 5), -1);
	assert_int_equal(errno, EEXIST);
	close(again);
	close(vcpu);
	close(kvm);
	close(s[0]);
	close(s[1]);
}

/* After exec the descriptors are gone, as their close-on-exec flags say; those without it are another program's memory files. */
static void a_started_program_gets_no_vm(void **state)
{
	int kvm = open_kvm(), vm = ioctl(kvm, KVM_CREATE_VM, 0);
	char command[128];

	snprintf(command, sizeof(command), "! [ -e /proc/self/fd/%d ]", vm);
	assert_int_equal(system(command), 0);
	close(vm);
	close(kvm);
}

static void programs_can_be_started_from_a_client(void **state)
{
	struct machine m;

	machine_start(&m, out_then_hlt, sizeof(out_then_hlt));
	assert_int_equal(system("exit 7"), 7 << 8);
	assert_int_equal(ioctl(m.vcpu, KVM_RUN, 0), 0);
	machine_end(&m);
}

const struct CMUnitTest process_tests[] = {
	T(a_child_cannot_use_the_parents_vm_but_can_make_its_own),
	T(a_child_that_shares_memory_leaves_the_vm_alone), T(programs_can_be_started_from_a_client),
	T(a_sent_vcpu_is_memory_to_another_process), T(a_vm_sent_to_itself_is_the_same_vm),
	T(a_started_program_gets_no_vm),
};
const unsigned n_process_tests = sizeof(process_tests) / sizeof(process_tests[0]);
