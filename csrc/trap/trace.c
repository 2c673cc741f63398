/* A guest that traces another: it must not see our signal, nor our loader.
 *
 * A tracee that makes a translated call stops with SIGSYS; the tracer's wait resumes it with the request it was last
 * resumed with, and waits on. After an execve a tracee stops at the loader's first instruction, where nothing of
 * the program is there yet; it is let run until the loader is done (a word in the loader's memory asks it to stop
 * then), so that auxiliary vector and maps are the program's when the tracer looks.
 */
#include "trap/trap.h"

#define TRACES 64
#define PTRACE_TRACEME_ 0
#define PTRACE_POKEDATA_ 5
#define PTRACE_CONT_ 7
#define PTRACE_SINGLESTEP_ 9
#define PTRACE_SYSCALL_ 24
#define PTRACE_GETSIGINFO_ 0x4202
#define PTRACE_GETREGSET_ 0x4204
#if defined(__x86_64__)
#define PC_WORD 16
#else
#define PC_WORD 32
#endif
#define WALL 0x40000000
#define CLD_TRAPPED_ 4
#define SIGSYS_ 31
#define SIGTRAP_ 5

extern char _start[];

static struct { volatile int pid, request; } resumed[TRACES];

static long trace(long request, long pid, const void *addr, const void *data)
{
	return SC4(__NR_ptrace, request, pid, addr, data);
}

void trace_before_exec(void)
{
	if (since_fork.traced_at_exec && since_fork.traced_at_exec == (int)sys_getpid())
		trace(PTRACE_TRACEME_, 0, NULL, NULL);
}

long call_ptrace(struct call *c)
{
	long request = (long)c->a[0], r;
	unsigned i = (unsigned)c->a[1] % TRACES;

	/* A vfork child would stop at its next trap, with its tracer waiting for its exec: it is traced from there. */
	if (request == PTRACE_TRACEME_ && !own_memory()) {
		since_fork.traced_at_exec = (int)sys_getpid();
		return 0;
	}
	r = call_raw(c);

	if (!r && (request == PTRACE_CONT_ || request == PTRACE_SYSCALL_ || request == PTRACE_SINGLESTEP_)) {
		resumed[i].pid = (int)c->a[1];
		resumed[i].request = (int)request;
	}
	return r;
}

static bool stopped_by_us(int pid)
{
	struct info info;

	return !trace(PTRACE_GETSIGINFO_, pid, NULL, &info) && info.code == SYS_SECCOMP_ && (info.error & 0xffff) == TRAP_MAGIC;
}

static void go_on(int pid)
{
	unsigned i = (unsigned)pid % TRACES;

	trace(resumed[i].pid == pid ? resumed[i].request : PTRACE_CONT_, pid, NULL, (void *)SIGSYS_);
}

static void to_the_programs_entry(int pid)
{
	unsigned long regs[34]; /* both machines' user_regs_struct, as NT_PRSTATUS */
	struct { void *at; size_t n; } to = { regs, sizeof regs };
	int status;
	long r;

	if (trace(PTRACE_GETREGSET_, pid, (void *)1, &to) || regs[PC_WORD] != (unsigned long)_start)
		return;
	if (trace(PTRACE_POKEDATA_, pid, (void *)&self.stop_before_entry, (void *)1))
		return;
	if (trace(PTRACE_CONT_, pid, NULL, NULL))
		return;
	do
		r = SC4(__NR_wait4, pid, &status, WALL, NULL);
	while (r == -EINTR);
}

/* What to do with a stop: true when the waiter must not hear of it. */
static bool hide_stop(int pid, int signal)
{
	if (signal == SIGSYS_ && stopped_by_us(pid)) {
		go_on(pid);
		return true;
	}
	if (signal == SIGTRAP_)
		to_the_programs_entry(pid);
	return false;
}

long call_wait4(struct call *c)
{
	int status;
	long r;

	for (;;) {
		r = SC4(__NR_wait4, c->a[0], c->a[1] ? &status : NULL, c->a[2], c->a[3]);
		if (r <= 0 || !c->a[1] || !WIFSTOPPED(status) || !hide_stop((int)r, WSTOPSIG(status)))
			break;
	}
	if (r > 0 && c->a[1] && guest_write((void *)c->a[1], &status, sizeof status))
		return -EFAULT;
	return r;
}

long call_waitid(struct call *c)
{
	struct { int signo, error, code, pad, pid, uid, status; } info;
	long r;

	for (;;) {
		r = call_raw(c);
		if (!r && c->a[2])
			show_sender(c, c->a[2]);
		if (r || !c->a[2] || guest_read(&info, (void *)c->a[2], sizeof info) || info.code != CLD_TRAPPED_)
			return r;
		if (c->a[3] & 0x01000000 /* WNOWAIT */) {
			if ((info.status & 0x7f) != SIGSYS_ || !stopped_by_us(info.pid))
				return r;
			/* It must be taken before it can be resumed. */
			SC5(__NR_waitid, 1 /* P_PID */, info.pid, NULL, 2 | WALL, NULL);
		}
		if (!hide_stop(info.pid, info.status & 0x7f))
			return r;
	}
}
