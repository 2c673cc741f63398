/* What the tracer's files share. */
#ifndef UDK_TRACER_H
#define UDK_TRACER_H

#include "ptrace/ptrace.h"

#include <linux/elf.h>
#include <linux/ptrace.h>

#define TRACE_OPTIONS                                                                                                  \
	(PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACESECCOMP)
#define WALL 0x40000000
#define MOST_PIDS (1 << 22) /* of any kernel */

#if defined(__x86_64__)
struct registers { /* user_regs_struct */
	unsigned long r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, orig_rax, rip, cs, flags, rsp,
		ss, fs_base, gs_base, ds, es, fs, gs;
};
#define PC(r) ((r)->rip)
#define NUMBER(r) ((long)(r)->orig_rax)
#else
struct registers { /* user_pt_regs */
	unsigned long x[31], sp, pc, pstate;
};
#define PC(r) ((r)->pc)
#define NUMBER(r) ((int)(r)->x[8])
#endif

extern volatile int *every; /* P2 */
extern uint8_t *inside;     /* by tid: is it between entry and exit of a call? */
#define REFUSED 0x80        /* and a 32-bit one that is refused; the rest is the error */

void go(int pid, int sig); /* on with the guest's code */

static inline long trace(long request, int pid, unsigned long addr, const void *data)
{
	return SC4(__NR_ptrace, request, pid, addr, data);
}

/* How much of the registers there is, or -errno. aarch64: less for a 32-bit program; x86_64: all there are, always. */
static inline long get_registers(int pid, struct registers *r)
{
#if defined(__x86_64__)
	long error = trace(PTRACE_GETREGS, pid, 0, r);

	return error ? error : (long)sizeof *r;
#else
	struct { void *at; size_t n; } to = { r, sizeof *r };
	long error = trace(PTRACE_GETREGSET, pid, NT_PRSTATUS, &to);

	return error ? error : (long)to.n;
#endif
}

static inline void set_registers(int pid, const struct registers *r)
{
#if defined(__x86_64__)
	trace(PTRACE_SETREGS, pid, 0, r);
#else
	struct { const void *at; size_t n; } from = { r, sizeof *r };

	trace(PTRACE_SETREGSET, pid, NT_PRSTATUS, &from);
#endif
}

static inline bool in_text(unsigned long pc)
{
	return pc - ENGINE_BASE < TEXT_SIZE || pc - OUTSIDE < 4096;
}

/* ---- tracer_i386.c: 32-bit programs. Elsewhere there are none. ------------------------------------------ */

#if defined(__x86_64__)
bool compat_start(void);
bool compat_seccomp_stop(int pid, struct registers *r); /* true: the stop was that of a 32-bit call, and is served */
bool compat_syscall_stop(int pid, struct registers *r, uint32_t action);
void compat_refused(int pid); /* at its exit */
bool in_compat(int pid);
/* The thread is at the end of the handler: it goes on behind its call. */
void compat_leave(int pid, unsigned long frame);
/* A signal for a thread that is in the handler for a 32-bit program: true when it has to wait. */
bool compat_defer(int pid, int sig);
/* Until there is something to wait for. A thread whose signal was kept may have gone to sleep in the kernel since. */
void compat_wait(void);
bool compat_interrupted(int pid); /* true: for that reason, and it was sent on */
void compat_exec(int pid); /* the handler executed another program */
void compat_gone(int pid);
#else
static inline bool compat_start(void) { return true; }
static inline bool compat_seccomp_stop(int pid, struct registers *r) { (void)pid, (void)r; return false; }
static inline bool compat_syscall_stop(int pid, struct registers *r, uint32_t action) { (void)pid, (void)r, (void)action; return false; }
static inline void compat_refused(int pid) { (void)pid; }
static inline bool in_compat(int pid) { (void)pid; return false; }
static inline void compat_leave(int pid, unsigned long frame) { (void)pid, (void)frame; }
static inline bool compat_defer(int pid, int sig) { (void)pid, (void)sig; return false; }
static inline void compat_wait(void) {}
static inline bool compat_interrupted(int pid) { (void)pid; return false; }
static inline void compat_exec(int pid) { go(pid, 0); }
static inline void compat_gone(int pid) { (void)pid; }
#endif

#endif
