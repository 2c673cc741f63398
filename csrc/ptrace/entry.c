/* The handler's side: how a call that the tracer sent here is answered. */
#include "ptrace/ptrace.h"

#include <linux/seccomp.h>

/* As the kernel does for a handler with SA_ONSTACK, the guest's signal stack is used where it has one and is not on
 * it: the stack below a goroutine is too small for us. A system call leaves rcx and r11 undefined, and nothing else. */
#if defined(__x86_64__)
__asm__(".text\n"
	".globl traced_error\ntraced_error: mov %r11, %rax\n	jmp *%rcx\n"
	".globl traced_entry\ntraced_entry:\n"
	"	lea -128(%rsp), %rsp\n	pushfq\n	push %rbp\n	mov %rsp, %rbp\n"
	"	push %rcx\n	push %rdi\n	push %rsi\n	push %rdx\n	push %r8\n	push %r9\n	push %r10\n	push %r11\n	push %rbx\n"
	"	cld\n	sub $32, %rsp\n	movl $2, 8(%rsp)\n	xor %edi, %edi\n	mov %rsp, %rsi\n	mov $131, %eax\n	syscall\n"
	"	cmpl $0, 8(%rsp)\n	jne 1f\n	mov 16(%rsp), %rax\n	add (%rsp), %rax\n	mov %rax, %rsp\n"
	"1:	and $-16, %rsp\n	lea -72(%rbp), %rdi\n	call on_traced\n"
	"	mov -8(%rbp), %rcx\n	mov -16(%rbp), %rdi\n	mov -24(%rbp), %rsi\n	mov -32(%rbp), %rdx\n"
	"	mov -40(%rbp), %r8\n	mov -48(%rbp), %r9\n	mov -56(%rbp), %r10\n"
	"	mov %rbp, %rsp\n	pop %rbp\n	mov (%rsp), %r11\n	popfq\n	lea 128(%rsp), %rsp\n	jmp *%rcx\n");

long on_traced(const unsigned long *s);

/* s: rbx, r11, r10, r9, r8, rdx, rsi, rdi, rcx, rbp, flags, the red zone. */
long on_traced(const unsigned long *s)
{
	unsigned long a[6] = { s[7], s[6], s[5], s[2], s[4], s[3] }, pc = s[8];
	long nr = (int)s[1], r;
	uint32_t action = filter_run(nr, a, pc), what = action & SECCOMP_RET_ACTION_FULL;
	struct frame f; /* as far as it is looked at */

	f.regs[REG_RAX] = (unsigned long)nr;
	f.regs[REG_RBX] = s[0], f.regs[REG_RDX] = s[5], f.regs[REG_RSI] = s[6], f.regs[REG_RDI] = s[7], f.regs[REG_RBP] = s[9];
	f.regs[REG_RSP] = (unsigned long)(s + 11) + 128;
	if (action == SECCOMP_RET_ALLOW || what == SECCOMP_RET_LOG) {
		r = answer(nr, a, &f);
	} else if (what == SECCOMP_RET_ERRNO) {
		r = -(long)MIN(action & SECCOMP_RET_DATA, 4095);
	} else if (what == SECCOMP_RET_TRACE || what == SECCOMP_RET_USER_NOTIF) {
		r = -ENOSYS;
	} else { /* killed or trapped: by the kernel */
		long (*outside)(long, const unsigned long *) = (long (*)(long, const unsigned long *))PAST_PLAN;
		r = outside(nr, a);
	}
	if (self.patch)
		patch_site(pc, nr, &f);
	if (self.every)
		step_out();
	return r;
}

/* SIGSTOP cannot be blocked, and the tracer takes it away. A SIGCONT that somebody sends removes it, too: then it is
 * sent again. */
void step_out(void)
{
	volatile int seen = 0;
	struct { int signo, error, code, pad, pid, uid; const volatile int *value; char rest[96]; } info = { 0 };

	info.signo = SIGSTOP;
	info.code = STEP_OUT_CODE;
	info.value = &seen;
	while (!seen)
		SC4(__NR_rt_tgsigqueueinfo, sys_getpid(), sys_gettid(), SIGSTOP, &info);
}
#else
__asm__(".text\n.globl traced_entry\ntraced_entry: brk #1\n.globl traced_error\ntraced_error: brk #1\n");
void step_out(void) {}
#endif
