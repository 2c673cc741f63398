/* The way of a 32-bit program's call in and out of the handler. */
#include "ptrace/i386.h"
#include "ptrace/ptrace.h"

#include <linux/audit.h>
#include <linux/seccomp.h>

volatile int compat_deferred;

#if defined(__x86_64__)
/* The frame is on the guest's stack, where a 32-bit program has no red zone; C runs there too, or on the guest's signal
 * stack if that is larger than the smallest. Signals of the guest are kept back by the tracer while a thread is here:
 * their frames would be 32-bit ones. It takes a thread to be out from compat_exit on. */
__asm__(".text\n"
	".globl compat_entry\ncompat_entry:\n"
	"	cld\n	and $-16, %rsp\n	push %r13\n	push %r10\n	push %r11\n	push %r12\n	push %r9\n	push %r8\n"
	"	push %rbp\n	push %rdi\n	push %rsi\n	push %rdx\n	push %rcx\n	push %rbx\n	push %r8\n	push %rsp\n"
	"	mov %rsp, %r15\n"
	"	sub $40, %rsp\n	movl $2, 8(%rsp)\n	xor %edi, %edi\n	mov %rsp, %rsi\n	mov $131, %eax\n	syscall\n"
	"	cmpl $0, 8(%rsp)\n	jne 1f\n	cmpl $0, 4(%rsp)\n	jne 1f\n	mov 16(%rsp), %rax\n	cmp $8192, %rax\n	jb 1f\n"
	"	add (%rsp), %rax\n	mov %rax, %rsp\n"
	"1:	and $-16, %rsp\n	mov %rsp, (%r15)\n	mov %r15, %rdi\n	call on_compat\n"
	".globl compat_exit\ncompat_exit:\n"
	"	cmpl $0, compat_deferred(%rip)\n	jne 2f\n"
	"	mov 16(%r15), %rbx\n	mov 24(%r15), %rcx\n	mov 32(%r15), %rdx\n	mov 40(%r15), %rsi\n"
	"	mov 48(%r15), %rdi\n	mov 56(%r15), %rbp\n	mov 64(%r15), %rax\n	lea 72(%r15), %rsp\n	iretq\n"
	".globl compat_end\ncompat_end:\n"
	"2:	mov (%r15), %rsp\n	mov %r15, %rdi\n	call compat_step_out\n	hlt\n");

/* The tracer restores the frame by itself. */
NORETURN void compat_step_out(const struct compat_frame *f);

void compat_step_out(const struct compat_frame *f)
{
	for (;;)
		step_out_of(f);
}

void on_compat(struct compat_frame *f);

void on_compat(struct compat_frame *f)
{
	unsigned long a[6] = { f->rbx, f->rcx, f->rdx, f->rsi, f->rdi, f->rbp };
	long nr = (int)f->nr;
	uint32_t action = filter_run_as(AUDIT_ARCH_I386, nr, a, f->rip), what = action & SECCOMP_RET_ACTION_FULL;
	long r = -ENOSYS;

	if (action == SECCOMP_RET_ALLOW || what == SECCOMP_RET_LOG)
		r = compat_answer(nr, a);
	else if (what == SECCOMP_RET_ERRNO)
		r = -(long)MIN(action & SECCOMP_RET_DATA, 4095);
	else if (what != SECCOMP_RET_TRACE && what != SECCOMP_RET_USER_NOTIF && self.every) /* else the kernel has done it */
		r = ((long (*)(long, const unsigned long *))OUTSIDE_I386)(nr, a);
	f->rax = (uint32_t)r;
	if (self.every)
		compat_step_out(f);
}

long compat_answer(long nr, const unsigned long a[6])
{
	const struct entry32 *e = nr >= 0 && nr < I386_CALLS ? &table32[nr] : NULL;
	struct call c = { .core = &self.core, .nr32 = nr };
	long r;

	if (!e || e->act == DENY_ENOSYS || (e->native <= 0 && !e->convert))
		return -ENOSYS;
	if (e->act == DENY_EPERM)
		return -EPERM;
	c.nr = e->native;
	for (int i = 0; i < 6; i++)
		c.a[i] = (uint32_t)a[i];
	c.w = slot_take();
	r = e->convert ? e->convert(&c) : trap_call(&c);
	slot_give(c.w);
	return r;
}

#define FIX(at, to) " .pushsection udk_fix, \"a\"\n .balign 8\n .quad " at ", " to "\n .popsection\n"
#define I386_GETPID 20
#define I386_MMAP2 192

static long guarded(long nr, unsigned long a, unsigned long b, unsigned long c, unsigned long d, long e)
{
	long r;

	__asm__ volatile("mov %%rbp, %%r12\n xor %%ebp, %%ebp\n1: int $0x80\n2: mov %%r12, %%rbp\n"
			 " .pushsection .text.fix, \"ax\"\n3: mov $-38, %%rax\n jmp 2b\n .popsection\n" FIX("1b", "3b")
			 : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "r8", "r9", "r10", "r11", "r12", "memory");
	return r;
}

long compat_place(size_t n)
{
	long r = (uint32_t)guarded(I386_MMAP2, 0, n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);

	if ((uint32_t)r > -4096U)
		return (int)r;
	return sys_munmap((void *)r, n) ? -ENOSYS : r;
}

bool compat_works(void)
{
	long r;

	if ((int)guarded(I386_GETPID, 0, 0, 0, 0, 0) != (int)sys_getpid())
		return false;
	r = (uint32_t)guarded(I386_MMAP2, 0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if ((uint32_t)r > -4096U || SC3(__NR_msync, r, 4096, 1 /* MS_ASYNC */))
		return false; /* an older kernel's: somewhere above, and cut off */
	sys_munmap((void *)r, 4096);
	return true;
}
#else
__asm__(".text\n.globl compat_entry\n.globl compat_exit\n.globl compat_end\ncompat_entry: compat_exit: compat_end: brk #1\n");
bool compat_works(void) { return false; }
long compat_place(size_t n) { (void)n; return -ENOSYS; }
#endif
