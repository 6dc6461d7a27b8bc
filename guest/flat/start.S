/* SPDX-License-Identifier: MIT */
/*
 * From the reset vector to main() in the mode the image is built for (MODE: 16, 32, 64). Memory below 640 KiB:
 *   0 .. 0xffff		image, IVT and real-mode stack (top 0xfe00)
 *   0x10000 .. 0x17fff		page tables (64-bit: made here; 32-bit: the test's own)
 *   0x18000 .. 0x8ffff		the tests'
 *   0x90000, 0x98000, 0xa0000	stack tops: main, ring 0 from the TSS, ring 3
 */
	.section .reset, "ax"
	.code16
	ljmp	$0xf000, $boot

	.text
	.globl	boot
boot:
	cli
	cld
	movw	$0xf000, %ax
	movw	%ax, %ds
	xorw	%ax, %ax
	movw	%ax, %es
	movw	%ax, %ss
	movw	$0xfe00, %sp
	xorw	%si, %si
	xorw	%di, %di
	movw	$0x8000, %cx
	rep movsw
	ljmp	$0, $in_ram
in_ram:
	movw	%ax, %ds
	movw	%ax, %fs
	movw	%ax, %gs
#if MODE == 16
	calll	main
	jmp	finished
#else
	lgdtl	boot_gdt_ptr
	movl	%cr0, %eax
	andl	$0x9fffffff, %eax		/* caches on, as firmware leaves them */
	orl	$0x21, %eax			/* PE, NE */
	movl	%eax, %cr0
	ljmpl	$0x08, $in_protected
	.code32
in_protected:
	movw	$0x10, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	%ax, %fs
	movw	%ax, %gs
	movl	$0x90000, %esp
#if MODE == 32
	call	main
	jmp	finished
#else
	/* The first 2 MiB in 4 KiB pages at 0x13000, the rest of 1 GiB in 2 MiB pages; 3 GiB to 4 GiB too, for the APIC. */
	movl	$0x11007, 0x10000
	movl	$0x12007, 0x11000
	movl	$0x14007, 0x11018
	movl	$0x13007, 0x12000
	xorl	%ecx, %ecx
1:	movl	%ecx, %eax
	shll	$12, %eax
	orl	$7, %eax
	movl	%eax, 0x13000(,%ecx,8)
	incl	%ecx
	cmpl	$512, %ecx
	jb	1b
	movl	$1, %ecx
2:	movl	%ecx, %eax
	shll	$21, %eax
	orl	$0x87, %eax
	movl	%eax, 0x12000(,%ecx,8)
	incl	%ecx
	cmpl	$512, %ecx
	jb	2b
	xorl	%ecx, %ecx
3:	movl	%ecx, %eax
	shll	$21, %eax
	addl	$0xc0000097, %eax		/* uncached */
	movl	%eax, 0x14000(,%ecx,8)
	incl	%ecx
	cmpl	$512, %ecx
	jb	3b
	movl	%cr4, %eax
	orl	$0x620, %eax			/* PAE, OSFXSR, OSXMMEXCPT */
	movl	%eax, %cr4
	movl	$0x10000, %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx
	rdmsr
	orl	$0x901, %eax			/* SCE, LME, NXE */
	wrmsr
	movl	%cr0, %eax
	orl	$0x80010000, %eax		/* PG, WP */
	movl	%eax, %cr0
	ljmp	$0x18, $in_long
	.code64
in_long:
	movl	$0x90000, %esp
	call	main
	jmp	finished
#endif
#endif

/* main() has returned: tell the machine and stop. */
	.globl	finished
finished:
	movb	failures, %al
	testb	%al, %al
	jz	4f
	movb	$1, %al
4:	outb	%al, $0xf4
5:	cli
	hlt
	jmp	5b

	.data
	.balign	8
	.globl	boot_gdt
boot_gdt:
	.quad	0
	.quad	0x00cf9b000000ffff	/* 08 code, 32 bits */
	.quad	0x00cf93000000ffff	/* 10 data */
	.quad	0x00af9b000000ffff	/* 18 code, 64 bits */
boot_gdt_ptr:
	.word	. - boot_gdt - 1
	.long	boot_gdt

	.section .note.GNU-stack, "", @progbits
