/* The tracer: a process that serves the stops of a container's processes.
 *
 * It keeps nothing about them but whether a thread is between entry and exit of a call (P2).
 * It is no one's parent and no one's child inside: it is in a session of its own, blocks all signals, has no
 * descriptors, and ends when its last tracee has. When it is killed the kernel kills them all.
 */
#include "ptrace/tracer.h"

#include <linux/audit.h>
#include <linux/seccomp.h>

#ifndef PTRACE_GET_SYSCALL_INFO
#define PTRACE_GET_SYSCALL_INFO 0x420e
#endif

#define ANY_TRACER (-1L)
#ifndef PR_SET_PTRACER
#define PR_SET_PTRACER 0x59616d61
#endif
#define HARMLESS __NR_getpid /* a call that any filter allows, in place of one that is not to be made */
#ifndef NT_ARM_SYSTEM_CALL
#define NT_ARM_SYSTEM_CALL 0x404
#endif

struct syscall_info {
	uint8_t op, pad[3];
	uint32_t arch;
	uint64_t ip, sp, nr, args[6], data;
};
enum { OP_ENTRY = 1 };

volatile int *every; /* P2; set by the first tracee */
static bool old_kernel; /* without PTRACE_GET_SYSCALL_INFO: before 5.3 */
uint8_t *inside;

void go(int pid, int sig)
{
	inside[pid] = 0;
	trace(*every ? PTRACE_SYSCALL : PTRACE_CONT, pid, 0, (void *)(long)sig);
}

/* ---- calls -------------------------------------------------------------------------------------------- */

/* Instead of its call the thread runs the code at `to`. P2: other filters, of whoever started us, judge the number that
 * is there. */
#if defined(__x86_64__)
static void redirect(int pid, struct registers *r, const char *to, long word)
{
	r->rcx = r->rip;
	r->r11 = (unsigned long)word;
	r->rip = (unsigned long)to;
	r->orig_rax = *every ? HARMLESS : -1UL;
	set_registers(pid, r);
	inside[pid] = to == traced_error; /* then getpid has an exit */
	trace(to == traced_error ? PTRACE_SYSCALL : PTRACE_CONT, pid, 0, NULL);
}
#else
static void redirect(int pid, struct registers *r, const char *to, long word)
{
	const unsigned long words[4] = { r->pc, r->pstate, r->x[0] /* getpid's result comes there */, to == traced_error ? (unsigned long)word : 0 };
	int number = *every ? HARMLESS : -1;
	const struct kiovec from = { &number, sizeof number }, here = { (void *)(uintptr_t)words, sizeof words };
	const struct kiovec there = { (void *)(r->sp - sizeof words), sizeof words };

	r->sp -= sizeof words; /* where that is no memory the thread faults there by itself */
	if (SC6(__NR_process_vm_writev, pid, &here, 1, &there, 1, 0) != sizeof words)
		for (size_t i = 0; i < ARRAY_LEN(words); i++)
			trace(PTRACE_POKEDATA, pid, r->sp + i * sizeof words[0], (const void *)words[i]);
	r->pc = (unsigned long)to;
	set_registers(pid, r);
	trace(PTRACE_SETREGSET, pid, NT_ARM_SYSTEM_CALL, &from);
	inside[pid] = 0;
	trace(PTRACE_CONT, pid, 0, NULL);
}
#endif

static void seccomp_stop(int pid)
{
	struct registers r;

	if (get_registers(pid, &r) > 0 && !compat_seccomp_stop(pid, &r))
		redirect(pid, &r, traced_entry, NUMBER(&r));
}

/* What PTRACE_GET_SYSCALL_INFO would have said. */
static bool find_out(int pid, struct syscall_info *i, struct registers *r)
{
	long code = 0, n = get_registers(pid, r);

	if (n <= 0)
		return false;
	i->ip = PC(r);
	i->nr = (uint64_t)NUMBER(r);
#if defined(__x86_64__)
	i->args[0] = r->rdi, i->args[1] = r->rsi, i->args[2] = r->rdx, i->args[3] = r->r10, i->args[4] = r->r8, i->args[5] = r->r9;
	i->arch = AUDIT_ARCH_X86_64;
	if (r->cs == 0x23 || (!trace(PTRACE_PEEKTEXT, pid, r->rip - 2, &code) && (code & 0xffff) == 0x80cd))
		i->arch = AUDIT_ARCH_I386;
#else
	for (int k = 0; k < 6; k++)
		i->args[k] = r->x[k];
	i->arch = n < (long)sizeof *r ? AUDIT_ARCH_ARM : AUDIT_ARCH_AARCH64;
	(void)code;
#endif
	return true;
}

static void syscall_stop(int pid)
{
	struct registers r;
	struct syscall_info i = { .op = OP_ENTRY };
	struct seccomp_data d;
	uint32_t action;
	long n;

	if (inside[pid]) {
		if (inside[pid] & REFUSED)
			compat_refused(pid);
		inside[pid] = 0;
		trace(PTRACE_SYSCALL, pid, 0, NULL);
		return;
	}
	n = old_kernel ? 0 : trace(PTRACE_GET_SYSCALL_INFO, pid, sizeof i, &i);
	if (n == -ESRCH)
		return;
	if (n <= 0) {
		old_kernel = true;
		if (!find_out(pid, &i, &r))
			return;
	}
	inside[pid] = i.op == OP_ENTRY;
	if (i.op == OP_ENTRY && !in_text(i.ip)) {
		d = (struct seccomp_data){ .nr = (int)i.nr, .arch = i.arch, .instruction_pointer = i.ip };
		for (int k = 0; k < 6; k++)
			d.args[k] = i.args[k];
		action = filter_judge(&d);
		if (action != SECCOMP_RET_ALLOW && (old_kernel || get_registers(pid, &r) > 0)) {
			bool refused = (action & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_ERRNO;

			if (i.arch == AUDIT_ARCH_I386 && compat_syscall_stop(pid, &r, action))
				return;
			redirect(pid, &r, refused ? traced_error : traced_entry, refused ? -(long)(action & SECCOMP_RET_DATA) : (long)i.nr);
			return;
		}
	}
	trace(PTRACE_SYSCALL, pid, 0, NULL);
}

/* ---- signals ------------------------------------------------------------------------------------------ */

/* Takes the thread's word for it: it is sent on here, or by the caller. */
static bool is_step_out(int pid, bool *sent)
{
	struct stepping info;

	if (trace(PTRACE_GETSIGINFO, pid, 0, &info) || info.code != STEP_OUT_CODE)
		return false;
	*sent = info.frame != NULL;
	if (*sent)
		compat_leave(pid, (unsigned long)info.frame);
	else
		trace(PTRACE_POKEDATA, pid, (unsigned long)info.value, (void *)1);
	return true;
}

/* A fault of the handler's on the guest's memory: it goes on behind it, and answers EFAULT. */
static bool is_ours(int pid)
{
	struct registers r;
	unsigned long fix;

	if (get_registers(pid, &r) <= 0)
		return false;
	fix = in_text(PC(&r)) ? fault_fix(PC(&r)) : 0;
	if (!fix)
		return false;
	PC(&r) = fix;
	set_registers(pid, &r);
	trace(PTRACE_CONT, pid, 0, NULL);
	return true;
}

static void signal_stop(int pid, int sig)
{
	bool sent = false;

	if ((sig == SIGSEGV || sig == SIGBUS) && is_ours(pid))
		return;
	if (sig == SIGSTOP && (*every || in_compat(pid)) && is_step_out(pid, &sent))
		sig = 0;
	if (!sent && !(sig && compat_defer(pid, sig)))
		go(pid, sig);
}

static bool stops_groups(int sig)
{
	return sig == SIGSTOP || sig == SIGTSTP || sig == SIGTTIN || sig == SIGTTOU;
}

/* Serves the stops of all tracees until there are none. */
NORETURN static void tracer_loop(void)
{
	for (;;) {
		int status, sig;
		long pid;

		compat_wait();
		pid = SC4(__NR_wait4, -1, &status, WALL, NULL);
		if (pid == -ECHILD)
			sys_exit(0);
		if (pid > 0 && !WIFSTOPPED(status))
			compat_gone((int)pid);
		if (pid <= 0 || !WIFSTOPPED(status))
			continue;
		sig = WSTOPSIG(status);
		switch (status >> 16) {
		case PTRACE_EVENT_SECCOMP:
			seccomp_stop((int)pid);
			break;
		case PTRACE_EVENT_STOP:
			if (stops_groups(sig)) { /* stays stopped until somebody sends SIGCONT */
				trace(PTRACE_LISTEN, (int)pid, 0, NULL);
				break;
			}
			if (!compat_interrupted((int)pid))
				go((int)pid, 0);
			break;
		case PTRACE_EVENT_EXEC:
			compat_exec((int)pid);
			break;
		case 0:
			if (sig == (SIGTRAP | 0x80))
				syscall_stop((int)pid);
			else
				signal_stop((int)pid, sig);
			break;
		default: /* a new process or thread: it is ours already */
			trace(*every ? PTRACE_SYSCALL : PTRACE_CONT, (int)pid, 0, NULL);
		}
	}
}

/* ---- start -------------------------------------------------------------------------------------------- */

NORETURN static void become_tracer(int pid, int answer)
{
	sigmask all = ALL_SIGNALS;
	long r;

	sys_sigprocmask(2 /* SIG_SETMASK */, &all, NULL);
	sys_setsid();
	inside = sys_mmap(NULL, MOST_PIDS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	r = is_error((long)inside) || !compat_start() ? -ENOMEM : trace(PTRACE_SEIZE, pid, 0, (void *)(TRACE_OPTIONS | PTRACE_O_EXITKILL));
	sys_write(answer, &r, sizeof r);
	if (r)
		sys_exit(1);
	if (sys_close_range(0, ~0U, 0) < 0)
		for (int fd = 0; fd < 4096; fd++)
			sys_close(fd);
	sys_chdir("/");
	sys_prctl(4 /* PR_SET_DUMPABLE */, 0, 0, 0, 0); /* no tracee does anything through a process without a filter */
	sys_prctl(15 /* PR_SET_NAME */, (unsigned long)"udk-tracer", 0, 0, 0);
	tracer_loop();
}

/* The process between is there so that the tracer is not our child: the program that runs here later waits for its
 * own children only. */
long tracer_start(volatile int **flag)
{
	int ends[2], me = (int)sys_getpid(), status;
	long r, between;

	every = sys_mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (is_error((long)every))
		return (long)every;
	*flag = every;
	r = sys_pipe2(ends, O_CLOEXEC);
	if (r)
		return r;
	sys_prctl(PR_SET_PTRACER, (unsigned long)ANY_TRACER, 0, 0, 0); /* for Yama */
	between = sys_fork();
	if (between == 0) {
		if (sys_fork() == 0)
			become_tracer(me, ends[1]);
		sys_exit(0);
	}
	sys_close(ends[1]);
	if (between > 0) {
		while (SC4(__NR_wait4, between, &status, WALL, NULL) == -EINTR)
			;
		if (read_full(ends[0], &r, sizeof r) != sizeof r)
			r = -EPERM;
	} else {
		r = between;
	}
	sys_prctl(PR_SET_PTRACER, 0, 0, 0, 0);
	sys_close(ends[0]);
	return r;
}
