/* The way from the kernel to main. A program with an entry of its own (a loader) overrides the weak _start. */
#include "sys/sys.h"

unsigned long *sys_auxv;

void sys_exit(int status)
{
	for (;;)
		SC1(__NR_exit_group, status);
}

#ifndef UDK_HOSTED
NORETURN void sys_start(long *stack);

#ifdef __PIE__
#include <linux/elf.h>

#ifdef __x86_64__
#define RELATIVE 8
#else
#define RELATIVE 1027
#endif
extern const Elf64_Dyn _DYNAMIC[] __attribute__((visibility("hidden")));
extern const char __ehdr_start[] __attribute__((visibility("hidden")));

/* Pointers in data, which nobody else sets for a program that has no loader but itself. */
static void relocate(void)
{
	const Elf64_Rela *r = NULL;
	unsigned long base = (unsigned long)__ehdr_start, size = 0;

	for (const Elf64_Dyn *d = _DYNAMIC; d->d_tag != DT_NULL; d++) {
		if (d->d_tag == DT_RELA)
			r = (const Elf64_Rela *)(base + d->d_un.d_ptr);
		if (d->d_tag == DT_RELASZ)
			size = d->d_un.d_val;
	}
	for (unsigned long i = 0; r && i < size / sizeof *r; i++)
		if (ELF64_R_TYPE(r[i].r_info) == RELATIVE)
			*(unsigned long *)(base + r[i].r_offset) = base + (unsigned long)r[i].r_addend;
}
#else
static void relocate(void)
{
}
#endif

void sys_start(long *stack)
{
	int argc = (int)stack[0];
	char **argv = (char **)(stack + 1);
	char **envp = argv + argc + 1;
	char **end = envp;

	while (*end)
		end++;
	sys_auxv = (unsigned long *)(end + 1);
	relocate();
	sys_exit(main(argc, argv, envp));
}

#if defined(__x86_64__)
__asm__(".text\n.weak _start\n.type _start,@function\n_start:\n"
	"	xor %ebp, %ebp\n	mov %rsp, %rdi\n	and $-16, %rsp\n	call sys_start\n	hlt\n");
#else
__asm__(".text\n.weak _start\n.type _start,%function\n_start:\n"
	"	mov x29, #0\n	mov x30, #0\n	mov x0, sp\n	and sp, x0, #-16\n	bl sys_start\n	brk #1\n");
#endif
#endif
