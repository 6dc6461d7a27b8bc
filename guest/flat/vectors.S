/* SPDX-License-Identifier: MIT */
/* Entry stubs of the exception handler, and the way to ring 3 and back. */
#if MODE == 64
	.code64
#define AX	%rax
#define PUSHA	push %rax; push %rcx; push %rdx; push %rbx; push %rbp; push %rsi; push %rdi; push %r8; push %r9; push %r10; \
		push %r11; push %r12; push %r13; push %r14; push %r15
#define POPA	pop %r15; pop %r14; pop %r13; pop %r12; pop %r11; pop %r10; pop %r9; pop %r8; pop %rdi; pop %rsi; pop %rbp; \
		pop %rbx; pop %rdx; pop %rcx; pop %rax
#else
	.code32
#define PUSHA	push %eax; push %ecx; push %edx; push %ebx; push %ebp; push %esi; push %edi
#define POPA	pop %edi; pop %esi; pop %ebp; pop %ebx; pop %edx; pop %ecx; pop %eax
#endif

/* Vectors with an error code: 8, 10-14, 17, 21, 29, 30. */
#define HAS_ERROR 0x60227d00

	.text
	.balign	16
	.globl	vectors
vectors:
	vec = 0
	.rept	256
	.balign	16
	.if	vec < 32 && ((HAS_ERROR >> (vec & 31)) & 1)
	.else
	push	$0
	.endif
	push	$vec
	jmp	common
	vec = vec + 1
	.endr

common:
	PUSHA
#if MODE == 64
	movq	%rsp, %rdi
	cld
	call	handle
	POPA
	addq	$16, %rsp
	iretq
#else
	push	%ds
	push	%es
	movw	$0x10, %ax
	movw	%ax, %ds
	movw	%ax, %es
	leal	8(%esp), %eax
	cld
	pushl	%eax
	call	handle
	addl	$4, %esp
	pop	%es
	pop	%ds
	POPA
	addl	$8, %esp
	iretl
#endif

	.globl	leave_user
/* INT 0x20 from ring 3: back to the caller of run_user(). */
leave_user:
#if MODE == 64
	movq	kernel_sp, %rsp
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	popfq
	ret
	.globl	enter_user
/* rdi: function */
enter_user:
	pushfq
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	movq	%rsp, kernel_sp
	movq	$0x9ffe0, %rax
	movq	$user_done, (%rax)
	pushq	$0x33
	push	%rax
	pushq	$0x3002			/* IOPL 3: tests use the debug port */
	pushq	$0x3b
	push	%rdi
	iretq
user_done:
	int	$0x20
	.data
	.globl	kernel_sp
kernel_sp: .quad 0
#else
	movw	$0x10, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movl	kernel_sp, %esp
	pop	%edi
	pop	%esi
	pop	%ebp
	pop	%ebx
	popfl
	ret
	.globl	enter_user
enter_user:
	movl	4(%esp), %ecx
	pushfl
	push	%ebx
	push	%ebp
	push	%esi
	push	%edi
	movl	%esp, kernel_sp
	movl	$0x9ffe0, %eax
	movl	$user_done, (%eax)
	movw	$0x23, %dx
	movw	%dx, %ds
	movw	%dx, %es
	pushl	$0x23
	push	%eax
	pushl	$0x3002
	pushl	$0x2b
	push	%ecx
	iretl
user_done:
	int	$0x20
	.data
	.globl	kernel_sp
kernel_sp: .long 0
#endif

	.section .note.GNU-stack, "", @progbits
