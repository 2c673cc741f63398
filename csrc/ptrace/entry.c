/* The handler's side: how a call that the tracer sent here is answered. */
#include "ptrace/ptrace.h"

#include <linux/seccomp.h>

/* As the kernel does for a handler with SA_ONSTACK, the guest's signal stack is used where it has one and is not on
 * it: the stack below a goroutine is too small for us. */
#if defined(__x86_64__)
/* A system call leaves rcx and r11 undefined, and nothing else. */
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
		long (*outside)(long, const unsigned long *) = (long (*)(long, const unsigned long *))OUTSIDE;
		r = outside(nr, a);
	}
	if (self.patch)
		patch_site(pc, nr, &f);
	if (self.every)
		step_out();
	return r;
}
#else
/* Here a system call leaves all registers but x0 as they are, so that none is free to jump back by. What a signal's
 * frame would hold is put together, and rt_sigreturn restores it. Below the guest's stack pointer are the tracer's four
 * words; on its signal stack, or below them, the frame, which has to have the vector registers. */
__asm__(".text\n"
	".globl traced_error\ntraced_error: nop\n" /* another address, for the tracer */
	".globl traced_entry\ntraced_entry:\n	sub sp, sp, #288\n"
	"	stp x0, x1, [sp]\n	stp x2, x3, [sp, #16]\n	stp x4, x5, [sp, #32]\n	stp x6, x7, [sp, #48]\n"
	"	stp x8, x9, [sp, #64]\n	stp x10, x11, [sp, #80]\n	stp x12, x13, [sp, #96]\n	stp x14, x15, [sp, #112]\n"
	"	stp x16, x17, [sp, #128]\n	stp x18, x19, [sp, #144]\n	stp x20, x21, [sp, #160]\n	stp x22, x23, [sp, #176]\n"
	"	stp x24, x25, [sp, #192]\n	stp x26, x27, [sp, #208]\n	stp x28, x29, [sp, #224]\n	str x30, [sp, #240]\n"
	"	mov x19, sp\n	mov x9, #2\n	str x9, [x19, #264]\n"
	"	mov x0, #0\n	add x1, x19, #256\n	mov x8, #132\n	svc #0\n" /* sigaltstack */
	"	mov x10, sp\n	ldr w9, [x19, #264]\n	cbnz w9, 1f\n	ldr x10, [x19, #256]\n	ldr x11, [x19, #272]\n	add x10, x10, x11\n"
	"1:	sub x10, x10, #1136\n	and sp, x10, #-16\n	add x9, sp, #592\n"
	"	mov w10, #0x8001\n	movk w10, #0x4650, lsl #16\n	mov w11, #528\n	stp w10, w11, [x9]\n" /* fpsimd_context */
	"	mrs x10, fpsr\n	mrs x11, fpcr\n	stp w10, w11, [x9, #8]\n"
	"	stp q0, q1, [x9, #16]\n	stp q2, q3, [x9, #48]\n	stp q4, q5, [x9, #80]\n	stp q6, q7, [x9, #112]\n"
	"	stp q8, q9, [x9, #144]\n	stp q10, q11, [x9, #176]\n	stp q12, q13, [x9, #208]\n	stp q14, q15, [x9, #240]\n"
	"	stp q16, q17, [x9, #272]\n	stp q18, q19, [x9, #304]\n	stp q20, q21, [x9, #336]\n	stp q22, q23, [x9, #368]\n"
	"	stp q24, q25, [x9, #400]\n	stp q26, q27, [x9, #432]\n	stp q28, q29, [x9, #464]\n	stp q30, q31, [x9, #496]\n"
	"	add x9, x9, #528\n	stp xzr, xzr, [x9]\n"
	"	mov x0, x19\n	add x1, sp, #128\n	mov x29, #0\n	bl on_traced\n	mov x8, #139\n	svc #0\n	brk #1\n");

_Static_assert(__NR_sigaltstack == 132 && __NR_rt_sigreturn == 139, "as above");
_Static_assert(offsetof(struct frame, pstate) + sizeof(long) == 456, "what follows is 16-aligned, at 464");

void on_traced(const unsigned long *s, struct frame *f);

/* s: x0 to x30, a word, the signal stack, a word; pc, pstate, x0, an error that the tracer has decided on. */
void on_traced(const unsigned long *s, struct frame *f)
{
	unsigned long a[6] = { s[38], s[1], s[2], s[3], s[4], s[5] }, pc = s[36];
	long nr = (int)s[8], r = (long)s[39];
	uint32_t action, what;

	f->flags = f->fault_address = 0;
	f->link = NULL;
	f->stack.sp = (void *)s[32];
	f->stack.flags = (int)s[33];
	f->stack.size = s[34];
	memcpy(f->regs, s, sizeof f->regs);
	f->regs[0] = a[0];
	f->sp = (unsigned long)(s + 40);
	f->pc = pc;
	f->pstate = s[37];
	if (!r) {
		action = filter_run(nr, a, pc);
		what = action & SECCOMP_RET_ACTION_FULL;
		if (action == SECCOMP_RET_ALLOW || what == SECCOMP_RET_LOG) {
			r = answer(nr, a, f);
		} else if (what == SECCOMP_RET_ERRNO) {
			r = -(long)MIN(action & SECCOMP_RET_DATA, 4095);
		} else if (what == SECCOMP_RET_TRACE || what == SECCOMP_RET_USER_NOTIF) {
			r = -ENOSYS;
		} else { /* killed or trapped: by the kernel */
			long (*outside)(long, const unsigned long *) = (long (*)(long, const unsigned long *))OUTSIDE;
			r = outside(nr, a);
		}
	}
	FRAME_RESULT(f) = (unsigned long)r;
	sys_sigprocmask(0, NULL, &f->mask);
	if (self.every)
		step_out();
}
#endif

void step_out(void)
{
	step_out_of(NULL);
}

/* SIGSTOP cannot be blocked, and the tracer takes it away. A SIGCONT that somebody sends removes it, too: then it is
 * sent again. */
void step_out_of(const struct compat_frame *f)
{
	volatile int seen = 0;
	struct stepping info = { 0 };

	info.signo = SIGSTOP;
	info.code = STEP_OUT_CODE;
	info.value = &seen;
	info.frame = f;
	while (!seen)
		SC4(__NR_rt_tgsigqueueinfo, sys_getpid(), sys_gettid(), SIGSTOP, &info);
}
