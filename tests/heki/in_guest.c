/* SPDX-License-Identifier: MIT */
/*
 * What busybox cannot do in a guest, as a static program.
 * in_guest kexec KERNEL LINE	starts another kernel by kexec, or says what failed
 * in_guest filter N		attaches N socket filters, each compiled by the kernel if it compiles BPF, and sees that they filter
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KEXEC_FILE_NO_INITRAMFS	4ul
#define REBOOT_KEXEC		0x45584543

static int start_kernel(const char *path, const char *line)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || syscall(SYS_kexec_file_load, fd, -1, strlen(line) + 1, line, KEXEC_FILE_NO_INITRAMFS)) {
		printf("kexec: not loaded: %s\n", strerror(errno));
		return 1;
	}
	printf("kexec: loaded\n");
	fflush(stdout);
	reboot(REBOOT_KEXEC);
	printf("kexec: %s\n", strerror(errno));
	return 1;
}

/* @pass: lets everything through, else nothing. What it compares is new each time, so is its code. */
static bool try_filter(unsigned k, bool pass)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_IMM, k), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, pass ? k : k + 1, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 65535), BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog program = { 4, code };
	char byte = 'x';
	int s[2];
	bool ok;

	if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, s))
		return false;
	ok = !setsockopt(s[1], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) && (send(s[0], &byte, 1, 0) == 1 || !pass) &&
	     (recv(s[1], &byte, 1, MSG_DONTWAIT) == 1) == pass;
	close(s[0]);
	close(s[1]);
	return ok;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "kexec"))
		return start_kernel(argv[2], argv[3]);
	if (argc != 3 || strcmp(argv[1], "filter"))
		return 2;
	for (unsigned i = 0; i < (unsigned)atoi(argv[2]); i++)
		if (!try_filter(i * 2654435761u, i & 1)) {
			printf("filter %u does not\n", i);
			return 1;
		}
	printf("filters filter\n");
	return 0;
}
