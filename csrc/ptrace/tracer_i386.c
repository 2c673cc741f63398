/* The tracer's part in the calls of 32-bit programs.
 *
 * It sends a thread to the handler by changing its code segment, too. Coming back, and signals on the way, are the
 * difference: the kernel would make a signal's frame for 32-bit code, which cannot hold where a thread in the handler
 * is. So such a signal is kept here until the thread is out; what the handler waits for is interrupted, and whether
 * the guest's call is then made once more is the kernel's to say, as ever.
 */
#include "ptrace/i386.h"
#include "ptrace/tracer.h"

#include <linux/seccomp.h>

#if defined(__x86_64__)
#define HARMLESS_I386 20 /* getpid, see tracer.c */
#define CODE64 0x33      /* the code segment of 64-bit programs */
#ifndef PTRACE_GETSIGMASK
#define PTRACE_GETSIGMASK 0x420a
#define PTRACE_SETSIGMASK 0x420b
#endif
/* Errors by which the kernel says that a call is to be made again; the last: by another call. */
#define FIRST_RESTART 512
#define LAST_RESTART 516

static uint8_t *compat; /* by tid: it was last sent to the handler by a 32-bit call */

struct deferred { /* one for a thread: it has other signals blocked */
	int pid;   /* 0: free */
	int error; /* by which the kernel was about to restart the call, or 0 */
	sigmask mask;
	char info[128];
};
#define MOST_DEFERRED 4096
static struct deferred *deferred;
static int n_deferred, deferred_end; /* how many, and where they end */

bool compat_start(void)
{
	const int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

	compat = sys_mmap(NULL, MOST_PIDS, PROT_READ | PROT_WRITE, how, -1, 0);
	deferred = sys_mmap(NULL, MOST_DEFERRED * sizeof *deferred, PROT_READ | PROT_WRITE, how, -1, 0);
	return !is_error((long)compat) && !is_error((long)deferred);
}

bool in_compat(int pid)
{
	return compat[pid];
}

/* ---- calls ---------------------------------------------------------------------------------------------- */

static void redirect(int pid, struct registers *r)
{
	r->r8 = r->orig_rax;
	r->r9 = (uint32_t)r->rip;
	r->r10 = r->rsp = (uint32_t)r->rsp;
	r->r11 = r->flags;
	r->r12 = r->cs;
	r->r13 = r->ss;
	r->rip = (unsigned long)compat_entry;
	r->cs = CODE64;
	r->orig_rax = *every ? HARMLESS_I386 : -1UL;
	set_registers(pid, r);
	inside[pid] = 0;
	compat[pid] = 1;
	trace(PTRACE_CONT, pid, 0, NULL);
}

bool compat_seccomp_stop(int pid, struct registers *r)
{
	unsigned long data = TRAP_MAGIC;

	if (r->cs != CODE64) {
		redirect(pid, r);
		return true;
	}
	compat[pid] = 0;
	if (!(r->rip >> 32)) /* above, the filter has refused it */
		trace(PTRACE_GETEVENTMSG, pid, 0, &data);
	if (data != TRAP_MAGIC_I386)
		return false;
	r->orig_rax = -1UL; /* int 0x80 in 64-bit code */
	r->rax = (unsigned long)-(long)ENOSYS;
	set_registers(pid, r);
	trace(PTRACE_CONT, pid, 0, NULL);
	return true;
}

bool compat_syscall_stop(int pid, struct registers *r, uint32_t action)
{
	bool refused = (action & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_ERRNO;

	if (!refused && r->cs != CODE64) {
		redirect(pid, r);
		return true;
	}
	r->orig_rax = HARMLESS_I386;
	set_registers(pid, r);
	inside[pid] = (uint8_t)(REFUSED | (refused ? action & 0x7f : ENOSYS));
	trace(PTRACE_SYSCALL, pid, 0, NULL);
	return true;
}

void compat_refused(int pid)
{
	struct registers r;

	if (get_registers(pid, &r) <= 0)
		return;
	r.rax = (unsigned long)-(long)(inside[pid] & ~REFUSED);
	set_registers(pid, &r);
}

/* ---- signals -------------------------------------------------------------------------------------------- */

static struct deferred *deferred_of(int pid)
{
	for (int i = 0; n_deferred && i < deferred_end; i++)
		if (deferred[i].pid == pid)
			return &deferred[i];
	return NULL;
}

static void forget(struct deferred *d)
{
	d->pid = 0;
	if (!--n_deferred)
		deferred_end = 0;
}

static bool read_memory(int pid, unsigned long at, void *to, size_t n)
{
	for (size_t i = 0; i < n; i += sizeof(long))
		if (trace(PTRACE_PEEKDATA, pid, at + i, (char *)to + i))
			return false;
	return true;
}

void compat_leave(int pid, unsigned long frame)
{
	struct deferred *d = deferred_of(pid);
	struct compat_frame f;
	struct registers r;
	int sig = 0;

	compat[pid] = 0;
	if (!read_memory(pid, frame, &f, sizeof f) || get_registers(pid, &r) <= 0) {
		go(pid, SIGSEGV);
		return;
	}
	r.rbx = f.rbx, r.rcx = f.rcx, r.rdx = f.rdx, r.rsi = f.rsi, r.rdi = f.rdi, r.rbp = f.rbp, r.rip = f.rip, r.cs = f.cs;
	r.flags = f.flags, r.rsp = f.rsp, r.ss = f.ss, r.rax = (unsigned long)(int)f.rax, r.orig_rax = -1UL;
	if (d) {
		if (d->error && (int)f.rax == -EINTR) { /* whether the call is made again is the kernel's to say */
			r.rax = (unsigned long)(long)d->error;
			r.orig_rax = f.nr;
		}
		memcpy(&sig, d->info, sizeof sig);
		trace(PTRACE_SETSIGMASK, pid, sizeof d->mask, &d->mask);
		trace(PTRACE_SETSIGINFO, pid, 0, d->info);
		forget(d);
		if (!n_deferred)
			trace(PTRACE_POKEDATA, pid, (unsigned long)&compat_deferred, NULL);
		trace(PTRACE_SETOPTIONS, pid, 0, (void *)(TRACE_OPTIONS | PTRACE_O_EXITKILL));
	}
	set_registers(pid, &r);
	go(pid, sig);
}

void compat_exec(int pid)
{
	unsigned long former = (unsigned long)pid; /* thread, which has the process's id now */
	struct deferred *d;
	int sig;

	trace(PTRACE_GETEVENTMSG, pid, 0, &former);
	d = deferred_of((int)former);
	if (d) {
		memcpy(&sig, d->info, sizeof sig);
		trace(PTRACE_SETSIGMASK, pid, sizeof d->mask, &d->mask);
		forget(d);
		SC2(__NR_tkill, pid, sig);
	}
	trace(PTRACE_SETOPTIONS, pid, 0, (void *)(TRACE_OPTIONS | PTRACE_O_EXITKILL));
	compat[pid] = 0;
	trace(PTRACE_CONT, pid, 0, NULL);
}

/* The handler's call that was interrupted is not made again, whatever the kernel was about to do. */
static void end_sleep(int pid, struct deferred *d, struct registers *r)
{
	if ((long)r->orig_rax < 0 || (int)r->rax > -FIRST_RESTART || (int)r->rax < -LAST_RESTART)
		return;
	d->error = (int)r->rax == -LAST_RESTART ? 0 : (int)r->rax;
	r->rax = (unsigned long)-(long)EINTR;
	r->orig_rax = -1UL;
	set_registers(pid, r);
}

#define PATIENCE 3000000 /* ns: a thread is out of the handler long before, if it does not sleep */

void compat_wait(void)
{
	const ktimespec patience = { 0, PATIENCE };
	const sigmask child = SIGBIT(SIGCHLD);
	siginfo_t info;

	while (n_deferred) {
		memset(&info, 0, sizeof info);
		if (SC5(__NR_waitid, 0 /* P_ALL */, 0, &info, WALL | WNOHANG | WNOWAIT | 4 /* WEXITED */ | 2 /* WSTOPPED */, NULL) || info.si_signo)
			return;
		if (sys_sigtimedwait(&child, NULL, &patience) != -EAGAIN)
			continue;
		for (int i = 0; i < deferred_end; i++)
			if (deferred[i].pid)
				trace(PTRACE_INTERRUPT, deferred[i].pid, 0, NULL);
	}
}

bool compat_interrupted(int pid)
{
	struct deferred *d = deferred_of(pid);
	struct registers r;

	if (!d || get_registers(pid, &r) <= 0)
		return false;
	end_sleep(pid, d, &r);
	trace(PTRACE_CONT, pid, 0, NULL);
	return true;
}

bool compat_defer(int pid, int sig)
{
	const sigmask faults = SIGBIT(SIGSEGV) | SIGBIT(SIGBUS) | SIGBIT(SIGILL) | SIGBIT(SIGFPE) | SIGBIT(SIGTRAP) | SIGBIT(SIGSYS);
	sigmask most = ALL_SIGNALS & ~faults;
	struct registers r;
	struct deferred *d;
	int i = 0;

	if (!compat[pid] || sig == SIGSTOP || get_registers(pid, &r) <= 0)
		return false;
	if (r.cs != CODE64 || r.rsp >> 32 || !in_text(r.rip)) { /* the loader is on a stack above */
		compat[pid] = 0;
		return false;
	}
	while (i < MOST_DEFERRED && deferred[i].pid)
		i++;
	if (i == MOST_DEFERRED || deferred_of(pid))
		return false;
	d = &deferred[i];
	if (trace(PTRACE_GETSIGINFO, pid, 0, d->info) || trace(PTRACE_GETSIGMASK, pid, sizeof d->mask, &d->mask))
		return false;
	d->pid = pid;
	d->error = 0;
	n_deferred++;
	deferred_end = MAX(deferred_end, i + 1);
	if (r.rip >= (unsigned long)compat_exit && r.rip < (unsigned long)compat_end) {
		compat_leave(pid, r.r15);
		return true;
	}
	end_sleep(pid, d, &r);
	trace(PTRACE_SETSIGMASK, pid, sizeof most, &most);
	trace(PTRACE_POKEDATA, pid, (unsigned long)&compat_deferred, (void *)1);
	trace(PTRACE_SETOPTIONS, pid, 0, (void *)(TRACE_OPTIONS | PTRACE_O_EXITKILL | PTRACE_O_TRACEEXEC));
	trace(PTRACE_CONT, pid, 0, NULL);
	return true;
}

void compat_gone(int pid)
{
	struct deferred *d = deferred_of(pid);

	if (d)
		forget(d);
}
#endif
