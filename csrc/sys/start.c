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

void sys_start(long *stack)
{
	int argc = (int)stack[0];
	char **argv = (char **)(stack + 1);
	char **envp = argv + argc + 1;
	char **end = envp;

	while (*end)
		end++;
	sys_auxv = (unsigned long *)(end + 1);
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
